"""Growing a trained StyleGAN2 pair to twice the resolution, and to more channels, without losing what it knows.

Source: progressive growing (Karras et al., arXiv 1710.10196) and function-preserving initialisation (Chen et al.,
arXiv 1511.05641). What differs from both: nothing is faded in. The grown generator starts as the old one enlarged (the
new block adds nothing to the image yet), and the grown discriminator as the old one on the halved image, exactly: its
new block carries x as lrelu(x) and lrelu(-x), from which x = (lrelu(x) - lrelu(-x)) / (1 + slope) comes back. So the
game goes on from its balance, and only the fine detail is left to learn. Channels are added as in Net2Net's wider
networks, but the new ones are drawn afresh and have no effect yet: the weights that read them start at zero.
"""

from __future__ import annotations

from math import sqrt
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from stages.networks.stylegan2 import LRELU_SLOPE, Conv2dLayer, Discriminator, DiscriminatorBlock, Generator

CARRIED = 6  # channels that hold red, green, blue and their negatives

Network = TypeVar("Network", Generator, Discriminator)


def grow(generator: Generator, discriminator: Discriminator) -> tuple[Generator, Discriminator]:
    """Grow a pair to twice the resolution, with new weights from torch's current seed.

    Args:
        generator: trained, at R px; it stays as it is.
        discriminator: its partner; it stays as it is, too.

    Returns:
        Generator and discriminator at 2 R px. Until trained, G'(z) is G(z) upsampled by the network's own filter, and
        D'(x) is D of x downsampled by it.

    Raises:
        ValueError: fewer than six channels at the new resolution, which cannot carry an image.
    """
    return _grow_generator(generator), _grow_discriminator(discriminator)


@torch.no_grad()
def widen(old: Network, channel_base: int) -> Network:
    """Widen a network without changing what it computes; new weights come from torch's current seed.

    Args:
        old: the network; it stays as it is.
        channel_base: R px get ``channel_base / R`` channels, at most `channel_max`.

    Raises:
        ValueError: fewer channels than before, or more at 4 px, where the minibatch statistic has its place.
    """
    before, most = old.arguments["channel_base"], old.arguments["channel_max"]
    if channel_base < before or min(channel_base // 4, most) != min(before // 4, most):
        raise ValueError(f"channel_base {before} cannot be widened to {channel_base}")
    new = type(old)(**old.arguments | {"channel_base": channel_base})
    state = new.state_dict()
    for name, value in old.state_dict().items():
        module = name.rpartition(".")[0]
        gains = [getattr(network.get_submodule(module), "weight_gain", 1.0) for network in (old, new)]
        _widen(value, state[name], gains[0] / gains[1] if name.endswith(".weight") else 1.0)
    new.load_state_dict(state)
    return new


def _widen(old: Tensor, new: Tensor, factor: float) -> None:
    """Lay `old`, times `factor`, over the first places of `new`; old outputs do not read new inputs."""
    if old.ndim == 4:
        new[: len(old), old.shape[1] :] = 0.0
    new[tuple(slice(side) for side in old.shape)] = old * factor


@torch.no_grad()
def _grow_generator(old: Generator) -> Generator:
    new = Generator(**old.arguments | {"img_resolution": 2 * old.img_resolution})
    new.load_state_dict(new.state_dict() | old.state_dict())
    torgb = new.synthesis.get_submodule(f"b{new.img_resolution}.torgb")
    cast(nn.Parameter, torgb.weight).zero_()
    return new


@torch.no_grad()
def _grow_discriminator(old: Discriminator) -> Discriminator:
    size = int(old.arguments["img_resolution"])
    new = Discriminator(**old.arguments | {"img_resolution": 2 * size})
    entry = cast(Conv2dLayer, old.get_submodule(f"b{size}.fromrgb"))
    kept = {name: value for name, value in old.state_dict().items() if ".fromrgb." not in name}
    new.load_state_dict(new.state_dict() | kept)
    block = cast(DiscriminatorBlock, new.get_submodule(f"b{2 * size}"))
    if block.fromrgb.weight.shape[0] < CARRIED:
        raise ValueError(f"{block.fromrgb.weight.shape[0]} channels at {2 * size} px cannot carry an image: widen it")
    _carry(block)
    _read(block.conv1, entry)
    block.skip.weight.zero_()
    return new


def _carry(block: DiscriminatorBlock) -> None:
    """Make fromrgb and conv0 hand on sqrt(2) lrelu(x) and sqrt(2) lrelu(-x) in their first six channels."""
    rgb, conv = block.fromrgb.weight, block.conv0.weight
    rgb[:CARRIED].zero_()
    conv[:CARRIED].zero_()
    back = 1 / ((1 + LRELU_SLOPE) * sqrt(2) * block.conv0.weight_gain)
    for row in range(CARRIED):
        colour, sign = row % 3, 1.0 if row < 3 else -1.0
        rgb[row, colour] = sign / block.fromrgb.weight_gain
        conv[row, colour, 1, 1] = sign * back
        conv[row, colour + 3, 1, 1] = -sign * back


def _read(conv: Conv2dLayer, entry: Conv2dLayer) -> None:
    """Make the new block's downsampling convolution compute what the old `fromrgb` (`entry`) computed."""
    assert conv.bias is not None and entry.bias is not None
    conv.weight.zero_()
    # Both sides end in lrelu; the block's sqrt(1/2) undoes one gain of sqrt(2), which the weights make up for.
    weight = entry.weight[:, :, 0, 0] * entry.weight_gain * sqrt(2)  # [O, 3]
    back = weight / ((1 + LRELU_SLOPE) * sqrt(2) * conv.weight_gain)
    conv.weight[:, :3, 1, 1] = back
    conv.weight[:, 3:CARRIED, 1, 1] = -back
    conv.bias.copy_(entry.bias * sqrt(2))
