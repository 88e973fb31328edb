"""Layouts: which sites the parts of a coder read and write. All that tells an SAE from a CLT stands here.

A part is one encoder matrix and one decoder matrix: it reads its sites side by side and writes its sites side by
side. This module must not know how latents are chosen, nor what they should minimise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from glassworks import sites as places
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.sites import Site

Sites = tuple[Site, ...]

PAIRS = {"mlp_in": "mlp_out", "mlp_in_pregain": "mlp_out"}
"""What a transcoder writes, by what it reads."""


@final
@dataclass(frozen=True)
class Layout:
    """The sites of one coder.

    Attributes:
        kind: a key of `KINDS`.
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
        sites: what there is.

    Raises:
        NotFound: there is no such kind.
        BadInput: the sites give none.
    """
    if kind not in KINDS:
        raise NotFound(f"There is no kind of coder {kind!r}; {nearest(kind, KINDS, most=len(KINDS))}.")
    found = KINDS[kind](sorted(set(sites), key=_place))
    if not found:
        names = ", ".join(site.name for site in sites) or "none"
        raise BadInput(f"A {kind} needs pairs of mlp_in and mlp_out; the sites are {names}.")
    return found


def _place(site: Site) -> tuple[int, int]:
    """Where a site comes in a model's run."""
    return site.layer or 0, list(places.KINDS).index(site.kind)


def _saes(sites: list[Site]) -> list[Layout]:
    return [Layout("sae", (((site,), (site,)),)) for site in sites]


def _pairs(sites: list[Site]) -> list[tuple[Site, Site]]:
    pairs = [(site, Site(PAIRS[site.kind], site.layer)) for site in sites if site.kind in PAIRS]
    return [(read, write) for read, write in pairs if write in sites]


def _transcoders(sites: list[Site]) -> list[Layout]:
    return [Layout("transcoder", (((read,), (write,)),)) for read, write in _pairs(sites)]


def _skip_transcoders(sites: list[Site]) -> list[Layout]:
    return [Layout("skip_transcoder", (((read,), (write,)),), skip=True) for read, write in _pairs(sites)]


def _clt(sites: list[Site]) -> list[Layout]:
    pairs = _pairs(sites)
    if len({read.kind for read, _ in pairs}) > 1:
        raise BadInput("A clt reads one kind of site; choose mlp_in or mlp_in_pregain.")
    parts = [((read,), tuple(write for _, write in pairs[number:])) for number, (read, _) in enumerate(pairs)]
    return [Layout("clt", tuple(parts))] if parts else []


def _crosscoder(sites: list[Site]) -> list[Layout]:
    return [Layout("crosscoder", ((tuple(sites), tuple(sites)),))]


def _causal_crosscoder(sites: list[Site]) -> list[Layout]:
    return [Layout("causal_crosscoder", tuple(((site,), tuple(sites[n:])) for n, site in enumerate(sites)))]


PAIRED = ("transcoder", "skip_transcoder", "clt")
"""Kinds that write another site than they read."""

KINDS: dict[str, Callable[[list[Site]], list[Layout]]] = {
    "sae": _saes,
    "transcoder": _transcoders,
    "skip_transcoder": _skip_transcoders,
    "clt": _clt,
    "crosscoder": _crosscoder,
    "causal_crosscoder": _causal_crosscoder,
}
