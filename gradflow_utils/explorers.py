"""Explorers: one drawing behind sliders where a kernel runs, and as fixed pictures where none does."""

from __future__ import annotations

import html
import inspect
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradflow_utils.page import display_pictures, png
from gradflow_utils.style import STYLE

if TYPE_CHECKING:
    import ipywidgets

Draw = Callable[[Figure], Callable[..., str]]


def explore(draw: Draw, **controls: Sequence) -> None:
    """Show `draw` beside one control per keyword; moving a control changes the figure.

        def draw(figure):
            ax = figure.subplots()
            line, = ax.plot(x, x)
            def update(slope=1.0):
                line.set_ydata(slope * x)
                return f"A line of slope {slope}."
            return update

        gf.explore(draw, slope=(0.0, 2.0, 0.1))

    Args:
        draw: takes an empty figure, draws the artists once, and returns `update`, which changes
            them. The parameters of `update` are the controls, their defaults the first setting.
            It returns a sentence that says what the figure shows: it stands below the figure and
            is read aloud by screen readers.
        controls: for each parameter of `update`, (smallest, largest, step) for a slider, of whole
            numbers or of floats, or a list of choices.

    Raises:
        ValueError: the controls do not match the parameters of `update`.
    """
    import ipywidgets
    from IPython.display import display

    figure, update, defaults = _begin(draw)
    if set(controls) != set(defaults):
        raise ValueError(f"controls: got {', '.join(controls) or 'none'}, expected the parameters of update: {', '.join(defaults)}")
    widgets = {name: _control(name, controls[name], default) for name, default in defaults.items()}
    picture = ipywidgets.Image(format="png", layout={"width": f"{figure.bbox.width:.0f}px", "max_width": "100%"})
    sentence = ipywidgets.HTML()

    def redraw(change: object = None) -> None:
        try:
            with matplotlib.rc_context(STYLE):
                text = update(**{name: widget.value for name, widget in widgets.items()})
            buffer = io.BytesIO()
            figure.canvas.print_png(buffer, pil_kwargs={"compress_level": 1})
            picture.value = buffer.getvalue()
        except Exception as error:
            sentence.value = f'<div role="alert"><b>{html.escape(f"{type(error).__name__}: {error}")}</b></div>'
            raise
        sentence.value = f'<div aria-live="polite">{html.escape(text)}</div>'

    for widget in widgets.values():
        widget.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([*widgets.values(), picture, sentence]))


def snapshots(draw: Draw, *settings: dict) -> None:
    """Show `draw` at fixed settings, as pictures for a page without a kernel.

    Args:
        draw: as for `explore`; its sentence becomes caption and alternative text.
        settings: keyword arguments of `update`, one dict per picture.
    """
    figure, update, _ = _begin(draw)
    pictures = []
    for setting in settings:
        with matplotlib.rc_context(STYLE):
            sentence = update(**setting)
        named = ", ".join(f"{name} = {value}" for name, value in setting.items())
        text = f"{named}. {sentence}" if named else sentence
        pictures.append((png(figure), text, text))
    display_pictures(pictures)


def _begin(draw: Draw) -> tuple[Figure, Callable[..., str], dict[str, object]]:
    """The figure as it is drawn at first, its `update`, and the defaults of `update`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        FigureCanvasAgg(figure)  # explicit: whether pyplot's figures keep their canvas depends on matplotlib's version
        update = draw(figure)
        defaults = {name: parameter.default for name, parameter in inspect.signature(update).parameters.items()}
        if inspect.Parameter.empty in defaults.values():
            raise ValueError("draw: each parameter of update needs a default, which is its first setting")
        update()
        for _ in range(2):  # the layout may change the ticks, and they the layout
            figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on nothing jumps when a slider moves
    return figure, update, defaults


def _control(name: str, choices: Sequence, default: object) -> ipywidgets.Widget:
    import ipywidgets

    look = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
    if isinstance(choices, list):
        fits, control = default in choices, partial(ipywidgets.Dropdown, options=choices)
    elif len(choices) == 3 and all(isinstance(number, (int, float)) for number in choices):
        smallest, largest, step = choices
        whole = all(isinstance(number, int) for number in choices)
        fits = smallest <= default <= largest and (isinstance(default, int) or not whole)
        slider = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        control = partial(slider, min=smallest, max=largest, step=step)
    else:
        raise ValueError(f"controls: {name} got {choices!r}, expected (smallest, largest, step) or a list of choices")
    if not fits:
        raise ValueError(f"controls: {name} got {choices!r}, which does not hold its default in update, {default!r}")
    return control(value=default, **look)
