"""Bridge: two models joined by the text that both read: which layers are partners, and the maps between their states.

A bridge holds sums, not maps: the map between any couple of sites is fitted when it is needed. Every fifth text is
held out from the fit; ridges, partners of layers and the stated R2 come from there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks import artefacts
from glassworks.codec import decode
from glassworks.errors import BadArtefact, BadInput, NotFound, nearest
from glassworks.models import Model
from glassworks.sites import KINDS, Site
from glassworks.transfer.maps import Couple, Map, Spectrum, Sums, similarity
from glassworks.transfer.pairing import BATCH_TOKENS, PairedText, pair, paired_states

KIND = "bridge"
STREAM = ("resid_pre", "resid_mid", "resid_post")
HELD = 5
"""One in so many texts is held out."""
ROWS = ("text", "all", "ends")
"""Tokens that count: those of the text; also the one before it (BOS), a constant; the last one of each text."""


@final
@dataclass(frozen=True)
class Quality:
    """How well two sites go together.

    Attributes:
        site_a: of A.
        site_b: of B.
        up: held-out R2 of the map from A to B.
        down: held-out R2 of the map from B to A.
        cka: debiased linear CKA.
    """

    site_a: str
    site_b: str
    up: float
    down: float
    cka: float

    @property
    def score(self) -> float:
        """What layers are matched by: the mean of both R2 (at least 0) and CKA."""
        return (max(self.up, 0.0) + max(self.down, 0.0)) / 4 + self.cka / 2


@final
@dataclass(frozen=True, eq=False)
class Bridge:
    """Two models A and B, joined by the text that both read.

    Example:
        ```python
        bridge = align(load_model("smallworld-s"), load_model("smallworld-m"), texts)
        x_a = bridge.down("resid_post.1")(x_b)       # states of B at the matched layer, as A would have them
        d_b = bridge.up("resid_post.1").push(d_a)    # a direction of A, written in B
        ```

    Attributes:
        a: name of model A.
        b: name of model B.
        depths: number of layers of A and of B.
        kinds: of the sites whose couples decide which layers are partners.
        fit: sums over the text that maps are fitted to.
        held: sums over held-out text, about the same centres.
        facts: how it was made; plain JSON values.
    """

    a: str
    b: str
    depths: tuple[int, int]
    kinds: tuple[str, ...]
    fit: Sums
    held: Sums
    facts: Mapping[str, Any] = field(default_factory=dict)
    _spectra: dict[str, Spectrum] = field(default_factory=dict, repr=False)
    _maps: dict[tuple[str, str], Map] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        path = ", ".join(f"{a}-{b}" for a, b in self.layers.items())
        return f"Bridge({self.a!r} -> {self.b!r}: {self.fit.rows} + {self.held.rows} rows, layers {path})"

    def up(self, site_a: str | Site, site_b: str | Site | None = None) -> Map:
        """The map from a site of A to one of B, by default the same kind at the matched layer; see `down`."""
        return self._map(f"a/{canonical(site_a)}", f"b/{canonical(site_b or self.partner(site_a))}")

    def down(self, site_a: str | Site, site_b: str | Site | None = None) -> Map:
        """The map to a site of A from one of B.

        Args:
            site_a: of A.
            site_b: of B; by default the same kind at the matched layer.

        Raises:
            NotFound: the bridge holds no sums of these two sites together.
        """
        return self._map(f"b/{canonical(site_b or self.partner(site_a))}", f"a/{canonical(site_a)}")

    def partner(self, site_a: str | Site) -> Site:
        """The site of B that goes with one of A: the same kind at the matched layer."""
        site = Site.parse(site_a)
        if site.layer is None:
            return site
        if site.layer not in self.layers:
            raise NotFound(f"{self.a} has no layer {site.layer}; it has layers 0 to {self.depths[0] - 1}.")
        return Site(site.kind, self.layers[site.layer])

    @cached_property
    def layers(self) -> dict[int, int]:
        """Layer of A -> the layer of B that does the same, as far as there is one; see `monotone_path`."""
        scores = torch.full(self.depths, -torch.inf)
        for layer_a in range(self.depths[0]):
            for layer_b in range(self.depths[1]):
                couples = [(canonical(Site(kind, layer_a)), canonical(Site(kind, layer_b))) for kind in self.kinds]
                known = [self._quality[couple].score for couple in couples if couple in self._quality]
                if len(known) == len(couples):
                    scores[layer_a, layer_b] = sum(known) / len(known)
        return dict(enumerate(monotone_path(scores)))

    @property
    def qualities(self) -> list[Quality]:
        """How well every couple of sites goes together."""
        return [*self._quality.values()]

    @cached_property
    def _quality(self) -> dict[tuple[str, str], Quality]:
        qualities = {}
        for site_a, site_b in self.fit.couples:
            both, held = self.fit.couple(site_a, site_b), self.held.couple(site_a, site_b)
            cka = similarity(self.fit.site("a", site_a), self.fit.site("b", site_b), both)
            up = self._spectrum(f"a/{site_a}").residuals(both, held)
            down = self._spectrum(f"b/{site_b}").residuals(both.swapped, held.swapped)
            qualities[site_a, site_b] = Quality(site_a, site_b, 1 - float(up.min()), 1 - float(down.min()), cka)
        return qualities

    def quality(self, site_a: str | Site, site_b: str | Site | None = None) -> Quality:
        """How well a site of A goes with one of B, by default the same kind at the matched layer."""
        couple = (canonical(site_a), canonical(site_b or self.partner(site_a)))
        self.fit.couple(*couple)
        return self._quality[couple]

    def check(self, a: Model | None = None, b: Model | None = None) -> None:
        """Raise BadInput unless models have the depths and widths that the bridge was made for."""
        for side, name, depth, model in (("a", self.a, self.depths[0], a), ("b", self.b, self.depths[1], b)):
            widths = {len(mean) for key, mean in self.fit.centres.items() if key.startswith(f"{side}/resid_")}
            if model is not None and (model.n_layers != depth or widths - {model.d_model}):
                raise BadInput(
                    f"The bridge was made for {name} with {depth} layers of width {max(widths, default=0)}; "
                    f"{model.name} has {model.n_layers} of width {model.d_model}, so align it anew."
                )

    def save(self, path: Path | str) -> artefacts.Artefact:
        """Write the bridge as an artefact."""
        fields = {"a": self.a, "b": self.b, "depths": list(self.depths), "kinds": list(self.kinds)}
        fields |= {"layers": [*self.layers.values()], "facts": dict(self.facts)}
        tensors = {"fit": self.fit.tensors(), "held": self.held.tensors()}
        tables = {"qualities": [asdict(quality) for quality in self.qualities]}
        return artefacts.write(path, KIND, fields, tensors, tables, [self.a, self.b])

    def _spectrum(self, name: str) -> Spectrum:
        if name not in self._spectra:
            side, site = name.split("/")
            self._spectra[name] = Spectrum(self.fit.site(side, site), self.held.site(side, site))
        return self._spectra[name]

    def _map(self, source: str, target: str) -> Map:
        if (source, target) not in self._maps:
            sites = {name[0]: name[2:] for name in (source, target)}
            fit, held = (sums.couple(sites["a"], sites["b"]) for sums in (self.fit, self.held))
            if source[0] == "b":
                fit, held = fit.swapped, held.swapped
            centred = self._spectrum(source).fit(fit, held, source, target)
            centre_x, centre_y = self.fit.centres[source], self.fit.centres[target]
            bias = centred.bias + centre_y - centre_x @ centred.weight
            self._maps[source, target] = replace(centred, bias=bias).to(bias.device)
        return self._maps[source, target]


def align(
    a: Model,
    b: Model,
    texts: Iterable[PairedText],
    kinds: Sequence[str] = STREAM,
    *,
    reach: int | float = 1,
    rows: str = "text",
    shuffled: int | None = None,
    batch: int = BATCH_TOKENS,
) -> Bridge:
    """Make a bridge between two models, in one pass over texts.

    Maps are good where the texts are like the prompts that they will be used on: give general text and prompts of the
    domain together; nothing needs to be labelled.

    Args:
        a: one model.
        b: another, of any width, depth and tokenizer.
        texts: what both read; see `PairedText`.
        kinds: of the sites to join. Those of one kind, and the stream before and after blocks, are joined with each
            other at all layers.
        reach: join only sites whose depths, as shares of their models', differ by at most this; saves time and space
            with deep models.
        rows: which tokens count; see `ROWS`. No affine map serves the ends of prompts and all the rest together, so
            where something is read at the end of a prompt, make a bridge of `ends` from many prompts.
        shuffled: a control: pair every state with a random other one of its batch, by this seed.
        batch: tokens in one forward pass.

    Raises:
        NotFound: there is no such kind of site.
        BadInput: the models share no text or no such sites, or the texts are too few to hold some out.
    """
    common = _common_kinds(a, b, kinds)
    couples = _couples(a, b, common, reach)
    sites_a, sites_b = (list(dict.fromkeys(couple[end] for couple in couples)) for end in (0, 1))
    if rows not in ROWS:
        raise NotFound(f"There are no rows {rows!r}; {nearest(rows, ROWS)}.")
    pairs = pair(a, b, texts, rows == "all")
    if rows == "ends":
        pairs = [replace(some, at_a=some.at_a[-1:], at_b=some.at_b[-1:]) for some in pairs]
    fit, held = Sums(couples), Sums(couples)
    generator = None if shuffled is None else torch.Generator().manual_seed(shuffled)
    for sums in (fit, held):
        held.centres |= fit.centres
        some = [text for text in pairs if (text.document % HELD == HELD - 1) == (sums is held)]
        for part in paired_states(a, b, some, sites_a, sites_b, batch):
            states_b = part.b
            if generator is not None:
                order = torch.randperm(len(part), generator=generator)
                states_b = {site: value[order.to(value.device)] for site, value in states_b.items()}
            sums.add(part.a, states_b)
    if not fit.rows or not held.rows:
        raise BadInput(f"One text in {HELD} is held out, and there are too few; give at least {HELD} with partners.")
    facts = {"texts": len({text.document for text in pairs}), "rows": rows, "reach": reach, "shuffled": shuffled}
    return Bridge(a.name, b.name, (a.n_layers, b.n_layers), common, fit, held, facts)


def load_bridge(path: Path | str) -> Bridge:
    """Read a bridge.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: it is damaged, or holds something else.
    """
    stored = artefacts.read(path, KIND)
    fields = stored.fields
    try:
        bridge = Bridge(
            fields["a"],
            fields["b"],
            (fields["depths"][0], fields["depths"][1]),
            tuple(fields["kinds"]),
            Sums.of_tensors(stored.tensors("fit")),
            Sums.of_tensors(stored.tensors("held")),
            fields["facts"],
        )
        rows = decode(list[Quality], stored.table("qualities"), f"bridge {path}")
        vars(bridge)["_quality"] = {(row.site_a, row.site_b): row for row in rows}
    except (KeyError, TypeError, IndexError) as error:
        raise BadArtefact(f"The bridge {path} lacks or misstates {error}; align the models again.") from error
    return bridge


def canonical(site: str | Site) -> str:
    """The name under which a site is summed: the stream before a block is the stream after the one before it."""
    site = Site.parse(site)
    return f"resid_post.{site.layer - 1}" if site.kind == "resid_pre" and site.layer else site.name


def monotone_path(scores: Float[Tensor, "layer_a layer_b"]) -> list[int]:
    """Give each layer of A a layer of B, never an earlier one than the layer before has.

    Depth only grows, so the partners of later layers are not earlier ones; of all such assignments, dynamic
    programming finds the one with the largest total score.

    Args:
        scores: how well each layer of A goes with each of B; -inf where they must not be partners.

    Returns:
        B's layer for each of A's; of equally good assignments the one with the earliest partners.
    """
    best, back = scores[0].double().tolist(), []
    for row in scores[1:].double().tolist():
        before, chosen = 0, []
        for layer in range(len(row)):
            before = layer if best[layer] > best[before] else before
            chosen.append(before)
        best = [score + best[start] for score, start in zip(row, chosen, strict=True)]
        back.append(chosen)
    path = [max(range(len(best)), key=lambda layer: best[layer])]
    for chosen in reversed(back):
        path.append(chosen[path[-1]])
    return path[::-1]


def _common_kinds(a: Model, b: Model, kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds that both models have at every layer."""
    for kind in kinds:
        if kind not in KINDS:
            raise NotFound(f"There is no site kind {kind!r}; {nearest(kind, KINDS)}.")
        if not KINDS[kind].layered or "key" in KINDS[kind].shape:
            raise BadInput(f"The site {kind} has no layers or no fixed width; choose others, {', '.join(STREAM)} say.")
    present = {site.kind for site in a.sites()} & {site.kind for site in b.sites()}
    common = tuple(kind for kind in kinds if kind in present)
    if not common:
        raise BadInput(f"{a.name} and {b.name} have none of {', '.join(kinds)} in common; choose other kinds of sites.")
    return common


def _couples(a: Model, b: Model, kinds: Sequence[str], reach: int | float) -> list[Couple]:
    """Sites that can be partners: of one kind, or both in the stream between blocks."""

    def ends(model: Model) -> list[tuple[str, str, float]]:
        """Name, group and relative depth of each site."""
        return [
            (canonical(site), "between" if kind in ("resid_pre", "resid_post") else kind, (site.layer or 0) / depth)
            for kind in kinds
            for site in model.sites(kind)
            for depth in [max(1, model.n_layers - 1)]
        ]

    close = [
        (site_a, site_b)
        for site_a, group_a, depth_a in ends(a)
        for site_b, group_b, depth_b in ends(b)
        if group_a == group_b and abs(depth_a - depth_b) <= reach
    ]
    return list(dict.fromkeys(close))
