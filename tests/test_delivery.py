"""The repository hangs together: set-up, dependencies, README, addresses."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture
def course():
    """course.py as a module of its own, so that a test may change its paths."""
    spec = importlib.util.spec_from_file_location("course_under_test", ROOT / "course.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Dependencies


def test_environment_yml_takes_its_dependencies_from_pyproject(course):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, through_pip = environment["dependencies"]
    assert pip == "pip"
    (oldest, newest) = course.PYTHONS
    assert python == f"python>={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
    assert f'requires-python = ">={oldest[0]}.{oldest[1]}"' in PROJECT
    assert through_pip == {
        "pip": [f"--extra-index-url {course.TORCH_CPU_INDEX}", "--constraint constraints.txt", "--editable .[lab,test]"]
    }
    for extra in ("lab", "test"):
        assert re.search(rf"(?m)^{extra} = \[", PROJECT)


def test_constraints_pin_every_dependency_and_lie_within_its_range():
    from packaging.requirements import Requirement

    pins = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8")))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    declared = [Requirement(line) for line in metadata.requires("gradflow-utils")]
    assert len(declared) > 10
    for requirement in declared:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert pins[name] in requirement.specifier, f"{name} {pins[name]} is not in {requirement.specifier}"


def test_the_oldest_versions_are_the_floors_of_pyproject(course, monkeypatch):
    calls = []
    monkeypatch.setattr(course, "ensure", lambda *arguments: calls.append(arguments))
    course.environment("oldest")
    floors = [entry for entry in calls[0][1] if "==" in entry]
    assert "torch==2.4.*" in floors and "ipywidgets==7.7.*" in floors
    declared = re.search(r"(?s)\ndependencies = \[(.*?)\n\]", PROJECT).group(1)
    assert len(floors) == declared.count(">=")


# Set-up


@pytest.fixture
def setting_up(course, monkeypatch, tmp_path):
    """course.ensure in an empty folder, with the calls to venv and pip recorded instead of made."""
    source = tmp_path / "source.txt"
    source.write_text("1")
    calls = []
    results = {"venv": 0, "pip": 0}

    def call(command, **options):
        calls.append(command)
        if command[2] == "venv":
            python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
            python.parent.mkdir(parents=True)  # as in life, this is there even if venv fails later
            python.touch()
        return results[command[2]]

    monkeypatch.setattr(course, "ROOT", tmp_path)
    monkeypatch.setattr(course, "pip_has_sources", lambda python: False)
    monkeypatch.setattr(course.subprocess, "call", call)
    return lambda: course.ensure("env", ["a"], [source]), source, calls, results


def made(calls):
    return [command[2] for command in calls]


def test_the_environment_is_made_once_and_updated_when_its_sources_change(setting_up):
    ensure, source, calls, _ = setting_up
    ensure()
    assert made(calls) == ["venv", "pip"]
    ensure()
    assert made(calls) == ["venv", "pip"]
    source.write_text("2")
    ensure()
    assert made(calls) == ["venv", "pip", "pip"]


def test_a_moved_environment_is_made_anew(setting_up):
    ensure, source, calls, _ = setting_up
    ensure()
    done = source.parent / "env" / "installed-from.txt"
    done.write_text("elsewhere" + done.read_text())
    ensure()
    assert made(calls) == ["venv", "pip", "venv", "pip"]


def test_an_environment_whose_python_is_gone_is_made_anew(setting_up):
    """As after an upgrade of the system's Python, to which the environment's was a link."""
    ensure, _, calls, _ = setting_up
    Path(ensure()).unlink()
    ensure()
    assert made(calls) == ["venv", "pip", "venv", "pip"]


def test_a_failed_installation_is_tried_again(setting_up):
    ensure, _, calls, results = setting_up
    results["pip"] = 1
    with pytest.raises(SystemExit, match="could not install"):
        ensure()
    results["pip"] = 0
    ensure()
    assert made(calls) == ["venv", "pip", "pip"]


def test_without_venv_the_remedy_is_named(setting_up):
    ensure, _, calls, results = setting_up
    results["venv"] = 1
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        ensure()
    results["venv"] = 0
    ensure()
    assert made(calls) == ["venv", "venv", "pip"]  # what the first left behind is not trusted


@pytest.mark.parametrize(
    "platform, configured, added", [("linux", False, True), ("linux", True, False), ("darwin", False, False), ("win32", False, False)]
)
def test_linux_gets_the_cpu_build_of_torch_unless_pip_is_configured(course, monkeypatch, setting_up, platform, configured, added):
    ensure, _, calls, _ = setting_up
    monkeypatch.setattr(course.sys, "platform", platform)
    monkeypatch.setattr(course, "pip_has_sources", lambda python: configured)
    ensure()
    assert (course.TORCH_CPU_INDEX in calls[-1]) == added


@pytest.mark.parametrize("here, supported", [((3, 9), False), ((3, 10), True), ((3, 13), True), ((3, 14), False)])
def test_an_unsupported_python_is_refused_with_a_remedy(course, monkeypatch, here, supported):
    monkeypatch.setattr(course.sys, "version_info", (*here, 0))
    monkeypatch.setattr(course.shutil, "which", lambda name: None)
    if supported:
        assert course.supported_python() == sys.executable
    else:
        with pytest.raises(SystemExit, match="needs 3.10 to 3.13. Install one of them and run course.py with it"):
            course.supported_python()


@pytest.fixture
def commands(course, monkeypatch, tmp_path):
    """What `lab` and `test` would run, with the environments taken as made."""
    ran = []
    monkeypatch.setattr(course, "ensure", lambda folder, install, sources: ran.append((folder, install)) or folder)
    monkeypatch.setattr(course, "run_in_place", lambda call: ran.append(call) or 0)
    monkeypatch.setattr(course.os, "chdir", lambda path: None)
    monkeypatch.setattr(course.os, "environ", dict(os.environ))
    monkeypatch.setattr(course.Path, "mkdir", lambda *arguments, **options: None)
    monkeypatch.setattr(course.Path, "write_text", lambda *arguments, **options: None)
    return ran


def test_lab_opens_notebook_00_in_the_locked_environment(course, commands):
    course.lab(["--port", "8899"])
    (folder, install), call = commands
    assert folder == ".venv" and install[-2:] == ["--constraint", str(ROOT / "constraints.txt")]
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in call and call[-2:] == ["--port", "8899"]
    assert course.os.environ["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_test_makes_both_environments_and_requires_the_colab_emulation(course, commands):
    course.test(["-k", "x"])
    assert [folder for folder, _ in commands[:2]] == [".venv", ".venv-colab"]
    assert commands[2] == [".venv", "-m", "pytest", "-k", "x"]
    assert course.os.environ["GRADFLOW_COLAB"] == "required"


def test_other_versions_are_tested_without_comparing_outputs(course, commands):
    course.test(["--versions", "newest"])
    assert commands[0] == (".venv-newest", ["--editable", ".[lab,test]"])
    assert commands[1][3:] == ["--nbval-lax", "--ignore=tests/test_colab.py"]


@pytest.mark.parametrize("variable, configured", [("PIP_INDEX_URL", True), ("PIP_FIND_LINKS", True), ("PIP_EXTRA_INDEX_URL", False)])
def test_sources_of_pip_are_recognised(course, monkeypatch, variable, configured):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # leaves out the files of this machine
    monkeypatch.setenv(variable, "somewhere")
    assert course.pip_has_sources(sys.executable) == configured


def test_course_without_a_command_explains_itself():
    run = subprocess.run([sys.executable, ROOT / "course.py"], capture_output=True, text=True)
    assert run.returncode == 0 and "open notebook 00 in JupyterLab" in run.stdout
    run = subprocess.run([sys.executable, ROOT / "course.py", "lba"], capture_output=True, text=True)
    assert run.returncode == 2 and "lab" in run.stdout


def test_ci_runs_the_test_command_of_the_readme():
    assert "`make test`" in README
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test"
    assert "$(PYTHON) course.py test $(ARGS)" in (ROOT / "Makefile").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    assert workflow.count("run: python course.py test") == 2


# README


def test_the_map_lists_notebooks_00_to_12_as_they_are():
    rows = re.findall(r"(?m)^\| (\d\d) \| (.*?) \| .*\? \| \[!\[Open \1 in Colab\]\(\S+\)\]\((\S+)\) \|$", README)
    assert [number for number, _, _ in rows] == [f"{number:02}" for number in range(13)]
    for number, title, address in rows:
        path = ROOT / "notebooks" / address.rsplit("/", 1)[1]
        assert path.name.startswith(number)
        assert path.exists() == ("in preparation" not in title) == (f"](notebooks/{path.name})" in title)


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


# The repository's address


@pytest.fixture
def copy(tmp_path):
    for name in ("README.md", "pyproject.toml", "course.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("notebooks", "exercises", "solutions"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".*"))
    return tmp_path


def texts(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*folder.glob("*.*"), *folder.glob("*/*.ipynb")]}


def test_one_command_stamps_another_address_everywhere(copy):
    address = re.search(r'Repository = "(.*)"', PROJECT).group(1)
    before = texts(copy)
    subprocess.run([sys.executable, copy / "course.py", "stamp"], check=True)
    assert texts(copy) == before  # what is committed is stamped
    subprocess.run([sys.executable, copy / "course.py", "stamp", "https://github.com/somebody/my.fork"], check=True)
    name = address.removeprefix("https://github.com/")
    assert [file for file, content in texts(copy).items() if f"github.com/{name}".encode() in content] == []
    assert texts(copy)["README.md"].count(b"somebody/my.fork") == before["README.md"].count(name.encode())
    subprocess.run([sys.executable, copy / "course.py", "stamp", address], check=True)
    assert texts(copy) == before


def test_the_address_of_a_clone_is_understood(copy):
    subprocess.run([sys.executable, copy / "course.py", "stamp", "https://github.com/me/fork.git"], check=True)
    assert b"fork.git" not in b"".join(texts(copy).values())


def test_an_address_of_another_form_is_refused(copy):
    before = texts(copy)
    run = subprocess.run([sys.executable, copy / "course.py", "stamp", "github.com/me"], capture_output=True, text=True)
    assert run.returncode == 1 and "expected the form https://github.com/OWNER/NAME" in run.stderr
    assert texts(copy) == before
