"""Maps: the best affine map from the states of one model to those of another, and how similar the two are.

Everything follows from sums over a text, which are gathered in one pass. They are sums about fixed centres in float64:
they add up batch by batch and machine by machine, and their size does not depend on the text. How strongly a map is
shrunk is chosen on text that it was not fitted to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.errors import BadInput, NotFound, nearest

RIDGES = tuple(10.0**power for power in range(-10, 3))
"""Ridges that are tried, in units of the mean variance of a component of the source."""
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

    def add_(self, other: "Moments") -> None:
        """Add in place."""
        for name, value in vars(self).items():
            value += getattr(other, name)

    @property
    def swapped(self) -> "Moments":
        """The same with x and y in each other's place."""
        x, y = (self.sum_x, self.square_x, self.third_x), (self.sum_y, self.square_y, self.third_y)
        return Moments(self.rows, y[0], x[0], self.products.T, y[1], x[1], y[2], x[2], self.fourth)

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
        states = {f"a/{site}": value for site, value in a.items()} | {f"b/{site}": value for site, value in b.items()}
        if not states or not len(next(iter(states.values()))):
            return
        here = next(iter(states.values())).device
        rows = {name: value.to(here, torch.float64) for name, value in states.items()}
        for name, value in rows.items():
            rows[name] = value - self.centres.setdefault(name, value.mean(0)).to(here)
            self._add(name, Moments.of(rows[name], rows[name]))
        for site_a, site_b in self.couples:
            self._add(f"{site_a} {site_b}", Moments.of(rows[f"a/{site_a}"], rows[f"b/{site_b}"]))

    def merge(self, other: "Sums") -> None:
        """Add what was summed elsewhere, over other rows, of the same couples."""
        if other.couples != self.couples:
            raise BadInput("Sums of different couples of sites cannot be merged; gather both for the same sites.")
        for name, centre in other.centres.items():
            self.centres.setdefault(name, centre)
        for name, moments in other.moments.items():
            site_a, _, site_b = name.partition(" ")
            ends = (f"a/{site_a}", f"b/{site_b}") if site_b else (name, name)
            self._add(name, moments.about(*(self.centres[end] - other.centres[end] for end in ends)))

    def site(self, side: str, site: str) -> Moments:
        """Sums of one site with itself, about its centre; NotFound where none were gathered."""
        return self._get(f"{side}/{site}")

    def couple(self, site_a: str, site_b: str) -> Moments:
        """Sums of a site of A with one of B, about their centres; NotFound where none were gathered."""
        return self._get(f"{site_a} {site_b}")

    def tensors(self) -> dict[str, Tensor]:
        """Everything as tensors by name, `centre|a/SITE` and `products|SITE SITE` for instance."""
        sums = {f"{key}|{name}": value for name, each in self.moments.items() for key, value in vars(each).items()}
        return {f"centre|{name}": centre for name, centre in self.centres.items()} | sums

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Sums":
        """The sums that `tensors` wrote."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            part, _, name = key.partition("|")
            parts.setdefault(name, {})[part] = value
        couples = [name.split(" ") for name in parts if " " in name]
        sums = cls((site_a, site_b) for site_a, site_b in couples)
        for name, fields in parts.items():
            if "centre" in fields:
                sums.centres[name] = fields.pop("centre")
            sums.moments[name] = Moments(**fields)
        return sums

    def _get(self, name: str) -> Moments:
        if name not in self.moments:
            raise NotFound(
                f"No statistics were gathered of {name.replace(' ', ' with ')}; {nearest(name, self.moments, most=10)}."
            )
        return self.moments[name]

    def _add(self, name: str, moments: Moments) -> None:
        if name in self.moments:
            self.moments[name].add_(moments)
        else:
            self.moments[name] = moments


@final
@dataclass(frozen=True, eq=False)
class Map:
    """An affine map from one site's states to another's: `x @ weight + bias`.

    Attributes:
        source: where it reads, `b/resid_post.3`.
        target: whose states it gives, `a/resid_post.2`.
        weight: one row a component of the source.
        bias: added.
        r2: share of the target's variance that it explains on held-out text; 1 is all of it.
        ridge: how strongly it was shrunk; see `RIDGES`.
    """

    source: str
    target: str
    weight: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"]
    r2: float
    ridge: float

    def __call__(self, x: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row d_out"]:
        """Map states."""
        return self.push(x) + self.bias.to(x)

    def push(self, vectors: Float[Tensor, "*k d_in"]) -> Float[Tensor, "*k d_out"]:
        """Map directions or changes of states, without the bias: what is written at the source, at the target."""
        self._check(vectors, 0)
        return vectors @ self.weight.to(vectors)

    def pull(self, readers: Float[Tensor, "*k d_out"]) -> Float[Tensor, "*k d_in"]:
        """Take directions that read the target to those that read the same from the source (up to a constant)."""
        self._check(readers, 1)
        return readers @ self.weight.to(readers).T

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Map":
        """The same on a device, in numbers of a type."""
        return replace(self, weight=self.weight.to(device, dtype), bias=self.bias.to(device, dtype))

    def _check(self, x: Tensor, end: int) -> None:
        if x.shape[-1] != self.weight.shape[end]:
            name = (self.source, self.target)[end]
            raise BadInput(f"{name} has width {self.weight.shape[end]}; what is to be mapped has {x.shape[-1]}.")


@final
class Spectrum:
    """One site as a source of maps: its covariance taken apart once, for every target and every ridge.

    Args:
        fit: its sums over the text that maps are fitted to, about any centre.
        held: its sums over held-out text, about the same centre.
    """

    def __init__(self, fit: Moments, held: Moments) -> None:
        self.rows, self.mean = fit.rows, fit.means[0]
        self.values, self.vectors = torch.linalg.eigh(fit.centred.products)
        self.values = self.values.clamp_min(0)
        self.held = self.vectors.T @ held.about(self.mean, self.mean).products @ self.vectors

    @property
    def unit(self) -> float:
        """Mean variance of a component, summed over the rows; what ridges are multiples of."""
        return float(self.values.mean()) or 1.0

    def residuals(self, fit: Moments, held: Moments) -> Float[Tensor, " ridge"]:
        """Share of the target's held-out variance that maps with each of `RIDGES` leave unexplained.

        With the covariance's eigenvectors as axes a ridge only divides, so all of them cost as much as one:
        the squared error |y - x W|^2 of held-out rows is tr(Y) - 2 tr(W^T C) + tr(W^T X W) in their sums X, C, Y.

        Args:
            fit: sums of source and target over the text that maps are fitted to.
            held: the same over held-out text, about the same centres.
        """
        off = held.about(self.mean, fit.means[1])
        crossed = self.vectors.T @ fit.centred.products
        linear = (crossed * (self.vectors.T @ off.products)).sum(1)
        square = (crossed @ crossed.T) * self.held
        shrunk = 1 / (self.values + self.unit * torch.tensor(RIDGES).to(self.values)[:, None])
        errors = off.square_y - 2 * shrunk @ linear + ((shrunk @ square) * shrunk).sum(1)
        return errors / held.centred.square_y

    def weight(self, fit: Moments, ridge: float) -> Float[Tensor, "d_x d_y"]:
        """The linear part of the map with a ridge."""
        shrunk = 1 / (self.values + self.unit * ridge)
        return self.vectors @ (shrunk[:, None] * (self.vectors.T @ fit.centred.products))

    def fit(self, fit: Moments, held: Moments, source: str, target: str) -> Map:
        """The ridge regression that does best on held-out text.

        Args:
            fit: sums of source (x) and target (y) over the text to fit, about any centres.
            held: the same over held-out text, about the same centres.
            source: name of the source.
            target: name of the target.

        Returns:
            A map about those centres: it takes `x - centre` to `y - centre`.
        """
        residuals = self.residuals(fit, held)
        best = int(residuals.argmin())
        weight = self.weight(fit, RIDGES[best])
        bias = fit.means[1] - fit.means[0] @ weight
        return Map(source, target, weight, bias, 1 - float(residuals[best]), RIDGES[best])


def similarity(x: Moments, y: Moments, both: Moments) -> float:
    """Debiased linear CKA: 1 where two sets of states are the same up to rotation and scale, 0 where unrelated.

    Kornblith et al. 2019 (arXiv 1905.00414) with the unbiased estimator of HSIC of Song et al. 2012, equation 5, in
    sums over rows: no matrix of rows by rows is formed.

    Args:
        x: sums of the first states with themselves.
        y: of the second.
        both: of the first with the second.
    """

    def hsic(sums: Moments) -> float:
        """Unbiased, of linear kernels without diagonals; about the means every row of a kernel sums to zero."""
        about, n = sums.centred, float(sums.rows)
        if n < 4:
            return 0.0
        off = about.products.square().sum() - about.fourth
        ones = about.square_x * about.square_y / ((n - 1) * (n - 2)) - 2 * about.fourth / (n - 2)
        return float(off + ones) / (n * (n - 3))

    spread = hsic(x) * hsic(y)
    return hsic(both) / sqrt(spread) if spread > 0 else 0.0
