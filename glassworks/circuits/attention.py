"""Attention, explained: through which heads the edges of a graph run, and why those heads look where they look.

A graph holds attention's patterns as constants; here the model is run again on the graph's prompt, and the heads are
taken apart (`heads`). The results also come as plain values, for files, the command line and the explorer's page.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.engine.local import LocalModel, localise, run
from glassworks.circuits.engine.sources import approximate, masked_positions, replacement
from glassworks.circuits.formats.neuronpedia import node_entry, node_id
from glassworks.circuits.graph import Graph
from glassworks.circuits.heads import HeadScore, Loadings, head_score, loadings
from glassworks.circuits.nodes import EMBEDDING, FEATURE, LOGIT, Node, Nodes
from glassworks.circuits.scores import edge_influence
from glassworks.circuits.targets import choose, read_target
from glassworks.circuits.trace import node_table
from glassworks.coders import Scope
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, Scorer
from glassworks.pages import findings

BLOCK = 2**24  # numbers that carried sources may hold at a time
MOST_HEADS, MOST_PARTS = 8, 10
MOST_EDGES, MOST_SCORES = 120, 60
TINY = 1e-3  # heads that move less of an edge are left out
CARRIES = 0.1  # a head that moves less of an edge does not get its score explained by default


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
        size, shares = self.heads.abs().flatten(), []
        for number in size.topk(min(most, len(size))).indices.tolist():
            layer, head = divmod(number, self.heads.shape[1])
            value = float(self.heads[layer, head])
            if value:
                moves = self.moves(layer, head)
                query, key = divmod(int(moves.abs().argmax()), moves.shape[1])
                shares.append(Share(layer, head, value, query, key))
        return shares


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
        graph, local = self.graph, self.local
        row = (graph.rows == target).nonzero()[:, 0]
        if not 0 <= target < len(graph.nodes) or not len(row):
            raise BadInput(f"The node {target} reads nothing; edges lead into features and outcomes with a row.")
        if sources is None:
            sources = graph.matrix[row[0]].nonzero()[:, 0].tolist()
        wrong = [number for number in sources if not 0 <= number < graph.nodes.sources]
        if wrong:
            raise BadInput(f"The node {wrong[0]} writes nothing; sources are 0 to {graph.nodes.sources - 1}.")
        whole, features = int(self._whole[target]), int(self.names.of(FEATURE).sum())
        read = local.targets[torch.tensor([whole if whole < features else features + whole - self.names.sources])]
        numbers = self.model.d_model * (int(graph.nodes.position[target]) + 1) * self.model.n_layers
        edges: list[EdgeHeads] = []
        for some in torch.tensor(sources, dtype=torch.long).split(max(1, BLOCK // numbers)):
            split = loadings(local.frozen, local.sources.writes, read, self._whole[some].to(self.model.device))
            edges += [
                EdgeHeads(
                    source=source,
                    target=target,
                    weight=float(split.edges[place]),
                    heads=split.heads[:, :, place],
                    passes=split.passes[:, place],
                    below=split.below[:, place],
                    _loadings=split,
                    _place=place,
                    _local=local,
                )
                for place, source in enumerate(some.tolist())
            ]
        return edges

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
        keys = [key] if against is None else [key, against]
        for place in keys:
            if not (-tokens <= query < tokens and -tokens <= place < tokens and place % tokens <= query % tokens):
                raise BadInput(
                    f"No head can look from {query} to {place}; positions are 0 to {tokens - 1}, the key's not after "
                    "the query's."
                )
        if layer not in self._scorers:
            sites = [f"{kind}.{layer}" for kind in ("attn_in", "q", "k")]
            self._captured.update(self.model.capture(self.graph.tokens, sites))
            self._scorers[layer] = self.model.scorer(layer, self.graph.tokens)
        score, *other = (
            head_score(
                self.model,
                self.local,
                self._captured,
                self._scorers[layer],
                head,
                (layer, query % tokens, place % tokens),
            )
            for place in keys
        )
        if not other:
            return score
        return replace(score, score=score.score - other[0].score, keys=score.keys - other[0].keys)


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
    targets = [read_target(plain) for plain in graph.origin.facts["targets"]]
    captured = dict(run(model, coders, graph.tokens, [site for target in targets for site in target.sites(scope)]))
    outcomes = choose(model, scope, captured, targets)
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


def _key(node: Node) -> tuple[Any, ...]:
    return node.kind, node.place, node.position, node.index


# Plain values, for files, the command line and the page.


def edge_values(edge: EdgeHeads, most: int = MOST_HEADS) -> dict[str, Any]:
    """One edge's way through attention.

    Returns:
        `source`, `target` (node numbers), `weight`; `layers` with `layer`, `below`, `passes` (see `EdgeHeads`);
        `heads`, the strongest first, with `layer`, `head`, `value`, `share` of the edge, and the positions `query`
        and `key` between which most of it moves.
    """
    reached = [layer for layer, below in enumerate(edge.below.tolist()) if below]
    layers = [{"layer": n, "below": float(edge.below[n]), "passes": float(edge.passes[n])} for n in reached]
    heads = [
        {**asdict(share), "share": share.value / edge.weight}
        for share in edge.top(most)
        if abs(share.value) > TINY * abs(edge.weight) > 0
    ]
    return {"source": edge.source, "target": edge.target, "weight": edge.weight, "layers": layers, "heads": heads}


def score_values(attention: Attention, score: HeadScore, most: int = MOST_PARTS) -> dict[str, Any]:
    """Why a head looks where it looks.

    Returns:
        `layer`, `head`, `query`, `key`, `score` (scaled, before soft-capping), `weight` (attention), `total` (of all
        pairs); `pairs` with `query`, `key`, `value`, and `queries` and `keys` with `source`, `value`, the strongest
        first. A source is described by `node` (its number, null where the graph does not hold it), `kind` (`bias`: the
        constants), `layer`, `position`, `index` and `label`.
    """
    in_graph = attention.in_graph

    def source(column: int) -> dict[str, Any]:
        if column >= attention.names.sources:
            return {"node": None, "kind": "bias", "layer": -1, "position": -1, "index": -1, "label": "constants"}
        node = attention.names[column]
        facts = {name: getattr(node, name) for name in ("kind", "layer", "position", "index", "label")}
        return {"node": in_graph.get(column), **facts}

    where = {name: getattr(score, name) for name in ("layer", "head", "query", "key", "score", "weight", "total")}
    pairs = [{"query": source(query), "key": source(key), "value": value} for query, key, value in score.pairs(most)]
    sides = {
        name: [{"source": source(column), "value": value} for column, value in _strongest(values, most)]
        for name, values in {"queries": score.query_side, "keys": score.key_side}.items()
    }
    return {**where, "pairs": pairs, **sides}


def _strongest(values: Tensor, most: int) -> list[tuple[int, float]]:
    """The largest values with their places, zeros left out."""
    places = values.abs().topk(min(most, len(values))).indices.tolist()
    return [(place, float(values[place])) for place in places if values[place]]


def attention_values(attention: Attention, edges: int = MOST_EDGES, scores: int = MOST_SCORES) -> dict[str, Any]:
    """The heads of the edges of the pruned graph that carry most of the influence, and the scores of these heads.

    Returns:
        `edges`: `SOURCE>TARGET` (node numbers) -> `edge_values`; `scores`: `LAYER.HEAD.QUERY.KEY` -> `score_values`.
    """
    small = attention.graph.prune()
    numbers = {_key(node): number for number, node in enumerate(attention.graph.nodes)}
    whole = [numbers[_key(node)] for node in small.nodes]
    flow = edge_influence(small.edges)
    ends: list[tuple[int, int]] = []
    for place in flow.flatten().topk(min(edges, flow.numel())).indices.tolist():
        row, column = divmod(place, max(1, flow.shape[1]))
        if flow[row, column] > 0:
            ends.append((whole[column], whole[int(small.rows[row])]))
    into: dict[int, list[int]] = {}
    for source, target in ends:
        into.setdefault(target, []).append(source)
    split = {(edge.source, target): edge for target in into for edge in attention.into(target, into[target])}
    values = {f"{source}>{target}": edge_values(split[source, target]) for source, target in ends}
    where = dict.fromkeys(
        (head["layer"], head["head"], head["query"], head["key"])
        for edge in values.values()
        for head in edge["heads"]
        if abs(head["share"]) >= CARRIES
    )
    explained = {
        ".".join(map(str, head)): score_values(attention, attention.score(*head)) for head in [*where][:scores]
    }
    return {"edges": values, "scores": explained}


def attention_text(graph: Graph, edges: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]]) -> Any:
    """A rich renderable of edges and scores, given as `edge_values` and `score_values`."""
    texts = [text.strip() or repr(text) for text in graph.token_texts]

    def source(facts: dict[str, Any]) -> str:
        if facts["kind"] in ("bias", EMBEDDING, LOGIT):
            return facts["label"].strip() or repr(facts["label"])
        name = facts["label"] or (f"feature {facts['index']}" if facts["kind"] == FEATURE else "error")
        return f"{name} (layer {facts['layer']} at {texts[facts['position']]})"

    lines = []
    for edge in edges:
        ends = (source(asdict(graph.nodes[edge[end]])) for end in ("source", "target"))
        heads = [
            f"{head['share']:7.1%}  head {head['layer']}.{head['head']}  {texts[head['key']]} -> {texts[head['query']]}"
            for head in edge["heads"][:4]
        ]
        ways = heads or ["past all heads: it stays at its token"]
        lines.append((f"{edge['weight']:+.3g}", "\n     ".join([" -> ".join(ends), *ways])))
    for score in scores:
        way = f"looks from {texts[score['query']]!r} to {texts[score['key']]!r}"
        text = f"{way}: attention {score['weight']:.1%}, score {score['score']:+.3g}, made of"
        for pair in score["pairs"][:5]:
            text += f"\n     {pair['value']:+7.3f}  {source(pair['query'])}  x  {source(pair['key'])}"
        lines.append((f"Head {score['layer']}.{score['head']}", text))
    return findings(lines)


def annotate(data: dict[str, Any], attention: Attention, most: int = MOST_PARTS) -> dict[str, Any]:
    """Add attention to a graph's JSON: to every node that reads, why its main head looks where it looks.

    The main head is the one that moves most of the node's input. Neuronpedia reads `qk_tracing_results`; `attention`
    is ours and gives head, positions and the moved part.

    Args:
        data: what `Graph.to_json` made of the attention's graph.
        attention: explains it.
        most: how many contributors of each kind.
    """
    graph, names = attention.graph, attention.names
    entries = {entry["node_id"]: entry for entry in data["nodes"]}
    described: dict[str, Any] = {}

    def name(column: int) -> str:
        """The id of a source, which is described where the graph does not hold it."""
        if column >= names.sources:
            kind = {"layer": "E", "ctx_idx": 0, "feature_type": "bias", "clerp": "constants"}
            described["bias"] = {"node_id": "bias", **kind}
            return "bias"
        node = names[column]
        described[node_id(node)] = node_entry(node, node_id(node), 1.0, graph.origin)
        return node_id(node)

    for target in graph.rows.tolist():
        edges = attention.into(target)
        carried = sum((edge.heads.abs() for edge in edges), start=torch.zeros(1, 1))
        if not bool(carried.any()):
            continue
        layer, head = divmod(int(carried.argmax()), carried.shape[1])
        carrier = max(edges, key=lambda edge: abs(float(edge.heads[layer, head])))
        moves = carrier.moves(layer, head)
        query, key = divmod(int(moves.abs().argmax()), moves.shape[1])
        moved = float(sum(edge.heads[layer, head] for edge in edges))
        score, entry = attention.score(layer, head, query, key), entries[node_id(graph.nodes[target])]
        entry["attention"] = {"layer": layer, "head": head, "query": query, "key": key, "value": moved}
        queries, keys = _strongest(score.query_side, most), _strongest(score.key_side, most)
        entry["qk_tracing_results"] = {
            "pair_wise_contributors": [[name(query), name(key), value] for query, key, value in score.pairs(most)],
            "top_q_marginal_contributors": [[name(place), value] for place, value in queries],
            "top_k_marginal_contributors": [[name(place), value] for place, value in keys],
        }
    return {**data, "qk_only_nodes": {name: entry for name, entry in described.items() if name not in entries}}
