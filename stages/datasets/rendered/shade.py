"""Shades a scene: what every sample of the picture sees, lit, with skin scatter, wet eyes and strands over it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stages.datasets.rendered.build import MeshPart, Scene
from stages.datasets.rendered.colour import LUMINANCE, TO_LINEAR, dots, linear, ramp
from stages.datasets.rendered.hair.strands import Strands
from stages.datasets.rendered.light import Lights
from stages.datasets.rendered.pack import RELIEF, Pack
from stages.datasets.rendered.person import IRISES
from stages.datasets.rendered.raster import (
    FAR,
    chosen_triangles,
    draw_strands,
    fill,
    fill_depth,
    interpolate,
    lamp_light,
    sky_light,
    strand_depth,
    strand_light,
    texels,
    unit,
)
from stages.datasets.rendered.texture import LIPSTICKS, scalp, skin_albedo, stubble, under_hair
from stages.datasets.rendered.wrinkles import creases

F = np.float32
KINDS = ("skin", "eye", "teeth", "tongue", "cloth", "hat", "frame", "lens", "metal")
ROUGH = {
    "skin": 0.52,
    "eye": 0.3,
    "teeth": 0.3,
    "tongue": 0.4,
    "cloth": 0.85,
    "hat": 0.9,
    "frame": 0.35,
    "lens": 0.15,
    "metal": 0.3,
}
SHINE = {
    "skin": 0.03,
    "eye": 0.03,
    "teeth": 0.04,
    "tongue": 0.03,
    "cloth": 0.02,
    "hat": 0.02,
    "frame": 0.05,
    "lens": 0.06,
    "metal": 0.6,
}
SAMPLES = {64: 2, 128: 2, 256: 2}  # samples of a pixel, each way
SKY_MAP, LAMP_MAP = {64: 40, 128: 48, 256: 64}, {64: 96, 128: 160, 256: 224}  # texels of depth maps
REACH = 2.6  # decimetres from the face that depth maps cover
CREASE = 0.017  # decimetres, the deepest crease of the skin
SCATTER_MM = (2.6, 1.1, 0.6)  # how far red, green and blue light travels in skin


def _by_size(table: dict[int, int], size: int) -> int:
    return table[min((key for key in table if key >= size), default=256)]


@dataclass
class Frame:
    """What every sample sees. W samples across; n samples see a triangle."""

    pack: Pack
    scene: Scene
    size: int
    depth: np.ndarray  # float32 [W, W], FAR where nothing is
    index: np.ndarray  # int32 [W, W], triangle, -1 none
    rows: np.ndarray  # [n]
    columns: np.ndarray
    part: np.ndarray  # int [n], number of the part
    label: np.ndarray  # uint8 [n], face region
    places: np.ndarray  # float32 [n, 3]
    normals: np.ndarray  # float32 [n, 3], towards the eye
    uv: np.ndarray  # float32 [n, 2]
    neutral: np.ndarray  # float32 [n, 3]
    sky: np.ndarray  # float32 [n, 3], irradiance
    views: np.ndarray  # float32 [n, 3], unit, to the camera
    grown: np.ndarray  # float32 [n]: 1 where hair grows out of the skin

    @property
    def width(self) -> int:
        """Side of the picture, px."""
        return self.depth.shape[0]

    @property
    def texel(self) -> float:
        """Decimetres that a sample covers."""
        return 2 * self.scene.camera.half * self.scene.view.distance / self.width

    def kind(self, name: str) -> np.ndarray:
        """Which samples see parts of a kind: [n] bool."""
        numbers = [k for k, part in enumerate(self.scene.parts) if part.kind == name]
        return np.isin(self.part, numbers)

    def raster(self, values: np.ndarray, empty: float = 0.0) -> np.ndarray:
        """Values [n(, C)] laid out as a picture [W, W(, C)]."""
        out = np.full((self.width, self.width, *values.shape[1:]), empty, values.dtype)
        out[self.rows, self.columns] = values
        return out


class Shadows:
    """Depth maps of sky directions and lamps about the face."""

    def __init__(self, scene: Scene, lights: Lights, size: int) -> None:
        self.centre, self.lights = scene.camera.look - np.array([0, 0, 0.6], np.float32), lights
        casters = [part for part in scene.parts if part.kind in ("skin", "cloth", "hat")]
        fine = [part for part in scene.parts if part.kind in ("skin", "cloth", "hat", "frame", "lens", "metal")]
        hair = [bunch.points for bunch in scene.strands if bunch.kind in ("hair", "beard")]
        self.sky = self._maps(
            casters, [points[::6, ::3] for points in hair], lights.sky_axes, _by_size(SKY_MAP, size), True
        )
        self.lamps = self._maps(fine, hair, lights.axes, _by_size(LAMP_MAP, size), False)

    def _maps(
        self, parts: list[MeshPart], hair: list[np.ndarray], axes: np.ndarray, texels_: int, coarse: bool
    ) -> np.ndarray:
        maps = np.full((len(axes), texels_, texels_), FAR, np.float32)
        points, triangles = _merged(parts, coarse)
        points = points - self.centre
        near = dots(points, points) < 3.2**2
        triangles = triangles[chosen_triangles(triangles, near)]
        scale, half = F(texels_ / 2 / REACH), F(texels_ / 2)
        flat = [np.ascontiguousarray(strands.reshape(-1, 3) - self.centre) for strands in hair]
        for k, axis in enumerate(axes):
            xy, z = _seen_from(axis, points, scale, half)
            fill_depth(xy, z, triangles, maps[k])
            if not hair:
                continue
            veil = np.full_like(maps[k], FAR)
            for strands, at in zip(hair, flat, strict=True):
                xy, z = _seen_from(axis, at, scale, half)
                strand_depth(xy, z, strands.shape[1], veil)
            # hair between its drawn strands is there too
            np.minimum(maps[k], cv2.erode(veil, np.ones((3, 3), np.uint8)), out=maps[k])
        return maps

    def scale(self, maps: np.ndarray) -> np.float32:
        """Texels of the maps per unit of the light's plane."""
        return F(maps.shape[1] / 2 / REACH)


def _seen_from(
    axis: np.ndarray, points: np.ndarray, scale: np.float32, half: np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Texels [n, 2] and depths [n] of points [n, 3] in a light's map."""
    return points @ (axis[:2].T * scale) + half, F(10) - points @ axis[2]


def _merged(parts: list[MeshPart], coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    """All vertices and triangles of some parts in one numbering."""
    starts = np.cumsum([0] + [len(part.vertices) for part in parts])
    triangles = [
        (part.coarse if coarse else part.triangles) + F(0).astype(np.int32) + int(s)
        for part, s in zip(parts, starts, strict=False)
    ]
    return np.concatenate([part.vertices for part in parts]), np.concatenate(triangles).astype(np.int32)


def capture(
    pack: Pack, scene: Scene, size: int, lights: Lights | None, shadows: Shadows | None, samples: int | None = None
) -> Frame:
    """Rasterise the triangles of a scene."""
    width = size * (samples or _by_size(SAMPLES, size))
    points, triangles = _merged(scene.parts, False)
    xy, z = scene.camera.project(points, width)
    depth = np.full((width, width), FAR, np.float32)
    index, bary = np.full((width, width), -1, np.int32), np.zeros((width, width, 2), np.float32)
    fill(xy, z, triangles, depth, index, bary)

    # values of vertices at every sample
    rows, columns = np.nonzero(index >= 0)
    hit, where = index[rows, columns], bary[rows, columns]
    normals = np.concatenate([part.normals for part in scene.parts])
    neutral = [np.full_like(part.vertices, -9) if part.neutral is None else part.neutral for part in scene.parts]
    sky = np.zeros_like(points)
    if lights is not None and shadows is not None:
        shown = np.zeros(len(points), bool)
        seen = np.zeros(len(triangles), bool)
        seen[hit] = True
        shown[triangles[seen].ravel()] = True
        sky[shown] = sky_light(
            points[shown], normals[shown], lights.sky_axes, lights.sky_colours, shadows.sky, shadows.centre,
            shadows.scale(shadows.sky), F(0.13),
        )  # fmt: skip
    values = np.concatenate(
        [points, normals, np.concatenate([part.uv for part in scene.parts]), np.concatenate(neutral), sky], axis=1
    )
    at = interpolate(hit, where, triangles, values.astype(np.float32))
    counts = [len(part.triangles) for part in scene.parts]
    part = np.repeat(np.arange(len(counts)), counts)[hit]
    label = np.concatenate([p.label for p in scene.parts])[hit]

    place, normal = at[:, :3], at[:, 3:6]
    normal, view = unit(normal), unit(scene.camera.place - place)
    normal *= np.where(dots(normal, view) < 0, F(-1), F(1))[:, None]
    return Frame(
        pack, scene, size, depth, index, rows, columns, part, label, place, np.ascontiguousarray(normal, F), at[:, 6:8],
        at[:, 8:11],
        at[:, 11:14], np.ascontiguousarray(view, F),
        np.zeros(len(rows), np.float32),
    )  # fmt: skip


def albedo_of(pack: Pack, frame: Frame, kinds: tuple[str, ...] = KINDS) -> np.ndarray:
    """Linear colour [n, 3] of the surfaces of some kinds; also bends normals by the skin's relief and the cornea."""
    scene, out = frame.scene, np.zeros((len(frame.rows), 3), np.float32)
    for number, part in enumerate(scene.parts):
        on = frame.part == number
        if part.kind not in kinds or not on.any():
            continue

        if part.kind == "skin":
            out[on] = _skin(frame, part, on)
        elif part.kind == "eye":
            out[on] = _eye(pack, frame, part, on)
        elif part.texture is None:
            out[on] = np.clip(part.colour, 0, 1)
        else:
            picture = TO_LINEAR[
                np.clip(texels(part.texture, np.ascontiguousarray(frame.uv[on])) + F(0.5), 0, 255).astype(np.uint8)
            ]
            if part.kind == "cloth":  # dyed: the print keeps its shading and some of its colours
                grey = (picture @ LUMINANCE)[:, None]
                picture = grey + (picture - grey) * F(scene.person.print_)
            out[on] = np.clip(picture * np.array(part.colour, np.float32), 0, 0.9)
    return out


def _skin(frame: Frame, part: MeshPart, on: np.ndarray) -> np.ndarray:
    scene = frame.scene
    assert part.texture is not None
    sampled = texels(part.texture, np.ascontiguousarray(frame.uv[on]))
    colour = _fine_linear(sampled[:, :3])
    person, places = scene.person, np.ascontiguousarray(frame.neutral[on])
    label = frame.label[on]
    out = skin_albedo(person, colour, scene.plain, places, frame.texel)

    # lips, the inside of the mouth, hair in the skin
    lips = np.isin(label, [12, 13])
    tone = np.array(person.skin_colour, np.float32)
    ratio = np.clip(
        colour[lips] @ np.array([0.3, 0.6, 0.1], np.float32) / max(1e-3, float(scene.plain @ [0.3, 0.6, 0.1])),
        0.2,
        0.95,
    )
    natural = tone * np.array([0.80, 0.50, 0.50], np.float32) * (0.55 + 0.6 * ratio[:, None])
    stick = np.array(LIPSTICKS[person.number % len(LIPSTICKS)], np.float32) * (0.5 + 0.6 * ratio[:, None])
    painted = person.make_up[0]
    out[lips] = natural * (1 - 0.85 * painted) + stick * 0.85 * painted
    out[label == 11] = out[label == 11] * 0.3 * np.array([1, 0.45, 0.42], np.float32)
    out = stubble(person, out, places, frame.texel)
    frame.grown[on] = scalp(places, person.hair)
    out = under_hair(person, out, frame.grown[on])
    deep: np.ndarray = np.zeros(len(out), np.float32)
    if max(person.wrinkles) > 0.02:
        atlas = creases(frame.pack, min(part.texture.shape[0], 1024))
        deep = texels(atlas, np.ascontiguousarray(frame.uv[on])) @ (np.array(person.wrinkles, np.float32) / 255)
        out = out * (1 - np.minimum(deep, 1.2)[:, None] * np.array([0.27, 0.36, 0.38], np.float32))
    _relief(frame, on, sampled[:, 3], deep)
    return out.astype(np.float32)


def _fine_linear(values: np.ndarray) -> np.ndarray:
    """Convert sRGB 0..255 floats to linear light."""
    return linear(values)


def _relief(frame: Frame, on: np.ndarray, relief: np.ndarray, groove: np.ndarray) -> None:
    """Bend the skin's normals by the height that its picture's fine darkness means, more with age, and by creases."""
    age = frame.scene.person.age
    deep = 0.006 + 0.012 * float(np.clip((age - 25) / 45, 0, 1))  # decimetres a unit of log luminance
    height = np.zeros(frame.depth.shape, np.float32)
    rows, columns = frame.rows[on], frame.columns[on]
    height[rows, columns] = np.clip((relief - 128) / (3 * RELIEF), -0.6, 0.6) * deep - groove * F(CREASE)
    inside = np.zeros(frame.depth.shape, np.uint8)
    inside[rows, columns] = 1
    core = cv2.erode(inside, np.ones((3, 3), np.uint8))
    dx, dy = cv2.Sobel(height, -1, 1, 0, scale=1 / 8), cv2.Sobel(height, -1, 0, 1, scale=1 / 8)
    slope = np.stack([dx, -dy], axis=2)[rows, columns] / F(frame.texel) * core[rows, columns, None]
    bent = frame.normals[on]
    bent[:, :2] -= np.clip(slope, -0.45, 0.45)
    frame.normals[on] = unit(bent)


def _eye(pack: Pack, frame: Frame, part: MeshPart, on: np.ndarray) -> np.ndarray:
    """Iris, pupil and white; under the lid the eye lies in its shadow. Bends the cornea's normals."""
    scene = frame.scene
    assert part.texture is not None
    uv = np.ascontiguousarray(frame.uv[on])
    picture = _fine_linear(texels(part.texture, uv)) @ np.array([0.3, 0.6, 0.1], np.float32)
    d = np.minimum(*[np.hypot(uv[:, 0] - cx, uv[:, 1] - cy) for cx, cy in pack.iris_centres])
    colour = np.array(IRISES[scene.person.iris], np.float32)
    pattern = np.clip(picture / 0.16, 0.25, 2.2)[:, None] ** F(0.8)
    ring = 1 - 0.75 * ramp(d, 0.092, 0.118)[:, None]
    centre = 1 + 0.5 * ramp(d, 0.075, 0.045)[:, None] * np.array([1.1, 0.75, 0.3], np.float32)
    iris = colour * pattern * ring * centre * 1.15
    white = np.array([0.70, 0.66, 0.63], np.float32) * (0.9 + 0.1 * np.clip(picture / 0.6, 0, 1.2))[:, None]
    white = white * (1 - ramp(d, 0.17, 0.34)[:, None] * np.array([0.12, 0.32, 0.34], np.float32))
    pupil = 0.040
    out = np.where((d < 0.121)[:, None], iris, white)
    edge = ramp(d, 0.112, 0.124)[:, None]
    out = np.where(((d > 0.112) & (d < 0.124))[:, None], iris * (1 - edge) + white * edge, out)
    out = out * ramp(d, pupil - 0.006, pupil + 0.006)[:, None] + 0.004
    # the cornea stands out of the ball
    left = (frame.label[on] == 4).astype(int)
    ball = scene.eyes[left]
    at = frame.places[on]
    radius = np.linalg.norm(at - ball, axis=1, keepdims=True)
    bulge = ramp(d, 0.15, 0.10)[:, None]
    middle = ball + bulge * 0.45 * radius * scene.gaze
    normal = at - middle
    frame.normals[on] = (normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6)).astype(np.float32)
    return out * lid_shadow(pack, frame, on)[:, None]


def lid_shadow(pack: Pack, frame: Frame, on: np.ndarray) -> np.ndarray:
    """What the upper lid and lashes leave of the light on eye samples [n], by the distance under the lid's edge."""
    marks, _ = frame.scene.camera.project(frame.scene.base[pack.landmarks[36:48]], frame.width)
    x, y = frame.columns[on] + F(0.5), frame.rows[on] + F(0.5)
    out = np.ones(len(x), np.float32)
    for rim, label in ((marks[:6], 5), (marks[6:], 4)):
        wide = float(np.linalg.norm(rim[3] - rim[0]))
        upper = rim[:4][np.argsort(rim[:4, 0])]
        under = (y - np.interp(x, upper[:, 0], upper[:, 1])) / max(wide, 1e-3)
        shade = 0.30 + 0.70 * ramp(under, -0.02, 0.20)
        ends = ramp(abs(x - rim[[0, 3], 0].mean()) / max(wide, 1e-3), 0.58, 0.36)
        chosen = frame.label[on] == label
        out[chosen] = (shade * (0.55 + 0.45 * ends))[chosen]
    return out


def _catch_lights(frame: Frame, lights: Lights) -> np.ndarray:
    """Mirror images of a window in the eyes [n, 3]."""
    out = np.zeros((len(frame.rows), 3), np.float32)
    on = frame.kind("eye")
    if not on.any():
        return out
    n, v = frame.normals[on], frame.views[on]
    mirror = 2 * dots(n, v)[:, None] * n - v
    key = lights.axes[: max(1, len(lights.axes) // 2), 2].mean(axis=0)
    key = key / np.linalg.norm(key)
    if key[2] < 0.25:
        key = np.array([0.35, 0.45, 0.82], np.float32)
    key = key * np.array([0.75, 0.75, 1], np.float32) + np.array([0, 0.12, 0.15], np.float32)
    key = key / np.linalg.norm(key)
    bright = ramp(mirror @ key, np.cos(0.30), np.cos(0.19))
    out[on] = bright[:, None] * np.array([0.95, 1.0, 1.05], np.float32) * 0.9
    return out


def _scattered(frame: Frame, diffuse: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Diffuse light on skin [n, 3] after it travelled under the surface: blurred on the picture, red the furthest."""
    width = frame.width
    half = 2 if width >= 256 else 1
    light, cover = (
        frame.raster(np.where(skin[:, None], diffuse, 0).astype(np.float32)),
        frame.raster(skin.astype(np.float32)),
    )

    if half > 1:
        light, cover = (cv2.resize(a, (width // 2, width // 2), interpolation=cv2.INTER_AREA) for a in (light, cover))
    out = np.empty_like(light)
    for channel, mm in enumerate(SCATTER_MM):
        sigma = max(0.3, mm / 100 / frame.texel / half)
        blur = cv2.GaussianBlur(light[..., channel], (0, 0), sigma)
        out[..., channel] = blur / np.maximum(cv2.GaussianBlur(cover, (0, 0), sigma), 1e-3)
    if half > 1:
        out = cv2.resize(out, (width, width), interpolation=cv2.INTER_LINEAR)
    soft = out[frame.rows, frame.columns]
    return np.where(skin[:, None], diffuse * F(0.3) + soft * F(0.7), diffuse)


def shade(pack: Pack, frame: Frame, lights: Lights, shadows: Shadows) -> tuple[np.ndarray, np.ndarray, float]:
    """Linear light [W, W, 3] and cover [W, W] of the triangles, and how bright a white face would be."""
    scene = frame.scene
    albedo = albedo_of(pack, frame)
    kinds = np.array([KINDS.index(part.kind) for part in scene.parts])[frame.part]
    rough, shine = (np.array([table[kind] for kind in KINDS], np.float32)[kinds] for table in (ROUGH, SHINE))
    skin = kinds == KINDS.index("skin")
    lips = skin & np.isin(frame.label, [12, 13])
    rough[lips], shine[lips] = 0.38, 0.04
    shine = shine * (1 - frame.grown)
    oily = skin & (frame.neutral[:, 2] > 1.25)
    rough[oily & ~lips] -= 0.05
    diffuse, mirrored = lamp_light(
        frame.places, frame.normals, frame.views, rough, shine, lights.axes, lights.colours, shadows.lamps,
        shadows.centre,
        shadows.scale(shadows.lamps), F(0.035),
    )  # fmt: skip
    sky = frame.sky.copy()
    eye = frame.kind("eye")
    sky[eye] = np.maximum(sky[eye], 0.5 * lights.harmonics[0])
    diffuse += sky
    mouth = frame.label == 11
    if mouth.any():
        teeth = frame.kind("teeth")
        diffuse[mouth & ~teeth] *= 0.45
        diffuse[teeth] = diffuse[teeth] * 0.55 + 0.65 * lights.harmonics[0].mean()
    met = float(diffuse[skin & (frame.label != 14)].mean()) if skin.any() else 1.0
    light = _scattered(frame, diffuse, skin)
    # the sky mirrored at grazing angles
    toward = np.clip(dots(frame.normals, frame.views), 0, 1)
    mirror = 2 * toward[:, None] * frame.normals - frame.views
    fresnel = (shine + (1 - shine) * (1 - toward) ** 5 * (1 - rough)) * (1 - frame.grown)
    reflected = np.clip(lights.harmonics[0] + mirror @ lights.harmonics[1:], 0, None)
    seen = np.clip(frame.sky @ np.ones(3, np.float32) / max(1e-4, float(lights.harmonics[0].sum() * 0.8)), 0, 1)
    colour = albedo * light + mirrored + (fresnel * seen)[:, None] * reflected
    metal = kinds == KINDS.index("metal")
    colour[metal] = albedo[metal] * (mirrored[metal] * 1.5 + reflected[metal] * 1.2 + light[metal] * 0.25)
    colour += _catch_lights(frame, lights)
    return frame.raster(colour.astype(np.float32)), (frame.index >= 0).astype(np.float32), met


def lit_strands(bunch: Strands, scene: Scene, lights: Lights, shadows: Shadows) -> np.ndarray:
    """Linear colour [S, P, 3] of strands under the lights."""
    s, p, _ = bunch.points.shape
    flat = np.ascontiguousarray(bunch.points.reshape(-1, 3))
    along = np.empty_like(bunch.points)
    along[:, :-1] = bunch.points[:, 1:] - bunch.points[:, :-1]
    along[:, -1] = along[:, -2]
    along, view = unit(along.reshape(-1, 3)), unit(scene.camera.place - flat)

    outward = np.ascontiguousarray(bunch.outward.reshape(-1, 3))
    diffuse, first, second = strand_light(
        flat, along, outward, view, lights.axes, lights.colours, shadows.lamps, shadows.centre,
        shadows.scale(shadows.lamps),
        F(7.0 if bunch.kind == "hair" else 3.0),
    )  # fmt: skip

    sky = np.clip(lights.harmonics[0] + 0.66 * outward @ lights.harmonics[1:], 0.02, None) * 0.8
    albedo = bunch.colour.reshape(-1, 3)
    reach = bunch.shade.reshape(-1, 1)
    gloss = 1.0 if bunch.kind == "hair" else 0.25
    colour = albedo * (sky * reach + diffuse * reach) + gloss * reach * (
        0.045 * first + (0.9 * albedo + 0.006) * second
    )
    return colour.reshape(s, p, 3).astype(np.float32)


def draw(
    bunch: Strands,
    values: np.ndarray,
    frame: Frame,
    image: np.ndarray,
    chosen: np.ndarray | None = None,
    wider: float = 1.0,
) -> np.ndarray:
    """Blend strands with values [S, P, C] over an image [W, W, C]; their cover [W, W]."""
    cover = np.zeros(frame.depth.shape, np.float32)
    points, width, opacity = bunch.points, bunch.width, bunch.opacity
    if chosen is not None:
        points, width, opacity, values = points[chosen], width[chosen], opacity[chosen], values[chosen]
    if not len(points):
        return cover
    s, p, _ = points.shape
    xy, z = frame.scene.camera.project(points.reshape(-1, 3), frame.width)
    first = (np.arange(s, dtype=np.int32)[:, None] * p + np.arange(p - 1, dtype=np.int32)).ravel()
    # half a step nearer, so that what lies on the skin is not buried in it
    order = first[np.argsort(-(z[first] + z[first + 1]), kind="stable")]
    thick = (width.ravel() / F(frame.texel) * wider).astype(np.float32)
    lift = F(0.02 if bunch.kind in ("brow", "lash") else 0.03)
    draw_strands(
        order,
        xy,
        z - lift,
        np.ascontiguousarray(values.reshape(s * p, -1)),
        thick,
        opacity.ravel(),
        frame.depth,
        image,
        cover,
    )
    return cover
