"""What the networks of the bank learn from, and `case`, which makes a `Case` of a row of its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from bank_case import Case, Trial
from torch import Tensor, nn

import gradflow_utils as gf

Batch = Callable[[int], tuple[Any, Tensor]]  # step -> (input, target)
Task = Callable[[int], Batch]  # seed -> batches
ROWS = 48


def sgd(rate: float, momentum: float = 0.0) -> Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]:
    return partial(torch.optim.SGD, lr=rate, momentum=momentum)


def adam(rate: float) -> Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]:
    return partial(torch.optim.Adam, lr=rate)


def adamw(rate: float, decay: float = 0.01) -> Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]:
    return partial(torch.optim.AdamW, lr=rate, weight_decay=decay)


def case(
    family: str,
    name: str,
    fault: str,
    why: str,
    model: Callable[[], nn.Module],
    *,
    task: Task,
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
    steps: int = 12,
    before: Callable[[Trial], None] | None = None,
    also: tuple[str, ...] = (),
) -> Case:
    """One row of a table as a `Case`; `before` is what happened to the network before the judges see it."""

    def build(seed: int) -> Trial:
        torch.manual_seed(seed)  # global: it also makes dropout repeatable
        network = model()
        trial = Trial(network, task(seed), loss, optimizer(network.parameters()), steps)
        if before is not None:
            before(trial)
        return trial

    return Case(name, family, fault, why, build, frozenset(also))


class Network(nn.Module):
    """Named modules and a forward pass (self, x) -> output written out in one expression, as in much user code."""

    def __init__(self, run: Callable[[Any, Any], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def trained(steps: int) -> Callable[[Trial], None]:
    """Train for some steps before the judges look; their batches are drawn anew."""

    def before(trial: Trial) -> None:
        for step in range(-steps, 0):
            x, y = trial.batch(step)
            trial.optimizer.zero_grad()
            trial.loss_fn(trial.model(x), y).backward()
            trial.optimizer.step()

    return before


def spike(rate: float, steps: int = 1) -> Callable[[Trial], None]:
    """Some steps of SGD at a learning rate far too high, before sane training goes on."""

    def before(trial: Trial) -> None:
        trained(steps)(Trial(trial.model, trial.batch, trial.loss_fn, torch.optim.SGD(trial.model.parameters(), rate)))

    return before


def weights_times(factor: float, network: nn.Module) -> nn.Module:
    """Multiply all weight matrices and kernels by `factor`."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return network


def he(network: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """Normal weights of standard deviation gain / sqrt(fan_in) and zero biases in linear and convolutional layers."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=gain / fan_in**0.5)
            nn.init.zeros_(module.bias)
    return network


def fill(network: nn.Module, value: float, parameter: str = "bias", kinds: tuple = (nn.Linear, nn.Conv2d)) -> nn.Module:
    """Set the weight or bias of all layers of some kinds to a constant, those of the output too."""
    for module in network.modules():
        if isinstance(module, kinds):
            nn.init.constant_(getattr(module, parameter), value)
    return network


def freeze(*modules: nn.Module) -> None:
    for module in modules:
        module.requires_grad_(False)


def _batches(seed: int, draw: Callable[[torch.Generator], tuple[Any, Tensor]]) -> Batch:
    return lambda step: draw(torch.Generator().manual_seed(1_000_000 * (seed + 1) + step))


@cache
def _train() -> gf.Split:
    return gf.digits().train


def digits(*shape: int, scale: float = 1.0, change: Callable[[Tensor], Tensor] = lambda x: x, rows: int = ROWS) -> Task:
    """The digits as rows of `shape`, 64 features if none is given; `change` is applied to all of them at once."""

    def task(seed: int) -> Batch:
        x, y = _train()
        x = change(scale * x).reshape(-1, *(shape or (64,)))

        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            chosen = torch.randint(len(x), (rows,), generator=generator)
            return x[chosen], y[chosen]

        return _batches(seed, draw)

    return task


def regression(features: int = 8, scale: float = 1.0, offset: float = 0.0) -> Task:
    """Normal inputs [ROWS, features]; the target [ROWS, 1] is scale * sin of a projection + offset."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(ROWS, features, generator=generator)
        return x, scale * torch.sin(x[:, :3].sum(1, keepdim=True)) + offset

    return lambda seed: _batches(seed, draw)


def recall(length: int, classes: int = 4) -> Task:
    """Noise [ROWS, length, classes] whose first step shows the class that is asked for after the last one."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = 0.3 * torch.randn(ROWS, length, classes, generator=generator)
        y = torch.randint(classes, (ROWS,), generator=generator)
        x[:, 0] = 2 * F.one_hot(y, classes)
        return x, y

    return lambda seed: _batches(seed, draw)


def filtering(length: int) -> Task:
    """Noise [ROWS, length, 4]; the target [ROWS, length, 1] adds a feature to another one of the step before."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(ROWS, length, 4, generator=generator)
        return x, x[:, :, :1] + x[:, :, 1:2].roll(1, dims=1)

    return lambda seed: _batches(seed, draw)


def padded(longest: int, shortest: int = 2) -> Task:
    """((values [ROWS, longest, 4], lengths [ROWS]), labels): which of four features is largest.

    After its end a sequence holds zeros.
    """

    def draw(generator: torch.Generator) -> tuple[tuple[Tensor, Tensor], Tensor]:
        x = torch.randn(ROWS, longest, 4, generator=generator)
        y = torch.randint(4, (ROWS,), generator=generator)
        lengths = torch.randint(shortest, longest + 1, (ROWS,), generator=generator)
        lengths[:4] = shortest  # some rows are as short as allowed in every batch
        x = (x + F.one_hot(y, 4)[:, None]) * (torch.arange(longest) < lengths[:, None])[..., None]
        return (x, lengths), y

    return lambda seed: _batches(seed, draw)


def keywords(vocabulary: int, length: int) -> Task:
    """Token numbers [ROWS, length], one of which is a keyword 0 to 3 at a random place; the label says which."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randint(4, vocabulary, (ROWS, length), generator=generator)
        y = torch.randint(4, (ROWS,), generator=generator)
        x[torch.arange(ROWS), torch.randint(length, (ROWS,), generator=generator)] = y
        return x, y

    return lambda seed: _batches(seed, draw)


def counting(vocabulary: int, length: int) -> Task:
    """Tokens [ROWS, length] that count up from a random start, and the same one step later: next-token prediction."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(vocabulary, (ROWS, 1), generator=generator) + torch.arange(length + 1)
        return tokens[:, :-1] % vocabulary, tokens[:, 1:] % vocabulary

    return lambda seed: _batches(seed, draw)


def copying(vocabulary: int, length: int) -> Task:
    """((source, target so far), target), all [ROWS, length]: the target repeats the source; token 0 begins it."""

    def draw(generator: torch.Generator) -> tuple[tuple[Tensor, Tensor], Tensor]:
        source = torch.randint(1, vocabulary, (ROWS, length), generator=generator)
        return (source, F.pad(source[:, :-1], (1, 0))), source

    return lambda seed: _batches(seed, draw)


def per_token(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of scores [rows, steps, vocabulary]."""
    return F.cross_entropy(scores.flatten(0, 1), target.flatten())
