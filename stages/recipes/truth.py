"""People with truth out of a sealed data artifact (`data=rendered` or `data=painted`), for the recipes.

The renderer labels its photos with the face parser's labels, the painter with the face reader's. Here both become the
face parser's codes and the face reader's labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stages.core.artifact import open_artifact
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.networks.face_labels import PARSER, PARSER_LABELS, PARSER_TO_READER, READER_LABELS
from stages.recipes.parser_labels import Labelled, painted_codes, read_labels, reduce_labels, stacked

EXPRESSION = ("smile", "mouth_open", "eye_open")


@dataclass(frozen=True)
class TruePeople:
    """Photos of people with truth, S pixels a side.

    Attributes:
        images: uint8 [N, S, S, 3].
        parsing: uint8 [N, S, S], places in `names`.
        names: `PARSER_LABELS` or `READER_LABELS`.
        landmarks: float32 [N, 68, 2] in shares of the frame.
        pose: float32 [N, 2] yaw, pitch in degrees.
        expression: float32 [N, 3] smile, mouth_open, eye_open.
        source: the stage and the artifact's digest, for cards.
    """

    images: np.ndarray
    parsing: np.ndarray
    names: tuple[str, ...]
    landmarks: np.ndarray
    pose: np.ndarray
    expression: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def parser_codes(self) -> np.ndarray:
        """All that is known, as a face parser learns it (`stages.recipes.parser_labels`): uint8 [N, S, S]."""
        if self.names == READER_LABELS:
            middles = self.landmarks[:, 27:31, 0].mean(1) * self.images.shape[2]
            return np.stack([painted_codes(one, x - 0.5) for one, x in zip(self.parsing, middles, strict=True)])
        places = self.landmarks * self.images.shape[2] - 0.5
        return np.stack([bridged(glazed(one), xy) for one, xy in zip(self.parsing, places, strict=True)])

    def reader_labels(self) -> np.ndarray:
        """As the face reader learns them: uint8 [N, S, S]."""
        if self.names == READER_LABELS:
            return self.parsing
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
    names = label_names(artifact.config, folder)
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
        names=names,
        landmarks=(landmarks.astype(np.float32) + 0.5) / given,
        pose=np.array([[fact["yaw"], fact["pitch"]] for fact in facts], np.float32),
        expression=np.array([[fact[name] for name in EXPRESSION] for fact in facts], np.float32),
        source=f"{artifact.config['_target_'].split('.')[-1]} {artifact.digest[:8]}",
    )


def label_names(config: dict[str, object], folder: Path) -> tuple[str, ...]:
    """The labels that a data stage writes, in order.

    Raises:
        TristyleError: a stage that writes none.
    """
    stage = str(config.get("_target_", ""))
    if "datasets.painted" in stage:
        return READER_LABELS
    if "datasets.rendered" in stage:
        return PARSER_LABELS
    raise TristyleError(f"{folder}: its people come without labels. Give an artifact of data=rendered or data=painted.")


def glazed(codes: np.ndarray) -> np.ndarray:
    """Labels [S, S] with glasses of glass: skin and nose within a rim are glasses, as in CelebAMask-HQ; eyes stay."""
    rims = (codes == PARSER["glasses"]).astype(np.uint8)
    if not rims.any():
        return codes
    outlines, _ = cv2.findContours(rims, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    within = cv2.drawContours(np.zeros_like(rims), outlines, -1, 1, cv2.FILLED) > 0
    bare = np.isin(codes, [PARSER["skin"], PARSER["nose"]])
    return np.where(within & bare, PARSER["glasses"], codes).astype(np.uint8)


def bridged(codes: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Labels [S, S] with noses that begin between the eyes, as in CelebAMask-HQ; the renderer's begin below.

    Args:
        codes: the face parser's labels.
        landmarks: [68, 2] px; a pixel's centre is a whole number.
    """
    wide = 0.2 * (landmarks[35] - landmarks[31])
    outline = np.stack([landmarks[27] - wide, landmarks[27] + wide, landmarks[35], landmarks[33], landmarks[31]])
    nose = np.zeros_like(codes)
    cv2.fillConvexPoly(nose, np.round(outline * 16).astype(np.int32), 1, shift=4)
    return np.where((nose > 0) & (codes == PARSER["skin"]), PARSER["nose"], codes).astype(np.uint8)


def shrunk(labels: np.ndarray, side: int) -> np.ndarray:
    """`reduce_labels`, where there is anything to reduce."""
    return labels if labels.shape[0] == side else reduce_labels(labels, side)
