"""Answers to set 03: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
from torch import nn

LONG = (
    "because the values differ from unit to unit and not from image to image since each layer multiplies the differences by a "
    "factor below one while the biases are added anew"
)


def by_layers(net, x):
    """Go through the network, without hooks."""
    found = {"mean": [], "std": [], "row_std": []}
    for layer in net:
        x = layer(x).detach()
        if not isinstance(layer, nn.Linear):
            found["mean"].append(x.mean().item())
            found["std"].append(x.std().item())
            found["row_std"].append((x - x.mean(dim=0)).square().mean().sqrt().item())
    return found


def in_numpy(net, x):
    found, hooks = [], []
    for layer in net:
        if not isinstance(layer, nn.Linear):
            hooks.append(
                layer.register_forward_hook(lambda module, inputs, output: found.append(output.detach().numpy()))
            )
    net(x)
    for hook in hooks:
        hook.remove()
    spread = [math.sqrt(np.mean(np.var(h, axis=0, ddof=1))) for h in found]
    return {"mean": [h.mean() for h in found], "std": np.array([h.std() for h in found]), "row_std": spread}


def with_spread(spread):
    def answer(net, x):
        found = by_layers(net, x)
        found["row_std"] = [spread(net[: 2 * place](x)) for place in range(1, 10)]
        return found

    return answer


def of_pre_activations(net, x):
    found = {"mean": [], "std": [], "row_std": []}
    for layer in net[:-1]:
        x = layer(x).detach()
        if isinstance(layer, nn.Linear):
            found["mean"].append(x.mean())
            found["std"].append(x.std())
            found["row_std"].append((x - x.mean(dim=0)).square().mean().sqrt())
    return found


def by_autograd(weight, bias):
    """Replace W and b by functions of the twin's parameters."""
    new_weight = torch.zeros_like(weight, requires_grad=True)
    new_bias = torch.zeros_like(bias, requires_grad=True)
    loss = (weight * new_weight / 4).sum() + (bias * (new_bias / 2 + new_weight.sum(dim=1) / 4)).sum()
    loss.backward()
    return {"weight": new_weight.grad, "bias": new_bias.grad}


def in_a_loop(weight, bias):
    rows = [[(one + g) / 4 for one in row] for row, g in zip(weight.tolist(), bias.tolist())]
    return {"weight": rows, "bias": [g / 2 for g in bias.tolist()]}


def summed(mean, noise, eps, beta1):
    """Add up the squares of the weights that m gives to past gradients."""
    weights = [(1 - beta1) * beta1**age for age in range(1000)]
    square = mean**2 + noise**2 * sum(one**2 for one in weights)
    return square**0.5 / ((mean**2 + noise**2) ** 0.5 + eps)


def by_simulation(mean, noise, eps, beta1):
    rng = np.random.default_rng(0)
    m = np.zeros(50_000)
    for _ in range(60):
        m = beta1 * m + (1 - beta1) * (mean + noise * rng.standard_normal(50_000))
    return np.sqrt(np.mean(m**2)) / (math.hypot(mean, noise) + eps)


def with_left(left):
    def answer(mean, noise, eps, beta1):
        return math.sqrt(mean**2 + left(beta1) * noise**2) / (math.hypot(mean, noise) + eps)

    return answer


RIGHT = {
    "03.1": [lambda m: (m / 3) ** -0.5, lambda m: math.sqrt(3) / math.sqrt(m), lambda m: torch.tensor(3 / m).sqrt()],
    "03.2": [0.8, torch.tensor(0.78), 2 * (7e-8) ** (1 / 18)],
    "03.3": [by_layers, in_numpy, with_spread(lambda h: h.var(dim=0, unbiased=False).mean().sqrt())],
    "03.4": [("d", LONG), ["(D)", LONG.upper()]],
    "03.5": [
        by_autograd,
        in_a_loop,
        lambda weight, bias: {
            "weight": weight / 4 + torch.outer(bias, torch.ones(len(bias)).double()) / 4,
            "bias": 0.5 * bias,
        },
        lambda weight, bias: {"weight": (weight.float() + bias.float()[:, None]) / 4, "bias": bias.float().numpy() / 2},
    ],
    "03.6": [with_left(lambda beta1: (1 - beta1) / (1 + beta1)), summed, by_simulation],
}
WRONG = {
    "03.1": [
        (lambda m: 3 / m, "number for the variance"),
        (lambda m: m**-0.5, "right for a gain of 1"),
        (lambda m: 3**0.5, "leaves the slopes out"),
        (lambda m: 3**0.5 / m, "squared the slope once more"),
        (lambda m: (m / 3) ** 0.5, "factor per layer as it is"),
        (lambda m: (2 / m) ** 0.5, "expected"),
        (lambda m: 6**0.5, "expected"),
    ],
    "03.2": [
        (0.4, "factor per layer"),
        (7e-8, "after all layers together"),
        (0.56, "ReLU's"),
        (1.6, "slope of sigmoid"),
        (1.4, "PyTorch's default"),
        (0.58, "ReLU's"),
        (1.0, "is not right"),
    ],
    "03.3": [
        (of_pre_activations, "outputs of the linear layers"),
        (with_spread(lambda h: h.detach().std(dim=1).square().mean().sqrt()), "over the units"),
        (lambda net, x: {**by_layers(net, x), "std": by_layers(net, x)["row_std"]}, "That is 'row_std'"),
        (lambda net, x: {**by_layers(net, x), "mean": by_layers(net, x)["std"]}, "'mean' is not right"),
        (with_spread(lambda h: h.detach().std(dim=1, unbiased=False).mean()), "over the units"),
        (with_spread(lambda h: h.detach().std()), "over all values"),
        (with_spread(lambda h: h.detach().mean(dim=1).std()), "averaged over the units first"),
        (with_spread(lambda h: h.detach().std(dim=0).mean()), "Asked is the root mean square"),
        (with_spread(lambda h: h.detach().var(dim=0).mean()), "is a variance"),
        (lambda net, x: {"mean": [0.0] * 9}, "with the keys mean, std, row_std"),
        (lambda net, x: {key: value[-1] for key, value in by_layers(net, x).items()}, "a list of 9 numbers"),
    ],
    "03.4": [
        (("a", LONG), "lower panel"),
        (("b", LONG), "|z| above 4"),
        (("C", LONG), "no loss in float32"),
        (("d", "the biases"), "has 2 words"),
        (("d", "bias " * 30), "again and again"),
        ("d", "Write a letter and a text"),
    ],
    "03.5": [
        (lambda weight, bias: {"weight": weight, "bias": bias}, "the parameters are not"),
        (
            lambda weight, bias: {"weight": 4 * weight, "bias": 2 * (bias - weight.sum(1))},
            "as the parameters are converted",
        ),
        (lambda weight, bias: {"weight": 4 * weight - 2 * bias[:, None], "bias": 2 * bias}, "in the other direction"),
        (lambda weight, bias: {"weight": weight / 4, "bias": bias / 2}, "left out that b depends on W'"),
        (lambda weight, bias: {"weight": (weight + bias) / 4, "bias": bias / 2}, "along the wrong dimension"),
        (lambda weight, bias: {"weight": (weight - bias[:, None]) / 4, "bias": bias / 2}, "expected"),
        (lambda weight, bias: (weight / 4, bias / 2), "expected a dict"),
    ],
    "03.6": [
        (lambda mean, noise, eps, beta1: mean / (mean + eps), "left the noise out"),
        (lambda mean, noise, eps, beta1: mean / (math.hypot(mean, noise) + eps), "mean of the steps"),
        (with_left(lambda beta1: 1), "the gradient itself for m"),
        (with_left(lambda beta1: 1 - beta1), "with equal weights"),
        (with_left(lambda beta1: (1 - beta1) ** 2), "latest gradient alone"),
        (lambda mean, noise, eps, beta1: summed(mean, noise, 0, beta1), "expected"),
        (lambda mean, noise, eps, beta1: 1.0, "expected"),
    ],
}
