"""The face parser's recipe: trains on label masks, or without any; scores held-out people, writes weights and a card.

With label masks of the pictures (CelebAMask-HQ's 19 labels in its order, palette or grey PNG under a picture's stem):

    python -m stages.recipes.face_parser --images DIR --masks DIR --out parser.safetensors [--people manifest.csv]

A fifth of the people is held out, by a hash of who they are: the column `person_group` of the table `--people` beside
its column `file`, else every picture is a person. The weights carry the licence of the pictures: CelebAMask-HQ's are
for research only, and none are shipped.

Without label masks, as the shipped parser was made:

    python -m stages.recipes.face_parser --photos DIR --persons DIR --meshes FILE.npz --out parser.safetensors

People with truth come with all their labels. Of a photo are known where the person is (`--persons`) and Face Mesh's
points (`--meshes`); see `stages.recipes.parser_labels`. The loss asks only that the shares of the labels that are
possible sum to one (Cour et al., JMLR 2011, "Learning from partial labels"). Among those the averaged network teaches
itself where it is sure (Sohn et al., 2020, arXiv 2001.07685: weak view -> strong view). Such weights may be shipped
wherever the photos, masks and points may be. `--score-images` and `--score-masks` name labelled portraits for the
scores; nothing is trained on them.

From people with truth alone, out of a data artifact (`data=rendered`):

    python -m stages.recipes.face_parser --data runs/data/KEY --out parser.safetensors

The pictures then pass through `augment.wild` and `augment.rough_camera`, so that the parser carries over to
photographs. With the three options for photos too, those people take the place of `--portraits` drawn ones.

A killed run resumes.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.faces.parse import load_parser
from stages.networks.face_labels import PARSER, PARSER_HEAD, PARSER_LABELS, PARSER_MIRROR
from stages.networks.parser import FaceParser
from stages.recipes.augment import camera, cut, parser_views, rough_camera, wild
from stages.recipes.card import write_card
from stages.recipes.parser_labels import (
    CODES,
    MAYBE_HEAD,
    MEMBERS,
    MIRRORED,
    STORED,
    SURELY_HEAD,
    Labelled,
    heldout,
    load_labelled,
    load_photos,
    people_of,
    render_labelled,
)
from stages.recipes.truth import load_truth
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Batches, Phase, Task, Update, fit
from stages.training.precision import compute_dtype

EMA = 0.998  # decay an update
SURE = 0.75  # share from which the averaged network is believed
# Weight of each label in the cross entropy: small parts would be lost beside hair and cloth.
WEIGHTS = (1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.5, 2.0, 2.0, 2.0, 1.0, 1.5, 1.5, 1.5, 1.0, 1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def parsing_loss(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Weighted cross entropy, and the soft Dice losses of the labels that occur in the batch and of the whole head.

    Args:
        logits: [N, 19, H, W].
        labels: int64 [N, H, W].
    """
    cross = F.cross_entropy(logits, labels, torch.tensor(WEIGHTS, device=logits.device))

    share = logits.softmax(1)
    target = F.one_hot(labels, len(PARSER_LABELS)).permute(0, 3, 1, 2).to(share.dtype)
    area = target.sum(dim=(0, 2, 3))
    dice = 1 - (2 * (share * target).sum(dim=(0, 2, 3)) + 1) / (share.sum(dim=(0, 2, 3)) + area + 1)

    head, truth = (values[:, PARSER_HEAD.start : PARSER_HEAD.stop].sum(1) for values in (share, target))
    whole = 1 - (2 * (head * truth).sum() + 1) / (head.sum() + truth.sum() + 1)
    return {"cross": cross, "dice": 0.5 * dice[area > 0].mean(), "head": whole}


def partial_loss(share: Tensor, codes: Tensor, allowed: Tensor, half: int) -> dict[str, Tensor]:
    """Cross entropy with sets of labels, and soft Dice wherever a label, or the head, is known.

    Args:
        share: [N, 19, H, W], summing to 1 over the labels.
        codes: int64 [N, H, W].
        allowed: [N, 19, H, W], 1 for the labels that a pixel's code allows.
        half: how many of the pictures come first that have nearly all their labels.
    """
    weights = torch.tensor([*WEIGHTS, *([1.0] * len(CODES))], device=share.device)
    cross = ((share * allowed).sum(1).clamp_min(1e-6).log() * -weights[codes]).mean()

    exact = (codes[:half] < len(PARSER_LABELS))[:, None]
    target, known = allowed[:half] * exact, share[:half]
    area = target.sum(dim=(0, 2, 3))
    dice = 1 - (2 * (known * target).sum(dim=(0, 2, 3)) + 1) / ((known * exact).sum(dim=(0, 2, 3)) + area + 1)

    # Pixels that may be head or not are left out of the head's Dice.
    surely, maybe = SURELY_HEAD.to(share.device)[codes], MAYBE_HEAD.to(share.device)[codes]
    head, truth = share[:, PARSER_HEAD.start : PARSER_HEAD.stop].sum(1) * (surely | ~maybe), surely.float()
    whole = 1 - (2 * (head * truth).sum() + 1) / (head.sum() + truth.sum() + 1)
    return {"cross": cross, "dice": 0.5 * dice[area > 0].mean(), "head": whole}


# ---------------------------------------------------------------------------------------------------------------------
# Training


class ParserTask(Task):
    """Training of a parser on label masks; `self.ema` holds the weights for use.

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
        """The phase's losses, each a scalar, of a batch."""
        plain, labels = parser_views(batch["image"], batch["labels"], self.parser.size, PARSER_MIRROR)
        return parsing_loss(self.logits(camera(plain)), labels)

    def logits(self, images: Tensor) -> Tensor:
        """The parser's answer, float32 [N, 19, H, W]; computed in bfloat16 where the hardware multiplies it."""
        half = compute_dtype("auto", images.device) == torch.bfloat16
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            found: Tensor = self.parser(images.contiguous(memory_format=torch.channels_last)).float()
        return found

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the averaged network toward the trained one."""
        ema_update(self.ema, self.parser, early_decay(images / batch, EMA))
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        """Warm-up over 3 %, then half a cosine to zero."""
        done = images / total
        return min(done / 0.03 + 0.02, 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)), 1.0)


class TrueLabelsTask(ParserTask):
    """Training on codes of people with truth alone, made rough enough to read photographs with."""

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Cross entropy to the true codes of roughened pictures `image` [N, 3, H, W] and `labels` [N, H, W]."""
        plain, codes = parser_views(batch["image"], batch["labels"], self.parser.size, MIRRORED)
        eyes = torch.stack([middles(codes == PARSER[side]) for side in ("r_eye", "l_eye")], dim=1)
        image, codes = wild(plain, codes, eyes, PARSER["glasses"])
        allowed = MEMBERS.to(codes.device)[codes].permute(0, 3, 1, 2)  # [N, 19, H, W]
        return partial_loss(self.logits(rough_camera(image)).softmax(1), codes, allowed, len(codes))


def middles(chosen: Tensor) -> Tensor:
    """Mean place of what is chosen, in shares of the frame: bool [N, S, S] -> [N, 2] x, y; NaN where nothing is."""
    count = chosen.sum((1, 2))
    place = (torch.arange(chosen.shape[-1], device=chosen.device) + 0.5) / chosen.shape[-1]
    across, down = (chosen.sum(1) * place).sum(1), (chosen.sum(2) * place).sum(1)
    return torch.stack([across, down], dim=1) / count[:, None]


class PartialLabelsTask(ParserTask):
    """Training on codes: batches of `mixed_batches`.

    Args:
        images: length of the training.
    """

    def __init__(self, parser: FaceParser, lr: float, images: int) -> None:
        super().__init__(parser, lr)
        self.images = images

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The phase's losses, each a scalar, of a batch."""
        half = len(batch["image"]) // 2
        plain, codes = parser_views(batch["image"], batch["labels"], self.parser.size, MIRRORED)
        allowed = MEMBERS.to(codes.device)[codes].permute(0, 3, 1, 2)  # [N, 19, H, W]
        logits = self.logits(camera(plain))

        # The averaged network reads the photos as they are, and teaches what the sets leave open.
        with torch.no_grad(), torch.autocast(plain.device.type, torch.bfloat16, enabled=plain.is_cuda):
            known = self.ema.eval()(plain[half:].clamp(-1, 1)).float().softmax(1) * allowed[half:]
        sure, label = (known / known.sum(1, keepdim=True).clamp_min(1e-6)).max(1)
        taught = F.cross_entropy(logits[half:], label, reduction="none") * (sure > SURE)
        ramp = min(max((update.images / self.images - 0.15) / 0.25, 0.0), 1.0)  # it learns first
        return partial_loss(logits.softmax(1), codes, allowed, half) | {"self": 0.5 * ramp * taught.mean()}


def mixed_batches(*sources: Batches) -> Batches:
    """Batches with equally many pictures of each source, in their order; what does not divide is left out."""

    def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        each = count // len(sources)
        places, parts = range(len(sources) * each)[rows], []
        for number, source in enumerate(sources):
            own = [place - number * each for place in places if place // each == number]
            if own:
                parts.append(source(start // len(sources), each, slice(own[0], own[-1] + 1, places.step)))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return batches


# ---------------------------------------------------------------------------------------------------------------------
# Scores


@torch.no_grad()
def score(parser: FaceParser, held: Labelled) -> dict[str, object]:
    """What a parser in eval mode scores at its own size.

    Returns:
        pictures; head_iou, the mean over the pictures; head_iou_p10, their tenth percentile; right, the share of the
        pixels; iou of each label over the whole set, None for one that does not occur.
    """
    device, count = next(parser.parameters()).device, len(PARSER_LABELS)
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


# ---------------------------------------------------------------------------------------------------------------------
# The recipe


def labelled_recipe(options: argparse.Namespace) -> tuple[ParserTask, Batches, Labelled, dict[str, object]]:
    """Task, batches, pictures for the scores and facts for the card of a training on label masks.

    Raises:
        TristyleError: unusable folders or table, or too few people.
    """
    everything, stems = load_labelled(Path(options.images), Path(options.masks))
    people = people_of(options.people and Path(options.people), stems)
    held = np.array([heldout(person) for person in people])
    if held.all() or not held.any():
        raise TristyleError(f"{options.images}: too few people to hold a fifth of them out. Give more pictures.")

    torch.manual_seed(options.seed)
    task = ParserTask(start_parser(options), options.lr)
    about = {"licence": "that of the pictures it was trained on", "trained_on": int((~held).sum())}
    return task, everything.rows(~held).batches(options.seed), everything.rows(held), about


def partial_recipe(options: argparse.Namespace) -> tuple[ParserTask, Batches, Labelled | None, dict[str, object]]:
    """Task, batches, pictures for the scores and facts for the card of a training without label masks.

    Raises:
        TristyleError: unusable folders.
    """
    photos = load_photos(Path(options.photos), Path(options.persons), Path(options.meshes))
    held = load_labelled(Path(options.score_images), Path(options.score_masks))[0] if options.score_images else None
    about: dict[str, object] = {"licence": "that of the photos, masks and points", "photos": len(photos)}
    if options.data is None:
        known = render_labelled(options.portraits, options.views, options.workers).batches(options.seed)
        about |= {"portraits": options.portraits, "views": options.views}
    else:
        known, facts = true_batches(options, STORED)
        about |= facts

    torch.manual_seed(options.seed)
    task = PartialLabelsTask(start_parser(options), options.lr, options.length)
    return task, mixed_batches(known, photos.batches(options.seed + 1)), held, about


def true_recipe(options: argparse.Namespace) -> tuple[ParserTask, Batches, Labelled | None, dict[str, object]]:
    """Task, batches, pictures for the scores and facts for the card of a training on people with truth alone.

    Raises:
        TristyleError: unusable folders.
    """
    batches, facts = true_batches(options)
    held = load_labelled(Path(options.score_images), Path(options.score_masks))[0] if options.score_images else None

    torch.manual_seed(options.seed)
    task = TrueLabelsTask(start_parser(options), options.lr)
    return task, batches, held, {"licence": "that of the data artifact"} | facts


def true_batches(options: argparse.Namespace, side: int | None = None) -> tuple[Batches, dict[str, object]]:
    """People with truth of the data artifacts, all alike often, and facts for the card.

    Args:
        options: of these `data`, `most` and `seed`.
        side: of the pictures, px; None for that of the largest.

    Raises:
        TristyleError: no data artifact with labels.
    """
    people = [load_truth(Path(folder), options.most) for folder in options.data]
    largest = side or max(some.images.shape[1] for some in people)
    known = [some.labelled().sized(largest).batches(options.seed + n) for n, some in enumerate(people)]
    facts: dict[str, object] = {"data": [some.source for some in people], "portraits": [len(some) for some in people]}
    return mixed_batches(*known), facts


def start_parser(options: argparse.Namespace) -> FaceParser:
    """The parser that a training goes on from, or a new one."""
    return FaceParser() if options.start is None else load_parser(Path(options.start))


def train_parser(options: argparse.Namespace) -> dict[str, object]:
    """Load, train, save in half precision, score what was saved, write the card; returns the card.

    Raises:
        TristyleError: unusable folders or table.
    """
    begun, work, out = time.time(), Path(options.work), Path(options.out)
    work.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    recipes = {"images": labelled_recipe, "photos": partial_recipe, "data": true_recipe}
    task, batches, held, about = next(make for name, make in recipes.items() if getattr(options, name))(options)

    train = Train(images=options.length, batch=options.batch, lr=options.lr, seed=options.seed)
    runtime = Runtime(options.device, options.workers, Tracker(work))
    fit(task, batches, train=train, scratch=work, runtime=runtime, label="parser")
    save_network(out, task.ema, half=True)

    stored = load_parser(out)
    recipe = {name: getattr(options, name) for name in ("start", "length", "batch", "lr", "seed")}
    return write_card(
        out,
        stored,
        kind="parser",
        command="python -m stages.recipes.face_parser",
        about={"input": f"RGB portraits, FFHQ-aligned or nearly so, reduced to {FaceParser.size} px inside"} | about,
        recipe=recipe | {"minutes": round((time.time() - begun) / 60, 1)},
        heldout=None if held is None else score(stored, held),
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.recipes.face_parser",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, help="weights to write; the card lies beside them")
    parser.add_argument("--work", default="runs/parser", help="folder for log and training state")
    parser.add_argument("--start", help="weights to go on from (default: drawn ones)")
    labels = parser.add_argument_group("with label masks")
    labels.add_argument("--images", help="folder of square portraits")
    labels.add_argument("--masks", help="folder of their label masks")
    labels.add_argument("--people", help="table of who is on which picture: columns file, person_group")
    weak = parser.add_argument_group("without label masks")
    weak.add_argument("--photos", help="folder of square portraits")
    weak.add_argument("--persons", help="folder of soft person masks")
    weak.add_argument("--meshes", help="npz of Face Mesh's points: files, xy, score")
    weak.add_argument("--portraits", type=int, default=2000, help="people with truth")
    weak.add_argument("--views", type=int, default=4, help="pictures of each")
    weak.add_argument("--score-images", help="labelled portraits to score on")
    weak.add_argument("--score-masks", help="their label masks")
    truth = parser.add_argument_group("with people with truth, alone or instead of drawn ones beside photos")
    truth.add_argument("--data", nargs="+", help="data artifacts of data=rendered, drawn alike often")
    truth.add_argument("--most", type=int, help="of the photos of each, at most the first so many")
    training = parser.add_argument_group("training")
    training.add_argument("--length", type=int, default=60_000, help="pictures seen")
    training.add_argument("--batch", type=int, default=16)
    training.add_argument("--lr", type=float, default=2e-3)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--device", default="cpu")
    training.add_argument("--workers", type=int, default=1, help="processes that make portraits; training threads")

    options = parser.parse_args(arguments)
    labelled = [options.images, options.masks]
    weakly = [options.photos, options.persons, options.meshes]
    ways = [all(labelled) and not options.data, all(weakly), bool(options.data)]
    if not any(ways) or any(labelled) != ways[0] or any(weakly) != ways[1] or (ways[0] and ways[1]):
        parser.error("give --images and --masks, or --photos, --persons and --meshes, or --data")
    if (options.score_images is None) != (options.score_masks is None):
        parser.error("give --score-images and --score-masks together")
    try:
        print(json.dumps(train_parser(options), indent=1))
    except TristyleError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
