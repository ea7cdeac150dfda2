"""Faces: found, squared up as in training, painted at that scale, pasted back where they were and nowhere else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from stages.apply.face_squares import Face, face_of_points, open_finder
from stages.apply.heads import match_rim, paint_heads
from stages.core.settings import TristyleError
from stages.faces.align import FIVE_POINTS
from stages.faces.weights import VARIABLE

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from stages.apply.model import open_model  # noqa: E402
from tests.tools.portraits import portrait  # noqa: E402
from tests.tools.tiny_student import tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory):
    return open_model(tiny_model(tmp_path_factory.mktemp("model") / "student.onnx"), 1)


def five(landmarks: np.ndarray) -> np.ndarray:
    eyes = [landmarks[low : low + 6].mean(0) for low in (36, 42)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def test_the_five_points_are_those_of_the_rendered_portraits() -> None:
    mean = np.mean([five(portrait(number).landmarks) + 0.5 for number in range(24)], axis=0) / 64
    mirrored = mean[[1, 0, 2, 4, 3]] * [-1, 1] + [1, 0]
    assert np.abs((mean + mirrored) / 2 - FIVE_POINTS).max() < 0.01


@pytest.mark.parametrize("face", [Face(100, 80, 50), Face(-3, 7, 333, 0.5), Face(40, 40, 64, -2.5)])
def test_the_square_of_five_points_is_found_again(face: Face) -> None:
    turn = np.array([[math.cos(face.tilt), -math.sin(face.tilt)], [math.sin(face.tilt), math.cos(face.tilt)]])
    points = (np.array(FIVE_POINTS) - 0.5) * face.side @ turn.T + [face.x, face.y]
    again = face_of_points(points)
    assert np.allclose([again.x, again.y, again.side, again.tilt], [face.x, face.y, face.side, face.tilt])


def test_the_cascade_finds_people_and_not_a_cup() -> None:
    from skimage import data

    look = open_finder()
    (face,) = look(np.ascontiguousarray(data.astronaut()))
    assert abs(face.x - 223) < 15 and abs(face.y - 115) < 20 and 130 < face.side < 230
    assert look(np.ascontiguousarray(data.coffee())) == []
    found = 0
    for number in range(8):
        side = (96, 256)[number % 2]
        squares = look(portrait(number, side).image)
        found += any(abs(f.side / side - 1) < 0.3 and abs(f.x / side - 0.5) < 0.15 for f in squares)
    assert found >= 5  # turned heads are beyond it


@pytest.mark.parametrize(("number", "quarters"), [(40, 1), (55, 3), (80, 3), (105, 1), (121, 1)])
def test_a_false_alarm_in_a_photo_that_lies_is_not_a_face(number: int, quarters: int) -> None:
    lying = np.ascontiguousarray(np.rot90(portrait(number, 256).image, quarters))
    assert open_finder(still=False)(lying) != []  # the cascade gives one, on cloth or hair
    assert open_finder()(lying) == []


def test_a_small_face_that_stands_is_believed() -> None:
    from skimage import data

    photos = [data.astronaut(), np.pad(data.astronaut(), ((150, 0), (90, 90), (0, 0)))]
    photos += [np.pad(portrait(number, 128).image, ((90, 90), (90, 90), (0, 0)), mode="edge") for number in range(12)]
    seen = [open_finder(still=False)(np.ascontiguousarray(photo)) for photo in photos]
    assert sum(map(bool, seen)) >= 8
    assert [open_finder()(np.ascontiguousarray(photo)) for photo in photos] == seen


def test_retinaface_finds_tilt_where_its_weights_are(shared: Path) -> None:
    import cv2

    weights = shared / "data" / "weights"
    if not (weights / "detection_mobilenet0.25_Final.pth").is_file():
        pytest.skip("no weights of RetinaFace in the shared material")
    picture = portrait(3, 256)
    turn = cv2.getRotationMatrix2D((127.5, 127.5), -25, 0.7)  # clockwise
    turn[:, 2] += [60, 20]
    image = cv2.warpAffine(picture.image, turn, (400, 300), borderMode=cv2.BORDER_REPLICATE)
    (face,) = open_finder(weights)(image)
    true = face_of_points(five(picture.landmarks) @ turn[:, :2].T + turn[:, 2])
    assert abs(face.tilt - true.tilt) < 0.12 and math.radians(15) < face.tilt
    assert abs(face.side / true.side - 1) < 0.1
    assert math.hypot(face.x - true.x, face.y - true.y) < 0.05 * true.side


def disc(shape: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(columns - x, rows - y) < radius


@pytest.mark.parametrize("tilt", [0.0, 0.4, math.pi / 2, -2.0])
@pytest.mark.parametrize("side", [40.0, 64.0, 150.0])
def test_what_is_painted_lies_where_it_was(session, tilt: float, side: float) -> None:
    """The tiny student turns what is bright dark: each bright disc around a face has to become a dark one in place."""
    grain = np.random.default_rng(0).integers(0, 100, (240, 320, 3), dtype=np.uint8)
    photo, x, y = grain.copy(), 150.0, 110.0
    spots = [(x + 0.2 * side, y - 0.15 * side), (x - 0.25 * side, y + 0.1 * side)]
    for spot in spots:
        photo[disc(photo.shape[:2], *spot, 0.1 * side)] = 240
    out, matte = paint_heads(session, photo, [Face(x, y, side, tilt)])
    for spot in spots:
        inner = disc(photo.shape[:2], *spot, 0.1 * side - max(1.5, side / 30))
        assert np.abs(out[inner].astype(int) - 15).max() < 40 and matte[inner].min() > 0.8
    rim = max(3.0, 0.06 * side)
    elsewhere = ~np.any([disc(photo.shape[:2], *spot, 0.1 * side + rim) for spot in spots], axis=0)
    assert np.abs(out[elsewhere].astype(int) - photo[elsewhere]).max() <= 12  # bicubic ringing
    outside = ~disc(photo.shape[:2], x, y, side * 0.8)
    assert np.array_equal(out[outside], photo[outside])


def test_a_face_at_the_border_or_beyond_it_is_no_trouble(session) -> None:
    photo = np.full((90, 70, 3), 220, np.uint8)
    out, _ = paint_heads(session, photo, [Face(0, 0, 60, 0.3), Face(69, 89, 500), Face(-400, 20, 60)])
    assert out.shape == photo.shape and out[5, 5].max() < 120


def test_neighbours_share_what_lies_between_them(session) -> None:
    photo = np.full((200, 300, 3), 230, np.uint8)
    pair = [Face(110, 100, 120), Face(190, 100, 120)]
    out, matte = paint_heads(session, photo, pair)
    assert out[95:105, 80:220].max() < 60 and matte.max() <= 1  # painted once all over, not twice
    half, _ = paint_heads(session, photo, pair[:1], strengths=[0.5])
    assert abs(int(half[100, 110, 0]) - (230 + 25) / 2) <= 2


def test_a_painting_without_a_matte_keeps_its_colours_in_the_face_and_the_photos_at_the_rim() -> None:
    y, x = np.mgrid[:64, :64].astype(np.float32)
    photo = np.stack([60 + 2 * x, 200 - 2 * y, np.full_like(x, 90)], axis=-1).round().astype(np.uint8)
    tint = np.array([-40.0, 25, 60], np.float32)
    grain = np.where((x + y) % 2 > 0, 10, -10).astype(np.float32)[..., None]
    out = match_rim(photo, photo + tint + grain)
    assert np.abs((out - photo - tint - grain)[25:39, 25:39]).max() < 0.5
    border = np.concatenate([out[0] - photo[0], out[:, -1] - photo[:, -1]])
    assert np.abs(border - border.mean(0)).max() < 14 and np.abs(border.mean(0)).max() < 1.5  # the grain is still there
    steps = np.abs(np.diff((out - photo - grain)[32], axis=0)).max()
    assert steps < 6  # and the way from the one to the other is smooth


def test_models_with_a_matte_need_no_match(session, monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole:
        """The same model without its matte."""

        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

        def get_outputs(self) -> list[object]:
            return session.get_outputs()[:1]

        def run(self, names: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return session.run(names, feed)[:1]

    photo = np.full((120, 120, 3), 220, np.uint8)
    called: list[bool] = []
    monkeypatch.setattr("stages.apply.heads.match_rim", lambda small, painted: called.append(True) or painted)
    for model, times in ((session, 0), (Whole(), 1)):
        paint_heads(model, photo, [Face(60, 60, 80)])
        assert len(called) == times


def test_a_model_of_any_size_sees_the_square_at_its_own_scale(session) -> None:
    seen: list[tuple[int, ...]] = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

        def run(self, names: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(next(iter(feed.values())).shape)
            return session.run(names, feed)

    photo = portrait(1, 128).image
    for size in (None, 96):
        paint_heads(Spy(), photo, [Face(64, 64, 100)], size)
    assert seen == [(1, 3, 64, 64), (1, 3, 96, 96)]


def test_missing_weights_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TristyleError, match="detection_mobilenet0.25_Final.pth"):
        open_finder(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(TristyleError, match="name no folder"):
        open_finder()
    (tmp_path / "detection_mobilenet0.25_Final.pth").write_bytes(b"no weights")
    with pytest.raises(TristyleError, match="Copy the file again"):
        open_finder()
