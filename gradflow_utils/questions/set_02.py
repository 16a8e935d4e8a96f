"""Exercise set 02: products. The expected values come from autograd, from counting all cases and from grids."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradflow_utils.questions.form import Question, choice, slopes

_ANGLES = torch.arange(0, 2 * math.pi, 2 * math.pi / 1000, dtype=torch.float64)
_CIRCLE = torch.stack([torch.cos(_ANGLES), torch.sin(_ANGLES)])
_ELLIPSE = torch.tensor([[0.4036, -0.8353 / 2], [-0.8353 / 2, 0.7076]], dtype=torch.float64)  # of the figure


def _ellipse(read: Callable[[Tensor], Tensor]) -> float:
    """A number of the ellipse of the figure, from the distances of its points to the centre."""
    radii = ((_ELLIPSE @ _CIRCLE) * _CIRCLE).sum(0) ** -0.5
    ends = torch.stack([radii.max(), radii.min()])
    return read(ends[:, None] * _CIRCLE).item()


_U = torch.linspace(-10, 10, 4000, dtype=torch.float64)  # an even number: none at the kink
_WEIGHT = torch.exp(-(_U**2) / 2) / torch.exp(-(_U**2) / 2).sum()


def _kinks(dice: torch.Generator) -> list[tuple]:
    left, right, rate = torch.rand(3, dtype=torch.float64, generator=dice).tolist()
    return [(0.0, 1.0, 0.1), (0.0, 1.0, 0.5), (-0.5, 1.0, 0.2), (0.1 + left, 0.5 + right, 0.1 + 0.3 * rate)]


def _mean_over_cases(left: float, right: float, rate: float, power: int = 2, divided: bool = True) -> float:
    """Mean of (slope times mask)^power, over pre-activations and over the two values of the mask."""
    slope = slopes(lambda z: torch.where(z < 0, left * z, right * z), _U)
    cases = ((0.0, rate), (1 / (1 - rate) if divided else 1.0, 1 - rate))
    return sum(chance * ((mask * slope) ** power @ _WEIGHT).item() for mask, chance in cases)


def _keeping(*args: float, **choices: bool) -> float:
    """The gain at which the mean square of a gradient is kept, by halving an interval."""
    low, high = 1e-3, 1e3
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        grows = middle * middle * _mean_over_cases(*args, **choices) > 1
        low, high = (low, middle) if grows else (middle, high)
    return low


def _deep(dice: torch.Generator) -> list[tuple]:
    """Slopes, weights, gradient: three layers; 400 that vanish, beyond float64; 40 that explode, within float32."""
    cases = []
    for layers, units, gain, largest in ((3, 2, 2.0, 1.0), (400, 4, 0.6, 0.25), (40, 6, 4.0, 1.0)):
        slope = largest * (0.2 + 0.8 * torch.rand(layers, units, dtype=torch.float64, generator=dice))
        weights = gain / units**0.5 * torch.randn(layers, units, units, dtype=torch.float64, generator=dice)
        gradient = 3 * torch.randn(units, dtype=torch.float64, generator=dice)
        cases.append((slope.float(), weights.float(), gradient.float()))
    return cases


def _layer(v: Tensor, slope: Tensor, weight: Tensor) -> Tensor:
    return slope * (weight @ v)


def _log_size(
    slopes_: Tensor, weights: Tensor, gradient: Tensor, layer: Callable = _layer, relative: bool = True
) -> float:
    """log10 of the gradient at the input of a chain, by autograd; each layer is divided by a number, put back later."""
    leaf = torch.zeros(len(gradient), dtype=torch.float64, requires_grad=True)
    v, logarithm = leaf, 0.0
    for slope, weight in zip(slopes_, weights):
        number = (slope.double()[:, None] * weight.double()).norm().item() / len(gradient) ** 0.5
        v = layer(v, slope.double(), weight.double()) / number
        logarithm += math.log10(number)
    arrives = gradient.double()
    found = torch.autograd.grad(v, leaf, arrives)[0].norm() / (arrives.norm() if relative else 1.0)
    return logarithm + math.log10(found.item())


def _in_one_go(slopes_: Tensor, weights: Tensor, gradient: Tensor) -> Tensor:
    leaf = torch.zeros(len(gradient), requires_grad=True)
    v = leaf
    for slope, weight in zip(slopes_, weights):
        v = _layer(v, slope, weight)
    return (torch.autograd.grad(v, leaf, gradient)[0].norm() / gradient.norm()).log10()


def _sum_of_logs(size: Callable[[Tensor], Tensor]) -> Callable[..., float]:
    def added(slopes_: Tensor, weights: Tensor, gradient: Tensor) -> float:
        return sum(math.log10(size(torch.diag(slope) @ weight).item()) for slope, weight in zip(slopes_, weights))

    return added


def _matrices(dice: torch.Generator) -> list[tuple]:
    drawn = torch.randn(3, 3, dtype=torch.float64, generator=dice)
    shear = torch.tensor([[0.5, 3.0], [0.0, 0.5]], dtype=torch.float64)
    return [(shear, 5), (drawn, 4), (torch.triu(drawn, 1), 3)]


def _same(matrix: Tensor, steps: int) -> float:
    """Root mean square length after the steps, over the directions of the axes."""
    moved = torch.eye(len(matrix), dtype=torch.float64)
    for _ in range(steps):
        moved = matrix @ moved
    return moved.square().sum(0).mean().sqrt().item()


def _shuffled(matrix: Tensor, steps: int) -> float:
    """Root mean square length, by the mean of v v^T over all orders and signs."""
    n = len(matrix)
    identity = torch.eye(n, dtype=torch.float64)
    cases = [
        matrix @ torch.diag(torch.tensor(signs, dtype=torch.float64)) @ identity[list(order)]
        for order in itertools.permutations(range(n))
        for signs in itertools.product((-1, 1), repeat=n)
    ]
    moves, mean = torch.stack(cases), identity / n
    for _ in range(steps):
        mean = (moves @ mean @ moves.mT).mean(0)
    return mean.trace().sqrt().item()


def _both(same: Callable = _same, shuffled: Callable = _shuffled) -> Callable[[Tensor, int], dict]:
    return lambda matrix, steps: {"same": same(matrix, steps), "shuffled": shuffled(matrix, steps)}


def _norm_each(matrix: Tensor, steps: int) -> float:
    return torch.linalg.matrix_norm(matrix, 2).item() ** steps


def _radius_each(matrix: Tensor, steps: int) -> float:
    return torch.linalg.eigvals(matrix).abs().max().item() ** steps


def _narrow(dice: torch.Generator) -> list[tuple]:
    gain = 0.5 + torch.rand((), dtype=torch.float64, generator=dice).item()
    return [(4, 1.0), (1, 1.0), (2, 1.5), (30, gain)]


_LOG = torch.linspace(-40, 8, 96_001, dtype=torch.float64)


def _mean_over_sums(n: int, function: Callable[[Tensor], Tensor]) -> float:
    """Mean of a function of the sum of n squared standard normal numbers, by a sum over its logarithm."""
    density = torch.exp(n / 2 * _LOG - torch.exp(_LOG) / 2)
    return (function(_LOG.exp()) @ density / density.sum()).item()


def _middle_of_one_layer(n: int) -> float:
    below = torch.exp(n / 2 * _LOG - torch.exp(_LOG) / 2).cumsum(0)
    return math.exp(_LOG[below >= below[-1] / 2][0].item())


def _typical(n: int, gain: float) -> float:
    return gain * math.exp(_mean_over_sums(n, lambda total: (total / n).log() / 2))


QUESTIONS = (
    choice(
        "02.1",
        "why_vanishing",
        2,
        right="b",
        wrong={
            "a": (
                "the slopes are not the whole product. In notebook 02 all ten slopes are 1/4, and with w = 6 the "
                "gradient grows."
            ),
            "c": "try the factors 3/4, 8/9, 15/16, 24/25, ...: all are below 1. Multiply the first few hundred.",
            "d": "a layer takes a share of what arrives at it, and after each layer less arrives.",
        },
        words=30,
    ),
    Question(
        "02.2",
        "read_growth",
        1,
        lambda: _ellipse(lambda points: points.square().sum(0).mean().sqrt()),
        rtol=0.04,
        mistakes=(
            (
                lambda: _ellipse(lambda points: points.abs().amax()),
                "This is the longer half-axis, the spectral norm: the stretch of the luckiest direction. Asked is the "
                "average.",
            ),
            (
                lambda: _ellipse(lambda points: 2 * points.abs().amax()),
                "This is the whole long axis. Av reaches from the centre to the edge.",
            ),
            (
                lambda: _ellipse(lambda points: points.abs().amax(1).mean()),
                "You averaged the half-axes. The average growth is a root mean square.",
            ),
            (
                lambda: _ellipse(lambda points: points.abs().amax(1).log().mean().exp()),
                "This is the root of the product of the half-axes: the factor for areas, not for lengths.",
            ),
            (
                lambda: _ellipse(lambda points: points.square().sum(0).mean()),
                "This is the mean of the squared lengths. Take the root.",
            ),
            (
                lambda: _ellipse(lambda points: 2**0.5 * points.square().sum(0).mean().sqrt()),
                "You added the squares of the half-axes and did not divide: how large is the mean square of one "
                "component of v?",
            ),
            (
                lambda: _ellipse(lambda points: points[0].square().mean().sqrt()),
                "Too small: the shorter half-axis is missing, or you averaged lengths and not their squares.",
            ),
        ),
    ),
    Question(
        "02.3",
        "keeping_gain",
        2,
        _keeping,
        _kinks,
        mistakes=(
            (
                lambda left, right, rate: _keeping(left, right, 0.0),
                "Dropout is missing. It keeps the mean of each output; does it keep the mean square?",
            ),
            (
                lambda *args: _keeping(*args, divided=False),
                "You set outputs to 0 and did not enlarge the others: what stays is divided by 1 - rate.",
            ),
            (
                lambda *args: 1 / _mean_over_cases(*args, power=1),
                "You averaged the slopes. The factor of a layer contains the mean of their squares.",
            ),
            (
                lambda *args: 1 / _mean_over_cases(*args),
                "This is the square of the gain. The size of a gradient is a root mean square.",
            ),
            (
                lambda *args: 1 / _keeping(*args),
                "This is the factor per layer at gain 1. Asked is the gain that makes the factor 1.",
            ),
            (
                lambda left, right, rate: _keeping(left, right, 1 - rate),
                "You took rate for the share that stays; it is the share that is set to 0.",
            ),
            (
                lambda left, right, rate: _keeping(0.0, right, rate),
                "You left out the negative pre-activations. For this activation they pass a gradient too.",
            ),
        ),
    ),
    Question(
        "02.4",
        "log_gradient",
        2,
        _log_size,
        _deep,
        mistakes=(
            (
                _in_one_go,
                "The product is computed first and its logarithm taken afterwards. After 400 layers it is rounded to "
                "0, in float64 too. Take out the size of the gradient before it gets too small.",
            ),
            (
                lambda s, w, g: _log_size(s.flip(0), w.flip(0), g),
                "You went from the first layer to the last. The layers are in the order of the forward pass; a "
                "gradient comes from the end.",
            ),
            (
                lambda s, w, g: _log_size(s, w.mT, g),
                "You multiplied by W, not by its transpose: forward was slope * (W v).",
            ),
            (
                lambda s, w, g: _log_size(s, w, g, layer=lambda v, slope, weight: weight @ (slope * v)),
                "Slope and matrix are in the wrong order. On the way back the gradient meets the slope of a layer "
                "first.",
            ),
            (lambda s, w, g: _log_size(torch.ones_like(s), w, g), "The slopes are missing."),
            (
                _sum_of_logs(lambda jacobian: jacobian.norm() / len(jacobian) ** 0.5),
                "These are the average growths of the Jacobians. They predict the mean square over many networks; "
                "asked is this gradient in this network.",
            ),
            (
                _sum_of_logs(lambda jacobian: torch.linalg.matrix_norm(jacobian, 2)),
                "These are the spectral norms of the Jacobians: a bound that this gradient does not reach.",
            ),
            (
                lambda *args: math.log(10) * _log_size(*args),
                "This is the natural logarithm. Asked is the one to base 10.",
            ),
            (
                lambda *args: _log_size(*args, relative=False),
                "This is the size of the gradient at the first layer. Asked is its ratio to the gradient that you got.",
            ),
        ),
    ),
    Question(
        "02.5",
        "stretch",
        2,
        _both(),
        _matrices,
        mistakes=(
            (
                _both(same=lambda matrix, steps: (matrix**steps).square().sum().div(len(matrix)).sqrt()),
                "same: matrix**steps takes the power of each entry by itself. The product of matrices has a function "
                "of its own.",
            ),
            (
                _both(same=_radius_each),
                "same: the spectral radius decides in the long run. After a few steps the length can be far from its "
                "power.",
            ),
            (
                _both(same=_norm_each),
                "same: the spectral norm is a bound. The vector would have to point where A stretches most, each time.",
            ),
            (
                _both(same=lambda matrix, steps: torch.linalg.matrix_norm(torch.linalg.matrix_power(matrix, steps), 2)),
                "same: this is the longest stretch of the product. Asked is the root mean square over all directions.",
            ),
            (
                _both(same=_shuffled),
                "same: only in the first step does the vector come from a random direction. After it, the matrix has "
                "turned it.",
            ),
            (
                lambda matrix, steps: {"same": _shuffled(matrix, steps), "shuffled": _same(matrix, steps)},
                "The two are swapped.",
            ),
            (
                _both(shuffled=_same),
                "shuffled: this is what the same matrix does without shuffling. What does a vector know of the next "
                "step once its entries are shuffled?",
            ),
            (
                _both(shuffled=_norm_each),
                "shuffled: the spectral norm belongs to one direction, and the vector arrives from a random one.",
            ),
            (
                _both(shuffled=_radius_each),
                "shuffled: the spectral radius needs a vector that comes back in the same direction. Shuffling "
                "prevents that.",
            ),
            (
                lambda matrix, steps: {"same": _same(matrix, steps) ** 2, "shuffled": _shuffled(matrix, steps) ** 2},
                "These are mean squares of the length. Take the roots.",
            ),
        ),
    ),
    Question(
        "02.6",
        "typical_factor",
        3,
        _typical,
        _narrow,
        rtol=3e-3,
        mistakes=(
            (
                lambda n, gain: gain,
                "This is the root mean square, the prediction of notebook 02. A few networks with large gradients "
                "carry it. Average the logarithm instead.",
            ),
            (
                lambda n, gain: gain * _mean_over_sums(n, lambda total: (total / n).sqrt()),
                "This is the mean length. A mean is carried by large values; the logarithms add up over the layers, "
                "so average these.",
            ),
            (
                lambda n, gain: gain * math.sqrt(_middle_of_one_layer(n) / n),
                "This is the median of one layer. Medians do not multiply from layer to layer; means of logarithms "
                "add up.",
            ),
            (
                lambda n, gain: _typical(n, gain) ** 2,
                "This is the factor for the squared length.",
            ),
            (
                lambda n, gain: _typical(n, gain) * math.sqrt(n),
                "The variance of the weights is gain**2 / n. The n is missing.",
            ),
            (
                lambda n, gain: gain * (1 - 1 / (2 * n)),
                "This is right for large n, in the first order. Asked is the exact value, for n = 1 too.",
            ),
            (
                lambda n, gain: gain * math.exp(-1 / (2 * n)),
                "This is right for large n, in the first order. Asked is the exact value, for n = 1 too.",
            ),
            (
                lambda n, gain: math.log(_typical(n, gain)),
                "This is the mean of the logarithm. Asked is the factor: back from the logarithm to the number.",
            ),
        ),
    ),
)
