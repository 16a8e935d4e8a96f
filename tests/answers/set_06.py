"""Answers to set 06: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
from torch import nn

import gradflow_utils as gf

LONG = (
    "the output is bounded, so the mean square settles below half the squared gain, but the slope of sine does not "
    "vanish for large pre-activations: the squared factor of the gradient is the squared gain minus q, so above one"
)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
u = torch.linspace(-10, 10, 4000, dtype=torch.float64)
weight = torch.exp(-(u**2) / 2) / torch.exp(-(u**2) / 2).sum()


def sine_by_nodes(gain, q):
    z = np.sqrt(q) * NODES
    return gain**2 * (np.sin(z) ** 2 @ WEIGHTS), gain**2 * (np.cos(z) ** 2 @ WEIGHTS)


def sine_by_sum(gain, q):
    following = gain**2 * math.exp(-q) * math.sinh(q)
    return torch.tensor([following, gain**2 - following])


def linears(net):
    return [one for one in net if isinstance(one, nn.Linear)]


def in_order(size, last=True):
    """Calibrate by one walk through the network, each layer by `size` of its pre-activation."""

    def calibrated(net, x):
        chain, layers = list(net), linears(net)
        with torch.no_grad():
            for layer in layers if last else layers[:-1]:
                z = nn.Sequential(*chain[: chain.index(layer) + 1])(x)
                layer.weight /= size(z)
        return [layer.weight for layer in layers]

    return calibrated


def rms(z):
    return z.square().mean().sqrt()


def by_hooks(net, x):
    def divide(layer, inputs, z):
        size = z.square().mean().sqrt()
        layer.weight.data /= size
        return z / size

    hooks = [layer.register_forward_hook(divide) for layer in linears(net)]
    net(x)
    for hook in hooks:
        hook.remove()
    return [layer.weight.detach().numpy() for layer in linears(net)]


def by_matrices(net, x):
    h, found = x.numpy(), []
    for layer in linears(net):
        W = layer.weight.detach().numpy()
        W = W * np.sqrt((h @ W.T).size / ((h @ W.T) ** 2).sum())
        found.append(W)
        h = net[1](torch.tensor(h @ W.T)).numpy()
    return found


def at_once(net, x):
    sizes, h = [], x
    with torch.no_grad():
        for module in net:
            h = module(h)
            if isinstance(module, nn.Linear):
                sizes.append(rms(h))
        for layer, size in zip(linears(net), sizes):
            layer.weight /= size
    return [layer.weight for layer in linears(net)]


def by_outputs(net, x):
    return in_order(lambda z: rms(net[1](z)))(net, x)


def he_weights(net, x):
    return [torch.randn_like(one.weight) * (2 / one.in_features) ** 0.5 for one in linears(net)]


def unit_by_unit(net, x):
    return in_order(lambda z: z.square().mean(0).sqrt()[:, None])(net, x)


def leaky(slope, widths, of=lambda a: 6 * (1 + a**4) / (1 + a**2) ** 2 - 1):
    return of(slope) * sum(1 / n for n in widths)


def leaky_by_nodes(slope, widths):
    squares = torch.where(u > 0, u, slope * u) ** 2
    mean = squares @ weight
    return sum(((squares / mean - 1) ** 2 @ weight) / n for n in widths)


def gated(name, gain, q, way_a=1.0, way_b=1.0):
    entry, z = gf.activation(name), math.sqrt(q) * u
    size, steep = entry.function(z) ** 2 @ weight, entry.slope(z) ** 2 @ weight
    return gain**2 * q * size, gain**2 * (way_a * q * steep + way_b * size)


def gated_drawn(name, gain, q):
    """With quantiles of the normal distribution instead of a grid."""
    shares = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    z = math.sqrt(2 * q) * torch.erfinv(2 * shares - 1)
    entry = gf.activation(name)
    size = entry.function(z).square().mean()
    return np.array([gain * gain * size * q, gain * gain * (entry.slope(z).square().mean() * q + size)])


RIGHT = {
    "06.1": [
        lambda gain, q: (gain**2 * (1 - math.exp(-2 * q)) / 2, gain**2 * (1 + math.exp(-2 * q)) / 2),
        sine_by_nodes,
        sine_by_sum,
    ],
    "06.2": [("c", LONG), ["(C) ", LONG.upper()]],
    "06.3": [(6, 0.58), [6, 3**-0.5], torch.tensor([6, 0.6])],
    "06.4": [in_order(rms), by_hooks, by_matrices],
    "06.5": [leaky, leaky_by_nodes, lambda a, widths: np.float32(leaky(a, widths))],
    "06.6": [gated, gated_drawn, lambda *case: torch.tensor(gated(*case), dtype=torch.float32)],
}
WRONG = {
    "06.1": [
        (lambda gain, q: sine_by_nodes(1, q), "gain is missing"),
        (lambda gain, q: sine_by_nodes(gain**0.5, q), "What does a factor do to a mean square"),
        (lambda gain, q: (sine_by_nodes(gain, q)[0], gain**2 * math.exp(-q)), "squared the mean of the slope"),
        (lambda gain, q: sine_by_nodes(gain, q**2), "standard deviation of z"),
        (lambda gain, q: (sine_by_nodes(gain, q)[0] / q, sine_by_nodes(gain, q)[1]), "factor by which q changes"),
        (lambda gain, q: (gain**2 * q, gain**2), "straight line"),
        (lambda gain, q: np.sqrt(sine_by_nodes(gain, q)), "root mean squares"),
        (lambda gain, q: sine_by_nodes(gain, q)[::-1], "swapped"),
        (lambda gain, q: sine_by_nodes(2 * gain, q), "expected"),
        (lambda gain, q: sine_by_nodes(gain, q)[0], "is a number"),
    ],
    "06.2": [
        (("a", LONG), "fold"),
        (("b", LONG), "weights of a gain above 1"),
        (("D", LONG), "two averages"),
        (("c", "the gradient grows"), "has 3 words"),
        ("c", "Write a letter and a text"),
    ],
    "06.3": [
        ((6, 3.46), "took the peak for larger weights"),
        ((6, 0.41), "ratio to the other layers"),
        ((6, 2.45), "height of the peak"),
        ((7, 0.58), "undiminished"),
        ((5, 0.58), "the axis begin"),
        ((4, 0.58), "The list begins with matrix 2"),
        ((6, 1.41), "is not right"),
        (6, "is a number"),
    ],
    "06.4": [
        (at_once, "Layer 1 is right, the others are not"),
        (in_order(torch.std), "a standard deviation"),
        (in_order(lambda z: z.numpy().std()), "a standard deviation"),
        (in_order(lambda z: rms(z) ** 2), "a mean square"),
        (by_outputs, "output of the activation"),
        (in_order(rms, last=False), "last linear layer"),
        (unit_by_unit, "factor of its own"),
        (he_weights, "not the old ones times one positive number"),
        (lambda net, x: [one.weight for one in linears(net)], "what they were"),
        (lambda net, x: [one.weight.shape[0] for one in linears(net)], "Return the list of the weight matrices"),
        (lambda net, x: in_order(lambda z: 2 * rms(z))(net, x), "expected 1"),
        (lambda net, x: linears(net)[0].weight.div_(2), "RuntimeError"),
    ],
    "06.5": [
        (lambda a, widths: leaky(0, widths), "ReLU's number for every slope"),
        (lambda a, widths: leaky(a, [sum(widths) / len(widths)] * len(widths)), "mean width"),
        (lambda a, widths: leaky(a, [min(widths)]), "narrowest layer alone"),
        (lambda a, widths: leaky(a, widths, lambda a: 6 * (1 + a**4) / (1 + a**2) ** 2), "for its variance"),
        (lambda a, widths: leaky(a, widths, lambda a: 6 * (1 + a**4) - (1 + a**2) ** 2), "ReLU's mean square 1/2"),
        (lambda a, widths: leaky(a, widths) ** 0.5, "standard deviation"),
        (lambda a, widths: -leaky(a, widths) / 2, "expected"),
    ],
    "06.6": [
        (lambda *case: gated(*case, way_b=0), "through the gate"),
        (lambda *case: gated(*case, way_a=0), "through b"),
        (lambda name, gain, q: gated(name, 1, q), "gain is missing"),
        (lambda *case: np.sqrt(gated(*case)), "root mean squares"),
        (lambda name, gain, q: gated(name, gain, q, way_a=1 / q), "multiplied by b as well"),
        (
            lambda name, gain, q: (gated(name, gain, q)[0] / q, gated(name, gain, q, way_a=1 / q, way_b=0)[1]),
            "without a second factor",
        ),
        (lambda *case: gated(*case, way_b=2), "expected"),
    ],
}
