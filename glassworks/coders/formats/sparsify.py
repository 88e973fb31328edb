"""EleutherAI sparsify: a folder named as a module of the model, with `cfg.json` and `sae.safetensors`.

The folder's name is the hookpoint. An autoencoder is on the module's output and always centres its input; a
transcoder reads the module's input, writes its output and does not centre.
"""

from functools import partial
from typing import Any

from glassworks.coders.activations import GroupMax, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, kind_of, width_word
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, centred, coder_of, gathered, laid_out, read_tensors
from glassworks.coders.hooks import site_of
from glassworks.errors import Unsupported
from glassworks.sites import Site

WEIGHTS = "sae.safetensors"
LAYOUT = {
    "w_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "w_dec": "W_dec",
    "b_dec": "b_dec",
    "w_skip": "W_skip.T?",
}
FORMULA = "x' = x - b_dec (not for transcoders); a = topk(relu(E x' + b)); y = a @ W_dec + b_dec (+ x @ W_skip.T)"
ACTIVATIONS = {"topk": TopK, "groupmax": GroupMax}


def recognise(files: Files) -> bool:
    """Whether a `sae.safetensors` lies beside a `cfg.json`."""
    return bool(_folders(files))


def entries(files: Files) -> list[Entry]:
    """One entry a hookpoint; its `cfg.json` is read."""
    return gathered(lambda folder: _entry(files, folder, files.json(folder + "cfg.json")), _folders(files))


def _folders(files: Files) -> list[str]:
    heads = [name.removesuffix(WEIGHTS) for name in files if name.rsplit("/", 1)[-1] == WEIGHTS]
    return [head for head in heads if head + "cfg.json" in files]


def _entry(files: Files, folder: str, config: dict[str, Any]) -> Entry:
    hook = f"{files.home}/{folder}".strip("/").rsplit("/", 1)[-1]
    read, write = _sites(hook, config, files.home)
    width = int(config.get("num_latents") or 0) or int(config["d_in"]) * int(config.get("expansion_factor") or 0)
    label = folder.strip("/") or hook
    return Entry(
        name=label,
        reads=(read,),
        writes=(write,),
        kind=kind_of((read,), (write,)),
        width=width_word(width),
        l0=str(config.get("k") or ""),
        target=float(config["k"]) if config.get("k") else None,
        tags=("skip",) if config.get("skip_connection") else (),
        bytes=files.size((folder + WEIGHTS,)),
        files=(folder + WEIGHTS,),
        provenance=Provenance("sparsify", FORMULA),
        build=builder(files, label, (folder + WEIGHTS,), partial(_build, files, folder, config, read, write)),
    )


def _sites(hook: str, config: dict[str, Any], home: str) -> tuple[Site, Site]:
    """The sites of a hookpoint; older skip-transcoders do not say that they are transcoders."""
    write = site_of(hook, model=home)
    transcodes = config.get("transcode") or config.get("skip_connection")
    return (site_of(f"{hook}.input", model=home) if transcodes else write), write


def _build(files: Files, folder: str, config: dict[str, Any], read: Site, write: Site) -> Coder:
    name = str(config.get("activation") or "topk")
    if name not in ACTIVATIONS or config.get("signed"):
        raise Unsupported(
            f"The sparsify coder {folder} has {'signed latents' if config.get('signed') else name!r}, "
            f"which is not supported; supported are {', '.join(ACTIVATIONS)}."
        )
    weights = laid_out(read_tensors(files, folder + WEIGHTS), LAYOUT)
    chosen = ACTIVATIONS[name](int(config["k"]))
    return coder_of(read, write, weights if config.get("transcode") else centred(weights), chosen)
