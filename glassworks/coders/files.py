"""Files: what a release holds, by name and size, before anything of it is read.

A folder on this disk and a repository of the hub look the same from above: names, sizes, and a path for exactly
the file that is needed. This module must not know any format.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from glassworks import hub
from glassworks.artefacts import read_json
from glassworks.errors import BadArtefact, BadInput, NotFound, nearest

LARGEST_TEXT = 16 << 20
"""A configuration above this many bytes is none."""


@final
@dataclass(frozen=True)
class Files:
    """The files of one release.

    Attributes:
        reference: what the user named.
        home: where the files lie in words, the whole path of the folder or `owner/name`: formats read names there.
        sizes: name of each file, with `/` between folders -> its size in bytes.
        locate: gives the local path of a file, fetching it where it must.
        reserve: raises BadInput where the disk has no room for what of some files is still to be fetched.
    """

    reference: str
    home: str
    sizes: Mapping[str, int]
    locate: Callable[[str], Path]
    reserve: Callable[[Iterable[str]], None] = lambda names: None

    def __contains__(self, name: object) -> bool:
        return name in self.sizes

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def path(self, name: str) -> Path:
        """The local path of one file, fetched on first use; NotFound with the nearest names where there is none."""
        if name not in self.sizes:
            raise NotFound(f"{self.reference} has no file {name!r}; {nearest(name, self.sizes)}.")
        return self.locate(name)

    def size(self, names: tuple[str, ...]) -> int:
        """How many bytes these files have."""
        return sum(self.sizes[name] for name in names)

    def json(self, name: str) -> dict[str, Any]:
        """Read a configuration: an object of JSON; BadArtefact where it is anything else."""
        if self.sizes.get(name, 0) > LARGEST_TEXT:
            raise BadArtefact(f"The configuration {name} of {self.reference} has {self.sizes[name]} bytes; it is none.")
        value = read_json(self.path(name))
        if not isinstance(value, dict):
            raise BadArtefact(f"The configuration {name} of {self.reference} is not a JSON object.")
        return value

    def yaml(self, name: str) -> dict[str, Any]:
        """Read a configuration in YAML, which can build nothing but plain values."""
        import yaml

        if self.sizes.get(name, 0) > LARGEST_TEXT:
            raise BadArtefact(f"The configuration {name} of {self.reference} has {self.sizes[name]} bytes; it is none.")
        try:
            value = yaml.safe_load(self.path(name).read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise BadArtefact(f"The configuration {name} of {self.reference} is no readable YAML.") from error
        return value if isinstance(value, dict) else {}

    def matching(self, pattern: str) -> list[tuple[str, re.Match[str]]]:
        """The files whose whole path, home included, ends with a pattern; each with its match."""
        compiled = re.compile(rf"(?:^|.*?/){pattern}$")
        found = ((name, compiled.match(f"{self.home}/{name}")) for name in self.sizes)
        return [(name, match) for name, match in found if match]


def files_of(reference: Path | str, revision: str | None = None) -> Files:
    """List what a reference holds: a folder, an embedded scope, or a repository `owner/name`.

    Raises:
        NotFound: there is no such thing.
    """
    name = str(reference)
    folder = Path(reference).expanduser()
    repository = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")
    if repository and not folder.is_dir():
        found = hub.listing(name, revision)
        return Files(
            name,
            name,
            found.sizes,
            lambda file: hub.fetch(name, file, found),
            lambda wanted: hub.check_room(name, wanted, found),
        )
    if folder.is_file():
        raise BadInput(f"{folder} is a file; give the folder that holds it.")
    root = hub.resolve(reference, "scope", revision).resolve()
    if not root.is_dir():
        raise NotFound(f"There is no folder {root}, where the embedded scope {name} would lie.")
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    sizes = {file: path.stat().st_size for file, path in paths.items()}
    return Files(name, root.as_posix(), sizes, paths.__getitem__)
