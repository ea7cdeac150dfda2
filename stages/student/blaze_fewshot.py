"""A blaze student learns a style from one to ten pictures.

Source: the FaceStylizer task on BlazeStyleGAN (few-shot: encoder and mapping fixed, the generator trained; latents
around a picture's code by style mixing). What differs: the encoder's codes are first brought nearer to the pictures, or
the generator would learn to move mouths; every picture counts, not the first alone; the style loss sums all layers, of
an ImageNet network's features, since the face reader's were taught to overlook styles; an adversarial loss is trained
jointly (the original only compared a fixed discriminator's features), by augmented pictures and with R1; drawn people
keep the identity that they had before; and a check on latents that no update draws keeps the best state whose faces
stay different from each other, and stops the training where that ends.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.artifact import Artifact, ArtifactError, open_artifact
from stages.core.files import data_file
from stages.core.images import grid, load_images, write_image
from stages.core.mark import TRAINED
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError, number
from stages.core.tensors import to_tensor, to_uint8
from stages.core.weights import load_network, save_network
from stages.metrics.backbones import load_perceptual, perceptual_file
from stages.networks.augment import AugmentPipe, softened
from stages.networks.blaze import BlazeEncoder, BlazeFaces, BlazeGenerator, BlazeStylizer
from stages.networks.face_reader import Reader, load_reader, reader_file
from stages.networks.latents import generator_id
from stages.networks.stylegan2 import Discriminator
from stages.student.batches import photo_batches
from stages.student.blaze import check_groups
from stages.student.blaze_finish import CHUNK, SHOWN, diversity, drawn, fixed_latents
from stages.student.student import StudentTraining
from stages.training import distributed
from stages.training.draws import Draws
from stages.training.ema import ema_update, half_life_decay
from stages.training.fit import Phase, Task, Update
from stages.training.losses import (
    LOGISTIC_CHANCE,
    discriminator_logistic,
    generator_logistic,
    grid_error,
    perceptual_distance,
    r1_penalty,
)

MOST = 10  # pictures of a style
CHECKED = 16  # latents of the held-out check
PSI = 0.7  # their truncation: what faces from scratch have
REFINE_LR, REFINE_LANDMARKS, REFINE_DELTA = 0.02, 10.0, 0.4  # rate; weights beside the perceptual distance
NETWORKS = ("student", "faces", "discriminator")
START = "blaze128"  # the shipped student, a folder of data/


@dataclass(kw_only=True)
class FewShotWeights:
    """Weights of the terms.

    Args:
        reconstruction, perceptual: of what is drawn of a picture's own code: L1, perceptual distance to the picture.
        style: distance of the means and deviations of all features of mixed faces to the picture's; the features are
            the perceptual network's: in the face reader's a photo is as near to a drawing as another drawing is.
        adversarial: logistic loss of what is drawn of the pictures' codes and of the first neighbours; 0 leaves it out.
            So does a single picture, which every face would become.
        identity: 1 - cosine of mixed faces to what the start draws of the same latents.
        content: perceptual distance of the same two, which keeps pose and expression.
        grid: of the error against pictures and start that alternates from pixel to pixel, see `grid_error`.
        r1_gamma, r1_every: R1 of the discriminator.
    """

    reconstruction: float = 2.0
    perceptual: float = 4.0
    style: float = 10.0
    adversarial: float = 0.6
    identity: float = 1.0
    content: float = 0.5
    grid: float = 10.0
    r1_gamma: float = 1.0
    r1_every: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number(name, value, 0)
        number("r1_every", self.r1_every, 1, 1000, integer=True)


@dataclass(kw_only=True)
class BlazeFewShot:
    """Teaches a trained blaze student a style by a few pictures. A `Student`.

    Args:
        start: folder of the blaze student's artifact; None: the newest finished one in `students`, else the shipped
            one of 128 px.
        students: folder of student artifacts.
        floor: least diversity, the start's 1.
        refine: steps by which the encoder's codes of the pictures are brought nearer to them, see `refined`.
        neighbours: latents mixed around a picture's code in each update, for each picture of the batch.
        keep: share of a picture's code that a mixed layer keeps.
        soften: px; the discriminator sees the style's pictures through a Gaussian of this deviation, see `softened`.
        augment: probability of each augmentation of what the discriminator sees.
        ema_images: half-life of the averaged generator, in images.
        check_images: images between two checks.
        patience: checks without a better style after which the training stops.
        weights: of the loss terms.
    """

    reads: ClassVar[tuple[str, ...]] = ("style",)
    start: str | None = None
    students: str = "runs/student"
    floor: float = 0.7
    refine: int = 80
    neighbours: int = 2
    keep: float = 0.1
    soften: float = 0.8
    augment: float = 0.4
    ema_images: int = 60
    check_images: int = 80
    patience: int = 5
    weights: FewShotWeights = field(default_factory=FewShotWeights)

    def __post_init__(self) -> None:
        for name in ("floor", "keep", "augment"):
            number(name, getattr(self, name), 0, 1)
        number("refine", self.refine, 0, 10_000, integer=True)
        for name in ("neighbours", "check_images", "patience"):
            number(name, getattr(self, name), 1, integer=True)
        number("ema_images", self.ema_images, 0, integer=True)
        number("soften", self.soften, 0, 4)

    def files(self) -> dict[str, Path]:
        """The start's networks, the face reader and the perceptual network."""
        start = {f"model.start.{name}": self._place / f"{name}.safetensors" for name in NETWORKS}
        return start | reader_file() | {"perceptual": perceptual_file()}

    @cached_property
    def _place(self) -> Path:
        """The start's folder, which a student that ends meanwhile does not change."""
        if self.start is not None:
            return Path(self.start)
        finished = [one for one in _students(Path(self.students)) if (one.path / "discriminator.safetensors").exists()]
        return max(finished, key=lambda item: str(item.manifest["created"])).path if finished else data_file(START)

    def training(self, inputs: dict[str, Artifact], train: Train, runtime: Runtime) -> StudentTraining:
        """Open start and pictures.

        Raises:
            TristyleError: the start is missing or damaged, or there are more than ten pictures or of another size.
        """
        place = self._place
        stylizer, faces, discriminator = open_start(place)

        style = inputs["style"]
        names = [str(row["image"]) for row in style.records()]
        if len(names) > MOST:
            raise TristyleError(
                f"{style.path}: {len(names)} pictures, more than {MOST}. Say style=pictures style.pictures=DIR."
            )
        pictures = load_images([style.path / name for name in names], runtime.workers)
        if pictures.shape[1] != stylizer.side:
            raise TristyleError(
                f"student.model.start: {place} draws {stylizer.side} px, the pictures have {pictures.shape[1]} px. "
                f"Set data.size={stylizer.side}."
            )
        torch.manual_seed(train.seed)
        check_groups(train, discriminator.b4.mbstd_group_size)
        task = self.task(train, stylizer, faces, discriminator, load_reader(), to_tensor(pictures))
        metrics = {"pictures": float(len(pictures))}
        batches = photo_batches(pictures, train.seed)
        return StudentTraining(task, batches, stylizer.side, metrics, finish=partial(finish_few_shot, task))

    def task(
        self,
        train: Train,
        stylizer: BlazeStylizer,
        faces: BlazeFaces,
        discriminator: Discriminator,
        reader: Reader,
        pictures: Tensor,
    ) -> FewShotTask:
        """The training of this student on `pictures` [n, 3, R, R] in [-1, 1]."""
        return FewShotTask(self, train, stylizer, faces, discriminator, reader, pictures)

    def network(self, task: Task) -> nn.Module:
        """Encoder and generator as one network of a photo, in the best state."""
        assert isinstance(task, FewShotTask)
        return task.stylizer()


def _students(folder: Path) -> Iterator[Artifact]:
    """The finished student artifacts of a folder."""
    for manifest in sorted(folder.glob("*/manifest.json")):
        with suppress(ArtifactError):
            yield open_artifact(manifest.parent, "student", verify=False)


def open_start(place: Path) -> tuple[BlazeStylizer, BlazeFaces, Discriminator]:
    """The networks of a blaze student's artifact.

    Raises:
        TristyleError: one is missing or another network, or the encoder belongs to another generator.
    """
    paths = [place / f"{name}.safetensors" for name in NETWORKS]
    both, faces, judge = (load_network(path) if path.exists() else None for path in paths)
    if not (isinstance(both, BlazeStylizer) and isinstance(faces, BlazeFaces) and isinstance(judge, Discriminator)):
        raise TristyleError(
            f"student.model.start: {place} does not hold {', '.join(NETWORKS)} of a blaze student. Name the folder of "
            "one that experiment=blaze-128 made: not a few-shot student, but the one that it was made from."
        )
    if both.encoder.generator != generator_id(both.generator):
        raise TristyleError(
            f"student.model.start: {place} holds an encoder of another generator, as few-shot students do. "
            "Name the student that it was made from."
        )
    return both, faces, judge


class FewShotTask(Task):
    """Generator and discriminator at work, the start beside them, and the best state so far.

    Batches hold `images` [N, 3, R, R] in [-1, 1], pictures of the style.

    Attributes:
        kept: the generator in the best state that a check has seen.
    """

    codes: Tensor
    best: Tensor
    checks: Tensor
    stopped: Tensor
    pictures: Tensor
    checked: Tensor

    def __init__(
        self,
        settings: BlazeFewShot,
        train: Train,
        stylizer: BlazeStylizer,
        faces: BlazeFaces,
        discriminator: Discriminator,
        reader: Reader,
        pictures: Tensor,
    ) -> None:
        super().__init__()
        self.settings, self.total = settings, train.images
        self.start = stylizer.generator.requires_grad_(False)
        self.encoder = stylizer.encoder.requires_grad_(False)
        self.mapping, self.psi = faces.mapping.requires_grad_(False), faces.psi
        self.arguments = {"student": stylizer.arguments, "faces": faces.arguments}
        self.z_dim = faces.z_dim
        self.reader = copy.deepcopy(reader).requires_grad_(False)
        self.perceptual = load_perceptual()
        self.layers = self.perceptual.layers.requires_grad_(False)  # moves with the task

        # What learns, its average, and the best state.
        self.generator = copy.deepcopy(self.start).requires_grad_(True)
        self.discriminator = discriminator.requires_grad_(True)
        self.ema, self.kept = (copy.deepcopy(self.start).requires_grad_(False) for _ in range(2))
        self.augment = AugmentPipe("portrait")
        self.augment.p.fill_(settings.augment)
        self.register_buffer("best", torch.zeros([]))  # style distance of that state
        self.register_buffer("checks", torch.zeros([]))  # since the best
        self.register_buffer("stopped", torch.zeros([]))
        self.register_buffer("pictures", pictures, persistent=False)
        # Codes of the pictures and of their mirror images, zero until the first update finds them.
        codes = torch.zeros(2 * len(pictures), self.start.num_ws, self.start.w_dim)
        self.register_buffer("codes", codes)
        self.register_buffer("checked", fixed_latents(self.mapping, self.z_dim, CHECKED, PSI), persistent=False)
        self.to(memory_format=torch.channels_last)
        before = drawn(self.start, self.checked)
        self.spread = diversity(self.reader, before)
        self.best.fill_(self.style_of(before))
        self.contested = bool(settings.weights.adversarial) and len(pictures) > 1  # a discriminator takes part
        self.phases = self._phases(train.lr)

    def _phases(self, lr: float) -> list[Phase]:
        weights = self.settings.weights
        own, other = list(self.generator.parameters()), list(self.discriminator.parameters())
        phases = [Phase("generator", own, torch.optim.Adam(own, lr=lr, betas=(0.0, 0.99)))]
        if self.contested:
            optimizer = torch.optim.Adam(other, lr=lr, betas=(0.0, 0.99))
            phases.append(Phase("discriminator", other, optimizer, chance=LOGISTIC_CHANCE))
            if weights.r1_gamma:
                phases.append(Phase("r1", other, optimizer, weights.r1_every))
        return phases

    def train(self, mode: bool = True) -> FewShotTask:
        """Set the mode of what is trained; everything else stays in eval mode."""
        super().train(mode)
        for fixed in (self.start, self.encoder, self.mapping, self.reader, self.ema, self.kept):
            fixed.eval()
        return self

    # Losses

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Terms of `generator`, `discriminator` or `r1`; none once the training has stopped itself."""
        if bool(self.stopped):
            return {}
        pictures = batch["images"]
        if phase == "generator":
            return self._generator(pictures, update)

        pictures = softened(pictures, self.settings.soften)
        if phase == "discriminator":
            fake = self._logits(update.memory["fakes"], update)
            real = self.discriminator(self.augment(pictures, draws=update.draws))
            return {
                "fake": discriminator_logistic(fake, real=False).mean(),
                "real": discriminator_logistic(real, real=True).mean(),
            }
        weights, images = self.settings.weights, pictures.detach().requires_grad_()
        penalty = r1_penalty(self.discriminator(self.augment(images, draws=update.draws)), images)
        return {"r1": weights.r1_gamma / 2 * weights.r1_every * penalty.mean()}

    def _generator(self, pictures: Tensor, update: Update) -> dict[str, Tensor]:
        """Draw each picture's code, and faces mixed around it; compare the first with the picture, all in style."""
        n, weights = len(pictures), self.settings.weights
        with torch.no_grad():
            codes = self.coded(pictures)
            mixed = self.mixed(codes, update.draws)
            before = self.start(mixed).colour
            maps, look = self.reader.encode(pictures), self.look(pictures)
        images = self.generator(torch.cat([codes, mixed])).colour
        update.memory["fakes"] = [row.detach() for row in images.split(n)[:2]]  # codes, and a neighbour of each

        own = self.reader.encode(images)
        repeated = [row.repeat(self.settings.neighbours, 1) for row in look]
        terms = {
            "reconstruction": weights.reconstruction * F.l1_loss(images[:n], pictures),
            "perceptual": weights.perceptual * self.likeness([level[:n] for level in own], maps),
            "style": weights.style * self.style_loss(self.look(images[n:]), repeated),
            "content": weights.content * self.likeness([level[n:] for level in own], self.reader.encode(before)),
            "grid": weights.grid * grid_error(images, torch.cat([pictures, before])),
        }
        if weights.identity:
            same = (self.reader.identity(images[n:]) * self.reader.identity(before)).sum(dim=1)
            terms["identity"] = weights.identity * (1 - same).mean()
        if self.contested:
            terms["adversarial"] = weights.adversarial * self.adversarial(images, pictures, update)
        return terms

    def coded(self, pictures: Tensor) -> Tensor:
        """Codes [N, num_ws, w_dim] of pictures of the style or their mirror images, [N, 3, R, R]."""
        known = torch.cat([self.pictures, self.pictures.flip(3)])
        if not self.codes.any():
            self.codes.copy_(refined(self.start, self.encoder, self.reader, known, self.settings.refine))
            distributed.broadcast([self.codes])
        distance = torch.stack([(known - picture).abs().mean(dim=(1, 2, 3)) for picture in pictures])
        return self.codes[distance.argmin(dim=1)]

    def likeness(self, maps: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """Mean perceptual distance of feature maps [N, C, h, w]: a scalar."""
        return perceptual_distance(maps, wanted).mean()

    def look(self, images: Tensor) -> list[Tensor]:
        """The statistics of the perceptual network's features of pictures [N, 3, R, R].

        Every channel is brought to one mean and deviation first: skin and light of few people are not their style.
        """
        deviation, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
        return statistics(self.perceptual.maps((images - mean) / (deviation + 0.05) / 2))

    def style_loss(self, own: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """Mean distance of the statistics of *every* layer, each in units of the wanted one's length: a scalar."""
        return torch.stack([_distance(a, b).mean() for a, b in zip(own, wanted, strict=True)]).mean()

    def adversarial(self, images: Tensor, pictures: Tensor, update: Update) -> Tensor:
        """The logistic loss of drawn faces [M, 3, R, R], as many of each kind as the batch has pictures: a scalar."""
        return generator_logistic(self._logits(images.split(len(pictures))[:2], update)).mean()

    def _logits(self, rows: Sequence[Tensor], update: Update) -> Tensor:
        """What the discriminator says of drawn faces, each kind augmented by itself: [M]."""
        return torch.cat([self.discriminator(self.augment(row, draws=update.draws)) for row in rows])

    def mixed(self, codes: Tensor, draws: Draws) -> Tensor:
        """Latents around codes [N, num_ws, w_dim]: in each some layers, by chance all or none, are almost another's.

        Returns:
            [neighbours * N, num_ws, w_dim], the first N of the first neighbours.
        """
        settings, (n, layers, _) = self.settings, codes.shape
        found = []
        for _ in range(settings.neighbours):
            z = draws.own(lambda count: torch.randn(count, self.z_dim, device=codes.device), n)
            roll = draws.own(lambda count: torch.rand(count, layers + 1, device=codes.device), n)
            other = self.mapping(z, truncation_psi=self.psi, update_w_avg=False)
            changed = (roll[:, 1:] < roll[:, :1])[..., None]
            found.append(torch.where(changed, torch.lerp(other, codes, settings.keep), codes))
        return torch.cat(found)

    # Between updates

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the average; at a check, keep it where it is better, or stop."""
        if bool(self.stopped):
            return {}
        ema_update(self.ema, self.generator, half_life_decay(batch, images, self.settings.ema_images, ramp=0.2))
        due = images // self.settings.check_images > (images - batch) // self.settings.check_images
        return self._check() if due or images >= self.total else {}

    @torch.no_grad()
    def _check(self) -> dict[str, float]:
        """Diversity and style of faces that no update draws."""
        images = drawn(self.ema, self.checked)
        ratio = diversity(self.reader, images) / self.spread
        style = self.style_of(images)
        if ratio < self.settings.floor:
            self.stopped.fill_(1)
        elif style < float(self.best) * 0.99:
            self.best.fill_(style)
            self.checks.zero_()
            self.kept.load_state_dict(self.ema.state_dict())
        else:
            self.checks.add_(1)
            self.stopped.fill_(float(self.checks >= self.settings.patience))
        return {"diversity": ratio, "style": style, "stopped": float(self.stopped)}

    @torch.no_grad()
    def style_of(self, images: Tensor) -> float:
        """Style loss of `CHECKED` pictures [N, 3, R, R] against the mean statistics of all pictures of the style."""
        wanted = [row.mean(0).expand(len(images), -1) for row in self.look(self.pictures)]
        return float(self.style_loss(self.look(images), wanted))

    def lr_factor(self, images: int, total: int) -> float:
        """A short rise, then constant, then linear to zero over the last half."""
        return min(1.0, (images + 8) / 80, 2.0 * (1.0 - images / total))

    def preview(self) -> dict[str, np.ndarray]:
        """The pictures, what is drawn of the encoder's codes, and faces from scratch before and after."""
        return {"few-shot": few_shot_sheet(self)}

    def stylizer(self) -> BlazeStylizer:
        """Encoder and the best generator in one network."""
        both = BlazeStylizer(**self.arguments["student"])
        both.generator.load_state_dict(self.kept.state_dict())
        both.encoder.load_state_dict(self.encoder.state_dict())
        return both.to(self.best.device).eval().requires_grad_(False)


@torch.enable_grad()
def refined(generator: BlazeGenerator, encoder: BlazeEncoder, reader: Reader, pictures: Tensor, steps: int) -> Tensor:
    """The encoder's codes of drawings, moved until the generator's faces stand and look as the drawn ones do.

    The reader's features overlook styles: compared in them, a face turns its head and puts on a hat, but stays a
    photo's. The generator then has the drawing to learn, and not where its eyes are.

    Args:
        generator: fixed.
        encoder: fixed; it says where to begin.
        reader: fixed.
        pictures: [N, 3, R, R] in [-1, 1].
        steps: of Adam; 0 leaves the codes as they are.

    Returns:
        [N, num_ws, w_dim].
    """
    found = []
    for part in pictures.split(CHUNK):
        with torch.no_grad():
            begun, maps, wanted = encoder(part), reader.encode(part), reader.recognise(part)[1]

        codes = begun.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([codes], lr=REFINE_LR)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = REFINE_LR * min(1.0, 3 * (1 - step / steps))

            images = generator(codes).colour
            spread = (codes - codes.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))
            landmarks = (reader.recognise(images)[1] - wanted).norm(dim=2).mean(dim=1)
            distance = perceptual_distance(reader.encode(images), maps)
            optimizer.zero_grad()
            (distance + REFINE_LANDMARKS * landmarks + REFINE_DELTA * spread).sum().backward()
            optimizer.step()
        found.append(codes.detach())
    return torch.cat(found)


def statistics(maps: list[Tensor]) -> list[Tensor]:
    """Means and deviations of feature maps [N, C, h, w] over places, [N, 2 C] of each map (AdaIN, arXiv 1703.06868)."""
    return [torch.cat([level.mean(dim=(2, 3)), (level.var(dim=(2, 3)) + 1e-6).sqrt()], dim=1) for level in maps]


def _distance(own: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of rows [N, d] over the squared length of the wanted ones: [N]."""
    return (own - wanted).square().sum(dim=1) / (wanted.square().sum(dim=1) + 1e-6)


@torch.no_grad()
def few_shot_sheet(task: FewShotTask) -> np.ndarray:
    """Rows of pictures, what is drawn by the encoder's codes, and faces before and after: uint8 [H, W, 3]."""
    pictures = torch.cat([task.pictures] * SHOWN)[:SHOWN]  # few may be fewer than the columns
    ws = task.checked[:SHOWN]
    rows = [pictures, drawn(task.kept, task.encoder(pictures)), drawn(task.start, ws), drawn(task.kept, ws)]
    return grid(np.concatenate([to_uint8(row) for row in rows]), columns=SHOWN)


def finish_few_shot(task: FewShotTask, out: Path) -> dict[str, float]:
    """Write faces from scratch and the sheet; measure diversity and style of the best state.

    Returns:
        diversity: of faces from scratch, the start's 1; style_distance, start_style_distance: of all features' means
        and deviations to the pictures'; stopped: 1 where the check ended the training.

    Raises:
        TristyleError: no check found faces both nearer to the style and unlike each other: the best state is the start.
    """
    before, after = (drawn(generator, task.checked) for generator in (task.start, task.kept))
    started, reached = task.style_of(before), task.style_of(after)
    if not reached < started:
        raise TristyleError(
            "student.train: no check found faces that were nearer to the style and unlike each other, so that nothing "
            "was learnt. Raise student.train.images, or lower student.train.lr or student.model.floor."
        )

    faces = BlazeFaces(**task.arguments["faces"])
    faces.generator.load_state_dict(task.kept.state_dict())
    faces.mapping.load_state_dict(task.mapping.state_dict())
    save_network(out / "faces.safetensors", faces.cpu())
    write_image(out / "preview" / "few-shot.png", few_shot_sheet(task), TRAINED)

    return {
        "style_distance": reached,
        "start_style_distance": started,
        "diversity": diversity(task.reader, after) / diversity(task.reader, before),
        "stopped": float(task.stopped),
    }
