"""The graphs that a server shows: artefacts and graph JSON files of one folder, found by name.

A name from outside is only ever looked up among the names found, never joined to a path, so no request can leave
the folder.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain, count
from pathlib import Path
from threading import Lock
from typing import Any, final

from torch import Tensor

from glassworks import artefacts
from glassworks.circuits import Graph, load_graph, read_direction
from glassworks.errors import BadArtefact, BadInput, NotFound, nearest
from glassworks.server.document import graph_document

CACHED = 4
TRACED = "graph"
"""The artefact's name in a folder that `glassworks trace` wrote."""
LONGEST_NAME, MOST_GROUPS = 200, 1_000


@final
@dataclass(eq=False)
class GraphFolder:
    """The graphs of a folder.

    Attributes:
        folder: a graph artefact, a graph JSON file, or a folder that holds such, or results of `glassworks trace`.
    """

    folder: Path
    _added: dict[str, Path] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        """Raise NotFound where there is no such folder."""
        if not self.folder.exists():
            raise NotFound(f"There is no folder {self.folder}; make a graph there with `glassworks trace --out`.")

    def places(self) -> dict[str, Path]:
        """Name of every graph -> its folder or file: artefacts before JSON files, the newest first."""
        if self._single:
            return {_name(self.folder.resolve()): self.folder, **self._added}
        inside = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        places: dict[str, Path] = {}
        for path in sorted(inside, key=lambda path: (path.is_file(), -path.stat().st_mtime, path.name)):
            for place in (path, path / TRACED):
                if place.exists() and _is_graph(place):
                    places.setdefault(_name(path), place)
        return places

    @property
    def _single(self) -> bool:
        return self.folder.is_file() or artefacts.is_artefact(self.folder)

    def add(self, name: str, graph: Graph) -> str:
        """Save a graph beside the others.

        Returns:
            Its name, with a number where that is taken.
        """
        home = self.folder.resolve().parent if self._single else self.folder
        with self._lock:
            taken = self.places()
            free = next(one for one in chain([name], (f"{name}-{n}" for n in count(2))) if one not in taken)
            while (home / free).exists():
                free += "-new"
            graph.save(home / free)
            self._added[free] = home / free
        return free

    def direction(self, name: str) -> Tensor:
        """Read a direction that lies beside the graphs, found by its file's name; NotFound where there is none."""
        home = self.folder.resolve().parent if self._single else self.folder
        files = {file.name: file for file in home.iterdir() if file.suffix in (".npy", ".safetensors")}
        if name not in files:
            raise NotFound(f"There is no file {name!r} beside the graphs; {nearest(name, files)}.")
        return read_direction(str(files[name]))

    def state(self, name: str) -> str:
        """What changes when a graph is written anew."""
        path = self.place(name)
        if path.is_file():
            facts = path.stat()
            return f"{facts.st_mtime_ns}:{facts.st_size}"
        return artefacts.read(path, "graph").files["graph.safetensors"]["sha256"]

    def entries(self) -> list[dict[str, Any]]:
        """What the list of graphs shows; graphs are not opened for it."""
        entries = []
        for name, path in self.places().items():
            if path.is_dir():
                fields = artefacts.read(path, "graph").fields
                facts = {key: fields.get(key) for key in ("prompt", "model", "scope", "nodes", "edges", "replacement")}
            else:
                value = artefacts.read_json(path)
                facts = {"prompt": value["metadata"].get("prompt", ""), "model": value["metadata"].get("scan", "")}
                sizes = {"nodes": len(value["nodes"]), "edges": len(value["links"]), "replacement": None}
                facts |= {"scope": "", **sizes}
            entries.append({"name": name, **facts})
        return entries

    def place(self, name: str) -> Path:
        """Where a graph lies; NotFound with the nearest names where there is none."""
        places = self.places()
        if name not in places:
            raise NotFound(f"There is no graph {name!r} here; {nearest(name, places)}.")
        return places[name]

    def graph(self, name: str) -> Graph:
        """Open a graph."""
        path = self.place(name)
        return load_graph(path) if path.is_dir() else Graph.from_json(artefacts.read_json(path))

    def document(self, name: str) -> dict[str, Any]:
        """A graph's document, with the groups as they are on disk now."""
        path = self.place(name)
        with self._lock:
            return self._document(name, path, self.state(name)) | _groups(path)

    @cached_property
    def _document(self) -> Callable[[str, Path, str], dict[str, Any]]:
        """Gives the document of a graph in a state; the last ones are kept."""
        return lru_cache(CACHED)(lambda name, path, state: graph_document(self.graph(name), name))

    def save_groups(self, name: str, value: Any) -> dict[str, Any]:
        """Write pins and named groups into a graph's artefact.

        Args:
            name: the graph.
            value: `{"pinned": [node id...], "supernodes": [{"name", "nodes": [node id...]}]}`.

        Returns:
            The same, as saved.

        Raises:
            BadInput: the value is something else, names a node that does not exist, or the graph is a JSON file.
        """
        path = self.place(name)
        if not path.is_dir():
            raise BadInput(
                f"The graph {name} is a JSON file, which cannot hold groups; import it as an artefact first."
            )
        count = int(artefacts.read(path, "graph").fields["nodes"])
        groups = _read_groups(value, count)
        with self._lock:
            artefacts.replace_table(path, "graph", "supernodes", groups)
        return _groups(path)


def _name(path: Path) -> str:
    return path.stem if path.is_file() else path.name


def _is_graph(path: Path) -> bool:
    if path.is_dir():
        return artefacts.is_artefact(path) and artefacts.read_json(path / artefacts.MANIFEST).get("kind") == "graph"
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        value = artefacts.read_json(path)
    except BadArtefact:
        return False
    return isinstance(value, dict) and {"metadata", "nodes", "links"} <= set(value)


def _groups(path: Path) -> dict[str, Any]:
    """Pins and groups as they are on disk, as the page reads them; nothing for a JSON file."""
    if path.is_file():
        return {}
    table = artefacts.read(path, "graph").table("supernodes")
    named = [{"name": group["name"], "nodes": list(map(str, group["nodes"]))} for group in table["supernodes"]]
    return {"supernodes": named, "pinned": list(map(str, table["pinned"]))}


def _read_groups(value: Any, count: int) -> dict[str, Any]:
    """Groups and pins as they are stored, checked: node numbers and distinct names."""
    groups = value.get("supernodes") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(groups, list) or not isinstance(value.get("pinned"), list):
        raise BadInput('Groups are written {"pinned": [id...], "supernodes": [{"name": text, "nodes": [id...]}]}.')
    names = [group.get("name") if isinstance(group, dict) else None for group in groups]
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or names.count(name) > 1:
            raise BadInput(f"A group's name is {name!r}; names are different texts of 1 to {LONGEST_NAME} characters.")
    if len(groups) > MOST_GROUPS:
        raise BadInput(f"There are {len(groups)} groups; a graph holds {MOST_GROUPS} at the most.")

    def numbers(ids: Any) -> list[int]:
        if not isinstance(ids, list):
            raise BadInput(f"A list of node ids is needed; got {type(ids).__name__}.")
        for node in ids:
            if not (isinstance(node, str) and node.isascii() and node.isdecimal() and int(node) < count):
                raise BadInput(f"There is no node {node!r}; the graph's nodes are called '0' to '{count - 1}'.")
        return [int(node) for node in dict.fromkeys(ids)]

    named = [{"name": group["name"], "nodes": numbers(group.get("nodes"))} for group in groups]
    return {"supernodes": named, "pinned": numbers(value["pinned"])}
