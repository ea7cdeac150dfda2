"""Hair of the face: beards, brows and lashes."""

from __future__ import annotations

import numpy as np

from stages.datasets.rendered.colour import ramp
from stages.datasets.rendered.hair.growth import gather_locks
from stages.datasets.rendered.hair.strands import Strands, bunch_of, count_of, roots_of, tangential
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.person import Person
from stages.datasets.rendered.raster import vertex_normals
from stages.datasets.rendered.texture import beard_area, brow_frame, brow_width

F = np.float32


def beard_of(pack: Pack, person: Person, vertices: np.ndarray, size: int) -> list[Strands]:
    """A beard with length, on an unposed mesh."""
    beard = person.beard
    if beard.length <= 0:
        return []
    rng = np.random.default_rng([person.seed, person.number, 22])
    pool = roots_of(pack, "beard")
    keep = np.nonzero(beard_area(pool.neutral, beard) > 0.1 + 0.8 * rng.random(len(pool.neutral)))[0]
    n, wider = count_of(size, 0.75)
    keep = keep[:n]
    if len(keep) < 4:
        return []

    # they hang, the moustache to the sides
    normals = vertex_normals(vertices, pack.body_triangles)
    root, normal, rest = pool.on(vertices, keep), pool.on(normals, keep), pool.neutral[keep]
    s, p = len(keep), 5
    x, y = rest[:, 0], rest[:, 1]
    lip = y > 6.66
    down = np.stack(
        [np.sign(x) * np.where(lip & (abs(x) < 0.3), 0.75, 0.05), np.full(s, -1.0), np.full(s, 0.1)], axis=1
    )
    along = tangential(down, normal) + normal * (0.16 + 0.22 * rng.random((s, 1)) * (1 + 1.5 * beard.length))
    along = along + rng.normal(0, 0.12 + 0.4 * (person.hair.curl > 0.7), (s, 3))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    length = beard.length * rng.uniform(0.5, 1.05, s) * np.where(lip, 0.5, 1) * (0.55 + 0.45 * ramp(y, 7.0, 6.5))
    length = np.minimum(length, np.where(lip, np.where(abs(x) < 0.22, 0.075, 0.12), 9))

    t = np.linspace(0, 1, p)
    paths = root[:, None] + along[:, None] * (length[:, None] * t)[..., None]
    paths[:, :, 1] -= (length[:, None] * t**2) * 0.25
    wave = rng.normal(0, 0.012, (s, p, 3)) * t[None, :, None] * (1 + person.hair.curl)
    paths = (paths + wave).astype(np.float32)
    gather_locks(paths, rest, max(4, s // 12), np.full(s, 0.55, np.float32))

    colour = np.array(person.hair.colour, np.float32) * np.exp(rng.normal(0, 0.22, (s, 1)))
    if person.hair.grey > 0 or person.age > 50:
        share = max(person.hair.grey, 0.25)
        colour = np.where(rng.random((s, 1)) < share, np.array([0.27, 0.26, 0.25]), colour)
    return [bunch_of("beard", paths, normal, colour, (0.0085 + 0.006 * beard.length) * wider, 19, rng)]


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
    n, wider = count_of(size, 0.16)
    keep = keep[:n]
    if len(keep) < 4:
        return []
    normals = vertex_normals(vertices, pack.body_triangles)
    root, normal, rest = pool.on(vertices, keep), pool.on(normals, keep), pool.neutral[keep]
    s, p = len(keep), 4
    a, w = along[keep], shape[keep] / np.maximum(half[keep], 1e-3)

    # upright at the inner end, lying outwards at the other
    rise = np.interp(a, [0, 0.2, 0.5, 1], [1.1, 0.55, 0.15, -0.45]) - 0.35 * w
    direction = np.stack([np.sign(rest[:, 0]), rise, 0 * a], axis=1) + rng.normal(0, 0.13, (s, 3))
    direction = tangential(direction, normal) + normal * 0.14
    length = (0.085 + 0.02 * rng.random(s)) * np.interp(a, [0, 0.3, 1], [0.75, 1.0, 0.8]) * (0.7 + 0.3 * thick)
    t = np.linspace(0, 1, p)
    paths = root[:, None] + direction[:, None] * (length[:, None] * t)[..., None] + normal[:, None] * 0.004
    paths[:, :, 1] -= (length[:, None] * t**2) * np.interp(a, [0, 1], [0.1, 0.25])[:, None]

    base = np.array(person.hair.colour, np.float32)
    darker = 0.42 if person.hair.colour_name in ("blond", "light brown", "red") else 0.9
    if person.hair.colour_name in ("grey", "white"):
        darker = 0.4
    colour = np.minimum(base * darker, 0.16) * np.exp(rng.normal(0, 0.2, (s, 1)))
    bunch = bunch_of("brow", paths, normal, colour, 0.0052 * wider, 0, rng)
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

            # they fan out from the eye's middle and curl up
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
            bunch = bunch_of(
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
