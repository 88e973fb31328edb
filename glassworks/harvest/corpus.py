"""Corpus: documents from files, folders, addresses and Hugging Face datasets, read bit by bit.

    text      .txt .md ...      one document a file, or many with a separator between them
    lines     .jsonl            one document a line
    json      .json             a list of documents
    tables    .parquet          one document a row
    datasets  hf:owner/name     streamed; hf:owner/name/configuration:split

A record of a table, line or list is a text, a chat under `messages` (or `conversations`, `conversation`), or `tokens`.
Files may be compressed (.gz, .zst, ...) and lie at any address that fsspec reads. This module must not know models.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, final

from glassworks.errors import BadInput, NotFound, nearest
from glassworks.harvest.contexts import Document

CHATS = ("messages", "conversations", "conversation")
ROLES = {"human": "user", "gpt": "assistant", "prompter": "user"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
BLOCK = 1 << 20
TEXTS = (".txt", ".md", ".text")


@final
@dataclass(frozen=True)
class Corpus:
    """Documents that are read anew each time they are asked for.

    Attributes:
        sources: files, folders, addresses or `hf:` datasets, in this order.
        column: where the text of a record is.
        separator: what stands between documents of a text file; "" where a file is one document.
        documents: after how many to stop; 0 for all.
    """

    sources: tuple[str, ...]
    column: str = "text"
    separator: str = ""
    documents: int = 0

    def __iter__(self) -> Iterator[Document]:
        found = (each for source in self.sources for each in self._documents(source) if each)
        return islice(found, self.documents or None)

    def plain(self) -> dict[str, Any]:
        """What it is, and how large its local files are, so that another corpus of the same name is noticed."""
        sizes = [file.stat().st_size for source in self.sources for file in _local_files(source)]
        facts = {"sources": list(self.sources), "column": self.column, "separator": self.separator}
        return facts | {"documents": self.documents, "bytes": sum(sizes)}

    def _documents(self, source: str) -> Iterator[Document]:
        if source.startswith("hf:"):
            yield from (self._document(record, source) for record in _dataset(source.removeprefix("hf:")))
            return
        for file in [source] if "://" in source else [str(each) for each in _local_files(source)]:
            ending = _ending(file)
            if ending not in READERS:
                raise BadInput(f"The file {file} is no text that is known; it may end in {', '.join(READERS)}.")
            yield from (self._document(record, file) for record in READERS[ending](file, self.separator))

    def _document(self, record: Any, file: str) -> Document:
        if isinstance(record, str):
            return record
        if isinstance(record, list):
            return [_message(each, file) for each in record] if record and isinstance(record[0], dict) else record
        if not isinstance(record, Mapping):
            raise BadInput(f"A record of {file} is {str(record)[:40]!r}; it must be a text, a list or an object.")
        chat = next((record[name] for name in CHATS if record.get(name)), None)
        if chat is not None:
            return [_message(each, file) for each in chat]
        if "tokens" in record:
            return list(record["tokens"])
        if self.column not in record:
            raise BadInput(f"A record of {file} has no {self.column!r}; {nearest(self.column, map(str, record))}.")
        return str(record[self.column] or "")


def _message(message: Any, file: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not ({"content", "value"} & {*message}):
        raise BadInput(f"A message of {file} is {str(message)[:60]!r}; it must have a role and a content.")
    role = str(message.get("role", message.get("from", "user")))
    return {"role": ROLES.get(role, role), "content": message.get("content", message.get("value"))}


def _local_files(source: str) -> list[Path]:
    if source.startswith("hf:") or "://" in source:
        return []
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.is_file() and _ending(each.name) in READERS)
    if not found:
        reason = f"holds no {', '.join(READERS)}" if path.is_dir() else "does not exist"
        raise NotFound(f"The text {source} {reason}; give a file, a folder, an address, or hf:owner/name.")
    return found


def _ending(file: str) -> str:
    path = Path(file)
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def _opened(file: str, mode: str = "rt") -> Any:
    import fsspec

    encoding = {"encoding": "utf-8", "errors": "replace"} if mode == "rt" else {}
    try:
        return fsspec.open(file, mode, compression="infer", **encoding).open()  # pyright: ignore
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"The file {file} cannot be read ({error}).") from error


def _text(file: str, separator: str) -> Iterator[str]:
    with _opened(file) as stream:
        if not separator:
            yield stream.read()
            return
        held = ""
        while block := stream.read(BLOCK):
            *whole, held = (held + block).split(separator)
            yield from (each.strip() for each in whole)
        yield held.strip()


def _lines(file: str, _: str) -> Iterator[Any]:
    with _opened(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise BadInput(f"Line {number} of {file} is no JSON ({error}).") from error


def _json(file: str, _: str) -> Iterator[Any]:
    with _opened(file) as stream:
        try:
            found = json.load(stream)
        except ValueError as error:
            raise BadInput(f"The file {file} is no JSON ({error}).") from error
    if not isinstance(found, list):
        raise BadInput(f"The file {file} holds one {type(found).__name__}; it must hold a list of documents.")
    yield from found


def _parquet(file: str, _: str) -> Iterator[Any]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise BadInput("To read .parquet, install glassworks[data].") from error
    with _opened(file, "rb") as stream:
        for batch in ParquetFile(stream).iter_batches():
            yield from batch.to_pylist()


def _dataset(name: str) -> Iterator[Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise BadInput("To read Hugging Face datasets, install glassworks[data].") from error
    name, _, split = name.partition(":")
    local = Path(name).expanduser().is_dir()
    parts = [name] if local else name.split("/", 2)
    repository, configuration = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        yield from load_dataset(repository, configuration, split=split or "train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise NotFound(f"The dataset {name} cannot be read ({str(error).splitlines()[0]}).") from error


READERS: dict[str, Callable[[str, str], Iterator[Any]]] = {
    **dict.fromkeys(TEXTS, _text),
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".parquet": _parquet,
}
"""Ending of a file -> what reads its records; takes the file and the separator."""
