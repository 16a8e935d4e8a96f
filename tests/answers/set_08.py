"""Answers to set 08: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LONG = (
    "because in evaluation mode mean and spread are fixed numbers, so twice the weights give about twice the output, the "
    "loss changes along the weights, and nothing forbids a gradient there"
)


def by_projection(delta, z, scale):
    """Remove two directions from the gradient of each image, in float32."""
    delta, z, scale = (one.float() for one in (delta, z, scale))
    centred = z - z.mean(1, keepdim=True)
    std = torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-5)
    y = centred / std
    at_y = delta * scale
    rows = [one - one.mean() - row * torch.dot(one, row) / len(row) for one, row in zip(at_y, y)]
    return {"z": torch.stack(rows) / std, "scale": torch.einsum("iu,iu->u", delta, y), "shift": delta.sum(0)}


def by_matrix(delta, z, scale):
    """The Jacobian of each image, in numpy."""
    delta, z, scale = (one.numpy() for one in (delta, z, scale))
    y = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)
    size = z.shape[1]
    found = []
    for row, values, gradient in zip(y, z, delta):
        jacobian = (np.eye(size) - 1 / size - np.outer(row, row) / size) / np.sqrt(values.var() + 1e-5)
        found.append(jacobian @ (scale * gradient))
    return {"shift": delta.sum(0), "scale": (delta * y).sum(0), "z": np.stack(found)}


def changed(key, change):
    """A right answer but for one of its parts."""

    def answer(delta, z, scale):
        right = by_projection(delta, z, scale)
        return {**right, key: change(delta.float(), z.float(), scale.float(), right)}

    return answer


def by_lesson(axis=-1, correction=0, eps=1e-5, mean=True, along=True):
    """The lines of the lesson; or other groups, another variance, or a removal that is missing."""

    def answer(delta, z, scale):
        std = (z.var(axis, correction=correction, keepdim=True) + eps).sqrt()
        y = (z - z.mean(axis, keepdim=True)) / std
        at_y = delta * scale
        along_one = mean * at_y.mean(axis, keepdim=True)
        along_y = along * y * (at_y * y).mean(axis, keepdim=True)
        return {"z": (at_y - along_one - along_y) / std, "scale": (delta * y).sum(0), "shift": delta.sum(0)}

    return answer


def closed(kept):
    square, mean = (1 + kept**2) / 2, (1 - kept) / math.sqrt(2 * math.pi)
    return {"batch": math.sqrt(square / (square - mean**2)), "layer": 1.0}


def by_sum(kept):
    z = torch.linspace(-9, 9, 9000)  # 0 is not among them
    share = torch.exp(-(z**2) / 2) / torch.exp(-(z**2) / 2).sum()
    h, slope = torch.where(z > 0, z, kept * z), torch.where(z > 0, 1.0, kept)
    size, mean = (share * h**2).sum(), (share * h).sum()
    return {
        "layer": ((share * slope**2).sum() / size).sqrt(),
        "batch": ((share * slope**2).sum() / (size - mean**2)).sqrt(),
    }


def norms(net):
    return [one for one in net.modules() if isinstance(one, nn.BatchNorm1d)]


def by_update_bn(net, batches, x):
    torch.optim.swa_utils.update_bn(batches, net)
    return net.eval()(x)


def by_momentum(net, batches, x):
    net.train()
    for count, batch in enumerate(batches, start=1):
        for norm in norms(net):
            norm.momentum = 1 / count
        net(batch)
    net.eval()
    return net(x).numpy()


def by_hook(net, batches, x):
    seen = {norm: [] for norm in norms(net)}
    for norm in seen:
        norm.register_forward_pre_hook(lambda layer, inputs: seen[layer].append(inputs[0]) if layer.training else None)
    net.train()
    for batch in batches:
        net(batch)
    for norm, rows in seen.items():
        norm.running_mean = sum(row.mean(0) for row in rows) / len(rows)
        norm.running_var = sum(row.var(0) for row in rows) / len(rows)
    net.eval()
    return net(x)


def pass_through(net, batches, x, reset=True, momentum=None, reached=None, last=False):
    for norm in reached(net) if reached else norms(net):
        if reset:
            norm.reset_running_stats()
        norm.momentum = momentum
    net.train()
    if reached:
        for norm in norms(net):
            norm.train(norm in reached(net))
    for batch in batches:
        net(batch)
    return net(x) if last else net.eval()(x)


def long_run(rate, decay, pull):
    """Random directions in 400 dimensions instead of a balance."""
    dice = np.random.default_rng(0)
    w = dice.normal(size=400)
    w /= np.linalg.norm(w)
    for _ in range(4000):
        push = dice.normal(size=400)
        push -= w * (push @ w) / (w @ w)
        gradient = push / np.linalg.norm(push) * pull / np.linalg.norm(w)
        after = (1 - rate * decay) * w - rate * gradient
        cosine = after @ w / np.linalg.norm(after) / np.linalg.norm(w)
        w = after
    return {"length": np.linalg.norm(w), "angle": math.acos(cosine)}


def exact(rate, decay, pull):
    keep = 1 - rate * decay
    return {"length": math.sqrt(rate * pull / math.sqrt(1 - keep**2)), "angle": math.acos(keep)}


def rough(rate, decay, pull):
    return {"length": (rate * pull**2 / (2 * decay)) ** 0.25, "angle": math.sqrt(2 * rate * decay)}


RIGHT = {
    "08.1": [by_projection, by_matrix, by_lesson()],
    "08.2": [closed, by_sum, lambda kept: {key: torch.tensor(value) for key, value in closed(kept).items()}],
    "08.3": [math.sqrt(1.25 / 27), 0.22, torch.tensor(0.21)],
    "08.4": [("b", LONG), ["(B)", LONG.upper()]],
    "08.5": [by_update_bn, by_momentum, by_hook],
    "08.6": [exact, rough, long_run],
}
WRONG = {
    "08.1": [
        (
            lambda delta, z, scale: {**by_matrix(delta, z, scale), "z": by_matrix(delta, z, 0 * scale + 1)["z"]},
            "does not know the scale",
        ),
        (
            lambda delta, z, scale: {
                **by_matrix(delta, z, scale),
                "z": scale * by_projection(delta, z, 0 * scale + 1)["z"],
            },
            "by the scale at the end",
        ),
        (by_lesson(mean=False, along=False), "for constants"),
        (by_lesson(along=False), "took s for a constant"),
        (by_lesson(mean=False), "took the mean for a constant"),
        (by_lesson(eps=0.0), "epsilon is missing"),
        (by_lesson(0), "This is BatchNorm"),
        (by_lesson(correction=1), "divides by n - 1"),
        (changed("scale", lambda delta, z, scale, right: delta.sum(0)), "does not know y"),
        (changed("scale", lambda delta, z, scale, right: (delta * z).sum(0)), "not z"),
        (
            lambda *given: {k: v if k == "z" else v / len(given[0]) for k, v in by_projection(*given).items()},
            "means over the images",
        ),
        (changed("z", lambda delta, z, scale, right: -right["z"]), "expected"),
        (lambda *given: by_projection(*given)["z"], "expected a dict"),
        (changed("scale", lambda delta, z, scale, right: (delta * z).sum(1)), "is a tensor of shape (4,)"),
    ],
    "08.2": [
        (lambda kept: {"batch": closed(kept)["layer"], "layer": closed(kept)["batch"]}, "exchanged"),
        (lambda kept: {key: value**2 for key, value in closed(kept).items()}, "squares"),
        (lambda kept: {"batch": 1.0, "layer": 1.0}, "does not subtract a mean"),
        (
            lambda kept: {"batch": ((1 + kept**2) / (1 + kept**2 - (1 + kept) ** 2 / math.pi)) ** 0.5, "layer": 1.0},
            "with its sign",
        ),
        (lambda kept: dict.fromkeys(("batch", "layer"), ((1 + kept**2) / 2) ** 0.5), "slopes alone"),
        (lambda kept: {"batch": math.sqrt(math.pi / (math.pi - 1)), "layer": 1.0}, "plain ReLU, whatever"),
        (lambda kept: {"batch": closed(kept)["batch"], "layer": 1.1}, "expected"),
        (lambda kept: closed(kept)["batch"], "expected a dict"),
    ],
    "08.3": [
        (math.sqrt(27 / 1.25), "post-LN over pre-LN"),
        (1.25 / 27, "compared variances"),
        (math.sqrt(1.25 / 14.5), "A block has two"),
        (1 / math.sqrt(27), "pre-LN alone"),
        (math.sqrt(1.25 / 6), "right edge"),
        (0.14, "is not right"),
        (1.0, "is not right"),
        ("0.17", "text"),
    ],
    "08.4": [
        (("a", LONG), "found by a push"),
        (("C", LONG), "each single batch"),
        (("d", LONG), "Multiply W by 2"),
        (("b", "it is constant"), "has 3 words"),
        (("b", "it is constant there"), "20 or more"),
        (("b", "constant " * 30), "again and again"),
        ("b", "Write a letter and a text"),
    ],
    "08.5": [
        (lambda net, batches, x: net.eval()(x), "old ones"),
        (lambda net, batches, x: pass_through(net, batches, x, last=True), "statistics of x itself"),
        (lambda net, batches, x: pass_through(net, batches, x, momentum=0.1), "begin at 0 and 1"),
        (lambda net, batches, x: pass_through(net, batches, x, reset=False, momentum=0.1), "still in there"),
        (lambda net, batches, x: pass_through(net, batches, x, reset=False), "counted in"),
        (lambda net, batches, x: pass_through(net, batches, x, momentum=1.0), "Only the last batch"),
        (
            lambda net, batches, x: pass_through(
                net, batches, x, reached=lambda net: [one for one in net if isinstance(one, nn.BatchNorm1d)]
            ),
            "inner Sequential",
        ),
        (lambda net, batches, x: pass_through(net, [torch.cat(batches)], x), "one batch of all"),
        (lambda net, batches, x: F.relu(by_update_bn(net, batches, x)), "expected"),
        (lambda net, batches, x: net.eval(), "expected numbers"),
    ],
    "08.6": [
        (lambda rate, decay, pull: {"length": math.sqrt(pull / decay), "angle": rate * decay}, "on one line"),
        (
            lambda rate, decay, pull: {
                "length": pull * math.sqrt(rate / (2 * decay)),
                "angle": math.sqrt(2 * rate * decay),
            },
            "division by s",
        ),
        (lambda *given: {**exact(*given), "length": exact(*given)["length"] ** 2}, "squared length)"),
        (lambda *given: {**exact(*given), "angle": math.degrees(exact(*given)["angle"])}, "in degrees"),
        (
            lambda *given: {**exact(*given), "angle": given[0] * given[2] / exact(*given)["length"]},
            "length of the step",
        ),
        (lambda *given: {**exact(*given), "angle": math.sqrt(given[0] * given[1])}, "expected"),
        (lambda *given: exact(*given)["angle"], "expected a dict"),
    ],
}
