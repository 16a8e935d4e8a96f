"""Answers to set 11: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
from torch import nn

LONG = (
    "because every wrong class loses the same small number, which the softmax does not see, and the zeros of a row carry half a percent "
    "of the norm of its gradient, so nothing that matters is gone"
)


def by_loop(net, x, bad=lambda t: not torch.isfinite(t).all()):
    if bad(x):
        return "input"
    with torch.no_grad():
        for k in range(len(net)):
            for p in net[k].parameters():
                if bad(p):
                    return "weights " + str(k)
            if bad(net[: k + 1](x)):
                return "output " + str(k)
    return "none"


def by_names(net, x):
    found = ["input"] if x.sum().isnan() else []
    state = dict(net.named_parameters())

    def look(place):
        def hook(module, given, made):
            weights = [one for name, one in state.items() if name.startswith(f"{place}.")]
            if any(not np.isfinite(one.detach().numpy()).all() for one in weights):
                found.append(f"weights {place}")
            if not np.isfinite(made.detach().numpy()).all():
                found.append(f"output {place}")

        return hook

    handles = [module.register_forward_hook(look(place)) for place, module in net.named_children()]
    net(x)
    for handle in handles:
        handle.remove()
    return (found + ["none"])[0]


def only_outputs(net, x):
    if not x.isfinite().all():
        return "input"
    for k, module in enumerate(net):
        x = module(x)
        if not x.isfinite().all():
            return f"output {k}"
    return "none"


def linear_weights(net, x):
    if not x.isfinite().all():
        return "input"
    for k, module in enumerate(net):
        if isinstance(module, nn.Linear) and not module.weight.isfinite().all():
            return f"weights {k}"
        x = module(x)
        if not x.isfinite().all():
            return f"output {k}"
    return "none"


def at_the_end(net, x):
    return by_loop(net, x) if not net(x).isfinite().all() else "none"


def weights_before(net, x):
    for k, module in enumerate(net):
        if any(not one.isfinite().all() for one in module.parameters()):
            return f"weights {k}"
    return by_loop(net, x)


def the_last(net, x):
    found = "none" if x.isfinite().all() else "input"
    for k, module in enumerate(net):
        x = module(x)
        if not x.isfinite().all():
            found = f"output {k}"
    return found


def sign(flow, which=None, reduce=lambda u: np.nanmedian(u, axis=1), before=lambda step, death: step < death):
    which = flow.weights if which is None else which
    update = flow["update_ratio"].numpy()[:, [flow.parameters.index(name) for name in which]]
    dead = np.flatnonzero((flow["dead"].numpy() > 0.4).any(1))
    large = np.flatnonzero(reduce(update) > 0.1)
    if not len(dead):
        return "none"
    if dead[0] == 0:
        return "start"
    return f"step {large[0]}" if len(large) and before(large[0], dead[0]) else "other"


def sign_by_loop(flow):
    matrices = [flow.parameters.index(name) for name in flow.weights]
    deaths = [step for step in range(len(flow)) if (flow["dead"][step] > 0.4).any()]
    if deaths and deaths[0] > 0:
        for step in range(deaths[0]):
            if flow["update_ratio"][step][matrices].median() > 0.1:
                return f"step {step}"
        return "other"
    return "start" if deaths else "none"


def sign_never_none(flow):
    if sign(flow) == "none":
        return "step %s" % np.flatnonzero(flow["update_ratio"].nanmedian(1).values.numpy() > 0.1)[0]  # noqa: UP031
    return sign(flow)


def size_of_last(classes, width, gain):
    return math.sqrt((classes - 1) / classes) * gain / math.sqrt(width)


def depth(classes, width, gain, passed):
    room = 16 + 25 - math.log2(80) + math.log2(size_of_last(classes, width, gain))
    return 1 + math.floor(room / -math.log2(passed))


def depth_by_loop(classes, width, gain, passed):
    error = ((1 - 1 / classes) ** 2 + (classes - 1) / classes**2) / classes
    size, layers = 65520 * math.sqrt(error) * gain * math.sqrt(classes / width), 0
    while 0.8 * 2.0**-25 / size < 0.01:
        size, layers = size * passed, layers + 1
    return layers


def depth_numpy(classes, width, gain, passed):
    layers = np.arange(1, 1000)
    sizes = 65504 * size_of_last(classes, width, gain) * float(passed) ** (layers - 1)
    return np.count_nonzero(sizes > 80 * 2.0**-25)


def depth_with(room_of, power=1):
    return lambda c, n, g, a: 1 + math.floor(math.log2(room_of(c, n, g)) / -math.log2(a) / power)


ROOM = 65520 / (80 * 2.0**-25)


def exponents(gradient, slopes, matrices):
    k = 0
    for slope, matrix in zip(reversed(slopes), reversed(matrices)):
        gradient = (gradient * slope) @ matrix
        j = math.floor(math.log2(gradient.abs().max().item()))
        gradient, k = gradient * 2.0**-j, k + j
    return gradient, k


def with_frexp(gradient, slopes, matrices):
    k = 0
    for place in range(len(slopes) - 1, -1, -1):
        j = int(torch.frexp(gradient.float().abs().max())[1])
        gradient = torch.ldexp(gradient.float(), torch.tensor(-j)).half()
        gradient = torch.einsum("iu,iu,uk->ik", gradient, slopes[place], matrices[place])
        k += j
    return [gradient, torch.tensor(k)]


def in_float64(gradient, slopes, matrices):
    g = gradient.numpy().astype(np.float64)
    for slope, matrix in zip(slopes[::-1], matrices[::-1]):
        g = (g * slope.numpy().astype(np.float64)) @ matrix.numpy().astype(np.float64)
    k = int(np.ceil(np.log2(np.linalg.norm(g))))
    return (g / 2.0**k).astype(np.float16), k


def one_scale(j):
    def backward(gradient, slopes, matrices):
        gradient = gradient * 2.0**j
        for slope, matrix in zip(slopes[::-1], matrices[::-1]):
            gradient = (gradient * slope) @ matrix
        return gradient, -j

    return backward


def changed(change):
    def backward(gradient, slopes, matrices):
        return exponents(gradient, *change(slopes, matrices))

    return backward


def matrix_first(gradient, slopes, matrices):
    k = 0
    for slope, matrix in zip(reversed(slopes), reversed(matrices)):
        gradient = (gradient @ matrix) * slope
        j = round(math.log2(gradient.abs().max().item()))
        gradient, k = gradient * 2.0**-j, k + j
    return gradient, k


def exact(gradient, slopes, matrices):
    g = gradient.double()
    for slope, matrix in zip(slopes[::-1], matrices[::-1]):
        g = (g * slope.double()) @ matrix.double()
    return g, 0


def uncounted(gradient, slopes, matrices):
    made, k = exponents(gradient, slopes, matrices)
    return made, k - 3


def settled(beta, square, start, bits):
    rate, up = 1 - beta, start < square
    v = max(start, rate * square) if up else start
    while True:
        e = math.floor(math.log2(v)) if up else math.ceil(math.log2(v)) - 1
        reach = 2.0 ** (e - bits) / rate
        stop = max(v, square - reach) if up else min(v, square + reach)
        edge = 2.0 ** (e + 1) if up else 2.0**e
        if (stop < edge) if up else (stop > edge):
            return stop
        v = edge


def settled_by_steps(beta, square, start, bits):
    kind = {8: torch.bfloat16, 11: torch.float16}[bits]
    v = torch.tensor(start, dtype=kind)
    for _ in range(20_000):
        after = (beta * v.double() + (1 - beta) * square).to(kind)
        if after == v:
            break
        v = after
    return v


def settled_numpy(beta, square, start, bits):
    """Rounding by hand, to `bits` digits."""
    v = np.float64(start)
    for _ in range(20_000):
        mantissa, exponent = np.frexp(beta * v + (1 - beta) * square)
        after = np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)
        if after == v:
            return v
        v = after
    return v


def share_of_v(beta, square, start, bits):
    """Neighbours at a distance proportional to v."""
    rate, part = 1 - beta, 2.0**-bits
    if start < square:
        return rate * square / (rate + part)
    return start if rate <= part else min(start, rate * square / (rate - part))


def never(beta, square, start, bits):
    return start


RIGHT = {
    "11.1": [by_loop, by_names, lambda net, x: by_loop(net.eval(), x.clone())],
    "11.2": [sign, sign_by_loop, lambda flow: sign(flow, reduce=lambda u: np.median(u, axis=1))],
    "11.3": [depth, depth_by_loop, depth_numpy],
    "11.4": [17, torch.tensor(16.8), 18.0],
    "11.5": [("c", LONG), ["(C)", LONG.upper()]],
    "11.6": [exponents, with_frexp, in_float64],
    "11.7": [settled, settled_by_steps, settled_numpy],
}
WRONG = {
    "11.1": [
        (lambda net, x: by_loop(net, x, lambda t: t.isnan().any()), "You look for NaN only"),
        (at_the_end, "only if the end"),
        (weights_before, "weights of all layers first"),
        (only_outputs, "what its weights brought in"),
        (the_last, "last place"),
        (lambda net, x: by_loop(net.double(), x.double()), "computed in float64"),
        (linear_weights, "its bias too"),
        (lambda net, x: by_loop(net, x).split()[0], "expected"),
    ],
    "11.2": [
        (lambda flow: "start" if (flow["dead"][-1] > 0.4).any() else "none", "at the last step"),
        (sign_never_none, "no layer of it is dead"),
        (lambda flow: sign(flow, flow.parameters), "Biases are among"),
        (lambda flow: sign(flow, reduce=lambda u: u.max(axis=1)), "largest of the matrices"),
        (lambda flow: sign(flow, before=lambda step, death: step <= death), "A cause comes before"),
        (lambda flow: sign(flow, before=lambda step, death: True), "before its update"),
        (lambda flow: "start", "expected"),
    ],
    "11.3": [
        (depth_with(lambda c, n, g: ROOM * 0.3 * g * math.sqrt(c / n)), "size of 10 classes"),
        (depth_with(lambda c, n, g: ROOM * math.sqrt(c - 1) / c), "last weights are missing"),
        (depth_with(lambda c, n, g: 80 * ROOM * size_of_last(c, n, g)), "typical gradient"),
        (depth_with(lambda c, n, g: ROOM / 128 * size_of_last(c, n, g)), "number of images"),
        (depth_with(lambda c, n, g: ROOM * size_of_last(c, n, g), 2), "twice in each layer"),
        (depth_with(lambda c, n, g: ROOM / 65520 * size_of_last(c, n, g)), "without a loss scale"),
        (lambda c, n, g, a: depth(c, n, g, a) + 5, "expected"),
        (lambda c, n, g, a: 40, "expected"),
    ],
    "11.4": [
        (7, "factor of 100"),
        (6.6, "factor of 100"),
        (5, "powers of ten"),
        (23, "ceiling"),
        (27, "number of layers"),
        (2**17, "is not right"),
        (12, "is not right"),
    ],
    "11.5": [
        (("a", LONG), "counts entries"),
        (("B", LONG), "add up to 1"),
        (("d", LONG), "random signs"),
        (("c", "they are all the same"), "25 or more"),
        ("c", "Write a letter and a text"),
    ],
    "11.6": [
        (one_scale(0), "has left float16"),
        (one_scale(14), "has left float16"),
        (lambda g, s, m: (exponents(g, s, m)[0], -exponents(g, s, m)[1]), "wrong sign"),
        (changed(lambda s, m: ([one * 0 + 1 for one in s], m)), "slopes are missing"),
        (changed(lambda s, m: (s, [one.T for one in m])), "transposed"),
        (changed(lambda s, m: (s[::-1], m[::-1])), "from the first to the last"),
        (changed(lambda s, m: (s[1:], m[1:])), "left out"),
        (matrix_first, "before the slopes"),
        (uncounted, "must be counted"),
        (exact, "does not fit into float16"),
        (lambda g, s, m: exponents(g, s, m)[0], "returns two things"),
        (lambda g, s, m: (exponents(g, s, m)[0], 0.5), "no whole number"),
    ],
    "11.7": [
        (lambda beta, square, start, bits: square, "without rounding"),
        (never, "not true that no step"),
        (lambda beta, square, start, bits: settled(beta, square, start, bits - 1), "goes to the nearest"),
        (lambda beta, square, start, bits: settled(beta, square, start, bits) / 2, "expected"),
        (share_of_v, "fixed share of v"),
        (lambda beta, square, start, bits: settled(beta, square, 0.0, bits), "on its way up"),
        (lambda beta, square, start, bits: settled(beta, square, start, 8), "in all calls"),
    ],
}
