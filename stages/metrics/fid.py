"""Frechet inception distance (Heusel et al., 2017, eq. 6): between Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

It is biased upwards for small sets and compares only numbers of one extractor and one count: here it stands beside KID,
never in its place. All of it is float64; S is the population covariance, as in the golden values of the tests
(np.cov divides by N - 1, a difference of 1/N).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean [d] and population covariance [d, d] of a set of features; float64."""

    count: int
    mean: Tensor
    covariance: Tensor


class FeatureMoments:
    """Sums up features batch by batch, so that no set has to be kept: all that stays is one d x d matrix."""

    def __init__(self) -> None:
        self.count = 0
        self._shift: Tensor | None = None  # sums are taken about the first batch's mean, or they would cancel
        self._sum: Tensor
        self._products: Tensor

    def add(self, features: Tensor) -> None:
        """Adds features [N, d].

        Raises:
            ValueError: another number of features than before, or one that is not finite.
        """
        if features.ndim != 2 or not len(features) or not bool(torch.isfinite(features).all()):
            raise ValueError(f"finite features [N >= 1, d] are needed, not {tuple(features.shape)}")
        rows = features.detach().double()
        if self._shift is None:
            self._shift = rows.mean(0)
            self._sum, self._products = torch.zeros_like(self._shift), rows.new_zeros(rows.shape[1], rows.shape[1])
        if rows.shape[1] != len(self._shift):
            raise ValueError(f"{rows.shape[1]} features after {len(self._shift)}")
        rows = rows - self._shift
        self.count += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    def compute(self) -> Moments:
        """The moments of all that was added.

        Raises:
            ValueError: fewer than two pictures.
        """
        if self._shift is None or self.count < 2:
            raise ValueError(f"{self.count} pictures have no covariance; add at least two")
        mean = self._sum / self.count
        return Moments(self.count, self._shift + mean, self._products / self.count - torch.outer(mean, mean))


def moments(features: Tensor) -> Moments:
    """Mean and population covariance of features [N >= 2, d]."""
    collected = FeatureMoments()
    collected.add(features)
    return collected.compute()


def trace_of_root(first: Tensor, second: Tensor) -> float:
    """Trace of (S1 S2)^(1/2), of two positive semidefinite float64 matrices [d, d].

    With S1 = L L^T, S1 S2 is similar to the symmetric L^T S2 L, so that the trace is the sum of the square roots of
    that one's eigenvalues. A Cholesky factor of either matrix costs a fraction of an eigenbasis; where neither is
    positive definite (fewer pictures than features) the symmetric root of S1 from its eigenbasis takes its place.
    Nothing is added to the diagonals: that would change the distance.
    """
    (factor, singular), (other_factor, other_singular) = _cholesky(first), _cholesky(second)
    if not singular:
        return _sum_of_roots(factor.T @ second @ factor, other_singular)
    if not other_singular:
        return _sum_of_roots(other_factor.T @ first @ other_factor, True)
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * _above_rounding(values).sqrt()) @ vectors.T
    return _sum_of_roots(root @ second @ root, True)


def _cholesky(matrix: Tensor) -> tuple[Tensor, bool]:
    """Lower factor, and whether there is none."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    return factor, int(info) != 0 or not bool(torch.isfinite(factor).all())


def _above_rounding(values: Tensor) -> Tensor:
    """Eigenvalues with those set to 0 that rounding left: 1e-16 of the largest has a root of 1e-8, and they add up."""
    return torch.where(values > len(values) * torch.finfo(values.dtype).eps * values.max(), values, 0.0)


def _sum_of_roots(matrix: Tensor, singular: bool) -> float:
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return float((_above_rounding(values) if singular else values.clamp(min=0)).sqrt().sum())


def frechet_between(real: Moments, fake: Moments) -> float:
    """Frechet distance of two Gaussians; >= 0 up to rounding, 0 for equal ones; lower is better.

    Raises:
        ValueError: moments of different features.
    """
    if real.mean.shape != fake.mean.shape:
        raise ValueError(f"moments of {len(real.mean)} and {len(fake.mean)} features do not compare")
    shift = (real.mean - fake.mean).square().sum()
    spread = real.covariance.trace() + fake.covariance.trace()
    return float(shift + spread) - 2 * trace_of_root(real.covariance, fake.covariance)


def art_fid(content: float, frechet: float) -> float:
    """Art-FID (Wright and Ommer, GCPR 2022, arXiv 2207.12280, eq. 3): (1 + content) (1 + style), >= 1, lower is better.

    It rests on two networks: name both beside the number.

    Args:
        content: mean perceptual distance between pictures and what was made of them; published with LPIPS.
        frechet: Frechet distance of what was made to pictures of the style; published with Inception.
    """
    return (1 + content) * (1 + frechet)


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of two sets of features [N, d] and [M, d], N, M >= 2; lower is better.

    Raises:
        ValueError: shapes that do not fit, fewer than two pictures, or a feature that is not finite.
    """
    return frechet_between(moments(real), moments(fake))
