"""Pairs drawn by rule: a comic made of the photograph itself, with flat tones and ink lines, and no translator.

It serves where there is neither a generator good enough to learn from nor a set of style pictures. The rule needs no
data and keeps every person; the student then does in milliseconds what takes the rule a third of a second. The rule
smooths the photo along its edges, flattens lightness to a few tones (Winnemoeller, Olsen, Gooch: "Real-Time Video
Abstraction", SIGGRAPH 2006, sec. 3.2) and inks where a difference of Gaussians across the edge, gathered along it, is
negative (Kang, Lee, Chui: "Coherent Line Drawing", NPAR 2007; thresholded softly as in Winnemoeller, Kyprianidis,
Olsen: "XDoG", Computers & Graphics 36, 2012).

A flatter comic has areas of one colour (mean shift: Comaniciu, Meer, PAMI 24, 2002), and asks where the face is:
eyes and lips are spared from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from stages.core.artifact import Artifact
from stages.core.mark import DRAWN
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, number
from stages.core.stage import Stage
from stages.core.tensors import to_tensor
from stages.networks.face_reader import Reader, load_reader, reader_file
from stages.pair.curate import Curate
from stages.pair.inputs import (
    Translated,
    all_photos,
    check_photos,
    photo_count,
    photo_digest,
    photo_files,
    stored_photos,
)
from stages.pair.score import measure_heldout
from stages.pair.translator import Translation
from stages.pair.write import Write, write_pairs

SIDE = 512  # px at which every picture is drawn: lines are shares of the picture, and come back antialiased
WIDER = 1.6  # of the second Gaussian across an edge (Kang 2007)
LEFT = 0.985  # of it that is taken off: below 1, so that flat parts stay above the threshold
THRESHOLD = 0.006  # of lightness in [0, 1], below which ink begins; skin has less
DARKENING = 60  # how fast ink darkens below it
INK = (0.10, 0.07, 0.10)  # RGB, a warm black
EYES = (range(36, 42), range(42, 48))  # of the 68 landmarks
LIPS = range(48, 60)
MEAN_FACE = 62.0  # lightness of a face, L of Lab, whose contrast is as set


@dataclass(kw_only=True)
class Rule:
    """How a photograph becomes a comic.

    Args:
        tones: how many tones lightness has.
        hardness: of the steps between them; 0.1 leaves a ramp.
        saturation: factor on the colours' distance from grey along yellow and blue; red and green get a third of the
            change, or faces blush.
        contrast: factor on lightness about its middle.
        line: width of the ink lines, px of a picture of 512 px.
        ink: how dark they are, 0 (none) to 1.
        areas: how far apart neighbouring colours of the 8-bit Lab picture may lie that become one; 0 leaves them.
        even: contrast lies about the face's own lightness, and is multiplied by (62 / it) ** even, 0.9 to 1.6, so that
            the comic of a dark face is as bold. 0: about the middle, alike for all.
    """

    tones: int = 5
    hardness: float = 2.0
    saturation: float = 1.35
    contrast: float = 1.15
    line: float = 2.4
    ink: float = 1.0
    areas: float = 0.0
    even: float = 0.0

    def __post_init__(self) -> None:
        number("tones", self.tones, 2, 64, integer=True)
        number("hardness", self.hardness, 0.1, 16)
        number("saturation", self.saturation, 0, 4)
        number("contrast", self.contrast, 0.1, 4)
        number("line", self.line, 0.5, 8)
        number("ink", self.ink, 0, 1)
        number("areas", self.areas, 0, 40)
        number("even", self.even, 0, 1)


@dataclass(kw_only=True)
class CartoonPairs(Stage):
    """Photos -> curated, scored pairs of photo and the comic drawn of it.

    Args:
        target: style among the data's whose held-out pictures the drawings are measured against (KID).
        rule: how they are drawn.
        curate: which pairs are kept, and how they are composited.
        write: how they are stored, and of which photos they are made.

    Raises:
        ConfigError: the target is not a name.
    """

    reads: ClassVar[tuple[str, ...]] = ("data",)
    target: str
    rule: Rule = field(default_factory=Rule)
    curate: Curate = field(default_factory=Curate)
    write: Write = field(default_factory=Write)

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is not a style", "Name one of the data set's styles")

    def files(self) -> dict[str, Path]:
        """The face reader, which scores, and the folders of further photos and their masks, if any."""
        return reader_file() | photo_files(self.write.photos)

    def digest(self, key: str, path: Path) -> str:
        """Of further photos only the pictures count."""
        return photo_digest(key, path)

    def check(self) -> None:
        """Refuse a `sources.csv` above the further photos that cannot be obeyed."""
        check_photos(self.write.photos)

    def shards(self, inputs: dict[str, Artifact]) -> int:
        """How many shards there are to write: `part=range(0,N)` launches them all."""
        return self.write.shards(photo_count(inputs["data"], self.write.photos))

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Draw, curate, write and measure the pairs.

        Returns:
            The artifact's metrics; of a part (`runtime.part`), how many shards are done and how many there are.

        Raises:
            TristyleError: the data set has no photos, or no pair passes the limits.
        """
        data = inputs["data"]
        reader = load_reader(runtime.device)
        paint = partial(self._paint, reader)
        photos = all_photos(data, self.write.photos, out, reader, runtime)
        metrics = write_pairs(Translated(photos, paint), out, self.curate, self.write, reader, runtime)
        if runtime.part is not None:
            return metrics
        metrics |= measure_heldout(data, self.target, paint, reader, out, runtime)
        return metrics | {"reader": reader.id, "size": stored_photos(data).size}

    def _paint(self, reader: Reader, photos: np.ndarray) -> Translation:
        asked = self.rule.areas or self.rule.even
        drawn = [draw(photo, self.rule, _landmarks(reader, photo) if asked else None) for photo in photos]
        return Translation(np.stack(drawn), source=DRAWN)


def _landmarks(reader: Reader, photo: np.ndarray) -> np.ndarray:
    """Of one picture by itself: what is drawn of it does not depend on its neighbours in a batch."""
    device = next(reader.parameters()).device
    found: np.ndarray = reader.read(to_tensor(photo[None]).to(device)).landmarks[0].cpu().numpy()
    return found


def draw(photo: np.ndarray, rule: Rule, landmarks: np.ndarray | None = None) -> np.ndarray:
    """A square photograph as a comic.

    Args:
        photo: uint8 RGB [S, S, 3].
        rule: how it is drawn.
        landmarks: of the face, float [68, 2] in shares of the frame, within it; `areas` and `even` need them.

    Returns:
        uint8 RGB [S, S, 3].
    """
    side = photo.shape[0]
    method = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
    large = cv2.resize(photo, (SIDE, SIDE), interpolation=method).astype(np.float32) / 255
    points = None if landmarks is None else np.rint(landmarks * SIDE).astype(np.int32)
    lab = cv2.cvtColor(large.clip(0, 1), cv2.COLOR_RGB2Lab)  # L in [0, 100]

    # small steps flatten more, and keep more edges, than one large
    smooth = lab
    for _ in range(9):
        smooth = cv2.bilateralFilter(smooth, 0, 12.0, 3.0)  # Lab units, px
    spared = np.zeros((SIDE, SIDE), np.float32)
    if rule.areas:
        assert points is not None
        smooth = _in_areas(smooth, rule.areas)
        spared = _features(points)
        smooth += spared[..., None] * (cv2.bilateralFilter(lab, 0, 8.0, 2.0) - smooth)

    # a few tones of lightness, stronger colours
    flat = smooth.copy()
    light = _stepped(smooth[..., 0], 100 / rule.tones, rule.hardness)
    light += spared * (smooth[..., 0] - light)
    middle, contrast = 50.0, rule.contrast
    if rule.even:
        assert points is not None
        middle = _face_light(smooth[..., 0], points)
        contrast *= min(max((MEAN_FACE / middle) ** rule.even, 0.9), 1.6)
    flat[..., 0] = (middle + 5 + (light - middle) * contrast).clip(0, 100)  # brighter, for what the ink takes
    flat[..., 1] = flat[..., 1] * (1 + (rule.saturation - 1) / 3)
    flat[..., 2] = flat[..., 2] * rule.saturation
    colour = cv2.cvtColor(flat, cv2.COLOR_Lab2RGB)

    clear = cv2.bilateralFilter(lab, 0, 6.0, 3.0)  # without grain, which would be inked
    if rule.areas:
        clear = cv2.bilateralFilter(clear, 0, 8.0, 3.5)
    paper = 1 - rule.ink * (1 - _lines(np.ascontiguousarray(clear[..., 0]) / 100, rule.line))[..., None]
    inked = colour * paper + np.array(INK, np.float32) * (1 - paper)
    drawn = cv2.resize(inked, (side, side), interpolation=cv2.INTER_AREA if side < SIDE else cv2.INTER_CUBIC)
    out: np.ndarray = np.rint(drawn.clip(0, 1) * 255).astype(np.uint8)
    return out


def _in_areas(lab: np.ndarray, apart: float) -> np.ndarray:
    """Mean shift of a Lab picture within 9 px, and its steps made soft again."""
    unit, offset = np.array((2.55, 1, 1), np.float32), np.array((0, 128, 128), np.float32)
    bytes_ = np.rint(lab * unit + offset).clip(0, 255).astype(np.uint8)
    areas: np.ndarray = (cv2.pyrMeanShiftFiltering(bytes_, 9, apart).astype(np.float32) - offset) / unit
    for _ in range(2):
        areas = cv2.bilateralFilter(areas, 0, 6.0, 2.5)
    return areas


def _face_light(light: np.ndarray, points: np.ndarray) -> float:
    """The median lightness within the hull of the landmarks, at least 1."""
    face = np.zeros(light.shape, np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(points), 1)
    return max(float(np.median(light[face > 0])), 1.0)


def _features(points: np.ndarray) -> np.ndarray:
    """Eyes and lips, softly: float32 [SIDE, SIDE] in [0, 1]."""
    found = np.zeros((SIDE, SIDE), np.float32)
    for part, wider in ((EYES[0], 1.35), (EYES[1], 1.35), (LIPS, 1.12)):
        outline = points[list(part)]
        outline = (outline - outline.mean(0)) * wider + outline.mean(0)
        cv2.fillConvexPoly(found, cv2.convexHull(np.rint(outline).astype(np.int32)), 1.0)
    return cv2.GaussianBlur(found, (0, 0), 4.0)


def _stepped(light: np.ndarray, step: float, hardness: float) -> np.ndarray:
    """Lightness with a soft step at each multiple of `step` and nearly flat tones between them (sec. 3.2 there)."""
    nearest = step * np.round(light / step)
    return nearest + step / 2 * np.tanh(2 * hardness * (light - nearest) / step) / math.tanh(hardness)


def _lines(light: np.ndarray, width: float) -> np.ndarray:
    """Where the paper stays white: float32 [H, W] in [0, 1], of lightness in [0, 1]; 0 is full ink."""
    across_x, across_y = _across(light, 3.0)
    difference = _difference_across(light, across_x, across_y, width)
    gathered = _gathered_along(difference, across_x, across_y, 5.0)
    return np.where(gathered > THRESHOLD, 1, 1 + np.tanh(DARKENING * (gathered - THRESHOLD))).astype(np.float32)


def _across(light: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors across the edges: the major eigenvector of the structure tensor smoothed by `sigma` px."""
    gx, gy = cv2.Scharr(light, cv2.CV_32F, 1, 0), cv2.Scharr(light, cv2.CV_32F, 0, 1)
    e, f, g = (cv2.GaussianBlur(product, (0, 0), sigma) for product in (gx * gx, gx * gy, gy * gy))
    major = (e + g + np.sqrt((e - g) ** 2 + 4 * f * f)) / 2
    x, y = f, major - e
    length = np.sqrt(x * x + y * y)
    plain = length < 1e-8
    length = np.where(plain, 1, length)
    return np.where(plain, 1, x / length).astype(np.float32), np.where(plain, 0, y / length).astype(np.float32)


def _grid(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return x, y


def _at(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _difference_across(light: np.ndarray, dx: np.ndarray, dy: np.ndarray, sigma: float) -> np.ndarray:
    """Difference of two Gaussians of `light`, `sigma` and WIDER sigma px, along (dx, dy) alone."""
    x, y = _grid(light.shape)
    sums, weights = [np.zeros_like(light), np.zeros_like(light)], [0.0, 0.0]
    reach = math.ceil(2.5 * WIDER * sigma)
    for step in range(-reach, reach + 1):
        value = _at(light, x + step * dx, y + step * dy)
        for i, spread in enumerate((sigma, WIDER * sigma)):
            weight = math.exp(-(step**2) / (2 * spread**2))
            sums[i] += weight * value
            weights[i] += weight
    return sums[0] / weights[0] - LEFT * sums[1] / weights[1]


def _gathered_along(values: np.ndarray, across_x: np.ndarray, across_y: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian mean of `values` along the edges, followed step by step on both sides."""
    total, weights = values.copy(), 1.0
    steps = math.ceil(2 * sigma)
    for side in (1, -1):
        x, y = _grid(values.shape)
        along_x, along_y = -across_y * side, across_x * side
        for step in range(1, steps + 1):
            x, y = x + along_x, y + along_y
            weight = math.exp(-(step**2) / (2 * sigma**2))
            total += weight * _at(values, x, y)
            next_x, next_y = -_at(across_y, x, y), _at(across_x, x, y)
            same = np.where(next_x * along_x + next_y * along_y < 0, -1, 1).astype(np.float32)  # lines have no sign
            along_x, along_y = next_x * same, next_y * same
            weights += weight if side == 1 else 0.0
    return total / (2 * weights - 1)
