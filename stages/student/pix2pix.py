"""Pix2pix training of the mobile student on photo-style pairs.

Isola et al. 2017 (arXiv 1611.07004), eq. 3-4: conditional GAN and L1. Added here: feature matching (Wang et al. 2018,
arXiv 1711.11585, eq. 3), edge promotion (CartoonGAN, CVPR 2018, eq. 3: the discriminator also refuses targets with
their edges blurred), L1 weighted towards the target's edges, a chroma term, a matte term for the student's own alpha,
and equivariance (VToonify, arXiv 2209.11224, section 4.3) for a steady video.

What differs from pix2pix: a content-only warm-up (as in CartoonGAN and AnimeGAN), hinge loss, averaged weights are
kept (StyleGAN's practice), and pairs are flipped at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from stages.core.artifact import SAID, Artifact
from stages.core.images import grid
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError, choice, number
from stages.core.tensors import to_tensor, to_uint8
from stages.core.weights import load_network
from stages.networks.face_reader import Reader, load_reader
from stages.networks.mobile import Layers, MobileStudent, blend, normalised_together
from stages.networks.patchgan import PatchGAN, PatchOutput
from stages.student.augment import Augment, load_augmentation
from stages.student.batches import load_pairs, pair_batches, prepared
from stages.student.photographs import (
    Photographs,
    lost_identity,
    on_grey,
    open_photographs,
    parted,
    photograph_terms,
    with_photographs,
)
from stages.student.student import StudentTraining
from stages.training.draws import Draws
from stages.training.ema import ema_update, half_life_decay
from stages.training.fit import Phase, Task, Update
from stages.training.loading import Allowance, read_ahead
from stages.training.losses import (
    chroma_l1,
    edge_weighted_l1,
    equivariance,
    feature_matching,
    matte_loss,
    moved,
    patch_hinge,
    random_similarities,
    student_hinge,
)
from stages.training.precision import PRECISIONS, autocast

SHOWN = 8  # pairs on the preview
STRIDE = 8.0  # px, of the student's coarsest layer: shifts beyond it bring nothing new
TURN, ZOOM = 0.05, 0.05  # of the equivariance: radians, share of the size
GRAIN = 0.01  # noise of the moved photos, on [-1, 1]: a sensor's


@dataclass(kw_only=True)
class Pix2PixWeights:
    """Weights of the student's terms.

    Args:
        l1: edge-weighted L1 (pix2pix: 100 plain).
        edge_gain: extra weight of the target's edges in it, 0 = plain L1.
        chroma: L1 of the U and V planes.
        features: feature matching.
        adversarial: hinge loss of the patch discriminator.
        matte: alpha outside the dilated head mask.
        solid: 1 - alpha well inside the head, so that alpha is a matte and a cut-out is not see-through.
        edge_promotion: edge-blurred targets in the discriminator's loss, beside its 1 for outputs.
        equivariance: a photo moved by a few pixels must give its output moved alike. It rises from 0 over the third
            quarter of the training.
    """

    l1: float = 20.0
    edge_gain: float = 4.0
    chroma: float = 20.0
    features: float = 10.0
    adversarial: float = 1.0
    matte: float = 10.0
    solid: float = 1.0
    edge_promotion: float = 0.5
    equivariance: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number(name, value, 0)


@dataclass(kw_only=True)
class Pix2Pix:
    """The mobile student, trained on pairs by pix2pix. A `Student`; the defaults are the recipe's.

    Args:
        tier: size of the student, see stages.networks.mobile.TIERS.
        discriminator_width, discriminator_layers: PatchGAN.
        weights: of the loss terms.
        augment: what pairs go through before each use; nothing by default.
        photographs: photographs without twins that are trained on, too; none by default.
        warm_up: share of the training without the adversarial terms.
        ema_images: half-life of the weight average in images; 0 keeps the raw weights.
        discriminator_lr: factor on the learning rate for the discriminator.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the processor multiplies it natively.
        start: another student's `student.safetensors`, or the folder of its artifact, whose weights the training
            begins with; of any size of pictures, but of the same tier. None: drawn by the seed.
    """

    reads: ClassVar[tuple[str, ...]] = ("pair",)
    tier: str = "mid"
    discriminator_width: int = 24
    discriminator_layers: int = 2
    weights: Pix2PixWeights = field(default_factory=Pix2PixWeights)
    augment: Augment = field(default_factory=Augment)
    photographs: Photographs = field(default_factory=Photographs)
    warm_up: float = 0.55
    ema_images: int = 500
    discriminator_lr: float = 0.3
    precision: str = "auto"
    start: str | None = None

    def __post_init__(self) -> None:
        MobileStudent(self.tier)  # raises ConfigError for an unknown tier
        number("discriminator_width", self.discriminator_width, 1, 512, integer=True)
        number("discriminator_layers", self.discriminator_layers, 1, 5, integer=True)
        number("warm_up", self.warm_up, 0, 1)
        number("ema_images", self.ema_images, 0, integer=True)
        number("discriminator_lr", self.discriminator_lr, 0, 100, open_low=True)
        choice("precision", self.precision, PRECISIONS)

    def files(self) -> dict[str, Path]:
        """The artifact of the photographs and the student that it begins with, where there are any."""
        return self.photographs.files() | ({} if self.start is None else {"model.start": student_file(self.start)})

    def training(self, inputs: dict[str, Artifact], train: Train, runtime: Runtime) -> StudentTraining:
        """Open the kept pairs and draw the networks.

        Raises:
            TristyleError: curation kept no pair, or the pairs lack what `augment` needs.
        """
        allowance = Allowance()
        photo, style, mask = load_pairs(inputs["pair"], runtime.workers, allowance)
        preview = {"photo": to_tensor(photo[:SHOWN]), "style": to_tensor(style[:SHOWN])}

        # The networks. The face reader is asked only where photographs' identity counts.
        reader = load_reader(runtime.device) if self.photographs.path and self.photographs.identity else None
        task = self.task(train, preview, reader)

        # The batches. Pairs are changed first; photographs without a twin stand beside them.
        blurred = self.weights.edge_promotion > 0
        augmentation = load_augmentation(inputs["pair"], self.augment, runtime.workers, allowance)
        batches = pair_batches(photo, style, mask, train.seed, blurred, allowance, augmentation)
        metrics = {"pairs": float(len(photo))}
        further = {} if self.start is None else said_by(student_file(self.start))
        if self.photographs.path:
            target = str(inputs["pair"].config.get("target") or "")
            found = open_photographs(self.photographs, inputs["data"], target, photo.shape[1], allowance)
            batches = with_photographs(batches, found, train.seed)
            metrics["photographs"] = float(len(found.photo))
            further = {name: sorted({*further.get(name, ()), *values}) for name, values in found.said.items()}
        return StudentTraining(task, read_ahead(batches), photo.shape[1], metrics, further)

    def network(self, task: Task) -> nn.Module:
        """The averaged student."""
        assert isinstance(task, Pix2PixTask)
        return task.student_ema.eval()

    def task(self, train: Train, preview: dict[str, Tensor], reader: Reader | None = None) -> Pix2PixTask:
        """The training of this student.

        Args:
            train: length, pace and seed.
            preview: a small batch whose outputs are drawn.
            reader: the face reader, on the training's device, where the photographs' identity has a weight.
        """
        return Pix2PixTask(self, train, preview, reader)


class Pix2PixTask(Task):
    """Student, its moving average and the discriminator.

    A batch is one of `stages.student.batches.pair_batches`, with `blurred` where that has a weight, and with
    photographs (`stages.student.photographs.with_photographs`) where there are any.
    """

    def __init__(
        self, settings: Pix2Pix, train: Train, preview: dict[str, Tensor], reader: Reader | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(train.seed)
        self.settings, self.samples = settings, preview
        self.warm_up_images = settings.warm_up * train.images
        self.student = MobileStudent(settings.tier)
        if settings.start is not None:
            self.student.load_state_dict(open_student(student_file(settings.start), settings.tier).state_dict())
        self.discriminator = PatchGAN(settings.discriminator_width, settings.discriminator_layers)
        self.student_ema = MobileStudent(settings.tier).requires_grad_(False)
        self.student_ema.load_state_dict(self.student.state_dict())
        self.total = train.images
        # a list, so that the reader is neither trained nor part of the training state
        self._readers = [] if reader is None else [reader]
        self.discriminators = [self.discriminator]
        if settings.photographs.path and settings.photographs.adversarial:
            self.heads = PatchGAN(settings.discriminator_width, settings.discriminator_layers)
            self.discriminators.append(self.heads)

        # A fifth faster on CPU: the convolutions need not reorder their inputs.
        self.to(memory_format=torch.channels_last)
        self.phases = [
            self._phase("student", [self.student], train.lr),
            self._phase("discriminator", self.discriminators, train.lr * settings.discriminator_lr),
        ]

    @staticmethod
    def _phase(name: str, modules: Sequence[nn.Module], lr: float) -> Phase:
        params = [parameter for module in modules for parameter in module.parameters()]
        return Phase(name, params, torch.optim.Adam(params, lr=lr, betas=(0.5, 0.999)))

    def warming(self, images: int) -> bool:
        """Whether after `images` images the discriminator has not come in yet."""
        return images < self.warm_up_images

    def ramp(self, images: int) -> float:
        """Share of the equivariance's weight: 0 in the first half, then rising, 1 in the last quarter."""
        return min(max(4 * images / self.total - 2, 0.0), 1.0)

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Terms of the student (eq. 4 and the additions above) or of the discriminator."""
        if phase == "discriminator":
            return self._discriminator_losses(update)
        pairs, unpaired = parted(batch)
        update.memory["pairs"] = prepared(pairs)
        update.memory["unpaired"] = {} if self.warming(update.images) else unpaired
        return self._student_losses(update.memory["pairs"], update)

    def moved_buffers(self, phase: str) -> list[Tensor]:
        """The student's batch statistics; the discriminator's spectral norms, which its use moves in either phase."""
        moved = [
            *(value for one in self.discriminators for value in one.buffers()),
            *(self.student.buffers() if phase == "student" else ()),
        ]
        return [value for value in moved if value.is_floating_point()]

    def _discriminator_losses(self, update: Update) -> dict[str, Tensor]:
        """The discriminator's loss on the output before the student's step: one forward serves both phases."""
        if self.warming(update.images):  # it learns from the first real contest on; a zero gradient leaves it as it is
            return {"hinge": 0.0 * torch.stack([p.sum() for p in self.phases[1].params]).sum()}
        pairs, weight = update.memory["pairs"], self.settings.weights.edge_promotion
        photo = pairs["photo"]

        # target, output and blurred target in one pass
        pictures = [pairs["style"], update.memory["output"].detach(), *([pairs["blurred"]] if weight else [])]
        logits = self._judged(photo.repeat(len(pictures), 1, 1, 1), torch.cat(pictures)).logits
        real, fake, *blurred = logits.chunk(len(pictures))
        terms = {"hinge": patch_hinge(real, fake)}
        if weight:
            terms["edge_promotion"] = weight * F.relu(1 + blurred[0]).mean()

        # heads drawn of photographs beside the style's own, each by itself
        unpaired = update.memory["unpaired"]
        if unpaired and self.settings.photographs.adversarial:
            heads = torch.cat([unpaired["drawn"], update.memory["unpaired_output"].detach()])
            with self._autocast(heads):
                both = on_grey(self.heads, heads, torch.cat([unpaired["drawn_head"], unpaired["real_head"]]))
            terms["real_hinge"] = patch_hinge(*both.logits.float().chunk(2))
        return terms

    def _student_losses(self, pairs: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The student's terms; its output stays in the memory, for the discriminator's phase."""
        photo, style, mask = (pairs[name] for name in ("photo", "style", "mask"))
        weights, ramp = self.settings.weights, self.ramp(update.images)

        maps = self._maps(photo, update.draws) if ramp * weights.equivariance else None
        # one forward for both: the norms must not treat a photo and its moved copy differently
        seen = photo if maps is None else torch.cat([photo, self._moved(photo, maps, update.draws)])
        first, unpaired = len(seen), update.memory["unpaired"]
        if unpaired:
            unpaired["maps"] = self._maps(unpaired["real"], update.draws)
            again = self._moved(unpaired["real_again"], unpaired["maps"], update.draws)
            seen = torch.cat([seen, unpaired["real"], again])
        with normalised_together(self.student, update.together), self._autocast(seen):
            layers = Layers(*(values.float() for values in self.student.layers(seen)))
        outputs = blend(seen, layers)
        output, alpha = outputs[: len(photo)], layers.alpha[: len(photo)]
        update.memory["output"] = output

        terms = {
            "l1": weights.l1 * edge_weighted_l1(output, style, weights.edge_gain),
            "chroma": weights.chroma * chroma_l1(output, style),
            "matte": weights.matte * matte_loss(alpha, mask),
            "solid": weights.solid * matte_loss(1 - alpha, 1 - pairs["head"]),
            "_plain_l1": F.l1_loss(output.detach(), style),
        }
        if maps is not None:
            steady = equivariance(output, outputs[len(photo) : first], maps)
            terms["equivariance"] = ramp * weights.equivariance * steady

        # the real pictures' features are only a target: no gradient
        if not self.warming(update.images):
            fake = self._judged(photo, output)
            with torch.no_grad():
                real = self._judged(photo, style)
            terms["features"] = weights.features * feature_matching(real.features, fake.features)
            terms["adversarial"] = weights.adversarial * student_hinge(fake.logits)
        if unpaired:
            update.memory["unpaired_output"] = outputs[first:].chunk(2)[0]
            terms |= self._unpaired_losses(unpaired, outputs[first:], layers.alpha[first:])
        return terms

    def _unpaired_losses(self, real: dict[str, Tensor], outputs: Tensor, alphas: Tensor) -> dict[str, Tensor]:
        """Terms of photographs without twins.

        Args:
            real: see `parted`; `maps` are the motions of the second half.
            outputs: [2 N, 3, H, W], drawings of the photographs, and of the same by another camera in motion.
            alphas: [2 N, 1, H, W].
        """
        settings, (drawn, again) = self.settings.photographs, outputs.chunk(2)
        terms = photograph_terms(settings, real, drawn, again, alphas.chunk(2)[0])
        for reader in self._readers:
            lost = lost_identity(reader, real["real"], drawn, real["real_head"])
            terms["real_identity"] = settings.identity * lost
        if settings.adversarial:
            with self._autocast(drawn):
                fake = on_grey(self.heads, drawn, real["real_head"])
            terms["real_adversarial"] = settings.adversarial * student_hinge(fake.logits.float())
        return terms

    def _autocast(self, pictures: Tensor) -> AbstractContextManager[object]:
        return autocast(self.settings.precision, pictures.device)

    def _judged(self, photo: Tensor, picture: Tensor) -> PatchOutput:
        """What the discriminator says of photos and pictures [N, 3, H, W], its logits in float32."""
        with self._autocast(photo):
            seen = self.discriminator(photo, picture)
        return PatchOutput(seen.features, seen.logits.float())

    @staticmethod
    def _maps(photo: Tensor, draws: Draws) -> Tensor:
        """Small motions, one a photo: [N, 2, 3]."""
        drawn = draws.own(lambda n: torch.rand(n, 5, device=photo.device), len(photo))
        return random_similarities(drawn, STRIDE, TURN, ZOOM)

    @staticmethod
    def _moved(photo: Tensor, maps: Tensor, draws: Draws) -> Tensor:
        """The photos in motion, seen by a sensor: [N, 3, H, W], channels last."""
        noisy = moved(photo, maps)[0] + GRAIN * draws.normal_like(photo)
        return noisy.contiguous(memory_format=torch.channels_last)

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Moves the average: half of it is younger than `ema_images`, sooner at the start (StyleGAN's ramp-up)."""
        decay = half_life_decay(batch, images, self.settings.ema_images, ramp=0.05)
        ema_update(self.student_ema, self.student, decay)
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        """Constant, then linear to zero over the second half (pix2pix: 100 + 100 epochs)."""
        return min(1.0, 2.0 * (1.0 - images / total))

    def preview(self) -> dict[str, np.ndarray]:
        """Photo, target and output side by side."""
        return {"sheet": sheet(self.student_ema, self.samples)}


def student_file(start: str) -> Path:
    """The weights that `student.model.start` names: a file, or the one in an artifact's folder."""
    place = Path(start)
    return place / "student.safetensors" if place.is_dir() else place


def said_by(path: Path) -> dict[str, list[str]]:
    """What a student's weights say of the pictures they learnt from, as `said_of`; unknown where they are silent."""
    with safe_open(path, "np") as file:
        notes = file.metadata() or {}
    return {key: [notes.get(name) or "unknown"] for name, key in SAID.items()}


def open_student(path: Path, tier: str) -> MobileStudent:
    """Load a student of this tier.

    Raises:
        TristyleError: unreadable, another network, or of another tier.
    """
    student = load_network(path)
    if not isinstance(student, MobileStudent):
        raise TristyleError(
            f"student.model.start: {path} holds {type(student).__name__}, not a mobile student. "
            "Give the student.safetensors of a run of student=pix2pix."
        )
    if student.arguments["tier"] != tier:
        raise TristyleError(
            f"student.model.start: {path} is of tier {student.arguments['tier']}, not {tier}. "
            f"Say student.model.tier={student.arguments['tier']}."
        )
    return student


def sheet(student: MobileStudent, samples: dict[str, Tensor]) -> np.ndarray:
    """Rows of photo, target and the student's output: uint8 [H, W, 3]."""
    training = student.training
    photo = samples["photo"].to(next(student.parameters()).device)
    with torch.no_grad():
        output = student.eval()(photo).cpu()
    student.train(training)
    rows = torch.stack([samples["photo"], samples["style"], output], dim=1).flatten(0, 1)
    return grid(to_uint8(rows), 6)
