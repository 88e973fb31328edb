"""A model's weights in one orientation, whatever its family: what the linear engine computes with.

Matrices map by `y = W x` (the orientation of `nn.Linear`), fused projections are split, and a norm's gain is the
factor that is really applied. This module must not know how they are used.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassworks.models.architectures import Anatomy


@dataclass(frozen=True)
class Norm:
    """A norm with its scale taken out: `scale * (x - mean(x) if centred else x) * gain + bias`.

    The scale, 1 / rms(x) or 1 / sigma(x), is the value of the matching `*_norm_scale` site.

    Attributes:
        gain: factor per direction; None is 1.
        bias: added afterwards; None is 0.
        centred: whether the mean over the directions is subtracted first (LayerNorm).
        epsilon: what is added to the variance before its root is taken, where the scale is computed anew.
    """

    gain: Float[Tensor, " d_model"] | None
    bias: Float[Tensor, " d_model"] | None
    centred: bool
    epsilon: float = 0.0

    def apply(self, x: Float[Tensor, "*token d_model"], scale: Float[Tensor, "*#token 1"]) -> Tensor:
        """Normalise x (..., d_model) with a given scale (..., 1)."""
        y = self.centre(x) * scale
        if self.gain is not None:
            y = y * self.gain
        return y if self.bias is None else y + self.bias

    def __call__(self, x: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token d_model"]:
        """Normalise x (..., d_model) with its own scale."""
        return self.apply(x, torch.rsqrt(self.centre(x).square().mean(-1, keepdim=True) + self.epsilon))

    def centre(self, x: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token d_model"]:
        """Subtract the mean where this norm does."""
        return x - x.mean(-1, keepdim=True) if self.centred else x


@dataclass(frozen=True)
class Block:
    """The linear parts of one block, detached.

    Attributes:
        w_v: values, (kv_heads, d_head, d_model); key-value head k serves heads k*g .. k*g+g-1 of heads = kv_heads*g.
        b_v: their bias, (kv_heads, d_head), or None.
        w_o: output projection, (heads, d_model, d_head).
        b_o: its bias, (d_model), or None.
        attn_norm: norm before attention, or None.
        attn_post_norm: norm between attention and the residual stream, or None.
        mlp_norm: norm before the MLP, or None.
        mlp_post_norm: norm between the MLP and the residual stream, or None.
        parallel: whether the MLP reads the stream as it enters the block, and not after attention.
    """

    w_v: Float[Tensor, "kv_heads d_head d_model"]
    b_v: Float[Tensor, "kv_heads d_head"] | None
    w_o: Float[Tensor, "heads d_model d_head"]
    b_o: Float[Tensor, " d_model"] | None
    attn_norm: Norm | None
    attn_post_norm: Norm | None
    mlp_norm: Norm | None
    mlp_post_norm: Norm | None
    parallel: bool


def read_norm(module: nn.Module | None, gain_offset: float) -> Norm | None:
    """Read a norm's gain, bias and kind; None for no norm."""
    if module is None:
        return None
    gain, bias = module.weight.detach(), getattr(module, "bias", None)  # pyright: ignore[reportCallIssue]
    if gain_offset:
        gain = gain.float() + gain_offset
    centred = isinstance(module, nn.LayerNorm)
    return Norm(gain, None if bias is None else bias.detach(), centred, norm_epsilon(module))


def norm_epsilon(module: nn.Module) -> float:
    """Read what a norm adds to the variance."""
    return float(getattr(module, "variance_epsilon", None) or module.eps)  # pyright: ignore[reportArgumentType]


def read_block(anatomy: Anatomy, layer: int, heads: int, kv_heads: int, d_head: int) -> Block:
    """Read the linear parts of one layer.

    Args:
        anatomy: the model's parts.
        layer: which layer.
        heads: number of query heads.
        kv_heads: number of key-value heads.
        d_head: width of a head.
    """
    row = anatomy.row
    attention = anatomy.layers[layer].get_submodule(row.attention)
    fused, fused_bias = read_linear(attention.get_submodule(row.values))
    w_o, b_o = read_linear(attention.get_submodule(row.output))
    norms = {
        name: read_norm(anatomy.part(name, layer), row.gain_offset)
        for name in ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm")
    }
    return Block(
        w_v=_values(fused, row.interleaved, kv_heads, d_head),
        b_v=None if fused_bias is None else _values(fused_bias, row.interleaved, kv_heads, d_head),
        w_o=w_o.unflatten(1, (heads, d_head)).transpose(0, 1),
        b_o=b_o,
        parallel=anatomy.parallel,
        **norms,
    )


def read_linear(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Read weight (out, in) and bias of a projection; GPT-2's Conv1D keeps its weight as (in, out)."""
    weight, bias = module.weight.detach(), module.bias  # pyright: ignore[reportCallIssue]
    weight = weight if isinstance(module, nn.Linear) else weight.T
    return weight, None if bias is None else bias.detach()  # pyright: ignore[reportReturnType, reportCallIssue]


def _values(fused: Tensor, interleaved: bool, kv_heads: int, d_head: int) -> Tensor:
    """Rows of a projection that make the values, by head: the last ones, or the last third of each head."""
    if interleaved:
        return fused.unflatten(0, (kv_heads, 3, d_head))[:, 2]
    return fused[-kv_heads * d_head :].unflatten(0, (kv_heads, d_head))
