"""Measures of whole sets: Frechet distance, memorisation, duplicates, richness, the gate for broken heads."""

import numpy as np
import pytest
import scipy.linalg
import torch

from stages.core.settings import TristyleError
from stages.metrics import broken as quality
from stages.metrics import fid, memorisation, richness
from stages.networks.face_reader import FaceReading


def features(count: int, size: int = 12, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    mixing = np.random.default_rng(99).normal(size=(size, size))
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, size)) @ mixing + mean).float()


# Frechet distance


def frechet_by_sqrtm(real: np.ndarray, fake: np.ndarray) -> float:
    first, second = (np.cov(rows, rowvar=False, bias=True) for rows in (real, fake))
    root = scipy.linalg.sqrtm(first @ second).real
    return float(np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(first + second - 2 * root))


@pytest.mark.parametrize("counts", [(300, 200), (40, 300), (300, 40)])
def test_frechet_distance_matches_the_matrix_root(counts: tuple[int, int]) -> None:
    real, fake = features(counts[0], 30).double(), features(counts[1], 30, seed=1, mean=0.3).double()
    expected = frechet_by_sqrtm(real.numpy(), fake.numpy())
    assert fid.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("counts", [(10, 300), (300, 10), (10, 12)])
def test_fewer_pictures_than_features_take_the_eigenbasis(counts: tuple[int, int]) -> None:
    real, fake = features(counts[0], 30).double(), features(counts[1], 30, seed=1).double()
    a, b = (x - x.mean(0) for x in (real, fake))
    # tr (S1 S2)^(1/2) is the nuclear norm of A B^T / sqrt(N M): no root of a singular matrix
    cross = np.linalg.svd((a @ b.T).numpy(), compute_uv=False).sum() / (counts[0] * counts[1]) ** 0.5
    spread = (a.square().sum() / counts[0] + b.square().sum() / counts[1]).item()
    expected = (real.mean(0) - fake.mean(0)).square().sum().item() + spread - 2 * cross
    assert fid.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert fid.frechet_distance(real, real) == pytest.approx(0, abs=1e-9)


def test_cholesky_and_eigenbasis_give_one_trace() -> None:
    scale = torch.logspace(0, -5, 60, dtype=torch.float64)
    first, second = (fid.moments(features(500, 60, seed) * scale).covariance for seed in (0, 1))
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    expected = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    assert fid.trace_of_root(first, second) == pytest.approx(float(expected), rel=1e-8)


def test_moments_add_up_and_do_not_cancel() -> None:
    rows = features(90, 5) + 1e4
    collected = fid.FeatureMoments()
    for part in rows.split((1, 60, 29)):
        collected.add(part)
    got = collected.compute()
    assert got.count == 90
    assert np.allclose(got.mean, rows.double().mean(0), rtol=1e-12)
    assert np.allclose(got.covariance, np.cov(rows.double().numpy(), rowvar=False, bias=True), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="4 features after 5"):
        collected.add(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="finite"):
        collected.add(torch.full((2, 5), torch.nan))
    with pytest.raises(ValueError, match="no covariance"):
        fid.moments(torch.zeros(1, 5))


# memorisation


def test_nearest_is_exact_where_float32_is_not() -> None:
    source = torch.Generator().manual_seed(0)
    training = 100 + torch.rand(200, 40, generator=source)
    training[50] = training[7] + 1e-5  # a distance of 6e-5 beside squares of 4e5
    queries = torch.cat([training[:60], 100 + torch.rand(40, 40, generator=source)])
    distance, index = memorisation.nearest(queries, training)
    exact = np.linalg.norm(queries.double().numpy()[:, None] - training.double().numpy()[None], axis=2)
    assert np.array_equal(index.numpy(), exact.argmin(axis=1)) and np.allclose(distance, exact.min(axis=1), rtol=1e-9)
    alone, other = memorisation.nearest(training, training, exclude_self=True)
    assert other[7] == 50 and other[50] == 7 and 0 < float(alone[7]) < 1e-4 < float(alone[8])


def test_nearest_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, training = features(70), features(90, seed=1)
    whole = memorisation.nearest(queries, training)
    monkeypatch.setattr(memorisation, "BLOCK", 700)
    monkeypatch.setattr(memorisation, "PAIRS", 30)
    again = memorisation.nearest(queries, training)
    assert torch.equal(whole[0], again[0]) and torch.equal(whole[1], again[1])


def test_copies_are_memorised_and_unseen_pictures_are_not() -> None:
    training, unseen = features(400), features(400, seed=1)
    copies = training[:50] + 0.01 * features(50, seed=2)
    found = memorisation.memorised(torch.cat([copies, unseen]), training, quantile=0.01)
    assert found[:50].all() and found[50:].double().mean() < 0.04
    given = memorisation.memorised(unseen, training, quantile=0.1, heldout=unseen)
    assert given.double().mean() == pytest.approx(0.1, abs=0.01)
    assert memorisation.memorised(training, training).all()
    with pytest.raises(ValueError, match="quantile"):
        memorisation.memorised(unseen, training, quantile=2)
    with pytest.raises(ValueError, match="training features"):
        memorisation.memorised(unseen, training[:, :3])


@pytest.mark.parametrize("copies", [5, 300])
def test_duplicates_keep_the_first_of_each(copies: int) -> None:
    kept = features(400)
    again = kept[torch.arange(copies) % 100] + 0.01 * features(copies, seed=3)
    found = memorisation.duplicates(torch.cat([kept, again]))
    assert found[400:].all() and found[:400].double().mean() < 0.02
    assert not memorisation.duplicates(kept, threshold=0).any()
    assert memorisation.duplicates(kept, threshold=1e9).sum() == 399
    assert memorisation.duplicates(kept[[0, 0, 1, 0]], threshold=0).tolist() == [False, True, False, True]


def test_a_chain_of_neighbours_is_not_one_picture() -> None:
    line = torch.arange(600.0)[:, None]  # each within 1.5 of the next: every other one stays, over blocks too
    assert memorisation.duplicates(line, threshold=1.5).tolist() == [False, True] * 300


# readings


def reading(count: int, seed: int = 0, spread: float = 1.0) -> FaceReading:
    """Heads as the reader would see them: a disc of skin with eyes, nose and mouth, jittered."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] / 31.0
    parsing = np.full((count, 13, 32, 32), -4.0, np.float32)
    shift = rng.normal(0, 0.02 * spread, (count, 2))
    for n, (dx, dy) in enumerate(shift):
        label = np.zeros((32, 32), int)
        radius = 0.35 + 0.01 * rng.normal()
        label[np.hypot(x - 0.5 - dx, y - 0.5 - dy) < radius] = 1
        label[(label == 1) & (y < 0.3 + dy + 0.04 * rng.normal())] = 6
        for part, (px, py, r) in {3: (0.38, 0.45, 0.05), 4: (0.5, 0.55, 0.05), 5: (0.5, 0.68, 0.06)}.items():
            label[np.hypot(x - px - dx, y - py - dy) < r * (1 + 0.08 * rng.normal())] = part
        np.put_along_axis(parsing[n], label[None], 4.0 + 0.1 * rng.normal(), axis=0)
    base = np.random.default_rng(7).random((68, 2))
    landmarks = base + 0.02 * rng.normal(size=(count, 68, 2)) + shift[:, None]
    pose = rng.normal(0, [15, 6], (count, 2)) * spread
    expression = rng.normal([0.1, 0.2, 0.9], [0.3, 0.15, 0.1], (count, 3))
    identity = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(count, 64))), dim=1)
    rest = torch.from_numpy(rng.normal(size=(count, 40)) * spread)
    mask = torch.from_numpy(1 - np.exp(parsing[:, :1]) / np.exp(parsing).sum(axis=1, keepdims=True))
    arrays = (torch.from_numpy(value).float() for value in (parsing, landmarks, pose, expression))
    a, b, c, d = arrays
    return FaceReading(a, mask, b, c, d, identity.float(), rest.float())


class Named:
    """Stands in for the face reader where readings are given."""

    id = "reader-test"

    def read(self, images: torch.Tensor) -> FaceReading:
        return reading(len(images))


@pytest.fixture(scope="module")
def gate() -> quality.QualityGate:
    return quality.QualityGate.fit(Named(), reading(200, seed=1))


def test_a_gate_passes_real_heads(gate: quality.QualityGate) -> None:
    unseen = reading(200, seed=2)
    assert gate.broken(unseen).double().mean() < 0.06
    assert gate.count == 200 and gate.extractor == "reader-test"
    assert torch.equal(gate.broken(unseen), gate.score(unseen) < 0)
    over = gate.signals(unseen)
    assert torch.equal(1 - torch.stack(list(over.values())).amax(0), gate.score(unseen))


@pytest.mark.parametrize("signal", quality.SIGNALS)
def test_a_gate_names_what_is_broken(gate: quality.QualityGate, signal: str) -> None:
    one = reading(20, seed=3)
    if signal == "features":
        one.features *= 5
    elif signal == "landmarks":
        one.landmarks = one.landmarks + 0.2 * torch.randn(
            one.landmarks.shape, generator=torch.Generator().manual_seed(0)
        )
    elif signal == "doubt":
        one.parsing = one.parsing * 0.5
    else:  # no mouth: it is read as skin
        one.parsing[:, 1], one.parsing[:, 5] = one.parsing[:, [1, 5]].amax(dim=1), -4.0
    assert gate.broken(one).all()
    assert gate.reasons(one).count(signal) >= 18


def test_no_head_at_all_is_broken(gate: quality.QualityGate) -> None:
    empty = reading(3)
    empty.parsing[:] = -9.0
    empty.parsing[:, 0] = 9.0
    assert gate.broken(empty).all()


def test_a_gate_needs_pictures_and_may_be_fitted_to_arrays() -> None:
    with pytest.raises(TristyleError, match="29 real pictures"):
        quality.QualityGate.fit(Named(), reading(29))
    with pytest.raises(ValueError, match="alarm"):
        quality.QualityGate.fit(Named(), reading(30), alarm=0)
    given = quality.QualityGate.fit(Named(), np.zeros((40, 8, 8, 3), np.uint8))
    assert torch.equal(given.limits, quality.QualityGate.fit(Named(), reading(40)).limits)


def test_shrinkage_tends_to_the_covariance_and_stays_definite() -> None:
    many = features(20000, 6).double()
    assert torch.allclose(quality.shrunk_covariance(many), torch.cov(many.T, correction=0), rtol=0.02, atol=0.02)
    few = features(5, 40).double()
    assert torch.linalg.eigvalsh(quality.shrunk_covariance(few)).min() > 0
    gaussian = quality.Gaussian.fit(many)
    white = np.linalg.solve(gaussian.factor.numpy(), (many[:50] - gaussian.mean).numpy().T)
    assert np.allclose(gaussian.distance(many[:50]), np.sqrt((white**2).mean(axis=0)))
    assert gaussian.distance(many).square().mean() == pytest.approx(1, abs=0.01)


# richness


def test_a_set_is_as_rich_as_itself_and_a_collapsed_one_is_poor() -> None:
    base = reading(300)
    same = richness.richness(base, base)
    assert same == {name: pytest.approx(1) for name in same} and len(same) == 5
    collapsed = richness.richness(quality.take(base, torch.zeros(300, dtype=torch.int64)), base)
    effective = richness.effective_bins(richness.pose_expression_bins(base.pose, base.expression))
    assert collapsed["coverage"] == pytest.approx(1 / effective) and collapsed["filled_share"] < 0.1
    assert collapsed["pose_correspondence"] == collapsed["expression_correspondence"] == 0
    narrow = richness.richness(reading(300, spread=0.3), base)  # the same latents, poses drawn together
    assert narrow["coverage"] < 0.7 and narrow["filled_share"] < 0.7
    assert narrow["pose_correspondence"] == pytest.approx(1, abs=1e-6)
    other = richness.richness(reading(300, seed=5), base)  # as varied, of other latents
    assert other["coverage"] > 0.8 and abs(other["pose_correspondence"]) < 0.2
    with pytest.raises(ValueError, match="one size"):
        richness.richness(quality.take(base, torch.arange(9)), base)


def test_broken_heads_are_not_variety() -> None:
    base, wreck = reading(300), reading(300, seed=6, spread=3)
    assert richness.richness(wreck, base)["coverage"] > 1
    all_broken = richness.richness(wreck, base, broken=torch.ones(300, dtype=torch.bool))
    assert all_broken["coverage"] < 0.2 and all_broken["filled_share"] == 0
    half = richness.richness(base, base, broken=torch.arange(300) < 150)
    assert all_broken["coverage"] < half["coverage"] < 1


def test_attributes_are_read_by_area() -> None:
    logits = torch.full((5, 13, 10, 10), -20.0)
    logits[:, 0] = 20.0
    for picture, (label, pixels) in enumerate(((0, 0), (10, 2), (11, 10), (12, 3), (6, 15))):
        logits[picture].flatten(1)[0, :pixels] = -20.0
        logits[picture].flatten(1)[label, :pixels] = 20.0
    assert richness.attribute_bins(logits).tolist() == [0, 12, 6, 3, 1]


def test_filled_share_counts_bins_that_are_no_chance() -> None:
    base = torch.tensor([0, 0, 1, 1, 1, 2, 5, 5])
    assert richness.filled_share(torch.tensor([0, 5, 5, 5, 5, 5, 7, 7]), base) == pytest.approx(2 / 3)
    assert richness.filled_share(torch.tensor([1, 2, 0]), torch.tensor([0, 1, 2])) == 1
