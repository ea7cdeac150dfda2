"""The same person in a style: other proportions, then drawn or moulded; comic, anime, figurine, watercolour.

Every style bends the mesh before it is posed, so its picture has exact truth of its own: landmarks, regions, mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from stages.datasets.rendered import truth
from stages.datasets.rendered.build import Camera, Scene, build
from stages.datasets.rendered.colour import ramp, saturate, smooth_noise, srgb, to_bytes
from stages.datasets.rendered.light import Lights, film, ground, lights_of, place_of
from stages.datasets.rendered.pack import Pack, load_pack
from stages.datasets.rendered.person import IRISES, Light, Person, View, attributes
from stages.datasets.rendered.render import Picture, regions_of, shoot
from stages.datasets.rendered.shade import Frame, Shadows, albedo_of, capture, draw, lid_shadow, lit_strands, shade
from stages.datasets.rendered.texture import LIPSTICKS, beard_area
from stages.datasets.rendered.truth import LABELS

F = np.float32


@dataclass(frozen=True)
class Proportions:
    """How a style changes a head: factors of size, and shares."""

    eye: float = 1.0
    eye_height: float = 1.0
    nose: float = 1.0
    mouth: float = 1.0
    jaw: float = 0.0  # narrower by this share
    chin: float = 0.0  # more pointed by this share
    head: float = 0.0  # larger by this share
    expression: float = 1.0

    def warp(self, pack: Pack) -> Callable[[np.ndarray], np.ndarray]:
        """A smooth map of unposed mesh vertices [V, 3]."""
        turn = np.clip(pack.headness, 0, 1)

        def bent(v: np.ndarray) -> np.ndarray:
            v = v.astype(np.float32).copy()
            neck = pack.joint(v, "neck")
            for rim in pack.eye_rims:
                d = v - v[rim].mean(axis=0)
                near = np.exp(-((d[:, 0] / 0.20) ** 2 + (d[:, 1] / 0.17) ** 2) / 2) * np.clip(
                    1.6 - abs(d[:, 2]) / 0.5, 0, 1
                )
                v += (
                    near[:, None]
                    * d
                    * (np.array([self.eye, self.eye * self.eye_height, 1 + (self.eye - 1) * 0.35]) - 1)
                )
            for middle, size, reach in (
                (v[pack.landmarks[30]] + [0, 0.02, -0.05], self.nose, 0.15),
                (v[pack.mouth_corners].mean(axis=0), self.mouth, 0.22),
            ):
                d = v - middle
                v += (np.exp(-((d**2).sum(axis=1)) / (2 * reach**2)) * (size - 1))[:, None] * d
            mouth = v[pack.mouth_corners].mean(axis=0)
            low = np.clip((mouth[1] + 0.15 - v[:, 1]) / 0.5, 0, 1) * turn * (v[:, 1] > neck[1])
            v[:, 0] *= 1 - self.jaw * low - self.chin * low**2
            v += (turn * self.head)[:, None] * (v - mouth)
            return v.astype(np.float32)

        return bent


PROPORTIONS = {
    "comic": Proportions(eye=1.38, eye_height=1.08, nose=0.85, jaw=0.08, head=0.04, expression=1.15),
    "anime": Proportions(eye=1.80, eye_height=1.16, nose=0.55, mouth=0.82, jaw=0.16, chin=0.14, head=0.08),
    "figurine": Proportions(eye=1.45, nose=0.72, mouth=0.95, jaw=0.02, head=0.12),
    "watercolour": Proportions(eye=1.12, nose=0.97, jaw=0.04, expression=1.05),
}
STYLES = tuple(PROPORTIONS)
GATHER = {"comic": 2.2, "anime": 4.0, "figurine": 3.0, "watercolour": 1.3}
TOY_LIGHT = Light("window", 28.0, 42.0, 0.02, 0.75, 0.85)


@dataclass
class Drawing:
    """A style's scene ready to be drawn. W samples across; pictures are [W, W(, C)]."""

    pack: Pack
    person: Person
    view: View
    frame: Frame
    labels: np.ndarray  # uint8
    normals: np.ndarray  # float32 [W, W, 3], hair included
    lock: np.ndarray  # float32: a number of each lock of hair, 0..1
    covers: dict[str, np.ndarray]  # cover of each kind of strand

    @property
    def width(self) -> int:
        """Side of the picture, px."""
        return self.frame.width

    @property
    def fine(self) -> float:
        """Samples that a hair's breadth of the style takes: 1 at 128."""
        return self.width / 256

    def on(self, *names: str) -> np.ndarray:
        """Bool [S, S]: the pixels that show one of the labels."""
        return np.isin(self.labels, [LABELS[name] for name in names])

    def marks(self) -> np.ndarray:
        """The 68 landmarks [68, 2], px."""
        return truth.fixed_landmarks(self.pack, self.frame.scene, self.width)


def drawn(
    pack: Pack, person: Person, view: View, size: int, style: str, lights: Lights | None, camera: Camera | None
) -> tuple[Drawing, Scene, Shadows | None]:
    """Build and rasterise a person in a style's proportions."""
    shape = PROPORTIONS[style]
    # grey hairs are a tint of the whole in a drawing
    hair = person.hair
    mixed = np.array(hair.colour) * (1 - hair.grey) + 0.33 * hair.grey
    person = replace(person, hair=replace(hair, grey=0.0, colour=(float(mixed[0]), float(mixed[1]), float(mixed[2]))))
    scene = build(pack, person, view, size, shape.warp(pack), shape.expression, GATHER[style], size // 2)
    scene.camera = camera or scene.camera
    shadows = Shadows(scene, lights, size) if lights is not None else None
    frame = capture(scene, size, lights, shadows)
    normals = frame.raster(frame.normals)
    lock = np.zeros((frame.width, frame.width, 1), np.float32)
    covers: dict[str, np.ndarray] = {}
    regions = []
    for bunch in scene.strands:
        if bunch.kind in ("hair", "beard"):
            values = np.concatenate([bunch.outward, _locks(bunch.colour, bunch.outward)], axis=2)
            both = np.concatenate([normals, lock], axis=2)
            over = draw(bunch, np.ascontiguousarray(values), frame, both, wider=1.6 if bunch.kind == "hair" else 2.0)
            over = _solid(over, frame.width, bunch.kind == "hair")
            normals, lock = np.ascontiguousarray(both[..., :3]), np.ascontiguousarray(both[..., 3:])
        else:
            over = draw(bunch, bunch.colour, frame, np.zeros((frame.width, frame.width, 3), np.float32), wider=1.6)
        covers[bunch.kind] = np.maximum(over, covers.get(bunch.kind, 0))
        regions += regions_of(bunch.kind, bunch.label, over, scene, frame)
    labels = truth.regions(frame, regions, filled=True)
    return Drawing(pack, person, view, frame, labels, normals, lock[..., 0], covers), scene, shadows


def _locks(colour: np.ndarray, outward: np.ndarray) -> np.ndarray:
    """A number of every strand's lock, from the tone its lock shares: [S, P, 1]."""
    tone = np.log(np.maximum(colour.mean(axis=2, keepdims=True), 1e-4))
    tone = tone - tone.mean(axis=(0, 2), keepdims=True)
    return (0.5 + 0.5 * np.tanh(tone * 3)).astype(np.float32)


def _solid(cover: np.ndarray, width: int, large: bool) -> np.ndarray:
    """A cover without pinholes and whiskers, its outline smooth."""
    for share, way in ((110 if large else 170, cv2.MORPH_CLOSE), (130 if large else 200, cv2.MORPH_OPEN)):
        r = max(1, round(width / share))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
        cover = cv2.morphologyEx(cover, way, disc)
    return ramp(cv2.GaussianBlur(cover, (0, 0), width / 230), 0.3, 0.6).astype(np.float32) if large else cover


def _towards(view: View, rise: float = 30.0) -> np.ndarray:
    """Where a drawing's light comes from."""
    a = np.radians(np.clip(view.light.azimuth, -55, 55))
    e = np.radians(max(rise, view.light.elevation))
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], np.float32)


def _lit(art: Drawing, blur: float) -> np.ndarray:
    """Cosine to the light of softened normals, -1..1."""
    soft = cv2.GaussianBlur(art.normals, (0, 0), max(0.5, blur * art.fine))
    length = np.linalg.norm(soft, axis=2) + 1e-3
    return (soft @ _towards(art.view)) / length


def skin_tone(person: Person, gain: float, push: float) -> np.ndarray:
    """A drawing's flat skin, linear [3]: lifted more where it is dark, its hue kept."""
    skin = np.array(person.skin_colour, np.float32)
    return saturate(skin, push) * F(1 + (gain - 1) * (1.2 - float(skin.mean())))


def _flat(art: Drawing, skin: np.ndarray, hair: np.ndarray, lips: np.ndarray, cloth_steps: int) -> np.ndarray:
    """One colour a region, linear [W, W, 3]; clothes keep their print in few steps."""
    palette = np.zeros((19, 3), np.float32)
    palette[[LABELS[n] for n in ("skin", "l_ear", "r_ear", "nose", "neck")]] = skin
    palette[[LABELS["u_lip"], LABELS["l_lip"]]] = lips
    palette[LABELS["mouth"]] = (0.20, 0.02, 0.03)
    palette[LABELS["hair"]] = hair
    palette[[LABELS["l_brow"], LABELS["r_brow"]]] = np.minimum(hair * 0.55, 0.2)
    palette[LABELS["glasses"]] = 0.015
    palette[[LABELS["earring"], LABELS["necklace"]]] = (0.75, 0.55, 0.18)
    out = palette[art.labels]
    out[art.on("hat")] = saturate(np.array(art.person.hat_colour), 1.25, 1.3)
    cloth = art.on("cloth")
    if cloth.any():
        out[cloth] = _cloth(art, cloth_steps)[cloth]
    return out


def _cloth(art: Drawing, steps: int) -> np.ndarray:
    """The clothes' print in a few steps of brightness."""
    print_ = art.frame.raster(albedo_of(art.pack, art.frame, ("cloth",)))
    smooth = cv2.GaussianBlur(srgb(print_), (0, 0), 0.8 * art.fine)
    return saturate((np.round(smooth * steps) / steps) ** 2.2, 1.2, 1.15)


def _eyes(art: Drawing, iris: np.ndarray, grow: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where eyes are [W, W], distance from the iris' middle in iris radii, and height within the iris (-1 top)."""
    frame = art.frame
    on = frame.kind("eye")
    uv = frame.uv[on]
    offsets = [uv - centre for centre in art.pack.iris_centres]
    far = [np.hypot(o[:, 0], o[:, 1]) for o in offsets]
    d = np.minimum(*far) / (0.118 * grow)
    eye = frame.raster(on) & art.on("l_eye", "r_eye")
    distance = np.full((art.width, art.width), 9, np.float32)
    distance[frame.rows[on], frame.columns[on]] = d
    height = np.zeros((art.width, art.width), np.float32)
    rows = frame.rows[on].astype(np.float32)
    for label in (LABELS["l_eye"], LABELS["r_eye"]):
        chosen = frame.label[on] == label
        inside = chosen & (d < 1)
        if inside.any():
            low, high = rows[inside].min(), rows[inside].max()
            height[frame.rows[on][chosen], frame.columns[on][chosen]] = (rows[chosen] - (low + high) / 2) / max(
                1, (high - low) / 2
            )
    return eye, distance, height


def _edges(art: Drawing, inner: bool) -> np.ndarray:
    """Ink of outlines, 0..1 [W, W]: steps of depth and changes of region; `inner` adds the locks of hair."""
    near = np.where(art.frame.depth > 1e8, art.view.distance + 4, art.frame.depth).astype(np.float32)
    step = np.hypot(cv2.Sobel(near, -1, 1, 0), cv2.Sobel(near, -1, 0, 1)) > 0.55 * 2 / max(1.0, art.fine)
    hair = cv2.dilate(art.on("hair").astype(np.uint8), np.ones((3, 3))) > 0
    part = art.labels.copy()
    for name in ("l_ear", "r_ear", "nose", "neck", "u_lip", "l_lip"):
        part[art.on(name)] = LABELS["skin"]
    part[art.on("l_eye")] = LABELS["r_eye"]
    three = np.ones((3, 3), np.uint8)
    change = cv2.dilate(part, three) != cv2.erode(part, three)
    brow = cv2.dilate(art.on("l_brow", "r_brow").astype(np.uint8), three) > 0
    ink = (step & ~hair) | (change & ~brow)
    if inner:
        lock = cv2.GaussianBlur(art.lock, (0, 0), 1.2 * art.fine)
        ink |= (np.hypot(cv2.Sobel(lock, -1, 1, 0), cv2.Sobel(lock, -1, 0, 1)) > 1.9 / art.fine) & art.on("hair")
    return ink.astype(np.float32)


def _strokes(art: Drawing, groups: list[tuple[np.ndarray, float]], allowed: np.ndarray) -> np.ndarray:
    """Ink of curves through points [n, 2], each with a width in samples, tapering; only where allowed."""
    ink = np.zeros((art.width, art.width), np.float32)
    for points, wide in groups:
        t = np.linspace(0, 1, 28)
        x = np.linspace(0, 1, len(points))
        order = min(2, len(points) - 1)
        curve = np.stack([np.polyval(np.polyfit(x, points[:, c], order), t) for c in range(2)], axis=1)
        for k in range(27):
            thick = max(1, round(wide * (0.35 + 0.65 * np.sin(np.pi * (0.12 + 0.8 * t[k])))))
            a, b = curve[k] * 16, curve[k + 1] * 16
            cv2.line(ink, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), 1.0, thick, cv2.LINE_AA, 4)
    return ink * allowed


def _face_lines(art: Drawing, lid: float, mouth: float) -> np.ndarray:
    """Ink of upper lids, the line between the lips and nostrils."""
    m = art.marks()
    wide = float(np.linalg.norm(m[36] - m[45]))
    allowed = art.on("skin", "l_eye", "r_eye", "nose", "u_lip", "l_lip", "mouth").astype(np.float32)
    lids = [(m[36:40], lid * wide), (m[[42, 43, 44, 45]], lid * wide)]
    ink = _strokes(art, lids, allowed)
    gap = float(np.linalg.norm(m[62] - m[66])) / max(wide, 1)
    if gap < 0.05:
        ink = np.maximum(ink, _strokes(art, [(m[[60, 61, 62, 63, 64]], mouth * wide)], allowed))
    nostril = (art.normals[..., 1] < -0.60) & art.on("nose")
    return np.maximum(ink, cv2.GaussianBlur(nostril.astype(np.float32), (0, 0), 0.6 * art.fine) * 0.75)


def _cheeks(art: Drawing, size: float) -> np.ndarray:
    m = art.marks()
    wide = float(np.linalg.norm(m[36] - m[45]))
    out = np.zeros((art.width, art.width), np.float32)
    for eye, corner in ((41, 48), (46, 54)):
        c = m[eye] * 0.55 + m[corner] * 0.45
        cv2.circle(out, (int(c[0]), int(c[1])), max(1, int(wide * size)), 1, -1)
    return cv2.GaussianBlur(out, (0, 0), max(0.5, wide * size * 0.5)) * art.on("skin", "nose")


def _finish(
    art: Drawing, colour: np.ndarray, back: np.ndarray, ink: np.ndarray, tint: np.ndarray, size: int
) -> np.ndarray:
    """Colour over a background with ink on it, brought to size: sRGB bytes."""
    cover = cv2.GaussianBlur((art.labels > 0).astype(np.float32), (0, 0), 0.45 * art.fine)[..., None]
    picture = srgb(colour) * cover + back * (1 - cover)
    picture = picture + ink[..., None] * (tint - picture)
    return to_bytes(cv2.resize(picture.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA))


def _spots(art: Drawing, picture: np.ndarray, where: float, size: float) -> None:
    """Points of light in both eyes, in place."""
    m = art.marks()
    for rim in (m[36:42], m[42:48]):
        c, wide = rim.mean(axis=0), float(np.linalg.norm(rim[0] - rim[3]))
        if abs(rim[1, 1] - rim[5, 1]) < wide * 0.13:
            continue
        x, y = int(c[0] - wide * where), int(c[1] - wide * where)
        if 0 <= x < art.width and 0 <= y < art.width and art.labels[y, x] in (LABELS["l_eye"], LABELS["r_eye"]):
            cv2.circle(picture, (x, y), max(1, int(wide * size)), (1, 1, 1), -1, cv2.LINE_AA)


def _beard(art: Drawing, colour: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """Beards as one shape, stubble as a tint."""
    person, frame = art.person, art.frame
    if person.beard.length > 0:
        area = art.covers.get("beard", np.zeros_like(art.lock))
        near = (area > 0.35) & art.on("skin", "neck", "nose")
        colour = np.where(near[..., None], hair, colour)
    elif person.beard.stubble > 0.3:
        grown = frame.raster(beard_area(frame.neutral).astype(np.float32)) * art.on("skin")
        k = (0.45 * person.beard.stubble * ramp(grown, 0.3, 0.6))[..., None]
        colour = colour * (1 - k) + colour * np.array([0.45, 0.5, 0.6], np.float32) * k
    return colour


def _lips(person: Person, skin: np.ndarray) -> np.ndarray:
    stick = np.array(LIPSTICKS[person.number % len(LIPSTICKS)], np.float32)
    own = skin * np.array([0.92, 0.55, 0.55], np.float32)
    return own * (1 - 0.8 * person.make_up[0]) + stick * 0.8 * person.make_up[0]


def comic(art: Drawing, size: int) -> np.ndarray:
    """Flat colours, one shadow tone, shine on the hair, ink."""
    person = art.person
    skin = skin_tone(person, 1.25, 1.18)
    hair = saturate(np.array(person.hair.colour) * 1.6 + 0.012, 1.35)
    base = _beard(art, _flat(art, skin, hair, _lips(person, skin), 5), hair * 0.8)
    lit = _lit(art, 2.2)
    tone = ramp(lit, 0.24, 0.30)[..., None]
    colour = base * tone + base * np.array([0.62, 0.50, 0.55], np.float32) * (1 - tone)
    top = art.on("hair")
    band = ramp(lit + 0.10 * (art.lock - 0.5), 0.86, 0.89)[..., None]
    locks = (0.86 + 0.28 * np.round(art.lock * 2) / 2)[..., None]
    strands = (base * tone + base * 0.5 * (1 - tone)) * locks
    colour = np.where(top[..., None], strands + band * (base * 0.9 + 0.05), colour)
    cheeks = (_cheeks(art, 0.11) * 0.3)[..., None]
    colour = colour * (1 - cheeks) + colour * np.array([1.08, 0.62, 0.6], np.float32) * cheeks
    eye, d, _ = _eyes(art, np.zeros(3), 1.02)
    iris = saturate(np.array(IRISES[person.iris]) * 1.8 + 0.02, 1.4)
    white = np.array([0.92, 0.93, 0.94], np.float32)
    seen = np.where(
        (d < 0.45)[..., None],
        0.008,
        np.where((d < 0.93)[..., None], iris, np.where((d < 1.06)[..., None], iris * 0.2, white)),
    )
    colour = np.where(eye[..., None], seen * _lid(art)[..., None], colour)
    colour = np.where((art.frame.raster(art.frame.kind("teeth")) & art.on("mouth"))[..., None], 0.88, colour).astype(
        np.float32
    )
    r = max(1, round(0.8 * art.fine))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
    ink = cv2.dilate(_edges(art, True), disc) if art.fine > 1 else _edges(art, art.width > 200)
    ink = np.maximum(ink, _face_lines(art, 0.038, 0.018))
    ink = np.maximum(
        ink, (art.covers["lash"] > 0.30) * art.on("skin", "l_eye", "r_eye") * F(0.8 * min(1.0, person.lashes))
    )
    _spots(art, colour, 0.10, 0.065)
    ink = cv2.GaussianBlur(ink.astype(np.float32), (0, 0), 0.4 * art.fine)
    back = srgb(ground(place_of(art.view), art.width))
    level = np.maximum(cv2.GaussianBlur(back, (0, 0), 1.5 * art.fine).mean(axis=2, keepdims=True), 0.02)
    back = np.clip(back * (np.round(level * 5 + 0.3) / 5 / level) * 1.04, 0, 1)
    back = cv2.GaussianBlur(back.astype(np.float32), (0, 0), 0.8 * art.fine)
    return _finish(art, colour, back, np.clip(ink, 0, 1), np.full(3, 0.03, np.float32), size)


def _lid(art: Drawing) -> np.ndarray:
    """Shadow of the lid on the eyes, 1 elsewhere [W, W]."""
    on = art.frame.kind("eye")
    out = np.ones((art.width, art.width), np.float32)
    out[art.frame.rows[on], art.frame.columns[on]] = lid_shadow(art.pack, art.frame, on)
    return np.where(out < 0.60, 0.72, 1.0).astype(np.float32)


def anime(art: Drawing, size: int) -> np.ndarray:
    """Clean cel colours, large glossy eyes, coloured thin lines, a ring of light on the hair."""
    person = art.person
    skin = skin_tone(person, 1.4, 1.05) * F(1.05)
    hair = saturate(np.array(person.hair.colour) * 1.9 + 0.02, 1.5)
    lips = skin * np.array([0.92, 0.62, 0.62], np.float32) * (1 - 0.5 * person.make_up[0]) + 0.5 * person.make_up[
        0
    ] * _lips(person, skin)
    base = _beard(art, _flat(art, np.minimum(skin, 0.95), hair, lips, 4), hair * 0.9)
    lit = _lit(art, 3.5)
    tone = ramp(lit, 0.10, 0.13)[..., None]
    colour = base * tone + base * np.array([0.78, 0.62, 0.68], np.float32) * (1 - tone)
    top = art.on("hair")
    ring = ramp(abs(lit - 0.78 - 0.12 * (art.lock - 0.5)), 0.055, 0.04) * ramp(art.normals[..., 1], -0.1, 0.2)
    strands = base * (0.55 + 0.45 * tone) * (0.9 + 0.2 * np.round(art.lock * 2) / 2)[..., None]
    colour = np.where(top[..., None], strands + ring[..., None] * (0.6 * base + 0.10), colour)
    cheeks = (_cheeks(art, 0.10) * 0.38)[..., None]
    colour = colour * (1 - cheeks) + colour * np.array([1.05, 0.60, 0.60], np.float32) * cheeks
    eye, d, height = _eyes(art, np.zeros(3), 1.38)
    iris = saturate(np.array(IRISES[person.iris]) * 1.7 + 0.03, 1.35)
    glow = iris * (0.35 + 1.0 * ramp(height, -0.7, 0.9)[..., None]) + 0.25 * ramp(height, 0.2, 1.0)[..., None] * iris
    seen = np.where(
        (d < 0.36)[..., None],
        iris * 0.06,
        np.where((d < 0.9)[..., None], glow, np.where((d < 1.02)[..., None], iris * 0.12, 0.97)),
    )
    colour = np.where(eye[..., None], seen * (0.25 + 0.75 * _lid(art))[..., None], colour)
    colour = np.where((art.frame.raster(art.frame.kind("teeth")) & art.on("mouth"))[..., None], 0.95, colour).astype(
        np.float32
    )
    edges = cv2.GaussianBlur(_edges(art, art.width > 200), (0, 0), 0.55 * art.fine)
    lines = np.maximum(np.clip(edges * 0.9, 0, 1), _face_lines(art, 0.058, 0.013))
    tint = srgb(cv2.GaussianBlur(base, (0, 0), 2 * art.fine) * 0.16)  # lines take the colour beside them
    _spots(art, colour, 0.13, 0.085)
    _spots(art, colour, -0.11, 0.04)
    place = place_of(art.view)
    y = np.linspace(0, 1, art.width, dtype=np.float32)[:, None, None]
    top_, low_ = srgb(np.clip(place.top * 0.5 + 0.35, 0, 1)), srgb(np.clip(place.bottom * 0.5 + 0.25, 0, 1))
    soft = srgb(cv2.GaussianBlur(ground(place, art.width), (0, 0), 9 * art.fine))
    back = 0.55 * (top_ * (1 - y) + low_ * y) + 0.45 * np.clip(soft * 1.05 + 0.04, 0, 1)
    return _finish(art, colour, back.astype(np.float32), np.clip(lines, 0, 1), tint, size)


def figurine(art: Drawing, size: int, lights: Lights, shadows: Shadows) -> np.ndarray:
    """A vinyl toy: every part one colour, smooth and a little glossy, under a soft studio light."""
    person, frame = art.person, art.frame
    skin = skin_tone(person, 1.2, 1.12)
    hair = saturate(np.array(person.hair.colour) * 1.35 + 0.012, 1.25)
    base = _beard(art, _flat(art, skin, hair, _lips(person, skin) * 0.5 + skin * 0.5, 2), hair * 0.85)
    cheeks = (_cheeks(art, 0.12) * 0.35)[..., None]
    base = base * (1 - cheeks) + base * np.array([1.05, 0.58, 0.55], np.float32) * cheeks
    eye, d, _ = _eyes(art, np.zeros(3), 1.12)
    iris = saturate(np.array(IRISES[person.iris]) * 1.5 + 0.01, 1.3)
    seen = np.where(
        (d < 0.5)[..., None], 0.006, np.where((d < 1.0)[..., None], iris * (0.6 + 0.6 * d[..., None]), 0.85)
    )
    base = np.where(eye[..., None], seen * (0.3 + 0.7 * _lid(art))[..., None], base)
    base = np.where((frame.raster(frame.kind("teeth")) & art.on("mouth"))[..., None], 0.8, base)
    soft = cv2.GaussianBlur(art.normals, (0, 0), 2.2 * art.fine)
    # locks of hair are grooves in the vinyl
    groove = cv2.GaussianBlur(art.lock, (0, 0), 1.3 * art.fine)
    slope = np.stack([cv2.Sobel(groove, -1, 1, 0), -cv2.Sobel(groove, -1, 0, 1)], axis=2) * art.on("hair")[..., None]
    soft[..., :2] -= 0.35 * art.fine * slope
    soft = soft / (np.linalg.norm(soft, axis=2, keepdims=True) + F(1e-3))
    key = lights.axes[:, 2].mean(axis=0)
    key = key / np.linalg.norm(key)
    sky = cv2.GaussianBlur(frame.raster(frame.sky), (0, 0), 1.5 * art.fine)
    sky = np.where(art.on("hair")[..., None], lights.harmonics[0] * 0.75 + 0.5 * (soft @ lights.harmonics[1:]), sky)
    lit = np.clip(soft @ key, 0, 1)
    view = np.array([0, 0, 1], np.float32)
    half = (key + view) / np.linalg.norm(key + view)
    gloss = np.clip(soft @ half, 0, 1) ** 42 * 0.14 + np.clip(soft @ half, 0, 1) ** 9 * 0.012
    rim = (1 - np.clip(soft[..., 2], 0, 1)) ** 3 * 0.10 * np.clip(base.mean(axis=2) * 3, 0.15, 1)
    light = sky * 1.15 + (lit * float(lights.colours.sum(axis=0).mean()))[..., None]
    thin = np.clip(1 - np.clip(soft @ key, -1, 1) ** 2, 0, 1)[..., None] * np.array([0.06, 0.02, 0.015], np.float32)
    lids = np.maximum(
        _face_lines(art, 0.04, 0.014), (art.covers["lash"] > 0.4) * F(0.6) * art.on("skin", "l_eye", "r_eye")
    )
    colour = film(
        base * (light + thin * art.on("skin", "nose")[..., None]) * 0.95 + gloss[..., None] + rim[..., None], 0.55
    ) ** F(1.0)
    colour = colour.astype(np.float32)
    _spots(art, colour, 0.12, 0.07)
    cover = cv2.GaussianBlur((art.labels > 0).astype(np.float32), (0, 0), 0.5 * art.fine)[..., None]
    back = srgb(cv2.GaussianBlur(ground(place_of(art.view), art.width), (0, 0), 6 * art.fine))
    picture = colour * cover + back * (1 - cover)
    picture = picture * (1 - lids[..., None] * 0.9)
    return to_bytes(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA))


def watercolour(art: Drawing, size: int, light: np.ndarray) -> np.ndarray:
    """Washes of pigment on paper: light photographed softly, gathered into flat wet shapes, with a pencil line."""
    rng = np.random.default_rng([art.person.number, art.person.seed, 41])
    place = ground(place_of(art.view), art.width)
    cover = cv2.GaussianBlur((art.labels > 0).astype(np.float32), (0, 0), 0.6 * art.fine)[..., None]
    scene = film(saturate(np.clip(light, 0, 1.3), 1.22) * 1.5, 0.5) * cover
    washes = scene + (srgb(cv2.GaussianBlur(place, (0, 0), 7 * art.fine)) * 0.55 + 0.42) * (1 - cover)
    wobble = np.stack([smooth_noise(rng, art.width, 22), smooth_noise(rng, art.width, 22)], axis=2) * 1.1 * art.fine
    rows, columns = np.indices((art.width, art.width), dtype=np.float32)
    moved = cv2.remap(
        washes.astype(np.float32),
        columns + wobble[..., 0],
        rows + wobble[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    calm = kuwahara(moved, max(1, round(1.7 * art.fine)))
    # pigment: transparent layers whose rims dry darker
    level = calm.mean(axis=2)
    steps = np.round(level * 7) / 7
    steps = cv2.GaussianBlur(steps, (0, 0), 0.9 * art.fine)
    calm = calm * (1 + 0.45 * (steps - level) / np.maximum(level, 0.15))[..., None]
    wet = cv2.GaussianBlur(level, (0, 0), 2.2 * art.fine) - level
    rim = np.clip(wet * 1.6, 0, 0.22)[..., None]
    density = np.clip(1 - calm, 0, 1) * (1 + rim)
    grain = (
        smooth_noise(rng, art.width, art.width // 2) * 0.5
        + smooth_noise(rng, art.width, max(4, int(art.width / 5))) * 0.4
    )
    bloom = smooth_noise(rng, art.width, 7)
    density = density * (1 + 0.05 * grain[..., None] + 0.07 * bloom[..., None])
    # the background's wash ends in a ragged edge and leaves paper
    away = np.maximum(abs(columns / art.width - 0.5), abs(rows / art.width - 0.47)) * 2
    ragged = away + 0.09 * smooth_noise(rng, art.width, 5) + 0.02 * smooth_noise(rng, art.width, 14)
    left = ramp(ragged, 0.99, 0.86)[..., None] * (0.75 + 0.25 * cover)
    density = density * left
    paper = np.array([0.985, 0.975, 0.95], np.float32) + 0.008 * grain[..., None]
    picture = paper * (1 - density)
    pencil = cv2.GaussianBlur(
        np.maximum(_edges(art, False) * 0.40, _face_lines(art, 0.028, 0.014) * 0.75), (0, 0), 0.45 * art.fine
    )
    pencil = pencil * (0.75 + 0.35 * smooth_noise(rng, art.width, 40)) * left[..., 0]
    _spots(art, picture, 0.08, 0.05)
    picture = picture * (1 - np.clip(pencil, 0, 0.9)[..., None] * np.array([0.80, 0.84, 0.80], np.float32))
    return to_bytes(cv2.resize(picture.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA))


def kuwahara(image: np.ndarray, radius: int) -> np.ndarray:
    """Each pixel takes the mean of its calmest quadrant (Kuwahara 1976), softened by the quadrants' variances."""
    k = radius + 1
    means, spreads = [], []
    grey = image.mean(axis=2)
    padded, first = (cv2.copyMakeBorder(a, k, k, k, k, cv2.BORDER_REFLECT) for a in (image, grey))
    mean, m1, m2 = cv2.blur(padded, (k, k)), cv2.blur(first, (k, k)), cv2.blur(first * first, (k, k))
    height, width = grey.shape
    half = k // 2
    for dy in (-half, k - half - 1):
        for dx in (-half, k - half - 1):
            rows, columns = slice(k + dy, k + dy + height), slice(k + dx, k + dx + width)
            means.append(mean[rows, columns])
            spreads.append(m2[rows, columns] - m1[rows, columns] ** 2)
    weights = 1 / (np.maximum(np.stack(spreads), 0) + 1e-4) ** 3
    weights = weights / weights.sum(axis=0)
    return np.einsum("qhw,qhwc->hwc", weights, np.stack(means)).astype(np.float32)


def styled(
    person: Person, view: View, size: int, style: str, pack: Pack | None = None, camera: Camera | None = None
) -> Picture:
    """A whole picture in a style, on the style's own background, with its truth.

    Raises:
        ValueError: an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}. Use one of {', '.join(STYLES)}")
    pack = pack or load_pack()
    if style in ("comic", "anime"):
        art, scene, _ = drawn(pack, person, view, size, style, None, camera)
        image = (comic if style == "comic" else anime)(art, size)
    else:
        lamp = TOY_LIGHT if style == "figurine" else replace(view.light, kind="soft", key=1.0, fill=0.9)
        lights = lights_of(replace(view, light=lamp), place_of(view))
        art, scene, shadows = drawn(pack, person, view, size, style, lights, camera)
        assert shadows is not None
        if style == "figurine":
            image = figurine(art, size, lights, shadows)
        else:
            light, _, _ = shade(pack, art.frame, lights, shadows)
            for bunch in scene.strands:
                draw(bunch, lit_strands(bunch, scene, lights, shadows), art.frame, light)
            image = watercolour(art, size, light)
    return Picture(
        image=image,
        mask=truth.mask(art.labels, size),
        parsing=truth.parsing(art.labels, size),
        landmarks=truth.landmarks(pack, scene, size).astype(np.float32),
        attributes=attributes(person, view),
    )


def twin(photo: Picture, style: Picture) -> Picture:
    """A photograph whose head is the style's: the photograph stays wherever neither head is."""
    cover = np.maximum(photo.mask, style.mask).astype(np.float32)[..., None] / 255
    mixed = style.image * cover + photo.image * (1 - cover)
    return replace(style, image=np.clip(mixed + 0.5, 0, 255).astype(np.uint8))


def twin_of(person: Person, view: View, size: int, style: str, pack: Pack | None = None) -> Picture:
    """Both pictures of `twin` from a person and a view."""
    return twin(shoot(person, view, size, pack).picture, styled(person, view, size, style, pack))
