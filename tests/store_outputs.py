"""Execute notebooks, each in order in a fresh kernel, and store their outputs: `python course.py store NOTEBOOK ...`

Run times go into the badge line, rounded up to 5 s. What must not be stored is taken out: widgets
(a page without a kernel shows an error in their place) and everything in the metadata that
differs between machines. A notebook that fails is left as it was.
"""

import math
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def store(path: Path) -> float:
    """Execute one notebook in its folder and write it back; return the seconds that it took."""
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,  # of a progress bar, keep the last state
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    seconds = time.perf_counter() - began

    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = 5
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    badge = notebook.cells[0]
    badge.source = re.sub(r"Runs in \d+ s", f"Runs in {5 * math.ceil(seconds / 5)} s", badge.source)
    nbformat.validate(notebook)
    path.write_bytes(f"{nbformat.writes(notebook)}\n".encode())  # bytes: Windows must not turn the line ends
    return seconds


if __name__ == "__main__":
    for name in sys.argv[1:] or sys.exit(__doc__):
        print(f"{name}: {store(Path(name)):.1f} s", flush=True)
