"""Ring: a bounded buffer of rows that mixes what comes in order.

Each batch takes random rows out and puts the next ones into their places, so the cost does not grow with the buffer.
What the rows are, and where they come from, it must not know.
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from glassworks.harvest.tensors import put

Columns = dict[str, Tensor]


@final
class Ring:
    """A buffer that random rows leave and new rows enter.

    Args:
        chunk: gives the next rows, some of them; without end.
        size: rows in the buffer; a multiple of `batch` is taken.
        batch: rows that leave at once.
        seed: of the order.
    """

    def __init__(self, chunk: Callable[[], Columns], size: int, batch: int, seed: int) -> None:
        self.chunk, self.batch = chunk, batch
        self.strata = max(1, size // batch)
        self.generator = torch.Generator().manual_seed(seed)
        self.waiting: Columns = {}
        self.columns: Columns = {}

    def fill(self) -> None:
        """Take in the first rows, part by part, so that they are in memory once."""
        for part in range(self.strata):
            for name, rows in self.pull().items():
                empty = (self.strata * self.batch, *rows.shape[1:])
                self.columns.setdefault(name, rows.new_empty(empty))[part :: self.strata] = rows

    def draw(self) -> Columns:
        """A batch: one random row of each stratum of the buffer, so that none comes twice."""
        offsets = torch.randint(self.strata, (self.batch,), generator=self.generator)
        places = torch.arange(self.batch) * self.strata + offsets
        fresh = self.pull()
        drawn = {name: rows.index_select(0, places) for name, rows in self.columns.items()}
        for name, rows in fresh.items():
            put(self.columns[name], places, rows)
        return drawn

    def pull(self) -> Columns:
        """The next batch of rows in the order in which they come."""
        parts = [self.waiting] if self.waiting else []
        while sum(map(count, parts)) < self.batch:
            parts.append(self.chunk())
        alone = len(parts) == 1
        rows = {name: each if alone else torch.cat([part[name] for part in parts]) for name, each in parts[0].items()}
        self.waiting = {name: each[self.batch :] for name, each in rows.items()}
        return {name: each[: self.batch] for name, each in rows.items()}


def count(columns: Columns) -> int:
    """How many rows there are."""
    return len(next(iter(columns.values())))
