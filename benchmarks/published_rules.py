"""Published rules on gradient flow, with their published defaults, as judges of the labelled networks of a bank.

| judge | rule | default | named here as |
|---|---|---|---|
| SageMaker Debugger | DeadRelu | over 50 % of a ReLU's nodes active on under 1 % of the rows | dead |
| | ExplodingTensor | NaN or infinity in any tensor | non-finite |
| | PoorWeightInitialization | ReLU input variances over 10 apart | exploding if the larger is deeper, else vanishing |
| | (first 10 steps) | 5th to 95th percentile of some gradient span under 0.001 | vanishing |
| | SaturatedActivation | over 50 % of the nodes inside the bounds below on under 1 % of the rows | saturated |
| | VanishingGradient | mean absolute gradient of some parameter under 1e-7 | vanishing |
| | WeightUpdateRatio | update / weight over 10, under 1e-8 | update too large, update too small |
| | AllZero | 100 % of the values of an activation's output are 0 | dead |
| | UnchangedTensor | three losses in a row equal within rtol 1e-5, atol 1e-8 | update too small |
| AUTOTRAINER | gradient vanish | first / last kernel gradient under 1e-3 and first under 1e-4 (norms) | vanishing |
| | gradient explode | first / last kernel gradient over 70, or loss at least 1e5 | exploding |
| | | NaN or infinity in the loss, a weight or a gradient | non-finite |
| | dying ReLU | at least 70 % of all gradient values are 0 | dead |
| absolute thresholds | | norm of some gradient under 1e-7, over 100, infinite | vanishing, exploding, non-finite |
| | | a parameter that should learn has no gradient | disconnected |
| | | over 90 % of a ReLU module's outputs are 0 | dead |

A rule fires if its condition holds at any step, as it would stop a job there. Sources: "List of Debugger built-in
rules", Amazon SageMaker Developer Guide, and `smdebug/pytorch/hook.py` of sagemaker-debugger for what a hook sees; the
code of the rules is not public, and where the guide leaves a choice open, the docstring names the reading. Zhang, Zhai,
Ma and Shen, "AUTOTRAINER: An Automatic DNN Training Problem Detection and Repair System", ICSE 2021, with thresholds
from `utils/monitor.py` and `reproduce.py` of its code. The absolute thresholds have no canonical source: they are ones
often met in blog posts and public training scripts.

Not judged: LossNotDecreasing (of the loss, not of the flow); TensorVariance (no default thresholds); oscillating loss
and slow convergence of AUTOTRAINER (both need accuracies per epoch, over 30 % of a whole training), so that it cannot
name an update that is too large or too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bank_case import Case, Trial
from torch import Tensor, nn

ACTIVATION_MODULES = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU)
SATURATION_BOUNDS = {nn.Tanh: (-9.4999, 9.4999), nn.Sigmoid: (-23.0, 16.99999)}


@dataclass(frozen=True)
class Step:
    """What hooks see of one training step: copies, detached.

    Attributes:
        loss: the value before the update.
        calls: (module, its first input, its outputs) of each call of a module; functional activations have none.
        gradients: of the parameters that got one; `missing` is how many others require one.
        before, after: all parameters, around the update.
        kernels: names of the parameters of two and more dimensions that learn, without embeddings, in order.
    """

    loss: float
    calls: list[tuple[nn.Module, Tensor | None, list[Tensor]]]
    gradients: dict[str, Tensor]
    missing: int
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    kernels: list[str]

    def relus(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(input, output) of each call of an `nn.ReLU`."""
        return ((x, h[0]) for module, x, h in self.calls if isinstance(module, nn.ReLU) and x is not None)


def record(trial: Trial) -> list[Step]:
    """Train for `trial.steps` steps and keep what the rules look at."""
    calls: list[tuple[nn.Module, Tensor | None, list[Tensor]]] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.append((module, next(_tensors(inputs), None), list(_tensors(output))))

    embeddings = {id(m.weight) for m in trial.model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    learning = {name: p for name, p in trial.model.named_parameters() if p.requires_grad}
    kernels = [name for name, p in learning.items() if p.ndim > 1 and id(p) not in embeddings]
    for module in trial.model.modules():
        module.register_forward_hook(keep)
    steps = []
    for number in range(trial.steps):
        calls = []
        x, y = trial.batch(number)
        loss = trial.loss_fn(trial.model(x), y)
        trial.optimizer.zero_grad()
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in learning.items() if p.grad is not None}
        before = _parameters(trial.model)
        trial.optimizer.step()
        after, missing = _parameters(trial.model), len(learning) - len(gradients)
        steps.append(Step(loss.item(), calls, gradients, missing, before, after, kernels))
    return steps


def dead_relu(step: Step) -> set[str]:
    """DeadRelu: threshold_inactivity 1.0 %, threshold_layer 50.0 %.

    Its default pattern ".*relu_output" sees only PyTorch modules whose attribute name ends in "relu". To its advantage,
    it sees every `nn.ReLU` here. A node is one element of the output, its rows are axis 0.
    """
    active = ((h > 0).double().mean(0) for _, h in step.relus())  # of each node, the share of rows
    return {"dead"} if any((share < 0.01).double().mean() > 0.5 for share in active) else set()


def exploding_tensor(step: Step) -> set[str]:
    """ExplodingTensor: only_nan False, on all tensors: outputs of modules, parameters, gradients and the loss."""
    tensors = (*(h for _, _, hs in step.calls for h in hs), *step.gradients.values(), *step.before.values())
    return {"non-finite"} if not math.isfinite(step.loss) or not all(map(_finite, tensors)) else set()


def poor_weight_initialization(step: Step) -> set[str]:
    """PoorWeightInitialization: threshold 10.0, distribution_range 0.001; judged on the first 10 steps.

    The guide says of each that "the rule returns True": one suffices. Its third check, of the loss, names no fault of
    flow. `nn.ReLU` stands for ".*relu_input"; biases and embeddings, whose gradients hardly spread, are left out.
    """
    kinds = set()
    variances = [x.double().var().item() for x, _ in step.relus() if x.numel() > 1]
    if variances and max(variances) > 10 * min(variances):
        grows = variances.index(max(variances)) > variances.index(min(variances))
        kinds.add("exploding" if grows else "vanishing")
    ends = torch.tensor([0.05, 0.95], dtype=torch.float64)
    kernels = [g.double().flatten() for name, g in step.gradients.items() if name in step.kernels]
    return kinds | {"vanishing"} if any(torch.quantile(g, ends).diff() < 0.001 for g in kernels) else kinds


def saturated_activation(step: Step) -> set[str]:
    """SaturatedActivation: threshold_tanh +-9.4999, threshold_sigmoid -23 and 16.99999, inactivity 1.0 %, layer 50.0 %.

    A node is one element of the input. `nn.Tanh` and `nn.Sigmoid` stand for ".*tanh_input|.*sigmoid_input".
    """
    for module, x, _ in step.calls:
        if type(module) in SATURATION_BOUNDS and x is not None:
            low, high = SATURATION_BOUNDS[type(module)]
            active = ((x > low) & (x < high)).double().mean(0)
            if (active < 0.01).double().mean() > 0.5:
                return {"saturated"}
    return set()


def vanishing_gradient(step: Step) -> set[str]:
    """VanishingGradient: threshold 1e-7 on the mean absolute gradient of each parameter."""
    return {"vanishing"} if any(g.abs().mean() < 1e-7 for g in step.gradients.values()) else set()


def weight_update_ratio(step: Step) -> set[str]:
    """WeightUpdateRatio: large_threshold 10.0, small_threshold 1e-8, epsilon 1e-9, between consecutive steps.

    Read as mean |update| / (mean |weight| + epsilon) of each parameter with "weight" in its name, frozen ones too.
    """
    weights = [(w.double(), step.after[name].double()) for name, w in step.before.items() if "weight" in name]
    ratios = [(after - w).abs().mean() / (w.abs().mean() + 1e-9) for w, after in weights]
    kinds = {"update too large"} if any(ratio > 10 for ratio in ratios) else set()
    return kinds | {"update too small"} if any(ratio < 1e-8 for ratio in ratios) else kinds


def all_zero(step: Step) -> set[str]:
    """AllZero: threshold 100 %. To be told what to watch: here outputs of activations, as biases may start at 0."""
    outputs = (h[0] for module, _, h in step.calls if isinstance(module, ACTIVATION_MODULES))
    return {"dead"} if any((h == 0).all() for h in outputs) else set()


def unchanged_tensor(losses: Sequence[float]) -> set[str]:
    """UnchangedTensor: num_steps 3, rtol 1e-5, atol 1e-8. To be told what to watch: here losses, as in the guide."""
    same = [abs(a - b) <= 1e-8 + 1e-5 * abs(b) for a, b in zip(losses, losses[1:])]
    return {"update too small"} if any(one and two for one, two in zip(same, same[1:])) else set()


def sagemaker_debugger(case: Case, seed: int) -> set[str]:
    """All that the built-in rules of Amazon SageMaker Debugger find."""
    steps = record(case.build(seed))
    every_step = (dead_relu, exploding_tensor, saturated_activation, vanishing_gradient, weight_update_ratio, all_zero)
    found = [rule(step) for rule in every_step for step in steps]
    found += [poor_weight_initialization(step) for step in steps[:10]]
    return unchanged_tensor([step.loss for step in steps]).union(*found)


def autotrainer_step(step: Step) -> set[str]:
    """The flow problems of AUTOTRAINER: beta_1 1e-3, beta_2 1e-4, beta_3 70, gamma 0.7; the first that holds is named.

    The tool names them only of a network below an accuracy of 0.7 (Theta), which is taken as given after so few steps.
    It takes a fixed batch in inference mode after an epoch and the validation loss; here it is each step's batch and
    loss in training mode, since running statistics are not settled after a few steps.
    """
    gradients = {name: g for name, g in step.gradients.items() if name in step.kernels or g.ndim == 1}
    if not math.isfinite(step.loss) or not all(map(_finite, (*gradients.values(), *step.after.values()))):
        return {"non-finite"}
    if step.loss >= 1e5:
        return {"exploding"}
    values = sum(g.numel() for g in gradients.values())
    if values and sum((g == 0).sum().item() for g in gradients.values()) >= 0.7 * values:
        return {"dead"}
    norms = [gradients[name].double().norm() for name in step.kernels if name in gradients]
    ratio = norms[0] / norms[-1] if norms else torch.tensor(1.0)  # 0 / 0 is NaN: no rule fires, as in the tool
    if ratio > 70:
        return {"exploding"}
    return {"vanishing"} if ratio < 1e-3 and norms[0] < 1e-4 else set()


def autotrainer(case: Case, seed: int) -> set[str]:
    """The first problem that AUTOTRAINER finds; not on the first step, as it first looks after an epoch."""
    return next(filter(None, map(autotrainer_step, record(case.build(seed))[1:])), set())


def absolute_step(step: Step) -> set[str]:
    """Gradient norm under 1e-7 (others: 1e-6), over 100 (10, 1000); over 90 % zeros (50 %, as a healthy ReLU gives)."""
    norms = {name: g.double().norm().item() for name, g in step.gradients.items()}
    found = {
        "vanishing": any(norm < 1e-7 for norm in norms.values()),
        "exploding": any(100 < norm < math.inf for norm in norms.values()),
        "non-finite": not all(map(math.isfinite, (step.loss, *norms.values()))),
        "disconnected": step.missing > 0,
        "dead": any((h == 0).double().mean() > 0.9 for _, h in step.relus()),
    }
    return {kind for kind, holds in found.items() if holds}


def absolute_thresholds(case: Case, seed: int) -> set[str]:
    """All that the absolute thresholds of blog posts find."""
    return set().union(*map(absolute_step, record(case.build(seed))))


JUDGES: dict[str, Callable[[Case, int], set[str]]] = {
    "SageMaker Debugger": sagemaker_debugger,
    "AUTOTRAINER": autotrainer,
    "absolute thresholds": absolute_thresholds,
}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value.detach().clone()
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
