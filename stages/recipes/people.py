"""The pictures that the face reader is trained and scored on, made once into a cache.

Everyone is seen eight times, every time in another view: four photos, and once in every style. The people are the
reader's own (`READER_PEOPLE`): no stage draws anyone with these numbers.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from stages.core.files import write_bytes
from stages.core.tensors import to_tensor
from stages.core.workers import in_order
from stages.datasets.people import Portrait, open_people
from stages.networks.face_labels import PARSER_TO_READER, READER, READER_HEAD
from stages.networks.face_reader import SIZE
from stages.recipes.parser_labels import true_labels

DOMAINS = ("photo", "comic", "anime", "figurine", "watercolour")
COLUMNS = ("photo", "photo", "photo", *DOMAINS)
VIEWS = len(COLUMNS)  # pictures of each person; the column's number is the view
PHOTOS = COLUMNS.count("photo")


@dataclass
class ReaderPictures:
    """Pictures of people with truth, `VIEWS` consecutive ones each.

    Attributes:
        images: uint8 [N, 64, 64, 3]; labels: uint8 [N, 64, 64].
        landmarks: float32 [N, 68, 2] in shares of the frame.
        pose: float32 [N, 2] yaw, pitch in degrees; expression: float32 [N, 3] smile, mouth_open, eye_open.
    """

    images: np.ndarray
    labels: np.ndarray
    landmarks: np.ndarray
    pose: np.ndarray
    expression: np.ndarray

    def __len__(self) -> int:
        return len(self.images) // VIEWS

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Pictures by row (person * VIEWS + column) as the tensors that `augment` and the losses take."""
        domain = np.array([DOMAINS.index(name) for name in COLUMNS])
        return {
            "image": to_tensor(self.images[rows]),
            "labels": torch.from_numpy(self.labels[rows].astype(np.int64)),
            "landmarks": torch.from_numpy(self.landmarks[rows]),
            "pose": torch.from_numpy(self.pose[rows]),
            "expression": torch.from_numpy(self.expression[rows]),
            "person": torch.from_numpy(rows // VIEWS),
            "domain": torch.from_numpy(domain[rows % VIEWS]),
        }

    def head_mask(self, rows: np.ndarray) -> Tensor:
        """Hard head masks: float32 [N, 1, 64, 64]."""
        return torch.from_numpy(np.isin(self.labels[rows], READER_HEAD))[:, None].float()


def reader_labels(portrait: Portrait) -> np.ndarray:
    """The face reader's labels of a portrait, beards among them: uint8 [S, S]."""
    labels = np.array(PARSER_TO_READER, np.uint8)[true_labels(portrait.parsing, portrait.landmarks)]
    return np.where(portrait.beard & (labels == READER["skin"]), READER["beard"], labels).astype(np.uint8)


def _pictures(person: int) -> dict[str, np.ndarray]:
    """All pictures of one person."""
    cv2.setNumThreads(1)
    people = open_people()
    pictures = [
        people.photo(person, view, SIZE) if name == "photo" else people.styled(person, view, name, SIZE)
        for view, name in enumerate(COLUMNS)
    ]
    given = [picture.attributes for picture in pictures]
    return {
        "images": np.stack([picture.image for picture in pictures]),
        "labels": np.stack([reader_labels(picture) for picture in pictures]),
        # Landmarks are counted from the first pixel's centre, shares from the frame's edge.
        "landmarks": (np.stack([picture.landmarks for picture in pictures]).astype(np.float32) + 0.5) / SIZE,
        "pose": np.array([[a["yaw"], a["pitch"]] for a in given], np.float32),
        "expression": np.array([[a["smile"], a["mouth_open"], a["eye_open"]] for a in given], np.float32),
    }


def render_people(folder: Path, first: int, count: int, workers: int) -> ReaderPictures:
    """Make the pictures of `count` people from number `first` on, or read them from the cache in `folder`."""
    source = hashlib.sha256("/".join([open_people().id, *COLUMNS]).encode()).hexdigest()[:8]
    path = folder / f"people_{first}_{count}_{source}.npz"
    if not path.exists():
        parts = list(in_order(_pictures, range(first, first + count), workers, ahead=8, processes=True))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **arrays)
        write_bytes(path, packed.getvalue(), sync=False)
    with np.load(path) as stored:
        return ReaderPictures(**stored)
