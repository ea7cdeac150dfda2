"""What hair of every kind is made of: strands, the places they grow from, and the skull they lie on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stages.datasets.rendered.colour import ramp
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.raster import FAR, fill
from stages.datasets.rendered.texture import beard_area, brow_frame, scalp

F = np.float32
CENTRE = np.array([0.0, 7.45, 0.30], np.float32)  # of the neutral skull


TABLE = (48, 96)  # polar and azimuth cells of the skull's radius


COUNT = {64: 1500, 128: 3200, 256: 7500}  # strands of a head of hair by picture size


POOL = 24000  # places on the skin that hair may grow from


@dataclass
class Strands:
    """A bunch of strands of one kind. S strands of P points."""

    kind: str  # hair | beard | brow | lash
    points: np.ndarray  # float32 [S, P, 3]
    outward: np.ndarray  # float32 [S, P, 3]: away from the skin, unit
    colour: np.ndarray  # float32 [S, P, 3], linear albedo
    width: np.ndarray  # float32 [S, P], decimetres
    opacity: np.ndarray  # float32 [S, P]
    label: np.ndarray  # uint8 [S], face region
    shade: np.ndarray = field(default_factory=lambda: np.zeros(0))  # float32 [S, P]: light that reaches it, 0..1


@dataclass(frozen=True)
class Roots:
    """Places on the neutral skin, random and even."""

    triangles: np.ndarray  # int32 [n, 3] of base vertices
    weights: np.ndarray  # float32 [n, 3]
    neutral: np.ndarray  # float32 [n, 3]

    def on(self, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Values [m, C] of a mesh's vertices at the chosen roots."""
        return np.einsum("nk,nkc->nc", self.weights[chosen], values[self.triangles[chosen]]).astype(np.float32)


_ROOTS: dict[tuple[int, str], Roots] = {}


def roots_of(pack: Pack, region: str) -> Roots:
    """The pool of a region's roots (scalp, beard, brow), the same for everybody."""
    key = (id(pack), region)
    if key not in _ROOTS:
        _ROOTS[key] = _pool(pack, region)
    return _ROOTS[key]


def _pool(pack: Pack, region: str) -> Roots:
    rng = np.random.default_rng(11)
    ids = pack.body.source[pack.body.triangles]
    corners = pack.vertices[ids]
    outside = ~np.isin(pack.triangle_class, [7, 8, 11, 12, 13])
    middle = corners.mean(axis=1)
    rows = np.nonzero(outside & (middle[:, 1] > 5.9))[0]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    masks = {
        "scalp": lambda at: scalp(at) > 0.02,
        "beard": lambda at: beard_area(at) > 0.05,
        "brow": lambda at: (abs(brow_frame(at)[1]) < 0.12) & (at[:, 2] > 1.0) & (abs(at[:, 0]) < 0.56),
    }
    near = {"scalp": middle[rows, 1] > 6.5, "beard": middle[rows, 1] < 7.4, "brow": abs(middle[rows, 1] - 7.45) < 0.3}
    rows = rows[
        near[region] & (masks[region](middle[rows]) | masks[region](corners[rows, 0]) | masks[region](corners[rows, 1]))
    ]

    # even over the area: triangles by size, then a place in each
    chosen = rng.choice(rows, POOL, p=area[rows] / area[rows].sum())
    u = rng.random((POOL, 2))
    u = np.where(u.sum(axis=1, keepdims=True) > 1, 1 - u, u)
    weights = np.stack([1 - u.sum(axis=1), u[:, 0], u[:, 1]], axis=1).astype(np.float32)
    neutral = np.einsum("nk,nkc->nc", weights, corners[chosen]).astype(np.float32)
    keep = masks[region](neutral)
    return Roots(ids[chosen][keep], weights[keep], neutral[keep])


def skull_radius(pack: Pack, vertices: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Radius [polar, azimuth] of the skull about its centre: the furthest skin in every direction, without ears."""
    rows, columns = TABLE
    triangles = pack.skull_triangles
    d = vertices[pack.body.source] - centre
    r = np.sqrt((d * d).sum(axis=1))
    azimuth = np.arctan2(d[:, 0], d[:, 2]) / (2 * np.pi) + 0.5
    polar = np.arccos(np.clip(d[:, 1] / np.maximum(r, 1e-6), -1, 1)) / np.pi
    x = azimuth[triangles]
    seam = x.max(axis=1) - x.min(axis=1) > 0.5
    # corners left of the seam move one turn to the right, in a table half as wide again
    apart = np.where(seam[:, None] & (x < 0.5), x + 1, x) * columns
    xy = np.stack([apart.ravel(), np.repeat(0, apart.size)], axis=1).astype(np.float32)
    xy[:, 1] = polar[triangles].ravel() * rows
    depth = np.full((rows, columns * 3 // 2), FAR, np.float32)
    index, bary = np.zeros(depth.shape, np.int32), np.zeros((*depth.shape, 2), np.float32)
    corners = np.arange(len(xy), dtype=np.int32).reshape(-1, 3)
    fill(xy, (F(20) - r[triangles].ravel()).astype(np.float32), corners, depth, index, bary)
    table = np.where(depth < 1e8, 20 - depth, 0)
    half = columns // 2
    table[:, :half] = np.maximum(table[:, :half], table[:, columns:])
    table = table[:, :columns]
    table[0] = table[1].max()
    return table.astype(np.float32)


def tangential(directions: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Directions [n, 3] laid along the skin whose unit normals [n, 3] are given, brought to length 1."""
    along = directions - normals * (directions * normals).sum(axis=1, keepdims=True)
    return (along / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)).astype(np.float32)


def count_of(size: int, share: float = 1.0) -> tuple[int, float]:
    """How many strands to draw at a picture size, and how much wider than at the finest."""
    most = COUNT[256]
    n = COUNT[min((k for k in COUNT if k >= size), default=256)]
    return max(8, int(n * share)), (most / n) ** 0.8


def bunch_of(
    kind: str,
    paths: np.ndarray,
    normal: np.ndarray,
    colour: np.ndarray,
    width: float,
    label: int,
    rng: np.random.Generator,
) -> Strands:
    """Strands of paths [S, P, 3] in colours [S, 3], thinner and clearer to the tip."""
    s, p, _ = paths.shape
    t = np.linspace(0, 1, p, dtype=np.float32)
    return Strands(
        kind=kind,
        points=paths.astype(np.float32),
        outward=np.repeat(normal[:, None], p, axis=1).astype(np.float32),
        colour=np.repeat(colour[:, None], p, axis=1).astype(np.float32),
        width=(width * rng.uniform(0.75, 1.25, (s, 1)) * (1 - 0.6 * t[None] ** 1.5)).astype(np.float32),
        opacity=np.broadcast_to(ramp(t, 1.15, 0.7), (s, p)).astype(np.float32) * F(0.95),
        label=np.full(s, label, np.uint8),
        shade=np.broadcast_to(0.6 + 0.4 * t, (s, p)).astype(np.float32),
    )
