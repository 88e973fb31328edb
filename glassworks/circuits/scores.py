"""Influence, replacement and completeness of a graph (Ameisen et al. 2025, "Circuit Tracing", methods), and pruning.

`P` is the matrix of edges, absolute, each row divided by its sum: the share of a target's input that each source
gives. Pruning keeps the smallest part that carries most of the influence, exactly as circuit-tracer 0.4.1 cuts it:
nodes first, by influence; then, on what is left, edges; then whatever dangles. Pure functions on tensors.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.errors import BadInput

TINY = 1e-10  # a row without input is divided by this
BLOCK, WIDE = 128, 2**22  # rows, and numbers, at a time: small enough to stay in the processor's cache


@final
@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of a graph, as its scores need them.

    Attributes:
        matrix: edge from source s (column) to target t (row).
        rows: the node that each row is about, ascending.
        levels: level of each row's node, ascending: a node reads only nodes of lower levels.
        weights: how much each node counts as an outcome: the probabilities of the logits, 0 elsewhere.
        rest: absolute input of each row from sources that have no column.
    """

    matrix: Float[Tensor, "t source"]
    rows: Int[Tensor, " t"]
    levels: Int[Tensor, " t"]
    weights: Float[Tensor, " n"]
    rest: Float[Tensor, " t"]

    @cached_property
    def _sizes(self) -> Float[Tensor, " t"]:
        return (torch.linalg.vector_norm(self.matrix, 1, dim=1) + self.rest).clamp(min=TINY)

    def sizes(self) -> Float[Tensor, " t"]:
        """The sum of each row's absolute values, those without a column included."""
        return self._sizes

    def passed(self, flow: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What flows into nodes, handed on to their sources; in place."""
        return hand_on(flow, self.matrix, self.rows, self.levels, self._sizes)

    def select(self, nodes: Bool[Tensor, " n"]) -> "Edges":
        """The edges among some of the nodes, which are numbered anew; their input from others is forgotten."""
        numbers = nodes.cumsum(0) - 1
        rows = nodes[self.rows]
        matrix = self.matrix[rows][:, nodes[: self.matrix.shape[1]]]
        nothing = torch.zeros_like(self.rest[rows])
        return Edges(matrix, numbers[self.rows[rows]], self.levels[rows], self.weights[nodes], nothing)


@final
@dataclass(frozen=True)
class Scores:
    """How much of the model's computation a graph's features explain.

    Attributes:
        replacement: share of the influence on the logits that starts in embeddings, and not in errors.
        completeness: share of all nodes' input that does not come from errors, weighted by influence.
        unexplored: share of the influence on the logits that rests on features whose inputs are not known; a node's
            true influence is at most that much of the logits' weight above the known one. 0 in a full graph.
    """

    replacement: float
    completeness: float
    unexplored: float = 0.0


def hand_on(
    flow: Float[Tensor, " n"],
    matrix: Float[Tensor, "slot source"],
    rows: Int[Tensor, " t"],
    levels: Int[Tensor, " t"],
    sizes: Float[Tensor, " t"],
    slots: Int[Tensor, " t"] | None = None,
) -> Float[Tensor, " n"]:
    """Hand what flows into nodes on to their sources, in shares `P` of each target's input; in place.

    Level by level from the outcomes down, so that a node's flow is complete before its row is used.

    Args:
        flow: of every node.
        matrix: edges, one row a target.
        rows: the node that each row is about.
        levels: of each row's node.
        sizes: the sum of each row's absolute values.
        slots: where each row lies in the matrix, if not in order.
    """
    columns = matrix.shape[1]
    block = max(1, min(BLOCK, WIDE // max(1, columns)))
    order = levels.argsort(descending=True, stable=True)
    counts = levels[order].unique_consecutive(return_counts=True)[1].tolist()
    for same in order.split(counts):
        for part in same.split(block):
            flow[:columns] += (flow[rows[part]] / sizes[part]) @ matrix[part if slots is None else slots[part]].abs_()
    return flow


def influence(edges: Edges) -> Float[Tensor, " n"]:
    """Influence of every node on the logits, over all paths: `w (P + P^2 + ...)`, by one back-substitution."""
    return edges.passed(edges.weights.clone()) - edges.weights


def edge_influence(edges: Edges) -> Float[Tensor, "t source"]:
    """Influence that flows through every edge: `P[t, s] (influence[t] + w[t])`."""
    flow = influence(edges) + edges.weights
    return edges.matrix.abs() * (flow[edges.rows] / edges.sizes())[:, None]


def cumulative(influence: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Share of all influence that rests on each node and those above it, in descending order."""
    order = influence.argsort(descending=True, stable=True)
    share = torch.empty_like(influence)
    share[order] = influence[order].cumsum(0)
    return share / share.max() if bool(share.any()) else share


def scores(
    edges: Edges,
    found: Float[Tensor, " n"],
    features: Bool[Tensor, " n"],
    errors: Bool[Tensor, " n"],
    embeddings: Bool[Tensor, " n"],
) -> Scores:
    """Scores of an unpruned graph.

    Args:
        edges: all edges.
        found: influence of every node.
        features: which nodes are features.
        errors: which nodes are errors.
        embeddings: which nodes are embeddings.
    """
    output = found + edges.weights
    lost = edges.matrix[:, errors[: edges.matrix.shape[1]]].abs().sum(1) / edges.sizes()
    start, error = float(found[embeddings].sum()), float(found[errors].sum())
    # Shares of an input sum to 1, so what does not end in embeddings and errors ends in features without a row, or in
    # sources without a column.
    open_ = features.clone()
    open_[edges.rows] = False
    outside = float((output[edges.rows] * edges.rest / edges.sizes()).sum())
    weight = float(edges.weights.sum())
    return Scores(
        replacement=start / (start + error) if start + error else 0.0,
        completeness=1 - float(output[edges.rows] @ lost / output.sum()) if bool(output.any()) else 0.0,
        unexplored=(float(found[open_].sum()) + outside) / weight if weight else 0.0,
    )


def prune(
    edges: Edges, kept: Bool[Tensor, " n"], rooted: Bool[Tensor, " n"], node: float, edge: float
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, "t source"]]:
    """Choose the nodes and edges to keep.

    Args:
        edges: all edges.
        kept: nodes that stay in any case: embeddings and logits.
        rooted: nodes that need no input: embeddings and errors.
        node: share of the nodes' influence to keep, 0 to 1.
        edge: share of the edges' influence to keep, 0 to 1.

    Returns:
        Which nodes stay; and, of the rows and columns that stay, which edges.

    Raises:
        BadInput: a share outside 0 to 1.
    """
    for share in (node, edge):
        if not 0 <= share <= 1:
            raise BadInput(f"A pruning threshold is {share}; it is a share of the influence, from 0 to 1.")
    found = influence(edges)
    nodes = kept | ((found >= threshold(found, node)) & (found > 0))
    # Edges of dropped nodes score 0, so only what is left is scored: milliseconds instead of a sort of all edges.
    small = edges.select(nodes)
    score = edge_influence(small)
    strong = (score >= threshold(score.flatten(), edge)) & (score > 0)
    # Nodes that lead nowhere or come from nowhere are dropped until none is left.
    sources, ends, starts = strong.shape[1], kept[nodes], (rooted | kept)[nodes]
    left = torch.ones_like(ends)
    while True:
        leads, comes = ends.clone(), starts.clone()
        leads[:sources] |= strong.any(0)
        comes[small.rows] |= strong.any(1)
        if bool((left == left & leads & comes).all()):
            break
        left = left & leads & comes
        strong = strong & left[small.rows, None] & left[:sources]
    nodes[nodes.clone()] = left
    return nodes, strong[left[small.rows]][:, left[:sources]]


def threshold(scores: Float[Tensor, " k"], share: float) -> Float[Tensor, ""]:
    """The score down to which the highest scores hold a share of the sum of all."""
    ordered = scores[scores > 0].sort(descending=True).values
    if not len(ordered):
        return scores.new_zeros(())
    sums = ordered.double().cumsum(0)
    return ordered[min(int(torch.searchsorted(sums / sums[-1], share)), len(ordered) - 1)]
