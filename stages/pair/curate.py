"""Which pairs the student may learn from: written composites, five scores, and the limits on them.

A pair's style picture is the translation on the photo, cut by a feathered head mask: its background is the photo's to
the last bit. Scores are taken on the *raw* translation, because the student copies from there.

A limit is a value, or a share of the worst. Pairs are scored shard by shard, by any number of processes. So shares
become values once, on the first candidates, before the first shard is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from stages.core.settings import number
from stages.core.tensors import mask_tensor, to_tensor, unit
from stages.metrics.clarity import edge_clarity
from stages.metrics.geometry import landmark_error
from stages.metrics.identity import crop, head_boxes
from stages.metrics.pixel import background_error, head_iou
from stages.networks.face_reader import Reader

# +1: more is better
SCORES = {"identity": 1, "landmarks": -1, "background": -1, "clarity": 1, "agreement": 1}

Limits = dict[str, float | None]  # score -> least or greatest value that is kept; None for no bound
Scores = dict[str, np.ndarray]  # score -> float64 [N]; NaN where there is nothing to measure


@dataclass(kw_only=True)
class Limit:
    """Drops a share of the worst, and whatever is worse than a value.

    Args:
        worst: share of the pairs in [0, 1) dropped for having the worst scores; 0 drops none.
        value: least (identity, clarity, agreement) or greatest (landmarks, background) score that is kept; None for no
            such bound.
    """

    worst: float = 0.0
    value: float | None = None

    def __post_init__(self) -> None:
        number("worst", self.worst, 0, 0.99)
        if self.value is not None:
            number("value", self.value)

    def bound(self, scores: np.ndarray, better: int) -> float | None:
        """The least or greatest score that is kept: `value`, or what `worst` comes to, whichever is stricter.

        Args:
            scores: float64 [N], of pairs like those to come; NaN where there is nothing to measure.
            better: +1 where more is better, else -1.

        Returns:
            None for no bound.
        """
        merit = scores.astype(np.float64) * better
        known = merit[~np.isnan(merit)]
        bounds = [float(np.quantile(known, self.worst))] if len(known) and self.worst else []
        if self.value is not None:
            bounds.append(self.value * better)
        return max(bounds) * better if bounds else None


@dataclass(kw_only=True)
class Curate:
    """Limits on a pair's scores, and how it is composited.

    Args:
        identity: cosine of the face reader's embeddings of photo and translation.
        landmarks: mean distance of the face reader's 68 landmarks, in distances of the photo's outer eye corners.
        background: L1 in [0, 1] of the raw translation to the photo outside the head.
        clarity: edge clarity of the translated head (grey levels 0..255).
        agreement: overlap (IoU) of where the translator says it painted with the head mask; undefined, so never a
            reason, for a translator without a mask head.
        grow: the composite's mask is the head mask grown by this share of the width ...
        feather: ... and softened over this share of it.
    """

    identity: Limit = field(default_factory=Limit)
    landmarks: Limit = field(default_factory=Limit)
    background: Limit = field(default_factory=Limit)
    clarity: Limit = field(default_factory=Limit)
    agreement: Limit = field(default_factory=Limit)
    grow: float = 0.015
    feather: float = 0.015

    def __post_init__(self) -> None:
        number("grow", self.grow, 0, 0.25)
        number("feather", self.feather, 0, 0.25)

    @property
    def shares(self) -> bool:
        """Whether any limit is a share, which takes scores to become a value."""
        return any(getattr(self, name).worst for name in SCORES)

    def limits(self, scores: Scores) -> Limits:
        """The values that these limits come to for pairs like those with `scores`; each float64 [N]."""
        return {name: getattr(self, name).bound(scores[name], better) for name, better in SCORES.items()}


def reasons(scores: Scores, limits: Limits) -> list[str]:
    """Why each pair is dropped: names of scores, joined by a space; "" for a kept pair. NaN drops no pair."""
    count = len(scores["identity"])
    dropped = {name: np.zeros(count, bool) for name in SCORES}
    for name, better in SCORES.items():
        bound = limits[name]
        if bound is not None:
            dropped[name] = scores[name] * better < bound * better
    return [" ".join(name for name in SCORES if dropped[name][i]) for i in range(count)]


def beyond(row: dict[str, float | None], name: str, limit: float) -> float:
    """How far a record's score `name` is on the wrong side of its limit, as a share of the limit's size."""
    value = row[name]
    return 0.0 if value is None else (limit - value) * SCORES[name] / max(abs(limit), 1e-6)


@torch.inference_mode()
def score(
    photo: np.ndarray, raw: np.ndarray, mask: np.ndarray, painted: np.ndarray | None, reader: Reader, device: str
) -> Scores:
    """The scores of curation. The reader sees each picture once, in the crop around the photo's head.

    Args:
        photo: uint8 [N, H, W, 3].
        raw: uint8 [N, H, W, 3], what was made of the photos.
        mask: uint8 [N, H, W] head coverage of the photos.
        painted: uint8 [N, H, W], where the translator says it painted; None without a mask head.
        reader: the face reader, on `device`.
        device: where to compute.

    Returns:
        Score -> float64 [N]; NaN where there is nothing to measure.
    """
    before, after = (unit(to_tensor(images).to(device)) for images in (photo, raw))
    cover = mask_tensor(mask).to(device)

    # one crop for both pictures, so that a head that moved is seen to have moved
    boxes = head_boxes(cover)
    heads = torch.cat([crop(before, boxes), crop(after, boxes)]) * 2 - 1
    identity, landmarks = reader.recognise(heads.contiguous(memory_format=torch.channels_last))
    first, second = identity.chunk(2)
    points, moved = landmarks.chunk(2)

    if painted is None:
        agreement = torch.full([len(photo)], float("nan"))
    else:
        agreement = head_iou(mask_tensor(painted).to(device), cover)
    sharp = [edge_clarity(image, head > 127) for image, head in zip(raw, mask, strict=True)]

    measured = {
        "identity": F.cosine_similarity(first, second, dim=1),
        "landmarks": landmark_error(moved, points),
        "background": background_error(after, before, cover),
        "clarity": torch.tensor(sharp, dtype=torch.float64),
        "agreement": agreement,
    }
    return {name: values.double().cpu().numpy() for name, values in measured.items()}


def feathered(mask: np.ndarray, grow: float, feather: float) -> np.ndarray:
    """Head mask for compositing: grown, then softened.

    Args:
        mask: uint8 [H, W], 255 = head.
        grow: by how much, a share of the width.
        feather: width of the soft rim, a share of the width.

    Returns:
        float32 [H, W] in [0, 1]; never below the mask itself, and exactly 0 away from it.
    """
    width = mask.shape[1]
    radius = round(grow * width)
    soft: np.ndarray = mask.astype(np.float32) / 255
    if radius:
        soft = cv2.dilate(soft, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
    blur = round(feather * width)
    if blur:
        soft = cv2.blur(soft, (2 * blur + 1, 2 * blur + 1))
    out: np.ndarray = np.maximum(soft, mask.astype(np.float32) / 255)
    return out


def composite(raw: np.ndarray, photo: np.ndarray, mask: np.ndarray, curate: Curate) -> np.ndarray:
    """Raw translation on its photo, whose background stays exactly as it is.

    Args:
        raw: uint8 [H, W, 3].
        photo: uint8 [H, W, 3].
        mask: uint8 [H, W], the photo's head.
        curate: how far the mask is grown and softened.

    Returns:
        uint8 [H, W, 3].
    """
    alpha = feathered(mask, curate.grow, curate.feather)[..., None]
    mixed = np.rint(alpha * raw + (1 - alpha) * photo).astype(np.uint8)
    return np.where(alpha > 0, mixed, photo)
