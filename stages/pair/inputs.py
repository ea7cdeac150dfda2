"""What the variants of stage pair share on their way in: the photos they paint, and candidate pairs by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stages.core.artifact import SCRATCH, Artifact, hash_path, hash_pictures
from stages.core.consent import tables_above
from stages.core.images import load_images, load_masks
from stages.core.mark import TRAINED, origin
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError
from stages.networks.face_reader import Reader
from stages.pair.photo_sets import FolderPhotos, Joined, PhotoSet, StoredPhotos, mask_folder, pictures_below
from stages.pair.translator import Painter

PHOTOS = "photos.jsonl"  # in the scratch folder: the names of the pictures in pair.write.photos


def photo_files(photos: str | None) -> dict[str, Path]:
    """The folder `pair.write.photos`, its masks and the tables above it, as entries of a stage's `files()`."""
    if photos is None:
        return {}
    masks = mask_folder(Path(photos))
    above = [file for file in tables_above(Path(photos)) if file.parent != Path(photos)]
    said = {f"write.sources.{number}": file for number, file in enumerate(above)}
    return {"write.photos": Path(photos)} | ({"write.masks": masks} if masks else {}) | said


def photo_digest(key: str, path: Path) -> str:
    """The digest of an entry of `files()`: of `photo_files` only pictures and their tables count."""
    return hash_pictures(path) if key in ("write.photos", "write.masks") else hash_path(path)


def check_photos(photos: str | None) -> None:
    """Refuse a folder of photos whose `sources.csv` cannot be obeyed: before a training, not after it.

    Raises:
        TristyleError: names the table and its line.
    """
    if photos is not None:
        pictures_below(Path(photos))


def stored_photos(data: Artifact) -> StoredPhotos:
    """The photos of a data set that are for training, with their masks."""
    return StoredPhotos(data, "train", "photo", "mask")


def all_photos(data: Artifact, photos: str | None, out: Path, reader: Reader, runtime: Runtime) -> PhotoSet:
    """The photos that pairs are made of: the data set's for training, then those of a folder.

    Args:
        data: the data artifact.
        photos: the folder `pair.write.photos`; None for the data set's photos alone.
        out: the pair artifact's folder; the list of the folder's names goes to its scratch.
        reader: draws the masks that the folder does not give.
        runtime: the machine.
    """
    stored = stored_photos(data)
    if photos is None:
        return stored
    index = out / SCRATCH / PHOTOS
    return Joined([stored, FolderPhotos(Path(photos), index, stored.size, reader, runtime.device)])


def photo_count(data: Artifact, photos: str | None) -> int:
    """How many photos `all_photos` gives."""
    return len(stored_photos(data).ids) + (0 if photos is None else len(pictures_below(Path(photos))))


def refuse_photos(photos: str | None, why: str) -> None:
    """Refuse a folder of photos that these pairs cannot be made of.

    Raises:
        ConfigError: there is one.
    """
    if photos is not None:
        raise ConfigError("write.photos", f"{why} alone", "Leave it null")


def style_name(style: Artifact) -> str:
    """The style that a style artifact holds; "" where it has no name."""
    return str(style.records()[0].get("style") or "")


# ------------------------------------------------------------------------------------------------- candidate pairs


@dataclass
class Painted:
    """Some candidate pairs.

    Attributes:
        photo, raw: the photos and what was made of them, uint8 [n, H, W, 3].
        mask: head coverage of the photos, uint8 [n, H, W].
        painted: where the translator says it painted, uint8 [n, H, W]; None where it says nothing.
        broken: place in the arrays -> why there is no such pair (its photo cannot be read).
        notes: further entries of each pair's record; none where None.
        cover: people in photo and style picture, clothes included, and where it is painted, uint8 [n, H, W, 3]; None
            where that is unknown.
        source: IPTC's term for `raw` (`stages.core.mark`); "" where somebody drew it.
        photo_source: likewise for `photo`.
    """

    photo: np.ndarray
    raw: np.ndarray
    mask: np.ndarray
    painted: np.ndarray | None = None
    broken: dict[int, str] = field(default_factory=dict)
    notes: list[dict[str, Any]] | None = None
    cover: np.ndarray | None = None
    source: str = TRAINED
    photo_source: str = ""


class PairCandidates(Protocol):
    """Candidate pairs by number, made on demand; any number of threads may ask."""

    @property
    def ids(self) -> Sequence[str]:
        """Unique names; their order is the pairs' order."""
        ...

    def __call__(self, numbers: range) -> Painted:
        """The pairs `numbers`."""
        ...


@dataclass
class Translated:
    """Candidates that a painter makes of photos."""

    photos: PhotoSet
    painter: Painter

    @property
    def ids(self) -> Sequence[str]:
        """The photos' ids."""
        return self.photos.ids

    def __call__(self, numbers: range) -> Painted:
        """Read and paint the photos `numbers`."""
        photos = self.photos(numbers)
        painting = self.painter(photos.images)
        return Painted(
            photos.images,
            painting.raw,
            photos.masks,
            painting.mask,
            photos.broken,
            photos.notes,
            source=painting.source,
        )


@dataclass
class OnDisk:
    """Candidates whose pictures all lie on disk and are read when they are asked for.

    Attributes:
        ids: the pairs' ids.
        photo, mask, raw: files, in the order of the ids.
        flipped: which style pictures show their photo mirrored; photo and mask are mirrored with them.
        whole: the whole frame counts as head.
        cover: files of `Painted.cover`; none where it is empty.
        notes: further entries of each pair's record; likewise.
    """

    ids: Sequence[str]
    photo: list[Path]
    mask: list[Path]
    raw: list[Path]
    flipped: Sequence[bool] = ()
    whole: bool = False
    cover: Sequence[Path] = ()
    notes: Sequence[dict[str, Any]] = ()

    def __call__(self, numbers: range) -> Painted:
        """Read the pairs `numbers`."""
        part = slice(numbers.start, numbers.stop)
        photo, raw = (load_images(paths[part]) for paths in (self.photo, self.raw))
        mask = load_masks(self.mask[part])
        if any(self.flipped):
            flip = np.asarray(self.flipped[part])
            photo[flip], mask[flip] = photo[flip, :, ::-1], mask[flip, :, ::-1]
        cover = load_images(self.cover[part]) if self.cover else None
        notes = list(self.notes[part]) or None
        if self.whole:
            mask = np.full_like(mask, 255)
        seen, source = (origin(files[numbers.start].read_bytes()) for files in (self.photo, self.raw))
        return Painted(photo, raw, mask, cover=cover, notes=notes, source=source, photo_source=seen)
