"""gradflow_utils: the microscope of the gradflow course. Record, then look or judge.

    import gradflow_utils as gf

    net = gf.mlp([64, *[128] * 20, 10], activation="tanh", init="xavier")
    optimizer = torch.optim.Adam(net.parameters())
    with gf.record(net, optimizer) as flow:
        gf.train(net, gf.digits(), optimizer, steps=200)
    gf.show(gf.plot_profiles(flow))
    print(gf.diagnose(flow))

To read it, begin on the ground floor; a module imports only from modules that stand before it.
Ground floor: activations, data, training, networks. Recording: layers (what counts as a layer),
statistics (what is measured of an output), flow (where it is kept), stepping (one step), watching
(the hooks), recording (when a step begins and ends). Theory: theory, prediction, jacobian. Judging:
readings, rules, diagnosis. Looking: wording, style, plots, pictures. Top: page, explorers, patients, clinic; exercises,
with its questions.

Importing this costs little beyond torch: matplotlib, pandas, ipywidgets and scikit-learn are
loaded by the first call that needs them.
"""

from __future__ import annotations

import importlib

from gradflow_utils.activations import ACTIVATIONS, Activation, activation
from gradflow_utils.data import Digits, Split, digits
from gradflow_utils.flow import FlowRecord
from gradflow_utils.networks import INITIALISATIONS, MLP, Residual, mlp
from gradflow_utils.recording import record
from gradflow_utils.training import accuracy, progress_bar, train, train_together

# Public names that recording does without: their modules are imported when first used (PEP 562).
_LAZY = {
    "Diagnosis": "diagnosis",
    "Finding": "rules",
    "diagnose": "diagnosis",
    "explore": "explorers",
    "snapshots": "explorers",
    "plot_activations": "plots",
    "plot_histograms": "pictures",
    "plot_profiles": "plots",
    "plot_singular_values": "plots",
    "plot_timeline": "pictures",
    "plot_updates": "plots",
    "chi_1": "theory",
    "critical_gain": "theory",
    "depth_scale": "theory",
    "fixed_point": "theory",
    "predicted_profiles": "prediction",
    "preserving_gain": "theory",
    "singular_values": "jacobian",
    "variance_map": "theory",
    "guess": "page",
    "show": "page",
    "STYLE": "style",
}

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Digits",
    "FlowRecord",
    "INITIALISATIONS",
    "MLP",
    "Residual",
    "Split",
    "accuracy",
    "activation",
    "digits",
    "mlp",
    "progress_bar",
    "record",
    "train",
    "train_together",
    *_LAZY,
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
