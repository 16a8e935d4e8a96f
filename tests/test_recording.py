"""What `record` writes down, compared with double-precision references, and how it leaves the network behind."""

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradflow_utils as gf

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from workloads import WORKLOADS  # noqa: E402

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


def forward_statistics(output, units=-1):
    """What the docstring of FlowRecord says, written as loops over units."""
    rows = output.detach().double().movedim(units, -1).flatten(0, -2)
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
    flat = [(entry.slope(z) < 0.06 * peak) & (h != 0) for z, h in zip(pre_activations, outputs)]
    saturated = [one.double().mean() if entry.saturates else NAN for one in flat]
    assert_values(flow, "saturated", saturated)
    has_dead_side = entry.dead_below is not None
    dead = [(z <= entry.dead_below).all(0).double().mean() if has_dead_side else NAN for z in pre_activations]
    assert not has_dead_side or 0 < dead[0] < 1
    assert_values(flow, "dead", dead)
    always_on = [(h > 0).all(0).double().mean() if "relu" in activation else NAN for h in outputs]
    assert_values(flow, "always_on", always_on)
    assert row(flow, "rows") == [40, 40]


def test_convolutions_have_one_unit_per_channel_and_a_row_per_place():
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), normal(20, 1, 5, 5)
    net[0].bias.data[:] = torch.tensor([-9.0, 0.0, 0.0, 9.0])
    flow = record_step(net, x)
    output = copy.deepcopy(net).double()(x.double())
    for quantity in ("mean", "std", "row_std", "min", "max"):
        assert_values(flow, quantity, [forward_statistics(output, units=1)[quantity]])
    assert row(flow, "dead") == [1 / 4]
    assert row(flow, "always_on") == [1 / 4]
    assert row(flow, "rows") == [20 * 9]


def test_activation_registered_before_the_convolutions_has_their_channels_as_units():
    net = nn.ModuleDict({"act": nn.ReLU(), "first": nn.Conv2d(1, 4, 3), "second": nn.Conv2d(4, 4, 3)})
    net.forward = lambda x: net.act(net.second(net.act(net.first(x))))
    assert row(record_step(net, normal(3, 1, 8, 8)), "rows") == [3 * 36, 3 * 16]


class Shared(nn.Module):
    """A convolutional network with BatchNorm, one activation for all and one layer that runs twice."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), activation
        self.twice, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        h = self.act(self.norm(self.first(x)))
        h = self.act(self.twice(h))
        h = self.act(self.twice(h))
        return self.head(h.mean((2, 3)))


def transformer():
    layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3))


class LastState(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 32, num_layers=2, batch_first=True), nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


NETWORKS = {
    "mlp": (lambda: gf.mlp([6, *[24] * 8, 3], "tanh", "xavier"), (40, 6)),
    "wide mlp": (lambda: gf.mlp([6, 300, 300, 3], "gelu", "he"), (70, 6)),
    "transformer": (transformer, (8, 12, 16)),
    "long transformer": (transformer, (16, 40, 16)),
    "lstm": (LastState, (8, 12, 6)),
    "shared relu": (lambda: Shared(nn.ReLU()), (20, 1, 9, 9)),
    "in-place relu": (lambda: Shared(nn.ReLU(inplace=True)), (20, 1, 9, 9)),
    "large silu": (lambda: Shared(nn.SiLU()), (20, 1, 20, 20)),
    "large sigmoid": (lambda: Shared(nn.Sigmoid()), (20, 1, 20, 20)),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_float32_agrees_with_double_precision_to_1e_minus_5(network):
    """Forward statistics from the double outputs; gradients from a record in double precision, checked above."""
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    net, x = make(), normal(*shape)
    double = copy.deepcopy(net).double()
    ours, theirs = record_step(net, x), record_step(double, x.double())
    assert ours.layers == theirs.layers and ours.layers
    for quantity in (*LAYER_QUANTITIES, "always_on", "rows", "time_ratio", *PARAMETER_QUANTITIES, "total_grad_norm"):
        atol = (
            3e-7 if quantity == "mean" else 1e-7 if "grad" in quantity else 0
        )  # a bias before BatchNorm has gradient 0
        exact, value = theirs[quantity], ours[quantity]
        if quantity in ("min", "max"):
            atol = 1e-5 * float(theirs["std"].max())
        torch.testing.assert_close(value, exact, rtol=1e-5, atol=atol, equal_nan=True, msg=lambda m: f"{quantity}: {m}")


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_workloads_are_recorded_as_float64_computes_it_from_the_same_tensors(name):
    torch.manual_seed(0)
    workload, outputs = WORKLOADS[name](), {}

    def keep(layer, tensor):
        tensor.retain_grad()
        outputs[layer] = tensor

    for layer, module in workload.model.named_modules():
        if isinstance(module, (nn.Tanh, nn.LSTM)) or layer == "head":
            take = lambda module, inputs, output, layer=layer: keep(layer, output[0] if type(output) is tuple else output)  # noqa: E731
            module.register_forward_hook(take)
        if layer.endswith("linear2") and "layers" in layer:  # what goes in is what F.relu gave: dropout is 0
            take = lambda module, inputs, layer=layer: keep(layer.replace("linear2", "linear1.relu"), inputs[0])  # noqa: E731
            module.register_forward_pre_hook(take)
    weights = [parameter.detach().clone() for parameter in workload.model.parameters()]
    with gf.record(workload.model, workload.optimizer) as flow:
        workload.step()

    assert flow.layers == list(outputs)
    rows = [output.detach().double().flatten(0, -2) for output in outputs.values()]
    of_relu = "relu" in flow.layers[0]
    expected = {
        "mean": [one.mean() for one in rows],
        "std": [one.std(correction=0) for one in rows],
        "row_std": [one.var(dim=0, correction=0).mean().sqrt() for one in rows],
        "min": [one.min() for one in rows],
        "max": [one.max() for one in rows],
        "saturated": [(one.abs() > 0.94**0.5).double().mean() if "tanh" in flow.layers[0] else NAN for one in rows],
        "dead": [(one <= 0).all(dim=0).double().mean() if of_relu else NAN for one in rows],
        "always_on": [(one > 0).all(dim=0).double().mean() if of_relu else NAN for one in rows],
        "rows": [len(one) for one in rows],
        "grad_norm": [output.grad.double().norm() for output in outputs.values()],
        "weight_norm": [one.double().norm() for one in weights],
        "weight_grad_norm": [one.grad.double().norm() for one in workload.model.parameters()],
        "update_ratio": [
            (now.detach() - then).double().norm() / then.double().norm() if then.any() else NAN
            for now, then in zip(workload.model.parameters(), weights)
        ],
    }
    for quantity, values in expected.items():
        found = flow[quantity][0].where(flow[quantity][0].isfinite(), torch.tensor(NAN, dtype=torch.float64))
        exact = torch.tensor([float(value) for value in values], dtype=torch.float64)
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-7 if quantity == "mean" else 0, equal_nan=True)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.GELU()])
def test_convolutional_network_agrees_with_loops_over_units(activation):
    torch.manual_seed(0)
    net, x = Shared(activation), normal(20, 1, 9, 9)
    double, outputs = copy.deepcopy(net).double(), []
    flow = record_step(net, x)
    double.act.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    gradients = torch.autograd.grad(double(x.double()).pow(2).mean(), outputs)
    assert flow.layers == ["act", "act:1", "act:2"]
    for quantity in ("mean", "std", "row_std", "min", "max"):
        assert_values(flow, quantity, [forward_statistics(output, units=1)[quantity] for output in outputs])
    assert_values(flow, "grad_norm", [gradient.norm() for gradient in gradients])


def test_small_spread_around_a_large_mean_is_measured_exactly():
    net = nn.Sequential(nn.Linear(1, 300), gf.activation("identity").module())
    net[0].weight.data.fill_(1.0)
    net[0].bias.data.fill_(1e4)
    x = normal(300, 1)
    output = net(x)
    assert_values(record_step(net, x), "row_std", [forward_statistics(output)["row_std"]])


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
    assert row(flow, "rows") == [20 * 6, 20]
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
    assert len(frame) == 3 * (12 * 2 + 3 * 6 + 4)
    assert frame[frame.quantity == "total_grad_norm"].value.tolist() == flow["total_grad_norm"].tolist()
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


def test_half_precision_counts_more_rows_than_it_can_hold():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU()).half()
    assert row(record_step(net, normal(70000, 1).half()), "rows") == [70000]


def test_saturation_follows_the_settings_of_the_module():
    net, x = nn.Sequential(nn.Linear(1, 1), nn.ELU(alpha=2.0)), torch.linspace(-6, 6, 100)[:, None]
    net[0].weight.data.fill_(1.0)
    net[0].bias.data.zero_()
    slope = torch.where(x > 0, 1.0, 2 * x.exp())
    assert_values(record_step(net, x), "saturated", [(slope < 0.06 * 2).double().mean()])


# Updates, losses, time steps, histograms


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, lr=1e-2),
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.3),
    ],
    ids=["SGD with momentum", "Adam", "AdamW"],
)
def test_update_ratio_is_what_the_optimizer_state_says(make):
    net, x = gf.mlp([6, 5, 3], "tanh", "lecun", seed=0).double(), normal(20, 6).double()
    net.linear1.bias.data.fill_(0.5)
    net.linear2.bias.data.fill_(0.5)
    optimizer, expected = make(net.parameters()), []
    with gf.record(net, optimizer) as flow:
        for _ in range(3):
            train_step(net, x)
            before = [parameter.detach().clone() for parameter in net.parameters()]
            optimizer.step()
            expected.append(
                [update_by_hand(optimizer, p, w).norm() / w.norm() for p, w in zip(net.parameters(), before)]
            )
    for step in range(3):
        assert_values(flow, "update_ratio", expected[step], step)


def update_by_hand(optimizer, parameter, before):
    group, state = optimizer.param_groups[0], optimizer.state[parameter]
    if "momentum_buffer" in state:  # weight decay is in the buffer
        return group["lr"] * state["momentum_buffer"]
    (beta1, beta2), count = group["betas"], float(state["step"])
    direction = (state["exp_avg"] / (1 - beta1**count)) / (
        (state["exp_avg_sq"] / (1 - beta2**count)).sqrt() + group["eps"]
    )
    return group["lr"] * (direction + group["weight_decay"] * before)


@pytest.mark.parametrize("batch_first", [True, False])
def test_time_ratio_is_that_of_an_rnn_unrolled_by_hand(batch_first):
    rnn = nn.RNN(3, 4, batch_first=batch_first)
    x = normal(5, 7, 3)
    with gf.record(rnn) as flow:
        rnn(x if batch_first else x.transpose(0, 1))[1].pow(2).sum().backward()
    w_in, w_hidden, b_in, b_hidden = (parameter.detach().double() for parameter in rnn.parameters())
    inputs, h = [x[:, t].double().requires_grad_() for t in range(7)], torch.zeros(5, 4, dtype=torch.float64)
    for one in inputs:
        h = torch.tanh(one @ w_in.T + b_in + h @ w_hidden.T + b_hidden)
    gradients = torch.autograd.grad(h.pow(2).sum(), inputs)
    assert_values(flow, "time_ratio", [gradients[0].norm() / gradients[-1].norm()])


def test_losses_of_a_step_are_averaged_and_a_step_without_one_has_none():
    net, x = gf.mlp([6, 5, 3]), normal(20, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gf.record(net, optimizer) as flow:
        for losses in ([1.0, 3.0], [], [5.0]):
            train_step(net, x)
            for loss in losses:
                flow.add_loss(torch.tensor(loss))
            optimizer.step()
    torch.testing.assert_close(flow["loss"], torch.tensor([2.0, NAN, 5.0], dtype=torch.float64), equal_nan=True)
    with pytest.raises(ValueError, match="loss: got float"):
        flow.add_loss(1.0)


def test_histograms_hold_the_shares_of_the_values_between_their_edges():
    net, x = gf.mlp([6, 50, 3], "tanh", seed=0), normal(40, 6)
    with gf.record(net, histograms=True) as flow:
        h = net.tanh1(net.linear1(x))
        train_step(net, x)
    shares, edges = flow.histograms("activation")
    counts, _ = torch.histogram(h.detach().double().flatten(), edges[0, 0])
    assert edges[0, 0, [0, -1]].tolist() == [row(flow, "min")[0], row(flow, "max")[0]]
    torch.testing.assert_close(shares[0, 0], counts / h.numel(), rtol=0, atol=2 / h.numel())
    shares, edges = flow.histograms("gradient")
    assert edges[0, 0, [0, -1]].tolist() == [-20, 10]
    assert shares.sum().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="holds no histograms"):
        record_step(net, x).histograms("activation")


# Memory


def bytes_of(thing, seen):
    """Of objects and tensor storage that a record holds."""
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        storage = thing.untyped_storage()
        own = 0 if storage.data_ptr() in seen else storage.nbytes()
        seen.add(storage.data_ptr())
        return own + sys.getsizeof(thing)
    if callable(thing):
        return 0
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple, set)) else ()
    parts = [*parts, *vars(thing).values()] if hasattr(thing, "__dict__") else parts
    return sys.getsizeof(thing) + sum(bytes_of(part, seen) for part in parts)


def test_record_keeps_64_bytes_per_layer_and_step_and_16_per_parameter_and_step():
    net, x = gf.mlp([6, *[8] * 20, 3], "tanh"), normal(20, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    with gf.record(net, optimizer) as flow:
        for _ in range(500):
            train_step(net, x)
            optimizer.step()
    per_step = bytes_of(flow, set()) / 500
    assert per_step <= 64 * len(flow.layers) + 16 * len(flow.parameters)
