"""Painted motion with known flow: a painted portrait seen by a camera that moves, turns and zooms a little.

The portrait is painted once, several times as large as the frames; each frame is that picture through a similarity
(shift, turn, zoom), averaged down. So where every pixel of a frame was in the frame before is known exactly, and with
the true stylised twin through the same similarities, so is the steadiest output there can be.
"""

from __future__ import annotations

import cv2
import numpy as np

from stages.datasets.painted.paint import SIZES, paint, twin
from stages.datasets.painted.person import sample_person, sample_view
from stages.datasets.people import SENSOR_NOISE, Motion

FINER = 4  # times the frame's size that the portrait is painted at, as far as the painter reaches
SHIFT, TURN, ZOOM = 0.03, 2.5, 0.03  # largest: shares of the width, degrees, shares of the size


def paths(seed: int, frames: int, size: int) -> np.ndarray:
    """The camera's way: maps from frame pixels to the first frame's, float64 [T, 2, 3], smooth and never at rest.

    A pixel's centre is a whole number, as in `Motion.flows`; the turn and the zoom are about the frame's centre.
    """
    rng = np.random.default_rng([seed, 21])
    phases, speeds = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.5, 1.0, 4) * 2 * np.pi / 8  # radians a frame
    swing = np.sin(phases + speeds * np.arange(frames)[:, None]) - np.sin(phases)  # [T, 4], 0 at the start
    across, down = swing[:, 0] * SHIFT * size / 2, swing[:, 1] * SHIFT * size / 2
    angle, scale = np.deg2rad(TURN / 2) * swing[:, 2], 1 + ZOOM / 2 * swing[:, 3]
    cosine, sine, middle = scale * np.cos(angle), scale * np.sin(angle), (size - 1) / 2
    turn = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], 1)  # [T, 2, 2]
    shift = middle + np.stack([across, down], -1) - turn @ np.array([middle, middle])
    return np.concatenate([turn, shift[..., None]], axis=2)


def flow_between(before: np.ndarray, after: np.ndarray, size: int) -> np.ndarray:
    """Where the pixels of the frame `after` were in the frame `before`, less their places: float32 [S, S, 2].

    before, after: maps [2, 3] of two frames to the first one's pixels.
    """
    rows, columns = np.indices((size, size), dtype=np.float64)
    places = np.stack([columns, rows], -1)
    first = places @ after[:, :2].T + after[:, 2]
    return ((first - before[:, 2]) @ np.linalg.inv(before[:, :2]).T - places).astype(np.float32)


def film(picture: np.ndarray, maps: np.ndarray, size: int, border: int) -> np.ndarray:
    """A large picture [k S, k S(, 3)] through the maps and averaged down by k: the same kind, [T, S, S(, 3)]."""
    k = picture.shape[0] // size
    shots = []
    for turn, shift in ((each[:, :2], each[:, 2]) for each in maps):
        # a frame pixel x is the large picture's k x + (k - 1) / 2
        offset = k * shift + (k - 1) / 2 * (1 - turn.sum(axis=1))
        big = cv2.warpAffine(
            picture,
            np.column_stack([turn, offset]),
            picture.shape[1::-1],
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=border,
        )
        shots.append(cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA))
    return np.stack(shots)


def moving(
    person: int, size: int, frames: int = 8, style: str | None = None, noise: float = SENSOR_NOISE, seed: int = 0
) -> Motion:
    """A painted person under a moving camera, in their view 0.

    Args:
        person: number of the person (`stages.datasets.painted.person`); it also draws the motion.
        size: side of a frame, px, at most 512.
        frames: how many.
        style: also the true twin's video in this style.
        noise: deviation of white noise that a sensor adds to each frame, of full white; the twin has none.
        seed: of the painted world.

    Raises:
        ValueError: a size that the painter does not reach, or a style that it does not know.
    """
    large = size * max(1, min(FINER, SIZES[1] // size))
    who, view = sample_person(person, seed), sample_view(person, 0, seed)
    maps = paths(person, frames, size)
    portrait = paint(who, view, large)
    shots = film(portrait.image, maps, size, cv2.BORDER_REFLECT_101)
    grain = np.random.default_rng([person, 22]).normal(0, 255 * noise, shots.shape).astype(np.float32)
    known = film(np.full((large, large), 255, np.uint8), maps, size, cv2.BORDER_CONSTANT)
    heads = film(portrait.mask, maps, size, cv2.BORDER_CONSTANT)
    twins = None
    if style is not None:
        twins = film(twin(who, view, large, style).image, maps, size, cv2.BORDER_REFLECT_101)
    return Motion(
        frames=np.clip(np.rint(shots + grain), 0, 255).astype(np.uint8),
        flows=np.stack([flow_between(one, two, size) for one, two in zip(maps[:-1], maps[1:], strict=True)]),
        heads=(heads > 127) & (known == 255),
        twins=twins,
    )
