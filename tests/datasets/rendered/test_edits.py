"""True edits: one attribute becomes what the record says, everything else stays, and the data set keeps both."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.core.images import load_images
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError
from stages.core.tracking import Tracker
from stages.datasets.rendered.edits import EDITED, LEAST, RANGES, REFRAMED, draw_edit, edited
from stages.datasets.rendered.person import attributes, sample_person, sample_view
from stages.datasets.rendered.render import shoot
from stages.datasets.rendered.stage import RenderedData

FOLLOWS = {  # what changes with an attribute, beside itself
    "age": {"hair_colour"},
    "sex": {"beard", "beard_length", "stubble"},
    "smile": set(),
    "yaw": set(),
    "glasses": set(),
}


def test_an_edit_changes_its_attribute_and_no_other() -> None:
    drawn = set()
    for number in range(60):
        person, view = sample_person(number), sample_view(number)
        name, value = draw_edit(person, view, np.random.default_rng(number))
        before, after = attributes(person, view), attributes(*edited(person, view, name, value))
        assert after[name] == (round(value) if name == "age" else pytest.approx(value, abs=0.06))
        if name in RANGES:
            assert RANGES[name][0] <= value <= RANGES[name][1] and abs(value - before[name]) >= LEAST[name] - 0.5
        kept = [key for key in before if key not in FOLLOWS[name] | {name} and not key.startswith("unit_")]
        assert all(after[key] == before[key] for key in kept)
        drawn.add(name)
    assert drawn == set(EDITED)


def test_the_body_stays_when_the_head_turns() -> None:
    person, view = sample_person(1), sample_view(1)
    turned = edited(person, view, "yaw", -20.0)[1]
    assert turned.yaw * turned.lean == pytest.approx(view.yaw * view.lean)


def test_a_turned_head_is_framed_as_a_photo_is() -> None:
    """Its neck takes it aside; what knows photos only would read a face beside the middle wrongly."""
    assert "yaw" in REFRAMED
    for number in (1, 4):
        person, view = sample_person(number), replace(sample_view(number), yaw=-15.0, lean=0.2, shift=(0.0, 0.0))
        shot = shoot(person, view, 64)
        turned = edited(person, view, "yaw", 25.0)
        before, followed, still = (
            one.picture.landmarks[36:].mean(axis=0)[0] / 64
            for one in (shot, shoot(*turned, 64), shoot(*turned, 64, camera=shot.scene.camera))
        )
        assert abs(followed - before) < 0.08 < 0.15 < still - before


@pytest.mark.parametrize(("name", "value"), [("glasses", "plain"), ("smile", 0.9), ("age", 75.0), ("sex", "male")])
def test_an_edit_of_the_face_leaves_the_place_and_its_light(name: str, value: float | str) -> None:
    number = next(
        n for n in range(50) if sample_person(n).glasses == "none" and sample_person(n).sex == "female"
        and sample_person(n).age > 20 and sample_view(n).units.get("mouthSmileLeft", 0.0) < 0.3
    )  # fmt: skip
    person, view = sample_person(number), sample_view(number)
    shot = shoot(person, view, 64)
    after = shoot(*edited(person, view, name, value), 64, camera=shot.scene.camera, met=shot.met)
    assert np.array_equal(shot.empty, after.empty)
    assert np.abs(after.picture.image.astype(int) - shot.picture.image).max() > 30


def test_a_data_set_keeps_a_true_edit_of_every_photo(tmp_path: Path) -> None:
    small: dict = {"size": 32, "count": 3, "style_count": 1, "heldout": 2, "heldout_style": 1}
    for name, edits in (("with", True), ("without", False)):
        made = RenderedData(**small, edits=edits)
        made.run({}, tmp_path / name, Runtime("cpu", 1, Tracker(tmp_path / name)))
    rows = [json.loads(line) for line in (tmp_path / "with/records.jsonl").read_text().splitlines()]
    assert [("edit" in row) == (row["style"] is None) for row in rows] == [True] * len(rows)
    shown = [row for row in rows if "edit" in row]
    photos, changed = (load_images([tmp_path / "with" / path for path in paths]) for paths in (
        [row["photo"] for row in shown], [row["edit"]["photo"] for row in shown]
    ))  # fmt: skip
    assert len(shown) == 5 and all((a != b).any() for a, b in zip(photos, changed, strict=True))
    plain = load_images([tmp_path / "without" / row["photo"] for row in shown])
    assert np.array_equal(photos, plain)
    for row in shown:
        assert row["attributes"][row["edit"]["attribute"]] != row["edit"]["value"]


def test_edits_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match="edits"):
        RenderedData(edits="yes")  # type: ignore[arg-type]
