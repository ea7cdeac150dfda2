"""Styles of flat colour and line: comic and anime."""

from __future__ import annotations

import cv2
import numpy as np

from stages.datasets.rendered.colour import ramp, saturate, srgb
from stages.datasets.rendered.light import ground, place_of
from stages.datasets.rendered.person import IRISES
from stages.datasets.rendered.styles.drawing import (
    Drawing,
    bearded,
    cheeks_of,
    edges_of,
    eyes,
    face_lines,
    finish,
    flat_colours,
    lashes,
    lid,
    lips_of,
    lit,
    skin_tone,
    spots,
)

F = np.float32


def comic(art: Drawing, size: int) -> np.ndarray:
    """Flat colours, one shadow tone, shine on the hair, ink."""
    person = art.person
    skin = skin_tone(person, 0.97, 1.03)
    hair = saturate(np.array(person.hair.colour) * 1.6 + 0.012, 1.35)
    base = bearded(art, flat_colours(art, skin, hair, lips_of(person, skin), 5), hair * 0.8)
    facing = lit(art, 2.2)
    tone = ramp(facing, 0.24, 0.30)[..., None]
    colour = base * tone + base * np.array([0.65, 0.59, 0.60], np.float32) * (1 - tone)

    # hair: tones of locks, a shine
    top = art.on("hair")
    band = ramp(facing + 0.10 * (art.lock - 0.5), 0.91, 0.95)[..., None]
    locks = (0.86 + 0.28 * np.round(art.lock * 2) / 2)[..., None]
    strands = (base * tone + base * 0.5 * (1 - tone)) * locks
    colour = np.where(top[..., None], strands + band * (base * 0.7 + 0.015), colour)
    cheeks = (cheeks_of(art, 0.11) * 0.3)[..., None]
    colour = colour * (1 - cheeks) + colour * np.array([1.08, 0.62, 0.6], np.float32) * cheeks

    # eyes and teeth
    eye, d, _ = eyes(art, np.zeros(3), 1.02)
    iris = saturate(np.array(IRISES[person.iris]) * 1.3 + 0.01, 1.25)
    white = np.array([0.92, 0.93, 0.94], np.float32)
    seen = np.where(
        (d < 0.45)[..., None],
        0.008,
        np.where((d < 0.93)[..., None], iris, np.where((d < 1.06)[..., None], iris * 0.2, white)),
    )
    colour = np.where(eye[..., None], seen * lid(art)[..., None], colour)
    colour = np.where((art.frame.raster(art.frame.kind("teeth")) & art.on("mouth"))[..., None], 0.88, colour).astype(
        np.float32
    )

    # ink
    r = max(1, round(0.8 * art.fine))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
    ink = cv2.dilate(edges_of(art, True), disc) if art.fine > 1 else edges_of(art, art.width > 200)
    ink = np.maximum(ink, face_lines(art, 0.030, 0.018))
    ink = np.maximum(ink, lashes(art, 0.10))
    spots(art, colour, 0.10, 0.065)
    ink = cv2.GaussianBlur(ink.astype(np.float32), (0, 0), 0.4 * art.fine)
    back = srgb(ground(place_of(art.view), art.width))
    level = np.maximum(cv2.GaussianBlur(back, (0, 0), 1.5 * art.fine).mean(axis=2, keepdims=True), 0.02)
    back = np.clip(back * (np.round(level * 5 + 0.3) / 5 / level) * 1.04, 0, 1)
    back = cv2.GaussianBlur(back.astype(np.float32), (0, 0), 0.8 * art.fine)
    return finish(art, colour, back, np.clip(ink, 0, 1), np.full(3, 0.03, np.float32), size)


def anime(art: Drawing, size: int) -> np.ndarray:
    """Clean cel colours, large glossy eyes, coloured thin lines, a ring of light on the hair."""
    person = art.person
    skin = skin_tone(person, 1.04, 0.95)
    hair = saturate(np.array(person.hair.colour) * 1.9 + 0.02, 1.5)
    lips = skin * np.array([0.92, 0.62, 0.62], np.float32) * (1 - 0.5 * person.make_up[0]) + 0.5 * person.make_up[
        0
    ] * lips_of(person, skin)
    base = bearded(art, flat_colours(art, np.minimum(skin, 0.95), hair, lips, 4), hair * 0.9)
    facing = lit(art, 3.5)
    tone = ramp(facing, 0.10, 0.13)[..., None]
    colour = base * tone + base * np.array([0.76, 0.66, 0.70], np.float32) * (1 - tone)

    # hair: tones of locks, a ring of light
    top = art.on("hair")
    ring = ramp(abs(facing - 0.78 - 0.12 * (art.lock - 0.5)), 0.055, 0.04) * ramp(art.normals[..., 1], -0.1, 0.2)
    strands = base * (0.55 + 0.45 * tone) * (0.9 + 0.2 * np.round(art.lock * 2) / 2)[..., None]
    colour = np.where(top[..., None], strands + ring[..., None] * (0.6 * base + 0.10), colour)
    cheeks = (cheeks_of(art, 0.10) * 0.38)[..., None]
    colour = colour * (1 - cheeks) + colour * np.array([1.05, 0.60, 0.60], np.float32) * cheeks

    # eyes: dark above, glowing below
    eye, d, height = eyes(art, np.zeros(3), 1.38)
    iris = saturate(np.array(IRISES[person.iris]) * 1.4 + 0.02, 1.25)
    glow = iris * (0.35 + 1.0 * ramp(height, -0.7, 0.9)[..., None]) + 0.25 * ramp(height, 0.2, 1.0)[..., None] * iris
    seen = np.where(
        (d < 0.36)[..., None],
        iris * 0.06,
        np.where((d < 0.9)[..., None], glow, np.where((d < 1.02)[..., None], iris * 0.12, 0.97)),
    )
    colour = np.where(eye[..., None], seen * (0.25 + 0.75 * lid(art))[..., None], colour)
    colour = np.where((art.frame.raster(art.frame.kind("teeth")) & art.on("mouth"))[..., None], 0.95, colour).astype(
        np.float32
    )

    # lines and sky
    edges = cv2.GaussianBlur(edges_of(art, art.width > 200), (0, 0), 0.55 * art.fine)
    lines = np.maximum(np.clip(edges * 0.9, 0, 1), face_lines(art, 0.058, 0.013))
    tint = srgb(cv2.GaussianBlur(base, (0, 0), 2 * art.fine) * 0.16)  # lines take the colour beside them
    spots(art, colour, 0.13, 0.085)
    spots(art, colour, -0.11, 0.04)
    place = place_of(art.view)
    y = np.linspace(0, 1, art.width, dtype=np.float32)[:, None, None]
    top_, low_ = srgb(np.clip(place.top * 0.5 + 0.35, 0, 1)), srgb(np.clip(place.bottom * 0.5 + 0.25, 0, 1))
    soft = srgb(cv2.GaussianBlur(ground(place, art.width), (0, 0), 9 * art.fine))
    back = 0.55 * (top_ * (1 - y) + low_ * y) + 0.45 * np.clip(soft * 1.05 + 0.04, 0, 1)
    return finish(art, colour, back.astype(np.float32), np.clip(lines, 0, 1), tint, size)
