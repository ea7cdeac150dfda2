"""Landmarks of photographs and style pictures: the data's truth where it has them, else as they are read, and kept.

What a data set knows stands in its `landmarks.npz`: `photo` [N, 68, 2], and `style/<name>` for its styles, in px. Other
pictures are read. The face reader sees each picture and its mirror image; the mean of the two counts. Where they differ
there is no face: on nine of ten pictures of noise, walls and plain colours they are 0.085 of the eyes' distance apart
and more. On rendered faces, photos and styles alike, they are 0.03 to 0.04 apart, on anime by many hands 0.07. The
errors stand in the README.

What was read is kept in the data artifact's folder, beside what is sealed, for the next training.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core.artifact import Artifact
from stages.core.files import write_bytes
from stages.core.settings import TristyleError
from stages.core.shards import Pictures
from stages.core.tensors import to_tensor
from stages.metrics.geometry import OUTER_EYES
from stages.networks import tps
from stages.networks.face_labels import LANDMARK_MIRROR
from stages.networks.face_reader import Reader
from stages.pair.batches import photo_rows, style_rows
from stages.pair.translator import TrainingInputs
from stages.training import distributed

# The points of a spline: every second one of the jaw, the brows' ends and middles, nose, eyes, the lips' outline. Inner
# lips and lids that touch would ask the spline to tear.
SPLINE = (*range(0, 17, 2), 17, 19, 21, 22, 24, 26, 27, 30, 31, 33, 35, *range(36, 48), 48, 50, 52, 54, 56, 58)
SMOOTHING = 1e-3  # of the splines: points are missed by 0.1 px at 64 px, and a thirtieth of the folds goes
APART = 0.085  # distance of the two readings, in distances of the outer eye corners, beyond which there is no face
OUTSIDE = 0.1  # shares of the frame that a point may lie beyond it
TURNED = 0.1  # share of the cells that a spline to the middle face, point by point the median, may fold
FEWEST = 8  # pictures of each kind
MOST_LEFT_OUT = 0.5  # share
CHUNK = 64  # pictures that are read together
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError)  # what NumPy raises of such a file
CACHE = ".landmarks"  # folder in the data artifact's; hidden, so not sealed


@dataclass(frozen=True)
class FacePictures:
    """The pictures of one kind that show a face, and where.

    Attributes:
        rows: their records; `photo` and `mask` are files within the data artifact.
        points: float32 [N, 68, 2] in shares of the frame.
        source: `truth`, or the id of who read them.
        left_out: a line for each picture that takes no part: `picture`, `why`.
    """

    rows: list[dict[str, Any]]
    points: np.ndarray
    source: str
    left_out: list[dict[str, str]]


class FaceLandmarks:
    """Reads 68 landmarks of pictures that show one face each.

    Args:
        reader: the face reader.
        device: where the reader is.

    Attributes:
        id: of the reader; belongs beside every number made with it.
    """

    def __init__(self, reader: Reader, device: str = "cpu") -> None:
        self.reader, self.device, self.id = reader, device, reader.id

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks of uint8 [N, H, W, 3]: float32 [N, 68, 2] in shares, and how far two readings lie apart [N]."""
        pictures = to_tensor(images).to(self.device)
        plain, mirrored = (self.reader.read(seen).landmarks.cpu().numpy() for seen in (pictures, pictures.flip(3)))
        back = mirrored_points(mirrored)
        points = (plain + back) / 2
        eyes = np.linalg.norm(points[:, OUTER_EYES[0]] - points[:, OUTER_EYES[1]], axis=-1)
        apart = np.linalg.norm(plain - back, axis=-1).mean(1) / np.maximum(eyes, 1e-3)
        return points.astype(np.float32), apart.astype(np.float32)


def mirrored_points(points: np.ndarray) -> np.ndarray:
    """Landmarks [..., 68, 2] in shares, as the mirrored picture has them."""
    out = points[..., LANDMARK_MIRROR, :].copy()
    out[..., 0] = 1 - out[..., 0]
    return out


def spline_points(points: np.ndarray) -> torch.Tensor:
    """Landmarks [N, 68, 2] in shares -> the points of a spline, frame included: float64 [N, 46, 2] in -1..1."""
    return tps.with_border(torch.from_numpy(points[:, SPLINE, :]).double() * 2 - 1)


# ---------------------------------------------------------------------------------------------------------- pictures


def face_photos(inputs: TrainingInputs, landmarks: FaceLandmarks) -> FacePictures:
    """The photos to train on. Arguments and errors as those of `face_styles`."""
    return _faces(inputs, photo_rows(inputs), "photo", landmarks)


def face_styles(inputs: TrainingInputs, landmarks: FaceLandmarks) -> FacePictures:
    """The pictures of the style `inputs.target` to train on.

    Args:
        inputs: the data; in a torchrun the first process reads for all.
        landmarks: reads what the data does not know.

    Raises:
        TristyleError: no such style, or fewer than eight of its pictures, or fewer than half, can be used.
    """
    return _faces(inputs, style_rows(inputs), f"style/{inputs.target}", landmarks)


def check_alike(photos: FacePictures, styles: FacePictures, place: Path) -> None:
    """Refuse style pictures, of the folder `place`, whose landmarks as a whole do not lie as the photos' do.

    Known ones with the sides exchanged, say, or heads of a quarter of the size: each set agrees with itself, but the
    spline between the two middle faces folds, mirrored or not.

    Raises:
        TristyleError: that is so.
    """
    middle, other = (np.median(found.points, 0, keepdims=True) for found in (photos, styles))
    folded = float(folds(np.concatenate([other, mirrored_points(other)]), middle).min())
    if folded > TURNED:
        problem = f"the spline from their middle face to the photos' folds {folded:.0%} of the picture"
        remedy = "Mend their landmarks.npz, or give heads as large as the photos' and upright (data.faces=aligned)"
        raise TristyleError(f"{place}: {problem}. {remedy}.")


def _faces(inputs: TrainingInputs, rows: list[dict[str, Any]], kind: str, landmarks: FaceLandmarks) -> FacePictures:
    names = [str(row["photo"]) for row in rows]
    pictures = Pictures(inputs.data.path)
    for name in names:
        pictures.add(name)
    points = known_landmarks(inputs.data, kind, len(rows), pictures)
    source, apart = "truth", None
    if points is None:
        points, apart = _read(inputs, kind, pictures, landmarks)
        source = landmarks.id

    # what is the matter with each
    why = list(faults(points, apart))
    left_out = [{"picture": name, "why": reason} for name, reason in zip(names, why, strict=True) if reason]
    kept = [place for place, reason in enumerate(why) if not reason]
    _check_count(inputs.data.path / kind, len(kept), left_out)
    return FacePictures([rows[i] for i in kept], points[kept], source, left_out)


def known_landmarks(data: Artifact, kind: str, count: int, pictures: Pictures) -> np.ndarray | None:
    """What the data set itself knows: float32 [N, 68, 2] in shares; None where it knows nothing of this kind.

    Args:
        data: the artifact.
        kind: `photo` or `style/<name>`.
        count: pictures of that kind.
        pictures: they themselves, for their size.

    Raises:
        TristyleError: the file is damaged, or knows other pictures.
    """
    file = data.path / "landmarks.npz"
    if not file.exists():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes())) as stored:  # NumPy leaves a damaged file open
            if kind not in stored:
                return None
            points = np.asarray(stored[kind], np.float32)
    except DAMAGED:
        raise TristyleError(f"{file}: cannot be read. Run stage=data again.") from None

    # Pixel centres lie half a pixel inside.
    if points.shape != (count, 68, 2) or not np.isfinite(points).all():
        raise TristyleError(
            f"{file}: {kind} has the shape {points.shape}, not ({count}, 68, 2), or a value that is not finite. "
            "Run stage=data again."
        )
    height, width = pictures.shape[1:3]
    shares: np.ndarray = (points + 0.5) / np.array([width, height], np.float32)
    return shares


def _read(
    inputs: TrainingInputs, kind: str, pictures: Pictures, landmarks: FaceLandmarks
) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks that were read, [N, 68, 2], and how far two readings lie apart, [N]; from the cache where they are."""
    name = f"{kind.replace('/', '-')}-{landmarks.id}-{inputs.data.digest[:8]}.npz"
    places = [inputs.data.path / CACHE / name, inputs.scratch / name]  # the second for data that may not be written
    if distributed.rank() == 0 and not any(_kept(place) for place in places):
        parts = [landmarks(pictures[start : start + CHUNK]) for start in range(0, len(pictures), CHUNK)]
        points, apart = (np.concatenate(column) for column in zip(*parts, strict=True))
        file = io.BytesIO()
        np.savez(file, points=points, apart=apart)
        for place in places:
            try:
                write_bytes(place, file.getvalue())
                break
            except OSError:
                continue

    distributed.start(inputs.runtime.device)
    distributed.barrier()
    found = next((read for place in places if (read := _kept(place))), None)
    if found is None:
        raise TristyleError(f"{places[1]}: landmarks cannot be kept there. Make room, then run again.")
    return found


def _kept(place: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """What a file of the cache holds; None where there is none, or a damaged one."""
    try:
        with np.load(io.BytesIO(place.read_bytes())) as stored:
            return stored["points"], stored["apart"]
    except (*DAMAGED, OSError):
        return None


# ------------------------------------------------------------------------------------------------------------- faults


def faults(points: np.ndarray, apart: np.ndarray | None) -> Iterator[str]:
    """Why a picture cannot be aligned, "" where it can.

    Args:
        points: landmarks [N, 68, 2] in shares.
        apart: distance of two readings, [N]; None for points that are known.
    """
    corners = np.abs(points - 0.5).max((1, 2))
    used = points[:, SPLINE]
    distance = np.linalg.norm(used[:, :, None] - used[:, None], axis=-1) + 9 * np.eye(len(SPLINE))
    equal = (distance == 0).any((1, 2))
    sound = ~equal & (corners <= 0.5 + OUTSIDE) & (True if apart is None else apart <= APART)
    folded = np.zeros(len(points))
    if sound.any():
        folded[sound] = folds(points[sound], np.median(points[sound], 0, keepdims=True))

    for place in range(len(points)):
        if apart is not None and apart[place] > APART:
            yield "no face was found"
        elif corners[place] > 0.5 + OUTSIDE:
            yield "landmarks lie outside the frame"
        elif equal[place]:
            yield "two landmarks are equal"
        elif folded[place] > TURNED:
            yield f"the spline to the middle face folds {folded[place]:.0%} of the picture"
        else:
            yield ""


def folds(points: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Share of a 32 x 32 grid that the spline from each face [N, 68, 2] to a middle one [1, 68, 2] folds: [N]."""
    found, target = [], spline_points(middle)
    for start in range(0, len(points), CHUNK):
        own = spline_points(points[start : start + CHUNK])
        spline = tps.fit(own, target.expand_as(own), SMOOTHING)
        found.append(tps.fold_fraction(tps.sampling_grid(spline, 32, 32, dtype=torch.float32)).numpy())
    return np.concatenate(found)


def _check_count(place: Path, kept: int, left_out: list[dict[str, str]]) -> None:
    """Refuse a kind of pictures of which too few are left.

    Raises:
        TristyleError: names the first picture that is left out, and why.
    """
    first = f"; {left_out[0]['picture']}: {left_out[0]['why']}" if left_out else ""
    if kept < FEWEST:
        raise TristyleError(f"{place}: {kept} pictures show a face, {FEWEST} are needed{first}. Add upright faces.")
    if len(left_out) > MOST_LEFT_OUT * (kept + len(left_out)):
        count = f"{len(left_out)} of {kept + len(left_out)} pictures cannot be aligned"
        raise TristyleError(f"{place}: {count}{first}. Take these out, or add upright faces.")


def write_left_out(folder: Path, sets: dict[str, FacePictures]) -> None:
    """List the pictures that take no part: `left_out.jsonl`, a line each."""
    rows = [{"kind": kind, **row} for kind, found in sets.items() for row in found.left_out]
    write_bytes(folder / "left_out.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
