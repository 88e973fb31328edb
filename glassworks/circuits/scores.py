"""Influence, replacement and completeness of a graph (Ameisen et al. 2025, "Circuit Tracing", methods).

`P` is the matrix of edges, absolute, each row divided by its sum: the share of a target's input that each source
gives. Pure functions on tensors: this module must not know where a matrix comes from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TINY = 1e-10  # a row without input is divided by this
BLOCK = 128  # rows at a time: small enough to stay in the processor's cache


@final
@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of a graph, as its scores need them.

    Attributes:
        matrix: edge from source s (column) to target t (row).
        rows: the node that each row is about, ascending.
        levels: layer of each row's node, ascending: a node reads only nodes of lower levels.
        weights: how much each node counts as an outcome: the probabilities of the logits, 0 elsewhere.
    """

    matrix: Float[Tensor, "t source"]
    rows: Int[Tensor, " t"]
    levels: Int[Tensor, " t"]
    weights: Float[Tensor, " n"]

    def sizes(self) -> Float[Tensor, " t"]:
        """The sum of each row's absolute values."""
        return torch.linalg.vector_norm(self.matrix, 1, dim=1).clamp(min=TINY)

    def shares(self) -> Iterator[tuple[Int[Tensor, " b"], Float[Tensor, "b source"]]]:
        """Rows of `P`, block by block from the top level down, each with the nodes that its rows are about."""
        levels = self.levels.unique_consecutive(return_counts=True)[1].tolist()
        sizes = [min(BLOCK, level - start) for level in levels for start in range(0, level, BLOCK)]
        for nodes, block in zip(reversed(self.rows.split(sizes)), reversed(self.matrix.split(sizes)), strict=True):
            yield nodes, normalised(block)

    def select(self, nodes: Bool[Tensor, " n"]) -> "Edges":
        """The edges among some of the nodes, which are numbered anew."""
        numbers = nodes.cumsum(0) - 1
        rows = nodes[self.rows]
        matrix = self.matrix[rows][:, nodes[: self.matrix.shape[1]]]
        return Edges(matrix, numbers[self.rows[rows]], self.levels[rows], self.weights[nodes])


@final
@dataclass(frozen=True)
class Scores:
    """How much of a graph's story its features tell.

    Attributes:
        replacement: share of the influence on the logits that starts in embeddings, and not in errors.
        completeness: share of all nodes' input that does not come from errors, weighted by influence.
    """

    replacement: float
    completeness: float


def normalised(matrix: Float[Tensor, "t source"]) -> Float[Tensor, "t source"]:
    """Absolute values, each row divided by its sum."""
    share = matrix.abs()
    return share.div_(share.sum(1, keepdim=True).clamp(min=TINY))


def influence(edges: Edges) -> Float[Tensor, " n"]:
    """Influence of every node on the logits, over all paths: `w (P + P^2 + ...)`, by one back-substitution.

    Level by level from the logits down, a node's influence is complete before its row is used.
    """
    flow = edges.weights.clone()
    for nodes, share in edges.shares():
        flow[: share.shape[1]] += flow[nodes] @ share
    return flow - edges.weights


def edge_influence(edges: Edges) -> Float[Tensor, "t source"]:
    """Influence that flows through every edge: `P[t, s] (influence[t] + w[t])`."""
    flow = influence(edges) + edges.weights
    return normalised(edges.matrix) * flow[edges.rows, None]


def cumulative(influence: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Share of all influence that rests on each node and those above it, in descending order."""
    order = influence.argsort(descending=True, stable=True)
    share = torch.empty_like(influence)
    share[order] = influence[order].cumsum(0)
    return share / share.max() if bool(share.any()) else share


def scores(
    edges: Edges, found: Float[Tensor, " n"], errors: Bool[Tensor, " n"], embeddings: Bool[Tensor, " n"]
) -> Scores:
    """Replacement and completeness scores of an unpruned graph.

    Args:
        edges: all edges.
        found: influence of every node.
        errors: which nodes are errors.
        embeddings: which nodes are embeddings.
    """
    output = found + edges.weights
    lost = edges.matrix[:, errors[: edges.matrix.shape[1]]].abs().sum(1) / edges.sizes()
    start, error = float(found[embeddings].sum()), float(found[errors].sum())
    return Scores(
        replacement=start / (start + error) if start + error else 0.0,
        completeness=1 - float(output[edges.rows] @ lost / output.sum()) if bool(output.any()) else 0.0,
    )
