"""dictionary_learning: `ae.pt`, a pickle of tensors, and `config.json` beside it; andyrdt's and SAEBench's too.

Every class names its tensors and centres its input in its own way: one row of the table below each. This module
must not know who released what.
"""

import re
from dataclasses import dataclass
from typing import Any

from glassworks.coders.activations import ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import (
    Layout,
    centred,
    coder_of,
    configured,
    entry,
    folders,
    gathered,
    jumprelu,
    laid_out,
    read_tensors,
    ungated,
)
from glassworks.coders.hooks import site_of
from glassworks.coders.weights import resident
from glassworks.errors import BadArtefact, Unsupported, nearest
from glassworks.sites import Site

CONFIG, WEIGHTS = "config.json", "ae.pt"
LINEAR = {"w_enc": "encoder.weight", "b_enc": "encoder.bias", "w_dec": "decoder.weight.T"}
PLAIN = {"w_enc": "W_enc.T", "b_enc": "b_enc", "w_dec": "W_dec", "b_dec": "b_dec"}
GATED = {"w_enc": "encoder.weight", "w_dec": "decoder.weight.T", "b_dec": "decoder_bias"}
GATED |= {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}

CLASSES: dict[str, tuple[Layout, bool, str]] = {
    "AutoEncoder": (LINEAR | {"b_dec": "bias"}, True, "relu"),
    "AutoEncoderNew": (LINEAR | {"b_dec": "decoder.bias"}, False, "relu"),
    "GatedAutoEncoder": (GATED, True, "gated"),
    "AutoEncoderTopK": (LINEAR | {"b_dec": "b_dec"}, True, "topk"),
    "BatchTopKSAE": (LINEAR | {"b_dec": "b_dec"}, True, "threshold"),
    "MatryoshkaBatchTopKSAE": (PLAIN, True, "threshold"),
    "JumpReluAutoEncoder": (PLAIN, False, "threshold"),
}
"""The library's class -> its layout, whether it subtracts the decoder's bias from its input, and its activation."""

FORMULA = "x' = x - bias (not New, not JumpRelu); a = activation(E x' + b); y = a D + bias"
PLACES = {"resid_post": "", "attn_out": ".self_attn", "attention_out": ".self_attn", "mlp_out": ".mlp"}
"""How its scripts name submodules, `resid_post_layer_12`, and the end of the module's path."""


@dataclass(frozen=True)
class Trainer:
    """The fields of `config.json`'s `trainer` that say what the coder is."""

    dict_class: str | None = None
    dict_size: int | None = None
    k: int | None = None
    target_l0: float | None = None
    lm_name: str | None = None
    layer: Any = None
    submodule_name: str | None = None


def entries(files: Files) -> list[Entry]:
    """One entry a folder with an `ae.pt` beside a `config.json`, which names a class of dictionary and is read."""
    heads = folders(files, WEIGHTS, CONFIG)
    if not heads or "dict_class" not in str(files.json(heads[0] + CONFIG).get("trainer")):
        return []
    return gathered(lambda folder: _entry(files, folder), heads)


def _entry(files: Files, folder: str) -> Entry:
    trainer = configured(Trainer, files, folder + CONFIG, inside="trainer")
    site, name = _site(f"{files.home}/{folder}", trainer), str(trainer.dict_class)

    def build() -> Coder:
        if name not in CLASSES:
            raise Unsupported(f"dictionary_learning's class {name!r} is not supported; {nearest(name, CLASSES)}.")
        layout, centres, kind = CLASSES[name]
        tensors = read_tensors(files, folder + WEIGHTS)
        weights = laid_out(tensors, layout)
        latents = len(weights["w_enc"])
        if trainer.dict_size not in (None, latents):
            raise BadArtefact(f"its config.json says {trainer.dict_size} latents, its tensors {latents}")
        if kind == "gated":
            weights, activation = ungated(weights)
        elif kind == "threshold":
            threshold = laid_out(tensors, {"threshold": "threshold"})["threshold"]
            activation = jumprelu(resident(threshold), latents)
        elif kind == "topk":
            k = resident(tensors["k"]) if "k" in tensors else trainer.k
            if k is None:
                raise KeyError("k")
            activation = TopK(int(k))
        else:
            activation = ReLU()
        prefixes = resident(tensors["group_sizes"]).cumsum(0).tolist() if "group_sizes" in tensors else ()
        return coder_of(site, site, centred(weights) if centres else weights, activation, prefixes)

    return entry(
        files,
        folder.strip("/") or site.name,
        [folder + WEIGHTS],
        ((site,), (site,)),
        Provenance("dictionary_learning", FORMULA, trainer.lm_name or ""),
        build,
        width=trainer.dict_size,
        l0=trainer.k or trainer.target_l0,
        tags=(name,),
    )


def _site(path: str, trainer: Trainer) -> Site:
    """The site by the submodule's name, by the folder's, or by the layer alone."""
    name, model = trainer.submodule_name or "", trainer.lm_name or ""
    for text in (name, path):
        for place, end in PLACES.items():
            match = re.search(rf"{place}_layer_(\d+)", text)
            if match:
                return site_of(f"model.layers.{match[1]}{end}", model=model)
    if name:
        return site_of(name, trainer.layer, model)
    return Site("resid_post", int(trainer.layer or 0))
