"""What reaches the page: pictures with alternative text, captions, and the reader's guess."""

import base64
import io
import math
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import gradflow_utils as gf

matplotlib.use("agg")

AWKWARD = "Slope < 0.25 & \"flat\" beyond 'z' > 3"


class Page(HTMLParser):
    """The images and the captions of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.images, self.captions, self._inside = [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self._inside = tag
        if tag == "img":
            self.images.append(dict(attributes))
        if tag == "figcaption":
            self.captions.append("")

    def handle_data(self, text):
        if self._inside == "figcaption":
            self.captions[-1] += text


@pytest.fixture
def displayed(monkeypatch):
    """What was displayed, as bundles of types and contents."""
    bundles = []

    def display(bundle, raw=False):
        assert raw
        bundles.append(bundle)

    monkeypatch.setattr("IPython.display.display", display)
    yield bundles
    plt.close("all")


def drawn():
    figure, ax = plt.subplots(figsize=(3, 2), dpi=100)
    ax.plot([0, 1], [0, 1], color="red", linewidth=9)
    return figure


def decode(image):
    head, data = image["src"].split(",")
    assert head == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    return picture


def test_page_holds_picture_alternative_text_and_caption(displayed):
    gf.show(drawn(), caption=f"Caption: {AWKWARD}", alt=AWKWARD)
    (bundle,) = displayed
    page = Page(bundle["text/html"])
    assert [image["alt"] for image in page.images] == [AWKWARD]
    assert page.captions == [f"Caption: {AWKWARD}"]
    assert bundle["text/plain"] == f"[Figure: {AWKWARD}] Caption: {AWKWARD}"


def test_alternative_text_cannot_break_out_of_its_attribute(displayed):
    gf.show(drawn(), caption="<b>", alt='" onload="alert(1)')
    (image,) = Page(displayed[0]["text/html"]).images
    assert image["alt"] == '" onload="alert(1)'
    assert "onload" not in image
    assert "<b>" not in displayed[0]["text/html"]


def test_picture_is_a_palette_png_that_shows_the_figure(displayed):
    figure = drawn()
    figure.canvas.draw()
    expected = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)
    gf.show(figure, alt="a red line")
    picture = decode(Page(displayed[0]["text/html"]).images[0])
    assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (300, 200))
    assert len(picture.getcolors()) <= 128
    assert np.abs(np.asarray(picture.convert("RGB")) - expected).mean() < 2  # of 255


def test_figure_is_closed_and_others_stay_open(displayed):
    other, figure = drawn(), drawn()
    gf.show(figure, alt="a line")
    assert plt.get_fignums() == [other.number]


@pytest.mark.parametrize("alt", [None, "", " \n"])
def test_figure_without_alternative_text_is_refused(displayed, alt):
    with pytest.raises(ValueError, match="alt: the figure has no alternative text; pass alt="):
        gf.show(drawn(), alt=alt)
    assert displayed == []


def test_plots_bring_their_alternative_text(displayed):
    axes = gf.plot_activations(["tanh"])
    gf.show(axes)
    (image,) = Page(displayed[0]["text/html"]).images
    assert image["alt"] == f"{axes[0].alternative_text} {axes[1].alternative_text}"


def test_alternative_text_given_replaces_that_of_the_plot(displayed):
    gf.show(gf.plot_activations(["tanh"]), alt="mine")
    assert Page(displayed[0]["text/html"]).images[0]["alt"] == "mine"


@pytest.mark.parametrize(
    "take",
    [lambda figure: figure, lambda figure: figure.axes[0], lambda figure: np.array(figure.axes)],
    ids=["figure", "axes", "array of axes"],
)
def test_figure_axes_and_arrays_of_axes_are_taken(displayed, take):
    figure = drawn()
    gf.show(take(figure), alt="a line")
    assert len(displayed) == 1
    assert plt.get_fignums() == []


def test_figure_that_pyplot_does_not_know_is_taken(displayed):
    figure = Figure(figsize=(1, 1), dpi=100)
    figure.subplots().plot([1, 2])
    gf.show(figure, alt="a line")
    assert decode(Page(displayed[0]["text/html"]).images[0]).size == (100, 100)


@pytest.mark.parametrize(("thing", "name"), [("figure.png", "str"), (None, "NoneType"), ([1], "int")])
def test_anything_else_is_refused(displayed, thing, name):
    with pytest.raises(TypeError, match=f"figure: got {name}, expected a matplotlib Figure"):
        gf.show(thing, alt="nothing")


# guess


@pytest.mark.parametrize(("value", "number"), [(3, 3.0), (0.25, 0.25), ("1e-3", 1e-3), (torch.tensor(2.0), 2.0)])
def test_guess_is_read_as_a_number_in_silence(capsys, value, number):
    assert gf.guess(value) == number
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [97, -3, math.inf, math.nan])
def test_guess_that_makes_no_sense_is_nan_and_the_range(capsys, value):
    assert math.isnan(gf.guess(value, 0, 1))
    assert "Write a number between 0 and 1." in capsys.readouterr().out
    assert gf.guess(1, 0, 1) == 1.0 and gf.guess(0, 0, 1) == 0.0


def test_no_guess_yet_is_nan_and_an_invitation(capsys):
    assert math.isnan(gf.guess(None))
    assert "No guess yet" in capsys.readouterr().out


class Unfriendly:
    def __float__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "value",
    ["about 3", "0,25", ..., [1, 2], 1j, torch.tensor([1.0, 2.0]), np.array([1.0, 2.0]), 10**400, Unfriendly()],
    ids=["words", "comma", "dots", "list", "complex", "tensor", "array", "huge", "unfriendly"],
)
def test_guess_that_is_no_number_is_nan_and_a_hint(capsys, value):
    assert math.isnan(gf.guess(value))
    assert "Write it like 0.25 or 1e-3" in capsys.readouterr().out
