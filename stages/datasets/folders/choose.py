"""Which of the pictures read are used, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.images import read_image
from stages.datasets.folders.cache import Cache, Crop, Entry
from stages.datasets.folders.duplicates import alike, near, thumbnail
from stages.datasets.folders.ingest import IngestJob
from stages.datasets.folders.photo_quality import Limits
from stages.datasets.folders.sources import PictureSource


@dataclass
class UsablePicture:
    """One usable picture.

    Attributes:
        place: in which of the folders its file lies, `photo` or `style/<name>`.
        face: which of the file's faces it is, 0 for the largest.
        person: whose it is.
        twin_of: the photo (id) whose twin it is.
    """

    task: IngestJob
    place: str
    entry: Entry
    face: int
    person: str
    source: PictureSource
    twin_of: str | None = None

    @property
    def crop(self) -> Crop:
        """The square cut out."""
        return self.entry.crops[self.face]

    @property
    def name(self) -> str:
        """The file, relative to the folder given."""
        return f"{self.place}/{self.task.file.name}"

    def reject(self, reason: str) -> RejectedFile:
        """What becomes of it when it is not used."""
        return RejectedFile(self.name, reason, entry=self.entry, face=self.face)


@dataclass
class RejectedFile:
    """A file, or one face of it, that is not used; `broken` where it could not be read or holds no face."""

    name: str
    reason: str
    broken: bool = False
    entry: Entry | None = None
    face: int = 0

    def row(self) -> dict[str, Any]:
        """Its line in rejects.jsonl."""
        row: dict[str, Any] = {"path": self.name, "reason": self.reason}
        if self.entry is not None:
            row["sha256"] = self.entry.digest
            if self.entry.crops:
                row |= {"face": self.face, "scores": self.entry.crops[self.face].scores}
        return row


@dataclass
class Assessed:
    """What became of a file: its entry where it was read, and why it is not used, "" where it may be."""

    task: IngestJob
    reason: str = ""
    broken: bool = False
    entry: Entry | None = None

    def reject(self, root: Path, place: str) -> RejectedFile:
        """The same as a reject, under the mask's name where that is at fault."""
        name = f"{place}/{self.task.file.name}"
        if self.entry is not None and self.entry.fault == "mask" and self.task.mask is not None:
            name = self.task.mask.relative_to(root).as_posix()
        return RejectedFile(name, self.reason, self.broken, self.entry)


def within_limits(pictures: Sequence[UsablePicture], limits: Limits) -> tuple[list[UsablePicture], list[RejectedFile]]:
    """Part the pictures by the limits on their scores."""
    reasons = [limits.reason(picture.crop.scores) for picture in pictures]
    kept = [picture for picture, reason in zip(pictures, reasons, strict=True) if not reason]
    return kept, [picture.reject(reason) for picture, reason in zip(pictures, reasons, strict=True) if reason]


def without_copies(
    pictures: Sequence[UsablePicture], seen: dict[str, str]
) -> tuple[list[UsablePicture], list[RejectedFile]]:
    """Leave out files that have the bytes of an earlier one. `seen`: digest -> name of the first, added to."""
    firsts = [seen.setdefault(picture.entry.digest, picture.name) for picture in pictures]
    pairs = list(zip(pictures, firsts, strict=True))
    kept = [picture for picture, first in pairs if first == picture.name]
    return kept, [picture.reject(f"the same bytes as {first}") for picture, first in pairs if first != picture.name]


def without_repeats(
    pictures: Sequence[UsablePicture], most: int | None, cache: Cache
) -> tuple[list[UsablePicture], list[RejectedFile]]:
    """Leave out pictures that are nearly another one; of several, the one from the largest square stays.

    Args:
        pictures: usable pictures of one place.
        most: bits of 64 in which the hashes may differ; None leaves none out.
        cache: where the pictures lie.
    """
    if most is None:
        return list(pictures), []

    @lru_cache(maxsize=4096)
    def thumb(index: int) -> np.ndarray:
        return thumbnail(read_image(cache.picture(pictures[index].entry.key, pictures[index].face)))

    order = sorted(range(len(pictures)), key=lambda index: -(pictures[index].crop.scores["face"] or 0))
    hashes = [int(pictures[index].crop.phash, 16) for index in order]
    found = near(hashes, most, lambda first, second: alike(thumb(order[first]), thumb(order[second])))
    repeats = {order[second]: pictures[order[first]].name for second, first in found.items()}
    kept = [picture for index, picture in enumerate(pictures) if index not in repeats]
    return kept, [pictures[index].reject(f"nearly the same picture as {repeats[index]}") for index in sorted(repeats)]
