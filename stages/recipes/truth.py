"""People with truth out of a sealed data artifact (`data=rendered`), for the recipes of parser and reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stages.core.artifact import open_artifact
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.networks.face_labels import PARSER_TO_READER
from stages.recipes.parser_labels import Labelled, read_labels, reduce_labels, stacked, true_labels

EXPRESSION = ("smile", "mouth_open", "eye_open")


@dataclass(frozen=True)
class TruePeople:
    """Photos of people with truth, S pixels a side.

    Attributes:
        images: uint8 [N, S, S, 3].
        parsing: uint8 [N, S, S], the face parser's labels.
        landmarks: float32 [N, 68, 2] in shares of the frame.
        pose: float32 [N, 2] yaw, pitch in degrees.
        expression: float32 [N, 3] smile, mouth_open, eye_open.
        source: the stage and the artifact's digest, for cards.
    """

    images: np.ndarray
    parsing: np.ndarray
    landmarks: np.ndarray
    pose: np.ndarray
    expression: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def parser_codes(self) -> np.ndarray:
        """As a face parser learns them (`stages.recipes.parser_labels`): uint8 [N, S, S]."""
        places = self.landmarks * self.images.shape[2] - 0.5
        return np.stack([true_labels(one, xy) for one, xy in zip(self.parsing, places, strict=True)])

    def reader_labels(self) -> np.ndarray:
        """As the face reader learns them, beards as skin: uint8 [N, S, S]."""
        labels: np.ndarray = np.array(PARSER_TO_READER, np.uint8)[self.parser_codes()]
        return labels

    def labelled(self) -> Labelled:
        """As a face parser's training data."""
        return stacked(list(self.images), list(self.parser_codes()))


def load_truth(folder: Path, most: int | None = None, size: int | None = None) -> TruePeople:
    """The training photos of a data artifact with their truth.

    Args:
        folder: the artifact.
        most: photos to load, the first ones; None for all.
        size: side to reduce them to, px; None for their own.

    Raises:
        TristyleError: no sealed data artifact, or its stage knows no labels.
    """
    artifact = open_artifact(folder, "data")
    if "datasets.rendered" not in str(artifact.config.get("_target_")):
        raise TristyleError(f"{folder}: its people come without labels. Give an artifact of data=rendered.")
    records = [record for record in artifact.records() if record["split"] == "train"][:most]
    stems = [Path(record["photo"]).stem for record in records]
    photos = [read_image(folder / "photo" / f"{stem}.png") for stem in stems]
    side, given = size or photos[0].shape[0], photos[0].shape[0]
    with np.load(folder / "landmarks.npz") as stored:
        landmarks = stored["photo"][: len(records)]

    facts = [record["attributes"] for record in records]
    return TruePeople(
        images=np.stack([cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA) for photo in photos]),
        parsing=np.stack([shrunk(read_labels(folder / "parsing" / f"{stem}.png"), side) for stem in stems]),
        landmarks=(landmarks.astype(np.float32) + 0.5) / given,
        pose=np.array([[fact["yaw"], fact["pitch"]] for fact in facts], np.float32),
        expression=np.array([[fact[name] for name in EXPRESSION] for fact in facts], np.float32),
        source=f"{artifact.config['_target_'].split('.')[-1]} {artifact.digest[:8]}",
    )


def shrunk(labels: np.ndarray, side: int) -> np.ndarray:
    """`reduce_labels`, where there is anything to reduce."""
    return labels if labels.shape[0] == side else reduce_labels(labels, side)
