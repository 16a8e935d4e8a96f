"""Check the answers of the exercises.

    from gradflow_utils.exercises import check, progress

    check("01.1", sigmoid_slope)
    progress("01")

`check` never raises: it prints that the question was not attempted, that the answer is right, or what is wrong with it.
Data flow one way: probes go into the answer, its values go into the comparison, and only values are compared.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import ctypes
import dis
import importlib
import io
import pkgutil
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from gradflow_utils import questions
from gradflow_utils.questions.form import Mistake, Question, Wrong

SECONDS = 10.0  # that an answer may take, all its calls together
NOT_ATTEMPTED, RIGHT, WRONG = "not attempted", "right", "wrong"
MARKS = {NOT_ATTEMPTED: "○", RIGHT: "✓", WRONG: "✗"}
_outcomes: dict[str, Outcome] = {}  # the last check of each question in this session


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        question: its number, such as "01.2".
        status: "not attempted", "right" or "wrong".
        text: what is wrong, or a remark; may be empty.
        named: whether the text names a known mistake.
    """

    question: str
    status: str
    text: str = ""
    named: bool = False

    def __str__(self) -> str:
        text = " ".join(self.text.split())[:400]  # one line, whatever an answer or its error says
        return f"{MARKS[self.status]} {self.question} {self.status}{'. ' if text else ''}{text}"


class _NotAttempted(Exception):
    pass


class _Sink(io.TextIOBase):
    """Takes what an answer prints, without end if need be, and keeps nothing."""

    used = False

    def write(self, text: str) -> int:
        self.used = True
        return len(text)


def check(number: str, answer: Any) -> None:
    """Print whether an answer is not attempted, right, or what is wrong with it; never raises.

    Args:
        number: of set and question, such as "01.2".
        answer: what the question asks for: a function, a number, a tensor, a text.
    """
    try:
        with _usual_state():  # a module of questions may be imported here
            question = find(number)
    except LookupError as error:
        print(f"? {error.args[0]}")
        return
    try:
        outcome = examine(question, answer)
    except (Exception, SystemExit) as error:  # an answer that no comparison can handle, such as one whose repr raises
        outcome = Outcome(question.number, WRONG, f"{question.name} cannot be examined: {type(error).__name__}.")
    _outcomes[question.number] = outcome
    print(outcome)


def progress(set_number: str) -> None:
    """Print the state of each question of a set, as last checked in this session, and the points.

    Args:
        set_number: such as "01".
    """
    try:
        asked = questions_of(set_number)
    except LookupError as error:
        print(f"? {error.args[0]}")
        return
    reached = 0
    for question in asked:
        outcome = _outcomes.get(question.number)
        status = outcome.status if outcome else "not checked"
        reached += question.points * (status == RIGHT)
        by_hand = ", its text to be marked by hand" if question.by_hand and status == RIGHT else ""
        print(f"{MARKS.get(status, '·')} {question.number} {status}{by_hand} ({_points(question.points)})")
    print(f"{reached} of {_points(sum(question.points for question in asked))}, as last checked")


def questions_of(set_number: str) -> tuple[Question, ...]:
    """All questions of a set, in order.

    Raises:
        LookupError: there is no such set.
    """
    sets = sorted(module.name[4:] for module in pkgutil.iter_modules(questions.__path__) if module.name.startswith("set_"))
    if set_number not in sets:
        raise LookupError(f"There is no exercise set {set_number!r:.40}. Sets: {', '.join(sets)}.")
    return importlib.import_module(f"{questions.__name__}.set_{set_number}").QUESTIONS


def find(number: str) -> Question:
    """The question with a number such as "01.2".

    Raises:
        LookupError: there is no such question.
    """
    if not isinstance(number, str):
        raise LookupError(f'check takes the number first, as a text: check("01.1", answer). Got {type(number).__name__}.')
    asked = questions_of(number.partition(".")[0])
    for question in asked:
        if question.number == number:
            return question
    raise LookupError(f"There is no question {number!r:.40}. Questions: {', '.join(one.number for one in asked)}.")


def examine(question: Question, answer: Any) -> Outcome:
    """Find out whether an answer is right; raises nothing that the answer raises."""
    try:
        with _usual_state():
            printed = _examine(question, answer)
    except _NotAttempted as error:
        return Outcome(question.number, NOT_ATTEMPTED, str(error))
    except Wrong as error:
        return Outcome(question.number, WRONG, str(error), named=isinstance(error, Mistake))
    remarks = ["This is about the letter; the text is marked by hand." if question.by_hand else ""]
    remarks.append("(It also prints; that is left out here.)" if printed else "")
    return Outcome(question.number, RIGHT, " ".join(filter(None, remarks)))


@contextlib.contextmanager
def _usual_state() -> Iterator[None]:
    """Gradients on, float32 by default, and the reader's random numbers left as they are."""
    dtype = torch.get_default_dtype()
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def _examine(question: Question, answer: Any) -> bool:
    """Raise `Wrong` or `_NotAttempted`, or return whether the answer printed something."""
    if answer is None or answer is ... or answer is NotImplemented:
        raise _NotAttempted
    if question.probes is None:
        if callable(answer) and not isinstance(answer, (Tensor, nn.Module)):
            raise Wrong(f"{question.name} is a function; the question asks for a value.")
        if question.judge is not None:
            question.judge(answer)
        else:
            _compare_values(question, as_values(answer, question.name))
        return False
    if not callable(answer):
        raise Wrong(f"{question.name} is {_kind(answer)}; the question asks for a function.")
    return _check_function(question, answer)


def _check_function(question: Question, function: Callable) -> bool:
    seed = zlib.crc32(question.number.encode())
    probes = question.probes(torch.Generator().manual_seed(seed))
    given = copy.deepcopy(probes)  # an answer may change what it gets
    returned, printed = _call_each(question.name, function, given)
    if all(value is None or value is ... for value in returned):
        raise _NotAttempted("" if _is_stub(function) else f"{question.name} returns None: is a `return` missing?")
    values = [as_values(value, f"{question.name}({_shown(probe)})") for value, probe in zip(returned, probes)]
    for probe, after in zip(probes, given):
        changed = [one for one, two in zip(probe, after) if isinstance(one, Tensor) and not _same(one, two)]
        if changed:
            raise Wrong(f"{question.name} changes its argument in place; work on a copy, such as x.clone().")
    if question.judge is not None:
        question.judge(values, probes)
    else:
        _compare_calls(question, values, probes)
    return printed


def _compare_values(question: Question, value: Any) -> None:
    expected = as_values(question.expected(), "expected")
    _check_form(question.name, value, expected)
    if not agree(value, expected, question.rtol, question.atol):
        for mistake, name in question.mistakes:
            if agree(value, as_values(mistake(), "mistake"), question.rtol, question.atol):
                raise Mistake(name)
        raise Wrong(f"{question.name} = {_shown_value(value)} is not right.")


def _compare_calls(question: Question, values: list, probes: list[tuple]) -> None:
    right = [as_values(question.expected(*copy.deepcopy(probe)), "expected") for probe in probes]
    for value, expected, probe in zip(values, right, probes):
        _check_form(f"{question.name}({_shown(probe)})", value, expected)
    wrong = [not agree(value, expected, question.rtol, question.atol) for value, expected in zip(values, right)]
    if not any(wrong):
        return
    for mistake, name in question.mistakes:
        made = [as_values(mistake(*copy.deepcopy(probe)), "mistake") for probe in probes]
        if all(agree(value, one, question.rtol, question.atol) for value, one in zip(values, made)):
            raise Mistake(name)
    value, expected, probe = next(case for case, bad in zip(zip(values, right, probes), wrong) if bad)
    raise Wrong(f"{question.name}({_shown(probe)}) {_difference(question, value, expected, probe)}.")


def _difference(question: Question, value: Any, expected: Any, probe: tuple) -> str:
    """What came and what should have come; of a tensor, the first entry that is wrong."""
    if isinstance(expected, dict):
        key = next(key for key in expected if not agree(value[key], expected[key], question.rtol, question.atol))
        return f"at {key!r} {_difference(question, value[key], expected[key], probe)}"
    if not isinstance(expected, Tensor) or expected.numel() < 2:
        return f"gives {_shown_value(value)}, expected {_shown_value(expected)}"
    close = torch.isclose(value, expected, rtol=question.rtol, atol=question.atol, equal_nan=True)
    place = tuple((~close).nonzero()[0].tolist())
    at = f"entry {place[0] if len(place) == 1 else place}"
    if len(probe) == 1 and isinstance(probe[0], Tensor) and probe[0].shape == expected.shape:
        at = f"argument {probe[0][place].item():.4g}"
    return f"gives {value[place].item():.4g} at {at}, expected {expected[place].item():.4g}"


def as_values(value: Any, what: str) -> Any:
    """Numbers, tensors and arrays as float64 tensors; in lists, tuples and dicts too. Text stays.

    Raises:
        Wrong: it is something else, such as a module.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {str(key): as_values(one, f"{what}[{key!r}]") for key, one in value.items()}
    if isinstance(value, (bool, int, float, np.generic, np.ndarray, Tensor)):
        try:
            tensor = torch.as_tensor(np.array(value, order="C") if isinstance(value, np.ndarray) else value)
            if tensor.layout != torch.strided:
                tensor = tensor.to_dense()
            if tensor.is_complex():
                raise TypeError("it is complex")
            return tensor.detach().to("cpu", torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise Wrong(f"{what} is {_kind(value)} that cannot be read as numbers: {error}") from None
    if isinstance(value, (list, tuple)):
        parts = [as_values(one, f"{what}[{place}]") for place, one in enumerate(value)]
        same = parts and all(isinstance(one, Tensor) and one.shape == parts[0].shape for one in parts)
        return torch.stack(parts) if same else parts
    raise Wrong(f"{what} is {_kind(value)}; expected numbers.")


def agree(value: Any, expected: Any, rtol: float, atol: float) -> bool:
    """Whether two answers of `as_values` are the same up to the tolerances."""
    if isinstance(expected, Tensor):
        return (
            isinstance(value, Tensor)
            and value.shape == expected.shape
            and torch.allclose(value, expected, rtol=rtol, atol=atol, equal_nan=True)
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and value.keys() == expected.keys()
            and all(agree(value[key], expected[key], rtol, atol) for key in expected)
        )
    if isinstance(expected, list):
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(agree(one, two, rtol, atol) for one, two in zip(value, expected))
        )
    return value == expected


def _check_form(what: str, value: Any, expected: Any) -> None:
    """Raise `Wrong` if a value has another type or shape than expected, or holds a NaN that is not expected."""
    if isinstance(expected, dict) and isinstance(value, dict) and value.keys() != expected.keys():
        raise Wrong(f"{what} has the keys {', '.join(value) or 'none'}; expected {', '.join(expected)}.")
    if isinstance(expected, dict) and isinstance(value, dict):
        for key in expected:
            _check_form(f"{what}[{key!r}]", value[key], expected[key])
    elif type(value) is not type(expected):
        raise Wrong(f"{what} is {_kind(value)}; expected {_kind(expected)}.")
    elif isinstance(expected, Tensor):
        if value.shape != expected.shape:
            raise Wrong(f"{what} is {_kind(value)}; expected {_kind(expected)}.")
        if value.isnan().any() and not expected.isnan().any():
            raise Wrong(f"{what} holds a NaN.")


def _call_each(name: str, function: Callable, probes: list[tuple]) -> tuple[list, bool]:
    """Call a function with each probe, within `SECONDS`; return what it returned, and whether it printed."""
    returned: list = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            for probe in probes:
                returned.append(function(*probe))
        except BaseException as error:  # SystemExit too
            failure.append(error)

    output = _Sink()
    thread = threading.Thread(target=work, daemon=True)
    no_input = mock.patch.object(builtins, "input", _no_input)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(_Sink()), no_input:
        thread.start()
        thread.join(SECONDS)
        hangs = thread.is_alive()
        if hangs:  # an exception inside stops a loop of Python; what does not stop is left behind
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
            thread.join(1.0)
    if hangs:
        raise Wrong(f"{name} takes more than {SECONDS:g} s: does a loop never end?")
    if failure:
        error = failure[0]
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, NotImplementedError) and len(frames) == 2:  # raised by the answer itself
            raise _NotAttempted
        if isinstance(error, RecursionError):
            raise Wrong(f"{name} calls itself without end (RecursionError).")
        lines = [one.lineno for one in frames if one.name == name]
        place = f" (line {lines[-1]} of its cell)" if lines else ""
        try:
            said = " ".join(str(error).split())
        except Exception:
            said = ""
        raise Wrong(f"{name}({_shown(probes[len(returned)])}) raised {type(error).__name__}: {said:.200}{place}")
    return returned, output.used


def _is_stub(function: Callable) -> bool:
    """Whether a function does nothing at all."""
    code = getattr(function, "__code__", None)
    nothing = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    return code is not None and {one.opname for one in dis.get_instructions(code)} <= nothing


def _no_input(*_: Any) -> str:
    raise RuntimeError("input() cannot be answered here; take what you need as arguments")


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one.nan_to_num(), two.nan_to_num())


def _shown(probe: tuple) -> str:
    """The arguments of a call, in a few words."""
    return ", ".join(_shown_value(one) for one in probe)


def _shown_value(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return f"{value.item():.4g}"
        if value.numel() > 6:
            return f"a tensor of {' x '.join(map(str, value.shape))} numbers"
        if value.dim() > 1:
            return f"[{', '.join(_shown_value(one) for one in value)}]"
        return f"[{', '.join(f'{one:.4g}' for one in value.tolist())}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (int, str, bool)):
        return f"{value!r:.40}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shown_value(one) for one in value[:4])}{', ...' if len(value) > 4 else ''}]"
    return _kind(value)


def _kind(value: Any) -> str:
    """What something is, with its article."""
    if isinstance(value, Tensor):
        return "a number" if value.dim() == 0 else f"a tensor of shape {tuple(value.shape)}"
    name = {"str": "text", "NoneType": "None", "function": "function"}.get(type(value).__name__, type(value).__name__)
    return name if name == "None" else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _points(number: int) -> str:
    return f"{number} point{'' if number == 1 else 's'}"
