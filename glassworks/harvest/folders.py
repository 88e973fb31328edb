"""Folders: files on a local disk or in a bucket, behind the few operations that a store needs.

A file appears whole or not at all. Local files are read in place; of a bucket's files only the bytes that are wanted
are fetched, through fsspec (`s3://`, `gs://`, ...). This module must not know what the files mean.
"""

import errno
import mmap
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from glassworks.errors import BadArtefact, BadInput, NotFound

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLAIMS, UNFINISHED = ".claims", ".part"
NEAR = 1 << 16
"""Rows of a bucket's file that lie at most this many bytes apart are fetched together."""


class Folder(ABC):
    """Named files.

    Attributes:
        name: what the user calls it.
    """

    name: str

    @abstractmethod
    def sizes(self, under: str = "") -> dict[str, int]:
        """Name of every finished file, `mlp_in.0/00000.safetensors` -> its bytes; all, or those under one name."""

    @abstractmethod
    def read(self, file: str) -> bytes:
        """All of one small file; NotFound where it does not exist."""

    @abstractmethod
    def write(self, file: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write a file, all of it or nothing; BadInput where there is no room."""

    @abstractmethod
    def remove(self, file: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def span(self, file: str, offset: int, count: int) -> UInt8[Tensor, " byte"]:
        """Some neighbouring bytes; BadArtefact where the file is cut off."""

    @abstractmethod
    def gather(self, file: str, offset: int, width: int, rows: Int[Tensor, " row"]) -> UInt8[Tensor, "row byte"]:
        """Rows of `width` bytes, in any order, of a table that begins at `offset`."""

    @abstractmethod
    def claim(self, name: str) -> Callable[[], None] | None:
        """Keep other processes from doing the same work, until they are called off or end; None where one is at it."""

    @abstractmethod
    def clean(self) -> None:
        """Remove what interrupted writers left behind."""

    @abstractmethod
    def free(self) -> int | None:
        """Bytes that there is room for, if that is known."""


@final
class Local(Folder):
    """A folder on a disk of this machine."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._maps: dict[str, mmap.mmap] = {}

    def sizes(self, under: str = "") -> dict[str, int]:
        """Name of every finished file -> its bytes."""
        files = {each.relative_to(self.path): each for each in (self.path / under).rglob("*") if each.is_file()}
        finished = {name: each for name, each in files.items() if name.parts[0] != CLAIMS and name.suffix != UNFINISHED}
        return {name.as_posix(): each.stat().st_size for name, each in finished.items()}

    def read(self, file: str) -> bytes:
        """All of one file."""
        try:
            return (self.path / file).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {self.path / file}.") from error

    def write(self, file: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write beside the place, flush to the disk, rename."""
        target = self.path / file
        unfinished = target.with_name(f"{target.name}.{os.getpid()}{UNFINISHED}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as stream:
                for part in parts:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, target)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            if error.errno not in FULL:
                raise BadInput(f"The file {target} cannot be written ({error.strerror}).") from error
            raise BadInput(
                f"There is no room for {file} ({sum(len(part) for part in parts) / 1e6:,.0f} MB) in {self.path}; all "
                "earlier shards are kept, so make room and run the same command again."
            ) from error

    def remove(self, file: str) -> None:
        """Remove a file, if it is there."""
        (self.path / file).unlink(missing_ok=True)

    def span(self, file: str, offset: int, count: int) -> Tensor:
        """Read past the mapping, which is several times faster on files that are not in memory yet."""
        found = torch.empty(count, dtype=torch.uint8)
        view = memoryview(found.numpy().data)
        with self._opened(file) as handle:
            done = 0
            while done < count:
                got = os.preadv(handle, [view[done:]], offset + done)
                if not got:
                    raise _cut_off(self.path / file)
                done += got
        return found

    def gather(self, file: str, offset: int, width: int, rows: Tensor) -> Tensor:
        """Copy rows out of a mapping of the file."""
        mapped = self._maps.get(file) or self._map(file)
        end = offset + width * (int(rows.max()) + 1 if len(rows) else 0)
        if end > len(mapped):
            raise _cut_off(self.path / file)
        table = np.frombuffer(mapped, np.uint8, end - offset, offset).reshape(-1, width)
        return torch.from_numpy(table.take(rows.numpy(), axis=0))

    def claim(self, name: str) -> Callable[[], None] | None:
        """Lock a file; the system unlocks it when the process ends, however it ends."""
        import fcntl

        file = self.path / CLAIMS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return None
        return stream.close

    def clean(self) -> None:
        """Remove unfinished files and claims."""
        for file in self.path.rglob(f"*{UNFINISHED}"):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.path / CLAIMS, ignore_errors=True)

    def free(self) -> int:
        """Bytes that the disk has left."""
        there = next(each for each in (self.path.absolute(), *self.path.absolute().parents) if each.exists())
        return shutil.disk_usage(there).free

    def _map(self, file: str) -> mmap.mmap:
        with self._opened(file) as handle:
            mapped = self._maps[file] = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        return mapped

    @contextmanager
    def _opened(self, file: str) -> Iterator[int]:
        try:
            handle = os.open(self.path / file, os.O_RDONLY)
        except FileNotFoundError as error:
            raise BadArtefact(
                f"The store {self.path} lacks its file {file}; harvest it again with --verify."
            ) from error
        try:
            yield handle
        finally:
            os.close(handle)


@final
class Bucket(Folder):
    """A folder that fsspec reaches by its address."""

    def __init__(self, address: str) -> None:
        import fsspec

        self.name = address.rstrip("/")
        with self._reported():
            self.files, self.root = fsspec.core.url_to_fs(self.name)

    def sizes(self, under: str = "") -> dict[str, int]:
        """Name of every file -> its bytes."""
        with self._reported():
            self.files.invalidate_cache()
            found = self.files.find(self._path(under).rstrip("/"), detail=True)
        return {name[len(self.root) :].lstrip("/"): facts["size"] for name, facts in found.items()}

    def read(self, file: str) -> bytes:
        """All of one file."""
        with self._reported():
            return self.files.cat_file(self._path(file))

    def write(self, file: str, parts: Sequence[bytes | memoryview]) -> None:
        """Put an object, which appears whole."""
        with self._reported():
            self.files.pipe_file(self._path(file), b"".join(parts))

    def remove(self, file: str) -> None:
        """Remove an object, if it is there."""
        with self._reported():
            if self.files.exists(self._path(file)):
                self.files.rm_file(self._path(file))

    def span(self, file: str, offset: int, count: int) -> Tensor:
        """Fetch a range of bytes."""
        return self._ranges(file, [(offset, offset + count)])[0]

    def gather(self, file: str, offset: int, width: int, rows: Tensor) -> Tensor:
        """Fetch rows, those near to each other in one range, all ranges at once."""
        if not len(rows):
            return torch.empty(0, width, dtype=torch.uint8)
        order, back = rows.unique(return_inverse=True)
        breaks = ((order.diff() - 1) * width > NEAR).nonzero()[:, 0].add(1).tolist()
        runs = [order[start:stop] for start, stop in zip([0, *breaks], [*breaks, len(order)], strict=True)]
        spans = [(offset + width * int(run[0]), offset + width * (int(run[-1]) + 1)) for run in runs]
        found = self._ranges(file, spans)
        return torch.cat([part.view(-1, width)[run - run[0]] for part, run in zip(found, runs, strict=True)])[back]

    def claim(self, name: str) -> Callable[[], None]:
        """Buckets cannot lock: processes that share one take parts of their own, or do the same work twice."""
        return lambda: None

    def clean(self) -> None:
        """Objects are never unfinished."""

    def free(self) -> None:
        """Not known."""

    def _path(self, file: str) -> str:
        return f"{self.root}/{file}"

    def _ranges(self, file: str, spans: list[tuple[int, int]]) -> list[Tensor]:
        starts, ends = [span[0] for span in spans], [span[1] for span in spans]
        with self._reported():
            found = self.files.cat_ranges([self._path(file)] * len(spans), starts, ends, on_error="raise")
        if any(len(part) != end - start for part, (start, end) in zip(found, spans, strict=True)):
            raise _cut_off(self._path(file))
        return [torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in found]

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"What was looked for in {self.name} is not there ({error}).") from error
        except ImportError as error:
            raise BadInput(f"To reach {self.name} a package is missing: {error}.") from error
        except BadArtefact:
            raise
        except Exception as error:  # every kind of bucket has a client with exceptions of its own
            raise BadInput(f"The bucket {self.name} cannot be used ({type(error).__name__}: {error}).") from error


def open_folder(place: str | Path) -> Folder:
    """A local folder, or what an address like `s3://bucket/name` leads to; nothing is created."""
    return Bucket(str(place)) if "://" in str(place) else Local(Path(place).expanduser())


def _cut_off(file: Any) -> BadArtefact:
    return BadArtefact(f"The file {file} is cut off; harvest the store again with --verify, which writes only it anew.")
