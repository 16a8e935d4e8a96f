"""What the plots draw and say: data of the artists, scales, labels, alternative texts and errors."""

import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm, to_hex
from torch import nn

import gradflow_utils as gf

matplotlib.use("agg")

PANELS = ["row_std", "grad_norm", "weight_grad_norm"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def record(net, steps=1, rows=20):
    features = next(net.parameters()).shape[1]
    with gf.record(net) as flow:
        for step in range(steps):
            net.zero_grad()
            x = torch.randn(rows, features, generator=torch.Generator().manual_seed(step))
            net(x).pow(2).mean().backward()
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
        assert "narrow: layer 1" in ax.alternative_text and "wide: layer 1" in ax.alternative_text
    assert [legend(ax) for ax in axes if ax.get_legend()] == [["narrow", "wide"]]


def test_theory_is_a_dashed_black_line_in_its_panel(flow):
    axes = gf.plot_profiles(flow, theory={"grad_norm": [3.0, 2.0, 1.0]})
    assert [len(ax.get_lines()) for ax in axes] == [1, 2, 1]
    theory = axes[1].get_lines()[1]
    assert (theory.get_linestyle(), to_hex(theory.get_color())) == ("--", "#000000")
    assert (list(theory.get_xdata()), list(theory.get_ydata())) == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert [legend(ax) for ax in axes if ax.get_legend()] == [["predicted"]]


def test_what_a_logarithmic_scale_cannot_show_is_a_gap():
    net = deep_net()
    net.linear1.weight.requires_grad_(False)
    net.linear3.weight.data.zero_()
    net.linear4.bias.data.fill_(1.0)
    for ax, gaps in zip(gf.plot_profiles(record(net)), ([3], [1, 2], [1, 2, 4])):
        drawn = ax.get_lines()[0].get_ydata()
        assert (np.flatnonzero(np.isnan(drawn)) + 1).tolist() == gaps


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


@pytest.mark.parametrize("plot", [gf.plot_profiles, gf.plot_timeline])
def test_empty_record_is_refused(plot):
    with pytest.raises(ValueError, match="the record holds (0 steps|no step)"):
        plot(gf.FlowRecord())


def test_records_of_different_layers_in_one_list_are_refused(flow):
    with pytest.raises(ValueError, match="flows: .* same layers"):
        gf.plot_profiles([flow, record(gf.mlp([4, 8, 3], "tanh"))])


# plot_timeline


@pytest.mark.parametrize(
    ("quantity", "logarithmic"),
    [("std", True), ("row_std", True), ("grad_norm", True), ("weight_norm", True), ("weight_grad_norm", True)]
    + [("mean", False), ("min", False), ("max", False), ("saturated", False)],
)
def test_timeline_shows_layers_upwards_and_steps_to_the_right(flow, quantity, logarithmic):
    ax = gf.plot_timeline(flow, quantity)
    (picture,) = ax.get_images()
    values = flow[quantity]
    if quantity.startswith("weight"):
        values = values[:, ::2]  # the matrices, without the biases
    np.testing.assert_array_equal(picture.get_array(), values.T)
    assert picture.origin == "lower"
    assert tuple(picture.get_extent()) == (-0.5, 2.5, 0.5, values.shape[1] + 0.5)
    assert isinstance(picture.norm, LogNorm) is logarithmic
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "layer")
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


def test_timeline_leaves_out_what_a_logarithmic_scale_cannot_show():
    net = deep_net()
    net.linear3.weight.data.zero_()
    values = gf.plot_timeline(record(net), "std").get_images()[0].get_array()
    assert np.ma.getmaskarray(np.ma.masked_invalid(values))[:, 0].tolist() == [False, False, True]


def test_timeline_of_a_quantity_without_values_does_not_warn(flow):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        ax = gf.plot_timeline(flow, "dead")
    assert "no value to compare" in ax.alternative_text


def test_unknown_quantity_is_refused_with_the_quantities_there_are(flow):
    with pytest.raises(KeyError, match="'slope' is not recorded.*grad_norm"):
        gf.plot_timeline(flow, "slope")


# all of them


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_plots_draw_into_the_axes_given(flow, rows):
    _, axes = plt.subplots(rows, squeeze=False)
    axes = axes[:, 0]
    if rows == 1:
        assert gf.plot_timeline(flow, ax=axes[0]) is axes[0]
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
        lambda flow: gf.plot_timeline(flow, "nonsense"),
    ],
    ids=["activations", "profiles", "timeline"],
)
def test_plot_that_fails_leaves_no_blank_figure_behind(flow, plot):
    with pytest.raises((ValueError, KeyError)):
        plot(flow)
    assert plt.get_fignums() == []


def test_plots_have_the_style_of_the_course_and_keep_it_to_themselves(flow):
    with matplotlib.rc_context({"font.size": 7, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        drawn = [gf.plot_activations(["tanh"])[0], gf.plot_profiles(flow)[0], gf.plot_timeline(flow)]
        assert dict(matplotlib.rcParams) == before
    for ax in drawn:
        ax.figure.canvas.draw()
        assert ax.yaxis.label.get_size() == gf.STYLE["font.size"]
        assert {label.get_size() for label in ax.get_yticklabels()} == {gf.STYLE["font.size"]}
        assert not ax.spines["top"].get_visible()


def test_model_without_weight_matrices_can_be_plotted():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Tanh())
    with gf.record(net) as flow:
        net(torch.randn(20, 3, generator=torch.Generator().manual_seed(0))).pow(2).mean().backward()
    assert "no value to compare" in gf.plot_profiles(flow)[2].alternative_text


def test_empty_record_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="holds no step; run the model inside the record block, in training mode"):
        gf.plot_profiles(gf.FlowRecord())
