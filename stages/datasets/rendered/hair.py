"""Hair by program: strands that grow from the skin, fall over the skull, curl, clump and stand off it.

Hair of the head, beards, brows and lashes are all strands: paths of points that the rasteriser blends back to front.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

from stages.datasets.rendered.colour import ramp
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.person import Person
from stages.datasets.rendered.raster import FAR, fill, unit, vertex_normals
from stages.datasets.rendered.texture import beard_area, brow_frame, brow_width, scalp

F = np.float32
CENTRE = np.array([0.0, 7.45, 0.30], np.float32)  # of the neutral skull
TABLE = (48, 96)  # polar and azimuth cells of the skull's radius
COUNT = {64: 1500, 128: 3200, 256: 7500}  # strands of a head of hair by picture size
WIDTH = 0.0105  # decimetres, a strand at COUNT[256]
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


@njit(cache=True)
def _radius(table, dx, dy, dz):
    rows, columns = table.shape
    y = np.arccos(min(F(1), max(F(-1), dy))) / F(np.pi) * rows - F(0.5)
    x = (np.arctan2(dx, dz) / F(2 * np.pi) + F(0.5)) * columns - F(0.5)
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    fy, fx = F(y - y0), F(x - x0)
    ya, yb = min(max(y0, 0), rows - 1), min(max(y0 + 1, 0), rows - 1)
    xa, xb = x0 % columns, (x0 + 1) % columns
    upper = (1 - fx) * table[ya, xa] + fx * table[ya, xb]
    return (1 - fy) * upper + fy * ((1 - fx) * table[yb, xa] + fx * table[yb, xb])


@njit(cache=True)
def _grow(root, normal, comb, length, layer, lift, weight, free, tie, tied, face, table, centre, points):
    """Paths [S, P, 3]: combed near the root, then falling, never inside the skull nor across the face.

    comb, lift: direction and strength near the root; weight: pull of gravity; free: 1 lets a strand over the face;
    tie [3], tied: strands first run to the tie; face: half width, top, depth, bottom of the face to keep clear.
    """
    n = root.shape[0]
    out = np.empty((n, points, 3), np.float32)
    for s in range(n):
        step = length[s] / F(points - 1)
        px, py, pz = root[s, 0], root[s, 1], root[s, 2]
        dx, dy, dz = (
            normal[s, 0] * F(0.6) + comb[s, 0],
            normal[s, 1] * F(0.6) + comb[s, 1],
            normal[s, 2] * F(0.6) + comb[s, 2],
        )
        side = F(1) if px >= 0 else F(-1)
        if abs(comb[s, 0]) > F(0.25):
            side = F(1) if comb[s, 0] > 0 else F(-1)
        waiting = tied[s] > 0
        for k in range(points):
            out[s, k, 0], out[s, k, 1], out[s, k, 2] = px, py, pz
            t = F(k) / F(points - 1)
            travelled = step * F(k)
            early = max(F(0), 1 - travelled / F(0.7)) ** 2 * F(1.2)
            rise = max(F(0), 1 - travelled / F(0.4)) ** 2 * lift[s]
            wx = comb[s, 0] * early + normal[s, 0] * rise
            wy = comb[s, 1] * early + normal[s, 1] * rise - weight[s] * (F(0.3) + t)
            wz = comb[s, 2] * early + normal[s, 2] * rise
            if waiting:
                tx, ty, tz = tie[0] - px, tie[1] - py, tie[2] - pz
                reach = np.sqrt(tx * tx + ty * ty + tz * tz) + F(1e-6)
                if reach < F(0.12) + layer[s]:
                    waiting = False
                    dx, dy, dz = F(0), F(-0.2), F(-1)
                else:
                    wx, wy, wz = tx / reach * F(2), ty / reach * F(2), tz / reach * F(2)
            dx, dy, dz = dx * F(0.6) + wx, dy * F(0.6) + wy, dz * F(0.6) + wz
            size = np.sqrt(dx * dx + dy * dy + dz * dz) + F(1e-6)
            dx, dy, dz = dx / size, dy / size, dz / size
            qx, qy, qz = px + dx * step, py + dy * step, pz + dz * step
            ux, uy, uz = qx - centre[0], qy - centre[1], qz - centre[2]
            r = np.sqrt(ux * ux + uy * uy + uz * uz) + F(1e-6)
            if uy > F(-1.15) and (uz < F(0.75) or free[s] > 0 or uy > 0):
                off = layer[s] * min(F(1), F(k + 1) * step * F(6))
                least = _radius(table, ux / r, uy / r, uz / r) + off
                if r < least:
                    push = least / r
                    qx, qy, qz = centre[0] + ux * push, centre[1] + uy * push, centre[2] + uz * push
            if free[s] == 0 and qy < face[1] and qz > face[2] and abs(qx) < face[0] and qy > face[3]:
                qx = qx + (side * face[0] - qx) * F(0.7)
            dx, dy, dz = qx - px, qy - py, qz - pz
            size = np.sqrt(dx * dx + dy * dy + dz * dz) + F(1e-6)
            dx, dy, dz = dx / size, dy / size, dz / size
            px, py, pz = qx, qy, qz
    return out


@njit(cache=True)
def _clump(paths, neutral, leaders, pull):
    """Strands drawn towards the nearest of the first `leaders` strands, more at the tip; the leader of each."""
    n, points = paths.shape[0], paths.shape[1]
    chosen = np.empty(n, np.int32)
    for s in range(n):
        best, nearest = 0, F(1e9)
        for m in range(leaders):
            d = (
                (neutral[s, 0] - neutral[m, 0]) ** 2
                + (neutral[s, 1] - neutral[m, 1]) ** 2
                + (neutral[s, 2] - neutral[m, 2]) ** 2
            )
            if d < nearest:
                best, nearest = m, d
        chosen[s] = best
    for s in range(leaders, n):
        m = chosen[s]
        for k in range(points):
            t = F(k) / F(points - 1)
            w = pull[s] * t * (F(1.6) - F(0.8) * t)
            for c in range(3):
                paths[s, k, c] += w * (paths[m, k, c] - paths[s, k, c])
    return chosen


def _tangential(directions: np.ndarray, normals: np.ndarray) -> np.ndarray:
    along = directions - normals * (directions * normals).sum(axis=1, keepdims=True)
    return (along / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)).astype(np.float32)


def _count(size: int, share: float = 1.0) -> tuple[int, float]:
    """How many strands to draw at a picture size, and how much wider than at the finest."""
    most = COUNT[256]
    n = COUNT[min((k for k in COUNT if k >= size), default=256)]
    return max(8, int(n * share)), (most / n) ** 0.8


def _curled(paths: np.ndarray, rng: np.random.Generator, curl: float, chosen: np.ndarray, tight: float) -> np.ndarray:
    """Paths wound into helices: strands of a clump wind alike."""
    s, p, _ = paths.shape
    along = np.gradient(paths, axis=1)
    along /= np.linalg.norm(along, axis=2, keepdims=True) + 1e-6
    across = np.cross(along, np.array([0.31, 0.2, 0.93], np.float32))
    across /= np.linalg.norm(across, axis=2, keepdims=True) + 1e-6
    third = np.cross(along, across)
    travelled = np.concatenate(
        [np.zeros((s, 1)), np.linalg.norm(np.diff(paths, axis=1), axis=2).cumsum(axis=1)], axis=1
    )
    phase = rng.uniform(0, 2 * np.pi, int(chosen.max()) + 1)[chosen] + rng.normal(0, 0.35, s)
    pace = rng.normal(1, 0.1, int(chosen.max()) + 1)[chosen]
    angle = travelled * pace[:, None] * tight + phase[:, None]
    wide = curl * (0.8 / tight + 0.012) * np.minimum(1, travelled / 0.25)
    offset = across * np.cos(angle)[..., None] + third * np.sin(angle)[..., None]
    return (paths + offset * wide[..., None]).astype(np.float32)


def hair_of(pack: Pack, person: Person, vertices: np.ndarray, size: int, gather: float = 1.0) -> list[Strands]:
    """The hair of the head on an unposed mesh [V, 3]; `gather` > 1 clumps it as drawings do."""
    hair = person.hair
    if person.hat == "headscarf" or (hair.style == "bald" and hair.receding <= 0.35):
        return []
    rng = np.random.default_rng([person.seed, person.number, 21])
    pool = roots_of(pack, "scalp")
    keep = np.nonzero(scalp(pool.neutral, hair) > rng.random(len(pool.neutral)) * 0.9 + 0.05)[0]
    if person.hat != "none":
        keep = keep[pool.neutral[keep, 1] < hat_edge(pool.neutral[keep])]
    long = hair.style in ("long", "shoulder", "bob", "tied", "curly")
    n, wider = _count(size, 1.0 if long or hair.style in ("afro", "coils") else 0.85)
    keep = keep[:n]
    if len(keep) < 4:
        return []
    normals = vertex_normals(vertices, pack.body_triangles)
    root, normal, rest = pool.on(vertices, keep), pool.on(normals, keep), pool.neutral[keep]
    paths, chosen = _style(pack, person, vertices, rng, root, normal, rest, size, gather)
    s, p, _ = paths.shape
    t = np.linspace(0, 1, p, dtype=np.float32)
    clump_tone = np.exp(rng.normal(0, 0.16, int(chosen.max()) + 1))[chosen] * np.exp(rng.normal(0, 0.10, s))
    colour = np.array(hair.colour, np.float32) * clump_tone[:, None]
    if hair.grey > 0:
        grey = (rng.random(s) < hair.grey)[:, None]
        colour = np.where(grey, np.array([0.38, 0.37, 0.36]) * clump_tone[:, None], colour)
    fade = (0.72 + 0.5 * t)[None, :, None]
    centre = CENTRE + (vertices[pack.landmarks[27]] - pack.vertices[pack.landmarks[27]])
    outward = unit((paths - centre).reshape(-1, 3)).reshape(paths.shape)
    thin = WIDTH * wider * (1.15 if long else 0.85)
    width = thin * rng.uniform(0.7, 1.3, (s, 1)) * (1 - 0.55 * t[None] ** 2)
    opacity = np.broadcast_to(ramp(t, 1.06, 0.8), (s, p)) * 0.95
    round_ = hair.style in ("afro", "coils", "curly")
    shade = np.broadcast_to(0.55 + 0.45 * ramp(t, 0.0, 0.35), (s, p)).astype(np.float32)
    if round_:
        depth = np.linalg.norm(paths - centre, axis=2)
        rim = np.quantile(depth[:, ::4], 0.9)
        shade = shade * (0.45 + 0.55 * ramp(depth, rim * 0.82, rim)).astype(np.float32)
    return [
        Strands(
            "hair", paths, outward.astype(np.float32), (colour[:, None] * fade).astype(np.float32),
            width.astype(np.float32), opacity.astype(np.float32), np.full(s, 17, np.uint8), shade,
        )
    ]  # fmt: skip


def hat_edge(neutral: np.ndarray) -> np.ndarray:
    """Height of a hat's lower edge over neutral places: hair above it is under the hat."""
    return 7.62 - np.clip(0.9 - neutral[:, 2], 0, 2.2) * 0.30


def _style(
    pack: Pack, person: Person, vertices: np.ndarray, rng: np.random.Generator, root: np.ndarray, normal: np.ndarray,
    rest: np.ndarray, size: int, gather: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Paths of a haircut and the clump of each strand."""
    hair, n = person.hair, len(root)
    style = hair.style
    x, y, z = rest[:, 0], rest[:, 1], rest[:, 2]
    part = hair.part
    side = np.where(x + rng.normal(0, 0.012, n) > part * 0.45, 1.0, -1.0)
    side = np.where(y < 7.6, np.sign(x + 1e-6), side)
    zeros, ones = np.zeros(n), np.ones(n)
    top, front = ramp(y, 7.7, 8.1), ramp(z, 0.55, 1.0)
    length = hair.length * rng.uniform(0.88, 1.06, n)
    lift, weight, tied = 0.5 * hair.volume * ones, 0.9 * ones, zeros.copy()
    layer = (0.02 + 0.05 * hair.volume) * ones
    tie = np.array([0.0, 7.6, -0.75], np.float32)
    tight, pull = 9.0 + 8 * rng.random(), 0.55
    if style in ("crop", "bald"):
        whorl = rest - np.array([0.05, 8.45, -0.25])
        comb, lift, weight = _tangential(whorl, normal) * 0.8, 0.9 * ones, 0.05 * ones
        pull, layer = 0.1, 0.01 * ones
        length = length * (0.7 + 0.3 * top)
    elif style == "short":
        whorl = rest - np.array([0.1 * np.sign(part), 8.42, -0.3])
        comb = _tangential(whorl + np.array([0.25 * np.sign(part), -0.1, 0.25]), normal)
        brink = ramp(z, 0.8, 1.1) * ramp(y, 7.6, 7.75)  # the front hairline lies to the side
        aside = _tangential(np.stack([np.sign(part) * ones, -0.1 * ones, 0.35 * ones], axis=1), normal)
        comb = comb * (1 - brink[:, None]) + aside * brink[:, None]
        length = length * (0.55 + 0.45 * top) * (1 - 0.35 * brink)
        lift, weight = (0.35 + 0.9 * hair.volume) * (0.4 + 0.6 * top), 0.35 * ones
    elif style in ("side", "pixie"):
        over = np.stack([side * 1.0, -0.15 * ones, 0.5 * front - 0.35 * (1 - front)], axis=1)
        down = np.stack([0 * x, -1 * ones, -0.35 * ones], axis=1)
        comb = _tangential(over * top[:, None] + down * (1 - top)[:, None], normal)
        length = length * (0.4 + 0.6 * top) * (1.2 if style == "pixie" else 1)
        lift, weight = (0.2 + 0.9 * hair.volume) * (0.3 + 0.7 * top), 0.45 * ones
    elif style == "quiff":
        back = np.stack([0.15 * np.sign(part) * ones, 0.2 * front, -1 * ones], axis=1)
        down = np.stack([0 * x, -1 * ones, -0.6 * ones], axis=1)
        comb = _tangential(back * top[:, None] + down * (1 - top)[:, None], normal)
        length = length * (0.45 + 0.75 * top * (0.5 + 0.5 * front))
        lift, weight = (0.25 + 1.6 * hair.volume * front) * top, 0.15 * ones
    elif style == "tied":
        high = rng.random()
        tie = np.array([0.0, 7.1 + 0.95 * high, -0.72 + 0.12 * high], np.float32)
        comb = _tangential(tie - rest, normal)
        tied, lift, weight, pull = ones, 0.05 * ones, 1.0 * ones, 0.4
        length = length + np.linalg.norm(tie - rest, axis=1)
        layer = (0.012 + 0.03 * rng.random(n)) * ones
    elif style in ("afro", "coils"):
        comb = rng.normal(0, 0.25, (n, 3)).astype(np.float32)
        lift, weight, pull, tight = 2.5 * ones, 0.02 * ones, 0.35, 26.0
        layer = 0.01 * ones
        length = length * (0.6 + 0.4 * ramp(y, 6.9, 7.6)) * (1 - 0.35 * front * ramp(y, 8.0, 7.75))
    else:  # long, shoulder, bob, curly: falls from the parting
        over = np.stack([side * 1.1, -0.25 * ones, -0.45 * front], axis=1)
        comb = _tangential(over, normal)
        lift, weight = (0.1 + 0.4 * hair.volume) * ones, 1.1 * ones
        layer = 0.02 + (0.05 + 0.15 * hair.volume) * rng.random(n) ** 0.7
        if style == "bob":
            length = np.clip(length + (y - 7.6) * 1.0, 0.3, None)
        elif style == "shoulder":
            length = np.clip(length + (y - 7.6) * 0.8, 0.5, None)
    free = zeros.copy()
    if hair.fringe > 0:
        over_brow = (z > 0.75) & (abs(x) < 0.52) & (y > 7.7)
        down = np.stack([0.25 * side, -0.3 * ones, 1.0 * ones], axis=1)
        comb = np.where(over_brow[:, None], _tangential(down, normal) * 1.6, comb)
        length = np.where(over_brow, (0.12 + 0.42 * hair.fringe + (y - 7.8)) * rng.uniform(0.85, 1.08, n), length)
        free, layer = np.where(over_brow, 1.0, free), np.where(over_brow, 0.02 + 0.05 * rng.random(n), layer)
        lift, weight = np.where(over_brow, 0.1, lift), np.where(over_brow, 1.4, weight)
    flyaway = (rng.random(n) < 0.02) & (style not in ("crop", "bald", "afro", "coils"))
    layer = np.where(flyaway, layer + 0.04 * rng.random(n), layer)
    comb = comb + np.where(flyaway[:, None], rng.normal(0, 0.25, (n, 3)), rng.normal(0, 0.07, (n, 3)))
    shift = vertices[pack.landmarks[27]] - pack.vertices[pack.landmarks[27]]
    centre = (CENTRE + shift).astype(np.float32)
    table = skull_radius(pack, vertices, centre)
    jaw = vertices[pack.landmarks]
    face = np.array(
        [0.92 * abs(jaw[[0, 16], 0]).mean(), jaw[17:27, 1].max() + 0.32, jaw[0, 2] - 0.05, jaw[8, 1] - 0.15], np.float32
    )
    points = _points(style, size, hair.curl)
    paths = _grow(
        root, normal, comb.astype(np.float32), length.astype(np.float32), layer.astype(np.float32),
        lift.astype(np.float32), weight.astype(np.float32), free.astype(np.float32), tie + shift, tied.astype(np.float32),
        face, table, centre, points,
    )  # fmt: skip
    leaders = max(4, min(n // 8, int({"tied": 160}.get(style, 260) / gather)))
    pulls = np.where(flyaway, 0.0, np.clip(rng.normal(pull, 0.12, n) * (0.6 + 0.4 * gather), 0, 0.97)).astype(
        np.float32
    )
    sides = np.where(comb[:, :1] > 0, 0.5, -0.5) * (top[:, None] > 0.1)
    apart = rest + sides * np.array([1.0, 0, 0])  # the two sides of a parting form no common lock
    chosen = _clump(paths, apart.astype(np.float32), leaders, pulls)
    wave = hair.curl if style not in ("crop", "bald") or hair.curl > 0.5 else 0.0
    if wave > 0.08 and style != "tied":
        paths = _curled(paths, rng, wave, chosen, tight if wave > 0.45 else 5.0)
    elif style == "tied" and wave > 0.3:
        paths = _curled(paths, rng, wave * 0.4, chosen, 9.0)
    wisp = rng.normal(0, 1, (n, 3, 3)).astype(np.float32)
    t = np.linspace(0, 1, points, dtype=np.float32)
    bend = np.stack([t, np.sin(t * 4), np.sin(t * 9 + 1)], axis=0)
    stray = np.where(flyaway, 0.05, 0.012) * np.minimum(1, length * 1.2)
    paths = paths + np.einsum("skc,kp->spc", wisp, bend).astype(np.float32) * (stray[:, None] * t[None])[
        ..., None
    ].astype(np.float32)
    return paths.astype(np.float32), chosen


def _points(style: str, size: int, curl: float) -> int:
    if style in ("crop", "bald"):
        return 4
    if style in ("afro", "coils", "curly"):
        return 22 if size > 128 else 14
    return (14 if size > 128 else 10) if style in ("short", "side", "quiff", "pixie") else (20 if size > 128 else 13)


def beard_of(pack: Pack, person: Person, vertices: np.ndarray, size: int) -> list[Strands]:
    """A beard with length, on an unposed mesh."""
    beard = person.beard
    if beard.length <= 0:
        return []
    rng = np.random.default_rng([person.seed, person.number, 22])
    pool = roots_of(pack, "beard")
    keep = np.nonzero(beard_area(pool.neutral, beard) > 0.1 + 0.8 * rng.random(len(pool.neutral)))[0]
    n, wider = _count(size, 0.75)
    keep = keep[:n]
    if len(keep) < 4:
        return []
    normals = vertex_normals(vertices, pack.body_triangles)
    root, normal, rest = pool.on(vertices, keep), pool.on(normals, keep), pool.neutral[keep]
    s, p = len(keep), 5
    x, y = rest[:, 0], rest[:, 1]
    lip = y > 6.66
    down = np.stack(
        [np.sign(x) * np.where(lip & (abs(x) < 0.3), 0.75, 0.05), np.full(s, -1.0), np.full(s, 0.1)], axis=1
    )
    along = _tangential(down, normal) + normal * (0.22 + 0.25 * rng.random((s, 1)) * (1 + 3 * beard.length))
    along = along + rng.normal(0, 0.16 + 0.5 * (person.hair.curl > 0.7), (s, 3))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    length = beard.length * rng.uniform(0.6, 1.1, s) * np.where(lip, 0.6, 1) * (0.55 + 0.45 * ramp(y, 7.0, 6.5))
    length = np.minimum(length, np.where(lip & (abs(x) < 0.25), 0.09, 9))
    t = np.linspace(0, 1, p)
    paths = root[:, None] + along[:, None] * (length[:, None] * t)[..., None]
    paths[:, :, 1] -= (length[:, None] * t**2) * 0.25
    wave = rng.normal(0, 0.012, (s, p, 3)) * t[None, :, None] * (1 + person.hair.curl)
    colour = np.array(person.hair.colour, np.float32) * np.exp(rng.normal(0, 0.22, (s, 1)))
    if person.hair.grey > 0 or person.age > 50:
        share = max(person.hair.grey, 0.25)
        colour = np.where(rng.random((s, 1)) < share, np.array([0.36, 0.35, 0.34]), colour)
    return [_bunch("beard", paths + wave, normal, colour, (0.0085 + 0.006 * beard.length) * wider, 1, rng)]


def brows_of(pack: Pack, person: Person, vertices: np.ndarray, size: int) -> list[Strands]:
    """Both brows, on an unposed mesh."""
    rng = np.random.default_rng([person.seed, person.number, 23])
    pool = roots_of(pack, "brow")
    thick, high, arch = person.brow
    along, above = brow_frame(pool.neutral)
    shape = above - high - 0.02 * arch * np.sin(np.pi * np.clip(along * 1.1 - 0.1, 0, 1))
    half = brow_width(along, thick)
    inner = 0.085 + 0.05 * rng.random(len(along))
    keep = np.nonzero((abs(shape) < half * rng.uniform(0.3, 1.0, len(along))) & (abs(pool.neutral[:, 0]) > inner))[0]
    n, wider = _count(size, 0.16)
    keep = keep[:n]
    if len(keep) < 4:
        return []
    normals = vertex_normals(vertices, pack.body_triangles)
    root, normal, rest = pool.on(vertices, keep), pool.on(normals, keep), pool.neutral[keep]
    s, p = len(keep), 4
    a, w = along[keep], shape[keep] / np.maximum(half[keep], 1e-3)
    rise = np.interp(a, [0, 0.2, 0.5, 1], [1.1, 0.55, 0.15, -0.45]) - 0.35 * w
    direction = np.stack([np.sign(rest[:, 0]), rise, 0 * a], axis=1) + rng.normal(0, 0.13, (s, 3))
    direction = _tangential(direction, normal) + normal * 0.14
    length = (0.085 + 0.02 * rng.random(s)) * np.interp(a, [0, 0.3, 1], [0.75, 1.0, 0.8]) * (0.7 + 0.3 * thick)
    t = np.linspace(0, 1, p)
    paths = root[:, None] + direction[:, None] * (length[:, None] * t)[..., None] + normal[:, None] * 0.004
    paths[:, :, 1] -= (length[:, None] * t**2) * np.interp(a, [0, 1], [0.1, 0.25])[:, None]
    base = np.array(person.hair.colour, np.float32)
    darker = 0.42 if person.hair.colour_name in ("blond", "light brown", "red") else 0.9
    colour = np.minimum(base * darker, 0.25) * np.exp(rng.normal(0, 0.2, (s, 1)))
    bunch = _bunch("brow", paths, normal, colour, 0.0052 * wider, 0, rng)
    bunch.label = np.where(rest[:, 0] > 0, 2, 3).astype(np.uint8)
    bunch.opacity = bunch.opacity * F(0.42 + 0.2 * min(thick, 1.2))
    return [bunch]


def lashes_of(pack: Pack, person: Person, vertices: np.ndarray, size: int) -> list[Strands]:
    """Upper and lower lashes of both eyes, on an unposed mesh."""
    rng = np.random.default_rng([person.seed, person.number, 24])
    out = []
    for side, sign in (("l", 1.0), ("r", -1.0)):
        eye = pack.joint(vertices, f"{side}-eye")
        for row, lower in (("2", False), ("1", True)):
            ids = pack.groups[f"helper-{side}-eyelashes-{row}"]
            line = _inner_row(pack, ids, side, vertices)
            n = int((46 if not lower else 26) * min(1.0, 0.35 + size / 256))
            at = np.sort(rng.uniform(0.03, 0.99, n))
            x = np.linspace(0, 1, len(line))
            root = np.stack([np.interp(at, x, line[:, c]) for c in range(3)], axis=1)
            away = root - eye
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            fan = np.stack([sign * (at - 0.35) * 1.1, np.full(n, -0.35 if lower else 0.1), np.full(n, 0.3)], axis=1)
            direction = away + fan + rng.normal(0, 0.08, (n, 3))
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            length = (0.038 if lower else 0.075) * person.lashes * (0.6 + 0.5 * at) * rng.uniform(0.8, 1.1, n)
            t = np.linspace(0, 1, 4)
            paths = root[:, None] + direction[:, None] * (length[:, None] * t)[..., None]
            paths[:, :, 1] += (length[:, None] * t**2) * (-0.15 if lower else 0.75)
            strong = person.lashes * (0.35 if lower else 1.0)
            colour = np.minimum(np.array(person.hair.colour) * 0.25, 0.03)[None] * np.ones((n, 1))
            bunch = _bunch(
                "lash", paths, away, colour, 0.0060 * (2.2 if size <= 64 else 1.3 if size <= 128 else 1), 0, rng
            )
            bunch.opacity = bunch.opacity * F(min(0.9, 0.55 * strong + 0.2))
            out.append(bunch)
    return out


def _inner_row(pack: Pack, ids: np.ndarray, side: str, vertices: np.ndarray) -> np.ndarray:
    """The lid's edge: the helper vertices nearest the eye's middle, from inner to outer corner [n, 3]."""
    rest = pack.vertices[ids]
    eye = pack.joint(pack.vertices, f"{side}-eye")
    near = np.argsort(np.linalg.norm(rest - eye, axis=1))[:18]
    order = near[np.argsort(abs(rest[near, 0]))]
    line = vertices[ids[order]]
    kernel = np.ones(5) / 5
    padded = np.concatenate([line[:1].repeat(2, 0), line, line[-1:].repeat(2, 0)])
    return np.stack([np.convolve(padded[:, c], kernel, "valid") for c in range(3)], axis=1)


def _bunch(
    kind: str,
    paths: np.ndarray,
    normal: np.ndarray,
    colour: np.ndarray,
    width: float,
    label: int,
    rng: np.random.Generator,
) -> Strands:
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
