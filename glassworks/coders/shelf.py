"""The shelf: a scope's coders by name, each built from its entry when it is first taken.

Listing a scope reads no weights, and a coder that cannot be built is refused and leaves nothing behind.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import final

import torch
from torch import Tensor

from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, kind_of, width_word
from glassworks.coders.linear import LinearCoder
from glassworks.coders.pertoken import PerToken
from glassworks.errors import BadArtefact, BadInput, NotFound, nearest

RESIDENT_BYTES = 1 << 30
"""Coders up to this size are read whole on first use; of larger ones, rows are read as they are needed."""
SPELLED = 6
"""How many entries a message names."""


@final
class Shelf(MutableMapping[str, Coder]):
    """Coders by name.

    Args:
        entries: what is on the shelf.
        built: coders that exist already, by name.
    """

    def __init__(self, entries: Iterable[Entry] = (), built: Mapping[str, Coder] | None = None) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._built: dict[str, Coder] = {}
        self._device: torch.device | str | None = None
        self.update(built or {})

    @property
    def entries(self) -> list[Entry]:
        """What is known of each coder without its weights."""
        return list(self._entries.values())

    def pick(self, names: Iterable[str]) -> "Shelf":
        """A shelf of some of the coders, what is built of them kept."""
        wanted = list(names)
        built = {name: self._built[name] for name in wanted if name in self._built}
        found = Shelf([self._entries[name] for name in wanted], built)
        found._device = self._device
        return found

    def to(self, device: torch.device | str) -> None:
        """Move the coders that are built, and those that will be; matrices left in a file give their rows there."""
        self._device = device
        for coder in self._built.values():
            coder.to(device)

    def __getitem__(self, name: str) -> Coder:
        if name not in self._built:
            coder = _build(self._entries[name])
            self._built[name] = coder if self._device is None else coder.to(self._device)
        return self._built[name]

    def __setitem__(self, name: str, coder: Coder) -> None:
        self._built[name] = coder
        if name not in self._entries:
            self._entries[name] = entry_of(name, coder)

    def __delitem__(self, name: str) -> None:
        del self._entries[name]
        self._built.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def entry_of(name: str, coder: Coder) -> Entry:
    """What can be said of a coder in memory."""
    single = len(coder.reads) == len(coder.writes) == 1
    joint = "crosscoder" if set(coder.reads) >= set(coder.writes) else "clt"
    return Entry(
        name=name,
        reads=coder.reads,
        writes=coder.writes,
        kind=kind_of(coder.reads, coder.writes) if single else joint,
        width=width_word(coder.d_latent),
        l0="",
        target=None,
        tags=(),
        bytes=sum(value.numel() * value.element_size() for value in coder.state_dict().values()),
        files=(),
        provenance=Provenance("memory", "its class's"),
        build=lambda: coder,
    )


def matching(entries: Iterable[Entry], **wanted: object) -> list[Entry]:
    """The entries that have all that is wanted; what is None is not asked for.

    Args:
        entries: all.
        wanted: `site` (a read site's name, or its kind), `name`, `kind`, `width`, `l0`, and `tags`, all of which
            an entry must have.
    """
    return [entry for entry in entries if all(_fits(entry, key, value) for key, value in wanted.items())]


def one(scope: str, entries: list[Entry], found: list[Entry], wanted: Mapping[str, object]) -> Entry:
    """The one entry that was meant: the only one found, or the only one that has no tags but those asked for.

    Raises:
        NotFound: there is none; the nearest are named.
        BadInput: several fit; what tells them apart is named.
    """
    tags = {str(tag) for tag in _listed(wanted.get("tags"))}
    plain = [entry for entry in found if set(entry.tags) == tags]
    if len(found) == 1 or len(plain) == 1:
        return found[0] if len(found) == 1 else plain[0]
    words = ", ".join(f"{key} {value}" for key, value in wanted.items() if value is not None)
    if not found:
        raise NotFound(f"The scope {scope} has no coder with {words or 'anything'}; {_alternatives(entries, wanted)}.")
    names = ", ".join(entry.name for entry in found[:SPELLED]) + (", ..." if len(found) > SPELLED else "")
    raise BadInput(
        f"The scope {scope} has {len(found)} coders{f' with {words}' if words else ''}: {names}; "
        f"say more of site, width, l0, kind, tags or name."
    )


def _alternatives(entries: list[Entry], wanted: Mapping[str, object]) -> str:
    """Say what exists where the request went wrong: the first criterion that leaves nothing."""
    left = entries
    for key, value in wanted.items():
        found = matching(left, **{key: value})
        if not found:
            return nearest(str(value), sorted({word for entry in left for word in _words(entry, key)}))
        left = found
    return nearest("", [entry.name for entry in left])


def _words(entry: Entry, key: str) -> list[str]:
    if key == "site":
        return [site.name for site in entry.reads]
    return list(map(str, _listed(getattr(entry, key))))


def _fits(entry: Entry, key: str, value: object) -> bool:
    if value is None:
        return True
    if key == "site":
        return any(value in (site.name, site.kind) for site in entry.reads)
    if key == "tags":
        return {str(tag) for tag in _listed(value)} <= set(entry.tags)
    if key == "width" and isinstance(value, int):
        return entry.width == width_word(value)
    if key == "l0" and isinstance(value, int | float):
        return value == entry.target or str(value) == entry.l0
    return getattr(entry, key) == value


def _listed(value: object) -> list[object]:
    return [] if value is None else list(value) if isinstance(value, list | tuple | set) else [value]


def _build(entry: Entry) -> Coder:
    coder = entry.build()
    if (coder.reads, coder.writes) != (entry.reads, entry.writes):
        raise BadArtefact(f"The coder {entry.name} reads and writes other sites than its release says.")
    if entry.bytes <= RESIDENT_BYTES:
        try:
            coder.load()
        except BadArtefact as error:
            raise BadArtefact(f"The coder {entry.name} cannot be read: {error}") from error
    _check_finite(entry.name, coder)
    if coder.id != entry.name:
        coder.rename(entry.name)
    return coder.requires_grad_(False).eval()


def _check_finite(name: str, coder: Coder) -> None:
    """Refuse weights in memory that are no numbers; matrices left in a file are checked where they are used."""
    for part in coder.parts:
        linear = part.inner if isinstance(part, PerToken) else part
        weights = linear.matrices() if isinstance(linear, LinearCoder) else {}
        bad = [key for key, value in weights.items() if isinstance(value, Tensor) and not bool(value.isfinite().all())]
        if bad:
            raise BadArtefact(f"The coder {name} has values that are not finite in {', '.join(bad)}.")
