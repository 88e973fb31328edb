"""Estimate: what a harvest would take, before it begins. It writes nothing."""

import time
from collections.abc import Sequence
from math import ceil
from typing import Any

import torch

from glassworks.harvest.contexts import Context, Contexts
from glassworks.harvest.folders import open_folder
from glassworks.harvest.plan import Storing, make_plan
from glassworks.harvest.record import forward
from glassworks.harvest.store import COLUMNS
from glassworks.harvest.tensors import table
from glassworks.sites import Site

SECONDS_OF_COUNTING = 30.0


def estimate(
    contexts: Contexts, sites: Sequence[Site], storing: Storing, out: str, most: float = SECONDS_OF_COUNTING
) -> dict[str, Any]:
    """Count the rows of a corpus and time one forward pass.

    Args:
        contexts: the corpus as the model sees it.
        sites: what would be recorded.
        storing: how rows would be stored.
        out: where.
        most: seconds after which counting stops; then rows, GB and hours are those of what was counted.

    Returns:
        JSON values: `rows`, `counted` (whether to the end of the corpus), `GB`, `free GB`, `shards`, `memory GB` (of
        shards, without the model), `tokens/s`, `hours`, `widths`.
    """
    plan = make_plan(contexts.model, contexts, sites, storing)
    tokens = rows = 0
    first: list[Context] = []
    counted, began = True, time.monotonic()
    for context in contexts:
        if sum(len(each.tokens) for each in first) < storing.batch:
            first.append(context)
        tokens, rows = tokens + len(context.tokens), rows + sum(context.kept)
        if time.monotonic() - began > most:
            counted = False
            break
    shapes = [shape for width in plan["sites"].values() for shape in table(plan["dtype"], 1, width).values()]
    a_row = sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in shapes) + 4 * len(COLUMNS)
    speed = _speed(contexts, first, sites, storing.batch)
    free = open_folder(out).free()
    return {
        "rows": rows,
        "counted": counted,
        "GB": rows * a_row / 1e9,
        "free GB": None if free is None else free / 1e9,
        "shards": ceil(rows / plan["shard_rows"]),
        "memory GB": 2 * min(rows, plan["shard_rows"]) * a_row / 1e9,
        "tokens/s": speed,
        "hours": tokens / speed / 3600 if speed else 0.0,
        "widths": plan["sites"],
    }


@torch.no_grad()
def _speed(contexts: Contexts, some: list[Context], sites: Sequence[Site], batch: int) -> float:
    """Tokens a second of one pass, after another that warms up."""
    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        for _, found in forward(contexts.model, [each.tokens for each in some], sites, batch):
            for value in found.values():
                value.flatten()[:1].cpu()  # waits for the device
        seconds = time.monotonic() - began
    return sum(len(each.tokens) for each in some) / max(seconds, 1e-9)
