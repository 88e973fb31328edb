"""Artefacts: the folders that every stage reads and writes.

An artefact is a folder with a `manifest.json` (kind, versions, parents, hashes, fields) and files beside it:
tensors as .safetensors, text as .json. It is written beside its final place and renamed, so a reader never
sees half of one. This module must not know what any kind means.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

from glassworks import codec
from glassworks.errors import BadArtefact, BadInput, NotFound

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
SCHEMA = 1
Value = TypeVar("Value")


class FileFacts(TypedDict):
    """What a manifest states of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What every manifest holds."""

    fields: dict[str, Any]
    files: dict[str, FileFacts]
    parents: list[str]
    schema: int = 0


@dataclass(frozen=True)
class Artefact:
    """An artefact on disk, its manifest read and its tensors still closed.

    Attributes:
        path: the folder.
        kind: what it is: `scope`, `graph`, ...
        fields: what the stage that wrote it says of it; plain JSON values.
        files: name of each file -> {"bytes": size, "sha256": hash}.
        parents: references of the artefacts and models that it was made from.
    """

    path: Path
    kind: str
    fields: dict[str, Any]
    files: dict[str, FileFacts] = field(default_factory=dict)
    parents: list[str] = field(default_factory=list)

    def decode(self, kind: type[Value], tensors: str = "") -> Value:
        """The manifest's fields as a value of a type, checked; BadArtefact where one is missing or wrong.

        Args:
            kind: a dataclass; see `codec.decode`.
            tensors: name of the file of its tensors, without ending; "" where it has none.
        """
        held = self.tensors(tensors) if tensors else None
        return codec.decode(kind, self.fields, f"{self.kind} {self.path / MANIFEST}", held)

    def tensors(self, name: str) -> "dict[str, Tensor]":
        """Load one file of tensors, `name.safetensors`; BadArtefact where it is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.path / f"{name}.safetensors"
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise BadArtefact(f"The tensors {file} cannot be read ({error}); write the artefact again.") from error

    @overload
    def table(self, name: str) -> Any: ...
    @overload
    def table(self, name: str, kind: type[Value]) -> Value: ...
    @overload
    def table(self, name: str, kind: Any) -> Any: ...
    def table(self, name: str, kind: Any = None) -> Any:
        """Load one file of plain values, `name.json`; BadArtefact where it is missing or damaged.

        Args:
            name: the file's name without ending.
            kind: the type that its values must have, `dict[str, list[int]]` or a dataclass; by default any.
        """
        file = self.path / f"{name}.json"
        value = read_json(file)
        return value if kind is None else codec.decode(kind, value, f"file {file}")

    def verify(self) -> None:
        """Raise BadArtefact unless every file has the size and hash that the manifest states."""
        for name, facts in self.files.items():
            file = self.path / name
            if not file.is_file():
                raise BadArtefact(f"The artefact {self.path} lacks its file {name}; write it again.")
            if file.stat().st_size != facts["bytes"] or sha256(file) != facts["sha256"]:
                raise BadArtefact(f"The file {file} differs from what the manifest states; write the artefact again.")


def read_json(file: Path) -> Any:
    """Read a JSON file; BadArtefact where it is missing or not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtefact(f"The file {file} is not readable JSON ({error}).") from error


def sha256(file: Path) -> str:
    """Hash a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_artefact(path: Path) -> bool:
    """Whether a folder holds a manifest."""
    return (path / MANIFEST).is_file()


def read(path: Path | str, kind: str) -> Artefact:
    """Open an artefact.

    Args:
        path: its folder.
        kind: what it must be.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: no manifest, another kind, or a newer schema than this version reads.
    """
    path = Path(path)
    if not path.is_dir():
        raise NotFound(f"There is no folder {path}; a {kind} is a folder with a {MANIFEST}.")
    manifest = read_json(path / MANIFEST)
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found != kind:
        raise BadArtefact(f"The folder {path} holds a {found or 'foreign manifest'}, not a {kind}.")
    schema = manifest.get("schema", 0)
    if isinstance(schema, int) and schema > SCHEMA:
        raise BadArtefact(f"The {kind} {path} was written by a newer version; update Glassworks to read it.")
    facts = codec.decode(Manifest, manifest, f"{kind} {path / MANIFEST}")
    return Artefact(path, kind, facts.fields, facts.files, facts.parents)


def load(path: Path | str, kind: str, into: type[Value]) -> Value:
    """Read a dataclass that `save` wrote.

    Args:
        path: the artefact's folder.
        kind: what it must be; also the name of its file of tensors.
        into: the dataclass.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: it is something else, or a field is missing or wrong.
    """
    stored = read(path, kind)
    return stored.decode(into, kind if f"{kind}.safetensors" in stored.files else "")


def save(path: Path | str, kind: str, value: Any, parents: list[str] | None = None) -> Artefact:
    """Write a dataclass as an artefact: its plain fields into the manifest, its tensors into `<kind>.safetensors`.

    Args:
        path: the folder; an older artefact of the same kind there is replaced.
        kind: what it is.
        value: the dataclass.
        parents: references of what it was made from.

    Raises:
        BadInput: the folder exists and is not an artefact of this kind.
    """
    fields, tensors = codec.encode(value)
    return write(path, kind, fields, {kind: tensors} if tensors else {}, parents=parents)


def write(
    path: Path | str,
    kind: str,
    fields: Mapping[str, Any],
    tensors: "Mapping[str, Mapping[str, Tensor]] | Iterable[tuple[str, Mapping[str, Tensor]]]" = (),
    tables: Mapping[str, Any] | None = None,
    parents: list[str] | None = None,
) -> Artefact:
    """Write an artefact, all of it or nothing.

    Args:
        path: its folder; an older artefact of the same kind there is replaced.
        kind: what it is.
        fields: plain JSON values for the manifest.
        tensors: file name without ending -> its tensors by name; or such pairs, of which one is in memory at a time.
        tables: file name without ending -> JSON values.
        parents: references of what it was made from.

    Raises:
        BadInput: the folder exists and is not an artefact of this kind.
    """
    from safetensors.torch import save_file

    with replacing(Path(path), kind) as folder:
        for name, group in tensors.items() if isinstance(tensors, Mapping) else tensors:
            file = folder / f"{name}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.detach().contiguous() for key, value in group.items()}, file)
        for name, table in (tables or {}).items():
            (folder / f"{name}.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
        seal(folder, kind, fields, parents)
    return read(path, kind)


def replace_table(path: Path | str, kind: str, name: str, value: Any) -> None:
    """Replace one table of an artefact, `name.json`, and leave everything else as it is.

    Args:
        path: the artefact's folder.
        kind: what it must be.
        name: file name without ending.
        value: JSON values.
    """
    stored = read(path, kind)
    replace_text(stored.path / f"{name}.json", json.dumps(value, ensure_ascii=False))
    file, manifest = stored.path / f"{name}.json", read_json(stored.path / MANIFEST)
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    replace_text(stored.path / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def replace_fields(path: Path | str, kind: str, fields: Mapping[str, Any]) -> None:
    """Replace some fields of an artefact's manifest, and leave everything else as it is.

    Args:
        path: the artefact's folder.
        kind: what it must be.
        fields: JSON values by name.
    """
    file = read(path, kind).path / MANIFEST
    manifest = read_json(file)
    manifest["fields"] |= fields
    replace_text(file, json.dumps(manifest, indent=1, ensure_ascii=False))


def replace_text(file: Path, text: str) -> None:
    """Write a file beside its place and rename it, so that no reader sees half of it."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(name, 0o644)
    os.replace(name, file)


@contextmanager
def replacing(path: Path, kind: str) -> Iterator[Path]:
    """Give a temporary folder that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises:
        BadInput: `path` exists and is neither empty nor an artefact of this kind.
    """
    check_output(path, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield folder
        folder.chmod(0o755)
        old = folder.with_name(folder.name + ".old")
        if path.exists():
            path.rename(old)
        os.replace(folder, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(path: Path, kind: str) -> None:
    """Raise BadInput where an artefact of this kind could not be written: what is there is not thrown away."""
    files = [each for each in (path, *path.parents) if each.is_file()]
    if files:
        raise BadInput(f"The output {path} cannot be a folder: {files[0]} is a file; choose another.")
    if not path.exists():
        return
    if any(path.iterdir()) and not (is_artefact(path) and read_json(path / MANIFEST).get("kind") == kind):
        raise BadInput(f"The folder {path} holds something else than a {kind}; choose another, or empty it.")


def seal(folder: Path, kind: str, fields: Mapping[str, Any], parents: list[str] | None = None) -> None:
    """Write the manifest of a folder whose files are all there.

    Args:
        folder: the folder, as `replacing` gives it.
        kind: what it is.
        fields: plain JSON values.
        parents: references of what it was made from.
    """
    from glassworks import __version__

    found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    for file in found:
        file.chmod(0o644)
    files = {str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in found}
    manifest = {
        "kind": kind,
        "schema": SCHEMA,
        "glassworks": __version__,
        "parents": parents or [],
        "fields": dict(fields),
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
