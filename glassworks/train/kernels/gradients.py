"""The two products of the sparse engine with their gradients; all of them touch only the entries of a pattern."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassworks.train.kernels.pattern import Pattern


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
        of_rows = ctx.pattern.spread(values, grad) if ctx.needs_input_grad[1] else None
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
        asked = [(grad, pattern) for grad, pattern in zip(grads, ctx.patterns, strict=True) if grad is not None]
        of_b = torch.zeros_like(b_enc)
        for grad, pattern in asked:
            of_b.index_add_(0, pattern.indices, grad)
        of_x = of_w = None
        if ctx.needs_input_grad[1]:
            of_w, seen = torch.zeros_like(w_enc), x if centre is None else x - centre
            for grad, pattern in asked:
                pattern.spread(grad, seen, of_w)
        if ctx.needs_input_grad[0]:
            of_x = torch.zeros_like(x)
            for grad, pattern in asked:
                pattern.total(grad, w_enc, of_x)
        of_centre = -(of_b @ w_enc) if ctx.needs_input_grad[3] else None
        return of_x, of_w, of_b, of_centre, None


def total(values: Float[Tensor, " entry"], rows: Float[Tensor, "row d"], pattern: Pattern) -> Float[Tensor, "bag d"]:
    """A sparse matrix times rows; gradients flow to both.

    Args:
        values: one an entry.
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
