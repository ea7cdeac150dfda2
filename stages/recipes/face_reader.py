"""The face reader's recipe: makes its own people, trains, scores and writes the card.

`python -m stages.recipes.face_reader`, about 20 minutes on two free cores; a killed run resumes. With `--images`,
`--masks`, `--start` and `--out` it fine-tunes the parsing of a reader on given head masks instead
(`stages.recipes.finetune`).

With `--data` it learns from the photos of a data artifact (`data=rendered`), made rough enough to
read photographs with. Those are not in styles: parsing, landmarks, pose and expression learn, identity and the features
for KID do not. That serves to compare sources of people (`python -m stages.evaluate landmarks`), not to ship.
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
from torch import Tensor, nn

from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tensors import to_tensor, to_uint8, unit
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.datasets.people import READER_HELDOUT, READER_PEOPLE, open_people
from stages.metrics.kid import composite_grey
from stages.networks.face_labels import READER_LABELS
from stages.networks.face_reader import DEGREES, SIZE, FaceReading, Reader
from stages.recipes.augment import augment
from stages.recipes.card import write_card
from stages.recipes.people import DOMAINS, PHOTOS, VIEWS, ReaderPictures, render_people
from stages.recipes.reader_score import overlay, score
from stages.recipes.truth import TruePeople, load_truth
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Batches, Phase, Task, Update, epoch_order, fit, update_seed

EMA = 0.997  # decay an update
TEMPERATURE = 0.1  # of the contrast between people
PER_PERSON = 4  # pictures of one person in a batch: two photos, two styled
BATCH = 32
# Weight of each label in the cross entropy: small parts would be lost beside hair and cloth.
LABEL_WEIGHTS = (0.7, 1.0, 2.0, 2.5, 1.2, 2.0, 1.0, 1.5, 1.0, 0.8, 2.0, 1.2, 1.5)


def parsing_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted cross entropy plus the mean soft Dice loss over the labels that occur in the batch."""
    weights = torch.tensor(LABEL_WEIGHTS, device=logits.device)
    target = F.one_hot(labels, len(READER_LABELS)).permute(0, 3, 1, 2).float()
    share = logits.softmax(1)
    overlap = 2 * (share * target).sum(dim=(0, 2, 3)) + 1
    dice = 1 - overlap / (share.sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3)) + 1)
    return F.cross_entropy(logits, labels, weights) + dice[target.sum(dim=(0, 2, 3)) > 0].mean()


def contrast(identity: Tensor, person: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, eq. 2): pictures of one person attract, all others repel.

    Args:
        identity: [N, D] of unit length.
        person: int64 [N]; everyone has at least two pictures in the batch.
        temperature: what cosines are divided by.
    """
    near = identity @ identity.T / temperature
    own = torch.eye(len(person), dtype=torch.bool, device=person.device)
    near = near.masked_fill(own, -math.inf)
    log_share = near - near.logsumexp(dim=1, keepdim=True)
    same = (person[:, None] == person[None, :]) & ~own
    return -(log_share.masked_fill(~same, 0).sum(dim=1) / same.sum(dim=1)).mean()


class ReaderTask(Task):
    """Training of a reader on people with truth: every head at once, on one augmented batch.

    Args:
        reader: the network to train; `self.ema` holds the weights for use.
        lr: Adam's learning rate.
        examples: pictures [N, 3, 64, 64] in [-1, 1] for the preview.
    """

    def __init__(self, reader: Reader, lr: float, examples: Tensor) -> None:
        super().__init__()
        self.reader = reader.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
        self.ema = copy.deepcopy(reader)
        # Telling the domains apart keeps the features sensitive to style, as KID needs them; not part of the reader.
        self.domain = nn.Sequential(
            nn.BatchNorm1d(len(reader.feature_mean), affine=False), nn.Linear(len(reader.feature_mean), len(DOMAINS))
        )
        params = [*self.reader.parameters(), *self.domain.parameters()]
        self.phases = [Phase("read", params, torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), weight_decay=0.02))]
        self.examples = examples

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The phase's losses, each a scalar, of a batch."""
        batch = augment(batch)
        reading, losses = self.reading_losses(batch)
        return losses | {
            "identity": 0.4 * contrast(reading.identity, batch["person"]),
            "domain": 0.1 * F.cross_entropy(self.domain(reading.features), batch["domain"]),
        }

    def reading_losses(self, batch: dict[str, Tensor]) -> tuple[FaceReading, dict[str, Tensor]]:
        """What is read of augmented pictures, and the losses that need one picture of a person alone."""
        reading: FaceReading = self.reader(batch["image"])
        missed = (reading.landmarks - batch["landmarks"]).abs().sum(dim=2) * batch["seen"]
        return reading, {
            "parsing": 2 * parsing_loss(reading.parsing, batch["labels"]),
            "landmarks": 15 * missed.sum() / batch["seen"].sum(),
            "pose": F.l1_loss(reading.pose, batch["pose"]) / DEGREES * 2,
            "expression": 2 * F.l1_loss(reading.expression, batch["expression"]),
        }

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the averaged network toward the trained one."""
        ema_update(self.ema, self.reader, early_decay(images / batch, EMA))
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        """Warm-up over 2 %, then half a cosine to zero."""
        done = images / total
        return min(done / 0.02 + 0.02, 0.5 + 0.5 * math.cos(math.pi * done), 1.0)

    def preview(self) -> dict[str, np.ndarray]:
        """Show what the averaged reader sees in the examples."""
        reading = self.ema.eval().read(self.examples)
        return {"reading": overlay(to_uint8(self.examples), reading, columns=6)}


class PhotoReaderTask(ReaderTask):
    """Training of a reader's parsing, landmarks, pose and expression on photos of people with truth."""

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The reading losses of roughened photos; see `augment` for the batch."""
        return self.reading_losses(augment(batch, rough=True))[1]


def photo_batches(people: TruePeople, seed: int) -> Batches:
    """Batches of photos, in an endless order that is shuffled anew after every photo was seen."""
    labels = people.reader_labels()

    def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        order = epoch_order(len(people), seed, start, count)[rows]
        return {
            "image": to_tensor(people.images[order]),
            "labels": torch.from_numpy(labels[order].astype(np.int64)),
            "landmarks": torch.from_numpy(people.landmarks[order]),
            "pose": torch.from_numpy(people.pose[order]),
            "expression": torch.from_numpy(people.expression[order]),
        }

    return batches


def people_batches(people: ReaderPictures, seed: int) -> Batches:
    """Batches with `PER_PERSON` pictures of each person: two photos and two styled ones, views drawn anew each time."""

    def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        if count % PER_PERSON:
            raise ValueError(f"the batch must be a multiple of {PER_PERSON}, not {count}")
        who = epoch_order(len(people), seed, start // PER_PERSON, count // PER_PERSON)
        draw = np.random.default_rng(update_seed(seed, start, "people"))
        pictures: list[int] = []
        for person in who:
            first = draw.choice(PHOTOS, 2, replace=False)
            second = PHOTOS + draw.choice(VIEWS - PHOTOS, 2, replace=False)
            pictures.extend(person * VIEWS + np.concatenate([first, second]))
        return people.batch(np.array(pictures)[rows])

    return batches


@torch.no_grad()
def standardise(reader: Reader, people: ReaderPictures, count: int = 3000) -> None:
    """Set the features' mean and deviation from heads on grey, drawn evenly over the people and domains."""
    rows = np.linspace(0, len(people) * VIEWS - 1, min(count, len(people) * VIEWS)).astype(int)
    raw = []
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        images = people.batch(part)["image"]
        mask = people.head_mask(part)
        raw.append(reader.raw_features(reader.encode(composite_grey(unit(images), mask) * 2 - 1)))
    features = torch.cat(raw)
    reader.feature_mean.copy_(features.mean(0))
    reader.feature_std.copy_(features.std(0).clamp(min=1e-3))


def train_photo_reader(options: argparse.Namespace) -> None:
    """Load, train, save in half precision, write the card.

    Raises:
        TristyleError: no data artifact with labels.
    """
    begun, work, out = time.time(), Path(options.work), Path(options.out)
    work.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    people = load_truth(Path(options.data), options.most, SIZE)
    batches = photo_batches(people, options.seed)

    torch.manual_seed(options.seed)
    task = PhotoReaderTask(Reader(), options.lr, batches(0, 24)["image"])
    train = Train(images=options.length, batch=BATCH, lr=options.lr, seed=options.seed, preview_images=12_000)
    runtime = Runtime("cpu", options.workers, Tracker(work))
    fit(task, batches, train=train, scratch=work, runtime=runtime, label="reader")
    save_network(out, task.ema.eval(), half=True)

    write_card(
        out,
        load_network(out),
        kind="reader",
        command="python -m stages.recipes.face_reader",
        about={"licence": "that of the data artifact", "data": people.source, "untrained": "identity, features"},
        recipe={
            "photos": len(people),
            "images_seen": options.length,
            "batch": BATCH,
            "lr": options.lr,
            "seed": options.seed,
            "minutes": round((time.time() - begun) / 60, 1),
        },
        heldout=None,
    )


def train_reader(options: argparse.Namespace) -> None:
    """Render, train, standardise, save in half precision, score what was saved, write the card."""
    begun, work = time.time(), Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    people = render_people(work, READER_PEOPLE, options.people, options.workers)
    held = render_people(work, READER_HELDOUT, options.heldout, options.workers)

    torch.manual_seed(options.seed)
    task = ReaderTask(Reader(), options.lr, held.batch(np.arange(3 * VIEWS))["image"])
    train = Train(images=options.length, batch=BATCH, lr=options.lr, seed=options.seed, preview_images=12_000)
    runtime = Runtime("cpu", options.workers, Tracker(work))
    fit(task, people_batches(people, options.seed), train=train, scratch=work, runtime=runtime, label="reader")

    reader = task.ema.eval()
    standardise(reader, people)
    out = Path(options.out)
    save_network(out, reader, half=True)
    stored = load_network(out)
    assert isinstance(stored, Reader)
    card = write_card(
        out,
        stored,
        kind="reader",
        command="python -m stages.recipes.face_reader",
        about={
            "input": "float32 RGB [N, 3, H, W] in [-1, 1], any size, reduced to 64 px inside",
            "licence": "Apache-2.0",
            "data": "people with truth only; no picture of a real person",
        },
        recipe={
            "source": open_people().id,
            "people": options.people,
            "pictures_a_person": VIEWS,
            "images_seen": options.length,
            "batch": BATCH,
            "lr": options.lr,
            "seed": options.seed,
            "heldout_people": options.heldout,
            "minutes": round((time.time() - begun) / 60, 1),
        },
        heldout=score(stored, held),
    )
    print(json.dumps(card["heldout"], indent=1))


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m stages.recipes.face_reader", description=__doc__)
    parser.add_argument("--out", default="data/reader.safetensors", help="weights to write; the card lies beside them")
    parser.add_argument("--work", default="runs/reader", help="folder for rendered people, log and training state")
    parser.add_argument("--people", type=int, default=1200, help="people rendered for training")
    parser.add_argument("--heldout", type=int, default=200, help="other people, for the scores")
    parser.add_argument("--length", type=int, default=32_000, help="pictures seen in training")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="rendering processes and training threads")
    parser.add_argument("--data", help="photos only: data artifact of data=rendered")
    parser.add_argument("--most", type=int, help="photos only: of them, at most the first so many")
    parser.add_argument("--images", help="fine-tune: folder of pictures")
    parser.add_argument("--masks", help="fine-tune: folder of head masks with the pictures' names")
    parser.add_argument("--start", help="fine-tune: the reader to start from (default: the shipped one)")
    options = parser.parse_args(arguments)
    try:
        if options.data is not None:
            train_photo_reader(options)
        elif options.images is None:
            train_reader(options)
        else:
            from stages.recipes.finetune import finetune

            finetune(options)
    except TristyleError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
