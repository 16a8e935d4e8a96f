"""Shared by all tests: one thread per process, and the count of what ran."""

import os
import re

# Two processes with one thread each are five times as fast here as two with two threads, and kernels inherit this.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")


def pytest_terminal_summary(terminalreporter):
    """Say how many notebooks and cells ran, so that a run that silently skipped them is noticed."""
    ran = [
        report.nodeid.rsplit("::", 1)[0]
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if re.search(r"\.ipynb::Cell \d+$", report.nodeid)
    ]
    if ran:
        terminalreporter.write_line(f"Notebooks: {len(set(ran))} ran, {len(ran)} code cells in all")
