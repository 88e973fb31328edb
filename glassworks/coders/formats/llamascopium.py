"""llamascopium (OpenMOSS Language-Model-SAEs), Llama Scope R1-Distill too: `config.json`, `sae_weights.safetensors`.

Training scales every site to an average length of sqrt(d_model), and may gate a latent by its pre-activation times
the length of all that it writes. Both are folded: what is loaded is the trained function on raw activations, its
latents in raw units. Decoders of a cross-layer transcoder are grouped by output, source layers first.
"""

from collections.abc import Mapping
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from glassworks.coders.activations import Activation, ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance, kind_of, width_word
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, coder_of, finite, gathered, jumprelu, laid_out, read_tensors
from glassworks.coders.hooks import site_of
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import BadArtefact, Unsupported
from glassworks.sites import Site

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
THRESHOLD = "activation_function.log_jumprelu_threshold"
EARLIER = {"W_E": "encoder.weight.T", "b_E": "encoder.bias", "W_D": "decoder.weight.T", "b_D": "decoder.bias?"}
EARLIER |= {THRESHOLD: "log_jumprelu_threshold?"}
"""The names that the R1-Distill edition still has."""

NORM = "dataset_average_activation_norm"
FORMULA = "z = s_in x @ W_E + b_E; a = act(z * |W_D|) / |W_D|; y = (a @ W_D + b_D) / s_out; s = sqrt(d) / average norm"
KINDS = ("sae", "clt")
HOOKS = {"hook_point_in", "hook_points_in", "hook_points"}


def recognise(files: Files) -> bool:
    """Whether a `sae_weights.safetensors` lies beside a `config.json` that names hook points."""
    return any(HOOKS & set(files.json(head + CONFIG)) for head in _folders(files)[:1])


def entries(files: Files) -> list[Entry]:
    """One entry a folder; its configuration is read."""
    return gathered(lambda head: _entry(files, head, files.json(head + CONFIG)), _folders(files))


def _folders(files: Files) -> list[str]:
    heads = [name.removesuffix(WEIGHTS) for name in files if name.rsplit("/", 1)[-1] == WEIGHTS]
    return [head for head in heads if head + CONFIG in files]


def _hooks(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    if config.get("sae_type", "sae") == "sae":
        return [config["hook_point_in"]], [config.get("hook_point_out") or config["hook_point_in"]]
    return list(config.get("hook_points_in") or []), list(config.get("hook_points_out") or [])


def _entry(files: Files, head: str, config: dict[str, Any]) -> Entry:
    kind = str(config.get("sae_type", "sae"))
    if kind not in KINDS:
        raise Unsupported(f"llamascopium's {kind!r} is not supported; supported are {', '.join(KINDS)}.")
    ins, outs = _hooks(config)
    model = str(config.get("model_name") or "")
    reads, writes = (tuple(site_of(hook, model=model) for hook in hooks) for hooks in (ins, outs))
    label, names = head.strip("/") or (reads[0].name if kind == "sae" else kind), (head + WEIGHTS,)
    k = config.get("top_k") if str(config.get("act_fn")).endswith("topk") else None
    return Entry(
        name=label,
        reads=reads,
        writes=writes,
        kind=kind_of(reads, writes) if kind == "sae" else kind,
        width=width_word(int(config["d_model"] * float(config["expansion_factor"])) * len(reads)),
        l0=str(k or ""),
        target=float(k) if k else None,
        tags=(),
        bytes=files.size(names),
        files=names,
        provenance=Provenance("llamascopium", FORMULA, model),
        build=builder(files, label, names, partial(_build, files, head, config, reads, writes)),
    )


def _build(files: Files, head: str, config: dict[str, Any], reads: tuple[Site, ...], writes: tuple[Site, ...]) -> Coder:
    if config.get("use_glu_encoder"):
        raise Unsupported(f"The coder {head or files.reference} has a gated linear encoder, which is not supported.")
    tensors = _named(read_tensors(files, head + WEIGHTS))
    ins, outs = _hooks(config)
    scales = {hook: _scale(config, tensors, hook) for hook in {*ins, *outs}}
    parts = []
    for i, hook in enumerate(ins):
        one = _one(tensors, config, i, len(ins))
        weights, activation = _folded(one, config, scales[hook], [scales[out] for out in outs[i:]])
        if len(ins) == 1 and "W_D" in tensors:
            return coder_of(reads[0], writes[0], _renamed(weights, {"w_dec.0": "w_dec"}), activation)
        names = {f"w_dec.{o}": f"w_dec.{site}" for o, site in enumerate(writes[i:])} | {"b_dec": f"b_dec.{writes[i]}"}
        parts.append(Crosscoder([reads[i]], writes[i:], activation, _renamed(weights, names)))
    return CrossLayer(parts, head.strip("/") or "clt").requires_grad_(False).eval()


def _named(tensors: dict[str, Matrix]) -> dict[str, Matrix]:
    """Today's names, whichever edition wrote the file."""
    if "encoder.weight" not in tensors:
        return tensors
    rest = {key: value for key, value in tensors.items() if key.startswith(NORM)}
    return rest | laid_out(tensors, EARLIER)


def _renamed(weights: Mapping[str, Matrix], names: Mapping[str, str]) -> dict[str, Matrix]:
    return {names.get(name, name): value for name, value in weights.items()}


def _one(tensors: Mapping[str, Matrix], config: Mapping[str, Any], i: int, n: int) -> dict[str, Matrix]:
    """The weights of one read site: those of an autoencoder, or layer i of a cross-layer transcoder."""
    joint = config.get("sae_type") == "clt"
    keys = ["W_E", "b_E", *([f"W_D.{o}" for o in range(n)] if joint else ["W_D"])]
    found = laid_out(tensors, {"w_enc": "W_E", "b_enc": "b_E"} | {key: key for key in keys[2:]})
    weights: dict[str, Matrix] = {
        "w_enc": tensors["W_E"].select(0, i).mT if joint else tensors["W_E"].mT,
        "b_enc": resident(found["b_enc"])[i] if joint else found["b_enc"],
    }
    later = range(i, n) if joint else range(1)
    weights |= {f"w_dec.{o - i}": tensors[f"W_D.{o}"].select(0, i) if joint else tensors["W_D"] for o in later}
    bias, width = f"b_D.{i}" if joint else "b_D", weights["w_dec.0"].shape[1]
    weights["b_dec"] = finite(bias, resident(tensors[bias])) if bias in tensors else torch.zeros(width)
    if THRESHOLD in tensors:
        log = finite("log_jumprelu_threshold", resident(tensors[THRESHOLD]))
        weights["threshold"] = (log[i] if joint else log).float().exp()
    return weights


def _folded(
    weights: dict[str, Matrix], config: Mapping[str, Any], s_in: float, s_outs: list[float]
) -> tuple[dict[str, Matrix], Activation]:
    """Put the scales and the gate's lengths into the weights of one read site."""
    keys = [f"w_dec.{o}" for o in range(len(s_outs))]
    length = torch.ones(len(weights["w_enc"]))
    if config.get("sparsity_include_decoder_norm", True):
        length = sum(resident(weights[key]).float().square().sum(1) for key in keys)
        length = torch.as_tensor(length).sqrt()
    folded = dict(weights)
    folded["b_enc"] = resident(weights["b_enc"]).float() / s_in
    folded["b_dec"] = resident(weights["b_dec"]).float() / s_outs[0]
    for key, s_out in zip(keys, s_outs, strict=True):
        if s_in != s_out:
            folded[key] = resident(weights[key]).float() * (s_in / s_out)
    threshold = folded.pop("threshold", None)
    kind = str(config.get("act_fn", "relu")).lower()
    if kind == "jumprelu" and threshold is not None:
        raw = resident(threshold) / (length.clamp(min=1e-30) * s_in)
        return folded, jumprelu(raw.clamp(max=torch.finfo(torch.float32).max), len(length))
    if kind == "topk":
        return _by_length(folded, keys, length), TopK(int(config["top_k"]))
    if kind == "relu":
        return folded, ReLU()
    raise Unsupported(f"llamascopium's activation {kind!r} depends on the batch; convert it to jumprelu first.")


def _by_length(weights: dict[str, Matrix], keys: list[str], length: Tensor) -> dict[str, Matrix]:
    """Scale latents by what they write, so that the k largest are the ones that the original chooses."""
    safe = length.clamp(min=1e-30)[:, None]
    scaled = {"w_enc": resident(weights["w_enc"]) * length[:, None], "b_enc": resident(weights["b_enc"]) * length}
    return weights | scaled | {key: resident(weights[key]) / safe for key in keys}


def _scale(config: Mapping[str, Any], tensors: Mapping[str, Matrix], hook: str) -> float:
    norm = config.get("norm_activation", "dataset-wise")
    if norm == "inference":
        return 1.0
    if norm != "dataset-wise":
        raise Unsupported(f"llamascopium's scaling {norm!r} depends on the text and is not supported.")
    key, given = f"{NORM}.{hook}", config.get(NORM) or {}
    value = (
        resident(tensors[key]) if key in tensors else given.get("out" if hook == config.get("hook_point_out") else "in")
    )
    if value is None:
        raise BadArtefact(f"it lacks the tensor {key!r}, without which its scale is unknown")
    return sqrt(float(config["d_model"])) / float(value)
