"""OpenMOSS: Llama Scope, and the later format of Language-Model-SAEs, llamascopium, Llama Scope R1-Distill too.

Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors` in a folder for each coder. llamascopium:
`config.json` and `sae_weights.safetensors`. Training scales inputs and outputs to an average length of sqrt(d_model);
here that is folded into the weights. In the first, the one threshold of a coder counts raw pre-activations times the
length of the decoder's row; the second may gate a latent by its pre-activation times the length of all that it
writes. What is loaded is the trained function on raw activations, its latents in raw units. Decoders of a cross-layer
transcoder are grouped by output, source layers first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch

from glassworks.coders.activations import Activation, ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import (
    coder_of,
    configured,
    entry,
    finite,
    folders,
    gathered,
    jumprelu,
    laid_out,
    read_tensors,
)
from glassworks.coders.hooks import site_of
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import BadArtefact, Unsupported

SCOPE_CONFIG, SCOPE_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
SCOPE_MODEL = "meta-llama/Llama-3.1-8B"
SCOPE_LAYOUT = {
    "w_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "w_dec": "decoder.weight.T",
    "b_dec": "decoder.bias",
}
SCOPE_FORMULA = (
    "s = sqrt(d) / average norm; D = W_dec * s_in / s_out; z = (W_enc x + b_enc / s_in) * |D|; "
    "a = z * (z > threshold); y = a D / |D| + b_dec / s_out"
)

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
THRESHOLD = "activation_function.log_jumprelu_threshold"
EARLIER = {"W_E": "encoder.weight.T", "b_E": "encoder.bias", "W_D": "decoder.weight.T", "b_D": "decoder.bias?"}
EARLIER |= {THRESHOLD: "log_jumprelu_threshold?"}
"""The names that the R1-Distill edition still has."""
NORM = "dataset_average_activation_norm"
FORMULA = "z = s_in x @ W_E + b_E; a = act(z * |W_D|) / |W_D|; y = (a @ W_D + b_D) / s_out; s = sqrt(d) / average norm"
KINDS = ("sae", "clt")
HOOKS = {"hook_point_in", "hook_points_in", "hook_points"}


@dataclass(frozen=True)
class ScopeConfig:
    """`hyperparams.json` of Llama Scope."""

    hook_point_in: str
    d_model: int
    jump_relu_threshold: float
    hook_point_out: str | None = None
    d_sae: int | None = None
    sparsity_include_decoder_norm: bool | None = None
    dataset_average_activation_norm: dict[str, float | None] | None = None


@dataclass(frozen=True)
class Config:
    """`config.json` of llamascopium."""

    d_model: int
    expansion_factor: float
    sae_type: str = "sae"
    hook_point_in: str | None = None
    hook_point_out: str | None = None
    hook_points_in: list[str] | None = field(default_factory=list)
    hook_points_out: list[str] | None = field(default_factory=list)
    model_name: str | None = None
    act_fn: str | None = "relu"
    top_k: int | None = None
    norm_activation: str | None = "dataset-wise"
    sparsity_include_decoder_norm: bool | None = True
    use_glu_encoder: bool | None = None
    dataset_average_activation_norm: dict[str, float | None] | None = None

    @property
    def hooks(self) -> tuple[list[str], list[str]]:
        """The names of what it reads, and of what it writes."""
        if self.sae_type != "sae":
            return list(self.hook_points_in or []), list(self.hook_points_out or [])
        read = str(self.hook_point_in)
        return [read], [self.hook_point_out or read]


def llama_scope(files: Files) -> list[Entry]:
    """One entry a folder; its `hyperparams.json` is read."""

    def one(head: str) -> Entry:
        config = configured(ScopeConfig, files, head + SCOPE_CONFIG)
        read = site_of(config.hook_point_in, model=SCOPE_MODEL)
        write = site_of(config.hook_point_out or config.hook_point_in, model=SCOPE_MODEL)

        def scale(end: str) -> float:
            norm = (config.dataset_average_activation_norm or {}).get(end)
            if not norm:
                raise BadArtefact(
                    f"its {SCOPE_CONFIG} lacks the average norm at its {end}put, without which it cannot be scaled"
                )
            return sqrt(config.d_model) / norm

        def build() -> Coder:
            tensors = laid_out(read_tensors(files, head + SCOPE_WEIGHTS), SCOPE_LAYOUT)
            weights = {name: resident(value).float() for name, value in tensors.items()}
            s_in, s_out = scale("in"), scale("out")
            weights |= {"b_enc": weights["b_enc"] / s_in, "b_dec": weights["b_dec"] / s_out}
            weights |= {"w_dec": weights["w_dec"] * (s_in / s_out)}
            if config.sparsity_include_decoder_norm:
                length = weights["w_dec"].norm(dim=1)
                weights |= {"w_enc": weights["w_enc"] * length[:, None], "b_enc": weights["b_enc"] * length}
                weights |= {"w_dec": weights["w_dec"] / length[:, None].clamp(min=1e-30)}
            threshold = torch.tensor(config.jump_relu_threshold)
            return coder_of(read, write, weights, jumprelu(threshold, len(weights["w_enc"])))

        provenance = Provenance("llama_scope", SCOPE_FORMULA, SCOPE_MODEL)
        label, width = head.strip("/") or read.name, config.d_sae or "0"
        return entry(files, label, [head + SCOPE_WEIGHTS], ((read,), (write,)), provenance, build, width=width)

    return gathered(one, folders(files, SCOPE_CONFIG, SCOPE_WEIGHTS))


def llamascopium(files: Files) -> list[Entry]:
    """One entry a folder with `sae_weights.safetensors` beside a `config.json` that names hook points; it is read."""
    heads = folders(files, WEIGHTS, CONFIG)
    if not heads or not HOOKS & set(files.json(heads[0] + CONFIG)):
        return []

    def one(head: str) -> Entry:
        config = configured(Config, files, head + CONFIG)
        kind = config.sae_type
        if kind not in KINDS:
            raise Unsupported(f"llamascopium's {kind!r} is not supported; supported are {', '.join(KINDS)}.")
        model, (ins, outs) = config.model_name or "", config.hooks
        reads = tuple(site_of(hook, model=model) for hook in ins)
        writes = tuple(site_of(hook, model=model) for hook in outs)

        def build() -> Coder:
            if config.use_glu_encoder:
                raise Unsupported(
                    f"The coder {head or files.reference} has a gated linear encoder, which is not supported."
                )
            tensors = read_tensors(files, head + WEIGHTS)
            if "encoder.weight" in tensors:
                norms = {key: value for key, value in tensors.items() if key.startswith(NORM)}
                tensors = norms | laid_out(tensors, EARLIER)
            scales = {hook: _scale(config, tensors, hook) for hook in {*ins, *outs}}
            parts = []
            for i, hook in enumerate(ins):
                weights, activation = _folded(tensors, config, i, scales[hook], [scales[out] for out in outs[i:]])
                if len(ins) == 1 and "W_D" in tensors:
                    names = {"w_dec.0": "w_dec"}
                else:
                    names = {f"w_dec.{o}": f"w_dec.{site}" for o, site in enumerate(writes[i:])}
                    names["b_dec"] = f"b_dec.{writes[i]}"
                renamed = {names.get(name, name): value for name, value in weights.items()}
                if "w_dec" in renamed:
                    return coder_of(reads[0], writes[0], renamed, activation)
                parts.append(Crosscoder([reads[i]], writes[i:], activation, renamed))
            return CrossLayer(parts, head.strip("/") or "clt").requires_grad_(False).eval()

        return entry(
            files,
            head.strip("/") or (reads[0].name if kind == "sae" else kind),
            [head + WEIGHTS],
            (reads, writes),
            Provenance("llamascopium", FORMULA, model),
            build,
            width=int(config.d_model * config.expansion_factor) * len(reads),
            l0=config.top_k if str(config.act_fn).endswith("topk") else None,
            kind="" if kind == "sae" else kind,
        )

    return gathered(one, heads)


def _folded(
    tensors: Mapping[str, Matrix], config: Config, i: int, s_in: float, s_outs: list[float]
) -> tuple[dict[str, Matrix], Activation]:
    """The weights of one read site (an autoencoder, or layer i of a cross-layer transcoder), scales folded in."""
    joint, n = config.sae_type == "clt", len(config.hooks[0])
    decoders = [f"W_D.{o}" for o in range(n)] if joint else ["W_D"]
    raw = laid_out(tensors, {"w_enc": "W_E", "b_enc": "b_E"} | {key: key for key in decoders})
    b_enc = resident(raw["b_enc"])[i] if joint else resident(raw["b_enc"])
    weights: dict[str, Any] = {"w_enc": tensors["W_E"].select(0, i).mT if joint else tensors["W_E"].mT}
    keys = [f"w_dec.{o}" for o in range(len(s_outs))]
    for key, o in zip(keys, range(i, i + len(s_outs)), strict=True):
        weights[key] = tensors[f"W_D.{o}"].select(0, i) if joint else tensors["W_D"]
    name = f"b_D.{i}" if joint else "b_D"
    b_dec = finite(name, resident(tensors[name])) if name in tensors else torch.zeros(weights[keys[0]].shape[1])

    length = torch.ones(len(weights["w_enc"]))
    if config.sparsity_include_decoder_norm:
        squares = [resident(weights[key]).float().square().sum(1) for key in keys]
        length = torch.stack(squares).sum(0).sqrt()
    weights |= {"b_enc": b_enc.float() / s_in, "b_dec": b_dec.float() / s_outs[0]}
    for key, s_out in zip(keys, s_outs, strict=True):
        if s_in != s_out:
            weights[key] = resident(weights[key]).float() * (s_in / s_out)

    kind = str(config.act_fn).lower()
    if kind == "jumprelu" and THRESHOLD in tensors:
        log = finite("log_jumprelu_threshold", resident(tensors[THRESHOLD]))
        threshold = (log[i] if joint else log).float().exp() / (length.clamp(min=1e-30) * s_in)
        return weights, jumprelu(threshold.clamp(max=torch.finfo(torch.float32).max), len(length))
    if kind == "topk":  # scaled by what latents write, the k largest are the ones that the original chooses
        if config.top_k is None:
            raise KeyError("top_k")
        safe = length.clamp(min=1e-30)[:, None]
        weights |= {"w_enc": resident(weights["w_enc"]) * length[:, None], "b_enc": weights["b_enc"] * length}
        return weights | {key: resident(weights[key]) / safe for key in keys}, TopK(config.top_k)
    if kind == "relu":
        return weights, ReLU()
    raise Unsupported(f"llamascopium's activation {kind!r} depends on the batch; convert it to jumprelu first.")


def _scale(config: Config, tensors: Mapping[str, Matrix], hook: str) -> float:
    """`sqrt(d_model) / average norm` of one hook."""
    if config.norm_activation == "inference":
        return 1.0
    if config.norm_activation != "dataset-wise":
        raise Unsupported(
            f"llamascopium's scaling {config.norm_activation!r} depends on the text and is not supported."
        )
    key, given = f"{NORM}.{hook}", config.dataset_average_activation_norm or {}
    end = "out" if hook == config.hook_point_out else "in"
    value = resident(tensors[key]) if key in tensors else given.get(end)
    if value is None:
        raise BadArtefact(f"it lacks the tensor {key!r}, without which its scale is unknown")
    return sqrt(config.d_model) / float(value)
