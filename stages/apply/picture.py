"""One picture through the student, whole frame, laid over the photo at the photo's own size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stages.apply.model import run_padded, trained_size

if TYPE_CHECKING:
    import numpy as np


LONGEST = 8192  # px, the longer side at which the network works at most: a strip of paper would fill the memory


def stylize(session: Any, photo: np.ndarray, size: int | None = None) -> np.ndarray:
    """Stylise a whole photo: the picture alone of `paint_whole`, uint8 [H, W, 3]."""
    return paint_whole(session, photo, size)[0]


def paint_whole(session: Any, photo: np.ndarray, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Stylise a whole photo.

    Args:
        session: see `open_model`.
        photo: uint8 [H, W, 3] RGB of any size.
        size: shorter side at which the network works; None = the size noted in the model, else the photo's own.

    Returns:
        uint8 [H, W, 3] (see `lay`; an unscaled photo gives the network's output itself) and the matte, float32 [H, W]
        in 0..1: where it was painted.
    """
    import cv2
    import numpy as np

    height, width = photo.shape[:2]
    scale = (size or trained_size(session) or min(height, width)) / min(height, width)
    scale = min(scale, LONGEST / max(height, width))
    if scale == 1:
        output, alpha = run_padded(session, photo)
        return np.clip(np.rint(output), 0, 255).astype(np.uint8), alpha[..., 0]
    reduced = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(photo, reduced, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    painted, alpha = run_padded(session, small)

    def enlarge(plane: np.ndarray) -> np.ndarray:
        return cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC)

    return lay(photo, small, painted, alpha, enlarge)


def lay(
    photo: np.ndarray,
    small: np.ndarray,
    painted: np.ndarray,
    alpha: np.ndarray,
    enlarge: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Lay what the network painted at its size over the photo at the photo's.

    With p the photo, s its reduction, o = s + a (c - s) the network's output and "up" the enlargement:
    up(o) + (1 - up(a)) (p - up(s)), so the photo's detail stays in the measure that nothing is painted there.

    Args:
        photo: uint8 [H, W, 3].
        small, painted, alpha: the network's input (uint8), output (float32, 0..255) and matte: [h, w, 3], 3 and 1.
        enlarge: float32 [h, w] -> [H, W]. It is called a channel at a time: a photo may have 64 million pixels.

    Returns:
        uint8 [H, W, 3], and up(a) as float32 [H, W] in 0..1.
    """
    import numpy as np

    matte = np.clip(enlarge(np.ascontiguousarray(alpha[..., 0])), 0, 1)
    out = np.empty_like(photo)
    for channel in range(3):
        plane = enlarge(np.ascontiguousarray(painted[..., channel]))
        detail = photo[..., channel] - enlarge(small[..., channel].astype(np.float32))
        plane += (1 - matte) * detail
        out[..., channel] = np.clip(np.rint(plane), 0, 255)
    return out, matte


SOLID = 0.4  # of the matte: from here on a pixel counts as wholly the head's
SPECK = 0.02  # of the largest piece's area: smaller pieces are left out of a cut-out
GAP = 0.04  # of a piece's size: gaps up to this are closed


def silhouette(matte: np.ndarray) -> np.ndarray:
    """The outline of what was painted, filled: float32 [H, W] in 0..1 of a matte of the same kind.

    A student paints a head unevenly, lips hardly at all where their colour may stay. A cut-out wants all of it.
    """
    import cv2
    import numpy as np

    soft = np.clip(matte / SOLID, 0, 1)
    core = (soft > 0.5).astype(np.uint8)
    pieces, _ = cv2.findContours(core, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(piece) for piece in pieces]
    filled = np.zeros_like(core)
    for piece, area in zip(pieces, areas, strict=True):
        if area < SPECK * max(areas):
            continue
        left, top, width, height = cv2.boundingRect(piece)
        rim = max(1, round(GAP * max(width, height)))
        one = np.zeros((height + 4 * rim, width + 4 * rim), np.uint8)
        cv2.drawContours(one, [piece], -1, 1, cv2.FILLED, offset=(2 * rim - left, 2 * rim - top))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
        closed = cv2.morphologyEx(one, cv2.MORPH_CLOSE, disc)[2 * rim : -2 * rim, 2 * rim : -2 * rim]
        part = filled[top : top + height, left : left + width]
        np.maximum(part, closed, out=part)
    near = cv2.dilate(filled, np.ones((5, 5), np.uint8))
    return np.where(filled > 0, np.maximum(soft, cv2.GaussianBlur(filled.astype(np.float32), (0, 0), 1.0)), soft * near)


def cut_out(painted: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """What was painted, without its background: uint8 [H, W, 4] of uint8 [H, W, 3] and where it was painted.

    At the rim paint and old background are mixed; its colour is taken from further inside, so that no rim of the
    background comes along.
    """
    import cv2
    import numpy as np

    share = silhouette(matte)
    rim = 1 + round(max(share.shape) / 200)  # px, about as wide as the mixed ones are
    kernel = np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)
    inner = cv2.erode((share > 0.95).astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE)
    weight = cv2.GaussianBlur(inner, (0, 0), 2 * rim)[..., None]
    spread = cv2.GaussianBlur(painted * inner[..., None], (0, 0), 2 * rim) / np.maximum(weight, 1e-6)
    mixed = (inner == 0)[..., None] & (weight > 1e-4)
    colour = np.where(mixed, np.clip(np.rint(spread), 0, 255), painted)
    colour = np.where(share[..., None] > 0, colour, 0).astype(np.uint8)
    return np.concatenate([colour, np.rint(share[..., None] * 255).astype(np.uint8)], axis=2)
