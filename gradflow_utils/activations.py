"""The activation catalogue: function, slope, saturation rule and gain of each activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SATURATED_BELOW = 0.06  # a value is saturated where the slope is below this share of the largest slope


class Identity(nn.Identity):
    """The identity as an activation; a plain `nn.Identity` is usually a placeholder and is not recorded as one."""


@dataclass(frozen=True)
class Activation:
    """One elementwise activation function.

    Attributes:
        name: the key under which `activation` finds it.
        function: maps pre-activations z to activations h of the same shape.
        module: makes the `torch.nn` module that computes `function`.
        gain: weights drawn with standard deviation gain / sqrt(fan_in) suit this activation:
            1 for sigmoid and tanh (Glorot and Bengio 2010, eq. 12, on square layers),
            sqrt(2 / (1 + a^2)) for ReLU and for leaky ReLU of slope a (He et al. 2015, eq. 10 and 15),
            1 for SELU (Klambauer et al. 2017). ELU, GELU and SiLU have no textbook gain: they get He's.
        flat_below, flat_above: outputs beyond these bounds are saturated; None where the
            activation does not saturate on that side.
        dead_below: up to this pre-activation the slope is below 5 %; None where the activation has
            no dead side.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    module: Callable[[], nn.Module]
    gain: float
    flat_below: float | None = None
    flat_above: float | None = None
    dead_below: float | None = None

    def slope(self, z: Tensor) -> Tensor:
        """The derivative at each pre-activation, as autograd computes it in training.

        Args:
            z: floating-point pre-activations of any shape.

        Returns:
            A tensor like `z`. At the kink of the ReLU family it holds torch's choice, the left slope.
        """
        if not z.is_floating_point():
            raise TypeError(f"z: expected a floating-point tensor, got {z.dtype}; convert it with z.float()")
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.function(z).sum(), z)[0]

    @property
    def saturates(self) -> bool:
        """Whether the curve goes flat on at least one side while its output stays away from zero."""
        return self.flat_below is not None or self.flat_above is not None

    def saturated(self, h: Tensor) -> Tensor:
        """Which outputs are saturated: those where the slope is below 6 % of the largest slope.

        Args:
            h: outputs of the activation (not pre-activations), of any shape.

        Returns:
            A boolean tensor like `h`; all False for an activation that does not saturate.
        """
        flat = torch.zeros_like(h, dtype=torch.bool)
        if self.flat_below is not None:
            flat |= h < self.flat_below
        if self.flat_above is not None:
            flat |= h > self.flat_above
        return flat


# The bounds solve "slope = 6 % of the largest slope" for the output h:
# tanh' = 1 - h^2, sigmoid' = h (1 - h), ELU' = h + 1 and SELU' = h + SELU_FLOOR on the negative side.
_TANH_FLAT = math.sqrt(1 - SATURATED_BELOW)
_SIGMOID_FLAT = (1 + _TANH_FLAT) / 2
_SELU_FLOOR = 1.0507009873554805 * 1.6732632423543772
_LEAK = 0.01
_HE_GAIN = math.sqrt(2)

ACTIVATIONS: dict[str, Activation] = {
    entry.name: entry
    for entry in (
        Activation("identity", lambda z: z, Identity, 1.0),
        Activation("sigmoid", torch.sigmoid, nn.Sigmoid, 1.0, 1 - _SIGMOID_FLAT, _SIGMOID_FLAT),
        Activation("tanh", torch.tanh, nn.Tanh, 1.0, -_TANH_FLAT, _TANH_FLAT),
        Activation("relu", F.relu, nn.ReLU, _HE_GAIN, dead_below=0.0),
        Activation("relu6", F.relu6, nn.ReLU6, _HE_GAIN, flat_above=6 - 1e-6, dead_below=0.0),
        Activation("leaky_relu", F.leaky_relu, nn.LeakyReLU, math.sqrt(2 / (1 + _LEAK**2))),
        Activation("elu", F.elu, nn.ELU, _HE_GAIN, flat_below=SATURATED_BELOW - 1),
        Activation("selu", F.selu, nn.SELU, 1.0, flat_below=(SATURATED_BELOW - 1) * _SELU_FLOOR),
        Activation("gelu", F.gelu, nn.GELU, _HE_GAIN, dead_below=-2.3486),
        Activation("silu", F.silu, nn.SiLU, _HE_GAIN, dead_below=-4.0826),
        Activation("mish", F.mish, nn.Mish, _HE_GAIN, dead_below=-4.1117),
        Activation("hardswish", F.hardswish, nn.Hardswish, _HE_GAIN, dead_below=-3.0),
        Activation("softplus", F.softplus, nn.Softplus, _HE_GAIN),
    )
}


def activation(name: str) -> Activation:
    """Look up an activation by name.

    Raises:
        ValueError: the catalogue has no such name; the message lists those it has.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: got {name!r}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
