"""Which pairs the student may learn from: written composites, three scores, and the limits on them.

A pair's style picture is the translation laid over its photo by a feathered head mask, so that its background is the
photo's to the last bit. The scores are taken on the *raw* translation: what the student copies, it copies from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from stages.config import number

SCORES = {"identity": 1, "background": -1, "clarity": 1}  # +1: more is better


@dataclass(kw_only=True)
class Limit:
    """Drops a share of the worst, and whatever is worse than a value.

    Args:
        worst: share of the pairs in [0, 1) dropped for having the worst scores; 0 drops none.
        value: least (identity, clarity) or greatest (background) score that is kept; None for no such bound.
    """

    worst: float = 0.0
    value: float | None = None

    def __post_init__(self) -> None:
        number("worst", self.worst, 0, 0.99)
        if self.value is not None:
            number("value", self.value)

    def drops(self, scores: np.ndarray, better: int) -> np.ndarray:
        """bool [N] for scores [N]; `better` is +1 where more is better, else -1. NaN (nothing to measure) is kept."""
        merit = scores * better
        known = merit[~np.isnan(merit)]
        dropped = np.zeros(len(scores), bool)
        if len(known) and self.worst:
            dropped |= merit < np.quantile(known, self.worst)
        if self.value is not None:
            dropped |= merit < self.value * better
        return dropped


@dataclass(kw_only=True)
class Curate:
    """Limits on a pair's scores, and how it is composited.

    Args:
        identity: cosine of the face reader's embeddings of photo and translation.
        background: L1 in [0, 1] of the raw translation to the photo outside the head.
        clarity: edge clarity of the translated head (grey levels 0..255).
        grow: the composite's mask is the head mask grown by this share of the width ...
        feather: ... and softened over this share of it.
    """

    identity: Limit = field(default_factory=Limit)
    background: Limit = field(default_factory=Limit)
    clarity: Limit = field(default_factory=Limit)
    grow: float = 0.015
    feather: float = 0.015

    def __post_init__(self) -> None:
        number("grow", self.grow, 0, 0.25)
        number("feather", self.feather, 0, 0.25)

    def reasons(self, scores: dict[str, np.ndarray]) -> list[str]:
        """Why each pair is dropped, the names of the scores joined by a blank; "" for a kept one."""
        dropped = {name: getattr(self, name).drops(scores[name], better) for name, better in SCORES.items()}
        count = len(scores["identity"])
        return [" ".join(name for name in SCORES if dropped[name][i]) for i in range(count)]


def feathered(mask: np.ndarray, grow: float, feather: float) -> np.ndarray:
    """Head mask for compositing: grown, then softened; never below the mask itself, exactly 0 away from it.

    mask: uint8 [H, W], 255 = head; `grow`, `feather`: shares of the width. Returns float32 [H, W] in [0, 1].
    """
    width = mask.shape[1]
    radius = round(grow * width)
    soft: np.ndarray = mask.astype(np.float32) / 255
    if radius:
        soft = cv2.dilate(soft, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
    blur = round(feather * width)
    if blur:
        soft = cv2.blur(soft, (2 * blur + 1, 2 * blur + 1))
    return np.maximum(soft, mask.astype(np.float32) / 255)


def composite(raw: np.ndarray, photo: np.ndarray, mask: np.ndarray, curate: Curate) -> np.ndarray:
    """Raw translation over its photo, whose background stays exactly: uint8 2 x [H, W, 3], [H, W] -> [H, W, 3]."""
    alpha = feathered(mask, curate.grow, curate.feather)[..., None]
    mixed = np.rint(alpha * raw + (1 - alpha) * photo).astype(np.uint8)
    return np.where(alpha > 0, mixed, photo)
