"""Eyes, brows, nostrils, mouth: polygons on the head's surface, and the 68 iBUG landmarks that go with them."""

from dataclasses import dataclass

import numpy as np

from stages.datasets.painted.canvas import Floats, linear
from stages.datasets.painted.head import EYE_Y, LABELS, MOUTH_Y, NOSE_Y, Look, Scene

_U = np.linspace(-1, 1, 15)
_RING = np.stack([np.cos(np.linspace(0, 2 * np.pi, 20, endpoint=False)),
                  np.sin(np.linspace(0, 2 * np.pi, 20, endpoint=False))], -1)  # fmt: skip


@dataclass
class Eye:
    """One eye's curves in the head frame; `side` -1 is the one on the image's left."""

    side: int
    centre: np.ndarray
    width: float
    upper: np.ndarray  # [15, 3], image left to right
    lower: np.ndarray


def eye_shape(scene: Scene, side: int) -> Eye:
    """The lids: an almond on the surface whose height follows `eye_open` and a smile."""
    p, v = scene.person, scene.view
    x0 = side * 0.225 * p.eye_gap
    width = 0.112 * p.eye_size
    up = 0.066 * p.eye_size * np.clip(v.eye_open, 0, 1.2) + 0.004
    low = (0.036 - 0.010 * max(v.smile, 0)) * p.eye_size * min(1.0, 0.55 + 0.45 * v.eye_open)
    out = _U * side  # -1 at the inner corner, 1 at the outer
    tilt = -p.eye_tilt * 0.20 * out * p.eye_size
    top = -up * (1 - np.abs(_U) ** 2.3) * (1 - 0.10 * out)
    bottom = low * (1 - np.abs(_U) ** 2.0) * (1 + 0.16 * out)
    drop = 0.006 * (1 - v.eye_open)
    x = x0 + _U * width
    centre = scene.surface(x0, EYE_Y)
    bulge = 0.032 * (1 - _U**2) - 0.012
    upper = np.stack([x, EYE_Y + tilt + top + drop, np.zeros(15)], -1)
    lower = np.stack([x, EYE_Y + tilt + bottom + drop, np.zeros(15)], -1)
    depth = scene.surface(x, np.stack([upper[:, 1], lower[:, 1]]))[..., 2] + bulge
    upper[:, 2], lower[:, 2] = depth
    return Eye(side, centre, width, upper, lower)


def brow_shape(scene: Scene, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower edge [15, 3] of a brow, image left to right."""
    p, v = scene.person, scene.view
    out = (_U * side + 1) / 2  # 0 inner, 1 outer
    x = side * (0.085 + 0.295 * out) * (0.9 + 0.1 * p.eye_gap)
    lift = 0.050 * v.brow_raise + 0.03 * (p.eye_size - 1)
    y = EYE_Y - 0.155 - lift - 0.05 * p.brow_arch * np.sin(np.pi * np.clip(out * 0.85, 0, 1)) + 0.055 * out**2.5
    thick = 0.021 * p.brow_weight * np.clip(1.15 - 0.95 * out**1.5, 0.12, 1) * np.clip(out * 7 + 0.55, 0, 1)
    edges = scene.surface(x, np.stack([y - thick, y + thick]))
    edges[..., 2] += 0.012
    return edges[0], edges[1]


@dataclass
class Mouth:
    """The lips' four curves in the head frame, [15, 3] each, image left to right."""

    top: np.ndarray
    inner_top: np.ndarray
    inner_bottom: np.ndarray
    bottom: np.ndarray


def mouth_shape(scene: Scene) -> Mouth:
    """Lips that smile, part and purse."""
    p, v = scene.person, scene.view
    half = 0.175 * p.mouth_width * (1 + 0.20 * max(v.smile, 0) - 0.08 * v.mouth_open + 0.06 * min(v.smile, 0))
    gape = 0.19 * v.mouth_open + 0.022 * max(v.smile - 0.45, 0)
    wave = 1 - _U**2
    corner = -0.062 * v.smile * np.abs(_U) ** 1.8 + 0.012 * v.smile
    y = MOUTH_Y + (0.06 * (p.face_length - 1)) + corner
    cupid = 1 - 0.28 * np.exp(-((_U / 0.2) ** 2))
    thick_up = 0.046 * p.lip * wave**0.75 * cupid * (1 - 0.25 * max(v.smile, 0))
    thick_low = 0.062 * p.lip * wave**0.85 * (1 - 0.2 * max(v.smile, 0))
    up, down = -0.30 * gape * wave**0.7, 0.70 * gape * wave**0.7
    x = _U * half
    rows = [y + up - thick_up, y + up, y + down, y + down + thick_low]
    lifts = (0.022, 0.030, 0.026, 0.020)
    curves = scene.surface(x, np.stack(rows))
    for curve, lift in zip(curves, lifts, strict=True):
        curve[:, 2] += lift * wave
    top, inner_top, inner_bottom, bottom = curves
    return Mouth(top, inner_top, inner_bottom, bottom)


def _closed(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.concatenate([upper, lower[::-1]])


def paint_eye(scene: Scene, eye: Eye) -> None:
    """Ball, iris with gaze, pupil, catchlight, the lid's shadow, lashes and crease."""
    canvas, p, v, look = scene.canvas, scene.person, scene.view, scene.look
    upper, lower = scene.pixels(eye.upper), scene.pixels(eye.lower)
    box, mask = canvas.polygon(_closed(upper, lower))
    if mask.size == 0:
        return
    x, y = canvas.x[box], canvas.y[box]
    shade = np.float32(0.35 + 0.6 * scene.flat((eye.side * 0.25, 0, 1)))
    ball = np.empty((3, *mask.shape), np.float32)
    ball[:] = linear((0.93, 0.90, 0.88))[:, None, None]
    radius = 0.063 * p.eye_size**0.9
    centre = eye.centre + (v.gaze[0] * 0.085, 0.004 - v.gaze[1] * 0.05 - 0.004, 0.018)
    middle = scene.camera.place(centre)
    facing = scene.camera.rotation @ np.array([v.gaze[0] * 0.5, -v.gaze[1] * 0.5, 1])
    squash = max(0.45, float(facing[2] / np.linalg.norm(facing)))
    px = np.float32(scene.n / 2 * radius * scene.camera.scale)
    u = (x - np.float32(middle[0])) / np.float32(radius * squash * scene.camera.scale)
    w = (y - np.float32(middle[1])) / np.float32(radius * scene.camera.scale)
    d = np.sqrt(u * u + w * w)
    iris = linear(p.iris)
    glow = 0.75 + 0.55 * np.clip(w - 0.1 * u, -0.4, 1) - 0.65 * np.clip((d - 0.72) * 3.2, 0, 1)
    pupil = np.clip((0.46 - d) * px + 0.5, 0, 1)
    disc = np.clip((1 - d) * px + 0.5, 0, 1)
    tint = np.maximum(iris[:, None, None] * (glow * (1 - pupil)).astype(np.float32), np.float32(0.003))
    ball += disc * (tint - ball)
    top = (upper[:, 1].min() + 0.5) / (scene.n / 2) - 1
    lid = np.clip((y - np.float32(top)) / np.float32(0.055 * p.eye_size), 0, 1)
    red = np.clip(np.abs(u) - 1.0, 0, 1) * np.float32(0.12)
    paint = look.tone("eye", ball, shade * (np.float32(0.42) + np.float32(0.58) * lid))
    paint[1:] *= 1 - red
    spot = np.array([scene.light[0] * 0.42, scene.light[1] * 0.55])
    far = np.sqrt((u - np.float32(spot[0])) ** 2 + (w - np.float32(spot[1])) ** 2)
    glint = np.clip((np.float32(scene.look.glint) - far) * px + 0.4, 0, 1) * np.clip(lid * 2, 0, 1)
    paint += glint * (np.float32(0.95) - paint)
    canvas.lay(box, mask, paint, LABELS["eye"], True)
    _lids(scene, eye)


def _lids(scene: Scene, eye: Eye) -> None:
    canvas, p, v = scene.canvas, scene.person, scene.view
    out = (_U * eye.side + 1) / 2
    dark = (0.011 + 0.009 * p.feminine) * scene.look.lash
    lift = np.zeros((15, 3))
    lift[:, 1] = -dark * (0.55 + 0.75 * out) * (1 - np.abs(_U) ** 6)
    lash = eye.upper + lift
    if p.feminine > 0.5:
        end = -1 if eye.side > 0 else 0
        lash[end] += (eye.side * 0.020, -0.014, -0.01)
    under = eye.upper + (0, 0.006 * scene.look.lash, 0)
    lash_colour = linear((0.10, 0.07, 0.06)) if p.hair_name not in ("blond", "platinum") else linear((0.22, 0.15, 0.10))
    canvas.lay(*canvas.polygon(scene.pixels(_closed(lash, under))), lash_colour, LABELS["eye"], True)
    crease = eye.upper + (0, -0.030 - 0.012 * v.eye_open, 0)
    crease[:, 1] += 0.012 * (1 - np.abs(_U) ** 2) * -1
    thin = np.zeros((15, 3))
    thin[:, 1] = 0.012 * (1 - _U**2)
    box, mask = canvas.polygon(scene.pixels(_closed(crease, crease + thin)))
    canvas.dim(box, mask * np.float32(0.45 + 0.2 * p.age), np.array([0.55, 0.40, 0.36]))
    bag = eye.lower + (0, 0.004, 0)
    box, mask = canvas.polygon(scene.pixels(_closed(eye.lower, bag + thin * 0.6)))
    canvas.dim(box, mask * np.float32(0.6), np.array([0.62, 0.46, 0.42]))


def paint_brow(scene: Scene, side: int, brow: tuple[np.ndarray, np.ndarray]) -> None:
    """A brow of the hair's colour, darker; its edge is soft where hair thins out."""
    canvas, p = scene.canvas, scene.person
    upper, lower = brow
    colour = linear(p.hair) * (0.55 if p.hair_name not in ("grey", "white") else 0.7)
    if p.hair_name in ("pink", "blue"):
        colour = linear((0.20, 0.14, 0.11))
    colour = np.minimum(colour, linear(p.skin) * 0.55).astype(np.float32)
    box, mask = canvas.polygon(scene.pixels(_closed(upper, lower)), soft=0.0045 * scene.n)
    shade = np.full(mask.shape, 0.35 + 0.5 * scene.flat((side * 0.35, -0.1, 1)), np.float32)
    canvas.lay(box, mask * np.float32(0.92), scene.look.tone("brow", colour, shade), None, True)
    canvas.label[box][mask > 0.4] = LABELS["brow"]


def paint_nostrils(scene: Scene) -> None:
    """Two dark openings under the tip, and the shadow that the tip throws."""
    canvas, p = scene.canvas, scene.person
    tip = nose_tip(scene)
    for side in (-1, 1):
        centre = tip + (side * 0.046 * p.nose_width, 0.046, -0.060 * p.nose_depth)
        ring = np.zeros((20, 3))
        ring[:, 0] = _RING[:, 0] * 0.027 * p.nose_width
        ring[:, 1] = _RING[:, 1] * 0.014 + side * ring[:, 0] * 0.35
        ring[:, 2] = -0.4 * ring[:, 0] * side
        box, mask = canvas.polygon(scene.pixels(centre + ring), soft=0.003 * scene.n)
        canvas.dim(box, mask * np.float32(0.9), np.array([0.20, 0.10, 0.09]))


def nose_tip(scene: Scene) -> np.ndarray:
    """Head-frame point of the nose's tip."""
    p = scene.person
    y = EYE_Y + (NOSE_Y - EYE_Y) * p.nose_length
    tip = scene.surface(0.0, y)
    tip[2] += 0.067 + 0.052 * p.nose_depth
    return tip


def lip_colour(scene: Scene) -> Floats:
    """Linear colour of the lips: the skin, redder; lipstick on top."""
    p = scene.person
    skin = linear(p.skin)
    bare = skin * np.array([0.82, 0.54, 0.54], np.float32)
    stick = linear((0.72, 0.12 + 0.2 * p.lip_hue, 0.20 + 0.22 * p.lip_hue)) * np.float32(1 - 0.45 * p.skin_tone)
    return (bare + np.float32(p.lipstick * 0.85) * (stick - bare)).astype(np.float32)


def paint_mouth(scene: Scene, mouth: Mouth) -> None:
    """Cavity with teeth, then the lips, the line between them and the lower lip's shine."""
    canvas, look, v = scene.canvas, scene.look, scene.view
    top, inner_top, inner_bottom, bottom = (
        scene.pixels(c) for c in (mouth.top, mouth.inner_top, mouth.inner_bottom, mouth.bottom)
    )
    colour = lip_colour(scene)
    lit = scene.flat((0, 0.1, 1))
    shades = {"up": 0.22 + 0.55 * scene.flat((0, 0.55, 1)), "low": 0.25 + 0.75 * scene.flat((0, -0.25, 1))}
    gape = float(np.max(inner_bottom[:, 1] - inner_top[:, 1]))
    canvas.lay(*canvas.polygon(_closed(top, bottom)), _tone(look, "lip", colour, 0.3 * lit), LABELS["mouth"], True)
    if gape > 0.8:
        ring = _closed(inner_top, inner_bottom)
        box, mask = canvas.polygon(ring)
        canvas.lay(box, mask, _tone(look, "cavity", linear((0.30, 0.08, 0.08)), 0.15), LABELS["mouth"], True)
        teeth = inner_top.copy()
        teeth[:, 1] += min(gape * 0.55, 0.042 * scene.n / 2) * (1 - _U**2)
        tbox, tmask = canvas.polygon(_closed(inner_top, teeth))
        canvas.lay(tbox, tmask, _tone(look, "teeth", linear((0.93, 0.90, 0.86)), 0.25 + 0.5 * lit))
        if v.mouth_open > 0.35:
            tongue = scene.pixels(mouth.inner_bottom * (0.62, 1, 1))
            crown = tongue.copy()
            crown[:, 1] -= gape * 0.34 * (1 - _U**2) ** 0.7
            canvas.lay(*canvas.polygon(_closed(crown, tongue)), _tone(look, "lip", linear((0.72, 0.32, 0.32)), 0.3))
    canvas.lay(*canvas.polygon(_closed(top, inner_top)), _tone(look, "lip", colour, shades["up"]))
    canvas.lay(*canvas.polygon(_closed(inner_bottom, bottom)), _tone(look, "lip", colour, shades["low"]))
    if gape <= 0.8:
        line = inner_top.copy()
        thick = np.maximum(0.010 * scene.n / 2 * (1 - 0.3 * _U**2), 0.5)
        line[:, 1] += thick
        box, mask = canvas.polygon(_closed(inner_top - (0, 0.3), line))
        canvas.dim(box, mask * np.float32(0.9), np.array([0.34, 0.20, 0.20]))
    if look.fine:
        middle = 0.55 * inner_bottom + 0.45 * bottom
        shine = _closed(middle[4:11] - (0, 0.006 * scene.n), middle[4:11] + (0, 0.005 * scene.n))
        box, mask = canvas.polygon(shine, soft=0.006 * scene.n)
        canvas.rgb[:, box[0], box[1]] += mask * np.float32(0.06 * lit)
        under = _closed(bottom[3:12] + (0, 0.004 * scene.n), bottom[3:12] + (0, 0.022 * scene.n))
        box, mask = canvas.polygon(under, soft=0.010 * scene.n)
        canvas.dim(box, mask * np.float32(0.55), np.array([0.62, 0.52, 0.50]))


def _tone(look: Look, material: str, colour: Floats, shade: float) -> Floats:
    return look.tone(material, colour, np.full((1, 1), shade, np.float32))


def landmarks(scene: Scene, eyes: list[Eye], brows: list[tuple[np.ndarray, np.ndarray]], mouth: Mouth) -> np.ndarray:
    """The 68 iBUG points [68, 2] in canvas pixels (a pixel's centre is a whole number)."""
    p = scene.person
    points = np.zeros((68, 3))
    points[:17] = _jaw(scene)
    for start, (upper, lower) in zip((17, 22), brows, strict=True):
        points[start : start + 5] = (0.7 * upper + 0.3 * lower)[np.array([0, 4, 7, 10, 14])]
    tip = nose_tip(scene)
    bridge = scene.surface(0.0, EYE_Y - 0.02) + (0, 0, 0.035 * p.nose_depth)
    for i, t in enumerate((0.0, 0.36, 0.70, 1.0)):
        points[27 + i] = bridge + t * (tip - bridge)
    base = tip + (0, 0.062, -0.055 * p.nose_depth)
    for i, x in enumerate((-0.105, -0.055, 0.0, 0.055, 0.105)):
        points[31 + i] = base + (x * p.nose_width, -0.018 * abs(x) / 0.1, -0.5 * abs(x))
    for start, eye in ((36, eyes[0]), (42, eyes[1])):
        up, low = eye.upper, eye.lower
        points[start : start + 6] = [up[0], up[5], up[9], up[14], low[9], low[5]]
    points[48:55] = mouth.top[[0, 3, 6, 7, 8, 11, 14]]
    points[55:60] = mouth.bottom[[11, 9, 7, 5, 3]]
    points[60:65] = mouth.inner_top[[1, 4, 7, 10, 13]]
    points[65:68] = mouth.inner_bottom[[10, 7, 4]]
    return scene.pixels(points)


def _jaw(scene: Scene) -> np.ndarray:
    """Jaw line [17, 3]; points turned away from the camera slide to the visible outline, as annotators place them."""
    face, jaw, chin = scene.skull[1:]
    t = np.linspace(-1, 1, 17)
    bottom = chin.centre[1] + chin.radii[1]
    y = EYE_Y + (bottom - EYE_Y) * (1 - np.abs(t) ** 1.5)
    points = np.zeros((17, 3))
    cy, sy = scene.camera.rotation[0, 0], scene.camera.rotation[0, 2]
    for i, (v, height) in enumerate(zip(t, y, strict=True)):
        best = None
        for part in (face, jaw, chin):
            inside = 1 - ((height - part.centre[1]) / part.radii[1]) ** 2
            if inside <= 1e-3:
                continue
            ring = np.sqrt(inside)
            w, d = part.radii[0] * ring, part.radii[2] * ring
            own = np.deg2rad(80 * np.sign(v) * min(1, 4 * abs(v)))
            limit = np.arctan2(np.sign(v) * w * cy, np.sign(v) * d * sy) if v else own
            angle = min(own, limit) if v > 0 else max(own, limit) if v < 0 else own
            point = np.array([w * np.sin(angle), height, part.centre[2] + d * np.cos(angle)])
            reach = point[0] * cy + point[2] * sy
            if best is None or reach * np.sign(v) > best[0]:
                best = (reach * np.sign(v), point)
        points[i] = best[1] if best is not None else np.array([0, bottom, chin.centre[2] + 0.5 * chin.radii[2]])
    return points
