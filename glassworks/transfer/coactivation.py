"""Coactivation: correlations of the features of two dictionaries over a text, pair by pair.

Of millions of pairs few are ever active at the same token, so only those have a sum. A search keeps them all; once
pairs are chosen, `PairSums` adds up these alone, by block of text, on text that the search never saw, so that a pair's
correlation is not biased by having been chosen. Intervals redraw the blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks import stats
from glassworks.coders import Latents
from glassworks.stats import LEVEL, Estimate

Interval = tuple[float, float, float]
"""A figure over all of a text, and the ends of its 95 % interval over texts drawn anew from its blocks."""
PAIRS = 1 << 22
"""Pairs of active entries that are held at a time."""
BLOCKS = 24
"""Parts of the text that are drawn anew for intervals."""
DRAWS = 200
"""Redrawn texts, of which every feature has its own figures."""
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
        for sums, latents in ((self.a, a), (self.b, b)):
            values = latents.values.double()
            sums.index_add_(1, latents.indices, torch.stack([torch.ones_like(values), values, values * values]))
        for left, right in coincidences(a, b):
            keys = a.indices[left] * b.d_latent + b.indices[right]
            self._waiting.append(_summed(keys, a.values[left].double() * b.values[right].double()))
        if sum(len(keys) for keys, _ in self._waiting) > max(PAIRS, len(self._merged[0])):
            self._merge()

    @property
    def pairs(self) -> "PairCorrelations":
        """All pairs, in the order of their numbers."""
        self._merge()
        keys, sums = self._merged
        left, right = keys // self.b.shape[1], keys % self.b.shape[1]
        stack = torch.stack([self.a[1:, left], self.b[1:, right]])
        r = correlate(torch.tensor(float(self.rows)), stack[0, 0], stack[1, 0], stack[0, 1], stack[1, 1], sums)
        return PairCorrelations(left, right, r)

    def _merge(self) -> None:
        parts = [self._merged, *self._waiting]
        self._merged = _summed(torch.cat([keys for keys, _ in parts]), torch.cat([sums for _, sums in parts]))
        self._waiting = []


@final
@dataclass(frozen=True, eq=False)
class PairCorrelations:
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
    def swapped(self) -> "PairCorrelations":
        """The same with the dictionaries in each other's place."""
        return PairCorrelations(self.right, self.left, self.r)

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
        best = torch.full((width * homes,), -1).scatter_reduce(0, group[first], self.right[first], "amax")
        by_home = best.reshape(width, homes)
        return by_home, by_home.gather(1, most.reshape(width, homes).argmax(1, keepdim=True))[:, 0]

    def one_to_one(self, width_a: int, width_b: int) -> Int[Tensor, " width_a"]:
        """Each feature's partner where every feature has one at most; -1 for none.

        Pairs are made from the highest correlation down, so no two features that both prefer each other to their
        partners are left apart (a stable matching; Gale and Shapley 1962).
        """
        partner = torch.full((width_a,), -1)
        left, right, r = (values[self.r > 0] for values in (self.left, self.right, self.r))
        while len(left):
            mine = r.new_full((width_a,), -2.0).scatter_reduce(0, left, r, "amax")
            other = r.new_full((width_b,), -2.0).scatter_reduce(0, right, r, "amax")
            mutual = (r == mine[left]) & (r == other[right])
            chosen = torch.full((width_a,), -1).scatter_reduce(0, left[mutual], right[mutual], "amax")
            # Where correlations are equal, several features may have chosen one partner: the first keeps it.
            known = (chosen >= 0).nonzero()[:, 0]
            owner = torch.full((width_b,), width_a).scatter_reduce(0, chosen[known], known, "amin")
            kept = known[owner[chosen[known]] == known]
            partner[kept] = chosen[kept]
            taken = torch.zeros(width_b, dtype=torch.bool)
            taken[chosen[kept]] = True
            rest = (partner[left] < 0) & ~taken[right]
            left, right, r = left[rest], right[rest], r[rest]
        return partner


@final
class PairSums:
    """Sums of chosen pairs, by block of text.

    Args:
        left: feature of the first dictionary, pair by pair.
        right: feature of the second.
        width_a: features of the first.
        width_b: features of the second.
    """

    def __init__(self, left: Int[Tensor, " pair"], right: Int[Tensor, " pair"], width_a: int, width_b: int) -> None:
        self.widths = (width_a, width_b)
        self.keys = (left * width_b + right).unique()
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
        weights = block_draws(self.rows, seed)
        parts = [
            self._correlations(weights, *part) for part in zip(left.split(COLUMNS), right.split(COLUMNS), strict=True)
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
        x, xx = (weights @ part.view(BLOCKS, -1)[:, left] for part in self.sums[0])
        y, yy = (weights @ part.view(BLOCKS, -1)[:, right] for part in self.sums[1])
        xy = weights @ self.products.view(BLOCKS, -1)[:, number]
        return correlate((weights @ self.rows)[:, None], x, y, xx, yy, xy).masked_fill(none, 0.0).float()


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


def correlate(n: Tensor, x: Tensor, y: Tensor, xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """Pearson's correlation from sums over n tokens; 0 where one side does not vary."""
    sums = torch.stack(torch.broadcast_tensors(n, x, y, xx, yy, xy), -1)
    return stats.pearson(sums.reshape(-1, 6))[0].nan_to_num(0.0).reshape(sums.shape[:-1])


def block_draws(rows: Float[Tensor, " block"], seed: int = 0) -> Float[Tensor, "draw block"]:
    """How often each block counts: once, and then in `DRAWS` texts that are drawn from the blocks that hold any."""
    held = rows.nonzero()[:, 0]
    counts = torch.cat([*stats.draws(len(held), seed)])[: DRAWS + 1]
    return torch.zeros(len(counts), len(rows), dtype=torch.float64).index_copy_(1, held, counts)


def interval(drawn: Float[Tensor, " draw"], floor: int | float = -torch.inf, top: int | float = torch.inf) -> Interval:
    """A figure over the whole text with its 95 % interval; see `ends`.

    Args:
        drawn: over the whole text, then over the drawn ones.
        floor: what the figure cannot fall below.
        top: what it cannot exceed.
    """
    low, high = ends(drawn[:, None])
    return float(drawn[0]), float(max(low, floor)), float(min(high, top))


def as_interval(estimate: Estimate) -> Interval:
    """An estimate as value and ends; 0 where there is nothing to estimate, and no width where nothing was resampled."""
    value = 0.0 if isnan(estimate.value) else estimate.value
    low, high = (value if isnan(end) else end for end in estimate.ends)
    return value, low, high


def ends(drawn: Float[Tensor, "draw feature"]) -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """The ends of 95 % intervals, feature by feature: percentiles of the draws, centred on the figure itself.

    A drawn text holds fewer different documents than the whole one, which moves the correlations of rare features; the
    centring takes that out.

    Args:
        drawn: over the whole text, then over the drawn ones.
    """
    whole, ordered = drawn[0], drawn[1:].sort(0).values
    low = int((1 - LEVEL) / 2 * (len(ordered) - 1))
    shift = whole - ordered[len(ordered) // 2]
    return torch.minimum(ordered[low] + shift, whole), torch.maximum(ordered[len(ordered) - 1 - low] + shift, whole)


def _summed(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Each key once, with the sum of its values."""
    unique, place = keys.unique(return_inverse=True)
    return unique, torch.zeros(len(unique), dtype=torch.float64).index_add_(0, place, values)
