"""The fully connected networks of the second bank: each function maps a seed to a `Trial`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from bank_case import Trial
from second_bank_data import Batch, digit_batches, generator, normal, raw_digits
from second_bank_parts import layers, redraw, train


def wide_shallow(seed: int) -> Trial:
    model = nn.Sequential(*layers([64, 512, 10], nn.ReLU))
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, SGD(model.parameters(), 0.01, momentum=0.9))


def mish_he(seed: int) -> Trial:
    model = redraw(nn.Sequential(*layers([64, *[64] * 8, 10], nn.Mish)), nn.init.kaiming_normal_)
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, Adam(model.parameters(), 1e-3))


def selu_deep(seed: int) -> Trial:
    model = nn.Sequential(*layers([64, *[64] * 29, 10], nn.SELU))
    redraw(model, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="linear"))
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, Adam(model.parameters(), 3e-4))


def prelu_batchnorm(seed: int) -> Trial:
    stages = [
        nn.Sequential(nn.Linear(fan_in, 96), nn.BatchNorm1d(96), nn.PReLU()) for fan_in in (64, 96, 96, 96, 96, 96)
    ]
    model = nn.Sequential(*stages, nn.Linear(96, 10))
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, AdamW(model.parameters(), 1e-3))


class ReZero(nn.Module):
    """x + alpha F(x) with alpha = 0 at the start (Bachlechner et al. 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * torch.relu(self.linear(x))


def rezero(seed: int) -> Trial:
    model = nn.Sequential(nn.Linear(64, 32), *[ReZero(32) for _ in range(40)], nn.Linear(32, 10))
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, Adam(model.parameters(), 3e-3))


class TiedAutoencoder(nn.Module):
    """The decoder uses the transposed weights of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Linear(64, 32)
        self.inner = nn.Linear(32, 12)
        self.inner_bias = nn.Parameter(torch.zeros(32))
        self.outer_bias = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.inner(torch.tanh(self.outer(x))))
        h = torch.tanh(F.linear(code, self.inner.weight.t(), self.inner_bias))
        return F.linear(h, self.outer.weight.t(), self.outer_bias)


def tied_autoencoder(seed: int) -> Trial:
    model, images = TiedAutoencoder(), digit_batches(seed, 64)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, _ = images(step)
        return x, x

    return Trial(model, batch, F.mse_loss, RMSprop(model.parameters(), 3e-4))


class Siamese(nn.Module):
    """One network looks at both images of a pair."""

    def __init__(self, euclidean: bool = False) -> None:
        super().__init__()
        self.embed = nn.Sequential(*layers([64, 64, 32], nn.ELU))
        self.compare = nn.Linear(32, 1)
        self.euclidean = euclidean

    def forward(self, pair: dict[str, Tensor]) -> Tensor:
        difference = self.embed(pair["left"]) - self.embed(pair["right"])
        if self.euclidean:
            return difference.square().sum(1).sqrt()
        return self.compare(difference.abs()).squeeze(1)


def _pairs(seed: int) -> Batch:
    pixels, labels = raw_digits()
    x = (pixels - pixels.mean()) / pixels.std()

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        source = generator(seed, step)
        left, right = torch.randint(len(x), (2, 32), generator=source)
        for row in range(16):  # half of the pairs show the same digit
            same = (labels == labels[left[row]]).nonzero().squeeze(1)
            right[row] = same[torch.randint(len(same), (1,), generator=source)]
        return {"left": x[left], "right": x[right]}, (labels[left] == labels[right]).float()

    return batch


def siamese(seed: int) -> Trial:
    model = Siamese()
    return Trial(model, _pairs(seed), F.binary_cross_entropy_with_logits, Adam(model.parameters(), 2e-3))


def siamese_euclidean(seed: int) -> Trial:
    model, pairs = Siamese(euclidean=True), _pairs(seed)

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        pair, same = pairs(step)
        pair["right"][0] = pair["left"][0]  # sampling with replacement now and then pairs an image with itself
        return pair, same

    def contrastive(distance: Tensor, same: Tensor) -> Tensor:
        return (same * distance.square() + (1 - same) * (2 - distance).clamp(min=0).square()).mean()

    return Trial(model, batch, contrastive, Adam(model.parameters(), 1e-3))


class TwoTowers(nn.Module):
    """Users and items by their ids."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(2000, 16)
        self.item = nn.Embedding(500, 16)
        self.top = nn.Sequential(*layers([32, 64, 32, 1], nn.ReLU))

    def forward(self, ids: tuple[Tensor, Tensor]) -> Tensor:
        return self.top(torch.cat([self.user(ids[0]), self.item(ids[1])], 1)).squeeze(1)


def two_towers(seed: int) -> Trial:
    model = TwoTowers()
    popularity = 3 * normal(500)

    def batch(step: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        source = generator(seed, step)
        users = torch.randint(2000, (64,), generator=source)
        items = (500 * torch.rand(64, generator=source) ** 3).long()  # few items are chosen often
        liked = torch.rand(64, generator=source) < torch.sigmoid(popularity[items])
        return (users, items), liked.float()

    return Trial(model, batch, F.binary_cross_entropy_with_logits, Adam(model.parameters(), 3e-3))


def converged(seed: int) -> Trial:
    model = nn.Sequential(*layers([1, 64, 64, 1], nn.Tanh))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        source = generator(seed, step)
        x = 3 * torch.rand(64, 1, generator=source) - 1.5
        return x, torch.sin(3 * x) + 0.02 * normal(64, 1, source=source)

    trial = train(Trial(model, batch, F.mse_loss, Adam(model.parameters(), 5e-3)), 300)
    trial.optimizer.param_groups[0]["lr"] = 1e-3
    return train(trial, 100)


def scaled_loss(seed: int) -> Trial:
    hidden = [[nn.Linear(fan_in, 128), nn.GELU(approximate="tanh"), nn.Dropout(0.3)] for fan_in in (64, 128, 128)]
    model = nn.Sequential(*(module for stage in hidden for module in stage), nn.Linear(128, 10))
    return Trial(
        model, digit_batches(seed, 64), lambda o, y: 1e-4 * F.cross_entropy(o, y), Adam(model.parameters(), 1e-3)
    )


class FunctionalHardswish(nn.Module):
    """Activations called as functions: no module stands for them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(64, 64) for _ in range(depth)])
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.hidden:
            x = F.hardswish(linear(x))
        return self.out(x)


def hardswish_default(seed: int) -> Trial:
    model = FunctionalHardswish(24)
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, Adam(model.parameters(), 1e-3))


def relu_large_weights(seed: int) -> Trial:
    model = nn.Sequential(*layers([64, *[64] * 29, 10], nn.ReLU))
    redraw(model, lambda weight: nn.init.normal_(weight, std=0.3))
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, Adam(model.parameters(), 1e-4))


def dead_after_spike(seed: int) -> Trial:
    model = nn.Sequential(*layers([64, 128, 64, 1], nn.ReLU))
    images = digit_batches(seed, 64)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = images(step)
        return x, 30.0 + 2.0 * y[:, None]  # the target is never scaled

    trial = train(Trial(model, batch, F.mse_loss, SGD(model.parameters(), 1e-2)), 3)
    trial.optimizer.param_groups[0]["lr"] = 1e-4
    return trial


def tanh_standard_normal(seed: int) -> Trial:
    model = redraw(nn.Sequential(*layers([64, *[128] * 4, 10], nn.Tanh)), nn.init.normal_)
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, Adam(model.parameters(), 1e-3))


def sigmoid_raw_features(seed: int) -> Trial:
    model = nn.Sequential(*layers([12, 32, 32, 1], nn.Sigmoid))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        z = normal(64, 12, source=generator(seed, step))
        return 600 + 300 * z, (z[:, :3].sum(1, keepdim=True) > 0).float()

    return Trial(model, batch, F.binary_cross_entropy_with_logits, SGD(model.parameters(), 0.1, momentum=0.9))


def adam_rate_too_large(seed: int) -> Trial:
    model = nn.Sequential(*layers([64, 96, 96, 96, 10], lambda: nn.LeakyReLU(0.1)))
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, Adam(model.parameters(), 0.5), steps=6)


def sgd_rate_too_small(seed: int) -> Trial:
    model = nn.Sequential(*layers([64, 96, 48, 10], nn.ELU))
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, SGD(model.parameters(), 1e-7))


def softplus_constant(seed: int) -> Trial:
    model = nn.Sequential(*layers([64, 32, 32, 32, 10], nn.Softplus))
    redraw(model, lambda weight: nn.init.constant_(weight, 1 / weight.shape[1]))
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, SGD(model.parameters(), 0.05))


class DetachedEncoder(nn.Module):
    """The head is meant to train the encoder, too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*layers([64, 64, 64, 32], nn.ReLU))
        self.head = nn.Sequential(*layers([32, 32, 32, 10], nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).detach())


def detached_encoder(seed: int) -> Trial:
    model = redraw(DetachedEncoder(), nn.init.kaiming_normal_)
    return Trial(model, digit_batches(seed, 64), F.cross_entropy, Adam(model.parameters(), 1e-3))
