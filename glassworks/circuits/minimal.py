"""Minimal circuit: the fewest features that keep the outcome, found and tested in the real model.

Faithfulness of a set of features is how much of the outcome is left when all others are silenced:
`(v(set) - v(none)) / (v(all) - v(none))`, with v the outcome's value (Marks et al. 2024, "Sparse Feature Circuits").
The order is the graph's influence, the length a bisection, and then every feature that is not needed is dropped.
Random sets of the same size are the control.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any, final

import torch

from glassworks.circuits.bench import Bench
from glassworks.circuits.check import json_values
from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.models import Model

if TYPE_CHECKING:
    from glassworks.circuits.graph import Graph
else:
    Graph = Any  # graphs call this module; only their type is needed here

DRAWS = 10


@final
@dataclass(frozen=True)
class Minimal:
    """A circuit that is sufficient.

    Attributes:
        nodes: numbers of its features in the graph's table, the most influential first.
        faithfulness: of the circuit.
        target: the faithfulness that was required.
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

    def __str__(self) -> str:
        mean = sum(self.random) / len(self.random)
        kept = f"{len(self.nodes)} of {self.features} features keep {self.faithfulness:.0%} of the outcome"
        return f"{kept}; as many random ones {mean:.0%}."

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return json_values(asdict(self))


def minimal(
    graph: Graph, model: Model, scope: Scope | None, target: float = 0.8, mode: str = "live", seed: int = 0
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
    bench, order = Bench(graph, model, scope), graph.ranked_features
    row = int((graph.rows == graph.best).nonzero()[0])
    if not order:
        raise BadInput("The graph has no features, so there is no circuit of them.")
    whole = float(bench.values()[row])
    measured: dict[frozenset[int], float] = {}

    def value(kept: Sequence[int]) -> float:
        """The outcome with all other features silenced; every set is measured once."""
        silent = [number for number in sorted(order) if number not in set(kept)]
        if not silent:
            return whole
        key = frozenset(kept)
        if key not in measured:
            measured[key] = float(bench.changed(torch.tensor(silent), -1.0, mode)[row])
        return measured[key]

    none = value([])
    if whole <= none:
        raise BadInput(f"Without features the outcome is {none:.3g}, with them {whole:.3g}: they do not raise it.")

    def score(kept: Sequence[int]) -> float:
        return (value(kept) - none) / (whole - none)

    kept = smallest(order, lambda some: score(some) >= target)
    random, sets = Random(seed), []
    for _ in range(DRAWS):
        some: list[int] = []
        for here in graph.nodes.places().values():
            count = sum(bool(here[number]) for number in kept)
            some += random.sample(here.nonzero()[:, 0].tolist(), count)
        sets.append(score(some))
    return Minimal(tuple(kept), score(kept), target, len(order), whole, none, tuple(sets), len(measured) + 1)


def smallest(items: Sequence[int], holds: Callable[[list[int]], bool]) -> list[int]:
    """The first items for which something holds, found by bisection, without those that are not needed.

    Args:
        items: the most important first; it holds for all of them.
        holds: whether it holds for some of them.
    """
    low, high = 0, len(items)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds([*items[:middle]]) else (middle, high)
    kept = [*items[:high]]
    size = max(1, len(kept) // 2)
    while True:  # drop from the weakest, first in halves, then one by one, until every one is needed
        start, dropped = len(kept), False
        while start > 0 and len(kept) > 1:
            some = kept[: max(0, start - size)] + kept[start:]
            start -= size
            if some and holds(some):
                kept, dropped = some, True
        if size == 1 and not dropped:
            return kept
        size = max(1, size // 2)
