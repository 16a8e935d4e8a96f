"""The training loop of the course, and the accuracy it is judged by."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from gradflow_utils.data import Digits, Split

Item = TypeVar("Item")


def train(
    model: nn.Module,
    data: Digits | Split | tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    batch_size: int = 64,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Train `model` on shuffled mini-batches and return the loss of each step.

    Args:
        model: maps inputs [rows, ...] to what `loss_fn` takes. It is put into training mode.
        data: `digits()`, of which it takes the training split, or a pair (x, y) of equal length.
        optimizer: holds the parameters of `model`.
        steps: how many batches to take; the data are shuffled anew whenever they are used up.
        batch_size: rows per step.
        loss_fn: (output, labels) -> scalar loss.
        seed: seeds the order of the batches and nothing else.
        progress: show a progress bar.

    Returns:
        A tensor [steps].

    Raises:
        ValueError: the model has no parameters or does not take the batch, the optimizer belongs
            to another model, x and y differ in length, or the loss is no scalar. The message says
            what came and what was expected.
    """
    check_has_parameters(model)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held and parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("optimizer: it holds no trainable parameter of this model; make a new optimizer after each new model")
    x, y, batches = shuffled_batches(data, steps, batch_size, seed)
    losses = []
    model.train()
    for rows in progress_bar(batches, "training", show=progress):
        loss = _loss(model, x[rows], y[rows], loss_fn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def train_together(
    models: Sequence[nn.Module],
    data: Digits | Split | tuple[Tensor, Tensor],
    rates: Sequence[float],
    steps: int,
    *,
    momentum: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Train many classifiers of one shape at once by SGD, each at its own learning rate.

    Every model ends where `train` with `torch.optim.SGD(..., lr=rate, momentum=momentum)` takes it,
    but for rounding: one stacked computation serves all, which saves time where each of them is small.
    A model that diverges does not disturb the others. Frozen parameters (requires_grad=False) stay.

    Args:
        models: of equal structure, such as many draws of one `mlp`; put into training mode and
            trained in place. All but their parameters and buffers is taken from the first. They may
            not hold running statistics or dropout.
        data, steps, batch_size, seed, progress: as for `train`; all models see the same batches.
        rates: one learning rate for each model.
        momentum: of SGD, for all models.

    Returns:
        The cross-entropy before each step [steps, models].

    Raises:
        ValueError: the models differ in structure, have no parameters, hold dropout or running
            statistics, or there are not as many rates as models.
    """
    models = list(models)
    if not models or len(rates) != len(models):
        raise ValueError(f"rates: got {len(rates)} for {len(models)} models, expected one for each of at least one model")
    shapes = [{name: (p.shape, p.requires_grad) for name, p in model.named_parameters()} for model in models]
    if any(shape != shapes[0] or str(model) != str(models[0]) for model, shape in zip(models, shapes)):
        raise ValueError("models: they differ in structure, and can only be stacked if all have the same layers; group them by structure")
    for model in models:
        check_has_parameters(model)
        model.train()
    if any(isinstance(layer, nn.Dropout) or getattr(layer, "track_running_stats", False) for layer in models[0].modules()):
        raise ValueError("models: dropout and running statistics cannot be stacked; leave them out, or use train for one model at a time")

    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    outputs = vmap(lambda own, fixed, x: functional_call(skeleton, (own, fixed), (x,)), in_dims=(0, 0, None))
    stacks = [stack for stack in parameters.values() if stack.requires_grad]
    velocities = [torch.zeros_like(stack) for stack in stacks]
    columns = [torch.as_tensor(rates, dtype=stack.dtype).view(-1, *[1] * (stack.ndim - 1)) for stack in stacks]
    x, y, batches = shuffled_batches(data, steps, batch_size, seed)
    losses = []
    for rows in progress_bar(batches, f"training {len(models)} networks", show=progress):
        scores = outputs(parameters, buffers, x[rows]).transpose(0, 1)  # [rows, models, classes]
        labels = y[rows, None].expand(-1, len(models))
        loss = F.cross_entropy(scores.transpose(1, 2), labels, reduction="none").mean(0)
        gradients = torch.autograd.grad(loss.sum(), stacks, materialize_grads=True)  # 0 for a part that is not used
        with torch.no_grad():
            for stack, velocity, gradient, rate in zip(stacks, velocities, gradients, columns):
                torch.add(gradient, velocity, alpha=momentum, out=velocity)
                stack.addcmul_(rate, velocity, value=-1)
        losses.append(loss.detach())
    with torch.no_grad():
        for index, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.copy_(parameters[name][index])
    return torch.stack(losses)


def accuracy(model: nn.Module, split: Split | tuple[Tensor, Tensor]) -> float:
    """The share of rows that `model`, in evaluation mode, gives the right label (0 to 1).

    Args:
        model: maps inputs [rows, ...] to scores [rows, classes]. It is left in the mode it was in.
        split: inputs and labels [rows], such as `digits().test`.
    """
    if isinstance(split, Digits):
        raise ValueError("split: got all of the digits, expected one split, such as data.validation or data.test")
    x, y = split
    if y.shape != (len(x),):
        raise ValueError(f"split: got labels of shape {tuple(y.shape)}, expected ({len(x)},), one for each input; try y.flatten()")
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return (model(x).argmax(dim=1) == y).float().mean().item()
    finally:
        for module, mode in training.items():
            module.training = mode


def progress_bar(items: Sequence[Item], label: str, *, show: bool = True) -> Iterable[Item]:
    """Iterate over `items` and draw a bar with the time left, as plain text on stdout.

    Plain text works in every notebook program, and its last line holds no timing: a stored
    notebook can be compared with a new run.
    """
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}, {remaining} left"
    return tqdm(items, desc=label, file=sys.stdout, ncols=80, bar_format=form, disable=not show)


def shuffled_batches(
    data: Digits | Split | tuple[Tensor, Tensor], steps: int, batch_size: int, seed: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Inputs, labels, and the rows of each of `steps` batches: shuffled anew whenever they are used up."""
    x, y = data.train if isinstance(data, Digits) else data
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"data: got {len(x)} inputs and {len(y)} labels, expected equal numbers, at least 1")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps, batch_size: got {steps} and {batch_size}, expected at least 1 each")
    order = torch.Generator().manual_seed(seed)
    batches: list[Tensor] = []
    while len(batches) < steps:
        batches += torch.randperm(len(x), generator=order).split(batch_size)
    return x, y, batches[:steps]


def check_has_parameters(model: nn.Module) -> None:
    """Raise ValueError unless `model` has parameters, and all of them have their shape."""
    if next(model.parameters(), None) is None:
        raise ValueError(f"model: {type(model).__name__} has no parameters, so it has no gradients; pass the whole network")
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in model.parameters()):
        raise ValueError("model: it has lazy layers whose shape is not known yet; run one batch through it first")


def _loss(model: nn.Module, x: Tensor, y: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    try:
        output = model(x)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        name, first = next(model.named_parameters())
        raise ValueError(
            f"data: the model cannot take a batch of shape {tuple(x.shape)} and type {x.dtype}; "
            f"its first parameter, {name}, has shape {tuple(first.shape)} and type {first.dtype}. torch says: {error}"
        ) from error
    loss = loss_fn(output, y)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn: returned {came}, expected a scalar tensor; take the mean over the batch")
    return loss
