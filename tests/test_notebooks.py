"""Each notebook of the course keeps the rules, and each rule notices when it is broken."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
from notebook_rules import LARGEST_NOTEBOOK, SECTIONS, code_cells, complaints

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = re.search(r'Repository = "https://github.com/(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")).group(1)
LESSON = ROOT / "notebooks" / "01_sigmoid_and_tanh.ipynb"


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(len(NOTEBOOKS))] and NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rules(path):
    assert path.stat().st_size < LARGEST_NOTEBOOK
    assert complaints(nbformat.read(path, as_version=4), path.stem, REPOSITORY) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_notebooks_lead_somewhere(path):
    links = re.findall(r"\]\(([\w./-]+\.(?:ipynb|md))(?:#[\w-]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def replace_everywhere(old, new):
    """Replace text in all sources; the text must be there."""

    def change(notebook):
        assert any(re.search(old, cell.source) for cell in notebook.cells), old
        for cell in notebook.cells:
            cell.source = re.sub(old, new, cell.source)

    return change


def in_html_outputs(old, new):
    def change(notebook):
        changed = 0
        for cell in code_cells(notebook):
            for output in cell.outputs:
                if "text/html" in output.get("data", {}) and not changed:
                    page = output.data["text/html"]
                    output.data["text/html"] = re.sub(old, new, page, count=1)
                    changed = output.data["text/html"] != page
        assert changed, old

    return change


def on_first_code_cell(**values):
    def change(notebook):
        code_cells(notebook)[0].update(copy.deepcopy(values))

    return change


def on_notebook_metadata(**values):
    return lambda notebook: notebook.metadata.update(values)


WIDGET = {"output_type": "display_data", "metadata": {}, "data": {"application/vnd.jupyter.widget-view+json": {}}}
BARE_PNG = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "AAAA"}}
WARNING = {"output_type": "stream", "name": "stderr", "text": "UserWarning"}
ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
BARE_OBJECT = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/plain": "<a.B at 0x7f>"}}

BREAKAGES = {
    "no badge": replace_everywhere(r"\[!\[Open in Colab.*?\)\]\(.*?\)", ""),
    "badge of another repository": replace_everywhere("com/github/[^/]+/", "com/github/somebody/"),
    "a long run time": replace_everywhere(r"Runs in \d+ s", "Runs in 25 s"),
    "no run time": replace_everywhere("Runs in", "Takes"),
    "set-up cell changed": on_first_code_cell(source="import gradflow_utils as gf"),
    **{f"no section {name}": replace_everywhere(rf"(?m)^## {name}", "## Something") for name in SECTIONS},
    "sections in another order": replace_everywhere(r"(?m)^## (Explore|Misconception)$", r"## Summary, \1"),
    "no headline question": replace_everywhere(r"\*\*The question:\*\*", "The question:"),
    "no verbs": replace_everywhere(r"\*\*(derive|predict|measure|diagnose)\*\*", "understand"),
    "no prediction": replace_everywhere("my_guess = None", "pass"),
    "prediction not shown": replace_everywhere(r"gf\.guess\(my_guess", "print(my_guess"),
    "no push": replace_everywhere("by_push", "by_what"),
    "no explorer": replace_everywhere(r"gf\.explore\(", "print("),
    "no static figure": replace_everywhere(r"gf\.snapshots\(", "print("),
    "no quotation": replace_everywhere('(?m)^> "', "> "),
    "answer not folded": replace_everywhere("<details><summary>Answer</summary>", ""),
    "card without cure": replace_everywhere(r"\*\*Cure\*\*", "Cure"),
    "summary sentence without assert": replace_everywhere("  # summary 3", ""),
    "assert without summary sentence": replace_everywhere(r"(?m)^3\. .*$", ""),
    "no references": replace_everywhere(r"\*\*References\.\*\*", ""),
    "references without a place": replace_everywhere("(section|chapter|eq\\.|sections) ", "somewhere in "),
    "alternative text deleted": in_html_outputs(r'alt="[^"]*"', ""),
    "alternative text empty": in_html_outputs(r'alt="[^"]*"', 'alt=""'),
    "large picture": in_html_outputs("base64,", "base64," + 90_000 * "A"),
    "figure without alternative text": on_first_code_cell(outputs=[nbformat.from_dict(BARE_PNG)]),
    "picture in the text without alternative text": replace_everywhere(r"!\[Open in Colab\]", "![]"),
    "stored error": on_first_code_cell(outputs=[nbformat.from_dict(ERROR)]),
    "stored warning": on_first_code_cell(outputs=[nbformat.from_dict(WARNING)]),
    "stored widget": on_first_code_cell(outputs=[nbformat.from_dict(WIDGET)]),
    "bare object": on_first_code_cell(outputs=[nbformat.from_dict(BARE_OBJECT)]),
    "not executed": on_first_code_cell(execution_count=None),
    "executed out of order": on_first_code_cell(execution_count=7),
    "comparison switched off": lambda notebook: [
        cell.metadata.update(tags=["nbval-ignore-output"]) for cell in code_cells(notebook)[:3]
    ],
    "raises-exception": on_first_code_cell(metadata=nbformat.from_dict({"tags": ["raises-exception"]})),
    "comparison switched off in a comment": replace_everywhere("import math", "import math  # NBVAL_IGNORE_OUTPUT"),
    "Colab's cell metadata": on_first_code_cell(metadata=nbformat.from_dict({"id": "x"})),
    "Colab's notebook metadata": on_notebook_metadata(colab={}),
    "widget state": on_notebook_metadata(widgets={}),
    "version of Python": lambda notebook: notebook.metadata.language_info.update(version="3.11"),
    "no cell ids": lambda notebook: notebook.cells[0].pop("id"),
    "a line that nobody sees the end of": replace_everywhere("(?m)^import math$", "import math  # " + 100 * "x"),
    "no asserts": replace_everywhere(r"(?m)^(\s*)assert ", r"\1print, "),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_breaking_a_rule_is_noticed(breakage):
    notebook = nbformat.read(LESSON, as_version=4)
    BREAKAGES[breakage](notebook)
    assert complaints(notebook, LESSON.stem, REPOSITORY) != []
