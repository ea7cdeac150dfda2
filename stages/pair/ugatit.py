"""U-GAT-IT as a translator: training in two directions, with the constraints that keep the background and the person.

Objective of Kim et al. (arXiv 1907.10830, eq. 3-7): least-squares adversarial losses on patches and attention logits at
two scales, cycle, identity and attention (CAM) classification. Added here, each switched by a weight:

  * mask head: out = m R + (1 - m) x; m is supervised by the head mask and smoothed (total variation);
  * ``composite``: the discriminators see heads alone, on one random colour that the real and generated pictures of an
    update share. A generated picture carries the mask of its *source*. Weighting the discriminator's logits instead
    would leave four fifths of the gradient on the background, because its receptive fields are larger than the head;
  * background: L1 to the input outside the head, normalised by area (the region variant, without a mask head);
    likewise the cycle counts what lies outside the head less (``background_cycle``);
  * edge promotion (CartoonGAN, CVPR 2018, eq. 3): the discriminators of the style also refuse its pictures with their
    edges blurred, so that a soft outline does not pass for the style;
  * face identity: 1 - cosine of a recogniser's embeddings of photo and translation, cut by one crop (the photo's);
  * latent: the style generator and its source paint the same latent as a face before and after. Such a pair is not a
    photo, but it says what becomes of skin, hair and eyes: L1 on its head steers the photo -> style generator, and the
    adversarial loss corrects it on real photos.

What differs from the published training: the generators step first, and the discriminators reuse their pictures,
detached (three passes of each generator an update instead of four). Real and generated pictures share one pass of the
discriminators. An average of the generator's weights writes the pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.images import grid
from stages.core.settings import ConfigError, Train, choice, number
from stages.core.tensors import to_tensor, to_uint8
from stages.faces.recognise import Recogniser, open_recogniser
from stages.networks.ugatit import CamDiscriminator, ResnetGenerator, clip_rho, discriminator_layers
from stages.pair.batches import style_set_batches
from stages.pair.photo_sets import CHUNK
from stages.pair.translator import Painter, TrainingInputs, Translation
from stages.training import losses
from stages.training.draws import Draws
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Batches, Phase, Task, Update
from stages.training.precision import PRECISIONS, autocast

CACHED = CHUNK * 64**2  # pixels of a forward pass on a CPU: more of them fall out of its cache
FULL_POOL = 16  # cells a side that a full generator's modulation sees: the published 64 at 256 px, over four


@dataclass(kw_only=True)
class TranslatorWeights:
    """Weights of the loss terms; 0 switches a term off.

    The defaults are the recipe's. Published: adversarial 1, cycle 10, identity_mapping 10, cam 1000 and nothing else.

    Args:
        adversarial: least-squares losses of patches and attention logits.
        cycle: L1 between a picture and what comes back of it.
        identity_mapping: a picture of the target domain stays as it is (the published identity loss).
        cam: attention classification. Small pictures learn the colours sooner with less than published.
        mask: cross-entropy of the generators' masks to the head mask.
        mask_tv: total variation of the generators' masks.
        background: L1 to the input outside the head: 5 freer .. 50 stricter.
        latent: L1 between what the style generator and its source make of one latent.
        face_identity: 1 - cosine of the recogniser's embeddings.
        edge_promotion: share of the edge-blurred style pictures in the discriminators' loss.
    """

    adversarial: float = 0.3
    cycle: float = 5.0
    identity_mapping: float = 5.0
    cam: float = 1.0
    mask: float = 3.0
    mask_tv: float = 0.2
    background: float = 0.0
    latent: float = 50.0
    face_identity: float = 1.0
    edge_promotion: float = 0.0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            number(key, value, 0)


@dataclass(kw_only=True)
class UgatitTranslator:
    """U-GAT-IT: sizes of the networks, the two switches of the variants, and the weights. A `Translator`.

    Args:
        width: channels of the generators' first layer.
        blocks: residual blocks on each side of the generators' attention.
        light: the generators' modulation follows from pooled features. False, the published "full" version: from the
            map, averaged to FULL_POOL cells a side, so that the weights do not depend on the pictures' size; 256 times
            the weights in it.
        discriminator_width: channels of the discriminators' first layer.
        discriminator_max_width: the most channels of any discriminator layer.
        discriminator_lr: factor on the discriminators' learning rate.
        mask_head: the generators also say where they paint, and the input shows through elsewhere.
        composite: the discriminators see heads on a random colour instead of whole pictures.
        background_cycle: weight in the cycle of what lies outside the head, beside 1 within it; 1 as published.
        balance: the name of the balance between identity and style that the weights were taken from, for reports.
        weights: of the loss terms.
        warm_up: share of the training in which the photo -> style generator learns from the latent term and the masks
            alone. Such an update costs a fifth of a whole one; without latent pairs there is no warm-up.
        face_identity_from: share of the training after which the `face_identity` term counts. Earlier there is no face
            to recognise, and the term pulls the wrong way.
        recogniser: `reader` (the shipped face reader) or the path of a recogniser's weights (stages.faces.recognise).
        ema: decay of the averaged generator per update (it rises towards this value over the first updates).
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the processor multiplies it natively.
    """

    width: int = 16
    blocks: int = 4
    light: bool = True
    discriminator_width: int = 16
    discriminator_max_width: int = 128
    discriminator_lr: float = 1.0
    mask_head: bool = True
    composite: bool = True
    background_cycle: float = 0.5
    balance: str | None = None
    weights: TranslatorWeights = field(default_factory=TranslatorWeights)
    warm_up: float = 0.65
    face_identity_from: float = 0.65
    recogniser: str = "reader"
    ema: float = 0.995
    precision: str = "auto"

    def __post_init__(self) -> None:
        number("width", self.width, 2, 256, integer=True)
        number("blocks", self.blocks, 1, 16, integer=True)
        number("discriminator_width", self.discriminator_width, 2, 256, integer=True)
        number("discriminator_max_width", self.discriminator_max_width, self.discriminator_width, 4096, integer=True)
        number("discriminator_lr", self.discriminator_lr, 0, 100, open_low=True)
        number("background_cycle", self.background_cycle, 0, 1)
        number("warm_up", self.warm_up, 0, 1)
        number("face_identity_from", self.face_identity_from, 0, 1)
        number("ema", self.ema, 0, 0.99999)
        choice("precision", self.precision, PRECISIONS)
        if not self.mask_head and (self.weights.mask or self.weights.mask_tv):
            raise ConfigError("weights.mask", "has no mask head to act on", "Set mask_head=true")

    def files(self) -> dict[str, Path]:
        """The recogniser's weights where they are not the shipped reader's, by their key."""
        own = self.weights.face_identity and self.recogniser != "reader"
        return {"translator.recogniser": Path(self.recogniser)} if own else {}

    def batches(self, inputs: TrainingInputs, seed: int) -> Batches:
        """Photos and style pictures in independent orders, and the views of them that a term asks for.

        Raises:
            TristyleError: pictures smaller than 32 px, or photos and style pictures of different sizes.
        """
        weights = self.weights
        return style_set_batches(inputs, seed, latent=bool(weights.latent), blurred=bool(weights.edge_promotion))

    def task(self, size: int, train: Train, device: str = "cpu") -> TranslationTask:
        """The task for pictures of `size` px on `device`; its weights are drawn from `train.seed`.

        Raises:
            TristyleError: the recogniser's weights are those of something else.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            return TranslationTask(self, size, train, device)

    def network(self, task: Task) -> nn.Module:
        """The averaged photo -> style generator."""
        assert isinstance(task, TranslationTask)
        return task.ema.eval()

    def painter(self, network: nn.Module, device: str) -> Painter:
        """Paints by a generator."""
        return translator_painter(network, device)


class TranslationTask(Task):
    """Two generators, four discriminators and the averaged photo -> style generator; see the module's text.

    A batch holds `photo`, `style` [N, 3, H, W] in [-1, 1] and `photo_mask`, `style_mask` [N, 1, H, W] in [0, 1]; for
    the latent term also `source` [N, 3, H, W], the same faces as `style` before the transfer.
    """

    def __init__(self, translator: UgatitTranslator, size: int, train: Train, device: str) -> None:
        super().__init__()
        self.translator, self.weights = translator, translator.weights
        self.to_style, self.to_photo = _generator(translator, size), _generator(translator, size)
        self.ema = copy.deepcopy(self.to_style).requires_grad_(False)
        self.style_discriminators, self.photo_discriminators = _scales(translator, size), _scales(translator, size)
        self.to(memory_format=torch.channels_last)  # twice as fast as NCHW: the norms here do not mind the layout

        painters = [*self.to_style.parameters(), *self.to_photo.parameters()]
        discriminators = [*self.style_discriminators.parameters(), *self.photo_discriminators.parameters()]
        self.phases = [
            Phase("generator", painters, _adam(painters, train.lr)),
            Phase("discriminator", discriminators, _adam(discriminators, train.lr * translator.discriminator_lr)),
        ]

        # a list, so that the recogniser is neither trained nor part of the training state
        self.warm_up_images = translator.warm_up * train.images
        self.face_identity_images = translator.face_identity_from * train.images
        self._recognisers: list[Recogniser] = []
        if translator.weights.face_identity:
            self._recognisers.append(open_recogniser(translator.recogniser, device))
        self._shown: dict[str, Tensor] = {}  # the last pictures, for the preview

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Weighted terms of one phase.

        The generators step first and leave their pictures in the update's memory for the discriminators. In the warm-up
        there are no discriminators, and one generator learns alone.
        """
        batch = {name: value.contiguous(memory_format=torch.channels_last) for name, value in batch.items()}
        if "source" in batch and self.weights.latent and update.images < self.warm_up_images:
            return self._warm_up_losses(batch) if phase == "generator" else {}
        if phase == "discriminator":
            return self._discriminator_losses(update.memory["seen"])
        return self._generator_losses(batch, update)

    def moved_buffers(self, phase: str) -> list[Tensor]:
        """The discriminators' spectral norms, which their use moves in either phase."""
        return [*self.style_discriminators.buffers(), *self.photo_discriminators.buffers()]

    def _warm_up_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The photo -> style generator on latent pairs; its mask or the background on both sources and photos."""
        style, style_mask, count = batch["style"], batch["style_mask"], len(batch["style"])
        with autocast(self.translator.precision, style.device):
            styled = self.to_style(torch.cat([batch["source"], batch["photo"]]))
        terms = {"latent": self.weights.latent * losses.regional_l1(styled.image[:count], style, style_mask)}
        if styled.mask is not None:
            given = torch.cat([style_mask, batch["photo_mask"]])
            terms["mask"] = self.weights.mask * losses.mask_supervision(styled.mask, given)
            terms["mask_tv"] = self.weights.mask_tv * losses.total_variation(styled.mask)
        if self.weights.background:
            inputs = torch.cat([batch["source"], batch["photo"]])
            outside = 1 - torch.cat([style_mask, batch["photo_mask"]])
            terms["background"] = self.weights.background * losses.regional_l1(styled.image, inputs, outside)
        return terms

    def _generator_losses(self, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The generators' terms, both directions in each (eq. 3-7 and the additions of the module's text)."""
        photo, style, photo_mask, style_mask = (batch[key] for key in ("photo", "style", "photo_mask", "style_mask"))
        count, weights = len(photo), self.weights

        # one pass of each generator: its source, its target domain (identity mapping) and the latent pairs' sources
        with autocast(self.translator.precision, photo.device):
            inputs = [photo, style] + ([batch["source"]] if weights.latent and "source" in batch else [])
            styled, photoed = self.to_style(torch.cat(inputs)), self.to_photo(torch.cat([style, photo]))
            fake_style, fake_photo = styled.image[:count], photoed.image[:count]
            again_photo, again_style = self.to_photo(fake_style).image, self.to_style(fake_photo).image

            seen = self._discriminator_inputs(batch, fake_style, fake_photo, update.draws)
            terms = {
                f"adversarial_{domain}": weights.adversarial * self._adversarial(domain, pictures[1])
                for domain, pictures in seen.items()
            }
        update.memory["seen"] = {name: [picture.detach() for picture in pictures] for name, pictures in seen.items()}

        # what is published
        terms["cycle"] = weights.cycle * (
            losses.regional_l1(again_photo, photo, self._cycle_weights(photo_mask))
            + losses.regional_l1(again_style, style, self._cycle_weights(style_mask))
        )
        terms["identity_mapping"] = weights.identity_mapping * (
            (styled.image[count : 2 * count] - style).abs().mean() + (photoed.image[count:] - photo).abs().mean()
        )
        terms["cam"] = weights.cam * _total(
            losses.cam_classification(logit.float(), source)
            for out in (styled, photoed)
            for logit, source in ((out.cam_logit[:count], True), (out.cam_logit[count : 2 * count], False))
        )

        # what is added: the latent pairs, the masks, the person and the background
        if len(inputs) > 2:
            terms["latent"] = weights.latent * losses.regional_l1(styled.image[2 * count :], style, style_mask)
        if styled.mask is not None and photoed.mask is not None:
            masks = ((styled.mask[:count], photo_mask), (photoed.mask[:count], style_mask))
            terms["mask"] = weights.mask * _total(losses.mask_supervision(m, given) for m, given in masks)
            terms["mask_tv"] = weights.mask_tv * _total(losses.total_variation(m) for m, _ in masks)
        if weights.face_identity and update.images >= self.face_identity_images:
            terms["face_identity"] = weights.face_identity * self._face_identity(photo, fake_style, photo_mask)
        outside = losses.regional_l1(fake_style, photo, 1 - photo_mask)
        outside = outside + losses.regional_l1(fake_photo, style, 1 - style_mask)
        # without a weight it is logged alone
        terms["background" if weights.background else "_background"] = (weights.background or 1.0) * outside
        self._shown = {"photo": photo, "style": fake_style.detach(), "again": again_photo.detach()}
        return terms

    def _cycle_weights(self, mask: Tensor) -> Tensor:
        """Where the cycle counts, [N, 1, H, W]: 1 on the head, `background_cycle` beside it."""
        return self.translator.background_cycle + (1 - self.translator.background_cycle) * mask

    def _face_identity(self, photo: Tensor, fake_style: Tensor, mask: Tensor) -> Tensor:
        """How much of the person is lost: 1 - cosine of the recogniser's embeddings, by the photo's crop."""
        [recogniser] = self._recognisers
        return (1 - recogniser.cosine(photo, fake_style, mask)).mean()

    def _discriminator_inputs(
        self, batch: dict[str, Tensor], fake_style: Tensor, fake_photo: Tensor, draws: Draws
    ) -> dict[str, list[Tensor]]:
        """What each domain's discriminators see: real and generated pictures, and for the style edge-blurred ones.

        With `composite` heads on one random colour; a generated picture carries its source's mask.
        """
        photo_mask, style_mask = batch["photo_mask"], batch["style_mask"]
        seen = {
            "style": [(batch["style"], style_mask), (fake_style, photo_mask)],
            "photo": [(batch["photo"], photo_mask), (fake_photo, style_mask)],
        }
        if self.weights.edge_promotion:
            seen["style"].append((batch["style_blurred"], style_mask))
        if not self.translator.composite:
            return {domain: [picture for picture, _ in pairs] for domain, pairs in seen.items()}
        device = fake_style.device
        colour = draws.own(lambda n: torch.rand(n, 3, 1, 1, device=device), len(fake_style)) * 2 - 1
        return {
            domain: [mask * picture + (1 - mask) * colour for picture, mask in pairs] for domain, pairs in seen.items()
        }

    def _adversarial(self, domain: str, generated: Tensor) -> Tensor:
        """The generators' adversarial loss: patches and attention at both scales."""
        outputs = [discriminator(generated) for discriminator in self._discriminators(domain)]
        return _total(losses.lsgan(logit.float(), 1.0) for out in outputs for logit in (out.logit, out.cam_logit))

    def _discriminator_losses(self, seen: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        """The discriminators' loss: real to 1; generated, and edge-blurred where there are any, to 0."""
        weights = (1.0, 1.0, self.weights.edge_promotion)
        terms: dict[str, Tensor] = {}
        for domain, pictures in seen.items():
            # real and generated pictures share one pass
            with autocast(self.translator.precision, pictures[0].device):
                outputs = [discriminator(torch.cat(pictures)) for discriminator in self._discriminators(domain)]
            count = len(pictures[0])
            parts = [logits.float().split(count) for out in outputs for logits in (out.logit, out.cam_logit)]
            terms[domain] = self.weights.adversarial * _total(
                weight * losses.lsgan(logits, float(place == 0))
                for part in parts
                for place, (logits, weight) in enumerate(zip(part, weights, strict=False))
            )
        return terms

    def _discriminators(self, domain: str) -> nn.ModuleList:
        return self.style_discriminators if domain == "style" else self.photo_discriminators

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Keep every rho in [0, 1] and move the averaged generator."""
        clip_rho(self.to_style)
        clip_rho(self.to_photo)
        decay = early_decay(images / batch, self.translator.ema, lead=1)
        ema_update(self.ema, self.to_style, decay)
        return {"ema_decay": decay}

    def lr_factor(self, images: int, total: int) -> float:
        """Constant for the first half, then linearly to 0 (as published)."""
        return min(1.0, 2.0 * (total - images) / total)

    def preview(self) -> dict[str, np.ndarray]:
        """The last photos, the average's pictures of them, and the cycle back."""
        if not self._shown:
            return {}
        rows = [self._shown["photo"], self.ema(self._shown["photo"]).image, self._shown["style"], self._shown["again"]]
        return {"photo_style_cycle": grid(to_uint8(torch.cat(rows)), columns=len(rows[0]))}


def _generator(translator: UgatitTranslator, size: int) -> ResnetGenerator:
    pool = None if translator.light else FULL_POOL
    arguments = (translator.width, translator.blocks, size, translator.light, translator.mask_head)
    return ResnetGenerator(*arguments, full_pool=pool)


def _scales(translator: UgatitTranslator, size: int) -> nn.ModuleList:
    """The discriminators of one domain: the global and the local one."""
    depths = discriminator_layers(size), min(5, discriminator_layers(size) - 1)
    width, most = translator.discriminator_width, translator.discriminator_max_width
    return nn.ModuleList(CamDiscriminator(width, depth, most) for depth in depths)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _adam(params: list[nn.Parameter], lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(params, lr=lr, betas=(0.5, 0.999), weight_decay=1e-4, fused=True)


# ------------------------------------------------------------------------------------------------------- painting


def translator_painter(generator: nn.Module, device: str) -> Painter:
    """Paints by a generator in eval mode; threads may share it.

    It is a :class:`stages.networks.ugatit.ResnetGenerator`, or a network whose `compute` gives picture and alpha.

    On a CPU a forward pass takes as many pictures as its cache likes, else CHUNK; an accelerator serves one thread at
    a time, so that its memory does not depend on their number.
    """
    generator.to(memory_format=torch.channels_last)
    turn = nullcontext() if device == "cpu" else Lock()

    @torch.inference_mode()
    def paint(photos: np.ndarray) -> Translation:
        raw: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        heat: list[np.ndarray] = []
        step = max(1, min(CHUNK, CACHED // photos[0, ..., 0].size)) if device == "cpu" else CHUNK
        for i in range(0, len(photos), step):
            batch = to_tensor(photos[i : i + step]).to(device, memory_format=torch.channels_last)
            with turn:
                image, mask, heatmap = _painting(generator, batch)
                raw.append(to_uint8(image))
                if heatmap is not None:
                    heat.append(_bytes(_stretched(heatmap)))
                if mask is not None:
                    masks.append(_bytes(mask))
        where, looked = (np.concatenate(parts) if parts else None for parts in (masks, heat))
        return Translation(np.concatenate(raw), where, looked)

    return paint


def _painting(generator: nn.Module, photos: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Picture, mask and attention of photos [N, 3, H, W], as far as the generator gives them."""
    if isinstance(generator, ResnetGenerator):
        out = generator(photos)
        return out.image, out.mask, out.heatmap
    image, *alpha = generator.compute(photos)  # type: ignore[operator]
    return image, alpha[0] if alpha else None, None


def _stretched(maps: Tensor) -> Tensor:
    """Each map of [N, 1, h, w] from 0 to 1 by its own least and greatest value."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-6)


def _bytes(maps: Tensor) -> np.ndarray:
    """[N, 1, h, w] in [0, 1] -> uint8 [N, h, w]."""
    return maps[:, 0].float().mul(255).round().to(torch.uint8).cpu().numpy()
