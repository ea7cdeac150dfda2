"""Colours as people see them: what a file says of its transfer curve and primaries, brought to sRGB.

Codes are those of ITU-T H.273, which PNG's cICP chunk and videos share. Bright scenes (PQ, HLG) are tone-mapped: white
paper, 203 cd/m2 by ITU-R BT.2408, stays white's neighbour, and what is brighter is rolled off to the screen's white.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SRGB, LINEAR, PQ, HLG = 13, 8, 16, 18
BT709, BT2020 = 1, 9
GAMMAS = {4: 2.2, 5: 2.8, 17: 2.6}  # transfer codes that are a plain power
LIKE_SRGB = (SRGB, 1, 6, 14, 15, 2)  # shown by browsers and players as they stand; 2 is "not said"
WHITE_D65 = (0.3127, 0.3290)
PRIMARIES = {  # code -> x and y of red, green, blue and white
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *WHITE_D65),
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060, *WHITE_D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *WHITE_D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *WHITE_D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *WHITE_D65),
}
PAPER = 203.0  # cd/m2 of diffuse white
PEAK = 1000.0  # cd/m2 that are rolled off to the screen's white
KNEE = 0.8  # share of the screen's light up to which nothing is changed


def to_srgb(values: np.ndarray, primaries: int | tuple[float, ...], transfer: int | float) -> np.ndarray:
    """Colours as stored -> uint8 sRGB.

    Args:
        values: uint8 or uint16 [H, W, 3], full range.
        primaries: a code of PRIMARIES, or the eight numbers.
        transfer: a code of H.273, or as a float the exponent that leads to light.

    Returns:
        uint8 [H, W, 3].
    """
    light: np.ndarray = _curve(transfer, 255 if values.dtype == np.uint8 else 65535)[values]
    matrix = _matrix(PRIMARIES[primaries] if isinstance(primaries, int) else primaries)
    if np.abs(matrix - np.eye(3)).max() > 1e-3:
        light = light @ matrix.T.astype(np.float32)
    if transfer in (PQ, HLG):
        light = _rolled_off(light)
    steps = np.clip(light, 0, 1) * (len(_encoded()) - 1) + 0.5
    return np.asarray(_encoded()[steps.astype(np.uint16)])


@lru_cache(maxsize=8)
def _curve(transfer: int | float, top: int) -> np.ndarray:
    """Light of every stored value, 1 = white, float32 [top + 1]."""
    v = np.linspace(0, 1, top + 1)

    # A plain power, the two curves of bright scenes, and sRGB's for all that looks like it.
    if isinstance(transfer, float):
        light = v**transfer
    elif transfer == PQ:  # SMPTE ST 2084
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = v ** (1 / m2)
        light = 10_000 / PAPER * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    elif transfer == HLG:  # ITU-R BT.2100, on a screen of 1000 cd/m2, its system gamma a channel at a time
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(v <= 0.5, v**2 / 3, (np.exp((v - c) / a) + b) / 12)
        light = PEAK / PAPER * scene**1.2
    elif transfer == LINEAR:
        light = v
    elif transfer in GAMMAS:
        light = v ** GAMMAS[transfer]
    else:
        light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return np.asarray(light.astype(np.float32))


@lru_cache(maxsize=1)
def _encoded() -> np.ndarray:
    """Codes of sRGB for light in 65535 steps, uint8."""
    light = np.linspace(0, 1, 65536)
    codes = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * codes).astype(np.uint8))


@lru_cache(maxsize=8)
def _matrix(primaries: tuple[float, ...]) -> np.ndarray:
    """From the light of these primaries to that of sRGB's, white to white, [3, 3]."""

    def to_xyz(numbers: tuple[float, ...]) -> np.ndarray:
        x, y = np.array(numbers[:6:2]), np.array(numbers[1:6:2])
        columns = np.stack([x / y, np.ones(3), (1 - x - y) / y])
        wx, wy = numbers[6:]
        white = np.array([wx / wy, 1, (1 - wx - wy) / wy])
        found: np.ndarray = columns * np.linalg.solve(columns, white)
        return found

    made: np.ndarray = np.linalg.solve(to_xyz(PRIMARIES[BT709]), to_xyz(primaries))
    return np.asarray(made / made.sum(axis=1, keepdims=True))  # white stays white


def _rolled_off(light: np.ndarray) -> np.ndarray:
    """Light above KNEE bent so that PEAK meets the screen's white; hue is kept, as all three channels scale alike."""
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    top = PEAK / PAPER
    # a hyperbola that leaves the knee with slope 1 and reaches 1 at the top
    reach = (1 - KNEE) * (top - KNEE) / (top - 1)
    above = np.clip(brightest, KNEE, top) - KNEE
    bent = KNEE + above / (1 + above / reach)
    return np.where(brightest > KNEE, light * (bent / brightest), light)


def known(primaries: int, transfer: int) -> bool:
    """Whether colours of these codes can be shown as they are meant."""
    return primaries in PRIMARIES and (transfer in LIKE_SRGB or transfer in GAMMAS or transfer in (LINEAR, PQ, HLG))
