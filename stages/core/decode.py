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

from stages.core import colour
from stages.core.faults import quiet_pillow
from stages.core.settings import TristyleError

MAX_PIXELS = 64_000_000  # refused by the header, before anything is decoded
MAX_SCANS = 100  # of a JPEG; encoders write up to 12, and a file of 95 bytes a scan can hold thousands
MAX_SCANNED = 2_000_000_000  # pixels times scans: some seconds
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
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # of JPEG, but those that stand alone within a scan
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
    """Whatever Pillow raises for broken files, a dozen types with SyntaxError among them, as an ImageError.

    What it would print of them is left out.
    """
    try:
        with quiet_pillow:
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
    if opened.format in ("JPEG", "MPO") and (scans := _scans(data)) > min(
        MAX_SCANS, max(12, MAX_SCANNED // (width * height))
    ):
        raise ImageError(f"{shown(path)}: a JPEG of {scans} scans, far more than a camera writes. Save it anew.")
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
    turn = _orientation(opened, data) if kind != "TIFF" else 1  # Pillow turns a TIFF while it loads it

    # OpenCV decodes what needs no care; Pillow the rest.
    meant = _meant(data) if kind == "PNG" else None
    plain = opened.mode in ("RGB", "L") and "transparency" not in opened.info and frames == 1 and transform is None
    plain = plain and meant is None
    pixels = _fast(data) if plain and whole and kind in ("JPEG", "PNG") else None
    if pixels is None:
        try:
            opened.load()
        except OSError:
            if whole or not (opened := _completed(data)):
                raise
            notes.append("its last bytes are missing; all of the picture is there")
        pixels = (
            _pixels(data, opened, transform, background) if meant is None else _shown(data, opened, meant, background)
        )
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


def _scans(data: bytes) -> int:
    """How many scans a JPEG has up to its end."""
    place, count = 2, 0
    while found := _MARKER.search(data, place):
        marker, place = found.group()[1], found.end()
        if marker == 0xD9:
            break
        count += marker == 0xDA
        place += 0 if marker == 0xD8 else int.from_bytes(data[place : place + 2], "big")
    return count


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


def _pixels(data: bytes, opened: Any, transform: Any, background: Sequence[int]) -> np.ndarray:
    """A loaded picture of any of Pillow's modes -> uint8 sRGB [H, W, 3] as stored, not turned."""
    if opened.mode in _DEEP:
        stored = np.asarray(opened)
        grey = np.repeat(_grey(stored, opened)[..., None], 3, axis=2)
        hidden = opened.info.get("transparency") if opened.format == "PNG" else None
        return grey if hidden is None else _laid(grey, np.where(stored[..., None] == hidden, 0, 255), background)
    clear = opened.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in opened.info
    alpha = _alpha(data, opened) if clear else None
    colours = opened.convert(_profiled(opened.mode))
    if transform is not None:
        colours = transform.apply(colours)
    pixels = np.array(colours.convert("RGB"))
    return pixels if alpha is None else _laid(pixels, alpha, background)


def _alpha(data: bytes, opened: Any) -> np.ndarray:
    """How much of each pixel of a loaded picture is covered, uint8 [H, W, 1].

    A PNG names one colour as transparent at its own depth; Pillow compares it with the 8 bits that it made of it.
    """
    depth = data[24] if opened.format == "PNG" else 8
    hidden = opened.info.get("transparency")
    if opened.mode == "L" and depth in (2, 4) and isinstance(hidden, int):
        return np.where(np.asarray(opened)[..., None] == hidden * 255 // (2**depth - 1), 0, 255).astype(np.uint8)
    if opened.mode == "RGB" and depth == 16 and isinstance(hidden, tuple):
        import cv2

        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
        if stored is not None and stored.dtype == np.uint16:
            return np.where((stored[..., ::-1] == hidden).all(axis=2, keepdims=True), 0, 255).astype(np.uint8)
    return np.asarray(opened.convert("RGBA"))[..., 3:]


def _laid(pixels: np.ndarray, alpha: np.ndarray, background: Sequence[int]) -> np.ndarray:
    """uint8 [H, W, 3] with coverage [H, W, 1] of 0..255 on one colour."""
    covered = alpha.astype(np.uint32)
    ground = np.asarray(background, np.uint32)
    return ((pixels * covered + ground * (255 - covered) + 127) // 255).astype(np.uint8)


def _grey(stored: np.ndarray, opened: Any) -> np.ndarray:
    """Grey of more than 8 bits -> uint8 [H, W]. Raises ValueError where nothing says which value is white."""
    tags = getattr(opened, "tag_v2", {})
    bits, sample = (tags.get(tag, (default,)) for tag, default in ((258, 16), (339, 1)))
    depth, kind = bits[0] if isinstance(bits, tuple) else bits, sample[0] if isinstance(sample, tuple) else sample
    least, most = float(stored.min()), float(stored.max())

    # Which value is white.
    if opened.mode == "F":
        if not (np.isfinite(stored).all() and least >= 0 and (most <= 1 or 16 <= most <= 255)):
            raise ValueError(
                f"its numbers go from {least:.3g} to {most:.3g}, which may mean anything; save 8 or 16 bits"
            )
        white = 1.0 if most <= 1 else 255.0
    elif opened.format == "TIFF" and (depth > 16 or kind != 1):
        raise ValueError("it holds numbers of 32 bits or with a sign, which may mean anything; save 8 or 16 bits")
    else:
        white = float((1 << depth) - 1) if opened.format == "TIFF" else 65535.0
    grey: np.ndarray = np.clip(np.rint(stored.astype(np.float32) * (255.0 / white)), 0, 255).astype(np.uint8)
    return np.asarray(255 - grey) if tags.get(262) == 0 else grey  # 0: the least value is white


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


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """What stands before the pixels of a PNG, by its name; the first of each."""
    found: dict[bytes, bytes] = {}
    place = 8
    while place + 8 <= len(data):
        size, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if name == b"IDAT":
            break
        found.setdefault(name, data[place + 8 : place + 8 + size])
        place += size + 12
    return found


def _meant(data: bytes) -> tuple[int | tuple[float, ...], int | float, bool] | None:
    """A PNG's primaries, transfer and whether its range is limited, where they are said and are not sRGB's.

    cICP counts before a profile, that before sRGB, and that before gAMA and cHRM (PNG, third edition, 4.3).
    """
    chunks = _chunks(data)
    if len(said := chunks.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, full = said
        if matrix != 0 or not colour.known(primaries, transfer):
            raise ValueError(f"its colours are coded as {primaries}, {transfer}, {matrix}, which is not read here")
        same = primaries in (1, 2) and transfer in colour.LIKE_SRGB and full
        return None if same else (primaries, colour.SRGB if transfer in colour.LIKE_SRGB else transfer, not full)
    if b"iCCP" in chunks or b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return None

    gamma = int.from_bytes(chunks[b"gAMA"], "big") / 100_000
    numbers = chunks.get(b"cHRM", b"")
    stated = [int.from_bytes(numbers[at : at + 4], "big") / 100_000 for at in range(0, 32, 4)]
    white_first = (*stated[2:], *stated[:2])
    usual = colour.PRIMARIES[colour.BT709]
    wide = (
        len(numbers) == 32 and all(stated) and max(abs(a - b) for a, b in zip(white_first, usual, strict=True)) > 0.01
    )
    if not 0.1 <= gamma <= 10 or (abs(gamma - 0.45455) < 0.02 and not wide):
        return None
    return white_first if wide else colour.BT709, (1 / gamma if abs(gamma - 0.45455) >= 0.02 else colour.SRGB), False


def _shown(data: bytes, opened: Any, meant: tuple[Any, Any, bool], background: Sequence[int]) -> np.ndarray:
    """A loaded PNG whose colours are not sRGB's -> uint8 sRGB [H, W, 3]."""
    import cv2

    primaries, transfer, limited = meant
    stored = None
    if data[24] == 16:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
        stored = None if read is None else np.ascontiguousarray(read[..., ::-1])
    if stored is None:
        stored = np.array(opened.convert("RGB"))
    if limited:
        top = 255 if stored.dtype == np.uint8 else 65535
        low, high = top * 16 / 255, top * 235 / 255
        stored = np.clip((stored - low) * (top / (high - low)), 0, top).round().astype(stored.dtype)

    pixels = colour.to_srgb(stored, primaries, transfer)
    clear = opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
    if not clear:
        return pixels
    if opened.mode in _DEEP:
        hidden = np.asarray(opened)[..., None] == opened.info["transparency"]
        return _laid(pixels, np.where(hidden, 0, 255), background)
    return _laid(pixels, _alpha(data, opened), background)


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
