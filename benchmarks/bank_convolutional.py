"""The convolutional networks of the bank, healthy and sick: images of 8 x 8 pixels."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from bank_case import Trial
from bank_tasks import Network, adam, adamw, case, digits, fill, freeze, he, sgd, spike, trained
from torch import Tensor, nn

convolutional = partial(case, "convolutional", task=digits(1, 8, 8))


def conv(into: int, out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, stride, padding=1, groups=groups)


def plain(width: int, depth: int, activation=nn.ReLU, norm=None) -> nn.Sequential:
    """Convolutions on 4 x 4 places, then the mean over these and a linear layer."""
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    for into in [1, *[width] * (depth - 1)]:
        layers += [conv(into, width), *([norm(width)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def pooled(activation=nn.ReLU) -> nn.Sequential:
    """A small network in the manner of LeNet."""
    return nn.Sequential(
        conv(1, 8), activation(), nn.MaxPool2d(2), conv(8, 16), activation(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 32), activation(), nn.Linear(32, 10),
    )  # fmt: skip


def vgg() -> nn.Sequential:
    """Pairs of convolutions with BatchNorm, wider after each pooling."""
    layers: list[nn.Module] = []
    for into, out in ((1, 8), (8, 16), (16, 32)):
        layers += [conv(into, out), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        layers += [conv(out, out), nn.BatchNorm2d(out), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))


class Block(nn.Module):
    """The basic block of He et al. 2016 with in-place operations; `zero` starts its branch at 0 (Goyal et al. 2017)."""

    def __init__(self, into: int, out: int, stride: int, zero: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if into == out else nn.Conv2d(into, out, 1, stride, bias=False)
        self.relu = nn.ReLU(inplace=True)
        if zero:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(self.relu(self.norm1(self.first(x)))))
        y += self.shortcut(x)
        return self.relu(y)


def resnet(zero: bool = False) -> nn.Sequential:
    blocks = [Block(8, 8, 1, zero), Block(8, 16, 2, zero), Block(16, 16, 1, zero), Block(16, 32, 2, zero)]
    return nn.Sequential(conv(1, 8), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class UnscaledResidual(nn.Module):
    """x + F(x) without normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def unscaled_residual() -> nn.Module:
    blocks = [UnscaledResidual(8) for _ in range(18)]
    network = nn.Sequential(conv(1, 8, stride=2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return he(network, gain=2.0)


def separable() -> nn.Module:
    layers: list[nn.Module] = [conv(1, 16)]
    for _ in range(3):
        layers += [conv(16, 16, groups=16), nn.Conv2d(16, 16, 1), nn.GroupNorm(4, 16), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))


def functional() -> nn.Module:
    return Network(
        lambda self, x: self.head(F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2))).flatten(1)),
        conv1=conv(1, 12),
        conv2=conv(12, 12, stride=2),
        head=nn.Linear(48, 10),
    )


def autoencoder() -> nn.Module:
    return nn.Sequential(
        conv(1, 12, stride=2), nn.Tanh(), conv(12, 12, stride=2), nn.Tanh(),
        nn.ConvTranspose2d(12, 12, 2, 2), nn.Tanh(), nn.ConvTranspose2d(12, 1, 2, 2),
    )  # fmt: skip


def image_error(output: Tensor, labels: Tensor) -> Tensor:
    """Squared error against a bright square whose place and size encode the label."""
    places = torch.arange(8)
    inside = (places[:, None] <= labels[:, None, None]) & (places >= labels[:, None, None] - 4)
    return F.mse_loss(output[:, 0], inside.float())


def fine_tuned() -> nn.Module:
    """A backbone and a head, to be frozen by `new_head`."""
    return Network(lambda self, x: self.head(self.backbone(x)), backbone=vgg()[:-1], head=nn.Linear(32, 10))


def new_head(trial: Trial) -> None:
    """Train, then freeze the backbone, whose BatchNorm keeps its statistics, and begin with a new head."""
    trained(60)(trial)
    freeze(trial.model.backbone.eval())
    trial.model.head.reset_parameters()


def backbone_without_grad() -> nn.Module:
    """The whole backbone by mistake under no_grad, although its parameters are given to the optimizer to be trained."""

    def run(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)

    head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Network(run, backbone=pooled()[:7], head=head)


def standardised_pixels() -> nn.Module:
    """Divides each pixel by its standard deviation over the batch, which is 0 in the corners."""
    body = pooled()
    return Network(lambda self, x: self.body((x - x.mean(0)) / x.std(0)), body=body)


def dead_second() -> nn.Module:
    network = he(plain(16, 4))
    nn.init.constant_(network[3].bias[:12], -12.0)
    return network


def constant_kernels() -> nn.Module:
    return fill(fill(plain(12, 3), 0.02, "weight"), 0.0)


CONVOLUTIONAL = (
    convolutional("small network with pooling", "", "three hidden layers, He's weights", lambda: he(pooled()),
                  task=digits(1, 8, 8, rows=192), optimizer=adam(1e-3)),
    convolutional("VGG with BatchNorm", "", "normalised, 6 convolutions; biases before the norm have gradient 0", vgg,
                  optimizer=sgd(0.02, 0.9)),
    convolutional("ResNet with in-place sums", "", "skips and normalisation", resnet, optimizer=sgd(0.05, 0.9)),
    convolutional("ResNet with zero-initialised branches", "",
                  "the last norm of each block starts at 0 on purpose; its weights have gradient 0 at first",
                  lambda: resnet(zero=True), optimizer=adam(2e-3)),
    convolutional("separable with GroupNorm and SiLU", "", "normalised, smooth and shallow", separable,
                  optimizer=adamw(3e-3)),
    convolutional("convolutions with functional ReLU", "", "two hidden layers", functional, optimizer=sgd(0.1)),
    convolutional("tanh autoencoder, squared error", "", "shallow tanh in its linear range", autoencoder,
                  loss=image_error, optimizer=adam(3e-3)),
    convolutional("frozen backbone with a new head", "", "requires_grad=False is deliberate fine-tuning", fine_tuned,
                  optimizer=adam(3e-3), before=new_head),
    convolutional("He, 10 plain convolutions", "", "critical", lambda: he(plain(16, 10)), optimizer=adam(1e-3)),
    convolutional("sparse ReLU", "", "biases of -0.1 silence values, not channels",
                  lambda: fill(he(plain(16, 3)), -0.1), optimizer=adam(3e-3)),
    convolutional("converged VGG", "", "gradients are tiny because the task is solved", vgg, optimizer=adam(3e-3),
                  before=trained(100)),
    convolutional("ReLU, 16 convolutions, default initialisation", "vanishing", "a factor of 0.41 per layer: 1e-6",
                  lambda: plain(16, 16), optimizer=sgd(0.05), also=("dead", "update too small")),
    convolutional("sigmoid, 10 convolutions", "vanishing", "at most 0.25 times weights of default size, per layer",
                  lambda: plain(12, 10, nn.Sigmoid), optimizer=adam(1e-4)),
    convolutional("BatchNorm and ReLU, 90 convolutions", "exploding", "a factor of 1.15 per layer backward: 2e5",
                  lambda: he(plain(8, 90, norm=nn.BatchNorm2d)), task=digits(1, 8, 8, rows=16), optimizer=adam(1e-4),
                  steps=8),
    convolutional("unscaled residual blocks", "exploding", "the variance almost triples per block: 2.9^18",
                  unscaled_residual,
                  optimizer=adam(1e-5)),
    convolutional("convolution with biases of -12", "dead", "12 of 16 channels of the second layer are never on",
                  dead_second,
                  optimizer=adam(1e-3)),
    convolutional("channels killed by a spike of the learning rate", "dead",
                  "huge steps push most channels below all inputs",
                  lambda: he(plain(32, 3)), before=spike(10.0, 2), optimizer=adam(1e-3),
                  also=("exploding", "vanishing", "disconnected", "update too small")),
    convolutional("raw pixels into tanh convolutions", "saturated", "inputs 255 times too large reach the flat ends",
                  lambda: pooled(nn.Tanh), task=digits(1, 8, 8, scale=255.0), optimizer=adam(1e-3)),
    convolutional("backbone under no_grad", "disconnected", "no graph is built for the backbone", backbone_without_grad,
                  optimizer=adam(1e-3)),
    convolutional("pixels divided by a deviation of 0", "non-finite", "corner pixels never change: 0 / 0",
                  standardised_pixels, optimizer=adam(1e-3)),
    convolutional("convolutions at learning rate 0.3", "update too large", "each weight moves by 0.3, of a size of 0.1",
                  pooled, optimizer=adam(0.3), steps=6, also=("exploding", "dead", "vanishing", "symmetry")),
    convolutional("convolutions at learning rate 1e-9", "update too small", "1e-9 times a gradient of size 1", vgg,
                  optimizer=sgd(1e-9, 0.9)),
    convolutional("constant kernels", "symmetry", "equal channels get equal gradients for ever", constant_kernels,
                  optimizer=adam(1e-3)),
)  # fmt: skip
