"""Reading: from a file of tensors, and a format's table of names, to weights as our coders take them.

Matrices stay in their file; vectors and skips are read. Whatever is wrong with a file ends as one sentence. This
module must not know any one format.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from glassworks import codec
from glassworks.coders.activations import Activation, JumpReLU
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, kind_of, width_word
from glassworks.coders.files import Files
from glassworks.coders.folding import gated
from glassworks.coders.transcoder import Transcoder
from glassworks.coders.weights import Matrix, open_tensors, resident
from glassworks.errors import BadArtefact, GlassworksError, NotFound, Unsupported
from glassworks.sites import Site

Config = TypeVar("Config")
ENDINGS = (".safetensors", ".npz", ".pt", ".pth")
ROWS = 4096
"""How many latents are read at a time where all of them are needed once."""

Layout = Mapping[str, str]
"""Our name of a weight -> its key in the file. `.T` at the end: the file has the latents last (for `w_skip`: it
applies the transpose). `?` at the end: it may be absent."""


def read_tensors(files: Files, name: str) -> dict[str, Matrix]:
    """Open a file of tensors by its ending: safetensors and npz without reading them, pickles only without code.

    Raises:
        BadArtefact: the file is damaged, or a pickle that holds more than tensors.
        Unsupported: another kind of file.
    """
    path, suffix = files.path(name), Path(name).suffix
    if suffix not in ENDINGS:
        raise Unsupported(f"{name} is no file of tensors that we read; those end with {', '.join(ENDINGS)}.")
    if suffix in (".safetensors", ".npz"):
        try:
            return dict(open_tensors(path))
        except Unsupported:
            if suffix == ".safetensors":
                raise
        with np.load(path, allow_pickle=False) as arrays:  # compressed: it must be read whole
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError, ValueError) as error:
        raise BadArtefact(
            "the pickle is damaged, or holds more than tensors, and is not opened because that could run code"
        ) from error
    if not isinstance(value, Mapping):
        raise BadArtefact("the pickle holds no dictionary of tensors")
    inner = [value[key] for key in ("state_dict", "model") if isinstance(value.get(key), Mapping)]  # some nest it
    return {str(key): each for key, each in (inner[0] if inner else value).items() if isinstance(each, Tensor)}


def laid_out(tensors: Mapping[str, Matrix], layout: Layout) -> dict[str, Matrix]:
    """Take the weights that a layout names, latents first.

    Raises:
        BadArtefact: one is missing.
    """
    weights: dict[str, Matrix] = {}
    for name, spelled in layout.items():
        key = spelled.removesuffix("?").removesuffix(".T")
        if key in tensors:
            value = tensors[key].mT if spelled.removesuffix("?").endswith(".T") else tensors[key]
            weights[name] = value if name in ("w_enc", "w_dec") else finite(name, resident(value))
        elif not spelled.endswith("?"):
            raise BadArtefact(f"it lacks the tensor {key!r}; it has {', '.join(sorted(tensors)[:12]) or 'none'}")
    return weights


def coder_of(
    read: Site,
    write: Site,
    weights: Mapping[str, Matrix],
    activation: Activation | None = None,
    prefixes: Sequence[int] = (),
) -> Transcoder:
    """Build a coder; without an activation it is JumpReLU at the weights' `threshold`."""
    rest = {name: value for name, value in weights.items() if name != "threshold"}
    chosen = activation or jumprelu(resident(weights["threshold"]), len(rest["w_enc"]))
    return Transcoder(read, write, chosen, rest, prefixes).requires_grad_(False).eval()


def jumprelu(threshold: Tensor, latents: int) -> JumpReLU:
    """JumpReLU behind a rectifier: a threshold below zero, or none yet (-1), is as good as zero."""
    return JumpReLU(finite("threshold", threshold).float().flatten().clamp(min=0).expand(latents).clone())


def centred(weights: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """Fold `encode(x - b_dec)` into the encoder's bias: `b_enc - w_enc @ b_dec`, summed in float64."""
    b_enc, b_dec, w_enc = resident(weights["b_enc"]).double(), resident(weights["b_dec"]).double(), weights["w_enc"]
    shift = torch.cat([w_enc[start : start + ROWS].double() @ b_dec for start in range(0, len(w_enc), ROWS)])
    return {**weights, "b_enc": (b_enc - shift).float()}


def ungated(weights: Mapping[str, Matrix]) -> tuple[dict[str, Matrix], JumpReLU]:
    """Turn the two paths of a gated encoder (`b_gate`, `b_mag`, `r_mag`) into one with thresholds."""
    rest = dict(weights)
    b_gate, b_mag, r_mag = (resident(rest.pop(name)) for name in ("b_gate", "b_mag", "r_mag"))
    w_enc, b_enc, activation = gated(resident(rest["w_enc"]), b_gate, b_mag, r_mag)
    return rest | {"w_enc": w_enc, "b_enc": b_enc}, activation


def finite(name: str, value: Tensor) -> Tensor:
    """The tensor itself; BadArtefact where a number in it is none."""
    if not bool(value.isfinite().all()):
        raise BadArtefact(f"the tensor {name} has values that are not finite")
    return value


def entry(
    files: Files,
    name: str,
    needed: Sequence[str],
    sites: tuple[tuple[Site, ...], tuple[Site, ...]],
    provenance: Provenance,
    build: Callable[[], Coder],
    *,
    width: int | str | None = None,
    l0: int | float | str | None = None,
    target: float | None = None,
    tags: Sequence[str] = (),
    kind: str = "",
) -> Entry:
    """The entry of one coder of a release, whose weights are read by `build` when it is first taken.

    Whatever is wrong with its files then names the coder in one sentence.

    Args:
        files: the release.
        name: the coder's name in it.
        needed: the files that it needs; before the first is fetched, the disk is asked whether it takes them all.
        sites: what it reads, and what it writes.
        provenance: its format, formula and model.
        build: reads the files; every file must be one of `needed`.
        width: how many latents, or the release's word for it; None where it does not say.
        l0: how many latents are active a token, or the release's word for it.
        target: the same as a number, where `l0` is a word.
        tags: what else sets it apart.
        kind: sae or transcoder by its sites, if not given.
    """

    def run() -> Coder:
        files.reserve(needed)
        try:
            return build()
        except (Unsupported, NotFound):
            raise
        except (GlassworksError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            text = f"lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise BadArtefact(f"The coder {name} of {files.reference} cannot be read: {text}.") from error

    return Entry(
        name=name,
        reads=sites[0],
        writes=sites[1],
        kind=kind or kind_of(*sites),
        width=width_word(width) if isinstance(width, int) and width else str(width or ""),
        l0=f"{l0:g}" if isinstance(l0, float) else str(l0 or ""),
        target=float(l0) if target is None and isinstance(l0, int | float) and l0 else target,
        tags=tuple(tags),
        bytes=files.size(tuple(needed)),
        files=tuple(needed),
        provenance=provenance,
        build=run,
    )


def folders(files: Files, weights: str, config: str) -> list[str]:
    """The folders, with a `/` at the end, that hold a file of weights beside a configuration."""
    heads = [name.removesuffix(weights) for name in files if f"/{name}".endswith(f"/{weights}")]
    return [head for head in heads if head + config in files]


def configured(kind: type[Config], files: Files, name: str, inside: str = "") -> Config:
    """Read a configuration, JSON or YAML by its ending, as a typed value.

    Args:
        kind: its fields; others are ignored.
        files: the release.
        name: the file.
        inside: the key of the object that is meant, where it is not the whole file.

    Raises:
        BadArtefact: it is damaged, or a field is missing or wrong.
    """
    values = files.yaml(name) if name.endswith(".yaml") else files.json(name)
    source = f"configuration {name} of {files.reference}"
    return codec.decode(kind, (values.get(inside) or {}) if inside else values, source)


def gathered(make: Callable[[str], Entry], names: Sequence[str]) -> list[Entry]:
    """Make an entry of each name; those that we cannot read are left out with a warning, where others remain.

    Raises:
        Unsupported: none can be read; the reason is the first one's.
    """
    entries, refused = [], []
    for name in names:
        try:
            entries.append(make(name))
        except Unsupported as error:
            refused.append(error)
    if refused and not entries:
        raise refused[0]
    if refused:
        warnings.warn(f"{len(refused)} of {len(names)} coders are left out; the first: {refused[0]}", stacklevel=2)
    return entries
