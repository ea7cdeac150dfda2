"""What a translator trains on: photos and style pictures that are read as they are needed, in two endless orders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.artifact import Artifact
from stages.core.settings import ConfigError, TristyleError
from stages.core.shards import Pictures
from stages.core.tensors import mask_tensor, to_tensor
from stages.datasets.pictures import edge_blurred
from stages.networks.face_reader import read_masks
from stages.pair.inputs import stored_photos
from stages.pair.translator import TrainingInputs
from stages.training import distributed
from stages.training.fit import Batches, epoch_order
from stages.training.loading import Allowance, Derived, Indexed, Kept, read_ahead

READ = 64  # pictures that the face reader sees together
STYLE_MASKS = "style_masks.npy"  # in the scratch folder


def training_photos(data: Artifact, workers: int) -> tuple[Pictures, Pictures]:
    """The photos [N, H, W, 3] to train on and their head masks [N, H, W], read as they are asked for."""
    names = stored_photos(data).names
    photo, mask = Pictures(data.path, workers=workers), Pictures(data.path, colour=False, workers=workers)
    for name in names:
        photo.add(f"photo/{name}")
        mask.add(f"mask/{name}")
    return photo, mask


def style_pictures(style: Artifact, workers: int) -> Pictures:
    """The pictures of a style artifact [N, H, W, 3], read as they are asked for."""
    found = Pictures(style.path, workers=workers)
    for record in style.records():
        found.add(record["image"])
    return found


def source_pictures(style: Artifact, workers: int) -> Pictures | None:
    """The style pictures' faces before the transfer [N, H, W, 3]; None for a style artifact that has none."""
    names = [f"source/{Path(record['image']).name}" for record in style.records()]
    if not all((style.path / name).exists() for name in names):
        return None
    found = Pictures(style.path, workers=workers)
    for name in names:
        found.add(name)
    return found


def style_masks(inputs: TrainingInputs, pictures: Indexed) -> np.ndarray:
    """Head coverage of the style pictures as the face reader sees it: uint8 [N, H, W], mapped from a file.

    The first process reads them once for all processes, a chunk at a time, into the scratch folder.
    """
    file = inputs.scratch / STYLE_MASKS
    if distributed.rank() == 0 and not file.exists():
        inputs.scratch.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".part")
        masks = np.lib.format.open_memmap(unfinished, "w+", np.uint8, pictures.shape[:3])
        for start in range(0, len(pictures), READ):
            part = slice(start, start + READ)
            masks[part] = read_masks(inputs.reader, pictures[part], inputs.runtime.device)
        masks.flush()
        unfinished.replace(file)

    distributed.start(inputs.runtime.device)
    distributed.barrier()
    found: np.ndarray = np.load(file, mmap_mode="r")
    return found


def photo_rows(inputs: TrainingInputs) -> list[dict[str, Any]]:
    """Records of the photos to train on."""
    return [row for row in inputs.data.records() if row["split"] == "train" and row.get("photo")]


def style_rows(inputs: TrainingInputs) -> list[dict[str, Any]]:
    """Records of the pictures of the style `inputs.target` to train on.

    Raises:
        TristyleError: there is no such style.
    """
    rows = [row for row in inputs.data.records() if row["split"] == "style" and row["style"] == inputs.target]
    if not rows:
        known = sorted({str(row["style"]) for row in inputs.data.records() if row["split"] == "style"})
        remedy = f"Say style.target={'|'.join(known)}" if known else "Put some into DIR/style/NAME"
        raise TristyleError(f"{inputs.data.path}: no pictures of the style {inputs.target!r}. {remedy}.")
    return rows


def read_pictures(
    data: Artifact, rows: Sequence[dict[str, Any]], workers: int, allowance: Allowance
) -> tuple[Kept, Kept]:
    """The records' pictures [N, H, W, 3] and masks [N, H, W], read when asked for, kept as far as the allowance goes.

    Raises:
        TristyleError: the masks are of another size.
    """
    images, masks = Pictures(data.path, workers=workers), Pictures(data.path, colour=False, workers=workers)
    for row in rows:
        images.add(row["photo"])
        masks.add(row["mask"])
    if masks.shape[1:] != images.shape[1:3]:
        sizes = f"a mask of {masks.shape[1:]} px for a picture of {images.shape[1:3]}"
        raise TristyleError(f"{data.path / rows[0]['mask']}: {sizes}. Run stage=data again.")
    return Kept(images, allowance), Kept(masks, allowance)


def style_set_batches(inputs: TrainingInputs, seed: int, latent: bool = True, blurred: bool = False) -> Batches:
    """Photos and the style set in independent orders, decoded as they are needed; see `unpaired_batches`.

    Style pictures are generated and have no masks: the face reader gives them.

    Args:
        inputs: where they are.
        seed: of both orders.
        latent: give `source`, where the style set has it.
        blurred: give `style_blurred`.

    Raises:
        TristyleError: pictures smaller than 32 px, or photos and style pictures of different sizes.
    """
    workers, allowance = inputs.runtime.workers, Allowance()
    photo, photo_mask = (Kept(found, allowance) for found in training_photos(inputs.data, workers))
    style = Kept(style_pictures(inputs.style_set, workers), allowance)
    check_sizes(photo.shape, style.shape, inputs.style_set.path)
    masks = style_masks(inputs, style)

    # further views of the style pictures, as far as a term asks for them
    source = source_pictures(inputs.style_set, workers) if latent else None
    views = {"source": source and Kept(source, allowance)}
    if blurred:
        views["blurred"] = Kept(Derived(edge_blurred, style), allowance)
    return read_ahead(unpaired_batches(photo, photo_mask, style, masks, seed, **views))


def check_sizes(photo: tuple[int, ...], style: tuple[int, ...], path: Path) -> None:
    """Refuse photos [N, H, W, 3] that the networks cannot take, and style pictures of another size."""
    height, width = photo[1:3]
    if height != width or height < 32 or height % 4:
        raise ConfigError(
            "data.size", f"{width}x{height} px photos do not fit U-GAT-IT", "Use squares of 32 px or more"
        )
    if style[1:3] != photo[1:3]:
        sizes = f"style pictures of {style[1]} px and photos of {height} px"
        raise TristyleError(f"{path}: {sizes} do not go together. Run stage=style on this data.")


def unpaired_batches(
    photo: Indexed,
    photo_mask: Indexed,
    style: Indexed,
    style_mask: Indexed,
    seed: int,
    source: Indexed | None = None,
    blurred: Indexed | None = None,
) -> Batches:
    """Batches of both domains in independent orders, each picture mirrored or not by its place in the order.

    Args:
        photo: uint8 [N, H, W, 3].
        photo_mask: head coverage of the photos, uint8 [N, H, W].
        style: uint8 [M, H, W, 3].
        style_mask: head coverage of the style pictures, uint8 [M, H, W].
        seed: of both orders.
        source: as `style`, the same faces before the transfer.
        blurred: as `style`, edges softened (`stages.datasets.pictures.edge_blurred`).

    Returns:
        Batches of photo, style (source, style_blurred) [n, 3, H, W] in [-1, 1] and photo_mask, style_mask
        [n, 1, H, W] in [0, 1].
    """
    styles = {"style": style, "style_mask": style_mask, "source": source, "style_blurred": blurred}
    domains = {"photo": photo, "photo_mask": photo_mask}, {k: v for k, v in styles.items() if v is not None}

    def take(sets: dict[str, Indexed], salt: int, start: int, count: int, rows: slice) -> dict[str, Tensor]:
        index = epoch_order(len(next(iter(sets.values()))), 2 * seed + salt, start, count)[rows]
        places = range(start, start + count)[rows]
        mirrored = [np.random.default_rng([seed, salt, place]).random() < 0.5 for place in places]
        flip = torch.tensor(mirrored)[:, None, None, None]

        # pictures are read last, and only those of the rows asked for
        arrays = {name: pictures[index] for name, pictures in sets.items()}
        tensors = {name: to_tensor(array) if array.ndim == 4 else mask_tensor(array) for name, array in arrays.items()}
        return {name: torch.where(flip, tensor.flip(3), tensor) for name, tensor in tensors.items()}

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        return take(domains[0], 0, start, count, rows) | take(domains[1], 1, start, count, rows)

    return batch
