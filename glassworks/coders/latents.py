"""Latents: sparse activations of a coder, the form in which features travel between the rooms.

Of a few thousand latents a few dozen are active at a token, so only those are kept. This module must not
know what a coder is.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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

    def dense(self) -> Float[Tensor, "*token d_latent"]:
        """The activations as a dense tensor of `shape`."""
        flat = self.values.new_zeros(self.tokens, self.d_latent)
        return flat.index_put((self.positions, self.indices), self.values).reshape(self.shape)

    def at(self, position: int) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
        """The active latents of one token (flat index): their indices and values."""
        here = self.positions == position
        return self.indices[here], self.values[here]

    def __repr__(self) -> str:
        mean = len(self.values) / max(self.tokens, 1)
        return f"Latents({self.tokens} tokens x {self.d_latent} latents, {len(self.values)} active, L0 {mean:.1f})"
