"""Tallies: float64 sums of numbers that every token has, by group, so that memory does not grow with the text.

Means, shares of sums and their bootstrap intervals all follow from the sums by document. This module must not know
what the numbers are.
"""

from collections.abc import Callable, Mapping
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.errors import BadInput

RESAMPLES = 200
LEVEL = 0.95
Groups = Mapping[str, Int[Tensor, " token"]]
"""Name of a grouping, `document`, -> the number of each token's group."""
Figure = Callable[[Tensor], Tensor]
"""A figure from sums of the columns on the last axis, whatever the axes before it are."""


@final
class Tally:
    """Sums of the columns of a table with one row a token.

    Args:
        columns: how many.
    """

    def __init__(self, columns: int) -> None:
        self.columns, self.total = columns, torch.zeros(columns, dtype=torch.float64)
        self._groups: dict[str, Tensor] = {}

    def add(self, rows: Float[Tensor, "token column"], groups: Groups) -> None:
        """Take in tokens.

        Args:
            rows: their numbers.
            groups: groupings of these tokens.
        """
        rows = rows.double().cpu()
        self.total += rows.sum(0)
        for name, numbers in groups.items():
            sums = grown(self.by(name), int(numbers.max()) + 1 if len(numbers) else 0)
            self._groups[name] = sums.index_add(0, numbers.cpu(), rows)

    def by(self, name: str) -> Float[Tensor, "group column"]:
        """The sums of each group of a grouping; no rows where it was never given."""
        return self._groups.get(name, torch.zeros(0, self.columns, dtype=torch.float64))

    def intervals(self, figures: Mapping[str, Figure], by: str = "document") -> dict[str, tuple[float, float]]:
        """The 95 % intervals of figures under resampling of documents (percentile bootstrap, Efron 1979).

        Args:
            figures: by name.
            by: the grouping whose groups are drawn anew, `RESAMPLES` times with the same seed.

        Returns:
            Their ends by name; nothing where there are fewer than two groups.
        """
        sums = self.by(by)
        sums = sums[(sums != 0).any(-1)]
        if len(sums) < 2:
            return {}
        generator = torch.Generator().manual_seed(0)
        drawn = torch.stack([_resampled(sums, generator) for _ in range(RESAMPLES)])
        ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
        found = {name: figure(drawn).quantile(ends).tolist() for name, figure in figures.items()}
        return {name: (low, high) for name, (low, high) in found.items()}


def grown(sums: Float[Tensor, "group column"], count: int) -> Float[Tensor, "more column"]:
    """The same sums with zeros for further groups, so that there are at least `count`."""
    return sums if len(sums) >= count else torch.cat([sums, sums.new_zeros(count - len(sums), sums.shape[1])])


def _resampled(sums: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(len(sums), (len(sums),), generator=generator)
    return torch.bincount(drawn, minlength=len(sums)).double() @ sums


def check_groups(groups: Groups, tokens: int) -> None:
    """Raise BadInput where a grouping does not have one number a token."""
    wrong = {name: len(numbers) for name, numbers in groups.items() if len(numbers) != tokens}
    if wrong:
        raise BadInput(f"Groups need one number for each of the {tokens} tokens; these have another count: {wrong}.")
