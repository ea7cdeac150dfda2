"""Comics drawn by rule: what the rule does to a picture, and pairs of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.core.artifact import seal
from stages.core.files import read_jsonl
from stages.core.images import read_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError
from stages.core.tracking import Silent
from stages.networks.face_reader import load_reader
from stages.pair.cartoon_filter import CartoonPairs, Rule, _landmarks, _stepped, draw
from tests.tools.portraits import portrait, rendered_data

PERSON = portrait(3, 128)
POINTS = PERSON.landmarks / 128  # shares of the frame
FLAT = Rule(areas=13, even=0.45)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return PERSON.image


def test_flat_paper_stays_flat_and_gets_no_ink() -> None:
    grey = np.full((64, 64, 3), 140, np.uint8)
    drawn = draw(grey, Rule())
    assert drawn.std() < 0.5
    assert drawn.mean() > 100


def test_an_edge_gets_a_line_on_its_dark_side() -> None:
    step = np.full((128, 128, 3), 200, np.uint8)
    step[:, :64] = 120
    inked, plain = draw(step, Rule()).astype(int), draw(step, Rule(ink=0)).astype(int)
    darkened = (plain - inked).mean((0, 2))
    assert darkened[60:64].max() > 30  # beside the edge
    assert np.abs(darkened[:40]).max() < 2  # nowhere else
    assert np.abs(darkened[90:]).max() < 2


def test_tones_are_flat_and_steps_between_them_steep() -> None:
    light = np.linspace(0, 100, 1001, dtype=np.float32)
    slope = np.gradient(_stepped(light, 20.0, 2.0), light)
    assert slope[[280, 480, 720]].max() < 0.5  # beside 30, 50, 70, the middles of tones
    assert slope[[201, 401, 601]].min() > 1.8  # beside 20, 40, 60
    assert np.allclose(_stepped(light, 20.0, 0.1), light, atol=0.2)


def test_it_looks_alike_at_any_size(photo: np.ndarray) -> None:
    """Lines are shares of the picture: drawn large and reduced, or drawn small, is nearly the same."""
    large = cv2.resize(photo, (256, 256), interpolation=cv2.INTER_CUBIC)
    for rule in (Rule(), FLAT):
        reduced = cv2.resize(draw(large, rule, POINTS), (128, 128), interpolation=cv2.INTER_AREA)
        assert np.abs(reduced.astype(int) - draw(photo, rule, POINTS)).mean() < 4


def test_wider_lines_hold_more_ink(photo: np.ndarray) -> None:
    means = [draw(photo, Rule(line=line)).mean() for line in (0.8, 1.6, 3.0)]
    assert means[0] > means[1] > means[2]


def test_areas_have_one_colour_and_spare_the_eyes() -> None:
    noise = np.random.default_rng(0).normal(150, 10, (128, 128, 1))  # of skin
    photo = cv2.resize(np.repeat(noise, 3, 2).clip(0, 255).astype(np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC)
    plain, areas = (draw(photo, Rule(ink=0, tones=64, areas=areas), POINTS)[..., 0].astype(float) for areas in (0, 13))
    x, y = (POINTS[36:42].mean(0) * 512).astype(int)
    eye, chin = np.s_[y - 5 : y + 5, x - 20 : x + 20], np.s_[-80:, 180:330]
    assert areas[chin].std() < 0.75 * plain[chin].std()
    assert areas[eye].std() > 2 * areas[chin].std()


def test_a_dark_face_is_changed_as_much_as_a_light_one() -> None:
    light, head = PERSON.image.astype(float), PERSON.mask > 250
    changes = {}
    for even in (0.0, 0.45):
        for share in (1.0, 0.4):
            photo = (light * share).astype(np.uint8)
            drawn = draw(photo, Rule(even=even), POINTS)
            changes[even, share] = np.abs(drawn[head].astype(float) - photo[head]).mean()
    assert changes[0.45, 0.4] / changes[0.45, 1.0] > 1.2 * changes[0.0, 0.4] / changes[0.0, 1.0]


def test_settings_are_refused_by_name() -> None:
    for wrong in (
        {"tones": 1},
        {"hardness": 0.0},
        {"line": float("nan")},
        {"ink": -0.1},
        {"areas": -1},
        {"even": 2},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Rule(**wrong)
    with pytest.raises(ConfigError, match="target"):
        CartoonPairs(target="")


def test_pairs_keep_the_background_and_are_the_rules(tmp_path) -> None:
    runtime = Runtime("cpu", 1, Silent())
    data = tmp_path / "data"
    metrics = rendered_data(data, count=4, style_count=3, heldout=2, heldout_style=2)
    artifact = seal(data, "data", config={}, inputs={}, metrics=metrics, code={}, cost={})
    stage, out = CartoonPairs(target="comic", rule=FLAT), tmp_path / "pair"
    found = stage.run({"data": artifact}, out, runtime)
    rows = [row for row in read_jsonl(out / "records.jsonl") if row["kept"]]
    assert found["pairs"] == len(rows) == 4
    assert found["identity"] > 0.8  # a comic of the person, not of somebody
    reader = load_reader()
    for row in rows:
        photo, style, raw, mask = (read_image(out / row[kind]) for kind in ("photo", "style", "raw", "mask"))
        assert np.array_equal(raw, draw(photo, stage.rule, _landmarks(reader, photo)))
        away = cv2.dilate(mask[..., 0], np.ones((9, 9))) == 0
        assert np.array_equal(style[away], photo[away])
        assert np.array_equal(style[mask[..., 0] == 255], raw[mask[..., 0] == 255])
