"""SAELens, its own format of versions 3 to 6: `cfg.json` and `sae_weights.safetensors`.

Before version 6 the configuration had other names and defaults. This module follows the library's own reading of
them. An average scaling of the input is already in released weights or was never trained.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from glassworks.coders.activations import Activation, ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, kind_of, width_word
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import (
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
from glassworks.coders.pertoken import PerToken
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import BadArtefact, Unsupported, nearest
from glassworks.sites import Site

WEIGHTS = "sae_weights.safetensors"
RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
LAYOUT = {"w_enc": "W_enc.T", "w_dec": "W_dec", "b_dec": "b_dec", "w_skip": "W_skip.T?"}
FORMULA = "x' = x - b_dec (where apply_b_dec_to_input); a = activation(x' @ W_enc + b_enc); y = a @ W_dec + b_dec"
ASSUMED = "cfg.json scales inputs by their average length, which is taken to be folded into the weights"
PER_TOKEN = {"layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
"""Scalings of every token by itself, and what we call them."""

FOLDED = ("none", "expected_average_only_in")
"""Scalings of the input that leave nothing to do: an average is folded before a release."""


def recognise(files: Files) -> bool:
    """Whether a folder holds `cfg.json` beside `sae_weights.safetensors`."""
    return bool(_folders(files))


def entries(files: Files) -> list[Entry]:
    """One entry a folder; its `cfg.json` is read."""
    return gathered(
        lambda folder: _entry(files, folder, configuration(files.json(folder + "cfg.json"))), _folders(files)
    )


def configuration(plain: Mapping[str, Any]) -> dict[str, Any]:
    """One flat configuration in the words of version 6, whatever version wrote it."""
    merged = dict(plain) | dict(plain.get("metadata") or {})
    flat = {RENAMED.get(key, key): value for key, value in merged.items()}
    if int(str(flat.get("sae_lens_version") or "0").split(".")[0]) < 6:
        kwargs = flat.get("activation_fn_kwargs") or {}
        flat = {"apply_b_dec_to_input": True, "architecture": "standard"} | flat
        if flat.get("activation_fn") == "topk" and kwargs.get("k"):
            flat |= {"architecture": "topk", "k": kwargs["k"]}
    return flat


def _scaling(config: Mapping[str, Any]) -> str:
    scaling = config.get("normalize_activations") or FOLDED[0]
    return FOLDED[1] if scaling is True else str(scaling)


def _folders(files: Files) -> list[str]:
    heads = [name.removesuffix("cfg.json") for name in files if name.rsplit("/", 1)[-1] == "cfg.json"]
    return [head for head in heads if head + WEIGHTS in files]


def _entry(files: Files, folder: str, config: dict[str, Any]) -> Entry:
    model, hook = str(config.get("model_name") or ""), str(config.get("hook_name"))
    read = site_of(hook, config.get("hook_layer"), model)
    out = config.get("hook_name_out")
    write = site_of(str(out), config.get("hook_layer_out"), model) if out else read
    label = folder.strip("/") or read.name
    return Entry(
        name=label,
        reads=(read,),
        writes=(write,),
        kind=kind_of((read,), (write,)),
        width=width_word(int(config.get("d_sae") or 0)) if config.get("d_sae") else "",
        l0=str(config.get("k") or ""),
        target=float(config["k"]) if config.get("k") else None,
        tags=(str(config.get("architecture")),),
        bytes=files.size((folder + WEIGHTS,)),
        files=(folder + WEIGHTS,),
        provenance=Provenance("saelens", FORMULA, model, (ASSUMED,) if _scaling(config) == FOLDED[1] else ()),
        build=builder(files, label, (folder + WEIGHTS,), partial(_build, files, folder, config, read, write)),
    )


def _build(files: Files, folder: str, config: dict[str, Any], read: Site, write: Site) -> Coder:
    _refuse(config, folder.strip("/") or files.reference)
    kind = str(config.get("architecture")).removesuffix("_transcoder").removesuffix("_skip")
    kind = {"transcoder": "standard", "skip": "standard"}.get(kind, kind)
    if kind not in ARCHITECTURES:
        raise Unsupported(f"SAELens' architecture {kind!r} is not supported; {nearest(kind, ARCHITECTURES)}.")
    weights, activation = ARCHITECTURES[kind](read_tensors(files, folder + WEIGHTS), config)
    if config.get("d_sae") not in (None, len(weights["w_enc"])):
        raise BadArtefact(f"its cfg.json says {config['d_sae']} latents, its tensors {len(weights['w_enc'])}")
    coder = coder_of(read, write, centred(weights) if config.get("apply_b_dec_to_input") else weights, activation)
    per_token = PER_TOKEN.get(_scaling(config))
    return PerToken(coder, per_token) if per_token else coder


def _refuse(config: Mapping[str, Any], name: str) -> None:
    """Raise Unsupported for what cannot be said with our coders."""
    function = config.get("activation_fn")
    reasons = {
        f"scales its input by {_scaling(config)}": _scaling(config) not in (*FOLDED, *PER_TOKEN),
        f"has the activation function {function!r}": function not in (None, "relu", "topk"),
        "reads one head": config.get("hook_head_index") is not None,
    }
    for reason, applies in reasons.items():
        if applies:
            raise Unsupported(f"The SAELens coder {name} {reason}, which is not supported.")


Built = tuple[dict[str, Matrix], Activation]


def _standard(tensors: Mapping[str, Matrix], config: dict[str, Any]) -> Built:
    weights = laid_out(tensors, LAYOUT | {"b_enc": "b_enc"})
    factor = resident(tensors["scaling_factor"]) if "scaling_factor" in tensors else None
    if factor is not None and not bool((factor == 1).all()):  # some versions saved ones that mean nothing
        if not config.get("finetuning_scaling_factor"):
            raise BadArtefact("it has a scaling_factor that its cfg.json does not mention")
        weights["w_dec"] = resident(weights["w_dec"]) * factor[:, None]
    return weights, ReLU()


def _jumprelu(tensors: Mapping[str, Matrix], config: dict[str, Any]) -> Built:
    weights, _ = _standard(tensors, config)
    if "threshold" not in tensors and "log_threshold" in tensors:
        return weights, jumprelu(resident(tensors["log_threshold"]).exp(), len(weights["w_enc"]))
    threshold = laid_out(tensors, {"threshold": "threshold"})["threshold"]
    return weights, jumprelu(resident(threshold), len(weights["w_enc"]))


def _topk(tensors: Mapping[str, Matrix], config: dict[str, Any]) -> Built:
    weights, _ = _standard(tensors, config)
    if config.get("rescale_acts_by_decoder_norm"):  # the choice is made by the lengths that latents write
        rows = resident(weights["w_dec"])
        length = rows.norm(dim=1, keepdim=True)
        weights |= {"w_enc": resident(weights["w_enc"]) * length, "w_dec": rows / length}
        weights |= {"b_enc": resident(weights["b_enc"]) * length[:, 0]}
    return weights, TopK(int(config["k"]))


def _gated(tensors: Mapping[str, Matrix], config: dict[str, Any]) -> Built:
    weights = laid_out(tensors, LAYOUT | {"b_gate": "b_gate", "b_mag": "b_mag", "r_mag": "r_mag"})
    return ungated(weights)


ARCHITECTURES: dict[str, Callable[[Mapping[str, Matrix], dict[str, Any]], Built]] = {
    "standard": _standard,
    "jumprelu": _jumprelu,
    "topk": _topk,
    "gated": _gated,
}
