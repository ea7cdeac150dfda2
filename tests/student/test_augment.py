"""What pairs go through before each use: the same in every process, and true to what the student must learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.core.settings import ConfigError, TristyleError
from stages.student.augment import Augment, Augmentation, load_augmentation
from stages.student.backgrounds import place
from stages.student.batches import pair_batches
from stages.student.camera import develop, draw_camera, record
from stages.student.change import StudentPair, augmented
from stages.student.occluders import KINDS, Occluded, capsule, occlude
from stages.training.loading import Allowance
from tests.tools.tiny_pairs import pair_artifact, toys

SIZE = 48
EVERYTHING = Augment(geometry=0.9, backgrounds=0.5, occluders=0.5, camera=0.9)


def pairs(count: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Toy photos, styles, masks and covers; a body below each head is clothes: in the cover and not in the mask."""
    photo, style, mask = toys(0, count, SIZE)
    body = mask.copy()
    body[:, SIZE * 3 // 4 :, SIZE // 4 : SIZE * 3 // 4] = 255
    return photo, style, mask, np.stack([body, body, mask], axis=3)


def batches(settings: Augment, workers: int = 1, seed: int = 3):  # noqa: ANN201
    photo, style, mask, cover = pairs()
    eyes = np.tile(np.float32([[0.4, 0.45], [0.6, 0.45]]), (len(photo), 1, 1))
    augmentation = Augmentation(settings=settings, cover=cover, eyes=eyes, workers=workers)
    return pair_batches(photo, style, mask, seed, True, None, augmentation)


def test_a_picture_follows_from_its_number_alone() -> None:
    one, several, other = batches(EVERYTHING), batches(EVERYTHING, workers=3), batches(EVERYTHING, seed=4)
    for start in (0, 8, 16):
        whole, again = one(start, 8), several(start, 8)
        assert all(torch.equal(whole[name], again[name]) for name in whole)
        for index in range(2):  # two processes cut a batch between them
            part = several(start, 8, slice(index, None, 2))
            assert all(torch.equal(whole[name][index::2], part[name]) for name in whole)
    assert not torch.equal(one(0, 8)["photo"], one(48, 8)["photo"])  # the same pairs look otherwise the next time
    assert not torch.equal(one(0, 8)["photo"], other(0, 8)["photo"])


def test_the_background_of_a_target_is_its_photos_own() -> None:
    changed = 0
    for start in range(0, 64, 8):
        batch = batches(EVERYTHING)(start, 8)
        outside = (batch["mask"] == 0).expand_as(batch["photo"])
        assert torch.equal(batch["photo"][outside], batch["style"][outside])
        changed += int((batch["photo"] != batch["style"]).any(dim=1).sum())
    assert changed


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_before_the_person_stays_itself_in_the_target(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.student.occluders.KINDS", {kind: 1.0})
    photo, style, mask, cover = pairs()
    eyes = np.array([[0.4, 0.45], [0.6, 0.45]])
    hidden = 0
    for number in range(len(photo)):
        pair = StudentPair(photo[number], style[number], mask[number], cover[number], eyes)
        made = augmented(pair, Augment(occluders=1.0), np.random.default_rng(number))
        before = np.abs(made.photo.astype(int) - pair.photo).max(axis=2) > 40
        assert before.any() and (made.mask <= pair.mask).all()
        gone = (pair.mask == 255) & (made.mask == 0)
        hidden += int((made.mask < pair.mask).sum())
        assert np.array_equal(made.style[gone], made.photo[gone])
        kept = (made.mask == 255) & ~before
        assert np.abs(made.style[kept].astype(int) - pair.style[kept]).max() <= 1
    assert hidden


def test_another_place_shows_behind_both_people_alike() -> None:
    photo, style, mask, cover = pairs()
    for number in range(4):
        pair = StudentPair(photo[number], style[number], mask[number], cover[number])
        made = augmented(pair, Augment(backgrounds=1.0), np.random.default_rng(number))
        person = cover[number, ..., 0] == 255
        assert np.array_equal(made.photo[person], pair.photo[person])
        assert np.array_equal(made.style[person], pair.style[person])
        assert np.array_equal(made.photo[~person], made.style[~person])
        assert np.abs(made.photo[~person].astype(int) - pair.photo[~person]).mean() > 5
    assert place(SIZE, np.random.default_rng(0)).shape == (SIZE, SIZE, 3)


def test_photo_target_and_mask_move_together() -> None:
    """A pair whose style and mask are its photo still is one, wherever it has been moved."""
    mask = toys(0, 1, SIZE)[2][0]
    same = np.repeat(mask[..., None], 3, axis=2)
    moved = 0
    for seed in range(12):
        pair = StudentPair(same, same, mask, same, np.array([[0.4, 0.4], [0.6, 0.4]]))
        made = augmented(pair, Augment(geometry=1.0), np.random.default_rng(seed))
        assert np.array_equal(made.photo, made.style)
        assert np.abs(made.photo[..., 0].astype(int) - made.mask).mean() < 4  # bicubic beside bilinear
        moved += not np.array_equal(made.photo, same)
        assert (made.mask[[0, -1]].max(), made.mask[:, [0, -1]].max()) != (255, 255)
        assert made.eyes is not None and made.mask[tuple((made.eyes[0, ::-1] * SIZE).astype(int))] > 127
    assert moved > 8


def test_a_camera_changes_the_photo_and_leaves_the_style_its_colours() -> None:
    photo, style, mask, cover = pairs(1)
    pair = StudentPair(photo[0], style[0], mask[0], cover[0])
    made = augmented(pair, Augment(camera=1.0), np.random.default_rng(1))
    inside, outside = mask[0] == 255, mask[0] == 0
    assert np.abs(made.photo.astype(int) - pair.photo).mean() > 3
    assert np.abs(made.style[inside].astype(int) - pair.style[inside]).max() <= 1
    assert np.array_equal(made.style[outside], made.photo[outside])
    rng = np.random.default_rng(0)
    for camera in (draw_camera(rng) for _ in range(20)):
        light = develop(camera, photo[0])
        assert light.dtype == np.float32 and 0 <= light.min() <= light.max() <= 1
        clean = replace(camera, focus=0.0, path=(0.0, 0.0), reduced=1.0, noise=0.0, sharpened=0.0, quality=0)
        assert np.abs(record(clean, light, rng) - light * 255).max() <= 0.51


def test_a_drawn_person_takes_as_much_of_the_cameras_light_as_asked() -> None:
    """All of it: the person is the style as the camera develops it; half: half-way; the draws are the same."""
    photo, style, mask, cover = pairs(1)
    pair, inside = StudentPair(photo[0], style[0], mask[0], cover[0]), mask[0] == 255
    drawn = {
        tone: augmented(pair, Augment(camera=1.0, tone=tone), np.random.default_rng(1)) for tone in (0.0, 0.5, 1.0)
    }
    own, half, whole = (drawn[tone].style[inside].astype(float) for tone in (0.0, 0.5, 1.0))
    assert np.abs(whole - own).mean() > 3 and np.abs(half - (own + whole) / 2).max() <= 1
    for tone in (0.5, 1.0):
        assert np.array_equal(drawn[tone].photo, drawn[0.0].photo)


def test_round_bars_are_round_and_occluders_lie_on_the_person() -> None:
    y, x = (np.arange(64, dtype=np.float32) + 0.5)[:, None] / 64, (np.arange(64, dtype=np.float32) + 0.5)[None] / 64
    cover, shade = capsule((x, y), np.array([0.5, 0.5]), np.array([0.5, 0.9]), (0.1, 0.1), 1 / 64)
    assert cover[32, 32] == 1 and cover[32, 24] == 0 and cover[20, 32] == 0 and shade[40, 32] > shade[40, 37]
    for seed in range(20):
        drawn = Occluded(
            np.full((64, 64, 3), 90, np.float32), np.zeros((64, 64), np.float32), (0.2, 0.1, 0.8, 0.9), None
        )
        occlude(drawn, np.random.default_rng(seed))
        assert drawn.cover[6:58, 12:52].max() > 0.15 and 0 <= drawn.cover.min() <= drawn.cover.max() <= 1


def test_without_augmentation_nothing_is_drawn(tmp_path_factory: pytest.TempPathFactory) -> None:
    photo, style, mask, cover = pairs()
    plain = pair_batches(photo, style, mask, 3, True)(8, 8)
    none = batches(Augment())(8, 8)
    assert all(torch.equal(plain[name], none[name]) for name in ("photo", "style", "mask", "flip", "blurred"))


def test_pairs_that_lack_covers_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    pair = pair_artifact(tmp_path_factory.mktemp("pairs") / "pair", 32, pairs=4)
    assert load_augmentation(pair, Augment(), 1, Allowance()) is None
    found = load_augmentation(pair, Augment(camera=0.5), 1, Allowance())
    assert found is not None and found.cover is None and np.isnan(found.eyes).all()
    with pytest.raises(TristyleError, match=r"^student\.model\.augment\.backgrounds: .* Use pair=twins, or say"):
        load_augmentation(pair, Augment(backgrounds=0.5), 1, Allowance())
    with pytest.raises(ConfigError, match="camera"):
        Augment(camera=1.5)
