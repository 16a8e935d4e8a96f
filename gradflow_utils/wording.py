"""What plots read from a record, and how they name it and put it into words.

The words stand in the alternative texts of stored notebooks: they name powers of ten and no digits, so
that hardly any of them changes from one processor to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradflow_utils.flow import LAYER_QUANTITIES, PARAMETER_QUANTITIES, FlowRecord

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
    "always_on": "share of units that are always on",
    "identical": "share of identical units",
    "rows": "rows",
    "time_ratio": "gradient, first over last time step",
    "weight_norm": "norm of the weights, ‖W‖",
    "update_ratio": "update-to-data ratio:\n‖ΔW‖ / ‖W‖",
}
SHARES = ("saturated", "dead", "always_on", "identical")
LINEAR_SCALE = (*SHARES, "mean", "min", "max", "rows")


def columns(flow: FlowRecord, quantity: str) -> tuple[list[str], np.ndarray]:
    """One quantity as [steps, columns], and the names of the columns; of parameters, the weight matrices.

    Raises:
        ValueError: there is no such quantity by layer or parameter, or the record holds no step.
    """
    if quantity not in LABELS:
        known = ", ".join(LAYER_QUANTITIES + PARAMETER_QUANTITIES)
        raise ValueError(f"quantity: got {quantity!r}, expected one that is recorded by layer or parameter: {known}")
    flow.check_has_steps()
    values = flow[quantity].numpy()
    if quantity in LAYER_QUANTITIES:
        return list(flow.layers), values
    place = {name: column for column, name in enumerate(flow.parameters)}
    names = flow.weights
    return [name.removesuffix(".weight") for name in names], values[:, [place[name] for name in names]]


def noun(quantity: str) -> str:
    """What the columns of a quantity are."""
    return "layer" if quantity in LAYER_QUANTITIES else "weight matrix"


def one_line(label: str) -> str:
    return label.replace("\n", " ")


def shortened(name: str, room: int) -> str:
    """The end of a dotted name, in at most `room` characters; a child of a sequence is no bare number."""
    if name.isdigit():
        return f"module {name}"
    if len(name) <= room:
        return name
    end = name[1 - room :]
    return "…" + (end.partition(".")[2] or end)  # whole parts, if one fits


def tick_names(names: Sequence[str]) -> dict[int, str]:
    """Ticks for an axis that counts from 1, and the names there; the numbers where names have no room."""
    chosen = evenly_chosen(len(names), 6)
    short = {number + 1: shortened(names[number], 16) for number in chosen}
    return short if len(set(short.values())) == len(short) else {number: str(number) for number in short}


def evenly_chosen(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def trend(profile: Sequence[float], kind: str) -> str:
    """How the first of a profile compares with the last, to a power of ten; `kind` is what is counted, a "layer"."""
    if len(profile) < 2:
        return f"{kind} 1, the only one: {level(profile[0])}" if len(profile) else f"there is no {kind}"
    first, last = profile[0], profile[-1]
    here, there = f"{kind} 1", f"{kind} {len(profile)}"
    if not (0 < first < np.inf and 0 < last < np.inf):
        return f"no value to compare at {here} or {there}"
    size = max(first / last, last / first)
    if size < 10:
        return f"{here} and {there} agree within a factor of 10"
    return f"{here} is about 10^{math.log10(size):.0f} times {'larger' if first > last else 'smaller'} than {there}"


def level(value: float) -> str:
    """A value to a power of ten."""
    if math.isnan(value):
        return "no value"
    if value == 0 or math.isinf(value):
        return f"{value:.0f}"
    return f"about {'-' if value < 0 else ''}10^{round(math.log10(abs(value)))}"


def share(value: float) -> str:
    """A share between 0 and 1 in words."""
    if math.isnan(value):
        return "no value"
    if 0 < value < 1:
        return "below a half" if value < 0.5 else "a half or more"
    return "none" if value <= 0 else "all"


def off_scale(values: np.ndarray) -> str:
    """A clause on what a logarithmic scale cannot show; empty if there is nothing of that kind."""
    kinds = {"0": values == 0, "infinite": np.isinf(values)}
    return "".join(f", {what} {'everywhere' if at.all() else 'in places'}" for what, at in kinds.items() if at.any())
