"""The clinic: broken networks of which the reader sees the recording alone, and checks that train them anew.

    patient = clinic.patient(1)
    print(gf.diagnose(patient.flow))
    print(patient.treat("weights too small", weights="matched"))

A patient is a healthy `Plan` with one fault. A diagnosis is checked against that fault, a cure by training again with
the changed settings. What is wrong with whom stands in patients.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gradflow_utils.activations import ACTIVATIONS
from gradflow_utils.diagnosis import diagnose
from gradflow_utils.flow import FlowRecord
from gradflow_utils.networks import INITIALISATIONS
from gradflow_utils.patients import CASES, UNDO, Case, Plan, train

LARGEST = 1e9  # number that a setting may be
LEARNS = 0.75  # accuracy on data.validation from which a patient counts as cured


class Setting(NamedTuple):
    """What a reader may change: the values it can take (a type stands for any number of it), and what it means."""

    values: tuple
    meaning: str

    def __str__(self) -> str:
        return f"{_listed(self.values)}: {self.meaning}"


SETTINGS = {
    "activation": Setting(tuple(ACTIVATIONS), "of every layer but the last"),
    "layers": Setting((int,), "how many layers have an activation"),
    "weights": Setting(INITIALISATIONS, "how they are drawn, as in gf.mlp"),
    "gain": Setting((None, float), "replaces that of the weights; None: the one that belongs to them; not with 'default'"),
    "biases": Setting((float,), "all of them, at the start"),
    "norm": Setting(("none", "batch", "layer", "layer after skip"), "where and how it normalises; the last needs residual=True"),
    "norm_mode": Setting(("training", "evaluation"), "of batch normalisation, while the network trains"),
    "statistics_gradient": Setting((True, False), "whether the gradient passes through the statistics of the norm"),
    "residual": Setting((True, False), "skips around all layers, their branches scaled by 1 / sqrt(layers)"),
    "detach": Setting((True, False), "whether the gradient is cut behind five sixths of the layers"),
    "frozen": Setting((True, False), "whether all layers but the last stay as they are"),
    "inputs": Setting(("standardised", "raw"), "raw pixels reach from 0 to 255"),
    "nan_rows": Setting(("keep", "drop"), "images that hold a NaN"),
    "optimizer": Setting(("sgd", "adam"), "without momentum; with PyTorch's settings"),
    "rate": Setting((float,), "learning rate"),
    "warm_up": Setting((int,), "steps over which the rate grows to its value"),
    "clip": Setting((None, float), "largest norm of the gradient"),
    "loss_factor": Setting((float,), "the loss is multiplied by it"),
    "steps": Setting((int,), "of 64 images"),
}
FAULTS = {
    "none": "the network is healthy",
    "NaN in the data": "some images hold a NaN",
    "inputs not scaled": "the inputs are far from mean 0 and size 1",
    "weights too small": "signal and gradient fade from layer to layer",
    "weights too large": "the units are saturated from the start",
    "units born dead": "biases that keep units off for every image",
    "no skips": "too deep for a network without skips",
    "norm in evaluation mode": "batch normalisation does not normalise while the network trains",
    "statistics without gradient": "the backward pass of a norm lacks a part",
    "detached": "the loss does not reach the first layers",
    "frozen": "the first layers are not trained",
    "rate too high": "the updates are too large",
    "no warm-up": "the first updates are too large",
    "loss too small": "a factor before the loss makes the updates tiny",
}


@dataclass(frozen=True)
class Verdict:
    """What a treatment has shown; it prints as text.

    Attributes:
        diagnosis_right: whether the fault was named. None if no fault was given.
        cure_right: whether the network learns with the changed settings. None if none was changed.
        way_round: whether it learns although the fault is still there.
        text: what was right, what was wrong, and what the new training showed.
        flow: the recording of the new training; that of the patient if nothing was trained.
    """

    diagnosis_right: bool | None
    cure_right: bool | None
    way_round: bool
    text: str
    flow: FlowRecord

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class Patient:
    """A broken network that has been trained once.

    Attributes:
        number: 1 to the number of cases.
        complaint: what its owner says.
        flow: the recording of its training.
        accuracy: on data.validation, 0 to 1.
    """

    def __init__(self, number: int, seed: int = 0) -> None:
        case = _case(number)
        self.number, self.seed, self.complaint = number, seed, case.complaint
        self._case = case
        self.flow, self.accuracy = train(case.plan, seed)

    def __repr__(self) -> str:
        return f"Patient {self.number}: {self.complaint}"

    def treat(self, fault: str | None = None, **settings: Any) -> Verdict:
        """Check a diagnosis, and a cure by training the network again from the start.

            patient.treat("weights too small", weights="matched")

        Args:
            fault: one of `FAULTS`. None: not attempted yet.
            settings: what to change, from `SETTINGS`.

        Raises:
            ValueError: there is no such fault, setting or value; the message lists those there are.
        """
        if fault is None and not settings:
            text = f"Patient {self.number}: not attempted yet. Faults: {', '.join(FAULTS)}."
            return Verdict(None, None, False, text, self.flow)
        if fault is not None and (not isinstance(fault, str) or fault not in FAULTS):
            raise ValueError(f"fault: got {fault!r}, expected one of {', '.join(FAULTS)}")
        plan = _changed(self._case.plan, settings)
        named, diagnosis = self._judge_diagnosis(fault)
        flow, cured, cure = self._judge_cure(plan, settings)
        untouched = all(self._is_untouched(one, plan) for one in self._case.faults)
        way_round = bool(settings) and cured is True and untouched
        remark = " The fault is still there: this is a way round it." if way_round else ""
        return Verdict(named, cured, way_round, f"{diagnosis}\n{cure}{remark}", flow)

    def _is_untouched(self, fault: str, plan: Plan) -> bool:
        before = self._case.plan
        if fault == "rate too high":
            return plan.rate >= before.rate
        return all(getattr(plan, name) == getattr(before, name) for name in UNDO[fault])

    def _judge_diagnosis(self, fault: str | None) -> tuple[bool | None, str]:
        plan, healthy = self._case.plan, "none" in self._case.faults
        if fault is None:
            return None, "Diagnosis: none given."
        if fault in self._case.faults:
            return True, f"Diagnosis right: {fault}."
        if fault == "none":
            reason = "With one setting changed, the same network learns far better."
        elif replace(plan, **UNDO[fault]) == plan:
            reason = f"There is nothing of that kind to undo: {_spoken(UNDO[fault])} holds already."
        elif healthy:
            reason = "Nothing is wrong with this network: it learns as it is."
        elif train(replace(plan, **UNDO[fault]), self.seed)[1] >= LEARNS:
            reason = (
                f"Undoing that alone ({_spoken(UNDO[fault])}) makes it learn as well, but it is a way round the fault, and "
                "the recording shows another one."
            )
        else:
            reason = f"Undoing that alone ({_spoken(UNDO[fault])}) does not make it learn."
        return False, f"Diagnosis wrong: {fault}. {reason} {self._case.hint}"

    def _judge_cure(self, plan: Plan, settings: dict[str, Any]) -> tuple[FlowRecord, bool | None, str]:
        healthy = "none" in self._case.faults
        if not settings:
            remark = ", and nothing has to be." if healthy else " yet."
            return self.flow, True if healthy else None, f"Cure: nothing was changed{remark}"
        if healthy:
            return self.flow, False, "Cure wrong: this network needs none."
        if plan == self._case.plan:
            return self.flow, False, f"Cure wrong: {_spoken(settings)} changes nothing, it was so before."
        flow, reached = train(plan, self.seed)
        if reached >= LEARNS:
            return flow, True, f"Cure right: trained again with {_spoken(settings)}, it learns."
        stage = "still guesses" if reached < 0.25 else "learns a little, but not enough"
        found = ", ".join(diagnose(flow).kinds) or "nothing: too much or too little of a cure, or another fault"
        return flow, False, (
            f"Cure wrong: trained again with {_spoken(settings)}, it {stage}. In its recording, gf.diagnose finds {found}."
        )  # fmt: skip


def patient(number: int, seed: int = 0) -> Patient:
    """Admit a broken network to the clinic: build it and train it, recorded.

    Args:
        number: which case, from 1.
        seed: of its weights and batches; the fault stays the same.

    Raises:
        ValueError: there is no such case.
    """
    return Patient(number, seed)


def _spoken(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _listed(values: tuple) -> str:
    return ", ".join({int: "a whole number", float: "a number"}.get(one, repr(one)) for one in values)


def _changed(plan: Plan, settings: dict[str, Any]) -> Plan:
    """The plan with some settings changed, each of which is checked."""
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ValueError(f"{name}: there is no such setting; expected some of {', '.join(SETTINGS)}")
        values = SETTINGS[name].values
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
        fits = is_number and (float in values or int in values and isinstance(value, int))
        if not fits and not any(value is one or (isinstance(one, str) and value == one) for one in values):
            raise ValueError(f"{name}: got {value!r}, expected {_listed(values)}")
    limits = {"layers": (1, 60), "steps": (1, 2000), "warm_up": (0, 2000), "rate": (0, LARGEST)}
    limits |= {"clip": (1e-9, LARGEST), "gain": (1e-9, LARGEST), "loss_factor": (1e-30, LARGEST)}
    for name, (smallest, largest) in limits.items():
        if settings.get(name) is not None and not smallest <= settings[name] <= largest:
            raise ValueError(f"{name}: got {settings[name]}, expected a value from {smallest} to {largest:g}")
    if settings.get("weights") == "default" and "gain" not in settings:
        settings = {**settings, "gain": None}
    changed = replace(plan, **settings)
    if changed.weights == "default" and changed.gain is not None:
        raise ValueError("gain: weights='default' takes no gain; choose other weights too, such as 'lecun'")
    if changed.norm == "layer after skip" and not changed.residual:
        raise ValueError("norm: 'layer after skip' needs residual=True")
    return changed


def _case(number: int) -> Case:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(CASES):
        raise ValueError(f"number: got {number!r}, expected a whole number from 1 to {len(CASES)}")
    return CASES[number - 1]
