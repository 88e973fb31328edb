"""Many prompts: which features and edges recur in the graphs of a task, and how two graphs differ.

Graphs are compared over keys: the same feature of the same coder, or features whose labels agree. Every node of every
graph belongs to one key. Positions do not count, so prompts of different lengths compare; a feature that is active at
several tokens is one key.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks import artefacts, stats
from glassworks.circuits.check import json_values
from glassworks.circuits.graph import Graph
from glassworks.circuits.nodes import ERROR, FEATURE, Node
from glassworks.circuits.reading import alike, words
from glassworks.errors import BadArtefact, BadInput
from glassworks.pages import facts, with_interval

BY = ("feature", "label")
EDGES = 500
"""How many edges an aggregate holds, the most frequent and strongest."""
CHANGES = 200
"""How many nodes and edges a difference holds."""
PRINTED = 12
"""Rows of a printed table."""

Key = tuple[str, str, int]  # kind, place, index
Interval = tuple[float, float, float]
"""A mean with the ends of its 95 % interval."""


def mean_interval(values: Float[Tensor, " n"], seed: int = 0) -> Interval:
    """A mean with the ends of its interval, as JSON and artefacts hold it."""
    mean = stats.mean(values, seed=seed)
    return mean.value, mean.low, mean.high


@final
@dataclass(frozen=True, eq=False)
class Keys:
    """The keys of some graphs.

    Attributes:
        names: text to display for each key.
        kinds: kind of its nodes.
        places: part and layer of its features and errors, "" where they have none or several.
        indices: latent or vocabulary id; -1 for errors, and for features matched by label.
        of: for each graph, the key of each of its nodes.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    places: tuple[str, ...]
    indices: tuple[int, ...]
    of: tuple[Int[Tensor, " _"], ...]

    def __len__(self) -> int:
        return len(self.names)


def keyed(graphs: Sequence[Graph], by: str = "feature") -> Keys:
    """Find what is the same in several graphs.

    Args:
        graphs: the graphs; with `by="feature"` their features must be of the same coders.
        by: `feature` (place and latent), or `label` (labels that share words), for graphs of different scopes.

    Raises:
        BadInput: another way of matching, no graphs, or graphs of different coders matched by feature.
    """
    if by not in BY or not graphs:
        raise BadInput(f"Graphs are matched by {' or '.join(BY)}, and there must be one; got {by!r}, {len(graphs)}.")
    coders = {place: {graph.origin.coders.get(place) for graph in graphs} for place in graphs[0].origin.coders}
    if by == "feature" and any(len(known - {None}) > 1 for known in coders.values()):
        raise BadInput("The graphs have features of different coders, which cannot be matched by number; use labels.")
    numbers: dict[Key, int] = {}
    names: list[str] = []
    groups: list[tuple[set[str], Key]] = []

    def key_of(node: Node) -> Key:
        if by == "feature":
            return node.kind, node.place if node.kind in (FEATURE, ERROR) else "", node.index
        if node.kind != FEATURE:  # tokens and outcomes by their text; errors all alike
            return node.kind, node.label.strip() if node.kind != ERROR else "", -1
        mine = words(node.label)  # the first group whose label shares enough words
        known = next((key for others, key in groups if alike(mine, others) or mine == others != set()), None)
        if known is None:
            known = (FEATURE, "", -2 - len(groups))
            groups.append((mine, known))
        return known

    of = []
    for graph in graphs:
        codes, table = torch.zeros(len(graph.nodes), dtype=torch.long), list(graph.nodes)
        for number in graph.influence.argsort(descending=True, stable=True).tolist():
            node = table[number]
            key = key_of(node)
            if key not in numbers:
                numbers[key] = len(names)
                error = f"error at {node.place}"
                names.append(error if node.kind == ERROR else node.label or f"{node.place}/{node.index}")
            codes[number] = numbers[key]
        of.append(codes)
    kinds, places, indices = zip(*numbers, strict=True)
    places = tuple(place if kind in (FEATURE, ERROR) else "" for kind, place in zip(kinds, places, strict=True))
    return Keys(tuple(names), kinds, places, indices, tuple(of))


def flows(graph: Graph, codes: Int[Tensor, " n"], keys: int) -> Float[Tensor, " key"]:
    """Influence of every key on the outcomes, as a share of the outcomes' weight."""
    weight = graph.edges.weights.sum().clamp(min=1e-10)
    return torch.zeros(keys).index_add_(0, codes, graph.influence / weight)


def links(
    graph: Graph, codes: Int[Tensor, " n"], keys: int
) -> tuple[Int[Tensor, " e"], Float[Tensor, " e"], Float[Tensor, " e"], Float[Tensor, " e"]]:
    """Edges between keys: number `target * keys + source`, and, edges of several nodes added, three signed sizes.

    They are the weight, the share of the target's input (weighted by what flows into the targets), and the part of
    the outcomes' flow that the edge carries.
    """
    row, column = graph.matrix.nonzero(as_tuple=True)
    pair = codes[graph.rows[row]] * keys + codes[column]
    weight = graph.matrix[row, column]
    flow = (graph.influence + graph.edges.weights)[graph.rows]
    carried = weight / graph.edges.sizes()[row] * flow[row]
    inflow = torch.zeros(keys).index_add_(0, codes[graph.rows], flow)
    numbers, place = pair.unique(return_inverse=True)
    zeros = torch.zeros(len(numbers))
    whole = zeros.index_add(0, place, carried)
    share = whole / inflow[numbers // keys].clamp(min=1e-20)
    return numbers, zeros.index_add(0, place, weight), share, whole / graph.edges.weights.sum().clamp(min=1e-10)


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
    replacement: Interval
    completeness: Interval
    conservation: float | None
    nodes: tuple[Recurring, ...]
    edges: tuple[Link, ...]

    @property
    def features(self) -> list[Recurring]:
        """The features among the nodes."""
        return [node for node in self.nodes if node.kind == FEATURE]

    def __rich__(self) -> Any:
        total = len(self.prompts)
        features = [
            {
                "feature": node.name,
                "place": node.place,
                "prompts": f"{node.prompts} of {total}",
                "influence": node.influence,
                "activation": node.activation,
            }
            for node in self.features[:PRINTED]
        ]
        edges = [
            {
                "edge": f"{self.nodes[edge.source].name} -> {self.nodes[edge.target].name}",
                "prompts": f"{edge.prompts} of {total}",
                "share": edge.share,
                "same sign": edge.agreement,
            }
            for edge in self.edges
            if self.nodes[edge.source].kind == self.nodes[edge.target].kind == FEATURE
        ]
        scores = {name: with_interval(getattr(self, name)) for name in ("replacement", "completeness")}
        tables = {"recurring features": features, "recurring edges": edges[:PRINTED]}
        figures = {"prompts": total} | scores | {"conservation": self.conservation}
        return facts(figures | {name: rows for name, rows in tables.items() if rows})

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return json_values(asdict(self))

    def save(self, path: str | Path) -> artefacts.Artefact:
        """Write it as an artefact of kind `aggregate`: one table."""
        fields = {"prompts": len(self.prompts), "nodes": len(self.nodes), "edges": len(self.edges)}
        return artefacts.write(path, "aggregate", fields, tables={"aggregate": self.plain()})


def load_aggregate(path: str | Path) -> Aggregate:
    """Read what `Aggregate.save` wrote; BadArtefact where it is damaged or something else."""
    plain = artefacts.read(path, "aggregate").table("aggregate")
    try:
        nodes = tuple(Recurring(**node) for node in plain.pop("nodes"))
        edges = tuple(Link(**edge) for edge in plain.pop("edges"))
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        return Aggregate(**values, nodes=nodes, edges=edges)
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
    size, total = len(keys), len(graphs)

    count, flow, activation = torch.zeros(3, size)
    for graph, codes in zip(small, keys.of, strict=True):
        count[codes.unique()] += 1
        flow += flows(graph, codes, size)
        activation.index_add_(0, codes, graph.nodes.activation.nan_to_num(0.0))
    order, nodes = (-count * total - flow).argsort(stable=True), []
    for key in order.tolist():
        times, name = int(count[key]), keys.names[key]
        mean = float(activation[key]) / times if keys.kinds[key] == FEATURE else None
        ends = stats.wilson(times, total).ends
        which = keys.kinds[key], keys.places[key], keys.indices[key]
        nodes.append(Recurring(name, *which, times, times / total, *ends, float(flow[key]) / times, mean))

    parts = [links(graph, codes, size) for graph, codes in zip(small, keys.of, strict=True)]
    numbers, weights, shares, carried = (torch.cat(column) for column in zip(*parts, strict=True))
    pairs, which = numbers.unique(return_inverse=True)
    zeros, place = torch.zeros(len(pairs)), order.argsort()
    count = zeros.index_add(0, which, torch.ones_like(weights))
    weight, share = zeros.index_add(0, which, weights) / count, zeros.index_add(0, which, shares) / count
    agree = zeros.index_add(0, which, (weights.sign() == weight.sign()[which]).float()) / count
    flow = zeros.index_add(0, which, carried.abs()) / total
    strong = (count + flow / flow.max().clamp(min=1e-20)).argsort(descending=True, stable=True)[:EDGES]
    edges = [
        Link(
            source=int(place[pairs[number] % size]),
            target=int(place[pairs[number] // size]),
            prompts=int(count[number]),
            frequency=float(count[number]) / total,
            weight=float(weight[number]),
            share=float(share[number]),
            agreement=float(agree[number]),
        )
        for number in strong.tolist()
    ]
    return Aggregate(
        prompts=tuple(graph.prompt for graph in graphs),
        replacement=mean_interval(torch.tensor([graph.replacement for graph in graphs])),
        completeness=mean_interval(torch.tensor([graph.completeness for graph in graphs])),
        conservation=max((graph.residual for graph in graphs if graph.residual is not None), default=None),
        nodes=tuple(nodes),
        edges=tuple(edges),
    )


@final
@dataclass(frozen=True)
class Change:
    """A node or an edge of two graphs.

    Attributes:
        name: label, or place and latent; of an edge `source -> target`.
        kind: of node, or `edge`.
        first: influence on the outcomes in the first graph; of an edge the signed part of it that the edge carries.
        second: the same in the second graph.
    """

    name: str
    kind: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@final
@dataclass(frozen=True)
class Difference:
    """How two graphs differ.

    Attributes:
        similarity: weighted Jaccard index of the features' influence: 1 for the same, 0 for nothing in common.
        tokens: the same of the tokens' influence, matched by token.
        edges: cosine of what the edges carry, signed.
        nodes: the nodes that differ most, largest first.
        links: the edges that differ most.
    """

    similarity: float
    tokens: float
    edges: float
    nodes: tuple[Change, ...]
    links: tuple[Change, ...]

    def __rich__(self) -> Any:
        tables = {"nodes that differ": self.nodes, "edges that differ": self.links}
        rows = {name: [asdict(change) for change in changes[:PRINTED]] for name, changes in tables.items()}
        return facts({"similarity": self.similarity, "tokens": self.tokens, "edges": self.edges} | rows)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return json_values(asdict(self))


def compare(first: Graph, second: Graph, by: str = "feature") -> Difference:
    """Find how two graphs differ, over everything that they hold; prune them first, or leave them whole.

    Two prompts, a base model and its instruct version, or two sizes: features are matched by number where the coders
    are the same, else by their labels.

    Args:
        first: a graph.
        second: another.
        by: `feature` where their coders are the same, `label` where they are not.

    Raises:
        BadInput: graphs of different coders matched by feature.
    """
    graphs = (first, second)
    keys = keyed(graphs, by)
    size = len(keys)
    a, b = (flows(graph, codes, size) for graph, codes in zip(graphs, keys.of, strict=True))

    def jaccard(kind: str) -> float:
        """Weighted Jaccard index of one kind of nodes: sum of minima over sum of maxima; 1 where both are empty."""
        mine = torch.tensor([key == kind for key in keys.kinds])
        smaller, larger = torch.minimum(a, b)[mine].sum(), torch.maximum(a, b)[mine].sum()
        return float(smaller / larger) if larger > 0 else 1.0

    parts = [links(graph, codes, size) for graph, codes in zip(graphs, keys.of, strict=True)]
    numbers = torch.cat([part[0] for part in parts]).unique()
    carried = torch.zeros(2, len(numbers))
    for row, (mine, _, _, flow) in zip(carried, parts, strict=True):
        row[torch.searchsorted(numbers, mine)] = flow
    x, y = carried.double()
    norms = x.norm() * y.norm()

    def largest(changes: list[Change]) -> tuple[Change, ...]:
        return tuple(sorted(changes, key=lambda change: -abs(change.difference))[:CHANGES])

    columns = keys.names, keys.kinds, a.tolist(), b.tolist()
    names = [f"{keys.names[number % size]} -> {keys.names[number // size]}" for number in numbers.tolist()]
    return Difference(
        similarity=jaccard("feature"),
        tokens=jaccard("embedding"),
        edges=float(x @ y / norms) if norms > 0 else 1.0,
        nodes=largest([Change(*column) for column in zip(*columns, strict=True)]),
        links=largest([Change(name, "edge", *pair) for name, pair in zip(names, carried.T.tolist(), strict=True)]),
    )
