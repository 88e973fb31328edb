"""Budgets: how much of a graph to compute. This module must not know what a row is made of."""

import re
from dataclasses import dataclass
from typing import final

from glassworks.errors import BadInput

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@final
@dataclass(frozen=True)
class Budget:
    """How much of a graph to compute; where nothing is set, all of it.

    The rows that matter most come first, so a small budget gives the top of the graph, and says what is missing.

    Attributes:
        rows: so many features' rows at most; the outcomes' rows come on top.
        seconds: so long at most, forward pass included. Checked between sweeps, the longest of which may overrun.
        memory: what tracing may take besides the model and the scope: bytes, or text like `4GB` or `500 MiB`.

    Raises:
        BadInput: a number below zero, or a text that is no size.
    """

    rows: int | None = None
    seconds: float | int | None = None
    memory: int | str | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 0:
            raise BadInput(f"A budget of {self.rows} rows makes no sense; give 0 or more.")
        if self.seconds is not None and not self.seconds > 0:
            raise BadInput(f"A budget of {self.seconds} seconds leaves no time at all; give more than 0.")
        if self.memory is not None:
            object.__setattr__(self, "memory", size_of(self.memory))

    @property
    def bytes(self) -> int | None:
        """The memory in bytes."""
        return None if self.memory is None else int(self.memory)

    @property
    def all(self) -> bool:
        """Whether everything is to be computed."""
        return self == Budget()


def size_of(text: int | str) -> int:
    """Read a size: bytes, or a number with a unit, `4GB`, `1.5 GiB`.

    Raises:
        BadInput: it is no size, or not above 0.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmgt]i?b|b?)", str(text).strip().lower())
    size = int(float(found[1]) * UNITS.get(found[2], 1)) if found else 0
    if size <= 0:
        raise BadInput(f"{text!r} is no amount of memory; write it like 4GB, 500MB or 1.5GiB.")
    return size
