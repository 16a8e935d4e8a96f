"""Exercise set 11: the clinic. Expected values come from walking a network layer by layer, from networks that are run in
float16, and from trying all numbers of a number format."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_utils.flow import FlowRecord
from gradflow_utils.networks import mlp
from gradflow_utils.questions.form import Mistake, Question, Wrong, choice
from gradflow_utils.recording import record

_ZERO = 2.0**-25  # float16 rounds this, and all below, to 0
_LARGEST = 65520.0  # float16 rounds this, and all above, to inf


def _uniform(dice: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), dtype=torch.float64, generator=dice).item()


# 11.1


def _relu_network(dice: torch.Generator, layers: int = 4, width: int = 5) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers):
        linear = nn.Linear(width, width)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(width, width, generator=dice) / math.sqrt(width))
            linear.bias.zero_()
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def _sick_networks(dice: torch.Generator) -> list[tuple]:
    x = [torch.randn(6, 5, generator=dice) for _ in range(5)]
    nets = [_relu_network(dice) for _ in range(5)]
    x[1][3, 2] = math.nan  # in the images, and then in everything
    with torch.no_grad():
        nets[2][2].bias[1] = math.nan
        nets[3][0].weight.mul_(1e25)  # too large for float32 behind the second matrix, and NaN behind the third
        nets[3][2].weight.mul_(1e25)
        nets[3][6].weight[0, 0] = math.nan
        nets[4][0].weight.abs_()
        nets[4][2].weight.copy_(-1e38 * (1 + nets[4][2].weight.abs()))  # -inf, which ReLU turns into 0
    x[4] = 1 + x[4].abs()
    return list(zip(nets, x))


def _walk(net: nn.Sequential, x: Tensor, bad: Callable[[Tensor], Tensor] | None = None, weights: bool = True) -> str:
    bad = bad or (lambda values: ~values.isfinite())
    if bad(x).any():
        return "input"
    for place, module in enumerate(net):
        if weights and any(bad(parameter).any() for parameter in module.parameters()):
            return f"weights {place}"
        x = module(x)
        if bad(x).any():
            return f"output {place}"
    return "none"


def _weights_first(net: nn.Sequential, x: Tensor) -> str:
    for place, module in enumerate(net):
        if not all(parameter.isfinite().all() for parameter in module.parameters()):
            return f"weights {place}"
    return _walk(net, x)


def _if_seen_at_the_end(net: nn.Sequential, x: Tensor) -> str:
    return "none" if net(x).isfinite().all() else _walk(net, x)


def _last(net: nn.Sequential, x: Tensor) -> str:
    found = "none" if x.isfinite().all() else "input"
    for place, module in enumerate(net):
        x = module(x)
        found = found if x.isfinite().all() else f"output {place}"
    return found


# 11.2


def _recorded(
    dice: torch.Generator, rates: list[float], biases: float = 0.0, first: int = -1, thrown: int = -1
) -> FlowRecord:
    """Training of a ReLU network with a rate for each step.

    biases: of all hidden layers at the start. first: step at which the first matrix takes a longer step. thrown: step at which the biases do.
    """
    x, y = torch.randn(60, 8, generator=dice), torch.randint(4, (60,), generator=dice)
    net = mlp([8, *[16] * 4, 4], "relu", "he", seed=torch.randint(1000, (), generator=dice).item())
    with torch.no_grad():
        for linear in net[:-1:2]:
            linear.bias.fill_(biases)
    groups = [[net[0].weight], [one.bias for one in net[::2]], [one.weight for one in net[2::2]]]
    optimizer = torch.optim.SGD([{"params": one} for one in groups], lr=0.01)
    with record(net, optimizer) as flow:
        for step, rate in enumerate(rates):
            optimizer.param_groups[0]["lr"] = 400 * rate if step == first else rate
            optimizer.param_groups[1]["lr"] = 5000 * rate if step == thrown else rate
            optimizer.param_groups[2]["lr"] = rate
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return flow


def _recordings(dice: torch.Generator) -> list[tuple]:
    low = [0.01] * 8
    return [
        (_recorded(dice, low, biases=-20.0),),
        (_recorded(dice, [*low[:4], 100.0, *low[:3]], biases=0.5, first=1),),
        (_recorded(dice, [*low[:3], 2.0, *low[:4]], first=2, thrown=2),),
        (_recorded(dice, [0.4] * 2 + low[:5] + [30.0]),),
    ]


def _first_sign(
    flow: FlowRecord, of: Callable[[Tensor], float] = torch.median, every: bool = False, ordered: bool = True
) -> str:
    """Step by step, as it happened."""
    matrices = [place for place, name in enumerate(flow.parameters) if every or name in flow.weights]
    large = ""
    for step, (dead, update) in enumerate(zip(flow["dead"], flow["update_ratio"])):
        known = update[matrices][~update[matrices].isnan()]
        if any(one > 0.4 for one in dead.tolist()):
            return "start" if not step else large or "other"
        if not large and of(known) > 0.1:
            large = f"step {step}"
    return "none" if ordered else large or "none"


def _middle(values: Tensor) -> float:
    """Median as in numpy: of an even number of values, the mean of the middle two."""
    return ((values.median() - (-values).median()) / 2).item()


def _any_time(flow: FlowRecord) -> str:
    found = _first_sign(flow)
    matrices = [place for place, name in enumerate(flow.parameters) if name in flow.weights]
    large = (flow["update_ratio"][:, matrices].median(1).values > 0.1).tolist()
    return f"step {large.index(True)}" if found == "other" and True in large else found


def _dead_at_the_end(flow: FlowRecord) -> str:
    return "start" if (flow["dead"][-1] > 0.4).any() else "none"


# 11.3


def _deep_cases(dice: torch.Generator) -> list[tuple]:
    return [
        (10, 128, 0.58, 0.58),
        (1000, 64, 1.0, 0.8),
        (4, 256, 2.0, 0.9),
        (100, 100, _uniform(dice, 0.5, 1.5), _uniform(dice, 0.7, 0.85)),
    ]


def _largest(
    classes: int,
    width: int,
    gain: float,
    passed: float,
    allowed: float = 0.01,
    errors: int | None = None,
    last: bool = True,
    rows: int = 1,
) -> int:
    """Layers added one by one, until at the ceiling the share of zeros at layer 1 is too large."""
    dice = torch.Generator().manual_seed(0)
    seen = errors or classes
    error = torch.full((300, seen), 1 / seen, dtype=torch.float64)
    error[torch.arange(300), torch.randint(seen, (300,), generator=dice)] -= 1
    if errors:  # the size of these errors, in as many scores as there are
        error = error.square().mean().sqrt() * torch.randn(300, classes, generator=dice, dtype=torch.float64)
    if last:
        error = error @ torch.randn(classes, width, generator=dice, dtype=torch.float64) * gain / math.sqrt(width)
    size, layers = _LARGEST / rows * error.square().mean().sqrt().item(), 0
    while math.erf(_ZERO / (math.sqrt(2) * size)) < allowed and layers < 10_000:
        size, layers = size * passed, layers + 1
    return layers


# 11.4


def _shares_of_zeros(seed: int, k: int, layers: int = 40, gain: float = 0.65, n: int = 128) -> float:
    """Share of zeros at layer 1 of a tanh network whose backward pass runs in float16."""
    dice = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 64, generator=dice), torch.randint(10, (n,), generator=dice)
    matrices = [gain * torch.randn(n, n if layer else 64, generator=dice) for layer in range(layers)]
    matrices = [(matrix / math.sqrt(matrix.shape[1])).half() for matrix in matrices]
    last = (gain * torch.randn(10, n, generator=dice) / math.sqrt(n)).half()
    h, outputs = x.half(), []
    for matrix in matrices:
        h = torch.tanh(h @ matrix.T)
        outputs.append(h)
    scores = (h @ last.T).double().requires_grad_()
    loss = F.cross_entropy(scores, y) * 2.0**k
    gradient = torch.autograd.grad(loss, scores)[0].half() @ last
    for matrix, output in zip(matrices[:0:-1], outputs[:0:-1]):
        gradient = (gradient * (1 - output * output)) @ matrix
    return (gradient == 0).double().mean().item()


def _smallest_exponent() -> float:
    found = [next(k for k in range(10, 24) if _shares_of_zeros(seed, k) < 0.01) for seed in range(3)]
    return float(sorted(found)[1])


# 11.6


def _chains(dice: torch.Generator) -> list[tuple]:
    """A backward pass that shrinks below all numbers of float16, one that grows beyond them, and one that does both."""
    cases = []
    for factors in ([0.35] * 60, [3.0] * 60, [4.0] * 25 + [0.3] * 45):
        n, rows = 16, 4
        slopes = [0.4 + 0.6 * torch.rand(rows, n, generator=dice) for _ in factors]
        matrices = [one * torch.randn(n, n, generator=dice) / math.sqrt(n) / 0.7 for one in factors]
        gradient = torch.randn(rows, n, generator=dice)
        cases.append((gradient.half(), [one.half() for one in slopes], [one.half() for one in matrices]))
    return cases


def _through(gradient: Tensor, slopes: list[Tensor], matrices: list[Tensor], slopes_first: bool = False) -> Tensor:
    """By autograd, in float64."""
    start = h = torch.zeros_like(gradient, dtype=torch.float64).requires_grad_()
    for slope, matrix in zip(slopes, matrices):
        h = (h * slope.double()) @ matrix.double().T if slopes_first else (h @ matrix.double().T) * slope.double()
    return torch.autograd.grad(h, start, gradient.double())[0]


def _close(one: Tensor, two: Tensor) -> bool:
    return bool((one - two).norm() <= 0.05 * two.norm())


_WAYS = (
    (
        lambda g, s, m: _through(g, [one * 0 + 1 for one in s], m),
        "The slopes are missing: each layer has one, on the way back too.",
    ),
    (
        lambda g, s, m: _through(g, s, [one.T for one in m]),
        "You multiplied by the transposed matrices. Forward was h @ matrix.T; the way back has the matrix itself.",
    ),
    (
        lambda g, s, m: _through(g, s[::-1], m[::-1]),
        "You went through the layers from the first to the last. Backward, the last one comes first.",
    ),
    (
        lambda g, s, m: _through(g, s, m, slopes_first=True),
        "The gradient meets the matrix before the slopes. Backward it passes the activation first, and then the weights.",
    ),
    (
        lambda g, s, m: _through(g, s[1:], m[1:]),
        "One layer is left out: the first one passes the gradient on to its input as well.",
    ),
)


def _judge_backward(values: list, probes: list[tuple]) -> None:
    name = "backward_with_exponent"
    parts = []
    for value in values:
        if isinstance(value, Tensor) or not (isinstance(value, list) and len(value) == 2):
            raise Wrong(f"{name} returns two things: a tensor and a whole number k.")
        tensor, k = value
        if not isinstance(tensor, Tensor) or tensor.shape != (4, 16) or not isinstance(k, Tensor) or k.dim():
            raise Wrong(f"{name} returns a tensor of the shape of `gradient`, here (4, 16), and a whole number k.")
        if k != k.round():
            raise Wrong(f"k = {k.item():.4g} is no whole number. Rescale by powers of two: they cost no digits.")
        parts.append((tensor, k.item()))
    right = [_through(*probe) for probe in probes]
    overflows = any(not tensor.isfinite().all() for tensor, _ in parts)
    if overflows or any(not tensor.any() for tensor, _ in parts):
        raise Mistake(
            "The gradient has left float16 on its way: the tensor holds "
            + ("inf or NaN." if overflows else "zeros and nothing else.")
            + " No single factor fits 60 layers. Look at the size in every layer."
        )
    with_k = [tensor * 2.0**k for tensor, k in parts]
    if all(_close(one, two) for one, two in zip(with_k, right)):
        if any((tensor.half().double() - tensor).abs().max() > 1e-3 * tensor.abs().max() for tensor, _ in parts):
            raise Mistake(
                "tensor x 2^k is right, but the tensor does not fit into float16 with its 11 digits. Leave the size to k."
            )
        return
    if all(_close(tensor * 2.0**-k, two) for (tensor, k), two in zip(parts, right)):
        raise Mistake(
            "The exponent has the wrong sign: what you multiplied the gradient by, 2^k must divide out again."
        )
    for wrong, text in _WAYS:
        made = [wrong(*probe) for probe in probes]
        if all(_close(one, two) for one, two in zip(with_k, made)):
            raise Mistake(text)
    if all(_close(tensor / tensor.norm(), two / two.norm()) for (tensor, _), two in zip(parts, right)):
        raise Mistake(
            "The directions are right, the exponent is not. Each rescaling must be counted in k, also the first and the last."
        )
    for (tensor, k), one, two in zip(parts, with_k, right):
        if not _close(one, two):
            ratio = one.norm().log2() - two.norm().log2()
            raise Wrong(f"tensor x 2^k is not the gradient: its norm is too large by a factor of 2^{ratio.item():.1f}.")


# 11.7


def _all_numbers(bits: int) -> Tensor:
    """All positive numbers of bfloat16 (8 digits) or float16 (11 digits), in order."""
    kind, count = {8: (torch.bfloat16, 0x7F80), 11: (torch.float16, 0x7C00)}[bits]
    return torch.arange(1, count, dtype=torch.int16).view(kind).double()


def _rounded(values: Tensor, bits: int, toward: Tensor | None = None) -> Tensor:
    near = values.to({8: torch.bfloat16, 11: torch.float16}[bits]).double()
    if toward is None:
        return near
    return torch.where((values - toward).abs() < 0.999 * (_spacing(toward, bits)), toward, near)


def _spacing(values: Tensor, bits: int) -> Tensor:
    numbers = _all_numbers(bits)
    place = torch.searchsorted(numbers, values).clamp(max=len(numbers) - 2)
    return numbers[place + 1] - numbers[place]


def _stays(beta: float, square: float, start: float, bits: int, cut: bool = False) -> float:
    """The first number on the way from `start` to `square` at which a step changes nothing."""
    numbers = _all_numbers(bits)
    after = beta * numbers + (1 - beta) * square
    still = numbers[_rounded(after, bits, numbers if cut else None) == numbers]
    if start <= square:
        return still[still >= start].min().item()
    return still[still <= start].max().item()


def _averages(dice: torch.Generator) -> list[tuple]:
    return [
        (0.999, 1.0, 0.0, 8),
        (0.999, 0.01, 1.0, 8),
        (0.999, 0.02, 3.0, 11),
        (0.98, _uniform(dice, 2.2, 3.8), 0.0, 8),
        (0.995, _uniform(dice, 0.3, 0.45), 0.0, 11),
        (0.99, 0.1, 30.0, 8),
    ]


def _even_spacing(beta: float, square: float, start: float, bits: int) -> float:
    """As if a number v had neighbours at a distance of v, times a constant."""
    v = start or square * 1e-6
    for _ in range(200_000):
        step = (1 - beta) * (square - v)
        if abs(step) <= v * 2.0**-bits:
            break
        v += step
    return v


QUESTIONS = (
    Question(
        "11.1",
        "first_not_finite",
        1,
        _walk,
        _sick_networks,
        mistakes=(
            (
                lambda net, x: _walk(net, x, torch.isnan),
                "You look for NaN only. A NaN is often the second sign: inf minus inf is NaN. Ask for the first number that is not finite.",
            ),
            (
                _if_seen_at_the_end,
                "You look only if the end of the network is not finite. In one of the networks ReLU turns -inf into 0, "
                "and the end is finite.",
            ),
            (
                _weights_first,
                "You look at the weights of all layers first. A layer further up may be reached after the numbers are lost: "
                "go module by module.",
            ),
            (
                lambda net, x: _walk(net, x, weights=False),
                "An output is blamed for what its weights brought in. Look at all parameters of a module, its bias too, before its output.",
            ),
            (_last, "This is the last place that is not finite, a consequence. Asked is the first."),
            (
                lambda net, x: _walk(net.double(), x.double()),
                "You computed in float64, and there nothing overflows. Run the network in its own number format.",
            ),
        ),
    ),
    Question(
        "11.2",
        "first_sign",
        2,
        _first_sign,
        _recordings,
        mistakes=(
            (
                _dead_at_the_end,
                "Units that are dead at the last step need not have been so at the start. Read `dead` at step 0.",
            ),
            (
                lambda flow: _first_sign(flow, ordered=False),
                "One of the networks has had a large update, and no layer of it is dead. There is nothing to explain.",
            ),
            (
                lambda flow: _first_sign(flow, every=True),
                "Biases are among your updates. Some start at 0, so their ratios are large and say little. Take the weights.",
            ),
            (
                lambda flow: _first_sign(flow, of=_middle, every=True),
                "Biases are among your updates. Some start at 0, so their ratios are large and say little. Take the weights.",
            ),
            (
                lambda flow: _first_sign(flow, of=torch.max),
                "You took the largest of the matrices. One that moves much is not yet a typical one: take the median.",
            ),
            (
                _any_time,
                "A cause comes before its consequence. In one network the large update stands at the step at which the units are "
                "first seen dead, and the forward pass of a step comes before its update.",
            ),
        ),
    ),
    Question(
        "11.3",
        "largest_depth",
        2,
        _largest,
        _deep_cases,
        rtol=0,
        atol=1.01,
        mistakes=(
            (
                lambda c, n, g, a: _largest(c, n, g, a, errors=10),
                "The error has the size of 10 classes. With another number of classes p and y are other numbers.",
            ),
            (
                lambda c, n, g, a: _largest(c, n, g, a, last=False),
                "The last weights are missing: they turn the scores' gradient into n numbers.",
            ),
            (
                lambda c, n, g, a: _largest(c, n, g, a, allowed=0.68),
                "This is the depth at which the typical gradient is as small as the largest number that becomes 0. By then most entries "
                "are 0; asked is 1 %.",
            ),
            (
                lambda c, n, g, a: _largest(c, n, g, a, rows=128),
                "The number of images is in both: it makes the gradient smaller and lifts the ceiling.",
            ),
            (
                lambda c, n, g, a: _largest(c, n, g, a * a),
                "`passed` is the factor of the gradient's root mean square, as in the lesson. You used it twice in each layer.",
            ),
            (
                lambda c, n, g, a: _largest(c, n, g, a, rows=_LARGEST),
                "This is the depth without a loss scale. Take the largest one that the scores allow.",
            ),
        ),
    ),
    Question(
        "11.4",
        "read_exponent",
        1,
        _smallest_exponent,
        rtol=0,
        atol=2.01,
        mistakes=(
            (lambda: 4.0, "These are powers of ten. The loss scale is a power of two."),
            (
                lambda: 8.0,
                "You went from 100 % to 1 %, a factor of 100. But a share cannot be above 1: it hides how far below the smallest "
                "number layer 1 lies. Read where the curve is straight.",
            ),
            (
                lambda: 23.0,
                "This is the ceiling, where the scores overflow. Asked is the smallest that is enough.",
            ),
            (
                lambda: 27.0,
                "This is a number of layers, or one power of two for each of them. By which factor does the share fall in one layer?",
            ),
        ),
    ),
    choice(
        "11.5",
        "lost_entries",
        2,
        right="c",
        wrong={
            "a": "a share counts entries and not what they carry. What part of the gradient's norm is in the 49 999 zeros of a row?",
            "b": "probabilities add up to 1. If one of them rises, the others fall, whoever is pushed.",
            "d": "the gradient at the last hidden layer is a sum over classes. The right class has an entry near 1/N, the others "
            "1/(50 000 N), and with random signs those add up to little.",
        },
        words=25,
    ),
    Question("11.6", "backward_with_exponent", 3, probes=_chains, judge=_judge_backward),
    Question(
        "11.7",
        "settled_at",
        3,
        _stays,
        _averages,
        rtol=0.025,
        mistakes=(
            (lambda beta, square, start, bits: square, "This is where the mean goes without rounding."),
            (
                lambda beta, square, start, bits: start,
                "It is not true that no step moves v. From 0 every number is a large step, and the gap between neighbours shrinks "
                "with v.",
            ),
            (
                lambda beta, square, start, bits: _stays(beta, square, start, bits, cut=True),
                "You call a step lost if it is below the distance to the next number. Rounding goes to the nearest.",
            ),
            (
                _even_spacing,
                "You took the distance of neighbours as a fixed share of v. Between two powers of two it is the same for all numbers.",
            ),
            (
                lambda beta, square, start, bits: _stays(beta, square, 0.0, bits),
                "This is where v stays on its way up. Some of these start above the square and come down.",
            ),
            (
                lambda beta, square, start, bits: _stays(beta, square, start, 8),
                "These are the numbers of bfloat16 in all calls. `bits` says how many digits there are.",
            ),
        ),
    ),
)
