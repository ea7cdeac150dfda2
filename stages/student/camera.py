"""Other cameras: what lens, sensor and file format make of a photograph, one picture at a time, in NumPy and OpenCV.

A camera is drawn from a generator of its own, so that the same picture looks the same in every process and after every
resumption. `develop` changes light and colours, `record` loses detail; the former alone suits what is to stay clean.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHAKE = 7  # px, the longest path of a shaking hand at 128 px


@dataclass(frozen=True)
class OtherCamera:
    """One draw of a camera and its light.

    Attributes:
        tone: float32 [256, 3], the curve of each channel, to [0, 1]: exposure, white balance, contrast.
        mix: float32 [3, 3], saturation and the sensor's colours.
        falloff: brightness lost in the corners, a share.
        slope: (x, y) change of brightness across the picture, in exponents.
        focus: deviation of the blur, shares of the width.
        path: (x, y) of a shaking hand, shares of the width.
        reduced: side of the picture that is stored, a share.
        noise: deviation of the noise at mid grey, of full white.
        coarse: whether the noise is as coarse as the reduced picture.
        sharpened: strength of the sharpening in the camera.
        quality: of the JPEG; 0 for none.
    """

    tone: np.ndarray
    mix: np.ndarray
    falloff: float
    slope: tuple[float, float]
    focus: float
    path: tuple[float, float]
    reduced: float
    noise: float
    coarse: bool
    sharpened: float
    quality: int


def draw_camera(rng: np.random.Generator) -> OtherCamera:
    """A camera as strangers hold them: most are decent, some are bad in one way, few in many."""
    warm, tint = np.exp(rng.normal(0, 0.07)), np.exp(rng.normal(0, 0.03))
    balance = np.array([warm, tint, 1 / warm]) * 2 ** float(np.clip(rng.normal(0, 0.45), -1.2, 1.1))
    light = np.linspace(0, 1, 256)[:, None] ** 2.2 * balance
    bent = np.clip(light, 0, 1) if rng.random() < 0.5 else 1 - np.exp(-light * 1.25)  # burnt-out lights, or a film's
    curve = np.clip(bent, 0, 1) ** (np.exp(rng.normal(0, 0.14)) / 2.2)
    curve = curve + float(np.clip(rng.normal(0.05, 0.25), -0.4, 0.6)) * curve * (1 - curve) * (2 * curve - 1) * 2
    black = max(0.0, float(rng.normal(0, 0.03)))

    # saturation about luma, and a little of every channel in the others
    luma = np.array([0.299, 0.587, 0.114])
    colour = 0.0 if rng.random() < 0.03 else float(np.exp(rng.normal(0, 0.2)))
    mix = colour * (np.eye(3) + rng.normal(0, 0.02, (3, 3))) + (1 - colour) * luma
    side, strength = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.35) * (rng.random() < 0.3)
    angle, length = rng.uniform(0, np.pi), rng.uniform(0.3, 1) * SHAKE / 128 * (rng.random() < 0.1)
    return OtherCamera(
        tone=(black + (1 - black) * np.clip(curve, 0, 1)).astype(np.float32),
        mix=mix.astype(np.float32),
        falloff=float(rng.uniform(0, 0.5)) * (rng.random() < 0.4),
        slope=(float(strength * np.cos(side)), float(strength * np.sin(side))),
        focus=float(rng.uniform(0.002, 0.012)) * (rng.random() < 0.3),
        path=(float(length * np.cos(angle)), float(length * np.sin(angle))),
        reduced=float(rng.uniform(0.25, 0.9)) if rng.random() < 0.35 else 1.0,
        noise=float(rng.exponential(0.018)) * (rng.random() < 0.7),
        coarse=bool(rng.random() < 0.5),
        sharpened=float(rng.uniform(0.3, 1.2)) * (rng.random() < 0.2),
        quality=int(rng.integers(18, 95)) if rng.random() < 0.55 else 0,
    )


def develop(camera: OtherCamera, picture: np.ndarray) -> np.ndarray:
    """Light and colours of a picture uint8 [S, S, 3] as the camera has them: float32 [S, S, 3] in [0, 1]."""
    toned = np.take_along_axis(camera.tone, picture.reshape(-1, 3).astype(np.intp), axis=0).reshape(picture.shape)
    colours = cv2.transform(toned, camera.mix)
    if camera.falloff or any(camera.slope):
        place = np.linspace(-1, 1, len(picture), dtype=np.float32)
        x, y = place[None], place[:, None]
        lens = 1 - np.float32(camera.falloff / 2) * (x * x + y * y)
        side = np.exp(np.float32(camera.slope[0]) * x + np.float32(camera.slope[1]) * y)
        colours = colours * (lens * side)[..., None]
    return np.asarray(np.clip(colours, 0, 1), np.float32)


def record(camera: OtherCamera, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A developed picture as the camera stores it: blurred, reduced, noisy, sharpened, compressed; uint8 [S, S, 3]."""
    size = len(light)
    out = light
    if camera.focus:
        out = cv2.GaussianBlur(out, (0, 0), max(0.3, camera.focus * size))
    if any(camera.path):
        out = cv2.filter2D(out, -1, _path(camera.path[0] * size, camera.path[1] * size), borderType=cv2.BORDER_REFLECT)
    small = max(16, round(camera.reduced * size))
    if small < size:
        out = cv2.resize(out, (small, small), interpolation=cv2.INTER_AREA)
    if not camera.coarse:
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_CUBIC) if small < size else out

    # shot noise is strongest where there is light, and shows most where there is little
    if camera.noise:
        grey = rng.standard_normal((*out.shape[:2], 1), np.float32)
        noise = 0.75 * grey + 0.5 * rng.standard_normal(out.shape, np.float32)
        level = out.mean(axis=2, keepdims=True).clip(0.02, 1) ** np.float32(0.3)
        out = out + np.float32(1.2 * camera.noise) * noise * level
    if camera.coarse and small < size:
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_CUBIC)
    if camera.sharpened:
        out = out + np.float32(camera.sharpened) * (out - cv2.GaussianBlur(out, (0, 0), max(0.6, size / 180)))
    stored = np.asarray(np.clip(out * 255 + 0.5, 0, 255), np.uint8)
    return jpeg(stored, camera.quality) if camera.quality else stored


def _path(x: float, y: float) -> np.ndarray:
    """The kernel of a straight path of (x, y) px: float32 [k, k] of sum 1."""
    side = 2 * int(np.ceil(max(abs(x), abs(y)) / 2)) + 1
    kernel, middle = np.zeros((side, side), np.float32), side // 2
    ends = [(round((middle - x * k / 2) * 16), round((middle - y * k / 2) * 16)) for k in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_AA, 4)
    return kernel / max(float(kernel.sum()), 1e-6) if kernel.any() else np.ones((1, 1), np.float32)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] as a JPEG of that quality (1..100) leaves it."""
    _, file = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1])
