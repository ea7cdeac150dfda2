"""What every style is drawn with: proportions, regions, smooth normals, ink, eyes, cheeks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from stages.datasets.rendered import truth
from stages.datasets.rendered.build import Camera, Scene, build
from stages.datasets.rendered.colour import ramp, saturate, srgb, to_bytes
from stages.datasets.rendered.hair.haircuts import STIFF
from stages.datasets.rendered.light import Lights
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.person import Person, View
from stages.datasets.rendered.render import regions_of
from stages.datasets.rendered.shade import Frame, Shadows, albedo_of, capture, draw, lid_shadow
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
    brow: float = 1.0
    brow_lift: float = 0.0  # decimetres

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
    "comic": Proportions(
        eye=1.38, eye_height=1.08, nose=0.85, jaw=0.08, head=0.04, expression=1.15, brow=0.9, brow_lift=0.015
    ),
    "anime": Proportions(
        eye=1.80, eye_height=1.16, nose=0.55, mouth=0.82, jaw=0.16, chin=0.14, head=0.08, brow=0.7, brow_lift=0.045
    ),
    "figurine": Proportions(eye=1.45, nose=0.72, mouth=0.95, jaw=0.02, head=0.12),
    "watercolour": Proportions(eye=1.12, nose=0.97, jaw=0.04, expression=1.05),
}
MIRRORED = 0.014  # linear light that skin mirrors, a share of white
GATHER = {"comic": 2.2, "anime": 4.0, "figurine": 3.0, "watercolour": 1.3}


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
    behind: np.ndarray | None = None  # uint8 [S, S, 3], what the person is drawn on; None: the style's own background

    @property
    def width(self) -> int:
        """Side of the picture, px."""
        return self.frame.width

    @property
    def fine(self) -> float:
        """Samples that a hair's breadth of the style takes: 1 at 128."""
        return self.width / 256

    def on(self, *names: str) -> np.ndarray:
        """Where these labels are: bool [W, W]."""
        return np.isin(self.labels, [LABELS[name] for name in names])

    def marks(self) -> np.ndarray:
        """The landmarks that are fixed to the mesh: [68, 2] px."""
        return truth.fixed_landmarks(self.pack, self.frame.scene, self.width)


def drawn(
    pack: Pack, person: Person, view: View, size: int, style: str, lights: Lights | None, camera: Camera | None
) -> tuple[Drawing, Scene, Shadows | None]:
    """Build and rasterise a person in a style's proportions."""
    shape = PROPORTIONS[style]
    # grey hairs are a tint of the whole in a drawing
    hair = person.hair
    mixed = np.array(hair.colour) * (1 - hair.grey) + 0.33 * hair.grey
    thick, high, arch = person.brow
    person = replace(
        person,
        hair=replace(hair, grey=0.0, colour=(float(mixed[0]), float(mixed[1]), float(mixed[2]))),
        brow=(thick * shape.brow, high + shape.brow_lift, arch),
    )
    coiled = hair.style in ("afro", "coils")
    gather = 1.0 if coiled else GATHER[style]  # locks pull coils in and take their volume
    scene = build(pack, person, view, size, shape.warp(pack), shape.expression, gather, size // 2)
    scene.camera = camera or scene.camera
    shadows = Shadows(scene, lights, size // 2) if lights is not None else None
    frame = capture(pack, scene, size, lights, shadows)
    normals = frame.raster(frame.normals)
    lock = np.zeros((frame.width, frame.width, 1), np.float32)
    covers: dict[str, np.ndarray] = {}
    regions = []
    for bunch in scene.strands:
        if bunch.kind in ("hair", "beard"):
            values = np.concatenate([bunch.outward, locks_of(bunch.colour, bunch.outward)], axis=2)
            both = np.concatenate([normals, lock], axis=2)
            over = draw(bunch, np.ascontiguousarray(values), frame, both, wider=1.6 if bunch.kind == "hair" else 2.0)
            over = solid(over, frame.width, airy=coiled and person.hat == "none" and bunch.kind == "hair")
            normals, lock = np.ascontiguousarray(both[..., :3]), np.ascontiguousarray(both[..., 3:])
        else:
            over = draw(bunch, bunch.colour, frame, np.zeros((frame.width, frame.width, 3), np.float32), wider=1.6)
        covers[bunch.kind] = np.maximum(over, covers.get(bunch.kind, 0))
        regions += regions_of(bunch.kind, bunch.label, over, scene, frame)
    if hair.style in STIFF:  # their locks are too small for a pen
        lock = cv2.GaussianBlur(lock, (0, 0), frame.width / 50)[..., None].astype(np.float32)
    labels = without_islands(truth.regions(frame, regions, filled=True))
    return Drawing(pack, person, view, frame, labels, normals, lock[..., 0], covers), scene, shadows


def locks_of(colour: np.ndarray, outward: np.ndarray) -> np.ndarray:
    """A number of every strand's lock, from the tone its lock shares: [S, P, 1]."""
    tone = np.log(np.maximum(colour.mean(axis=2, keepdims=True), 1e-4))
    tone = tone - tone.mean(axis=(0, 2), keepdims=True)
    return (0.5 + 0.5 * np.tanh(tone * 3)).astype(np.float32)


def solid(cover: np.ndarray, width: int, airy: bool = False) -> np.ndarray:
    """A cover without pinholes and whiskers, its outline smooth; that of airy hair takes in its outermost tips."""
    for share, way in ((110, cv2.MORPH_CLOSE), (130, cv2.MORPH_OPEN)):
        r = max(1, round(width / share))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
        cover = cv2.morphologyEx(cover, way, disc)
    low, high = (0.08, 0.3) if airy else (0.3, 0.6)
    return ramp(cv2.GaussianBlur(cover, (0, 0), width / 230), low, high).astype(np.float32)


def without_islands(labels: np.ndarray) -> np.ndarray:
    """Regions [W, W] whose hair has no small holes, which a drawing would fill with spots of skin."""
    _, numbers, facts, _ = cv2.connectedComponentsWithStats((labels != LABELS["hair"]).astype(np.uint8), connectivity=4)
    small = facts[:, cv2.CC_STAT_AREA] < (len(labels) / 25) ** 2
    small[0] = False  # the hair itself
    bare = np.isin(labels, [LABELS[name] for name in ("background", "skin", "l_ear", "r_ear", "neck", "cloth")])
    return np.where(small[numbers] & bare, np.uint8(LABELS["hair"]), labels)


def light_of(view: View, rise: float = 30.0) -> np.ndarray:
    """Where a drawing's light comes from."""
    a = np.radians(np.clip(view.light.azimuth, -55, 55))
    e = np.radians(max(rise, view.light.elevation))
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], np.float32)


def lit(art: Drawing, blur: float) -> np.ndarray:
    """Cosine to the light of softened normals, -1..1."""
    soft = cv2.GaussianBlur(art.normals, (0, 0), max(0.5, blur * art.fine))
    length = np.linalg.norm(soft, axis=2) + 1e-3
    return (soft @ light_of(art.view)) / length


def skin_tone(person: Person, gain: float, push: float) -> np.ndarray:
    """A drawing's flat skin, linear [3]: the person's own, with the white that all skin mirrors.

    The mirrored light is the same on every skin, so it takes most of the colour out of dark skin. Without it dark skin
    is orange.
    """
    return saturate(np.array(person.skin_colour, np.float32), push) * F(gain) + F(MIRRORED)


def flat_colours(art: Drawing, skin: np.ndarray, hair: np.ndarray, lips: np.ndarray, cloth_steps: int) -> np.ndarray:
    """One colour a region, linear [W, W, 3]; clothes keep their print in few steps."""
    palette = np.zeros((len(LABELS), 3), np.float32)
    palette[[LABELS[n] for n in ("skin", "beard", "l_ear", "r_ear", "nose", "neck")]] = skin
    palette[[LABELS["u_lip"], LABELS["l_lip"]]] = lips
    palette[LABELS["mouth"]] = (0.20, 0.02, 0.03)
    palette[LABELS["hair"]] = hair
    palette[[LABELS["l_brow"], LABELS["r_brow"]]] = hair * np.minimum(0.45, 0.10 / hair.max())
    palette[LABELS["glasses"]] = 0.015
    palette[[LABELS["earring"], LABELS["necklace"]]] = (0.75, 0.55, 0.18)
    out = palette[art.labels]
    out[art.on("hat")] = saturate(np.array(art.person.hat_colour), 1.25, 1.3)
    cloth = art.on("cloth")
    if cloth.any():
        out[cloth] = clothes(art, cloth_steps)[cloth]
    return out


def clothes(art: Drawing, steps: int) -> np.ndarray:
    """The clothes' print in a few steps of brightness."""
    print_ = art.frame.raster(albedo_of(art.pack, art.frame, ("cloth",)))
    smooth = cv2.GaussianBlur(srgb(print_), (0, 0), 0.8 * art.fine)
    return saturate((np.round(smooth * steps) / steps) ** 2.2, 1.2, 1.15)


def eyes(art: Drawing, iris: np.ndarray, grow: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def edges_of(art: Drawing, inner: bool) -> np.ndarray:
    """Ink of outlines, 0..1 [W, W]: steps of depth and changes of region; `inner` adds the locks of hair."""
    near = np.where(art.frame.depth > 1e8, art.view.distance + 4, art.frame.depth).astype(np.float32)
    step = np.hypot(cv2.Sobel(near, -1, 1, 0), cv2.Sobel(near, -1, 0, 1)) > 0.55 * 2 / max(1.0, art.fine)
    hair = cv2.dilate(art.on("hair").astype(np.uint8), np.ones((3, 3))) > 0
    part = art.labels.copy()
    for name in ("beard", "l_ear", "r_ear", "nose", "neck", "u_lip", "l_lip", "necklace"):
        part[art.on(name)] = LABELS["skin"]
    part[art.on("l_eye")] = LABELS["r_eye"]

    # brows and glasses are lines of their own
    three = np.ones((3, 3), np.uint8)
    change = cv2.dilate(part, three) != cv2.erode(part, three)
    dark = cv2.dilate(art.on("l_brow", "r_brow", "glasses").astype(np.uint8), three) > 0
    ink = (step & ~hair) | (change & ~dark)

    if inner:
        lock = cv2.GaussianBlur(art.lock, (0, 0), 1.2 * art.fine)
        lines = (np.hypot(cv2.Sobel(lock, -1, 1, 0), cv2.Sobel(lock, -1, 0, 1)) > 1.9 / art.fine) & art.on("hair")
        _, numbers, facts, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8))
        long = np.maximum(facts[:, cv2.CC_STAT_WIDTH], facts[:, cv2.CC_STAT_HEIGHT]) > art.width / 16
        long[0] = False  # where no line is
        ink |= long[numbers]  # short ones are specks
    return ink.astype(np.float32)


def strokes(art: Drawing, groups: list[tuple[np.ndarray, float]], allowed: np.ndarray) -> np.ndarray:
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


def face_lines(art: Drawing, lid: float, mouth: float) -> np.ndarray:
    """Ink of upper lids, the line between the lips and nostrils."""
    m = art.marks()
    wide = float(np.linalg.norm(m[36] - m[45]))
    allowed = art.on("skin", "beard", "l_eye", "r_eye", "nose", "u_lip", "l_lip", "mouth").astype(np.float32)
    lids = [(m[36:40], lid * wide), (m[[42, 43, 44, 45]], lid * wide)]
    ink = strokes(art, lids, allowed)
    gap = float(np.linalg.norm(m[62] - m[66])) / max(wide, 1)
    if gap < 0.05:
        ink = np.maximum(ink, strokes(art, [(m[[60, 61, 62, 63, 64]], mouth * wide)], allowed))
    nostril = (art.normals[..., 1] < -0.60) & art.on("nose")
    return np.maximum(ink, cv2.GaussianBlur(nostril.astype(np.float32), (0, 0), 0.6 * art.fine) * 0.75)


def lashes(art: Drawing, wide: float) -> np.ndarray:
    """Ink of long lashes, 0..1 [W, W]: one wing at the outer corner of each eye, `wide` in eye widths."""
    m, long = art.marks(), float(ramp(art.person.lashes, 0.5, 1.1))
    wings = []
    for outer, next_, inner in ((m[36], m[37], m[39]), (m[45], m[44], m[42])):
        eye = float(np.linalg.norm(outer - inner))
        tip = outer + (outer - inner) * 0.10 * long - np.array([0, 0.13 * eye * long])
        wings.append((np.stack([next_ * 0.5 + outer * 0.5, outer, tip]), wide * eye * long))
    return strokes(art, wings, art.on("skin", "l_eye", "r_eye", "hair").astype(np.float32)) * F(long > 0)


def cheeks_of(art: Drawing, size: float) -> np.ndarray:
    """Blush of both cheeks, 0..1 [W, W]; `size` in distances between the outer eye corners."""
    m = art.marks()
    wide = float(np.linalg.norm(m[36] - m[45]))
    out = np.zeros((art.width, art.width), np.float32)
    for eye, corner in ((41, 48), (46, 54)):
        c = m[eye] * 0.55 + m[corner] * 0.45
        cv2.circle(out, (int(c[0]), int(c[1])), max(1, int(wide * size)), 1, -1)
    return cv2.GaussianBlur(out, (0, 0), max(0.5, wide * size * 0.5)) * art.on("skin", "nose")


def finish(
    art: Drawing, colour: np.ndarray, back: np.ndarray, ink: np.ndarray, tint: np.ndarray, size: int
) -> np.ndarray:
    """Colour over a background with ink on it, brought to size: sRGB bytes."""
    cover = cv2.GaussianBlur((art.labels > 0).astype(np.float32), (0, 0), 0.45 * art.fine)[..., None]
    ink = ink[..., None]
    return laid(art, srgb(colour) * cover * (1 - ink) + tint * ink, cover + ink - cover * ink, back, size)


def laid(art: Drawing, paint: np.ndarray, cover: np.ndarray, back: np.ndarray, size: int) -> np.ndarray:
    """Paint laid on what is behind the person, brought to size: sRGB bytes [size, size, 3].

    Args:
        paint: sRGB [W, W, 3], multiplied with its cover.
        cover: [W, W, 1].
        back: the style's own background, sRGB [W, W, 3], for a drawing that has nothing else behind it.
    """
    layer = cv2.resize(np.dstack([paint, cover]).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    behind = back if art.behind is None else art.behind.astype(np.float32) / 255
    behind = cv2.resize(behind.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return to_bytes(layer[..., :3] + behind * (1 - layer[..., 3:]))


def spots(art: Drawing, picture: np.ndarray, where: float, size: float) -> None:
    """Points of light in both eyes, in place."""
    m = art.marks()
    for rim in (m[36:42], m[42:48]):
        c, wide = rim.mean(axis=0), float(np.linalg.norm(rim[0] - rim[3]))
        if abs(rim[1, 1] - rim[5, 1]) < wide * 0.13:
            continue
        x, y = int(c[0] - wide * where), int(c[1] - wide * where)
        if 0 <= x < art.width and 0 <= y < art.width and art.labels[y, x] in (LABELS["l_eye"], LABELS["r_eye"]):
            cv2.circle(picture, (x, y), max(1, int(wide * size)), (1, 1, 1), -1, cv2.LINE_AA)


def bearded(art: Drawing, colour: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """Beards as one shape, stubble as a tint."""
    person, frame = art.person, art.frame
    if person.beard.length > 0:
        # its strands, and the skin that they grow from
        grown = frame.raster(beard_area(frame.neutral, person.beard).astype(np.float32)) * art.on("skin", "beard")
        area = np.maximum(art.covers.get("beard", grown), ramp(grown, 0.2, 0.6))
        near = (area > 0.35) & art.on("skin", "beard", "neck", "nose")
        colour = np.where(near[..., None], hair, colour)
    elif person.beard.stubble > 0.3:
        grown = frame.raster(beard_area(frame.neutral).astype(np.float32)) * art.on("skin")
        k = (0.45 * person.beard.stubble * ramp(grown, 0.3, 0.6))[..., None]
        colour = colour * (1 - k) + colour * np.array([0.45, 0.5, 0.6], np.float32) * k
    return colour


def lips_of(person: Person, skin: np.ndarray) -> np.ndarray:
    """Colour of lips, linear [3]: the skin's own, redder, or the lipstick."""
    stick = np.array(LIPSTICKS[person.number % len(LIPSTICKS)], np.float32)
    own = skin * np.array([0.92, 0.55, 0.55], np.float32)
    return own * (1 - 0.8 * person.make_up[0]) + stick * 0.8 * person.make_up[0]


def lid(art: Drawing) -> np.ndarray:
    """Shadow of the lid on the eyes, 1 elsewhere [W, W]."""
    on = art.frame.kind("eye")
    out = np.ones((art.width, art.width), np.float32)
    out[art.frame.rows[on], art.frame.columns[on]] = lid_shadow(art.pack, art.frame, on)
    return np.where(out < 0.60, 0.72, 1.0).astype(np.float32)
