"""Make the students' notebooks from the solutions: `python course.py exercises [NN ...]`

Between the lines `### BEGIN SOLUTION` and `### END SOLUTION`, nbgrader's marks, stands what is taken out; a cell with the
tag "solution" goes as a whole. Then each notebook is executed, unfilled, and stored.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
SOLUTION = re.compile(r"(?ms)^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION$")
STUB = "# your answer here"


def exercise(solution: NotebookNode) -> NotebookNode:
    """The unfilled notebook, without outputs."""
    notebook = nbformat.from_dict(solution)
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.source = SOLUTION.sub(rf"\1{STUB}", cell.source)
    return without_outputs(notebook)


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def text_of(notebook: NotebookNode) -> str:
    """The notebook as it is written to a file, without what differs from run to run."""
    text = nbformat.writes(without_outputs(notebook)) + "\n"
    return re.sub(r"Runs in \d+ s", "Runs in N s", text)


if __name__ == "__main__":
    from store_outputs import store

    for path in sorted((ROOT / "solutions").glob("*.ipynb")):
        if sys.argv[1:] and path.stem[:2] not in sys.argv[1:]:
            continue
        target = ROOT / "exercises" / path.name
        target.write_bytes(f"{nbformat.writes(exercise(nbformat.read(path, as_version=4)))}\n".encode())
        print(f"{target.relative_to(ROOT)}: {store(target):.1f} s", flush=True)
