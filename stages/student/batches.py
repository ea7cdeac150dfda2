"""What the student trains on: flipped pairs as 8-bit batches, made floating point where the training computes.

A batch crosses to the device as bytes and is flipped and converted there: at 256 px the conversion on one CPU core
would cost more than the training on a GPU.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.datasets.pictures import edge_blurred
from stages.training.fit import Batches, epoch_order


class EdgeBlurred:
    """`edge_blurred` of pictures that do not fit into memory: made when they are asked for, indexed like an array."""

    def __init__(self, pictures: Any) -> None:
        self.pictures = pictures

    def __getitem__(self, which: Any) -> np.ndarray:
        """Pictures by index array or slice: uint8 [N, H, W, 3]."""
        return edge_blurred(self.pictures[which])


def paintable(masks: Tensor) -> Tensor:
    """Head coverage [N, 1, H, W] -> where the student may paint: > 0.02, grown by 2 % of the width."""
    radius = max(1, round(0.02 * masks.shape[-1]))
    return (F.max_pool2d(masks, 2 * radius + 1, stride=1, padding=radius) > 0.02).float()


def solid(masks: Tensor) -> Tensor:
    """Head coverage [N, 1, H, W] -> where there is head for certain: > 0.98, shrunk by 2 % of the width."""
    radius = max(1, round(0.02 * masks.shape[-1]))
    return 1 - F.max_pool2d((masks <= 0.98).float(), 2 * radius + 1, stride=1, padding=radius)


def pair_batches(photo: np.ndarray, style: np.ndarray, mask: np.ndarray, seed: int, blurred: bool = False) -> Batches:
    """Pairs in an endless shuffled order, and which of them are to be flipped; each image count has its own flips.

    photo, style: uint8 [N, H, W, 3]; mask: uint8 [N, H, W] head coverage; anything indexed like an array will do.
    A batch holds them as uint8 [N, C, H, W], with `blurred` also `blurred` (`style` with its edges softened), and
    `flip`, bool [N]; see `prepared`.
    """
    if not len(photo) == len(style) == len(mask):
        raise ValueError(f"{len(photo)} photos, {len(style)} styles and {len(mask)} masks are not pairs")
    colours: dict[str, Any] = {"photo": photo, "style": style}
    if blurred:
        colours["blurred"] = edge_blurred(style) if isinstance(style, np.ndarray) else EdgeBlurred(style)

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        chosen = epoch_order(len(photo), seed, start, count)[rows]
        flip = torch.from_numpy((np.random.default_rng([seed, 1, start]).random(count) < 0.5)[rows])
        found = {name: torch.from_numpy(pictures[chosen]).permute(0, 3, 1, 2) for name, pictures in colours.items()}
        return found | {"mask": torch.from_numpy(mask[chosen])[:, None], "flip": flip}

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


def read_ahead(batches: Batches) -> Batches:
    """The same batches; a thread reads the next ones while the training is at these.

    Rows asked for now will be asked for in the next batch, too: several parts of a batch are read ahead one by one.
    """
    pool, ahead = ThreadPoolExecutor(1), dict[tuple[Any, ...], Future[dict[str, Tensor]]]()

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        part = count, rows.start, rows.stop, rows.step
        found = ahead.pop((start, *part), None) or pool.submit(batches, start, count, rows)
        for stale in [key for key in ahead if key[0] not in (start, start + count)]:
            del ahead[stale]
        ahead[start + count, *part] = pool.submit(batches, start + count, count, rows)
        return found.result()

    return batch
