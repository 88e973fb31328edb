"""Entries: what is known of a coder before its weights are read.

A scope is a list of entries; a coder is built from its entry on first use. Formats make entries from file names
and small configurations alone. This module must not know any format.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, final

from glassworks.coders.coder import Coder
from glassworks.sites import Site

KINDS = ("sae", "transcoder", "clt", "crosscoder")
"""sae: the same site at both ends; transcoder: one read, one write; clt: one coder a layer, each reads its own layer
and writes it and all later ones; crosscoder: one set of latents for several sites."""


@final
@dataclass(frozen=True)
class Provenance:
    """Where a coder comes from and how its numbers are to be read.

    Attributes:
        format: name of the format of its files.
        formula: what the original library computes, in one line.
        model: the model that it was trained on, as the release names it; "" where it does not.
        notes: what was changed or assumed on the way in, one sentence each.
        untrained: the positions that it was not trained on; see `Scope`.
    """

    format: str
    formula: str
    model: str = ""
    notes: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ("bos",)


@final
@dataclass(frozen=True)
class Entry:
    """One coder of a scope: what it is, and how to get it.

    Attributes:
        name: its name in the release, unique there, such as `resid_post/layer_12_width_16k_l0_medium`.
        reads: the sites that it encodes.
        writes: the sites that it reconstructs.
        kind: one of `KINDS`.
        width: how many latents, as the release or `width_word` writes it: `16k`; "" where only the weights tell.
        l0: how many latents are active a token, as the release writes it: `medium`, `85`; "" where it does not say.
        target: the same as a number, where it is known.
        tags: what else sets it apart: `all`, `affine`, `seed_1`.
        bytes: size of the files that it needs.
        files: names of those files in the release.
        provenance: format, formula and model.
        build: reads the files and gives the coder.
    """

    name: str
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    kind: str
    width: str
    l0: str
    target: float | None
    tags: tuple[str, ...]
    bytes: int
    files: tuple[str, ...]
    provenance: Provenance
    build: Callable[[], Coder] = field(repr=False)

    @property
    def id(self) -> str:
        """The read site's name, `mlp_in.5`; not unique where a release has several coders at one site."""
        return self.reads[0].name

    def row(self) -> dict[str, Any]:
        """A line of a table of coders."""
        target = "" if self.target is None or f"{self.target:g}" == self.l0 else f" ({self.target:g})"
        reads, writes = (
            sites[0].name if len(sites) == 1 else f"{sites[0]} .. {sites[-1]}" for sites in (self.reads, self.writes)
        )
        return {
            "coder": self.name,
            "kind": self.kind,
            "reads": reads,
            "writes": writes,
            "latents": self.width,
            "L0": f"{self.l0}{target}",
            "tags": list(self.tags),
            "MB": round(self.bytes / 1e6, 3),
        }


def kind_of(reads: tuple[Site, ...], writes: tuple[Site, ...]) -> str:
    """The kind of a coder that reads and writes one site each."""
    return "sae" if reads == writes else "transcoder"


def width_word(latents: int) -> str:
    """A number of latents as releases write it: 16384 -> `16k`, 262080 -> `262k`, 1048576 -> `1m`.

    Powers of two count in 1024s up to 64k and by thousands above, which is how the releases do.
    """
    if latents < 4000:
        return str(latents)
    if latents >= 1_000_000:
        return f"{latents // 1_000_000}m"
    return f"{latents // 1000}k"


def grouped(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """A table of coders: one row for those that differ only by layer, width and L0."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        key = (entry.kind, entry.reads[0].kind, entry.writes[0].kind, entry.tags)
        groups.setdefault(key, []).append(entry)
    return [
        {
            "kind": kind,
            "reads": reads,
            "writes": writes,
            "layers": _ranges(site.layer for each in group for site in each.reads if site.layer is not None),
            "latents": ", ".join(dict.fromkeys(each.width for each in group)),
            "L0": _some(dict.fromkeys(each.l0 for each in group)),
            "tags": ", ".join(tags),
            "coders": len(group),
            "GB": sum(each.bytes for each in group) / 1e9,
        }
        for (kind, reads, writes, tags), group in groups.items()
    ]


def _some(words: Iterable[str]) -> str:
    listed = list(words)
    return ", ".join(listed) if len(listed) <= 6 else f"{len(listed)} between {listed[0]} and {listed[-1]}"


def _ranges(layers: Iterable[int]) -> str:
    """0, 1, 2, 5 -> `0-2, 5`."""
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
