"""Things worn, made by program on the unposed mesh: glasses, beanie, cap, headscarf, earrings, necklace."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.datasets.rendered.colour import ramp
from stages.datasets.rendered.hair import CENTRE, hat_edge, skull_radius
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.person import Person
from stages.datasets.rendered.raster import vertex_normals

Mesh = tuple[np.ndarray, np.ndarray]  # vertices [n, 3], triangles [t, 3]
Colour = tuple[float, float, float]
Thing = tuple[str, np.ndarray, np.ndarray, int, Colour]  # kind, vertices, triangles, face region, colour
FRAMES: tuple[Colour, ...] = ((0.01, 0.01, 0.012), (0.06, 0.022, 0.01), (0.26, 0.21, 0.13), (0.10, 0.10, 0.11), (0.02, 0.02, 0.05))
METALS: tuple[Colour, ...] = ((0.75, 0.55, 0.22), (0.72, 0.71, 0.69), (0.78, 0.52, 0.42))
LENS = {"round": (0.40, 0.40, 2.0), "square": (0.41, 0.32, 3.6), "wide": (0.44, 0.34, 2.6), "half": (0.40, 0.26, 3.0)}


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
    polar, angle = np.meshgrid(np.linspace(0.01, np.pi - 0.01, rows), np.linspace(0, 2 * np.pi, columns, endpoint=False), indexing="ij")
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
        yield "hat", *headscarf(pack, vertices), 18, person.hat_colour
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
    wide, high, power = LENS[person.glasses]
    wide, high = apart * wide * rng.uniform(0.95, 1.08), apart * high * rng.uniform(0.92, 1.1)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    cosine, sine = (np.sign(f) * abs(f) ** (2 / power) for f in (np.cos(angle), np.sin(angle)))
    radius = float(rng.uniform(0.009, 0.02) * (1.5 if person.glasses == "square" else 1))
    rings = []
    for eye, sign in ((left, 1.0), (right, -1.0)):
        x = eye[0] * 1.04 + wide * cosine * sign
        rings.append(np.stack([x, eye[1] - high * 0.12 + high * sine, 0 * x], axis=1))
    curve = 0.30
    flat = np.concatenate(rings)
    depth = _surface_depth(pack, vertices, flat[:, :2])
    front = float((depth + curve * np.clip(abs(flat[:, 0]) - 0.15, 0, 1) ** 1.7).max()) + radius * 0.6 - 0.015
    for ring in rings:
        ring[:, 2] = front - curve * np.clip(abs(ring[:, 0]) - 0.15, 0, 1) ** 1.7
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


def _shell(pack: Pack, vertices: np.ndarray, off: float) -> tuple[np.ndarray, np.ndarray]:
    """The skull's skin pushed out, without ears: vertices [V, 3] as of the mesh, and the centre."""
    centre = CENTRE + (vertices[pack.landmarks[27]] - pack.vertices[pack.landmarks[27]])
    table = skull_radius(pack, vertices, centre.astype(np.float32))
    d = vertices - centre
    r = np.linalg.norm(d, axis=1) + 1e-6
    rows, columns = table.shape
    polar = np.clip((np.arccos(np.clip(d[:, 1] / r, -1, 1)) / np.pi * rows).astype(int), 0, rows - 1)
    azimuth = ((np.arctan2(d[:, 0], d[:, 2]) / (2 * np.pi) + 0.5) * columns).astype(int) % columns
    ear = np.zeros(len(vertices), bool)
    ear[pack.body.source[np.unique(pack.body.triangles[np.isin(pack.triangle_class, [7, 8])])]] = True
    reach = np.where(ear, table[polar, azimuth] + 0.02, r) + off
    return (centre + d / r[:, None] * reach[:, None]).astype(np.float32), centre


def _patch(pack: Pack, vertices: np.ndarray, keep: np.ndarray) -> Mesh:
    """The mesh's triangles whose three vertices are kept."""
    ids = pack.body.source[pack.body.triangles]
    chosen = ids[keep[ids].all(axis=1)]
    used, inverse = np.unique(chosen, return_inverse=True)
    return vertices[used], inverse.reshape(-1, 3).astype(np.int32)


def _rim(pack: Pack, shell: np.ndarray, on: np.ndarray, height: np.ndarray, tall: float, bins: int = 40) -> np.ndarray:
    """Points around the lower edge of a hat."""
    ring = np.nonzero(on & (height < tall))[0]
    centre = shell[ring].mean(axis=0)
    angle = np.arctan2(shell[ring, 0] - centre[0], shell[ring, 2] - centre[2])
    cells = np.digitize(angle, np.linspace(-np.pi, np.pi, bins + 1))
    points = np.array([shell[ring[cells == k]].mean(axis=0) for k in range(1, bins + 1) if (cells == k).any()])
    smooth = (np.roll(points, 1, 0) + points * 2 + np.roll(points, -1, 0)) / 4
    return smooth


def cap(pack: Pack, vertices: np.ndarray, visor: bool) -> list[Mesh]:
    """A beanie with a rolled edge, or a cap with a visor."""
    q = pack.vertices
    edge = hat_edge(q) + (0.06 if visor else 0.0)
    on = (q[:, 1] > edge) & (pack.headness > 0.99)
    shell, _ = _shell(pack, vertices, 0.07)
    shell[:, 1] += np.where(on, (0.02 if visor else 0.07) * ramp(q[:, 1], 7.7, 8.4), 0)
    rim = _rim(pack, shell, on, q[:, 1] - edge, 0.14)
    meshes = [_patch(pack, shell, on), tube(rim, 0.02 if visor else 0.075, 10)]
    if visor:
        front = rim[(rim[:, 2] > np.quantile(rim[:, 2], 0.45))]
        front = front[np.argsort(front[:, 0])]
        out = front - np.array([front[:, 0].mean(), 0, 0])
        width = abs(front[:, 0]).max()
        bulge = (1 - (out[:, 0] / width) ** 2)[:, None]
        far = front + bulge * np.array([0, -0.20, 0.85])
        n = len(front)
        k = np.arange(n - 1)
        strip = np.concatenate([np.stack([k, k + 1, n + k + 1], 1), np.stack([k, n + k + 1, n + k], 1)])
        both = np.concatenate([front, far])
        low = both - np.array([0, 0.035, 0])
        meshes.append(joined([(both.astype(np.float32), strip.astype(np.int32)), (low.astype(np.float32), strip[:, ::-1].astype(np.int32))]))
        meshes.append(tube(far, 0.018, 6, False))
    return meshes


def headscarf(pack: Pack, vertices: np.ndarray) -> Mesh:
    """A scarf around face and neck."""
    q = pack.vertices
    x, y, z = q[:, 0], q[:, 1], q[:, 2]
    face = (x / 0.60) ** 2 + ((y - 7.02) / 0.86) ** 2
    on = ((face > 1.0) | (z < 0.55)) & (y > 5.35) & (abs(x) < 1.25) & ~((y < 6.3) & (z < -0.9))
    shell, _ = _shell(pack, vertices, 0.07)
    neck = vertices + vertex_normals(vertices, pack.body.source[pack.body.triangles].astype(np.int32)) * 0.14
    low = ramp(y, 6.5, 6.0)[:, None]
    shell = shell * (1 - low) + neck * low
    # cloth hangs straight from the chin to the neck
    return _patch(pack, shell.astype(np.float32), on)


def earring(pack: Pack, vertices: np.ndarray, kind: str, side: int, rng: np.random.Generator) -> Mesh:
    """An earring at the lobe of one ear."""
    ear = vertices[pack.body.source[np.unique(pack.body.triangles[pack.triangle_class == side])]]
    lobe = ear[np.argsort(ear[:, 1])[:30]].mean(axis=0)
    sign = 1.0 if side == 7 else -1.0
    at = lobe + np.array([0.03 * sign, 0.03, 0.01])
    if kind == "stud":
        return ball(at + [0.02 * sign, 0, 0.02], 0.035)
    if kind == "drop":
        return joined([ball(at, 0.022), tube(np.array([at, at - [0, 0.1, 0], at - [0, 0.14, 0]]), 0.008, 5, False), ball(at - [0, 0.2, 0], 0.05)])
    radius = 0.13
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = at + np.stack([0.3 * radius * np.sin(angle) * sign, radius * np.cos(angle) - radius, 0.95 * radius * np.sin(angle)], axis=1)
    return tube(ring, 0.013, 6)


def necklace(pack: Pack, vertices: np.ndarray, rng: np.random.Generator) -> Mesh:
    """A chain around the neck, on the skin."""
    q = pack.vertices
    angle = np.linspace(-np.pi, np.pi, 48, endpoint=False)
    body = np.unique(pack.body.source)
    low = rng.uniform(5.42, 5.6)
    points = []
    for a in angle:
        height = low + 0.36 * (1 - np.cos(a)) / 2
        near = body[(abs(q[body, 1] - height) < 0.1) & (pack.headness[body] < 0.6)]
        turn = np.arctan2(q[near, 0], q[near, 2] - 0.1)
        off = abs(np.angle(np.exp(1j * (turn - a))))
        chosen = near[np.argsort(off)[:4]]
        out = vertices[chosen].mean(axis=0)
        points.append(out + 0.03 * np.array([np.sin(a), 0.2, np.cos(a)]))
    path = np.array(points)
    for _ in range(3):
        path = (np.roll(path, 1, 0) + 2 * path + np.roll(path, -1, 0)) / 4
    return tube(path, 0.012, 6)
