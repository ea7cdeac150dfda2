"""Pix2pix training of the mobile student on photo-style pairs.

Isola et al. 2017 (arXiv 1611.07004), eq. 3-4 (conditional GAN + L1), with feature matching (Wang et al. 2018,
arXiv 1711.11585, eq. 3), L1 weighted towards the target's edges, a chroma term and a matte term for its own alpha.
What differs: a content-only warm-up (as CartoonGAN and AnimeGAN do), hinge loss, EMA weights are what is kept
(StyleGAN's practice), and the pairs are flipped at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.config import Train, number
from stages.engine import Batches, Phase, Task, ema_update, epoch_order
from stages.io import grid, mask_tensor, to_tensor, to_uint8
from stages.losses import chroma_l1, edge_weighted_l1, feature_matching, matte_loss, patch_hinge, student_hinge
from stages.networks.mobile import MobileStudent, blend
from stages.networks.patchgan import PatchGAN


@dataclass(kw_only=True)
class Weights:
    """Weights of the student's terms.

    Args:
        l1: edge-weighted L1 (pix2pix: 100 plain).
        edge: extra weight of the target's edges in it, 0 = plain L1.
        chroma: L1 of the U and V planes.
        features: feature matching.
        adversarial: hinge loss of the patch discriminator.
        matte: alpha outside the dilated head mask.
    """

    l1: float = 20.0
    edge: float = 4.0
    chroma: float = 20.0
    features: float = 10.0
    adversarial: float = 1.0
    matte: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number(name, value, 0)


@dataclass(kw_only=True)
class Pix2Pix:
    """What the student is and how it learns; every number is a key of conf/student/pix2pix.yaml.

    Args:
        tier: size of the student, see stages.networks.mobile.TIERS.
        discriminator_width, discriminator_layers: PatchGAN.
        weights: of the loss terms.
        warm_up: share of the training without the adversarial terms.
        ema_images: half-life of the weight average in images; 0 keeps the raw weights.
        discriminator_lr: factor on the learning rate for the discriminator.
    """

    tier: str = "mid"
    discriminator_width: int = 24
    discriminator_layers: int = 2
    weights: Weights
    warm_up: float = 0.55
    ema_images: int = 500
    discriminator_lr: float = 0.3

    def __post_init__(self) -> None:
        MobileStudent(self.tier)  # raises ConfigError for an unknown tier
        number("discriminator_width", self.discriminator_width, 1, 512, integer=True)
        number("discriminator_layers", self.discriminator_layers, 1, 5, integer=True)
        number("warm_up", self.warm_up, 0, 1)
        number("ema_images", self.ema_images, 0, integer=True)
        number("discriminator_lr", self.discriminator_lr, 0, 100, open_low=True)

    def task(self, train: Train, preview: dict[str, Tensor]) -> Pix2PixTask:
        """The training of this student; `preview` is a small batch whose outputs are drawn."""
        return Pix2PixTask(self, train, preview)


class Pix2PixTask(Task):
    """Student, its moving average and the discriminator.

    A batch holds photo, style [N, 3, H, W] in [-1, 1] and mask [N, 1, H, W] in [0, 1] (1 = may be painted over).
    """

    def __init__(self, settings: Pix2Pix, train: Train, preview: dict[str, Tensor]) -> None:
        super().__init__()
        torch.manual_seed(train.seed)
        self.settings, self.samples = settings, preview
        self.warm_up_images = settings.warm_up * train.images
        self.student = MobileStudent(settings.tier)
        self.discriminator = PatchGAN(settings.discriminator_width, settings.discriminator_layers)
        self.student_ema = MobileStudent(settings.tier).requires_grad_(False)
        self.student_ema.load_state_dict(self.student.state_dict())
        self.seen: Tensor  # images; a buffer, so that it is in the checkpoint
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        # A fifth faster on CPU: the convolutions need not reorder their inputs.
        self.to(memory_format=torch.channels_last)
        self.phases = [
            self._phase("student", self.student, train.lr),
            self._phase("discriminator", self.discriminator, train.lr * settings.discriminator_lr),
        ]
        self.fake = torch.empty(0)  # the student's output in this update, for the discriminator's phase after it

    @staticmethod
    def _phase(name: str, module: torch.nn.Module, lr: float) -> Phase:
        params = list(module.parameters())
        return Phase(name, params, torch.optim.Adam(params, lr=lr, betas=(0.5, 0.999)))

    def losses(self, phase: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Terms of the student (eq. 4 and the additions above) or of the discriminator."""
        warming = int(self.seen) < self.warm_up_images
        if phase == "discriminator":
            if warming:  # it learns from the first real contest on; a zero gradient leaves it as it is
                return {"hinge": 0.0 * torch.stack([p.sum() for p in self.discriminator.parameters()]).sum()}
            # The output before the student's step: as in pix2pix, one forward serves both phases.
            real = self.discriminator(batch["photo"], batch["style"]).logits
            fake = self.discriminator(batch["photo"], self.fake).logits
            return {"hinge": patch_hinge(real, fake)}
        photo, style = batch["photo"], batch["style"]
        layers = self.student.layers(photo)
        output = blend(photo, layers)
        self.fake = output.detach()
        weights = self.settings.weights
        terms = {
            "l1": weights.l1 * edge_weighted_l1(output, style, weights.edge),
            "chroma": weights.chroma * chroma_l1(output, style),
            "matte": weights.matte * matte_loss(layers.alpha, batch["mask"]),
            "_plain_l1": F.l1_loss(output.detach(), style),
        }
        if not warming:
            fake = self.discriminator(photo, output)
            with torch.no_grad():
                real = self.discriminator(photo, style)
            terms["features"] = weights.features * feature_matching(real.features, fake.features)
            terms["adversarial"] = weights.adversarial * student_hinge(fake.logits)
        return terms

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Moves the average: half of it is younger than `ema_images`, sooner at the start (StyleGAN's ramp-up)."""
        self.seen.fill_(images)
        half_life = min(self.settings.ema_images, 0.05 * images)
        decay = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        ema_update(self.student_ema, self.student, decay)
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        """Constant, then linear to zero over the second half (pix2pix: 100 + 100 epochs)."""
        return min(1.0, 2.0 * (1.0 - images / total))

    def preview(self) -> dict[str, np.ndarray]:
        """Photo, target and output side by side."""
        return {"sheet": sheet(self.student_ema, self.samples)}


def sheet(student: MobileStudent, samples: dict[str, Tensor]) -> np.ndarray:
    """Rows of photo, target and the student's output: uint8 [H, W, 3]."""
    training = student.training
    photo = samples["photo"].to(next(student.parameters()).device)
    with torch.no_grad():
        output = student.eval()(photo).cpu()
    student.train(training)
    rows = torch.stack([samples["photo"], samples["style"], output], dim=1).flatten(0, 1)
    return grid(to_uint8(rows), 6)


def paintable(masks: Tensor) -> Tensor:
    """Head coverage [N, 1, H, W] -> where the student may paint: > 0.02, grown by 2 % of the width."""
    radius = max(1, round(0.02 * masks.shape[-1]))
    return (F.max_pool2d(masks, 2 * radius + 1, stride=1, padding=radius) > 0.02).float()


def pair_batches(photo: np.ndarray, style: np.ndarray, mask: np.ndarray, seed: int) -> Batches:
    """Flipped pairs in an endless shuffled order.

    photo, style: uint8 [N, H, W, 3]; mask: uint8 [N, H, W] head coverage. Each image count has its own flip.
    """
    if not len(photo) == len(style) == len(mask):
        raise ValueError(f"{len(photo)} photos, {len(style)} styles and {len(mask)} masks are not pairs")

    def batch(start: int, count: int) -> dict[str, Tensor]:
        chosen = epoch_order(len(photo), seed, start, count)
        flip = torch.from_numpy(np.random.default_rng([seed, 1, start]).random(count) < 0.5)
        arrays = to_tensor(photo[chosen]), to_tensor(style[chosen]), paintable(mask_tensor(mask[chosen]))
        values = (torch.where(flip.view(-1, 1, 1, 1), array.flip(3), array) for array in arrays)
        values = (value.contiguous(memory_format=torch.channels_last) for value in values)
        return dict(zip(("photo", "style", "mask"), values, strict=True))

    return batch
