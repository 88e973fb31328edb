"""Graph: the attribution graph of one prompt, with its nodes, edges, biases and scores.

It binds the room's pure functions to one object and computes nothing itself; how a graph is made, `trace` knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks import artefacts
from glassworks.circuits import neuronpedia
from glassworks.circuits.control import matched
from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, LOGIT, Nodes
from glassworks.circuits.origin import Origin
from glassworks.circuits.paths import Path as Route
from glassworks.circuits.paths import propose, strongest
from glassworks.circuits.prune import prune
from glassworks.circuits.scores import Edges, Scores, cumulative, influence, scores
from glassworks.circuits.supernodes import Supernode
from glassworks.coders import Scope
from glassworks.edits import FeatureRef
from glassworks.errors import BadArtefact, BadInput, NotFound, nearest

ROW_TENSORS = ("rows", "matrix", "bias", "values", "conservation")


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """The attribution graph of one prompt.

    `matrix[t, s]` is the part of target t's value that comes from source s, everything nonlinear frozen. Sources are
    the first columns of the node table; the targets, features and logits, are listed in `rows`.

    Attributes:
        origin: model, scope, prompt and tokens.
        nodes: the node table.
        rows: node number of each target, ascending.
        matrix: direct effects, targets by sources.
        bias: part of each target's value that comes from constants.
        values: each target's value in the model: pre-activation, or demeaned logit; NaN in graphs of others.
        conservation: `|sum + bias - value| / (sum |A| + |bias|)` of each row as traced; NaN in graphs of others.
        scores: replacement and completeness of the whole graph, before any pruning.
        supernodes: named groups, which are saved with the graph; see `group`.
        pinned: numbers of nodes that someone pinned.
        scope: the scope that it was traced with, where it is at hand; it is not saved.
    """

    origin: Origin
    nodes: Nodes
    rows: Int[Tensor, " t"]
    matrix: Float[Tensor, "t source"]
    bias: Float[Tensor, " t"]
    values: Float[Tensor, " t"]
    conservation: Float[Tensor, " t"]
    scores: Scores
    supernodes: dict[str, Supernode] = field(default_factory=dict)
    pinned: list[int] = field(default_factory=list)
    scope: Scope | None = None

    @classmethod
    def build(
        cls, origin: Origin, nodes: Nodes, matrix: Tensor, bias: Tensor, values: Tensor, scope: Scope | None = None
    ) -> "Graph":
        """A whole graph: scores, shares of influence and conservation are computed here.

        Args:
            origin: where it comes from.
            nodes: the node table, in order; every feature and logit has a row.
            matrix: direct effects.
            bias: constants' part of each row.
            values: each row's value in the model.
            scope: the scope it was traced with.
        """
        rows = (nodes.of(FEATURE) | nodes.of(LOGIT)).nonzero()[:, 0]
        edges = _edges(nodes, rows, matrix)
        found = influence(edges)
        residual = (matrix.sum(1) + bias - values).abs() / (edges.sizes() + bias.abs())
        score = scores(edges, found, nodes.of(ERROR), nodes.of(EMBEDDING))
        nodes = nodes.with_share(cumulative(found).masked_fill(nodes.of(LOGIT), torch.nan))
        return cls(origin, nodes, rows, matrix, bias, values, residual, score, scope=scope)

    def __repr__(self) -> str:
        return (
            f"Graph({self.prompt!r}: {len(self.nodes)} nodes ({int(self.nodes.of(FEATURE).sum())} features), "
            f"{self.n_edges} edges, replacement {self.replacement:.2f}, completeness {self.completeness:.2f})"
        )

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.origin.model

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return self.origin.prompt

    @property
    def tokens(self) -> tuple[int, ...]:
        """The prompt's token ids."""
        return self.origin.tokens

    @property
    def token_texts(self) -> tuple[str, ...]:
        """What each token shows."""
        return self.origin.token_texts

    @property
    def n_edges(self) -> int:
        """How many edges are not zero."""
        return int(self.matrix.count_nonzero())

    @property
    def replacement(self) -> float:
        """Share of the influence on the logits that starts in embeddings, and not in errors."""
        return self.scores.replacement

    @property
    def completeness(self) -> float:
        """Share of all input that does not come from errors, weighted by influence."""
        return self.scores.completeness

    @cached_property
    def edges(self) -> Edges:
        """The edges as scores and pruning take them."""
        return _edges(self.nodes, self.rows, self.matrix)

    @cached_property
    def influence(self) -> Float[Tensor, " n"]:
        """Influence of every node on the logits over all paths of this graph, weighted by their probabilities."""
        return influence(self.edges)

    def dense(self) -> tuple[Float[Tensor, "n n"], Nodes]:
        """The direct effects as a square matrix over the node table: rows are targets, columns are sources."""
        square = self.matrix.new_zeros(len(self.nodes), len(self.nodes))
        square[self.rows, : self.matrix.shape[1]] = self.matrix
        return square, self.nodes

    def prune(self, node: float = 0.8, edge: float = 0.98) -> "Graph":
        """The part that carries most of the influence; nodes keep their shares, rows no longer sum up.

        Args:
            node: share of the nodes' influence to keep.
            edge: share of the remaining edges' influence to keep.
        """
        kept = self.nodes.of(EMBEDDING) | self.nodes.of(LOGIT)
        rooted = self.nodes.of(EMBEDDING) | self.nodes.of(ERROR)
        nodes, mask = prune(self.edges, kept, rooted, node, edge)
        facts = {**self.origin.facts, "node_threshold": node, "edge_threshold": edge}
        small = self.select(nodes)
        return replace(small, matrix=small.matrix * mask, origin=replace(self.origin, facts=facts))

    def select(self, nodes: Bool[Tensor, " n"]) -> "Graph":
        """The graph of some of its nodes and the edges among them."""
        numbers = (nodes.cumsum(0) - 1).tolist()
        rows = nodes[self.rows]
        small = replace(
            self,
            nodes=self.nodes.select(nodes.nonzero()[:, 0]),
            rows=(nodes.cumsum(0) - 1)[self.rows[rows]],
            matrix=self.matrix[rows][:, nodes[: self.matrix.shape[1]]],
            bias=self.bias[rows],
            values=self.values[rows],
            conservation=self.conservation[rows],
            supernodes={},
            pinned=[numbers[each] for each in self.pinned if nodes[each]],
        )
        for name, group in self.supernodes.items():
            small.group(name, [numbers[each] for each in group.nodes if nodes[each]])
        return small

    def supernode(self, name: str, numbers: Sequence[int]) -> Supernode:
        """A named group of nodes, by their numbers in the table; BadInput for a number that does not exist."""
        wrong = [each for each in numbers if not 0 <= each < len(self.nodes)]
        if wrong:
            raise BadInput(f"There is no node {wrong[0]}; the graph has nodes 0 to {len(self.nodes) - 1}.")
        members = tuple(dict.fromkeys(numbers))
        features = tuple(
            FeatureRef(self.origin.coders.get(node.layer, ""), node.position, node.index)
            for node in self.nodes.select(torch.tensor(members, dtype=torch.long))
            if node.kind == FEATURE
        )
        return Supernode(name, members, features, self.scope)

    def group(self, name: str, numbers: Sequence[int]) -> Supernode:
        """Name a group of nodes, to be saved with the graph; a group of that name is replaced."""
        self.supernodes[name] = self.supernode(name, numbers)
        return self.supernodes[name]

    def find(self, text: str, layer: int | None = None, position: int | None = None) -> Supernode:
        """The features whose label holds a text, upper and lower case alike.

        Args:
            text: part of the label.
            layer: only features of this layer.
            position: only features at this token; negative ones count from the end.

        Raises:
            NotFound: there is none; the message tells the nearest labels.
            BadInput: the prompt has no such token.
        """
        wanted = self.nodes.of(FEATURE)
        if layer is not None:
            wanted = wanted & (self.nodes.layer == layer)
        if position is not None:
            if not -len(self.tokens) <= position < len(self.tokens):
                raise BadInput(f"There is no token {position}; the prompt has {len(self.tokens)}.")
            wanted = wanted & (self.nodes.position == position % len(self.tokens))
        candidates = wanted.nonzero()[:, 0].tolist()
        found = [each for each in candidates if text.casefold() in self.nodes.labels[each].casefold()]
        if not found:
            labels = dict.fromkeys(self.nodes.labels[each] for each in candidates if self.nodes.labels[each])
            raise NotFound(f"No active feature's label holds {text!r}; {nearest(text, labels)}.")
        return self.supernode(text, found)

    def matched(self, group: Supernode, random: Random) -> Supernode:
        """As many other active features, each of the same layer and like activation: the control for a group.

        Args:
            group: what is to be matched.
            random: draws among the ten features that come closest in activation.

        Raises:
            BadInput: a layer has too few other active features.
        """
        return self.supernode(f"like {group.name}", matched(self.nodes, torch.tensor(group.nodes), random))

    def between(self, source: Supernode, target: Supernode) -> float:
        """The edge between two supernodes: the sum of the edges between their nodes."""
        columns = [each for each in source.nodes if each < self.matrix.shape[1]]
        rows = torch.isin(self.rows, torch.tensor(target.nodes))
        return float(self.matrix[rows][:, columns].sum())

    def proposed(self) -> list[Supernode]:
        """Supernodes proposed from labels and positions, the most influential first; deterministic."""
        return [self.supernode(name, numbers) for name, numbers in propose(self.nodes, self.influence)]

    def paths(self, k: int = 5) -> list[Route]:
        """The k strongest paths from an embedding to the likeliest outcome, through supernodes; see `paths`."""
        return strongest(self.nodes, self.edges, self.influence, k)

    def to_json(self, slug: str = "graph") -> dict[str, Any]:
        """The graph in the JSON of circuit-tracer and Neuronpedia; prune it first, or it is huge."""
        groups = {name: group.nodes for name, group in self.supernodes.items()}
        return neuronpedia.write(self.origin, self.nodes, self.edges, groups, self.pinned, slug)

    @classmethod
    def from_json(cls, data: Any) -> "Graph":
        """Read the JSON of circuit-tracer or Neuronpedia; BadArtefact where it is something else.

        Values, biases and conservation are unknown there (NaN, 0, NaN), and scores are those of the given part.
        """
        origin, nodes, matrix, groups, pinned = neuronpedia.read(data)
        unknown = torch.full((len(matrix),), torch.nan)
        graph = cls.build(origin, nodes, matrix, torch.zeros(len(matrix)), unknown)
        graph = replace(graph, nodes=nodes if nodes.share.isfinite().any() else graph.nodes, pinned=pinned)
        for name, numbers in groups.items():
            graph.group(name, numbers)
        return graph

    def save(self, path: str | Path) -> artefacts.Artefact:
        """Write the graph as an artefact of kind `graph`: all of it, the scope apart."""
        fields = {
            **self.origin.plain(),
            "replacement": self.replacement,
            "completeness": self.completeness,
            "conservation": _worst(self.conservation),
            "nodes": len(self.nodes),
            "edges": self.n_edges,
        }
        tensors = {name: getattr(self, name) for name in ROW_TENSORS} | self.nodes.tensors()
        groups = [{"name": name, "nodes": list(group.nodes)} for name, group in self.supernodes.items()]
        tables = {"labels": self.nodes.labels, "supernodes": {"supernodes": groups, "pinned": self.pinned}}
        parents = [each for each in (self.origin.model, self.origin.scope) if each]
        return artefacts.write(path, "graph", fields, {"graph": tensors}, tables, parents)


def load_graph(path: str | Path, scope: Scope | None = None) -> Graph:
    """Read a graph that `Graph.save` wrote.

    Args:
        path: its folder.
        scope: the scope that it was traced with, so that its supernodes can be edited.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: the folder is damaged, or is something else.
    """
    stored = artefacts.read(path, "graph")
    tensors, tables = stored.tensors("graph"), stored.table("supernodes")
    try:
        rows, matrix, bias, values, conservation = (tensors.pop(name) for name in ROW_TENSORS)
        found = Scores(stored.fields["replacement"], stored.fields["completeness"])
        nodes = Nodes(**tensors, labels=tuple(stored.table("labels")))
        origin, pinned = Origin.read(stored.fields), tables["pinned"]
        graph = Graph(origin, nodes, rows, matrix, bias, values, conservation, found, {}, pinned, scope)
        for each in tables["supernodes"]:
            graph.group(each["name"], each["nodes"])
    except (KeyError, TypeError) as error:
        raise BadArtefact(f"The graph {stored.path} lacks or misstates {error}; trace the prompt again.") from error
    return graph


def _edges(nodes: Nodes, rows: Tensor, matrix: Tensor) -> Edges:
    weights = torch.where(nodes.of(LOGIT), nodes.probability, torch.zeros(()))
    return Edges(matrix, rows, nodes.layer[rows], weights)


def _worst(conservation: Tensor) -> float | None:
    known = conservation[conservation.isfinite()]
    return float(known.max()) if len(known) else None
