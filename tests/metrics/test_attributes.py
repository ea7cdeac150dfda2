"""What is read off a face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from stages.core.settings import ConfigError
from stages.core.tensors import lab
from stages.metrics.attributes import NAMES, attributes, check_name
from stages.networks.face_labels import READER
from stages.networks.face_reader import FaceReading


def reading_of(parsing: torch.Tensor) -> FaceReading:
    count, zero = len(parsing), torch.zeros
    return FaceReading(
        parsing=parsing, mask=zero(count, 1, 64, 64), landmarks=zero(count, 68, 2), pose=torch.tensor([[10.0, -9.0]]),
        expression=torch.tensor([[0.5, 0.4, 0.9]]), identity=zero(count, 64), features=zero(count, 8),
    )  # fmt: skip


def test_all_are_read_in_their_units() -> None:
    parsing = torch.full((1, 13, 64, 64), -20.0)
    parsing[:, READER["skin"]] = 20.0
    for label, rows in (("hair", slice(0, 16)), ("glasses", slice(20, 22))):
        parsing[:, READER["skin"], rows], parsing[:, READER[label], rows] = -20.0, 20.0
    images = torch.full((1, 3, 128, 128), 119 / 127.5 - 1)  # L* 50
    images[:, :, :32] = -1  # black hair
    seen = {name: float(value) for name, value in attributes(reading_of(parsing), images).items()}
    assert tuple(seen) == NAMES
    expected = {
        "yaw": 10, "pitch": -9, "smile": 0.5, "mouth_open": 0.4, "eye_open": 0.9, "glasses": 2 / 64, "beard": 0,
        "hat": 0, "hair_area": 0.25, "hair_lightness": 0, "skin_lightness": 50,
    }  # fmt: skip
    assert seen == pytest.approx(expected, abs=0.1)


def test_what_is_hardly_seen_has_no_lightness() -> None:
    parsing = torch.full((1, 13, 64, 64), -20.0)
    parsing[:, READER["skin"]] = 20.0
    parsing[0, READER["skin"]].view(-1)[:30], parsing[0, READER["hair"]].view(-1)[:30] = -20.0, 20.0  # 0.7 %
    seen = attributes(reading_of(parsing), torch.zeros(1, 3, 64, 64), ["skin_lightness", "hair_lightness"])
    assert seen["hair_lightness"].isnan().all() and not seen["skin_lightness"].isnan().any()


def test_lab_is_the_standards() -> None:
    rgb = np.random.default_rng(0).random((500, 1, 1, 3)).astype(np.float32)
    ours = lab(torch.from_numpy(rgb).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - rgb2lab(rgb)).max() < 0.05


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="over: 'tone' is an old name. Write hair_lightness"):
        check_name("over", "tone", NAMES, {"tone": "hair_lightness"})
    with pytest.raises(ConfigError, match="over: 'age' is unknown"):
        check_name("over", "age", NAMES, {})
