"""The painted people that the face reader is trained and scored on, painted once into a cache.

Everyone is painted eight times, every time in another view: four photos, two comics, one clay figure, one sketch. The
people are the reader's own: no stage paints anyone with these numbers.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from stages.core.tensors import to_tensor
from stages.datasets.painted import paint as painter
from stages.datasets.painted.person import READER_PEOPLE, sample_person, sample_view
from stages.networks.face_labels import READER_HEAD
from stages.networks.face_reader import SIZE

DOMAINS = ("photo", "comic", "clay", "sketch")
COLUMNS = ("photo", "photo", "photo", "photo", "comic", "comic", "clay", "sketch")
PAINTED = len(COLUMNS)  # pictures of each person; the column's number is the view
PHOTOS = COLUMNS.count("photo")
HELDOUT = 900_000  # offset of the people who only score


@dataclass
class PaintedPeople:
    """Painted people, `PAINTED` consecutive pictures each.

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
        return len(self.images) // PAINTED

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Pictures by row (person * PAINTED + column) as the tensors that `augment` and the losses take."""
        domain = np.array([DOMAINS.index(name) for name in COLUMNS])
        return {
            "image": to_tensor(self.images[rows]),
            "labels": torch.from_numpy(self.labels[rows].astype(np.int64)),
            "landmarks": torch.from_numpy(self.landmarks[rows]),
            "pose": torch.from_numpy(self.pose[rows]),
            "expression": torch.from_numpy(self.expression[rows]),
            "person": torch.from_numpy(rows // PAINTED),
            "domain": torch.from_numpy(domain[rows % PAINTED]),
        }

    def head_mask(self, rows: np.ndarray) -> Tensor:
        """Hard head masks: float32 [N, 1, 64, 64]."""
        return torch.from_numpy(np.isin(self.labels[rows], READER_HEAD))[:, None].float()


def _paint(number: int, offset: int) -> dict[str, np.ndarray]:
    """All pictures of one person."""
    cv2.setNumThreads(1)
    who = READER_PEOPLE + offset + number
    person = sample_person(who)
    pictures = [painter.paint(person, sample_view(who, view), SIZE, name) for view, name in enumerate(COLUMNS)]
    given = [picture.attributes for picture in pictures]
    return {
        "images": np.stack([picture.image for picture in pictures]),
        "labels": np.stack([picture.parsing for picture in pictures]),
        # The painter counts from the first pixel's centre, shares from the frame's edge.
        "landmarks": (np.stack([picture.landmarks for picture in pictures]).astype(np.float32) + 0.5) / SIZE,
        "pose": np.array([[a["yaw"], a["pitch"]] for a in given], np.float32),
        "expression": np.array([[a["smile"], a["mouth_open"], a["eye_open"]] for a in given], np.float32),
    }


def painter_digest() -> str:
    """Digest of the painter's source: people painted by another painter are painted again."""
    folder = Path(painter.__file__).parent
    digest = hashlib.sha256("/".join(COLUMNS).encode())
    for path in sorted([*folder.glob("painter*.py"), folder / "person.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def paint_people(folder: Path, offset: int, count: int, workers: int) -> PaintedPeople:
    """Paint `count` people from READER_PEOPLE + offset on, or read them from the cache in `folder`."""
    path = folder / f"people_{offset}_{count}_{painter_digest()[:8]}.npz"
    if not path.exists():
        paint = partial(_paint, offset=offset)
        if workers > 1:
            # Spawned, not forked: torch's threads do not survive a fork.
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                parts = pool.map(paint, range(count), chunksize=8)
        else:
            parts = [paint(number) for number in range(count)]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    with np.load(path) as stored:
        return PaintedPeople(**stored)
