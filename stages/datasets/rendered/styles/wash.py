"""The style of a watercolour on paper."""

from __future__ import annotations

import cv2
import numpy as np

from stages.datasets.rendered.colour import ramp, saturate, smooth_noise, srgb
from stages.datasets.rendered.light import film, ground, place_of
from stages.datasets.rendered.styles.drawing import Drawing, edges_of, face_lines, laid, spots


def watercolour(art: Drawing, size: int, light: np.ndarray) -> np.ndarray:
    """Washes of pigment on paper: light photographed softly, gathered into flat wet shapes, with a pencil line."""
    rng = np.random.default_rng([art.person.number, art.person.seed, 41])
    calm, cover = _washes(art, light, rng)
    # pigment: transparent layers whose rims dry darker
    level = calm.mean(axis=2)
    steps = np.round(level * 7) / 7
    steps = cv2.GaussianBlur(steps, (0, 0), 0.9 * art.fine)
    calm = calm * (1 + 0.30 * (steps - level) / np.maximum(level, 0.15))[..., None]
    wet = cv2.GaussianBlur(level, (0, 0), 2.2 * art.fine) - level
    rim = np.clip(wet * 1.6, 0, 0.22)[..., None]
    density = np.clip(1 - calm, 0, 1) * (1 + rim)
    grain = (
        smooth_noise(rng, art.width, art.width // 2) * 0.5
        + smooth_noise(rng, art.width, max(4, int(art.width / 5))) * 0.4
    )
    bloom = smooth_noise(rng, art.width, 7)
    settled = 2 * (1 - density)  # pigment's grain shows where it is thin
    density = density * (1 + settled * (0.05 * grain + 0.07 * bloom)[..., None])
    # the background's wash ends in a ragged edge and leaves paper; the person is painted to the border
    rows, columns = np.indices((art.width, art.width), dtype=np.float32)
    away = np.maximum(abs(columns / art.width - 0.5), abs(rows / art.width - 0.47)) * 2
    ragged = away + 0.09 * smooth_noise(rng, art.width, 5) + 0.02 * smooth_noise(rng, art.width, 14)
    left = np.maximum(ramp(ragged, 0.99, 0.86)[..., None] * 0.75, cover)
    density = density * left
    paper = np.array([0.985, 0.975, 0.95], np.float32) + 0.008 * grain[..., None]
    picture = paper * (1 - density)
    pencil = cv2.GaussianBlur(
        np.maximum(edges_of(art, False) * 0.40, face_lines(art, 0.028, 0.014) * 0.75), (0, 0), 0.45 * art.fine
    )
    pencil = pencil * (0.75 + 0.35 * smooth_noise(rng, art.width, 40)) * left[..., 0]
    spots(art, picture, 0.08, 0.05)
    picture = picture * (1 - np.clip(pencil, 0, 0.9)[..., None] * np.array([0.80, 0.84, 0.80], np.float32))
    return laid(art, picture * cover, cover, picture, size)


def _washes(art: Drawing, light: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The wet shapes of colour, sRGB [W, W, 3], and the person's cover [W, W, 1], both moved by an unsteady hand."""
    place = ground(place_of(art.view), art.width)
    cover = cv2.GaussianBlur((art.labels > 0).astype(np.float32), (0, 0), 0.6 * art.fine)[..., None]
    scene = film(saturate(np.clip(light, 0, 1.3), 1.05) * 1.3, 0.5) * cover
    if art.behind is None:
        beyond = srgb(cv2.GaussianBlur(place, (0, 0), 7 * art.fine)) * 0.55 + 0.42
    else:  # a twin's washes run on past the outline: no pale rim is cut out with them
        near, weight = (cv2.GaussianBlur(a, (0, 0), 5 * art.fine) for a in (scene, cover))
        beyond = near / np.maximum(weight[..., None], 1e-3)
    washes = np.dstack([scene + beyond * (1 - cover), cover])

    # the brush is finer about eyes and mouth
    fine = art.on("l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip", "glasses").astype(np.float32)
    fine = np.clip(3 * cv2.GaussianBlur(fine, (0, 0), 5 * art.fine), 0, 1)[..., None].astype(np.float32)
    wobble = np.stack([smooth_noise(rng, art.width, 22), smooth_noise(rng, art.width, 22)], axis=2) * 1.1 * art.fine
    wobble = wobble * (1 - 0.8 * fine)
    rows, columns = np.indices((art.width, art.width), dtype=np.float32)
    moved = cv2.remap(
        washes.astype(np.float32),
        columns + wobble[..., 0],
        rows + wobble[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )

    # flat shapes; blurred hair, or its strands dry in squares
    curls = cv2.GaussianBlur(art.on("hair", "beard").astype(np.float32), (0, 0), art.fine)[..., None]
    cover, wet = moved[..., 3:], moved[..., :3]
    wet = wet + (cv2.GaussianBlur(wet, (0, 0), 1.6 * art.fine) - wet) * curls
    broad, thin = (kuwahara(wet, max(1, round(radius * art.fine))) for radius in (2.5, 1.0))
    return broad + (thin - broad) * fine, cover


def kuwahara(image: np.ndarray, radius: int) -> np.ndarray:
    """Each pixel takes the mean of its calmest quadrant (Kuwahara 1976), softened by the quadrants' variances."""
    k = radius + 1
    means, spreads = [], []
    grey = image.mean(axis=2)
    padded, first = (cv2.copyMakeBorder(a, k, k, k, k, cv2.BORDER_REFLECT) for a in (image, grey))
    mean, m1, m2 = cv2.blur(padded, (k, k)), cv2.blur(first, (k, k)), cv2.blur(first * first, (k, k))
    height, width = grey.shape
    half = k // 2
    for dy in (-half, k - half - 1):
        for dx in (-half, k - half - 1):
            rows, columns = slice(k + dy, k + dy + height), slice(k + dx, k + dx + width)
            means.append(mean[rows, columns])
            spreads.append(m2[rows, columns] - m1[rows, columns] ** 2)
    weights = 1 / (np.maximum(np.stack(spreads), 0) + 1e-4) ** 3
    weights = weights / weights.sum(axis=0)
    return np.einsum("qhw,qhwc->hwc", weights, np.stack(means)).astype(np.float32)
