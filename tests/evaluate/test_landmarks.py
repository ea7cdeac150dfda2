"""Landmarks against Face Mesh: the error, its parts and its interval."""

import numpy as np
import pytest
import torch

from stages.evaluate import landmarks
from stages.networks.face_reader import FaceReading


class Sees:
    """A reader that places every landmark off by a share of the frame."""

    id = "reader-test"

    def __init__(self, points: np.ndarray, off: float) -> None:
        self.points = torch.from_numpy(points + [off, 0.0])

    def read(self, images: torch.Tensor) -> FaceReading:
        none = torch.zeros(0)
        return FaceReading(none, none, self.points[: len(images)], none, none, none, none)


def face(count: int) -> landmarks.Faces:
    """Random points; the eyes are 0.4 apart."""
    points = np.random.default_rng(0).random((count, 68, 2))
    points[:, 36], points[:, 45] = [0.3, 0.4], [0.7, 0.4]
    return landmarks.Faces(np.zeros((count, 128, 128, 3), np.uint8), points)


def test_an_error_is_a_share_of_the_eyes_distance() -> None:
    known = face(5)
    for off, wanted in ((0.0, 0.0), (0.04, 0.1)):
        (line,) = landmarks.scores(Sees(known.points, off), {"set": known})  # type: ignore[arg-type]
        assert line["pictures"] == 5 and line["error"] == pytest.approx(wanted, abs=1e-4)
        assert all(line[part] == pytest.approx(wanted, abs=1e-4) for part in landmarks.PARTS)
        assert line["error_95"] == pytest.approx([wanted, wanted], abs=1e-4)


def test_a_jaw_may_slide_along_where_the_face_ends() -> None:
    labels = np.zeros((2, 128, 128), np.uint8)
    labels[:, 20:108, 32:96] = 1  # skin
    points = face(2).points
    points[:, landmarks.JAW] = np.stack([np.linspace(0.3, 0.7, 9), np.full(9, 108 / 128)], axis=1)
    images = np.zeros((2, 128, 128, 3), np.uint8)
    along = landmarks.jaw_errors(Sees(points, 0.05), images, labels)  # type: ignore[arg-type]
    points[:, landmarks.JAW, 1] += 0.1
    below = landmarks.jaw_errors(Sees(points, 0.0), images, labels)  # type: ignore[arg-type]
    assert along == pytest.approx([0, 0], abs=0.02) and below == pytest.approx([0.25, 0.25], abs=0.02)


def test_the_parts_are_all_but_the_jaw() -> None:
    rows = np.arange(68)
    parts = np.concatenate([rows[part] for part in landmarks.PARTS.values()])
    assert parts.tolist() == rows[landmarks.INNER].tolist()
