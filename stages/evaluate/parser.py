"""How well face parsers do on labelled portraits: `python -m stages.evaluate parser [--data DIR] [FILE...]`.

Scored are the face reader and each weights file given, on the held-out fifth of the people of DIR/parsing_gt
($TRISTYLE_SHARED/data without --data). A line has the head's IoU (mean and tenth percentile over the pictures, at 64
and 128 px, at 128 px also 95 % over the people) and each label's IoU over the whole set at 128 px.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stages.core.consent import usable
from stages.core.images import read_image
from stages.faces.parse import Parser, open_parser
from stages.metrics.bootstrap import draw, mean_interval
from stages.networks.face_labels import PARSER_HEAD, PARSER_LABELS
from stages.recipes.parser_labels import heldout, people_of, read_labels, reduce_labels

SIZE = 128


def portraits(data: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The held-out portraits, their labels and whom they show: uint8 [N, 128, 128, 3] and [N, 128, 128], N names."""
    folder = data / "parsing_gt" / "celebamask512"
    masks = sorted(path.stem for path in (folder / "mask").iterdir())
    stems = [path.stem for path in usable(folder / "image" / f"{stem}.jpg" for stem in masks)]
    people = people_of(data / "manifest.csv", stems)
    kept = [stem for stem, person in zip(stems, people, strict=True) if heldout(person)]
    names = [person for person in people if heldout(person)]
    pictures = [read_image(folder / "image" / f"{stem}.jpg") for stem in kept]
    images = [cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for picture in pictures]
    labels = [reduce_labels(read_labels(folder / "mask" / f"{stem}.png"), SIZE) for stem in kept]
    return np.stack(images), np.stack(labels), names


def score(parser: Parser, images: np.ndarray, labels: np.ndarray, people: Sequence[str]) -> dict[str, object]:
    """Scores of one parser, see the top.

    Args:
        parser: what is scored.
        images: uint8 [N, 128, 128, 3].
        labels: uint8 [N, 128, 128].
        people: whom each of the N pictures shows.
    """
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
    middle = mean_interval(np.array(iou), draw(people))
    scores[f"head_iou_{SIZE}_95"] = [round(middle.low, 4), round(middle.high, 4)]

    said = parser.labels(images)
    scores["right"] = round(float((said == labels).mean()), 4)
    for label, name in enumerate(PARSER_LABELS):
        either = ((said == label) | (labels == label)).sum()
        scores[name] = round(float(((said == label) & (labels == label)).sum() / either), 4) if either else None
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each parser."""
    options = argparse.ArgumentParser(
        prog="python -m stages.evaluate parser",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--data", type=Path, default=Path(os.environ.get("TRISTYLE_SHARED", "../shared")) / "data")
    options.add_argument("files", nargs="*", type=Path, help="weights of face parsers or face readers")
    given = options.parse_args(arguments)
    images, labels, people = portraits(given.data)
    for path in (None, *given.files):
        print(json.dumps(score(open_parser(path), images, labels, people)), flush=True)
