"""Many prompts: what recurs, what differs, what is predicted; with planted answers and controls."""

from dataclasses import replace

import pytest
import torch

from glassworks.circuits import Graph, aggregate, compare, inputs_of, load_aggregate, predict, trace
from glassworks.circuits.many import keyed
from glassworks.circuits.predict import recurring
from glassworks.coders import Scope
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model
from tests.circuits.tiny import PROMPT, random_model, random_scope

OTHERS = [[0, 15, 18, 33, 18, 62, 25, 46, 9], [0, 15, 18, 33, 21, 62, 25, 46, 7], [0, 11, 18, 33, 18, 62, 25, 46, 7]]


@pytest.fixture(scope="module")
def world() -> tuple[Model, Scope, list[Graph]]:
    model = random_model("gemma3")
    scope = random_scope(model)
    return model, scope, [trace(model, scope, prompt) for prompt in [PROMPT, *OTHERS]]


def test_what_recurs_is_counted(world):
    _, _, graphs = world
    found = aggregate(graphs)
    small = [graph.prune() for graph in graphs]
    seen = [{(node.place, node.index) for node in graph.nodes if node.kind == "feature"} for graph in small]
    for each in found.features:
        assert each.prompts == sum((each.place, each.index) in one for one in seen)
        assert each.low < each.frequency <= each.high + 1e-9
    assert {(each.place, each.index) for each in found.features} == set().union(*seen)
    assert [each.prompts for each in found.nodes] == sorted((each.prompts for each in found.nodes), reverse=True)
    assert found.replacement[1] <= found.replacement[0] <= found.replacement[2]
    assert found.conservation is not None
    assert found.conservation < 1e-4


def test_edges_of_several_prompts_are_means(world):
    _, _, graphs = world
    found, small = aggregate(graphs), [graph.prune() for graph in graphs]
    for link in found.edges[:20]:
        source, target = found.nodes[link.source], found.nodes[link.target]
        weights = []
        for graph in small:
            square, nodes = graph.dense()
            here = [(node.kind, node.place if node.kind in ("feature", "error") else "", node.index) for node in nodes]
            rows = [i for i, key in enumerate(here) if key == (target.kind, target.place, target.index)]
            columns = [i for i, key in enumerate(here) if key == (source.kind, source.place, source.index)]
            part = square[rows][:, columns]
            if bool(part.any()):
                weights.append(float(part.sum()))
        assert link.prompts == len(weights)
        assert link.weight == pytest.approx(sum(weights) / len(weights), rel=1e-3, abs=1e-6)
        assert abs(link.share) <= 1.001


def test_an_aggregate_is_saved(world, tmp_path):
    found = aggregate(world[2])
    found.save(tmp_path / "aggregate")
    assert load_aggregate(tmp_path / "aggregate") == found


def test_a_graph_does_not_differ_from_itself(world):
    first, second, *_ = world[2]
    same, other = compare(first, first), compare(first, second)
    assert (same.similarity, same.edges) == (pytest.approx(1), pytest.approx(1))
    assert not any(each.difference for each in same.nodes)
    assert other.similarity < 0.999
    assert other.tokens < 0.999
    turned = compare(second, first)
    assert turned.similarity == pytest.approx(other.similarity)
    assert [each.difference for each in turned.nodes] == pytest.approx([-each.difference for each in other.nodes])
    assert abs(other.nodes[0].difference) == max(abs(each.difference) for each in other.nodes)


def test_a_planted_difference_comes_first(world):
    first = world[2][0]
    number = int(first.influence[first.nodes.of("feature")].argmax())
    nodes = first.nodes
    kept = ~(nodes.of("feature") & (nodes.layer == nodes.layer[number]) & (nodes.index == nodes.index[number]))
    found = compare(first, first.select(kept))
    assert any(each.name == first.nodes.labels[number] and each.second == 0 for each in found.nodes[:10])
    assert any(f"{first.nodes.labels[number]} ->" in each.name for each in found.links)


def test_graphs_of_other_coders_are_matched_by_label(world):
    first = world[2][0]
    labels = tuple(f"{text}, shared word {number % 3}" for number, text in enumerate(first.nodes.labels))
    coders = {place: f"{name}/large" for place, name in first.origin.coders.items()}
    other = replace(first, origin=replace(first.origin, coders=coders))
    with pytest.raises(BadInput, match="use labels"):
        compare(first, other)
    assert compare(first, other, by="label").similarity == pytest.approx(1)
    renamed = replace(other, nodes=replace(other.nodes, labels=labels))
    assert compare(other, renamed, by="label").similarity < 0.999
    with pytest.raises(BadInput, match="feature or label"):
        keyed([first], by="colour")


def test_totals_are_what_recurs(world):
    _, _, graphs = world
    features = recurring(graphs)
    assert all(each.frequency >= 0.5 for each in features)
    graph = graphs[0]
    last = int(graph.influence[graph.nodes.of("feature") & (graph.nodes.layer == 2)].argmax())
    number = int((graph.nodes.of("feature") & (graph.nodes.layer == 2)).nonzero()[last])
    (alone,) = [
        each for each in recurring([graph]) if (each.coder, each.index) == ("mlp_in.2", int(graph.nodes.index[number]))
    ]
    twins = graph.nodes.of("feature") & (graph.nodes.layer == 2) & (graph.nodes.index == graph.nodes.index[number])
    row = graph.matrix[int((graph.rows == int(graph.edges.weights.argmax())).nonzero()[0])]
    wanted = row[twins[: len(row)]].sum() / graph.nodes.activation[twins].sum()
    assert alone.effect == pytest.approx(float(wanted), rel=1e-4)  # nothing lies between the last layer and the logits


def test_edits_on_unseen_prompts_are_predicted(world):
    model, scope, graphs = world
    unseen = [[*PROMPT[:-1], last] for last in (1, 2, 3, 4)]
    found = predict(model, scope, graphs, unseen, size=4)
    assert len(found.circuit) == len(found.random) == 4
    assert not {(each.coder, each.index) for each in found.circuit} & {(e.coder, e.index) for e in found.random}
    assert found.predicted.pairs >= 8
    assert found.predicted.clusters <= 4
    assert found.moved[0] > 0
    assert found.better[1] <= found.better[0] <= found.better[2]
    assert found.better[0] == pytest.approx(found.predicted.r - found.swapped.r)
    with pytest.raises(BadInput, match="in both"):
        predict(model, scope, graphs, [*unseen, OTHERS[0]], size=4)
    with pytest.raises(BadInput, match="too few"):
        predict(model, scope, graphs, unseen, size=5000)


def test_global_weights_are_means_of_true_edges():
    """Without attention an edge is the virtual weight times activation and scale, token by token."""
    model = random_model("gemma3")
    for layer in range(model.n_layers):
        torch.nn.init.zeros_(model.hf.model.layers[layer].self_attn.o_proj.weight)
    scope = random_scope(model)
    graphs = [trace(model, scope, prompt) for prompt in [PROMPT, *OTHERS]]
    target = next(node for node in graphs[0].nodes if node.kind == "feature" and node.layer == 2)
    found = inputs_of(model, scope, f"mlp_in.2/{target.index}", [PROMPT, *OTHERS])
    assert found.active >= 1
    assert found.tokens == 4 * (len(PROMPT) - 1)
    for weight in found.sources[:5]:
        place = "mlp." + weight.coder.rpartition(".")[2]
        attributed = loaded = plain = 0.0
        for graph in graphs:
            square, nodes = graph.dense()
            mine = [
                i for i, n in enumerate(nodes) if n.kind == "feature" and n.place == "mlp.2" and n.index == target.index
            ]
            theirs = [
                i for i, n in enumerate(nodes) if n.kind == "feature" and n.place == place and n.index == weight.index
            ]
            for row in mine:
                loaded += float(nodes.activation[row])
                plain += float(square[row, theirs].sum())
                attributed += float(nodes.activation[row] * square[row, theirs].sum())
        assert weight.twera == pytest.approx(attributed / loaded, rel=1e-3, abs=1e-7)
        assert weight.era == pytest.approx(plain / found.tokens, rel=1e-3, abs=1e-7)
    assert [abs(each.twera) for each in found.sources] == sorted((abs(e.twera) for e in found.sources), reverse=True)


@pytest.mark.parametrize(
    ("target", "prompts", "error"),
    [
        ("mlp_in.2", [PROMPT], NotFound),
        ("mlp_in.2/9999", [PROMPT], NotFound),
        ("mlp_in.9/0", [PROMPT], NotFound),
        ("mlp_in.0/0", [PROMPT], Unsupported),
        ("mlp_in.2/0", [], BadInput),
    ],
)
def test_wrong_targets_of_global_weights_are_refused(world, target, prompts, error):
    model, scope, _ = world
    with pytest.raises(error):
        inputs_of(model, scope, target, prompts)
