"""Two published mobile-sized stylisers as latency arms: the layers that their projects list, without their weights.

An arm is valid when its parameters and multiply-accumulates agree with the published network's within 2 %
(`PUBLISHED`, checked in test_mobile). Names and wiring are this project's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# name -> (millions of parameters, GMAC of a 256 x 256 picture)
PUBLISHED = {"AnimeGANv2": (2.144, 26.29), "FacialCartoonization": (1.222, 2.02)}


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """AnimeGANv2's: reflection pad, convolution without bias, one-group norm, LeakyReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(nn.ReflectionPad2d(kernel // 2), conv, nn.GroupNorm(1, outputs), nn.LeakyReLU(0.2))


class InvertedResidual(nn.Module):
    """1x1 to twice the channels, depthwise 3x3, 1x1 back; a skip where the widths agree."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = 2 * inputs
        back = nn.Conv2d(inner, outputs, 1, bias=False)
        self.layers = nn.Sequential(unit(inputs, inner, 1), unit(inner, inner, groups=inner), back)
        self.norm, self.skip = nn.GroupNorm(1, outputs), inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.layers(x))
        return x + y if self.skip else y


class Bilinear(nn.Module):
    """Twice the size."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class AnimeGANv2(nn.Sequential):
    """The generator of AnimeGANv2: photo [N, 3, H, W] -> same, sizes multiples of 4."""

    def __init__(self) -> None:
        down = [unit(3, 32, 7), unit(32, 64, stride=2), unit(64, 64), unit(64, 128, stride=2), unit(128, 128)]
        middle = [unit(128, 128), InvertedResidual(128, 256), *(InvertedResidual(256, 256) for _ in range(3))]
        up = [unit(256, 128), Bilinear(), unit(128, 128), unit(128, 128), Bilinear(), unit(128, 64), unit(64, 64)]
        super().__init__(*down, *middle, *up, unit(64, 32, 7), nn.Conv2d(32, 3, 1, bias=False), nn.Tanh())


def plain(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """FacialCartoonization's: convolution with bias, BatchNorm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class FacialCartoonization(nn.Module):
    """The generator of FacialCartoonization: photo [N, 3, H, W] -> same, sizes multiples of 16.

    Its four residual blocks share one set of weights; features of the way down are added on the way up.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.down = nn.ModuleList(
            nn.Sequential(plain(a, b, 2), plain(b, b)) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.block = nn.Sequential(plain(128, 128), nn.Conv2d(128, 128, 3, 1, 1), nn.BatchNorm2d(128))
        up = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.same = nn.ModuleList(plain(a, a) for a, _ in up)
        self.narrow = nn.ModuleList(plain(a, b) for a, b in up[:-1])
        self.last = nn.Conv2d(32, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
        for _ in range(4):
            x = x + self.block(x)
        kept.pop()
        for same, narrow in zip(self.same, self.narrow, strict=False):
            x = narrow(F.interpolate(same(x), scale_factor=2.0)) + kept.pop()
        return torch.tanh(self.last(F.interpolate(self.same[-1](x), scale_factor=2.0)))


PEERS = {"AnimeGANv2": AnimeGANv2, "FacialCartoonization": FacialCartoonization}


class SeparableModulated(nn.Module):
    """MobileStyleGAN's layer: modulation, depthwise 3x3, 1x1, demodulation, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, w_dim: int = 512) -> None:
        super().__init__()
        self.affine = nn.Linear(w_dim, inputs)
        self.spread = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.mix = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w)
        weight = self.mix.weight.flatten(1)
        demodulation = ((styles * styles) @ (weight * weight).t() + 1e-8).rsqrt()
        x = self.mix(self.spread(x * styles[:, :, None, None])) * demodulation[:, :, None, None]
        return F.leaky_relu(x, 0.2)


class MobileStyleGAN(nn.Module):
    """The structure of MobileStyleGAN (Belousov, arXiv 2104.04767): features at half the size, wavelets as pictures.

    w [N, 512] -> [N, 3, side, side]. A level doubles its features, then two separable modulated layers and a 1x1 to the
    twelve wavelet maps; the last level's alone are computed at inference, by sub-pixels here. The project gives 8.01 M
    parameters and 15.1 GMAC at 1024 px; this sketch is counted beside it, and is not a published network.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        levels = [size for size in (4, 8, 16, 32, 64, 128, 256, 512) if size <= side // 2]
        widths = [min(512, 32768 // size) for size in levels]
        self.const = nn.Parameter(torch.randn(1, 512, 4, 4))
        pairs = zip([512, *widths[:-1]], widths, strict=True)
        self.layers = nn.ModuleList(
            nn.ModuleList([SeparableModulated(a, b), SeparableModulated(b, b)]) for a, b in pairs
        )
        self.picture = nn.Conv2d(widths[-1], 12, 1)

    def forward(self, w: Tensor) -> Tensor:
        x = self.const.expand(len(w), -1, -1, -1)
        for index, (first, second) in enumerate(self.layers):  # type: ignore[misc]
            if index:
                x = F.interpolate(x, scale_factor=2.0)
            x = second(first(x, w), w)
        return F.pixel_shuffle(self.picture(x), 2)
