"""Read a `.pt` file of PyTorch without running anything that it says.

A pickle names functions to call. Here a name is looked up in a short table of inert stand-ins, and nothing is ever
imported: tensors are cut out of the file's bytes, objects of other libraries become records, and any other name is
refused. This module must not know what the file is about.
"""

import io
import pickle
import sys
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any, final
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from glassworks.errors import BadArtefact

LARGEST = 2**26
"""Bytes of the pickle itself, without the tensors."""
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
DTYPES = {str(each).removeprefix("torch."): each for each in STORAGES.values()}


@final
class Record:
    """Stands in for an object of another library: what it was made of, never what it does."""

    parts: tuple[Any, ...]
    state: Any

    def __new__(cls, *parts: Any) -> "Record":
        """Keep what it was made of."""
        self = super().__new__(cls)
        self.parts, self.state = parts, {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


@final
class _Rebuild:
    """Makes a tensor of a storage; an object without attributes, so that a pickle cannot change it."""

    __slots__ = ()

    def __call__(self, storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0 or (prod(size) and last >= len(storage)):
            raise ValueError("a tensor lies outside its storage")
        return storage.as_strided(size, stride, offset).clone()


REBUILD = _Rebuild()


@final
class _Reader(pickle.Unpickler):
    """Looks names up in tables; the storages come from the file's other members."""

    def __init__(self, file: ZipFile, root: str, libraries: tuple[str, ...]) -> None:
        super().__init__(io.BytesIO(_member(file, f"{root}/data.pkl", LARGEST)))
        self._file, self._root, self._libraries = file, root, libraries

    def find_class(self, module: str, name: str, /) -> Any:
        """A stand-in for a name; BadArtefact for any that is not known to be harmless."""
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): REBUILD,
            ("torch", "device"): Record,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in STORAGES | DTYPES:
            return (STORAGES | DTYPES)[name]
        if module.split(".")[0] in self._libraries:
            return Record
        raise BadArtefact(f"The file names {module}.{name}, which such a file does not need; it is not read further.")

    def persistent_load(self, pid: Any, /) -> Tensor:
        """A storage, cut out of the file."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isdecimal():
            raise ValueError("a storage is misnamed")
        data = bytearray(_member(self._file, f"{self._root}/data/{key}"))
        if len(data) != count * dtype.itemsize:
            raise ValueError("a storage has another size than it says")
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def read_pt(path: Path, libraries: tuple[str, ...]) -> Any:
    """Read a file that `torch.save` wrote.

    Args:
        path: the file.
        libraries: whose objects may occur, as `Record`s.

    Raises:
        BadArtefact: it is no such file, is damaged, or names anything that has no business there.
    """
    try:
        with ZipFile(path) as file:
            root = next(iter(file.namelist()), "").split("/")[0]
            if f"{root}/byteorder" in file.namelist():
                order = _member(file, f"{root}/byteorder").decode()
                if order != sys.byteorder:
                    raise ValueError(f"it was written {order}-endian")
            return _Reader(file, root, libraries).load()
    except BadArtefact:
        raise
    except (OSError, BadZipFile, pickle.UnpicklingError, EOFError, LookupError) as error:
        raise BadArtefact(f"The file {path} is not a readable .pt file ({error}).") from error
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise BadArtefact(f"The file {path} is damaged ({error}).") from error


def _member(file: ZipFile, name: str, largest: int | None = None) -> bytes:
    facts = file.getinfo(name)
    if facts.compress_type != ZIP_STORED or (largest is not None and facts.file_size > largest):
        raise ValueError(f"its member {name} is compressed or too large")
    return file.read(facts)
