"""Graft: a circuit of model A that runs beside model B, and changes what B says.

B's states are read through maps into A's space, where the circuit's nodes work as in A: each sees what the map brings
plus what the nodes below it changed. A node changes what the map could not know: its value minus the value that was to
be expected from B's state. What the circuit's last layer writes goes through one more map into B's last states. This
module must not know how maps and gains are found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks import artefacts
from glassworks.errors import BadArtefact, BadInput, NotFound, Unsupported, nearest
from glassworks.models import Model, Tap
from glassworks.sites import Site
from glassworks.transfer.graft.parts import KINDS, Memory, Part

KIND = "graft"
Affine = tuple[Tensor, Tensor]


@final
@dataclass(frozen=True, eq=False)
class Station:
    """A part at work in B.

    Attributes:
        part: the nodes.
        group: name of their supernode.
        source: the site of B that they read.
        down: weight and bias of the map from that site to the part's own.
        base: weight and bias of what the nodes' values are expected to be, given B's state.
        gains: how strongly each node counts.
    """

    part: Part
    group: str
    source: Site
    down: Affine
    base: Affine
    gains: Float[Tensor, " node"]

    def __len__(self) -> int:
        return len(self.part.names)

    def change(self, x: Tensor, moved: Tensor | float, start: int, memory: Memory, gains: Tensor) -> Tensor:
        """What the nodes add to A's stream: (value - expected value) times gain, written.

        Args:
            x: states of B at `source` (row, token, d_b).
            moved: what nodes below have changed, in A's space.
            start: position of the first token.
            memory: of earlier tokens.
            gains: one a node.
        """
        values = self.part.read(x @ self.down[0] + self.down[1] + moved, start, memory)
        expected = (x @ self.base[0] + self.base[1]).reshape(values.shape)
        return self.part.write((values - expected) * gains[:, None])


@final
@dataclass(frozen=True, eq=False)
class Graft:
    """A circuit carried into another model; an edit, as `model.edit(...)` takes it.

    Example:
        ```python
        with model_b.edit(graft.without("heads.2")):
            print(model_b.generate(prompt))
        ```

    Attributes:
        a: name of the model that the circuit is from.
        b: name of the model that it is for.
        stations: its parts from below; those of the last layer write into B.
        up: the map from A's last states to B's, (d_a, d_b).
        target: the site of B that is written.
        facts: how it was made; plain JSON values.
    """

    a: str
    b: str
    stations: tuple[Station, ...]
    up: Float[Tensor, "d_a d_b"]
    target: Site
    facts: Mapping[str, Any] = field(default_factory=dict)

    frozen = ()
    stepwise = True

    def __repr__(self) -> str:
        nodes = sum(len(each) for each in self.stations)
        return f"Graft({self.a!r} -> {self.b!r}: {nodes} nodes in {', '.join(self.groups)})"

    @property
    def reads(self) -> Sequence[Site]:
        """The sites of B that it reads."""
        return list(dict.fromkeys(each.source for each in self.stations))

    @property
    def groups(self) -> list[str]:
        """Its supernodes, from below."""
        return list(dict.fromkeys(each.group for each in self.stations))

    @property
    def writers(self) -> list[bool]:
        """Which stations write into B: the features of the circuit's last layer; all others stay beside it."""
        last = max((each.part.layer for each in self.stations), default=0)
        return [each.part.layer == last and each.part.kind == "features" for each in self.stations]

    @property
    def gains(self) -> Float[Tensor, " node"]:
        """How strongly each node counts, stations in order."""
        return torch.cat([each.gains for each in self.stations])

    def with_gains(self, gains: Float[Tensor, " node"]) -> "Graft":
        """The same with other gains."""
        parts = gains.split([len(each) for each in self.stations])
        stations = [replace(each, gains=some) for each, some in zip(self.stations, parts, strict=True)]
        return replace(self, stations=tuple(stations))

    def without(self, *groups: str) -> "Graft":
        """The same with some supernodes switched off.

        Raises:
            NotFound: there is no such group.
        """
        wrong = [each for each in groups if each not in self.groups]
        if wrong:
            raise NotFound(f"The graft has no group {wrong[0]!r}; {nearest(wrong[0], self.groups)}.")
        off = [torch.zeros_like(each.gains) if each.group in groups else each.gains for each in self.stations]
        return self.with_gains(torch.cat(off))

    def only(self, *groups: str) -> "Graft":
        """The same with all other supernodes switched off."""
        self.without(*groups)
        return self.without(*(each for each in self.groups if each not in groups))

    def delta(
        self,
        states: Mapping[Site, Float[Tensor, "row token d_b"]],
        gains: Float[Tensor, " node"] | None = None,
        start: int = 0,
        memory: list[Memory] | None = None,
    ) -> Float[Tensor, "row token d_b"]:
        """What is added to B's states at `target`.

        Args:
            states: B's at `reads`.
            gains: one a node, in place of the graft's own.
            start: position of the first token.
            memory: one a station, of earlier tokens; needed where `start` is not 0.
        """
        gains = self.gains if gains is None else gains
        memory = [{} for _ in self.stations] if memory is None else memory
        moved: Tensor | float = 0.0
        written: Tensor | float = 0.0
        parts = gains.split([len(each) for each in self.stations])
        for station, some, kept, writes in zip(self.stations, parts, memory, self.writers, strict=True):
            change = station.change(states[station.source], moved, start, kept, some)
            if writes:
                written = written + change
            else:
                moved = moved + change
        return written @ self.up if isinstance(written, Tensor) else torch.zeros(())

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The taps that do it; see `glassworks.models.Edit`.

        Raises:
            BadInput: the model has another width or depth than the one that the graft was made for.
            Unsupported: MLPs are frozen.
        """
        if clean is not None:
            raise Unsupported("A graft runs a circuit of its own, so it cannot act where MLPs are frozen.")
        self.check(model)
        seen: dict[Site, Tensor] = {}
        memory: list[Memory] = [{} for _ in self.stations]

        def reader(site: Site) -> Tap:
            return lambda value: seen.__setitem__(site, value.float())

        def write(value: Tensor) -> Tensor:
            run = model.taps.run
            assert run is not None
            start = run.start(value)
            if not start:
                for each in memory:
                    each.clear()
            return value.float() + self.delta(seen, start=start, memory=memory)

        # Sites are read before the target is written: the last stream lies behind all that is read.
        return {**{site: reader(site) for site in self.reads}, self.target: write}

    def check(self, model: Model) -> None:
        """Raise BadInput unless the graft fits a model."""
        depth, width = (self.target.layer or 0) + 1, self.up.shape[1]
        if model.n_layers != depth or model.d_model != width:
            raise BadInput(
                f"The graft was made for {self.b} with {depth} layers of width {width}; {model.name} has "
                f"{model.n_layers} of width {model.d_model}, so make one for it."
            )

    def save(self, path: str | Path) -> artefacts.Artefact:
        """Write it as an artefact of kind `graft`: the rows that it needs, and nothing else of A."""
        rows, tensors = [], {"up": self.up}
        for number, each in enumerate(self.stations):
            own = {f"part.{name}": value for name, value in each.part.weights.items()}
            own |= {"down.weight": each.down[0], "down.bias": each.down[1], "gains": each.gains}
            own |= {"base.weight": each.base[0], "base.bias": each.base[1]}
            tensors |= {f"{number}.{name}": value for name, value in own.items()}
            told = {"group": each.group, "source": each.source.name, "kind": each.part.kind}
            rows.append({**told, "facts": dict(each.part.facts)})
        fields = {"a": self.a, "b": self.b, "target": self.target.name, "groups": self.groups}
        fields |= {"facts": dict(self.facts)}
        return artefacts.write(path, KIND, fields, {"graft": tensors}, {"stations": rows}, [self.a, self.b])


def load_graft(path: str | Path) -> Graft:
    """Read what `Graft.save` wrote.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: it is damaged, or holds something else.
    """
    stored = artefacts.read(path, KIND)
    tensors, fields = stored.tensors("graft"), stored.fields
    try:
        stations = [_station(row, _below(tensors, f"{n}.")) for n, row in enumerate(stored.table("stations"))]
        target = Site.parse(fields["target"])
        return Graft(fields["a"], fields["b"], tuple(stations), tensors["up"], target, fields["facts"])
    except (KeyError, TypeError) as error:
        raise BadArtefact(f"The graft {path} lacks or misstates {error}; make it again.") from error


def _station(row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Station:
    part = KINDS[row["kind"]](row["facts"], _below(tensors, "part."))
    down, base = ((tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in ("down", "base"))
    return Station(part, row["group"], Site.parse(row["source"]), down, base, tensors["gains"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
