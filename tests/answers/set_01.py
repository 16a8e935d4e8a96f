"""Answers to set 01: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
import torch.nn.functional as F

LONG = "because the output lies between zero and one and comes closer to one of the two exponentially fast, so nothing is left to go"


def by_loop(size):
    """Sum the normal density beyond the border."""
    step, border = 1e-4, math.log(0.984770 / 0.015230)
    points = np.arange(border, 20 * size, step)
    return 2 * step * np.exp(-((points / size) ** 2) / 2).sum() / size / math.sqrt(2 * math.pi)


def with_the_rounded_border(size):
    return math.erfc(math.log(0.985 / 0.015) / size / math.sqrt(2))


def in_float(loss_slope):
    """Steps of one unit, summed over a grid of z."""

    def steps(start, rate):
        z = torch.linspace(-math.log(9), 2 * start, 4001)
        return torch.trapezoid(1 / loss_slope(torch.sigmoid(z)), z) / (2 * rate)

    return steps


def counted(start, rate):
    z, steps = 2 * start, 0
    while z > -math.log(9):
        z, steps = z - 2 * rate / (1 + math.exp(-z)), steps + 1
    return steps


def stable(x):
    return -x.abs() - 2 * torch.log1p(torch.exp(-x.abs()))


RIGHT = {
    "01.1": [lambda s: s - s**2, lambda s: 0.25 - (s - 0.5) ** 2, lambda s: s.numpy() * (1 - s.numpy())],
    "01.2": [("c", LONG), ["(C)", LONG.upper()]],
    "01.3": [
        lambda g, h, w: torch.einsum("iu,iu,uk->ik", g, 1 - torch.tanh(h @ w.T) ** 2, w),
        lambda g, h, w: np.asarray(g / torch.cosh(h @ w.T) ** 2) @ np.asarray(w),
        lambda g, h, w: torch.stack([w.T @ torch.diag(1 - torch.tanh(w @ row) ** 2) @ one for one, row in zip(g, h)]),
    ],
    "01.4": [2.08, torch.tensor(2.1), 2],
    "01.5": [by_loop, with_the_rounded_border, lambda size: torch.special.erfc(torch.tensor(4.1690 / size / 2**0.5))],
    "01.7": [counted, in_float(lambda h: h), lambda s, r: np.float64((2 * s + 11.197 - np.exp(-2 * s)) / r / 2)],
    "01.6": [stable, lambda x: x - 2 * F.softplus(x), lambda x: F.logsigmoid(x.double()) - F.softplus(x.double())],
}
WRONG = {
    "01.1": [
        (lambda s: s, "output itself"),
        (lambda s: 1 - s, "One factor of the slope is missing"),
        (lambda s: 1 - s * s, "slope of tanh"),
        (lambda s: torch.sigmoid(s) * (1 - torch.sigmoid(s)), "You took s for the input x"),
        (lambda s: s * (1 - s) / 2, "expected"),
        (lambda s: (s * (1 - s)).sum(), "is a number; expected a tensor of shape (3,)"),
    ],
    "01.2": [
        (("a", LONG), "near 1 for a large positive x"),
        (("B", LONG), "rounding makes"),
        (("d", LONG), "a weight does not enter"),
        (("c", "it is flat"), "has 3 words"),
        (("c", "flat " * 30), "again and again"),
        (("c", "it is flat out there"), "20 or more"),
        ("c", "Write a letter and a text"),
        (("e", LONG), "The letter comes first"),
        ((LONG, "c"), "The letter comes first"),
    ],
    "01.3": [
        (lambda g, h, w: g @ w, "slope of tanh is missing"),
        (lambda g, h, w: (g * (1 - torch.tanh(h @ w.T) ** 2)) @ w.T, "transposed weights"),
        (lambda g, h, w: (g @ w) * (1 - torch.tanh(h) ** 2), "slope is taken at h"),
        (lambda g, h, w: (g * torch.tanh(h @ w.T)) @ w, "output of tanh"),
        (lambda g, h, w: (g * (1 - torch.tanh(h @ w) ** 2)) @ w, "expected"),
        (lambda g, h, w: (g * (1 - (h @ w.T) ** 2)) @ w, "takes the output"),
        (lambda g, h, w: (g * (1 - torch.tanh(h @ w.T) ** 2)) @ w / len(h), "at entry (0, 0), expected"),
        (lambda g, h, w: w @ g, "raised RuntimeError"),
    ],
    "01.4": [
        (0.06, "height of the line"),
        (4.17, "where the other curve crosses"),
        (0.97, "an output"),
        (1.5, "is not right"),
        ("2.1", "text"),
        (-2.08, "Asked is |z|"),
        ([-2.1, 2.1], "a tensor of shape (2,); expected a number"),
    ],
    "01.5": [
        (lambda size: by_loop(size) / 2, "one side"),
        (lambda size: 1 - by_loop(size), "not saturated"),
        (lambda size: 1 - math.erf(2.6810 / size / 2**0.5), "0.06 / 4"),
        (lambda size: by_loop(size**0.5), "variance"),
        (lambda size: by_loop(2 * size), "expected"),
        (lambda size: 100 * by_loop(size), "expected"),
    ],
    "01.6": [
        (lambda x: torch.log(torch.sigmoid(x) * (1 - torch.sigmoid(x))), "rounded to 0 for a large x, before"),
        (lambda x: torch.log(torch.sigmoid(x)) + torch.log(1 - torch.sigmoid(x)), "rounded to 0 for a large x, before"),
        (lambda x: torch.log(torch.sigmoid(x)) + torch.log(torch.sigmoid(-x)), "function for the logarithm"),
        (lambda x: -x.abs(), "This is the tail"),
        (lambda x: F.logsigmoid(x), "one factor"),
        (lambda x: torch.exp(stable(x)), "asked is its logarithm"),
        (lambda x: stable(x) / math.log(10), "expected"),
        (lambda x: -x - 2 * torch.log(1 + torch.exp(-x)), "leaves float32"),
        (lambda x: -x - 2 * torch.log1p(torch.exp(-x)), "leaves float32"),
    ],
    "01.7": [
        (lambda s, r: counted(s, r) * 2, "both w and b move"),
        (lambda s, r: (2 * s + math.log(9)) / 2 / r, "as if the output were 1"),
        (in_float(lambda h: h * h * (1 - h)), "squared loss"),
        (lambda s, r: counted(s / 2, r), "starts at z = start"),
        (lambda s, r: counted(s, r) * r, "learning rate"),
        (lambda s, r: counted(s, r) + 1000, "expected"),
    ],
}
