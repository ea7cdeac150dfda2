"""Picture files as they are found in the wild, made on the spot: every mode, turn and profile, cut, lying, bombs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageCms

# Colorants adapted to D50 (ICC), rows red, green, blue: Display P3 and Adobe RGB (1998).
P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
TURNS = {
    2: [0],
    3: [3],
    4: [1],
    5: [5],
    6: [2],
    7: [6],
    8: [4],
}  # EXIF orientation -> how a camera stores it, by Pillow


def portrait(seed: int = 0, height: int = 96, width: int = 80) -> np.ndarray:
    """A smooth picture whose corners differ, so that a turn shows: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 400, (height, width, 3)), (0, 0), max(height, width) / 12)
    ys, xs = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slope = np.stack([40 + 150 * xs, 30 + 120 * ys, 200 - 90 * xs - 60 * ys], axis=2)
    return np.asarray(np.clip(slope + noise, 0, 255).astype(np.uint8))


def encode(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file of Pillow's format `kind`."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(picture: np.ndarray, turn: int, kind: str, **options: object) -> bytes:
    """What a camera stores that notes the EXIF orientation `turn` for an upright picture."""
    image = Image.fromarray(picture)
    for move in TURNS.get(turn, []):
        image = image.transpose(Image.Transpose(move))
    exif = Image.Exif()
    exif[0x0112] = turn
    return encode(image, kind, exif=exif, **options)


def animated(kind: str, frames: int = 3) -> bytes:
    """An animation whose first frame is `portrait(0)`."""
    rest = [Image.fromarray(portrait(seed)) for seed in range(1, frames)]
    return encode(portrait(0), kind, save_all=True, append_images=rest, duration=100)


def profile(colorants: Sequence[Sequence[float]], gamma: float | None = None) -> bytes:
    """An ICC profile with other colorants (and a pure gamma) than sRGB's."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for number in range(int.from_bytes(data[128:132], "big")):
        name, start, _ = struct.unpack(">4sII", data[132 + 12 * number : 144 + 12 * number])
        tags[name] = start
    for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True):
        data[tags[name] + 8 : tags[name] + 20] = struct.pack(">3i", *(round(value * 65536) for value in values))
    if gamma is not None:  # parametric type 3: (aX + b)^g from d on, cX below
        for name in (b"rTRC", b"gTRC", b"bTRC"):
            values = [round(value * 65536) for value in (gamma, 1, 0, 1, 0)]
            data[tags[name] + 12 : tags[name] + 32] = struct.pack(">5i", *values)
    return bytes(data)


def as_srgb(stored: np.ndarray, colorants: Sequence[Sequence[float]], gamma: float | None = None) -> np.ndarray:
    """What numbers of that colour space look like in sRGB, by IEC 61966-2-1's formulae: float [H, W, 3], 0..255."""
    values = stored / 255.0
    linear = values**gamma if gamma else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    there = np.clip(linear @ np.array(colorants) @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(there <= 0.0031308, 12.92 * there, 1.055 * there ** (1 / 2.4) - 0.055)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, body: bytes, extra: bytes = b"") -> bytes:
    """A PNG with that header; `body` is what its IDAT unpacks to."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    """Small files that claim or unpack to much: rows of one bit, a lying header, text."""
    whole = zlib.compressobj(9)
    rows = b"".join(whole.compress(bytes(2501 * 1000)) for _ in range(20)) + whole.flush()
    ends = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)), chunk(b"IDAT", rows)
    text = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(60_000_000), 9))
    small = portrait(3, 64, 64)
    body = b"".join(b"\0" + row.tobytes() for row in small)
    return {
        "wide.png": b"\x89PNG\r\n\x1a\n" + b"".join(ends) + chunk(b"IEND", b""),
        "lying.png": png(60_000, 60_000, 8, 2, b""),
        "text.png": png(64, 64, 8, 2, body, text),
    }
