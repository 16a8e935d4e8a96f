"""The modules that the convolutional networks of the second bank are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def conv3(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class BasicBlock(nn.Module):
    """The residual block of He et al. 2015; the last scale starts at 0 (Goyal et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(channels, channels, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3(channels, channels, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class SqueezeExcite(nn.Module):
    """Channel gates from channel means (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """The block of MobileNetV3: expand, depthwise, gate, project."""

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        wide = 3 * channels
        self.branch = nn.Sequential(
            *[nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), activation()],
            *[conv3(wide, wide, groups=wide, bias=False), nn.BatchNorm2d(wide), activation(), SqueezeExcite(wide)],
            *[nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)],
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class PreActivation(nn.Module):
    """x + conv(silu(norm(...))), twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv1, self.conv2 = conv3(channels, channels), conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class UNet(nn.Module):
    """Two scales, joined by concatenation (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv3(1, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down2 = nn.Sequential(conv3(8, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.bottom = nn.Sequential(conv3(16, 32), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.up2 = nn.Sequential(conv3(48, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.up1 = nn.Sequential(conv3(24, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        middle = self.down2(F.max_pool2d(fine, 2))
        h = F.interpolate(self.bottom(F.max_pool2d(middle, 2)), scale_factor=2)
        h = F.interpolate(self.up2(torch.cat([h, middle], 1)), scale_factor=2)
        return self.out(self.up1(torch.cat([h, fine], 1)))


class CausalBlock(nn.Module):
    """A dilated causal convolution with a skip (Bai et al. 2018)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(channels, channels, 3, dilation=dilation))
        self.pad = 2 * dilation

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(F.pad(x, (self.pad, 0))))


class TemporalNet(nn.Module):
    """Predicts the next value of a sequence [rows, length, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 24, 1)
        self.blocks = nn.Sequential(*[CausalBlock(24, 2**power) for power in range(4)])
        self.out = nn.Conv1d(24, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.stem(x.transpose(1, 2)))).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022, with its layer scale: each branch starts almost switched off."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = conv3(channels, channels, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.scale = nn.Parameter(torch.full((channels,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.mix(h)).permute(0, 3, 1, 2)
