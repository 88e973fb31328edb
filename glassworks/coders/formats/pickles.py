"""Autoencoders of the residual stream, one pickle each, whose file's name says the layer.

Qwen-Scope (`layer{N}.sae.pt`), the two linear layers of Goodfire and of qresearch's DeepSeek-R1 (`...-SAE-l19.pt`),
and prestoj/tinystories_sae (`sae_{width}_{k}`).
"""

import re
from dataclasses import dataclass

from glassworks.coders.activations import ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import centred, coder_of, configured, entry, laid_out, read_tensors
from glassworks.errors import BadArtefact
from glassworks.sites import Site

QWEN = r"layer(?P<layer>\d+)\.sae\.pt"
QWEN_REPOSITORY = r"SAE-Res-(?P<model>.+?)-W(?P<width>\d+)K-L0_(?P<k>\d+)"
QWEN_LAYOUT = {"w_enc": "W_enc", "b_enc": "b_enc", "w_dec": "W_dec.T", "b_dec": "b_dec"}
QWEN_FORMULA = "a = topk(relu(W_enc x + b_enc)); y = W_dec a + b_dec"

LINEAR = r"(?P<name>[^/]*-SAE-l(?P<layer>\d+)[^/]*)\.(?:pth|pt)"
LINEAR_MODELS = {
    "Llama-3.1-8B-Instruct": "meta-llama/",
    "Llama-3.3-70B-Instruct": "meta-llama/",
    "DeepSeek-R1-Distill-Llama-8B": "deepseek-ai/",
}
LINEAR_NAMES = ("encoder_linear", "encoder")
"""What the two makers call their first layer."""
LINEAR_FORMULA = "a = relu(E x + b_enc); y = D a + b_dec"

TINY = r"(?P<name>sae_(?P<width>\d+)_(?:layer)?(?P<k>\d+))\.(?:pt|safetensors)"
TINY_LAYOUT = {"w_enc": "encoder_weights.T", "b_enc": "encoder_bias", "w_dec": "decoder_weights", "b_dec": "pre_bias"}
TINY_FORMULA = "a = topk((x - pre_bias) @ encoder_weights + encoder_bias); y = a @ decoder_weights + pre_bias"
TINY_NOTE = "the number at the end of the name is k, how many latents are active a token"


@dataclass(frozen=True)
class QwenConfig:
    """The root's `config.json` of Qwen-Scope."""

    k: int | None = None
    d_sae: int | None = None
    base_model: str | None = None


def qwen_scope(files: Files) -> list[Entry]:
    """One entry a layer; width and k are in the root's `config.json` or in the repository's name."""
    matches = files.matching(QWEN)
    if not matches:
        return []
    config = configured(QwenConfig, files, "config.json") if "config.json" in files else QwenConfig()
    named = re.search(QWEN_REPOSITORY, files.home)
    k = config.k or (int(named["k"]) if named else None)
    width = config.d_sae or (int(named["width"]) * 1024 if named else None)
    model = config.base_model or (f"Qwen/{named['model']}" if named else "")
    if k is None:
        raise BadArtefact(
            f"{files.reference} does not say k: keep its config.json, or a name like SAE-Res-X-W32K-L0_50."
        )

    def one(name: str, site: Site) -> Entry:
        def build() -> Coder:
            return coder_of(site, site, laid_out(read_tensors(files, name), QWEN_LAYOUT), TopK(k))

        provenance = Provenance("qwen_scope", QWEN_FORMULA, model)
        sites = ((site,), (site,))
        return entry(files, name.removesuffix(".sae.pt"), [name], sites, provenance, build, width=width, l0=k)

    return [one(name, Site("resid_post", int(match["layer"]))) for name, match in matches]


def two_linear_layers(files: Files) -> list[Entry]:
    """One entry a pickle named `...-SAE-l19.pt`; nothing else says which layer it is, after whose block it reads."""

    def one(name: str, label: str, site: Site) -> Entry:
        def build() -> Coder:
            tensors = read_tensors(files, name)
            encoder = next((each for each in LINEAR_NAMES if f"{each}.weight" in tensors), None)
            if encoder is None:
                raise BadArtefact(f"it holds {', '.join(sorted(tensors)[:8])}, not two linear layers")
            decoder = encoder.replace("encoder", "decoder")
            layout = {"w_enc": f"{encoder}.weight", "b_enc": f"{encoder}.bias"}
            layout |= {"w_dec": f"{decoder}.weight.T", "b_dec": f"{decoder}.bias"}
            return coder_of(site, site, laid_out(tensors, layout), ReLU())

        short = label.split("-SAE-")[0]
        provenance = Provenance("linear_pickle", LINEAR_FORMULA, LINEAR_MODELS.get(short, "") + short)
        return entry(files, label, [name], ((site,), (site,)), provenance, build)

    matches = files.matching(LINEAR)
    return [one(name, match["name"], Site("resid_post", int(match["layer"]))) for name, match in matches]


def tinystories(files: Files) -> list[Entry]:
    """One entry a file `sae_{width}_{k}`; nothing is read.

    Trained on the sixth hidden state of TinyStories-1M, which is what its sixth block leaves. The original keeps the k
    largest pre-activations even where they are negative; ours never are: that differs where fewer than k are positive.
    """
    site = Site("resid_post", 5)

    def one(name: str, match: re.Match[str]) -> Entry:
        def build() -> Coder:
            return coder_of(site, site, centred(laid_out(read_tensors(files, name), TINY_LAYOUT)), TopK(k))

        k, width = int(match["k"]), int(match["width"])
        provenance = Provenance("tinystories_topk", TINY_FORMULA, "roneneldan/TinyStories-1M", (TINY_NOTE,))
        return entry(files, match["name"], [name], ((site,), (site,)), provenance, build, width=width, l0=k)

    return [one(name, match) for name, match in files.matching(TINY)]
