"""Own pictures: `photo/`, `style/<name>/` and, where there are any, `mask/` and `style_mask/<name>/` -> a data set.

Every picture is turned upright, composited on white, cut to its centre square and brought to one size by area
averaging. What cannot be read is listed with its path and the reason and never used. Head masks that are not given
come from the face reader. A style picture under a photo's file stem is that photo's true stylised twin: the two stay on
one side of the split, and where they are held out the twin is the truth that outputs are measured against.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stages import io
from stages.config import ConfigError, TristyleError, choice, image_size, number
from stages.datasets.pictures import read_mask, read_square, read_whole, square
from stages.datasets.stage import mask_place

__all__ = ["FolderData", "heldout", "read_mask", "read_whole", "square"]

if TYPE_CHECKING:
    from stages.artifact import Artifact
    from stages.runtime import Runtime
    from stages.tracking import Progress

LEAST = 2  # pictures a domain needs: one to train on, one held out
READER_BATCH = 64
LAYOUT = "expected photo/ and style/<name>/ with PNG, JPEG, WebP, TIFF, BMP or GIF pictures in it"


@dataclass
class Picture:
    """One usable source picture: its file, whose it is, the mask file given for it, the photo (id) whose twin it is."""

    path: Path
    person: str
    mask: Path | None
    twin_of: str | None = None


@dataclass(kw_only=True)
class FolderData:
    """A folder of own pictures -> data artifact (photo, style and held-out pictures with head masks).

    Args:
        path: the folder; `photo/` and at least one `style/<name>/` in it, masks under the photo's stem.
        size: side of the pictures written, px (a power of two).
        heldout: share of the people, and of each style's pictures, that no training sees.
        person_pattern: regular expression on the file's stem; its first group (or the whole match) names the person.
            Without it every file is a person of its own. `^([^_-]+)` takes the part before the first `_` or `-`.
        mask_labels: the values of a label mask that are head; without it a mask is 8-bit coverage, and every value
            but 0 of a palette or 0/1 mask is head. CelebAMask-HQ: [1, ..., 15].
        twins: a style picture under a photo's stem is its twin, the same person in the same pose (`pair=given` learns
            from those). Say false where equal names are chance, as with pictures that are merely numbered.
        max_rejected: share of unusable files above which the folder is refused instead of thinned.
        licence: the pictures' licence, kept with every record.
        licence_class: `open`, `research/non-commercial` or `unknown`.
        seed: chooses who is held out.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    path: str | None = None
    size: int = 64
    heldout: float = 0.1
    person_pattern: str | None = None
    mask_labels: list[int] | None = None
    twins: bool = True
    max_rejected: float = 0.5
    licence: str = "unknown"
    licence_class: str = "unknown"
    seed: int = 0

    def __post_init__(self) -> None:
        image_size("size", self.size)
        number("heldout", self.heldout, 0, 0.9, open_low=True)
        number("max_rejected", self.max_rejected, 0, 1)
        choice("twins", self.twins, (True, False))
        number("seed", self.seed, 0, integer=True)
        for label in self.mask_labels or []:
            number("mask_labels", label, 0, 255, integer=True)
        try:
            re.compile(self.person_pattern or "")
        except re.error as error:
            raise ConfigError(
                "person_pattern",
                f"{self.person_pattern!r} is no regular expression ({error})",
                "For the part before the first _ or -: '^([^_-]+)'",
            ) from None

    def files(self) -> dict[str, Path]:
        """The folder, hashed with all that is in it into the artifact's key: a changed photo is a new data set."""
        if self.path is None:
            raise ConfigError("data.path", "no folder is given", f"Say data.path=DIR; {LAYOUT}")
        return {"path": Path(self.path)}

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, float]:
        """Write the data set under `out`; returns counts.

        Raises:
            TristyleError: the folder is missing or empty, or too few of its files are pictures.
        """
        root = self._root()
        styles = sorted(entry.name for entry in (root / "style").iterdir() if entry.is_dir())
        found = {place: _entries(root / place) for place in ["photo", *(f"style/{name}" for name in styles)]}
        seen: dict[str, Path] = {}
        pictures: dict[str, list[Picture]] = {}
        rejects: list[dict[str, str]] = []
        with runtime.track.progress("data", sum(map(len, found.values())), "files") as bar:
            for place, entries in found.items():
                pictures[place], bad = self._read_all(root, place, entries, seen, out, bar)
                rejects += bad
        if self.twins:
            _couple(pictures)
        apart = {place: self._held_out(root, place, pictures) for place in pictures}
        records = [row for place in pictures for row in self._place(root, place, pictures[place], apart[place], out)]
        _place_twins(out, records)
        self._fill_masks(out, records)
        io.write_jsonl(out / "records.jsonl", records)
        io.write_jsonl(out / "rejects.jsonl", rejects)
        return {**_counts(records), "rejected": float(len(rejects)), "size": float(self.size)}

    # ------------------------------------------------------------------------------------------- reading

    def _root(self) -> Path:
        root = self.files()["path"]
        if not root.is_dir():
            raise TristyleError(f"{root}: no such folder. Say data.path=DIR; {LAYOUT}")
        for need in ("photo", "style"):
            if not (root / need).is_dir():
                raise TristyleError(f"{root}: has no {need}/ folder. Make it; {LAYOUT}")
        if not any(entry.is_dir() for entry in (root / "style").iterdir()):
            raise TristyleError(f"{root / 'style'}: has no folder. Put the pictures of one style into style/<name>/")
        return root

    def _read_all(
        self, root: Path, place: str, entries: Sequence[Path], seen: dict[str, Path], out: Path, bar: Progress
    ) -> tuple[list[Picture], list[dict[str, str]]]:
        """Read every file of one folder, leave it squared in scratch, and list what is unusable with its reason."""
        masks = root / mask_place(place)
        given = {path.stem: path for path in _entries(masks)} if masks.is_dir() else {}
        pictures: list[Picture] = []
        rejects: list[dict[str, str]] = []
        for path in entries:
            mask = given.get(path.stem)
            try:
                pictures.append(self._read(path, mask, seen, _scratch(out, place, len(pictures))))
            except io.ImageError as error:
                at_fault = mask if mask and str(error).startswith(f"{mask}: ") else path
                reason = str(error).removeprefix(f"{at_fault}: ")
                rejects.append({"path": str(at_fault.relative_to(root)), "reason": reason})
            bar.update(bar.done + 1)
        if len(pictures) < LEAST:
            first = rejects[0]["reason"] if rejects else "it is empty"
            raise TristyleError(
                f"{root / place}: {len(pictures)} usable pictures of {len(entries)} files, at least "
                f"{LEAST} are needed ({first}). Put pictures there; {LAYOUT}"
            )
        if len(rejects) > self.max_rejected * len(entries):
            worst = rejects[0]
            raise TristyleError(
                f"{root / place}: {len(rejects)} of {len(entries)} files are unusable, the first "
                f"{worst['path']} ({worst['reason']}). Remove them, or raise data.max_rejected"
            )
        return pictures, rejects

    def _read(self, path: Path, mask_path: Path | None, seen: dict[str, Path], scratch: Path) -> Picture:
        if not path.is_file():  # a folder, a pipe, a dangling link: opening some of these would block
            raise io.ImageError(f"{path}: not a regular file")
        digest = io.sha256_file(path)
        if digest in seen:
            raise io.ImageError(f"{path}: the same bytes as {seen[digest].name}")
        photo, mask = read_square(path, mask_path, self.size, self.mask_labels)
        if mask is not None:
            io.write_image(scratch.with_suffix(".mask.png"), mask)
        io.write_image(scratch, photo)
        seen[digest] = path
        return Picture(path, self._person(path) if path.parent.name == "photo" else path.stem, mask_path)

    def _person(self, path: Path) -> str:
        match = re.search(self.person_pattern, path.stem) if self.person_pattern else None
        if match is None:
            return path.stem
        return match.group(1) if match.groups() else match.group(0)

    # ------------------------------------------------------------------------------------------- writing

    def _held_out(self, root: Path, place: str, pictures: dict[str, list[Picture]]) -> list[bool]:
        """Which pictures of one folder no training sees: whole people, or style pictures, and a twin with its photo.

        People who have twins are drawn apart from the others, so that there are some on either side.
        """
        own = pictures[place]
        coupled = {picture.person for group in pictures.values() for picture in group if picture.twin_of}
        people = {picture.person for picture in pictures["photo"]}
        held = self._draw(people & coupled) | self._draw(people - coupled)
        if place == "photo":
            apart = [picture.person in held for picture in own]
        else:
            loose = self._draw({picture.person for picture in own if not picture.twin_of})
            apart = [picture.person in (held if picture.twin_of else loose) for picture in own]
        if all(apart) and not any(picture.twin_of for picture in own):
            raise TristyleError(
                f"{root / place}: all pictures are of one person, none could be held out. "
                "Add people, or mend data.person_pattern"
            )
        if all(apart) or not any(apart):
            side = "held out" if all(apart) else "trained on"
            raise TristyleError(
                f"{root / place}: its pictures are twins of photos that are all {side}. Add pairs, set another "
                "data.seed, or say data.twins=false if equal names mean nothing"
            )
        return apart

    def _draw(self, people: set[str]) -> set[str]:
        return heldout(sorted(people), self.heldout, self.seed) if people else set()

    def _place(
        self, root: Path, place: str, pictures: list[Picture], held: list[bool], out: Path
    ) -> list[dict[str, Any]]:
        """Move one folder's pictures to where the contract has them; their records."""
        style = place.removeprefix("style/") if place != "photo" else None
        records: list[dict[str, Any]] = []
        for index, (picture, apart) in enumerate(zip(pictures, held, strict=True)):
            name, scratch = f"{index:06d}", _scratch(out, place, index)
            folder = f"heldout/{place}" if apart else place
            masks = mask_place(folder)
            _move(scratch, out / folder / f"{name}.png")
            if picture.mask is not None:
                _move(scratch.with_suffix(".mask.png"), out / masks / f"{name}.png")
            split = ("heldout" if apart else "train") if style is None else ("heldout_style" if apart else "style")
            records.append(
                {
                    "id": name,
                    "split": split,
                    "person": picture.person,
                    "photo": f"{folder}/{name}.png",
                    "mask": f"{masks}/{name}.png",
                    "mask_from": "given" if picture.mask is not None else "reader",
                    "style": style,
                    "attributes": {},
                    "source": str(picture.path.relative_to(root)),
                    "licence": self.licence,
                    "licence_class": self.licence_class,
                    **({"twin_of": picture.twin_of} if picture.twin_of else {}),
                }
            )
        return records

    def _fill_masks(self, out: Path, records: list[dict[str, Any]]) -> None:
        """Let the face reader draw the head masks that were not given."""
        missing = [record for record in records if record["mask_from"] == "reader"]
        if not missing:
            return
        import torch

        from stages.faces.reader import load_reader

        reader = load_reader()
        for start in range(0, len(missing), READER_BATCH):
            part = missing[start : start + READER_BATCH]
            images = io.to_tensor(io.load_images([out / record["photo"] for record in part]))
            with torch.no_grad():
                masks = reader.read(images).mask.mul(255).round().to(torch.uint8).numpy()
            for record, mask in zip(part, masks[:, 0], strict=True):
                io.write_image(out / record["mask"], mask)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; names that start with a dot (.DS_Store, editors' leavings) are no pictures."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _couple(pictures: dict[str, list[Picture]]) -> None:
    """Tell style pictures under a photo's stem whose twin they are; the first photo and picture of a stem count."""
    photos: dict[str, tuple[str, str]] = {}
    for index, photo in enumerate(pictures["photo"]):
        photos.setdefault(photo.path.stem, (f"{index:06d}", photo.person))
    for place in set(pictures) - {"photo"}:
        left = dict(photos)
        for picture in pictures[place]:
            if picture.path.stem in left:
                picture.twin_of, picture.person = left.pop(picture.path.stem)


def _place_twins(out: Path, records: Sequence[dict[str, Any]]) -> None:
    """Held-out twins once more under their photo's id, where outputs for that photo are compared with them."""
    for record in records:
        if record["split"] == "heldout_style" and "twin_of" in record:
            target = out / "heldout" / "twin" / record["style"] / f"{record['twin_of']}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / record["photo"], target)


def _scratch(out: Path, place: str, index: int) -> Path:
    return out / ".scratch" / place / f"{index:06d}.png"


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _counts(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    splits = [record["split"] for record in records]
    twins = sum("twin_of" in record for record in records)
    return {
        "count": float(splits.count("train")),
        "heldout": float(splits.count("heldout")),
        "style_count": float(splits.count("style")),
        "heldout_style": float(splits.count("heldout_style")),
        **({"twins": float(twins)} if twins else {}),
    }


def heldout(people: Sequence[str], share: float, seed: int) -> set[str]:
    """Who is held out: the `share` of the distinct people with the lowest hash, at least one.

    By hash and not by order, so that a person stays on one side when other people are added.
    """
    ranked = sorted(set(people), key=lambda person: hashlib.sha256(json.dumps([seed, person]).encode()).digest())
    return set(ranked[: max(1, round(share * len(ranked)))])
