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

from glassworks.circuits.freeze import Captured, fold_read, read_place
from glassworks.circuits.linear import Skip, Targets, Writes
from glassworks.coders import Coder, Scope
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Model
from glassworks.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Active:
    """The active features of one coder on the prompt, by position, masked positions left out.

    Attributes:
        coder: the coder.
        layer: the layer that it reads.
        position: token of each feature.
        index: its latent.
        value: its activation.
    """

    coder: Coder
    layer: int
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
        errors: layer and position of each error node.
        writes: source vectors by stage; columns are features, errors, embeddings, in this order.
        constants: what enters by stage and belongs to no source.
        skips: live skip paths.
    """

    tokens: int
    active: tuple[Active, ...]
    errors: Int[Tensor, "error 2"]
    writes: Mapping[int, Writes]
    constants: Mapping[int, Float[Tensor, "token d_model"]]
    skips: tuple[Skip, ...]

    @property
    def columns(self) -> int:
        """How many sources there are."""
        return sum(len(each.index) for each in self.active) + len(self.errors) + self.tokens


def replacement(model: Model, scope: Scope | None) -> tuple[Coder, ...]:
    """The coders that a trace uses, by layer; layers without one keep their MLP as one error node a position.

    Raises:
        BadInput: the scope names no replacement, or a coder does not fit the model.
        Unsupported: a coder writes something else than MLP outputs, or two read the same layer.
    """
    if scope is not None and not scope.replacement:
        raise BadInput(
            f"The scope {scope.name} does not say which coders replace the MLPs; take a part of it with "
            f"scope.choose(kind=..., width=..., l0=..., tags=...), one coder a layer or one CLT."
        )
    coders = [] if scope is None else [part for name in scope.replacement for part in scope[name].parts]
    for coder in coders:
        _check(model, coder)
    layers = [_layer(coder.reads[0]) for coder in coders]
    if len(set(layers)) < len(layers):
        raise Unsupported("Two coders of the replacement set read the same layer; a trace takes one a layer.")
    return tuple(sorted(coders, key=lambda coder: _layer(coder.reads[0])))


def masked_positions(scope: Scope | None, texts: Sequence[str]) -> Bool[Tensor, " token"]:
    """Positions without features and errors, because the coders were not trained on them."""
    return torch.arange(len(texts)) < (0 if scope is None else scope.masked(texts))


def collect(model: Model, coders: Sequence[Coder], captured: Captured, masked: Bool[Tensor, " token"]) -> Sources:
    """Encode the prompt, and lay out all that is written."""
    active = tuple(_encode(coder, captured, masked) for coder in coders)
    skips = tuple(skip for coder in coders for skip in _skips(model, coder, captured, masked))
    parts, constants = _mlp_writes(model, active, captured, masked)
    errors = torch.cartesian_prod(torch.arange(model.n_layers), (~masked).nonzero()[:, 0])
    tokens, features = len(masked), sum(len(each.index) for each in active)
    embedding = torch.arange(tokens)
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


def _mlp_writes(
    model: Model, active: Sequence[Active], captured: Captured, masked: Bool[Tensor, " token"]
) -> tuple[dict[int, list[Part]], dict[int, Tensor]]:
    """Feature and error writes, and constants, of every layer's MLP output, by stage."""
    starts = torch.tensor([0, *(len(each.index) for each in active)]).cumsum(0).tolist()
    free = (~masked).nonzero()[:, 0]
    parts, constants = {}, {}
    for layer in range(model.n_layers):
        site, output = Site("mlp_out", layer), captured[f"mlp_out.{layer}"].float()
        writers = [(each, start) for each, start in zip(active, starts, strict=False) if site in each.coder.writes]
        features = [_feature_writes(each, site, start) for each, start in writers]
        bias = sum((each.coder.bias(site) for each, _ in writers), start=torch.zeros_like(output))
        error = output - bias - sum(_skipped(each.coder, site, captured) for each, _ in writers)
        for positions, _, vectors in features:
            error.index_add_(0, positions, vectors, alpha=-1)
        columns = starts[-1] + layer * len(free) + torch.arange(len(free))
        parts[2 * layer + 2] = [*features, (free, columns, error[free])]
        constants[2 * layer + 2] = torch.where(masked[:, None], output, bias)
    return parts, constants


def _feature_writes(active: Active, site: Site, start: int) -> Part:
    vectors = active.value[:, None] * active.coder.decoder_rows(active.index, site)
    return active.position, start + torch.arange(len(vectors)), vectors


def _skipped(coder: Coder, site: Site, captured: Captured) -> Tensor | float:
    skip = coder.skip(site)
    return 0.0 if skip is None else captured[coder.reads[0].name].float() @ skip


def _encode(coder: Coder, captured: Captured, masked: Bool[Tensor, " token"]) -> Active:
    latents = coder.encode(captured[coder.reads[0].name].float())
    kept = ~masked[latents.positions]
    return Active(
        coder, _layer(coder.reads[0]), latents.positions[kept], latents.indices[kept], latents.values[kept].float()
    )


def _skips(model: Model, coder: Coder, captured: Captured, masked: Bool[Tensor, " token"]) -> list[Skip]:
    place = read_place(model, coder.reads[0], captured)
    factor = (~masked).float()[:, None]
    found = []
    for site in coder.writes:
        weight = coder.skip(site)
        if weight is not None:
            rows, constant = fold_read(place.norm, weight.detach().T)
            scaled = factor if place.scale is None else factor * place.scale
            found.append(Skip(place.stage, 2 * _layer(site) + 2, rows.T, scaled, factor * constant))
    return found


def _layer(site: Site) -> int:
    return -1 if site.layer is None else site.layer


def _check(model: Model, coder: Coder) -> None:
    if any(site.kind != "mlp_out" for site in coder.writes):
        wrong = ", ".join(site.name for site in coder.writes)
        raise Unsupported(f"The coder {coder.id} writes {wrong}; a trace takes coders that write mlp_out.")
    if any(_layer(site) >= model.n_layers for site in (*coder.reads, *coder.writes)):
        raise BadInput(f"The coder {coder.id} does not fit the model, which has layers 0 to {model.n_layers - 1}.")
    if min(map(_layer, coder.writes)) < _layer(coder.reads[0]):
        raise Unsupported(f"The coder {coder.id} writes below the layer that it reads; a trace takes none such.")
    width = coder.encoder_rows(torch.zeros(1, dtype=torch.long)).shape[1]
    if width != model.d_model:
        raise BadInput(f"The coder {coder.id} reads width {width}; the model's stream has width {model.d_model}.")
