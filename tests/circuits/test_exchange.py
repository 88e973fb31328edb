"""Graphs on disk: our artefact, and the JSON of circuit-tracer and Neuronpedia."""

import json

import jsonschema
import pytest
import torch

from glassworks.circuits import Graph, load_graph, trace
from glassworks.errors import BadArtefact, BadInput, NotFound
from tests.circuits.tiny import PROMPT, random_model, random_scope

FOREIGN = ["3plus5-plt", "bee-insect-clt", "bee-insect-plt", "caffeine-clt"]
FOREIGN += ["gemma-clt-fact-dallas-austin_2025-09-25T14-52-21-776Z"]
FIELDS = ("kinds", "layer", "position", "index", "activation", "probability", "share")


@pytest.fixture(scope="module")
def graph() -> Graph:
    model = random_model("gemma3")
    graph = trace(model, random_scope(model), PROMPT)
    graph.group('first "group"', [3, 5, 140])
    graph.pinned.append(4)
    return graph


@pytest.fixture(scope="module")
def schema(data) -> jsonschema.Draft7Validator:
    text = (data / "graphs" / "neuronpedia-schema" / "graph-schema.json").read_text()
    return jsonschema.Draft7Validator(json.loads(text))


def assert_same(a: Graph, b: Graph) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(a.nodes, name), getattr(b.nodes, name), equal_nan=True)
    assert a.nodes.labels == b.nodes.labels
    assert a.token_texts == b.token_texts
    assert a.tokens == b.tokens
    assert a.prompt == b.prompt
    assert torch.equal(a.rows, b.rows)
    assert torch.equal(a.matrix, b.matrix)
    assert {name: each.nodes for name, each in a.supernodes.items()} == {n: e.nodes for n, e in b.supernodes.items()}
    assert a.pinned == b.pinned


def test_artefact_round_trip(graph, tmp_path):
    graph.save(tmp_path / "graph")
    again = load_graph(tmp_path / "graph")
    assert_same(graph, again)
    for name in ("bias", "values", "conservation"):
        assert torch.equal(getattr(graph, name), getattr(again, name))
    assert again.scores == graph.scores
    assert again.origin == graph.origin
    assert again.scope is None
    assert again.supernodes['first "group"'].features[0].coder_id == "mlp_in.0"


def test_pruned_artefact_round_trip(graph, tmp_path):
    small = graph.prune()
    small.save(tmp_path / "graph")
    assert_same(small, load_graph(tmp_path / "graph"))


def test_damaged_artefacts_are_refused(graph, tmp_path):
    with pytest.raises(NotFound):
        load_graph(tmp_path / "nothing")
    graph.save(tmp_path / "graph")
    (tmp_path / "graph" / "labels.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadArtefact):
        load_graph(tmp_path / "graph")
    graph.save(tmp_path / "graph")
    (tmp_path / "graph" / "graph.safetensors").write_bytes(b"short")
    with pytest.raises(BadArtefact):
        load_graph(tmp_path / "graph")


def test_json_round_trip(graph, schema):
    small = graph.prune()
    data = json.loads(json.dumps(small.to_json("tiny")))
    schema.validate(data)
    assert data["metadata"]["slug"] == "tiny"
    assert data["metadata"]["node_threshold"] == 0.8
    again = Graph.from_json(data)
    assert_same(small, again)
    assert again.conservation.isnan().all()


def test_whole_graph_as_json(graph, schema):
    data = graph.to_json()
    schema.validate(data)
    assert len(data["nodes"]) == len(graph.nodes)
    assert len(data["links"]) == graph.n_edges
    assert len({node["node_id"] for node in data["nodes"]}) == len(graph.nodes)
    assert_same(graph, Graph.from_json(data))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_published_graphs_are_read(name, data, schema):
    published = json.loads((data / "graphs" / "gemma-2-2b" / f"{name}.json").read_text())
    graph = Graph.from_json(published)
    assert len(graph.nodes) == len(published["nodes"])
    assert graph.n_edges == len(published["links"])
    by_kind = {"feature": "cross layer transcoder", "error": "mlp reconstruction error", "logit": "logit"}
    for kind, theirs in by_kind.items():
        wanted = [each for each in published["nodes"] if each["feature_type"] == theirs]
        assert int(graph.nodes.of(kind).sum()) == len(wanted)
    assert sorted(graph.matrix[graph.matrix != 0].tolist()) == pytest.approx(
        sorted(link["weight"] for link in published["links"])
    )
    assert 0 < graph.replacement < 1
    assert len(graph.prune(0.5, 0.8).nodes) < len(graph.nodes)
    written = json.loads(json.dumps(graph.to_json(published["metadata"]["slug"])))
    schema.validate(written)
    assert_same(graph, Graph.from_json(written))
    kept = {"slug", "scan", "prompt", "prompt_tokens", "generation_settings", "pruning_settings"}
    assert all(written["metadata"][key] == published["metadata"][key] for key in kept)


def test_the_first_front_ends_graph_is_read(data):
    published = json.loads((data / "graphs" / "anthropic-haiku" / "capital-state-dallas.json").read_text())
    graph = Graph.from_json(published)
    assert (len(graph.nodes), graph.n_edges) == (94, 2205)
    assert graph.find("Texas").features


def collision(target_layer: int) -> dict:
    """A feature 2 of layer 0 and an error of layer 2, both called `0_2_1` in circuit-tracer's files."""
    base = {"jsNodeId": "", "clerp": "", "ctx_idx": 1}
    nodes = [
        base | {"node_id": "0_2_1", "feature": 2, "layer": "0", "feature_type": "cross layer transcoder"},
        base | {"node_id": "0_2_1", "feature": -1, "layer": "2", "feature_type": "mlp reconstruction error"},
        base | {"node_id": f"{target_layer}_9_1", "feature": 9, "layer": str(target_layer),
                "feature_type": "cross layer transcoder"},
        base | {"node_id": "E_5_1", "feature": 1, "layer": "E", "feature_type": "embedding"},
        base | {"node_id": "5_7_1", "feature": 7, "layer": "5", "feature_type": "logit", "token_prob": 1.0},
    ]  # fmt: skip
    links = [
        {"source": "E_5_1", "target": "0_2_1", "weight": 1.0},
        {"source": "0_2_1", "target": f"{target_layer}_9_1", "weight": 2.0},
    ]
    metadata = {"slug": "x", "scan": "m", "prompt": "a b", "prompt_tokens": ["a", "b"]}
    return {"metadata": metadata, "qParams": {}, "nodes": nodes, "links": links}


def test_colliding_ids_are_told_apart():
    graph = Graph.from_json(collision(2))
    row = graph.matrix[1]  # feature 9 of layer 2 can only read the feature of layer 0
    assert row.nonzero().tolist() == [[0]]
    written = graph.to_json()
    assert {each["node_id"] for each in written["nodes"]} >= {"0_2_1", "error_2_1"}
    with pytest.raises(BadArtefact, match="0_2_1 -> 3_9_1"):
        Graph.from_json(collision(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: [], "not an attribution graph"),
        (lambda data: {"nodes": []}, "not an attribution graph"),
        (lambda data: data | {"metadata": {"slug": "x"}}, "lacks scan"),
        (lambda data: data | {"nodes": [{"id": 1}]}, "lacks node_id"),
        (lambda data: data | {"metadata": data["metadata"] | {"schema_version": 7}}, "version 7"),
        (lambda data: data | {"nodes": [data["nodes"][0] | {"feature_type": "lorsa"}]}, "'lorsa'"),
        (lambda data: data | {"nodes": [data["nodes"][0] | {"ctx_idx": 99}]}, "token 99"),
        (lambda data: data | {"nodes": [data["nodes"][0] | {"layer": "low"}]}, "damaged"),
        (lambda data: data | {"links": [{"source": "a", "target": "b", "weight": 1}]}, "a -> b"),
        (lambda data: data | {"links": [{"source": "a"}]}, "damaged"),
    ],
)
def test_other_json_is_refused_in_one_sentence(change, message):
    with pytest.raises(BadArtefact, match=message) as caught:
        Graph.from_json(change(collision(2)))
    assert "\n" not in str(caught.value)


def test_supernodes(graph):
    found = graph.find("MLP_IN.1 feature", position=-1)
    assert {graph.nodes[each].layer for each in found.nodes} == {1}
    assert {each.position for each in found.features} == {len(PROMPT) - 1}
    assert found.scope is graph.scope is not None
    assert len(graph.find("feature", layer=0)) == len(graph.find("mlp_in.0"))
    with pytest.raises(NotFound, match="No active feature"):
        graph.find("nowhere")
    with pytest.raises(BadInput, match="no node -1"):
        graph.group("bad", [-1])


def test_edges_between_supernodes_add(graph):
    low, high = graph.find("mlp_in.0"), graph.find("mlp_in.2")
    square, _ = graph.dense()
    wanted = square[list(high.nodes)][:, list(low.nodes)].sum().item()
    assert graph.between(low, high) == pytest.approx(wanted, rel=1e-4)
    assert graph.between(high, low) == 0


def test_dense_is_square_over_the_node_table(graph):
    square, nodes = graph.dense()
    assert square.shape == (len(nodes), len(nodes))
    assert not bool(square[nodes.of("embedding") | nodes.of("error")].any())
    assert not bool(square[:, nodes.of("logit")].any())
    torch.testing.assert_close(square.sum(1)[graph.rows] + graph.bias, graph.values, atol=1e-4, rtol=1e-4)


def test_pruned_groups_keep_what_is_left(graph):
    small = graph.prune(0.3, 0.5)
    kept = {name: len(group) for name, group in small.supernodes.items()}
    assert set(kept) == {'first "group"'}
    assert kept['first "group"'] <= 3
    assert all(small.nodes[each].kind in ("feature", "error") for each in small.pinned)


def test_graph_tells_what_it_is(graph):
    assert "features" in repr(graph)
    assert "Supernode" in repr(graph.supernodes['first "group"'])
