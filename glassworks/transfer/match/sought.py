"""Sought: which features of one dictionary another one has, and how sure that is.

The null is a dictionary of random features that are active as often, where the same feature finds a partner in the
same way. A feature is found where its correlation, on text that did not choose the partner, exceeds that with the best
random feature by more than a second random dictionary does for 95 % of the features: so of the features of a random
coder 5 % are "found". This module must not know models or texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.transfer.match.dictionary import Dictionary
from glassworks.transfer.match.together import LEVEL, Interval, ends, interval

LARGEST = 1 - 1e-6
STRONG = 0.7
"""Correlation from which a match is called strong."""

Measure = Callable[[Int[Tensor, " pair"], Int[Tensor, " pair"]], Float[Tensor, "draw pair"]]
"""Correlations of features with partners: over the whole text, and over drawn ones."""


@final
@dataclass(frozen=True, eq=False)
class Partners:
    """The best partners of all features of a dictionary, chosen on one half of the text.

    Attributes:
        by_coder: in each coder of the other dictionary; -1 where none was ever active together with the feature.
        best: in all of them.
        dealt: the same, dealt out at random among features that can be judged.
        measure: their correlations on the other half.
    """

    by_coder: Int[Tensor, "feature coder"]
    best: Int[Tensor, " feature"]
    dealt: Int[Tensor, " feature"]
    measure: Measure


@final
@dataclass(frozen=True)
class Row:
    """What became of one coder's features, or of all.

    Attributes:
        coder: its name, or `all`.
        alive: how many features were active often enough on both halves of the text to be judged.
        silent: how many were not.
        found: share of the alive ones that are found.
        strong: share with a correlation of at least 0.7.
        r: mean correlation with the partner.
        chance: mean correlation with the best of the random features.
        margin: by how much Fisher's z of the correlation must exceed that with the best random feature.
        dealt: mean correlation where partners are dealt out at random.
    """

    coder: str
    alive: int
    silent: int
    found: Interval
    strong: Interval
    r: Interval
    chance: float
    margin: float
    dealt: float


@final
@dataclass(frozen=True, eq=False)
class Places:
    """The features of one dictionary, sought in each coder of another by itself.

    Attributes:
        partner: the best partner there; -1 for none.
        r: its correlation on text that did not choose it.
        found: whether that exceeds chance in this coder.
        shares: share of each coder's features that are found in each coder of the other dictionary.
    """

    partner: Int[Tensor, "feature coder"]
    r: Float[Tensor, "feature coder"]
    found: Bool[Tensor, "feature coder"]
    shares: tuple[tuple[Interval, ...], ...]


@final
@dataclass(frozen=True, eq=False)
class Sought:
    """The features of one dictionary, sought in another.

    Attributes:
        home: whose features.
        other: where they are sought.
        alive: which features could be judged.
        partner: the best partner of each; -1 for none.
        r: its correlation on text that did not choose it.
        span: the ends of its 95 % interval.
        chance: correlation with the best random feature.
        found: whether `r` exceeds chance.
        places: the same in each coder of the other dictionary.
        rows: figures of each coder, and of all.
    """

    home: Dictionary
    other: Dictionary
    alive: Bool[Tensor, " feature"]
    partner: Int[Tensor, " feature"]
    r: Float[Tensor, " feature"]
    span: Float[Tensor, "2 feature"]
    chance: Float[Tensor, " feature"]
    found: Bool[Tensor, " feature"]
    places: Places
    rows: tuple[Row, ...]

    @property
    def whole(self) -> Row:
        """The figures of all features."""
        return self.rows[-1]

    def matches(self, most: int | None = None, found: bool = True) -> list[dict[str, Any]]:
        """Features as records, those found with the highest correlation first, or those not found.

        Args:
            most: how many, all by default.
            found: which of the two.
        """
        chosen = (self.alive & (self.found if found else ~self.found)).nonzero()[:, 0]
        order = chosen[self.r[chosen].argsort(descending=found, stable=True)]
        return [self.match(int(each)) for each in order[:most]]

    def match(self, feature: int) -> dict[str, Any]:
        """One feature, its partner and their correlation."""
        partner = int(self.partner[feature])
        return {
            "feature": self.home.name(feature),
            "label": self.home.label(feature),
            "partner": self.other.name(partner) if partner >= 0 else None,
            "partner_label": self.other.label(partner) if partner >= 0 else "",
            "r": round(float(self.r[feature]), 4),
            "low": round(float(self.span[0, feature]), 4),
            "high": round(float(self.span[1, feature]), 4),
        }


def seek(
    home: Dictionary,
    other: Dictionary,
    alive: Bool[Tensor, " feature"],
    real: Partners,
    nulls: tuple[Partners, Partners],
) -> Sought:
    """Judge partners against the best partners among random features.

    Args:
        home: whose features are sought.
        other: where.
        alive: which can be judged.
        real: their partners there.
        nulls: their partners in two random twins of the other dictionary.
    """
    everyone = torch.arange(home.width)
    coders = [alive & (home.home == number) for number in range(len(home.names))]
    r, chance, again = (each.measure(everyone, each.best) for each in (real, *nulls))
    dealt = real.measure(everyone, real.dealt)
    found, bars = _exceeds(r, chance, again, coders, home)
    margins = [*bars[0].tolist(), float(bars[0].mean())]
    names, sizes = [*home.names, "all"], [*torch.bincount(home.home).tolist(), home.width]
    rows = tuple(
        _row(name, size, margin, (r, found, chance, dealt), mine)
        for name, size, margin, mine in zip(names, sizes, margins, (*coders, alive), strict=True)
    )
    span, places = torch.stack(ends(r)).clamp(-1, 1), _places(home, coders, real, nulls)
    return Sought(home, other, alive, real.best, r[0], span, chance[0], found[0], places, rows)


def deal(partners: Int[Tensor, " feature"], alive: Bool[Tensor, " feature"], seed: int) -> Int[Tensor, " feature"]:
    """Deal the partners of alive features out among them at random."""
    dealt, there = partners.clone(), (alive & (partners >= 0)).nonzero()[:, 0]
    dealt[there] = partners[there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))]]
    return dealt


def upper(found: Float[Tensor, "draw feature"]) -> Float[Tensor, " draw"]:
    """The 95 % quantile over features, draw by draw; infinity, which nothing exceeds, where there are none."""
    if not found.shape[1]:
        return found.new_full((len(found),), torch.inf)
    return found.kthvalue(min(found.shape[1], ceil(LEVEL * found.shape[1])), 1).values


def fisher(r: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """Fisher's z of correlations, which spreads alike wherever they lie (Fisher 1915)."""
    return r.clamp(-LARGEST, LARGEST).atanh()


def _exceeds(
    r: Tensor, chance: Tensor, again: Tensor, coders: Sequence[Bool[Tensor, " feature"]], home: Dictionary
) -> tuple[Bool[Tensor, "draw feature"], Float[Tensor, "draw coder"]]:
    """Which features exceed chance by more than chance itself does, and the margin of each coder."""
    base = fisher(chance)
    excess, noise = fisher(r) - base, fisher(again) - base
    bars = torch.stack([upper(noise[:, mine]) for mine in coders], 1)
    return (excess > bars[:, home.home]) & torch.stack([*coders]).any(0), bars


def _places(home: Dictionary, coders: Sequence[Tensor], real: Partners, nulls: tuple[Partners, Partners]) -> Places:
    everyone, held, columns, shares = torch.arange(home.width), [], [], []
    for number in range(real.by_coder.shape[1]):
        r, chance, again = (each.measure(everyone, each.by_coder[:, number]) for each in (real, *nulls))
        found, _ = _exceeds(r, chance, again, coders, home)
        held.append(r[0])
        columns.append(found[0])
        shares.append([_mean(found.double(), mine) for mine in coders])
    return Places(
        real.by_coder,
        torch.stack(held, 1),
        torch.stack(columns, 1),
        tuple(tuple(each) for each in zip(*shares, strict=True)),
    )


def _row(name: str, size: int, margin: float, figures: tuple[Tensor, Tensor, Tensor, Tensor], mine: Tensor) -> Row:
    (r, found, chance, dealt), alive = figures, int(mine.sum())
    return Row(
        coder=name,
        alive=alive,
        silent=size - alive,
        found=_mean(found.double(), mine),
        strong=_mean((r >= STRONG).double(), mine),
        r=_mean(r.double(), mine, -1),
        chance=_mean(chance.double(), mine)[0],
        margin=margin,
        dealt=_mean(dealt.double(), mine)[0],
    )


def _mean(values: Float[Tensor, "draw feature"], mine: Bool[Tensor, " feature"], floor: int = 0) -> Interval:
    """Mean over some features, with its interval; 0 where there are none."""
    return interval(values[:, mine].mean(1), floor, 1) if mine.any() else (0.0, 0.0, 0.0)
