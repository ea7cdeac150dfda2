"""What was made of picture files, kept from one run to the next: `<folder>/<k>/<key>.json` and its pictures beside it.

An entry counts when its description is there, which is written last, and its pictures have the digests that it names.
Pictures are handed out as hard links: nothing here is ever written to again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.core.files import read_json, sweep_orphans, write_bytes
from stages.core.settings import TristyleError
from stages.datasets.folders.photo_quality import Scores

MOST_BYTES = 4 * 1024**3  # beyond that, what no run has used for a day is removed, the longest unused first
A_DAY = 24 * 3600.0


@dataclass
class Crop:
    """One square cut out of a file.

    Attributes:
        picture, mask: sha256 of their PNGs.
        given: whether the mask was given with the picture.
        scores: see `stages.datasets.folders.photo_quality`.
        phash: 16 hex digits, see `stages.datasets.folders.duplicates`.
        quad: corners of the face's square in the file, px: top left, bottom left, bottom right, top right.
    """

    picture: str = ""
    mask: str = ""
    given: bool = False
    scores: Scores = field(default_factory=dict)
    phash: str = ""
    quad: list[list[float]] | None = None


@dataclass
class Entry:
    """What was made of one file.

    Attributes:
        key: names it in the cache.
        digest: sha256 of the file.
        notes: what was accepted but should be known.
        faces: how many were found; None where none were looked for.
        shape: height and width of the whole picture, upright, px.
        crops: what was cut out.
        fault: "" or what cannot be used: `photo` or `mask`; and why, in `reason`.
    """

    key: str
    digest: str = ""
    notes: list[str] = field(default_factory=list)
    faces: int | None = None
    shape: tuple[int, ...] = ()
    crops: list[Crop] = field(default_factory=list)
    fault: str = ""
    reason: str = ""


class Cache:
    """Entries below a folder; any number of processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def picture(self, key: str, crop: int) -> Path:
        """Where a crop's picture lies."""
        return Path(f"{self.folder}/{key[:1]}/{key}-{crop}.png")

    def mask(self, key: str, crop: int) -> Path:
        """Where a crop's mask lies."""
        return Path(f"{self.folder}/{key[:1]}/{key}-{crop}.mask.png")

    def _description(self, key: str) -> Path:
        return Path(f"{self.folder}/{key[:1]}/{key}.json")

    def load(self, key: str) -> Entry | None:
        """The entry of a key, noted as used now; None where there is none, or it is damaged."""
        path = self._description(key)
        try:
            entry = Entry(**read_json(path, {}))
            entry.crops = [Crop(**crop) for crop in entry.crops]  # type: ignore[arg-type]
            for number, crop in enumerate(entry.crops):
                for file, digest in ((self.picture(key, number), crop.picture), (self.mask(key, number), crop.mask)):
                    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                        return None
            os.utime(path)
        except (OSError, ValueError, TypeError, AttributeError, TristyleError):
            return None
        return entry

    def save(self, entry: Entry, pictures: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep an entry with the PNGs of its crops' pictures and masks, whose digests it is given."""
        for number, (picture, mask) in enumerate(pictures):
            crop = entry.crops[number]
            crop.picture = _put(self.picture(entry.key, number), picture)
            crop.mask = _put(self.mask(entry.key, number), mask)
        description = {**vars(entry), "crops": [vars(crop) for crop in entry.crops]}
        _put(self._description(entry.key), json.dumps(description).encode())

    def trim(self, most_bytes: int = MOST_BYTES) -> None:
        """Remove what killed processes had begun to write, and old entries while there are too many bytes."""
        used: dict[str, float] = {}
        files: dict[str, list[tuple[Path, int]]] = {}
        for folder, _, names in os.walk(self.folder):
            sweep_orphans(Path(folder))
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # another run's trim
                    if name.endswith(".tmp"):
                        continue
                    stat = path.stat()
                    key = name.split(".")[0].split("-")[0]
                    files.setdefault(key, []).append((path, stat.st_size))
                    used[key] = max(used.get(key, 0.0), stat.st_mtime)

        # The longest unused go first; what was used within a day stays.
        total = sum(size for group in files.values() for _, size in group)
        for key in sorted(files, key=lambda key: used[key]):
            if total <= most_bytes or used[key] > time.time() - A_DAY:
                return
            for path, size in files[key]:
                path.unlink(missing_ok=True)
                total -= size


def hand_out(source: Path, target: Path) -> None:
    """Put a picture of the cache at `target`: a link, or a copy where the file system has none.

    Raises:
        TristyleError: it is not there any more.
    """
    try:
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
    except FileNotFoundError:
        raise TristyleError(f"{source}: removed while it was in use. Run again: it is made anew.") from None
    except OSError:
        shutil.copyfile(source, target)


def _put(path: Path, data: bytes) -> str:
    """Write a file whole or not at all; its sha256."""
    write_bytes(path, data, sync=False)
    return hashlib.sha256(data).hexdigest()
