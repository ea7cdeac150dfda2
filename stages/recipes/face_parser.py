"""The face parser's recipe: trains on portraits with label masks, scores held-out people, writes weights and a card.

    python -m stages.recipes.face_parser --images DIR --masks DIR --out parser.safetensors [--people manifest.csv]

Masks bear their picture's stem and hold the 19 labels of CelebAMask-HQ in its order, as stored values (palette or grey
PNG). A fifth of the people is held out, by a hash of who they are: the column `person_group` of the table `--people`
beside its column `file`, else every picture is a person. A killed run resumes.

The weights carry the licence of the pictures: CelebAMask-HQ's are for research only, and none are shipped.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.decode import ImageError
from stages.core.files import sha256_file, write_json
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tensors import unit
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.datasets.pictures import read_whole
from stages.faces.parse import load_parser
from stages.networks.face_labels import PARSER_HEAD, PARSER_LABELS, PARSER_MIRROR
from stages.networks.parser import FaceParser
from stages.recipes.augment import affine, chance, recolour, soften
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Batches, Phase, Task, Update, epoch_order, fit

STORED = 192  # pixels a side that pictures are kept at: views of them are cut at `FaceParser.size`
EMA = 0.998  # decay an update
TURN, SCALE, SHIFT = 25.0, 0.30, 0.12  # degrees, log scale, share of the width
OCCLUDED = 0.2  # share of the pictures that something is held before
# Weight of each label in the cross entropy: small parts would be lost beside hair and cloth.
WEIGHTS = (1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.5, 2.0, 2.0, 2.0, 1.0, 1.5, 1.5, 1.5, 1.0, 1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


@dataclass
class Labelled:
    """Portraits and their labels: uint8 [N, 3, S, S] and uint8 [N, S, S], on any one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: np.ndarray) -> Labelled:
        """The pictures of these indices, or where a bool [N] is set."""
        index = torch.from_numpy(chosen)
        return Labelled(self.images[index], self.labels[index])

    def batches(self, seed: int) -> Batches:
        """Training data in an endless order, shuffled anew after every picture was seen."""

        def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
            part = self.rows(epoch_order(len(self), seed, start, count)[rows])
            return {"image": part.images, "labels": part.labels}

        return batches


def heldout(person: str) -> bool:
    """Is this person held out? A fifth is, by hash: the same ones whatever else is added."""
    return int(hashlib.sha256(f"tristyle/{person}".encode()).hexdigest()[:8], 16) % 5 == 0


def load_labelled(images: Path, masks: Path, side: int = STORED) -> tuple[Labelled, list[str]]:
    """Pictures that have a mask of the same stem, squares of `side` pixels, and their stems.

    Raises:
        TristyleError: fewer than two pairs, a picture that is not square, or a mask that is no label mask.
    """
    by_stem = {path.stem: path for path in sorted(masks.iterdir()) if path.suffix.lower() == ".png"}
    chosen = [path for path in sorted(images.iterdir()) if path.stem in by_stem]
    if len(chosen) < 2:
        raise TristyleError(f"{images}: {len(chosen)} pictures have a mask of their name in {masks}; give at least 2.")
    pictures = np.empty((len(chosen), side, side, 3), np.uint8)
    labels = np.empty((len(chosen), side, side), np.uint8)
    for row, path in enumerate(chosen):
        picture, values = read_whole(path), read_labels(by_stem[path.stem])
        if picture.shape[0] != picture.shape[1] or values.shape[0] != values.shape[1]:
            raise TristyleError(f"{path}: the picture or its mask is not square. Crop both alike.")
        pictures[row] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        labels[row] = reduce_labels(values, side)
    kept = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    return Labelled(kept, torch.from_numpy(labels)), [path.stem for path in chosen]


def read_labels(path: Path) -> np.ndarray:
    """The stored values of a label mask: uint8 [H, W], each under 19.

    Raises:
        ImageError: unreadable, or no such mask.
    """
    from PIL import Image

    read_whole(path)  # refuses what is damaged, in one line
    with Image.open(path) as opened:
        values = np.array(opened) if opened.mode in ("P", "L") else None
    if values is None or values.max() >= len(PARSER_LABELS):
        raise ImageError(f"{path}: no mask of labels 0 to {len(PARSER_LABELS) - 1}. Store them as palette or grey PNG.")
    return values


def reduce_labels(values: np.ndarray, side: int) -> np.ndarray:
    """Labels [H, W] at `side` pixels a side: the one that covers most of each pixel."""
    shape = (side, side)
    cover = [cv2.resize((values == k).astype(np.uint8) * 255, shape, interpolation=cv2.INTER_AREA) for k in range(19)]
    return np.argmax(cover, axis=0).astype(np.uint8)


def people_of(table: Path | None, stems: list[str]) -> list[str]:
    """Who is on each picture: `person_group` of the row whose `file` has its stem; the stem itself without a table.

    Raises:
        TristyleError: a picture is not in the table, or the table has no such columns.
    """
    if table is None:
        return stems
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        person = {Path(row["file"]).stem: row["person_group"] for row in rows if row["person_group"]}
        return [person[stem] for stem in stems]
    except KeyError as error:
        raise TristyleError(
            f"{table}: tells no person for {error}; columns file and person_group are needed."
        ) from None


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation: randomness comes from torch's global generator, which `fit` seeds from the images seen


def views(images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """One random view of each picture: mirrored, turned, scaled, shifted, occluded, in other light, colours, sharpness.

    Args:
        images: uint8 [N, 3, S, S]; labels: uint8 [N, S, S].

    Returns:
        float32 [N, 3, size, size] in [-1, 1] and int64 [N, size, size]
    """
    theta, mirrored = affine(len(images), images.device, SCALE, SHIFT, TURN)
    image, label = cut(images, labels, theta, size)
    swapped = torch.tensor(PARSER_MIRROR, device=label.device)[label]
    label = torch.where(mirrored[:, None, None], swapped, label)
    image, label = occlude(image, label)
    return soften(relight(recolour(image)), 24, 96).clamp(-1, 1), label


def cut(images: Tensor, labels: Tensor, theta: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pictures and labels (see `views`) at the positions `theta` [N, 2, 3]; beyond the frame they are mirrored.

    Pictures are sampled at twice the size and averaged, or what is reduced would be rougher than in use.
    """
    n = len(images)
    fine = F.affine_grid(theta, [n, 3, 2 * size, 2 * size], align_corners=False)
    image = F.grid_sample(images.float() / 127.5 - 1, fine, padding_mode="reflection", align_corners=False)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    label = F.grid_sample(labels[:, None].float(), grid, "nearest", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(image, 2), label[:, 0].round().long()


def occlude(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Before some heads an ellipse showing a piece of another picture: background, as hands and microphones are."""
    n, _, height, width = images.shape
    device = images.device
    y = (torch.arange(height, device=device) + 0.5)[:, None] / height
    x = (torch.arange(width, device=device) + 0.5)[None] / width
    centre, half = torch.rand(2, n, 1, 1, device=device), 0.05 + 0.15 * torch.rand(2, n, 1, 1, device=device)
    inside = ((x - centre[0]) / half[0]).square() + ((y - centre[1]) / half[1]).square() < 1
    inside &= chance(n, OCCLUDED, device)[:, None, None]
    other = images.roll(1, 0).flip(2)
    return torch.where(inside[:, None], other, images), labels.masked_fill(inside, 0)


def relight(images: Tensor) -> Tensor:
    """Gamma, and light from one side in some: [N, 3, H, W] in about [-1, 1]."""
    n, _, height, width = images.shape
    device = images.device
    angle = torch.rand(n, 1, 1, 1, device=device) * 2 * math.pi
    strength = torch.randn(n, 1, 1, 1, device=device) * 0.5 * chance(n, 0.3, device)[:, None, None, None]
    y, x = torch.linspace(-1, 1, height, device=device)[:, None], torch.linspace(-1, 1, width, device=device)[None]
    light = torch.exp(strength * (x * angle.cos() + y * angle.sin()))
    gamma = torch.exp(torch.randn(n, 1, 1, 1, device=device) * 0.25)
    return (unit(images).pow(gamma) * light) * 2 - 1


# ---------------------------------------------------------------------------------------------------------------------
# Training


def parsing_loss(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Weighted cross entropy, and the soft Dice losses of the labels that occur in the batch and of the whole head."""
    cross = F.cross_entropy(logits, labels, torch.tensor(WEIGHTS, device=logits.device))
    share = logits.softmax(1)
    target = F.one_hot(labels, len(PARSER_LABELS)).permute(0, 3, 1, 2).to(share.dtype)
    area = target.sum(dim=(0, 2, 3))
    dice = 1 - (2 * (share * target).sum(dim=(0, 2, 3)) + 1) / (share.sum(dim=(0, 2, 3)) + area + 1)
    head, truth = (values[:, PARSER_HEAD.start : PARSER_HEAD.stop].sum(1) for values in (share, target))
    whole = 1 - (2 * (head * truth).sum() + 1) / (head.sum() + truth.sum() + 1)
    return {"cross": cross, "dice": 0.5 * dice[area > 0].mean(), "head": whole}


class ParserTask(Task):
    """Training of a parser; `self.ema` holds the weights for use.

    Args:
        lr: AdamW's learning rate.
    """

    def __init__(self, parser: FaceParser, lr: float) -> None:
        super().__init__()
        self.parser = parser.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(parser)
        params = list(self.parser.parameters())
        self.phases = [Phase("parse", params, torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), weight_decay=0.05))]

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        image, labels = views(batch["image"], batch["labels"], self.parser.size)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=image.is_cuda):
            logits = self.parser(image.contiguous(memory_format=torch.channels_last))
        return parsing_loss(logits.float(), labels)

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        ema_update(self.ema, self.parser, early_decay(images / batch, EMA))
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        """Warm-up over 3 %, then half a cosine to zero."""
        done = images / total
        return min(done / 0.03 + 0.02, 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)), 1.0)


@torch.no_grad()
def score(parser: FaceParser, held: Labelled) -> dict[str, object]:
    """What a parser in eval mode scores at its own size.

    head_iou: mean over the pictures (p10: the tenth percentile); iou: each label over the whole set, None for one that
    does not occur; right: share of the pixels.
    """
    device = next(parser.parameters()).device
    count = len(PARSER_LABELS)
    table = torch.zeros(count, count, dtype=torch.float64)
    heads = []
    straight = torch.eye(2, 3, device=held.images.device)[None]
    for index in torch.arange(len(held)).split(32):
        image, truth = cut(held.images[index], held.labels[index], straight.expand(len(index), 2, 3), parser.size)
        share = parser(image.to(device)).softmax(1).cpu()
        found, truth = share.argmax(1), truth.cpu()
        table += torch.bincount((truth * count + found).flatten(), minlength=count**2).view_as(table)
        head = share[:, PARSER_HEAD.start : PARSER_HEAD.stop].sum(1) > 0.5
        real = (truth >= PARSER_HEAD.start) & (truth < PARSER_HEAD.stop)
        heads.append((head & real).sum((1, 2)) / (head | real).sum((1, 2)))
    each, right = torch.cat(heads).double(), table.diagonal()
    iou = (right / (table.sum(0) + table.sum(1) - right)).tolist()
    return {
        "pictures": len(held),
        "head_iou": round(float(each.mean()), 4),
        "head_iou_p10": round(float(each.quantile(0.1)), 4),
        "right": round(float(right.sum() / table.sum()), 4),
        "iou": {name: None if math.isnan(v) else round(v, 4) for name, v in zip(PARSER_LABELS, iou, strict=True)},
    }


def train_parser(options: argparse.Namespace) -> dict[str, object]:
    """Load, train, save in half precision, score what was saved, write the card; the scores.

    Raises:
        TristyleError: unusable folders or table.
    """
    begun, work, out = time.time(), Path(options.work), Path(options.out)
    work.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    everything, stems = load_labelled(Path(options.images), Path(options.masks))
    people = people_of(options.people and Path(options.people), stems)
    held = np.array([heldout(person) for person in people])
    if held.all() or not held.any():
        raise TristyleError(f"{options.images}: too few people to hold a fifth of them out. Give more pictures.")
    torch.manual_seed(options.seed)
    task = ParserTask(FaceParser(), options.lr)
    train = Train(images=options.length, batch=options.batch, lr=options.lr, seed=options.seed)
    runtime = Runtime(options.device, options.workers, Tracker(work))
    batches = everything.rows(~held).batches(options.seed)
    fit(task, batches, train=train, scratch=work, runtime=runtime, label="parser")
    save_network(out, task.ema, half=True)
    scores = score(load_parser(out), everything.rows(held))
    digest = sha256_file(out)
    card = {
        "id": f"parser-{digest[:8]}",
        "sha256": digest,
        "input": f"RGB portraits, FFHQ-aligned or nearly so, reduced to {FaceParser.size} px inside",
        "licence": "that of the pictures it was trained on",
        "recipe": {"command": "python -m stages.recipes.face_parser", "trained_on": int((~held).sum())}
        | {name: getattr(options, name) for name in ("length", "batch", "lr", "seed")},
        "minutes": round((time.time() - begun) / 60, 1),
        "heldout": scores,
    }
    write_json(out.with_suffix(".json"), card)
    return scores


def training_options(parser: argparse.ArgumentParser) -> None:
    """What every training of a parser is asked."""
    parser.add_argument("--length", type=int, default=60_000, help="pictures seen in training")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.recipes.face_parser",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", required=True, help="folder of square portraits")
    parser.add_argument("--masks", required=True, help="folder of their label masks")
    parser.add_argument("--out", required=True, help="weights to write; the card lies beside them")
    parser.add_argument("--people", help="table of who is on which picture: columns file, person_group")
    parser.add_argument("--work", default="runs/parser", help="folder for log and training state")
    training_options(parser)
    parser.add_argument("--workers", type=int, default=1, help="training threads on a CPU")
    try:
        print(json.dumps(train_parser(parser.parse_args(arguments)), indent=1))
    except TristyleError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
