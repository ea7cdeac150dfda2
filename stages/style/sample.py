"""Sampling a generator into a style set: one seed, one latent, one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages import io
from stages.config import number
from stages.networks.stylegan2 import Generator


@dataclass(kw_only=True)
class Sampling:
    """Args:
    count: images.
    psi: truncation, 1 none, 0 the mean face.
    seed: of the first image; the i-th has seed + i.
    mirror: flip every other image.
    """

    count: int
    psi: float = 0.7
    seed: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        number("count", self.count, 1, integer=True)
        number("psi", self.psi, 0, 2)
        number("seed", self.seed, 0, 2**32 - 1, integer=True)


def latents(z_dim: int, seeds: list[int]) -> Tensor:
    """z [N, z_dim] of the given seeds, the same as the official image generator's."""
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).float()


@torch.no_grad()
def draw(generator: Generator, z: Tensor, psi: float, batch: int = 32) -> np.ndarray:
    """Images uint8 [N, R, R, 3] of latents z [N, z_dim], with the stored noise."""
    generator.eval()
    device = generator.mapping.w_avg.device
    parts = [io.to_uint8(generator(part.to(device), truncation_psi=psi, noise_mode="const")) for part in z.split(batch)]
    return np.concatenate(parts)
