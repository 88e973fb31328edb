"""What is written into the residual stream: active features, the errors of their coders, embeddings, and constants.

Turns a scope's coders and a captured forward pass into the sources, the feature targets and the constants of the
linear engine. This module must not know logits, nor what becomes of the edges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.circuits.engine.chosen import ATTENTION, part_of
from glassworks.circuits.engine.freeze import Captured, Read, attention_bias, fold_read, read_place, through_output
from glassworks.circuits.engine.linear import Skip, Targets, Writes
from glassworks.circuits.nodes import PARTS
from glassworks.coders import Coder
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Active:
    """The active features of one coder on the prompt, by position, masked positions left out.

    Attributes:
        coder: the coder.
        layer: the layer that it reads.
        part: the part of the layer that it stands for, a number in `PARTS`.
        position: token of each feature.
        index: its latent.
        value: its activation.
    """

    coder: Coder
    layer: int
    part: int
    position: Int[Tensor, " k"]
    index: Int[Tensor, " k"]
    value: Float[Tensor, " k"]


@final
@dataclass(frozen=True, eq=False)
class Sources:
    """Everything that writes into the residual stream.

    Attributes:
        tokens: how many tokens the prompt has.
        active: the features, coder by coder.
        errors: layer, part and position of each error node.
        writes: source vectors by stage; columns are features, errors, embeddings, in this order.
        constants: what enters by stage and belongs to no source.
        skips: live skip paths.
    """

    tokens: int
    active: tuple[Active, ...]
    errors: Int[Tensor, "error 3"]
    writes: Mapping[int, Writes]
    constants: Mapping[int, Float[Tensor, "token d_model"]]
    skips: tuple[Skip, ...]

    @property
    def features(self) -> int:
        """How many features there are."""
        return sum(len(each.index) for each in self.active)

    @property
    def columns(self) -> int:
        """How many sources there are."""
        return self.features + len(self.errors) + self.tokens


@final
@dataclass(frozen=True, eq=False)
class Output:
    """One output that is made of sources: an MLP's, or that of an attention layer which a coder replaces.

    Attributes:
        stage: where it enters the stream.
        layer: its layer.
        part: its part of the layer, a number in `PARTS`.
        site: where coders write it.
    """

    stage: int
    layer: int
    part: int
    site: Site

    def value(self, captured: Captured) -> Float[Tensor, "token d_model"]:
        """What the model really adds to the stream here."""
        return captured[str(self.stream)].float()

    @property
    def stream(self) -> Site:
        """Where it can be seen in the stream."""
        return Site("mlp_out" if self.part == PARTS.index("mlp") else "attn_out", self.layer)


def outputs(model: Model, coders: Sequence[Coder]) -> list[Output]:
    """The outputs that are made of sources, in the order of their error nodes: all MLPs, and replaced attention."""
    found = [Output(2 * n + 2, n, PARTS.index("mlp"), Site("mlp_out", n)) for n in range(model.n_layers)]
    attention = [coder.writes[0] for coder in coders if coder.writes[0].kind in ATTENTION]
    found += [Output(2 * _layer(site) + 1, _layer(site), PARTS.index("attention"), site) for site in attention]
    return sorted(found, key=lambda each: each.stage)


def collect(model: Model, coders: Sequence[Coder], captured: Captured, masked: Bool[Tensor, " token"]) -> Sources:
    """Encode the prompt, and lay out all that is written."""
    active = tuple(encode(coder, captured, masked) for coder in coders)
    skips = tuple(skip for coder in coders for skip in _skips(model, coder, captured, masked))
    places = outputs(model, coders)
    parts, constants = _writes(model, places, active, captured, masked)
    free = (~masked).nonzero()[:, 0]
    of = torch.tensor([[each.layer, each.part] for each in places], device=masked.device).repeat_interleave(
        len(free), 0
    )
    errors = torch.cat([of, free.repeat(len(places))[:, None]], dim=1)
    tokens, features = len(masked), sum(len(each.index) for each in active)
    embedding = torch.arange(tokens, device=masked.device)
    parts[0] = [(embedding, features + len(errors) + embedding, captured["embed"].float())]
    writes = {
        stage: Writes.sort(*(torch.cat(column) for column in zip(*part, strict=True)), tokens=tokens)
        for stage, part in parts.items()
    }
    return Sources(tokens, active, errors, writes, constants, skips)


def feature_targets(model: Model, active: Active, captured: Captured) -> Targets:
    """The pre-activations of active features as linear reads."""
    rows, bias = active.coder.encoder_rows(active.index), active.coder.encoder_bias(active.index)
    return read_place(model, active.coder.reads[0], captured).targets(rows, active.position, bias)


def preactivations(active: Active, captured: Captured) -> Float[Tensor, " k"]:
    """The pre-activations of active features on the captured activations."""
    x = captured[active.coder.reads[0].name].float()[active.position]
    return (x * active.coder.encoder_rows(active.index)).sum(1) + active.coder.encoder_bias(active.index)


Part = tuple[Tensor, Tensor, Tensor]  # positions, columns, vectors


def _writes(
    model: Model, places: Sequence[Output], active: Sequence[Active], captured: Captured, masked: Tensor
) -> tuple[dict[int, list[Part]], dict[int, Tensor]]:
    """Feature and error writes, and constants, of every output, by stage."""
    starts = torch.tensor([0, *(len(each.index) for each in active)]).cumsum(0).tolist()
    free = (~masked).nonzero()[:, 0]
    parts, constants = {}, {}
    for number, place in enumerate(places):
        output = place.value(captured)
        features, bias, error = [], torch.zeros_like(output), output.clone()
        for each, start in zip(active, starts, strict=False):
            if place.site not in each.coder.writes:
                continue
            part, silent = (
                _feature_writes(model, each, place, start, captured),
                _bias(model, each.coder, place, captured),
            )
            skipped = _skipped(each.coder, place.site, captured)
            check_finite(each.coder, part[2].sum() + silent.sum() + skipped.sum())
            features.append(part)
            bias += silent
            error.index_add_(0, part[0], part[2], alpha=-1)
            error -= silent + skipped
        columns = starts[-1] + number * len(free) + torch.arange(len(free), device=free.device)
        parts[place.stage] = [*features, (free, columns, error[free])]
        constants[place.stage] = torch.where(masked[:, None], output, bias)
    return parts, constants


def _feature_writes(model: Model, active: Active, place: Output, start: int, captured: Captured) -> Part:
    vectors = active.value[:, None] * active.coder.decoder_rows(active.index, place.site)
    if place.site.kind == "attn_heads":
        vectors = through_output(model, place.layer, captured, vectors, active.position)
    return active.position, start + torch.arange(len(vectors), device=vectors.device), vectors


def _bias(model: Model, coder: Coder, place: Output, captured: Captured) -> Tensor:
    bias = coder.bias(place.site)
    if place.site.kind != "attn_heads":
        return bias
    tokens = torch.arange(len(captured["embed"]), device=bias.device)
    through = through_output(model, place.layer, captured, bias.expand(len(tokens), -1), tokens)
    return through + attention_bias(model, place.layer, captured)


def _skipped(coder: Coder, site: Site, captured: Captured) -> Tensor:
    skip, x = coder.skip(site), captured[coder.reads[0].name].float()
    return x.new_zeros(()) if skip is None else x @ skip


def encode(coder: Coder, captured: Captured, masked: Bool[Tensor, " token"]) -> Active:
    """The active features of a coder; BadInput where its weights are not finite."""
    x = captured[coder.reads[0].name].float()
    latents = coder.encode(x)
    check_finite(coder, coder.preactivations(x[-1:]))  # a threshold would pass over NaN in silence
    kept = ~masked[latents.positions]
    found = (each[kept] for each in (latents.positions, latents.indices, latents.values.float()))
    return Active(coder, _layer(coder.reads[0]), PARTS.index(part_of(coder)), *found)


def check_finite(coder: Coder, values: Tensor) -> None:
    """Raise BadInput where what a coder gives is not finite."""
    if not bool(values.isfinite().all()):
        raise BadInput(f"The coder {coder.id} has weights that are not finite; download or write it again.")


def _skips(model: Model, coder: Coder, captured: Captured, masked: Bool[Tensor, " token"]) -> list[Skip]:
    place = read_place(model, coder.reads[0], captured)
    factor = (~masked).float()[:, None]
    found = []
    for site in coder.writes:
        weight = coder.skip(site)
        if weight is not None:
            assert isinstance(place, Read)
            rows, constant = fold_read(place.norm, weight.detach().T)
            scaled = factor if place.scale is None else factor * place.scale
            found.append(Skip(place.stage, 2 * _layer(site) + 2, rows.T, scaled, factor * constant))
    return found


def _layer(site: Site) -> int:
    assert site.layer is not None
    return site.layer
