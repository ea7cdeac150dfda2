"""A face generator for phones, distilled from a StyleGAN2, and the encoder that inverts it.

Source: BlazeStyleGAN (Jia et al., CVPR workshops 2023): the student draws the teacher's picture of the same w; a
perceptual loss on the pyramid of its heads and L1 hold it to the teacher, an adversarial loss with R1 to *real*
pictures, so that the teacher's faults are not learnt with its faces. Then the generator is fixed, and a MobileNetV2
learns to find w of photos by pixel, perceptual and identity terms (FaceStylizer).

What differs: the perceptual features are the face reader's, also of crops at full size, since it sees 64 px; the
discriminator begins as the teacher's; the encoder also sees drawn faces, whose latents are known; a matte of the drawn
head is learnt from the reader's parsing; so few channels would draw combs and checkers into hair: the adversary's
photos are softened, a grid is an error. Both trainings are one: resuming and several processes need nothing new.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.artifact import Artifact
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, choice, number
from stages.core.tensors import to_tensor
from stages.networks.augment import softened
from stages.networks.blaze import BlazeEncoder, BlazeGenerator, BlazePicture, BlazeStylizer, fitted, inference
from stages.networks.face_labels import READER_HEAD
from stages.networks.face_reader import SIZE, Reader, load_reader, reader_file
from stages.networks.latents import generator_id, w_statistics
from stages.networks.mobile import normalised_together
from stages.networks.stylegan2 import Discriminator, Generator
from stages.student.batches import photo_batches
from stages.student.blaze_finish import SHOWN, encoding_sheet, finish, pyramid_sheet
from stages.student.student import StudentTraining
from stages.student.teacher import open_teacher, real_photos, style_pictures, teacher_files
from stages.training import distributed
from stages.training.draws import Draws
from stages.training.ema import ema_update, half_life_decay
from stages.training.fit import Phase, Task, Update
from stages.training.loading import Allowance, Kept, read_ahead
from stages.training.losses import (
    LOGISTIC_CHANCE,
    discriminator_logistic,
    generator_logistic,
    grid_error,
    perceptual_distance,
    r1_penalty,
)
from stages.training.precision import PRECISIONS, autocast, compute_dtype

LEAST = 32  # px: the reader sees nothing in smaller levels of the pyramid
RISE = 0.02  # share of the encoder's training over which its learning rate rises


@dataclass(kw_only=True)
class BlazeWeights:
    """Weights of the terms.

    Args:
        l1: of the pyramid, mean over its levels.
        perceptual: of the pyramid from 32 px on and of crops at full size, mean over them.
        adversarial: logistic loss against real pictures; 0 leaves the discriminator out.
        grid: of the largest pictures' error that alternates from pixel to pixel, see `grid_error`.
        matte: L1 between the drawn matte and the reader's.
        r1_gamma, r1_every: R1 of the discriminator.
        pixel, likeness, identity: of the encoder: L1, perceptual distance, and 1 - cosine, on photos.
        regression: of the encoder: squared error of the latents of drawn faces, in units of the spread of w.
        delta: of the encoder: squared deviation of a photo's latents from their mean over the layers, in the same
            units; it keeps them where the generator draws faces (e4e, arXiv 2102.02766, section 3.2).
    """

    l1: float = 3.0
    perceptual: float = 10.0
    adversarial: float = 1.0
    grid: float = 10.0
    matte: float = 1.0
    r1_gamma: float = 1.0
    r1_every: int = 16
    pixel: float = 1.0
    likeness: float = 10.0
    identity: float = 3.0
    regression: float = 0.5
    delta: float = 0.3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number(name, value, 0)
        number("r1_every", self.r1_every, 1, 1000, integer=True)


@dataclass(kw_only=True)
class Blaze:
    """Distils a StyleGAN2 into a generator for phones and trains its encoder. A `Student`.

    Args:
        teacher: ``base`` (the shipped generator of the data's size), ``style`` (the style artifact's generator,
            transferred or fused), the folder of a style artifact, or a `.safetensors` file. The adversary of a style's
            teacher learns from the data's pictures of that style, else from photos.
        encoder_share: last part of the training, in which the generator stands still and the encoder learns.
        channel_base: of the generator, see stages.networks.blaze.widths; null: the measured choice.
        encoder_width: of the MobileNetV2.
        mixing: probability that a latent mixes two.
        psi: truncation of the faces that are drawn from scratch; the training has none.
        warm_up: share of the distillation without the adversarial terms.
        soften: px; the discriminator sees real pictures through a Gaussian of this deviation, see `softened`.
        ema_images: half-life of the averaged networks, in images.
        encoder_lr: factor on the learning rate for the encoder.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the processor multiplies it natively. The encoder
            learns in float32: its separable convolutions are faster so.
        weights: of the loss terms.
    """

    teacher: str = "base"
    encoder_share: float = 0.65
    channel_base: int | None = None
    encoder_width: float = 0.5
    mixing: float = 0.5
    psi: float = 0.7
    warm_up: float = 0.1
    soften: float = 0.8
    ema_images: int = 2000
    encoder_lr: float = 0.5
    precision: str = "auto"
    weights: BlazeWeights = field(default_factory=BlazeWeights)

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, str) or not self.teacher:
            raise ConfigError("teacher", f"{self.teacher!r} is not a teacher", "Give base, style, a folder or a file")
        for name in ("encoder_share", "mixing", "psi", "warm_up"):
            number(name, getattr(self, name), 0, 1)
        if self.channel_base is not None:
            number("channel_base", self.channel_base, 256, 65536, integer=True)
        number("encoder_width", self.encoder_width, 0.1, 2)
        number("soften", self.soften, 0, 4)
        number("ema_images", self.ema_images, 0, integer=True)
        number("encoder_lr", self.encoder_lr, 0, 100, open_low=True)
        choice("precision", self.precision, PRECISIONS)

    @property
    def reads(self) -> tuple[str, ...]:
        """Real pictures of the data set, and the style artifact where its generator is the teacher."""
        return ("data", "style") if self.teacher == "style" else ("data",)

    def files(self) -> dict[str, Path]:
        """The teacher's files and the face reader, which supplies the perceptual features."""
        return teacher_files(self.teacher) | reader_file()

    def training(self, inputs: dict[str, Artifact], train: Train, runtime: Runtime) -> StudentTraining:
        """Open teacher and real pictures and draw the networks.

        Raises:
            TristyleError: the teacher is missing or of another size, or there are no pictures of what it draws.
        """
        photos = real_photos(inputs["data"], runtime.workers)
        drawn = style_pictures(self.teacher, inputs, runtime.workers)
        size = photos.shape[1]
        torch.manual_seed(train.seed)
        teacher, discriminator = open_teacher(self.teacher, size, inputs)
        check_groups(train, discriminator.b4.mbstd_group_size)
        examples = to_tensor(photos[np.arange(min(SHOWN, len(photos)))])
        task = self.task(train, teacher, discriminator, load_reader(), examples)
        allowance = Allowance()
        real = None if drawn is None else Kept(drawn, allowance)
        batches = read_ahead(photo_batches(Kept(photos, allowance), train.seed, real))
        metrics = {"photos": float(len(photos))}
        return StudentTraining(task, batches, size, metrics, finish=partial(finish, task))

    def task(
        self, train: Train, teacher: Generator, discriminator: Discriminator, reader: Reader, examples: Tensor
    ) -> BlazeTask:
        """The training of this student; `examples` [n, 3, R, R] are photos for the preview."""
        return BlazeTask(self, train, teacher, discriminator, reader, examples)

    def network(self, task: Task) -> nn.Module:
        """Encoder and generator as one network of a photo."""
        assert isinstance(task, BlazeTask)
        return stylizer_of(task.ema, task.encoder_ema)


def check_groups(train: Train, group: int) -> None:
    """Refuse micro-batches that would cut the groups of a discriminator's minibatch statistic.

    Raises:
        ConfigError: the batch does not divide into whole groups.
    """
    count = distributed.world() * train.accumulate
    unit = count * (group if count > 1 else min(group, train.batch))
    if train.batch % unit:
        raise ConfigError("student.train.batch", f"{train.batch} is not a multiple of {unit}", "Choose one that is")


def stylizer_of(generator: BlazeGenerator, encoder: BlazeEncoder, of: str = "") -> BlazeStylizer:
    """Encoder and generator in one network, without the auxiliary heads.

    Args:
        generator: the averaged one.
        encoder: the averaged one.
        of: digest of the generator that the encoder was trained against; "": of this one.
    """
    bare = inference(generator)
    shape = {name: bare.arguments[name] for name in ("w_dim", "resolution", "channel_base")}
    width = encoder.arguments["width"]
    both = BlazeStylizer(**shape, encoder_width=width, encoder_of=of or generator_id(bare))
    both.generator.load_state_dict(bare.state_dict())
    both.encoder.load_state_dict(encoder.state_dict())
    return both.to(encoder.w_avg.device).eval().requires_grad_(False)


class BlazeTask(Task):
    """Teacher, generator, discriminator and encoder of one training.

    Batches hold `images` [N, 3, R, R] in [-1, 1], photos; where the teacher draws a style, also `real`, its pictures.

    Attributes:
        ema, encoder_ema: the averaged networks, which the training is for.
    """

    def __init__(
        self,
        settings: Blaze,
        train: Train,
        teacher: Generator,
        discriminator: Discriminator,
        reader: Reader,
        examples: Tensor,
    ) -> None:
        super().__init__()
        self.settings, self.total, self.examples = settings, train.images, examples
        self.distilled = round((1 - settings.encoder_share) * train.images)  # images of the first part
        self.teacher = copy.deepcopy(teacher).requires_grad_(False)
        self.reader = copy.deepcopy(reader).requires_grad_(False)
        mean, spread = w_statistics(teacher)
        self.unit = spread / teacher.w_dim**0.5

        self.generator = BlazeGenerator(teacher.w_dim, teacher.img_resolution, settings.channel_base)
        self.discriminator = discriminator
        self.encoder = BlazeEncoder(teacher.num_ws, teacher.w_dim, teacher.img_resolution, settings.encoder_width)
        self.encoder.w_avg.copy_(mean)
        self.ema, self.encoder_ema = copy.deepcopy(self.generator), copy.deepcopy(self.encoder)
        self.to(memory_format=torch.channels_last)
        self.phases = self._phases(train.lr)

    def _phases(self, lr: float) -> list[Phase]:
        """The generator steps first: the discriminator reuses its pictures."""
        s = self.settings

        def adam(module: nn.Module, rate: float, beta1: float) -> tuple[list[nn.Parameter], torch.optim.Adam]:
            params = list(module.parameters())
            return params, torch.optim.Adam(params, lr=rate, betas=(beta1, 0.99))

        phases = [Phase("generator", *adam(self.generator, lr, 0.0))]
        if s.weights.adversarial:
            discriminator = adam(self.discriminator, lr, 0.0)
            phases.append(Phase("discriminator", *discriminator, chance=LOGISTIC_CHANCE))
            if s.weights.r1_gamma:
                phases.append(Phase("r1", *discriminator, s.weights.r1_every))
        if s.encoder_share:
            phases.append(Phase("encoder", *adam(self.encoder, lr * s.encoder_lr, 0.9)))
        return phases

    def train(self, mode: bool = True) -> BlazeTask:
        """Set the mode of what is trained; fixed and averaged networks stay in eval mode."""
        super().train(mode)
        for fixed in (self.teacher, self.reader, self.ema, self.encoder_ema):
            fixed.eval()
        return self

    def distilling(self, images: int) -> bool:
        """Whether after `images` images the generator still learns; afterwards the encoder does."""
        return images < self.distilled

    def contested(self, images: int) -> bool:
        """Whether after `images` images the discriminator has come in."""
        return self.settings.warm_up * self.distilled <= images < self.distilled

    # Losses

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Terms of `generator`, `discriminator` and `r1`, or of `encoder`; none of the part that stands still."""
        photos = batch["images"]
        self.discriminator.compute_dtype = compute_dtype(self.settings.precision, photos.device)
        if phase == "encoder":
            return {} if self.distilling(update.images) else self._encoder(photos, update)
        if phase == "generator":
            return self._generator(photos, update) if self.distilling(update.images) else {}
        if not self.contested(update.images):
            return {}
        real = self.real(batch.get("real", photos), update)
        return self._r1(real) if phase == "r1" else self._discriminator(real, update)

    def moved_buffers(self, phase: str) -> list[Tensor]:
        """The encoder's batch statistics."""
        moved = self.encoder.buffers() if phase == "encoder" else ()
        return [value for value in moved if value.is_floating_point()]

    def real(self, pictures: Tensor, update: Update) -> Tensor:
        """What the discriminator takes for real: photos or style pictures, softened, never the teacher's."""
        return softened(pictures, self.settings.soften)

    def _generator(self, photos: Tensor, update: Update) -> dict[str, Tensor]:
        weights = self.settings.weights
        with torch.no_grad():
            ws = self.styles(len(photos), update.draws)
            target = self.drawn(ws)
        with self._autocast(ws):
            pyramid = self.generator.pyramid(ws, update.draws)
        pyramid = [BlazePicture(part.colour.float(), part.alpha.float()) for part in pyramid]
        update.memory |= {"target": target, "fakes": pyramid[-1].colour.detach()}

        terms = self._held(pyramid, target)
        if weights.adversarial and self.contested(update.images):
            logits = self.discriminator(pyramid[-1].colour)
            terms["adversarial"] = weights.adversarial * generator_logistic(logits).mean()
        return terms

    def drawn(self, ws: Tensor) -> Tensor:
        """The teacher's pictures of ws."""
        synthesis = self.teacher.synthesis
        synthesis.compute_dtype = compute_dtype(self.settings.precision, ws.device)
        out: Tensor = synthesis(ws, noise_mode="const")
        synthesis.compute_dtype = torch.float32  # in which sheets and measures see it
        return out

    def _held(self, pyramid: Sequence[BlazePicture], target: Tensor) -> dict[str, Tensor]:
        """L1, perceptual distance and matte: what holds the pyramid to the teacher's picture."""
        weights, size = self.settings.weights, target.shape[-1]
        levels = {size // part.colour.shape[-1]: part.colour for part in pyramid}
        targets = {factor: F.avg_pool2d(target, factor) if factor > 1 else target for factor in levels}
        l1 = torch.stack([F.l1_loss(levels[factor], targets[factor]) for factor in levels]).mean()

        # The reader reduces what it sees to 64 px: larger levels are compared by a crop, the same in all pictures.
        perceptual, mask = [], None
        for factor, image in levels.items():
            side = size // factor
            if side < LEAST:
                continue
            left, top = (int(torch.randint(side - SIZE + 1, [])) if side > SIZE else 0 for _ in range(2))
            rows, columns = slice(top, top + SIZE), slice(left, left + SIZE)
            with torch.no_grad():
                wanted = self._maps(targets[factor][..., rows, columns])
                if side == min(size, SIZE):
                    mask = self.reader.decode(wanted)[0].softmax(1)[:, READER_HEAD].sum(1, keepdim=True)
            maps = self._maps(image[..., rows, columns])
            perceptual.append(perceptual_distance(maps, wanted).mean())

        assert mask is not None  # one level has the reader's size
        alpha = fitted(pyramid[-1].alpha, mask.shape[-1])
        return {
            "l1": weights.l1 * l1,
            "perceptual": weights.perceptual * torch.stack(perceptual).mean(),
            "grid": weights.grid * grid_error(pyramid[-1].colour, target),
            "matte": weights.matte * F.l1_loss(alpha, mask),
        }

    def _discriminator(self, real: Tensor, update: Update) -> dict[str, Tensor]:
        # One after the other: the minibatch statistic must not compare drawn with real pictures.
        fake, genuine = self.discriminator(update.memory["fakes"]), self.discriminator(real)
        return {
            "fake": discriminator_logistic(fake, real=False).mean(),
            "real": discriminator_logistic(genuine, real=True).mean(),
        }

    def _r1(self, real: Tensor) -> dict[str, Tensor]:
        weights, images = self.settings.weights, real.detach().requires_grad_()
        weight = weights.r1_gamma / 2 * weights.r1_every
        return {"r1": weight * r1_penalty(self.discriminator(images), images).mean()}

    def _encoder(self, photos: Tensor, update: Update) -> dict[str, Tensor]:
        """Likeness of photos and what the fixed generator draws of their codes; error of codes that are known."""
        weights, n = self.settings.weights, len(photos)
        with torch.no_grad():
            known = self.styles(n, update.draws)
            drawn = self._redrawn(known)
        with normalised_together(self.encoder, update.together):
            ws = self.encoder(torch.cat([photos, drawn]))
        images = self._redrawn(ws[:n])

        with torch.no_grad():
            maps, who = self._maps(photos), self.reader.identity(photos)
        same = (self.reader.identity(images) * who).sum(dim=1)
        return {
            "pixel": weights.pixel * F.l1_loss(images, photos),
            "perceptual": weights.likeness * perceptual_distance(self._maps(images), maps).mean(),
            "identity": weights.identity * (1 - same).mean(),
            "regression": weights.regression * ((ws[n:] - known) / self.unit).square().mean(),
            "delta": weights.delta * ((ws[:n] - ws[:n].mean(dim=1, keepdim=True)) / self.unit).square().mean(),
        }

    def _autocast(self, tensor: Tensor) -> AbstractContextManager[object]:
        return autocast(self.settings.precision, tensor.device)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """The reader's features of pictures [N, 3, r, r], float32."""
        with self._autocast(images):
            maps = self.reader.encode(images)
        return [level.float() for level in maps]

    def _redrawn(self, ws: Tensor) -> Tensor:
        """What the averaged generator draws of latents, [N, 3, R, R], float32."""
        with self._autocast(ws):
            out: Tensor = self.ema(ws).colour
        return out.float()

    # Draws

    def styles(self, count: int, draws: Draws) -> Tensor:
        """Draw ws [count, num_ws, w_dim], some of two latents, one below and one from a layer on."""
        teacher, total = self.teacher, self.teacher.num_ws
        device = teacher.mapping.w_avg.device
        z = draws.own(lambda n: torch.randn(n, 2, teacher.z_dim, device=device), count)
        mixed, place = draws.own(lambda n: torch.rand(n, 2, device=device), count).unbind(1)
        w = teacher.mapping(z.flatten(0, 1), update_w_avg=False)[:, 0].unflatten(0, (count, 2))

        cut = torch.where(mixed < self.settings.mixing, 1 + (place * (total - 1)).floor(), total)
        first = torch.arange(total, device=device) < cut[:, None]
        return torch.where(first[..., None], w[:, :1], w[:, 1:])

    # Between updates

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the average of what has just learnt."""
        half_life = self.settings.ema_images
        if self.distilling(images - batch):
            ema_update(self.ema, self.generator, half_life_decay(batch, images, half_life, ramp=0.05))
        else:
            decay = half_life_decay(batch, images - self.distilled, half_life, ramp=0.05)
            ema_update(self.encoder_ema, self.encoder, decay)
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        """The generator's: constant, then linear to zero over the last third; the encoder's: half a cosine to zero."""
        if self.distilling(images):
            return min(1.0, 3.0 * (1.0 - images / self.distilled))
        done = (images - self.distilled) / max(total - self.distilled, 1)
        return min(done / RISE + RISE, 0.5 + 0.5 * cos(pi * done), 1.0)

    def preview(self) -> dict[str, np.ndarray]:
        """The pyramid of heads beside the teacher, and photos over what becomes of them."""
        found = {"pyramid": pyramid_sheet(self)}
        return found | ({"encoding": encoding_sheet(self)} if self.settings.encoder_share else {})
