"""Patterns: where the kept entries of a token x latent matrix are, and products with such a matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from glassworks.train.kernels.kernels import Kernels, Places


@final
@dataclass(frozen=True, eq=False)
class Pattern:
    """The places of the entries, in the order of bags, and of rows within a bag.

    Attributes:
        starts: where the entries of each bag begin, and the end of the last.
        indices: the row of each entry.
        rows: how many rows there are.
        kernels: what multiplies.
    """

    starts: Int[Tensor, " starts"]
    indices: Int[Tensor, " entry"]
    rows: int
    kernels: Kernels

    @classmethod
    def from_counts(cls, counts: Tensor, indices: Tensor, rows: int, kernels: Kernels) -> "Pattern":
        """A pattern from how many entries each bag has."""
        return cls(functional.pad(counts.cumsum(0), (1, 0)), indices, rows, kernels)

    @property
    def bags(self) -> int:
        """How many bags there are."""
        return len(self.starts) - 1

    @cached_property
    def positions(self) -> Int[Tensor, " entry"]:
        """The bag of each entry."""
        return torch.repeat_interleave(self.starts.diff(), output_size=len(self.indices))

    @cached_property
    def turned(self) -> "tuple[Pattern, Int[Tensor, ' entry']]":
        """The same with bags and rows exchanged, and its entries' numbers here."""
        order, starts = self.kernels.turn(self.indices, self.rows)
        return Pattern(starts, self.positions[order], self.bags, self.kernels), order

    def split(self, widths: Sequence[int]) -> "Pattern":
        """Every bag cut into runs of rows: bag b's run r is bag b * len(widths) + r.

        Args:
            widths: ascending, the end of each run; the last is the number of rows.
        """
        ends = torch.tensor(widths, device=self.indices.device)
        run = torch.searchsorted(ends, self.indices, right=True) + self.positions * len(widths)
        counts = torch.bincount(run, minlength=self.bags * len(widths))
        return Pattern.from_counts(counts, self.indices, self.rows, self.kernels)

    def total(
        self, values: Float[Tensor, " entry"], rows: Float[Tensor, "row d"], out: Float[Tensor, "bag d"] | None = None
    ) -> Float[Tensor, "bag d"]:
        """The matrix with these values, times rows.

        Args:
            values: one an entry.
            rows: what is summed.
            out: add it there.
        """
        out = rows.new_zeros(self.bags, rows.shape[1]) if out is None else out
        self.kernels.total(Places(self.starts, self.indices), values.contiguous(), rows.contiguous(), out)
        return out

    def spread(
        self, values: Float[Tensor, " entry"], bags: Float[Tensor, "bag d"], out: Float[Tensor, "row d"] | None = None
    ) -> Float[Tensor, "row d"]:
        """The matrix with these values, transposed, times bags.

        Args:
            values: one an entry.
            bags: what is summed.
            out: add it there.
        """
        turned, order = self.turned
        return turned.total(values[order], bags, out)

    def dots(self, bags: Float[Tensor, "bag d"], rows: Float[Tensor, "row d"]) -> Float[Tensor, " entry"]:
        """The entries of bags @ rows.T that the pattern keeps."""
        turned, order = self.turned  # by row: there are fewer bags than rows, so the bags stay in the cache
        found = self.kernels.dots(Places(turned.starts, turned.indices), rows.contiguous(), bags.contiguous())
        return torch.empty_like(found).index_copy_(0, order, found)
