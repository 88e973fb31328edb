"""The document that the explorer's page reads: a graph as plain JSON values.

One document feeds the server's page, the notebook and the one-file export; `web/model.js` states its types.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, count
from typing import Any

import torch

from glassworks.circuits import Graph

MOST_NODES, MOST_EDGES, MOST_PATHS, MOST_PROPOSALS = 2_000, 150_000, 6, 8
NODE_THRESHOLD, EDGE_THRESHOLD = 0.8, 0.98


def graph_document(
    graph: Graph, name: str, most_nodes: int = MOST_NODES, most_edges: int = MOST_EDGES
) -> dict[str, Any]:
    """Turn a graph into the page's document.

    What does not fit is left out, the weakest first; the document says how much.

    Args:
        graph: the graph, whole or pruned.
        name: what it is called in addresses and files.
        most_nodes: how many features and errors the document holds at the most.
        most_edges: how many edges.

    Returns:
        JSON values. Node ids are the numbers of the graph's node table, as text.
    """
    nodes, outcomes = graph.nodes, graph.nodes.of("logit")
    # Tokens, outcomes, pins and groups are always there; of the rest the most influential.
    always = nodes.of("embedding") | outcomes
    chosen = {number for group in graph.supernodes.values() for number in group.nodes} | set(graph.pinned)
    order = graph.influence.argsort(descending=True, stable=True)
    chosen |= {*always.nonzero()[:, 0].tolist(), *order[~always[order]][:most_nodes].tolist()}
    numbers, targets = sorted(chosen), target_kinds(graph)
    links, left_out = _links(graph, numbers, most_edges)

    predictions = sorted(
        ((nodes[number], kind) for number, kind in targets.items()),
        key=lambda outcome: -(outcome[0].probability or 0.0),
    )
    predicted = [
        {"token": node.label, "probability": node.probability or 0.0, "position": node.position, "target": kind}
        for node, kind in predictions
    ]
    # What the model says next; of graphs of other programs, their likeliest outcome.
    following = graph.origin.facts.get("predictions") or predicted
    places, paths = {number: place for place, number in enumerate(numbers)}, []
    for path in graph.paths(MOST_PATHS):
        steps = [
            {"name": step.name, "nodes": [places[number] for number in step.nodes if number in places]}
            for step in path.steps
        ]
        if all(step["nodes"] for step in steps):
            paths.append({"steps": steps, "inhibits": list(path.inhibits), "weight": path.weight})
    proposals: dict[str, list[str]] = {}
    for group in graph.proposed():
        if len(group.features) > 1:
            plain = group.name.replace("~>", "⇝").replace("->", "→").replace(" .. ", " … ")
            names = chain([plain], (f"{plain} {number}" for number in count(2)))
            proposals[next(name for name in names if name not in proposals)] = list(map(str, group.nodes))
    return {
        "format": "glassworks-explorer",
        "version": 1,
        "name": name,
        "prompt": graph.prompt,
        "model": graph.model,
        "scope": graph.origin.scope,
        "layers": int(nodes.layer.max()) + (not bool(outcomes.any())),
        "tokens": list(graph.token_texts),
        "next": following[0]["token"] if following else "",
        "predictions": predicted,
        "scores": {
            "replacement": None if graph.replacement != graph.replacement else graph.replacement,  # nan is no JSON
            "completeness": None if graph.completeness != graph.completeness else graph.completeness,
            "conservation": graph.residual,
            "nodes": len(nodes),
            "edges": graph.n_edges,
            "features": int(nodes.of("feature").sum()),
        },
        "nodes": _node_table(graph, numbers, targets),
        "links": links,
        "paths": paths,
        "supernodes": [{"name": key, "nodes": list(map(str, group.nodes))} for key, group in graph.supernodes.items()],
        "proposals": [{"name": name, "nodes": ids} for name, ids in [*proposals.items()][:MOST_PROPOSALS]],
        "pinned": list(map(str, graph.pinned)),
        "pruning": {"node": NODE_THRESHOLD, "edge": EDGE_THRESHOLD},
        "omitted": {"nodes": len(nodes) - len(numbers), "edges": left_out},
    }


def target_kinds(graph: Graph) -> dict[int, str]:
    """What every outcome is, by its node's number: `logit`, `difference`, `feature` or `direction`."""
    numbers = graph.nodes.of("logit").nonzero()[:, 0].tolist()
    targets = graph.origin.facts.get("targets", [])
    kinds = ["difference" if target.get("minus") is not None else target["kind"] for target in targets]
    return dict(zip(numbers, kinds if len(kinds) == len(numbers) else ["logit"] * len(numbers), strict=True))


def _node_table(graph: Graph, numbers: Sequence[int], targets: Mapping[int, str]) -> list[dict[str, Any]]:
    weight = float(graph.edges.weights.sum()) or 1.0
    flow = (graph.influence / weight).tolist()
    # Share of the influence on the nodes before each one in descending order; 1 where it is not known. A threshold
    # keeps a node where this is smaller: the same choice as `Graph.prune` makes.
    share = graph.nodes.share
    known = torch.where(share.isfinite(), share, torch.full_like(share, 2.0))
    order, before = known.argsort(stable=True), torch.zeros_like(share)
    before[order[1:]] = known[order[:-1]]
    before = torch.where(share.isfinite(), before, torch.ones_like(share)).clamp(max=1.0).tolist()
    rows = {number: row for row, number in enumerate(graph.rows.tolist())}
    inflow, bias = graph.edges.sizes().tolist(), graph.bias.tolist()
    table = []
    for number in numbers:
        node, row = graph.nodes[number], rows.get(number)
        table.append(
            {
                "id": str(number),
                "kind": node.kind,
                "layer": node.layer,
                "part": node.part,
                "open": node.kind == "feature" and row is None,
                "position": node.position,
                "index": node.index,
                "coder": graph.origin.coders.get(node.place) if node.kind == "feature" else None,
                "label": node.label,
                "activation": node.activation,
                "probability": node.probability,
                "target": targets.get(number),
                "influence": flow[number],
                "share": before[number],
                "inflow": 0.0 if row is None else inflow[row],
                "bias": None if row is None or graph.values[row].isnan() else bias[row],
            }
        )
    return table


def _links(graph: Graph, numbers: Sequence[int], most: int) -> tuple[dict[str, list[Any]], int]:
    """Edges among the chosen nodes as columns of places, and how many of the graph's are left out."""
    places = torch.full((len(graph.nodes),), -1)
    places[torch.tensor(numbers)] = torch.arange(len(numbers))
    rows = (places[graph.rows] >= 0).nonzero()[:, 0]
    columns = (places[: graph.matrix.shape[1]] >= 0).nonzero()[:, 0]
    part = graph.matrix[rows][:, columns]
    target, source = part.nonzero(as_tuple=True)
    weight = part[target, source]
    if len(weight) > most:
        # what one unit of absolute weight into each target carries of the outcomes' flow
        flow = (graph.influence + graph.edges.weights)[graph.rows] / graph.edges.sizes()
        score = weight.abs() * flow[rows[target]]
        best = score.topk(most).indices
        target, source, weight = target[best], source[best], weight[best]
    links = {
        "source": places[columns[source]].tolist(),
        "target": places[graph.rows[rows[target]]].tolist(),
        "weight": [float(f"{value:.5g}") for value in weight.tolist()],
    }
    return links, graph.n_edges - len(weight)
