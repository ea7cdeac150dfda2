"""StyleGAN2-ADA training, from scratch or transferred from a generator and discriminator of a related domain.

Source: arXiv 1912.04958 (losses, lazy regularisation, appendix B), arXiv 2006.06676 (ADA: sec. 3, transfer: sec. 4.2),
arXiv 2002.10964 (freeze-D), arXiv 2104.06820 (distance consistency). What differs from the official training: ADA's p
is capped, the discriminator's fakes are the ones the generator step has just made, and convolutions run in bfloat16
where the CPU multiplies it in hardware.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.images import grid
from stages.core.settings import ConfigError, Train, TristyleError, choice, number
from stages.core.tensors import to_uint8
from stages.core.weights import save_network
from stages.networks.augment import PIPES, AugmentPipe, softened
from stages.networks.stylegan2 import Discriminator, Generator, MappingNetwork
from stages.training.draws import Draws
from stages.training.ema import ema_update, half_life_decay
from stages.training.fit import Phase, Task, Update
from stages.training.losses import (
    LOGISTIC_CHANCE,
    discriminator_logistic,
    distance_consistency,
    generator_logistic,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)
from stages.training.precision import PRECISIONS, compute_dtype

COMPARED = 4  # samples of an update that consistency compares, as published; its cost is a drawing of them


@dataclass(kw_only=True)
class Recipe:
    """What a StyleGAN2 training weighs, beside its length and learning rate.

    Args:
        r1_gamma: weight of R1 (the loss is gamma / 2 times the squared gradient); 0 leaves it out.
        r1_every: updates between two R1 steps (lazy regularisation; the loss is multiplied accordingly).
        pl_weight: weight of path length regularisation; 0 leaves it out.
        pl_every: updates between two path length steps.
        mixing: probability that a batch mixes two styles.
        noise: feed the generator its per-pixel noise. Off, its strengths are 0: small generators of pictures without
            stochastic detail otherwise learn to draw eyes and outlines with it, the same ones in every face.
        soften: px; the discriminator sees real pictures through a Gaussian of this deviation, see `softened`.
        ema_images: half-life of the averaged generator, in images.
        ema_ramp: the half-life is at most this share of the images seen; null: no ramp (for transfer).
        freeze_d: discriminator layers kept fixed, counted from the image: fromrgb, then conv0, conv1 and skip of each
            block (as the official ``--freezed``). FreezeG and FreezeSG count the other way round: their number is of
            the blocks that are *trained*, from the highest resolution (generator) or the output (discriminator).
        freeze_g: the generator's blocks up to and including this resolution in px are kept fixed, toRGB with them; 0
            none. What a face's coarse layers know of poses then stays the source's.
        freeze_mapping: keep the mapping network and its mean w fixed.
        consistency: weight of the loss that keeps who resembles whom among samples as it was in the generator that the
            training started from; published: 1000. 0 leaves it out.
        ladder: snapshots of the averaged generator to keep along the way, each after twice the images of the one
            before; the last is the end.
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the device multiplies it in hardware.
    """

    r1_gamma: float = 1.0
    r1_every: int = 16
    pl_weight: float = 2.0
    pl_every: int = 4
    mixing: float = 0.9
    noise: bool = False
    soften: float = 0.0
    ema_images: float = 1000
    ema_ramp: float | None = None
    freeze_d: int = 0
    freeze_g: int = 0
    freeze_mapping: bool = False
    consistency: float = 0.0
    ladder: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        number("r1_gamma", self.r1_gamma, 0, 1e4)
        number("r1_every", self.r1_every, 1, 1000, integer=True)
        number("pl_weight", self.pl_weight, 0, 1e4)
        number("pl_every", self.pl_every, 1, 1000, integer=True)
        number("mixing", self.mixing, 0, 1)
        number("soften", self.soften, 0, 4)
        number("ema_images", self.ema_images, 0)
        if self.ema_ramp is not None:
            number("ema_ramp", self.ema_ramp, 0, 1, open_low=True)

        # what stays fixed, and what the source still counts for
        number("freeze_d", self.freeze_d, 0, integer=True)
        number("freeze_g", self.freeze_g, 0, 1024, integer=True)
        if self.freeze_g & (self.freeze_g - 1) or self.freeze_g in (1, 2):
            raise ConfigError("freeze_g", f"{self.freeze_g} is not a block's resolution", "Give 0, 4, 8, 16, 32, ...")
        number("consistency", self.consistency, 0, 1e6)
        number("ladder", self.ladder, 0, 64, integer=True)
        choice("precision", self.precision, PRECISIONS)


@dataclass(kw_only=True)
class Ada:
    """Adaptive augmentation of what the discriminator sees.

    Args:
        pipe: which operations, a name in `stages.networks.augment.PIPES`.
        target: share by which real logits should be positive rather than negative; p rises above it, falls below it.
        p_start, p_max: probability of each operation at the start and at most (augmentations leak near 1).
        images: p moves from 0 to 1 in this many images at least.
        every: updates between two moves.
    """

    pipe: str = "portrait"
    target: float = 0.6
    p_start: float = 0.0
    p_max: float = 0.6
    images: float = 40_000
    every: int = 4

    def __post_init__(self) -> None:
        choice("pipe", self.pipe, PIPES)
        number("target", self.target, -1, 1)
        number("p_max", self.p_max, 0, 1)
        number("p_start", self.p_start, 0, self.p_max)
        number("images", self.images, 1)
        number("every", self.every, 1, 1000, integer=True)


def lazy_adam(params: list[nn.Parameter], lr: float, every: int | None) -> torch.optim.Adam:
    """Adam with betas (0, 0.99), corrected for a regulariser in every `every`-th update (1912.04958, appendix B)."""
    share = 1.0 if every is None else every / (every + 1)
    return torch.optim.Adam(params, lr=lr * share, betas=(0.0, 0.99**share), eps=1e-8)


@torch.no_grad()
def silence(generator: Generator) -> None:
    """Set every noise strength to 0."""
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.zero_()


def frozen_in_generator(name: str, recipe: Recipe) -> bool:
    """Whether the generator's parameter `name` stays fixed under `freeze_g` and `freeze_mapping`."""
    block = re.match(r"synthesis\.b(\d+)\.", name)
    return int(block.group(1)) <= recipe.freeze_g if block else recipe.freeze_mapping


def rungs(total: int, batch: int, count: int) -> list[int]:
    """Images seen at `count` snapshots that end with the training and halve towards its start, in whole updates."""
    last = -(-total // batch)
    updates = {max(round(last / 2**step), 1) for step in range(count)}
    return [update * batch for update in sorted(updates)]


@contextmanager
def output_of(block: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, the features [N, C, r, r] that a synthesis block has put out."""
    seen: list[Tensor] = []
    hook = block.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    try:
        yield seen
    finally:
        hook.remove()


class StyleGAN2(Task):
    """Generator, discriminator, averaged generator and augmentation of one training.

    Batches hold `images` [N, 3, R, R] in [-1, 1]. Micro-batches are whole groups of the discriminator's minibatch
    statistic; with `consistency` each compares samples of its own.

    Args:
        generator, discriminator: what to train, in place.
        lr: learning rate of both, before the correction for lazy regularisation.
        recipe: weights and pace.
        ada: adaptive augmentation; None for none.
        seed: of the previewed samples.
        ladder: folder of the snapshots; None keeps none.

    Attributes:
        ema: the averaged generator, which the training is for.

    Raises:
        TristyleError: everything is frozen.
    """

    pl_mean: Tensor
    sign_sum: Tensor
    sign_count: Tensor

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        lr: float,
        recipe: Recipe,
        ada: Ada | None,
        seed: int = 0,
        ladder: Path | None = None,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        if not recipe.noise:
            silence(generator)
        self.ema = copy.deepcopy(generator)
        # Part of the state: a training that goes on from an artifact is held to where the first one started.
        self.source = copy.deepcopy(generator).eval().requires_grad_(False) if recipe.consistency else None
        self.augment = AugmentPipe(ada.pipe if ada else "portrait")
        self.augment.p.fill_(ada.p_start if ada else 0.0)
        self.recipe, self.ada, self.seed, self.ladder = recipe, ada, seed, ladder
        self.register_buffer("pl_mean", torch.zeros([]))
        self.register_buffer("sign_sum", torch.zeros([]))
        self.register_buffer("sign_count", torch.zeros([]))
        self.phases = self._phases(lr)

    def _phases(self, lr: float) -> list[Phase]:
        r = self.recipe

        # What is trained.
        frozen = {id(p) for m in self.discriminator.layers_from_image()[: r.freeze_d] for p in m.parameters()}
        g_params = [p for name, p in self.generator.named_parameters() if not frozen_in_generator(name, r)]
        d_params = [p for p in self.discriminator.parameters() if id(p) not in frozen]
        for key, params in (("freeze_g", g_params), ("freeze_d", d_params)):
            if not params:
                raise TristyleError(f"style.recipe.{key}: {getattr(r, key)} leaves nothing to train. Choose less.")

        # A network's two phases share one optimiser.
        g_optimizer = lazy_adam(g_params, lr, r.pl_every if r.pl_weight else None)
        d_optimizer = lazy_adam(d_params, lr, r.r1_every if r.r1_gamma else None)

        # The generator steps first: the discriminator reuses its pictures.
        phases = [Phase("Gmain", g_params, g_optimizer)]
        if r.pl_weight:
            phases.append(Phase("Greg", g_params, g_optimizer, r.pl_every))
        phases.append(Phase("Dmain", d_params, d_optimizer, chance=LOGISTIC_CHANCE))
        if r.r1_gamma:
            phases.append(Phase("Dreg", d_params, d_optimizer, r.r1_every))
        return phases

    def train(self, mode: bool = True) -> StyleGAN2:
        """Set the mode of what is trained; average and source stay in eval mode."""
        super().train(mode)
        self.ema.eval()
        if self.source is not None:
            self.source.eval()
        return self

    # Draws

    def latents(self, n: int, draws: Draws) -> Tensor:
        """Draw z [n, z_dim]."""
        return draws.own(lambda n: torch.randn(n, self.generator.z_dim, device=self.pl_mean.device), n)

    def unit_noise(self, images: Tensor, draws: Draws) -> Tensor:
        """N(0, 1) in the shape of `images`, for path lengths."""
        return draws.normal_like(images)

    def _latents(self, n: int, draws: Draws) -> list[tuple[Tensor, int]]:
        """Draw z [n, z_dim] and the first level it styles; with probability `mixing` a second one from a cut on."""
        parts = [(self.latents(n, draws), 0)]
        # One decision and one cut for the whole batch: every micro-batch draws the same numbers.
        if self.recipe.mixing and float(torch.rand([])) < self.recipe.mixing:
            cut = int(torch.randint(1, self.generator.num_ws, []))
            parts.append((self.latents(n, draws), cut))
        return parts

    def _styles(self, mapping: MappingNetwork, parts: list[tuple[Tensor, int]], update_w_avg: bool = True) -> Tensor:
        """Map to ws [n, num_ws, w_dim] what `_latents` drew."""
        (z, _), *mixed = parts
        ws: Tensor = mapping(z, update_w_avg=update_w_avg and not self.recipe.freeze_mapping)
        for z, cut in mixed:
            ws = torch.cat([ws[:, :cut], mapping(z, update_w_avg=False)[:, cut:]], dim=1)
        return ws

    def _draw(self, generator: Generator, parts: list[tuple[Tensor, int]], draws: Draws) -> Tensor:
        """Images [n, 3, R, R] of what `_latents` drew."""
        return self._synthesise(generator, self._styles(generator.mapping, parts), draws)

    def _synthesise(self, generator: Generator, ws: Tensor, draws: Draws) -> Tensor:
        out: Tensor = generator.synthesis(ws, "random" if self.recipe.noise else "none", draws)
        return out

    # Losses

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Terms of `Gmain`, `Greg`, `Dmain` or `Dreg` on real images batch["images"]."""
        real = softened(batch["images"], self.recipe.soften)
        dtype = compute_dtype(self.recipe.precision, real.device)
        self.generator.synthesis.compute_dtype = self.discriminator.compute_dtype = dtype
        found: dict[str, Tensor] = getattr(self, f"_{phase.lower()}")(real, update)
        return found

    def moved_buffers(self, phase: str) -> list[Tensor]:
        """The mean w, the mean path length, and the signs that steer ADA."""
        w_avg = self.generator.mapping.w_avg
        moved = {"Gmain": [w_avg], "Greg": [w_avg, self.pl_mean], "Dmain": [self.sign_sum, self.sign_count]}
        return moved.get(phase, [])

    def _gmain(self, real: Tensor, update: Update) -> dict[str, Tensor]:
        parts = self._latents(len(real), update.draws)
        terms: dict[str, Tensor] = {}
        if self.source is None:
            fakes = self._draw(self.generator, parts, update.draws)
        else:
            fakes, terms["consistency"] = self._draw_beside(self.source, parts, update.draws)
        update.memory["fakes"] = fakes.detach()
        logits = self.discriminator(self.augment(fakes, draws=update.draws))
        return {"adversarial": generator_logistic(logits).mean()} | terms

    def _draw_beside(self, source: Generator, parts: list[tuple[Tensor, int]], draws: Draws) -> tuple[Tensor, Tensor]:
        """Images [n, 3, R, R], and the weighted consistency of the first few with `source` at one block, at random."""
        blocks = self.generator.synthesis.block_resolutions
        block = f"b{blocks[int(torch.randint(len(blocks), []))]}"
        with output_of(getattr(self.generator.synthesis, block)) as own:
            fakes = self._draw(self.generator, parts, draws)
        few = [(z[:COMPARED], cut) for z, cut in parts]
        source.synthesis.compute_dtype = self.generator.synthesis.compute_dtype
        with torch.no_grad(), output_of(getattr(source.synthesis, block)) as wanted:
            self._draw(source, few, draws)
        loss = distance_consistency(own[0][:COMPARED].float(), wanted[0].float())
        return fakes, loss * self.recipe.consistency

    def _greg(self, real: Tensor, update: Update) -> dict[str, Tensor]:
        lengths = self._path_lengths(len(real), update.draws)
        whole = update.mean("length", lengths.mean())
        penalty, moved = path_length_penalty(lengths, self.pl_mean, whole=whole)
        self.pl_mean.copy_(moved)
        weight = self.recipe.pl_weight * self.recipe.pl_every
        return {"path_length": penalty.mean() * weight, "_length": lengths.mean()}

    def measures(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The mean path length: the penalty is about its distance from the whole batch's."""
        if phase != "Greg":
            return {}
        lengths = self._path_lengths(len(batch["images"]), update.draws, update_w_avg=False)
        return {"length": lengths.detach().mean()}

    def _path_lengths(self, batch: int, draws: Draws, update_w_avg: bool = True) -> Tensor:
        """Path lengths [batch / 2] at drawn latents: half of a batch is enough (1912.04958, appendix B)."""
        parts = self._latents(max(batch // 2, 1), draws)
        ws = self._styles(self.generator.mapping, parts, update_w_avg)
        if not ws.requires_grad:  # of a frozen mapping; lengths are slopes with respect to ws
            ws.requires_grad_()
        images = self._synthesise(self.generator, ws, draws)
        return path_lengths(images, ws, self.unit_noise(images, draws))

    def _dmain(self, real: Tensor, update: Update) -> dict[str, Tensor]:
        fakes = update.memory.pop("fakes", None)
        if fakes is None:
            with torch.no_grad():
                fakes = self._draw(self.generator, self._latents(len(real), update.draws), update.draws)
        fake_logits = self.discriminator(self.augment(fakes, draws=update.draws))
        real_logits = self.discriminator(self.augment(real, draws=update.draws))
        signs = real_logits.detach().sign()
        self.sign_sum += signs.sum()
        self.sign_count += signs.numel()
        return {
            "fake": discriminator_logistic(fake_logits, real=False).mean(),
            "real": discriminator_logistic(real_logits, real=True).mean(),
            "_sign": signs.mean(),
        }

    def _dreg(self, real: Tensor, update: Update) -> dict[str, Tensor]:
        real = real.detach().requires_grad_()
        penalty = r1_penalty(self.discriminator(self.augment(real, draws=update.draws)), real)
        weight = self.recipe.r1_gamma / 2 * self.recipe.r1_every
        return {"r1": penalty.mean() * weight, "_gradient": penalty.mean()}

    # Between updates

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the averaged generator and, every few updates, ADA's p."""
        decay = half_life_decay(batch, images - batch, self.recipe.ema_images, self.recipe.ema_ramp)
        ema_update(self.ema, self.generator, decay)
        if self.ada and images // batch % self.ada.every == 0:
            direction = torch.sign(self.sign_sum / self.sign_count.clamp(min=1) - self.ada.target)
            step = batch * self.ada.every / self.ada.images
            self.augment.p.add_(direction * step).clamp_(0, self.ada.p_max)
            self.sign_sum.zero_()
            self.sign_count.zero_()
        return {"p": float(self.augment.p), "pl_mean": float(self.pl_mean)}

    def milestones(self, train: Train) -> list[int]:
        """The rungs of the ladder."""
        return rungs(train.images, train.batch, self.recipe.ladder) if self.ladder else []

    def snapshot(self, images: int) -> None:
        """Write the averaged generator of this rung, in half precision."""
        assert self.ladder is not None
        save_network(self.ladder / f"{images:07d}.safetensors", self.ema, half=True, notes={"images": str(images)})

    @torch.no_grad()
    def sample_spread(self) -> float:
        """Standard deviation over the samples of `preview`, averaged over pixels in [-1, 1]."""
        return float(self._samples().std(dim=0).mean())

    def preview(self) -> dict[str, np.ndarray]:
        """Samples of the averaged generator: the same 32 latents each time, psi 0.7."""
        return {"samples": grid(to_uint8(self._samples()), columns=8)}

    def _samples(self) -> Tensor:
        z = torch.randn(32, self.ema.z_dim, generator=torch.Generator().manual_seed(self.seed)).to(self.pl_mean.device)
        found: Tensor = self.ema(z, truncation_psi=0.7, noise_mode="const")
        return found
