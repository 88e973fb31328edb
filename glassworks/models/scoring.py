"""How attention layers score keys for queries: their projections, norms and rotations, whatever the family.

Queries and keys are linear in a layer's input up to the scale of a norm of their own (Gemma 3, Qwen 3, OLMo 2), and
are then rotated by position. This module must not know what is made of a score.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassworks.models.architectures import Anatomy
from glassworks.models.weights import Norm, norm_epsilon, read_linear, read_norm

Rotation = tuple[Float[Tensor, "token rotated"], Float[Tensor, "token rotated"]]


@final
@dataclass(frozen=True)
class Projection:
    """How queries, or keys, come from a layer's input (the site `attn_in`), before they are rotated.

    Attributes:
        weight: one matrix a head.
        bias: added to it, or None.
        norm: root-mean-square norm of the result, over each head, or over all heads side by side; or None.
        whole: whether the norm is over all heads.
        epsilon: what the norm adds to the variance.
    """

    weight: Float[Tensor, "head d_head d_model"]
    bias: Float[Tensor, "head d_head"] | None
    norm: Norm | None = None
    whole: bool = False
    epsilon: float = 0.0

    def frozen(
        self, x: Float[Tensor, " d_model"], head: int
    ) -> tuple[Float[Tensor, "d_head d_model"], Float[Tensor, " d_head"]]:
        """One head's rows and constant on an input, with the norm's scale as it is there."""
        weight = self.weight.float()
        bias = weight.new_zeros(weight.shape[:2]) if self.bias is None else self.bias.float()
        if self.norm is None or self.norm.gain is None:
            return weight[head], bias[head]
        made = weight @ x.float() + bias
        gain = self.norm.gain.float().view(-1, weight.shape[1])[head if self.whole else 0]
        factor = gain * torch.rsqrt((made if self.whole else made[head]).square().mean() + self.epsilon)
        return weight[head] * factor[:, None], bias[head] * factor


@final
@dataclass(frozen=True)
class Scorer:
    """How one layer scores: `scaling * (rotated query) . (rotated key)`, then perhaps soft-capped.

    Attributes:
        query: makes the queries, one a head.
        key: makes the keys; key-value head k serves heads k*g .. k*g+g-1.
        scaling: factor of the product.
        rotation: cosines and sines by position of the first dimensions of queries and keys, or None.
    """

    query: Projection
    key: Projection
    scaling: float
    rotation: Rotation | None

    def rotated(self, vectors: Float[Tensor, "*k d_head"], position: int) -> Float[Tensor, "*k d_head"]:
        """Rotate vectors as a query or key at a position is (rotary embedding, halves side by side)."""
        if self.rotation is None:
            return vectors
        cos, sin = (each[position].float() for each in self.rotation)
        turned, rest = vectors[..., : len(cos)], vectors[..., len(cos) :]
        first, second = turned.chunk(2, dim=-1)
        return torch.cat([turned * cos + torch.cat([-second, first], -1) * sin, rest], -1)


def read_scorer(anatomy: Anatomy, layer: int, tokens: Int[Tensor, " token"], heads: int, kv_heads: int) -> Scorer:
    """Read how one layer scores on a prompt.

    Args:
        anatomy: the model's parts.
        layer: which layer.
        tokens: the prompt, whose positions decide the rotations.
        heads: number of query heads.
        kv_heads: number of key-value heads.
    """
    attention = anatomy.part("attention", layer)
    assert attention is not None
    (w_q, b_q), (w_k, b_k) = _projections(anatomy, attention, heads, kv_heads)
    offset = anatomy.row.gain_offset
    return Scorer(
        query=_projection(w_q, b_q, getattr(attention, "q_norm", None), heads, offset),
        key=_projection(w_k, b_k, getattr(attention, "k_norm", None), kv_heads, offset),
        scaling=float(attention.scaling),  # pyright: ignore[reportArgumentType]
        rotation=_rotation(anatomy, attention, tokens),
    )


Linear = tuple[Tensor, Tensor | None]


def _projections(anatomy: Anatomy, attention: nn.Module, heads: int, kv_heads: int) -> tuple[Linear, Linear]:
    """Weights and biases that make the queries and the keys, out of one fused projection where there is one."""
    if anatomy.row.values == "v_proj":
        return read_linear(attention.get_submodule("q_proj")), read_linear(attention.get_submodule("k_proj"))
    weight, bias = read_linear(attention.get_submodule(anatomy.row.values))
    if anatomy.row.interleaved:
        parts = [None if each is None else each.unflatten(0, (heads, 3, -1)) for each in (weight, bias)]
        query, key = ([None if each is None else each[:, at].flatten(0, 1) for each in parts] for at in (0, 1))
        return (query[0], query[1]), (key[0], key[1])  # pyright: ignore[reportReturnType]
    d_head = len(weight) // (heads + 2 * kv_heads)
    cuts = [heads * d_head, (heads + kv_heads) * d_head]
    weights, biases = weight.tensor_split(cuts), [None] * 3 if bias is None else bias.tensor_split(cuts)
    return (weights[0], biases[0]), (weights[1], biases[1])


def _projection(weight: Tensor, bias: Tensor | None, norm: Any, heads: int, gain_offset: float) -> Projection:
    found = read_norm(norm, gain_offset)
    return Projection(
        weight=weight.unflatten(0, (heads, -1)),
        bias=None if bias is None else bias.unflatten(0, (heads, -1)),
        norm=found,
        whole=found is not None and found.gain is not None and len(found.gain) == len(weight) > len(weight) // heads,
        epsilon=0.0 if norm is None else norm_epsilon(norm),
    )


@torch.no_grad()
def _rotation(anatomy: Anatomy, attention: nn.Module, tokens: Int[Tensor, " token"]) -> Rotation | None:
    """What the model itself hands to a layer as its rotation; layers of one model may differ."""
    found: list[Any] = []

    def keep(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        found.append(kwargs.get("position_embeddings"))

    hook = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        anatomy.hf(input_ids=tokens[None], use_cache=False)
    finally:
        hook.remove()
    return None if found[0] is None else (found[0][0][0], found[0][1][0])
