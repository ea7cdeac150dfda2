"""How a video moves from frame to frame, and with that: outputs smoothed along time, and their flicker measured.

A student paints every frame by itself, so the camera's grain becomes flicker. Smoothing follows the motion: the last
output is warped along the optical flow to where things are now. It is mixed in where the last frame, warped the same
way, explains the present one. Where it does not (something came into view, the light changed), nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIDE = 256  # px: the shorter side at which motion is looked for, at most
EXPLAINED = 5.0  # levels of 255: how far a frame may differ from the warped one before it and count as explained
CUT = 24.0  # levels of 255, mean of a frame: a larger difference is another scene
PAINTED = 0.05  # of the matte: flicker is measured where there is more


@dataclass
class Movement:
    """From the frame before to this one.

    Attributes:
        before, now: the two frames, reduced: uint8 [h, w, 3].
        flow: float32 [h, w, 2] in reduced px, (right, down): where a pixel of `now` was in `before`, less its place.
        explained: float32 [h, w] in 0..1: how far `before`, warped along the flow, shows the same.
    """

    before: np.ndarray
    now: np.ndarray
    flow: np.ndarray
    explained: np.ndarray


class Watcher:
    """Estimates the motion from each frame of a video to the next."""

    def __init__(self) -> None:
        """Load the estimator of optical flow (OpenCV's DIS: Kroeger et al. 2016, arXiv 1603.03590)."""
        import cv2

        self._estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: np.ndarray | None = None

    def __call__(self, frame: np.ndarray) -> Movement | None:
        """The movement to this frame, uint8 [H, W, 3]; None for the first one and after a cut."""
        import cv2
        import numpy as np

        from stages.metrics.flicker import warp

        before, now = self._before, reduce(frame)
        self._before = now
        if before is None:
            return None

        # What the flow leaves unexplained, smoothed a little; all over the frame it means a cut.
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (now, before)]
        flow = self._estimator.calc(grey[0], grey[1], None)  # type: ignore[call-overload]
        difference = now.astype(np.float32) - warp(before.astype(np.float32), flow)
        left = np.abs(cv2.GaussianBlur(difference, (0, 0), 1.5)).mean(axis=2)
        if float(left.mean()) > CUT:
            return None
        return Movement(before, now, flow, np.exp(-((left / EXPLAINED) ** 2)))


def reduce(frame: np.ndarray) -> np.ndarray:
    """A frame with a shorter side of SIDE px, if it is longer."""
    import cv2

    height, width = frame.shape[:2]
    scale = min(1.0, SIDE / min(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


class Steady:
    """Smooths outputs along the motion, and measures the flicker of what comes in and of what goes out.

    Args:
        smooth: 0..1, how much of the output before is kept where the frame before explains the present one.
    """

    def __init__(self, smooth: float) -> None:
        self.smooth = smooth
        self._shown: np.ndarray | None = None
        self._reduced: tuple[np.ndarray, np.ndarray] | None = None
        self._sums = [0.0, 0.0]
        self._steps = 0

    def __call__(self, painted: np.ndarray, matte: np.ndarray, movement: Movement | None) -> np.ndarray:
        """Smooth one frame's output.

        Args:
            painted: uint8 [H, W, 3], this frame's output.
            matte: float32 [H, W] in 0..1, where it was painted; elsewhere the frame stays as it is.
            movement: to this frame; None to forget what was before.

        Returns:
            The output to show, uint8 [H, W, 3].
        """
        shown = painted
        if movement is not None and self._shown is not None and self.smooth > 0:
            shown = self._mixed(painted, matte, movement)
        self._measure(painted, shown, matte, movement)
        self._shown = shown
        return shown

    def flicker(self) -> tuple[float, float]:
        """Mean flicker so far without and with smoothing, in levels of 255; nan where it is unknown.

        Measured where it was painted, on frames reduced to SIDE px, with the estimated flow (`stages.metrics.flicker`).
        """
        if not self._steps:
            return float("nan"), float("nan")
        return self._sums[0] / self._steps * 255, self._sums[1] / self._steps * 255

    def _mixed(self, painted: np.ndarray, matte: np.ndarray, movement: Movement) -> np.ndarray:
        """This frame's output mixed with the last one shown, warped along the motion: uint8 [H, W, 3]."""
        import cv2
        import numpy as np

        from stages.metrics.flicker import warp

        height, width = painted.shape[:2]
        rows, columns = movement.flow.shape[:2]
        flow = cv2.resize(movement.flow, (width, height), interpolation=cv2.INTER_LINEAR)
        flow *= np.array([width / columns, height / rows], np.float32)

        # Keep the more, the better the last frame explains this one, and only where it was painted.
        keep = self.smooth * cv2.resize(movement.explained, (width, height), interpolation=cv2.INTER_LINEAR) * matte
        before = warp(self._shown, flow)  # type: ignore[arg-type]
        mixed = painted + keep[..., None] * (before.astype(np.float32) - painted)
        out: np.ndarray = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
        return out

    def _measure(self, painted: np.ndarray, shown: np.ndarray, matte: np.ndarray, movement: Movement | None) -> None:
        """Add this frame's flicker, without and with smoothing, to the sums."""
        import cv2

        from stages.metrics.flicker import flicker

        reduced = (reduce(painted), reduce(shown))
        if movement is not None and self._reduced is not None:
            size = reduced[0].shape[1::-1]
            where = cv2.resize(matte, size, interpolation=cv2.INTER_AREA) > PAINTED
            frames, flows = [movement.before, movement.now], [movement.flow]
            if where.any():
                pairs = zip(self._reduced, reduced, strict=True)
                for index, (before, now) in enumerate(pairs):
                    self._sums[index] += flicker(frames, [before, now], flows, [where])
                self._steps += 1
        self._reduced = reduced
