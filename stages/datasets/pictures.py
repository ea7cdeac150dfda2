"""Pictures of any size and format as the pipeline wants them: upright, whole, square, their head mask beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.core import decode
from stages.core.decode import WHITE, ImageError


def read_square(
    path: Path,
    mask_path: Path | None,
    size: int,
    labels: Sequence[int] | None = None,
    background: Sequence[int] = WHITE,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A photo and its head mask, if one is given, cut to their centre square: uint8 [size, size, 3] and [size, size].

    Args:
        path: the photo.
        mask_path: its head mask; None for none.
        size: side of the square, px.
        labels: the values of a label mask that are head, see `read_mask`.
        background: RGB behind what is transparent.

    Raises:
        ImageError: unreadable, under half of `size`, or a mask of another shape; names file, reason and remedy.
    """
    return squared(decode.read(path, background).pixels, path, mask_path, size, labels)


def squared(
    photo: np.ndarray, path: Path, mask_path: Path | None, size: int, labels: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """`read_square` of a photo that has been read from `path` already, uint8 [H, W, 3]."""
    height, width = photo.shape[:2]
    if min(height, width) < size // 2:
        small = f"{width}x{height} px is under half of data.size={size}"
        raise ImageError(f"{path}: {small}. Give a larger picture, or a smaller data.size.")
    if mask_path is None:
        return square(photo, size), None
    return square(photo, size), square(_mask_of(photo, mask_path, labels), size)


def fitting_mask(photo: np.ndarray, path: Path, labels: Sequence[int] | None = None) -> np.ndarray:
    """`read_mask`, brought to the size of its photo [H, W, 3].

    Raises:
        ImageError: also for a mask of another shape.
    """
    import cv2

    mask = _mask_of(photo, path, labels)
    height, width = photo.shape[:2]
    if mask.shape == (height, width):
        return mask
    method = cv2.INTER_AREA if mask.shape[0] > height else cv2.INTER_LINEAR
    return cv2.resize(mask, (width, height), interpolation=method)


def _mask_of(photo: np.ndarray, path: Path, labels: Sequence[int] | None) -> np.ndarray:
    mask = read_mask(path, labels)
    height, width = photo.shape[:2]
    if abs(mask.shape[1] / mask.shape[0] - width / height) > 0.02:
        shapes = f"{mask.shape[1]}x{mask.shape[0]} on a picture of {width}x{height}"
        raise ImageError(f"{path}: the mask's shape is not its picture's ({shapes}). Mend or remove it.")
    return mask


def read_whole(path: Path) -> np.ndarray:
    """A picture as it looks, uint8 sRGB [H, W, 3]; errors as of `decode.read`."""
    return decode.read(path).pixels


def read_mask(path: Path, labels: Sequence[int] | None = None) -> np.ndarray:
    """Head mask -> uint8 [H, W], 255 = head.

    With `labels` the stored values are compared with them. Without: every value but 0 of a palette or 0/1 mask is head,
    an 8-bit or colour mask is coverage by its brightness.

    Raises:
        ImageError: names file, reason and remedy; an empty mask too.
    """
    data = decode.file_bytes(path)
    stored, palette = decode.stored_values(data, path)
    if stored is None:
        image = decode.decode(data, path).pixels
        stored = (
            image[..., 0] if labels is not None else np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])
        )
    if labels is not None:
        mask = np.isin(stored, labels).astype(np.uint8) * 255
    elif palette or stored.max(initial=0) <= 1:
        mask = (stored > 0).astype(np.uint8) * 255
    else:
        mask = stored

    if mask.max(initial=0) < 128:
        none = "the mask shows no head" if labels is None else "the mask holds none of data.mask_labels"
        raise ImageError(f"{path}: {none}. Mend or remove it.")
    return mask


def square(image: np.ndarray, size: int) -> np.ndarray:
    """Centre square of uint8 [H, W] or [H, W, 3], brought to [size, size] by area averaging (cubic when enlarging)."""
    import cv2

    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    cut = np.ascontiguousarray(image[top : top + side, left : left + side])
    return cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC)


def edge_blurred(images: np.ndarray) -> np.ndarray:
    """Pictures whose edges are softened, uint8 [N, H, W, 3]: negatives of edge promotion (CartoonGAN, section 3.2.1).

    Canny edges (100, 200), dilated; there a Gaussian blur takes the picture's place. Both reach 5 px at 256 px, in
    proportion at other sizes (3 px at least).
    """
    import cv2

    reach = max(3, 2 * round(5 * images.shape[1] / 512) + 1)
    around = np.ones((reach, reach), np.uint8)
    blurred = np.empty_like(images)
    for picture, out in zip(images, blurred, strict=True):
        edges = cv2.dilate(cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 100, 200), around)
        out[:] = np.where(edges[..., None] > 0, cv2.GaussianBlur(picture, (reach, reach), 0), picture)
    return blurred


def mask_place(folder: str) -> str:
    """Folder of the masks that belong to a folder of pictures."""
    return folder.replace("style/", "style_mask/", 1) if "style/" in folder else folder.replace("photo", "mask", 1)
