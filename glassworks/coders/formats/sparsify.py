"""EleutherAI sparsify: a folder named as a module of the model, with `cfg.json` and `sae.safetensors`.

The folder's name is the hookpoint. An autoencoder is on the module's output and always centres its input; a
transcoder reads the module's input, writes its output and does not centre.
"""

from dataclasses import dataclass

from glassworks.coders.activations import GroupMax, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import (
    centred,
    coder_of,
    configured,
    entry,
    folders,
    gathered,
    laid_out,
    read_tensors,
)
from glassworks.coders.hooks import site_of
from glassworks.errors import Unsupported

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
LAYOUT = {
    "w_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "w_dec": "W_dec",
    "b_dec": "b_dec",
    "w_skip": "W_skip.T?",
}
FORMULA = "x' = x - b_dec (not for transcoders); a = topk(relu(E x' + b)); y = a @ W_dec + b_dec (+ x @ W_skip.T)"
ACTIVATIONS = {"topk": TopK, "groupmax": GroupMax}


@dataclass(frozen=True)
class Config:
    """The fields of `cfg.json` that change numbers."""

    d_in: int
    k: int | None = None
    num_latents: int | None = None
    expansion_factor: int | None = None
    activation: str | None = None
    signed: bool | None = None
    transcode: bool | None = None
    skip_connection: bool | None = None


def entries(files: Files) -> list[Entry]:
    """One entry a hookpoint, a folder with `sae.safetensors` beside a `cfg.json`, which is read."""
    return gathered(lambda folder: _entry(files, folder), folders(files, WEIGHTS, CONFIG))


def _entry(files: Files, folder: str) -> Entry:
    config = configured(Config, files, folder + CONFIG)
    hook = f"{files.home}/{folder}".strip("/").rsplit("/", 1)[-1]
    write = site_of(hook, model=files.home)
    # older skip-transcoders do not say that they are transcoders
    transcodes = config.transcode or config.skip_connection
    read = site_of(f"{hook}.input", model=files.home) if transcodes else write

    def build() -> Coder:
        name = config.activation or "topk"
        if name not in ACTIVATIONS or config.signed:
            raise Unsupported(
                f"The sparsify coder {folder} has {'signed latents' if config.signed else name!r}, "
                f"which is not supported; supported are {', '.join(ACTIVATIONS)}."
            )
        weights = laid_out(read_tensors(files, folder + WEIGHTS), LAYOUT)
        if config.k is None:
            raise KeyError("k")
        return coder_of(read, write, weights if config.transcode else centred(weights), ACTIVATIONS[name](config.k))

    return entry(
        files,
        folder.strip("/") or hook,
        [folder + WEIGHTS],
        ((read,), (write,)),
        Provenance("sparsify", FORMULA),
        build,
        width=config.num_latents or config.d_in * (config.expansion_factor or 0) or "0",
        l0=config.k,
        tags=("skip",) if config.skip_connection else (),
    )
