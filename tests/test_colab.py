"""Every notebook runs on Colab's versions: an empty folder, the package from its wheel, google.colab imported.

This emulates the kernel of Colab, not its front end. `python course.py test` makes the
environment (.venv-colab); pytest alone does not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_notebook

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-colab" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = re.search(r'Repository = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")).group(1)

if not PYTHON.exists() and os.environ.get("GRADFLOW_COLAB") != "required":
    pytest.skip("SKIPPED: THE COLAB EMULATION. It runs under `python course.py test`", allow_module_level=True)

STUB = """
class _CustomWidgetManager:
    pass
def enable_custom_widget_manager():
    raise RuntimeError("the course must work with Colab's own widget manager")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package's wheel, built from a copy so that nothing is left in the repository."""
    home = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(ROOT / "gradflow_utils", home / "source" / "gradflow_utils").parent
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    call = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(home), str(copy)]
    subprocess.run(call, check=True, capture_output=True)
    return next(home.glob("*.whl"))


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """The environment variables of a kernel into which google.colab is imported when it starts."""
    home = tmp_path_factory.mktemp("colab")
    (home / "google" / "colab" / "output").mkdir(parents=True)
    (home / "google" / "colab" / "__init__.py").write_text("from google.colab import output\n")
    (home / "google" / "colab" / "output" / "__init__.py").write_text(STUB)
    startup = home / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("import google.colab\n")
    return {**os.environ, "PYTHONPATH": str(home), "IPYTHONDIR": str(home / "ipython"), "PYTHONNOUSERSITE": "1"}


def with_package(colab, wheel, folder):
    """The same with the wheel installed into `folder`."""
    call = [PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(call, check=True, capture_output=True)
    return {**colab, "PYTHONPATH": os.pathsep.join([str(folder), colab["PYTHONPATH"]])}


def run_notebook(folder, environment):
    """Run the notebooks of a folder in strict nbval with Colab's versions; return pytest's report."""
    shutil.copy(ROOT / "tests" / "nbval_sanitize.cfg", folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    call = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", "--nbval", "--nbval-current-env"]
    call += ["--nbval-cell-timeout=60", "--nbval-sanitize-with=nbval_sanitize.cfg", "."]
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_on_colabs_versions(path, colab, wheel, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(path, folder)
    run = run_notebook(folder, with_package(colab, wheel, tmp_path / "site"))
    assert run.returncode == 0, run.stdout + run.stderr


def setup_notebook(tmp_path):
    """A folder with a notebook that holds the set-up cell alone, not yet executed."""
    lesson = nbformat.read(NOTEBOOKS[0], as_version=4)
    cell = next(cell for cell in lesson.cells if cell.cell_type == "code")
    cell.execution_count, cell.outputs = None, []
    folder = tmp_path / "empty"
    folder.mkdir()
    nbformat.write(new_notebook(cells=[cell]), folder / "setup.ipynb")
    return folder


def test_the_versions_are_colabs(colab):
    code = "import sys, IPython, ipywidgets, matplotlib; print(IPython.__version__, ipywidgets.__version__, matplotlib.__version__)"
    run = subprocess.run([PYTHON, "-c", code], env=colab, capture_output=True, text=True)
    assert run.stdout.split() == ["7.34.0", "7.7.1", "3.10.0"], run.stderr


def test_installing_the_package_on_colab_adds_it_alone(colab, wheel, tmp_path):
    """Everything that the package needs is there in a version that serves: nothing is upgraded."""
    report = tmp_path / "report.json"
    call = [PYTHON, "-m", "pip", "install", "--dry-run", "--no-index", "--report", str(report), str(wheel)]
    run = subprocess.run(call, env=colab, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [entry["metadata"]["name"] for entry in json.loads(report.read_text())["install"]] == ["gradflow-utils"]


def test_the_setup_cell_installs_the_package_from_the_repository(colab, tmp_path):
    """The real cell, with the repository's address led to a copy of this folder; nothing leaves the machine."""
    source = tmp_path / "repository"
    shutil.copytree(ROOT / "gradflow_utils", source / "gradflow_utils")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message=copy"]):
        subprocess.run(["git", *arguments], cwd=source, check=True, capture_output=True)
    site = tmp_path / "site"
    site.mkdir()
    environment = {
        **colab,
        "PYTHONPATH": os.pathsep.join([str(site), colab["PYTHONPATH"]]),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{source.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
        "PIP_TARGET": str(site),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as "do not isolate"
    }
    run = run_notebook(setup_notebook(tmp_path), environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (site / "gradflow_utils" / "__init__.py").exists()


def test_the_setup_cell_does_nothing_elsewhere(tmp_path):
    """Without google.colab it must not call pip, even if the package is missing."""
    called = tmp_path / "called"
    (tmp_path / "pip.py").write_text(f"open({str(called)!r}, 'w')")  # what %pip would run
    run = run_notebook(setup_notebook(tmp_path), {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONNOUSERSITE": "1"})
    assert "No module named 'gradflow_utils'" in run.stdout
    assert not called.exists()
