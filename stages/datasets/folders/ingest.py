"""Files of own pictures -> squares, head masks, scores: in parallel, one file's result depending on that file alone.

A result is kept under a key of the file's bytes, its mask's and the settings. So a killed run goes on where it stood, a
changed photo is the only one that is read anew, and every way there leads to the same bytes, with any number of
processes: networks run on one thread and on batches of one size, filled up where pictures are lacking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.core import decode
from stages.core.artifact import hash_json
from stages.core.decode import ImageError
from stages.core.files import sha256_file
from stages.core.images import encode_png
from stages.core.runtime import one_thread
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.core.workers import in_order
from stages.datasets.folders import photo_quality as quality
from stages.datasets.folders.cache import Cache, Crop, Entry
from stages.datasets.folders.duplicates import perceptual_hash
from stages.datasets.folders.sources import Listed
from stages.datasets.pictures import fitting_mask, squared

if TYPE_CHECKING:
    from stages.core.tracking import Progress
    from stages.faces.detect import Detector, Found
    from stages.faces.parse import Parser

VERSION = 4  # of what is made of a file; another one makes everything anew
BATCH = 16  # files a process is given at a time, and pictures a network sees at a time
AHEAD = 4  # batches handed to a process before the first is back
FACES = ("square", "aligned", "all")
NO_FACE = "no face found"


@dataclass(frozen=True)
class Treatment:
    """What becomes of a file.

    Attributes:
        size: side of the squares, px.
        faces: `square` (the centre square), `aligned` (the FFHQ square of the largest face) or `all` (of every face).
        labels: the values of a label mask that are head; None for a mask of coverage.
        background: RGB behind what is transparent.
        parser: weights of the parser that draws masks; None for the face reader.
        weights: folder of the detector's weights.
        models: digests of the networks' files.
    """

    size: int
    faces: str = "square"
    labels: tuple[int, ...] | None = None
    background: tuple[int, ...] = decode.WHITE
    parser: Path | None = None
    weights: Path | None = None
    models: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Of everything that decides a result; where the networks' files lie does not."""
        decides = {name: value for name, value in asdict(self).items() if name not in ("parser", "weights")}
        return hash_json({"version": VERSION, **decides})


@dataclass(frozen=True)
class IngestJob:
    """A picture file, the mask file given for it, and the recipe."""

    file: Listed
    mask: Path | None
    recipe: Treatment


@dataclass
class Cut:
    """A square cut out of a photo.

    Attributes:
        picture: uint8 [S, S, 3]; `mask` uint8 [S, S], None where it is to be drawn.
        points: the five points of the face as shares of the side, [5, 2], where they are known.
    """

    picture: np.ndarray
    mask: np.ndarray | None
    crop: Crop
    points: np.ndarray | None = None


def ingest(tasks: Sequence[IngestJob], cache: Path, workers: int, bar: Progress) -> list[Entry]:
    """Results of all files in order, made or found in the folder `cache`.

    Raises:
        TristyleError: a file was changed or taken away meanwhile, weights do not fit, or a process was killed.
    """
    parts = [list(tasks[start : start + BATCH]) for start in range(0, len(tasks), BATCH)]
    entries: list[Entry] = []
    cached = partial(work, folder=cache)
    for part in in_order(cached, parts, min(workers, len(parts)), ahead=AHEAD, processes=True):
        entries += part
        bar.update(bar.done + len(part))
    return entries


def work(tasks: Sequence[IngestJob], folder: Path) -> list[Entry]:
    """Results of some files, those that are not in the cache made and put there."""
    cache = Cache(folder)
    entries: list[Entry] = []
    made: list[tuple[Entry, list[Cut], Treatment]] = []
    for task in tasks:
        known, entry, data = _look_up(task, cache)
        entries.append(entry)
        if not known:
            made.append((entry, _cut(task, entry, data), task.recipe))
    for recipe in dict.fromkeys(recipe for _, _, recipe in made):
        _parse([cut for _, cuts, other in made if other == recipe for cut in cuts], recipe)
    for entry, cuts, _ in made:
        entry.crops = [cut.crop for cut in cuts]
        cache.save(entry, [(encode_png(cut.picture), encode_png(_drawn(cut))) for cut in cuts])
    return entries


def _drawn(cut: Cut) -> np.ndarray:
    assert cut.mask is not None
    return cut.mask


# --------------------------------------------------------------------------------------------------------- one file


def _look_up(task: IngestJob, cache: Cache) -> tuple[bool, Entry, bytes]:
    """Whether a file's result is known; that result or an empty one; the file's bytes.

    Raises:
        TristyleError: the file is not the one that was listed.
    """
    path, data, reason = task.file.path, b"", ""
    try:
        data = decode.file_bytes(path)
    except ImageError as error:
        reason = str(error).removeprefix(f"{decode.shown(path)}: ")
    try:
        stat = path.stat()
        same = (stat.st_size, stat.st_mtime_ns) == task.file.stamp
        mask = sha256_file(task.mask) if task.mask is not None and task.mask.is_file() else None
    except OSError:
        same, mask = path.exists(), None  # whoever reads the mask reports what is wrong with it

    if not same:
        raise TristyleError(f"{path}: changed or removed while the folder was read. Run again: it is listed anew.")

    digest = hashlib.sha256(data).hexdigest()
    key = hash_json([task.recipe.digest, digest, mask, task.mask is not None, reason])
    entry = cache.load(key)
    return entry is not None, entry or Entry(key, digest, fault="photo" if reason else "", reason=reason), data


def _cut(task: IngestJob, entry: Entry, data: bytes) -> list[Cut]:
    """Cut a file's squares; what is wrong with it is written into its entry."""
    if entry.fault:
        return []
    path = task.file.path
    try:
        picture = decode.decode(data, path, task.recipe.background)
        entry.notes, entry.shape = list(picture.notes), picture.pixels.shape[:2]
        if task.recipe.faces == "square":
            cuts = [_squared(picture.pixels, task)]
        else:
            cuts = _aligned(picture.pixels, task, entry)
    except ImageError as error:
        at_mask = task.mask is not None and str(error).startswith(f"{decode.shown(task.mask)}: ")
        entry.fault = "mask" if at_mask else "photo"
        entry.reason = str(error).removeprefix(f"{decode.shown(task.mask if at_mask and task.mask else path)}: ")
        return []

    for cut in cuts:
        cut.crop.given = cut.mask is not None
        cut.crop.phash = f"{perceptual_hash(cut.picture):016x}"
        cut.crop.scores |= {
            "sharpness": round(quality.sharpness(cut.picture), 4),
            "brightness": round(quality.brightness(cut.picture), 4),
        }
    return cuts


def _squared(pixels: np.ndarray, task: IngestJob) -> Cut:
    picture, mask = squared(pixels, task.file.path, task.mask, task.recipe.size, task.recipe.labels)
    return Cut(picture, mask, Crop(scores={"face": float(min(pixels.shape[:2]))}))


def _aligned(pixels: np.ndarray, task: IngestJob, entry: Entry) -> list[Cut]:
    """The FFHQ squares of a photo's faces, the largest first.

    Raises:
        ImageError: there is none, or none that is large enough.
    """
    from stages.faces.align import crop, ffhq_quad, side_of, to_crop

    path, size = task.file.path, task.recipe.size
    with one_thread():
        found: list[Found] = _detector(task.recipe.weights)(pixels)
    entry.faces = len(found)
    if not found:
        raise ImageError(f"{path}: {NO_FACE}. Give an upright face, or say data.faces=square.")
    faces = [(face, ffhq_quad(face.points)) for face in found]
    sides = [side_of(quad) for _, quad in faces]
    large = [(face, quad, side) for (face, quad), side in zip(faces, sides, strict=True) if side >= size / 2]
    if not large:
        raise ImageError(f"{path}: its face's square of {max(sides):.0f} px is under half of data.size={size}.")
    mask = fitting_mask(pixels, task.mask, task.recipe.labels) if task.mask is not None else None
    cuts = []
    for face, quad, side in large[: 1 if task.recipe.faces == "aligned" else None]:
        picture, outside = crop(pixels, quad, size)
        scores = {"face": round(side, 1), "yaw": face.yaw_deg, "outside": round(outside, 4)}
        if face.yaw_deg is not None:
            scores["yaw"] = round(face.yaw_deg, 1)
        drawn = crop(np.repeat(mask[..., None], 3, axis=2), quad, size)[0][..., 0] if mask is not None else None
        corners = [[round(float(value), 2) for value in corner] for corner in quad]
        points = (to_crop(face.points, quad, size) + 0.5) / size
        cuts.append(Cut(picture, drawn, Crop(scores=dict(scores), quad=corners), points if face.seen else None))
    return cuts


# --------------------------------------------------------------------------------------------------------- networks


def _parse(cuts: Sequence[Cut], recipe: Treatment) -> None:
    """Draw the masks that are lacking, and score the faces whose points are known."""
    cuts = [cut for cut in cuts if cut.mask is None or cut.points is not None]
    if not cuts:
        return
    import torch
    import torch.nn.functional as F

    from stages.faces.parse import one_piece
    from stages.networks.face_labels import PARSER_HEAD

    parser = _parser(recipe.parser)
    for start in range(0, len(cuts), BATCH):
        part = cuts[start : start + BATCH]
        images = np.zeros((BATCH, recipe.size, recipe.size, 3), np.uint8)  # a smaller batch would round otherwise
        images[: len(part)] = [cut.picture for cut in part]
        with one_thread(), torch.inference_mode():
            shares = parser.shares(to_tensor(images))
            head = shares[:, PARSER_HEAD.start : PARSER_HEAD.stop].sum(1, keepdim=True)
            head = F.interpolate(head, images.shape[1:3], mode="bilinear", align_corners=False, antialias=True)
            masks = head[:, 0].mul(255).round().clamp(0, 255).byte().numpy()
        for cut, mask, share in zip(part, masks, shares.numpy(), strict=False):
            if cut.mask is None:
                cut.mask = one_piece(mask)
            if cut.points is not None:
                cut.crop.scores["occlusion"] = round(quality.occlusion(share, cut.points), 4)


@lru_cache(maxsize=2)
def _detector(weights: Path | None) -> Detector:
    from stages.faces.detect import open_detector

    return open_detector(weights)


@lru_cache(maxsize=2)
def _parser(path: Path | None) -> Parser:
    from stages.faces.parse import open_parser

    return open_parser(path)
