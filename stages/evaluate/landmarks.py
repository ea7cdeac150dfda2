"""How near a face reader's landmarks come to Face Mesh's: `python -m stages.evaluate landmarks [options] [FILE...]`.

Pictures are those of `photos/misc256` and `photos/congress` under --data ($TRISTYLE_SHARED/data without it). RetinaFace
finds the largest face, Face Mesh (`facemesh.pth`, beside it in --weights, DATA/weights without) its points; a picture
without a sure face is left out. The face is cut out along its FFHQ square and read.

All 68 points are compared: jaw, brows, nose, eyes, mouth. The two conventions differ by themselves, most at the jaw. An
error is the mean distance over the distance of the outer eye corners. A line of JSON for each reader and set has the
mean over the pictures, its 95 % interval and the parts. The shipped reader comes first.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from stages.core.images import IMAGE_SUFFIXES, read_image
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.faces.align import crop, ffhq_quad, to_crop
from stages.faces.detect import SMALLER, RetinaDetector
from stages.faces.landmarks import MESH, MeshLandmarks
from stages.faces.weights import find_weight
from stages.metrics.bootstrap import draw, mean_interval
from stages.metrics.geometry import OUTER_EYES
from stages.networks.face_reader import Reader, load_reader

SETS = ("photos/misc256", "photos/congress")
PARTS = {
    "jaw": range(17),
    "brows": range(17, 27),
    "nose": range(27, 36),
    "eyes": range(36, 48),
    "mouth": range(48, 68),
}
SIZE, SURE = 128, 0.9  # side of a cut-out face, px; Face Mesh's least score
CHUNK = 16  # pictures that RetinaFace sees at once


def faces(folder: Path, weights: Path) -> tuple[np.ndarray, np.ndarray]:
    """The largest face of each picture, cut out: uint8 [N, 128, 128, 3], and Face Mesh's 68, [N, 68, 2] in shares.

    Raises:
        TristyleError: no picture with a face, or weights that are missing.
    """
    detector = RetinaDetector(find_weight(weights, SMALLER), "mobile0.25")
    mesh = MeshLandmarks(find_weight(weights, MESH))
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
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
    return np.stack(images), np.stack(points)


def errors(reader: Reader, images: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance of each landmark over that of the outer eye corners: [N, 68]."""
    parts = [reader.read(to_tensor(images[start : start + 64])).landmarks for start in range(0, len(images), 64)]
    read = torch.cat(parts).double().numpy()
    between = np.linalg.norm(points[:, OUTER_EYES[0]] - points[:, OUTER_EYES[1]], axis=-1)
    distances: np.ndarray = np.linalg.norm(read - points, axis=-1) / between[:, None]
    return distances


def scores(reader: Reader, sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[dict[str, object]]:
    """What a reader scores on each set; the interval is over the pictures, a person each in these sets."""
    for name, (images, points) in sets.items():
        each = errors(reader, images, points)
        middle = mean_interval(each.mean(1), draw([str(number) for number in range(len(each))]))
        yield {
            "reader": reader.id,
            "set": name,
            "pictures": len(each),
            "error": round(middle.value, 4),
            "error_95": [round(middle.low, 4), round(middle.high, 4)],
            **{part: round(float(each[:, list(rows)].mean()), 4) for part, rows in PARTS.items()},
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
