"""Gemma Scope 1: `layer_N/width_W/average_l0_K/params.npz`, on the residual stream, heads, MLPs and embeddings.

Its transcoders read the normalised residual stream BEFORE the norm's gain, unlike those of Gemma Scope 2. Its
embedding autoencoders were trained on the table's rows, and are rescaled here to the embedding as it enters layer 0.
"""

import re
from functools import partial

from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, kind_of
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, coder_of, laid_out, read_tensors
from glassworks.coders.weights import resident
from glassworks.errors import BadArtefact
from glassworks.sites import Site

PATTERN = (
    r"(?:(?P<embedding>embedding)|layer_(?P<layer>\d+))/width_(?P<width>\d+[km])/average_l0_(?P<l0>\d+)/params\.npz"
)
REPOSITORY = r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)"
FAMILIES = {
    "res": ("resid_post", "resid_post"),
    "att": ("attn_heads", "attn_heads"),
    "mlp": ("mlp_out", "mlp_out"),
    "transcoders": ("mlp_in_pregain", "mlp_out"),
}
LAYOUT = {"w_enc": "W_enc.T", "b_enc": "b_enc", "w_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"}
FORMULA = "z = x @ W_enc + b_enc; a = relu(z) * (z > threshold); y = a @ W_dec + b_dec"
SCALED = "trained on the embedding table's rows; the weights were rescaled by sqrt(d_model) for the site `embed`"


def recognise(files: Files) -> bool:
    """Whether a file is named as Gemma Scope 1 names its coders."""
    return bool(files.matching(PATTERN))


def entries(files: Files) -> list[Entry]:
    """One entry a `params.npz`; nothing is read.

    Raises:
        BadArtefact: the path does not name the repository, which alone tells the site.
    """
    repository = re.search(REPOSITORY, files.home)
    if repository is None:
        raise BadArtefact(
            f"{files.reference} looks like Gemma Scope 1, but only a repository's name tells the site: put it into a "
            f"folder named like gemma-scope-2b-pt-res (ends: {', '.join(FAMILIES)})."
        )
    size, tuning, family = repository.groups()
    model = f"google/gemma-2-{size}" + ("-it" if tuning == "it" else "")
    return [_entry(files, name, match, FAMILIES[family], model) for name, match in files.matching(PATTERN)]


def _entry(files: Files, name: str, match: re.Match[str], kinds: tuple[str, str], model: str) -> Entry:
    layer = None if match["embedding"] else int(match["layer"])
    reads, writes = [Site("embed") if layer is None else Site(kind, layer) for kind in kinds]
    label = name.removesuffix("/params.npz") if "/" in name else match[0].rsplit("/", 1)[0]
    return Entry(
        name=label,
        reads=(reads,),
        writes=(writes,),
        kind=kind_of((reads,), (writes,)),
        width=match["width"],
        l0=match["l0"],
        target=float(match["l0"]),
        tags=(),
        bytes=files.size((name,)),
        files=(name,),
        provenance=Provenance("gemma_scope_1", FORMULA, model, (SCALED,) if layer is None else ()),
        build=builder(files, label, (name,), partial(_build, files, name, reads, writes)),
    )


def _build(files: Files, name: str, read: Site, write: Site) -> Coder:
    tensors = read_tensors(files, name)
    if "w_enc" in tensors:  # some copies spell the keys in lower case
        tensors = {key.replace("w_", "W_"): value for key, value in tensors.items()}
    weights = laid_out(tensors, LAYOUT)
    if read.kind == "embed":
        scale = weights["w_enc"].shape[1] ** 0.5
        weights |= {"w_enc": resident(weights["w_enc"]) / scale}
        weights |= {each: resident(weights[each]) * scale for each in ("w_dec", "b_dec")}
    return coder_of(read, write, weights)
