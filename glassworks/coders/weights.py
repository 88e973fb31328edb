"""Weights that stay in their file: what is indexed is read, and nothing else.

A prompt touches a few hundred rows of a decoder of ten million, so a coder may hold a `Stored` wherever it holds a
matrix. Both are indexed along the first axis, the latents. This module must not know what a coder is.
"""

import mmap
from math import prod
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from glassworks.coders.headers import Place, places
from glassworks.errors import BadArtefact


@final
class Stored:
    """A tensor in a file, read where it is indexed: `stored[indices]` and `stored[a:b]` are tensors in memory.

    Its views cost nothing and are named as torch names them, so that a loader works on both.

    Args:
        view: the tensor's numbers in the file; 16-bit brain floats as their bits.
        dtype: what the numbers mean.
        mapping: the file's mapping, whose pages are given back after every read.
        source: the tensor's name and its file's, for messages.
    """

    def __init__(self, view: np.ndarray, dtype: torch.dtype, mapping: mmap.mmap, source: str) -> None:
        self._view, self.dtype, self._mapping, self._source = view, dtype, mapping, source

    @property
    def shape(self) -> torch.Size:
        """The shape, latents first."""
        return torch.Size(self._view.shape)

    @property
    def ndim(self) -> int:
        """How many axes."""
        return self._view.ndim

    @property
    def nbytes(self) -> int:
        """How many bytes it would take in memory."""
        return prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Read rows by number, or a run of rows; the result lies where the numbers lie.

        Raises:
            BadArtefact: what was read is not finite.
        """
        if isinstance(rows, slice):
            return self._tensor(self._view[rows].copy(order="K"))
        wanted = rows.cpu().numpy()
        if self.ndim == 2 and self._view.strides[0] < self._view.strides[1]:  # gather in the order of the file
            return self._tensor(self._view.T[:, wanted].T).to(rows.device)
        self._announce(wanted)
        return self._tensor(self._view[wanted]).to(rows.device)

    @property
    def mT(self) -> "Stored":
        """The same numbers with the last two axes exchanged."""
        return Stored(self._view.swapaxes(-1, -2), self.dtype, self._mapping, self._source)

    def select(self, dim: int, index: int) -> "Stored":
        """One slice along an axis, that axis dropped."""
        return Stored(np.moveaxis(self._view, dim, 0)[index], self.dtype, self._mapping, self._source)

    def narrow(self, dim: int, start: int, length: int) -> "Stored":
        """A run along an axis."""
        run = np.moveaxis(self._view, dim, 0)[start : start + length]
        return Stored(np.moveaxis(run, 0, dim), self.dtype, self._mapping, self._source)

    def load(self) -> Tensor:
        """Read all of it; BadArtefact where it is not finite."""
        return self._tensor(self._view.copy())

    def __repr__(self) -> str:
        return f"Stored({'x'.join(map(str, self.shape))}, {str(self.dtype).removeprefix('torch.')})"

    def _announce(self, rows: np.ndarray) -> None:
        """Ask for the pages of some rows at once: read ahead around each, they would cost a disk's delay each."""
        base = np.frombuffer(self._mapping, np.uint8).__array_interface__["data"][0]
        start, step = self._view.__array_interface__["data"][0] - base, self._view.strides[0]
        sides = zip(self.shape[1:], self._view.strides[1:], strict=True)
        size = sum((side - 1) * stride for side, stride in sides) + self._view.itemsize
        if len(rows) * size > len(self) * step // 4 or self._view.size == 0:
            return
        _advise(self._mapping, "RANDOM")
        for row in rows.tolist():
            first = start + (row % len(self)) * step
            page = first - first % mmap.PAGESIZE
            _advise(self._mapping, "WILLNEED", page, first + size - page)

    def _tensor(self, found: np.ndarray) -> Tensor:
        _advise(self._mapping, "DONTNEED")  # the page cache keeps the pages, this process need not
        _advise(self._mapping, "NORMAL")
        value = torch.from_numpy(found)
        value = value if value.dtype == self.dtype else value.view(self.dtype)
        if value.is_floating_point() and value.element_size() > 1 and value.numel():
            least, most = value.aminmax()  # NaN wins both; a mask would take memory
            if not bool(least.isfinite() & most.isfinite()):
                raise BadArtefact(f"The {self._source} has values that are not finite; download or write it again.")
        return value


Matrix = Tensor | Stored
"""What a coder can hold as a matrix: in memory, or in a file."""


def open_tensors(file: Path | str) -> dict[str, Stored]:
    """Open the tensors of a file without reading them.

    Args:
        file: `.safetensors`, or `.npz` that is not compressed.

    Raises:
        BadArtefact: the file is missing, truncated or malformed.
        Unsupported: a compressed `.npz`, or a type of number that a coder cannot have.
    """
    file = Path(file)
    found = places(file)
    with file.open("rb") as stream:
        try:
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise BadArtefact(f"The file {file} is empty; download or write it again.") from error
    return {name: _stored(mapping, place, f"tensor {name} of {file}") for name, place in found.items()}


def resident(matrix: Matrix) -> Tensor:
    """The matrix in memory, read if it is not."""
    return matrix.load() if isinstance(matrix, Stored) else matrix


def _advise(mapping: mmap.mmap, advice: str, *where: int) -> None:
    value = getattr(mmap, f"MADV_{advice}", None)  # Windows has none
    if value is not None:
        mapping.madvise(value, *where)


def _stored(mapping: mmap.mmap, place: Place, source: str) -> Stored:
    order = "F" if place.fortran else "C"
    view = np.ndarray(place.shape, place.numbers, buffer=mapping, offset=place.offset, order=order)
    return Stored(view, place.dtype, mapping, source)
