"""Live: activations straight from the model, through a bounded buffer in memory, with no store at all.

The corpus is read again and again. As there is nothing to read again, the state holds the buffered rows themselves.
"""

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.harvest.activations import Statistics, moments
from glassworks.harvest.contexts import Context, Contexts
from glassworks.harvest.record import BATCH_TOKENS, forward
from glassworks.harvest.ring import Columns, Ring
from glassworks.harvest.streams import Stream
from glassworks.sites import Site

BUFFER = 1 << 16


@final
class Live(Stream):
    """Batches of what a model computes on a corpus.

    Args:
        contexts: the corpus as the model sees it; iterated again at its end.
        sites: what to record.
        batch: rows a batch.
        seed: of the order.
        buffer: rows in memory that a batch is drawn from.
        tokens: tokens in one forward pass.
    """

    def __init__(
        self,
        contexts: Contexts,
        sites: Sequence[str | Site],
        batch: int,
        seed: int = 0,
        buffer: int = BUFFER,
        tokens: int = BATCH_TOKENS,
    ) -> None:
        self.contexts, self.batch, self.tokens = contexts, batch, tokens
        self.sites = [Site.parse(each) for each in sites]
        probe = contexts.model.capture([[0]], self.sites)
        self.widths = {site.name: probe[site.name].flatten(2).shape[2] for site in self.sites}
        self._seen = 0
        self._source = self._endless(0)
        self._ring = Ring(self._chunk, buffer, batch, seed)

    def draw(self) -> dict[str, Tensor]:
        """Site -> rows."""
        self._filled()
        return self._ring.draw()

    def state(self) -> dict[str, Tensor]:
        """Its random generator, its place in the corpus, and all rows in the buffer."""
        held = {f"buffer/{name}": rows.clone() for name, rows in self._ring.columns.items()}
        waiting = {f"waiting/{name}": rows.clone() for name, rows in self._ring.waiting.items()}
        return {"generator": self._ring.generator.get_state(), "seen": torch.tensor(self._seen), **held, **waiting}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on as saved; the corpus is read up to its place again, without running the model."""
        self._ring.generator.set_state(state["generator"])
        self._ring.columns, self._ring.waiting = (
            {name.removeprefix(part): rows.clone() for name, rows in state.items() if name.startswith(part)}
            for part in ("buffer/", "waiting/")
        )
        self._seen = int(state["seen"])
        self._source = self._endless(self._seen)

    def statistics(self, site: str) -> Statistics:
        """Moments over the rows in the buffer."""
        self._filled()
        return moments(self._ring.columns[site])

    def _filled(self) -> None:
        if not self._ring.columns:
            self._ring.fill()

    def _endless(self, skip: int) -> Iterator[Context]:
        while True:
            empty = True
            for context in self.contexts:
                if any(context.kept):
                    empty = False
                    if skip > 0:
                        skip -= 1
                    else:
                        yield context
            if empty:
                raise BadInput("The corpus has no token to record; check the text, and what is left out.")

    @torch.no_grad()
    def _chunk(self) -> Columns:
        """Rows of the next contexts, enough of them to fill a forward pass."""
        some: list[Context] = []
        while sum(len(each.tokens) for each in some) < self.tokens:
            some.append(next(self._source))
        self._seen += len(some)
        kept = [torch.tensor(each.kept) for each in some]
        parts: dict[str, list[Tensor]] = {name: [] for name in self.widths}
        for group, found in forward(self.contexts.model, [each.tokens for each in some], self.sites, self.tokens):
            real = torch.nn.utils.rnn.pad_sequence([kept[each] for each in group], batch_first=True)
            for name, value in found.items():
                parts[name].append(value[real.to(value.device)].float().cpu())
        return {name: torch.cat(each) for name, each in parts.items()}
