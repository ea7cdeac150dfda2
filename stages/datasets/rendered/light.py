"""Light and places: a sky of few directions with lamps, backgrounds out of focus, and the look of a photograph."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stages.datasets.rendered.colour import ramp, smooth_noise, srgb, to_bytes
from stages.datasets.rendered.person import Light, View

SKY = 14  # directions that the sky is cut into
LAMP_POINTS = {"soft": 4, "window": 4, "rim": 4, "sun": 2, "flash": 2}
LAMP_SIZE = {"soft": 0.42, "window": 0.22, "rim": 0.22, "sun": 0.025, "flash": 0.05}  # radians, half the width
LAMP_POWER = {"soft": 0.9, "window": 1.25, "rim": 0.9, "sun": 1.8, "flash": 1.3}
PLACES = {"studio": 0.3, "wall": 0.22, "room": 0.22, "garden": 0.1, "street": 0.1, "dusk": 0.06}
GROUND = 96  # px that a background is made at; it is out of focus


@dataclass(frozen=True)
class Lights:
    """Directional lights; axes [L, 3, 3]: two across, the third towards the light."""

    sky_axes: np.ndarray
    sky_colours: np.ndarray  # [L, 3]
    axes: np.ndarray
    colours: np.ndarray
    harmonics: np.ndarray  # [4, 3]: mean and slopes of the sky's colour, for reflections


@dataclass(frozen=True)
class Place:
    """A background and what it sends onto the person."""

    image: np.ndarray  # float32 [GROUND, GROUND, 3], linear
    top: np.ndarray  # [3]
    bottom: np.ndarray


def _basis(direction: np.ndarray) -> np.ndarray:
    across = np.cross((0, 1, 0) if abs(direction[1]) < 0.95 else (1, 0, 0), direction)
    across = across / np.linalg.norm(across)
    return np.stack([across, np.cross(direction, across), direction])


def _spiral(count: int) -> np.ndarray:
    """`count` directions of equal areas of the sphere."""
    k = np.arange(count) + 0.5
    y = 1 - 2 * k / count
    turn = np.pi * (1 + 5**0.5) * k
    return np.stack([np.sqrt(1 - y * y) * np.sin(turn), y, np.sqrt(1 - y * y) * np.cos(turn)], axis=1)


def lights_of(view: View, place: Place) -> Lights:
    """The lights of a view at a place."""
    light = view.light
    warm = np.array([1 + light.warmth, 1, 1 - light.warmth])
    directions = _spiral(SKY)
    up = directions[:, 1:2] * 0.5 + 0.5
    rng = np.random.default_rng([view.place, 3])
    side = np.clip(1 + 0.35 * directions @ rng.normal(0, 1, 3), 0.3, 1.9)[:, None]
    sky = (place.bottom * 0.5 + (place.top - place.bottom * 0.5) * up) * side * light.fill * warm

    # the lamps, each as a few points of its disc
    lamps = [(light.azimuth, light.elevation, LAMP_POWER[light.kind] * light.key, LAMP_SIZE[light.kind], warm)]
    if light.kind == "flash":
        lamps[0] = (light.azimuth * 0.12, 12.0, LAMP_POWER["flash"] * light.key, LAMP_SIZE["flash"], np.ones(3))
    if light.kind == "rim":
        behind = 145.0 if light.azimuth < 0 else -145.0
        lamps.append((behind, 25.0, 2.2, 0.15, np.array([1.0, 0.97, 0.92])))
    axes, colours = [], []
    for azimuth, elevation, power, size, tint in lamps:
        a, e = np.radians(azimuth), np.radians(elevation)
        middle = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        frame, points = _basis(middle), LAMP_POINTS[light.kind]
        for k in range(points):
            radius, angle = np.sqrt((k + 0.5) / points) * size, k * 2.39996
            spot = middle + radius * (np.cos(angle) * frame[0] + np.sin(angle) * frame[1])
            axes.append(_basis(spot / np.linalg.norm(spot)))
            colours.append(tint * power / points)

    harmonics = np.concatenate([sky.mean(axis=0, keepdims=True), 3 * directions.T @ sky / SKY])
    return Lights(
        np.stack([_basis(d) for d in directions]).astype(np.float32),
        (sky * 4 / SKY).astype(np.float32),
        np.stack(axes).astype(np.float32),
        np.stack(colours).astype(np.float32),
        harmonics.astype(np.float32),
    )


def place_of(view: View) -> Place:
    """The place of a view: quiet walls, rooms, gardens and streets, out of focus."""
    rng = np.random.default_rng([view.place, 1])
    names, shares = list(PLACES), np.array(list(PLACES.values()))
    kind = names[int(rng.choice(len(names), p=shares))]
    if view.light.kind == "sun" and kind in ("studio", "dusk"):
        kind = "garden" if rng.random() < 0.6 else "street"
    image = {"studio": _studio, "wall": _wall, "room": _room, "garden": _garden, "street": _street, "dusk": _dusk}[
        kind
    ](rng)
    n = GROUND
    top = image[: n // 3].mean(axis=(0, 1)) * 0.5 + 0.5 * np.array([0.95, 1.0, 1.06]) * image[: n // 3].mean()
    bottom = image[n // 2 :].mean(axis=(0, 1))
    bottom = bottom * 0.2 + bottom.mean() * 0.8
    level = 0.75 / max(0.05, float(top.mean()))  # a camera opens for a dark place
    return Place(image, top * level, np.clip(bottom * level, 0.15, 1.2))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0 : 1 : GROUND * 1j, 0 : 1 : GROUND * 1j]
    return columns.astype(np.float32)[..., None], rows.astype(np.float32)[..., None]


def _tint(rng: np.random.Generator, low: float, high: float, colour: float = 0.15) -> np.ndarray:
    """A quiet colour of a lightness between two, linear."""
    return (np.exp(rng.uniform(np.log(low), np.log(high))) * np.exp(rng.normal(0, colour, 3))).astype(np.float32)


def _blur(image: np.ndarray, share: float) -> np.ndarray:
    """Out of focus by a disc whose radius is a share of the width."""
    r = max(1, int(share * GROUND))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1)).astype(np.float32)
    return cv2.GaussianBlur(cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT), (0, 0), 0.7)


def _studio(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    colour = _tint(rng, 0.03, 0.7, 0.12)
    spot = np.exp(-(((x - rng.uniform(0.2, 0.8)) / 0.55) ** 2) - ((y - rng.uniform(0.1, 0.6)) / 0.6) ** 2)
    cloud = 1 + 0.05 * smooth_noise(rng, GROUND, 5)[..., None]
    return (colour * (0.45 + 0.75 * spot) * cloud).astype(np.float32)


def _wall(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    colour = _tint(rng, 0.2, 0.75, 0.08)
    fall = 1 - rng.uniform(0.1, 0.5) * (x if rng.random() < 0.5 else 1 - x) - rng.uniform(0, 0.2) * y
    image = (colour * fall * (1 + 0.02 * smooth_noise(rng, GROUND, 9)[..., None])).astype(np.float32)
    if rng.random() < 0.4:  # a picture frame
        a, b = rng.uniform(-0.1, 0.85), rng.uniform(-0.1, 0.3)
        w, h = rng.uniform(0.15, 0.4), rng.uniform(0.2, 0.4)
        corner, other = (int(a * GROUND), int(b * GROUND)), (int((a + w) * GROUND), int((b + h) * GROUND))
        cv2.rectangle(image, corner, other, _tint(rng, 0.03, 0.6, 0.3).tolist(), -1)
        cv2.rectangle(image, corner, other, _tint(rng, 0.02, 0.3).tolist(), 2)
    return _blur(image, rng.uniform(0.015, 0.04))


def _room(rng: np.random.Generator) -> np.ndarray:
    image = np.empty((GROUND, GROUND, 3), np.float32)
    wall = _tint(rng, 0.12, 0.5, 0.12)
    image[:] = wall
    for _ in range(int(rng.integers(1, 4))):  # cupboards, doors
        x, w = rng.uniform(-0.2, 1), rng.uniform(0.1, 0.4)
        top = rng.uniform(-0.2, 0.5)
        colour = wall * _tint(rng, 0.3, 1.4, 0.15)
        cv2.rectangle(image, (int(x * GROUND), int(top * GROUND)), (int((x + w) * GROUND), GROUND), colour.tolist(), -1)

    if rng.random() < 0.45:  # shelves of books
        for shelf in np.arange(rng.uniform(0, 0.15), 1, rng.uniform(0.16, 0.26)):
            x = rng.uniform(-0.1, 0.4)
            while x < 1:
                w, h = rng.uniform(0.015, 0.05), rng.uniform(0.09, 0.16)
                box = (
                    (int(x * GROUND), int((shelf + 0.17 - h) * GROUND)),
                    (int((x + w) * GROUND), int((shelf + 0.17) * GROUND)),
                )
                cv2.rectangle(image, *box, _tint(rng, 0.03, 0.35, 0.35).tolist(), -1)
                x += w

    if rng.random() < 0.6:  # a window
        x, w = rng.choice([rng.uniform(-0.1, 0.15), rng.uniform(0.65, 0.9)]), rng.uniform(0.2, 0.35)
        box = (int(x * GROUND), int(0.02 * GROUND)), (int((x + w) * GROUND), int(rng.uniform(0.45, 0.75) * GROUND))
        cv2.rectangle(image, *box, (np.array([0.95, 1, 1.05]) * rng.uniform(0.8, 1.7)).tolist(), -1)
        cv2.line(image, (int((x + w / 2) * GROUND), 0), (int((x + w / 2) * GROUND), box[1][1]), wall.tolist(), 2)
    return _blur(image, rng.uniform(0.03, 0.07))


def _leaves(rng: np.random.Generator, image: np.ndarray, count: int, low: float, high: float, tone: np.ndarray) -> None:
    for _ in range(count):
        at = int(rng.uniform(0, GROUND)), int(rng.uniform(low, high) * GROUND)
        colour = tone * np.exp(rng.normal(0, 0.6)) * np.exp(rng.normal(0, 0.12, 3))
        cv2.circle(image, at, max(1, int(GROUND * rng.uniform(0.008, 0.045))), colour.tolist(), -1)


def _garden(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    sky = np.array([0.62, 0.78, 0.98]) * rng.uniform(0.7, 1.2) * (1 - 0.25 * y) + 0 * x
    image = np.ascontiguousarray(sky, dtype=np.float32)
    horizon = rng.uniform(-0.15, 0.5)
    green = np.array([0.10, 0.17, 0.045]) * np.exp(rng.normal(0, 0.3)) * np.exp(rng.normal(0, 0.12, 3))
    cv2.rectangle(image, (0, int(horizon * GROUND)), (GROUND, GROUND), (green * 0.7).tolist(), -1)
    _leaves(rng, image, 260, horizon - 0.12, 0.85, green)
    _leaves(rng, image, 50, horizon - 0.1, 0.6, green * 3)
    if rng.random() < 0.5:
        grass = np.array([0.2, 0.27, 0.08]) * np.exp(rng.normal(0, 0.25))
        cv2.rectangle(image, (0, int(rng.uniform(0.6, 0.9) * GROUND)), (GROUND, GROUND), grass.tolist(), -1)
    return _blur(image, rng.uniform(0.025, 0.06))


def _street(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    image = np.ascontiguousarray(np.array([0.75, 0.83, 0.95]) * rng.uniform(0.7, 1.1) + 0 * (x + y), dtype=np.float32)

    # houses with windows
    left = -0.1
    while left < 1:
        w, top = rng.uniform(0.12, 0.35), rng.uniform(-0.3, 0.45)
        wall = _tint(rng, 0.08, 0.5, 0.14)
        cv2.rectangle(
            image, (int(left * GROUND), int(top * GROUND)), (int((left + w) * GROUND), GROUND), wall.tolist(), -1
        )
        for row in np.arange(top + 0.05, 1, 0.11):  # windows
            for column in np.arange(left + 0.03, left + w - 0.04, 0.075):
                box = (
                    (int(column * GROUND), int(row * GROUND)),
                    (int((column + 0.04) * GROUND), int((row + 0.06) * GROUND)),
                )
                cv2.rectangle(image, *box, (wall * rng.choice([0.3, 0.45, 1.5])).tolist(), -1)
        left += w
    road = _tint(rng, 0.1, 0.3, 0.05)
    cv2.rectangle(image, (0, int(rng.uniform(0.7, 0.95) * GROUND)), (GROUND, GROUND), road.tolist(), -1)
    return _blur(image, rng.uniform(0.025, 0.055))


def _dusk(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    image = np.ascontiguousarray(np.array([0.05, 0.055, 0.085]) * (1.3 - 0.6 * y) + 0 * x, dtype=np.float32)
    image = _blur(image * (1 + 0.3 * smooth_noise(rng, GROUND, 6)[..., None]), 0.03)
    lamps = np.zeros_like(image)
    for _ in range(int(rng.integers(10, 30))):
        at = int(rng.uniform(0, GROUND)), int(rng.uniform(0.1, 0.8) * GROUND)
        colour = rng.uniform(0.15, 1.0) * np.array([1, rng.uniform(0.55, 0.9), rng.uniform(0.2, 0.7)])
        cv2.circle(lamps, at, int(GROUND * rng.uniform(0.02, 0.045)), colour.tolist(), -1, cv2.LINE_AA)
    return np.clip(image, 0.005, 1) + cv2.GaussianBlur(lamps, (0, 0), 0.8)


def ground(place: Place, size: int) -> np.ndarray:
    """The background at a size, float32 [size, size, 3], linear."""
    return np.clip(cv2.resize(place.image, (size, size), interpolation=cv2.INTER_CUBIC), 0.002, 2)


def film(light: np.ndarray, knee: float = 0.5) -> np.ndarray:
    """A film curve: straight up to the knee, then bending to 1; sRGB 0..1."""
    rest = 1 - knee
    bent = knee + rest * (1 - np.exp(-(np.maximum(light, knee) - knee) / rest))
    return srgb(np.where(light < knee, light, bent))


def develop(light: np.ndarray, view: View, met: float, grain: float | None = None) -> np.ndarray:
    """Linear light -> the bytes of a photograph: exposure on the person, white balance, film, soft focus, grain.

    Args:
        light: [S, S, 3].
        met: how bright a white face would be: the camera meters the light, not the skin.
        grain: deviation of the sensor's noise, of full white; by default the camera's own.
    """
    rng = np.random.default_rng([view.camera, 1])
    gain = (0.70 / max(met, 0.05)) ** 0.8 * 2 ** rng.normal(0, 0.18)
    picture = film(light * (gain * np.exp(rng.normal(0, 0.025, 3))).astype(np.float32), 0.45)
    contrast = rng.uniform(0.0, 0.25)
    picture = picture + contrast * (picture * picture * (3 - 2 * picture) - picture)
    if len(light) >= 200:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.55))
    size = len(light)
    rng = np.random.default_rng([view.camera, 2, abs(int(view.yaw * 1e4))])
    level = np.float32(rng.uniform(0.002, 0.011) if grain is None else grain / 0.86)
    noise = (
        rng.standard_normal((size, size, 1), np.float32) * 0.7 + rng.standard_normal((size, size, 3), np.float32) * 0.5
    )
    return to_bytes(picture + noise * level)


__all__ = ["Light", "Lights", "Place", "develop", "film", "ground", "lights_of", "place_of", "ramp"]
