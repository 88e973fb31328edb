"""Influence and pruning: closed forms, and slow readable twins."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from glassworks.circuits.scores import Edges, cumulative, edge_influence, influence, prune, scores, threshold
from glassworks.errors import BadInput

# Twelve nodes: features 0-4 in three layers, errors 5-6, embeddings 7-9, logits 10-11; shares are easy fractions.
HAND = {
    (10, 4): 2.0, (10, 3): -1.0, (10, 7): 1.0,
    (11, 4): 3.0, (11, 6): 1.0,
    (4, 2): -1.0, (4, 3): 1.0, (4, 5): 1.0, (4, 9): 1.0,
    (3, 0): 1.0, (3, 8): 1.0,
    (2, 0): 1.0, (2, 1): -3.0,
    (1, 7): 5.0,
    (0, 8): 2.0, (0, 9): -2.0,
}  # fmt: skip
LAYER = [0, 0, 1, 1, 2, 0, 2, -1, -1, -1, 3, 3]
ROWS = [0, 1, 2, 3, 4, 10, 11]
WEIGHTS = {10: Fraction(3, 4), 11: Fraction(1, 4)}
FLOW = {  # by hand: 4 gets 3/4 * 2/4 + 1/4 * 3/4, and hands on a quarter of that to each of its four inputs
    4: Fraction(9, 16),
    3: Fraction(9, 64) + Fraction(3, 16),
    2: Fraction(9, 64),
    1: Fraction(9, 64) * Fraction(3, 4),
    0: Fraction(21, 64) / 2 + Fraction(9, 64) / 4,
    5: Fraction(9, 64),
    6: Fraction(1, 16),
    7: Fraction(3, 16) + Fraction(27, 256),
    8: Fraction(21, 128) + Fraction(51, 512),
    9: Fraction(9, 64) + Fraction(51, 512),
}


def edges_of(square: torch.Tensor, rows: list[int], layer: list[int], weights: torch.Tensor, sources: int) -> Edges:
    return Edges(square[rows, :sources], torch.tensor(rows), torch.tensor(layer)[rows], weights, torch.zeros(len(rows)))


def hand() -> Edges:
    square = torch.zeros(12, 12)
    for (target, source), weight in HAND.items():
        square[target, source] = weight
    weights = torch.zeros(12)
    weights[10], weights[11] = 0.75, 0.25
    return edges_of(square, ROWS, LAYER, weights, 10)


def test_influence_by_hand():
    wanted = torch.tensor([float(FLOW.get(node, Fraction(0))) for node in range(12)])
    torch.testing.assert_close(influence(hand()), wanted, atol=1e-7, rtol=0)


def test_edge_influence_by_hand():
    found = edge_influence(hand())
    assert found[ROWS.index(10), 4].item() == pytest.approx(0.75 * 0.5)
    assert found[ROWS.index(2), 1].item() == pytest.approx(float(FLOW[1]))


def test_scores_by_hand():
    features, errors, embeddings = torch.zeros(3, 12, dtype=torch.bool)
    features[:5], errors[5:7], embeddings[7:10] = True, True, True
    found = scores(hand(), influence(hand()), features, errors, embeddings)
    token, error = FLOW[7] + FLOW[8] + FLOW[9], FLOW[5] + FLOW[6]
    assert found.replacement == pytest.approx(float(token / (token + error)))
    lost = WEIGHTS[11] / 4 + FLOW[4] / 4
    assert found.completeness == pytest.approx(1 - float(lost / (sum(FLOW.values()) + 1)))


def test_scores_of_an_unlikely_outcome_are_the_same():
    features, errors, embeddings = torch.zeros(3, 12, dtype=torch.bool)
    features[:5], errors[5:7], embeddings[7:10] = True, True, True
    rare = replace(hand(), weights=hand().weights * 1e-20)
    likely, unlikely = (scores(each, influence(each), features, errors, embeddings) for each in (hand(), rare))
    assert (unlikely.replacement, unlikely.completeness) == pytest.approx((likely.replacement, likely.completeness))
    assert cumulative(influence(rare)).tolist() == pytest.approx(cumulative(influence(hand())).tolist())


def test_cumulative_shares_ascend_as_influence_falls():
    assert cumulative(torch.tensor([1.0, 5.0, 0.0, 4.0])).tolist() == pytest.approx([1.0, 0.5, 1.0, 0.9])


def test_threshold_keeps_the_smallest_set():
    scores = torch.tensor([4.0, 1.0, 3.0, 2.0, 0.0])
    assert [threshold(scores, share).item() for share in (0.0, 0.4, 0.41, 0.7, 1.0)] == [4.0, 4.0, 3.0, 3.0, 1.0]
    assert threshold(torch.zeros(3), 0.5).item() == 0.0


# Slow twins, on square matrices and with loops.


def slow_influence(square: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    share = square.abs().double()
    share = share / share.sum(1, keepdim=True).clamp(min=1e-10)
    total, step = torch.zeros(len(square), dtype=torch.float64), weights.double() @ share
    while bool(step.any()):
        total, step = total + step, step @ share
    return total


def slow_keep(scores: list[float], share: float) -> set[int]:
    order = sorted(range(len(scores)), key=lambda each: -scores[each])
    total, kept, sums = sum(scores), set(), 0.0
    for each in order:
        if kept and sums / total >= share:
            break
        kept.add(each)
        sums += scores[each]
    return {each for each in kept if scores[each] > 0}


def slow_prune(square, weights, always, rooted, node, edge):
    found = slow_influence(square, weights)
    nodes = slow_keep(found.tolist(), node) | always
    cut = square.clone()
    for each in set(range(len(square))) - nodes:
        cut[each], cut[:, each] = 0, 0
    flow = slow_influence(cut, weights) + weights
    share = cut.abs().double() / cut.abs().double().sum(1, keepdim=True).clamp(min=1e-10)
    flat = slow_keep((share * flow[:, None]).flatten().tolist(), edge)
    edges = {divmod(each, len(square)) for each in flat}
    while True:
        dead = {n for n in nodes - always if not any(s == n for _, s in edges)}
        dead |= {n for n in nodes - always - rooted if not any(t == n for t, _ in edges)}
        if not dead:
            return nodes, edges
        nodes -= dead
        edges = {(t, s) for t, s in edges if t not in dead and s not in dead}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("node", "edge"), [(0.8, 0.98), (0.5, 0.6), (1.0, 1.0), (0.0, 0.5)])
def test_pruning_agrees_with_its_slow_twin(seed, node, edge):
    generator = torch.Generator().manual_seed(seed)
    counts = {"feature": 14, "error": 5, "embedding": 4, "logit": 3}
    layer = sorted(torch.randint(0, 4, (14,), generator=generator).tolist())
    layer += sorted(torch.randint(0, 4, (5,), generator=generator).tolist()) + [-1] * 4 + [4] * 3
    size, sources = sum(counts.values()), 23
    square = torch.randn(size, size, generator=generator) * (torch.rand(size, size, generator=generator) < 0.5)
    for target in range(size):
        for source in range(size):
            if target in range(14, sources) or source >= sources or layer[source] >= layer[target]:
                square[target, source] = 0
    weights = torch.zeros(size)
    weights[sources:] = torch.tensor([0.6, 0.3, 0.1])
    rows = [*range(14), *range(sources, size)]
    edges = edges_of(square, rows, layer, weights, sources)
    torch.testing.assert_close(influence(edges).double(), slow_influence(square, weights), atol=1e-6, rtol=1e-5)
    kept, rooted = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    kept[19:], rooted[14:sources] = True, True
    nodes, mask = prune(edges, kept, rooted, node, edge)
    slow_nodes, slow_edges = slow_prune(square, weights, set(range(19, size)), set(range(14, sources)), node, edge)
    assert set(nodes.nonzero()[:, 0].tolist()) == slow_nodes
    targets, origins = [each for each in rows if nodes[each]], nodes[:sources].nonzero()[:, 0].tolist()
    assert {(targets[t], origins[s]) for t, s in mask.nonzero().tolist()} == slow_edges


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_outside_0_to_1_are_refused(share):
    kept = torch.ones(12, dtype=torch.bool)
    with pytest.raises(BadInput, match="from 0 to 1"):
        prune(hand(), kept, kept, share, 0.5)
