"""Measures of stage pair on held-out people: painters whose scores are known beforehand, and two runs compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.core.artifact import Artifact, seal
from stages.core.files import read_jsonl, write_jsonl
from stages.core.images import read_image, write_image
from stages.core.runtime import Runtime
from stages.core.settings import TristyleError
from stages.core.tracking import Tracker
from stages.metrics.bootstrap import draw, mean_interval
from stages.networks.face_reader import Reader
from stages.pair.score import READ, compare, measure_heldout
from stages.pair.translator import Painter, Translation
from tests.tools.pair_toys import heads

COUNT, SIZE = 10, 32
PHOTO, MASK = heads(COUNT, 1, False, SIZE)
TWIN, _ = heads(COUNT, 1, True, SIZE)
ORDER = {PHOTO[i].tobytes(): i for i in range(COUNT)}


@pytest.fixture(scope="module")
def reader() -> Reader:
    """A small untrained reader: what is tested is what surrounds it."""
    torch.manual_seed(0)
    return Reader(widths=(8, 8, 8, 8, 8), lateral=8).eval().requires_grad_(False)


def data(folder: Path, twins: bool = True, photos_each: int = 1, seed: int = 2) -> Artifact:
    """Ten held-out photos; with `twins` the true ones, and held-out style pictures."""
    rows = []
    for i in range(COUNT):
        name = f"{i:06d}.png"
        write_image(folder / "heldout/photo" / name, PHOTO[i])
        write_image(folder / "heldout/mask" / name, MASK[i])
        if twins:
            write_image(folder / "heldout/twin/comic" / name, TWIN[i])
        person = 7000 + i // photos_each
        rows.append({"id": name[:-4], "split": "heldout", "person": person, "photo": f"heldout/photo/{name}"})
    styles, masks = heads(8, seed, True, SIZE)
    for i in range(8 if twins else 0):
        write_image(folder / f"heldout/style/comic/{i:06d}.png", styles[i])
        write_image(folder / f"heldout/style_mask/comic/{i:06d}.png", masks[i])
    write_jsonl(folder / "records.jsonl", rows)
    return seal(folder, "data", config={}, inputs={}, metrics={})


def paints(pictures: np.ndarray, mask: np.ndarray | None = None, heat: np.ndarray | None = None) -> Painter:
    """A painter that turns the toy's photo number i into `pictures[i]`."""

    def paint(photos: np.ndarray) -> Translation:
        rows = [ORDER[photo.tobytes()] for photo in photos]
        return Translation(pictures[rows], *(None if part is None else part[rows] for part in (mask, heat)))

    return paint


def run(source: Artifact, painter: Painter, reader: Reader, out: Path) -> tuple[dict[str, float], Artifact]:
    out.mkdir(parents=True)
    metrics = measure_heldout(source, "comic", painter, reader, out, Runtime("cpu", 1, Tracker(out)))
    write_jsonl(out / "records.jsonl", [])
    return metrics, seal(out, "pair", config={}, inputs={"data": source}, metrics=dict(metrics))


def test_a_painter_that_does_nothing(reader: Reader, tmp_path: Path) -> None:
    metrics, _ = run(data(tmp_path / "data"), paints(PHOTO, MASK), reader, tmp_path / "out")
    assert metrics["background_error"] == metrics["landmark_error"] == 0 and metrics["mask_iou"] == 1
    assert metrics["identity"] == pytest.approx(1) and metrics["identity_low"] == pytest.approx(1)
    assert metrics["face_error"] == metrics["photo_face_error"] > 0 and metrics["face_ratio"] == 1
    assert metrics["frame_error"] == metrics["photo_frame_error"] > 0
    assert metrics["kid"] == metrics["photo_kid"]
    assert all(metrics[f"{name}_kept"] == pytest.approx(1) for name in READ)
    assert all(metrics[f"twin_{name}_kept"] < 0.999 for name in READ)  # the twins are other pictures
    assert not [name for name in metrics if "auc" in name or name.startswith("photo_edge")]


def test_a_painter_that_paints_the_twins(reader: Reader, tmp_path: Path) -> None:
    turned = np.roll(MASK, 16, axis=2)
    metrics, pair = run(data(tmp_path / "data"), paints(TWIN, turned, MASK[:, ::4, ::4]), reader, tmp_path / "out")
    assert metrics["face_error"] == metrics["frame_error"] == metrics["face_ratio"] == 0
    assert metrics["edge_clarity_ratio"] == metrics["flat_energy_ratio"] == 1
    assert all(metrics[f"{name}_kept"] == metrics[f"twin_{name}_kept"] for name in READ)
    assert metrics["identity"] == pytest.approx(metrics["twin_identity"]) and metrics["kid"] == metrics["twin_kid"]
    inside, covered = MASK > 127, turned > 127
    shared = (inside & covered).sum((1, 2)) / (inside | covered).sum((1, 2))
    assert metrics["mask_iou"] == pytest.approx(shared.mean())
    for folder, pictures in (("", TWIN), ("mask", turned), ("heatmap", MASK[:, ::4, ::4])):
        shown = read_image(pair.path / "heldout" / folder / "000003.png")
        assert np.array_equal(shown if pictures.ndim == 4 else shown[..., 0], pictures[3])
    expected = np.abs(PHOTO.astype(float) - TWIN).mean((1, 2, 3)).mean() / 255
    assert metrics["photo_frame_error"] == pytest.approx(expected, rel=1e-5)


def test_a_painter_that_paints_the_same_for_all_keeps_no_expression(reader: Reader, tmp_path: Path) -> None:
    metrics, _ = run(data(tmp_path / "data"), paints(np.repeat(TWIN[:1], COUNT, 0)), reader, tmp_path / "out")
    assert all(metrics[f"{name}_kept"] == pytest.approx(0, abs=1e-3) for name in READ)
    assert metrics["landmark_error"] > 0 and "mask_iou" not in metrics


def test_scores_stand_behind_every_mean_and_interval(reader: Reader, tmp_path: Path) -> None:
    metrics, pair = run(data(tmp_path / "data"), paints(255 - PHOTO), reader, tmp_path / "out")
    rows = read_jsonl(pair.path / "heldout/scores.jsonl")
    assert [row["id"] for row in rows] == [f"{i:06d}" for i in range(COUNT)] and rows[3]["person"] == "7003"
    for name in ("identity", "background_error", "face_error", "photo_frame_error", "landmark_error"):
        assert np.mean([row[name] for row in rows]) == pytest.approx(metrics[name], abs=1e-5), name
    assert np.median([row["edge_clarity_ratio"] for row in rows]) == pytest.approx(
        metrics["edge_clarity_ratio"], abs=1e-5
    )
    yaw = [[row[name] for row in rows] for name in ("yaw", "photo_yaw")]
    assert np.corrcoef(yaw)[0, 1] == pytest.approx(metrics["yaw_kept"], abs=1e-3)
    found = mean_interval(np.array([row["identity"] for row in rows]), draw([row["person"] for row in rows]))
    assert (metrics["identity_low"], metrics["identity_high"]) == pytest.approx((found.low, found.high), abs=1e-5)
    assert metrics["identity_low"] < metrics["identity"] < metrics["identity_high"]
    again = json.loads((pair.path / "heldout/resampled.json").read_bytes())
    assert np.quantile(again["kid"], 0.025) == pytest.approx(metrics["kid_low"], abs=1e-5)
    assert metrics["kid_low"] < np.mean(again["kid"]) < metrics["kid_high"]


def test_without_twins_the_photo_is_the_measure_of_clarity(reader: Reader, tmp_path: Path) -> None:
    metrics, _ = run(data(tmp_path / "data", twins=False), paints(PHOTO), reader, tmp_path / "out")
    assert metrics["photo_edge_clarity_ratio"] == metrics["photo_flat_energy_ratio"] == 1
    assert not {"face_error", "frame_error", "kid", "kid_low", "edge_clarity_ratio", "twin_yaw_kept"} & set(metrics)


def test_the_same_person_is_told_across_photo_and_painting(reader: Reader, tmp_path: Path) -> None:
    source = data(tmp_path / "data", photos_each=2)
    same, _ = run(source, paints(PHOTO), reader, tmp_path / "same")
    assert same["same_person_auc"] == pytest.approx(same["photo_same_person_auc"]) and 0 < same["same_person_auc"] < 1
    swapped = PHOTO[[i ^ 1 for i in range(COUNT)]]  # the painting of A is the person's other photo: told by its pixels
    told, _ = run(source, paints(swapped), reader, tmp_path / "told")
    assert told["same_person_auc"] > 0.9 > same["same_person_auc"]
    assert told["photo_same_person_auc"] == same["photo_same_person_auc"]


def test_two_runs_are_compared_person_by_person(reader: Reader, tmp_path: Path) -> None:
    source = data(tmp_path / "data")
    plain, near = run(source, paints(PHOTO), reader, tmp_path / "near")
    moved, far = run(source, paints(TWIN), reader, tmp_path / "far")
    found = compare(near, far)
    assert found["identity"].value == pytest.approx(moved["identity"] - plain["identity"], abs=1e-5)
    assert found["identity"].high < 0 and found["frame_error"].high < 0 and found["background_error"].low > 0
    assert found["kid"].value == pytest.approx(moved["kid"] - plain["kid"], abs=1e-5)
    assert found["kid"].low <= found["kid"].value <= found["kid"].high and "mask_iou" not in found
    assert not [name for name in found if name.startswith(("photo", "twin"))]
    back = compare(far, near)
    assert back["identity"].low == pytest.approx(-found["identity"].high)
    level = compare(near, near)
    assert all((one.value, one.low, one.high) == (0, 0, 0) for one in level.values())


def test_runs_on_other_people_are_not_compared(reader: Reader, tmp_path: Path) -> None:
    _, one = run(data(tmp_path / "data"), paints(PHOTO), reader, tmp_path / "one")
    _, other = run(data(tmp_path / "other", seed=5), paints(PHOTO), reader, tmp_path / "two")
    with pytest.raises(TristyleError, match="different people"):
        compare(one, other)
    (other.path / "heldout/scores.jsonl").unlink()
    with pytest.raises(TristyleError, match=r"two: holds no heldout/scores.jsonl\. Run stage=pair again"):
        compare(one, other)
    changed: dict[str, Any] = json.loads((one.path / "heldout/resampled.json").read_bytes()) | {"seed": 1}
    _, third = run(data(tmp_path / "data2"), paints(PHOTO), reader, tmp_path / "three")
    (third.path / "heldout/resampled.json").write_text(json.dumps(changed))
    with pytest.raises(TristyleError, match="different resamples"):
        compare(one, third)
