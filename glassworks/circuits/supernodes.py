"""Supernodes: named groups of nodes, what a circuit is made of. This module must not know edges."""

from dataclasses import dataclass
from typing import final

from glassworks.coders import Scope
from glassworks.edits import FeatureRef


@final
@dataclass(frozen=True)
class Supernode:
    """A named group of nodes of one graph.

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
