"""The training loop, its progress bar, the accuracy, and what they say about bad input."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradflow_utils as gf

QUIET = {"progress": False}


class Spy(nn.Module):
    """A linear layer on one feature that notes the batches, the mode and the gradient mode it was called in."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.batches, self.modes = [], []

    def forward(self, x):
        self.batches.append(x[:, 0].tolist())
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.linear(x)


def numbered_rows(n):
    return torch.arange(float(n))[:, None], torch.zeros(n, dtype=torch.int64)


def spy_on_training(n=10, **options):
    spy = Spy()
    gf.train(spy, numbered_rows(n), sgd(spy), **options, **QUIET)
    return spy


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


# train


def test_training_is_the_textbook_loop():
    x, y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    ours, theirs = gf.mlp([6, 5, 3], seed=0), gf.mlp([6, 5, 3], seed=0)
    losses = gf.train(ours, (x, y), torch.optim.Adam(ours.parameters()), steps=4, batch_size=12, **QUIET)

    optimizer, expected = torch.optim.Adam(theirs.parameters()), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(theirs(x), y)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-5, atol=0)
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-6)
    assert not losses.requires_grad


def test_each_pass_over_the_data_takes_every_row_once_in_a_new_order():
    batches = spy_on_training(10, steps=6, batch_size=4).batches
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = sum(batches[:3], []), sum(batches[3:], [])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != sorted(first)


def test_a_batch_is_never_larger_than_the_data():
    assert [len(batch) for batch in spy_on_training(10, steps=2, batch_size=64).batches] == [10, 10]


def test_seed_decides_the_order():
    first, again, other = (spy_on_training(steps=3, seed=seed).batches for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_training_leaves_the_global_generator_alone():
    model = Spy()
    before = torch.get_rng_state()
    gf.train(model, numbered_rows(10), sgd(model), steps=3, seed=1, **QUIET)
    assert torch.equal(torch.get_rng_state(), before)


def test_of_the_digits_it_takes_the_training_rows():
    train, other = numbered_rows(10), (torch.full((10, 1), -1.0), torch.zeros(10, dtype=torch.int64))
    model = Spy()
    data = gf.Digits(gf.Split(*train), gf.Split(*other), gf.Split(*other))
    gf.train(model, data, sgd(model), steps=1, **QUIET)
    assert sorted(model.batches[0]) == list(range(10))


def test_it_trains_in_training_mode():
    model = Spy().eval()
    gf.train(model, numbered_rows(4), sgd(model), steps=1, **QUIET)
    assert model.modes == [(True, True)]


def test_loss_function_gets_output_and_labels():
    x, y = numbered_rows(4)
    model, seen = Spy(), []

    def loss_fn(output, labels):
        seen.append((tuple(output.shape), labels.tolist()))
        return 3 * output.square().mean()

    losses = gf.train(model, (x, y + 7), sgd(model), steps=1, loss_fn=loss_fn, **QUIET)
    assert seen == [((4, 2), [7, 7, 7, 7])]
    assert losses.shape == (1,)


# progress bar


def test_progress_bar_is_text_on_stdout_that_ends_without_a_time(capsys):
    assert list(gf.progress_bar("abc", "counting")) == ["a", "b", "c"]
    printed = capsys.readouterr()
    last = printed.out.rstrip("\n").split("\r")[-1]
    assert re.fullmatch(r"counting: 100%\|█{20}\| 3/3, (00:00|\?) left\s*", last)
    assert printed.err == ""


@pytest.mark.parametrize("progress", [True, False])
def test_training_shows_its_progress_unless_told_not_to(capsys, progress):
    model = Spy()
    gf.train(model, numbered_rows(4), sgd(model), steps=2, progress=progress)
    assert ("training: 100%" in capsys.readouterr().out) is progress


# train_together


def three_networks():
    return [gf.mlp([64, 16, 16, 10], "tanh", init="xavier", seed=seed) for seed in range(3)]


def test_networks_trained_together_end_where_each_would_alone():
    rates = [0.1, 1e9, 0.01]  # the second diverges and must not disturb its neighbours
    together, data = three_networks(), gf.digits()
    losses = gf.train_together(together, data, rates, steps=30, momentum=0.9, batch_size=50, seed=3, **QUIET)
    for index, (ours, alone, rate) in enumerate(zip(together, three_networks(), rates, strict=True)):
        optimizer = torch.optim.SGD(alone.parameters(), lr=rate, momentum=0.9)
        expected = gf.train(alone, data, optimizer, steps=30, batch_size=50, seed=3, **QUIET)
        if rate < 1:
            torch.testing.assert_close(losses[:, index], expected, rtol=1e-4, atol=1e-6)
            for our, their in zip(ours.parameters(), alone.parameters(), strict=True):
                torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-5)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in ours.parameters())
    assert losses.shape == (30, 3) and not losses.requires_grad


def test_networks_trained_together_may_have_parameters_of_any_shape_and_blocks():
    nets = [gf.mlp([64, 16, 16, 10], norm="layer", residual=True, init="he", seed=seed) for seed in range(2)]
    losses = gf.train_together(nets, gf.digits(), [0.05, 0.05], steps=40, **QUIET)
    assert (losses[-5:].mean(0) < losses[:5].mean(0)).all()


class HalfFrozen(nn.Module):
    """Its first layer is frozen, its spare layer not used."""

    def __init__(self):
        super().__init__()
        self.frozen, self.used, self.spare = nn.Linear(64, 16), nn.Linear(16, 10), nn.Linear(10, 10)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.used(torch.tanh(self.frozen(x)))


def test_networks_trained_together_keep_what_is_frozen_or_not_used():
    nets = [HalfFrozen() for _ in range(3)]
    before = [{name: p.clone() for name, p in net.named_parameters()} for net in nets]
    gf.train_together(nets, gf.digits(), [0.1] * 3, steps=2, **QUIET)
    for net, old in zip(nets, before, strict=True):
        moved = {name for name, p in net.named_parameters() if not torch.equal(p, old[name])}
        assert moved == {"used.weight", "used.bias"}
        assert not net.frozen.weight.requires_grad and net.used.weight.requires_grad


@pytest.mark.parametrize(
    ("models", "rates", "message"),
    [
        ([], [], "rates: got 0 for 0 models"),
        (three_networks(), [0.1], "rates: got 1 for 3 models"),
        ([gf.mlp([64, 8, 10]), gf.mlp([64, 9, 10])], [0.1, 0.1], "models: they differ in structure"),
        ([gf.mlp([64, 8, 10]), gf.mlp([64, 8, 10], "tanh")], [0.1, 0.1], "models: they differ in structure"),
        ([gf.mlp([64, 8, 8, 10], residual=s) for s in (0.5, 1.0)], [0.1, 0.1], "models: they differ in structure"),
        ([gf.mlp([64, 8, 10], norm="batch")], [0.1], "running statistics"),
        ([nn.Sequential(nn.Linear(64, 10), nn.Dropout())], [0.1], "dropout"),
        ([nn.ReLU()], [0.1], "has no parameters"),
    ],
)
def test_networks_that_cannot_be_trained_together_are_refused(models, rates, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gf.train_together(models, gf.digits(), rates, steps=1, **QUIET)


# accuracy


def test_accuracy_is_the_share_of_right_labels():
    logits = torch.tensor([[2.0, 1.0], [0.0, 5.0], [1.0, 3.0], [-1.0, -2.0]])
    assert gf.accuracy(nn.Identity(), (logits, torch.tensor([0, 1, 0, 0]))) == 0.75


def test_accuracy_is_measured_in_evaluation_mode_without_gradients():
    model = Spy()
    gf.accuracy(model, numbered_rows(4))
    assert model.modes == [(False, False)]


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_leaves_the_mode_as_it_was_even_after_an_error(training):
    model = Spy().train(training)
    gf.accuracy(model, numbered_rows(4))
    assert model.training is training
    with pytest.raises(RuntimeError):
        gf.accuracy(model, (torch.zeros(4, 7), torch.zeros(4)))
    assert model.training is training


def test_accuracy_leaves_a_part_in_evaluation_mode_where_the_reader_put_it():
    model = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).train()
    model[1].eval()
    gf.accuracy(model, numbered_rows(4))
    assert [part.training for part in model] == [True, False, True]


# bad input


def train_once(model, x, y=None, **options):
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    optimizer = torch.optim.SGD(list(model.parameters()) or [torch.zeros(1)], lr=0.1)
    return gf.train(model, (x, y), optimizer, **{"steps": 1, **QUIET, **options})


def test_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="model: Tanh has no parameters"):
        train_once(nn.Tanh(), torch.zeros(4, 2))


@pytest.mark.parametrize(("inputs", "labels"), [(4, 3), (0, 0)])
def test_unequal_or_empty_data_are_refused(inputs, labels):
    with pytest.raises(ValueError, match=f"data: got {inputs} inputs and {labels} labels, expected equal numbers"):
        train_once(Spy(), torch.zeros(inputs, 1), torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize(("steps", "batch_size"), [(0, 4), (3, 0), (-1, 4)])
def test_fewer_than_one_step_or_row_are_refused(steps, batch_size):
    with pytest.raises(ValueError, match=f"got {steps} and {batch_size}, expected at least 1 each"):
        train_once(Spy(), torch.zeros(4, 1), steps=steps, batch_size=batch_size)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0].mean(1)


@pytest.mark.parametrize(
    ("model", "x", "names"),
    [
        (nn.Linear(8, 2), torch.zeros(4, 7), ["(4, 7)", "float32", "weight", "(2, 8)"]),
        (nn.Linear(8, 2), torch.zeros(4, 8, dtype=torch.float64), ["(4, 8)", "float64", "weight", "float32"]),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), torch.zeros(4, 5, 6, 6), ["(4, 5, 6, 6)", "0.weight"]),
        (nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2)), torch.zeros(4, 7), ["(4, 7)", "0.weight", "(8,)"]),
        (nn.Sequential(nn.BatchNorm2d(8), nn.Flatten()), torch.zeros(4, 8), ["(4, 8)", "0.weight", "(8,)"]),
        (nn.Sequential(nn.Embedding(9, 2), nn.Flatten()), torch.full((4, 1), 9), ["(4, 1)", "0.weight", "(9, 2)"]),
        (Attention(), torch.zeros(4, 5, 6), ["(4, 5, 6)", "attention.in_proj_weight"]),
    ],
    ids=["linear", "type", "convolution", "batch norm", "batch norm of images", "embedding", "attention"],
)
def test_batch_that_any_module_cannot_take_is_refused_with_its_shape_and_the_cause(model, x, names):
    with pytest.raises(ValueError, match="data: the model cannot take a batch") as error:
        train_once(model, x)
    assert all(name in str(error.value) for name in names)
    assert str(error.value.__cause__) in str(error.value)


def test_batch_that_an_mlp_cannot_take_is_refused_with_the_shape_expected():
    with pytest.raises(ValueError, match=r"got shape \(4, 8, 8\), expected \(rows, 64\)"):
        train_once(gf.mlp([64, 10]), torch.zeros(4, 8, 8))


@pytest.mark.parametrize(
    ("loss_fn", "came"),
    [
        (lambda output, y: F.cross_entropy(output, y, reduction="none"), r"shape \(4,\)"),
        (lambda output, y: output.mean().reshape(1), r"shape \(1,\)"),
        (lambda output, y: output.mean().item(), "float"),
    ],
)
def test_loss_that_is_no_scalar_tensor_is_refused(loss_fn, came):
    with pytest.raises(ValueError, match=f"loss_fn: returned {came}, expected a scalar tensor"):
        train_once(Spy(), torch.zeros(4, 1), loss_fn=loss_fn)


def test_optimizer_of_another_network_is_refused():
    """What happens when the cell that makes the network is run again and that of the optimizer is not."""
    old, new = gf.mlp([64, 8, 10], seed=0), gf.mlp([64, 8, 10], seed=0)
    with pytest.raises(ValueError, match="optimizer: it holds no trainable parameter of this model; make a new optimizer"):
        gf.train(new, gf.digits(), torch.optim.SGD(old.parameters(), lr=0.1), steps=1, progress=False)


def test_accuracy_asks_for_one_split():
    with pytest.raises(ValueError, match="split: got all of the digits, expected one split, such as data.validation"):
        gf.accuracy(gf.mlp([64, 8, 10]), gf.digits())


def test_accuracy_refuses_labels_that_would_broadcast():
    data = gf.digits()
    with pytest.raises(ValueError, match=re.escape("got labels of shape (360, 1), expected (360,)")):
        gf.accuracy(gf.mlp([64, 8, 10]), (data.test.x, data.test.y[:, None]))
