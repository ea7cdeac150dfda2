"""Small shared tools: sRGB curves, smooth noise, soft steps."""

from __future__ import annotations

import cv2
import numpy as np

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def _linear(values: np.ndarray) -> np.ndarray:
    x = np.asarray(values, np.float32) / 255
    return np.where(x < 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


TO_LINEAR = _linear(np.arange(256))
_STEPS = np.arange(8193) / 8192
TO_SRGB = np.where(_STEPS < 0.0031308, _STEPS * 12.92, 1.055 * _STEPS ** (1 / 2.4) - 0.055).astype(np.float32)


def linear(values: np.ndarray) -> np.ndarray:
    """Convert sRGB 0..255, bytes or floats, to linear light 0..1, float32."""
    values = np.asarray(values)
    return TO_LINEAR[values] if values.dtype == np.uint8 else _linear(values)


def srgb(light: np.ndarray) -> np.ndarray:
    """Linear light -> sRGB 0..1, clipped, through a table of 8,193 steps."""
    return TO_SRGB[(np.clip(np.asarray(light, np.float32), 0, 1) * 8192 + 0.5).astype(np.int32)]


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Convert sRGB 0..1 to bytes."""
    return np.clip(np.asarray(values, np.float32) * 255 + 0.5, 0, 255).astype(np.uint8)


def saturate(colour: np.ndarray, push: float, gain: float = 1.0) -> np.ndarray:
    """Linear colours [..., 3] pushed `push` times away from their own luminance, then scaled."""
    colour = np.asarray(colour, np.float32)
    grey = (colour @ LUMINANCE)[..., None]
    return np.clip((grey + (colour - grey) * push) * gain, 0, 1).astype(np.float32)


def ramp(values: np.ndarray | float, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """0 at `low`, 1 at `high`, straight between; `low` may be the larger."""
    return np.clip((values - low) / (high - low), 0, 1)


def dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products [n] of vectors [n, C]."""
    return np.einsum("nc,nc->n", a, b)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise [size, size] float32 with `cells` knots of unit variance across."""
    knots = rng.normal(0, 1, (max(2, cells), max(2, cells))).astype(np.float32)
    return cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)
