"""What a labelled network of the banks is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Trial:
    """A network with all it takes to train it for a few steps.

    Attributes:
        model: in training mode, unless that is the fault.
        batch: step -> (what `model` is called with, what `loss_fn` compares its output to).
        loss_fn: (output, target) -> scalar.
        optimizer: holds the parameters of `model`.
        steps: how many steps the judges see.
    """

    model: nn.Module
    batch: Callable[[int], tuple[Any, Tensor]]
    loss_fn: Callable[[Any, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    steps: int = 12


@dataclass(frozen=True)
class Case:
    """One labelled network.

    Attributes:
        name: unique in its bank.
        family: "mlp", "convolutional", "recurrent" or "transformer".
        fault: the finding that a judge must name; "" for a healthy network.
        why: the reason for the label, which was given before any judge was run.
        build: seed -> `Trial`.
        also: findings that hold as well and may be named.
    """

    name: str
    family: str
    fault: str
    why: str
    build: Callable[[int], Trial]
    also: frozenset[str] = frozenset()
