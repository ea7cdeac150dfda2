"""Haircuts: how the strands of a head are combed, cut and tied."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stages.datasets.rendered.colour import ramp
from stages.datasets.rendered.hair.strands import tangential
from stages.datasets.rendered.person import Hair


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
        return tangential(np.stack([np.broadcast_to(np.asarray(a, float), n) for a in (x, y, z)], axis=1), self.normal)


def _cropped(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    n = len(at.root)
    comb = tangential(at.rest - np.array([0.05, 8.45, -0.25]), at.normal) * 0.8
    return Comb(comb, 0.7 + 0.3 * at.top, np.full(n, 0.9), np.full(n, 0.05), np.full(n, 0.01), pull=0.1)


def _short(hair: Hair, at: Growth, rng: np.random.Generator) -> Comb:
    """From a whorl at the crown; the front hairline lies to the side."""
    away, n = np.sign(hair.part), len(at.root)
    comb = tangential(at.rest - np.array([0.35 * away, 8.52, -0.55]), at.normal)
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
    return Comb(tangential(tie - at.rest, at.normal), length, lift, np.ones(n), layer, pull=0.45, tie=tie)


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


def comb_fringe(hair: Hair, at: Growth, combed: Comb, rng: np.random.Generator) -> None:
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


def points_of(style: str, size: int) -> int:
    """Points of a strand: as many as its bends need."""
    if style in ("crop", "bald"):
        return 4
    if style in ("afro", "coils", "curly"):
        return 22 if size > 128 else 14
    if style in ("short", "side", "quiff", "pixie"):
        return 14 if size > 128 else 10
    return 20 if size > 128 else 13
