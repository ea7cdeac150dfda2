"""The clarity measures put known damages in the right order, on a photo that is not ours (scikit-image's astronaut)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from stages.metrics.clarity import checker, clarity, clarity_ratios, edge_clarity, grey, laplacian, noise


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """The portrait as it was taken. uint8 [256, 256, 3]."""
    return cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def reference(photo: np.ndarray) -> np.ndarray:
    """A cartooned portrait: bilateral filtering leaves strong edges between flat areas. uint8 [256, 256, 3]."""
    image = photo
    for _ in range(4):
        image = cv2.bilateralFilter(image, 9, 40, 5)
    return image


def noisy(image: np.ndarray, deviation: float) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, deviation, image.shape[:2])[..., None]
    return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)


def rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def board(image: np.ndarray, height: float) -> np.ndarray:
    rows, columns = np.indices(image.shape[:2])
    return rounded(image + height * (1 - 2 * ((rows + columns) & 1))[..., None])


# What each damage does to a picture: its measures over the undamaged picture's.
# + above 1.03, - below 0.97, = within 8 %, . whatever: (sum, edge_clarity, flat_energy, edge_slope, checker)
DAMAGES = {
    "blur 0.7": (lambda image: blurred(image, 0.7), "- - - - ."),
    "blur 1.5": (lambda image: blurred(image, 1.5), "- - - - ."),
    "noise 3": (lambda image: noisy(image, 3), "+ = + - ."),
    "noise 8": (lambda image: noisy(image, 8), "+ = + - +"),
    "blur 1.5 and noise 8": (lambda image: noisy(blurred(image, 1.5), 8), "+ - + - ."),
    "jpeg 30": (lambda image: jpeg(image, 30), ". - + - -"),
    "checkerboard": (lambda image: board(image, 4), "+ - + - +"),
    "unsharp": (lambda image: rounded(2.0 * image - blurred(image, 1.0)), "+ + + = +"),
    "contrast": (lambda image: rounded((image.astype(float) - 128) * 1.3 + 128), "+ + + = +"),
}


def ratios(image: np.ndarray, target: np.ndarray) -> dict[str, float]:
    own, wanted = clarity(image, target).as_dict(), clarity(target, target).as_dict()
    return {name: own[name] / wanted[name] for name in own}


def passes(found: dict[str, float]) -> bool:
    """The gate of the student: sharp enough, not too sharp, acute, and quiet away from its edges."""
    return (
        0.9 <= found["edge_clarity"] <= 1.25
        and found["edge_slope"] >= 0.9
        and found["flat_energy"] <= 1.15
        and found["checker"] <= 1.15
    )


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_moves_the_measures_as_it_should(reference: np.ndarray, name: str) -> None:
    """The sum rises with noise, ringing, checkerboards and contrast; the robust measures together refuse all of it."""
    damage, signs = DAMAGES[name]
    found = ratios(damage(reference), reference)
    holds = {"+": lambda x: x > 1.03, "-": lambda x: x < 0.97, "=": lambda x: 0.92 < x < 1.08, ".": lambda x: True}
    for key, sign in zip(
        ("clarity_sum", "edge_clarity", "flat_energy", "edge_slope", "checker"), signs.split(), strict=True
    ):
        assert holds[sign](found[key]), (key, found[key])
    assert not passes(found) and passes(ratios(reference, reference))


def test_an_untouched_photo_beats_its_cartoon_in_the_sum_alone(photo: np.ndarray, reference: np.ndarray) -> None:
    found = ratios(photo, reference)
    assert found["clarity_sum"] > 1.05 and found["flat_energy"] > 1.5
    assert found["edge_clarity"] < 0.9 and found["edge_slope"] < 0.9


def test_the_raw_sum_is_fooled_and_edge_clarity_is_not(reference: np.ndarray) -> None:
    """Blur plus noise beats the sharp picture in the article's sum; edge clarity and slope still see the blur."""
    damaged = noisy(cv2.GaussianBlur(reference, (0, 0), 1.5), 8)
    own, wanted = clarity(damaged, reference), clarity(reference, reference)
    assert own.clarity_sum > wanted.clarity_sum
    assert own.edge_clarity < 0.6 * wanted.edge_clarity
    assert own.edge_slope < 0.8 * wanted.edge_slope


def test_more_blur_is_less_clear(reference: np.ndarray) -> None:
    rows = [clarity(cv2.GaussianBlur(reference, (0, 0), s), reference) for s in (0.5, 0.7, 1.5)]
    rows.insert(0, clarity(reference, reference))
    for name in ("clarity_sum", "clarity_mean", "edge_clarity", "edge_slope"):
        values = [getattr(row, name) for row in rows]
        assert values == sorted(values, reverse=True) and len(set(values)) == 4, name


@pytest.mark.parametrize("deviation", [3.0, 8.0])
def test_noise_raises_flat_energy_not_edges(reference: np.ndarray, deviation: float) -> None:
    own, wanted = clarity(noisy(reference, deviation), reference), clarity(reference, reference)
    assert own.clarity_sum > 1.2 * wanted.clarity_sum
    assert own.flat_energy > 1.3 * wanted.flat_energy
    assert own.edge_clarity < 1.08 * wanted.edge_clarity
    assert own.edge_slope <= wanted.edge_slope


def test_a_checkerboard_is_named_as_such(reference: np.ndarray) -> None:
    rows, columns = np.indices(reference.shape[:2])
    board = np.where((rows + columns) % 2 == 0, 4, -4)[..., None]
    damaged = np.clip(reference.astype(int) + board, 0, 255).astype(np.uint8)
    assert checker(grey(damaged)) > 3.5 > 1 > checker(grey(reference))


def test_contrast_buys_no_slope(reference: np.ndarray) -> None:
    """Halved contrast halves the Laplacian and leaves the acuity."""
    faded = (reference.astype(float) * 0.5 + 64).astype(np.uint8)
    own, wanted = clarity(faded, reference), clarity(reference, reference)
    assert own.clarity_sum == pytest.approx(0.5 * wanted.clarity_sum, rel=0.1)
    assert own.edge_slope == pytest.approx(wanted.edge_slope, rel=0.05)


def test_definitions() -> None:
    """The Laplacian by hand, the noise estimate on known noise, the mean as sum per pixel."""
    spike = np.zeros((8, 8), np.float32)
    spike[3, 3] = 1
    assert laplacian(spike)[2:5, 2:5].tolist() == [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    corner = np.zeros((4, 4), np.float32)
    corner[0, 1] = 1  # reflect-101: seen twice from the corner
    assert laplacian(corner)[0, 0] == 2
    grain = np.random.default_rng(1).normal(0, 5, (128, 128)).astype(np.float32)
    assert noise(grain) == pytest.approx(5, rel=0.05)
    image = np.random.default_rng(2).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    scores = clarity(image, image)
    assert scores.clarity_sum == pytest.approx(scores.clarity_mean * 16 * 24)


def test_ratios_are_paired_and_region_bound(reference: np.ndarray) -> None:
    """A picture equal to its target scores 1; damage outside the region does not count."""
    region = np.zeros((256, 256), bool)
    region[64:192, 64:192] = True
    outside = reference.copy()
    outside[:32] = 0
    pair = np.stack([reference, outside])
    ratios = clarity_ratios(pair, np.stack([reference, reference]), np.stack([region, region]))
    assert ratios["edge_clarity_ratio"] == pytest.approx(1, abs=0.02)
    assert ratios["clarity_sum_ratio"] == pytest.approx(1)
    with pytest.raises(ValueError, match="one shape"):
        clarity(reference, reference[:100])


def test_edge_clarity_alone_is_that_of_all_measures(reference: np.ndarray) -> None:
    region = np.zeros(reference.shape[:2], bool)
    region[40:200, 60:180] = True
    assert edge_clarity(reference, region) == clarity(reference, reference, region).edge_clarity > 0
