"""Latents: sparse activations of a coder, the form in which features travel between the rooms.

Of a few thousand latents a few dozen are active at a token, so only those are kept. This module must not
know what a coder is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from glassworks.coders.weights import Stored


@final
@dataclass(frozen=True, eq=False)
class Latents:
    """The active latents of some tokens.

    Attributes:
        positions: the token of each entry: its index in the flattened leading dimensions, ascending.
        indices: which latent it is; ascending within a token.
        values: its activation.
        shape: the dense shape, (leading dimensions..., d_latent).
    """

    positions: Int[Tensor, " nnz"]
    indices: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    shape: tuple[int, ...]

    @classmethod
    def from_dense(
        cls, dense: Float[Tensor, "*token d_latent"], active: Bool[Tensor, "*token d_latent"] | None = None
    ) -> "Latents":
        """Keep the active entries of dense activations; gradients flow through the values.

        Args:
            dense: activations, zero where a latent is silent.
            active: which entries to keep; by default those that are not zero.
        """
        flat = dense.reshape(-1, dense.shape[-1])
        kept = (flat != 0 if active is None else active.reshape(flat.shape)).nonzero()
        positions, indices = kept.unbind(1)
        return cls(positions, indices, flat[positions, indices], tuple(dense.shape))

    @classmethod
    def side_by_side(cls, pieces: "Sequence[Latents]") -> "Latents":
        """Put different latents of the same tokens side by side, numbered on."""
        if len(pieces) == 1:
            return pieces[0]
        ends = list(accumulate(each.d_latent for each in pieces))
        starts = [end - each.d_latent for end, each in zip(ends, pieces, strict=True)]
        positions = torch.cat([each.positions for each in pieces])
        indices = torch.cat([each.indices + start for each, start in zip(pieces, starts, strict=True)])
        order = positions.argsort(stable=True)  # pieces are in order, so the numbers within a token are too
        values = torch.cat([each.values for each in pieces])
        return cls(positions[order], indices[order], values[order], (*pieces[0].shape[:-1], ends[-1]))

    @classmethod
    def in_turn(cls, pieces: "Sequence[Latents]", shape: tuple[int, ...]) -> "Latents":
        """Put the same latents of tokens that follow each other into one, of this dense shape."""
        starts = accumulate((each.tokens for each in pieces), initial=0)
        positions = [each.positions + start for each, start in zip(pieces, starts, strict=False)]
        indices, values = [each.indices for each in pieces], [each.values for each in pieces]
        return cls(torch.cat(positions), torch.cat(indices), torch.cat(values), shape)

    @property
    def d_latent(self) -> int:
        """How many latents the coder has."""
        return self.shape[-1]

    @property
    def tokens(self) -> int:
        """How many tokens were encoded: the product of the leading dimensions."""
        return prod(self.shape[:-1])

    @cached_property
    def counts(self) -> Int[Tensor, " token"]:
        """How many latents are active at each token (its L0)."""
        return torch.bincount(self.positions, minlength=self.tokens)

    def prefix(self, width: int) -> "Latents":
        """The first latents only: what a Matryoshka coder's nested dictionary of this width sees."""
        return self.run(0, width)

    def run(self, start: int, stop: int) -> "Latents":
        """The latents of these numbers only, numbered from 0."""
        kept = (self.indices >= start) & (self.indices < stop)
        shape = (*self.shape[:-1], stop - start)
        return Latents(self.positions[kept], self.indices[kept] - start, self.values[kept], shape)

    def dense(self) -> Float[Tensor, "*token d_latent"]:
        """The activations as a dense tensor of `shape`."""
        flat = self.values.new_zeros(self.tokens, self.d_latent)
        return flat.index_put((self.positions, self.indices), self.values).reshape(self.shape)

    def at(self, position: int) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
        """The active latents of one token (flat index): their indices and values."""
        here = self.positions == position
        return self.indices[here], self.values[here]

    def total(self, rows: "Tensor | Stored") -> Float[Tensor, "token d_out"]:
        """Sum the active latents' rows of a matrix, weighted by their activations, in float32 or wider.

        Only rows in use are read, and widened.

        Args:
            rows: one per latent, in memory or in a file.
        """
        kind = torch.promote_types(self.values.dtype, torch.float32)
        indices, starts = self.indices, self.counts.cumsum(0) - self.counts
        if isinstance(rows, Stored) or rows.dtype != kind or not rows.is_contiguous():
            used, indices = indices.unique(return_inverse=True)
            rows = rows[used].to(kind).contiguous()
        return functional.embedding_bag(indices, rows, starts, mode="sum", per_sample_weights=self.values.to(kind))

    def __repr__(self) -> str:
        mean = len(self.values) / max(self.tokens, 1)
        return f"Latents({self.tokens} tokens x {self.d_latent} latents, {len(self.values)} active, L0 {mean:.1f})"
