"""Photographs and what a stage paints from them: the arrays that training, writing and measuring share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stages.artifact import Artifact
from stages.config import TristyleError
from stages.faces.reader import Reader
from stages.io import load_images, load_masks, to_tensor, to_uint8

CHUNK = 32  # pictures per forward pass


@dataclass
class Photos:
    """Pictures of one split: ids, uint8 [N, H, W, 3] and head coverage uint8 [N, H, W]."""

    ids: list[str]
    images: np.ndarray
    masks: np.ndarray


@dataclass
class Painting:
    """What was made of N photos, before any compositing.

    Attributes:
        raw: uint8 [N, H, W, 3].
        mask: uint8 [N, H, W], where the translator says it painted; None for one without a mask head.
        heatmap: uint8 [N, h, w], its attention (CAM), scaled to 0..255 a picture; None where there is none.
    """

    raw: np.ndarray
    mask: np.ndarray | None = None
    heatmap: np.ndarray | None = None


Painter = Callable[[np.ndarray], Painting]  # uint8 [N, H, W, 3] photos -> Painting


def load_photos(data: Artifact, split: str, pictures: str, masks: str, workers: int) -> Photos:
    """The photos of one split of the data artifact with their masks.

    Raises:
        TristyleError: there are none.
    """
    records = [record for record in data.records() if record["split"] == split and record.get("photo")]
    if not records:
        raise TristyleError(f"{data.path}: no {split} photos. Run stage=data with more pictures.")
    names = [Path(record["photo"]).name for record in records]
    images = load_images([data.path / pictures / name for name in names], workers)
    covers = load_masks([data.path / masks / name for name in names], workers)
    return Photos([Path(name).stem for name in names], images, covers)


def translator_painter(generator: nn.Module, device: str) -> Painter:
    """Paints by a :class:`stages.networks.ugatit.ResnetGenerator` in eval mode, CHUNK pictures at a time."""

    @torch.no_grad()
    def paint(photos: np.ndarray) -> Painting:
        raw: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        heat: list[np.ndarray] = []
        for i in range(0, len(photos), CHUNK):
            batch = to_tensor(photos[i : i + CHUNK]).to(device, memory_format=torch.channels_last)
            out = generator(batch)
            raw.append(to_uint8(out.image))
            heat.append(_bytes(_stretched(out.heatmap)))
            if out.mask is not None:
                masks.append(_bytes(out.mask))
        return Painting(np.concatenate(raw), np.concatenate(masks) if masks else None, np.concatenate(heat))

    return paint


def _stretched(maps: Tensor) -> Tensor:
    """Each map of [N, 1, h, w] from 0 to 1 by its own least and greatest value."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-6)


def _bytes(maps: Tensor) -> np.ndarray:
    """[N, 1, h, w] in [0, 1] -> uint8 [N, h, w]."""
    return maps[:, 0].float().mul(255).round().to(torch.uint8).cpu().numpy()


@torch.no_grad()
def read_masks(reader: Reader, images: np.ndarray, device: str) -> np.ndarray:
    """Head coverage of uint8 [N, H, W, 3] pictures as the face reader sees it: uint8 [N, H, W]."""
    masks = [reader.read(to_tensor(images[i : i + 64]).to(device)).mask for i in range(0, len(images), 64)]
    return torch.cat(masks)[:, 0].mul(255).round().to(torch.uint8).cpu().numpy()
