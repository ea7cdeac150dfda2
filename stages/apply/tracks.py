"""Faces followed through a video, so that a square neither jumps nor trembles from frame to frame.

The finder searches every few frames only. In between, a square moves with the picture around it. What the finder sees
pulls the square over slowly: its error from one search to the next (a tenth of the side) would show as trembling. Faces
fade in and out; a cut starts anew.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.apply.face_squares import Face
from stages.apply.steadiness import Movement

EVERY = 5  # frames from one search to the next
PULL = 0.2  # share of the way to the found square that is gone until the next search
EARLY = 0.5  # the same for the first sightings
PATIENCE = 4  # searches without success before a face fades out
EAGER = 15  # frames after a cut that are all searched while there is no face
FADE = 6  # frames to fade in or out


@dataclass
class Track:
    """A face over time.

    Attributes:
        face: its square in the present frame.
        strength: 0..1, how far it is faded in.
        seen: searches that found it.
        missed: searches in a row that did not.
        pull: what is added to the square in each frame: x and y in px, log of the side, tilt in radians.
    """

    face: Face
    strength: float
    seen: int = 1
    missed: int = 0
    pull: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class Tracks:
    """The faces of a video at the present frame."""

    def __init__(self) -> None:
        self._tracks: list[Track] = []
        self._since = EVERY  # frames since the last search
        self._age = 0  # frames since the last cut

    def due(self, movement: Movement | None) -> bool:
        """Whether to search this frame: every few frames, and `EAGER` ones after a cut while there is no face."""
        eager = not self._tracks and self._age < EAGER
        return movement is None or eager or self._since + 1 >= EVERY

    def step(
        self, found: Sequence[Face] | None, movement: Movement | None, shape: tuple[int, int]
    ) -> tuple[list[Face], list[float]]:
        """Go on by one frame.

        Args:
            found: what the finder sees in this frame; None where it did not search.
            movement: to this frame; None for the first one and after a cut.
            shape: height and width of the frame, px.

        Returns:
            The faces, the largest first, and how far each is faded in, 0..1.
        """
        # After a cut, what is found is there at once.
        self._age = 0 if movement is None else self._age + 1
        if movement is None:
            self._tracks = [Track(face, 1.0, seen=2) for face in found or []]
            self._since = 0
        else:
            # Move the squares with the picture and on toward what was found last.
            for track in self._tracks:
                moved = _moved(track.face, movement, shape[1] / movement.flow.shape[1])
                x, y, side, tilt = track.pull
                track.face = Face(moved.x + x, moved.y + y, moved.side * math.exp(side), moved.tilt + tilt)
            self._since += 1
            if found is not None:
                self._correct(found)

            # A face fades in at its second sighting, and out when searches miss it.
            for track in self._tracks:
                wanted = track.seen >= 2 and track.missed < PATIENCE
                track.strength = min(1.0, max(0.0, track.strength + (1 if wanted else -1) / FADE))
            self._tracks = [track for track in self._tracks if track.strength or track.missed < PATIENCE]

        shown = sorted((track for track in self._tracks if track.strength), key=lambda track: -track.face.side)
        return [track.face for track in shown], [track.strength for track in shown]

    def _correct(self, found: Sequence[Face]) -> None:
        """Match the faces that were found with the tracks, and begin tracks for the rest."""
        self._since = 0
        left = list(found)
        for track in self._tracks:
            # The most similar square is the same face, unless it lies too far away.
            face = min(left, key=lambda other: _apart(track.face, other), default=None)
            track.pull = (0.0, 0.0, 0.0, 0.0)
            if face is None or _apart(track.face, face) > 0.4:
                track.missed += 1
                continue

            # Spread the way to it over the frames until the next search.
            left.remove(face)
            gain = (EARLY if track.seen < 3 else PULL) / EVERY
            turn = math.remainder(face.tilt - track.face.tilt, 2 * math.pi)
            grown = math.log(face.side / track.face.side)
            track.pull = (
                gain * (face.x - track.face.x),
                gain * (face.y - track.face.y),
                gain * grown,
                gain * turn,
            )
            track.seen, track.missed = track.seen + 1, 0
        self._tracks += [Track(face, 0.0) for face in left]


def _apart(a: Face, b: Face) -> float:
    """How unlike two squares are: distance in sides, plus a share of how much larger one is."""
    return math.hypot(a.x - b.x, a.y - b.y) / max(a.side, b.side) + 0.3 * abs(math.log(a.side / b.side))


def _moved(face: Face, movement: Movement, scale: float) -> Face:
    """The square moved, turned and grown as the picture in its middle half was.

    Args:
        face: the square in the frame before.
        movement: to the present frame.
        scale: px of the frame for one of the movement.
    """
    height, width = movement.flow.shape[:2]

    # The flow at a grid of points in the present frame, and its median.
    grid = np.linspace(-0.25, 0.25, 9) * face.side
    x, y = (values.ravel() for values in np.meshgrid(face.x + grid, face.y + grid))
    columns, rows = np.rint(x / scale).astype(int), np.rint(y / scale).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    if inside.sum() < 16:
        return face
    now = (columns + 1j * rows)[inside]
    flow = movement.flow[rows[inside], columns[inside]] @ np.array([1, 1j])
    shift = -complex(np.median(flow.real), np.median(flow.imag))

    # now = a before + b as complex numbers, by least squares over the points whose flow is near the median.
    near = np.abs(flow + shift) <= 1 + 2 * float(np.median(np.abs(flow + shift)))
    before, now = (now + flow)[near], now[near]
    spread = float((np.abs(before - before.mean()) ** 2).sum())
    a = complex(((before - before.mean()).conj() * (now - now.mean())).sum() / spread) if spread > 1 else 1 + 0j
    if not 0.9 < abs(a) < 1.1 or abs(cmath.phase(a)) > 0.2:  # more in one frame is an error of the flow
        return replace(face, x=face.x + shift.real * scale, y=face.y + shift.imag * scale)
    centre = a * ((face.x + 1j * face.y) / scale - before.mean()) + now.mean()
    return Face(centre.real * scale, centre.imag * scale, face.side * abs(a), face.tilt + cmath.phase(a))
