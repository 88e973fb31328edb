"""Match: which features of one model exist in another, and how sure that is.

Both models read the same text. One half of it chooses every feature's partner by the correlation of their activations,
the other half measures that correlation. The null is a dictionary of random features that are active as often, where
the same feature gets a partner in the same way. A feature is found where its correlation exceeds the one with the best
random feature by more than a second random dictionary does for 95 % of the features: so of the features of a random
coder 5 % are "found".
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from math import ceil
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.coders import Latents, Scope
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.stats import LEVEL
from glassworks.transfer.coactivation import BLOCKS, Interval, PairSums, Search, ends, interval
from glassworks.transfer.dictionary import Dictionary
from glassworks.transfer.pairing import PairedStates, PairedText, TokenPairs, pair, paired_states

LEAST = 10
"""Tokens of each half of the text that a feature must be active on to be judged."""
SAMPLE = 8192
"""Rows that random features are drawn from."""
TEXTS = 256
"""Texts that are sorted by length and run together."""
LARGEST = 1 - 1e-6
STRONG = 0.7
"""Correlation from which a match is called strong."""
NULLS = "pqvw"
"""Random twins: of A's dictionary p and v, of B's q and w."""
COMPARED = ("ab", "aq", "aw", "bp", "bv")
"""Which dictionaries are compared: each model's own with the other's and with two random twins of the other's."""


@final
@dataclass(frozen=True)
class CoderSummary:
    """How the features of one coder, or of all, are matched.

    Attributes:
        coder: its name, or `all`.
        alive: how many features were active often enough on both halves of the text to be judged.
        silent: how many were not.
        found: share of the alive ones that are found.
        strong: share with a correlation of at least 0.7.
        r: mean correlation with the partner.
        chance: mean correlation with the best of the random features.
        margin: by how much Fisher's z of the correlation must exceed that with the best random feature.
        permuted: mean correlation where partners are permuted at random.
    """

    coder: str
    alive: int
    silent: int
    found: Interval
    strong: Interval
    r: Interval
    chance: float
    margin: float
    permuted: float


@final
@dataclass(frozen=True, eq=False)
class FeatureMatches:
    """The features of one dictionary, matched with those of another.

    Attributes:
        home: whose features.
        other: where their partners are.
        alive: which features could be judged.
        partner: the best partner of each; -1 for none.
        r: its correlation on text that did not choose it.
        span: the ends of its 95 % interval.
        chance: correlation with the best random feature.
        found: whether `r` exceeds chance.
        coder_partner: the best partner in each coder of the other dictionary by itself.
        coder_r: its correlation.
        coder_found: whether that exceeds chance in this coder.
        shares: share of each coder's features that are found in each coder of the other dictionary.
        summaries: figures of each coder, and of all.
    """

    home: Dictionary
    other: Dictionary
    alive: Bool[Tensor, " feature"]
    partner: Int[Tensor, " feature"]
    r: Float[Tensor, " feature"]
    span: Float[Tensor, "2 feature"]
    chance: Float[Tensor, " feature"]
    found: Bool[Tensor, " feature"]
    coder_partner: Int[Tensor, "feature coder"]
    coder_r: Float[Tensor, "feature coder"]
    coder_found: Bool[Tensor, "feature coder"]
    shares: tuple[tuple[Interval, ...], ...]
    summaries: tuple[CoderSummary, ...]

    @property
    def whole(self) -> CoderSummary:
        """The figures of all features."""
        return self.summaries[-1]

    def order(self, most: int | None = None, found: bool = True) -> list[int]:
        """Features that were found, with the highest correlation first, or those that were not, lowest first."""
        chosen = (self.alive & (self.found if found else ~self.found)).nonzero()[:, 0]
        return chosen[self.r[chosen].argsort(descending=found, stable=True)][:most].tolist()

    def matches(self, most: int | None = None, found: bool = True) -> list[dict[str, Any]]:
        """Features as records with partner and correlation, in the order of `order`.

        Args:
            most: how many, all by default.
            found: those that were found, or those that were not.
        """
        rows = []
        for feature in self.order(most, found):
            partner = int(self.partner[feature])
            row: dict[str, Any] = {"feature": self.home.name(feature), "label": self.home.label(feature)}
            row["partner"] = self.other.name(partner) if partner >= 0 else None
            row["partner_label"] = self.other.label(partner) if partner >= 0 else ""
            figures = {"r": self.r[feature], "low": self.span[0, feature], "high": self.span[1, feature]}
            rows.append(row | {name: round(float(value), 4) for name, value in figures.items()})
        return rows

    def plain(self) -> dict[str, Any]:
        """The figures as JSON values; the documented name of permuted partners is `dealt`."""
        coders = [asdict(row) for row in self.summaries]
        coders = [{"dealt" if name == "permuted" else name: row[name] for name in row} for row in coders]
        return {"coders": coders, "shares": self.shares, "of": self.home.names, "in": self.other.names}


@final
@dataclass(frozen=True, eq=False)
class Matching:
    """What the features of two models have in common.

    Attributes:
        a: name of model A.
        b: name of model B.
        rows: tokens of the half that chose partners, and of the half that measured them.
        forward: A's features in B.
        backward: B's features in A.
        one_to_one: the partner of each feature of A where every feature has one at most; -1 for none.
        one_r: its correlation on text that did not choose it.
    """

    a: str
    b: str
    rows: tuple[int, int]
    forward: FeatureMatches
    backward: FeatureMatches
    one_to_one: Int[Tensor, " feature"]
    one_r: Float[Tensor, " feature"]

    @property
    def mutual(self) -> Bool[Tensor, " feature"]:
        """Features of A that were found, and whose partner's partner they are."""
        partner = self.forward.partner.clamp(min=0)
        back = self.backward.partner[partner] == torch.arange(len(partner))
        return self.forward.found & back & (self.forward.partner >= 0)

    def plain(self) -> dict[str, Any]:
        """The figures as JSON values; features are listed by `FeatureMatches.matches`."""
        paired = (self.one_to_one >= 0) & self.forward.alive
        r = float(self.one_r[paired].mean()) if paired.any() else 0.0
        facts: dict[str, Any] = {"a": self.a, "b": self.b, "tokens": list(self.rows)}
        facts |= {"mutual": int(self.mutual.sum()), "one_to_one": {"pairs": int(paired.sum()), "r": r}}
        return facts | {"a_in_b": self.forward.plain(), "b_in_a": self.backward.plain()}


def match_features(
    a: Model, b: Model, scopes: tuple[Scope, Scope], texts: Iterable[PairedText], chosen: str = "", seed: int = 0
) -> Matching:
    """Find which features of A exist in B, and of B in A.

    Args:
        a: a model.
        b: another; its tokenizer may differ.
        scopes: A's coders and B's.
        texts: what both read, twenty documents at least, thousands better.
        chosen: which coders of both; see `Dictionary.of`.
        seed: of the halves and of what is random.

    Raises:
        BadInput: no shared text, or too little.
        NotFound: a scope has no such coders.
    """
    mine, other = (Dictionary.of(scope, chosen) for scope in scopes)
    choosing, measuring = (rows(a, b, half, mine.sites, other.sites) for half in text_halves(a, b, texts, seed))
    return replace(match_dictionaries(mine, other, choosing, measuring, seed), a=a.name, b=b.name)


def text_halves(
    a: Model, b: Model, texts: Iterable[PairedText], seed: int = 0
) -> tuple[list[TokenPairs], list[TokenPairs]]:
    """Pair texts and split them at random into two halves, each numbered from 0; BadInput for fewer than eight."""
    pairs = pair(a, b, texts)
    if len(pairs) < 8:
        raise BadInput(f"The text has {len(pairs)} documents; 8 at least are needed, half of them to check the other.")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = (
        [replace(pairs[place], document=number) for number, place in enumerate(part)]
        for part in (order[::2], order[1::2])
    )
    return first, second


def rows(
    a: Model, b: Model, pairs: Sequence[TokenPairs], sites_a: Sequence[Site], sites_b: Sequence[Site]
) -> Iterator[PairedStates]:
    """States of both models at some sites, in an order that does not depend on lengths; one model runs once."""
    one = a is b
    sites = (list(dict.fromkeys([*sites_a, *sites_b])), []) if one else (sites_a, sites_b)
    for start in range(0, len(pairs), TEXTS):
        for part in paired_states(a, b, pairs[start : start + TEXTS], *sites):
            yield replace(part, b=part.a) if one else part


@final
@dataclass(frozen=True, eq=False)
class _Partners:
    """The best partners of all features of a dictionary, chosen on one half of the text; -1 for none.

    Attributes:
        by_coder: in each coder of the other dictionary.
        best: in all of them.
        permuted: the best ones, permuted at random among the features that can be judged.
    """

    by_coder: Int[Tensor, "feature coder"]
    best: Int[Tensor, " feature"]
    permuted: Int[Tensor, " feature"]

    @property
    def pairs(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """All features with all of these partners, feature by feature."""
        columns = torch.cat([self.by_coder, self.permuted[:, None]], 1)
        return (columns >= 0).nonzero()[:, 0], columns[columns >= 0]


_Measure = Callable[[Int[Tensor, " feature"], Int[Tensor, " feature"]], Float[Tensor, "draw feature"]]
"""Correlations of features with partners: over the whole text, and over redrawn ones."""


@torch.no_grad()
def match_dictionaries(
    mine: Dictionary,
    other: Dictionary,
    choosing: Iterable[PairedStates],
    measuring: Iterable[PairedStates],
    seed: int = 0,
) -> Matching:
    """Match dictionaries on rows that belong together.

    Args:
        mine: features of A.
        other: features of B.
        choosing: rows that choose partners.
        measuring: other rows, of texts numbered from 0, that measure them.
        seed: of what is random.
    """
    sample, choosing = _sample(choosing)
    dictionaries = {"a": mine, "b": other}
    for number, (left, right) in enumerate((NULLS[:2], NULLS[2:])):
        dictionaries[left] = mine.twin(sample.a, seed + 2 * number)
        dictionaries[right] = other.twin(sample.b, seed + 2 * number + 1)
    widths = {side: dictionary.width for side, dictionary in dictionaries.items()}

    def encode_all(part: PairedStates) -> dict[str, Latents]:
        return {side: own.encode(part.a if side in "apv" else part.b) for side, own in dictionaries.items()}

    searches = {way: Search(widths[way[0]], widths[way[1]]) for way in COMPARED}
    for part in choosing:
        latents = encode_all(part)
        for way, search in searches.items():
            search.add(latents[way[0]], latents[way[1]])
    known = {way: search.pairs for way, search in searches.items()}
    known["ba"] = known["ab"].swapped
    alive = {"a": searches["ab"].a[0] >= LEAST, "b": searches["ab"].b[0] >= LEAST}
    partners = {}
    for way, pairs in known.items():
        home, target = dictionaries[way[0]], dictionaries[way[1]]
        by_coder, best = pairs.best(home.width, target.home, len(target.names))
        partners[way] = _Partners(by_coder, best, permute(best, alive[way[0]], seed))
    single = known["ab"].one_to_one(mine.width, other.width)

    paired = (single >= 0).nonzero()[:, 0]
    back, there = partners["ba"].pairs
    sums = {}
    for way in COMPARED:
        left, right = partners[way].pairs
        if way == "ab":
            left, right = torch.cat([left, there, paired]), torch.cat([right, back, single[paired]])
        sums[way] = PairSums(left, right, widths[way[0]], widths[way[1]])
    for part in measuring:
        latents, blocks = encode_all(part), part.documents % BLOCKS
        for way, pair_sums in sums.items():
            pair_sums.add(latents[way[0]], latents[way[1]], blocks)
    for number, side in enumerate("ab"):
        alive[side] = alive[side] & (sums["ab"].counts[number] >= LEAST)

    measures: dict[str, _Measure] = {way: pair_sums.correlations for way, pair_sums in sums.items()}
    measures["ba"] = lambda features, partner: sums["ab"].correlations(partner, features)
    forward, backward = (
        judge_matches(
            dictionaries[ways[0][0]],
            dictionaries[ways[0][1]],
            alive[ways[0][0]],
            [partners[way] for way in ways],
            [measures[way] for way in ways],
        )
        for ways in (("ab", "aq", "aw"), ("ba", "bp", "bv"))
    )
    one_r = sums["ab"].correlations(torch.arange(len(single)), single)[0]
    tokens = (searches["ab"].rows, int(sums["ab"].rows.sum()))
    return Matching("a", "b", tokens, forward, backward, single, one_r)


def judge_matches(
    home: Dictionary,
    other: Dictionary,
    alive: Bool[Tensor, " feature"],
    partners: Sequence[_Partners],
    measures: Sequence[_Measure],
) -> FeatureMatches:
    """Judge partners against the best partners among random features.

    Args:
        home: whose features are matched.
        other: where their partners are.
        alive: which features can be judged.
        partners: of the features in the other dictionary, and in two random twins of it.
        measures: what measures their correlations there.
    """
    everyone = torch.arange(home.width)
    masks = [alive & (home.home == number) for number in range(len(home.names))]

    def exceeds(r: Tensor, chance: Tensor, again: Tensor) -> tuple[Tensor, Tensor]:
        """Which features exceed chance by more than chance itself does, and the margin of each coder, draw by draw."""
        base = fisher(chance)
        excess, noise = fisher(r) - base, fisher(again) - base
        margins = torch.stack([upper(noise[:, mask]) for mask in masks], 1)
        return (excess > margins[:, home.home]) & torch.stack(masks).any(0), margins

    r, chance, again = (measure(everyone, some.best) for measure, some in zip(measures, partners, strict=True))
    found, margins = exceeds(r, chance, again)
    permuted = measures[0](everyone, partners[0].permuted)
    summaries = []
    names, sizes = [*home.names, "all"], [*torch.bincount(home.home).tolist(), home.width]
    marks = [*margins[0].tolist(), float(margins[0].mean())]
    for name, size, margin, mask in zip(names, sizes, marks, (*masks, alive), strict=True):
        summaries.append(
            CoderSummary(
                coder=name,
                alive=int(mask.sum()),
                silent=size - int(mask.sum()),
                found=mean_over(found.double(), mask),
                strong=mean_over((r >= STRONG).double(), mask),
                r=mean_over(r.double(), mask, -1),
                chance=mean_over(chance.double(), mask)[0],
                margin=margin,
                permuted=mean_over(permuted.double(), mask)[0],
            )
        )
    coder_r, coder_found, shares = [], [], []
    for number in range(partners[0].by_coder.shape[1]):
        values = [measure(everyone, some.by_coder[:, number]) for measure, some in zip(measures, partners, strict=True)]
        inside, _ = exceeds(*values)
        coder_r.append(values[0][0])
        coder_found.append(inside[0])
        shares.append([mean_over(inside.double(), mask) for mask in masks])
    return FeatureMatches(
        home=home,
        other=other,
        alive=alive,
        partner=partners[0].best,
        r=r[0],
        span=torch.stack(ends(r)).clamp(-1, 1),
        chance=chance[0],
        found=found[0],
        coder_partner=partners[0].by_coder,
        coder_r=torch.stack(coder_r, 1),
        coder_found=torch.stack(coder_found, 1),
        shares=tuple(zip(*shares, strict=True)),
        summaries=tuple(summaries),
    )


def permute(partners: Int[Tensor, " feature"], alive: Bool[Tensor, " feature"], seed: int) -> Int[Tensor, " feature"]:
    """Permute the partners of alive features among them at random."""
    permuted, there = partners.clone(), (alive & (partners >= 0)).nonzero()[:, 0]
    permuted[there] = partners[there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))]]
    return permuted


def upper(values: Float[Tensor, "draw feature"]) -> Float[Tensor, " draw"]:
    """The 95 % quantile over features, draw by draw; infinity, which nothing exceeds, where there are none."""
    if not values.shape[1]:
        return values.new_full((len(values),), torch.inf)
    return values.kthvalue(min(values.shape[1], ceil(LEVEL * values.shape[1])), 1).values


def fisher(r: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """Fisher's z of correlations, whose spread is the same wherever they lie (Fisher 1915)."""
    return r.clamp(-LARGEST, LARGEST).atanh()


def mean_over(values: Float[Tensor, "draw feature"], mask: Bool[Tensor, " feature"], floor: int = 0) -> Interval:
    """Mean over some features, with its interval; 0 where there are none."""
    return interval(values[:, mask].mean(1), floor, 1) if mask.any() else (0.0, 0.0, 0.0)


def _sample(parts: Iterable[PairedStates]) -> tuple[PairedStates, Iterator[PairedStates]]:
    """The first rows as one, for drawing random features, and all rows from the start."""
    rest, held = iter(parts), []
    while sum(map(len, held)) < SAMPLE and (part := next(rest, None)) is not None:
        held.append(part)
    if not held:
        raise BadInput("There are no rows to match features on; give texts that both models read.")
    a, b = (
        {site: torch.cat([getattr(part, side)[site] for part in held]) for site in getattr(held[0], side)}
        for side in ("a", "b")
    )
    documents, at = (torch.cat([getattr(part, name) for part in held]) for name in ("documents", "at_a"))
    return PairedStates(a, b, documents, at), chain(held, rest)
