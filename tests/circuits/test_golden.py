"""Graphs that circuit-tracer 0.4.1 made: the same edges, the same scores, and exactly the same pruning."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glassworks.circuits import Graph, trace
from glassworks.coders import Crosscoder, JumpReLU, Scope, Transcoder
from glassworks.models import load_model
from glassworks.sites import Site
from tests.circuits.tiny import clt_scope, scope_of

NAMES = ["mini_gemma2_plt", "mini_llama_plt", "mini_gemma2_clt", "mini_gemma3_clt"]
LAYERS = 3


def per_layer(folder: Path, layer: int) -> Transcoder:
    stored = load_file(folder / f"layer_{layer}.safetensors")
    weights = {"w_enc": stored["W_enc"], "b_enc": stored["b_enc"], "w_dec": stored["W_dec"], "b_dec": stored["b_dec"]}
    activation = JumpReLU(stored["activation_function.threshold"].flatten())
    return Transcoder(Site("mlp_in", layer), Site("mlp_out", layer), activation, weights)


def cross_layer(folder: Path, layer: int) -> Crosscoder:
    stored = load_file(folder / f"W_enc_{layer}.safetensors")
    decoders = load_file(folder / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"]
    writes = [Site("mlp_out", layer + up) for up in range(LAYERS - layer)]
    weights = {f"w_dec.{site}": decoders[:, up] for up, site in enumerate(writes)}
    weights |= {"w_enc": stored[f"W_enc_{layer}"], "b_enc": stored[f"b_enc_{layer}"]}
    weights[f"b_dec.{writes[0]}"] = stored[f"b_dec_{layer}"]
    activation = JumpReLU(stored[f"threshold_{layer}"].flatten())
    return Crosscoder([Site("resid_mid", layer)], writes, activation, weights)


def golden_scope(folder: Path) -> Scope:
    if folder.name.endswith("clt"):
        return clt_scope([cross_layer(folder / "transcoders", layer) for layer in range(LAYERS)])
    return scope_of([per_layer(folder / "transcoders", layer) for layer in range(LAYERS)])


@pytest.fixture(scope="module", params=NAMES)
def pair(request, data) -> tuple[Graph, dict[str, np.ndarray]]:
    """Our graph, and theirs; where theirs is wrong (Gemma 3's embeddings), ours is made wrong before it is compared."""
    folder = data / "golden_graphs" / request.param
    gold = dict(np.load(folder / "graph.npz"))
    model = load_model(folder / "model")
    graph = trace(model, golden_scope(folder), gold["input_tokens"].tolist())
    if "gemma3" in request.param:
        matrix = graph.matrix.clone()
        matrix[:, graph.nodes.of("embedding")[: matrix.shape[1]]] /= model.d_model**0.5
        graph = Graph.build(graph.origin, graph.nodes, matrix, graph.bias, graph.values)
    return graph, gold


def places(graph: Graph) -> torch.Tensor:
    """Where our nodes stand in their order, which has error nodes at the masked position too."""
    tokens, features = len(graph.tokens), int(graph.nodes.of("feature").sum())
    embeddings = features + LAYERS * tokens
    found = {"feature": lambda i, _: i, "error": lambda _, node: features + node.layer * tokens + node.position}
    found["embedding"] = lambda _, node: embeddings + node.position
    found["logit"] = lambda i, _: embeddings + tokens + i - graph.nodes.sources
    return torch.tensor([found[node.kind](i, node) for i, node in enumerate(graph.nodes)])


def in_their_order(graph: Graph, square: torch.Tensor, size: int) -> torch.Tensor:
    whole = square.new_zeros(size, size)
    where = places(graph)
    whole[where[:, None], where] = square
    return whole


def test_nodes_are_the_same(pair):
    graph, gold = pair
    feature, logit = graph.nodes.of("feature"), graph.nodes.of("logit")
    table = torch.stack([graph.nodes.layer, graph.nodes.position, graph.nodes.index], 1)[feature]
    assert table.tolist() == gold["active_features"].tolist()
    np.testing.assert_allclose(graph.nodes.activation[feature], gold["activation_values"], rtol=1e-4)
    assert graph.nodes.index[logit].tolist() == gold["logit_ids"].tolist()
    np.testing.assert_allclose(graph.nodes.probability[logit], gold["logit_p"], rtol=1e-4)


def test_edges_are_the_same(pair):
    graph, gold = pair
    theirs = torch.from_numpy(gold["adjacency"])
    ours = in_their_order(graph, graph.dense()[0], len(theirs))
    assert (ours - theirs).norm() / theirs.norm() <= 1e-5


def test_scores_are_the_same(pair):
    graph, gold = pair
    np.testing.assert_allclose([graph.replacement, graph.completeness], gold["scores"], atol=1e-5)


def test_pruning_is_the_same(pair):
    graph, gold = pair
    size = len(gold["adjacency"])
    small = graph.prune(node=0.8, edge=0.98)
    ids = [(node.kind, node.layer, node.position, node.index) for node in graph.nodes]
    where = places(graph)[[ids.index((node.kind, node.layer, node.position, node.index)) for node in small.nodes]]
    assert sorted(where.tolist()) == gold["node_mask"].nonzero()[0].tolist()
    edges = np.zeros((size, size), dtype=bool)
    edges[np.ix_(where, where)] = small.dense()[0] != 0
    assert (edges == np.unpackbits(gold["edge_mask"])[: size * size].reshape(size, size)).all()


def test_shares_are_theirs(pair):
    graph, gold = pair
    where = places(graph)[: graph.nodes.sources]
    np.testing.assert_allclose(graph.nodes.share[: graph.nodes.sources], gold["cumulative"][where], atol=1e-4)
