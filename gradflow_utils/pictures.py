"""Plots that show a value as colour, with the steps to the right: one quantity, and whole distributions."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

from gradflow_utils.flow import FlowRecord, median_of_known
from gradflow_utils.style import STYLE, at_least, describe, new_axes, whole_numbers, write_across
from gradflow_utils.wording import LABELS, LINEAR_SCALE, SHARES
from gradflow_utils.wording import columns, evenly_chosen, level, noun, off_scale, one_line, share, shortened
from gradflow_utils.wording import tick_names, trend

_MOST_PANELS = 6
_SMALLEST_SHARE = 1e-3  # a bin with less is drawn as if it were empty


def plot_timeline(flow: FlowRecord, quantity: str = "grad_norm", ax: Axes | None = None) -> Axes:
    """Draw one quantity as a picture: layers upwards, steps to the right, the value as colour.

    Args:
        flow: a record of at least one step.
        quantity: a quantity of `FlowRecord` by layer or parameter; of parameters, the weight
            matrices are drawn. Grey: no value.
        ax: axes to draw into; new ones by default.

    Raises:
        ValueError: there is no such quantity, or the record holds no step, layer or weight matrix.
    """
    names, values = columns(flow, quantity)
    if not names:
        raise ValueError(f"flow: it holds no {noun(quantity)}; flow.notes says what could not be seen")
    ax = new_axes(1, height=STYLE["figure.figsize"][1])[0] if ax is None else ax
    steps, layers = values.shape
    with matplotlib.rc_context(STYLE):
        shown = np.isfinite(values) & ((values > 0) | (quantity in LINEAR_SCALE))
        _draw_picture(ax, flow, np.where(shown, values, np.nan), (0.5, layers + 0.5), _norm(values[shown], quantity))
        ax.figure.colorbar(ax.images[0], ax=ax, label=one_line(LABELS[quantity]))
        ax.set(xlabel="step", ylabel=noun(quantity))
        ticks = tick_names(names)
        ax.set_yticks(list(ticks), list(ticks.values()))
    middle = median_of_known(values, axis=0)
    if quantity in LINEAR_SCALE:
        word = share if quantity in SHARES else level
        said = f"{word(middle[0])} at layer 1" + (f", {word(middle[-1])} at layer {layers}" if layers > 1 else "")
    else:
        said = trend(middle, noun(quantity)) + off_scale(values)
    when = f"Median over the {steps} steps" if steps > 1 else f"At step {flow.steps[0]}"
    where = f"by {noun(quantity)} (upwards) and step (to the right), as colour"
    describe(ax, f"{one_line(LABELS[quantity])} {where}. {when}: {said}.")
    return ax


def plot_histograms(
    flow: FlowRecord,
    which: str = "activation",
    layers: Sequence[str] | None = None,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the distribution at some layers over time: one picture per layer, the share per bin as colour.

    Activations are drawn each on its own range, gradients all on one range of log10 |dL/dh|, so that a
    gradient that vanishes sinks from picture to picture. Exact zeros of a gradient are in no bin.

    Args:
        flow: a record that was made with `histograms=True`.
        which: "activation" or "gradient".
        layers: names from `flow.layers`, drawn from top to bottom; by default at most 6, evenly chosen,
            the first and the last among them.
        axes: one for each layer; new ones by default.

    Returns:
        The axes, one for each layer.

    Raises:
        ValueError: the record holds no histograms or no step, or a layer is unknown.
    """
    names = columns(flow, "grad_norm")[0]  # of all layers
    shares, edges = (part.numpy() for part in flow.histograms(which))
    if np.isnan(shares).all():
        remedy = "make it with gf.record(model, histograms=True), in training mode"
        raise ValueError(f"flow: it holds no histogram of any {which}; {remedy}")
    layers = [names[number] for number in evenly_chosen(len(names), _MOST_PANELS)] if layers is None else list(layers)
    if not layers or not set(layers) <= set(names):
        raise ValueError(f"layers: got {layers}, expected some of flow.layers: {', '.join(names) or 'it is empty'}")
    if axes is not None and len(axes) != len(layers):
        raise ValueError(f"axes: got {len(axes)}, expected {len(layers)}, one for each layer")
    borders, values = {}, {}
    for layer in layers:
        column = names.index(layer)
        borders[layer] = _borders(which, shares, edges, column)
        values[layer] = np.maximum(_rebinned(shares[:, column], edges[:, column], borders[layer]), 0)
    largest = max(np.fmax.reduce(one, axis=None, initial=10 * _SMALLEST_SHARE) for one in values.values())
    axes = new_axes(len(layers), height=1.2 + 1.2 * len(layers)) if axes is None else np.asarray(axes)
    with matplotlib.rc_context(STYLE):
        for ax, layer in zip(axes, layers):
            shown = np.maximum(values[layer], _SMALLEST_SHARE)
            _draw_picture(ax, flow, shown, borders[layer][[0, -1]], LogNorm(_SMALLEST_SHARE, largest))
            ax.set_title(shortened(layer, 50), loc="left", fontsize=STYLE["font.size"])
            ax.yaxis.set_major_locator(MaxNLocator(3, integer=which == "gradient"))
            ax.label_outer()
        axes[-1].set_xlabel("step")
        middle = 1.0 if len(axes) % 2 == 0 else 0.5  # of all the pictures, seen from the one that bears the label
        axes[len(axes) // 2].set_ylabel({"activation": "activation", "gradient": "log₁₀ |dL/dh|"}[which], y=middle)
        bar = {"label": "share of the values per bin", "extend": "min", "aspect": 8 * len(axes)}
        axes[0].figure.colorbar(axes[0].images[0], ax=list(axes), **bar)
    sizes = {layer: _sizes(which, values[layer], borders[layer]) for layer in layers}
    for ax, layer in zip(axes, layers):
        describe(ax, f"{shortened(layer, 50)}: {_course(sizes[layer])}.")
    what = {
        "activation": "activations. Width of the middle 90 %",
        "gradient": "logarithm of the absolute activation gradients. Median of these gradients",
    }[which]
    when = "the last step, compared with the first" if len(flow) > 1 else f"step {flow.steps[0]}"
    axes[0].alternative_text = (
        f"Distribution by step (to the right) at {len(layers)} of {len(names)} layers, the share per bin as colour, "
        f"of the {what} at {when}: {axes[0].alternative_text}"
    )
    return axes


def _draw_picture(ax: Axes, flow: FlowRecord, values: np.ndarray, heights: Sequence[float], norm: Normalize) -> None:
    """Draw values [steps, rows] as colours; each recorded step is as wide as the way to the next."""
    every = flow.steps[1] - flow.steps[0] if len(flow.steps) > 1 else 1
    extent = (flow.steps[0] - every / 2, flow.steps[-1] + every / 2, *heights)
    ax.imshow(values.T, aspect="auto", origin="lower", interpolation="nearest", extent=extent, norm=norm)
    ax.set_facecolor("lightgrey")  # shows where there is no value
    ax.grid(False)
    ax.xaxis.set_major_locator(whole_numbers())
    if not np.isfinite(values).any():
        write_across(ax, "no value was recorded")


def _norm(shown: np.ndarray, quantity: str) -> Normalize:
    """The scale of colours for the values shown: shares from 0 to 1, norms and deviations by powers of ten."""
    if quantity in SHARES:
        return Normalize(0, 1)
    low, high = (shown.min(), shown.max()) if len(shown) else (1.0, 1.0)
    if quantity in LINEAR_SCALE:
        return Normalize(low, high)
    return LogNorm(*at_least(10, low, high))


def _borders(which: str, shares: np.ndarray, edges: np.ndarray, column: int) -> np.ndarray:
    """The borders of the bins [bins + 1] that serve all steps of one layer."""
    if which == "gradient":  # the bins that are filled at any layer
        filled = np.flatnonzero((shares >= _SMALLEST_SHARE).any(axis=(0, 1)))
        return edges[0, 0, filled[0] : filled[-1] + 2] if len(filled) else edges[0, 0]
    known = edges[:, column][np.isfinite(edges[:, column])]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    margin = 1e-6 * (high - low) if low < high else 0.5  # what lies on an edge falls inside
    return np.linspace(low - margin, high + margin, edges.shape[2])


def _rebinned(shares: np.ndarray, edges: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Shares [steps, bins] between new borders, if the values are spread evenly within each old bin."""
    below = np.cumsum(np.pad(shares, ((0, 0), (1, 0))), axis=1)  # the share below each edge
    known = np.isfinite(below).all(axis=1) & np.isfinite(edges).all(axis=1)
    moved = np.full((len(shares), len(borders) - 1), np.nan)
    for step in np.flatnonzero(known):
        moved[step] = np.diff(np.interp(borders, edges[step], below[step]))
    return moved


def _sizes(which: str, shares: np.ndarray, borders: np.ndarray) -> list[float]:
    """By step: the width of the middle 90 % of the activations, the median of the absolute gradients."""
    sizes = []
    for below in np.cumsum(np.pad(shares, ((0, 0), (1, 0))), axis=1):
        if not below[-1] > 0:
            sizes.append(np.nan)
            continue
        low, median, high = np.interp([0.05, 0.5, 0.95], below / below[-1], borders)
        sizes.append(high - low if which == "activation" else 10**median)
    return sizes


def _course(sizes: Sequence[float]) -> str:
    """The last of some sizes in words, compared with the first, to a factor of 3."""
    first, last = sizes[0], sizes[-1]
    if len(sizes) == 1 or not (first > 0 and last > 0):
        return level(last)
    if first / 3 < last < 3 * first:
        return f"{level(last)}, about the same"
    return f"{level(last)}, more than 3 times {'larger' if last > first else 'smaller'}"
