"""The head's flesh: skull, skin shading, eyes, brows, nose, mouth and the 68 landmarks.

The head is a soft union of ellipsoids whose depth is known in closed form for any pose; relief (sockets, cheeks, lips)
is added as smooth bumps on that depth, and the light falls on its finite differences. Features are polygons on the
head's surface, turned with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from stages.datasets.painted.canvas import (
    Box,
    Camera,
    Canvas,
    Ellipsoid,
    Floats,
    blur,
    join,
    linear,
    noise_at,
    rotation,
)
from stages.datasets.painted.person import Person, View
from stages.networks.face_labels import READER

LABELS = READER
"""Name -> parsing label of every part; the head mask is all of them but background, neck and cloth."""

EYE_Y = -0.06
NOSE_Y = 0.205
MOUTH_Y = 0.405


class Look:
    """How a domain turns a material, its colour and the light on it into paint. Sub-classed per domain."""

    name = "photo"
    fine = True
    """Fine texture (pores, strands, folds) is drawn."""
    lash = 1.0
    """Thickness of the lash line."""
    glint = 0.24
    """Radius of the catchlight in irises."""
    relief = 1.0
    """Depth of the face's relief (sockets, cheeks, folds)."""

    def __init__(self, view: View) -> None:
        self.view = view

    def adapt(self, person: Person, view: View) -> tuple[Person, View]:
        """The person as this domain builds them (larger eyes, smaller nose)."""
        return person, view

    def tone(self, material: str, albedo: Floats, shade: Floats, gloss: Floats | None = None) -> Floats:
        """Linear-light paint [3, h, w]; albedo [3] or [3, h, w] linear, shade [h, w] 0 (dark) .. 1 (lit)."""
        raise NotImplementedError

    def background(self, scene: "Scene") -> None:
        """Fill the canvas behind the person."""
        raise NotImplementedError

    def finish(self, scene: "Scene", head_only: bool) -> None:
        """Draw what needs the whole picture (outlines, hatching), inside the head alone if `head_only`."""


@dataclass
class Scene:
    """Everything known while one picture is painted."""

    person: Person
    view: View
    camera: Camera
    canvas: Canvas
    look: Look
    skull: list[Ellipsoid]
    light: np.ndarray
    bones: tuple[np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.bones = np.stack([s.centre for s in self.skull]), np.stack([s.radii for s in self.skull])

    @property
    def n(self) -> int:
        """Side of the picture, px."""
        return self.canvas.n

    def surface(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Head-frame points [..., 3] on the front of the face at head-frame x, y."""
        centre, radii = self.bones
        out = np.empty((*np.broadcast_shapes(np.shape(x), np.shape(y)), 3))
        out[..., 0], out[..., 1] = x, y
        u = (out[..., 0, None] - centre[:, 0]) / radii[:, 0]
        v = (out[..., 1, None] - centre[:, 1]) / radii[:, 1]
        inside = 1 - u * u - v * v
        z = centre[:, 2] + radii[:, 2] * np.sqrt(np.maximum(inside, 0))
        out[..., 2] = np.where(inside > 0, z, -0.3).max(-1)
        return out

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Head-frame points -> pixel positions on the canvas."""
        return self.camera.pixels(self.camera.place(points))

    def flat(self, head_normal: tuple[float, float, float]) -> float:
        """Shade of a surface element with this head-frame normal."""
        normal = self.camera.rotation @ np.asarray(head_normal, float)
        normal /= np.linalg.norm(normal)
        nx, ny, nz = normal.astype(np.float32)[:, None]
        return float(shade_of(nx, ny, nz, self.light)[0])


def shade_of(nx: Floats, ny: Floats, nz: Floats, light: np.ndarray) -> Floats:
    """Light on a normal: wrapped Lambert from the key and a little from above, 0..1."""
    lx, ly, lz = (np.float32(v) for v in light)
    key = (nx * lx + ny * ly + nz * lz) * np.float32(1 / 1.22) + np.float32(0.22 / 1.22)
    sky = np.float32(0.5) - np.float32(0.5) * ny
    return np.maximum(key, 0) * np.float32(0.86) + sky * np.float32(0.14)


def normals(z: Floats, step: float) -> tuple[Floats, Floats, Floats]:
    """Unit normals of a depth map [h, w] whose pixels are `step` apart."""
    gx, gy = np.empty_like(z), np.empty_like(z)
    gain = np.float32(-0.5 / step)
    gx[:, 1:-1] = (z[:, 2:] - z[:, :-2]) * gain
    gy[1:-1] = (z[2:] - z[:-2]) * gain
    gx[:, 0], gx[:, -1] = gx[:, 1], gx[:, -2]
    gy[0], gy[-1] = gy[1], gy[-2]
    nz = 1 / np.sqrt(gx * gx + gy * gy + 1)
    return gx * nz, gy * nz, nz


def build_scene(person: Person, view: View, n: int, look: Look) -> Scene:
    """Set the camera as FFHQ frames faces (between eyes and mouth) and build the skull. Canvas side `n`."""
    turn = rotation(view.yaw, view.pitch, view.roll)
    anchor = np.array([0, 0.5 * (EYE_Y + MOUTH_Y), 0.48])
    target = np.array([view.shift[0], 0.135 + view.shift[1]])
    shift = np.zeros(3)
    shift[:2] = target - view.zoom * (0.85 * (turn @ anchor)[:2] + 0.15 * anchor[:2])
    camera = Camera(turn, view.zoom, shift, n)
    w, h = person.face_width, person.face_length
    jaw, chin, jaw_drop = person.jaw_width, person.chin, 0.05 * view.mouth_open
    skull = [
        Ellipsoid(np.array([0, -0.24, -0.10]), np.array([0.55 * w, 0.575, 0.66]), camera),
        Ellipsoid(np.array([0, 0.05, 0.02]), np.array([0.50 * w, 0.63 * h, 0.53]), camera),
        Ellipsoid(np.array([0, 0.36 * h + 0.5 * jaw_drop, 0.10]), np.array([0.405 * w * jaw, 0.36 * h, 0.39]), camera),
        Ellipsoid(np.array([0, 0.61 * h + jaw_drop, 0.30]), np.array([0.19 * jaw * chin, 0.145, 0.17 * chin]), camera),
    ]
    return Scene(person, view, camera, Canvas(n), look, skull, np.asarray(view.light, float))


class Relief:
    """Smooth patches on the head: each has a centre on the surface, two radii, and is foreshortened with the pose."""

    def __init__(self, scene: Scene, box: Box) -> None:
        self.scene, self.box = scene, box
        self.x, self.y = scene.canvas.x[box], scene.canvas.y[box]

    def patches(self, rows: np.ndarray) -> Iterator[tuple[Box, Floats]]:
        """For each row (head-frame x, y, radius x, radius y): (box within this relief, weight 0..1)."""
        scene = self.scene
        x, y, rx, ry = rows.T
        points = scene.camera.place(scene.surface(x, y))
        lean = -0.9 * x / 0.55
        size = rx / np.sqrt(1 + lean * lean)
        across = np.stack([size, np.zeros_like(x), size * lean], -1) @ scene.camera.rotation[:2].T
        down = ry[:, None] * scene.camera.rotation[:2, 1]
        axes = np.stack([across, down], -1) * scene.camera.scale  # [k, 2, 2]
        for centre, axis in zip(points.tolist(), axes.tolist(), strict=True):
            yield self._patch(centre, axis)

    def patch(self, x: float, y: float, rx: float, ry: float) -> tuple[Box, Floats]:
        """One of `patches`."""
        return next(self.patches(np.array([[x, y, rx, ry]])))

    def _patch(self, centre: list[float], axes: list[list[float]]) -> tuple[Box, Floats]:
        scene = self.scene
        half, top, left = scene.n / 2, self.box[0].start, self.box[1].start
        (a, b), (c, d) = axes
        det = a * d - b * c
        reach = abs(a) + abs(b), abs(c) + abs(d)
        x0 = max(0, int((centre[0] - reach[0] + 1) * half) - left)
        x1 = min(self.x.shape[1], int((centre[0] + reach[0] + 1) * half) + 1 - left)
        y0 = max(0, int((centre[1] - reach[1] + 1) * half) - top)
        y1 = min(self.x.shape[0], int((centre[1] + reach[1] + 1) * half) + 1 - top)
        if x1 <= x0 or y1 <= y0 or abs(det) < 1e-6:
            return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32)
        box = (slice(y0, y1), slice(x0, x1))
        dx, dy = self.x[box] - np.float32(centre[0]), self.y[box] - np.float32(centre[1])
        u = np.float32(d / det) * dx + np.float32(-b / det) * dy
        v = np.float32(-c / det) * dx + np.float32(a / det) * dy
        weight = np.maximum(1 - u * u - v * v, 0)
        return box, weight * weight


def _bumps(scene: Scene) -> list[tuple[float, float, float, float, float]]:
    """(x, y, rx, ry, height) of the face's relief."""
    p, v = scene.person, scene.view
    eye_x, smile = 0.225 * p.eye_gap, max(v.smile, 0.0)
    rows = [(0.0, MOUTH_Y, 0.24, 0.17, 0.028), (0.0, 0.545 * p.face_length, 0.18, 0.06, -0.008)]
    for side in (-1, 1):
        rows += [
            (side * (eye_x - 0.02), EYE_Y - 0.015, 0.19, 0.135, -0.050),
            (side * eye_x, EYE_Y, 0.115, 0.085, 0.030),
            (side * eye_x, EYE_Y - 0.175, 0.24, 0.085, 0.016 + 0.012 * (1 - p.feminine)),
            (side * 0.29, 0.16 - 0.03 * smile, 0.19, 0.17, 0.020 + 0.008 * p.cheeks + 0.022 * smile),
            (side * (0.205 + 0.015 * smile), 0.33, 0.06, 0.17, -(0.007 + 0.015 * smile + 0.012 * p.age)),
            (side * 0.33, 0.38, 0.13, 0.2, -0.005 + 0.006 * p.cheeks),
        ]
    return rows


def _nose(scene: Scene) -> list[tuple[Ellipsoid, float]]:
    p, camera = scene.person, scene.camera
    wide, deep = p.nose_width, p.nose_depth
    tip_y = EYE_Y + (NOSE_Y - EYE_Y) * p.nose_length
    z = float(scene.surface(0.0, tip_y)[2])
    top = float(scene.surface(0.0, EYE_Y)[2])
    out = [
        (Ellipsoid(np.array([0, 0.5 * (EYE_Y + tip_y), 0.5 * (top + z) - 0.045]),
                   np.array([0.062 * wide, 0.24 * p.nose_length, 0.085 + 0.035 * deep]), camera), 0.05),
        (Ellipsoid(np.array([0, tip_y, z + 0.012]),
                   np.array([0.078 * wide, 0.068, 0.055 + 0.052 * deep]), camera), 0.05),
    ]  # fmt: skip
    for side in (-1, 1):
        centre = np.array([side * 0.086 * wide, tip_y + 0.022, z - 0.028])
        out.append((Ellipsoid(centre, np.array([0.050 * wide, 0.046, 0.062]), camera), 0.025))
    return out


def paint_flesh(scene: Scene, hull: tuple[Box, Floats], shadow: Floats | None) -> None:
    """The skin of the head inside the outline `hull`; `shadow` [n, n] is what hair and hat throw on it."""
    canvas, look = scene.canvas, scene.look
    box, cover = hull
    relief = Relief(scene, box)
    x, y = relief.x, relief.y
    z = scene.skull[0].front(x, y)[0]
    for part, k in zip(scene.skull[1:], (0.10, 0.12, 0.20), strict=True):
        z = join(z, part.front(x, y)[0], k)
    bumps = np.array(_bumps(scene))
    for (where, weight), height in zip(relief.patches(bumps[:, :4]), bumps[:, 4], strict=True):
        z[where] += weight * np.float32(height * look.relief)
    nose = np.zeros_like(cover)
    for part, k in _nose(scene):
        own = part.box(scene.n, 0.05)
        rows = slice(max(own[0].start - box[0].start, 0), max(own[0].stop - box[0].start, 0))
        cols = slice(max(own[1].start - box[1].start, 0), max(own[1].stop - box[1].start, 0))
        if z[rows, cols].size == 0:
            continue
        depth, disc = part.front(x[rows, cols], y[rows, cols])
        depth += np.minimum(disc, 0) * np.float32(0.3)  # beside it the nose sinks into the cheek
        z[rows, cols] = join(z[rows, cols], depth, k)
        nose[rows, cols] = np.maximum(nose[rows, cols], (disc > 0).astype(np.float32))
    shade, gloss = _light_skin(scene, z)
    if shadow is not None:
        shade = shade * (1 - np.float32(0.55) * shadow[box])
    albedo = _skin_colour(scene, relief, z)
    canvas.lay(box, cover, look.tone("skin", albedo, shade, gloss), LABELS["skin"], True)
    inside = canvas.label[box]
    inside[(nose > 0.5) & (cover > 0.5)] = LABELS["nose"]


def _light_skin(scene: Scene, z: Floats) -> tuple[Floats, Floats]:
    step, n = 2 / scene.n / scene.camera.scale, scene.n
    sigma = 0.011 * n / 2
    smooth = blur(z, sigma)
    nx, ny, nz = normals(smooth, step)
    hollow = cv2.blur(z, (int(0.09 * n) | 1,) * 2) - z
    shade = shade_of(nx, ny, nz, scene.light)
    shade *= 1 - np.clip(hollow * np.float32(9.0 * scene.look.relief) - np.float32(0.06), 0, np.float32(0.4))
    half = scene.light + np.array([0, 0, 1.0])
    half /= np.linalg.norm(half)
    gloss = np.maximum(nx * np.float32(half[0]) + ny * np.float32(half[1]) + nz * np.float32(half[2]), 0)
    for _ in range(4):
        gloss = gloss * gloss
    return shade, gloss


def _skin_colour(scene: Scene, relief: Relief, z: Floats) -> Floats:
    person, look = scene.person, scene.look
    base = linear(person.skin)
    albedo = np.broadcast_to(base[:, None, None], (3, *z.shape)).copy()
    if not look.fine:
        return albedo
    red = np.array([0.02, -0.20, -0.16], np.float32) * np.float32(1 - 0.4 * person.skin_tone)
    marks = [(0.0, NOSE_Y + 0.01, 0.14, 0.11, 0.6)]
    for side in (-1, 1):
        marks.append((side * 0.29, 0.17, 0.21, 0.17, 0.85))
    rows = np.array(marks)
    for (where, weight), gain in zip(relief.patches(rows[:, :4]), rows[:, 4], strict=True):
        for plane in range(3):
            albedo[plane][where] *= 1 + weight * (red[plane] * np.float32(gain))
    for side in (-1, 1):  # tired shadows under the eyes, deeper with age
        where, weight = relief.patch(side * 0.215, EYE_Y + 0.075, 0.14, 0.06)
        albedo[(slice(None), *where)] *= 1 - weight * np.float32(0.08 + 0.14 * person.age)
    grain = noise_at(3.0, 512, scene.view.seed)[: z.shape[0], : z.shape[1]] if scene.n <= 512 else None
    if grain is not None:
        albedo *= 1 + grain * np.float32(0.018 + 0.012 * person.age)
    if person.freckles > 0.05:
        spots = noise_at(1.2, min(scene.n, 1024), person.person + 3)[: z.shape[0], : z.shape[1]]
        spots = np.clip(spots - np.float32(1.3), 0, 1)
        where, weight = relief.patch(0.0, 0.13, 0.46, 0.20)
        albedo[(slice(None), *where)] *= 1 - (weight * spots[where]) * np.array([0.25, 0.45, 0.5], np.float32)[
            :, None, None
        ] * np.float32(person.freckles)
    return albedo
