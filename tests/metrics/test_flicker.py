"""Flicker of videos whose motion is known, and the painted motion itself."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.datasets.painted.motion import film, flow_between, moving, paths
from stages.datasets.painted.paint import paint
from stages.datasets.painted.person import sample_person, sample_view
from stages.metrics.flicker import change, flicker, inside, warp

PERSON = 900_000


def shifted(picture: np.ndarray, across: float, down: float) -> np.ndarray:
    """The picture moved right and down."""
    move = np.float32([[1, 0, across], [0, 1, down]])
    return cv2.warpAffine(picture, move, picture.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return paint(sample_person(PERSON), sample_view(PERSON, 0), 64, "comic").image


def test_by_hand() -> None:
    """Two grey frames: a flat change of 51 levels in the output alone is a flicker of 0.2, in both of 0."""
    dark, light = np.full((2, 16, 16, 3), 100, np.uint8), np.full((2, 16, 16, 3), 100, np.uint8)
    light[1] += 51
    still = [np.zeros((16, 16, 2), np.float32)]
    assert flicker(list(dark), list(light), still) == pytest.approx(0.2, abs=1e-6)
    assert flicker(list(light), list(light), still) == 0
    assert flicker(list(light), list(dark), still) == 0  # steadier than its input is no flicker
    half = np.zeros((16, 16), bool)
    assert np.isnan(flicker(list(dark), list(light), still, [half]))
    half[:, :8] = True
    assert flicker(list(dark), list(light), still, [half]) == pytest.approx(0.2, abs=1e-6)


def test_a_flow_points_back(picture: np.ndarray) -> None:
    """The next frame lies 3 px further right, so its pixels were 3 px further left; what came in is not valid."""
    later = shifted(picture, 3, 0)
    flow = np.zeros((64, 64, 2), np.float32)
    flow[..., 0] = -3
    assert np.array_equal(warp(picture, flow)[:, 3:], later[:, 3:])
    assert inside(flow).sum() == 64 * 61 and not inside(flow)[:, :3].any()
    assert change(picture, later, flow)[:, 6:].max() == 0
    assert flicker([picture, later], [picture, later], [np.zeros_like(flow)]) == 0  # a wrong flow fits neither
    assert flicker([picture, later], [picture, picture], [flow]) > 0.03  # an output that stays where it was


def test_more_flicker_is_more(picture: np.ndarray) -> None:
    """Outputs whose light trembles by more and more levels."""
    still = [np.zeros((64, 64, 2), np.float32)] * 3
    values = []
    for size in (0, 2, 6, 20):
        tremble = [np.clip(picture.astype(int) + size * (-1) ** t, 0, 255).astype(np.uint8) for t in range(4)]
        values.append(flicker([picture] * 4, tremble, still))
    assert values == sorted(values) and values[0] == 0 and values[1] == pytest.approx(4 / 255, rel=0.2)


def test_what_is_no_video_is_refused(picture: np.ndarray) -> None:
    flow = np.zeros((64, 64, 2), np.float32)
    with pytest.raises(ValueError, match="not a video"):
        flicker([picture], [picture], [])
    with pytest.raises(ValueError, match="one size"):
        flicker([picture, picture], [picture, picture[:32]], [flow])


def test_maps_and_flows_agree() -> None:
    """A point of the first frame, followed through the maps, is where the flows say."""
    maps = paths(3, 6, 64)
    assert np.allclose(maps[0], [[1, 0, 0], [0, 1, 0]])
    for before, after in zip(maps[:-1], maps[1:], strict=True):
        flow = flow_between(before, after, 64)
        for x, y in ((10, 20), (50, 33)):
            first = after[:, :2] @ [x, y] + after[:, 2]
            was = np.array([x, y]) + flow[y, x]
            assert np.allclose(before[:, :2] @ was + before[:, 2], first, atol=1e-3)
        assert 0.05 < np.abs(flow).max() < 4


def test_a_large_picture_at_rest_is_itself_averaged() -> None:
    large = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    still = np.broadcast_to(np.eye(2, 3), (2, 2, 3))
    shots = film(large, still, 32, cv2.BORDER_REFLECT_101)
    wanted = cv2.resize(large, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.array_equal(shots[0], wanted) and np.array_equal(shots[1], wanted)


def test_painted_motion_is_what_its_flow_says() -> None:
    """The frames follow the flow up to their noise; the true twins hardly flicker, frame-wise errors do."""
    clean = moving(PERSON, 64, 5, "comic", noise=0.0)
    assert clean.frames.shape == (5, 64, 64, 3) and clean.flows.shape == (4, 64, 64, 2)
    assert clean.twins is not None and clean.heads.any(axis=(1, 2)).all()
    heads, flows = list(clean.heads[1:]), list(clean.flows)
    still = [np.zeros_like(flow) for flow in flows]

    def unexplained(flows: list[np.ndarray]) -> float:
        steps = zip(clean.frames[:-1], clean.frames[1:], flows, heads, strict=True)
        return float(np.mean([change(a, b, flow)[head].mean() for a, b, flow, head in steps]))

    assert unexplained(flows) < 0.15 * unexplained(still)
    truth = flicker(list(clean.frames), list(clean.twins), flows, heads)
    random = np.random.default_rng(0)
    wild = [np.clip(twin + random.normal(0, 8), 0, 255).astype(np.uint8) for twin in clean.twins.astype(float)]
    assert truth < 0.003 < 5 * truth < flicker(list(clean.frames), wild, flows, heads)
    noisy = moving(PERSON, 64, 5)
    assert (noisy.frames.astype(int) - clean.frames).std() == pytest.approx(0.005 * 255, rel=0.2)
    assert np.array_equal(noisy.frames, moving(PERSON, 64, 5).frames)
