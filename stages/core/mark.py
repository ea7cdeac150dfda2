"""The mark that a file is synthetic and which model made it: written into pictures and videos, and read back.

It is XMP with three properties of the IPTC Photo Metadata Standard 2025.1: DigitalSourceType (an IPTC term, such as
trained algorithmic media), AISystemUsed (tristyle) and AISystemVersionUsed (the sha256 of the model file). PNG keeps it
in an iTXt chunk, JPEG in an APP1 segment, WebP in its XMP chunk, MP4 and MOV in a `uuid` box at the end (XMP
specification, part 3). Nothing else is written: no EXIF, so the place where a photo was taken does not leak.
"""

from __future__ import annotations

import io
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.parsers import expat

from stages.core.faults import quiet_pillow
from stages.core.settings import TristyleError

if TYPE_CHECKING:
    import numpy as np

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TRAINED = "trainedAlgorithmicMedia"  # a trained network made it
DRAWN = "algorithmicMedia"  # made by rule
SOURCE_TYPE = SOURCE_TYPES + TRAINED
SYNTHETIC = (TRAINED, "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", DRAWN)
SYSTEM = "tristyle"
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
PNG_XMP = b"XML:com.adobe.xmp"
XMP_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov")
LONGEST_XMP = 1 << 20  # bytes
MOST_PARTS = 1 << 16  # chunks, segments or boxes that are walked through
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


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


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def xmp(digest: str = "", source: str = TRAINED) -> bytes:
    """The XMP packet of a file.

    Args:
        digest: sha256 of the model file, in hex; "" leaves it out.
        source: IPTC's term.
    """
    version = f'\n Iptc4xmpExt:AISystemVersionUsed="sha256:{digest}"' if digest else ""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{IPTC}"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPES}{source}"
 Iptc4xmpExt:AISystemUsed="{SYSTEM}"{version}/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def marked(data: bytes, source: str = TRAINED, digest: str = "") -> bytes:
    """The bytes of a PNG, JPEG or WebP file with the mark in them; its pixels stay as they are.

    Args:
        data: a file as an encoder wrote it, without XMP.
        source: IPTC's term; "" leaves the file as it is.
        digest: see `xmp`.
    """
    packet = xmp(digest, source)
    if not source:
        return data
    if data.startswith(PNG):
        head = len(PNG) + 25  # signature and IHDR
        texts = _chunk(b"iTXt", PNG_XMP + bytes(5) + packet), _chunk(b"tEXt", b"DigitalSourceType\0" + _uri(source))
        return b"".join((data[:head], *texts, data[head:]))
    if data.startswith(JPEG):
        # After JFIF's own segment, which comes first.
        head = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
        part = JPEG_XMP + packet
        return data[:head] + b"\xff\xe1" + (2 + len(part)).to_bytes(2, "big") + part + data[head:]
    return _marked_webp(data, packet)


def _uri(source: str) -> bytes:
    return (SOURCE_TYPES + source).encode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk: length, type, data, CRC-32 of type and data (PNG specification 5.3)."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _marked_webp(data: bytes, packet: bytes) -> bytes:
    """A WebP file in the extended format, with an XMP chunk at its end (RFC 9649, section 2.7)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + len(body).to_bytes(4, "little") + body + bytes(len(body) % 2)

    kind, first, body = data[12:16], data[20:30], data[12:]
    if kind == b"VP8X":
        body = chunk(kind, bytes([first[0] | 4]) + first[1:]) + data[30:]
    else:
        if kind == b"VP8L":  # 14 bits each: width - 1 and height - 1; then whether there is alpha
            bits = int.from_bytes(first[1:5], "little")
            width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
        else:
            width, height = (int.from_bytes(first[at : at + 2], "little") % 16384 - 1 for at in (6, 8))
            alpha = 0
        flags = bytes([4 | alpha << 4, 0, 0, 0])
        body = chunk(b"VP8X", flags + width.to_bytes(3, "little") + height.to_bytes(3, "little")) + body
    body = b"WEBP" + body + chunk(b"XMP ", packet)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def encode_marked(image: np.ndarray, suffix: str, digest: str | None = "") -> bytes:
    """Encode a picture with the mark in it.

    Args:
        image: uint8 [H, W, 3] or, with transparency, [H, W, 4].
        suffix: .png, .webp, .jpg or .jpeg.
        digest: see `xmp`; None: no mark, for a photo that was left as it is.

    Returns:
        The bytes of the file.
    """
    from PIL import Image

    # Compression 3: 6 takes twice the time for 5 % fewer bytes.
    picture, buffer = Image.fromarray(image), io.BytesIO()
    if suffix == ".png":
        picture.save(buffer, "PNG", compress_level=3)
    elif suffix == ".webp":
        picture.save(buffer, "WEBP", quality=95)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue() if digest is None else marked(buffer.getvalue(), TRAINED, digest)


def write_marked(path: Path, image: np.ndarray, digest: str | None = "") -> None:
    """Write a marked PNG, JPEG or WebP, atomically; what killed writers of it left beside it is removed.

    Args:
        path: the file; its suffix decides the kind.
        image: uint8 [H, W, 3] or [H, W, 4].
        digest: see `encode_marked`.

    Raises:
        TristyleError: the place cannot be written.
    """
    from stages.core.files import sweep_beside, write_bytes

    try:
        sweep_beside(path)
        write_bytes(path, encode_marked(image, path.suffix.lower(), digest))
    except OSError as error:
        raise TristyleError(f"{path}: cannot be written ({error.strerror}). Choose another place for -o.") from None


def mark_video(path: Path, digest: str) -> None:
    """Append the mark to a finished MP4 or MOV file."""
    payload = XMP_BOX + xmp(digest)
    with open(path, "ab") as file:
        file.write((8 + len(payload)).to_bytes(4, "big") + b"uuid" + payload)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read_mark(path: Path) -> Mark | None:
    """What a picture or video says of its origin; None where it says nothing.

    Of several packets one that says "synthetic" wins: editors add theirs beside what they do not know.

    Raises:
        TristyleError: no such file, or neither a picture nor a video of a kind that is read here.
    """
    return _said(_video_xmp(path) if _is_video(path) else _picture_xmp(path))


def origin(data: bytes) -> str:
    """IPTC's term that a PNG, JPEG or WebP says of itself where it is synthetic; "" for all others."""
    mark = _said(_packets(io.BytesIO(data)))
    return mark.source if mark is not None and mark.synthetic else ""


def _said(packets: Iterable[bytes]) -> Mark | None:
    found = []
    for packet in packets:
        said = properties(packet)
        if term := said.get("DigitalSourceType", ""):
            term = term.replace(":", "/").rsplit("/", 1)[-1]
            found.append(Mark(term, said.get("AISystemUsed", ""), said.get("AISystemVersionUsed", "")))
    return next((mark for mark in found if mark.synthetic), found[0] if found else None)


def properties(packet: bytes) -> dict[str, str]:
    """The properties of IPTC's extension that an XMP packet gives its file, by local name.

    Attributes, elements and `rdf:resource` are read alike (XMP specification, part 1, 7.9). What stands in text, in
    comments or within another property's structure does not count. Document types, and so entities, are refused: such a
    packet says nothing. Of a packet that ends early its whole beginning counts. XML without RDF, as careless programs
    write it, is read by its local names.
    """
    found: dict[str, str] = {}
    for reader in (_Described(), _Named()):
        parser = expat.ParserCreate(namespace_separator=" ") if reader.spaces else expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = reader.text, reader.refuse
        try:
            parser.Parse(packet[:LONGEST_XMP].strip(b"\0 \t\r\n"), True)
        except (expat.ExpatError, LookupError):
            pass
        except ValueError:  # a document type
            return {}

        # Where there is RDF, what it says is all.
        found = {name: value.strip() for name, value in reader.found.items()}
        if found or reader.described:
            break
    return found


class _Properties:
    """Handlers of an XML parser that collect properties: an element's text and `resource`, and attributes."""

    spaces, described = True, False

    def __init__(self) -> None:
        self.path: list[str] = []
        self.found: dict[str, str] = {}
        self.depth, self.said = 0, ""  # of the property at hand (0: none), and its value so far

    def holds(self) -> bool:
        """Whether the element at hand, the last of `path`, is what properties are said of."""
        raise NotImplementedError

    def local(self, name: str) -> str:
        """The local name of a property of ours; "" of another."""
        raise NotImplementedError

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """What properties are said of, a property, or something within one."""
        property_of = self.holds() and not self.depth and self.local(name)
        self.path.append(name)
        if self.holds() and not self.depth:
            for key, value in attributes.items():
                if own := self.local(key):
                    self.found.setdefault(own, value)
        if property_of:
            self.depth, self.said = len(self.path), ""
        if self.depth:
            named = {key.replace(":", " ").rpartition(" ")[2]: value for key, value in attributes.items()}
            self.said += named.get("resource", "") + named.get("value", "")

    def text(self, data: str) -> None:
        """Letters of the property at hand."""
        self.said += data if self.depth else ""

    def end(self, name: str) -> None:
        """An element's end."""
        if self.depth == len(self.path):
            self.found.setdefault(self.local(name), self.said)
            self.depth = 0
        self.path.pop()

    def refuse(self, *_: object) -> None:
        """A document type."""
        raise ValueError("a document type")


class _Described(_Properties):
    """Properties by their namespace, of the descriptions of an `rdf:RDF`."""

    def holds(self) -> bool:
        """Whether the element at hand is a description."""
        self.described = self.described or self.path[-1:] == [f"{RDF} RDF"]
        return self.path[-2:-1] == [f"{RDF} RDF"]

    def local(self, name: str) -> str:
        """Of a name in IPTC's namespace."""
        return name.removeprefix(f"{IPTC} ") if name.startswith(f"{IPTC} ") else ""


class _Named(_Properties):
    """Properties by their local names, anywhere, where there is no RDF or its prefixes mean nothing."""

    spaces = False

    def holds(self) -> bool:
        """Always."""
        return bool(self.path)

    def local(self, name: str) -> str:
        """Of any name with a prefix."""
        return name.partition(":")[2]


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


def _picture_xmp(path: Path) -> list[bytes]:
    """The XMP packets of a picture. Raises TristyleError where it is not a picture."""
    from PIL import Image

    try:
        with quiet_pillow, Image.open(path) as image:
            info: dict[Any, Any] = dict(image.info)
    except Exception as error:  # Pillow raises a dozen types for broken files
        reason = "not a picture" if "cannot identify" in str(error) else str(error).splitlines()[0]
        raise TristyleError(f"{path}: {reason}. Marks are read from PNG, JPEG, WebP, MP4 and MOV.") from None

    # Pillow reads no further than to the pixels, and of several packets it keeps one.
    with open(path, "rb") as file:
        packets = _packets(file)
    found = info.get("xmp") or b""
    return packets or [found if isinstance(found, bytes) else str(found).encode()]


def _packets(file: BinaryIO) -> list[bytes]:
    """The XMP packets of a PNG, JPEG or WebP."""
    head = file.read(12)
    if head.startswith(PNG):
        return list(_png_xmp(file))
    if head.startswith(JPEG):
        return list(_jpeg_xmp(file))
    if head.startswith(b"RIFF"):
        return [_read(file, size) for kind, size in _chunks(file, 12, "little", 0) if kind == b"XMP "]
    return []


def _read(file: BinaryIO, size: int) -> bytes:
    return file.read(max(0, min(size, LONGEST_XMP)))


def _chunks(file: BinaryIO, start: int, order: Any, trailer: int) -> Iterator[tuple[bytes, int]]:
    """Type and size of each chunk of a PNG (type last, CRC behind) or RIFF file (type first), the file at its data."""
    for _ in range(MOST_PARTS):
        file.seek(start)
        head = file.read(8)
        if len(head) < 8:
            return
        kind, size = (head[4:], head[:4]) if order == "big" else (head[:4], head[4:])
        length = int.from_bytes(size, order)
        yield kind, length
        start += 8 + length + trailer + (length % 2 if order == "little" else 0)


def _png_xmp(file: BinaryIO) -> Iterator[bytes]:
    """XMP of a PNG, before and after its pixels; a bare term, as some programs write it, as a packet of its own."""
    for kind, size in _chunks(file, len(PNG), "big", 4):
        if kind not in (b"iTXt", b"tEXt", b"zTXt"):
            continue

        keyword, _, rest = _read(file, size).partition(b"\0")
        if kind == b"iTXt":
            packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        else:
            packed, rest = kind == b"zTXt", rest[kind == b"zTXt" :]
        try:
            text = zlib.decompressobj().decompress(rest, LONGEST_XMP) if packed else rest
        except zlib.error:
            continue
        if keyword == PNG_XMP:
            yield text
        elif keyword == b"DigitalSourceType" and not set(text) & set(b'<>&"'):
            yield xmp().replace(_uri(TRAINED), text).replace(b"AISystemUsed", b"Unsaid")


def _jpeg_xmp(file: BinaryIO) -> Iterator[bytes]:
    """XMP of a JPEG: its APP1 segments."""
    start = 2
    for _ in range(MOST_PARTS):
        file.seek(start)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            return
        if head[1] == 0xFF:  # padding
            start += 1
            continue
        size = int.from_bytes(head[2:], "big")
        if head[1] == 0xE1 and (data := file.read(max(size - 2, 0))).startswith(JPEG_XMP):
            yield data[len(JPEG_XMP) :]
        start += 2 + size


def _video_xmp(path: Path) -> list[bytes]:
    """XMP of an MP4 or MOV file: of its `uuid` boxes and of moov/udta/XMP_. Of other boxes only headers are read."""
    with open(path, "rb") as file:
        return list(_boxes_xmp(file, 0, file.seek(0, 2), [MOST_PARTS]))[::-1]


def _boxes_xmp(file: BinaryIO, start: int, end: int, left: list[int]) -> Iterator[bytes]:
    while start + 8 <= end and left[0]:
        # A box: 4 bytes of size, 4 of type. Size 1: 8 more bytes hold it. Size 0: it reaches to the end.
        left[0] -= 1
        file.seek(start)
        head = file.read(32)
        size, header = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:
            size = end - start
        if size < header:
            break

        if head[4:8] in (b"moov", b"udta"):
            yield from _boxes_xmp(file, start + header, min(start + size, end), left)
        own = 16 if head[4:8] == b"uuid" and head[header : header + 16] == XMP_BOX else 0
        if own or head[4:8] == b"XMP_":
            file.seek(start + header + own)
            yield _read(file, size - header - own)
        start += size
