"""Writing a store: shard by shard, by any number of processes, interrupted anywhere.

What a shard holds follows from the plan alone: its contexts, the batches in which they run and the order of its rows.
So a shard that is there need not be made again, one made twice is the same, and a harvest that was killed ends like one
that was not. A shard counts once its marks are there, which are written last.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from glassworks import __version__
from glassworks.artefacts import MANIFEST, SCHEMA
from glassworks.errors import BadInput
from glassworks.harvest.contexts import Contexts, Document, Reading
from glassworks.harvest.folders import Folder, open_folder
from glassworks.harvest.plan import PLAN, Storing, begin, done, make_plan
from glassworks.harvest.shard import Report, compute, shards, write
from glassworks.harvest.store import KIND, STATISTICS, Store, hash_of, load_store, read_manifest, shard_file, tensors_of
from glassworks.harvest.tensors import as_file, metadata
from glassworks.models import Model
from glassworks.sites import Site


def harvest(
    model: Model,
    documents: Iterable[Document],
    sites: Sequence[str | Site],
    out: str | Path,
    reading: Reading | None = None,
    storing: Storing | None = None,
    report: Report | None = None,
) -> Store | None:
    """Fill a store with activations, or go on filling one.

    Args:
        model: the model.
        documents: texts, token ids or chats; a `Corpus`, or anything that can be iterated again and again.
        sites: what to record, in one forward pass that ends at the last of them.
        out: folder, or an address like `s3://bucket/store`.
        reading: how documents become rows.
        storing: how rows are stored.
        report: is called as it goes.

    Returns:
        The store; None where other processes are still at work, the last of which finishes it.

    Raises:
        BadInput: nothing to record, settings other than those of a harvest that was begun there, activations that are
            not finite, or no room; all shards that were written stay.
    """
    reading, storing = reading or Reading(), storing or Storing()
    wanted = [Site.parse(each) for each in sites]
    folder, contexts = open_folder(out), Contexts(model, documents, reading)
    plan = make_plan(model, contexts, wanted, storing)
    begin(folder, plan, storing.verify)
    if read_manifest(folder) is None:
        total = _fill(folder, contexts, wanted, plan, storing, report or (lambda tokens, rows: None))
        release = folder.claim("seal") if len(done(folder)) >= total else None
        if release is None:
            return None
        seal(folder, plan, total)
        release()
    return load_store(out)


def _fill(
    folder: Folder, contexts: Contexts, sites: Sequence[Site], plan: dict[str, Any], storing: Storing, report: Report
) -> int:
    """Write all shards that are missing and that no other process writes; returns how many there must be."""
    part, parts = storing.part
    there, total = done(folder), 0
    pending: Future[None] | None = None
    with ThreadPoolExecutor(1) as writer:
        for number, some in enumerate(shards(contexts, plan["shard_rows"])):
            total = number + 1
            release = None if number in there or number % parts != part - 1 else folder.claim(f"{number:05}")
            if release is None:
                continue
            if number in done(folder):  # another process wrote it in the meantime
                release()
                continue
            try:
                shard = compute(contexts.model, some, sites, plan, number, report)
                if pending:
                    pending.result()
            except BaseException:
                release()
                raise
            pending = writer.submit(write, folder, shard, release)
            report(0, len(shard.columns["tokens"]))
    if pending:
        pending.result()
    if not total:
        raise BadInput("The corpus has no token to record; check the text, and what is left out.")
    return total


def seal(folder: Folder, plan: dict[str, Any], total: int) -> None:
    """Write the manifest of a store whose shards are all there, and remove what was needed on the way."""
    files: dict[str, dict[str, Any]] = {}
    counts: list[int] = []
    sums: dict[str, Tensor] = {}
    for number in range(total):
        name = shard_file("marks", number)
        raw = folder.read(name)
        about = metadata(raw)
        files |= json.loads(about["files"]) | {name: {"bytes": len(raw), "sha256": hash_of([raw])}}
        counts.append(int(about["rows"]))
        for key, value in tensors_of(folder, name).items():
            sums[key] = sums[key] + value if key in sums else value
    parts = as_file({name: value / sum(counts) for name, value in sums.items()})
    folder.write(STATISTICS, parts)
    files[STATISTICS] = {"bytes": sum(len(part) for part in parts), "sha256": hash_of(parts)}
    squares = {site: float(sums[f"square.{site}"].sum()) / sum(counts) for site in plan["sites"]}
    fields = {"plan": plan, "rows": sum(counts), "shards": counts, "squares": squares}
    manifest = {"kind": KIND, "schema": SCHEMA, "glassworks": __version__, "parents": [plan["model"]], "fields": fields}
    folder.write(MANIFEST, [json.dumps(manifest | {"files": files}, indent=1).encode()])
    folder.remove(PLAN)
    folder.clean()
