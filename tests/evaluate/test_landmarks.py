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


def test_an_error_is_a_share_of_the_eyes_distance() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((5, 68, 2))
    points[:, 36], points[:, 45] = [0.3, 0.4], [0.7, 0.4]
    images = np.zeros((5, 128, 128, 3), np.uint8)
    for off, wanted in ((0.0, 0.0), (0.04, 0.1)):
        (line,) = landmarks.scores(Sees(points, off), {"set": (images, points)})  # type: ignore[arg-type]
        assert line["pictures"] == 5 and line["error"] == pytest.approx(wanted, abs=1e-4)
        assert all(line[part] == pytest.approx(wanted, abs=1e-4) for part in landmarks.PARTS)
        assert line["error_95"] == pytest.approx([wanted, wanted], abs=1e-4)


def test_the_parts_are_all_landmarks() -> None:
    assert sorted(row for rows in landmarks.PARTS.values() for row in rows) == list(range(68))
