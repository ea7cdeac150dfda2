"""What surrounds the face: background, neck, clothes, ears, beard and glasses."""

import colorsys

import cv2
import numpy as np

from stages.datasets.painted.canvas import Box, Floats, linear, noise_at
from stages.datasets.painted.head import EYE_Y, LABELS, MOUTH_Y, Scene

_RING = np.linspace(0, 2 * np.pi, 24, endpoint=False)


def photo_background(scene: Scene) -> None:
    """A place out of focus: a gradient, lights, or a room's shapes, painted tiny and enlarged."""
    v = scene.view
    rng = np.random.default_rng([v.seed, 3])
    side = 28

    def shade(tone: float, saturation: float, turn: float = 0.0) -> np.ndarray:
        value = float(np.clip(tone, 0.03, 0.97))
        return np.array(colorsys.hsv_to_rgb((v.background_hue + turn) % 1, saturation, value))

    sat = float(rng.uniform(0.03, 0.40))
    a, b = shade(v.background_tone, sat), shade(v.background_tone * rng.uniform(0.55, 1.3), sat, rng.normal(0, 0.06))
    slope = rng.uniform(-1, 1)
    axis = np.linspace(0, 1, side)
    t = np.clip(axis[:, None] * (1 - abs(slope)) + (axis if slope > 0 else 1 - axis)[None] * abs(slope), 0, 1)
    small = (a + t[..., None] * (b - a)).astype(np.float32)
    if v.background == "room":
        for _ in range(int(rng.integers(3, 7))):
            x, y = rng.integers(-4, side, 2)
            w, h = rng.integers(4, 16), rng.integers(6, 26)
            colour = shade(v.background_tone * rng.uniform(0.4, 1.6), sat * rng.uniform(0.3, 1.6), rng.normal(0, 0.12))
            cv2.rectangle(small, (int(x), int(y)), (int(x + w), int(y + h)), colour.tolist(), -1)
    elif v.background == "bokeh":
        for _ in range(int(rng.integers(5, 13))):
            x, y = rng.uniform(0, side, 2)
            colour = shade(min(0.97, v.background_tone * rng.uniform(0.8, 1.9)), sat * 0.9, rng.normal(0, 0.14))
            over, radius = small.copy(), int(rng.uniform(1.2, 4.2) * 8)
            cv2.circle(over, (int(x * 8), int(y * 8)), radius, colour.tolist(), -1, cv2.LINE_AA, 3)
            small += np.float32(rng.uniform(0.3, 0.8)) * (over - small)
    small = cv2.GaussianBlur(small, (0, 0), 0.9 if v.background == "bokeh" else 1.2)
    big = np.clip(cv2.resize(small, (scene.n, scene.n), interpolation=cv2.INTER_CUBIC), 0.01, 1)
    canvas = scene.canvas
    for plane in range(3):
        canvas.rgb[plane] = big[..., plane]
    canvas.rgb *= canvas.rgb


def _neck_points(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(camera-frame middle at the chin, middle at the shoulders, half widths) of the neck."""
    top = scene.camera.place(np.array([0, 0.42, -0.14]))
    bottom = 0.35 * scene.camera.shift + np.array([0.12 * scene.camera.rotation[0, 2], 1.02, 0])
    half = 0.335 * scene.person.face_width * scene.person.build * np.array([0.86, 1.0])
    return top, bottom, half


def paint_body(scene: Scene) -> None:
    """Neck and clothes; the head comes over them."""
    canvas, p, look = scene.canvas, scene.person, scene.look
    top, bottom, half = _neck_points(scene)
    t = np.linspace(0, 1, 8)[:, None]
    middle = top[:2] + t * (bottom[:2] - top[:2])
    width = half[0] + (half[1] - half[0]) * t[:, 0] + 0.25 * np.clip(t[:, 0] - 0.72, 0, 1)
    left, right = middle.copy(), middle.copy()
    left[:, 0] -= width
    right[:, 0] += width
    box, mask = canvas.polygon(scene.camera.pixels(np.concatenate([left, right[::-1]])))
    if mask.size:
        x, y = canvas.x[box], canvas.y[box]
        u = np.clip((x - np.float32(middle[4, 0])) / np.float32(half[1] * 1.05), -1, 1) * 0.95
        nz = np.sqrt(1 - u * u)
        key = np.maximum(u * np.float32(scene.light[0]) + nz * np.float32(scene.light[2]) + 0.22, 0) / np.float32(1.22)
        chin = scene.pixels(scene.surface(0.0, 0.7 * p.face_length))[1] / (scene.n / 2) - 1
        under = np.clip((y - np.float32(chin - 0.02)) * np.float32(3.2), 0, 1)
        shade = (np.float32(0.10) + key * np.float32(0.72)) * (np.float32(0.30) + np.float32(0.70) * under)
        canvas.lay(box, mask, look.tone("neck", linear(p.skin) * np.float32(0.94), shade), LABELS["neck"], False)
    _clothes(scene, bottom)


def _clothes(scene: Scene, bottom: np.ndarray) -> None:
    canvas, p, look = scene.canvas, scene.person, scene.look
    cx, drop = float(bottom[0]), {"tee": 0.05, "vneck": 0.20, "shirt": 0.13, "hoodie": 0.02}[p.clothes]
    neck, wide = 0.37 * p.build, 1.12 * p.build
    side = np.array([[neck, 0.80], [neck + 0.16, 0.86], [0.80 * wide, 0.955], [wide, 1.08], [wide + 0.1, 1.4]])
    s = np.linspace(-1, 1, 17)[1:-1]
    dip = drop * (1 - np.abs(s)) ** (1.0 if p.clothes in ("vneck", "shirt") else 0.55) + 0.03
    collar = np.stack([s * neck, 0.82 + 0.6 * dip + 0.09 * (1 - s**2)], -1)
    ring = np.concatenate([side[::-1] * (-1, 1), collar, side])
    ring[:, 0] += cx
    box, mask = canvas.polygon(scene.camera.pixels(ring))
    if mask.size == 0:
        return
    x, y = canvas.x[box], canvas.y[box]
    u = np.clip((x - np.float32(cx)) / np.float32(wide * 1.05), -1, 1)
    key = np.maximum(u * np.float32(scene.light[0] * 0.8) + np.float32(scene.light[2]) * np.sqrt(1 - 0.85 * u * u), 0)
    folds = noise_at(0.05 * scene.n, scene.n, p.person + 91)[: mask.shape[0], : mask.shape[1]]
    shade = np.float32(0.14) + key * np.float32(0.62)
    if look.fine:
        shade = shade * (1 + folds * np.float32(0.11))
    shade = shade * np.clip((y - np.float32(0.74)) * np.float32(2.2) + np.float32(0.55), 0.5, 1)
    albedo = np.broadcast_to(linear(p.cloth_colour)[:, None, None], (3, *mask.shape)).copy()
    if p.clothes == "tee" and p.person % 4 == 0:
        stripes = (np.sin(y * np.float32(44)) > 0.25).astype(np.float32)
        albedo += stripes * (linear(p.cloth_trim)[:, None, None] - albedo)
    canvas.lay(box, mask, look.tone("cloth", albedo, shade), LABELS["cloth"], False)
    _collar(scene, collar + (cx, 0), neck)


def _collar(scene: Scene, edge: np.ndarray, neck: float) -> None:
    canvas, p, look = scene.canvas, scene.person, scene.look
    cx = edge[len(edge) // 2, 0]
    lit = np.full((1, 1), 0.62, np.float32)
    pieces: list[np.ndarray] = []
    if p.clothes == "shirt":
        mid = edge[len(edge) // 2]
        for sign in (-1, 1):
            pieces.append(np.array([[cx + sign * (neck + 0.015), 0.74], mid + (sign * 0.012, 0.0),
                                    [cx + sign * 0.17, mid[1] + 0.13], [cx + sign * (neck + 0.07), 0.89]]))  # fmt: skip
        colour = linear(p.cloth_colour) * np.float32(0.7) + linear((0.9, 0.9, 0.9)) * np.float32(0.3)
    elif p.clothes == "hoodie":
        outer = (edge - (cx, 0.8)) * (1.35, 1.15) + (cx, 0.86)
        pieces.append(np.concatenate([edge - (0, 0.05), outer[::-1]]))
        colour, lit = linear(p.cloth_colour) * np.float32(0.8), lit * 0.75
    else:
        pieces.append(np.concatenate([edge, (edge + (0, 0.045))[::-1]]))
        colour, lit = linear(p.cloth_colour) * np.float32(0.85), lit * 0.8
    for ring in pieces:
        box, mask = canvas.polygon(scene.camera.pixels(ring))
        canvas.lay(box, mask, look.tone("cloth", colour.astype(np.float32), lit), LABELS["cloth"], False)


def paint_ear(scene: Scene, side: int) -> None:
    """One ear: an oval standing off the skull, with its hollow."""
    canvas, p, look = scene.canvas, scene.person, scene.look
    a = 0.5 - 0.5 * np.cos(_RING)  # 0 at the skull, 1 at the rim
    out = np.stack([0.485 * p.face_width + 0.125 * p.ear * a * (1 - 0.30 * np.sin(_RING)),
                    0.045 + 0.155 * p.ear * np.sin(_RING), 0.0 - 0.10 * a], -1)  # fmt: skip
    out[:, 0] *= side
    shade = 0.15 + 0.75 * scene.flat((side * 0.35, 0, 1))
    box, mask = canvas.polygon(scene.pixels(out))
    red = linear(p.skin) * np.array([1.0, 0.84, 0.80], np.float32)
    canvas.lay(box, mask, look.tone("ear", red, np.full((1, 1), shade, np.float32)), LABELS["ear"], True)
    centre = out.mean(0)
    hollow = centre + (out - centre) * (0.58, 0.62, 0.6) + (0, -0.004, 0)
    box, mask = canvas.polygon(scene.pixels(hollow), soft=0.004 * scene.n)
    canvas.dim(box, mask * np.float32(0.75), np.array([0.62, 0.48, 0.44]))


def paint_beard(scene: Scene, hull: tuple[Box, Floats]) -> None:
    """Stubble, moustache, goatee or a full beard, where the head's own coordinates say it grows."""
    p, canvas, camera = scene.person, scene.canvas, scene.camera
    if p.beard == "none":
        return
    box, cover = hull
    x, y = canvas.x[box], canvas.y[box]
    z = scene.skull[1].front(x, y)[0]
    z = np.maximum(z, scene.skull[2].front(x, y)[0])
    hx, hy = camera.head_axis(0, x, y, z), camera.head_axis(1, x, y, z)
    mouth = MOUTH_Y + 0.06 * (p.face_length - 1)
    side = np.abs(hx)
    smile = np.float32(0.03 * max(scene.view.smile, 0))
    lip_top = np.float32(mouth - 0.075) - 0.05 * np.cos(np.minimum(side * 8, 3.14)) * 0.3
    fuzz = noise_at(0.006 * scene.n, scene.n, p.person + 8)[: hx.shape[0], : hx.shape[1]] * np.float32(0.009)
    cheek = np.float32(mouth - 0.13) - (side - 0.24) * np.float32(0.55) - np.maximum(side - np.float32(0.34), 0) * 1.1
    jaw_line = hy - cheek + fuzz
    inner = np.where(side < np.float32(0.21), (hy - (mouth + 0.085 + 0.055 * scene.view.mouth_open * 3)) + fuzz, 9)
    stache = np.minimum(hy - lip_top - smile * 0 + fuzz, np.float32(mouth - 0.012) + side * side * 1.2 - hy)
    stache = np.minimum(stache, np.float32(0.19) - side + fuzz)
    sharp = np.float32(min(0.35 * scene.n / 2, 34))
    around = np.float32(0.225) - side + fuzz
    if p.beard == "moustache":
        grow = stache
    elif p.beard == "goatee":
        chin = np.minimum(np.float32(0.20) - side, hy - np.float32(mouth + 0.085 + 0.16 * scene.view.mouth_open)) + fuzz
        grow = np.maximum(stache, chin)
    else:
        body = np.minimum(jaw_line, np.where(around > 0, inner, 9))
        beside = np.minimum(np.minimum(np.float32(0.235) - side, side - np.float32(0.16)), hy - lip_top) + fuzz
        grow = np.maximum(np.maximum(body, stache), beside)
    weight = np.clip(grow * sharp + np.float32(0.5), 0, 1) * cover
    frame = canvas.label[box]
    weight *= (frame != LABELS["mouth"]) & (frame != LABELS["nose"]) | (weight < 0)
    shade = scene.flat((0, 0.2, 1)) * (1 - 0.45 * np.clip((hy - 0.5) * 2.6, 0, 1))
    light = np.clip(0.5 + 0.5 * (hx * np.float32(scene.light[0] * 1.4) + np.float32(scene.light[2] * 0.6)), 0.1, 1)
    texture = noise_at(0.006 * scene.n, scene.n, p.person + 21)[: hx.shape[0], : hx.shape[1]]
    tint = linear(p.hair) * np.float32(0.85)
    if p.hair_name in ("pink", "blue"):
        tint = linear((0.24, 0.17, 0.13))
    shade = shade * light * (1 + (texture * np.float32(0.20) if scene.look.fine else 0))
    paint = scene.look.tone("beard", tint, np.maximum(shade, 0).astype(np.float32))
    solid = {"stubble": 0.38, "moustache": 0.90, "goatee": 0.88, "full": 0.92}[p.beard]
    canvas.lay(box, (weight * np.float32(solid)).astype(np.float32), paint, None, True)
    frame[weight > 0.5] = LABELS["beard"]


def glasses_rings(scene: Scene) -> list[np.ndarray]:
    """The two lenses' outlines [24, 3] in the head frame."""
    p = scene.person
    power = {"round": 2.0, "square": 4.5, "sun": 3.0}[p.glasses]
    wide, high = {"round": (0.148, 0.138), "square": (0.165, 0.112), "sun": (0.178, 0.132)}[p.glasses]
    c, s = np.cos(_RING), np.sin(_RING)
    u, w = np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)
    rings = []
    for side in (-1, 1):
        x = side * 0.228 * (0.5 + 0.5 * p.eye_gap) + wide * u
        z = 0.585 - 0.30 * np.abs(x)
        rings.append(np.stack([x, EYE_Y + 0.012 + high * w, z], -1))
    return rings


def paint_glasses(scene: Scene) -> None:
    """Lenses, frames, bridge and the temple on the near side."""
    p, canvas, look = scene.person, scene.canvas, scene.look
    if p.glasses == "none":
        return
    colour = linear(p.glasses_colour)
    thick = 0.022 if p.glasses == "square" else 0.017
    lit = np.full((1, 1), 0.6, np.float32)
    rings = glasses_rings(scene)
    turn = scene.camera.rotation[0, 2]
    for side, ring in zip((-1, 1), rings, strict=True):
        if -side * turn > -0.1:  # the temple of the near side
            hinge = ring[0 if side > 0 else 12]
            ear = np.array([side * 0.565 * p.face_width, EYE_Y + 0.03, 0.02])
            up = np.array([0, 0.013, 0])
            quad = scene.pixels(np.array([hinge - up, ear - up, ear + up, hinge + up]) + (0, -0.02, 0))
            canvas.lay(*canvas.polygon(quad), look.tone("glasses", colour, lit * 0.8), LABELS["glasses"], True)
        outer = scene.pixels(ring)
        centre = ring.mean(0)
        inner = scene.pixels(centre + (ring - centre) * (1 - thick / 0.14))
        box, mask = canvas.polygon(inner)
        if p.glasses == "sun":
            y = canvas.y[box]
            fade = np.clip((y - y.min()) * np.float32(2.2), 0, 1) if y.size else y
            tint = look.tone("lens", linear((0.10, 0.09, 0.10)), np.float32(0.35) + np.float32(0.4) * fade)
            canvas.lay(box, mask * np.float32(0.93), tint, LABELS["glasses"], True)
        else:
            canvas.rgb[:, box[0], box[1]] *= 1 - mask * np.float32(0.05)
        if look.fine:
            bar = centre + np.array([[-0.09, -0.06, 0], [-0.04, -0.08, 0], [-0.075, 0.05, 0], [-0.10, 0.05, 0]])
            gbox, gmask = canvas.polygon(scene.pixels(bar), soft=0.004 * scene.n)
            canvas.rgb[:, gbox[0], gbox[1]] += gmask * np.float32(0.07)
        box, mask = canvas.polygon(outer, hole=inner)
        canvas.lay(box, mask, look.tone("glasses", colour, lit), LABELS["glasses"], True)
    a, b = rings[0][0], rings[1][12]
    arch = np.array([a, (a + b) / 2 + (0, -0.022, 0.01), b])
    bridge = np.concatenate([arch - (0, 0.03, 0), (arch - (0, 0.012, 0))[::-1]])
    canvas.lay(*canvas.polygon(scene.pixels(bridge)), look.tone("glasses", colour, lit), LABELS["glasses"], True)
