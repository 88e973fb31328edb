"""Trials: sources of a graph are changed in the real model, and what happens is held against the graph.

Single edges with everything nonlinear frozen, all paths with features silenced, and the strongest features together
beside random ones. This module must not know what counts as passing.
"""

from dataclasses import dataclass
from random import Random
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.circuits.checks.control import matched
from glassworks.circuits.checks.effects import changes, direct, total
from glassworks.circuits.checks.measured import FROZEN, Bench
from glassworks.circuits.checks.statistics import Correlation, correlation
from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, LOGIT, PARTS
from glassworks.circuits.traced import Traced

TIMES = 16.0  # direct effects are linear, and a large change drowns the rounding
SHUFFLES = 200
CIRCUIT = 16  # how many of the strongest features are silenced together
STRONG = 0.8  # share of the features' influence that rests on the circuit


@final
@dataclass(frozen=True)
class Direct:
    """Direct edges beside changes of the real frozen model.

    Attributes:
        sources: how many features, errors and embeddings were changed.
        pairs: how many edges that tested.
        worst: largest difference of an edge, relative to the sum of its row's absolute edges.
        kind: kind of the source that it belongs to.
        correlation: of edges with measured effects.
    """

    sources: dict[str, int]
    pairs: int
    worst: float
    kind: str
    correlation: Correlation


@final
@dataclass(frozen=True)
class Effects:
    """All paths of the graph beside what happens when single features are silenced in the real model.

    Attributes:
        outcomes: change of every outcome, features of the circuit.
        features: change of every feature above, relative to its row's size.
        random: like `outcomes`, for features outside the circuit, matched by layer and activation.
        shuffled: 97.5 % quantile of the correlation when the predictions of the circuit's features are dealt out
            anew among them: what chance reaches.
    """

    outcomes: Correlation
    features: Correlation
    random: Correlation
    shuffled: float


@final
@dataclass(frozen=True)
class Silenced:
    """The strongest features silenced together in the live model, beside random features.

    Attributes:
        size: how many features.
        circuit: mean absolute change of the outcomes, weighted as the graph weights them.
        random: the same of each draw of as many other features, matched by layer and activation.
        p: share of draws, the circuit counted among them, that move the outcomes as much.
    """

    size: int
    circuit: float
    random: tuple[float, ...]
    p: float


def scale(graph: Traced) -> Float[Tensor, " t"]:
    """What differences of each target are measured against: the size of its inputs."""
    return (graph.edges.sizes() + graph.bias.abs()).clamp(min=1e-6)


def edges_tried(bench: Bench, values: Tensor, interventions: int, random: Random, whole: bool) -> Direct | None:
    """Change sources of every kind in the real frozen model, one by one.

    Args:
        bench: graph and model.
        values: the targets as they are.
        interventions: how many features; a fourth as many errors, and embeddings.
        random: draws them.
        whole: whether an edge that the graph lacks is 0, and not merely pruned.
    """
    graph, chosen, exact = bench.graph, {}, _exact(bench)
    for kind, most in ((FEATURE, interventions), (ERROR, interventions // 4), (EMBEDDING, interventions // 4)):
        numbers = graph.nodes.of(kind).nonzero()[:, 0]
        numbers = numbers[graph.matrix[exact][:, numbers].any(0)].tolist()
        chosen[kind] = random.sample(numbers, min(most, len(numbers)))
    groups = [torch.tensor([each]) for numbers in chosen.values() for each in numbers]
    if not groups:
        return None
    predicted = direct(graph, changes(graph, groups, 1.0))[:, exact]
    measured = torch.stack([(bench.changed(each, TIMES, "direct") - values)[exact] / TIMES for each in groups])
    sizes, tested = scale(graph)[exact], predicted != 0
    miss = ((measured - predicted).abs() / sizes).masked_fill(~(tested | whole), 0).max(1).values
    kinds = [kind for kind, numbers in chosen.items() for _ in numbers]
    cluster = torch.arange(len(groups))[:, None].expand_as(predicted)
    return Direct(
        sources={kind: len(numbers) for kind, numbers in chosen.items()},
        pairs=int(tested.sum()),
        worst=float(miss.max()),
        kind=kinds[int(miss.argmax())],
        correlation=correlation((predicted / sizes)[tested], (measured / sizes)[tested], cluster[tested]),
    )


def _exact(bench: Bench) -> Bool[Tensor, " t"]:
    """Rows whose edges the frozen model shows: not those that pass a Jacobian, or read a layer that is a source."""
    graph = bench.graph
    nodes = graph.nodes.select(graph.rows)
    if graph.origin.facts.get("approximate"):
        return graph.values.isfinite()
    return ~(nodes.of(FEATURE) & (nodes.part == PARTS.index("attention")))


def paths_tried(bench: Bench, values: Tensor, interventions: int, random: Random, seed: int) -> dict[str, Effects]:
    """Silence single features in every mode but the direct one, and compare with all paths of the graph.

    Args:
        bench: graph and model.
        values: the targets as they are.
        interventions: how many features: half of the circuit, half of them random others.
        random: draws them.
        seed: of the intervals.
    """
    graph = bench.graph
    circuit, others = _drawn(graph, interventions // 2, random)
    if len(circuit) < 2:
        return {}
    groups = [torch.tensor([each]) for each in [*circuit, *others]]
    predicted = total(graph, changes(graph, groups, -1.0))
    found = {}
    for mode in list(FROZEN)[1:]:
        measured = torch.stack([bench.changed(each, -1.0, mode) - values for each in groups])
        found[mode] = _compared(graph, predicted, measured, len(circuit), seed)
    return found


def _compared(graph: Traced, predicted: Tensor, measured: Tensor, circuit: int, seed: int) -> Effects:
    outcome = graph.nodes.of(LOGIT)[graph.rows]
    number = torch.arange(len(predicted))[:, None].expand_as(predicted)
    sizes = scale(graph)

    def against(x: Tensor, y: Tensor, rows: slice, columns: Tensor) -> Correlation:
        first, second, cluster = (each[rows][:, columns].flatten() for each in (x, y, number))
        return correlation(first, second, cluster, seed)

    above = ~outcome & (predicted != 0)[:circuit].any(0)
    mine, rest = slice(0, circuit), slice(circuit, None)
    return Effects(
        outcomes=against(predicted, measured, mine, outcome),
        features=against(predicted / sizes, measured / sizes, mine, above),
        random=against(predicted, measured, rest, outcome),
        shuffled=_shuffled(predicted[:circuit, outcome], measured[:circuit, outcome], seed),
    )


def _shuffled(predicted: Float[Tensor, "k o"], measured: Float[Tensor, "k o"], seed: int) -> float:
    """The 97.5 % quantile of the correlation when predictions are dealt out anew."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(SHUFFLES):
        order = torch.randperm(len(predicted), generator=generator)
        found.append(torch.corrcoef(torch.stack([predicted[order].flatten(), measured.flatten()]).double())[0, 1])
    return float(torch.stack(found).nan_to_num(0.0).quantile(0.975))


def _drawn(graph: Traced, count: int, random: Random) -> tuple[list[int], list[int]]:
    """Features of the circuit, which carry most of the features' influence, and matched others."""
    feature = graph.nodes.of(FEATURE)
    flow = torch.where(feature, graph.influence, torch.zeros(()))
    order = flow.argsort(descending=True, stable=True)
    enough = int((flow[order].cumsum(0) < STRONG * flow.sum()).sum()) + 1
    strong = order[:enough][feature[order[:enough]]].tolist()
    chosen = random.sample(strong, min(count, len(strong)))
    others = []
    for number in chosen:
        taken = torch.tensor([number, *set(strong) - {number}, *others])
        others += _one_like(graph, number, taken, random)
    return chosen, others


def _one_like(graph: Traced, number: int, taken: Int[Tensor, " k"], random: Random) -> list[int]:
    """A feature like this one that is not taken; none where the layer has no other."""
    nodes = graph.nodes
    free = nodes.of(FEATURE) & (nodes.layer == nodes.layer[number]) & (nodes.part == nodes.part[number])
    free[taken] = False
    if not bool(free.any()):
        return []
    kept = torch.cat([free.nonzero()[:, 0], torch.tensor([number])])
    small = graph.nodes.select(kept)
    return [int(kept[each]) for each in matched(small, torch.tensor([len(kept) - 1]), random)]


def circuit_tried(bench: Bench, values: Tensor, draws: int, random: Random) -> Silenced | None:
    """Silence the strongest features together, and `draws` times random ones like them."""
    graph = bench.graph
    core = _core(graph)
    outcome = graph.nodes.of(LOGIT)[graph.rows]
    weights = graph.edges.weights[graph.rows[outcome]]
    if not core or not bool(weights.any()):
        return None

    def moved(group: list[int]) -> float:
        change = (bench.changed(torch.tensor(group), -1.0, "live") - values)[outcome].abs()
        return float(change @ weights / weights.sum())

    circuit = moved(core)
    others = tuple(moved(matched(graph.nodes, torch.tensor(core), random)) for _ in range(draws))
    as_much = sum(each >= circuit for each in others)
    return Silenced(len(core), circuit, others, (1 + as_much) / (1 + draws))


def _core(graph: Traced) -> list[int]:
    """The strongest features, at most a third of each layer's, so that there are others to match them."""
    feature, chosen = graph.nodes.of(FEATURE), []
    place = graph.nodes.layer * len(PARTS) + graph.nodes.part
    places, counts = place[feature].unique(return_counts=True)
    room = dict(zip(places.tolist(), (counts // 3).tolist(), strict=True))
    order = torch.where(feature, graph.influence, torch.full((), -1.0)).argsort(descending=True, stable=True)
    for number in order[: int(feature.sum())].tolist():
        if len(chosen) < CIRCUIT and room[here := int(place[number])] and float(graph.influence[number]) > 0:
            room[here] -= 1
            chosen.append(number)
    return chosen
