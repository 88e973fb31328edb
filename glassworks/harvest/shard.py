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
Report = Callable[[int, int], None]
"""Is called with tokens that were run and rows that were handed over for writing since the last call."""


@final
@dataclass(frozen=True, eq=False)
class Shard:
    """A shard in memory.

    Attributes:
        number: its place in the store.
        columns: those of its tokens.
        values: what is stored at each site.
        sums: of each component at each site, `mean.SITE`, and of its squares, `square.SITE`, in float64.
    """

    number: int
    columns: dict[str, Tensor]
    values: dict[str, dict[str, Tensor]]
    sums: dict[str, Tensor]


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
    model: Model, contexts: list[Context], sites: Sequence[Site], plan: dict[str, Any], number: int, report: Report
) -> Shard:
    """Run contexts through a model and put their rows in random order.

    Args:
        model: the model.
        contexts: those of the shard.
        sites: what to record.
        plan: as `plan.make_plan` gives it.
        number: of the shard.
        report: is called as it goes.

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
    sums = {
        f"{name}.{site}": torch.zeros(width, dtype=torch.float64)
        for site, width in plan["sites"].items()
        for name in ("mean", "square")
    }
    for group, found in forward(model, [each.tokens for each in contexts], sites, plan["batch"]):
        real = torch.nn.utils.rnn.pad_sequence([torch.tensor(contexts[each].kept) for each in group], batch_first=True)
        here = place[torch.cat([numbers[each] for each in group])]
        for site, value in found.items():
            part = value[real.to(value.device)]
            _check_finite(part, site, ordered, order, here)
            stored = narrow(part, plan["dtype"])
            for name, each in stored.items():
                put(values[site][name], here, each.cpu())
            _add_up(stored, sums[f"mean.{site}"], sums[f"square.{site}"])
        report(sum(len(contexts[each].tokens) for each in group), 0)
    return Shard(number, {name: each[order] for name, each in ordered.items()}, values, sums)


def _check_finite(part: Tensor, site: str, ordered: dict[str, Tensor], order: Tensor, here: Tensor) -> None:
    if bool(torch.isfinite(part).all()):
        return
    row = order[here[int((~torch.isfinite(part)).any(1).nonzero()[0])]]
    raise BadInput(
        f"The activations at {site} are not finite in document {int(ordered['documents'][row])} at position "
        f"{int(ordered['positions'][row])}; load the model in float32 or bfloat16, or leave that document out. All "
        "earlier shards are kept."
    )


def _add_up(stored: dict[str, Tensor], total: Tensor, square: Tensor) -> None:
    """Add stored rows and their squares to sums: a few rows at a time in float32, as a product, these in float64."""
    for start in range(0, len(stored["values"]), ROWS_AT_ONCE):
        rows = widen({name: each[start : start + ROWS_AT_ONCE] for name, each in stored.items()})
        ones = rows.new_ones(1, len(rows))
        total += (ones @ rows)[0].cpu()
        square += (ones @ rows.square())[0].cpu()


def write(folder: Folder, shard: Shard, release: Callable[[], None]) -> None:
    """Write the files of a shard, its marks last, and give up the claim on it."""
    try:
        groups = {"rows": shard.columns, **shard.values}
        parts = {shard_file(group, shard.number): as_file(tensors) for group, tensors in groups.items()}
        with ThreadPoolExecutor(1) as other:
            hashes = other.map(hash_of, parts.values())  # while the files are being written
            for name, each in parts.items():
                folder.write(name, each)
            sizes = [sum(map(len, each)) for each in parts.values()]
            found = zip(parts, sizes, hashes, strict=True)
            files = {name: {"bytes": size, "sha256": sha256} for name, size, sha256 in found}
        about = {
            "files": json.dumps(files),
            "rows": str(len(shard.columns["tokens"])),
            "sha256": hash_of(as_file(shard.sums)),
        }
        folder.write(shard_file("marks", shard.number), as_file(shard.sums, about))
    finally:
        release()
