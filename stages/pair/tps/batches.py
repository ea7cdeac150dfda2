"""Training batches with splines: a photo, a style picture, the grids between them, and patches of the face bank.

A photo and a style picture that look to opposite sides cannot be aligned: the spline between them folds. So of a few
style pictures, each mirrored and not, the first is taken whose two splines fold less than the limit; the order of the
others is drawn from the seed. Where none does, the least folded one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.core.artifact import Artifact
from stages.core.tensors import mask_tensor, to_tensor
from stages.networks import tps
from stages.pair.batches import read_pictures
from stages.pair.tps.landmarks import SMOOTHING, FacePictures, mirrored_points, spline_points
from stages.training.fit import Batches, epoch_order
from stages.training.loading import Allowance, Indexed

REDUCE = 4  # px from one point of a grid to the next; what lies between is interpolated
TRIES = 4  # style pictures, each mirrored and not, that are tried for a photo
MOST_SPLINES = 256 << 20  # bytes of splines that are kept

# Region -> (its landmarks, side of its square in distances of the outer eye corners)
REGIONS: dict[str, tuple[tuple[int, ...], float]] = {
    "left_eye": (tuple(range(36, 42)), 0.7),
    "right_eye": (tuple(range(42, 48)), 0.7),
    "nose": ((27, 30, 31, 33, 35), 0.8),
    "mouth": ((48, 50, 52, 54, 56, 58), 0.9),
}


@dataclass(frozen=True)
class FaceSet:
    """Pictures of one kind with masks and landmarks, by number.

    Attributes:
        images: uint8 [N, H, W, 3].
        masks: uint8 [N, H, W].
        points: float32 [N, 68, 2] in shares.
    """

    images: Indexed
    masks: Indexed
    points: np.ndarray

    @classmethod
    def of(cls, data: Artifact, found: FacePictures, workers: int, allowance: Allowance) -> FaceSet:
        """The pictures that were `found`, read as they are asked for and kept as far as the allowance goes.

        Raises:
            TristyleError: the masks are of another size.
        """
        return cls(*read_pictures(data, found.rows, workers, allowance), found.points)

    def face(self, number: int, mirrored: bool) -> np.ndarray:
        """Landmarks of one picture, or of its mirror image: [68, 2]."""
        return mirrored_points(self.points[number]) if mirrored else self.points[number]

    def picture(self, number: int, mirrored: bool) -> np.ndarray:
        """One picture, or its mirror image: uint8 [H, W, 3]."""
        image: np.ndarray = self.images[np.array([number])][0]
        return image[:, ::-1] if mirrored else image

    def mask(self, number: int, mirrored: bool) -> np.ndarray:
        """Its mask, uint8 [H, W]."""
        mask: np.ndarray = self.masks[np.array([number])][0]
        return mask[:, ::-1] if mirrored else mask


class Splines:
    """What each picture's spline needs, whatever it is aligned to: computed once and kept.

    Args:
        faces: the pictures.
        size: their side, px.
        allowance: of memory.
    """

    def __init__(self, faces: FaceSet, size: int, allowance: Allowance) -> None:
        self.faces, self.cells, self.allowance = faces, -(-size // REDUCE) + 2, allowance
        self.query = tps.cell_centres(size, size, REDUCE, torch.zeros((), dtype=torch.float64)).flatten(0, 1)
        self._kept: dict[tuple[int, bool], Tensor] = {}

    def grid(self, number: int, mirrored: bool, target: np.ndarray) -> Tensor:
        """Where each cell of a picture's layout lies in that of a face [68, 2]: float32 [cells, cells, 2]."""
        found = self._kept.get((number, mirrored))
        if found is None:
            own = spline_points(self.faces.face(number, mirrored)[None])
            found = tps.basis(own, self.query, SMOOTHING)[0].float()
            if self.allowance.take(found.nbytes):
                self._kept[number, mirrored] = found
        grid: Tensor = (found @ spline_points(target[None])[0].float()).unflatten(0, (self.cells, self.cells))
        return grid


@dataclass(frozen=True)
class Partner:
    """The style picture for a photo.

    Attributes:
        which: its number, and whether it is mirrored.
        to_photo: where each cell of the photo's layout lies in the style picture, [cells, cells, 2].
        to_style: where each cell of the style picture's layout lies in the photo.
        folded: the larger share of the two that is folded.
    """

    which: tuple[int, bool]
    to_photo: Tensor
    to_style: Tensor
    folded: float


def aligned_batches(photos: FaceSet, styles: FaceSet, seed: int, most_folded: float, patch: int) -> Batches:
    """Batches of photos and style pictures in independent orders, with their splines.

    Args:
        photos: to be translated.
        styles: pictures of the style.
        seed: of both orders.
        most_folded: share of a spline's cells that may be folded.
        patch: side of the face bank's patches, px; 0 for none.

    Returns:
        Batches of photo, style [n, 3, H, W] in [-1, 1]; photo_mask, style_mask [n, 1, H, W] in [0, 1]; to_photo,
        to_style [n, H/4 + 2, W/4 + 2, 2]; photo_points, style_points [n, 68, 2] in shares; folded [n]. With patches
        also regions [n, 4, 3] (x, y, half a side, in -1..1) and patches [n, 4, 3, patch, patch] in [-1, 1], aligned to
        the photo's regions.
    """
    size, memory = photos.images.shape[1], Allowance(MOST_SPLINES)
    of_photo, of_style = Splines(photos, size, memory), Splines(styles, size, memory)

    def row(number: int, style: int, place: int) -> dict[str, Tensor]:
        random = np.random.default_rng([seed, place])
        mirrored = bool(random.random() < 0.5)
        partner = choose(number, mirrored, style, random)
        made = {"to_photo": partner.to_photo, "to_style": partner.to_style, "folded": torch.tensor(partner.folded)}
        for name, faces, which in (("photo", photos, (number, mirrored)), ("style", styles, partner.which)):
            made[name] = to_tensor(np.ascontiguousarray(faces.picture(*which)))[0]
            made[f"{name}_mask"] = mask_tensor(np.ascontiguousarray(faces.mask(*which))[None])[0]
        face, other = photos.face(number, mirrored), styles.face(*partner.which)
        made |= {"photo_points": torch.from_numpy(face), "style_points": torch.from_numpy(other)}
        if patch:
            made["regions"] = torch.stack([region(face, name) for name in REGIONS]).float()
            made["patches"] = bank_patches(styles, face, random, patch)
        return made

    def choose(number: int, mirrored: bool, first: int, random: np.random.Generator) -> Partner:
        best: Partner | None = None
        for which in candidates(first, len(styles.points), random):
            to_photo = of_photo.grid(number, mirrored, styles.face(*which))
            to_style = of_style.grid(*which, photos.face(number, mirrored))
            folded = float(max(tps.fold_fraction(grid[None]) for grid in (to_photo, to_style)))
            if best is None or folded < best.folded:
                best = Partner(which, to_photo, to_style, folded)
            if folded <= most_folded:
                break
        assert best is not None
        return best

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        orders = (
            epoch_order(len(faces.points), 2 * seed + salt, start, count)[rows]
            for salt, faces in enumerate((photos, styles))
        )
        places = range(start, start + count)[rows]
        made = [row(int(a), int(b), place) for a, b, place in zip(*orders, places, strict=True)]
        return {name: torch.stack([one[name] for one in made]) for name in made[0]}

    return batch


def candidates(first: int, count: int, random: np.random.Generator) -> Iterator[tuple[int, bool]]:
    """Style pictures to try for a photo, the one that is due first: number, and whether mirrored."""
    for step in range(TRIES):
        number, mirrored = first if step == 0 else int(random.integers(count)), bool(random.random() < 0.5)
        yield number, mirrored
        yield number, not mirrored


# ----------------------------------------------------------------------------------------------------------- face bank


def region(face: np.ndarray, name: str) -> Tensor:
    """The square of a region of a face [68, 2] in shares: its centre and half its side, [3] in -1..1."""
    points, side = REGIONS[name]
    low, high = face[list(points)].min(0), face[list(points)].max(0)
    eyes = float(np.linalg.norm(face[45] - face[36]))
    return torch.tensor([*((low + high) - 1), side * eyes], dtype=torch.float64)


def region_grid(regions: Tensor, patch: int) -> Tensor:
    """Places of a patch's pixels: [..., 3] as `region` gives them -> [..., patch, patch, 2] in -1..1."""
    base = tps.cell_centres(patch, patch, 1, regions)
    return regions[..., None, None, :2] + regions[..., None, None, 2:] * base


def bank_patches(styles: FaceSet, face: np.ndarray, random: np.random.Generator, patch: int) -> Tensor:
    """A patch of the style for each region of a face, from a picture drawn for each: [4, 3, patch, patch] in [-1, 1].

    Within the region's square the drawn one's landmarks are moved onto the face's by a spline that leaves its border.
    """
    found = []
    base = tps.cell_centres(patch, patch, 1, torch.zeros((), dtype=torch.float64)).flatten(0, 1)[None]
    for name in REGIONS:
        number, mirrored = int(random.integers(len(styles.points))), bool(random.random() < 0.5)
        other = styles.face(number, mirrored)
        square = region(other, name)
        local = tps.evaluate(_within(face, other, name), base).view(1, patch, patch, 2)
        picture = to_tensor(np.ascontiguousarray(styles.picture(number, mirrored)))
        found.append(tps.sample(picture, (square[:2] + square[2] * local).float())[0])
    return torch.stack(found)


def _within(face: np.ndarray, other: np.ndarray, name: str) -> tps.Spline:
    """The spline from a region of one face to that of another, each in its own square's -1..1."""
    points = list(REGIONS[name][0])
    inside = []
    for landmarks in (face, other):
        square = region(landmarks, name)
        local = (torch.from_numpy(landmarks[points]).double() * 2 - 1 - square[:2]) / square[2]
        inside.append(tps.with_border(local[None]))
    return tps.fit(inside[0], inside[1], SMOOTHING)
