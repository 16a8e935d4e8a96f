"""Importing the package is cheap, and every public name is what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import gradflow_utils as gf

HEAVY = {"matplotlib", "pandas", "ipywidgets", "IPython", "sklearn", "tqdm", "PIL"}


def in_a_fresh_process(code):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_import_loads_nothing_heavy_beyond_torch():
    loaded = in_a_fresh_process(
        "import sys, json, torch; before = set(sys.modules); import gradflow_utils;"
        "print(json.dumps([name.split('.')[0] for name in set(sys.modules) - before]))"
    )
    assert "gradflow_utils" in loaded
    assert HEAVY.isdisjoint(loaded)


def test_every_public_name_resolves_to_the_same_thing_each_time():
    """In a fresh process: the first access imports a module, which must not take the name's place."""
    names, modules, changing = in_a_fresh_process(
        "import json, types, gradflow_utils as gf; first = {name: getattr(gf, name) for name in gf.__all__};"
        "modules = [name for name in first if isinstance(first[name], types.ModuleType)];"
        "changing = [name for name in first if getattr(gf, name) is not first[name]];"
        "print(json.dumps([gf.__all__, modules, changing]))"
    )
    assert {"explore", "show", "plot_profiles", "record", "mlp", "diagnose", "critical_gain", "singular_values"} <= set(names)
    assert len(set(names)) == len(names)
    assert modules == changing == []


def test_public_names_are_listed_for_completion():
    assert set(gf.__all__) <= set(dir(gf))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'gradflow_utils' has no attribute 'microscope'"):
        gf.microscope


def test_package_says_that_it_is_typed():
    assert (Path(gf.__file__).parent / "py.typed").exists()
