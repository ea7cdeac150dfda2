"""People with truth out of a data artifact: what becomes of their labels, rough pictures, and both trainings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.artifact import seal
from stages.core.settings import TristyleError
from stages.faces.parse import open_parser
from stages.networks.face_labels import PARSER, PARSER_LABELS, PARSER_TO_READER, READER, READER_LABELS, READER_TO_PARSER
from stages.recipes import augment, face_parser, face_reader, truth
from stages.recipes.parser_labels import Labelled, bridged, glazed
from tests.tools.portraits import rendered_data


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("r") / "data"
    metrics = rendered_data(out, count=6)
    config = {"_target_": "stages.datasets.rendered.stage.RenderedData", "count": 6}
    return seal(out, "data", config=config, inputs={}, metrics=metrics).path


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def test_rendered_people_speak_both_networks_labels(rendered: Path) -> None:
    people = truth.load_truth(rendered)
    codes, labels = people.parser_codes(), people.reader_labels()
    assert codes.shape == labels.shape == (6, 64, 64) and codes.max() < len(PARSER_LABELS)
    assert {PARSER_LABELS[code] for code in np.unique(codes)} >= {"skin", "nose", "hair", "neck", "cloth", "l_lip"}
    assert {READER_LABELS[label] for label in np.unique(labels)} >= {"skin", "nose", "hair", "neck", "cloth", "mouth"}

    # Landmarks lie on what they are called after; the person's left is on the right.
    for which, one in zip(people.landmarks, codes, strict=True):
        x, y = (which[30] * 64).astype(int)
        assert one[y, x] == PARSER["nose"] or one[y - 1, x] == PARSER["nose"]
    sides = [np.nonzero(codes == PARSER[side])[2].mean() for side in ("l_brow", "r_brow")]
    assert sides[0] > sides[1]


def test_people_are_loaded_at_a_size_and_up_to_a_number(rendered: Path) -> None:
    people, half = truth.load_truth(rendered, most=4), truth.load_truth(rendered, size=32)
    assert len(people) == 4 and people.parsing.shape == (4, 64, 64)
    assert half.images.shape == (6, 32, 32, 3) and np.allclose(half.landmarks[:4], people.landmarks)


def test_parser_labels_go_to_the_reader_and_back() -> None:
    for label, name in enumerate(READER_LABELS):
        if name != "beard":
            assert PARSER_TO_READER[READER_TO_PARSER[label]] == label
    assert PARSER_TO_READER[PARSER["u_lip"]] == READER["mouth"]


def test_glass_fills_a_rim_around_the_eye() -> None:
    codes = np.full((20, 20), PARSER["skin"], np.uint8)
    codes[5:15, 5:15] = PARSER["glasses"]
    codes[6:14, 6:14] = PARSER["skin"]
    codes[9:11, 8:12] = PARSER["l_eye"]
    glass = glazed(codes)
    assert (glass == PARSER["glasses"]).sum() == 100 - 8 and (glass == PARSER["l_eye"]).sum() == 8


def test_a_nose_begins_between_the_eyes() -> None:
    codes = np.full((40, 40), PARSER["skin"], np.uint8)
    codes[10, 20] = PARSER["l_brow"]
    landmarks = np.zeros((68, 2))
    landmarks[[27, 31, 33, 35]] = [[20, 10], [15, 30], [20, 32], [25, 30]]
    nose = bridged(codes, landmarks) == PARSER["nose"]
    assert nose[12:30, 20].all() and not nose[10, 20] and not nose[:9].any() and not nose[20, :14].any()


def test_other_stages_have_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    seal(tmp_path, "data", config={"_target_": "stages.datasets.folders.stage.FoldersData"}, inputs={}, metrics={})
    with pytest.raises(TristyleError, match="come without labels"):
        truth.load_truth(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Rough pictures


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sixty-four grey heads of skin before black, their eyes at a third and two thirds."""
    labels = torch.zeros(64, 48, 48, dtype=torch.long)
    labels[:, 8:44, 8:40] = 1
    images = torch.where(labels[:, None] > 0, 0.2, -1.0).expand(-1, 3, -1, -1).contiguous()
    return images, labels, torch.tensor([[0.36, 0.45], [0.64, 0.45]]).expand(64, 2, 2)


def test_clutter_leaves_people_alone() -> None:
    images, labels, _ = scene()
    torch.manual_seed(0)
    busy = augment.clutter(images, labels)
    assert torch.allclose(busy[:, :, 12:40, 12:36], images[:, :, 12:40, 12:36])
    changed = (busy != images).flatten(1).any(1)
    assert 16 < int(changed.sum()) < 48


def test_bars_are_background() -> None:
    images, labels, _ = scene()
    torch.manual_seed(0)
    covered, kept = augment.bars(images, labels)
    changed = (covered != images).any(1)
    assert 2 < int(changed.flatten(1).any(1).sum()) < 24
    assert torch.equal(changed & (labels > 0), (kept == 0) & (labels > 0))


def test_dark_glasses_lie_on_the_eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "SHADED", 1.0)
    images, labels, eyes = scene()
    eyes = eyes.clone()
    eyes[0] = torch.nan  # a picture without eyes
    torch.manual_seed(0)
    worn, kept = augment.dark_glasses(images, labels, eyes, 3)
    assert torch.equal(worn[0], images[0]) and torch.equal(kept[0], labels[0])
    assert (kept[1:, 21, 17] == 3).all() and (kept[1:, 21, 30] == 3).all()
    assert (worn[1:, :, 21, 17] < 0.1).all() and (kept[1:, 36] == labels[1:, 36]).all()
    assert (kept[labels == 0] == 0).all()


@pytest.mark.parametrize("change", [augment.compress, augment.shake, augment.rough_camera])
def test_a_rough_camera_keeps_the_picture(change: object) -> None:
    images, _, _ = scene()
    torch.manual_seed(0)
    seen = change(images)  # type: ignore[operator]
    assert seen.shape == images.shape and bool(torch.isfinite(seen).all())
    assert (seen != images).flatten(1).any(1).sum() > 4
    inner, outer = seen[:, :, 16:36, 16:32].mean((1, 2, 3)), seen[:, :, :4].mean((1, 2, 3))
    assert ((inner - outer) > 0.2).float().mean() > 0.9


def test_middles_of_what_is_there() -> None:
    chosen = torch.zeros(2, 8, 8, dtype=torch.bool)
    chosen[0, 2:4, 4:8] = True
    found = face_parser.middles(chosen)
    assert found[0].tolist() == [0.75, 0.375] and bool(found[1].isnan().all())


# ---------------------------------------------------------------------------------------------------------------------
# Trainings


def test_a_parser_learns_from_a_data_artifact(rendered: Path, tmp_path: Path) -> None:
    out = tmp_path / "parser.safetensors"
    given = {"out": out, "work": tmp_path / "work", "most": 4, "length": 16, "batch": 4}
    command = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    face_parser.main([*command, "--data", str(rendered)])
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["portraits"] == [4] and card["id"] == open_parser(out).id and "Data " in card["data"][0]
    rows = [json.loads(line) for line in (tmp_path / "work" / "log.jsonl").read_text().splitlines()]
    losses = [row["cross"] for row in rows if row["phase"] == "parser/parse"]
    assert losses[-1] < losses[0]


def test_sources_are_drawn_alike_often() -> None:
    def source(value: int) -> face_parser.Batches:
        def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
            return {"image": torch.tensor([value + start + k for k in range(count)][rows])}

        return batches

    both = face_parser.mixed_batches(source(0), source(100))
    assert both(8, 6)["image"].tolist() == [4, 5, 6, 104, 105, 106]
    for step in (slice(0, None, 2), slice(1, None, 2), slice(0, 2), slice(4, None)):
        assert both(8, 7, step)["image"].tolist() == [4, 5, 6, 104, 105, 106][step]


def test_a_reader_learns_from_photos(rendered: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader.safetensors"
    command = ["--data", str(rendered), "--out", str(out), "--work", str(tmp_path / "work")]
    face_reader.main([*command, "--length", "64", "--workers", "1"])
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["recipe"]["photos"] == 6 and "identity" in card["untrained"]
    parser = open_parser(out)
    assert parser.id == card["id"] and parser.labels(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 64, 64)


def test_pictures_are_brought_to_another_size() -> None:
    labels = torch.arange(4, dtype=torch.uint8).view(1, 2, 2)
    larger = Labelled((labels * 50)[:, None].expand(-1, 3, -1, -1).contiguous(), labels).sized(4)
    assert larger.images.shape == (1, 3, 4, 4) and larger.labels[0, ::3, ::3].tolist() == [[0, 1], [2, 3]]
