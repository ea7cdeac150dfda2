"""Where the faces of a photo are, as the upright squares that a student was trained on.

Two finders: RetinaFace of facexlib, where its weights are (they are never fetched), gives five points a face and so
its tilt; else the local-binary-pattern cascade that scikit-image ships, which sees upright faces from the front, of an
eleventh of the frame or more, and gives a box. A face of the cascade counts if the mirrored photo shows it too: that
leaves a false face in one of some thirty photos, and makes the boxes symmetrical.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.config import TristyleError

if TYPE_CHECKING:
    import numpy as np

# Where the centres of the eyes, the tip of the nose and the corners of the mouth lie in the square, as shares of its
# side: the mean of the painted portraits, made symmetrical.
FIVE_POINTS = ((0.3935, 0.448), (0.6065, 0.448), (0.5, 0.587), (0.4095, 0.674), (0.5905, 0.674))
WEIGHTS = {
    "detection_Resnet50_Final.pth": "resnet50",
    "detection_mobilenet0.25_Final.pth": "mobile0.25",
}
VARIABLE = "TRISTYLE_WEIGHTS"  # a folder with weights in facexlib's file names

Box = tuple[float, float, float]  # left, top, side in px
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
        weights: a folder with facexlib's detection weights; without it the one that $TRISTYLE_WEIGHTS names, else
            facexlib's own, and where there is no such file the cascade.

    Raises:
        TristyleError: the folder named has no such file, or facexlib or the weights cannot be loaded.
    """
    named = weights or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    folders = [named] if named else [Path(place) / "weights" for place in _facexlib()]
    for folder in folders:
        for name, network in WEIGHTS.items():
            if (folder / name).is_file():
                return _retina(folder / name, network)
    if named:
        raise TristyleError(f"{named}: holds none of {', '.join(WEIGHTS)}. Put one there, or leave --weights out.")
    return _cascade()


def _facexlib() -> list[str]:
    spec = importlib.util.find_spec("facexlib")
    return list(spec.submodule_search_locations or []) if spec else []


# ---------------------------------------------------------------------------------------------------------------------
# scikit-image's cascade

SIDE = 320  # px, the longer side of what the cascade searches
SMALLEST = 28  # px: the smallest box it looks for
# The square is this many boxes wide and its centre so much lower, in boxes: between painted and real portraits.
WIDER, LOWER = 1.74, -0.015


def _cascade() -> Finder:
    try:
        from skimage import data, feature
    except ImportError as error:
        raise TristyleError(
            f"scikit-image cannot be imported ({error}). Run: pip install scikit-image, or say --faces never"
        ) from None
    detector = feature.Cascade(data.lbp_frontal_face_cascade_filename())

    def boxes(grey: np.ndarray, least: float = 0, most: float = math.inf) -> list[Box]:
        import numpy as np

        sides = [round(min(max(side, SMALLEST), *grey.shape)) for side in (least, most)]
        found = detector.detect_multi_scale(
            img=np.ascontiguousarray(grey),
            scale_factor=1.1,
            step_ratio=1.4,
            min_size=(sides[0], sides[0]),
            max_size=(sides[1], sides[1]),
            min_neighbor_number=2,
        )
        return [(box["c"], box["r"], box["width"]) for box in found]

    def mirrored(grey: np.ndarray, box: Box) -> list[Box]:
        """What is found around a box in the mirrored picture, in the picture's own pixels."""
        left, top = (max(0, int(start - box[2] / 2)) for start in box[:2])
        part = grey[top : int(box[1] + 1.5 * box[2]), left : int(box[0] + 1.5 * box[2])][:, ::-1]
        found = boxes(part, box[2] * 0.7, box[2] * 1.4)
        return [(left + part.shape[1] - x - side, top + y, side) for x, y, side in found]

    def find(photo: np.ndarray) -> list[Face]:
        import cv2

        height, width = photo.shape[:2]
        scale = SIDE / max(height, width)
        size = (max(SMALLEST, round(width * scale)), max(SMALLEST, round(height * scale)))
        small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        faces = []
        for left, top, side in _largest(_confirmed(box, mirrored(grey, box)) for box in boxes(grey)):
            x, y = (left + side / 2) / scale, (top + side * (0.5 + LOWER)) / scale
            faces.append(Face(x - 0.5, y - 0.5, side * WIDER / scale))
        return faces

    return find


def _confirmed(box: Box, others: list[Box]) -> Box | None:
    """The mean of a box and of the one that overlaps it most; None where none does by 0.4."""
    best = max(others, key=lambda other: _overlap(box, other)[0], default=None)
    if best is None or _overlap(box, best)[0] < 0.4:
        return None
    return (box[0] + best[0]) / 2, (box[1] + best[1]) / 2, (box[2] + best[2]) / 2


def _largest(boxes: Iterable[Box | None]) -> list[Box]:
    """Of boxes that overlap by half of the smaller one, the largest; in order of size."""
    kept: list[Box] = []
    for box in sorted((box for box in boxes if box is not None), key=lambda box: -box[2]):
        if all(_overlap(box, larger)[1] < 0.5 for larger in kept):
            kept.append(box)
    return kept


def _overlap(a: Box, b: Box) -> tuple[float, float]:
    """Intersection over union, and over the smaller box."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[2], b[1] + b[2]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (a[2] ** 2 + b[2] ** 2 - shared), shared / min(a[2], b[2]) ** 2


# ---------------------------------------------------------------------------------------------------------------------
# facexlib's RetinaFace

SEARCHED = 640  # px, the longer side of what RetinaFace sees
SURE = 0.8


def _retina(path: Path, name: str) -> Finder:
    try:
        import warnings

        import torch
        from facexlib.detection.retinaface import RetinaFace
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit its torch fails with the second
        reason = str(error).splitlines()[0]
        raise TristyleError(f"facexlib cannot be imported ({reason}). Run: pip install facexlib") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # facexlib calls torchvision the old way
        network = RetinaFace(network_name=name, device="cpu")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    except Exception as error:  # torch raises a dozen types for damaged archives
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not facexlib's weights of RetinaFace ({reason}). Copy the file again.") from None
    network.eval()

    def find(photo: np.ndarray) -> list[Face]:
        import cv2

        scale = SEARCHED / max(photo.shape[:2])
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        size = tuple(max(16, round(side * scale)) for side in photo.shape[1::-1])
        small = cv2.resize(photo, size, interpolation=method)
        with torch.inference_mode():
            found = network.detect_faces(small[..., ::-1].copy(), SURE)
        faces = [face_of_points((row[5:].reshape(5, 2) + 0.5) / scale - 0.5) for row in found]
        return sorted(faces, key=lambda face: -face.side)

    return find


def face_of_points(points: np.ndarray) -> Face:
    """The square in which five points [5, 2] (px: eyes, nose, corners of the mouth, image left first) lie best.

    Rotation, scale and shift of least squares (Umeyama, 1991); as complex numbers t -> a t + b with
    a = sum conj(t - t0) (p - p0) / sum |t - t0|^2.
    """
    import numpy as np

    template = np.array(FIVE_POINTS) @ (1, 1j)
    seen = np.asarray(points, np.float64) @ (1, 1j)
    centred = template - template.mean()
    a = complex((centred.conj() * (seen - seen.mean())).sum() / (np.abs(centred) ** 2).sum())
    centre = seen.mean() + a * ((0.5 + 0.5j) - template.mean())
    return Face(float(centre.real), float(centre.imag), abs(a), math.atan2(a.imag, a.real))
