"""The hair of the head: a haircut grown on a person's skull."""

from __future__ import annotations

import numpy as np

from stages.datasets.rendered.colour import ramp
from stages.datasets.rendered.hair.growth import curled, gather_locks, grow
from stages.datasets.rendered.hair.haircuts import CUTS, STIFF, Comb, Growth, comb_fringe, points_of
from stages.datasets.rendered.hair.strands import CENTRE, Strands, count_of, roots_of, skull_radius
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.person import Hair, Person
from stages.datasets.rendered.raster import unit, vertex_normals
from stages.datasets.rendered.texture import scalp

F = np.float32
WIDTH = 0.0105  # decimetres, a strand at COUNT[256]


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
    n, wider = count_of(size, 1.0 if long or hair.style in ("afro", "coils") else 0.85)
    keep = keep[:n]
    if len(keep) < 4:
        return []
    normals = vertex_normals(vertices, pack.body_triangles)
    root, normal, rest = pool.on(vertices, keep), pool.on(normals, keep), pool.neutral[keep]

    # left or right of the parting; below it, left or right of the head
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

    # light reaches tips and the outside
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


def _style(
    pack: Pack, person: Person, vertices: np.ndarray, rng: np.random.Generator, at: Growth, size: int, gather: float
) -> tuple[np.ndarray, np.ndarray]:
    """Paths [n, P, 3] of a haircut and the lock of each strand [n]."""
    hair, n = person.hair, len(at.root)
    combed = CUTS[hair.style](hair, at, rng)
    combed.length = combed.length * hair.length * rng.uniform(0.88, 1.06, n)
    combed.free = np.zeros(n)
    if hair.fringe > 0:
        comb_fringe(hair, at, combed, rng)
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
    points = points_of(hair.style, size)
    paths = grow(
        at.root, at.normal, comb, length, layer, lift, weight, free, tie.astype(np.float32), combed.tie is not None,
        face, skull_radius(pack, vertices, centre), centre, points,
    )  # fmt: skip

    # locks: the two sides of a parting form none in common
    leaders = max(4, min(n // 8, int((160 if hair.style == "tied" else 260) / gather)))
    pulls = np.clip(rng.normal(combed.pull, 0.12, n) * (0.6 + 0.4 * gather), 0, 0.97)
    pulls = np.where(flyaway, 0.0, pulls).astype(np.float32)
    sides = np.where(combed.comb[:, :1] > 0, 0.5, -0.5) * (at.top[:, None] > 0.1)
    lock = gather_locks(paths, (at.rest + sides * np.array([1.0, 0, 0])).astype(np.float32), leaders, pulls)
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
        paths = curled(paths, rng, wave, lock, turns if wave > 0.45 else 5.0)
    wisp = rng.normal(0, 1, (n, 3, 3)).astype(np.float32)
    t = np.linspace(0, 1, points, dtype=np.float32)
    bend = np.stack([t, np.sin(t * 4), np.sin(t * 9 + 1)], axis=0)
    stray = (np.where(flyaway, 0.05, 0.012) * np.minimum(1, combed.length * 1.2)).astype(np.float32)
    strays = np.einsum("skc,kp->spc", wisp, bend) * (stray[:, None] * t[None])[..., None]
    return (paths + strays).astype(np.float32)
