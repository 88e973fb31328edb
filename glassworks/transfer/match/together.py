"""Together: how features of two dictionaries go together over a text, pair by pair.

Of millions of pairs few are ever active at the same token, so only those have a sum. A search keeps them all; once
pairs are chosen, a trial sums these alone, by block of text, on text that the search never saw, so that a pair's
correlation is not the luck of having been chosen. This module must not know where features come from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.coders import Latents

Interval = tuple[float, float, float]
"""A figure over all of a text, and the ends of its 95 % interval over texts drawn anew from its blocks."""
PAIRS = 1 << 22
"""Pairs of active entries that are held at a time."""
BLOCKS = 24
"""Parts of the text that are drawn anew for intervals."""
DRAWS = 200
LEVEL = 0.95
COLUMNS = 1 << 14
"""Pairs whose correlations are drawn at a time."""


@final
class Search:
    """Sums over tokens of all pairs that were ever active together.

    Args:
        width_a: features of one dictionary.
        width_b: of the other.

    Attributes:
        rows: tokens seen.
        a: count, sum and sum of squares of each feature.
        b: the same of the other dictionary.
    """

    def __init__(self, width_a: int, width_b: int) -> None:
        self.rows = 0
        self.a, self.b = (torch.zeros(3, width, dtype=torch.float64) for width in (width_a, width_b))
        self._merged = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.float64))
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, a: Latents, b: Latents) -> None:
        """Take in the features of the same tokens."""
        self.rows += a.tokens
        self.a += moments(a)
        self.b += moments(b)
        for left, right in coincidences(a, b):
            keys = a.indices[left] * b.d_latent + b.indices[right]
            self._waiting.append(_summed(keys, a.values[left].double() * b.values[right].double()))
        if sum(len(keys) for keys, _ in self._waiting) > max(PAIRS, len(self._merged[0])):
            self._merge()

    @property
    def products(self) -> "Products":
        """All pairs, in the order of their numbers."""
        self._merge()
        keys, sums = self._merged
        left, right = keys // self.b.shape[1], keys % self.b.shape[1]
        stack = torch.stack([self.a[1:, left], self.b[1:, right]])
        found = pearson(torch.tensor(float(self.rows)), stack[0, 0], stack[1, 0], stack[0, 1], stack[1, 1], sums)
        return Products(left, right, found)

    def _merge(self) -> None:
        parts = [self._merged, *self._waiting]
        self._merged = _summed(torch.cat([keys for keys, _ in parts]), torch.cat([sums for _, sums in parts]))
        self._waiting = []


@final
@dataclass(frozen=True, eq=False)
class Products:
    """Pairs of features and their correlation.

    Attributes:
        left: feature of the first dictionary.
        right: feature of the second.
        r: Pearson's correlation of their activations over all tokens, silent ones included.
    """

    left: Int[Tensor, " pair"]
    right: Int[Tensor, " pair"]
    r: Float[Tensor, " pair"]

    @property
    def swapped(self) -> "Products":
        """The same with the dictionaries in each other's place."""
        return Products(self.right, self.left, self.r)

    def best(
        self, width: int, home: Int[Tensor, " feature"], homes: int
    ) -> tuple[Int[Tensor, "width home"], Int[Tensor, " width"]]:
        """The partner that goes best with each feature, in each coder of the other dictionary and in all; -1 for none.

        Args:
            width: features of the first dictionary.
            home: coder of each feature of the second.
            homes: how many coders that has.
        """
        group = self.left * homes + home[self.right]
        most = self.r.new_full((width * homes,), -2.0).scatter_reduce(0, group, self.r, "amax")
        first = (self.r == most[group]) & (self.r > 0)
        found = torch.full((width * homes,), -1).scatter_reduce(0, group[first], self.right[first], "amax")
        by_home = found.reshape(width, homes)
        return by_home, by_home.gather(1, most.reshape(width, homes).argmax(1, keepdim=True))[:, 0]

    def one_to_one(self, width_a: int, width_b: int) -> Int[Tensor, " width_a"]:
        """Each feature's partner where every feature has one at most; -1 for none.

        Pairs are made from the highest correlation down, so no two features that both prefer each other to their
        partners are left apart (a stable matching; Gale and Shapley 1962).
        """
        found = torch.full((width_a,), -1)
        left, right, r = (each[self.r > 0] for each in (self.left, self.right, self.r))
        while len(left):
            mine = r.new_full((width_a,), -2.0).scatter_reduce(0, left, r, "amax")
            other = r.new_full((width_b,), -2.0).scatter_reduce(0, right, r, "amax")
            mutual = (r == mine[left]) & (r == other[right])
            some = torch.full((width_a,), -1).scatter_reduce(0, left[mutual], right[mutual], "amax")
            some = _once(some, width_b)
            found = torch.where(some >= 0, some, found)
            taken = torch.zeros(width_b, dtype=torch.bool)
            taken[some[some >= 0]] = True
            rest = (found[left] < 0) & ~taken[right]
            left, right, r = left[rest], right[rest], r[rest]
        return found


@final
class Trial:
    """Sums of chosen pairs, by block of text.

    Args:
        left: feature of the first dictionary, pair by pair.
        right: feature of the second.
        width_a: features of the first.
        width_b: features of the second.
    """

    def __init__(self, left: Int[Tensor, " pair"], right: Int[Tensor, " pair"], width_a: int, width_b: int) -> None:
        self.widths = (width_a, width_b)
        self.keys, self._number = (left * width_b + right).unique(return_inverse=True)
        self.rows = torch.zeros(BLOCKS, dtype=torch.float64)
        self.sums = tuple(torch.zeros(2, BLOCKS * width, dtype=torch.float64) for width in self.widths)
        self.products = torch.zeros(BLOCKS * len(self.keys), dtype=torch.float64)
        self.counts = tuple(torch.zeros(width, dtype=torch.long) for width in self.widths)

    def add(self, a: Latents, b: Latents, blocks: Int[Tensor, " token"]) -> None:
        """Take in the features of the same tokens, each of which belongs to a block."""
        self.rows += torch.bincount(blocks, minlength=BLOCKS)
        for side, sums, counts in zip((a, b), self.sums, self.counts, strict=True):
            place, values = blocks[side.positions] * side.d_latent + side.indices, side.values.double()
            sums.index_add_(1, place, torch.stack([values, values * values]))
            counts += torch.bincount(side.indices, minlength=side.d_latent)
        if not len(self.keys):
            return
        for left, right in coincidences(a, b):
            keys = a.indices[left] * self.widths[1] + b.indices[right]
            number = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
            kept = self.keys[number] == keys
            values = (a.values[left].double() * b.values[right].double())[kept]
            block = blocks[a.positions[left]][kept]
            self.products.index_add_(0, block * len(self.keys) + number[kept], values)

    def correlations(
        self, left: Int[Tensor, " pair"], right: Int[Tensor, " pair"], seed: int = 0
    ) -> Float[Tensor, "draw pair"]:
        """Correlations of pairs that were given: first over all of the text, then over texts drawn anew from it.

        Args:
            left: feature of the first dictionary; -1 (no pair) has the correlation 0.
            right: feature of the second.
            seed: of the drawing.
        """
        weights = draws(self.rows, seed)
        parts = [
            self._correlations(weights, *each) for each in zip(left.split(COLUMNS), right.split(COLUMNS), strict=True)
        ]
        return torch.cat(parts, 1) if parts else torch.zeros(len(weights), 0)

    def _correlations(self, weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
        none = (left < 0) | (right < 0)
        left, right = left.clamp(min=0), right.clamp(min=0)
        keys = left * self.widths[1] + right
        number = torch.searchsorted(self.keys, keys).clamp(max=max(len(self.keys) - 1, 0))
        assert bool(((self.keys[number] == keys) | none).all()) if len(self.keys) else bool(none.all())
        if not len(self.keys):
            return torch.zeros(len(weights), len(left))
        x, xx = (weights @ each.view(BLOCKS, -1)[:, left] for each in self.sums[0])
        y, yy = (weights @ each.view(BLOCKS, -1)[:, right] for each in self.sums[1])
        xy = weights @ self.products.view(BLOCKS, -1)[:, number]
        return pearson((weights @ self.rows)[:, None], x, y, xx, yy, xy).masked_fill(none, 0.0).float()


def coincidences(
    a: Latents, b: Latents, most: int = PAIRS
) -> Iterator[tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]]:
    """Pairs of entries that are active at the same token, some at a time.

    Args:
        a: features of some tokens.
        b: other features of the same tokens.
        most: pairs at a time, about.

    Yields:
        Numbers of entries of `a` and of `b`.
    """
    per_entry = b.counts[a.positions]
    first = (b.counts.cumsum(0) - b.counts)[a.positions]
    part = per_entry.cumsum(0) // max(most, 1)
    for group in torch.split(torch.arange(len(part)), torch.unique_consecutive(part, return_counts=True)[1].tolist()):
        times = per_entry[group]
        left = group.repeat_interleave(times)
        within = torch.arange(len(left)) - (times.cumsum(0) - times).repeat_interleave(times)
        yield left, first[left] + within


def moments(latents: Latents) -> Float[Tensor, "3 feature"]:
    """Count, sum and sum of squares of each feature."""
    values = latents.values.double()
    columns = torch.stack([torch.ones_like(values), values, values * values])
    return torch.zeros(3, latents.d_latent, dtype=torch.float64).index_add_(1, latents.indices, columns)


def pearson(n: Tensor, x: Tensor, y: Tensor, xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """Pearson's correlation from sums over n tokens; 0 where one side does not vary."""
    spread = ((n * xx - x * x).clamp(min=0) * (n * yy - y * y).clamp(min=0)).sqrt()
    varies = spread > 1e-12 * n * n * (xx * yy).sqrt()
    return torch.where(varies, (n * xy - x * y) / spread.clamp(min=1e-300), 0.0).clamp(-1, 1)


def draws(rows: Float[Tensor, " block"], seed: int = 0) -> Float[Tensor, "draw block"]:
    """How often each block counts: once, and then in `DRAWS` texts that are drawn from the blocks that hold any."""
    held = rows.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chosen = held[torch.randint(max(len(held), 1), (DRAWS, len(held)), generator=generator)]
    counts = torch.zeros(DRAWS, len(rows), dtype=torch.float64)
    counts.scatter_add_(1, chosen, torch.ones(chosen.shape, dtype=torch.float64))
    return torch.cat([torch.ones(1, len(rows), dtype=torch.float64), counts])


def interval(found: Float[Tensor, " draw"], floor: int | float = -torch.inf, top: int | float = torch.inf) -> Interval:
    """A figure over the whole text with its 95 % interval; see `ends`.

    Args:
        found: over the whole text, then over the drawn ones.
        floor: what the figure cannot fall below.
        top: what it cannot exceed.
    """
    low, high = ends(found[:, None])
    return float(found[0]), float(max(low, floor)), float(min(high, top))


def ends(found: Float[Tensor, "draw feature"]) -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """The ends of 95 % intervals, feature by feature: percentiles of the draws, centred on the figure itself.

    A drawn text holds fewer different documents than the whole one, which moves the correlations of rare features; the
    centring takes that out.

    Args:
        found: over the whole text, then over the drawn ones.
    """
    whole, ordered = found[0], found[1:].sort(0).values
    low = int((1 - LEVEL) / 2 * (len(ordered) - 1))
    shift = whole - ordered[len(ordered) // 2]
    return torch.minimum(ordered[low] + shift, whole), torch.maximum(ordered[len(ordered) - 1 - low] + shift, whole)


def _summed(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Each key once, with the sum of its values."""
    unique, place = keys.unique(return_inverse=True)
    return unique, torch.zeros(len(unique), dtype=torch.float64).index_add_(0, place, values)


def _once(partners: Int[Tensor, " a"], width: int) -> Int[Tensor, " a"]:
    """Partners of which each stands once: where correlations are equal, the first feature keeps it."""
    mine = torch.arange(len(partners))
    known = partners >= 0
    owner = torch.full((width,), len(partners)).scatter_reduce(0, partners[known], mine[known], "amin")
    kept = known & (owner[partners.clamp(min=0)] == mine)
    return torch.where(kept, partners, -1)
