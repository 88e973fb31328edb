"""Parts: features and heads of one layer of a model, with the rows that they need and nothing else of it.

A part reads states of its own model's residual stream, wherever they come from, and gives what it writes there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, Norm
from glassworks.sites import Site

Memory = dict[str, Tensor]
"""Keys and values of earlier tokens, where a text comes token by token."""


@dataclass(frozen=True, eq=False)
class CircuitPart(ABC):
    """Nodes of one layer of one kind.

    Attributes:
        facts: plain JSON values: `layer`, and what the kind needs.
        weights: tensors by name, in float32.
    """

    facts: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    kind: ClassVar[str]
    reads: ClassVar[str]

    @property
    def layer(self) -> int:
        """The layer of the model that it comes from."""
        return self.facts["layer"]

    @property
    def site(self) -> Site:
        """What it reads in that model."""
        return Site(self.reads, self.layer)

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Its nodes."""

    @abstractmethod
    def read(self, x: Float[Tensor, "row token d_a"], start: int, memory: Memory) -> Float[Tensor, "row token node k"]:
        """The values of nodes.

        Args:
            x: states at `site`.
            start: position of the first token.
            memory: of earlier tokens; updated.
        """

    @abstractmethod
    def write(self, values: Float[Tensor, "row token node k"]) -> Float[Tensor, "row token d_a"]:
        """What nodes with these values add to the residual stream."""

    def normed(self, x: Tensor) -> Tensor:
        """States after the norm that stands before these nodes, if there is one."""
        if "epsilon" not in self.facts:
            return x
        gain, bias = self.weights.get("gain"), self.weights.get("norm_bias")
        return Norm(gain, bias, self.facts["centred"], self.facts["epsilon"])(x)


@final
class FeaturePart(CircuitPart):
    """Latents of one coder that reads an MLP's input and writes its output."""

    kind = "features"
    reads = "resid_mid"

    @property
    def names(self) -> tuple[str, ...]:
        """Coder and latent, `mlp_in.2/17`."""
        return tuple(f"{self.facts['coder']}/{index}" for index in self.facts["nodes"])

    def read(self, x: Float[Tensor, "row token d_a"], start: int, memory: Memory) -> Float[Tensor, "row token node 1"]:
        """Their activations on the normed states."""
        return self.active(self.normed(x))[..., None]

    def active(self, x: Float[Tensor, "*token d_a"]) -> Float[Tensor, "*token node"]:
        """Their activations on the MLP's input: JumpReLU."""
        before = x @ self.weights["w_enc"].T + self.weights["b_enc"]
        return before * (before > self.weights["threshold"])

    def write(self, values: Float[Tensor, "row token node 1"]) -> Float[Tensor, "row token d_a"]:
        """Activations times decoder rows."""
        return values[..., 0] @ self.weights["w_dec"]


@final
class HeadPart(CircuitPart):
    """Attention heads of one layer, with their own queries, keys, values and outputs.

    What a norm between attention and the stream divides by depends on all heads together; here it is the mean over
    the text that the graft was made with, so that a head stands alone.
    """

    kind = "heads"
    reads = "resid_pre"

    @property
    def names(self) -> tuple[str, ...]:
        """Layer and head, `2.1`."""
        return tuple(f"{self.layer}.{head}" for head in self.facts["nodes"])

    def read(self, x: Float[Tensor, "row token d_a"], start: int, memory: Memory) -> Float[Tensor, "row token node k"]:
        """The heads' outputs before their output projection."""
        h = self.normed(x)
        query, key = (self._rotated(self._projected(h, end), start) for end in ("q", "k"))
        value = torch.einsum("btd,hed->bhte", h, self.weights["w_v"])
        value = value + self.weights["b_v"][:, None] if "b_v" in self.weights else value
        if start:
            key, value = (torch.cat([memory[name], now], 2) for name, now in (("key", key), ("value", value)))
        memory |= {"key": key.detach(), "value": value.detach()}
        distance = torch.arange(start, start + x.shape[1])[:, None] - torch.arange(key.shape[2])
        seen = (distance >= 0) & (distance < (self.facts["window"] or key.shape[2] + 1))
        scores = query @ key.transpose(2, 3) * self.facts["scaling"]
        return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)

    def write(self, values: Float[Tensor, "row token node k"]) -> Float[Tensor, "row token d_a"]:
        """Through the heads' output projections."""
        return torch.einsum("bthe,hde->btd", values, self.weights["w_o"])

    def _projected(self, h: Tensor, end: str) -> Tensor:
        """Queries (`q`) or keys (`k`) before rotation."""
        vectors = torch.einsum("btd,hed->bhte", h, self.weights[f"w_{end}"])
        if f"b_{end}" in self.weights:
            vectors = vectors + self.weights[f"b_{end}"][:, None]
        if f"gain_{end}" not in self.weights:
            return vectors
        scale = torch.rsqrt(vectors.square().mean(-1, keepdim=True) + self.facts[f"epsilon_{end}"])
        return vectors * scale * self.weights[f"gain_{end}"]

    def _rotated(self, vectors: Tensor, start: int) -> Tensor:
        """Rotated by position, halves side by side; see `models.Scorer.rotated`."""
        if "cos" not in self.weights:
            return vectors
        end = start + vectors.shape[2]
        if end > len(self.weights["cos"]):
            raise BadInput(f"The graft's heads know {len(self.weights['cos'])} positions; the text has {end} tokens.")
        cos, sin = (self.weights[name][start:end] for name in ("cos", "sin"))
        rotary, rest = vectors[..., : cos.shape[1]], vectors[..., cos.shape[1] :]
        first, second = rotary.chunk(2, dim=-1)
        return torch.cat([rotary * cos + torch.cat([-second, first], -1) * sin, rest], -1)


KINDS: dict[str, type[CircuitPart]] = {part.kind: part for part in (HeadPart, FeaturePart)}
"""The kinds of parts by the name that files hold."""


def feature_part(model: Model, coder: Coder, indices: Sequence[int]) -> FeaturePart:
    """Take latents out of a transcoder.

    Args:
        model: the model that the coder is of.
        coder: reads `mlp_in` and writes `mlp_out` of one layer.
        indices: which latents.

    Raises:
        Unsupported: the coder reads or writes elsewhere, or its latents choose among each other.
        NotFound: it has no such latent.
    """
    site, wrong = coder.reads[0], [index for index in indices if not 0 <= index < coder.d_latent]
    if wrong:
        raise NotFound(f"The coder {coder.id} has no latent {wrong[0]}; it has 0 to {coder.d_latent - 1}.")
    if [end.kind for end in (*coder.reads, *coder.writes)] != ["mlp_in", "mlp_out"] or model.parallel:
        raise Unsupported(f"The coder {coder.id} cannot be grafted: only transcoders of serial blocks' MLPs can.")
    if coder.activation.span != "latent":
        raise Unsupported(f"The latents of {coder.id} are chosen together ({coder.activation.kind}), not one by one.")
    assert site.layer is not None
    chosen = torch.tensor(list(indices), dtype=torch.long)
    threshold = coder.activation.tensors().get("threshold")
    weights = {
        "w_enc": coder.encoder_rows(chosen),
        "b_enc": coder.encoder_bias(chosen),
        "w_dec": coder.decoder_rows(chosen),
        "threshold": torch.zeros(len(chosen)) if threshold is None else threshold[chosen],
    }
    facts = {"layer": site.layer, "coder": coder.id, "nodes": [int(index) for index in indices]}
    return FeaturePart(*_with_norm(facts, weights, model.block(site.layer).mlp_norm))


def head_part(model: Model, layer: int, heads: Sequence[int], scale: float) -> HeadPart:
    """Take heads out of a layer.

    Args:
        model: where they are.
        layer: of the heads.
        heads: which.
        scale: what the norm after attention multiplies by, on average; 1 where there is none.

    Raises:
        NotFound: there is no such head.
        Unsupported: the heads' queries are normed together, or scores are soft-capped.
    """
    wrong = [head for head in heads if not 0 <= head < model.n_heads]
    if wrong:
        raise NotFound(f"Layer {layer} of {model.name} has no head {wrong[0]}; it has 0 to {model.n_heads - 1}.")
    config, block, picked = model.hf.config.get_text_config(), model.block(layer), list(heads)
    scorer = model.scorer(layer, [0] * model.context_length)
    if getattr(config, "attn_logit_softcapping", None) or scorer.query.whole or scorer.key.whole:
        raise Unsupported(f"Heads of {model.family} models cannot be grafted: they are normed together or soft-capped.")
    serving = [head * model.n_kv_heads // model.n_heads for head in picked]
    post = block.attn_post_norm
    gain = torch.ones(model.d_model) if post is None or post.gain is None else post.gain
    weights = {"w_o": block.w_o[picked].float() * (scale * gain.float())[:, None], "w_v": block.w_v[serving]}
    weights |= {} if block.b_v is None else {"b_v": block.b_v[serving]}
    kinds = getattr(config, "layer_types", None)
    window = int(config.sliding_window) if kinds and kinds[layer] == "sliding_attention" else None
    facts = {"layer": layer, "nodes": picked, "scaling": scorer.scaling, "window": window}
    for end, projection, rows in (("q", scorer.query, picked), ("k", scorer.key, serving)):
        weights[f"w_{end}"] = projection.weight[rows]
        if projection.bias is not None:
            weights[f"b_{end}"] = projection.bias[rows]
        if projection.norm is not None and projection.norm.gain is not None:
            weights[f"gain_{end}"], facts[f"epsilon_{end}"] = projection.norm.gain, projection.epsilon
    if scorer.rotation is not None:
        weights |= {"cos": scorer.rotation[0], "sin": scorer.rotation[1]}
    return HeadPart(*_with_norm(facts, weights, block.attn_norm))


def _with_norm(facts: dict[str, Any], weights: dict[str, Tensor], norm: Norm | None) -> tuple[dict, dict]:
    if norm is not None:
        facts = {**facts, "centred": norm.centred, "epsilon": norm.epsilon}
        weights = {**weights, **({} if norm.gain is None else {"gain": norm.gain})}
        weights = {**weights, **({} if norm.bias is None else {"norm_bias": norm.bias})}
    return facts, {name: weight.detach().float().cpu().clone() for name, weight in weights.items()}
