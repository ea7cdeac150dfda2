"""Photographs without twins in a student's training: what can be asked of a drawing whose right answer nobody knows.

The background stays, alpha agrees with the head mask that the data stage drew, another camera and a small motion change
nothing in the drawing, the person stays, and a discriminator sees drawn heads of photographs beside true pictures of
the style. The photographs come from a sealed data artifact (`data=folders`), so its rules of licence and consent hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.artifact import Artifact, open_artifact, said_of
from stages.core.consent import usable
from stages.core.settings import ConfigError, TristyleError, number
from stages.core.shards import Pictures
from stages.metrics.identity import crop, head_boxes
from stages.networks.face_reader import Reader
from stages.networks.patchgan import PatchGAN, PatchOutput
from stages.student.batches import paintable, solid
from stages.training.fit import Batches, epoch_order
from stages.training.loading import Allowance, Kept
from stages.training.losses import matte_loss, moved

PHOTOGRAPHS, DRAWN = 4, 5  # streams of random numbers beside the pairs' own
NECK = 0.6  # share of a head mask's height below which the neck may be painted or not


@dataclass(kw_only=True)
class Photographs:
    """Photographs that have no twins, and the weights of their terms. They come in when the warm-up is over.

    Args:
        path: a finished data artifact of photographs, e.g. runs/data/KEY; None for none.
        only: licence classes that may be trained on.
        background: alpha outside the dilated head mask, the neck left free.
        mask: 1 - alpha well inside the head.
        equivariance: L1 between the drawing, and that of the photo by another camera after a small motion.
        identity: 1 - cosine of the face reader's embeddings of photo and drawing.
        adversarial: hinge loss of a patch discriminator that knows drawn heads and the style's own pictures.
    """

    path: str | None = None
    only: list[str] = field(default_factory=lambda: ["open"])
    background: float = 10.0
    mask: float = 1.0
    equivariance: float = 10.0
    identity: float = 1.0
    adversarial: float = 0.5

    def __post_init__(self) -> None:
        for name in ("background", "mask", "equivariance", "identity", "adversarial"):
            number(name, getattr(self, name), 0)
        if not isinstance(self.only, list) or not self.only:
            raise ConfigError("only", f"{self.only!r} is not a list of licence classes", "Say only=[open]")

    def files(self) -> dict[str, Path]:
        """The artifact, whose content enters the student's key."""
        return {} if self.path is None else {"model.photographs.path": Path(self.path)}


@dataclass(frozen=True)
class UnpairedPictures:
    """Photographs and style pictures, each with head masks: uint8 [N, H, W, 3] and [N, H, W], read on demand.

    `said` is what the records say of the photographs, see `stages.core.artifact.said_of`.
    """

    photo: Kept
    mask: Kept
    style: Kept
    style_mask: Kept
    said: dict[str, list[str]]


def open_photographs(
    settings: Photographs, data: Artifact, target: str, size: int, allowance: Allowance
) -> UnpairedPictures:
    """The photographs of `settings.path`, and the style pictures of the pairs' own data set.

    Args:
        settings: where they are and which may be used.
        data: the data artifact that the pairs were made of.
        target: name of the style; "" for the only one that there is.
        size: side of the pairs, px.
        allowance: of memory.

    Raises:
        TristyleError: it is not a data artifact, has another size, holds pictures that may not be trained on, or there
            are no style pictures.
    """
    assert settings.path is not None
    source = open_artifact(settings.path, "data")
    rows = [row for row in source.records() if row["split"] == "train" and row.get("photo") and row.get("mask")]
    willing = set(usable(source.path / row["photo"] for row in rows))
    rows = [row for row in rows if source.path / row["photo"] in willing]
    barred = sorted({str(row.get("licence_class")) for row in rows} - set(settings.only))
    if barred:
        raise TristyleError(
            f"student.model.photographs.path: {settings.path} holds pictures of licence class {barred[0]}. "
            f"Make it with data.only=[{','.join(settings.only)}]."
        )
    drawn = [row for row in data.records() if row["split"] == "style" and row.get("mask")]
    names = {row["style"] for row in drawn}
    target = target or (names.pop() if len(names) == 1 else "")
    drawn = [row for row in drawn if row["style"] == target]
    for found, what in ((rows, f"no photographs in {settings.path}"), (drawn, f"no {target} pictures in {data.path}")):
        if not found:
            raise TristyleError(f"student.model.photographs.path: there are {what}. Add some, or leave it null.")

    kept = [
        Kept(_listed(artifact.path, [row[kind] for row in found], kind == "photo"), allowance)
        for artifact, found in ((source, rows), (data, drawn))
        for kind in ("photo", "mask")
    ]
    if kept[0].shape[1] != size:
        raise TristyleError(
            f"student.model.photographs.path: {settings.path} has {kept[0].shape[1]} px, the pairs {size}. "
            f"Make it with data.size={size}."
        )
    photo, mask, style, style_mask = kept
    return UnpairedPictures(photo, mask, style, style_mask, said_of(rows))


def _listed(root: Path, names: list[str], colour: bool) -> Pictures:
    found = Pictures(root, colour)
    for name in names:
        found.add(name)
    return found


def with_photographs(batches: Batches, found: UnpairedPictures, seed: int) -> Batches:
    """Batches of pairs, to which as many photographs and style pictures are added as there are pairs.

    Added are `real` and `drawn` uint8 [n, 3, H, W], `real_again`, the same photographs by another camera, and
    `real_mask` and `drawn_mask` uint8 [n, 1, H, W]. All follow from the seed and the images seen.
    """

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        counts = np.arange(start, start + count)[rows]
        made: dict[str, np.ndarray] = {}
        for name, stream, colours, masks in (
            ("real", PHOTOGRAPHS, found.photo, found.mask),
            ("drawn", DRAWN, found.style, found.style_mask),
        ):
            chosen = epoch_order(len(colours), seed + stream, start, count)[rows]
            flips = [np.random.default_rng([seed, stream, int(number_)]).random() < 0.5 for number_ in counts]
            made[name] = _flipped(colours[chosen], flips)
            made[f"{name}_mask"] = _flipped(masks[chosen], flips)[..., None]
        made["real_again"] = np.stack([_again(p, [seed, 6, int(n)]) for p, n in zip(made["real"], counts, strict=True)])
        added = {name: torch.from_numpy(pixels).permute(0, 3, 1, 2) for name, pixels in made.items()}
        return batches(start, count, rows) | added

    return batch


def _flipped(pictures: np.ndarray, flips: list[bool]) -> np.ndarray:
    return np.stack([picture[:, ::-1] if flip else picture for picture, flip in zip(pictures, flips, strict=True)])


def _again(photo: np.ndarray, seed: list[int]) -> np.ndarray:
    """A photograph by another camera."""
    from stages.student.camera import develop, draw_camera, record  # needs OpenCV

    rng = np.random.default_rng(seed)
    camera = draw_camera(rng)
    return record(camera, develop(camera, np.ascontiguousarray(photo)), rng)


def parted(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A batch as (pairs, what `with_photographs` added); the latter as the training sees it.

    Pictures are float32 [N, 3, H, W] in [-1, 1], channels last; masks [N, 1, H, W]: `real_head` and `drawn_head`
    coverage, `free` where alpha may be anything but outside the head, `inside` well inside it.
    """
    added = {name: value for name, value in batch.items() if name.startswith(("real", "drawn"))}
    pairs = {name: value for name, value in batch.items() if name not in added}
    if not added:
        return pairs, {}
    masks = {name[:-5]: added.pop(name).float().div_(255.0) for name in ("real_mask", "drawn_mask")}
    ready = {name: value.float().div_(127.5).sub_(1.0) for name, value in added.items()}
    ready |= {f"{name}_head": mask for name, mask in masks.items()}
    ready |= {"free": torch.maximum(paintable(masks["real"]), neck(masks["real"])), "inside": solid(masks["real"])}
    return pairs, {name: value.contiguous(memory_format=torch.channels_last) for name, value in ready.items()}


def neck(heads: Tensor) -> Tensor:
    """Where a neck may be, below head coverage [N, 1, H, W] and as wide as the head: float of the same shape."""
    seen = (heads > 0.5).float()
    beside = seen.amax(dim=2, keepdim=True)  # columns of the head
    above = seen.amax(dim=3, keepdim=True).cumsum(dim=2)  # rows of the head so far
    low = above > NECK * above[:, :, -1:]
    return (beside * low).float()


def on_grey(discriminator: PatchGAN, picture: Tensor, head: Tensor) -> PatchOutput:
    """What a discriminator says of heads [N, 3, H, W] alone, on grey, beside their coverage [N, 1, H, W]."""
    said: PatchOutput = discriminator((2 * head - 1).expand(-1, 3, -1, -1), picture * head)
    return said


def photograph_terms(
    settings: Photographs, real: dict[str, Tensor], output: Tensor, again: Tensor, alpha: Tensor
) -> dict[str, Tensor]:
    """The terms of photographs that need no other network.

    Args:
        settings: the weights.
        real: see `parted`; and `maps` [N, 2, 3], see `stages.training.losses.moved`.
        output: drawings [N, 3, H, W] of the photographs.
        again: those of `real_again`, moved by the maps.
        alpha: [N, 1, H, W], of `output`.

    Returns:
        Weighted scalars.
    """
    (wanted, valid), inside = moved(output, real["maps"]), moved(real["inside"], real["maps"])[0]
    unsteady = (again - wanted).abs() * valid * inside.clamp(0, 1)
    return {
        "real_background": settings.background * matte_loss(alpha, real["free"]),
        "real_mask": settings.mask * matte_loss(1 - alpha, 1 - real["inside"]),
        "real_equivariance": settings.equivariance * unsteady.mean(),
    }


def lost_identity(reader: Reader, photo: Tensor, output: Tensor, head: Tensor) -> Tensor:
    """1 - cosine of the embeddings of photo and drawing [N, 3, H, W] in the photo's own crop: scalar."""
    boxes = head_boxes(head)
    with torch.no_grad():
        wanted = reader.identity(crop(photo, boxes))
    return (1 - F.cosine_similarity(wanted, reader.identity(crop(output, boxes)), dim=1)).mean()
