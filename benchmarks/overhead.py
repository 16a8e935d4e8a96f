"""What recording costs, as a multiple of the plain training step, next to what others cost.

    python benchmarks/overhead.py            measures, prints, writes overhead.md and overhead.png beside this file
    python benchmarks/overhead.py --readme   puts the table into the README as well
    python benchmarks/overhead.py --quick    a few steps, printed only

Two copies of a workload take turns in one process on one thread, in random order, so that neither is always the one
that finds the caches warm, and so that one recorded step in ten does not always come first. The ratio is that of the
median CPU times of a step (`time.thread_time`); with every=10 that of the mean times over at least 100 steps. The table
holds the smallest of three ratios, each from new copies, since what disturbs a measurement mostly makes it larger;
the plot shows all three. `overhead_contenders.py` says how each contender is run, and what is unequal between them.

The peers are in requirements.txt; one that is not installed is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib import metadata, util
from pathlib import Path

import torch
from torch import Tensor

import gradflow_utils as gf
import overhead_contenders as run
from readme_table import update_readme
from workloads import WORKLOADS, Workload, mlp

FOLDER = Path(__file__).parent
Ratios = dict[str, dict[str, list[float]]]  # contender, workload, one per repeat; empty for what is not installed


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: as in the table.
        pair: what makes the two turns.
        budget: the largest ratio allowed on each workload; () for a peer.
        every: records one step in so many; then the ratio is that of the means.
        package: what must be installed.
    """

    name: str
    pair: Callable[[Callable[[], Workload]], AbstractContextManager[tuple[run.Turn, run.Turn]]]
    budget: tuple[float, ...] = ()
    every: int = 1
    package: str | None = None


CONTENDERS = (
    Contender("gf.record(model)", partial(run.record, updates=False), (1.35, 1.60, 1.10, 1.10)),
    Contender("gf.record(model, optimizer)", partial(run.record, updates=True), (1.50, 1.80, 1.15, 1.15)),
    Contender("the same, every=10", partial(run.record, updates=True, every=10), (1.05, 1.10, 1.05, 1.05), every=10),
    Contender("after the block", run.after, (1.0, 1.0, 1.0, 1.0)),
    Contender(
        "naive hook, the quantities of gf.record(model), .item() each",
        partial(run.naive, forward=run.EIGHT, backward=run.NORM, parameters=True),
    ),
    Contender(
        "naive hook, 6 statistics of outputs and 6 of gradients, .item() each",
        partial(run.naive, forward=run.SIX, backward=run.SIX),
    ),
    Contender(
        "naive hook, 6 statistics of outputs and the norm of gradients, .item() each",
        partial(run.naive, forward=run.SIX, backward=run.NORM),
    ),
    Contender("retain_grad monitor after Karpathy, .item() each", run.retain_grad),
    Contender("register_full_backward_hook, norms of gradients alone", run.full_backward_hook),
    Contender("fastai ActivationStats, 3 statistics of outputs", run.fastai, package="fastai"),
    Contender("wandb.watch, histograms of parameter gradients, offline (wall time)", run.wandb, package="wandb"),
    Contender("torchlens.trace, keeps all tensors, replaces the forward pass", run.torchlens, package="torchlens"),
)


def ratio(contender: Contender, make: Callable[[], Workload], seconds: float) -> float:
    """Seconds of a recorded step over those of a plain one, from `seconds` of measurement or a few steps more."""
    order, least = random.Random(0), 100 if contender.every > 1 else 10
    average = statistics.mean if contender.every > 1 else statistics.median
    with contender.pair(make) as turns:
        for one in turns * 3:  # the first steps fill caches and make the optimizer's state
            one()
        times: tuple[list[float], list[float]] = ([], [])
        end = time.perf_counter() + seconds
        while len(times[1]) < least or len(times[1]) % contender.every or time.perf_counter() < end:
            for which in order.sample((0, 1), 2):
                times[which].extend(turns[which]())
    return average(times[1]) / average(times[0])


def measure(workloads: Mapping[str, Callable[[], Workload]], seconds: float, repeats: int = 3) -> Ratios:
    """All contenders on all workloads; a contender at a time, since some leave traces in the process."""
    ratios: Ratios = {}
    for contender in CONTENDERS:
        installed = contender.package is None or util.find_spec(contender.package) is not None
        ratios[contender.name] = {
            name: [ratio(contender, make, seconds) for _ in range(repeats)]
            for name, make in workloads.items()
            if installed
        }
        print(contender.name, *(f"{min(found):.2f}" for found in ratios[contender.name].values()), file=sys.stderr)
    return ratios


def size_of(*things: object, seen: set[int] | None = None) -> int:
    """Bytes of some objects and all that they hold, each counted once: Python objects and storages of tensors."""
    seen, size = set() if seen is None else seen, 0
    for thing in things:
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        size += sys.getsizeof(thing)
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            size += 0 if storage.data_ptr() in seen else storage.nbytes()
            seen.add(storage.data_ptr())
        elif isinstance(thing, dict):
            size += size_of(*thing.keys(), *thing.values(), seen=seen)
        elif isinstance(thing, (list, tuple, set)):
            size += size_of(*thing, seen=seen)
        elif hasattr(thing, "__dict__") and not callable(thing):
            size += size_of(vars(thing), seen=seen)
    return size


def memory(steps: int) -> dict[str, float]:
    """Bytes that are kept of `steps` steps of an MLP with 20 layers: per layer and step, per parameter and step."""
    recorded, hooked = run.subject(lambda: mlp(16, 16)), run.subject(lambda: mlp(16, 16))
    kept: run.Floats = defaultdict(list)
    run.hook_naively(hooked.layers, kept)
    with gf.record(recorded.model, recorded.workload.optimizer) as flow:
        for _ in range(steps):
            recorded.workload.step()
            hooked.workload.step()
    layers, parameters = len(flow.layers) * steps, len(flow.parameters) * steps
    whole = size_of(flow)
    of_layers, of_parameters = size_of(flow._forward, flow._backward), size_of(flow._parameter, flow._gradient)
    return {
        "gf.record, bytes per layer and step (budget 64)": of_layers / layers,
        "gf.record, bytes per parameter and step (budget 16)": of_parameters / parameters,
        "gf.record, all else, bytes per step": (whole - of_layers - of_parameters) / steps,
        "naive hook, bytes per layer and step": size_of(*kept.values()) / layers,
    }


def table(ratios: Ratios, kept: Mapping[str, float], steps: int) -> str:
    """The measurements in Markdown: the smallest ratio, with the budget in brackets."""
    peers = [one.package for one in CONTENDERS if one.package and ratios[one.name]]
    versions = ["", *(f"{package} {metadata.version(package)}" for package in peers)]
    names = next(iter(ratios.values()))
    lines = [
        "Time of a training step while it is recorded, over that of a plain step (budget in brackets). "
        f"{os.cpu_count()} CPUs, one thread used; Python {platform.python_version()}, torch {torch.__version__}"
        f"{', '.join(versions)}. Recorded in every step unless the row says otherwise.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for contender in CONTENDERS:
        budgets = [f" ({limit:.2f})" for limit in contender.budget] or [""] * len(names)
        cells = [f"{min(found):.2f}{budget}" for found, budget in zip(ratios[contender.name].values(), budgets)]
        lines.append(f"| {contender.name} | {' | '.join(cells or ['not installed'] * len(names))} |")
    lines += ["", f"| Kept after {steps} steps | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {size:.1f} |" for what, size in kept.items()), ""])


def draw(ratios: Ratios, path: Path) -> None:
    """Plot the ratios: one row per contender, one colour and marker per workload, a line over all repeats."""
    import matplotlib
    from matplotlib.figure import Figure

    shown = {name: found for name, found in ratios.items() if found}
    with matplotlib.rc_context(gf.STYLE):
        ax = Figure(figsize=(9, 0.45 * len(shown) + 1.8)).add_subplot()
        for number, (workload, marker) in enumerate(zip(next(iter(shown.values())), "os^D")):
            for row, found in enumerate(shown.values()):
                y, label = row + 0.15 * (number - 1.5), workload if row == 0 else None
                ax.plot([min(found[workload]), max(found[workload])], [y, y], color=f"C{number}", linewidth=1)
                ax.plot(min(found[workload]), y, marker, color=f"C{number}", label=label)
        ax.axvline(1, color="black", linewidth=1)
        ax.set(xscale="log", xlabel="time of a recorded step / time of a plain step", ylim=(len(shown) - 0.5, -0.5))
        ax.set_yticks(range(len(shown)), [textwrap.fill(name, 42) for name in shown], fontsize=9)
        ax.set_xticks([1, 1.5, 2, 3, 5, 10, 20, 50], ["1", "1.5", "2", "3", "5", "10", "20", "50"])
        ax.minorticks_off()
        ax.figure.legend(loc="outside upper center", ncols=2, fontsize=9)
        ax.figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, printed only")
    parser.add_argument("--readme", action="store_true", help="put the table into the README as well")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    steps = 100 if chosen.quick else 1000
    ratios = measure(WORKLOADS, 0.1, repeats=1) if chosen.quick else measure(WORKLOADS, 1.2)
    text = table(ratios, memory(steps), steps)
    print(text)
    if chosen.quick:
        return
    (FOLDER / "overhead.md").write_text(text, encoding="utf-8")
    draw(ratios, FOLDER / "overhead.png")
    if chosen.readme:
        update_readme("overhead", text)


if __name__ == "__main__":
    main()
