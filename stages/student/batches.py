"""What the student trains on: flipped pairs as 8-bit batches, made floating point where the training computes.

A batch crosses to the device as bytes and is flipped and converted there: at 256 px the conversion on one CPU core
would cost more than the training on a GPU.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.artifact import Artifact
from stages.core.settings import TristyleError
from stages.core.shards import pictures
from stages.core.tensors import to_tensor
from stages.datasets.pictures import edge_blurred
from stages.student.augment import Augmentation, changes
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
    change = None if augmentation is None else changes(photo, style, mask, seed, augmentation)
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


def photo_batches(photos: Indexed, seed: int, real: Indexed | None = None) -> Batches:
    """Pictures in an endless shuffled order, half of them mirrored: `images` [n, 3, H, W] in [-1, 1].

    Args:
        photos: uint8 [N, H, W, 3].
        seed: of the order and of what is mirrored.
        real: other pictures, of which batches then hold as many as `real`.
    """
    others = None if real is None else photo_batches(real, seed + 1)

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        chosen = photos[epoch_order(len(photos), seed, start, count)[rows]]
        flip = (np.random.default_rng([seed, 1, start]).random(count) < 0.5)[rows]
        chosen[flip] = chosen[flip, :, ::-1]
        found = {"images": to_tensor(chosen).contiguous(memory_format=torch.channels_last)}
        return found if others is None else found | {"real": others(start, count, rows)["images"]}

    return batch
