"""Attention heads taken apart: the part of an edge that each head moves, and why a head looks where it looks.

Head loadings: a source's vector is carried forward to the input of every attention layer, a target's covector is pulled
back to its output; what a head moves between the two is its part of the edge, the rest passes by (Kamath et al. 2025,
"Tracing Attention Computation Through Feature Interactions"). The two directions share no step with the sweep that made
the edges. Loadings of different layers overlap and do not add.

QK attributions: with every norm's scale frozen, a query and a key are linear in the residual stream, so a score is a
bilinear form of the sources carried to its layer: features, errors, embeddings and constants on either side. All pairs
together sum to the score.

Letters: q positions of the target's causal prefix, k sources, d width of the residual stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.engine.freeze import Captured, Read
from glassworks.circuits.engine.linear import FrozenAttention, FrozenModel, Skip, Targets, Writes
from glassworks.circuits.engine.local import LocalModel
from glassworks.models import Model, Projection, Scorer

BLOCK = 1024  # rows of the pairs' matrix at a time


@final
@dataclass(frozen=True, eq=False)
class Loadings:
    """How edges into one target run through attention; layers above the target have zeros.

    Attributes:
        edges: each source's whole edge.
        heads: the part of each edge that goes through a head.
        passes: the part from writes below the layer that goes past all of its heads.
        below: the part from writes below the layer, from the pulled covectors alone: what the two above sum to.
        inputs: every source carried to the input of each layer, up to the target's.
        wants: the target's covector pulled to what each head of these layers gives.
    """

    edges: Float[Tensor, " k"]
    heads: Float[Tensor, "layer head k"]
    passes: Float[Tensor, "layer k"]
    below: Float[Tensor, "layer k"]
    inputs: Sequence[Float[Tensor, "q k d"]]
    wants: Sequence[Float[Tensor, "head q d_head"]]

    def moves(self, attention: FrozenAttention, layer: int, head: int, source: int) -> Float[Tensor, "query key"]:
        """Where a head takes its part of one edge from and to: sums to its loading."""
        w_v = attention.w_v[head * len(attention.w_v) // len(attention.w_o)]
        values, wanted = self.inputs[layer][:, source] @ w_v.T, self.wants[layer][head]
        return attention.pattern[head, : len(wanted), : len(wanted)] * (wanted @ values.T)


def loadings(
    model: FrozenModel, sources: Mapping[int, Writes], target: Targets, columns: Int[Tensor, " k"]
) -> Loadings:
    """Split the edges of some sources into one target by attention heads.

    Args:
        model: the frozen model.
        sources: what is written, by stage.
        target: what is read: one row.
        columns: the sources.
    """
    stage, q = int(target.stage[0]), int(target.position[0]) + 1
    pulled, wants = _pull(model, target)
    written = {at: _written(sources[at], columns, q) for at in sources if at in pulled}
    layers = range((stage + 1) // 2)
    heads = pulled[0].new_zeros(len(model.attentions), len(model.attentions[0].w_o), len(columns))
    passes, below = heads[:, 0].clone(), heads[:, 0].clone()
    direct = {at: torch.einsum("qkd,qd->k", written[at], pulled[at]) for at in written}
    inputs = []
    for layer, (x, skipped) in zip(layers, _carry(model, written, stage), strict=False):
        attention = model.attentions[layer]
        values, keys = [x @ w_v.T for w_v in attention.w_v], attention.pattern[:, :q, :q].mT @ wants[layer]
        heads[layer] = torch.stack(
            [torch.einsum("qe,qke->k", keys[head], values[key_value]) for key_value, head in attention.head_pairs()]
        )
        bridges = [torch.einsum("qkd,qd->k", out, pulled[skip.write]) for skip, out in skipped]
        passes[layer] = torch.einsum("qkd,qd->k", x, pulled[2 * layer + 1]) + sum(bridges)
        below[layer] = sum(direct[at] for at in direct if at <= 2 * layer)
        inputs.append(x)
    edges = sum(direct.values(), start=heads.new_zeros(len(columns)))
    return Loadings(edges, heads, passes, below, inputs, [wants[layer] for layer in layers])


def _written(writes: Writes, columns: Int[Tensor, " k"], q: int) -> Float[Tensor, "q k d"]:
    """What some sources write at one stage."""
    starts = torch.tensor(writes.starts, device=columns.device)
    positions = torch.arange(len(starts) - 1, device=columns.device).repeat_interleave(starts.diff())
    rows, which = (writes.columns[:, None] == columns).nonzero(as_tuple=True)
    inside = positions[rows] < q
    rows, which = rows[inside], which[inside]
    x = writes.vectors.new_zeros(q, len(columns), writes.vectors.shape[1])
    return x.index_put_((positions[rows], which), writes.vectors[rows], accumulate=True)


def _pull(
    model: FrozenModel, target: Targets
) -> tuple[dict[int, Float[Tensor, "q d"]], dict[int, Float[Tensor, "head q d_head"]]]:
    """The target's covector at every stage from its own down to 0, and on what the heads of every layer give."""
    stage, q = int(target.stage[0]), int(target.position[0]) + 1
    g = target.covector.new_zeros(q, target.covector.shape[1])
    g[-1] = target.covector[0]
    pulled, wants = {stage: g}, {}
    for at in range(stage - 1, -1, -1):
        g = pulled[at + 1].clone()
        if at % 2 == 0:
            layer, attention = at // 2, model.attentions[at // 2]
            wants[layer] = torch.zeros_like(g @ attention.w_o) if layer in model.replaced else g @ attention.w_o
            if target.inside is not None and at == stage - 1:
                wants[layer][:, -1] += target.inside[0].view(len(attention.w_o), -1)
            keys = attention.pattern[:, :q, :q].mT @ wants[layer]
            for key_value, head in attention.head_pairs():
                g += keys[head] @ attention.w_v[key_value]
        for skip in model.skips:
            if skip.read == at and skip.write in pulled:
                g += skip.factor[:q] * (pulled[skip.write] @ skip.weight.T)
        pulled[at] = g
    return pulled, wants


def _carry(
    model: FrozenModel, written: Mapping[int, Tensor], stage: int
) -> Iterator[tuple[Float[Tensor, "q k d"], list[tuple[Skip, Tensor]]]]:
    """The sources at the input of every attention layer below a stage, and what skips carry past it; no biases."""
    skipped: list[tuple[Skip, Tensor]] = []
    x = torch.zeros_like(next(iter(written.values())))
    for at in range(stage):
        if at in written:
            x = x + written[at]
        x = x + sum(out for skip, out in skipped if skip.write == at)
        skipped = [(skip, out) for skip, out in skipped if skip.write > at]
        for skip in model.skips:
            if skip.read == at and skip.write <= stage:
                skipped.append((skip, skip.factor[: len(x), None] * (x @ skip.weight)))
        if at % 2 == 0:
            yield x, skipped
            attention, before = model.attentions[at // 2], x
            for key_value, head in [] if at // 2 in model.replaced else attention.head_pairs():
                pattern = attention.pattern[head, : len(x), : len(x)]
                values = before @ attention.w_v[key_value].T
                x = x + torch.einsum("pq,qke->pke", pattern, values) @ attention.w_o[head].T


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

    def parts(projection: Projection, head: int, position: int) -> Float[Tensor, "source d_head"]:
        """Each source's part of a query or key, and the constants' at the end: d_head linear reads of the stream."""
        rows, constant = projection.frozen(captured[f"attn_in.{layer}"][position], head)
        rows, constant = scorer.rotated(rows.T, position).T, scorer.rotated(constant, position)
        norm, scale = model.block(layer).attn_norm, captured.get(f"attn_norm_scale.{layer}")
        place = Read(2 * layer, norm, None if scale is None else scale.float())
        targets = place.targets(rows, torch.full((len(rows),), position, device=rows.device), constant)
        return torch.cat([local.edges(targets), local.biases(targets)[:, None]], 1).T

    queries, keys = captured[f"q.{layer}"][query, head].double(), captured[f"k.{layer}"][key, key_head].double()
    return HeadScore(
        layer=layer,
        head=head,
        query=query,
        key=key,
        score=float(queries @ keys) * scorer.scaling,
        weight=float(captured[f"pattern.{layer}"][query, head, key]),
        queries=parts(scorer.query, head, query) * scorer.scaling,
        keys=parts(scorer.key, key_head, key),
    )
