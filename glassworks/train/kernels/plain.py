"""Kernels in plain torch: they need no compiler and run on every device."""

from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from glassworks.train.kernels.kernels import Kernels, Places

TOGETHER = 1 << 22
"""How many numbers are gathered at a time (16 MB), so that entries x d never stands in memory."""


@final
class Plain(Kernels):
    """Kernels that torch brings."""

    name: ClassVar[str] = "torch"

    def largest(self, pre: Float[Tensor, "token latent"], k: int) -> Int[Tensor, "token k"]:
        """By torch's own selection."""
        return pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values

    def above(
        self, pre: Float[Tensor, "token latent"], floor: Float[Tensor, " latent"]
    ) -> tuple[Int[Tensor, " token"], Int[Tensor, " entry"]]:
        """By a mask."""
        kept = pre > floor
        return kept.sum(1), kept.nonzero()[:, 1]

    def turn(self, indices: Int[Tensor, " entry"], rows: int) -> tuple[Int[Tensor, " entry"], Int[Tensor, " starts"]]:
        """By a stable sort."""
        counts = torch.bincount(indices, minlength=rows)
        return indices.argsort(stable=True), functional.pad(counts.cumsum(0), (1, 0))

    def total(self, at: Places, values: Tensor, rows: Float[Tensor, "row d"], out: Float[Tensor, "bag d"]) -> None:
        """By an embedding bag."""
        out += functional.embedding_bag(
            at.indices, rows, at.starts, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def dots(self, at: Places, bags: Float[Tensor, "bag d"], rows: Float[Tensor, "row d"]) -> Float[Tensor, " entry"]:
        """Some thousand entries at a time."""
        mine = torch.repeat_interleave(at.starts.diff())
        size = max(TOGETHER // max(rows.shape[1], 1), 1)
        pieces = zip(mine.split(size), at.indices.split(size), strict=True)
        found = [torch.linalg.vecdot(bags[bag], rows[row]) for bag, row in pieces]
        return torch.cat(found) if found else rows.new_zeros(0)
