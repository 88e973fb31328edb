"""circuit-tracer: sets of transcoders, one file a layer, and cross-layer transcoders, two files a layer.

A `config.yaml` names the model, the hooks, and perhaps files elsewhere on the hub. Decoders of a cross-layer
transcoder count outputs from their own layer on. Its JumpReLU has no rectifier, so thresholds must be at least 0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glassworks.coders.activations import Activation, JumpReLU, ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import coder_of, configured, entry, finite, laid_out, read_tensors
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
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Config:
    """`config.yaml`; without hooks it means the library's own defaults."""

    model_name: str | None = None
    feature_input_hook: str | None = None
    feature_output_hook: str | None = None
    k: int | None = None
    transcoders: Any = None

    def sites(self, layer: int) -> tuple[Site, Site]:
        """What the coder of a layer reads and writes."""
        hooks = (self.feature_input_hook or "hook_resid_mid", self.feature_output_hook or "hook_mlp_out")
        short = [re.sub(r"^blocks\.(\{layer\}|\d+)\.", "", hook) for hook in hooks]
        return site_of(short[0], layer, self.model_name or ""), site_of(short[1], layer, self.model_name or "")


def links(files: Files) -> dict[tuple[str, str | None], list[str]]:
    """Files elsewhere on the hub that a set is made of: (repository, revision) -> names."""
    linked: dict[tuple[str, str | None], list[str]] = {}
    for match in (LINK.fullmatch(str(each)) for each in _config(files).transcoders or []):
        if match:
            linked.setdefault((match["repository"], match["revision"]), []).append(match["file"])
    return linked


def entries(files: Files) -> list[Entry]:
    """One entry a layer of a set with a `config.yaml`, or one for a cross-layer transcoder; no weights are read."""
    encoders = {int(match["layer"]): name for name, match in files.matching(ENCODER)}
    if encoders:
        return [_joint(files, [encoders[layer] for layer in sorted(encoders)])]
    if CONFIG not in files or not files.yaml(CONFIG):
        return []
    layers = {int(match["layer"]): name for name, match in files.matching(LAYER)}
    return [_single(files, layer, layers[layer]) for layer in sorted(layers)]


def _config(files: Files) -> Config:
    return configured(Config, files, CONFIG) if CONFIG in files else Config()


def _activation(tensors: Mapping[str, Matrix], key: str, k: int | None = None) -> Activation:
    if key in tensors:
        return JumpReLU(finite(key, resident(tensors[key])).float().flatten())
    return TopK(k) if k else ReLU()


def _single(files: Files, layer: int, name: str) -> Entry:
    config = _config(files)
    read, write = config.sites(layer)
    k = config.k or KNOWN_K.get(files.reference)

    def build() -> Coder:
        tensors = read_tensors(files, name)
        return coder_of(read, write, laid_out(tensors, LAYOUT), _activation(tensors, THRESHOLD, k))

    provenance = Provenance("circuit_tracer", FORMULA, config.model_name or "")
    return entry(files, name.removesuffix(".safetensors"), [name], ((read,), (write,)), provenance, build, l0=k)


def _joint(files: Files, encoders: list[str]) -> Entry:
    config, decoders = _config(files), [name.replace("W_enc_", "W_dec_") for name in encoders]
    missing = [name for name in decoders if name not in files]
    if missing:
        raise BadArtefact(f"{files.reference} lacks {', '.join(missing[:5])}, the decoders of its encoders.")
    reads, writes = zip(*(config.sites(layer) for layer in range(len(encoders))), strict=True)

    def part(i: int) -> Crosscoder:
        tensors = read_tensors(files, encoders[i]) | read_tensors(files, decoders[i])
        if any("skip" in key.lower() for key in tensors):
            raise BadArtefact(f"{encoders[i]} has a skip connection, which this format cannot say how to apply")
        layout = {"w_enc": f"W_enc_{i}", "b_enc": f"b_enc_{i}", f"b_dec.{writes[i]}": f"b_dec_{i}"}
        weights, rows = laid_out(tensors, layout), tensors[f"W_dec_{i}"]
        if rows.ndim != 3 or rows.shape[1] != len(writes) - i:
            raise BadArtefact(f"W_dec_{i} has shape {tuple(rows.shape)}; its second axis must be {len(writes) - i}")
        weights |= {f"w_dec.{write}": rows.select(1, ahead) for ahead, write in enumerate(writes[i:])}
        return Crosscoder([reads[i]], writes[i:], _activation(tensors, f"threshold_{i}"), weights)

    def build() -> Coder:
        return CrossLayer([part(i) for i in range(len(encoders))], "clt").requires_grad_(False).eval()

    provenance = Provenance("circuit_tracer", CLT_FORMULA, config.model_name or "")
    return entry(files, "clt", [*encoders, *decoders], (reads, writes), provenance, build, kind="clt")
