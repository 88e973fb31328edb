"""Checkpoints of crosslayer-transcoder: `checkpoint.safetensors` beside a `config.yaml` with class paths.

It reads the residual stream before the MLP's norm and writes the MLP's output. Decoders are grouped by output layer,
source layers first. A choice of the k largest over all layers at once ties the layers together: such a coder is one
crosscoder, its matrices zero between layers.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from glassworks.coders.activations import Activation, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance, width_word
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, coder_of, finite, jumprelu, read_tensors
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import Unsupported
from glassworks.sites import Site

WEIGHTS = "checkpoint.safetensors"
FORMULA = (
    "a_l = activation(x_l @ encoder.W[l] + encoder.b[l]); y_o = sum over l <= o: a_l @ decoder.W_o[l] + decoder.b[o]"
)
NOTE = "sites as the library records them: the stream before the MLP's norm, and the MLP's output"


def recognise(files: Files) -> bool:
    """Whether a `checkpoint.safetensors` lies beside a `config.yaml` of the library."""
    return any("crosslayer_transcoder" in str(files.yaml(f"{head}config.yaml")) for head in _folders(files)[:1])


def entries(files: Files) -> list[Entry]:
    """One entry a layer of a per-layer checkpoint, one for a joint one; the configurations are read."""
    found = []
    for folder in _folders(files):
        parts = (files.yaml(f"{folder}config.yaml").get("model") or {}).get("init_args") or {}
        found += _entries(files, folder, parts)
    return found


def _folders(files: Files) -> list[str]:
    heads = [name.removesuffix(WEIGHTS) for name in files if name.rsplit("/", 1)[-1] == WEIGHTS]
    return [head for head in heads if f"{head}config.yaml" in files]


def _entries(files: Files, folder: str, parts: Mapping[str, Any]) -> list[Entry]:
    if parts.get("input_standardizer") or parts.get("output_standardizer"):
        raise Unsupported(f"The checkpoint {folder} still scales its inputs; fold it with its library first.")
    size, kind = _arguments(parts, "encoder"), _class(parts, "decoder")
    label, n, k = folder.strip("/") or "clt", int(size["n_layers"]), _arguments(parts, "nonlinearity").get("k")
    together = {"CrosslayerDecoder": "clt"}.get(kind) or ("crosscoder" if k else None)
    groups = [list(range(n))] if together else [[layer] for layer in range(n)]
    total = int(size["d_features"]) * (n if together else 1)
    return [
        Entry(
            name=label if together else f"{label}/layer_{layers[0]}",
            reads=tuple(Site("resid_mid", layer) for layer in layers),
            writes=tuple(Site("mlp_out", layer) for layer in layers),
            kind=together or "transcoder",
            width=width_word(total),
            l0=f"{k * n:g}" if k else "",
            target=float(k * n) if k else None,
            tags=(_class(parts, "nonlinearity"),),
            bytes=files.size((folder + WEIGHTS,)),
            files=(folder + WEIGHTS,),
            provenance=Provenance("crosslayer_transcoder", FORMULA, "", (NOTE,)),
            build=builder(files, label, (folder + WEIGHTS,), partial(_build, files, folder, layers, together, parts)),
        )
        for layers in groups
    ]


def _arguments(parts: Mapping[str, Any], part: str) -> dict[str, Any]:
    return (parts.get(part) or {}).get("init_args") or {}


def _class(parts: Mapping[str, Any], part: str) -> str:
    return str((parts.get(part) or {}).get("class_path")).rsplit(".", 1)[-1]


def _build(files: Files, folder: str, layers: list[int], together: str | None, parts: Mapping[str, Any]) -> Coder:
    tensors = read_tensors(files, folder + WEIGHTS)
    small = {key: finite(key, resident(tensors[key])) for key in ("encoder.b", "decoder.b")}
    name = _class(parts, "nonlinearity")
    if name not in ("JumpReLU", "LayerTopK"):
        raise Unsupported(f"The nonlinearity {name} of crosslayer-transcoder is not supported.")
    if together == "crosscoder":
        k = _arguments(parts, "nonlinearity")["k"]
        return _tied(tensors, small, layers, TopK(max(int(k * len(layers)), 1)))
    if together is None:
        layer = layers[0]
        weights = {"w_enc": tensors["encoder.W"].select(0, layer).mT, "w_dec": tensors["decoder.W"].select(0, layer)}
        vectors = {"b_enc": small["encoder.b"][layer], "b_dec": small["decoder.b"][layer]}
        return coder_of(*_sites(layer), weights | vectors, _threshold(tensors, layer))
    found = [_part(tensors, small, layer, layers, _threshold(tensors, layer)) for layer in layers]
    return CrossLayer(found, folder.strip("/") or "clt").requires_grad_(False).eval()


def _sites(layer: int) -> tuple[Site, Site]:
    return Site("resid_mid", layer), Site("mlp_out", layer)


def _threshold(tensors: Mapping[str, Matrix], layer: int) -> Activation:
    theta = resident(tensors["nonlinearity.theta"])[0, layer]
    return jumprelu(theta, len(theta))


def _part(
    tensors: Mapping[str, Matrix], small: Mapping[str, torch.Tensor], layer: int, layers: list[int], chosen: Activation
) -> Crosscoder:
    later = [each for each in layers if each >= layer]
    found: dict[str, Matrix] = {"w_enc": tensors["encoder.W"].select(0, layer).mT, "b_enc": small["encoder.b"][layer]}
    found |= {f"w_dec.mlp_out.{each}": tensors[f"decoder.W_{each}"].select(0, layer) for each in later}
    found |= {f"b_dec.mlp_out.{layer}": small["decoder.b"][layer]}
    return Crosscoder([Site("resid_mid", layer)], [Site("mlp_out", each) for each in later], chosen, found)


def _tied(
    tensors: Mapping[str, Matrix], small: Mapping[str, torch.Tensor], layers: list[int], chosen: Activation
) -> Crosscoder:
    w_enc, w_dec = resident(tensors["encoder.W"]).mT, resident(tensors["decoder.W"])
    n, latents, width = w_dec.shape
    found = {"w_enc": torch.block_diag(*w_enc), "b_enc": small["encoder.b"].flatten()}
    for layer in layers:
        rows = torch.zeros(n * latents, width, dtype=w_dec.dtype)
        rows[layer * latents : (layer + 1) * latents] = w_dec[layer]
        found |= {f"w_dec.mlp_out.{layer}": rows, f"b_dec.mlp_out.{layer}": small["decoder.b"][layer]}
    reads, writes = zip(*(_sites(layer) for layer in layers), strict=True)
    return Crosscoder(reads, writes, chosen, found)
