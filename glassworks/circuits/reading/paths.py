"""Reading a graph: groups of features proposed from their labels, and the strongest paths through them, in words.

A path's weight is the product of signed input shares along its edges (`A[t, s] / sum |A[t, .]|`), summed over all
ways through the groups that it names. Weak features are not named: what flows through them counts for the path
that it belongs to, so the weights of all paths together are the embeddings' part of the outcome. Products shrink
with every step, so paths are ranked by the geometric mean of their steps: a long path with strong links tells more
of the story than a short one. This module must not know how a graph is made.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.circuits.nodes import EMBEDDING, FEATURE, Node, Nodes
from glassworks.circuits.scores import Edges

SHARED = 0.5  # share of the shorter label's words that two labels have in common where they mean the same
STRONG = 0.02  # share of the outcome that must flow through a group to be named, the first few groups apart
FEWEST, MOST = 8, 32  # how many groups are named
BEAM = 64

Groups = list[tuple[str, list[int]]]
Chain = tuple[tuple[int, ...], list[float]]  # stations, upwards, and the flow that arrives at each, downwards


@final
@dataclass(frozen=True)
class Step:
    """One station of a path.

    Attributes:
        name: the token's text, or the label of the group's most influential feature.
        kind: embedding, feature or logit.
        layer: of the group; -1 for an embedding.
        position: place in the prompt.
        token: the token there.
        nodes: numbers of the group's nodes.
    """

    name: str
    kind: str
    layer: int
    position: int
    token: str
    nodes: tuple[int, ...]


@final
@dataclass(frozen=True)
class Path:
    """A path from an embedding to an outcome.

    Attributes:
        steps: its stations, upwards.
        inhibits: whether each step lowers the next one.
        weight: signed share of the outcome's input that takes this path.
    """

    steps: tuple[Step, ...]
    inhibits: tuple[bool, ...]
    weight: float

    @property
    def strength(self) -> float:
        """Geometric mean of the shares along its steps, 0 to 1."""
        return abs(self.weight) ** (1 / len(self.inhibits))

    def __str__(self) -> str:
        arrows = [" -| " if each else " -> " for each in self.inhibits]
        told = [_words(step) for step in self.steps]
        return "".join(word + arrow for word, arrow in zip(told, [*arrows, ""], strict=True))

    def plain(self) -> dict[str, Any]:
        """The path as JSON values, with its text."""
        return asdict(self) | {"strength": self.strength, "text": str(self)}


def propose(nodes: Nodes, influence: Float[Tensor, " n"]) -> Groups:
    """Group features of the same layer and position whose labels share words; the most influential group first.

    Args:
        nodes: the node table.
        influence: of every node.

    Returns:
        Name and node numbers of each group; a feature without such a neighbour is a group of its own.
    """
    groups: Groups = []
    cells: dict[tuple[int, int], list[tuple[set[str], list[int]]]] = {}
    table = list(nodes)
    for number in influence.argsort(descending=True, stable=True).tolist():
        node = table[number]
        if node.kind != FEATURE:
            continue
        mine = words(node.label)
        cell = cells.setdefault((node.layer, node.position), [])
        like = next((members for others, members in cell if alike(mine, others)), None)
        if like is None:
            like = []
            cell.append((mine, like))
            groups.append((_name(node), like))
        like.append(number)
    return sorted(groups, key=lambda group: -float(influence[group[1]].sum()))


def words(label: str) -> set[str]:
    """The words that a label lists."""
    return {word.strip() for word in re.split(r",|->|~>|\.\.", label) if word.strip()}


def alike(mine: set[str], others: set[str]) -> bool:
    """Whether labels of these words mean the same: two words at least, and half of the shorter label's."""
    shared = len(mine & others)
    return shared >= 2 and shared >= SHARED * min(len(mine), len(others))


def strongest(nodes: Nodes, edges: Edges, influence: Float[Tensor, " n"], k: int) -> list[Path]:
    """Find the strongest paths from embeddings through groups of features to the likeliest outcome.

    Args:
        nodes: the node table.
        edges: the graph's edges.
        influence: of every node.
        k: how many paths.

    Returns:
        The k strongest paths, raising or lowering the outcome; first those that raise it. Of paths that differ in
        one station alone only the strongest is told, and those through no named feature only where there are no
        others.
    """
    named = stations(nodes, edges, influence)
    embeddings = nodes.of(EMBEDDING).nonzero()[:, 0].tolist()
    ends = [[each] for each in embeddings] + named
    outcome = int(edges.weights.argmax())
    chosen = torch.tensor([outcome, *(number for members in named for number in members)])
    through = _through_weak(edges, chosen, nodes.of(FEATURE))
    found = _search(ends, len(embeddings), through, outcome)
    found = [each for each in found if len(each[0]) > 1] or found
    best = _different(sorted(found, key=_strength, reverse=True), k)
    best.sort(key=lambda each: (each[1][-1] < 0, -_strength(each)))
    return [_path(nodes, [*(ends[each] for each in chain), [outcome]], flows) for chain, flows in best]


def stations(nodes: Nodes, edges: Edges, influence: Float[Tensor, " n"]) -> list[list[int]]:
    """The groups of features that paths name: those that carry most, as node numbers."""
    groups = [members for _, members in propose(nodes, influence)]
    least = STRONG * float(edges.weights.sum())
    strong = [members for members in groups if float(influence[members].sum()) >= least]
    return groups[: min(max(len(strong), FEWEST), MOST)]


def _through_weak(
    edges: Edges, chosen: Int[Tensor, " c"], feature: Bool[Tensor, " n"]
) -> dict[int, Float[Tensor, " source"]]:
    """Signed input shares of the chosen nodes, with all other features eliminated: what they pass on is added."""
    weak = feature.clone()
    weak[chosen] = False
    share = edges.matrix / edges.sizes()[:, None]
    flow = share[torch.searchsorted(edges.rows, chosen)]
    for level in reversed(edges.levels.unique().tolist()):
        rows = ((edges.levels == level) & weak[edges.rows]).nonzero()[:, 0]
        passing = flow[:, edges.rows[rows]] if len(rows) else None
        if passing is not None:
            flow[:, edges.rows[rows]] = 0
            flow += passing @ share[rows]
    return dict(zip(chosen.tolist(), flow, strict=True))


def _strength(found: Chain) -> float:
    return abs(found[1][-1]) ** (1 / len(found[1]))


def _different(found: Sequence[Chain], k: int) -> list[Chain]:
    """The first k chains of which no two differ in one station alone."""
    kept: list[Chain] = []
    for each in found:
        if len(kept) == k:
            break
        twins = (other for other, _ in kept if len(other) == len(each[0]))
        if all(sum(a != b for a, b in zip(each[0], other, strict=True)) > 1 for other in twins):
            kept.append(each)
    return kept


def _search(stations: Sequence[list[int]], embeddings: int, through: dict[int, Tensor], outcome: int) -> list[Chain]:
    """Chains of stations that start at an embedding, with the flow that arrives at each, the outcome's side first."""
    found: list[Chain] = []
    states: list[tuple[tuple[int, ...], list[float], Tensor]] = [((), [], through[outcome])]
    while states:
        longer = []
        for chain, flows, flow in states:
            for number, members in enumerate(stations):
                part = flow[members]
                if not bool(part.any()):
                    continue
                step = ((number, *chain), [*flows, float(part.sum())])
                if number < embeddings:
                    found.append(step)
                else:
                    below = part @ torch.stack([through[member] for member in members])
                    longer.append((*step, below))
        longer.sort(key=lambda state: -float(state[2].abs().sum()))
        states = longer[:BEAM]
    return found


def _path(nodes: Nodes, groups: Sequence[Sequence[int]], flows: Sequence[float]) -> Path:
    embedding = nodes.of(EMBEDDING)
    tokens = {int(nodes.position[each]): nodes.labels[each] for each in embedding.nonzero()[:, 0].tolist()}
    heads = [nodes[group[0]] for group in groups]
    steps = tuple(
        Step(_name(node), node.kind, node.layer, node.position, tokens.get(node.position, ""), tuple(group))
        for node, group in zip(heads, groups, strict=True)
    )
    signs = [1.0, *flows]
    inhibits = [signs[each] * signs[each + 1] < 0 for each in range(len(flows))]
    return Path(steps, tuple(reversed(inhibits)), flows[-1])


def _name(node: Node) -> str:
    return node.label or f"feature {node.index}"


def _words(step: Step) -> str:
    if step.kind != FEATURE:
        return repr(step.name)
    more = f", {len(step.nodes)} features" if len(step.nodes) > 1 else ""
    return f"[{step.name} (layer {step.layer} at {step.token!r}{more})]"
