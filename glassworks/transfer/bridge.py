"""Bridge: what is known about two models' states on the same text, and the maps between them that follow from it.

It holds sums, not maps: a map between any couple of sites is fitted when it is asked for. Saved as an artefact. This
module must not know how the sums were gathered.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from glassworks import artefacts
from glassworks.errors import BadArtefact, BadInput, NotFound
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.layers import monotone_path
from glassworks.transfer.maps import Map, Spectrum, fitted, similarity
from glassworks.transfer.statistics import Moments, Sums

KIND = "bridge"


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
        """The map from a site of A to one of B, that at the matched layer by default; see `down`."""
        return self._map(f"a/{canonical(site_a)}", f"b/{canonical(site_b or self.partner(site_a))}")

    def down(self, site_a: str | Site, site_b: str | Site | None = None) -> Map:
        """The map to a site of A from one of B.

        Args:
            site_a: of A.
            site_b: of B; by default the same kind at the matched layer.

        Raises:
            NotFound: nothing was gathered of these two sites together.
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
        """Layer of A -> the layer of B that does the same, as far as there is one; see `layers.monotone_path`."""
        scores = torch.full(self.depths, -torch.inf)
        for layer_a in range(self.depths[0]):
            for layer_b in range(self.depths[1]):
                couples = [(canonical(Site(kind, layer_a)), canonical(Site(kind, layer_b))) for kind in self.kinds]
                found = [self._quality[couple].score for couple in couples if couple in self._quality]
                if len(found) == len(couples):
                    scores[layer_a, layer_b] = sum(found) / len(found)
        return dict(enumerate(monotone_path(scores)))

    @property
    def qualities(self) -> list[Quality]:
        """How well every couple of sites goes together."""
        return [*self._quality.values()]

    @cached_property
    def _quality(self) -> dict[tuple[str, str], Quality]:
        return {couple: self._measured(*couple) for couple in self.fit.couples}

    def quality(self, site_a: str | Site, site_b: str | Site | None = None) -> Quality:
        """How well a site of A goes with one of B, that at the matched layer by default."""
        couple = (canonical(site_a), canonical(site_b or self.partner(site_a)))
        self.fit.couple(*couple)
        return self._quality[couple]

    def check(self, a: Model | None = None, b: Model | None = None) -> None:
        """Raise BadInput unless models have the depths and widths that the bridge was made for."""
        for side, name, depth, model in (("a", self.a, self.depths[0], a), ("b", self.b, self.depths[1], b)):
            widths = {len(each) for key, each in self.fit.centres.items() if key.startswith(f"{side}/resid_")}
            if model is not None and (model.n_layers != depth or widths - {model.d_model}):
                raise BadInput(
                    f"The bridge was made for {name} with {depth} layers of width {max(widths, default=0)}; "
                    f"{model.name} has {model.n_layers} of width {model.d_model}, so align it anew."
                )

    def save(self, path: Path | str) -> artefacts.Artefact:
        """Write the bridge as an artefact."""
        fields = {"a": self.a, "b": self.b, "depths": list(self.depths), "kinds": list(self.kinds)}
        fields |= {"layers": [*self.layers.values()], "facts": dict(self.facts)}
        tensors = {"fit": _tensors(self.fit), "held": _tensors(self.held)}
        tables = {"qualities": [asdict(each) for each in self.qualities]}
        return artefacts.write(path, KIND, fields, tensors, tables, [self.a, self.b])

    def _measured(self, site_a: str, site_b: str) -> Quality:
        both = self.fit.couple(site_a, site_b)
        cka = similarity(self.fit.site("a", site_a), self.fit.site("b", site_b), both)
        held = self.held.couple(site_a, site_b)
        up = self._spectrum(f"a/{site_a}").residuals(both, held)
        down = self._spectrum(f"b/{site_b}").residuals(both.swapped, held.swapped)
        return Quality(site_a, site_b, 1 - float(up.min()), 1 - float(down.min()), cka)

    def _spectrum(self, name: str) -> Spectrum:
        if name not in self._spectra:
            side, site = name.split("/")
            self._spectra[name] = Spectrum(self.fit.site(side, site), self.held.site(side, site))
        return self._spectra[name]

    def _map(self, source: str, target: str) -> Map:
        if (source, target) not in self._maps:
            sites = {each[0]: each[2:] for each in (source, target)}
            fit, held = (sums.couple(sites["a"], sites["b"]) for sums in (self.fit, self.held))
            if source[0] == "b":
                fit, held = fit.swapped, held.swapped
            found = fitted(self._spectrum(source), fit, held, (source, target))
            centre_x, centre_y = self.fit.centres[source], self.fit.centres[target]
            bias = found.bias + centre_y - centre_x @ found.weight
            whole = Map(source, target, found.weight, bias, found.r2, found.ridge)
            self._maps[source, target] = whole.to(bias.device)
        return self._maps[source, target]


def canonical(site: str | Site) -> str:
    """The name under which a site is summed: the stream before a block is the stream after the one before it."""
    site = Site.parse(site)
    return f"resid_post.{site.layer - 1}" if site.kind == "resid_pre" and site.layer else site.name


def load_bridge(path: Path | str) -> Bridge:
    """Read a bridge.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: it is damaged, or holds something else.
    """
    stored = artefacts.read(path, KIND)
    fields = stored.fields
    try:
        found = Bridge(
            fields["a"],
            fields["b"],
            (fields["depths"][0], fields["depths"][1]),
            tuple(fields["kinds"]),
            _sums(stored.tensors("fit")),
            _sums(stored.tensors("held")),
            fields["facts"],
        )
        vars(found)["_quality"] = {
            (each["site_a"], each["site_b"]): Quality(**each) for each in stored.table("qualities")
        }
    except (KeyError, TypeError, IndexError) as error:
        raise BadArtefact(f"The bridge {path} lacks or misstates {error}; align the models again.") from error
    return found


def _tensors(sums: Sums) -> dict[str, Tensor]:
    centres = {f"centre|{name}": each for name, each in sums.centres.items()}
    return centres | {
        f"{key}|{name}": value for name, each in sums.moments.items() for key, value in vars(each).items()
    }


def _sums(tensors: Mapping[str, Tensor]) -> Sums:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition("|")
        parts.setdefault(name, {})[part] = value
    couples = [name.split(" ") for name in parts if " " in name]
    sums = Sums((site_a, site_b) for site_a, site_b in couples)
    for name, each in parts.items():
        if "centre" in each:
            sums.centres[name] = each.pop("centre")
        sums.moments[name] = Moments(**each)
    return sums
