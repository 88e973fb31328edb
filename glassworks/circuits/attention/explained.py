"""Explained attention as plain values, for files, the command line and the page: heads of edges, parts of scores.

This module must not know who shows them.
"""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from glassworks.circuits.attention.attention import Attention, EdgeHeads
from glassworks.circuits.attention.qk import HeadScore
from glassworks.circuits.formats.neuronpedia import node_entry, node_id
from glassworks.circuits.graph import Graph
from glassworks.circuits.scores import edge_influence

MOST_HEADS, MOST_PARTS = 8, 10
MOST_EDGES, MOST_SCORES = 120, 60
TINY = 1e-3  # heads that move less of an edge are left out
CARRIES = 0.1  # a head that moves less of an edge does not get its score explained unasked


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
        {**asdict(each), "share": each.value / edge.weight}
        for each in edge.top(most)
        if abs(each.value) > TINY * abs(edge.weight) > 0
    ]
    return {"source": edge.source, "target": edge.target, "weight": edge.weight, "layers": layers, "heads": heads}


def score_values(attention: Attention, score: HeadScore, most: int = MOST_PARTS) -> dict[str, Any]:
    """Why a head looks where it looks.

    Returns:
        `layer`, `head`, `query`, `key`, `score` (scaled, before soft-capping), `weight` (attention), `total` (of all
        pairs); `pairs` with `query`, `key`, `value`, and `queries` and `keys` with `source`, `value`, the strongest
        first. A source is told by `node` (its number, null where the graph does not hold it), `kind` (`bias`: the
        constants), `layer`, `position`, `index` and `label`.
    """
    held = attention.in_graph
    sides = {"queries": score.query_side, "keys": score.key_side}
    told = {
        name: [{"source": source(attention, held, place), "value": value} for place, value in strongest(values, most)]
        for name, values in sides.items()
    }
    pairs = [
        {"query": source(attention, held, query), "key": source(attention, held, key), "value": value}
        for query, key, value in score.pairs(most)
    ]
    where = {name: getattr(score, name) for name in ("layer", "head", "query", "key", "score", "weight", "total")}
    return {**where, "pairs": pairs, **told}


def strongest(values: Tensor, most: int) -> list[tuple[int, float]]:
    """The largest values with their places, zeros left out."""
    places = values.abs().topk(min(most, len(values))).indices.tolist()
    return [(place, float(values[place])) for place in places if values[place]]


def source(attention: Attention, held: dict[int, int], column: int) -> dict[str, Any]:
    """Tell what a column of a score stands for."""
    if column >= attention.names.sources:
        return {"node": None, "kind": "bias", "layer": -1, "position": -1, "index": -1, "label": "constants"}
    node = attention.names[column]
    facts = {name: getattr(node, name) for name in ("kind", "layer", "position", "index", "label")}
    return {"node": held.get(column), **facts}


def strongest_edges(graph: Graph, most: int = MOST_EDGES) -> list[tuple[int, int]]:
    """The edges of the pruned graph that carry most of the influence: source and target as numbers of the whole."""
    small = graph.prune()
    key = [(node.kind, node.place, node.position, node.index) for node in graph.nodes]
    numbers = {each: number for number, each in enumerate(key)}
    whole = [numbers[node.kind, node.place, node.position, node.index] for node in small.nodes]
    flow = edge_influence(small.edges)
    best = flow.flatten().topk(min(most, flow.numel())).indices
    rows, columns = (best // max(1, flow.shape[1])).tolist(), (best % max(1, flow.shape[1])).tolist()
    ends = zip(rows, columns, strict=True)
    return [(whole[column], whole[int(small.rows[row])]) for row, column in ends if flow[row, column] > 0]


def attention_values(attention: Attention, edges: int = MOST_EDGES, scores: int = MOST_SCORES) -> dict[str, Any]:
    """The heads of the strongest edges, and the scores of the heads that carry them.

    Returns:
        `edges`: `SOURCE>TARGET` (node numbers) -> `edge_values`; `scores`: `LAYER.HEAD.QUERY.KEY` -> `score_values`.
    """
    ends = strongest_edges(attention.graph, edges)
    into: dict[int, list[int]] = {}
    for origin, target in ends:
        into.setdefault(target, []).append(origin)
    split = {(edge.source, target): edge for target in into for edge in attention.into(target, into[target])}
    told = {f"{pair[0]}>{pair[1]}": edge_values(split[pair]) for pair in ends}
    wanted = dict.fromkeys(
        (head["layer"], head["head"], head["query"], head["key"])
        for edge in told.values()
        for head in edge["heads"]
        if abs(head["share"]) >= CARRIES
    )
    found = {where: score_values(attention, attention.score(*where)) for where in [*wanted][:scores]}
    return {"edges": told, "scores": {".".join(map(str, where)): each for where, each in found.items()}}


def annotate(data: dict[str, Any], attention: Attention, most: int = MOST_PARTS) -> dict[str, Any]:
    """Add attention to a graph's JSON: to every node that reads, why its main head looks where it looks.

    The main head is the one that moves most of the node's input. Neuronpedia reads `qk_tracing_results`; `attention`
    is ours and tells head, positions and the moved part.

    Args:
        data: what `Graph.to_json` made of the attention's graph.
        attention: explains it.
        most: how many contributors of each kind.
    """
    graph = attention.graph
    entries = {each["node_id"]: each for each in data["nodes"]}
    extra: dict[str, Any] = {}
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
        entry = entries[node_id(graph.nodes[target])]
        entry["attention"] = {"layer": layer, "head": head, "query": query, "key": key, "value": moved}
        entry["qk_tracing_results"] = _contributors(attention, attention.score(layer, head, query, key), extra, most)
    unknown = {name: each for name, each in extra.items() if name not in entries}
    return {**data, "qk_only_nodes": unknown}


def _contributors(attention: Attention, score: HeadScore, extra: dict[str, Any], most: int) -> dict[str, Any]:
    """The three lists of Neuronpedia, by node ids; what they name is described in `extra`."""

    def name(column: int) -> str:
        if column >= attention.names.sources:
            extra["bias"] = {
                "node_id": "bias",
                "layer": "E",
                "ctx_idx": 0,
                "feature_type": "bias",
                "clerp": "constants",
            }
            return "bias"
        node = attention.names[column]
        extra[node_id(node)] = node_entry(node, node_id(node), 1.0, attention.graph.origin)
        return node_id(node)

    return {
        "pair_wise_contributors": [[name(query), name(key), value] for query, key, value in score.pairs(most)],
        "top_q_marginal_contributors": [[name(place), value] for place, value in strongest(score.query_side, most)],
        "top_k_marginal_contributors": [[name(place), value] for place, value in strongest(score.key_side, most)],
    }
