"""Align: run two models over the same text once, and make the bridge between them.

Every fifth text is held out from the fit: ridges, layers and the stated R2 come from there. This module must not know
how sums become maps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import final

import torch

from glassworks.errors import BadInput, NotFound, nearest
from glassworks.models import Model
from glassworks.sites import KINDS, Site
from glassworks.transfer.bridge import Bridge, canonical
from glassworks.transfer.pairing import BATCH_TOKENS, Pair, Paired, Rows, pair, states
from glassworks.transfer.statistics import Couple, Sums

STREAM = ("resid_pre", "resid_mid", "resid_post")
HELD = 5
"""One in so many texts is held out."""
ROWS: dict[str, Callable[[Sequence[Pair]], Sequence[Pair]]] = {
    "text": lambda pairs: pairs,
    "all": lambda pairs: pairs,
    "ends": lambda pairs: [replace(each, at_a=each.at_a[-1:], at_b=each.at_b[-1:]) for each in pairs],
}
"""Tokens that count: those of the text; also the one before it (BOS), a constant; the last one of each text."""


def align(
    a: Model,
    b: Model,
    texts: Iterable[Paired],
    kinds: Sequence[str] = STREAM,
    *,
    reach: int | float = 1,
    rows: str = "text",
    shuffled: int | None = None,
    batch: int = BATCH_TOKENS,
) -> Bridge:
    """Make a bridge between two models, in one pass over texts.

    Maps are good where the texts are like the prompts that they will be used on: give general text and prompts of the
    domain together; nothing needs to be labelled.

    Args:
        a: one model.
        b: another, of any width, depth and tokenizer.
        texts: what both read; see `pairing.Paired`.
        kinds: of the sites to join. Those of one kind, and the stream before and after blocks, are joined with each
            other at all layers.
        reach: join only sites whose depths, as shares of their models', differ by at most this; saves time and space
            with deep models.
        rows: which tokens count; see `ROWS`. No affine map serves the ends of prompts and all the rest together, so
            where something is read at the end of a prompt, make a bridge of `ends` from many prompts.
        shuffled: a control: pair every state with a random other one of its batch, by this seed.
        batch: tokens in one forward pass.

    Raises:
        NotFound: there is no such kind of site.
        BadInput: the models share no text or no such sites, or the texts are too few to hold some out.
    """
    chosen = _kinds(a, b, kinds)
    couples = _couples(a, b, chosen, reach)
    sites_a, sites_b = (list(dict.fromkeys(couple[end] for couple in couples)) for end in (0, 1))
    if rows not in ROWS:
        raise NotFound(f"There are no rows {rows!r}; {nearest(rows, ROWS)}.")
    pairs = ROWS[rows](pair(a, b, texts, rows == "all"))
    fit, held = Sums(couples), Sums(couples)
    mix = _Mixer(shuffled)
    for sums, some in ((fit, _part(pairs, False)), (held, _part(pairs, True))):
        held.centres |= fit.centres
        for found in states(a, b, some, sites_a, sites_b, batch):
            sums.add(found.a, mix(found))
    if not fit.rows or not held.rows:
        raise BadInput(f"One text in {HELD} is held out, and there are too few; give at least {HELD} with partners.")
    facts = {"texts": len({each.document for each in pairs}), "rows": rows, "reach": reach, "shuffled": shuffled}
    return Bridge(a.name, b.name, (a.n_layers, b.n_layers), chosen, fit, held, facts)


def _part(pairs: Sequence[Pair], held: bool) -> list[Pair]:
    return [each for each in pairs if (each.document % HELD == HELD - 1) == held]


@final
class _Mixer:
    """Gives B's states as they are, or in another order."""

    def __init__(self, seed: int | None) -> None:
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        if self.generator is None:
            return rows.b
        order = torch.randperm(len(rows), generator=self.generator)
        return {site: value[order.to(value.device)] for site, value in rows.b.items()}


def _kinds(a: Model, b: Model, kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds that both models have at every layer."""
    for kind in kinds:
        if kind not in KINDS:
            raise NotFound(f"There is no site kind {kind!r}; {nearest(kind, KINDS)}.")
        if not KINDS[kind].layered or "key" in KINDS[kind].shape:
            raise BadInput(f"The site {kind} has no layers or no fixed width; choose others, {', '.join(STREAM)} say.")
    there = {site.kind for site in a.sites()} & {site.kind for site in b.sites()}
    found = tuple(kind for kind in kinds if kind in there)
    if not found:
        raise BadInput(f"{a.name} and {b.name} have none of {', '.join(kinds)} in common; choose other kinds of sites.")
    return found


def _couples(a: Model, b: Model, kinds: Sequence[str], reach: int | float) -> list[Couple]:
    """Sites that can be partners: of one kind, or both in the stream between blocks."""
    ends = [
        [(canonical(site), _group(kind), _depth(site, model)) for kind in kinds for site in model.sites(kind)]
        for model in (a, b)
    ]
    return list(
        dict.fromkeys(
            (one, other)
            for one, group, depth in ends[0]
            for other, its_group, its_depth in ends[1]
            if group == its_group and abs(depth - its_depth) <= reach
        )
    )


def _group(kind: str) -> str:
    return "between" if kind in ("resid_pre", "resid_post") else kind


def _depth(site: Site, model: Model) -> float:
    assert site.layer is not None
    return site.layer / max(1, model.n_layers - 1)
