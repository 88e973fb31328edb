"""Match: which features of one model exist in another.

Both models read the same text. One half of it chooses every feature's partner by the correlation of their activations,
the other half measures it. The same is done with random features in the other model's place, which is what chance
gives. This module must not know how figures are shown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.coders import Latents, Scope
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.match.dictionary import Dictionary
from glassworks.transfer.match.sought import Measure, Partners, Sought, deal, seek
from glassworks.transfer.match.together import BLOCKS, Products, Search, Trial
from glassworks.transfer.pairing import PairedStates, PairedText, TokenPairs, pair, paired_states

LEAST = 10
"""Tokens of each half of the text that a feature must be active on to be judged."""
SAMPLE = 8192
"""PairedStates that random features are drawn from."""
TOGETHER = 256
"""Texts that are sorted by length and run together."""


@final
@dataclass(frozen=True, eq=False)
class Matching:
    """What the features of two models have in common.

    Attributes:
        a: name of model A.
        b: name of model B.
        rows: tokens of the half that chose partners, and of the half that measured them.
        forward: A's features sought in B.
        backward: B's features sought in A.
        one_to_one: the partner of each feature of A where every feature has one at most; -1 for none.
        one_r: its correlation on text that did not choose it.
    """

    a: str
    b: str
    rows: tuple[int, int]
    forward: Sought
    backward: Sought
    one_to_one: Int[Tensor, " feature"]
    one_r: Float[Tensor, " feature"]

    @property
    def mutual(self) -> Bool[Tensor, " feature"]:
        """Features of A that were found, and whose partner's partner they are."""
        partner = self.forward.partner.clamp(min=0)
        back = self.backward.partner[partner] == torch.arange(len(partner))
        return self.forward.found & back & (self.forward.partner >= 0)

    def plain(self) -> dict[str, Any]:
        """The figures as JSON values; features are listed by `Sought.matches`."""
        sides = {"a_in_b": self.forward, "b_in_a": self.backward}
        paired = (self.one_to_one >= 0) & self.forward.alive
        return {
            "a": self.a,
            "b": self.b,
            "tokens": list(self.rows),
            "mutual": int(self.mutual.sum()),
            "one_to_one": {"pairs": int(paired.sum()), "r": float(self.one_r[paired].mean()) if paired.any() else 0.0},
            **{
                name: {
                    "coders": [asdict(row) for row in side.rows],
                    "shares": side.places.shares,
                    "of": side.home.names,
                    "in": side.other.names,
                }
                for name, side in sides.items()
            },
        }


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
    choosing, measuring = (rows(a, b, half, mine.sites, other.sites) for half in halves(a, b, texts, seed))
    return replace(matched(mine, other, choosing, measuring, seed), a=a.name, b=b.name)


def halves(a: Model, b: Model, texts: Iterable[PairedText], seed: int = 0) -> tuple[list[TokenPairs], list[TokenPairs]]:
    """Pair texts and split them at random into two halves, each numbered from 0; BadInput for fewer than eight."""
    pairs = pair(a, b, texts)
    if len(pairs) < 8:
        raise BadInput(f"The text has {len(pairs)} documents; 8 at least are needed, half of them to check the other.")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    parts = order[::2], order[1::2]
    first, second = ([replace(pairs[each], document=n) for n, each in enumerate(part)] for part in parts)
    return first, second


def rows(
    a: Model, b: Model, pairs: Sequence[TokenPairs], sites_a: Sequence[Site], sites_b: Sequence[Site]
) -> Iterator[PairedStates]:
    """States of both models at some sites, in an order that does not depend on lengths; one model runs once."""
    one = a is b
    sites = (list(dict.fromkeys([*sites_a, *sites_b])), []) if one else (sites_a, sites_b)
    for start in range(0, len(pairs), TOGETHER):
        for found in paired_states(a, b, pairs[start : start + TOGETHER], *sites):
            yield replace(found, b=found.a) if one else found


@torch.no_grad()
def matched(
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
    every = {"a": mine, "b": other}
    for number, (left, right) in enumerate((NULLS[:2], NULLS[2:])):
        every |= {left: mine.twin(sample.a, seed + 2 * number), right: other.twin(sample.b, seed + 2 * number + 1)}
    searches = {bout: Search(every[bout[0]].width, every[bout[1]].width) for bout in BOUTS}
    for part in choosing:
        encoded = _encoded(every, part)
        for bout, search in searches.items():
            search.add(encoded[bout[0]], encoded[bout[1]])
    products = {bout: search.products for bout, search in searches.items()}
    products["ba"] = products["ab"].swapped
    alive = {"a": searches["ab"].a[0] >= LEAST, "b": searches["ab"].b[0] >= LEAST}
    choices = {
        way: _choose(found, every[way[0]], every[way[1]], alive[way[0]], seed) for way, found in products.items()
    }
    single = products["ab"].one_to_one(mine.width, other.width)
    trials = {bout: Trial(*_pairs(bout, choices, single), every[bout[0]].width, every[bout[1]].width) for bout in BOUTS}
    for part in measuring:
        encoded, blocks = _encoded(every, part), part.documents % BLOCKS
        for bout, trial in trials.items():
            trial.add(encoded[bout[0]], encoded[bout[1]], blocks)
    alive = {side: each & (trials["ab"].counts[n] >= LEAST) for n, (side, each) in enumerate(alive.items())}
    return _judged(every, choices, single, trials, alive, searches["ab"].rows)


NULLS = "pqvw"
"""Random twins: of A's dictionary p and v, of B's q and w."""
BOUTS = ("ab", "aq", "aw", "bp", "bv")
"""Which dictionaries are held together."""


@final
@dataclass(frozen=True, eq=False)
class _Choice:
    """Partners of the features of a dictionary: in each coder of another, in all, and dealt out at random."""

    by_coder: Int[Tensor, "feature coder"]
    best: Int[Tensor, " feature"]
    dealt: Int[Tensor, " feature"]

    @property
    def pairs(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """All of these, feature by feature, without those that have no partner."""
        columns = torch.cat([self.by_coder, self.dealt[:, None]], 1)
        feature, _ = (columns >= 0).nonzero(as_tuple=True)
        return feature, columns[columns >= 0]


def _choose(found: Products, home: Dictionary, other: Dictionary, alive: Bool[Tensor, " _"], seed: int) -> _Choice:
    by_coder, best = found.best(home.width, other.home, len(other.names))
    return _Choice(by_coder, best, deal(best, alive, seed))


def _pairs(bout: str, choices: Mapping[str, _Choice], single: Int[Tensor, " _"]) -> tuple[Tensor, Tensor]:
    """The pairs that a trial is about."""
    left, right = choices[bout].pairs
    if bout != "ab":
        return left, right
    back, there = choices["ba"].pairs
    paired = (single >= 0).nonzero()[:, 0]
    return torch.cat([left, there, paired]), torch.cat([right, back, single[paired]])


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


def _encoded(every: Mapping[str, Dictionary], part: PairedStates) -> dict[str, Latents]:
    return {side: each.encode(part.a if side in "apv" else part.b) for side, each in every.items()}


def _judged(
    every: Mapping[str, Dictionary],
    choices: Mapping[str, _Choice],
    single: Int[Tensor, " _"],
    trials: Mapping[str, Trial],
    alive: Mapping[str, Bool[Tensor, " _"]],
    searched: int,
) -> Matching:
    def sought(way: str, *nulls: str) -> Sought:
        real, first, second = (
            Partners(choices[each].by_coder, choices[each].best, choices[each].dealt, _measure(trials, each))
            for each in (way, *nulls)
        )
        return seek(every[way[0]], every[way[1]], alive[way[0]], real, (first, second))

    forward, backward = sought("ab", "aq", "aw"), sought("ba", "bp", "bv")
    one_r = trials["ab"].correlations(torch.arange(len(single)), single)[0]
    tokens = (searched, int(trials["ab"].rows.sum()))
    return Matching("a", "b", tokens, forward, backward, single, one_r)


def _measure(trials: Mapping[str, Trial], way: str) -> Measure:
    if way in trials:
        return trials[way].correlations
    return lambda features, partners: trials[way[::-1]].correlations(partners, features)
