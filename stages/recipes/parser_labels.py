"""Pictures that a face parser is trained on, and what is known of each pixel.

A pixel's code is a label of CelebAMask-HQ (0 to 18), or a number from 19 on that stands for a set: one of its labels.
Label masks give labels, and so do people with truth. Of a photo we know the person, by a soft mask,
and 468 points of the face. So what is outside the person is background, what of it lies above the nose is head,
and so on.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.consent import usable
from stages.core.decode import ImageError
from stages.core.settings import TristyleError
from stages.core.workers import in_order
from stages.datasets.people import READER_PEOPLE, open_people
from stages.datasets.pictures import read_mask, read_whole
from stages.networks.face_labels import PARSER, PARSER_FACE, PARSER_HEAD, PARSER_LABELS, PARSER_MIRROR, numbers
from stages.training.fit import Batches, epoch_order

STORED = 192  # pixels a side that pictures are kept at: views of them are cut at `FaceParser.size`


# ---------------------------------------------------------------------------------------------------------------------
# Pictures with label masks


@dataclass
class Labelled:
    """Portraits and their labels: uint8 [N, 3, S, S] and uint8 [N, S, S], on any one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: np.ndarray) -> Labelled:
        """The pictures of these indices, or where a bool [N] is set."""
        index = torch.from_numpy(chosen)
        return Labelled(self.images[index], self.labels[index])

    def sized(self, side: int) -> Labelled:
        """The same at `side` pixels a side."""
        if self.images.shape[-1] == side:
            return self
        shape = (side, side)
        pictures = [F.interpolate(part, shape, mode="bilinear", antialias=True) for part in self.images.split(256)]
        labels = F.interpolate(self.labels[:, None], shape, mode="nearest-exact")
        return Labelled(torch.cat(pictures), labels[:, 0])

    def batches(self, seed: int) -> Batches:
        """Training data in an endless order, shuffled anew after every picture was seen."""

        def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
            part = self.rows(epoch_order(len(self), seed, start, count)[rows])
            return {"image": part.images, "labels": part.labels}

        return batches


def heldout(person: str) -> bool:
    """Is this person held out? A fifth is, by hash: the same ones whatever else is added."""
    return int(hashlib.sha256(f"tristyle/{person}".encode()).hexdigest()[:8], 16) % 5 == 0


def load_labelled(images: Path, masks: Path, side: int = STORED) -> tuple[Labelled, list[str]]:
    """Pictures that have a mask of the same stem, squares of `side` pixels, and their stems.

    Raises:
        TristyleError: fewer than two pairs, a picture that is not square, or a mask that is not a label mask.
    """
    by_stem = {path.stem: path for path in sorted(masks.iterdir()) if path.suffix.lower() == ".png"}
    chosen = usable(path for path in sorted(images.iterdir()) if path.stem in by_stem)
    if len(chosen) < 2:
        raise TristyleError(f"{images}: {len(chosen)} pictures have a mask of their name in {masks}; give at least 2.")
    pictures = np.empty((len(chosen), side, side, 3), np.uint8)
    labels = np.empty((len(chosen), side, side), np.uint8)
    for row, path in enumerate(chosen):
        picture, values = read_whole(path), read_labels(by_stem[path.stem])
        if picture.shape[0] != picture.shape[1] or values.shape[0] != values.shape[1]:
            raise TristyleError(f"{path}: the picture or its mask is not square. Crop both alike.")
        pictures[row] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        labels[row] = reduce_labels(values, side)
    kept = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    return Labelled(kept, torch.from_numpy(labels)), [path.stem for path in chosen]


def read_labels(path: Path) -> np.ndarray:
    """The stored values of a label mask: uint8 [H, W], each under 19.

    Raises:
        ImageError: unreadable, or no such mask.
    """
    from PIL import Image

    read_whole(path)  # refuses what is damaged, in one line
    with Image.open(path) as opened:
        values = np.array(opened) if opened.mode in ("P", "L") else None
    if values is None or values.max() >= len(PARSER_LABELS):
        raise ImageError(f"{path}: is not a mask of labels 0 to {len(PARSER_LABELS) - 1}. Give a palette or grey PNG.")
    return values


def reduce_labels(values: np.ndarray, side: int) -> np.ndarray:
    """Labels [H, W] at `side` pixels a side: the one that covers most of each pixel."""
    shape = (side, side)
    cover = [cv2.resize((values == k).astype(np.uint8) * 255, shape, interpolation=cv2.INTER_AREA) for k in range(19)]
    out: np.ndarray = np.argmax(cover, axis=0).astype(np.uint8)
    return out


def people_of(table: Path | None, stems: list[str]) -> list[str]:
    """Who is on each picture: `person_group` of the row whose `file` has its stem; the stem itself without a table.

    Raises:
        TristyleError: a picture is not in the table, or the table has no such columns.
    """
    if table is None:
        return stems
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        person = {Path(row["file"]).stem: row["person_group"] for row in rows if row["person_group"]}
        return [person[stem] for stem in stems]
    except KeyError as error:
        raise TristyleError(f"{table}: names no person for {error}. Give the columns file and person_group.") from None


# ---------------------------------------------------------------------------------------------------------------------
# Sets of labels: a pixel's code is a label, 0..18, or one of these, meaning one of its labels

_SETS: dict[str, tuple[int, ...]] = {
    "anything": tuple(range(19)),
    "person": tuple(range(1, 19)),
    "head": tuple(PARSER_HEAD),
    "face": PARSER_FACE,  # within the face's oval: skin, nose, glasses, a fringe, a brim
    # Points do not show glasses, or hair, before them.
    "l_eye": numbers(PARSER_LABELS, "l_eye", "glasses"),
    "r_eye": numbers(PARSER_LABELS, "r_eye", "glasses"),
    "l_brow": numbers(PARSER_LABELS, "l_brow", "glasses", "hair"),
    "r_brow": numbers(PARSER_LABELS, "r_brow", "glasses", "hair"),
}
CODES = {name: len(PARSER_LABELS) + number for number, name in enumerate(_SETS)}
_OTHER_SIDE = {"l_eye": "r_eye", "r_eye": "l_eye", "l_brow": "r_brow", "r_brow": "l_brow"}
MIRRORED = (*PARSER_MIRROR, *(CODES[_OTHER_SIDE.get(name, name)] for name in _SETS))  # codes of a mirrored picture
# [codes, labels]: 1 where a label is in the set.
MEMBERS = torch.eye(len(PARSER_LABELS) + len(_SETS), len(PARSER_LABELS))
for _name, _labels in _SETS.items():
    MEMBERS[CODES[_name], list(_labels)] = 1
_IN_HEAD = torch.tensor([label in PARSER_HEAD for label in range(len(PARSER_LABELS))]).float()
SURELY_HEAD = (MEMBERS * (1 - _IN_HEAD)).sum(1) == 0  # [codes]
MAYBE_HEAD = (MEMBERS * _IN_HEAD).sum(1) > 0

# Face Mesh's points around things, from its canonical model. Right and left are the person's.
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
PARTS = {
    "r_brow": (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    "l_brow": (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
    "r_eye": (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    "l_eye": (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
    "u_lip": OUTER_LIPS,
    "l_lip": (*OUTER_LIPS[:11], *INNER_LIPS[10::-1]),
    "mouth": INNER_LIPS,
}
NOSE, CHIN, FOREHEAD = 1, 152, 10
SURE_MESH = 0.9  # Face Mesh's score under which its points are not used (profiles, covered faces)


def weak_labels(person: np.ndarray, points: np.ndarray | None) -> np.ndarray:
    """What a person mask and Face Mesh say of a photo.

    Args:
        person: float [S, S] in [0, 1], how surely each pixel is the person.
        points: [468, 2] x, y in pixels, pixel (0, 0) with its centre at 0, 0; None where there are none.

    Returns:
        codes, uint8 [S, S]
    """
    codes = np.full(person.shape, CODES["anything"], np.uint8)
    codes[person < 0.15], codes[person > 0.85] = 0, CODES["person"]
    if points is None:
        return codes
    up = points[FOREHEAD] - points[CHIN]
    y, x = np.mgrid[: person.shape[0], : person.shape[1]]
    above = (x - points[NOSE, 0]) * up[0] + (y - points[NOSE, 1]) * up[1] > 0
    codes[(codes == CODES["person"]) & above] = CODES["head"]
    oval = _filled(codes.shape, points[list(OVAL)])
    inside = cv2.erode(oval, np.ones((3, 3), np.uint8)) > 0
    codes[inside] = CODES["face"]
    for name, outline in PARTS.items():
        part = _filled(codes.shape, points[list(outline)]) > 0
        codes[part & inside] = CODES[name] if name in CODES else PARSER_LABELS.index(name)
    return codes


def _filled(shape: tuple[int, ...], outline: np.ndarray) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, shift=4)
    return mask


def true_labels(parsing: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Labels of people with truth as CelebAMask-HQ draws them: glass is glasses, noses begin between the eyes.

    Args:
        parsing: uint8 [S, S], the face parser's labels.
        landmarks: [68, 2] px; a pixel's centre is a whole number.

    Returns:
        uint8 [S, S]
    """
    return bridged(glazed(parsing), landmarks)


def glazed(codes: np.ndarray) -> np.ndarray:
    """Labels [S, S] with glasses of glass: skin and nose within a rim are glasses; eyes stay."""
    rims = (codes == PARSER["glasses"]).astype(np.uint8)
    if not rims.any():
        return codes
    outlines, _ = cv2.findContours(rims, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    within = cv2.drawContours(np.zeros_like(rims), outlines, -1, 1, cv2.FILLED) > 0
    bare = np.isin(codes, [PARSER["skin"], PARSER["nose"]])
    return np.where(within & bare, PARSER["glasses"], codes).astype(np.uint8)


def bridged(codes: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Labels [S, S] with noses that begin between the eyes; the renderer's begin below. For `landmarks` see above."""
    wide = 0.2 * (landmarks[35] - landmarks[31])
    outline = np.stack([landmarks[27] - wide, landmarks[27] + wide, landmarks[35], landmarks[33], landmarks[31]])
    nose = np.zeros_like(codes)
    cv2.fillConvexPoly(nose, np.round(outline * 16).astype(np.int32), 1, shift=4)
    return np.where((nose > 0) & (codes == PARSER["skin"]), PARSER["nose"], codes).astype(np.uint8)


def _labelled(who: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The photo of a person in a view, and its codes."""
    cv2.setNumThreads(1)
    portrait = open_people().photo(*who, STORED)
    return portrait.image, true_labels(portrait.parsing, portrait.landmarks)


def render_labelled(people: int, views: int, workers: int) -> Labelled:
    """Photos of the face reader's own people, `views` of each, with their codes."""
    jobs = [(READER_PEOPLE + who, view) for who in range(people) for view in range(views)]
    pairs = list(in_order(_labelled, jobs, workers, ahead=16, processes=True))
    return stacked([image for image, _ in pairs], [codes for _, codes in pairs])


def load_photos(photos: Path, persons: Path, meshes: Path) -> Labelled:
    """Square photos that have a person mask of their stem, with their codes.

    Args:
        photos: folder of square photos.
        persons: folder of soft person masks, PNG under the photos' stems.
        meshes: npz of `files` (their stems count), `xy` [N, 468, 2] in shares of the frame, `score` [N].

    Raises:
        TristyleError: no photo has a mask, or something is unreadable.
    """
    with np.load(meshes) as stored:
        points = {Path(str(name)).stem: n for n, name in enumerate(stored["files"]) if stored["score"][n] >= SURE_MESH}
        xy = stored["xy"].astype(np.float64)

    images, codes = [], []
    for path in usable(sorted(photos.iterdir())):
        mask = persons / f"{path.stem}.png"
        if not mask.is_file():
            continue
        shape = (STORED, STORED)
        images.append(cv2.resize(read_whole(path), shape, interpolation=cv2.INTER_AREA))
        person = cv2.resize(read_mask(mask).astype(np.float32) / 255, shape, interpolation=cv2.INTER_LINEAR)

        known = points.get(path.stem)
        codes.append(weak_labels(person, None if known is None else xy[known] * STORED - 0.5))
    if not images:
        raise TristyleError(f"{photos}: no picture has a mask of its name in {persons}. Give person masks as PNG.")
    return stacked(images, codes)


def stacked(images: list[np.ndarray], codes: list[np.ndarray]) -> Labelled:
    """Pictures [S, S, 3] and their codes [S, S] as tensors."""
    pictures = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Labelled(pictures, torch.from_numpy(np.stack(codes)))
