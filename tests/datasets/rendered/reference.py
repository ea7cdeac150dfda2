"""The renderer's kernels as plain formulas in numpy, one triangle or segment at a time over the whole picture."""

import numpy as np

FAR = np.float32(1e9)


def fill(xy: np.ndarray, z: np.ndarray, triangles: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth and triangle [size, size] of the nearest triangle at every pixel's centre."""
    depth, index = np.full((size, size), FAR), np.full((size, size), -1)
    px, py = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    for t, (a, b, c) in enumerate(triangles):
        (x0, y0), (x1, y1), (x2, y2) = xy[a], xy[b], xy[c]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        u = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
        v = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
        far = (1 - u - v) * z[a] + u * z[b] + v * z[c]
        on = (u >= 0) & (v >= 0) & (u + v <= 1) & (far > 0) & (far < depth)
        depth[on], index[on] = far[on], t
    return depth, index


def texels(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values [n, C], repeating, v down."""
    height, width = texture.shape[:2]
    x, y = (uv[:, 0] % 1) * width - 0.5, (uv[:, 1] % 1) * height - 0.5
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    xa, xb, ya, yb = (np.clip(a, 0, n - 1) for a, n in ((x0, width), (x0 + 1, width), (y0, height), (y0 + 1, height)))
    t = texture.astype(float)
    return (1 - fy) * ((1 - fx) * t[ya, xa] + fx * t[ya, xb]) + fy * ((1 - fx) * t[yb, xa] + fx * t[yb, xb])


def blend(ends: list[tuple], depth: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Segments (x0, y0, x1, y1, z, colour, thick, opacity) over an image in order: cover by distance along an axis."""
    out, size = image.astype(float).copy(), len(image)
    for x0, y0, x1, y1, z, colour, thick, opacity in ends:
        dx, dy = x1 - x0, y1 - y0
        steep = abs(dy) > abs(dx)
        length, main = np.hypot(dx, dy), max(abs(dx), abs(dy))
        start, stop = sorted((y0, y1) if steep else (x0, x1))
        for p in range(max(0, int(np.floor(start))), min(size - 1, int(np.floor(stop))) + 1):
            t = np.clip((p + 0.5 - (y0 if steep else x0)) / (dy if steep else dx), 0, 1)
            middle = x0 + dx * t if steep else y0 + dy * t
            for q in range(size):
                off = abs(q + 0.5 - middle) * main / length
                a = min(1.0, max(0.0, max(thick, 1) / 2 + 0.5 - off)) * opacity * min(1.0, thick)
                y, x = (p, q) if steep else (q, p)
                if a > 0.004 and z <= depth[y, x]:
                    out[y, x] += a * (np.array(colour) - out[y, x])
    return out
