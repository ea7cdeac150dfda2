"""Which candidates are left out of a style set: broken faces, copies of training pictures, repeats of one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.images import load_images
from stages.core.settings import number
from stages.core.tensors import to_tensor
from stages.metrics.attributes import attributes
from stages.metrics.broken import FEWEST, QualityGate
from stages.metrics.memorisation import duplicates, memorisation_threshold, nearest
from stages.networks.face_reader import SIZE, FaceReading, Reader

REASONS = ("quality", "memorised", "duplicate")  # in the order in which they are looked for
MOST = 1000  # training pictures or photos that are read
CHUNK = 32  # of them at full size in memory at a time


@dataclass(kw_only=True)
class Filters:
    """Which candidates are left out.

    Args:
        quality: leave out broken faces.
        memorised: leave out copies of training pictures.
        duplicates: leave out repeats of earlier candidates.
        quantile: share of real pictures that lies nearer to a training picture than what counts as memorised.
    """

    quality: bool = True
    memorised: bool = True
    duplicates: bool = True
    quantile: float = 0.01

    def __post_init__(self) -> None:
        number("quantile", self.quantile, 0, 0.5)

    @property
    def reads(self) -> bool:
        """Whether anything has to be read for it."""
        return self.quality or self.memorised or self.duplicates


def shrink(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> [N, 3, 64, 64] in [-1, 1], as the reader itself would: its masks are then small, too."""
    x = to_tensor(images)
    if x.shape[-2:] != (SIZE, SIZE):
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    return x


def shrunk(paths: Sequence[Path], workers: int) -> Tensor:
    """The first 1000 of some PNGs of one size, [N, 3, 64, 64] in [-1, 1], a few at full size at a time."""
    chosen = paths[:MOST]
    parts = [shrink(load_images(chosen[i : i + CHUNK], workers)) for i in range(0, len(chosen), CHUNK)]
    return torch.cat(parts) if parts else torch.empty(0, 3, SIZE, SIZE)


def pictures(data: Path, folder: str) -> list[Path]:
    """The PNGs of a folder of a data artifact, by name; [] where there is none."""
    return sorted((data / folder).glob("*.png"))


def _unseen(data: Path, folder: str) -> list[Path]:
    """Held-out pictures where there are enough to fit a gate on, else the training pictures."""
    heldout = pictures(data, f"heldout/{folder}")
    return heldout if len(heldout) >= FEWEST else pictures(data, folder)


def view(reader: Reader, small: Tensor) -> FaceReading:
    """What the reader says of [N, 3, 64, 64] in [-1, 1], on the CPU."""
    reading = reader.read(small.to(reader.feature_mean.device))
    return FaceReading(**{f.name: getattr(reading, f.name).cpu() for f in fields(FaceReading)})


@torch.no_grad()
def _features(reader: Reader, small: Tensor) -> Tensor:
    """Features alone, at less than half the cost of a reading: [N, d] on the CPU."""
    return torch.cat([reader.features(part.to(reader.feature_mean.device)).cpu() for part in small.split(CHUNK)])


@dataclass
class References:
    """What candidates are held against; read once a set.

    Attributes:
        gate: detects broken faces; None where there is nothing to fit it on.
        training: [M, d] features of training pictures and their mirror images, on the CPU; None where not needed.
        threshold: distance to `training` up to which a candidate is memorised.
    """

    gate: QualityGate | None = None
    training: Tensor | None = None
    threshold: float = 0.0

    @classmethod
    def read(cls, reader: Reader, data: Path, target: str, reject: Filters, workers: int) -> References:
        """Read pictures of a data artifact.

        The gate is fitted to real pictures of the style and of photos, for a fused generator draws what lies between
        them; to held-out ones where there are 30, else to the training pictures.

        Args:
            reader: the face reader.
            data: folder of the artifact.
            target: ``photo`` or a style's name.
            reject: which filters need a reference.
            workers: threads that decode.

        Returns:
            no gate where there are fewer than 30 pictures to fit it on, no training features for fewer than two.
        """
        name = "photo" if target == "photo" else f"style/{target}"
        training, heldout = pictures(data, name), pictures(data, f"heldout/{name}")
        found = cls()
        if reject.quality:
            real = torch.cat([shrunk(_unseen(data, kind), workers) for kind in dict.fromkeys((name, "photo"))])
            if len(real) >= FEWEST:
                found.gate = QualityGate.fit(reader, view(reader, real))
        if reject.memorised and len(training) > 1:
            small = shrunk(training, workers)
            own = _features(reader, small)
            held = _features(reader, shrunk(heldout, workers)) if len(heldout) >= FEWEST else None
            # The threshold is set without mirror images: its own is a near neighbour that no other picture has.
            found.threshold = memorisation_threshold(own, reject.quantile, held)
            found.training = torch.cat([own, _features(reader, small.flip(-1))])
        return found


def observe(reader: Reader, images: np.ndarray, over: list[str], references: References) -> dict[str, Tensor]:
    """What is kept of a batch's reading.

    Args:
        reader: the face reader.
        images: uint8 [n, R, R, 3].
        over: names of attributes.
        references: the gate, where there is one.

    Returns:
        features [n, d], attributes [n, len(over)], and with a gate quality [n] (its score) and broken [n] (bool).
    """
    small = shrink(images)
    reading = view(reader, small)
    out = {"features": reading.features, "attributes": attribute_table(reading, small, over)}
    if references.gate is not None:
        out |= {"quality": references.gate.score(reading).float(), "broken": references.gate.broken(reading)}
    return out


def attribute_table(reading: FaceReading, small: Tensor, over: list[str]) -> Tensor:
    """Attributes `over` of pictures [n, 3, 64, 64] in [-1, 1] as columns, float32 [n, len(over)] on the CPU."""
    return torch.stack(list(attributes(reading, small, over).values()), dim=1).float().cpu()


def judge(seen: dict[str, Tensor], reject: Filters, references: References) -> tuple[list[str], np.ndarray]:
    """Why each candidate is left out.

    Args:
        seen: `observe`'s tensors of all candidates, in the order in which they were drawn.
        reject: which filters apply.
        references: what they compare with.

    Returns:
        reasons ("" for the good ones), and scores float64 [N]: the gate's score; distance to the nearest training
        picture as a share of the threshold; distance to the nearest other candidate. NaN for the good ones.
    """
    features = seen["features"]
    reasons, scores = np.full(len(features), "", object), np.full(len(features), np.nan)

    def name(found: Tensor, reason: str, score: Tensor) -> None:
        fresh = found.numpy() & (reasons == "")
        reasons[fresh], scores[fresh] = reason, score.double().numpy()[fresh]

    if references.gate is not None:
        name(seen["broken"], "quality", seen["quality"])
    if references.training is not None:
        distance = nearest(features, references.training)[0]
        name(distance <= references.threshold, "memorised", distance / max(references.threshold, 1e-12))
    if reject.duplicates and len(features) > 1:
        # Among the good ones alone: what is left out already makes nothing else a repeat.
        good = torch.from_numpy(np.flatnonzero(reasons == ""))
        repeats, apart = torch.zeros(len(features), dtype=torch.bool), torch.zeros(len(features))
        if len(good) > 1:
            repeats[good] = duplicates(features[good])
            apart[good] = nearest(features[good], features[good], exclude_self=True)[0].float()
        name(repeats, "duplicate", apart)
    return list(reasons), scores


def least_bad(reasons: Sequence[str], scores: np.ndarray, wanted: int) -> np.ndarray:
    """Numbers of the rejected candidates to take all the same, the least bad first: at most `wanted`, int64."""
    rejected = [i for i, reason in enumerate(reasons) if reason]
    rejected.sort(key=lambda i: (REASONS.index(reasons[i]), -scores[i], i))
    return np.asarray(rejected[:wanted], np.int64)
