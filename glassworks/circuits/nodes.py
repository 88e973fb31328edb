"""The node table of a graph: one row per node, one tensor per column.

Nodes lie in the order feature, error, embedding, logit, and within a kind by layer, part, position and index (logits as
they were chosen). So the sources are the first columns of a graph, and a node's inputs come from lower layers only.
This module must not know how a graph is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FEATURE, ERROR, EMBEDDING, LOGIT = KINDS = ("feature", "error", "embedding", "logit")
PARTS = ("resid_pre", "attention", "resid_mid", "mlp", "resid_post")
"""The parts of a layer that a coder can stand for, from below: each reads only what lies before it."""
MLP = PARTS.index("mlp")


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
        labels: what to show.
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
            activation, probability, share = (None if each != each else each for each in numbers[4:])
            yield Node(KINDS[kind], layer, position, index, activation, probability, share, label, PARTS[part])

    def of(self, kind: str) -> Bool[Tensor, " n"]:
        """Which nodes are of a kind."""
        return self.kinds == KINDS.index(kind)

    @property
    def sources(self) -> int:
        """How many nodes are sources, the first ones: all but the logits."""
        return int((self.kinds != KINDS.index(LOGIT)).sum())

    @property
    def levels(self) -> Int[Tensor, " n"]:
        """A node reads only nodes of lower levels."""
        return self.layer * len(PARTS) + self.part

    def tensors(self) -> dict[str, Tensor]:
        """The columns by name, without the labels."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "labels"}

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

    def with_share(self, share: Float[Tensor, " n"]) -> "Nodes":
        """The same nodes with their shares of the influence."""
        return Nodes(**(self.tensors() | {"share": share}), labels=self.labels)

    @classmethod
    def build(cls, kind: str, columns: Mapping[str, Tensor], labels: Sequence[str]) -> "Nodes":
        """Nodes of one kind.

        Args:
            kind: one of `KINDS`.
            columns: position, and those of layer, part, index, activation and probability that the kind has.
            labels: one a node.
        """
        count = len(columns["position"])
        whole = {name: torch.full((count,), -1) for name in ("layer", "index")} | {"part": torch.full((count,), MLP)}
        real = {name: torch.full((count,), torch.nan) for name in ("activation", "probability", "share")}
        kinds = torch.full((count,), KINDS.index(kind))
        given = {name: column.cpu() for name, column in columns.items()}
        return cls(**{"kinds": kinds, **whole, **real, **given}, labels=tuple(labels))

    @classmethod
    def of_rows(cls, rows: Sequence[Node]) -> "Nodes":
        """A table of single nodes."""
        whole = {name: torch.tensor([getattr(row, name) for row in rows]) for name in ("layer", "position", "index")}
        real = {
            name: torch.tensor([torch.nan if (value := getattr(row, name)) is None else float(value) for row in rows])
            for name in ("activation", "probability", "share")
        }
        kinds = torch.tensor([KINDS.index(row.kind) for row in rows])
        whole["part"] = torch.tensor([PARTS.index(row.part) for row in rows])
        return cls(**{"kinds": kinds, **whole, **real}, labels=tuple(row.label for row in rows))

    @classmethod
    def cat(cls, parts: Sequence["Nodes"]) -> "Nodes":
        """Several tables as one, in the order given."""
        columns: dict[str, Any] = {
            name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()
        }
        return cls(**columns, labels=tuple(label for part in parts for label in part.labels))
