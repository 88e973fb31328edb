"""Gemma Scope 2, one layer at a time: autoencoders, transcoders, and transcoders with an affine skip.

`{resid_post|attn_out|mlp_out|transcoder}[_all]/layer_L_width_W_l0_C[_affine][_seed_1]/params.safetensors`, with a
`config.json` beside most. Everything is float32 in units of raw activations: nothing is centred or scaled.
`attn_out` lies before the output projection, and a transcoder reads the pre-feedforward norm's output with gain.
"""

import re
from functools import partial
from typing import Any

from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, kind_of
from glassworks.coders.files import Files
from glassworks.coders.formats.gemma_scope_names import SIZES, target
from glassworks.coders.formats.reading import builder, coder_of, laid_out, read_tensors
from glassworks.coders.hooks import site_of
from glassworks.errors import BadArtefact
from glassworks.sites import Site

PATTERN = (
    r"(?:(?P<family>resid_post|attn_out|mlp_out|transcoder)(?P<all>_all)?/)?(?P<folder>layer_(?P<layer>\d+)"
    r"_width_(?P<width>\d+[km])_l0_(?P<l0>small|medium|big)(?P<affine>_affine)?(?P<seed>_seed_\d+)?)/params\.safetensors"
)
REPOSITORY = r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)"
FAMILIES = {
    "resid_post": ("resid_post", "resid_post"),
    "attn_out": ("attn_heads", "attn_heads"),
    "mlp_out": ("mlp_out", "mlp_out"),
    "transcoder": ("mlp_in", "mlp_out"),
}
"""Folder -> the kinds of sites that it reads and writes."""

LAYOUT = {
    "w_enc": "w_enc.T",
    "b_enc": "b_enc",
    "w_dec": "w_dec",
    "b_dec": "b_dec",
    "threshold": "threshold",
    "w_skip": "affine_skip_connection?",
}
FORMULA = "z = x @ w_enc + b_enc; a = relu(z) * (z > threshold); y = a @ w_dec + b_dec (+ x @ affine_skip_connection)"


def recognise(files: Files) -> bool:
    """Whether a file is named as Gemma Scope 2 names its single-layer coders."""
    return bool(files.matching(PATTERN))


def entries(files: Files) -> list[Entry]:
    """One entry a `params.safetensors`; nothing is read."""
    model = model_of(files)
    return [_entry(files, name, match, model) for name, match in files.matching(PATTERN)]


def model_of(files: Files) -> str:
    """The model's name on the hub, from the repository's name or the first configuration."""
    repository = re.search(REPOSITORY, files.home)
    if repository:
        tuning = "" if repository.groups() == ("270m", "pt") else f"-{repository[2]}"
        return f"google/gemma-3-{repository[1]}{tuning}"
    config = next((name for name in files if name.rsplit("/", 1)[-1] == "config.json"), None)
    named = str(files.json(config).get("model_name", "")) if config else ""
    return named.replace("gemma-v3", "google/gemma-3").replace("-270m-pt", "-270m")


def layers_of(model: str) -> int | None:
    """How many layers the model has."""
    size = re.search(r"-(270m|1b|4b|12b|27b)", model)
    return SIZES[size[1]].layers if size else None


def untrained(model: str) -> tuple[str, ...]:
    """Positions that the release's coders never saw: BOS, and for chat models the start of the template."""
    return ("bos", "template") if model.endswith("-it") else ("bos",)


def _entry(files: Files, name: str, match: re.Match[str], model: str) -> Entry:
    layer, layers = int(match["layer"]), layers_of(model)
    reads, writes = _sites(files, name, match, layer)
    everywhere = bool(match["all"])
    label = match["folder"] if match["family"] is None else f"{match['family']}{match['all'] or ''}/{match['folder']}"
    marks = {"all": everywhere, "affine": match["affine"], (match["seed"] or "").strip("_"): match["seed"]}
    return Entry(
        name=label,
        reads=(reads,),
        writes=(writes,),
        kind=kind_of((reads,), (writes,)),
        width=match["width"],
        l0=match["l0"],
        target=None if layers is None else float(target(match["l0"], layer, layers, everywhere)),
        tags=tuple(mark for mark, present in marks.items() if present),
        bytes=files.size((name,)),
        files=(name,),
        provenance=Provenance("gemma_scope_2", FORMULA, model, untrained=untrained(model)),
        build=builder(files, label, (name,), partial(_build, files, name, reads, writes, bool(match["affine"]))),
    )


def _sites(files: Files, name: str, match: re.Match[str], layer: int) -> tuple[Site, Site]:
    if match["family"]:
        read, write = FAMILIES[match["family"]]
        return Site(read, layer), Site(write, layer)
    config = _config(files, name)
    if "hf_hook_point_in" not in config:
        raise BadArtefact(
            f"{files.reference} does not say which site {match['folder']} reads: keep the folder above it "
            f"({', '.join(FAMILIES)}) or its config.json."
        )
    read = site_of(config["hf_hook_point_in"], model="gemma-3")
    return read, site_of(config.get("hf_hook_point_out") or config["hf_hook_point_in"], model="gemma-3")


def _config(files: Files, name: str) -> dict[str, Any]:
    """The configuration beside a file; several releases lack it, and the path tells the same."""
    beside = name.rsplit("/", 1)[0] + "/config.json" if "/" in name else "config.json"
    return files.json(beside) if beside in files else {}


def _build(files: Files, name: str, read: Site, write: Site, affine: bool) -> Coder:
    config = _config(files, name)
    if config.get("hf_hook_point_in") and site_of(config["hf_hook_point_in"], model="gemma-3") != read:
        raise BadArtefact(f"its config.json says {config['hf_hook_point_in']}, its folder {read}")
    weights = laid_out(read_tensors(files, name), LAYOUT)
    if affine != ("w_skip" in weights):
        raise BadArtefact(f"its name says {'affine' if affine else 'no affine skip'}, its tensors say otherwise")
    if config.get("width") not in (None, len(weights["w_enc"])):
        raise BadArtefact(f"its config.json says {config['width']} latents, its tensors {len(weights['w_enc'])}")
    return coder_of(read, write, weights)
