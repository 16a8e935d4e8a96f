"""Try the asserts of notebooks on seeds that nobody has seen: `python course.py fresh FIRST NOTEBOOK ...`

Runs each notebook 20 times, as the sets FIRST to FIRST + 19. In set N, every seed that the notebook gives to
gf.mlp, gf.train, gf.train_together, clinic.patient or a generator is larger by 1000 N. Says which asserts fail, and goes on. Bands chosen
on some sets must be tried on others: give another FIRST. Explorers are skipped, pictures are not shown.
"""

import contextlib
import functools
import io
import sys
import traceback
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import nbformat

import gradflow_utils as gf
from gradflow_utils import clinic, explorers, page

SETS = 20
STRIDE = 1000  # seeds of one notebook lie closer together
SEEDED = ((gf, "mlp", None), (gf, "train", 0), (gf, "train_together", 0), (clinic, "patient", 0))  # and the seed they take by default


def failures(cells: list[str], number: int) -> list[str]:
    """The lines with an assert that fails in set `number`; behind one, the first error that it caused."""
    shift, found = STRIDE * number, []
    names = {"gf": gf}  # the set-up cell is not run
    with contextlib.ExitStack() as patches:
        for home, name, default in SEEDED:
            patches.enter_context(mock.patch.object(home, name, _shifted(getattr(home, name), shift, default)))
        patches.callback(plt.close, "all")
        for cell in cells:
            source = cell.replace("manual_seed(", f"manual_seed({shift} + ")
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(source, "cell", "exec"), names)
            except AssertionError as error:
                in_cell = traceback.extract_tb(error.__traceback__)[1]  # what exec ran, below it what it called
                found.append(cell.splitlines()[in_cell.lineno - 1].strip())
            except Exception as error:
                if not found:  # else the assert that failed may have stood before what is missing now
                    raise
                return [*found, f"then {type(error).__name__}: {error}"]
    return found


def _shifted(function, shift, default):
    @functools.wraps(function)
    def call(*arguments, seed=default, **others):
        return function(*arguments, seed=None if seed is None else seed + shift, **others)

    return call


def runnable(path: Path) -> list[str]:
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [source for source in sources if "%pip" not in source and "gf.explore(" not in source]


def main(first: int, paths: list[Path]) -> int:
    plt.switch_backend("agg")
    page.display_pictures = explorers.display_pictures = lambda pictures: None
    bad = 0
    for path in paths:
        cells = runnable(path)
        for number in range(first, first + SETS):
            found = failures(cells, number)
            bad += len(found)
            print(f"{path.name}, set {number}: {'; '.join(found) or 'all asserts hold'}", flush=True)
    return bad


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    sys.exit(bool(main(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
