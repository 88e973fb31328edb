"""Estimates: known coverage, sums against a slow twin, clusters, edge cases."""

from math import isnan, nan

import pytest
import torch

from glassworks import stats


def test_mean_covers_the_truth():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(200):
        estimate = stats.mean(torch.randn(60, generator=generator) + 3, seed=seed)
        hits += estimate.low <= 3 <= estimate.high
    assert 180 <= hits <= 198


def test_clusters_widen_the_interval():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(20, generator=generator).repeat_interleave(50)
    cluster = torch.arange(20).repeat_interleave(50)
    alone, together = stats.mean(values), stats.mean(values, cluster)
    assert alone.value == pytest.approx(together.value)
    assert together.high - together.low > 5 * (alone.high - alone.low)
    assert (alone.clusters, together.clusters) == (1000, 20)


def test_weighted_mean_is_a_ratio_of_sums():
    values, weight = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 0.0])
    assert stats.mean(values, weight=weight).value == pytest.approx(7 / 4)


def test_resampled_in_blocks_is_the_same(monkeypatch):
    sums = torch.rand(37, 3, generator=torch.Generator().manual_seed(0))
    whole = stats.resampled(sums)
    assert len(whole) == 1 + stats.DRAWS
    assert torch.allclose(whole[0], sums.double().sum(0), rtol=0, atol=1e-12)
    monkeypatch.setattr(stats, "BLOCK", 37 * 7)
    assert torch.allclose(stats.resampled(sums), whole, rtol=0, atol=1e-12)


def test_paired_differences_are_narrower():
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(100, generator=generator)
    b = a + 0.1 + 0.01 * torch.randn(100, generator=generator)
    paired = stats.mean(b - a)
    assert 0.09 < paired.low < paired.value < paired.high < 0.11


def test_correlation_against_torch():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, generator=generator, dtype=torch.float64)
    y = 2 * x + torch.randn(200, generator=generator, dtype=torch.float64)
    result = stats.correlation(x, y, torch.arange(200) // 4)
    assert result.r == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
    assert result.slope == pytest.approx(float(x @ y / (x @ x)))
    assert result.low < result.r < result.high
    assert (result.pairs, result.clusters) == (200, 50)
    assert isnan(stats.correlation(torch.ones(5), torch.rand(5), torch.arange(5)).r)


def test_difference_of_correlations_from_the_same_draws():
    generator = torch.Generator().manual_seed(4)
    x, noise = torch.randn(2, 300, generator=generator)
    cluster = torch.arange(300) // 3
    pairs = [stats.by_cluster(stats.moments(x, y), cluster, 100) for y in (x + noise, x + 3 * noise)]
    gap = stats.bootstrap(torch.cat(pairs, 1), lambda s: stats.pearson(s[:, :6])[0] - stats.pearson(s[:, 6:])[0])
    assert 0 < gap.low < gap.value < gap.high


def test_wilson_and_permutation():
    assert stats.wilson(0, 10).ends == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert stats.wilson(10, 10).ends == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert isnan(stats.wilson(0, 0).value)
    assert stats.permutation_p(3.0, [1.0, 2.0, 3.0]) == 0.5
    assert stats.permutation_p(4.0, [1.0] * 19) == 0.05


def test_too_little_to_resample():
    assert str(stats.mean(torch.tensor([2.0]))) == "2"
    assert isnan(stats.mean(torch.tensor([])).value)
    assert isnan(stats.interval(torch.tensor([1.0, nan, nan]), 5).low)
