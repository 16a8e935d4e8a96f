"""What the plots draw and say: data of the artists, scales, labels, alternative texts and errors."""

import re
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm, to_hex
from torch import nn

import gradflow_utils as gf
from gradflow_utils.wording import LABELS, evenly_chosen, level, off_scale, share, shortened, tick_names

matplotlib.use("agg")

PANELS = ["row_std", "grad_norm", "weight_grad_norm"]


@pytest.fixture(autouse=True)
def _close_figures():
    """Nothing that a test draws makes numpy or matplotlib warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


@pytest.fixture
def rendered(_close_figures):
    """What the test has drawn can be rendered, without a warning."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()


def record(net, steps=1, rows=20, lr=None, **settings):
    """Train on noise; with a learning rate, by plain gradient descent."""
    features = next(net.parameters()).shape[1]
    optimizer = () if lr is None else torch.optim.SGD(net.parameters(), lr)
    with gf.record(net, optimizer, **settings) as flow:
        for step in range(steps):
            net.zero_grad()
            x = torch.randn(rows, features, generator=torch.Generator().manual_seed(step))
            net(x).pow(2).mean().backward()
            if optimizer:
                optimizer.step()
    return flow


def deep_net(seed=0, activation="tanh", width=8):
    return gf.mlp([4, width, width, width, 3], activation, "lecun", seed=seed)


@pytest.fixture(scope="module")
def flow():
    return record(deep_net(), steps=3)


def expected_profile(flow, quantity, step=-1):
    values = flow[quantity][step]
    if quantity == "weight_grad_norm":
        values = values[[name.endswith("weight") for name in flow.parameters]]
    return values.numpy()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# plot_activations


def test_activations_are_drawn_above_their_slopes():
    axes = gf.plot_activations(["relu", "gelu"], reach=3.0)
    for name, curve, slope in zip(["relu", "gelu"], axes[0].get_lines()[::2], axes[1].get_lines()[::2]):
        z = torch.as_tensor(np.asarray(curve.get_xdata()))
        assert (z.min(), z.max()) == (-3, 3)
        np.testing.assert_array_equal(curve.get_ydata(), gf.activation(name).function(z))
        np.testing.assert_array_equal(slope.get_ydata(), gf.activation(name).slope(z))
        assert curve.get_color() == slope.get_color()
    assert legend(axes[0]) == ["relu", "gelu"]


def test_saturated_stretches_are_dotted():
    for ax in gf.plot_activations(["tanh"]):
        solid, dotted = ax.get_lines()
        assert (solid.get_linestyle(), dotted.get_linestyle()) == ("-", ":")
        flat = np.abs(np.tanh(solid.get_xdata())) > 0.94**0.5
        np.testing.assert_array_equal(np.isnan(solid.get_ydata()), flat)
        np.testing.assert_array_equal(np.isnan(dotted.get_ydata()), ~flat)


def test_alternative_text_of_activations_names_them_and_the_peaks_of_their_slopes():
    above, below = gf.plot_activations(["relu", "sigmoid", "gelu"])
    assert "relu, sigmoid, gelu" in above.alternative_text
    assert "the slope of sigmoid peaks at 0.25 at z = 0.0" in below.alternative_text
    assert "the slope of gelu peaks at 1.13 at z = 1.4" in below.alternative_text
    assert "slope of relu" not in below.alternative_text  # half a line of slope 1 is no peak


# plot_profiles


@pytest.mark.parametrize("step", [-1, 0, 2])
def test_profiles_show_one_step_layer_by_layer(flow, step):
    axes = gf.plot_profiles(flow, step=step)
    assert len(axes) == 3
    for ax, quantity in zip(axes, PANELS):
        (line,) = ax.get_lines()
        profile = expected_profile(flow, quantity, step)
        np.testing.assert_array_equal(line.get_ydata(), profile)
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(profile) + 1))
        assert ax.get_yscale() == "log"


def test_profiles_of_several_seeds_are_median_and_band():
    flows = [record(deep_net(seed)) for seed in range(3)]
    for ax, quantity in zip(gf.plot_profiles(flows), PANELS):
        values = np.stack([expected_profile(flow, quantity) for flow in flows])
        np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), np.median(values, axis=0))
        (band,) = ax.collections
        heights = band.get_paths()[0].vertices
        for layer, column in enumerate(values.T, start=1):
            at_layer = heights[heights[:, 0] == layer, 1]
            assert (at_layer.min(), at_layer.max()) == (column.min(), column.max())


def test_one_record_has_no_band(flow):
    assert not any(ax.collections for ax in gf.plot_profiles(flow))


def test_labelled_profiles_differ_in_colour_and_marker_and_stand_in_one_legend(flow):
    wide = record(deep_net(width=16))
    axes = gf.plot_profiles({"narrow": flow, "wide": [wide, wide]})
    for ax, quantity in zip(axes, PANELS):
        narrow_line, wide_line = ax.get_lines()
        np.testing.assert_array_equal(narrow_line.get_ydata(), expected_profile(flow, quantity))
        np.testing.assert_array_equal(wide_line.get_ydata(), expected_profile(wide, quantity))
        assert narrow_line.get_color() != wide_line.get_color()
        assert narrow_line.get_marker() != wide_line.get_marker()
        first = "weight matrix 1" if quantity == "weight_grad_norm" else "layer 1"
        assert f"narrow: {first}" in ax.alternative_text and f"wide: {first}" in ax.alternative_text
    assert [legend(ax) for ax in axes if ax.get_legend()] == [["narrow", "wide"]]


def test_theory_is_a_dashed_black_line_in_its_panel(flow):
    axes = gf.plot_profiles(flow, theory={"grad_norm": [3.0, 2.0, 1.0]})
    assert [len(ax.get_lines()) for ax in axes] == [1, 2, 1]
    theory = axes[1].get_lines()[1]
    assert (theory.get_linestyle(), to_hex(theory.get_color())) == ("--", "#000000")
    assert (list(theory.get_xdata()), list(theory.get_ydata())) == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert [legend(ax) for ax in axes if ax.get_legend()] == [["predicted"]]


def test_theory_that_fits_no_panel_is_refused_with_the_panels_there_are(flow):
    with pytest.raises(ValueError, match="theory: got 'std', expected some of row_std, grad_norm, weight_grad_norm"):
        gf.plot_profiles(flow, theory={"std": [1.0, 1.0, 1.0]})


@pytest.mark.parametrize(
    ("key", "expected"), [("grad_norm", "layer, 3 in all"), ("weight_grad_norm", "weight matrix, 4 in all")]
)
def test_theory_of_another_length_is_refused(flow, key, expected):
    with pytest.raises(ValueError, match=f"theory: '{key}' has shape .7,., expected one value for each {expected}"):
        gf.plot_profiles(flow, theory={key: [1.0] * 7})
    gf.plot_profiles({"this": flow, "deeper": record(gf.mlp([4, *[8] * 7, 3]))}, theory={"row_std": torch.ones(7)})


@pytest.mark.usefixtures("rendered")
def test_theory_that_fades_to_0_or_overflows_is_a_gap_with_a_sign_at_the_edge(flow):
    _, theory, zero, infinite = gf.plot_profiles(flow, theory={"row_std": [1.0, 0.0, np.inf]})[0].get_lines()
    np.testing.assert_array_equal(theory.get_ydata(), [1, np.nan, np.nan])
    assert (zero.get_marker(), list(zero.get_xdata()), list(zero.get_ydata())) == ("$0$", [2], [0])
    assert (infinite.get_marker(), list(infinite.get_xdata()), list(infinite.get_ydata())) == (r"$\infty$", [3], [1])


def test_layers_and_weight_matrices_are_counted_each_on_its_own_axis(flow):
    layers, also_layers, matrices = gf.plot_profiles(flow)
    assert also_layers.get_xlabel() == "layer, from tanh1 (input) to tanh3 (output)"
    assert matrices.get_xlabel() == "weight matrix, from linear1 (input) to linear4 (output)"
    assert layers.get_xlabel() == ""  # it stands below the second
    assert layers.get_xlim() == also_layers.get_xlim() == (0.5, 3.5)
    assert matrices.get_xlim() == (0.5, 4.5)
    assert [list(ax.get_xticks()) for ax in (also_layers, matrices)] == [[1, 2, 3], [1, 2, 3, 4]]
    assert "by weight matrix" in matrices.alternative_text
    assert "weight matrix 1 and weight matrix 4 agree" in matrices.alternative_text


def test_axes_side_by_side_each_say_what_they_count(flow):
    axes = gf.plot_profiles(flow, plt.subplots(1, 3)[1])
    assert [ax.get_xlabel().split(",")[0] for ax in axes] == ["layer", "layer", "weight matrix"]


def test_first_and_last_name_are_left_out_where_groups_differ(flow):
    axes = gf.plot_profiles({"tanh": flow, "relu": record(deep_net(activation="relu"))})
    assert axes[1].get_xlabel() == "layer, from the input (1) to the output"
    assert "linear4" in axes[2].get_xlabel()  # the weight matrices have the same names
    deeper = record(gf.mlp([4, *[8] * 5, 3], "tanh", "lecun"))
    axes = gf.plot_profiles({"deep": flow, "deeper": deeper})
    assert [len(line.get_xdata()) for line in axes[2].get_lines()] == [4, 6]
    assert axes[2].get_xlim() == (0.5, 6.5)
    assert axes[2].get_xlabel() == "weight matrix, from the input (1) to the output"


def test_network_without_activations_has_as_many_layers_as_weight_matrices():
    axes = gf.plot_profiles(record(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))))
    assert [len(ax.get_lines()[0].get_xdata()) for ax in axes] == [3, 3, 3]
    assert axes[1].get_xlabel() == "layer, from module 0 (input) to module 2 (output)"


@pytest.mark.usefixtures("rendered")
def test_single_layer_is_not_compared_with_itself():
    for ax in gf.plot_profiles(record(gf.mlp([4, 8, 3], "tanh", "lecun", seed=0)))[:2]:
        assert re.search(r": layer 1, the only one: about 10\^", ax.alternative_text)
        assert list(ax.get_xticks()) == [1]
    assert "layer 1, the only one" in gf.plot_timeline(record(gf.mlp([4, 8, 3], "tanh"))).alternative_text


def test_small_variations_look_small(flow):
    """Two decades at least: a factor of 2 must not fill the picture."""
    for ax in gf.plot_profiles(flow):
        low, high = ax.get_ylim()
        assert 99 < high / low < 101
        drawn = ax.get_lines()[0].get_ydata()
        assert low < drawn.min() and drawn.max() < high


@pytest.mark.usefixtures("rendered")
def test_record_without_gradients_says_so_in_the_empty_panels():
    net = deep_net()
    with gf.record(net, mode="evaluation") as flow, torch.no_grad():
        net.eval()(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    axes = gf.plot_profiles(flow)
    assert [[text.get_text() for text in ax.texts] for ax in axes] == [[], *[["no value was recorded"]] * 2]
    assert "no value to compare at layer 1 or layer 3" in axes[1].alternative_text
    assert [text.get_text() for text in gf.plot_timeline(flow).texts] == ["no value was recorded"]


def test_what_a_logarithmic_scale_cannot_show_is_a_gap():
    net = deep_net()
    net.linear1.weight.requires_grad_(False)
    net.linear3.weight.data.zero_()
    net.linear4.bias.data.fill_(1.0)
    for ax, gaps in zip(gf.plot_profiles(record(net)), ([3], [1, 2], [1, 2, 4])):
        drawn = ax.get_lines()[0].get_ydata()
        assert (np.flatnonzero(np.isnan(drawn)) + 1).tolist() == gaps


def test_zeros_stand_at_the_lower_edge_and_in_the_alternative_text():
    net = deep_net()
    net.linear3.weight.data.zero_()
    net.linear4.bias.data.fill_(1.0)
    signal, gradient, _ = gf.plot_profiles(record(net))
    (zero,) = signal.get_lines()[1:]
    assert (zero.get_marker(), list(zero.get_xdata()), list(zero.get_ydata())) == ("$0$", [3], [0])
    assert "layer 1 or layer 3, 0 in places." in signal.alternative_text
    assert [list(line.get_xdata()) for line in gradient.get_lines()[1:]] == [[1, 2]]


@pytest.mark.usefixtures("rendered")
def test_network_of_zeros_is_drawn():
    net = deep_net()
    for parameter in net.parameters():
        parameter.data.zero_()
    flow = record(net, steps=2, lr=0.1, histograms=True)
    for ax in gf.plot_profiles(flow):
        assert ", 0 everywhere" in ax.alternative_text
    assert "0 everywhere" in gf.plot_timeline(flow, "std").alternative_text
    for which in ("activation", "gradient"):
        gf.plot_histograms(flow, which)


@pytest.mark.usefixtures("rendered")
def test_diverged_network_is_drawn():
    flow = record(gf.mlp([4, 8, 8, 8, 3], "relu", seed=0), steps=12, lr=1e6, histograms=True)
    assert not torch.isfinite(flow["std"]).all()
    for quantity in ("mean", "std", "grad_norm"):
        gf.plot_timeline(flow, quantity)
    gf.plot_profiles(flow)
    gf.plot_profiles(flow, step=6)
    gf.plot_updates(flow)
    for which in ("activation", "gradient"):
        gf.plot_histograms(flow, which)


def test_seed_without_a_value_does_not_hide_the_others():
    flows = [record(deep_net(seed)) for seed in range(2)]
    broken = deep_net(2)
    broken.linear1.weight.data.fill_(torch.nan)
    broken = record(broken)
    line = gf.plot_profiles([*flows, broken])[0].get_lines()[0]
    values = np.stack([expected_profile(flow, "row_std") for flow in flows])
    np.testing.assert_array_equal(line.get_ydata(), np.median(values, axis=0))


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1e-5, "layer 1 is about 10^5 times smaller than layer 2"),
        (1 / 50, "layer 1 is about 10^2 times smaller than layer 2"),
        (0.5, "layer 1 and layer 2 agree within a factor of 10"),
        (2.0, "layer 1 and layer 2 agree within a factor of 10"),
        (50.0, "layer 1 is about 10^2 times larger than layer 2"),
        (1e5, "layer 1 is about 10^5 times larger than layer 2"),
        (0.0, "no value to compare at layer 1 or layer 2"),
    ],
)
def test_alternative_text_compares_the_first_layer_with_the_last(ratio, words):
    """In a linear chain the gradient at layer 1 is the second weight times the one at layer 2."""
    net = gf.mlp([1, 1, 1, 1], "identity", seed=0)
    net.linear2.weight.data.fill_(ratio)
    axis = gf.plot_profiles(record(net))[1]
    assert words in axis.alternative_text
    assert axis.alternative_text.startswith("activation gradient")


def test_step_that_was_not_recorded_is_refused(flow):
    with pytest.raises(ValueError, match="step: got 3, but the record holds 3 steps"):
        gf.plot_profiles(flow, step=3)


@pytest.mark.parametrize("plot", [gf.plot_profiles, gf.plot_timeline, gf.plot_updates, gf.plot_histograms])
def test_empty_record_is_refused_with_the_remedy(plot):
    with pytest.raises(ValueError, match="flow: .* holds no step .* inside the record block"):
        plot(gf.FlowRecord())


@pytest.mark.parametrize("nothing", [[], {}, {"label": []}])
def test_nothing_to_draw_is_refused(nothing):
    with pytest.raises(ValueError, match="flows: got an empty .*, expected at least one record"):
        gf.plot_profiles(nothing)


def test_records_of_different_layers_in_one_list_are_refused(flow):
    with pytest.raises(ValueError, match="flows: .* same layers"):
        gf.plot_profiles([flow, record(gf.mlp([4, 8, 3], "tanh"))])


def test_records_of_different_weight_matrices_in_one_list_are_refused():
    plain = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    longer = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="flows: .* same layers and weight matrices; .* a label each"):
        gf.plot_profiles([record(plain), record(longer)])


# plot_timeline


@pytest.mark.parametrize(
    ("quantity", "logarithmic"),
    [("std", True), ("row_std", True), ("grad_norm", True), ("weight_norm", True), ("weight_grad_norm", True)]
    + [("update_ratio", True), ("mean", False), ("min", False), ("max", False), ("saturated", False), ("rows", False)],
)
def test_timeline_shows_layers_upwards_and_steps_to_the_right(quantity, logarithmic):
    flow = record(deep_net(), steps=3, lr=0.1)
    ax = gf.plot_timeline(flow, quantity)
    (picture,) = ax.get_images()
    values = flow[quantity]
    of_matrices = quantity in ("weight_norm", "weight_grad_norm", "update_ratio")
    if of_matrices:
        values = values[:, ::2]  # without the biases
    np.testing.assert_array_equal(picture.get_array(), values.T)
    assert picture.origin == "lower"
    assert tuple(picture.get_extent()) == (-0.5, 2.5, 0.5, values.shape[1] + 0.5)
    assert isinstance(picture.norm, LogNorm) is logarithmic
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "weight matrix" if of_matrices else "layer")
    assert f"by {ax.get_ylabel()} (upwards)" in ax.alternative_text
    colour_bar = ax.figure.axes[1]
    assert colour_bar.get_ylabel() in ax.alternative_text
    assert "3 steps" in ax.alternative_text


@pytest.mark.parametrize(
    ("first", "last", "falsehood"), [(-5.0, 0.001, "agree"), (-5.0, -0.001, "larger"), (0.0, 0.5, "no value")]
)
def test_alternative_text_is_true_where_values_are_zero_or_negative(first, last, falsehood):
    net = gf.mlp([1, 1, 1, 1], "identity", "lecun", seed=0)
    for linear, mean in [(net.linear1, first), (net.linear2, last)]:
        linear.weight.data.zero_()
        linear.bias.data.fill_(mean)
    assert falsehood not in gf.plot_timeline(record(net), "mean").alternative_text


@pytest.mark.parametrize("quantity", LABELS)
def test_every_quantity_of_layers_and_parameters_has_a_timeline(quantity):
    flow = record(deep_net(activation="relu"), steps=2, lr=0.1)
    assert set(LABELS) == set(gf.flow.LAYER_QUANTITIES + gf.flow.PARAMETER_QUANTITIES)
    assert gf.plot_timeline(flow, quantity).get_images()


def test_pictures_count_all_steps_where_only_some_are_recorded():
    flow = record(deep_net(), steps=31, every=10, histograms=True)
    assert flow.steps == [0, 10, 20, 30]
    for ax in (gf.plot_timeline(flow), *gf.plot_histograms(flow)):
        assert tuple(ax.get_images()[0].get_extent())[:2] == (-5, 35)


def test_layers_are_named_on_the_timeline():
    ax = gf.plot_timeline(record(gf.mlp([4, *[4] * 12, 3], "tanh")))
    ticks = [(tick, label.get_text()) for tick, label in zip(ax.get_yticks(), ax.get_yticklabels())]
    assert ticks[0] == (1, "tanh1") and ticks[-1] == (12, "tanh12")
    assert all(label == f"tanh{tick:.0f}" for tick, label in ticks) and len(ticks) == 6


def test_long_names_are_cut_at_a_dot_and_numbers_stand_in_for_names_that_look_alike():
    assert shortened("encoder.layers.0.linear1.gelu", 16) == "…0.linear1.gelu"
    assert shortened("a" * 40, 16) == "…" + "a" * 15
    assert shortened("12", 16) == "module 12"
    assert tick_names(["a", "b"]) == {1: "a", 2: "b"}
    assert tick_names([f"block.{n}.self_attention.output" for n in range(2)]) == {1: "1", 2: "2"}
    assert evenly_chosen(20, 6) == [0, 4, 8, 11, 15, 19]
    assert evenly_chosen(3, 6) == [0, 1, 2]


def test_colours_of_shares_reach_from_none_to_all_and_those_of_norms_over_a_decade(flow):
    norm = gf.plot_timeline(flow, "saturated").get_images()[0].norm
    assert (norm.vmin, norm.vmax) == (0, 1)
    norm = gf.plot_timeline(flow, "weight_norm").get_images()[0].norm
    assert 9.9 < norm.vmax / norm.vmin < 10.1 and norm.vmin < flow["weight_norm"][0, 0] < norm.vmax


@pytest.mark.parametrize(
    ("bias", "words"), [(-50.0, "all at layer 1, all at layer 2"), (50.0, "none at layer 1, none at layer 2")]
)
def test_alternative_text_puts_shares_into_words(bias, words):
    net = gf.mlp([4, 8, 8, 3], "relu", seed=0)
    for linear in (net.linear1, net.linear2):
        linear.bias.data.fill_(bias)
    net.linear2.weight.data.abs_()
    assert words in gf.plot_timeline(record(net), "dead").alternative_text


def test_words_for_shares_levels_and_what_a_logarithmic_scale_cannot_show():
    assert [share(value) for value in (0, 0.1, 0.5, 0.9, 1)] == ["none", "below a half", *["a half or more"] * 2, "all"]
    assert [level(value) for value in (0.002, -300.0, 0.0, np.nan)] == ["about 10^-3", "about -10^2", "0", "no value"]
    assert off_scale(np.array([1.0, 0.0, np.inf, np.nan])) == ", 0 in places, infinite in places"
    assert off_scale(np.array([1.0, np.nan])) == ""


@pytest.mark.usefixtures("rendered")
def test_timeline_of_one_step_names_the_step(flow):
    assert "Median over the 3 steps: layer 1" in gf.plot_timeline(flow).alternative_text
    flow = record(deep_net(), lr=0.1)
    ax = gf.plot_timeline(flow)
    assert "At step 0: layer 1" in ax.alternative_text
    for one in (ax, gf.plot_updates(flow)):
        assert all(float(tick).is_integer() for tick in one.get_xticks())
    gf.plot_timeline(flow, "rows")  # one value everywhere


def test_timeline_without_columns_is_refused():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Tanh())
    with gf.record(net) as flow:
        net(torch.randn(20, 3, generator=torch.Generator().manual_seed(0))).pow(2).mean().backward()
    with pytest.raises(ValueError, match="flow: it holds no weight matrix; flow.notes says"):
        gf.plot_timeline(flow, "weight_norm")
    assert "there is no weight matrix" in gf.plot_profiles(flow)[2].alternative_text


def test_timeline_leaves_out_what_a_logarithmic_scale_cannot_show():
    net = deep_net()
    net.linear3.weight.data.zero_()
    values = gf.plot_timeline(record(net), "std").get_images()[0].get_array()
    assert np.ma.getmaskarray(np.ma.masked_invalid(values))[:, 0].tolist() == [False, False, True]


@pytest.mark.usefixtures("rendered")
def test_timeline_of_a_quantity_without_values_is_grey_and_says_so(flow):
    ax = gf.plot_timeline(flow, "dead")
    assert "no value at layer 1" in ax.alternative_text
    assert [text.get_text() for text in ax.texts] == ["no value was recorded"]


@pytest.mark.parametrize("quantity", ["slope", "loss"])
def test_quantity_without_columns_is_refused_with_those_that_have_them(flow, quantity):
    with pytest.raises(ValueError, match=f"quantity: got '{quantity}', expected .* by layer or parameter: .*grad_norm"):
        gf.plot_timeline(flow, quantity)


# plot_histograms


def test_histograms_are_a_column_of_at_most_six_layers_with_the_first_and_the_last():
    flow = record(gf.mlp([4, *[4] * 12, 3], "tanh"), histograms=True)
    axes = gf.plot_histograms(flow)
    assert [ax.get_title("left") for ax in axes] == ["tanh1", "tanh3", "tanh5", "tanh8", "tanh10", "tanh12"]
    assert [ax.get_xlabel() for ax in axes] == [*[""] * 5, "step"]
    assert "at 6 of 12 layers" in axes[0].alternative_text and "at step 0: tanh1: about" in axes[0].alternative_text
    axes = gf.plot_histograms(flow, layers=["tanh7", "tanh2"])
    assert [ax.get_title("left") for ax in axes] == ["tanh7", "tanh2"]


def test_activation_histograms_of_all_steps_share_one_range():
    net = gf.mlp([1, 1, 1], "tanh", "lecun", seed=0)
    with gf.record(net, histograms=True) as flow:
        for high in (0.1, 2.0):  # all values of the first step lie in few bins of the second
            net.linear1.weight.data.fill_(1.0)
            net(torch.linspace(-high, high, 4001)[:, None]).sum().backward()
    (ax,) = gf.plot_histograms(flow, layers=["tanh1"])
    (picture,) = ax.get_images()
    shares, (_, _, low, high) = picture.get_array().T, picture.get_extent()
    assert (low, high) == pytest.approx((-np.tanh(2), np.tanh(2)), rel=1e-4)
    assert shares.shape == (2, 32)
    edges = np.linspace(low, high, 33)
    for step, reach in enumerate((0.1, 2.0)):
        inside = np.diff(np.clip(np.arctanh(np.clip(edges, -0.9999, 0.9999)), -reach, reach)) / (2 * reach)
        np.testing.assert_allclose(shares[step], np.maximum(inside, 1e-3), atol=0.012)


@pytest.mark.usefixtures("rendered")
def test_constant_activations_fall_into_one_bin():
    net = gf.mlp([1, 1, 1], "tanh", "lecun", seed=0)
    with gf.record(net, histograms=True) as flow:
        for weight in (0.0, 1.0):
            net.linear1.weight.data.fill_(weight)
            net(torch.linspace(0, 2, 101)[:, None]).sum().backward()
    shares = gf.plot_histograms(flow)[0].get_images()[0].get_array().T
    assert shares[0, 0] == pytest.approx(1) and shares[0, 1:].max() == pytest.approx(1e-3)


def test_gradient_histograms_share_one_range_so_that_vanishing_shows():
    """The second weight multiplies the gradient by 1e-3: six bins of half a decade."""
    net = gf.mlp([1, 1, 1, 1], "tanh", "lecun", seed=0)
    net.linear2.weight.data.fill_(1e-3)
    net.linear3.weight.data.fill_(2.0)
    with gf.record(net, histograms=True) as flow:
        net(torch.zeros(10, 1)).sum().backward()
    axes = gf.plot_histograms(flow, "gradient")
    first, last = (ax.get_images()[0] for ax in axes)
    assert first.get_extent() == last.get_extent()
    rows = [int(picture.get_array()[:, 0].argmax()) for picture in (first, last)]
    assert rows[1] - rows[0] == 6
    low, high = first.get_extent()[2:]
    assert high - low == pytest.approx(3.5)  # from the one to the other and no further
    assert axes[1].get_ylabel() == "log₁₀ |dL/dh|"


def test_colours_of_all_histograms_are_on_one_scale_with_a_bar():
    axes = gf.plot_histograms(record(deep_net(), steps=3, histograms=True))
    limits = {(ax.get_images()[0].norm.vmin, ax.get_images()[0].norm.vmax) for ax in axes}
    ((low, high),) = limits
    assert low == 1e-3 and high == max(ax.get_images()[0].get_array().max() for ax in axes)
    (bar,) = set(axes[0].figure.axes) - set(axes)
    assert bar.get_ylabel() == "share of the values per bin"


def test_alternative_text_of_histograms_compares_the_last_step_with_the_first():
    net = gf.mlp([1, 1, 1], "identity", seed=0)
    with gf.record(net, histograms=True) as flow:
        for weight in (0.01, 0.012, 1.0):
            net.linear1.weight.data.fill_(weight)
            net.linear2.weight.data.fill_(1 / weight)
            net(torch.linspace(-1, 1, 101)[:, None]).sum().backward()
    layer = flow.layers[0]
    (widths,), (medians,) = (gf.plot_histograms(flow, which, [layer]) for which in ("activation", "gradient"))
    compared = "at the last step, compared with the first: .*about 10.0, more than 3 times"
    assert re.search(f"Width of the middle 90 % {compared} larger", widths.alternative_text)
    assert re.search(f"Median of these gradients {compared} smaller", medians.alternative_text)


def test_histograms_that_were_not_kept_are_refused_with_the_remedy(flow):
    with pytest.raises(ValueError, match=r"flow: it holds no histogram.*; make it with .*histograms=True"):
        gf.plot_histograms(flow)


@pytest.mark.parametrize("layers", [["relu1"], [], "tanh1"])
def test_unknown_layers_are_refused_with_those_there_are(layers):
    with pytest.raises(ValueError, match="layers: got .* expected some of flow.layers: tanh1, tanh2, tanh3"):
        gf.plot_histograms(record(deep_net(), histograms=True), layers=layers)


def test_histograms_into_too_few_axes_are_refused():
    with pytest.raises(ValueError, match="axes: got 2, expected 3, one for each layer"):
        gf.plot_histograms(record(deep_net(), histograms=True), axes=plt.subplots(2)[1])


# plot_updates


def test_updates_are_one_line_for_each_weight_matrix_by_step():
    flow = record(deep_net(), steps=31, lr=0.1, every=10)
    ax = gf.plot_updates(flow)
    *lines, guide = ax.get_lines()
    assert len(lines) == 4
    for line, values in zip(lines, flow["update_ratio"][:, ::2].T):
        np.testing.assert_array_equal(line.get_xdata(), [0, 10, 20, 30])
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert ax.get_yscale() == "log"
    assert legend(ax) == ["linear1", "linear2", "linear3", "linear4"]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 4


@pytest.mark.usefixtures("rendered")
def test_rule_of_thumb_is_drawn_and_called_that():
    ax = gf.plot_updates(record(deep_net(), lr=0.1))
    assert set(ax.get_lines()[-1].get_ydata()) == {1e-3}
    assert [text.get_text() for text in ax.texts] == ["rule of thumb: 1e-3"]


def test_many_weight_matrices_are_coloured_by_depth_with_a_bar():
    flow = record(gf.mlp([4, *[4] * 11, 3], "tanh", seed=0), steps=3, lr=0.1)
    ax = gf.plot_updates(flow)
    assert ax.get_legend() is None
    (bar,) = set(ax.figure.axes) - {ax}
    assert bar.get_ylabel() == "weight matrix"
    assert [label.get_text() for label in bar.get_yticklabels()][:: 5] == ["linear1", "linear12"]
    brightness = [sum(matplotlib.colors.to_rgb(line.get_color())) for line in ax.get_lines()[:12]]
    assert brightness == sorted(brightness) and len(set(brightness)) == 12


@pytest.mark.parametrize(
    ("lr", "words"),
    [(1e-7, "all are more than 10 times below"), (1e3, "all are more than 10 times above"), (0, ", 0 everywhere")],
)
def test_alternative_text_compares_updates_with_the_rule_of_thumb(lr, words):
    assert words in gf.plot_updates(record(deep_net(), lr=lr)).alternative_text


def test_updates_of_some_matrices_only_are_told_apart():
    net = deep_net()
    net.linear1.weight.requires_grad_(False)
    text = gf.plot_updates(record(net, lr=1e3)).alternative_text
    assert "for each weight matrix (4)" in text
    assert "some are more than 10 times above it; some are more than 10 times below it, 0 in places." in text


def test_record_without_an_optimizer_has_no_updates_and_says_what_to_do(flow):
    with pytest.raises(ValueError, match=r"flow: it holds no update .*; .* gf.record\(model, optimizer\)"):
        gf.plot_updates(flow)


# plot_singular_values


def test_singular_values_are_sorted_with_median_and_band_over_the_rows():
    values = torch.tensor([[1.0, 3.0, 0.1], [0.5, 2.0, 0.2], [5.0, 1.0, 0.4]])
    ax = gf.plot_singular_values(values)
    line, guide = ax.get_lines()
    assert list(line.get_xdata()) == [1, 2, 3]
    np.testing.assert_allclose(line.get_ydata(), [3, 1, 0.2])
    heights = ax.collections[0].get_paths()[0].vertices
    at_first = heights[heights[:, 0] == 1, 1]
    assert (at_first.min(), at_first.max()) == (2, 5)
    assert set(guide.get_ydata()) == {1} and ax.get_yscale() == "log"
    assert (ax.get_xlabel(), list(ax.get_xticks())) == ("rank", [1, 2, 3])
    assert "the largest is about 10^0; rank 1 is about 10^1 times larger than rank 3" in ax.alternative_text


def test_singular_values_of_several_networks_stand_in_a_legend():
    ax = gf.plot_singular_values({"shallow": torch.ones(2, 3), "deep": torch.full((2, 5), 1e-9)})
    assert legend(ax) == ["shallow", "deep"]
    assert "shallow: the largest is about 10^0" in ax.alternative_text
    assert "deep: the largest is about 10^-9" in ax.alternative_text
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [3, 5, 2]


@pytest.mark.usefixtures("rendered")
def test_singular_values_lost_in_rounding_are_left_out():
    line, zero, _ = gf.plot_singular_values(torch.tensor([[2.0, 1e-14, 1e-17, 0.0]], dtype=torch.float64)).get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [2.0, 1e-14, np.nan, np.nan])
    assert list(zero.get_xdata()) == [4]


@pytest.mark.parametrize(
    ("values", "came"),
    [
        (torch.ones(3), r"got shape \(3,\)"),
        (torch.ones(0, 3), r"got shape \(0, 3\)"),
        (-torch.ones(2, 3), "got negative values"),
        ({}, "got an empty mapping"),
    ],
)
def test_what_is_no_singular_values_is_refused(values, came):
    with pytest.raises(ValueError, match=f"values: {came}, expected .*rows, ranks"):
        gf.plot_singular_values(values)


# all of them


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_plots_draw_into_the_axes_given(flow, rows):
    _, axes = plt.subplots(rows, squeeze=False)
    axes = axes[:, 0]
    if rows == 1:
        for plot, what in ((gf.plot_timeline, flow), (gf.plot_updates, record(deep_net(), lr=0.1))):
            assert plot(what, ax=axes[0]) is axes[0]
        assert gf.plot_singular_values(torch.ones(2, 3), axes[0]) is axes[0]
    else:
        drawn = gf.plot_profiles(flow, axes) if rows == 3 else gf.plot_activations(["tanh"], axes)
        assert list(drawn) == list(axes)
    assert plt.get_fignums() == [1]
    assert all(ax.has_data() for ax in axes)


@pytest.mark.parametrize(
    "plot",
    [
        lambda flow: gf.plot_activations(["nonsense"]),
        lambda flow: gf.plot_profiles(flow, step=99),
        lambda flow: gf.plot_profiles(flow, theory={"row_std": [1.0]}),
        lambda flow: gf.plot_timeline(flow, "nonsense"),
        lambda flow: gf.plot_histograms(flow),
        lambda flow: gf.plot_updates(flow),
        lambda flow: gf.plot_singular_values(torch.ones(3)),
    ],
    ids=["activations", "profiles", "theory", "timeline", "histograms", "updates", "singular values"],
)
def test_plot_that_fails_leaves_no_blank_figure_behind(flow, plot):
    with pytest.raises(ValueError):
        plot(flow)
    assert plt.get_fignums() == []


def test_plots_have_the_style_of_the_course_and_keep_it_to_themselves(flow):
    with matplotlib.rc_context({"font.size": 7, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        updated = record(deep_net(), lr=0.1, histograms=True)
        drawn = [gf.plot_activations(["tanh"])[0], gf.plot_profiles(flow)[0], gf.plot_timeline(flow)]
        drawn += [gf.plot_histograms(updated)[0], gf.plot_updates(updated), gf.plot_singular_values(torch.ones(2, 3))]
        assert dict(matplotlib.rcParams) == before
    for ax in drawn:
        ax.figure.canvas.draw()
        assert ax.yaxis.label.get_size() == gf.STYLE["font.size"]
        assert {label.get_size() for label in ax.get_yticklabels()} == {gf.STYLE["font.size"]}
        assert not ax.spines["top"].get_visible()
