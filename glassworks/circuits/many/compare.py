"""Compare graphs: what two of them have in common, and whether paraphrases are explained alike.

Two prompts, a base model and its instruct version, or two sizes: features are matched by number where the coders are
the same, else by their labels. This module must not know how graphs are made.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.checks.statistics import known, mean_interval
from glassworks.circuits.graph import Graph
from glassworks.circuits.many.keys import Keys, flows, keyed, links
from glassworks.errors import BadInput

CHANGES = 200
SHUFFLES = 1000


@final
@dataclass(frozen=True)
class Change:
    """A node or an edge of two graphs.

    Attributes:
        name: label, or place and latent; of an edge `source -> target`.
        kind: of node, or `edge`.
        first: influence on the outcomes in the first graph; of an edge the signed part of it that the edge carries.
        second: the same in the second graph.
    """

    name: str
    kind: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@final
@dataclass(frozen=True)
class Difference:
    """How two graphs differ.

    Attributes:
        similarity: weighted Jaccard index of the features' influence: 1 for the same, 0 for nothing in common.
        tokens: the same of the tokens' influence, matched by token.
        edges: cosine of what the edges carry, signed.
        nodes: the nodes that differ most, largest first.
        links: the edges that differ most.
    """

    similarity: float
    tokens: float
    edges: float
    nodes: tuple[Change, ...]
    links: tuple[Change, ...]

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return known(asdict(self))


def compare(first: Graph, second: Graph, by: str = "feature") -> Difference:
    """Tell how two graphs differ, over everything that they hold; prune them first, or leave them whole.

    Args:
        first: a graph.
        second: another.
        by: `feature` where their coders are the same, `label` where they are not.

    Raises:
        BadInput: graphs of different coders matched by feature.
    """
    graphs = (first, second)
    keys = keyed(graphs, by)
    a, b = (flows(graph, codes, len(keys)) for graph, codes in zip(graphs, keys.of, strict=True))
    edges, carried = _carried(graphs, keys)
    nodes = [Change(keys.names[each], keys.kinds[each], float(a[each]), float(b[each])) for each in range(len(keys))]
    named = [
        Change(_edge(keys, int(each)), "edge", *pair) for each, pair in zip(edges, carried.T.tolist(), strict=True)
    ]
    return Difference(
        similarity=jaccard(a, b, keys, "feature"),
        tokens=jaccard(a, b, keys, "embedding"),
        edges=_cosine(*carried),
        nodes=_largest(nodes),
        links=_largest(named),
    )


def jaccard(a: Float[Tensor, " key"], b: Float[Tensor, " key"], keys: Keys, kind: str) -> float:
    """Weighted Jaccard index of one kind of nodes: sum of the minima over sum of the maxima; 1 where both are empty."""
    mine = torch.tensor([each == kind for each in keys.kinds])
    smaller, larger = torch.minimum(a, b)[mine].sum(), torch.maximum(a, b)[mine].sum()
    return float(smaller / larger) if larger > 0 else 1.0


def _carried(graphs: Sequence[Graph], keys: Keys) -> tuple[Tensor, Float[Tensor, "2 edge"]]:
    parts = [links(graph, codes, len(keys)) for graph, codes in zip(graphs, keys.of, strict=True)]
    numbers = torch.cat([part[0] for part in parts]).unique()
    found = torch.zeros(len(parts), len(numbers))
    for row, (mine, _, _, carried) in zip(found, parts, strict=True):
        row[torch.searchsorted(numbers, mine)] = carried
    return numbers, found


def _edge(keys: Keys, number: int) -> str:
    return f"{keys.names[number % len(keys)]} -> {keys.names[number // len(keys)]}"


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    size = a.norm() * b.norm()
    return float(a @ b / size) if size > 0 else 1.0


def _largest(changes: list[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda each: -abs(each.difference))[:CHANGES])


@final
@dataclass(frozen=True)
class Stability:
    """Whether prompts that say the same are explained alike.

    Attributes:
        within: mean similarity of two paraphrases, with its interval over the sets.
        between: mean similarity of prompts of different sets, with its interval over the sets.
        p: share of random regroupings, the true one counted among them, in which paraphrases are as much more alike.
        sets: for each set, its prompts and its mean similarity within and to others.
    """

    within: tuple[float, float, float]
    between: tuple[float, float, float]
    p: float
    sets: tuple[dict[str, Any], ...]

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return known(asdict(self))


def stability(sets: Sequence[Sequence[Graph]], seed: int = 0) -> Stability:
    """Compare graphs of paraphrases with those of other prompts.

    The control is the similarity between sets, and chance a permutation test: prompts are dealt out to the sets anew.

    Args:
        sets: several sets of graphs, each of prompts that say the same.
        seed: of the permutations.

    Raises:
        BadInput: fewer than two sets, or a set of fewer than two graphs.
    """
    if len(sets) < 2 or min(map(len, sets)) < 2:
        raise BadInput(f"Stability needs two sets of two paraphrases at least; got sets of {[*map(len, sets)]}.")
    graphs = [graph for each in sets for graph in each]
    alike = similarities(graphs)
    home = torch.tensor([number for number, each in enumerate(sets) for _ in each])
    random = Random(seed)
    gap = _gap(alike, home)
    shuffled = [_gap(alike, home[torch.tensor(random.sample(range(len(home)), len(home)))]) for _ in range(SHUFFLES)]
    rows = [_one(alike, home, number) for number in range(len(sets))]
    told = [
        {"prompts": [graph.prompt for graph in each], "within": within, "between": between}
        for each, (within, between) in zip(sets, rows, strict=True)
    ]
    within, between = (mean_interval(torch.tensor(column), seed) for column in zip(*rows, strict=True))
    p = (1 + sum(each >= gap for each in shuffled)) / (1 + SHUFFLES)
    return Stability(within, between, p, tuple(told))


def similarities(graphs: Sequence[Graph]) -> Float[Tensor, "graph graph"]:
    """Similarity of every pair of graphs: weighted Jaccard index of their features' influence."""
    keys = keyed(graphs)
    found = [flows(graph, codes, len(keys)) for graph, codes in zip(graphs, keys.of, strict=True)]
    return torch.tensor([[jaccard(a, b, keys, "feature") for b in found] for a in found])


def _gap(alike: Tensor, home: Tensor) -> float:
    same = home[:, None] == home
    other = ~torch.eye(len(home), dtype=torch.bool)
    return float(alike[same & other].mean() - alike[~same].mean())


def _one(alike: Tensor, home: Tensor, number: int) -> tuple[float, float]:
    mine = home == number
    block, count = alike[mine][:, mine], int(mine.sum())
    within = (block.sum() - block.diagonal().sum()) / (count * (count - 1))
    return float(within), float(alike[mine][:, ~mine].mean())
