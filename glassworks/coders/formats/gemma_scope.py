"""Gemma Scope 1 and 2: autoencoders, transcoders, cross-layer transcoders and crosscoders of Gemma 2 and 3.

1: `layer_N/width_W/average_l0_K/params.npz`. Its transcoders read the normalised residual stream BEFORE the norm's
gain, unlike those of 2; its embedding autoencoders were trained on the table's rows and are rescaled here to the
embedding as it enters layer 0.

2, one layer at a time: `{resid_post|attn_out|mlp_out|transcoder}[_all]/layer_L_width_W_l0_C[_affine][_seed_1]/
params.safetensors`, with a `config.json` beside most. Everything is float32 in units of raw activations: nothing is
centred or scaled. `attn_out` lies before the output projection, and a transcoder reads the pre-feedforward norm's
output with gain.

2, over several layers: `clt/` and `crosscoder/`, one file for each encoder, `params_layer_{i}.safetensors`; its
`w_dec (latents, outputs, d)` is dense, with the absolute number of the output. Its bias belongs to output i and is
added once; its skip goes from site i to site i. Whether the rows for earlier outputs are zero is seen on some rows;
where they are not, they are kept.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch

from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import coder_of, configured, entry, jumprelu, laid_out, read_tensors
from glassworks.coders.hooks import site_of
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import BadArtefact
from glassworks.sites import Site

FIRST = r"(?:(?P<embedding>embedding)|layer_(?P<layer>\d+))/width_(?P<width>\d+[km])/average_l0_(?P<l0>\d+)/params\.npz"
FIRST_REPOSITORY = r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)"
FIRST_FAMILIES = {
    "res": ("resid_post", "resid_post"),
    "att": ("attn_heads", "attn_heads"),
    "mlp": ("mlp_out", "mlp_out"),
    "transcoders": ("mlp_in_pregain", "mlp_out"),
}
FIRST_LAYOUT = {"w_enc": "W_enc.T", "b_enc": "b_enc", "w_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"}
FIRST_FORMULA = "z = x @ W_enc + b_enc; a = relu(z) * (z > threshold); y = a @ W_dec + b_dec"
SCALED = "trained on the embedding table's rows; the weights were rescaled by sqrt(d_model) for the site `embed`"

SECOND = (
    r"(?:(?P<family>resid_post|attn_out|mlp_out|transcoder)(?P<all>_all)?/)?(?P<folder>layer_(?P<layer>\d+)"
    r"_width_(?P<width>\d+[km])_l0_(?P<l0>small|medium|big)(?P<affine>_affine)?(?P<seed>_seed_\d+)?)/params\.safetensors"
)
SECOND_REPOSITORY = r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)"
SECOND_FAMILIES = {
    "resid_post": ("resid_post", "resid_post"),
    "attn_out": ("attn_heads", "attn_heads"),
    "mlp_out": ("mlp_out", "mlp_out"),
    "transcoder": ("mlp_in", "mlp_out"),
}
"""Folder -> the kinds of sites that it reads and writes."""
SECOND_LAYOUT = {"w_enc": "w_enc.T", "b_enc": "b_enc", "w_dec": "w_dec", "b_dec": "b_dec", "threshold": "threshold"}
SECOND_LAYOUT |= {"w_skip": "affine_skip_connection?"}
SECOND_FORMULA = (
    "z = x @ w_enc + b_enc; a = relu(z) * (z > threshold); y = a @ w_dec + b_dec (+ x @ affine_skip_connection)"
)
LAYERS = {"270m": 18, "1b": 26, "4b": 34, "12b": 48, "27b": 62}
L0_RANGES = {"small": (10, 20), "medium": (30, 60), "big": (60, 150)}
L0_BIG_EVERYWHERE = (60, 120)
"""`big` is another target in the folders that have every layer."""

JOINT = (
    r"(?P<label>(?P<kind>clt|crosscoder)/(?:layer_(?P<layers>\d+(?:_\d+)*)_)?width_(?P<width>\d+[km])"
    r"_l0_(?P<l0>medium|big)(?P<affine>_affine)?)/params_layer_(?P<part>\d+)\.safetensors"
)
JOINT_TARGETS = {"medium": 50.0, "big": 150.0}
JOINT_FORMULA = (
    "z_l = x_l @ w_enc[l] + b_enc[l]; a = relu(z) * (z > threshold); y_o = sum over l: a_l @ w_dec[l, :, o] + b_dec[o] "
    "(+ x_o @ affine_skip_connection[o])"
)
SAMPLED = 64
"""How many latents are looked at to see whether a part writes to earlier outputs."""


@dataclass(frozen=True)
class Config:
    """The `config.json` beside a coder of Gemma Scope 2; several releases lack it, and the path says the same."""

    hf_hook_point_in: str | None = None
    hf_hook_point_out: str | None = None
    width: int | None = None
    model_name: str | None = None


def first(files: Files) -> list[Entry]:
    """Gemma Scope 1: one entry a `params.npz`; nothing is read.

    Raises:
        BadArtefact: the path does not name the repository, which alone gives the site.
    """
    matches = files.matching(FIRST)
    if not matches:
        return []
    repository = re.search(FIRST_REPOSITORY, files.home)
    if repository is None:
        raise BadArtefact(
            f"{files.reference} looks like Gemma Scope 1, but only a repository's name tells the site: put it into a "
            f"folder named like gemma-scope-2b-pt-res (ends: {', '.join(FIRST_FAMILIES)})."
        )
    size, tuning, family = repository.groups()
    model = f"google/gemma-2-{size}" + ("-it" if tuning == "it" else "")

    def one(name: str, match: re.Match[str]) -> Entry:
        embedding = bool(match["embedding"])
        read, write = (
            Site("embed") if embedding else Site(kind, int(match["layer"])) for kind in FIRST_FAMILIES[family]
        )

        def build() -> Coder:
            tensors = read_tensors(files, name)
            if "w_enc" in tensors:  # some copies spell the keys in lower case
                tensors = {key.replace("w_", "W_"): value for key, value in tensors.items()}
            weights = laid_out(tensors, FIRST_LAYOUT)
            if embedding:
                scale = weights["w_enc"].shape[1] ** 0.5
                weights |= {"w_enc": resident(weights["w_enc"]) / scale}
                weights |= {each: resident(weights[each]) * scale for each in ("w_dec", "b_dec")}
            return coder_of(read, write, weights)

        label = name.removesuffix("/params.npz") if "/" in name else match[0].rsplit("/", 1)[0]
        provenance = Provenance("gemma_scope_1", FIRST_FORMULA, model, (SCALED,) if embedding else ())
        sites, l0 = ((read,), (write,)), match["l0"]
        return entry(files, label, [name], sites, provenance, build, width=match["width"], l0=l0, target=float(l0))

    return [one(name, match) for name, match in matches]


def second(files: Files) -> list[Entry]:
    """Gemma Scope 2, one layer at a time: one entry a `params.safetensors`; nothing is read."""
    matches = files.matching(SECOND)
    if not matches:
        return []
    model = _model(files)
    layers, untrained = _layers(model), _untrained(model)

    def one(name: str, match: re.Match[str]) -> Entry:
        layer, affine, everywhere = int(match["layer"]), bool(match["affine"]), bool(match["all"])
        beside = name.rsplit("/", 1)[0] + "/config.json" if "/" in name else "config.json"

        def config() -> Config:
            return configured(Config, files, beside) if beside in files else Config()

        if match["family"]:
            read, write = (Site(kind, layer) for kind in SECOND_FAMILIES[match["family"]])
        else:
            hook, out = config().hf_hook_point_in, config().hf_hook_point_out
            if hook is None:
                raise BadArtefact(
                    f"{files.reference} does not say which site {match['folder']} reads: keep the folder above it "
                    f"({', '.join(SECOND_FAMILIES)}) or its config.json."
                )
            read, write = site_of(hook, model="gemma-3"), site_of(out or hook, model="gemma-3")

        def build() -> Coder:
            hook, width = config().hf_hook_point_in, config().width
            if hook and site_of(hook, model="gemma-3") != read:
                raise BadArtefact(f"its config.json says {hook}, its folder {read}")
            weights = laid_out(read_tensors(files, name), SECOND_LAYOUT)
            if affine != ("w_skip" in weights):
                raise BadArtefact(
                    f"its name says {'affine' if affine else 'no affine skip'}, its tensors say otherwise"
                )
            if width not in (None, len(weights["w_enc"])):
                raise BadArtefact(f"its config.json says {width} latents, its tensors {len(weights['w_enc'])}")
            return coder_of(read, write, weights)

        seed = (match["seed"] or "").strip("_")
        return entry(
            files,
            (f"{match['family']}{match['all'] or ''}/" if match["family"] else "") + match["folder"],
            [name],
            ((read,), (write,)),
            Provenance("gemma_scope_2", SECOND_FORMULA, model, untrained=untrained),
            build,
            width=match["width"],
            l0=match["l0"],
            target=None if layers is None else float(l0_target(match["l0"], layer, layers, everywhere)),
            tags=[tag for tag, given in {"all": everywhere, "affine": affine, seed: bool(seed)}.items() if given],
        )

    return [one(name, match) for name, match in matches]


def second_joint(files: Files) -> list[Entry]:
    """Gemma Scope 2 over several layers: one entry a joint coder; nothing is read."""
    groups: dict[str, list[tuple[int, str, re.Match[str]]]] = {}
    for name, match in files.matching(JOINT):
        groups.setdefault(match["label"], []).append((int(match["part"]), name, match))
    if not groups:
        return []
    model = _model(files)

    def one(label: str, files_of_parts: list[tuple[int, str, re.Match[str]]]) -> Entry:
        ordered = sorted(files_of_parts, key=lambda part: part[0])
        match, names = ordered[0][2], [name for _, name, _ in ordered]
        clt = match["kind"] == "clt"
        layers = [int(each) for each in match["layers"].split("_")] if match["layers"] else list(range(len(names)))
        reads = tuple(Site("mlp_in" if clt else "resid_post", layer) for layer in layers)
        writes = tuple(Site("mlp_out", layer) for layer in layers) if clt else reads

        def build() -> Coder:
            expected = (_layers(model) or len(layers)) if clt else len(layers)
            if len(names) != expected or len(names) != len(reads):
                raise BadArtefact(f"it has {len(names)} files params_layer_*; its model needs {expected}")
            parts = [_part(files, name, i, reads[i], writes) for i, name in enumerate(names)]
            return CrossLayer(parts, label).requires_grad_(False).eval()

        return entry(
            files,
            label,
            names,
            (reads, writes),
            Provenance("gemma_scope_2_joint", JOINT_FORMULA, model, untrained=_untrained(model)),
            build,
            width=match["width"],
            l0=match["l0"],
            target=JOINT_TARGETS[match["l0"]],
            tags=("affine",) if match["affine"] else (),
            kind=match["kind"],
        )

    return [one(label, parts) for label, parts in groups.items()]


def l0_target(l0: str, layer: int, layers: int, everywhere: bool) -> int:
    """The L0 that a coder was trained for: a ramp over the first third of the layers, then level.

    Args:
        l0: small, medium or big.
        layer: which layer it reads.
        layers: how many the model has.
        everywhere: whether it is of a folder `..._all`.
    """
    low, high = L0_BIG_EVERYWHERE if everywhere and l0 == "big" else L0_RANGES[l0]
    return int(low + (high - low) * min(1.0, layer / (layers / 3)))


def _model(files: Files) -> str:
    """The model's name on the hub, from the repository's name or the first configuration."""
    repository = re.search(SECOND_REPOSITORY, files.home)
    if repository:
        tuning = "" if repository.groups() == ("270m", "pt") else f"-{repository[2]}"
        return f"google/gemma-3-{repository[1]}{tuning}"
    config = next((name for name in files if name.rsplit("/", 1)[-1] == "config.json"), None)
    named = (configured(Config, files, config).model_name if config else None) or ""
    return named.replace("gemma-v3", "google/gemma-3").replace("-270m-pt", "-270m")


def _layers(model: str) -> int | None:
    size = re.search(r"-(270m|1b|4b|12b|27b)", model)
    return LAYERS[size[1]] if size else None


def _untrained(model: str) -> tuple[str, ...]:
    """Positions that the release's coders never saw: BOS, and for chat models the start of the template."""
    return ("bos", "template") if model.endswith("-it") else ("bos",)


def _part(files: Files, name: str, i: int, read: Site, writes: tuple[Site, ...]) -> Crosscoder:
    tensors: dict[str, Any] = read_tensors(files, name)
    layout = {key: value for key, value in SECOND_LAYOUT.items() if key != "w_dec"}
    weights = laid_out(tensors, layout)
    if "w_dec" not in tensors or tensors["w_dec"].ndim != 3 or tensors["w_dec"].shape[1] != len(writes):
        shape = tuple(tensors["w_dec"].shape) if "w_dec" in tensors else "no"
        raise BadArtefact(f"{name} has {shape} w_dec; with {len(writes)} files it must be (latents, {len(writes)}, d)")

    def is_written(rows: Matrix) -> bool:
        sample = torch.linspace(0, len(rows) - 1, min(SAMPLED, len(rows))).long()
        return bool((rows[sample] != 0).any())

    decoders = {o: tensors["w_dec"].select(1, o) for o in range(len(writes))}
    kept = {o: rows for o, rows in decoders.items() if o >= i or is_written(rows)}
    activation = jumprelu(resident(weights["threshold"]), len(weights["w_enc"]))
    held: dict[str, Matrix] = {"w_enc": weights["w_enc"], "b_enc": weights["b_enc"]}
    held |= {f"w_dec.{writes[o]}": rows for o, rows in kept.items()}
    held |= {f"b_dec.{writes[i]}": weights["b_dec"]}
    held |= {f"w_skip.{writes[i]}": weights["w_skip"]} if "w_skip" in weights else {}
    return Crosscoder([read], [writes[o] for o in kept], activation, held)
