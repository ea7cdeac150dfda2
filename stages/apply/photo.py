"""Photos from anywhere, as `stylize` wants them: upright, sRGB, 8 bits.

What cannot be used is refused with the reason and the remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.io import IMAGE_SUFFIXES, MAX_PIXELS, ImageError, why_unreadable

if TYPE_CHECKING:
    import numpy as np

LEAST = 16  # px a side
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
READ = "Give a PNG, JPEG, WebP, BMP or TIFF"

__all__ = ["IMAGE_SUFFIXES", "LEAST", "read_photo"]


def read_photo(path: Path) -> np.ndarray:
    """A still picture -> uint8 sRGB [H, W, 3].

    The EXIF orientation is applied, a colour profile (CMYK's too) turned into sRGB, transparency laid on white, 16 bits
    brought to 8. Size and kind are judged by the header, before anything is decoded.

    Raises:
        ImageError: missing, not a picture, broken, animated, under LEAST px a side or over MAX_PIXELS in all; the line
            names file and remedy.
    """
    from PIL import Image

    if not path.exists():
        raise ImageError(f"{path}: no such file. Check the path.")
    if not path.is_file():  # a pipe or a device: opening some of these would block
        raise ImageError(f"{path}: not a file. {READ}.")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the check below is ours, and says what to do
    try:
        with Image.open(path, formats=FORMATS) as opened:
            _check(path, opened)
            return _pixels(opened)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises a dozen types for broken files, SyntaxError among them
        raise ImageError(f"{path}: {why_unreadable(path, error)}. {READ} that opens elsewhere.") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check(path: Path, opened: Any) -> None:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        most = MAX_PIXELS // 1_000_000
        raise ImageError(f"{path}: {width}x{height} pixels; at most {most} million are stylised. Shrink it first.")
    if min(width, height) < LEAST:
        raise ImageError(f"{path}: {width}x{height} pixels; nothing can be seen in that. Give {LEAST} px a side.")
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and opened.format in ("GIF", "PNG", "WEBP"):
        raise ImageError(
            f"{path}: animated, {frames} frames. Save one as a picture, or give -o an .mp4 for all of them."
        )


def _pixels(opened: Any) -> np.ndarray:
    import numpy as np
    from PIL import Image, ImageOps

    opened.load()
    profile = opened.info.get("icc_profile")
    upright = ImageOps.exif_transpose(opened)
    if upright.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        grey = np.asarray(upright).astype(np.float32)
        scale = 255.0 if upright.mode == "F" and grey.max(initial=0.0) <= 1.0 else 255.0 / 65535.0
        return np.repeat(np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear).convert("RGB")
    return np.array(_to_srgb(upright, profile).convert("RGB"))


def _to_srgb(image: Any, profile: bytes | None) -> Any:
    """The picture in sRGB; as it is where it has no profile, or one that is broken or of another kind of colour."""
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    import io

    from PIL import ImageCms

    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
