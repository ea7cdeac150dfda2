"""Bootstrap over people: what a resample is, that intervals cover, and that pairing sees what separate means do not."""

import numpy as np
import pytest
import torch

from stages.metrics.bootstrap import difference, draw, interval, mean_interval, resampled_means
from stages.metrics.kid import mmd2_cubic, resampled_kid


def names(count: int) -> list[str]:
    return [f"{index:03d}" for index in range(count)]


def test_a_resample_draws_people_with_all_their_pictures() -> None:
    draws = draw(["b", "a", "b", "c"], resamples=200, seed=3)
    assert draws.shape == (200, 4) and (draws[:, 0] == draws[:, 2]).all() and (draws[:, [0, 1, 3]].sum(1) == 3).all()
    assert (draws[:, 1] != draws[:, 0]).any() and np.array_equal(draws, draw(["b", "a", "b", "c"], 200, 3))
    assert not np.array_equal(draws, draw(["b", "a", "b", "c"], 200, 4))
    with pytest.raises(ValueError, match="at least one person"):
        draw([])


def test_means_of_resamples_by_hand() -> None:
    values = np.array([1.0, 5.0, np.nan])
    means = resampled_means(values, np.array([[1, 1, 1], [2, 0, 1], [0, 0, 3], [1, 2, 0]]))
    assert means[[0, 1, 3]].tolist() == [3.0, 1.0, 11 / 3] and np.isnan(means[2])
    found = mean_interval(values, draw(names(3)))
    assert (found.value, found.low, found.high) == (3.0, 1.0, 5.0)
    empty = mean_interval(np.full(3, np.nan), draw(names(3)))
    assert np.isnan([empty.value, empty.low, empty.high]).all()
    bounds = interval(7.0, np.array([*range(101), np.nan]), level=0.9)
    assert (bounds.value, bounds.low, bounds.high) == pytest.approx((7.0, 5.0, 95.0))


def test_intervals_of_means_cover() -> None:
    source, draws = np.random.default_rng(0), draw(names(40), resamples=300)
    found = [mean_interval(source.exponential(2.0, 40), draws) for _ in range(200)]
    covered = np.mean([one.low <= 2.0 <= one.high for one in found])
    assert 0.86 <= covered <= 0.98  # skewed and small: a little under the nominal 0.95


def test_pairing_sees_a_small_difference_between_uneven_people() -> None:
    source, draws = np.random.default_rng(1), draw(names(50))
    first = source.normal(0, 1, 50)
    second = first + 0.05 + source.normal(0, 0.02, 50)
    paired = difference(first, second, draws)
    assert 0 < paired.low < 0.05 < paired.high < 0.1 and paired.value == pytest.approx(np.mean(second - first))
    assert mean_interval(first, draws).high > mean_interval(second, draws).low  # apart they overlap
    second[0] = np.nan
    assert difference(first, second, draws).value == pytest.approx(np.mean((second - first)[1:]))
    with pytest.raises(ValueError, match="not paired"):
        difference(first, second[1:], draws)


def features(count: int, shift: float, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (count, 6)))


def test_resampled_kid_counts_no_picture_with_itself() -> None:
    real, fake = features(9, 0, 0), features(5, 0.5, 1)
    once, twice = np.ones((1, 5), int), np.array([[2, 0, 1, 1, 1]])
    assert resampled_kid(real, fake, once)[0] == pytest.approx(mmd2_cubic(real, fake), abs=1e-12)
    rows = [0, 0, 2, 3, 4]

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 6 + 1) ** 3)

    pairs = [kernel(fake[a], fake[b]) for a in rows for b in rows if a != b]
    within = [kernel(real[a], real[b]) for a in range(9) for b in range(9) if a != b]
    across = [kernel(fake[a], real[b]) for a in rows for b in range(9)]
    expected = np.mean(within) + np.mean(pairs) - 2 * np.mean(across)
    assert resampled_kid(real, fake, twice)[0] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(resampled_kid(real, fake, np.array([[5, 0, 0, 0, 0]]))[0])


def test_intervals_of_kid_cover_and_are_not_shifted() -> None:
    real = features(200, 0, 7)
    truth = mmd2_cubic(real, features(4000, 0.4, 8))
    draws = draw(names(50), resamples=300)
    covered, shift = [], []
    for seed in range(60):
        fake = features(50, 0.4, 100 + seed)
        replicates = resampled_kid(real, fake, draws)
        bounds = interval(mmd2_cubic(real, fake), replicates)
        covered.append(bounds.low <= truth <= bounds.high)
        shift.append((replicates.mean() - bounds.value) / replicates.std())
    assert np.mean(covered) >= 0.83 and abs(np.mean(shift)) < 0.1
