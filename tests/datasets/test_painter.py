"""The painter: deterministic, exact in its ground truth, and a data set that keeps its people apart."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.core.runtime import Runtime
from stages.core.settings import ConfigError
from stages.core.tracking import Tracker
from stages.datasets.painted.paint import DOMAINS, LABELS, STYLES, paint, sample_person, sample_view, twin
from stages.datasets.painted.stage import PaintedData
from stages.datasets.people import HELDOUT_PEOPLE, STYLE_PEOPLE, Portrait

HEAD = [label for name, label in LABELS.items() if name not in ("background", "neck", "cloth")]


def _painted(person: int, domain: str = "photo", size: int = 64) -> Portrait:
    return paint(sample_person(person), sample_view(person, 0), size, domain)


def _frontal(person: int, **changes: object):
    """A bare-faced person looking straight ahead, and their view."""
    who = replace(sample_person(person), hat="none", glasses="none", hair_style="short", beard="none")
    calm = {
        "yaw": 0.0,
        "pitch": 0.0,
        "roll": 0.0,
        "shift": (0.0, 0.0),
        "zoom": 1.0,
        "eye_open": 1.0,
        "gaze": (0.0, 0.0),
    }
    return who, replace(sample_view(person, 0), **{**calm, **changes})


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_picture_is_a_function_of_its_integers(domain: str) -> None:
    first, again, other = _painted(7, domain), _painted(7, domain), _painted(8, domain)
    for name in ("image", "mask", "parsing", "landmarks"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.image, other.image)
    assert first.attributes == again.attributes


def test_seed_and_view_paint_other_pictures_of_other_or_the_same_people() -> None:
    assert sample_person(3) == sample_person(3)
    assert sample_person(3, seed=1) != sample_person(3)
    assert sample_view(3, 0) != sample_view(3, 1)
    same = paint(sample_person(3), sample_view(3, 1), 64)
    assert same.attributes["hair"] == _painted(3).attributes["hair"]
    assert not np.array_equal(same.image, _painted(3).image)


@pytest.mark.parametrize(
    ("domain", "size"), [(domain, size) for domain in DOMAINS for size in (32, 64, 128)] + [("photo", 512)]
)
def test_shapes_and_types(domain: str, size: int) -> None:
    picture = _painted(11, domain, size)
    assert picture.image.shape == (size, size, 3) and picture.image.dtype == np.uint8
    assert picture.mask.shape == picture.parsing.shape == (size, size)
    assert picture.mask.dtype == picture.parsing.dtype == np.uint8
    assert picture.landmarks.shape == (68, 2) and picture.landmarks.dtype == np.float32
    assert picture.image.std() > 10
    json.dumps(picture.attributes)


@pytest.mark.parametrize(("size", "domain"), [(31, "photo"), (513, "photo"), (64, "oil")])
def test_what_cannot_be_painted_is_refused(size: int, domain: str) -> None:
    with pytest.raises(ValueError, match=r"outside 32\.\.512|unknown domain 'oil'"):
        _painted(1, domain, size)
    with pytest.raises(ValueError, match="needs a style"):
        twin(sample_person(1), sample_view(1, 0), 64, "photo")


@pytest.mark.parametrize("person", range(16))
def test_mask_is_the_head_of_the_labels(person: int) -> None:
    picture = _painted(person)
    head = np.isin(picture.parsing, HEAD)
    assert 0.15 < head.mean() < 0.85
    assert (head == (picture.mask > 127)).mean() > 0.97
    inner = cv2.erode((picture.mask > 127).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert head[inner].mean() > 0.98
    assert not head[picture.mask == 0].any()


@pytest.mark.parametrize("person", range(16))
def test_landmarks_lie_on_what_they_name(person: int) -> None:
    who, view = _frontal(person, yaw=sample_view(person, 0).yaw * 0.5)
    picture = paint(who, view, 256)
    points = picture.landmarks

    def label(at: np.ndarray) -> int:
        x, y = np.clip(np.rint(at), 0, 255).astype(int)
        return int(picture.parsing[y, x])

    for eye in (points[36:42], points[42:48]):
        assert label(eye.mean(0)) == LABELS["eye"]
        assert eye[3, 0] > eye[0, 0] and eye[4, 1] > eye[1, 1]  # left to right, upper lid first
    assert label(points[30]) == LABELS["nose"]
    assert label(points[48:60].mean(0)) == LABELS["mouth"]
    brows, eyes, nose, mouth, chin = (
        points[a:b, 1].mean() for a, b in ((17, 27), (36, 48), (31, 36), (48, 60), (7, 10))
    )
    assert brows < eyes < nose < mouth < chin
    jaw = points[:17]
    assert (np.diff(jaw[:, 0]) > -1.5).all()  # left to right, but for the cheeks' bulge
    assert np.argmax(jaw[:, 1]) in (7, 8, 9)
    for at in jaw[3:14]:  # the jaw line follows the face's edge
        x, y = np.rint(at).astype(int)
        near = picture.parsing[max(y - 10, 0) : y + 11, max(x - 10, 0) : x + 11]
        assert len(np.unique(near)) > 1


def test_framing_is_that_of_aligned_faces() -> None:
    eyes, mouths = [], []
    for person in range(40):
        points = _painted(person).landmarks / 64
        eyes.append(points[36:48].mean(0))
        mouths.append(points[48:60].mean(0))
    assert np.allclose(np.mean(eyes, 0), (0.5, 0.46), atol=0.02)
    assert np.allclose(np.mean(mouths, 0), (0.5, 0.69), atol=0.02)
    assert np.std(eyes, 0).max() < 0.04


def test_pose_and_expression_move_the_face_as_their_signs_say() -> None:
    def points(**changes: object) -> np.ndarray:
        return paint(*_frontal(5, **changes), 128).landmarks

    calm = points(smile=0.0, mouth_open=0.0)
    eyes = (calm[36:42].mean(0) + calm[42:48].mean(0)) / 2
    right = points(yaw=30.0)
    assert right[30, 0] - right[36:48, 0].mean() > calm[30, 0] - eyes[0] + 4  # nose to the image's right
    up = points(pitch=15.0)
    assert up[30, 1] - up[36:48, 1].mean() < calm[30, 1] - eyes[1] - 2
    rolled = points(roll=10.0)
    slope = rolled[42:48].mean(0) - rolled[36:42].mean(0)
    assert np.rad2deg(np.arctan2(slope[1], slope[0])) == pytest.approx(10, abs=1.5)
    smile = points(smile=1.0, mouth_open=0.0)
    assert smile[[48, 54], 1].mean() < calm[[48, 54], 1].mean() - 1
    gape = points(mouth_open=1.0)
    assert gape[66, 1] - gape[62, 1] > calm[66, 1] - calm[62, 1] + 6
    shut = points(eye_open=0.3)
    assert shut[40, 1] - shut[38, 1] < 0.6 * (calm[40, 1] - calm[38, 1])


def test_things_worn_are_where_the_labels_say() -> None:
    who, view = _frontal(9)
    bare = paint(who, view, 128).parsing
    for key, value, label in (("hat", "beanie", "hat"), ("glasses", "square", "glasses"), ("beard", "full", "beard")):
        worn = paint(replace(who, **{key: value}), view, 128).parsing
        assert (worn == LABELS[label]).sum() > 60 and not (bare == LABELS[label]).any()
    assert not (paint(replace(who, hair_style="bald"), view, 128).parsing == LABELS["hair"]).any()
    long = paint(replace(who, hair_style="long"), view, 128).parsing == LABELS["hair"]
    assert long.sum() > 1.3 * (bare == LABELS["hair"]).sum() and long[100:].any()


@pytest.mark.parametrize("style", STYLES)
def test_twin_is_the_photo_outside_the_head_and_the_style_inside(style: str) -> None:
    inside, eyes = [], []
    for person in range(HELDOUT_PEOPLE, HELDOUT_PEOPLE + 6):
        who, view = sample_person(person), sample_view(person, 0)
        photo, true, full = paint(who, view, 64), twin(who, view, 64, style), paint(who, view, 64, style)
        assert np.array_equal(true.mask, photo.mask)
        assert np.array_equal(true.image[photo.mask == 0], photo.image[photo.mask == 0])
        core = cv2.erode((photo.mask > 250).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        inside.append(np.abs(true.image[core].astype(float) - photo.image[core]).mean())
        assert np.abs(true.image[core].astype(float) - full.image[core]).mean() < 0.35 * inside[-1]
        # the style's own silhouette is the photo's, so one mask serves both
        assert np.minimum(full.mask, photo.mask).sum() > 0.97 * np.maximum(full.mask, photo.mask).sum()
        shut = [picture.landmarks[40, 1] - picture.landmarks[38, 1] for picture in (true, photo)]
        eyes.append(shut[0] / shut[1])
    assert np.mean(inside) > 20
    assert np.mean(eyes) > (1.25 if style == "comic" else 1.05)


def test_comic_has_few_colours_and_dark_lines() -> None:
    def common(domain: str) -> float:
        picture = _painted(42, domain, 128)
        skin = picture.image[picture.parsing == LABELS["skin"]] // 8
        return float(np.unique(skin, axis=0, return_counts=True)[1].max() / len(skin))

    assert common("comic") > 0.35 > 2 * common("photo")
    picture = _painted(42, "comic", 128)
    edge = (picture.mask > 250) & (cv2.erode(picture.mask, np.ones((5, 5), np.uint8)) < 250)
    inside = cv2.erode(picture.mask, np.ones((9, 9), np.uint8)) > 250
    assert picture.image[edge].mean() < 0.7 * picture.image[inside].mean()


# ------------------------------------------------------------------------------------------- the data set


def _run(out: Path, **settings: object) -> dict[str, float]:
    workers = settings.pop("workers", 1)
    small: dict = {"size": 32, "count": 5, "style_count": 3, "heldout": 2, "heldout_style": 2, **settings}
    return PaintedData(**small).run({}, out, Runtime("cpu", workers, Tracker(out)))


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_data_set_has_the_layout_of_the_contract(tmp_path: Path) -> None:
    metrics = _run(tmp_path, styles=["comic", "sketch"])
    assert metrics == {"count": 5, "style_count": 6, "heldout": 2, "heldout_style": 4, "pictures": 17, "size": 32}
    files = _files(tmp_path)
    folders = {
        "photo": 5, "mask": 5, "parsing": 5, "style/comic": 3, "style_mask/sketch": 3, "heldout/photo": 2,
        "heldout/mask": 2, "heldout/parsing": 2, "heldout/twin/comic": 2, "heldout/twin/sketch": 2,
        "heldout/style/comic": 2, "heldout/style_mask/comic": 2,
    }  # fmt: skip
    for name, count in folders.items():
        assert [f"{name}/{index:06d}.png" in files for index in range(count + 1)] == [True] * count + [False]
    for name, count in (("landmarks.npz", 5), ("heldout/landmarks.npz", 2)):
        with np.load(tmp_path / name) as stored:
            assert stored["photo"].shape == (count, 68, 2) and stored["photo"].dtype == np.float32
    records = [json.loads(line) for line in files["records.jsonl"].decode().splitlines()]
    assert len(records) == 17
    for record in records:
        assert record["photo"] in files and record["mask"] in files
        assert {"yaw", "pitch", "roll", "expression", "mouth_open", "eye_open"} <= set(record["attributes"])
    people = {
        split: {r["person"] for r in records if r["split"] == split}
        for split in ("train", "heldout", "style", "heldout_style")
    }
    everyone = [person for group in people.values() for person in group]
    assert len(everyone) == len(set(everyone)) == 5 + 2 + 3 + 2
    assert min(people["style"]) >= STYLE_PEOPLE and min(people["heldout"]) >= HELDOUT_PEOPLE
    first = cv2.imread(str(tmp_path / "photo" / "000000.png"))[..., ::-1]
    assert np.array_equal(first, _painted(0, size=32).image)


def test_workers_do_not_change_a_byte_and_the_seed_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.datasets.painted.stage.CHUNK", 2)  # several jobs a worker
    for name, workers, seed in (("one", 1, 0), ("two", 2, 0), ("other", 1, 1)):
        _run(tmp_path / name, workers=workers, seed=seed)
    one, two, other = (_files(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["photo/000000.png"] != other["photo/000000.png"]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"size": 63}, "size"), ({"size": 16}, "size"), ({"size": 1024}, "size"), ({"size": "64"}, "size"),
        ({"count": 0}, "count"), ({"style_count": -1}, "style_count"), ({"heldout": 0}, "heldout"),
        ({"heldout_style": float("nan")}, "heldout_style"), ({"count": 10**7}, "count"), ({"seed": -1}, "seed"),
        ({"styles": []}, "styles"), ({"styles": "comic"}, "styles"), ({"styles": ["oil"]}, "styles"),
        ({"styles": ["comic", "comic"]}, "styles"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PaintedData(**settings)
    assert str(caught.value).startswith(key)
