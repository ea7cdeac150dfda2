"""How well faces of real photographs are found and squared up: rates, false alarms, and where the eyes end up.

    python -m stages.evaluate faces [--data FOLDER] [--every N]     # $TRISTYLE_SHARED/data; some 4 CPU minutes

For each detector (RetinaFace and the cascade, each with Face Mesh's landmarks and without):

- scenes: of the faces that can be seen clearly in `portraits_hr/full`, counted by eye, how many are found; and how many
  boxes lie on no face at all.
- eyes: distance of the eyes' centres from those of the ground-truth masks of `parsing_gt`, in sides of the FFHQ square
  cut out by the detector's own points, over all pictures that show both eyes.
- sets: share of the aligned portraits in which a face is found. They were cut out with RetinaFace's points to begin
  with, so there they only say something about the cascade.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stages.core.consent import usable
from stages.core.images import read_image
from stages.faces.align import ffhq_quad, to_crop
from stages.faces.detect import RETINAFACE, CascadeDetector, Detector, Found, RetinaDetector, SharpDetector
from stages.faces.landmarks import open_landmarks

# The faces of portraits_hr/full, by the first 8 hex digits of a file's SHA-256: the middles of those that can be seen
# clearly, as shares of width and height; after a bar those that are far out of focus or largely hidden, which are
# neither asked for nor false alarms. Counted by eye; the places are those of boxes that fit, else by eye too.
FACES = """
c3963b52 .47,.39
3ecedaf7 .79,.29 .20,.28 .36,.28 .65,.26 .51,.31
50bcf1ce .55,.24 .33,.15
2738670c .45,.17
9de23a75 .86,.33 .24,.28 | .61,.41 .54,.56 .59,.57 .98,.52 .94,.08
5699f2e2 .51,.28
d9b6bd19 .67,.24 .12,.19
4618e50c .34,.50
568b8254 .75,.29 .33,.20
e7aa0407 .76,.20 .13,.25 .37,.25 .60,.26
8ab421ae .33,.27
0bb8a3fb .58,.36
76994c75 .78,.47 .43,.47 | .21,.34
39bf479f .65,.37 .25,.39 .49,.60
8afded8c .44,.46 .56,.51 .68,.51 .31,.36
89ca660f .46,.34 .68,.42
b27632d6 .45,.39 | .75,.24 .42,.24 .10,.22
c6d2fe2d .44,.36
f4fad6d5 .47,.45
803360b4 .44,.31
1d9b1d40 .56,.39
a9639550 .53,.56
7a659691 .48,.26
96bcf7a3 .49,.24
2db5d6bf .58,.37
1aa4cdad .66,.33
1de8af8b .53,.25
6f92cfe8 .55,.46 | .15,.55 .74,.45
576e60c6 .54,.29
ff4e93da .52,.33
c0b4821a .58,.42
6d6d49cb .45,.28
7bf14e26 .41,.19
"""
NEAR = 0.35  # a face is found where a box's middle is this near to it, in sides of the box
SETS = ("wild512", "studio512", "generated512", "misc256", "ytfaces256", "celebamask512")


def counted() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Middles of the clear faces and of the others, [F, 2] shares each, by digest."""
    table = {}
    for line in FACES.split("\n")[1:-1]:
        digest, places = line.split(" ", 1)
        parts = [part.split() for part in (places + " | ").split("|")[:2]]
        clear, others = (np.array([p.split(",") for p in part], float).reshape(-1, 2) for part in parts)
        table[digest] = clear, others
    return table


def hits(middles: np.ndarray, found: list[Found]) -> tuple[np.ndarray, np.ndarray]:
    """Which middles [F, 2] px have a box, and which boxes have a middle."""
    boxes = np.array([face.box for face in found]).reshape(-1, 4)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)
    near = np.abs(middles[:, None] - centres[None]).max(2) < NEAR * sides[None]
    return near.any(1), near.any(0)


def scenes(folder: Path, detector: Detector) -> tuple[int, int, int]:
    """How many clear faces are found, how many there are, and how many boxes lie on no face."""
    table, clear, seen, false = counted(), 0, 0, 0
    for path in usable(sorted(folder.iterdir())):
        wanted, others = table[hashlib.sha256(path.read_bytes()).hexdigest()[:8]]
        picture = read_image(path)
        found, size = detector(picture), np.array(picture.shape[1::-1])
        known, _ = hits(wanted * size, found)
        _, boxes = hits(np.concatenate([wanted, others]) * size, found)
        clear, seen, false = clear + len(known), seen + int(known.sum()), false + int((~boxes).sum())
    return seen, clear, false


def eyes(folder: Path, every: int) -> Iterator[tuple[Path, np.ndarray]]:
    """Pictures and the centres of both eyes' masks, [2, 2] px, image left first."""
    pictures = {path.stem: path for path in usable(sorted((folder / "image").iterdir()))}
    for mask in sorted((folder / "mask").glob("*.png"))[::every]:
        labels = np.array(Image.open(mask))
        centres = [np.argwhere(labels == label)[:, ::-1].mean(0) for label in (4, 5) if (labels == label).any()]
        picture = pictures.get(mask.stem)
        if len(centres) == 2 and picture is not None:
            yield picture, np.array(sorted(centres, key=lambda centre: centre[0]))


def precision(folder: Path, detector: Detector, every: int) -> tuple[np.ndarray, int]:
    """How far eyes [N, 2] lie off the masks', in sides of the crop, and how many faces were not found."""
    errors, missed = [], 0
    for path, centres in eyes(folder, every):
        found = detector(read_image(path))
        middle = (centres.mean(0) + [0, 0.6 * np.ptp(centres[:, 0])])[None]
        face = next((face for face in found if hits(middle, [face])[0].all()), None)
        if face is None:
            missed += 1
            continue
        quad = ffhq_quad(face.points)
        errors.append(np.linalg.norm(to_crop(face.points[:2], quad, 1) - to_crop(centres, quad, 1), axis=1))
    return np.array(errors), missed


def sets(data: Path, detectors: dict[str, Detector], every: int) -> None:
    """Print shares of found faces by set, and the cascade's by how far RetinaFace says that the head is turned."""
    with open(data / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["subset"] in SETS and not row["file"].endswith(".png")]
    kept = set(usable(data / row["file"] for row in rows[::every]))
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in (row for row in rows[::every] if data / row["file"] in kept):
        picture = read_image(data / row["file"])
        faces = {name: detector(picture) for name, detector in detectors.items()}
        yaw = next(
            (abs(face.yaw_deg) for some in faces.values() for face in some[:1] if face.yaw_deg is not None), None
        )

        group = "turn unknown" if yaw is None else f"turned by {'0-15' if yaw < 15 else '15-30' if yaw < 30 else '30-'}"
        for name, some in faces.items():
            for kind in (row["subset"], group):
                found[kind][name].append(bool(some))

    for kind in sorted(found):
        shares = ", ".join(f"{name} {np.mean(hit):.1%}" for name, hit in found[kind].items())
        print(f"  {kind} ({len(next(iter(found[kind].values())))} pictures): {shares}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.evaluate faces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TRISTYLE_SHARED", "../shared")) / "data")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture of eyes and sets")
    given = parser.parse_args(arguments)

    weights = given.data / "weights"
    plain: list[Detector] = [CascadeDetector()]
    plain += [RetinaDetector(weights / name, kind) for name, kind in RETINAFACE.items() if (weights / name).is_file()]
    landmarks = open_landmarks(weights)
    sharp = [SharpDetector(detector, landmarks) for detector in plain] if landmarks else []

    for detector in [*plain, *sharp]:
        print(detector.id)
        seen, clear, false = scenes(given.data / "portraits_hr" / "full", detector)
        print(f"  scenes: {seen} of {clear} clear faces found ({seen / clear:.1%}), {false} false alarms", flush=True)
        errors, missed = precision(given.data / "parsing_gt" / "celebamask512", detector, given.every)
        total, (middle, most) = len(errors) + missed, np.quantile(errors, [0.5, 0.95])
        print(f"  eyes: {len(errors)} of {total} faces found; error median {middle:.2%}, 95th percentile {most:.2%}")
    print("sets")
    sets(given.data, {detector.id.split("-")[0]: detector for detector in reversed(plain)}, given.every)
