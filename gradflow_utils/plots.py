"""Plots made of curves: activations, and what `record` saw by layer, step or rank.

Each returns its axes and writes their alternative text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib
import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from torch import Tensor

from gradflow_utils.activations import activation
from gradflow_utils.flow import FlowRecord, median_of_known
from gradflow_utils.style import COLOURS, MARKERS, STYLE
from gradflow_utils.style import at_least, describe, draw_on_log_scale, mark_counted, new_axes, padded
from gradflow_utils.style import whole_numbers, write_across
from gradflow_utils.wording import LABELS, PROFILES
from gradflow_utils.wording import columns, level, noun, off_scale, one_line, shortened, tick_names, trend

Runs = FlowRecord | Sequence[FlowRecord]

_RULE_OF_THUMB = 1e-3
_PRECISION = 1e-15  # of the largest singular value; smaller ones are rounding
# Of viridis, what can be seen on white.
_DEPTHS = LinearSegmentedColormap.from_list("depths", matplotlib.colormaps["viridis"](np.linspace(0, 0.9, 256)))


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
    axes = new_axes(2, height=6.0) if axes is None else np.asarray(axes)
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
                place = round(z[slope.argmax()].item(), 1) + 0.0  # no -0.0
                peaks.append(f"the slope of {entry.name} peaks at {slope.max().item():.2f} at z = {place}")
        axes[0].set_ylabel("activation h = φ(z)")
        axes[1].set(ylabel="slope φ′(z)", xlabel="pre-activation z")
        axes[0].legend()
    listed = ", ".join(names)
    describe(axes[0], f"Activation functions {listed} against the pre-activation z, saturated stretches dotted.")
    describe(axes[1], f"Below, their slopes{': ' if peaks else ''}{'; '.join(peaks)}.")
    return axes


def plot_profiles(
    flows: Runs | Mapping[str, Runs],
    axes: Sequence[Axes] | None = None,
    *,
    step: int = -1,
    theory: Mapping[str, Sequence[float]] | None = None,
) -> np.ndarray:
    """Draw three profiles: activation and activation gradient over the layers, weight gradient over the matrices.

    Args:
        flows: one record; a list of records of one kind of network with different seeds (drawn as
            the median and a band from the smallest to the largest); or a mapping from labels to
            either.
        axes: three axes to draw into; new ones by default.
        step: which recorded step; -1 is the last.
        theory: predicted values by layer for any of "row_std", "grad_norm" and
            "weight_grad_norm" (by weight matrix), drawn as a dashed black line.

    Returns:
        The three axes.

    Raises:
        ValueError: a record holds no such step, the records of one list have different layers or
            weight matrices, or `theory` fits no record.
    """
    groups = flows if isinstance(flows, Mapping) else {"": flows}
    if not groups:
        raise ValueError("flows: got an empty mapping, expected at least one record")
    profiles = {key: {label: _stack(runs, key, step) for label, runs in groups.items()} for key in PROFILES}
    theory = {key: np.asarray(values, dtype=float) for key, values in (theory or {}).items()}
    for key, values in theory.items():
        if key not in PROFILES:
            raise ValueError(f"theory: got {key!r}, expected some of {', '.join(PROFILES)}")
        counts = sorted({len(names) for names, _ in profiles[key].values()})
        if values.ndim != 1 or len(values) not in counts:
            raise ValueError(
                f"theory: {key!r} has shape {values.shape}, expected one value for each {noun(key)}, "
                f"{' or '.join(map(str, counts))} in all"
            )
    axes = new_axes(len(PROFILES), height=8.0) if axes is None else np.asarray(axes)
    with matplotlib.rc_context(STYLE):
        for ax, quantity in zip(axes, PROFILES):
            _draw_profiles(ax, quantity, profiles[quantity], theory.get(quantity))
        axes[0].label_outer()  # where the second stands below, the layers are written there
        labelled = [ax for ax in axes if ax.get_legend_handles_labels()[1]]
        if labelled:
            max(labelled, key=lambda ax: len(ax.get_legend_handles_labels()[1])).legend()
    return axes


def plot_updates(flow: FlowRecord, ax: Axes | None = None) -> Axes:
    """Draw how much each update changed each weight matrix, relative to its norm, by step.

    The dashed line is a rule of thumb for a network that learns well, 1e-3 (Karpathy, makemore part 3).

    Args:
        flow: a record that was made with its optimizer.
        ax: axes to draw into; new ones by default.

    Raises:
        ValueError: the record holds no step or no update of a weight matrix.
    """
    names, values = columns(flow, "update_ratio")
    if np.isnan(values).all():
        raise ValueError(
            "flow: it holds no update of a weight matrix; give record the optimizer that updates them: "
            "gf.record(model, optimizer)"
        )
    ax = new_axes(1, height=STYLE["figure.figsize"][1])[0] if ax is None else ax
    few = len(names) <= len(COLOURS)
    depth = Normalize(1, len(names))
    with matplotlib.rc_context(STYLE):
        for number, (name, marker) in enumerate(zip(names, cycle(MARKERS))):
            colour = COLOURS[number] if few else _DEPTHS(depth(number + 1))
            looks = {"marker": marker if few or len(flow) == 1 else "", "linewidth": 1.5}
            looks["markevery"] = max(1, len(flow) // 8)
            draw_on_log_scale(ax, flow.steps, values[None, :, number], color=colour, label=shortened(name, 24), **looks)
        _draw_guide(ax, _RULE_OF_THUMB, "rule of thumb: 1e-3")
        ax.set(xlabel="step", ylabel=LABELS["update_ratio"], ylim=at_least(100, *ax.get_ylim()))
        ax.set_xlim(padded(flow.steps[0], flow.steps[-1]))
        ax.xaxis.set_major_locator(whole_numbers())
        if few:
            ax.legend(title="weight matrix")
        else:
            ticks = tick_names(names)
            bar = ax.figure.colorbar(ScalarMappable(depth, _DEPTHS), ax=ax, label="weight matrix")
            bar.set_ticks(list(ticks), labels=list(ticks.values()))
    medians = median_of_known(values, axis=0)
    sides = {
        "more than 10 times above": medians > 10 * _RULE_OF_THUMB,
        "within a factor of 10 of": (medians >= _RULE_OF_THUMB / 10) & (medians <= 10 * _RULE_OF_THUMB),
        "more than 10 times below": medians < _RULE_OF_THUMB / 10,
    }
    said = [f"{'all' if where.all() else 'some'} are {side} it" for side, where in sides.items() if where.any()]
    describe(
        ax,
        f"{one_line(LABELS['update_ratio'])} by step, logarithmic, one line for each weight matrix ({len(names)}), "
        f"and a dashed line at the rule of thumb, 10^-3. Of their medians over the steps, {'; '.join(said)}"
        f"{off_scale(values)}.",
    )
    return ax


def plot_singular_values(values: Tensor | Mapping[str, Tensor], ax: Axes | None = None) -> Axes:
    """Draw singular values of the input-output Jacobian by rank: their median over the rows, and a band of their range.

    At the dashed line, 1, a small step of the input keeps its length. Values below 1e-15 of the largest
    of their row are rounding and are left out.

    Args:
        values: [rows, ranks] as `singular_values` returns them, or a mapping from labels to such.
        ax: axes to draw into; new ones by default.

    Raises:
        ValueError: values of another shape, or negative ones.
    """
    groups = values if isinstance(values, Mapping) else {"": values}
    groups = {label: _sorted_rows(one) for label, one in groups.items()}
    if not groups:
        raise ValueError("values: got an empty mapping, expected at least one tensor [rows, ranks]")
    ax = new_axes(1, height=STYLE["figure.figsize"][1])[0] if ax is None else ax
    sentences = []
    with matplotlib.rc_context(STYLE):
        for (label, rows), colour, marker in zip(groups.items(), cycle(COLOURS), cycle(MARKERS)):
            ranks = np.arange(1, rows.shape[1] + 1)
            looks = {"color": colour, "marker": marker, "markevery": max(1, len(ranks) // 20)}
            median = draw_on_log_scale(ax, ranks, rows, label=label, **looks)
            prefix = f"{label}: " if label else ""
            sentences.append(f"{prefix}the largest is {level(median[0])}; {trend(median, 'rank')}{off_scale(rows)}")
        _draw_guide(ax, 1.0, "length kept")
        ax.set(xlabel="rank", ylabel="singular value of\nd(output)/d(input)", ylim=at_least(100, *ax.get_ylim()))
        mark_counted(ax, max(rows.shape[1] for rows in groups.values()))
        if any(groups):
            ax.legend()
    described = ". ".join(sentences)
    describe(ax, f"Singular values of d(output)/d(input) by rank, logarithmic, median over the rows. {described}.")
    return ax


def _stack(runs: Runs, quantity: str, step: int) -> tuple[list[str], np.ndarray]:
    """The names of the columns of one quantity, and its values [runs, columns] at one step."""
    runs = [runs] if isinstance(runs, FlowRecord) else list(runs)
    if not runs:
        raise ValueError("flows: got an empty list, expected at least one record")
    profiles = []
    for flow in runs:
        names, values = columns(flow, quantity)
        if not -len(flow) <= step < len(flow):
            raise ValueError(f"step: got {step}, but the record holds {len(flow)} steps")
        if profiles and names != profiles[0][0]:
            raise ValueError(
                "flows: the records of one list must have the same layers and weight matrices; give networks of "
                "different shape a label each: {'narrow': flow, 'wide': other}"
            )
        profiles.append((names, values[step]))
    return profiles[0][0], np.stack([values for _, values in profiles])


def _draw_profiles(
    ax: Axes, quantity: str, profiles: Mapping[str, tuple[list[str], np.ndarray]], predicted: np.ndarray | None
) -> None:
    """Draw one of the three panels of `plot_profiles`."""
    kind, sentences = noun(quantity), []
    for (label, (names, values)), colour, marker in zip(profiles.items(), cycle(COLOURS), cycle(MARKERS)):
        median = draw_on_log_scale(ax, np.arange(1, len(names) + 1), values, color=colour, marker=marker, label=label)
        sentences.append((f"{label}: " if label else "") + trend(median, kind) + off_scale(values))
    if predicted is not None:
        place = np.arange(1, len(predicted) + 1)
        draw_on_log_scale(ax, place, predicted[None], linestyle="--", color="black", label="predicted")
    if not any(np.isfinite(values).any() for _, values in profiles.values()):
        write_across(ax, "no value was recorded")
    longest = max(1, *(len(names) for names, _ in profiles.values()))
    ax.set(ylabel=PROFILES[quantity], xlabel=_x_label(kind, profiles), ylim=at_least(100, *ax.get_ylim()))
    mark_counted(ax, longest)
    describe(ax, f"{one_line(PROFILES[quantity])} by {kind}, logarithmic: {'; '.join(sentences)}.")


def _x_label(kind: str, profiles: Mapping[str, tuple[list[str], np.ndarray]]) -> str:
    """What is counted, with the names of the first and the last where all groups agree on them."""
    names = next(iter(profiles.values()))[0]
    if len(names) < 2 or any(others != names for others, _ in profiles.values()):
        return f"{kind}, from the input (1) to the output"
    first, last = (f"{shortened(name, 28)} ({side})" for name, side in ((names[0], "input"), (names[-1], "output")))
    room = 56 - len(kind)
    return f"{kind}, from {first}{' ' if len(first + last) < room else chr(10)}to {last}"


def _draw_guide(ax: Axes, height: float, text: str) -> None:
    """Draw a dashed line across the axes with its meaning at the right end."""
    ax.axhline(height, color="black", linestyle="--", linewidth=1.2)
    halo = patheffects.withStroke(linewidth=3, foreground="white")
    where = {"xy": (1, height), "xycoords": ax.get_yaxis_transform(), "xytext": (-3, 3), "textcoords": "offset points"}
    ax.annotate(text, ha="right", path_effects=[halo], **where)


def _sorted_rows(values: Tensor) -> np.ndarray:
    """Singular values [rows, ranks], largest first, NaN for what is lost in rounding."""
    rows = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if rows.ndim != 2 or rows.numel() == 0 or (rows < 0).any():
        came = "negative values" if (rows < 0).any() else f"shape {tuple(rows.shape)}"
        raise ValueError(f"values: got {came}, expected [rows, ranks], as gf.singular_values(model, x) returns them")
    rows = rows.sort(dim=1, descending=True).values
    lost = (rows > 0) & (rows < _PRECISION * rows[:, :1]) & rows[:, :1].isfinite()
    return rows.masked_fill(lost, torch.nan).numpy()
