"""Kernels for GPUs, in Triton: one program for each bag and tile of its columns, so every sum has one order."""

from inspect import unwrap
from typing import Any, ClassVar, final

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from glassworks.train.kernels.kernels import Kernels

WIDE = 1024
"""The largest tile of columns."""


def compiled(function: Any) -> Any:
    """Compile a function of tiles.

    Args:
        function: Triton cannot see through a wrapper (a type checker's, in the tests), so it is taken off.
    """
    return triton.jit(unwrap(function))


@compiled
def _total(starts, indices, values, rows, out, width, tile: tl.constexpr):  # pyright: ignore[reportMissingParameterType]
    bag, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * tile + tl.arange(0, tile)
    inside = column < width
    line = tl.load(out + bag * width + column, mask=inside, other=0.0)
    for entry in range(tl.load(starts + bag), tl.load(starts + bag + 1)):
        row = tl.load(indices + entry)
        line += tl.load(values + entry) * tl.load(rows + row * width + column, mask=inside, other=0.0)
    tl.store(out + bag * width + column, line, mask=inside)


@compiled
def _dots(starts, indices, bags, rows, out, width, tile: tl.constexpr):  # pyright: ignore[reportMissingParameterType]
    bag, lane = tl.program_id(0).to(tl.int64), tl.arange(0, tile)
    for entry in range(tl.load(starts + bag), tl.load(starts + bag + 1)):
        row = tl.load(indices + entry)
        products = tl.zeros((tile,), dtype=out.dtype.element_ty)
        for first in range(0, width, tile):
            inside = first + lane < width
            line = tl.load(bags + bag * width + first + lane, mask=inside, other=0.0)
            products += line * tl.load(rows + row * width + first + lane, mask=inside, other=0.0)
        tl.store(out + entry, tl.sum(products, axis=0))


@final
class TritonKernels(Kernels):
    """Kernels that Triton compiles; choosing is left to torch, which does it well on a GPU."""

    name: ClassVar[str] = "triton"

    def total(self, starts: Tensor, indices: Tensor, values: Tensor, rows: Tensor, out: Tensor) -> None:
        """A bag's tile stays in registers while its rows pass."""
        width, tile = rows.shape[1], _tile(rows.shape[1])
        _total[(len(out), triton.cdiv(width, tile))](starts, indices, values, rows, out, width, tile)

    def dots(self, starts: Tensor, indices: Tensor, bags: Tensor, rows: Tensor) -> Float[Tensor, " entry"]:
        """A program goes through the entries of one bag."""
        out = rows.new_empty(len(indices))
        _dots[(len(bags),)](starts, indices, bags, rows, out, rows.shape[1], _tile(rows.shape[1]))
        return out


def _tile(width: int) -> int:
    return min(1 << (width - 1).bit_length(), WIDE)
