"""The same person in a style: comic, anime, figurine, watercolour; and twins, a style's person on the photograph."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from stages.datasets.rendered.build import Camera
from stages.datasets.rendered.light import lights_of, place_of
from stages.datasets.rendered.pack import Pack, load_pack
from stages.datasets.rendered.person import Light, Person, View, attributes
from stages.datasets.rendered.render import Picture, Shot, picture_of, shoot
from stages.datasets.rendered.shade import draw, lit_strands, shade
from stages.datasets.rendered.styles import STYLES
from stages.datasets.rendered.styles.cel import anime, comic
from stages.datasets.rendered.styles.drawing import drawn
from stages.datasets.rendered.styles.toy import figurine
from stages.datasets.rendered.styles.wash import watercolour

TOY_LIGHT = Light("window", 28.0, 42.0, 0.02, 0.75, 0.85)


def styled(
    person: Person,
    view: View,
    size: int,
    style: str,
    pack: Pack | None = None,
    camera: Camera | None = None,
    behind: np.ndarray | None = None,
) -> Picture:
    """A whole picture in a style, with its truth.

    Args:
        camera: stands where this one stands; by default it frames the face.
        behind: uint8 [size, size, 3], what the person is drawn on; by default the style's own background.

    Raises:
        ValueError: an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}. Use one of {', '.join(STYLES)}")

    pack = pack or load_pack()
    if style in ("comic", "anime"):
        art, scene, _ = drawn(pack, person, view, size, style, None, camera)
        art.behind = behind
        image = (comic if style == "comic" else anime)(art, size)
    else:
        lamp = TOY_LIGHT if style == "figurine" else replace(view.light, kind="soft", key=1.0, fill=0.9)
        lights = lights_of(replace(view, light=lamp), place_of(view))
        art, scene, shadows = drawn(pack, person, view, size, style, lights, camera)
        assert shadows is not None
        art.behind = behind
        if style == "figurine":
            image = figurine(art, size, lights, shadows)
        else:
            light, _, _ = shade(pack, art.frame, lights, shadows)
            for bunch in scene.strands:
                draw(bunch, lit_strands(bunch, scene, lights, shadows), art.frame, light)
            image = watercolour(art, size, light)
    return replace(picture_of(pack, scene, image, art.labels), attributes=attributes(person, view))


def twin(shot: Shot, style: str) -> Picture:
    """A photograph whose person is the style's, from the hair down to where the clothes begin.

    A style that ended at the chin would leave a seam on the neck; at the collar there is an edge anyway. The photograph
    stays wherever neither picture is bare; where the photographed person reaches beyond the style's, their place shows.

    Returns:
        The picture with the style's truth; `bare` is where it may differ from the photograph, `whole` covers the
        style's person and the photograph's clothes.
    """
    photo, scene = shot.picture, shot.scene
    drawn = styled(
        scene.person, scene.view, len(photo.image), style, shot.frame.pack, camera=scene.camera, behind=shot.empty
    )
    painted = _grown(np.maximum(photo.bare, drawn.bare))
    cover = painted.astype(np.float32)[..., None] / 255
    mixed = drawn.image * cover + photo.image * (1 - cover)
    whole = _grown(drawn.whole) * cover[..., 0] + photo.whole * (1 - cover[..., 0])
    image, whole_ = (np.clip(value + 0.5, 0, 255).astype(np.uint8) for value in (mixed, whole))
    return replace(drawn, image=image, bare=painted, whole=whole_)


def _grown(cover: np.ndarray) -> np.ndarray:
    """A cover with room for half an outline, which straddles its border: uint8 [S, S]."""
    side = 2 * max(1, round(len(cover) / 160)) + 1
    return cv2.dilate(cover, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def twin_of(person: Person, view: View, size: int, style: str, pack: Pack | None = None) -> Picture:
    """Both pictures of `twin` from a person and a view."""
    return twin(shoot(person, view, size, pack), style)
