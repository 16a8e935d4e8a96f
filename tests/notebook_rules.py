"""The rules that every notebook of the course keeps. Each rule is a function that yields its complaints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from nbformat import NotebookNode

SECTIONS = (
    "Objectives",
    "Predict first",
    "The smallest exact case",
    "Derivation",
    "Experiment",
    "Break an assumption",
    "Explore",
    "Misconception",
    "Checkpoint",
    "Diagnosis card",
    "Summary",
)
CARD_ROWS = ("Symptom", "Measurement", "Threshold", "Cause", "Cure", "How to confirm")
LONGEST_RUN = {"00": 20, "01": 20, "03": 60, "06": 60, "07": 60, "08": 60, "09": 60, "10": 60, "11": 60, "12": 60}  # seconds
LARGEST_NOTEBOOK = 1_500_000  # bytes
LARGEST_FIGURE = 60_000  # bytes of PNG
UNCOMPARED_CELLS = 2  # explorers and live progress
TAGS = {"nbval-ignore-output", "solution"}
LONGEST_LINE = 105  # of code; more does not fit on the page of a laptop

SETUP = """\
import importlib.util, sys
if "google.colab" in sys.modules and importlib.util.find_spec("gradflow_utils") is None:
    %pip install -q git+https://github.com/{repository}
import gradflow_utils as gf"""


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def section(notebook: NotebookNode, name: str) -> str:
    """The markdown between a heading and the next of its level."""
    found = re.search(rf"(?ms)^## {name}\b.*?(?=^## |\Z)", markdown(notebook))
    return found.group() if found else ""


def badge_line(notebook: NotebookNode, name: str, repository: str) -> Iterator[str]:
    first = notebook.cells[0].source if notebook.cells[0].cell_type == "markdown" else ""
    address = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"
    if not first.startswith(f"# {name[:2]} "):
        yield f"the first cell must begin with the title '# {name[:2]} ...'"
    if f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})" not in first:
        yield f"the first cell must hold the badge with the address {address}; run `python course.py stamp`"
    for what, pattern in {
        "run time": r"Runs in \d+ s on 2 CPU cores",
        "learner's time": r"\d+ minutes of your time",
        "what to read first": r"Read first: ",
    }.items():
        if not re.search(pattern, first):
            yield f"the badge line must state the {what} ({pattern!r})"


def run_time(notebook: NotebookNode, name: str) -> Iterator[str]:
    stated = re.search(r"Runs in (\d+) s", notebook.cells[0].source)
    allowed = LONGEST_RUN.get(name[:2], 30)
    if stated and int(stated.group(1)) > allowed:
        yield f"runs in {stated.group(1)} s, more than {allowed} s"


def setup_cell(notebook: NotebookNode, repository: str) -> Iterator[str]:
    if code_cells(notebook)[0].source != SETUP.format(repository=repository):
        yield "the first code cell must be the set-up cell, to the letter; run `python course.py stamp`"


def sections(notebook: NotebookNode) -> Iterator[str]:
    headings = [name for name in re.findall(r"(?m)^## (.*)$", markdown(notebook)) if name.startswith(SECTIONS)]
    order = [next(known for known in SECTIONS if heading.startswith(known)) for heading in headings]
    expected = [name for name in SECTIONS if name in order]
    for missing in [name for name in SECTIONS if name not in order]:
        yield f"there is no section '## {missing}'"
    if list(dict.fromkeys(order)) != expected:
        yield f"the sections stand in the order {order}"


def objectives(notebook: NotebookNode) -> Iterator[str]:
    text = section(notebook, "Objectives")
    if len(re.findall(r"(?m)^\* .*\*\*(?:derive|predict|measure|diagnose|record)", text)) < 3:
        yield "the objectives must be at least 3 verbs in bold (derive, predict, measure, diagnose, record)"
    if not re.search(r"\*\*The question:\*\* .*\?", text):
        yield "the objectives must end in a headline question ('**The question:** ...?')"


def prediction(notebook: NotebookNode) -> Iterator[str]:
    sources = [cell.source for cell in code_cells(notebook)]
    asked = [index for index, source in enumerate(sources) if re.search(r"(?m)^my_\w+ = None\b", source)]
    used = [index for index, source in enumerate(sources) if re.search(r"gf\.guess\(my_\w+", source) and "gf.show" in source]
    if not asked or not used or used[0] < asked[0]:
        yield "a cell must hold 'my_guess = None', and a later one must show it in a figure through gf.guess(my_guess)"


def smallest_case(notebook: NotebookNode) -> Iterator[str]:
    sources = "\n".join(cell.source for cell in code_cells(notebook))
    for name in ("by_hand", "by_autograd", "by_push"):
        if not re.search(rf"assert .*\b{name}\b", sources):
            yield f"the smallest exact case must assert {name} (by hand, by autograd, by a push, in float64)"


def explorer(notebook: NotebookNode) -> Iterator[str]:
    sources = [cell.source for cell in code_cells(notebook)]
    live = [index for index, source in enumerate(sources) if "gf.explore(" in source]
    fixed = [index for index, source in enumerate(sources) if "gf.snapshots(" in source]
    if not live or not fixed or fixed[0] > live[0]:
        yield "gf.explore must follow a gf.snapshots, the picture for pages without a kernel"


def misconception(notebook: NotebookNode) -> Iterator[str]:
    if not re.search(r'(?m)^> ".+"$', section(notebook, "Misconception")):
        yield "the misconception must stand in quotation marks, as a block quote"


def checkpoint(notebook: NotebookNode) -> Iterator[str]:
    text = section(notebook, "Checkpoint")
    questions, answers = len(re.findall(r"(?m)^\*\*\d\.\*\*", text)), text.count("<details><summary>Answer</summary>")
    if questions < 3 or questions != answers:
        yield f"the checkpoint must hold at least 3 questions with a folded answer each, not {questions} and {answers}"
    if "xercise" not in text:
        yield "the checkpoint must point to the exercises"


def diagnosis_card(notebook: NotebookNode) -> Iterator[str]:
    text = section(notebook, "Diagnosis card")
    for row in CARD_ROWS:
        if f"| **{row}** | " not in text:
            yield f"the diagnosis card has no row '{row}'"


def summary(notebook: NotebookNode) -> Iterator[str]:
    text = section(notebook, "Summary")
    numbers = re.findall(r"(?m)^(\d)\. ", text)
    if not 1 <= len(numbers) <= 5:
        yield f"the summary must hold one to five numbered sentences, not {len(numbers)}"
    sources = "\n".join(cell.source for cell in code_cells(notebook))
    carried = set(re.findall(r"(?m)^\s*assert .*# summary (\d)$", sources))
    if carried != set(numbers):
        yield f"the summary has the sentences {numbers}, but asserts marked '# summary N' carry {sorted(carried)}"
    for words in ("**What this does not show.**", "**References.**", "**Next:**"):
        if words not in text:
            yield f"the summary must end with {words}"
    if not re.search(r"(section|chapter|eq\.) ", text):
        yield "the references must name a section, chapter or equation"


class _Pictures(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attributes))


def pictures(notebook: NotebookNode) -> Iterator[str]:
    """Alternative texts and sizes of all figures, in outputs and in the text."""
    for number, cell in enumerate(notebook.cells):
        page = cell.source if cell.cell_type == "markdown" else ""
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" not in data and any(kind.startswith("image/") for kind in data):
                yield f"cell {number} shows a figure without alternative text; use gf.show"
            page += "".join(data.get("text/html", ""))
        parser = _Pictures()
        parser.feed(page)
        for picture in parser.found:
            if len((picture.get("alt") or "").strip()) < 20:
                yield f"cell {number} has a picture without alternative text of at least 20 letters"
            if len(picture.get("src") or "") * 3 / 4 > LARGEST_FIGURE:
                yield f"cell {number} stores a picture of more than {LARGEST_FIGURE} bytes"
        for text in re.findall(r"!\[(.*?)\]\(", page):
            if len(text.strip()) < 10:
                yield f"cell {number} has a picture without alternative text"


def stored_outputs(notebook: NotebookNode) -> Iterator[str]:
    """Executed in order from a fresh kernel, without errors, and nothing stored that hides a change."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"the cells were not run in order from a fresh kernel, but {counts}; run `python course.py store`"
    uncompared = 0
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if set(tags) - TAGS:
            yield f"cell {number} has the tags {tags}; only {', '.join(sorted(TAGS))} are used here"
        uncompared += "nbval-ignore-output" in tags
        if re.search(r"(?i)#\s*(nbval|pytest_validate)", cell.source):
            yield f"cell {number} switches comparison in a comment; use a tag"
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                yield f"cell {number} stores an error"
            if output.get("name") == "stderr":
                yield f"cell {number} stores a warning"
            if re.search(r"<[\w. ]+ at 0x", str(output.get("data", {}).get("text/plain", ""))):
                yield f"cell {number} shows a bare object; assign it to a name"
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                yield f"cell {number} stores a widget, which pages without a kernel show as an error"
    if uncompared > UNCOMPARED_CELLS:
        yield f"{uncompared} cells have outputs that are not compared, more than {UNCOMPARED_CELLS}"


def metadata(notebook: NotebookNode) -> Iterator[str]:
    """No trace of the machine, of Colab or of widgets, which make GitHub refuse a notebook."""
    if notebook.nbformat_minor < 5 or any("id" not in cell for cell in notebook.cells):
        yield "the notebook format must be 4.5, with an id for each cell"
    if set(notebook.metadata) != {"kernelspec", "language_info"} or set(notebook.metadata.language_info) != {"name"}:
        yield f"the notebook's metadata hold {sorted(notebook.metadata)}; run `python course.py store`"
    for number, cell in enumerate(notebook.cells):
        if set(cell.metadata) - {"tags"}:
            yield f"cell {number} has the metadata {sorted(cell.metadata)}; run `python course.py store`"


def code_lines(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells):
        for line in cell.source.splitlines() if cell.cell_type == "code" else ():
            if len(line) > LONGEST_LINE:
                yield f"cell {number} has a line of {len(line)} characters, more than {LONGEST_LINE}"


def claims(notebook: NotebookNode) -> Iterator[str]:
    if len(re.findall(r"(?m)^\s*assert ", "\n".join(cell.source for cell in code_cells(notebook)))) < 5:
        yield "fewer than 5 asserts: a notebook of this course proves what it says"


def complaints(notebook: NotebookNode, name: str, repository: str) -> list[str]:
    """All complaints about one notebook of the course, for example `name` "01_sigmoid_and_tanh"."""
    rules = (sections, objectives, prediction, smallest_case, explorer, misconception, checkpoint)
    rules += (diagnosis_card, summary, pictures, stored_outputs, metadata, code_lines, claims)
    found = [*badge_line(notebook, name, repository), *run_time(notebook, name), *setup_cell(notebook, repository)]
    for rule in rules:
        found += rule(notebook)
    return found
