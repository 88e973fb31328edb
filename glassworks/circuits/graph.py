"""Graph: the attribution graph of one prompt, with its nodes, edges, biases and scores.

It binds the room's pure functions to one object and computes nothing itself; `trace` makes graphs.
"""

import json
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
from glassworks.circuits.check import Check, check
from glassworks.circuits.formats import circuit_tracer, neuronpedia
from glassworks.circuits.minimal import Minimal, minimal
from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, LOGIT, Nodes, Origin, Supernode
from glassworks.circuits.reading import Path as Route
from glassworks.circuits.reading import propose, strongest, summarise
from glassworks.circuits.scores import Edges, Scores, cumulative, influence, prune, scores
from glassworks.coders import Scope, load_scope
from glassworks.edits import FeatureRef
from glassworks.errors import BadArtefact, BadInput, NotFound, nearest
from glassworks.models import Model, load_model
from glassworks.pages import findings, paragraph, table

ROW_TENSORS = ("rows", "matrix", "bias", "rest", "rest_size", "values")


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """The attribution graph of one prompt.

    `matrix[t, s]` is the part of target t's value that comes from source s, everything nonlinear frozen. Sources are
    the first columns of the node table; the targets, features and logits, are listed in `rows`. In a truncated graph
    some features have no row: what flows into them was not explored. Each row with its bias and rest sums up to its
    value, whatever was left out.

    Attributes:
        origin: model, scope, prompt and tokens.
        nodes: the node table.
        rows: node number of each target, ascending.
        matrix: direct effects, targets by sources.
        bias: part of each target's value that comes from constants.
        rest: part of each target's value that comes from what the graph does not hold: nodes and edges cut away.
        rest_size: the same, absolute values summed.
        values: each target's value in the model: pre-activation, or demeaned logit; NaN where it is not known, or
            where edges are approximate.
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
    rest: Float[Tensor, " t"]
    rest_size: Float[Tensor, " t"]
    values: Float[Tensor, " t"]
    scores: Scores
    supernodes: dict[str, Supernode] = field(default_factory=dict)
    pinned: list[int] = field(default_factory=list)
    scope: Scope | None = None

    @classmethod
    def build(
        cls,
        origin: Origin,
        nodes: Nodes,
        matrix: Tensor,
        bias: Tensor,
        values: Tensor,
        scope: Scope | None = None,
        rows: Tensor | None = None,
    ) -> "Graph":
        """A graph as it was traced: scores and shares of influence are computed here.

        Args:
            origin: where it comes from.
            nodes: the node table, in order.
            matrix: direct effects.
            bias: constants' part of each row.
            values: each row's value in the model.
            scope: the scope it was traced with.
            rows: node number of each row, ascending; by default all features and logits have one.
        """
        feature, nothing = nodes.of(FEATURE), torch.zeros_like(bias)
        rows = (feature | nodes.of(LOGIT)).nonzero()[:, 0] if rows is None else rows
        graph = cls(origin, nodes, rows, matrix, bias, nothing, nothing.clone(), values, Scores(0.0, 0.0), scope=scope)
        score = scores(graph.edges, graph.influence, feature, nodes.of(ERROR), nodes.of(EMBEDDING))
        share = cumulative(graph.influence).masked_fill(nodes.of(LOGIT), torch.nan)
        return replace(graph, nodes=replace(nodes, share=share), scores=score)

    def __rich__(self) -> Any:
        features, left = int(self.nodes.of(FEATURE).sum()), ""
        if self.origin.facts.get("interrupted"):
            left = "; it was stopped, go on with --resume"
        exact = "approximate" if self.residual is None else f"rows add up to within {self.residual:.0e}"
        lines = {
            "Graph": f"{len(self.nodes):,} nodes ({features:,} features), {self.n_edges:,} edges; "
            f"replacement {self.replacement:.2f}, completeness {self.completeness:.2f}, {exact}"
        }
        if self.origin.facts.get("approximate"):
            lines["Approximate"] = (
                f"by the Jacobian of the model's blocks: {', '.join(self.origin.facts['approximate'])}"
            )
        if self.unexplored > 1e-6:
            rest = f"{self.unexplored:.1%} of the influence rests on features without one"
            lines["Truncated"] = f"{len(self.rows):,} rows computed; {rest}{left}"
        paths = "".join(f"\n  {path.weight:6.1%}  {path}" for path in self.paths())
        lines["Strongest paths"] = f"(part of the likeliest token's input){paths}"
        return findings(lines.items())

    def __repr__(self) -> str:
        prompt = self.prompt if len(self.prompt) <= 80 else f"{self.prompt[:77]}..."
        return (
            f"Graph({prompt!r}: {len(self.nodes)} nodes ({int(self.nodes.of(FEATURE).sum())} features), "
            f"{self.n_edges} edges, replacement {self.replacement:.2f}, completeness {self.completeness:.2f})"
        )

    def _repr_html_(self) -> str:
        paths = [{"share": f"{path.weight:.1%}", "strongest paths": str(path)} for path in self.paths()]
        return paragraph(repr(self)) + table(paths, words=True)

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
        """The text of each token."""
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

    @property
    def unexplored(self) -> float:
        """Share of the influence on the logits that rests on features whose rows were not computed."""
        return self.scores.unexplored

    @property
    def unexpanded(self) -> Bool[Tensor, " n"]:
        """Features without a row: what flows into them was not explored."""
        open_ = self.nodes.of(FEATURE)
        open_[self.rows] = False
        return open_

    @property
    def truncated(self) -> bool:
        """Whether there are features without a row."""
        return bool(self.unexpanded.any())

    @cached_property
    def conservation(self) -> Float[Tensor, " t"]:
        """`|sum + bias + rest - value| / (sum |A| + |bias|)` of each row; NaN where the value is not known."""
        left = self.matrix.sum(1) + self.bias + self.rest - self.values
        return left.abs() / (self.edges.sizes() + self.bias.abs())

    @property
    def residual(self) -> float | None:
        """The largest conservation residual of all rows; None where no row's value is known."""
        known = self.conservation[self.conservation.isfinite()]
        return float(known.max()) if len(known) else None

    @cached_property
    def edges(self) -> Edges:
        """The edges as scores and pruning take them, weighted by the outcomes' probabilities."""
        weights = torch.where(self.nodes.of(LOGIT), self.nodes.probability, torch.zeros(()))
        return Edges(self.matrix, self.rows, self.nodes.levels[self.rows], weights, self.rest_size)

    @cached_property
    def influence(self) -> Float[Tensor, " n"]:
        """Influence of every node on the logits over all paths of this graph, weighted by their probabilities."""
        return influence(self.edges)

    @property
    def best(self) -> int:
        """The number of the outcome with the largest weight."""
        return int(torch.where(self.nodes.of(LOGIT), self.edges.weights, torch.full((), -1.0)).argmax())

    @property
    def ranked_features(self) -> list[int]:
        """The numbers of all features, the most influential first."""
        feature = self.nodes.of(FEATURE)
        order = torch.where(feature, self.influence, torch.full((), -1.0)).argsort(descending=True, stable=True)
        return order[: int(feature.sum())].tolist()

    def dense(self, order: str = "glassworks") -> tuple[Float[Tensor, "n n"], Nodes]:
        """The direct effects as a square matrix: rows are targets, columns are sources; and its table of nodes.

        Args:
            order: `glassworks`, the node table's own; or `circuit-tracer`: features by layer, position and index,
                errors of every layer and position, tokens, logits, without features that have no row.

        Raises:
            BadInput: there is no such order.
        """
        if order not in ("glassworks", "circuit-tracer"):
            raise BadInput(
                f"There is no order {order!r}; a matrix comes in the order 'glassworks' or 'circuit-tracer'."
            )
        if order == "circuit-tracer":
            small = self.explored()
            where, nodes = circuit_tracer.arranged(self.origin, small.nodes)
            return circuit_tracer.square(where, len(nodes), small.rows, small.matrix), nodes
        return circuit_tracer.square(torch.arange(len(self.nodes)), len(self.nodes), self.rows, self.matrix), self.nodes

    def prune(self, node: float = 0.8, edge: float = 0.98) -> "Graph":
        """The part that carries most of the influence; nodes keep their shares, and rows still sum up, with `rest`.

        Args:
            node: share of the nodes' influence to keep.
            edge: share of the remaining edges' influence to keep.
        """
        kept = self.nodes.of(EMBEDDING) | self.nodes.of(LOGIT)
        rooted = self.nodes.of(EMBEDDING) | self.nodes.of(ERROR) | self.unexpanded
        nodes, mask = prune(self.edges, kept, rooted, node, edge)
        facts = {**self.origin.facts, "node_threshold": node, "edge_threshold": edge}
        small = self.select(nodes)
        cut = small.matrix.masked_fill(mask, 0)
        rest, size = small.rest + cut.sum(1), small.rest_size + cut.abs().sum(1)
        origin = replace(self.origin, facts=facts)
        return replace(small, matrix=small.matrix * mask, rest=rest, rest_size=size, origin=origin)

    def explored(self) -> "Graph":
        """The graph without the features that have no row."""
        return self.select(~self.unexpanded) if self.truncated else self

    def select(self, nodes: Bool[Tensor, " n"]) -> "Graph":
        """The graph of some of its nodes and the edges among them; what comes from others goes into `rest`."""
        numbers = (nodes.cumsum(0) - 1).tolist()
        rows, columns = nodes[self.rows], nodes[: self.matrix.shape[1]]
        matrix = self.matrix[rows]
        lost = matrix[:, ~columns]
        small = replace(
            self,
            nodes=self.nodes.select(nodes.nonzero()[:, 0]),
            rows=(nodes.cumsum(0) - 1)[self.rows[rows]],
            matrix=matrix[:, columns],
            bias=self.bias[rows],
            rest=self.rest[rows] + lost.sum(1),
            rest_size=self.rest_size[rows] + lost.abs().sum(1),
            values=self.values[rows],
            supernodes={},
            pinned=[numbers[old] for old in self.pinned if nodes[old]],
        )
        for name, group in self.supernodes.items():
            small.group(name, [numbers[old] for old in group.nodes if nodes[old]])
        return small

    def supernode(self, name: str, numbers: Sequence[int]) -> Supernode:
        """A named group of nodes, by their numbers in the table; BadInput for a number that does not exist."""
        wrong = [number for number in numbers if not 0 <= number < len(self.nodes)]
        if wrong:
            raise BadInput(f"There is no node {wrong[0]}; the graph has nodes 0 to {len(self.nodes) - 1}.")
        nodes = tuple(dict.fromkeys(numbers))
        features = tuple(
            FeatureRef(self.origin.coders.get(node.place, ""), node.position, node.index)
            for node in self.nodes.select(torch.tensor(nodes, dtype=torch.long))
            if node.kind == FEATURE
        )
        return Supernode(name, nodes, features, self.scope)

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
            NotFound: there is none; the message names the nearest labels.
            BadInput: the prompt has no such token.
        """
        wanted = self.nodes.of(FEATURE)
        if layer is not None:
            wanted = wanted & (self.nodes.layer == layer)
        if position is not None:
            if not -len(self.tokens) <= position < len(self.tokens):
                raise BadInput(f"There is no token {position}; the prompt has {len(self.tokens)}.")
            wanted = wanted & (self.nodes.position == position % len(self.tokens))
        labels = {number: self.nodes.labels[number] for number in wanted.nonzero()[:, 0].tolist()}
        numbers = [number for number, label in labels.items() if text.casefold() in label.casefold()]
        if not numbers:
            known = dict.fromkeys(label for label in labels.values() if label)
            raise NotFound(f"No active feature's label holds {text!r}; {nearest(text, known)}.")
        return self.supernode(text, numbers)

    def matched(self, group: Supernode, random: Random) -> Supernode:
        """As many other active features, each of the same layer and like activation: the control for a group.

        Args:
            group: what is to be matched.
            random: draws among the ten features that come closest in activation.

        Raises:
            BadInput: a layer has too few other active features.
        """
        return self.supernode(f"like {group.name}", self.nodes.matched(torch.tensor(group.nodes), random))

    def between(self, source: Supernode, target: Supernode) -> float:
        """The edge between two supernodes: the sum of the edges between their nodes."""
        columns = [number for number in source.nodes if number < self.matrix.shape[1]]
        rows = torch.isin(self.rows, torch.tensor(target.nodes))
        return float(self.matrix[rows][:, columns].sum())

    def proposed(self) -> list[Supernode]:
        """Supernodes proposed for features of one layer and token whose labels share words, the strongest first."""
        return [self.supernode(name, numbers) for name, numbers in propose(self.nodes, self.influence)]

    def summary(self) -> str:
        """The graph in plain sentences: what is explained, by which tokens, features and paths, and what is missing."""
        return summarise(self)

    def paths(self, k: int = 5) -> list[Route]:
        """The k strongest paths from an embedding to the likeliest outcome, through supernodes; see `paths`."""
        return strongest(self.nodes, self.edges, self.influence, k)

    def check(
        self, model: Model | None = None, scope: Scope | None = None, *, interventions: int = 32, seed: int = 0
    ) -> Check:
        """Does it add up, rebuild the model, and predict what edits of the real model do? See `check`.

        Args:
            model: the model that it explains; loaded by its name where it is not given.
            scope: its scope; by default the one at hand, or else loaded by its name.
            interventions: how many features are silenced, one by one, in each mode.
            seed: of what is drawn.

        Raises:
            NotFound: there is no such model or scope.
            BadInput: they cannot be those of the graph.
        """
        if scope is None:
            scope = load_scope(self.origin.scope) if self.scope is None and self.origin.scope else self.scope
        return check(self, model or load_model(self.origin.model), scope, interventions, seed)

    def minimal(
        self, model: Model, scope: Scope | None = None, *, faithfulness: float = 0.8, mode: str = "live", seed: int = 0
    ) -> Minimal:
        """A small set of features that keeps so much of the likeliest outcome in the real model; see `minimal`."""
        return minimal(self, model, scope or self.scope, faithfulness, mode, seed)

    def to_json(self, slug: str = "graph") -> dict[str, Any]:
        """The graph in the JSON of circuit-tracer and Neuronpedia; prune it first, or it is huge."""
        groups = {name: group.nodes for name, group in self.supernodes.items()}
        data = neuronpedia.write(self.origin, self.nodes, self.edges, groups, self.pinned, slug)
        data["metadata"] |= {} if self.residual is None else {"conservation": self.residual}
        return data

    def export(self, path: str | Path) -> Path:
        """Write the graph as another program reads it: `.json` (Neuronpedia), or `.npz` (circuit-tracer's arrays).

        Raises:
            BadInput: the file has another ending, or cannot be written.
        """
        file = Path(path)
        if file.suffix not in (".json", ".npz"):
            raise BadInput(f"A graph is exported as .json or .npz; {file.name} ends otherwise.")
        try:
            if file.suffix == ".npz":
                adjacency, nodes = self.dense("circuit-tracer")
                circuit_tracer.write(file, self.origin, nodes, adjacency)
            else:
                artefacts.replace_text(file, json.dumps(self.to_json(file.stem), ensure_ascii=False))
        except OSError as error:
            raise BadInput(f"The file {file} cannot be written ({error}); choose another place.") from error
        return file

    @classmethod
    def from_file(cls, path: str | Path) -> "Graph":
        """Read a file of another program: `.json` of Neuronpedia, `.pt` of circuit-tracer, or `.npz`; see `from_json`.

        Raises:
            NotFound: there is no such file.
            BadArtefact: it is something else.
        """
        file = Path(path)
        if not file.is_file():
            raise NotFound(f"There is no file {file}.")
        if file.suffix == ".json":
            return cls.from_json(artefacts.read_json(file))
        if file.suffix not in (".pt", ".npz"):
            raise BadArtefact(f"The file {file} is no graph; graphs end in .json, .pt or .npz.")
        origin, nodes, matrix = circuit_tracer.read(file)
        return cls.build(origin, nodes, matrix, torch.zeros(len(matrix)), torch.full((len(matrix),), torch.nan))

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
            "unexplored": self.unexplored,
            "conservation": self.residual,
            "nodes": len(self.nodes),
            "edges": self.n_edges,
        }
        tensors = {name: getattr(self, name) for name in ROW_TENSORS} | self.nodes.tensors()
        groups = [{"name": name, "nodes": list(group.nodes)} for name, group in self.supernodes.items()]
        tables = {"labels": self.nodes.labels, "supernodes": {"supernodes": groups, "pinned": self.pinned}}
        parents = [name for name in (self.origin.model, self.origin.scope) if name]
        return artefacts.write(path, "graph", fields, {"graph": tensors}, tables, parents)


def load_graph(path: str | Path, scope: Scope | None = None) -> Graph:
    """Read a graph that `Graph.save` wrote, or a file of another program (`Graph.from_file`).

    Args:
        path: its folder, or the file.
        scope: the scope that it was traced with, so that its supernodes can be edited.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: the folder is damaged, or is something else.
    """
    if Path(path).is_file():
        return replace(Graph.from_file(path), scope=scope)
    stored = artefacts.read(path, "graph")
    tensors, tables = stored.tensors("graph"), stored.table("supernodes")
    try:
        rows, matrix, bias, rest, size, values = (tensors.pop(name) for name in ROW_TENSORS)
        found = Scores(*(stored.fields[name] for name in ("replacement", "completeness", "unexplored")))
        nodes = Nodes(**tensors, labels=tuple(stored.table("labels")))
        origin, pinned = Origin.read(stored.fields), tables["pinned"]
        graph = Graph(origin, nodes, rows, matrix, bias, rest, size, values, found, {}, pinned, scope)
        for group in tables["supernodes"]:
            graph.group(group["name"], group["nodes"])
    except (KeyError, TypeError) as error:
        raise BadArtefact(f"The graph {stored.path} lacks or misstates {error}; trace the prompt again.") from error
    return graph
