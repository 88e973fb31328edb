"""Reading a graph: groups of features proposed from their labels, the strongest paths through them, and a summary.

A path's weight is the product of signed input shares along its edges (`A[t, s] / sum |A[t, .]|`), summed over all
ways through the groups that it names. Weak features are not named: what flows through them counts for the path
that it belongs to, so the weights of all paths together are the embeddings' part of the outcome. Products shrink
with every step, so paths are ranked by the geometric mean of their steps: a long path with strong links explains more
than a short one.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, LOGIT, Node, Nodes
from glassworks.circuits.scores import Edges

if TYPE_CHECKING:
    from glassworks.circuits.graph import Graph
else:
    Graph = Any  # graphs call this module; only their type is needed here

SHARED = 0.5  # share of the shorter label's words that two labels have in common where they mean the same
STRONG = 0.02  # share of the outcome that must flow through a group to be named, the first few groups apart
FEWEST, MOST = 8, 32  # how many groups are named
BEAM = 64
GROUPS, TOKENS, PATHS = 6, 4, 4  # how many of each a summary names
SMALL = 0.01  # share of the influence below which a summary is silent

Groups = list[tuple[str, list[int]]]
Chain = tuple[tuple[int, ...], list[float]]  # groups, upwards, and the flow that arrives at each, downwards


@final
@dataclass(frozen=True)
class Step:
    """One node or group of nodes on a path.

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

    def __str__(self) -> str:
        if self.kind != FEATURE:
            return repr(self.name)
        more = f", {len(self.nodes)} features" if len(self.nodes) > 1 else ""
        return f"[{self.name} (layer {self.layer} at {self.token!r}{more})]"


@final
@dataclass(frozen=True)
class Path:
    """A path from an embedding to an outcome.

    Attributes:
        steps: what it passes, upwards.
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
        arrows = [" -| " if inhibits else " -> " for inhibits in self.inhibits]
        return "".join(f"{step}{arrow}" for step, arrow in zip(self.steps, [*arrows, ""], strict=True))

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
        group = next((same for others, same in cell if alike(mine, others)), None)
        if group is None:
            group = []
            cell.append((mine, group))
            groups.append((_name(node), group))
        group.append(number)
    return sorted(groups, key=lambda group: -float(influence[group[1]].sum()))


def words(label: str) -> set[str]:
    """The words that a label lists."""
    return {word.strip() for word in re.split(r",|->|~>|\.\.", label) if word.strip()}


def alike(mine: set[str], others: set[str]) -> bool:
    """Whether labels of these words mean the same: two words at least, and half of the shorter label's."""
    shared = len(mine & others)
    return shared >= 2 and shared >= SHARED * min(len(mine), len(others))


def _name(node: Node) -> str:
    return node.label or f"feature {node.index}"


def named_groups(nodes: Nodes, edges: Edges, influence: Float[Tensor, " n"]) -> list[list[int]]:
    """The groups of features that paths name: those that carry most, as node numbers."""
    groups = [group for _, group in propose(nodes, influence)]
    least = STRONG * float(edges.weights.sum())
    strong = [group for group in groups if float(influence[group].sum()) >= least]
    return groups[: min(max(len(strong), FEWEST), MOST)]


def strongest(nodes: Nodes, edges: Edges, influence: Float[Tensor, " n"], k: int) -> list[Path]:
    """Find the strongest paths from embeddings through groups of features to the likeliest outcome.

    Args:
        nodes: the node table.
        edges: the graph's edges.
        influence: of every node.
        k: how many paths.

    Returns:
        The k strongest paths, raising or lowering the outcome; first those that raise it. Of paths that differ in
        one group alone only the strongest is kept, and those through no named feature only where there are no
        others.
    """
    embeddings, named = nodes.numbers(EMBEDDING), named_groups(nodes, edges, influence)
    ends, outcome = [[number] for number in embeddings] + named, int(edges.weights.argmax())
    chosen = torch.tensor([outcome, *(number for group in named for number in group)])

    # Signed input shares of the chosen nodes, with all other features eliminated: what they pass on is added.
    weak, share = nodes.of(FEATURE), edges.matrix / edges.sizes()[:, None]
    weak[chosen] = False
    flow = share[torch.searchsorted(edges.rows, chosen)]
    for level in reversed(edges.levels.unique().tolist()):
        rows = ((edges.levels == level) & weak[edges.rows]).nonzero()[:, 0]
        if len(rows):
            passing = flow[:, edges.rows[rows]]
            flow[:, edges.rows[rows]] = 0
            flow += passing @ share[rows]
    chains = _search(ends, len(embeddings), dict(zip(chosen.tolist(), flow, strict=True)), outcome)

    def strength(chain: Chain) -> float:
        return abs(chain[1][-1]) ** (1 / len(chain[1]))

    chains = [chain for chain in chains if len(chain[0]) > 1] or chains
    best: list[Chain] = []
    for groups, flows in sorted(chains, key=strength, reverse=True):
        if len(best) == k:
            break
        same = (other for other, _ in best if len(other) == len(groups))
        if all(sum(a != b for a, b in zip(groups, other, strict=True)) > 1 for other in same):
            best.append((groups, flows))
    best.sort(key=lambda chain: (chain[1][-1] < 0, -strength(chain)))
    return [_path(nodes, [*(ends[number] for number in groups), [outcome]], flows) for groups, flows in best]


def _search(ends: Sequence[list[int]], embeddings: int, through: dict[int, Tensor], outcome: int) -> list[Chain]:
    """Chains of groups that start at an embedding, with the flow that arrives at each, the outcome's side first."""
    chains: list[Chain] = []
    states: list[tuple[tuple[int, ...], list[float], Tensor]] = [((), [], through[outcome])]
    while states:
        longer = []
        for groups, flows, flow in states:
            for number, group in enumerate(ends):
                part = flow[group]
                if not bool(part.any()):
                    continue
                chain = ((number, *groups), [*flows, float(part.sum())])
                if number < embeddings:
                    chains.append(chain)
                else:
                    longer.append((*chain, part @ torch.stack([through[node] for node in group])))
        longer.sort(key=lambda state: -float(state[2].abs().sum()))
        states = longer[:BEAM]
    return chains


def _path(nodes: Nodes, groups: Sequence[Sequence[int]], flows: Sequence[float]) -> Path:
    tokens = {int(nodes.position[number]): nodes.labels[number] for number in nodes.numbers(EMBEDDING)}
    steps = []
    for group in groups:
        node = nodes[group[0]]
        token = tokens.get(node.position, "")
        steps.append(Step(_name(node), node.kind, node.layer, node.position, token, tuple(group)))
    signs = [1.0, *flows]
    inhibits = [signs[number] * signs[number + 1] < 0 for number in range(len(flows))]
    return Path(tuple(steps), tuple(reversed(inhibits)), flows[-1])


def summarise(graph: Graph) -> str:
    """Describe a graph in plain sentences: the outcome, what it rests on, how it gets there, what is missing.

    Every sentence states a number of the graph; nothing is guessed.

    Args:
        graph: what is described.
    """
    nodes, weight = graph.nodes, float(graph.edges.weights.sum()) or 1.0

    def text(node: Node) -> str:
        return repr(node.label.strip() or node.label)

    outcomes = [nodes[number] for number in nodes.numbers(LOGIT)]
    outcomes.sort(key=lambda node: -(node.probability or 0.0))
    likely = [f"{text(node)} ({node.probability or 0.0:.0%})" for node in outcomes[:TOKENS]]
    more = f" and {len(outcomes) - TOKENS} more" if len(outcomes) > TOKENS else ""
    lines = [f"After {graph.prompt!r} {graph.model} is explained for {', '.join(likely)}{more}."]

    embeddings = nodes.of(EMBEDDING).nonzero()[:, 0]
    order = graph.influence[embeddings].argsort(descending=True, stable=True)[:TOKENS]
    shares = {number: float(graph.influence[number]) / weight for number in embeddings[order].tolist()}
    tokens = [f"{text(nodes[number])} ({share:.0%})" for number, share in shares.items() if share >= SMALL]
    if tokens:
        lines.append(f"Of the influence on the outcome, tokens give: {', '.join(tokens)}.")

    features = []
    for name, numbers in propose(nodes, graph.influence)[:GROUPS]:
        node, share = nodes[numbers[0]], float(graph.influence[numbers].sum()) / weight
        where = f"layer {node.layer} at {graph.token_texts[node.position].strip()!r}"
        count = f"{len(numbers)} features" if len(numbers) > 1 else "1 feature"
        if share >= SMALL:
            features.append(f"[{name}] ({count}, {where}, {share:.0%})")
    if features:
        lines.append(f"The strongest features: {', '.join(features)}.")

    verbs = {True: "raises", False: "lowers"}
    paths = [
        f"{path} {verbs[path.weight > 0]} it by {abs(path.weight):.1%} of its input" for path in graph.paths()[:PATHS]
    ]
    if paths:
        lines.append(f"The strongest paths: {'; '.join(paths)}.")

    error = float(graph.influence[nodes.of(ERROR)].sum()) / weight
    missing = [
        f"{graph.replacement:.0%} of what is explained starts in tokens and not in errors (replacement), "
        f"{graph.completeness:.0%} of all input is no error (completeness), errors carry {error:.0%}"
    ]
    if graph.unexplored >= SMALL:
        missing.append(f"{graph.unexplored:.0%} of the influence was not explored")
    known = graph.residual is not None
    missing.append(f"rows add up to within {graph.residual:.0e}" if known else "whether rows add up is unknown")
    return "\n".join([*lines, f"What is missing: {'; '.join(missing)}."])
