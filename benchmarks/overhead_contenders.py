"""Who is measured by `overhead.py`: `gf.record`, hooks as one writes them oneself, and the real callbacks of others.

Each contender is a context manager that takes a way to make a `Subject` and yields two turns, the plain and the
recorded one. A turn takes one training step, or several, and returns the seconds of each.

All hooks sit on the layers that `gf.record` picks. Where such a layer is a function, as the `F.relu` of a
transformer, they sit on the module that ran before it (`linear1`), whose output has the same size; at an LSTM, on the
module, where `gf.record` measures the gradients of the first and the last time step in addition. What is unequal:

* The naive hook and the one after Karpathy wait for each figure with `.item()`, as such hooks do; the norms of the full
  backward hook stay tensors.
* fastai's callback runs inside `Learner.fit`, with and without the callback in turns of five batches. Both use torch's
  Adam, since fastai's own, slower, would make the ratio smaller.
* torchlens does not hook a training step: `torchlens.trace` runs the forward pass itself and keeps every tensor of it.
  It wraps all functions of torch for the rest of the process, which slows the plain step too: it is measured last.
* wandb works in other threads and in another process: wall time, which the load of the machine disturbs. `run.log({})`
  ends each step. Offline, nothing is uploaded.
* All record in every step. That is not what wandb and torchlens are made for: wandb's own choice is every 1000th step,
  and a trace is meant for a single pass.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradflow_utils as gf
from workloads import Workload

Turn = Callable[[], list[float]]
_FIT = 5  # batches in one turn of fastai's Learner


@dataclass
class Subject:
    """One copy of a workload, its input, and the modules at which `gf.record` sees its layers."""

    workload: Workload
    x: Tensor
    layers: dict[str, nn.Module]

    @property
    def model(self) -> nn.Module:
        return self.workload.model

    def loss(self, output: Tensor) -> Tensor:
        """Cross entropy with the label 0, for those contenders that do not call the workload's own step."""
        output = output.flatten(0, -2)
        return F.cross_entropy(output, torch.zeros(len(output), dtype=torch.long))


def subject(make: Callable[[], Workload]) -> Subject:
    """Make a copy; all have the same parameters and data."""
    inputs: list[Tensor] = []
    torch.manual_seed(0)
    probe = make()
    probe.model.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with gf.record(probe.model) as flow:
        probe.step()
    torch.manual_seed(0)
    workload = make()
    modules = dict(workload.model.named_modules())
    layers = {name: modules.get(name) or modules[name.rpartition(".")[0]] for name in flow.layers}
    return Subject(workload, inputs[0], layers)


def turn(step: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> Turn:
    """One step, timed."""

    def timed() -> list[float]:
        begin = clock()
        step()
        return [clock() - begin]

    return timed


Pair = Iterator[tuple[Turn, Turn]]


def _first(output: Tensor | tuple) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def record(make: Callable[[], Workload], updates: bool, every: int = 1) -> Pair:
    plain, recorded = subject(make), subject(make)
    with gf.record(recorded.model, recorded.workload.optimizer if updates else (), every=every):
        yield turn(plain.workload.step), turn(recorded.workload.step)


@contextmanager
def after(make: Callable[[], Workload]) -> Pair:
    plain, recorded = subject(make), subject(make)
    with gf.record(recorded.model, recorded.workload.optimizer):
        for _ in range(3):
            recorded.workload.step()
    yield turn(plain.workload.step), turn(recorded.workload.step)


Statistics = dict[str, Callable[[Tensor], Tensor]]
SIX: Statistics = {
    "mean": Tensor.mean,
    "std": Tensor.std,
    "min": Tensor.min,
    "max": Tensor.max,
    "saturated": lambda h: (h.abs() > 0.97).float().mean(),
    "dead": lambda h: (h <= 0).flatten(0, -2).all(dim=0).float().mean(),
}
NORM: Statistics = {"norm": Tensor.norm}
# With these, and the norms of parameters and of their gradients, a naive hook keeps what gf.record(model) keeps.
EIGHT = SIX | {
    "row_std": lambda h: h.flatten(0, -2).var(dim=0).mean().sqrt(),
    "always_on": lambda h: (h > 0).flatten(0, -2).all(dim=0).float().mean(),
}
Floats = dict[tuple[str, str], list[float]]


def hook_naively(
    layers: dict[str, nn.Module], kept: Floats, forward: Statistics = SIX, backward: Statistics = NORM
) -> None:
    """Statistics of each output and of its gradient, each read at once and kept as a Python float."""

    def see_gradient(gradient: Tensor, name: str) -> None:
        for statistic, function in backward.items():
            kept[name, f"gradient {statistic}"].append(function(gradient).item())

    def see(module: nn.Module, inputs: tuple, output: Tensor | tuple, name: str) -> None:
        h = _first(output)
        for statistic, function in forward.items():
            kept[name, statistic].append(function(h.detach()).item())
        h.register_hook(partial(see_gradient, name=name))

    for name, module in layers.items():
        module.register_forward_hook(partial(see, name=name))


@contextmanager
def naive(make: Callable[[], Workload], forward: Statistics, backward: Statistics, parameters: bool = False) -> Pair:
    plain, recorded = subject(make), subject(make)
    kept: Floats = defaultdict(list)
    hook_naively(recorded.layers, kept, forward, backward)

    def step() -> None:
        recorded.workload.step()
        for name, one in recorded.model.named_parameters() if parameters else ():
            kept[name, "norm"].append(one.detach().norm().item())
            kept[name, "gradient norm"].append(one.grad.norm().item())

    yield turn(plain.workload.step), turn(step)


@contextmanager
def full_backward_hook(make: Callable[[], Workload]) -> Pair:
    plain, recorded = subject(make), subject(make)
    norms: list[Tensor] = []
    for module in recorded.layers.values():
        module.register_full_backward_hook(lambda module, inputs, outputs: norms.append(outputs[0].norm()))
    yield turn(plain.workload.step), turn(recorded.workload.step)


@contextmanager
def retain_grad(make: Callable[[], Workload]) -> Pair:
    """The figures of the four panels in makemore, part 3: activations, gradients, weight gradients, update ratios."""
    plain, recorded = subject(make), subject(make)
    outputs: list[Tensor] = []
    kept: list[list[float]] = []
    optimizer = recorded.workload.optimizer
    weights = [parameter for parameter in recorded.model.parameters() if parameter.ndim > 1]

    def see(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        outputs.append(_first(output))
        outputs[-1].retain_grad()

    for module in recorded.layers.values():
        module.register_forward_hook(see)

    @torch.no_grad()
    def step() -> None:
        with torch.enable_grad():
            recorded.workload.step()
        row = []
        for h in outputs:
            row += [h.mean().item(), h.std().item(), (h.abs() > 0.97).float().mean().item()]
            row += [h.grad.mean().item(), h.grad.std().item()]
        for weight in weights:
            gradient, size = weight.grad, weight.std()
            row += [gradient.mean().item(), gradient.std().item(), (gradient.std() / size).item()]
            row.append(((optimizer.param_groups[0]["lr"] * gradient).std() / size).log10().item())
        kept.append(row)
        outputs.clear()

    yield turn(plain.workload.step), turn(step)


class _Batches:
    """A loader that gives one batch `_FIT` times, and notes when each is asked for."""

    device = torch.device("cpu")

    def __init__(self, x: Tensor) -> None:
        self.x, self.times = x, [0.0]

    def __len__(self) -> int:
        return _FIT

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.times = []
        for _ in range(_FIT):
            self.times.append(time.thread_time())
            yield self.x, torch.zeros(())
        self.times.append(time.thread_time())


@contextmanager
def fastai(make: Callable[[], Workload]) -> Pair:
    from fastai.callback.hook import ActivationStats
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    def fit(one: Subject, callbacks: list) -> Turn:
        batches, adam = _Batches(one.x), partial(OptimWrapper, opt=torch.optim.Adam)
        loaders = DataLoaders(batches, [])
        learner = Learner(loaders, one.model, lambda output, _: one.loss(output), opt_func=adam, lr=1e-4, cbs=callbacks)

        def fitted() -> list[float]:
            with learner.no_logging():
                learner.fit(1)
            return [after - before for before, after in zip(batches.times, batches.times[1:])]

        return fitted

    plain, recorded = subject(make), subject(make)
    yield fit(plain, []), fit(recorded, [ActivationStats(modules=list(recorded.layers.values()))])


@contextmanager
def wandb(make: Callable[[], Workload]) -> Pair:
    import wandb

    plain, recorded = subject(make), subject(make)
    with tempfile.TemporaryDirectory() as folder:
        with wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True)) as run:
            run.watch(recorded.model, log="gradients", log_freq=1)
            clock = time.perf_counter
            yield turn(plain.workload.step, clock), turn(lambda: (recorded.workload.step(), run.log({})), clock)
            run.unwatch(recorded.model)


@contextmanager
def torchlens(make: Callable[[], Workload]) -> Pair:
    import torchlens

    plain, recorded = subject(make), subject(make)
    optimizer, shape = recorded.workload.optimizer, recorded.model(recorded.x).shape

    def step() -> None:
        optimizer.zero_grad()
        output = torchlens.trace(recorded.model, recorded.x)[-1].out
        assert output.shape == shape and output.requires_grad, "torchlens: its last operation is not the model's output"
        recorded.loss(output).backward()
        optimizer.step()

    yield turn(plain.workload.step), turn(step)
