"""Is a photo fit to be learnt from: scores of what was cut out of it, and the limits on them.

Scores are taken on the picture as it is written, since a photo that is blurred at 1000 px may be sharp at 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from stages.core.settings import number
from stages.networks.face_labels import PARSER_LABELS, numbers

Scores = dict[str, float | None]  # None where it was not measured, which is never a reason

WINDOW = 5  # px of the blur that a picture is compared with
MIDDLE = 0.6  # share of the frame's width in which sharpness and brightness are taken: the face, not what is behind it
GROWN = 1.3  # the face is this much larger than the quadrangle of eyes and corners of the mouth
SEEN_FACE = numbers(
    PARSER_LABELS,
    "skin", "nose", "glasses", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip",
)  # fmt: skip
# A limit -> the score it bounds, +1 for a least value or -1 for a greatest, and what a picture beyond it is.
BOUNDS = {
    "sharpness": ("sharpness", 1, "blurred"),
    "dark": ("brightness", 1, "dark"),
    "bright": ("brightness", -1, "overexposed"),
    "face": ("face", 1, "small"),
    "yaw": ("yaw", -1, "turned away"),
    "occlusion": ("occlusion", -1, "covered"),
    "outside": ("outside", -1, "cut by the border"),
}


@dataclass(kw_only=True)
class Limits:
    """Which photos are left out; None sets no limit. A score that was not measured leaves nothing out.

    Args:
        sharpness: least share of the picture's variation that a blur of 5 px removes, 0..1; 0.2 is a picture softened
            by a Gaussian of 1.5 px, sharp ones have 0.4 and more.
        dark: least brightness of the middle, 0..1; dark skin in good light has 0.2, so stay well below.
        bright: greatest brightness of the middle, 0..1.
        face: least side of the face's square (of the centre square with data.faces=square) in the file, px.
        yaw: greatest turn of the head, degrees.
        occlusion: greatest share of the face between brows and chin that the parser takes for something else, 0..1.
        outside: greatest share of the picture that had to be mirrored in beyond the photo's border, 0..1.
    """

    sharpness: float | None = None
    dark: float | None = None
    bright: float | None = None
    face: float | None = None
    yaw: float | None = None
    occlusion: float | None = None
    outside: float | None = None

    def __post_init__(self) -> None:
        most = {"face": 1e5, "yaw": 90.0}
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None:
                number(f"limits.{field.name}", value, 0, most.get(field.name, 1.0))

    def reason(self, scores: Mapping[str, float | None]) -> str:
        """Why a picture with these scores is left out, "" when it is not."""
        found = []
        for name, (score, sign, what) in BOUNDS.items():
            value, limit = scores.get(score), getattr(self, name)
            if value is None or limit is None:
                continue
            value = abs(value) if score == "yaw" else value
            if value * sign < limit * sign:
                found.append(f"{what} ({score} {value:.3g}, {'at least' if sign > 0 else 'at most'} {limit:g})")
        return ", ".join(found)


def sharpness(picture: np.ndarray) -> float:
    """How much of the variation between neighbours a blur removes, in the less sharp direction: 0..1.

    One minus the blur of Crete et al., 2007 (equations 1 to 9), with a window of 5 px instead of 9.

    Args:
        picture: uint8 RGB [H, W, 3]; its middle counts.
    """
    import cv2

    grey = cv2.cvtColor(_middle(picture), cv2.COLOR_RGB2GRAY).astype(np.float32)
    found = []
    inner = slice(WINDOW // 2, -(WINDOW // 2))  # where the blur sees nothing from beyond the border
    for axis, window in ((0, (1, WINDOW)), (1, (WINDOW, 1))):
        blurred = cv2.blur(grey, window)
        own, left = (np.abs(np.diff(image[inner, inner], axis=axis)) for image in (grey, blurred))
        found.append(float(np.maximum(own - left, 0).sum() / max(float(own.sum()), 1e-6)))
    return min(found)


def brightness(picture: np.ndarray) -> float:
    """Mean luma of the picture's middle, 0..1: uint8 RGB [H, W, 3]."""
    import cv2

    red, green, blue, _ = cv2.mean(np.ascontiguousarray(_middle(picture)))
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def occlusion(shares: np.ndarray, points: np.ndarray) -> float:
    """Share of the face that a parser takes for hair, a hat, a hand or anything else, 0..1.

    Args:
        shares: [19, h, w], the probability of each label of CelebAMask-HQ.
        points: [5, 2], eyes, nose, corners of the mouth as shares of the picture's width and height.
    """
    import cv2

    height, width = shares.shape[1:]
    corners = np.asarray(points, np.float64)[[0, 1, 4, 3]]
    middle = corners.mean(0)
    hull = ((middle + (corners - middle) * GROWN) * (width, height) - 0.5).round().astype(np.int32)
    inside = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(inside, hull, 1)
    if not inside.any():
        return 0.0
    return float(1 - shares[list(SEEN_FACE)].sum(0)[inside > 0].mean())


def _middle(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    top, left = round(height * (1 - MIDDLE) / 2), round(width * (1 - MIDDLE) / 2)
    return picture[top : height - top, left : width - left]
