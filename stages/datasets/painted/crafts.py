"""Two styles made by hand: clay (rounded plasticine under a studio light) and sketch (pencil hatching on paper)."""

from dataclasses import replace

import cv2
import numpy as np

from stages.datasets.painted.canvas import Floats, linear, noise_at
from stages.datasets.painted.head import LABELS, Look, Scene
from stages.datasets.painted.looks import PARTS, outline, step, vivid
from stages.datasets.painted.person import Person, View


class ClayLook(Look):
    """Matt plasticine: pastel colours, a broad soft light, deep creases, a big nose and small dark eyes."""

    name = "clay"
    fine = False
    lash = 0.8
    glint = 0.40
    relief = 0.9
    _papers = ((0.70, 0.80, 0.86), (0.92, 0.80, 0.72), (0.76, 0.86, 0.76), (0.86, 0.78, 0.88), (0.94, 0.90, 0.78))

    def adapt(self, person: Person, view: View) -> tuple[Person, View]:
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
