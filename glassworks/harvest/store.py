"""Store: harvested activations on a disk or in a bucket, read as if they were one table.

    store/
      manifest.json                   kind "store": what it is, its statistics, hashes of all files
      rows/00000.safetensors          a shard's tokens: tokens, documents, positions, following (int32)
      mlp_in.5/00000.safetensors      a shard's activations at one site: values, and scales where int8
      marks/00000.safetensors         sums of a shard, and the hashes of its files; written last
      statistics.safetensors          mean.<site>, square.<site>: of each component

Only the bytes that are asked for are read. This module must not know how a store is filled.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from glassworks.artefacts import MANIFEST, SCHEMA
from glassworks.errors import BadArtefact, GlassworksError, NotFound
from glassworks.harvest.activations import Activations, Statistics, split_head
from glassworks.harvest.folders import Folder, open_folder
from glassworks.harvest.tensors import Shape, header, names, put, table, widen
from glassworks.pages import paragraph
from glassworks.pages import table as table_of

KIND = "store"
COLUMNS = ("tokens", "documents", "positions", "following")
STATISTICS = "statistics.safetensors"


@final
class Store(Activations):
    """A finished store.

    Example:
        ```python
        store = load_store("store/")
        store.read("mlp_in.5", slice(0, 4096))          # neighbouring rows, float32
        store.take("mlp_in.5", torch.tensor([9, 100]))  # any rows
        ```

    Attributes:
        folder: where it lies.
        fields: what its manifest says.
        files: name of each file -> {"bytes": size, "sha256": hash}.
    """

    def __init__(self, folder: Folder, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.fields: dict[str, Any] = manifest["fields"]
        self.files: dict[str, dict[str, Any]] = manifest["files"]
        counts = torch.tensor([0, *self.fields["shards"]])
        self.starts = counts.cumsum(0)

    def __repr__(self) -> str:
        sites = ", ".join(self.sites[:4]) + f" and {len(self.sites) - 4} more sites" * (len(self.sites) > 4)
        return f"Store({self.folder.name!r}: {self.rows:,} rows of {self.model} at {sites})"

    def _repr_html_(self) -> str:
        caption = f"Store {self.folder.name}: {self.rows:,} rows of {self.model}, {self.dtype}"
        sites = [{"site": site, "width": width} for site, width in self.widths.items()]
        return paragraph(caption) + table_of(sites)

    @property
    def model(self) -> str:
        """Name of the model that was harvested."""
        return self.fields["plan"]["model"]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return int(self.starts[-1])

    @property
    def dtype(self) -> str:
        """How activations are stored: float32, bfloat16 or int8."""
        return self.fields["plan"]["dtype"]

    @property
    def untrained(self) -> tuple[str, ...]:
        """Positions that were left out, as a scope names them."""
        return tuple(self.fields["plan"]["reading"]["untrained"])

    @property
    def widths(self) -> dict[str, int]:
        """Site -> width of its activations."""
        return self.fields["plan"]["sites"]

    @property
    def heads(self) -> dict[str, int]:
        """Site -> how many heads lie side by side there, where there are any."""
        return self.fields["plan"]["heads"]

    @cached_property
    def tokens(self) -> Int[Tensor, " row"]:
        """The token ids."""
        return self._column("tokens")

    @cached_property
    def documents(self) -> Int[Tensor, " row"]:
        """Which document of the corpus each token comes from."""
        return self._column("documents")

    @cached_property
    def positions(self) -> Int[Tensor, " row"]:
        """The place of each token in what the model saw at once; the first has 0."""
        return self._column("positions")

    @cached_property
    def following(self) -> Int[Tensor, " row"]:
        """The token after each token in its document, -1 where it is the last of what the model saw."""
        return self._column("following")

    def statistics(self, site: str) -> Statistics:
        """Moments of a site or of one head, over all rows; computed when it was harvested."""
        self._check(site)
        whole, head = split_head(site)
        mean, square = self._moments[f"mean.{whole}"], self._moments[f"square.{whole}"]
        if head is not None:
            mean, square = (each.view(self.heads[whole], -1)[head] for each in (mean, square))
        return Statistics(self.rows, mean.float(), float(square.sum()))

    def raw(self, site: str, rows: slice | Int[Tensor, " row"]) -> dict[str, Tensor]:
        """Rows of a site as they are stored: `values`, and `scales` where int8; for `tensors.widen`."""
        return {name: self._tensor(site, name, rows) for name in table(self.dtype, 0, self.widths[site])}

    def verify(self) -> list[str]:
        """Names of files that are missing or differ from the hashes in the manifest; reads everything."""
        return damaged(self.folder, self.files)

    def _whole(self, site: str, rows: slice | Tensor) -> Tensor:
        return widen(self.raw(site, rows))

    @cached_property
    def _moments(self) -> dict[str, Tensor]:
        return tensors_of(self.folder, STATISTICS)

    def _column(self, name: str) -> Tensor:
        return self._tensor("rows", name, slice(0, self.rows)).long()

    def _shapes(self, group: str, shard: int) -> dict[str, Shape]:
        rows = int(self.starts[shard + 1] - self.starts[shard])
        return columns(rows) if group == "rows" else table(self.dtype, rows, self.widths[group])

    def _tensor(self, group: str, name: str, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, Tensor):
            return self._gathered(group, name, rows)
        first, last = torch.searchsorted(self.starts, torch.tensor([rows.start, rows.stop - 1]), right=True) - 1
        parts = []
        for shard in range(int(first), int(last) + 1 if rows.stop > rows.start else int(first) + 1):
            start = int(self.starts[shard])
            inside = max(rows.start - start, 0), min(rows.stop, int(self.starts[shard + 1])) - start
            parts.append(self._span(group, name, shard, inside[0], max(inside)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _span(self, group: str, name: str, shard: int, start: int, stop: int) -> Tensor:
        dtype, shape, offset, width = self._place(group, name, shard)
        found = self.folder.span(shard_file(group, shard), offset + start * width, (stop - start) * width)
        return found.view(dtype).view(stop - start, *shape[1:])

    def _gathered(self, group: str, name: str, rows: Tensor) -> Tensor:
        shards = torch.searchsorted(self.starts, rows, right=True) - 1
        dtype, shape, _, _ = self._place(group, name, 0)
        found = torch.empty(len(rows), *shape[1:], dtype=dtype)
        for shard in shards.unique().tolist():
            here = (shards == shard).nonzero()[:, 0]
            _, _, offset, width = self._place(group, name, shard)
            inside = rows[here] - self.starts[shard]
            part = self.folder.gather(shard_file(group, shard), offset, width, inside)
            put(found, here, part.view(dtype).view(len(here), *shape[1:]))
        return found

    def _place(self, group: str, name: str, shard: int) -> tuple[torch.dtype, tuple[int, ...], int, int]:
        """Type and shape of a tensor of a shard, the place in its file, and the bytes of a row."""
        shapes = self._shapes(group, shard)
        dtype, shape = shapes[name]
        return dtype, shape, header(shapes)[1][name], dtype.itemsize * (shape[1] if len(shape) > 1 else 1)


def load_store(place: str | Path) -> Store:
    """Open a store.

    Args:
        place: its folder, or an address like `s3://bucket/store`.

    Raises:
        NotFound: there is none, or it is not finished.
        BadArtefact: it is something else, or files are missing or cut off.
    """
    folder = open_folder(place)
    manifest = read_manifest(folder)
    if manifest is None:
        unfinished = "plan.json" in folder.sizes()
        reason = "it is not finished: run the harvest again, which goes on" if unfinished else "there is no manifest"
        raise NotFound(f"There is no store at {place} that can be read; {reason}.")
    sizes = folder.sizes()
    wrong = next((name for name, facts in manifest["files"].items() if sizes.get(name) != facts["bytes"]), None)
    if wrong:
        raise BadArtefact(
            f"The file {wrong} of the store {place} is missing or cut off; harvest it again with --verify, which "
            "writes only what is damaged."
        )
    return Store(folder, manifest)


def read_manifest(folder: Folder) -> dict[str, Any] | None:
    """The manifest of a finished store, or None where there is none yet."""
    try:
        manifest = json.loads(folder.read(MANIFEST))
    except NotFound:
        return None
    except ValueError as error:
        if isinstance(error, GlassworksError):
            raise
        raise BadArtefact(f"The {MANIFEST} of {folder.name} is no JSON ({error}).") from error
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found != KIND:
        raise BadArtefact(f"The folder {folder.name} holds a {found or 'foreign manifest'}, not a {KIND}.")
    if manifest["schema"] > SCHEMA:
        raise BadArtefact(f"The store {folder.name} was written by a newer version; update Glassworks to read it.")
    return manifest


def tensors_of(folder: Folder, file: str) -> dict[str, Tensor]:
    """All tensors of a small file, in its order; BadArtefact where it is damaged."""
    try:
        raw = folder.read(file)
        found = load(raw)  # in no order of its own
        return {name: found[name] for name in names(raw)}
    except SafetensorError as error:
        raise BadArtefact(f"The file {file} of {folder.name} cannot be read ({error}); remove it.") from error


def damaged(folder: Folder, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which files are missing or do not have the size and hash that they should; reads all of them."""
    sizes = folder.sizes()
    wrong = [name for name, facts in files.items() if sizes.get(name) != facts["bytes"]]
    rest = [name for name in files if name not in wrong]
    return wrong + [name for name in rest if hash_of([folder.read(name)]) != files[name]["sha256"]]


def hash_of(parts: list[bytes | memoryview]) -> str:
    """SHA-256 of a file's parts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def columns(rows: int) -> dict[str, Shape]:
    """Shapes of what is stored of a shard's tokens."""
    return dict.fromkeys(COLUMNS, (torch.int32, (rows,)))


def shard_file(group: str, shard: int) -> str:
    """Name of a shard's file of a site, of its `rows` or its `marks`."""
    return f"{group}/{shard:05}.safetensors"
