"""Try the asserts of notebooks on seeds that nobody has seen: `python course.py fresh FIRST NOTEBOOK ...`

Runs each notebook 20 times, as the sets FIRST to FIRST + 19. In set N, every seed that the notebook gives
to gf.mlp, gf.train, gf.train_together or a generator is larger by 1000 N. Says which asserts fail, and goes on. Bands chosen
on some sets must be tried on others: give another FIRST. Explorers are skipped, pictures are not shown.
"""

import contextlib
import functools
import io
import sys
import traceback
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat

import gradflow_utils as gf
from gradflow_utils import explorers, page

SETS = 20
STRIDE = 1000  # seeds of one notebook lie closer together


def failures(cells: list[str], number: int) -> list[str]:
    """The lines with an assert that fails in set `number`."""
    shift, found = STRIDE * number, []
    original = gf.mlp, gf.train, gf.train_together
    gf.mlp = _shifted(gf.mlp, shift, None)
    gf.train = _shifted(gf.train, shift, 0)
    gf.train_together = _shifted(gf.train_together, shift, 0)
    names = {"gf": gf}  # the set-up cell is not run
    try:
        for cell in cells:
            source = cell.replace("manual_seed(", f"manual_seed({shift} + ")
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(source, "cell", "exec"), names)
            except AssertionError as error:
                in_cell = traceback.extract_tb(error.__traceback__)[1]  # what exec ran, below it what it called
                found.append(cell.splitlines()[in_cell.lineno - 1].strip())
    finally:
        gf.mlp, gf.train, gf.train_together = original
        plt.close("all")
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
