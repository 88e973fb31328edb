"""Choosing entries: numba against torch, on shapes, ties and numbers that are awkward."""

import pytest
import torch
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.train.kernels import kernels, named
from glassworks.train.selection import LargestOfBatch, LastCut, encode


def rows(kind: str, tokens: int, latents: int) -> Tensor:
    made = torch.randn(tokens, latents)
    return {
        "plain": made,
        "ties": (made * 2).round(),
        "equal": torch.ones_like(made),
        "falling": -torch.arange(latents * tokens).view(tokens, latents).float(),
        "infinite": made.masked_fill(made > 1, torch.inf).masked_fill(made < -1, -torch.inf),
    }[kind]


@pytest.mark.parametrize("kind", ["plain", "ties", "equal", "falling", "infinite"])
@pytest.mark.parametrize(("latents", "k"), [(7, 7), (64, 3), (300, 1), (1000, 290), (1337, 40)])
def test_choices_are_those_of_torch(kind: str, latents: int, k: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        pre = rows(kind, 5, latents).to(dtype)
        ours, theirs = (named(name).largest(pre, k) for name in ("numba", "torch"))
        assert torch.equal(ours, ours.sort(dim=1).values)
        assert all(len(set(row.tolist())) == k for row in ours)
        assert torch.equal(pre.gather(1, ours).sort().values, pre.gather(1, theirs).sort().values)
        floor = torch.randn(latents)
        for one, other in zip(*(named(name).above(pre, floor) for name in ("numba", "torch")), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["numba", "torch"])
def test_values_that_are_not_finite_do_no_harm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASSWORKS_KERNELS", name)
    for share in (0.01, 0.5, 1.0):
        pre = torch.randn(20, 600).masked_fill(torch.rand(20, 600) < share, torch.nan)
        indices = named(name).largest(pre, 30)
        assert indices.min() >= 0
        assert indices.max() < 600
        counts, found = named(name).above(pre, torch.zeros(600))
        assert int(counts.sum()) == len(found) == int((pre > 0).sum())
    cut = LastCut()
    encode(torch.full((20, 8), torch.nan), torch.randn(600, 8), torch.zeros(600), [LargestOfBatch(3, cut)])
    (selected,) = encode(torch.randn(20, 8), torch.randn(600, 8), torch.zeros(600), [LargestOfBatch(3, cut)])
    assert len(selected.pre) == 60


def test_kernels_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLASSWORKS_KERNELS", raising=False)
    assert (kernels("cpu").name, kernels("mps").name) == ("numba", "torch")
    monkeypatch.setenv("GLASSWORKS_KERNELS", "torch")
    assert kernels("cpu").name == "torch"
    monkeypatch.setenv("GLASSWORKS_KERNELS", "abacus")
    with pytest.raises(BadInput, match="torch, numba or triton"):
        kernels("cpu")
