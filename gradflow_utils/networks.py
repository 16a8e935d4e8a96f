"""Fully connected networks whose every choice that matters for gradient flow is an argument."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradflow_utils.activations import Activation, activation as find_activation

INITIALISATIONS = ("default", "xavier", "he", "lecun", "matched", "orthogonal")
NORMALISATIONS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "rms": nn.RMSNorm}


class MLP(nn.Sequential):
    """A fully connected network made by `mlp`: maps a batch [rows, features] to [rows, outputs]."""

    def forward(self, x: Tensor) -> Tensor:
        first = self[0]  # of a slice of the network, it may be any layer
        if isinstance(first, nn.Linear) and (x.ndim != 2 or x.shape[1] != first.in_features):
            raise ValueError(
                f"batch: got shape {tuple(x.shape)}, expected (rows, {first.in_features}); "
                "flatten images with x.flatten(1) and put the batch first"
            )
        return super().forward(x)


class Residual(nn.Sequential):
    """x + scale * F(x), where F is the sequence of layers given."""

    def __init__(self, layers: OrderedDict[str, nn.Module], scale: float = 1.0) -> None:
        super().__init__(layers)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * super().forward(x)

    def extra_repr(self) -> str:
        return f"x + {self.scale:g} * F(x), F:"


def mlp(
    sizes: Sequence[int],
    activation: str = "relu",
    init: str = "default",
    *,
    gain: float | None = None,
    norm: str | None = None,
    residual: bool | float = False,
    seed: int | None = None,
) -> MLP:
    """Build a fully connected network with speaking layer names: linear1, norm1, tanh1, linear2, ...

    Args:
        sizes: features of the input, of each hidden layer and of the output, such as [64, 128, 128, 10].
        activation: a name in `ACTIVATIONS`; it follows every linear layer but the last.
        init: "default" leaves what `nn.Linear` does (weights and biases uniform with variance
            1 / (3 fan_in)). All others set biases to 0 and draw normal weights of variance
            gain^2 * 2 / (fan_in + fan_out) for "xavier" (Glorot and Bengio 2010, eq. 12),
            gain^2 / fan_in for "he" (gain sqrt(2); He et al. 2015, eq. 10), "lecun" (gain 1) and
            "matched" (the gain of the activation), or scale an orthogonal matrix by gain for
            "orthogonal" (gain 1; Saxe et al. 2014).
        gain: replaces the gain named above; not with "default".
        norm: None, "batch", "layer" or "rms": normalises each pre-activation.
        residual: True adds a skip around each activation and the linear layer after it where
            the widths agree: x + F(x), the pre-activation form of He et al. 2016. A number
            scales F.
        seed: draws the parameters from this seed and leaves the global generator alone; None
            draws from the global generator.

    Raises:
        ValueError: a name is unknown, a size is not a positive whole number, or `gain` comes
            with "default"; the message lists what is valid.
    """
    if not isinstance(sizes, Sequence) or len(sizes) < 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"sizes: got {sizes!r}, expected at least two positive whole numbers, such as [64, 128, 10]")
    if init not in INITIALISATIONS:
        raise ValueError(f"init: got {init!r}, expected one of {', '.join(INITIALISATIONS)}")
    if norm is not None and norm not in NORMALISATIONS:
        raise ValueError(f"norm: got {norm!r}, expected None or one of {', '.join(NORMALISATIONS)}")
    if gain is not None and init == "default":
        raise ValueError("gain: init='default' takes no gain; choose another init, such as 'lecun'")
    chosen = find_activation(activation)

    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["linear1"] = _linear(sizes[0], sizes[1], chosen, init, gain)
        for number, (fan_in, fan_out) in enumerate(zip(sizes[1:], sizes[2:]), start=1):
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            if norm is not None:
                stage[f"norm{number}"] = NORMALISATIONS[norm](fan_in)
            stage[f"{activation}{number}"] = chosen.module()
            stage[f"linear{number + 1}"] = _linear(fan_in, fan_out, chosen, init, gain)
            is_output = number == len(sizes) - 2
            if residual is not False and fan_in == fan_out and not is_output:
                layers[f"block{number}"] = Residual(stage, float(residual))
            else:
                layers.update(stage)
    return MLP(layers)


def _linear(fan_in: int, fan_out: int, chosen: Activation, init: str, gain: float | None) -> nn.Linear:
    linear = nn.Linear(fan_in, fan_out)
    if init == "default":
        return linear
    if gain is None:
        gain = {"he": math.sqrt(2), "matched": chosen.gain}.get(init, 1.0)
    # Drawn in float64 and cast: float32 normals differ between processors (in their sixth digit).
    weight = torch.empty(fan_out, fan_in, dtype=torch.float64)
    if init == "orthogonal":
        nn.init.orthogonal_(weight, gain)
    else:
        variance = 2 / (fan_in + fan_out) if init == "xavier" else 1 / fan_in
        nn.init.normal_(weight, std=gain * math.sqrt(variance))
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.zero_()
    return linear
