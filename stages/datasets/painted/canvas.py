"""What the painter draws with: a supersampled canvas, a head camera and soft shapes.

Everything is float32 numpy; the colour canvas holds linear light (display value squared) in planes `[3, n, n]`, which
is what one thread blends fastest. Coordinates: frame units, x and y in -1..1 (y down), z towards the viewer.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Box = tuple[slice, slice]

SHIFT = 4  # sub-pixel bits of cv2's polygon coordinates


@lru_cache(maxsize=8)
def grid(n: int) -> tuple[Floats, Floats]:
    """Pixel centres of an n x n frame: x and y, each [n, n] in -1..1."""
    axis = ((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


@lru_cache(maxsize=1)
def noise_line() -> Floats:
    """Periodic 1-D noise, 1024 long, three octaves, about -1..1: hair strands, cloth folds, jagged hairlines."""
    rng = np.random.default_rng(5)
    total = np.zeros(1024, np.float32)
    for sigma, gain in ((1.5, 0.8), (5.0, 0.9), (16.0, 0.9)):
        line = np.tile(rng.standard_normal(1024), 3)
        size = int(6 * sigma) | 1
        line = np.convolve(line, cv2.getGaussianKernel(size, sigma)[:, 0], "same")[1024:2048]
        total += (gain * line / line.std()).astype(np.float32)
    return (total / np.abs(total).max()).astype(np.float32)


@lru_cache(maxsize=32)
def noise_tile(sigma: float) -> Floats:
    """Periodic 2-D noise tile [1024, 1024] of unit deviation, blurred by `sigma` pixels."""
    rng = np.random.default_rng(int(sigma * 100) + 7)
    tile = rng.standard_normal((1024, 1024)).astype(np.float32)
    if sigma > 0:
        tile = blur(np.pad(tile, 64, mode="wrap"), sigma)[64:-64, 64:-64]
        tile /= tile.std()
    return np.ascontiguousarray(tile)


def blur(image: Floats, sigma: float) -> Floats:
    """Gaussian blur by `sigma` pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def phase(x: Floats, y: Floats) -> Floats:
    """Angle of (x, y) in 0..2 pi, to a third of a degree: ten times faster than arctan2."""
    return np.asarray(cv2.phase(x, y), np.float32)


def noise_at(sigma: float, n: int, seed: int) -> Floats:
    """An n x n window of the tile (n <= 1024), at a place drawn from `seed`."""
    tile = noise_tile(sigma)
    span = 1024 - n
    if span <= 0:
        return tile[:n, :n]
    y, x = seed % 613 * span // 613, seed // 613 % 577 * span // 577
    return tile[y : y + n, x : x + n]


def linear(colour: tuple[float, float, float] | np.ndarray) -> Floats:
    """Display colour in [0, 1] -> linear light [3] (gamma 2: cheap to undo)."""
    values = np.asarray(colour, np.float32)
    return values * values


@dataclass
class Camera:
    """Head frame -> picture: orthographic, `rotation` [3, 3], then scale and shift."""

    rotation: NDArray[np.float64]
    scale: float
    shift: NDArray[np.float64]  # [3]
    n: int

    def place(self, points: np.ndarray) -> np.ndarray:
        """Head-frame points [..., 3] -> camera points [..., 3] in frame units."""
        return points @ (self.rotation.T * self.scale) + self.shift

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Camera points [..., >=2] -> pixel positions [..., 2] where a pixel's centre is a whole number."""
        return (points[..., :2] + 1) * (self.n / 2) - 0.5

    def head_axis(self, row: int, x: Floats, y: Floats, z: Floats) -> Floats:
        """Head-frame coordinate number `row` of camera positions given by planes."""
        a, b, c = (self.rotation[:, row] / self.scale).astype(np.float32)
        d = np.float32(-(self.rotation[:, row] / self.scale) @ self.shift)
        return a * x + b * y + c * z + d


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """Head -> camera rotation from degrees: yaw > 0 nose to the right, pitch > 0 up, roll > 0 clockwise."""
    (sy, sp, sr), (cy, cp, cr) = (f(np.deg2rad([yaw, pitch, roll])) for f in (np.sin, np.cos))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return lean @ nod @ turn


@dataclass
class Ellipsoid:
    """An ellipsoid of the head frame seen by a camera: its outline and the depth of its front, in closed form."""

    centre: np.ndarray  # head frame [3]
    radii: np.ndarray
    camera: Camera
    matrix: np.ndarray = field(init=False)
    middle: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        r = self.camera.rotation
        self.matrix = (r / np.square(self.radii * self.camera.scale)) @ r.T
        self.middle = self.camera.place(np.asarray(self.centre, float))
        m = self.matrix
        # front surface: a z^2 + 2 b z + q = 0 with b, q from the offset d; its discriminant is a - d' K d
        self.outline_form = m[2, 2] * m[:2, :2] - np.outer(m[2, :2], m[2, :2])

    def outline(self, count: int = 48) -> np.ndarray:
        """Points [count, 2] of the projected outline, frame units."""
        (a, b), (_, c) = self.outline_form.tolist()
        one = math.sqrt(a)  # Cholesky factor of the form: rows (one, 0), (across, two)
        across = b / one
        two = math.sqrt(c - across * across)
        points = _circle(count) @ np.array([[1 / one, 0], [-across / (one * two), 1 / two]])
        return points * math.sqrt(self.matrix[2, 2]) + self.middle[:2]

    def front(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Depth of the front at planes x, y, and the discriminant (1 at the centre, 0 on the outline, < 0 outside).

        Outside the outline the depth is that of the middle plane.
        """
        m, k = self.matrix.astype(np.float32), self.outline_form.astype(np.float32)
        dx, dy = x - np.float32(self.middle[0]), y - np.float32(self.middle[1])
        disc = m[2, 2] - (k[0, 0] * dx + (2 * k[0, 1]) * dy) * dx - k[1, 1] * dy * dy
        z = np.sqrt(np.maximum(disc, 0)) - m[0, 2] * dx - m[1, 2] * dy
        return z * np.float32(1 / m[2, 2]) + np.float32(self.middle[2]), disc * np.float32(1 / m[2, 2])

    def box(self, n: int, pad: float = 0.02) -> Box:
        """The pixels that its outline can touch."""
        (a, b), (_, c) = self.outline_form.tolist()
        size = float(self.matrix[2, 2]) / (a * c - b * b)
        x, y, _ = self.middle.tolist()
        across, down = math.sqrt(c * size) + pad, math.sqrt(a * size) + pad
        x0, x1 = max(0, math.floor((x - across + 1) * (n / 2))), min(n, math.ceil((x + across + 1) * (n / 2)))
        y0, y1 = max(0, math.floor((y - down + 1) * (n / 2))), min(n, math.ceil((y + down + 1) * (n / 2)))
        return slice(y0, max(y0, y1)), slice(x0, max(x0, x1))


@lru_cache(maxsize=4)
def _circle(count: int) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def join(a: Floats, b: Floats, k: float) -> Floats:
    """Polynomial smooth maximum of two depths: the flesh between two ellipsoids, `k` wide."""
    k32 = np.float32(k)
    h = np.maximum(k32 - np.abs(a - b), 0)
    return np.maximum(a, b) + h * h * np.float32(0.25 / k)


class Canvas:
    """Linear-light picture [3, n, n], label map [n, n] and head coverage [n, n], painted back to front."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.x, self.y = grid(n)
        self.rgb = np.zeros((3, n, n), np.float32)
        self.label = np.zeros((n, n), np.uint8)
        self.head = np.zeros((n, n), np.float32)
        self.clip: Floats | None = None
        """When set, [n, n]: where painting has any effect."""

    def polygon(self, points: np.ndarray, hole: np.ndarray | None = None, soft: float = 0.0) -> tuple[Box, Floats]:
        """Coverage of a polygon of pixel points [k, 2]: (box, float32 [h, w] in 0..1); `soft` blurs by pixels."""
        pad = 2 + int(3 * soft)
        low, high = points.min(0).tolist(), points.max(0).tolist()
        x0, y0 = max(0, int(low[0]) - pad), max(0, int(low[1]) - pad)
        x1, y1 = min(self.n, int(high[0]) + pad + 2), min(self.n, int(high[1]) + pad + 2)
        if x1 <= x0 or y1 <= y0:
            return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32)
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        corner = np.array([x0, y0], np.float64)
        rings = [np.rint((ring - corner) * (1 << SHIFT)).astype(np.int32) for ring in
                 ([points] if hole is None else [points, hole])]  # fmt: skip
        cv2.fillPoly(mask, rings, 255, cv2.LINE_AA, SHIFT)
        cover = np.asarray(cv2.GaussianBlur(mask, (0, 0), soft)) if soft > 0 else mask
        return (slice(y0, y1), slice(x0, x1)), cover.astype(np.float32) * np.float32(1 / 255)

    def lay(self, box: Box, mask: Floats, colour: Floats, label: int | None = None, head: bool | None = None) -> None:
        """Blend `colour` ([3] or [3, h, w]) over the box by `mask`; a given label and head flag go with it."""
        if mask.size == 0:
            return
        if self.clip is not None:
            mask = mask * self.clip[box]
        area = self.rgb[:, box[0], box[1]]
        area += mask * ((colour if colour.ndim == 3 else colour[:, None, None]) - area)
        if label is not None:
            self.label[box][mask > 0.5] = label
        if head is not None:
            cover = self.head[box]
            cover += mask * ((1.0 if head else 0.0) - cover)

    def dim(self, box: Box, mask: Floats, factor: np.ndarray) -> None:
        """Multiply the light in the box by 1 at mask 0 and by `factor` [3] at mask 1."""
        if mask.size:
            if self.clip is not None:
                mask = mask * self.clip[box]
            for plane in range(3):
                self.rgb[plane][box] *= 1 - mask * np.float32(1 - factor[plane])
