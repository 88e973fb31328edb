"""Pruning: the smallest part of a graph that carries most of the influence, exactly as circuit-tracer 0.4.1 cuts it.

Nodes first, by influence; then, on what is left, edges; then whatever dangles. Pure functions on tensors: this
module must not know what a graph is.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassworks.circuits.scores import Edges, edge_influence, influence
from glassworks.errors import BadInput


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
    left, strong = _drop_dangling(small, strong, kept[nodes], rooted[nodes])
    nodes[nodes.clone()] = left
    return nodes, strong[left[small.rows]][:, left[: strong.shape[1]]]


def threshold(scores: Float[Tensor, " k"], share: float) -> Float[Tensor, ""]:
    """The score down to which the highest scores hold a share of the sum of all."""
    ordered = scores[scores > 0].sort(descending=True).values
    if not len(ordered):
        return scores.new_zeros(())
    sums = ordered.double().cumsum(0)
    return ordered[min(int(torch.searchsorted(sums / sums[-1], share)), len(ordered) - 1)]


def _drop_dangling(
    edges: Edges, mask: Bool[Tensor, "t source"], kept: Bool[Tensor, " n"], rooted: Bool[Tensor, " n"]
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, "t source"]]:
    """Drop nodes that lead nowhere or come from nowhere, until none is left, with their edges."""
    sources = mask.shape[1]
    nodes = torch.ones_like(kept)
    while True:
        leads, comes = torch.zeros_like(kept), torch.zeros_like(kept)
        leads[:sources], comes[edges.rows] = mask.any(0), mask.any(1)
        left = nodes & (leads | kept) & (comes | rooted | kept)
        if bool((left == nodes).all()):
            return nodes, mask
        nodes = left
        mask = mask & nodes[edges.rows, None] & nodes[:sources]
