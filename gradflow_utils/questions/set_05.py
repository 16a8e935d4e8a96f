"""Exercise set 05: measuring flow. The expected values come from other runs: autograd, Adam itself, and a long training."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_utils.networks import mlp
from gradflow_utils.questions.form import Question, choice


def _draw(dice: torch.Generator, *shape: int, std: float = 1.0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=dice) * std


def _drawn(net: nn.Module, dice: torch.Generator) -> nn.Module:
    """The network in float64, its parameters drawn anew, matrices with He's variance."""
    net = net.double()
    with torch.no_grad():
        for one in net.parameters():
            one.copy_(_draw(dice, *one.shape, std=(2 / one[0].numel()) ** 0.5 if one.dim() > 1 else 0.1))
    return net


# 05.1


def _training_runs(dice: torch.Generator) -> list[tuple]:
    small = _drawn(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), dice)
    frozen = _drawn(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), dice)
    frozen[0].requires_grad_(False)
    runs = []
    for net, optimizer in ((small, torch.optim.SGD(small.parameters(), lr=0.5)), (frozen, _adam_of(frozen))):
        batches = []
        for rows in (3, 8, 5):
            labels = torch.randint(3, (rows,), generator=dice)
            batches.append((_draw(dice, rows, 4), labels))
        runs.append((net, batches, optimizer))
    return runs


def _adam_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([one for one in net.parameters() if one.requires_grad], lr=0.05)


def _logged(net: nn.Module, batches: list, optimizer: torch.optim.Optimizer, *, fault: str = "") -> dict[str, Tensor]:
    """Gradients from functional calls, set by hand for the optimizer."""
    names = [name for name, one in net.named_parameters() if one.requires_grad]
    own = dict(net.named_parameters())
    rows, totals, sums = [], [], {name: 0.0 for name in names}
    for x, labels in batches:
        values = {name: own[name].detach().clone().requires_grad_() for name in names}
        loss = F.cross_entropy(torch.func.functional_call(net, values, (x,)), labels)
        found = dict(zip(names, torch.autograd.grad(loss, list(values.values()))))
        sums = {name: sums[name] + found[name] for name in names}
        used = sums if fault == "sums" else found
        seen = {name: own[name].detach().clone() for name in names} if fault == "weights" else used
        rows.append(torch.stack([torch.linalg.vector_norm(seen[name], 1 if fault == "abs" else 2) for name in names]))
        whole = torch.cat([one.flatten() for one in seen.values()])
        totals.append(
            rows[-1].sum() if fault == "total" else torch.linalg.vector_norm(whole, 1 if fault == "abs" else 2)
        )
        for name in names:
            own[name].grad = used[name].clone()
        if fault != "stands":
            optimizer.step()
    by_name = dict(zip(names, torch.stack(rows, 1)))
    return {**by_name, "total": torch.stack(totals)}


def _with_fault(fault: str):
    return lambda *run: _logged(*run, fault=fault)


# 05.2


class Network(nn.Module):
    """Layers that share one activation module, as many people write it. Complains if hooks of an earlier call are left."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*two) for two in pairwise(sizes))
        self.act = nn.ReLU()
        self.hooks = 0

    def forward(self, x: Tensor) -> Tensor:
        now = len(self.act._forward_hooks) + len(self.act._backward_hooks)
        self.hooks = self.hooks or now
        if now > self.hooks:
            raise RuntimeError("a hook of your earlier call is still on net.act: remove it before you return")
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


def _shared(dice: torch.Generator) -> list[tuple]:
    cases = []
    for sizes, rows in (([4, 6, 6, 6, 3], 5), ([3, 5, 4, 2], 7)):
        net = _drawn(Network(sizes), dice)
        for _ in range(2):  # each network twice: a hook that is left on shows in the second call
            cases.append((net, _draw(dice, rows, sizes[0]), torch.randint(sizes[-1], (rows,), generator=dice)))
    return cases


def _pieces(net: Network, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Pre-activations, outputs of the activation, and the loss, layer by layer without hooks."""
    before, after, h = [], [], x
    for layer in net.layers[:-1]:
        before.append(layer(h))
        h = before[-1].clamp(min=0)
        after.append(h)
    return before, after, F.cross_entropy(net.layers[-1](h), y)


def _norms_at(places: str):
    def norms(net: Network, x: Tensor, y: Tensor) -> Tensor:
        before, after, loss = _pieces(net, x, y)
        at = {"z": before, "h": after, "W": [layer.weight for layer in net.layers[:-1]]}[places]
        return torch.stack([torch.linalg.vector_norm(one) for one in torch.autograd.grad(loss, at)])

    return norms


# 05.3

DEPTH = 16


class _Through(nn.Module):
    """Passes its input on unchanged, and a hundredth of the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x.detach(), x, 0.01)


def faulty_network() -> nn.Sequential:
    """A network with 16 hidden layers, two of its steps with a fault."""
    dice = torch.Generator().manual_seed(512)
    net = mlp([64, *[64] * DEPTH, 10], "relu", init="he", seed=5).double()
    small, cut = (torch.randperm(5, generator=dice)[:2] + torch.tensor([4, 9])).tolist()
    with torch.no_grad():
        net[2 * small - 2].weight *= 0.01
    layers = list(net)
    return nn.Sequential(*layers[: 2 * cut - 2], _Through(), *layers[2 * cut - 2 :])


def _two_steps() -> list[int]:
    """Measure by which factor each step changes the size of h forward, and that of the gradient backward."""
    net, dice = faulty_network(), torch.Generator().manual_seed(1)
    h, kept = _draw(dice, 64, 64), []
    for layer in net:
        h = layer(h)
        if isinstance(layer, nn.ReLU):
            kept.append(h)
    gradients = torch.autograd.grad(F.cross_entropy(h, torch.randint(10, (64,), generator=dice)), kept)
    forward = torch.stack([two.norm() / one.norm() for one, two in pairwise(kept)])
    backward = torch.stack([one.norm() / two.norm() for one, two in pairwise(gradients)])
    return [int(forward.argmin()) + 2, int((backward / forward).argmin()) + 2]


# 05.5


def _ratios(dice: torch.Generator) -> list[tuple]:
    return [(1e-3, 64), (1e-3, 1024), (3e-3, 256)]


def _weights(fan_in: int, init: str) -> Tensor:
    net = mlp([fan_in, 256, 1], "relu", init=init, seed=3)
    return net[0].weight.detach().double()


def _rate_by_adam(ratio: float, fan_in: int, init: str = "he") -> float:
    """Take one step at a known rate and see what its update ratio is."""
    before = _weights(fan_in, init)
    weight = before.clone().requires_grad_()
    weight.grad = _draw(torch.Generator().manual_seed(4), *weight.shape)
    torch.optim.Adam([weight], lr=1e-3).step()
    return 1e-3 * ratio / ((weight.detach() - before).norm() / before.norm()).item()


# 05.6


def _train(first: Tensor, bias: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient flow on a fixed batch for a time of 1, in 200 midpoint steps."""
    dice = torch.Generator().manual_seed(first.numel())
    x, t = _draw(dice, 12, first.shape[1]), 3 * _draw(dice, 12, second.shape[0])

    def downhill(*now: Tensor) -> list[Tensor]:
        leaves = [one.detach().requires_grad_() for one in now]
        w, b, v = leaves
        loss = F.mse_loss(F.relu(x @ w.T + b) @ v.T, t)
        return [-one for one in torch.autograd.grad(loss, leaves)]

    state, step = [first, bias, second], 1 / 200
    for _ in range(200):
        middle = [one + step / 2 * by for one, by in zip(state, downhill(*state))]
        state = [one + step * by for one, by in zip(state, downhill(*middle))]
    return tuple(state)


def _lost_layers(dice: torch.Generator) -> list[tuple]:
    cases = []
    for sizes, stds in (((3, 5, 2), (0.8, 0.5, 0.8)), ((4, 6, 3), (0.3, 0.2, 1.2))):
        inputs, units, outputs = sizes
        shapes = ((units, inputs), (units,), (outputs, units))
        first, bias, second = (_draw(dice, *shape, std=std) for shape, std in zip(shapes, stds))
        cases.append((first, bias, second, _train(first, bias, second)[2]))
    return cases


def _incoming(first: Tensor, bias: Tensor) -> Tensor:
    return torch.linalg.vector_norm(torch.column_stack([first, bias]), dim=1)


def _after_training(first: Tensor, bias: Tensor, second: Tensor, after: Tensor) -> Tensor:
    first, bias, _ = _train(first, bias, second)
    return _incoming(first, bias)


def _as_a_whole(first: Tensor, bias: Tensor, second: Tensor, after: Tensor) -> Tensor:
    """Every unit gets the same share of what the layer as a whole has won."""
    start = _incoming(first, bias).square()
    won = _after_training(first, bias, second, after).square().sum() - start.sum()
    return (start + won / len(start)).clamp(min=0).sqrt()


QUESTIONS = (
    Question(
        "05.1",
        "log_gradient_norms",
        2,
        _logged,
        _training_runs,
        mistakes=(
            (
                _with_fault("sums"),
                "From the second step on these are norms of sums of gradients: backward() adds to what is there.",
            ),
            (_with_fault("stands"), "The network never changes: every batch meets the parameters of the start."),
            (_with_fault("weights"), "These are the norms of the parameters, not of their gradients."),
            (
                _with_fault("total"),
                '"total" holds sums of norms. The total norm is the length of one vector with all gradients in it.',
            ),
            (_with_fault("abs"), "These are sums of absolute values, not the lengths of vectors."),
        ),
    ),
    Question(
        "05.2",
        "gradient_norms_by_call",
        2,
        _norms_at("h"),
        _shared,
        mistakes=(
            (
                lambda *case: _norms_at("h")(*case).flip(0),
                "The numbers are right, in the order in which gradients arrive. Asked is the order of the forward pass.",
            ),
            (
                lambda *case: torch.stack([torch.linalg.vector_norm(one) for one in _pieces(*case)[1]]),
                "These are the norms of the outputs: the forward signal. Asked is what comes back to them.",
            ),
            (
                _norms_at("z"),
                "This is the gradient at what goes into the activation. Asked is the gradient at what comes out.",
            ),
            (
                _norms_at("W"),
                "These are the norms of weight gradients, in which two factors can cancel. Asked is dL/dh.",
            ),
        ),
    ),
    Question(
        "05.3",
        "read_off",
        2,
        _two_steps,
        mistakes=(
            (
                lambda: _two_steps()[::-1],
                "Swapped? Look at which panel shows both faults and which shows one of them.",
            ),
            (
                lambda: [place - 1 for place in _two_steps()],
                "These are the last layers that still have the signal. A step has the number of the layer it leads to.",
            ),
            (
                lambda: [_two_steps()[0], _two_steps()[1] - 1],
                "The first number is right. The second step too is named after the layer that it leads to, forward.",
            ),
            (
                lambda: [_two_steps()[0]] * 2,
                "That step is visible in both panels. The second number is a step that only one panel shows.",
            ),
            (
                lambda: [DEPTH, 1],
                "These are the places where the signals are smallest. Asked is where they get lost on the way.",
            ),
        ),
    ),
    choice(
        "05.4",
        "why_different",
        2,
        right="b",
        wrong={
            "a": "what differs between two outputs is not yet signal. Which other difference is there between two rows in "
            "training mode?",
            "c": "masks can only remove or scale values. They cannot bring back what the layers below have lost.",
            "d": "PyTorch scales in training mode, by 1/(1 - p), and eval mode leaves every value as it is. And a factor "
            "of 0.9 per layer takes off less than a factor of 10 in 19 layers.",
        },
    ),
    Question(
        "05.5",
        "rate_for_ratio",
        2,
        _rate_by_adam,
        _ratios,
        rtol=0.02,
        mistakes=(
            (
                lambda ratio, fan_in: ratio,
                "This is right for weights of size 1. How large is a weight of this layer?",
            ),
            (
                lambda ratio, fan_in: _rate_by_adam(ratio, fan_in, "lecun"),
                "This is right for weights of variance 1/fan_in. He's weights are larger.",
            ),
            (
                lambda ratio, fan_in: _rate_by_adam(ratio, fan_in, "default"),
                "This is right for PyTorch's default weights. This layer has He's.",
            ),
            (
                lambda ratio, fan_in: ratio * _weights(fan_in, "he").var().item(),
                "You took the variance of a weight for its size.",
            ),
            (
                lambda ratio, fan_in: ratio * _weights(fan_in, "he").norm().item(),
                "You compared the step of one weight with the norm of the matrix. Take one entry of both, or the norms.",
            ),
        ),
    ),
    Question(
        "05.6",
        "incoming_norms_after",
        3,
        _after_training,
        _lost_layers,
        rtol=0.01,
        mistakes=(
            (
                lambda first, bias, second, after: _incoming(first, bias),
                "These are the norms before training. They have changed, and W2 tells by how much.",
            ),
            (
                lambda first, bias, second, after: _incoming(_train(first, bias, second)[0], 0 * bias),
                "These are the norms of the weights alone. The bias of the unit belongs to what goes in.",
            ),
            (
                lambda first, bias, second, after: _incoming(first, bias) * after.norm(dim=0) / second.norm(dim=0),
                "You kept the ratio of incoming to outgoing norm. The identity is about another combination.",
            ),
            (
                lambda first, bias, second, after: _incoming(first, bias) * second.norm(dim=0) / after.norm(dim=0),
                "You kept the product of incoming and outgoing norm. The identity is about another combination.",
            ),
            (
                _as_a_whole,
                "As a whole the layer is right, but you gave every unit the same share. Write the identity for one unit.",
            ),
            (
                lambda first, bias, second, after: after.norm(dim=0),
                "These are the outgoing norms after training. Incoming and outgoing norm need not be equal at the start.",
            ),
        ),
    ),
)
