"""How near reconstructions come to photos: one definition for every mode, by features that no mode has learned from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.core.files import data_file
from stages.core.settings import TristyleError
from stages.core.tensors import unit
from stages.core.weights import load_network
from stages.metrics.pixel import ssim
from stages.networks.parser import FaceParser
from stages.style.inversion.optimise import Features
from stages.training.losses import perceptual_distance

MEASURES = ("lpips_like", "mse", "psnr", "ssim")  # the first two: lower is better
LEAST_MSE = 1e-8  # of values in [0, 1]: a PSNR of 80 dB at most
CHUNK = 16


def independent_features() -> Features:
    """The maps of the shipped face parser, which learned to label photographs and takes part in no training here.

    Raises:
        TristyleError: its file is damaged or holds another network.
    """
    file = data_file("parser.safetensors")
    parser = load_network(file)
    if not isinstance(parser, FaceParser):
        raise TristyleError(f"{file}: holds {type(parser).__name__}, not a face parser. Install the package again.")
    parser.requires_grad_(False)

    def maps(images: Tensor) -> list[Tensor]:
        x = torch.nn.functional.pixel_unshuffle(images, 2)
        out: list[Tensor] = []
        for level in parser.levels:
            x = level(x)
            out.append(x)
        return out

    return maps


def decibels(error: Tensor) -> Tensor:
    """PSNR of mean squared errors of values in [0, 1], dB; the same shape."""
    return -10 * error.clamp(min=LEAST_MSE).log10()


@torch.no_grad()
def likeness_rows(drawn: Tensor, photos: Tensor, features: Features) -> dict[str, Tensor]:
    """Each measure of each picture.

    Args:
        drawn: [N, 3, R, R] in [-1, 1].
        photos: the same shape.
        features: see `independent_features`.

    Returns:
        lpips_like (`perceptual_distance` of the features), mse of values in [0, 1], psnr in dB and ssim: each [N].
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    for own, true in zip(drawn.split(CHUNK), photos.split(CHUNK), strict=True):
        error = (unit(own) - unit(true)).square().mean(dim=(1, 2, 3))
        parts["lpips_like"].append(perceptual_distance(features(own), features(true)))
        parts["mse"].append(error)
        parts["psnr"].append(decibels(error))
        parts["ssim"].append(ssim(unit(own), unit(true)))
    return {name: torch.cat(values) for name, values in parts.items()}


def means(rows: dict[str, Tensor], names: Sequence[str] = MEASURES) -> dict[str, float]:
    """Means over the pictures."""
    return {name: float(rows[name].mean()) for name in names}
