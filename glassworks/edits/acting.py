"""Acting: an edit's parts as taps, which find their tokens in every forward and change the coordinates there.

What a tap knows of the text comes from the model's `Run`, so that a token that comes alone after a key-value cache is
treated as it would be within its text. This module must not know how an edit is written down.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.coders import Coder
from glassworks.edits.parts import Part, reader
from glassworks.edits.where import Gate, Where, named_positions, position_in
from glassworks.errors import BadInput
from glassworks.models import Model, Run, Tap
from glassworks.sites import Site

Clean = Mapping[Site, Tensor] | None
Index = Int[Tensor, " token"]
Change = Callable[[Float[Tensor, "token k"], Index, Index], Float[Tensor, "token k"]]
"""Gives new - old of coordinates, from old ones and each token's row and position."""


def wide(value: Tensor) -> Tensor:
    """The same numbers in float32 or wider, one axis after (row, token)."""
    return value.to(torch.promote_types(value.dtype, torch.float32)).flatten(2)


def current(model: Model) -> Run:
    """The forward that now runs."""
    assert model.taps.run is not None
    return model.taps.run


@final
class Door:
    """Whether a gate is open: watches its feature."""

    def __init__(self, gate: Gate, coder: Coder, model: Model, clean: Clean) -> None:
        self.site, self._gate, self._model, self._clean = coder.reads[0], gate, model, clean
        self._read = reader(coder, torch.tensor([gate.feature.index]))
        self._run: Run | None = None
        self._start = 0  # the first token that was watched
        self._active = torch.empty(0)

    def watch(self, value: Tensor) -> None:
        """See where the feature is active; after a key-value cache, beside the tokens that it holds."""
        x = wide(value if self._clean is None else self._clean[self.site])
        active = self._read(x.flatten(0, 1)).reshape(x.shape[:2]) > self._gate.above
        before, run = self._run, current(self._model)
        if before is not None and run.cached and before.end == run.cached and before.lengths is run.lengths:
            self._active = torch.cat([self._active, active], dim=1)
        else:
            self._start, self._active = run.cached, active
        self._run = run

    def open(self, site: Site, start: int, tokens: int) -> Bool[Tensor, "row #token"]:
        """At which of the tokens from a position on it is open; BadInput where that is not known."""
        run = current(self._model)
        if self._run is not run:
            raise BadInput(f"The gate {self._gate.feature} is read at {self.site}, which comes after {site}.")
        position = self._gate.feature.position
        places = [start] if position is None else [position_in(position, length) for length in run.lengths]
        if min(places) < self._start:
            gate = self._gate.feature
            raise BadInput(f"The gate {gate} did not see the tokens of the cache; run them within the same block.")
        if position is None:
            return self._active[:, start - self._start :][:, :tokens]
        return self._active[torch.arange(len(places)), [place - self._start for place in places]][:, None]


@final
class Places:
    """The tokens where an edit acts, forward by forward; only those of the prompt where it does not go beyond."""

    def __init__(self, where: Where, model: Model, door: Door | None, beyond: bool = True) -> None:
        self.model, self.door, self._where = model, door, where
        inner = where.where if isinstance(where, Gate) else where
        self._beyond = beyond and inner in ("all", "generated")
        self._known: tuple[object, object] = (None, None)
        self._named: list[list[int]] = []

    def named(self, run: Run) -> list[list[int]]:
        """The positions of each row's prompt that are meant, in the order in which they are named."""
        if self._known[0] is not run.ids or self._known[1] is not run.lengths or run.ids is None:
            self._known = (run.ids, run.lengths)
            spans = [None if run.ids is None else self._spans(run, row) for row in range(len(run.lengths))]
            self._named = [
                named_positions(self._where, length, shown) for length, shown in zip(run.lengths, spans, strict=True)
            ]
        return self._named

    def _spans(self, run: Run, row: int) -> list[tuple[int, int]] | None:
        named = isinstance(self._where, str | tuple)
        assert run.ids is not None
        return None if named else self.model.spans(run.ids[row, : run.lengths[row]].tolist())

    def tokens(self, site: Site, value: Tensor) -> tuple[Index, Index]:
        """The row and the token of each part of a site's value that is meant."""
        run, tokens = current(self.model), value.shape[1]
        start, lengths = run.start(value), run.lengths
        generated = start >= max(lengths)
        chosen = torch.full((len(lengths), tokens), generated and self._beyond)
        if not generated:
            for row, positions in enumerate(self.named(run)):
                chosen[row, [each - start for each in positions if start <= each < start + tokens]] = True
            if self._beyond:
                chosen |= torch.arange(start, start + tokens) >= torch.tensor(lengths)[:, None]
        if self.door is not None and bool(chosen.any()):
            chosen &= self.door.open(site, start, tokens).to(chosen.device)
        row, token = chosen.to(value.device).nonzero(as_tuple=True)
        return row, token


@final
class Act:
    """One part's changes in one forward: read first, then written at every write site."""

    def __init__(self, part: Part, places: Places, change: Change, clean: Clean) -> None:
        self._part, self._places, self._change, self._clean = part, places, change, clean
        self._now: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._site = part.site

    def read(self, value: Tensor) -> None:
        """Find the tokens, read the live (or clean) coordinates there, and keep what they change by."""
        run, part, self._now = current(self._places.model), self._part, None
        row, token = self._places.tokens(part.site, value)
        start, own = run.start(value), self._own(run, row)
        if own is not None:
            meant = (own == (token + start)[:, None]) | (own < 0)
            kept = meant.any(1)
            row, token, meant = row[kept], token[kept], meant[kept]
        if len(row):
            x = wide(value if self._clean is None else self._clean[part.site])[row, token]
            change = self._change(part.read(x), row, token + start)
            self._now = row, token, x, change if own is None else change * meant

    def writer(self, site: Site) -> Tap:
        """Write the change at a site, in float32 at least."""

        def write(value: Tensor) -> Tensor | None:
            if self._now is None:
                return None
            row, token, x, change = self._now
            kind = torch.promote_types(value.dtype, torch.float32)
            result = value.to(kind, copy=True).flatten(2)
            result[row, token] = self._part.written(site, result[row, token], change, x)
            return result.reshape(value.shape)

        return write

    def _own(self, run: Run, row: Index) -> Int[Tensor, "token k"] | None:
        """The position that each coordinate names, -1 for any, in each token's row; None where none names one."""
        names = self._part.positions
        if all(each is None for each in names):
            return None
        found = [[-1 if each is None else position_in(each, length) for each in names] for length in run.lengths]
        return torch.tensor(found, device=row.device)[row]


def in_turn(taps: Sequence[Tap]) -> Tap:
    """One tap that does what several do, each on what the one before left."""

    def tap(value: Tensor) -> Tensor:
        for each in taps:
            replacement = each(value)
            value = value if replacement is None else replacement
        return value

    return tap
