"""Attention, explained: heads and what passes by sum to the edges, pairs sum to the scores, in every family."""

import json
from functools import cache

import pytest
import torch

from glassworks.circuits import Graph, annotate, attention_values, trace
from glassworks.circuits.attention import Attention, explain_attention
from glassworks.circuits.nodes import PARTS
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.sites import Site
from tests.circuits.test_attention_coders import mixed_scope, random_sae
from tests.circuits.tiny import CONFIGS, PROMPT, random_clt, random_model, random_scope, scope_of

MAKERS = {
    "plain": random_scope,
    "skip": lambda model: random_scope(model, skip=True),
    "clt": random_clt,
    "clt-skip": lambda model: random_clt(model, skip=True),
    "attn_out": lambda model: mixed_scope(model, "attn_out", skip=True),
    "attn_heads": lambda model: mixed_scope(model, "attn_heads"),
}
CASES = [(family, "skip") for family in CONFIGS]
CASES += [(family, kind) for family in ("gemma3", "gpt_neox") for kind in ("plain", "clt", "clt-skip")]
CASES += [("gemma3", "attn_out"), ("gpt2", "attn_heads")]  # whose heads only feed the features that read them


@cache
def opened(family: str, kind: str = "plain") -> tuple[Graph, Attention]:
    model = random_model(family)
    graph = trace(model, MAKERS[kind](model), PROMPT)
    return graph, explain_attention(model, graph)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_heads_and_what_passes_by_sum_to_what_was_written_below(family, kind):
    graph, attention = opened(family, kind)
    for target in graph.rows[:: len(graph.rows) // 5].tolist():
        row = graph.matrix[(graph.rows == target).nonzero()[0, 0]]
        for edge in attention.into(target):
            size = row.abs().sum()
            assert abs(edge.weight - row[edge.source]) <= 1e-5 * size
            total = edge.heads.sum(1) + edge.passes
            assert ((total - edge.below).abs() <= 1e-5 * size).all()


def test_what_a_head_moves_sums_to_its_part():
    graph, attention = opened("gemma3")
    target = int(graph.rows[-1])
    for edge in attention.into(target)[::7]:
        for layer in range(3):
            for head in range(4):
                torch.testing.assert_close(edge.moves(layer, head).sum(), edge.heads[layer, head], atol=1e-5, rtol=1e-4)
        shares = edge.top(3)
        assert [abs(each.value) for each in shares] == sorted((abs(each.value) for each in shares), reverse=True)
        assert all(each.key <= each.query for each in shares)


def test_a_head_that_is_cut_off_takes_its_part_of_the_edges_with_it():
    """The causal meaning: without the head's output projection at the last layer, edges lose exactly its part."""
    graph, attention = opened.__wrapped__("llama")
    target, layer, head = int(graph.rows[-1]), 2, 1
    parts = {edge.source: float(edge.heads[layer, head]) for edge in attention.into(target)}
    frozen = attention.local.frozen.attentions[layer]
    frozen.w_o[head].zero_()
    for edge in attention.into(target):
        assert (
            abs(graph.matrix[-1, edge.source] - edge.weight - parts[edge.source]) <= 1e-5 * graph.matrix[-1].abs().sum()
        )


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_all_pairs_sum_to_the_score(family, kind):
    graph, attention = opened(family, kind)
    last = len(PROMPT) - 1
    for layer, head, query, key in [(0, 1, 4, 2), (1, 3, last, last), (2, 0, last, 0), (2, 2, 3, 1)]:
        score = attention.score(layer, head, query, key)
        matrix = score.matrix()
        size = (score.queries.abs().sum(0) * score.keys.abs().sum(0)).sum()  # what rounds
        assert len(matrix) == graph.nodes.sources + 1
        for total in (matrix.sum(), score.query_side.sum(), score.key_side.sum(), torch.tensor(score.total)):
            assert abs(float(total) - score.score) <= 1e-5 * float(size)
        wrong = attention.score(layer, (head + 1) % 4, query, key)
        assert abs(score.total - wrong.score) > 1e-4 * float(size)  # the sum is of this head alone


def test_scores_make_the_pattern():
    """Softmax of the scores that were taken apart, soft-capped where the model does, is the model's attention."""
    for family in ("gemma2", "llama", "gpt2"):
        _, attention = opened(family)
        cap = getattr(attention.model.hf.config, "attn_logit_softcapping", None)
        found = torch.tensor([attention.score(1, 2, 3, key).total for key in range(4)])
        weights = torch.tensor([attention.score(1, 2, 3, key).weight for key in range(4)])
        torch.testing.assert_close((found if cap is None else cap * torch.tanh(found / cap)).softmax(0), weights)


def test_what_is_the_same_for_all_keys_cancels_against_another():
    _, attention = opened("gpt2")
    first, second = (attention.score(1, 2, 7, key) for key in (5, 3))
    both = attention.score(1, 2, 7, 5, against=3)
    assert both.score == pytest.approx(first.score - second.score, abs=1e-6)
    assert both.total == pytest.approx(both.score, abs=1e-4)
    torch.testing.assert_close(both.matrix(), first.matrix() - second.matrix(), atol=1e-5, rtol=1e-4)
    with pytest.raises(BadInput):
        attention.score(1, 2, 7, 5, against=8)


def test_the_strongest_pairs_are_those_of_the_whole_matrix(monkeypatch):
    _, attention = opened("qwen3")
    monkeypatch.setattr("glassworks.circuits.heads.BLOCK", 7)
    score = attention.score(2, 1, 8, 4)
    matrix = score.matrix()
    pairs = score.pairs(12)
    expected = matrix.abs().flatten().topk(12).values
    torch.testing.assert_close(torch.tensor([abs(value) for _, _, value in pairs]), expected)
    assert all(abs(matrix[query, key] - value) <= 1e-6 for query, key, value in pairs)


def test_pruned_graphs_are_explained_by_their_own_numbers():
    model = random_model("gemma3")
    graph = trace(model, random_scope(model), PROMPT)
    small = graph.prune(0.6, 0.9)
    attention = explain_attention(model, small)
    target = int(small.rows[-1])
    edges = attention.into(target)
    assert len(edges) == int(small.matrix[-1].count_nonzero())
    for edge in edges:
        assert abs(edge.weight - small.matrix[-1, edge.source]) <= 1e-4


def test_heads_of_an_attention_feature_move_all_of_its_input():
    graph, attention = opened("gemma3", "attn_out")
    features = (graph.nodes.of("feature") & (graph.nodes.part == PARTS.index("attention"))).nonzero()[:, 0]
    target = next(each for each in features.tolist() if graph.nodes.layer[each] == 2)
    for edge in attention.into(target):
        assert float(edge.heads[2].sum()) == pytest.approx(edge.weight, abs=1e-4)
        assert not bool(edge.heads[0].any())  # a replaced layer moves nothing else
        assert edge.passes[2] == 0


def test_approximate_graphs_are_refused_by_name():
    model = random_model("llama")
    scope = scope_of([random_sae(model, Site("resid_post", 1))])
    with pytest.raises(Unsupported, match=r"resid_post\.1"):
        explain_attention(model, trace(model, scope, PROMPT))


def test_what_is_no_edge_or_head_is_refused():
    graph, attention = opened("gemma3")
    last = int(graph.rows[-1])
    embedding = int(graph.nodes.of("embedding").nonzero()[0, 0])
    for wrong in [(0, embedding), (last, last), (0, 10**6), (-1, last)]:
        with pytest.raises(BadInput):
            attention.edge(*wrong)
    for wrong in [(3, 0, 1, 0), (0, 4, 1, 0), (0, 0, 1, 2), (0, 0, 9, 0)]:
        with pytest.raises(BadInput):
            attention.score(*wrong)
    with pytest.raises(NotFound):
        explain_attention(random_model("gemma3", seed=5), graph)


def test_the_json_of_neuronpedia_tells_why_heads_look_where_they_look():
    model = random_model("gemma3")
    graph = trace(model, random_scope(model), PROMPT)
    whole = explain_attention(model, graph)
    small = whole.part(graph.prune())
    data = annotate(small.graph.to_json("test"), small)
    json.dumps(data, allow_nan=False)
    known = {each["node_id"] for each in data["nodes"]} | set(data["qk_only_nodes"])
    told = [each for each in data["nodes"] if "qk_tracing_results" in each]
    assert len(told) > len(small.graph.rows) // 2
    for each in told:
        results, head = each["qk_tracing_results"], each["attention"]
        assert set(results) == {"pair_wise_contributors", "top_q_marginal_contributors", "top_k_marginal_contributors"}
        score = whole.score(head["layer"], head["head"], head["query"], head["key"])
        assert results["top_q_marginal_contributors"][0][1] == pytest.approx(
            float(score.query_side[score.query_side.abs().argmax()]), rel=1e-4
        )
        for query, key, _ in results["pair_wise_contributors"]:
            assert {query, key} <= known
        assert {name for side in ("q", "k") for name, _ in results[f"top_{side}_marginal_contributors"]} <= known
    again = Graph.from_json(data)
    torch.testing.assert_close(again.matrix, small.graph.matrix)


def test_plain_values_name_nodes_of_the_graph():
    graph, attention = opened("llama")
    told = attention_values(attention, edges=20, scores=5)
    assert len(told["edges"]) == 20
    for name, edge in told["edges"].items():
        source, target = map(int, name.split(">"))
        row = (graph.rows == target).nonzero()[0, 0]
        assert edge["weight"] == pytest.approx(float(graph.matrix[row, source]), abs=1e-4)
        for layer in edge["layers"]:
            through = attention.edge(source, target).heads[layer["layer"]].sum()
            assert float(through) + layer["passes"] == pytest.approx(layer["below"], abs=1e-4)
    for score in told["scores"].values():
        for each in score["keys"]:
            if each["source"]["node"] is not None:
                node = graph.nodes[each["source"]["node"]]
                assert (node.kind, node.position) == (each["source"]["kind"], each["source"]["position"])
                assert node.position <= score["key"]
        assert score["total"] == pytest.approx(score["score"], abs=1e-4)
