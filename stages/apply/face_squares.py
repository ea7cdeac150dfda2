"""Where the faces of a photo are, as the squares that a student was trained on.

The detector is that of `stages.faces.detect`: RetinaFace where its weights are, which finds tilted and turned faces,
else the frontal cascade. Both give five points for each face, and the square follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.faces.detect import open_detector

if TYPE_CHECKING:
    import numpy as np

# Where the centres of the eyes, the tip of the nose and the corners of the mouth lie in the square, as shares of its
# side: the mean of the rendered portraits, made symmetrical.
FIVE_POINTS = ((0.3864, 0.4755), (0.6136, 0.4755), (0.5, 0.6048), (0.4095, 0.7115), (0.5905, 0.7115))

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


def open_finder(weights: Path | None = None) -> Finder:
    """The finder to use: uint8 RGB [H, W, 3] -> faces, the largest first.

    Args:
        weights: a folder with facexlib's detection weights, see `open_detector`.

    Raises:
        TristyleError: the folder has no such file, or facexlib or the weights cannot be loaded.
    """
    detector = open_detector(weights)

    def find(photo: np.ndarray) -> list[Face]:
        return sorted((face_of_points(face.points) for face in detector(photo)), key=lambda face: -face.side)

    return find


def face_of_points(points: np.ndarray) -> Face:
    """The square that fits five points best.

    Rotation, scale and shift by least squares (Umeyama, 1991); as complex numbers t -> a t + b with
    a = sum conj(t - t0) (p - p0) / sum |t - t0|^2.

    Args:
        points: [5, 2] in px: eyes, tip of the nose, corners of the mouth, image left first.
    """
    import numpy as np

    template = np.array(FIVE_POINTS) @ (1, 1j)
    seen = np.asarray(points, np.float64) @ (1, 1j)
    centred = template - template.mean()
    a = complex((centred.conj() * (seen - seen.mean())).sum() / (np.abs(centred) ** 2).sum())
    centre = seen.mean() + a * ((0.5 + 0.5j) - template.mean())
    return Face(float(centre.real), float(centre.imag), abs(a), math.atan2(a.imag, a.real))
