"""How the plots of the course look: colours, sizes, and what a logarithmic scale cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gradflow_utils.flow import median_of_known

# Okabe and Ito's colours: told apart in all common forms of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[str, Any] = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "figure.figsize": (6.5, 4.0),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "image.cmap": "viridis",
}
MARKERS = "os^Dv<>"


def new_axes(rows: int, height: float) -> np.ndarray:
    """Axes [rows] below each other on a new figure, `height` inches high."""
    with matplotlib.rc_context(STYLE):
        return plt.subplots(rows, figsize=(STYLE["figure.figsize"][0], height), squeeze=False)[1][:, 0]


def draw_on_log_scale(ax: Axes, x: Sequence[float], runs: np.ndarray, **line: Any) -> np.ndarray:
    """Draw the median of the runs and a band from the smallest to the largest, on a logarithmic scale.

    A value that such a scale cannot show is a gap; where a run is 0 or infinite, a 0 at the lower or
    an ∞ at the upper edge says so.

    Args:
        x: [points].
        runs: [runs, points]; NaN for no value.
        line: how the line looks, and its label.

    Returns:
        The median [points], NaN where no run has a value.
    """
    x, shown = np.asarray(x), np.where((runs > 0) & np.isfinite(runs), runs, np.nan)
    median = median_of_known(runs, axis=0)
    ax.set_yscale("log")
    (drawn,) = ax.plot(x, np.where((median > 0) & np.isfinite(median), median, np.nan), **line)
    if len(runs) > 1:
        low, high = np.fmin.reduce(shown), np.fmax.reduce(shown)
        ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.25, linewidth=0)
    for sign, edge, where in (("$0$", 0.0, runs == 0), (r"$\infty$", 1.0, np.isinf(runs))):
        at = x[where.any(axis=0)]
        if len(at):
            looks = {"marker": sign, "markersize": 9, "linestyle": "none", "color": drawn.get_color(), "clip_on": False}
            ax.plot(at, np.full(len(at), edge), transform=ax.get_xaxis_transform(), **looks)
    return median


def mark_counted(ax: Axes, count: int) -> None:
    """Make the x axis count from 1 to `count`."""
    ax.set_xlim(padded(1, count))
    ax.set_xticks([1, *(tick for tick in whole_numbers().tick_values(1, count) if 1 < tick <= count)])


def padded(low: float, high: float) -> tuple[float, float]:
    """Limits of an axis with room for the markers at its ends."""
    margin = max(0.5, 0.03 * (high - low))
    return low - margin, high + margin


def whole_numbers() -> MaxNLocator:
    """Ticks at whole numbers, also if there is only one."""
    return MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def at_least(factor: float, low: float, high: float) -> tuple[float, float]:
    """Limits of a logarithmic scale that are apart by at least a factor: what hardly varies shall look like it."""
    stretch = max(1.0, (factor * low / high) ** 0.5)
    return low / stretch, high * stretch


def describe(ax: Axes, text: str) -> None:
    """Give axes their alternative text, which `show` passes on."""
    ax.alternative_text = text


def write_across(ax: Axes, text: str) -> None:
    """Write in the middle of axes why they are empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center")
