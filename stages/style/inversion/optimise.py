"""Inversion by optimisation: the latent whose picture comes nearest to a photo, in W or in W+.

Source: the projection of StyleGAN2 (arXiv 1912.04958, appendix D: Adam, learning rate ramped up and cosined down, noise
on w that fades, regularised noise images) and W+, one w a layer (Abdal et al., arXiv 1904.03189). What differs: many
photos at a time, each of which goes the way that it would go alone; the perceptual distance is that of the face
reader's feature maps, or of any other extractor; and the generator's stored noise is kept unless `Project.noise` asks
otherwise, so that the latents alone say what is drawn, by this generator or by one fused from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from stages.core.settings import ConfigError, TristyleError, choice, number
from stages.networks.face_reader import load_reader
from stages.networks.latents import w_statistics
from stages.networks.stylegan2 import Generator
from stages.training.losses import perceptual_distance, pixel_distance

SPACES = ("w", "w+")
COARSEST_NOISE = 8  # px: the noise images' regulariser looks at no smaller scale

Features = Callable[[Tensor], list[Tensor]]
"""Images [N, 3, H, W] in [-1, 1] -> feature maps [N, C, h, w], differentiable: `Reader.encode`, or LPIPS's layers."""


@dataclass(kw_only=True)
class Project:
    """How photos are projected. The defaults are the published projector's; `refinement` starts from an encoder.

    Args:
        steps: updates.
        space: ``w`` (one w for all layers) or ``w+`` (one for each).
        lr: Adam's learning rate at its height.
        beta1, beta2: Adam's decay of the mean gradient and of its square.
        rampup, rampdown: shares of the steps over which the learning rate rises (linearly) and falls (a half cosine).
        w_noise: noise added to the latents, as a share of the spread of w; fades to 0 over `noise_ramp` of the steps.
        noise_ramp: see `w_noise`.
        pixel, perceptual: weights of the squared pixel error and of the perceptual distance.
        noise: optimise the noise images too, where the generator uses any; each photo then needs its own.
        noise_weight: of the noise images' regulariser.
        seed: of the noise; the same for every photo.
    """

    steps: int = 1000
    space: str = "w+"
    lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    rampup: float = 0.05
    rampdown: float = 0.25
    w_noise: float = 0.05
    noise_ramp: float = 0.75
    pixel: float = 1.0
    perceptual: float = 1.0
    noise: bool = False
    noise_weight: float = 1e5
    seed: int = 0

    def __post_init__(self) -> None:
        number("steps", self.steps, 0, 1_000_000, integer=True)
        choice("space", self.space, SPACES)
        number("lr", self.lr, 0, 10, open_low=True)
        for key in ("rampup", "rampdown", "noise_ramp"):
            number(key, getattr(self, key), 0, 1)
        for key in ("beta1", "beta2"):
            number(key, getattr(self, key), 0, 0.99999)
        for key in ("w_noise", "pixel", "perceptual", "noise_weight"):
            number(key, getattr(self, key), 0)
        number("seed", self.seed, 0, 2**63 - 1, integer=True)
        if not self.pixel + self.perceptual:
            raise ConfigError("pixel", "both distances weigh 0", "Give pixel or perceptual a weight above 0")

    def lr_at(self, step: int) -> float:
        """Learning rate of update `step`, 0 .. steps - 1; as published, the very first one is 0."""
        done = step / self.steps
        ramp = min(1.0, (1.0 - done) / self.rampdown) if self.rampdown else 1.0
        ramp = 0.5 - 0.5 * cos(pi * ramp)
        return self.lr * ramp * (min(1.0, done / self.rampup) if self.rampup else 1.0)

    def noise_at(self, step: int, spread: float) -> float:
        """Deviation of the noise on the latents in update `step`."""
        left = max(0.0, 1.0 - step / self.steps / self.noise_ramp) if self.noise_ramp else 0.0
        return self.w_noise * spread * left**2


def refinement(steps: int, seed: int = 0) -> Project:
    """Settings for few steps from an encoder's latents: no noise to leave them by, no warm-up, and a short memory.

    Adam's usual memory of a thousand squared gradients and of ten gradients is longer than the way: with 0.8 and 0.8
    the same 50 steps end a fifth lower (loss 0.042 and 0.033 on 8 photos kept for choosing). Its first step
    moves every number by the whole learning rate: fewer than 50 steps take a lower one, or would end above the start.
    """
    lr = 0.15 * min(1.0, sqrt(steps / 50))
    return Project(
        steps=steps, lr=max(lr, 1e-6), beta1=0.8, beta2=0.8, rampup=0.0, rampdown=0.35, w_noise=0.0, seed=seed
    )


@dataclass
class Projection:
    """What a projection found.

    Attributes:
        ws: [N, num_ws, w_dim].
        noise: name of a noise buffer of the synthesis network -> the photos' own [N, 1, r, r]; empty for the stored.
        losses: mean distance before each update, with that update's noise on the latents.
    """

    ws: Tensor
    noise: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------------------------------
# Distances


class Distance:
    """Weighted pixel and perceptual distance to fixed targets, whose features are computed once.

    Args:
        targets: [N, 3, H, W] in [-1, 1].
        features: the extractor.
        pixel, perceptual: weights.
    """

    def __init__(self, targets: Tensor, features: Features, pixel: float = 1.0, perceptual: float = 1.0) -> None:
        self.targets, self.features, self.pixel, self.perceptual = targets, features, pixel, perceptual
        with torch.no_grad():
            self.maps = features(targets) if perceptual else []

    def __call__(self, images: Tensor) -> Tensor:
        """Distance per picture, [N]."""
        total = self.pixel * pixel_distance(images, self.targets)
        if self.perceptual:
            total = total + self.perceptual * perceptual_distance(self.features(images), self.maps)
        return total


# ---------------------------------------------------------------------------------------------------------------------
# Projection


def noise_regulariser(noise: Tensor) -> Tensor:
    """Squared correlation with the neighbours, summed over the scales down to 8 px: [N] (1912.04958, appendix D).

    noise: [N, 1, r, r], r a power of two.
    """
    total = torch.zeros(len(noise), device=noise.device)
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, dims=axis)).mean(dim=(1, 2, 3)).square()
        if noise.shape[-1] <= COARSEST_NOISE:
            return total
        noise = F.avg_pool2d(noise, 2)


def decode(generator: Generator, ws: Tensor, noise: dict[str, Tensor] | None = None) -> Tensor:
    """Images [N, 3, R, R] of ws [N, num_ws, w_dim], with the stored noise or with the given noise images."""
    synthesis = generator.synthesis
    images: Tensor = functional_call(synthesis, noise or {}, (ws,), {"noise_mode": "const"})
    return images


def optimise(
    generator: Generator, images: Tensor, settings: Project, features: Features, start: Tensor | None = None
) -> Projection:
    """Project all `images` at once; see `project`."""
    mean, spread = w_statistics(generator)
    free = 1 if settings.space == "w" else generator.num_ws  # latents of a photo

    # What is optimised starts at the mean w, or at what an encoder says.
    if start is None:
        start = mean.expand(len(images), free, -1)
    elif settings.space == "w":
        start = start.mean(dim=1, keepdim=True)
    latents = start.clone().requires_grad_()
    noise = _noise_images(generator, len(images), settings) if settings.noise else {}

    optimizer = torch.optim.Adam([latents, *noise.values()], lr=settings.lr, betas=(settings.beta1, settings.beta2))
    distance = Distance(images, features, settings.pixel, settings.perceptual)
    draw = torch.Generator().manual_seed(settings.seed)
    losses = []

    # Noise on the latents, which dies down, helps out of poor starts.
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_at(step)
        shake = torch.randn(1, free, generator.w_dim, generator=draw) * settings.noise_at(step, spread)
        ws = (latents + shake.to(latents.device)).expand(-1, generator.num_ws, -1)
        found = distance(decode(generator, ws, noise))
        losses.append(float(found.detach().mean()))

        penalty = sum((noise_regulariser(image).sum() for image in noise.values()), torch.zeros_like(found[0]))
        optimizer.zero_grad(set_to_none=True)
        (found.sum() + settings.noise_weight * penalty).backward()  # a sum, so that no photo feels another
        optimizer.step()
        _normalise(noise)

    ws = latents.detach().expand(-1, generator.num_ws, -1).contiguous()
    return Projection(ws, {name: image.detach() for name, image in noise.items()}, losses)


def project(
    generator: Generator,
    images: Tensor,
    settings: Project,
    start: Tensor | None = None,
    features: Features | None = None,
    batch: int = 16,
) -> Tensor:
    """Latents ws [N, num_ws, w_dim] whose pictures (with the stored noise) come near to photos.

    Args:
        generator: the source; its weights and mode are left as they are.
        images: [N, 3, R, R] in [-1, 1], R the generator's resolution.
        settings: length, space and pace.
        start: [N, num_ws, w_dim] to begin at (an encoder's); the mean w without.
        features: extractor of the perceptual distance; the shipped face reader's maps without.
        batch: photos at a time; the result does not depend on it but for rounding.

    Raises:
        TristyleError: images of another size.
    """
    size = generator.img_resolution
    if images.shape[-2:] != (size, size):
        raise TristyleError(
            f"invert: photos of {images.shape[-1]}x{images.shape[-2]} px, a generator of {size} px. Resize the photos."
        )
    if features is None:
        features = load_reader(str(images.device)).encode

    # The weights get no gradients meanwhile: half of the work.
    starts = [None] * len(images) if start is None else list(start.split(batch))
    parts, frozen = [], _freeze(generator)
    try:
        for part, begin in zip(images.split(batch), starts, strict=False):
            parts.append(optimise(generator, part, settings, features, begin).ws)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return torch.cat(parts)


def _freeze(generator: Generator) -> list[torch.nn.Parameter]:
    """Stop gradients to the weights, half of the work; the parameters that had them."""
    wanted = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    return wanted


def _noise_images(generator: Generator, count: int, settings: Project) -> dict[str, Tensor]:
    """Random noise images [count, 1, r, r] of the layers whose noise has any strength, the same for every photo."""
    draw = torch.Generator().manual_seed(settings.seed + 1)
    strengths = {
        name: float(value.detach()) for name, value in generator.synthesis.named_parameters() if not value.ndim
    }
    out = {}
    for name, buffer in generator.synthesis.named_buffers():
        if name.endswith("noise_const") and strengths[name.replace("noise_const", "noise_strength")]:
            one = torch.randn(1, 1, *buffer.shape, generator=draw).to(buffer.device)
            out[name] = one.repeat(count, 1, 1, 1).requires_grad_()
    return out


@torch.no_grad()
def _normalise(noise: dict[str, Tensor]) -> None:
    """Each noise image back to zero mean and unit variance."""
    for image in noise.values():
        image -= image.mean(dim=(1, 2, 3), keepdim=True)
        image *= (image.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
