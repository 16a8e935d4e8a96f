"""Diagnosis: what is wrong with a network, judged on a recording of it."""

from __future__ import annotations

import copy
import html
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradflow_utils.flow import FlowRecord
from gradflow_utils.recording import record
from gradflow_utils.rules import Finding, find, name_some

_PARTS = ("evidence", "cause", "cure", "confirm")
_LEFT = "text-align: left; vertical-align: top"


@dataclass(frozen=True)
class Diagnosis(Sequence):
    """The findings on a network, in the order of cause; empty for a healthy one.

    It prints as text, shows as a page in a notebook, and is a sequence of `Finding`s.

    Attributes:
        findings: the faults.
        scope: what was looked at, as a sentence.
        notes: remarks on what could not be seen, each with the names it concerns.
    """

    findings: tuple[Finding, ...]
    scope: str
    notes: Mapping[str, Sequence[str]]

    def __getitem__(self, index):
        return self.findings[index]

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def kinds(self) -> list[str]:
        """The kinds of the findings."""
        return [finding.kind for finding in self.findings]

    def __str__(self) -> str:
        lines = [self._headline()]
        for number, finding in enumerate(self.findings, start=1):
            lines += ["", f"{number}. {finding.kind}"]
            for part, text in self._parts(finding):
                lines += textwrap.wrap(text, 100, initial_indent=f"   {part + ':':10}", subsequent_indent=13 * " ")
        return "\n".join(lines + ([""] if self.notes else []) + [f"Note: {remark}" for remark in self._remarks()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(self._headline())}</b></p>"]
        for finding in self.findings:
            rows = "".join(
                f'<tr><th style="{_LEFT}">{part}</th><td style="{_LEFT}">{html.escape(text)}</td></tr>'
                for part, text in self._parts(finding)
            )
            parts.append(f'<table><caption style="{_LEFT}"><b>{html.escape(finding.kind)}</b></caption>{rows}</table>')
        parts += [f"<p>Note: {html.escape(remark)}</p>" for remark in self._remarks()]
        return "".join(parts)

    def _parts(self, finding: Finding) -> list[tuple[str, str]]:
        threshold = f" (threshold {finding.threshold:g})" if 0 < finding.threshold < math.inf else ""
        return [(part, getattr(finding, part) + (threshold if part == "evidence" else "")) for part in _PARTS]

    def _headline(self) -> str:
        count = len(self.findings)
        return f"{'No finding' if not count else '1 finding' if count == 1 else f'{count} findings'} in {self.scope}."

    def _remarks(self) -> list[str]:
        return [f"{remark}: {name_some(names)}" for remark, names in self.notes.items()]


def diagnose(
    what: FlowRecord | nn.Module,
    batch: tuple[Any, Any] | None = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
) -> Diagnosis:
    """Judge a recording, or a model on one batch.

        print(gf.diagnose(flow))
        print(gf.diagnose(net, (x, y), torch.nn.functional.cross_entropy))

    Args:
        what: a record of at least one step; the more steps, the surer. Or any module with
            parameters: one forward and one backward pass are then made on a copy of it, in
            training mode, so that it stays as it was.
        batch: with a model, the pair (x, y). A tuple x is passed as several arguments, a dict as
            keyword arguments.
        loss_fn: with a model, (output, y) -> scalar loss.

    Returns:
        The findings in the order of cause: non-finite, dead, saturated, disconnected, exploding,
        vanishing, size of the updates, symmetry.

    Raises:
        ValueError: the record is empty, or batch and loss_fn do not fit.
        TypeError: `what` is neither a record nor a module.
    """
    if isinstance(what, nn.Module):
        what = _record_once(what, batch, loss_fn)
    elif not isinstance(what, FlowRecord):
        raise TypeError(f"what: got {type(what).__name__}, expected a FlowRecord or a torch.nn.Module")
    elif batch is not None or loss_fn is not None:
        raise ValueError("batch, loss_fn: they belong to a model, not to a record; call gf.diagnose(flow)")
    what.check_has_steps()
    steps = "1 step" if len(what) == 1 else f"{len(what)} steps"
    scope = f"{steps} of {len(what.layers)} layers and {len(what.parameters)} parameters"
    return Diagnosis(tuple(find(what)), scope, dict(what.notes))


def _record_once(model: nn.Module, batch: tuple[Any, Any] | None, loss_fn: Callable | None) -> FlowRecord:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        came = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(
            f"batch: got {came}, expected a pair (x, y), as in gf.diagnose(model, (x, y), loss_fn); "
            "of a DataLoader take next(iter(loader))"
        )
    if not callable(loss_fn) or isinstance(loss_fn, type):
        raise ValueError(
            "loss_fn: expected a function (output, y) -> scalar loss, such as torch.nn.functional.cross_entropy"
        )
    x, y = _without_graph(batch[0]), batch[1]
    try:
        model, loss_fn = copy.deepcopy((model, loss_fn))
    except RuntimeError as error:
        raise ValueError(
            f"model: it cannot be copied; record a training step of it instead. torch says: {error}"
        ) from error
    if not model.training:
        model.train()
    with torch.random.fork_rng(), torch.enable_grad(), record(model) as flow:  # dropout draws numbers
        output = model(**x) if isinstance(x, Mapping) else model(*x) if isinstance(x, (tuple, list)) else model(x)
        loss = loss_fn(output, y)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn: returned {came}, expected a scalar that depends on a trainable parameter")
        flow.add_loss(loss)
        loss.backward()
    return flow


def _without_graph(x: Any) -> Any:
    """The same inputs, cut off from what made them."""
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, Mapping):
        return {name: _without_graph(one) for name, one in x.items()}
    return type(x)(map(_without_graph, x)) if type(x) in (tuple, list) else x
