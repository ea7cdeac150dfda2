"""The mark that a file is synthetic and which model made it: written into pictures and videos, and read back.

It is XMP with three properties of the IPTC Photo Metadata Standard 2025.1: DigitalSourceType (trained algorithmic
media), AISystemUsed (tristyle) and AISystemVersionUsed (the sha256 of the model file). PNG keeps it in an iTXt chunk,
JPEG in an APP1 segment, WebP in its XMP chunk, MP4 and MOV in a `uuid` box at the end (XMP specification, part 3).
Nothing else is written: no EXIF, so the place where a photo was taken does not leak.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.settings import TristyleError

if TYPE_CHECKING:
    import numpy as np

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPE = SOURCE_TYPES + "trainedAlgorithmicMedia"
SYNTHETIC = (  # IPTC's terms for what a trained model made, wholly or in part
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "compositeSynthetic",
    "algorithmicMedia",
)
SYSTEM = "tristyle"
XMP_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov")
LONGEST_XMP = 1 << 20  # bytes


@dataclass(frozen=True)
class Mark:
    """What a file says of its origin; "" where it does not say.

    Attributes:
        source: IPTC's term for it.
        system: the system that made it.
        version: that system's version, here `sha256:...` of the model file.
    """

    source: str
    system: str = ""
    version: str = ""

    @property
    def synthetic(self) -> bool:
        """Whether the term means that a model made it."""
        return self.source in SYNTHETIC


def xmp(digest: str = "") -> bytes:
    """The XMP packet of a file.

    Args:
        digest: sha256 of the model file, in hex; "" leaves it out.
    """
    version = f'\n Iptc4xmpExt:AISystemVersionUsed="sha256:{digest}"' if digest else ""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"
 Iptc4xmpExt:AISystemUsed="{SYSTEM}"{version}/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def encode_marked(image: np.ndarray, suffix: str, digest: str | None = "") -> bytes:
    """Encode a picture with the mark in it.

    Args:
        image: uint8 [H, W, 3] or, with transparency, [H, W, 4].
        suffix: .png, .webp, .jpg or .jpeg.
        digest: see `xmp`; None: no mark, for a photo that was left as it is.

    Returns:
        The bytes of the file.
    """
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    # Compression 3: 6 takes twice the time for 5 % fewer bytes.
    picture, buffer, packet = Image.fromarray(image), io.BytesIO(), b"" if digest is None else xmp(digest)
    if suffix == ".png":
        marks = PngInfo()
        if packet:
            marks.add_itxt("XML:com.adobe.xmp", packet.decode())
            marks.add_text("DigitalSourceType", SOURCE_TYPE)
        picture.save(buffer, "PNG", pnginfo=marks, compress_level=3)
    elif suffix == ".webp":
        picture.save(buffer, "WEBP", quality=95, xmp=packet)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0, xmp=packet)
    return buffer.getvalue()


def write_marked(path: Path, image: np.ndarray, digest: str | None = "") -> None:
    """Write a marked PNG, JPEG or WebP, atomically.

    Args:
        path: the file; its suffix decides the kind.
        image: uint8 [H, W, 3] or [H, W, 4].
        digest: see `encode_marked`.

    Raises:
        TristyleError: the place cannot be written.
    """
    from stages.core.files import write_bytes

    try:
        write_bytes(path, encode_marked(image, path.suffix.lower(), digest))
    except OSError as error:
        raise TristyleError(f"{path}: cannot be written ({error.strerror}). Choose another place for -o.") from None


def mark_video(path: Path, digest: str) -> None:
    """Append the mark to a finished MP4 or MOV file."""
    payload = XMP_BOX + xmp(digest)
    with open(path, "ab") as file:
        file.write((8 + len(payload)).to_bytes(4, "big") + b"uuid" + payload)


def read_mark(path: Path) -> Mark | None:
    """What a picture or video says of its origin; None where it says nothing.

    Raises:
        TristyleError: no such file, or neither a picture nor a video of a kind that is read here.
    """
    packet = _video_xmp(path) if _is_video(path) else _picture_xmp(path)
    text = packet.decode("utf-8", "replace")

    def value(name: str) -> str:  # as an attribute or as an element: editors rewrite one into the other
        found = re.search(rf":{name}\s*(?:=\s*[\"']|>)\s*([^\"'<>]*?)\s*[\"'<]", text)
        return found.group(1) if found else ""

    source = value("DigitalSourceType")
    if not source:
        return None
    return Mark(source.rsplit("/", 1)[-1], value("AISystemUsed"), value("AISystemVersionUsed"))


def _is_video(path: Path) -> bool:
    """Whether a file starts like MP4 or MOV. Raises TristyleError where it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise TristyleError(f"{path}: not a regular file. Give a picture or a video.")
        with open(path, "rb") as file:
            return file.read(12)[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    except FileNotFoundError:
        raise TristyleError(f"{path}: no such file. Check the path.") from None
    except OSError as error:
        raise TristyleError(f"{path}: cannot be read ({error.strerror}). Give a picture or a video.") from None


def _picture_xmp(path: Path) -> bytes:
    """The XMP packet of a picture, b"" where it has none. Raises TristyleError where it is not a picture."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            info: dict[Any, Any] = dict(image.info)
    except Exception as error:  # Pillow raises a dozen types for broken files
        reason = "not a picture" if "cannot identify" in str(error) else str(error).splitlines()[0]
        raise TristyleError(f"{path}: {reason}. Marks are read from PNG, JPEG, WebP, MP4 and MOV.") from None

    # A bare term, as some programs write it, is wrapped so that `read_mark` finds it.
    found = info.get("xmp") or info.get("XML:com.adobe.xmp") or info.get("DigitalSourceType") or b""
    packet = found if isinstance(found, bytes) else str(found).encode()
    return packet if b":" in packet and b"<" in packet else b' x:DigitalSourceType="' + packet + b'"'


def _video_xmp(path: Path) -> bytes:
    """The payload of the last top-level XMP box of an MP4 or MOV file; of other boxes only headers are read."""
    packet = b""
    with open(path, "rb") as file:
        end = file.seek(0, 2)
        start = 0
        while start + 8 <= end:
            # A box: 4 bytes of size, 4 of type. Size 1: 8 more bytes hold it. Size 0: it reaches to the end.
            file.seek(start)
            head = file.read(32)
            size, header = int.from_bytes(head[:4], "big"), 8
            if size == 1:
                size, header = int.from_bytes(head[8:16], "big"), 16
            elif size == 0:
                size = end - start
            if size < header:
                break

            if head[4:8] == b"uuid" and head[header : header + 16] == XMP_BOX:
                file.seek(start + header + 16)
                packet = file.read(min(size - header - 16, LONGEST_XMP))
            start += size
    return packet


def verify(paths: list[Path]) -> int:
    """Print what each file says of its origin.

    Returns:
        0 when all say that they are synthetic, else 1.

    Raises:
        TristyleError: as `read_mark`.
    """
    plain = 0
    for path in paths:
        mark = read_mark(path)
        if mark is not None and mark.synthetic:
            by = f", made by {mark.system}" if mark.system else ""
            print(f"{path}: synthetic ({mark.source}){by}{f', model {mark.version}' if mark.version else ''}")
            continue
        plain += 1
        says = f"says that it is {mark.source}" if mark else "carries no mark of being synthetic"
        print(f"{path}: {says}. Marks can be removed: a missing one proves nothing.")
    return 1 if plain else 0
