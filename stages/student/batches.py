"""What the student trains on: flipped pairs as 8-bit batches, made floating point where the training computes.

A batch crosses to the device as bytes and is flipped and converted there: at 256 px the conversion on one CPU core
would cost more than the training on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.artifact import Artifact
from stages.core.settings import TristyleError
from stages.core.shards import pictures
from stages.datasets.pictures import edge_blurred
from stages.student.augment import Augment, StudentPair, augmented
from stages.training.fit import Batches, epoch_order
from stages.training.loading import Allowance, Derived, Indexed, Kept


def paintable(masks: Tensor) -> Tensor:
    """Head coverage [N, 1, H, W] -> where the student may paint: > 0.02, grown by 2 % of the width."""
    radius = max(1, round(0.02 * masks.shape[-1]))
    return (F.max_pool2d(masks, 2 * radius + 1, stride=1, padding=radius) > 0.02).float()


def solid(masks: Tensor) -> Tensor:
    """Head coverage [N, 1, H, W] -> where there is head for certain: > 0.98, shrunk by 2 % of the width."""
    radius = max(1, round(0.02 * masks.shape[-1]))
    return 1 - F.max_pool2d((masks <= 0.98).float(), 2 * radius + 1, stride=1, padding=radius)


@dataclass(kw_only=True)
class Augmentation:
    """How the pairs of a batch are changed, and what more is known of them.

    Attributes:
        settings: the shares of each step.
        cover: uint8 [N, H, W, 3], see `stages.student.augment.StudentPair`; None where that is unknown.
        eyes: float [N, 2, 2], likewise, NaN where they are unknown.
        workers: threads that change pictures.
    """

    settings: Augment
    cover: Indexed | None = None
    eyes: np.ndarray | None = None
    workers: int = 1


def load_augmentation(pair: Artifact, settings: Augment, workers: int, allowance: Allowance) -> Augmentation | None:
    """What augmentation needs of the kept pairs; None where nothing is to be changed.

    Raises:
        TristyleError: other backgrounds are wanted, and the pairs do not say what the people in them cover.
    """
    if not settings.on:
        return None
    rows = [row for row in pair.records() if row.get("kept", True) and not row.get("unreadable")]
    known = bool(rows) and ("cover" in rows[0] or "cover.png" in rows[0].get("members", {}))
    if settings.backgrounds and not known:
        raise TristyleError(
            f"student.model.augment.backgrounds: the pairs of {pair.path} do not say what their people cover. "
            f"Use pair=twins, or say student.model.augment.backgrounds=0."
        )
    cover = Kept(pictures(pair.path, ("cover",), workers)[0], allowance) if known else None
    eyes = np.array([row.get("eyes") or np.full((2, 2), np.nan) for row in rows], np.float32)
    return Augmentation(settings=settings, cover=cover, eyes=eyes, workers=workers)


def load_pairs(pair: Artifact, workers: int, allowance: Allowance) -> list[Kept]:
    """The kept pairs, from files or shards alike, read as they are asked for.

    Args:
        pair: the pair artifact.
        workers: threads that decode.
        allowance: of memory for what was read.

    Returns:
        photo, style uint8 [N, H, W, 3] and head coverage uint8 [N, H, W], indexed like arrays.

    Raises:
        TristyleError: curation kept nothing. Later, of what is read: a picture is missing, damaged, or of another size.
    """
    found = pictures(pair.path, ("photo", "style", "mask"), workers)
    if not len(found[0]):
        raise TristyleError(f"{pair.path}: no pair was kept, so that there is nothing to learn. Loosen pair.curate.")
    return [Kept(kind, allowance) for kind in found]


def pair_batches(
    photo: Indexed,
    style: Indexed,
    mask: Indexed,
    seed: int,
    blurred: bool = False,
    allowance: Allowance | None = None,
    augmentation: Augmentation | None = None,
) -> Batches:
    """Pairs in an endless shuffled order, and which of them are to be flipped; each image count has its own flips.

    Args:
        photo: uint8 [N, H, W, 3].
        style: uint8 [N, H, W, 3].
        mask: uint8 [N, H, W] head coverage.
        seed: of the order and the flips.
        blurred: give `style` with its edges softened, too.
        allowance: of memory for these; None for one of their own.
        augmentation: how the pairs are changed; each image count changes them in its own way.

    Returns:
        Batches of photo, style (and blurred) uint8 [n, 3, H, W], mask uint8 [n, 1, H, W] and flip bool [n]; see
        `prepared`.
    """
    if not len(photo) == len(style) == len(mask):
        raise ValueError(f"{len(photo)} photos, {len(style)} styles and {len(mask)} masks are not pairs")
    colours: dict[str, Indexed] = {"photo": photo, "style": style}
    change = None if augmentation is None else _changes(photo, style, mask, seed, augmentation)
    if blurred and change is None:
        colours["blurred"] = Kept(Derived(edge_blurred, style), allowance or Allowance())

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        chosen = epoch_order(len(photo), seed, start, count)[rows]
        flip = torch.from_numpy((np.random.default_rng([seed, 1, start]).random(count) < 0.5)[rows])
        if change is None:
            made, covers = {name: source[chosen] for name, source in colours.items()}, mask[chosen]
        else:
            made, covers = change(chosen, np.arange(start, start + count)[rows])
            made |= {"blurred": edge_blurred(made["style"])} if blurred else {}
        found = {name: torch.from_numpy(pixels).permute(0, 3, 1, 2) for name, pixels in made.items()}
        return found | {"mask": torch.from_numpy(covers)[:, None], "flip": flip}

    return batch


def _changes(
    photo: Indexed, style: Indexed, mask: Indexed, seed: int, augmentation: Augmentation
) -> Callable[[np.ndarray, np.ndarray], tuple[dict[str, np.ndarray], np.ndarray]]:
    """Makes the augmented photos and styles, and the masks, of some pairs at some image counts."""
    settings, cover, eyes = augmentation.settings, augmentation.cover, augmentation.eyes
    pool = ThreadPoolExecutor(augmentation.workers)

    def change(chosen: np.ndarray, counts: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        generators = [np.random.default_rng([seed, 2, int(count)]) for count in counts]
        first = [photo[chosen], style[chosen], mask[chosen]]
        covers = [None] * len(chosen) if cover is None else cover[chosen]
        others = [None] * len(chosen) if cover is None else _others(generators)

        def one(row: int) -> StudentPair:
            eye = None if eyes is None or np.isnan(eyes[chosen[row]]).any() else eyes[chosen[row]]
            pictures_ = [images[row] for images in first]
            pair = StudentPair(pictures_[0], pictures_[1], pictures_[2], covers[row], eye, others[row])
            return augmented(pair, settings, generators[row])

        made = list(pool.map(one, range(len(chosen))))
        found = {"photo": np.stack([pair.photo for pair in made]), "style": np.stack([pair.style for pair in made])}
        return found, np.stack([pair.mask for pair in made])

    def _others(generators: list[np.random.Generator]) -> list[tuple[np.ndarray, np.ndarray] | None]:
        assert cover is not None
        chances = [(rng.random(), int(rng.integers(len(photo)))) for rng in generators]
        wanted = [chance < settings.backgrounds / 2 for chance, _ in chances]
        numbers = np.array([number for (_, number), use in zip(chances, wanted, strict=True) if use], int)
        if not len(numbers):
            return [None] * len(generators)
        given = iter(zip(photo[numbers], cover[numbers][..., 0], strict=True))
        return [next(given) if use else None for use in wanted]

    return change


def prepared(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch as the training sees it, on the device that it is on: flipped, pictures in [-1, 1].

    photo, style (and blurred): float32 [N, 3, H, W], channels last; mask: [N, 1, H, W], 1 = may be painted over;
    head: likewise, 1 = well inside the head.
    """
    flip = batch["flip"].view(-1, 1, 1, 1)
    turned = {name: torch.where(flip, value.flip(3), value) for name, value in batch.items() if name != "flip"}
    cover = turned.pop("mask").float().div_(255.0)
    masks = {"mask": paintable(cover), "head": solid(cover)}
    pictures = {name: value.float().div_(127.5).sub_(1.0) for name, value in turned.items()}
    return {name: value.contiguous(memory_format=torch.channels_last) for name, value in (pictures | masks).items()}
