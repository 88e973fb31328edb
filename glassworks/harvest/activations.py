"""Activations: a table with one row a token and one column a site, wherever it lies.

A recording holds it in memory, a store on disk or in a bucket; what trains and measures sees only this. It must not
know models.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from glassworks.errors import BadInput, NotFound, nearest

HEAD = re.compile(r"(.+)\[(\d+)\]")


@final
@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of the activations at one site.

    Attributes:
        rows: how many were seen.
        mean: of each component.
        square: mean squared norm, E||x||^2.
    """

    rows: int
    mean: Float[Tensor, " d"]
    square: float

    @property
    def variance(self) -> float:
        """Mean squared distance from the mean, E||x - E x||^2."""
        return self.square - float(self.mean.double().square().sum())


class Activations(ABC):
    """A table of activations; a row is a token that a model saw.

    A site of attention heads can be read whole, `attn_heads.3`, or one head, `attn_heads.3[5]`.

    Attributes:
        tokens: the token ids.
        documents: which document each token comes from.
        positions: its place in what the model saw at once; the first token has 0.
        heads: site -> how many heads lie side by side there, where there are any.
    """

    tokens: Int[Tensor, " row"]
    documents: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]
    heads: Mapping[str, int]

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Site -> width of its activations, in the order of recording."""

    @property
    @abstractmethod
    def following(self) -> Int[Tensor, " row"]:
        """The token after each token in its document, -1 where it is the last."""

    @abstractmethod
    def statistics(self, site: str) -> Statistics:
        """Moments of a site or of one head, over all rows."""

    @abstractmethod
    def _whole(self, site: str, rows: slice | Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
        """Rows of a site that exists, in float32."""

    @property
    def sites(self) -> list[str]:
        """What was recorded."""
        return [*self.widths]

    def take(self, site: str, rows: Int[Tensor, " some"]) -> Float[Tensor, "some d"]:
        """Rows by number, in any order.

        Raises:
            NotFound: no such site, or no such head, was recorded.
            BadInput: there is no such row.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.tokens):
            raise BadInput(f"There is no row {int(rows.max())}; there are rows 0 to {len(self.tokens) - 1}.")
        return self._found(site, rows)

    def read(self, site: str, rows: slice = slice(None)) -> Float[Tensor, "some d"]:
        """Neighbouring rows.

        Raises:
            NotFound: no such site, or no such head, was recorded.
            BadInput: the slice has steps.
        """
        start, stop, step = rows.indices(len(self.tokens))
        if step != 1:
            raise BadInput(f"Rows are read without gaps, and the slice has a step of {step}; use `take` for others.")
        return self._found(site, slice(start, max(start, stop)))

    def each_head(self, site: str) -> list[str]:
        """Names of a site's heads one by one, or the site alone where it has none."""
        return [f"{site}[{head}]" for head in range(self.heads.get(site, 0))] or [site]

    def width(self, site: str) -> int:
        """How wide a site, or one head of it, is."""
        whole, head = split_head(site)
        self._check(site)
        return self.widths[whole] if head is None else self.widths[whole] // self.heads[whole]

    def _found(self, site: str, rows: slice | Tensor) -> Tensor:
        self._check(site)
        whole, head = split_head(site)
        values = self._whole(whole, rows)
        return values if head is None else values.unflatten(1, (self.heads[whole], -1))[:, head]

    def _check(self, site: str) -> None:
        whole, head = split_head(site)
        if whole not in self.widths:
            raise NotFound(f"Nothing was recorded at {whole!r}; {nearest(whole, self.widths, most=20)}.")
        if head is not None and head >= self.heads.get(whole, 0):
            raise NotFound(f"There is no head {head} at {whole}; it has {self.heads.get(whole, 'no')} heads.")


def split_head(site: str) -> tuple[str, int | None]:
    """`attn_heads.3[5]` -> the site and the head; without brackets no head."""
    match = HEAD.fullmatch(site)
    return (match[1], int(match[2])) if match else (site, None)


def moments(values: Float[Tensor, "row d"]) -> Statistics:
    """Measure rows in float64."""
    exact = values.double()
    return Statistics(len(values), exact.mean(0), float(exact.square().sum(1).mean()))
