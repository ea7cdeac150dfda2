"""Do other people's networks read rendered portraits like photographs? `python -m stages.evaluate realism [options]`.

RetinaFace finds the face, Face Mesh its points, and face-api's networks read age, sex and smile (`age_gender.onnx` and
`face_expression.onnx` in --weights/face_api, MIT; they are for measuring alone). Photographs are those of DATA's
portraits (--data, $TRISTYLE_SHARED/data without it). Rendered people are the held-out ones, a photo and a view each.

A set is a line: pictures; with a face (RetinaFace); with sure points (Face Mesh's score of 0.9 or more); that score's
mean; how sure the sex is (the larger share, mean); in how many the mirrored picture has the same sex; by how
many years its age differs; the tenth, middle and ninetieth percentile of age. Of rendered people, whose truth is known,
also: right sex, mean error and correlation of age, and the area under the curve of the smile.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.core.consent import usable
from stages.core.images import IMAGE_SUFFIXES, read_image
from stages.core.settings import TristyleError
from stages.datasets.people import HELDOUT_PEOPLE, open_people
from stages.faces.align import crop, ffhq_quad
from stages.faces.detect import SMALLER, RetinaDetector
from stages.faces.landmarks import MESH, MeshLandmarks
from stages.faces.weights import find_weight

SETS = ("portraits_hr/studio512", "portraits_hr/wild512", "photos/misc256", "photos/congress")
ALIGNED, SEEN = 320, 112  # sides of the FFHQ square and of what the networks see of it, px
WITHIN = slice(83, 307), slice(48, 272)  # rows and columns: 0.7 of the square, from 0.26 down and 0.15 across
SURE = 0.9  # Face Mesh's score
ADULT, SMILING, STILL = 18, 0.35, 0.15  # years; true smiles above and below count
HEAD = (
    "set",
    "pictures",
    "face",
    "points",
    "score",
    "sex sure",
    "mirrored sex",
    "mirrored age",
    "age 10 50 90",
    "truth",
)


@dataclass(frozen=True)
class Read:
    """What the networks say of one picture; NaN where there is no face. `smile` is the share of happy."""

    found: bool = False
    score: float = np.nan
    age: float = np.nan
    male: float = np.nan
    mirrored_age: float = np.nan
    mirrored_male: float = np.nan
    smile: float = np.nan


class Networks:
    """RetinaFace, Face Mesh and face-api's networks.

    Args:
        weights: the folder that holds them.

    Raises:
        TristyleError: a file is missing.
    """

    def __init__(self, weights: Path) -> None:
        import onnxruntime

        self.detector = RetinaDetector(find_weight(weights, SMALLER), "mobile0.25")
        self.mesh = MeshLandmarks(find_weight(weights, MESH))
        self.sessions, one = [], onnxruntime.SessionOptions()
        one.intra_op_num_threads = one.inter_op_num_threads = 1
        for name in ("age_gender.onnx", "face_expression.onnx"):
            path = weights / "face_api" / name
            if not path.is_file():
                raise TristyleError(
                    f"{path}: no such file. Give --weights DIR with face-api's networks in DIR/face_api."
                )
            self.sessions.append(onnxruntime.InferenceSession(str(path), one, providers=["CPUExecutionProvider"]))

    def read(self, picture: np.ndarray) -> Read:
        """What they say of the largest face of a picture, uint8 [H, W, 3]."""
        found = self.detector(picture)[:1]
        if not found:
            return Read()
        _, scores = self.mesh(picture, [found[0].points])
        square, _ = crop(picture, ffhq_quad(found[0].points), ALIGNED)
        face = square[WITHIN].reshape(SEEN, 2, SEEN, 2, 3).mean((1, 3))

        # Both the face and its mirror image are read; the second of seven moods is happy.
        pair = np.stack([face, face[:, ::-1]]).astype(np.float32).transpose(0, 3, 1, 2)
        age, male = self.sessions[0].run(["age", "p_male"], {"image": pair})
        (mood,) = self.sessions[1].run(["probabilities"], {"image": pair})
        return Read(True, float(scores[0]), age[0], male[0], age[1], male[1], mood[0, 1])


def photographs(folder: Path, most: int) -> Iterator[np.ndarray]:
    """Pictures of a folder, evenly chosen by name.

    Raises:
        TristyleError: there is none.
    """
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = usable(path for path in listed if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise TristyleError(f"{folder}: holds no pictures. Name another folder by --data.")
    for place in np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)):
        yield read_image(paths[place])


def columns(name: str, given: Iterable[Read]) -> tuple[list[str], list[Read]]:
    """A row of the table without its last cell, and what it rests on."""
    reads = list(given)
    seen = [read for read in reads if read.found]
    if not seen:
        return [name, str(len(reads)), "0.0%"] + ["-"] * (len(HEAD) - 4), reads

    male, mirrored = (np.array([getattr(read, key) for read in seen]) for key in ("male", "mirrored_male"))
    age, other, score = (np.array([getattr(read, key) for read in seen]) for key in ("age", "mirrored_age", "score"))

    # Shares of all pictures, then of those with a face.
    row = [
        name,
        str(len(reads)),
        f"{len(seen) / len(reads):.1%}",
        f"{(score >= SURE).sum() / len(reads):.1%}",
        f"{score.mean():.3f}",
        f"{np.maximum(male, 1 - male).mean():.3f}",
        f"{((male > 0.5) == (mirrored > 0.5)).mean():.1%}",
        f"{np.abs(age - other).mean():.1f}",
        " ".join(f"{value:.0f}" for value in np.percentile(age, (10, 50, 90))),
    ]
    return row, reads


def truth(reads: Sequence[Read], facts: Sequence[dict[str, float | int | str]]) -> str:
    """How right age, sex and smile of adults are: what is read against what the records say."""
    pairs = [
        (read, fact) for read, fact in zip(reads, facts, strict=True) if read.found and float(fact["age"]) >= ADULT
    ]
    if len(pairs) < 2:
        return "-"
    right = np.mean([(read.male > 0.5) == (fact["sex"] == "male") for read, fact in pairs])
    said, real = (np.array(ages, float) for ages in zip(*((r.age, fact["age"]) for r, fact in pairs), strict=True))
    smiling = np.array([read.smile for read, fact in pairs if float(fact["smile"]) > SMILING])
    still = np.array([read.smile for read, fact in pairs if float(fact["smile"]) < STILL])

    area = (smiling[:, None] > still[None]).mean() if len(smiling) and len(still) else np.nan
    off, alike = said - real, np.corrcoef(said, real)[0, 1]
    age = f"age off by {np.abs(off).mean():.1f} (mean {off.mean():+.1f}, r {alike:.2f})"
    return f"sex {right:.1%}; {age}; smile {area:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, Markdown."""
    options = argparse.ArgumentParser(
        prog="python -m stages.evaluate realism",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--data", type=Path, default=Path(os.environ.get("TRISTYLE_SHARED", "../shared")) / "data")
    options.add_argument("--weights", type=Path, help="folder with the weights (default: DATA/weights)")
    options.add_argument("--most", type=int, default=200, help="pictures of each set")
    options.add_argument("--size", type=int, default=256, help="side of rendered photos, px")
    given = options.parse_args(arguments)

    networks = Networks(given.weights or given.data / "weights")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for name in SETS:
        row, _ = columns(name, (networks.read(picture) for picture in photographs(given.data / name, given.most)))
        print("| " + " | ".join([*row, "unknown"]) + " |", flush=True)

    people, who = open_people(), range(HELDOUT_PEOPLE, HELDOUT_PEOPLE + given.most)
    row, reads = columns("rendered", (networks.read(people.photo(one, 0, given.size).image) for one in who))
    print("| " + " | ".join([*row, truth(reads, [people.attributes(one, 0) for one in who])]) + " |")
