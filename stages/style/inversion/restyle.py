"""An iterative encoder: each step sees the photo and what has been drawn of it, and corrects the latents.

Source: ReStyle (Alaluf et al., arXiv 2104.02699): the mean face first, residual codes, five steps of which each has
its own loss and sees the step before as given (sec. 3.2). Losses, trunk, its first weights and pace are the encoder's
(`e4e`); the first layer, which sees two pictures, begins anew.
"""

from __future__ import annotations

import copy
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.core.images import LazyImages
from stages.core.runtime import Runtime
from stages.networks.encoder import IterativeEncoder
from stages.networks.face_reader import Reader
from stages.networks.latents import generator_id, w_statistics
from stages.networks.stylegan2 import Generator
from stages.style.inversion.e4e import EMA, WARMUP, Encode, begin_with, likeness_terms, photo_batches
from stages.style.inversion.optimise import decode
from stages.training import distributed
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Phase, Task, Update, fit, update_seed

STEPS = 5


class Restyling(Task):
    """Training of an iterative encoder against a frozen generator; `ema` holds the weights for use."""

    def __init__(self, generator: Generator, reader: Reader, settings: Encode) -> None:
        super().__init__()
        self.settings = settings
        self.generator = copy.deepcopy(generator).requires_grad_(False)
        self.reader = copy.deepcopy(reader).requires_grad_(False)

        size = min(max(generator.img_resolution, 32), 256)
        encoder = IterativeEncoder(generator.num_ws, generator.w_dim, size, generator=generator_id(generator))
        encoder.w_avg.copy_(w_statistics(generator)[0])
        begin_with(encoder, reader)
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(encoder)
        params = list(self.encoder.parameters())
        self.phases = [Phase("iterative", params, torch.optim.Adam(params, lr=settings.train.lr, betas=(0.9, 0.99)))]

    def train(self, mode: bool = True) -> Restyling:
        """Set the mode of what is trained; the fixed networks stay in eval mode."""
        super().train(mode)
        for fixed in (self.generator, self.reader, self.ema):
            fixed.eval()
        return self

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """The terms on photos batch["images"], mean over the steps."""
        photos = batch["images"]
        ws, drawn = start(self.encoder, self.generator, len(photos))
        terms: dict[str, Tensor] = {}
        for _ in range(STEPS):
            ws = self.encoder.step(photos, drawn.detach(), ws.detach())
            drawn = decode(self.generator, ws)
            for name, value in likeness_terms(drawn, photos, self.reader, self.settings).items():
                terms[name] = terms.get(name, 0.0) + value / STEPS
        return terms

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move the averaged encoder."""
        ema_update(self.ema, self.encoder, early_decay(images / batch, EMA))
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        """Warm-up, then half a cosine to zero."""
        done = images / total
        return min(done / WARMUP + WARMUP, 0.5 + 0.5 * cos(pi * done), 1.0)


@torch.no_grad()
def start(encoder: IterativeEncoder, generator: Generator, count: int) -> tuple[Tensor, Tensor]:
    """The mean face: ws [count, num_ws, w_dim] and its picture [count, 3, R, R]."""
    ws = encoder.w_avg.expand(count, generator.num_ws, -1)
    return ws, decode(generator, ws[:1]).expand(count, -1, -1, -1)


@torch.no_grad()
def invert_iteratively(encoder: IterativeEncoder, generator: Generator, photos: Tensor, steps: int = STEPS) -> Tensor:
    """Latents [N, num_ws, w_dim] of photos [N, 3, R, R] in [-1, 1] after `steps` steps."""
    ws, drawn = start(encoder, generator, len(photos))
    for _ in range(steps):
        ws = encoder.step(photos, drawn, ws)
        drawn = decode(generator, ws)
    return ws


def train_iterative(
    generator: Generator,
    photos: np.ndarray | LazyImages,
    settings: Encode,
    scratch: Path,
    runtime: Runtime,
    reader: Reader,
) -> IterativeEncoder:
    """Train an iterative encoder of `generator`; a killed training resumes from `scratch`.

    Args:
        generator: whose latents are sought; never changed.
        photos: uint8 [N, R, R, 3].
        settings: weights and pace; its latent discriminator, samples and deltas take no part.
        scratch: folder of the training state.
        runtime: device, threads and log.
        reader: the face reader.

    Returns:
        The averaged encoder, in eval mode.
    """
    torch.manual_seed(update_seed(settings.train.seed, 0, "iterative"))
    task = Restyling(generator, reader, settings)
    batches = photo_batches(photos, settings.train.seed, settings.mirror)
    with distributed.alone():
        fit(task, batches, train=settings.train, scratch=scratch, runtime=runtime, label="iterative")
    return task.ema.cpu().eval()
