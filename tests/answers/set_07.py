"""Answers to set 07: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LONG = (
    "because with larger weights a small difference is passed on in full by each layer, so that the images are still "
    "apart at the last layer, while the three others leave the factor per layer below one or touch the gradient alone"
)


def slope(z):
    return 1 - torch.tanh(z) ** 2


def ways(matrix):
    total = matrix.square().sum()
    return {"forward": total / len(matrix), "backward": total / matrix.shape[1]}


def ways_by_trace(weight, z):
    jacobian = weight @ torch.diag(slope(z))
    return {
        "forward": torch.trace(jacobian @ jacobian.T) / len(weight),
        "backward": torch.trace(jacobian.T @ jacobian) / len(z),
    }


def ways_by_numpy(weight, z):
    values = np.linalg.svd(weight.float().numpy() / np.cosh(z.float().numpy()) ** 2, compute_uv=False)
    return {"forward": (values**2).sum() / len(weight), "backward": (values**2).sum() / len(z)}


def ways_by_draws(weight, z):
    generator = torch.Generator().manual_seed(0)
    jacobian = weight * slope(z)
    found = {}
    for name, matrix in (("forward", jacobian), ("backward", jacobian.T)):
        directions = torch.linalg.qr(torch.randn(matrix.shape[1], matrix.shape[1], generator=generator).double())[0]
        found[name] = (matrix @ directions).square().mean() / directions.square().mean()
    return found


def inside(q):
    return math.erf(1 / math.sqrt(2 * q))


def edge(q):
    b = 1 / math.sqrt(q)
    output = q * (inside(q) - 2 * b * math.exp(-b * b / 2) / math.sqrt(2 * math.pi)) + 1 - inside(q)
    return {"sigma_w": inside(q) ** -0.5, "sigma_b": math.sqrt(q - output / inside(q))}


def edge_by_grid(q, slope=lambda z: (z.abs() < 1) * 1.0, output=F.hardtanh):
    u = torch.linspace(-8, 8, 20_001)
    weight = torch.exp(-(u**2) / 2)
    weight = weight / weight.sum()
    z = q**0.5 * u
    sigma_w = (slope(z) ** 2 * weight).sum() ** -0.5
    return {"sigma_w": sigma_w, "sigma_b": (q - sigma_w**2 * (output(z) ** 2 * weight).sum()) ** 0.5}


def edge_by_numpy(q):
    z = np.sqrt(q) * np.linspace(-8, 8, 8001)
    weight = np.exp(-(z**2) / 2 / q)
    sigma_w = 1 / np.sqrt(np.average(np.abs(z) < 1, weights=weight))
    return {"sigma_b": np.sqrt(q - sigma_w**2 * np.average(np.clip(z, -1, 1) ** 2, weights=weight)), "sigma_w": sigma_w}


def isometric(units, inputs, sigma_w):
    weight = torch.empty(units, inputs)
    nn.init.orthogonal_(weight, sigma_w * max(1.0, math.sqrt(units / inputs)))
    return weight


def by_qr(units, inputs, sigma_w):
    columns = torch.linalg.qr(torch.randn(max(units, inputs), min(units, inputs), dtype=torch.float64))[0]
    matrix = columns if units >= inputs else columns.T
    return matrix * sigma_w / matrix.square().mean().sqrt() / math.sqrt(inputs)


def by_svd(units, inputs, sigma_w):
    left, _, right = np.linalg.svd(np.random.default_rng().normal(size=(units, inputs)), full_matrices=False)
    return max(units / inputs, 1) ** 0.5 * sigma_w * left @ right


def unscaled(units, inputs, gain=1.0):
    return nn.init.orthogonal_(torch.empty(units, inputs), gain)


def always_the_same(units, inputs, sigma_w):
    matrix = torch.randn(units, inputs, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return max(units / inputs, 1) ** 0.5 * sigma_w * left @ right


U = torch.linspace(-8, 8, 401, dtype=torch.float64)
WEIGHT = torch.exp(-(U**2) / 2) / torch.exp(-(U**2) / 2).sum()


def rate(curvature, sigma_w, q):
    return sigma_w**2 * q / 2 * (curvature(math.sqrt(q) * U) ** 2 @ WEIGHT)


def rate_by_draws(curvature, sigma_w, q):
    z = math.sqrt(q) * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    return 0.5 * sigma_w**2 * q * curvature(z).square().mean()


def rate_by_pairs(curvature, sigma_w, q):
    """The second derivative of the map at a correlation of 0.999, entry by entry of a grid."""
    v, w = U[::4], WEIGHT[::4] / WEIGHT[::4].sum()
    other = 0.999 * v[:, None] + math.sqrt(1 - 0.999**2) * v
    bent = curvature(math.sqrt(q) * v)[:, None] * curvature(math.sqrt(q) * other)
    return sigma_w**2 * q / 2 * (bent * w[:, None] * w).sum()


RIGHT = {
    "07.1": [1.62, 1.5, torch.tensor(1.7), np.float32(1.635)],
    "07.2": [lambda w, z: ways(w * slope(z)), ways_by_trace, ways_by_numpy, ways_by_draws],
    "07.3": [edge, edge_by_grid, edge_by_numpy],
    "07.4": [("c", LONG), ["(C)", LONG.upper()]],
    "07.5": [isometric, by_qr, by_svd],
    "07.6": [rate, rate_by_draws, rate_by_pairs],
}
WRONG = {
    "07.1": [
        (3.2, "The depth scale counts squares"),
        (3.7, "the square falls by a factor of 10"),
        (7.5, "row_std falls by a factor of 10"),
        (2.08, "first and last layer"),
        (0.54, "chi_1"),
        (0.73, "the factor per layer of row_std"),
        (0.62, "one over a number"),
        (-1.62, "is not right"),
        (46, "is not right"),
        ([1.62, 3.2], "expected a number"),
    ],
    "07.2": [
        (lambda w, z: {k: v for k, v in zip(("backward", "forward"), ways(w * slope(z)).values())}, "swapped"),
        (
            lambda w, z: {
                "forward": (w * slope(z)).square().sum() / len(z),
                "backward": (w * slope(z)).square().sum() / len(w),
            },
            "squared lengths",
        ),
        (lambda w, z: dict.fromkeys(("forward", "backward"), ways(w * slope(z))["forward"]), "forward is right"),
        (lambda w, z: dict.fromkeys(("forward", "backward"), ways(w * slope(z))["backward"]), "backward is right"),
        (lambda w, z: {k: v.sqrt() for k, v in ways(w * slope(z)).items()}, "root mean squares"),
        (lambda w, z: ways(w * slope(z).sqrt()), "The weights are squared and the slope is not"),
        (lambda w, z: ways(w), "The slope of tanh is missing"),
        (lambda w, z: ways(w * slope(torch.tanh(z))), "at the output of tanh"),
        (lambda w, z: ways(w * torch.tanh(z)), "by the output of tanh"),
        (
            lambda w, z: {
                "forward": w.square().mean() * slope(z).square().mean() * len(z),
                "backward": w.square().mean() * slope(z).square().mean() * len(w),
            },
            "product of two means",
        ),
        (lambda w, z: {k: v * 2 for k, v in ways(w * slope(z)).items()}, "expected"),
        (lambda w, z: {"forward": 1.0}, "has the keys forward; expected forward, backward"),
        (lambda w, z: [1.0, 2.0], "expected a dict"),
    ],
    "07.3": [
        (lambda q: {k: v**2 for k, v in edge(q).items()}, "two variances"),
        (lambda q: {**edge(q), "sigma_w": 1 / inside(q)}, "enters chi_1 with its square"),
        (lambda q: {**edge(q), "sigma_b": edge(q)["sigma_b"] ** 2}, "is the variance of the biases"),
        (lambda q: {**edge(q), "sigma_b": math.sqrt(q)}, "the biases alone"),
        (lambda q: {**edge(q), "sigma_b": 0.0}, "q is not a fixed point"),
        (
            lambda q: {"sigma_w": math.sqrt(q * inside(q) ** -1 / (q - edge(q)["sigma_b"] ** 2)), "sigma_b": 0.0},
            "keeps the size",
        ),
        (lambda q: {**edge(q), "sigma_w": inside(q**2) ** -0.5}, "took q for the standard deviation"),
        (lambda q: edge_by_grid(q, slope=lambda z: (z < 1) * 1.0), "The slope is 0 below -1 too"),
        (lambda q: edge_by_grid(q, output=lambda z: z * (z.abs() < 1)), "the values beyond 1 are missing"),
        (lambda q: edge_by_grid(q, slope=slope, output=torch.tanh), "the edge of tanh"),
        (lambda q: {"sigma_w": 1.0, "sigma_b": 0.0}, "expected"),
    ],
    "07.4": [
        (("a", LONG), "gives back the gradient"),
        (("b", LONG), "cancel in each difference"),
        (("D", LONG), "the same chi_1"),
        (("c", "it is on the edge"), "has 5 words"),
        (("e", LONG), "The letter comes first"),
        (0.5, "Write a letter and a text"),
    ],
    "07.5": [
        (lambda n, m, s: isometric(m, n, s), "transposed"),
        (lambda n, m, s: s / math.sqrt(m) * torch.randn(n, m), "Independent numbers"),
        (lambda n, m, s: unscaled(n, m, s), "one over the *longer* side"),
        (lambda n, m, s: isometric(n, m, s) * math.sqrt(max(m / n, 1)), "With fewer units than inputs"),
        (lambda n, m, s: unscaled(n, m), "All singular values are 1"),
        (lambda n, m, s: isometric(n, m, 1.0), "sigma_w is nowhere"),
        (lambda n, m, s: isometric(n, m, s) * math.sqrt(m), "A unit sums over"),
        (lambda n, m, s: isometric(n, m, s) * 1.1, "the mean square is 1.21 times"),
        (lambda n, m, s: s * max(1, n / m) ** 0.5 * torch.eye(n, m)[torch.randperm(n)], "only moves units around"),
        (always_the_same, "Two calls return the same matrix"),
        (lambda n, m, s: isometric(n, n, s), "has shape (48, 48)"),
        (lambda n, m, s: torch.zeros(n, m), "the mean square is 0 times"),
        (lambda n, m, s: torch.full((n, m), math.nan), "not finite"),
        (lambda n, m, s: 1.0, "is no matrix"),
    ],
    "07.6": [
        (lambda f, s, q: 2 * rate(f, s, q), "Taylor series"),
        (lambda f, s, q: rate(f, s, q) / q, "A power of q"),
        (lambda f, s, q: rate(f, s, q) * q, "A power of q"),
        (lambda f, s, q: rate(f, s, q) / s**2, "The weights are missing"),
        (lambda f, s, q: (f(math.sqrt(q) * U) @ WEIGHT) ** 2 * s**2 * q / 2, "0 at every point"),
        (lambda f, s, q: -rate(f, s, q), "a is positive"),
        (lambda f, s, q: s**2 * q / 2 * (f(q * U) ** 2 @ WEIGHT), "standard deviation of z"),
        (lambda f, s, q: rate(f, s, q) * s**2, "expected"),
        (
            lambda f, s, q: (
                s**2 * q / 2 * (slope_moment(f, s, q * 1.001) - slope_moment(f, s, q * 0.999)) / (0.002 * q)
            ),
            "the straight line between",
        ),
    ],
}


def slope_moment(curvature, sigma_w, q):
    """Mean square of the slope, which is the curvature summed from the left, and 1 at 0."""
    z = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
    steep = torch.cumulative_trapezoid(curvature(z), z)
    steep = 1 + torch.cat([steep.new_zeros(1), steep]) - steep[7999]
    weight = torch.exp(-(z**2) / 2 / q)
    return (steep**2 @ weight / weight.sum()).item()
