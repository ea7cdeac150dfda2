"""Along time: outputs steadier without ghosts, flicker reported, faces followed without trembling, cuts start anew."""

from __future__ import annotations

import math

import cv2
import numpy as np

from stages.apply.face_squares import Face
from stages.apply.steadiness import Steady, Watcher
from stages.apply.tracks import EVERY, PATIENCE, Tracks


def scene(step: int, noise: float = 0.0, shift: float = 2.0) -> np.ndarray:
    """A soft pattern with a bright square that moves right by `shift` px a step."""
    rng = np.random.default_rng(7)
    ground = cv2.resize(rng.integers(60, 160, (12, 16, 3)).astype(np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    texture = cv2.resize(rng.integers(0, 90, (8, 8, 3)).astype(np.uint8), (40, 40), interpolation=cv2.INTER_LINEAR)
    image = ground.copy()
    left = 20 + round(shift * step)
    image[30:70, left : left + 40] = 150 + texture
    grain = np.random.default_rng(100 + step).normal(0, noise, image.shape) if noise else 0
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def play(smooth: float, frames: list[np.ndarray], outputs: list[np.ndarray]) -> tuple[list[np.ndarray], Steady]:
    watcher, steady = Watcher(), Steady(smooth)
    matte = np.ones(frames[0].shape[:2], np.float32)
    return [steady(out, matte, watcher(frame)) for frame, out in zip(frames, outputs, strict=True)], steady


def test_flicker_of_a_painting_falls_and_its_edges_stay() -> None:
    frames = [scene(step) for step in range(10)]
    rng = np.random.default_rng(1)
    clean = [255 - frame for frame in frames]
    shaky = [np.clip(out + rng.normal(0, 12, out.shape), 0, 255).astype(np.uint8) for out in clean]
    shown, steady = play(0.8, frames, shaky)
    raw, smooth = steady.flicker()
    assert raw > 2 and smooth < 0.5 * raw
    late = slice(5, None)

    def error(images: list[np.ndarray]) -> float:
        pairs = zip(images[late], clean[late], strict=True)
        return float(np.mean([np.abs(image.astype(float) - true).mean() for image, true in pairs]))

    assert error(shown) < 0.6 * error(shaky)  # nearer to the truth everywhere, so no ghost trails behind


def test_what_is_steady_is_not_blurred_and_nothing_is_smoothed_at_0() -> None:
    frames = [scene(step) for step in range(6)]
    clean = [255 - frame for frame in frames]
    shown, steady = play(0.8, frames, clean)
    assert np.abs(shown[-1].astype(float) - clean[-1]).mean() < 1.0
    assert np.array_equal(play(0.0, frames, clean)[0], clean)
    assert steady.flicker()[1] < 0.5


def test_a_cut_and_an_unpainted_place_keep_nothing_of_before() -> None:
    frames = [scene(0), scene(1), 255 - scene(2)]
    watcher = Watcher()
    movements = [watcher(frame) for frame in frames]
    assert movements[0] is None and movements[1] is not None and movements[2] is None
    steady, outputs = Steady(1.0), [np.full_like(frames[0], value) for value in (0, 0, 200)]
    unpainted = np.zeros(frames[0].shape[:2], np.float32)
    assert np.array_equal(steady(outputs[0], unpainted, None), outputs[0])
    assert np.array_equal(steady(outputs[2], unpainted, movements[1]), outputs[2])
    assert math.isnan(steady.flicker()[0])  # nothing was painted


def follow(noise: float, frames: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Squares [n, 3] (x, y, side) of a face that is found with errors, and the true ones."""
    rng, tracks, watcher, got, true = np.random.default_rng(0), Tracks(), Watcher(), [], []
    for step in range(frames):
        frame = scene(step, shift=shift)
        movement = watcher(frame)
        truth = Face(40 + round(shift * step), 50, 40)
        wrong = rng.normal(0, noise * truth.side, 3)
        found = [Face(truth.x + wrong[0], truth.y + wrong[1], truth.side + wrong[2])]
        faces, strengths = tracks.step(found if tracks.due(movement) else None, movement, frame.shape[:2])
        assert strengths == [1.0]
        got.append([faces[0].x, faces[0].y, faces[0].side])
        true.append([truth.x, truth.y, truth.side])
    return np.array(got), np.array(true)


def test_a_face_is_followed_without_trembling() -> None:
    got, true = follow(0.05, 24, 2.0)
    assert np.abs(got[-8:] - true[-8:]).max() < 4  # of 40 px, after a way of 46 px
    trembling = np.diff(got - true, axis=0).std()
    assert trembling < 0.5  # the finder's own errors from one frame to the next: 2.8 px


def test_faces_come_and_go_softly_and_at_once_after_a_cut() -> None:
    tracks, watcher = Tracks(), Watcher()
    shape = (96, 128)

    def step(frame: np.ndarray, *found: Face) -> list[float]:
        movement = watcher(frame)
        return tracks.step(list(found) if tracks.due(movement) else None, movement, shape)[1]

    one, other = Face(40, 50, 40), Face(100, 50, 30)
    assert step(scene(0), one) == [1.0]
    strengths = [step(scene(0), one, other) for _ in range(3 * EVERY)]
    assert len(strengths[EVERY - 1]) == 1  # seen once: might be an error
    assert len(strengths[-1]) == 2 and 0 < strengths[2 * EVERY][-1] < 1
    gone = [step(scene(0), one) for _ in range((PATIENCE + 3) * EVERY)]
    assert len(gone[EVERY]) == 2 and gone[-1] == [1.0]
    assert step(255 - scene(0), other, one) == [1.0, 1.0]
    assert step(scene(0)) == []
