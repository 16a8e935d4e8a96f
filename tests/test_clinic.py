"""The clinic's patients are as sick as they say, and its checks reject wrong diagnoses and wrong cures."""

import functools

import pytest
import torch

import gradflow_utils as gf
from gradflow_utils import clinic

NUMBERS = range(1, len(clinic.CASES) + 1)
admit = functools.lru_cache(clinic.patient)

# For each fault: a cure that undoes it, another that works, and tempting ones that do not.
CURES = {
    "weights too small": (
        [dict(weights="matched"), dict(norm="batch"), dict(residual=True)],
        [dict(rate=1.0), dict(clip=1.0), dict(steps=400), dict(biases=0.1), dict(inputs="raw"), dict(activation="relu")],
    ),
    "NaN in the data": (
        [dict(nan_rows="drop")],
        [dict(rate=0.01), dict(clip=1.0), dict(norm="batch"), dict(optimizer="adam", rate=0.003), dict(warm_up=50)],
    ),
    "rate too high": (
        [dict(rate=0.1), dict(rate=0.02), dict(clip=0.1)],
        [dict(nan_rows="drop"), dict(clip=1.0), dict(weights="default"), dict(rate=1e-4), dict(loss_factor=10.0)],
    ),
    "units born dead": (
        [dict(biases=0.0), dict(norm="batch")],
        [dict(weights="xavier"), dict(rate=0.01), dict(steps=400), dict(residual=True), dict(activation="leaky_relu")],
    ),
    "inputs not scaled": (
        [dict(inputs="standardised"), dict(norm="layer")],
        [dict(weights="orthogonal"), dict(gain=0.7), dict(rate=1.0), dict(residual=True), dict(steps=200)],
    ),
    "weights too large": (
        [dict(gain=4.0), dict(norm="batch")],
        [dict(weights="matched", gain=None), dict(inputs="standardised"), dict(rate=0.01), dict(biases=-1.0), dict(clip=1.0)],
    ),
    "loss too small": (
        [dict(loss_factor=1.0), dict(rate=1e4), dict(optimizer="adam", rate=0.003)],
        [dict(gain=3.0), dict(residual=True), dict(norm="batch"), dict(steps=400), dict(rate=1.0)],
    ),
    "detached": (
        [dict(detach=False)],
        [dict(frozen=False), dict(gain=1.4), dict(rate=0.2), dict(steps=200), dict(clip=1.0), dict(norm="batch")],
    ),
    "frozen": (
        [dict(frozen=False)],
        [dict(detach=False), dict(gain=1.4), dict(rate=0.2), dict(steps=200), dict(clip=1.0), dict(norm="batch")],
    ),
    "norm in evaluation mode": (
        [dict(norm_mode="training")],
        [dict(statistics_gradient=True), dict(rate=1.0), dict(steps=200), dict(norm="layer"), dict(weights="matched")],
    ),
    "no skips": (
        [dict(residual=True), dict(layers=3)],
        [dict(weights="orthogonal"), dict(clip=1.0), dict(rate=0.001), dict(gain=1.0), dict(inputs="raw")],
    ),
    "statistics without gradient": (
        [dict(statistics_gradient=True), dict(residual=True)],
        [dict(norm_mode="evaluation"), dict(rate=0.01), dict(clip=1.0), dict(warm_up=50)],
    ),
    "no warm-up": (
        [dict(warm_up=80), dict(rate=0.003), dict(norm="layer")],
        [dict(clip=1.0), dict(weights="orthogonal"), dict(steps=200), dict(rate=0.1), dict(loss_factor=0.1)],
    ),
    "none": ([{}], [dict(loss_factor=1.0), dict(residual=True)]),
}
# What gf.diagnose says first, and a word of its cause. None: it says nothing, and notebook 11 says why.
DIAGNOSED = {
    "weights too small": ("vanishing", "weights too small"),
    "NaN in the data": ("non-finite", "NaN or inf in the input"),
    "rate too high": ("non-finite", "learning rate"),
    "units born dead": ("dead", "start so negative"),
    "inputs not scaled": ("saturated", "unscaled inputs"),
    "weights too large": ("saturated", "large weights"),
    "loss too small": ("update too small", "loss on so small a scale"),
    "detached": ("disconnected", "detach()"),
    "frozen": None,
    "norm in evaluation mode": ("vanishing", ""),
    "no skips": None,
    "statistics without gradient": None,
    "no warm-up": ("vanishing", "updates that were too large"),
    "none": None,
}


def case(number):
    return clinic.CASES[number - 1]


def test_there_is_one_patient_for_each_fault():
    assert sorted(one.faults[0] for one in clinic.CASES) == sorted(clinic.FAULTS) == sorted(CURES) == sorted(DIAGNOSED)
    assert len(clinic.CASES) >= 12


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
@pytest.mark.parametrize("number", NUMBERS)
def test_patients_are_as_sick_as_their_owner_says(number, seed):
    patient, one = admit(number, seed), case(number)
    losses = patient.flow["loss"]
    if one.faults[0] == "none":
        assert patient.accuracy > 0.9
    elif "It learns" in one.complaint:
        assert 0.25 < patient.accuracy < 0.7 or one.faults[0] == "inputs not scaled" and patient.accuracy > 0.15
    else:
        assert patient.accuracy < 0.3
    assert losses.isnan().any() == ("NaN" in one.complaint)
    if "does not move" in one.complaint:
        assert abs(losses[-10:].mean() / losses[:10].mean() - 1) < 0.02


@pytest.mark.parametrize("number", NUMBERS)
def test_right_diagnoses_and_right_cures_are_accepted(number):
    fault = case(number).faults[0]
    for settings in CURES[fault][0]:
        verdict = admit(number).treat(fault, **settings)
        assert verdict.diagnosis_right is verdict.cure_right is True, f"{settings}: {verdict}"
        assert "Diagnosis right" in str(verdict) and "wrong" not in str(verdict)


@pytest.mark.parametrize("number", NUMBERS)
def test_wrong_cures_are_rejected_though_the_diagnosis_is_right(number):
    fault = case(number).faults[0]
    for settings in CURES[fault][1]:
        verdict = admit(number).treat(fault, **settings)
        assert verdict.diagnosis_right is True and verdict.cure_right is False, f"{settings}: {verdict}"
        assert "Diagnosis right" in str(verdict) and "Cure wrong" in str(verdict)
        assert (verdict.flow is admit(number).flow) == ("trained again" not in str(verdict))
        assert ("gf.diagnose finds" in str(verdict)) == ("trained again" in str(verdict))


@pytest.mark.parametrize("number", NUMBERS)
def test_every_wrong_diagnosis_is_rejected_with_a_reason_though_the_cure_is_right(number, monkeypatch):
    fault, settings = case(number).faults[0], CURES[case(number).faults[0]][0][0]
    trained = functools.lru_cache(clinic.train)
    monkeypatch.setattr(clinic, "train", trained)  # the cure is the same for all
    for wrong in clinic.FAULTS:
        if wrong not in case(number).faults:
            verdict = admit(number).treat(wrong, **settings)
            assert verdict.diagnosis_right is False and verdict.cure_right is True, f"{wrong}: {verdict}"
            assert "Diagnosis wrong" in str(verdict) and case(number).hint in str(verdict)


@pytest.mark.parametrize(
    "number, wrong, reason",
    [
        (1, "inputs not scaled", "nothing of that kind to undo: inputs='standardised' holds already"),
        (1, "no skips", "makes it learn as well, but it is a way round"),
        (5, "rate too high", "does not make it learn"),
        (5, "none", "far better"),
        (14, "loss too small", "it learns as it is"),
    ],
)
def test_a_wrong_diagnosis_is_told_by_what_undoing_that_fault_does(number, wrong, reason):
    assert reason in str(admit(number).treat(wrong))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("number", NUMBERS)
def test_diagnose_names_the_faults_that_a_recording_can_name(number, seed):
    found, expected = gf.diagnose(admit(number, seed).flow), DIAGNOSED[case(number).faults[0]]
    if expected is None:
        assert found.kinds == []
    else:
        assert found[0].kind == expected[0] and expected[1] in found[0].cause


def test_what_diagnose_does_not_judge_stands_in_its_notes():
    for number in NUMBERS:
        notes = " ".join(gf.diagnose(admit(number).flow).notes)
        assert ("frozen" in notes) == (case(number).faults[0] == "frozen")
        assert ("in evaluation mode" in notes) == (case(number).faults[0] == "norm in evaluation mode")


@pytest.mark.parametrize(
    "number, settings, still_there",
    [
        (1, {"weights": "matched"}, False),
        (1, {"residual": True}, True),
        (3, {"rate": 0.05}, False),
        (5, {"norm": "batch"}, True),
        (7, {"rate": 1e4}, True),
        (3, {"rate": 2.0, "norm": "batch"}, True),
    ],
)
def test_a_way_round_the_fault_is_called_one(number, settings, still_there):
    verdict = admit(number).treat(case(number).faults[0], **settings)
    assert verdict.cure_right is True and verdict.way_round == ("way round" in str(verdict)) == still_there


def test_too_high_a_rate_for_the_start_may_be_called_either_name():
    number = next(one for one in NUMBERS if case(one).faults[0] == "no warm-up")
    verdict = admit(number).treat("rate too high", rate=0.005)
    assert verdict.diagnosis_right is verdict.cure_right is True and not verdict.way_round


def test_settings_and_faults_say_what_they_mean_and_not_what_is_wrong_with_whom():
    assert str(clinic.SETTINGS["norm_mode"]).startswith("'training', 'evaluation': of batch normalisation")
    assert all(setting.meaning for setting in clinic.SETTINGS.values()) and all(clinic.FAULTS.values())


def test_the_recording_of_the_cured_network_is_healthy():
    verdict = admit(1).treat("weights too small", weights="matched")
    assert gf.diagnose(verdict.flow).kinds == []


def test_the_smallest_network_can_be_built_with_every_fault():
    for number in NUMBERS[:-1]:  # the last is healthy, and is not trained again
        assert admit(number).treat(layers=1, steps=2).flow["loss"].shape == (2,)


def test_a_patient_is_the_same_each_time_and_stays_so():
    first, second = clinic.patient(4), clinic.patient(4)
    first.treat("frozen", frozen=False)
    assert torch.equal(first.flow["loss"], second.flow["loss"]) and first.accuracy == second.accuracy
    assert not torch.equal(first.flow["loss"], clinic.patient(4, seed=1).flow["loss"])
    assert repr(first) == f"Patient 4: {first.complaint}"


def test_what_was_not_attempted_is_not_judged():
    verdict = admit(3).treat()
    assert verdict.diagnosis_right is verdict.cure_right is None
    assert "not attempted" in repr(verdict) and "rate too high" in str(verdict)
    only_named, only_cured = admit(3).treat("rate too high"), admit(3).treat(rate=0.1)
    assert only_named.diagnosis_right is True and only_named.cure_right is None
    assert only_cured.diagnosis_right is None and only_cured.cure_right is True


@pytest.mark.parametrize(
    "fault, settings, message",
    [
        ("dead", {}, "fault: got 'dead', expected one of none, NaN in the data"),
        (3, {}, "fault: got 3, expected one of"),
        ("frozen", {"speed": 1}, "speed: there is no such setting; expected some of activation, layers"),
        ("frozen", {"images_with_nan": 0}, "images_with_nan: there is no such setting"),
        ("frozen", {"weights": "best"}, "weights: got 'best', expected 'default', 'xavier'"),
        ("frozen", {"weights": ["he"]}, r"weights: got \['he'\], expected"),
        ("frozen", {"residual": 1}, "residual: got 1, expected True, False"),
        ("frozen", {"rate": "0.1"}, "rate: got '0.1', expected a number"),
        ("frozen", {"rate": float("nan")}, "rate: got nan, expected a number"),
        ("frozen", {"rate": -1.0}, "rate: got -1.0, expected a value from 0 to 1e\\+09"),
        ("frozen", {"clip": 0}, "clip: got 0, expected"),
        ("frozen", {"layers": 2.5}, "layers: got 2.5, expected a whole number"),
        ("frozen", {"layers": 0}, "layers: got 0, expected a value from 1 to 60"),
        ("frozen", {"rate": 10**400}, "rate: got 1000.*, expected a number"),
        ("frozen", {"biases": 1e39}, "biases: got 1e\\+39, expected a number"),
        ("frozen", {"gain": 0}, "gain: got 0, expected a value from 1e-09"),
        ("frozen", {"norm": "layer after skip"}, "norm: 'layer after skip' needs residual=True"),
        ("frozen", {"steps": 10**9}, "steps: got 1000000000, expected a value from 1 to 2000"),
        ("frozen", {"weights": "default", "gain": 2.0}, "gain: weights='default' takes no gain"),
    ],
)
def test_bad_input_is_told_what_is_valid(fault, settings, message):
    with pytest.raises(ValueError, match=message):
        admit(4).treat(fault, **settings)


@pytest.mark.parametrize("number", [0, 15, "1", True, None])
def test_there_is_no_patient_of_that_number(number):
    with pytest.raises(ValueError, match="number: got .*, expected a whole number from 1 to 14"):
        clinic.patient(number)
