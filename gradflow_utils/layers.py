"""What counts as a layer: the activations of a network, as modules or as functions, and what is known of each."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import is_dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from gradflow_utils.activations import ACTIVATIONS, SATURATED_BELOW, Activation

_BY_MODULE = {type(entry.module()): entry for entry in ACTIVATIONS.values()}
# Activations that are called as functions: what is intercepted, and its name in the catalogue.
_FUNCTIONS: dict[Callable, str] = {
    function: name
    for name in ACTIVATIONS
    for home in (F, torch, Tensor)
    for function in (getattr(home, name, None), getattr(home, f"{name}_", None))
    if function is not None
}
_PIECEWISE_LINEAR = {"relu", "relu6", "leaky_relu"}  # a unit that is positive on every row is a linear unit
_OWN_ACTIVATION = re.compile(r"relu|gelu|silu|swish|mish|elu|tanh|sigmoid|activation", re.IGNORECASE)


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an elementwise activation, of torch or, by its name, of somebody else."""
    if type(module) in _BY_MODULE:
        return True
    if list(module.children()) or re.search(r"[Ss]oft(max|min)", type(module).__name__):
        return False
    if type(module).__module__.startswith("torch.nn."):
        return type(module).__module__ == "torch.nn.modules.activation" and not isinstance(
            module, nn.MultiheadAttention
        )
    return not list(module.parameters()) and _OWN_ACTIVATION.search(type(module).__name__) is not None


def catalogue_entry(module: nn.Module) -> Activation | None:
    """What the catalogue says of an activation module, with the module's own settings; None if it says nothing."""
    entry = _BY_MODULE.get(type(module))
    if isinstance(module, nn.ELU):  # its slope is h + alpha on the negative side and 1 on the other
        return replace(entry, flat_below=SATURATED_BELOW * max(1, module.alpha) - module.alpha)
    if entry is None and is_activation(module):  # such as NewGELUActivation of transformers
        alike = re.search(r"gelu|silu|swish", type(module).__name__.lower())
        return ACTIVATIONS[{"swish": "silu"}.get(alike.group(), alike.group())] if alike else None
    return entry


def function_name(function: Callable) -> str | None:
    """The catalogue's name of an activation function such as F.relu, torch.tanh or Tensor.sigmoid."""
    return _FUNCTIONS.get(function)


def is_weighted(module: nn.Module) -> bool:
    """Whether a module holds a weight matrix or kernel itself."""
    return any(one.ndim > 1 for one in own_parameters(module)) and not _is_norm(module)


def own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module itself, those behind a parametrization such as weight_norm among them."""
    if isinstance(module, ParametrizationList):
        return []
    behind = module.parametrizations.parameters() if is_parametrized(module) else ()
    return [*module.parameters(recurse=False), *behind]


def weight_names(model: nn.Module) -> set[str]:
    """The names of the parameters that are weight matrices or kernels, not biases or the scales of a norm."""
    scales = {scale for module in model.modules() if _is_norm(module) for scale in module.parameters(recurse=False)}
    return {name for name, one in model.named_parameters() if one.ndim > 1 and one not in scales}


def channel_dimensions(model: nn.Module) -> dict[nn.Module, int]:
    """Which dimension of each module's output holds its units: 1 after a convolution, else the last.

    A module without parameters takes it from the module registered before it, the first ones from the first that has.
    """
    channels_first = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
    own = {
        module: 1 if isinstance(module, channels_first) else -1 for module in model.modules() if own_parameters(module)
    }
    dimension, dimensions = next(iter(own.values()), -1), {}
    for module in model.modules():
        dimension = dimensions[module] = own.get(module, dimension)
    return dimensions


def floating_tensors(output: object) -> Iterator[Tensor]:
    """The floating-point tensors of a module's output, depth first."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
        return
    if is_dataclass(output):
        output = vars(output)
    for part in output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ():
        yield from floating_tensors(part)


def counts_always_on(entry: Activation) -> bool:
    """Whether "always on" means something: the activation is linear where it is positive."""
    return entry.name in _PIECEWISE_LINEAR


def _is_norm(module: nn.Module) -> bool:
    return re.search(r"Norm", type(module).__name__) is not None


def run_uncompiled(model: nn.Module, stack: ExitStack) -> nn.Module:
    """The model behind torch.compile; what is compiled runs eagerly until the stack closes."""
    if "torch._dynamo" not in sys.modules:
        return model
    from torch._dynamo.eval_frame import OptimizedModule

    if hasattr(torch.compiler, "set_stance"):
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    elif any(
        isinstance(module, OptimizedModule) or module._compiled_call_impl is not None for module in model.modules()
    ):
        raise ValueError("model: it is compiled; record it before torch.compile, or with torch 2.6 or later")
    return model._orig_mod if isinstance(model, OptimizedModule) else model
