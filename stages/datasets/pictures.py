"""Pictures of any size and format as the pipeline wants them: upright, whole, square, their head mask beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages import io


def read_square(
    path: Path, mask_path: Path | None, size: int, labels: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """A photo and its head mask, if one is given, cut to their centre square: uint8 [size, size, 3] and [size, size].

    Args:
        labels: the values of a label mask that are head, see `read_mask`.

    Raises:
        ImageError: unreadable, under half of `size`, or a mask of another shape; names file and reason.
    """
    if not path.is_file():  # a folder, a pipe, a dangling link: opening some of these would block
        raise io.ImageError(f"{path}: not a regular file")
    photo = read_whole(path)
    height, width = photo.shape[:2]
    if min(height, width) < size // 2:
        raise io.ImageError(f"{path}: {width}x{height} px is under half of data.size={size}")
    if mask_path is None:
        return square(photo, size), None
    mask = read_mask(mask_path, labels)
    if abs(mask.shape[1] / mask.shape[0] - width / height) > 0.02:
        shapes = f"{mask.shape[1]}x{mask.shape[0]} on a picture of {width}x{height}"
        raise io.ImageError(f"{mask_path}: the mask's shape is not its picture's ({shapes})")
    return square(photo, size), square(mask, size)


def read_whole(path: Path) -> np.ndarray:
    """`io.read_image`, refusing also a PNG whose end or a checksum is missing (its pixels may still decode).

    Raises:
        ImageError: names file and reason.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.format == "PNG":
                opened.verify()
    except Image.DecompressionBombError:
        raise io.ImageError(f"{path}: too many pixels for a picture. Shrink it.") from None
    except Exception as error:
        raise io.ImageError(f"{path}: {io.why_unreadable(path, error)}") from None
    return io.read_image(path)


def read_mask(path: Path, labels: Sequence[int] | None = None) -> np.ndarray:
    """Head mask -> uint8 [H, W], 255 = head.

    With `labels` the stored values are compared with them. Without: every value but 0 of a palette or 0/1 mask is head,
    an 8-bit or colour mask is coverage by its brightness.

    Raises:
        ImageError: names file and reason; an empty mask too.
    """
    from PIL import Image

    if not path.is_file():
        raise io.ImageError(f"{path}: not a regular file")
    image = read_whole(path)
    with Image.open(path) as opened:
        # Stored values, not colours, tell the labels of a palette mask; a mask carries no EXIF turn worth obeying.
        stored = np.array(opened) if opened.mode in ("P", "L", "1") else None
    if labels is not None:
        values = stored if stored is not None else image[..., 0]
        mask = np.isin(values, labels).astype(np.uint8) * 255
    elif stored is not None and (opened.mode == "P" or stored.max(initial=0) <= 1):
        mask = (stored > 0).astype(np.uint8) * 255
    else:
        mask = image.max(axis=2)
    if mask.max(initial=0) < 128:
        none = "the mask shows no head" if labels is None else "the mask holds none of data.mask_labels"
        raise io.ImageError(f"{path}: {none}")
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
