"""Landmarks: the truth where it is known, else read and kept; what cannot be aligned is left out and listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages.core.artifact import Artifact, open_artifact
from stages.core.runtime import Runtime
from stages.core.settings import TristyleError
from stages.core.tracking import Tracker
from stages.networks.face_labels import LANDMARK_MIRROR
from stages.networks.face_reader import Reader, load_reader
from stages.pair.tps import landmarks as module
from stages.pair.tps.landmarks import FaceLandmarks, face_photos, face_styles, faults, mirrored_points, write_left_out
from stages.pair.translator import TrainingInputs
from tests.pair.tps.test_task import translator
from tests.tools.aligned_toys import STYLE, data_artifact, face, faces
from tests.tools.pair_toys import small_reader


class Seeing(FaceLandmarks):
    """Sees the given landmarks, and counts how often it is asked."""

    def __init__(self, points: np.ndarray, apart: np.ndarray) -> None:
        self.id, self.points, self.apart, self.asked = "seeing-1", points, apart, 0

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked += 1
        return self.points[: len(images)], self.apart[: len(images)]


def given(data: Artifact, scratch: Path, reader: Reader | None = None, target: str = STYLE) -> TrainingInputs:
    runtime = Runtime("cpu", 1, Tracker(scratch))
    return TrainingInputs(data, None, reader or small_reader(), scratch, runtime, target)


def test_known_landmarks_are_the_truth_in_shares(tmp_path: Path) -> None:
    inputs = given(data_artifact(tmp_path / "data"), tmp_path)
    reader = FaceLandmarks(inputs.reader)
    photos, styles = face_photos(inputs, reader), face_styles(inputs, reader)
    assert (len(photos.rows), len(styles.rows)) == (12, 10) and photos.source == styles.source == "truth"
    for found, style in ((photos, False), (styles, True)):
        np.testing.assert_allclose(found.points[3], (face(3, style)[2] + 0.5) / 32, atol=1e-6)
    assert (styles.rows[3]["photo"], styles.rows[3]["mask"]) == (
        f"style/{STYLE}/000003.png",
        f"style_mask/{STYLE}/000003.png",
    )
    assert not photos.left_out and not styles.left_out


def test_what_was_read_is_kept_beside_the_sealed_files(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data", known=False)
    inputs, points = given(data, tmp_path / "one"), faces(12, False).points
    first = Seeing(points, np.zeros(12))
    assert face_photos(inputs, first).source == "seeing-1" and first.asked == 1
    again = Seeing(points + 9, np.zeros(12))
    found = face_photos(given(data, tmp_path / "two"), again)
    np.testing.assert_array_equal(found.points, points)
    assert again.asked == 0
    assert open_artifact(data.path, "data").digest == data.digest  # nothing sealed has changed
    assert [file.name for file in (data.path / ".landmarks").iterdir()] == [f"photo-seeing-1-{data.digest[:8]}.npz"]


def test_data_that_may_not_be_written_is_read_all_the_same(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data", known=False)
    (data.path / ".landmarks").write_bytes(b"a file where the folder should be")
    found = face_photos(given(data, tmp_path / "scratch"), Seeing(faces(12, False).points, np.zeros(12)))
    assert len(found.rows) == 12 and list((tmp_path / "scratch").glob("photo-seeing-1-*.npz"))


def test_pictures_that_cannot_be_aligned_are_left_out_and_listed(tmp_path: Path) -> None:
    data, points = data_artifact(tmp_path / "data", known=False), faces(12, False).points.copy()
    apart = np.zeros(12)
    apart[0] = 0.2
    points[1, 8, 1] = 1.2  # the chin below the frame
    points[2, 45] = points[2, 42]
    points[3] = points[3, ::-1]  # another order
    found = face_photos(given(data, tmp_path / "scratch"), Seeing(points, apart))
    why = {Path(row["picture"]).stem: row["why"] for row in found.left_out}
    assert why["000000"] == "no face was found" and why["000001"] == "landmarks lie outside the frame"
    assert why["000002"] == "two landmarks are equal" and "spline to the middle face folds" in why["000003"]
    assert len(found.rows) == 8 and "photo/000002.png" not in [row["photo"] for row in found.rows]
    write_left_out(tmp_path, {"photo": found})
    assert (tmp_path / "left_out.jsonl").read_text().count("\n") == 4


@pytest.mark.parametrize("faceless, said", [(10, "0 pictures show a face"), (3, "7 pictures show a face")])
def test_too_few_faces_are_refused_in_one_line(tmp_path: Path, faceless: int, said: str) -> None:
    apart = np.where(np.arange(10) < faceless, 1.0, 0.0)
    seeing = Seeing(faces(10, True).points, apart)
    with pytest.raises(TristyleError, match=rf"style/toy: {said}, 8 are needed; .*000000.png: no face was found\. Add"):
        face_styles(given(data_artifact(tmp_path / "data", known=False), tmp_path / "s"), seeing)


def upside_down(points: np.ndarray) -> np.ndarray:
    return np.asarray(1 - points)


def sides_exchanged(points: np.ndarray) -> np.ndarray:
    return np.asarray(points[:, LANDMARK_MIRROR])


@pytest.mark.parametrize("wrong", [upside_down, sides_exchanged])
def test_a_style_set_that_is_wrong_as_a_whole_is_refused(tmp_path: Path, wrong: Callable) -> None:
    """Its pictures agree with each other, so none is left out; the photos show that they are wrong."""
    data = data_artifact(tmp_path / "data")
    with np.load(data.path / "landmarks.npz") as stored:
        known = {kind: (stored[kind] + 0.5) / 32 for kind in stored}
    known[f"style/{STYLE}"] = wrong(known[f"style/{STYLE}"])
    np.savez(data.path / "landmarks.npz", **{kind: 32 * points - 0.5 for kind, points in known.items()})
    inputs = given(data, tmp_path / "s")
    assert not translator().faces(inputs)["style"].left_out
    with pytest.raises(TristyleError, match=r"style/toy: the spline from .* folds \d\d% of the picture\. Mend"):
        translator().batches(inputs, 0)


def test_when_most_pictures_cannot_be_aligned_it_says_so(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data", photos=20, known=False)
    seeing = Seeing(faces(20, False).points, np.where(np.arange(20) < 11, 1.0, 0.0))
    with pytest.raises(
        TristyleError, match=r"11 of 20 pictures cannot be aligned; photo/000000.png: no face was found\. Take"
    ):
        face_photos(given(data, tmp_path / "s"), seeing)


def test_a_style_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    inputs = given(data_artifact(tmp_path / "data"), tmp_path, target="ink")
    with pytest.raises(TristyleError, match=r"no pictures of the style 'ink'\. Say style\.target=toy\."):
        face_styles(inputs, FaceLandmarks(inputs.reader))


def test_truth_of_other_pictures_is_refused(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data")
    np.savez(data.path / "landmarks.npz", photo=np.zeros((3, 68, 2), np.float32))
    inputs = given(data, tmp_path)
    with pytest.raises(TristyleError, match=r"landmarks\.npz: photo has the shape \(3, 68, 2\), not \(12, 68, 2\)"):
        face_photos(inputs, FaceLandmarks(inputs.reader))


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04junk", b"hello"])
def test_damaged_files_of_landmarks(tmp_path: Path, junk: bytes) -> None:
    """What was read is read anew; the truth is asked for in one line."""
    data, points = data_artifact(tmp_path / "data", known=False), faces(12, False).points
    inputs, seeing = given(data, tmp_path / "one"), Seeing(points, np.zeros(12))
    face_photos(inputs, seeing)
    next((data.path / ".landmarks").iterdir()).write_bytes(junk)
    np.testing.assert_array_equal(face_photos(inputs, seeing).points, points)
    assert seeing.asked == 2
    (data.path / "landmarks.npz").write_bytes(junk)
    with pytest.raises(TristyleError, match=r"landmarks\.npz: cannot be read\. Run stage=data again\.$"):
        face_photos(inputs, seeing)


def test_the_mirror_image_has_the_mirrored_landmarks() -> None:
    points = faces(1, False).points
    np.testing.assert_allclose(mirrored_points(mirrored_points(points)), points, atol=1e-6)
    turned = mirrored_points(points)[0]
    assert turned[36, 0] < turned[45, 0] and turned[0, 0] < turned[16, 0]  # image left stays image left
    np.testing.assert_allclose(turned[8], [1 - points[0, 8, 0], points[0, 8, 1]], atol=1e-6)


def test_the_shipped_reader_finds_faces_and_none_in_noise() -> None:
    reader = FaceLandmarks(load_reader())
    shown = faces(8, False, 128)
    _, apart = reader(np.asarray(shown.images))
    walls = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3)).astype(np.uint8)
    points, nowhere = reader(walls)
    assert np.median(apart) < module.APART < np.median(nowhere)
    assert list(faults(points, nowhere)).count("no face was found") >= 6
