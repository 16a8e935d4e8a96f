"""Answers to set 09: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LONG = (
    "because the sum of two unrelated vectors of mean square one has mean square two, so LayerNorm divides skip and "
    "branch by root two, at each block again"
)


def rezero(gradient, h, weight, scale, skip=1.0, inner=None, turn=False):
    branch = torch.relu(h) @ weight.T
    back = gradient @ (weight.T if turn else weight)
    return {
        "h": skip * gradient + scale * back * (h > 0),
        "weight": (scale if inner is None else inner) * gradient.T @ torch.relu(h),
        "scale": (gradient * branch).sum(),
    }


def rezero_by_rows(gradient, h, weight, scale):
    g, h, w = (one.numpy() for one in (gradient, h, weight))
    back, of_weight, of_scale = np.zeros_like(h), np.zeros_like(w), 0.0
    for row, (sent, x) in enumerate(zip(g, h)):
        for unit in range(len(x)):
            back[row, unit] = sent[unit] + scale * (x[unit] > 0) * sum(sent * w[:, unit])
        of_weight += scale * np.outer(sent, np.maximum(x, 0))
        of_scale += sent @ w @ np.maximum(x, 0)
    return {"h": back, "weight": of_weight, "scale": of_scale}


def rezero_traced(gradient, h, weight, scale):
    h, weight = h.float().requires_grad_(), weight.float().requires_grad_()
    scale = torch.tensor(scale, requires_grad=True)
    (h + scale * (h.relu() @ weight.T)).backward(gradient.float())
    return {"h": h.grad, "weight": weight.grad, "scale": scale.grad}


def changed(key, change):
    return lambda *block: {**rezero(*block), key: change(rezero(*block)[key], block)}


def by_steps(blocks, keep, branch_factor):
    lost, total = 0.0, keep**2 + branch_factor
    for _ in range(blocks):
        lost += branch_factor / total
    return (lost + 1) / math.pi


def by_lengths(blocks, keep, branch_factor):
    p = branch_factor / (keep**2 + branch_factor)
    return sum((j + 1) * math.comb(blocks, j) * p**j * (1 - p) ** (blocks - j) for j in range(blocks + 1)) / math.pi


def run(first, blocks, last, skip, batches, rate, zero=True, move=True, after=False, turn=False, place=0, of="grad"):
    """With .grad, an optimizer, and retained gradients."""
    net = nn.ModuleList([first, *blocks, last])
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    found = {"ratio": [], "weight": []}

    def backward(x, y):
        hidden = [first(x)]
        for block in blocks:
            hidden.append(hidden[-1] + block(hidden[-1]) if skip else block(hidden[-1]))
        for h in hidden:
            h.retain_grad()
        if zero:
            optimizer.zero_grad()
        F.cross_entropy(last(hidden[-1]), y).backward()
        return [one.grad if of == "grad" else one.detach() for one in (hidden[0], hidden[-1])]

    for x, y in batches:
        early, late = backward(x, y)
        weight = blocks[place][0].weight.grad.norm().clone()
        if move:
            optimizer.step()
        if after:
            early, late = backward(x, y)
            weight = blocks[place][0].weight.grad.norm()
        ratio = early.norm() / late.norm()
        found["ratio"].append(1 / ratio if turn else ratio)
        found["weight"].append(weight)
    return found


def run_by_hand(first, blocks, last, skip, batches, rate):
    """No optimizer, no .grad."""
    parameters = [one for part in (first, *blocks, last) for one in part.parameters()]
    ratios, weights = [], []
    for x, y in batches:
        start = h = first(x)
        for block in blocks:
            h = block(h) + h * int(skip)
        found = torch.autograd.grad(F.cross_entropy(last(h), y), [start, h, blocks[0][0].weight, *parameters])
        sizes = [one.square().sum().sqrt().item() for one in found[:3]]
        ratios.append(sizes[0] / sizes[1])
        weights.append(sizes[2])
        with torch.no_grad():
            for one, gradient in zip(parameters, found[3:]):
                one -= rate * gradient
    return {"ratio": np.array(ratios), "weight": np.array(weights)}


def run_with_hooks(first, blocks, last, skip, batches, rate):
    out = {"ratio": [], "weight": []}
    parameters = [one for part in (first, *blocks, last) for one in part.parameters()]
    for x, y in batches:
        for one in parameters:
            one.grad = None
        norms = {}
        h = first(x)
        h.register_hook(lambda g, norms=norms: norms.__setitem__("early", g.norm()))
        for block in blocks:
            h = h + block(h) if skip else block(h)
        h.register_hook(lambda g, norms=norms: norms.__setitem__("late", g.norm()))
        F.cross_entropy(last(h), y).backward()
        out["ratio"].append(norms["early"] / norms["late"])
        out["weight"].append(blocks[0][0].weight.grad.norm())
        torch.optim.SGD(parameters, lr=rate).step()
    return out


def wrong_run(**changes):
    return lambda *setting: run(*setting, **changes)


def exact(h, variance=2.0):
    sigma = (variance * h.square().mean()).sqrt()
    below = torch.special.ndtr(h / sigma)
    bell = torch.exp(-((h / sigma) ** 2) / 2) / math.sqrt(2 * math.pi)
    return ((h**2 + sigma**2) * below + h * sigma * bell).mean() / h.square().mean()


def by_draws(h):
    weight = torch.randn(200_000, len(h), generator=torch.Generator().manual_seed(3), dtype=h.dtype)
    noise = weight @ h * (2 / len(h)) ** 0.5
    return np.mean([((one + noise).relu() ** 2).mean().item() for one in h]) / (h**2).mean().item()


def in_float32(h):
    values, squares = h.float().tolist(), float((h.float() ** 2).mean())
    spread, total = math.sqrt(2 * squares), 0.0
    for one in values:
        t = one / spread
        total += (one**2 + spread**2) * (1 + math.erf(t / 2**0.5)) / 2 + one * spread * math.exp(-t * t / 2) / 2.5066283
    return total / len(values) / squares


RIGHT = {
    "09.1": [6, 24 * (1 - 34 ** (-2 / 24)), torch.tensor(6.2)],
    "09.2": [rezero, rezero_by_rows, rezero_traced],
    "09.3": [("c", LONG), ["(C)", LONG.upper()]],
    "09.4": [by_steps, by_lengths, lambda blocks, keep, f2: np.float32((1 + blocks * f2 / (keep**2 + f2)) / np.pi)],
    "09.5": [run, run_by_hand, run_with_hooks],
    "09.6": [exact, by_draws, in_float32],
}
WRONG = {
    "09.1": [
        (24 * (1 - 34 ** (-1 / 24)), "It shows a norm"),
        (34.0, "growth over all blocks"),
        (12, "Half the blocks"),
        (24 * (34 ** (2 / 24) - 1), "adds up the branch factors"),
        (34 ** (2 / 24), "per block, one step"),
        (0.25, "is not right"),
        ("6", "text"),
    ],
    "09.2": [
        (lambda *block: rezero(*block, skip=0.0), 'skip is missing in "h"'),
        (lambda *block: rezero(*block, inner=1.0), 'scale is missing in "weight"'),
        (
            lambda gradient, h, weight, scale: {
                **rezero(gradient, h, weight, scale),
                "h": gradient + scale * gradient @ weight,
            },
            "slope of ReLU is missing",
        ),
        (lambda *block: rezero(*block, turn=True), 'In "h" the weights are transposed'),
        (changed("weight", lambda one, _: one.T), '"weight" is transposed'),
        (changed("scale", lambda one, block: one * block[3]), "Then ReZero would never start"),
        (changed("scale", lambda one, block: one / len(block[0])), "averaged over the images"),
        (lambda *block: rezero(*block)["h"], "expected a dict"),
        (lambda *block: {"h": rezero(*block)["h"]}, "has the keys h"),
        (changed("scale", lambda one, _: -one), "gives"),
    ],
    "09.3": [
        (("a", LONG), "so the skip passes it too"),
        (("B", LONG), "with pre-LN the skip grows"),
        (("(d)", LONG), "a path can go past every branch"),
        (("c", "it divides"), "has 2 words"),
        ("c", "Write a letter and a text"),
    ],
    "09.4": [
        (lambda *chain: by_steps(*chain) - 1 / math.pi, "One ReLU is left out"),
        (lambda blocks, keep, f2: (blocks + 1) / math.pi, "a network without skips"),
        (lambda *chain: by_steps(*chain) * math.pi, "half turns"),
        (lambda *chain: by_steps(*chain) / 180 * math.pi, "per degree"),
        (lambda blocks, keep, f2: by_steps(blocks, keep, f2**2), "You squared branch_factor"),
        (lambda blocks, keep, f2: (1 + blocks * f2 / (keep + f2)) / math.pi, "one of squares"),
        (lambda *chain: 0, "starts with slope 0"),
        (lambda blocks, keep, f2: (keep**2 + f2) ** blocks, "expected"),
    ],
    "09.5": [
        (wrong_run(zero=False), "still in .grad"),
        (wrong_run(move=False), "The weights never change"),
        (wrong_run(turn=True), "upside down"),
        (wrong_run(after=True), "measure after the step"),
        (wrong_run(of="values"), "ratio is one of hidden values"),
        (lambda a, b, c, skip, *rest: run(a, b, c, True, *rest), "add the skip even if"),
        (lambda a, b, c, skip, *rest: run(a, b, c, False, *rest), "no skip in your network"),
        (wrong_run(place=-1), "belongs to the last block"),
        (lambda *setting: run(*setting)["ratio"], "expected a dict"),
        (lambda *setting: {key: one[0] for key, one in run(*setting).items()}, "is a number; expected"),
    ],
    "09.6": [
        (lambda h: 3.0, "before the ReLU"),
        (lambda h: 1.5, "half of the mean square"),
        (lambda h: 2, "the block of the lesson"),
        (lambda h: exact(h, 1.0), "variance 1/n"),
        (lambda h: exact(h) * h.square().mean(), "Divide by the one before it"),
        (
            lambda h: sum(exact(one[None]) * one**2 if one > 0 else 0 for one in h) / (h**2).sum(),
            "noise of its own size",
        ),
        (lambda h: exact(h, 4.0), "expected"),
    ],
}
