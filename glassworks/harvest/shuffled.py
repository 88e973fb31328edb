"""Shuffled: a store read once an epoch in random order, through a bounded buffer.

Blocks of neighbouring rows are read in random order, ahead of their use, and mixed in a ring. Its state holds the
numbers of the buffered rows and not the rows, which the store has.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.harvest.activations import Statistics, split_head
from glassworks.harvest.ring import Columns, Ring, count
from glassworks.harvest.store import Store
from glassworks.harvest.streams import Stream
from glassworks.harvest.tensors import TABLES, widen

BUFFER = 1 << 17
BLOCK_BYTES = 16 << 20
AHEAD = 2
"""Blocks that are read while others are used."""


@final
class Shuffled(Stream):
    """Batches of a store, each row once an epoch.

    Attributes:
        blocks: the rows that are read together.

    Args:
        store: what to read.
        batch: rows a batch.
        seed: of the order.
        sites: which sites, or heads of sites; nothing of the others is read; all if unset.
        buffer: rows in memory that a batch is drawn from, as they are stored.
    """

    def __init__(
        self, store: Store, batch: int, seed: int = 0, sites: Sequence[str] | None = None, buffer: int = BUFFER
    ) -> None:
        if batch > store.rows:
            raise BadInput(f"A batch of {batch} rows is more than the store has ({store.rows}); take a smaller one.")
        self.store, self.batch, self.seed = store, batch, seed
        self.widths = {site: store.width(site) for site in sites or store.sites}
        self._whole = list(dict.fromkeys(split_head(site)[0] for site in self.widths))
        a_row = sum(store.widths[site] for site in self._whole) * TABLES[store.dtype]["values"].itemsize
        self.blocks = _blocks(store, max(1, BLOCK_BYTES // a_row))
        self._next = 0
        self._coming: deque[Future[Columns]] = deque()
        self._readers = ThreadPoolExecutor(AHEAD, "store")
        self._ring = Ring(self.chunk, min(buffer, store.rows), batch, seed)

    def draw(self) -> dict[str, Tensor]:
        """Site -> rows."""
        if not self._ring.columns:
            self._ring.fill()
        drawn = self._ring.draw()
        wide = {site: widen(_stored(drawn, site)) for site in self._whole}
        return {site: _head(wide, site, self.store) for site in self.widths}

    def state(self) -> dict[str, Tensor]:
        """Its random generator, its place in the order, and the numbers of the rows in the buffer."""
        waiting = count(self._ring.waiting) if self._ring.waiting else 0
        rows = self._ring.columns.get("row", torch.empty(0, dtype=torch.long))
        place = torch.tensor([self._next, waiting])
        return {"generator": self._ring.generator.get_state(), "place": place, "rows": rows.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on as saved; the rows in the buffer are read again."""
        ring = self._ring
        ring.generator.set_state(state["generator"])
        following, waiting = state["place"].tolist()
        self._coming.clear()
        self._next = max(0, following - 1)
        last = self.chunk() if following else {}
        ring.waiting = {name: rows[len(rows) - waiting :] for name, rows in last.items()} if waiting else {}
        ring.columns = self._read(state["rows"]) if len(state["rows"]) else {}

    def statistics(self, site: str) -> Statistics:
        """Moments over the whole store."""
        return self.store.statistics(site)

    def chunk(self) -> Columns:
        """The next block of the order, while those after it are being read."""
        while len(self._coming) <= AHEAD:
            self._coming.append(self._readers.submit(self._read, self._block(self._next + len(self._coming))))
        self._next += 1
        return self._coming.popleft().result()

    def _block(self, number: int) -> slice:
        epoch, place = divmod(number, len(self.blocks))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return self.blocks[int(torch.randperm(len(self.blocks), generator=generator)[place])]

    def _read(self, rows: slice | Tensor) -> Columns:
        numbers = torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        found = {f"{site}/{name}": each for site in self._whole for name, each in self.store.raw(site, rows).items()}
        return {"row": numbers, **found}


def _blocks(store: Store, rows: int) -> list[slice]:
    """Neighbouring rows that lie in one shard, as evenly cut as they go."""
    edges = store.starts.tolist()
    return [slice(at, min(at + rows, stop)) for start, stop in pairwise(edges) for at in range(start, stop, rows)]


def _stored(columns: Columns, site: str) -> Columns:
    return {name.removeprefix(f"{site}/"): each for name, each in columns.items() if name.startswith(f"{site}/")}


def _head(wide: Columns, site: str, store: Store) -> Tensor:
    whole, head = split_head(site)
    return wide[whole] if head is None else wide[whole].unflatten(1, (store.heads[whole], -1))[:, head]
