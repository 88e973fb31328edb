"""Llama Scope, version 1: `hyperparams.json` and `checkpoints/final.safetensors` in a folder for each coder.

Training scaled inputs and outputs to an average length of sqrt(d_model); here that is folded into the weights. The
one threshold of a coder counts raw pre-activations times the length of the decoder's row. (The R1-Distill edition is
of the later format `llamascopium`.)
"""

from functools import partial
from math import sqrt
from typing import Any

import torch

from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, kind_of, width_word
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, coder_of, gathered, jumprelu, laid_out, read_tensors
from glassworks.coders.hooks import site_of
from glassworks.coders.weights import resident
from glassworks.errors import BadArtefact
from glassworks.sites import Site

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
MODEL = "meta-llama/Llama-3.1-8B"
LAYOUT = {"w_enc": "encoder.weight", "b_enc": "encoder.bias", "w_dec": "decoder.weight.T", "b_dec": "decoder.bias"}
FORMULA = (
    "s = sqrt(d) / average norm; D = W_dec * s_in / s_out; z = (W_enc x + b_enc / s_in) * |D|; "
    "a = z * (z > threshold); y = a D / |D| + b_dec / s_out"
)


def recognise(files: Files) -> bool:
    """Whether a folder holds `hyperparams.json` and `checkpoints/final.safetensors`."""
    return bool(_folders(files))


def entries(files: Files) -> list[Entry]:
    """One entry a folder; its `hyperparams.json` is read."""
    return gathered(lambda head: _entry(files, head, files.json(head + CONFIG)), _folders(files))


def _folders(files: Files) -> list[str]:
    heads = [name.removesuffix(CONFIG) for name in files if name.rsplit("/", 1)[-1] == CONFIG]
    return [head for head in heads if head + WEIGHTS in files]


def _entry(files: Files, head: str, config: dict[str, Any]) -> Entry:
    read = site_of(str(config["hook_point_in"]), model=MODEL)
    write = site_of(str(config.get("hook_point_out") or config["hook_point_in"]), model=MODEL)
    label, names = head.strip("/") or read.name, (head + WEIGHTS,)
    return Entry(
        name=label,
        reads=(read,),
        writes=(write,),
        kind=kind_of((read,), (write,)),
        width=width_word(int(config.get("d_sae") or 0)),
        l0="",
        target=None,
        tags=(),
        bytes=files.size(names),
        files=names,
        provenance=Provenance("llama_scope", FORMULA, MODEL),
        build=builder(files, label, names, partial(_build, files, head, config, read, write)),
    )


def _build(files: Files, head: str, config: dict[str, Any], read: Site, write: Site) -> Coder:
    tensors = laid_out(read_tensors(files, head + WEIGHTS), LAYOUT)
    weights = {name: resident(value).float() for name, value in tensors.items()}
    s_in, s_out = _scale(config, "in"), _scale(config, "out")
    weights |= {"b_enc": weights["b_enc"] / s_in, "b_dec": weights["b_dec"] / s_out}
    weights |= {"w_dec": weights["w_dec"] * (s_in / s_out)}
    if config.get("sparsity_include_decoder_norm"):
        length = weights["w_dec"].norm(dim=1)
        weights |= {"w_enc": weights["w_enc"] * length[:, None], "b_enc": weights["b_enc"] * length}
        weights |= {"w_dec": weights["w_dec"] / length[:, None].clamp(min=1e-30)}
    threshold = torch.tensor(float(config["jump_relu_threshold"]))
    return coder_of(read, write, weights, jumprelu(threshold, len(weights["w_enc"])))


def _scale(config: dict[str, Any], end: str) -> float:
    """`sqrt(d_model) / average norm` of one end."""
    norm = (config.get("dataset_average_activation_norm") or {}).get(end)
    if not norm:
        raise BadArtefact(f"its {CONFIG} lacks the average norm at its {end}put, without which it cannot be scaled")
    return sqrt(float(config["d_model"])) / float(norm)
