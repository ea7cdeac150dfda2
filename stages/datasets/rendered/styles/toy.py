"""The style of a vinyl figurine."""

from __future__ import annotations

import cv2
import numpy as np

from stages.datasets.rendered.colour import saturate, srgb
from stages.datasets.rendered.light import Lights, film, ground, place_of
from stages.datasets.rendered.person import IRISES
from stages.datasets.rendered.shade import Shadows
from stages.datasets.rendered.styles.drawing import (
    Drawing,
    bearded,
    cheeks_of,
    eyes,
    face_lines,
    flat_colours,
    laid,
    lashes,
    lid,
    lips_of,
    skin_tone,
    spots,
)

F = np.float32


def figurine(art: Drawing, size: int, lights: Lights, shadows: Shadows) -> np.ndarray:
    """A vinyl toy: every part one colour, smooth and a little glossy, under a soft studio light."""
    person, frame = art.person, art.frame
    skin = skin_tone(person, 0.97, 0.98)
    hair = saturate(np.array(person.hair.colour) * 1.35 + 0.012, 1.25)
    base = bearded(art, flat_colours(art, skin, hair, lips_of(person, skin) * 0.5 + skin * 0.5, 2), hair * 0.85)
    cheeks = (cheeks_of(art, 0.12) * 0.35)[..., None]
    base = base * (1 - cheeks) + base * np.array([1.05, 0.58, 0.55], np.float32) * cheeks
    eye, d, _ = eyes(art, np.zeros(3), 1.12)
    iris = saturate(np.array(IRISES[person.iris]) * 1.2 + 0.01, 1.2)
    seen = np.where(
        (d < 0.5)[..., None], 0.006, np.where((d < 1.0)[..., None], iris * (0.6 + 0.6 * d[..., None]), 0.85)
    )
    base = np.where(eye[..., None], seen * (0.3 + 0.7 * lid(art))[..., None], base)
    base = np.where((frame.raster(frame.kind("teeth")) & art.on("mouth"))[..., None], 0.8, base)
    soft = cv2.GaussianBlur(art.normals, (0, 0), 2.2 * art.fine)
    # locks of hair are grooves in the vinyl
    groove = cv2.GaussianBlur(art.lock, (0, 0), 1.3 * art.fine)
    slope = np.stack([cv2.Sobel(groove, -1, 1, 0), -cv2.Sobel(groove, -1, 0, 1)], axis=2) * art.on("hair")[..., None]
    soft[..., :2] -= 0.35 * art.fine * slope
    soft = soft / (np.linalg.norm(soft, axis=2, keepdims=True) + F(1e-3))
    key = lights.axes[:, 2].mean(axis=0)
    key = key / np.linalg.norm(key)
    sky = cv2.GaussianBlur(frame.raster(frame.sky), (0, 0), 1.5 * art.fine)
    sky = np.where(art.on("hair")[..., None], lights.harmonics[0] * 0.75 + 0.5 * (soft @ lights.harmonics[1:]), sky)
    lit = np.clip(soft @ key, 0, 1)
    view = np.array([0, 0, 1], np.float32)
    half = (key + view) / np.linalg.norm(key + view)
    gloss = np.clip(soft @ half, 0, 1) ** 42 * 0.14 + np.clip(soft @ half, 0, 1) ** 9 * 0.012
    rim = (1 - np.clip(soft[..., 2], 0, 1)) ** 3 * 0.10 * np.clip(base.mean(axis=2) * 3, 0.15, 1)
    light = sky * 1.15 + (lit * float(lights.colours.sum(axis=0).mean()))[..., None]
    thin = np.clip(1 - np.clip(soft @ key, -1, 1) ** 2, 0, 1)[..., None] * np.array([0.06, 0.02, 0.015], np.float32)
    lids = np.maximum(face_lines(art, 0.034, 0.014), lashes(art, 0.10) * F(0.8))[..., None] * F(0.9)
    colour = film(
        base * (light + thin * art.on("skin", "nose")[..., None]) * 0.95 + gloss[..., None] + rim[..., None], 0.55
    ) ** F(1.0)
    colour = colour.astype(np.float32)
    spots(art, colour, 0.12, 0.07)
    cover = cv2.GaussianBlur((art.labels > 0).astype(np.float32), (0, 0), 0.5 * art.fine)[..., None]
    back = srgb(cv2.GaussianBlur(ground(place_of(art.view), art.width), (0, 0), 6 * art.fine))
    return laid(art, colour * (1 - lids) * cover, cover, back, size)
