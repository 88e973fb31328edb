"""Attention, explained: through which heads the edges of a graph run, and why those heads look where they look.

A graph holds attention's patterns as constants; here the model is run again on the graph's prompt, and the heads are
taken apart. This module must not know how the parts are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.asked import reading
from glassworks.circuits.attention.loadings import Loadings, loadings
from glassworks.circuits.attention.qk import HeadScore, head_score
from glassworks.circuits.engine.chosen import approximate, masked_positions, replacement
from glassworks.circuits.engine.local import LocalModel, localise, run
from glassworks.circuits.graph import Graph
from glassworks.circuits.nodes import Nodes
from glassworks.circuits.outcomes import choose, sites_of
from glassworks.circuits.trace import node_table
from glassworks.coders import Scope
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, Scorer

BLOCK = 2**24  # numbers that carried sources may hold at a time


@final
@dataclass(frozen=True)
class Share:
    """The part of one edge that one head moves.

    Attributes:
        layer: of the head.
        head: which one.
        value: signed part of the edge.
        query: position to which the head takes most of it.
        key: position from which it takes that.
    """

    layer: int
    head: int
    value: float
    query: int
    key: int


@final
@dataclass(frozen=True, eq=False)
class EdgeHeads:
    """One edge, taken apart by attention heads.

    At every layer the heads' parts and `passes` sum to `below`, the part of the edge that the source writes below
    that layer: all of it but for cross-layer features. Parts of different layers overlap and do not add.

    Attributes:
        source: number of the node that writes.
        target: number of the node that reads.
        weight: the edge.
        heads: the part through each head.
        passes: the part past all heads of a layer.
        below: the part that was written below a layer; 0 for layers above the target.
    """

    source: int
    target: int
    weight: float
    heads: Float[Tensor, "layer head"]
    passes: Float[Tensor, " layer"]
    below: Float[Tensor, " layer"]
    _loadings: Loadings = field(repr=False)
    _place: int = field(repr=False)
    _local: LocalModel = field(repr=False)

    def moves(self, layer: int, head: int) -> Float[Tensor, "query key"]:
        """Where a head takes its part from and to: sums to its part of the edge."""
        if layer >= len(self._loadings.inputs):
            return torch.zeros(0, 0)
        return self._loadings.moves(self._local.frozen.attentions[layer], layer, head, self._place)

    def top(self, most: int = 5) -> list[Share]:
        """The heads with the largest parts, wherever they are."""
        size = self.heads.abs().flatten()
        found = []
        for each in size.topk(min(most, len(size))).indices.tolist():
            layer, head = divmod(each, self.heads.shape[1])
            value = float(self.heads[layer, head])
            if value:
                moves = self.moves(layer, head)
                query, key = divmod(int(moves.abs().argmax()), moves.shape[1])
                found.append(Share(layer, head, value, query, key))
        return found


@final
@dataclass(frozen=True, eq=False)
class Attention:
    """The attention behind one graph.

    Attributes:
        graph: the graph; nodes are called by their numbers in it.
        model: its model.
        local: the linear model of its prompt.
        names: the nodes of the whole graph, in the order of the sources' columns.
    """

    graph: Graph
    model: Model
    local: LocalModel
    names: Nodes
    _captured: dict[str, Tensor] = field(repr=False)
    _whole: Int[Tensor, " n"] = field(repr=False)
    _scorers: dict[int, Scorer] = field(default_factory=dict, repr=False)

    @property
    def in_graph(self) -> dict[int, int]:
        """Column of a source -> number of its node, of those that the graph holds."""
        return {column: number for number, column in enumerate(self._whole.tolist()) if column < self.names.sources}

    def part(self, graph: Graph) -> "Attention":
        """The same for a part of the graph, by its own numbers; NotFound where it is none."""
        return replace(self, graph=graph, _whole=_columns(graph, self.names))

    def strongest(self, layer: int, head: int) -> tuple[int, int]:
        """The query and key between which a head's attention is strongest, looks at itself and the start left out.

        Raises:
            BadInput: there is no such head.
        """
        self._check(layer, head)
        pattern = self._captured[f"pattern.{layer}"][:, head].float().tril(-1)
        pattern[:, :1] = 0
        return divmod(int(pattern.argmax()), pattern.shape[1])

    def _check(self, layer: int, head: int) -> None:
        if not (0 <= layer < self.model.n_layers and 0 <= head < self.model.n_heads):
            raise BadInput(
                f"There is no head {layer}.{head}; the model has layers 0 to {self.model.n_layers - 1} of heads 0 to "
                f"{self.model.n_heads - 1}."
            )

    def edge(self, source: int, target: int) -> EdgeHeads:
        """Take one edge apart; see `into`."""
        return self.into(target, [source])[0]

    @torch.no_grad()
    def into(self, target: int, sources: Sequence[int] | None = None) -> list[EdgeHeads]:
        """Take edges into one node apart by heads.

        Args:
            target: number of a feature or outcome.
            sources: numbers of the nodes that write; by default all whose edge into it is not zero.

        Raises:
            BadInput: the node reads nothing, or a source is none.
        """
        row = (self.graph.rows == target).nonzero()[:, 0]
        if not 0 <= target < len(self.graph.nodes) or not len(row):
            raise BadInput(f"The node {target} reads nothing; edges lead into features and outcomes with a row.")
        if sources is None:
            sources = self.graph.matrix[row[0]].nonzero()[:, 0].tolist()
        wrong = [each for each in sources if not 0 <= each < self.graph.nodes.sources]
        if wrong:
            raise BadInput(f"The node {wrong[0]} writes nothing; sources are 0 to {self.graph.nodes.sources - 1}.")
        whole = int(self._whole[target])
        features = int(self.names.of("feature").sum())
        wanted = whole if whole < features else features + whole - self.names.sources
        found: list[EdgeHeads] = []
        for some in torch.tensor(sources, dtype=torch.long).split(self._block(target)):
            found += self._split(some, target, torch.tensor([wanted]))
        return found

    def _block(self, target: int) -> int:
        numbers = self.model.d_model * (int(self.graph.nodes.position[target]) + 1) * self.model.n_layers
        return max(1, BLOCK // numbers)

    def _split(self, sources: Int[Tensor, " k"], target: int, wanted: Tensor) -> list[EdgeHeads]:
        local = self.local
        found = loadings(
            local.frozen, local.sources.writes, local.targets[wanted], self._whole[sources].to(self.model.device)
        )
        return [
            EdgeHeads(
                source=source,
                target=target,
                weight=float(found.edges[place]),
                heads=found.heads[:, :, place],
                passes=found.passes[:, place],
                below=found.below[:, place],
                _loadings=found,
                _place=place,
                _local=local,
            )
            for place, source in enumerate(sources.tolist())
        ]

    @torch.no_grad()
    def score(self, layer: int, head: int, query: int, key: int, against: int | None = None) -> HeadScore:
        """Take a head's score for one pair of positions apart, or how much it exceeds that of another key.

        What is the same for all keys changes no attention, and cancels against another key.

        Args:
            layer: of the head.
            head: which one.
            query: position that looks; negative ones count from the end.
            key: position that is looked at, not after the query.
            against: position whose score is subtracted, or None.

        Returns:
            Its rows and columns are `names`' sources, and constants at the end.

        Raises:
            BadInput: there is no such head or position.
        """
        tokens = len(self.graph.tokens)
        self._check(layer, head)
        for each in (key,) if against is None else (key, against):
            if not (-tokens <= query < tokens and -tokens <= each < tokens and each % tokens <= query % tokens):
                raise BadInput(
                    f"No head can look from {query} to {each}; positions are 0 to {tokens - 1}, the key's not after "
                    "the query's."
                )
        if layer not in self._scorers:
            sites = [f"{kind}.{layer}" for kind in ("attn_in", "q", "k")]
            self._captured.update(self.model.capture(self.graph.tokens, sites))
            self._scorers[layer] = self.model.scorer(layer, self.graph.tokens)
        scorer, query, key = self._scorers[layer], query % tokens, key % tokens
        score = head_score(self.model, self.local, self._captured, scorer, head, (layer, query, key))
        if against is None:
            return score
        other = head_score(self.model, self.local, self._captured, scorer, head, (layer, query, against % tokens))
        return replace(score, score=score.score - other.score, keys=score.keys - other.keys)


def explain_attention(model: Model, graph: Graph, scope: Scope | None = None) -> Attention:
    """Open the attention behind a graph: run its prompt again, and keep what explains its heads.

    Args:
        model: the model that was traced.
        graph: whole or pruned.
        scope: the scope that it was traced with; by default the graph's own.

    Raises:
        NotFound: the graph is of another model or scope: a node of it is not there; or of another program.
        Unsupported: the graph's edges are approximate, so they are no sums over heads.
    """
    scope = scope or graph.scope
    coders = replacement(model, scope)
    if not graph.origin.facts.get("targets"):
        raise NotFound("This graph was not traced by Glassworks, so its attention cannot be opened; trace it here.")
    if names := approximate(coders):
        raise Unsupported(
            f"Edges of {', '.join(names)} follow the model's own Jacobian, which is no sum over heads; "
            "attention is explained in graphs of transcoders and attention-output autoencoders."
        )
    asked = [reading(each) for each in graph.origin.facts["targets"]]
    captured = dict(run(model, coders, graph.tokens, sites_of(scope, asked)))
    outcomes = choose(model, scope, captured, asked)
    masked = masked_positions(scope, graph.token_texts).to(model.device)
    local = localise(model, coders, captured, masked, outcomes)
    names = node_table(model, scope, torch.tensor(graph.tokens), local.sources, outcomes)
    return Attention(graph, model, local, names, captured, _columns(graph, names))


def _columns(graph: Graph, names: Nodes) -> Int[Tensor, " n"]:
    """Where each node of a graph stands in the whole table."""
    places = {_key(node): place for place, node in enumerate(names)}
    lost = [node for node in graph.nodes if _key(node) not in places]
    if lost:
        raise NotFound(
            f"The graph's {lost[0].kind} {lost[0].index} of layer {lost[0].layer} at token {lost[0].position} is not "
            "there in this model with this scope; take those that it was traced with."
        )
    return torch.tensor([places[_key(node)] for node in graph.nodes], dtype=torch.long)


def _key(node: Any) -> tuple[Any, ...]:
    return node.kind, node.layer, getattr(node, "part", ""), node.position, node.index
