"""The graph JSON of circuit-tracer and Neuronpedia (schema 1.0.0), written and read.

Their error nodes are called `0_{layer}_{position}`, which is also the id of feature `layer` of layer 0; ours are
called `error_{layer}_{position}`, and both are read.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glassworks import __version__
from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, LOGIT, PARTS, Node, Nodes, Origin
from glassworks.circuits.scores import Edges
from glassworks.errors import BadArtefact

TYPES = {
    FEATURE: "cross layer transcoder",
    ERROR: "mlp reconstruction error",
    EMBEDDING: "embedding",
    LOGIT: "logit",
}
KIND_OF = {name: kind for kind, name in TYPES.items()}
NEEDED = ("node_id", "layer", "ctx_idx", "feature_type")

Parsed = tuple[Origin, Nodes, Tensor, dict[str, list[int]], list[int]]


def write(
    origin: Origin,
    nodes: Nodes,
    edges: Edges,
    groups: Mapping[str, Sequence[int]],
    pinned: Sequence[int],
    slug: str,
) -> dict[str, Any]:
    """Make the JSON value of a graph.

    Args:
        origin: what it was traced from.
        nodes: its nodes.
        edges: its edges.
        groups: supernodes as node numbers.
        pinned: node numbers.
        slug: short name of the graph, for addresses.
    """
    table = list(nodes)
    ids = [node_id(node) for node in table]
    best = max((node.probability or 0.0 for node in table), default=0.0)
    metadata: dict[str, Any] = {"info": {"generator": {"name": "glassworks", "version": __version__}}}
    metadata |= {"transcoder_list": [origin.scope]} if origin.scope else {}
    metadata |= origin.facts.get("metadata", {})
    thresholds = {key: origin.facts[key] for key in ("node_threshold", "edge_threshold") if key in origin.facts}
    if thresholds:
        metadata |= {"node_threshold": thresholds["node_threshold"], "pruning_settings": thresholds}
    metadata |= {"slug": slug, "scan": origin.model, "schema_version": 1}
    metadata |= {"prompt": origin.prompt, "prompt_tokens": list(origin.token_texts)}
    rows, columns = edges.matrix.nonzero(as_tuple=True)
    ends = zip(columns.tolist(), edges.rows[rows].tolist(), edges.matrix[rows, columns].tolist(), strict=True)
    named = [[name, *(ids[number] for number in numbers)] for name, numbers in groups.items()]
    return {
        "metadata": metadata,
        "qParams": {"pinnedIds": [ids[number] for number in pinned], "supernodes": named, "linkType": "both"},
        "nodes": [node_entry(node, text, best, origin) for node, text in zip(table, ids, strict=True)],
        "links": [{"source": ids[source], "target": ids[target], "weight": weight} for source, target, weight in ends],
    }


def node_id(node: Node) -> str:
    """The name of a node in the JSON; nodes of other parts of a layer than its MLP say so."""
    ids = {
        FEATURE: f"{_prefix(node)}{node.layer}_{node.index}_{node.position}",
        ERROR: f"{_prefix(node)}error_{node.layer}_{node.position}",
        EMBEDDING: f"E_{node.index}_{node.position}",
        LOGIT: f"{node.layer + 1}_{node.index}_{node.position}",
    }
    return ids[node.kind]


def _prefix(node: Node) -> str:
    return "" if node.part == "mlp" else f"{node.part.replace('_', '-')}."


def node_entry(node: Node, node_id: str, best: float, origin: Origin) -> dict[str, Any]:
    """A node as the JSON describes it; `best` is the largest probability of an outcome."""
    layer = {EMBEDDING: "E", LOGIT: str(node.layer + 1)}.get(node.kind, str(node.layer))
    pair = (node.layer + node.index) * (node.layer + node.index + 1) // 2 + node.index  # Cantor's: one number of two
    feature, page, text = {
        FEATURE: (pair, f"{_prefix(node)}{layer}_{node.index}-0", node.label),
        ERROR: (
            -1,
            f"{_prefix(node)}error_{layer}_{node.position}-0",
            f'Err: mlp "{origin.token_texts[node.position]}"',
        ),
        EMBEDDING: (node.position, f"E_{node.index}-{node.position}", f'Emb: "{node.label}"'),
        LOGIT: (
            node.index,
            f"L_{node.index}-{node.position}",
            f'Output "{node.label}" (p={node.probability or 0.0:.3f})',
        ),
    }[node.kind]
    return {
        "node_id": node_id,
        "feature": feature,
        "layer": layer,
        "ctx_idx": node.position,
        "feature_type": TYPES[node.kind],
        "token_prob": node.probability or 0.0,
        "is_target_logit": node.kind == LOGIT and node.probability == best,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": page,
        "clerp": text,
        "influence": node.share,
        "activation": node.activation,
    }


def read(data: Any) -> Parsed:
    """Read the JSON value of a graph.

    Returns:
        Origin, nodes, edges (features and logits by sources), supernodes and pinned nodes as node numbers.

    Raises:
        BadArtefact: it has another schema, or contradicts itself.
    """
    shape = {"metadata": dict, "nodes": list, "links": list}
    if not isinstance(data, dict) or any(not isinstance(data.get(key), kind) for key, kind in shape.items()):
        raise BadArtefact(
            "The JSON is not an attribution graph of circuit-tracer or Neuronpedia (metadata, nodes and links)."
        )
    metadata, entries = data["metadata"], data["nodes"]
    lacking = [key for key in ("scan", "prompt", "prompt_tokens") if key not in metadata]
    lacking += [key for key in NEEDED if any(not isinstance(entry, dict) or key not in entry for entry in entries)]
    if lacking:
        raise BadArtefact(f"The graph JSON has another schema than 1: it lacks {', '.join(lacking)}.")
    version = metadata.get("schema_version", 1)
    if version not in (0, 1):
        raise BadArtefact(f"The graph JSON has schema version {version}; this version of Glassworks reads 0 and 1.")
    strange = {str(entry["feature_type"]) for entry in entries} - set(KIND_OF)
    if strange:
        raise BadArtefact(f"The graph JSON has nodes of type {min(strange)!r}; it may have {', '.join(KIND_OF)}.")
    try:
        return _read(metadata, entries, data["links"], data.get("qParams") or {})
    except BadArtefact:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadArtefact(f"The graph JSON is damaged ({error!r}); export it again.") from error


def _read(metadata: Any, entries: Any, links: Any, queries: Any) -> Parsed:
    texts = tuple(map(str, metadata["prompt_tokens"]))
    top = max((int(entry["layer"]) for entry in entries if KIND_OF[entry["feature_type"]] == FEATURE), default=-1)
    unsorted = Nodes.of_rows([_parse(entry, texts, top + 1) for entry in entries])
    order = unsorted.order()
    nodes, place = unsorted.select(order), order.argsort().tolist()
    numbers: dict[str, list[int]] = {}
    for entry, number in zip(entries, place, strict=True):
        numbers.setdefault(entry["node_id"], []).append(number)
    embedding = nodes.of(EMBEDDING)
    tokens = dict(zip(nodes.position[embedding].tolist(), nodes.index[embedding].tolist(), strict=True))
    origin = Origin(
        model=str(metadata["scan"]),
        scope="",
        prompt=str(metadata["prompt"]),
        tokens=tuple(tokens.get(position, -1) for position in range(len(texts))),
        token_texts=texts,
        facts={"metadata": metadata},
    )

    def known(ids: Sequence[str]) -> list[int]:
        return [numbers[name][0] for name in ids if name in numbers]

    groups = {str(name): known(ids) for name, *ids in queries.get("supernodes") or []}
    return origin, nodes, _matrix(links, nodes, numbers), groups, known(queries.get("pinnedIds") or [])


def _parse(entry: Mapping[str, Any], texts: Sequence[str], top: int) -> Node:
    kind, position = KIND_OF[entry["feature_type"]], int(entry["ctx_idx"])
    if not 0 <= position < len(texts):
        raise BadArtefact(f"The node {entry['node_id']} is at token {position} of a prompt of {len(texts)}.")
    text = str(entry.get("clerp") or "")
    quoted = re.fullmatch(r'[Oo]utput:? "(.*)" \(p=[0-9.]+\)', text, re.DOTALL)
    part = entry["node_id"].partition(".")[0].replace("-", "_")

    def real(name: str, missing: float | None = None) -> float | None:
        value = entry.get(name, missing)
        return None if value is None else float(value)

    layer = -1 if kind == EMBEDDING else int(entry["layer"])
    return Node(
        kind=kind,
        layer=max(top, layer - 1) if kind == LOGIT else layer,
        position=position,
        index=-1 if kind == ERROR else int(entry["node_id"].split("_")[1]),
        activation=real("activation"),
        probability=real("token_prob", 0.0) if kind == LOGIT else None,
        share=real("influence"),
        label={EMBEDDING: texts[position], ERROR: "", LOGIT: quoted[1] if quoted else text}.get(kind, text),
        part=part if part in PARTS else "mlp",
    )


def _matrix(links: Sequence[Mapping[str, Any]], nodes: Nodes, numbers: Mapping[str, list[int]]) -> Tensor:
    sources, levels = nodes.sources, nodes.levels.tolist()
    rows = {int(node): row for row, node in enumerate((nodes.of(FEATURE) | nodes.of(LOGIT)).nonzero()[:, 0])}
    matrix = torch.zeros(len(rows), sources)
    for link in links:
        if not {link["source"], link["target"]} <= numbers.keys():
            raise BadArtefact(f"The edge {link['source']} -> {link['target']} ends at a node that the graph lacks.")
        # An id may name a feature and an error at once: only the feature has inputs, and edges lead upwards.
        target = [number for number in numbers[link["target"]] if number in rows]
        source = [number for number in numbers[link["source"]] if target and levels[number] < levels[target[0]]]
        if len(target) != 1 or len(source) != 1 or source[0] >= sources:
            raise BadArtefact(
                f"The edge {link['source']} -> {link['target']} does not lead from one node to a higher one."
            )
        matrix[rows[target[0]], source[0]] = float(link["weight"])
    return matrix
