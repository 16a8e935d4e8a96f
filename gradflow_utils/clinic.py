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
from typing import Any

from gradflow_utils.activations import ACTIVATIONS
from gradflow_utils.flow import FlowRecord
from gradflow_utils.networks import INITIALISATIONS
from gradflow_utils.patients import CASES, Case, Plan, train

LEARNS = 0.75  # accuracy on data.validation from which a patient counts as cured

# What a reader may change, and the values that a setting can take; a type stands for any number of it.
SETTINGS: dict[str, tuple] = {
    "activation": tuple(ACTIVATIONS),
    "layers": (int,),  # with an activation
    "weights": INITIALISATIONS,
    "gain": (None, float),  # not with weights="default"
    "biases": (float,),  # all of them, at the start
    "norm": ("none", "batch", "layer", "layer after skip"),  # the last needs residual=True
    "norm_mode": ("training", "evaluation"),  # of batch normalisation while the network trains
    "statistics_gradient": (True, False),  # whether the gradient passes through the statistics of a norm
    "residual": (True, False),  # skips around all layers, scaled by 1 / sqrt(layers)
    "detach": (True, False),  # whether the gradient is cut behind five sixths of the layers
    "frozen": (True, False),  # whether all layers but the last stay as they are
    "inputs": ("standardised", "raw"),  # raw pixels reach from 0 to 255
    "nan_rows": ("keep", "drop"),  # images that hold a NaN
    "optimizer": ("sgd", "adam"),
    "rate": (float,),
    "warm_up": (int,),  # steps over which the rate grows to its value
    "clip": (None, float),  # largest norm of the gradient
    "loss_factor": (float,),
    "steps": (int,),
}

# What can be wrong, and the settings that undo it and nothing else.
FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "NaN in the data": {"nan_rows": "drop"},
    "inputs not scaled": {"inputs": "standardised"},
    "weights too small": {"weights": "matched", "gain": None},
    "weights too large": {"weights": "matched", "gain": None},  # not enough for a sigmoid, which needs "lecun" and gain 4
    "units born dead": {"biases": 0.0},
    "no skips": {"residual": True},
    "norm in evaluation mode": {"norm_mode": "training"},
    "statistics without gradient": {"statistics_gradient": True},
    "detached": {"detach": False},
    "frozen": {"frozen": False},
    "rate too high": {"rate": 0.02},
    "no warm-up": {"warm_up": 80},
    "loss too small": {"loss_factor": 1.0},
}


@dataclass(frozen=True)
class Verdict:
    """What a treatment has shown; it prints as text.

    Attributes:
        diagnosis_right: whether the fault was named. None if no fault was given.
        cure_right: whether the network learns with the changed settings. None if none was changed.
        text: what was right, what was wrong, and what the new training showed.
        flow: the recording of the new training; None if there was none.
    """

    diagnosis_right: bool | None
    cure_right: bool | None
    text: str
    flow: FlowRecord | None = None

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
            return Verdict(None, None, f"Patient {self.number}: not attempted yet. Faults: {', '.join(FAULTS)}.")
        if fault is not None and (not isinstance(fault, str) or fault not in FAULTS):
            raise ValueError(f"fault: got {fault!r}, expected one of {', '.join(FAULTS)}")
        plan = _changed(self._case.plan, settings)
        named, diagnosis = self._judge_diagnosis(fault)
        flow, cured, cure = self._judge_cure(plan, settings)
        return Verdict(named, cured, f"{diagnosis}\n{cure}", flow)

    def _judge_diagnosis(self, fault: str | None) -> tuple[bool | None, str]:
        plan, truth = self._case.plan, self._case.fault
        if fault is None:
            return None, "Diagnosis: none given."
        if fault == truth:
            return True, f"Diagnosis right: {fault}."
        text = f"Diagnosis wrong: {fault}. "
        if fault == "none":
            text += "Nothing is wrong, you say, but with one setting changed the same network learns far better."
        elif replace(plan, **FAULTS[fault]) == plan:
            text += f"There is nothing of that kind to undo: {_spoken(FAULTS[fault])} holds already."
        elif truth == "none":
            text += "Nothing is wrong with this network: it learns as it is."
        else:
            learns = train(replace(plan, **FAULTS[fault]), self.seed)[1] >= LEARNS
            text += f"Undoing that alone ({_spoken(FAULTS[fault])}) " + (
                "makes it learn as well, but it is a way round the fault, and the recording shows another one."
                if learns
                else "does not make it learn."
            )
        return False, f"{text} {self._case.hint}"

    def _judge_cure(self, plan: Plan, settings: dict[str, Any]) -> tuple[FlowRecord | None, bool | None, str]:
        healthy = self._case.fault == "none"
        if not settings:
            remark = ", and nothing has to be." if healthy else " yet."
            return None, True if healthy else None, f"Cure: nothing was changed{remark}"
        if healthy:
            return None, False, "Cure wrong: this network needs none."
        if plan == self._case.plan:
            return None, False, f"Cure wrong: {_spoken(settings)} changes nothing, it was so before."
        flow, reached = train(plan, self.seed)
        if reached >= LEARNS:
            return flow, True, f"Cure right: trained again with {_spoken(settings)}, it learns."
        stage = "still guesses" if reached < 0.25 else "learns a little, but not enough"
        return flow, False, f"Cure wrong: trained again with {_spoken(settings)}, it {stage}."


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


def _changed(plan: Plan, settings: dict[str, Any]) -> Plan:
    """The plan with some settings changed, each of which is checked."""
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ValueError(f"{name}: there is no such setting; expected some of {', '.join(SETTINGS)}")
        numbers = [kind for kind in SETTINGS[name] if isinstance(kind, type)]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        fits = is_number and (float in numbers or int in numbers and isinstance(value, int))
        if not fits and not any(value is one or (isinstance(one, str) and value == one) for one in SETTINGS[name]):
            listed = ", ".join({int: "a whole number", float: "a number"}.get(one, repr(one)) for one in SETTINGS[name])
            raise ValueError(f"{name}: got {value!r}, expected {listed}")
    limits = {"layers": (1, 60), "steps": (1, 2000), "warm_up": (0, 2000), "rate": (0, 1e9), "clip": (1e-9, 1e9)}
    for name, (smallest, largest) in limits.items():
        if settings.get(name) is not None and not smallest <= settings[name] <= largest:
            raise ValueError(f"{name}: got {settings[name]}, expected a value from {smallest} to {largest:g}")
    if settings.get("weights") == "default" and "gain" not in settings:
        settings = {**settings, "gain": None}
    changed = replace(plan, **settings)
    if changed.weights == "default" and changed.gain is not None:
        raise ValueError("gain: weights='default' takes no gain; choose other weights too, such as 'lecun'")
    return changed


def _case(number: int) -> Case:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(CASES):
        raise ValueError(f"number: got {number!r}, expected a whole number from 1 to {len(CASES)}")
    return CASES[number - 1]
