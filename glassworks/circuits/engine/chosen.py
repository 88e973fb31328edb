"""Which coders a trace uses, and whether it can use them exactly.

Coders of MLPs (transcoders, skip-transcoders, cross-layer transcoders) and of attention outputs stand in for parts of
the model, and the graph is exact. Autoencoders on the residual stream or on MLP outputs can only be followed through
the model's own Jacobian. This module must not know how either is done.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from glassworks.circuits.nodes import PARTS
from glassworks.coders import Coder, Scope
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Model
from glassworks.sites import Site

ATTENTION = ("attn_out", "attn_heads")
MLP_READS = ("mlp_in", "mlp_in_pregain", "resid_pre", "resid_mid")
APPROXIMATE = ("resid_pre", "resid_mid", "resid_post", "mlp_out")
"""Sites whose autoencoders have no exact edges."""


def replacement(model: Model, scope: Scope | None) -> tuple[Coder, ...]:
    """The coders that a trace uses, from the lowest; an MLP without one is one error node a position.

    Raises:
        BadInput: the scope names no replacement, or a coder does not fit the model.
        Unsupported: a coder reads or writes what a trace does not know, or two stand for the same part of a layer.
    """
    if scope is not None and not scope.replacement:
        raise BadInput(
            f"The scope {scope.name} does not say which coders replace the MLPs; take a part of it with "
            f"scope.choose(kind=..., width=..., l0=..., tags=...), one coder a layer or one CLT."
        )
    coders = [] if scope is None else [part for name in scope.replacement for part in scope[name].parts]
    for coder in coders:
        _check(model, coder)
    places = [place_of(coder) for coder in coders]
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise Unsupported(
            f"Two coders of the replacement set stand for the {PARTS[twice[0][1]]} part of layer {twice[0][0]}; "
            "a trace takes one."
        )
    return tuple(sorted(coders, key=place_of))


def masked_positions(scope: Scope | None, texts: Sequence[str]) -> Bool[Tensor, " token"]:
    """Positions without features and errors, because the coders were not trained on them."""
    return torch.arange(len(texts)) < (0 if scope is None else scope.masked(texts))


def approximate(coders: Sequence[Coder]) -> list[str]:
    """The coders that have no exact edges, by id."""
    return [coder.id for coder in coders if coder.reads == coder.writes and coder.reads[0].kind in APPROXIMATE]


def part_of(coder: Coder) -> str:
    """Which part of a layer a coder stands for: a name of `PARTS`."""
    kind = coder.writes[0].kind
    return "attention" if kind in ATTENTION else "mlp" if kind == "mlp_out" else kind


def place_of(coder: Coder) -> tuple[int, int]:
    """Layer and part, by which features are ordered."""
    return _layer(coder.reads[0]), PARTS.index(part_of(coder))


def _layer(site: Site) -> int:
    return -1 if site.layer is None else site.layer


def _check(model: Model, coder: Coder) -> None:
    if len(coder.reads) != 1:
        raise Unsupported(f"The coder {coder.id} reads {len(coder.reads)} sites at once; a trace takes coders of one.")
    read, kinds = coder.reads[0], {site.kind for site in coder.writes}
    alike = coder.reads == coder.writes and read.kind in (*ATTENTION, *APPROXIMATE)
    if not alike and (kinds != {"mlp_out"} or read.kind not in MLP_READS):
        wrong = ", ".join(site.name for site in coder.writes)
        raise Unsupported(
            f"The coder {coder.id} reads {read} and writes {wrong}; a trace takes coders that read "
            f"{', '.join(MLP_READS)} and write mlp_out, and autoencoders on {', '.join((*ATTENTION, *APPROXIMATE))}."
        )
    if any(_layer(site) >= model.n_layers for site in (*coder.reads, *coder.writes)):
        raise BadInput(f"The coder {coder.id} does not fit the model, which has layers 0 to {model.n_layers - 1}.")
    if min(map(_layer, coder.writes)) < _layer(read):
        raise Unsupported(f"The coder {coder.id} writes below the layer that it reads; a trace takes none such.")
    width = coder.encoder_rows(torch.zeros(1, dtype=torch.long)).shape[1]
    right = model.n_heads * model.d_head if read.kind == "attn_heads" else model.d_model
    if width != right:
        raise BadInput(f"The coder {coder.id} reads width {width}; {read} of the model has width {right}.")
