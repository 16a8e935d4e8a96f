"""What `course.py store` writes passes strict nbval, and nbval notices when it is changed."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from store_outputs import store

ROOT = Path(__file__).parent.parent
FIGURE = """\
import matplotlib.pyplot as plt
import gradflow_utils as gf
figure, ax = plt.subplots()
gf.show(figure, alt=f"An empty figure, of {1 + 1} axes.", caption="Nothing to see.")
"""
PROGRESS = """\
import ipywidgets
from gradflow_utils import progress_bar
for _ in progress_bar(range(3), "working"):
    pass
ipywidgets.IntSlider()
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A small notebook as `course.py store` leaves it."""
    path = tmp_path_factory.mktemp("notebooks") / "small.ipynb"
    cells = [new_markdown_cell("Runs in 90 s"), new_code_cell("print('ratio', 1 / 4)"), new_code_cell(FIGURE), new_code_cell(PROGRESS)]
    cells[3].metadata = {"tags": ["nbval-ignore-output"], "collapsed": True}
    nbformat.write(new_notebook(cells=cells, metadata={"widgets": {}}), path)
    store(path)
    return nbformat.read(path, as_version=4)


def test_the_run_time_is_measured_and_written(stored):
    assert re.fullmatch(r"Runs in (5|10|15|20) s", stored.cells[0].source)


def test_widgets_and_metadata_are_not_stored_but_the_end_of_the_progress_is(stored):
    working = stored.cells[3]
    assert [output.output_type for output in working.outputs] == ["stream"]
    assert working.outputs[0].text == "working: 100%|████████████████████| 3/3, 00:00 left\n"
    assert working.metadata == {"tags": ["nbval-ignore-output"]}
    assert set(stored.metadata) == {"kernelspec", "language_info"}


def test_a_failing_notebook_is_left_as_it_was(tmp_path):
    path = tmp_path / "bad.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("title"), new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        store(path)
    assert path.read_bytes() == before


CHANGES = {  # what is changed in the stored outputs, and whether strict nbval must notice
    "nothing": (lambda text: text, False),
    "a_digit": (lambda text: text.replace("ratio 0.25", "ratio 0.26"), True),
    "the_alternative_text": (lambda text: re.sub(r"alt=\\\"[^\"]*\\\"", "", text), True),
    "a_digit_in_the_alternative_text": (lambda text: text.replace("of 2 axes", "of 3 axes"), True),
    "the_picture": (lambda text: re.sub("base64,[A-Za-z0-9+/]{9}", "base64,iVBORw0KG", text, count=1).replace("iVBORw0KGg", "iVBORw0KGh"), False),
}


def test_strict_comparison_notices_a_digit_and_an_alternative_text(stored, tmp_path):
    original = nbformat.writes(stored)
    for name, (change, _) in CHANGES.items():
        assert name == "nothing" or change(original) != original
        (tmp_path / f"{name}.ipynb").write_text(change(original), encoding="utf-8")
    # -n0: two kernels that start at the same moment may choose the same port, and one of them dies.
    call = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "no:cacheprovider", "-n0", "-rA", "-q", "--color=no", str(tmp_path)]
    report = subprocess.run(call, cwd=ROOT, capture_output=True, text=True).stdout
    failed = set(re.findall(r"FAILED \S*?(\w+)\.ipynb", report))
    passed = set(re.findall(r"PASSED \S*?(\w+)\.ipynb", report))
    assert failed == {name for name, (_, noticed) in CHANGES.items() if noticed}, report
    assert passed == set(CHANGES)  # the other cells of each notebook
