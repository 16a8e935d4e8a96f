"""The published rules that the microscope is compared with: each fires where its source says so, and only there."""

import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import published_rules as rules  # noqa: E402
from bank_case import Case, Trial  # noqa: E402

KINDS = {
    *("non-finite", "dead", "saturated", "disconnected", "exploding"),
    *("vanishing", "update too large", "update too small", "symmetry"),
}


def case(*layers, lr=0.1, scale=1.0, steps=3):
    """A case on 32 rows of four features and two targets, whose inputs are multiplied by `scale`."""

    def build(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(*layers)
        x, y = torch.randn(steps, 32, 4) * scale, torch.randn(steps, 32, 2)
        return Trial(model, lambda step: (x[step], y[step]), F.mse_loss, torch.optim.SGD(model.parameters(), lr), steps)

    return Case("case", "mlp", "", "", build)


def linear(weight=None, bias=0.0, inputs=4, outputs=4):
    """A linear layer of random weights with standard deviation 0.5, or of the constant `weight`."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        layer.weight.normal_(0, 0.5, generator=generator) if weight is None else layer.weight.fill_(weight)
        layer.bias.fill_(bias)
    return layer


def first_step(*layers, **settings):
    return rules.record(case(*layers, **settings).build(0))[0]


def healthy(activation=None):
    return first_step(linear(), activation or nn.ReLU(), linear(outputs=2))


class Functional(nn.Module):
    def forward(self, x):
        return F.relu(x)


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


def with_gradients(step, **values):
    """The step with the gradient of each named parameter (dots as underscores) filled with a value."""
    names = {name.replace(".", "_"): name for name in step.gradients}
    filled = {names[key]: torch.full_like(step.gradients[names[key]], value) for key, value in values.items()}
    return dataclasses.replace(step, gradients={**step.gradients, **filled})


def with_updates(step, factor):
    """The step with an update that multiplies every parameter by 1 + `factor`."""
    return dataclasses.replace(step, after={name: p.double() * (1 + factor) for name, p in step.before.items()})


SILENT = [
    rules.dead_relu,
    rules.exploding_tensor,
    rules.poor_weight_initialization,
    rules.saturated_activation,
    rules.vanishing_gradient,
    rules.weight_update_ratio,
    rules.all_zero,
    rules.autotrainer_step,
    rules.absolute_step,
]


@pytest.mark.parametrize("rule", SILENT, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_every_rule_is_silent_on_a_healthy_network(rule, activation):
    assert rule(healthy(activation())) == set()


def test_dead_relu_fires_on_more_than_half_of_the_nodes():
    for dead, expected in ((2, set()), (3, {"dead"})):
        layer = linear()
        with torch.no_grad():
            layer.bias[:dead] = -100
        assert rules.dead_relu(first_step(layer, nn.ReLU(), linear(outputs=2))) == expected


def test_dead_relu_sees_no_functional_activation():
    assert rules.dead_relu(first_step(linear(bias=-100.0), Functional(), linear(outputs=2))) == set()


def test_exploding_tensor_fires_on_infinity_and_nan_in_an_output_a_gradient_and_the_loss():
    assert rules.exploding_tensor(first_step(linear(), nn.ReLU(), linear(outputs=2), scale=1e38)) == {"non-finite"}
    assert rules.exploding_tensor(with_gradients(healthy(), **{"0_weight": math.nan})) == {"non-finite"}
    assert rules.exploding_tensor(dataclasses.replace(healthy(), loss=math.inf)) == {"non-finite"}
    step = healthy()
    step.calls[0][2][0][0, 0] = math.nan
    assert rules.exploding_tensor(step) == {"non-finite"}


@pytest.mark.parametrize(("factor", "expected"), [(30.0, "exploding"), (1 / 30, "vanishing")])
def test_poor_weight_initialization_compares_the_variances_of_relu_inputs(factor, expected):
    first, second = linear(), linear()
    with torch.no_grad():
        second.weight.mul_(factor)
    step = first_step(first, nn.ReLU(), second, nn.ReLU(), linear(outputs=2))
    assert expected in rules.poor_weight_initialization(step)
    assert rules.poor_weight_initialization(dataclasses.replace(step, calls=step.calls[:2])) <= {"vanishing"}


def test_poor_weight_initialization_fires_on_a_narrow_gradient_of_a_weight_but_not_of_a_bias():
    assert rules.poor_weight_initialization(with_gradients(healthy(), **{"0_weight": 1.0})) == {"vanishing"}
    assert rules.poor_weight_initialization(with_gradients(healthy(), **{"0_bias": 1.0})) == set()


def test_poor_weight_initialization_looks_at_the_first_ten_steps_only():
    seen = []
    step = healthy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "record", lambda trial: [step] * 14)
        patch.setattr(rules, "poor_weight_initialization", lambda step: seen.append(step) or set())
        rules.sagemaker_debugger(case(linear(outputs=2)), 0)
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("activation", "bias", "expected"),
    [
        (nn.Tanh, 20.0, {"saturated"}),
        (nn.Tanh, -20.0, {"saturated"}),
        (nn.Tanh, 4.0, set()),  # tanh is flat by the rule of 6 % of the slope, but not by this rule
        (nn.Sigmoid, 25.0, {"saturated"}),
        (nn.Sigmoid, -20.0, set()),
        (nn.Sigmoid, -32.0, {"saturated"}),
        (nn.ReLU, 30.0, set()),
    ],
)
def test_saturated_activation_fires_beyond_the_published_bounds(activation, bias, expected):
    step = first_step(linear(0.1, bias), activation(), linear(outputs=2))
    assert rules.saturated_activation(step) == expected


def test_vanishing_gradient_fires_on_the_mean_absolute_gradient_of_one_parameter():
    assert rules.vanishing_gradient(with_gradients(healthy(), **{"0_bias": -0.9e-7})) == {"vanishing"}
    assert rules.vanishing_gradient(with_gradients(healthy(), **{"0_bias": -1.1e-7})) == set()


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(11, {"update too large"}), (9, set()), (1e-7, set()), (1e-9, {"update too small"}), (0, {"update too small"})],
)
def test_weight_update_ratio_fires_above_10_and_below_1e_minus_8(factor, expected):
    assert rules.weight_update_ratio(with_updates(healthy(), factor)) == expected


def test_weight_update_ratio_sees_weights_only():
    step = with_updates(healthy(), 0.01)
    step.after["0.bias"] = step.before["0.bias"] + 1  # the bias was 0
    assert rules.weight_update_ratio(step) == set()


def test_all_zero_fires_on_an_activation_whose_output_is_zero():
    assert rules.all_zero(first_step(linear(bias=-100.0), nn.ReLU(), linear(outputs=2))) == {"dead"}
    assert rules.all_zero(first_step(linear(0.0), nn.ReLU(), linear(outputs=2))) == {"dead"}


def test_unchanged_tensor_fires_on_three_equal_losses():
    assert rules.unchanged_tensor([3.0, 2.0, 2.0, 2.00001]) == {"update too small"}
    assert rules.unchanged_tensor([2.0, 2.0, 1.0, 1.0]) == set()
    assert rules.unchanged_tensor([2.0, 2.0002, 2.0004]) == set()


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1e-5, 1.0, {"vanishing"}),
        (1e-3, 10.0, set()),  # the ratio is small, but the first gradient is not
        (1e-5, 1e-3, set()),  # the first gradient is small, but the ratio is not
        (1.0, 1e-2, {"exploding"}),
        (1.0, 2e-2, set()),
    ],
)
def test_autotrainer_compares_the_first_and_the_last_kernel(first, last, expected):
    step = with_gradients(healthy(), **{"0_weight": first / 4, "2_weight": last / math.sqrt(8)})
    assert rules.autotrainer_step(step) == expected


def test_autotrainer_names_dying_relu_where_70_percent_of_the_gradient_is_zero():
    step = with_gradients(healthy(), **{"0_weight": 0.0, "0_bias": 1.0, "2_weight": 1.0, "2_bias": 0.0})
    assert rules.autotrainer_step(step) == {"vanishing"}  # 18 zeros of 30 values
    assert rules.autotrainer_step(with_gradients(step, **{"0_bias": 0.0})) == {"dead"}  # 22 of 30


def test_autotrainer_names_a_non_finite_value_and_a_huge_loss_first():
    dead = with_gradients(healthy(), **{"0_weight": 0.0, "0_bias": 0.0, "2_bias": 0.0})
    assert rules.autotrainer_step(dataclasses.replace(dead, loss=math.nan)) == {"non-finite"}
    assert rules.autotrainer_step(dataclasses.replace(dead, loss=2e5)) == {"exploding"}
    assert rules.autotrainer_step(with_gradients(dead, **{"0_bias": math.inf})) == {"non-finite"}


def test_autotrainer_names_the_first_problem_after_the_first_step(monkeypatch):
    step = healthy()
    exploding, lost = with_gradients(step, **{"0_weight": 1e3}), dataclasses.replace(step, loss=math.nan)
    for steps, expected in (([lost, step], set()), ([step, step, exploding, lost], {"exploding"})):
        monkeypatch.setattr(rules, "record", lambda trial, steps=steps: steps)
        assert rules.JUDGES["AUTOTRAINER"](case(linear(outputs=2)), 0) == expected


def test_absolute_thresholds_fire_on_norms_zeros_and_missing_gradients():
    assert rules.absolute_step(with_gradients(healthy(), **{"0_weight": 2e-8})) == {"vanishing"}  # norm 8e-8
    assert rules.absolute_step(with_gradients(healthy(), **{"0_weight": 3e-8})) == set()
    assert rules.absolute_step(with_gradients(healthy(), **{"0_weight": 26.0})) == {"exploding"}  # norm 104
    assert rules.absolute_step(with_gradients(healthy(), **{"0_weight": 24.0})) == set()
    assert rules.absolute_step(with_gradients(healthy(), **{"0_weight": math.nan})) == {"non-finite"}
    assert rules.absolute_step(first_step(linear(), Detach(), linear(outputs=2))) == {"disconnected"}
    assert "dead" in rules.absolute_step(first_step(linear(bias=-100.0), nn.ReLU(), linear(outputs=2)))


def test_judges_train_the_case_and_name_kinds_of_the_bank():
    dead = case(linear(bias=-100.0), nn.ReLU(), linear(outputs=2))
    blown = case(linear(), nn.Tanh(), linear(outputs=2), lr=1e25, steps=6)
    for judge in rules.JUDGES.values():
        assert judge(case(linear(), nn.Tanh(), linear(outputs=2)), 0) == set()
        assert "dead" in judge(dead, 0) <= KINDS
        assert judge(blown, 0) & {"non-finite", "exploding"}


def test_the_record_holds_the_state_before_and_after_each_update():
    steps = rules.record(case(linear(), nn.ReLU(), linear(outputs=2), lr=0.5).build(0))
    for earlier, later in zip(steps, steps[1:]):
        for name, gradient in earlier.gradients.items():
            torch.testing.assert_close(earlier.after[name], earlier.before[name] - 0.5 * gradient)
            assert torch.equal(earlier.after[name], later.before[name])


def test_the_record_keeps_what_an_activation_in_place_overwrites():
    step = first_step(linear(), nn.ReLU(inplace=True), linear(outputs=2))
    assert (step.calls[0][2][0] < 0).any()


def test_kernels_are_weight_matrices_without_embeddings_and_frozen_layers():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4).requires_grad_(False), nn.LayerNorm(4), nn.Linear(4, 2))
    rows = torch.arange(5)
    trial = Trial(model, lambda _: (rows, rows % 2), F.cross_entropy, torch.optim.SGD(model.parameters(), 0.1), 1)
    assert rules.record(trial)[0].kernels == ["3.weight"]
