"""Statistics: all that maps and similarities between two models need, gathered in one pass over a text.

Sums about fixed centres in float64: they add up batch by batch and machine by machine, and their size does not depend
on the text. This module must not know models, nor what is made of the sums.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.errors import BadInput, NotFound, nearest

Couple = tuple[str, str]
"""A site of A and a site of B."""


@final
@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows x of one site and y of another (or the same), each about a fixed centre.

    Attributes:
        rows: how many, as a tensor, so that it is saved with the others.
        sum_x: of x.
        sum_y: of y.
        products: of x y^T.
        square_x: of |x|^2.
        square_y: of |y|^2.
        third_x: of |y|^2 x.
        third_y: of |x|^2 y.
        fourth: of |x|^2 |y|^2, which takes the bias out of a similarity.
    """

    rows: Float[Tensor, ""]
    sum_x: Float[Tensor, " d_x"]
    sum_y: Float[Tensor, " d_y"]
    products: Float[Tensor, "d_x d_y"]
    square_x: Float[Tensor, ""]
    square_y: Float[Tensor, ""]
    third_x: Float[Tensor, " d_x"]
    third_y: Float[Tensor, " d_y"]
    fourth: Float[Tensor, ""]

    @classmethod
    def of(cls, x: Float[Tensor, "row d_x"], y: Float[Tensor, "row d_y"]) -> "Moments":
        """Sum over rows, in float64."""
        x, y = x.double(), y.double()
        u, v = x.square().sum(1), y.square().sum(1)
        rows = torch.tensor(float(len(x)), dtype=torch.float64, device=x.device)
        return cls(rows, x.sum(0), y.sum(0), x.T @ y, u.sum(), v.sum(), v @ x, u @ y, u @ v)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def add_(self, other: "Moments") -> None:
        """Add in place."""
        for name, value in vars(self).items():
            value += getattr(other, name)

    def to(self, device: torch.device | str) -> "Moments":
        """The same on a device."""
        return Moments(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def swapped(self) -> "Moments":
        """The same with x and y in each other's place."""
        return Moments(
            self.rows,
            self.sum_y,
            self.sum_x,
            self.products.T,
            self.square_y,
            self.square_x,
            self.third_y,
            self.third_x,
            self.fourth,
        )

    def about(self, p: Float[Tensor, " d_x"], q: Float[Tensor, " d_y"]) -> "Moments":
        """The sums about other centres: those of `x - p` and `y - q`."""
        n, s, t, c = self.rows, self.sum_x, self.sum_y, self.products
        pp, qq, ps, qt, cq, cp = p @ p, q @ q, p @ s, q @ t, c @ q, c.T @ p
        square_x, square_y = self.square_x - 2 * ps + n * pp, self.square_y - 2 * qt + n * qq
        inner = self.fourth - 2 * (q @ self.third_y) + qq * self.square_x - 2 * (p @ self.third_x) + 4 * (p @ cq)
        return Moments(
            n.clone(),
            s - n * p,
            t - n * q,
            c - p[:, None] * t - s[:, None] * q + n * p[:, None] * q,
            square_x,
            square_y,
            self.third_x - 2 * cq + qq * s - square_y * p,
            self.third_y - 2 * cp + pp * t - square_x * q,
            inner - 2 * qq * ps + pp * self.square_y - 2 * pp * qt + n * pp * qq,
        )

    @property
    def means(self) -> tuple[Float[Tensor, " d_x"], Float[Tensor, " d_y"]]:
        """Means of x and of y, from their centres."""
        return self.sum_x / self.rows, self.sum_y / self.rows

    @property
    def centred(self) -> "Moments":
        """The sums about the means."""
        return self.about(*self.means)


@final
class Sums:
    """Moments of every site of two models with itself, and of couples of their sites.

    Args:
        couples: which sites of A are summed with which of B.

    Attributes:
        couples: the same.
        centres: `a/SITE` and `b/SITE` -> what is subtracted there: the mean of the first batch.
        moments: `a/SITE`, `b/SITE` and `SITE SITE` -> sums.
    """

    def __init__(self, couples: Iterable[Couple]) -> None:
        self.couples = tuple(couples)
        self.centres: dict[str, Tensor] = {}
        self.moments: dict[str, Moments] = {}

    @property
    def rows(self) -> int:
        """How many rows were summed."""
        return int(next(iter(self.moments.values())).rows) if self.moments else 0

    @torch.no_grad()
    def add(self, a: Mapping[str, Float[Tensor, "row d_a"]], b: Mapping[str, Float[Tensor, "row d_b"]]) -> None:
        """Take in rows that belong together.

        Args:
            a: states of A by site.
            b: states of B by site, of the same tokens.
        """
        found = {f"a/{site}": value for site, value in a.items()} | {f"b/{site}": value for site, value in b.items()}
        if not found or not len(next(iter(found.values()))):
            return
        here = next(iter(found.values())).device
        rows = {name: self._off(name, value.to(here, torch.float64)) for name, value in found.items()}
        for name, value in rows.items():
            self._sum(name, Moments.of(value, value))
        for site_a, site_b in self.couples:
            self._sum(f"{site_a} {site_b}", Moments.of(rows[f"a/{site_a}"], rows[f"b/{site_b}"]))

    def merge(self, other: "Sums") -> None:
        """Take in what was summed elsewhere, over other rows, of the same couples."""
        if other.couples != self.couples:
            raise BadInput("Sums of different couples of sites cannot be merged; gather both for the same sites.")
        for name, centre in other.centres.items():
            self.centres.setdefault(name, centre)
        for name, each in other.moments.items():
            ends = [name, name] if name.startswith(("a/", "b/")) else _ends(name)
            p, q = (self.centres[end] - other.centres[end] for end in ends)
            self._sum(name, each.about(p, q))

    def site(self, side: str, site: str) -> Moments:
        """Sums of one site with itself, about its centre; NotFound where none were gathered."""
        return self._of(f"{side}/{site}")

    def couple(self, site_a: str, site_b: str) -> Moments:
        """Sums of a site of A with one of B, about their centres; NotFound where none were gathered."""
        return self._of(f"{site_a} {site_b}")

    def _of(self, name: str) -> Moments:
        if name not in self.moments:
            raise NotFound(
                f"No statistics were gathered of {name.replace(' ', ' with ')}; {nearest(name, self.moments, most=10)}."
            )
        return self.moments[name]

    def _off(self, name: str, value: Tensor) -> Tensor:
        return value - self.centres.setdefault(name, value.mean(0)).to(value.device)

    def _sum(self, name: str, found: Moments) -> None:
        if name in self.moments:
            self.moments[name].add_(found)
        else:
            self.moments[name] = found


def _ends(name: str) -> list[str]:
    site_a, site_b = name.split(" ")
    return [f"a/{site_a}", f"b/{site_b}"]
