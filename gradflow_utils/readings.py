"""A record, read for diagnosis: typical values and the ratios that tell whether signal and gradient get through."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradflow_utils.flow import FlowRecord, median_of_known


class Readings:
    """A record as numpy arrays [steps, columns], up to the first step that is not finite: behind it no ratio means anything."""

    def __init__(self, flow: FlowRecord) -> None:
        self.flow, self.layers, self.parameters, self.weights = flow, flow.layers, flow.parameters, flow.weights
        self.read: dict[str, np.ndarray] = {}
        self.bad = not_finite(flow)
        bad_steps = np.flatnonzero(np.any([one.any(axis=1) for one in self.bad], axis=0))
        self.first_bad = int(bad_steps[0]) if len(bad_steps) else None

    def __getitem__(self, quantity: str) -> np.ndarray:
        if quantity not in self.read:
            self.read[quantity] = self.flow[quantity].numpy()[: self.first_bad]
        return self.read[quantity]


def not_finite(flow: FlowRecord) -> tuple[np.ndarray, ...]:
    """Where outputs, weights, losses and gradients are NaN or inf, each [steps, columns]."""
    wanted = ("rows", "min", "max", "loss", "backward_passes", "total_grad_norm", "weight_norm")
    read = {name: flow[name].numpy().reshape(len(flow), -1) for name in wanted}
    ran, went_back = np.isfinite(read["rows"]), read["backward_passes"] > 0
    return (
        ran & ~(np.isfinite(read["min"]) & np.isfinite(read["max"])),
        ~np.isfinite(read["weight_norm"]),
        ~np.isfinite(read["loss"]) & flow.has_loss,
        went_back & ~np.isfinite(read["total_grad_norm"]),
    )


@dataclass(frozen=True)
class Ratio:
    """The gradient at the beginning over that at the end; NaN if there is none."""

    ratio: float
    where: tuple[str, ...] = ()
    evidence: str = ""


def through_layers(flow: Readings, steps: slice = slice(None)) -> Ratio:
    """The gradient at the first layer over that at the last hidden one, typical of the steps."""
    typical = median_of_known(flow["grad_norm"][steps], axis=0)
    # A branch that starts at zero has no gradient at all and says nothing about the others; the best of the first tenth counts.
    hidden = [number for number, name in enumerate(flow.layers) if name != flow.flow.output_layer]
    known = [number for number in hidden if 0 < typical[number] < math.inf]
    if len(known) < 2:
        return Ratio(math.nan)
    few = max(1, math.ceil(len(known) / 10))
    first = max(known[:few], key=lambda number: typical[number])
    last = max(known[-few:], key=lambda number: typical[number])
    ratio = float(typical[first] / typical[last])
    names = tuple(flow.layers[number] for number in known)
    chosen = f", the largest of the first {few} layers," if few > 1 else ""
    evidence = f"the gradient at {flow.layers[first]}{chosen} is {ratio:.1e} times that at {flow.layers[last]}"
    return Ratio(ratio, names, evidence)


def through_time(flow: Readings) -> Ratio:
    """The gradient at the first time step over that at the last, in the recurrent layer where it is most extreme."""
    typical = median_of_known(flow["time_ratio"], axis=0)
    measured = [number for number in range(len(flow.layers)) if np.isfinite(typical[number]) and typical[number] > 0]
    if not measured:
        return Ratio(math.nan)
    worst = max(measured, key=lambda number: abs(math.log(typical[number])))
    ratio, name = float(typical[worst]), flow.layers[worst]
    return Ratio(ratio, (name,), f"in {name} the gradient at the first time step is {ratio:.1e} times that at the last")


def signal_ratio(flow: Readings) -> float:
    """The signal at the last layer over that at the first."""
    signal = median_of_known(flow["row_std"], axis=0)
    signal = signal[np.isfinite(signal)]
    return float(signal[-1] / signal[0]) if len(signal) > 1 and signal[0] > 0 else 1.0


def typical_update(flow: Readings, steps: slice = slice(None)) -> float:
    """What a step changes a typical weight matrix by, over its norm; NaN where nothing was measured."""
    columns = [flow.parameters.index(name) for name in flow.weights]
    ratios, gradients = flow["update_ratio"][steps, columns], flow["weight_grad_norm"][steps, columns]
    known = np.where((gradients > 0) & np.isfinite(ratios), ratios, np.nan)
    return float(median_of_known(median_of_known(known, axis=1), axis=0))


def late(values: np.ndarray) -> np.ndarray:
    """The median over the last half of the steps: the state that training has led to."""
    return median_of_known(values[len(values) // 2 :], axis=0)
