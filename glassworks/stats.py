"""Statistics: estimates with intervals that resample what was drawn together, and the tests that go with them.

One bootstrap serves every figure. Clusters (documents, templates, interventions) are drawn with replacement and any
formula of their sums is evaluated in each draw; row 0 of every draw is the data as observed, so that a formula gives
its value and its interval at once. This module knows tensors only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEVEL = 0.95
DRAWS = 1000
BLOCK = 1 << 22
"""Cluster counts that are held at a time: 32 MiB in float64, whatever the number of clusters."""


@final
@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: as observed.
        low: lower end of the interval; NaN where there are fewer than two clusters.
        high: upper end.
        clusters: how many independent clusters were resampled.
    """

    value: float
    low: float = nan
    high: float = nan
    clusters: int = 1

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if isnan(self.low) else f" [{self.low:.4g}, {self.high:.4g}]")

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval."""
        return self.low, self.high


@final
@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation of predicted with measured values.

    Attributes:
        r: the correlation; NaN where one side does not vary.
        low: lower end of its 95 % interval.
        high: upper end.
        slope: of the measured on the predicted values, through the origin: 1 where sizes agree.
        pairs: how many pairs.
        clusters: how many independent groups of pairs (interventions, prompts) were resampled for the interval.
    """

    r: float
    low: float
    high: float
    slope: float
    pairs: int
    clusters: int

    def __str__(self) -> str:
        return f"{self.r:.3f} [{self.low:.3f}, {self.high:.3f}]"


def draws(clusters: int, seed: int = 0) -> Iterator[Float[Tensor, "draw cluster"]]:
    """How often each cluster occurs in each draw, in blocks; the first row is the data: each of them once."""
    yield torch.ones(1, clusters, dtype=torch.float64)
    generator, size = torch.Generator().manual_seed(seed), max(1, BLOCK // max(1, clusters))
    for start in range(0, DRAWS, size):
        chosen = torch.randint(max(1, clusters), (min(size, DRAWS - start), clusters), generator=generator)
        counts = torch.zeros(chosen.shape, dtype=torch.float64)
        yield counts.scatter_add_(1, chosen, torch.ones_like(counts))


def resampled(sums: Float[Tensor, "cluster *column"], seed: int = 0) -> Float[Tensor, "draw *column"]:
    """Sums over all clusters: as observed in row 0, then over clusters drawn with replacement.

    Args:
        sums: of each cluster.
        seed: of the draws; equal seeds and numbers of clusters give equal draws, so that differences are paired.
    """
    sums = sums.double()
    return torch.cat([torch.tensordot(block, sums, 1) for block in draws(len(sums), seed)])


def interval(drawn: Float[Tensor, " draw"], clusters: int) -> Estimate:
    """The estimate from a figure's draws: row 0 is its value, the others give the percentile interval (Efron 1979)."""
    finite = drawn[1:][drawn[1:].isfinite()]
    if clusters < 2 or not len(finite):
        return Estimate(float(drawn[0]), clusters=clusters)
    low, high = finite.quantile(finite.new_tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])).tolist()
    return Estimate(float(drawn[0]), low, high, clusters)


def bootstrap(
    sums: Float[Tensor, "cluster column"], figure: Callable[[Float[Tensor, "draw column"]], Tensor], seed: int = 0
) -> Estimate:
    """A figure that follows from sums over clusters, with its interval.

    Args:
        sums: of each cluster; those whose sums are all zero were not observed and are not resampled.
        figure: gives a number for each row of sums, `lambda s: s[:, 1] / s[:, 0]`.
        seed: of the draws.
    """
    observed = sums[(sums != 0).any(-1)] if len(sums) else sums
    return interval(figure(resampled(observed, seed)), len(observed))


def mean(
    values: Float[Tensor, " n"],
    cluster: Int[Tensor, " n"] | None = None,
    weight: Float[Tensor, " n"] | None = None,
    seed: int = 0,
) -> Estimate:
    """A weighted mean; NaN where there are no values. Of paired values, give their differences.

    Args:
        values: what is averaged.
        cluster: the number of the cluster of each value; by default each is one of its own.
        weight: of each value, by default 1.
        seed: of the draws.
    """
    if not len(values):
        return Estimate(nan, clusters=0)
    weight = torch.ones(len(values)) if weight is None else weight
    columns = torch.stack([weight.double(), values.double() * weight.double()], 1)
    return bootstrap(columns if cluster is None else by_cluster(columns, cluster), lambda s: s[:, 1] / s[:, 0], seed)


def by_cluster(
    columns: Float[Tensor, "n column"], cluster: Int[Tensor, " n"], clusters: int = 0
) -> Float[Tensor, "cluster column"]:
    """Sums of columns by cluster; with `clusters` for the numbers from 0, otherwise for those that occur."""
    if not clusters:
        names, cluster = cluster.unique(return_inverse=True)
        clusters = len(names)
    return torch.zeros(clusters, columns.shape[1], dtype=torch.float64).index_add_(0, cluster, columns.double())


def moments(x: Float[Tensor, " pair"], y: Float[Tensor, " pair"]) -> Float[Tensor, "pair 6"]:
    """The columns whose sums give a correlation and a slope: see `pearson`."""
    x, y = x.double(), y.double()
    return torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], 1)


def pearson(sums: Float[Tensor, "k 6"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Correlation, and slope through the origin, from sums of `moments`; NaN where one side varies by rounding only."""
    n, x, y, xx, yy, xy = sums.unbind(1)
    spread = ((n * xx - x * x).clamp(min=0) * (n * yy - y * y).clamp(min=0)).sqrt()
    varies = spread > 1e-12 * n * n * (xx * yy).sqrt()
    r = torch.where(varies, (n * xy - x * y) / spread, torch.nan)
    return r.clamp(-1, 1), torch.where(xx > 0, xy / xx, torch.nan)


def correlation(
    x: Float[Tensor, " pair"], y: Float[Tensor, " pair"], cluster: Int[Tensor, " pair"], seed: int = 0
) -> Correlation:
    """Correlate, with an interval over clusters (pairs cluster bootstrap, Cameron, Gelbach and Miller 2008).

    Pairs of one intervention move together, so whole interventions are drawn with replacement, never single pairs.

    Args:
        x: the predicted values.
        y: the measured values.
        cluster: number of the intervention, prompt, ... that each pair belongs to.
        seed: of the draws.
    """
    r, slope = pearson(resampled(by_cluster(moments(x, y), cluster), seed))
    estimate = interval(r, clusters := len(cluster.unique()))
    return Correlation(estimate.value, *estimate.ends, float(slope[0]), len(x), clusters)


def permutation_p(observed: float, null: Sequence[float]) -> float:
    """Share of the null draws, the observed value counted among them, that are as large (Phipson and Smyth 2010)."""
    return (1 + sum(value >= observed for value in null)) / (1 + len(null))


def wilson(hits: int, n: int, z: float = 1.959964) -> Estimate:
    """A share of yes-or-no cases with Wilson's 95 % interval (1927), which is honest at 0 and 1."""
    if not n:
        return Estimate(nan, clusters=0)
    share, scale = hits / n, 1 + z**2 / n
    middle, half = share + z**2 / (2 * n), z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return Estimate(share, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale), n)
