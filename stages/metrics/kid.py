"""Kernel inception distance (Binkowski et al., 2018, eq. 4) between two sets of features.

The features come from the face reader by default, on heads composited on one grey: what lies behind the head must not
decide. Every number carries the extractor's id (`HeadKid.compute`).
"""

import numpy as np
import torch
from torch import Tensor

from stages.metrics.features import FeatureExtractor

GREY = 0.5  # the one grey behind every head, in [0, 1]
DECIDES_FROM = 100  # with fewer style images KID is printed but decides nothing


def composite_grey(images: Tensor, mask: Tensor) -> Tensor:
    """Heads on one flat grey.

    Args:
        images: [N, 3, H, W] in [0, 1].
        mask: [N, 1, H, W], head coverage in [0, 1].

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    return images * mask + GREY * (1 - mask)


def mmd2_cubic(real: Tensor, fake: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x.y / d + 1)^3.

    Args:
        real: [N, d] features, N >= 2.
        fake: [M, d] features, M >= 2.

    Returns:
        the estimate; it may be slightly negative, for it is unbiased. Computed in float64.

    Raises:
        ValueError: shapes that do not fit or fewer than two rows.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(f"two [N >= 2, d] feature sets are needed, not {tuple(real.shape)} and {tuple(fake.shape)}")
    real, fake = real.double(), fake.double()
    n, m, d = len(real), len(fake), real.shape[1]
    within_real = (real @ real.T / d + 1) ** 3
    within_fake = (fake @ fake.T / d + 1) ** 3
    across = (real @ fake.T / d + 1) ** 3
    # The diagonals are left out: they are what biases the plain estimate.
    real_term = (within_real.sum() - within_real.diagonal().sum()) / (n * (n - 1))
    fake_term = (within_fake.sum() - within_fake.diagonal().sum()) / (m * (m - 1))
    return float(real_term + fake_term - 2 * across.mean())


def polynomial_kid(
    real: Tensor, fake: Tensor, subsets: int = 50, size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Kernel inception distance: mean and standard deviation of `mmd2_cubic` over random subsets; lower is better.

    Args:
        real: [N, d] features of real pictures.
        fake: [M, d] features of generated pictures.
        subsets: how many pairs of subsets are drawn (without replacement within a subset).
        size: rows of each subset; by default half of the smaller set, at most 1000. The estimate is unbiased, so that
            the size moves the spread and not the mean.
        seed: of the subsets.

    Returns:
        (mean, standard deviation over the subsets)

    Raises:
        ValueError: a subset larger than a set, or fewer than two rows.
    """
    smaller = min(len(real), len(fake))
    size = min(1000, max(2, smaller // 2)) if size is None else size
    if not 2 <= size <= smaller:
        raise ValueError(f"subsets of {size} cannot be drawn from {len(real)} and {len(fake)} features")
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        rows_real = torch.from_numpy(generator.choice(len(real), size, replace=False))
        rows_fake = torch.from_numpy(generator.choice(len(fake), size, replace=False))
        values.append(mmd2_cubic(real[rows_real], fake[rows_fake]))
    return float(np.mean(values)), float(np.std(values))


def resampled_kid(real: Tensor, fake: Tensor, draws: np.ndarray) -> np.ndarray:
    """`mmd2_cubic` of all real pictures and of each resample of the generated ones, for an interval over people.

    A picture that was drawn twice would be compared with itself, which is largest of all and biases the plain estimate
    on resamples upwards; such pairs are left out like the diagonal.

    Args:
        real: [N, d] features, N >= 2.
        fake: [M, d] features.
        draws: int [R, M], how often each picture counts (`stages.metrics.bootstrap.draw`).

    Returns:
        float64 [R]; NaN for a resample of one picture alone.
    """
    real, fake, d = real.double(), fake.double(), real.shape[1]
    counts = torch.from_numpy(draws).double()  # [R, M]
    within_real = (real @ real.T / d + 1) ** 3
    real_term = (within_real.sum() - within_real.diagonal().sum()) / (len(real) * (len(real) - 1))
    within_fake = ((fake @ fake.T / d + 1) ** 3).fill_diagonal_(0)
    pairs = counts.sum(1) ** 2 - (counts**2).sum(1)
    fake_term = ((counts @ within_fake) * counts).sum(1) / pairs
    across = counts @ ((fake @ real.T / d + 1) ** 3).mean(1) / counts.sum(1)
    found: np.ndarray = (real_term + fake_term - 2 * across).numpy()
    return found


class HeadKid:
    """Collects the features of heads on grey, then gives their KID.

    Args:
        reader: the face reader (its `features` take pictures in [-1, 1]).
    """

    def __init__(self, reader: FeatureExtractor) -> None:
        self.reader = reader
        self.real: list[Tensor] = []
        self.fake: list[Tensor] = []

    def _features(self, images: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return self.reader.features(composite_grey(images, mask) * 2 - 1).cpu()

    def add_real(self, images: Tensor, mask: Tensor) -> None:
        """Adds real pictures: [N, 3, H, W] in [0, 1] with masks [N, 1, H, W]."""
        self.real.append(self._features(images, mask))

    def add_fake(self, images: Tensor, mask: Tensor) -> None:
        """Adds generated pictures: [N, 3, H, W] in [0, 1] with masks [N, 1, H, W]."""
        self.fake.append(self._features(images, mask))

    def clear_fake(self) -> None:
        """Forgets the generated pictures, keeping the real ones for the next comparison."""
        self.fake.clear()

    def resampled(self, draws: np.ndarray) -> np.ndarray:
        """KID in each of `draws` [R, M] of the M generated pictures, all real ones kept: float64 [R]."""
        return resampled_kid(torch.cat(self.real), torch.cat(self.fake), draws)

    def compute(self, subsets: int = 50, seed: int = 0) -> dict[str, float | int | str | bool]:
        """KID and what it rests on: `kid`, `kid_sd`, `real` and `fake` (counts), `decides`, `extractor` (an id)."""
        real, fake = torch.cat(self.real), torch.cat(self.fake)
        mean, spread = polynomial_kid(real, fake, subsets=subsets, seed=seed)
        return {
            "kid": mean,
            "kid_sd": spread,
            "real": len(real),
            "fake": len(fake),
            "decides": len(real) >= DECIDES_FROM,
            "extractor": self.reader.id,
        }
