"""Streams: endless batches of rows whose order can be saved and taken up again exactly.

All sites of a batch hold the same tokens. A stream knows no coder and no objective.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.harvest.activations import Activations, Statistics


class Stream(ABC):
    """Gives batches without end.

    Attributes:
        batch: rows a batch.
        widths: site -> width of its rows.
    """

    batch: int
    widths: dict[str, int]

    @abstractmethod
    def draw(self) -> dict[str, Float[Tensor, "row d"]]:
        """The next batch: site -> rows in float32, the same tokens at every site."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that the next batches depend on; small unless there is no store to read again."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where a stream of the same making was when it gave this state."""

    @abstractmethod
    def statistics(self, site: str) -> Statistics:
        """Moments of a site, for scaling inputs."""


@final
class Rows(Stream):
    """Random rows, with replacement; rare tokens more often than they occur, if asked.

    In text made of templates a few tokens are most of the corpus, and coders trained on it as it is never
    explain the rest. A frequent word before an answer matters too, as what it holds differs with the answer. So a
    row is drawn with probability ~ count(token)^-flatten + count(token and the next one)^-flatten, each with mean 1.

    Args:
        source: what to draw from: a recording, or a store on a local disk.
        batch: rows a batch.
        flatten: 0 as they occur, 1 all tokens and pairs alike.
        seed: of the order.
        sites: which sites, or heads of sites; all if unset.
    """

    def __init__(
        self, source: Activations, batch: int, flatten: float, seed: int, sites: Sequence[str] | None = None
    ) -> None:
        self.source, self.batch = source, batch
        self.widths = {site: source.width(site) for site in sites or source.sites}
        self.sums = _sums(source, flatten) if flatten else None
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> dict[str, Tensor]:
        """Site -> rows."""
        points = torch.rand(self.batch, generator=self.generator, dtype=torch.float64)
        count = len(self.source.tokens)
        rows = points * count if self.sums is None else torch.searchsorted(self.sums, points * self.sums[-1])
        rows = rows.long().clamp_max(count - 1)
        return {site: self.source.take(site, rows) for site in self.widths}

    def state(self) -> dict[str, Tensor]:
        """Its random generator."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the generator up again."""
        self.generator.set_state(state["generator"])

    def statistics(self, site: str) -> Statistics:
        """Moments over all rows, each counted once."""
        return self.source.statistics(site)


def _sums(source: Activations, flatten: float) -> Tensor:
    weights = frequency_weights(source.tokens, flatten) + frequency_weights(pairs(source), flatten)
    return weights.double().cumsum(0)


def pairs(source: Activations) -> Int[Tensor, " row"]:
    """Number the pairs of each row's token and the next one of its document (or none)."""
    following = source.following.long() + 1
    return (source.tokens.long() * (int(following.max()) + 1) + following).unique(return_inverse=True)[1]


def frequency_weights(tokens: Int[Tensor, " row"], flatten: float) -> Float[Tensor, " row"]:
    """Weights ~ count(token)^-flatten of rows, with mean 1.

    Args:
        tokens: the token of each row.
        flatten: 0 gives all rows 1; 1 gives all tokens the same sum.
    """
    counts = torch.bincount(tokens)[tokens].float()
    weights = counts.pow(-flatten)
    return weights / weights.mean()
