"""Exercise set 06: Xavier and He. Expected values come from integrals on a grid and from autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gradflow_utils.activations import activation
from gradflow_utils.questions.form import Mistake, Question, Wrong, choice, slopes

_Z = torch.linspace(-9, 9, 6000, dtype=torch.float64)  # an even number of points: none of them at the kink of ReLU
_DENSITY = torch.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi)


def _average(values: Tensor) -> float:
    return torch.trapezoid(values * _DENSITY, _Z).item()


def _uniform(dice: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), dtype=torch.float64, generator=dice).item()


# 06.1


def _gains_and_sizes(dice: torch.Generator) -> list[tuple]:
    return [(1.0, 1.0), (1.6, 0.4), (_uniform(dice, 1.1, 2), _uniform(dice, 0.2, 3)), (0.8, 4.0)]


def _sine(gain: float, q: float, power: int = 2) -> list[float]:
    signal, steep = torch.sin(math.sqrt(q) * _Z), slopes(torch.sin, math.sqrt(q) * _Z)
    return [gain**power * _average(signal**2), gain**power * _average(steep**2)]


def _sine_mean_slope(gain: float, q: float) -> list[float]:
    return [_sine(gain, q)[0], gain**2 * _average(slopes(torch.sin, math.sqrt(q) * _Z)) ** 2]


# 06.3


def _gain_of_pytorch() -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weight = nn.Linear(1000, 1000).weight.detach().double()
    return math.sqrt(1000 * weight.square().mean().item())


PEAK = 6  # the layer with the other gain


def _peak_and(factor: float) -> list[float]:
    return [PEAK, factor]


def _ratio() -> float:
    return math.sqrt(2) / _gain_of_pytorch()


# 06.4


def _networks(dice: torch.Generator) -> list[tuple]:
    cases = []
    for widths, kind in (([5, 7, 6, 4], nn.SiLU), ([4, 6, 5, 7, 3], nn.ReLU), ([3, 8, 4, 5], nn.Tanh)):
        parts: list[nn.Module] = []
        for fan_in, fan_out in zip(widths, widths[1:]):
            layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
            with torch.no_grad():
                layer.weight.normal_(generator=dice).mul_(0.5)
                layer.bias.zero_()
            parts += [layer, kind()]
        x = 0.7 + torch.randn(12, widths[0], dtype=torch.float64, generator=dice)
        cases.append((nn.Sequential(*parts[:-1]), x))
    return cases


def _size(values: Tensor) -> float:
    return values.norm().item() / math.sqrt(values.numel())


def _before(net: nn.Sequential, x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """The pre-activations of all layers, with these weights."""
    found, h = [], x
    for weight in weights:
        found.append(h @ weight.T)
        h = net[1](found[-1])
    return found


def _judge_calibrated(values: list, probes: list[tuple]) -> None:
    for weights, (net, x) in zip(values, probes):
        _judge_network(weights, net, x)


def _judge_network(weights: list[Tensor], net: nn.Sequential, x: Tensor) -> None:
    old = [layer.weight.detach() for layer in net if isinstance(layer, nn.Linear)]
    shapes = [tuple(one.shape) for one in old]
    if not isinstance(weights, (list, Tensor)) or [tuple(getattr(one, "shape", ())) for one in weights] != shapes:
        raise Wrong(f"Return the list of the weight matrices of all linear layers, of shapes {shapes}.")
    factors = [(new / one) for new, one in zip(weights, old)]
    if any(not factor.isfinite().all() for factor in factors):
        raise Wrong("A weight is no finite number.")
    if all(torch.allclose(factor, torch.ones_like(factor), rtol=1e-4) for factor in factors):
        raise Mistake("The weights are what they were. Does the list hold the weights after the change?")
    if any(factor.mean() <= 0 or factor.std() > 1e-3 * factor.mean() for factor in factors):
        if all(
            torch.allclose(z.square().mean(0), torch.ones_like(z[0]), rtol=1e-2) for z in _before(net, x, weights[:1])
        ):
            raise Mistake(
                "Each unit got a factor of its own. Asked is one factor for a layer, so that units keep their ratios."
            )
        raise Wrong("The new weights of a layer are not the old ones times one positive number.")
    first, rest = 1 / factors[0].mean().item(), [1 / factor.mean().item() for factor in factors[1:]]
    z = _before(net, x, old)
    sizes = [_size(one) for one in _before(net, x, weights)]
    right = [abs(one - 1) < 1e-3 for one in sizes]
    if all(right):
        return
    for value, name in (
        (
            z[0].std().item(),
            "a standard deviation. The mean of z is not 0, and the derivation is about the mean square",
        ),
        (
            z[0].std(correction=0).item(),
            "a standard deviation. The mean of z is not 0, and the derivation is about the mean square",
        ),
        (_size(z[0]) ** 2, "a mean square. Weights scale z itself, and not its square"),
        (_size(net[1](z[0])), "the size of the output of the activation. Asked is the size of the pre-activation"),
    ):
        if abs(first / value - 1) < 1e-4:
            raise Mistake(f"You divided by {name}.")
    if right[0] and all(abs(one / _size(two) - 1) < 1e-4 for one, two in zip(rest, z[1:])):
        raise Mistake(
            "Layer 1 is right, the others are not: their sizes were measured before the layers below them had changed. "
            "What does layer 2 receive after layer 1 has changed?"
        )
    if all(right[:-1]) and abs(rest[-1] - 1) < 1e-4:
        raise Mistake("The last linear layer is left as it was; it has no activation, but it has a pre-activation.")
    raise Wrong(
        f"After the change, the root mean squares of z are {', '.join(f'{one:.3g}' for one in sizes)}; expected 1."
    )


# 06.5


def _leaky(slope: float) -> Tensor:
    return torch.where(_Z > 0, _Z, slope * _Z)


def _drawn_widths(dice: torch.Generator) -> list[tuple]:
    widths = torch.randint(8, 200, (4,), generator=dice).tolist()
    return [(0.0, [64] * 18), (0.3, [100, 10, 100]), (1.0, widths), (_uniform(dice, 0.1, 0.6), widths[:2])]


def _one_unit(slope: float, kept: float | None = None) -> float:
    """Variance of phi(u)^2 over the square of what the gain takes for its mean."""
    squares = _leaky(slope) ** 2
    mean = _average(squares)
    return _average((squares - mean) ** 2) / (kept or mean) ** 2


def _fourth(slope: float) -> float:
    return _average(_leaky(slope) ** 4) / _average(_leaky(slope) ** 2) ** 2


def _harmonic(widths: list[int]) -> float:
    return torch.tensor(widths, dtype=torch.float64).reciprocal().sum().item()


# 06.6

_A = torch.linspace(-8, 8, 1000, dtype=torch.float64)[:, None]  # of the gate
_B = torch.linspace(-8, 8, 160, dtype=torch.float64)  # of the other factor
_PLANE = torch.exp(-(_A**2 + _B**2) / 2)
_PLANE = _PLANE / _PLANE.sum()


def _gated_cases(dice: torch.Generator) -> list[tuple]:
    return [
        ("relu", 1.0, 1.0),
        ("silu", 1.3, 2.5),
        ("sigmoid", 1.5, 0.5),
        ("tanh", _uniform(dice, 1, 2), _uniform(dice, 1.3, 3)),
    ]


def _gated(name: str, gain: float, q: float, ways: tuple[int, ...] = (0, 1)) -> list[float]:
    """By autograd of the product on a grid of both pre-activations."""
    a = (math.sqrt(q) * _A).expand(_PLANE.shape).clone().requires_grad_()
    b = (math.sqrt(q) * _B).expand(_PLANE.shape).clone().requires_grad_()
    product = activation(name).function(a) * b
    gradients = torch.autograd.grad(product.sum(), (a, b))
    passed = sum((gradients[way] ** 2 * _PLANE).sum().item() for way in ways)
    return [gain**2 * (product.detach() ** 2 * _PLANE).sum().item(), gain**2 * passed]


def _plain(name: str, gain: float, q: float) -> list[float]:
    entry, z = activation(name), math.sqrt(q) * _Z
    return [gain**2 * _average(entry.function(z) ** 2), gain**2 * _average(entry.slope(z) ** 2)]


def _root(values: list[float]) -> list[float]:
    return [math.sqrt(one) for one in values]


QUESTIONS = (
    Question(
        "06.1",
        "sine_layer",
        2,
        _sine,
        _gains_and_sizes,
        mistakes=(
            (
                lambda gain, q: _sine(1.0, q),
                "The gain is missing: weights stand between this layer and the next, on both ways.",
            ),
            (lambda gain, q: _sine(gain, q, power=1), "Both are mean squares. What does a factor do to a mean square?"),
            (lambda gain, q: _root(_sine(gain, q)), "These are root mean squares; asked are the mean squares."),
            (
                _sine_mean_slope,
                "You squared the mean of the slope. The derivation asks for the mean of its square.",
            ),
            (lambda gain, q: _sine(gain, q)[::-1], "The two numbers are swapped: the signal comes first."),
            (
                lambda gain, q: _sine(gain, q**2),
                "You took q for the standard deviation of z. It is the mean square.",
            ),
            (
                lambda gain, q: [_sine(gain, q)[0] / q, _sine(gain, q)[1]],
                "The first number is the factor by which q changes; asked is the next q.",
            ),
            (
                lambda gain, q: [gain**2 * q, gain**2],
                "This is the straight line sin z = z. It holds for a small q alone.",
            ),
        ),
    ),
    choice(
        "06.2",
        "sine_brake",
        2,
        right="c",
        wrong={
            "a": "follow q over some layers at gain 2. The values of z fold, but does their mean square vanish?",
            "b": "a slope of at most 1 meets weights of a gain above 1. Compute the second number of `sine_layer`.",
            "d": "q of the next layer and the factor of the gradient are two averages. That one of them has "
            "settled says nothing about the other: compute both.",
        },
        words=25,
    ),
    Question(
        "06.3",
        "other_gain",
        2,
        lambda: _peak_and(_gain_of_pytorch()),
        rtol=0.1,
        mistakes=(
            (
                lambda: _peak_and(math.sqrt(2) * _ratio()),
                "You took the peak for larger weights. Larger weights in one place raise the signal and the gradient "
                "that the *other* matrices get.",
            ),
            (lambda: _peak_and(1 / _ratio()), "This is the ratio to the other layers' gain. Their gain is not 1."),
            (lambda: _peak_and(_ratio()), "This is the height of the peak, not a gain."),
            (
                lambda: [PEAK + 1, _gain_of_pytorch()],
                "The gain is right, the matrix is not. Which one gets the product of an undiminished signal and an "
                "undiminished gradient?",
            ),
            (
                lambda: [PEAK - 1, _gain_of_pytorch()],
                "The gain is right, the matrix is not. With which number does the axis begin?",
            ),
            (
                lambda: [PEAK - 2, _gain_of_pytorch()],
                "The gain is right. The list begins with matrix 2, so a place in the list is no number of a matrix.",
            ),
        ),
    ),
    Question("06.4", "calibrated", 3, probes=_networks, judge=_judge_calibrated),
    Question(
        "06.5",
        "log_variance",
        2,
        lambda slope, widths: _one_unit(slope) * _harmonic(widths),
        _drawn_widths,
        rtol=1e-3,
        mistakes=(
            (
                lambda slope, widths: _one_unit(0.0) * _harmonic(widths),
                "This is ReLU's number for every slope. What is it made of?",
            ),
            (
                lambda slope, widths: _one_unit(slope) * len(widths) ** 2 / sum(widths),
                "You took the mean width for all layers. Each layer adds its own variance.",
            ),
            (
                lambda slope, widths: _one_unit(slope) / min(widths),
                "You counted the narrowest layer alone. It adds the most, but all of them add.",
            ),
            (
                lambda slope, widths: _fourth(slope) * _harmonic(widths),
                "You took the mean of the square of phi(u)^2 for its variance.",
            ),
            (
                lambda slope, widths: _one_unit(slope, kept=0.5) * _harmonic(widths),
                "You divided by ReLU's mean square 1/2. This gain is that of leaky ReLU: it has its own mean square.",
            ),
            (
                lambda slope, widths: math.sqrt(_one_unit(slope) * _harmonic(widths)),
                "This is a standard deviation; asked is the variance.",
            ),
        ),
    ),
    Question(
        "06.6",
        "gated_gradient",
        3,
        _gated,
        _gated_cases,
        rtol=2e-3,
        mistakes=(
            (
                lambda name, gain, q: _gated(name, gain, q, ways=(0,)),
                "The gradient comes back on one way only, through the gate. h enters the layer twice.",
            ),
            (
                lambda name, gain, q: _gated(name, gain, q, ways=(1,)),
                "The gradient comes back on one way only, through b. h enters the layer twice.",
            ),
            (_plain, "This is a layer without a second factor. What does the product with b do to either number?"),
            (
                lambda name, gain, q: [_gated(name, gain, q)[0], _plain(name, gain, q)[1] + _plain(name, gain, q)[0]],
                "Two ways, right. But on the way through the gate, the gradient is multiplied by b as well.",
            ),
            (lambda name, gain, q: _gated(name, 1.0, q), "The gain is missing: the matrices stand in both numbers."),
            (
                lambda name, gain, q: _root(_gated(name, gain, q)),
                "These are root mean squares; asked are the mean squares.",
            ),
            (
                lambda name, gain, q: [
                    _gated(name, gain, 1.0)[0] * q,
                    _gated(name, gain, 1.0, ways=(0,))[1] * q + _gated(name, gain, 1.0, ways=(1,))[1],
                ],
                "The averages are taken at q = 1. The pre-activation is sqrt(q) times a standard normal number.",
            ),
        ),
    ),
)
