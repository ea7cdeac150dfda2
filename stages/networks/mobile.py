"""The mobile student: a plain convolution network that repaints a head and leaves the rest of the photo alone.

Lineage: the encoder / residual blocks / decoder of Johnson et al. 2016 (arXiv 1603.08155, supplement table 1), narrowed
and made cheap by what was measured on phone runtimes: three stride-2 convolutions so that the residual blocks work at
1/8 of the size, skips that are *added* (a concatenation doubles the next convolution), bilinear upsampling, and
sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158, eq. 4) only as the very last layer.

What differs from the papers: BatchNorm and ReLU everywhere (the exporter folds the first, the runtime fuses the second;
instance norm costs a pass over the feature map at run time); zero padding; no depthwise convolutions (they lose on
phones); and the last layer paints four channels, colour and alpha, blended over the input:

    output = photo + alpha * (colour - photo)

so that the raw output's background is the photo's own wherever alpha is 0, and alpha is a matte for whoever needs one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core.settings import choice, number
from stages.core.tensors import TensorSpec


class Widths(NamedTuple):
    """Channels at a half, a quarter and an eighth of the size; residual blocks at the eighth."""

    half: int
    quarter: int
    eighth: int
    blocks: int


# Chosen by measured milliseconds (`python -m tests.bench.student`) and not by MACs, and by what the milliseconds buy:
# at equal cost a wider half, where the outlines are painted, beats deeper blocks. On 64 people painted for this choice
# alone, at 128 px (400 pairs, 400 updates), 32-32-64 with 3 blocks had 0.51 of the twins' edge_clarity and 0.44 of the
# photos' face error, 16-32-64 with 6 blocks 0.43 and 0.47, and with 3 blocks (0.7 of the cost) 0.42 and 0.47. The 24
# channels of `low` fill a phone's 4 lanes and AVX2's 8, but AVX-512's 16 only by three quarters: there it costs nearly
# what `mid` does, where 16-32-48 with 3 blocks and as many MACs is a third cheaper, and 3 % less sharp.
TIERS: dict[str, Widths] = {
    "nano": Widths(16, 16, 32, 2),
    "low": Widths(24, 24, 48, 2),
    "mid": Widths(32, 32, 64, 3),
    "high": Widths(48, 64, 96, 5),
}


class Layers(NamedTuple):
    """What the student paints, before blending."""

    colour: Tensor  # [N, 3, H, W] in [-1, 1]
    alpha: Tensor  # [N, 1, H, W] in [0, 1]


class Parts(Protocol):
    """The parts of one batch that are computed at the same time, elsewhere: what their statistics are taken over."""

    count: int  # parts, this one included

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of each part's `tensor`, one shape in all. Gradients flow back to every part."""
        ...


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of a whole batch whose parts are computed at the same time.

    By itself it is torch's own. `normalised_together` says where the other parts are. (torch's SyncBatchNorm runs on
    CUDA only.) Parts that follow each other are normalised apart.
    """

    parts: Parts | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], same shape."""
        if not self.training or self.parts is None:
            return super().forward(x)

        # Mean and variance of all parts. The mean's gradient must flow: it depends on every picture.
        x = x.float()
        mean = self.parts.mean(x.mean(dim=(0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = self.parts.mean(centred.square().mean(dim=(0, 2, 3)))

        # Running statistics as torch keeps them, the variance unbiased.
        with torch.no_grad():
            count = x.numel() // x.shape[1] * self.parts.count
            assert self.momentum is not None and self.running_mean is not None
            assert self.running_var is not None and self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


@contextmanager
def normalised_together(network: nn.Module, parts: Parts | None) -> Iterator[None]:
    """Within the block, the batch norms of `network` take the statistics of all `parts`; None: of the batch alone."""
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    for norm in norms:
        norm.parts = parts
    try:
        yield
    finally:
        for norm in norms:
            norm.parts = None


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Within the block, the batch norms of `network` normalise as ever, but what they will use afterwards stays."""
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution (no bias: the norm has one), BatchNorm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, BatchNorm2d(outputs), nn.ReLU())


class ResidualBlock(nn.Module):
    """x + BN(conv(ReLU(BN(conv(x))))): the identity path stays free of norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(channels, channels)
        norm = BatchNorm2d(channels)
        # Each block starts as the identity, so depth costs nothing at the start of a short training.
        nn.init.zeros_(norm.weight)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two layers make of x [N, C, H, W]; the shape stays."""
        out: Tensor = x + self.second(self.first(x))
        return out


class MobileStudent(nn.Module):
    """Photo -> stylised photo, height and width any multiples of 8.

    tier: one of TIERS. Raises ConfigError for another name.
    """

    # What its exported files take and give, see stages.export.contract.Exportable.
    multiple_of = 8
    inputs = (TensorSpec("photo", 3, note="RGB; x / 127.5 - 1 of 8-bit values"),)
    outputs = (
        TensorSpec("output", 3, note="RGB; photo + alpha * (colour - photo)"),
        TensorSpec("alpha", 1, 0.0, 1.0, note="matte; where it is 0 the output is the photo"),
    )

    def __init__(self, tier: str = "mid") -> None:
        super().__init__()
        choice("tier", tier, TIERS)
        self.arguments = {"tier": tier}
        half, quarter, eighth, blocks = TIERS[tier]

        self.down2 = conv_bn_relu(3, half, stride=2)
        self.down4 = conv_bn_relu(half, quarter, stride=2)
        self.down8 = conv_bn_relu(quarter, eighth, stride=2)
        self.blocks = nn.Sequential(*(ResidualBlock(eighth) for _ in range(blocks)))

        # Channels shrink before the upsampling (1x1, at the small size) and the 3x3 comes after the skip is added:
        # 1.3 ms cheaper at 256 px than upsampling all channels, and the 3x3 sees the fine features too.
        self.shrink4 = nn.Conv2d(eighth, quarter, 1)
        self.up4 = conv_bn_relu(quarter, quarter)
        self.shrink2 = nn.Conv2d(quarter, half, 1)
        self.up2 = conv_bn_relu(half, half)
        self.paint = nn.Conv2d(half, 16, 3, padding=1)  # (colour, alpha) for each of 2x2 sub-pixels

        with torch.no_grad():
            # ICNR (Aitken et al. 2017, arXiv 1707.02937): equal sub-pixel filters = no checkerboard at the start.
            self.paint.weight.copy_(self.paint.weight[::4].repeat_interleave(4, dim=0))
            nn.init.zeros_(self.paint.bias)  # type: ignore[arg-type]

    def encode(self, photo: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [-1, 1] -> [N, half, H/2, W/2] and all that lies deeper: [N, quarter, H/4, W/4]."""
        half = self.down2(photo)  # [N, half, H/2, W/2]
        quarter = self.down4(half)  # [N, quarter, H/4, W/4]
        x = self.blocks(self.down8(quarter))  # [N, eighth, H/8, W/8]
        return [half, self.up4(double(self.shrink4(x)) + quarter)]

    def decode(self, features: Sequence[Tensor]) -> Layers:
        """The maps of `encode` -> colour and alpha."""
        half, x = features
        x = self.up2(double(self.shrink2(x)) + half)  # [N, half, H/2, W/2]
        x = F.pixel_shuffle(self.paint(x), 2)  # [N, 4, H, W]
        return Layers(torch.tanh(x[:, :3]), torch.sigmoid(x[:, 3:]))

    def layers(self, photo: Tensor) -> Layers:
        """Compute colour and alpha of a photo [N, 3, H, W] in [-1, 1], before blending."""
        return self.decode(self.encode(photo))

    def forward(self, photo: Tensor) -> Tensor:
        """Stylise a photo [N, 3, H, W] in [-1, 1]; shape and range stay."""
        return blend(photo, self.layers(photo))

    def compute(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Stylise a photo [N, 3, H, W] in [-1, 1]; also return alpha [N, 1, H, W] in [0, 1]."""
        layers = self.layers(photo)
        return blend(photo, layers), layers.alpha


def blend(photo: Tensor, layers: Layers) -> Tensor:
    """Colour over photo by alpha: [N, 3, H, W] in [-1, 1]."""
    return photo + layers.alpha * (layers.colour - photo)


def double(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2 H, 2 W], bilinear, corners not aligned (what phone runtimes do fastest)."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def count_parameters(module: nn.Module) -> int:
    """Parameters of a network, frozen ones too (an averaged network's are)."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, size: int, inputs: Sequence[Tensor] | None = None) -> int:
    """Multiply-accumulates of the convolutions for one image of size x size (norms fold away, the rest is noise).

    Args:
        module: any network.
        size: px a side, at least 8.
        inputs: what `module` is called with; None: one photo [1, 3, size, size].
    """
    number("size", size, low=8, integer=True)
    total = 0

    def count(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d)]
    training = module.training
    try:
        with torch.no_grad():
            device = next(module.parameters()).device
            module.eval()(*(inputs or [torch.zeros(1, 3, size, size, device=device)]))
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return total
