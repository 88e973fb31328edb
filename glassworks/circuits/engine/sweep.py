"""The sweep: every edge of a block of rows, by carrying covectors backwards through the frozen model.

A block starts at the top stage; each row joins at the stage that it reads, and at every stage the sources written
there are multiplied with the covectors that are under way. Explicit dense algebra: no autograd, no forward pass, no
position after a target's own. This module must not know which rows are worth computing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.engine.linear import FrozenModel, Skip, Targets, Writes, carry

BLOCK = 2**24  # numbers in a block of covectors (64 MiB of float32): bounds the memory of a sweep
CACHE = 2**20  # numbers that a processor's cache holds: blocks are no larger where they have rows enough
FEWEST = 64  # rows that are worth a sweep of their own; fewer are swept with those of nearby positions


@final
class Block:
    """Rows of one prompt on their way down.

    Args:
        model: the frozen model.
        sources: what is written, by stage.
        targets: the rows, the last stage first.
        columns: how many sources there are.
    """

    def __init__(self, model: FrozenModel, sources: Mapping[int, Writes], targets: Targets, columns: int) -> None:
        q, d = int(targets.position.max()) + 1, targets.covector.shape[1]
        self.model, self.sources, self.targets = model, sources, targets
        self.stages = targets.stage.tolist()
        self.edges = targets.covector.new_zeros(columns, len(targets))
        self._covectors = targets.covector.new_zeros(len(targets), q, d)
        self._joined, self._arriving = 0, dict[int, Tensor]()

    @property
    def under_way(self) -> Float[Tensor, "r q d_model"]:
        """The covectors of the rows that have joined."""
        return self._covectors[: self._joined]

    def pick_up(self, stage: int) -> None:
        """Add what skip paths have carried down to a stage."""
        arrived = self._arriving.pop(stage, None)
        if arrived is not None:
            self._covectors[: len(arrived)] += arrived

    def join(self, stage: int) -> None:
        """Let the rows join that read here, and score the sources that are written here."""
        new = slice(self._joined, self._joined + self.stages.count(stage))
        self._joined, rows = new.stop, self.targets[new]
        self._covectors[torch.arange(new.start, new.stop, device=rows.position.device), rows.position] = rows.covector
        if stage in self.sources and self._joined:
            self.sources[stage].score(self.under_way, self.edges)
        if stage % 2 and len(rows):
            self._enter(stage // 2, rows, self._covectors[new])

    def _enter(self, layer: int, rows: Targets, covectors: Tensor) -> None:
        """New rows have one position only, which goes through attention for a fraction of the cost."""
        attention = self.model.attentions[layer]
        z = 0 if layer in self.model.replaced else rows.covector @ attention.out.T
        z = z if rows.inside is None else rows.inside + z
        if isinstance(z, Tensor):
            attention.spread(z, rows.position, covectors)

    def branch(self, skip: Skip) -> None:
        """Send covectors down a skip path."""
        leaving, before = skip.backward(self.under_way), self._arriving.get(skip.read)
        if before is not None:
            leaving[: len(before)] += before
        self._arriving[skip.read] = leaving


def sweep(blocks: Sequence[Block]) -> list[Float[Tensor, "column r"]]:
    """Carry blocks of one model on one or several prompts from the top stage to the embeddings; gives their edges."""
    for stage in range(max(block.stages[0] for block in blocks), -1, -1):
        for block in blocks:
            block.pick_up(stage)
        under_way = [block for block in blocks if len(block.under_way)]
        if under_way and stage % 2 and stage // 2 not in under_way[0].model.replaced:
            layers = [block.model.attentions[stage // 2] for block in under_way]
            carry(layers, [block.under_way for block in under_way])
        for block in blocks:
            block.join(stage)
            for skip in block.model.skips:
                if skip.write == stage and len(block.under_way):
                    block.branch(skip)
    return [block.edges for block in blocks]


def divide(targets: Targets, rows: Int[Tensor, " t"], columns: int, block: int = BLOCK) -> Iterator[Int[Tensor, " r"]]:
    """Rows that one sweep serves: few enough for the memory, of one position or, where it has few, of nearby ones.

    Args:
        targets: all targets.
        rows: numbers of those to compute.
        columns: how many sources there are.
        block: how many numbers a block of covectors, or of edges, may hold.

    Yields:
        Numbers of targets, the last position first, and within a block the last stage first.
    """
    order = rows[targets.stage[rows].argsort(descending=True, stable=True)]
    order = order[targets.position[order].argsort(descending=True, stable=True)]
    positions, counts = targets.position[order].unique_consecutive(return_counts=True)
    group, last = [], 0
    for position, same in zip(positions.tolist(), order.split(counts.tolist()), strict=True):
        if group and (sum(map(len, group)) >= FEWEST or 4 * position < 3 * last):
            yield from _pieces(targets, torch.cat(group), last, columns, block)
            group = []
        last = last if group else position
        group.append(same)
    if group:
        yield from _pieces(targets, torch.cat(group), last, columns, block)


def _pieces(targets: Targets, rows: Tensor, last: int, columns: int, block: int) -> Iterator[Tensor]:
    row = (last + 1) * targets.covector.shape[1]
    most = max(1, min(block // max(row, columns), max(FEWEST, CACHE // row)))
    size = -(-len(rows) // -(-len(rows) // most))  # equal pieces
    return (each[targets.stage[each].argsort(descending=True, stable=True)] for each in rows.split(size))


def edges(
    model: FrozenModel, sources: Mapping[int, Writes], targets: Targets, columns: int, block: int = BLOCK
) -> Float[Tensor, "t column"]:
    """Every direct linear effect of a source on a target (design: attribution.md, section 3).

    Args:
        model: the frozen model.
        sources: what is written, by stage.
        targets: what is read.
        columns: how many sources there are.
        block: how many numbers a block of covectors may hold.

    Returns:
        `A[t, s]`, the part of target t's value that comes from source s, in the targets' order.
    """
    matrix = targets.covector.new_zeros(len(targets), columns)
    for rows in divide(targets, torch.arange(len(targets), device=matrix.device), columns, block):
        matrix[rows] = sweep([Block(model, sources, targets[rows], columns)])[0].T
    return matrix
