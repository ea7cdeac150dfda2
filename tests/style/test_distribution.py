"""Which faces a style set holds: bins, what comes near a target, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.core.settings import ConfigError
from stages.networks.face_labels import READER
from stages.networks.face_reader import FaceReading
from stages.style.sampling.distribution import Distribution, fill, rake, systematic
from stages.style.sampling.filters import attribute_table, shrink

OVER = ["yaw", "pitch", "smile"]


def faces(count: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    """Yaw, pitch and smile of candidates that mostly look ahead."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 3)) * [9 * spread, 4 * spread, 0.3] + [0, 0, 0.1]).astype(np.float32)


def test_scarce_bins_give_all_they_have() -> None:
    quota = fill(np.array([100, 5, 50, 0]), np.array([1, 1, 1, 0]) / 3, 60)
    np.testing.assert_allclose(quota, [27.5, 5, 27.5, 0])
    np.testing.assert_allclose(fill(np.array([3, 4]), np.array([0.5, 0.5]), 60), [3, 4])
    np.testing.assert_allclose(fill(np.array([90, 90]), np.array([0.25, 0.75]), 60), [15, 45])


def test_chances_meet_every_histogram_at_once() -> None:
    rng = np.random.default_rng(1)
    bins = [rng.choice(3, 6000, p=[0.7, 0.2, 0.1]), rng.choice(2, 6000, p=[0.8, 0.2])]
    goals = [np.full(3, 400.0), np.array([500.0, 700.0])]
    chances = rake(bins, goals, 1200)
    assert chances.min() >= 0 and chances.max() <= 1 and chances.sum() == pytest.approx(1200)
    for b, goal in zip(bins, goals, strict=True):
        np.testing.assert_allclose(np.bincount(b, chances), goal, rtol=1e-3)


def test_systematic_draw_takes_the_sure_ones_and_as_many_as_the_chances_sum_to() -> None:
    chances = np.tile([1.0, 0.25, 0.0, 0.75], 40)
    picked = systematic(chances, np.argsort(chances, kind="stable"))
    assert len(picked) == 80 and (np.diff(picked) > 0).all()
    share = np.bincount(picked % 4, minlength=4) / 40
    np.testing.assert_allclose(share, [1, 0.25, 0, 0.75], atol=0.05)
    assert np.array_equal(systematic(np.zeros(5), np.arange(5)), [])


def test_balanced_fills_rare_bins_and_keeps_the_count() -> None:
    wish, values = Distribution(target="balanced", over=OVER), faces(3000)
    picked, chances = wish.select(values, 1000)
    assert len(picked) == 1000 == len(set(picked.tolist())) and np.array_equal(picked, wish.select(values, 1000)[0])
    told = wish.describe(values, picked, 1000, None)
    for i, name in enumerate(OVER):
        row = told["attributes"][name]
        before = np.abs(np.subtract(row["before"], row["target"])).sum() / 2
        assert row["distance"] < 0.75 * before
        counts = np.bincount(wish.bins(values)[i])
        reachable = fill(counts, np.array(row["target"]), 1000) / 1000  # the rarest are too few, whatever is drawn
        assert np.abs(np.subtract(row["after"], reachable)).sum() / 2 < 0.03
        for histogram in ("before", "after", "target"):
            assert len(row[histogram]) == len(row["labels"]) and sum(row[histogram]) == pytest.approx(1, abs=1e-4)
        rare = wish.bins(values)[i] == counts.argmin()
        assert chances[rare].mean() > 1.5 * chances.mean()
    assert told["shortfall"] == 0 and told["accepted_share"] == pytest.approx(1 / 3, abs=1e-4)


def test_photos_are_matched_where_the_candidates_reach() -> None:
    wish, photos = Distribution(target="photos", over=OVER), faces(500, seed=2, spread=1.5)
    values = faces(4000)
    picked, _ = wish.select(values, 1000, photos)
    assert len(picked) == 1000
    assert max(wish.distances(values[picked], wish.shares(photos))) < 0.03
    assert max(wish.distances(values[:1000], wish.shares(photos))) > 0.1


def test_what_the_target_leaves_out_is_not_taken_and_the_shortfall_is_told() -> None:
    values, photos = faces(300), faces(200)
    photos[:, 0] = 30.0  # all look far to one side
    wish = Distribution(target="photos", over=OVER)
    picked, _ = wish.select(values, 100, photos)
    there = values[:, 0] > 18
    assert 0 < there.sum() < 100 and set(picked) <= set(np.flatnonzero(there))
    assert wish.describe(values, picked, 100, photos)["shortfall"] == 100 - len(picked) > 0
    with pytest.raises(ConfigError, match="there are none"):
        wish.select(values, 100, None)


def test_natural_takes_the_first_ones() -> None:
    wish, values = Distribution(over=OVER), faces(50)
    picked, chances = wish.select(values, 20)
    assert np.array_equal(picked, np.arange(20)) and chances.sum() == 20 and not wish.steers
    assert (
        wish.describe(values, picked, 20, None)["attributes"]["yaw"]["before"]
        == wish.shares(values)[0].round(5).tolist()
    )


def test_looks_are_read_off_the_parsing_and_the_picture() -> None:
    parsing = torch.full((2, 13, 64, 64), -20.0)
    parsing[:, READER["skin"]] = 20.0  # skin everywhere,
    parsing[0, READER["hat"], :16], parsing[0, READER["skin"], :16] = 20.0, -20.0  # a hat on the first,
    parsing[1, READER["hair"], :16], parsing[1, READER["skin"], :16] = 20.0, -20.0  # black hair on the second
    images = np.full((2, 128, 128, 3), 119, np.uint8)  # L* 50
    images[:, :32] = 0
    zero = torch.zeros
    reading = FaceReading(
        parsing=parsing, mask=zero(2, 1, 64, 64), landmarks=zero(2, 68, 2), pose=torch.tensor([[10.0, -9.0], [0, 0]]),
        expression=torch.tensor([[0.5, 0.4, 1], [0, 0, 1]]), identity=zero(2, 64), features=zero(2, 8),
    )  # fmt: skip
    over = ["yaw", "mouth_open", "hat", "skin_lightness", "hair_lightness"]
    values = attribute_table(reading, shrink(images), over).numpy()
    np.testing.assert_allclose(values[0, :4], [10, 0.4, 0.25, 50], atol=0.6)
    assert np.isnan(values[0, 4]) and values[1, 4] == pytest.approx(0, abs=0.6)
    bins = Distribution(over=over).bins(values)
    assert [b.tolist() for b in bins[2:]] == [[1, 0], [1, 1], [4, 0]]
    assert Distribution(over=over).labels("hair_lightness")[4] == "none"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"target": "flat"}, "target"),
        ({"over": []}, "over"),
        ({"over": ["yaw", "yaw"]}, "over"),
        ({"over": ["age"]}, "age"),
        ({"over": ["hair"]}, "old name. Write hair_lightness"),
        ({"over": ["skin"]}, "old name. Write skin_lightness"),
        ({"edges": {"roll": [1.0]}}, "roll"),
        ({"edges": {"yaw": [3.0, 1.0]}}, "ascend"),
        ({"edges": {"yaw": []}}, "edges.yaw"),
        ({"edges": {"yaw": [float("nan")]}}, "edges.yaw"),
        ({"oversample": 0.5}, "oversample"),
    ],
)
def test_senseless_settings_are_refused(settings, match) -> None:
    with pytest.raises(ConfigError, match=match):
        Distribution(**settings)


def test_own_edges_make_own_bins() -> None:
    wish = Distribution(over=["yaw"], edges={"yaw": [-10.0, 10.0]})
    assert wish.labels("yaw") == ["up to -10", "-10 to 10", "above 10"]
    assert wish.bins(np.array([[-11.0], [0.0], [10.5]]))[0].tolist() == [0, 1, 2]
