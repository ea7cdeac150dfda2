"""Where things grow on the neutral mesh and what the skin looks like there: pure functions of places [n, 3]."""

from __future__ import annotations

import numpy as np

from stages.datasets.rendered.colour import dots, ramp
from stages.datasets.rendered.person import Beard, Hair, Person

# lower edge of the scalp by depth z, from nape over ear and sideburn to the forehead
SCALP_Z = (-0.4, 0.0, 0.25, 0.38, 0.66, 0.73, 0.82, 0.93, 1.15)
SCALP_Y = (6.72, 6.84, 7.0, 7.38, 7.38, 7.2, 7.5, 7.70, 7.80)
BROW = ((0.085, 7.400), (0.18, 7.432), (0.30, 7.464), (0.41, 7.452), (0.52, 7.385))  # the middle of a brow: |x|, y


def scalp(places: np.ndarray, hair: Hair | None = None) -> np.ndarray:
    """1 where hair of the head grows, with a soft edge; receding with age."""
    x, y, z = places[:, 0], places[:, 1], places[:, 2]
    edge = np.interp(z, SCALP_Z, SCALP_Y) + 0.05 * np.cos(x * 3.5) * ramp(z, 0.8, 1.1)
    on = ramp(y, edge - 0.03, edge + 0.09)
    if hair is None:
        return on

    # hairlines go back at the corners, then at the crown
    back = hair.receding
    corners = 0.28 * back * np.exp(-(((abs(x) - 0.42) / 0.2) ** 2)) + 0.1 * back
    on = on * ramp(y, edge + corners * ramp(z, 0.7, 1.0) - 0.03, edge + corners * ramp(z, 0.7, 1.0) + 0.09)
    if hair.style == "bald":  # a ring at the sides, or nothing
        crown = ramp(y, 7.75, 7.55) * ramp(z, 0.95, 0.75)
        on = on * crown * (1.0 if hair.receding > 0.35 else 0.0)
    elif back > 0.6:
        on = on * (
            1 - 0.9 * ramp(back, 0.6, 0.9) * np.exp(-((x / 0.42) ** 2) - ((z + 0.05) / 0.5) ** 2) * ramp(y, 7.9, 8.2)
        )
    return on


def beard_area(places: np.ndarray, beard: Beard | None = None) -> np.ndarray:
    """1 where a beard grows; only the parts that this beard has."""
    x, y, z = abs(places[:, 0]), places[:, 1], places[:, 2]
    line = 6.60 + 0.52 * np.clip(x / 0.66, 0, 1) ** 2.4  # upper edge, from the mouth's corner to the sideburn
    under = 6.10 + np.clip(0.95 - z, 0, 1) * 0.40
    low = ramp(y, line + 0.13, line - 0.03) * ramp(y, under - 0.12, under + 0.10)
    lips = np.exp(-((x / 0.27) ** 4) - ((y - 6.61) / 0.085) ** 4)
    gap = np.exp(-(((x - 0.12) / 0.05) ** 2) - ((y - 6.44) / 0.06) ** 2)  # bare beside the soul patch
    moustache = ramp(y, 6.665, 6.70) * ramp(y, 6.86, 6.80 - 0.06 * x) * ramp(x, 0.36, 0.26) * ramp(z, 1.2, 1.3)
    moustache = np.maximum(moustache, np.exp(-(((x - 0.31) / 0.055) ** 2) - ((y - 6.60) / 0.13) ** 2))
    chin = low * (1 - lips) * (1 - 0.7 * gap)
    if beard is not None:
        narrow = ramp(x, 0.44, 0.34)
        chin = chin * (1.0 if beard.cheeks else narrow) * (1.0 if beard.chin else 0.0)
        moustache = moustache * (1.0 if beard.moustache else 0.0)
    return np.clip(np.maximum(chin, moustache), 0, 1) * (z > 0.3)


def brow_frame(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along a brow (0 inner end, 1 outer) and above its middle, in decimetres."""
    x, y = abs(places[:, 0]), places[:, 1]
    middle = np.array(BROW)
    return ramp(x, middle[0, 0], middle[-1, 0]), y - np.interp(x, middle[:, 0], middle[:, 1])


def brow_width(along: np.ndarray, thickness: float) -> np.ndarray:
    """Half the height of a brow along it, decimetres."""
    return (
        thickness
        * (0.036 * np.exp(-(((along - 0.28) / 0.5) ** 2)) * ramp(along, -0.05, 0.12) + 0.004)
        * ramp(along, 1.05, 0.8)
    )


def hashed(cells: np.ndarray, salt: int) -> np.ndarray:
    """A number 0..1 of every integer cell [n, 3], the same everywhere."""
    a = cells.astype(np.int64)
    h = (a[:, 0] * 73856093) ^ (a[:, 1] * 19349663) ^ (a[:, 2] * 83492791) ^ (salt * 2654435761)
    h = (h ^ (h >> 13)) * 1274126177 & 0x7FFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF).astype(np.float32) / 65535


def mottled(places: np.ndarray, scale: float, salt: int) -> np.ndarray:
    """Smooth noise about 0 on the skin: a sum of waves in directions of their own, `scale` decimetres apart."""
    rng = np.random.default_rng([salt, 77])
    waves = rng.normal(0, 2 * np.pi / scale / 1.7, (6, 3)).astype(np.float32)
    return np.sin(places @ waves.T + rng.uniform(0, 6.28, 6).astype(np.float32)) @ np.full(6, 1 / 2.4, np.float32)


def skin_albedo(person: Person, colour: np.ndarray, plain: np.ndarray, places: np.ndarray, texel: float) -> np.ndarray:
    """Linear colour [n, 3] of skin: the picture brought to the person's tone, with marks, make-up and stubble.

    Args:
        colour: linear [n, 3], the skin picture there.
        plain: linear [3], what that picture's cheeks have.
        places: neutral places [n, 3].
        texel: decimetres that a pixel covers; marks finer than that fade.
    """
    x, y, z = places[:, 0], places[:, 1], places[:, 2]
    tone = np.array(person.skin_colour, np.float32)
    ratio = np.clip(colour / plain, 0.02, 4)
    out = tone * ratio ** np.float32(0.95 if person.age > 18 else 0.6)  # children's skin is even
    # blood under the skin: cheeks, nose, ears; and mottling
    warm = np.exp(-(((abs(x) - 0.42) / 0.17) ** 2) - ((y - 6.98) / 0.16) ** 2) * (z > 0.6)
    warm = (
        warm + 0.8 * np.exp(-((x / 0.12) ** 2) - ((y - 6.95) / 0.1) ** 2) * (z > 1.3) + 0.4 * (abs(x) > 0.74) * (z > 0)
    )
    fair = 1 - person.tone
    flush = (0.10 + 0.10 * fair) * warm * (0.6 + 0.4 * np.sin(person.number)) + 0.03 * mottled(
        places, 0.25, person.number
    )
    flush = flush + 0.35 * person.make_up[2] * np.exp(-(((abs(x) - 0.48) / 0.14) ** 2) - ((y - 7.03) / 0.1) ** 2) * (
        z > 0.5
    )
    out = out * (1 - flush[:, None] * np.array([0.05, 0.75, 0.65], np.float32))
    out = (
        out
        * (1 + 0.035 * mottled(places, 0.6, person.number + 1) + 0.02 * mottled(places, 0.09, person.number + 2))[
            :, None
        ]
    )
    out = _marks(person, out, places, texel)
    lids = person.make_up[1]
    if lids > 0:
        shade = np.exp(-(((abs(x) - 0.31) / 0.15) ** 2) - ((y - 7.365) / 0.035) ** 2) * (z > 1.2) * lids
        tint = np.array(_TINTS[person.number % len(_TINTS)], np.float32)
        out = out * (1 - 0.6 * shade[:, None]) + 0.6 * shade[:, None] * out * tint
    return out


_TINTS = ((0.35, 0.25, 0.28), (0.5, 0.3, 0.22), (0.3, 0.3, 0.42), (0.6, 0.38, 0.4), (0.2, 0.17, 0.17))
LIPSTICKS = ((0.42, 0.04, 0.05), (0.50, 0.16, 0.15), (0.36, 0.10, 0.12), (0.55, 0.24, 0.20), (0.24, 0.03, 0.06))


def _marks(person: Person, out: np.ndarray, places: np.ndarray, texel: float) -> np.ndarray:
    """Moles, freckles, age spots."""
    rng = np.random.default_rng([person.number, person.seed, 9])
    spots = int(rng.integers(0, 6)) + (int(rng.integers(4, 22)) if person.age > 55 else 0)
    dark = np.zeros(len(places), np.float32)
    x_, y_, front = places[:, 0], places[:, 1], places[:, 2] > 0.3
    for _ in range(spots):
        x = rng.uniform(-0.7, 0.7)
        at = np.array([x, rng.uniform(6.2, 7.9), 1.62 - 1.5 * abs(x) ** 1.8 - rng.uniform(0, 0.1)], np.float32)
        radius = max(rng.uniform(0.008, 0.022), texel * 0.7)
        fade = min(1.0, 0.015 / radius) ** 2
        strength, reach = rng.uniform(0.25, 0.7) * fade, 3 * radius
        near = np.nonzero((abs(x_ - at[0]) < reach) & (abs(y_ - at[1]) < reach) & front)[0]
        d = ((places[near, :2] - at[:2]) ** 2).sum(axis=1)
        dark[near] += np.exp(-d / radius**2) * strength

    if person.freckles > 0 and texel < 0.03:
        cells = np.floor(places / 0.035)
        chosen = hashed(cells, person.number) < 0.35 * person.freckles
        centre = (cells + 0.5) * 0.035
        d = dots(places - centre, places - centre)
        where = np.exp(-((places[:, 0] / 0.55) ** 2) - ((places[:, 1] - 7.05) / 0.35) ** 2)
        dark += 0.35 * chosen * np.exp(-d / 0.011**2) * where
    return out * (1 - np.clip(dark, 0, 0.8)[:, None] * np.array([0.45, 0.65, 0.75], np.float32))


def stubble(person: Person, out: np.ndarray, places: np.ndarray, texel: float) -> np.ndarray:
    """Skin with stubble and cropped hair on it, linear [n, 3]."""
    hair = np.array(person.hair.colour, np.float32)
    if person.beard.stubble > 0.02:
        full = Beard(1, 0, True, True, True) if person.beard.length == 0 else person.beard
        area = beard_area(places, full if person.beard.length > 0 else None)
        strength = person.beard.stubble if person.beard.length == 0 else 0.75
        grain = hashed(np.floor(places / 0.012), 3) if texel < 0.012 else np.float32(0.5)
        k = area * strength * (0.35 + 0.5 * grain)
        blue = out * np.array([0.62, 0.66, 0.72], np.float32) * 0.6 + hair * 0.4  # hair seen through skin
        out = out + np.clip(k, 0, 0.85)[:, None] * (blue - out)
    return out


def under_hair(person: Person, out: np.ndarray, area: np.ndarray) -> np.ndarray:
    """The scalp darkened to the hair's own colour, so that gaps between strands are no holes."""
    dense = 0.6 if person.hair.style in ("crop", "bald") else 0.93
    return out + (area * dense)[:, None] * (np.array(person.hair.colour, np.float32) * 0.4 - out)
