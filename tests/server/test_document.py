"""The page's document says what the graph says."""

import json

import pytest
import torch

from glassworks.circuits import Graph
from glassworks.server.document import graph_document


def test_nodes_links_and_scores_are_those_of_the_graph(toy_graph: Graph) -> None:
    document = graph_document(toy_graph, "toy")
    square, nodes = toy_graph.dense()
    rebuilt = torch.zeros_like(square)
    links = document["links"]
    rebuilt[links["target"], links["source"]] = torch.tensor(links["weight"])
    torch.testing.assert_close(rebuilt, square, rtol=1e-4, atol=0)
    assert [node["id"] for node in document["nodes"]] == [str(number) for number in range(len(nodes))]
    assert [node["kind"] for node in document["nodes"]] == [node.kind for node in nodes]
    assert document["scores"]["replacement"] == toy_graph.replacement
    assert document["scores"]["edges"] == len(links["weight"]) == toy_graph.n_edges
    assert document["omitted"] == {"nodes": 0, "edges": 0}
    assert document["layers"] == 3
    assert [each["token"] for each in document["predictions"]] == [" mat", " rug", "</script>"]


def test_flow_of_the_roots_is_all_flow(toy_graph: Graph) -> None:
    """Everything that reaches the outcomes starts at embeddings and errors (and at features that nothing enters)."""
    document = graph_document(toy_graph, "toy")
    entered = set(document["links"]["target"])
    roots = [node["influence"] for place, node in enumerate(document["nodes"]) if place not in entered]
    assert abs(sum(roots) - 1) < 1e-5


def test_share_chooses_the_nodes_that_prune_chooses(toy_graph: Graph) -> None:
    document = graph_document(toy_graph, "toy")
    for threshold in (0.3, 0.6, 0.8, 0.95):
        kept = toy_graph.prune(node=threshold, edge=1.0)
        shown = [n for n in document["nodes"] if n["kind"] in ("embedding", "logit") or n["share"] < threshold]
        assert {n["id"] for n in shown} >= {str(number) for number in chosen(toy_graph, kept)}


def chosen(whole: Graph, part: Graph) -> list[int]:
    key = ("kinds", "layer", "position", "index")
    table = {
        tuple(int(getattr(whole.nodes, name)[number]) for name in key): number for number in range(len(whole.nodes))
    }
    return [table[tuple(int(getattr(part.nodes, name)[number]) for name in key)] for number in range(len(part.nodes))]


def test_too_large_graphs_lose_the_weakest_and_say_so(toy_graph: Graph) -> None:
    toy_graph.group("kept", [0, 1])
    document = graph_document(toy_graph, "toy", most_nodes=10, most_edges=50)
    assert len(document["links"]["weight"]) == 50
    assert document["omitted"]["edges"] == toy_graph.n_edges - 50
    assert document["omitted"]["nodes"] == len(toy_graph.nodes) - len(document["nodes"])
    ids = {node["id"] for node in document["nodes"]}
    assert {"0", "1"} <= ids
    free = sorted((n for n in range(len(toy_graph.nodes)) if str(n) in ids), key=lambda n: -toy_graph.influence[n])
    assert toy_graph.influence[free[0]] == toy_graph.influence.max()


@pytest.mark.slow
def test_document_is_strict_json_even_for_graphs_of_others(data) -> None:
    for file in sorted((data / "graphs" / "gemma-2-2b").glob("*.json")):
        graph = Graph.from_json(json.loads(file.read_text()))
        document = json.loads(json.dumps(graph_document(graph, file.stem), allow_nan=False))
        assert len(document["nodes"]) == len(graph.nodes)
        assert document["scores"]["conservation"] is None
        assert document["predictions"][0]["probability"] > 0.3
