"""What the transformers of the bank are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from bank_tasks import Network, freeze, weights_times
from torch import Tensor, nn

WIDTH = 32


def encoder(depth: int, *, first: bool = True, activation="relu", dropout: float = 0.0) -> nn.TransformerEncoder:
    """`first`: the LayerNorm stands before each branch (pre-LN), not after each sum (post-LN)."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout, activation, batch_first=True, norm_first=first)
    stack = nn.TransformerEncoder(layer, depth, nn.LayerNorm(WIDTH) if first else None, enable_nested_tensor=False)
    for parameter in stack.parameters():  # nn.TransformerEncoder begins with equal copies of its layer
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    return stack


class Place(nn.Module):
    """Adds a learned vector for each position."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(0.5 * torch.randn(length, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.vectors[: x.shape[1]]


def vision(body: nn.Module, **more: nn.Module) -> Network:
    """Rows of pixels as tokens, the mean over tokens into the head."""
    return Network(
        lambda self, x: self.head(self.body(self.place(self.embed(x))).mean(1)),
        embed=nn.Linear(8, WIDTH),
        place=Place(8),
        body=body,
        head=nn.Linear(WIDTH, 10),
        **more,
    )


class Attention(nn.Module):
    """A block written by hand: pre-LN, functional attention and GELU; `gain` multiplies the default weights."""

    def __init__(self, skip: bool = True, norm: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.skip = skip
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH) if norm else nn.Identity() for _ in range(2))
        self.query_key_value, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.inner, self.outer = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        weights_times(gain, self)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(self.norm1(x)).chunk(3, -1)
        heads = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in parts)
        attended = self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        x = x + attended if self.skip else attended
        fed = self.outer(F.gelu(self.inner(self.norm2(x))))
        return x + fed if self.skip else fed


class LowRank(nn.Module):
    """A frozen linear layer plus a product of two thin matrices of which one begins at 0 (LoRA; Hu et al. 2022)."""

    def __init__(self, frozen: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        freeze(frozen)
        self.frozen = frozen
        self.down, self.up = nn.Linear(WIDTH, rank, bias=False), nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.up(self.down(x))
