"""The profiles that mean-field theory predicts for a network, to be drawn over the measured ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from gradflow_utils.activations import Activation
from gradflow_utils.layers import is_activation
from gradflow_utils.theory import as_entry, half_square_difference, second_moment, second_moment_of_slope

# Rows of like size form a group: where a GELU network fades, its largest rows fade last and make up the profile.
_GROUPS = 10
_APART = 2  # the ranks of the pairs that are compared then differ by 3.2 groups on average, those of random rows by 3.3


def predicted_profiles(model: nn.Sequential, x: Tensor, last_grad_norm: float = 1.0) -> dict[str, Tensor]:
    """The activation and gradient profile that mean-field theory expects of a network at initialisation.

        gf.plot_profiles(flow, step=0, theory=gf.predicted_profiles(net, x, flow["grad_norm"][0, -1]))

    Of the network it reads the mean square of each weight matrix and bias, of the batch the sizes of the
    rows and their mean correlation. That is exact for infinite width. Networks of 20 layers of 256
    units scatter around it with their seed by 20 % (tanh with Xavier), a factor of 1.6 (ReLU) and, where
    the fixed point is unstable and the signal fades, a factor of 5 (GELU with He). It does not see:

    * what training does to weights; they must be random, independent and of mean 0;
    * rounding: float32 shows no `row_std` below 1e-7 of the output's own size;
    * weight gradients: they depend on which rows share a label, and to take rows as independent is
      wrong by a factor of 4 between the layers of a ReLU network.

    Args:
        model: an `nn.Sequential` of `nn.Linear` and elementwise activations, such as `mlp` makes
            without norm and residual; `nn.Flatten` and `nn.Identity` pass.
        x: a batch [rows, ...] of at least two different rows.
        last_grad_norm: grad_norm of the last activation, a measured one; theory fixes only the ratios.

    Returns:
        "row_std" and "grad_norm", each a float64 tensor [activations], as in `FlowRecord`.

    Raises:
        ValueError: the model holds another kind of layer, or x fewer than two different rows.

    Source: Poole et al. 2016, eq. 3 and 5; Schoenholz et al. 2017, section 4.
    """
    q, difference = _groups_of_rows(x)
    row_std, chains = [], []
    chain = torch.zeros_like(q)  # log of the squared gradient at the input over that here; the ratio itself underflows
    for layer in _feedforward(model):
        if isinstance(layer, nn.Linear):
            sigma_w_squared = layer.in_features * _mean_square(layer.weight)
            bias = 0.0 if layer.bias is None else _mean_square(layer.bias)
            q, difference = sigma_w_squared * q + bias, sigma_w_squared * difference
            chain = chain + math.log(sigma_w_squared)
        else:
            pairs = zip(q.tolist(), q.roll(-_APART).tolist(), difference.tolist())
            chain = chain + _float64(second_moment_of_slope(layer, one) for one in q.tolist()).log()
            difference = _float64(half_square_difference(layer, *pair) for pair in pairs)
            q = _float64(second_moment(layer, one) for one in q.tolist())
            row_std.append(math.sqrt(difference.mean() * (len(x) - 1) / len(x)))
            chains.append(chain)
    squares = torch.stack([(chains[-1] - chain).exp().mean() for chain in chains])
    return {"row_std": _float64(row_std), "grad_norm": float(last_grad_norm) * squares.sqrt()}


def _groups_of_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments q [groups] of a batch, and half the mean square difference of group i and group i + _APART.

    All groups have the same number of rows, sorted by size, and all pairs the same correlation.
    """
    x = x.detach().to("cpu", torch.float64).flatten(1)
    rows = len(x)
    variance = float(x.var(dim=0, correction=0).mean()) if rows > 1 else 0.0
    if not 0 < variance < math.inf:
        raise ValueError(f"x: got {rows} rows of variance {variance:g}, expected at least two different, finite rows")
    size = x.square().mean(1).sort().values
    # Each row counts in proportion to its overlap with the group.
    edges = torch.linspace(0, rows, min(_GROUPS, rows) + 1, dtype=torch.float64)
    position = torch.arange(rows, dtype=torch.float64)
    overlap = (edges[1:, None].minimum(position + 1) - edges[:-1, None].maximum(position)).clamp(min=0)
    q = overlap @ size / overlap.sum(1)
    partner = q.roll(-_APART)
    product = (q * partner).sqrt()
    difference = variance * rows / (rows - 1)  # of two different rows
    correlation = min(float((q.mean() - difference) / product.mean()), 1.0)
    return q, (q + partner) / 2 - correlation * product


def _feedforward(model: nn.Module) -> Iterator[nn.Linear | Activation]:
    """The linear layers and activations of a plain feedforward network in their order, or a ValueError."""
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"model: got {type(model).__name__}, expected an nn.Sequential, such as mlp makes")
    gaussian, activations = False, 0  # gaussian: whether what reaches the layer are pre-activations
    for name, module in _unnested(model):
        if isinstance(module, nn.Linear):
            gaussian = True
            yield module
        elif gaussian and _is_elementwise(module):
            gaussian = False
            activations += 1
            yield as_entry(module)
        elif type(module) not in (nn.Flatten, nn.Identity):
            raise ValueError(
                f"model: layer {name!r} is {type(module).__name__}, expected nn.Linear layers, each followed by at "
                "most one elementwise activation; theory describes no norms or residual blocks: leave them out"
            )
    if not activations:
        raise ValueError("model: got no activation, expected at least one nn.Linear followed by an activation")


def _unnested(model: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_children():
        if type(module) is nn.Sequential:  # a subclass may compute something else, such as a residual block
            yield from ((f"{name}.{inner}", layer) for inner, layer in _unnested(module))
        else:
            yield name, module


def _is_elementwise(module: nn.Module) -> bool:
    one_slope = all(parameter.numel() == 1 for parameter in module.parameters())  # PReLU may have one per unit
    return is_activation(module) and not re.search("GLU|RReLU", type(module).__name__) and one_slope


def _mean_square(parameter: Tensor) -> float:
    return float(parameter.detach().to("cpu", torch.float64).square().mean())


def _float64(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
