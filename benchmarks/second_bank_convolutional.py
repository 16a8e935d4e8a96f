"""The convolutional networks of the second bank: each function maps a seed to a `Trial`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from bank_case import Trial
from second_bank_blocks import BasicBlock, ConvNeXtBlock, InvertedResidual, PreActivation, TemporalNet, UNet, conv3
from second_bank_data import digit_batches, generator, normal, wave_batches
from second_bank_parts import redraw


def _plain(channels: int, depth: int, *after: type[nn.Module], pool: bool = True) -> nn.Sequential:
    """`depth` convolutions, each followed by fresh modules `after`, and a linear head."""
    made: list[nn.Module] = []
    for number in range(depth):
        made.append(conv3(channels if number else 1, channels))
        made += [kind(channels) if kind is nn.BatchNorm2d else kind() for kind in after]
    if pool:
        return nn.Sequential(*made, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return nn.Sequential(*made, nn.Flatten(), nn.Linear(64 * channels, 10))


def lenet(seed: int) -> Trial:
    model = nn.Sequential(
        *[conv3(1, 6), nn.Tanh(), nn.AvgPool2d(2), conv3(6, 16), nn.Tanh(), nn.AvgPool2d(2)],
        *[nn.Flatten(), nn.Linear(64, 84), nn.Tanh(), nn.Linear(84, 10)],
    )
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, SGD(model.parameters(), 0.03, momentum=0.9))


def resnet(seed: int) -> Trial:
    blocks = [BasicBlock(16) for _ in range(8)]
    stem = [conv3(1, 16, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, optimizer)


def mobilenet(seed: int) -> Trial:
    stem = [conv3(1, 16, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
    blocks = [InvertedResidual(16, kind) for kind in (nn.ReLU6, nn.ReLU6, nn.Hardswish, nn.Hardswish)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, RMSprop(model.parameters(), 2e-4, momentum=0.9))


def groupnorm(seed: int) -> Trial:
    model = nn.Sequential(
        conv3(1, 16), *[PreActivation(16) for _ in range(6)], nn.GroupNorm(4, 16), nn.Flatten(), nn.Linear(1024, 10)
    )
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, AdamW(model.parameters(), 1e-3))


def autoencoder(seed: int) -> Trial:
    model = nn.Sequential(
        *[nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()],
        *[nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(16, 1, 2, stride=2), nn.Sigmoid()],
    )
    redraw(model, nn.init.kaiming_normal_)
    images = digit_batches(seed, 1, 8, 8, raw=True)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = images(step)[0] / 255
        return x, x

    return Trial(model, batch, F.binary_cross_entropy, Adam(model.parameters(), 2e-3))


def unet(seed: int) -> Trial:
    model, images = UNet(), digit_batches(seed, 1, 8, 8)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        clean = images(step)[0]
        return clean + 0.5 * normal(*clean.shape, source=generator(seed, step)), (clean[:, 0] > 0).long()

    return Trial(model, batch, F.cross_entropy, Adam(model.parameters(), 2e-3))


def temporal(seed: int) -> Trial:
    model = TemporalNet()
    return Trial(model, wave_batches(seed, 32), F.mse_loss, Adam(model.parameters(), 2e-3))


def convnext(seed: int) -> Trial:
    model = nn.Sequential(
        nn.Conv2d(1, 24, 2, stride=2), *[ConvNeXtBlock(24) for _ in range(5)], nn.Flatten(), nn.Linear(384, 10)
    )
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, AdamW(model.parameters(), 1e-3))


def frozen_backbone(seed: int) -> Trial:
    backbone = _plain(16, 4, nn.BatchNorm2d, nn.ReLU, pool=False)[:-1]
    backbone.requires_grad_(False)
    head = nn.Sequential(nn.Linear(1024, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    model = nn.Sequential(backbone, head)
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, Adam(model[1].parameters(), 1e-3))


def plain_deep(seed: int) -> Trial:
    model = _plain(12, 24, nn.ReLU)
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, Adam(model.parameters(), 1e-3))


def sigmoid_eight(seed: int) -> Trial:
    model = _plain(12, 8, nn.Sigmoid, pool=False)
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, SGD(model.parameters(), 0.1, momentum=0.9))


def batchnorm_sixty(seed: int) -> Trial:
    stages = [nn.Conv2d(1, 16, 2, stride=2), nn.BatchNorm2d(16), nn.ReLU()]
    for number in range(59):  # one kernel in three is 3 x 3
        conv = conv3(16, 16) if number % 3 == 0 else nn.Conv2d(16, 16, 1)
        stages += [conv, nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, SGD(model.parameters(), 1e-5), steps=10)


class BareResidual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def residual_without_norm(seed: int) -> Trial:
    blocks = [BareResidual(conv3(12, 12), nn.ReLU(), conv3(12, 12)) for _ in range(30)]
    model = nn.Sequential(conv3(1, 12), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    redraw(model, nn.init.kaiming_normal_)
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, Adam(model.parameters(), 1e-4), steps=10)


def detection_prior(seed: int) -> Trial:
    model = redraw(_plain(16, 4, nn.ReLU), nn.init.kaiming_normal_, bias=-4.6)
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, Adam(model.parameters(), 1e-3))


def raw_pixels(seed: int) -> Trial:
    model = nn.Sequential(
        *[nn.Conv2d(1, 8, 5, padding=1), nn.Tanh(), nn.AvgPool2d(2), conv3(8, 16), nn.Tanh()],
        *[nn.Flatten(), nn.Linear(144, 40), nn.Tanh(), nn.Linear(40, 10)],
    )
    return Trial(model, digit_batches(seed, 1, 8, 8, raw=True), F.cross_entropy, SGD(model.parameters(), 0.05))


class StemWithoutGradient(nn.Module):
    """The `no_grad` of an experiment with a fixed stem was left in when training moved to random weights."""

    def __init__(self) -> None:
        super().__init__()
        stages = [[conv3(inputs, 16), nn.BatchNorm2d(16), nn.GELU()] for inputs in (1, 16)]
        self.stem = nn.Sequential(*stages[0], *stages[1])
        self.body = nn.Sequential(*[PreActivation(16) for _ in range(3)])
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x)
        return self.head(self.body(x).mean((2, 3)))


def stem_without_gradient(seed: int) -> Trial:
    model = StemWithoutGradient()
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, Adam(model.parameters(), 2e-3))


def adam_rate_too_large(seed: int) -> Trial:
    model = _plain(16, 4, nn.BatchNorm2d, nn.ELU)
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, Adam(model.parameters(), 0.3), steps=6)


def constant_kernels(seed: int) -> Trial:
    model = redraw(_plain(8, 3, nn.Tanh), lambda weight: nn.init.constant_(weight, 1 / weight[0].numel()))
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, SGD(model.parameters(), 0.1, momentum=0.9))


class Standardised(nn.Sequential):
    """Each image is standardised by its own mean and spread."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((1, 2, 3), keepdim=True)
        return super().forward(centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt())


def blank_image(seed: int) -> Trial:
    model, images = Standardised(*_plain(16, 3, nn.ReLU)), digit_batches(seed, 1, 8, 8, raw=True)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = images(step)
        x[-1] = 0.0  # an empty scan
        return x, y

    return Trial(model, batch, F.cross_entropy, Adam(model.parameters(), 1e-3))
