"""Own pictures: `photo/`, `style/<name>/` and, where there are any, `mask/` and `style_mask/<name>/` -> a data set.

Folders within them count. Every picture is turned upright, composited on one colour, cut to its centre square or, with
`faces=aligned`, along its face, and brought to one size by area averaging; head masks that are not given are drawn by a
parser. What cannot be read, is a copy, or lies beyond a limit is listed with its path and the reason and never used. A
style picture under a photo's file stem is that photo's true stylised twin: the two stay on one side of the split, and
where they are held out the twin is the truth that outputs are measured against.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stages.core.artifact import hash_path, hash_pictures
from stages.core.consent import FILE, LICENCE_CLASSES, refusals, tables_above
from stages.core.decode import shown
from stages.core.files import data_file, sha256_file, write_jsonl
from stages.core.images import write_image
from stages.core.settings import ConfigError, TristyleError, choice, image_size, number
from stages.core.stage import Stage
from stages.datasets.folders.cache import Cache, hand_out
from stages.datasets.folders.choose import (
    Assessed,
    RejectedFile,
    UsablePicture,
    within_limits,
    without_copies,
    without_repeats,
)
from stages.datasets.folders.contact_sheet import contact_sheet
from stages.datasets.folders.duplicates import BITS
from stages.datasets.folders.ingest import FACES, IngestJob, Treatment, ingest
from stages.datasets.folders.photo_quality import Limits
from stages.datasets.folders.sources import Listed, PictureSource, Sources, listed
from stages.datasets.pictures import mask_place

if TYPE_CHECKING:
    from stages.core.artifact import Artifact
    from stages.core.runtime import Runtime

PLACES = ("photo", "mask", "style", "style_mask")
LEAST = 2  # pictures a domain needs: one to train on, one held out
CACHE = ".ingest"  # beside the artifacts: what was made of single files
SHAPE = 0.02  # difference of width / height between a photo and its twin that rounding explains
LAYOUT = "expected photo/ and style/<name>/ with PNG, JPEG, WebP, BMP or GIF pictures in it."


@dataclass(kw_only=True)
class FolderData(Stage):
    """A folder of own pictures -> data artifact (photo, style and held-out pictures with head masks).

    Args:
        path: the folder; `photo/` and at least one `style/<name>/` in it, masks under the photo's stem, `sources.csv`
            (see `stages.datasets.folders.sources`) where licences and consent differ.
        size: side of the pictures written, px (a power of two).
        faces: what of a photo is used: `square`, its centre square; `aligned`, the FFHQ square around its largest face;
            `all`, that around every face, each a person of its own but the largest. Style pictures stay squares.
        weights: folder of facexlib's detection weights; without it see `stages.faces.detect.open_detector`.
        parser: weights of the face parser that draws the photos' missing masks; None for the shipped one. The face
            reader draws those of style pictures.
        limits: which photos are left out for their scores.
        duplicates: bits of a 64-bit perceptual hash up to which two photos count as one; None looks for none.
        heldout: share of the people, and of each style's pictures, that no training sees.
        person_pattern: regular expression on the file's path below photo/ without its suffix; its first group (or the
            whole match) names the person. Without it every file is a person of its own. `^([^_-]+)` takes the part
            before the first `_` or `-`, `^(.+)/` the folder.
        mask_labels: the values of a label mask that are head; without it a mask is 8-bit coverage, and every value
            but 0 of a palette or 0/1 mask is head. CelebAMask-HQ: [1, ..., 15].
        twins: a style picture under a photo's stem is its twin, the same person in the same pose (`pair=given` learns
            from those). Say false where equal names are chance, as with pictures that are merely numbered.
        background: RGB behind what is transparent.
        max_rejected: share of unreadable files above which the folder is refused instead of thinned.
        licence: the pictures' licence, kept with every record, where `sources.csv` does not say otherwise.
        licence_class: `open`, `research/non-commercial` or `unknown`; likewise.
        only: licence classes that are used, e.g. [open]; None uses all.
        seed: chooses who is held out.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    path: str | None = None
    size: int = 64
    faces: str = "square"
    weights: str | None = None
    parser: str | None = None
    limits: Limits = field(default_factory=Limits)
    duplicates: int | None = 4
    heldout: float = 0.1
    person_pattern: str | None = None
    mask_labels: list[int] | None = None
    twins: bool = True
    background: list[int] = field(default_factory=lambda: [255, 255, 255])
    max_rejected: float = 0.5
    licence: str = "unknown"
    licence_class: str = "unknown"
    only: list[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        image_size("size", self.size)
        choice("faces", self.faces, FACES)
        if self.duplicates is not None:
            number("duplicates", self.duplicates, 0, BITS // 4, integer=True)
        number("heldout", self.heldout, 0, 0.9, open_low=True)
        number("max_rejected", self.max_rejected, 0, 1)
        choice("twins", self.twins, (True, False))
        for licence_class in (self.licence_class, *(self.only or [])):
            choice("licence_class" if licence_class == self.licence_class else "only", licence_class, LICENCE_CLASSES)
        number("seed", self.seed, 0, integer=True)

        for label in self.mask_labels or []:
            number("mask_labels", label, 0, 255, integer=True)

        if len(self.background) != 3:
            raise ConfigError(
                "background", f"{self.background} is not a colour", "Give [red, green, blue], 0 to 255 each"
            )
        for part in self.background:
            number("background", part, 0, 255, integer=True)
        try:
            re.compile(self.person_pattern or "")
        except re.error as error:
            raise ConfigError(
                "person_pattern",
                f"{self.person_pattern!r} is not a regular expression ({error})",
                "For the part before the first _ or -: '^([^_-]+)'",
            ) from None

    def files(self) -> dict[str, Path]:
        """What is hashed into the artifact's key: the folder with all that is in it, and the networks."""
        if self.path is None:
            raise ConfigError("data.path", "no folder is given", f"Say data.path=DIR; {LAYOUT}")
        above = [file for file in tables_above(Path(self.path)) if file.parent != Path(self.path)]
        said = {f"sources.{number}": file for number, file in enumerate(above)}
        return {"path": Path(self.path), **said, **self._networks()}

    def digest(self, key: str, path: Path) -> str:
        """Of the folder only what `run` reads counts, however else it is used: `runs/` may lie in it."""
        return hash_pictures(path, PLACES) if key == "path" else hash_path(path)

    def _networks(self) -> dict[str, Path]:
        """The weights that draw masks and find faces; nothing stands for the cascade."""
        parser = data_file("parser.safetensors") if self.parser is None else Path(self.parser)
        found = {"reader": data_file("reader.safetensors"), "parser": parser}
        if self.faces != "square":
            from stages.faces.detect import find_detector
            from stages.faces.landmarks import find_landmarks

            files = {"detector": find_detector(self.weights), "landmarks": find_landmarks(self.weights)}
            found |= {name: file for name, file in files.items() if file is not None}
        return found

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, float]:
        """Write the data set under `out`; returns counts.

        Raises:
            TristyleError: the folder is missing or empty, or too few of its files are pictures.
        """
        root = self._root()
        cache = Cache(out.parent / CACHE)
        sources = Sources(root, PictureSource(self.licence, self.licence_class))

        styles = sorted(entry.name for entry in (root / "style").iterdir() if entry.is_dir())
        read = self._read(root, ["photo", *(f"style/{name}" for name in styles)], sources, cache, runtime)
        pictures, rejects = self._choose(root, read, sources, cache)
        if self.twins:
            rejects += self._couple(root, pictures)

        # Whole people are held out, a twin with its photo.
        apart = {place: self._held_out(root, place, pictures) for place in pictures}
        records = [row for where in pictures for row in place(pictures[where], apart[where], out, cache)]
        _place_twins(out, records)
        write_jsonl(out / "records.jsonl", records)
        write_jsonl(out / "rejects.jsonl", [reject.row() for reject in rejects])
        write_image(out / "sheet.png", contact_sheet(pictures["photo"], rejects, cache))
        cache.trim()
        return {**_counts(records), **_remarks(read["photo"], records, rejects, sources), "size": float(self.size)}

    # ------------------------------------------------------------------------------------------- reading

    def _root(self) -> Path:
        root = Path(self.path or "")
        if not root.is_dir():
            raise TristyleError(f"{root}: no such folder. Say data.path=DIR; {LAYOUT}")
        for need in ("photo", "style"):
            if not (root / need).is_dir():
                raise TristyleError(f"{root}: has no {need}/ folder. Make it; {LAYOUT}")
        if not any(entry.is_dir() for entry in (root / "style").iterdir()):
            raise TristyleError(f"{root / 'style'}: has no folder. Put the pictures of one style into style/<name>/.")
        return root

    def _read(
        self, root: Path, places: Sequence[str], sources: Sources, cache: Cache, runtime: Runtime
    ) -> dict[str, list[Assessed]]:
        """Everything that lies in each place, read unless its kind or its source leaves it out."""
        verdicts: dict[str, list[Assessed]] = {}
        for place in places:
            recipe, masks = self._recipe(place), root / mask_place(place)
            given = {entry.stem: entry.path for entry in listed(masks)} if masks.is_dir() else {}
            files = listed(root / place)
            verdicts[place] = [
                Assessed(IngestJob(file, given.get(file.stem), recipe), file.fault, broken=bool(file.fault))
                for file in files
            ]
            refused = refusals(file.path for file in files if not file.fault)
            for verdict in verdicts[place]:
                unwanted = self._unwanted(sources.of(f"{place}/{verdict.task.file.name}"))
                verdict.reason = verdict.reason or refused.get(verdict.task.file.path, "") or unwanted

        # One pool reads all places, so that no process waits for another place's end.
        todo = [verdict for group in verdicts.values() for verdict in group if not verdict.reason]
        with runtime.track.progress("data", len(todo), "files") as bar:
            entries = ingest([verdict.task for verdict in todo], cache.folder, runtime.workers, bar)
        for verdict, entry in zip(todo, entries, strict=True):
            verdict.entry, verdict.reason, verdict.broken = entry, entry.reason, bool(entry.fault)
        return verdicts

    def _recipe(self, place: str) -> Treatment:
        networks, photos = self._networks(), place == "photo"
        names = ("parser", "detector", "landmarks") if photos else ("reader",)
        return Treatment(
            size=self.size,
            faces=self.faces if photos else "square",
            labels=tuple(self.mask_labels) if self.mask_labels else None,
            background=tuple(self.background),
            parser=networks["parser"] if photos else None,
            weights=Path(self.weights) if photos and self.weights else None,
            models=tuple(f"{name} {sha256_file(networks[name])}" for name in names if name in networks),
        )

    def _unwanted(self, source: PictureSource) -> str:
        if self.only is not None and source.licence_class not in self.only:
            wanted = f"licence class {source.licence_class}, and only {', '.join(self.only)} is wanted"
            return f"{wanted}. Name it in {FILE}, or set data.only"
        return ""

    # ------------------------------------------------------------------------------------------- choosing

    def _choose(
        self, root: Path, read: dict[str, list[Assessed]], sources: Sources, cache: Cache
    ) -> tuple[dict[str, list[UsablePicture]], list[RejectedFile]]:
        """The usable pictures of each place, and what is not used and why."""
        pictures: dict[str, list[UsablePicture]] = {}
        rejects: list[RejectedFile] = []
        seen: dict[str, str] = {}
        for place, verdicts in read.items():
            out = [verdict.reject(root, place) for verdict in verdicts if verdict.reason]
            self._check_share(root / place, [reject for reject in out if reject.broken], len(verdicts))
            found = [
                UsablePicture(
                    verdict.task, place, verdict.entry, face, self._person(place, verdict.task.file, face), source
                )
                for verdict in verdicts
                if verdict.entry is not None and not verdict.reason
                for source in (sources.of(f"{place}/{verdict.task.file.name}"),)
                for face in range(len(verdict.entry.crops))
            ]

            found, copies = without_copies(found, seen)
            out += copies
            if place == "photo":
                found, beyond = within_limits(found, self.limits)
                found, repeats = without_repeats(found, self.duplicates, cache)
                out += beyond + repeats

            if len(found) < LEAST:
                first = out[0].reason if out else "it is empty"
                raise TristyleError(
                    f"{root / place}: {len(found)} usable pictures of {len(verdicts)} files, at least "
                    f"{LEAST} are needed ({first.rstrip('.')}). Put pictures there; {LAYOUT}"
                )
            pictures[place] = found
            rejects += sorted(out, key=lambda reject: (reject.name.split("/"), reject.face))
        return pictures, rejects

    def _check_share(self, folder: Path, broken: Sequence[RejectedFile], count: int) -> None:
        if count - len(broken) >= LEAST and len(broken) > self.max_rejected * count:
            raise TristyleError(
                f"{folder}: {len(broken)} of {count} files are unusable, the first "
                f"{shown(broken[0].name)} ({broken[0].reason.rstrip('.')}). Remove them, or raise data.max_rejected."
            )

    def _person(self, place: str, file: Listed, face: int) -> str:
        match = re.search(self.person_pattern, file.stem) if self.person_pattern and place == "photo" else None
        person = file.stem if match is None else match.group(1) if match.groups() else match.group(0)
        return f"{person}#{face}" if face else person  # who stands beside somebody is somebody else

    def _couple(self, root: Path, pictures: dict[str, list[UsablePicture]]) -> list[RejectedFile]:
        """Make style pictures under a photo's stem its twins; the first photo and the first picture of a stem count.

        Returns:
            Style pictures that are left out, as their shape is not their photo's: the two would not lie on each other.

        Raises:
            TristyleError: photos are cut along their faces, which twins are not; or too few pictures are left.
        """
        rejects: list[RejectedFile] = []
        photos: dict[str, tuple[str, UsablePicture]] = {}
        for index, photo in enumerate(pictures["photo"]):
            photos.setdefault(photo.task.file.stem, (f"{index:06d}", photo))
        for place in sorted(set(pictures) - {"photo"}):
            left, unlike = dict(photos), []
            for picture in pictures[place]:
                if picture.task.file.stem in left:
                    picture.twin_of, photo = left.pop(picture.task.file.stem)
                    picture.person = photo.person
                    if reason := _unlike(picture, photo):
                        unlike.append(picture.reject(reason))
                    if self.faces != "square":
                        raise TristyleError(
                            f"{root / picture.name}: under a photo's name, so its twin, but photos are cut along their "
                            "faces and twins are not. Say data.faces=square, or data.twins=false if the name is chance."
                        )

            left_out = {reject.name for reject in unlike}
            pictures[place] = [picture for picture in pictures[place] if picture.name not in left_out]
            if len(pictures[place]) < LEAST:
                raise TristyleError(f"{root / unlike[0].name}: {unlike[0].reason}")
            rejects += unlike
            _note_halves(place, pictures[place], [photo for _, photo in left.values()])
        return rejects

    # ------------------------------------------------------------------------------------------- splitting

    def _held_out(self, root: Path, place: str, pictures: dict[str, list[UsablePicture]]) -> list[bool]:
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
                "Add people, or mend data.person_pattern."
            )
        if all(apart) or not any(apart):
            side = "held out" if all(apart) else "trained on"
            raise TristyleError(
                f"{root / place}: its pictures are twins of photos that are all {side}. Add pairs, set another "
                "data.seed, or say data.twins=false if equal names mean nothing."
            )
        return apart

    def _draw(self, people: set[str]) -> set[str]:
        return heldout(sorted(people), self.heldout, self.seed) if people else set()


# ------------------------------------------------------------------------------------------------------- writing


def place(pictures: Sequence[UsablePicture], held: Sequence[bool], out: Path, cache: Cache) -> list[dict[str, Any]]:
    """Put one folder's pictures where the contract has them; their records."""
    records: list[dict[str, Any]] = []
    for index, (picture, apart) in enumerate(zip(pictures, held, strict=True)):
        name, entry, crop = f"{index:06d}", picture.entry, picture.crop
        style = picture.place.removeprefix("style/") if picture.place != "photo" else None
        folder = f"heldout/{picture.place}" if apart else picture.place
        masks = mask_place(folder)
        hand_out(cache.picture(entry.key, picture.face), out / folder / f"{name}.png")
        hand_out(cache.mask(entry.key, picture.face), out / masks / f"{name}.png")

        split = ("heldout" if apart else "train") if style is None else ("heldout_style" if apart else "style")
        drawn = "reader" if picture.task.recipe.parser is None else "parser"
        records.append(
            {
                "id": name,
                "split": split,
                "person": picture.person,
                "photo": f"{folder}/{name}.png",
                "mask": f"{masks}/{name}.png",
                "mask_from": "given" if crop.given else drawn,
                "style": style,
                "attributes": {},
                "source": picture.name,
                "sha256": entry.digest,
                **asdict(picture.source),
                "scores": crop.scores,
                **({"faces": entry.faces, "face": picture.face, "quad": crop.quad} if crop.quad else {}),
                **({"notes": entry.notes} if entry.notes else {}),
                **({"twin_of": picture.twin_of} if picture.twin_of else {}),
            }
        )
    return records


def _note_halves(place: str, pictures: Sequence[UsablePicture], photos: Sequence[UsablePicture]) -> None:
    """Where most are pairs, note of the pictures of a style, and of the photos without a twin there."""
    alone = [picture for picture in pictures if not picture.twin_of]
    pairs = len(pictures) - len(alone)
    for picture in alone if pairs > len(alone) else ():
        picture.entry.notes.append("no photo of its name, so no pair")
    for photo in photos if pairs > len(photos) else ():
        photo.entry.notes.append(f"no picture of its name in {place}, so no pair")


def _unlike(twin: UsablePicture, photo: UsablePicture) -> str:
    """Why two pictures of one name are not a pair, "" when they may be one."""
    (height, width), (tall, wide) = twin.entry.shape, photo.entry.shape
    if abs(wide / tall - width / height) <= SHAPE:
        return ""
    shapes = f"{width}x{height} px where {photo.name} has {wide}x{tall}"
    return f"{shapes}, so they are not a pair. Mend one, or say data.twins=false if the name is chance."


def _place_twins(out: Path, records: Sequence[dict[str, Any]]) -> None:
    """Held-out twins once more under their photo's id, where outputs for that photo are compared with them."""
    for record in records:
        if record["split"] == "heldout_style" and "twin_of" in record:
            target = out / "heldout" / "twin" / record["style"] / f"{record['twin_of']}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / record["photo"], target)


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


def _remarks(
    photos: Sequence[Assessed], records: Sequence[dict[str, Any]], rejects: Sequence[RejectedFile], sources: Sources
) -> dict[str, float]:
    """What is not used, and what should be known of the rest."""
    looked = [verdict.entry.faces for verdict in photos if verdict.entry and verdict.entry.faces is not None]
    noted, idle = sum("notes" in record for record in records), len(sources.idle())
    return {
        "rejected": float(len(rejects)),
        **({"found": sum(faces > 0 for faces in looked) / len(looked)} if looked else {}),
        **({"noted": float(noted)} if noted else {}),
        **({"sources_idle": float(idle)} if idle else {}),
    }


def heldout(people: Sequence[str], share: float, seed: int) -> set[str]:
    """Who is held out: the `share` of the distinct people with the lowest hash, at least one.

    By hash and not by order, so that a person stays on one side when other people are added.
    """
    ranked = sorted(set(people), key=lambda person: hashlib.sha256(json.dumps([seed, person]).encode()).digest())
    return set(ranked[: max(1, round(share * len(ranked)))])
