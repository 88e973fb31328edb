"""Headers: where the tensors of a file lie in it, for safetensors and npz, read without reading the tensors.

Read here and not by a library, because a library maps a file for each call and cannot gather rows. Everything that
a header claims is checked against the file before it is believed.
"""

import json
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, final

import numpy as np
import torch

from glassworks.errors import BadArtefact, Unsupported

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""

# Name in a safetensors header -> what it means, and the numbers as numpy sees them.
NUMBERS: dict[str, tuple[torch.dtype, str]] = {
    "F64": (torch.float64, "<f8"),
    "F32": (torch.float32, "<f4"),
    "F16": (torch.float16, "<f2"),
    "BF16": (torch.bfloat16, "<i2"),
    "F8_E4M3": (torch.float8_e4m3fn, "|u1"),
    "F8_E5M2": (torch.float8_e5m2, "|u1"),
    "I64": (torch.int64, "<i8"),
    "I32": (torch.int32, "<i4"),
    "I16": (torch.int16, "<i2"),
    "I8": (torch.int8, "|i1"),
    "U8": (torch.uint8, "|u1"),
    "BOOL": (torch.bool, "|b1"),
}
NUMPY = {numbers: dtype for name, (dtype, numbers) in NUMBERS.items() if name not in ("BF16", "F8_E4M3", "F8_E5M2")}


@final
@dataclass(frozen=True)
class Place:
    """Where one tensor lies.

    Attributes:
        offset: of its first byte in the file.
        shape: its shape.
        dtype: what its numbers mean.
        numbers: how numpy sees them.
        fortran: whether the first axis runs fastest.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    numbers: str
    fortran: bool = False


def places(file: Path) -> dict[str, Place]:
    """Where the tensors of a file lie.

    Raises:
        BadArtefact: the file is missing, truncated or malformed.
        Unsupported: neither safetensors nor npz, a compressed npz, or numbers of a foreign type.
    """
    if file.suffix not in READERS:
        raise Unsupported(f"The file {file} is neither .safetensors nor .npz; tensors cannot be read from it in place.")
    try:
        with file.open("rb") as stream:
            return READERS[file.suffix](stream, file)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadArtefact | Unsupported):
            raise
        raise BadArtefact(f"The tensors {file} cannot be read ({error}); download or write the file again.") from error


def _safetensors(stream: IO[bytes], file: Path) -> dict[str, Place]:
    size = file.stat().st_size
    header = int.from_bytes(stream.read(8), "little")
    if not 2 <= header <= min(size - 8, LARGEST_HEADER):
        raise BadArtefact(f"The file {file} is no safetensors file, or is cut off: its header would be {header} bytes.")
    table: dict[str, Any] = json.loads(stream.read(header))
    table.pop("__metadata__", None)
    found = {name: _place(name, entry, 8 + header, file) for name, entry in table.items()}
    end = max((place.offset + _bytes(place) for place in found.values()), default=8 + header)
    if end != size:
        raise BadArtefact(f"The file {file} has {size} bytes and its header says {end}; download or write it again.")
    return found


def _place(name: str, entry: dict[str, Any], data: int, file: Path) -> Place:
    if entry["dtype"] not in NUMBERS:
        raise Unsupported(f"The tensor {name} of {file} has numbers of type {entry['dtype']}, which no coder has.")
    dtype, numbers = NUMBERS[entry["dtype"]]
    start, end = entry["data_offsets"]
    shape = entry["shape"]
    if start < 0 or any(not isinstance(side, int) or side < 0 for side in shape):
        raise BadArtefact(f"The tensor {name} of {file} cannot have shape {shape} at {start}; download the file again.")
    place = Place(data + start, tuple(shape), dtype, numbers)
    if end - start != _bytes(place):
        raise BadArtefact(f"The tensor {name} of {file} has shape {shape} and {end - start} bytes, which does not fit.")
    return place


def _npz(stream: IO[bytes], file: Path) -> dict[str, Place]:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
    return {member.filename.removesuffix(".npy"): _member(stream, member, file) for member in members}


def _member(stream: IO[bytes], member: zipfile.ZipInfo, file: Path) -> Place:
    if member.compress_type != zipfile.ZIP_STORED:
        raise Unsupported(f"The arrays of {file} are compressed, so they cannot be read in place; load them instead.")
    stream.seek(member.header_offset + 26)  # the lengths of name and extra field end the local header of 30 bytes
    lengths = np.frombuffer(stream.read(4), "<u2")
    stream.seek(member.header_offset + 30 + int(lengths.sum()))
    start = stream.tell()
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, numbers = read(stream)
    if numbers.str not in NUMPY:
        raise Unsupported(f"The array {member.filename} of {file} has numbers of type {numbers}, which no coder has.")
    place = Place(stream.tell(), shape, NUMPY[numbers.str], numbers.str, fortran)
    if place.offset + _bytes(place) != start + member.file_size:
        raise BadArtefact(f"The array {member.filename} of {file} is cut off; download or write the file again.")
    return place


def _bytes(place: Place) -> int:
    return prod(place.shape) * place.dtype.itemsize


READERS = {".safetensors": _safetensors, ".npz": _npz}
