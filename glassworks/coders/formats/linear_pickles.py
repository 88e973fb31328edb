"""Autoencoders that are two linear layers in one pickle: Goodfire's, and qresearch's of DeepSeek-R1.

Nothing but the file's name says which layer it is, and its site is the residual stream after the block.
"""

from functools import partial

from glassworks.coders.activations import ReLU
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, coder_of, laid_out, read_tensors
from glassworks.errors import BadArtefact
from glassworks.sites import Site

PATTERN = r"(?P<name>[^/]*-SAE-l(?P<layer>\d+)[^/]*)\.(?:pth|pt)"
MODELS = {"Llama-3.1-8B-Instruct": "meta-llama/", "Llama-3.3-70B-Instruct": "meta-llama/"}
MODELS |= {"DeepSeek-R1-Distill-Llama-8B": "deepseek-ai/"}
PREFIXES = ("encoder_linear", "encoder")
"""What the two makers call their layers."""

FORMULA = "a = relu(E x + b_enc); y = D a + b_dec"


def recognise(files: Files) -> bool:
    """Whether a pickle is named `...-SAE-l19.pt`."""
    return bool(files.matching(PATTERN))


def entries(files: Files) -> list[Entry]:
    """One entry a pickle; nothing is read."""
    return [_entry(files, name, match["name"], int(match["layer"])) for name, match in files.matching(PATTERN)]


def _entry(files: Files, name: str, label: str, layer: int) -> Entry:
    site, short = Site("resid_post", layer), label.split("-SAE-")[0]
    return Entry(
        name=label,
        reads=(site,),
        writes=(site,),
        kind="sae",
        width="",
        l0="",
        target=None,
        tags=(),
        bytes=files.size((name,)),
        files=(name,),
        provenance=Provenance("linear_pickle", FORMULA, MODELS.get(short, "") + short),
        build=builder(files, label, (name,), partial(_build, files, name, site)),
    )


def _build(files: Files, name: str, site: Site) -> Coder:
    tensors = read_tensors(files, name)
    encoder = next((each for each in PREFIXES if f"{each}.weight" in tensors), None)
    if encoder is None:
        raise BadArtefact(f"it holds {', '.join(sorted(tensors)[:8])}, not two linear layers")
    decoder = encoder.replace("encoder", "decoder")
    layout = {"w_enc": f"{encoder}.weight", "b_enc": f"{encoder}.bias"}
    layout |= {"w_dec": f"{decoder}.weight.T", "b_dec": f"{decoder}.bias"}
    return coder_of(site, site, laid_out(tensors, layout), ReLU())
