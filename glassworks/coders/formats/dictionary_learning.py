"""dictionary_learning: `ae.pt`, a pickle of tensors, and `config.json` beside it; andyrdt's and SAEBench's too.

Every class names its tensors and centres its input in its own way: one row of the table below each. This module
must not know who released what.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from glassworks.coders.activations import Activation, ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, width_word
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import (
    Layout,
    builder,
    centred,
    coder_of,
    gathered,
    jumprelu,
    laid_out,
    read_tensors,
    ungated,
)
from glassworks.coders.hooks import site_of
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import BadArtefact, Unsupported, nearest
from glassworks.sites import Site

WEIGHTS = "ae.pt"
LINEAR = {"w_enc": "encoder.weight", "b_enc": "encoder.bias", "w_dec": "decoder.weight.T"}
PLAIN = {"w_enc": "W_enc.T", "b_enc": "b_enc", "w_dec": "W_dec", "b_dec": "b_dec"}


@dataclass(frozen=True)
class Class:
    """How one class of the library lays out its tensors.

    Attributes:
        layout: our names and its keys.
        centres: whether it subtracts the decoder's bias from its input.
        activation: relu, topk, threshold or gated.
    """

    layout: Layout
    centres: bool
    activation: str


CLASSES = {
    "AutoEncoder": Class(LINEAR | {"b_dec": "bias"}, True, "relu"),
    "AutoEncoderNew": Class(LINEAR | {"b_dec": "decoder.bias"}, False, "relu"),
    "GatedAutoEncoder": Class(
        {"w_enc": "encoder.weight", "w_dec": "decoder.weight.T", "b_dec": "decoder_bias"}
        | {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"},
        True,
        "gated",
    ),
    "AutoEncoderTopK": Class(LINEAR | {"b_dec": "b_dec"}, True, "topk"),
    "BatchTopKSAE": Class(LINEAR | {"b_dec": "b_dec"}, True, "threshold"),
    "MatryoshkaBatchTopKSAE": Class(PLAIN, True, "threshold"),
    "JumpReluAutoEncoder": Class(PLAIN, False, "threshold"),
}
FORMULA = "x' = x - bias (not New, not JumpRelu); a = activation(E x' + b); y = a D + bias"
PLACES = {"resid_post": "", "attn_out": ".self_attn", "attention_out": ".self_attn", "mlp_out": ".mlp"}
"""How its scripts name submodules, `resid_post_layer_12`, and the end of the module's path."""


def recognise(files: Files) -> bool:
    """Whether an `ae.pt` lies beside a `config.json` that names a class of dictionary."""
    return any("dict_class" in str(files.json(f"{head}config.json").get("trainer")) for head in _folders(files)[:1])


def entries(files: Files) -> list[Entry]:
    """One entry a folder with an `ae.pt`; its `config.json` is read."""
    return gathered(
        lambda folder: _entry(files, folder, files.json(f"{folder}config.json").get("trainer") or {}), _folders(files)
    )


def _folders(files: Files) -> list[str]:
    heads = [name.removesuffix(WEIGHTS) for name in files if name.rsplit("/", 1)[-1] == WEIGHTS]
    return [head for head in heads if f"{head}config.json" in files]


def _entry(files: Files, folder: str, trainer: Mapping[str, Any]) -> Entry:
    model, site = str(trainer.get("lm_name") or ""), _site(files, folder, trainer)
    label, k = folder.strip("/") or site.name, trainer.get("k")
    return Entry(
        name=label,
        reads=(site,),
        writes=(site,),
        kind="sae",
        width=width_word(int(trainer["dict_size"])) if trainer.get("dict_size") else "",
        l0=str(k or trainer.get("target_l0") or ""),
        target=float(k or trainer.get("target_l0") or 0) or None,
        tags=(str(trainer.get("dict_class")),),
        bytes=files.size((folder + WEIGHTS,)),
        files=(folder + WEIGHTS,),
        provenance=Provenance("dictionary_learning", FORMULA, model),
        build=builder(files, label, (folder + WEIGHTS,), partial(_build, files, folder, dict(trainer), site)),
    )


def _site(files: Files, folder: str, trainer: Mapping[str, Any]) -> Site:
    name, layer = str(trainer.get("submodule_name") or ""), trainer.get("layer")
    model = str(trainer.get("lm_name") or "")
    for text in (name, f"{files.home}/{folder}"):
        for place, end in PLACES.items():
            found = re.search(rf"{place}_layer_(\d+)", text)
            if found:
                return site_of(f"model.layers.{found[1]}{end}", model=model)
    if name:
        return site_of(name, layer, model)
    return Site("resid_post", int(layer or 0))


def _build(files: Files, folder: str, trainer: Mapping[str, Any], site: Site) -> Coder:
    name = str(trainer.get("dict_class"))
    if name not in CLASSES:
        raise Unsupported(f"dictionary_learning's class {name!r} is not supported; {nearest(name, CLASSES)}.")
    tensors, row = read_tensors(files, folder + WEIGHTS), CLASSES[name]
    weights = laid_out(tensors, row.layout)
    if trainer.get("dict_size") not in (None, len(weights["w_enc"])):
        raise BadArtefact(f"its config.json says {trainer['dict_size']} latents, its tensors {len(weights['w_enc'])}")
    weights, activation = _activated(row.activation, weights, tensors, trainer)
    prefixes = resident(tensors["group_sizes"]).cumsum(0).tolist() if "group_sizes" in tensors else ()
    return coder_of(site, site, centred(weights) if row.centres else weights, activation, prefixes)


def _activated(
    kind: str, weights: dict[str, Matrix], tensors: Mapping[str, Matrix], trainer: Mapping[str, Any]
) -> tuple[dict[str, Matrix], Activation]:
    if kind == "gated":
        return ungated(weights)
    if kind == "threshold":
        threshold = resident(laid_out(tensors, {"threshold": "threshold"})["threshold"])
        return weights, jumprelu(threshold, len(weights["w_enc"]))
    if kind == "topk":
        k = resident(tensors["k"]) if "k" in tensors else trainer["k"]
        return weights, TopK(int(k))
    return weights, ReLU()
