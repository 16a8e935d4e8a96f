"""Recording what flows through a network: activations forward, gradients backward, step by step."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradflow_utils.activations import ACTIVATIONS, SATURATED_BELOW, Activation
from gradflow_utils.training import check_has_parameters

if TYPE_CHECKING:
    import pandas

LAYER_QUANTITIES = ("mean", "std", "row_std", "min", "max", "saturated", "dead", "grad_norm")
PARAMETER_QUANTITIES = ("weight_norm", "weight_grad_norm")
DECIDABLE_ROWS = 16  # with fewer rows in the batch, whether a unit is dead stays undecided

_BY_MODULE = {type(entry.module()): entry for entry in ACTIVATIONS.values()}


@dataclass(repr=False, eq=False)
class FlowRecord:
    """What `record` saw: one row per step, one column per layer or parameter.

    `flow["grad_norm"]` is a float64 tensor [steps, columns]. The columns of a layer quantity are
    named by `flow.layers`, in the order in which the layers ran:

        mean, std, min, max   over all values of the layer's output
        row_std               the signal: how much the output differs between the rows of the batch
                              (standard deviation over rows, root mean square over units)
        saturated             share of outputs where the slope is below 6 % of its maximum; NaN
                              for activations that do not saturate
        dead                  share of ReLU units without a positive output on any row; NaN for
                              other layers and for batches of fewer than 16 rows
        grad_norm             Euclidean norm of dL/d(output), over the whole batch

    The columns of a parameter quantity are named by `flow.parameters`:

        weight_norm           Euclidean norm of the parameter when the step began
        weight_grad_norm      Euclidean norm of its gradient after the backward pass

    NaN stands for "there was none": a frozen parameter, a layer that the loss does not reach.
    """

    layers: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    _matrices: set[str] = field(default_factory=set)
    _rows: list[dict[tuple[str, str], Tensor]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"FlowRecord({len(self)} steps, {len(self.layers)} layers, {len(self.parameters)} parameters)"

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def weights(self) -> list[str]:
        """The parameters that are weight matrices or kernels: not the biases, not the scales of a norm."""
        return [name for name in self.parameters if name in self._matrices]

    def __getitem__(self, quantity: str) -> Tensor:
        """All steps of one quantity, float64 [steps, columns].

        Raises:
            KeyError: no such quantity; the message lists those there are.
        """
        if quantity in LAYER_QUANTITIES:
            names = self.layers
        elif quantity in PARAMETER_QUANTITIES:
            names = self.parameters
        else:
            raise KeyError(f"{quantity!r} is not recorded; expected one of {', '.join(LAYER_QUANTITIES + PARAMETER_QUANTITIES)}")
        missing = torch.tensor(math.nan)
        values = [row.get((name, quantity), missing) for row in self._rows for name in names]
        return torch.tensor([float(value) for value in values], dtype=torch.float64).reshape(len(self), len(names))

    def to_frame(self) -> pandas.DataFrame:
        """A tidy table with the columns step, name (of the layer or parameter), quantity and value."""
        import pandas

        records = []
        for quantity in LAYER_QUANTITIES + PARAMETER_QUANTITIES:
            names = self.layers if quantity in LAYER_QUANTITIES else self.parameters
            for step, row in enumerate(self[quantity].tolist()):
                records += [(step, name, quantity, value) for name, value in zip(names, row)]
        return pandas.DataFrame(records, columns=["step", "name", "quantity", "value"])


@contextmanager
def record(model: nn.Module) -> Iterator[FlowRecord]:
    """Record activations, activation gradients and weight gradients of `model` inside a with block.

        with gf.record(net) as flow:
            loss_fn(net(x), y).backward()

    Each forward pass of `model` in training mode with gradients enabled begins a step, and the
    gradients of the backward pass that follows belong to it. Layers are the activation modules
    (`nn.Tanh`, `nn.ReLU`, ...); a model that has fewer than half as many as weight matrices, because
    it calls `F.relu` and the like, is recorded at its modules without children instead.
    A layer that runs twice in one forward pass gets one column per call: `act`, `act:1`.

    The hooks live exactly as long as the block. If an exception ends it, the step that was under
    way is dropped, the finished steps are kept, and the exception passes on. A copy or a pickle
    that is made of the model inside the block records nothing.

    Args:
        model: any module with parameters.

    Yields:
        The `FlowRecord`, which fills as the block runs.

    Raises:
        ValueError: the model has no parameters.
    """
    check_has_parameters(model)
    recorder = _Recorder(model)
    try:
        yield recorder.flow
    except BaseException:
        if recorder.row is not None:
            del recorder.flow._rows[-1]
        raise
    finally:
        recorder.remove()
    if not recorder.flow._rows or not recorder.flow.layers:
        warnings.warn(
            "nothing was recorded: inside the block, call the model itself, in training mode "
            "(model.train()) and with gradients enabled; record a model before you compile it",
            stacklevel=3,
        )


class _Recorder:
    """Holds the hooks of one `record` block and writes what they see into its FlowRecord."""

    def __init__(self, model: nn.Module) -> None:
        self.flow = FlowRecord()
        self.calls: Counter[nn.Module] = Counter()  # in the forward pass under way
        self.row: dict[tuple[str, str], Tensor] | None = None  # of the step under way
        self.in_forward = False
        modules = {module: name or type(model).__name__ for name, module in model.named_modules()}
        self.layers = {module: name for module, name in modules.items() if _is_activation(module)}
        weighted = sum(any(one.ndim > 1 for one in module.parameters(recurse=False)) for module in modules)
        if not self.layers or len(self.layers) < weighted / 2:  # F.relu and the like cannot be seen
            self.layers = {module: name for module, name in modules.items() if not list(module.children())}
        self.parameters = dict(model.named_parameters())
        self.flow.parameters = list(self.parameters)
        scales = {scale for module in modules if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) for scale in module.parameters()}
        self.flow._matrices = {name for name, one in self.parameters.items() if one.ndim > 1 and one not in scales}

        self.handles = [model.register_forward_pre_hook(self.begin_step)]
        self.handles += [module.register_forward_hook(self.see_output) for module in self.layers]
        self.handles += [model.register_forward_hook(self.end_forward)]
        for name, parameter in self.parameters.items():
            if parameter.requires_grad:
                hook = self.weight_gradient_hook(name)
                self.handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def __reduce__(self):
        # A copy or a pickle of the model takes its hooks along; they get a recorder of a model without layers.
        return _Recorder, (nn.Identity(),)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.row = None
        self.parameters = {}  # the gradient hooks of a graph that is still alive know by this that the block is over

    def begin_step(self, model: nn.Module, inputs: tuple) -> None:
        self.calls.clear()
        self.row = None
        self.in_forward = True
        if model.training and torch.is_grad_enabled() and self.parameters:
            self.row = {(name, "weight_norm"): _norm(parameter) for name, parameter in self.parameters.items()}
            self.flow._rows.append(self.row)

    def end_forward(self, model: nn.Module, inputs: tuple, output: object) -> None:
        self.in_forward = False  # what runs from here on is no part of it: a layer called alone, checkpointing

    def see_output(self, module: nn.Module, inputs: tuple, output: object) -> None:
        row, tensor = self.row, _first_tensor(output)
        if row is None or not self.in_forward or tensor is None:
            return
        call = self.calls[module]
        self.calls[module] += 1
        name = f"{self.layers[module]}:{call}" if call else self.layers[module]
        if name not in self.flow.layers:
            self.flow.layers.append(name)
        for quantity, value in _statistics(module, tensor.detach()).items():
            row[name, quantity] = value
        if tensor.requires_grad:

            def see_gradient(gradient: Tensor) -> None:
                if self.parameters:
                    row[name, "grad_norm"] = _norm(gradient)

            tensor.register_hook(see_gradient)

    def weight_gradient_hook(self, name: str) -> Callable[[Tensor], None]:
        def see_gradient(parameter: Tensor) -> None:
            if self.row is not None and parameter.grad is not None:
                self.row[name, "weight_grad_norm"] = _norm(parameter.grad)

        return see_gradient


def _is_activation(module: nn.Module) -> bool:
    of_torch = type(module).__module__ == "torch.nn.modules.activation" and not list(module.children())
    elementwise = not re.search(r"[Ss]oft(max|min)", type(module).__name__)
    return of_torch and elementwise or type(module) in _BY_MODULE


def _catalogue_entry(module: nn.Module) -> Activation | None:
    """What the catalogue says of an activation module, with the module's own settings."""
    entry = _BY_MODULE.get(type(module))
    if isinstance(module, nn.ELU):  # its slope is h + alpha on the negative side and 1 on the other
        entry = replace(entry, flat_below=SATURATED_BELOW * max(1, module.alpha) - module.alpha)
    return entry


def _norm(tensor: Tensor) -> Tensor:
    """The Euclidean norm, in float64: the squares of a vanishing gradient are 0 in float32."""
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    return tensor.detach().to(wide).norm()


def _first_tensor(output: object) -> Tensor | None:
    """The first floating-point tensor of a module's output, depth first."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return next((tensor for tensor in map(_first_tensor, parts) if tensor is not None), None)


def _statistics(module: nn.Module, output: Tensor) -> dict[str, Tensor]:
    """The forward statistics of one layer output, each a tensor without dimensions."""
    if output.numel() == 0:
        return {}
    if output.element_size() < 4:  # sums of squares overflow in half precision
        output = output.float()
    low, high = output.aminmax()
    std = output.std(correction=0)
    row_std = (output - output.mean(dim=0)).norm() / math.sqrt(output.numel()) if output.ndim > 1 else std
    statistics = {"mean": output.mean(), "std": std, "row_std": row_std, "min": low, "max": high}
    entry = _catalogue_entry(module)
    if entry is not None and entry.saturates:
        statistics["saturated"] = entry.saturated(output).float().mean()
    if type(module) is nn.ReLU and output.ndim > 1 and len(output) >= DECIDABLE_ROWS:
        statistics["dead"] = (output.amax(dim=0) <= 0).float().mean()  # a unit that gives NaN is not dead
    return statistics
