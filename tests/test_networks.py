"""`mlp`: structure, initialisation, normalisation, residual blocks and errors."""

import math

import pytest
import torch
from torch import nn

import gradflow_utils as gf

RELU_GAIN, LEAKY_GAIN = 2**0.5, (2 / (1 + 0.01**2)) ** 0.5


def batch(features, rows=32, seed=0):
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed))


def names(module):
    return [name for name, _ in module.named_children()]


# Structure


def test_layers_have_speaking_names_and_the_sizes_asked_for():
    net = gf.mlp([7, 5, 4, 3], activation="leaky_relu")
    assert names(net) == ["linear1", "leaky_relu1", "linear2", "leaky_relu2", "linear3"]
    assert [tuple(net.get_submodule(f"linear{n}").weight.shape) for n in (1, 2, 3)] == [(5, 7), (4, 5), (3, 4)]


def test_two_sizes_make_one_linear_layer():
    assert names(gf.mlp([7, 3])) == ["linear1"]


@pytest.mark.parametrize("name", sorted(gf.ACTIVATIONS))
def test_forward_is_linear_activation_linear(name):
    net, x = gf.mlp([6, 5, 3], activation=name, seed=0), batch(6)
    hidden = gf.activation(name).function(x @ net.linear1.weight.T + net.linear1.bias)
    torch.testing.assert_close(net(x), hidden @ net.linear2.weight.T + net.linear2.bias)


def batch_norm(z):
    return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()


def layer_norm(z):
    return (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


def rms_norm(z):
    return z / (z.square().mean(1, keepdim=True) + torch.finfo(z.dtype).eps).sqrt()


@pytest.mark.parametrize(("norm", "formula"), [("batch", batch_norm), ("layer", layer_norm), ("rms", rms_norm)])
def test_norm_normalises_the_pre_activations(norm, formula):
    net, x = gf.mlp([6, 5, 3], activation="tanh", norm=norm, seed=0), batch(6)
    assert names(net) == ["linear1", "norm1", "tanh1", "linear2"]
    torch.testing.assert_close(net(x), net.linear2(torch.tanh(formula(net.linear1(x)))))


@pytest.mark.parametrize(("residual", "scale"), [(True, 1.0), (0.25, 0.25), (0, 0.0)])
def test_residual_block_adds_scaled_activation_and_linear_layer(residual, scale):
    net, x = gf.mlp([6, 5, 5, 5, 3], activation="tanh", residual=residual, seed=0), batch(6)
    assert names(net) == ["linear1", "block1", "block2", "tanh3", "linear4"]
    z = net.linear1(x)
    z = z + scale * net.block1.linear2(torch.tanh(z))
    z = z + scale * net.block2.linear3(torch.tanh(z))
    torch.testing.assert_close(net(x), net.linear4(torch.tanh(z)))


def test_residual_block_holds_its_norm():
    net, x = gf.mlp([6, 5, 5, 3], activation="tanh", norm="layer", residual=True, seed=0), batch(6)
    assert names(net.block1) == ["norm1", "tanh1", "linear2"]
    z = net.linear1(x)
    z = z + net.block1.linear2(torch.tanh(layer_norm(z)))
    torch.testing.assert_close(net(x), net.linear3(torch.tanh(layer_norm(z))))


def test_no_skip_where_widths_differ_nor_around_the_output():
    net = gf.mlp([4, 4, 5, 5], activation="tanh", residual=True)
    assert names(net) == ["linear1", "tanh1", "linear2", "tanh2", "linear3"]


def test_printed_network_shows_the_scale_of_a_block():
    assert "x + 0.5 * F(x)" in repr(gf.mlp([4, 4, 4, 2], residual=0.5))


def test_slices_of_a_network_run():
    net, x = gf.mlp([6, 5, 5, 3], activation="tanh", residual=True, seed=0), batch(6)
    torch.testing.assert_close(net[1:](net[:1](x)), net(x))


# Initialisation. 600 x 300 weights: their sample variance has a relative standard error of
# sqrt(2 / 180,000) = 0.3 %, so 2 % are six standard errors. The nearest two formulas differ by 33 %.

FAN_IN, FAN_OUT = 600, 300


@pytest.mark.parametrize(
    ("init", "gain", "variance"),
    [
        ("default", None, 1 / (3 * FAN_IN)),
        ("xavier", None, 2 / (FAN_IN + FAN_OUT)),
        ("xavier", 1.5, 1.5**2 * 2 / (FAN_IN + FAN_OUT)),
        ("he", None, 2 / FAN_IN),
        ("he", 1.5, 1.5**2 / FAN_IN),
        ("lecun", None, 1 / FAN_IN),
        ("lecun", 0.5, 0.5**2 / FAN_IN),
        ("matched", 1.5, 1.5**2 / FAN_IN),
        ("orthogonal", None, 1 / FAN_IN),
    ],
)
@pytest.mark.parametrize("layer", ["linear1", "linear2"])
def test_weights_have_the_variance_of_the_formula(layer, init, gain, variance):
    sizes = [FAN_IN, FAN_OUT] if layer == "linear1" else [2, FAN_IN, FAN_OUT]
    weight = gf.mlp(sizes, "tanh", init, gain=gain, seed=0).get_submodule(layer).weight.double()
    assert weight.var().item() == pytest.approx(variance, rel=0.02)
    assert abs(weight.mean().item()) < 5 * math.sqrt(variance / weight.numel())


@pytest.mark.parametrize(
    ("activation", "gain"),
    [("identity", 1), ("sigmoid", 1), ("tanh", 1), ("selu", 1), ("leaky_relu", LEAKY_GAIN)]
    + [(name, RELU_GAIN) for name in ("relu", "elu", "gelu", "silu")],
)
def test_matched_takes_the_gain_of_the_activation(activation, gain):
    weight = gf.mlp([FAN_IN, FAN_OUT], activation, "matched", seed=0).linear1.weight.double()
    assert weight.var().item() == pytest.approx(gain**2 / FAN_IN, rel=0.02)


@pytest.mark.parametrize("init", ["xavier", "he", "lecun", "matched"])
def test_weights_are_normal_and_not_uniform(init):
    weight = gf.mlp([FAN_IN, FAN_OUT], "tanh", init, seed=0).linear1.weight
    assert (weight.abs() > 2 * weight.std()).double().mean().item() == pytest.approx(0.0455, abs=0.005)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(40, 20), (20, 40), (30, 30)])
@pytest.mark.parametrize(("gain", "scale"), [(None, 1.0), (3.0, 3.0)])
def test_orthogonal_weights_are_orthogonal(fan_in, fan_out, gain, scale):
    weight = gf.mlp([fan_in, fan_out], "tanh", "orthogonal", gain=gain, seed=0).linear1.weight.double()
    gram = weight @ weight.T if fan_out <= fan_in else weight.T @ weight
    torch.testing.assert_close(gram, scale**2 * torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", [init for init in gf.INITIALISATIONS if init != "default"])
def test_every_init_but_the_default_sets_biases_to_zero(init):
    net = gf.mlp([6, 5, 3], "tanh", init, seed=0)
    assert not net.linear1.bias.any() and not net.linear2.bias.any()


def test_default_init_is_the_one_of_linear_layers():
    net = gf.mlp([6, 5, 3], "tanh", seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        expected = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_are_drawn_in_float64():
    net = gf.mlp([6, 5], "tanh", "lecun", seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        nn.Linear(6, 5)  # draws before its weights are replaced
        drawn = torch.empty(5, 6, dtype=torch.float64).normal_(std=6**-0.5)
    assert torch.equal(net.linear1.weight, drawn.float())


@pytest.mark.parametrize("init", gf.INITIALISATIONS)
def test_seed_decides_the_parameters_and_leaves_the_global_generator_alone(init):
    def draw(seed):
        torch.rand(1)  # another state of the global generator each time
        before = torch.get_rng_state()
        weight = gf.mlp([6, 5, 3], "tanh", init, seed=seed).linear2.weight
        assert torch.equal(torch.get_rng_state(), before)
        return weight

    first = draw(0)
    assert torch.equal(draw(0), first)
    assert not torch.equal(draw(1), first)


def test_seed_leaves_the_generators_of_graphics_cards_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    gf.mlp([6, 5], seed=1)
    assert seeded == []


def test_without_a_seed_the_global_generator_draws():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second = gf.mlp([6, 5]).linear1.weight, gf.mlp([6, 5]).linear1.weight
        torch.manual_seed(1)
        assert torch.equal(gf.mlp([6, 5]).linear1.weight, first)
    assert not torch.equal(first, second)


# Bad input


@pytest.mark.parametrize("sizes", [[], [64], [64, 0, 10], [64, -5], [64, 10.0], [64, "10"]])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="expected at least two positive whole numbers") as error:
        gf.mlp(sizes)
    assert str(error.value).startswith(f"sizes: got {sizes}")


@pytest.mark.parametrize(
    ("argument", "valid"),
    [
        ("activation", sorted(gf.ACTIVATIONS)),
        ("init", ["default", "xavier", "he", "lecun", "matched", "orthogonal"]),
        ("norm", ["None", "batch", "layer", "rms"]),
    ],
)
def test_unknown_name_is_refused_with_the_names_there_are(argument, valid):
    with pytest.raises(ValueError, match=f"{argument}: got 'nonsense'") as error:
        gf.mlp([6, 5, 3], **{argument: "nonsense"})
    assert all(name in str(error.value) for name in valid)


def test_gain_with_the_default_init_is_refused():
    with pytest.raises(ValueError, match="gain: init='default' takes no gain"):
        gf.mlp([6, 5, 3], gain=2.0)


@pytest.mark.parametrize("shape", [(6,), (4, 7), (4, 1, 6), (4, 2, 3)])
@pytest.mark.parametrize("residual", [False, True])
def test_batch_of_the_wrong_shape_is_refused(shape, residual):
    net = gf.mlp([6, 5, 5, 3], residual=residual)
    with pytest.raises(ValueError, match=r"expected \(rows, 6\)") as error:
        net(torch.zeros(shape))
    assert f"got shape {shape}" in str(error.value)
