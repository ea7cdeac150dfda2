"""Scores of held-out people: the same whoever asks, whatever the pictures come as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor, unit
from stages.metrics import heldout as module
from stages.metrics.heldout import heldout_kid, read_heldout, score_pictures
from stages.networks.face_reader import Reader, read_masks
from tests.tools.tiny_pairs import STYLE, data_artifact


@pytest.fixture(scope="module")
def reader() -> Reader:
    """A small untrained reader: what is tested is what surrounds it."""
    torch.manual_seed(0)
    return Reader((4, 4, 8, 8, 8), 4).eval().requires_grad_(False)


def test_bytes_and_tensors_score_alike_in_any_portions(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = read_heldout(data_artifact(tmp_path, 32), STYLE, 1)
    raw = 255 - people.photo
    whole = score_pictures(people, raw, reader)
    monkeypatch.setattr(module, "BATCH", 2)
    parts = score_pictures(people, unit(to_tensor(raw)), reader, further=lambda view: {"first": view.raw[:, 0, 0, 0]})
    assert set(parts.rows) - set(whole.rows) == {"first"}
    for name, values in whole.rows.items():
        torch.testing.assert_close(parts.rows[name], values, rtol=1e-4, atol=1e-5)
    assert torch.equal(parts.rows["first"], torch.from_numpy(raw[:, 0, 0, 0] / 255).float())


def test_what_the_data_lacks_is_left_out(reader: Reader, tmp_path: Path) -> None:
    people = read_heldout(data_artifact(tmp_path, 32), "another", 1)
    assert people.twin is None and people.style is None
    assert set(score_pictures(people, people.photo, reader).rows) == {"identity", "background_error"}
    assert heldout_kid(people, {"kid": people.photo, "photo_kid": people.photo}, reader) == (None, {})


def test_masks_that_are_missing_come_from_the_reader(reader: Reader, tmp_path: Path) -> None:
    people = read_heldout(data_artifact(tmp_path, 32), STYLE, 1)
    assert people.style is not None and people.style.mask is not None
    shown = {"kid": 255 - people.photo, "photo_kid": people.photo}
    given = heldout_kid(people, shown, reader)[1]
    people.style.mask = None
    read = heldout_kid(people, shown, reader)[1]
    people.style.mask = read_masks(reader, people.style.images, "cpu")
    assert heldout_kid(people, shown, reader)[1] == read != given
    assert given["kid_ratio"] == given["kid"] / given["photo_kid"] and given["kid_style_images"] == 6


def test_nobody_held_out_is_said(tmp_path: Path) -> None:
    data = data_artifact(tmp_path, 32, people=1)
    lines = [line for line in (tmp_path / "records.jsonl").read_text().splitlines() if "heldout" not in line]
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(TristyleError, match="Set data.heldout above 0"):
        read_heldout(data, STYLE, 1)


def test_the_photos_own_values_are_the_scale(reader: Reader, tmp_path: Path) -> None:
    people = read_heldout(data_artifact(tmp_path, 32), STYLE, 1)
    rows = score_pictures(people, people.photo, reader).rows
    assert torch.equal(rows["face_error"], rows["photo_face_error"]) and not rows["background_error"].any()
    assert np.allclose(rows["identity"], 1)
