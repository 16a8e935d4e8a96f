"""Exercise set 01: sigmoid and tanh. The expected values come from autograd and from sums over a grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gradflow_utils.questions.form import Question, choice, slopes


def _points_of(dice: torch.Generator) -> list[tuple]:
    x = torch.randn(6, dtype=torch.float64, generator=dice) * 2
    return [(torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64),), (x,), (x.view(2, 3),)]


def _outputs_of(dice: torch.Generator) -> list[tuple]:
    return [(torch.sigmoid(x),) for (x,) in _points_of(dice)]


def _layer(dice: torch.Generator) -> list[tuple]:
    cases = []
    for rows, width in ((1, 2), (4, 3)):
        draws = [torch.randn(*shape, dtype=torch.float64, generator=dice) for shape in ((rows, width), (width, width))]
        h, weight = draws
        cases.append((torch.randn(rows, width, dtype=torch.float64, generator=dice), h, weight))
    return cases


def _layer_backward(gradient: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    leaf = h.clone().requires_grad_()
    return torch.autograd.grad(torch.tanh(leaf @ weight.T), leaf, gradient)[0]


def _slope_of_tanh(h: Tensor, weight: Tensor) -> Tensor:
    return slopes(torch.tanh, h @ weight.T)


def _sizes(dice: torch.Generator) -> list[tuple]:
    return [(1.0,), (2.5,), (5.0,), (0.5 + 4 * torch.rand((), dtype=torch.float64, generator=dice).item(),)]


_Z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
_DENSITY = torch.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi)


def _mean_over_normal(values: Tensor) -> float:
    return torch.trapezoid(values * _DENSITY, _Z).item()


def _share(size: float, below: float = 0.06, of_largest: bool = True) -> float:
    steep = slopes(torch.sigmoid, size * _Z)
    bound = below * slopes(torch.sigmoid, torch.zeros(1)).item() if of_largest else below
    return _mean_over_normal((steep < bound).double())


def _far_points(dice: torch.Generator) -> list[tuple]:
    x = 3 * torch.randn(5, generator=dice, dtype=torch.float64)
    return [(x.float(),), (torch.tensor([-200.0, -95.0, -20.0, 0.0, 20.0, 95.0, 200.0]),)]


def _log_slope(x: Tensor) -> Tensor:
    return torch.log(slopes(torch.sigmoid, -x.abs()))  # on the left, float64 keeps it


def _starts(dice: torch.Generator) -> list[tuple]:
    return [(3.0, 0.01), (0.5, 0.002), (1 + 4 * torch.rand((), dtype=torch.float64, generator=dice).item(), 0.005)]


def _counted_steps(start: float, rate: float) -> int:
    """Steps of gradient descent on the cross-entropy for target 0, until the output is below 0.1."""
    w = b = start
    steps = 0
    while (h := 1 / (1 + math.exp(-(w + b)))) >= 0.1:
        w, b, steps = w - rate * h, b - rate * h, steps + 1
    return steps


def _summed_steps(start: float, rate: float, gradient: Callable[[Tensor], Tensor]) -> float:
    z = torch.linspace(-math.log(9), 2 * start, 4001, dtype=torch.float64)
    return torch.trapezoid(1 / gradient(torch.sigmoid(z)), z).item() / (2 * rate)


def _where_tanh_is(slope: float) -> float:
    steep = slopes(torch.tanh, _Z)
    return _Z[steep >= slope].max().item()


QUESTIONS = (
    Question(
        "01.1",
        "slope_from_output",
        1,
        lambda s: slopes(torch.sigmoid, torch.logit(s)),
        _outputs_of,
        mistakes=(
            (lambda s: s, "This is the output itself, not the slope."),
            (lambda s: 1 - s, "This is 1 - s, the output at -x. One factor of the slope is missing."),
            (lambda s: 1 - s**2, "This is the slope of tanh. What is the slope of sigmoid where its output is 1/2?"),
            (
                lambda s: slopes(torch.sigmoid, s),
                "You took s for the input x: this is the slope at the point s, not where the output is s.",
            ),
        ),
    ),
    choice(
        "01.2",
        "why_small",
        2,
        right="c",
        wrong={
            "a": "sigmoid(x) is near 1 for a large positive x and near 0 for a large negative one; the slope is small at both.",
            "b": "rounding makes the slope exactly 0 only beyond x = 17 on the right and x = -87 on the left. It is below 0.01 from "
            "|x| = 5 on.",
            "d": "a weight does not enter the slope of the activation at a given x.",
        },
    ),
    Question(
        "01.3",
        "tanh_layer_backward",
        2,
        _layer_backward,
        _layer,
        mistakes=(
            (lambda g, h, w: g @ w, "The slope of tanh is missing: the gradient must pass the activation first."),
            (
                lambda g, h, w: (g * _slope_of_tanh(h, w)) @ w.T,
                "You multiplied by the transposed weights. Forward was h @ weight.T; the way back has weight itself.",
            ),
            (
                lambda g, h, w: (g @ w) * slopes(torch.tanh, h),
                "The slope is taken at h, the input of the layer. It belongs to the pre-activation z = h @ weight.T.",
            ),
            (
                lambda g, h, w: (g * (1 - (h @ w.T) ** 2)) @ w,
                "The formula for the slope of tanh takes the output y; you gave it the pre-activation z.",
            ),
            (
                lambda g, h, w: (g * torch.tanh(h @ w.T)) @ w,
                "You multiplied by the output of tanh; it is the slope that belongs there.",
            ),
            (
                lambda g, h, w: (g * slopes(torch.tanh, torch.tanh(h @ w.T))) @ w,
                "The slope is taken at the output of tanh. It belongs to the pre-activation z.",
            ),
        ),
    ),
    Question(
        "01.4",
        "read_off",
        1,
        lambda: _where_tanh_is(0.06),
        rtol=0.06,
        mistakes=(
            (lambda: 0.06, "You read the height of the line, not the place where the curve crosses it."),
            (
                lambda: _where_tanh_is(0.06) * 2,
                "This is where the other curve crosses the line (or the width between two crossings). Which of the two is tanh's?",
            ),
            (lambda: math.sqrt(1 - 0.06), "This is an output of the unit. The axis of the figure shows z."),
            (lambda: -_where_tanh_is(0.06), "Asked is |z|, a positive number."),
        ),
    ),
    Question(
        "01.5",
        "saturated_share",
        2,
        _share,
        _sizes,
        rtol=0.02,
        atol=1e-3,
        mistakes=(
            (lambda size: _share(size) / 2, "You counted one side. Large negative z are saturated too."),
            (lambda size: 1 - _share(size), "This is the share that is not saturated."),
            (
                lambda size: _share(size, of_largest=False),
                "The border is 6 % of the largest slope, and that is 1/4: take 0.06 / 4 and not 0.06.",
            ),
            (lambda size: _share(math.sqrt(size)), "You took the size for the variance; it is the standard deviation."),
            (lambda size: _share(size**2), "You squared the standard deviation once too often."),
        ),
    ),
    Question(
        "01.6",
        "log_slope",
        2,
        _log_slope,
        _far_points,
        mistakes=(
            (
                lambda x: torch.log(torch.sigmoid(x) * (1 - torch.sigmoid(x))).double(),
                "1 - sigmoid(x) is rounded to 0 for a large x, before a logarithm is taken. Which other expression is 1 - sigmoid(x)?",
            ),
            (
                lambda x: (torch.log(torch.sigmoid(x)) + torch.log(torch.sigmoid(-x))).double(),
                "sigmoid(-x) is right, but in float32 it is 0 from x = 89 on. Is there a function for the logarithm of sigmoid?",
            ),
            (
                lambda x: (-x - 2 * torch.log(1 + torch.exp(-x))).double(),
                "On the right this is good, but exp(-x) leaves float32 for x below -88. The function is even: use |x|.",
            ),
            (lambda x: -x.double().abs(), "This is the tail, log exp(-|x|). Near 0 it is not enough: at 0 the slope is 1/4."),
            (lambda x: torch.exp(_log_slope(x)), "This is the slope; asked is its logarithm."),
            (lambda x: F.logsigmoid(x.double()), "This is the logarithm of one factor."),
        ),
    ),
    Question(
        "01.7",
        "steps_to_unlearn",
        2,
        _counted_steps,
        _starts,
        rtol=0.05,
        mistakes=(
            (lambda start, rate: 2 * _counted_steps(start, rate), "In each step both w and b move, so z moves twice as far."),
            (
                lambda start, rate: _summed_steps(start, rate, lambda h: torch.ones_like(h)),
                "This is as if the output were 1 all the way. Below z = 0 the gradient h is small, and the steps are short.",
            ),
            (
                lambda start, rate: _summed_steps(start, rate, lambda h: h * h * (1 - h)),
                "These are the steps of the squared loss; the cross-entropy has another gradient at z.",
            ),
            (lambda start, rate: _counted_steps(start / 2, rate), "This starts at z = start. With x = 1, z = w + b."),
            (
                lambda start, rate: _counted_steps(start, 1e-4) * 1e-4,
                "The learning rate is missing: half the rate takes twice the steps.",
            ),
        ),
    ),
)
