"""`glassworks scope`: what a release of coders holds."""

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

    from glassworks.coders import RELEASES, grouped, load_scope
    from glassworks.errors import NotFound, nearest

    if reference is None:
        return show({"releases": [asdict(each) for each in RELEASES]}, as_json)
    found = load_scope(reference)
    chosen = [each for each in found.entries if not site or site in _names(each)]
    if not chosen:
        known = sorted({name for each in found.entries for name in _names(each)})
        raise NotFound(f"The scope {reference} has no coder that reads {site}; {nearest(site, known)}.")
    rows = [_row(each) for each in chosen]
    table = rows if as_json or len(rows) <= EACH else grouped(chosen)
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
