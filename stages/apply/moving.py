"""Frames of one video through a stylizer, each with what is known of those before."""

from __future__ import annotations

import numpy as np

from stages.apply.steadiness import Steady, Watcher
from stages.apply.stylizer import Stylizer
from stages.apply.tracks import Tracks


class Moving:
    """Stylises frames in their order; memory does not grow with their number.

    Args:
        stylizer: finds faces where it has a finder, else paints whole frames.
        smooth: see `Steady`.

    Attributes:
        faces: the most faces that were painted in a frame so far.
    """

    def __init__(self, stylizer: Stylizer, smooth: float) -> None:
        self._stylizer = stylizer
        self._watcher, self._tracks, self._steady = Watcher(), Tracks(), Steady(smooth)
        self.faces = 0

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The next frame, uint8 [H, W, 3], stylised; all frames have one size."""
        movement = self._watcher(frame)
        if self._stylizer.find is None:
            painted, matte = self._stylizer.paint(frame)
        else:
            found = self._stylizer.find(frame) if self._tracks.due(movement) else None
            faces, strengths = self._tracks.step(found, movement, frame.shape[:2])
            self.faces = max(self.faces, len(faces))
            painted, matte = self._stylizer.paint(frame, faces, strengths)
        return self._steady(painted, matte, movement)

    def flicker(self) -> tuple[float, float]:
        """See `Steady.flicker`."""
        return self._steady.flicker()
