"""Creases that come with age: lines on the neutral face, drawn once into the skin's atlas, four groups apart."""

from __future__ import annotations

import numpy as np

from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.raster import FAR, fill, interpolate

Line = tuple[tuple[float, float], ...]  # points (|x|, y) on the neutral mesh, decimetres
GROUPS: tuple[tuple[tuple[Line, float], ...], ...] = (  # each line with half its width
    (  # forehead and between the brows
        (((0.0, 7.60), (0.14, 7.615), (0.28, 7.61), (0.40, 7.585)), 0.013),
        (((0.0, 7.672), (0.15, 7.685), (0.30, 7.68), (0.42, 7.65)), 0.014),
        (((0.0, 7.745), (0.16, 7.757), (0.33, 7.742)), 0.013),
        (((0.05, 7.40), (0.055, 7.46), (0.045, 7.53)), 0.012),
        (((0.10, 7.43), (0.105, 7.49)), 0.008),
    ),
    (  # about the eyes
        (((0.475, 7.305), (0.55, 7.34), (0.62, 7.385)), 0.009),
        (((0.48, 7.285), (0.56, 7.29), (0.64, 7.295)), 0.010),
        (((0.475, 7.262), (0.55, 7.235), (0.61, 7.19)), 0.009),
        (((0.46, 7.24), (0.52, 7.19), (0.56, 7.14)), 0.008),
        (((0.17, 7.225), (0.25, 7.185), (0.34, 7.175), (0.43, 7.205)), 0.011),
        (((0.16, 7.20), (0.24, 7.135), (0.33, 7.11), (0.42, 7.13)), 0.017),
    ),
    (  # nose to mouth, mouth to chin
        (((0.135, 6.96), (0.20, 6.89), (0.265, 6.79), (0.31, 6.68), (0.325, 6.60)), 0.019),
        (((0.265, 6.60), (0.295, 6.52), (0.295, 6.43)), 0.014),
        (((0.0, 6.415), (0.09, 6.425), (0.16, 6.405)), 0.016),
    ),
    (  # cheeks, upper lip, neck
        (((0.40, 6.93), (0.435, 6.80), (0.44, 6.66), (0.42, 6.55)), 0.015),
        (((0.50, 6.95), (0.52, 6.82), (0.50, 6.70)), 0.011),
        (((0.05, 6.72), (0.055, 6.775)), 0.006),
        (((0.11, 6.715), (0.12, 6.77)), 0.006),
        (((0.17, 6.70), (0.185, 6.75)), 0.006),
        (((0.0, 6.02), (0.20, 6.05), (0.40, 6.13)), 0.016),
        (((0.0, 5.88), (0.20, 5.91), (0.42, 5.98)), 0.018),
    ),
)
_ATLAS: dict[tuple[int, int], np.ndarray] = {}


def creases(pack: Pack, size: int) -> np.ndarray:
    """Depth of the four groups of creases over the skin's atlas, uint8 [size, size, 4]; made once a process."""
    key = (id(pack), size)
    if key not in _ATLAS:
        _ATLAS[key] = _drawn(pack, size)
    return _ATLAS[key]


def _drawn(pack: Pack, size: int) -> np.ndarray:
    uv = (pack.body.uv * size).astype(np.float32)
    depth, index = np.full((size, size), FAR, np.float32), np.full((size, size), -1, np.int32)
    bary = np.zeros((size, size, 2), np.float32)
    fill(uv, np.ones(len(uv), np.float32), pack.body.triangles, depth, index, bary)
    rows, columns = np.nonzero(index >= 0)
    triangles = pack.body.triangles
    places = interpolate(index[rows, columns], bary[rows, columns], triangles, pack.vertices[pack.body.source])
    face = (places[:, 2] > 0.45) & (places[:, 1] > 5.7)
    rows, columns, places = rows[face], columns[face], places[face]
    x = abs(places[:, 0])
    # no crease is quite straight, nor the same on both sides
    y = places[:, 1] + 0.006 * np.sin(places[:, 0] * 31 + 1) + 0.004 * np.sin(places[:, 0] * 67 + places[:, 1] * 20)
    out = np.zeros((size, size, 4), np.uint8)
    for group, lines in enumerate(GROUPS):
        deep = np.zeros(len(x), np.float32)
        for line, wide in lines:
            deep = np.maximum(deep, _groove(x, y, np.array(line), wide))
        out[rows, columns, group] = np.rint(deep * 255)
    return out


def _groove(x: np.ndarray, y: np.ndarray, line: np.ndarray, wide: float) -> np.ndarray:
    """A groove along a line, 1 in its middle and thinning out at the ends."""
    box = (x > line[:, 0].min() - 4 * wide) & (x < line[:, 0].max() + 4 * wide)
    box &= (y > line[:, 1].min() - 4 * wide) & (y < line[:, 1].max() + 4 * wide)
    out = np.zeros(len(x), np.float32)
    px, py = x[box], y[box]
    reach = np.linalg.norm(np.diff(line, axis=0), axis=1)
    start = np.concatenate([[0], reach.cumsum()]) / reach.sum()
    for k in range(len(line) - 1):
        d = line[k + 1] - line[k]
        t = np.clip(((px - line[k, 0]) * d[0] + (py - line[k, 1]) * d[1]) / (d @ d), 0, 1)
        away = np.hypot(px - line[k, 0] - t * d[0], py - line[k, 1] - t * d[1])
        along = start[k] + t * (start[k + 1] - start[k])
        taper = 1.0 if line[0, 0] == 0 else np.clip(along / 0.12, 0.25, 1)
        deep = np.exp(-((away / wide) ** 2)) * np.clip((1 - along) / 0.2, 0.05, 1) * taper
        out[box] = np.maximum(out[box], deep)
    return out
