"""Many samples in few files: plain tar shards with WebDataset's keys, and pictures read from them by place.

A sample is adjacent members of one key: `000123.photo.png 000123.style.png 000123.json`; the key is what stands before
the first dot of a name (github.com/webdataset/webdataset). So `webdataset`, Hugging Face datasets and `tar` read them.
A shard's bytes follow from its samples alone: no time and no owner enters. It appears whole or not at all.
"""

from __future__ import annotations

import os
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.files import parse_json, temporary_path, write_bytes
from stages.core.images import encode_png
from stages.core.mark import marked
from stages.core.settings import TristyleError

BLOCK = tarfile.BLOCKSIZE  # a member's header, and what its bytes are padded to
SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}  # codec -> suffix

AGAIN = "Run stage=pair again."
Places = dict[str, tuple[int, int]]  # a sample's member, e.g. photo.png -> where its bytes begin, and how many


# ------------------------------------------------------------------------------------------------------ writing


def put(path: Path, data: bytes | Iterable[bytes], sync: bool = False) -> None:
    """Write a file whole or not at all, for one writer at a time: a temporary file of a killed one is overwritten."""
    write_bytes(path, data, sync=sync, only_writer=True)


class TarWriter:
    """One shard at work, as a context manager: it is there, fsynced, when the body has ended well, and then only.

    Args:
        empty: a shard without samples is a file, too; else none is left.
    """

    def __init__(self, path: Path, empty: bool = True) -> None:
        self.path, self.empty, self.keys = path, empty, set[str]()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_path(path, only_writer=True)
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed by __exit__

    def add(self, key: str, members: dict[str, bytes]) -> Places:
        """Append a sample; returns where its members lie.

        Raises:
            TristyleError: a key with a dot or slash, or one that comes again.
        """
        if not key or set(key) & set("./") or key in self.keys:
            fault = "comes twice" if key in self.keys else "is not a key of a tar shard, which has no dot or slash"
            raise TristyleError(f"{self.path}: the name {key!r} {fault}. Rename that picture, or write files.")
        self.keys.add(key)
        return {name: self._append(f"{key}.{name}", data) for name, data in members.items()}

    def _append(self, name: str, data: bytes) -> tuple[int, int]:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644  # the rest is 0 or empty in a new TarInfo
        self._file.write(member.tobuf(tarfile.PAX_FORMAT))
        start = self._file.tell()
        self._file.write(data)
        self._file.write(bytes(-len(data) % BLOCK))
        return start, len(data)

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file as file:
            if kind is None:
                file.write(bytes(2 * BLOCK))
                file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
                file.flush()
                os.fsync(file.fileno())
        if kind is None and (self.keys or self.empty):
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink(missing_ok=True)


def write_tar(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> list[Places]:
    """Write a shard of (key, {member: bytes}) in order, whole or not at all; returns where each sample's members lie.

    Raises:
        TristyleError: a key with a dot or slash, or one that comes again.
    """
    with TarWriter(path) as tar:
        return [tar.add(key, members) for key, members in samples]


# ------------------------------------------------------------------------------------------------------ reading


def read_at(path: Path, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start`; any number of threads at a time.

    Raises:
        TristyleError: no such file, or it ends before.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise TristyleError(f"{path}: cannot be read ({error.strerror}). Is the shard still there?") from None
    try:
        data, end = os.pread(handle, size, start), os.fstat(handle).st_size
    finally:
        os.close(handle)
    if len(data) != size:
        raise TristyleError(f"{path}: ends at byte {end} of {start + size}, so it is cut. Copy it again.")
    return data


class Shards:
    """Samples of tar shards, whoever wrote them, by number or key; any number of threads may read.

    A sample is {member: bytes}, e.g. {"photo.png": ...}. Opening reads the members' headers, not their bytes.

    Raises:
        TristyleError: a file that is not a tar, is cut, is given twice, or has the members of a sample apart.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.keys: list[str] = []
        self._samples: list[tuple[Path, Places]] = []
        given: set[Path] = set()
        for path in paths:
            if (real := Path(path).resolve()) in given:
                raise TristyleError(f"{path}: is given twice, so its samples would count twice. Give it once.")
            given.add(real)
            for key, places in _samples(Path(path)):
                self.keys.append(key)
                self._samples.append((Path(path), places))
        self._numbers = {key: number for number, key in enumerate(self.keys)}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, which: int | str) -> dict[str, bytes]:
        path, places = self._samples[self._numbers[which] if isinstance(which, str) else which]
        return {name: read_at(path, *place) for name, place in places.items()}

    def __iter__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        return ((key, self[number]) for number, key in enumerate(self.keys))


def _samples(path: Path) -> Iterator[tuple[str, Places]]:
    last: str | None = None
    places: Places = {}
    keys: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, slash, base = member.name.rpartition("/")
                stem, _, name = base.partition(".")
                key = folder + slash + stem

                if key != last and last is not None:
                    yield last, places
                    places = {}
                if key != last and key in keys:
                    raise TristyleError(
                        f"{path}: the sample {key!r} comes in pieces, so members are out of order. Sort it by name."
                    )
                keys.add(key)
                last, places[name] = key, (member.offset_data, member.size)

            if any(read_at(path, tar.offset, BLOCK)):  # tarfile takes half a header for the end
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, OSError) as error:
        raise TristyleError(f"{path}: not a whole tar shard ({error}). Copy it again.") from None
    if last is not None:
        yield last, places


# ----------------------------------------------------------------------------------------------------- pictures


def encode(image: np.ndarray, codec: str = "png", quality: int = 95, source: str = "") -> bytes:
    """The bytes of a picture file.

    Args:
        image: uint8 [H, W, 3] RGB or [H, W].
        codec: png, jpeg or webp.
        quality: of the latter two, 1..100.
        source: IPTC's term where the picture is synthetic, which marks it; "" for all others.
    """
    import cv2

    if codec == "png":
        return marked(encode_png(image), source)
    flag = cv2.IMWRITE_JPEG_QUALITY if codec == "jpeg" else cv2.IMWRITE_WEBP_QUALITY
    ordered = image[..., ::-1] if image.ndim == 3 else image
    done, data = cv2.imencode(f".{SUFFIXES[codec]}", np.ascontiguousarray(ordered), [flag, quality])
    if not done:
        raise TristyleError(f"cannot encode an array of shape {image.shape} as {codec}. Write pngs.")
    return marked(bytes(data), source)


def decode(data: bytes, colour: bool = True) -> np.ndarray | None:
    """Bytes of a picture file -> uint8 [H, W, 3] RGB, or [H, W] without `colour`; None for a broken one."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    if image is None:
        return None
    return np.ascontiguousarray(image[..., ::-1]) if colour else image


class Pictures:
    """Pictures of one size that are read when they are asked for: indexed like an array uint8 [N, H, W(, 3)].

    Args:
        root: folder that the files' names are relative to.
        colour: RGB, else one channel.
        workers: threads that decode.
    """

    def __init__(self, root: Path, colour: bool = True, workers: int = 1) -> None:
        self.root, self.colour = root, colour
        self._files: list[str] = []
        self._file, self._start, self._size = array("q"), array("q"), array("q")
        self._pool = ThreadPoolExecutor(max(workers, 1)) if workers > 1 else None
        self._shape: tuple[int, ...] | None = None

    def add(self, file: str, start: int = 0, size: int = -1) -> None:
        """One more picture: a file of its own, or `size` bytes of one from `start`."""
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        self._file.append(len(self._files) - 1)
        self._start.append(start)
        self._size.append(size)

    def __len__(self) -> int:
        return len(self._file)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array; the first picture's is all others'.

        Raises:
            TristyleError: there is none, or the first one cannot be read.
        """
        if not len(self):
            raise TristyleError(f"{self.root}: its records keep no picture. Run the stage that wrote it again.")
        if self._shape is None:
            self._shape = self._read(0).shape
        return (len(self), *self._shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, which: Any) -> np.ndarray:
        """Pictures by number, slice or index array.

        Raises:
            TristyleError: names the file that is missing, cut, not a picture, or of another size.
        """
        numbers = np.arange(len(self))[which]
        if numbers.ndim == 0:
            return self._read(int(numbers))
        out = np.empty((len(numbers), *self.shape[1:]), np.uint8)

        def fill(place: int) -> None:
            image = self._read(int(numbers[place]))
            if image.shape != out.shape[1:]:
                sizes = f"{image.shape[:2]} differs from {out.shape[1:3]} of the first picture"
                raise TristyleError(f"{self._name(int(numbers[place]))}: {sizes}. Run the stage that wrote it again.")
            out[place] = image

        list((self._pool.map if self._pool else map)(fill, range(len(numbers))))
        return out

    def _name(self, number: int) -> Path:
        return self.root / self._files[self._file[number]]

    def _read(self, number: int) -> np.ndarray:
        path, start, size = self._name(number), self._start[number], self._size[number]
        try:
            data = read_at(path, start, size if size >= 0 else os.path.getsize(path))
        except FileNotFoundError:
            raise TristyleError(f"{path}: no such file. Run the stage that wrote it again.") from None
        except (OSError, OverflowError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or "its record asks for too much"
            raise TristyleError(f"{path}: cannot be read ({reason}). Run the stage that wrote it again.") from None
        image = decode(data, self.colour)
        if image is None:
            raise TristyleError(f"{path}: lacks a whole picture at byte {start}. Copy it again.")
        return image


def pictures(artifact: Path, kinds: Sequence[str], workers: int = 1, kept: bool = True) -> list[Pictures]:
    """Pictures of an artifact's pairs, in the order of records.jsonl, wherever they lie: files of their own or shards.

    Args:
        artifact: folder of a pair artifact.
        kinds: of `photo`, `style`, `mask` (one channel) and `raw`.
        workers: threads that decode.
        kept: of the pairs that curation kept; else of those it rejected, which have `photo` and `raw` only.
    """
    found = [Pictures(artifact, kind != "mask", workers) for kind in kinds]
    with open(artifact / "records.jsonl", "rb") as file:
        for number, line in enumerate(file, 1):
            row = parse_json(line, artifact / "records.jsonl", {}, AGAIN)
            if row.get("kept", True) != kept or row.get("unreadable"):
                continue
            for kind, into in zip(kinds, found, strict=True):
                into.add(*_checked_place(row, kind, f"{artifact / 'records.jsonl'}: line {number}"))
    return found


def _checked_place(row: dict[str, Any], kind: str, where: str) -> tuple[str, int, int]:
    """`place` of a record that may be damaged."""
    try:
        name, start, size = place(row, kind)

        # A name below the artifact, as a file system takes it, and bytes that can be asked for.
        usual = max(map(len, os.fsencode(name).split(b"/"))) < 256 and len(name) < 1024  # half a letter is in no name
        inside = isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
        if (
            not usual
            or not inside
            or "\0" in name
            or type(start) is not int
            or type(size) is not int
            or start < 0
            or size < -1
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        raise TristyleError(f"{where} is not the record of a pair. {AGAIN}") from None
    return name, start, size


def place(row: dict[str, Any], kind: str) -> tuple[str, int, int]:
    """Where a record of records.jsonl has its picture: file, first byte, and how many (-1: all of the file)."""
    if "shard" not in row:
        return row.get(kind, f"{kind}/{row['id']}.png"), 0, -1
    start, size = next(found for name, found in row["members"].items() if name.partition(".")[0] == kind)
    return row["shard"], start, size
