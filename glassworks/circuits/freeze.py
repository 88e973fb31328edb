"""From a model's captured forward pass to the frozen linear model: folds norms into the weights beside them.

The only place that knows how a block of a language model becomes the algebra of `linear`; this module must not
know coders.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.linear import FrozenAttention, Targets
from glassworks.errors import Unsupported
from glassworks.models import Block, Model, Norm
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
        if self.scale is not None:
            covectors = covectors * self.scale[positions]
        return Targets(torch.full_like(positions, self.stage), positions, covectors, constant + more)


def needed(model: Model) -> list[Site]:
    """The sites whose values freeze a model, those of its norms as far as it has them."""
    sites = [Site("embed"), Site("final_norm_scale"), Site("logits")]
    for layer in range(model.n_layers):
        block = model.block(layer)
        norms = {"attn_norm": block.attn_norm, "attn_post_norm": block.attn_post_norm, "mlp_norm": block.mlp_norm}
        sites += [Site(f"{name}_scale", layer) for name, norm in norms.items() if norm is not None]
        sites += [Site("pattern", layer), Site("mlp_out", layer)]
    return sites


def freeze_attention(model: Model, layer: int, captured: Captured) -> FrozenAttention:
    """One attention layer as it stood on the prompt."""
    block = model.block(layer)
    w_v, b_v = _values(block)
    w_o = block.w_o.float()
    pattern = captured[f"pattern.{layer}"].float().transpose(0, 1)
    constant = torch.einsum("hqk,he,hde->qd", pattern, b_v.repeat_interleave(len(w_o) // len(w_v), 0), w_o)
    if block.b_o is not None:
        constant = constant + block.b_o.float()
    if block.attn_norm is not None:
        pattern = pattern * captured[f"attn_norm_scale.{layer}"].float()[:, 0]
    if block.attn_post_norm is not None:
        scale = captured[f"attn_post_norm_scale.{layer}"].float()
        pattern, w_o = pattern * scale, fold_write(block.attn_post_norm, w_o.mT).mT
        constant = block.attn_post_norm.apply(constant, scale)
    return FrozenAttention(pattern, w_v, w_o, constant)


def _values(block: Block) -> tuple[Float[Tensor, "kv_head d_head d_model"], Float[Tensor, "kv_head d_head"]]:
    shape = block.w_v.shape
    w_v, b_v = fold_read(block.attn_norm, block.w_v.float().flatten(0, 1))
    if block.b_v is not None:
        b_v = b_v + block.b_v.float().flatten()
    return w_v.view(shape), b_v.view(shape[:2])


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


def read_place(model: Model, site: Site, captured: Captured) -> Read:
    """Where a coder's read site lies in the residual stream.

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
    stages = {"resid_pre": 2 * layer, "resid_mid": 2 * layer + 1}
    if site.kind not in stages:
        raise Unsupported(
            f"A trace cannot use a coder that reads {site}; "
            "it takes coders that read mlp_in, mlp_in_pregain, resid_pre or resid_mid."
        )
    return Read(stages[site.kind])


def final_place(model: Model, captured: Captured) -> Read:
    """Where the unembedding reads."""
    return Read(2 * model.n_layers, model.final_norm, captured["final_norm_scale"].float())
