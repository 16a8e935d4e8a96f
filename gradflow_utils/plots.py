"""Plots of activations and of what `record` saw. Each returns its axes and writes their alternative text."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from gradflow_utils.activations import activation
from gradflow_utils.page import describe
from gradflow_utils.recording import PARAMETER_QUANTITIES, FlowRecord

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

PROFILES = {
    "row_std": "activation:\nstd over rows",
    "grad_norm": "activation gradient:\n‖dL/dh‖",
    "weight_grad_norm": "weight gradient:\n‖dL/dW‖",
}
LABELS = PROFILES | {
    "mean": "mean of the output",
    "std": "std of the output",
    "min": "smallest output",
    "max": "largest output",
    "saturated": "share of saturated outputs",
    "dead": "share of dead units",
    "weight_norm": "norm of the weights, ‖W‖",
}
LINEAR_SCALE = {"mean", "min", "max", "saturated", "dead"}

Runs = FlowRecord | Sequence[FlowRecord]


def plot_activations(names: Sequence[str], axes: Sequence[Axes] | None = None, reach: float = 8.0) -> np.ndarray:
    """Draw activation functions above their slopes; the saturated stretches are dotted.

    Args:
        names: keys of `ACTIVATIONS`.
        axes: two axes to draw into; new ones by default.
        reach: draws pre-activations from -reach to reach.

    Returns:
        The two axes.
    """
    entries = [activation(name) for name in names]
    axes = _new_axes(2, height=6.0) if axes is None else np.asarray(axes)
    z = torch.linspace(-reach, reach, 801, dtype=torch.float64)
    peaks = []
    with matplotlib.rc_context(STYLE):
        for entry, colour in zip(entries, cycle(COLOURS)):
            h, slope = entry.function(z), entry.slope(z)
            flat = entry.saturated(h)
            for ax, values in zip(axes, (h, slope)):
                ax.plot(z, values.where(~flat, torch.nan), color=colour, label=entry.name)
                ax.plot(z, values.where(flat, torch.nan), color=colour, linestyle=":")
            if (slope == slope.max()).sum() == 1:  # a peak, not a half-line of slope 1
                peaks.append(f"the slope of {entry.name} peaks at {slope.max().item():.2f} at z = {round(z[slope.argmax()].item(), 1) + 0.0}")
        axes[0].set_ylabel("activation h = φ(z)")
        axes[1].set(ylabel="slope φ′(z)", xlabel="pre-activation z")
        axes[0].legend()
    describe(axes[0], f"Activation functions {', '.join(names)} against the pre-activation z, saturated stretches dotted.")
    describe(axes[1], f"Below, their slopes{': ' if peaks else ''}{'; '.join(peaks)}.")
    return axes


def plot_profiles(
    flows: Runs | Mapping[str, Runs],
    axes: Sequence[Axes] | None = None,
    *,
    step: int = -1,
    theory: Mapping[str, Sequence[float]] | None = None,
) -> np.ndarray:
    """Draw the three profiles over the layers: activation, activation gradient, weight gradient.

    Args:
        flows: one record; a list of records of one kind of network with different seeds (drawn as
            the median and a band from the smallest to the largest); or a mapping from labels to
            either.
        axes: three axes to draw into; new ones by default.
        step: which recorded step; -1 is the last.
        theory: predicted values by layer for any of "row_std", "grad_norm" and
            "weight_grad_norm", drawn as a dashed black line.

    Returns:
        The three axes.

    Raises:
        ValueError: a record holds no such step, or the records of one list have different layers.
    """
    groups = flows if isinstance(flows, Mapping) else {"": flows}
    profiles = {quantity: [_stack(runs, quantity, step) for runs in groups.values()] for quantity in PROFILES}
    axes = _new_axes(len(PROFILES), height=8.0) if axes is None else np.asarray(axes)
    with matplotlib.rc_context(STYLE):
        for ax, (quantity, label) in zip(axes, PROFILES.items()):
            sentences = []
            for name, values, colour, marker in zip(groups, profiles[quantity], cycle(COLOURS), cycle(MARKERS)):
                layer = np.arange(1, values.shape[1] + 1)
                low, middle, high = (np.where(row > 0, row, np.nan) for row in (values.min(0), np.median(values, 0), values.max(0)))
                ax.plot(layer, middle, color=colour, marker=marker, label=name)
                if len(values) > 1:
                    ax.fill_between(layer, low, high, color=colour, alpha=0.25, linewidth=0)
                sentences.append(f"{name}: {_trend(middle)}" if name else _trend(middle))
            if theory and quantity in theory:
                ax.plot(np.arange(1, len(theory[quantity]) + 1), theory[quantity], "--", color="black", label="predicted")
            ax.set(yscale="log", ylabel=label)
            describe(ax, f"{label.replace(chr(10), ' ')} by layer, logarithmic: {'; '.join(sentences)}.")
        axes[-1].set_xlabel("layer, from the input (1) to the output")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        labelled = [ax for ax in axes if ax.get_legend_handles_labels()[1]]
        if labelled:
            max(labelled, key=lambda ax: len(ax.get_legend_handles_labels()[1])).legend()
    return axes


def plot_timeline(flow: FlowRecord, quantity: str = "grad_norm", ax: Axes | None = None) -> Axes:
    """Draw one quantity as a picture: layers upwards, steps to the right, the value as colour.

    Args:
        flow: a record of at least one step.
        quantity: a quantity of `FlowRecord`; of parameters, the weight matrices are drawn.
        ax: axes to draw into; new ones by default.
    """
    _check_not_empty(flow)
    values = _columns(flow, quantity).T.numpy()
    ax = _new_axes(1, height=4.0)[0] if ax is None else ax
    label = LABELS[quantity].replace("\n", " ")
    positive = values[np.isfinite(values) & (values > 0)]
    logarithmic = quantity not in LINEAR_SCALE and len(positive) > 0
    if logarithmic:
        values = np.where(values > 0, values, np.nan)
    layers, steps = values.shape
    with matplotlib.rc_context(STYLE):
        picture = ax.imshow(
            values,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(-0.5, steps - 0.5, 0.5, layers + 0.5),
            norm=LogNorm(positive.min(), positive.max()) if logarithmic else None,
        )
        ax.set_facecolor("lightgrey")  # shows where there is no value
        ax.grid(False)
        ax.figure.colorbar(picture, ax=ax, label=label)
        ax.set(xlabel="step", ylabel="layer")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about layers without a value
        middle = np.nanmedian(values, axis=1)
    trend = _trend(middle) if logarithmic or np.isnan(middle).all() else _ends(middle)
    describe(ax, f"{label} by layer (upwards) and step (to the right), as colour. Median over the {steps} steps: {trend}.")
    return ax


def _new_axes(rows: int, height: float) -> np.ndarray:
    with matplotlib.rc_context(STYLE):
        return plt.subplots(rows, sharex=True, figsize=(STYLE["figure.figsize"][0], height), squeeze=False)[1][:, 0]


def _check_not_empty(flow: FlowRecord) -> None:
    if len(flow) == 0:
        raise ValueError("flow: the record holds no step; run the model inside the record block, in training mode")


def _columns(flow: FlowRecord, quantity: str) -> torch.Tensor:
    """[steps, layers] for a layer quantity, [steps, weight matrices] for a parameter quantity."""
    values = flow[quantity]
    if quantity in PARAMETER_QUANTITIES:
        values = values[:, [name in set(flow.weights) for name in flow.parameters]]
    return values


def _stack(runs: Runs, quantity: str, step: int) -> np.ndarray:
    """[runs, layers] of one quantity at one step."""
    runs = [runs] if isinstance(runs, FlowRecord) else list(runs)
    if not runs:
        raise ValueError("flows: got an empty list, expected at least one record")
    for flow in runs:
        _check_not_empty(flow)
        if not -len(flow) <= step < len(flow):
            raise ValueError(f"step: got {step}, but the record holds {len(flow)} steps")
        if flow.layers != runs[0].layers:
            raise ValueError("flows: the records of one list must have the same layers; give networks of different shape a label each")
    return torch.stack([_columns(flow, quantity)[step] for flow in runs]).numpy()


def _trend(profile: np.ndarray) -> str:
    """How the first layer compares with the last, to a power of ten: hardly ever different on another processor."""
    first, last = (profile[0], profile[-1]) if len(profile) else (np.nan, np.nan)
    here, there = "layer 1", f"layer {len(profile)}"
    if not (0 < first < np.inf and 0 < last < np.inf):
        return f"no value to compare at {here} or {there}"
    size = max(first / last, last / first)
    if size < 10:
        return f"{here} and {there} agree within a factor of 10"
    return f"{here} is about 10^{math.log10(size):.0f} times {'larger' if first > last else 'smaller'} than {there}"


def _ends(profile: np.ndarray) -> str:
    """The rounded values of the first and the last layer, for a quantity on a linear scale."""
    return f"{profile[0]:.2g} at layer 1, {profile[-1]:.2g} at layer {len(profile)}"
