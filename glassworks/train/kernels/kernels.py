"""The operations of the sparse engine, in plain torch.

A matrix (bag, row) with few entries is given by where each bag's entries start, the row of each entry, and their
values. Bags are tokens and rows latents, or the other way round. Every implementation gives the same bits when it runs
again. Nothing here knows gradients.
"""

from abc import ABC
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

GATHERED = 1 << 22
"""How many numbers are gathered at a time (16 MB), so that entries x d never stands in memory."""


class Kernels(ABC):
    """Chooses entries of pre-activations, and multiplies with them; subclasses replace what they compute faster.

    Attributes:
        name: what `GLASSWORKS_KERNELS` calls it.
    """

    name: ClassVar[str]

    def largest(self, pre: Float[Tensor, "token latent"], k: int) -> Int[Tensor, "token k"]:
        """The k largest of each token, ascending by latent; of equal ones any, but always the same."""
        return pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values

    def above(
        self, pre: Float[Tensor, "token latent"], floor: Float[Tensor, " latent"]
    ) -> tuple[Int[Tensor, " token"], Int[Tensor, " entry"]]:
        """How many of each token are above the floor of their latent, and which, ascending."""
        kept = pre > floor
        return kept.sum(1), kept.nonzero()[:, 1]

    def transpose(
        self, indices: Int[Tensor, " entry"], rows: int
    ) -> tuple[Int[Tensor, " entry"], Int[Tensor, " starts"]]:
        """The order of entries by row, stable, and where each row starts in it."""
        counts = torch.bincount(indices, minlength=rows)
        return indices.argsort(stable=True), functional.pad(counts.cumsum(0), (1, 0))

    def total(
        self,
        starts: Int[Tensor, " starts"],
        indices: Int[Tensor, " entry"],
        values: Float[Tensor, " entry"],
        rows: Float[Tensor, "row d"],
        out: Float[Tensor, "bag d"],
    ) -> None:
        """Add to each bag of `out` its rows, weighted by the values."""
        out += functional.embedding_bag(
            indices, rows, starts, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def dots(
        self,
        starts: Int[Tensor, " starts"],
        indices: Int[Tensor, " entry"],
        bags: Float[Tensor, "bag d"],
        rows: Float[Tensor, "row d"],
    ) -> Float[Tensor, " entry"]:
        """The product of each entry's bag and row, some thousand entries at a time."""
        positions = torch.repeat_interleave(starts.diff())
        size = max(GATHERED // max(rows.shape[1], 1), 1)
        pieces = zip(positions.split(size), indices.split(size), strict=True)
        products = [torch.linalg.vecdot(bags[bag], rows[row]) for bag, row in pieces]
        return torch.cat(products) if products else rows.new_zeros(0)


@final
class TorchKernels(Kernels):
    """Kernels in plain torch: they need no compiler and run on every device."""

    name: ClassVar[str] = "torch"
