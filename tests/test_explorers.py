"""Explorers: every control moves the picture and the sentence; errors reach the reader; snapshots."""

import base64
import io
import re

import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import gradflow_utils as gf

CONTROLS = {"bar_height": (0, 4, 1), "width": (0.1, 0.9, 0.05), "colour": ["red", "blue"]}
MOVES = [("bar_height", 3), ("width", 0.8), ("colour", "blue")]


def draw(figure):
    ax = figure.subplots()
    ax.set(ylim=(0, 5), xlim=(-1, 1))
    (bar,) = ax.bar([0], [1])

    def update(bar_height=1, width=0.5, colour="red"):
        if bar_height == 4:
            raise ValueError("no bar is <4> high")
        bar.set(height=bar_height, width=width, color=colour)
        return f"A bar of {bar_height} & {width}, <{colour}>."

    return update


@pytest.fixture
def displayed(monkeypatch):
    things = []
    monkeypatch.setattr("IPython.display.display", lambda thing, raw=False: things.append(thing))
    return things


@pytest.fixture
def explorer(displayed):
    gf.explore(draw, **CONTROLS)
    (box,) = displayed
    *controls, picture, sentence = box.children
    return dict(zip(CONTROLS, controls, strict=True)), picture, sentence


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def share_of(colour, content):
    return (pixels(content) == np.array(colour)).all(-1).mean()


def test_controls_suit_their_values(explorer):
    height, width, colour = explorer[0].values()
    assert (type(height), height.value, height.min, height.max, height.step) == (ipywidgets.IntSlider, 1, 0, 4, 1)
    assert (type(width), width.value, width.min, width.max, width.step) == (ipywidgets.FloatSlider, 0.5, 0.1, 0.9, 0.05)
    assert (type(colour), colour.value, colour.options) == (ipywidgets.Dropdown, "red", ("red", "blue"))
    assert [control.description for control in (height, width, colour)] == ["bar height", "width", "colour"]


def test_one_float_makes_a_slider_of_floats(displayed):
    gf.explore(lambda figure: lambda x=1: f"{x}", x=(0, 2.5, 1))
    assert type(displayed[0].children[0]) is ipywidgets.FloatSlider


def test_first_picture_shows_the_defaults(explorer):
    _, picture, sentence = explorer
    assert picture.format == "png"
    assert share_of((255, 0, 0), picture.value) > 0.02
    assert share_of((0, 0, 255), picture.value) == 0
    assert "A bar of 1 &amp; 0.5, &lt;red&gt;." in sentence.value
    assert 'aria-live="polite"' in sentence.value


@pytest.mark.parametrize(("name", "value"), MOVES)
def test_moving_a_control_changes_picture_and_sentence_and_back(explorer, name, value):
    controls, picture, sentence = explorer
    start, first_picture, first_sentence = controls[name].value, picture.value, sentence.value
    controls[name].value = value
    assert (pixels(picture.value) != pixels(first_picture)).any()
    assert str(value) in sentence.value and sentence.value != first_sentence
    controls[name].value = start
    assert (pixels(picture.value) == pixels(first_picture)).all()
    assert sentence.value == first_sentence


def test_picture_follows_all_controls_together(explorer):
    controls, picture, sentence = explorer
    before = share_of((255, 0, 0), picture.value)
    for name, value in MOVES:
        controls[name].value = value
    assert share_of((0, 0, 255), picture.value) == pytest.approx(before * 3 * 0.8 / 0.5, rel=0.05)
    assert "A bar of 3 &amp; 0.8, &lt;blue&gt;." in sentence.value


def test_error_in_update_passes_on_and_stands_on_the_page_until_the_next_move(explorer):
    controls, picture, sentence = explorer
    before = picture.value
    with pytest.raises(ValueError, match="no bar is <4> high"):
        controls["bar_height"].value = 4
    assert 'role="alert"' in sentence.value
    assert "ValueError: no bar is &lt;4&gt; high" in sentence.value
    assert picture.value == before
    controls["bar_height"].value = 3
    assert 'role="alert"' not in sentence.value and "A bar of 3" in sentence.value
    assert picture.value != before


def test_error_at_the_defaults_passes_on_and_shows_nothing(displayed):
    def broken(figure):
        def update(x=0):
            return f"{1 / x}"

        return update

    with pytest.raises(ZeroDivisionError):
        gf.explore(broken, x=(0, 1, 1))
    assert displayed == []


def test_nothing_jumps_when_a_control_moves(displayed):
    axes = []

    def draw_with_labels(figure):
        axes.append(figure.subplots())

        def update(largest=1):
            axes[0].set_yticks([largest], [str(largest)])
            return f"{largest}"

        return update

    gf.explore(draw_with_labels, largest=(1, 10**6, 1))
    before = axes[0].get_position().bounds
    displayed[0].children[0].value = 10**6
    assert axes[0].get_position().bounds == before


def test_the_drawing_is_begun_once(displayed):
    calls = []

    def counting(figure):
        calls.append(figure)
        return lambda x=0: f"{x}"

    gf.explore(counting, x=(0, 5, 1))
    displayed[0].children[0].value = 3
    assert len(calls) == 1


@pytest.mark.parametrize("show", [lambda: gf.explore(draw, **CONTROLS), lambda: gf.snapshots(draw, {"width": 0.2})])
def test_figures_have_the_style_of_the_course_and_stay_out_of_pyplot(displayed, show):
    figures = plt.get_fignums()
    with matplotlib.rc_context({"font.size": 7, "axes.grid": False}):
        parameters = dict(matplotlib.rcParams)
        show()
        assert dict(matplotlib.rcParams) == parameters
    assert plt.get_fignums() == figures
    content = pictures_of(displayed[0])[0] if isinstance(displayed[0], dict) else displayed[0].children[-2].value
    width, height = gf.STYLE["figure.figsize"]
    assert pixels(content).shape[:2] == (height * gf.STYLE["figure.dpi"], width * gf.STYLE["figure.dpi"])


@pytest.mark.parametrize(
    "controls", [{}, {"width": (0.1, 0.9, 0.1)}, {**CONTROLS, "depth": (1, 2, 1)}], ids=["none", "missing", "unknown"]
)
def test_controls_that_are_not_the_parameters_of_update_are_refused(displayed, controls):
    with pytest.raises(ValueError, match="expected the parameters of update: bar_height, width, colour") as error:
        gf.explore(draw, **controls)
    assert f"controls: got {', '.join(controls) or 'none'}" in str(error.value)
    assert displayed == []


@pytest.mark.parametrize("range_", [(0, 4), ("a", "b", "c"), (0, 1, 2, 3)], ids=["pair", "words", "four"])
def test_controls_that_are_neither_range_nor_list_are_refused(displayed, range_):
    with pytest.raises(ValueError, match="controls: x got .*expected .smallest, largest, step. or a list of choices"):
        gf.explore(lambda figure: lambda x=1: f"{x}", x=range_)


@pytest.mark.parametrize(
    ("default", "range_"), [(7, (0, 4, 1)), (1.5, (0, 4, 1)), (2.0, (0.0, 1.0, 0.1)), ("green", ["red", "blue"])]
)
def test_default_that_its_control_cannot_show_is_refused(displayed, default, range_):
    with pytest.raises(ValueError, match=f"controls: x.*{default}"):
        gf.explore(lambda figure: lambda x=default: f"{x}", x=range_)


# snapshots


def pictures_of(bundle):
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', bundle["text/html"])]


def test_snapshots_show_one_picture_per_setting_with_its_sentence(displayed):
    gf.snapshots(draw, {"bar_height": 3}, {"bar_height": 2, "colour": "blue"})
    (bundle,) = displayed
    red, blue = pictures_of(bundle)
    assert share_of((0, 0, 255), red) == 0 and share_of((255, 0, 0), blue) == 0
    assert re.findall(r'alt="([^"]*)"', bundle["text/html"]) == [
        "bar_height = 3. A bar of 3 &amp; 0.5, &lt;red&gt;.",
        "bar_height = 2, colour = blue. A bar of 2 &amp; 0.5, &lt;blue&gt;.",
    ]
    assert re.findall(r"<figcaption>([^<]*)</figcaption>", bundle["text/html"]) == [
        "bar_height = 3. A bar of 3 &amp; 0.5, &lt;red&gt;.",
        "bar_height = 2, colour = blue. A bar of 2 &amp; 0.5, &lt;blue&gt;.",
    ]
    assert bundle["text/plain"].splitlines()[0].startswith("[Figure: bar_height = 3. A bar of 3 & 0.5, <red>.]")


def test_snapshot_of_the_defaults_is_described_by_the_sentence_alone(displayed):
    gf.snapshots(draw, {})
    assert re.findall(r'alt="([^"]*)"', displayed[0]["text/html"]) == ["A bar of 1 &amp; 0.5, &lt;red&gt;."]


def test_snapshot_with_an_unknown_setting_is_refused(displayed):
    with pytest.raises(TypeError, match="depth"):
        gf.snapshots(draw, {"depth": 3})
    assert displayed == []
