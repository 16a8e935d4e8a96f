"""The transformers of the second bank: each function maps a seed to a `Trial`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from bank_case import Trial
from second_bank_attention import Attention, Block, Decoder, GatedBlock, LowRank, Rows, RowTransformer
from second_bank_data import digit_batches, generator, token_batches
from second_bank_parts import per_token, redraw


def _rows(seed: int, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 12) -> Trial:
    return Trial(model, digit_batches(seed, 8, 8), F.cross_entropy, optimizer, steps)


def pre_norm_twelve(seed: int) -> Trial:
    model = RowTransformer(32, 12, dropout=0.1, activation="gelu", norm_first=True)
    return _rows(seed, model, AdamW(model.parameters(), 1e-3), steps=10)


def post_norm_two(seed: int) -> Trial:
    model = RowTransformer(64, 2, dropout=0.0)
    return _rows(seed, model, Adam(model.parameters(), 1e-3))


def gpt_tied(seed: int) -> Trial:
    model = Decoder(40, 48, 6)
    return Trial(
        model, token_batches(seed, 40, 16), per_token(F.cross_entropy), AdamW(model.parameters(), 5e-4), steps=10
    )


def embedding_without_gradient(seed: int) -> Trial:
    model = Decoder(40, 32, 4, frozen_below=1)
    model.out.weight = nn.Parameter(0.02 * torch.randn(40, 32))  # not tied here: nothing else trains the embedding
    return Trial(model, token_batches(seed, 40, 12), per_token(F.cross_entropy), AdamW(model.parameters(), 5e-4))


def rmsnorm_swiglu(seed: int) -> Trial:
    model = nn.Sequential(
        nn.Embedding(40, 48), *[GatedBlock(48) for _ in range(4)], nn.RMSNorm(48), nn.Linear(48, 40, bias=False)
    )
    return Trial(model, token_batches(seed, 40, 16), per_token(F.cross_entropy), AdamW(model.parameters(), 2e-3))


class VisionTransformer(nn.Module):
    """Patches by a convolution, a class token, a head that starts at zero (Dosovitskiy et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, 32))
        self.blocks = nn.Sequential(*[Block(32) for _ in range(4)])
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def vision_zero_head(seed: int) -> Trial:
    model = VisionTransformer()
    return Trial(model, digit_batches(seed, 1, 8, 8), F.cross_entropy, AdamW(model.parameters(), 1e-3))


class Translator(nn.Module):
    """`nn.Transformer` from source to target."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(12, 32), nn.Embedding(13, 32)
        self.position = nn.Parameter(0.1 * torch.randn(6, 32))
        self.transformer = nn.Transformer(32, 4, 2, 2, 64, dropout=0.0, batch_first=True)
        self.out = nn.Linear(32, 12)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(6)
        source, target = self.source(pair[0]) + self.position, self.target(pair[1]) + self.position
        return self.out(self.transformer(source, target, tgt_mask=mask, tgt_is_causal=True))


def encoder_decoder(seed: int) -> Trial:
    model = Translator()

    def batch(step: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        source = torch.randint(12, (32, 6), generator=generator(seed, step))
        begun = torch.cat([torch.full((32, 1), 12), source[:, :-1]], 1)  # 12 begins a sentence; the task is to copy
        return (source, begun), source

    return Trial(model, batch, per_token(F.cross_entropy), Adam(model.parameters(), 2e-3))


class MaskedModel(nn.Module):
    """BERT: an encoder of `torch.nn` under a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 32, padding_idx=0)
        self.position = nn.Parameter(0.1 * torch.randn(16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.out = nn.Linear(32, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.encoder(self.embed(tokens) + self.position, src_key_padding_mask=tokens == 0))


def masked_language(seed: int) -> Trial:
    model = MaskedModel()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        source = generator(seed, step)
        start = torch.randint(30, (32, 1), generator=source)
        tokens = 1 + (start + torch.arange(16)) % 30  # counting
        padding = torch.arange(16) >= torch.randint(8, 17, (32, 1), generator=source)
        hidden = (torch.rand(32, 16, generator=source) < 0.15) & ~padding
        hidden[:, 3] = True
        return tokens.masked_fill(hidden, 31).masked_fill(padding, 0), tokens.masked_fill(~hidden, -100)

    return Trial(model, batch, per_token(F.cross_entropy), AdamW(model.parameters(), 2e-3))


def pre_norm_twenty_four(seed: int) -> Trial:
    model = Rows(16, *[Block(16, heads=2) for _ in range(24)], nn.LayerNorm(16))
    return _rows(seed, model, AdamW(model.parameters(), 1e-3), steps=10)


def low_rank_adapters(seed: int) -> Trial:
    model = Rows(32, *[Block(32) for _ in range(4)], nn.LayerNorm(32)).requires_grad_(False)
    for block in model.blocks[:4]:
        block.attention.qkv = LowRank(block.attention.qkv)
        block.attention.out = LowRank(block.attention.out)
    model.head.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _rows(seed, model, AdamW(trained, 2e-3))


def no_residual(seed: int) -> Trial:
    model = Rows(32, *[Block(32, norm=nn.Identity, skip=False) for _ in range(8)])
    return _rows(seed, model, Adam(model.parameters(), 1e-3))


def no_norm_large_weights(seed: int) -> Trial:
    model = Rows(64, *[Block(64, norm=nn.Identity) for _ in range(8)])
    redraw(model, lambda weight: nn.init.normal_(weight, std=0.2))
    return _rows(seed, model, Adam(model.parameters(), 1e-4), steps=10)


def tanh_standard_normal(seed: int) -> Trial:
    model = Rows(64, *[Block(64, activation=nn.Tanh) for _ in range(3)])
    for block in model.blocks:
        redraw(block.feed_forward, nn.init.normal_)
    return _rows(seed, model, Adam(model.parameters(), 1e-3))


def dead_feed_forward(seed: int) -> Trial:
    model = Rows(32, *[Block(32, activation=nn.ReLU) for _ in range(4)], nn.LayerNorm(32))
    for block in model.blocks[:4]:
        nn.init.constant_(block.feed_forward[0].bias, -4.0)
    return _rows(seed, model, Adam(model.parameters(), 1e-3))


def adam_rate_too_large(seed: int) -> Trial:
    model = RowTransformer(32, 3, dropout=0.0)
    return _rows(seed, model, Adam(model.parameters(), 0.3), steps=6)


def warm_up_never_stepped(seed: int) -> Trial:
    model = RowTransformer(32, 4, dropout=0.1, norm_first=True)
    optimizer = AdamW(model.parameters(), 1e-3)
    LambdaLR(optimizer, lambda step: min(1.0, step / 4000))  # the loop forgets scheduler.step()
    return _rows(seed, model, optimizer)


def constant_feed_forward(seed: int) -> Trial:
    model = Rows(32, *[Block(32, norm=nn.RMSNorm) for _ in range(3)], nn.RMSNorm(32))
    for block in model.blocks[:3]:
        redraw(block.feed_forward, lambda weight: nn.init.constant_(weight, 0.05))
    return _rows(seed, model, SGD(model.parameters(), 0.01, momentum=0.9))


class MaskedClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 32, padding_idx=0)
        self.norm, self.attention = nn.LayerNorm(32), Attention(32, 4)
        self.head = nn.Linear(32, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attention(self.norm(x), padding=tokens == 0)
        return self.head(x[:, 0])


def fully_masked_row(seed: int) -> Trial:
    model = MaskedClassifier()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(1, 30, (32, 10), generator=generator(seed, step))
        label = (tokens[:, 0] > 15).long()
        tokens[7] = 0  # an empty sentence: softmax over nothing
        return tokens, label

    return Trial(model, batch, F.cross_entropy, Adam(model.parameters(), 1e-3))
