"""Exercise set 04: dead units. The expected values come from autograd, from trying rates one by one, and from an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_utils.questions.form import Question, choice, slopes


def _net(widths: tuple[int, ...], dice: torch.Generator) -> nn.Sequential:
    """A ReLU network in which many units are on for few inputs, and some for none."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(fan_out, fan_in, dtype=torch.float64, generator=dice) * fan_in**-0.5)
            linear.bias.copy_(torch.randn(fan_out, dtype=torch.float64, generator=dice) - 1.5)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _nets(dice: torch.Generator) -> list[tuple]:
    cases = []
    for widths, rows in (((5, 16, 4), (7, 6, 4)), ((4, 20, 15, 3), (8, 8)), ((6, 12, 12, 12, 5), (5, 9, 3))):
        net = _net(widths, dice)
        batches = [2 * torch.randn(row, widths[0], dtype=torch.float64, generator=dice) for row in rows]
        cases.append((net, batches))
    return cases


def _times_on(net: nn.Sequential, images: Tensor) -> list[Tensor]:
    """For each hidden layer, on how many images each unit is on: its slopes are summed."""
    h, counts = images, []
    for layer in net:
        if isinstance(layer, nn.ReLU):
            counts.append(slopes(F.relu, h).sum(dim=0))
        h = layer(h)
    return counts


def _by_batch(together: Callable[[Tensor], Tensor]) -> Callable[[nn.Sequential, list[Tensor]], list[float]]:
    """Counts of units made from [batches, units], where a unit without slope in the batch is 1."""

    def count(net: nn.Sequential, batches: list[Tensor]) -> list[float]:
        by_layer = zip(*(_times_on(net, batch) for batch in batches))
        return [together((torch.stack(layer) == 0).double()).sum().item() for layer in by_layer]

    return count


def _share_dead(net: nn.Sequential, batches: list[Tensor]) -> list[float]:
    return [(times == 0).double().mean().item() for times in _times_on(net, torch.cat(batches))]


# Pre-activations of six images before the step of the figure, and how far a rate of 1 moves each down.
_BEFORE = torch.tensor([1.0, 0.7, 0.4, -0.4, -1.4, -1.2], dtype=torch.float64)
_DOWN = torch.tensor([5.0, 2.0, 4.0, 0.6, -2.0, -1.4], dtype=torch.float64)


def _rates_with(fewest: int, most: int) -> list[float]:
    """From the first to the last rate between 0 and 1 after which so many of the six images are on."""
    rates = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    on = (_BEFORE - rates[:, None] * _DOWN > 0).sum(dim=1)
    found = rates[(fewest <= on) & (on <= most)]
    return [found[0].item(), found[-1].item()]


def _steps(dice: torch.Generator) -> list[tuple]:
    cases = []
    for images, units, norm, rate in ((8, 5, 2.0, 3.0), (15, 6, 0.7, 1.5), (8, 5, 1.3, 0.02)):
        z = torch.randn(images, units, dtype=torch.float64, generator=dice)
        d = 0.5 + torch.rand(images, units, dtype=torch.float64, generator=dice)
        d[0, 0], z[0, 0] = -0.4, 0.3  # on, and pushed further on: never dies
        z[1:, 0] *= 0.1
        z[:, 1] = -z[:, 1].abs()  # dead already
        d[:2, 2], z[:2, 2] = -0.1, -2.0  # off, and pushed up: not on before the others are off
        z[2, 2:] = z[2, 2:].abs() + 0.1
        d[:, 5:] = 0  # off on the whole batch: not moved
        cases.append((z, d, norm, rate))
    return cases


def _first_rate(z: Tensor, d: Tensor, last: bool = False) -> float:
    """Of all rates at which an image passes 0, the first at which a unit (or most of the units) is newly dead."""
    rates, alive = (z / d).flatten(), (z > 0).any(dim=0)
    rates = rates[(rates > 0) & rates.isfinite()].sort().values * (1 + 1e-9)
    killed = torch.stack([(alive & ~(z - rate * d > 0).any(dim=0)).sum() for rate in rates])
    enough = killed >= (killed.max().clamp(min=1) if last else 1)
    return rates[enough][0].item() if enough.any() else math.inf


def _border(z: Tensor, d: Tensor, norm: float, rate: float, first: float | None = None) -> float:
    """The norm at which clipping makes a step as long as one of the rate `first`, by halving."""
    first = _first_rate(z, d) if first is None else first
    if first > rate:
        return math.inf
    gradient, low, high = nn.Parameter(torch.zeros(1, dtype=torch.float64)), 0.0, norm
    for _ in range(45):
        middle = (low + high) / 2
        gradient.grad = torch.full_like(gradient, norm)
        nn.utils.clip_grad_norm_([gradient], middle)
        too_long = rate * gradient.grad.item() > abs(first) * norm
        low, high = (low, middle) if too_long else (middle, high)
    return math.copysign(high, first)


def _crossings(z: Tensor, d: Tensor, otherwise: float) -> Tensor:
    return torch.where((z > 0) & (d > 0), z / d, torch.full_like(z, otherwise))


def _with_slopes(dice: torch.Generator) -> list[tuple]:
    cases = []
    for images, a in ((4, [0.25, 0.0, -0.5]), (7, [0.01, 1.2])):
        z = torch.randn(images, len(a), dtype=torch.float64, generator=dice)
        z[:, 1] = -z[:, 1].abs() - 0.1
        gradient = torch.randn(images, len(a), dtype=torch.float64, generator=dice)
        cases.append((gradient, z, torch.tensor(a, dtype=torch.float64)))
    return cases


def _way_back(gradient: Tensor, z: Tensor, a: Tensor) -> dict[str, Tensor]:
    leaves = z.clone().requires_grad_(), a.clone().requires_grad_()
    return dict(zip("za", torch.autograd.grad(F.prelu(*leaves), leaves, gradient)))


def _per_image(gradient: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """The part of each image in the gradient at a."""
    return torch.stack([_way_back(g[None], one[None], a)["a"] for g, one in zip(gradient, z)])


def _at_a(change: Callable[..., Tensor]) -> Callable[..., dict[str, Tensor]]:
    """The right gradient at z, and another one at a."""
    return lambda *probe: _way_back(*probe) | {"a": change(*probe)}


def _killed(dice: torch.Generator) -> list[tuple]:
    cases = []
    for rate, momentum, returns in ((0.5, 0.9, 1.5), (0.5, 0.9, 4.8), (0.2, 0.8, 1.1), (2.0, 0.5, 2.5)):
        draw = torch.rand(4, 3, dtype=torch.float64, generator=dice)
        falling = 0.5 + draw[0]
        rising = -0.5 - draw[1]
        later = torch.tensor([1.0, 1.25, 1.4], dtype=torch.float64)
        z = torch.cat([falling * rate * (0.2 + 0.7 * draw[2]), rising * returns * later])
        cases.append((z, torch.cat([falling, rising]), rate, momentum))
    z, d, *_ = cases[0]
    return [*cases, (z[:3], d[:3], 0.5, 0.9)]


def _watched(
    z: Tensor,
    d: Tensor,
    rate: float,
    momentum: float,
    push: float = 0.0,
    enough: Callable[[Tensor], Tensor] = torch.any,
) -> float:
    """Take the steps with an optimizer, until the unit is on. Later gradients are `push` times the first."""
    moved = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([moved], lr=rate, momentum=momentum)
    for step in range(1, 400):
        moved.grad = torch.tensor(1.0 if step == 1 else push, dtype=torch.float64)
        optimizer.step()
        if enough(z + moved.detach() * d > 0):
            return step
    return math.inf


def _faded(z: Tensor, d: Tensor, rate: float, momentum: float) -> float:
    steps = (step for step in range(1, 400) if (z > rate * momentum ** (step - 1) * d).any())
    return next(steps, math.inf)


QUESTIONS = (
    Question(
        "04.1",
        "dead_per_layer",
        1,
        lambda net, batches: _by_batch(lambda off: off[0])(net, [torch.cat(batches)]),
        _nets,
        mistakes=(
            (
                _by_batch(lambda off: off[-1]),
                "This is the last batch alone: each batch overwrites what the one before it found.",
            ),
            (
                _by_batch(lambda off: off[0]),
                "This is the first batch alone. A unit that is off there may be on in the next.",
            ),
            (
                _by_batch(lambda off: off.amax(dim=0)),
                "You count units that are off throughout one of the batches. Dead means off on every image of all batches.",
            ),
            (
                _by_batch(lambda off: off.mean(dim=0)),
                "This is the mean over the batches of what each of them counts. No batch alone can say that a unit is dead.",
            ),
            (
                _by_batch(lambda off: off),
                "You added the counts of the batches. A unit that is off in two batches is counted twice.",
            ),
            (_share_dead, "These are shares of a layer; asked are numbers of units."),
            (
                lambda net, batches: [
                    (one == 0).sum().item()
                    for one in (
                        torch.stack(layer)
                        for layer in zip(*(_times_on(net, image[None]) for image in torch.cat(batches)))
                    )
                ],
                "You counted zeros among all outputs. Most of them belong to units that are on for another image.",
            ),
        ),
    ),
    choice(
        "04.2",
        "zero_pattern",
        2,
        right="b",
        wrong={
            "a": "a column of linear2.weight is no unit of layer 2. What enters the layer through that column?",
            "c": "the gradient of a weight is a product of two numbers, and the weight itself is neither of them.",
            "d": "a column of linear1.weight is no unit of layer 1. What enters the layer through that column?",
        },
    ),
    Question(
        "04.3",
        "deadly_rates",
        1,
        lambda: _rates_with(0, 0),
        rtol=0.06,
        mistakes=(
            (lambda: [0.1, 0.7], "At the first of these rates only the first image goes off. Which is the last?"),
            (
                lambda: [_rates_with(0, 0)[0], 1.0],
                "Follow the lines to the right end of the axis: do all of them stay below 0?",
            ),
            (
                lambda: [_rates_with(0, 0)[0], _rates_with(0, 1)[1]],
                "The upper end is too far right: one image on is enough to be alive.",
            ),
            (lambda: [0.2, 0.7], "At the first of these rates one image is still on."),
            (lambda: [0.0, _rates_with(0, 0)[0]], "These are the rates at which it survives."),
        ),
    ),
    Question(
        "04.4",
        "safe_clip",
        3,
        _border,
        _steps,
        mistakes=(
            (
                lambda z, d, norm, rate: _border(z, d, norm, rate, _crossings(z, d, math.inf).min().item()),
                "You stop where the first image goes off. A unit dies where its last image goes off.",
            ),
            (
                lambda z, d, norm, rate: _border(
                    z, d, norm, rate, min(one for one in _crossings(z, d, 0.0).amax(dim=0).tolist() if one > 0)
                ),
                "You count a unit as dying that is on for an image with a negative d. What does the step do to that image?",
            ),
            (
                lambda z, d, norm, rate: _border(z, d, norm, rate, _first_rate(z, d, last=True)),
                "At this norm the last unit dies. The others died at smaller ones.",
            ),
            (
                lambda z, d, norm, rate: _first_rate(z, d) if _first_rate(z, d) <= rate else math.inf,
                "This is a learning rate. Asked is the norm of the gradient that makes the step so small.",
            ),
            (
                lambda z, d, norm, rate: _border(z, d, 1e6 * norm / rate, 1e6),
                "Where the whole step kills no unit, no clipping is needed, and the answer is math.inf.",
            ),
            (
                lambda z, d, norm, rate: _border(
                    z, d, 1e6 * norm / rate, 1e6, (z / d).nan_to_num(math.inf).amax(dim=0).min().item()
                ),
                "A unit that is dead before the step cannot be killed. Leave it out.",
            ),
            (lambda *probe: 0.0, "A unit that is dead before the step cannot be killed. Leave it out."),
        ),
    ),
    Question(
        "04.5",
        "prelu_backward",
        2,
        _way_back,
        _with_slopes,
        mistakes=(
            (
                lambda g, z, a: _way_back(g, z, a) | {"z": _way_back(g, F.prelu(z, a), a)["z"]},
                "You decide by the sign of the output which side a value is on. With a negative a, that is not the sign of z.",
            ),
            (
                lambda g, z, a: _way_back(g, z, a) | {"z": g * slopes(F.relu, z)},
                "At z you let nothing through where z is negative. That is ReLU; here the slope is a.",
            ),
            (
                _at_a(lambda *probe: _per_image(*probe).mean(dim=0)),
                "You took the mean over the images. The mean of the loss, if there is one, is in the gradient that comes in.",
            ),
            (
                _at_a(lambda g, z, a: (g * z).sum(dim=0)),
                "a gets a part from all images here. Where z is positive, the output does not contain a.",
            ),
            (
                _at_a(lambda g, z, a: (g * (z < 0)).sum(dim=0)),
                "How much does the output change if a grows a little, at z = -2 and at z = -4? You gave both the same part.",
            ),
        ),
    ),
    Question(
        "04.6",
        "steps_to_return",
        3,
        _watched,
        _killed,
        mistakes=(
            (
                lambda z, d, rate, momentum: math.inf,
                "The gradient is 0, but the optimizer remembers: its buffer holds the last gradient, and moves the unit on.",
            ),
            (
                lambda z, d, rate, momentum: _watched(z, d, rate, 0.0, push=1.0),
                "You repeat the step at its full size. The buffer shrinks with each step, and all later steps have a finite sum.",
            ),
            (lambda *probe: _watched(*probe) - 1, "You do not count the step that kills. It is step 1."),
            (
                lambda *probe: _watched(*probe, enough=lambda on: on.sum() == 3),
                "You wait until all rising images are on. One is enough.",
            ),
            (
                _faded,
                "You let the first step fade, so that the unit goes back to where it came from. The later steps add to the first.",
            ),
        ),
    ),
)
