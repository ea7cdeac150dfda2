"""Hair and hats: a shell around the skull cut by a hairline, locks that hang, and strands that catch the light."""

from dataclasses import dataclass

import cv2
import numpy as np

from stages.datasets.painted.canvas import Box, Ellipsoid, Floats, blur, linear, noise_at, noise_line, phase
from stages.datasets.painted.head import LABELS, Look, Scene, shade_of

# hairline: azimuth in degrees (0 the brow's middle, 90 the ear) -> head-frame y of the hair's lower edge
_AZIMUTH = (0, 22, 40, 54, 64, 72, 82, 92, 102, 116, 140, 180)
_LINES = {
    "short": (-0.50, -0.49, -0.43, -0.30, -0.10, 0.02, -0.02, -0.14, 0.05, 0.26, 0.34, 0.36),
    "fringe": (-0.25, -0.24, -0.23, -0.18, -0.05, 0.04, 0.06, 0.10, 0.20, 0.30, 0.36, 0.38),
    "full": (-0.50, -0.48, -0.42, -0.30, -0.12, 0.08, 0.24, 0.34, 0.38, 0.40, 0.42, 0.44),
    "back": (-0.52, -0.51, -0.47, -0.38, -0.24, -0.12, -0.08, -0.10, 0.05, 0.22, 0.30, 0.30),
}
_STYLE = {  # hairline, shell thickness, bump of the outline
    "buzz": ("short", 0.016, 0.0), "short": ("short", 0.055, 0.010), "parted": ("short", 0.075, 0.008),
    "quiff": ("short", 0.085, 0.022), "fringe": ("fringe", 0.070, 0.010), "curly": ("short", 0.125, 0.055),
    "afro": ("full", 0.25, 0.045), "bob": ("full", 0.085, 0.006), "long": ("full", 0.075, 0.006),
    "wavy": ("full", 0.105, 0.016), "bun": ("back", 0.050, 0.004),
}  # fmt: skip
LONG = ("bob", "long", "wavy")
COVERS_EARS = ("bob", "long", "wavy", "afro")


@dataclass
class Shell:
    """Hair's cap: its ellipsoid, cover [h, w] in a box (`front` is what may lie over the face), strands and normals."""

    ellipsoid: Ellipsoid
    box: Box
    cover: Floats
    front: Floats
    strand: Floats
    along: Floats
    normal: tuple[Floats, Floats, Floats]


def hairline_table(scene: Scene) -> Floats:
    """Lower edge of the hair by azimuth, [1024] over -180..180 degrees."""
    p = scene.person
    name, _, _ = _STYLE[p.hair_style]
    azimuth = np.linspace(-180, 180, 1024)
    line = np.interp(np.abs(azimuth), _AZIMUTH, _LINES[name])
    front = np.clip(1 - np.abs(azimuth) / 62, 0, 1)
    line = line - front * max(p.hairline, -0.02) * 2.0
    swing = np.exp(-(((azimuth - 150 * p.parting) / 13) ** 2))
    if p.hair_style in ("parted", "bob", "long", "wavy"):
        far = np.clip(np.sign(-p.parting) * (azimuth - 150 * p.parting) / 62, 0, 1)
        sweep = np.where(far > 0, np.sin(np.pi * np.minimum(far * 1.05, 1)) ** 0.8, 0)
        line = line + (0.13 if p.hair_style == "parted" else 0.10) * sweep * np.clip(1 - np.abs(azimuth) / 75, 0, 1)
        line -= 0.055 * swing
    if p.hair_style == "quiff":
        line -= 0.035 * front
    if p.age > 0.5 and p.feminine < 0.5 and p.hair_style in ("buzz", "short", "parted", "quiff"):
        line -= 0.22 * (p.age - 0.5) * np.exp(-(((np.abs(azimuth) - 34) / 15) ** 2))  # temples recede
    ragged = {"fringe": 0.040, "short": 0.020, "curly": 0.040, "wavy": 0.014, "parted": 0.012}.get(p.hair_style, 0.006)
    jag = noise_line()[(np.arange(1024) * 3 + p.person * 37) % 1024]
    return (line + ragged * jag * (np.abs(azimuth) < 75)).astype(np.float32)


def hair_shell(scene: Scene, hull: tuple[Box, Floats]) -> Shell | None:
    """The cap of hair; None for the bald."""
    p, camera, canvas = scene.person, scene.camera, scene.canvas
    if p.hair_style == "bald":
        return None
    _, thick, bump = _STYLE[p.hair_style]
    thick *= 0.78 + 0.22 * p.hair_volume
    if p.hat != "none":
        thick, bump = min(thick, 0.045), 0.0
    skull = scene.skull[0]
    lift = thick * (1.15 if p.hair_style in ("quiff", "afro", "curly") else 0.95)
    body = Ellipsoid(skull.centre + (0, -0.25 * lift, -0.25 * thick),
                     skull.radii + np.array([thick, lift, 0.62 * thick]), camera)  # fmt: skip
    box = body.box(scene.n, 0.02 + bump * 1.5)
    x, y = canvas.x[box], canvas.y[box]
    if x.size == 0:
        return None
    if bump > 0:
        rough = noise_at(0.028 * scene.n if p.hair_style in ("curly", "afro") else 0.02 * scene.n, scene.n, p.person)
        push = rough[: x.shape[0], : x.shape[1]] * np.float32(bump * 0.5)
        z, disc = body.front(x + push, y + np.roll(push, 7, 1))
    else:
        z, disc = body.front(x, y)
    hx, hy, hz = (camera.head_axis(row, x, y, z) for row in range(3))
    azimuth = phase(hz + np.float32(0.10), hx)  # 0..2pi, 0 to the front
    index = ((azimuth * np.float32(1024 / (2 * np.pi))).astype(np.int32) + 512) & 1023
    line = hairline_table(scene).take(index)
    flesh = np.zeros((scene.n, scene.n), np.float32)
    flesh[hull[0]] = hull[1]
    # the shell stands off the skull: beside the face its rim must not show the background through
    outside = flesh[box] < 0.5
    line = np.where(outside, np.maximum(line, np.float32(-0.06)), line)
    sharp = np.float32(scene.n / 2 * 0.8)
    cover = np.clip((line - hy) * sharp + np.float32(0.5), 0, 1)
    cover *= np.clip(disc * np.float32(0.30 * scene.n / 2) + np.float32(0.5), 0, 1)
    # strands run from the crown, or from the parting, outwards
    top = np.float32(p.parting * 0.9 if p.hair_style in ("parted", "bob", "long", "wavy") else 0.0)
    strand = phase(hz + np.float32(0.12), hx - top) if p.hair_style != "quiff" else hx * np.float32(2.4) + 4
    m = body.matrix.astype(np.float32)
    dx, dy, dz = x - np.float32(body.middle[0]), y - np.float32(body.middle[1]), z - np.float32(body.middle[2])
    nx, ny, nz = (m[i, 0] * dx + m[i, 1] * dy + m[i, 2] * dz for i in range(3))
    norm = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-6))
    nz = nz * norm
    # seen edge on, hair of the nape must not cross the cheek in front of it
    rim: Floats = np.clip(nz * np.float32(5) - np.float32(1.2), 0, 1)
    low = (hy > np.float32(0.05)) | ((hz < np.float32(0.02)) & (hy > np.float32(-0.10)))
    if p.hair_style in COVERS_EARS:
        low &= ~outside
    return Shell(body, box, cover, cover * np.where(low, rim, 1), strand, hy, (nx * norm, ny * norm, nz))


def strand_texture(scene: Scene, strand: Floats, along: Floats, curl: float) -> Floats:
    """Noise along strands, about -1..1: fast across (`strand`, radians), slow along."""
    base = strand * np.float32(1024 / (2 * np.pi))
    if curl > 0:
        base = base + np.sin(along * np.float32(16)) * np.float32(60 * curl)
    line = noise_line()
    fine = line.take(((base * 5 + along * np.float32(40)).astype(np.int32) + scene.person.person * 31) & 1023)
    broad = line.take(((base * 2 - along * np.float32(24)).astype(np.int32) + scene.person.person * 17) & 1023)
    return 0.5 * fine + 0.6 * broad


def hair_tone(
    scene: Scene, normal: tuple[Floats, Floats, Floats], texture: Floats, dark: Floats | float = 1.0
) -> Floats:
    """Paint of hair [3, h, w]: wrapped light, strands, and the soft band where the light slides along them."""
    nx, ny, nz = normal
    shade = shade_of(nx, ny, nz, scene.light) * dark
    half = scene.light + np.array([0, -0.35, 0.8])
    half /= np.linalg.norm(half)
    band = nx * np.float32(half[0]) + ny * np.float32(half[1]) + nz * np.float32(half[2])
    band = np.maximum(band + texture * np.float32(0.10), 0)
    band = band * band
    band = band * band
    gloss = band * band
    shade = shade * (1 + texture * np.float32(0.40))
    return scene.look.tone("hair", linear(scene.person.hair), np.maximum(shade, 0), gloss)


def _curly_texture(scene: Scene, box: Box) -> Floats:
    h, w = box[0].stop - box[0].start, box[1].stop - box[1].start
    a = noise_at(0.009 * scene.n, scene.n, scene.person.person + 5)[:h, :w]
    b = noise_at(0.020 * scene.n, scene.n, scene.person.person + 6)[:h, :w]
    return np.clip(a * np.float32(0.42) + b * np.float32(0.30), -1, 1)


def paint_shell(scene: Scene, shell: Shell) -> None:
    """Lay the cap over the head."""
    p = scene.person
    if p.hair_style in ("curly", "afro"):
        texture = _curly_texture(scene, shell.box)
    else:
        texture = strand_texture(scene, shell.strand, shell.along, 0.12 if p.hair_style == "wavy" else 0.0)
    cover = shell.front
    if p.hair_style == "buzz":
        cover = cover * np.float32(0.80)
        texture = 0.35 * texture
    paint = hair_tone(scene, shell.normal, texture)
    scene.canvas.lay(shell.box, cover, paint, None, True)
    scene.canvas.label[shell.box][cover > 0.45] = LABELS["hair"]


def _curtain(scene: Scene, xs: tuple[float, float], top: float, bottom: float, flare: float, wave: float, phase: float,
             depth: float, taper: tuple[float, float, float, float], lean: int = 0) -> np.ndarray:  # fmt: skip
    """A hanging lock between two camera-frame x at its top: polygon [k, 2] in pixels. Hair hangs straight down."""
    t = np.linspace(0, 1, 16)
    y = top + (bottom - top) * t
    swing = wave * np.sin(t * 9.5 + phase) * t**0.7
    shape = np.interp(t, [0, 0.16, 0.4, 1], taper)
    middle = 0.5 * (xs[0] + xs[1]) + lean * 0.5 * (xs[1] - xs[0]) * (1 - shape)
    width = (
        0.5
        * (xs[1] - xs[0])
        * shape
        * (1 + flare * np.sin(np.pi * np.clip(t * 0.85, 0, 1)))
        * np.clip((1 - t) * 9 + 0.25, 0, 1) ** 0.5
    )
    left = np.stack([middle - width + swing, y, np.full(16, depth)], -1)
    right = np.stack([middle + width + 0.8 * swing, y, np.full(16, depth)], -1)
    return scene.camera.pixels(np.concatenate([left, right[::-1]]))


def _hang(scene: Scene, ring: np.ndarray, dark: float, curl: float, inward: float) -> None:
    """Paint a hanging volume: a vertical cylinder of strands."""
    canvas = scene.canvas
    box, mask = canvas.polygon(ring)
    if mask.size == 0:
        return
    x, y = canvas.x[box], canvas.y[box]
    low, high = ring[:, 0].min() / (scene.n / 2) - 1, ring[:, 0].max() / (scene.n / 2) - 1
    u = np.clip((x - np.float32(0.5 * (low + high))) / np.float32(max(0.5 * (high - low), 1e-3)), -1, 1) * 0.92
    nz = np.sqrt(1 - u * u)
    texture = strand_texture(scene, u * np.float32(0.55) + np.float32(inward), y, curl)
    ripple = np.sin(y * np.float32(13) + u * 2) * np.float32(0.25 * min(1.0, curl)) if curl else np.float32(-0.1)
    dim = np.float32(dark) * (1 - np.float32(0.35) * np.maximum(-u * np.float32(np.sign(inward)), 0))
    paint = hair_tone(scene, (u, np.zeros_like(u) + ripple, nz), texture, dim)
    canvas.lay(box, mask, paint, LABELS["hair"], True)


def _extent(scene: Scene, shell: Shell) -> tuple[float, float, float]:
    outline = shell.ellipsoid.outline()
    return float(outline[:, 0].min()), float(outline[:, 0].max()), float(shell.ellipsoid.middle[1])


def _hem(scene: Scene) -> float:
    p = scene.person
    if p.hair_style == "bob":
        return 0.52 + 0.22 * p.hair_length
    return 0.86 + 0.5 * p.hair_length


def paint_back_hair(scene: Scene, shell: Shell | None) -> None:
    """What hangs behind the neck, and a bun; painted before the body."""
    p = scene.person
    if shell is None:
        return
    left, right, middle = _extent(scene, shell)
    if p.hair_style in LONG:
        wave = {"bob": 0.0, "long": 0.012, "wavy": 0.042}[p.hair_style]
        flare = 0.03 + 0.08 * (p.hair_volume - 1)
        ring = _curtain(scene, (left + 0.01, right - 0.01), middle - 0.05, _hem(scene), flare, wave, p.person % 7, -0.4,
                        (1, 1, 1, 1))  # fmt: skip
        _hang(scene, ring, 0.50, 1.0 if p.hair_style == "wavy" else 0.0, 0.01)
    elif p.hair_style == "bun" and p.hat == "none":
        bun = Ellipsoid(np.array([0, -0.80 - 0.06 * p.hair_length, -0.42 + 0.22 * p.hair_length]),
                        np.array([0.21, 0.19, 0.20]) * (0.9 + 0.15 * p.hair_volume), scene.camera)  # fmt: skip
        box = bun.box(scene.n)
        x, y = scene.canvas.x[box], scene.canvas.y[box]
        z, disc = bun.front(x, y)
        u, w = (x - np.float32(bun.middle[0])) * 4, (y - np.float32(bun.middle[1])) * 4
        nz = np.sqrt(np.maximum(1 - u * u - w * w, np.float32(0.05)))
        texture = strand_texture(scene, phase(u, w + np.float32(0.3)), np.sqrt(u * u + w * w), 0.0)
        cover = np.clip(disc * np.float32(0.1 * scene.n / 2) + np.float32(0.5), 0, 1)
        scene.canvas.lay(box, cover, hair_tone(scene, (u, w, nz), texture, 0.9), LABELS["hair"], True)


def paint_front_hair(scene: Scene, shell: Shell | None) -> None:
    """Locks in front of the ears and shoulders; painted after the face."""
    p = scene.person
    if shell is None or p.hair_style not in LONG:
        return
    left, right, middle = _extent(scene, shell)
    wave = {"bob": 0.004, "long": 0.010, "wavy": 0.036}[p.hair_style]
    turn = scene.camera.rotation[0, 2]
    for side, edge in ((-1, left), (1, right)):
        near = -side * turn  # > 0: this side faces us
        width = (0.145 + 0.05 * p.hair_volume) * (1 + 1.5 * max(near, 0) - 0.75 * max(-near, 0))
        inner = edge - side * width
        xs = (edge + 0.014, inner) if side < 0 else (inner, edge - 0.014)
        ring = _curtain(
            scene,
            xs,
            middle - 0.07,
            _hem(scene) - 0.03,
            0.10,
            side * wave,
            p.person % 5 + side,
            0.2,
            (0.50, 0.68, 1.0, 1.0),
            side,
        )
        _hang(scene, ring, 0.92, 0.9 if p.hair_style == "wavy" else 0.0, 0.4 * side)


def hat_line(kind: str) -> tuple[float, float]:
    """Lower edge of a hat in front and behind, head-frame y."""
    return {"beanie": (-0.36, -0.10), "cap": (-0.42, -0.22), "brim": (-0.46, -0.30)}[kind]


def hat_shell(scene: Scene) -> tuple[Ellipsoid, Box, Floats, Floats, tuple[Floats, Floats, Floats]] | None:
    """The hat's dome: (ellipsoid, box, cover, height above its edge, normals)."""
    p, camera, canvas = scene.person, scene.camera, scene.canvas
    if p.hat == "none":
        return None
    skull = scene.skull[0]
    grow = {"beanie": (0.075, 0.125, 0.08), "cap": (0.065, 0.07, 0.06), "brim": (0.06, 0.12, 0.06)}[p.hat]
    body = Ellipsoid(skull.centre + (0, -0.02, 0), skull.radii + np.array(grow), camera)
    box = body.box(scene.n)
    x, y = canvas.x[box], canvas.y[box]
    z, disc = body.front(x, y)
    hy, hz = camera.head_axis(1, x, y, z), camera.head_axis(2, x, y, z)
    front, back = hat_line(p.hat)
    edge = np.float32(0.5 * (front + back)) + (hz + np.float32(0.1)) * np.float32(0.5 * (front - back) / 0.7)
    above = edge - hy
    cover = np.clip(above * np.float32(0.8 * scene.n / 2) + np.float32(0.5), 0, 1)
    cover *= np.clip(disc * np.float32(0.30 * scene.n / 2) + np.float32(0.5), 0, 1)
    m = body.matrix.astype(np.float32)
    d = [plane - np.float32(c) for plane, c in zip((x, y, z), body.middle, strict=True)]
    nx, ny, nz = (m[i, 0] * d[0] + m[i, 1] * d[1] + m[i, 2] * d[2] for i in range(3))
    norm = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-6))
    return body, box, cover, above, (nx * norm, ny * norm, nz * norm)


def paint_hat(scene: Scene, hat: tuple[Ellipsoid, Box, Floats, Floats, tuple[Floats, Floats, Floats]]) -> None:
    """Dome with its ribs, band or seams, then a brim or a peak."""
    p, canvas, look = scene.person, scene.canvas, scene.look
    body, box, cover, above, (nx, ny, nz) = hat
    shade = shade_of(nx, ny, nz, scene.light)
    base = linear(p.hat_colour)
    albedo = np.broadcast_to(base[:, None, None], (3, *cover.shape)).copy()
    hx = scene.camera.head_axis(0, canvas.x[box], canvas.y[box], np.zeros_like(cover))
    if p.hat == "brim":
        _brim(scene, look, base)
    if p.hat == "beanie":
        cuff = (above < np.float32(0.17)).astype(np.float32)
        ribs = np.sin(hx * np.float32(46)) * np.float32(0.13) if look.fine else np.float32(0)
        shade = shade * (1 + ribs * (0.5 + 0.5 * cuff)) * (0.90 + 0.16 * cuff)
        shade = shade * (1 - np.float32(0.35) * np.exp(-(((above - np.float32(0.185)) / np.float32(0.018)) ** 2)))
    elif p.hat == "brim":
        band = (above < np.float32(0.10)).astype(np.float32)
        albedo *= 1 - np.float32(0.65) * band
    else:
        seam = np.exp(-((hx / np.float32(0.012)) ** 2))
        shade = shade * (1 - np.float32(0.22) * seam)
    canvas.lay(box, cover, look.tone("hat", albedo, shade), LABELS["hat"], True)
    if p.hat == "cap":
        _peak(scene, look, base)


def _brim(scene: Scene, look: Look, base: Floats) -> None:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    front, back = hat_line("brim")
    z = 0.84 * np.cos(angle) - 0.08
    y = 0.5 * (front + back) + 0.5 * (front - back) * z / 0.7 + 0.05 * np.abs(np.sin(angle))
    ring = np.stack([0.86 * np.sin(angle), y, z], -1)
    box, mask = scene.canvas.polygon(scene.pixels(ring))
    facing = scene.camera.rotation[2, 1]  # > 0 when the underside is seen
    shade = np.full(mask.shape, 0.42 + 0.3 * min(0.0, facing) + (0.25 if facing < 0 else 0.0), np.float32)
    scene.canvas.lay(box, mask, look.tone("hat", base, shade), LABELS["hat"], True)


def _peak(scene: Scene, look: Look, base: Floats) -> None:
    angle = np.deg2rad(np.linspace(-62, 62, 20))
    inner = np.stack([0.60 * np.sin(angle), np.full(20, -0.425), 0.58 * np.cos(angle) + 0.02], -1)
    z = 0.60 * np.cos(angle) + 0.36 * np.cos(angle * 1.35) ** 0.7 + 0.02
    outer = np.stack([0.60 * np.sin(angle), np.full(20, -0.335), z], -1)
    outer[:, 1] += 0.05 * (np.abs(np.sin(angle)) ** 2)
    ring = scene.pixels(np.concatenate([inner, outer[::-1]]))
    box, mask = scene.canvas.polygon(ring)
    shade = np.full(mask.shape, 0.5 * scene.flat((0, -1, 0.4)) + 0.05, np.float32)
    scene.canvas.lay(box, mask, look.tone("hat", base * np.float32(0.9), shade), LABELS["hat"], True)


def shadow_map(scene: Scene, shell: Shell | None, hat: object) -> Floats | None:
    """What hair and hat throw on the skin, [n, n] 0..1: their cover moved away from the light and blurred."""
    if shell is None and hat is None:
        return None
    canvas = np.zeros((scene.n, scene.n), np.float32)
    if shell is not None:
        canvas[shell.box] = shell.cover * (0.4 if scene.person.hair_style == "buzz" else 1.0)
    if isinstance(hat, tuple):
        canvas[hat[1]] = np.maximum(canvas[hat[1]], hat[2])
    far = -0.055 * scene.light / max(0.3, float(scene.light[2])) * scene.n / 2
    move = np.array([[1, 0, far[0]], [0, 1, max(far[1], 0.02 * scene.n / 2)]], np.float32)
    small = np.asarray(cv2.warpAffine(canvas, move, (scene.n, scene.n)), np.float32)
    return blur(small, 0.014 * scene.n)
