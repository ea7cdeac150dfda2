"""Where faces are in a picture: boxes and five points each.

Two detectors. RetinaFace (Deng et al., arXiv 1905.00641) as facexlib builds it, where its weights are: anchors,
decoding and suppression are our own, so that pictures go through in batches and on any device. Else the cascade of
local binary patterns that scikit-image ships: it sees upright faces from the front, of an eleventh of the frame or
more, and gives boxes; its points are where they lie on average, marked as such. A face of the cascade counts if the
mirrored photo shows it too: that leaves a false face in one of some thirty photos, and makes the boxes symmetrical.

Importing this module imports neither torch nor facexlib. Pixel (0, 0) has its centre at 0, 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.settings import TristyleError
from stages.faces import facexlib
from stages.faces.weights import find_weight, weights_folder

if TYPE_CHECKING:
    import numpy as np

    from stages.faces.landmarks import Landmarks

SMALLER = "detection_mobilenet0.25_Final.pth"
RETINAFACE = {"detection_Resnet50_Final.pth": "resnet50", SMALLER: "mobile0.25"}

Box = tuple[float, float, float]  # left, top, side in px


@dataclass(frozen=True)
class Found:
    """A face in a picture.

    Attributes:
        points: float64 [5, 2] px: eyes, tip of the nose, corners of the mouth, image left first.
        box: left, top, right, bottom in px, around the face without hair.
        score: 0..1, RetinaFace's; 1 of the cascade, which has none.
        yaw_deg: turn of the head about the vertical, by the points (see `yaw_of`); None where they were not seen.
        landmarks: float64 [68, 2] px, the 68 of iBUG 300-W; None where no network looked for them or was sure of them.
    """

    points: np.ndarray
    box: tuple[float, float, float, float]
    score: float
    yaw_deg: float | None
    landmarks: np.ndarray | None = None

    @property
    def seen(self) -> bool:
        """Whether the points were seen, rather than laid into the box where they are on average."""
        return self.yaw_deg is not None


class Detector(ABC):
    """Finds faces.

    Attributes:
        id: kind, and the first 8 hex digits of the weights' sha256; belongs beside every number made with it.
    """

    id: str

    @abstractmethod
    def __call__(self, picture: np.ndarray) -> list[Found]:
        """Faces of a picture, uint8 RGB [H, W, 3], the largest first."""


def find_detector(weights: Path | str | None = None) -> Path | None:
    """The file of RetinaFace's weights that `open_detector` uses; None for the cascade. Arguments, errors as there."""
    from stages.faces.landmarks import find_landmarks

    named = weights_folder(weights)
    installed = facexlib.folder()
    folders = [named] if named else [installed / "weights"] if installed else []
    found = (folder / name for folder in folders for name in RETINAFACE if (folder / name).is_file())
    file = next(found, None)
    if named and file is None and find_landmarks(named) is None:
        try:
            find_weight(named, SMALLER)
        except TristyleError as error:
            raise TristyleError(f"{error}; or name no folder, and the cascade is used.") from None
    return file


def open_detector(weights: Path | str | None = None, device: str = "cpu") -> Detector:
    """The detector to use.

    Where the folder holds weights for landmarks too (see `stages.faces.landmarks`), they sharpen the points: of the
    cascade, which saw none, and of RetinaFace.

    Args:
        weights: a folder with facexlib's detection weights; without it the one that $TRISTYLE_WEIGHTS names, else
            facexlib's own, and where there is no such file the cascade.
        device: where the networks run, e.g. `cuda:0`.

    Raises:
        TristyleError: the folder named has no such file, or facexlib or the weights cannot be loaded.
    """
    from stages.faces.landmarks import open_landmarks

    file = find_detector(weights)
    detector: Detector = CascadeDetector()
    if file is not None:
        detector = RetinaDetector(find_weight(file.parent, file.name), RETINAFACE[file.name], device)
    landmarks = open_landmarks(weights, device)
    return detector if landmarks is None else SharpDetector(detector, landmarks)


def yaw_of(points: np.ndarray) -> float:
    """How far a head is turned by its five points [5, 2], degrees; positive when the nose points to image right.

    The tip of the nose stands NOSE eye distances before the eyes; seen turned by a, it lies NOSE tan(a) distances
    beside the middle of the face. Full profiles read low, as their far eye is guessed.
    """
    import numpy as np

    five = np.asarray(points, np.float64)
    across = five[1] - five[0]
    middle = (five[:2].mean(0) + five[3:].mean(0)) / 2
    beside = float((five[2] - middle) @ across) / max(float(across @ across), 1e-9)
    return math.degrees(math.atan(beside / NOSE))


NOSE = 0.45  # some 28 mm before the plane of eyes and corners of the mouth, at 63 mm from eye to eye


# ---------------------------------------------------------------------------------------------------------------------
# Sharper points

TRUSTED = 0.9  # the landmarks' score from which their points replace those of the detector
PROFILE = 60.0  # degrees: beyond, they are drawn into the face from where the far side would be
NO_FACE = 0.5  # below it, the cascade's find is not a face


class SharpDetector(Detector):
    """A detector whose faces a network for landmarks looks at again.

    A face of the cascade that does not look like one to it is left out.
    """

    def __init__(self, detector: Detector, landmarks: Landmarks) -> None:
        self.detector, self.landmarks = detector, landmarks
        self.id = f"{detector.id}+{landmarks.id}"

    def __call__(self, picture: np.ndarray) -> list[Found]:
        """Faces of a picture uint8 RGB [H, W, 3], the largest first."""
        found = self.detector(picture)
        seen, scores = self.landmarks(picture, [face.points for face in found])
        return [
            self._sharpened(face, points, float(score))
            for face, points, score in zip(found, seen, scores, strict=True)
            if face.seen or score >= NO_FACE
        ]

    def _sharpened(self, face: Found, landmarks: np.ndarray, score: float) -> Found:
        from stages.faces.align import five_of_68

        if score < TRUSTED or abs(face.yaw_deg or 0.0) > PROFILE:
            return face
        points = five_of_68(landmarks)
        return replace(face, points=points, yaw_deg=yaw_of(points), landmarks=landmarks)


# ---------------------------------------------------------------------------------------------------------------------
# facexlib's RetinaFace

SEARCHED = 640  # px, the longer side of what RetinaFace sees; faces from some 2.5 % of it on are found
SURE = 0.8
SAME = 0.4  # intersection over union from which two boxes are one face
AGREE = 0.5  # and from which both say where its points are
# Anchors by level: step and sides in px; and what the regressed numbers are multiplied with (facexlib's configuration).
LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
VARIANCE = (0.1, 0.2)
MEAN_BGR = (104.0, 117.0, 123.0)


class RetinaDetector(Detector):
    """RetinaFace with a file of weights.

    Raises:
        TristyleError: facexlib cannot be imported, or the file does not fit.
    """

    def __init__(self, path: Path, name: str, device: str = "cpu") -> None:
        from stages.core.files import sha256_file

        self.network, self.device = _retinaface(path, name, device), device
        self.id = f"retinaface-{name}-{sha256_file(path)[:8]}"

    def __call__(self, picture: np.ndarray) -> list[Found]:
        """Faces of a picture uint8 [H, W, 3], the largest first."""
        return self.batch([picture])[0]

    def batch(self, pictures: Sequence[np.ndarray]) -> list[list[Found]]:
        """As a call, for several pictures at once; they may differ in size."""
        import cv2
        import numpy as np
        import torch

        scales = [SEARCHED / max(picture.shape[:2]) for picture in pictures]
        small = []
        for picture, scale in zip(pictures, scales, strict=True):
            size = tuple(max(16, round(length * scale)) for length in picture.shape[1::-1])
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            small.append(cv2.resize(picture, size, interpolation=method)[..., ::-1] - np.array(MEAN_BGR, np.float32))
        height, width = (max(picture.shape[axis] for picture in small) for axis in (0, 1))
        batch = np.zeros((len(small), height, width, 3), np.float32)
        for place, picture in zip(batch, small, strict=True):
            place[: picture.shape[0], : picture.shape[1]] = picture
        with torch.inference_mode():
            tensor = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).contiguous()
            boxes, scores, points = (out.float().cpu().numpy() for out in self.network(tensor))
        anchors = _anchors(height, width)
        results = []
        for scale, box, score, point, picture in zip(scales, boxes, scores[..., 1], points, small, strict=True):
            sure = score > SURE
            row = _decode(anchors[sure], box[sure], point[sure])
            across, down = row[:, 0::2], row[:, 1::2]
            centre = (across[:, 0] + across[:, 1]) / 2, (down[:, 0] + down[:, 1]) / 2
            within = (centre[0] < picture.shape[1]) & (centre[1] < picture.shape[0])
            row = (row + 0.5) / scale - 0.5
            results.append(_vote(np.concatenate([score[sure][:, None], row], axis=1)[within]))
        return results


def _retinaface(path: Path, name: str, device: str) -> Any:
    import torch

    from stages.faces.facexlib import retinaface

    network = retinaface(name)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    except Exception as error:  # torch raises a dozen types for damaged archives
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not facexlib's weights of RetinaFace ({reason}). Copy the file again.") from None
    return network.to(device).eval().requires_grad_(False)


def _anchors(height: int, width: int) -> np.ndarray:
    """Centre and side of all anchors of a picture, px: [A, 3] in the order of the network's outputs."""
    import numpy as np

    parts = []
    for step, sides in LEVELS:
        rows, columns = math.ceil(height / step), math.ceil(width / step)
        y, x, side = np.meshgrid(
            (np.arange(rows) + 0.5) * step, (np.arange(columns) + 0.5) * step, sides, indexing="ij"
        )
        parts.append(np.stack([x, y, side], axis=-1).reshape(-1, 3))
    return np.concatenate(parts)


def _decode(anchors: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[F, 3] anchors, [F, 4] and [F, 10] regressed numbers -> box (l, t, r, b) and points, [F, 14] px.

    Paper, section 3.1: offsets are in anchor sides, the logarithm of the size against the anchor's.
    """
    import numpy as np

    side = anchors[:, 2:]
    centre = anchors[:, :2] + boxes[:, :2] * VARIANCE[0] * side
    half = side * np.exp(boxes[:, 2:] * VARIANCE[1]) / 2
    placed = np.tile(anchors[:, :2], 5) + points * VARIANCE[0] * side
    return np.concatenate([centre - half, centre + half, placed], axis=1) - 0.5  # edges count from the first pixel's


def _vote(rows: np.ndarray) -> list[Found]:
    """Faces of rows [R, 15] (score, box, points), the largest first.

    Of boxes that overlap by SAME the surest stays. It and the points become the mean, weighted by score, of those that
    overlap it by AGREE. On the ground-truth eyes that takes a fifth off the 95th percentile of the points' error.
    """
    import numpy as np
    import torch
    from torchvision.ops import box_iou, nms

    rows = rows[(-rows[:, 0]).argsort(kind="stable")].astype(np.float64)
    boxes = torch.from_numpy(rows[:, 1:5])
    kept = nms(boxes, torch.from_numpy(rows[:, 0]), SAME)
    agreeing = (box_iou(boxes[kept], boxes) >= AGREE).numpy()

    faces = []
    for index, agree in zip(kept.tolist(), agreeing, strict=True):
        mean = np.average(rows[agree], axis=0, weights=rows[agree, 0])
        points, box = mean[5:].reshape(5, 2), mean[1:5].tolist()
        faces.append(Found(points, (box[0], box[1], box[2], box[3]), float(rows[index, 0]), yaw_of(points)))
    return sorted(faces, key=lambda face: -(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


# ---------------------------------------------------------------------------------------------------------------------
# scikit-image's cascade

SIDE = 320  # px, the longer side of what the cascade searches
SMALLEST = 28  # px: the smallest box it looks for
# Where the five points lie in a box of the cascade, as shares of its side: between painted and real portraits.
IN_BOX = ((0.3147, 0.3945), (0.6853, 0.3945), (0.5, 0.6364), (0.3425, 0.7878), (0.6575, 0.7878))

SMALL = 0.42  # of the picture's shorter side: a larger face is believed, however the picture lies
LARGER = 1.5  # times as large is the face of a turned picture that makes a false alarm of the one found
FEW = 2  # more faces than these are not false alarms


class CascadeDetector(Detector):
    """The frontal cascade, on the photo and its mirror image.

    Raises:
        TristyleError: scikit-image cannot be imported.
    """

    id = "cascade"

    def __init__(self) -> None:
        try:
            from skimage import data, feature
        except ImportError as error:
            raise TristyleError(
                f"scikit-image cannot be imported ({error}). Run: pip install scikit-image; or let no faces be looked "
                "for (stylize: --faces never)"
            ) from None
        self.cascade = feature.Cascade(data.lbp_frontal_face_cascade_filename())

    def __call__(self, picture: np.ndarray) -> list[Found]:
        """Faces of a picture uint8 [H, W, 3], the largest first."""
        import numpy as np

        grey, scale = self._reduced(picture)
        faces = []
        for box in _largest(_confirmed(box, self._mirrored(grey, box)) for box in self._boxes(grey)):
            left, top, side = (length / scale for length in box)
            points = np.array(IN_BOX) * side + [left - 0.5, top - 0.5]
            faces.append(Found(points, (left - 0.5, top - 0.5, left + side - 0.5, top + side - 0.5), 1.0, None))
        return faces

    def lies(self, picture: np.ndarray, found: list[Found]) -> bool:
        """Whether a picture seems to lie on its side or head, so that what was found is a false alarm.

        It does where one or two small faces were found, and a far larger one when it is turned. Measured without the
        limit FEW: of 268 upright portraits none is taken for lying; of 56 that lie on a side with a false alarm, 53.

        Args:
            picture: uint8 [H, W, 3].
            found: its faces, the largest first.
        """
        import numpy as np

        side = found[0].box[2] - found[0].box[0] if found else 0.0
        if not 0 < side < SMALL * min(picture.shape[:2]) or len(found) > FEW:
            return False
        grey, scale = self._reduced(picture)
        least = LARGER * side * scale
        turned = (np.ascontiguousarray(np.rot90(grey, quarters)) for quarters in (1, 3, 2))
        return any(_confirmed(box, self._mirrored(view, box)) for view in turned for box in self._boxes(view, least))

    def _reduced(self, picture: np.ndarray) -> tuple[np.ndarray, float]:
        """A picture's grey values at SIDE px, and the scale."""
        import cv2

        height, width = picture.shape[:2]
        scale = SIDE / max(height, width)
        size = (max(SMALLEST, round(width * scale)), max(SMALLEST, round(height * scale)))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), scale

    def _boxes(self, grey: np.ndarray, least: float = 0, most: float = math.inf) -> list[Box]:
        import numpy as np

        sides = [round(min(max(side, SMALLEST), *grey.shape)) for side in (least, most)]
        found = self.cascade.detect_multi_scale(
            img=np.ascontiguousarray(grey),
            scale_factor=1.1,
            step_ratio=1.4,
            min_size=(sides[0], sides[0]),
            max_size=(sides[1], sides[1]),
            min_neighbor_number=2,
        )
        return [(box["c"], box["r"], box["width"]) for box in found]

    def _mirrored(self, grey: np.ndarray, box: Box) -> list[Box]:
        """What is found around a box in the mirrored picture, in the picture's own pixels."""
        left, top = (max(0, int(start - box[2] / 2)) for start in box[:2])
        part = grey[top : int(box[1] + 1.5 * box[2]), left : int(box[0] + 1.5 * box[2])][:, ::-1]
        found = self._boxes(part, box[2] * 0.7, box[2] * 1.4)
        return [(left + part.shape[1] - x - side, top + y, side) for x, y, side in found]


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
