"""Reading: from a file of tensors, and a format's table of names, to weights as our coders take them.

Matrices stay in their file; vectors and skips are read. Whatever is wrong with a file ends as one sentence. This
module must not know any one format.
"""

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glassworks.coders.activations import Activation, JumpReLU
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry
from glassworks.coders.files import Files
from glassworks.coders.folding import gated
from glassworks.coders.transcoder import Transcoder
from glassworks.coders.weights import Matrix, open_tensors, resident
from glassworks.errors import BadArtefact, GlassworksError, NotFound, Unsupported
from glassworks.sites import Site

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
    path = files.path(name)
    suffix = Path(name).suffix
    if suffix not in READERS:
        raise Unsupported(f"{name} is no file of tensors that we read; those end with {', '.join(READERS)}.")
    return READERS[suffix](path)


def laid_out(tensors: Mapping[str, Matrix], layout: Layout) -> dict[str, Matrix]:
    """Take the weights that a layout names, latents first.

    Raises:
        BadArtefact: one is missing.
    """
    found: dict[str, Matrix] = {}
    for ours, spelled in layout.items():
        key, transposed, optional = _parts(spelled)
        if key not in tensors:
            if optional:
                continue
            raise BadArtefact(f"it lacks the tensor {key!r}; it has {', '.join(sorted(tensors)[:12]) or 'none'}")
        value = tensors[key].mT if transposed else tensors[key]
        found[ours] = value if ours in ("w_enc", "w_dec") else finite(ours, resident(value))
    return found


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
    b_enc, b_dec = resident(weights["b_enc"]).double(), resident(weights["b_dec"]).double()
    shift = torch.cat([rows.double() @ b_dec for rows in chunks(weights["w_enc"])])
    return {**weights, "b_enc": (b_enc - shift).float()}


def ungated(weights: Mapping[str, Matrix]) -> tuple[dict[str, Matrix], JumpReLU]:
    """Turn the two paths of a gated encoder (`b_gate`, `b_mag`, `r_mag`) into one with thresholds."""
    rest = dict(weights)
    b_gate, b_mag, r_mag = (resident(rest.pop(name)) for name in ("b_gate", "b_mag", "r_mag"))
    w_enc, b_enc, activation = gated(resident(rest["w_enc"]), b_gate, b_mag, r_mag)
    return rest | {"w_enc": w_enc, "b_enc": b_enc}, activation


def chunks(matrix: Matrix) -> Iterator[Tensor]:
    """The rows of a matrix, some thousands at a time."""
    for start in range(0, len(matrix), ROWS):
        yield matrix[start : start + ROWS]


def finite(name: str, value: Tensor) -> Tensor:
    """The tensor itself; BadArtefact where a number in it is none."""
    if not bool(value.isfinite().all()):
        raise BadArtefact(f"the tensor {name} has values that are not finite")
    return value


def builder(files: Files, name: str, needed: tuple[str, ...], build: Callable[[], Coder]) -> Callable[[], Coder]:
    """Wrap the reading of one coder so that whatever is wrong with its files names the coder in one sentence.

    Args:
        files: the release.
        name: the coder's name in it.
        needed: the files that it needs; before the first is fetched, the disk is asked whether it takes them all.
        build: reads them.
    """

    def run() -> Coder:
        files.reserve(needed)
        with telling(files, name):
            return build()

    return run


def gathered(make: Callable[[str], Entry], names: Sequence[str]) -> list[Entry]:
    """Make an entry of each name; those that we cannot read are left out with a warning, where others remain.

    Raises:
        Unsupported: none can be read; the reason is the first one's.
    """
    found, refused = [], []
    for name in names:
        try:
            found.append(make(name))
        except Unsupported as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    if refused:
        warnings.warn(f"{len(refused)} of {len(names)} coders are left out; the first: {refused[0]}", stacklevel=2)
    return found


@contextmanager
def telling(files: Files, name: str) -> Iterator[None]:
    """Name the coder that cannot be read."""
    try:
        yield
    except (Unsupported, NotFound):
        raise
    except (GlassworksError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        text = f"lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise BadArtefact(f"The coder {name} of {files.reference} cannot be read: {text}.") from error


def _parts(spelled: str) -> tuple[str, bool, bool]:
    key = spelled.removesuffix("?")
    return key.removesuffix(".T"), key.endswith(".T"), spelled.endswith("?")


def _npz(path: Path) -> dict[str, Matrix]:
    try:
        return dict(open_tensors(path))
    except Unsupported:  # compressed: it must be read whole
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _pickle(path: Path) -> dict[str, Matrix]:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError, ValueError) as error:
        raise BadArtefact(
            "the pickle is damaged, or holds more than tensors, and is not opened because that could run code"
        ) from error
    return {str(key): each for key, each in _state(value).items() if isinstance(each, Tensor)}


def _state(value: Any) -> Mapping[str, Any]:
    """The dictionary of tensors, which some save inside another."""
    if not isinstance(value, Mapping):
        raise BadArtefact("the pickle holds no dictionary of tensors")
    inner = next((value[key] for key in ("state_dict", "model") if isinstance(value.get(key), Mapping)), None)
    return value if inner is None else inner


def _safetensors(path: Path) -> dict[str, Matrix]:
    return dict(open_tensors(path))


READERS: dict[str, Callable[[Path], dict[str, Matrix]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _pickle,
    ".pth": _pickle,
}
