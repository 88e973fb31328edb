"""Tensors in files: the safetensors format where the place of every number is known without opening the file.

A header follows from names, shapes and types alone, so what wrote a file and what reads rows of it compute the same
places. Also how activations become fewer bytes: bfloat16, or int8 with one scale a token. It must not know sites.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.errors import BadInput, nearest

NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
}
Shape = tuple[torch.dtype, tuple[int, ...]]
TABLES: dict[str, dict[str, torch.dtype]] = {
    "float32": {"values": torch.float32},
    "bfloat16": {"values": torch.bfloat16},
    "int8": {"values": torch.int8, "scales": torch.float32},
}
"""How activations are stored -> the tensors that it takes."""


def header(shapes: Mapping[str, Shape], about: Mapping[str, str] | None = None) -> tuple[bytes, dict[str, int]]:
    """First bytes of a safetensors file, and where in the file each tensor begins."""
    entries: dict[str, object] = {"__metadata__": dict(about)} if about else {}
    starts, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        starts[name], end = end, end + dtype.itemsize * prod(shape)
        entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, {name: 8 + len(text) + start for name, start in starts.items()}


def as_file(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> list[bytes | memoryview]:
    """The bytes of a safetensors file, part by part, without a copy."""
    first, _ = header({name: (each.dtype, tuple(each.shape)) for name, each in tensors.items()}, about)
    return [first, *(each.contiguous().flatten().view(torch.uint8).numpy().data for each in tensors.values())]


def metadata(file: bytes) -> dict[str, str]:
    """What a safetensors file says about itself."""
    return _header_of(file).get("__metadata__", {})


def names(file: bytes) -> list[str]:
    """Names of the tensors of a safetensors file, in its order."""
    return [name for name in _header_of(file) if name != "__metadata__"]


def _header_of(file: bytes) -> dict[str, Any]:
    return json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])


def table(dtype: str, rows: int, width: int) -> dict[str, Shape]:
    """Shapes of the tensors that hold activations."""
    return {name: (kind, (rows, width) if name == "values" else (rows,)) for name, kind in TABLES[dtype].items()}


def put(target: Tensor, places: Int[Tensor, " row"], rows: Tensor) -> None:
    """Write rows to their places, as bytes: several times faster than torch does it."""
    _bytes_of(target)[places.numpy()] = _bytes_of(rows)


def _bytes_of(rows: Tensor) -> Any:
    return rows.contiguous().view(len(rows), -1).view(torch.uint8).numpy()


def narrow(values: Float[Tensor, "row d"], dtype: str) -> dict[str, Tensor]:
    """Activations as they are stored.

    Args:
        values: finite numbers.
        dtype: one of `TABLES`; int8 divides each row by its largest magnitude / 127.

    Raises:
        BadInput: there is no such way of storing.
    """
    if dtype not in TABLES:
        raise BadInput(f"Activations cannot be stored as {dtype!r}; {nearest(dtype, TABLES)}.")
    if dtype != "int8":
        return {"values": values.to(TABLES[dtype]["values"])}
    scales = values.float().abs().amax(1) / 127
    steps = values.float() / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return {"values": steps.round().to(torch.int8), "scales": scales}


def widen(stored: Mapping[str, Tensor]) -> Float[Tensor, "row d"]:
    """Activations in float32, from what `narrow` made."""
    values = stored["values"].float()
    return values * stored["scales"][:, None] if "scales" in stored else values
