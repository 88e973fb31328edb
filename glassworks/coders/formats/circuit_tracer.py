"""circuit-tracer: sets of transcoders, one file a layer, and cross-layer transcoders, two files a layer.

A `config.yaml` names the model, the hooks, and perhaps files elsewhere on the hub. Decoders of a cross-layer
transcoder count outputs from their own layer on. Its JumpReLU has no rectifier, so thresholds must be at least 0.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from glassworks.coders.activations import Activation, JumpReLU, ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance, kind_of
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, coder_of, finite, laid_out, read_tensors
from glassworks.coders.hooks import site_of
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import BadArtefact
from glassworks.sites import Site

LAYER = r"layer_(?P<layer>\d+)\.safetensors"
ENCODER = r"W_enc_(?P<layer>\d+)\.safetensors"
LINK = re.compile(r"hf://(?P<repository>[^/]+/[^/]+)/(?P<file>[^?]+)(?:\?revision=(?P<revision>.+))?")
LAYOUT = {"w_enc": "W_enc", "b_enc": "b_enc", "w_dec": "W_dec", "b_dec": "b_dec", "w_skip": "W_skip.T?"}
THRESHOLD = "activation_function.threshold"
KNOWN_K = {"facebook/crv-8b-instruct-transcoders": 128}
"""Sets whose k stands only in circuit-tracer's code."""

FORMULA = "a = activation(W_enc x + b_enc); y = a @ W_dec + b_dec (+ x @ W_skip.T)"
CLT_FORMULA = "a_l = activation(W_enc_l x_l + b_enc_l); y_o = sum over l <= o: a_l @ W_dec_l[:, o - l] + b_dec_o"
IN, OUT = "hook_resid_mid", "hook_mlp_out"
"""The library's own default hooks."""


def links(files: Files) -> dict[tuple[str, str | None], list[str]]:
    """Files elsewhere on the hub that a set is made of: (repository, revision) -> names."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for match in (LINK.fullmatch(str(each)) for each in _config(files).get("transcoders") or []):
        if match:
            found.setdefault((match["repository"], match["revision"]), []).append(match["file"])
    return found


def recognise(files: Files) -> bool:
    """Whether it is a set with a `config.yaml`, or the files of a cross-layer transcoder."""
    return bool(files.matching(ENCODER)) or bool(_config(files) and files.matching(LAYER))


def entries(files: Files) -> list[Entry]:
    """One entry a layer of a set, or one for a cross-layer transcoder; only `config.yaml` is read."""
    config = _config(files)
    encoders = {int(match["layer"]): name for name, match in files.matching(ENCODER)}
    if encoders:
        return [_joint(files, config, [encoders[layer] for layer in sorted(encoders)])]
    found = {int(match["layer"]): name for name, match in files.matching(LAYER)}
    return [_entry(files, config, layer, found[layer]) for layer in sorted(found)]


def _config(files: Files) -> dict[str, Any]:
    return files.yaml("config.yaml") if "config.yaml" in files else {}


def _site(config: Mapping[str, Any], end: str, default: str, layer: int) -> Site:
    hook = str(config.get(f"feature_{end}_hook") or default)
    hook = re.sub(r"^blocks\.(\{layer\}|\d+)\.", "", hook)
    return site_of(hook, layer, str(config.get("model_name") or ""))


def _entry(files: Files, config: Mapping[str, Any], layer: int, name: str) -> Entry:
    read, write = _site(config, "input", IN, layer), _site(config, "output", OUT, layer)
    k, label = config.get("k") or KNOWN_K.get(files.reference), name.removesuffix(".safetensors")
    return Entry(
        name=label,
        reads=(read,),
        writes=(write,),
        kind=kind_of((read,), (write,)),
        width="",
        l0=str(k or ""),
        target=float(k) if k else None,
        tags=(),
        bytes=files.size((name,)),
        files=(name,),
        provenance=Provenance("circuit_tracer", FORMULA, str(config.get("model_name") or "")),
        build=builder(files, label, (name,), partial(_build, files, name, read, write, k)),
    )


def _build(files: Files, name: str, read: Site, write: Site, k: int | None) -> Coder:
    tensors = read_tensors(files, name)
    return coder_of(read, write, laid_out(tensors, LAYOUT), _activation(tensors, THRESHOLD, k))


def _activation(tensors: Mapping[str, Matrix], key: str, k: int | None = None) -> Activation:
    if key in tensors:
        return JumpReLU(finite(key, resident(tensors[key])).float().flatten())
    return TopK(int(k)) if k else ReLU()


def _joint(files: Files, config: Mapping[str, Any], encoders: list[str]) -> Entry:
    layers = range(len(encoders))
    decoders = [name.replace("W_enc_", "W_dec_") for name in encoders]
    missing = [name for name in decoders if name not in files]
    if missing:
        raise BadArtefact(f"{files.reference} lacks {', '.join(missing[:5])}, the decoders of its encoders.")
    reads = tuple(_site(config, "input", IN, layer) for layer in layers)
    writes = tuple(_site(config, "output", OUT, layer) for layer in layers)
    return Entry(
        name="clt",
        reads=reads,
        writes=writes,
        kind="clt",
        width="",
        l0="",
        target=None,
        tags=(),
        bytes=files.size((*encoders, *decoders)),
        files=(*encoders, *decoders),
        provenance=Provenance("circuit_tracer", CLT_FORMULA, str(config.get("model_name") or "")),
        build=builder(
            files, "clt", (*encoders, *decoders), partial(_build_joint, files, encoders, decoders, reads, writes)
        ),
    )


def _build_joint(
    files: Files, encoders: list[str], decoders: list[str], reads: tuple[Site, ...], writes: tuple[Site, ...]
) -> Coder:
    parts = []
    for i, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
        tensors = read_tensors(files, encoder) | read_tensors(files, decoder)
        if any("skip" in key.lower() for key in tensors):
            raise BadArtefact(f"{encoder} has a skip connection, which this format cannot say how to apply")
        layout = {"w_enc": f"W_enc_{i}", "b_enc": f"b_enc_{i}", "b_dec": f"b_dec_{i}"}
        weights = laid_out(tensors, layout)
        rows = tensors[f"W_dec_{i}"]
        if rows.ndim != 3 or rows.shape[1] != len(writes) - i:
            raise BadArtefact(f"W_dec_{i} has shape {tuple(rows.shape)}; its second axis must be {len(writes) - i}")
        found = {"w_enc": weights["w_enc"], "b_enc": weights["b_enc"], f"b_dec.{writes[i]}": weights["b_dec"]}
        found |= {f"w_dec.{write}": rows.select(1, ahead) for ahead, write in enumerate(writes[i:])}
        parts.append(Crosscoder([reads[i]], writes[i:], _activation(tensors, f"threshold_{i}"), found))
    return CrossLayer(parts, "clt").requires_grad_(False).eval()
