"""The rules of diagnosis: what counts as a fault of a network, and what to do about it.

Absolute thresholds on gradients are wrong on healthy networks: a converged network, or a loss times
1e-6, has tiny gradients. All thresholds here are shares, or ratios within one network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradflow_utils.flow import FROZEN, FlowRecord, median_of_known
from gradflow_utils.readings import Readings, late, signal_ratio, through_layers, through_time, typical_update

DEAD_SHARE = 0.4  # of a layer's units
SATURATED_SHARE = 0.4  # of a layer's values
VANISHING, EXPLODING = 1e-3, 1e3  # gradient at the first layer over that at the last
LARGEST_ACTIVATION = 1e3  # root mean square of a layer's values
UPDATE_TOO_LARGE, UPDATE_TOO_SMALL = 0.1, 5e-6  # update over weight: median over the weight matrices and steps
FEWEST_UPDATES = 3  # the first of a warm-up, or of Adam, says little
IDENTICAL_SHARE = 0.99  # of a layer's units
UNUSED_SHARE = 0.25  # of the weight matrices may lack a gradient, if they belong to the second half
FADED = 0.2  # signal that reaches a layer over that of the first: below this a bias decides whether a unit is on
INTACT = 0.05  # ratio of the gradients at the first step: from here on it got through, and training has spoilt it
FADING = 0.1  # signal at the last layer over that at the first: below this the forward pass fades as well

_SPOILT, _SLOWER = "updates that were too large: at the first recorded step", "lower the learning rate or warm it up"
_FLOWS = f"the gradient at the first layer over that at the last lies between {VANISHING:g} and {EXPLODING:g} at step 0"


@dataclass(frozen=True)
class Finding:
    """One fault of a network.

    Attributes:
        kind: "non-finite", "dead", "saturated", "disconnected", "exploding", "vanishing",
            "update too large", "update too small" or "symmetry".
        where: the layers or parameters concerned.
        measured: the figure, and `threshold`, what it is held against.
        evidence: a sentence that says what was measured.
        cause: the likely cause.
        cure: what to do.
        confirm: how to see that cause and cure were right.
    """

    kind: str
    where: tuple[str, ...]
    measured: float
    threshold: float
    evidence: str
    cause: str
    cure: str
    confirm: str


def non_finite(flow: Readings) -> Finding | None:
    """NaN or inf in an output, a gradient, a weight or the loss. A finite norm, however large, is none."""
    row = flow.first_bad
    if row is None:
        return None
    outputs, weights, losses, _ = flow.bad
    step, where = f"at step {flow.flow.steps[row]}", ()
    if weights[row].any():
        where = (flow.parameters[np.flatnonzero(weights[row])[0]],)
        evidence = f"the weight {where[0]} is NaN or inf {step}"
        cause = "the update before it was: a learning rate that is too high"
    elif outputs[row].any():
        where = (flow.layers[np.flatnonzero(outputs[row])[0]],)
        evidence = f"the output of {where[0]} is the first to hold NaN or inf, {step}; all weights are finite"
        cause = "NaN or inf in the input, an operation such as log(0) or 0/0, or values that grew until they overflowed"
        if typical_update(flow, slice(-1, None)) > UPDATE_TOO_LARGE:
            cause = "values that overflowed behind an update that was too large: a learning rate that is too high"
    elif losses[row].any():
        evidence = f"the loss is NaN or inf {step}; all recorded outputs and weights are finite"
        cause = "the loss function or the output layer: log(0), division by 0, overflow"
    else:
        spread = ~np.isfinite(flow.flow["grad_norm"][row].numpy())  # from the layer where it arose towards the input
        where = (flow.layers[np.flatnonzero(spread)[-1]],) if spread.any() else ()
        evidence = f"the gradient is NaN or inf {step}, first {_at(where)}; all recorded outputs and weights are finite"
        cause = "an operation whose derivative is infinite, such as sqrt(0), log(0) or the norm of zeros; or loss scaling"
    cure = "check the batch with torch.isfinite; add a small constant inside sqrt, log and divisions; lower the learning rate"
    confirm = "torch.autograd.set_detect_anomaly(True) names the operation; after the cure no step is flagged"
    return Finding("non-finite", where, math.nan, math.inf, evidence, cause, cure, confirm)


def _at(where: tuple[str, ...]) -> str:
    return f"at {where[0]}" if where else "behind the recorded layers"


def dead(flow: Readings) -> Finding | None:
    """Layers of ReLU-like units most of which are off on every row."""
    shares = late(flow["dead"])
    faded = _signal_has_faded(late(flow["row_std"]), shares > DEAD_SHARE)
    layers = [number for number in _above(flow, shares, DEAD_SHARE) if not faded[number]]
    if not layers:
        return None
    if (flow["dead"][0][layers] > DEAD_SHARE).any():
        cause = "biases or weights that start so negative that no input reaches the unit"
    else:
        cause = f"{_SPOILT} the units were alive"
    cure = f"{_SLOWER}, start biases at 0, normalise pre-activations; leaky ReLU keeps a gradient"
    confirm = f"dead falls below {DEAD_SHARE} when the network starts anew with the cure; dead units hardly come back by themselves"
    return _finding_on_shares(flow, "dead", layers, shares, DEAD_SHARE, "units are off on every row", cause, cure, confirm)


def _signal_has_faded(signal: np.ndarray, off: np.ndarray) -> list[bool]:
    """For each layer, whether the signal had faded before it: units that are off there come back with the signal."""
    faded = [False]
    for number in range(1, len(signal)):
        killed_there = off[number - 1] and not faded[-1]
        faded.append(bool(signal[number - 1] < FADED * signal[0]) and not killed_there)
    return faded


def saturated(flow: Readings) -> Finding | None:
    """Layers of tanh- or sigmoid-like units most of whose values lie where the curve is flat."""
    shares = late(flow["saturated"])
    layers = _above(flow, shares, SATURATED_SHARE)
    if not layers:
        return None
    what = "values are saturated, with a slope below 6 % of its maximum"
    from_start = (flow["saturated"][0][layers] > SATURATED_SHARE).any()
    large = "pre-activations that are too large from the start: unscaled inputs, large weights or biases"
    cause = large if from_start else f"{_SPOILT} these layers were not saturated"
    scale = "scale inputs to mean 0 and size 1, use Xavier weights and biases of 0, normalise pre-activations"
    cure = scale if from_start else f"{_SLOWER}; normalise pre-activations"
    confirm = f"saturated falls below {SATURATED_SHARE} at step 0, and the loss falls faster"
    return _finding_on_shares(flow, "saturated", layers, shares, SATURATED_SHARE, what, cause, cure, confirm)


def _above(flow: Readings, shares: np.ndarray, threshold: float) -> list[int]:
    """The layers with a larger share. A sigmoid at the output may be as sure as it likes, and one call of many be a gate."""
    calls: dict[str, list[float]] = {}
    for name, share in zip(flow.layers, shares):
        calls.setdefault(name.split(":")[0], []).append(share)
    return [
        number
        for number, name in enumerate(flow.layers)
        if shares[number] > threshold
        and name != flow.flow.output_layer
        and median_of_known(np.array(calls[name.split(":")[0]]), axis=0) > threshold
    ]


def _finding_on_shares(
    flow: Readings, kind: str, layers: list[int], shares: np.ndarray, threshold: float, what: str, cause: str, cure: str, confirm: str
) -> Finding:
    where = tuple(flow.layers[number] for number in layers)
    worst = max(layers, key=lambda number: shares[number])
    evidence = f"in {name_some(where)} more than {threshold:.0%} of the {what}; most in {flow.layers[worst]}: {shares[worst]:.0%}"
    return Finding(kind, where, float(shares[worst]), threshold, evidence, cause, cure, confirm)


def disconnected(flow: Readings) -> Finding | None:
    """Trainable weights on the input side that get no gradient, although weights behind them do."""
    gradients = flow["weight_grad_norm"][flow["backward_passes"] > 0]
    frozen = set(flow.flow.notes.get(FROZEN, ()))
    gets_none = np.isnan(gradients).all(axis=0) if len(gradients) < 2 else (np.isnan(gradients) | (gradients == 0)).all(axis=0)
    names = [name for name in flow.weights if name not in frozen]
    without = [name for name in names if len(gradients) and gets_none[flow.parameters.index(name)]]
    if not without or len(without) == len(names):
        return None
    last_with = max(number for number, name in enumerate(names) if name not in without)
    where = tuple(name for name in without if names.index(name) < last_with)
    on_input_side = any(name in names[: len(names) // 2] for name in where)
    if not on_input_side and len(where) < UNUSED_SHARE * len(names):  # a head that the loss does not use
        return None
    evidence = f"{name_some(where)} got no gradient in any of {len(gradients)} backward passes; {names[last_with]} behind did"
    return Finding(
        "disconnected", where, 0.0, 0.0, evidence,
        "a detach(), no_grad(), .data or .item() between these layers and the loss, or an operation without derivative",
        "remove it; if they are meant to stay, as in a teacher, set requires_grad_(False) on these parameters",
        "weight_grad_norm of these parameters becomes a number",
    )  # fmt: skip


def exploding(flow: Readings) -> Finding | None:
    """Gradients that grow by more than 1000 towards the input, or activations beyond a root mean square of 1000."""
    sizes = late(np.hypot(flow["mean"], flow["std"]))
    cure = "scale the weights to the activation (Xavier, He), normalise, scale residual branches by 1 / sqrt(2 * blocks)"
    confirm = _FLOWS
    through = through_layers(flow)
    if through.ratio > EXPLODING:
        grows = signal_ratio(flow) > 1 / FADING
        cause = (
            "each layer enlarges the signal, forward and backward: weights too large for the activation, or unscaled skips"
            if grows
            else "each layer enlarges the gradient while the forward signal stays: batch normalisation at initialisation "
            "does so, and weights too large behind a saturating activation"
        )
        return Finding("exploding", through.where, through.ratio, EXPLODING, through.evidence, cause, cure, confirm)
    time = through_time(flow)
    if time.ratio > EXPLODING:
        cause = "the recurrent weights enlarge the gradient at every time step: their spectral radius is too large"
        cure = "start the recurrent weights orthogonal, with a smaller radius; or clip the gradient and search the rate anew"
        return Finding("exploding", time.where, time.ratio, EXPLODING, time.evidence, cause, cure, f"time_ratio is below {EXPLODING:g}")
    if (sizes > LARGEST_ACTIVATION).any():
        worst = int(np.nanargmax(sizes))
        evidence = f"the values of {flow.layers[worst]} have a root mean square of {sizes[worst]:.2g}"
        cause = "unscaled inputs, weights too large for the activation, or skips that add up without normalisation"
        cure = f"scale inputs to mean 0 and size 1; {cure}"
        confirm = f"the root mean square of every layer is below {LARGEST_ACTIVATION:g}"
        return Finding("exploding", (flow.layers[worst],), float(sizes[worst]), LARGEST_ACTIVATION, evidence, cause, cure, confirm)
    return None


def vanishing(flow: Readings) -> Finding | None:
    """Gradients that shrink by more than 1000 towards the input, or towards the first time step."""
    through, at_first = through_layers(flow), through_layers(flow, slice(1))
    if through.ratio < VANISHING and INTACT < at_first.ratio < 1 / INTACT:
        cause = f"{_SPOILT} the gradient got through, with a ratio of {at_first.ratio:.1g}"
        return Finding("vanishing", through.where, through.ratio, VANISHING, through.evidence, cause, _SLOWER, _FLOWS)
    if through.ratio < VANISHING:
        fades = signal_ratio(flow) < FADING
        cause = (
            "each layer shrinks the signal, forward and backward: weights too small for the activation; a sigmoid, whose "
            "slope is 1/4 at most, needs weights 4 times as large as tanh"
            if fades and any("sigmoid" in name for name in flow.layers)
            else "each layer shrinks the signal, forward and backward: weights too small for the activation"
            if fades
            else "each layer shrinks the gradient while the forward signal stays: small slopes, as of the sigmoid, of saturated "
            "units or of leaky ReLU on its negative side"
        )
        return Finding(
            "vanishing", through.where, through.ratio, VANISHING, through.evidence, cause,
            "weights matched to the activation (Xavier for tanh, He for ReLU), normalisation, residual connections",
            _FLOWS,
        )  # fmt: skip
    time = through_time(flow)
    if time.ratio < VANISHING:
        return Finding(
            "vanishing", time.where, time.ratio, VANISHING, time.evidence,
            "the product over the time steps shrinks: forget gates or recurrent weights below 1; only the end carries the loss",
            "orthogonal recurrent weights, a forget bias of 1 or more, shorter sequences, a loss or attention at every step",
            f"time_ratio rises above {VANISHING:g}; if the task needs only recent inputs, nothing has to be cured",
        )  # fmt: skip
    return None


def update_size(flow: Readings) -> Finding | None:
    """Updates that change the weight matrices by too much or by next to nothing."""
    if len(flow["loss"]) < FEWEST_UPDATES:
        return None
    typical = typical_update(flow)
    evidence = f"a step changes a typical weight matrix by {typical:.1e} of its norm"
    confirm = "update_ratio lies near 1e-3"
    if typical > UPDATE_TOO_LARGE:
        cause = "a learning rate or a weight decay that is too high"
        cure = "divide the learning rate by 10 until the ratio is near 1e-3, warm it up"
        return Finding("update too large", tuple(flow.weights), typical, UPDATE_TOO_LARGE, evidence, cause, cure, confirm)
    if typical < UPDATE_TOO_SMALL:
        cause = "a learning rate that is too low, or a loss on so small a scale that the gradient is lost"
        cure = "multiply the learning rate by 10 until the ratio is near 1e-3"
        return Finding("update too small", tuple(flow.weights), typical, UPDATE_TOO_SMALL, evidence, cause, cure, confirm)
    return None  # also where nothing was measured


def symmetry(flow: Readings) -> Finding | None:
    """Layers whose units all compute the same."""
    identical = flow["identical"]
    all_zero = (flow["min"] == 0) & (flow["max"] == 0)
    alive = {name.split(":")[0] for column, name in enumerate(flow.layers) if not all_zero[:, column].any()}
    dead_layer = late(flow["dead"]) > DEAD_SHARE  # whose outputs are all zero for that reason
    always = np.nanmin(np.where(np.isnan(identical), np.inf, identical), axis=0, initial=np.inf)
    where = tuple(
        name
        for column, name in enumerate(flow.layers)
        if IDENTICAL_SHARE < always[column] <= 1
        and not dead_layer[column]
        and name != flow.flow.output_layer
        # A layer that starts at zero on purpose does not stay there, and one whose state begins at zero has other calls.
        and not (all_zero[:, column].any() and (len(identical) < 3 or name.split(":")[0] in alive))
    )
    if not where:
        return None
    share = float(min(always[flow.layers.index(name)] for name in where))
    return Finding(
        "symmetry", where, share, IDENTICAL_SHARE,
        f"at least {share:.0%} of the units of {name_some(where)} give the same output at every step",
        "weights that start equal, such as constants or zeros: equal units get equal gradients and stay equal",
        "initialise the weights at random", "identical falls to the share of one unit",
    )  # fmt: skip


def find(flow: FlowRecord) -> list[Finding]:
    """All findings on a record, in the order of cause."""
    readings = Readings(flow)
    found = [non_finite(readings)]
    if len(readings["loss"]):
        found += [rule(readings) for rule in (dead, saturated, disconnected, exploding, vanishing, update_size, symmetry)]
    return [finding for finding in found if finding is not None]


def name_some(names: Sequence[str]) -> str:
    """The names, or the first and the last of many."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} ... {names[-1]} ({len(names)} in all)"
