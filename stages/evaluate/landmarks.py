"""How near a face reader's landmarks come to Face Mesh's: `python -m stages.evaluate landmarks [options] [FILE...]`.

Pictures are those of `photos/misc256` and `photos/congress` under --data ($TRISTYLE_SHARED/data without it). RetinaFace
finds the largest face, Face Mesh (`facemesh.pth`, beside it in --weights, DATA/weights without) its points; a picture
without a sure face is left out. The face is cut out along its FFHQ square and read.

The 51 points of brows, nose, eyes and mouth are compared. Jaws are not: Face Mesh's lie within the face, and begin
higher than those of iBUG 300-W. A jaw counts by the distance of its lower nine points from where the face ends in the
true masks of the held-out fifth of `parsing_gt`. All are over the distance of the outer eye corners. A line of JSON for
each reader and set has the mean over the pictures, its 95 % interval and the parts. The shipped reader comes first.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stages.core.consent import usable
from stages.core.images import IMAGE_SUFFIXES, read_image
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.evaluate.parser import portraits
from stages.faces.align import crop, ffhq_quad, to_crop
from stages.faces.detect import SMALLER, RetinaDetector
from stages.faces.landmarks import MESH, MeshLandmarks
from stages.faces.weights import find_weight
from stages.metrics.bootstrap import draw, mean_interval
from stages.metrics.geometry import OUTER_EYES
from stages.networks.face_labels import PARSER_LABELS, numbers
from stages.networks.face_reader import Reader, load_reader

SETS = ("photos/misc256", "photos/congress")
JAW, INNER = slice(4, 13), slice(17, 68)
FACE = numbers(
    PARSER_LABELS, "skin", "nose", "glasses", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip"
)
PARTS = {
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}
SIZE, SURE = 128, 0.9  # side of a cut-out face, px; Face Mesh's least score
CHUNK = 16  # pictures that RetinaFace sees at once


@dataclass(frozen=True)
class Faces:
    """Faces cut out of photographs, and where Face Mesh sees things in them, in shares of the frame.

    Attributes:
        images: uint8 [N, 128, 128, 3].
        points: [N, 68, 2].
    """

    images: np.ndarray
    points: np.ndarray

    @property
    def eyes(self) -> np.ndarray:
        """Distance of the outer eye corners: [N, 1]."""
        first, second = OUTER_EYES
        between: np.ndarray = np.linalg.norm(self.points[:, first] - self.points[:, second], axis=-1)
        return between[:, None]


def faces(folder: Path, weights: Path) -> Faces:
    """The largest face of each picture, if Face Mesh is sure of it.

    Args:
        folder: pictures of any size.
        weights: folder with the weights of RetinaFace and Face Mesh.

    Raises:
        TristyleError: no picture with a face, or weights that are missing.
    """
    detector = RetinaDetector(find_weight(weights, SMALLER), "mobile0.25")
    mesh = MeshLandmarks(find_weight(weights, MESH))
    paths = usable(path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
    images, points = [], []

    for start in range(0, len(paths), CHUNK):
        pictures = [read_image(path) for path in paths[start : start + CHUNK]]
        for picture, found in zip(pictures, detector.batch(pictures), strict=True):
            seen, scores = mesh(picture, [face.points for face in found[:1]])
            if len(seen) and scores[0] >= SURE:
                quad = ffhq_quad(seen[0])
                images.append(crop(picture, quad, SIZE)[0])
                points.append((to_crop(seen[0], quad, SIZE) + 0.5) / SIZE)
    if not images:
        raise TristyleError(f"{folder}: no picture shows a face. Name another folder by --data.")
    return Faces(np.stack(images), np.stack(points))


def errors(reader: Reader, known: Faces) -> np.ndarray:
    """Distance of each landmark from Face Mesh's over that of the outer eye corners: [N, 68]."""
    read = reader.read(to_tensor(known.images)).landmarks.double().numpy()
    apart: np.ndarray = np.linalg.norm(read - known.points, axis=-1)
    apart /= known.eyes
    return apart


def jaw_errors(reader: Reader, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean distance of the lower jaw from where the face ends, over that of the outer eye corners as read: [N].

    Args:
        reader: what is scored.
        images: uint8 [N, S, S, 3].
        labels: uint8 [N, S, S], the face parser's.
    """
    read = reader.read(to_tensor(images)).landmarks.double().numpy() * images.shape[1] - 0.5
    found = []
    for face, points in zip(np.isin(labels, FACE).astype(np.uint8), read, strict=True):
        inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (face, 1 - face))
        x, y = points[JAW].round().astype(int).clip(0, len(face) - 1).T
        apart = np.maximum(inside + outside - 0.5, 0)[y, x].mean()
        found.append(apart / np.linalg.norm(points[OUTER_EYES[0]] - points[OUTER_EYES[1]]))
    return np.array(found)


def scores(reader: Reader, sets: dict[str, Faces]) -> Iterator[dict[str, object]]:
    """What a reader scores on each set; the interval is over the pictures, a person each in these sets."""
    for name, known in sets.items():
        each = errors(reader, known)
        middle = mean_interval(each[:, INNER].mean(1), draw([str(number) for number in range(len(each))]))
        yield {
            "reader": reader.id,
            "set": name,
            "pictures": len(each),
            "error": round(middle.value, 4),
            "error_95": [round(middle.low, 4), round(middle.high, 4)],
            **{part: round(float(each[:, rows].mean()), 4) for part, rows in PARTS.items()},
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each reader and set."""
    options = argparse.ArgumentParser(
        prog="python -m stages.evaluate landmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--data", type=Path, default=Path(os.environ.get("TRISTYLE_SHARED", "../shared")) / "data")
    options.add_argument("--weights", type=Path, help="folder with the weights of RetinaFace and Face Mesh")
    options.add_argument("files", nargs="*", help="weights of face readers")
    given = options.parse_args(arguments)

    weights = given.weights or given.data / "weights"
    sets = {name: faces(given.data / name, weights) for name in SETS}
    images, labels, people = portraits(given.data)
    for path in (None, *given.files):
        reader = load_reader(path=path)
        for line in scores(reader, sets):
            print(json.dumps(line), flush=True)
        jaw = mean_interval(jaw_errors(reader, images, labels), draw(people))
        ends = [round(jaw.low, 4), round(jaw.high, 4)]
        line = {"reader": reader.id, "set": "parsing_gt", "pictures": len(images), "jaw": round(jaw.value, 4)}
        print(json.dumps(line | {"jaw_95": ends}), flush=True)
