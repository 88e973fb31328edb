"""Maps: the best affine map from the states of one model to those of another, and how alike the two are.

Everything follows from sums over a text; how strongly a map is shrunk is chosen on text that it was not fitted to.
This module must not know models, layers or files.
"""

from dataclasses import dataclass
from math import sqrt
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.transfer.statistics import Moments

RIDGES = tuple(10.0**power for power in range(-10, 3))
"""Ridges that are tried, in units of the mean variance of a component of the source."""


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
        weight, bias = self.weight.to(device, dtype), self.bias.to(device, dtype)
        return Map(self.source, self.target, weight, bias, self.r2, self.ridge)

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


def fitted(spectrum: Spectrum, fit: Moments, held: Moments, ends: tuple[str, str]) -> Map:
    """The ridge regression that does best on held-out text.

    Args:
        spectrum: the source.
        fit: sums of source (x) and target (y) over the text to fit, about any centres.
        held: the same over held-out text, about the same centres.
        ends: names of source and target.

    Returns:
        A map about those centres: it takes `x - centre` to `y - centre`.
    """
    residuals = spectrum.residuals(fit, held)
    best = int(residuals.argmin())
    weight = spectrum.weight(fit, RIDGES[best])
    bias = fit.means[1] - fit.means[0] @ weight
    return Map(*ends, weight, bias, 1 - float(residuals[best]), RIDGES[best])


def similarity(x: Moments, y: Moments, both: Moments) -> float:
    """Debiased linear CKA: 1 where two sets of states are the same up to rotation and scale, 0 where unrelated.

    Kornblith et al. 2019 (arXiv 1905.00414) with the unbiased estimator of HSIC of Song et al. 2012, equation 5, in
    sums over rows: no matrix of rows by rows is formed.

    Args:
        x: sums of the first states with themselves.
        y: of the second.
        both: of the first with the second.
    """
    spread = _dependence(x) * _dependence(y)
    return _dependence(both) / sqrt(spread) if spread > 0 else 0.0


def _dependence(sums: Moments) -> float:
    """Unbiased HSIC of linear kernels without their diagonals; about the means every row of a kernel sums to zero."""
    about, n = sums.centred, float(sums.rows)
    if n < 4:
        return 0.0
    off = about.products.square().sum() - about.fourth
    ones = about.square_x * about.square_y / ((n - 1) * (n - 2)) - 2 * about.fourth / (n - 2)
    return float(off + ones) / (n * (n - 3))
