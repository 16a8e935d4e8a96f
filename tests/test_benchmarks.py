"""The benchmark of the cost of recording runs, counts what it claims to count, and writes into the README."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import overhead  # noqa: E402
import overhead_contenders as run  # noqa: E402
from readme_table import write_block  # noqa: E402
from workloads import WORKLOADS, mlp  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny():
    return mlp(4, 16)


@pytest.fixture
def own_contenders(monkeypatch):
    """Those that need no other package, and one whose package is not installed."""
    own = [one for one in overhead.CONTENDERS if one.package is None]
    missing = overhead.Contender("missing peer", run.after, package="no_such_package")
    monkeypatch.setattr(overhead, "CONTENDERS", [*own, missing])
    return [one.name for one in own]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_every_contender_has_a_row_and_a_missing_peer_says_so(own_contenders, tmp_path):
    ratios = overhead.measure({"tiny": tiny}, seconds=0, repeats=1)
    assert all(ratios[name]["tiny"][0] > 0 for name in own_contenders)
    rows = overhead.table(ratios, overhead.memory(5), 5).splitlines()
    for name in own_contenders:
        assert sum(row.startswith(f"| {name} |") for row in rows) == 1
    assert "| missing peer | not installed |" in rows
    assert "| Kept after 5 steps | |" in rows
    overhead.draw(ratios, tmp_path / "overhead.png")
    assert (tmp_path / "overhead.png").stat().st_size > 5000


def test_both_copies_of_a_workload_are_equal():
    one, other = run.subject(tiny), run.subject(tiny)
    assert one.model is not other.model
    seen = []
    other.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert one.workload.step().item() == other.workload.step().item()
    assert torch.equal(one.x, seen[0])


@pytest.mark.parametrize("name", WORKLOADS)
def test_peers_are_hooked_where_the_recorder_looks(name):
    layers = run.subject(WORKLOADS[name]).layers
    if name.startswith(("(a)", "(b)")):
        assert list(layers) == [f"tanh{number}" for number in range(1, 21)]
    elif name.startswith("(c)"):
        assert [module.out_features for module in layers.values()] == [512] * 4  # linear1, since F.relu is no module
    else:
        assert [type(module).__name__ for module in layers.values()] == ["LSTM", "Linear"]


def test_one_step_in_ten_is_compared_by_means_over_whole_periods():
    steps = []

    class Every:
        def __enter__(self):
            return (lambda: [1.0]), (lambda: steps.append(0) or [11.0 if len(steps) % 10 == 0 else 1.0])

        def __exit__(self, *exception):
            pass

    contender = overhead.Contender("", lambda make: Every(), every=10)
    assert overhead.ratio(contender, tiny, seconds=0) == 2.0
    assert len(steps) == 103  # three of them to warm up


def test_size_counts_shared_storage_and_shared_objects_once():
    numbers = torch.zeros(1000)
    alone = overhead.size_of([numbers])
    assert 4000 <= alone < 4300
    assert overhead.size_of([numbers, numbers, numbers[:10]]) < alone + 200
    assert overhead.size_of([0.5 + number for number in range(100)]) >= 100 * (24 + 8)


def test_naive_hook_keeps_each_statistic_of_each_layer():
    one, kept = run.subject(tiny), run.defaultdict(list)
    run.hook_naively(one.layers, kept)
    one.workload.step()
    assert len(kept) == 20 * 7
    assert all(len(values) == 1 for values in kept.values())


# README


def test_block_between_the_markers_is_replaced_and_nothing_else():
    text = "before\n<!-- speed:begin -->\nold\n<!-- speed:end -->\nafter <!-- other:begin -->\n"
    once = write_block(text, "speed", "| a |\n")
    assert once == "before\n<!-- speed:begin -->\n| a |\n<!-- speed:end -->\nafter <!-- other:begin -->\n"
    assert write_block(once, "speed", "| a |\n") == once


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "speed:begin --> 0 times"),
        ("<!-- speed:begin -->", "speed:end --> 0 times"),
        ("<!-- speed:begin --> <!-- speed:begin --> <!-- speed:end -->", "speed:begin --> 2 times"),
        ("<!-- speed:end --> <!-- speed:begin -->", "stands before"),
    ],
)
def test_missing_markers_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        write_block(text, "speed", "table")
