"""Check: does a graph add up, does it rebuild the model, and does it predict what edits of the real model do?

Exact laws decide whether a graph passes: conservation, replay, and direct effects with everything nonlinear frozen.
How well the frozen graph predicts a model that is live is a measurement, reported with its interval and its controls.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from random import Random
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks import stats
from glassworks.circuits.bench import FROZEN, Bench, Replay
from glassworks.circuits.nodes import ATTENTION, EMBEDDING, ERROR, FEATURE, LOGIT, PARTS
from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.pages import findings
from glassworks.stats import Correlation

if TYPE_CHECKING:
    from glassworks.circuits.graph import Graph
else:
    Graph = Any  # graphs call this module; only their type is needed here

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest relative residual of a row, by number type of the model; `ROUGH` for narrower ones."""
ROUGH = 5e-2
MEAN = 0.1  # of the tolerance: what the residuals may be on the average
MOST_DRAWS = 20  # random circuits beside the circuit
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
        shuffled: 97.5 % quantile of the correlation when the predictions of the circuit's features are permuted
            among them: what chance reaches.
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


@final
@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        residual: largest relative residual of a row whose sum is compared with the value measured now; NaN where
            the graph comes from another program, whose files hold no biases.
        mean: mean residual.
        traced: largest residual as it was when the graph was traced.
        stale: largest difference of a target's value then and now, relative to its row's size.
        replay: features, errors and biases put together in the model; None where the graph is a part.
        direct: single edges; None where all are approximate.
        effects: by mode, how well all paths predict.
        silenced: the circuit and random circuits; None where there are too few features.
        tolerance: what was allowed.
        failures: what is wrong, one sentence each.
    """

    residual: float
    mean: float
    traced: float
    stale: float
    replay: Replay | None
    direct: Direct | None
    effects: dict[str, Effects]
    silenced: Silenced | None
    tolerance: float
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all exact laws hold."""
        return not self.failures

    def __rich__(self) -> Any:
        edges, replay, circuit = self.direct, self.replay, self.silenced
        known = isfinite(self.residual)
        lines = [("Rows", f"add up to within {self.residual:.0e}" if known else "of another program, without biases")]
        if edges is not None:
            sources = ", ".join(f"{count} {kind}s" for kind, count in edges.sources.items())
            differ = f"the frozen model differs by {edges.worst:.0e} of a row at the most"
            lines.append(("Edges", f"{edges.pairs:,} of {sources}: {differ}"))
        if replay is not None:
            text = (
                f"features, errors and biases rebuild the logits to within {replay.logits:.0e}; leaving the errors out "
            )
            text += f"{'keeps' if replay.agrees else 'changes'} the first token (KL {replay.divergence:.3f})"
            lines.append(("Replay", text))
        for mode, effects in self.effects.items():
            text = (
                f"outcomes r {effects.outcomes}, chance up to {effects.shuffled:.2f}; features r {effects.features}; "
            )
            lines.append((f"Predicted, {mode}", f"{text}random features' outcomes r {effects.random}"))
        if circuit is not None:
            mean, most = sum(circuit.random) / len(circuit.random), max(circuit.random)
            text = (
                f"{circuit.size} strongest features move the outcomes by {circuit.circuit:.3g}; as many random ones by "
            )
            lines.append(("Silenced", f"{text}{mean:.3g}, {most:.3g} at the most (p {circuit.p:.2f})"))
        lines += [("Wrong", failure) for failure in self.failures]
        return findings([*lines, ("Passed", "yes" if self.passed else "no")])

    def plain(self) -> dict[str, Any]:
        """The findings as JSON holds them: what is not known is null."""
        return json_values(asdict(self) | {"passed": self.passed})


def json_values(value: Any) -> Any:
    """A nest of dictionaries and lists with null for every number that is not finite, as JSON requires."""
    if isinstance(value, dict):
        return {name: json_values(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def check(graph: Graph, model: Model, scope: Scope | None, interventions: int = 32, seed: int = 0) -> Check:
    """Check a graph against its model; see `Check`.

    Args:
        graph: what is checked.
        model: the model that it explains.
        scope: the scope that it was traced with.
        interventions: how many features are silenced in each mode, half of them of the circuit, half of them
            random; and how many sources are changed for direct edges.
        seed: of all draws.

    Raises:
        BadInput: the model or the scope cannot be those of the graph, or there is nothing to draw.
    """
    if interventions < 4:
        raise BadInput(f"{interventions} interventions prove nothing; ask for 4 or more.")
    bench, random = Bench(graph, model, scope), Random(seed)
    values, sizes = bench.values(), _sizes(graph)
    known, whole = graph.values.isfinite(), not bool(graph.rest_size.any())
    left = graph.matrix.sum(1) + graph.bias + graph.rest - values
    residual = (left.abs() / sizes)[known]

    def worst(values: Float[Tensor, " t"]) -> float:
        finite = values[values.isfinite()]
        return float(finite.max()) if len(finite) else torch.nan

    findings: dict[str, Any] = {
        "residual": worst(residual),
        "mean": float(residual.mean()),
        "traced": worst(graph.conservation),
        "stale": worst((graph.values - values).abs() / sizes),
        "replay": bench.replay() if whole and bool(known.any()) else None,
        "direct": check_edges(bench, values, interventions, random, whole),
        "effects": check_paths(bench, values, interventions, random, seed),
        "silenced": check_circuit(bench, values, min(interventions, MOST_DRAWS), random),
        "tolerance": TOLERANCE.get(model.dtype, ROUGH),
    }
    return Check(**findings, failures=tuple(_failures(Check(**findings))))


def _sizes(graph: Graph) -> Float[Tensor, " t"]:
    """What differences of each target are measured against: the size of its inputs."""
    return (graph.edges.sizes() + graph.bias.abs()).clamp(min=1e-6)


def _failures(check: Check) -> list[str]:
    """One sentence for each law that is broken; a comparison with an unknown value (NaN) is false."""
    allowed, edges, replay = check.tolerance, check.direct, check.replay
    laws = [
        (
            check.residual > allowed or check.mean > MEAN * allowed,
            f"The rows do not add up: a residual is {check.residual:.1e} (mean {check.mean:.1e}), "
            f"allowed are {allowed:.0e} and {MEAN * allowed:.0e}.",
        ),
        (
            check.traced > allowed,
            f"The rows did not add up when the graph was traced: a residual is {check.traced:.1e}.",
        ),
        (
            check.stale > allowed,
            f"The model gives other values than the graph: {check.stale:.1e} of a row's size.",
        ),
    ]
    if edges is not None:
        text = f"Edges from {edges.kind} nodes are wrong: the model moves {edges.worst:.1e} of a row's size otherwise."
        laws.append((edges.worst > allowed, text))
    if replay is not None:
        text = f"The graph lacks {replay.missing} active features and has {replay.strange} that are silent."
        laws.append((bool(replay.missing or replay.strange), text))
        text = f"Activations differ from the coders' by {replay.activations:.1e}."
        laws.append((replay.activations > 10 * allowed, text))
        text = f"Features, errors and biases do not rebuild the logits: {replay.logits:.1e} off."
        laws.append((replay.logits > allowed, text))
    return [sentence for broken, sentence in laws if broken]


# What the graph predicts.


def changes(graph: Graph, groups: Sequence[Int[Tensor, " _"]], factor: float) -> Float[Tensor, "group source"]:
    """Relative changes of sources: `factor` times its own size more of each source of a group; -1 silences it."""
    rows = torch.zeros(len(groups), graph.matrix.shape[1])
    for row, group in zip(rows, groups, strict=True):
        row[group] = factor
    return rows


def direct(graph: Graph, change: Float[Tensor, "group source"]) -> Float[Tensor, "group t"]:
    """How every target moves by its direct edges alone: everything nonlinear frozen, other features silent."""
    return change @ graph.matrix.T


def total(graph: Graph, change: Float[Tensor, "group source"]) -> Float[Tensor, "group t"]:
    """How every target moves by all paths: features that are moved pass it on, in proportion to their activation.

    One forward substitution by layers. Attention patterns, norm scales and errors count as constant, and an active
    feature as linear, down to silence; a feature that is changed itself keeps its change; one without a
    row, without a known activation, or silent on the prompt passes nothing on.

    Args:
        graph: the graph.
        change: relative change of each source, see `changes`.
    """
    moved = change.clone()
    held = change != 0
    effects = change.new_zeros(len(change), len(graph.rows))
    feature, activation = graph.nodes.of(FEATURE), graph.nodes.activation
    for level in graph.edges.levels.unique(sorted=True).tolist():
        rows = (graph.edges.levels == level).nonzero()[:, 0]
        effects[:, rows] = moved @ graph.matrix[rows].T
        passing = rows[feature[graph.rows[rows]]]
        nodes = graph.rows[passing]
        share = (effects[:, passing] / activation[nodes]).clamp(min=-1).nan_to_num(0.0)
        moved[:, nodes] = torch.where(held[:, nodes], moved[:, nodes], share)
    return effects


# What the real model does.


def check_edges(bench: Bench, values: Tensor, interventions: int, random: Random, whole: bool) -> Direct | None:
    """Change sources of every kind in the real frozen model, one by one, beside the graph's single edges.

    Args:
        bench: graph and model.
        values: the targets as they are.
        interventions: how many features; a fourth as many errors, and embeddings.
        random: draws them.
        whole: whether an edge that the graph lacks is 0, and not merely pruned.
    """
    graph, chosen = bench.graph, dict[str, list[int]]()
    nodes = graph.nodes.select(graph.rows)
    # The frozen model does not show edges that pass a Jacobian, or that read an attention layer that is a source.
    exact = ~(nodes.of(FEATURE) & (nodes.part == ATTENTION))
    if graph.origin.facts.get("approximate"):
        exact = graph.values.isfinite()
    for kind, most in ((FEATURE, interventions), (ERROR, interventions // 4), (EMBEDDING, interventions // 4)):
        numbers = graph.nodes.of(kind).nonzero()[:, 0]
        numbers = numbers[graph.matrix[exact][:, numbers].any(0)].tolist()
        chosen[kind] = random.sample(numbers, min(most, len(numbers)))
    groups = [torch.tensor([number]) for numbers in chosen.values() for number in numbers]
    if not groups:
        return None
    predicted = direct(graph, changes(graph, groups, 1.0))[:, exact]
    measured = torch.stack([(bench.changed(group, TIMES, "direct") - values)[exact] / TIMES for group in groups])
    sizes, tested = _sizes(graph)[exact], predicted != 0
    miss = ((measured - predicted).abs() / sizes).masked_fill(~(tested | whole), 0).max(1).values
    kinds = [kind for kind, numbers in chosen.items() for _ in numbers]
    cluster = torch.arange(len(groups))[:, None].expand_as(predicted)
    return Direct(
        sources={kind: len(numbers) for kind, numbers in chosen.items()},
        pairs=int(tested.sum()),
        worst=float(miss.max()),
        kind=kinds[int(miss.argmax())],
        correlation=stats.correlation((predicted / sizes)[tested], (measured / sizes)[tested], cluster[tested]),
    )


def check_paths(bench: Bench, values: Tensor, interventions: int, random: Random, seed: int) -> dict[str, Effects]:
    """Silence single features in every mode but the direct one, and compare with all paths of the graph.

    Args:
        bench: graph and model.
        values: the targets as they are.
        interventions: how many features: half of the circuit, half of them random others.
        random: draws them.
        seed: of the intervals.
    """
    graph, sizes = bench.graph, _sizes(bench.graph)
    circuit, others = _circuit_and_matched(graph, interventions // 2, random)
    if len(circuit) < 2:
        return {}
    groups, mine = [torch.tensor([number]) for number in [*circuit, *others]], slice(0, len(circuit))
    predicted = total(graph, changes(graph, groups, -1.0))
    outcome = graph.nodes.of(LOGIT)[graph.rows]
    above = ~outcome & (predicted != 0)[mine].any(0)
    number = torch.arange(len(groups))[:, None].expand_as(predicted)

    def correlate(x: Tensor, y: Tensor, rows: slice, columns: Tensor) -> Correlation:
        first, second, cluster = (table[rows][:, columns].flatten() for table in (x, y, number))
        return stats.correlation(first, second, cluster, seed)

    effects = {}
    for mode in list(FROZEN)[1:]:
        measured = torch.stack([bench.changed(group, -1.0, mode) - values for group in groups])
        generator, chance = torch.Generator().manual_seed(seed), []
        x, y = predicted[mine, outcome], measured[mine, outcome].flatten()
        for _ in range(SHUFFLES):
            order = torch.randperm(len(x), generator=generator)
            chance.append(torch.corrcoef(torch.stack([x[order].flatten(), y]).double())[0, 1])
        effects[mode] = Effects(
            outcomes=correlate(predicted, measured, mine, outcome),
            features=correlate(predicted / sizes, measured / sizes, mine, above),
            random=correlate(predicted, measured, slice(len(circuit), None), outcome),
            shuffled=float(torch.stack(chance).nan_to_num(0.0).quantile(0.975)),
        )
    return effects


def _circuit_and_matched(graph: Graph, count: int, random: Random) -> tuple[list[int], list[int]]:
    """Features of the circuit, which carry most of the features' influence, and a matched other one for each."""
    nodes, feature = graph.nodes, graph.nodes.of(FEATURE)
    flow = torch.where(feature, graph.influence, torch.zeros(()))
    order = flow.argsort(descending=True, stable=True)
    enough = int((flow[order].cumsum(0) < STRONG * flow.sum()).sum()) + 1
    strong = order[:enough][feature[order[:enough]]].tolist()
    circuit, others = random.sample(strong, min(count, len(strong))), []
    for number in circuit:
        free = feature & (nodes.layer == nodes.layer[number]) & (nodes.part == nodes.part[number])
        free[[number, *strong, *others]] = False
        if bool(free.any()):  # a layer may have no other feature
            numbers = torch.cat([free.nonzero()[:, 0], torch.tensor([number])])
            (match,) = nodes.select(numbers).matched(torch.tensor([len(numbers) - 1]), random)
            others.append(int(numbers[match]))
    return circuit, others


def check_circuit(bench: Bench, values: Tensor, draws: int, random: Random) -> Silenced | None:
    """Silence the strongest features together, and `draws` times random ones like them."""
    graph, nodes = bench.graph, bench.graph.nodes
    outcome = nodes.of(LOGIT)[graph.rows]
    weights = graph.edges.weights[graph.rows[outcome]]
    place = nodes.layer * len(PARTS) + nodes.part
    places, counts = place[nodes.of(FEATURE)].unique(return_counts=True)
    room = dict(zip(places.tolist(), (counts // 3).tolist(), strict=True))  # leaves others to match them
    circuit: list[int] = []
    for number in graph.ranked_features:
        if len(circuit) < CIRCUIT and room[here := int(place[number])] and float(graph.influence[number]) > 0:
            room[here] -= 1
            circuit.append(number)
    if not circuit or not bool(weights.any()):
        return None

    def effect(group: list[int]) -> float:
        change = (bench.changed(torch.tensor(group), -1.0, "live") - values)[outcome].abs()
        return float(change @ weights / weights.sum())

    moved = effect(circuit)
    others = tuple(effect(nodes.matched(torch.tensor(circuit), random)) for _ in range(draws))
    return Silenced(len(circuit), moved, others, stats.permutation_p(moved, others))
