"""What the readers of a graph need of it: checks, summaries and minimal circuits take anything that has this.

It keeps the class Graph on top of them, without a cycle. This module must not know what is done with a graph.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.nodes import Nodes
from glassworks.circuits.origin import Origin
from glassworks.circuits.scores import Edges
from glassworks.circuits.supernodes import Supernode
from glassworks.coders import Scope


@runtime_checkable
class Traced(Protocol):
    """A graph; see `Graph` for the meaning of its parts."""

    @property
    def origin(self) -> Origin:
        """Where it comes from."""
        ...

    @property
    def nodes(self) -> Nodes:
        """The node table."""
        ...

    @property
    def rows(self) -> Int[Tensor, " t"]:
        """Node number of each target."""
        ...

    @property
    def matrix(self) -> Float[Tensor, "t source"]:
        """Direct effects."""
        ...

    @property
    def bias(self) -> Float[Tensor, " t"]:
        """Each target's part from constants."""
        ...

    @property
    def rest(self) -> Float[Tensor, " t"]:
        """Each target's part from what was cut away."""
        ...

    @property
    def rest_size(self) -> Float[Tensor, " t"]:
        """The same, absolute values summed."""
        ...

    @property
    def values(self) -> Float[Tensor, " t"]:
        """Each target's value in the model."""
        ...

    @property
    def conservation(self) -> Float[Tensor, " t"]:
        """What is left of each row."""
        ...

    @property
    def edges(self) -> Edges:
        """The edges as scores take them."""
        ...

    @property
    def influence(self) -> Float[Tensor, " n"]:
        """Influence of every node on the outcomes."""
        ...

    @property
    def scope(self) -> Scope | None:
        """The scope, where it is at hand."""
        ...

    def supernode(self, name: str, numbers: Sequence[int]) -> Supernode:
        """A named group of nodes, by their numbers."""
        ...
