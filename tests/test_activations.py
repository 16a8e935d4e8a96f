"""The activation catalogue: functions, slopes, saturation rule and gains."""

import math

import pytest
import torch

import gradflow_utils as gf

EVERY_NAME = sorted(gf.ACTIVATIONS)
SATURATING = ["elu", "selu", "sigmoid", "tanh"]
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
Z = torch.linspace(-12, 12, 4800, dtype=torch.float64)  # an even number of points: none at the kink z = 0

FORMULAS = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": lambda z: (math.exp(z) - math.exp(-z)) / (math.exp(z) + math.exp(-z)),
    "relu": lambda z: max(z, 0.0),
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "elu": lambda z: z if z > 0 else math.exp(z) - 1,
    "selu": lambda z: SELU_SCALE * (z if z > 0 else SELU_ALPHA * (math.exp(z) - 1)),
    "gelu": lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2,
    "silu": lambda z: z / (1 + math.exp(-z)),
    "relu6": lambda z: min(max(z, 0.0), 6.0),
    "mish": lambda z: z * math.tanh(math.log1p(math.exp(z))),
    "hardswish": lambda z: z * min(max(z + 3, 0.0), 6.0) / 6,
    "softplus": lambda z: math.log1p(math.exp(z)),
}


def test_every_entry_stands_under_its_name():
    assert {key: entry.name for key, entry in gf.ACTIVATIONS.items()} == {name: name for name in FORMULAS}


@pytest.mark.parametrize("name", EVERY_NAME)
def test_function_and_module_compute_the_textbook_formula(name):
    entry = gf.activation(name)
    expected = torch.tensor([FORMULAS[name](z) for z in Z.tolist()], dtype=torch.float64)
    torch.testing.assert_close(entry.function(Z), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(entry.module()(Z), entry.function(Z))


@pytest.mark.parametrize("name", EVERY_NAME)
def test_slope_is_the_derivative(name):
    entry, step = gf.activation(name), 1e-5
    difference = (entry.function(Z + step) - entry.function(Z - step)) / (2 * step)
    torch.testing.assert_close(entry.slope(Z), difference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "left_slope"), [("relu", 0.0), ("leaky_relu", 0.01), ("elu", 1.0), ("selu", SELU_SCALE * SELU_ALPHA)]
)
def test_slope_at_the_kink_is_the_left_one(name, left_slope):
    at_zero = gf.activation(name).slope(torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(at_zero.item(), left_slope)


def test_slope_keeps_shape_and_type():
    slope = gf.activation("tanh").slope(torch.ones(2, 3))
    assert slope.shape == (2, 3)
    assert slope.dtype == torch.float32


@pytest.mark.parametrize("requires_grad", [False, True])
def test_slope_works_without_gradients_and_leaves_its_argument_alone(requires_grad):
    z = torch.zeros(3, requires_grad=requires_grad)
    with torch.no_grad():
        slope = gf.activation("tanh").slope(z)
    assert torch.equal(slope, torch.ones(3))
    assert not slope.requires_grad
    assert (z.requires_grad, z.grad) == (requires_grad, None)


def test_slope_of_whole_numbers_is_refused():
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
        gf.activation("tanh").slope(torch.tensor([1, 2]))


@pytest.mark.parametrize("name", SATURATING)
def test_saturated_means_a_slope_below_6_percent_of_the_largest(name):
    entry = gf.activation(name)
    slope = entry.slope(Z)
    flat = slope < 0.06 * slope.max()
    assert 0 < flat.sum() < len(Z)
    assert torch.equal(entry.saturated(entry.function(Z)), flat)


def test_only_curves_that_go_flat_away_from_zero_saturate():
    assert [name for name in EVERY_NAME if gf.activation(name).saturates] == sorted([*SATURATING, "relu6"])


def test_relu6_is_saturated_at_its_ceiling_alone():
    z = torch.tensor([-9.0, 0.0, 5.9, 6.0, 9.0])
    assert gf.activation("relu6").saturated(gf.activation("relu6").function(z)).tolist() == [False] * 3 + [True] * 2


DYING = ["gelu", "hardswish", "mish", "relu", "relu6", "silu"]


def test_only_curves_of_the_relu_family_that_go_to_zero_have_dead_units():
    assert [name for name in EVERY_NAME if gf.activation(name).dead_below is not None] == DYING


@pytest.mark.parametrize("name", DYING)
def test_up_to_the_bound_of_dead_units_the_slope_is_below_5_percent_and_not_just_behind_it(name):
    entry = gf.activation(name)
    below = torch.linspace(-40, entry.dead_below - 1e-6, 4001, dtype=torch.float64)  # at a kink, versions of torch differ
    assert (entry.slope(below).abs() <= 0.05 + 1e-4).all()
    assert entry.slope(torch.tensor([entry.dead_below + 1e-3], dtype=torch.float64)).abs() > 0.05


@pytest.mark.parametrize("name", sorted(set(EVERY_NAME) - {*SATURATING, "relu6"}))
def test_other_curves_are_saturated_nowhere(name):
    entry = gf.activation(name)
    assert not entry.saturated(entry.function(Z)).any()


def test_saturated_keeps_the_shape_and_passes_over_nan():
    flags = gf.activation("tanh").saturated(torch.tensor([[math.nan, 0.99], [-0.99, 0.0]]))
    assert flags.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "selu"])
def test_gain_keeps_the_mean_square_of_the_signal(name):
    entry = gf.activation(name)
    density = torch.exp(-(Z**2) / 2) / math.sqrt(2 * math.pi)
    mean_square = torch.trapezoid(entry.function(Z) ** 2 * density, Z).item()
    assert entry.gain**2 * mean_square == pytest.approx(1, rel=1e-4)  # the grid steps over the kink


@pytest.mark.parametrize(
    ("name", "gain"), [("sigmoid", 1), ("tanh", 1), ("elu", 2**0.5), ("gelu", 2**0.5), ("silu", 2**0.5)]
)
def test_gain_by_convention(name, gain):
    assert gf.activation(name).gain == pytest.approx(gain)


def test_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="'than'") as error:
        gf.activation("than")
    assert all(name in str(error.value) for name in EVERY_NAME)
