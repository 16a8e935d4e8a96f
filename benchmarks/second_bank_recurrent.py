"""The recurrent networks of the second bank: each function maps a seed to a `Trial`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import SGD, Adam, AdamW, RMSprop

from bank_case import Trial
from second_bank_data import digit_batches, generator, normal, recall_batches, token_batches, wave_batches
from second_bank_parts import LastStep, layers, per_token, redraw, train


def lstm_rows(seed: int) -> Trial:
    model = LastStep(nn.LSTM(8, 64, batch_first=True), 10)
    return Trial(model, digit_batches(seed, 8, 8), F.cross_entropy, Adam(model.parameters(), 3e-3))


class CellForecaster(nn.Module):
    """A cell in a loop, a prediction at every step."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell
        self.out = nn.Linear(cell.hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.cell.hidden_size)
        predictions = []
        for value in x.unbind(1):
            h = self.cell(value, h)
            predictions.append(self.out(h))
        return torch.stack(predictions, 1)


def gru_cell_waves(seed: int) -> Trial:
    model = CellForecaster(nn.GRUCell(1, 32))
    return Trial(model, wave_batches(seed, 24), F.mse_loss, Adam(model.parameters(), 3e-3))


def orthogonal_tanh(seed: int) -> Trial:
    model = LastStep(nn.RNN(4, 64, batch_first=True), 10)
    nn.init.orthogonal_(model.recurrent.weight_hh_l0)
    return Trial(model, digit_batches(seed, 16, 4), F.cross_entropy, RMSprop(model.parameters(), 3e-4))


class LanguageModel(nn.Module):
    """Two LSTM layers with dropout; the output uses the embedding's weights (Press and Wolf 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 48)
        self.lstm = nn.LSTM(48, 48, num_layers=2, dropout=0.2, batch_first=True)
        self.out = nn.Linear(48, 50)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(tokens))[0])


def language_model(seed: int) -> Trial:
    model = LanguageModel()
    return Trial(model, token_batches(seed, 50, 20), per_token(F.cross_entropy), AdamW(model.parameters(), 3e-3))


class PackedTagger(nn.Module):
    """A bidirectional GRU over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 24, padding_idx=0)
        self.gru = nn.GRU(24, 32, batch_first=True, bidirectional=True)
        self.out = nn.Linear(64, 3)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        packed = pack_padded_sequence(self.embed(inputs["tokens"]), inputs["lengths"], True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=inputs["tokens"].shape[1])
        return self.out(output)


def packed_tagger(seed: int) -> Trial:
    model = PackedTagger()

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        source = generator(seed, step)
        tokens = torch.randint(1, 30, (32, 14), generator=source)
        lengths = torch.randint(4, 15, (32,), generator=source)
        padding = torch.arange(14) >= lengths[:, None]
        tags = (tokens + tokens.roll(1, 1)) % 3  # each tag depends on the token and the one before
        return {"tokens": tokens.masked_fill(padding, 0), "lengths": lengths}, tags.masked_fill(padding, -100)

    return Trial(model, batch, per_token(F.cross_entropy), Adam(model.parameters(), 5e-3))


def identity_relu(seed: int) -> Trial:
    model = LastStep(nn.RNN(4, 64, nonlinearity="relu", batch_first=True), 10)
    nn.init.eye_(model.recurrent.weight_hh_l0)
    for bias in (model.recurrent.bias_hh_l0, model.recurrent.bias_ih_l0):
        nn.init.zeros_(bias)
    return Trial(model, digit_batches(seed, 16, 4), F.cross_entropy, Adam(model.parameters(), 3e-4))


class Seq2Seq(nn.Module):
    """Reads the source, then writes the target with teacher forcing."""

    def __init__(self, detach: bool = False) -> None:
        super().__init__()
        self.embed_source, self.embed_target = nn.Embedding(12, 16), nn.Embedding(13, 16)
        self.encoder = nn.GRU(16, 48, batch_first=True)
        self.decoder = nn.GRU(16, 48, batch_first=True)
        self.out = nn.Linear(48, 12)
        self.detach = detach

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        source, target = pair
        _, state = self.encoder(self.embed_source(source))
        if self.detach:
            state = state.detach()
        return self.out(self.decoder(self.embed_target(target), state)[0])


def _seq2seq(seed: int, detach: bool) -> Trial:
    model = Seq2Seq(detach)

    def batch(step: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        source = torch.randint(12, (32, 6), generator=generator(seed, step))
        target = source.flip(1)
        begun = torch.cat([torch.full((32, 1), 12), target[:, :-1]], 1)  # 12 begins a sentence
        return (source, begun), target

    return Trial(model, batch, per_token(F.cross_entropy), Adam(model.parameters(), 5e-3))


def seq2seq(seed: int) -> Trial:
    return _seq2seq(seed, detach=False)


def seq2seq_detached(seed: int) -> Trial:
    return _seq2seq(seed, detach=True)


class CellClassifier(nn.Module):
    """An LSTM cell in a loop, a class at the end; a large forget bias (Jozefowicz et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(5, 32)
        self.head = nn.Linear(32, 4)
        with torch.no_grad():
            self.cell.bias_ih[32:64] += 3.0

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 32)
        for value in x.unbind(1):
            h, c = self.cell(value, (h, c))
        return self.head(h)


def forget_bias(seed: int) -> Trial:
    model = CellClassifier()
    return Trial(model, recall_batches(seed, 40), F.cross_entropy, Adam(model.parameters(), 5e-3))


class Stateful(nn.Module):
    """Carries its state from chunk to chunk of one long sequence and cuts the graph there, as it must."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, 32, batch_first=True)
        self.out = nn.Linear(32, 1)
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        output, (h, c) = self.rnn(x, self.state)
        self.state = (h.detach(), c.detach())
        return self.out(output)


def truncated(seed: int) -> Trial:
    model = Stateful()
    speed = 0.2 + 0.4 * torch.rand(32, 1, generator=generator(seed, 0))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        wave = torch.sin(speed * (16 * step + torch.arange(17)))
        return wave[:, :-1, None], wave[:, 1:, None]

    return Trial(model, batch, F.mse_loss, Adam(model.parameters(), 2e-3))


def tanh_sixty_steps(seed: int) -> Trial:
    model = LastStep(nn.RNN(5, 32, batch_first=True), 4)
    return Trial(model, recall_batches(seed, 60), F.cross_entropy, Adam(model.parameters(), 1e-3))


def lstm_hundred_steps(seed: int) -> Trial:
    model = LastStep(nn.LSTM(5, 32, batch_first=True), 4)
    return Trial(model, recall_batches(seed, 100), F.cross_entropy, Adam(model.parameters(), 1e-3))


class PlainRecurrence(nn.Module):
    """h = relu(W x + U h), written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(5, 32)
        self.state = nn.Linear(32, 32, bias=False)
        self.head = nn.Linear(32, 4)
        nn.init.normal_(self.state.weight, std=0.4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 32)
        for value in x.unbind(1):
            h = torch.relu(self.inputs(value) + self.state(h))
        return self.head(h)


def relu_explodes(seed: int) -> Trial:
    model = PlainRecurrence()
    return Trial(model, recall_batches(seed, 40), F.cross_entropy, Adam(model.parameters(), 1e-4))


def raw_sensor_values(seed: int) -> Trial:
    model = LastStep(nn.RNN(6, 32, batch_first=True), 1)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        z = normal(32, 12, 6, source=generator(seed, step))
        return 300 + 100 * z, (z.mean((1, 2)) > 0).float()[:, None]

    return Trial(model, batch, F.binary_cross_entropy_with_logits, SGD(model.parameters(), 0.01))


def adam_rate_too_large(seed: int) -> Trial:
    model = LastStep(nn.LSTM(8, 48, batch_first=True), 10)
    return Trial(model, digit_batches(seed, 8, 8), F.cross_entropy, Adam(model.parameters(), 0.3), steps=6)


def rate_too_small(seed: int) -> Trial:
    model = LastStep(nn.GRU(8, 48, batch_first=True), 10)
    return Trial(model, digit_batches(seed, 8, 8), F.cross_entropy, AdamW(model.parameters(), 1e-9))


def constant_gru(seed: int) -> Trial:
    model = redraw(LastStep(nn.GRU(8, 32, batch_first=True), 10), lambda weight: nn.init.constant_(weight, 0.05))
    return Trial(model, digit_batches(seed, 8, 8), F.cross_entropy, Adam(model.parameters(), 1e-3))


class MeanPool(nn.Module):
    """Averages the outputs of a GRU over the words that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 24, padding_idx=0)
        self.gru = nn.GRU(24, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        there = (tokens != 0).float()[:, :, None]
        return self.head((self.gru(self.embed(tokens))[0] * there).sum(1) / there.sum(1))


def empty_sequence(seed: int) -> Trial:
    model = MeanPool()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(1, 30, (32, 10), generator=generator(seed, step))
        label = (tokens[:, 0] > 15).long()
        tokens[5] = 0  # an empty comment
        return tokens, label

    return Trial(model, batch, F.cross_entropy, Adam(model.parameters(), 1e-3))


class ReluHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 32, batch_first=True)
        self.head = nn.Sequential(*layers([32, 64, 64, 1], nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


def dead_head(seed: int) -> Trial:
    model, waves = ReluHead(), wave_batches(seed, 12)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = waves(step)
        return x, 30.0 + 15.0 * y[:, -1]  # the target is never scaled

    trial = train(Trial(model, batch, F.mse_loss, SGD(model.parameters(), 1e-2)), 6)
    trial.optimizer.param_groups[0]["lr"] = 1e-4
    return trial
