"""The questions of the exercise sets reject wrong answers by name, accept other right ones, and never raise."""

import importlib
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gradflow_utils import exercises
from gradflow_utils.exercises import NOT_ATTEMPTED, RIGHT, WRONG, check, examine, find, progress, questions_of

SETS = sorted(path.stem[4:] for path in (Path(__file__).parent / "answers").glob("set_*.py"))
ANSWERS = {number: importlib.import_module(f"answers.set_{number}") for number in SETS}
QUESTIONS = {question.number: question for number in SETS for question in questions_of(number)}


def right_and_wrong(number):
    answers = ANSWERS[number[:2]]
    return answers.RIGHT[number], answers.WRONG[number]


@pytest.mark.parametrize("number", SETS)
def test_every_question_of_a_set_has_its_measures(number):
    asked = questions_of(number)
    assert [one.number for one in asked] == [f"{number}.{place}" for place in range(1, len(asked) + 1)] and len(asked) >= 4
    assert len({one.name for one in asked}) == len(asked)
    assert ANSWERS[number].RIGHT.keys() == ANSWERS[number].WRONG.keys() == {one.number for one in asked}


@pytest.mark.parametrize("number", QUESTIONS)
def test_other_right_answers_are_accepted(number):
    right, _ = right_and_wrong(number)
    outcomes = [examine(QUESTIONS[number], answer) for answer in right]
    assert [one.status for one in outcomes] == [RIGHT] * len(right), outcomes
    assert len(right) >= 2


@pytest.mark.parametrize("number", QUESTIONS)
def test_wrong_answers_are_rejected_and_most_by_name(number):
    _, wrong = right_and_wrong(number)
    named = set()
    for answer, words in wrong:
        outcome = examine(QUESTIONS[number], answer)
        assert outcome.status == WRONG and words in outcome.text, f"{words}: {outcome}"
        named |= {outcome.text} if outcome.named else set()
    assert len(wrong) >= 5 and len(named) >= 3


SLOPE = find("01.1")


@pytest.mark.parametrize(
    "answer, words",
    [
        (0.25, "a float; the question asks for a function"),
        (lambda: 1, "takes 0 positional arguments but"),
        (lambda s: "text", "is a text; expected a tensor of shape (3,)"),
        (lambda s: torch.nn.Linear(1, 1), "is a Linear; expected numbers"),
        (lambda s: s[None], "is a tensor of shape (1, 3); expected a tensor of shape (3,)"),
        (lambda s: s - s**2 + (s > 0.7) * 0.01, "gives 0.2066 at argument 0.7311, expected 0.1966"),
        (lambda s: s * math.nan, "holds a NaN"),
        (lambda s: {"slope": s}, "is a dict; expected"),
        (lambda s: [s.tolist(), 1], "is a list; expected"),
        (lambda s: s.to(torch.complex128), "it is complex"),
        (lambda s: np.array(["one", "two"]), "cannot be read as numbers"),
        (lambda s: s.fill_(0.25), "changes its argument in place"),
        (lambda s: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda s: sys.exit(), "raised SystemExit"),
        (lambda s: input(), "input() cannot be answered"),
        (lambda s: (_ for _ in ()).throw(ValueError("two\nlines")), "raised ValueError: two lines"),
    ],
)
def test_bad_answers_get_one_clear_line(answer, words, capsys):
    assert check("01.1", answer) is None
    printed = capsys.readouterr().out
    assert words in printed and printed.startswith("✗ 01.1 wrong. ") and printed.count("\n") == 1, printed


def test_endless_answers_are_stopped(monkeypatch, capsys):
    monkeypatch.setattr(exercises, "SECONDS", 0.2)

    def loop(s):
        while True:
            time.sleep(0)

    def recursion(s):
        return recursion(s)

    def stubborn(s):
        while True:
            try:
                while True:
                    time.sleep(0)
            except SystemExit:
                return s

    for answer, words in ((loop, "does a loop never end?"), (recursion, "RecursionError"), (stubborn, "never end?")):
        check("01.1", answer)
        assert words in capsys.readouterr().out


def test_what_an_answer_prints_is_left_out(capsys):
    def chatty(s):
        print("so many words" * 1000)
        return s * (1 - s)

    check("01.1", chatty)
    assert capsys.readouterr().out == "✓ 01.1 right. (It also prints; that is left out here.)\n"


class Agreeable:
    """Claims to equal everything, to be close to everything."""

    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return self


def test_objects_that_claim_to_be_right_are_not():
    assert examine(SLOPE, lambda s: Agreeable()).status == WRONG
    assert examine(find("01.4"), Agreeable()).status == WRONG


def test_an_answer_that_cannot_even_be_shown_does_not_stop_the_check(capsys):
    class Unshowable:
        def __repr__(self):
            raise ValueError

    check("01.2", Unshowable())
    assert capsys.readouterr().out == "✗ 01.2 wrong. why_small cannot be examined: ValueError.\n"


@pytest.mark.parametrize("answer", [None, ..., lambda s: None, lambda s: ...])
def test_stubs_are_not_attempted(answer):
    assert examine(SLOPE, answer).status == NOT_ATTEMPTED


def test_a_stub_that_raises_not_implemented_is_not_attempted():
    def stub(s):
        raise NotImplementedError

    assert examine(SLOPE, stub).status == NOT_ATTEMPTED


def test_the_state_of_torch_does_not_matter_and_is_left_alone():
    right = lambda s: s * (1 - s)  # noqa: E731
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.no_grad():
            assert examine(SLOPE, right).status == RIGHT
        with torch.inference_mode():
            assert examine(find("01.6"), lambda x: -x.abs() - 2 * torch.log1p(torch.exp(-x.abs()))).status == RIGHT
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    assert examine(SLOPE, lambda s: torch.rand(3)).status == WRONG
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_deep_inside_is_no_stub():
    assert "raised NotImplementedError" in examine(SLOPE, lambda s: torch.nn.ModuleList()(s)).text


def test_arrays_with_negative_strides_are_read():
    assert examine(SLOPE, lambda s: np.flip(np.flip((s * (1 - s)).numpy()))).status == RIGHT


def test_a_forgotten_return_is_told():
    def forgotten(s):
        slope = s * (1 - s)  # noqa: F841

    assert "is a `return` missing?" in examine(SLOPE, forgotten).text
    assert examine(SLOPE, lambda s: None).text == ""


@pytest.mark.parametrize(
    "number, words",
    [
        ("1.1", "no exercise set '1'"),
        ("01.99", "Questions: 01.1, 01.2"),
        (lambda s: s, "takes the number first"),
        ("", "no exercise set"),
    ],
)
def test_questions_that_do_not_exist_are_told(number, words, capsys):
    check(number, None)
    assert words in capsys.readouterr().out


def test_progress_counts_what_was_right_last(monkeypatch, capsys):
    monkeypatch.setattr(exercises, "_outcomes", {})
    check("01.1", lambda s: s)
    check("01.1", lambda s: s * (1 - s))
    check("01.4", 17)
    capsys.readouterr()
    progress("01")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "✓ 01.1 right (1 point)" and lines[1] == "· 01.2 not checked (2 points)"
    assert lines[3] == "✗ 01.4 wrong (1 point)" and lines[-1] == "1 of 12 points, as last checked"
    progress("99")
    assert "no exercise set '99'" in capsys.readouterr().out
