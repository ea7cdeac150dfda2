"""Conditional PatchGAN: is this patch a true stylisation of *this* photo?

Isola et al. 2017 (arXiv 1611.07004), section 3.2.2 and appendix 6.1.2: stride-2 4x4 convolutions with doubling
channels, two stride-1 4x4 convolutions, one logit per overlapping patch, photo and picture concatenated at the input.
What differs: spectral normalisation (Miyato et al. 2018, arXiv 1802.05957, eq. 8; power iteration by torch) in place of
BatchNorm, so that a short training stays stable; and `features` also returns the activations, for feature matching
(Wang et al. 2018, arXiv 1711.11585, eq. 3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from stages.core.settings import number


class PatchOutput(NamedTuple):
    """What the discriminator returns."""

    features: list[Tensor]  # activations after each hidden layer, fine to coarse
    logits: Tensor  # [N, 1, h, w], positive = real


class PatchGAN(nn.Module):
    """Conditional patch discriminator.

    Args:
        width: channels after the first layer (64 in the paper).
        layers: stride-2 convolutions. 3 sees 70x70 patches as in the paper; 2 sees 34x34, at 64 px half a face.

    Raises:
        ConfigError: out of range.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        number("width", width, 1, 512, integer=True)
        number("layers", layers, 1, 5, integer=True)
        self.arguments = {"width": width, "layers": layers}
        channels = [6] + [width * min(2**i, 8) for i in range(layers + 1)]
        strides = [2] * layers + [1]
        self.hidden = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=s, padding=1))
            for a, b, s in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.last = spectral_norm(nn.Conv2d(channels[-1], 1, 4, padding=1))

    def forward(self, photo: Tensor, picture: Tensor) -> PatchOutput:
        """photo, picture [N, 3, H, W] in [-1, 1] -> activations and patch logits."""
        x = torch.cat([photo, picture], dim=1)  # [N, 6, H, W]
        features = []
        for layer in self.hidden:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return PatchOutput(features, self.last(x))
