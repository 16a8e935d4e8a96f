"""What a question is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Wrong(Exception):
    """An answer is wrong; the message says what is wrong with it, in one or two sentences."""


class Mistake(Wrong):
    """An answer is wrong in a way that has a name."""


@dataclass(frozen=True)
class Question:
    """One question: what goes into an answer, what must come out, and which mistakes have a name.

    Attributes:
        number: of set and question, such as "01.2".
        name: the name that the student gives to the answer; an answer is found by it.
        points: a whole number.
        expected: returns the right values for one probe; without probes, the right answer. Not to be read as a solution:
            it takes another way, such as autograd.
        probes: draws the arguments with which a function is called, one tuple for each call. None: the answer is no
            function, but a value.
        mistakes: wrong answers with their names, as functions like `expected`.
        rtol, atol: two numbers agree if they differ by at most atol + rtol * |expected|.
        judge: for answers that are not right by agreement with `expected`; takes (values, probes), or (answer) without
            probes, and raises `Mistake` or `Wrong`.
        by_hand: the answer is kept, to be marked by hand against the rubric in the solution.
    """

    number: str
    name: str
    points: int
    expected: Callable[..., Any] | None = None
    probes: Callable[[torch.Generator], list[tuple]] | None = None
    mistakes: tuple[tuple[Callable[..., Any], str], ...] = ()
    rtol: float = 1e-4
    atol: float = 1e-7
    judge: Callable[..., None] | None = None
    by_hand: bool = False


def slopes(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """d function(x)_i / d x_i by autograd, for a function that works entry by entry. Shape of x, float64."""
    leaf = x.detach().double().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def choice(number: str, name: str, points: int, right: str, wrong: dict[str, str], words: int = 20) -> Question:
    """A question in which one statement is chosen and the choice explained: name = ("b", "because ...").

    Args:
        right: the letter of the true statement.
        wrong: for the other letters, what is wrong with them.
        words: fewest words of the explanation.
    """
    letters = sorted([right, *wrong])

    def judge(answer: Any) -> None:
        if not (isinstance(answer, (tuple, list)) and len(answer) == 2 and all(isinstance(one, str) for one in answer)):
            raise Wrong(f'Write a letter and a text: {name} = ("{letters[0]}", "because ..."). Got {answer!r:.60}.')
        letter, text = answer[0].strip().strip("()").lower(), answer[1].split()
        if letter not in letters:
            raise Wrong(f"The letter comes first, one of {', '.join(letters)}. Got {answer[0][:20]!r}.")
        if len(text) < words:
            raise Wrong(f"Your reason has {len(text)} words. The letter is looked at when there are {words} or more.")
        if len({word.lower() for word in text}) < words // 2:
            raise Wrong("Your reason says the same few words again and again.")
        if letter in wrong:
            raise Mistake(f"Not ({letter}): {wrong[letter]}")

    return Question(number, name, points, judge=judge, by_hand=True)
