"""Minimal circuit: the fewest features that keep the outcome, found and tested in the real model.

Faithfulness of a set of features is how much of the outcome is left when all others are silenced:
`(v(set) - v(none)) / (v(all) - v(none))`, with v the outcome's value (Marks et al. 2024, "Sparse Feature Circuits").
The order is the graph's influence, the length a bisection, and then every feature that is not needed is dropped.
Random sets of the same size are the control. This module must not know how a graph is made.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, final

import torch

from glassworks.circuits.checks.measured import Bench
from glassworks.circuits.checks.statistics import known
from glassworks.circuits.nodes import FEATURE, LOGIT
from glassworks.circuits.traced import Traced
from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.models import Model

DRAWS = 10


@final
@dataclass(frozen=True)
class Minimal:
    """A circuit that is enough.

    Attributes:
        nodes: numbers of its features in the graph's table, the most influential first.
        faithfulness: of the circuit.
        target: what was asked for.
        features: how many features the graph has.
        whole: value of the outcome in the model as it is.
        none: its value with all features silenced.
        random: faithfulness of random sets of as many features of the same places.
        runs: how often the model ran.
    """

    nodes: tuple[int, ...]
    faithfulness: float
    target: float
    features: int
    whole: float
    none: float
    random: tuple[float, ...]
    runs: int

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return known(asdict(self))


def minimal(
    graph: Traced, model: Model, scope: Scope | None, target: float = 0.8, mode: str = "live", seed: int = 0
) -> Minimal:
    """Find a small set of features that keeps a share of the likeliest outcome.

    No feature of it can be left out without falling below the target. It need not be the smallest of all sets: to
    find that would take exponentially many runs.

    Args:
        graph: its features are the candidates, its influence their order.
        model: the real model.
        scope: its coders.
        target: the least faithfulness, 0 to 1.
        mode: `live`, or `attention frozen`.
        seed: draws the random sets.

    Raises:
        BadInput: a target outside 0 to 1, a graph without features, or an outcome that they do not raise.
    """
    if not 0 < target <= 1 or mode not in ("live", "attention frozen"):
        raise BadInput(f"A faithfulness is between 0 and 1, live or with attention frozen; got {target}, {mode!r}.")
    score = _Score(Bench(graph, model, scope), mode)
    if score.whole <= score.none:
        raise BadInput(
            f"Without features the outcome is {score.none:.3g}, with them {score.whole:.3g}: they do not raise it."
        )
    order = _order(graph)
    kept = order[: _enough(lambda count: score(order[:count]) >= target, len(order))]
    kept = _needed(kept, lambda some: score(some) >= target)
    random = Random(seed)
    others = tuple(score(_alike(graph, kept, random)) for _ in range(DRAWS))
    return Minimal(tuple(kept), score(kept), target, len(order), score.whole, score.none, others, score.runs)


@final
class _Score:
    """Faithfulness of a set of features, measured; every set once."""

    def __init__(self, bench: Bench, mode: str) -> None:
        graph = bench.graph
        weight = torch.where(graph.nodes.of(LOGIT), graph.edges.weights, torch.full((), -1.0))
        self._row = int((graph.rows == int(weight.argmax())).nonzero()[0])
        self._bench, self._mode = bench, mode
        self._all = graph.nodes.of(FEATURE).nonzero()[:, 0].tolist()
        if not self._all:
            raise BadInput("The graph has no features, so there is no circuit of them.")
        self._known: dict[frozenset[int], float] = {}
        self.runs = 1
        self.whole = float(bench.values()[self._row])
        self.none = self._value(frozenset())

    def __call__(self, kept: Sequence[int]) -> float:
        """How much of the outcome is left with all other features silenced."""
        return (self._value(frozenset(kept)) - self.none) / (self.whole - self.none)

    def _value(self, kept: frozenset[int]) -> float:
        silent = [each for each in self._all if each not in kept]
        if not silent:
            return self.whole
        if kept not in self._known:
            self.runs += 1
            self._known[kept] = float(self._bench.changed(torch.tensor(silent), -1.0, self._mode)[self._row])
        return self._known[kept]


def _order(graph: Traced) -> list[int]:
    """The features, the most influential first."""
    feature = graph.nodes.of(FEATURE)
    order = torch.where(feature, graph.influence, torch.full((), -1.0)).argsort(descending=True, stable=True)
    return order[: int(feature.sum())].tolist()


def _enough(holds: Callable[[int], bool], most: int) -> int:
    """The length at which a bisection ends: it holds there, and not one below. All of them always hold."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _needed(kept: list[int], holds: Callable[[list[int]], bool]) -> list[int]:
    """Drop, from the weakest, what is not needed: first in halves, then one by one, until every one is."""
    size = max(1, len(kept) // 2)
    while True:
        start, dropped = len(kept), False
        while start > 0 and len(kept) > 1:
            some = kept[: max(0, start - size)] + kept[start:]
            start -= size
            if some and holds(some):
                kept, dropped = some, True
        if size == 1 and not dropped:
            return kept
        size = max(1, size // 2)


def _alike(graph: Traced, kept: Sequence[int], random: Random) -> list[int]:
    """As many features of the same places, drawn from all of them: the circuit's own may be among them."""
    nodes, found = graph.nodes, []
    for layer, part in {(int(nodes.layer[each]), int(nodes.part[each])) for each in kept}:
        here = nodes.of(FEATURE) & (nodes.layer == layer) & (nodes.part == part)
        count = sum(bool(here[each]) for each in kept)
        found += random.sample(here.nonzero()[:, 0].tolist(), count)
    return found
