"""Activations against their definitions, written slowly."""

import pytest
import torch

from glassworks.coders import BatchTopK, JumpReLU, ReLU, TopK
from glassworks.coders.activations import activation
from glassworks.errors import BadInput, Unsupported


def test_relu_keeps_what_is_above_zero():
    assert ReLU().active(torch.tensor([-1.0, 0.0, 1e-9])).tolist() == [False, False, True]


@pytest.mark.parametrize("k", [1, 3, 50])
def test_topk_is_the_sorted_list_cut_off(k: int):
    values = torch.randn(5, 7, 20)
    active = TopK(k).active(values)
    for row, mask in zip(values.reshape(-1, 20), active.reshape(-1, 20), strict=True):
        best = sorted(range(20), key=lambda each: -float(row[each]))[:k]
        assert mask.nonzero()[:, 0].tolist() == sorted(each for each in best if row[each] > 0)


def test_batch_topk_keeps_k_a_token_over_the_batch():
    values = torch.rand(6, 10) + 0.1
    active = BatchTopK(2).active(values)
    assert int(active.sum()) == 12
    assert values[active].min() >= values[~active].max()
    assert not BatchTopK(2).active(-values).any()


@pytest.mark.parametrize("k", [0.01, 1, 3.5, 64])
@pytest.mark.parametrize("shape", [(1, 64), (50, 64), (2, 300, 64)])
def test_the_batch_threshold_is_exact(k: float, shape: tuple[int, ...]):
    values = torch.randn(shape) * torch.arange(64)  # latents of very different size
    ranked = values.flatten().sort(descending=True).values
    keep = max(1, round(k * values.numel() / 64))
    assert BatchTopK(k).threshold(values) == ranked[keep - 1]


def test_jumprelu_is_strict_at_its_threshold():
    threshold = torch.tensor([0.5, 0.0, 1.0])
    gate = JumpReLU(threshold)
    assert gate.active(threshold).tolist() == [False, False, False]
    assert gate.active(torch.nextafter(threshold, torch.tensor(9.0))).tolist() == [True, True, True]


@pytest.mark.parametrize("bad", [-0.1, float("nan")])
def test_a_threshold_below_zero_is_refused(bad: float):
    with pytest.raises(BadInput, match="at least 0"):
        JumpReLU(torch.tensor([0.1, bad]))


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k: int):
    with pytest.raises(BadInput, match="above 0"):
        TopK(k)
    with pytest.raises(BadInput, match="above 0"):
        BatchTopK(k)


@pytest.mark.parametrize("value", [ReLU(), TopK(3), BatchTopK(2.5), JumpReLU(torch.rand(4))])
def test_plain_form_reads_back(value):
    again = activation(value.plain(), value.tensors())
    assert type(again) is type(value)
    assert torch.equal(again.active(torch.eye(4)), value.active(torch.eye(4)))


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(Unsupported, match="nearest are jumprelu"):
        activation({"kind": "jump_relu"}, {})
