"""Plan: all that the content of a store follows from, and whether a folder holds that very store, begun or finished.

This module must not know how activations are computed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from glassworks.artefacts import MANIFEST
from glassworks.errors import BadArtefact, BadInput, NotFound
from glassworks.harvest.contexts import Contexts
from glassworks.harvest.folders import Folder
from glassworks.harvest.record import BATCH_TOKENS, heads
from glassworks.harvest.store import KIND, STATISTICS, damaged, hash_of, read_manifest, shard_file, tensors_of
from glassworks.harvest.tensors import TABLES, as_file, metadata, narrow
from glassworks.models import Model
from glassworks.sites import KINDS, Site

PLAN = "plan.json"


@final
@dataclass(frozen=True)
class Storing:
    """How activations are stored.

    Attributes:
        dtype: float32, bfloat16, or int8 with one scale a token.
        shard_bytes: size of a shard, all sites together; a shard is held in memory while it is made, and the one
            before while it is written.
        batch: tokens in one forward pass.
        seed: of the order of the rows within a shard.
        part: which of how many processes on different machines this is; processes on one disk share without it.
        verify: whether shards that are there are checked against their hashes, and damaged ones made again.
    """

    dtype: str = "bfloat16"
    shard_bytes: int = 512 << 20
    batch: int = BATCH_TOKENS
    seed: int = 0
    part: tuple[int, int] = (1, 1)
    verify: bool = False


def make_plan(model: Model, contexts: Contexts, sites: Sequence[Site], storing: Storing) -> dict[str, Any]:
    """All that a store's content follows from, as JSON values."""
    if storing.dtype not in TABLES:
        narrow(torch.empty(0, 1), storing.dtype)
    if not sites:
        raise BadInput("There is no site to record at; name at least one.")
    odd = [site for site in sites if "key" in KINDS[site.kind].shape]
    if odd:
        raise BadInput(f"The site {odd[0]} is as wide as the text is long, so it cannot be stored.")
    probe = model.capture([[0]], sites)
    widths = {site.name: probe[site.name].flatten(2).shape[2] for site in sites}
    bytes_a_row = sum(width * TABLES[storing.dtype]["values"].itemsize for width in widths.values())
    describe = getattr(contexts.documents, "plain", dict)
    return {
        "model": model.name,
        "numbers": str(model.dtype).removeprefix("torch."),
        "sites": widths,
        "heads": heads(model, sites),
        "dtype": storing.dtype,
        "corpus": describe(),
        "reading": contexts.reading.plain() | {"context": contexts.length},
        "shard_rows": max(1, storing.shard_bytes // bytes_a_row),
        "batch": storing.batch,
        "seed": storing.seed,
    }


def begin(folder: Folder, plan: Mapping[str, Any], verify: bool) -> None:
    """Make sure that a folder is empty or holds this very harvest, and take out of it what is damaged."""
    manifest = read_manifest(folder)
    there = manifest["fields"]["plan"] if manifest else _begun(folder)
    if there is None:
        folder.write(PLAN, [json.dumps(plan, indent=1).encode()])
        return
    for name, value in plan.items():
        if there.get(name) != value:
            raise BadInput(
                f"The store {folder.name} was begun with another {name} ({_short(there.get(name))}, now "
                f"{_short(value)}); give the same settings to go on with it, or choose another folder."
            )
    if verify:
        _take_out(folder, plan)


def done(folder: Folder) -> set[int]:
    """Numbers of the shards that are there."""
    return {int(each.removeprefix("marks/").removesuffix(".safetensors")) for each in folder.sizes("marks")}


def _take_out(folder: Folder, plan: Mapping[str, Any]) -> None:
    """Remove the marks of damaged shards and, if there are any, the manifest: the store counts as unfinished then."""
    wrong = []
    for number in sorted(done(folder)):
        name = shard_file("marks", number)
        try:
            about, sums = metadata(folder.read(name)), tensors_of(folder, name)
            intact = hash_of(as_file(sums)) == about["sha256"] and not damaged(folder, json.loads(about["files"]))
        except (BadArtefact, KeyError, ValueError):
            intact = False
        if not intact:
            wrong.append(name)
    manifest = read_manifest(folder)
    if wrong or (manifest and damaged(folder, {STATISTICS: manifest["files"][STATISTICS]})):
        folder.write(PLAN, [json.dumps(plan, indent=1).encode()])
        for name in [MANIFEST, *wrong]:
            folder.remove(name)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _begun(folder: Folder) -> dict[str, Any] | None:
    try:
        return json.loads(folder.read(PLAN))
    except NotFound:
        if folder.sizes():
            raise BadInput(f"The folder {folder.name} holds something else than a {KIND}; choose another.") from None
        return None
