"""The bank of labelled networks on which the diagnosis is tuned: fully connected networks here, the rest beside it."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from bank_convolutional import CONVOLUTIONAL
from bank_recurrent import RECURRENT
from bank_tasks import (
    Network, adam, adamw, case, digits, fill, freeze, he, regression, sgd, spike, trained, weights_times,
)  # fmt: skip
from bank_transformer import TRANSFORMERS
from torch import Tensor, nn

import gradflow_utils as gf

mlp = partial(case, "mlp", task=digits())


def net(width: int, hidden: int, activation: str = "relu", init: str = "default", **options) -> gf.MLP:
    return gf.mlp([64, *[width] * hidden, 10], activation, init, **options)


def one_hot_error(output: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(output, F.one_hot(labels, 10).to(output.dtype))


def log_of_softmax(output: Tensor, labels: Tensor) -> Tensor:
    return -output.softmax(1).log()[torch.arange(len(labels)), labels].mean()


def with_broken_row(x: Tensor) -> Tensor:
    x = x.clone()
    x[::40, 20] = torch.nan  # 30 of the 1200 rows: most batches hold one
    return x


class ReZero(nn.Module):
    """x + alpha * F(x) with alpha = 0 at the start (Bachlechner et al. 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = he(nn.Sequential(nn.Linear(width, width), nn.ReLU()))
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.layers(x)


def zero_head() -> nn.Module:
    network = net(64, 3, "gelu", "he")
    nn.init.zeros_(network[-1].weight)
    return network


def frozen_start() -> nn.Module:
    network = net(64, 3, "relu", "he")
    freeze(network.linear1, network.linear2)
    return network


def functional_relu() -> nn.Module:
    return Network(
        lambda self, x: self.third(F.relu(self.second(F.relu(self.first(x))))),
        first=nn.Linear(64, 64),
        second=nn.Linear(64, 32),
        third=nn.Linear(32, 10),
    )


def shared_inplace() -> nn.Module:
    relu = nn.ReLU(inplace=True)
    layers = [nn.Linear(64, 48), relu, nn.Linear(48, 48), relu, nn.Linear(48, 48), relu, nn.Linear(48, 10)]
    return he(nn.Sequential(*layers))


def unused_branch() -> nn.Module:
    return Network(
        lambda self, x: self.head(self.body(x)),
        body=nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()),
        head=nn.Linear(64, 10),
        decoder=nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)),
    )


def cut(how) -> nn.Module:
    """Two stages; what the first one gives goes through `how` before it reaches the second."""
    return Network(
        lambda self, x: self.second(how(self.first(x))),
        first=nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
        second=nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def middle_layer_dead(activation: str, bias: float) -> nn.Module:
    network = net(64, 3, activation, "he")
    nn.init.constant_(network.linear2.bias, bias)
    return network


def distance_to_itself() -> nn.Module:
    """Embeds each row and the next one, whose distance is asked for; in every batch some rows meet themselves."""

    def run(self, x: Tensor) -> Tensor:
        other = torch.cat([x[:2], x[2:].roll(1, 0)])
        return (self.encoder(x) - self.encoder(other)).square().sum(1, keepdim=True).sqrt()

    return Network(run, encoder=nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16)))


def exponential_rate() -> nn.Module:
    return Network(
        lambda self, x: self.body(100 * x).exp(),
        body=he(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))),
    )


def constant_weights() -> nn.Module:
    return fill(fill(net(32, 3, "tanh"), 0.02, "weight"), 0.0)


HEALTHY = (
    mlp("tanh with Xavier, 8 layers", "", "the depth scale of critical tanh is long", lambda: net(64, 8, "tanh",
        "xavier"),
        optimizer=adam(1e-3)),
    mlp("ReLU with He, 20 layers", "", "critical; up to 27 % dead units come with depth",
        lambda: net(128, 20, "relu", "he"), task=digits(rows=256), optimizer=adam(3e-4)),
    mlp("functional ReLU", "", "two hidden layers under the default initialisation are shallow", functional_relu,
        optimizer=sgd(0.05, 0.9)),
    mlp("sparse ReLU, two zeros in three", "", "a bias of -0.4 silences values, not units",
        lambda: fill(net(96, 3, "relu", "he"), -0.4), optimizer=adam(1e-3)),
    mlp("BatchNorm after a bias", "", "the mean takes the bias away: its gradient is 0 by construction",
        lambda: net(64, 4, "relu", "he", norm="batch"), optimizer=sgd(0.05, 0.9)),
    mlp("zero-initialised head", "", "the first step moves the head, the second all others", zero_head,
        optimizer=adamw(1e-3)),
    mlp("ReZero, 12 blocks", "", "branches count for nothing at the start, alpha gets the gradient",
        lambda: nn.Sequential(nn.Linear(64, 64), *[ReZero(64) for _ in range(12)], nn.Linear(64, 10)),
        optimizer=adam(1e-3)),
    mlp("converged under Adam", "", "gradients are tiny because the task is solved",
        lambda: net(64, 2, "relu", "he"), optimizer=adam(3e-3), before=trained(300)),
    mlp("converged under SGD", "", "gradients are tiny because the task is solved",
        lambda: net(64, 2, "tanh", "xavier"), optimizer=sgd(0.3), before=trained(400)),
    mlp("loss scaled by 1e-6 under Adam", "", "Adam divides the scale out again", lambda: net(64, 3, "relu", "he"),
        loss=lambda output, y: 1e-6 * F.cross_entropy(output, y), optimizer=adam(2e-3)),
    mlp("loss summed over the batch under Adam", "", "Adam divides the scale out again",
        lambda: net(48, 3, "tanh", "xavier"), loss=partial(F.cross_entropy, reduction="sum"), optimizer=adam(1e-3)),
    mlp("layers of very different widths", "", "fan-in and gain fit in every layer",
        lambda: gf.mlp([64, 512, 16, 256, 12, 128, 10], "relu", "he"), optimizer=adam(1e-3)),
    mlp("frozen early layers", "", "requires_grad=False is deliberate fine-tuning", frozen_start, optimizer=adam(2e-3)),
    mlp("residual with LayerNorm, 20 blocks", "", "the skip carries the gradient",
        lambda: net(48, 21, "relu", "he", norm="layer", residual=0.3), optimizer=sgd(0.02, 0.9)),
    mlp("SiLU regression", "", "shallow, He's gain, a learnable function",
        lambda: gf.mlp([8, 64, 64, 1], "silu", "he"), task=regression(), loss=F.mse_loss, optimizer=adam(3e-3)),
    mlp("one ReLU in place for all layers", "", "a shared activation is the same function", shared_inplace,
        optimizer=sgd(0.05)),
    mlp("dropout of one half", "", "dropped values are back in the next step",
        lambda: he(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 128), nn.ReLU(),
                                 nn.Dropout(), nn.Linear(128, 10))), optimizer=adam(1e-3)),
    mlp("sigmoid, two hidden layers, squared error", "", "two factors of about 0.25 are no obstacle",
        lambda: net(64, 2, "sigmoid", "xavier"), loss=one_hot_error, optimizer=adam(5e-3)),
    mlp("orthogonal tanh, 25 layers", "", "critical (Saxe et al. 2014)",
        lambda: net(48, 25, "tanh", "orthogonal", gain=1.05), optimizer=sgd(0.02, 0.9)),
    mlp("unused decoder", "", "a part outside the forward pass has no gradient, and needs none", unused_branch,
        optimizer=adam(1e-3)),
    mlp("firm weight decay", "", "decay of 0.3 takes 0.03 % of the weights per step",
        lambda: net(64, 3, "elu", "lecun"), optimizer=adamw(1e-3, 0.3)),
)  # fmt: skip

SICK = (
    mlp("NaN in some input rows", "non-finite", "NaN spreads through every sum", lambda: net(64, 2),
        task=digits(change=with_broken_row), optimizer=adam(1e-3)),
    mlp("square root of zero distances", "non-finite", "the slope of sqrt at 0 is inf, times 0 is NaN",
        distance_to_itself, task=regression(), loss=F.mse_loss, optimizer=sgd(0.01)),
    mlp("log of a softmax that is 0", "non-finite", "scores far apart make the softmax 0 and its log -inf",
        lambda: weights_times(12, net(64, 2, "relu", "he")), loss=log_of_softmax, optimizer=adam(1e-3)),
    mlp("overflow in exp", "non-finite", "exp of more than 88 is inf in float32", exponential_rate,
        task=regression(), loss=F.mse_loss, optimizer=adam(1e-3)),
    mlp("ReLU, 20 layers, default initialisation", "vanishing", "a factor of 0.41 per layer: 8e-8",
        lambda: net(64, 20), optimizer=sgd(0.05), also=("dead", "update too small")),
    mlp("GELU, 20 layers, default initialisation", "vanishing", "a factor of 0.3 per layer: 2e-10",
        lambda: net(64, 20, "gelu"), optimizer=adam(1e-4)),
    mlp("sigmoid, 12 layers", "vanishing", "a factor of 0.23 per layer: 1e-7",
        lambda: net(64, 12, "sigmoid", "xavier"), optimizer=sgd(0.1, 0.9), also=("update too small",)),
    mlp("ReLU with Xavier, 40 layers", "vanishing", "a factor of 0.71 per layer: 1e-6; weight gradients look level",
        lambda: net(64, 40, "relu", "xavier"), optimizer=sgd(0.05), also=("dead", "update too small")),
    mlp("leaky ReLU with biases of -5, 5 layers", "vanishing",
        "every unit is on the slope of 0.01: 1e-7, yet none is dead",
        lambda: fill(net(64, 5, "leaky_relu", "he"), -5.0), optimizer=sgd(0.05), also=("update too small",)),
    mlp("ReLU with a gain of 4, 14 layers", "exploding", "a factor of 2.8 per layer: 1e6",
        lambda: net(64, 14, "relu", "he", gain=4.0), optimizer=adam(1e-4), also=("dead",)),
    mlp("BatchNorm and ReLU, 60 layers", "exploding", "a factor of 1.2 per layer backward (Yang et al. 2019): 8e4",
        lambda: net(48, 60, "relu", "he", norm="batch"), optimizer=adam(1e-4)),
    mlp("ReLU layer with biases of -9", "dead", "no unit of the second layer is ever on",
        lambda: middle_layer_dead("relu", -9.0), optimizer=adam(1e-3),
        also=("vanishing", "disconnected", "update too small", "symmetry")),
    mlp("GELU layer with biases of -6", "dead", "the slope is 0 on every row without one exact zero",
        lambda: middle_layer_dead("gelu", -6.0), optimizer=adam(1e-3),
        also=("vanishing", "disconnected", "update too small")),
    mlp("ReLU killed by a spike of the learning rate", "dead", "huge steps push most units below all inputs",
        lambda: net(64, 3, "relu", "he"), before=spike(3.0, 3), optimizer=adam(1e-3),
        also=("exploding", "vanishing", "disconnected", "update too small")),
    mlp("raw pixels into tanh", "saturated", "inputs 255 times too large reach the flat ends",
        lambda: net(64, 3, "tanh", "xavier"), task=digits(scale=255.0), optimizer=adam(1e-3)),
    mlp("tanh with large weights", "saturated", "pre-activations of size 20", lambda: net(64, 3, "tanh", "xavier",
        gain=20.0),
        optimizer=sgd(0.01), also=("exploding", "update too small")),
    mlp("sigmoid with biases of 7", "saturated", "sigmoid(7) has 0.4 % of the largest slope",
        lambda: fill(net(64, 2, "sigmoid", "xavier"), 7.0), optimizer=adam(1e-4), also=("vanishing",)),
    mlp("features detached", "disconnected", "detach cuts the graph: the first stage gets no gradient",
        lambda: cut(Tensor.detach), optimizer=adam(1e-3)),
    mlp("features rounded", "disconnected", "the slope of round is 0: the first stage gets none but zeros",
        lambda: cut(lambda h: (8 * h).round() / 8), optimizer=sgd(0.1), also=("vanishing",)),
    mlp("learning rate 0.3 under Adam", "update too large", "each weight moves by 0.3, of a size of 0.07",
        lambda: net(64, 3), optimizer=adam(0.3), steps=6, also=("exploding", "dead", "vanishing")),
    mlp("weight decay of 40 %", "update too large", "each step takes 0.4 of every weight away",
        lambda: net(64, 3, "tanh", "xavier"), optimizer=adamw(1e-4, 4000.0), also=("vanishing",)),
    mlp("learning rate 1e-9", "update too small", "weights of 0.1 move by 1e-9", lambda: net(64, 3, "relu", "he"),
        optimizer=adam(1e-9)),
    mlp("loss scaled by 1e-6 under SGD", "update too small", "SGD keeps the scale", lambda: net(64, 3, "tanh",
        "xavier"),
        loss=lambda output, y: 1e-6 * F.cross_entropy(output, y), optimizer=sgd(0.1)),
    mlp("constant initialisation", "symmetry", "equal units get equal gradients for ever", constant_weights,
        optimizer=adam(1e-3)),
)  # fmt: skip

CASES = (*HEALTHY, *SICK, *CONVOLUTIONAL, *RECURRENT, *TRANSFORMERS)
