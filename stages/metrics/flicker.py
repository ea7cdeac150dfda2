"""Flicker: how much a stylised video changes beyond what moved and changed in the video itself.

With frames I_t, outputs O_t, and the flow w_t that says where a pixel x of frame t+1 was in frame t,

    d_t(P) (x) = | G * ( P_{t+1}(x) - P_t(x + w_t(x)) ) |            mean over the three channels
    flicker    = mean over t and over valid x of max( d_t(O)(x) - d_t(I)(x), 0 )

A pixel is valid when x + w_t(x) lies inside the frame (and where the caller's own mask says so). G is a Gaussian of one
pixel: what a resampling does to a hard edge is finer than that, and not flicker. An output that equals its input has
none; neither has one that moves exactly with its input, up to the resampling of the measure itself.

The idea is the temporal loss of Lai et al. 2018 (arXiv 1808.00449, eq. 3) and the warping error of its section 4;
what differs: the input's own change (noise, light, errors of an estimated flow) is taken off pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SMOOTH = 1.0  # px, sigma of G


def warp(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The picture pulled along a flow: out(x) = picture(x + flow(x)), bicubic, borders repeated.

    picture: [H, W] or [H, W, C], uint8 or float32; flow: float32 [H, W, 2], (right, down) in pixels.
    """
    rows, columns = np.indices(flow.shape[:2], dtype=np.float32)
    across, down = columns + flow[..., 0], rows + flow[..., 1]
    return cv2.remap(picture, across, down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def inside(flow: np.ndarray) -> np.ndarray:
    """Where x + flow(x) lies inside the frame: bool [H, W] for float32 [H, W, 2]."""
    height, width = flow.shape[:2]
    rows, columns = np.indices((height, width), dtype=np.float32)
    across, down = columns + flow[..., 0], rows + flow[..., 1]
    out: np.ndarray = (across >= 0) & (across <= width - 1) & (down >= 0) & (down <= height - 1)
    return out


def change(before: np.ndarray, after: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The module's d: the change that the flow does not explain, float32 [H, W] in [0, 1].

    before, after: uint8 [H, W, 3]; flow: float32 [H, W, 2], where a pixel of `after` was in `before`, less its place.
    """
    difference = after.astype(np.float32) - warp(before.astype(np.float32), flow)
    smooth = cv2.GaussianBlur(difference, (0, 0), SMOOTH)
    out: np.ndarray = np.abs(smooth).mean(axis=2) / np.float32(255)
    return out


def flicker(
    frames: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    flows: Sequence[np.ndarray],
    valid: Sequence[np.ndarray] | None = None,
) -> float:
    """Flicker of a video's outputs, L1 in [0, 1]; lower is steadier, NaN without a valid pixel.

    Args:
        frames: the video, T >= 2 pictures uint8 [H, W, 3] of one size.
        outputs: what was made of them, the same.
        flows: T - 1 of float32 [H, W, 2] in pixels, (right, down): frame t+1 at x shows what frame t showed at
            x + flow(x). OpenCV's `DISOpticalFlow.calc(next, previous)` gives it.
        valid: T - 1 of bool [H, W] in the place of frame t+1: where to measure (a head; pixels whose flow is trusted).

    Raises:
        ValueError: fewer than two frames, or counts or sizes that do not fit.
    """
    if len(frames) < 2 or len(outputs) != len(frames) or len(flows) != len(frames) - 1:
        raise ValueError(f"{len(frames)} frames, {len(outputs)} outputs and {len(flows)} flows are not a video")
    if len({picture.shape for picture in (*frames, *outputs)}) != 1 or frames[0].shape[:2] != flows[0].shape[:2]:
        raise ValueError("flicker needs frames, outputs and flows of one size")
    total, count = 0.0, 0
    for step, flow in enumerate(flows):
        where = inside(flow) if valid is None else inside(flow) & valid[step]
        beyond = change(outputs[step], outputs[step + 1], flow) - change(frames[step], frames[step + 1], flow)
        total += float(np.maximum(beyond, 0)[where].sum(dtype=np.float64))
        count += int(where.sum())
    return total / count if count else float("nan")
