"""The real data of the course: the handwritten digits that scikit-learn ships."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """Inputs `x` [rows, features] and labels `y` [rows], int64."""

    x: Tensor
    y: Tensor


class Digits(NamedTuple):
    """1797 images of 8 x 8 pixels in three splits: learn on `train`, choose on `validation`, report on `test`."""

    train: Split  # 1200 rows
    validation: Split  # 237 rows
    test: Split  # 360 rows


def digits() -> Digits:
    """Load the digits, shuffled once and for all, 64 features each.

    Each pixel is centred on its mean over the training rows, and all are divided by ONE standard
    deviation, so that the typical input has size 1 while a pixel that never changes stays 0.
    Nothing is downloaded.

    Source: the test set of Alpaydin and Kaynak 1998, UCI, as scikit-learn ships it.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(images))  # a legacy stream: numpy keeps it for ever
    x, y = images[order], labels[order]
    x = x - x[:1200].mean(axis=0)
    x = x / x[:1200].std()
    parts = {"train": slice(0, 1200), "validation": slice(1200, 1437), "test": slice(1437, None)}
    return Digits(
        **{
            name: Split(torch.tensor(x[part], dtype=torch.float32), torch.tensor(y[part], dtype=torch.int64))
            for name, part in parts.items()
        }
    )
