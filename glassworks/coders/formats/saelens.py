"""SAELens, its own format of versions 3 to 6: `cfg.json` and `sae_weights.safetensors`.

Before version 6 the configuration had other names and defaults. This module follows the library's own reading of
them. An average scaling of the input is already in released weights or was never trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glassworks import codec
from glassworks.coders.activations import ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import (
    centred,
    coder_of,
    entry,
    folders,
    gathered,
    jumprelu,
    laid_out,
    read_tensors,
    ungated,
)
from glassworks.coders.hooks import site_of
from glassworks.coders.pertoken import PerToken
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import BadArtefact, Unsupported, nearest

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
LAYOUT = {"w_enc": "W_enc.T", "w_dec": "W_dec", "b_dec": "b_dec", "w_skip": "W_skip.T?"}
GATED = {"b_gate": "b_gate", "b_mag": "b_mag", "r_mag": "r_mag"}
FORMULA = "x' = x - b_dec (where apply_b_dec_to_input); a = activation(x' @ W_enc + b_enc); y = a @ W_dec + b_dec"
ASSUMED = "cfg.json scales inputs by their average length, which is taken to be folded into the weights"
PER_TOKEN = {"layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
"""Scalings of every token by itself, and what we call them."""

FOLDED = ("none", "expected_average_only_in")
"""Scalings of the input that leave nothing to do: an average is folded before a release."""

ARCHITECTURES = ("standard", "jumprelu", "topk", "gated")


@dataclass(frozen=True)
class Config:
    """`cfg.json` in the words of version 6."""

    hook_name: str | None = None
    hook_layer: int | None = None
    hook_name_out: str | None = None
    hook_layer_out: int | None = None
    hook_head_index: Any = None
    model_name: str | None = None
    architecture: str | None = None
    activation_fn: str | None = None
    d_sae: int | None = None
    k: int | float | None = None
    apply_b_dec_to_input: bool | None = None
    normalize_activations: str | bool | None = None
    rescale_acts_by_decoder_norm: bool | None = None
    finetuning_scaling_factor: Any = None

    @property
    def scaling(self) -> str:
        """How the input is scaled; `True` of early versions means by the average."""
        given = self.normalize_activations or FOLDED[0]
        return FOLDED[1] if given is True else str(given)

    @property
    def kind(self) -> str:
        """The architecture, transcoder or not: one of `ARCHITECTURES` where it is known."""
        name = str(self.architecture).removesuffix("_transcoder").removesuffix("_skip")
        return "standard" if name in ("transcoder", "skip") else name


def configuration(plain: Mapping[str, Any], source: str) -> Config:
    """One flat configuration in the words of version 6, whatever version wrote it."""
    merged = dict(plain) | dict(plain.get("metadata") or {})
    flat = {RENAMED.get(key, key): value for key, value in merged.items()}
    if int(str(flat.get("sae_lens_version") or "0").split(".")[0]) < 6:
        kwargs = flat.get("activation_fn_kwargs") or {}
        flat = {"apply_b_dec_to_input": True, "architecture": "standard"} | flat
        if flat.get("activation_fn") == "topk" and kwargs.get("k"):
            flat |= {"architecture": "topk", "k": kwargs["k"]}
    return codec.decode(Config, flat, source)


def entries(files: Files) -> list[Entry]:
    """One entry a folder with `cfg.json`, which is read, beside `sae_weights.safetensors`."""
    return gathered(lambda folder: _entry(files, folder), folders(files, WEIGHTS, CONFIG))


def _entry(files: Files, folder: str) -> Entry:
    config = configuration(files.json(folder + CONFIG), f"configuration {folder}{CONFIG} of {files.reference}")
    model, out = config.model_name or "", config.hook_name_out
    read = site_of(str(config.hook_name), config.hook_layer, model)
    write = site_of(out, config.hook_layer_out, model) if out else read

    def build() -> Coder:
        _refuse(config, folder.strip("/") or files.reference)
        tensors = read_tensors(files, folder + WEIGHTS)
        layout = LAYOUT | (GATED if config.kind == "gated" else {"b_enc": "b_enc"})
        weights = laid_out(tensors, layout)
        latents, activation = len(weights["w_enc"]), ReLU()
        if config.kind == "gated":
            weights, activation = ungated(weights)
        elif "scaling_factor" in tensors:
            factor = resident(tensors["scaling_factor"])
            if not bool((factor == 1).all()):  # some versions saved ones that mean nothing
                if not config.finetuning_scaling_factor:
                    raise BadArtefact("it has a scaling_factor that its cfg.json does not mention")
                weights["w_dec"] = resident(weights["w_dec"]) * factor[:, None]
        if config.kind == "jumprelu":
            if "threshold" not in tensors and "log_threshold" in tensors:
                threshold = resident(tensors["log_threshold"]).exp()
            else:
                threshold = resident(laid_out(tensors, {"threshold": "threshold"})["threshold"])
            activation = jumprelu(threshold, latents)
        if config.kind == "topk":
            if config.rescale_acts_by_decoder_norm:  # the choice is made by the lengths that latents write
                weights |= _by_length(weights)
            if config.k is None:
                raise KeyError("k")
            activation = TopK(int(config.k))
        if config.d_sae not in (None, latents):
            raise BadArtefact(f"its cfg.json says {config.d_sae} latents, its tensors {latents}")
        coder = coder_of(read, write, centred(weights) if config.apply_b_dec_to_input else weights, activation)
        per_token = PER_TOKEN.get(config.scaling)
        return PerToken(coder, per_token) if per_token else coder

    return entry(
        files,
        folder.strip("/") or read.name,
        [folder + WEIGHTS],
        ((read,), (write,)),
        Provenance("saelens", FORMULA, model, (ASSUMED,) if config.scaling == FOLDED[1] else ()),
        build,
        width=config.d_sae,
        l0=config.k,
        tags=(str(config.architecture),),
    )


def _refuse(config: Config, name: str) -> None:
    """Raise Unsupported for what our coders cannot express."""
    reasons = {
        f"scales its input by {config.scaling}": config.scaling not in (*FOLDED, *PER_TOKEN),
        f"has the activation function {config.activation_fn!r}": config.activation_fn not in (None, "relu", "topk"),
        "reads one head": config.hook_head_index is not None,
    }
    for reason, applies in reasons.items():
        if applies:
            raise Unsupported(f"The SAELens coder {name} {reason}, which is not supported.")
    if config.kind not in ARCHITECTURES:
        raise Unsupported(
            f"SAELens' architecture {config.kind!r} is not supported; {nearest(config.kind, ARCHITECTURES)}."
        )


def _by_length(weights: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """The encoder times, the decoder divided by, the length of each decoder row."""
    rows = resident(weights["w_dec"])
    length = rows.norm(dim=1, keepdim=True)
    w_enc, b_enc = resident(weights["w_enc"]) * length, resident(weights["b_enc"]) * length[:, 0]
    return {"w_enc": w_enc, "w_dec": rows / length, "b_enc": b_enc}
