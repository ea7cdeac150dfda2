"""Broken samples: which generated heads no longer look like a head, and how far each one is from that.

A gate is fitted to real pictures (held-out ones of the style) and then asks four questions of a face reading. Each is
answered by a distance that grows as a picture falls apart:

* `features`: Mahalanobis distance of the reader's features to the real ones'. Smeared, off-colour, noisy pictures.
* `landmarks`: Mahalanobis distance of the landmarks' shape (centred, of unit size). Faces that do not hang together.
* `doubt`: mean entropy of the parsing in nats. The reader cannot say what is where.
* `parts`: areas of head, eyes (or glasses), nose and mouth outside their usual range: missing, doubled, overgrown.

Both Gaussians have covariances shrunk towards a multiple of the identity (Chen et al., 2010, eq. 23, "OAS"), so that a
hundred pictures do for 272 features. All limits are those of pictures that the statistics did not see (five folds),
set so that of the real ones a chosen share, `alarm`, is called broken in all.

It sees heads that fall apart, not small flaws, such as eyes that glasses hide.

What is not real is not all broken: a head half-way between photo and style is far from either set. Fit the gate to both
where fused generators are judged; their common Gaussian spans the way from one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.networks.face_labels import READER, READER_EYES, READER_HEAD
from stages.networks.face_reader import FaceReading

PARTS = {"head": READER_HEAD, "eyes": READER_EYES, "nose": (READER["nose"],), "mouth": (READER["mouth"],)}
SIGNALS = ("features", "landmarks", "doubt", "parts")
FOLDS = 5
FEWEST = 30  # real pictures: with fewer, no limit can be set
TINY = 1e-4  # share of the picture added to areas before their logarithm: half a pixel of 64 x 64


class HeadReader(Protocol):
    """What a gate needs of the face reader."""

    id: str

    def read(self, images: Tensor) -> FaceReading:
        """Read pictures [N, 3, H, W] in [-1, 1]."""


def take(reading: FaceReading, rows: Tensor) -> FaceReading:
    """Some pictures of a reading: rows int64 or bool [N]."""
    return FaceReading(**{field.name: getattr(reading, field.name)[rows] for field in fields(FaceReading)})


def together(first: FaceReading, second: FaceReading) -> FaceReading:
    """Two readings as one: the pictures of `first`, then those of `second`."""
    pairs = {entry.name: (getattr(first, entry.name), getattr(second, entry.name)) for entry in fields(FaceReading)}
    return FaceReading(**{name: torch.cat(pair) for name, pair in pairs.items()})


def shrunk_covariance(rows: Tensor) -> Tensor:
    """Covariance shrunk towards a multiple of the identity by the oracle-approximating share (Chen et al., 2010).

    Args:
        rows: float64 [N, d], N >= 2.

    Returns:
        float64 [d, d], positive definite unless all rows are equal.
    """
    count, size = rows.shape
    covariance = torch.cov(rows.T, correction=0).reshape(size, size)
    mean_variance = covariance.trace() / size
    square = covariance.square().mean()
    excess = (count + 1) * (square - mean_variance.square() / size)
    share = 1.0 if float(excess) <= 0 else min(1.0, float((square + mean_variance.square()) / excess))
    return (1 - share) * covariance + share * mean_variance * torch.eye(size, dtype=rows.dtype, device=rows.device)


@dataclass(frozen=True)
class Gaussian:
    """Mean [d] and lower Cholesky factor [d, d] of a covariance, float64."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, rows: Tensor) -> Gaussian:
        """From rows [N >= 2, d]."""
        covariance = shrunk_covariance(rows.double())
        floor = 1e-12 * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        return cls(rows.double().mean(0), torch.linalg.cholesky(covariance + floor))

    def distance(self, rows: Tensor) -> Tensor:
        """Mahalanobis distance over sqrt(d) (about 1 for rows of the Gaussian): [N, d] -> float64 [N]."""
        white = torch.linalg.solve_triangular(self.factor, (rows.double() - self.mean).T, upper=False)
        out: Tensor = white.square().mean(dim=0).sqrt()
        return out


def shape_of(landmarks: Tensor) -> Tensor:
    """Landmarks without place and size: [N, 68, 2] -> float64 [N, 136] of unit mean square."""
    centred = (landmarks.double() - landmarks.double().mean(dim=1, keepdim=True)).flatten(1)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)


def part_areas(parsing: Tensor) -> Tensor:
    """Logarithm of the share of the picture that each of `PARTS` covers: logits [N, 13, h, w] -> float64 [N, 4]."""
    share = parsing.softmax(1).mean(dim=(2, 3)).double()
    return torch.stack([(share[:, labels].sum(dim=1) + TINY).log() for labels in PARTS.values()], dim=1)


def doubt(parsing: Tensor) -> Tensor:
    """Mean entropy of the parsing in nats: logits [N, 13, h, w] -> float64 [N]."""
    logs = parsing.log_softmax(1)
    return -(logs.exp() * logs).sum(dim=1).mean(dim=(1, 2)).double()


@dataclass(frozen=True)
class Statistics:
    """What is known of real pictures: two Gaussians and the usual areas (median, spread below and above; [4] each)."""

    features: Gaussian
    landmarks: Gaussian
    middle: Tensor
    below: Tensor
    above: Tensor

    @classmethod
    def fit(cls, reading: FaceReading) -> Statistics:
        """From a reading of real pictures."""
        areas = part_areas(reading.parsing)
        low, middle, high = torch.quantile(areas, areas.new_tensor([0.05, 0.5, 0.95]), dim=0)
        return cls(
            Gaussian.fit(reading.features),
            Gaussian.fit(shape_of(reading.landmarks)),
            middle,
            (middle - low).clamp(min=1e-3),
            (high - middle).clamp(min=1e-3),
        )

    def signals(self, reading: FaceReading) -> Tensor:
        """float64 [N, 4] in the order of `SIGNALS`; each grows as a picture falls apart."""
        off = part_areas(reading.parsing) - self.middle
        parts = torch.where(off < 0, -off / self.below, off / self.above).amax(dim=1)
        return torch.stack(
            [
                self.features.distance(reading.features),
                self.landmarks.distance(shape_of(reading.landmarks)),
                doubt(reading.parsing),
                parts,
            ],
            dim=1,
        )


@dataclass(frozen=True)
class QualityGate:
    """Tells broken heads from whole ones; make one with `fit`.

    Attributes:
        statistics: of all the real pictures.
        limits: float64 [4], the value of each signal at which a picture is called broken.
        extractor: id of the face reader.
        count: real pictures behind it.
    """

    statistics: Statistics
    limits: Tensor
    extractor: str
    count: int

    @classmethod
    def fit(
        cls, reader: HeadReader, real: np.ndarray | FaceReading, alarm: float = 0.015, seed: int = 0
    ) -> QualityGate:
        """Fits the statistics to real pictures and the limits to real pictures that they did not see.

        Args:
            reader: the face reader.
            real: uint8 [N, H, W, 3] real pictures (held-out ones of the style, or of photo and style together), or the
                reader's reading of them.
            alarm: share of real pictures that may be called broken.
            seed: of the folds.

        Raises:
            TristyleError: fewer than 30 pictures.
            ValueError: alarm outside (0, 1).
        """
        if not 0 < alarm < 1:
            raise ValueError(f"alarm {alarm} is outside 0..1")
        reading = real if isinstance(real, FaceReading) else reader.read(to_tensor(real))
        count = len(reading.features)
        if count < FEWEST:
            raise TristyleError(f"{count} real pictures are too few to detect broken ones. Give at least {FEWEST}.")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        unseen = torch.empty(count, len(SIGNALS), dtype=torch.float64)
        for fold in range(FOLDS):
            left_out = torch.zeros(count, dtype=torch.bool)
            left_out[order[fold::FOLDS]] = True
            unseen[left_out] = Statistics.fit(take(reading, ~left_out)).signals(take(reading, left_out)).cpu()
        each = torch.quantile(unseen, 1 - alarm, dim=0)
        together = torch.quantile((unseen / each).amax(dim=1), 1 - alarm)  # any of four may raise the alarm
        return cls(Statistics.fit(reading), each * together, reader.id, count)

    def signals(self, reading: FaceReading) -> dict[str, Tensor]:
        """Each signal over its limit, float64 [N]: above 1 it calls the picture broken."""
        over = self._over(reading)
        return {name: over[:, column] for column, name in enumerate(SIGNALS)}

    def score(self, reading: FaceReading) -> Tensor:
        """Quality float64 [N], higher is better: 1 less the worst signal over its limit; below 0 means broken."""
        return 1 - self._over(reading).amax(dim=1)

    def broken(self, reading: FaceReading) -> Tensor:
        """Bool [N]: the heads that have fallen apart. The mean of it is `broken_share`; lower is better."""
        return self.score(reading) < 0

    def reasons(self, reading: FaceReading) -> list[str]:
        """The signal that speaks loudest against each picture, one of `SIGNALS`."""
        return [SIGNALS[column] for column in self._over(reading).argmax(dim=1).tolist()]

    def _over(self, reading: FaceReading) -> Tensor:
        return self.statistics.signals(reading).cpu() / self.limits
