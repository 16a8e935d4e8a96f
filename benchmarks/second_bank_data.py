"""The data of the second bank: digits, and small synthetic tasks that can be learnt."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Batch = Callable[[int], tuple[Any, Tensor]]


def generator(seed: int, step: int) -> torch.Generator:
    """A random stream of its own for each step, so that a batch does not depend on what ran before."""
    return torch.Generator().manual_seed(1_000_003 * seed + step)


def normal(*size: int, source: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers, drawn in float64 because float32 normals differ between processors."""
    return torch.randn(*size, dtype=torch.float64, generator=source).float()


@lru_cache(maxsize=1)
def raw_digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits as (pixels from 0 to 255 [1797, 64], labels [1797])."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels * 255 / 16, dtype=torch.float32), torch.tensor(labels)


def digit_batches(seed: int, *shape: int, raw: bool = False, rows: int = 32) -> Batch:
    """Batches of digits, each image in `shape`; pixels are standardised unless `raw`."""
    pixels, labels = raw_digits()
    x = pixels if raw else (pixels - pixels.mean()) / pixels.std()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(x), (rows,), generator=generator(seed, step))
        return x[chosen].reshape(rows, *shape), labels[chosen]

    return batch


def token_batches(seed: int, vocabulary: int, length: int, rows: int = 32) -> Batch:
    """A language with a rule: nine times in ten, the token t is followed by 3 t + 1. Predict the next token."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        source = generator(seed, step)
        tokens = torch.randint(vocabulary, (rows, length + 1), generator=source)
        follows = torch.rand(rows, length + 1, generator=source) < 0.9
        for position in range(1, length + 1):
            expected = (3 * tokens[:, position - 1] + 1) % vocabulary
            tokens[:, position] = torch.where(follows[:, position], expected, tokens[:, position])
        return tokens[:, :-1], tokens[:, 1:]

    return batch


def recall_batches(seed: int, length: int, rows: int = 32) -> Batch:
    """Say at the end which of 4 symbols came first: [rows, length, 5], noise in the last channel."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        source = generator(seed, step)
        label = torch.randint(4, (rows,), generator=source)
        x = torch.zeros(rows, length, 5)
        x[torch.arange(rows), 0, label] = 1.0
        x[:, :, 4] = 0.3 * normal(rows, length, source=source)
        return x, label

    return batch


def wave_batches(seed: int, length: int, rows: int = 32) -> Batch:
    """Predict the next value of noisy sine waves: [rows, length, 1] to [rows, length, 1]."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        source = generator(seed, step)
        phase = 6.28 * torch.rand(rows, 1, generator=source)
        speed = 0.2 + 0.4 * torch.rand(rows, 1, generator=source)
        wave = torch.sin(phase + speed * torch.arange(length + 1)) + 0.05 * normal(rows, length + 1, source=source)
        return wave[:, :-1, None], wave[:, 1:, None]

    return batch
