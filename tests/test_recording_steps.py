"""Where `record` sees steps begin and end: accumulated batches, clipping, scalers, closures, `every`, optimizers."""

import copy
import math

import pytest
import torch
from test_recording import (
    LAYER_QUANTITIES,
    PARAMETER_QUANTITIES,
    forward_statistics,
    normal,
    record_step,
    row,
    train_step,
)
from torch import nn

import gradflow_utils as gf

# Steps


def step_of_batches(net, optimizer, batches):
    """One step: the mean over all rows, accumulated over the batches."""
    net.zero_grad()
    for batch in batches:
        (net(batch).pow(2).sum() / sum(map(len, batches))).backward()
    optimizer.step()


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("width", [5, 900])
def test_accumulated_batches_of_different_sizes_equal_their_concatenation(activation, width):
    whole, x = gf.mlp([6, width, width, 3], activation, seed=0).double(), normal(47, 6).double()
    parts = copy.deepcopy(whole)
    flows = []
    for net, batches in [(whole, [x]), (parts, [x[:30], x[30:40], x[40:]])]:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with gf.record(net, optimizer) as flow:
            for _ in range(2):
                step_of_batches(net, optimizer, batches)
        flows.append(flow)
    for quantity in (*LAYER_QUANTITIES, "always_on", "rows", *PARAMETER_QUANTITIES, "update_ratio", "total_grad_norm"):
        torch.testing.assert_close(flows[1][quantity], flows[0][quantity], rtol=1e-10, atol=1e-14, equal_nan=True)
    assert row(flows[1], "rows") == [47, 47]


def test_time_ratio_of_accumulated_batches_equals_that_of_their_concatenation():
    x = normal(7, 9, 3).double()
    ratios = []
    for batches in ([x], [x[:, :5], x[:, 5:]]):
        torch.manual_seed(0)
        rnn = nn.GRU(3, 4).double()
        optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
        with gf.record(rnn, optimizer) as flow:
            for batch in batches:
                rnn(batch)[1].pow(2).sum().backward()
            optimizer.step()
        ratios.append(row(flow, "time_ratio"))
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-12) and ratios[0][0] > 0


def test_recurrent_layer_that_runs_twice_has_a_time_ratio_per_call():
    net = nn.ModuleDict({"rnn": nn.RNN(4, 4)})
    net.forward = lambda x: net.rnn(net.rnn(x)[0])[0]
    flow = record_step(net, normal(5, 20, 4))
    assert flow.layers == ["rnn", "rnn:1"]
    assert not flow["time_ratio"].isnan().any()


def test_norm_before_and_after_clipping_can_both_be_had():
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gf.record(net, optimizer) as flow:
        train_step(net, x)
        before = nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        optimizer.step()
    assert flow["total_grad_norm"].tolist() == pytest.approx([before.item()], rel=1e-5)
    assert flow["applied_grad_norm"].tolist() == pytest.approx([1e-3], rel=2e-3)
    assert any("clipping" in remark for remark in flow.notes)


@pytest.mark.parametrize("zero_first", [True, False])
def test_step_that_a_grad_scaler_skips_is_a_step_without_update(zero_first):
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)
    optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gf.record(net, optimizer) as flow:
        for factor in (1, math.inf, 1):
            if zero_first:
                optimizer.zero_grad()
            loss = net(x).pow(2).mean() * factor
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert flow["rows"].tolist() == [[20]] * 3
    assert flow["update_ratio"].isnan().any(dim=1).tolist() == [False, True, False]
    assert flow["total_grad_norm"].isfinite().tolist() == [True, False, True]
    scales = (flow["total_grad_norm"] / flow["applied_grad_norm"]).tolist()
    assert [scales[0], scales[2]] == pytest.approx([1024, 512], rel=1e-5)


def test_every_k_records_one_step_in_k_and_leaves_the_layers_alone_in_the_others():
    net, x, hooked = gf.mlp([6, 5, 3], "tanh"), normal(20, 6), []
    with gf.record(net, every=3) as flow:
        for step in range(8):
            train_step(net, (1 + step) * x)
            hooked.append(len(net.tanh1._forward_hooks))
    assert flow.steps == [0, 3, 6]
    assert hooked == [1, 0, 0, 1, 0, 0, 1, 0]
    expected = [forward_statistics(net.tanh1(net.linear1((1 + step) * x)))["std"].item() for step in flow.steps]
    assert flow["std"][:, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert flow.to_frame().step.unique().tolist() == [0, 3, 6]


def test_every_k_goes_on_if_the_loss_uses_the_second_output_alone():
    net = nn.ModuleDict({"one": nn.Linear(6, 4), "act": nn.Tanh(), "unused": nn.Linear(4, 2), "used": nn.Linear(4, 2)})

    def forward(x):
        h = net.act(net.one(x))
        return net.unused(h), net.used(h)

    net.forward = forward
    with gf.record(net, every=2) as flow:
        for _ in range(5):
            net(normal(20, 6))[1].sum().backward()
    assert flow.steps == [0, 2, 4]


def test_recurrent_root_has_its_time_ratio_in_each_recorded_step():
    rnn = nn.RNN(3, 4)
    with gf.record(rnn, every=2) as flow:
        for _ in range(4):
            rnn(normal(5, 20, 3))[0].sum().backward()
    assert flow["time_ratio"].shape == (2, 1) and not flow["time_ratio"].isnan().any()


def test_two_optimizers_end_one_step_and_an_optimizer_alone_measures_its_own():
    net, x = gf.mlp([6, 5, 3], "tanh", "lecun"), normal(20, 6)
    nn.init.ones_(net.linear1.bias), nn.init.ones_(net.linear2.bias)
    both = [torch.optim.SGD(net[name].parameters(), lr=0.1) for name in (0, 2)]
    for optimizers, missing in [(both, [False] * 4), (both[1], [True, True, False, False])]:
        with gf.record(net, optimizers) as flow:
            for _ in range(3):
                train_step(net, x)
                for optimizer in both:
                    optimizer.step()
        assert flow["rows"].tolist() == [[20]] * 3
        assert flow["update_ratio"].isnan().tolist() == [missing] * 3


def test_optimizer_of_another_model_is_refused():
    net = gf.mlp([6, 5, 3])
    with pytest.raises(ValueError, match="optimizer: it holds no parameter of this model"):
        with gf.record(net, torch.optim.SGD(gf.mlp([6, 5, 3]).parameters(), lr=0.1)):
            pass
    with pytest.raises(TypeError, match="optimizer: got str"), gf.record(net, "adam"):
        pass


def test_closure_of_an_optimizer_belongs_to_its_step():
    net, x = gf.mlp([6, 5, 3], "tanh", "lecun"), normal(20, 6)
    nn.init.ones_(net.linear1.bias), nn.init.ones_(net.linear2.bias)
    optimizer, expected = torch.optim.LBFGS(net.parameters(), max_iter=3), []

    def closure():
        optimizer.zero_grad()
        loss = net(x).pow(2).mean()
        loss.backward()
        return loss

    with gf.record(net, optimizer) as flow:
        for _ in range(3):
            before = [one.detach().double() for one in net.parameters()]
            before = [one.clone() for one in before]
            optimizer.step(closure)
            expected.append([(one - old).norm() / old.norm() for one, old in zip(net.parameters(), before)])
    assert len(flow) == 3
    for step in range(3):
        assert row(flow, "update_ratio", step) == pytest.approx([one.item() for one in expected[step]], rel=1e-4)


def test_reading_inside_the_block_shows_the_finished_steps_alone():
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gf.record(net, optimizer) as flow:
        for step in range(3):
            train_step(net, x)
            assert len(flow) == step
            optimizer.step()
            assert flow["update_ratio"].shape == (step + 1, 4)


def test_a_loss_after_the_block_is_refused():
    net = gf.mlp([6, 5, 3], "tanh")
    with gf.record(net) as flow:
        loss = net(normal(20, 6)).sum()
        loss.backward()
    with pytest.raises(ValueError, match="loss: the recording is over"):
        flow.add_loss(loss)


def test_parameters_that_no_optimizer_holds_are_named_and_are_no_clipping():
    net = gf.mlp([6, 5, 3], "tanh", seed=0)
    optimizer = torch.optim.SGD(net.linear2.parameters(), 0.1)
    with gf.record(net, optimizer) as flow:
        net(normal(20, 6)).pow(2).mean().backward()
        optimizer.step()
    assert flow.notes == {"trainable, but in no optimizer that was given": ["linear1.weight", "linear1.bias"]}
