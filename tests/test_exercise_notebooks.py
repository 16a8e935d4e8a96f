"""The exercise notebooks are what the solutions make of them, and both keep the form."""

import ast
import copy
import re
from pathlib import Path

import nbformat
import pytest
from make_exercises import exercise, text_of
from notebook_rules import SETUP, code_cells, code_lines, markdown, metadata, pictures, stored_outputs

from gradflow_utils.exercises import questions_of

ROOT = Path(__file__).parent.parent
SOLUTIONS = sorted((ROOT / "solutions").glob("*.ipynb"))
REPOSITORY = re.search(r'Repository = "https://github.com/(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")).group(1)
LONGEST_RUN = 30  # seconds
HINTS = ("Hint 1: direction", "Hint 2: formula", "Hint 3: skeleton")
# The exercises of the essay that this course answers, and the sets in which they stand.
OF_THE_ESSAY = {1: "01", 2: "02", 3: "03", 4: "05", 5: "09"}

each_set = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem[:2])


def read(path):
    return nbformat.read(path, as_version=4)


def printed(notebook):
    """What the check cells printed, by question."""
    found = {}
    for cell in code_cells(notebook):
        asked = re.match(r'check\("(\d\d\.\d+)", (\w+)\)$', cell.source)
        if asked:
            found[asked.groups()] = "".join(output.get("text", "") for output in cell.outputs)
    return found


def sections(notebook):
    """The cells of each question, by its number."""
    found, number = {}, None
    for cell in notebook.cells:
        heading = re.match(r"## (\d\d\.\d+) ", cell.source)
        number = heading.group(1) if heading else None if re.match("## ", cell.source) else number
        if number:
            found.setdefault(number, []).append(cell)
    return found


def test_every_lesson_has_its_exercises_or_says_that_they_are_in_preparation():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))[1:]:
        linked = f"](../exercises/{path.name})" in path.read_text(encoding="utf-8")
        assert linked == (ROOT / "solutions" / path.name).exists() == (ROOT / "exercises" / path.name).exists(), path.name


def test_no_exercise_is_without_its_solution():
    assert [path.name for path in sorted((ROOT / "exercises").glob("*.ipynb"))] == [path.name for path in SOLUTIONS]


@each_set
def test_exercises_are_made_from_the_solutions_to_the_byte(path):
    made, stored = exercise(read(path)), read(ROOT / "exercises" / path.name)
    assert text_of(made) == text_of(stored), "run `python course.py exercises`"


def test_a_changed_letter_would_be_noticed():
    notebook = read(ROOT / "exercises" / SOLUTIONS[0].name)
    changed = copy.deepcopy(notebook)
    changed.cells[-1].source += " "
    assert text_of(changed) != text_of(notebook)


@each_set
def test_both_ways_unfilled_is_not_attempted_and_the_solution_is_right(path):
    asked = {(one.number, one.name) for one in questions_of(path.stem[:2])}
    solved, unfilled = printed(read(path)), printed(read(ROOT / "exercises" / path.name))
    assert solved.keys() == unfilled.keys() == asked
    assert all(text.startswith(f"✓ {number} right") for (number, _), text in solved.items())
    assert all(text == f"○ {number} not attempted\n" for (number, _), text in unfilled.items())


@each_set
def test_nothing_of_a_solution_is_left_in_an_exercise(path):
    text = (ROOT / "exercises" / path.name).read_text(encoding="utf-8")
    assert "SOLUTION" not in text and "Rubric" not in text and '"solution"' not in text


@each_set
@pytest.mark.parametrize("folder", ["solutions", "exercises"])
def test_notebook_keeps_the_rules(path, folder):
    notebook = read(ROOT / folder / path.name)
    first = notebook.cells[0].source
    address = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/exercises/{path.name}"
    assert re.match(rf"# Exercises {path.stem[:2]}: ", first) and f"]({address})" in first
    assert int(re.search(r"Runs in (\d+) s on 2 CPU cores", first).group(1)) <= LONGEST_RUN
    assert f"](../notebooks/{path.name})" in first
    points = sum(question.points for question in questions_of(path.stem[:2]))
    assert f"minutes of your time · {points} points" in first
    assert code_cells(notebook)[0].source == SETUP.format(repository=REPOSITORY)
    assert "torch.set_num_threads(1)" in code_cells(notebook)[1].source
    assert code_cells(notebook)[-1].source == f'progress("{path.stem[:2]}")'
    assert [complaint for rule in (pictures, stored_outputs, metadata, code_lines) for complaint in rule(notebook)] == []


@each_set
def test_each_question_has_its_parts(path):
    asked = questions_of(path.stem[:2])
    found = sections(read(path))
    assert list(found) == [one.number for one in asked]
    for question in asked:
        cells = found[question.number]
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        points = f"{question.points} point{'s' * (question.points > 1)}"
        assert re.search(rf"(?m)^\*(Easy|Medium|Hard|Research) · \d+ minutes · {points}\b.*\*$", text), question.number
        assert tuple(re.findall(r"<details><summary>(.*?)</summary>", text)) == HINTS, question.number
        taught = [cell for cell in cells if "solution" in cell.metadata.get("tags", []) and "**The wrong turn.**" in cell.source]
        assert len(taught) == 1 and ("**Rubric**" if question.by_hand else "**Why.**") in taught[0].source, question.number
        stub = [cell.source for cell in cells if "### BEGIN SOLUTION" in cell.source]
        assert len(stub) == 1 and re.search(rf"(?m)^(def {question.name}\(|{question.name} = None  # )", stub[0]), question.number
        if question.probes is not None:
            tree = next(one for one in ast.parse(stub[0]).body if getattr(one, "name", "") == question.name)
            assert len(ast.get_docstring(tree) or "") > 60, question.number


@each_set
def test_each_set_has_a_backward_pass_a_figure_and_a_text(path):
    asked = questions_of(path.stem[:2])
    assert any("backward" in one.name or "gradient" in one.name for one in asked)
    assert any(one.by_hand for one in asked)
    assert any("gf.show(" in cell.source for cell in code_cells(exercise(read(path))))


def test_the_exercises_of_the_essay_are_named():
    for number, name in OF_THE_ESSAY.items():
        for path in SOLUTIONS:
            assert (f"Exercise {number} of the essay" in markdown(read(path))) == (path.stem[:2] == name), (number, path.name)


class _Plain(ast.NodeTransformer):
    """Drops conversions that hide that two expressions are the same."""

    def visit_Call(self, node):
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("double", "float", "item", "tolist"):
            return node.func.value
        return node


def expressions(source):
    """The text of every larger expression in some code."""
    tree = _Plain().visit(ast.parse(source))
    return {ast.unparse(one) for one in ast.walk(tree) if isinstance(one, ast.expr)}


IN_THE_QUESTIONS = set().union(
    *(expressions(path.read_text(encoding="utf-8")) for path in (ROOT / "gradflow_utils" / "questions").glob("*.py"))
)


@each_set
def test_no_solution_can_be_read_off_the_package(path):
    for cell in code_cells(read(path)):
        if "### BEGIN SOLUTION" in cell.source:
            for node in ast.walk(_Plain().visit(ast.parse(cell.source))):
                if isinstance(node, ast.Return) and isinstance(node.value, (ast.BinOp, ast.Call)):
                    formula = ast.unparse(node.value)
                    assert formula not in IN_THE_QUESTIONS or formula == "net(x)", formula


def test_a_solution_in_the_package_would_be_noticed():
    assert "s * (1 - s)" in expressions("MISTAKES = [(lambda s: s.double() * (1 - s), 'text')]")
