"""Rows: which of a graph's rows to compute, and in which order, so that little influence stays unexplored.

The outcomes' rows come first; then, again and again, those of the features with the most known influence. What is
known of a node's influence only grows, and at most by what rests on features without a row. A budget says how many rows
are computed.
"""

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.engine.local import LocalModel
from glassworks.circuits.engine.sweep import BLOCK, divide, sweep
from glassworks.circuits.scores import TINY, hand_on
from glassworks.errors import BadInput

Progress = Callable[[int, int, float], None]
"""Called while rows are computed: how many there are, how many there will be at most, the share unexplored."""

FIRST = 128  # rows of the first round; each round is half as large as all before it
WORKSPACE = 6  # what a sweep takes, in units of its block of covectors
PAUSE = 1.0  # seconds between two reports
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


@final
class Rows:
    """The rows of one prompt as far as they are computed.

    Args:
        local: the prompt's linear model.
        budget: how many rows there may be.

    Attributes:
        local: the prompt's linear model.
        done: the target of each row, in the order in which they were computed.
        most: how many rows there will be.
        block: how many numbers a block of the sweep may hold.

    Raises:
        BadInput: the memory does not suffice for the outcomes' rows.
    """

    def __init__(self, local: LocalModel, budget: Budget) -> None:
        self.local, self.done = local, list[int]()
        wanted = len(local.targets) if budget.rows is None else local.outcomes + budget.rows
        self.block, fit = _capacity(local, budget)
        self.most = min(wanted, fit, len(local.targets))
        self._make(local.sources.columns)

    def add(self, targets: Int[Tensor, " r"], edges: Float[Tensor, "column r"]) -> None:
        """Keep computed rows; an interruption within leaves what was there before."""
        here = targets.cpu() if self._whole else torch.arange(len(self.done), len(self.done) + len(targets))
        rows = edges.T.contiguous().to(self._matrix.device)  # transposed at once, which is faster than row by row
        self._matrix.index_copy_(0, here, rows)
        self._sizes[here] = torch.linalg.vector_norm(rows, 1, dim=1).clamp(min=TINY)
        self.done = [*self.done, *targets.tolist()]

    def adopt(self, targets: Int[Tensor, " r"], matrix: Float[Tensor, "r column"]) -> None:
        """Take over rows that were computed before; a smaller budget than theirs adds none."""
        if len(targets) > self.most:
            self.most = len(targets)
            self._make(matrix.shape[1])
        self.add(targets, matrix.T)

    def known(self) -> Float[Tensor, " t"]:
        """Influence on the outcomes that is known to rest on each target without a row, 0 for those that have one."""
        local, done, slots = self.local, torch.tensor(self.done, dtype=torch.long), self._slots()
        features, columns = local.sources.features, local.sources.columns
        flow = torch.zeros(columns + local.outcomes)
        flow[columns:] = local.weights
        nodes = torch.where(done < features, done, done - features + columns)
        hand_on(flow, self._matrix, nodes, local.levels[done], self._sizes[slots], slots)
        found = flow[: len(local.targets)].clone()
        found[features:] = 0
        found[done] = 0
        return found

    def unexplored(self) -> float:
        """Share of the influence that rests on features without a row."""
        return float(self.known().sum() / self.local.weights.sum().clamp(min=TINY))

    def next(self, count: int) -> Int[Tensor, " r"]:
        """The targets whose rows are wanted next: all outcomes, then the most influential features."""
        local = self.local
        if not self.done:
            return torch.arange(local.sources.features, len(local.targets))
        count = min(count, self.most - len(self.done))
        if count == len(local.targets) - len(self.done):
            free = torch.ones(len(local.targets), dtype=torch.bool)
            free[self.done] = False
            return free.nonzero()[:, 0]
        rank = self.known()
        rank[self.done], rank[local.sources.features :] = -1, -1
        return rank.topk(count).indices

    def ordered(self) -> tuple[Int[Tensor, " t"], Float[Tensor, "t column"]]:
        """The targets in ascending order, and their rows; in place, as there may be no memory for a copy."""
        targets, order = torch.tensor(self.done, dtype=torch.long).sort()
        slots = self._slots()[order].tolist()
        for place, slot in enumerate(slots):
            while slot < place:  # what was there has made room for another: follow it
                slot = slots[slot]
            if slot != place:
                row = self._matrix[place].clone()
                self._matrix[place] = self._matrix[slot]
                self._matrix[slot] = row
        return targets, self._matrix[: len(targets)]

    def _make(self, columns: int) -> None:
        self._matrix, self._sizes = torch.empty(self.most, columns), torch.empty(self.most)
        self._whole = self.most == len(self.local.targets)

    def _slots(self) -> Int[Tensor, " t"]:
        """Where each row lies: at its final place where all are wanted, else one after the other."""
        return torch.tensor(self.done, dtype=torch.long) if self._whole else torch.arange(len(self.done))


def explore(rows: Sequence[Rows], budget: Budget, began: float, progress: Progress | None = None) -> bool:
    """Compute rows of one model on one or several prompts, until all are there or the budget is spent.

    Args:
        rows: of each prompt; they may have some already.
        budget: for all prompts together where it is about time.
        began: when the trace began, by `time.perf_counter`.
        progress: called now and then with how far it is.

    Returns:
        Whether it was interrupted from the keyboard; what is done by then is kept.

    Raises:
        BadInput: the time does not suffice for the outcomes' rows.
    """
    fresh = [each for each in rows if not each.done]
    for _ in _sweeps(fresh, [each.next(0) for each in fresh]):
        pass
    spent = time.perf_counter() - began
    if budget.seconds is not None and fresh and spent > budget.seconds:
        raise BadInput(
            f"A budget of {budget.seconds:g} s is too small: the outcomes' rows alone took {spent:.2f} s; give more."
        )
    reported = 0.0

    def report() -> None:
        nonlocal reported
        if progress is not None:
            done, most = sum(len(each.done) for each in rows), sum(each.most for each in rows)
            progress(done, most, sum(each.unexplored() for each in rows) / max(1, len(rows)))
            reported = time.perf_counter()

    try:
        while left := [each for each in rows if len(each.done) < each.most]:
            counts = [len(each.local.targets) if budget.all else max(FIRST, len(each.done) // 2) for each in left]
            for _ in _sweeps(left, [each.next(count) for each, count in zip(left, counts, strict=True)]):
                if time.perf_counter() - reported > PAUSE:  # finding what is unexplored takes time itself
                    report()
                if budget.seconds is not None and time.perf_counter() - began > budget.seconds:
                    report()
                    return False
    except KeyboardInterrupt:
        return True
    report()
    return False


def _sweeps(rows: Sequence[Rows], wanted: Sequence[Tensor]) -> Iterator[None]:
    """Compute rows, the prompts' blocks side by side as far as they fit."""
    pieces = [
        divide(each.local.targets, targets.to(each.local.targets.stage.device), each.local.sources.columns, each.block)
        for each, targets in zip(rows, wanted, strict=True)
    ]
    for together in zip_longest(*pieces):
        left = [(each, targets) for each, targets in zip(rows, together, strict=True) if targets is not None]
        while left:
            sizes = torch.tensor([each.local.size(targets) for each, targets in left]).cumsum(0)
            fit = max(1, int((sizes <= left[0][0].block).sum()))
            edges = sweep([each.local.block(targets) for each, targets in left[:fit]])
            for (each, targets), found in zip(left[:fit], edges, strict=True):
                each.add(targets, found)
            left = left[fit:]
            yield


def _capacity(local: LocalModel, budget: Budget) -> tuple[int, int]:
    """How many numbers a block may hold, and how many rows fit; BadInput where the outcomes' rows do not."""
    columns, memory = (
        local.sources.columns,
        budget.bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2,
    )
    spare = max(0, memory - local.bytes)
    block = min(BLOCK, spare // (4 * 4 * WORKSPACE))
    fit = (spare - 4 * WORKSPACE * block) // (4 * columns)
    row = columns + local.targets.covector.shape[1]
    if fit < local.outcomes or block < row:
        least = local.bytes + max(6 * columns * local.outcomes, 4 * 4 * WORKSPACE * row)
        raise BadInput(
            f"A budget of {memory / 1e6:.3g} MB is too small for the {local.outcomes} outcomes' rows of this prompt; "
            f"give at least {math.ceil(least / 1e6)} MB."
        )
    if budget.all and fit < len(local.targets):
        raise BadInput(
            f"The whole graph has {len(local.targets):,} rows of {columns:,} edges, more than fit into half of this "
            "machine's memory; give a budget of rows, seconds or memory."
        )
    return block, fit
