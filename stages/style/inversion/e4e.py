"""An encoder's training against a frozen generator.

Source: e4e (Tov et al., arXiv 2102.02766): pixel, perceptual and identity losses on photos; deltas switched on one
after another (sec. 4.1.1) and kept short (eq. 5); a discriminator of single w's with R1 and a pool of past codes
(eq. 2-4). What differs: the generator's own samples are shown beside the photos, and as their latents are known, they
are regressed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stages.core.images import LazyImages, grid
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, number
from stages.core.tensors import to_tensor, to_uint8
from stages.networks.encoder import Encoder, LatentDiscriminator, compose
from stages.networks.expanded import AttributeClassifier
from stages.networks.face_reader import Reader
from stages.networks.latents import generator_id, w_statistics
from stages.networks.stylegan2 import Generator
from stages.style.inversion.optimise import decode
from stages.training import distributed
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Batches, Phase, Task, Update, epoch_order, fit, mirrored, update_seed
from stages.training.losses import (
    LOGISTIC_CHANCE,
    discriminator_logistic,
    generator_logistic,
    perceptual_distance,
    pixel_distance,
    r1_penalty,
)

EMA = 0.998  # decay an update of the encoder for use
POOL = 50  # past codes that the latent discriminator may see again
WARMUP = 0.02  # share of the training over which the learning rate rises


@dataclass(kw_only=True)
class Encode:
    """How an encoder is trained.

    Args:
        train: length (in photos), photos a batch and learning rate.
        samples: pictures of the generator added to each batch, whose latents are regressed.
        mixing: probability that a sample mixes two latents.
        pixel, perceptual, identity: weights of squared error, of the distance of the reader's maps, and of 1 - cosine.
        regression: weight of the squared error of the samples' latents, in units of the spread of w.
        delta_norm: weight of the mean length of the deltas, summed over the layers.
        latent: weight of the latent discriminator; 0 leaves it out.
        latent_lr, r1_gamma, r1_every: its learning rate and R1.
        deltas_from, deltas_until: shares of the training at which the first and the last delta are switched on.
        mirror: show mirrored photos too.
    """

    train: Train
    samples: int = 4
    mixing: float = 0.5
    pixel: float = 1.0
    perceptual: float = 1.0
    identity: float = 0.1
    regression: float = 0.1
    delta_norm: float = 2e-4
    latent: float = 0.02
    latent_lr: float = 2e-4
    r1_gamma: float = 10.0
    r1_every: int = 16
    deltas_from: float = 0.02
    deltas_until: float = 0.2
    mirror: bool = True

    def __post_init__(self) -> None:
        number("samples", self.samples, 0, 4096, integer=True)
        number("mixing", self.mixing, 0, 1)
        for key in ("pixel", "perceptual", "identity", "regression", "delta_norm", "latent", "r1_gamma"):
            number(key, getattr(self, key), 0, 1e4)
        number("latent_lr", self.latent_lr, 0, 1, open_low=True)
        number("r1_every", self.r1_every, 1, 1000, integer=True)
        number("deltas_from", self.deltas_from, 0, 1)
        number("deltas_until", self.deltas_until, self.deltas_from, 1)
        if not self.pixel + self.perceptual:
            raise ConfigError("pixel", "both distances weigh 0", "Give pixel or perceptual a weight above 0")
        if self.train.accumulate > 1:  # the discriminator's pool of past latents goes from batch to batch
            raise ConfigError("train.accumulate", "the encoder's training takes whole batches", "Set it to 1")


class Encoding(Task):
    """Training of an encoder against a frozen generator; `ema` holds the weights for use.

    Args:
        generator: whose latents are sought; never changed.
        reader: the face reader.
        settings: weights and pace.
        examples: photos [N, 3, R, R] in [-1, 1] for the preview.
    """

    pool: Tensor
    pooled: Tensor

    def __init__(self, generator: Generator, reader: Reader, settings: Encode, examples: Tensor) -> None:
        super().__init__()
        self.settings, self.examples = settings, examples

        # What stays fixed.
        self.generator = copy.deepcopy(generator).requires_grad_(False)
        self.reader = copy.deepcopy(reader).requires_grad_(False)
        mean, spread = w_statistics(generator)
        self.unit = spread / generator.w_dim**0.5  # deviation of one number of w

        # What is trained: the encoder begins with the reader's trunk, at the mean w.
        size = min(max(generator.img_resolution, 32), 256)
        encoder = Encoder(generator.num_ws, generator.w_dim, size, generator=generator_id(generator))
        encoder.w_avg.copy_(mean)
        begin_with(encoder, reader)
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(encoder)
        self.discriminator = LatentDiscriminator(generator.w_dim)

        # Past codes, and how many of them there are.
        self.register_buffer("pool", torch.zeros(POOL, generator.w_dim))
        self.register_buffer("pooled", torch.zeros([], dtype=torch.long))

        params = list(self.encoder.parameters())
        self.phases = [Phase("encoder", params, torch.optim.Adam(params, lr=settings.train.lr, betas=(0.9, 0.99)))]
        if settings.latent:
            latent_params: list[nn.Parameter] = list(self.discriminator.parameters())
            optimizer = torch.optim.Adam(latent_params, lr=settings.latent_lr, betas=(0.9, 0.99))
            self.phases.append(Phase("latent", latent_params, optimizer, chance=LOGISTIC_CHANCE))
            if settings.r1_gamma:
                self.phases.append(Phase("latent_r1", latent_params, optimizer, settings.r1_every))

    def train(self, mode: bool = True) -> Encoding:
        """Set the mode of what is trained; the fixed networks stay in eval mode."""
        super().train(mode)
        for fixed in (self.generator, self.reader, self.ema):
            fixed.eval()
        return self

    def layers(self, images: int) -> int:
        """Deltas switched on after `images` photos, 0 .. num_ws - 1: the coarse layers' first."""
        s, deltas = self.settings, self.generator.num_ws - 1
        done = images / s.train.images
        if done < s.deltas_from:
            return 0
        share = (done - s.deltas_from) / max(s.deltas_until - s.deltas_from, 1e-9)
        return min(1 + int(share * (deltas - 1)), deltas)

    # Losses

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Terms of `encoder` on photos batch["images"], of `latent` and of `latent_r1` on the codes it gave.

        Batches are whole (`Encode` sees to it), so that draws are plainly torch's and no buffer needs averaging.
        """
        photos = batch["images"]
        if phase == "encoder":
            return self._encoder(photos, update)
        return self._latent(update) if phase == "latent" else self._latent_r1(len(photos))

    def _encoder(self, photos: Tensor, update: Update) -> dict[str, Tensor]:
        s, n = self.settings, len(photos)

        # The generator's own samples, whose latents are known, go through the encoder beside the photos.
        known = self._styles(s.samples)
        with torch.no_grad():
            samples = decode(self.generator, known)
        base, deltas = self.encoder.parts(torch.cat([photos, samples]))
        layers = self.layers(update.images)
        ws = compose(base, deltas, layers)

        terms = likeness_terms(decode(self.generator, ws[:n]), photos, self.reader, s)
        if s.samples and s.regression:
            error = ((ws[n:] - known) / self.unit)[:, : layers + 1].square().mean()
            terms["regression"] = s.regression * error
        if s.delta_norm and layers:
            terms["delta_norm"] = s.delta_norm * deltas[:n, :layers].norm(dim=2).sum(dim=1).mean()

        # The latent discriminator's turn comes in the next phase.
        update.memory["codes"] = ws[:n].detach()
        if s.latent:
            terms["latent"] = s.latent * generator_logistic(self.discriminator(ws[:n, : layers + 1])).mean()
        return terms

    def _latent(self, update: Update) -> dict[str, Tensor]:
        codes = update.memory["codes"]  # the encoder's phase comes first in every update
        fake_logits = self.discriminator(self._pooled(codes, self.layers(update.images)))
        real_logits = self.discriminator(self._w(len(codes)))
        return {
            "fake": discriminator_logistic(fake_logits, real=False).mean(),
            "real": discriminator_logistic(real_logits, real=True).mean(),
        }

    def _latent_r1(self, count: int) -> dict[str, Tensor]:
        w = self._w(count)[:, :, None, None].requires_grad_()
        weight = self.settings.r1_gamma / 2 * self.settings.r1_every
        return {"r1": weight * r1_penalty(self.discriminator(w.flatten(1)), w).mean()}

    # Draws

    def _w(self, count: int) -> Tensor:
        """Draw w [count, w_dim] of random latents."""
        z = torch.randn(count, self.generator.z_dim, device=self.pool.device)
        with torch.no_grad():
            w: Tensor = self.generator.mapping(z)[:, 0]
        return w

    def _styles(self, count: int) -> Tensor:
        """Draw ws [count, num_ws, w_dim], some of two latents, one below and one from a random layer on."""
        total, device = self.generator.num_ws, self.pool.device
        cut = torch.randint(1, total, (count,), device=device)
        cut = torch.where(torch.rand(count, device=device) < self.settings.mixing, cut, total)
        first = torch.arange(total, device=device) < cut[:, None]
        return torch.where(first[..., None], self._w(count)[:, None], self._w(count)[:, None])

    @torch.no_grad()
    def _pooled(self, codes: Tensor, layers: int) -> Tensor:
        """One w of each of the codes [N, num_ws, w_dim], half of them exchanged for past ones: [N, w_dim].

        layers: deltas switched on by now; each w is one of the first and those.
        """
        layer = torch.randint(layers + 1, (len(codes),), device=codes.device)
        picked = codes[torch.arange(len(codes), device=codes.device), layer].clone()
        for i in range(len(picked)):
            if int(self.pooled) < POOL:
                self.pool[int(self.pooled)] = picked[i]
                self.pooled += 1
            elif float(torch.rand([])) < 0.5:
                place = int(torch.randint(POOL, []))
                past = self.pool[place].clone()
                self.pool[place] = picked[i]
                picked[i] = past
        return picked

    # Between updates

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the averaged encoder."""
        ema_update(self.ema, self.encoder, early_decay(images / batch, EMA))
        return {"deltas": float(self.layers(images))}

    def lr_factor(self, images: int, total: int) -> float:
        """Warm-up, then half a cosine to zero."""
        done = images / total
        return min(done / WARMUP + WARMUP, 0.5 + 0.5 * cos(pi * done), 1.0)

    def preview(self) -> dict[str, np.ndarray]:
        """Photos over their reconstructions."""
        photos = self.examples.to(self.pool.device)
        drawn = decode(self.generator, self.ema(photos))
        both = np.concatenate([to_uint8(photos), to_uint8(drawn)])
        return {"encoding": grid(both, columns=len(photos))}


def likeness_terms(images: Tensor, photos: Tensor, reader: Reader, settings: Encode) -> dict[str, Tensor]:
    """Pixel, perceptual and identity terms of the photos' reconstructions, both [N, 3, R, R] in [-1, 1]."""
    terms = {}
    with torch.no_grad():
        maps = reader.encode(photos)
    terms["pixel"] = settings.pixel * pixel_distance(images, photos).mean()
    terms["perceptual"] = settings.perceptual * perceptual_distance(reader.encode(images), maps).mean()
    if settings.identity:
        few = (len(photos) + 3) // 4  # another pass through the reader is expensive
        same = reader.identity(images[:few]) * reader.identity(photos[:few])
        terms["identity"] = settings.identity * (1 - same.sum(dim=1)).mean()
    return terms


@torch.no_grad()
def begin_with(encoder: Encoder | AttributeClassifier, reader: Reader) -> None:
    """Copy the reader's trunk, norms folded, into an encoder of the same widths; the first layer if it sees 64 px."""
    copied = copy.deepcopy(reader).eval()
    pairs: list[tuple[Any, Any]] = [(encoder.stem, copied.stem), *zip(encoder.levels, copied.levels, strict=True)]
    for own, given in pairs:  # each ends with a unit and a residual block
        convolutions = (own[-2][0], own[-1].first[0], own[-1].second)
        for convolution, unit in zip(convolutions, (given[-2], given[-1].first, given[-1].second), strict=True):
            folded = fuse_conv_bn_eval(unit[0], unit[1])
            if folded.weight.shape == convolution.weight.shape:
                convolution.load_state_dict(folded.state_dict())


def photo_batches(photos: np.ndarray | LazyImages, seed: int, mirror: bool) -> Batches:
    """Batches of `images` [rows, 3, H, W] in [-1, 1], shuffled every epoch.

    Args:
        photos: uint8 [N, H, W, 3].
        seed: of the order and of what is mirrored.
        mirror: mirror half of them, at random.
    """

    def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        chosen = photos[epoch_order(len(photos), seed, start, count)[rows]]
        if mirror:
            flip = mirrored(seed, start, count, rows)
            chosen[flip] = chosen[flip, :, ::-1]
        return {"images": to_tensor(chosen)}

    return batches


def train_encoder(
    generator: Generator,
    photos: np.ndarray | LazyImages,
    settings: Encode,
    scratch: Path,
    runtime: Runtime,
    reader: Reader,
) -> Encoder:
    """Train an encoder of `generator`; a killed training resumes from `scratch`.

    Args:
        generator: whose latents are sought; never changed.
        photos: uint8 [N, R, R, 3].
        settings: weights and pace.
        scratch: folder of the training state.
        runtime: device, threads and log.
        reader: the face reader.

    Returns:
        The averaged encoder, in eval mode.
    """
    torch.manual_seed(update_seed(settings.train.seed, 0, "encoder"))
    task = Encoding(generator, reader, settings, to_tensor(photos[np.arange(min(len(photos), 12))]))
    batches = photo_batches(photos, settings.train.seed, settings.mirror)
    with distributed.alone():  # within a stage that the other processes of a torchrun have left after its own training
        fit(task, batches, train=settings.train, scratch=scratch, runtime=runtime, label="encoder")
    return task.ema.eval()
