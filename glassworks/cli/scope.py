"""`glassworks scope`: what a release of coders holds."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, show

if TYPE_CHECKING:
    from glassworks.coders import Entry

EACH = 40
"""Up to this many coders are printed one by one."""


def scope(
    reference: Annotated[
        str | None, typer.Argument(help="A scope: folder, embedded name, or owner/name; all known ones if left out.")
    ] = None,
    site: Annotated[
        str, typer.Option(help="Only coders that read here: resid_post.12, or mlp_in for all layers.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the coders of a release without loading weights: sites, layers, widths, L0, sizes."""
    from dataclasses import asdict

    from glassworks.coders import RELEASES, load_scope
    from glassworks.errors import NotFound, nearest

    if reference is None:
        return show({"releases": [asdict(each) for each in RELEASES]}, as_json)
    found = load_scope(reference)
    chosen = [each for each in found.entries if not site or site in _names(each)]
    if not chosen:
        known = sorted({name for each in found.entries for name in _names(each)})
        raise NotFound(f"The scope {reference} has no coder that reads {site}; {nearest(site, known)}.")
    rows = [_row(each) for each in chosen]
    table = rows if as_json or len(rows) <= EACH else _grouped(chosen)
    formats = sorted({each.provenance.format for each in chosen})
    return show({"scope": reference, "trained on": found.model, "format": formats, "coders": table}, as_json)


def _names(entry: "Entry") -> set[str]:
    return {word for site in entry.reads for word in (site.name, site.kind)}


def _row(entry: "Entry") -> dict[str, Any]:
    target = "" if entry.target is None or f"{entry.target:g}" == entry.l0 else f" ({entry.target:g})"
    return {
        "coder": entry.name,
        "kind": entry.kind,
        "reads": _sites(entry.reads),
        "writes": _sites(entry.writes),
        "latents": entry.width,
        "L0": f"{entry.l0}{target}",
        "tags": list(entry.tags),
        "MB": round(entry.bytes / 1e6, 3),
    }


def _sites(sites: tuple[Any, ...]) -> str:
    return sites[0].name if len(sites) == 1 else f"{sites[0]} .. {sites[-1]}"


def _grouped(entries: "list[Entry]") -> list[dict[str, Any]]:
    """One row for coders that differ only by layer, width and L0."""
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
