"""Mean-field theory against closed forms, published figures and wide networks; the Jacobian against its definition."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradflow_utils as gf
from gradflow_utils.jacobian import singular_values
from gradflow_utils.prediction import predicted_profiles
from gradflow_utils.theory import (
    chi_1,
    critical_gain,
    depth_scale,
    fixed_point,
    half_square_difference,
    preserving_gain,
    variance_map,
)

SQRT_2 = math.sqrt(2)
ERF_SLOPE = 2 / math.sqrt(math.pi)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def erf_moment(q):
    """E[erf(sqrt(q) z)^2] in closed form (Williams 1997)."""
    return 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


# The variance map


def test_variance_map_of_relu_is_half_the_moment():
    q = torch.tensor([[0.0, 1e-6], [1.0, 50.0]])
    mapped = variance_map("relu", q, 1.5, 0.3)
    assert mapped.dtype == torch.float64
    torch.testing.assert_close(mapped, 1.5**2 * q.double() / 2 + 0.09, rtol=1e-6, atol=0)


@pytest.mark.parametrize("q", [1e-4, 0.1, 1.0, 16.0, 1000.0])
def test_quadrature_meets_the_closed_forms_of_erf(q):
    assert float(variance_map(torch.erf, q, 2.0, 0.5)) == pytest.approx(4 * erf_moment(q) + 0.25, rel=1e-6)
    assert chi_1(torch.erf, 2.0, q=q) == pytest.approx(4 * ERF_SLOPE**2 / math.sqrt(1 + 4 * q), rel=1e-6)


def test_a_kink_away_from_zero_costs_little():
    inside = math.erf(1 / math.sqrt(2 * 1.7))  # the share of |z| < 1 at q = 1.7
    assert chi_1(F.hardtanh, 1.0, q=1.7) == pytest.approx(inside, rel=1e-3)


@pytest.mark.parametrize("way", ["tanh", gf.activation("tanh"), torch.tanh, nn.Tanh(), lambda z: z.tanh_()])
def test_an_activation_may_be_a_name_an_entry_a_function_or_a_module(way):
    assert float(variance_map(way, 1.0, 1.0)) == pytest.approx(0.394294, abs=1e-6)
    assert chi_1(way, 1.0, q=1.0) == pytest.approx(0.464403, abs=1e-6)


@pytest.mark.parametrize("other", [nn.Softmax(dim=0), lambda z: z.sum(), lambda z: z - z.mean(), lambda z: 1.0])
def test_a_function_that_is_not_elementwise_is_refused(other):
    with pytest.raises(ValueError, match="not elementwise"):
        variance_map(other, 1.0, 1.0)


@pytest.mark.parametrize("bad", [{"q": -1.0}, {"q": math.nan}, {"sigma_w": -1.0}, {"sigma_b": -0.1}])
def test_negative_sizes_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))}: got"):
        variance_map("tanh", **({"q": 1.0, "sigma_w": 1.0} | bad))


# The fixed point


@pytest.mark.parametrize(("sigma_w", "sigma_b"), [(0.9, 0.3), (1.3, 0.0), (1.5, 0.05), (4.0, 0.3)])
def test_fixed_point_is_where_iteration_ends(sigma_w, sigma_b):
    q = 1.0
    for _ in range(400):
        q = float(variance_map("tanh", q, sigma_w, sigma_b))
    assert fixed_point("tanh", sigma_w, sigma_b) == pytest.approx(q, rel=1e-9)


@pytest.mark.parametrize("excess", [1e-3, 1e-6])
def test_fixed_point_is_right_near_criticality(excess):
    """tanh(x)^2 = x^2 - 2/3 x^4 + 17/45 x^6 gives q* = excess + 4/3 excess^2 to second order."""
    assert fixed_point("tanh", 1 + excess) == pytest.approx(excess + 4 / 3 * excess**2, rel=1e-5)


def test_fixed_point_says_whether_the_signal_dies_explodes_or_stays():
    assert fixed_point("tanh", 1.0) == 0.0
    assert fixed_point("relu", 1.4) == 0.0
    assert fixed_point("relu", SQRT_2) == 1.0  # every q is fixed
    assert fixed_point("relu", 1.42) == math.inf
    assert fixed_point("relu", SQRT_2, 0.1) == math.inf
    assert fixed_point("gelu", 1.5) == 0.0  # its fixed point above 1 is unstable
    assert fixed_point("gelu", 1.55) == math.inf
    assert fixed_point("tanh", 0.0, 0.3) == pytest.approx(0.09)
    assert fixed_point("relu", 1.0, 2.0) == pytest.approx(8)


@pytest.mark.parametrize(("sigma_w", "sigma_b"), [(1.3, 0.0), (1.5, 0.1), (2.5, 0.3)])
def test_wide_tanh_networks_settle_at_the_fixed_point(sigma_w, sigma_b):
    h = normal(512, 4)
    moments = []
    for layer in range(40):
        z = sigma_w / math.sqrt(512) * normal(512, 512, seed=layer) @ h + sigma_b * normal(512, 1, seed=100 + layer)
        h = z.tanh()
        moments.append(z.square().mean().item())
    assert sum(moments[20:]) / 20 == pytest.approx(fixed_point("tanh", sigma_w, sigma_b), rel=0.05)


# chi_1, depth scale and gains


def test_chi_1_is_right_in_the_limits():
    assert chi_1("tanh", 0.9, q=0) == pytest.approx(0.81)
    assert chi_1("gelu", 1.0, q=0) == pytest.approx(0.25)
    assert chi_1("relu", 1.0, q=0) == pytest.approx(0.5)  # half of the values see each side of the kink
    assert chi_1("leaky_relu", 1.0, q=0) == pytest.approx((1 + 0.01**2) / 2)
    assert chi_1("gelu", 2.0) == pytest.approx(2, rel=1e-4)  # q* is inf, where GELU is a ReLU
    assert chi_1("sigmoid", 1 / math.sqrt(3), 1 / math.sqrt(3 * 64)) == pytest.approx(0.02, rel=5e-3)


@pytest.mark.parametrize(
    ("sigma_w", "sigma_b", "expected"), [(0.5, 0.05, 0.2484), (0.9, 0.1, 0.7527), (2.5, 0.3, 1.585), (4.0, 0.3, 2.367)]
)
def test_chi_1_of_tanh_has_the_known_values(sigma_w, sigma_b, expected):
    assert chi_1("tanh", sigma_w, sigma_b) == pytest.approx(expected, rel=4e-4)


def test_chi_1_is_the_measured_factor_of_the_squared_gradient():
    sigma_w, q, n = 1.5, 0.8, 600
    slope = 1 - (math.sqrt(q) * normal(n, 50)).tanh() ** 2
    gradient = normal(n, 50, seed=1)
    back = sigma_w / math.sqrt(n) * normal(n, n, seed=2).T @ (slope * gradient)  # 50 rows
    assert (back.norm() / gradient.norm()).item() ** 2 == pytest.approx(chi_1("tanh", sigma_w, q=q), rel=0.03)


def test_depth_scale_in_the_ordered_phase_follows_chi_1():
    assert depth_scale("tanh", 1.0, 0.3) == pytest.approx(-1 / math.log(chi_1("tanh", 1.0, 0.3)))
    assert depth_scale("relu", 1.0) == pytest.approx(1 / math.log(2))


def test_depth_scale_in_the_chaotic_phase_follows_the_slope_at_the_stable_correlation():
    """Without biases c* = 0, where the slope is sigma_w^2 E[phi']^2; for erf E[phi'] has a closed form."""
    q = fixed_point(torch.erf, 2.0)
    assert depth_scale(torch.erf, 2.0) == pytest.approx(-1 / math.log(4 * ERF_SLOPE**2 / (1 + 2 * q)), rel=1e-6)


def test_depth_scale_in_the_chaotic_phase_with_biases_meets_the_closed_form_of_erf():
    sigma_w, sigma_b = 2.0, 0.6
    q, c = fixed_point(torch.erf, sigma_w, sigma_b), 0.5
    for _ in range(500):
        c = (sigma_w**2 * 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q)) + sigma_b**2) / q
    assert 0.05 < c < 0.95
    slope = sigma_w**2 * ERF_SLOPE**2 / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
    assert depth_scale(torch.erf, sigma_w, sigma_b) == pytest.approx(-1 / math.log(slope), rel=1e-6)


def test_depth_scale_is_infinite_at_criticality_and_undefined_where_the_signal_explodes():
    assert depth_scale("relu", SQRT_2) == math.inf
    assert depth_scale("tanh", critical_gain("tanh", 0.3), 0.3) > 1e6
    assert math.isnan(depth_scale("relu", 2.0))


@pytest.mark.parametrize(
    ("sigma_b", "expected"), [(0.0, 1.0), (0.05, 1.1225), (0.1, 1.1934), (0.3, 1.3956), (0.5, 1.5497)]
)
def test_critical_gain_of_tanh_lies_on_the_known_edge_of_chaos(sigma_b, expected):
    assert critical_gain("tanh", sigma_b) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"), [("identity", 1.0), ("relu", SQRT_2), ("elu", 1.0), ("selu", 0.6905), ("sigmoid", 10.149)]
)
def test_critical_gain_without_biases(name, expected):
    assert critical_gain(name) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["tanh", "elu", "selu", "sigmoid"])
def test_at_the_critical_gain_chi_1_is_1(name):
    assert chi_1(name, critical_gain(name, 0.2), 0.2) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "sigma_b", "gain", "q"),
    [("gelu", 0.17292239, 1.98305826, (3 + 17**0.5) / 2), ("silu", 0.55514317, 1.98800468, 14.32017362)],
)
def test_gelu_and_silu_have_a_critical_gain_only_with_biases(name, sigma_b, gain, q):
    """The half-stable points of Roberts et al. 2022, section 5.3.4, given there as variances, are where it begins."""
    least = math.sqrt(sigma_b)
    with pytest.raises(ValueError, match=f"{name} with sigma_b=0 has no stable .* preserving_gain"):
        critical_gain(name)
    with pytest.raises(ValueError, match="no stable"):
        critical_gain(name, least - 0.002)
    at_the_edge = critical_gain(name, least + 1e-4)
    assert at_the_edge**2 == pytest.approx(gain, rel=1e-3)
    assert fixed_point(name, at_the_edge, least + 1e-4) == pytest.approx(q, rel=0.05)


def test_preserving_gain_maps_q_to_itself():
    assert preserving_gain("relu") == pytest.approx(SQRT_2)
    assert preserving_gain("selu") == pytest.approx(1, abs=1e-6)
    assert preserving_gain("gelu") == pytest.approx(1.5335, abs=1e-4)
    assert preserving_gain("silu") == pytest.approx(1.6765, abs=1e-4)
    assert float(variance_map("silu", 2.5, preserving_gain("silu", 2.5, 0.4), 0.4)) == pytest.approx(2.5)


@pytest.mark.parametrize(
    "arguments", [("gelu", 0.0), ("gelu", -1.0), ("gelu", math.nan), ("gelu", 0.2, 0.5), (lambda z: 0 * z,)]
)
def test_preserving_gain_says_where_there_is_none(arguments):
    with pytest.raises(ValueError, match="expected a finite q above sigma_b"):
        preserving_gain(*arguments)


# Predicted profiles


def batch():
    split = gf.digits().train
    return split.x[:64].double(), split.y[:64]


def measured(net, x, y):
    with gf.record(net) as flow:
        F.cross_entropy(net(x), y).backward()
    return {quantity: flow[quantity][0] for quantity in ("row_std", "grad_norm")}


# Median over three seeds of measured / predicted: the worst layer of ten fresh triples of seeds stays in these bands.
@pytest.mark.parametrize(
    ("name", "init", "gain", "factor"),
    [
        ("tanh", "xavier", None, 1.2),
        ("relu", "he", None, 1.6),
        ("relu", "default", None, 1.6),
        ("sigmoid", "default", None, 1.2),
        ("gelu", "lecun", 1.5335, 1.6),
        ("gelu", "he", None, 5),
    ],
)
def test_predicted_profiles_meet_measured_ones(name, init, gain, factor):
    x, y = batch()
    ratios = {"row_std": [], "grad_norm": []}
    for seed in range(3):
        net = gf.mlp([64, *[256] * 20, 10], name, init, gain=gain, seed=seed).double()
        seen = measured(net, x, y)
        theory = predicted_profiles(net, x, seen["grad_norm"][-1])
        for quantity, runs in ratios.items():
            above_rounding = (theory[quantity] > 1e-14) | torch.tensor(quantity == "grad_norm")
            runs.append((seen[quantity] / theory[quantity])[above_rounding])
    for runs in ratios.values():
        middle = torch.stack([run[: min(map(len, runs))] for run in runs]).median(dim=0).values
        assert 10 < len(middle) <= 20
        assert 1 / factor < middle.min() and middle.max() < factor


def test_rows_of_different_size_are_followed_on_their_own():
    """The squared gradients of the rows add up, and so do not follow from the chi_1 of the mean row."""
    x = torch.cat([0.5 * torch.ones(10, 16), 3 * torch.ones(10, 16)]) * normal(20, 16, seed=3).sign()
    net = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Tanh(), nn.Linear(16, 16, bias=False), nn.Tanh())
    for layer in (net[0], net[2]):
        nn.init.constant_(layer.weight, 0.5)  # sigma_w = 2
    small, large = (variance_map("tanh", 4 * q, 2.0).item() for q in (0.25, 9.0))
    expected = math.sqrt((chi_1("tanh", 2.0, q=small) + chi_1("tanh", 2.0, q=large)) / 2)
    assert predicted_profiles(net, x)["grad_norm"].tolist() == pytest.approx([expected, 1], rel=1e-6)


@pytest.mark.parametrize(("q_u", "q_v", "cosine"), [(1, 1, 0.9999), (1, 1, 0.99), (1, 4, 0.9), (4, 1, -0.5)])
def test_half_square_difference_of_relu_meets_the_arc_cosine_kernel(q_u, q_v, cosine):
    angle, size = math.acos(cosine), math.sqrt(q_u * q_v)
    kernel = size * (math.sin(angle) + (math.pi - angle) * cosine) / (2 * math.pi)
    seen = half_square_difference(gf.activation("relu"), q_u, q_v, (q_u + q_v) / 2 - cosine * size)
    assert seen == pytest.approx((q_u + q_v) / 4 - kernel, rel=2e-4)


def test_predicted_row_std_of_one_relu_layer_meets_the_arc_cosine_kernel():
    """Cho and Saul 2009, eq. 6, for two rows of equal size at an angle."""
    x = torch.tensor([[3.0, 0.0, 0.0, 0.0], [1.8, 2.4, 0.0, 0.0]])
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.constant_(net[0].bias, 0.5)
    q, cosine = 9.25, (9 * 0.6 + 0.25) / 9.25
    angle = math.acos(cosine)
    kernel = q * (math.sin(angle) + (math.pi - angle) * cosine) / (2 * math.pi)
    expected = math.sqrt((q / 2 - kernel) / 2)  # the variance over two rows is half the mean square difference
    assert predicted_profiles(net, x)["row_std"].item() == pytest.approx(expected, rel=3e-4)


def test_predicted_gradient_of_relu_falls_by_half_the_weight_variance_whatever_the_widths():
    x, _ = batch()
    net = gf.mlp([64, 100, 300, 50, 10], "relu", "lecun", seed=0)
    expected = [1.0]
    for layer in (net.linear3, net.linear2):
        expected.insert(0, expected[0] * math.sqrt(layer.in_features * layer.weight.square().mean().item() / 2))
    predicted = predicted_profiles(net, x, last_grad_norm=torch.tensor(7.0))
    torch.testing.assert_close(
        predicted["grad_norm"], 7 * torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_predicted_profiles_stay_finite_where_products_underflow():
    net = gf.mlp([64, *[16] * 200, 10], "sigmoid", seed=0)
    predicted = predicted_profiles(net, batch()[0][:8])
    assert all(values.isfinite().all() for values in predicted.values())
    assert predicted["grad_norm"][0] < 1e-150 and predicted["grad_norm"][-1] == 1


def test_predicted_profiles_leave_the_network_alone_and_pass_over_containers():
    x, _ = batch()
    net = gf.mlp([64, 32, 32, 10], "tanh", seed=0)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    expected = predicted_profiles(net, x)
    nested = nn.Sequential(
        nn.Flatten(), nn.Sequential(net.linear1, nn.Tanh()), nn.Identity(), net.linear2, nn.Tanh(), net.linear3
    )
    for quantity, values in predicted_profiles(nested, x.reshape(-1, 8, 8).float()).items():
        torch.testing.assert_close(values, expected[quantity], rtol=1e-6, atol=0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (gf.mlp([64, 8, 8, 8, 2], norm="batch"), "'norm1' is BatchNorm1d"),
        (gf.mlp([64, 8, 8, 8, 2], residual=True), "'block1' is Residual"),
        (nn.Sequential(nn.ReLU(), nn.Linear(64, 8)), "'0' is ReLU"),
        (nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Tanh()), "'2' is Tanh"),
        (nn.Sequential(nn.Linear(64, 8), nn.Softmax(dim=1)), "'1' is Softmax"),
        (nn.Sequential(nn.Linear(64, 8), nn.PReLU(8)), "'1' is PReLU"),
        (nn.Sequential(nn.Linear(64, 8)), "no activation"),
        (nn.Linear(64, 8), "got Linear, expected an nn.Sequential"),
    ],
)
def test_a_network_that_theory_does_not_describe_is_refused(model, match):
    with pytest.raises(ValueError, match=match):
        predicted_profiles(model, batch()[0])


@pytest.mark.parametrize("x", [torch.ones(1, 64), torch.ones(5, 64), torch.full((5, 64), math.nan)])
def test_a_batch_without_different_rows_is_refused(x):
    with pytest.raises(ValueError, match="at least two different"):
        predicted_profiles(gf.mlp([64, 8, 2]), x)


# The end-to-end Jacobian


def test_singular_values_are_those_of_the_jacobian_of_each_row():
    net = gf.mlp([6, 20, 4], "tanh", seed=0)
    x = normal(3, 6).float()
    values = singular_values(net, x)
    assert values.shape == (3, 4) and values.dtype == torch.float64
    double = copy.deepcopy(net).double()
    for row, one in zip(values, x.double()):
        jacobian = torch.autograd.functional.jacobian(lambda input: double(input[None])[0], one)
        torch.testing.assert_close(row, torch.linalg.svdvals(jacobian), rtol=1e-10, atol=0)


def test_singular_values_of_a_deep_linear_network():
    """Saxe et al. 2014: orthogonal layers keep every direction, Gaussian ones lose half of them below 1e-10."""
    x = torch.zeros(2, 32)
    orthogonal = gf.mlp([32] * 101, "identity", "orthogonal", seed=0)
    torch.testing.assert_close(
        singular_values(orthogonal, x), torch.ones(2, 32, dtype=torch.float64), rtol=0, atol=1e-5
    )
    assert singular_values(gf.mlp([32] * 101, "identity", "lecun", seed=0), x).median() < 1e-10


def test_singular_values_keep_small_ones_apart_from_rounding():
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2**-23]])
    large, small = singular_values(net, torch.zeros(1, 2))[0].tolist()
    assert large * small == pytest.approx(2**-23, rel=1e-6)


def test_singular_values_leave_model_and_generator_alone():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    net[2].train()
    net[0].weight.grad = torch.ones(4, 4)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    x = torch.ones(3, 4, requires_grad=True)
    with torch.no_grad():
        assert singular_values(net, x).shape == (3, 2)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    weight = net[0].weight
    assert weight.dtype == torch.float32 and weight.requires_grad and torch.equal(weight.grad, torch.ones(4, 4))
    assert net[2].training and not net[1].training and x.grad is None
    assert torch.equal(state, torch.get_rng_state())


def test_singular_values_take_images_and_one_output_per_row():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 1), nn.Flatten(0))
    assert singular_values(net, torch.zeros(5, 1, 8, 8)).shape == (5, 1)


def test_a_model_that_mixes_rows_is_refused():
    net = gf.mlp([6, 8, 8, 4], "tanh", norm="batch", seed=0)
    with pytest.raises(ValueError, match=r"other rows of the batch.*model\.eval\(\)"):
        singular_values(net, normal(5, 6))
    assert singular_values(net.eval(), normal(5, 6)).shape == (5, 4)


@pytest.mark.parametrize("other", [nn.LSTM(3, 2, batch_first=True), nn.Flatten(0)])
def test_a_model_without_one_output_per_row_is_refused(other):
    with pytest.raises(ValueError, match="expected one tensor that depends on x"):
        singular_values(other, torch.zeros(4, 5, 3))


def test_a_model_that_ignores_its_input_is_refused():
    class Constant(nn.Linear):
        def forward(self, x):
            return self.bias.expand(len(x), -1)

    with pytest.raises(ValueError, match="depends on x"):
        singular_values(Constant(3, 2), torch.zeros(4, 3))
