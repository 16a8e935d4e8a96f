"""Answers to set 10: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch

LONG = (
    "because the weight gradient is a sum over fifty uses of the same matrix and the last uses fill it with about one, while "
    "the share of the first step has shrunk by eleven powers of ten, and clipping multiplies all shares by one number"
)


def clip_by_hand(gradients, threshold):
    norm = math.sqrt(sum((one**2).sum().item() for one in gradients))
    if not math.isfinite(norm):
        return [torch.zeros_like(one) for one in gradients]
    return [one * min(1.0, threshold / norm) for one in gradients]


def clip_flat(gradients, threshold):
    flat = torch.cat([one.float().flatten() for one in gradients])
    factor = (threshold / (flat.norm() + 1e-6)).clamp(max=1)
    flat = flat * factor if flat.isfinite().all() else torch.zeros_like(flat)
    return [part.view(one.shape) for part, one in zip(flat.split([one.numel() for one in gradients]), gradients)]


def clip_numpy(gradients, threshold):
    arrays = [one.numpy() for one in gradients]
    norm = np.linalg.norm([np.linalg.norm(one) for one in arrays])
    return [one * min(1, threshold / norm) if np.isfinite(norm) else 0 * np.nan_to_num(one) for one in arrays]


def only_clip(gradients, threshold):
    norm = torch.stack([one.norm() for one in gradients]).norm()
    return [one * (threshold / norm).clamp(max=1) for one in gradients]


def unless_bad(clip):
    """A wrong clipping that skips what it must."""

    def wrong(gradients, threshold):
        bad = not all(one.isfinite().all() for one in gradients)
        return [torch.zeros_like(one) if bad else clip(one, gradients, threshold) for one in gradients]

    return wrong


def norm_of(gradients):
    return torch.cat([one.flatten() for one in gradients]).norm()


def by_loop(back=lambda W: W.T, slope=lambda h: 1 - h**2, new=False, last_slope=True):
    """Back-propagation through time, with changes."""

    def uses(W, drives, start, gradient):
        states = [start]
        for drive in drives:
            states.append(torch.tanh(W @ states[-1] + drive))
        found = []
        for t in range(len(drives), 0, -1):
            at_z = gradient * slope(states[t])
            found.append(torch.outer(at_z if last_slope else gradient, states[t] if new else states[t - 1]))
            gradient = back(W) @ at_z
        return torch.stack(found[::-1])

    return uses


def by_numpy(W, drives, start, gradient):
    W, drives, h, d = (one.numpy() for one in (W, drives, start, gradient))
    states = [h]
    for drive in drives:
        states.append(np.tanh(W @ states[-1] + drive))
    found = np.zeros((len(drives), *W.shape))
    for t in reversed(range(len(drives))):
        at_z = d / np.cosh(np.arctanh(states[t + 1])) ** 2
        found[t] = at_z[:, None] * states[t][None]
        d = at_z @ W
    return found


def by_products(W, drives, start, gradient):
    """With the Jacobians written out."""
    states = [start]
    for drive in drives:
        states.append(torch.tanh(W @ states[-1] + drive))
    slopes = [torch.diag(1 - h**2) for h in states[1:]]
    found = []
    for t in range(len(drives)):
        product = slopes[t]
        for slope in slopes[t + 1 :]:
            product = slope @ W @ product
        found.append(torch.outer(product.T @ gradient, states[t]))
    return torch.stack(found).float()


def slopes_left_out(W, drives, start, gradient):
    states = [start]
    for drive in drives:
        states.append(torch.tanh(W @ states[-1] + drive))
    found = []
    for t in range(len(drives), 0, -1):
        found.append(torch.outer(gradient * (1 - states[t] ** 2), states[t - 1]))
        gradient = W.T @ gradient
    return torch.stack(found[::-1])


def not_carried(W, drives, start, gradient):
    h, found = start, []
    for drive in drives:
        old, h = h, torch.tanh(W @ h + drive)
        found.append(torch.outer(gradient * (1 - h**2), old))
    return torch.stack(found)


def gate(x):
    return 1 / (1 + math.exp(-x))


def logit(s):
    return math.log(s / (1 - s))


def stalled(size, beta2):
    return math.log((1 - beta2) * size**2 / 3) / (1 - beta2)


def followed(size, beta2):
    """Adam's averages, step by step."""
    m, s, lengths = 1.0, 1.0, []
    for g in [size] + 11_000 * [1.0]:
        m, s = 0.9 * m + 0.1 * g, beta2 * s + (1 - beta2) * g * g
        lengths.append(m / math.sqrt(s))
    return np.flatnonzero(np.array(lengths) < 0.5).max()


RIGHT = {
    "10.1": [clip_by_hand, clip_flat, clip_numpy],
    "10.2": [by_loop(), by_numpy, by_products],
    "10.3": [0.85, torch.tensor(0.8546), 0.87],
    "10.4": [("c", LONG), ["(C)", LONG.upper()]],
    "10.5": [
        lambda gain, i, o: logit(1 - gain * gate(i) * gate(o)),
        lambda gain, i, o: torch.log((1 + math.exp(-i)) * (1 + math.exp(-o)) / torch.tensor(gain) - 1),
        lambda gain, i, o: -np.log(1 / (1 - gain * gate(i) * gate(o)) - 1),
    ],
    "10.6": [stalled, lambda z, b: math.log((1 - b) * (z * z - 1) / 3) / -math.log(b), followed],
}
WRONG = {
    "10.1": [
        (only_clip, "still holds a NaN"),
        (unless_bad(lambda one, g, c: one * (c / one.norm()).clamp(max=1)), "clipped by its own norm"),
        (unless_bad(lambda one, g, c: one.clamp(-c, c)), "clipping by value"),
        (unless_bad(lambda one, g, c: one * c / norm_of(g)), "becomes longer"),
        (
            lambda g, c: [0 * one.nan_to_num() if norm_of(g).isnan() else two for one, two in zip(g, only_clip(g, c))],
            "an inf",
        ),
        (lambda g, c: only_clip([one.nan_to_num(0, 0, 0) for one in g], c), "bad entries to 0"),
        (unless_bad(lambda one, g, c: one), "nothing is clipped"),
        (lambda g, c: only_clip(g, c) if norm_of(g).isfinite() else [0 * one for one in g], "multiply by 0"),
        (unless_bad(lambda one, g, c: one * (c / norm_of(g) ** 2).clamp(max=1)), "expected"),
    ],
    "10.2": [
        (lambda *given: by_loop()(*given).flip(0), "wrong order"),
        (lambda *given: by_loop()(*given).mT, "transposed"),
        (by_loop(new=True), "state that the step made"),
        (by_loop(last_slope=False), "slope of tanh is missing"),
        (slopes_left_out, "has passed no tanh"),
        (not_carried, "passes all steps between"),
        (by_loop(back=lambda W: W), "wrong one of W"),
        (by_loop(slope=lambda h: torch.ones_like(h)), "expected"),
        (lambda *given: by_loop()(*given).sum(0), "is a tensor of shape (2, 2); expected a tensor of shape (3, 2, 2)"),
    ],
    "10.3": [
        (0.92, "over all 40 steps"),
        (7.73, "factor of the first step"),
        (1.17, "goes the other way"),
        (0.21, "in 10 steps"),
        (-0.068, "slope of the line"),
        (-0.157, "logarithm of a factor"),
        (0.5, "is not right"),
    ],
    "10.4": [
        (("a", LONG), "sum over 50 uses"),
        (("b", LONG), "at most 2.5 times as long"),
        (("d", LONG), "smaller alike"),
        (("e", LONG), "not an entry of its own"),
        (("c", "the last steps fill it"), "has 5 words"),
        ("c", "Write a letter and a text"),
    ],
    "10.5": [
        (lambda gain, i, o: logit(math.sqrt(1 - (gain * gate(i) * gate(o)) ** 2)), "added squares"),
        (lambda gain, i, o: logit(1 - gain / 4), "both other biases are 0"),
        (lambda gain, i, o: 1 - gain * gate(i) * gate(o), "value of the forget gate"),
        (lambda gain, i, o: logit(1 - gain * gate(i)), "the output gate is not"),
        (lambda gain, i, o: logit(1 - gain / math.sqrt(3) * gate(i) * gate(o)), "root of 3"),
        (lambda gain, i, o: 2.0, "expected"),
    ],
    "10.6": [
        (lambda size, beta2: 1 / (1 - beta2), "memory of s"),
        (lambda size, beta2: math.log((1 - beta2) * size**2) / (1 - beta2), "root of s"),
        (lambda size, beta2: math.log((1 - beta2) * size / 3) / (1 - beta2), "averages the squares"),
        (lambda size, beta2: math.log((1 - beta2) * size**2 / 4) / (1 - beta2), "fade to 0"),
        (lambda size, beta2: math.log(size**2 / 3) / (1 - beta2), "all of its square"),
        (lambda size, beta2: math.log(0.1 * size / 0.5) / -math.log(0.9), "You followed m"),
        (lambda size, beta2: 0, "expected"),
        (lambda size, beta2: 1000, "expected"),
    ],
}
