"""Paints portraits: one person in one view as a photo, or in a style, with exact ground truth.

    person, view = sample_person(7), sample_view(7, 0)
    paint(person, view, 64).image                 # uint8 [64, 64, 3]
    paint(person, view, 64, "comic").image        # the same person as a comic, on the comic's own background
    twin(person, view, 64, "comic").image         # the comic head on the photo's neck, clothes and background

Everything is drawn at twice the size and averaged down. One core paints well over 100 portraits a second at 64 px.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.datasets.painted import accessories as extras
from stages.datasets.painted import features
from stages.datasets.painted import hair as hairs
from stages.datasets.painted.canvas import Floats, noise_at
from stages.datasets.painted.head import LABELS, Look, Scene, build_scene, paint_flesh
from stages.datasets.painted.looks import ClayLook, ComicLook, PhotoLook, SketchLook
from stages.datasets.painted.person import Person, View, attributes, sample_person, sample_view
from stages.datasets.people import Portrait

SUPERSAMPLE = 2
SIZES = (32, 512)
LOOKS: dict[str, type[Look]] = {"photo": PhotoLook, "comic": ComicLook, "clay": ClayLook, "sketch": SketchLook}
DOMAINS = tuple(LOOKS)
STYLES = tuple(name for name in LOOKS if name != "photo")

__all__ = ["DOMAINS", "LABELS", "STYLES", "paint", "sample_person", "sample_view", "twin"]


def _head_outline(scene: Scene) -> np.ndarray:
    points = np.concatenate([part.outline() for part in scene.skull]).astype(np.float32)
    return cv2.convexHull(points)[:, 0].astype(float)


def _paint_person(scene: Scene, body: Scene) -> np.ndarray:
    """Paint the head of one scene with the neck and clothes of another; the landmarks in canvas pixels.

    The two are the same scene, or share a canvas (a stylised head on the photo's body).
    """
    p, canvas = scene.person, scene.canvas
    hull = canvas.polygon(scene.camera.pixels(_head_outline(scene)))
    shell, hat = hairs.hair_shell(scene, hull), hairs.hat_shell(scene)
    hairs.paint_back_hair(scene, shell)
    extras.paint_body(body)
    turn = scene.camera.rotation[0, 2]
    ears = [] if p.hair_style in hairs.COVERS_EARS else [-1, 1]
    near = [side for side in ears if -side * turn > 0.06]
    for side in ears:
        if side not in near:
            extras.paint_ear(scene, side)
    paint_flesh(scene, hull, hairs.shadow_map(scene, shell, hat))
    if scene.look.name != "photo":  # a style's larger eyes must not leave the photo's silhouette
        canvas.clip = canvas.head.copy()
    eyes = [features.eye_shape(scene, side) for side in (-1, 1)]
    brows = [features.brow_shape(scene, side) for side in (-1, 1)]
    mouth = features.mouth_shape(scene)
    features.paint_nostrils(scene)
    for eye in eyes:
        features.paint_eye(scene, eye)
    features.paint_mouth(scene, mouth)
    extras.paint_beard(scene, hull)
    for side, brow in zip((-1, 1), brows, strict=True):
        features.paint_brow(scene, side, brow)
    canvas.clip = None
    hairs.paint_front_hair(scene, shell)
    if shell is not None:
        hairs.paint_shell(scene, shell)
    for side in near:
        extras.paint_ear(scene, side)
    extras.paint_glasses(scene)
    if hat is not None:
        hairs.paint_hat(scene, hat)
    return features.landmarks(scene, eyes, brows, mouth)


def _develop(scene: Scene, size: int) -> Floats:
    """Linear canvas -> display colour [size, size, 3] in 0..1, with a soft shoulder."""
    rgb = scene.canvas.rgb
    planes = [cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in rgb]
    image = cv2.merge(planes)
    image = np.maximum(image, 0)
    bright = image > np.float32(0.6)
    if bright.any():
        over = image - np.float32(0.6)
        image = np.where(bright, np.float32(0.6) + over / (1 + over * np.float32(1.5)), image)
    return np.sqrt(image)


def _grain(image: Floats, view: View) -> Floats:
    size = image.shape[0]
    noise = noise_at(0.6, size, view.seed) * np.float32(view.noise)
    colour = noise_at(1.0, size, view.seed // 7 + 1) * np.float32(view.noise * 0.5)
    image = image + noise[..., None]
    image[..., 0] += colour
    image[..., 2] -= colour
    return image


def paint(person: Person, view: View, size: int, domain: str = "photo") -> Portrait:
    """Paint `person` in `view` at `size` pixels in a domain ("photo" or a style).

    Deterministic in its arguments. Raises ValueError for an unknown domain or a size outside 32..512.
    """
    _check(size, domain)
    look = LOOKS[domain](view)
    scene = build_scene(*look.adapt(person, view), size * SUPERSAMPLE, look)
    look.background(scene)
    points = _paint_person(scene, scene)
    look.finish(scene, head_only=False)
    image = _develop(scene, size)
    if look.fine:
        image = _grain(image, view)
    return Portrait(_bytes(image), _mask(scene, size), _labels(scene, size), _points(points), attributes(person, view))


def twin(person: Person, view: View, size: int, style: str) -> Portrait:
    """The true stylised twin: the style's head on the photo's own neck, clothes and background.

    Where the photo's mask is 0 the image is the photo's, byte for byte; the mask is the photo's. Raises ValueError
    as `paint` does, and for the style "photo".
    """
    _check(size, style)
    if style == "photo":
        raise ValueError("a twin needs a style, not 'photo'")
    photo = paint(person, view, size)
    look = LOOKS[style](view)
    plain = PhotoLook(view)
    body = build_scene(person, view, size * SUPERSAMPLE, plain)
    head = build_scene(*look.adapt(person, view), size * SUPERSAMPLE, look)
    head.canvas = body.canvas
    plain.background(body)
    points = _paint_person(head, body)
    look.finish(head, head_only=True)
    image = np.where(photo.mask[..., None] > 0, _bytes(_develop(head, size)), photo.image)
    return Portrait(image, photo.mask, _labels(head, size), _points(points), photo.attributes)


def _bytes(image: Floats) -> NDArray[np.uint8]:
    return (np.clip(image, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


def _check(size: int, domain: str) -> None:
    if domain not in LOOKS:
        raise ValueError(f"unknown domain {domain!r}: one of {', '.join(LOOKS)}")
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size {size} outside {SIZES[0]}..{SIZES[1]}")


def _mask(scene: Scene, size: int) -> NDArray[np.uint8]:
    cover = cv2.resize(scene.canvas.head, (size, size), interpolation=cv2.INTER_AREA)
    return (np.clip(cover, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


def _labels(scene: Scene, size: int) -> NDArray[np.uint8]:
    step = SUPERSAMPLE
    return np.ascontiguousarray(scene.canvas.label[step // 2 :: step, step // 2 :: step][:size, :size])


def _points(points: np.ndarray) -> NDArray[np.float32]:
    return ((points + 0.5) / SUPERSAMPLE - 0.5).astype(np.float32)
