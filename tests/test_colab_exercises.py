"""Exercises and solutions run on Colab's versions; a file of its own, so that two workers share the time."""

import shutil

import pytest
from test_colab import ROOT, colab, run_notebook, wheel, with_package  # noqa: F401


@pytest.mark.parametrize("name", ["exercises", "solutions"])
def test_they_run_on_colabs_versions(name, colab, wheel, tmp_path):  # noqa: F811
    folder = tmp_path / "empty"
    shutil.copytree(ROOT / name, folder)
    run = run_notebook(folder, with_package(colab, wheel, tmp_path / "site"))
    assert run.returncode == 0, run.stdout + run.stderr
