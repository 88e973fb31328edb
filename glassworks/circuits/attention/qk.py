"""QK attributions: why a head looks from one position to another, as products of what was written before.

With every norm's scale frozen, a query and a key are linear in the residual stream, so a score is a bilinear form
of the sources carried to its layer: features, errors, embeddings and constants on either side (Kamath et al. 2025).
All pairs together sum to the score. This module must not know graphs.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.engine.freeze import Captured, Read
from glassworks.circuits.engine.linear import Targets, biases, constants
from glassworks.circuits.engine.local import LocalModel
from glassworks.circuits.engine.sweep import edges
from glassworks.models import Model, Projection, Scorer

BLOCK = 1024  # rows of the pairs' matrix at a time


@final
@dataclass(frozen=True, eq=False)
class HeadScore:
    """One score of one head, taken apart.

    Attributes:
        layer: of the head.
        head: which one.
        query: position that looks.
        key: position that is looked at.
        score: the model's, scaled, before any soft-capping and masking.
        weight: the attention that came of it.
        queries: each source's part of the query, scaled; the last row is the constants'.
        keys: each source's part of the key; the last row is the constants'.
    """

    layer: int
    head: int
    query: int
    key: int
    score: float
    weight: float
    queries: Float[Tensor, "source d_head"]
    keys: Float[Tensor, "source d_head"]

    @property
    def total(self) -> float:
        """The sum over all pairs; the score, up to rounding."""
        return float(self.queries.double().sum(0) @ self.keys.double().sum(0))

    @property
    def query_side(self) -> Float[Tensor, " source"]:
        """Each source's part of the score by what it writes to the query; sums to the score."""
        return self.queries @ self.keys.sum(0)

    @property
    def key_side(self) -> Float[Tensor, " source"]:
        """Each source's part of the score by what it writes to the key; sums to the score."""
        return self.keys @ self.queries.sum(0)

    def matrix(self) -> Float[Tensor, "source source"]:
        """Every pair's part of the score: query side by key side."""
        return self.queries @ self.keys.T

    def pairs(self, most: int = 10) -> list[tuple[int, int, float]]:
        """The strongest pairs: source on the query side, source on the key side, signed part of the score."""
        best = self.keys.new_zeros(0)
        places = torch.zeros(0, dtype=torch.long, device=self.keys.device)
        for start in range(0, len(self.queries), BLOCK):
            block = (self.queries[start : start + BLOCK] @ self.keys.T).flatten()
            top = block.abs().topk(min(most, len(block))).indices
            best, places = torch.cat([best, block[top]]), torch.cat([places, start * len(self.keys) + top])
        order = best.abs().topk(min(most, len(best))).indices
        where = places[order]
        queries, keys = (where // len(self.keys)).tolist(), (where % len(self.keys)).tolist()
        return [pair for pair in zip(queries, keys, best[order].tolist(), strict=True) if pair[2]]


def head_score(
    model: Model, local: LocalModel, captured: Captured, scorer: Scorer, head: int, where: tuple[int, int, int]
) -> HeadScore:
    """Take one score apart.

    Args:
        model: the model.
        local: the linear model of the prompt.
        captured: its run, with `attn_in`, `q` and `k` of the layer besides.
        scorer: how the layer scores.
        head: which head.
        where: layer, and the positions of query and key.
    """
    layer, query, key = where
    key_head = head * len(scorer.key.weight) // len(scorer.query.weight)
    queries = _parts(model, local, captured, (scorer, scorer.query), layer, head, query)
    keys = _parts(model, local, captured, (scorer, scorer.key), layer, key_head, key)
    asked = captured[f"q.{layer}"][query, head].double() @ captured[f"k.{layer}"][key, key_head].double()
    return HeadScore(
        layer=layer,
        head=head,
        query=query,
        key=key,
        score=float(asked) * scorer.scaling,
        weight=float(captured[f"pattern.{layer}"][query, head, key]),
        queries=queries * scorer.scaling,
        keys=keys,
    )


def _parts(
    model: Model,
    local: LocalModel,
    captured: Captured,
    reads: tuple[Scorer, Projection],
    layer: int,
    head: int,
    position: int,
) -> Float[Tensor, "source d_head"]:
    """Each source's part of a query or key, and the constants' at the end: d_head linear reads of the stream."""
    scorer, projection = reads
    rows, constant = projection.frozen(captured[f"attn_in.{layer}"][position], head)
    rows, constant = scorer.rotated(rows.T, position).T, scorer.rotated(constant, position)
    norm, scale = model.block(layer).attn_norm, captured.get(f"attn_norm_scale.{layer}")
    place = Read(2 * layer, norm, None if scale is None else scale.float())
    targets: Targets = place.targets(rows, torch.full((len(rows),), position, device=rows.device), constant)
    matrix = edges(local.frozen, local.sources.writes, targets, local.sources.columns)
    bias = biases(local.frozen, targets, constants(local.frozen, local.sources.constants))
    return torch.cat([matrix, bias[:, None]], 1).T
