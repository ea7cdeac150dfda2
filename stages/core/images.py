"""Pictures on disk: uint8 RGB, read as they look, written as PNG."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.core import decode
from stages.core.decode import ImageError
from stages.core.files import write_bytes
from stages.core.mark import marked
from stages.core.workers import in_order

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def read_image(path: Path | str) -> np.ndarray:
    """A picture file as it looks, transparent parts white: uint8 sRGB [H, W, 3]; see `decode.decode`.

    Raises:
        ImageError: names file, reason and remedy.
    """
    return decode.read(path).pixels


def encode_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB or [H, W] -> PNG bytes (level 1: three times faster than level 6, 10 % larger)."""
    try:
        import cv2
    except ModuleNotFoundError:  # a machine that only trains: previews are all it writes
        return _plain_png(image)
    ordered = image[..., ::-1] if image.ndim == 3 else image
    done, data = cv2.imencode(".png", np.ascontiguousarray(ordered), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ImageError(f"cannot encode an array of shape {image.shape} as PNG")
    return data.tobytes()


def _plain_png(image: np.ndarray) -> bytes:
    """PNG (ISO/IEC 15948) of unfiltered rows, by the standard library alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = image.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    rows = np.pad(image.reshape(height, -1), ((0, 0), (1, 0)))  # each begins with its filter: 0, none
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_image(path: Path | str, image: np.ndarray, source: str = "") -> None:
    """Write a PNG. Renamed into place; not fsynced: the manifest, written last, is.

    Args:
        path: the file.
        image: uint8 [H, W, 3] RGB or [H, W].
        source: IPTC's term where the picture is synthetic, which marks it (`stages.core.mark`); "" for all others.
    """
    write_bytes(path, marked(encode_png(image), source), sync=False)


def _read_png(path: Path, colour: bool) -> np.ndarray:
    """Fast path for PNGs that this project wrote itself; anything cv2 refuses goes through `read_image`."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    if image is None:
        image = read_image(path)
        return image if colour else image[..., 0]
    return np.ascontiguousarray(image[..., ::-1]) if colour else image


def load_images(paths: Sequence[Path], workers: int = 1) -> np.ndarray:
    """PNGs of one size -> uint8 [N, H, W, 3].

    Raises:
        ImageError: when a file is unreadable or its size differs from the first one's.
    """
    return _load(paths, True, workers)


class LazyImages:
    """PNGs of one size that are decoded when they are asked for; in memory are the ones at hand alone.

    Args:
        paths: at least one.
        workers: threads that decode.

    Attributes:
        shape: (N, H, W, 3), as the whole array would have it.
    """

    def __init__(self, paths: Sequence[Path], workers: int = 1) -> None:
        self.paths, self.workers = list(paths), workers
        self.shape = (len(self.paths), *load_images(self.paths[:1]).shape[1:])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Pictures by number, int [n] -> uint8 [n, H, W, 3], a new array."""
        if not len(rows):
            return np.empty((0, *self.shape[1:]), np.uint8)
        chosen = load_images([self.paths[row] for row in rows], self.workers)
        if chosen.shape[1:] != self.shape[1:]:
            raise ImageError(f"{self.paths[rows[0]]}: its size differs from {self.paths[0]}. Make the data again.")
        return chosen


def load_masks(paths: Sequence[Path], workers: int = 1) -> np.ndarray:
    """8-bit PNGs of one size -> uint8 [N, H, W] (head coverage, 255 = head)."""
    return _load(paths, False, workers)


def _load(paths: Sequence[Path], colour: bool, workers: int) -> np.ndarray:
    if not paths:
        raise ImageError("no pictures to load; is the artifact's folder empty?")
    first = _read_png(Path(paths[0]), colour)
    out = np.empty((len(paths), *first.shape), np.uint8)

    def fill(index: int) -> None:
        image = _read_png(Path(paths[index]), colour)
        if image.shape != first.shape:
            sizes = f"{image.shape[:2]} differs from {first.shape[:2]} of {paths[0]}"
            raise ImageError(f"{paths[index]}: {sizes}. Run the stage that wrote it again.")
        out[index] = image

    for _ in in_order(fill, range(len(paths)), workers):
        pass
    return out


def grid(images: np.ndarray | Sequence[np.ndarray], columns: int, pad: int = 2) -> np.ndarray:
    """Contact sheet: uint8 [N, H, W, 3] -> [rows*(H+pad)+pad, columns*(W+pad)+pad, 3] on white."""
    height, width = images[0].shape[:2]
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = pad + index // columns * (height + pad), pad + index % columns * (width + pad)
        sheet[top : top + height, left : left + width] = image if image.ndim == 3 else image[..., None]
    return sheet
