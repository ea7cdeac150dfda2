"""What a student's pairs go through before each use: another framing, another place, things in the way, another camera.

Everything follows from the training's seed and the number of the image, one picture at a time. So a resumed training
and one in several processes see the same pictures. A step that has share 0 draws nothing.

Photo and target move together, and what stands behind or before the person is the same in both. The camera changes
the photo: where the target is painted it keeps the style's own colours, or takes a share of that light (`tone`); it is
the changed photo elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stages.student.augment import Augment
from stages.student.backgrounds import place
from stages.student.camera import develop, draw_camera, record
from stages.student.occluders import Occluded, occlude

SCALE, TURN, SHIFT, TILT = 0.25, 14.0, 0.07, 0.06  # log scale, degrees, shares of the width


@dataclass
class StudentPair:
    """One pair on its way to a batch.

    Attributes:
        photo, style: uint8 [S, S, 3].
        mask: uint8 [S, S], where the style may be painted.
        cover: uint8 [S, S, 3]: persons in photo and style, clothes included, and the mask; None where that is unknown.
        eyes: [2, 2], x and y of both eyes, shares of the width; None where they are unknown.
        other: uint8 [S, S, 3], the photo of another pair, and what its person covers, uint8 [S, S]; or None.
    """

    photo: np.ndarray
    style: np.ndarray
    mask: np.ndarray
    cover: np.ndarray | None = None
    eyes: np.ndarray | None = None
    other: tuple[np.ndarray, np.ndarray] | None = None


def augmented(pair: StudentPair, settings: Augment, rng: np.random.Generator) -> StudentPair:
    """A pair after all steps: photo, style and mask of the same shapes."""
    # every step draws from a generator of its own, so that its share changes no other
    framing, places, things, cameras = rng.spawn(4)
    if framing.random() < settings.geometry:
        pair = _reframed(pair, framing)
    if places.random() < settings.backgrounds and pair.cover is not None:
        pair = _elsewhere(pair, places)
    pair, before = _occluded(pair, things) if things.random() < settings.occluders else (pair, None)
    if before is None and cameras.random() >= settings.camera:
        return pair
    return _photographed(pair, before, cameras, settings)


def _reframed(pair: StudentPair, rng: np.random.Generator) -> StudentPair:
    """Another crop: nearer or farther, turned, at a slant; what comes into view from outside is mirrored."""
    size = len(pair.photo)
    scale = np.exp(rng.uniform(-SCALE, SCALE))  # shares of the old frame that the new one sees
    angle, shift = np.radians(rng.normal(0, TURN / 2)), rng.uniform(-SHIFT, SHIFT, 2)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    seen = (corners * (1 + rng.uniform(-TILT, TILT, (4, 2)))) @ turn.T * scale

    # what lies beyond the frame must not show a mirrored person: as far as there is background, and no farther
    low, high = _room(pair)
    seen *= min(1.0, float(((high - low) / np.ptp(seen, axis=0)).min()))
    seen += np.clip(0.5 + shift, low - seen.min(axis=0), high - seen.max(axis=0))
    to = ((corners + 0.5) * size).astype(np.float32)
    back = cv2.getPerspectiveTransform(to, (seen * size).astype(np.float32))

    def warped(image: np.ndarray, way: int) -> np.ndarray:
        flags = way | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(image, back, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)

    eyes = None
    if pair.eyes is not None:
        forth = np.linalg.inv(back)
        eyes = cv2.perspectiveTransform((pair.eyes * size)[None].astype(np.float64), forth)[0] / size
    # the finer kernel reaches farther than the mask's
    photo, style = (warped(image, cv2.INTER_CUBIC) for image in (pair.photo, pair.style))
    mask = warped(pair.mask, cv2.INTER_LINEAR)
    return StudentPair(
        photo,
        np.where(mask[..., None] > 0, style, photo),
        mask,
        None if pair.cover is None else warped(pair.cover, cv2.INTER_LINEAR),
        eyes,
        pair.other,
    )


def _room(pair: StudentPair) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest x and y [2] of a view in which nobody is seen twice, shares; nothing lies below the frame."""
    person = pair.mask if pair.cover is None else np.maximum(pair.cover[..., 0], pair.cover[..., 1])
    rows = np.flatnonzero(person.max(axis=1) > 20)
    if not len(rows):
        return np.zeros(2), np.ones(2)
    columns = np.flatnonzero(person[: len(person) * 3 // 4].max(axis=0) > 20)  # shoulders may go on
    columns = columns if len(columns) else np.array([0, len(person) - 1])
    size = len(person)
    return np.array([-columns[0], -rows[0]]) / size, np.array([2 - (columns[-1] + 1) / size, 1.0])


def _elsewhere(pair: StudentPair, rng: np.random.Generator) -> StudentPair:
    """The person of both pictures before another place: one drawn by program, or the surroundings of another person."""
    assert pair.cover is not None
    size = len(pair.photo)
    behind = _surroundings(pair.other, rng) if pair.other is not None and rng.random() < 0.8 else place(size, rng)
    photo, style = (
        _over(picture, behind, pair.cover[..., k].astype(np.float32)[..., None] / 255)
        for k, picture in enumerate((pair.photo, pair.style))
    )
    return StudentPair(photo, style, pair.mask, pair.cover, pair.eyes)


def _over(front: np.ndarray, behind: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """uint8 `front` over `behind` where `cover` [S, S, 1] in [0, 1] says."""
    return np.asarray(behind + (front.astype(np.float32) - behind) * cover + 0.5, np.uint8)


def _surroundings(other: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Another photo as a place: its person small and far to a side, or a piece without them, enlarged."""
    photo, cover = other
    size = len(photo)
    if rng.random() < 0.5:
        share = rng.uniform(0.3, 0.5)
        columns = [int(x) for x in ((0, share * size) if rng.random() < 0.5 else ((1 - share) * size, size))]
        piece = photo[: int(share * size), columns[0] : columns[1]]
        if cover[: int(share * size), columns[0] : columns[1]].mean() < 40:
            return np.asarray(cv2.resize(piece, (size, size), interpolation=cv2.INTER_LINEAR))
    scale, side = rng.uniform(0.6, 1.1), rng.choice([-1, 1])  # they stand half beyond the frame, one in the picture
    left, up = size * (0.5 - scale * (0.5 + 0.5 * side)), size * (0.9 - scale) * rng.uniform(0, 1)
    move = np.array([[scale, 0, left], [0, scale, up]], np.float32)
    shifted = cv2.warpAffine(
        photo, move, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(cv2.GaussianBlur(shifted, (0, 0), max(0.4, rng.uniform(0, 0.015) * size)))


def _occluded(pair: StudentPair, rng: np.random.Generator) -> tuple[StudentPair, np.ndarray]:
    """Things before the person in the photo, and their cover [S, S] in [0, 1]."""
    size = len(pair.photo)
    rows, columns = np.flatnonzero(pair.mask.max(axis=1) > 127), np.flatnonzero(pair.mask.max(axis=0) > 127)
    before = np.zeros((size, size), np.float32)
    if not len(rows):
        return pair, before
    box = (columns[0] / size, rows[0] / size, (columns[-1] + 1) / size, (rows[-1] + 1) / size)
    drawn = Occluded(pair.photo.astype(np.float32), before, box, pair.eyes)
    occlude(drawn, rng)
    photo = np.asarray(np.clip(drawn.photo + 0.5, 0, 255), np.uint8)
    return StudentPair(photo, pair.style, pair.mask, pair.cover, pair.eyes), before


def _photographed(
    pair: StudentPair, before: np.ndarray | None, rng: np.random.Generator, settings: Augment
) -> StudentPair:
    """The photo by another camera, and the target laid together anew from the style and that photo.

    Within the mask the target shows the style's person in the style's colours, `settings.tone` of the way towards the
    camera's; what shows beside them there is the place, in the camera's light. Elsewhere, things before the person
    included, it is the photo.
    """
    photo, place_ = pair.photo, pair.style.astype(np.float32)
    if rng.random() < settings.camera:
        camera = draw_camera(rng)
        photo = record(camera, develop(camera, pair.photo), rng)
        place_ = develop(camera, pair.style) * 255
    mask = pair.mask.astype(np.float32) / 255
    mask = mask if before is None else mask * (1 - before)
    person = 1 if pair.cover is None else pair.cover[..., 1].astype(np.float32)[..., None] / 255
    painted = place_ + (pair.style - place_) * (person * (1 - settings.tone))
    return StudentPair(photo, _over(painted, photo, mask[..., None]), np.asarray(mask * 255 + 0.5, np.uint8))
