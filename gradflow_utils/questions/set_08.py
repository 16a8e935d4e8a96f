"""Exercise set 08: normalisation. The expected values come from autograd, from a sum over a grid and from simulations."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_utils.questions.form import Question, choice, slopes

_EPS = 1e-5  # as in torch


def _rows(dice: torch.Generator) -> list[tuple]:
    cases = []
    for images, units, size in ((4, 6, 3.0), (3, 5, 0.01)):
        delta, z = torch.randn(2, images, units, dtype=torch.float64, generator=dice)
        cases.append((delta, size * z, torch.rand(units, dtype=torch.float64, generator=dice) * 2 + 0.2))
    return cases


def _layer_norm(z: Tensor) -> Tensor:
    return F.layer_norm(z, z.shape[-1:], eps=_EPS)


def _part_detached(z: Tensor, mean: bool = True, std: bool = True) -> Tensor:
    """LayerNorm with its mean, its std or both taken for constants."""
    fixed = z.detach()
    middle = (fixed if mean else z).mean(-1, keepdim=True)
    variance = (fixed if std else z).var(-1, correction=0, keepdim=True)
    return (z - middle) / (variance + _EPS).sqrt()


def _mean_detached(z: Tensor) -> Tensor:
    return _part_detached(z, std=False)


def _std_detached(z: Tensor) -> Tensor:
    return _part_detached(z, mean=False)


def _without_eps(z: Tensor) -> Tensor:
    return F.layer_norm(z, z.shape[-1:], eps=0.0)


def _unbiased(delta: Tensor, z: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """The lesson's formula with a variance that divides by n - 1, put together from gradients of autograd."""
    right, centred = _gradients(delta, z, scale), _gradients(delta, z, scale, _std_detached)["z"]
    smaller = ((z.var(-1, correction=0) + _EPS) / (z.var(-1) + _EPS)).sqrt()[:, None]
    at_scale = _gradients(smaller * delta, z, scale)["scale"]
    return {**right, "z": smaller * (centred - smaller**2 * (centred - right["z"])), "scale": at_scale}


def _batch_norm(z: Tensor) -> Tensor:
    return F.batch_norm(z, None, None, training=True, eps=_EPS)


def _gradients(
    delta: Tensor, z: Tensor, scale: Tensor, norm: Callable[[Tensor], Tensor] = _layer_norm
) -> dict[str, Tensor]:
    leaves = [z.clone().requires_grad_(), scale.clone().requires_grad_(), torch.zeros_like(scale).requires_grad_()]
    return dict(
        zip(("z", "scale", "shift"), torch.autograd.grad(norm(leaves[0]) * leaves[1] + leaves[2], leaves, delta))
    )


def _no_scale(delta: Tensor, z: Tensor, scale: Tensor) -> Tensor:
    return _gradients(delta, z, torch.ones_like(scale))["z"]


_Z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
_DENSITY = torch.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi)


def _mean_over_normal(values: Tensor) -> float:
    return torch.trapezoid(values * _DENSITY, _Z).item()


def _kept(dice: torch.Generator) -> list[tuple]:
    return [(0.3,), (0.0,), (1.0,), (-torch.rand((), dtype=torch.float64, generator=dice).item(),)]


def _leaky(kept: float, z: Tensor = _Z) -> Tensor:
    return F.leaky_relu(z, kept)


def _factors(kept: float, square_of_mean: float | None = None) -> dict[str, float]:
    steep = _mean_over_normal(slopes(lambda z: _leaky(kept, z), _Z) ** 2)
    h = _leaky(kept)
    size = _mean_over_normal(h**2)
    spread = _mean_over_normal((h - _mean_over_normal(h)) ** 2) if square_of_mean is None else size - square_of_mean
    return {"batch": math.sqrt(steep / spread), "layer": math.sqrt(steep / size)}


def _powers(kept: float, power: float) -> dict[str, float]:
    return {norm: factor**power for norm, factor in _factors(kept).items()}


def _last_ratio(branches: int = 100, start: float = 2.0, branch: float = 0.25) -> float:
    """Sum random branches, and compare the spreads that the last norms meet."""
    dice = torch.Generator().manual_seed(0)

    def draw(variance: float) -> Tensor:
        return math.sqrt(variance) * torch.randn(40_000, generator=dice)

    running, normalised = draw(start), draw(start)
    for _ in range(branches):
        running = running + draw(branch)
        before = normalised / normalised.std() + draw(branch)
        normalised = before
    return (before.std() / running.std()).item()


def _networks(dice: torch.Generator) -> list[tuple]:
    return [_network(dice, count) for count in (3, 5)]


def _network(dice: torch.Generator, count: int) -> tuple:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=dice)

    def linear(inputs: int, units: int) -> nn.Linear:
        layer = nn.utils.skip_init(nn.Linear, inputs, units, dtype=torch.float64)
        for parameter in layer.parameters():
            parameter.data = draw(*parameter.shape)
        return layer

    def norm(units: int) -> nn.BatchNorm1d:
        layer = nn.BatchNorm1d(units, dtype=torch.float64)
        layer.running_mean, layer.running_var = draw(units), draw(units) ** 2 + 0.5
        layer.num_batches_tracked += 10
        return layer

    inner = nn.Sequential(linear(4, 5), norm(5), nn.ReLU())
    net = nn.Sequential(linear(3, 4), norm(4), nn.Sigmoid(), inner, linear(5, 2)).requires_grad_(False)
    return net.eval(), [1 + 2 * draw(8, 3) for _ in range(count)], draw(6, 3)


def _with_statistics(net: nn.Module, batches: list[Tensor], x: Tensor, settle: Callable) -> Tensor:
    """The output for x, layer by layer; `settle` makes mean and variance of a norm from those of the batches."""
    for layer in (one for one in net.modules() if not isinstance(one, nn.Sequential)):
        if isinstance(layer, nn.BatchNorm1d):
            seen = torch.stack([torch.stack([z.mean(0), z.var(0)]) for z in batches])
            mean, variance = settle(layer, seen)
            x = F.batch_norm(x, mean, variance, layer.weight, layer.bias)
            batches = [F.batch_norm(z, None, None, layer.weight, layer.bias, training=True) for z in batches]
        else:
            x, batches = layer(x), [layer(z) for z in batches]
    return x


def _old(layer: nn.BatchNorm1d) -> Tensor:
    return torch.stack([layer.running_mean, layer.running_var])


def _fresh(layer: nn.BatchNorm1d) -> Tensor:
    return torch.stack([torch.zeros_like(layer.running_mean), torch.ones_like(layer.running_var)])


def _lagging(start: Callable, net: nn.Module, batches: list[Tensor], x: Tensor) -> Tensor:
    def settle(layer: nn.BatchNorm1d, seen: Tensor) -> Tensor:
        value = start(layer)
        for one in seen:
            value = torch.lerp(value, one, 0.1)
        return value

    return _with_statistics(net, batches, x, settle)


def _old_counted(net: nn.Module, batches: list[Tensor], x: Tensor) -> Tensor:
    def settle(layer: nn.BatchNorm1d, seen: Tensor) -> Tensor:
        return torch.cat([_old(layer).expand(10, -1, -1), seen]).mean(0)

    return _with_statistics(net, batches, x, settle)


def _outer_only(net: nn.Module, batches: list[Tensor], x: Tensor) -> Tensor:
    def settle(layer: nn.BatchNorm1d, seen: Tensor) -> Tensor:
        return seen.mean(0) if any(layer is one for one in net.children()) else _old(layer)

    return _with_statistics(net, batches, x, settle)


def _rates(dice: torch.Generator) -> list[tuple]:
    drawn = 0.5 + torch.rand((), dtype=torch.float64, generator=dice).item()
    return [(0.1, 0.1, 1.0), (0.4, 0.05, 3.0), (0.05, 0.1, 0.2), (0.2, 0.02, drawn)]


def _settle(rate: float, decay: float, pull: float, shrinks: bool = True) -> dict[str, float]:
    """Follow two weights, as one complex number, for many steps."""
    w = before = 1 + 0j
    for _ in range(6000):
        before, size = w, abs(w)
        gradient = 1j * pull * (w / size) / (size if shrinks else 1.0)
        w = w - rate * (gradient + decay * w)
    return {"length": abs(w), "angle": abs(cmath.phase(w / before))}


QUESTIONS = (
    Question(
        "08.1",
        "layer_norm_backward",
        2,
        _gradients,
        _rows,
        mistakes=(
            (
                lambda delta, z, scale: {**_gradients(delta, z, scale), "z": _no_scale(delta, z, scale)},
                "The gradient at z does not know the scale. What arrives at y, if delta arrives behind the scale?",
            ),
            (
                lambda delta, z, scale: {**_gradients(delta, z, scale), "z": scale * _no_scale(delta, z, scale)},
                "You multiplied by the scale at the end. It comes last on the way forward; when does it come on the way back?",
            ),
            (
                lambda delta, z, scale: _gradients(delta, z, scale, _part_detached),
                "You took mean and s for constants. Both move with z: that is what the two removals are for.",
            ),
            (
                lambda delta, z, scale: _gradients(delta, z, scale, _std_detached),
                "You took s for a constant. It moves with z, so the gradient also loses its part along y.",
            ),
            (
                lambda delta, z, scale: _gradients(delta, z, scale, _mean_detached),
                "You took the mean for a constant. It moves with z, so the gradient also loses its own mean.",
            ),
            (
                lambda delta, z, scale: _gradients(delta, z, scale, _batch_norm),
                "This is BatchNorm: its groups run over the images. A group of LayerNorm is one image.",
            ),
            (
                lambda delta, z, scale: _gradients(delta, z, scale, _without_eps),
                "The epsilon is missing. It counts where the variance is small, as in one of the calls.",
            ),
            (
                _unbiased,
                "Your variance divides by n - 1. Norm layers divide by n; see `correction` of torch.var.",
            ),
            (
                lambda delta, z, scale: {**_gradients(delta, z, scale), "scale": delta.sum(0)},
                "This gradient of the scale does not know y. By what is the scale multiplied on the way forward?",
            ),
            (
                lambda delta, z, scale: {**_gradients(delta, z, scale), "scale": (delta * z).sum(0)},
                "The scale multiplies the normalised y, not z.",
            ),
            (
                lambda delta, z, scale: {
                    key: value if key == "z" else value / len(z) for key, value in _gradients(delta, z, scale).items()
                },
                "You took means over the images. All images use the same scale and shift: what does the chain rule do with them?",
            ),
        ),
        rtol=1e-3,
        atol=1e-6,
    ),
    Question(
        "08.2",
        "leaky_factors",
        2,
        _factors,
        _kept,
        mistakes=(
            (
                lambda kept: dict(zip(("batch", "layer"), reversed(_factors(kept).values()))),
                "The two norms are exchanged. Which of them takes away what all images have in common?",
            ),
            (lambda kept: _powers(kept, 2.0), "These are the squares of the factors."),
            (
                lambda kept: _factors(kept, square_of_mean=0.0),
                "Your BatchNorm does not subtract a mean. A leaky ReLU has one, since it is not symmetric.",
            ),
            (
                lambda kept: _factors(kept, square_of_mean=_mean_over_normal(_leaky(-kept)) ** 2),
                "Your mean adds the negative half as if it were positive. What is negative goes into a mean with its sign.",
            ),
            (
                lambda kept: dict.fromkeys(
                    ("batch", "layer"), _mean_over_normal(slopes(lambda z: _leaky(kept, z), _Z) ** 2) ** 0.5
                ),
                "These are the slopes alone. The norm divides by s, and s depends on the output of the activation.",
            ),
            (
                lambda kept: {"batch": _factors(0.0)["batch"], "layer": 1.0},
                "This is the plain ReLU, whatever is kept of negative values.",
            ),
        ),
    ),
    Question(
        "08.3",
        "ratio_at_50",
        2,
        _last_ratio,
        rtol=0.07,
        mistakes=(
            (lambda: 1 / _last_ratio(), "That is post-LN over pre-LN. Which of the two norms divides by more?"),
            (lambda: _last_ratio() ** 2, "You compared variances. A norm divides by s."),
            (lambda: _last_ratio(50), "You counted 50 branches. A block has two."),
            (
                lambda: 1 / math.sqrt(27.0),
                "This is 1/s of pre-LN alone. The last norm under post-LN has an s too, and it is not 1.",
            ),
            (
                lambda: _last_ratio(16),
                "This is the ratio at the right edge of the figure. Extend the line to 50 blocks.",
            ),
        ),
    ),
    choice(
        "08.4",
        "why_not_zero",
        2,
        right="b",
        wrong={
            "a": "a wrong gradient is found by a push: move one weight a little and look at the loss. Does a running mean "
            "move when a weight does?",
            "c": "in training mode the right angle is met by each single batch, small or not. And which statistics are used here?",
            "d": "statistics that have settled are still the same for each W. Multiply W by 2: does y stay?",
        },
    ),
    Question(
        "08.5",
        "recalibrate",
        2,
        lambda net, batches, x: _with_statistics(net, batches, x, lambda layer, seen: seen.mean(0)),
        _networks,
        mistakes=(
            (
                lambda net, batches, x: _with_statistics(net, batches, x, lambda layer, seen: _old(layer)),
                "The statistics are the old ones. In which mode does a BatchNorm move them?",
            ),
            (
                lambda net, batches, x: net.train()(x),
                "This output is normalised with the statistics of x itself. Which mode uses the running ones?",
            ),
            (
                lambda net, batches, x: _lagging(_fresh, net, batches, x),
                "Statistics that begin at 0 and 1 and move by a tenth lag after so few batches. See `momentum` of BatchNorm1d.",
            ),
            (
                lambda net, batches, x: _lagging(_old, net, batches, x),
                "The old statistics are still in there: a tenth per batch does not drive them out. Begin from new ones.",
            ),
            (_old_counted, "The old statistics are counted in, with the weight of 10 batches. Begin from new ones."),
            (
                lambda net, batches, x: _with_statistics(net, batches, x, lambda layer, seen: seen[-1]),
                "Only the last batch counts. Asked is the mean over all.",
            ),
            (_outer_only, "One of the norms stands inside an inner Sequential; you did not reach it."),
            (
                lambda net, batches, x: _with_statistics(
                    net, [torch.cat(batches)], x, lambda layer, seen: seen.mean(0)
                ),
                "You made one batch of all. That needs the memory for all; asked is the mean over the batches.",
            ),
        ),
    ),
    Question(
        "08.6",
        "settled",
        3,
        _settle,
        _rates,
        rtol=0.01,
        mistakes=(
            (
                lambda rate, decay, pull: {"length": math.sqrt(pull / decay), "angle": rate * decay},
                "You balanced gradient and decay on one line. The gradient is at a right angle to w: what is the length then?",
            ),
            (
                lambda rate, decay, pull: _settle(rate, decay, pull, shrinks=False),
                "This is for a gradient that does not depend on |w| (or the squared length). What does the division by s do?",
            ),
            (
                lambda rate, decay, pull: {
                    **_settle(rate, decay, pull),
                    "angle": math.degrees(_settle(rate, decay, pull)["angle"]),
                },
                "The angle is in degrees; asked are radians.",
            ),
            (
                lambda rate, decay, pull: {
                    **_settle(rate, decay, pull),
                    "angle": _settle(rate, decay, pull)["angle"] * _settle(rate, decay, pull)["length"],
                },
                "Your angle is the length of the step. An angle is that length relative to the length of w.",
            ),
        ),
    ),
)
