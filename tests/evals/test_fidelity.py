"""Fidelity against closed forms and numpy on the whole."""

import numpy as np
import pytest
import torch

from glassworks.coders import JumpReLU, ReLU, Transcoder
from glassworks.errors import BadInput
from glassworks.evals import fidelity
from glassworks.evals.fidelity import Streaming
from glassworks.sites import Site

READ, WRITE = Site("mlp_in", 0), Site("mlp_out", 0)


def identity(width: int, threshold: float = 0.0, bias: float = 0.0) -> Transcoder:
    """Passes on what is above the threshold: exact for positive rows."""
    eye = torch.eye(width)
    weights = {"w_enc": eye, "b_enc": torch.zeros(width), "w_dec": eye, "b_dec": torch.full((width,), bias)}
    return Transcoder(READ, WRITE, JumpReLU(torch.full((width,), threshold)), weights).requires_grad_(False)


def test_a_perfect_coder_leaves_nothing():
    rows = torch.rand(500, 7) + 0.1
    measured = fidelity(identity(7), rows, rows, batch=64)
    assert measured.fvu == 0.0
    assert measured.l0 == 7.0
    assert measured.dead == 0.0
    assert measured.tokens == 500


def test_the_mean_leaves_everything():
    rows = torch.randn(500, 7) + 3.0
    coder = identity(7, threshold=1e9)
    coder.b_dec.copy_(rows.double().mean(0))
    measured = fidelity(coder, rows, rows, batch=64)
    assert measured.fvu == pytest.approx(1.0, abs=1e-6)
    assert (measured.l0, measured.dead) == (0.0, 1.0)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("batch", [1, 97, 5000])
def test_streaming_is_the_formula_on_the_whole(offset: float, batch: int):
    y = torch.randn(700, 5, dtype=torch.float64) + offset
    guess = y + 0.3 * torch.randn(700, 5, dtype=torch.float64)
    sums = Streaming(5, 3)
    for start in range(0, 700, batch):
        sums.add(y[start : start + batch], guess[start : start + batch])
    whole = y.numpy()
    expected = np.square(whole - guess.numpy()).sum() / np.square(whole - whole.mean(0)).sum()
    assert sums.result().fvu == pytest.approx(expected, rel=1e-9)


def test_scale_and_offset_change_nothing():
    rows = torch.randn(300, 4).double()
    guess = rows + 0.1 * torch.randn(300, 4).double()
    plain, moved = Streaming(4, 1), Streaming(4, 1)
    plain.add(rows, guess)
    moved.add(rows * 7.0 + 2.0, guess * 7.0 + 2.0)
    assert moved.result().fvu == pytest.approx(plain.result().fvu, rel=1e-9)


def test_l0_and_dead_count_what_is_on():
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]])
    measured = fidelity(identity(4), rows, rows)
    assert measured.l0 == 1.5
    assert measured.dead == 0.5


def test_the_skip_path_counts():
    eye, zero = torch.eye(3), torch.zeros(3)
    weights = {"w_enc": -eye, "b_enc": zero - 100.0, "w_dec": eye, "b_dec": zero, "w_skip": 2.0 * eye}
    coder = Transcoder(READ, WRITE, ReLU(), weights).requires_grad_(False)
    rows = torch.randn(50, 3)
    assert fidelity(coder, rows, 2.0 * rows).fvu == 0.0


def test_constant_rows_have_no_fvu():
    with pytest.raises(BadInput, match="do not vary"):
        fidelity(identity(3), torch.ones(5, 3), torch.ones(5, 3))
