"""Mean-field theory: what a wide random network does to signals and gradients, before any is built.

A wide layer turns pre-activations of second moment q into Gaussian ones of second moment
sigma_w^2 E[phi(sqrt(q) z)^2] + sigma_b^2, where its weights have variance sigma_w^2 / fan_in and
its biases sigma_b^2, and z is standard normal. Everything here follows from that one map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradflow_utils.activations import Activation, activation as find_activation

AnyActivation = str | Activation | Callable[[Tensor], Tensor]

# Dense trapezoids: Gauss-Hermite errs by 5 % where the activation is steep. An even number of points
# puts the kink of the ReLU family between two of them. The ends weigh nothing, so that a sum will do.
_Z = torch.linspace(-10, 10, 20_000, dtype=torch.float64)
_WEIGHT = torch.exp(-(_Z**2) / 2) / torch.exp(-(_Z**2) / 2).sum()
_START, _SMALLEST, _LARGEST = 1.0, 1e-12, 1e12  # second moments: of a normalised input, and taken for 0 and for inf
_LINEAR_BELOW = 1e-10  # rows as close as this see the activation as a straight line


def variance_map(activation: AnyActivation, q: float | Tensor, sigma_w: float, sigma_b: float = 0.0) -> Tensor:
    """The second moment of the next layer's pre-activations: sigma_w^2 E[phi(sqrt(q) z)^2] + sigma_b^2.

    Accurate to 1e-6 for sqrt(q) up to 100.

    Args:
        activation: a name in `ACTIVATIONS`, or any elementwise function or module.
        q: second moments of this layer's pre-activations, of any shape.
        sigma_w, sigma_b: weights have variance sigma_w^2 / fan_in, biases sigma_b^2.

    Returns:
        A float64 tensor shaped like `q`.

    Raises:
        ValueError: a second moment or a sigma is negative, or the activation is unknown or not elementwise.

    Source: Poole et al. 2016, eq. 3.
    """
    entry = as_entry(activation)
    q = torch.as_tensor(q, dtype=torch.float64)
    _check_not_negative(q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    moments = torch.tensor([second_moment(entry, one) for one in q.flatten().tolist()], dtype=torch.float64)
    return sigma_w**2 * moments.reshape(q.shape) + sigma_b**2


def fixed_point(activation: AnyActivation, sigma_w: float, sigma_b: float = 0.0) -> float:
    """The second moment q* at which the pre-activations of a deep network settle, starting from 1.

    Where the map has several fixed points, q* is the one next to 1 on the side to which the map
    pulls. It is found by bracketing and bisection, not by iterating the map, so it is accurate near
    criticality too. A map that falls with q somewhere may jump over it for ever; those of the
    catalogue rise.

    Returns:
        q*; 0.0 if the signal dies out (q* below 1e-12), inf if it grows without bound (above 1e12),
        and 1.0, the start, if every q is fixed, as for ReLU at sigma_w = sqrt(2).

    Raises:
        ValueError: as `variance_map`.

    Source: Poole et al. 2016, section 2.
    """
    entry = as_entry(activation)
    _check_not_negative(sigma_w=sigma_w, sigma_b=sigma_b)

    def growth(q: float) -> float:
        return sigma_w**2 * second_moment(entry, q) + sigma_b**2 - q

    here = _START
    if abs(growth(here)) < 1e-13:
        return here
    up = growth(here) > 0
    least = growth(0.0)  # what the map makes of nothing: a rising map has no fixed point below it
    last = _LARGEST if up else least / 2 if least > 0 else _SMALLEST
    while (growth(here) > 0) == up:
        here *= 2 if up else 0.5
        if here > last if up else here < last:
            return math.inf if up else 0.0
    return _bisect(growth, *((here / 2, here) if up else (here, here * 2)))


def chi_1(activation: AnyActivation, sigma_w: float, sigma_b: float = 0.0, q: float | None = None) -> float:
    """The factor by which one layer multiplies the squared norm of a gradient: sigma_w^2 E[phi'(sqrt(q) z)^2].

    It is also the slope of the correlation map at correlation 1. Gradients vanish below 1
    (the ordered phase) and explode above (the chaotic phase).

    Accurate to 1e-6 for sqrt(q) up to 100 and activations that are smooth or have their kink at 0; a jump
    of phi'^2 elsewhere adds an error of at most 4e-4 sigma_w^2 times the jump.

    Args:
        activation, sigma_w, sigma_b: as for `variance_map`.
        q: second moment of the pre-activations; by default the `fixed_point`. At 0 and inf it
            stands for the limit.

    Raises:
        ValueError: as `variance_map`.

    Source: Schoenholz et al. 2017, eq. 5.
    """
    entry = as_entry(activation)
    q = fixed_point(activation, sigma_w, sigma_b) if q is None else q
    _check_not_negative(q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    return sigma_w**2 * second_moment_of_slope(entry, q)


def depth_scale(activation: AnyActivation, sigma_w: float, sigma_b: float = 0.0) -> float:
    """The number of layers xi_c over which the difference of two inputs approaches its limit by a factor e.

    In the ordered phase their pre-activations come to agree, the mean square difference falls by
    chi_1 per layer, and xi_c = -1 / log(chi_1). In the chaotic phase they settle at a correlation
    c* < 1 and the slope of the correlation map at c* takes the place of chi_1; gradients have a
    scale of their own there, 1 / log(chi_1).

    Returns:
        xi_c in layers; inf at criticality, NaN in the chaotic phase without a finite q*.

    Raises:
        ValueError: as `variance_map`.

    Source: Schoenholz et al. 2017, eq. 9.
    """
    entry = as_entry(activation)
    q = fixed_point(entry, sigma_w, sigma_b)
    slope = chi_1(entry, sigma_w, sigma_b, q)
    if abs(slope - 1) < 1e-9:
        return math.inf
    if slope > 1:
        if q == math.inf:
            return math.nan

        def widening(difference: float) -> float:
            return sigma_w**2 * half_square_difference(entry, q, q, difference) - difference

        u, v, weight = gaussian_pairs(q, q, _bisect(widening, _LINEAR_BELOW * q, q))
        slope = sigma_w**2 * float((entry.slope(u) * entry.slope(v) * weight).sum())
    return -1 / math.log(slope) if slope > 0 else 0.0


def critical_gain(activation: AnyActivation, sigma_b: float = 0.0) -> float:
    """The sigma_w at which chi_1 = 1 at a fixed point that the signal reaches: the edge of chaos.

    Without biases it is 1 for tanh and ELU and 0.69 for SELU, where q* = 0 and the signal dies out
    as slowly as it can; sqrt(2) for ReLU, where every q is fixed; 10.1 for sigmoid. GELU without
    biases has none, nor below sigma_b = 0.416, nor SiLU below 0.745: where chi_1 = 1, the map drives
    the signal away from q* (Roberts et al. 2022, section 5.3.4). For those, `preserving_gain` keeps
    the signal of a network of some tens of layers.

    Raises:
        ValueError: there is no such sigma_w with q* up to 10,000, or more than one.

    Source: Schoenholz et al. 2017, section 3.
    """
    entry = as_entry(activation)
    _check_not_negative(sigma_b=sigma_b)

    def excess(q: float) -> float:  # chi_1 - 1 at the sigma_w whose fixed point is q
        moment = second_moment(entry, q)
        return (q - sigma_b**2) * second_moment_of_slope(entry, q) / moment - 1 if moment > 0 else -1.0

    def is_stable(q: float) -> bool:  # at that sigma_w, the map grows more slowly than q
        growth = second_moment(entry, 1.001 * q) / second_moment(entry, q) - 1
        return (q - sigma_b**2) * growth < 0.001 * q

    gains = []
    least, little, more = (second_moment(entry, q) for q in (0.0, 1e-8, 1e-2))
    if sigma_b == 0 == least and little * 1e6 >= more * (1 - 1e-9) > 0:  # the map rises from 0 no faster than a line
        gains.append(second_moment_of_slope(entry, 0.0) ** -0.5)
    grid = torch.logspace(-8, 4, 97, dtype=torch.float64).tolist()
    heights = [excess(q) for q in grid]
    for low, high, left, right in zip(grid, grid[1:], heights, heights[1:]):
        if left * right < 0 and max(abs(left), abs(right)) > 1e-9:  # the signs of smaller ones are rounding
            q = _bisect(excess, low, high)
            if is_stable(q):
                gains.append(preserving_gain(entry, q, sigma_b))
    if len(gains) != 1:
        raise ValueError(
            f"activation: {entry.name} with sigma_b={sigma_b:g} has {len(gains) or 'no'} stable fixed points with "
            "chi_1 = 1, expected one; choose another sigma_b, or use preserving_gain, which keeps the signal's size"
        )
    return gains[0]


def preserving_gain(activation: AnyActivation, q: float = 1.0, sigma_b: float = 0.0) -> float:
    """The sigma_w that maps the second moment q of the pre-activations to itself.

    As the `gain` of `mlp` with "lecun", it keeps a signal alive for an activation without a textbook
    gain: 1.53 for GELU and 1.68 for SiLU at q = 1. It gives ReLU sqrt(2), SELU 1. The fixed point need not
    be stable, nor chi_1 be 1 there: see both with `chi_1(activation, gain, q=q)`.

    Raises:
        ValueError: q is not above sigma_b^2, or the activation is 0 everywhere.

    Source: the argument of He et al. 2015, eq. 7 to 10, for any activation.
    """
    moment = second_moment(as_entry(activation), q) if 0 <= sigma_b**2 < q < math.inf else 0.0
    if not moment > 0:
        raise ValueError(
            f"q: got {q!r} with sigma_b={sigma_b!r}, expected a finite q above sigma_b^2 "
            "at which the activation is not 0 everywhere"
        )
    return math.sqrt((q - sigma_b**2) / moment)


def as_entry(activation: AnyActivation) -> Activation:
    """The catalogue's way of writing any activation."""
    if isinstance(activation, str):
        return find_activation(activation)
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, nn.Module):
        activation = copy.deepcopy(activation).to("cpu", torch.float64)  # its parameters must match the grid
    # An in-place function must not change the points at which it is asked.
    entry = Activation(type(activation).__name__, lambda z: activation(z.clone()), nn.Identity, math.nan)
    with torch.no_grad():
        values = entry.function(_Z)
        same_shape = isinstance(values, Tensor) and values.shape == _Z.shape
        if not same_shape or not torch.equal(values[7:], entry.function(_Z[7:])):
            raise ValueError(f"activation: {activation!r} is not elementwise: expected one output per input")
    return entry


def second_moment(entry: Activation, q: float) -> float:
    with torch.no_grad():
        return float(entry.function(math.sqrt(q) * _Z).square() @ _WEIGHT)


def second_moment_of_slope(entry: Activation, q: float) -> float:
    scale = math.sqrt(min(max(q, 1e-200), 1e24))  # the limits 0 and inf, without standing on a kink or on inf * 0
    return float(entry.slope(scale * _Z).square() @ _WEIGHT)


def gaussian_pairs(q_u: float, q_v: float, difference: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian pairs (u, v) on a grid and their weights, given E[u^2], E[v^2] and `difference` = E[(u - v)^2] / 2."""
    t = torch.linspace(-7, 7, 150, dtype=torch.float64)
    # Each column of s starts at another offset: the kink of the ReLU family then falls nowhere between all grid lines.
    offset = torch.arange(150, dtype=torch.float64) * 0.618034 % 1 - 0.5
    s = t[:, None] + (t[1] - t[0]) * offset
    weight = torch.exp(-(s**2 + t**2) / 2)
    # u = m + d and v = m - d with d = half t and m = slant t + free s; correlations near 1 lose no digits this way.
    half = math.sqrt(difference / 2)
    slant = (q_u - q_v) / 4 / half
    free = math.sqrt(max((q_u + q_v - difference) / 2 - slant**2, 0.0))
    middle = slant * t + free * s
    return middle + half * t, middle - half * t, weight / weight.sum()


def half_square_difference(entry: Activation, q_u: float, q_v: float, difference: float) -> float:
    """E[(phi(u) - phi(v))^2] / 2 of such pairs: how far two rows stay apart, without cancellation."""
    if difference <= _LINEAR_BELOW * (q_u + q_v):
        return difference * second_moment_of_slope(entry, (q_u + q_v) / 2)
    u, v, weight = gaussian_pairs(q_u, q_v, difference)
    with torch.no_grad():
        return float(((entry.function(u) - entry.function(v)).square() * weight).sum()) / 2


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """The root of a function whose sign differs at two positive ends, to twelve digits."""
    rising = function(low) < 0
    for _ in range(60):
        middle = math.sqrt(low * high)
        if (function(middle) < 0) == rising:
            low = middle
        else:
            high = middle
        if high - low < 1e-13 * high:
            break
    return math.sqrt(low * high)


def _check_not_negative(**values: float | Tensor) -> None:
    for name, value in values.items():
        if not bool(torch.all(torch.as_tensor(value) >= 0)):
            raise ValueError(f"{name}: got {value}, expected a number >= 0, not NaN")
