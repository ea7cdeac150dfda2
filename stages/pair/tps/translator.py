"""Translation aligned by thin-plate splines: from a few dozen pictures of a style, without a face generator.

"Real-Time Data-Efficient Portrait Stylization via Geometric Alignment" (arXiv 2211.15549; Neural Networks 191, 107774),
in both directions, photo -> style and back:

  * warped branch: the features of the portrait are warped by the spline from its landmarks to those of a style
    picture. The aligned result is judged beside that very picture;
  * invariant branch: the features as they are. The result is judged beside the style picture, warped to the portrait's
    landmarks. This branch runs alone afterwards: plain convolutions, no landmarks, no style picture;
  * local module: eyes, nose and mouth of the result are judged, by a small discriminator each, beside patches of a bank
    cut from the style pictures, which a spline moves onto the portrait's own;
  * cycle consistency by L1 and by a frozen perceptual distance;
  * deformation invariance (version 1 of the paper): the result, warped, is the aligned result.

What the paper does not publish is ours: weights, number of landmarks (38 of 68, and eight of the frame), the layers of
the light generator (`stages/networks/aligned.py`), the discriminators, and which eyes count (each has its own). The
masks, the background term and `composite` are those of U-GAT-IT's variants (`stages/pair/ugatit.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from stages.core.settings import ConfigError, Train, choice, number
from stages.metrics.backbones import SHIPPED, load_perceptual, perceptual_file
from stages.networks.aligned import LIGHT, translator_network
from stages.pair.batches import photo_rows, read_pictures, style_rows, unpaired_batches
from stages.pair.tps.batches import FaceSet, aligned_batches
from stages.pair.tps.landmarks import (
    FaceLandmarks,
    FacePictures,
    check_alike,
    face_photos,
    face_styles,
)
from stages.pair.tps.task import AlignedTask
from stages.pair.translator import Painter, TrainingInputs
from stages.pair.ugatit import translator_painter
from stages.training.fit import Batches, Task
from stages.training.loading import Allowance, read_ahead
from stages.training.precision import PRECISIONS

SMALLEST = 32  # px
LEAST_MAP = 3  # px after the halvings of a discriminator, whose last two convolutions take one each


@dataclass(kw_only=True)
class TpsWeights:
    """Weights of the loss terms; 0 switches a term off. The paper gives none.

    Args:
        warped: least-squares adversarial loss of the aligned result.
        invariant: that of the unaligned result.
        local: that of the four regions of the face, together.
        cycle: L1 between a picture and what comes back of it.
        perceptual: perceptual distance between the two.
        deformation: L1 between the warped result and the aligned one.
        mask: cross-entropy of the generators' masks to the head mask.
        mask_tv: total variation of the masks.
        background: L1 to the input outside the head.
        grid: error to the input that alternates from pixel to pixel, see `grid_error`.
    """

    warped: float = 1.0
    invariant: float = 1.0
    local: float = 1.0
    cycle: float = 5.0
    perceptual: float = 1.0
    deformation: float = 1.0
    mask: float = 3.0
    mask_tv: float = 0.2
    background: float = 0.0
    grid: float = 10.0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            number(key, value, 0)
        if not self.warped and not self.invariant:
            raise ConfigError("invariant", "neither branch has a weight", "Give one of warped and invariant a weight")


@dataclass(kw_only=True)
class TpsTranslator:
    """Aligned translation: networks, branches and weights. A `Translator`.

    Args:
        generator: `resnet` (CycleGAN's, 10.85 M), `light` (1.73 M), or a tier of the mobile student, which then needs
            no student stage to become small.
        mask_head: the generators also say where they paint, and the photo shows through elsewhere.
        composite: the discriminators see heads on a random colour instead of whole pictures.
        align: False leaves out splines and landmarks: CycleGAN with the other settings. The warped branch, the local
            module and the deformation term then have no weight.
        perceptual: `squeezenet` (shipped), or the path of torchvision's vgg16, alexnet or squeezenet.
        most_folded: share of a spline's cells that may be folded; beyond it another style picture is taken.
        discriminator_width: channels of the discriminators' first layer.
        discriminator_max_width: the most channels of any of their layers.
        discriminator_layers: their halvings; 3 see 70 px, as CycleGAN's do, 2 see 34.
        discriminator_lr: factor on the discriminators' learning rate.
        weights: of the loss terms.
        ema: decay of the averaged generator per update (it rises towards this value over the first updates).
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the processor multiplies it natively.
    """

    generator: str = LIGHT
    mask_head: bool = True
    composite: bool = True
    align: bool = True
    perceptual: str = SHIPPED
    most_folded: float = 0.02
    discriminator_width: int = 16
    discriminator_max_width: int = 128
    discriminator_layers: int = 2
    discriminator_lr: float = 1.0
    weights: TpsWeights = field(default_factory=TpsWeights)
    ema: float = 0.995
    precision: str = "auto"

    def __post_init__(self) -> None:
        for key in ("mask_head", "composite", "align"):
            choice(key, getattr(self, key), (True, False))
        if not isinstance(self.perceptual, str) or not self.perceptual:
            problem = f"{self.perceptual!r} names nothing"
            raise ConfigError("perceptual", problem, "Say squeezenet, or the path of weights")
        with torch.device("meta"):
            translator_network(self.generator, self.mask_head)  # raises for an unknown name

        number("most_folded", self.most_folded, 0, 1)
        number("discriminator_width", self.discriminator_width, 2, 256, integer=True)
        number("discriminator_max_width", self.discriminator_max_width, self.discriminator_width, 4096, integer=True)
        number("discriminator_layers", self.discriminator_layers, 1, 5, integer=True)
        number("discriminator_lr", self.discriminator_lr, 0, 100, open_low=True)
        number("ema", self.ema, 0, 0.99999)
        choice("precision", self.precision, PRECISIONS)

        # weights of what is not there
        if not self.mask_head and (self.weights.mask or self.weights.mask_tv):
            raise ConfigError(
                "weights.mask", "has no mask head to act on", "Set mask_head=true, or mask=0 and mask_tv=0"
            )
        aligned = [name for name in ("warped", "local", "deformation") if getattr(self.weights, name)]
        if not self.align and aligned:
            raise ConfigError(f"weights.{aligned[0]}", "needs the splines", f"Set align=true, or {aligned[0]}=0")

    def files(self) -> dict[str, Path]:
        """The perceptual network."""
        return {"translator.perceptual": perceptual_file(self.perceptual)} if self.weights.perceptual else {}

    def batches(self, inputs: TrainingInputs, seed: int) -> Batches:
        """Photos and style pictures of the data in independent orders.

        With a face and its splines, see `aligned_batches`; all there are without alignment, see `unpaired_batches`.

        Raises:
            TristyleError: the style does not exist, too few pictures show a face, the landmarks of the style pictures
                are not those of the photos, or the pictures are too small.
        """
        if not self.align:
            memory, kinds = Allowance(), (photo_rows(inputs), style_rows(inputs))
            sets = [read_pictures(inputs.data, rows, inputs.runtime.workers, memory) for rows in kinds]
            self._check_size(*sets[0][0].shape[1:3])
            return read_ahead(unpaired_batches(*sets[0], *sets[1], seed))

        found = self.faces(inputs)
        check_alike(found["photo"], found["style"], inputs.data.path / "style" / inputs.target)
        photos, styles = self.sets(inputs, *found.values())
        self._check_size(*photos.images.shape[1:3])
        patch = photos.images.shape[1] // 4 if self.weights.local else 0
        return read_ahead(aligned_batches(photos, styles, seed, self.most_folded, patch))

    def faces(self, inputs: TrainingInputs) -> dict[str, FacePictures]:
        """The `photo`s and the `style` pictures that show a face, and where it is; errors as those of `batches`."""
        landmarks = FaceLandmarks(inputs.reader, inputs.runtime.device)
        return {"photo": face_photos(inputs, landmarks), "style": face_styles(inputs, landmarks)}

    def _check_size(self, height: int, width: int) -> None:
        """Refuse photos that are not square, or too small for the networks."""
        least = 2 * SMALLEST if self.generator == LIGHT else SMALLEST  # a batch norm wants more than one place
        if height != width or height < least or height % SMALLEST:
            problem = f"{width}x{height} px photos do not fit the generator {self.generator}"
            raise ConfigError("data.size", problem, f"Use squares of {least} px or more, a multiple of {SMALLEST}")
        if height >> self.discriminator_layers < LEAST_MAP:
            key, problem = "pair.translator.discriminator_layers", f"{self.discriminator_layers} leave nothing of"
            raise ConfigError(key, f"{problem} {height} px", "Choose fewer, or a larger data.size")

    def sets(self, inputs: TrainingInputs, *found: FacePictures) -> list[FaceSet]:
        """The pictures that were `found`, read as they are asked for."""
        allowance = Allowance()
        return [FaceSet.of(inputs.data, one, inputs.runtime.workers, allowance) for one in found]

    def task(self, size: int, train: Train, device: str = "cpu") -> AlignedTask:
        """The task for pictures of `size` px on `device`; its weights are drawn from `train.seed`.

        Raises:
            TristyleError: the perceptual network's file is missing or damaged.
        """
        perceptual = load_perceptual(self.perceptual, device) if self.weights.perceptual else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            return AlignedTask(self, size, train, perceptual)

    def network(self, task: Task) -> nn.Module:
        """The averaged photo -> style generator: the invariant branch."""
        assert isinstance(task, AlignedTask)
        return task.ema.eval()

    def painter(self, network: nn.Module, device: str) -> Painter:
        """Paints by that generator alone."""
        return translator_painter(network, device)
