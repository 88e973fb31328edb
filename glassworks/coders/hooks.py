"""Hooks: from other libraries' names of a place in a model to our sites.

TransformerLens (`blocks.5.hook_resid_post`), circuit-tracer (`mlp.hook_in` and a layer), Hugging Face module paths
(`model.layers.5.mlp.output`) and Neuronpedia (`5-gemmascope-res-16k`). A name that means another tensor in
another family is told apart by the model's name. This module must not know any format of files.
"""

import re

from glassworks.errors import Unsupported, nearest
from glassworks.sites import Site

POST_NORM = re.compile(r"gemma[-_]?(?:scope[-_])?(?:v)?[23]|olmo[-_]?2", re.IGNORECASE)
"""Models whose blocks have a norm after attention and after the MLP."""

LENS: dict[str, str | None] = {
    "hook_resid_pre": "resid_pre",
    "hook_attn_in": "resid_pre",
    "attn.hook_in": "attn_in",
    "attn.hook_z": "attn_heads",
    "attn.hook_pattern": "pattern",
    "attn.hook_v": "v",
    "hook_attn_out": "attn_out",
    "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "resid_mid",
    "ln2.hook_normalized": "mlp_in_pregain",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_out": "raw_mlp_out",
    "hook_mlp_out": "mlp_out",
    "hook_resid_post": "resid_post",
}
"""TransformerLens' and circuit-tracer's names in a block. Its `hook_mlp_in` and `hook_attn_in` are the residual
stream before the norm, whatever their names say."""

MODULES: dict[str, str] = {
    "": "resid_post",
    "output": "resid_post",
    "input": "resid_pre",
    "attn.input": "attn_in",
    "attn": "raw_attn_out",
    "attn.output": "raw_attn_out",
    "attn.o_proj.input": "attn_heads",
    "attn.o_proj": "raw_attn_out",
    "attn.o_proj.output": "raw_attn_out",
    "post_attention_layernorm.output": "post_attention",
    "post_attention_layernorm": "post_attention",
    "pre_feedforward_layernorm.input": "resid_mid",
    "pre_feedforward_layernorm.output": "mlp_in",
    "pre_feedforward_layernorm": "mlp_in",
    "mlp.input": "mlp_in",
    "mlp": "raw_mlp_out",
    "mlp.output": "raw_mlp_out",
    "post_feedforward_layernorm.output": "mlp_out",
    "post_feedforward_layernorm": "mlp_out",
}
"""Hugging Face's module paths in a layer; a path without an end means the module's output."""

BY_FAMILY: dict[str, tuple[str | None, str | None]] = {
    "raw_mlp_out": ("mlp_out", None),
    "raw_attn_out": ("attn_out", None),
    "post_attention": ("mlp_in", "attn_out"),
}
"""Place -> its site in a family without norms after its parts, and in one with them."""

SAME_MODULE = {"self_attn": "attn", "attention": "attn", "dense": "o_proj", "c_proj": "o_proj"}

NEURONPEDIA: dict[str, str] = {
    r"res-jb": "resid_pre",
    r"res_mid.*|resid-mid.*": "resid_mid",
    r"gemmascope-transcoder.*": "mlp_in_pregain",
    r"gemmascope-2-transcoder.*": "mlp_in",
    r"gemmascope(?:-2)?-att.*|att-kk": "attn_heads",
    r"(?:.*-)?res(?:[-_].*)?": "resid_post",
    r"(?:.*-)?att(?:[-_].*)?": "attn_out",
    r"(?:.*-)?mlp(?:[-_].*)?": "mlp_out",
}
"""Neuronpedia's source names after the layer, the first that fits."""

EMBEDDINGS = {
    "hook_embed": r"gpt-?2",
    "embed_tokens": r"gemma[-_]?(?:v)?2",
    "model.embed_tokens": r"gemma[-_]?(?:v)?2",
}
"""Names of token embeddings, and the models where they lack what the stream has as it enters layer 0: positions of
their own, or a scale."""

LAYERED = re.compile(
    r"^(?:model\.|language_model\.|transformer\.|gpt_neox\.|text_model\.)*(?:layers|h)\.(\d+)(?:\.(.*))?$"
)


def site_of(hook: str, layer: int | None = None, model: str = "") -> Site:
    """Find the site that another library's name means.

    Args:
        hook: the name, in any of the four spellings.
        layer: the layer where the name does not hold it (circuit-tracer).
        model: the model's name where known: some names mean another tensor in a family with post-norms.

    Raises:
        Unsupported: the name is unknown, or means a tensor that is no site of ours.
    """
    name = hook.strip()
    if name in EMBEDDINGS:
        if re.search(EMBEDDINGS[name], model, re.IGNORECASE):
            raise Unsupported(f"{hook!r} of {model} is not yet what enters layer 0, and no site of ours.")
        return Site("embed")
    if own := re.fullmatch(r"([a-z_]+)\.(\d+)", name):
        return _own(own, hook, model)
    if lens := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return _placed(LENS.get(lens[2]), int(lens[1]), hook, model)
    if module := LAYERED.fullmatch(name):
        return _placed(MODULES.get(_plain_path(module[2] or "")), int(module[1]), hook, model)
    if source := re.fullmatch(r"(?:[\w.-]+/)?(\d+)-(.+)", name):
        kind = next((kind for pattern, kind in NEURONPEDIA.items() if re.fullmatch(pattern, source[2])), None)
        return _placed(kind, int(source[1]), hook, model)
    return _placed(LENS.get(name), layer, hook, model)


def _own(match: re.Match[str], hook: str, model: str) -> Site:
    """`layers.5` and `h.5` are paths of modules; every other `kind.5` is our own spelling."""
    if match[1] in ("layers", "h"):
        return _placed("resid_post", int(match[2]), hook, model)
    return Site.parse(hook.strip())


def _placed(kind: str | None, layer: int | None, hook: str, model: str) -> Site:
    if kind in BY_FAMILY:
        kind = BY_FAMILY[kind][bool(POST_NORM.search(model))]
        if kind is None:
            raise Unsupported(
                f"{hook!r} of {model} lies before the norm that follows it, which is no site of ours; "
                "sites are what is added to the residual stream."
            )
    if kind is None or layer is None:
        known = [f"blocks.0.{each}" for each in LENS] + [f"model.layers.0.{each}" for each in MODULES if each]
        raise Unsupported(f"The hook {hook!r} is no site that we know; {nearest(hook, known)}.")
    return Site(kind, layer)


def _plain_path(path: str) -> str:
    """One spelling for the parts of attention: `self_attn.o_proj.input` -> `attn.o_proj.input`."""
    return ".".join(SAME_MODULE.get(part, part) for part in path.split("."))
