"""The node table of a graph: one row per node, one tensor per column; the graph's origin; named groups of nodes.

Nodes lie in the order feature, error, embedding, logit, and within a kind by layer, part, position and index (logits as
they were chosen). So the sources are the first columns of a graph, and a node's inputs come from lower layers only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from random import Random
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.coders import Scope
from glassworks.edits import FeatureRef
from glassworks.errors import BadArtefact, BadInput

FEATURE, ERROR, EMBEDDING, LOGIT = KINDS = ("feature", "error", "embedding", "logit")
PARTS = ("resid_pre", "attention", "resid_mid", "mlp", "resid_post")
"""The parts of a layer that a coder can replace, from below: each reads only what lies before it."""
ATTENTION, MLP = PARTS.index("attention"), PARTS.index("mlp")
NEAREST = 10
"""A matched feature is drawn from so many that are closest in activation."""


@final
@dataclass(frozen=True)
class Node:
    """One node; see `Nodes` for the meaning of its columns. What a kind does not have is None."""

    kind: str
    layer: int
    position: int
    index: int
    activation: float | None
    probability: float | None
    share: float | None
    label: str
    part: str = "mlp"

    @property
    def place(self) -> str:
        """Part and layer, `mlp.2`: features of one place are features of one coder."""
        return f"{self.part}.{self.layer}"


@final
@dataclass(frozen=True, eq=False)
class Nodes:
    """All nodes of a graph.

    Attributes:
        kinds: number of each node's kind in `KINDS`.
        layer: layer that a feature reads, or whose MLP an error belongs to; -1 for an embedding, and the number of
            layers for a logit.
        position: its token in the prompt.
        index: latent in its coder, vocabulary id of an embedding or logit (the vocabulary's size or more: a
            difference of tokens); -1 for an error.
        activation: of a feature; else NaN.
        probability: of a logit's token, its weight as a target; else NaN.
        share: share of all influence that rests on nodes of at least this one's influence: low means important;
            NaN for a logit, and where it is not known. A pruned graph keeps the shares of the whole.
        labels: text to display.
        part: number in `PARTS` of the part of the layer that a feature or error belongs to.
    """

    kinds: Int[Tensor, " n"]
    layer: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    index: Int[Tensor, " n"]
    activation: Float[Tensor, " n"]
    probability: Float[Tensor, " n"]
    share: Float[Tensor, " n"]
    labels: tuple[str, ...]
    part: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, number: int) -> Node:
        return next(iter(self.select(torch.tensor([number]))))

    def __iter__(self) -> Iterator[Node]:
        whole = (column.tolist() for column in (self.layer, self.position, self.index, self.part))
        real = (column.tolist() for column in (self.activation, self.probability, self.share))
        for kind, *numbers, label in zip(self.kinds.tolist(), *whole, *real, self.labels, strict=True):
            layer, position, index, part = numbers[:4]
            activation, probability, share = (None if value != value else value for value in numbers[4:])
            yield Node(KINDS[kind], layer, position, index, activation, probability, share, label, PARTS[part])

    def of(self, kind: str) -> Bool[Tensor, " n"]:
        """Which nodes are of a kind."""
        return self.kinds == KINDS.index(kind)

    def numbers(self, kind: str) -> list[int]:
        """The numbers of the nodes of a kind."""
        return self.of(kind).nonzero()[:, 0].tolist()

    @property
    def sources(self) -> int:
        """How many nodes are sources, the first ones: all but the logits."""
        return int((self.kinds != KINDS.index(LOGIT)).sum())

    @property
    def levels(self) -> Int[Tensor, " n"]:
        """A node reads only nodes of lower levels."""
        return self.layer * len(PARTS) + self.part

    def places(self) -> dict[str, Bool[Tensor, " n"]]:
        """Which nodes are features of each place (`mlp.2`)."""
        feature = self.of(FEATURE)
        return {
            f"{PARTS[part]}.{layer}": feature & (self.layer == layer) & (self.part == part)
            for layer, part in torch.stack([self.layer, self.part], 1)[feature].unique(dim=0).tolist()
        }

    def tensors(self) -> dict[str, Tensor]:
        """The columns by name, without the labels."""
        return {column.name: getattr(self, column.name) for column in fields(self) if column.name != "labels"}

    def select(self, numbers: Int[Tensor, " k"]) -> "Nodes":
        """Some of the nodes, by number."""
        labels = tuple(self.labels[number] for number in numbers.tolist())
        return Nodes(**{name: column[numbers] for name, column in self.tensors().items()}, labels=labels)

    def order(self) -> Int[Tensor, " n"]:
        """The numbers of the nodes in the order that a graph needs; logits of a position keep theirs."""
        order = torch.arange(len(self))
        for column in (self.index.masked_fill(self.of(LOGIT), 0), self.position, self.levels, self.kinds):
            order = order[column[order].argsort(stable=True)]
        return order

    def matched(self, group: Int[Tensor, " k"], random: Random) -> list[int]:
        """Draw as many other active features, each of the same layer as one of the group and of like activation.

        This is the control for a claim about a group of features.

        Args:
            group: numbers of the nodes that are to be matched; those that are not features are passed over.
            random: draws one of the `NEAREST` features that come closest in log activation.

        Returns:
            Numbers of other nodes, none of them twice.

        Raises:
            BadInput: a layer has too few other features.
        """
        free = self.of(FEATURE)
        free[group] = False
        chosen: list[int] = []
        for number in group[self.of(FEATURE)[group]].tolist():
            same = (self.layer == self.layer[number]) & (self.part == self.part[number])
            candidates = (free & same).nonzero()[:, 0]
            if not len(candidates):
                raise BadInput(
                    f"Layer {int(self.layer[number])} has too few other active features to match the group; "
                    "take a smaller group."
                )
            distance = (self.activation[candidates].log() - self.activation[number].log()).abs()
            chosen.append(random.choice(candidates[distance.argsort(stable=True)[:NEAREST]].tolist()))
            free[chosen[-1]] = False
        return chosen

    @classmethod
    def build(cls, kind: str, columns: Mapping[str, Tensor], labels: Sequence[str]) -> "Nodes":
        """Nodes of one kind.

        Args:
            kind: one of `KINDS`.
            columns: position, and those of layer, part, index, activation and probability that the kind has.
            labels: one per node.
        """
        count = len(columns["position"])
        defaults: dict[str, Tensor] = {name: torch.full((count,), -1) for name in ("layer", "index")}
        defaults |= {name: torch.full((count,), torch.nan) for name in ("activation", "probability", "share")}
        defaults |= {"kinds": torch.full((count,), KINDS.index(kind)), "part": torch.full((count,), MLP)}
        return cls(**defaults | {name: column.cpu() for name, column in columns.items()}, labels=tuple(labels))

    @classmethod
    def of_rows(cls, rows: Sequence[Node]) -> "Nodes":
        """A table of single nodes."""

        def column(name: str) -> Tensor:
            values = [getattr(row, name) for row in rows]
            if name in ("activation", "probability", "share"):
                return torch.tensor([torch.nan if value is None else float(value) for value in values])
            return torch.tensor([PARTS.index(value) for value in values] if name == "part" else values)

        names = [name.name for name in fields(cls) if name.name not in ("kinds", "labels")]
        kinds = torch.tensor([KINDS.index(row.kind) for row in rows])
        return cls(kinds=kinds, **{name: column(name) for name in names}, labels=tuple(row.label for row in rows))

    @classmethod
    def cat(cls, parts: Sequence["Nodes"]) -> "Nodes":
        """Several tables as one, in the order given."""
        columns: dict[str, Any] = {
            name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()
        }
        return cls(**columns, labels=tuple(label for part in parts for label in part.labels))


@final
@dataclass(frozen=True)
class Origin:
    """What a graph was traced from, as plain values that every format can hold.

    Attributes:
        model: name of the model.
        scope: name of the scope, "" where there was none.
        prompt: the prompt as text.
        tokens: its token ids.
        token_texts: the text of each token.
        coders: place -> id of the coder whose features lie there: `mlp.2` -> `mlp_in.2`; see `Node.place`.
        facts: whatever else is known, as plain JSON values: seconds, thresholds, another program's metadata.
    """

    model: str
    scope: str
    prompt: str
    tokens: tuple[int, ...]
    token_texts: tuple[str, ...]
    coders: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "Origin":
        """Read what `plain` wrote; BadArtefact where something is missing."""
        try:
            return cls(
                model=plain["model"],
                scope=plain["scope"],
                prompt=plain["prompt"],
                tokens=tuple(plain["tokens"]),
                token_texts=tuple(plain["token_texts"]),
                coders=dict(plain["coders"]),
                facts=plain["facts"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadArtefact(f"The graph's origin lacks or misstates {error}; trace the prompt again.") from error


@final
@dataclass(frozen=True)
class Supernode:
    """A named group of nodes of one graph; circuits are made of them.

    Attributes:
        name: what to call it.
        nodes: numbers of its nodes in the graph's table.
        features: the features among them, as an edit takes them.
        scope: the scope that holds their coders; None for a graph that was loaded without.
    """

    name: str
    nodes: tuple[int, ...]
    features: tuple[FeatureRef, ...] = ()
    scope: Scope | None = None

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"Supernode({self.name!r}: {len(self.nodes)} nodes, {len(self.features)} of them features)"
