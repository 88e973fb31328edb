"""Head loadings: through which attention heads an edge of the graph runs.

A source's vector is carried forward to the input of every attention layer, a target's covector is pulled back to its
output; what a head moves between the two is its part of the edge, the rest passes by (Kamath et al. 2025, "Tracing
Attention Computation Through Feature Interactions"). The two directions share no step with the sweep that made the
edges. Loadings of different layers overlap and do not add. This module knows tensors only.

Letters: q positions of the target's causal prefix, k sources, d width of the residual stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.engine.linear import FrozenAttention, FrozenModel, Skip, Targets, Writes


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
        heads[layer] = _through(model.attentions[layer], x, wants[layer])
        bridges = [torch.einsum("qkd,qd->k", out, pulled[skip.write]) for skip, out in skipped]
        passes[layer] = torch.einsum("qkd,qd->k", x, pulled[2 * layer + 1]) + sum(bridges)
        below[layer] = sum(direct[at] for at in direct if at <= 2 * layer)
        inputs.append(x)
    edges = sum(direct.values(), start=heads.new_zeros(len(columns)))
    return Loadings(edges, heads, passes, below, inputs, [wants[layer] for layer in layers])


def _pairs(attention: FrozenAttention) -> Iterator[tuple[int, int]]:
    """Every query head behind the key-value head that serves it."""
    return ((head * len(attention.w_v) // len(attention.w_o), head) for head in range(len(attention.w_o)))


def _through(
    attention: FrozenAttention, x: Float[Tensor, "q k d"], wants: Float[Tensor, "head q d_head"]
) -> Float[Tensor, "head k"]:
    """What each head makes of vectors at its input, for a covector on what it gives."""
    q, values = len(x), [x @ w_v.T for w_v in attention.w_v]
    keys = attention.pattern[:, :q, :q].mT @ wants
    return torch.stack([torch.einsum("qe,qke->k", keys[head], values[kv]) for kv, head in _pairs(attention)])


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
            for key_value, head in _pairs(attention):
                g += keys[head] @ attention.w_v[key_value]
        for skip in model.skips:
            if skip.read == at and skip.write in pulled:
                g += skip.factor[:q] * (pulled[skip.write] @ skip.weight.T)
        pulled[at] = g
    return pulled, wants


def _carry(
    model: FrozenModel, written: Mapping[int, Tensor], stage: int
) -> Iterator[tuple[Float[Tensor, "q k d"], list[tuple[Skip, Tensor]]]]:
    """The sources at the input of every attention layer below a stage, and what skips carry past it."""
    skipped: list[tuple[Skip, Tensor]] = []
    x = torch.zeros_like(next(iter(written.values())))
    for at in range(stage):
        if at in written:
            x = x + written[at]
        x = x + sum(out for skip, out in skipped if skip.write == at)
        skipped = [(skip, out) for skip, out in skipped if skip.write > at]
        skipped += [(skip, _skip(skip, x)) for skip in model.skips if skip.read == at and skip.write <= stage]
        if at % 2 == 0:
            yield x, skipped
            x = x if at // 2 in model.replaced else _forward(model.attentions[at // 2], x)


def _forward(attention: FrozenAttention, x: Float[Tensor, "q k d"]) -> Float[Tensor, "q k d"]:
    """Vectors after a layer, its biases left out."""
    q, after = len(x), x
    for key_value, head in _pairs(attention):
        values = x @ attention.w_v[key_value].T
        after = after + torch.einsum("pq,qke->pke", attention.pattern[head, :q, :q], values) @ attention.w_o[head].T
    return after


def _skip(skip: Skip, x: Float[Tensor, "q k d"]) -> Float[Tensor, "q k d"]:
    return skip.factor[: len(x), None] * (x @ skip.weight)


def _written(writes: Writes, columns: Int[Tensor, " k"], q: int) -> Float[Tensor, "q k d"]:
    """What some sources write at one stage."""
    starts = torch.tensor(writes.starts, device=columns.device)
    positions = torch.arange(len(starts) - 1, device=columns.device).repeat_interleave(starts.diff())
    found, which = (writes.columns[:, None] == columns).nonzero(as_tuple=True)
    inside = positions[found] < q
    found, which = found[inside], which[inside]
    x = writes.vectors.new_zeros(q, len(columns), writes.vectors.shape[1])
    return x.index_put_((positions[found], which), writes.vectors[found], accumulate=True)
