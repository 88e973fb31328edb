"""Sums against the matrices that they summarise."""

import pytest
import torch

from glassworks.errors import BadInput
from glassworks.transfer.maps import RIDGES, Moments, Spectrum, Sums, similarity


def rows(count: int = 400, d_x: int = 7, d_y: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, d_x, dtype=torch.float64) * torch.arange(1, d_x + 1) + 100
    return x, x @ torch.randn(d_x, d_y, dtype=torch.float64) + 3 * torch.randn(count, d_y, dtype=torch.float64) - 50


def same(one: Moments, other: Moments) -> None:
    for name, value in vars(one).items():
        torch.testing.assert_close(value, getattr(other, name), rtol=1e-7, atol=1e-6, msg=name)


def test_other_centres_are_those_of_shifted_rows():
    x, y = rows()
    p, q = torch.randn(7).double() + 100, torch.randn(5).double() - 50
    same(Moments.of(x, y).about(p, q), Moments.of(x - p, y - q))
    same(Moments.of(x, y).swapped.about(q, p), Moments.of(y - q, x - p))


def test_batches_and_machines_add_up_to_one_pass():
    x, y = rows()
    whole, first, second = (Sums([("s", "t")]) for _ in range(3))
    whole.add({"s": x}, {"t": y})
    for part in x.split(90), y.split(90):
        assert len(part) == 5
    for number, (part_x, part_y) in enumerate(zip(x.split(90), y.split(90), strict=True)):
        (first if number < 2 else second).add({"s": part_x}, {"t": part_y})
    first.merge(second)
    assert first.rows == whole.rows == 400
    shift = [whole.centres[name] - first.centres[name] for name in ("a/s", "b/t")]
    same(first.couple("s", "t").about(*shift), whole.couple("s", "t"))
    with pytest.raises(BadInput, match="different couples"):
        first.merge(Sums([("s", "u")]))


def test_a_streamed_map_is_the_one_of_dense_least_squares():
    x, y = rows(3000)
    fit, held = Sums([("s", "t")]), Sums([("s", "t")])
    for part_x, part_y in zip(x[:2400].split(500), y[:2400].split(500), strict=True):
        fit.add({"s": part_x}, {"t": part_y})
    held.centres |= fit.centres
    held.add({"s": x[2400:]}, {"t": y[2400:]})
    spectrum = Spectrum(fit.site("a", "s"), held.site("a", "s"))
    both = fit.couple("s", "t"), held.couple("s", "t")
    found = spectrum.fit(*both, "a/s", "b/t")
    ones = torch.ones(2400, 1, dtype=torch.float64)
    exact = torch.linalg.lstsq(torch.cat([x[:2400], ones], 1), y[:2400]).solution
    plain = spectrum.weight(both[0], RIDGES[0])
    torch.testing.assert_close(plain, exact[:-1], rtol=1e-5, atol=1e-6)
    guess = (x[2400:] - fit.centres["a/s"]) @ found.weight + found.bias + fit.centres["b/t"]
    truth = y[2400:]
    r2 = 1 - (truth - guess).square().sum() / (truth - truth.mean(0)).square().sum()
    assert found.r2 == pytest.approx(float(r2), abs=1e-9)


def test_ridge_is_that_of_the_normal_equations():
    x, y = rows()
    both, alone = Moments.of(x, y), Moments.of(x, x)
    spectrum = Spectrum(alone, alone)
    off_x, off_y = x - x.mean(0), y - y.mean(0)
    gram = off_x.T @ off_x
    for ridge in (1e-3, 0.1, 10.0):
        solved = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * torch.eye(7).double(), off_x.T @ off_y)
        torch.testing.assert_close(spectrum.weight(both, ridge), solved)


def dense_hsic(k: torch.Tensor, other: torch.Tensor) -> float:
    """Song et al. 2012, equation 5, as it is written."""
    n = len(k)
    k, other = k - k.diag().diag(), other - other.diag().diag()
    ones = torch.ones(n, dtype=k.dtype)
    mixed = ones @ k @ ones * (ones @ other @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones @ k @ other @ ones)
    return float(((k @ other).trace() + mixed) / (n * (n - 3)))


def test_similarity_is_debiased_cka():
    x, y = rows(60)
    k, other = x @ x.T, y @ y.T
    expected = dense_hsic(k, other) / (dense_hsic(k, k) * dense_hsic(other, other)) ** 0.5
    assert similarity(Moments.of(x, x), Moments.of(y, y), Moments.of(x, y)) == pytest.approx(expected, rel=1e-8)


def test_similarity_of_unrelated_rows_is_nothing_and_of_rotated_ones_one():
    x, y = torch.randn(500, 64).double(), torch.randn(500, 64).double()
    turned = 3 * x @ torch.linalg.qr(torch.randn(64, 64).double())[0] + 1
    assert abs(similarity(Moments.of(x, x), Moments.of(y, y), Moments.of(x, y))) < 0.02
    assert similarity(Moments.of(x, x), Moments.of(turned, turned), Moments.of(x, turned)) == pytest.approx(1)
