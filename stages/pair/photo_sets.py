"""Photographs by number, read when they are asked for, so that there may be millions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stages.core.artifact import Artifact
from stages.core.consent import usable
from stages.core.decode import ImageError
from stages.core.files import parse_json, write_bytes
from stages.core.images import IMAGE_SUFFIXES, load_images, load_masks
from stages.core.settings import TristyleError
from stages.core.walk import below
from stages.datasets.pictures import read_square
from stages.networks.face_reader import Reader, read_masks

CHUNK = 32  # pictures that are painted together


@dataclass
class Photos:
    """Some pictures: ids, uint8 [N, H, W, 3] and head coverage uint8 [N, H, W].

    Attributes:
        broken: place in the arrays -> why that picture could not be read; it is black there.
        notes: further entries of each picture's record; none where None.
    """

    ids: list[str]
    images: np.ndarray
    masks: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    notes: list[dict[str, Any]] | None = None

    def __call__(self, numbers: range) -> Photos:
        """Some of them: pictures in memory are a `PhotoSet`, too."""
        part = slice(numbers.start, numbers.stop)
        broken = {place - part.start: why for place, why in self.broken.items() if place in numbers}
        notes = self.notes and self.notes[part]
        return Photos(self.ids[part], self.images[part], self.masks[part], broken, notes)


class PhotoSet(Protocol):
    """Photos by number, read when they are asked for; any number of threads may ask."""

    @property
    def ids(self) -> Sequence[str]:
        """Unique names."""
        ...

    def __call__(self, numbers: range) -> Photos:
        """The photos `numbers`."""
        ...


class StoredPhotos:
    """The photos of one split of the data artifact, with their masks.

    Args:
        data: the artifact.
        split: `train` or `heldout`.
        pictures, masks: folders in it.

    Attributes:
        ids: the photos' names without suffix.
        names: the files' names, alike in both folders.

    Raises:
        TristyleError: there are none.
    """

    def __init__(self, data: Artifact, split: str, pictures: str, masks: str) -> None:
        records = [record for record in data.records() if record["split"] == split and record.get("photo")]
        if not records:
            raise TristyleError(f"{data.path}: no {split} photos. Run stage=data with more pictures.")
        self.names = [Path(record["photo"]).name for record in records]
        self._pictures, self._masks = data.path / pictures, data.path / masks
        self.ids = [Path(name).stem for name in self.names]

    @property
    def size(self) -> int:
        """Height of the photos, px."""
        return int(self(range(1)).images.shape[1])

    def __call__(self, numbers: range, workers: int = 1) -> Photos:
        """Read the photos `numbers` in `workers` threads."""
        names = self.names[numbers.start : numbers.stop]
        images = load_images([self._pictures / name for name in names], workers)
        covers = load_masks([self._masks / name for name in names], workers)
        return Photos(self.ids[numbers.start : numbers.stop], images, covers)


class FolderPhotos:
    """The pictures of any folder and the folders in it, whatever their size and format, as squares of `size` px.

    A mask is the picture of the same name (and any suffix) in `mask/` beside the folder; the face reader draws those
    that are not given. The names are listed once, into `index`, so that a number means the same picture to every
    process; they are read from there, not held.

    Args:
        folder: what holds the pictures; other files and hidden ones are passed over.
        index: file for the list; used when it is there.
        size: side of the squares, px.
        reader, device: draw the masks.

    Raises:
        TristyleError: the folder holds no picture.
    """

    def __init__(self, folder: Path, index: Path, size: int, reader: Reader, device: str) -> None:
        self.folder, self.size, self.reader, self.device = folder, size, reader, device
        self._masks = mask_folder(folder)
        if not index.exists():
            write_bytes(index, b"".join(json.dumps(name).encode() + b"\n" for name in pictures_below(folder)))
        if not index.stat().st_size:
            raise TristyleError(
                f"{folder}: holds no pictures that may be used. Put some there, or leave out pair.write.photos."
            )
        self._lines = np.memmap(index, np.uint8, "r")
        self._ends = np.flatnonzero(self._lines == ord("\n"))
        self.ids: Sequence[str] = Numbered("p", len(self._ends))

    def __call__(self, numbers: range) -> Photos:
        """Read the photos `numbers`; those that cannot be read are `broken`."""
        count = len(numbers)
        images = np.zeros((count, self.size, self.size, 3), np.uint8)
        masks = np.zeros((count, self.size, self.size), np.uint8)
        broken, names, missing = {}, [self.name(number) for number in numbers], []
        for place, name in enumerate(names):
            try:
                images[place], mask = read_square(self.folder / name, self._mask(name), self.size)
            except ImageError as error:
                broken[place] = str(error)
                continue
            if mask is None:
                missing.append(place)
            else:
                masks[place] = mask

        # the face reader sees together all that have no mask
        if missing:
            masks[missing] = read_masks(self.reader, images[missing], self.device)
        notes = [{"source": name} for name in names]
        return Photos(list(self.ids[numbers.start : numbers.stop]), images, masks, broken, notes)

    def name(self, number: int) -> str:
        """Of a picture's file, relative to the folder."""
        start = int(self._ends[number - 1]) + 1 if number else 0
        name = str(parse_json(bytes(self._lines[start : self._ends[number]]), "the list of photos"))
        return name

    def _mask(self, name: str) -> Path | None:
        if self._masks is None:
            return None
        place = self._masks / name
        suffixes = dict.fromkeys((".png", place.suffix, *IMAGE_SUFFIXES))
        return next((file for suffix in suffixes if (file := place.with_suffix(suffix)).is_file()), None)


def mask_folder(photos: Path) -> Path | None:
    """The folder of the masks given with a folder of photos, if there is one: `mask/` beside it."""
    masks = photos.absolute().parent / "mask"
    return masks if masks.is_dir() else None


def pictures_below(folder: Path) -> list[str]:
    """Names of the pictures in a folder and the folders in it that may be used, relative to it, sorted.

    Hidden ones are passed over, and what tristyle wrote.

    Raises:
        TristyleError: a `sources.csv` that cannot be understood.
    """
    files = {path: name for path, name in below(folder).files if name.lower().endswith(IMAGE_SUFFIXES)}
    return sorted(files[path] for path in usable(files))


class Numbered(Sequence[str]):
    """Ids that are a letter and a number: `p000000017`."""

    def __init__(self, letter: str, total: int) -> None:
        self.letter, self.total = letter, total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, which: Any) -> Any:
        found = range(self.total)[which]
        return [f"{self.letter}{n:09d}" for n in found] if isinstance(found, range) else f"{self.letter}{found:09d}"


class Joined:
    """Sets of photos one after the other."""

    def __init__(self, sets: Sequence[PhotoSet]) -> None:
        self.sets = sets
        self.ids: Sequence[str] = Chained([photos.ids for photos in sets])

    def __call__(self, numbers: range) -> Photos:
        """Read the photos `numbers`."""
        parts, first = [], 0
        for photos in self.sets:
            within = range(max(numbers.start - first, 0), min(numbers.stop - first, len(photos.ids)))
            if within:
                parts.append(photos(within))
            first += len(photos.ids)
        return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[Photos]) -> Photos:
    ids: list[str] = []
    broken: dict[int, str] = {}
    notes: list[dict[str, Any]] = []
    for part in parts:
        broken |= {len(ids) + place: why for place, why in part.broken.items()}
        notes += part.notes or [{} for _ in part.ids]
        ids += part.ids
    images, masks = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "masks"))
    return Photos(ids, images, masks, broken, notes)


class Chained(Sequence[str]):
    """Sequences one after the other."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, which: Any) -> Any:
        found = range(len(self))[which]
        return [self._one(number) for number in found] if isinstance(found, range) else self._one(found)

    def _one(self, number: int) -> str:
        for part in self.parts:
            if number < len(part):
                return part[number]
            number -= len(part)
        raise IndexError(number)
