"""Flicker of videos whose motion is known, the rendered one's among them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.datasets.people import open_people
from stages.metrics.flicker import change, flicker, inside, warp
from tests.tools.portraits import portrait

PERSON = 900_005  # who moves by most of a pixel a frame


def shifted(picture: np.ndarray, across: float, down: float) -> np.ndarray:
    """The picture moved right and down."""
    move = np.float32([[1, 0, across], [0, 1, down]])
    return cv2.warpAffine(picture, move, picture.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return portrait(PERSON, 64, "comic").image


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


def test_rendered_motion_is_what_its_flow_says() -> None:
    """The frames follow the flow up to their noise; the true twins hardly flicker, frame-wise errors do."""
    clean = open_people().moving(PERSON, 64, 5, "comic", noise=0.0)
    assert clean.frames.shape == (5, 64, 64, 3) and clean.flows.shape == (4, 64, 64, 2)
    assert clean.twins is not None and clean.heads.any(axis=(1, 2)).all()
    heads, flows = list(clean.heads[1:]), list(clean.flows)
    still = [np.zeros_like(flow) for flow in flows]

    def unexplained(flows: list[np.ndarray]) -> float:
        steps = zip(clean.frames[:-1], clean.frames[1:], flows, heads, strict=True)
        return float(np.mean([change(a, b, flow)[head].mean() for a, b, flow, head in steps]))

    assert unexplained(flows) < 0.25 * unexplained(still)
    truth = flicker(list(clean.frames), list(clean.twins), flows, heads)
    wild = [np.clip(twin.astype(int) + 10 * (-1) ** t, 0, 255).astype(np.uint8) for t, twin in enumerate(clean.twins)]
    assert truth < 0.5 * flicker(list(clean.frames), list(clean.twins), still, heads)
    assert truth < 0.01 < 5 * truth < flicker(list(clean.frames), wild, flows, heads)
    noisy = open_people().moving(PERSON, 64, 5)
    assert (noisy.frames.astype(int) - clean.frames).std() == pytest.approx(0.005 * 255, rel=0.2)
    assert np.array_equal(noisy.frames, open_people().moving(PERSON, 64, 5).frames)
