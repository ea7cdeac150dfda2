"""Busy places to stand before, drawn by program: walls, shelves, windows, foliage, crowds of shapes, letters.

Rendered people stand before quiet places out of focus. A student of these alone paints into patterns it never saw.
"""

from __future__ import annotations

import cv2
import numpy as np

LETTERS = "ABCDEFGHKLMNOPRSTUVXYZabcdeghkmnoprstuy0123456789"


def place(size: int, rng: np.random.Generator) -> np.ndarray:
    """A place of one's own: uint8 [size, size, 3], from sharp to far out of focus."""
    image = _wall(size, rng)
    for _ in range(int(rng.integers(0, 3))):
        draw = (_boxes, _stripes, _leaves, _writing, _lamps)[int(rng.choice(5, p=(0.35, 0.15, 0.25, 0.1, 0.15)))]
        draw(image, rng)
    if rng.random() < 0.5:
        _grain(image, rng)
    blur = rng.exponential(0.008) * size
    image = cv2.GaussianBlur(image, (0, 0), blur) if blur > 0.3 else image
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def tint(rng: np.random.Generator, low: float = 0.05, high: float = 0.95) -> tuple[float, float, float]:
    """A quiet colour, RGB in [0, 255]; one in eight is loud."""
    grey = rng.uniform(low, high)
    spread = 0.35 if rng.random() < 0.12 else 0.08
    red, green, blue = 255 * np.clip(grey * np.exp(rng.normal(0, spread, 3)), 0, 1)
    return float(red), float(green), float(blue)


def _wall(size: int, rng: np.random.Generator) -> np.ndarray:
    """Four corners' colours, blended: a wall with light on it, or sky above ground."""
    base = np.array(tint(rng))
    corners = base * np.exp(rng.normal(0, 0.25, (2, 2, 1))) * np.exp(rng.normal(0, 0.06, (2, 2, 3)))
    image = cv2.resize(corners.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.4:
        horizon = int(rng.uniform(0.3, 0.9) * size)
        image[horizon:] = image[horizon:] * 0.3 + 0.7 * np.array(tint(rng, 0.05, 0.6), np.float32)
    return image


def _boxes(image: np.ndarray, rng: np.random.Generator) -> None:
    """Windows, doors, frames, rows of books."""
    size = len(image)
    for _ in range(int(rng.integers(1, 6))):
        (x, y), (w, h) = rng.uniform(-0.1, 0.9, 2) * size, rng.uniform(0.05, 0.45, 2) * size
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), tint(rng), -1, cv2.LINE_AA)
        if rng.random() < 0.5:
            edge = max(1, int(rng.uniform(0.004, 0.02) * size))
            cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), tint(rng, 0.0, 0.7), edge, cv2.LINE_AA)

    # shelves of books
    if rng.random() < 0.4:
        pitch, height, x = rng.uniform(0.12, 0.25) * size, rng.uniform(0.6, 0.9), 0.0
        for shelf in np.arange(rng.uniform(0, pitch), size, pitch):
            x = rng.uniform(-0.1, 0.3) * size
            while x < size:
                wide, tall = rng.uniform(0.012, 0.05) * size, pitch * height * rng.uniform(0.7, 1)
                corner = int(x), int(shelf + pitch - tall)
                cv2.rectangle(image, corner, (int(x + wide), int(shelf + pitch * 0.98)), tint(rng), -1)
                x += wide + 1


def _stripes(image: np.ndarray, rng: np.random.Generator) -> None:
    """Bricks, planks, blinds, tiles."""
    size = len(image)
    pitch, wide = rng.uniform(0.03, 0.14) * size, max(1, int(rng.uniform(0.004, 0.02) * size))
    line, brick = tint(rng, 0.1, 0.9), rng.random() < 0.5
    upright = not brick and rng.random() < 0.5
    for number, at in enumerate(np.arange(rng.uniform(0, pitch), size + pitch, pitch)):
        ends = ((int(at), 0), (int(at), size)) if upright else ((0, int(at)), (size, int(at)))
        cv2.line(image, *ends, line, wide, cv2.LINE_AA)
        for x in np.arange(pitch * (number % 2), size, 2 * pitch) if brick else ():
            cv2.line(image, (int(x), int(at)), (int(x), int(at + pitch)), line, wide, cv2.LINE_AA)


def _leaves(image: np.ndarray, rng: np.random.Generator) -> None:
    """Foliage, pebbles, a crowd far away: many small ellipses of related colours."""
    size = len(image)
    tone = np.array(tint(rng, 0.1, 0.6)) * ((0.75, 1.1, 0.5) if rng.random() < 0.6 else (1, 1, 1))
    top, reach = rng.uniform(-0.2, 0.7), rng.uniform(0.3, 1)
    most = rng.uniform(0.01, 0.05)
    for _ in range(int(rng.integers(40, 160))):
        at = int(rng.uniform(0, size)), int((top + reach * rng.random()) * size)
        axes = max(1, int(rng.uniform(0.3, 1) * most * size)), max(1, int(rng.uniform(0.3, 1) * most * size))
        colour = np.clip(tone * np.exp(rng.normal(0, 0.45)), 0, 255).tolist()
        cv2.ellipse(image, at, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)


def _lamps(image: np.ndarray, rng: np.random.Generator) -> None:
    """Discs of light out of focus."""
    size = len(image)
    light = np.zeros_like(image)
    for _ in range(int(rng.integers(3, 25))):
        at, radius = tuple(int(v) for v in rng.uniform(0, size, 2)), max(1, int(rng.uniform(0.01, 0.06) * size))
        colour = (rng.uniform(60, 200) * np.array([1, rng.uniform(0.6, 1), rng.uniform(0.3, 1)])).tolist()
        cv2.circle(light, at, radius, colour, -1, cv2.LINE_AA)
    image += cv2.GaussianBlur(light, (0, 0), 0.006 * size + 0.3)


def _writing(image: np.ndarray, rng: np.random.Generator) -> None:
    """Lines of letters: signs, posters, spines."""
    size = len(image)
    for _ in range(int(rng.integers(1, 5))):
        write(
            image, rng, (rng.uniform(-0.1, 0.7) * size, rng.uniform(0.05, 0.95) * size), rng.uniform(0.02, 0.09) * size
        )


def write(image: np.ndarray, rng: np.random.Generator, at: tuple[float, float], height: float) -> None:
    """A few letters of a height in px from `at` (left, base line) on, drawn into float32 [S, S, 3]."""
    text = "".join(rng.choice(list(LETTERS), int(rng.integers(3, 14))))
    thick = max(1, int(height * rng.uniform(0.08, 0.2)))
    face = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX]))
    ink = np.zeros(image.shape[:2], np.uint8)
    cv2.putText(ink, text, (int(at[0]), int(at[1])), face, height / 22, 255, thick, cv2.LINE_AA)
    image += (np.array(tint(rng), np.float32) - image) * (ink[..., None] / np.float32(255))


def _grain(image: np.ndarray, rng: np.random.Generator) -> None:
    """Texture of plaster, cloth or gravel, from coarse to fine."""
    size, strength = len(image), rng.uniform(2, 18)
    for side in (8, 24, 72):
        noise = rng.standard_normal((side, side), np.float32)
        image += np.float32(strength) * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
