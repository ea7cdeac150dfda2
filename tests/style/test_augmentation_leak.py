"""The leak detector: silent on real pictures, and it names what was done to augmented ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from stages.core.tensors import to_tensor, to_uint8
from stages.networks.augment import PIPES, AugmentPipe
from stages.style.augmentation_leak import KINDS, detect, leaking


def pictures(count: int, seed: int) -> np.ndarray:
    """Faces of sorts, each of its own place, shape and colours: uint8 [count, 48, 48, 3]."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        image = np.full((48, 48, 3), rng.integers(150, 200, 3), np.uint8)
        x, y = rng.normal(24, 0.7), rng.normal(25, 0.7)
        width, height = rng.normal(12, 0.5), rng.normal(15, 0.5)
        skin = (np.array([215, 160, 120]) + rng.normal(0, 12, 3)).clip(0, 255)

        def ellipse(cx: float, cy: float, w: float, h: float, colour, image: np.ndarray = image) -> None:
            box = ((cx * 16, cy * 16), (w * 32, h * 32), 0.0)
            points = cv2.ellipse2Poly((int(box[0][0]), int(box[0][1])), (int(w * 16), int(h * 16)), 0, 0, 360, 10)
            cv2.fillPoly(image, [points], [float(c) for c in colour], cv2.LINE_AA, shift=4)

        ellipse(x, y - 3, width * 1.15, height * 1.05, rng.integers(30, 80, 3))
        ellipse(x, y, width, height, skin)
        for side in (-1, 1):
            ellipse(x + side * width * 0.42, y - 2, 2.2, 1.6, (40, 35, 30))
        ellipse(x, y + height * 0.5, 4, 1.2, (150, 50, 60))
        rows.append(image)
    return np.stack(rows)


def augmented(images: np.ndarray, operations: frozenset[str], p: float) -> np.ndarray:
    pipe = AugmentPipe("bgc")
    pipe.operations = frozenset(operations)
    pipe.p.fill_(p)
    torch.manual_seed(5)
    return to_uint8(pipe(to_tensor(images)).clamp(-1, 1))


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return pictures(100, 0)


@pytest.fixture(scope="module")
def others() -> np.ndarray:
    """The same distribution, other draws."""
    return pictures(100, 1)


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_real_pictures_do_not_alarm(real, others, p: float) -> None:
    scores = detect(others, real, "bgc", p)
    assert scores.keys() == KINDS.keys()
    assert leaking(scores) == [], scores


def test_few_real_pictures_do_not_alarm(real, others) -> None:
    assert leaking(detect(others, real[:40], "portrait", 0.6)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_augmentation_is_named(real, others, kind: str) -> None:
    scores = detect(augmented(others, KINDS[kind], 0.8), real, "bgc", 0.8)
    assert leaking(scores)[:1] == [kind], scores
    assert scores[kind] <= 1.1  # as often as the discriminator sees it, no more


def test_everything_at_once_alarms_and_a_rare_leak_scores_less(real, others) -> None:
    operations = frozenset(PIPES["portrait"])
    often, seldom = (detect(augmented(others, operations, p), real, "portrait", 0.6) for p in (0.6, 0.15))
    assert {"translation", "saturation"} <= set(leaking(often)), often
    assert sum(seldom.values()) < 0.6 * sum(often.values())


def test_a_style_not_yet_reached_is_no_leak(real, others) -> None:
    darker = (others * 0.8).astype(np.uint8)
    grey = darker.mean(axis=3, keepdims=True)
    faded = (grey + (darker - grey) * 0.7).astype(np.uint8)
    assert leaking(detect(faded, real, "portrait", 0.6)) == []


def test_mirrored_pictures_are_no_leak(real, others) -> None:
    assert leaking(detect(np.ascontiguousarray(others[:, :, ::-1]), real, "bgc", 0.8)) == []


def test_only_what_the_pipe_has_is_asked_for(real, others) -> None:
    assert "rotation" not in detect(others[:20], real[:20], "portrait", 0.5)
    assert detect(others[:20], real[:20], "cutout", 0.5) == {} == detect(others[:20], real[:20], "noise", 0.0)
    assert set(detect(others[:20], real[:20], "color", 0.0).values()) == {0.0}
    before = torch.get_rng_state()
    assert detect(others[:20], real[:20], "color", 0.5) == detect(others[:20], real[:20], "color", 0.5)
    assert torch.equal(before, torch.get_rng_state())


def test_too_few_pictures_are_refused(real) -> None:
    with pytest.raises(ValueError, match="two of each"):
        detect(real[:1], real, "portrait", 0.5)


def test_leaking_puts_the_worst_first() -> None:
    assert leaking({"scale": 0.2, "hue": 0.03, "contrast": 0.7}) == ["contrast", "scale"]
