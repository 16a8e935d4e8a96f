"""The transformers of the bank, healthy and sick: images as 8 tokens of 8 pixels, and short texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from bank_case import Trial
from bank_tasks import (
    Network, adam, adamw, case, copying, counting, digits, freeze, keywords, padded, per_token, sgd, trained,
)  # fmt: skip
from bank_transformer_parts import WIDTH, Attention, LowRank, Place, encoder, vision
from torch import Tensor, nn

transformer = partial(case, "transformer", task=digits(8, 8))


def altered(network: nn.Module, change: Callable[[nn.TransformerEncoderLayer], object]) -> nn.Module:
    """Apply `change` to each encoder layer."""
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            with torch.no_grad():
                change(module)
    return network


def zero_branches(layer: nn.TransformerEncoderLayer) -> None:
    for parameter in (*layer.self_attn.out_proj.parameters(), *layer.linear2.parameters()):
        parameter.zero_()


def equal_units(layer: nn.TransformerEncoderLayer) -> None:
    """All units of the feed-forward layer get the weights of the first one, inward and outward."""
    layer.linear1.weight[:] = layer.linear1.weight[0].clone()
    layer.linear1.bias[:] = 0.1
    layer.linear2.weight[:] = layer.linear2.weight[:, :1].clone()


def language_model(depth: int = 2, tied: bool = True, mask_by_product: bool = False) -> nn.Module:
    """Predicts the next of 20 words; with `tied` weights the embedding scores the words too."""

    def run(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)
        if mask_by_product:
            mask = torch.ones(length, length).triu(1) * -torch.inf  # 0 * -inf is NaN
        return self.head(self.body(self.place(self.embed(tokens)), mask=mask))

    network = Network(run, embed=nn.Embedding(20, WIDTH), place=Place(12), body=encoder(depth),
                      head=nn.Linear(WIDTH, 20))  # fmt: skip
    nn.init.normal_(network.embed.weight, std=0.3)
    if tied:
        network.head.weight = network.embed.weight
    return network


def word_classifier(detached: bool = False) -> nn.Module:
    """5,000 words, a class token in front, and a pooler as in BERT that nothing reads."""

    def run(self, tokens: Tensor) -> Tensor:
        words = self.embed(tokens)
        if detached:
            with torch.no_grad():
                words = self.position(words)
        else:
            words = self.position(words)
        x = self.body(torch.cat([self.start.expand(len(words), -1, -1), words], 1))
        return self.head(x[:, 0])

    network = Network(run, embed=nn.Embedding(5000, WIDTH), position=nn.Linear(WIDTH, WIDTH), body=encoder(2),
                      pooler=nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), head=nn.Linear(WIDTH, 4))  # fmt: skip
    network.start = nn.Parameter(torch.randn(1, 1, WIDTH))
    return network


def masked_classifier() -> nn.Module:
    """Padded sequences whose steps after the end are masked out of the attention and of the mean."""

    def run(self, x: tuple[Tensor, Tensor]) -> Tensor:
        values, lengths = x
        after = torch.arange(values.shape[1]) >= lengths[:, None]
        h = self.body(self.embed(values), src_key_padding_mask=after)
        return self.head(h.masked_fill(after[..., None], 0).sum(1) / lengths[:, None].clamp(min=1))

    return Network(run, embed=nn.Linear(4, WIDTH), body=encoder(2, dropout=0.1), head=nn.Linear(WIDTH, 4))


def masked_pooling() -> nn.Module:
    """Pools steps by softmax weights written by hand; a sequence without any step has nothing to weigh."""

    def run(self, x: tuple[Tensor, Tensor]) -> Tensor:
        values, lengths = x
        h = self.body(self.embed(values))
        after = torch.arange(values.shape[1]) >= lengths[:, None]
        weights = self.score(h)[..., 0].masked_fill(after, -torch.inf).softmax(1)
        return self.head((weights[..., None] * h).sum(1))

    return Network(run, embed=nn.Linear(4, WIDTH), body=encoder(2), score=nn.Linear(WIDTH, 1), head=nn.Linear(WIDTH, 4))


def translator(detached: bool) -> nn.Module:
    """`nn.Transformer` (post-LN) that copies its source."""

    def run(self, x: tuple[Tensor, Tensor]) -> Tensor:
        source, written = (self.place(self.embed(tokens)) for tokens in x)
        mask = nn.Transformer.generate_square_subsequent_mask(written.shape[1])
        memory = self.body.encoder(source)
        return self.head(self.body.decoder(written, memory.detach() if detached else memory, tgt_mask=mask))

    return Network(
        run,
        embed=nn.Embedding(12, WIDTH),
        place=Place(8),
        body=nn.Transformer(WIDTH, 4, 2, 2, 64, dropout=0.0, batch_first=True),
        head=nn.Linear(WIDTH, 12),
    )


def pooled_by_query() -> nn.Module:
    """One `nn.MultiheadAttention`, asked by a learned query."""

    def run(self, x: Tensor) -> Tensor:
        tokens = self.place(self.embed(x))
        answer = self.attention(self.query.expand(len(x), -1, -1), tokens, tokens)[0]
        return self.head(F.silu(self.inner(answer[:, 0])))

    network = Network(
        run,
        embed=nn.Linear(8, WIDTH),
        place=Place(8),
        attention=nn.MultiheadAttention(WIDTH, 4, batch_first=True),
        inner=nn.Linear(WIDTH, 64),
        head=nn.Linear(64, 10),
    )
    network.query = nn.Parameter(torch.randn(1, 1, WIDTH))
    return network


def low_rank_adapted() -> nn.Module:
    network = vision(nn.Sequential(Attention(), Attention(), nn.LayerNorm(WIDTH)))
    for block in network.body[:2]:
        freeze(block)
        block.query_key_value, block.inner = LowRank(block.query_key_value), LowRank(block.inner)
    freeze(network.embed, network.place)
    return network


def new_head(trial: Trial) -> None:
    """Train, freeze all but the head, and begin with a new one."""
    trained(60)(trial)
    freeze(trial.model.embed, trial.model.place, trial.model.body)
    trial.model.head.reset_parameters()


def zero_head() -> nn.Module:
    network = vision(encoder(3, activation="gelu"))
    nn.init.zeros_(network.head.weight)
    return network


def half_precision_scores() -> nn.Module:
    """Scores of queries and keys, not divided by the square root of the width, in float16: at most 65,504."""

    def run(self, x: Tensor) -> Tensor:
        tokens = self.place(self.embed(x))
        scores = (self.query(tokens) @ self.key(tokens).transpose(1, 2)).half()
        return self.head((scores.softmax(-1).float() @ self.value(tokens)).mean(1))

    parts = {name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")}
    return Network(run, embed=nn.Linear(8, WIDTH), place=Place(8), head=nn.Linear(WIDTH, 10), **parts)


HEALTHY = (
    transformer("pre-LN, 2 layers", "", "shallow and normalised", lambda: vision(encoder(2)), optimizer=adam(2e-3)),
    transformer("pre-LN, 8 layers, GELU and dropout", "", "the skips carry the gradient",
                lambda: vision(encoder(8, activation="gelu", dropout=0.1)), optimizer=adamw(1e-3)),
    transformer("post-LN, 2 layers", "", "post-LN is a matter of depth and warm-up",
                lambda: vision(encoder(2, first=False)),
                optimizer=adam(1e-3)),
    transformer("pre-LN under SGD with momentum", "", "shallow and normalised",
                lambda: vision(encoder(2, activation="gelu")), optimizer=sgd(0.05, 0.9)),
    transformer("transformer with a zero-initialised head", "", "the first step moves the head, the second all others",
                zero_head,
                optimizer=adamw(2e-3)),
    transformer("zero-initialised branches", "", "the last matrix of each branch starts at 0 on purpose",
                lambda: altered(vision(encoder(4)), zero_branches), optimizer=adam(2e-3)),
    transformer("5,000 words and an unused pooler", "", "absent words and the pooler rightly get no gradient",
                word_classifier, task=keywords(5000, 10), optimizer=adam(3e-3)),
    transformer("tied language model", "", "one matrix with two uses; the future is masked", language_model,
                task=counting(20, 12), loss=per_token, optimizer=adam(3e-3)),
    transformer("masked padding", "", "steps after the end rightly get gradient 0", masked_classifier, task=padded(12),
                optimizer=adam(3e-3)),
    transformer("encoder and decoder", "", "normalised; cross-attention reaches the encoder", lambda: translator(False),
                task=copying(12, 8), loss=per_token, optimizer=adam(1e-3)),
    transformer("blocks with functional GELU and attention", "", "the same mathematics without modules",
                lambda: vision(nn.Sequential(*[Attention() for _ in range(4)], nn.LayerNorm(WIDTH))),
                optimizer=adamw(2e-3)),
    transformer("attention with a learned query", "", "shallow", pooled_by_query, optimizer=adam(3e-3)),
    transformer("low-rank adapters", "", "frozen weights are deliberate; down has gradient 0 while up is 0",
                low_rank_adapted, optimizer=adam(3e-3)),
    transformer("frozen encoder", "", "requires_grad=False is deliberate fine-tuning",
                lambda: vision(encoder(2, activation="gelu")), optimizer=adam(3e-3), before=new_head),
    transformer("converged language model", "", "gradients are tiny because the task is solved",
                lambda: language_model(1),
                task=counting(20, 8), loss=per_token, optimizer=adam(3e-3), before=trained(120)),
)  # fmt: skip

SICK = (
    transformer("no skips, no normalisation, 12 blocks", "vanishing", "default-size weights shrink per block",
                lambda: vision(nn.Sequential(*[Attention(skip=False, norm=False) for _ in range(12)])),
                optimizer=adam(1e-4), also=("update too small",)),
    transformer("skips without normalisation, large weights", "exploding",
                "branches stronger than the skips, 10 blocks deep",
                lambda: vision(nn.Sequential(*[Attention(norm=False, gain=2.3) for _ in range(10)])),
                optimizer=adam(1e-5)),
    transformer("rows that are masked altogether", "non-finite", "softmax over nothing but -inf", masked_pooling,
                task=padded(12, shortest=0), optimizer=adam(1e-3)),
    transformer("mask made by 0 times -inf", "non-finite", "0 * -inf is NaN",
                lambda: language_model(mask_by_product=True),
                task=counting(20, 12), loss=per_token, optimizer=adam(1e-3)),
    transformer("scores beyond float16", "non-finite", "raw pixels make scores of 1e5, which are inf there",
                half_precision_scores,
                task=digits(8, 8, scale=255.0), optimizer=adam(1e-3)),
    transformer("dead feed-forward layers", "dead", "biases of -12 silence every hidden unit; the skips hide it",
                lambda: altered(vision(encoder(3)), lambda layer: nn.init.constant_(layer.linear1.bias, -12.0)),
                optimizer=adam(1e-3), also=("symmetry", "disconnected", "vanishing")),
    transformer("saturated feed-forward layers", "saturated", "pre-activations of size 20 into tanh",
                lambda: altered(vision(encoder(2, activation=torch.tanh)), lambda layer: layer.linear1.weight.mul_(30)),
                optimizer=adam(1e-3)),
    transformer("words under no_grad", "disconnected", "embedding and positions are outside the graph",
                lambda: word_classifier(True), task=keywords(5000, 10), optimizer=adam(1e-3)),
    transformer("memory detached from the decoder", "disconnected", "the encoder gets no gradient",
                lambda: translator(True),
                task=copying(12, 8), loss=per_token, optimizer=adam(1e-3)),
    transformer("transformer at learning rate 0.3", "update too large", "each weight moves by 0.3, of a size of 0.2",
                lambda: vision(encoder(2)), optimizer=adam(0.3), steps=6, also=("exploding", "dead", "vanishing")),
    transformer("transformer at learning rate 1e-9", "update too small", "weights of 0.2 move by 1e-9",
                lambda: vision(encoder(2)),
                optimizer=adam(1e-9)),
    transformer("transformer under weight decay of 40 %", "update too large",
                "each step takes 0.4 of every weight away",
                lambda: vision(encoder(2)), optimizer=adamw(1e-4, 4000.0), also=("vanishing", "dead")),
    transformer("equal feed-forward units", "symmetry", "equal weights in and out: equal for ever",
                lambda: altered(vision(encoder(2)), equal_units), optimizer=adam(1e-3)),
)  # fmt: skip

TRANSFORMERS = (*HEALTHY, *SICK)
