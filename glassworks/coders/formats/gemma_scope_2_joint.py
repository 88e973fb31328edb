"""Gemma Scope 2 over several layers: cross-layer transcoders (`clt/`) and weakly causal crosscoders (`crosscoder/`).

One file for each encoder, `params_layer_{i}.safetensors`; its `w_dec (latents, outputs, d)` is dense, with the
absolute number of the output. Its bias belongs to output i and is added once; its skip goes from site i to site i.
Whether the rows for earlier outputs are zero is looked at on some rows; where they are not, they are kept.
"""

import re
from functools import partial

import torch

from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.gemma_scope_2 import layers_of, model_of, untrained
from glassworks.coders.formats.reading import builder, jumprelu, laid_out, read_tensors
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import BadArtefact
from glassworks.sites import Site

PATTERN = (
    r"(?P<label>(?P<kind>clt|crosscoder)/(?:layer_(?P<layers>\d+(?:_\d+)*)_)?width_(?P<width>\d+[km])"
    r"_l0_(?P<l0>medium|big)(?P<affine>_affine)?)/params_layer_(?P<part>\d+)\.safetensors"
)
LAYOUT = {"w_enc": "w_enc.T", "b_enc": "b_enc", "threshold": "threshold", "b_dec": "b_dec"}
LAYOUT |= {"w_skip": "affine_skip_connection?"}
TARGETS = {"medium": 50.0, "big": 150.0}
FORMULA = (
    "z_l = x_l @ w_enc[l] + b_enc[l]; a = relu(z) * (z > threshold); y_o = sum over l: a_l @ w_dec[l, :, o] + b_dec[o] "
    "(+ x_o @ affine_skip_connection[o])"
)
ROWS = 64
"""How many latents are looked at to see whether a part writes to earlier outputs."""


def recognise(files: Files) -> bool:
    """Whether a file is a part of a CLT or crosscoder of Gemma Scope 2."""
    return bool(files.matching(PATTERN))


def entries(files: Files) -> list[Entry]:
    """One entry a joint coder; nothing is read."""
    model, groups = model_of(files), {}
    for name, match in files.matching(PATTERN):
        groups.setdefault(match["label"], []).append((int(match["part"]), name, match))
    return [_entry(files, label, sorted(parts, key=lambda part: part[0]), model) for label, parts in groups.items()]


def _entry(files: Files, label: str, parts: list[tuple[int, str, re.Match[str]]], model: str) -> Entry:
    match, names = parts[0][2], tuple(name for _, name, _ in parts)
    clt = match["kind"] == "clt"
    layers = [int(each) for each in match["layers"].split("_")] if match["layers"] else list(range(len(parts)))
    reads = tuple(Site("mlp_in" if clt else "resid_post", layer) for layer in layers)
    writes = tuple(Site("mlp_out", layer) for layer in layers) if clt else reads
    expected = (layers_of(model) or len(layers)) if clt else len(layers)
    return Entry(
        name=label,
        reads=reads,
        writes=writes,
        kind=match["kind"],
        width=match["width"],
        l0=match["l0"],
        target=TARGETS[match["l0"]],
        tags=("affine",) if match["affine"] else (),
        bytes=files.size(names),
        files=names,
        provenance=Provenance("gemma_scope_2_joint", FORMULA, model, untrained=untrained(model)),
        build=builder(files, label, names, partial(_build, files, label, names, reads, writes, expected)),
    )


def _build(
    files: Files, label: str, names: tuple[str, ...], reads: tuple[Site, ...], writes: tuple[Site, ...], expected: int
) -> Coder:
    if len(names) != expected or len(names) != len(reads):
        raise BadArtefact(f"it has {len(names)} files params_layer_*; its model needs {expected}")
    parts = [_part(files, name, i, reads[i], writes) for i, name in enumerate(names)]
    return CrossLayer(parts, label).requires_grad_(False).eval()


def _part(files: Files, name: str, i: int, read: Site, writes: tuple[Site, ...]) -> Crosscoder:
    tensors = read_tensors(files, name)
    weights = laid_out(tensors, LAYOUT)
    if "w_dec" not in tensors or tensors["w_dec"].ndim != 3 or tensors["w_dec"].shape[1] != len(writes):
        shape = tuple(tensors["w_dec"].shape) if "w_dec" in tensors else "no"
        raise BadArtefact(f"{name} has {shape} w_dec; with {len(writes)} files it must be (latents, {len(writes)}, d)")
    decoders = {o: tensors["w_dec"].select(1, o) for o in range(len(writes))}
    kept = {o: rows for o, rows in decoders.items() if o >= i or _writes(rows)}
    found: dict[str, Matrix] = {"w_enc": weights["w_enc"], "b_enc": weights["b_enc"]}
    found |= {f"w_dec.{writes[o]}": rows for o, rows in kept.items()}
    found |= {f"b_dec.{writes[i]}": weights["b_dec"]}
    if "w_skip" in weights:
        found[f"w_skip.{writes[i]}"] = weights["w_skip"]
    activation = jumprelu(resident(weights["threshold"]), len(weights["w_enc"]))
    return Crosscoder([read], [writes[o] for o in kept], activation, found)


def _writes(rows: Matrix) -> bool:
    """Whether a sample of the rows holds anything but zeros."""
    chosen = torch.linspace(0, len(rows) - 1, min(ROWS, len(rows))).long()
    return bool((rows[chosen] != 0).any())
