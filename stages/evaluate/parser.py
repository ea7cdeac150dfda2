"""How well face parsers do on the labelled portraits that are held out: `python -m stages.evaluate.parser [FILE...]`.

Of the face reader and each weights file given, on the held-out fifth of the people of
$TRISTYLE_SHARED/data/parsing_gt: the head's IoU (mean and tenth percentile over the pictures, at 64 and at 128 px) and
each label's IoU over the whole set at 128 px.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np

from stages.core.images import read_image
from stages.faces.parse import Parser, open_parser
from stages.networks.face_labels import PARSER_HEAD, PARSER_LABELS
from stages.recipes.face_parser import heldout, people_of, read_labels, reduce_labels

SIZE = 128


def portraits(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """The held-out portraits and their labels: uint8 [N, 128, 128, 3] and [N, 128, 128]."""
    folder = data / "parsing_gt" / "celebamask512"
    stems = sorted(path.stem for path in (folder / "mask").iterdir())
    people = people_of(data / "manifest.csv", stems)
    kept = [stem for stem, person in zip(stems, people, strict=True) if heldout(person)]
    pictures = [read_image(folder / "image" / f"{stem}.jpg") for stem in kept]
    images = [cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for picture in pictures]
    return np.stack(images), np.stack(
        [reduce_labels(read_labels(folder / "mask" / f"{stem}.png"), SIZE) for stem in kept]
    )


def judge(parser: Parser, images: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """Scores of one parser, see the top."""
    scores: dict[str, object] = {"parser": parser.id, "pictures": len(images)}
    found, truth = parser.head(images), np.isin(labels, list(PARSER_HEAD)).astype(np.uint8) * 255
    for size in (64, SIZE):
        shape = (size, size)
        a, b = (
            [cv2.resize(mask, shape, interpolation=cv2.INTER_AREA) > 127 for mask in masks] for masks in (found, truth)
        )
        iou = [float((x & y).sum() / (x | y).sum()) for x, y in zip(a, b, strict=True)]
        scores[f"head_iou_{size}"] = round(float(np.mean(iou)), 4)
        scores[f"head_iou_{size}_p10"] = round(float(np.quantile(iou, 0.1)), 4)
    said = parser.labels(images)
    scores["right"] = round(float((said == labels).mean()), 4)
    for label, name in enumerate(PARSER_LABELS):
        either = ((said == label) | (labels == label)).sum()
        scores[name] = round(float(((said == label) & (labels == label)).sum() / either), 4) if either else None
    return scores


def main() -> None:
    """Print a line of JSON for each parser."""
    shared = Path(os.environ.get("TRISTYLE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    images, labels = portraits(shared / "data")
    for path in (None, *sys.argv[1:]):
        print(json.dumps(judge(open_parser(path), images, labels)))


if __name__ == "__main__":
    main()
