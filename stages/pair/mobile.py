"""The mobile student as a translator: many small updates in the time of U-GAT-IT's few.

Its network sees ten times the images a second that U-GAT-IT's sees, and learns in one direction alone:

  * latent: the style generator and its source paint the same latent as a face before and after, as in StyleGAN
    distillation (arXiv 2003.03581). Such pairs alone are the warm-up;
  * adversarial: two patch discriminators see drawn heads of photographs beside heads of the data's style pictures, on
    one random colour, with the head's coverage beside them (hinge, arXiv 1705.02894). Generated style pictures would
    not do: they are told from drawings at once;
  * cycle: a smaller network paints the photo back. It is compared by the means of small blocks, so that the drawing
    must keep features and need not keep hair by the strand;
  * colour: the means of large blocks stay the photo's, so that grey hair stays grey;
  * identity: 1 - cosine of the face reader's embeddings, without which eyes smear;
  * grid: sub-pixels must not differ by a regular pattern (`grid_error`).
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.images import grid
from stages.core.settings import ConfigError, Train, TristyleError, choice, number
from stages.core.tensors import mask_tensor, to_tensor, to_uint8
from stages.faces.recognise import open_recogniser
from stages.networks.mobile import TIERS, MobileStudent, normalised_together
from stages.networks.patchgan import PatchGAN
from stages.pair.batches import read_pictures, style_rows, style_set_batches
from stages.pair.translator import Painter, TrainingInputs
from stages.pair.ugatit import translator_painter
from stages.training import losses
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Batches, Phase, Task, Update, epoch_order, mirrored
from stages.training.loading import Allowance
from stages.training.precision import PRECISIONS, autocast

DRAWN = 3  # the style pictures' order, beside those of photos and style set
BACK = "low"  # tier of the network that paints photos back
CYCLE_CELLS, COLOUR_CELLS = 16, 8  # cells a side that cycle and colour compare
LAYERS = (2, 3)  # convolutions of the two discriminators that halve: patches of 34 and 70 px


@dataclass(kw_only=True)
class MobileWeights:
    """Weights of the loss terms; 0 switches a term off.

    Args:
        latent: L1 between what the style generator and its source make of one latent, over the head.
        adversarial: hinge loss of the two discriminators.
        cycle: L1 between photo and what is painted back, cells of a sixteenth of the side.
        colour: L1 between photo and drawing, cells of an eighth of the side.
        identity: 1 - cosine of the face reader's embeddings of photo and drawing.
        mask: cross-entropy of the matte to the head mask.
        grid: error to the photo that alternates from pixel to pixel, see `grid_error`.
    """

    latent: float = 10.0
    adversarial: float = 0.5
    cycle: float = 5.0
    colour: float = 5.0
    identity: float = 1.0
    mask: float = 2.0
    grid: float = 60.0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            number(key, value, 0)


@dataclass(kw_only=True)
class MobileTranslator:
    """Sizes and weights. A `Translator`.

    Args:
        tier: of the mobile student.
        discriminator_width: channels of the discriminators' first layer.
        warm_up: share of the training on latent pairs and mattes alone.
        ema: decay of the averaged network per update (it rises towards this value over the first updates).
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the processor multiplies it natively.
        weights: of the loss terms.
    """

    tier: str = "mid"
    discriminator_width: int = 24
    warm_up: float = 0.3
    ema: float = 0.998
    precision: str = "auto"
    weights: MobileWeights = field(default_factory=MobileWeights)

    def __post_init__(self) -> None:
        choice("tier", self.tier, TIERS)
        number("discriminator_width", self.discriminator_width, 1, 256, integer=True)
        number("warm_up", self.warm_up, 0, 1)
        number("ema", self.ema, 0, 0.99999)
        choice("precision", self.precision, PRECISIONS)

    def files(self) -> dict[str, Path]:
        """None."""
        return {}

    def batches(self, inputs: TrainingInputs, seed: int) -> Batches:
        """Batches of `style_set_batches`, and as many of the data's style pictures: `drawn` and `drawn_mask`.

        Raises:
            TristyleError: a style set without the faces before the transfer, no style pictures, pictures too small, of
                two sizes or of no multiple of 16 px.
        """
        found = style_set_batches(inputs, seed)
        first = found(0, 1)
        if "source" not in first:
            raise TristyleError(f"{inputs.style_set.path}: has no source/ pictures to learn from. Say pair=mask.")
        if (size := first["photo"].shape[-1]) % CYCLE_CELLS:
            raise ConfigError("data.size", f"{size} px photos do not fit", f"Use a multiple of {CYCLE_CELLS}")
        pictures, masks = read_pictures(inputs.data, style_rows(inputs), inputs.runtime.workers, Allowance())

        def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
            index = epoch_order(len(pictures), 2 * seed + DRAWN, start, count)[rows]
            flip = torch.from_numpy(mirrored(2 * seed + DRAWN, start, count, rows))[:, None, None, None]
            drawn = {"drawn": to_tensor(pictures[index]), "drawn_mask": mask_tensor(masks[index])}
            return found(start, count, rows) | {key: torch.where(flip, x.flip(3), x) for key, x in drawn.items()}

        return batch

    def task(self, size: int, train: Train, device: str = "cpu") -> MobileTranslation:
        """The networks and losses for pictures of `size` px; the weights are drawn from `train.seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            return MobileTranslation(self, size, train, device)

    def network(self, task: Task) -> nn.Module:
        """The averaged network."""
        assert isinstance(task, MobileTranslation)
        return task.ema.eval()

    def painter(self, network: nn.Module, device: str) -> Painter:
        """Paints by it."""
        return translator_painter(network, device)


class MobileTranslation(Task):
    """The network, the one that paints back, two discriminators and the averaged network; see the module's text.

    A batch is one of `MobileTranslator.batches`.
    """

    def __init__(self, settings: MobileTranslator, size: int, train: Train, device: str) -> None:
        super().__init__()
        self.settings, self.weights, self.size = settings, settings.weights, size
        self.to_style, self.to_photo = MobileStudent(settings.tier), MobileStudent(BACK)
        self.ema = copy.deepcopy(self.to_style).requires_grad_(False)
        self.discriminators = nn.ModuleList(PatchGAN(settings.discriminator_width, layers) for layers in LAYERS)
        self.to(memory_format=torch.channels_last)

        painters = [*self.to_style.parameters(), *self.to_photo.parameters()]
        judges = list(self.discriminators.parameters())
        self.phases = [
            Phase("generator", painters, _adam(painters, train.lr)),
            Phase("discriminator", judges, _adam(judges, train.lr)),
        ]
        self.warm_up_images = settings.warm_up * train.images

        # a list, so that the recogniser is neither trained nor part of the training state
        self._recognisers = [open_recogniser(device=device)] if self.weights.identity else []
        self._shown: dict[str, Tensor] = {}  # the last pictures, for the preview

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Weighted terms of one phase. In the warm-up there are no discriminators."""
        if phase == "discriminator":
            return self._discriminator_losses(update)
        batch = {name: value.contiguous(memory_format=torch.channels_last) for name, value in batch.items()}
        with normalised_together(self.to_style, update.together), normalised_together(self.to_photo, update.together):
            return self._generator_losses(batch, update)

    def moved_buffers(self, phase: str) -> list[Tensor]:
        """Spectral norms, which either phase moves, and the generators' batch statistics."""
        moved = list(self.discriminators.buffers())
        if phase == "generator":
            moved += [*self.to_style.buffers(), *self.to_photo.buffers()]
        return [value for value in moved if value.is_floating_point()]

    def _generator_losses(self, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        photo, head, style, style_head = (batch[key] for key in ("photo", "photo_mask", "style", "style_mask"))
        weights, count = self.weights, len(style)

        # sources and photos in one pass: the batch norms then know both
        with self._autocast(photo):
            image, alpha = (part.float() for part in self.to_style.compute(torch.cat([batch["source"], photo])))
        drawn = image[count:]
        self._shown = {"photo": photo, "style": drawn.detach()}
        terms = {
            "latent": weights.latent * losses.regional_l1(image[:count], style, style_head),
            "mask": weights.mask * losses.mask_supervision(alpha, torch.cat([style_head, head])),
        }
        if update.images < self.warm_up_images:
            return terms

        # heads on one colour, which real and drawn ones share
        colour = update.draws.own(lambda n: torch.rand(n, 3, 1, 1, device=photo.device), count) * 2 - 1
        real, fake = _on_colour(batch["drawn"], batch["drawn_mask"], colour), _on_colour(drawn, head, colour)
        update.memory["seen"] = real, fake.detach()
        with self._autocast(photo):
            said = [losses.student_hinge(logits.float()) for logits in self._judge(fake)]
            back = self.to_photo(drawn).float()

        terms["adversarial"] = weights.adversarial * torch.stack(said).sum()
        terms["cycle"] = weights.cycle * self._coarse_l1(back, photo, head, CYCLE_CELLS)
        terms["colour"] = weights.colour * self._coarse_l1(drawn, photo, head, COLOUR_CELLS)
        terms["grid"] = weights.grid * losses.grid_error(drawn * head, photo * head)
        if weights.identity:
            [recogniser] = self._recognisers
            terms["identity"] = weights.identity * (1 - recogniser.cosine(photo, drawn, head)).mean()
        return terms

    def _autocast(self, like: Tensor) -> AbstractContextManager[object]:
        return autocast(self.settings.precision, like.device)

    def _judge(self, seen: Tensor) -> list[Tensor]:
        """Logits [N, 1, h, w] of both discriminators for what `_on_colour` gives; coverage takes the photo's place."""
        coverage = seen[:, :1].expand(-1, 3, -1, -1)
        return [discriminator(coverage, seen[:, 1:]).logits for discriminator in self.discriminators]

    def _coarse_l1(self, image: Tensor, target: Tensor, head: Tensor, cells: int) -> Tensor:
        """L1 over the head between the means of `cells` x `cells` blocks."""
        means = (F.avg_pool2d(x, self.size // cells) for x in (image, target, head))
        return losses.regional_l1(*means)

    def _discriminator_losses(self, update: Update) -> dict[str, Tensor]:
        if "seen" not in update.memory:
            return {}
        real, fake = update.memory["seen"]
        with self._autocast(real):
            pairs = list(zip(self._judge(real), self._judge(fake), strict=True))
        return {"hinge": torch.stack([losses.patch_hinge(a.float(), b.float()) for a, b in pairs]).sum()}

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the averaged network."""
        decay = early_decay(images / batch, self.settings.ema, lead=1)
        ema_update(self.ema, self.to_style, decay)
        return {"ema_decay": decay}

    def lr_factor(self, images: int, total: int) -> float:
        """Constant for the first half, then linearly to 0."""
        return min(1.0, 2.0 * (total - images) / total)

    def preview(self) -> dict[str, np.ndarray]:
        """The last photos, the average's pictures of them, and the last drawings."""
        if not self._shown:
            return {}
        photo = self._shown["photo"]
        rows = [photo, self.ema.eval()(photo), self._shown["style"]]
        return {"photo_style": grid(to_uint8(torch.cat(rows)), columns=len(photo))}


def _on_colour(picture: Tensor, head: Tensor, colour: Tensor) -> Tensor:
    """Heads [N, 3, H, W] on a colour [N, 3, 1, 1], and their coverage in front: [N, 4, H, W]."""
    return torch.cat([2 * head - 1, head * picture + (1 - head) * colour], dim=1)


def _adam(params: list[nn.Parameter], lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(params, lr=lr, betas=(0.5, 0.999), fused=True)
