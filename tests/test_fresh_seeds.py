"""The tool that tries a notebook's asserts on other seeds."""

import fresh_seeds
import pytest
import torch

import gradflow_utils as gf


def two_classes():
    return torch.eye(2).repeat(8, 1), torch.arange(16) % 2


def test_every_seed_of_a_notebook_is_shifted_and_a_failing_assert_stops_nothing():
    net = gf.mlp([2, 2], seed=0)
    weight = net.linear1.weight[0, 0].item()
    loss = gf.train(net, two_classes(), torch.optim.SGD(net.parameters(), lr=1.0), 1, batch_size=5, progress=False).item()
    drawn = torch.rand(1, generator=torch.Generator().manual_seed(0)).item()
    cells = [
        "import torch\nnet = gf.mlp([2, 2], seed=0)",
        f"assert net.linear1.weight[0, 0].item() == {weight}",
        f"assert torch.rand(1, generator=torch.Generator().manual_seed(0)).item() == {drawn}",
        "data, optimizer = (torch.eye(2).repeat(8, 1), torch.arange(16) % 2), torch.optim.SGD(net.parameters(), lr=1.0)",
        "loss = gf.train(net, data, optimizer, 1, batch_size=5, progress=False).item()",
        f"\nassert loss == {loss}",
        "assert True",
    ]
    assert fresh_seeds.failures(cells, 0) == []
    assert fresh_seeds.failures(cells, 1) == [cells[1], cells[2], cells[5].strip()]
    assert gf.mlp([2, 2], seed=0).linear1.weight[0, 0].item() == weight  # the package is as before


def test_seeds_that_the_batches_take_are_shifted_too():
    cells = [
        "import torch\nx, y = torch.arange(64.0)[:, None], torch.zeros(64, dtype=torch.int64)",
        "seen = []\nnet = torch.nn.Linear(1, 2)\nnet.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))",
        "optimizer = torch.optim.SGD(net.parameters(), lr=0.1)",
        "_ = gf.train(net, (x, y), optimizer, steps=1, batch_size=4, progress=False)",
    ]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1000))[:4].tolist()
    assert fresh_seeds.failures([*cells, f"assert seen[0].flatten().tolist() == {order}"], 1) == []


def test_an_error_that_a_failed_assert_has_caused_ends_the_set_and_is_told():
    failing = ["x = 1\nassert gf.mlp([2, 2], seed=0) is None\ny = 2", "print(y)", "assert False, 'not reached'"]
    assert fresh_seeds.failures(failing, 1) == [failing[0].splitlines()[1], "then NameError: name 'y' is not defined"]
    with pytest.raises(ZeroDivisionError):
        fresh_seeds.failures(["1 / 0"], 1)


def test_the_patients_of_the_clinic_are_others():
    cells = ["from gradflow_utils import clinic", "assert clinic.patient(4).seed == 0", "assert clinic.patient(4, seed=2).seed == 2"]
    assert fresh_seeds.failures(cells, 1) == cells[1:]
