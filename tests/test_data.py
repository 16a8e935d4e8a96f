"""The digits: splits, scaling and reproducibility."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import gradflow_utils as gf


@pytest.fixture(scope="module")
def data():
    return gf.digits()


@pytest.mark.parametrize(("split", "rows"), [("train", 1200), ("validation", 237), ("test", 360)])
def test_splits_have_their_size_type_and_every_digit(data, split, rows):
    x, y = getattr(data, split)
    assert (x.shape, x.dtype) == ((rows, 64), torch.float32)
    assert (y.shape, y.dtype) == ((rows,), torch.int64)
    assert y.unique().tolist() == list(range(10))


def test_pixels_are_centred_on_the_training_rows(data):
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(64), rtol=0, atol=1e-5)
    assert data.test.x.mean(0).abs().max() > 0.01  # and on nothing else


def test_training_rows_have_size_one_over_all_pixels_and_not_in_each(data):
    assert data.train.x.double().std(correction=0).item() == pytest.approx(1, rel=1e-5)
    assert data.train.x.std(0).max() > 1.3


def test_pixels_that_never_change_are_zero(data):
    images, _ = load_digits(return_X_y=True)
    constant = torch.tensor(images.std(0) == 0)
    assert constant.any()
    assert not data.train.x[:, constant].any()


def test_the_splits_together_are_the_digits_of_scikit_learn_each_once(data):
    images, labels = load_digits(return_X_y=True)
    x, y = (torch.cat(parts).double().numpy() for parts in zip(*data))
    blank = x.min(0)  # every pixel is blank in some image
    ink = (x - blank) * 16 / (x - blank).max()  # ink runs from 0 to 16
    np.testing.assert_allclose(ink, ink.round(), atol=1e-4)
    ours = sorted(map(tuple, np.column_stack([ink.round(), y])))
    assert ours == sorted(map(tuple, np.column_stack([images, labels])))


def test_the_order_never_changes(data):
    assert [split.y[:5].tolist() for split in data] == [[2, 8, 2, 6, 6], [6, 1, 6, 0, 6], [7, 9, 4, 7, 0]]


def test_loading_again_gives_the_same_and_leaves_the_global_generators_alone(data):
    np.random.seed(7)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    again = gf.digits()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(sum(again, ()), sum(data, ()), strict=True))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state
