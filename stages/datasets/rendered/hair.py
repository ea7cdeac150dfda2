"""Hair by program: strands that grow from the skin, fall over the skull, curl, clump and stand off it.

Hair of the head, beards, brows and lashes are all strands: paths of points that the rasteriser blends back to front.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

from stages.datasets.rendered.colour import ramp
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.person import Hair, Person
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
def _radius(table: np.ndarray, dx: float, dy: float, dz: float) -> float:
    rows, columns = table.shape
    y = np.arccos(min(1.0, max(-1.0, dy))) / F(np.pi) * rows - F(0.5)
    x = (np.arctan2(dx, dz) / F(2 * np.pi) + F(0.5)) * columns - F(0.5)
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    fy, fx = F(y - y0), F(x - x0)
    ya, yb = min(max(y0, 0), rows - 1), min(max(y0 + 1, 0), rows - 1)
    xa, xb = x0 % columns, (x0 + 1) % columns
    upper = (1 - fx) * table[ya, xa] + fx * table[ya, xb]
    return (1 - fy) * upper + fy * ((1 - fx) * table[yb, xa] + fx * table[yb, xb])


@njit(cache=True)
def _grow(
    root: np.ndarray, normal: np.ndarray, comb: np.ndarray, length: np.ndarray, layer: np.ndarray, lift: np.ndarray,
    weight: np.ndarray, free: np.ndarray, tie: np.ndarray, tied: bool, face: np.ndarray, table: np.ndarray,
    centre: np.ndarray, points: int,
) -> np.ndarray:  # fmt: skip
    """Paths [S, P, 3]: combed near the root, then falling, never inside the skull nor across the face.

    comb, lift: direction and strength near the root; weight: pull of gravity; free: 1 lets a strand over the face;
    tie [3], tied: whether strands first run to the tie; face: half width, top, depth, bottom of the face to keep clear.
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
        waiting = tied
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
                    dx, dy, dz = F(0), F(0.7), F(-1.4)
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
def _clump(paths: np.ndarray, neutral: np.ndarray, leaders: int, pull: np.ndarray) -> np.ndarray:
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
    x, y, z = rest.T
    side = np.where(x + rng.normal(0, 0.012, len(x)) > hair.part * 0.45, 1.0, -1.0)
    side = np.where(y < 7.6, np.sign(x + 1e-6), side)
    growth = Growth(root, normal, rest, side, ramp(y, 7.7, 8.1), ramp(z, 0.55, 1.0))
    paths, lock = _style(pack, person, vertices, rng, growth, size, gather)
    centre = CENTRE + (vertices[pack.landmarks[27]] - pack.vertices[pack.landmarks[27]])
    return [_tresses(hair, paths, lock, centre, WIDTH * wider * (1.15 if long else 0.85), rng)]


def _tresses(
    hair: Hair, paths: np.ndarray, lock: np.ndarray, centre: np.ndarray, wide: float, rng: np.random.Generator
) -> Strands:
    """Strands of a haircut: colour by lock and strand, thinner and lighter to the tip, darker inside round shapes."""
    s, p, _ = paths.shape
    t = np.linspace(0, 1, p, dtype=np.float32)
    tone = np.exp(rng.normal(0, 0.16, int(lock.max()) + 1))[lock] * np.exp(rng.normal(0, 0.10, s))
    colour = np.array(hair.colour, np.float32) * tone[:, None]
    if hair.grey > 0:
        grey = rng.random((s, 1)) < hair.grey
        colour = np.where(grey, np.array([0.27, 0.26, 0.25]) * tone[:, None], colour)
    shade = np.broadcast_to(0.55 + 0.45 * ramp(t, 0.0, 0.35), (s, p))
    if hair.style in ("afro", "coils", "curly"):
        depth = np.linalg.norm(paths - centre, axis=2)
        rim = float(np.quantile(depth[:, ::4], 0.9))
        shade = shade * (0.45 + 0.55 * ramp(depth, rim * 0.82, rim))
    return Strands(
        kind="hair",
        points=paths,
        outward=unit((paths - centre).astype(np.float32).reshape(-1, 3)).reshape(paths.shape),
        colour=(colour[:, None] * (0.72 + 0.5 * t)[None, :, None]).astype(np.float32),
        width=(wide * rng.uniform(0.7, 1.3, (s, 1)) * (1 - 0.55 * t[None] ** 2)).astype(np.float32),
        opacity=np.broadcast_to(ramp(t, 1.06, 0.8) * F(0.95), (s, p)).astype(np.float32),
        label=np.full(s, 17, np.uint8),
        shade=shade.astype(np.float32),
    )


def hat_edge(neutral: np.ndarray) -> np.ndarray:
    """Height of a hat's lower edge over neutral places: hair above it is under the hat."""
    return 7.62 - np.clip(0.9 - neutral[:, 2], 0, 2.2) * 0.30


@dataclass
class Comb:
    """How the strands of a head are combed, one value a strand. n strands."""

    comb: np.ndarray  # [n, 3]: direction near the root, its length the strength
    length: np.ndarray  # decimetres
    lift: np.ndarray  # how far the root stands up
    weight: np.ndarray  # pull of gravity
    layer: np.ndarray  # decimetres off the skull
    pull: float = 0.55  # of a lock's middle
    turns: float = 12.0  # radians of curl a decimetre
    free: np.ndarray = field(default_factory=lambda: np.zeros(0))  # 1: may fall over the face
    tie: np.ndarray | None = None  # [3]: where strands are tied


@dataclass(frozen=True)
class Growth:
    """Where the strands of a head grow from. n roots."""

    root: np.ndarray  # [n, 3] on the person's mesh
    normal: np.ndarray  # [n, 3]
    rest: np.ndarray  # [n, 3] on the neutral mesh
    side: np.ndarray  # [n]: 1 or -1, the side of the parting
    top: np.ndarray  # [n]: 1 on the top of the head
    front: np.ndarray  # [n]: 1 at the forehead

    def along(self, x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
        """Unit directions along the skin, nearest to the given ones."""
        n = len(self.root)
        return _tangential(np.stack([np.broadcast_to(np.asarray(a, float), n) for a in (x, y, z)], axis=1), self.normal)


def _cropped(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    n = len(at.root)
    comb = _tangential(at.rest - np.array([0.05, 8.45, -0.25]), at.normal) * 0.8
    return Comb(comb, 0.7 + 0.3 * at.top, np.full(n, 0.9), np.full(n, 0.05), np.full(n, 0.01), pull=0.1)


def _short(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    """From a whorl at the crown; the front hairline lies to the side."""
    away, n = np.sign(hair.part), len(at.root)
    comb = _tangential(at.rest - np.array([0.35 * away, 8.52, -0.55]), at.normal)
    brink = ramp(at.rest[:, 2], 0.8, 1.1) * ramp(at.rest[:, 1], 7.6, 7.75)
    comb = comb * (1 - brink[:, None]) + at.along(away, -0.1, 0.35) * brink[:, None]
    lift = (0.35 + 0.9 * hair.volume) * (0.4 + 0.6 * at.top)
    length = (0.55 + 0.45 * at.top) * (1 - 0.35 * brink)
    return Comb(comb, length, lift, np.full(n, 0.35), np.full(n, 0.02 + 0.05 * hair.volume))


def _swept(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    """Long on top, combed from the parting; short at the sides."""
    n, top = len(at.root), at.top
    over = at.along(at.side, -0.15, 0.85 * at.front - 0.35)
    comb = over * top[:, None] + at.along(0, -1, -0.35) * (1 - top)[:, None]
    length = (0.4 + 0.6 * top) * (1.2 if hair.style == "pixie" else 1.0)
    lift = (0.2 + 0.9 * hair.volume) * (0.3 + 0.7 * top)
    return Comb(comb, length, lift, np.full(n, 0.45), np.full(n, 0.02 + 0.05 * hair.volume))


def _quiff(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    n, top = len(at.root), at.top
    back = at.along(0.15 * np.sign(hair.part), 0.2 * at.front, -1)
    comb = back * top[:, None] + at.along(0, -1, -0.6) * (1 - top)[:, None]
    length = 0.45 + 0.75 * top * (0.5 + 0.5 * at.front)
    lift = (0.25 + 1.6 * hair.volume * at.front) * top
    return Comb(comb, length, lift, np.full(n, 0.15), np.full(n, 0.02 + 0.05 * hair.volume))


def _tied(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    n, high = len(at.root), rng.random()
    tie = np.array([0.0, 7.2 + 1.15 * high, -0.74 + 0.35 * high**2], np.float32)
    length = 1 + np.linalg.norm(tie - at.rest, axis=1) / hair.length
    layer = 0.02 + 0.06 * rng.random(n) ** 1.5
    lift = np.full(n, 0.25 + 0.4 * hair.volume)
    return Comb(_tangential(tie - at.rest, at.normal), length, lift, np.ones(n), layer, pull=0.45, tie=tie)


def _coiled(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    n, y = len(at.root), at.rest[:, 1]
    comb = rng.normal(0, 0.25, (n, 3))
    length = (0.6 + 0.4 * ramp(y, 6.9, 7.6)) * (1 - 0.35 * at.front * ramp(y, 8.0, 7.75))
    return Comb(comb, length, np.full(n, 2.5), np.full(n, 0.02), np.full(n, 0.01), pull=0.35, turns=26.0)


def _falling(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    """Falls from the parting, to one height all around when it is cut to the jaw or the shoulder."""
    n, y = len(at.root), at.rest[:, 1]
    comb = at.along(1.1 * at.side, -0.25, -0.45 * at.front)
    cut = {"bob": (1.0, 0.3), "shoulder": (0.8, 0.5)}.get(hair.style, (0.0, 0.3))
    length = np.maximum(hair.length + (y - 7.6) * cut[0], cut[1]) / hair.length
    layer = 0.02 + (0.05 + 0.15 * hair.volume) * rng.random(n) ** 0.7
    return Comb(comb, length, np.full(n, 0.1 + 0.4 * hair.volume), np.full(n, 1.1), layer)


CUTS = {
    "crop": _cropped, "bald": _cropped, "short": _short, "side": _swept, "pixie": _swept, "quiff": _quiff,
    "tied": _tied, "afro": _coiled, "coils": _coiled, "long": _falling, "bob": _falling, "shoulder": _falling,
    "curly": _falling,
}  # fmt: skip
STIFF = ("crop", "bald", "afro", "coils")  # cuts without flyaways


def _fringe(hair: Hair, at: Growth, combed: Comb, rng: np.random.Generator) -> None:
    """Comb the hair above the forehead down over it."""
    x, y, z = at.rest.T
    on = (z > 0.75) & (abs(x) < 0.52) & (y > 7.7)
    n = len(x)
    combed.comb = np.where(on[:, None], at.along(0.25 * at.side, -0.3, 1.0) * 1.6, combed.comb)
    over = (0.12 + 0.42 * hair.fringe + (y - 7.8)) * rng.uniform(0.85, 1.08, n)
    combed.length = np.where(on, over, combed.length)
    combed.free = np.where(on, 1.0, 0.0)
    combed.layer = np.where(on, 0.02 + 0.05 * rng.random(n), combed.layer)
    combed.lift, combed.weight = np.where(on, 0.1, combed.lift), np.where(on, 1.4, combed.weight)


def _style(
    pack: Pack, person: Person, vertices: np.ndarray, rng: np.random.Generator, at: Growth, size: int, gather: float
) -> tuple[np.ndarray, np.ndarray]:
    """Paths [n, P, 3] of a haircut and the lock of each strand [n]."""
    hair, n = person.hair, len(at.root)
    combed = CUTS[hair.style](hair, at, rng)
    combed.length = combed.length * hair.length * rng.uniform(0.88, 1.06, n)
    combed.free = np.zeros(n)
    if hair.fringe > 0:
        _fringe(hair, at, combed, rng)
    flyaway = (rng.random(n) < 0.02) & np.full(n, hair.style not in STIFF)
    combed.layer = np.where(flyaway, combed.layer + 0.04 * rng.random(n), combed.layer)
    combed.comb = combed.comb + rng.normal(0, 1, (n, 3)) * np.where(flyaway, 0.25, 0.07)[:, None]

    # the skull it lies on, and the face it leaves free: half width, top, depth, bottom
    shift = vertices[pack.landmarks[27]] - pack.vertices[pack.landmarks[27]]
    centre, marks = (CENTRE + shift).astype(np.float32), vertices[pack.landmarks]
    wide = 0.92 * abs(marks[[0, 16], 0]).mean()
    face = np.array([wide, marks[17:27, 1].max() + 0.32, marks[0, 2] - 0.05, marks[8, 1] - 0.15], np.float32)
    tie = (combed.tie if combed.tie is not None else np.zeros(3)) + shift
    comb, length, layer, lift, weight, free = (
        np.asarray(a, np.float32)
        for a in (combed.comb, combed.length, combed.layer, combed.lift, combed.weight, combed.free)
    )
    points = _points(hair.style, size)
    paths = _grow(
        at.root, at.normal, comb, length, layer, lift, weight, free, tie.astype(np.float32), combed.tie is not None,
        face, skull_radius(pack, vertices, centre), centre, points,
    )  # fmt: skip

    # locks: the two sides of a parting form none in common
    leaders = max(4, min(n // 8, int((160 if hair.style == "tied" else 260) / gather)))
    pulls = np.clip(rng.normal(combed.pull, 0.12, n) * (0.6 + 0.4 * gather), 0, 0.97)
    pulls = np.where(flyaway, 0.0, pulls).astype(np.float32)
    sides = np.where(combed.comb[:, :1] > 0, 0.5, -0.5) * (at.top[:, None] > 0.1)
    lock = _clump(paths, (at.rest + sides * np.array([1.0, 0, 0])).astype(np.float32), leaders, pulls)
    return _waved(hair, paths, lock, combed, flyaway, rng), lock


def _waved(
    hair: Hair, paths: np.ndarray, lock: np.ndarray, combed: Comb, flyaway: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Paths with the hair's curl, and strays of their own."""
    n, points, _ = paths.shape
    wave = hair.curl if hair.style not in ("crop", "bald") or hair.curl > 0.5 else 0.0
    if hair.style == "tied":
        wave *= 0.4
    if wave > 0.08:
        turns = combed.turns if hair.style in ("afro", "coils") else 9 + 8 * rng.random()
        paths = _curled(paths, rng, wave, lock, turns if wave > 0.45 else 5.0)
    wisp = rng.normal(0, 1, (n, 3, 3)).astype(np.float32)
    t = np.linspace(0, 1, points, dtype=np.float32)
    bend = np.stack([t, np.sin(t * 4), np.sin(t * 9 + 1)], axis=0)
    stray = (np.where(flyaway, 0.05, 0.012) * np.minimum(1, combed.length * 1.2)).astype(np.float32)
    strays = np.einsum("skc,kp->spc", wisp, bend) * (stray[:, None] * t[None])[..., None]
    return (paths + strays).astype(np.float32)


def _points(style: str, size: int) -> int:
    """Points of a strand: as many as its bends need."""
    if style in ("crop", "bald"):
        return 4
    if style in ("afro", "coils", "curly"):
        return 22 if size > 128 else 14
    if style in ("short", "side", "quiff", "pixie"):
        return 14 if size > 128 else 10
    return 20 if size > 128 else 13


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
    if person.hair.colour_name in ("grey", "white"):
        darker = 0.4
    colour = np.minimum(base * darker, 0.16) * np.exp(rng.normal(0, 0.2, (s, 1)))
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
