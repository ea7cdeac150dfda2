"""How near a face reader's landmarks come to Face Mesh's: `python -m stages.evaluate landmarks [options] [FILE...]`.

Pictures are those of `photos/misc256` and `photos/congress` under --data ($TRISTYLE_SHARED/data without it). RetinaFace
finds the largest face, Face Mesh (`facemesh.pth`, beside it in --weights, DATA/weights without) its points; a picture
without a sure face is left out. The face is cut out along its FFHQ square and read.

The 51 points of brows, nose, eyes and mouth are compared one by one. Where the 17 points lie along a jaw is a matter of
convention (Face Mesh's begin higher than those of iBUG 300-W). So a jaw counts by its distance from the outline of Face
Mesh's oval, and is not in `error`. All are over the distance of the outer eye corners. A line of JSON for each reader
and set has the mean over the pictures, its 95 % interval and the parts. The shipped reader comes first.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.core.images import IMAGE_SUFFIXES, read_image
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.faces.align import crop, ffhq_quad, to_crop
from stages.faces.detect import SMALLER, RetinaDetector
from stages.faces.landmarks import MESH, MeshLandmarks, from_468
from stages.faces.weights import find_weight
from stages.metrics.bootstrap import draw, mean_interval
from stages.metrics.geometry import OUTER_EYES
from stages.networks.face_reader import Reader, load_reader
from stages.networks.facemesh import OVAL

SETS = ("photos/misc256", "photos/congress")
JAW, INNER = slice(17), slice(17, 68)
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
        oval: [N, 36, 2], a closed line around the face.
    """

    images: np.ndarray
    points: np.ndarray
    oval: np.ndarray

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
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    images, points, ovals = [], [], []

    for start in range(0, len(paths), CHUNK):
        pictures = [read_image(path) for path in paths[start : start + CHUNK]]
        for picture, found in zip(pictures, detector.batch(pictures), strict=True):
            seen, scores = mesh.mesh(picture, [face.points for face in found[:1]])
            if not len(seen) or scores[0] < SURE:
                continue
            landmarks = from_468(seen[0])
            quad = ffhq_quad(landmarks)
            images.append(crop(picture, quad, SIZE)[0])
            points.append((to_crop(landmarks, quad, SIZE) + 0.5) / SIZE)
            ovals.append((to_crop(seen[0][list(OVAL), :2], quad, SIZE) + 0.5) / SIZE)
    if not images:
        raise TristyleError(f"{folder}: no picture shows a face. Name another folder by --data.")
    return Faces(np.stack(images), np.stack(points), np.stack(ovals))


def errors(reader: Reader, known: Faces) -> np.ndarray:
    """Error of each landmark over the distance of the outer eye corners, [N, 68]; a jaw's is that from the outline."""
    read = reader.read(to_tensor(known.images)).landmarks.double().numpy()
    apart: np.ndarray = np.linalg.norm(read - known.points, axis=-1)
    apart[:, JAW] = from_outline(read[:, JAW], known.oval)
    apart /= known.eyes
    return apart


def from_outline(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Distance of points [N, P, 2] from closed lines through [N, C, 2]: [N, P]."""
    start = outline[:, None]  # [N, 1, C, 2]
    edge = np.roll(outline, -1, axis=1)[:, None] - start
    beside = points[:, :, None] - start  # [N, P, C, 2]
    length = np.maximum((edge**2).sum(-1), 1e-12)
    along = np.clip((beside * edge).sum(-1) / length, 0, 1)
    distance: np.ndarray = np.linalg.norm(beside - along[..., None] * edge, axis=-1).min(-1)
    return distance


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
            "jaw_from_outline": round(float(each[:, JAW].mean()), 4),
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
    for path in (None, *given.files):
        for line in scores(load_reader(path=path), sets):
            print(json.dumps(line), flush=True)
