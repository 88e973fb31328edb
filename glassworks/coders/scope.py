"""Scopes: a set of coders for one model, with labels and evidence, saved as an artefact.

A scope's folder holds `manifest.json` (kind "scope": name, model, replacement, untrained, coders, metrics), one
`<coder>.safetensors` each, `labels.json` and, where collected, `evidence.<coder>.safetensors`. Releases of others
are scopes as well, through `formats`. This module must not know how any of it was made.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, final

import torch

from glassworks import artefacts, codec
from glassworks.coders import own
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, grouped
from glassworks.coders.evidence import Evidence
from glassworks.coders.files import files_of
from glassworks.coders.formats import find_entries
from glassworks.coders.shelf import Shelf, matching, one
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.pages import format_value, table

MOST_ROWS = 17
"""A scope prints so many rows of its table at the most."""
TEMPLATE = ("<start_of_turn>", "user", "\n")
"""What follows BOS at the start of every chat of a Gemma model."""


@final
@dataclass(eq=False, repr=False)
class Scope:
    """The coders of one model.

    Attributes:
        name: what it was loaded as, so that it can be loaded again; else the scope's own name.
        model: the name of the model that it was trained on.
        coders: coder by name, built when it is first taken; in a scope with one coder a site, the read site's name.
        replacement: names of the coders that stand in for the MLPs in a trace: one per layer, or one for all.
        labels: coder id -> one short label per latent, "" where there is none.
        untrained: positions that the coders were not trained on: "bos" is the first token of a prompt, whose
            MLP outputs stay the model's own and which carries no features; "template" is the start of
            a chat up to the user's text.
        metrics: what was measured of it; plain JSON values.
    """

    name: str
    model: str
    coders: MutableMapping[str, Any]  # of Coder; a checker of types that takes a value out would build it
    replacement: list[str]
    labels: dict[str, list[str]] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    evidences: dict[str, Evidence] = field(default_factory=dict, repr=False)
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.coders, Shelf):
            self.coders = Shelf(built=self.coders)

    def __repr__(self) -> str:
        """A line about the scope and a table of its coders, 20 lines at most."""
        rows = [{name: format_value(value) for name, value in row.items()} for row in grouped(self.entries)]
        shown = rows[:MOST_ROWS]
        names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
        widths = {name: max(len(name), *(len(row[name]) for row in shown)) for name in names}
        lines = ["  ".join(f"{row[name]:<{widths[name]}}" for name in names).rstrip() for row in shown]
        lines[:0] = ["  ".join(f"{name:<{widths[name]}}" for name in names).rstrip()] if shown else []
        lines += [f"... and {len(rows) - len(shown)} more kinds of coders"] if len(rows) > len(shown) else []
        return "\n  ".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        rows = grouped(self.entries)
        return f"<p>{escape(self._title())}</p>{table(rows[:MOST_ROWS], list(rows[0]) if rows else [])}"

    def _title(self) -> str:
        labels = sum(map(bool, self.labels.values()))
        return (
            f"Scope({self.name!r}, of {self.model or 'an unnamed model'}: {len(self)} coders, "
            f"{len(self.replacement)} of them replace the MLPs, labels for {labels} sets of latents)"
        )

    @property
    def entries(self) -> list[Entry]:
        """What is in it, known without loading weights: sites, kinds, widths, L0, sizes, files."""
        assert isinstance(self.coders, Shelf)
        return self.coders.entries

    def __getitem__(self, reference: str) -> Coder:
        """A coder by name; by its read site where only one reads it; a part of a joint coder as `name/site`."""
        if reference in self.coders:
            return self.coders[reference]
        joint = reference.rpartition("/")[0]
        parts = self.coders[joint].parts if joint in self.coders else ()
        found = [part for part in parts if part.id == reference]
        if found:
            return found[0]
        single = [entry for entry in self.entries if len(entry.reads) == 1 and entry.id == reference]
        if len(single) == 1:
            return self.coders[single[0].name]
        if single:
            return self.select(reference)
        known = dict.fromkeys([*self.coders, *(entry.id for entry in self.entries)])
        raise NotFound(f"The scope {self.name} has no coder {reference!r}; {nearest(reference, known)}.")

    def select(
        self,
        site: str | None = None,
        *,
        kind: str | None = None,
        width: str | int | None = None,
        l0: str | int | float | None = None,
        tags: Sequence[str] | str | None = None,
        name: str | None = None,
    ) -> Coder:
        """The one coder that fits, of several at a site.

        Args:
            site: its read site, `resid_post.12`.
            kind: `sae`, `transcoder`, `clt` or `crosscoder`.
            width: as the release writes it, `16k`, or how many latents.
            l0: as the release writes it, `medium`, or its target.
            tags: what else sets it apart, `affine`, `all`; by default the coder without any, where that is unique.
            name: its name in the release.

        Raises:
            NotFound: none fits; the nearest alternatives are named.
            BadInput: several fit.
        """
        wanted = {"site": site, "kind": kind, "width": width, "l0": l0, "tags": tags, "name": name}
        return self.coders[one(self.name, self.entries, matching(self.entries, **wanted), wanted).name]

    def choose(
        self,
        *,
        kind: str | None = None,
        width: str | int | None = None,
        l0: str | int | float | None = None,
        tags: Sequence[str] = (),
    ) -> "Scope":
        """A scope of the coders that fit, with exactly these tags; those that write MLP outputs replace the MLPs.

        Args:
            kind: see `select`.
            width: see `select`.
            l0: see `select`.
            tags: all of a coder's tags.

        Raises:
            NotFound: none fits.
        """
        assert isinstance(self.coders, Shelf)
        wanted = {"kind": kind, "width": width, "l0": l0}
        found = [each for each in matching(self.entries, **wanted) if set(each.tags) == set(tags)]
        if not found:
            one(self.name, self.entries, found, wanted | {"tags": tags})
        return replace(self, coders=self.coders.pick(each.name for each in found), replacement=replacement_of(found))

    def __contains__(self, reference: object) -> bool:
        return reference in self.coders or str(reference).rpartition("/")[0] in self.coders

    def __iter__(self) -> Iterator[str]:
        return iter(self.coders)

    def __len__(self) -> int:
        return len(self.coders)

    @property
    def single(self) -> dict[str, Coder]:
        """All coders of one read site by name, joint ones in their parts; builds them."""
        parts = {name: coder.parts for name, coder in self.coders.items()}
        return {name if len(found) == 1 else part.id: part for name, found in parts.items() for part in found}

    def masked(self, texts: Sequence[str]) -> int:
        """How many of a prompt's first tokens carry no features, because the coders were not trained on them.

        Args:
            texts: what the prompt's tokens show.
        """
        if "template" in self.untrained and tuple(texts[1:4]) == TEMPLATE:
            return 4
        return int("bos" in self.untrained)

    def label(self, coder: str, index: int) -> str:
        """The label of one latent, "" where it has none."""
        labels = self.labels.get(coder)
        return labels[index] if labels else ""

    def evidence(self, coder: str) -> Evidence | None:
        """What was seen of a coder's latents, read on first use; None where nothing was collected."""
        name = f"evidence.{self[coder].id}"
        if coder not in self.evidences and self.folder is not None and (self.folder / f"{name}.safetensors").is_file():
            stored = artefacts.read(self.folder, "scope")
            self.evidences[coder] = Evidence.from_tensors(stored.tensors(name))
        return self.evidences.get(coder)

    def replacement_coders(self, layers: int) -> dict[int, Coder]:
        """The coders that stand in for the MLPs, by the layer that they write.

        Args:
            layers: how many layers the model has.

        Raises:
            NotFound: a layer has none.
        """
        found = {site.layer: self[name] for name in self.replacement for site in self[name].writes}
        missing = [str(layer) for layer in range(layers) if layer not in found]
        if missing:
            raise NotFound(
                f"The scope {self.name} has no coder that replaces the MLP of layer {', '.join(missing)}; "
                f"it has {', '.join(self.replacement) or 'none at all'}."
            )
        return {layer: found[layer] for layer in range(layers)}

    def to(self, device: torch.device | str) -> "Scope":
        """Move all coders, in place."""
        assert isinstance(self.coders, Shelf)
        self.coders.to(device)
        return self


def save_scope(scope: Scope, path: Path | str, dtype: torch.dtype | None = None) -> artefacts.Artefact:
    """Write a scope as an artefact.

    Args:
        scope: all of it, evidence included.
        path: the folder; an older scope there is replaced.
        dtype: store weights in this type (thresholds stay as they are), by default as they are.

    Raises:
        BadInput: labels that do not fit their coder, or a folder that holds something else.
    """
    for name, labels in scope.labels.items():
        if len(labels) != scope[name].d_latent:
            raise BadInput(f"The coder {name} has {scope[name].d_latent} latents but {len(labels)} labels.")
    described = {entry.name: own.describe(scope.coders[entry.name], entry) for entry in scope.entries}
    fields = own.ScopeFields(
        scope.model, described, scope.replacement, tuple(scope.untrained), scope.metrics, name=scope.name
    )
    tensors = _tensors(scope, dtype)
    return artefacts.write(path, "scope", codec.plain(fields), tensors, {"labels": scope.labels}, [scope.model])


def load_scope(reference: Path | str) -> Scope:
    """Load a scope: a folder, an embedded name, or a repository; ours, or in any format that `formats` knows.

    Weights are read when a coder is first taken; those of coders above 1 GiB only row by row.

    Raises:
        NotFound: there is no such scope.
        BadArtefact: the folder is damaged, or is something else.
        Unsupported: the files are in no known format.
    """
    files = files_of(reference)
    if artefacts.MANIFEST not in files:
        return _foreign(files.reference, find_entries(files))
    stored = artefacts.read(files.path(artefacts.MANIFEST).parent, "scope")
    for name in files:
        if name == "labels.json" or name.startswith("evidence."):
            files.path(name)
    manifest = stored.decode(own.ScopeFields)
    return Scope(
        name=str(reference),
        model=manifest.model,
        coders=Shelf(own.entries(stored, manifest, files)),
        replacement=manifest.replacement,
        labels=stored.table("labels", dict[str, list[str]]) if (stored.path / "labels.json").is_file() else {},
        untrained=manifest.untrained,
        metrics=manifest.metrics,
        folder=stored.path,
    )


def replacement_of(entries: Sequence[Entry]) -> list[str]:
    """The coders that can only be meant as replacement of the MLPs: one CLT, or one transcoder a layer; else none."""
    writers = [each for each in entries if all(site.kind == "mlp_out" for site in each.writes) and each.kind != "sae"]
    layers = [site for each in writers for site in each.writes]
    return [each.name for each in writers] if len(set(layers)) == len(layers) else []


def _tensors(scope: Scope, dtype: torch.dtype | None) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
    """The files of a scope, one in memory at a time."""
    for name in scope.coders:
        yield from own.tensors(name, scope[name], dtype)
    for name in scope.single:
        evidence = scope.evidence(name)
        if evidence is not None:
            yield f"evidence.{name}", evidence.narrowed()


def _foreign(reference: str, entries: list[Entry]) -> Scope:
    model = next((each.provenance.model for each in entries if each.provenance.model), "")
    untrained = entries[0].provenance.untrained
    return Scope(reference, model, Shelf(entries), replacement_of(entries), untrained=untrained)
