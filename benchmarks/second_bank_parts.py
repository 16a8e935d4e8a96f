"""Small pieces that the networks of the second bank share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bank_case import Trial


def per_token(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Apply a classification loss to outputs [rows, length, classes] and targets [rows, length]."""
    return lambda output, target: loss(output.flatten(0, 1), target.flatten())


def layers(sizes: list[int], activation: Callable[[], nn.Module]) -> list[nn.Module]:
    """Linear layers with an activation after each but the last."""
    made: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        made += [nn.Linear(fan_in, fan_out), activation()]
    return made[:-1]


def redraw(model: nn.Module, draw: Callable[[Tensor], Any], bias: float = 0.0) -> nn.Module:
    """Draw every weight matrix and kernel anew with `draw` (in place), and set all other biases to `bias`."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            with torch.no_grad():
                draw(parameter)
        elif "bias" in name:
            nn.init.constant_(parameter, bias)
    return model


def train(trial: Trial, steps: int) -> Trial:
    """Train for some steps before the judges look on, with batches of their own."""
    for step in range(10_000, 10_000 + steps):
        x, y = trial.batch(step)
        trial.optimizer.zero_grad()
        trial.loss_fn(trial.model(x), y).backward()
        trial.optimizer.step()
    trial.optimizer.zero_grad()
    return trial


class LastStep(nn.Module):
    """A `torch.nn` recurrent layer and a linear head on its last output."""

    def __init__(self, recurrent: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.recurrent(x)
        return self.head(output[:, -1])
