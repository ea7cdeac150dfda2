"""One picture: read, stylised as a whole frame, laid over the photo at the photo's own size, cut out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.apply.model import run_padded, trained_size

if TYPE_CHECKING:
    import numpy as np

LEAST = 16  # px a side of a photo
LONGEST = 8192  # px, the longer side at which the network works at most: a strip of paper would fill the memory
SOLID = 0.4  # of the matte: from here on a pixel counts as wholly the head's
SPECK = 0.02  # of the largest piece's area: smaller pieces are left out of a cut-out
GAP = 0.04  # of a piece's size: gaps up to this are closed


# ----------------------------------------------------------------------------------------------------------- reading


def read_photo(path: Path) -> np.ndarray:
    """Read a still picture as it looks, transparent parts white: uint8 sRGB [H, W, 3].

    Raises:
        ImageError: missing, not a picture, broken, animated, under LEAST px a side or over MAX_PIXELS in all; the line
            names file and remedy.
    """
    from stages.core import decode

    # A person names their own picture here, so TIFF is read too, which a data set may not hold.
    picture = decode.read(path, formats=(*decode.FORMATS, "TIFF"))
    if picture.frames > 1:
        frames = f"animated, {picture.frames} frames"
        raise decode.ImageError(f"{path}: {frames}. Save one as a picture, or give -o an .mp4 for all of them.")
    height, width = picture.pixels.shape[:2]
    if min(height, width) < LEAST:
        raise decode.ImageError(f"{path}: {width}x{height} pixels are too few. Give at least {LEAST} px a side.")
    return picture.pixels


# ---------------------------------------------------------------------------------------------------------- painting


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

    # At the photo's own size nothing has to be laid over it.
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
    up(o) + (1 - up(a)) (p - up(s)): the less is painted at a place, the more of the photo's detail stays there.

    Args:
        photo: uint8 [H, W, 3].
        small: the network's input, uint8 [h, w, 3].
        painted: its output, float32 [h, w, 3] in 0..255.
        alpha: its matte, float32 [h, w, 1] in 0..1.
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


# ---------------------------------------------------------------------------------------------------------- cut-outs


def silhouette(matte: np.ndarray) -> np.ndarray:
    """Fill the outline of what was painted.

    A student paints a head unevenly: lips hardly at all where their colour may stay. A cut-out needs the whole head.

    Args:
        matte: float32 [H, W] in 0..1.

    Returns:
        float32 [H, W] in 0..1.
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

        # Draw the filled piece with a margin and close its gaps there: no border of the picture is in the way.
        left, top, width, height = cv2.boundingRect(piece)
        rim = max(1, round(GAP * max(width, height)))
        one = np.zeros((height + 4 * rim, width + 4 * rim), np.uint8)
        cv2.drawContours(one, [piece], -1, 1, cv2.FILLED, offset=(2 * rim - left, 2 * rim - top))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
        closed = cv2.morphologyEx(one, cv2.MORPH_CLOSE, disc)[2 * rim : -2 * rim, 2 * rim : -2 * rim]
        part = filled[top : top + height, left : left + width]
        np.maximum(part, closed, out=part)

    # Wholly inside the outline; outside only a soft rim.
    near = cv2.dilate(filled, np.ones((5, 5), np.uint8))
    return np.where(filled > 0, np.maximum(soft, cv2.GaussianBlur(filled.astype(np.float32), (0, 0), 1.0)), soft * near)


def cut_out(painted: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """Cut out what was painted.

    At the rim, paint and old background are mixed. Its colour is taken from further inside, so that no rim of the
    background comes along.

    Args:
        painted: uint8 [H, W, 3].
        matte: float32 [H, W] in 0..1, where it was painted.

    Returns:
        uint8 [H, W, 4], the background transparent.
    """
    import cv2
    import numpy as np

    share = silhouette(matte)
    rim = 1 + round(max(share.shape) / 200)  # px, about as wide as the mixed ones are
    kernel = np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)
    inner = cv2.erode((share > 0.95).astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE)

    # Spread the inner colours outward, weighted by where they come from.
    weight = cv2.GaussianBlur(inner, (0, 0), 2 * rim)[..., None]
    spread = cv2.GaussianBlur(painted * inner[..., None], (0, 0), 2 * rim) / np.maximum(weight, 1e-6)
    mixed = (inner == 0)[..., None] & (weight > 1e-4)
    colour = np.where(mixed, np.clip(np.rint(spread), 0, 255), painted)
    colour = np.where(share[..., None] > 0, colour, 0).astype(np.uint8)
    return np.concatenate([colour, np.rint(share[..., None] * 255).astype(np.uint8)], axis=2)
