"""The FFHQ square around a face, from five points or 68 landmarks, and the picture cut out along it.

The square is that of the FFHQ data set (Karras et al., arXiv 1812.04948, appendix A), which generators of faces are
trained on: with e from eye to eye and m from the middle of the eyes to the middle of the mouth's corners, its
horizontal half axis is x = e - rot90(m), scaled to max(2.0 |e|, 1.8 |m|), and its centre lies 0.1 m below the middle of
the eyes. Pixel (0, 0) has its centre at 0, 0 everywhere here.
"""

from __future__ import annotations

import math

import numpy as np

# Where the centres of the eyes, the tip of the nose and the corners of the mouth lie in a portrait that this project
# renders, as shares of its side: the mean of many, made symmetrical.
FIVE_POINTS = ((0.3864, 0.4755), (0.6136, 0.4755), (0.5, 0.6048), (0.4095, 0.7115), (0.5905, 0.7115))


def portrait_square(points: np.ndarray) -> tuple[float, float, float, float]:
    """The square in which five points lie as in a portrait of this project: centre x and y, side (px), tilt (radians).

    Rotation, scale and shift by least squares (Umeyama, 1991); as complex numbers t -> a t + b with
    a = sum conj(t - t0) (p - p0) / sum |t - t0|^2.

    Args:
        points: [5, 2] in px: eyes, tip of the nose, corners of the mouth, image left first.
    """
    template = np.array(FIVE_POINTS) @ (1, 1j)
    seen = np.asarray(points, np.float64) @ (1, 1j)
    centred = template - template.mean()
    a = complex((centred.conj() * (seen - seen.mean())).sum() / (np.abs(centred) ** 2).sum())
    centre = seen.mean() + a * ((0.5 + 0.5j) - template.mean())
    return float(centre.real), float(centre.imag), abs(a), math.atan2(a.imag, a.real)


def portrait_quad(points: np.ndarray) -> np.ndarray:
    """Corners of `portrait_square`, as those of `ffhq_quad`: float64 [4, 2] in px. Arguments as there."""
    x, y, side, tilt = portrait_square(points)
    across = np.array([math.cos(tilt), math.sin(tilt)]) * side / 2
    down, centre = np.array([-across[1], across[0]]), np.array([x, y])
    return np.stack([centre - across - down, centre - across + down, centre + across + down, centre + across - down])


def five_of_68(landmarks: np.ndarray) -> np.ndarray:
    """Centres of the eyes, tip of the nose and corners of the mouth of 68 landmarks: [..., 68, 2] -> [..., 5, 2]."""
    eyes = [landmarks[..., low : low + 6, :].mean(-2) for low in (36, 42)]
    return np.stack([*eyes, landmarks[..., 30, :], landmarks[..., 48, :], landmarks[..., 54, :]], axis=-2)


def ffhq_quad(points: np.ndarray) -> np.ndarray:
    """The corners of the FFHQ square: top left, bottom left, bottom right, top right, float64 [4, 2] in px.

    Args:
        points: [5, 2] (eyes, nose, corners of the mouth, image left first) or [68, 2], px.

    Raises:
        ValueError: another shape, numbers that are not finite, or points that all fall together.
    """
    points = np.asarray(points, np.float64)
    if points.shape not in ((5, 2), (68, 2)) or not np.isfinite(points).all():
        raise ValueError(f"points: {points.shape}, of which [5, 2] or [68, 2] finite numbers are expected")
    five = points if len(points) == 5 else five_of_68(points)
    eyes, mouth = (five[0] + five[1]) / 2, (five[3] + five[4]) / 2
    across, down = five[1] - five[0], mouth - eyes
    axis = across - np.array([-down[1], down[0]])
    length = math.hypot(*axis)
    if length < 1e-9:
        raise ValueError("points: all in one place")
    x = axis / length * max(2.0 * math.hypot(*across), 1.8 * math.hypot(*down))
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def side_of(quad: np.ndarray) -> float:
    """The side of a square given by its corners [4, 2], px."""
    return math.hypot(*(quad[3] - quad[0]))


def to_crop(points: np.ndarray, quad: np.ndarray, size: int) -> np.ndarray:
    """Where points [..., 2] of the picture lie in the crop of `size` px along `quad`, [..., 2] px."""
    edges = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1)
    out: np.ndarray = (np.asarray(points, np.float64) - quad[0]) @ np.linalg.inv(edges).T * size - 0.5
    return out


def crop(picture: np.ndarray, quad: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """Cut a turned square out of a picture.

    What is reduced is averaged first: by whole areas down to twice the wanted size, the rest by two samples a pixel and
    direction. Beyond the border the picture is mirrored.

    Args:
        picture: uint8 [H, W, 3].
        quad: corners [4, 2] px: top left, bottom left, bottom right, top right.
        size: px, the side of the result.

    Returns:
        uint8 [size, size, 3], and which share of its pixels lies outside the picture, 0..1.
    """
    import cv2

    height, width = picture.shape[:2]
    scale = side_of(quad) / size  # px of the picture for one of the crop
    reduced = picture
    if scale > 2:
        shape = (max(1, round(width * 2 / scale)), max(1, round(height * 2 / scale)))
        reduced = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
    factor = 1 if scale <= 1 else 2
    ratio = np.array([reduced.shape[1] / width, reduced.shape[0] / height])
    fine = size * factor
    edges = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1) / fine  # px of the picture a fine pixel
    first = quad[0] + edges.sum(1) / 2  # the centre of the first fine pixel
    back = np.concatenate([edges, first[:, None]], axis=1)
    inside = back.copy()
    back[:, 2] += 0.5
    back *= ratio[:, None]
    back[:, 2] -= 0.5
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(reduced, back, (fine, fine), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    if factor > 1:
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_AREA)
    return out, _outside(inside, fine, width, height)


def _outside(back: np.ndarray, size: int, width: int, height: int) -> float:
    steps = np.arange(size)
    x = back[0, 0] * steps[None] + back[0, 1] * steps[:, None] + back[0, 2]
    y = back[1, 0] * steps[None] + back[1, 1] * steps[:, None] + back[1, 2]
    beyond = (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)
    return float(beyond.mean())
