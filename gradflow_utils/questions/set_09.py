"""Exercise set 09: residual connections. The expected values come from a network taken apart by
path length, from autograd, from functional training, from a small angle and from sums over a grid."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_utils.questions.form import Question, choice


def _draw(dice: torch.Generator, *shape: int, std: float = 1.0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=dice) * std


# 09.1

DEPTH = 24


@functools.cache
def _parts() -> tuple[Tensor, Tensor]:
    """Norms of the gradient at each block, and squares of its parts at block 0 by number of branches passed."""
    dice = torch.Generator().manual_seed(91)
    networks, rows, width = 8, 16, 128
    weights = _draw(dice, DEPTH, networks, width, width, std=(0.67 / width) ** 0.5)
    h, sent = _draw(dice, 2, networks, rows, width)
    passes = []
    for weight in weights:
        passes.append(h > 0)
        h = h + h.clamp(min=0) @ weight
    parts = torch.zeros(DEPTH + 1, *sent.shape, dtype=torch.float64)
    parts[0] = sent
    norms = [torch.linalg.vector_norm(sent)]
    for weight, open_units in zip(weights.flip(0), reversed(passes)):
        parts[1:] += (parts[:-1] @ weight.mT) * open_units
        norms.append(torch.linalg.vector_norm(parts.sum(0)))
    return torch.stack(norms[::-1]) / norms[0], parts.square().sum((1, 2, 3))


def gradient_norms() -> Tensor:
    """Gradient norm at blocks 0 to 24 of a network with skips, relative to block 24: the figure of question 09.1."""
    return _parts()[0]


def _branches_passed() -> float:
    squares = _parts()[1]
    return (squares @ torch.arange(DEPTH + 1.0, dtype=torch.float64) / squares.sum()).item()


def _growth_per_block(power: float) -> float:
    return gradient_norms()[0].item() ** (power / DEPTH)


# 09.2


def _blocks(dice: torch.Generator) -> list[tuple]:
    cases = []
    for rows, width, scale in ((2, 3, 0.0), (4, 5, 0.7), (3, 3, -1.3)):
        gradient, h = _draw(dice, 2, rows, width)
        cases.append((gradient, h, _draw(dice, width, width), scale))
    return cases


def _by_autograd(gradient: Tensor, h: Tensor, weight: Tensor, scale: float, *, fault: str = "") -> dict[str, Tensor]:
    leaves = [
        h.clone().requires_grad_(),
        weight.clone().requires_grad_(),
        torch.tensor(scale).double().requires_grad_(),
    ]
    active = leaves[0] if fault == "no slope" else F.relu(leaves[0])
    branch = F.linear(active, leaves[1].mT if fault == "transposed" else leaves[1])
    y = torch.addcmul(leaves[0], leaves[2], branch)
    return dict(zip(("h", "weight", "scale"), torch.autograd.grad(y, leaves, gradient)))


def _faulty(change: Callable[[dict[str, Tensor], tuple], dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    return lambda *block: {**_by_autograd(*block), **change(_by_autograd(*block), block)}


def _without_scale(_: dict[str, Tensor], block: tuple) -> dict[str, Tensor]:
    return {"weight": _by_autograd(*block[:3], 1.0)["weight"]}


# 09.4


def _chains(dice: torch.Generator) -> list[tuple]:
    drawn = torch.rand(2, dtype=torch.float64, generator=dice).add(0.3).tolist()
    return [(24, 1.0, 1 / 24), (12, 0.0, 1.0), (6, 1.5, 1.0), (9, *drawn)]


def _cosine(angle: float, blocks: int, keep: float, factor: float, last: bool) -> float:
    """The recursion of the lesson, from the first block to the last."""
    c, cosine, total = math.cos(angle), 1.0, keep**2 + factor
    for _ in range(blocks):
        turn = math.acos(c)
        cosine *= 1 - factor / total * turn / math.pi
        c = min(1.0, (keep**2 * c + factor * (math.sin(turn) + (math.pi - turn) * c) / math.pi) / total)
    return cosine * (1 - math.acos(c) / math.pi) if last else cosine


def _fall(blocks: int, keep: float, factor: float, last: bool = True) -> float:
    """How fast the cosine falls at angle 0, extrapolated from two small angles."""
    small = 1e-4
    coarse, fine = ((1 - _cosine(one, blocks, keep, factor, last)) / one for one in (2 * small, small))
    return 2 * fine - coarse


# 09.5


def _runs(dice: torch.Generator) -> list[tuple]:
    def linear(inputs: int, outputs: int, std: float) -> nn.Linear:
        layer = nn.Linear(inputs, outputs).double()
        with torch.no_grad():
            layer.weight.copy_(_draw(dice, outputs, inputs, std=std))
            layer.bias.copy_(_draw(dice, outputs, std=0.1))
        return layer

    runs = []
    for skip, depth, act in ((False, 3, nn.GELU()), (True, 4, nn.ReLU())):
        blocks = [nn.Sequential(linear(5, 5, 0.4), act, linear(5, 5, 0.4)) for _ in range(depth)]
        batches = [(_draw(dice, rows, 4), torch.randint(3, (rows,), generator=dice)) for rows in (6, 3, 8)]
        runs.append((linear(4, 5, 0.5), blocks, linear(5, 3, 0.4), skip, batches, 0.2))
    return runs


def _followed(
    first: nn.Module, blocks: list, last: nn.Module, skip: bool, batches: list, rate: float, *, fault: str = ""
) -> dict[str, Tensor]:
    """Gradients with respect to pushes of size 0, added to the first and the last hidden values; no optimizer."""
    net = nn.ModuleList([first, *blocks, last])
    values = {name: one.detach().clone() for name, one in net.named_parameters()}
    sums = {name: torch.zeros_like(one) for name, one in values.items()}
    watched = f"{len(blocks) if fault == 'last block' else 1}.0.weight"
    skips = {"always": True, "never": False}.get(fault, skip)

    def part(place: int, values: dict[str, Tensor], h: Tensor) -> Tensor:
        own = {name.partition(".")[2]: one for name, one in values.items() if name.split(".")[0] == str(place)}
        return torch.func.functional_call(net[place], own, (h,))

    def loss(values: dict[str, Tensor], pushes: list[Tensor], x: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = start = part(0, values, x) + pushes[0]
        for place in range(1, len(blocks) + 1):
            h = part(place, values, h) + (h if skips else 0)
        end = h + pushes[1]
        return F.cross_entropy(part(len(blocks) + 1, values, end), labels), [start, end]

    found = []
    for x, labels in batches:
        pushes = [torch.zeros(len(x), last.in_features, dtype=x.dtype)] * 2
        slope = torch.func.grad(loss, argnums=(0, 1), has_aux=True)
        (gradients, arriving), hidden = slope(values, pushes, x, labels)
        sums = {name: sums[name] + one for name, one in gradients.items()}
        used = sums if fault == "sums" else gradients
        moved = {name: values[name] - (0 if fault == "stands" else rate) * used[name] for name in values}
        if fault == "after":
            (used, arriving), hidden = slope(moved, pushes, x, labels)
        early, late = (torch.linalg.vector_norm(one) for one in (hidden if fault == "forward" else arriving))
        early, late = (late, early) if fault == "upside down" else (early, late)
        found.append((torch.exp(early.log() - late.log()), torch.linalg.vector_norm(used[watched])))
        values = moved
    ratios, weights = zip(*found)
    return {"ratio": torch.stack(ratios), "weight": torch.stack(weights)}


def _with_fault(fault: str) -> Callable[..., dict[str, Tensor]]:
    return lambda *run: _followed(*run, fault=fault)


# 09.6

_Z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
_DENSITY = torch.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi)


def _rows(dice: torch.Generator) -> list[tuple]:
    return [
        (_draw(dice, 8).clamp(min=0),),
        (torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64),),
        (_draw(dice, 5).abs() * 30,),
    ]


def _behind(h: Tensor, noise: Tensor | None = None, act: Callable[[Tensor], Tensor] = F.relu) -> float:
    """Growth of the mean square, with W h as normal numbers, integrated unit by unit on a grid."""
    h = h.double()
    if noise is None:
        noise = torch.linalg.vector_norm(h) * math.sqrt(2 / len(h))
    after = act(h[:, None] + noise.expand_as(h)[:, None] * _Z).square()
    return (torch.trapezoid(after * _DENSITY, _Z).sum() / h.square().sum()).item()


QUESTIONS = (
    Question(
        "09.1",
        "mean_length_read",
        1,
        _branches_passed,
        rtol=0.1,
        mistakes=(
            (
                lambda: DEPTH * (1 - 1 / _growth_per_block(1)),
                "You took the axis for a mean square. It shows a norm.",
            ),
            (
                lambda: gradient_norms()[0].item(),
                "This is the growth over all blocks. It tells what one block does, and that the length.",
            ),
            (
                lambda: DEPTH / 2,
                "Half the blocks is the length for branches as large as the skip. How large would the growth be then?",
            ),
            (
                lambda: DEPTH * (_growth_per_block(2) - 1),
                "This adds up the branch factors. The share of the branch at one block is relative to skip and branch "
                "together.",
            ),
            (lambda: _growth_per_block(2), "This is the growth of the mean square per block, one step of the way."),
        ),
    ),
    Question(
        "09.2",
        "rezero_backward",
        2,
        _by_autograd,
        _blocks,
        mistakes=(
            (
                _faulty(lambda right, block: {"h": right["h"] - block[0]}),
                'The skip is missing in "h": the gradient also goes past the branch.',
            ),
            (
                _faulty(_without_scale),
                'The scale is missing in "weight". What is this gradient if the scale is 0?',
            ),
            (
                _faulty(lambda _, block: {"h": _by_autograd(*block, fault="no slope")["h"]}),
                'The slope of ReLU is missing in "h".',
            ),
            (
                _faulty(lambda _, block: {"h": _by_autograd(*block, fault="transposed")["h"]}),
                'In "h" the weights are transposed. Forward was F.relu(h) @ weight.T.',
            ),
            (
                _faulty(lambda right, _: {"weight": right["weight"].mT}),
                '"weight" is transposed: it has one row per unit of the output, as weight has.',
            ),
            (
                _faulty(lambda right, block: {"scale": right["scale"] * block[3]}),
                '"scale" carries a factor that makes it 0 where the scale is 0. Then ReZero would never start.',
            ),
            (
                _faulty(lambda right, block: {"scale": right["scale"] / len(block[1])}),
                '"scale" is averaged over the images. One number that acts on all of them collects a sum.',
            ),
        ),
    ),
    choice(
        "09.3",
        "behind_the_sum",
        2,
        right="c",
        wrong={
            "a": "LayerNorm acts on the sum, so the skip passes it too. What does that do to the growth?",
            "b": "with pre-LN the skip grows and each later branch is small beside it. Is what a block receives here "
            "ever larger than 1?",
            "d": "a path can go past every branch: LayerNorm rescales the sum, it does not remove one of its terms.",
        },
    ),
    Question(
        "09.4",
        "shattering_rate",
        3,
        _fall,
        _chains,
        rtol=1e-3,
        mistakes=(
            (
                lambda *chain: _fall(*chain, last=False),
                "One ReLU is left out. The lesson's network has another one, before its last layer.",
            ),
            (
                lambda blocks, keep, factor: _fall(blocks, 0.0, factor),
                "This is the rate of a network without skips. Only what goes through the branch loses something.",
            ),
            (
                lambda *chain: _fall(*chain) * math.pi,
                "You count what is lost in half turns. Asked is the loss per radian.",
            ),
            (lambda *chain: math.radians(_fall(*chain)), "This is the loss per degree. Asked is the loss per radian."),
            (
                lambda blocks, keep, factor: _fall(blocks, keep, factor**2),
                "You squared branch_factor. It is a ratio of squares already.",
            ),
            (
                lambda blocks, keep, factor: _fall(blocks, math.sqrt(keep), factor),
                "keep is a factor of vectors, branch_factor one of squares. Bring them to the same kind.",
            ),
            (
                lambda *chain: 0.0,
                "The cosine between hidden vectors starts with slope 0. Asked is the one between gradients.",
            ),
        ),
    ),
    Question(
        "09.5",
        "early_gradients",
        3,
        _followed,
        _runs,
        atol=0.0,
        mistakes=(
            (
                _with_fault("sums"),
                "Gradients of earlier steps are still in .grad. Set them to zero before each backward pass.",
            ),
            (_with_fault("stands"), "The weights never change. A step of the optimizer is missing."),
            (
                _with_fault("upside down"),
                "The ratio is upside down: early over late, so a small number means that little arrives.",
            ),
            (_with_fault("after"), "You measure after the step. Asked are the gradients with which the step is made."),
            (
                _with_fault("forward"),
                "The ratio is one of hidden values. Asked is the ratio of the gradients that arrive there.",
            ),
            (_with_fault("always"), "You add the skip even if skip is False."),
            (_with_fault("never"), "There is no skip in your network when skip is True."),
            (_with_fault("last block"), '"weight" belongs to the last block. An early layer is asked for.'),
        ),
    ),
    Question(
        "09.6",
        "growth_relu_behind",
        3,
        _behind,
        _rows,
        rtol=5e-3,
        mistakes=(
            (
                lambda h: _behind(h, act=lambda u: u),
                "This is the growth of the sum, before the ReLU.",
            ),
            (
                lambda h: _behind(h, act=lambda u: u) / 2,
                "ReLU passes half of the mean square if positive and negative values are equally likely. Are they, "
                "where h is positive?",
            ),
            (lambda h: 2.0, "This is the block of the lesson, with the ReLU in the branch."),
            (
                lambda h: _behind(h, math.sqrt(2) * h.double()),
                "You gave each unit noise of its own size. W mixes: each unit receives a sum over all of h.",
            ),
            (
                lambda h: _behind(h, torch.linalg.vector_norm(h.double()) / math.sqrt(len(h))),
                "Your W has variance 1/n. He's weights have another one.",
            ),
            (
                lambda h: _behind(h) * h.double().square().mean().item(),
                "This is the mean square behind the block. Divide by the one before it.",
            ),
        ),
    ),
)
