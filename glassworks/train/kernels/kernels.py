"""The operations of the sparse engine, in plain torch, and products with a sparse matrix that have gradients.

A matrix (bag, row) with few entries is given by where each bag's entries start, the row of each entry, and their
values. Bags are tokens and rows latents, or the other way round. Every implementation gives the same bits when it runs
again. The two products that training needs, `total` and `kept`, have gradients that visit only a pattern's entries.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
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
    def transposed(self) -> "tuple[Pattern, Int[Tensor, ' entry']]":
        """The same with bags and rows exchanged, and its entries' numbers here."""
        order, starts = self.kernels.transpose(self.indices, self.rows)
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
            values: one per entry.
            rows: what is summed.
            out: add it there.
        """
        out = rows.new_zeros(self.bags, rows.shape[1]) if out is None else out
        self.kernels.total(self.starts, self.indices, values.contiguous(), rows.contiguous(), out)
        return out

    def total_transposed(
        self, values: Float[Tensor, " entry"], bags: Float[Tensor, "bag d"], out: Float[Tensor, "row d"] | None = None
    ) -> Float[Tensor, "row d"]:
        """The matrix with these values, transposed, times bags; arguments as for `total`."""
        transposed, order = self.transposed
        return transposed.total(values[order], bags, out)

    def dots(self, bags: Float[Tensor, "bag d"], rows: Float[Tensor, "row d"]) -> Float[Tensor, " entry"]:
        """The entries of bags @ rows.T that the pattern keeps."""
        by_row, order = self.transposed  # there are fewer bags than rows, so the bags stay in the cache
        products = self.kernels.dots(by_row.starts, by_row.indices, rows.contiguous(), bags.contiguous())
        return torch.empty_like(products).index_copy_(0, order, products)


def total(values: Float[Tensor, " entry"], rows: Float[Tensor, "row d"], pattern: Pattern) -> Float[Tensor, "bag d"]:
    """A sparse matrix times rows; gradients flow to both.

    Args:
        values: one per entry.
        rows: what is summed.
        pattern: where the entries are.
    """
    return _Total.apply(values, rows, pattern)  # pyright: ignore[reportReturnType]


def kept(
    x: Float[Tensor, "token d_in"],
    w_enc: Float[Tensor, "latent d_in"],
    b_enc: Float[Tensor, " latent"],
    centre: Float[Tensor, " d_in"] | None,
    entries: Sequence[tuple[Float[Tensor, " _"], Pattern]],
) -> tuple[Float[Tensor, " _"], ...]:
    """Some entries of (x - centre) @ w_enc.T + b_enc, whose values are known already; gradients flow to all four.

    Args:
        x: rows of activations.
        w_enc: the encoder, one row per latent.
        b_enc: its bias.
        centre: subtracted from every row.
        entries: values and where they are.
    """
    return _Kept.apply(x, w_enc, b_enc, centre, entries) if entries else ()  # pyright: ignore[reportReturnType]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, rows)
        ctx.pattern = pattern
        return pattern.total(values, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, rows = ctx.saved_tensors
        of_values = ctx.pattern.dots(grad, rows) if ctx.needs_input_grad[0] else None
        of_rows = ctx.pattern.total_transposed(values, grad) if ctx.needs_input_grad[1] else None
        return of_values, of_rows, None


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_enc: Tensor, b_enc: Tensor, centre: Tensor | None, kept: Sequence[tuple[Tensor, Pattern]]
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, w_enc, b_enc, centre)
        ctx.patterns = [pattern for _, pattern in kept]
        ctx.set_materialize_grads(False)
        return tuple(values for values, _ in kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w_enc, b_enc, centre = ctx.saved_tensors
        used = [(grad, pattern) for grad, pattern in zip(grads, ctx.patterns, strict=True) if grad is not None]
        of_b = torch.zeros_like(b_enc)
        for grad, pattern in used:
            of_b.index_add_(0, pattern.indices, grad)
        of_x = of_w = None
        if ctx.needs_input_grad[1]:
            of_w, rows = torch.zeros_like(w_enc), x if centre is None else x - centre
            for grad, pattern in used:
                pattern.total_transposed(grad, rows, of_w)
        if ctx.needs_input_grad[0]:
            of_x = torch.zeros_like(x)
            for grad, pattern in used:
                pattern.total(grad, w_enc, of_x)
        of_centre = -(of_b @ w_enc) if ctx.needs_input_grad[3] else None
        return of_x, of_w, of_b, of_centre, None
