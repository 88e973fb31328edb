"""Cells: the places that a sweep patches one by one, and the taps that patch many of them in one forward.

Each row of a batch is a run of the same prompt, patched at its own place. This module must not know prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.models import Model, Tap
from glassworks.sites import KINDS, Site

BY_HEAD = {"attn_heads": "n_heads", "q": "n_heads", "k": "n_kv_heads", "v": "n_kv_heads", "pattern": "n_heads"}
"""Kinds of sites that heads have side by side -> how many of them, as an attribute of a model."""


@final
@dataclass(frozen=True, order=True)
class Cell:
    """A place to patch: a site, at one position or at all, and there one head or the whole value."""

    site: Site
    position: int | None = None
    head: int | None = None

    def __str__(self) -> str:
        head = "" if self.head is None else f" head {self.head}"
        return f"{self.site}{head}" + ("" if self.position is None else f" @{self.position}")


def cells(
    model: Model,
    kind: str,
    tokens: int,
    *,
    layers: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    heads: bool = False,
) -> list[Cell]:
    """List the cells of a sweep, by layers and then by positions or heads.

    Args:
        model: what is patched.
        kind: of site, `resid_post`.
        tokens: how many tokens the prompt has.
        layers: which; all by default.
        positions: which, negative from the end; all by default, one cell each.
        heads: one cell a head instead, patched at all of the positions given, or at every token by default.

    Raises:
        BadInput: a layer or a position that is not there, or heads of a site without them.
        NotFound: there is no such kind of site in the model.
    """
    # Site refuses a kind that does not exist; whether the model has it, the taps tell.
    sites = model.sites(Site(kind, 0 if kind in KINDS and KINDS[kind].layered else None).kind)
    if layers is not None:
        wanted = set(layers)
        absent = sorted(wanted - {site.layer for site in sites})
        if absent:
            raise BadInput(f"There is no layer {absent[0]} to patch {kind} at; there are 0 to {model.n_layers - 1}.")
        sites = [site for site in sites if site.layer in wanted]
    if not heads:
        spots = _inside(range(tokens) if positions is None else positions, tokens)
        return [Cell(site, spot) for site in sites for spot in spots]
    if kind not in BY_HEAD:
        raise BadInput(f"The site {kind} is not made of heads; heads are patched at {', '.join(BY_HEAD)}.")
    where = [None] if positions is None else _inside(positions, tokens)
    return [Cell(site, spot, head) for site in sites for spot in where for head in range(heads_of(model, kind))]


def _inside(positions: Iterable[int], tokens: int) -> list[int]:
    listed = list(positions)
    outside = [each for each in listed if not -tokens <= each < tokens]
    if outside:
        raise BadInput(f"There is no position {outside[0]} to patch; the prompts have positions 0 to {tokens - 1}.")
    return [each % tokens for each in listed]


def heads_of(model: Model, kind: str) -> int:
    """How many heads lie side by side at a kind of site, 1 where it is not made of heads."""
    return int(getattr(model, BY_HEAD[kind])) if kind in BY_HEAD else 1


def by_head(site: Site, heads: int, value: Float[Tensor, "row token *inner"]) -> Float[Tensor, "row token head *width"]:
    """A view of a value with an axis of heads, of length 1 where it is not made of heads."""
    if site.kind not in BY_HEAD:
        return value.unsqueeze(2)
    return value.unflatten(2, (heads, -1)) if value.ndim == 3 else value


def carrying(
    model: Model, rows: Sequence[Cell], sources: Mapping[Site, Float[Tensor, "1 token *width"]], start: int = 0
) -> dict[Site, Tap]:
    """Make the taps that patch each row of a batch at its own cell.

    Args:
        model: what is patched.
        rows: the cell of each row.
        sources: by site the values that are carried in, the same for all rows.
        start: the first token that the batch runs; those before it lie in a cache.
    """
    sites = {row.site for row in rows}
    return {site: _carry(site, rows, sources[site][:, start:], heads_of(model, site.kind), start) for site in sites}


def _carry(site: Site, rows: Sequence[Cell], source: Tensor, heads: int, start: int) -> Tap:
    split = by_head(site, heads, source)
    chosen = torch.zeros(len(rows), source.shape[1], heads, dtype=torch.bool)
    for row, cell in enumerate(rows):
        if cell.site == site:
            spots = slice(None) if cell.position is None else cell.position - start
            chosen[row, spots, slice(None) if cell.head is None else cell.head] = True

    def tap(value: Tensor) -> Tensor:
        live = by_head(site, heads, value)
        mask = chosen.to(live.device).reshape(*chosen.shape, *[1] * (live.ndim - 3))
        return torch.where(mask, split.to(live), live).reshape(value.shape)

    return tap
