"""Layouts: which sites the parts of a coder read and write. All that distinguishes an SAE from a CLT stands here.

A part is one encoder matrix and one decoder matrix: it reads its sites side by side and writes its sites side by
side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from glassworks import sites as table
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.sites import Site

Sites = tuple[Site, ...]

PAIRS = {"mlp_in": "mlp_out", "mlp_in_pregain": "mlp_out"}
"""What a transcoder writes, by what it reads."""

PAIRED = ("transcoder", "skip_transcoder", "clt")
"""Kinds that write another site than they read."""

KINDS = ("sae", *PAIRED, "crosscoder", "causal_crosscoder")


@final
@dataclass(frozen=True)
class Layout:
    """The sites of one coder.

    Attributes:
        kind: one of `KINDS`.
        parts: what each part reads and writes.
        skip: whether a linear path leads around the latents.
    """

    kind: str
    parts: tuple[tuple[Sites, Sites], ...]
    skip: bool = False

    @property
    def reads(self) -> Sites:
        """All sites that are read."""
        return tuple(site for reads, _ in self.parts for site in reads)

    @property
    def writes(self) -> Sites:
        """All sites that are written, once each; the sites of each part follow each other."""
        return tuple(dict.fromkeys(site for _, writes in self.parts for site in writes))

    @property
    def same(self) -> bool:
        """Whether every part writes all that the coder reads, as an SAE does."""
        return all(reads == self.writes for reads, _ in self.parts)

    @property
    def name(self) -> str:
        """What a scope calls a coder of this layout, where it is the only one: its site, or its kind."""
        single = len(self.reads) == len(self.writes) == 1
        if not single:
            return self.kind
        return self.reads[0].name + ("/affine" if self.skip else "")


def layouts(kind: str, sites: Sequence[Site]) -> list[Layout]:
    """The coders of one kind between some sites.

    Args:
        kind: `sae`, one at each site; `transcoder` or `skip_transcoder`, one for each MLP; `clt`, one from all MLP
            inputs to their own and all later MLP outputs; `crosscoder`, one that reads and writes all sites;
            `causal_crosscoder`, one whose parts read a site each and write it and the later ones.
        sites: those that there are.

    Raises:
        NotFound: there is no such kind.
        BadInput: the sites give none.
    """
    if kind not in KINDS:
        raise NotFound(f"There is no kind of coder {kind!r}; {nearest(kind, KINDS, most=len(KINDS))}.")
    kinds = list(table.KINDS)
    ordered = tuple(sorted(set(sites), key=lambda site: (site.layer or 0, kinds.index(site.kind))))
    pairs = [(site, Site(PAIRS[site.kind], site.layer)) for site in ordered if site.kind in PAIRS]
    pairs = [(read, write) for read, write in pairs if write in ordered]
    if not ordered:
        raise BadInput(f"A {kind} needs sites; there are none.")
    if kind in PAIRED and not pairs:
        names = ", ".join(site.name for site in sites)
        raise BadInput(f"A {kind} needs pairs of mlp_in and mlp_out; the sites are {names}.")
    match kind:
        case "sae":
            return [Layout(kind, (((site,), (site,)),)) for site in ordered]
        case "transcoder" | "skip_transcoder":
            return [Layout(kind, (((read,), (write,)),), kind == "skip_transcoder") for read, write in pairs]
        case "crosscoder":
            return [Layout(kind, ((ordered, ordered),))]
        case "causal_crosscoder":
            return [Layout(kind, tuple(((site,), ordered[first:]) for first, site in enumerate(ordered)))]
    if len({read.kind for read, _ in pairs}) > 1:
        raise BadInput("A clt reads one kind of site; choose mlp_in or mlp_in_pregain.")
    writes = tuple(write for _, write in pairs)
    return [Layout("clt", tuple(((read,), writes[first:]) for first, (read, _) in enumerate(pairs)))]
