"""The training of two aligned generators: branches, discriminators and losses; see `stages/pair/tps/translator.py`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.images import grid
from stages.core.settings import Train
from stages.core.tensors import to_uint8
from stages.metrics.backbones import Lpips
from stages.metrics.pixel import head_iou
from stages.networks import tps
from stages.networks.aligned import Painting, PatchDiscriminator, Warp, Warpable, painted, translator_network
from stages.networks.mobile import normalised_together, statistics_kept
from stages.pair.tps.batches import REDUCE, REGIONS, region_grid
from stages.training import losses
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Phase, Task, Update
from stages.training.precision import autocast

if TYPE_CHECKING:
    from stages.pair.tps.translator import TpsTranslator

DOMAINS = ("style", "photo")


class Layout:
    """Takes maps of one picture to another's layout: a `Warp`.

    Args:
        coarse: where each cell of the new layout lies in the old one, [N, h + 2, w + 2, 2].
        size: side of the pictures, px.
    """

    def __init__(self, coarse: Tensor, size: int) -> None:
        self.coarse, self.size = coarse.float(), size
        self._grids: dict[int, Tensor] = {}

    def __call__(self, maps: Tensor) -> Tensor:
        """[N, C, h, w], a quarter of the size or more."""
        factor = maps.shape[-1] * REDUCE // self.size
        if factor not in self._grids:
            self._grids[factor] = tps.refined(self.coarse, factor)
        return tps.sample(maps, self._grids[factor])


class AlignedTask(Task):
    """Two generators, a discriminator of each domain, four of the face's regions, and the averaged generator.

    A batch is one of `stages.pair.tps.batches.aligned_batches`; without alignment one of `unpaired_batches`.
    """

    def __init__(self, settings: TpsTranslator, size: int, train: Train, perceptual: Lpips | None) -> None:
        super().__init__()
        self.settings, self.weights, self.size = settings, settings.weights, size
        make = partial(translator_network, settings.generator, settings.mask_head)
        self.to_style, self.to_photo = make(), make()
        self.ema = copy.deepcopy(self.to_style).requires_grad_(False)
        judge = partial(PatchDiscriminator, settings.discriminator_width, max_width=settings.discriminator_max_width)
        self.discriminators = nn.ModuleDict({domain: judge(settings.discriminator_layers) for domain in DOMAINS})
        self.region_discriminators = nn.ModuleDict({name: judge(1) for name in REGIONS if settings.weights.local})
        self.to(memory_format=torch.channels_last)

        painters = [*self.to_style.parameters(), *self.to_photo.parameters()]
        others = [*self.discriminators.parameters(), *self.region_discriminators.parameters()]
        self.phases = [
            Phase("generator", painters, _adam(painters, train.lr)),
            Phase("discriminator", others, _adam(others, train.lr * settings.discriminator_lr)),
        ]
        self._perceptual = [perceptual] if perceptual is not None else []  # a list: neither trained nor kept
        self._shown: dict[str, Tensor] = {}

    # ---------------------------------------------------------------------------------------------------- the branches

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Weighted terms of one phase; the generators step first and leave their pictures for the discriminators."""
        if phase == "discriminator":
            return self._discriminator_losses(update)
        with self._computing(batch["photo"].device, update):
            return self._generator_losses(batch, update)

    def moved_buffers(self, phase: str) -> list[Tensor]:
        """Spectral norms, which either phase moves, and the generators' batch statistics."""
        moved = [*self.discriminators.buffers(), *self.region_discriminators.buffers()]
        if phase == "generator":
            moved += [*self.to_style.buffers(), *self.to_photo.buffers()]
        return [value for value in moved if value.is_floating_point()]

    @contextmanager
    def _computing(self, device: torch.device, update: Update) -> Iterator[None]:
        """In the settings' precision, and with the batch statistics of all processes."""
        with ExitStack() as stack:
            stack.enter_context(autocast(self.settings.precision, device))
            for generator in (self.to_style, self.to_photo):
                stack.enter_context(normalised_together(generator, update.together))
            yield

    def _generator_losses(self, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Both directions in each term."""
        batch = {
            name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for name, value in batch.items()
        }
        splines = DOMAINS if self.settings.align else ()
        layouts = {domain: Layout(batch[f"to_{domain}"], self.size) for domain in splines}
        plain, aligned = {}, {}
        for domain, source, generator in self._directions():
            plain[domain], aligned[domain] = self._paint(generator, batch[source], layouts.get(domain))
        again: dict[str, Tensor] = {}
        if self._cycles:  # the running statistics leave out what was painted
            with statistics_kept(self.to_photo), statistics_kept(self.to_style):
                again = {"photo": self.to_photo(plain["style"].image), "style": self.to_style(plain["photo"].image)}

        # what the discriminators see: pairs of the real and the generated
        seen = self._contests(batch, plain, aligned, layouts, update)
        terms = {
            f"adversarial_{name}": weight * losses.lsgan(self._discriminator(name)(fake).float(), 1.0)
            for name, (weight, _, fake) in seen.items()
        }
        update.memory["seen"] = {name: (weight, real, fake.detach()) for name, (weight, real, fake) in seen.items()}
        terms |= self._cycle_terms(batch, again) | self._form_terms(batch, plain, aligned, layouts)
        if layouts:  # only logged: whether pictures and splines belong together
            moved = layouts["photo"](batch["style_mask"])
            terms["_folded"] = batch["folded"].mean()
            terms["_overlap"] = head_iou(moved, batch["photo_mask"]).nan_to_num(1.0).mean()
        self._note(batch, plain, aligned, seen)
        return terms

    def _directions(self) -> Iterator[tuple[str, str, nn.Module]]:
        """Target domain, source domain, and the generator between them."""
        yield "style", "photo", self.to_style
        yield "photo", "style", self.to_photo

    @property
    def _cycles(self) -> bool:
        return bool(self.weights.cycle or self.weights.perceptual)

    def _paint(self, generator: nn.Module, source: Tensor, layout: Warp | None) -> tuple[Painting, Painting | None]:
        """The result in its source's layout, and that of its warped features in the other picture's.

        The first alone moves the batch norms' running statistics, since afterwards it alone is computed.
        """
        halves: Warpable = generator  # type: ignore[assignment]
        features = halves.encode(source)
        plain = painted(halves, source, features)
        if layout is None or not (self.weights.warped or self.weights.deformation):
            return plain, None
        with statistics_kept(generator):
            return plain, painted(halves, source, features, layout)

    def _contests(
        self,
        batch: dict[str, Tensor],
        plain: dict[str, Painting],
        aligned: dict[str, Painting | None],
        layouts: dict[str, Layout],
        update: Update,
    ) -> dict[str, tuple[float, Tensor, Tensor]]:
        """Name of a contest -> its weight, the real pictures and the generated ones.

        The warped branch contests the style picture itself, the invariant branch the style picture in the portrait's
        layout (or, without alignment, as it is). With `composite` heads stand on one random colour.
        """
        device, count = batch["photo"].device, len(batch["photo"])
        colour = update.draws.own(lambda n: torch.rand(n, 3, 1, 1, device=device), count) * 2 - 1

        def head(picture: Tensor, mask: Tensor) -> Tensor:
            return mask * picture + (1 - mask) * colour if self.settings.composite else picture

        found: dict[str, tuple[float, Tensor, Tensor]] = {}
        for domain, source, _ in self._directions():
            # `layouts[domain]` leads from the source's layout to the target picture's; `layouts[source]` back
            real, real_mask, own_mask = batch[domain], batch[f"{domain}_mask"], batch[f"{source}_mask"]
            warped = aligned[domain]
            if warped is not None and self.weights.warped:
                fake = head(warped.image, layouts[domain](own_mask))
                found[f"warped_{domain}"] = (self.weights.warped, head(real, real_mask), fake)
            if self.weights.invariant:
                moved = (real, real_mask)
                if self.settings.align:
                    moved = (layouts[source](real), layouts[source](real_mask))
                fake = head(plain[domain].image, own_mask)
                found[f"invariant_{domain}"] = (self.weights.invariant, head(*moved), fake)
        if self.weights.local:
            found |= self._local_contests(batch, plain["style"].image)
        return found

    def _local_contests(self, batch: dict[str, Tensor], image: Tensor) -> dict[str, tuple[float, Tensor, Tensor]]:
        """Eyes, nose and mouth of the unaligned result beside the bank's patches, aligned to them."""
        grids = region_grid(batch["regions"], batch["patches"].shape[-1])
        weight = self.weights.local / len(REGIONS)
        return {
            name: (weight, batch["patches"][:, place], tps.sample(image, grids[:, place]))
            for place, name in enumerate(REGIONS)
        }

    def _discriminator(self, contest: str) -> nn.Module:
        return (
            self.region_discriminators[contest]
            if contest in REGIONS
            else self.discriminators[contest.partition("_")[2]]
        )

    def _cycle_terms(self, batch: dict[str, Tensor], again: dict[str, Tensor]) -> dict[str, Tensor]:
        """L1 and the frozen perceptual distance between a picture and what comes back of it."""
        pairs = [(found.float(), batch[domain]) for domain, found in again.items()]
        terms: dict[str, Tensor] = {}
        if self.weights.cycle:
            terms["cycle"] = self.weights.cycle * _total([(found - given).abs().mean() for found, given in pairs])
        if self.weights.perceptual:
            [backbone] = self._perceptual
            with torch.autocast(batch["photo"].device.type, enabled=False):
                distances = [backbone.distance(found, given).mean() for found, given in pairs]
            terms["perceptual"] = self.weights.perceptual * _total(distances)
        return terms

    def _form_terms(
        self,
        batch: dict[str, Tensor],
        plain: dict[str, Painting],
        aligned: dict[str, Painting | None],
        layouts: dict[str, Layout],
    ) -> dict[str, Tensor]:
        """Deformation invariance, masks, background and grid."""
        weights, terms = self.weights, dict[str, Tensor]()
        kept: dict[str, list[Tensor]] = {"deformation": [], "mask": [], "mask_tv": [], "background": [], "grid": []}
        for domain, source, _ in self._directions():
            made, other, own_mask = plain[domain], aligned[domain], batch[f"{source}_mask"]
            if weights.deformation and other is not None:
                kept["deformation"].append((layouts[domain](made.image) - other.image).abs().float().mean())
            if made.mask is not None:
                kept["mask"].append(losses.mask_supervision(made.mask.float(), own_mask))
                kept["mask_tv"].append(losses.total_variation(made.mask.float()))
            kept["background"].append(losses.regional_l1(made.image.float(), batch[source], 1 - own_mask))
            if weights.grid:
                kept["grid"].append(losses.grid_error(made.image.float(), batch[source]))

        # both directions in one term; the background is logged without a weight, too
        for name, values in kept.items():
            weight = getattr(weights, name)
            if values and weight:
                terms[name] = weight * _total(values)
        if not weights.background:
            terms["_background"] = _total(kept["background"])
        return terms

    def _discriminator_losses(self, update: Update) -> dict[str, Tensor]:
        """Real to 1 and generated to 0 in every contest; the two share a pass."""
        terms: dict[str, Tensor] = {}
        for name, (weight, real, fake) in update.memory["seen"].items():
            with autocast(self.settings.precision, real.device):
                real_logit, fake_logit = self._discriminator(name)(torch.cat([real, fake])).float().chunk(2)
            terms[name] = weight * (losses.lsgan(real_logit, 1.0) + losses.lsgan(fake_logit, 0.0))
        return terms

    # ---------------------------------------------------------------------------------------------------------- around

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the averaged generator."""
        decay = early_decay(images / batch, self.settings.ema, lead=1)
        ema_update(self.ema, self.to_style, decay)
        return {"ema_decay": decay}

    def lr_factor(self, images: int, total: int) -> float:
        """Constant for the first half, then linearly to 0 (CycleGAN's 100 + 100 epochs)."""
        return min(1.0, 2.0 * (total - images) / total)

    def _note(
        self,
        batch: dict[str, Tensor],
        plain: dict[str, Painting],
        aligned: dict[str, Painting | None],
        seen: dict[str, tuple[float, Tensor, Tensor]],
    ) -> None:
        """Keep the last pictures for the preview."""
        warped = aligned["style"]
        self._shown = {
            "photo": batch["photo"],
            "style": batch["style"],
            "contest": seen["invariant_style"][1] if "invariant_style" in seen else batch["style"],
            "unaligned": plain["style"].image.detach(),
            "aligned": plain["style"].image.detach() if warped is None else warped.image.detach(),
        }

    def preview(self) -> dict[str, np.ndarray]:
        """Photo, style picture, what it is judged beside, unaligned and aligned result, and the average's result."""
        if not self._shown:
            return {}
        average = self.ema.eval()(self._shown["photo"])
        rows = [*self._shown.values(), average]
        return {"alignment": grid(to_uint8(torch.cat([row.float() for row in rows])), columns=len(average))}


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


def _adam(params: list[nn.Parameter], lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(params, lr=lr, betas=(0.5, 0.999), fused=True)
