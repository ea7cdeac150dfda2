"""Held-out portraits of people, and what their data say of them: the ground that `evaluate people` stands on.

Two layouts are read. A sealed data artifact holds out people itself. A folder with a `manifest.csv` lists pictures with
`file`, `person_group`, `sha256` and `landmarks5` (five points, px); of these a fifth of the people is held out, by a
hash of who they are.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from stages.core.artifact import Artifact, open_artifact
from stages.core.consent import usable
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.datasets.people import HELDOUT_PEOPLE, open_people
from stages.faces.align import crop, ffhq_quad
from stages.faces.detect import open_detector
from stages.faces.parse import Parser
from stages.metrics.heldout import read_heldout, read_style
from stages.networks.face_labels import PARSER_HEAD, PARSER_SKIN
from stages.recipes.parser_labels import heldout

LABELLED = "parsing_gt/celebamask512/image/"  # portraits with ground-truth masks
SETS = ("portraits_hr/wild512/", "portraits_hr/studio512/", "photos/misc256/", "photos/ytfaces256/", LABELLED)
FULL = 256  # px a side at which labels are read
DRAWN = 192  # px a side at which people with truth are drawn in a style
WORN = ("glasses", "beard", "hat")  # attributes of a data set's records that name a kind
BARE = ("none", "stubble", "")  # their values that do not


@dataclass
class Portraits:
    """N held-out portraits at one size, and what is known of them.

    Attributes:
        names: the first digits of the pictures' sha256, or their ids.
        people: whom each shows.
        sessions: in which clip each was taken; the picture itself where it is not of a clip.
        photo: uint8 RGB [N, S, S, 3].
        points: float64 [N, 5, 2] px: eyes, nose, corners of the mouth, image left first.
        head, person: coverage uint8 [N, S, S] of the head, and of the whole person.
        labels: uint8 [N, FULL, FULL], labels of the face parser.
        skin: bool [N, S, S].
        said: kinds that the data name for each picture, e.g. {"glasses"}.
        spoken: kinds that the data label. A missing label of another kind says nothing.
    """

    names: list[str]
    people: list[str]
    sessions: list[str]
    photo: np.ndarray
    points: np.ndarray
    head: np.ndarray
    person: np.ndarray
    labels: np.ndarray
    skin: np.ndarray
    said: list[set[str]] = field(default_factory=list)
    spoken: set[str] = field(default_factory=set)


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A square picture or mask made smaller by areas, or larger by cubic interpolation."""
    if picture.shape[0] == size:
        return picture
    way = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=way)


def load_portraits(data: Path, size: int, parser: Parser, weights: Path, labels: Path | None = None) -> Portraits:
    """The held-out portraits of a data artifact, or of a folder with a `manifest.csv`.

    Args:
        data: the folder.
        size: side of the portraits, px.
        parser: finds heads and skin where the data have no masks.
        weights: folder of the detector that finds the five points where the data have none. Pictures without a face
            are left out.
        labels: a table with the columns `sha256` (its first digits will do) and `kinds` (names with `;` between them).

    Raises:
        TristyleError: another layout, nobody held out, or no face found.
    """
    if (data / "records.jsonl").is_file():
        found = _of_artifact(open_artifact(data, "data"), size, parser, weights)
    elif (data / "manifest.csv").is_file():
        found = _of_table(data, size, parser)
    else:
        raise TristyleError(f"{data}: has neither records.jsonl nor manifest.csv. Give a data artifact, or a table.")
    if labels is not None:
        _label(found, labels)
    return found


def _label(portraits: Portraits, table: Path) -> None:
    """Add the kinds that a table names."""
    try:
        with open(table, newline="") as file:
            rows = {row["sha256"]: {kind for kind in row["kinds"].split(";") if kind} for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise TristyleError(f"{table}: not a table of kinds ({error}). Give the columns sha256 and kinds.") from None
    portraits.spoken |= set().union(*rows.values()) if rows else set()
    for name, said in zip(portraits.names, portraits.said, strict=True):
        said |= next((kinds for digest, kinds in rows.items() if name.startswith(digest[:8])), set())


# ---------------------------------------------------------------------------------------------------------------------
# A folder with a manifest


def _of_table(data: Path, size: int, parser: Parser) -> Portraits:
    with open(data / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith(SETS) and heldout(row["person_group"])]
    kept = set(usable(data / row["file"] for row in rows))
    rows = [row for row in rows if data / row["file"] in kept]
    if not rows:
        raise TristyleError(f"{data}: holds out nobody in {', '.join(SETS)}. Add portraits to its manifest.csv.")
    pictures = [read_image(data / row["file"]) for row in rows]
    full = np.stack([resized(picture, FULL) for picture in pictures])
    labels, heads = parser.labels(full), parser.head(full)

    # Where true masks lie beside the pictures, they take the parser's place.
    for index, row in enumerate(rows):
        truth = data / row["file"].replace("/image/", "/mask/").replace(".jpg", ".png")
        if row["file"].startswith(LABELLED) and truth.is_file():
            exact = _stored(truth)
            labels[index] = cv2.resize(exact, (FULL, FULL), interpolation=cv2.INTER_NEAREST)
            heads[index] = resized(np.isin(exact, PARSER_HEAD).astype(np.uint8) * 255, FULL)

    points = []
    for row, picture in zip(rows, pictures, strict=True):
        five = np.array(row["landmarks5"].split(), np.float64).reshape(5, 2)
        points.append((five + 0.5) * size / picture.shape[0] - 0.5)
    return Portraits(
        names=[row["sha256"][:8] for row in rows],
        people=[row["person_group"] for row in rows],
        sessions=[_session(row["file"], row["person_group"]) for row in rows],
        photo=np.stack([resized(picture, size) for picture in pictures]),
        points=np.stack(points),
        head=np.stack([resized(mask, size) for mask in heads]),
        person=np.stack([resized(_person(data, row["file"]), size) for row in rows]),
        labels=labels,
        skin=_skin(labels, size),
        said=[{kind for kind in row.get("kinds", "").split(";") if kind} for row in rows],
        spoken={kind for row in rows for kind in row.get("kinds", "").split(";") if kind},
    )


def _session(file: str, person: str) -> str:
    """Frames of one video clip (te|tr_<name>_<clip><frame>.jpg) are one session, every other photo its own."""
    return f"{person}/{Path(file).stem[-2]}" if "ytfaces" in file else file


def _stored(path: Path) -> np.ndarray:
    """Ground truth as it lies in a palette PNG: uint8 [H, W], labels of the face parser."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def _person(data: Path, file: str) -> np.ndarray:
    """Coverage of the whole person [256, 256]; without a mask all of it, so that nothing is background."""
    path = data / "labels" / "person_mask" / f"{Path(file).with_suffix('')}.png".replace("/", "__")
    return read_image(path)[..., 0] if path.is_file() else np.full((FULL, FULL), 255, np.uint8)


def _skin(labels: np.ndarray, size: int) -> np.ndarray:
    skin = np.isin(labels, PARSER_SKIN).astype(np.uint8) * 255
    return np.stack([resized(one, size) for one in skin]) > 127


# ---------------------------------------------------------------------------------------------------------------------
# A data artifact


def _of_artifact(data: Artifact, size: int, parser: Parser, weights: Path) -> Portraits:
    found = read_heldout(data, "", 1)
    photo = np.stack([resized(picture, size) for picture in found.photo])
    points, seen = _points(data, photo, found.photo.shape[1], weights)
    if not seen.any():
        raise TristyleError(f"{data.path}: no face found in its held-out photos. Give --weights DIR for RetinaFace.")

    records = {Path(row["photo"]).stem: row for row in data.records() if row["split"] == "heldout"}
    attributes = [records[name].get("attributes", {}) for name in found.ids]
    labels = parser.labels(np.stack([resized(picture, FULL) for picture in found.photo]))
    keep = np.flatnonzero(seen)
    return Portraits(
        names=[str(records[found.ids[i]].get("sha256", found.ids[i])) for i in keep],
        people=[found.people[i] for i in keep],
        sessions=[found.ids[i] for i in keep],
        photo=photo[keep],
        points=points[keep],
        head=np.stack([resized(found.mask[i], size) for i in keep]),
        person=np.full((len(keep), size, size), 255, np.uint8),
        labels=labels[keep],
        skin=_skin(labels, size)[keep],
        said=[{kind for kind in WORN if attributes[i].get(kind, "none") not in BARE} for i in keep],
        spoken={kind for kind in WORN if any(kind in one for one in attributes)},
    )


def _points(data: Artifact, photo: np.ndarray, side: int, weights: Path) -> tuple[np.ndarray, np.ndarray]:
    """The five points [N, 5, 2] px by the data's 68 landmarks, else by a detector; and which pictures have them."""
    file = data.path / "heldout" / "landmarks.npz"
    if file.is_file():
        with np.load(file) as stored:
            marks = (stored["photo"].astype(np.float64) + 0.5) * photo.shape[1] / side - 0.5
        parts = [marks[:, 36:42].mean(1), marks[:, 42:48].mean(1), marks[:, 30], marks[:, 48], marks[:, 54]]
        return np.stack(parts, axis=1), np.ones(len(photo), bool)
    detector = open_detector(weights)
    found = [detector(picture)[:1] for picture in photo]
    points = [faces[0].points if faces else np.full((5, 2), np.nan) for faces in found]
    return np.stack(points), np.array([bool(faces) for faces in found])


# ---------------------------------------------------------------------------------------------------------------------
# Style pictures


def heldout_style(name: str) -> bool:
    """Whether a style picture (its file's name) only scores and is never trained on: a third of them."""
    return int(hashlib.sha256(f"tristyle/style/{name}".encode()).hexdigest()[:8], 16) % 3 == 0


def style_pictures(data: Path, style: str, size: int) -> np.ndarray:
    """Held-out pictures of a style: of a data artifact, of DATA/styles/, or of people with truth: uint8 [n, S, S, 3].

    Raises:
        TristyleError: no such style.
    """
    if (data / "records.jsonl").is_file() and (found := read_style(open_artifact(data, "data"), style, 1)) is not None:
        return np.stack([resized(picture, size) for picture in found.images])
    if (data / "styles" / style).is_dir():
        files = usable(file for file in sorted((data / "styles" / style).iterdir()) if heldout_style(file.name))
        return np.stack([resized(read_image(file), size) for file in files])
    return drawn(style, size)


def drawn(style: str, size: int, count: int = 500) -> np.ndarray:
    """Held-out people with truth as a style draws them, cut as FFHQ: uint8 [count, size, size, 3].

    Raises:
        TristyleError: no such style.
    """
    people, found = open_people(), []
    if style not in people.styles:
        known = ", ".join(people.styles)
        raise TristyleError(f"--styles: {style!r} is unknown. Give a folder of DATA/styles, or one of {known}.")
    for person in range(HELDOUT_PEOPLE, HELDOUT_PEOPLE + count):
        made = people.styled(person, 0, style, DRAWN)
        found.append(crop(made.image, ffhq_quad(made.landmarks), size)[0])
    return np.stack(found)


def styles_of(data: Path, given: Sequence[str] | None, default: Collection[str]) -> list[str]:
    """The styles named on the command line; else those of the data, which the defaults take the place of."""
    if given is not None:
        return list(given)
    folder = data / "heldout" / "style"
    if folder.is_dir():
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    return [name for name in default if (data / "styles" / name).is_dir()]
