"""Paths and proposed groups: a slow enumeration of every single way, and what a reader sees."""

from collections import defaultdict
from itertools import combinations

import pytest
import torch

from glassworks.circuits import Graph, Node, Nodes, Origin, trace
from glassworks.circuits.reading import named_groups
from tests.circuits.tiny import PROMPT, random_model, random_scope

LABELS = {0: "wet, river -> boat", 1: "river, wet -> ship", 2: "dry, sand", 3: "", 4: "boat, ship -> sail"}


def row(kind: str, layer: int, position: int, index: int, label: str, probability: float | None = None) -> Node:
    return Node(kind, layer, position, index, None, probability, None, label)


def drawn(seed: int) -> Graph:
    """A random graph with labelled features in three layers at two positions."""
    generator = torch.Generator().manual_seed(seed)
    features = [(layer, position, index) for layer in range(3) for position in range(2) for index in range(4)]
    rows = [row("feature", layer, at, index, LABELS[(layer + index) % 5]) for layer, at, index in features]
    rows += [row("error", 0, 1, -1, "")]
    rows += [row("embedding", -1, at, 7 + at, text) for at, text in enumerate(("a", " b"))]
    rows += [row("logit", 3, 1, 5, " c", 0.7), row("logit", 3, 1, 6, " d", 0.2)]
    nodes = Nodes.of_rows(rows)
    matrix = torch.randn(26, 27, generator=generator) * (torch.rand(26, 27, generator=generator) < 0.6)
    targets = [*range(24), 27, 28]
    for number, target in enumerate(targets):
        for source in range(27):
            if rows[source].layer >= rows[target].layer or rows[source].position > rows[target].position:
                matrix[number, source] = 0
    origin = Origin("m", "", "a b", (7, 8), ("a", " b"))
    return Graph.build(origin, nodes, matrix, torch.zeros(26), matrix.sum(1))


def every_way(graph: Graph, groups: list[list[int]]) -> dict[tuple[tuple[int, ...], ...], float]:
    """Follow every single path from the likeliest logit down, and sum those that name the same groups."""
    home = {number: tuple(group) for group in groups for number in group}
    rows = {int(node): row for row, node in enumerate(graph.rows)}
    shares = graph.matrix / graph.matrix.abs().sum(1, keepdim=True).clamp(min=1e-10)
    found: dict[tuple[tuple[int, ...], ...], float] = defaultdict(float)

    def down(node: int, weight: float, chain: tuple[tuple[int, ...], ...]) -> None:
        kind = graph.nodes[node].kind
        if kind in ("feature", "embedding") and (node in home or kind == "embedding"):
            chain = (home.get(node, (node,)), *chain)
        if kind == "embedding":
            found[chain] += weight
        for source in shares[rows[node]].nonzero()[:, 0].tolist() if node in rows else []:
            down(source, weight * float(shares[rows[node], source]), chain)

    outcome = int(graph.edges.weights.argmax())
    down(outcome, 1.0, ((outcome,),))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_paths_agree_with_every_single_way(seed):
    graph = drawn(seed)
    named = named_groups(graph.nodes, graph.edges, graph.influence)
    wanted = {chain: weight for chain, weight in every_way(graph, named).items() if len(chain) > 2}
    paths = graph.paths(k=100000)
    assert {tuple(step.nodes for step in path.steps) for path in paths} <= set(wanted)
    for path in paths:
        assert path.weight == pytest.approx(wanted[tuple(step.nodes for step in path.steps)], abs=1e-6)

    def strength(chain: tuple[tuple[int, ...], ...]) -> float:
        return abs(wanted[chain]) ** (1 / (len(chain) - 1))

    assert max(path.strength for path in paths) == pytest.approx(max(map(strength, wanted)), abs=1e-6)
    few = graph.paths(7)
    ranked = sorted(few, key=lambda path: (path.weight < 0, -path.strength))
    assert few == ranked
    for path, other in combinations(few, 2):
        same = len(path.steps) == len(other.steps)
        assert not same or sum(a != b for a, b in zip(path.steps, other.steps, strict=True)) > 1


def test_paths_without_features_go_straight():
    graph = trace(random_model("gpt2"), None, PROMPT)
    (path, *_) = graph.paths(3)
    assert [step.kind for step in path.steps] == ["embedding", "logit"]
    best = int(graph.edges.weights.argmax())
    shares = graph.matrix[graph.rows == best][0] / graph.matrix[graph.rows == best].abs().sum()
    embeddings = shares[graph.nodes.of("embedding")[: len(shares)]]
    assert path.weight in [pytest.approx(each) for each in embeddings.tolist()]


def test_groups_share_words_layer_and_position():
    graph = drawn(0)
    groups = graph.proposed()
    members = [number for group in groups for number in group.nodes]
    assert sorted(members) == graph.nodes.of("feature").nonzero()[:, 0].tolist()
    for group in groups:
        assert len({(graph.nodes[each].layer, graph.nodes[each].position) for each in group.nodes}) == 1
    pairs = [group for group in groups if len(group) > 1]
    assert all({graph.nodes[each].label for each in group.nodes} == {LABELS[0], LABELS[1]} for group in pairs)
    assert pairs
    totals = [float(graph.influence[list(group.nodes)].sum()) for group in groups]
    assert totals == sorted(totals, reverse=True)
    assert [group.nodes for group in graph.proposed()] == [group.nodes for group in groups]


def test_paths_are_words_and_plain_values():
    model = random_model("gemma3")
    graph = trace(model, random_scope(model), PROMPT)
    path = graph.paths(1)[0]
    text = str(path)
    assert text.startswith("'#")
    assert "mlp_in." in text
    assert (" -| " in text) == any(path.inhibits)
    plain = path.plain()
    assert plain["text"] == text
    assert len(plain["steps"]) == len(path.inhibits) + 1
    lowered = [path for path in graph.paths(50) if path.weight < 0]
    assert all(sum(path.inhibits) % 2 for path in lowered)
