"""What `record` writes down, compared with double-precision references, and how it leaves the network behind."""

import copy
import gc
import math
import pickle
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradflow_utils as gf

LAYER_QUANTITIES = ["mean", "std", "row_std", "min", "max", "saturated", "dead", "grad_norm"]
PARAMETER_QUANTITIES = ["weight_norm", "weight_grad_norm"]
NAN = math.nan


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def train_step(model, x, power=2):
    """One forward and backward pass; the loss is the mean of the output to the given power."""
    model.zero_grad()
    model(x).pow(power).mean().backward()


def record_step(model, x, power=2):
    with gf.record(model) as flow:
        train_step(model, x, power)
    return flow


def row(flow, quantity, step=-1):
    return flow[quantity][step].tolist()


def assert_values(flow, quantity, expected, step=-1):
    """Equal to 1e-5 of the value; NaN equals NaN. Means are sums that cancel: they get an absolute slack too."""
    atol = 1e-6 if quantity == "mean" else 0
    expected = torch.tensor([float(torch.as_tensor(value).detach()) for value in expected], dtype=torch.float64)
    torch.testing.assert_close(flow[quantity][step], expected, rtol=1e-5, atol=atol, equal_nan=True)


def hook_count(model):
    modules = [
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    ]
    parameters = [
        len(hooks or ())
        for parameter in model.parameters()
        for hooks in (parameter._post_accumulate_grad_hooks, parameter._backward_hooks)
    ]
    return sum(modules) + sum(parameters)


# References in double precision


def forward_statistics(output):
    """What the docstring of FlowRecord says, written as loops over units."""
    rows = output.detach().double().flatten(1)
    variances = [((unit - unit.mean()) ** 2).mean() for unit in rows.T]
    return {
        "mean": rows.sum() / rows.numel(),
        "std": ((rows - rows.mean()) ** 2).mean().sqrt(),
        "row_std": (sum(variances) / len(variances)).sqrt(),
        "min": min(rows.flatten().tolist()),
        "max": max(rows.flatten().tolist()),
    }


def pass_by_hand(net, x, activation):
    """Outputs of the activations of an `mlp`, the gradients there and those of its parameters, in float64."""
    parameters = [parameter.detach().double().requires_grad_() for parameter in net.parameters()]
    pairs = list(zip(parameters[::2], parameters[1::2]))
    h, pre_activations, outputs = x.double(), [], []
    for weight, bias in pairs[:-1]:
        pre_activations.append(h @ weight.T + bias)
        h = gf.activation(activation).function(pre_activations[-1])
        outputs.append(h)
    loss = (h @ pairs[-1][0].T + pairs[-1][1]).pow(2).mean()
    gradients = torch.autograd.grad(loss, outputs + parameters)
    return pre_activations, outputs, gradients[: len(outputs)], gradients[len(outputs) :], parameters


@pytest.mark.parametrize("activation", sorted(gf.ACTIVATIONS))
def test_record_agrees_with_a_pass_by_hand(activation):
    net, x = gf.mlp([6, 12, 12, 3], activation, "lecun", gain=3.0, seed=0), normal(40, 6)
    net.linear1.bias.data[:5] = -12.0  # some dead and some saturated units
    flow = record_step(net, x)
    pre_activations, outputs, output_gradients, gradients, parameters = pass_by_hand(net, x, activation)

    assert flow.layers == [f"{activation}1", f"{activation}2"]
    assert flow.parameters == [name for name, _ in net.named_parameters()]
    for quantity in ("mean", "std", "row_std", "min", "max"):
        assert_values(flow, quantity, [forward_statistics(output)[quantity] for output in outputs])
    assert_values(flow, "grad_norm", [gradient.square().sum().sqrt() for gradient in output_gradients])
    assert_values(flow, "weight_grad_norm", [gradient.square().sum().sqrt() for gradient in gradients])
    assert_values(flow, "weight_norm", [parameter.square().sum().sqrt() for parameter in parameters])

    entry = gf.activation(activation)
    peak = entry.slope(torch.linspace(-5, 5, 2001, dtype=torch.float64)).max()
    saturated = [(entry.slope(z) < 0.06 * peak).double().mean() if entry.saturates else NAN for z in pre_activations]
    assert_values(flow, "saturated", saturated)
    is_relu = activation == "relu"
    dead = [(output <= 0).all(0).double().mean() if is_relu else NAN for output in outputs]
    assert not is_relu or 0 < dead[0] < 1
    assert_values(flow, "dead", dead)


def test_convolutions_have_one_unit_per_channel_and_place():
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), normal(20, 1, 5, 5)
    net[0].bias.data[:] = torch.tensor([-9.0, 0.0, 0.0, 0.0])
    flow = record_step(net, x)
    output = copy.deepcopy(net).double()(x.double())
    for quantity in ("mean", "std", "row_std", "min", "max"):
        assert_values(flow, quantity, [forward_statistics(output)[quantity]])
    assert_values(flow, "dead", [(output <= 0).all(0).double().mean()])
    assert row(flow, "dead")[0] >= 1 / 4


def test_row_std_sees_the_rows_and_std_sees_everything():
    net = nn.Sequential(nn.Linear(1, 3), gf.activation("identity").module())
    net[0].weight.data.zero_()
    net[0].bias.data[:] = torch.tensor([-1.0, 0.0, 1.0])
    flow = record_step(net, normal(20, 1))
    assert row(flow, "row_std") == [0.0]
    assert_values(flow, "std", [(2 / 3) ** 0.5])


def test_norm_of_the_weights_is_taken_when_the_step_begins():
    net, x = gf.mlp([6, 5, 3], "tanh", seed=0), normal(20, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    norms = []
    with gf.record(net) as flow:
        for _ in range(2):
            norms.append([parameter.detach().double().norm() for parameter in net.parameters()])
            train_step(net, x)
            optimizer.step()
    assert_values(flow, "weight_norm", norms[0], step=0)
    assert_values(flow, "weight_norm", norms[1], step=1)
    assert not torch.equal(flow["weight_norm"][0], flow["weight_norm"][1])


def test_lstm_is_recorded_at_the_first_tensor_of_its_output():
    class LastStep(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            self.seen = self.lstm(x)[0]
            return self.head(self.seen[:, -1])

    net, x = LastStep(), normal(20, 6, 3)
    double = copy.deepcopy(net).double()
    flow = record_step(net, x)
    output = double(x.double())
    outputs = [double.seen, output]
    gradients = torch.autograd.grad(output.pow(2).mean(), outputs)
    assert flow.layers == ["lstm", "head"]
    assert_values(flow, "row_std", [forward_statistics(output)["row_std"] for output in outputs])
    assert_values(flow, "grad_norm", [gradient.norm() for gradient in gradients])


class Outputs(nn.Module):
    """A leaf that wraps its output as told."""

    def __init__(self, wrap):
        super().__init__()
        self.scale, self.wrap = nn.Parameter(torch.ones(())), wrap

    def forward(self, x):
        return self.wrap(self.scale * x)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (None, y),
        lambda y: [y.argmax(1), (y, 2 * y)],
        lambda y: {"skip": None, "states": {"first": y, "second": 2 * y}},
    ],
    ids=["none first", "whole numbers first", "nested dict"],
)
def test_of_nested_outputs_the_first_floating_point_tensor_counts(wrap):
    net, x = Outputs(wrap), normal(20, 3)
    with gf.record(net) as flow:
        net(x)
    assert flow.layers == ["Outputs"]
    assert_values(flow, "max", [x.max()])


def test_layers_without_a_floating_point_output_are_left_out():
    net = nn.Sequential(nn.Linear(3, 3), Outputs(lambda y: y.argmax(1)), nn.Embedding(3, 2))
    assert record_step(net, normal(20, 3)).layers == ["0", "2"]


def test_without_activation_modules_the_leaves_are_the_layers():
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)))
    flow = record_step(net, normal(20, 3))
    assert flow.layers == ["0", "1.0", "1.1"]


def test_layers_stand_in_the_order_in_which_they_ran():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.linear = nn.Tanh(), nn.ReLU(), nn.Linear(3, 3)

        def forward(self, x):
            return self.last(self.first(self.linear(x)))

    assert record_step(Backwards(), normal(20, 3)).layers == ["first", "last"]


class SharedActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.act = nn.Linear(3, 4), nn.Linear(4, 2), nn.Tanh()

    def forward(self, x):
        self.seen = [self.act(self.one(x))]
        self.seen.append(self.act(self.two(self.seen[0])))
        return self.seen[1]


def test_activation_that_runs_twice_has_a_column_per_call_and_counts_anew_each_step():
    net, x = SharedActivation(), normal(20, 3)
    double = copy.deepcopy(net).double()
    with gf.record(net) as flow:
        for _ in range(3):
            train_step(net, x)
    assert flow.layers == ["act", "act:1"]
    gradients = torch.autograd.grad(double(x.double()).pow(2).mean(), double.seen)
    for step in range(3):
        assert_values(flow, "std", [forward_statistics(output)["std"] for output in double.seen], step)
        assert_values(flow, "grad_norm", [gradient.norm() for gradient in gradients], step)


def test_layers_in_residual_blocks_are_named_by_their_path():
    flow = record_step(gf.mlp([6, 5, 5, 3], "tanh", norm="layer", residual=True), normal(20, 6))
    assert flow.layers == ["block1.tanh1", "tanh2"]


# What stands in a record


def test_record_has_one_row_per_step_and_one_column_per_name():
    net = gf.mlp([6, 5, 4, 3], "tanh")
    with gf.record(net) as flow:
        for _ in range(5):
            train_step(net, normal(20, 6))
    assert len(flow) == 5
    assert {(flow[q].shape, flow[q].dtype) for q in LAYER_QUANTITIES} == {((5, 2), torch.float64)}
    assert {(flow[q].shape, flow[q].dtype) for q in PARAMETER_QUANTITIES} == {((5, 6), torch.float64)}
    assert repr(flow) == "FlowRecord(5 steps, 2 layers, 6 parameters)"


@pytest.mark.parametrize(
    ("net", "shape", "weights"),
    [
        (gf.mlp([6, 5, 3], norm="batch"), (6,), ["linear1.weight", "linear2.weight"]),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 4, 4), ["0.weight"]),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 2, 2])), (1, 4, 4), ["0.weight"]),
    ],
    ids=["batch norm", "convolution", "layer norm over images"],
)
def test_weights_are_the_matrices_and_kernels(net, shape, weights):
    assert record_step(net, normal(20, *shape)).weights == weights


def test_unknown_quantity_is_refused_with_the_quantities_there_are():
    flow = record_step(gf.mlp([6, 5, 3]), normal(20, 6))
    with pytest.raises(KeyError, match="'slope' is not recorded") as error:
        flow["slope"]
    assert all(quantity in str(error.value) for quantity in LAYER_QUANTITIES + PARAMETER_QUANTITIES)


def test_frame_has_one_row_per_step_name_and_quantity():
    net = gf.mlp([6, 5, 4, 3], "tanh")
    with gf.record(net) as flow:
        for seed in range(3):
            train_step(net, normal(20, 6, seed=seed))
    frame = flow.to_frame()
    assert list(frame.columns) == ["step", "name", "quantity", "value"]
    assert len(frame) == 3 * (8 * 2 + 2 * 6)
    for quantity, names in [("std", flow.layers), ("weight_grad_norm", flow.parameters)]:
        table = frame[frame.quantity == quantity].pivot(index="step", columns="name", values="value")
        assert table.index.tolist() == [0, 1, 2]
        assert table[names].values.tolist() == flow[quantity].tolist()


# There was none: NaN


def test_frozen_parameters_have_no_gradient_but_a_norm():
    net = gf.mlp([6, 5, 3], "tanh")
    net.linear1.weight.requires_grad_(False)
    flow = record_step(net, normal(20, 6))
    assert flow["weight_grad_norm"][-1].isnan().tolist() == [True, False, False, False]
    assert not flow["weight_norm"].isnan().any()


def test_layer_that_the_loss_does_not_reach_has_no_gradient():
    net = gf.mlp([6, 5, 5, 3], "tanh")
    with gf.record(net) as flow:
        net.zero_grad()
        hidden = []
        net.tanh1.register_forward_hook(lambda module, inputs, output: hidden.append(output))
        net(normal(20, 6))
        hidden[0].sum().backward()
    assert flow["grad_norm"][-1].isnan().tolist() == [False, True]
    assert flow["weight_grad_norm"][-1].isnan().tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize(("rows", "dead"), [(15, NAN), (16, 0.25)])
def test_dead_is_undecided_below_16_rows(rows, dead):
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU())
    net[0].weight.data.zero_()
    net[0].bias.data[:] = torch.tensor([-1.0, 1.0, 1.0, 1.0])
    assert_values(record_step(net, normal(rows, 1)), "dead", [dead])


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_values_that_are_not_finite_are_recorded_as_they_are(value):
    net = Outputs(lambda y: torch.where(torch.arange(20)[:, None] == 7, value, y))
    flow = record_step(net, torch.ones(20, 3))
    assert_values(flow, "mean", [value])
    assert_values(flow, "max", [value])
    assert_values(flow, "std", [NAN])


def test_unit_with_a_nan_is_not_dead():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    net[0].weight.data.zero_()
    net[0].bias.data[:] = -1.0
    net[0].weight.data[0] = NAN
    assert_values(record_step(net, normal(20, 1)), "dead", [0.5])


def test_empty_batch_leaves_a_row_without_values():
    net = gf.mlp([6, 5, 3], "relu")
    with gf.record(net) as flow:
        net(torch.zeros(0, 6)).sum().backward()
    assert len(flow) == 1
    assert all(math.isnan(row(flow, quantity)[0]) for quantity in ("mean", "std", "min", "saturated", "dead"))


# Numbers at the edge of their type


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_neither_vanish_nor_overflow_while_the_gradients_are_finite(size):
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    x = normal(20, 4)
    with gf.record(net) as flow:
        (net(x).sum() * size).backward()
    assert_values(flow, "grad_norm", [size * 80**0.5])
    assert_values(flow, "weight_grad_norm", [parameter.grad.double().norm() for parameter in net.parameters()])


def test_half_precision_does_not_overflow():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).half(), 5e3 * normal(20, 4).half()
    net[0].weight.data[:] = torch.eye(4)
    net[0].bias.data.zero_()
    with gf.record(net) as flow:
        (100 * net(x).float().sum()).backward()
    expected = forward_statistics(x.relu())
    for quantity in ("mean", "std", "row_std"):
        assert row(flow, quantity)[0] == pytest.approx(expected[quantity].item(), rel=2e-3)  # half has 11 bits
    assert_values(flow, "grad_norm", [100 * 80**0.5])


def test_saturation_follows_the_settings_of_the_module():
    net, x = nn.Sequential(nn.Linear(1, 1), nn.ELU(alpha=2.0)), torch.linspace(-6, 6, 100)[:, None]
    net[0].weight.data.fill_(1.0)
    net[0].bias.data.zero_()
    slope = torch.where(x > 0, 1.0, 2 * x.exp())
    assert_values(record_step(net, x), "saturated", [(slope < 0.06 * 2).double().mean()])


# Which passes count


@pytest.mark.parametrize("how", ["eval", "no_grad", "inference_mode"])
def test_passes_that_do_not_train_are_not_recorded(how):
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)
    with gf.record(net) as flow:
        train_step(net, x)
        if how == "eval":
            net.eval()
            net(100 * x).sum().backward()
            net.train()
        else:
            with getattr(torch, how)():
                net(100 * x)
        train_step(net, x)
    assert len(flow) == 2
    for quantity in ("std", "grad_norm", "weight_grad_norm"):
        assert torch.equal(flow[quantity][0], flow[quantity][1])


def test_a_part_that_is_called_on_its_own_is_not_recorded():
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)
    with gf.record(net) as flow:
        train_step(net, x)
        with torch.no_grad():
            net.tanh1(net.linear1(x))
    assert flow.layers == ["tanh1"]


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_recomputed_activations_are_not_counted_twice(use_reentrant):
    net = gf.mlp([6, 5, 5, 3], "tanh")

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=use_reentrant)

    flow = record_step(Checkpointed(), normal(20, 6).requires_grad_())
    assert flow.layers == ["net.tanh1", "net.tanh2"]


@pytest.mark.parametrize(
    "block",
    [
        lambda net, x: None,
        lambda net, x: net.linear1(x),
        lambda net, x: net.eval()(x),
        lambda net, x: torch.no_grad()(net)(x),
    ],
    ids=["no call", "a part alone", "eval", "no_grad"],
)
def test_empty_record_warns_in_the_cell_of_the_reader(block):
    net = gf.mlp([6, 5, 3])
    with pytest.warns(UserWarning, match="nothing was recorded: .* training mode") as caught:
        with gf.record(net) as flow:
            block(net, normal(20, 6))
    assert [warning.filename for warning in caught] == [__file__]
    assert len(flow) == 0 and flow["std"].shape == (0, 0)


def test_record_without_layers_warns():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(3, 3), nn.Tanh()

        def forward(self, x):
            return F.linear(x, self.linear.weight).tanh()

    with pytest.warns(UserWarning, match="nothing was recorded"):
        record_step(Unused(), normal(20, 3))


def test_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="model: Tanh has no parameters"):
        with gf.record(nn.Tanh()):
            pass


# The network stays as it was


@pytest.mark.parametrize("norm", [None, "batch"])
def test_recording_changes_nothing_in_training(norm):
    recorded, plain = (gf.mlp([64, 16, 16, 10], norm=norm, seed=0) for _ in range(2))
    data, options = (normal(100, 64), torch.arange(100) % 10), {"steps": 5, "progress": False}
    with gf.record(recorded):
        gf.train(recorded, data, torch.optim.Adam(recorded.parameters()), **options)
        keys = list(recorded.state_dict())
    gf.train(plain, data, torch.optim.Adam(plain.parameters()), **options)
    assert keys == list(plain.state_dict())
    for ours, theirs in zip(recorded.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_no_hook_stays_behind():
    net = gf.mlp([6, 5, 3])
    with gf.record(net):
        assert hook_count(net) > 0
        train_step(net, normal(20, 6))
    assert hook_count(net) == 0


def test_nothing_is_written_after_the_block():
    net = gf.mlp([6, 5, 3])
    with gf.record(net) as flow:
        loss = net(normal(20, 6)).sum()
    loss.backward()
    train_step(net, normal(20, 6))
    assert len(flow) == 1
    assert flow["grad_norm"].isnan().all() and flow["weight_grad_norm"].isnan().all()


def test_activations_are_not_kept_alive():
    kept = []
    net = gf.mlp([6, 5, 3], "tanh")
    net.tanh1.register_forward_hook(lambda module, inputs, output: kept.append(weakref.ref(output)))
    with gf.record(net):
        train_step(net, normal(20, 6))
        gc.collect()
        assert kept[0]() is None


def test_recording_again_begins_anew():
    net, x = gf.mlp([6, 5, 3]), normal(20, 6)
    first, second = record_step(net, x), record_step(net, x)
    assert (len(first), len(second)) == (1, 1)
    assert first["grad_norm"].tolist() == second["grad_norm"].tolist()


def test_nested_records_are_independent():
    net, x = gf.mlp([6, 5, 3]), normal(20, 6)
    with gf.record(net) as outer:
        train_step(net, x)
        inner = record_step(net, x)
        train_step(net, x)
    assert (len(outer), len(inner)) == (3, 1)
    for quantity in ("std", "grad_norm", "weight_grad_norm"):
        assert [row(outer, quantity, step) for step in range(3)] == 3 * [row(inner, quantity)]


def rows_in_memory():
    gc.collect()
    return sum(len(thing) for thing in gc.get_objects() if type(thing) is gf.FlowRecord)


def through_pickle(net):
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, through_pickle])
def test_copy_made_under_recording_records_nowhere(make_copy):
    net, x = gf.mlp([6, 5, 3]), normal(20, 6)
    with gf.record(net) as flow:
        train_step(net, x)
        twin = make_copy(net)
        before = rows_in_memory()
        for _ in range(3):
            train_step(twin, x)
        assert (len(flow), flow.layers) == (1, ["relu1"])
        assert rows_in_memory() == before
        train_step(net, x)
    assert row(flow, "grad_norm", 0) == row(flow, "grad_norm", 1)


def test_in_place_relu_is_recorded_like_the_other():
    outside = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    inside = copy.deepcopy(outside)
    inside[1].inplace = True
    x = normal(20, 6)
    ours, theirs = record_step(inside, x), record_step(outside, x)
    for quantity in LAYER_QUANTITIES + PARAMETER_QUANTITIES:
        torch.testing.assert_close(ours[quantity], theirs[quantity], equal_nan=True)


def test_output_that_is_changed_in_place_is_recorded_as_it_was():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(3, 3), nn.GELU()  # whose backward pass does not need its output

        def forward(self, x):
            y = self.act(self.linear(x))
            y += 100
            y *= 3
            return y

    flow = record_step(Shifted(), normal(20, 3), power=1)
    assert row(flow, "max")[0] < 100
    assert_values(flow, "grad_norm", [3 * (1 / 60) * 60**0.5])


def test_sparse_gradients_are_recorded():
    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.act = nn.Embedding(9, 4, sparse=True), nn.Tanh()

        def forward(self, x):
            return self.act(self.table(x))

    net, x = Lookup(), torch.tensor([1, 1, 2, 5] * 4)
    flow = record_step(net, x)
    assert_values(flow, "weight_grad_norm", [net.table.weight.grad.to_dense().double().norm()])


# Exceptions


class Stop(BaseException):
    """Passes `except Exception`, like KeyboardInterrupt."""


def fail_in_forward(net, x):
    net.linear2.register_forward_pre_hook(lambda module, inputs: raise_stop())
    train_step(net, x)


def fail_before_backward(net, x):
    net(x)
    raise_stop()


def fail_in_backward(net, x):
    net.linear2.weight.register_hook(lambda gradient: raise_stop())
    train_step(net, x)


def raise_stop():
    raise Stop


@pytest.mark.parametrize("fail", [fail_in_forward, fail_before_backward, fail_in_backward])
def test_exception_passes_on_drops_the_half_step_and_removes_the_hooks(fail):
    net, x = gf.mlp([6, 5, 3]), normal(20, 6)
    with pytest.raises(Stop):
        with gf.record(net) as flow:
            for _ in range(2):
                train_step(net, x)
            fail(net, x)
    assert len(flow) == 2
    assert not flow["weight_grad_norm"].isnan().any()
    assert hook_count(net) == (0 if fail is fail_before_backward else 1)  # the hook of the test itself


def test_finished_step_is_kept_when_something_else_fails():
    net, x = gf.mlp([6, 5, 3]), normal(20, 6)
    with pytest.raises(ValueError, match="batch"):
        with gf.record(net) as flow:
            for _ in range(2):
                train_step(net, x)
            net.eval()(x[:, :2])
    assert len(flow) == 2


def test_exception_before_the_first_step_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Stop):
            with gf.record(gf.mlp([6, 5, 3])):
                raise_stop()


def test_placeholders_do_not_hide_the_other_layers():
    """A plain nn.Identity is no activation; an activation outside the catalogue is one."""
    net = nn.Sequential(nn.Identity(), nn.Linear(4, 3), nn.Mish(), nn.Linear(3, 2), nn.Tanh())
    with gf.record(net) as flow:
        net(torch.ones(20, 4)).sum().backward()
    assert flow.layers == ["2", "4"]


def test_a_model_that_is_one_layer_is_named_after_its_class():
    lstm = nn.LSTM(3, 4)
    with gf.record(lstm) as flow:
        lstm(torch.ones(5, 20, 3))[0].sum().backward()
    assert flow.layers == ["LSTM"]


def test_lazy_layers_are_refused_before_any_hook_is_set():
    net = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    with pytest.raises(ValueError, match="run one batch through it first"), gf.record(net):
        pass
    assert not net._forward_hooks and not net._forward_pre_hooks and not net[1]._forward_hooks


class Functional(nn.Module):
    """Activations that no hook can see, and one module that looks like an activation."""

    def __init__(self, last):
        super().__init__()
        self.body, self.last = nn.ModuleList(nn.Linear(4, 4) for _ in range(4)), last

    def forward(self, x):
        for linear in self.body:
            x = linear(x).relu()
        return self.last(x)


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.LogSoftmax(dim=1)], ids=["sigmoid", "log-softmax"])
def test_a_single_activation_module_does_not_hide_the_network(last):
    net = Functional(last)
    with gf.record(net) as flow:
        net(torch.ones(20, 4)).sum().backward()
    assert flow.layers == ["body.0", "body.1", "body.2", "body.3", "last"]
