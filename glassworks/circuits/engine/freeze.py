"""From a model's captured forward pass to the frozen linear model: folds norms into the weights beside them.

The only place that knows how a block of a language model becomes the algebra of `linear`; this module must not
know coders.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.engine.linear import FrozenAttention, Targets
from glassworks.errors import Unsupported
from glassworks.models import Model, Norm
from glassworks.sites import Site

Captured = Mapping[str, Tensor]


@final
@dataclass(frozen=True, eq=False)
class Read:
    """A place where the residual stream is read, perhaps through a norm with a frozen scale.

    Attributes:
        stage: see `linear`.
        norm: the norm, or None.
        scale: its frozen scale, or None.
    """

    stage: int
    norm: Norm | None = None
    scale: Float[Tensor, "token 1"] | None = None

    def targets(self, rows: Float[Tensor, "t d_model"], positions: Tensor, constant: Float[Tensor, " t"]) -> Targets:
        """Targets that read `rows . x + constant` here, x being what comes out of the norm."""
        covectors, more = fold_read(self.norm, rows)
        positions = positions.to(rows.device)
        if self.scale is not None:
            covectors = covectors * self.scale[positions]
        return Targets(torch.full_like(positions, self.stage), positions, covectors, constant + more)


@final
@dataclass(frozen=True, eq=False)
class HeadsRead:
    """A place inside an attention layer: what its heads give, or what comes of that in the stream.

    Attributes:
        layer: which layer.
        d_model: width of the stream.
        out: output matrices, norm after included, where what comes of it in the stream is read; None before them.
        scale: scale of the norm after attention: the frozen pattern includes it, so reads before the output matrices
            divide by it.
        constant: what is there for a stream of zeros.
    """

    layer: int
    d_model: int
    out: Float[Tensor, "width d_model"] | None
    scale: Float[Tensor, "token 1"] | None
    constant: Float[Tensor, "token _"]

    def targets(self, rows: Float[Tensor, "t _"], positions: Tensor, constant: Float[Tensor, " t"]) -> Targets:
        """Targets that read `rows . x + constant` here, and nothing of the stream besides."""
        positions = positions.to(rows.device)
        inside = rows if self.out is None else rows @ self.out.T
        if self.scale is not None:
            inside = inside / self.scale[positions]
        more = (rows * self.constant[positions]).sum(1)
        stage = torch.full_like(positions, 2 * self.layer + 1)
        return Targets(stage, positions, rows.new_zeros(len(rows), self.d_model), constant + more, inside)


Place = Read | HeadsRead


def needed(model: Model) -> list[Site]:
    """The sites whose values freeze a model, those of its norms as far as it has them."""
    sites = [Site("embed"), Site("final_norm_scale"), Site("logits")]
    for layer in range(model.n_layers):
        block = model.block(layer)
        norms = {"attn_norm": block.attn_norm, "attn_post_norm": block.attn_post_norm, "mlp_norm": block.mlp_norm}
        sites += [Site(f"{name}_scale", layer) for name, norm in norms.items() if norm is not None]
        sites += [Site("pattern", layer), Site("mlp_out", layer)]
    return sites


@final
@dataclass(frozen=True, eq=False)
class Weights:
    """What attention layers of one model have in common on all prompts: matrices with the norms' gains folded in.

    Attributes:
        w_v: see `FrozenAttention`.
        w_o: see `FrozenAttention`.
        b_v: what every value has besides, for a stream of zeros.
    """

    w_v: Float[Tensor, "kv_head d_head d_model"]
    w_o: Float[Tensor, "head d_model d_head"]
    b_v: Float[Tensor, "head d_head"]


def fold_attention(model: Model, layer: int) -> Weights:
    """Fold the norms of an attention layer into its weights, in float32."""
    block = model.block(layer)
    w_v, b_v = fold_read(block.attn_norm, block.w_v.float().flatten(0, 1))
    if block.b_v is not None:
        b_v = b_v + block.b_v.float().flatten()
    w_o = block.w_o.mT.float().contiguous()
    if block.attn_post_norm is not None:
        w_o = fold_write(block.attn_post_norm, w_o)
    kv_heads, d_head, d_model = block.w_v.shape
    b_v = b_v.view(kv_heads, d_head).repeat_interleave(len(w_o) // kv_heads, 0)
    return Weights(w_v.view(kv_heads, d_head, d_model), w_o.mT, b_v)


def freeze_attention(model: Model, layer: int, captured: Captured, weights: Weights | None = None) -> FrozenAttention:
    """One attention layer as it stood on the prompt; its weights are folded where they are not given."""
    weights, block = weights or fold_attention(model, layer), model.block(layer)
    pattern = captured[f"pattern.{layer}"].float().transpose(0, 1)
    constant = torch.einsum("hq,he,hde->qd", pattern.sum(2), weights.b_v, weights.w_o)
    if block.attn_post_norm is not None:
        scale = captured[f"attn_post_norm_scale.{layer}"].float()
        pattern, constant = pattern * scale, constant * scale
    if block.attn_norm is not None:
        pattern = pattern * captured[f"attn_norm_scale.{layer}"].float()[:, 0]
    constant = constant + attention_bias(model, layer, captured)
    return FrozenAttention(pattern.contiguous(), weights.w_v, weights.w_o, constant, _reach(pattern))


def attention_bias(model: Model, layer: int, captured: Captured) -> Float[Tensor, "token d_model"]:
    """What attention adds to the stream where its heads give nothing: biases of its output and of the norm after."""
    block, zeros = model.block(layer), torch.zeros_like(captured["embed"], dtype=torch.float32)
    bias = zeros if block.b_o is None else zeros + block.b_o.float()
    norm = block.attn_post_norm
    return bias if norm is None else norm.apply(bias, captured[f"attn_post_norm_scale.{layer}"].float())


def through_output(
    model: Model, layer: int, captured: Captured, vectors: Float[Tensor, "k width"], positions: Int[Tensor, " k"]
) -> Float[Tensor, "k d_model"]:
    """What vectors on the heads' side of attention's output add to the stream, biases apart."""
    written = vectors @ fold_attention(model, layer).w_o.mT.flatten(0, 1)
    scale = captured.get(f"attn_post_norm_scale.{layer}")
    return written if scale is None else written * scale.float()[positions]


def _reach(pattern: Float[Tensor, "head token token"]) -> int:
    """How far back a pattern looks at most."""
    seen = (pattern != 0).any(0)
    first = seen.int().argmax(1)
    return int((torch.arange(len(first), device=first.device) - first).max())


def fold_read(
    norm: Norm | None, rows: Float[Tensor, "t d_model"]
) -> tuple[Float[Tensor, "t d_model"], Float[Tensor, " t"]]:
    """Rows that read behind a norm, as rows and constants that read before it, up to the norm's scale."""
    if norm is None:
        return rows, rows.new_zeros(len(rows))
    constant = rows.new_zeros(len(rows)) if norm.bias is None else rows @ norm.bias.float()
    return norm.centre(rows if norm.gain is None else rows * norm.gain.float()), constant


def fold_write(norm: Norm, vectors: Float[Tensor, "*k d_model"]) -> Float[Tensor, "*k d_model"]:
    """Vectors written before a norm, as they leave it, up to the norm's scale and without its bias."""
    return norm.centre(vectors) if norm.gain is None else norm.centre(vectors) * norm.gain.float()


def read_place(model: Model, site: Site, captured: Captured) -> Place:
    """Where a coder's read site lies in the residual stream, or inside an attention layer.

    Raises:
        Unsupported: activations there are no linear read of the residual stream.
    """
    layer = site.layer
    assert layer is not None
    block = model.block(layer)
    mlp = 2 * layer if block.parallel else 2 * layer + 1
    if site.kind in ("mlp_in", "mlp_in_pregain"):
        norm, scale = block.mlp_norm, captured.get(f"mlp_norm_scale.{layer}")
        if norm is not None and site.kind == "mlp_in_pregain":
            norm = Norm(None, None, norm.centred)
        return Read(mlp, norm, None if scale is None else scale.float())
    if site.kind in ("attn_out", "attn_heads"):
        return _heads_read(model, site.kind, layer, captured)
    stages = {"resid_pre": 2 * layer, "resid_mid": 2 * layer + 1}
    if site.kind not in stages:
        raise Unsupported(
            f"A trace cannot use a coder that reads {site}; "
            "it takes coders that read mlp_in, mlp_in_pregain, resid_pre, resid_mid, attn_out or attn_heads."
        )
    return Read(stages[site.kind])


def _heads_read(model: Model, kind: str, layer: int, captured: Captured) -> HeadsRead:
    weights, scale = fold_attention(model, layer), captured.get(f"attn_post_norm_scale.{layer}")
    if kind == "attn_out":
        constant = freeze_attention(model, layer, captured, weights).constant
        return HeadsRead(layer, model.d_model, weights.w_o.mT.flatten(0, 1), None, constant)
    whole = captured[f"pattern.{layer}"].float().sum(2)
    constant = (whole[:, :, None] * weights.b_v).flatten(1)
    return HeadsRead(layer, model.d_model, None, None if scale is None else scale.float(), constant)


def final_place(model: Model, captured: Captured) -> Read:
    """Where the unembedding reads."""
    return Read(2 * model.n_layers, model.final_norm, captured["final_norm_scale"].float())
