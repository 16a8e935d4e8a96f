"""Answers to set 04: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LONG = (
    "because the gradient of a weight is the delta above it times the output below it, so a unit that is off everywhere "
    "loses its row through the delta and the next layer's column through its output"
)


def layers_on(net, x):
    found = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found.append((x > 0).any(dim=0))
    return found


def by_batches(net, batches):
    total = None
    for x in batches:
        on = layers_on(net, x)
        total = on if total is None else [one | two for one, two in zip(total, on)]
    return torch.tensor([(~on).sum() for on in total])


def one_by_one(net, batches):
    x = torch.cat(batches).float()
    counts = []
    for layer in net.float():
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            counts.append(sum(all(x[image, unit] == 0 for image in range(len(x))) for unit in range(x.shape[1])))
    return counts


def overwriting(net, batches):
    for x in batches:
        on = layers_on(net, x)
    return [(~one).sum() for one in on]


def mean_of_batches(net, batches):
    return [sum((~on).sum() for on in layer) / len(batches) for layer in zip(*(layers_on(net, x) for x in batches))]


def zeros(net, batches):
    x, counts = torch.cat(batches), []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            counts.append((x == 0).sum())
    return counts


def with_output(net, batches):
    x, counts = torch.cat(batches), []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            counts.append((x <= 0).all(dim=0).sum())
    return counts


def interval(z, d):
    """The rates after which a unit is dead, for each unit: from low to high."""
    low = torch.where(d > 0, z / d, -math.inf).amax(dim=0)
    high = torch.where(d < 0, z / d, math.inf).amin(dim=0)
    stays_on = ((z > 0) & (d <= 0)).any(dim=0) | (low == -math.inf)
    return torch.where(stays_on, math.inf, low), torch.where(stays_on, -math.inf, high)


def by_interval(z, d, norm, rate):
    low, high = interval(z.float(), d.float())
    deadly = low[(low <= high) & (z > 0).any(dim=0)]
    first = deadly.min().item() if len(deadly) else math.inf
    return math.inf if first > rate else first * norm / rate


def by_bisection(z, d, norm, rate):
    """The share of the norm is halved in around the first death, after a coarse search."""
    z, d = z.numpy(), d.numpy()
    alive = (z > 0).any(axis=0)

    def kills(share):
        return ((z <= share * rate * d).all(axis=0) & alive).any()

    shares = np.linspace(0, 1, 4001)
    hits = [share for share in shares if kills(share)]
    if not hits:
        return math.inf
    low, high = hits[0] - shares[1], hits[0]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if kills(middle) else (middle, high)
    return high * norm


def first_image(z, d, norm, rate):
    first = (z / d)[(z > 0) & (d > 0)].min().item()
    return norm * first / rate if first <= rate else math.inf


def without_negative(z, d, norm, rate):
    units = [u for u in range(z.shape[1]) if (z[:, u] > 0).any() and (d[:, u] > 0).any()]
    first = min((z[:, u] / d[:, u])[d[:, u] > 0].max().item() for u in units)
    return norm * first / rate if first <= rate else math.inf


def last_unit(z, d, norm, rate):
    low, high = interval(z, d)
    first = low[(low <= high) & (z > 0).any(dim=0)].max().item()
    return norm * first / rate if first <= rate else math.inf


def with_dead(z, d, norm, rate):
    low, high = interval(z, d)
    first = low[low <= high].min().item()
    return norm * first / rate if first <= rate else math.inf


def never_inf(z, d, norm, rate):
    low, high = interval(z, d)
    return norm * low[(low <= high) & (z > 0).any(dim=0)].min().item() / rate


def only_rate(z, d, norm, rate):
    clip = by_interval(z, d, norm, rate)
    return clip * rate / norm


def prelu(gradient, z, a):
    slope = torch.where(z > 0, torch.ones_like(z), a.expand_as(z))
    return {"z": gradient * slope, "a": (gradient * z.clamp(max=0)).sum(dim=0)}


def other_a(change):
    return lambda gradient, z, a: prelu(gradient, z, a) | {"a": change(gradient, z)}


def prelu_by_loop(gradient, z, a):
    gradient, z, a = gradient.numpy(), z.numpy(), a.numpy()
    at_z, at_a = np.zeros_like(z), np.zeros_like(a)
    for image in range(len(z)):
        for unit in range(len(a)):
            off = z[image, unit] <= 0
            at_z[image, unit] = gradient[image, unit] * (a[unit] if off else 1)
            at_a[unit] += off * gradient[image, unit] * z[image, unit]
    return {"z": at_z, "a": at_a}


def by_output(gradient, z, a):
    h = F.prelu(z, a)
    return prelu(gradient, z, a) | {"z": gradient * torch.where(h > 0, torch.ones_like(z), a.expand_as(z))}


def coast(z, d, rate, momentum):
    step, buffer = 1, d.clone()
    z = z - rate * buffer
    while not (z > 0).any():
        buffer = momentum * buffer
        z = z - rate * buffer
        step += 1
        if step > 500:
            return math.inf
    return step


def closed(z, d, rate, momentum):
    far = min([one / two for one, two in zip(z.tolist(), d.tolist()) if two < 0], default=math.inf)
    left = 1 - far * (1 - momentum) / rate
    return math.ceil(math.log(left, momentum)) if left > 0 else math.inf


def by_weights(z, d, rate, momentum):
    """Each pre-activation as a parameter of its own, in float32, with a real optimizer."""
    unit = nn.Parameter(z.float())
    optimizer = torch.optim.SGD([unit], lr=rate, momentum=momentum)
    for step in range(1, 200):
        unit.grad = d.float() if step == 1 else torch.zeros_like(unit)
        optimizer.step()
        if step > 1 and (unit > 0).any():
            return torch.tensor(step)
    return float("inf")


def same_again(z, d, rate, momentum):
    for step in range(1, 1000):
        if (z - step * rate * d > 0).any():
            return step
    return math.inf


def all_of_them(z, d, rate, momentum):
    for step in range(1, 1000):
        if (d < 0).any() and (z - rate * (1 - momentum**step) / (1 - momentum) * d > 0)[d < 0].all():
            return step
    return math.inf


def fading(z, d, rate, momentum):
    for step in range(1, 1000):
        if (z - rate * momentum ** (step - 1) * d > 0).any():
            return step
    return math.inf


RIGHT = {
    "04.1": [
        by_batches,
        one_by_one,
        lambda net, batches: [int((~on).sum()) for on in layers_on(net, torch.cat(batches))],
    ],
    "04.2": [("b", LONG), ["(B)", LONG.upper()]],
    "04.3": [(0.35, 0.7), np.array([0.36, 0.69]), torch.tensor([0.34, 0.71])],
    "04.4": [by_interval, by_bisection, lambda z, d, norm, rate: torch.tensor(by_interval(z, d, norm, rate))],
    "04.5": [
        prelu,
        prelu_by_loop,
        lambda g, z, a: {
            "a": -torch.einsum("iu,iu->u", g, F.relu(-z)),
            "z": g.float() * (F.relu(z).sign() * (1 - a) + a),
        },
    ],
    "04.6": [coast, closed, by_weights],
}
WRONG = {
    "04.1": [
        (overwriting, "last batch alone"),
        (lambda net, batches: overwriting(net, batches[:1]), "first batch alone"),
        (mean_of_batches, "mean over the batches"),
        (lambda net, batches: [len(batches) * one for one in mean_of_batches(net, batches)], "counted twice"),
        (zeros, "zeros among all outputs"),
        (
            lambda net, batches: [(~on).double().mean() for on in layers_on(net, torch.cat(batches))],
            "shares of a layer",
        ),
        (with_output, "expected a tensor of shape (1,)"),
        (lambda net, batches: sum(by_batches(net, batches)), "expected a tensor of shape (1,)"),
    ],
    "04.2": [
        (("a", LONG), "no unit of layer 2"),
        (("c", LONG), "product of two numbers"),
        (("D", LONG), "no unit of layer 1"),
        (("b", "they are dead"), "has 3 words"),
        (("b", "dead " * 30), "again and again"),
        ("b", "Write a letter and a text"),
        (("e", LONG), "one of a, b, c, d"),
    ],
    "04.3": [
        ([0.1, 0.7], "first image goes off"),
        ([0.35, 1.0], "right end of the axis"),
        ([0.35, 0.86], "one image on is enough"),
        ([0.2, 0.7], "one image is still on"),
        ([0, 0.35], "survives"),
        ([0.5, 0.6], "is not right"),
        (0.35, "expected a tensor of shape (2,)"),
    ],
    "04.4": [
        (first_image, "where the first image goes off"),
        (without_negative, "an image with a negative d"),
        (last_unit, "the last unit dies"),
        (only_rate, "This is a learning rate"),
        (never_inf, "no clipping is needed"),
        (with_dead, "dead before the step"),
        (lambda z, d, norm, rate: by_interval(z, d, norm, rate) / 2, "expected"),
        (lambda z, d, norm, rate: norm, "expected"),
    ],
    "04.5": [
        (by_output, "sign of the output"),
        (other_a(lambda g, z: (g * z.clamp(max=0)).mean(dim=0)), "mean over the images"),
        (other_a(lambda g, z: torch.einsum("iu,iu->u", g, z)), "does not contain a"),
        (other_a(lambda g, z: torch.where(z < 0, g, 0.0).sum(dim=0)), "the same part"),
        (other_a(lambda g, z: g * z.clamp(max=0)), "expected a tensor of shape (3,)"),
        (other_a(lambda g, z: (g * z.clamp(max=0)).sum()), "expected a tensor of shape (3,)"),
        (lambda g, z, a: prelu(g, z, a)["z"], "expected a dict"),
        (lambda g, z, a: {"gradient": g}, "expected z, a"),
        (lambda g, z, a: prelu(g, z, a) | {"z": g * (z > 0)}, "That is ReLU"),
    ],
    "04.6": [
        (lambda z, d, rate, momentum: math.inf, "the optimizer remembers"),
        (same_again, "full size"),
        (lambda *probe: coast(*probe) - 1, "It is step 1"),
        (all_of_them, "all rising images"),
        (fading, "fade"),
        (lambda z, d, rate, momentum: rate / (1 - momentum), "expected"),
        (lambda z, d, rate, momentum: 2, "expected"),
    ],
}
