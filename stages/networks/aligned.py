"""Generators whose features may be warped between encoder and decoder, and the patch discriminators beside them.

Geometric alignment (arXiv 2211.15549) warps a generator's features at a quarter of the size by a thin-plate spline.
The paper names two generators by their size and gives no table of layers:

  * 10.85 M is CycleGAN's with nine blocks (Zhu et al., arXiv 1703.10593, appendix 7.2): 11,378,179 parameters, counted
    in units of 2^20. `ResnetTranslator` is that one; its doubling is nearest neighbours and a convolution instead of a
    transposed convolution, with as many parameters and no checkerboard;
  * 1.73 M is ours to lay out: `LightTranslator`, 1,814,076 parameters (1.73 times 2^20), goes on from the mobile
    student (`stages/networks/mobile.py`) by two more halvings, so that most of its parameters work at a thirty-second
    of the size.

Every generator splits into `encode` and `decode`. What lies between is a list of maps, the finest first; a warp takes
all of them and the photo alike. The mobile student has the same two methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.settings import ConfigError, choice, number
from stages.core.tensors import TensorSpec
from stages.networks.mobile import TIERS, MobileStudent, ResidualBlock, conv_bn_relu, double
from stages.networks.ugatit import InstanceNorm, ReflectConv, SpectralConv2d

LARGE, LIGHT = "resnet", "light"
GENERATORS = (LARGE, LIGHT, *TIERS)
ColourAlpha = tuple[Tensor, Tensor | None]  # before blending; without a mask head no alpha
Warp = Callable[[Tensor], Tensor]  # [N, C, h, w] -> the same map in another layout

PHOTO = TensorSpec("photo", 3, note="RGB; x / 127.5 - 1 of 8-bit values")
OUTPUT = TensorSpec("output", 3, note="RGB in [-1, 1]")
ALPHA = TensorSpec("alpha", 1, 0.0, 1.0, note="matte; where it is 0 the output is the photo")


class Painting(NamedTuple):
    """What a generator makes of a photo; ``mask`` is None without a mask head."""

    image: Tensor  # [N, 3, H, W] in [-1, 1]
    mask: Tensor | None  # [N, 1, H, W] in [0, 1]


class Warpable(Protocol):
    """A generator in two halves."""

    def encode(self, photo: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [-1, 1] -> maps, the finest first; the last one is at a quarter of the size."""
        ...

    def decode(self, features: Sequence[Tensor]) -> ColourAlpha:
        """Those maps -> colour [N, 3, H, W] in [-1, 1] and alpha [N, 1, H, W] in [0, 1], or None."""
        ...


def painted(generator: Warpable, photo: Tensor, features: Sequence[Tensor], warp: Warp | None = None) -> Painting:
    """What a generator paints from its features, where `warp` says in another layout.

    Args:
        generator: whose features they are.
        photo: [N, 3, H, W] in [-1, 1].
        features: `generator.encode(photo)`.
        warp: takes every map, and the photo, to the other layout; None leaves them in their own.
    """
    if warp is not None:
        photo, features = warp(photo), [warp(part) for part in features]
    colour, alpha = generator.decode(features)
    return Painting(colour, None) if alpha is None else Painting(photo + alpha * (colour - photo), alpha)


class Translator2d(nn.Module):
    """What the generators share: a photo in, a picture (and a matte) out, for training and for export.

    Args:
        mask: paint a matte, too; the photo shows through where it is 0.
    """

    inputs = (PHOTO,)

    def __init__(self, mask: bool) -> None:
        super().__init__()
        self.mask = mask
        self.outputs = (OUTPUT, ALPHA) if mask else (OUTPUT,)

    def encode(self, photo: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [-1, 1] -> maps, the finest first."""
        raise NotImplementedError

    def decode(self, features: Sequence[Tensor]) -> ColourAlpha:
        """Maps -> colour and alpha."""
        raise NotImplementedError

    def split(self, paint: Tensor) -> ColourAlpha:
        """[N, 3 or 4, H, W] of the last convolution -> colour in [-1, 1], alpha in [0, 1]."""
        return torch.tanh(paint[:, :3]), torch.sigmoid(paint[:, 3:]) if self.mask else None

    def forward(self, photo: Tensor) -> Tensor:
        """Stylise a photo [N, 3, H, W] in [-1, 1]; shape and range stay."""
        return painted(self, photo, self.encode(photo)).image

    def compute(self, photo: Tensor) -> tuple[Tensor, ...]:
        """Stylise a photo [N, 3, H, W] in [-1, 1]; also return alpha [N, 1, H, W] where there is a mask."""
        image, mask = painted(self, photo, self.encode(photo))
        return (image,) if mask is None else (image, mask)


class InstanceBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x))))), reflection padding: CycleGAN's residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ReflectConv(channels, channels, 3, bias=True), InstanceNorm(relu=True),
            ReflectConv(channels, channels, 3, bias=True), InstanceNorm(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        out: Tensor = x + self.convs(x)
        return out


class ResnetTranslator(Translator2d):
    """CycleGAN's generator: c7s1-w, d2w, d4w, blocks, u2w, uw, c7s1-3. The features are warped amid the blocks.

    Args:
        width: channels of the first layer; 64 as published.
        blocks: residual blocks; 9 as published.
        mask: paint a matte, too.
    """

    multiple_of = 8

    def __init__(self, width: int = 64, blocks: int = 9, mask: bool = False) -> None:
        super().__init__(mask)
        number("width", width, 2, 256, integer=True)
        number("blocks", blocks, 1, 16, integer=True)
        self.arguments = {"width": width, "blocks": blocks, "mask": mask}
        inner = 4 * width
        before = (blocks + 1) // 2

        layers: list[nn.Module] = [ReflectConv(3, width, 7, bias=True), InstanceNorm(relu=True)]
        for channels in (width, 2 * width):
            layers += [ReflectConv(channels, 2 * channels, 3, stride=2, bias=True), InstanceNorm(relu=True)]
        self.down = nn.Sequential(*layers, *(InstanceBlock(inner) for _ in range(before)))
        layers = [InstanceBlock(inner) for _ in range(blocks - before)]
        for channels in (inner, inner // 2):
            layers += [ReflectConv(channels, channels // 2, 3, bias=True, doubles=True), InstanceNorm(relu=True)]
        self.up = nn.Sequential(*layers, ReflectConv(width, 4 if mask else 3, 7, bias=True))

    def encode(self, photo: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one map [N, 4 width, H/4, W/4]."""
        return [self.down(photo)]

    def decode(self, features: Sequence[Tensor]) -> ColourAlpha:
        """[N, 4 width, H/4, W/4] -> colour and alpha at full size."""
        return self.split(self.up(features[0]))


class LightTranslator(Translator2d):
    """1.81 million parameters, most of them at a thirty-second of the size, where a pixel costs least.

    Skips are added, batch norms fold into the convolutions on export, and the last layer paints 2x2 sub-pixels, as in
    the mobile student. Features are warped at a half (the skip) and at a quarter (all the rest).

    Args:
        mask: paint a matte, too.
        blocks: residual blocks at a sixteenth and at a thirty-second.
    """

    multiple_of = 32

    def __init__(self, mask: bool = False, blocks: Sequence[int] = (1, 3)) -> None:
        super().__init__(mask)
        self.arguments = {"mask": mask, "blocks": list(blocks)}
        widths = (16, 32, 64, 80, 160)  # at a half, a quarter, ...
        self.down, self.shrink, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for (fine, coarse), count in zip(pairwise((3, *widths)), (0, 0, 0, *blocks), strict=True):
            residual = (ResidualBlock(coarse) for _ in range(count))
            self.down.append(nn.Sequential(conv_bn_relu(fine, coarse, 2), *residual))
        for fine, coarse in pairwise(widths):
            self.shrink.append(nn.Conv2d(coarse, fine, 1))
            self.up.append(conv_bn_relu(fine, fine))
        channels = 4 if mask else 3
        self.paint = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)
        with torch.no_grad():
            # equal sub-pixel filters at the start: no checkerboard (ICNR, arXiv 1707.02937)
            self.paint.weight.copy_(self.paint.weight[::4].repeat_interleave(4, dim=0))
            nn.init.zeros_(self.paint.bias)  # type: ignore[arg-type]

    def encode(self, photo: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> [N, 16, H/2, W/2] and [N, 32, H/4, W/4]."""
        x, maps = photo, []
        for down in self.down:
            x = down(x)
            maps.append(x)
        for level in (3, 2, 1):
            x = self._doubled(level, x, maps[level])
        return [maps[0], x]

    def _doubled(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        """The map below a level, doubled, upon the level's skip."""
        out: Tensor = self.up[level](double(self.shrink[level](x)) + skip)
        return out

    def decode(self, features: Sequence[Tensor]) -> ColourAlpha:
        """Those two maps -> colour and alpha at full size."""
        half, x = features
        return self.split(F.pixel_shuffle(self.paint(self._doubled(0, x, half)), 2))


def translator_network(name: str, mask: bool) -> ResnetTranslator | LightTranslator | MobileStudent:
    """A newly drawn generator by its name in `GENERATORS`.

    Args:
        name: `resnet` (CycleGAN's), `light`, or a tier of the mobile student.
        mask: with a mask head. The mobile student always has one.

    Raises:
        ConfigError: an unknown name, or a tier without a mask head.
    """
    choice("generator", name, GENERATORS)
    if name in TIERS:
        if not mask:
            raise ConfigError("mask_head", f"the student {name} always paints a matte", "Set mask_head=true")
        return MobileStudent(name)
    return ResnetTranslator(mask=mask) if name == LARGE else LightTranslator(mask=mask)


class PatchDiscriminator(nn.Module):
    """Is this patch of the style? [N, 3, H, W] in [-1, 1] -> logits [N, 1, h, w].

    CycleGAN's PatchGAN (arXiv 1703.10593, appendix 7.2) with spectral normalisation in place of instance norm, so that
    two kinds of generated pictures in one pass do not change each other.

    Args:
        width: channels of the first layer.
        layers: convolutions that halve. 3 see 70x70 patches, as published; 2 see 34x34.
        max_width: the most channels of any layer.
    """

    def __init__(self, width: int = 64, layers: int = 3, max_width: int = 512) -> None:
        super().__init__()
        self.arguments = {"width": width, "layers": layers, "max_width": max_width}
        channels = [3, *(min(width * 2**i, max_width) for i in range(layers + 1))]
        strides = [2] * layers + [1]
        self.hidden = nn.ModuleList(
            SpectralConv2d(a, b, stride) for a, b, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.last = SpectralConv2d(channels[-1], 1, stride=1)

    def forward(self, picture: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 1, h, w], higher = of the style."""
        for layer in self.hidden:
            picture = F.leaky_relu(layer(picture), 0.2)
        out: Tensor = self.last(picture)
        return out
