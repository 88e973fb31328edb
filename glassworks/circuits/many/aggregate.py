"""Many prompts: which features and edges recur in the graphs of a task, how often, and with what signed weight.

This module must not know how graphs are made.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from glassworks import artefacts
from glassworks.circuits.checks.statistics import known, mean_interval, wilson
from glassworks.circuits.graph import Graph
from glassworks.circuits.many.keys import Keys, flows, keyed, links
from glassworks.errors import BadArtefact

EDGES = 500
"""How many edges an aggregate holds, the most frequent and strongest."""


@final
@dataclass(frozen=True)
class Recurring:
    """A node that recurs: a feature, an error's place, a token or an outcome.

    Attributes:
        name: label, or place and latent.
        kind: of node.
        place: part and layer of a feature, `mlp.2`.
        index: its latent; vocabulary id of a token.
        prompts: in how many prompts' pruned graphs it is.
        frequency: share of the prompts; `low` and `high` are its 95 % interval (Wilson).
        low: see `frequency`.
        high: see `frequency`.
        influence: mean influence on the outcomes over those prompts, as a share of their weight.
        activation: mean activation there, positions summed; None where it is no feature.
    """

    name: str
    kind: str
    place: str
    index: int
    prompts: int
    frequency: float
    low: float
    high: float
    influence: float
    activation: float | None


@final
@dataclass(frozen=True)
class Link:
    """An edge that recurs.

    Attributes:
        source: number of its source among the aggregate's nodes.
        target: number of its target.
        prompts: in how many prompts' pruned graphs it is.
        frequency: share of the prompts.
        weight: mean signed weight over those prompts.
        share: mean signed share of the target's input.
        agreement: share of those prompts in which it has the sign of the mean weight.
    """

    source: int
    target: int
    prompts: int
    frequency: float
    weight: float
    share: float
    agreement: float


@final
@dataclass(frozen=True)
class Aggregate:
    """What recurs in the graphs of several prompts.

    Attributes:
        prompts: the prompts.
        replacement: mean of the graphs' replacement scores, with its interval.
        completeness: mean completeness, with its interval.
        conservation: largest residual of any row of any graph; None where it is not known.
        nodes: what recurs, the most frequent and influential first.
        edges: the edges among them.
    """

    prompts: tuple[str, ...]
    replacement: tuple[float, float, float]
    completeness: tuple[float, float, float]
    conservation: float | None
    nodes: tuple[Recurring, ...]
    edges: tuple[Link, ...]

    @property
    def features(self) -> list[Recurring]:
        """The features among the nodes."""
        return [node for node in self.nodes if node.kind == "feature"]

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return known(asdict(self))

    def save(self, path: str | Path) -> artefacts.Artefact:
        """Write it as an artefact of kind `aggregate`: one table."""
        fields = {"prompts": len(self.prompts), "nodes": len(self.nodes), "edges": len(self.edges)}
        return artefacts.write(path, "aggregate", fields, tables={"aggregate": self.plain()})


def load_aggregate(path: str | Path) -> Aggregate:
    """Read what `Aggregate.save` wrote; BadArtefact where it is damaged or something else."""
    plain = artefacts.read(path, "aggregate").table("aggregate")
    try:
        nodes = tuple(Recurring(**each) for each in plain.pop("nodes"))
        edges = tuple(Link(**each) for each in plain.pop("edges"))
        told: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        return Aggregate(**told, nodes=nodes, edges=edges)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadArtefact(f"The aggregate {path} lacks or misstates {error}; make it again.") from error


def aggregate(graphs: Sequence[Graph], node: float = 0.8, edge: float = 0.98) -> Aggregate:
    """Count what recurs in several graphs.

    Args:
        graphs: of one model and scope, whole; each is pruned first.
        node: share of the nodes' influence that pruning keeps.
        edge: share of the edges' influence that pruning keeps.

    Raises:
        BadInput: no graphs, or graphs of different coders.
    """
    small = [graph.prune(node, edge) for graph in graphs]
    keys = keyed(small)
    order, nodes = _nodes(small, keys)
    residuals = [graph.residual for graph in graphs if graph.residual is not None]
    return Aggregate(
        prompts=tuple(graph.prompt for graph in graphs),
        replacement=mean_interval(torch.tensor([graph.replacement for graph in graphs])),
        completeness=mean_interval(torch.tensor([graph.completeness for graph in graphs])),
        conservation=max(residuals) if residuals else None,
        nodes=nodes,
        edges=_edges(small, keys, order.argsort()),
    )


def _nodes(graphs: Sequence[Graph], keys: Keys) -> tuple[Tensor, tuple[Recurring, ...]]:
    """The keys' order, and what each is."""
    count, flow, activation = torch.zeros(3, len(keys))
    for graph, codes in zip(graphs, keys.of, strict=True):
        present = codes.unique()
        count[present] += 1
        flow += flows(graph, codes, len(keys))
        activation.index_add_(0, codes, graph.nodes.activation.nan_to_num(0.0))
    order = (-count * len(graphs) - flow).argsort(stable=True)
    found = []
    for key in order.tolist():
        times, feature = int(count[key]), keys.kinds[key] == "feature"
        low, high = wilson(times, len(graphs))
        told = keys.names[key], keys.kinds[key], keys.places[key], keys.indices[key], times, times / len(graphs)
        mean = float(activation[key]) / times if feature else None
        found.append(Recurring(*told, low, high, float(flow[key]) / times, mean))
    return order, tuple(found)


def _edges(graphs: Sequence[Graph], keys: Keys, place: Tensor) -> tuple[Link, ...]:
    """The edges over keys: counts, means and agreement of signs."""
    size = len(keys)
    parts = [links(graph, codes, size) for graph, codes in zip(graphs, keys.of, strict=True)]
    numbers, weights, shares, carried = (torch.cat(column) for column in zip(*parts, strict=True))
    pairs, which = numbers.unique(return_inverse=True)
    zeros = torch.zeros(len(pairs))
    count = zeros.index_add(0, which, torch.ones_like(weights))
    weight, share = zeros.index_add(0, which, weights) / count, zeros.index_add(0, which, shares) / count
    agree = zeros.index_add(0, which, (weights.sign() == weight.sign()[which]).float()) / count
    flow = zeros.index_add(0, which, carried.abs()) / len(graphs)
    strong = (count + flow / flow.max().clamp(min=1e-20)).argsort(descending=True, stable=True)[:EDGES]
    return tuple(
        Link(
            source=int(place[pairs[each] % size]),
            target=int(place[pairs[each] // size]),
            prompts=int(count[each]),
            frequency=float(count[each]) / len(graphs),
            weight=float(weight[each]),
            share=float(share[each]),
            agreement=float(agree[each]),
        )
        for each in strong.tolist()
    )
