"""What is written into the residual stream: active features, the errors of their coders, embeddings, and constants.

First, which coders a trace uses, and whether it can use them exactly: coders of MLPs (transcoders, skip-transcoders,
cross-layer transcoders) and of attention outputs replace parts of the model, and the graph is exact. Autoencoders on
the residual stream or on MLP outputs can only be followed through the model's own Jacobian (`jacobian`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.circuits.engine.freeze import Captured, Read, attention_bias, fold_read, read_place, through_output
from glassworks.circuits.engine.linear import Skip, Targets, Writes
from glassworks.circuits.nodes import ATTENTION, MLP, PARTS
from glassworks.coders import Coder, Scope
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Model
from glassworks.sites import Site

ATTENTION_SITES = ("attn_out", "attn_heads")
MLP_READS = ("mlp_in", "mlp_in_pregain", "resid_pre", "resid_mid")
APPROXIMATE = ("resid_pre", "resid_mid", "resid_post", "mlp_out")
"""Sites whose autoencoders have no exact edges."""


def layer_of(site: Site) -> int:
    """The layer of a site; -1 where it has none."""
    return -1 if site.layer is None else site.layer


def part_of(site: Site) -> str:
    """Which part of a layer a coder that writes a site replaces: a name of `PARTS`."""
    return "attention" if site.kind in ATTENTION_SITES else "mlp" if site.kind == "mlp_out" else site.kind


def place_of(coder: Coder) -> tuple[int, int]:
    """Layer and part, by which features are ordered."""
    return layer_of(coder.reads[0]), PARTS.index(part_of(coder.writes[0]))


def replacement(model: Model, scope: Scope | None) -> tuple[Coder, ...]:
    """The coders that a trace uses, from the lowest; an MLP without one is one error node a position.

    Raises:
        BadInput: the scope names no replacement, or a coder does not fit the model.
        Unsupported: a coder reads or writes what a trace does not know, or two replace the same part of a layer.
    """
    if scope is not None and not scope.replacement:
        raise BadInput(
            f"The scope {scope.name} does not name the coders that replace the MLPs; take a part of it with "
            f"scope.choose(kind=..., width=..., l0=..., tags=...), one coder a layer or one CLT."
        )
    coders = [] if scope is None else [part for name in scope.replacement for part in scope[name].parts]
    for coder in coders:
        _check(model, coder)
    places = [place_of(coder) for coder in coders]
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise Unsupported(
            f"Two coders of the replacement set replace the {PARTS[twice[0][1]]} part of layer {twice[0][0]}; "
            "a trace takes one."
        )
    return tuple(sorted(coders, key=place_of))


def _check(model: Model, coder: Coder) -> None:
    if len(coder.reads) != 1:
        raise Unsupported(f"The coder {coder.id} reads {len(coder.reads)} sites at once; a trace takes coders of one.")
    read, kinds = coder.reads[0], {site.kind for site in coder.writes}
    alike = coder.reads == coder.writes and read.kind in (*ATTENTION_SITES, *APPROXIMATE)
    if not alike and (kinds != {"mlp_out"} or read.kind not in MLP_READS):
        wrong, own = ", ".join(site.name for site in coder.writes), ", ".join((*ATTENTION_SITES, *APPROXIMATE))
        raise Unsupported(
            f"The coder {coder.id} reads {read} and writes {wrong}; a trace takes coders that read "
            f"{', '.join(MLP_READS)} and write mlp_out, and autoencoders on {own}."
        )
    if any(layer_of(site) >= model.n_layers for site in (*coder.reads, *coder.writes)):
        raise BadInput(f"The coder {coder.id} does not fit the model, which has layers 0 to {model.n_layers - 1}.")
    if min(map(layer_of, coder.writes)) < layer_of(read):
        raise Unsupported(
            f"The coder {coder.id} writes below the layer that it reads; a trace does not take such coders."
        )
    width = coder.encoder_rows(torch.zeros(1, dtype=torch.long)).shape[1]
    right = model.n_heads * model.d_head if read.kind == "attn_heads" else model.d_model
    if width != right:
        raise BadInput(f"The coder {coder.id} reads width {width}; {read} of the model has width {right}.")


def masked_positions(scope: Scope | None, texts: Sequence[str]) -> Bool[Tensor, " token"]:
    """Positions without features and errors, because the coders were not trained on them."""
    return torch.arange(len(texts)) < (0 if scope is None else scope.masked(texts))


def approximate(coders: Sequence[Coder]) -> list[str]:
    """The coders that have no exact edges, by id."""
    return [coder.id for coder in coders if coder.reads == coder.writes and coder.reads[0].kind in APPROXIMATE]


@final
@dataclass(frozen=True, eq=False)
class Active:
    """The active features of one coder on the prompt, by position, masked positions left out.

    Attributes:
        coder: the coder.
        layer: the layer that it reads.
        part: the part of the layer that it replaces, a number in `PARTS`.
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
        return sum(len(features.index) for features in self.active)

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

    @property
    def stream(self) -> Site:
        """Where it can be seen in the stream."""
        return Site("mlp_out" if self.part == MLP else "attn_out", self.layer)


def outputs(model: Model, coders: Sequence[Coder]) -> list[Output]:
    """The outputs that are made of sources, in the order of their error nodes: all MLPs, and replaced attention."""
    mlps = [Output(2 * layer + 2, layer, MLP, Site("mlp_out", layer)) for layer in range(model.n_layers)]
    sites = [coder.writes[0] for coder in coders if coder.writes[0].kind in ATTENTION_SITES]
    attention = [Output(2 * layer_of(site) + 1, layer_of(site), ATTENTION, site) for site in sites]
    return sorted([*mlps, *attention], key=lambda output: output.stage)


def collect(model: Model, coders: Sequence[Coder], captured: Captured, masked: Bool[Tensor, " token"]) -> Sources:
    """Encode the prompt, and lay out all that is written: features, errors and constants of every output."""
    active = tuple(encode(coder, captured, masked) for coder in coders)
    starts = torch.tensor([0, *(len(features.index) for features in active)]).cumsum(0).tolist()
    free, tokens, device = (~masked).nonzero()[:, 0], len(masked), masked.device
    places = outputs(model, coders)
    of = torch.tensor([[place.layer, place.part] for place in places], device=device).repeat_interleave(len(free), 0)
    errors = torch.cat([of, free.repeat(len(places))[:, None]], dim=1)
    embedding = torch.arange(tokens, device=device)
    first = (embedding, starts[-1] + len(errors) + embedding, captured["embed"].float())
    writes, constants = {0: Writes.sort(*first, tokens=tokens)}, {}
    for number, place in enumerate(places):
        output = captured[str(place.stream)].float()
        parts, bias, error = [], torch.zeros_like(output), output.clone()
        for features, start in zip(active, starts, strict=False):
            coder = features.coder
            if place.site not in coder.writes:
                continue
            vectors = features.value[:, None] * coder.decoder_rows(features.index, place.site)
            silent, skip = coder.bias(place.site), coder.skip(place.site)
            if place.site.kind == "attn_heads":
                vectors = through_output(model, place.layer, captured, vectors, features.position)
                silent = through_output(model, place.layer, captured, silent.expand(tokens, -1), embedding)
                silent = silent + attention_bias(model, place.layer, captured)
            x = captured[coder.reads[0].name].float()
            skipped = x.new_zeros(()) if skip is None else x @ skip
            check_finite(coder, vectors.sum() + silent.sum() + skipped.sum())
            parts.append((features.position, start + torch.arange(len(vectors), device=device), vectors))
            bias += silent
            error.index_add_(0, features.position, vectors, alpha=-1)
            error -= silent + skipped
        parts.append((free, starts[-1] + number * len(free) + torch.arange(len(free), device=device), error[free]))
        columns = (torch.cat(column) for column in zip(*parts, strict=True))
        writes[place.stage] = Writes.sort(*columns, tokens=tokens)
        constants[place.stage] = torch.where(masked[:, None], output, bias)
    skips = tuple(skip for coder in coders for skip in _skips(model, coder, captured, masked))
    return Sources(tokens, active, errors, writes, constants, skips)


def encode(coder: Coder, captured: Captured, masked: Bool[Tensor, " token"]) -> Active:
    """The active features of a coder; BadInput where its weights are not finite."""
    x = captured[coder.reads[0].name].float()
    latents = coder.encode(x)
    check_finite(coder, coder.preactivations(x[-1:]))  # a threshold would pass over NaN in silence
    kept = ~masked[latents.positions]
    columns = (column[kept] for column in (latents.positions, latents.indices, latents.values.float()))
    return Active(coder, *place_of(coder), *columns)


def check_finite(coder: Coder, values: Tensor) -> None:
    """Raise BadInput where what a coder gives is not finite."""
    if not bool(values.isfinite().all()):
        raise BadInput(f"The coder {coder.id} has weights that are not finite; download or write it again.")


def _skips(model: Model, coder: Coder, captured: Captured, masked: Bool[Tensor, " token"]) -> list[Skip]:
    place = read_place(model, coder.reads[0], captured)
    factor = (~masked).float()[:, None]
    skips = []
    for site in coder.writes:
        weight = coder.skip(site)
        if weight is not None:
            assert isinstance(place, Read)
            rows, constant = fold_read(place.norm, weight.detach().T)
            scaled = factor if place.scale is None else factor * place.scale
            skips.append(Skip(place.stage, 2 * layer_of(site) + 2, rows.T, scaled, factor * constant))
    return skips


def feature_targets(model: Model, active: Active, captured: Captured) -> Targets:
    """The pre-activations of active features as linear reads."""
    rows, bias = active.coder.encoder_rows(active.index), active.coder.encoder_bias(active.index)
    return read_place(model, active.coder.reads[0], captured).targets(rows, active.position, bias)


def preactivations(active: Active, captured: Captured) -> Float[Tensor, " k"]:
    """The pre-activations of active features on the captured activations."""
    x = captured[active.coder.reads[0].name].float()[active.position]
    return (x * active.coder.encoder_rows(active.index)).sum(1) + active.coder.encoder_bias(active.index)
