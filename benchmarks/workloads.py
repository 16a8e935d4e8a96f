"""The four workloads on which the cost of recording is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradflow_utils as gf


@dataclass
class Workload:
    """A network, its optimizer and `step`, which takes one training step and returns the loss."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], Tensor]


class LastState(nn.Module):
    """An LSTM of two layers, read out at its last time step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, 128, num_layers=2, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def mlp(width: int, rows: int) -> Workload:
    return _workload(gf.mlp([64, *[width] * 20, 10], "tanh", "xavier", seed=0), torch.randn(rows, 64))


def transformer() -> Workload:
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(128, 10))
    return _workload(model, torch.randn(16, 64, 128))


def lstm() -> Workload:
    return _workload(LastState(), torch.randn(32, 64, 64))


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "(a) MLP 20 x 256, batch 256": lambda: mlp(256, 256),
    "(b) MLP 20 x 64, batch 32": lambda: mlp(64, 32),
    "(c) transformer encoder, 4 layers": transformer,
    "(d) LSTM, 2 layers, 64 time steps": lstm,
}


def _workload(model: nn.Module, x: Tensor) -> Workload:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    with torch.no_grad():
        labels = torch.randint(10, model(x).shape[:-1]).flatten()

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), labels)
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model, optimizer, step)
