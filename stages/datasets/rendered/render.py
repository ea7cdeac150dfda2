"""Renders people of nobody: a photograph of a person in a view, with its exact truth.

person, view = sample_person(7), sample_view(7, 0)
photo(person, view, 256).image            # uint8 [256, 256, 3]
twins.twin(person, view, 256, "comic")    # the same person, pose and light in a style
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stages.datasets.rendered import truth
from stages.datasets.rendered.build import Camera, Scene, build
from stages.datasets.rendered.light import develop, ground, lights_of, place_of
from stages.datasets.rendered.pack import Pack, load_pack
from stages.datasets.rendered.person import Person, View, attributes
from stages.datasets.rendered.shade import Frame, Shadows, capture, draw, lit_strands, shade

SIZES = (32, 512)


@dataclass(frozen=True)
class Picture:
    """A picture and its truth."""

    image: np.ndarray  # uint8 [S, S, 3] RGB
    mask: np.ndarray  # uint8 [S, S], coverage of the head without neck
    bare: np.ndarray  # uint8 [S, S], of head, neck and shoulders down to where clothes begin
    whole: np.ndarray  # uint8 [S, S], of the whole person
    parsing: np.ndarray  # uint8 [S, S], the face parser's 19 labels
    beard: np.ndarray  # bool [S, S], skin (by its label) that a beard hides
    landmarks: np.ndarray  # float32 [68, 2] iBUG order, pixels; a pixel's centre is a whole number
    attributes: dict[str, float | int | str]


@dataclass(frozen=True)
class Shot:
    """A photograph and everything it was made from, for styles and denser truth. W = samples across."""

    picture: Picture
    scene: Scene
    frame: Frame
    labels: np.ndarray  # uint8 [W, W]
    light: np.ndarray  # float32 [S, S, 3], linear, before the camera
    cover: np.ndarray  # float32 [S, S]
    empty: np.ndarray  # uint8 [S, S, 3], the same photograph without the person
    met: float  # what the camera metered, see `develop`


def shoot(
    person: Person,
    view: View,
    size: int,
    pack: Pack | None = None,
    camera: Camera | None = None,
    grain: float | None = None,
    met: float | None = None,
) -> Shot:
    """Photograph a person; `size` px from 32 to 512.

    Args:
        camera: stands where this one stands; by default it frames the face.
        grain: see `develop`.
        met: what the camera meters; by default what lights the face.

    Raises:
        ValueError: a size that cannot be rendered.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size {size} px is outside {SIZES[0]}..{SIZES[1]}")
    pack = pack or load_pack()
    place = place_of(view)
    lights = lights_of(view, place)
    scene = build(pack, person, view, size)
    scene.camera = camera or scene.camera
    shadows = Shadows(scene, lights, size)
    frame = capture(pack, scene, size, lights, shadows)

    image, cover, lit = shade(pack, frame, lights, shadows)
    met = lit if met is None else met
    covers: list[tuple[np.ndarray, int]] = []
    for bunch in scene.strands:
        colour = lit_strands(bunch, scene, lights, shadows)
        over = draw(bunch, colour, frame, image)
        cover = cover + over * (1 - cover)
        covers += regions_of(bunch.kind, bunch.label, over, scene, frame)

    labels = truth.regions(frame, covers)
    light, cover = (cv2.resize(a, (size, size), interpolation=cv2.INTER_AREA) for a in (image, cover))
    behind = ground(place, size)
    image_ = develop(light + behind * (1 - cover[..., None]), view, met, grain)
    picture = picture_of(pack, scene, image_, labels)
    return Shot(picture, scene, frame, labels, light, cover, develop(behind, view, met, grain), met)


def picture_of(pack: Pack, scene: Scene, image: np.ndarray, labels: np.ndarray) -> Picture:
    """An image uint8 [S, S, 3] with the truth that its scene and its samples' regions [W, W] hold."""
    size = len(image)
    parsing, beard = truth.parsing(labels, size)
    return Picture(
        image=image,
        mask=truth.mask(labels, size),
        bare=truth.mask(labels, size, truth.BARE),
        whole=truth.mask(labels, size, truth.PERSON),
        parsing=parsing,
        beard=beard,
        landmarks=truth.landmarks(pack, scene, size).astype(np.float32),
        attributes=attributes(scene.person, scene.view),
    )


def regions_of(
    kind: str, label: np.ndarray, over: np.ndarray, scene: Scene, frame: Frame
) -> list[tuple[np.ndarray, int]]:
    """The face regions that a bunch of strands covers: lashes none, brows left and right of the nose."""
    if kind == "lash":
        return []
    if kind != "brow":
        return [(over, int(label[0]))]
    nose, _ = scene.camera.project((scene.eyes[:1] + scene.eyes[1:]) / 2, frame.width)
    right = np.arange(frame.width)[None] < nose[0, 0]
    return [(over * right, 3), (over * ~right, 2)]


def photo(person: Person, view: View, size: int, pack: Pack | None = None) -> Picture:
    """The photograph of `shoot`."""
    return shoot(person, view, size, pack).picture
