"""Kernels for the processor, compiled by numba when first used (some seconds, then kept on disk).

Tokens or latents are divided among as many threads as torch uses; each is summed by one thread in one order, so the
result does not depend on how many there are.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from inspect import unwrap
from itertools import pairwise
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from glassworks.train.kernels.kernels import Kernels

GROUPS = 256
"""A row's maxima are taken over so many strided groups: an instruction compares 16 groups at a time."""
RUN = 64
"""So many numbers are compared together."""
PIECES = 4
"""Work is cut into so many pieces per thread, as they are not equally heavy."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays; sums may be reordered, always in the same way.

    Args:
        function: numba cannot see through a wrapper (a type checker's, in the tests), so it is taken off.
    """
    return njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})(unwrap(function))


@compiled
def _kth(values: np.ndarray, k: int) -> Any:
    """The k-th largest (Hoare's quickselect); the values are moved about."""
    low, high = 0, values.shape[0] - 1
    while low < high:
        pivot, i, j = values[(low + high) >> 1], low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    return values[k - 1]


@compiled
def _maxima(row: np.ndarray, top: np.ndarray) -> None:
    """The maximum of each strided group: group g is g, g + groups, g + 2 groups..."""
    groups = top.shape[0]
    top[:] = row[:groups]
    for start in range(groups, row.shape[0], groups):
        part = row[start : start + groups]
        for group in range(part.shape[0]):
            top[group] = max(top[group], part[group])


@compiled
def _reach(row: np.ndarray, least: Any, hits: np.ndarray) -> Any:
    """The places of numbers of at least `least`, and how many; most runs of 64 have none, which a count tells fast."""
    place = 0
    for start in range(0, row.shape[0], RUN):
        part, some = row[start : start + RUN], 0
        for i in range(part.shape[0]):
            some += part[i] >= least
        if some:
            for i in range(part.shape[0]):
                if part[i] >= least:
                    hits[place] = start + i
                    place += 1
    return place


@compiled
def _largest(pre: np.ndarray, k: int, groups: int, out: np.ndarray, first: int, last: int) -> None:
    """The k-th largest maximum of the groups is at most the k-th largest of all, and few lie between."""
    top, work, hits = np.empty(groups, pre.dtype), pre[0].copy(), np.empty(pre.shape[1], np.int64)
    for token in range(first, last):
        row = pre[token]
        _maxima(row, top)
        count = _reach(row, _kth(top, k), hits)
        for i in range(count):
            work[i] = row[hits[i]]
        cut, ties, place = _kth(work[:count], k), k, 0
        for i in range(count):
            ties -= row[hits[i]] > cut
        for i in range(count):
            value = row[hits[i]]
            if place < k and (value > cut or (value == cut and ties > 0)):
                ties -= value == cut
                out[token, place] = hits[i]
                place += 1


@compiled
def _above(pre: np.ndarray, floor: np.ndarray, hits: np.ndarray, counts: np.ndarray, first: int, last: int) -> None:
    """As `_reach`, for a floor of each latent."""
    d_latent = pre.shape[1]
    place = first * d_latent
    for token in range(first, last):
        row, before = pre[token], place
        for start in range(0, d_latent, RUN):
            part, under, some = row[start : start + RUN], floor[start : start + RUN], 0
            for i in range(part.shape[0]):
                some += part[i] > under[i]
            if some:
                for i in range(part.shape[0]):
                    if part[i] > under[i]:
                        hits[place] = start + i
                        place += 1
        counts[token] = place - before


@compiled
def _ordered(bits: np.ndarray, keys: np.ndarray) -> None:
    """Bits of bfloat16 numbers as integers of the same order."""
    for row in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            keys[row, i] = bits[row, i] ^ ((bits[row, i] >> 15) & 0x7FFF)


@compiled
def _transpose(indices: np.ndarray, places: np.ndarray, order: np.ndarray) -> None:
    for entry in range(indices.shape[0]):
        row = indices[entry]
        order[places[row]] = entry
        places[row] += 1


@compiled
def _total(
    starts: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    out: np.ndarray,
    first: int,
    last: int,
) -> None:
    for bag in range(first, last):
        line = out[bag]
        for entry in range(starts[bag], starts[bag + 1]):
            value, row = values[entry], rows[indices[entry]]
            for i in range(line.shape[0]):
                line[i] += value * row[i]


@compiled
def _dots(
    starts: np.ndarray, indices: np.ndarray, bags: np.ndarray, rows: np.ndarray, out: np.ndarray, first: int, last: int
) -> None:
    for bag in range(first, last):
        line = bags[bag]
        for entry in range(starts[bag], starts[bag + 1]):
            row = rows[indices[entry]]
            product = row.dtype.type(0)
            for i in range(line.shape[0]):
                product += line[i] * row[i]
            out[entry] = product


@final
class NumbaKernels(Kernels):
    """Kernels that numba compiles."""

    name: ClassVar[str] = "numba"

    def largest(self, pre: Float[Tensor, "token latent"], k: int) -> Int[Tensor, "token k"]:
        """By the maxima of strided groups, at most k of which hold any of the k largest."""
        out = torch.zeros(len(pre), k, dtype=torch.long)  # numbers that are not finite may leave places unfilled
        _parallel(_largest, len(pre), _comparable(pre), k, max(min(GROUPS, pre.shape[1]), k), out.numpy())
        return out

    def above(
        self, pre: Float[Tensor, "token latent"], floor: Float[Tensor, " latent"]
    ) -> tuple[Int[Tensor, " token"], Int[Tensor, " entry"]]:
        """In one pass, into memory that is only used where something is found."""
        tokens, d_latent = pre.shape
        hits, counts = np.empty(tokens * d_latent, np.int64), np.empty(tokens, np.int64)
        pieces = _parallel(_above, tokens, _comparable(pre), _comparable(_lower(floor, pre.dtype)), hits, counts)
        places = [hits[first * d_latent :][: counts[first:last].sum()] for first, last in pieces]
        return torch.from_numpy(counts), torch.from_numpy(np.concatenate(places))

    def transpose(
        self, indices: Int[Tensor, " entry"], rows: int
    ) -> tuple[Int[Tensor, " entry"], Int[Tensor, " starts"]]:
        """By counting."""
        starts = torch.zeros(rows + 1, dtype=torch.long)
        torch.cumsum(torch.bincount(indices, minlength=rows), 0, out=starts[1:])
        order = torch.empty_like(indices)
        _transpose(indices.numpy(), starts[:-1].clone().numpy(), order.numpy())
        return order, starts

    def total(self, starts: Tensor, indices: Tensor, values: Tensor, rows: Tensor, out: Tensor) -> None:
        """Row by row onto a bag that stays in the cache."""
        _parallel(_total, len(out), starts.numpy(), indices.numpy(), values.numpy(), rows.numpy(), out.numpy())

    def dots(self, starts: Tensor, indices: Tensor, bags: Tensor, rows: Tensor) -> Float[Tensor, " entry"]:
        """Row by row against a bag that stays in the cache."""
        out = rows.new_empty(len(indices))
        _parallel(_dots, len(bags), starts.numpy(), indices.numpy(), bags.numpy(), rows.numpy(), out.numpy())
        return out


def _comparable(values: Tensor) -> np.ndarray:
    """Numbers that numba can compare, in the same order."""
    if values.dtype is not torch.bfloat16:
        return values.numpy()
    bits = values.view(torch.int16)
    keys = torch.empty_like(bits)
    _ordered(np.atleast_2d(bits.numpy()), np.atleast_2d(keys.numpy()))
    return keys.numpy()


def _lower(floor: Tensor, kind: torch.dtype) -> Tensor:
    """The floor in another precision, rounded down, so that the same numbers of that precision lie above it."""
    near = floor.to(kind)
    return torch.where(near > floor, near.nextafter(near.new_tensor(-torch.inf)), near)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="glassworks")


def _parallel(kernel: Callable[..., None], count: int, *arguments: Any) -> list[tuple[int, int]]:
    """Run a kernel on ranges that together are 0 to count, at the same time, and say which."""
    threads = torch.get_num_threads()
    pieces = 1 if threads == 1 else threads * PIECES
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    ranges = list(pairwise(bounds))
    if threads == 1:
        kernel(*arguments, 0, count)
    else:
        list(_threads(threads).map(lambda ends: kernel(*arguments, *ends), ranges))
    return ranges
