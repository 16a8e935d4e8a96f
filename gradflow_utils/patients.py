"""The patients of the clinic: how each broken network is built and trained. Reading on spoils them."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_utils.data import Split, digits
from gradflow_utils.flow import FlowRecord
from gradflow_utils.networks import MLP, mlp
from gradflow_utils.recording import record
from gradflow_utils.training import accuracy, shuffled_batches

WIDTH = 48
BATCH = 64
RAW_MEAN, RAW_STD = 78.0, 69.0  # of pixels from 0 to 255


@dataclass(frozen=True)
class Plan:
    """How a network is built and trained: the settings that `clinic.SETTINGS` explains, and what the data are like."""

    activation: str = "relu"
    layers: int = 8
    weights: str = "matched"
    gain: float | None = None
    biases: float = 0.0
    norm: str = "none"
    norm_mode: str = "training"
    statistics_gradient: bool = True
    residual: bool = False
    detach: bool = False
    frozen: bool = False
    inputs: str = "standardised"
    nan_rows: str = "keep"
    optimizer: str = "sgd"
    rate: float = 0.1
    warm_up: int = 0
    clip: float | None = None
    loss_factor: float = 1.0
    steps: int = 100
    images_with_nan: int = 0


class _StuckNorm(nn.BatchNorm1d):
    """Batch normalisation that stays in evaluation mode."""

    def train(self, mode: bool = True) -> _StuckNorm:
        return super().train(False)


class _BlindNorm(nn.BatchNorm1d):
    """Batch normalisation whose statistics carry no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            super().forward(x)  # for the running statistics
            variance, mean = torch.var_mean(x, 0, unbiased=False)
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class _Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def build(plan: Plan, seed: int) -> MLP:
    after = plan.norm == "layer after skip"
    norm = None if after or plan.norm == "none" else plan.norm
    skip = False if not plan.residual else 1.0 if after else plan.layers**-0.5
    sizes = [64, *[WIDTH] * plan.layers, 10]
    net = mlp(sizes, plan.activation, plan.weights, gain=plan.gain, norm=norm, residual=skip, seed=seed)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (name, module) in enumerate(net.named_children()):
        layers[name] = module
        if after and name.startswith("block"):
            layers[name.replace("block", "norm")] = nn.LayerNorm(WIDTH)
        if plan.detach and number == min(len(net) * 5 // 6, len(net) - 2):
            layers["middle"] = _Cut()
    if plan.frozen:
        for module in list(layers.values())[:-1]:
            module.requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.Linear) and plan.biases:
            nn.init.constant_(module.bias, plan.biases)
        if isinstance(module, nn.BatchNorm1d):
            if plan.norm_mode == "evaluation":
                module.__class__ = _StuckNorm
            elif not plan.statistics_gradient:
                module.__class__ = _BlindNorm
    return MLP(layers)


def train(plan: Plan, seed: int) -> tuple[FlowRecord, float]:
    """Train by the plan; return the recording, and the accuracy on data.validation."""
    data = digits()
    x, y = _images(plan, data.train)
    if plan.images_with_nan:
        x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: plan.images_with_nan], 20] = math.nan
    if plan.nan_rows == "drop":
        clean = x.isfinite().all(dim=1)
        x, y = x[clean], y[clean]
    net = build(plan, seed)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[plan.optimizer](trained, lr=plan.rate)
    x, y, batches = shuffled_batches((x, y), plan.steps, BATCH, seed)
    net.train()
    with record(net, optimizer) as flow:
        for step, rows in enumerate(batches, start=1):
            if step <= plan.warm_up:
                optimizer.param_groups[0]["lr"] = plan.rate * step / plan.warm_up
            loss = plan.loss_factor * F.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            if plan.clip is not None:
                nn.utils.clip_grad_norm_(trained, plan.clip)
            optimizer.step()
            flow.add_loss(loss)
    return flow, accuracy(net, _images(plan, data.validation))


def _images(plan: Plan, split: Split) -> Split:
    return Split(split.x * RAW_STD + RAW_MEAN if plan.inputs == "raw" else split.x.clone(), split.y)


@dataclass(frozen=True)
class Case:
    """A patient: what is wrong (any of these names is right), what its owner says, and where to look."""

    faults: tuple[str, ...]
    plan: Plan
    complaint: str
    hint: str


# The settings that undo a fault and nothing else. A sigmoid with weights too large needs "lecun" and a gain of 4 instead.
UNDO: dict[str, dict[str, Any]] = {
    "none": {},
    "NaN in the data": {"nan_rows": "drop"},
    "inputs not scaled": {"inputs": "standardised"},
    "weights too small": {"weights": "matched", "gain": None},
    "weights too large": {"weights": "matched", "gain": None},
    "units born dead": {"biases": 0.0},
    "no skips": {"residual": True},
    "norm in evaluation mode": {"norm_mode": "training"},
    "statistics without gradient": {"statistics_gradient": True},
    "detached": {"detach": False},
    "frozen": {"frozen": False},
    "rate too high": {"rate": 0.02},
    "no warm-up": {"warm_up": 80},
    "loss too small": {"loss_factor": 1.0},
}

CASES = (
    Case(
        ("weights too small",),
        Plan(activation="gelu", weights="default"),
        "Eight layers of GELU, built as in every tutorial. It guesses.",
        "Look at the gradient and at row_std from layer to layer, at step 0.",
    ),
    Case(
        ("NaN in the data",),
        Plan(images_with_nan=3),
        "Eight layers of ReLU. The loss is NaN, one day from the start, another day after a few steps.",
        "Look for the first step that holds a NaN: is it in a weight or in an output?",
    ),
    Case(
        ("rate too high",),
        Plan(rate=2.0),
        "Eight layers of ReLU. The loss is NaN after a few steps.",
        "Look for the first step that holds a NaN, and at update_ratio before it.",
    ),
    Case(
        ("units born dead",),
        Plan(layers=5, biases=-3.0),
        "Five layers of ReLU, without any error message. It guesses.",
        "Look at dead, layer by layer, at step 0.",
    ),
    Case(
        ("inputs not scaled",),
        Plan(activation="tanh", layers=6, inputs="raw", rate=0.3),
        "Six layers of tanh. It learns a little and stops.",
        "Look at saturated, layer by layer, at step 0: in which layers does it start?",
    ),
    Case(
        ("weights too large",),
        Plan(activation="sigmoid", layers=4, rate=1.0, weights="lecun", gain=60.0),
        "Four layers of sigmoid. It guesses.",
        "Look at saturated, layer by layer, at step 0. For the cure: what does a sigmoid need (notebook 03)?",
    ),
    Case(
        ("loss too small",),
        Plan(activation="gelu", loss_factor=1e-5),
        "Eight layers of GELU. The loss does not move.",
        "Look at update_ratio, and at the profile of the gradient: is it flat?",
    ),
    Case(
        ("detached",),
        Plan(activation="tanh", layers=12, detach=True),
        "Twelve layers of tanh. It learns, but a network of three layers is better.",
        "Look at weight_grad_norm of each weight matrix: NaN is not 0. What do the notes say?",
    ),
    Case(
        ("frozen",),
        Plan(activation="tanh", layers=12, frozen=True),
        "Twelve layers of tanh. It learns, but badly.",
        "Look at weight_grad_norm of each weight matrix: NaN is not 0. What do the notes say?",
    ),
    Case(
        ("norm in evaluation mode",),
        Plan(activation="sigmoid", norm="batch", norm_mode="evaluation", weights="default"),
        "Eight layers of sigmoid with BatchNorm. It guesses.",
        "Look at row_std behind the normalisation: what should it be? What do the notes say?",
    ),
    Case(
        ("no skips",),
        Plan(activation="gelu", layers=30, rate=0.03),
        "Thirty layers of GELU with He's weights. It guesses.",
        "Does nothing stand out? Then count the layers, and think of what a network of that depth needs.",
    ),
    Case(
        ("statistics without gradient",),
        Plan(layers=16, norm="batch", statistics_gradient=False, rate=0.2),
        "Sixteen layers of ReLU with BatchNorm. It learns, but worse than its sister.",
        "Compare weight_norm from step to step with update_ratio: is the update at right angles to the weight?",
    ),
    Case(
        ("no warm-up", "rate too high"),
        Plan(layers=14, norm="layer after skip", residual=True, optimizer="adam", rate=0.03, steps=120),
        "Fourteen residual blocks, LayerNorm after each, Adam. It guesses.",
        "Look at the gradient of the first layer over that of the last at steps 0 to 5, and at update_ratio there.",
    ),
    Case(
        ("none",),
        Plan(activation="tanh", optimizer="adam", rate=3e-3, loss_factor=1e-3),
        "Eight layers of tanh under Adam. The norm of its gradient is a thousandth of that of its sister.",
        "Look at the loss, and at ratios within the network instead of sizes.",
    ),
)
