"""Exercise set 10: recurrence and clipping. The expected values come from autograd, from PyTorch's own clipping, from an
eigenvalue routine, from the count of all paths and from Adam's averages, followed step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradflow_utils.questions.form import Question, choice, slopes


def _gradients(dice: torch.Generator) -> list[tuple]:
    cases = []
    for size, threshold, bad in ((1.0, 0.7, 0.0), (0.1, 2.0, 0.0), (1.0, 1.0, math.nan), (1.0, 1.0, math.inf)):
        shapes = ((2, 3), (3,), (1, 2))
        gradients = [size * torch.randn(shape, dtype=torch.float64, generator=dice) for shape in shapes]
        gradients[0][1, 2] += bad
        cases.append((gradients, threshold))
    return cases


def _by_torch(gradients: list[Tensor], threshold: float, kind: str = "all") -> list[Tensor]:
    """The gradients after one of PyTorch's functions for clipping."""
    holders = [nn.Parameter(torch.zeros_like(one)) for one in gradients]
    for holder, one in zip(holders, gradients):
        holder.grad = one.clone()
    if kind == "value":
        nn.utils.clip_grad_value_(holders, threshold)
    else:
        for group in [holders] if kind == "all" else [[holder] for holder in holders]:
            nn.utils.clip_grad_norm_(group, threshold)
    return [holder.grad for holder in holders]


def _is_bad(gradients: list[Tensor]) -> bool:
    return any(not one.isfinite().all() for one in gradients)


def _unless_bad(gradients: list[Tensor], clipped: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(one) for one in gradients] if _is_bad(gradients) else clipped


def _same_length(gradients: list[Tensor], threshold: float) -> list[Tensor]:
    return [1e6 * one for one in _by_torch([1e6 * one for one in gradients], 1e-6 * threshold)]


def _without_the_bad_entries(gradients: list[Tensor], threshold: float) -> list[Tensor]:
    return _by_torch([one.nan_to_num(0.0, 0.0, 0.0) for one in gradients], threshold)


def _networks(dice: torch.Generator) -> list[tuple]:
    cases = []
    for steps, n in ((3, 2), (5, 3)):
        shapes = ((n, n), (steps, n), (n,), (n,))
        cases.append(tuple(torch.randn(shape, dtype=torch.float64, generator=dice) for shape in shapes))
    return cases


def _unrolled(
    W: Tensor, drives: Tensor, start: Tensor, turned: bool = False, straight: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A leaf that holds one copy of W for each step, the states and the pre-activations."""
    copies = W.detach().expand(len(drives), *W.shape).clone().requires_grad_()
    states, before = [start.clone().requires_grad_()], []
    for one, drive in zip(copies, drives):
        h = states[-1]
        z = one @ h + drive
        if turned:  # forward as ever, backward through the other matrix
            z = one @ h.detach() + drive + W.T @ h - (W.T @ h).detach()
        before.append(z)
        states.append(
            z + (torch.tanh(z) - z).detach() if straight else torch.tanh(z)
        )  # straight: as if the slope were 1
    return copies, states, before


def _uses(W: Tensor, drives: Tensor, start: Tensor, gradient: Tensor, turned: bool = False) -> Tensor:
    copies, states, _ = _unrolled(W, drives, start, turned)
    return torch.autograd.grad(states[-1], copies, gradient)[0]


def _slopes_left_out(W: Tensor, drives: Tensor, start: Tensor, gradient: Tensor) -> Tensor:
    """Without slopes from step to step; that of each use is there."""
    copies, states, before = _unrolled(W, drives, start, straight=True)
    found = torch.autograd.grad(states[-1], copies, gradient)[0]
    return found * slopes(torch.tanh, torch.stack(before))[..., None]


def _outer(at: str, by: str) -> Callable[..., Tensor]:
    """Outer products of other things than asked for."""

    def wrong(W: Tensor, drives: Tensor, start: Tensor, gradient: Tensor) -> Tensor:
        _, states, before = _unrolled(W, drives, start)
        inside = torch.autograd.grad(states[-1], before if at == "z" else states[1:], gradient)
        left = torch.stack(inside) if by != "none" else gradient.expand(len(drives), -1)
        right = torch.stack(states[1:] if by == "new" else states[:-1])
        return torch.einsum("ti,tj->tij", left, right)

    return wrong


def _not_carried(W: Tensor, drives: Tensor, start: Tensor, gradient: Tensor) -> Tensor:
    copies, states, _ = _unrolled(W, drives, start)
    one_step = [_uses(W, drive[None], state, gradient)[0] for drive, state in zip(drives, states)]
    return torch.stack(one_step).view_as(copies)


_BACK = 40


def _seen() -> tuple[Tensor, list[float]]:
    """The matrix of the figure, and the gradient norms."""
    dice = torch.Generator().manual_seed(8)
    basis = 1 + 0.1 * torch.randn(3, 3, dtype=torch.float64, generator=dice)
    W = basis @ torch.diag(torch.rand(3, dtype=torch.float64, generator=dice)) @ torch.linalg.inv(basis)
    d = torch.randn(3, dtype=torch.float64, generator=dice)
    norms = [d.norm().item()]
    for _ in range(_BACK):
        d = W.T @ d
        norms.append(d.norm().item())
    return W, norms


def _radius() -> float:
    return torch.linalg.eigvals(_seen()[0]).abs().max().item()


def _all_the_way() -> float:
    norms = _seen()[1]
    return (norms[-1] / norms[0]) ** (1 / _BACK)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _gates(dice: torch.Generator) -> list[tuple]:
    drawn = torch.rand(3, dtype=torch.float64, generator=dice).tolist()
    return [(3**-0.5, 0.0, 0.0), (1.0, -2.0, 0.0), (0.8, 0.5, -1.0), (0.4 + 0.2 * drawn[0], drawn[1], -drawn[2])]


def _log_count(keep: float, branch: float, steps: int) -> float:
    """Logarithm of the squared gradient ratio: all paths through keeps and branches."""
    j = torch.arange(steps + 1, dtype=torch.float64)
    paths = math.lgamma(steps + 1) - torch.lgamma(j + 1) - torch.lgamma(steps - j + 1)
    return torch.logsumexp(2 * (paths + (steps - j) * math.log(keep) + j * math.log(branch)), 0).item()


def _bias_at_which(growth: Callable[[float], float]) -> float:
    """Where something that grows with the keep crosses 0."""
    low, high = -12.0, 12.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if growth(_sigmoid(middle)) > 0 else (middle, high)
    return low


def _bias_for(branch: float) -> float:
    return _bias_at_which(lambda keep: _log_count(keep, branch, 4000) - _log_count(keep, branch, 2000))


def _branch(gain: float, *biases: float) -> float:
    return gain * math.prod(_sigmoid(bias) for bias in biases)


def _bad_batches(dice: torch.Generator) -> list[tuple]:
    return [(10_000.0, 0.999), (5000.0, 0.999), (500.0 + 300 * torch.rand((), generator=dice).item(), 0.99)]


def _followed(size: float, beta2: float, short: Callable[[float, float], bool], beta1: float = 0.9) -> int:
    """Number of the last step after the bad batch that is short, by Adam's averages."""
    m, s = beta1 + (1 - beta1) * size, beta2 + (1 - beta2) * size**2
    last = 0
    for step in range(1, 20_000):
        m, s = beta1 * m + 1 - beta1, beta2 * s + 1 - beta2
        if short(m, s):
            last = step
    return last


def _half(m: float, s: float) -> bool:
    return m < 0.5 * math.sqrt(s)


QUESTIONS = (
    Question(
        "10.1",
        "clip_or_skip",
        2,
        lambda gradients, threshold: _unless_bad(gradients, _by_torch(gradients, threshold)),
        _gradients,
        rtol=1e-3,
        mistakes=(
            (
                _by_torch,
                "Finite gradients come out right. With a NaN or an inf in one entry, your result still holds a NaN.",
            ),
            (
                lambda g, c: _unless_bad(g, _by_torch(g, c, "each")),
                "Each tensor is clipped by its own norm. Then their ratios change: one norm belongs to all of them.",
            ),
            (
                lambda g, c: _unless_bad(g, _by_torch(g, c, "value")),
                "This is clipping by value: it cuts each entry and turns the gradient.",
            ),
            (
                lambda g, c: _unless_bad(g, _same_length(g, c)),
                "A gradient that is shorter than the threshold becomes longer. Clipping must leave it as it is.",
            ),
            (
                lambda g, c: _by_torch(g, c) if not any(one.isnan().any() for one in g) else _unless_bad(g, g),
                "With a NaN the step is skipped, with an inf it is not. Which test finds both?",
            ),
            (
                lambda g, c: [one * 0 for one in g] if _is_bad(g) else _by_torch(g, c),
                "You multiply by 0 to skip the step, and that keeps a NaN. Make new zeros.",
            ),
            (
                _without_the_bad_entries,
                "You set the bad entries to 0 and make the step with the others. The whole step is to be skipped.",
            ),
            (
                lambda g, c: _unless_bad(g, g),
                "The step is skipped where it must be, but nothing is clipped.",
            ),
        ),
    ),
    Question(
        "10.2",
        "weight_gradient_by_step",
        2,
        _uses,
        _networks,
        mistakes=(
            (
                lambda *given: _uses(*given).flip(0),
                "These are the right matrices in the wrong order: entry 0 belongs to the first time step.",
            ),
            (
                lambda *given: _uses(*given).mT,
                "Each matrix is transposed: row i of W belongs to unit i of the new state.",
            ),
            (
                _outer("z", "new"),
                "You took the state that the step made. W was multiplied by the state before it.",
            ),
            (
                _outer("h", "old"),
                "The slope of tanh is missing in the last factor: W acts at the pre-activation, not at the state.",
            ),
            (
                _not_carried,
                "You use the gradient of the end at every step. On its way to an earlier step it passes all steps between.",
            ),
            (
                _slopes_left_out,
                "Each use has its slope. But the gradient that goes on to the step before has passed no tanh.",
            ),
            (
                lambda *given: _uses(*given, turned=True),
                "On the way back the gradient is multiplied by the wrong one of W and its transpose.",
            ),
        ),
    ),
    Question(
        "10.3",
        "radius_from_gradient",
        1,
        _radius,
        rtol=0.03,
        mistakes=(
            (
                _all_the_way,
                "This is the factor per step over all 40 steps. The first steps follow no straight line yet: leave them out.",
            ),
            (
                lambda: _seen()[1][1] / _seen()[1][0],
                "This is the factor of the first step. It shows what W can do once, not what it does in the long run.",
            ),
            (
                lambda: 1 / _radius(),
                "This is the factor from an earlier step to a later one. The gradient goes the other way.",
            ),
            (lambda: _radius() ** 10, "This is the factor in 10 steps. Asked is one step."),
            (lambda: math.log10(_radius()), "This is the slope of the line on the logarithmic axis, not yet a factor."),
            (lambda: math.log(_radius()), "This is the logarithm of a factor."),
        ),
    ),
    choice(
        "10.4",
        "healthy_norm",
        2,
        right="c",
        wrong={
            "a": "the norm is that of a sum over 50 uses of W. The last uses alone can fill it; time_ratio says what is left of "
            "the first.",
            "b": "without clipping a step is at most 2.5 times as long, by the first line of the table. And that changes no share.",
            "d": "clipping by norm multiplies the whole gradient by one number. Loud and quiet shares become smaller alike.",
            "e": "the share of the first step is not an entry of its own. It sits in each entry, added to the shares of the others.",
        },
        words=30,
    ),
    Question(
        "10.5",
        "critical_forget_bias",
        2,
        lambda gain, *biases: _bias_for(_branch(gain, *biases)),
        _gates,
        rtol=0.02,
        atol=0.02,
        mistakes=(
            (
                lambda gain, *biases: _bias_at_which(lambda keep: keep**2 + _branch(gain, *biases) ** 2 - 1),
                "You added squares, as for a fresh matrix in each step. Here the matrix is the same in all of them.",
            ),
            (
                lambda gain, *biases: _bias_for(_branch(gain, 0, 0)),
                "This holds if both other biases are 0. What are the input and the output gate at the given ones?",
            ),
            (
                lambda gain, *biases: _sigmoid(_bias_for(_branch(gain, *biases))),
                "This is the value of the forget gate. Asked is its bias.",
            ),
            (
                lambda gain, *biases: _bias_for(_branch(gain, biases[0])),
                "The input gate is in, the output gate is not. The path from cell to cell leads through both.",
            ),
            (
                lambda gain, *biases: _bias_at_which(lambda keep: _log_count(keep, _branch(gain, *biases), 49)),
                "This is the bias for the ratio 1 after 49 steps. Asked is the factor per step in the long run.",
            ),
            (
                lambda gain, *biases: _bias_for(_branch(gain / math.sqrt(3), *biases)),
                "You divided by the root of 3. The gain that you are given has it in already.",
            ),
        ),
    ),
    Question(
        "10.6",
        "stalled_steps",
        3,
        lambda size, beta2: _followed(size, beta2, _half),
        _bad_batches,
        rtol=0.02,
        atol=1.0,
        mistakes=(
            (
                lambda size, beta2: 1 / (1 - beta2),
                "This is the memory of s, the time in which the bad batch fades by a factor of e. It has further to fade.",
            ),
            (
                lambda size, beta2: _followed(size, beta2, lambda m, s: s > 2),
                "The step has the root of s below it. How large is s when the step is half as long as usual?",
            ),
            (
                lambda size, beta2: _followed(size, beta2, lambda m, s: s > 5),
                "You let s fade to 0. But it averages the usual gradients too.",
            ),
            (
                lambda size, beta2: _followed(math.sqrt(size), beta2, _half, beta1=0.0),
                "s averages the squares of the gradients; you let it take in the size itself.",
            ),
            (
                lambda size, beta2: _followed(math.sqrt((size**2 - 1) / (1 - beta2) + 1), beta2, _half),
                "The bad batch enters s with a weight below 1. You gave it all of its square.",
            ),
            (
                lambda size, beta2: _followed(size, beta2, lambda m, s: m - 1 > 0.5),
                "You followed m. It has forgotten the bad batch long before s has.",
            ),
        ),
    ),
)
