"""Every measure against an independent reference: loops in numpy, scipy or scikit-image."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from skimage.metrics import structural_similarity

from stages.metrics import geometry, identity, kid, pixel, richness


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def disc(size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.clip(radius - np.hypot(x, y) + 0.5, 0, 1).astype(np.float32)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


# pixel


@pytest.mark.parametrize("size", [64, 150])
def test_background_region_is_eroded_by_two_percent(size: int) -> None:
    mask = np.stack([disc(size, size * 0.2), disc(size, size * 0.3)])
    radius = max(1, round(0.02 * size))
    square = np.ones((2 * radius + 1, 2 * radius + 1), bool)
    region = pixel.background_region(tensor(mask)[:, None])[:, 0].numpy()
    for got, one in zip(region, mask, strict=True):
        assert np.array_equal(got, scipy.ndimage.binary_erosion(one < 0.02, square, border_value=1))


def test_pixel_errors_match_loops() -> None:
    source = rng()
    output, target = source.random((2, 3, 3, 32, 32), dtype=np.float32)
    mask = np.stack([disc(32, r) for r in (5, 9, 12)])
    face = pixel.face_error(tensor(output), tensor(target), tensor(mask)[:, None])
    background = pixel.background_error(tensor(output), tensor(target), tensor(mask)[:, None])
    region = pixel.background_region(tensor(mask)[:, None])[:, 0].numpy()
    for n in range(3):
        difference = np.abs(output[n] - target[n])
        assert float(face[n]) == pytest.approx(difference[:, mask[n] > 0.5].mean(), abs=1e-6)
        assert float(background[n]) == pytest.approx(difference[:, region[n]].mean(), abs=1e-6)


def test_a_picture_without_background_is_not_perfect() -> None:
    picture, full = torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    assert torch.isnan(pixel.background_error(picture, picture, full)).all()
    assert torch.isnan(pixel.face_error(picture, picture, 0 * full)).all()
    assert pixel.mean_defined(torch.tensor([float("nan"), 0.25])) == 0.25


def test_pixel_errors_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match="mask"):
        pixel.face_error(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="pictures"):
        pixel.face_error(torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(2, 1, 8, 8))


def test_frame_error_counts_every_pixel_alike() -> None:
    output, target = rng(4).random((2, 3, 3, 16, 16), dtype=np.float32)
    expected = np.abs(output.astype(np.float64) - target).mean((1, 2, 3))
    assert np.allclose(pixel.frame_error(tensor(output), tensor(target)).numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="one shape"):
        pixel.frame_error(tensor(output), tensor(target)[..., :8])


def test_head_iou_by_hand() -> None:
    mask, truth = torch.zeros(2, 3, 1, 4, 4)
    mask[0, 0, :2], truth[0, 0, 1:3] = 0.6, 0.9  # 8 pixels each, 4 in common
    truth[1, 0, 0, 0], mask[1, 0, 0, 0] = 1, 0.5  # one half is not head
    found = pixel.head_iou(mask, truth)
    assert float(found[0]) == pytest.approx(4 / 12) and float(found[1]) == 0 and bool(found[2].isnan())


def test_ssim_matches_scikit_image() -> None:
    source = rng(1)
    first = source.random((40, 40, 3))
    first = scipy.ndimage.gaussian_filter(first, (2, 2, 0))
    second = np.clip(first + source.normal(0, 0.05, first.shape), 0, 1)
    options = dict(win_size=11, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    expected = structural_similarity(first, second, channel_axis=2, **options)
    got = pixel.ssim(*(tensor(p.astype(np.float32).transpose(2, 0, 1))[None] for p in (first, second)))
    assert float(got[0]) == pytest.approx(expected, abs=2e-4)


# KID


def brute_mmd2(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_mmd2_matches_loops() -> None:
    x, y = rng().normal(0, 1, (17, 5)), rng(1).normal(0.3, 1, (23, 5))
    assert kid.mmd2_cubic(tensor(x), tensor(y)) == pytest.approx(brute_mmd2(x, y), rel=1e-10)


def test_kid_is_unbiased_in_the_subset_size() -> None:
    x, y = tensor(rng().normal(0, 1, (400, 8))), tensor(rng(1).normal(0.5, 1, (400, 8)))
    whole = kid.mmd2_cubic(x, y)
    for size in (20, 150):
        mean, spread = kid.polynomial_kid(x, y, subsets=200, size=size)
        assert abs(mean - whole) < 4 * spread / 200**0.5
    assert kid.polynomial_kid(x, y) == kid.polynomial_kid(x, y)
    assert kid.polynomial_kid(x, y, seed=1) != kid.polynomial_kid(x, y)
    same = kid.polynomial_kid(x[:200], x[200:])
    assert abs(same[0]) < same[1] < whole


def test_kid_refuses_subsets_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="subsets of 9"):
        kid.polynomial_kid(torch.zeros(8, 3), torch.zeros(20, 3), size=9)
    with pytest.raises(ValueError, match="feature sets"):
        kid.mmd2_cubic(torch.zeros(8, 3), torch.zeros(8, 4))


class ColourReader:
    """Stands in for the face reader: coarse colours."""

    id = "colours"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)

    def identity(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.features(images), dim=1)


def test_head_kid_ignores_what_lies_behind_the_head() -> None:
    source = rng()
    heads = tensor(source.random((60, 3, 16, 16), dtype=np.float32))
    mask = tensor(np.broadcast_to(disc(16, 5), (60, 1, 16, 16)).copy())
    other = torch.where(mask > 0, heads, tensor(source.random((60, 3, 16, 16), dtype=np.float32)))
    measure = kid.HeadKid(ColourReader())
    measure.add_real(heads, mask)
    measure.add_fake(other[:30], mask[:30])
    measure.add_fake(other[30:], mask[30:])
    result = measure.compute()
    alone = kid.HeadKid(ColourReader())
    alone.add_real(heads, mask)
    alone.add_fake(heads, mask)
    assert result == alone.compute()
    assert (result["real"], result["fake"], result["decides"], result["extractor"]) == (60, 60, False, "colours")
    measure.clear_fake()
    measure.add_fake(1 - heads * 0.5, mask)
    assert measure.compute()["kid"] > result["kid"]


# identity


def test_crop_of_an_aligned_box_is_the_slice() -> None:
    images = tensor(rng().random((2, 3, 24, 24), dtype=np.float32))
    boxes = torch.tensor([[4.0, 6.0, 12.0, 14.0], [8.0, 0.0, 24.0, 16.0]])
    one = identity.crop(images[:1], boxes[:1], size=8)
    assert torch.allclose(one[0], images[0, :, 6:14, 4:12], atol=1e-6)
    halved = identity.crop(images[1:], boxes[1:], size=8)
    expected = images[1, :, 0:16, 8:24].reshape(3, 8, 2, 8, 2).mean(dim=(2, 4))
    assert torch.allclose(halved[0], expected, atol=1e-6)


def test_head_boxes_surround_the_head() -> None:
    mask = torch.zeros(2, 1, 40, 40)
    mask[0, 0, 10:30, 15:25] = 1
    boxes = identity.head_boxes(mask)
    assert boxes[0].tolist() == [7.0, 7.0, 33.0, 33.0]  # 20 high, 15 % more on each side, centred at (20, 20)
    assert boxes[1].tolist() == [0.0, 0.0, 40.0, 40.0]


def test_identity_uses_the_photos_crop_for_both() -> None:
    source = rng(3)
    photo = tensor(source.random((1, 3, 64, 64), dtype=np.float32))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 20:40] = 1
    outside = photo.clone()
    outside[..., :14, :] = 0  # beyond the crop's room
    assert float(identity.identity_cosine(ColourReader(), photo, outside, mask)) == pytest.approx(1, abs=1e-6)
    assert float(identity.identity_cosine(ColourReader(), photo, outside)) < 0.999
    assert float(identity.identity_cosine(ColourReader(), photo, 1 - photo, mask)) < 0.9


def test_area_under_curve_matches_scipy() -> None:
    positive, negative = rng().integers(0, 8, 50) + 1.0, rng(1).integers(0, 8, 70).astype(float)  # many ties
    expected = scipy.stats.mannwhitneyu(positive, negative).statistic / (50 * 70)
    assert identity.area_under_curve(tensor(positive), tensor(negative)) == pytest.approx(expected, rel=1e-12)


def test_same_person_auc() -> None:
    people = torch.arange(12)
    embedding = torch.nn.functional.normalize(tensor(rng().normal(size=(12, 6))), dim=1)
    assert identity.same_person_auc(embedding, embedding, people, people) == 1.0
    shuffled = identity.same_person_auc(embedding, embedding, people, (people + 1) % 12)
    assert shuffled < 0.8
    with pytest.raises(ValueError, match="different people"):
        identity.same_person_auc(embedding[:1], embedding[:1], people[:1], people[:1])


# geometry and richness


def test_a_photo_with_its_own_painting_is_no_pair_of_the_same_person() -> None:
    photo, people = torch.eye(4), torch.tensor([0, 0, 1, 1])  # every painting is like its own photo and like no other
    assert identity.same_person_auc(photo, photo, people, people) == 0.75
    assert identity.same_person_auc(photo, photo, people, people, aligned=True) == 0.5
    with pytest.raises(ValueError, match="same and of different"):
        identity.same_person_auc(photo[:2], photo[:2], torch.tensor([0, 1]), torch.tensor([0, 1]), aligned=True)


def test_landmark_error_is_in_units_of_the_eyes() -> None:
    truth = tensor(rng().random((3, 68, 2)))
    truth[:, 36], truth[:, 45] = torch.tensor([0.3, 0.4]).double(), torch.tensor([0.7, 0.4]).double()
    moved = truth + torch.tensor([0.03, 0.04]).double()
    assert torch.allclose(geometry.landmark_error(moved, truth), torch.full((3,), 0.05 / 0.4).double())
    assert torch.allclose(geometry.landmark_error(moved * 64, truth * 64), torch.full((3,), 0.125).double())


def test_differences_and_correspondence() -> None:
    first, second = rng().normal(size=(30, 3)), rng(1).normal(size=(30, 3))
    got = geometry.expression_difference(tensor(first), tensor(second)).numpy()
    assert np.allclose(got, np.abs(first - second).mean(axis=1))
    expected = [scipy.stats.pearsonr(first[:, k], second[:, k]).statistic for k in range(3)]
    assert np.allclose(geometry.correspondence(tensor(first), tensor(second)).numpy(), expected)
    assert geometry.correspondence(torch.ones(5, 1), torch.rand(5, 1)).tolist() == [0.0]
    rounded = 1.75 + torch.tensor([0.0, 1, 0, 2, 1], dtype=torch.float64)[:, None] * 2**-23  # one reading in float32
    assert geometry.correspondence(rounded, torch.rand(5, 1).double()).tolist() == [0.0]


def test_coverage_counts_effective_bins() -> None:
    pose = torch.tensor([[-30.0, 0.0], [0.0, 0.0], [30.0, 0.0], [0.0, 12.0]])
    calm = torch.zeros(4, 3)
    bins = richness.pose_expression_bins(pose, calm)
    assert len(bins.unique()) == 4 and 0 <= int(bins.min()) and int(bins.max()) < 90
    assert richness.effective_bins(bins) == pytest.approx(4)
    uneven = torch.tensor([0, 0, 0, 5])
    assert richness.effective_bins(uneven) == pytest.approx(np.exp(scipy.stats.entropy([3, 1])))
    assert richness.coverage(torch.zeros(4, dtype=torch.int64), bins) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="one size"):
        richness.coverage(bins[:3], bins)


def test_intra_cluster_distance_matches_loops_and_shows_memorisation() -> None:
    references, features = rng().normal(size=(4, 6)), rng(1).normal(size=(40, 6))
    nearest = np.linalg.norm(features[:, None] - references[None], axis=2).argmin(axis=1)
    means = []
    for k in set(nearest):
        chosen = features[nearest == k]
        pairs = [np.linalg.norm(a - b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]]
        if pairs:
            means.append(np.mean(pairs) / 6**0.5)
    got = richness.intra_cluster_distance(tensor(features), tensor(references))
    assert got == pytest.approx(np.mean(means), rel=1e-9)
    copies = references[rng(2).integers(0, 4, 40)]
    assert richness.intra_cluster_distance(tensor(copies), tensor(references)) < 1e-6


def shares_on_manifolds(real: np.ndarray, fake: np.ndarray, half: bool = False, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall by brute force in float64; `half`: of features and radii in half precision."""
    if half:
        real, fake = real.astype(np.float16).astype(float), fake.astype(np.float16).astype(float)

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def share(points: np.ndarray, manifold: np.ndarray) -> float:
        radii = np.sort(distances(manifold, manifold), axis=1)[:, k]
        radii = radii.astype(np.float16).astype(float) if half else radii
        return float((distances(points, manifold) <= radii).any(axis=1).mean())

    return share(fake, real), share(real, fake)


@pytest.mark.parametrize("half", [False, True])
def test_precision_and_recall_are_brute_forces(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    differ = 0
    for seed in range(25):
        mixed = rng(seed).normal(size=(2, 12, 12))
        real, fake = rng(seed).normal(size=(240, 12)) @ mixed[0], rng(seed + 99).normal(size=(200, 12)) @ mixed[1]
        expected = shares_on_manifolds(real, fake, half)
        assert richness.precision_recall(tensor(real), tensor(fake), half_precision=half) == expected
        differ += shares_on_manifolds(real, fake, not half) != expected
    assert differ  # the two can be told apart
    monkeypatch.setattr(richness, "BLOCK", 900)  # a few rows at a time
    assert richness.precision_recall(tensor(real), tensor(fake), half_precision=half) == expected
    with pytest.raises(ValueError, match="neighbours"):
        richness.precision_recall(tensor(real[:3]), tensor(fake))


def test_a_picture_at_the_radius_lies_on_the_manifold() -> None:
    """Integer grids: most distances are shared by many pairs, so that every rounding of a tie would show."""
    real = rng(0).integers(0, 6, (150, 3)).astype(float)
    fake = rng(1).integers(0, 9, (120, 3)).astype(float)
    assert richness.precision_recall(tensor(real), tensor(fake)) == shares_on_manifolds(real, fake)
    for scale in (0.1, 1 / 3):  # ties in the maths, not in the bits: both sides must round them alike
        expected = shares_on_manifolds(real * scale, fake * scale)
        assert richness.precision_recall(tensor(real * scale), tensor(fake * scale)) == expected
