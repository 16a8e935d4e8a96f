"""How `record` behaves when the network, or the reader, is not polite: every promise has a test."""

import copy
import gc
import io
import pickle
import threading
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from test_recording import (
    LAYER_QUANTITIES,
    PARAMETER_QUANTITIES,
    Outputs,
    assert_values,
    forward_statistics,
    hook_count,
    normal,
    record_step,
    row,
    train_step,
    transformer,
)
from torch import nn
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils.checkpoint import checkpoint

import gradflow_utils as gf

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


def through_torch_save(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, through_pickle, through_torch_save])
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


def test_dead_units_of_an_in_place_silu_are_undecided_since_its_input_is_gone():
    flow = record_step(nn.Sequential(nn.Linear(6, 5), nn.SiLU(inplace=True), nn.Linear(5, 3)), normal(20, 6))
    assert flow["dead"].isnan().all()


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
    """Activations that are functions, and one module that looks like an activation."""

    def __init__(self, last):
        super().__init__()
        self.body, self.last = nn.ModuleList(nn.Linear(4, 4) for _ in range(4)), last

    def forward(self, x):
        for linear in self.body:
            x = linear(x).relu()
        return self.last(x)


@pytest.mark.parametrize(
    ("last", "layers"), [(nn.Sigmoid(), ["last"]), (nn.LogSoftmax(dim=1), [])], ids=["sigmoid", "log-softmax"]
)
def test_activations_that_are_called_as_functions_are_named_after_the_module_that_ran_last(last, layers):
    net, x = Functional(last), normal(20, 4)
    double, outputs = copy.deepcopy(net).double(), []
    flow = record_step(net, x)
    assert flow.layers == ["body.0.relu", "body.1.relu", "body.2.relu", "body.3.relu", *layers]
    h = x.double()
    for linear in double.body:
        outputs.append(h := linear(h).relu())
    gradients = torch.autograd.grad(double.last(h).pow(2).mean(), outputs)
    assert_values(flow, "grad_norm", [*(g.norm() for g in gradients), *row(flow, "grad_norm")[4:]])
    assert row(flow, "std")[:4] == pytest.approx([output.std(correction=0).item() for output in outputs], rel=1e-5)


# What cannot be seen, and why


def notes_on(flow, name):
    return [remark for remark, names in flow.notes.items() if name in names]


def test_modules_that_are_never_called_are_named():
    flow = record_step(transformer(), normal(2, 5, 16))
    names = [f"0.layers.{number}.self_attn.out_proj" for number in range(2)]
    assert flow.notes == {"never called as a module, so not seen": names}
    assert flow.layers == ["0.layers.0.linear1.relu", "0.layers.1.linear1.relu"]


def test_frozen_parameters_are_named():
    net = gf.mlp([6, 5, 3], "tanh")
    net.linear1.weight.requires_grad_(False)
    assert record_step(net, normal(20, 6)).notes == {"no gradient: frozen (requires_grad=False)": ["linear1.weight"]}


def test_without_any_gradient_the_totals_are_nan_not_zero():
    net = gf.mlp([6, 5, 3], "tanh").requires_grad_(False)
    flow = record_step(net, normal(20, 6).requires_grad_())
    assert flow["total_grad_norm"].isnan().all() and flow["weight_grad_norm"].isnan().all()
    assert flow["grad_norm"][0, 0] > 0


@pytest.mark.parametrize("how", ["eval", "no_grad", "inference_mode"])
def test_evaluation_mode_records_each_forward_pass_without_gradients_and_says_so(how):
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)
    with gf.record(net, mode="evaluation") as flow:
        train_step(net, 100 * x)  # does not count
        if how == "eval":
            net.eval()
            net(x), net(x)
        else:
            with getattr(torch, how)():
                net(x), net(x)
    assert (len(flow), row(flow, "rows", 0), row(flow, "rows", 1)) == (2, [20], [20])
    assert_values(flow, "std", [forward_statistics(net.tanh1(net.linear1(x)))["std"]])
    assert flow["grad_norm"].isnan().all() and flow["weight_grad_norm"].isnan().all()
    assert notes_on(flow, "tanh1") == ["no gradient: no backward pass"]


def test_layer_that_the_loss_does_not_reach_is_named():
    net, x = gf.mlp([6, 5, 5, 3], "tanh"), normal(20, 6)
    with gf.record(net) as flow:
        hidden = []
        net.tanh1.register_forward_hook(lambda module, inputs, output: hidden.append(output))
        net(x)
        hidden[0].sum().backward()
    assert notes_on(flow, "tanh2") == ["no gradient: the loss does not reach it, or it ran without gradients"]
    assert notes_on(flow, "linear3.bias") == ["no gradient: the loss does not reach it"]


def test_network_on_the_meta_device_is_skipped_with_a_note():
    net = gf.mlp([6, 5, 3]).to("meta")
    with pytest.warns(UserWarning, match="MLP: parameters without data"), gf.record(net) as flow:
        net(torch.empty(4, 6, device="meta"))
    assert len(flow) == 0


def functional(net, x):
    parameters = {name: one.detach().clone().requires_grad_() for name, one in net.named_parameters()}
    torch.func.functional_call(net, parameters, (100 * x,)).sum().backward()


def functional_gradient(net, x):
    parameters = {name: one.detach() for name, one in net.named_parameters()}
    torch.func.grad(lambda own: torch.func.functional_call(net, own, (100 * x,)).sum())(parameters)


@pytest.mark.parametrize(
    "call",
    [
        functional,
        functional_gradient,
        lambda net, x: torch.vmap(net)(100 * x[:, None]),
        lambda net, x: torch.jit.trace(net, 100 * x),
    ],
    ids=["functional_call", "grad", "vmap", "trace"],
)
def test_calls_by_function_transforms_are_skipped_with_one_note(call):
    net, x = gf.mlp([6, 5, 3], "relu"), normal(20, 6)
    with gf.record(net) as flow:
        train_step(net, x)
        call(net, x)
        call(net, x)
        train_step(net, x)
    assert (len(flow), row(flow, "max", 0)) == (2, row(flow, "max", 1))
    assert flow.notes == {"called by torch.func or torch.jit, skipped": ["MLP"]}


def test_layer_inside_a_vmap_is_skipped_with_a_note():
    net = nn.ModuleDict({"one": nn.Linear(6, 4), "inside": nn.Tanh(), "two": nn.Linear(4, 2), "outside": nn.Tanh()})
    net.forward = lambda x: net.outside(net.two(torch.vmap(lambda sample: net.inside(net.one(sample)))(x)))
    flow = record_step(net, normal(20, 6))
    assert flow.layers == ["outside"]
    assert notes_on(flow, "inside") == ["called by torch.func or torch.jit, skipped"]


@pytest.mark.parametrize("convert", [lambda y: y.long(), lambda y: torch.complex(y, y)], ids=["integer", "complex"])
def test_outputs_that_are_not_real_numbers_are_skipped_by_name(convert):
    net = nn.Sequential(nn.Linear(3, 3), Outputs(convert))
    with gf.record(net) as flow:
        net(normal(20, 3))
    assert flow.layers == ["0"]
    assert notes_on(flow, "1") == ["no floating-point output, skipped"]


def test_complex_parameters_have_norms():
    net = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex64), Outputs(lambda y: y.abs()), nn.Tanh())
    with gf.record(net) as flow:
        net(torch.complex(normal(20, 3), normal(20, 3, seed=1))).sum().backward()
    assert_values(flow, "weight_norm", [one.detach().abs().double().norm() for one in net.parameters()])
    assert_values(flow, "weight_grad_norm", [one.grad.abs().double().norm() for one in net.parameters()])


@pytest.mark.parametrize(
    "output", [lambda y: torch.nested.as_nested_tensor([y[:2], y[2:]]), lambda y: y.abs().to_sparse()]
)
def test_outputs_that_are_not_dense_are_skipped_by_name(output):
    net = nn.Sequential(nn.Linear(3, 3), Outputs(output))
    with gf.record(net) as flow:
        net(normal(5, 3))
    assert flow.layers == ["0"] and "not dense" in notes_on(flow, "1")[0]


# Exceptions that the reader catches


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_pass_that_fails_inside_the_block_leaves_nothing(error):
    net, x = Functional(nn.Tanh()), normal(20, 4)
    with gf.record(net) as flow:
        train_step(net, x)
        handle = net.body[2].register_forward_pre_hook(lambda module, inputs: raise_error(error))
        with pytest.raises(error):
            net(x)
        handle.remove()
        train_step(net, x)
    assert (flow.steps, flow["rows"].tolist()) == ([0, 1], [[20] * 5] * 2)
    assert row(flow, "std", 0) == row(flow, "std", 1)
    assert not function_modes()


def raise_error(error):
    raise error


def test_interrupt_of_the_block_within_a_forward_pass_leaves_no_function_mode():
    net = Functional(nn.Tanh())
    net.body[2].register_forward_pre_hook(lambda module, inputs: raise_error(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), gf.record(net):
        net(normal(20, 4))
    assert not function_modes() and hook_count(net) == 1


def test_block_that_ends_after_a_caught_interrupt_leaves_no_function_mode():
    net, x = Functional(nn.Tanh()), normal(20, 4)
    with gf.record(net) as flow:
        train_step(net, x)
        net.body[2].register_forward_pre_hook(lambda module, inputs: raise_error(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            net(x)
    assert not function_modes() and len(flow) == 1


def test_hooks_are_removed_if_the_recorder_cannot_start():
    class Refuses(torch.optim.SGD):
        def register_step_post_hook(self, hook):
            raise RuntimeError("no hooks here")

    net = gf.mlp([6, 5, 3])
    optimizer = Refuses(net.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="no hooks here"), gf.record(net, optimizer):
        pass
    assert hook_count(net) == 0 and not optimizer._optimizer_step_pre_hooks


# Nothing is kept


@pytest.mark.parametrize("network", ["mlp", "functional", "lstm"])
def test_outputs_gradients_and_the_recorder_are_gone_without_the_garbage_collector(network):
    net, shape = {
        "mlp": (gf.mlp([6, 5, 5, 3], "silu"), (20, 6)),
        "functional": (Functional(nn.Tanh()), (20, 4)),
        "lstm": (nn.LSTM(6, 5), (5, 20, 6)),
    }[network]
    optimizer, kept = torch.optim.SGD(net.parameters(), lr=0.1), []
    for module in net.modules():
        module.register_forward_hook(lambda module, inputs, output: keep(output))

    def keep(output):
        output = output[0] if isinstance(output, tuple) else output
        kept.append(weakref.ref(output))
        output.register_hook(lambda gradient: kept.append(weakref.ref(gradient)) and None)

    gc.collect()
    gc.disable()
    try:
        with gf.record(net, optimizer, histograms=True) as flow:
            recorder = weakref.ref(flow._finish.__self__)
            output = net(normal(*shape))
            (output[0] if isinstance(output, tuple) else output).pow(2).mean().backward()
            optimizer.step()
            del output
            assert len(kept) > 1 and all(reference() is None for reference in kept)
        assert recorder() is None
    finally:
        gc.enable()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_record_keeps_no_graph_of_a_double_backward_pass():
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6).requires_grad_()
    with gf.record(net) as flow:
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        slope.pow(2).sum().backward()
        assert len(flow) == 1
        assert not any(block.requires_grad for block in [*flow._backward._waiting, *flow._forward._waiting])


# Copies, compilation, precision


def test_copy_of_a_record_made_inside_the_block_can_be_read():
    net = gf.mlp([6, 5, 3])
    with gf.record(net) as flow:
        train_step(net, normal(20, 6))
        train_step(net, normal(20, 6))
        twin = copy.deepcopy(flow)
        assert len(twin) == 1
    assert torch.equal(pickle.loads(pickle.dumps(flow))["std"], flow["std"])


def compiled(net):
    return torch.compile(net, backend="eager")


def compiled_by_method(net):
    net.compile(backend="eager")
    return net


def compiled_part(net):
    return nn.Sequential(compiled(net), nn.Identity())


def calls_a_compiled_function(net):
    net.forward = torch.compile(net.forward, backend="eager")
    return net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compile_it", [compiled, compiled_by_method, compiled_part, calls_a_compiled_function])
@pytest.mark.parametrize("ran_before", [True, False])
def test_compiled_model_has_the_values_of_the_plain_one(compile_it, ran_before):
    torch._dynamo.reset()
    plain, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)
    fast = compile_it(copy.deepcopy(plain))
    if ran_before:
        train_step(fast, x)
    if not hasattr(torch.compiler, "set_stance"):
        if compile_it is not calls_a_compiled_function:
            with pytest.raises(ValueError, match="model: it is compiled; .* torch 2.6"), gf.record(fast):
                pass
        return
    ours, theirs = record_step(fast, x), record_step(plain, x)
    assert [name.removeprefix("0._orig_mod.") for name in ours.layers] == theirs.layers
    for quantity in ("std", "grad_norm", "weight_grad_norm"):
        torch.testing.assert_close(ours[quantity], theirs[quantity])
    with torch._dynamo.config.patch(error_on_recompile=False):
        torch.testing.assert_close(fast(x), plain(x))
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_autocast_has_the_values_of_full_precision(dtype, accuracy):
    net, x = gf.mlp([6, 40, 40, 3], "silu", "lecun", seed=0), normal(64, 6)
    theirs = record_step(net, x)
    with gf.record(net) as ours:
        net.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            output = net(x)
        output.float().pow(2).mean().backward()
    for quantity in ("std", "row_std", "min", "max", "grad_norm", "weight_grad_norm", "weight_norm"):
        torch.testing.assert_close(ours[quantity], theirs[quantity], rtol=accuracy, atol=1e-5)


def test_float64_is_recorded_in_float64():
    net = nn.Sequential(nn.Linear(2, 2), gf.activation("identity").module()).double()
    net[0].weight.data[:] = torch.eye(2)
    net[0].bias.data.fill_(1 + 1e-12)
    assert row(record_step(net, torch.zeros(20, 2).double()), "max") == [1 + 1e-12]


def test_values_of_1e200_do_not_raise():
    net = nn.Sequential(nn.Linear(2, 900), nn.ReLU()).double()
    with gf.record(net) as flow:
        net(1e200 * normal(20, 2).double())
    assert flow["max"].isfinite().all()


def test_batch_of_one_has_a_row_with_its_number_of_rows():
    flow = record_step(gf.mlp([6, 5, 3], "relu"), normal(1, 6))
    assert (row(flow, "rows"), row(flow, "row_std")) == ([1], [0])
    assert flow["dead"].isnan().all() and flow["always_on"].isnan().all()


# What readers do


def test_parametrized_layers_are_layers_and_their_parametrizations_are_not():
    weight_norm = nn.utils.parametrizations.weight_norm
    linear = nn.Sequential(weight_norm(nn.Linear(6, 4, bias=False)), nn.Linear(4, 2))
    assert record_step(linear, normal(20, 6)).layers == ["0", "1"]
    convolution = nn.Sequential(weight_norm(nn.Conv2d(1, 4, 3)), nn.ReLU())
    assert row(record_step(convolution, normal(20, 1, 5, 5)), "rows") == [20 * 9]


def test_activation_that_halves_its_input_is_recorded():
    class GatedSiLU(nn.Module):
        def forward(self, x):
            gate, value = x.chunk(2, dim=-1)
            return F.silu(gate) * value

    flow = record_step(nn.Sequential(nn.Linear(6, 8), GatedSiLU(), nn.Linear(4, 2)), normal(20, 6))
    assert flow.layers == ["1"] and flow["dead"].isnan().all()


def test_two_models_that_train_against_each_other_have_records_of_their_own():
    generator, judge = gf.mlp([6, 5, 3], seed=0), gf.mlp([3, 5, 1], seed=1)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (generator, judge)]
    with gf.record(generator, optimizers[0]) as first, gf.record(judge, optimizers[1]) as second:
        for _ in range(2):
            fake = generator(normal(20, 6))
            optimizers[1].zero_grad()
            (judge(fake.detach()).mean() - judge(normal(20, 3)).mean()).backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            judge(fake).mean().backward()
            optimizers[0].step()
    assert first["rows"].tolist() == [[20]] * 2
    assert second["rows"].tolist() == [[40], [20]] * 2  # its own step, and the pass that served the other


def test_another_thread_that_calls_the_model_is_not_recorded():
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)

    def elsewhere():
        thread = threading.Thread(target=lambda: net(100 * x))
        thread.start()
        thread.join()

    with gf.record(net) as flow:
        train_step(net, x)
        handle = net.linear2.register_forward_pre_hook(lambda module, inputs: handle.remove() or elsewhere())
        train_step(net, x)
    assert flow["rows"].tolist() == [[20]] * 2 and row(flow, "max", 0) == row(flow, "max", 1)


def test_default_device_of_the_reader_does_not_move_the_record():
    net, x = gf.mlp([6, 5, 3], "tanh"), normal(20, 6)
    with torch.device("meta"), gf.record(net) as flow:
        train_step(net, x)
        assert flow["std"].device.type == "cpu" and flow["std"].isfinite().all()
