"""Paths of strands, compiled: they are combed, fall over the skull, gather in locks and curl."""

from __future__ import annotations

import numpy as np
from numba import njit

F = np.float32


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
def _outside(
    table: np.ndarray, centre: np.ndarray, x: float, y: float, z: float, off: float, free: bool
) -> tuple[float, float, float]:
    """A point pushed out of the skull, to `off` above it; before the face only strands that are free to lie there."""
    ux, uy, uz = x - centre[0], y - centre[1], z - centre[2]
    if uy <= F(-1.15) or (uz >= F(0.75) and not free and uy <= 0):
        return x, y, z
    r = np.sqrt(ux * ux + uy * uy + uz * uz) + F(1e-6)
    push = max(F(1), (_radius(table, ux / r, uy / r, uz / r) + off) / r)
    return centre[0] + ux * push, centre[1] + uy * push, centre[2] + uz * push


@njit(cache=True)
def grow(
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

            # near the root a strand goes where it was combed, then down
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

            # off the skull, and beside the face
            off = layer[s] * min(F(1), F(k + 1) * step * F(6))
            qx, qy, qz = _outside(table, centre, qx, qy, qz, off, free[s] > 0)
            if free[s] == 0 and qy < face[1] and qz > face[2] and abs(qx) < face[0] and qy > face[3]:
                qx = qx + (side * face[0] - qx) * F(0.7)

            dx, dy, dz = qx - px, qy - py, qz - pz
            size = np.sqrt(dx * dx + dy * dy + dz * dz) + F(1e-6)
            dx, dy, dz = dx / size, dy / size, dz / size
            px, py, pz = qx, qy, qz
    return out


@njit(cache=True)
def gather_locks(paths: np.ndarray, neutral: np.ndarray, leaders: int, pull: np.ndarray) -> np.ndarray:
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

    # the nearer the tip, the closer a lock
    for s in range(leaders, n):
        m = chosen[s]
        for k in range(points):
            t = F(k) / F(points - 1)
            w = pull[s] * t * (F(1.6) - F(0.8) * t)
            for c in range(3):
                paths[s, k, c] += w * (paths[m, k, c] - paths[s, k, c])
    return chosen


def curled(paths: np.ndarray, rng: np.random.Generator, curl: float, chosen: np.ndarray, tight: float) -> np.ndarray:
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
