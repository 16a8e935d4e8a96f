"""Exercise set 03: the default. Expected values come from a search, from pairs of rows, from a solved system of linear
equations and from a simulation of Adam."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_utils.networks import mlp
from gradflow_utils.questions.form import Mistake, Question, Wrong, choice, slopes


def _mean_squares(dice: torch.Generator) -> list[tuple]:
    drawn = torch.rand(2, dtype=torch.float64, generator=dice).tolist()
    return [(1 / 2,), (1 / 4,), (0.02 + 0.1 * drawn[0],), (0.3 + 0.4 * drawn[1],)]


_WIDTH = 200
# As spread out as uniform numbers on (-1, 1).
_EVENLY = (torch.arange(_WIDTH, dtype=torch.float64) * 2 + 1) / _WIDTH - 1


def _multiplier(mean_square_slope: float, weights: Tensor = _EVENLY, power: float = 1.0) -> float:
    """Search the number by which a row of weights is multiplied so that a layer passes on the mean square it gets."""
    low, high = 1e-3, 1e3
    row = weights / math.sqrt(_WIDTH)
    for _ in range(60):
        middle = math.sqrt(low * high)
        passed = (middle**power * row).square().sum().item() * mean_square_slope
        low, high = (low, middle) if passed > 1 else (middle, high)
    return low


_ONES = torch.ones(_WIDTH, dtype=torch.float64)
_LEFT = 7.9e-8  # of the gradient, in the figure, after 18 layers


def _read(curve: Callable[[Tensor], Tensor] | None) -> float:
    factor = math.exp(math.log(_LEFT) / 18)
    return factor / slopes(curve, torch.zeros(1, dtype=torch.float64)).item() if curve else factor


def _networks(dice: torch.Generator) -> list[tuple]:
    cases = []
    for name, init in (("sigmoid", "default"), ("tanh", "matched"), ("silu", "default")):
        seed = int(torch.randint(10_000, (1,), generator=dice))
        net = mlp([12, *[10] * 9, 4], name, init=init, seed=seed).double()
        cases.append((net, torch.randn(40, 12, dtype=torch.float64, generator=dice)))
    return cases


def _pairs(h: Tensor) -> Tensor:
    """Standard deviation over rows, root mean square over units: half the mean square of a difference of two rows."""
    return ((h[:, None] - h[None]) ** 2).mean().div(2).sqrt()


def _outputs(net: nn.Sequential, x: Tensor, linear: bool = False) -> list[Tensor]:
    ends = [place + 1 - linear for place, one in enumerate(net) if not isinstance(one, nn.Linear)]
    with torch.no_grad():
        return [net[:end](x) for end in ends]


_SPREADS = (
    (lambda h: _pairs(h.T), "it is taken over the units, dimension 1 of h. Which dimension holds the images?"),
    (lambda h: h.std(dim=1).mean(), "it is taken over the units, dimension 1 of h. Which dimension holds the images?"),
    (torch.std, "it is taken over all values, as std is. So it cannot tell images from units."),
    (lambda h: h.mean(dim=1).std(), "you averaged over the units first; what differs between images cancels there."),
    (lambda h: h.std(dim=0).mean(), "it is the mean over the units. Asked is the root mean square."),
    (lambda h: h.var(dim=0).mean(), "it is a variance."),
)


def _near(one: Tensor, two: list[Tensor], rtol: float = 0.025) -> bool:
    """Whether numbers agree, so roughly that dividing a variance by n or by n - 1, or float32, makes no difference."""
    return torch.allclose(one, torch.stack(two), rtol=rtol, atol=1e-6)


def _judge_statistics(values: list, probes: list[tuple]) -> None:
    asked = {"mean": torch.mean, "std": torch.std, "row_std": _pairs}
    runs = [_outputs(net, x) for net, x in probes]
    for value, outputs in zip(values, runs):
        if not isinstance(value, dict) or value.keys() != asked.keys():
            raise Wrong(f"Return a dict with the keys {', '.join(asked)}.")
        for key, one in value.items():
            if not isinstance(one, Tensor) or one.shape != (len(outputs),):
                raise Wrong(
                    f"{key!r} must be a list of {len(outputs)} numbers, one for each activation of the network."
                )
    before = [_outputs(net, x, linear=True) for net, x in probes]
    if all(_near(value["std"], [h.std() for h in outputs]) for value, outputs in zip(values, before)):
        raise Mistake(
            "These are statistics of the pre-activations, the outputs of the linear layers. Asked are the activations."
        )
    if all(_near(value["std"], [_pairs(h) for h in outputs]) for value, outputs in zip(values, runs)):
        raise Mistake(
            "'std' is taken over the images for each unit. That is 'row_std'; 'std' is over all values at once."
        )
    for key in ("mean", "std"):
        if not all(_near(value[key], [asked[key](h) for h in outputs]) for value, outputs in zip(values, runs)):
            raise Wrong(f"{key!r} is not right. It is taken over all outputs of one activation, images and units.")
    if not all(_near(value["row_std"], [_pairs(h) for h in outputs]) for value, outputs in zip(values, runs)):
        for spread, name in _SPREADS:
            if all(_near(value["row_std"], [spread(h) for h in outputs], 0.06) for value, outputs in zip(values, runs)):
                raise Mistake(f"'mean' and 'std' are right. But 'row_std': {name}")
        raise Wrong(
            "'mean' and 'std' are right, 'row_std' is not: the standard deviation over the images, for each unit."
        )


def _layer_gradients(dice: torch.Generator) -> list[tuple]:
    return [
        (
            torch.randn(units, units, dtype=torch.float64, generator=dice),
            torch.randn(units, dtype=torch.float64, generator=dice),
        )
        for units in (2, 3, 5)
    ]


def _twin(weight: Tensor, bias: Tensor, moved: bool = True) -> tuple[Tensor, Tensor]:
    """The conversion of the notebook, for a hidden layer: tanh to sigmoid."""
    return 4 * weight, 2 * (bias - weight.sum(dim=1)) if moved else 2 * bias


def _converted(weight: Tensor, bias: Tensor, moved: bool = True, invert: bool = True) -> dict[str, Tensor]:
    """Gradients at the converted parameters, from the Jacobian of the conversion."""
    flat = torch.cat([weight.flatten(), bias])
    units = len(bias)

    def convert(numbers: Tensor) -> Tensor:
        new = _twin(numbers[:-units].view(units, units), numbers[-units:], moved)
        return torch.cat([new[0].flatten(), new[1]])

    jacobian = torch.autograd.functional.jacobian(convert, torch.zeros_like(flat))
    found = torch.linalg.solve(jacobian.T, flat) if invert else jacobian.T @ flat
    return {"weight": found[:-units].view(units, units), "bias": found[-units:]}


def _across(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"weight": _converted(weight.T, bias)["weight"].T, "bias": _converted(weight, bias)["bias"]}


def _noises(dice: torch.Generator) -> list[tuple]:
    drawn = torch.rand(2, dtype=torch.float64, generator=dice).tolist()
    return [(0.0, 1.0, 1e-8, 0.9), (1.0, 2.0, 0.5, 0.9), (0.02 + 0.02 * drawn[0], 0.05, 0.02 + 0.05 * drawn[1], 0.5)]


@functools.lru_cache(maxsize=16)
def _simulated(mean: float, noise: float, eps: float, beta1: float) -> float:
    """Root mean square of Adam's steps over its learning rate, for many weights at once, step by step."""
    dice = torch.Generator().manual_seed(0)
    m, s, squares = torch.zeros(8000), torch.zeros(8000), []
    for step in range(1, 501):
        gradient = mean + noise * torch.randn(8000, generator=dice)
        m.lerp_(gradient, 1 - beta1)
        s.lerp_(gradient**2, 0.001)
        if step > 380 and step % 10 == 0:
            squares.append((m / (1 - beta1**step) / ((s / (1 - 0.999**step)).sqrt() + eps)).square().mean())
    return torch.stack(squares).mean().sqrt().item()


def _ratio(mean: float, noise: float, eps: float, average: Callable[[Tensor], Tensor]) -> float:
    """Root mean square of an average of gradients, over theirs and eps. The average takes a history, newest gradient last."""
    history = mean + noise * torch.randn(60, 20_000, generator=torch.Generator().manual_seed(1))
    return (average(history).square().mean().sqrt() / (history.square().mean().sqrt() + eps)).item()


QUESTIONS = (
    Question(
        "03.1",
        "multiplier",
        1,
        _multiplier,
        _mean_squares,
        mistakes=(
            (
                lambda m: _multiplier(m, power=0.5),
                "This is the number for the variance. The weights themselves are multiplied: what does that do to their variance?",
            ),
            (
                lambda m: _multiplier(m, _ONES),
                (
                    "This would be right for a gain of 1. The default's weights have the largest size 1/sqrt(n); their standard "
                    "deviation is smaller."
                ),
            ),
            (
                lambda m: _multiplier(1.0),
                "This leaves the slopes out: it is right for tanh and for no other activation.",
            ),
            (
                lambda m: _multiplier(m**2),
                "You squared the slope once more. The argument is a mean of squares already.",
            ),
            (lambda m: 1 / _multiplier(m), "This is the factor per layer as it is. Asked is what makes it 1."),
        ),
    ),
    Question(
        "03.2",
        "read_gain",
        1,
        lambda: _read(F.gelu),
        rtol=0.1,
        mistakes=(
            (
                lambda: _read(None),
                "This is the factor per layer. It is a product: of the gain and of something that belongs to GELU.",
            ),
            (lambda: _LEFT, "This is what is left after all layers together. Take it apart into equal factors first."),
            (
                lambda: _read(None) * math.sqrt(2),
                "You took ReLU's root mean square slope. The signal in this network is small: which slope does GELU have there?",
            ),
            (lambda: _read(torch.sigmoid), "You took the slope of sigmoid at 0. The network has GELU."),
            (
                lambda: _read(F.gelu) * math.sqrt(3),
                "This is the multiple of PyTorch's default. The gain is the standard deviation times sqrt(n).",
            ),
        ),
    ),
    Question(
        "03.3",
        "activation_statistics",
        2,
        probes=_networks,
        judge=_judge_statistics,
    ),
    choice(
        "03.4",
        "what_varies",
        2,
        right="d",
        wrong={
            "a": "look at the lower panel. If only the gradient vanished, the images would still differ in the last layer.",
            "b": "a saturated sigmoid needs |z| above 4. What is the standard deviation of z, with default weights on outputs near 1/2?",
            "c": "a small number is no loss in float32, which keeps seven digits of 0.05 as of 1. The next weights can make it larger.",
        },
    ),
    Question(
        "03.5",
        "twin_gradients",
        2,
        _converted,
        _layer_gradients,
        mistakes=(
            (
                lambda weight, bias: {"weight": weight, "bias": bias},
                "The loss is the same, but the parameters are not: the same step in W' changes the function less than in W.",
            ),
            (
                lambda weight, bias: dict(zip(("weight", "bias"), _twin(weight, bias))),
                (
                    "You converted the gradient as the parameters are converted. If a parameter is stretched, its gradient is not "
                    "stretched along."
                ),
            ),
            (
                lambda weight, bias: _converted(weight, bias, invert=False),
                (
                    "This is the chain rule in the other direction. The given loss depends on W and b: write these two as functions of "
                    "W' and b' first."
                ),
            ),
            (
                lambda weight, bias: _converted(weight, bias, moved=False),
                "The bias is right. For the weight you left out that b depends on W' as well, once b' is held fixed.",
            ),
            (
                _across,
                "The bias is right. In the weight, the gradient of b stands along the wrong dimension: it has one number for each row.",
            ),
        ),
    ),
    Question(
        "03.6",
        "noisy_step",
        3,
        _simulated,
        _noises,
        rtol=0.03,
        mistakes=(
            (
                lambda mean, noise, eps, beta1: _ratio(mean, 0.0, eps, lambda history: history[-1]),
                "You left the noise out. It is in m, and in s.",
            ),
            (
                lambda mean, noise, eps, beta1: _ratio(mean, noise, eps, lambda history: torch.tensor(mean)),
                "This is the mean of the steps. Their root mean square holds in addition the noise that is left in m.",
            ),
            (
                lambda mean, noise, eps, beta1: _ratio(mean, noise, eps, lambda history: history[-1]),
                "You put the gradient itself for m. But m is an average over many steps, in which noise partly cancels.",
            ),
            (
                lambda mean, noise, eps, beta1: _ratio(
                    mean, noise, eps, lambda history: history[-round(1 / (1 - beta1)) :].mean(dim=0)
                ),
                "You averaged 1 / (1 - beta1) gradients with equal weights. In m a gradient weighs less with each step that has passed.",
            ),
            (
                lambda mean, noise, eps, beta1: _ratio(
                    mean, noise, eps, lambda history: mean + (1 - beta1) * (history[-1] - mean)
                ),
                "You counted the noise of the latest gradient alone. m holds what is left of the earlier ones too.",
            ),
        ),
    ),
)
