"""Bootstrap over people (Efron, 1979): how far a measure would move had other people been held out.

A resample draws as many people as there are, with replacement, and is written as how often each of their pictures
counts. Runs that hold out the same people are compared on the same resamples, so that what is hard about a person
counts in both and cancels in the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95  # of an interval: the middle share of the resamples


@dataclass(frozen=True)
class Interval:
    """A measure and the percentile interval around it; all NaN where there was nothing to measure."""

    value: float
    low: float
    high: float


def draw(people: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each picture counts in each resample: int64 [resamples, N].

    Args:
        people: whom each of N pictures shows. A person is drawn with all their pictures, for these are not independent.
        resamples: how many to draw.
        seed: of the draws.

    Raises:
        ValueError: nobody to draw from.
    """
    if not len(people):
        raise ValueError("a bootstrap needs at least one person")
    names, number = np.unique(np.asarray(people, str), return_inverse=True)
    chance = np.full(len(names), 1 / len(names))
    return np.random.default_rng(seed).multinomial(len(names), chance, size=resamples)[:, number]


def resampled_means(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mean of `values` [N] in each of `draws` [R, N]: float64 [R].

    Pictures whose value is NaN are left out; a resample that drew only such pictures is NaN.
    """
    known = np.isfinite(values)
    counted = draws[:, known]
    total = counted.sum(axis=1)
    return np.where(total > 0, counted @ values[known].astype(np.float64) / np.maximum(total, 1), np.nan)


def interval(value: float, replicates: np.ndarray, level: float = LEVEL) -> Interval:
    """The middle `level` of the measure's `replicates` [R] around its `value`; NaN replicates are left out."""
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def mean_interval(values: np.ndarray, draws: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of one score a picture [N] and its interval over people; NaN scores are left out."""
    known = values[np.isfinite(values)]
    return interval(float(known.mean()) if len(known) else float("nan"), resampled_means(values, draws), level)


def difference(first: np.ndarray, second: np.ndarray, draws: np.ndarray, level: float = LEVEL) -> Interval:
    """How much larger a score is in the second run than in the first, over the same people (paired).

    Args:
        first: [N], a score of each picture in the first run. A picture without one of the two scores is left out.
        second: [N], the same in the second run.
        draws: [R, N] (`draw`).
        level: share of resamples that the interval holds.

    Returns:
        mean of second - first; an interval that excludes 0 says that the runs differ.

    Raises:
        ValueError: scores of unlike many pictures.
    """
    if first.shape != second.shape:
        raise ValueError(f"scores of {len(first)} and of {len(second)} pictures are not paired")
    return mean_interval(second.astype(np.float64) - first, draws, level)
