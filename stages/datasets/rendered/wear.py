"""Things worn, made by program on the unposed mesh: glasses, beanie, cap, headscarf, earrings, necklace."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.datasets.rendered.hair.strands import CENTRE, skull_radius
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.person import Person

Mesh = tuple[np.ndarray, np.ndarray]  # vertices [n, 3], triangles [t, 3]
Colour = tuple[float, float, float]
Thing = tuple[str, np.ndarray, np.ndarray, int, Colour]  # kind, vertices, triangles, face region, colour
FRAMES: tuple[Colour, ...] = (
    (0.01, 0.01, 0.012),
    (0.06, 0.022, 0.01),
    (0.26, 0.21, 0.13),
    (0.10, 0.10, 0.11),
    (0.02, 0.02, 0.05),
)
METALS: tuple[Colour, ...] = ((0.75, 0.55, 0.22), (0.72, 0.71, 0.69), (0.78, 0.52, 0.42))
LENS = {
    "round": (0.40, 0.40, 2.0), "square": (0.41, 0.32, 3.6), "wide": (0.44, 0.34, 2.6), "half": (0.40, 0.26, 3.0),
    "plain": (0.41, 0.33, 3.0),
}  # fmt: skip
PLAIN = 225  # the seed of plain glasses: a thick black frame, clear lenses


def tube(path: np.ndarray, radius: float, sides: int = 7, closed: bool = True) -> Mesh:
    """A bent pipe along points [n, 3]."""
    path = np.asarray(path, np.float32)
    n = len(path)
    d = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    d = d / (np.linalg.norm(d, axis=1, keepdims=True) + 1e-9)
    reference = np.array([0, 0, 1], np.float32) if abs(d[:, 2]).mean() < 0.7 else np.array([0, 1, 0], np.float32)
    a = np.cross(d, reference)
    a /= np.linalg.norm(a, axis=1, keepdims=True) + 1e-9
    b = np.cross(d, a)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None, :, None]
    vertices = path[:, None] + radius * (np.cos(angle) * a[:, None] + np.sin(angle) * b[:, None])
    i, k = np.meshgrid(np.arange(n if closed else n - 1), np.arange(sides), indexing="ij")
    j, l = (i + 1) % n, (k + 1) % sides  # noqa: E741
    one = np.stack([i * sides + k, j * sides + k, j * sides + l], axis=-1).reshape(-1, 3)
    two = np.stack([i * sides + k, j * sides + l, i * sides + l], axis=-1).reshape(-1, 3)
    return vertices.reshape(-1, 3).astype(np.float32), np.concatenate([one, two]).astype(np.int32)


def joined(meshes: list[Mesh]) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in meshes])
    triangles = [t + start for (_, t), start in zip(meshes, starts, strict=False)]
    return np.concatenate([v for v, _ in meshes]), np.concatenate(triangles)


def ball(centre: np.ndarray, radius: float) -> Mesh:
    """A small sphere."""
    rows, columns = 7, 10
    polar, angle = np.meshgrid(
        np.linspace(0.01, np.pi - 0.01, rows), np.linspace(0, 2 * np.pi, columns, endpoint=False), indexing="ij"
    )
    at = np.stack([np.sin(polar) * np.cos(angle), np.cos(polar), np.sin(polar) * np.sin(angle)], axis=-1).reshape(-1, 3)
    i, k = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    n = (k + 1) % columns
    a, b, c, d = i * columns + k, (i + 1) * columns + k, (i + 1) * columns + n, i * columns + n
    triangles = np.concatenate([np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)])
    return (centre + radius * at).astype(np.float32), triangles.astype(np.int32)


def worn(pack: Pack, person: Person, vertices: np.ndarray) -> Iterator[Thing]:
    """All that a person wears and no piece of the pack is."""
    rng = np.random.default_rng([person.seed, person.number, 31])
    metal = METALS[int(rng.integers(len(METALS)))]
    if person.glasses != "none":
        yield from glasses(pack, person, vertices, rng)
    if person.hat in ("beanie", "cap"):
        for mesh in cap(pack, vertices, person.hat == "cap"):
            yield "hat", *mesh, 18, person.hat_colour
    if person.hat == "headscarf":
        yield "hat", *headscarf(pack, vertices, rng), 18, person.hat_colour
    if person.earrings != "none" and person.hat != "headscarf":
        for side in (7, 8):
            yield "metal", *earring(pack, vertices, person.earrings, side, rng), 9, metal
    if person.necklace:
        yield "metal", *necklace(pack, vertices, rng), 15, metal


def _surface_depth(pack: Pack, vertices: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Depth z of the face in front at places (x, y) [n, 2]."""
    head = vertices[pack.body.source]
    head = head[(pack.headness[pack.body.source] > 0.9) & (head[:, 2] > 0.2)]
    d = ((head[None, :, :2] - xy[:, None]) ** 2).sum(axis=2)
    near = d < 0.07**2
    return np.where(near.any(axis=1), np.where(near, head[None, :, 2], -9).max(axis=1), -9)


def glasses(pack: Pack, person: Person, vertices: np.ndarray, rng: np.random.Generator) -> Iterator[Thing]:
    """A frame that lies just before brows, cheeks and nose, with temples to the ears; some are sunglasses."""
    left, right = pack.joint(vertices, "l-eye"), pack.joint(vertices, "r-eye")
    apart = abs(left[0] - right[0])
    rng = np.random.default_rng(PLAIN) if person.glasses == "plain" else rng
    wide, high, power = LENS[person.glasses]
    wide, high = apart * wide * rng.uniform(0.95, 1.08), apart * high * rng.uniform(0.92, 1.1)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    cosine, sine = (np.sign(f) * abs(f) ** (2 / power) for f in (np.cos(angle), np.sin(angle)))
    radius = float(rng.uniform(0.009, 0.02) * (1.5 if person.glasses == "square" else 1))
    rings = []
    for eye, sign in ((left, 1.0), (right, -1.0)):
        x = eye[0] * 1.04 + wide * cosine * sign
        rings.append(np.stack([x, eye[1] - high * 0.12 + high * sine, 0 * x], axis=1))

    # as near as face and curve allow
    curve = 0.30
    flat = np.concatenate(rings)
    depth = _surface_depth(pack, vertices, flat[:, :2])
    front = float((depth + curve * np.clip(abs(flat[:, 0]) - 0.15, 0, 1) ** 1.7).max()) + radius * 0.6 - 0.015
    for ring in rings:
        ring[:, 2] = front - curve * np.clip(abs(ring[:, 0]) - 0.15, 0, 1) ** 1.7

    # temples to the ears, a bridge over the nose
    pipes = []
    for ring, sign, label in zip(rings, (1.0, -1.0), (7, 8), strict=True):
        pipes.append(tube(ring, radius))
        ears = vertices[pack.body.source[np.unique(pack.body.triangles[pack.triangle_class == label])]]
        top = ears[ears[:, 1] > np.quantile(ears[:, 1], 0.85)].mean(axis=0)
        hinge = ring[np.argmax(ring[:, 0] * sign)] + np.array([0.0, high * 0.3, -0.005])
        far = np.array([top[0] - sign * 0.06, top[1] - 0.02, top[2] - 0.1])
        bend = np.array([top[0] - sign * 0.05, top[1] + 0.01, top[2] + 0.2])
        bend[0] = sign * max(abs(bend[0]), abs(hinge[0]) - 0.02)
        pipes.append(tube(np.array([hinge, hinge + [0.012 * sign, 0, -0.05], bend, far]), radius * 0.85, 7, False))
    inner = [ring[np.argmin(ring[:, 0] * sign)] for ring, sign in zip(rings, (1.0, -1.0), strict=True)]
    middle = np.array([0, inner[0][1] + high * 0.3, max(inner[0][2], front) + 0.02])
    lift = np.array([0, high * 0.18, 0])
    pipes.append(tube(np.array([inner[0] + lift, middle, inner[1] + lift]), radius * 0.9, 7, False))

    mesh = joined(pipes)
    yield "frame", *mesh, 6, FRAMES[int(rng.integers(len(FRAMES)))]
    if rng.random() < 0.22:  # sunglasses
        k = np.arange(40)
        fan = np.stack([0 * k, k, (k + 1) % 40], axis=1)[1:-1]
        for ring in rings:
            yield "lens", ring.astype(np.float32), fan.astype(np.int32), 6, (0.012, 0.012, 0.014)


def _skull(pack: Pack, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The skull's radius by direction, and its centre."""
    centre = (CENTRE + (vertices[pack.landmarks[27]] - pack.vertices[pack.landmarks[27]])).astype(np.float32)
    return skull_radius(pack, vertices, centre), centre


def _reach(table: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Radius of the skull in unit directions [n, 3]."""
    rows, columns = table.shape
    y = np.arccos(np.clip(directions[:, 1], -1, 1)) / np.pi * rows - 0.5
    x = (np.arctan2(directions[:, 0], directions[:, 2]) / (2 * np.pi) + 0.5) * columns - 0.5
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = y - y0, x - x0
    ya, yb = np.clip(y0, 0, rows - 1), np.clip(y0 + 1, 0, rows - 1)
    upper = (1 - fx) * table[ya, x0 % columns] + fx * table[ya, (x0 + 1) % columns]
    return (1 - fy) * upper + fy * ((1 - fx) * table[yb, x0 % columns] + fx * table[yb, (x0 + 1) % columns])


def _sheet(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Triangles of a grid of points, `columns` around."""
    i, k = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    n = (k + 1) % columns
    a, b, c, d = i * columns + k, (i + 1) * columns + k, (i + 1) * columns + n, i * columns + n
    return np.concatenate([np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)]).astype(
        np.int32
    )


def _dome(pack: Pack, vertices: np.ndarray, off: float, lift: float) -> tuple[np.ndarray, np.ndarray]:
    """A cap's crown: points [rows, 64, 3] from the edge to the top, and the edge."""
    table, centre = _skull(pack, vertices)
    azimuth = np.linspace(-np.pi, np.pi, 64, endpoint=False)
    # the edge runs from the forehead over the ears to the nape
    low = np.interp(abs(azimuth), [0, 0.7, 1.6, 2.4, np.pi], [0.24, 0.18, 0.06, -0.18, -0.28])
    rings = []
    for t in np.linspace(0, 1, 14):
        height = np.arcsin(np.clip(low, -1, 1)) * (1 - t) + (np.pi / 2 - 0.001) * t
        d = np.stack([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)], axis=1)
        gap = 0.03 + off * np.sin(np.pi / 2 * min(1.0, t * 3))
        rings.append(centre + d * (_reach(table, d) + gap)[:, None] + np.array([0, lift * t, 0]))
    grid = np.array(rings)
    for _ in range(2):
        grid[:, :] = (np.roll(grid, 1, 1) + 2 * grid + np.roll(grid, -1, 1)) / 4
    return grid, grid[0]


def cap(pack: Pack, vertices: np.ndarray, visor: bool) -> list[Mesh]:
    """A beanie with a rolled edge, or a cap with a visor."""
    grid, rim = _dome(pack, vertices, 0.045 if visor else 0.06, 0.03 if visor else 0.07)
    rows, columns = grid.shape[:2]
    meshes = [(grid.reshape(-1, 3).astype(np.float32), _sheet(rows, columns, True))]
    if not visor:
        return [*meshes, tube(grid[1], 0.06, 10), tube(grid[2] * 0.5 + grid[1] * 0.5, 0.06, 10)]

    # the visor, thick as a board
    front = rim[abs(np.linspace(-np.pi, np.pi, 64, endpoint=False)) < 0.95]
    t = np.linspace(-1, 1, len(front))
    bulge = (1 - t**2)[:, None] ** 0.7
    brim = np.array([front + bulge * s * np.array([0, -0.13 - 0.08 * s, 0.72]) for s in np.linspace(0, 1, 6)])
    under = brim - np.array([0, 0.03, 0])
    strip = _sheet(6, len(front), False)
    meshes += [
        (brim.reshape(-1, 3).astype(np.float32), strip),
        (under.reshape(-1, 3).astype(np.float32), strip[:, ::-1]),
    ]
    return [*meshes, tube(brim[-1] - [0, 0.015, 0], 0.02, 6, False), tube(rim, 0.018, 6)]


EAR = np.array([0.84, -0.42, 0.16]) / np.linalg.norm([0.84, -0.42, 0.16])  # from the skull's centre


def headscarf(pack: Pack, vertices: np.ndarray, rng: np.random.Generator) -> Mesh:
    """A scarf around face and neck: from an oval opening over the head to its back, and down to the shoulders."""
    table, centre = _skull(pack, vertices)
    floor = float(np.quantile(table[table > 0], 0.12))
    table = np.maximum(table, floor)

    # the opening: an oval around the face
    n, rows = 72, 22
    around = np.linspace(-np.pi, np.pi, n, endpoint=False)  # 0 at the chin
    marks = vertices[pack.landmarks]
    wide, brow, chin = abs(marks[[1, 15], 0]).mean() * 0.90, marks[19:25, 1].max() + 0.28, marks[8, 1] - 0.02
    middle, high = (brow + chin) / 2, (brow - chin) / 2
    edge = np.stack([wide * np.sin(around), middle - high * np.cos(around)], axis=1)
    forward = np.interp(abs(around), [0, 0.7, 1.5, 2.4, np.pi], [1.15, 1.08, 1.02, 1.12, 1.25])
    first = np.stack([edge[:, 0], edge[:, 1], centre[2] + forward - 0.30], axis=1) - centre
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    start = np.arccos(np.clip(first[:, 2], -1, 1))
    tilt = first[:, :2] / np.maximum(np.linalg.norm(first[:, :2], axis=1, keepdims=True), 1e-6)

    # over the head to its back, wider over the ears
    folds = 0.012 * np.sin(around * 9 + rng.uniform(0, 6)) + 0.01 * np.sin(around * 17 + rng.uniform(0, 6))
    rings = []
    for s in np.linspace(0, 1, rows):
        angle = start * (1 - s) + (np.pi - 0.02) * s
        d = np.concatenate([tilt * np.sin(angle)[:, None], np.cos(angle)[:, None]], axis=1)
        ears = np.exp(-(((1 - d @ (EAR * [1, 1, 1])) / 0.09) ** 2)) + np.exp(
            -(((1 - d @ (EAR * [-1, 1, 1])) / 0.09) ** 2)
        )
        off = 0.045 + 0.05 * np.sqrt(s) + folds * np.sqrt(s) + 0.27 * ears * min(1.0, 5 * s)
        rings.append(centre + d * (_reach(table, d) + off)[:, None])
    grid = np.array(rings)
    for _ in range(4):
        grid[1:] = (np.roll(grid, 1, 1) + 2 * grid + np.roll(grid, -1, 1))[1:] / 4
    head = grid.reshape(-1, 3).astype(np.float32), _sheet(rows, n, True)

    # around the neck
    neck = pack.joint(vertices, "neck")
    turns = np.linspace(-np.pi, np.pi, n, endpoint=False)
    tubes = []
    for t in np.linspace(0, 1, 12):
        y = chin + 0.16 - t * (chin - neck[1] + 0.62)
        spread = 1 + 0.9 * max(0.0, t - 0.55) ** 1.5
        tight = 1 - 0.35 * max(0.0, 0.25 - t) / 0.25
        across, deep = 0.58 * spread * tight, 0.56 * spread * tight
        fold = 1 + 0.035 * np.sin(turns * 5 + 5 * t + rng.uniform(0, 0.4)) + 0.02 * np.sin(turns * 11 - 7 * t)
        tubes.append(
            np.stack(
                [
                    across * fold * np.sin(turns),
                    np.full(n, y) + 0.05 * np.sin(3 * turns + 9 * t),
                    neck[2] + 0.24 + deep * fold * np.cos(turns),
                ],
                1,
            )
        )
    low = np.array(tubes).reshape(-1, 3).astype(np.float32), _sheet(12, n, True)
    return joined([head, low])


def earring(pack: Pack, vertices: np.ndarray, kind: str, side: int, rng: np.random.Generator) -> Mesh:
    """An earring at the lobe of one ear."""
    ear = vertices[pack.body.source[np.unique(pack.body.triangles[pack.triangle_class == side])]]
    lobe = ear[np.argsort(ear[:, 1])[:30]].mean(axis=0)
    sign = 1.0 if side == 7 else -1.0
    at = lobe + np.array([0.03 * sign, 0.03, 0.01])
    if kind == "stud":
        return ball(at + [0.02 * sign, 0, 0.02], 0.035)
    if kind == "drop":
        return joined(
            [
                ball(at, 0.022),
                tube(np.array([at, at - [0, 0.1, 0], at - [0, 0.14, 0]]), 0.008, 5, False),
                ball(at - [0, 0.2, 0], 0.05),
            ]
        )

    radius = 0.13
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = at + np.stack(
        [0.3 * radius * np.sin(angle) * sign, radius * np.cos(angle) - radius, 0.95 * radius * np.sin(angle)], axis=1
    )
    return tube(ring, 0.013, 6)


def necklace(pack: Pack, vertices: np.ndarray, rng: np.random.Generator) -> Mesh:
    """A chain around the neck, on the skin."""
    q = pack.vertices
    angle = np.linspace(-np.pi, np.pi, 48, endpoint=False)
    body = np.unique(pack.body.source)
    low = rng.uniform(5.70, 5.84)
    points = []
    for a in angle:
        height = low + 0.22 * (1 - np.cos(a)) / 2
        near = body[(abs(q[body, 1] - height) < 0.1) & (pack.headness[body] < 0.6)]
        turn = np.arctan2(q[near, 0], q[near, 2] - 0.1)
        off = abs(np.angle(np.exp(1j * (turn - a))))
        chosen = near[np.argsort(off)[:4]]
        out = vertices[chosen].mean(axis=0)
        points.append(out + 0.012 * np.array([np.sin(a), 0.2, np.cos(a)]))

    path = np.array(points)
    for _ in range(3):
        path = (np.roll(path, 1, 0) + 2 * path + np.roll(path, -1, 0)) / 4
    return tube(path, 0.009, 6)
