"""Answers to set 12: right ones in other words, and wrong ones with a part of what `check` must say."""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

LONG = (
    "because in B the rare images lie to the right of the others inside a narrow heap near the rest point while in A both rows "
    "lie on one point so no threshold can tell them apart and the flow must be repaired first"
)


def in_numpy(shares, weights, test_shares):
    p = shares.numpy() * weights.numpy()
    p = p / p.sum()
    return float(-(test_shares.numpy() * np.log(p)).sum()), float(test_shares.numpy()[p.argmax()])


def with_loss(loss):
    def answer(shares, weights, test_shares):
        return loss(shares, weights, test_shares), in_numpy(shares, weights, test_shares)[1]

    return answer


def with_accuracy(accuracy):
    def answer(shares, weights, test_shares):
        return in_numpy(shares, weights, test_shares)[0], accuracy(shares, weights, test_shares)

    return answer


def odds(share):
    return share / (1 - share)


def threshold(train_share, weight_ratio, use_share, miss_cost):
    return math.log(odds(train_share) * weight_ratio / odds(use_share) / miss_cost)


def by_bisection(train_share, weight_ratio, use_share, miss_cost):
    """Search the output at which both answers cost the same."""
    low, high = -30.0, 30.0
    for _ in range(80):
        z = (low + high) / 2
        ratio = math.exp(z) / weight_ratio / odds(train_share)  # of the densities
        cost_of_silence, cost_of_alarm = use_share * ratio * miss_cost, 1 - use_share
        low, high = (low, z) if cost_of_silence > cost_of_alarm else (z, high)
    return low


def counted(sizes, batch, learning):
    """Let PyTorch count."""
    layers = [torch.nn.Linear(*pair) for pair in zip(sizes, sizes[1:])]
    for layer, learns in zip(layers, learning):
        layer.requires_grad_(learns)
    net = torch.nn.Sequential(*layers)
    out = net(torch.zeros(batch, sizes[0]))
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    return counter.get_total_flops()


def backwards(sizes, batch, learning, frozen_pass=1, to_the_images=0, forward=0):
    """From the last layer down to the lowest that learns."""
    lowest = learning.index(True)
    total = 0
    for place in reversed(range(len(learning))):
        size = 2 * batch * sizes[place] * sizes[place + 1]
        passed = place > lowest or to_the_images
        if not learning[place] and not frozen_pass:
            passed = False
        total += size * (learning[place] + passed + forward)
    return total


def frozen_are_free(sizes, batch, learning):
    size = [2 * batch * one * two for one, two in zip(sizes, sizes[1:])]
    return sum(one * (1 + (place > 0)) for place, one in enumerate(size) if learning[place])


def by_classes(h, labels, offset, weights):
    """Through the class means."""
    r, p = labels.double().mean(), 1 / (1 + math.exp(-offset))
    rare, others = h[labels == 1].mean(0), h[labels == 0].mean(0)
    pushes = -r * weights[1] * (1 - p), (1 - r) * weights[0] * p
    mean = r * rare + (1 - r) * others
    steepness = weights[1] * (1 - p) + weights[0] * p
    return {"common": sum(pushes) * mean, "seeing": r * (1 - r) * steepness * (others - rare)}


def by_loop(h, labels, offset, weights):
    p = torch.sigmoid(torch.tensor(offset)).item()
    common = seeing = 0
    for row, label in zip(h.float(), labels.tolist()):
        push = weights[label].item() * (p - label) / len(h)
        common, seeing = common + push * h.float().mean(0), seeing + push * (row - h.float().mean(0))
    return {"common": common.numpy(), "seeing": seeing}


def by_autograd(h, labels, offset, weights, middle=None, divide=True):
    v = torch.zeros(2, h.shape[1], dtype=torch.float64, requires_grad=True)
    middle = h.mean(0) if middle is None else middle(h, labels)
    z = torch.stack([middle.expand_as(h) @ v[0], (h - middle) @ v[1]])
    y = labels.double().expand(2, -1)
    loss = F.binary_cross_entropy_with_logits(z + offset, y, weights[labels].expand(2, -1), reduction="sum")
    (loss / (len(h) if divide else 1)).backward()
    return {"common": v.grad[0], "seeing": v.grad[1]}


def as_cross_entropy(h, labels, offset, weights):
    found = by_autograd(h, labels, offset, weights, divide=False)
    return {key: value / weights[labels].sum() for key, value in found.items()}


def by_covariances(rare, others):
    """Add up the covariances of all pairs of pairs."""
    total = 0.0
    for (i, j), (k, m) in itertools.product(itertools.product(range(rare), range(others)), repeat=2):
        total += 1 / 4 if (i, j) == (k, m) else 1 / 12 if i == k or j == m else 0
    return math.sqrt(total) / (rare * others)


def by_rank_sum(rare, others):
    """Variance of the sum of ranks drawn without replacement."""
    everyone = rare + others
    of_one_rank = (everyone**2 - 1) / 12
    return math.sqrt(rare * of_one_rank * (1 - (rare - 1) / (everyone - 1))) / (rare * others)


RIGHT = {
    "12.1": [
        in_numpy,
        lambda shares, weights, test: [
            (test * ((shares * weights).sum() / (shares * weights)).log()).sum(),
            test[(shares * weights).argmax()],
        ],
        lambda shares, weights, test: torch.stack(
            [
                F.cross_entropy((shares * weights).log().float()[None], test.float()[None]),
                test[(shares * weights).argmax()].float(),
            ]
        ),
    ],
    "12.2": [("c", LONG), ["(C)", LONG.upper()]],
    "12.3": [threshold, by_bisection, lambda *given: torch.tensor(threshold(*given)).float()],
    "12.4": [counted, backwards, lambda *given: float(backwards(*given))],
    "12.5": [by_classes, by_loop, by_autograd],
    "12.6": [
        by_covariances,
        by_rank_sum,
        lambda rare, others: np.sqrt(np.float32((1 / rare + 1 / others + 1 / rare / others) / 12)),
    ],
}
WRONG = {
    "12.1": [
        (with_loss(lambda s, w, t: -(s * (s * w / (s * w).sum()).log()).sum()), "with the shares of training"),
        (with_loss(lambda s, w, t: -(t * t.log()).sum()), "knows the shares of the test"),
        (lambda s, w, t: in_numpy(s, torch.ones_like(w), t), "left the class weights out"),
        (with_loss(lambda s, w, t: -(t * w * (s * w / (s * w).sum()).log()).sum()), "the test loss is the plain one"),
        (with_accuracy(lambda s, w, t: (t * s * w).sum() / (s * w).sum()), "does not draw its label"),
        (with_accuracy(lambda s, w, t: t.max()), "most frequent class of the test"),
        (with_accuracy(lambda s, w, t: t[s.argmax()]), "most frequent class of training"),
        (with_loss(lambda s, w, t: math.log(len(s))), "expected"),
    ],
    "12.2": [
        (("a", LONG), "Not (a)"),
        (("b", LONG), "Not (b)"),
        (("d", LONG), "Not (d)"),
        (("c", "it is so"), "words"),
        ("c", "Write a letter and a text"),
    ],
    "12.3": [
        (lambda r, w, s, c: math.log(odds(r)), "threshold of the lesson"),
        (lambda r, w, s, c: threshold(r, 1, s, c), "left the class weights out"),
        (lambda r, w, s, c: threshold(r, w, s, 1), "left the cost"),
        (lambda r, w, s, c: threshold(r, w, r, c), "as frequent in use"),
        (lambda r, w, s, c: threshold(r, w, s, 1 / c), "costs are exchanged"),
        (lambda r, w, s, c: 1 / (1 + math.exp(-threshold(r, w, s, c))), "a probability"),
        (lambda r, w, s, c: math.exp(threshold(r, w, s, c)), "odds"),
        (lambda r, w, s, c: -threshold(r, w, s, c), "expected"),
        (lambda r, w, s, c: 0.0, "expected"),
    ],
    "12.4": [
        (lambda sizes, batch, learning: backwards(sizes, batch, [True] * len(learning)), "all layers learn"),
        (frozen_are_free, "count nothing for a frozen layer"),
        (lambda *given: backwards(*given, to_the_images=1), "down to the images"),
        (lambda *given: backwards(*given, forward=1), "forward pass is in it"),
        (lambda sizes, batch, learning: backwards(sizes, 1, learning), "one image"),
        (lambda *given: backwards(*given) / 2, "expected"),
        (lambda *given: backwards(*given, frozen_pass=0), "expected"),
    ],
    "12.5": [
        (lambda h, y, offset, weights: by_loop(h, y, 0.0, weights), "took p = 1/2"),
        (lambda h, y, offset, weights: by_loop(h, y, offset, torch.ones(2)), "left the class weights out"),
        (lambda *given: by_autograd(*given, divide=False), "a sum over the images"),
        (as_cross_entropy, "sum of the weights"),
        (
            lambda *given: by_autograd(*given, middle=lambda h, y: (h[y == 0].mean(0) + h[y == 1].mean(0)) / 2),
            "middle between the two class means",
        ),
        (
            lambda *given: {
                "common": by_loop(*given)["common"],
                "seeing": sum(map(torch.as_tensor, by_loop(*given).values())),
            },
            "is the whole gradient",
        ),
        (lambda *given: {key: -torch.as_tensor(one) for key, one in by_loop(*given).items()}, "expected"),
        (lambda *given: by_loop(*given)["common"], "expected a dict"),
    ],
    "12.6": [
        (lambda rare, others: 0.5 / math.sqrt(rare * others), "independent tosses"),
        (lambda rare, others: 0.5 / math.sqrt(rare), "standard error of a recall"),
        (lambda rare, others: 1 / math.sqrt(12 * rare), "endlessly many others"),
        (lambda rare, others: 1 / math.sqrt(12 * (rare + others)), "one sample"),
        (lambda rare, others: by_rank_sum(rare, others) ** 2, "This is the variance"),
        (lambda rare, others: math.sqrt((1 / rare + 1 / others) / 12), "expected"),
    ],
}
