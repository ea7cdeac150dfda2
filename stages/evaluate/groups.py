"""Scores by group: skin tone by the individual typology angle, light on the face, and how far a group falls behind.

The individual typology angle (Chardon, Cretois & Hourseau, Int. J. Cosmetic Science 13, 1991) is

    ITA = atan((L* - 50) / b*)

of the skin's CIE L*a*b* colour (D65), in degrees; its published limits divide six groups. It measures pixels: the same
person moves with the light, and a camera's white balance shifts everybody. It says nothing of descent, age or gender.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from kornia.color import rgb_to_linear_rgb
from torch import Tensor

from stages.core import tensors
from stages.metrics.bootstrap import Interval, interval, mean_interval, resampled_means

TONES = ("very light", "light", "intermediate", "tan", "brown", "dark")
TONE_LIMITS = (55.0, 41.0, 28.0, 10.0, -30.0)  # degrees; a tone lies above its limit, the last below all
LEAST_SKIN = 30  # px: with fewer, tone and light are unknown
LEAST_YELLOW = 1.0  # b*: nearer to grey than this (a grey picture, blue light) the angle is unknown
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear sRGB
CHEEK_OUT, CHEEK_RADIUS = 0.2, 0.18  # of the distance between the eyes: beside the line from eye to mouth, and around


def lab(colours: np.ndarray) -> np.ndarray:
    """Convert sRGB uint8 [N, 3] to CIE L*a*b* (D65) float32 [N, 3], L* in 0..100."""
    return _converted(tensors.lab, colours)


def luminance(colours: np.ndarray) -> np.ndarray:
    """Relative luminance (IEC 61966-2-1) of sRGB uint8 [N, 3]: float32 [N] in [0, 1], of linear light."""
    return _converted(rgb_to_linear_rgb, colours) @ LUMINANCE


def _converted(conversion: Callable[[Tensor], Tensor], colours: np.ndarray) -> np.ndarray:
    """A conversion of pictures [N, 3, H, W] in [0, 1], of colours uint8 [N, 3]."""
    pictures = torch.from_numpy(np.ascontiguousarray(colours)).float().div(255)[:, :, None, None]
    return conversion(pictures)[:, :, 0, 0].numpy()


def typology_angle(images: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Individual typology angle of the median skin colour, degrees in (-90, 90): float64 [N].

    Args:
        images: uint8 RGB [N, H, W, 3].
        skin: bool [N, H, W], where skin is seen.

    Returns:
        NaN where there is too little skin or its colour is grey or bluish.
    """
    angles = np.full(len(images), np.nan)
    for index, (image, where) in enumerate(zip(images, skin, strict=True)):
        if where.sum() < LEAST_SKIN:
            continue
        light, _, yellow = np.median(lab(image[where]), axis=0)
        if yellow >= LEAST_YELLOW:
            angles[index] = np.degrees(np.arctan((light - 50) / yellow))
    return angles


def tone_of(angle: float) -> str | None:
    """The name in `TONES` of a typology angle in degrees; None for NaN."""
    if not np.isfinite(angle):
        return None
    return TONES[sum(angle <= limit for limit in TONE_LIMITS)]


def side_light(images: np.ndarray, points: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """How much brighter the cheek at image left is than the other, in stops (log2 of linear luminance): float64 [N].

    Args:
        images: uint8 RGB [N, H, W, 3].
        points: [N, 5, 2] px: eyes, nose, corners of the mouth, image left first.
        skin: bool [N, H, W]; a cheek is looked at where it is skin.

    Returns:
        NaN where a cheek is hidden (turned away, a beard, a hand).
    """
    rows, columns = np.indices(images.shape[1:3])
    found = np.full(len(images), np.nan)
    for index, (image, five, where) in enumerate(zip(images, points, skin, strict=True)):
        if not np.isfinite(five).all():
            continue
        across = five[1] - five[0]
        between = max(float(np.hypot(*across)), 1e-6)

        cheeks = []
        for eye, mouth, way in ((five[0], five[3], -1), (five[1], five[4], 1)):
            x, y = (eye + mouth) / 2 + way * CHEEK_OUT * across
            near = (columns - x) ** 2 + (rows - y) ** 2 <= (CHEEK_RADIUS * between) ** 2
            seen = image[near & where]
            if 2 * len(seen) < near.sum():
                break
            cheeks.append(float(luminance(seen).mean()))

        if len(cheeks) == 2:
            found[index] = np.log2((cheeks[0] + 1e-4) / (cheeks[1] + 1e-4))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# How groups fare


@dataclass(frozen=True)
class GroupScore:
    """A measure in one group.

    Attributes:
        pictures, people: how many it rests on.
        score: the mean and its interval.
        ratio: how much of the reference group's quality is left, 1 for as good: score / reference where more is
            better, reference / score where less is.
    """

    pictures: int
    people: int
    score: Interval
    ratio: Interval


def group_scores(
    values: np.ndarray,
    better: int,
    groups: Mapping[str, np.ndarray],
    reference: np.ndarray,
    people: np.ndarray,
    draws: np.ndarray,
) -> dict[str, GroupScore]:
    """A measure's mean in each group and its ratio to that of a reference group, with intervals over people.

    Args:
        values: [N], one score a picture; NaN is left out.
        better: +1 where more is better, -1 where less is.
        groups: name -> bool [N].
        reference: bool [N], the group that the others are held against.
        people: [N], whom each picture shows.
        draws: int [R, N] (`stages.metrics.bootstrap.draw`).
    """

    def within(group: np.ndarray) -> np.ndarray:
        return np.where(group, values, np.nan)

    base = mean_interval(within(reference), draws).value
    base_draws = resampled_means(within(reference), draws)
    found = {}
    for name, group in groups.items():
        chosen = within(group)
        known = np.isfinite(chosen)
        score = mean_interval(chosen, draws)
        replicates = resampled_means(chosen, draws)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.float64(score.value) / base if better > 0 else base / np.float64(score.value)
            spread = replicates / base_draws if better > 0 else base_draws / replicates
        found[name] = GroupScore(int(known.sum()), len(np.unique(people[known])), score, interval(float(ratio), spread))
    return found
