"""The kernels: triangles and strands to pixels, depth maps of lights, light on points, texels. Compiled, one thread.

Everything is float32 and without reordered arithmetic, so a machine draws the same bytes every time. The plain
formulas are in tests/datasets/rendered/reference.py, which the tests hold the kernels against.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FAR = np.float32(1e9)
F = np.float32
Number = float | np.float32


@njit(cache=True)
def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals [N, 3] of a mesh."""
    out = np.zeros_like(vertices)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = (vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2])
        vx, vy, vz = (vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2])
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in range(3):
            i = triangles[t, k]
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz

    for i in range(out.shape[0]):
        length = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + F(1e-12)
        for k in range(3):
            out[i, k] /= length
    return out


@njit(cache=True)
def add_shape(vertices: np.ndarray, ids: np.ndarray, offsets: np.ndarray, weight: Number) -> None:
    """Add weighted offsets [n, 3] to some vertices, in place."""
    for k in range(ids.shape[0]):
        i = ids[k]
        for c in range(3):
            vertices[i, c] += offsets[k, c] * weight


@njit(cache=True)
def turn_points(
    points: np.ndarray, share: np.ndarray, body: np.ndarray, steps: np.ndarray, pivot: np.ndarray
) -> np.ndarray:
    """Points [n, 3] turned about a pivot: by the body, then by the two steps nearest to each one's share, blended."""
    out = np.empty((points.shape[0], 3), np.float32)
    last = steps.shape[0] - 1
    at, spot = np.empty(3, np.float32), np.empty(3, np.float32)
    for i in range(points.shape[0]):
        # which two steps
        x = min(F(1), max(F(0), share[i])) * last
        k = min(int(x), last - 1)
        t = F(x - k)
        for c in range(3):
            spot[c] = points[i, c] - pivot[c]
        for r in range(3):
            at[r] = body[r, 0] * spot[0] + body[r, 1] * spot[1] + body[r, 2] * spot[2]
        for r in range(3):
            a = steps[k, r, 0] * at[0] + steps[k, r, 1] * at[1] + steps[k, r, 2] * at[2]
            b = steps[k + 1, r, 0] * at[0] + steps[k + 1, r, 1] * at[1] + steps[k + 1, r, 2] * at[2]
            out[i, r] = a * (1 - t) + b * t + pivot[r]
    return out


@njit(cache=True)
def chosen_triangles(triangles: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Which triangles have three kept vertices: bool [T]."""
    out = np.empty(triangles.shape[0], np.bool_)
    for t in range(triangles.shape[0]):
        out[t] = keep[triangles[t, 0]] and keep[triangles[t, 1]] and keep[triangles[t, 2]]
    return out


@njit(cache=True)
def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [n, 3] brought to length 1."""
    out = np.empty_like(vectors)
    for i in range(vectors.shape[0]):
        length = np.sqrt(vectors[i, 0] ** 2 + vectors[i, 1] ** 2 + vectors[i, 2] ** 2) + F(1e-6)
        for c in range(3):
            out[i, c] = vectors[i, c] / length
    return out


@njit(cache=True)
def _reach(a: Number, b: Number, c: Number, size: int) -> tuple[int, int]:
    """First and last pixel of `size` whose centre may lie between three numbers."""
    first, last = np.ceil(min(a, b, c) - F(0.5)), np.floor(max(a, b, c) - F(0.5))
    return max(0, int(first)), min(size - 1, int(last))


@njit(cache=True)
def fill(
    xy: np.ndarray, z: np.ndarray, triangles: np.ndarray, depth: np.ndarray, index: np.ndarray, bary: np.ndarray
) -> None:
    """Nearest triangle of every pixel centre, into depth [H, W], index [H, W] and bary [H, W, 2]; z grows away."""
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, x1, y1, x2, y2 = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < F(1e-9):
            continue
        left, right = _reach(x0, x1, x2, depth.shape[1])
        top, low = _reach(y0, y1, y2, depth.shape[0])
        over = F(1) / area

        # barycentrics of each pixel's centre
        for y in range(top, low + 1):
            py = F(y) + F(0.5)
            for x in range(left, right + 1):
                px = F(x) + F(0.5)
                u = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) * over
                v = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) * over
                if u < 0 or v < 0 or u + v > 1:
                    continue
                far = (1 - u - v) * z[a] + u * z[b] + v * z[c]
                if far < depth[y, x] and far > 0:
                    depth[y, x] = far
                    index[y, x] = t
                    bary[y, x, 0], bary[y, x, 1] = u, v


@njit(cache=True)
def fill_depth(xy: np.ndarray, z: np.ndarray, triangles: np.ndarray, depth: np.ndarray) -> None:
    """Depth of the nearest triangle of every pixel centre, as `fill`."""
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, x1, y1, x2, y2 = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < F(1e-9):
            continue
        left, right = _reach(x0, x1, x2, depth.shape[1])
        top, low = _reach(y0, y1, y2, depth.shape[0])
        over = F(1) / area

        # barycentrics of each pixel's centre
        for y in range(top, low + 1):
            py = F(y) + F(0.5)
            for x in range(left, right + 1):
                px = F(x) + F(0.5)
                u = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) * over
                v = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) * over
                if u >= 0 and v >= 0 and u + v <= 1:
                    far = (1 - u - v) * z[a] + u * z[b] + v * z[c]
                    if far < depth[y, x]:
                        depth[y, x] = far


@njit(cache=True)
def strand_depth(xy: np.ndarray, z: np.ndarray, points: int, depth: np.ndarray) -> None:
    """Depth of strands, `points` vertices each, drawn as dots close enough to be lines."""
    height, width = depth.shape
    for s in range(xy.shape[0] // points):
        for k in range(points - 1):
            i = s * points + k
            dx, dy = xy[i + 1, 0] - xy[i, 0], xy[i + 1, 1] - xy[i, 1]
            steps = int(max(abs(dx), abs(dy))) + 1
            for j in range(steps):
                t = F(j) / F(steps)
                x, y = int(np.floor(xy[i, 0] + dx * t)), int(np.floor(xy[i, 1] + dy * t))
                if x >= 0 and y >= 0 and x < width and y < height:
                    far = z[i] + (z[i + 1] - z[i]) * t
                    if far < depth[y, x]:
                        depth[y, x] = far


@njit(cache=True)
def draw_strands(
    order: np.ndarray,
    xy: np.ndarray,
    z: np.ndarray,
    colour: np.ndarray,
    thick: np.ndarray,
    opacity: np.ndarray,
    depth: np.ndarray,
    image: np.ndarray,
    cover: np.ndarray,
) -> None:
    """Blend segments over an image, in the given order (far ones first), where no triangle is nearer.

    Args:
        order: int32 [M], first vertex of each segment; it runs to the next vertex.
        xy, z, colour, thick, opacity: of every vertex; px, depth, any C values, width in px, 0..1.
        depth: [H, W] of the triangles.
        image, cover: [H, W, C] and [H, W], changed in place.
    """
    height, width = depth.shape
    for m in range(order.shape[0]):
        i = order[m]
        x0, y0, x1, y1 = xy[i, 0], xy[i, 1], xy[i + 1, 0], xy[i + 1, 1]
        dx, dy = x1 - x0, y1 - y0
        steep = abs(dy) > abs(dx)

        # p runs along the longer side, q across
        length = np.sqrt(dx * dx + dy * dy) + F(1e-6)
        reach = max(thick[i], thick[i + 1]) * F(0.5) + F(0.5)
        stretch = reach * length / (max(abs(dx), abs(dy)) + F(1e-6))
        a, b = (y0, y1) if steep else (x0, x1)
        start, stop = max(0, int(np.floor(min(a, b)))), int(np.floor(max(a, b)))
        stop = min((height if steep else width) - 1, stop)
        for p in range(start, stop + 1):
            t = (F(p) + F(0.5) - a) / (b - a) if abs(b - a) > F(1e-6) else F(0)
            t = min(F(1), max(F(0), t))
            middle = x0 + dx * t if steep else y0 + dy * t
            first, last = max(0, int(np.floor(middle - stretch))), int(np.floor(middle + stretch))
            last = min((width if steep else height) - 1, last)
            wide = thick[i] + (thick[i + 1] - thick[i]) * t
            dense = (opacity[i] + (opacity[i + 1] - opacity[i]) * t) * min(F(1), wide)
            far = z[i] + (z[i + 1] - z[i]) * t
            for q in range(first, last + 1):
                off = abs(F(q) + F(0.5) - middle) * reach / stretch
                share = min(F(1), max(wide, F(1)) * F(0.5) + F(0.5) - off) * dense
                y, x = (p, q) if steep else (q, p)
                if share > F(0.004) and far <= depth[y, x]:
                    for c in range(image.shape[2]):
                        image[y, x, c] += share * (
                            colour[i, c] + (colour[i + 1, c] - colour[i, c]) * t - image[y, x, c]
                        )
                    cover[y, x] += share * (1 - cover[y, x])


@njit(cache=True)
def interpolate(index: np.ndarray, bary: np.ndarray, triangles: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values [n, C] at points given by triangle [n] and barycentrics [n, 2], from vertices' values [N, C]."""
    out = np.empty((index.shape[0], values.shape[1]), np.float32)
    for i in range(index.shape[0]):
        t = index[i]
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        u, v = bary[i, 0], bary[i, 1]
        w = 1 - u - v
        for k in range(values.shape[1]):
            out[i, k] = w * values[a, k] + u * values[b, k] + v * values[c, k]
    return out


@njit(cache=True)
def texels(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Values [n, C] of a byte texture [H, W, C] at uv [n, 2] (v down, repeating), bilinear, 0..255."""
    height, width, channels = texture.shape
    out = np.empty((uv.shape[0], channels), np.float32)
    for i in range(uv.shape[0]):
        x = (uv[i, 0] - np.floor(uv[i, 0])) * width - F(0.5)
        y = (uv[i, 1] - np.floor(uv[i, 1])) * height - F(0.5)
        x0, y0 = int(np.floor(x)), int(np.floor(y))
        fx, fy = F(x - x0), F(y - y0)
        xa, xb = min(max(x0, 0), width - 1), min(max(x0 + 1, 0), width - 1)
        ya, yb = min(max(y0, 0), height - 1), min(max(y0 + 1, 0), height - 1)
        for c in range(channels):
            upper = (1 - fx) * texture[ya, xa, c] + fx * texture[ya, xb, c]
            lower = (1 - fx) * texture[yb, xa, c] + fx * texture[yb, xb, c]
            out[i, c] = (1 - fy) * upper + fy * lower
    return out


@njit(cache=True)
def _seen(maps: np.ndarray, lamp: int, a: Number, b: Number, q: Number) -> Number:
    """Share 0..1 of the four texels about a place of depth map `lamp` that are not nearer to the light than q."""
    size = maps.shape[1]
    fx, fy = a - F(0.5), b - F(0.5)
    ix, iy = int(np.floor(fx)), int(np.floor(fy))
    if ix < 0 or iy < 0 or ix >= size - 1 or iy >= size - 1:
        return F(1)
    wx, wy = F(fx - ix), F(fy - iy)
    upper = (1 - wx) * (maps[lamp, iy, ix] > q) + wx * (maps[lamp, iy, ix + 1] > q)
    lower = (1 - wx) * (maps[lamp, iy + 1, ix] > q) + wx * (maps[lamp, iy + 1, ix + 1] > q)
    return F((1 - wy) * upper + wy * lower)


@njit(cache=True)
def sky_light(
    places: np.ndarray,
    normals: np.ndarray,
    axes: np.ndarray,
    colours: np.ndarray,
    maps: np.ndarray,
    centre: np.ndarray,
    scale: Number,
    bias: Number,
) -> np.ndarray:
    """Irradiance [N, 3] of vertices under directional lights with depth maps [L, S, S]."""
    out = np.zeros((places.shape[0], 3), np.float32)
    half = F(maps.shape[1] / 2)
    for i in range(places.shape[0]):
        x, y, z = places[i, 0] - centre[0], places[i, 1] - centre[1], places[i, 2] - centre[2]
        for lamp in range(axes.shape[0]):
            facing = (
                normals[i, 0] * axes[lamp, 2, 0] + normals[i, 1] * axes[lamp, 2, 1] + normals[i, 2] * axes[lamp, 2, 2]
            )
            if facing <= 0:
                continue
            a = (x * axes[lamp, 0, 0] + y * axes[lamp, 0, 1] + z * axes[lamp, 0, 2]) * scale + half
            b = (x * axes[lamp, 1, 0] + y * axes[lamp, 1, 1] + z * axes[lamp, 1, 2]) * scale + half
            q = F(10) - (x * axes[lamp, 2, 0] + y * axes[lamp, 2, 1] + z * axes[lamp, 2, 2]) - bias
            # nine soft texels: a sky casts no sharp shadow
            open_ = F(0)
            for j in range(-1, 2):
                for k in range(-1, 2):
                    open_ += _seen(maps, lamp, a + F(1.3) * k, b + F(1.3) * j, q)
            seen = facing * open_ / F(9)
            for c in range(3):
                out[i, c] += colours[lamp, c] * seen
    return out


@njit(cache=True)
def lamp_light(
    places: np.ndarray,
    normals: np.ndarray,
    views: np.ndarray,
    rough: np.ndarray,
    shine: np.ndarray,
    axes: np.ndarray,
    colours: np.ndarray,
    maps: np.ndarray,
    centre: np.ndarray,
    scale: Number,
    bias: Number,
) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse and mirrored light [n, 3] of points under lamps with depth maps [L, S, S].

    rough, shine: [n], GGX roughness and reflectance at normal incidence (Walter 2007, Schlick's Fresnel).
    """
    n = places.shape[0]
    diffuse, mirrored = np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32)
    half = F(maps.shape[1] / 2)
    for i in range(n):
        x, y, z = places[i, 0] - centre[0], places[i, 1] - centre[1], places[i, 2] - centre[2]
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        vx, vy, vz = views[i, 0], views[i, 1], views[i, 2]
        toward = max(F(0.08), nx * vx + ny * vy + nz * vz)
        # each lamp: facing, shadow, then the mirror
        a2 = rough[i] ** 4
        for lamp in range(axes.shape[0]):
            dx, dy, dz = axes[lamp, 2, 0], axes[lamp, 2, 1], axes[lamp, 2, 2]
            facing = nx * dx + ny * dy + nz * dz
            if facing <= 0:
                continue
            a = (x * axes[lamp, 0, 0] + y * axes[lamp, 0, 1] + z * axes[lamp, 0, 2]) * scale + half
            b = (x * axes[lamp, 1, 0] + y * axes[lamp, 1, 1] + z * axes[lamp, 1, 2]) * scale + half
            q = F(10) - (x * dx + y * dy + z * dz) - bias * (F(1) + F(1.5) * (1 - facing))
            seen = _seen(maps, lamp, a, b, q)
            if seen <= 0:
                continue
            hx, hy, hz = dx + vx, dy + vy, dz + vz
            length = np.sqrt(hx * hx + hy * hy + hz * hz) + F(1e-6)
            nh = max(F(0), (nx * hx + ny * hy + nz * hz) / length)
            vh = max(F(0), (vx * hx + vy * hy + vz * hz) / length)
            d = nh * nh * (a2 - 1) + 1
            fresnel = shine[i] + (1 - shine[i]) * (1 - vh) ** 5
            mirror = fresnel * a2 / (d * d) / (4 * toward) * seen * min(F(1), facing * 4)
            for c in range(3):
                diffuse[i, c] += colours[lamp, c] * facing * seen
                mirrored[i, c] += colours[lamp, c] * mirror
    return diffuse, mirrored


@njit(cache=True)
def strand_light(
    places: np.ndarray,
    tangents: np.ndarray,
    outward: np.ndarray,
    views: np.ndarray,
    axes: np.ndarray,
    colours: np.ndarray,
    maps: np.ndarray,
    centre: np.ndarray,
    scale: Number,
    thin: Number,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diffuse, first and second highlight [N, 3] of strand vertices (Kajiya-Kay; Marschner's two shifted lobes).

    A strand behind others gets exp(-thickness x thin) of a lamp.
    """
    n = places.shape[0]
    diffuse, first, second = (np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32))
    size = maps.shape[1]
    half = F(size / 2)
    for i in range(n):
        x, y, z = places[i, 0] - centre[0], places[i, 1] - centre[1], places[i, 2] - centre[2]
        for lamp in range(axes.shape[0]):
            dx, dy, dz = axes[lamp, 2, 0], axes[lamp, 2, 1], axes[lamp, 2, 2]
            facing = outward[i, 0] * dx + outward[i, 1] * dy + outward[i, 2] * dz
            wrap = max(F(0), facing * F(0.65) + F(0.35))
            if wrap <= 0:
                continue
            a = int((x * axes[lamp, 0, 0] + y * axes[lamp, 0, 1] + z * axes[lamp, 0, 2]) * scale + half)
            b = int((x * axes[lamp, 1, 0] + y * axes[lamp, 1, 1] + z * axes[lamp, 1, 2]) * scale + half)
            seen = F(1)
            if a >= 0 and b >= 0 and a < size and b < size:
                behind = F(10) - (x * dx + y * dy + z * dz) - maps[lamp, b, a] - F(0.03)
                if behind > 0:
                    seen = np.exp(-behind * thin)
            along = tangents[i, 0] * dx + tangents[i, 1] * dy + tangents[i, 2] * dz
            sine = np.sqrt(max(F(0), 1 - along * along))
            view = tangents[i, 0] * views[i, 0] + tangents[i, 1] * views[i, 1] + tangents[i, 2] * views[i, 2]
            vsine = np.sqrt(max(F(0), 1 - view * view))
            # cosine of the difference from the mirror direction, the lobes shifted towards root and tip
            cosine = sine * vsine - along * view
            shift = F(0.10)
            skew = sine * view + along * vsine
            one, two = max(F(0), cosine + shift * skew), max(F(0), cosine - F(1.5) * shift * skew)
            for c in range(3):
                k = colours[lamp, c] * seen * wrap
                diffuse[i, c] += k * (F(0.3) + F(0.7) * sine)
                first[i, c] += k * one**60
                second[i, c] += k * two**18
    return diffuse, first, second


@njit(cache=True)
def vote(labels: np.ndarray, k: int) -> np.ndarray:
    """The commonest label of every k x k block: uint8 [H k, W k] -> [H, W]; the smaller of equals."""
    height, width = labels.shape[0] // k, labels.shape[1] // k
    out = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            best, most = 0, 0
            for j in range(k * k):
                label, count = labels[y * k + j // k, x * k + j % k], 0
                for i in range(k * k):
                    count += labels[y * k + i // k, x * k + i % k] == label
                if count > most or (count == most and label < best):
                    best, most = label, count
            out[y, x] = best
    return out
