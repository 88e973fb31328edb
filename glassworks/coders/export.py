"""Exports: a scope in the files that other libraries read.

What a library cannot say is refused, never approximated: a site without a name there, an activation that it does not
have, a skip that its loader drops. Every export is read back by `formats` with the same results.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from glassworks.coders.activations import GroupMax, JumpReLU, ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.hooks import LENS, site_of
from glassworks.coders.scope import Scope
from glassworks.coders.transcoder import Transcoder
from glassworks.errors import BadInput, Unsupported, nearest
from glassworks.sites import Site

File = tuple[str, dict[str, Tensor] | dict[str, Any]]
"""A file's name, and what goes into it: tensors, or JSON."""


def export_scope(scope: Scope, path: Path | str, layout: str) -> Path:
    """Write a scope as another library reads it.

    Args:
        scope: all its coders are written; for circuit-tracer those of its replacement set.
        path: a folder that does not exist yet, or is empty.
        layout: `saelens` (version 6), `sparsify` or `circuit_tracer`.

    Returns:
        The folder.

    Raises:
        NotFound: no such layout.
        BadInput: the folder holds something.
        Unsupported: the library cannot express a coder.
    """
    folder = Path(path)
    if layout not in LAYOUTS:
        raise BadInput(f"Scopes cannot be exported as {layout!r}; {nearest(layout, LAYOUTS)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"The output {folder} exists already; choose a folder that does not exist yet.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in LAYOUTS[layout](scope):
            _write(made / name, content)
        made.chmod(0o755)
        os.replace(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in content.items()}, file)
    else:  # a .yaml too: JSON is YAML
        file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _saelens(scope: Scope) -> Iterator[File]:
    """`<coder>/cfg.json` and `<coder>/sae_weights.safetensors`, with TransformerLens names of sites."""
    for name in scope:
        coder = _transcoder(scope[name])
        sae, gate = coder.reads == coder.writes, coder.activation
        if not isinstance(gate, ReLU | JumpReLU) and not (sae and isinstance(gate, TopK)):
            raise Unsupported(f"SAELens has no {'autoencoder' if sae else 'transcoder'} with {gate.kind}: {name}.")
        weights = coder.weights()
        skip = weights.pop("w_skip", None)
        kind = {"relu": "standard"}.get(gate.kind, gate.kind)
        if not sae:
            kind = ("" if kind == "standard" else f"{kind}_") + ("transcoder" if skip is None else "skip_transcoder")
        elif skip is not None:
            raise Unsupported(f"SAELens has no autoencoder with a skip: {name}.")
        hooks = {"hook_name": _lens(coder.reads[0], scope.model)}
        hooks |= {} if sae else {"hook_name_out": _lens(coder.writes[0], scope.model)}
        config: dict[str, Any] = {"architecture": kind, "d_in": coder.d_in, "d_sae": coder.d_latent}
        config |= {"dtype": str(coder.w_enc.dtype).removeprefix("torch."), "device": "cpu"}
        config |= {"apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none"}
        config |= {"k": gate.k, "rescale_acts_by_decoder_norm": False} if isinstance(gate, TopK) else {}
        config |= {} if sae else {"d_out": coder.d_out}
        if coder.reads[0].kind == "attn_heads":
            config["reshape_activations"] = "hook_z"
        config["metadata"] = {"model_name": scope.model, "sae_lens_version": "6.0.0"} | hooks
        yield f"{name}/cfg.json", config
        tensors = {"W_enc": weights["w_enc"].T, "W_dec": weights["w_dec"]}
        tensors |= {key: weights[key] for key in ("b_enc", "b_dec")} | coder.activation_tensors()
        yield f"{name}/sae_weights.safetensors", tensors | ({} if skip is None else {"W_skip": skip.T})


def _sparsify(scope: Scope) -> Iterator[File]:
    """`<hookpoint>/cfg.json` and `<hookpoint>/sae.safetensors`; the library centres the input of autoencoders."""
    for name in scope:
        coder = _transcoder(scope[name])
        sae, gate, weights = coder.reads == coder.writes, coder.activation, coder.weights()
        if not isinstance(gate, TopK | GroupMax):
            raise Unsupported(f"sparsify has topk and groupmax coders; {name} is {gate.kind}.")
        if sae and "w_skip" in weights:
            raise Unsupported(f"sparsify would read the skip of the autoencoder {name} as a transcoder's.")
        hook = _hookpoint(coder, scope.model)
        config = {"activation": gate.kind, "expansion_factor": 0, "normalize_decoder": False, "k": gate.k}
        config |= {"num_latents": coder.d_latent, "multi_topk": False, "d_in": coder.d_in}
        yield f"{hook}/cfg.json", config | {"transcode": not sae, "skip_connection": "w_skip" in weights}
        b_enc = weights["b_enc"]
        if sae:
            b_enc = (b_enc.double() + weights["w_enc"].double() @ weights["b_dec"].double()).to(b_enc.dtype)
        tensors = {"encoder.weight": weights["w_enc"], "encoder.bias": b_enc, "W_dec": weights["w_dec"]}
        tensors["b_dec"] = weights["b_dec"]
        skip = {"W_skip": weights["w_skip"].T} if "w_skip" in weights else {}
        yield f"{hook}/sae.safetensors", tensors | skip


def _circuit_tracer(scope: Scope) -> Iterator[File]:
    """`config.yaml` with `layer_<i>.safetensors`, or `W_enc_<i>` and `W_dec_<i>` of a cross-layer transcoder."""
    coders = [scope[name] for name in scope.replacement]
    if not coders:
        raise Unsupported(f"The scope {scope.name} names no replacement of the MLPs; take it with scope.choose(...).")
    joint = coders[0] if isinstance(coders[0], CrossLayer) and len(coders) == 1 else None
    parts = list(coders[0].parts) if joint else sorted(map(_transcoder, coders), key=lambda each: each.reads[0])
    if [part.reads[0].layer for part in parts] != list(range(len(parts))):
        raise Unsupported("circuit-tracer numbers its files by layer from 0; these coders do not read every layer.")
    config: dict[str, Any] = {"model_name": scope.model, "scan": scope.name}
    for end, site in (("input", parts[0].reads[0]), ("output", parts[0].writes[0])):
        config[f"feature_{end}_hook"] = _lens(site, scope.model).removeprefix("blocks.0.")
    gate = parts[0].activation
    if any(part.activation.plain() != gate.plain() for part in parts) or not isinstance(gate, ReLU | JumpReLU | TopK):
        raise Unsupported("circuit-tracer has one activation a set: ReLU, TopK with one k, or JumpReLU.")
    config |= {"activation": "topk", "k": gate.k} if isinstance(gate, TopK) else {}
    if joint and isinstance(gate, TopK):
        raise Unsupported("circuit-tracer's cross-layer transcoders are ReLU or JumpReLU, not TopK.")
    yield "config.yaml", config | {"model_kind": "cross_layer_transcoder" if joint else "transcoder_set"}
    yield from (file for i, part in enumerate(parts) for file in (_layer_files if joint else _set_file)(part, i, parts))


def _set_file(coder: Any, layer: int, all_parts: list[Any]) -> Iterator[File]:
    weights = coder.weights()
    tensors = {key: weights[key.lower()] for key in ("W_enc", "W_dec", "b_enc", "b_dec")}
    tensors |= {f"activation_function.{key}": value for key, value in coder.activation_tensors().items()}
    yield f"layer_{layer}.safetensors", tensors | ({"W_skip": weights["w_skip"].T} if "w_skip" in weights else {})


def _layer_files(coder: Any, layer: int, all_parts: list[Any]) -> Iterator[File]:
    """The decoder is stacked over outputs, counted from the own layer on."""
    import torch

    weights, writes = coder.weights(), [part.writes[0] for part in all_parts][layer:]
    if list(coder.writes) != writes:
        raise Unsupported(f"The parts of circuit-tracer write every layer from their own on; part {layer} differs.")
    if any(name.startswith("w_skip") for name in weights):
        raise Unsupported("circuit-tracer drops the skips of cross-layer transcoders: this one cannot be exported.")
    b_dec = coder.bias(writes[0])
    if any(f"b_dec.{site}" in weights and bool(weights[f"b_dec.{site}"].any()) for site in writes[1:]):
        raise Unsupported(f"The part {coder.id} has the bias of another layer, which circuit-tracer cannot express.")
    tensors = {f"W_enc_{layer}": weights["w_enc"], f"b_enc_{layer}": weights["b_enc"], f"b_dec_{layer}": b_dec}
    tensors |= {f"{key}_{layer}": value for key, value in coder.activation_tensors().items()}
    yield f"W_enc_{layer}.safetensors", tensors
    rows = torch.stack([weights[f"w_dec.{site}"] for site in writes], dim=1)
    yield f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": rows}


LAYOUTS: dict[str, Callable[[Scope], Iterator[File]]] = {
    "saelens": _saelens,
    "sparsify": _sparsify,
    "circuit_tracer": _circuit_tracer,
}


def _transcoder(coder: Coder) -> Transcoder:
    if not isinstance(coder, Transcoder):
        raise Unsupported(f"The coder {coder.id} reads or writes several sites, which this library cannot express.")
    return coder


def _lens(site: Site, model: str) -> str:
    """TransformerLens' name of a site, checked by reading it back."""
    name = next((name for name, kind in LENS.items() if kind == site.kind), None)
    if site.kind == "embed":
        return "hook_embed"
    if name is None or site_of(f"blocks.{site.layer}.{name}", model=model) != site:
        raise Unsupported(f"The site {site} has no name in TransformerLens, which the other library uses.")
    return f"blocks.{site.layer}.{name}"


HOOKPOINTS = {"resid_post": "layers.{}", "mlp_out": "layers.{}.mlp", "attn_out": "layers.{}.self_attn"}
"""The module whose output a site is, in families without norms after their parts."""


def _hookpoint(coder: Transcoder, model: str) -> str:
    """The module's path that sparsify names its folder by, checked by reading it back."""
    read, write = coder.reads[0], coder.writes[0]
    hook = HOOKPOINTS.get(write.kind, "").format(write.layer)
    ends = (hook, hook) if read == write else (f"{hook}.input", hook)
    if not hook or tuple(site_of(end, model=model) for end in ends) != (read, write):
        raise Unsupported(f"sparsify cannot name what the coder {coder.id} reads and writes, {read} and {write}.")
    return hook
