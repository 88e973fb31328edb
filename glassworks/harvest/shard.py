"""Shard: some contexts' activations at all sites, computed, shuffled and written.

Its content follows from its contexts, its number and the plan, so one that is made twice is the same.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.harvest.contexts import Context, columns_of
from glassworks.harvest.folders import Folder
from glassworks.harvest.record import forward
from glassworks.harvest.store import hash_of, shard_file
from glassworks.harvest.tensors import as_file, narrow, put, table, widen
from glassworks.models import Model
from glassworks.sites import Site

ROWS_AT_ONCE = 512
Told = Callable[[int, int], None]
"""Is called with tokens that were run and rows that were handed over for writing since the last call."""


@final
@dataclass(frozen=True, eq=False)
class Shard:
    """A shard in memory: its number, the columns of its tokens, and what is stored at each site."""

    number: int
    columns: dict[str, Tensor]
    values: dict[str, dict[str, Tensor]]


def shards(contexts: Iterable[Context], rows: int) -> Iterator[list[Context]]:
    """Group contexts into shards of at least so many rows; the last may have fewer."""
    held: list[Context] = []
    size = 0
    for context in contexts:
        kept = sum(context.kept)
        if kept:
            held.append(context)
            size += kept
        if size >= rows:
            yield held
            held, size = [], 0
    if held:
        yield held


@torch.no_grad()
def compute(
    model: Model, contexts: list[Context], sites: Sequence[Site], plan: dict[str, Any], number: int, told: Told
) -> Shard:
    """Run contexts through a model and put their rows in random order.

    Args:
        model: the model.
        contexts: those of the shard.
        sites: what to record.
        plan: as `plan.make_plan` gives it.
        number: of the shard.
        told: is called as it goes.

    Raises:
        BadInput: an activation is not finite.
    """
    ordered = columns_of(contexts)
    rows = len(ordered["tokens"])
    numbers = torch.arange(rows).split([sum(each.kept) for each in contexts])
    generator = torch.Generator().manual_seed(plan["seed"] * 1_000_003 + number)
    order = torch.randperm(rows, generator=generator)
    place = torch.empty_like(order)
    place[order] = torch.arange(rows)
    values = {
        site: {
            name: torch.empty(shape, dtype=kind) for name, (kind, shape) in table(plan["dtype"], rows, width).items()
        }
        for site, width in plan["sites"].items()
    }
    for group, found in forward(model, [each.tokens for each in contexts], sites, plan["batch"]):
        real = torch.nn.utils.rnn.pad_sequence([torch.tensor(contexts[each].kept) for each in group], batch_first=True)
        here = place[torch.cat([numbers[each] for each in group])]
        for site, value in found.items():
            part = value[real.to(value.device)]
            _check_finite(part, site, ordered, order, here)
            for name, each in narrow(part, plan["dtype"]).items():
                put(values[site][name], here, each.cpu())
        told(sum(len(contexts[each].tokens) for each in group), 0)
    return Shard(number, {name: each[order] for name, each in ordered.items()}, values)


def _check_finite(part: Tensor, site: str, ordered: dict[str, Tensor], order: Tensor, here: Tensor) -> None:
    if bool(torch.isfinite(part).all()):
        return
    row = order[here[int((~torch.isfinite(part)).any(1).nonzero()[0])]]
    raise BadInput(
        f"The activations at {site} are not finite in document {int(ordered['documents'][row])} at position "
        f"{int(ordered['positions'][row])}; load the model in float32 or bfloat16, or leave that document out. All "
        "earlier shards are kept."
    )


def write(folder: Folder, shard: Shard, release: Callable[[], None]) -> None:
    """Write the files of a shard, its marks last, and give up the claim on it."""
    try:
        files: dict[str, dict[str, Any]] = {}
        sums: dict[str, Tensor] = {}
        with ThreadPoolExecutor(1) as other:  # hashes and adds up what is being written
            for group, tensors in {"rows": shard.columns, **shard.values}.items():
                parts, name = as_file(tensors), shard_file(group, shard.number)
                hashed, added = other.submit(hash_of, parts), other.submit(_sums, group, tensors)
                folder.write(name, parts)
                files[name] = {"bytes": sum(len(part) for part in parts), "sha256": hashed.result()}
                sums |= added.result()
        about = {
            "files": json.dumps(files),
            "rows": str(len(shard.columns["tokens"])),
            "sha256": hash_of(as_file(sums)),
        }
        folder.write(shard_file("marks", shard.number), as_file(sums, about))
    finally:
        release()


def _sums(site: str, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums and sums of squares of each component that a shard stores at a site.

    A few rows that stay in the cache are added up in float32, as a product, and these sums in float64.
    """
    if "values" not in stored:
        return {}
    total, square = torch.zeros(2, stored["values"].shape[1], dtype=torch.float64)
    for start in range(0, len(stored["values"]), ROWS_AT_ONCE):
        values = widen({name: each[start : start + ROWS_AT_ONCE] for name, each in stored.items()})
        ones = values.new_ones(1, len(values))
        total += (ones @ values)[0]
        square += (ones @ values.square())[0]
    return {f"mean.{site}": total, f"square.{site}": square}
