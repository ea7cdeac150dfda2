"""Things that are held before a face or worn on it: sunglasses, hands, strands of hair, microphones, bars of text.

Each is drawn by program onto the photo and takes its place out of the region that is painted: a student must leave it
as it is. Lengths are shares of the picture's width; a face is about 0.4 wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stages.student.backgrounds import tint, write

KINDS = {"sunglasses": 0.2, "hand": 0.3, "strands": 0.15, "microphone": 0.15, "bar": 0.1, "cable": 0.1}


@dataclass(frozen=True)
class Occluded:
    """A picture on the way: what is drawn and where it covers the person.

    Attributes:
        photo: float32 [S, S, 3] in [0, 255], changed in place.
        cover: float32 [S, S] in [0, 1], likewise: where something is before the person.
        box: (left, top, right, bottom) of the painted region, shares.
        eyes: [2, 2], x and y of both eyes, shares; None where they are unknown.
    """

    photo: np.ndarray
    cover: np.ndarray
    box: tuple[float, float, float, float]
    eyes: np.ndarray | None

    @property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns [1, S] and rows [S, 1]: places of the pixels' centres, shares."""
        place = (np.arange(len(self.photo), dtype=np.float32) + 0.5) / len(self.photo)
        return place[None], place[:, None]

    def point(self, rng: np.random.Generator) -> np.ndarray:
        """A point on the person: [2]."""
        left, top, right, bottom = self.box
        return np.array([left + (right - left) * rng.uniform(0.2, 0.8), top + (bottom - top) * rng.uniform(0.25, 0.85)])

    def colour(self, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
        """The median colour of a band of the painted region, between two shares of its height: [3]."""
        size = len(self.photo)
        left, top, right, bottom = self.box
        rows = slice(int((top + (bottom - top) * low) * size), max(1, int((top + (bottom - top) * high) * size)))
        columns = slice(int((left * 0.6 + right * 0.4) * size), max(1, int((left * 0.4 + right * 0.6) * size)))
        patch = self.photo[rows, columns].reshape(-1, 3)
        middle = np.median(patch, axis=0) if len(patch) else np.full(3, 120.0)
        tone: np.ndarray = middle * np.exp(rng.normal(0, 0.12)) * np.exp(rng.normal(0, 0.04, 3))
        return tone

    def lay(self, colour: np.ndarray, cover: np.ndarray) -> None:
        """Lay a colour [S, S, 3] or [3] over the photo where `cover` [S, S] says."""
        self.photo[:] += (colour - self.photo) * cover[..., None]
        np.maximum(self.cover, cover, out=self.cover)


def occlude(occluded: Occluded, rng: np.random.Generator) -> None:
    """Put one thing, sometimes two, before the person; in place."""
    for _ in range(2 if rng.random() < 0.15 else 1):
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        if kind == "sunglasses" and occluded.eyes is None:
            kind = "hand"
        _DRAW[kind](occluded, rng)


def capsule(
    grid: tuple[np.ndarray, np.ndarray], a: np.ndarray, b: np.ndarray, wide: tuple[float, float], pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """A round bar from a to b, `wide` at its ends: cover [S, S] and shade [S, S], 1 where it faces us, 0 at its rim."""
    x, y = grid
    along = b - a
    share = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    radius = wide[0] + (wide[1] - wide[0]) * share
    across_x, across_y = x - a[0] - share * along[0], y - a[1] - share * along[1]
    far = np.hypot(across_x, across_y)
    shade = np.sqrt(np.clip(1 - (far / radius) ** 2, 0, 1)) * 0.85 - 0.3 * across_x / radius * (far < radius)
    return np.clip((radius - far) / pixel + 0.5, 0, 1).astype(np.float32), shade.astype(np.float32)


def _lit(colour: np.ndarray, shade: np.ndarray, dark: float = 0.5) -> np.ndarray:
    """A colour [3] under a shade [S, S], redder where it is dark, as skin is."""
    light = np.clip(dark + 1.2 * (1 - dark) * shade, 0, 1.25)[..., None]
    return np.asarray(colour * light ** np.array([0.85, 1.05, 1.1]), np.float32)


def _hand(occluded: Occluded, rng: np.random.Generator) -> None:
    """Fingers that touch the face, from a palm and an arm that come in from below or a side."""
    grid, pixel = occluded.grid, 1 / len(occluded.photo)
    tip, skin = occluded.point(rng), np.clip(occluded.colour(rng, 0.45, 0.65), 12, 235)
    angle = rng.uniform(0.15, 0.85) * np.pi  # of the arm: from below, and from the sides
    arm, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    finger, length = rng.uniform(0.024, 0.032), rng.uniform(0.12, 0.19)
    wrist = tip + arm * (length + 0.2)

    # the arm, the palm, then one finger after the other, each before its neighbour
    sleeve = np.array(tint(rng)) if rng.random() < 0.5 else skin
    parts = [(wrist + arm, wrist, (0.09, 0.07), sleeve), (wrist, tip + arm * (length + 0.02), (0.07, 0.075), skin)]
    count = int(rng.integers(2, 5))
    spread = rng.uniform(0.02, 0.3)
    for number in range(count):
        aside = (number - (count - 1) / 2) * 2.1 * finger
        root = tip + arm * length + across * aside
        reach = length * (1 - 0.12 * abs(number - (count - 1) / 2) - rng.uniform(0, 0.25))
        turned = arm * np.cos(spread * aside / 0.05) - across * np.sin(spread * aside / 0.05)
        knee = root - turned * reach * 0.55
        end = knee - (turned + across * rng.normal(0, 0.25)) * reach * 0.45
        tone = skin * np.exp(rng.normal(0, 0.03))
        parts += [(root, knee, (finger * 1.1, finger), tone), (knee, end, (finger, finger * 0.8), tone)]
    for a, b, wide, tone in parts:
        cover, shade = capsule(grid, a, b, wide, pixel)
        occluded.lay(_lit(tone, shade, 0.66), cover)


def _microphone(occluded: Occluded, rng: np.random.Generator) -> None:
    """A microphone before mouth or chin, with a dotted or foam head."""
    grid, pixel, size = occluded.grid, 1 / len(occluded.photo), len(occluded.photo)
    left, top, right, bottom = occluded.box
    head = np.array(
        [
            rng.uniform(left * 0.6 + right * 0.4, left * 0.3 + right * 0.7),
            top + (bottom - top) * rng.uniform(0.55, 0.95),
        ]
    )
    angle, radius = rng.uniform(0.2, 0.8) * np.pi, rng.uniform(0.04, 0.075)
    way, dark = np.array([np.cos(angle), np.sin(angle)]), np.array(tint(rng, 0.04, 0.25))
    cover, shade = capsule(grid, head, head + way, (radius * 0.6, radius * 0.45), pixel)
    occluded.lay(_lit(dark, shade, 0.3), cover)

    # the head over its handle
    ball, shade = capsule(grid, head, head + way * radius * 0.4, (radius, radius * 0.95), pixel)
    mesh = 1.0 + 0.25 * np.sign(np.sin(grid[0] * 260) * np.sin(grid[1] * 260)) * (size >= 96)
    tone = np.array(tint(rng, 0.05, 0.6)) if rng.random() < 0.6 else dark
    occluded.lay(_lit(tone, shade, 0.25) * mesh[..., None], ball)


def _sunglasses(occluded: Occluded, rng: np.random.Generator) -> None:
    """Dark glasses on the eyes: two lenses with a reflection, a bridge, and temples to the sides."""
    assert occluded.eyes is not None
    x, y = occluded.grid
    between = occluded.eyes[1] - occluded.eyes[0]
    distance = max(float(np.linalg.norm(between)), 1e-3)
    along, middle = between / distance, occluded.eyes.mean(axis=0)
    right = ((x - middle[0]) * along[0] + (y - middle[1]) * along[1]) / distance
    down = ((y - middle[1]) * along[0] - (x - middle[0]) * along[1]) / distance - rng.uniform(0.0, 0.08)

    # lenses from round to square, the frame around them
    wide, high, power = rng.uniform(0.36, 0.46), rng.uniform(0.27, 0.4), rng.uniform(2, 5)
    far = (np.abs(np.abs(right) - 0.5) / wide) ** power + (np.abs(down) / high) ** power
    far = far ** (1 / power)
    pixel = 1 / (len(occluded.photo) * distance * min(wide, high))
    rim = rng.uniform(0.06, 0.18)
    frame, lens = np.clip((1 + rim - far) / pixel + 0.5, 0, 1), np.clip((1 - far) / pixel + 0.5, 0, 1)
    bar = (np.abs(down + high * 0.45) < 0.035) & (np.abs(right) < 1.15)  # bridge and temples
    frame = np.maximum(frame, cv2.GaussianBlur(bar.astype(np.float32), (0, 0), 0.5))

    dark, tone = np.array(tint(rng, 0.02, 0.2)), np.array(tint(rng, 0.02, 0.25))
    occluded.lay(np.broadcast_to(dark, occluded.photo.shape), frame.astype(np.float32))
    sky = np.clip(0.5 - down / high * 0.5, 0, 1) ** 2 * rng.uniform(0, 110) + rng.uniform(0, 60) * (
        np.abs(right - down - rng.uniform(-0.5, 0.5)) < 0.08
    )
    occluded.lay(np.asarray(tone + sky[..., None], np.float32), (lens * rng.uniform(0.8, 1)).astype(np.float32))
    np.maximum(occluded.cover, lens.astype(np.float32), out=occluded.cover)


def _strands(occluded: Occluded, rng: np.random.Generator) -> None:
    """Strands of hair that hang or blow over the face."""
    size = len(occluded.photo)
    hair = np.clip(occluded.colour(rng, 0.02, 0.12), 10, 220)
    start, bend = occluded.point(rng) * [1, 0.3], rng.normal(0, 0.25, 2)
    fall = np.array([rng.normal(0, 0.25), rng.uniform(0.35, 0.8)])
    t = np.linspace(0, 1, 12)[:, None]

    for _ in range(int(rng.integers(6, 30))):
        own = start + rng.normal(0, 0.03, 2)
        points = own + fall * t * rng.uniform(0.7, 1.1) + bend * np.sin(np.pi * t) * 0.4 + rng.normal(0, 0.03, 2) * t**2
        cover = np.zeros((size, size), np.float32)
        thick = max(1, round(size * rng.uniform(0.001, 0.004)))
        cv2.polylines(
            cover,
            [np.asarray(points * size * 16, np.int32)],
            False,
            float(rng.uniform(0.2, 0.7)),
            thick,
            cv2.LINE_AA,
            4,
        )
        occluded.lay(hair * np.exp(rng.normal(0, 0.2)), cover)


def _bar(occluded: Occluded, rng: np.random.Generator) -> None:
    """A caption, a badge or a banner: a bar with letters, opaque or a little clear."""
    size = len(occluded.photo)
    (_, y), height = occluded.point(rng), rng.uniform(0.06, 0.15)
    left, right = rng.uniform(-0.1, 0.35), rng.uniform(0.6, 1.1)
    layer, cover = occluded.photo.copy(), np.zeros((size, size), np.float32)
    corners = (int(left * size), int(y * size)), (int(right * size), int((y + height) * size))
    cv2.rectangle(layer, *corners, tint(rng), -1)
    cv2.rectangle(cover, *corners, 1.0, -1)
    write(layer, rng, ((left + 0.04) * size, (y + height * 0.75) * size), height * size * 0.6)
    layer += (occluded.photo - layer) * np.float32(rng.uniform(0, 0.3) * (rng.random() < 0.5))
    occluded.lay(layer, cover)


def _cable(occluded: Occluded, rng: np.random.Generator) -> None:
    """A straw, a strap, a cable or a pole: a long bar across."""
    tip, angle = occluded.point(rng), rng.uniform(0, 2 * np.pi)
    way, wide = np.array([np.cos(angle), np.sin(angle)]), rng.uniform(0.006, 0.05)
    begin = tip - way * rng.choice([0.0, 2.0])
    cover, shade = capsule(occluded.grid, begin, tip + 2 * way, (wide, wide), 1 / len(occluded.photo))
    occluded.lay(_lit(np.array(tint(rng)), shade), cover)


_DRAW = {
    "sunglasses": _sunglasses,
    "hand": _hand,
    "strands": _strands,
    "microphone": _microphone,
    "bar": _bar,
    "cable": _cable,
}
