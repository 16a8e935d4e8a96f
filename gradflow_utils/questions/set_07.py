"""Exercise set 07: mean field. The expected values come from iterated maps, Jacobians by autograd, sums over a grid and
differences of the correlation map."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gradflow_utils.questions.form import Mistake, Question, Wrong, choice, slopes

_Z = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
_DENSITY = torch.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi)


def _mean_over_normal(values: Tensor) -> float:
    return torch.trapezoid(values * _DENSITY, _Z).item()


@functools.cache
def _settled_loss(sigma_w: float = 0.75, sigma_b: float = 0.1, layers: int = 40) -> float:
    """Logarithm of the factor per layer of the squared difference, for the network that was logged."""
    q = 1.0
    for _ in range(layers):
        q = sigma_w**2 * _mean_over_normal(torch.tanh(math.sqrt(q) * _Z) ** 2) + sigma_b**2
    return math.log(sigma_w**2 * _mean_over_normal(slopes(torch.tanh, math.sqrt(q) * _Z) ** 2))


def _logged_scale(power: float = 1.0) -> float:
    return -1 / (power * _settled_loss())


def _layers(dice: torch.Generator) -> list[tuple]:
    cases = []
    for units, inputs in ((6, 4), (3, 5), (4, 4)):
        weight = (
            torch.randn(units, inputs, dtype=torch.float64, generator=dice) * torch.linspace(0.3, 2, inputs).double()
        )
        cases.append((weight, 1.5 * torch.randn(inputs, dtype=torch.float64, generator=dice)))
    return cases


def _jacobian(weight: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(lambda at: weight @ torch.tanh(at), z)


def _one_way(matrix: Tensor) -> Tensor:
    """Mean square behind a matrix over that before it, averaged over one direction after the other."""
    directions = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    return torch.stack([(matrix @ one).square().mean() / one.square().mean() for one in directions]).mean()


def _both_ways(matrix: Tensor) -> dict[str, Tensor]:
    return {"forward": _one_way(matrix), "backward": _one_way(matrix.T)}


def _swapped(weight: Tensor, z: Tensor) -> dict[str, Tensor]:
    found = _both_ways(_jacobian(weight, z))
    return {"forward": found["backward"], "backward": found["forward"]}


def _one_for_both(weight: Tensor, z: Tensor, way: str) -> dict[str, Tensor]:
    return dict.fromkeys(("forward", "backward"), _both_ways(_jacobian(weight, z))[way])


def _as_in_theory(weight: Tensor, z: Tensor) -> dict[str, Tensor]:
    product = weight.square().mean() * slopes(torch.tanh, z).square().mean()
    return {"forward": product * len(z), "backward": product * len(weight)}


def _each(change: Callable[[Tensor], Tensor], found: dict) -> dict:
    return {key: change(torch.as_tensor(value, dtype=torch.float64)) for key, value in found.items()}


def _sizes(dice: torch.Generator) -> list[tuple]:
    return [(1.0,), (0.5,), (3.0,), (0.7 + 2 * torch.rand((), dtype=torch.float64, generator=dice).item(),)]


def _edge(q: float, activation: Callable[[Tensor], Tensor] = F.hardtanh, beyond: bool = True) -> dict[str, float]:
    """Where each layer keeps a small difference and q, from sums over a grid."""
    z = math.sqrt(q) * _Z
    kept = slopes(activation, z) ** 2
    sigma_w = _mean_over_normal(kept) ** -0.5
    h = activation(z) if beyond else activation(z) * kept
    return {"sigma_w": sigma_w, "sigma_b": math.sqrt(q - _mean_over_normal((sigma_w * h) ** 2))}


def _one_sided(q: float) -> dict[str, float]:
    z = math.sqrt(q) * _Z
    sigma_w = _mean_over_normal((z < 1).double()) ** -0.5
    return {"sigma_w": sigma_w, "sigma_b": math.sqrt(q - _mean_over_normal((sigma_w * F.hardtanh(z)) ** 2))}


def _size_kept(q: float) -> dict[str, float]:
    return {"sigma_w": math.sqrt(q / _mean_over_normal(F.hardtanh(math.sqrt(q) * _Z) ** 2)), "sigma_b": 0.0}


def _shapes(dice: torch.Generator) -> list[tuple]:
    return [(32, 32, 1.3), (48, 16, 0.8), (16, 40, 1.3), (32, 32, 1.3)]


def _judge_isometric(values: list, probes: list[tuple]) -> None:
    name, found = "isometric", []
    for weight, (units, inputs, sigma_w) in zip(values, probes):
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            raise Wrong(f"{name}({units}, {inputs}, {sigma_w}) is no matrix; expected {units} x {inputs} numbers.")
        if weight.shape == (inputs, units) and units != inputs:
            raise Mistake(
                "The shape is that of the transposed matrix: PyTorch stores one row per unit, [units, inputs]."
            )
        if weight.shape != (units, inputs):
            raise Wrong(
                f"{name}({units}, {inputs}, {sigma_w}) has shape {tuple(weight.shape)}; expected {(units, inputs)}."
            )
        if not weight.isfinite().all():
            raise Wrong(f"{name}({units}, {inputs}, {sigma_w}) holds a number that is not finite.")
        found.append(torch.linalg.svdvals(weight))
    spread = [(one[0] / one[-1].clamp(min=1e-300)).item() for one in found]
    if max(spread) > 1.001:
        worst = max(spread)
        units, inputs, _ = probes[spread.index(worst)]
        raise Mistake(
            f"At {units} x {inputs} the largest singular value is {min(worst, 1e12):.3g} times the smallest; here all "
            "have to be equal. Independent numbers do not do that."
        )
    share = torch.stack(
        [one.square().mean() * inputs / sigma_w**2 for one, (_, inputs, sigma_w) in zip(values, probes)]
    )
    for wrong, message in (
        (
            [inputs / max(units, inputs) for units, inputs, _ in probes],
            "Two of the three shapes are right. With more units than inputs the mean square is too small: it is one "
            "over the *longer* side, and asked is one over the number of inputs.",
        ),
        (
            [inputs / min(units, inputs) for units, inputs, _ in probes],
            "Two of the three shapes are right. With fewer units than inputs the mean square is too large.",
        ),
        ([1 / gain**2 for _, _, gain in probes], "The shape of the values is right, but sigma_w is nowhere in them."),
        (
            [inputs / max(units, inputs) / gain**2 for units, inputs, gain in probes],
            "All singular values are 1, whatever sigma_w and the shape are. Asked is a mean square of sigma_w**2 / "
            "inputs.",
        ),
        (
            [float(inputs) for _, inputs, _ in probes],
            "Each entry has the mean square sigma_w**2. A unit sums over all its inputs.",
        ),
    ):
        if torch.allclose(share, torch.tensor(wrong, dtype=share.dtype), rtol=2e-3):
            raise Mistake(message)
    for one, (units, inputs, sigma_w) in zip(share, probes):
        if abs(one - 1) > 2e-3:
            raise Wrong(
                f"{name}({units}, {inputs}, {sigma_w}): the mean square is {one:.4g} times sigma_w**2 / inputs."
            )
    if any(one.abs().amax(1).square().mean() > 0.6 * one.square().sum(1).mean() for one in values):
        raise Mistake(
            "Nearly all of each row sits in one entry: such a matrix only moves units around. Turn at random."
        )
    if torch.allclose(values[0], values[3], atol=1e-6):
        raise Mistake("Two calls return the same matrix. Draw anew each time, or all layers of a network are equal.")


def _curvature_of(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def curvature(z: Tensor) -> Tensor:
        leaf = torch.as_tensor(z).detach().double().requires_grad_()
        steep = torch.autograd.grad(activation(leaf).sum(), leaf, create_graph=True)[0]
        return torch.autograd.grad(steep.sum(), leaf)[0].to(torch.as_tensor(z).dtype)

    return curvature


def _scaled_erf(z: Tensor) -> Tensor:
    return torch.erf(math.sqrt(math.pi) / 2 * z)


_ACTIVATIONS = {_curvature_of(one): one for one in (torch.tanh, _scaled_erf, torch.sin)}


def _slope_moment(activation: Callable[[Tensor], Tensor], q: float) -> float:
    return _mean_over_normal(slopes(activation, math.sqrt(q) * _Z) ** 2)


def _points_on_the_edge(dice: torch.Generator) -> list[tuple]:
    drawn = 0.2 + torch.rand((), dtype=torch.float64, generator=dice).item()
    cases = []
    for (curvature, activation), q in zip(_ACTIVATIONS.items(), (0.57, 1.5, drawn)):
        cases.append((curvature, _slope_moment(activation, q) ** -0.5, q))
    return cases


_STEP = torch.linspace(-8, 8, 201, dtype=torch.float64)
_PAIRS = torch.exp(-(_STEP[:, None] ** 2 + _STEP**2) / 2) / torch.exp(-(_STEP[:, None] ** 2 + _STEP**2) / 2).sum()


def _kept_difference(curvature: Callable, sigma_w: float, q: float, delta: float) -> float:
    """1 - c one layer later, over delta = 1 - c."""
    middle = math.sqrt(q * (1 - delta / 2)) * _STEP[:, None]
    half = math.sqrt(q * delta / 2) * _STEP
    apart = _ACTIVATIONS[curvature](middle + half) - _ACTIVATIONS[curvature](middle - half)
    return sigma_w**2 * (apart.square() * _PAIRS).sum().item() / (2 * q * delta)


def _bend(curvature: Callable, sigma_w: float, q: float, delta: float = 2e-3) -> float:
    """How fast the kept share falls with the difference, from the map at three small differences."""
    near, middle, far = (_kept_difference(curvature, sigma_w, q, k * delta) for k in (1, 2, 3))
    return (2.5 * near - 4 * middle + 1.5 * far) / delta


def _midway_only(curvature: Callable, sigma_w: float, q: float) -> float:
    above, below = (_slope_moment(_ACTIVATIONS[curvature], q * share) for share in (1.001, 0.999))
    return sigma_w**2 * (above - below) / 0.004


QUESTIONS = (
    Question(
        "07.1",
        "logged_scale",
        1,
        _logged_scale,
        rtol=0.1,
        mistakes=(
            (
                lambda: _logged_scale(0.5),
                "In this number of layers row_std falls by a factor of e. The depth scale counts squares.",
            ),
            (
                lambda: _logged_scale(1 / math.log(10)),
                "In this number of layers the square falls by a factor of 10. The depth scale is for a factor of e.",
            ),
            (
                lambda: _logged_scale(0.5 / math.log(10)),
                "In this number of layers row_std falls by a factor of 10. The depth scale is for squares, and for e.",
            ),
            (
                lambda: -69 / (2 * math.log(3.5e-8 / 0.54)),
                "You took first and last layer. At the right row_std no longer falls: that is rounding, not the "
                "network.",
            ),
            (
                lambda: math.exp(_settled_loss()),
                "This is a factor per layer, chi_1. The depth scale is a number of layers.",
            ),
            (
                lambda: math.exp(_settled_loss() / 2),
                "This is the factor per layer of row_std. The depth scale is a number of layers.",
            ),
            (lambda: 1 / _logged_scale(), "This is one over a number of layers."),
        ),
    ),
    Question(
        "07.2",
        "signal_and_gradient",
        2,
        lambda weight, z: _both_ways(_jacobian(weight, z)),
        _layers,
        mistakes=(
            (
                _swapped,
                "The numbers fit if the two are swapped, or if you compare squared lengths. Asked are means over the "
                "entries: of how many numbers on each side?",
            ),
            (
                lambda weight, z: _one_for_both(weight, z, "forward"),
                "forward is right. On the way back the mean square is over another number of entries.",
            ),
            (
                lambda weight, z: _one_for_both(weight, z, "backward"),
                "backward is right. On the way forward the mean square is over another number of entries.",
            ),
            (
                lambda weight, z: _each(torch.sqrt, _both_ways(_jacobian(weight, z))),
                "These are factors of root mean squares; asked are those of mean squares.",
            ),
            (
                lambda weight, z: _both_ways(weight * slopes(torch.tanh, z).sqrt()),
                "The weights are squared and the slope is not. A push is multiplied by both before it is squared.",
            ),
            (lambda weight, z: _both_ways(weight), "The slope of tanh is missing."),
            (
                lambda weight, z: _both_ways(weight * slopes(torch.tanh, torch.tanh(z))),
                "The slope is taken at the output of tanh. It belongs to z.",
            ),
            (
                lambda weight, z: _both_ways(weight * torch.tanh(z)),
                "You multiplied by the output of tanh; it is the slope that belongs there.",
            ),
            (
                _as_in_theory,
                "This is a product of two means, as in the theory, where weights and slopes are independent. Here "
                "both are given: some inputs may have large weights and small slopes.",
            ),
        ),
    ),
    Question(
        "07.3",
        "hardtanh_edge",
        2,
        _edge,
        _sizes,
        rtol=0.015,
        mistakes=(
            (
                lambda q: _each(torch.square, _edge(q)),
                "These are the two variances; asked are the standard deviations.",
            ),
            (
                lambda q: {**_edge(q), "sigma_w": _edge(q)["sigma_w"] ** 2},
                "sigma_b is right. sigma_w enters chi_1 with its square.",
            ),
            (
                lambda q: {**_edge(q), "sigma_b": _edge(q)["sigma_b"] ** 2},
                "sigma_w is right. The second number is the variance of the biases; asked is the standard deviation.",
            ),
            (
                lambda q: {**_edge(q), "sigma_b": math.sqrt(q)},
                "sigma_w is right. With this sigma_b the biases alone make z as large as q, and the weights come on "
                "top.",
            ),
            (
                lambda q: {**_edge(q), "sigma_b": 0.0},
                "sigma_w is right. Without biases, q is not a fixed point at this sigma_w.",
            ),
            (_size_kept, "This keeps the size without biases. chi_1 is not 1 there."),
            (
                lambda q: _edge(q, beyond=False),
                "sigma_w is right. In the mean square of the output, the values beyond 1 are missing: their slope is "
                "0, they are not.",
            ),
            (_one_sided, "You let all z below 1 pass. The slope is 0 below -1 too."),
            (lambda q: _edge(q, torch.tanh), "This is the edge of tanh."),
            (
                lambda q: {**_edge(q), "sigma_w": _edge(q**2)["sigma_w"]},
                "sigma_b is right. In sigma_w you took q for the standard deviation of z. It is the mean square.",
            ),
        ),
    ),
    choice(
        "07.4",
        "which_cure",
        2,
        right="c",
        wrong={
            "a": "this gives back the gradient. Lesson 07 did that in an experiment; which of the two losses stopped "
            "the training?",
            "b": "biases are the same for all images and cancel in each difference. What does a larger z do to the "
            "slopes of tanh?",
            "d": "orthogonal matrices of the same mean square give the same chi_1. What is 0.6 to the power of 24?",
        },
        words=30,
    ),
    Question("07.5", "isometric", 2, probes=_shapes, judge=_judge_isometric),
    Question(
        "07.6",
        "edge_rate",
        3,
        _bend,
        _points_on_the_edge,
        rtol=0.02,
        mistakes=(
            (
                _midway_only,
                "Here only the place m = (z + z')/2 moves with c. To this order the straight line between z and z' "
                "fails as well.",
            ),
            (
                lambda curvature, sigma_w, q: 2 * _bend(curvature, sigma_w, q),
                "With which factor does a second derivative enter a Taylor series?",
            ),
            (
                lambda curvature, sigma_w, q: _bend(curvature, sigma_w, q) / q,
                "A power of q is wrong. The correlation is the covariance over q: each derivative with respect to it "
                "brings one q, and the map is divided by q.",
            ),
            (
                lambda curvature, sigma_w, q: _bend(curvature, sigma_w, q) * q,
                "A power of q is wrong. The correlation is the covariance over q: each derivative with respect to it "
                "brings one q, and the map is divided by q.",
            ),
            (
                lambda curvature, sigma_w, q: _bend(curvature, sigma_w, q) / sigma_w**2,
                "The weights are missing: a difference passes them too.",
            ),
            (
                lambda curvature, sigma_w, q: 0.0,
                "This is 0 at every point: did you square the mean of the curvature? It is odd, its mean is 0.",
            ),
            (
                lambda curvature, sigma_w, q: -_bend(curvature, sigma_w, q),
                "1 - c falls, so 1/(1 - c) grows: a is positive.",
            ),
            (
                lambda curvature, sigma_w, q: _bend(curvature, sigma_w, q**2) / q,
                "You took q for the standard deviation of z. It is the mean square.",
            ),
        ),
    ),
)
