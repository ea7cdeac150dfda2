"""Fine-tunes a reader's parsing on given head masks, e.g. of real photos, without losing what else it reads.

Only head against everything else is known, so the loss is on the summed probability of the head's labels; landmarks,
pose, expression and identity are held to what the starting reader says of the same picture.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.consent import usable
from stages.core.images import IMAGE_SUFFIXES, write_image
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tensors import mask_tensor, to_tensor
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.datasets.folders.stage import heldout
from stages.datasets.pictures import read_mask, read_whole
from stages.metrics.pixel import head_iou
from stages.networks.face_reader import DEGREES, SIZE, Reader, load_reader
from stages.recipes.augment import affine, recolour, soften, warp
from stages.recipes.card import write_card
from stages.recipes.reader_score import overlay
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Phase, Task, Update, epoch_order, fit

BATCH = 32
KEEP = 0.5  # weight of staying with the starting reader


def load_pairs(images: Path, masks: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures and masks of one stem, reduced to 64 pixels.

    Returns:
        (uint8 [N, 64, 64, 3], uint8 [N, 64, 64], stems)

    Raises:
        TristyleError: no pair, or an unreadable file.
    """
    by_stem = {path.stem: path for path in sorted(masks.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
    chosen = usable(path for path in sorted(images.iterdir()) if path.stem in by_stem)
    if len(chosen) < 2:
        raise TristyleError(f"{images}: {len(chosen)} pictures have a mask of their name in {masks}; give at least 2.")
    size = (SIZE, SIZE)
    pictures = np.stack([cv2.resize(read_whole(path), size, interpolation=cv2.INTER_AREA) for path in chosen])
    covers = [cv2.resize(read_mask(by_stem[path.stem]), size, interpolation=cv2.INTER_AREA) for path in chosen]
    return pictures, np.stack(covers), [path.stem for path in chosen]


class MaskTask(Task):
    """Training of `reader` on head masks; `self.ema` holds the weights for use."""

    def __init__(self, reader: Reader, lr: float) -> None:
        super().__init__()
        self.start = copy.deepcopy(reader).eval()
        self.reader = reader.requires_grad_(True)
        self.ema = copy.deepcopy(reader)
        params = list(self.reader.parameters())
        self.phases = [Phase("mask", params, torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), weight_decay=0.02))]

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The phase's losses, each a scalar, of a batch."""
        theta, _ = affine(len(batch["image"]), batch["image"].device)
        image, head = warp(batch["image"], (batch["mask"][:, 0] > 0.5).long(), theta)
        image = soften(recolour(image)).clamp(-1, 1)
        with torch.no_grad():
            before = self.start.eval()(image)
        after = self.reader(image)
        truth = head[:, None].float()
        # The mask never reaches 0 or 1 exactly in half precision; a logarithm of 0 would end the training.
        cross = F.binary_cross_entropy(after.mask.clamp(1e-5, 1 - 1e-5), truth)
        dice = 1 - 2 * (after.mask * truth).sum() / (after.mask.sum() + truth.sum())
        kept = (after.landmarks - before.landmarks).abs().mean() * 20
        kept = kept + (after.pose - before.pose).abs().mean() / DEGREES
        kept = kept + (after.expression - before.expression).abs().mean()
        kept = kept + (1 - (after.identity * before.identity).sum(dim=1)).mean()
        return {"cross": cross, "dice": dice, "kept": KEEP * kept}

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the averaged network toward the trained one."""
        ema_update(self.ema, self.reader, early_decay(images / batch, 0.995))
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        """Half a cosine to zero."""
        return 0.5 + 0.5 * math.cos(math.pi * min(images / total, 1.0))


def finetune(options: argparse.Namespace) -> None:
    """Fine-tune on `options.images` and `options.masks`, hold out a tenth, write the weights and a card.

    Raises:
        TristyleError: unusable folders, or no place for the result given.
    """
    if options.masks is None or options.out == "data/reader.safetensors":
        raise TristyleError("--images: also give --masks DIR and --out FILE (the shipped reader is never overwritten).")
    pictures, masks, stems = load_pairs(Path(options.images), Path(options.masks))
    aside = heldout(stems, 0.1, options.seed)
    held = np.array([stem in aside for stem in stems])
    trained, out = np.flatnonzero(~held), Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    reader = load_reader(path=options.start)
    first = reader.read(to_tensor(pictures[held]))
    task = MaskTask(reader, options.lr / 5)
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)

    def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        chosen = trained[epoch_order(len(trained), options.seed, start, count)[rows]]
        return {"image": to_tensor(pictures[chosen]), "mask": mask_tensor(masks[chosen])}

    train = Train(images=options.length, batch=BATCH, lr=options.lr / 5, seed=options.seed)
    runtime = Runtime("cpu", options.workers, Tracker(work))
    fit(task, batches, train=train, scratch=work, runtime=runtime, label="finetune")
    last = task.ema.eval().read(to_tensor(pictures[held]))
    save_network(out, task.ema, half=True)
    truth = mask_tensor(masks[held])
    card = write_card(
        out,
        task.ema,
        kind="reader",
        command="python -m stages.recipes.face_reader --images DIR --masks DIR --out FILE",
        about={"licence": "that of the pictures and masks it was trained on", "trained_on": len(trained)},
        recipe={name: getattr(options, name) for name in ("start", "length", "lr", "seed")},
        heldout={
            "pictures": int(held.sum()),
            "head_iou_before": round(float(head_iou(first.mask, truth).mean()), 4),
            "head_iou": round(float(head_iou(last.mask, truth).mean()), 4),
        },
    )
    write_image(work / "heldout.png", overlay(pictures[held][:32], last))
    print(json.dumps(card, indent=1))
