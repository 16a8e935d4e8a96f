"""Set up, open, test and maintain the course. Needs Python alone; run it as `python course.py COMMAND`.

    lab    [ARGUMENTS]           create the environment if needed, open notebook 00 in JupyterLab
    test   [ARGUMENTS]           create the environments if needed, pass every test (arguments go to pytest)
    test --versions oldest       the same with the oldest supported versions, without comparing outputs; or: newest
    store  NOTEBOOK ...          execute notebooks in a fresh kernel and store their outputs
    exercises                    make the students' notebooks from the solutions
    fresh  FIRST NOTEBOOK ...    try the notebooks' asserts on 20 sets of seeds that they do not use
    stamp  [ADDRESS]             write the repository's address into README, badges and set-up cells
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTHONS = ((3, 10), (3, 13))  # oldest and newest supported
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"
# On Linux, a plain "pip install torch" brings several GB of CUDA; this index holds the CPU builds.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    command, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    commands = {"lab": lab, "test": test, "store": store, "exercises": exercises, "fresh": fresh, "stamp": stamp}
    if command not in commands:
        print(__doc__)
        return 0 if command in ("", "-h", "--help") else 2
    return commands[command](arguments)


def lab(arguments: list[str]) -> int:
    python = environment()
    call = [python, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}"]
    settings = ROOT / ".venv/share/jupyter/lab/settings/overrides.json"  # no pop-ups before the first cell
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}')
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; the server listens on this machine alone
        call.append("--allow-root")
    os.chdir(ROOT)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel before one of the same name elsewhere
    return run_in_place(call + arguments)


def test(arguments: list[str]) -> int:
    versions = "locked"
    if arguments[:1] == ["--versions"]:
        versions, arguments = (arguments[1:2] or [""])[0], arguments[2:]
    if versions not in ("locked", "oldest", "newest"):
        sys.exit(f"--versions: got {versions!r}, expected locked, oldest or newest")
    python = environment(versions)
    if versions == "locked":
        colab_environment()
        os.environ["GRADFLOW_COLAB"] = "required"  # then tests/test_colab.py must not skip itself
    else:  # other versions print other digits: run every cell, compare no output
        arguments = ["--nbval-lax", "--ignore=tests/test_colab.py", *arguments]
    os.chdir(ROOT)
    return run_in_place([python, "-m", "pytest", *arguments])


def store(arguments: list[str]) -> int:
    python = environment()
    os.chdir(ROOT)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    return run_in_place([python, "tests/store_outputs.py", *arguments])


def exercises(arguments: list[str]) -> int:
    python = environment()
    os.chdir(ROOT)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    return run_in_place([python, "tests/make_exercises.py", *arguments])


def fresh(arguments: list[str]) -> int:
    python = environment()
    os.chdir(ROOT)
    return run_in_place([python, "tests/fresh_seeds.py", *arguments])


def stamp(arguments: list[str]) -> int:
    settings = ROOT / "pyproject.toml"
    if arguments:
        if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", arguments[0]):
            sys.exit(f"ADDRESS: got {arguments[0]!r}, expected the form https://github.com/OWNER/NAME")
        address = arguments[0].removesuffix(".git")
        write(settings, re.sub(r'(?m)^Repository = ".*"', f'Repository = "{address}"', read(settings)))
    name = re.search(r'(?m)^Repository = "https://github\.com/(.*)"', read(settings)).group(1)
    for path in [ROOT / "README.md", *sorted(ROOT.glob("[nes]*/[0-9]*.ipynb"))]:
        places = r"(colab\.research\.google\.com/github/|git\+https://github\.com/|clone https://github\.com/)[\w.-]+/[\w.-]+"
        write(path, re.sub(places, rf"\g<1>{name}", read(path)))
    return 0


def environment(versions: str = "locked") -> str:
    """The Python of the environment for opening and testing the course; created or brought up to date if needed."""
    constraints = ROOT / "constraints.txt"
    install = ["--editable", ".[lab,test]"]
    if versions == "locked":
        install += ["--constraint", str(constraints)]
    elif versions == "oldest":
        declared = re.search(r"(?s)\ndependencies = \[(.*?)\n\]", read(ROOT / "pyproject.toml")).group(1)
        install += [f"{name}=={floor}.*" for name, floor in re.findall(r'"([\w-]+)>=([\d.]+)', declared)]
    folder = ".venv" if versions == "locked" else f".venv-{versions}"
    return ensure(folder, install, [constraints, ROOT / "pyproject.toml"])


def colab_environment() -> str:
    """The Python of an environment with the versions of Google Colab, without the course's package."""
    pins = ROOT / "tests" / "colab_versions.txt"
    return ensure(".venv-colab", ["--requirement", str(pins)], [pins])


def ensure(folder: str, install: list[str], sources: list[Path]) -> str:
    """Create the virtual environment `folder` and pip-install into it, unless that was done from the same sources."""
    home = ROOT / folder
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = home / "installed-from.txt"  # line 1: this venv was completed at this place; line 2: what is installed in it
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    state = read(done).split("\n") if python.exists() and done.exists() else []
    if state == [str(home), digest]:
        return str(python)

    print(f"Setting up {folder} (once; a few minutes, about 1.6 GB)", flush=True)
    if state[:1] != [str(home)]:  # not there, interrupted, its Python gone, or moved, which breaks its scripts
        shutil.rmtree(home, ignore_errors=True)
        if subprocess.call([supported_python(), "-m", "venv", str(home)]) != 0:
            sys.exit("Could not create a virtual environment. On Debian and Ubuntu: sudo apt install python3-venv")
    done.write_bytes(str(home).encode())
    call = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *install]
    if sys.platform == "linux" and not pip_has_sources(str(python)):
        call += ["--extra-index-url", TORCH_CPU_INDEX]
    if subprocess.call(call, cwd=ROOT) != 0:
        sys.exit(f"pip could not install into {folder}; its message is above. Mend that and run the same command again.")
    done.write_bytes(f"{home}\n{digest}".encode())
    return str(python)


def pip_has_sources(python: str) -> bool:
    """Whether this machine's pip is configured with sources of its own: then they decide where torch comes from."""
    settings = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    return re.search(r"(?<!extra-)index-url|find-links|no-index", settings) is not None


def supported_python() -> str:
    oldest, newest = PYTHONS
    if oldest <= sys.version_info[:2] <= newest:
        return sys.executable
    for minor in range(newest[1], oldest[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    here = ".".join(map(str, sys.version_info[:2]))
    sys.exit(
        f"This is Python {here}; the course needs 3.{oldest[1]} to 3.{newest[1]}. Install one of them and run course.py "
        f"with it: python3.{newest[1]} course.py lab, or on Windows py -3.{newest[1]} course.py lab"
    )


def run_in_place(call: list[str]) -> int:
    """Run a command in place of this process, so that Ctrl-C reaches it alone."""
    if os.name == "nt":
        return subprocess.call(call)
    sys.stdout.flush()
    os.execv(call[0], call)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def write(path: Path, text: str) -> None:
    if read(path) != text:
        path.write_bytes(text.encode())  # bytes: Windows must not turn the line ends


if __name__ == "__main__":
    sys.exit(main())
