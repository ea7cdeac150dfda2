"""One picture through the student, whole frame, laid over the photo at the photo's own size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stages.apply.model import run_padded, trained_size

if TYPE_CHECKING:
    import numpy as np


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


def cut_out(photo: np.ndarray, painted: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """What was painted, without its background: uint8 [H, W, 4], transparent where the matte is 0.

    A half-covered pixel shows paint and photo mixed; kept is the paint alone, (painted - (1 - a) photo) / a, so that no
    rim of the old background stays.
    """
    import numpy as np

    share = matte[..., None]
    paint = photo + (painted.astype(np.float32) - photo) / np.maximum(share, 0.1)
    colour = np.where(share > 0, np.clip(np.rint(paint), 0, 255), 0).astype(np.uint8)
    return np.concatenate([colour, np.rint(share * 255).astype(np.uint8)], axis=2)
