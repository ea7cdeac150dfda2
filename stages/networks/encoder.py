"""The encoder that inverts a generator in one pass: photo -> w plus one delta a layer; and its latent discriminator.

Source: e4e (Tov et al., "Designing an Encoder for StyleGAN Image Manipulation", arXiv 2102.02766): a base w and
deltas from it (eq. 1, switched on one after another in training), a discriminator of single w's (sec. 4.1.2); coarse,
medium and fine layers read maps of growing resolution as in pSp (Richardson et al., arXiv 2008.00951, sec. 3.1).
What differs: the trunk is the face reader's, norms folded, and begins with its weights where published encoders begin
with a face recogniser's ResNet-50; the whole has one and a third million parameters and sees pictures of 64 px.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COARSE, MEDIUM = 3, 7  # ws before these are coarse, before that medium, the rest fine (pSp)
STEM = 32  # px at which the trunk begins


class Unit(nn.Sequential):
    """3x3 convolution and ReLU: the face reader's unit with its norm folded into the convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())


class EncoderBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))): [N, C, H, W] (He et al., arXiv 1512.03385, figure 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Unit(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two layers make of x [N, C, H, W]; the shape stays."""
        return F.relu(x + self.second(self.first(x)))


class Tier(nn.Module):
    """One group of layers' latents from feature maps: each squeezed to few channels, flattened, two linear layers.

    Args:
        maps: (channels, pixels a side) of each map read.
        squeeze: channels each map is reduced to.
        hidden: width between the two linear layers.
        count, w_dim: latents it gives.
    """

    def __init__(
        self, maps: Sequence[tuple[int, int]], squeeze: Sequence[int], hidden: int, count: int, w_dim: int
    ) -> None:
        super().__init__()
        self.count = count
        self.squeeze = nn.ModuleList(nn.Conv2d(c, few, 1) for (c, _), few in zip(maps, squeeze, strict=True))
        flat = sum(few * pixels**2 for (_, pixels), few in zip(maps, squeeze, strict=True))
        self.first = nn.Linear(flat, hidden)
        self.second = nn.Linear(hidden, count * w_dim)
        with torch.no_grad():  # near the mean face at first
            self.second.weight.mul_(0.1)
            self.second.bias.zero_()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [N, C, h, w] -> [N, count, w_dim]."""
        flat = [squeeze(x).flatten(1) for squeeze, x in zip(self.squeeze, maps, strict=True)]
        out: Tensor = self.second(F.leaky_relu(self.first(torch.cat(flat, dim=1)), 0.2)).unflatten(1, (self.count, -1))
        return out


def trunk_of(size: int, widths: Sequence[int], pictures: int = 1) -> tuple[nn.Sequential, nn.ModuleList]:
    """A new trunk: blocks of pixels become channels, then three halvings.

    Args:
        size: px a side that it sees, a power of two from 32.
        widths: channels at 32, 16, 8 and 4 px.
        pictures: RGB pictures that it sees side by side, as channels.

    Returns:
        The stem, [N, 3 pictures, size, size] -> [N, widths[0], 32, 32], and the levels after it.
    """
    block = size // STEM
    inputs = 3 * pictures * block**2
    stem = nn.Sequential(nn.PixelUnshuffle(block), Unit(inputs, widths[0]), EncoderBlock(widths[0]))
    levels = nn.ModuleList(
        nn.Sequential(Unit(a, b, 2), EncoderBlock(b)) for a, b in zip(widths[:-1], widths[1:], strict=True)
    )
    return stem, levels


def trunk_maps(stem: nn.Module, levels: nn.ModuleList, images: Tensor, size: int) -> list[Tensor]:
    """Maps at 32, 16, 8 and 4 px of images [N, C, H, W], which are resized to `size` px, antialiased."""
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    maps = [stem(images)]
    for level in levels:
        maps.append(level(maps[-1]))
    return maps


class Encoder(nn.Module):
    """Photos [N, 3, H, W] in [-1, 1] -> ws [N, num_ws, w_dim] of the generator that it was trained against.

    Args:
        num_ws, w_dim: the generator's.
        size: px a side that the network sees, a power of two from 32; other pictures are resized, antialiased.
        widths: channels at 32, 16, 8 and 4 px.
        hidden: width of the heads.
        generator: digest of the generator's weights: to any other, the latents mean something else.
    """

    pictures = 1  # that it sees side by side
    w_avg: Tensor

    def __init__(
        self,
        num_ws: int,
        w_dim: int,
        size: int = 64,
        widths: tuple[int, ...] | list[int] = (24, 64, 96, 112),
        hidden: int = 128,
        generator: str = "",
    ) -> None:
        super().__init__()
        self.arguments = {
            "num_ws": num_ws, "w_dim": w_dim, "size": size, "widths": list(widths), "hidden": hidden,
            "generator": generator,
        }  # fmt: skip
        self.num_ws, self.w_dim, self.size, self.generator = num_ws, w_dim, size, generator

        self.stem, self.levels = trunk_of(size, widths, self.pictures)

        # The heads: w of the first layer, and the deltas of coarse, medium and fine layers.
        four, eight, sixteen = (widths[3], 4), (widths[2], 8), (widths[1], 16)
        self.base = Tier((four, eight), (48, 4), hidden, 1, w_dim)
        counts = [max(min(num_ws, high) - low, 0) for low, high in ((1, COARSE), (COARSE, MEDIUM), (MEDIUM, num_ws))]
        reads = (((four, eight), (24, 8)), ((eight, sixteen), (6, 2)), ((eight, sixteen), (4, 3)))
        self.deltas = nn.ModuleList(
            Tier(maps, squeeze, hidden, count, w_dim)
            for (maps, squeeze), count in zip(reads, counts, strict=True)
            if count  # a small generator has no fine layers
        )
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def trunk(self, images: Tensor) -> list[Tensor]:
        """Feature maps at 32, 16, 8 and 4 px."""
        return trunk_maps(self.stem, self.levels, images, self.size)

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Base w [N, w_dim] and the deltas of all layers but the first, [N, num_ws - 1, w_dim]."""
        _, sixteen, eight, four = self.trunk(images)
        reads = ((four, eight), (eight, sixteen), (eight, sixteen))
        deltas = [tier(maps) for tier, maps in zip(self.deltas, reads, strict=False)]
        return self.w_avg + self.base((four, eight))[:, 0], torch.cat(deltas, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Invert pictures [N, 3, H, W] in [-1, 1] into ws [N, num_ws, w_dim]."""
        base, deltas = self.parts(images)
        return compose(base, deltas)


def compose(base: Tensor, deltas: Tensor, layers: int | None = None) -> Tensor:
    """Compose ws of base w [N, w_dim] and deltas [N, num_ws - 1, w_dim], of which the first `layers` count.

    Args:
        base: latent of the first layer.
        deltas: what the other layers add to it.
        layers: how many deltas count; None for all.

    Returns:
        [N, num_ws, w_dim].
    """
    layers = deltas.shape[1] if layers is None else layers
    offsets = torch.cat([deltas[:, :layers], torch.zeros_like(deltas[:, layers:])], dim=1)
    return base[:, None] + F.pad(offsets, (0, 0, 1, 0))  # the first layer takes the base itself


class IterativeEncoder(Encoder):
    """Photo and what is drawn of it so far -> what to add to the latents (ReStyle, arXiv 2104.02699, sec. 3.2).

    As `Encoder`, whose arguments it takes; its trunk sees both pictures. The first step sees the mean face.
    """

    pictures = 2

    def __init__(
        self,
        num_ws: int,
        w_dim: int,
        size: int = 64,
        widths: tuple[int, ...] | list[int] = (24, 64, 96, 112),
        hidden: int = 128,
        generator: str = "",
    ) -> None:
        super().__init__(num_ws, w_dim, size, widths, hidden, generator)
        self.arguments = dict(self.arguments)  # a network that is stored notes them itself

    def step(self, photos: Tensor, drawn: Tensor, ws: Tensor) -> Tensor:
        """Correct the latents once.

        Args:
            photos: [N, 3, R, R] in [-1, 1].
            drawn: what the generator makes of `ws`, the same shape.
            ws: [N, num_ws, w_dim].

        Returns:
            The next ws, the same shape.
        """
        base, deltas = self.parts(torch.cat([photos, drawn], dim=1))
        return ws + compose(base - self.w_avg, deltas)


class LatentDiscriminator(nn.Module):
    """Does a w come from the mapping network? A four-layer perceptron: [..., w_dim] -> logits [..., 1].

    Args:
        w_dim: the generator's.
        hidden: width of the layers.
    """

    def __init__(self, w_dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.arguments = {"w_dim": w_dim, "hidden": hidden}
        widths = (w_dim, hidden, hidden, hidden)
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def forward(self, w: Tensor) -> Tensor:
        """Logits [..., 1] of latents [..., w_dim]."""
        logits: Tensor = self.layers(w)
        return logits
