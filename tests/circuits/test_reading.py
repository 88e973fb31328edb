"""Reading a graph: sentences, and the fewest features that are enough."""

import pytest
import torch

from glassworks.circuits import Graph, trace
from glassworks.circuits.bench import Bench
from glassworks.circuits.minimal import smallest
from glassworks.errors import BadInput
from glassworks.models import Model
from tests.circuits.tiny import PROMPT, random_model, random_scope


@pytest.fixture(scope="module")
def made() -> tuple[Model, Graph]:
    model = random_model("llama")
    return model, trace(model, random_scope(model), PROMPT)


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
    assert smallest(range(10), lambda some: needed <= set(some)) == sorted(needed)
