"""How often gf.diagnose is right, beside published rules, on two banks of labelled networks.

Run: python benchmarks/diagnosis.py [--readme]. It prints a table and the verdicts that were wrong;
--readme writes the table into README.md. `bank` is the one on which the thresholds were chosen.
`second_bank` was labelled before anything was run, by somebody who had seen neither the rules nor the
first bank, and nothing was changed because of its verdicts.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor

import torch

import bank
import gradflow_utils as gf
import second_bank
from bank_case import Case
from published_rules import JUDGES
from readme_table import update_readme

SEEDS = range(5)
BANKS = {"tuned on": bank.CASES, "never tuned on": second_bank.CASES}


def recorded(case: Case, seed: int) -> gf.FlowRecord:
    """A record of the whole trial."""
    trial = case.build(seed)
    with gf.record(trial.model, trial.optimizer) as flow:
        for step in range(trial.steps):
            x, y = trial.batch(step)
            loss = trial.loss_fn(trial.model(x), y)
            flow.add_loss(loss)
            trial.optimizer.zero_grad()
            loss.backward()
            trial.optimizer.step()
    return flow


def ours(case: Case, seed: int) -> set[str]:
    """The kinds of fault that gf.diagnose names."""
    return set(gf.diagnose(recorded(case, seed)).kinds)


ALL_JUDGES = {"gf.diagnose": ours, **JUDGES}


def is_right(case: Case, named: set[str]) -> bool:
    """Silence on a healthy network; on a sick one its fault, and nothing that is not there."""
    return named <= {case.fault, *case.also} and (case.fault in named if case.fault else not named)


def verdicts(which: str, number: int) -> dict[str, list[set[str]]]:
    """What each judge names on one case, by seed. Case by number: processes cannot be sent functions."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case = BANKS[which][number]
    return {judge: [named(case, seed) for seed in SEEDS] for judge, named in ALL_JUDGES.items()}


def table(results: dict[str, list[dict[str, list[set[str]]]]]) -> str:
    """The rates as a Markdown table."""
    lines = [
        "| bank | judge | healthy left alone | sick: something found | sick: its fault named | right verdicts |",
        "|---|---|---|---|---|---|",
    ]
    for which, cases in BANKS.items():
        for judge in ALL_JUDGES:
            runs = [(case, named) for case, found in zip(cases, results[which]) for named in found[judge]]
            healthy = [not named for case, named in runs if not case.fault]
            sick = [(case, named) for case, named in runs if case.fault]
            rates = [
                healthy,
                [bool(named) for _, named in sick],
                [case.fault in named for case, named in sick],
                [is_right(case, named) for case, named in runs],
            ]
            shares = " | ".join(f"{sum(rate) / len(rate):.1%}" for rate in rates)
            lines.append(f"| {which}, {len(cases)} networks | {judge} | {shares} |")
    return "\n".join(lines)


def wrong(results: dict[str, list[dict[str, list[set[str]]]]]) -> list[str]:
    """The wrong verdicts of gf.diagnose, as sentences."""
    return [
        f"{which}: {case.family}, {case.name}, seed {seed}: named {sorted(named)}, is {case.fault or 'healthy'}"
        for which, cases in BANKS.items()
        for case, found in zip(cases, results[which])
        for seed, named in zip(SEEDS, found["gf.diagnose"])
        if not is_right(case, named)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    arguments = parser.parse_args()
    results = {}
    with ProcessPoolExecutor() as pool:
        for which, cases in BANKS.items():
            results[which] = []
            for number, found in enumerate(pool.map(verdicts, [which] * len(cases), range(len(cases)))):
                results[which].append(found)
                print(f"\r{which}: {number + 1}/{len(cases)}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
    print(table(results))
    print(*wrong(results), sep="\n")
    if arguments.readme:
        update_readme("diagnosis", table(results))
