"""Photos from anywhere, as `stylize` wants them: a still picture, large enough to show something.

What cannot be used is refused with the reason and the remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import decode
from stages.core.decode import ImageError
from stages.core.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import numpy as np

LEAST = 16  # px a side
FORMATS = (*decode.FORMATS, "TIFF")  # beyond what a data set may hold: here a person names a picture of theirs

__all__ = ["IMAGE_SUFFIXES", "LEAST", "read_photo"]


def read_photo(path: Path) -> np.ndarray:
    """A still picture as it looks, transparent parts white -> uint8 sRGB [H, W, 3].

    Raises:
        ImageError: missing, not a picture, broken, animated, under LEAST px a side or over MAX_PIXELS in all; the line
            names file and remedy.
    """
    picture = decode.read(path, formats=FORMATS)
    if picture.frames > 1:
        frames = f"animated, {picture.frames} frames"
        raise ImageError(f"{path}: {frames}. Save one as a picture, or give -o an .mp4 for all of them.")
    height, width = picture.pixels.shape[:2]
    if min(height, width) < LEAST:
        raise ImageError(f"{path}: {width}x{height} pixels; nothing can be seen in that. Give {LEAST} px a side.")
    return picture.pixels
