"""Exercise set 12: what it costs. Expected values come from a minimised loss, from many small cells of images, from PyTorch's
own count of operations, from autograd and from counting all orders of some images."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gradflow_utils.questions.form import Question, choice


def _worlds(dice: torch.Generator) -> list[tuple]:
    drawn = 0.02 * torch.rand(3, dtype=torch.float64, generator=dice)
    cases = [
        ([0.6, 0.3, 0.1], [1.0, 1.0, 1.0], [0.2, 0.3, 0.5]),
        ([0.5, 0.3, 0.2], [0.5, 2.0, 1.0], [0.5, 0.2, 0.3]),
        ([0.4, 0.1, 0.3, 0.2], [1.0, 3.0, 0.5, 2.5], [0.1, 0.2, 0.4, 0.3]),
    ]
    cases = [tuple(torch.tensor(one, dtype=torch.float64) for one in case) for case in cases]
    for (shares, _, _), moved in zip(cases, drawn):
        shares += moved * (torch.arange(len(shares)) == 0) - moved * (torch.arange(len(shares)) == 1)
    return cases


def _rested(shares: Tensor, weights: Tensor) -> Tensor:
    """Logarithms of the probabilities of a common output that has been trained to the end."""
    z = torch.zeros_like(shares, requires_grad=True)
    search = torch.optim.LBFGS(
        [z], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = -(shares * weights * F.log_softmax(z, 0)).sum()
        value.backward()
        return value

    search.step(loss)
    return F.log_softmax(z.detach(), 0)


def _deployed(
    shares: Tensor, weights: Tensor, test_shares: Tensor, of_loss: Tensor | None = None, named: str = "most"
) -> Tensor:
    """Loss over images with the shares `of_loss`, and accuracy of a blind network."""
    logs = _rested(shares, weights)
    images = torch.repeat_interleave(torch.arange(len(shares)), (1e6 * test_shares).round().long())
    says = {"most": logs, "frequent": test_shares, "trained": shares}.get(named)
    right = logs.exp()[images].mean() if says is None else (images == says.argmax()).double().mean()
    weighing = test_shares if of_loss is None else of_loss
    loss = F.cross_entropy(logs[None], (weighing / weighing.sum())[None]) * weighing.sum()
    return torch.stack([loss, right])


def _uses(dice: torch.Generator) -> list[tuple]:
    one, two = torch.rand(2, dtype=torch.float64, generator=dice).tolist()
    return [
        (0.02, 1.0, 0.1, 1.0),
        (0.1, 9.0, 0.05 + 0.1 * one, 20.0),
        (0.3, 1.0, 0.01, 5.0 + 5 * two),
        (0.02, 7.0, 0.2, 0.5),
    ]


def _cheapest(train_share: float, weight_ratio: float, use_share: float, miss_cost: float) -> float:
    """The lowest output of a seeing network at which it costs less to say rare, over many small cells of images."""
    place = torch.linspace(-9, 9, 400_001, dtype=torch.float64)
    in_rare, in_others = (torch.exp(-((place - middle) ** 2) / 2) for middle in (1, -1))
    rare, others = train_share * weight_ratio * in_rare, (1 - train_share) * in_others
    z = torch.logit(rare / (rare + others))
    cost_of_others, cost_of_rare = use_share * miss_cost * in_rare, (1 - use_share) * in_others
    return z[cost_of_rare < cost_of_others].min().item()


def _networks(dice: torch.Generator) -> list[tuple]:
    width = int(torch.randint(20, 60, (1,), generator=dice))
    return [
        ([64, 32, 32, 32, 10], 64, [True, True, True, True]),
        ([64, width, 30, 10], 16, [False, False, True]),
        ([50, 20, width, 40, 5], 8, [True, False, False, True]),
        ([30, 20, width, 40, 25, 5], 4, [False, False, True, False, True]),
    ]


@functools.lru_cache(maxsize=64)
def _counted(
    sizes: tuple[int, ...], batch: int, learning: tuple[bool, ...], forward: bool = False, image: bool = False
) -> int:
    """Operations of the backward pass, counted by PyTorch while it runs; with forward pass or gradient of the images."""
    layers = [nn.Linear(*pair) for pair in zip(sizes, sizes[1:])]
    for layer, learns in zip(layers, learning):
        layer.requires_grad_(learns)
    h = torch.zeros(batch, sizes[0], requires_grad=image)
    with FlopCounterMode(display=False) as before:
        for layer in layers:
            h = torch.relu(layer(h))
    with FlopCounterMode(display=False) as after:
        h.sum().backward()
    return after.get_total_flops() + forward * before.get_total_flops()


def _alone(sizes: list[int], batch: int, learning: list[bool]) -> int:
    """Each learning layer as a network of its own."""
    pairs = list(zip(sizes, sizes[1:]))
    return sum(_counted(pair, batch, (True,), image=place > 0) for place, pair in enumerate(pairs) if learning[place])


def _images(dice: torch.Generator) -> list[tuple]:
    cases = []
    for images, rare, offset, weights in (
        (40, 4, 0.0, (1.0, 1.0)),
        (50, 5, -1.5, (0.6, 5.0)),
        (30, 9, 1.0, (0.8, 2.0)),
    ):
        h = 1 + torch.randn(images, 6, dtype=torch.float64, generator=dice)
        labels = torch.zeros(images, dtype=torch.long)
        labels[torch.randperm(images, generator=dice)[:rare]] = 1
        cases.append((h, labels, offset, torch.tensor(weights, dtype=torch.float64)))
    return cases


def _pulled(h: Tensor, labels: Tensor, offset: float, weights: Tensor) -> Tensor:
    """Gradient of the mean loss for the output weights, by autograd."""
    v = torch.zeros(h.shape[1], dtype=torch.float64, requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(h @ v + offset, labels.double(), weights[labels])
    return torch.autograd.grad(loss, v)[0]


def _parts(
    h: Tensor, labels: Tensor, offset: float, weights: Tensor, times: float = 1.0, middle: Tensor | None = None
) -> dict[str, Tensor]:
    """The gradient with all images at one place, and what is missing."""
    whole = times * _pulled(h, labels, offset, weights)
    one_place = (h.mean(dim=0) if middle is None else middle).expand_as(h)
    common = times * _pulled(one_place, labels, offset, weights)
    return {"common": common, "seeing": whole - common}


def _between_classes(h: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([h[labels == kind].mean(dim=0) for kind in (0, 1)]).mean(dim=0)


def _without_mean(h: Tensor, labels: Tensor, offset: float, weights: Tensor) -> dict[str, Tensor]:
    found = _parts(h, labels, offset, weights)
    return {"common": found["common"], "seeing": found["common"] + found["seeing"]}


def _sizes(dice: torch.Generator) -> list[tuple]:
    drawn = torch.randint(0, 4, (2,), generator=dice).tolist()
    return [(1, 9), (2, 3), (4 + drawn[0], 20), (12, 30 + drawn[1])]


@functools.lru_cache(maxsize=64)
def _orders(rare: int, others: int) -> tuple[int, ...]:
    """How many orders of the images have 0, 1, 2, ... pairs with the rare image above."""
    if rare == 0 or others == 0:
        return (1,)
    counts = [0] * (rare * others + 1)
    for below, smaller in ((0, _orders(rare, others - 1)), (others, _orders(rare - 1, others))):  # who comes last
        for pairs, number in enumerate(smaller):
            counts[pairs + below] += number
    return tuple(counts)


def _spread(rare: int, others: int) -> float:
    """Standard deviation of the ranking over all orders, each as likely as the others."""
    counts = torch.tensor(_orders(rare, others), dtype=torch.float64)
    ranking = torch.linspace(0, 1, len(counts), dtype=torch.float64)
    mean = (counts * ranking).sum() / counts.sum()
    return ((counts * (ranking - mean) ** 2).sum() / counts.sum()).sqrt().item()


def _tossed(tosses: float) -> float:
    """Standard deviation of the share of heads."""
    return torch.distributions.Binomial(tosses, torch.tensor(0.5)).stddev.item() / tosses


QUESTIONS = (
    Question(
        "12.1",
        "blind_on_test",
        1,
        _deployed,
        _worlds,
        mistakes=(
            (
                lambda shares, weights, test: _deployed(shares, weights, test, shares),
                "The accuracy is right. The loss is that on images with the shares of training; asked is the one on test images.",
            ),
            (
                lambda shares, weights, test: torch.stack(
                    [_deployed(test, torch.ones_like(test), test)[0], _deployed(shares, weights, test)[1]]
                ),
                "This loss belongs to a network that knows the shares of the test images. It has never seen them.",
            ),
            (
                lambda shares, weights, test: _deployed(shares, torch.ones_like(weights), test),
                "You left the class weights out. They move the output at which the network comes to rest.",
            ),
            (
                lambda shares, weights, test: _deployed(shares, weights, test, test * weights),
                "The accuracy is right. The class weights belong to the loss of training; the test loss is the plain one.",
            ),
            (
                lambda shares, weights, test: _deployed(shares, weights, test, named="drawn"),
                "The loss is right. For the accuracy the network does not draw its label at random: it always says the same one.",
            ),
            (
                lambda shares, weights, test: _deployed(shares, weights, test, named="frequent"),
                "The loss is right. The accuracy is that of the most frequent class of the test; is it the one that the network names?",
            ),
            (
                lambda shares, weights, test: _deployed(shares, weights, test, named="trained"),
                "The loss is right. For the accuracy you take the most frequent class of training; with weights it names another.",
            ),
        ),
    ),
    choice(
        "12.2",
        "which_cure",
        2,
        right="c",
        wrong={
            "a": "recall depends on one threshold. In which panels do rare images lie further right than others?",
            "b": "put a ruler at -3.9 in panel B. Which share of the others lies to the right of it?",
            "d": "a narrow heap can have an order inside. Compare the upper and the lower row of B, and then of A.",
        },
    ),
    Question(
        "12.3",
        "cheapest_threshold",
        2,
        _cheapest,
        _uses,
        rtol=1e-3,
        atol=2e-3,
        mistakes=(
            (
                lambda train, ratio, use, cost: _cheapest(train, 1.0, 0.5, 1.0),
                "This is the threshold of the lesson. It treats both classes as equally frequent and both errors as equally bad.",
            ),
            (
                lambda train, ratio, use, cost: _cheapest(train, 1.0, use, cost),
                "You left the class weights out: they have moved every z.",
            ),
            (
                lambda train, ratio, use, cost: _cheapest(train, ratio, use, 1.0),
                "You left the cost of a missed image out: both errors weigh the same here.",
            ),
            (
                lambda train, ratio, use, cost: _cheapest(train, ratio, train, cost),
                "You took it that the class is as frequent in use as in training.",
            ),
            (
                lambda train, ratio, use, cost: _cheapest(train, ratio, use, 1 / cost),
                "The costs are exchanged: a dearer miss must make the network say rare more often.",
            ),
            (
                lambda train, ratio, use, cost: torch.tensor(_cheapest(train, ratio, use, cost)).sigmoid().item(),
                "This is a probability. The threshold is asked for the output z.",
            ),
            (
                lambda train, ratio, use, cost: math.exp(_cheapest(train, ratio, use, cost)),
                "These are odds. The threshold is asked for the output z.",
            ),
        ),
    ),
    Question(
        "12.4",
        "backward_operations",
        2,
        lambda sizes, batch, learning: _counted(tuple(sizes), batch, tuple(learning)),
        _networks,
        rtol=1e-6,
        mistakes=(
            (
                lambda sizes, batch, learning: _counted(tuple(sizes), batch, (True,) * len(learning)),
                "This is the backward pass in which all layers learn. What is left out for a frozen one?",
            ),
            (
                _alone,
                "You count nothing for a frozen layer. If a layer below it learns, the gradient has to pass it.",
            ),
            (
                lambda sizes, batch, learning: _counted(tuple(sizes), batch, tuple(learning), image=True),
                "You pass the gradient on down to the images. Which layer is the last one that needs it?",
            ),
            (
                lambda sizes, batch, learning: _counted(tuple(sizes), batch, tuple(learning), forward=True),
                "The forward pass is in it. Asked is the backward pass alone.",
            ),
            (
                lambda sizes, batch, learning: _counted(tuple(sizes), 1, tuple(learning)),
                "This is the number for one image. The batch has more.",
            ),
        ),
    ),
    Question(
        "12.5",
        "gradient_parts",
        2,
        _parts,
        _images,
        mistakes=(
            (
                lambda h, y, offset, weights: _parts(h, y, 0.0, weights),
                "You took p = 1/2. The output is the offset, and p follows from it.",
            ),
            (
                lambda h, y, offset, weights: _parts(h, y, offset, torch.ones_like(weights)),
                "You left the class weights out.",
            ),
            (
                lambda h, y, offset, weights: _parts(h, y, offset, weights, len(h)),
                "This is a sum over the images. The loss is their mean.",
            ),
            (
                lambda h, y, offset, weights: _parts(h, y, offset, weights, len(h) / weights[y].sum().item()),
                "You divided by the sum of the weights, as F.cross_entropy with weight= does. Here the loss is divided by the number of images.",
            ),
            (
                lambda h, y, offset, weights: _parts(h, y, offset, weights, middle=_between_classes(h, y)),
                "You took the middle between the two class means. The mean over all images lies nearer to the frequent class.",
            ),
            (
                _without_mean,
                "'common' is right. 'seeing' is the whole gradient; take out what is there without any difference between images.",
            ),
        ),
    ),
    Question(
        "12.6",
        "ranking_by_chance",
        3,
        _spread,
        _sizes,
        mistakes=(
            (
                lambda rare, others: _tossed(rare * others),
                "You count all pairs as independent tosses of a coin. Two pairs that share an image are not independent.",
            ),
            (
                lambda rare, others: _tossed(rare),
                "This is the standard error of a recall of one half. A rare image does not give 0 or 1 here, but a share of the others.",
            ),
            (
                lambda rare, others: torch.distributions.Uniform(0.0, 1.0).stddev.item() / math.sqrt(rare),
                "This holds for endlessly many others. With few of them, chance in their places comes in addition.",
            ),
            (
                lambda rare, others: torch.distributions.Uniform(0.0, 1.0).stddev.item() / math.sqrt(rare + others),
                "You treat the images of both classes as one sample. With a single rare image, do a million others help?",
            ),
            (lambda rare, others: _spread(rare, others) ** 2, "This is the variance."),
        ),
    ),
)
