"""Reading a graph: groups by role, sentences, and the fewest features that are enough."""

from dataclasses import replace

import pytest
import torch

from glassworks.circuits import Graph, trace
from glassworks.circuits.checks.measured import Bench
from glassworks.circuits.reading.minimal import _enough, _needed
from glassworks.circuits.reading.proposals import _joined
from glassworks.errors import BadInput
from glassworks.models import Model
from tests.circuits.tiny import PROMPT, random_model, random_scope


@pytest.fixture(scope="module")
def made() -> tuple[Model, Graph]:
    model = random_model("llama")
    return model, trace(model, random_scope(model), PROMPT)


def test_twins_are_proposed_together(made):
    """A feature that is split in two halves reads and writes the same: the halves make one group."""
    _, graph = made
    whole = int(graph.influence[graph.nodes.of("feature")].argmax())
    order = torch.cat([torch.arange(whole + 1), torch.arange(whole, len(graph.nodes))])
    nodes = graph.nodes.select(order)
    features = int(nodes.of("feature").sum())
    rows = torch.cat([graph.rows[: whole + 1], graph.rows[whole:]])
    matrix = torch.cat([graph.matrix[: whole + 1], graph.matrix[whole:]])
    columns = order[order < graph.matrix.shape[1]]
    matrix = matrix[:, columns]
    matrix[:, whole : whole + 2] /= 2
    assert len(rows) == features + int(nodes.of("logit").sum())
    split = Graph.build(graph.origin, nodes, matrix, graph.bias.new_zeros(len(matrix)), matrix.sum(1), graph.scope)
    groups = [group.nodes for group in split.proposed(by="roles")]
    assert any({whole, whole + 1} <= set(group) for group in groups)
    assert groups == [group.nodes for group in split.proposed(by="roles")]


def test_every_influential_feature_is_in_one_group(made):
    _, graph = made
    groups = graph.proposed(by="roles")
    numbers = [number for group in groups for number in group.nodes]
    assert len(numbers) == len(set(numbers)) == min(256, int(graph.nodes.of("feature").sum()))
    flows = [float(graph.influence[list(group.nodes)].sum()) for group in groups]
    assert flows == sorted(flows, reverse=True)
    alone = replace(graph, scope=None)
    assert alone.proposed(by="roles")  # without directions
    with pytest.raises(BadInput, match="no way"):
        graph.proposed(by="colour")
    assert not trace(random_model("gpt2"), None, PROMPT).proposed(by="roles")


def test_average_linkage_joins_blocks():
    alike = torch.full((5, 5), 0.1)
    alike[:2, :2] = alike[2:4, 2:4] = 0.9
    assert _joined(alike) == [[0, 1], [2, 3], [4]]
    chain = torch.eye(3) + torch.tensor([[0, 0.6, 0.0], [0.6, 0, 0.6], [0.0, 0.6, 0]])
    assert _joined(chain) == [[0, 1], [2]]  # what is alike to one of a group is not yet alike to the group
    assert _joined(torch.ones(1, 1)) == [[0]]


def test_a_summary_tells_numbers_of_the_graph(made):
    _, graph = made
    text = graph.summary()
    best = graph.nodes[int(graph.edges.weights.argmax())]
    assert repr(best.label.strip()) in text
    assert f"{graph.replacement:.0%} of what is explained" in text
    assert "rows add up to within" in text
    assert "The strongest paths" in text
    assert "is unknown" in Graph.from_json(graph.prune().to_json()).summary()
    assert text == graph.summary()


# The fewest features.


@pytest.mark.slow
def test_a_minimal_circuit_is_enough_and_nothing_of_it_can_go(made):
    model, graph = made
    found = graph.minimal(model, faithfulness=0.6)
    assert found.faithfulness >= 0.6
    assert 0 < len(found.nodes) < found.features
    bench, row = Bench(graph, model, graph.scope), int((graph.rows == int(graph.edges.weights.argmax())).nonzero()[0])

    def faithfulness(kept: list[int]) -> float:
        silent = [each for each in graph.nodes.of("feature").nonzero()[:, 0].tolist() if each not in kept]
        return float((bench.changed(torch.tensor(silent), -1.0, "live")[row] - found.none) / (found.whole - found.none))

    assert faithfulness(list(found.nodes)) == pytest.approx(found.faithfulness, abs=1e-4)
    for each in found.nodes[:2]:
        assert faithfulness([other for other in found.nodes if other != each]) < 0.6
    assert len(found.random) == 10
    assert sum(found.random) / 10 < found.faithfulness
    assert found.plain()["runs"] == found.runs


def test_what_has_no_minimal_circuit_is_refused(made):
    model, graph = made
    with pytest.raises(BadInput, match="faithfulness"):
        graph.minimal(model, faithfulness=1.5)
    empty = trace(model, None, PROMPT)
    with pytest.raises(BadInput, match="no features"):
        empty.minimal(model)


@pytest.mark.parametrize("needed", [{0}, {3, 7}, {9}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}])
def test_the_search_finds_what_is_needed(needed):
    items = list(range(10))
    count = _enough(lambda size: needed <= set(items[:size]), 10)
    assert count == max(needed) + 1
    assert _needed(items[:count], lambda some: needed <= set(some)) == sorted(needed)
