"""Answers to set 02: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch

LONG = (
    "because each layer leaves at most the share r of what arrives, k layers leave at most r to the power k, "
    "which falls below a thousandth after five layers for one quarter and after sixty six for nine tenths, "
    "while with large weights nothing of this is true"
)


def by_counting(left, right, rate):
    """Half of the units have either slope, and so many stay that n (1 - rate) of them are enlarged."""
    kept = 1 - rate
    power_kept = kept * (right / kept) ** 2 / 2 + kept * (left / kept) ** 2 / 2
    return 1 / np.sqrt(power_kept)


def walk(slopes, weights, gradient, turn=lambda s, w, g: w.T @ (s * g), backward=True, log=math.log10, start=None):
    total, g = 0.0, gradient / (gradient.norm() if start is None else start)
    pairs = list(zip(slopes, weights))
    for s, w in pairs[::-1] if backward else pairs:
        g = turn(s, w, g)
        total += log(g.norm().item())
        g = g / g.norm()
    return total


def by_boost(slopes, weights, gradient):
    """In float64, with an exact factor whenever the gradient leaves the range of everyday numbers."""
    g, exponent = np.asarray(gradient, dtype=np.float64), 0
    size = np.linalg.norm(g)
    for s, w in zip(reversed(slopes), reversed(weights)):
        g = (g * s.numpy()) @ w.numpy().astype(np.float64)
        if np.abs(g).max() < 1e-100:
            g, exponent = g * 2.0**300, exponent - 300
    return np.log10(np.linalg.norm(g)) - np.log10(size) + exponent * np.log10(2)


def by_matrices(slopes, weights, gradient):
    product, total = torch.eye(len(gradient), dtype=torch.float64), 0.0
    for s, w in zip(slopes, weights):
        product = torch.diag(s.double()) @ w.double() @ product
        total += product.abs().max().log10()
        product = product / product.abs().max()
    return total + (product.T @ gradient.double()).norm().log10() - gradient.double().norm().log10()


def in_one_go(slopes, weights, gradient, kind=torch.float32):
    g = gradient.to(kind)
    for s, w in zip(slopes.flip(0), weights.flip(0)):
        g = w.to(kind).T @ (s.to(kind) * g)
    return torch.log10(g.norm() / gradient.norm())


def growth(matrix):
    return matrix.square().sum().div(len(matrix)).sqrt()


def power(matrix, steps):
    return torch.linalg.matrix_power(matrix, steps)


def both(same=lambda a, k: growth(power(a, k)), shuffled=lambda a, k: growth(a) ** k):
    return lambda a, k: {"same": same(a, k), "shuffled": shuffled(a, k)}


def by_numpy(a, k):
    a = a.numpy()
    moved = np.eye(len(a))
    for _ in range(k):
        moved = moved @ a
    singular = np.linalg.svd(a, compute_uv=False)
    return {"shuffled": np.mean(singular**2) ** (k / 2), "same": np.linalg.norm(moved) / len(a) ** 0.5}


def in_single(a, k):
    return both()(a.float(), k)


def norm(a):
    return torch.linalg.matrix_norm(a, 2)


def radius(a):
    return torch.linalg.eigvals(a).abs().max()


def by_digamma(n, gain):
    return gain * torch.exp((torch.digamma(torch.tensor(n / 2)) + math.log(2 / n)) / 2)


def by_harmonic_sums(n, gain):
    """digamma(n / 2) from its value at 1 or 1/2, upwards."""
    place, digamma = (1.0, -np.euler_gamma) if n % 2 == 0 else (0.5, -np.euler_gamma - 2 * np.log(2))
    while place < n / 2:
        digamma += 1 / place
        place += 1
    return gain * np.sqrt(2 / n * np.exp(digamma))


def by_push(n, gain):
    """The mean of log over a Gamma distribution, from the derivative of log Gamma by a push."""
    push = 1e-5
    return gain * math.exp((math.lgamma(n / 2 + push) - math.lgamma(n / 2 - push)) / (4 * push)) / math.sqrt(n / 2)


def mean_length(n, gain):
    return gain * math.sqrt(2 / n) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))


def median_of_one(n, gain):
    low, high = 0.0, 2.0 * n
    for _ in range(60):
        middle = torch.tensor((low + high) / 2, dtype=torch.float64)
        below = torch.special.gammainc(torch.tensor(n / 2, dtype=torch.float64), middle / 2) < 0.5
        low, high = (middle.item(), high) if below else (low, middle.item())
    return gain * math.sqrt(low / n)


RIGHT = {
    "02.1": [("b", LONG), ["(B)", LONG.upper()]],
    "02.2": [2.24, torch.tensor(math.sqrt((2.9**2 + 1.05**2) / 2)), math.sqrt(5)],
    "02.3": [
        by_counting,
        lambda left, right, rate: math.sqrt(2 * (1 - rate) / (left**2 + right**2)),
        lambda left, right, rate: torch.tensor([left, right]).square().mean().div(1 - rate).rsqrt(),
    ],
    "02.4": [walk, by_boost, by_matrices],
    "02.5": [both(), by_numpy, in_single],
    "02.6": [by_digamma, by_harmonic_sums, by_push],
}
WRONG = {
    "02.1": [
        (("a", LONG), "not the whole product"),
        (("c", LONG), "3/4, 8/9"),
        (("D", LONG), "a share of what arrives"),
        (("b", "it is small " * 5), "has 15 words"),
        (("b", "small " * 40), "same few words"),
        ("b", "Write a letter and a text"),
        (("e", LONG), "The letter comes first"),
    ],
    "02.2": [
        (3, "longer half-axis"),
        (6, "whole long axis"),
        (2, "averaged the half-axes"),
        (1.73, "factor for areas"),
        (5.0, "Take the root"),
        (3.16, "did not divide"),
        (2.12, "shorter half-axis is missing"),
        (2.127, "averaged lengths"),
        (1, "is not right"),
        ("2.24", "text"),
    ],
    "02.3": [
        (lambda left, right, rate: math.sqrt(2 / (left**2 + right**2)), "Dropout is missing"),
        (lambda left, right, rate: math.sqrt(2 / (left**2 + right**2) / (1 - rate)), "did not enlarge"),
        (lambda left, right, rate: 2 / (left + right), "averaged the slopes"),
        (lambda left, right, rate: by_counting(left, right, rate) ** 2, "square of the gain"),
        (lambda left, right, rate: 1 / by_counting(left, right, rate), "factor per layer at gain 1"),
        (lambda left, right, rate: math.sqrt(2 * rate / (left**2 + right**2)), "share that stays"),
        (lambda left, right, rate: math.sqrt(2 * (1 - rate)) / right, "left out the negative"),
        (lambda left, right, rate: math.sqrt(2 * (1 - rate)), "expected"),
        (lambda left, right, rate: math.sqrt((1 - rate) / (left**2 + right**2)), "expected"),
    ],
    "02.4": [
        (in_one_go, "rounded to 0"),
        (lambda s, w, g: in_one_go(s, w, g, torch.float64), "rounded to 0"),
        (lambda s, w, g: walk(s, w, g, backward=False), "first layer to the last"),
        (lambda s, w, g: walk(s, w, g, turn=lambda s, w, g: w @ (s * g)), "not by its transpose"),
        (lambda s, w, g: walk(s, w, g, turn=lambda s, w, g: s * (w.T @ g)), "wrong order"),
        (lambda s, w, g: walk(s, w, g, turn=lambda s, w, g: w.T @ g), "slopes are missing"),
        (lambda s, w, g: sum(growth(one[:, None] * two).log10() for one, two in zip(s, w)), "average growths"),
        (lambda s, w, g: sum(norm(one[:, None] * two).log10() for one, two in zip(s, w)), "spectral norms"),
        (lambda s, w, g: walk(s, w, g, log=math.log), "natural logarithm"),
        (lambda s, w, g: walk(s, w, g) + g.norm().log10(), "its ratio"),
        (lambda s, w, g: 10 ** walk(s, w, g), "expected"),
        (lambda s, w, g: walk(s[1:], w[1:], g), "expected"),
    ],
    "02.5": [
        (both(same=lambda a, k: growth(a**k)), "each entry by itself"),
        (both(same=lambda a, k: radius(a) ** k), "in the long run"),
        (both(same=lambda a, k: norm(a) ** k), "a bound"),
        (both(same=lambda a, k: norm(power(a, k))), "longest stretch"),
        (both(same=lambda a, k: growth(a) ** k), "only in the first step"),
        (both(shuffled=lambda a, k: growth(power(a, k))), "without shuffling"),
        (both(shuffled=lambda a, k: norm(a) ** k), "belongs to one direction"),
        (both(shuffled=lambda a, k: radius(a) ** k), "comes back in the same direction"),
        (both(lambda a, k: growth(power(a, k)) ** 2, lambda a, k: growth(a) ** (2 * k)), "mean squares"),
        (both(lambda a, k: power(a, k).norm(), lambda a, k: a.norm() ** k), "expected"),
        (lambda a, k: {"same": growth(power(a, k))}, "has the keys same"),
        (both(same=lambda a, k: growth(a) ** k, shuffled=lambda a, k: growth(power(a, k))), "swapped"),
        (lambda a, k: growth(a) ** k, "expected a dict"),
    ],
    "02.6": [
        (lambda n, gain: gain, "root mean square"),
        (mean_length, "mean length"),
        (median_of_one, "median of one layer"),
        (lambda n, gain: by_digamma(n, gain) ** 2, "squared length"),
        (lambda n, gain: by_digamma(n, gain) * n**0.5, "The n is missing"),
        (lambda n, gain: gain * math.exp(-1 / (2 * n)), "for large n"),
        (lambda n, gain: gain * (1 - 1 / (2 * n)), "for large n"),
        (lambda n, gain: math.log(by_digamma(n, gain)), "mean of the logarithm"),
        (lambda n, gain: gain / math.sqrt(2), "expected"),
    ],
}
