"""The recurrent networks of the bank, healthy and sick. Their depth is time."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from bank_tasks import (
    Network, adam, adamw, case, counting, copying, digits, filtering, keywords, padded, per_token, recall, sgd,
    weights_times,
)  # fmt: skip
from torch import Tensor, nn

recurrent = partial(case, "recurrent", task=digits(8, 8))


def reader(kind, features: int, hidden: int, outputs: int, **options) -> nn.Module:
    """A fused recurrent layer, of which only the last time step is read."""
    core = kind(features, hidden, batch_first=True, **options)
    width = hidden * (2 if options.get("bidirectional") else 1)
    return Network(lambda self, x: self.head(self.core(x)[0][:, -1]), core=core, head=nn.Linear(width, outputs))


def labeller(kind, features: int, hidden: int, outputs: int) -> nn.Module:
    """A fused recurrent layer with an output, and so a loss, at every time step."""
    core = kind(features, hidden, batch_first=True)
    return Network(lambda self, x: self.head(self.core(x)[0]), core=core, head=nn.Linear(hidden, outputs))


class CellLoop(nn.Module):
    """A cell called once per time step; `activation` after it makes a linear cell out of none."""

    def __init__(self, features: int, hidden: int, outputs: int, recurrent_weight: Tensor, activation) -> None:
        super().__init__()
        self.inward = nn.Linear(features, hidden)
        self.again = nn.Linear(hidden, hidden, bias=False)
        self.activation = activation
        self.head = nn.Linear(hidden, outputs)
        self.again.weight = nn.Parameter(recurrent_weight)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.again.in_features)
        for step in x.unbind(1):
            h = self.activation(self.inward(step) + self.again(h))
        return self.head(h)


class ModuleCell(nn.Module):
    """`nn.RNNCell` in a loop."""

    def __init__(self, features: int, hidden: int, outputs: int, nonlinearity: str = "tanh") -> None:
        super().__init__()
        self.cell = nn.RNNCell(features, hidden, nonlinearity=nonlinearity)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = None
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h)


def orthogonal(size: int, radius: float) -> Tensor:
    return radius * nn.init.orthogonal_(torch.empty(size, size))


def remembering_lstm() -> nn.Module:
    """Forget biases of 5 keep the cell for about 150 steps (Gers et al. 2000, Jozefowicz et al. 2015)."""
    network = reader(nn.LSTM, 4, 24, 4)
    with torch.no_grad():
        network.core.bias_ih_l0[24:48] = 5.0
    return network


def identity_rnn() -> nn.Module:
    """ReLU with the identity as recurrent matrix (Le et al. 2015)."""
    network = reader(nn.RNN, 4, 32, 4, nonlinearity="relu")
    nn.init.eye_(network.core.weight_hh_l0)
    nn.init.normal_(network.core.weight_ih_l0, std=0.1)
    nn.init.zeros_(network.core.bias_ih_l0)
    nn.init.zeros_(network.core.bias_hh_l0)
    return network


def keyword_reader(detached: bool = False) -> nn.Module:
    """A bidirectional GRU over 5,000 words, averaged over time."""

    def run(self, tokens: Tensor) -> Tensor:
        words = self.embedding(tokens)
        if detached:
            words = words.data
        return self.head(self.core(words)[0].mean(1))

    core = nn.GRU(16, 16, batch_first=True, bidirectional=True)
    return Network(run, embedding=nn.Embedding(5000, 16), core=core, head=nn.Linear(32, 4))


def last_real_step(self, x: tuple[Tensor, Tensor]) -> Tensor:
    values, lengths = x
    return self.head(self.core(values)[0][torch.arange(len(values)), lengths - 1])


def packed(self, x: tuple[Tensor, Tensor]) -> Tensor:
    sequence = nn.utils.rnn.pack_padded_sequence(*x, batch_first=True, enforce_sorted=False)
    return self.head(self.core(sequence)[1][-1])


def mean_of_real_steps(self, x: tuple[Tensor, Tensor]) -> Tensor:
    values, lengths = x
    real = (torch.arange(values.shape[1]) < lengths[:, None])[..., None]
    return self.head((self.core(values)[0] * real).sum(1) / lengths[:, None])


def padded_reader(kind, run) -> nn.Module:
    return Network(run, core=kind(4, 24, batch_first=True), head=nn.Linear(24, 4))


def tied_language_model() -> nn.Module:
    """The matrix that embeds the words scores them as well (Press and Wolf 2017)."""
    network = Network(
        lambda self, tokens: self.head(self.core(self.embedding(tokens))[0]),
        embedding=nn.Embedding(20, 24),
        core=nn.LSTM(24, 24, num_layers=2, batch_first=True),
        head=nn.Linear(24, 20),
    )
    nn.init.normal_(network.embedding.weight, std=0.3)
    network.head.weight = network.embedding.weight
    return network


def attending() -> nn.Module:
    """An LSTM whose 60 outputs are averaged with learned weights: each step has a short way to the loss."""

    def run(self, x: Tensor) -> Tensor:
        h = self.core(x)[0]
        return self.head((self.score(h).softmax(1) * h).sum(1))

    return Network(run, core=nn.LSTM(4, 24, batch_first=True), score=nn.Linear(24, 1), head=nn.Linear(24, 4))


def translator(detached: bool) -> nn.Module:
    """A GRU reads, another GRU writes from the state that the first one ended in."""

    def run(self, x: tuple[Tensor, Tensor]) -> Tensor:
        source, written = x
        state = self.encoder(self.embedding(source))[1]
        return self.head(self.decoder(self.written(written), state.detach() if detached else state)[0])

    return Network(
        run,
        embedding=nn.Embedding(12, 16),
        encoder=nn.GRU(16, 32, batch_first=True),
        written=nn.Embedding(12, 16),
        decoder=nn.GRU(16, 32, batch_first=True),
        head=nn.Linear(32, 12),
    )


def dead_head() -> nn.Module:
    layer = nn.Linear(32, 32)
    nn.init.constant_(layer.bias, -8.0)
    return Network(
        lambda self, x: self.head(F.relu(self.layer(self.core(x)[0][:, -1]))),
        core=nn.GRU(8, 32, batch_first=True),
        layer=layer,
        head=nn.Linear(32, 10),
    )


def equal_units() -> nn.Module:
    """An LSTM and a head of constant weights."""
    network = reader(nn.LSTM, 8, 24, 10)
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.05)
    return network


RECURRENT = (
    recurrent("GRU over 8 rows of an image", "", "short", lambda: reader(nn.GRU, 8, 32, 10), optimizer=adam(3e-3)),
    recurrent("LSTM over 8 rows of an image", "", "short", lambda: reader(nn.LSTM, 8, 32, 10), optimizer=adam(3e-3)),
    recurrent("orthogonal tanh cell in a loop", "", "8 steps at radius 1",
              lambda: CellLoop(8, 32, 10, orthogonal(32, 1.0), torch.tanh), optimizer=sgd(0.05, 0.9)),
    recurrent("linear cell of radius 1 over 60 steps", "", "an orthogonal matrix keeps all norms",
              lambda: CellLoop(4, 32, 4, orthogonal(32, 1.0), nn.Identity()), task=recall(60), optimizer=adam(3e-3)),
    recurrent("RNNCell in a loop", "", "short", lambda: ModuleCell(16, 48, 10), task=digits(4, 16),
              optimizer=adamw(2e-3)),
    recurrent("tanh over 100 steps with a loss at each", "", "early steps learn from early losses",
              lambda: labeller(nn.RNN, 4, 24, 1), task=filtering(100), loss=F.mse_loss, optimizer=adam(3e-3)),
    recurrent("LSTM remembering over 40 steps", "", "forget gates near 1 keep the gradient", remembering_lstm,
              task=recall(40), optimizer=adam(3e-3)),
    recurrent("ReLU with identity matrix over 40 steps", "", "the identity keeps all norms", identity_rnn,
              task=recall(40), optimizer=adam(1e-3)),
    recurrent("5,000 words, few of them in a batch", "", "rows of absent words rightly get gradient 0", keyword_reader,
              task=keywords(5000, 12), optimizer=adam(4e-3)),
    recurrent("LSTM over padded sequences", "", "steps after the end rightly get gradient 0",
              lambda: padded_reader(nn.LSTM, last_real_step), task=padded(16), optimizer=adam(4e-3)),
    recurrent("GRU over packed sequences", "", "steps after the end are left out",
              lambda: padded_reader(nn.GRU, packed), task=padded(16), optimizer=adamw(4e-3)),
    recurrent("tied recurrent language model", "", "one matrix with two uses has the sum of two gradients",
              tied_language_model,
              task=counting(20, 12), loss=per_token, optimizer=adam(4e-3)),
    recurrent("LSTM over 60 steps with attention", "", "each step has a short way to the loss", attending,
              task=recall(60), optimizer=adam(4e-3)),
    recurrent("recurrent translator", "", "20 steps from the first input to the last loss, most are nearer",
              lambda: translator(False), task=copying(12, 6), loss=per_token, optimizer=adam(5e-3)),
    recurrent("tanh over 100 steps, default initialisation", "vanishing", "a radius of 0.6: 0.6^99",
              lambda: reader(nn.RNN, 4, 24, 4), task=recall(100), optimizer=adam(1e-4)),
    recurrent("LSTM over 100 steps, default initialisation", "vanishing", "forget gates of one half: 0.5^99",
              lambda: reader(nn.LSTM, 4, 24, 4), task=recall(100), optimizer=adam(1e-4)),
    recurrent("GRU over 60 steps, default initialisation", "vanishing", "update gates of one half",
              lambda: reader(nn.GRU, 4, 24, 4), task=recall(60), optimizer=sgd(0.05)),
    recurrent("linear cell of radius 1.5 over 40 steps", "exploding", "1.5^39 is 7e6",
              lambda: CellLoop(4, 32, 4, orthogonal(32, 1.5), nn.Identity()), task=recall(40), optimizer=adam(1e-5)),
    recurrent("ReLU cell of gain 3 over 30 steps", "exploding", "a factor of 2.1 per step: 3e9",
              lambda: CellLoop(4, 48, 4, 3 / 48**0.5 * torch.randn(48, 48), F.relu), task=recall(30),
              optimizer=adam(1e-5)),
    recurrent("raw features into tanh", "saturated", "inputs 255 times too large reach the flat ends",
              lambda: reader(nn.RNN, 8, 32, 10), task=digits(8, 8, scale=255.0), optimizer=adam(1e-3),
              also=("vanishing", "exploding")),
    recurrent("large input weights into a tanh cell", "saturated", "pre-activations of size 20",
              lambda: weights_times(40, ModuleCell(8, 32, 10)), optimizer=adam(1e-3), also=("exploding", "vanishing")),
    recurrent("reader detached from writer", "disconnected", "the state is handed on without its graph",
              lambda: translator(True), task=copying(12, 6), loss=per_token, optimizer=adam(5e-3)),
    recurrent("words taken by .data", "disconnected", "the embedding is cut off", lambda: keyword_reader(True),
              task=keywords(5000, 12), optimizer=adam(1e-3)),
    recurrent("mean over sequences of no step", "non-finite", "the mean of nothing is 0 / 0",
              lambda: padded_reader(nn.GRU, mean_of_real_steps), task=padded(16, shortest=0), optimizer=adam(1e-3)),
    recurrent("dead layer after a GRU", "dead", "biases of -8 silence every unit", dead_head, optimizer=adam(1e-3),
              also=("vanishing", "disconnected", "update too small", "symmetry")),
    recurrent("LSTM at learning rate 0.5", "update too large", "each weight moves by 0.5, of a size of 0.1",
              lambda: reader(nn.LSTM, 8, 32, 10), optimizer=adam(0.5), steps=6, also=("saturated", "exploding",
              "vanishing")),
    recurrent("GRU at learning rate 1e-9", "update too small", "weights of 0.1 move by 1e-9",
              lambda: reader(nn.GRU, 8, 32, 10), optimizer=adam(1e-9)),
    recurrent("constant LSTM", "symmetry", "equal units get equal gradients for ever", equal_units,
              optimizer=adam(1e-3)),
)  # fmt: skip
