"""Batches: pictures, splines and patches belong together, and follow from their place alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.core.tensors import to_tensor
from stages.networks import tps
from stages.pair.tps.batches import (
    REGIONS,
    FaceSet,
    Splines,
    aligned_batches,
    bank_patches,
    region,
    region_grid,
)
from stages.pair.tps.landmarks import SPLINE, mirrored_points
from stages.pair.tps.task import Layout
from stages.training.loading import Allowance
from tests.tools.aligned_toys import faces

SIZE = 64


@pytest.fixture(scope="module")
def sets() -> tuple[FaceSet, FaceSet]:
    return faces(12, False, SIZE), faces(10, True, SIZE)


def test_rows_are_those_of_the_whole_batch(sets: tuple[FaceSet, FaceSet]) -> None:
    batches = aligned_batches(*sets, 0, 0.02, 16)
    whole, again = batches(8, 4), aligned_batches(*sets, 0, 0.02, 16)
    parts = [again(8, 4, slice(start, None, 2)) for start in (1, 0)]  # asked in another order
    for name, value in whole.items():
        assert torch.equal(parts[1][name], value[::2]) and torch.equal(parts[0][name], value[1::2]), name
    assert not torch.equal(whole["photo"], aligned_batches(*sets, 1, 0.02, 16)(8, 4)["photo"])


def test_the_style_picture_lands_on_the_portrait(sets: tuple[FaceSet, FaceSet]) -> None:
    """Landmarks of the warped style picture are the photo's: seen on the outline's dark pixels, and by the grids."""
    batch = aligned_batches(*sets, 0, 0.02, 0)(0, 12)
    for domain, other in (("photo", "style"), ("style", "photo")):
        grid = tps.refined(batch[f"to_{domain}"], 4)  # where each pixel of `domain`'s layout lies in the other
        here, there = batch[f"{domain}_points"][:, SPLINE], batch[f"{other}_points"][:, SPLINE]
        at = torch.nn.functional.grid_sample(grid.permute(0, 3, 1, 2), here[:, None] * 2 - 1, align_corners=False)
        missed = (at[:, :, 0].mT - (there * 2 - 1)).norm(dim=2) * SIZE / 2
        assert missed.mean() < 0.4 and missed.quantile(0.95) < 1.2, domain  # px
    moved = Layout(batch["to_photo"], SIZE)(batch["style_mask"])
    overlap = torch.minimum(moved, batch["photo_mask"]).sum() / torch.maximum(moved, batch["photo_mask"]).sum()
    plain = torch.minimum(batch["style_mask"], batch["photo_mask"]).sum()
    plain = plain / torch.maximum(batch["style_mask"], batch["photo_mask"]).sum()
    assert overlap > 0.93 > plain


def test_masks_and_landmarks_follow_a_mirrored_picture(sets: tuple[FaceSet, FaceSet]) -> None:
    batch = aligned_batches(*sets, 0, 0.02, 0)(0, 24)
    photos = to_tensor(np.asarray(sets[0].images))
    flipped = 0
    for picture, mask, points in zip(batch["photo"], batch["photo_mask"], batch["photo_points"], strict=True):
        [(number, mirrored)] = [
            (n, m) for n in range(12) for m in (0, 1) if torch.equal(photos[n].flip(2) if m else photos[n], picture)
        ]
        flipped += mirrored
        given = torch.from_numpy(np.asarray(sets[0].masks)[number] / 255).float()
        torch.testing.assert_close(mask[0], given.flip(1) if mirrored else given)
        expected = mirrored_points(sets[0].points[number]) if mirrored else sets[0].points[number]
        np.testing.assert_array_equal(points.numpy(), expected)
    assert 4 < flipped < 20


def test_a_partner_that_folds_is_replaced(sets: tuple[FaceSet, FaceSet]) -> None:
    photos, styles = sets
    torn = styles.points.copy()
    torn[:5] = torn[:5, ::-1]  # half of them in another order
    folding = FaceSet(styles.images, styles.masks, torn)
    strict, lax = (aligned_batches(photos, folding, 0, most, 0)(0, 24)["folded"] for most in (0.02, 1.0))
    assert strict.mean() < 0.3 * lax.mean() and (strict <= lax + 1e-6).all() and lax.max() > 0.2
    sound = aligned_batches(photos, styles, 0, 0.02, 0)(0, 24)["folded"]
    assert sound.max() <= 0.02


def test_what_a_spline_needs_is_computed_once(sets: tuple[FaceSet, FaceSet], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = tps.basis
    monkeypatch.setattr(tps, "basis", lambda *given: calls.append(1) or whole(*given))
    for memory, expected in ((1 << 30, 1), (0, 3)):
        calls.clear()
        splines = Splines(sets[1], SIZE, Allowance(memory))
        grids = [splines.grid(0, False, face) for face in sets[0].points[:3]]
        assert len(calls) == expected and grids[0].shape == (18, 18, 2) and not torch.equal(grids[0], grids[1])


def test_patches_of_the_bank_lie_like_the_portrait(sets: tuple[FaceSet, FaceSet]) -> None:
    """The bank's eye, moved onto a portrait whose eyes are as high as the bank's, is dark where that eye is."""
    face = sets[1].points[0]
    patches = bank_patches(sets[1], face, np.random.default_rng(0), 16)
    assert patches.shape == (4, 3, 16, 16) and patches.isfinite().all()
    grids = region_grid(torch.stack([region(face, name) for name in REGIONS]).float(), 16)
    own = tps.sample(to_tensor(sets[1].images[:1]).expand(4, -1, -1, -1), grids)
    for place, name in enumerate(REGIONS):
        a, b = patches[place].mean(0).flatten(), own[place].mean(0).flatten()
        assert torch.corrcoef(torch.stack([a, b]))[0, 1] > (0.5 if name == "nose" else 0.75), name


def test_regions_hold_their_landmarks(sets: tuple[FaceSet, FaceSet]) -> None:
    face = sets[0].points[2]
    for name, (points, _) in REGIONS.items():
        x, y, half = region(face, name).tolist()
        inside = np.abs(face[list(points)] * 2 - 1 - [x, y]).max()
        assert 0.3 * half < inside < half, name
