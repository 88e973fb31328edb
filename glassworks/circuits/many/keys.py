"""What is the same node in different graphs: the same feature of the same coder, or features whose labels agree.

Several graphs are compared over keys: every node of every graph belongs to one. Positions do not count, so prompts of
different lengths compare; a feature that is active at several tokens is one key. This module must not know what the
comparison is for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.nodes import ERROR, FEATURE, Node
from glassworks.circuits.reading.paths import alike, words
from glassworks.circuits.traced import Traced
from glassworks.errors import BadInput

BY = ("feature", "label")


@final
@dataclass(frozen=True, eq=False)
class Keys:
    """The keys of some graphs.

    Attributes:
        names: what each key shows.
        kinds: kind of its nodes.
        places: part and layer of its features and errors, "" where they have none or several.
        indices: latent or vocabulary id; -1 for errors, and for features matched by label.
        of: for each graph, the key of each of its nodes.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    places: tuple[str, ...]
    indices: tuple[int, ...]
    of: tuple[Int[Tensor, " _"], ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def features(self) -> list[int]:
        """The keys that are features."""
        return [key for key, kind in enumerate(self.kinds) if kind == FEATURE]


def keyed(graphs: Sequence[Traced], by: str = "feature") -> Keys:
    """Find what is the same in several graphs.

    Args:
        graphs: the graphs; with `by="feature"` their features must be of the same coders.
        by: `feature` (place and latent), or `label` (labels that share words), for graphs of different scopes.

    Raises:
        BadInput: another way of matching, no graphs, or graphs of different coders matched by feature.
    """
    if by not in BY or not graphs:
        raise BadInput(f"Graphs are matched by {' or '.join(BY)}, and there must be one; got {by!r}, {len(graphs)}.")
    coders = {place: {graph.origin.coders.get(place) for graph in graphs} for place in graphs[0].origin.coders}
    if by == "feature" and any(len(known - {None}) > 1 for known in coders.values()):
        raise BadInput("The graphs have features of different coders, which cannot be matched by number; use labels.")
    names: dict[tuple[str, str, int], int] = {}
    shown: list[str] = []
    groups: list[tuple[set[str], tuple[str, str, int]]] = []
    found = []
    for graph in graphs:
        flow, codes = graph.influence, torch.zeros(len(graph.nodes), dtype=torch.long)
        table = list(graph.nodes)
        for number in flow.argsort(descending=True, stable=True).tolist():
            key = _key(table[number]) if by == "feature" else _by_label(table[number], groups)
            if key not in names:
                names[key] = len(shown)
                shown.append(_name(table[number]))
            codes[number] = names[key]
        found.append(codes)
    kinds, places, indices = zip(*names, strict=True)
    places = tuple(place if kind in (FEATURE, ERROR) else "" for kind, place in zip(kinds, places, strict=True))
    return Keys(tuple(shown), kinds, places, indices, tuple(found))


def _key(node: Node) -> tuple[str, str, int]:
    return node.kind, node.place if node.kind in (FEATURE, ERROR) else "", node.index


def _by_label(node: Node, groups: list[tuple[set[str], tuple[str, str, int]]]) -> tuple[str, str, int]:
    """The first group whose label shares enough words; tokens and outcomes by their text; errors all alike."""
    if node.kind != FEATURE:
        return node.kind, node.label.strip() if node.kind != ERROR else "", -1
    mine = words(node.label)
    known = next((key for others, key in groups if alike(mine, others) or mine == others != set()), None)
    if known is None:
        known = (FEATURE, "", -2 - len(groups))
        groups.append((mine, known))
    return known


def _name(node: Node) -> str:
    if node.kind == ERROR:
        return f"error at {node.place}"
    return node.label or f"{node.place}/{node.index}"


def flows(graph: Traced, codes: Int[Tensor, " n"], keys: int) -> Float[Tensor, " key"]:
    """Influence of every key on the outcomes, as a share of the outcomes' weight."""
    weight = graph.edges.weights.sum().clamp(min=1e-10)
    return torch.zeros(keys).index_add_(0, codes, graph.influence / weight)


def links(
    graph: Traced, codes: Int[Tensor, " n"], keys: int
) -> tuple[Int[Tensor, " e"], Float[Tensor, " e"], Float[Tensor, " e"], Float[Tensor, " e"]]:
    """Edges between keys: number `target * keys + source`, and, edges of several nodes added, three signed sizes.

    They are the weight, the share of the target's input (weighted by what flows into the targets), and the part of
    the outcomes' flow that the edge carries.
    """
    row, column = graph.matrix.nonzero(as_tuple=True)
    pair = codes[graph.rows[row]] * keys + codes[column]
    weight = graph.matrix[row, column]
    flow = (graph.influence + graph.edges.weights)[graph.rows]
    carried = weight / graph.edges.sizes()[row] * flow[row]
    inflow = torch.zeros(keys).index_add_(0, codes[graph.rows], flow)
    numbers, place = pair.unique(return_inverse=True)
    zeros = torch.zeros(len(numbers))
    whole = zeros.index_add(0, place, carried)
    share = whole / inflow[numbers // keys].clamp(min=1e-20)
    return numbers, zeros.index_add(0, place, weight), share, whole / graph.edges.weights.sum().clamp(min=1e-10)
