"""Correlations and shares with honest intervals: what was drawn together is resampled together.

Pure functions on tensors: this module must not know graphs or models.
"""

from dataclasses import asdict, dataclass
from math import isfinite, nan
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEVEL = 0.95
RESAMPLES = 2000


@final
@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation of what was predicted with what was measured.

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

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them: what is not known is null."""
        return known(asdict(self))

    def __str__(self) -> str:
        return f"{self.r:.3f} [{self.low:.3f}, {self.high:.3f}]"


def known(value: Any) -> Any:
    """A nest of dictionaries and lists with null for every number that is not finite, as JSON wants it."""
    if isinstance(value, dict):
        return {name: known(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [known(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def correlation(
    predicted: Float[Tensor, " pair"], measured: Float[Tensor, " pair"], cluster: Int[Tensor, " pair"], seed: int = 0
) -> Correlation:
    """Correlate, with a percentile bootstrap over clusters (Cameron, Gelbach and Miller 2008, pairs cluster bootstrap).

    Pairs of one intervention move together, so whole interventions are drawn with replacement, never single pairs.

    Args:
        predicted: x.
        measured: y.
        cluster: number of the intervention, prompt, ... that each pair belongs to.
        seed: of the resampling.
    """
    sums, names = _sums(predicted, measured, cluster)
    r, slope = _pearson(sums.sum(0)[None])
    found = _pearson(_draws(names, seed) @ sums)[0]
    low, high = _interval(found[found.isfinite()]) if names > 1 else (nan, nan)
    return Correlation(float(r), low, high, float(slope), len(predicted), names)


def gap(
    first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor], clusters: int, seed: int = 0
) -> tuple[float, float, float]:
    """How much larger one correlation is than another, with a 95 % interval from the same resampled clusters.

    Args:
        first: predicted, measured and cluster of each pair; see `correlation`.
        second: the same of what it is held against.
        clusters: how many there are, numbered from 0; some may have no pairs.
        seed: of the resampling.
    """
    draws = _draws(clusters, seed)
    found, whole = [], []
    for x, y, cluster in (first, second):
        sums = torch.zeros(clusters, 6, dtype=torch.float64).index_add_(0, cluster, _moments(x, y))
        found.append(_pearson(draws @ sums)[0])
        whole.append(float(_pearson(sums.sum(0)[None])[0]))
    differences = found[0] - found[1]
    return whole[0] - whole[1], *_interval(differences[differences.isfinite()])


def mean_interval(values: Float[Tensor, " n"], seed: int = 0) -> tuple[float, float, float]:
    """Mean with its 95 % bootstrap interval; NaN where there is nothing."""
    if not len(values):
        return nan, nan, nan
    means = _draws(len(values), seed) @ values.double() / len(values)
    return float(values.double().mean()), *_interval(means)


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927)."""
    if not of:
        return nan, nan
    share, scale = hits / of, 1 + z**2 / of
    middle, half = share + z**2 / (2 * of), z * (share * (1 - share) / of + z**2 / (4 * of**2)) ** 0.5
    return (middle - half) / scale, (middle + half) / scale


def _interval(draws: Tensor) -> tuple[float, float]:
    if not len(draws):
        return nan, nan
    low, high = draws.quantile(draws.new_tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])).tolist()
    return low, high


def _sums(x: Tensor, y: Tensor, cluster: Tensor) -> tuple[Float[Tensor, "cluster 6"], int]:
    """Each cluster's count and moments; the whole's are their sums, so a resample costs one matrix product."""
    names, place = cluster.unique(return_inverse=True)
    return torch.zeros(len(names), 6, dtype=torch.float64).index_add_(0, place, _moments(x, y)), len(names)


def _moments(x: Tensor, y: Tensor) -> Float[Tensor, "pair 6"]:
    x, y = x.double(), y.double()
    return torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], 1)


def _pearson(sums: Float[Tensor, "k 6"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Correlation and slope; NaN where one side varies by rounding only."""
    n, x, y, xx, yy, xy = sums.unbind(1)
    spread = ((n * xx - x * x).clamp(min=0) * (n * yy - y * y).clamp(min=0)).sqrt()
    varies = spread > 1e-12 * n * n * (xx * yy).sqrt()
    r = torch.where(varies, (n * xy - x * y) / spread, torch.nan)
    return r.clamp(-1, 1), torch.where(xx > 0, xy / xx, torch.nan)


def _draws(clusters: int, seed: int) -> Float[Tensor, "draw cluster"]:
    """How often each cluster is drawn in each resample."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(max(clusters, 1), (RESAMPLES, clusters), generator=generator)
    counts = torch.zeros(RESAMPLES, clusters, dtype=torch.float64)
    return counts.scatter_add_(1, chosen, torch.ones_like(counts))
