"""Where the faces of a photo are, as the squares that a student was trained on.

The detector is that of `stages.faces.detect`: RetinaFace where its weights are, which finds tilted and turned faces,
else the frontal cascade. Both give five points for each face, and the square follows from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.faces.detect import CascadeDetector, open_detector

if TYPE_CHECKING:
    import numpy as np

Finder = Callable[["np.ndarray"], "list[Face]"]


@dataclass(frozen=True)
class Face:
    """The square around a head, as the training pictures have it: centre and side in px, tilt in radians (clockwise).

    Pixel (0, 0) has its centre at 0, 0.
    """

    x: float
    y: float
    side: float
    tilt: float = 0.0


def open_finder(weights: Path | None = None, *, still: bool = True) -> Finder:
    """The finder to use: uint8 RGB [H, W, 3] -> faces, the largest first.

    Args:
        weights: a folder with facexlib's detection weights, see `open_detector`.
        still: it looks at single pictures, which may lie on a side: there the cascade's false alarms are no faces.

    Raises:
        TristyleError: the folder has no such file, or facexlib or the weights cannot be loaded.
    """
    detector = open_detector(weights)

    def find(photo: np.ndarray) -> list[Face]:
        found = detector(photo)
        if still and isinstance(detector, CascadeDetector) and detector.lies(photo, found):
            return []
        return sorted((face_of_points(face.points) for face in found), key=lambda face: -face.side)

    return find


def face_of_points(points: np.ndarray) -> Face:
    """The square that fits five points best, see `portrait_square`.

    Args:
        points: [5, 2] in px: eyes, tip of the nose, corners of the mouth, image left first.
    """
    from stages.faces.align import portrait_square  # NumPy comes with it, which --help does not wait for

    return Face(*portrait_square(points))
