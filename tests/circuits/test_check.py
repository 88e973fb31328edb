"""Checks that can fail: right graphs pass on every family, and each planted error is seen and named."""

from dataclasses import replace

import pytest
import torch

from glassworks.circuits import Budget, Graph, trace
from glassworks.circuits.check import changes, direct, total
from glassworks.errors import BadInput, NotFound
from glassworks.models import Model
from glassworks.sites import Site
from tests.circuits.test_attention_coders import mixed_scope, random_sae
from tests.circuits.tiny import PROMPT, random_clt, random_model, random_scope, scope_of

pytestmark = pytest.mark.slow

FEW = {"interventions": 4}


def made(family: str, make=random_scope, **options) -> tuple[Model, Graph]:
    model = random_model(family)
    return model, trace(model, make(model, **options), PROMPT)


def with_matrix(graph: Graph, matrix: torch.Tensor, bias: torch.Tensor | None = None) -> Graph:
    return Graph.build(
        graph.origin, graph.nodes, matrix, graph.bias if bias is None else bias, graph.values, graph.scope
    )


def column(graph: Graph, kind: str) -> torch.Tensor:
    return graph.nodes.of(kind)[: graph.matrix.shape[1]]


@pytest.mark.parametrize(
    ("family", "make", "skip"),
    [
        ("gemma3", random_scope, False),
        pytest.param("gemma2", random_clt, True, marks=pytest.mark.slow),
        pytest.param("gpt2", random_scope, True, marks=pytest.mark.slow),
        pytest.param("gpt_neox", random_clt, False, marks=pytest.mark.slow),
        pytest.param("qwen3", random_clt, True, marks=pytest.mark.slow),
    ],
)
def test_right_graphs_pass(family, make, skip):
    model, graph = made(family, make, skip=skip)
    found = graph.check(model, **FEW)
    assert found.passed, found.failures
    assert max(found.residual, found.stale, found.direct.worst) <= 1e-5
    assert found.replay is not None
    assert found.replay.logits <= 1e-5
    assert found.replay.divergence > 0.01  # random coders miss much; with their errors nothing is missed
    assert found.direct.correlation.r > 0.99999
    assert set(found.direct.sources) == {"feature", "error", "embedding"}
    assert set(found.effects) == {"attention frozen", "live"}
    for each in found.effects.values():
        assert each.features.r > 0.3
    assert found.silenced is not None
    assert len(found.silenced.random) == 4
    plain = found.plain()
    assert plain["passed"] is True
    assert plain["direct"]["pairs"] == found.direct.pairs


def test_a_graph_without_features_is_checked():
    model = random_model("llama")
    found = trace(model, None, PROMPT).check(model, **FEW)
    assert found.passed, found.failures
    assert not found.effects
    assert found.silenced is None


def test_attention_coders_are_checked():
    model = random_model("gemma3")
    found = trace(model, mixed_scope(model, "attn_out"), PROMPT).check(model, **FEW)
    assert found.passed, found.failures
    assert found.direct is not None
    assert found.direct.worst <= 1e-5
    assert found.replay is not None
    assert found.replay.logits <= 1e-5


@pytest.mark.slow
def test_truncated_graphs_are_checked():
    model = random_model("llama")
    graph = trace(model, random_scope(model), PROMPT, budget=Budget(rows=20))
    assert graph.truncated
    found = graph.check(model, **FEW)
    assert found.passed, found.failures
    assert found.replay is not None


def test_approximate_graphs_are_measured_and_not_judged():
    model = random_model("llama")
    scope = scope_of([random_sae(model, Site("resid_post", layer)) for layer in range(model.n_layers)])
    found = trace(model, scope, PROMPT).check(model, **FEW)
    assert found.passed, found.failures
    assert found.direct is None
    assert found.residual != found.residual
    assert found.effects


def test_pruned_graphs_are_checked_edge_by_edge():
    model, graph = made("llama")
    found = graph.prune().check(model, **FEW)
    assert found.passed, found.failures
    assert found.replay is None
    assert found.direct.pairs > 10


@pytest.mark.slow
def test_other_targets_are_measured_again():
    model = random_model("gemma2")
    graph = trace(model, random_scope(model), PROMPT, targets=[(7, 9)])
    found = graph.check(model, **FEW)
    assert found.passed, found.failures
    assert found.direct.worst <= 1e-5


# Planted errors.


def test_a_missing_embedding_scale_fails():
    """What circuit-tracer does on Gemma 3: every embedding edge is too small by sqrt(d_model)."""
    model, graph = made("gemma3")
    matrix = graph.matrix.clone()
    matrix[:, column(graph, "embedding")] /= model.d_model**0.5
    found = with_matrix(graph, matrix).check(model, **FEW)
    assert not found.passed
    assert any("do not add up" in each for each in found.failures)
    assert any("Edges from embedding nodes are wrong" in each for each in found.failures)


def test_an_error_that_the_bias_hides_fails():
    """Conservation alone cannot see it: the rows still add up."""
    model, graph = made("llama")
    matrix = graph.matrix.clone()
    matrix[:, column(graph, "feature")] *= 1.05
    bias = graph.bias + graph.matrix.sum(1) - matrix.sum(1)
    found = with_matrix(graph, matrix, bias).check(model, **FEW)
    assert found.residual <= 1e-5
    assert [each.split(" are")[0] for each in found.failures] == ["Edges from feature nodes"]


def test_a_wrong_activation_fails():
    model, graph = made("llama")
    activation = graph.nodes.activation.clone()
    activation[5] *= 1.2
    nodes = replace(graph.nodes, activation=activation)
    found = replace(graph, nodes=nodes).check(model, **FEW)
    assert any("Activations differ" in each for each in found.failures)
    assert any("do not rebuild" in each for each in found.failures)


@pytest.mark.slow
def test_a_missing_feature_fails():
    model, graph = made("llama")
    kept = torch.ones(len(graph.nodes), dtype=torch.bool)
    kept[int(graph.influence[graph.nodes.of("feature")].argmax())] = False
    small = graph.select(kept)
    assert small.check(model, **FEW).passed  # what was cut away on purpose is in `rest`
    found = replace(small, rest=torch.zeros_like(small.rest), rest_size=torch.zeros_like(small.rest)).check(
        model, **FEW
    )
    assert any("lacks 1 active feature" in each for each in found.failures)


def test_another_model_fails():
    _, graph = made("llama")
    other = random_model("llama", seed=5)
    found = graph.check(other, **FEW)
    assert any("other values" in each for each in found.failures)


def test_what_cannot_be_checked_is_refused():
    model, graph = made("llama")
    with pytest.raises(BadInput, match="interventions"):
        graph.check(model, interventions=2)
    narrow = random_scope(model)
    narrow.replacement.remove("mlp_in.1")
    with pytest.raises(BadInput, match=r"mlp\.1"):
        graph.check(model, narrow)
    with pytest.raises(BadInput, match="tokens"):
        replace(graph, origin=replace(graph.origin, tokens=(10**6,) * len(PROMPT))).check(model)
    with pytest.raises(NotFound):
        graph.check()  # its model's name is no name of a model


# What a graph predicts, beside a slow twin.


def test_total_effects_are_those_of_every_path():
    _, graph = made("llama")
    feature = graph.nodes.of("feature")
    matrix, sources = graph.dense()[0].double(), graph.matrix.shape[1]
    activation = graph.nodes.activation[feature].double()
    number = int(feature.nonzero()[3])
    change = 1e-3  # small, so that nothing is silenced
    moved = torch.zeros(len(feature), dtype=torch.float64)
    for target in range(len(feature)):
        if target == number:
            moved[target] = change * activation[number]
        elif bool((graph.rows == target).any()):
            share = moved[:sources].clone()
            share[feature[:sources]] /= activation
            moved[target] = matrix[target, :sources] @ share
    rows = graph.rows != number
    found = total(graph, changes(graph, [torch.tensor([number])], change))[0]
    torch.testing.assert_close(found[rows].double(), moved[graph.rows][rows], rtol=1e-3, atol=1e-9)


def test_silent_features_cannot_fall_further():
    _, graph = made("llama")
    number = torch.tensor([0])
    one, many = (total(graph, changes(graph, [number], factor))[0] for factor in (-1.0, -1000.0))
    assert (many.abs() <= 1000 * one.abs().max() * 1.01).all()
    torch.testing.assert_close(direct(graph, changes(graph, [number], -2.0))[0], -2 * graph.matrix[:, 0])
