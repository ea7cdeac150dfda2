"""Recolouring regions of portraits: the region moves to the target, everything else stays."""

from __future__ import annotations

import kornia
import numpy as np
import pytest
import torch
from torch import Tensor

from stages.core.settings import ConfigError
from stages.core.tensors import to_tensor, unit
from stages.networks.face_labels import PARSER, PARSER_LABELS, READER, numbers
from stages.networks.face_reader import FaceReading, Reader, load_reader
from stages.style.editing.recolour import REGIONS, Recolour, finisher, recolour, region_masks
from tests.tools.portraits import portrait

# The first from 40 on whose photo at 64 px is a fifth hair or more and has a dozen pixels of eyes or more.
SHOWN = (44, 46, 54, 58, 60, 69)
INSIDE = {"skin": 0.8, "hair": 0.8, "lips": 0.75, "iris": 0.6}  # lips 0.79 here, 0.88 at 128 px
TARGETS = {"iris": [40, 110, 200], "lips": [170, 30, 70], "skin": [150, 110, 90], "hair": [150, 70, 40]}
LABELS = {  # of the face parser
    "skin": ("skin", "nose", "l_ear", "r_ear", "neck"),
    "hair": ("hair",),
    "lips": ("mouth", "u_lip", "l_lip"),
    "iris": ("l_eye", "r_eye"),
}


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader()


@pytest.fixture(scope="module")
def portraits(reader) -> tuple[Tensor, FaceReading, np.ndarray]:
    return read_people(reader, 64)


def read_people(reader: Reader, size: int) -> tuple[Tensor, FaceReading, np.ndarray]:
    """Four photos and two comics in [-1, 1], what the reader says, the true labels [6, size, size]."""
    people = [portrait(who, size, "comic" if who in (54, 69) else None) for who in SHOWN]
    images = to_tensor(np.stack([picture.image for picture in people]))
    return images, reader.read(images), np.stack([picture.parsing for picture in people])


def lab(images: Tensor) -> Tensor:
    return kornia.color.rgb_to_lab(unit(images))


def mean_colour(images: Tensor, weight: Tensor) -> Tensor:
    """Mean Lab under a weight [N, 1, H, W]: [N, 3]."""
    return (lab(images) * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1e-6)


@pytest.mark.parametrize("region", REGIONS)
def test_the_region_becomes_the_colour_and_nothing_else_changes(portraits, region: str) -> None:
    images, reading, _ = portraits
    done = recolour(images, reading, Recolour(**{region: TARGETS[region]}))
    mask = region_masks(images, reading, [region])[region]
    seen = mask.mean(dim=(1, 2, 3)) > 0.002
    assert seen.sum() >= 4
    target = lab(torch.tensor(TARGETS[region]).view(1, 3, 1, 1) / 127.5 - 1)[0, :, 0, 0]
    before, after = ((mean_colour(x, mask.square())[seen] - target).norm(dim=1) for x in (images, done))
    assert (after < 0.45 * before).all() and after.median() < 8
    assert torch.equal(done[(mask == 0).expand_as(done)], images[(mask == 0).expand_as(done)])
    assert done.abs().max() <= 1


@pytest.mark.parametrize("region", REGIONS)
def test_masks_lie_on_what_is_there(portraits, region: str) -> None:
    images, reading, truth = portraits
    mask = region_masks(images, reading, [region])[region][:, 0].numpy()
    own = np.isin(truth, numbers(PARSER_LABELS, *LABELS[region]))
    assert mask[own].sum() / mask.sum() > INSIDE[region]
    if region in ("skin", "hair"):
        assert mask[own].mean() > 0.8


def test_irises_are_the_dark_of_the_eyes(reader) -> None:
    """Smaller than the eye, and darker than the rest of it; at 128 px, for at 64 an eye is three pixels high."""
    images, reading, truth = read_people(reader, 128)
    mask = region_masks(images, reading, ["iris"])["iris"]
    eye = torch.from_numpy(np.isin(truth, numbers(PARSER_LABELS, *LABELS["iris"])))[:, None].float()
    assert 0.1 < mask.sum() / eye.sum() < 0.9
    white = eye * (1 - mask)
    assert (mean_colour(images, mask * eye)[:, 0] < mean_colour(images, white)[:, 0] - 10).float().mean() > 0.8


def test_shading_stays(portraits) -> None:
    """A lighter pixel of the hair stays lighter, and contrast is not flattened."""
    images, reading, _ = portraits
    done = recolour(images, reading, Recolour(hair=[150, 70, 40]))
    solid = region_masks(images, reading, ["hair"])["hair"][:, 0] > 0.99
    for one, two, where in zip(lab(images)[:, 0], lab(done)[:, 0], solid, strict=True):
        pair = torch.stack([one[where], two[where]])
        assert torch.corrcoef(pair)[0, 1] > 0.9 and pair[1].std() > 1


def test_strength_and_lightness_are_shares_of_the_way(portraits) -> None:
    images, reading, _ = portraits
    full, half = (recolour(images, reading, Recolour(skin=[90, 120, 220], strength=s)) for s in (1.0, 0.5))
    torch.testing.assert_close(half, (images + full) / 2, atol=1e-5, rtol=0)
    assert torch.equal(recolour(images, reading, Recolour(skin=[90, 120, 220], strength=0.0)), images)
    hue_only = recolour(images, reading, Recolour(hair=[230, 60, 120], lightness=0.0))
    solid = (region_masks(images, reading, ["hair"])["hair"] > 0.99).float()
    kept, moved = (mean_colour(x, solid) for x in (images, hue_only))
    assert (kept[:, 0] - moved[:, 0]).abs().median() < 2.5
    assert (moved[:, 1] > kept[:, 1] + 3).all()  # a* rises: redder


def test_masks_follow_larger_pictures(reader) -> None:
    """The reader sees 64 px; at 128 px the hair's border follows the picture's own, unlike the reader's."""

    def agreement(mask: np.ndarray, truth: np.ndarray) -> float:
        return float((mask & truth).sum() / (mask | truth).sum())

    own, enlarged = [], []
    for who in SHOWN:
        picture = portrait(who, 128)
        images, truth = to_tensor(picture.image.copy()), picture.parsing == PARSER["hair"]
        reading = reader.read(images)
        own.append(agreement(region_masks(images, reading, ["hair"])["hair"][0, 0].numpy() > 0.5, truth))
        said = (reading.parsing.argmax(1) == READER["hair"])[0].numpy()
        enlarged.append(agreement(said.repeat(2, 0).repeat(2, 1), truth))
    assert np.mean(own) > 0.85 and np.mean(own) > np.mean(enlarged) + 0.02


def test_finishing_batches_is_recolouring_them(reader, portraits) -> None:
    images, reading, _ = portraits
    settings = Recolour(lips=[170, 30, 70])
    torch.testing.assert_close(finisher(reader, settings)(images), recolour(images, reading, settings))
    assert finisher(reader, Recolour())(images) is images


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Recolour(iris=[0, 0]), "iris"),
        (lambda: Recolour(hair=[0, 0, 256]), "hair"),
        (lambda: Recolour(skin="red"), "skin"),
        (lambda: Recolour(lips=[0, 0, 0.5]), "lips"),
        (lambda: Recolour(strength=1.5), "strength"),
        (lambda: Recolour(lightness=float("nan")), "lightness"),
    ],
)
def test_bad_settings_name_their_key(make, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key
