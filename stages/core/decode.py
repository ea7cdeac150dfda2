"""Picture files from anywhere -> uint8 sRGB: the one place where such a file is opened, judged and decoded.

The header is judged first: kind of file (a short list, each parser being a way in), size, frames. Then decoded whole or
refused: libjpeg and cv2 fill up what a broken download lacks with grey and say nothing. Looks are kept: EXIF turn,
colour profile, 16 bits and transparency count. OpenCV decodes the ordinary JPEG and PNG (0.35 to 0.9 of
Pillow's CPU time, equal pixels), Pillow the rest.
"""

from __future__ import annotations

import io as memory
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.settings import TristyleError

MAX_PIXELS = 64_000_000  # refused by the header, before anything is decoded
MAX_BYTES = 512 * 1024**2  # of a file; 64 million pixels of 16 bits are 384 million bytes
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
WHITE = (255, 255, 255)

_KINDS = {"PNG": (".png", ".apng"), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "WEBP": (".webp",)}
_KINDS |= {"BMP": (".bmp", ".dib"), "GIF": (".gif",), "TIFF": (".tif", ".tiff")}
_OTHERS = {  # first bytes, lower case -> what is not read
    (b"<svg", b"<?xml"): "a vector drawing",
    (b"ii*\0", b"mm\0*", b"ii+\0", b"mm\0+"): "TIFF",
    (b"8bps",): "a Photoshop document",
    (b"%!ps", b"\xc5\xd0\xd3\xc6", b"%pdf"): "PostScript or PDF",
    (b"\xff\x0a", b"\0\0\0\x0cjxl ", b"\0\0\0\x0cjp  ", b"\xff\x4f\xff\x51"): "JPEG XL or JPEG 2000",
}
_STARTS = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM")
_END = b"\xff\xd9"  # JPEG's end marker
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_opening = threading.Lock()


class ImageError(TristyleError):
    """A picture that cannot be used; the message names the file, the reason and the remedy."""


@dataclass(frozen=True)
class DecodedImage:
    """A picture as it looks.

    Attributes:
        pixels: uint8 sRGB [H, W, 3].
        notes: what was accepted but should be known, a phrase each.
        frames: 1, or of an animation how many there are; the pixels are those of the first.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()
    frames: int = 1


def read(path: Path | str, background: Sequence[int] = WHITE, formats: Sequence[str] = FORMATS) -> DecodedImage:
    """Read a picture file; arguments and errors as of `decode` and `file_bytes`."""
    return decode(file_bytes(path), path, background, formats)


def file_bytes(path: Path | str) -> bytes:
    """All bytes of a regular file.

    Raises:
        ImageError: missing, a folder, a pipe (opening one would block), not permitted, empty or over MAX_BYTES.
    """
    path = Path(path)
    try:
        if not path.is_file():
            if not path.exists():
                missing = "a link to nothing" if path.is_symlink() else "no such file"
                raise ImageError(f"{shown(path)}: {missing}. Check the path.")
            raise ImageError(f"{shown(path)}: not a regular file. Give a picture.")

        if (size := path.stat().st_size) > MAX_BYTES:
            raise ImageError(
                f"{shown(path)}: {size / 1024**2:.0f} MiB; at most {MAX_BYTES // 1024**2} are read. Shrink it."
            )
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{shown(path)}: cannot be read ({error.strerror}). Check its permissions.") from None
    if not data:
        raise ImageError(f"{shown(path)}: an empty file. Copy or download it again.")
    return data


def decode(
    data: bytes, path: Path | str, background: Sequence[int] = WHITE, formats: Sequence[str] = FORMATS
) -> DecodedImage:
    """A file's bytes -> the picture as it looks, first frame of an animation.

    EXIF orientation is applied, a colour profile turned into sRGB, CMYK and grey into RGB, 16 bits scaled to 8, and
    what is transparent laid on `background` (RGB, 0..255). The bytes decide the format, not the name.

    Args:
        data: the file's bytes.
        path: for the messages.
        background: RGB behind what is transparent, 0..255.
        formats: Pillow's names of those that are read.

    Raises:
        ImageError: not a picture, another format, broken, cut, or more than MAX_PIXELS pixels.
    """
    path = Path(path)
    with _judging(data, path):
        return _decoded(data, _sized(data, path, formats), path, background)


def stored_values(data: bytes, path: Path | str) -> tuple[np.ndarray | None, bool]:
    """A picture's values as stored if there is one a pixel, [H, W], else None; and whether they stand for colours.

    A mask's labels are these values, not its colours. EXIF is not obeyed: no camera writes masks. Errors as of
    `decode`.
    """
    with _judging(data, Path(path)):
        opened = _sized(data, Path(path), FORMATS)
        palette = opened.mode == "P"
        if opened.mode not in ("P", "L", "1"):
            return None, palette
        return np.array(_verified(data, opened)), palette


@contextmanager
def _judging(data: bytes, path: Path) -> Iterator[None]:
    """Whatever Pillow raises for broken files, a dozen types with SyntaxError among them, as an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{shown(path)}: {why_unreadable(data, error)}") from None


def _sized(data: bytes, path: Path, formats: Sequence[str]) -> Any:
    opened = _open(data, formats)
    width, height = opened.size
    if width * height > MAX_PIXELS:
        most = MAX_PIXELS // 1_000_000
        raise ImageError(f"{shown(path)}: {width}x{height} pixels; at most {most} million are read. Shrink it.")
    return opened


def shown(path: Path | str) -> str:
    """A path as it stands in a message of one line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(path))


def why_unreadable(data: bytes, error: Exception) -> str:
    """Say what bytes are that do not open as a picture, and the remedy; a saved error page is usual."""
    head = data[:64].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return "a web page, not a picture (did the download fail?). Download it again."
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif", b"hevc"):
        return "HEIC or AVIF, which is not read here. Convert it to JPEG or PNG."
    for starts, what in _OTHERS.items():
        if head.startswith(starts) and "cannot identify" in str(error):
            return f"{what}, which is not read here. Convert it to JPEG or PNG."

    # Something that begins as a picture does: the decoder's own reason, in plain words where we know them.
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "cannot identify" in reason and not data.startswith(_STARTS):
        return "not a picture. Give a PNG, JPEG or WebP."
    if "cannot identify" in reason:
        reason = "its header makes no sense"
    if "ecompressed data too large" in reason:
        return "its text unpacks to far more than a picture's (a decompression bomb). Remove it."
    return f"a broken picture ({reason.rstrip('.')}). Copy or download it again."


# ------------------------------------------------------------------------------------------------------- decoding


def _open(data: bytes, formats: Sequence[str]) -> Any:
    """The header, by Pillow; its own limit of pixels is set aside, which is higher and says less."""
    from PIL import Image

    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(memory.BytesIO(data), formats=tuple(formats))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decoded(data: bytes, opened: Any, path: Path, background: Sequence[int]) -> DecodedImage:
    notes = []
    kind = "JPEG" if opened.format == "MPO" else opened.format  # a phone's JPEG with a second picture behind the first
    frames = opened.n_frames if kind in ("GIF", "PNG", "WEBP") else 1
    if path.suffix and path.suffix.lower() not in _KINDS[kind]:
        notes.append(f"a {kind} file under a name that ends in {path.suffix}")
    if frames > 1:
        notes.append(f"animated, {frames} frames; the first is used")

    # What is missing, and what changes the look: end marker, profile, turn.
    opened = _verified(data, opened)
    whole = kind != "JPEG" or _has_end(data)
    profile = opened.info.get("icc_profile")
    transform, fault = _transform(profile, _profiled(opened.mode)) if profile else (None, "")
    if fault:
        notes.append(fault)
    turn = _orientation(opened, data)

    # OpenCV decodes what needs no care; Pillow the rest.
    plain = opened.mode in ("RGB", "L") and "transparency" not in opened.info and frames == 1 and transform is None
    pixels = _fast(data) if plain and whole and kind in ("JPEG", "PNG") else None
    if pixels is None:
        try:
            opened.load()
        except OSError:
            if whole or not (opened := _completed(data)):
                raise
            notes.append("its last bytes are missing; all of the picture is there")
        pixels = _pixels(opened, transform, background)
    return DecodedImage(np.ascontiguousarray(_turned(pixels, turn)), tuple(notes), frames)


def _verified(data: bytes, opened: Any) -> Any:
    """The picture opened anew, where Pillow would show a PNG without its end or with a wrong checksum."""
    if opened.format != "PNG":
        return opened
    opened.verify()
    if _PNG_END not in data:
        raise OSError("its end is missing")
    return _open(data, ("PNG",))


def _fast(data: bytes) -> np.ndarray | None:
    """A plain JPEG or PNG -> uint8 RGB [H, W, 3] as stored; None where OpenCV refuses."""
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image))


def _has_end(data: bytes) -> bool:
    """Whether a JPEG's end marker follows its first scan; that of a thumbnail, before it, is not its own."""
    place = 2
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker == b"\xda":
            return _END in data[place:]
        place += 1 if marker == b"\xff" else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _completed(data: bytes) -> Any:
    """A loaded JPEG that lacks its end marker alone, else None: bytes put after its last one must not change a pixel.

    If a part of a scan were missing, those bytes would be read as that part. Whole missing scans show by the others.
    """
    body = data.rstrip(b"\xff")
    junk = b"\x5a\xc3\x1d\xa7\xb4\x2e" * 16
    restarts = [bytes((0xFF, marker)) + junk for marker in range(0xD0, 0xD8)]
    tails = (b"", junk, b"".join(restarts), b"".join(restarts[4:] + restarts[:4]))  # whichever of the eight is next
    loaded = [_open(body + tail + _END, ("JPEG",)) for tail in tails]
    shown = [np.asarray(opened) for opened in loaded]
    same = all(np.array_equal(shown[0], other) for other in shown[1:])
    return loaded[0] if same and _refined(body) else None


def _refined(data: bytes) -> bool:
    """Whether the scans of a JPEG bring all coefficients of all components to their last bit (ITU T.81, B.2.3, G)."""
    last: set[tuple[int, int]] = set()
    place, components, progressive = 2, 0, False
    while found := re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]").search(data, place):
        marker, place = found.group()[1], found.end()
        size = int.from_bytes(data[place : place + 2], "big")
        content = data[place + 2 : place + size]
        place += size
        if 0xC0 <= marker <= 0xC2:
            progressive, components = marker == 0xC2, content[5]
        if marker == 0xDA:
            *names, first, end, bits = content[1 : 1 + 2 * content[0] : 2] + content[-3:]
            last |= {(name, step) for name in names for step in range(first, end + 1) if not bits & 15}
    return len(last) == 64 * components or not progressive and len({name for name, _ in last}) == components


def _pixels(opened: Any, transform: Any, background: Sequence[int]) -> np.ndarray:
    """A loaded picture of any of Pillow's modes -> uint8 sRGB [H, W, 3] as stored, not turned."""
    if opened.mode in _DEEP:
        grey = np.asarray(opened).astype(np.float32)
        scale = 255.0 if opened.mode == "F" and grey.max(initial=0.0) <= 1.0 else 255.0 / 65535.0
        return np.repeat(np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    clear = opened.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in opened.info
    alpha = np.asarray(opened.convert("RGBA"))[..., 3:] if clear else None
    colours = opened.convert(_profiled(opened.mode))
    if transform is not None:
        colours = transform.apply(colours)
    pixels = np.array(colours.convert("RGB"))
    if alpha is None:
        return pixels
    covered = alpha.astype(np.uint32)
    ground = np.asarray(background, np.uint32)
    return ((pixels * covered + ground * (255 - covered) + 127) // 255).astype(np.uint8)


def _orientation(opened: Any, data: bytes) -> int:
    """The EXIF turn, 1..8; 1 where there is none, or one that means nothing."""
    if opened.format == "PNG" and not any(mark in data for mark in (b"eXIf", b"Raw profile type", b"com.adobe.xmp")):
        return 1  # Pillow would decode all of it to look behind the pixels
    try:
        return int(opened.getexif().get(0x0112, 1))
    except Exception:  # broken EXIF, of which there is much: a dozen types
        return 1


def _turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """[H, W, 3] upright, by the EXIF orientation (Exif 2.3, table of tag 0x0112)."""
    if turn in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if turn in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if turn in (5, 6, 7, 8) else pixels


# --------------------------------------------------------------------------------------------------------- colour


def _profiled(mode: str) -> str:
    """The mode in which a colour profile is applied to a picture of Pillow's `mode`."""
    return mode if mode in ("L", "CMYK") else "RGB"


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> tuple[Any, str]:
    """LittleCMS's transform of a profile's colours to sRGB and "", or None and why the profile is left aside.

    None and "" where it would change next to nothing: most cameras' pictures say that they are sRGB.
    """
    from PIL import Image, ImageCms

    try:
        embedded = ImageCms.ImageCmsProfile(memory.BytesIO(profile))
        transform = ImageCms.buildTransform(embedded, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None, "its colour profile is broken or of another kind of colour, and was ignored"
    if mode != "CMYK":
        ramp = np.linspace(0, 255, 9).astype(np.uint8)
        probe = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(27, 27, 3)
        shown = Image.fromarray(probe if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
        change = np.asarray(transform.apply(shown)).astype(int) - np.asarray(shown.convert("RGB"))
        if np.abs(change).max() <= 2:
            return None, ""
    return transform, ""
