"""Exact sweeps: patch every cell of a grid and run the model, many cells in one forward.

Cells are taken by layers and positions, and a forward begins at the lowest layer and the first token of its own: what
lies below, or before under causal attention, is the same for every cell and was computed once.
This module must not know approximations.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from glassworks.edits.patching.cells import Cell, carrying
from glassworks.edits.patching.pair import Pair, Way
from glassworks.errors import BadInput
from glassworks.models import Model, cache_name, ending, starting
from glassworks.pages import facts
from glassworks.sites import Site

WITH_CACHE = ("k", "v", "pattern")
"""Kinds of sites whose values tell of all tokens, those in a key-value cache too."""
BATCH_TOKENS = 1024
"""Tokens in one forward: enough to keep two cores busy, few enough that upper cells skip the lower layers."""


@final
@dataclass(frozen=True, eq=False)
class Sweep:
    """What became of the metric when single cells were patched.

    Attributes:
        pair: the prompts and the metric.
        way: which prompt's values were carried into which.
        cells: what was patched, one at a time.
        values: the metric of each patched run; or of an approximation, what it says of them.
        start: the metric of the run that was patched.
        goal: the metric of the run that the values came from.
        method: `exact`, or the name of an approximation.
    """

    pair: Pair
    way: Way
    cells: Sequence[Cell]
    values: Float[Tensor, " cell"]
    start: float
    goal: float
    method: str = "exact"

    def __str__(self) -> str:
        best = ", ".join(f"{cell} {share:.0%}" for cell, share in self.top(3))
        return f"{self.way} of {len(self.cells)} cells ({self.method}), {self.start:.3g} to {self.goal:.3g}: {best}"

    def __rich__(self) -> Any:
        title = f"{self.way}, {self.cells[0].site.kind}: {len(self.cells)} cells, {self.start:.3g} to {self.goal:.3g}"
        return facts({title: [{"cell": str(cell), "share": share} for cell, share in self.top()]})

    @property
    def shares(self) -> Float[Tensor, " cell"]:
        """How much of the way from `start` to `goal` each cell goes: 0 nothing, 1 all of it."""
        return (self.values - self.start) / (self.goal - self.start)

    def top(self, k: int = 10) -> list[tuple[Cell, float]]:
        """The cells that move the metric furthest, either way, with their shares."""
        order = self.shares.abs().argsort(descending=True, stable=True)[:k].tolist()
        return [(self.cells[each], float(self.shares[each])) for each in order]

    def grid(self) -> tuple[list[str], list[str], list[list[float]]]:
        """Shares as a table: a row a site (and position, of heads), a column a position or head."""
        heads = any(cell.head is not None for cell in self.cells)
        keys = [(_row(cell, heads), cell.head if heads else cell.position) for cell in self.cells]
        rows, columns = list(dict.fromkeys(row for row, _ in keys)), list(dict.fromkeys(each for _, each in keys))
        found = dict(zip(keys, self.shares.tolist(), strict=True))
        texts = self.pair.texts
        names = [f"head {each}" if heads else "all" if each is None else f"{texts[each]} {each}" for each in columns]
        return rows, names, [[found.get((row, column), float("nan")) for column in columns] for row in rows]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        rows = zip(self.cells, self.values.tolist(), self.shares.tolist(), strict=True)
        return {
            "method": self.method,
            "way": self.way,
            "metric": self.pair.metric.name,
            "start": self.start,
            "goal": self.goal,
            "cells": [
                {"site": str(cell.site), "position": cell.position, "head": cell.head, "value": value, "share": share}
                for cell, value, share in rows
            ],
        }


def _row(cell: Cell, heads: bool) -> str:
    return f"{cell.site} @{cell.position}" if heads and cell.position is not None else str(cell.site)


@torch.no_grad()
def sweep(pair: Pair, cells: Sequence[Cell], way: Way = "denoising", batch_tokens: int = BATCH_TOKENS) -> Sweep:
    """Patch each cell alone, exactly.

    Args:
        pair: the prompts and the metric.
        cells: what to patch, as `cells` lists them.
        way: `denoising` or `noising`.
        batch_tokens: about how many tokens one forward takes.

    Raises:
        BadInput: no cells, another way, or a metric that is the same on both prompts.
    """
    if not cells:
        raise BadInput("There are no cells to patch; name a site, layers and positions.")
    runs = Runs(pair, way, {cell.site for cell in cells})
    order = sorted(range(len(cells)), key=lambda each: (runs.layer(cells[each]), first_token(cells[each])))
    values, begin = torch.zeros(len(cells)).double(), 0
    while begin < len(order):
        tokens = len(pair.clean) - first_token(cells[order[begin]])
        numbers = order[begin : begin + max(1, batch_tokens // tokens)]
        values[numbers] = runs.patched([cells[each] for each in numbers]).cpu()
        begin += len(numbers)
    return Sweep(pair, way, list(cells), values, *runs.ends)


@final
class Runs:
    """Both prompts' runs, and patched runs of the one with values of the other.

    Args:
        pair: the prompts and the metric.
        way: which prompt's values are carried into which.
        sites: whose values may be carried.

    Attributes:
        ends: the metric of the run that is patched, and of the other.
        sources: by site the values that are carried, (1, token, width...).
        bases: by site what stands there otherwise, of the same shape.
    """

    def __init__(self, pair: Pair, way: Way, sites: set[Site]) -> None:
        self.model, self.metric = pair.model, pair.metric
        self.base, source = pair.runs(way)
        streams = self.model.sites("resid_post")
        values = self.model.capture(torch.stack([self.base, source]), [*sites, *streams, "logits"])
        self.streams = [values[str(site)][:1] for site in streams]
        self.bases, self.sources = ({site: values[str(site)][row : row + 1] for site in sites} for row in (0, 1))
        start, goal = self.metric(values["logits"][:, -1]).tolist()
        if start == goal:
            raise BadInput(f"The metric {self.metric.name} is {start:.4g} on both prompts, so nothing can be restored.")
        self.ends = (start, goal)

    def layer(self, cell: Cell) -> int:
        """The first layer that has to run for a cell."""
        if cell.site.layer is None:
            return 0 if cell.site.kind == "embed" else self.model.n_layers
        return cell.site.layer + (cell.site.kind == "resid_post")

    def patched(self, rows: Sequence[Cell]) -> Float[Tensor, " row"]:
        """The metric of each row's run, patched at its own cell."""
        start = 0 if self.model.taps.stack else min(map(first_token, rows))
        taps, ids = carrying(self.model, rows, self.sources, start), self.base[start:].expand(len(rows), -1)
        cache = self._prefix(start, len(rows)) if start else None
        with self._ending(rows), self.beginning(min(map(self.layer, rows)), start), self.model.tapped(taps):
            return self.metric(last_logits(self.model, ids, cache))

    def _ending(self, rows: Sequence[Cell]) -> Any:
        """Leave out the last MLP's other tokens, unless edits act or cells lie in it."""
        last = [each.site.kind for each in rows if each.site.layer == self.model.n_layers - 1]
        whole = self.model.taps.stack or any(kind.startswith("mlp") for kind in last)
        return ExitStack() if whole else ending(self.model.taps)

    @cached_property
    def _cache(self) -> DynamicCache:
        """Keys and values of the base prompt, of all of its tokens in every layer."""
        cache = DynamicCache()
        self.model.hf(input_ids=self.base[None], use_cache=True, **{cache_name(self.model.hf): cache})
        return cache

    def _prefix(self, start: int, rows: int) -> DynamicCache:
        """A cache that holds the tokens before the first that is patched, which causal attention leaves as they are."""
        cache = DynamicCache(config=self.model.hf.config)  # pyright: ignore[reportArgumentType]
        held: list[Any] = list(self._cache.layers)
        for layer, each in enumerate(held):
            keys, values = (kept[:, :, :start].expand(rows, -1, -1, -1) for kept in (each.keys, each.values))
            cache.update(keys, values, layer)
        return cache

    def beginning(self, layer: int, start: int = 0) -> Any:
        """Begin the base prompt's runs at a layer; at the bottom where edits act, which may read below."""
        stream = self.streams[max(layer - 1, 0)][:, start:]
        return ExitStack() if self.model.taps.stack else starting(self.model.taps, layer, stream)


def first_token(cell: Cell) -> int:
    """The first token that a cell changes; the first of all where a site shows the tokens of a cache too."""
    return 0 if cell.position is None or cell.site.kind in WITH_CACHE else cell.position


def last_logits(model: Model, ids: Tensor, cache: DynamicCache | None = None) -> Float[Tensor, "row vocab"]:
    """Logits after the last token; those of other tokens are computed only where edits may look at them."""
    kept = 0 if any(Site("logits") in each.taps for each in model.taps.stack) else 1
    named = {cache_name(model.hf): cache, "use_cache": cache is not None}
    return model.hf(input_ids=ids, logits_to_keep=kept, **named).logits[:, -1]
