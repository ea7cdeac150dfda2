"""Inversion by an encoder: photos to latents of the source generator."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.core.runtime import Runtime
from stages.core.settings import TristyleError, number
from stages.core.tensors import to_tensor
from stages.networks.face_reader import load_reader
from stages.networks.latents import load_encoder
from stages.networks.stylegan2 import Generator
from stages.style.inversion.e4e import Encode, train_encoder
from stages.style.inversion.optimise import Project, project, refinement


@dataclass(kw_only=True)
class Invert:
    """How photos become latents: by the encoder that fits the generator, then by a few steps of optimisation.

    Args:
        steps: of optimisation after the encoder; 0 for none.
        steps_alone: of optimisation from the mean w, where there is no encoder.
        encode: trains an encoder where the shipped one was made for another generator; null: optimise alone.
    """

    steps: int = 0
    steps_alone: int = 200
    encode: Encode | None = None

    def __post_init__(self) -> None:
        number("steps", self.steps, 0, 100_000, integer=True)
        number("steps_alone", self.steps_alone, 1, 100_000, integer=True)


def check_size(photos: np.ndarray, generator: Generator) -> None:
    """Refuse photos uint8 [N, H, W, 3] of another size than the generator draws. Raises TristyleError."""
    size = generator.img_resolution
    if photos.shape[1:3] != (size, size):
        raise TristyleError(
            f"style.sampling: photos of {photos.shape[2]}x{photos.shape[1]} px, a generator of {size} px. "
            f"Set data.size={size}."
        )


def invert_photos(
    generator: Generator, photos: np.ndarray, settings: Invert, runtime: Runtime, scratch: Path, batch: int = 32
) -> Tensor:
    """Latents ws [N, num_ws, w_dim] of photos, on the CPU.

    Args:
        generator: the source generator; what is fused from it draws the same poses and expressions from these latents.
        photos: uint8 [N, R, R, 3] of the generator's size.
        settings: encoder and steps.
        runtime: device and progress.
        scratch: where a training of the encoder keeps its state.
        batch: photos inverted at a time.

    Raises:
        TristyleError: photos of another size.
    """
    check_size(photos, generator)

    # The encoder that fits the generator, or optimisation alone.
    reader = load_reader(runtime.device)
    encoder = load_encoder(generator)
    if encoder is None and settings.encode is not None:
        encoder = train_encoder(generator, photos, settings.encode, scratch, runtime, reader)
    plan = Project(steps=settings.steps_alone) if encoder is None else refinement(settings.steps)

    # A copy is moved to the device: the caller's generator stays where it is.
    device = torch.device(runtime.device)
    generator = copy.deepcopy(generator).to(device).eval()
    parts = []
    with runtime.track.progress("inversion", len(photos), "photos") as line:
        for first in range(0, len(photos), batch):
            images = to_tensor(photos[first : first + batch]).to(device)
            start = None
            if encoder is not None:
                with torch.no_grad():
                    start = encoder.to(device)(images)
            parts.append(project(generator, images, plan, start, reader.encode, batch).cpu())
            line.update(min(first + batch, len(photos)))
    return torch.cat(parts)
