"""The modules that the transformers of the second bank are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from second_bank_parts import redraw


class RowTransformer(nn.Module):
    """The rows of an image as tokens, layers of `torch.nn`, a class from the mean token."""

    def __init__(self, width: int, depth: int, **options: object) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, **options)
        norm = nn.LayerNorm(width) if layer.norm_first else None
        self.encoder = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.position).mean(1))


class Attention(nn.Module):
    """Attention written by hand, causal or not."""

    def __init__(self, width: int, heads: int, causal: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if self.causal:
            scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, None, :], -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, width))


class Block(nn.Module):
    """A pre-norm block; `norm` and `skip` take its parts away."""

    def __init__(
        self,
        width: int,
        heads: int = 4,
        activation: Callable[[], nn.Module] = nn.GELU,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        causal: bool = False,
        skip: bool = True,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = Attention(width, heads, causal)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), activation(), nn.Linear(2 * width, width))
        self.skip = float(skip)

    def forward(self, x: Tensor) -> Tensor:
        x = self.skip * x + self.attention(self.norm1(x))
        return self.skip * x + self.feed_forward(self.norm2(x))


class Decoder(nn.Module):
    """GPT: token and position embeddings, causal blocks, output tied to the embedding."""

    def __init__(self, vocabulary: int, width: int, depth: int, frozen_below: int = 0) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(32, width)
        self.blocks = nn.ModuleList([Block(width, causal=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, vocabulary, bias=False)
        redraw(self, lambda weight: nn.init.normal_(weight, std=0.02))
        for block in self.blocks:
            for last in (block.attention.out, block.feed_forward[2]):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * depth))
        self.out.weight = self.tokens.weight
        self.frozen_below = frozen_below

    def forward(self, tokens: Tensor) -> Tensor:
        below, above = self.blocks[: self.frozen_below], self.blocks[self.frozen_below :]
        with torch.set_grad_enabled(self.frozen_below == 0):
            x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
            for block in below:
                x = block(x)
        for block in above:
            x = block(x)
        return self.out(self.norm(x))


class GatedBlock(nn.Module):
    """RMSNorm, attention without biases, SwiGLU (Touvron et al. 2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, 4, causal=True, bias=False)
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Rows(nn.Module):
    """The rows of an image as tokens, hand-written blocks, a class from the mean token."""

    def __init__(self, width: int, *blocks: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.5 * torch.randn(8, width))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x) + self.position).mean(1))


class LowRank(nn.Module):
    """A frozen linear layer and a trained change of rank 4 that starts at zero (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(4, base.in_features) / math.sqrt(base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.t() @ self.b.t()
