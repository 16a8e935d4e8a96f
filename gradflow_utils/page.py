"""What a notebook puts on the page: figures with alternative text, and the reader's guess."""

from __future__ import annotations

import base64
import html
import io
import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE_SIZE = 128  # colours in a stored picture: a third of the bytes of a full-colour PNG


def show(figure: Figure | Axes | Any, caption: str = "", alt: str | None = None) -> None:
    """Display a figure with its alternative text and a caption, and close it.

    A bare figure in a notebook reaches nobody who cannot see it: no notebook program passes the
    metadata of a picture on. This writes an <img> with an alt attribute instead.

    Args:
        figure: a matplotlib Figure, its Axes, or a list or array of Axes.
        caption: a sentence that says what to see.
        alt: the alternative text; by default what the `plot_*` functions wrote.

    Raises:
        ValueError: there is no alternative text.
    """
    figure = _figure_of(figure)
    if alt is None:
        alt = " ".join(ax.alternative_text for ax in figure.axes if hasattr(ax, "alternative_text"))
    display_pictures([(png(figure), alt, caption)])
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)


def guess(value: object, smallest: float = -math.inf, largest: float = math.inf) -> float:
    """Read the guess that the reader wrote in a "predict first" cell; never raises.

    Args:
        value: what the reader wrote.
        smallest, largest: the range in which a guess makes sense.

    Returns:
        The guess as a float. NaN, which plots draw as nothing, if there is none or it makes no
        sense; then a line says so.
    """
    if value is None:
        print("No guess yet. Write one into the cell above: a wrong guess teaches more than none.")
        return math.nan
    try:
        number = float(value)
    except Exception:
        print(f"Could not read {value!r} as a number. Write it like 0.25 or 1e-3.")
        return math.nan
    if not smallest <= number <= largest:
        print(f"Your guess is {number:g}. Write a number between {smallest:g} and {largest:g}.")
        return math.nan
    return number


def png(figure: Figure) -> bytes:
    """Render a figure as a PNG with a small palette."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # the layout may change the ticks, and they the layout: twice settles it
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(PALETTE_SIZE)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def display_pictures(pictures: list[tuple[bytes, str, str]]) -> None:
    """Display pictures side by side where the page is wide enough, below each other where it is not.

    Args:
        pictures: (PNG, alternative text, caption) each.

    Raises:
        ValueError: a picture has no alternative text.
    """
    from IPython.display import display

    parts, texts = [], []
    for content, alt, caption in pictures:
        if not alt.strip():
            raise ValueError('alt: the figure has no alternative text; pass alt="what a reader who cannot see it must know"')
        source = base64.b64encode(content).decode()
        parts.append(
            '<figure style="margin: 0 1em 1em 0; flex: 0 1 auto">'
            f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="data:image/png;base64,{source}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
        texts.append(f"[Figure: {alt}] {caption}".strip())
    page = '<div style="display: flex; flex-wrap: wrap">' + "".join(parts) + "</div>"
    display({"text/html": page, "text/plain": "\n".join(texts)}, raw=True)


def _figure_of(drawn: Any) -> Figure:
    drawn = getattr(drawn, "flat", drawn)  # an array of Axes, as plt.subplots returns it
    if isinstance(drawn, Iterable):
        drawn = next(iter(drawn), None)
    figure = getattr(drawn, "figure", None)
    if figure is None or not hasattr(figure, "savefig"):
        raise TypeError(f"figure: got {type(drawn).__name__}, expected a matplotlib Figure, its Axes or several Axes")
    return figure
