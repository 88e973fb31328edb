"""What a graph predicts: how its targets move when sources are changed, directly or through everything between.

Pure functions on the graph's matrix: this module must not know models. What the model really does, `measured` knows.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.nodes import FEATURE
from glassworks.circuits.traced import Traced


def changes(graph: Traced, groups: Sequence[Int[Tensor, " _"]], factor: float) -> Float[Tensor, "group source"]:
    """Relative changes of sources: `factor` times its own size more of each source of a group; -1 silences it."""
    found = torch.zeros(len(groups), graph.matrix.shape[1])
    for change, group in zip(found, groups, strict=True):
        change[group] = factor
    return found


def direct(graph: Traced, change: Float[Tensor, "group source"]) -> Float[Tensor, "group t"]:
    """How every target moves by its direct edges alone: everything nonlinear frozen, other features silent."""
    return change @ graph.matrix.T


def total(graph: Traced, change: Float[Tensor, "group source"]) -> Float[Tensor, "group t"]:
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
