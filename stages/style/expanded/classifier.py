"""The classifier of attributes: trained on the data's truth, it tells the editor's training what a face shows.

It is never the judge of an edit: an editor learns to please it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.images import LazyImages
from stages.core.runtime import Runtime
from stages.core.settings import Train, number
from stages.core.tensors import to_tensor
from stages.metrics.identity import area_under_curve
from stages.networks.expanded import AttributeClassifier
from stages.networks.face_reader import Reader
from stages.style.expanded.labels import Labels
from stages.style.inversion.e4e import begin_with
from stages.training import distributed
from stages.training.fit import Phase, Task, Update, epoch_order, fit, mirrored, update_seed

WARMUP = 0.02  # share of the training over which the learning rate rises


def _default_train() -> Train:
    return Train(images=30_000, batch=16, lr=1e-3)


@dataclass(kw_only=True)
class Classify:
    """How the classifier is trained.

    Args:
        train: length (in photos), photos a batch and learning rate.
        blur: share of a photo's sharpness that may be lost at random: a generator's pictures are softer than photos.
        light: change of brightness and contrast at random, as a share.
        mirror: show mirrored photos too.
    """

    train: Train = field(default_factory=_default_train)
    blur: float = 0.8
    light: float = 0.2
    mirror: bool = True

    def __post_init__(self) -> None:
        number("blur", self.blur, 0, 1)
        number("light", self.light, 0, 1)


def attribute_error(seen: Tensor, wanted: Tensor, binary: Tensor) -> Tensor:
    """Error of each attribute: cross-entropy of kinds, smooth L1 of standardised numbers.

    Args:
        seen: [N, K], what the classifier gives: logits and numbers.
        wanted: [N, K]: probabilities and numbers.
        binary: bool [K], which are of two kinds.

    Returns:
        [N, K].
    """
    kinds = F.binary_cross_entropy_with_logits(seen, wanted.clamp(0, 1), reduction="none")
    numbers = F.smooth_l1_loss(seen, wanted, reduction="none")
    return torch.where(binary, kinds, numbers)


class Classifying(Task):
    """Training of an attribute classifier on photos with truth."""

    def __init__(self, classifier: AttributeClassifier, settings: Classify) -> None:
        super().__init__()
        self.settings = settings
        self.classifier = classifier.to(memory_format=torch.channels_last)
        params = list(classifier.parameters())
        optimizer = torch.optim.AdamW(params, lr=settings.train.lr, betas=(0.9, 0.99), weight_decay=1e-3)
        self.phases = [Phase("classifier", params, optimizer)]

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The mean error on photos batch["images"] with truth batch["labels"]."""
        images = disturbed(batch["images"], self.settings, update)
        error = attribute_error(self.classifier(images), batch["labels"], self.classifier.is_binary)
        return {"attributes": error.mean()}

    def lr_factor(self, images: int, total: int) -> float:
        """Warm-up, then half a cosine to zero."""
        done = images / total
        return min(done / WARMUP + WARMUP, 0.5 + 0.5 * cos(pi * done), 1.0)


def disturbed(images: Tensor, settings: Classify, update: Update) -> Tensor:
    """Photos [N, 3, H, W] in [-1, 1], each softened and lit differently at random; the same shape."""
    draws = update.draws.own(lambda count: torch.rand(count, 3, device=images.device), len(images))
    soft, bright, contrast = (draws[:, i, None, None, None] for i in range(3))
    small = F.avg_pool2d(images, 4)
    blurred = F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)
    images = torch.lerp(images, blurred, settings.blur * soft.square())
    span = settings.light
    return (images * (1 + span * (2 * contrast - 1)) + span * (2 * bright - 1)).clamp(-1, 1)


class LabelledBatches:
    """Batches of `images` [rows, 3, H, W] in [-1, 1] and `labels` [rows, K], shuffled anew every epoch.

    Args:
        photos: uint8 [N, H, W, 3], in memory or on disk.
        labels: of the same photos.
        seed: of the order and of what is mirrored.
        mirror: mirror half of them, at random; labels with a side change their sign.
    """

    def __init__(self, photos: np.ndarray | LazyImages, labels: Labels, seed: int, mirror: bool) -> None:
        self.photos, self.values, self.signs = photos, labels.values, labels.signs
        self.seed, self.mirror = seed, mirror

    def __call__(self, start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        """A function of (seed, start, count, rows) alone."""
        chosen = epoch_order(len(self.photos), self.seed, start, count)[rows]
        photos, values = self.photos[chosen], self.values[chosen].copy()
        if self.mirror:
            flip = mirrored(self.seed, start, count, rows)
            photos[flip] = photos[flip, :, ::-1]
            values[flip] *= self.signs
        return {"images": to_tensor(photos), "labels": torch.from_numpy(values)}


def new_classifier(labels: Labels, reader: Reader, seed: int) -> AttributeClassifier:
    """A classifier that begins with the reader's trunk and gives the mean at first."""
    torch.manual_seed(update_seed(seed, 0, "classifier"))
    classifier = AttributeClassifier(labels.names, labels.binary, labels.mean.tolist(), labels.deviation.tolist())
    begin_with(classifier, reader)
    return classifier


def train_classifier(
    photos: np.ndarray | LazyImages, labels: Labels, settings: Classify, scratch: Path, runtime: Runtime, reader: Reader
) -> AttributeClassifier:
    """Train a classifier on photos with truth; a killed training resumes from `scratch`.

    Args:
        photos: uint8 [N, H, W, 3].
        labels: of the same photos.
        settings: length and disturbances.
        scratch: folder of the training state.
        runtime: device, threads and log.
        reader: the face reader, whose trunk it begins with.

    Returns:
        The classifier, on the CPU and in eval mode.
    """
    classifier = new_classifier(labels, reader, settings.train.seed)
    batches = LabelledBatches(photos, labels, settings.train.seed, settings.mirror)
    with distributed.alone():  # the other processes of a torchrun wait for the editor's training
        fit(
            Classifying(classifier, settings), batches, train=settings.train, scratch=scratch, runtime=runtime,
            label="classifier",
        )  # fmt: skip
    return classifier.cpu().eval()


@torch.no_grad()
def read_attributes(classifier: AttributeClassifier, photos: np.ndarray, batch: int = 64) -> np.ndarray:
    """Probabilities of kinds and standardised numbers, float32 [N, K], of photos uint8 [N, H, W, 3]."""
    device = classifier.is_binary.device
    parts = [classifier(to_tensor(photos[i : i + batch]).to(device)) for i in range(0, len(photos), batch)]
    found: np.ndarray = classifier.values(torch.cat(parts)).cpu().numpy()
    return found


def accuracy(classifier: AttributeClassifier, photos: np.ndarray, labels: Labels) -> dict[str, float]:
    """How well a classifier reads photos uint8 [N, H, W, 3].

    Returns:
        For each attribute `classifier_<name>`: the area under the curve of a kind, the correlation of a number; NaN
        where all photos are alike.
    """
    seen, found = read_attributes(classifier, photos), {}
    for k, name in enumerate(labels.names):
        truth = labels.raw[:, k]
        if np.ptp(truth) == 0:
            found[f"classifier_{name}"] = float("nan")
        elif labels.binary[k]:
            with_, without = (torch.from_numpy(seen[truth == kind, k]) for kind in (1, 0))
            found[f"classifier_{name}"] = area_under_curve(with_, without)
        else:
            found[f"classifier_{name}"] = float(np.corrcoef(seen[:, k], truth)[0, 1])
    return found
