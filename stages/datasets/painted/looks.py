"""The looks of the painter's domains: how photo, comic, clay and sketch turn material, light and form into paint."""

from dataclasses import replace

import cv2
import numpy as np

from stages.datasets.painted.accessories import photo_background
from stages.datasets.painted.canvas import Floats, linear, noise_at
from stages.datasets.painted.head import LABELS, Look, Scene
from stages.datasets.painted.person import Colour, Person, View


class PhotoLook(Look):
    """Soft light: ambient from the sky, a coloured key, red where light bleeds through skin, a little shine."""

    name = "photo"
    shine = {"skin": 0.075, "hair": 0.16, "hat": 0.0}

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.key = np.asarray(view.key, np.float32) * np.float32(view.strength * 1.16)
        self.ambient = np.asarray(view.ambient, np.float32)

    def tone(self, material: str, albedo: Floats, shade: Floats, gloss: Floats | None = None) -> Floats:
        """Linear colour of a lit surface of this material."""
        flesh = material in ("skin", "neck", "ear", "lip")
        out = np.empty((3, *np.broadcast_shapes(albedo.shape[1:], shade.shape)), np.float32)
        bleed = np.float32(0.34) * shade * np.maximum(1 - shade, 0) if flesh else None
        for plane in range(3):
            light = shade * self.key[plane] + self.ambient[plane]
            if bleed is not None and plane == 0:
                light = light + bleed
            out[plane] = albedo[plane] * light
            if gloss is not None:
                tint = albedo[plane] * np.float32(1.6) + np.float32(0.05) if material == "hair" else np.float32(1)
                out[plane] += gloss * (self.key[plane] * np.float32(self.shine.get(material, 0.05))) * tint
        return out

    def background(self, scene: Scene) -> None:
        """Paint what is behind the person."""
        photo_background(scene)


def _parts() -> np.ndarray:
    groups = np.zeros(len(LABELS), np.uint8)
    for part, names in enumerate((("skin", "brow", "eye", "nose", "mouth", "glasses"), ("hair",), ("ear",), ("neck",),
                                  ("cloth",), ("hat",), ("beard",))):  # fmt: skip
        for name in names:
            groups[LABELS[name]] = part + 1
    return groups


PARTS = _parts()
"""Label -> the part whose border gets a line, 0 the background."""


def as_colour(values: Floats) -> Colour:
    """RGB values [3] as a colour, clipped to [0, 1]."""
    r, g, b = (float(v) for v in np.clip(values, 0, 1))
    return r, g, b


def step(shade: Floats, edge: float, width: float = 0.05) -> Floats:
    """0 below `edge`, 1 above, over `width`: a cel boundary that still has soft pixels."""
    return np.clip((shade - np.float32(edge)) * np.float32(1 / width) + np.float32(0.5), 0, 1)


def vivid(colour: Floats, gain: float, low: float, high: float) -> Floats:
    """Display colour [3] with saturation times `gain` and value squeezed into low..high."""
    value = float(colour.max())
    grey = float(colour.mean())
    pushed = np.maximum(grey + (colour - grey) * np.float32(gain), 0.0)
    return (pushed / max(float(pushed.max()), 1e-3) * np.float32(low + (high - low) * value)).astype(np.float32)


def outline(scene: Scene, head_only: bool, groups: np.ndarray, width: float, inner: float) -> Floats:
    """Ink [n, n] in 0..1 along the borders of label groups, drawn inside what it surrounds.

    `groups` [13] maps labels to parts; `width` and `inner` are the silhouette's and the parts' line, frame widths.
    """
    canvas = scene.canvas
    parts = groups[canvas.label]
    if head_only:
        parts = np.where(canvas.head > 0.5, parts, 0).astype(np.uint8)
    n = canvas.n
    thick, thin = max(1, round(width * n)), max(1, round(inner * n))
    ring = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thick + 1, 2 * thick + 1))
    solid = (parts > 0).astype(np.uint8)
    edge = solid - cv2.erode(solid, ring, borderType=cv2.BORDER_REPLICATE)
    small = np.ones((thin + 1, thin + 1), np.uint8)
    within = (cv2.dilate(parts, small) != parts).astype(np.uint8) & solid
    return cv2.GaussianBlur(((edge | within) * np.float32(1)), (0, 0), 0.55)


class ComicLook(Look):
    """Ink and flat colour: two or three tones a part, a warm skin ramp, saturated hair, large eyes, a small nose."""

    name = "comic"
    fine = False
    lash = 2.3
    glint = 0.36
    relief = 0.35
    ink: Colour = (0.09, 0.05, 0.13)
    _warm = ((0.36, (0.84, 0.44, 0.20)), (0.58, (1.0, 0.68, 0.30)), (0.76, (1.0, 0.82, 0.42)),
             (0.90, (1.0, 0.93, 0.60)))  # fmt: skip
    _papers = ((0.98, 0.80, 0.20), (0.20, 0.68, 0.86), (0.95, 0.42, 0.36), (0.42, 0.78, 0.48), (0.62, 0.46, 0.86),
               (0.98, 0.60, 0.70), (0.96, 0.93, 0.84), (0.16, 0.34, 0.60))  # fmt: skip

    def adapt(self, person: Person, view: View) -> tuple[Person, View]:
        """Change proportions and light to the style's."""
        x, _, z = view.light
        toward = np.array([0.55 * x, -0.42, max(z, 0.6)])
        toward /= np.linalg.norm(toward)
        person = replace(
            person, eye_size=person.eye_size * 1.36, nose_width=person.nose_width * 0.74,
            nose_depth=person.nose_depth * 0.55, nose_length=person.nose_length * 0.93,
            brow_weight=person.brow_weight * 1.45,
            iris=as_colour(vivid(np.asarray(person.iris, np.float32), 1.9, 0.3, 0.9)),
        )  # fmt: skip
        view = replace(view, brow_raise=view.brow_raise + 0.35, eye_open=min(1.2, view.eye_open * 1.12))
        return person, replace(view, light=(float(toward[0]), float(toward[1]), float(toward[2])))

    def base(self, material: str, colour: Floats) -> Floats:
        """The flat display colour of a material whose display colour is given."""
        if material in ("skin", "neck", "ear"):
            level = float(colour @ np.array([0.5, 0.35, 0.15], np.float32))
            at = [row[0] for row in self._warm]
            return np.array([np.interp(level, at, [row[1][k] for row in self._warm]) for k in range(3)], np.float32)
        if material in ("hair", "beard", "brow"):
            if float(colour.max()) < 0.20:
                return np.array([0.11, 0.15, 0.42], np.float32)
            return vivid(colour, 1.9, 0.62, 1.0)
        if material in ("cloth", "hat"):
            return vivid(colour, 1.9, 0.5, 1.0)
        if material == "glasses":
            return vivid(colour, 1.8, 0.18, 1.0)
        if material == "lip":
            red = np.array([0.86, 0.24, 0.26], np.float32)
            return (colour * np.float32(0.4) + red * np.float32(0.6)).astype(np.float32)
        return colour

    def tone(self, material: str, albedo: Floats, shade: Floats, gloss: Floats | None = None) -> Floats:
        """Linear colour of a lit surface of this material."""
        shape = np.broadcast_shapes(albedo.shape[1:], shade.shape)
        if material in ("eye", "teeth", "lens", "cavity"):
            lit = np.float32(0.55) + np.float32(0.45) * step(shade, 0.30 if material == "eye" else 0.2, 0.2)
            scale = np.float32(1.12 if material == "eye" else 1.0)
            planes = albedo if albedo.ndim == 3 else albedo[:, None, None]
            return np.broadcast_to(planes * scale * lit, (3, *shape)).copy()
        flat = albedo.ndim == 1
        base = self.base(material, np.sqrt(albedo if flat else albedo.reshape(3, -1).mean(1)))
        lit = step(shade, {"hair": 0.42, "lip": 0.42, "ear": 0.5, "neck": 0.42, "cloth": 0.44}.get(material, 0.49))
        dark = np.array([0.93, 0.80, 0.74] if material in ("skin", "neck", "ear") else [0.84, 0.80, 0.88], np.float32)
        out = np.empty((3, *shape), np.float32)
        for plane in range(3):
            full = base[plane] * base[plane]
            low = full * dark[plane] * dark[plane]
            out[plane] = low + lit * (full - low)
        if gloss is not None:
            spark = step(gloss, 0.62 if material == "hair" else 1.0, 0.08)
            light = linear(np.minimum(base * np.float32(1.25) + np.float32(0.10), 1))
            for plane in range(3):
                out[plane] += spark * (light[plane] - out[plane])
        return out

    def background(self, scene: Scene) -> None:
        """Paint what is behind the person."""
        rng = np.random.default_rng([self.view.seed, 4])
        first, second = (self._papers[int(i)] for i in rng.choice(len(self._papers), 2, replace=False))
        canvas, kind = scene.canvas, rng.random()
        a, b = linear(first), linear(first) * np.float32(0.55) + linear(second) * np.float32(0.45)
        x, y = canvas.x, canvas.y
        if kind < 0.35:
            share = np.zeros_like(x)
        elif kind < 0.6:
            slope = np.float32(rng.uniform(-0.9, 0.9))
            share = step(x * slope + y + np.float32(rng.uniform(-0.4, 0.4)), 0, 0.03)
        elif kind < 0.8:
            share = step(np.sin(np.arctan2(y - np.float32(0.1), x) * np.float32(rng.integers(5, 9) * 2)), 0, 0.2)
        else:
            share = step(np.float32(rng.uniform(0.6, 0.95)) - np.sqrt(x * x + y * y), 0, 0.03)
        for plane in range(3):
            canvas.rgb[plane] = a[plane] + share * (b[plane] - a[plane])

    def finish(self, scene: Scene, head_only: bool) -> None:
        """Draw what lies over the finished picture."""
        ink = outline(scene, head_only, PARTS, 0.014, 0.009)
        if head_only:
            ink *= np.minimum(scene.canvas.head * np.float32(1.5), 1)
        colour = linear(self.ink)
        for plane in range(3):
            scene.canvas.rgb[plane] += ink * (colour[plane] - scene.canvas.rgb[plane])


class ClayLook(Look):
    """Matt plasticine: pastel colours, a broad soft light, deep creases, a big nose and small dark eyes."""

    name = "clay"
    fine = False
    lash = 0.8
    glint = 0.40
    relief = 0.9
    _papers = ((0.70, 0.80, 0.86), (0.92, 0.80, 0.72), (0.76, 0.86, 0.76), (0.86, 0.78, 0.88), (0.94, 0.90, 0.78))

    def adapt(self, person: Person, view: View) -> tuple[Person, View]:
        """Change proportions and light to the style's."""
        person = replace(
            person, eye_size=person.eye_size * 1.10, eye_tilt=0.0, nose_width=person.nose_width * 1.55,
            nose_depth=person.nose_depth * 1.9, nose_length=person.nose_length * 0.96, lip=person.lip * 1.3,
            brow_weight=person.brow_weight * 1.9, brow_arch=person.brow_arch * 1.2, iris=(0.10, 0.08, 0.08),
        )  # fmt: skip
        x, y, z = view.light
        toward = np.array([0.7 * x, min(y, -0.45), max(z, 0.5)])
        toward /= np.linalg.norm(toward)
        view = replace(view, eye_open=min(1.2, view.eye_open * 1.25), brow_raise=view.brow_raise + 0.3)
        return person, replace(view, light=(float(toward[0]), float(toward[1]), float(toward[2])))

    def _base(self, material: str, colour: Floats) -> Floats:
        if material in ("skin", "neck", "ear", "lip"):
            rosy = np.array([0.86, 0.30, 0.32] if material == "lip" else [1.0, 0.70, 0.56], np.float32)
            return (colour * np.float32(0.58) + rosy * np.float32(0.42)).astype(np.float32)
        if material in ("hair", "beard", "brow", "cloth", "hat", "glasses"):
            return vivid(colour, 1.0 if float(colour.max()) < 0.25 else 1.7, 0.30, 1.0)
        return colour

    def tone(self, material: str, albedo: Floats, shade: Floats, gloss: Floats | None = None) -> Floats:
        """Soft light with violet shadows; the colour of a patterned cloth is its mean."""
        shape = np.broadcast_shapes(albedo.shape[1:], shade.shape)
        out = np.empty((3, *shape), np.float32)
        if material in ("eye", "teeth", "lens", "cavity"):
            planes = albedo if albedo.ndim == 3 else albedo[:, None, None]
            out[:] = planes * (np.float32(0.45) + np.float32(0.60) * np.minimum(shade * np.float32(1.2), 1))
            return out
        base = linear(self._base(material, np.sqrt(albedo if albedo.ndim == 1 else albedo.reshape(3, -1).mean(1))))
        lit = np.minimum(shade * np.float32(1.12), np.float32(1.1))
        for plane, (deep, full) in enumerate(zip((0.40, 0.30, 0.36), (1.12, 1.06, 1.0), strict=True)):
            out[plane] = base[plane] * (np.float32(deep) + np.float32(full - deep) * lit)
            if gloss is not None:
                out[plane] += gloss * np.float32(0.10 if material == "skin" else 0.06)
        return out

    def background(self, scene: Scene) -> None:
        """Paint what is behind the person."""
        rng = np.random.default_rng([self.view.seed, 5])
        paper = linear(self._papers[int(rng.integers(len(self._papers)))])
        canvas = scene.canvas
        fall = np.float32(1.0) - np.float32(0.22) * (canvas.y + np.float32(0.4)) ** 2 - np.float32(0.14) * canvas.x**2
        for plane in range(3):
            canvas.rgb[plane] = paper[plane] * fall

    def finish(self, scene: Scene, head_only: bool) -> None:
        """Pieces press into each other: soft creases at their borders; thumbs leave dents."""
        canvas = scene.canvas
        where = canvas.head if head_only else np.float32(1)
        crease = cv2.GaussianBlur(outline(scene, head_only, PARTS, 0.010, 0.010), (0, 0), 0.008 * scene.n)
        dents = noise_at(0.016 * scene.n, scene.n, self.view.seed) * np.float32(0.07)
        inside = np.float32(1) if head_only else (canvas.label > 0)
        canvas.rgb *= 1 - where * np.clip(crease * np.float32(0.75) + dents * inside, -0.2, 0.7)


_FEATURES = [LABELS[name] for name in ("eye", "brow", "mouth", "glasses")]


class SketchLook(Look):
    """Pencil on paper: no colour, outlines, hatching that thickens with the dark; keener eyes and nose."""

    name = "sketch"
    fine = False
    lash = 2.0
    glint = 0.34
    relief = 1.0
    paper = (0.95, 0.92, 0.85)
    lead = (0.20, 0.19, 0.21)

    def adapt(self, person: Person, view: View) -> tuple[Person, View]:
        """Change proportions and light to the style's."""
        person = replace(
            person, eye_size=person.eye_size * 1.16, nose_depth=person.nose_depth * 1.1, iris=(0.25, 0.25, 0.25),
            brow_weight=person.brow_weight * 1.25, nose_length=person.nose_length * 1.05,
        )  # fmt: skip
        x, _, z = view.light
        toward = np.array([-0.55 if x < 0 else 0.55, -0.5, max(z, 0.6)])
        toward /= np.linalg.norm(toward)
        return person, replace(view, light=(float(toward[0]), float(toward[1]), float(toward[2])))

    def tone(self, material: str, albedo: Floats, shade: Floats, gloss: Floats | None = None) -> Floats:
        """Grey: how dark the pencil will be, before it becomes strokes."""
        shape = np.broadcast_shapes(albedo.shape[1:], shade.shape)
        planes = np.sqrt(albedo if albedo.ndim == 3 else albedo[:, None, None])
        grey = planes[0] * np.float32(0.4) + planes[1] * np.float32(0.4) + planes[2] * np.float32(0.2)
        if material in ("skin", "neck", "ear"):
            grey = np.float32(0.45) + np.float32(0.55) * grey
            value = grey * (np.float32(0.40) + np.float32(0.80) * shade)
        elif material in ("eye", "teeth", "lens", "cavity"):
            value = grey * np.float32(1.1)
        else:
            value = (np.float32(0.12) + np.float32(0.80) * grey) * (np.float32(0.45) + np.float32(0.75) * shade)
        if gloss is not None and material == "hair":
            value = value + gloss * np.float32(0.25)
        value = np.minimum(value, 1)
        return np.broadcast_to(value * value, (3, *shape)).copy()

    def background(self, scene: Scene) -> None:
        """Paint what is behind the person."""
        scene.canvas.rgb[:] = np.float32(0.98)

    def finish(self, scene: Scene, head_only: bool) -> None:
        """Grey becomes strokes: one direction in half light, a second across it in the dark."""
        canvas, n = scene.canvas, scene.n
        grey = np.sqrt(np.maximum(canvas.rgb[1], 0))
        wobble = noise_at(0.02 * n, n, self.view.seed) * np.float32(0.012)
        pitch = np.float32(2 * np.pi * 11.5 * np.sqrt(max(n, 128) / 128))
        first = np.sin((canvas.x + canvas.y + wobble) * pitch)
        second = np.sin((canvas.x * np.float32(1.3) - canvas.y + wobble) * pitch)
        soft = np.float32(0.28)
        strokes = step(first, 0.0, 0.9) * np.clip((np.float32(0.82) - grey) * 4, 0, 1) * soft
        feature = np.isin(canvas.label, _FEATURES)
        strokes = strokes + step(second, 0.1, 0.9) * np.clip((np.float32(0.52) - grey) * 4, 0, 1) * soft
        smooth = np.clip(np.float32(0.95) - grey, 0, 1) * np.where(feature, np.float32(0.98), np.float32(0.80))
        grain = noise_at(0.7, n, self.view.seed + 5) * np.float32(0.035)
        lines = outline(scene, head_only, PARTS, 0.011, 0.008)
        ink = np.clip(np.maximum(smooth + np.where(feature, 0, strokes), lines * np.float32(0.92)) + grain, 0, 1)
        paper, lead = linear(self.paper), linear(self.lead)
        where = canvas.head if head_only else np.float32(1)
        for plane in range(3):
            drawn = paper[plane] + ink * (lead[plane] - paper[plane])
            canvas.rgb[plane] += where * (drawn - canvas.rgb[plane])
