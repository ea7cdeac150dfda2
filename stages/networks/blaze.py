"""BlazeStyleGAN: a StyleGAN that draws faces on a phone, its encoder, and the two as one network of a photo.

Source: Jia et al., "BlazeStyleGAN: A Real-Time On-Device StyleGAN" (CVPR workshops 2023): the synthesis block of
figure 1 (upsampling head, two depthwise-separable modulated convolutions with noise, the auxiliary UpToRGB head),
features at a quarter of the teacher's area, the pyramid of heads in training. The encoder is a MobileNetV2 (Sandler et
al., arXiv 1801.04381) that gives offsets to the mean w, as in the FaceStylizer task built on the paper.

Every level's head trains; only the last one draws at inference. (A press summary of the paper says it the other way
round.) Style i of the teacher drives the layer of the student at the same place: no latent is left out.

What differs, and why: the 1x1 convolution of an upsampling head comes first, on a quarter of the pixels, and UpToRGB
upsamples by sub-pixels at its end (Shi et al., arXiv 1609.05158, eq. 4). In the paper's order UpToRGB alone took 13 of
24 ms at 512 px in onnxruntime. The first block has a third modulated convolution in the place of the upsampling, for
the first style. UpToRGB paints a matte beside the colours, so that a face is pasted back without a mask network.
Modulation and demodulation scale activations; no weight depends on the style, so that every runtime converts it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.settings import number
from stages.core.tensors import TensorSpec
from stages.networks.mobile import BatchNorm2d, double
from stages.networks.ops.random_rows import WHOLE, RandomRows
from stages.networks.stylegan2 import LRELU_GAIN, LRELU_SLOPE, MappingNetwork, resolutions

MOST, FEWEST = 256, 16  # channels
SEEN = 128, 256  # px a side that the encoder sees, at least and at most
GRID = 4  # places a side that the encoder's last map is pooled to
# MobileNetV2's blocks (arXiv 1801.04381, table 2): expansion, channels, how many, stride of the first; last channels.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST = 1280


class BlazePicture(NamedTuple):
    """What one head paints."""

    colour: Tensor  # [N, 3, r, r], about [-1, 1]
    alpha: Tensor  # [N, 1, r, r] in [0, 1]: where the head of the drawn person is


def widths(resolution: int, channel_base: int | None = None) -> dict[int, int]:
    """Channels by side of the features, for pictures of `resolution` px.

    Args:
        resolution: px of the pictures.
        channel_base: channels times side; None: the measured choice, 4096 up to 256 px and 2048 above. There the
            generator is as large as onnxruntime draws in the time of the pix2pix tier `mid` at 256 px.

    Returns:
        {4: 256, 8: ..., resolution / 2: ...}, each from 16 to 256.
    """
    base = channel_base or (4096 if resolution <= 256 else 2048)
    return {side: min(MOST, max(FEWEST, base // side)) for side in resolutions(resolution)[:-1]}


def depthwise(channels: int) -> nn.Conv2d:
    """3x3 convolution of each channel by itself, without bias, unit gain at the start."""
    layer = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    nn.init.normal_(layer.weight, std=1 / 3)
    return layer


class SeparableStyledConv(nn.Module):
    """Mod - depthwise 3x3 - 1x1 - Demod, noise, bias, leaky ReLU: [N, I, r, r] -> [N, O, r, r].

    Args:
        inputs, outputs: channels.
        w_dim: of the style.
        noise: whether it takes noise in training.
        activate: False leaves the leaky ReLU out.
    """

    def __init__(self, inputs: int, outputs: int, w_dim: int, noise: bool = True, activate: bool = True) -> None:
        super().__init__()
        self.activate = activate
        self.affine = nn.Linear(w_dim, inputs)
        nn.init.normal_(self.affine.weight, std=w_dim**-0.5)
        nn.init.ones_(self.affine.bias)
        self.spread = depthwise(inputs)
        self.mix = nn.Conv2d(inputs, outputs, 1, bias=False)
        nn.init.normal_(self.mix.weight, std=inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros([])) if noise else None

    def demodulation(self, styles: Tensor) -> Tensor:
        """Factors [N, O] that bring outputs of unit inputs under `styles` [N, I] back to unit variance."""
        taps = self.spread.weight.flatten(1)
        weight = self.mix.weight.flatten(1)
        energy = weight * weight * (taps * taps).sum(dim=1)
        return ((styles * styles) @ energy.t() + 1e-8).rsqrt()

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None, gain: Tensor | float = LRELU_GAIN) -> Tensor:
        """x: [N, I, r, r]; w: [N, w_dim]; noise: [N, 1, r, r], None for none; gain: of the demodulated maps, [O]."""
        styles = self.affine(w)
        x = self.mix(self.spread(x * styles[:, :, None, None]))
        x = x * (self.demodulation(styles) * gain)[:, :, None, None]
        if noise is not None and self.noise_strength is not None:
            x = x + self.noise_strength * noise
        x = x + self.bias[:, None, None]
        return F.leaky_relu(x, LRELU_SLOPE) if self.activate else x


class UpToRGB(nn.Module):
    """The auxiliary head: modulated separable convolution to colour and matte of 2x2 sub-pixels.

    [N, C, r, r] -> `BlazePicture` at 2 r. Each of its 16 maps has a gain of its own: demodulated, they would all have
    the contrast that the features happen to give.
    """

    def __init__(self, channels: int, w_dim: int) -> None:
        super().__init__()
        self.paint = SeparableStyledConv(channels, 16, w_dim, noise=False, activate=False)
        self.gain = nn.Parameter(torch.full([16], 0.5))
        with torch.no_grad():  # equal sub-pixels at the start, or a checkerboard has to be unlearnt
            weight = self.paint.mix.weight
            weight.copy_(weight[::4].repeat_interleave(4, dim=0))

    def forward(self, x: Tensor, w: Tensor) -> BlazePicture:
        """x: [N, C, r, r]; w: [N, w_dim]."""
        x = F.pixel_shuffle(self.paint(x, w, gain=self.gain), 2)
        return BlazePicture(x[:, :3], torch.sigmoid(x[:, 3:]))


class BlazeBlock(nn.Module):
    """One level: upsampling head (or the constant input), two styled convolutions.

    Args:
        inputs: channels of the level below; 0 for the first block.
        outputs: channels of this level.
        w_dim: of the styles.
    """

    def __init__(self, inputs: int, outputs: int, w_dim: int) -> None:
        super().__init__()
        if inputs:
            self.shrink = nn.Conv2d(inputs, outputs, 1)
            nn.init.normal_(self.shrink.weight, std=LRELU_GAIN * inputs**-0.5)
            self.spread = depthwise(outputs)
        else:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
            self.enter = SeparableStyledConv(outputs, outputs, w_dim, noise=False)
        self.first = SeparableStyledConv(outputs, outputs, w_dim)
        self.second = SeparableStyledConv(outputs, outputs, w_dim)

    def forward(self, x: Tensor | None, ws: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x: [N, I, r/2, r/2], None for the first block; ws: its styles [N, 3 or 2, w_dim]; noise: of its two layers.

        Returns:
            Features [N, O, r, r].
        """
        if x is None:
            x = self.enter(self.const[None].expand(len(ws), -1, -1, -1), ws[:, 0])
            ws = ws[:, 1:]
        else:
            x = F.leaky_relu(self.spread(double(self.shrink(x))), LRELU_SLOPE)
        first, second = noise or (None, None)
        out: Tensor = self.second(self.first(x, ws[:, 0], first), ws[:, 1], second)
        return out


class BlazeGenerator(nn.Module):
    """ws [N, num_ws, w_dim] of a StyleGAN2 of the same size -> its picture, by far fewer operations.

    Args:
        w_dim: the teacher's.
        resolution: px a side of the pictures, a power of two from 16.
        channel_base: see `widths`.
        auxiliary: keep the heads below the last, which only a training needs.
    """

    def __init__(
        self, w_dim: int = 512, resolution: int = 256, channel_base: int | None = None, auxiliary: bool = True
    ) -> None:
        super().__init__()
        number("resolution", resolution, 16, 1024, integer=True)
        self.arguments: dict[str, Any] = {
            "w_dim": w_dim, "resolution": resolution, "channel_base": channel_base, "auxiliary": auxiliary,
        }  # fmt: skip
        self.w_dim, self.resolution = w_dim, resolution
        self.sides = list(widths(resolution, channel_base))
        self.num_ws = 2 * len(self.sides) + 2

        channels = 0
        heads = {}
        blocks = []
        for side, width in widths(resolution, channel_base).items():
            blocks.append(BlazeBlock(channels, width, w_dim))
            channels = width
            if auxiliary or side == self.sides[-1]:
                heads[str(2 * side)] = UpToRGB(width, w_dim)
        self.blocks, self.heads = nn.ModuleList(blocks), nn.ModuleDict(heads)

    def features(self, ws: Tensor, draws: RandomRows | None = None) -> list[Tensor]:
        """Features [N, C, r, r] of every level.

        Args:
            ws: [N, num_ws, w_dim].
            draws: where the noise comes from, one row a picture; None: no noise, as in exported files.
        """
        found: list[Tensor] = []
        x: Tensor | None = None
        for index, (side, block) in enumerate(zip(self.sides, self.blocks, strict=True)):
            noise = None
            if draws is not None:

                def drawn(n: int, side: int = side) -> Tensor:
                    return torch.randn(n, 2, 1, side, side, device=ws.device)

                noise = cast(tuple[Tensor, Tensor], draws.own(drawn, len(ws)).unbind(1))
            first = 2 * index + 1 if index else 0
            x = block(x, ws[:, first : 2 * index + 3], noise)
            found.append(x)
        return found

    def pyramid(self, ws: Tensor, draws: RandomRows | None = WHOLE) -> list[BlazePicture]:
        """What every head paints, at 8, 16, ... px: for training. Arguments as `features`."""
        return [
            self.heads[str(2 * side)](x, ws[:, 2 * index + 3])
            for index, (side, x) in enumerate(zip(self.sides, self.features(ws, draws), strict=True))
            if str(2 * side) in self.heads
        ]

    def forward(self, ws: Tensor) -> BlazePicture:
        """The last head's picture of ws [N, num_ws, w_dim], without noise."""
        out: BlazePicture = self.heads[str(self.resolution)](self.features(ws)[-1], ws[:, -1])
        return out


def inference(generator: BlazeGenerator) -> BlazeGenerator:
    """A copy without the auxiliary heads, in eval mode: what is exported and counted."""
    twin = BlazeGenerator(**{**generator.arguments, "auxiliary": False})
    wanted = twin.state_dict().keys()
    twin.load_state_dict({name: value for name, value in generator.state_dict().items() if name in wanted})
    return twin.eval().requires_grad_(False)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (arXiv 1801.04381, figure 3b): x [N, C, H, W] -> [N, D, H/s, W/s].

    Args:
        inputs, outputs: C and D.
        stride: s; with 1 and C = D the input is added.
        expansion: times C, the channels between.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        between = inputs * expansion
        self.added = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *(_filtered(inputs, between, 1) if expansion > 1 else ()),
            *_filtered(between, between, 3, stride, between),
            nn.Conv2d(between, outputs, 1, bias=False),
            BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.layers(x)
        return x + out if self.added else out


def _filtered(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    """Convolution, batch norm, ReLU6."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return convolution, BatchNorm2d(outputs), nn.ReLU6()


def mobilenet_v2(width: float = 1.0) -> nn.Sequential:
    """The features of MobileNetV2 (arXiv 1801.04381, table 2): x [N, 3, H, W] -> [N, LAST, H/32, W/32].

    Args:
        width: factor of the channels, which are multiples of 8; the last layer stays as it is below 1.
    """
    channels = _eights(32 * width)
    blocks: list[nn.Module] = [nn.Sequential(*_filtered(3, channels, 3, 2))]
    for expansion, wide, count, stride in STAGES:
        for index in range(count):
            blocks.append(InvertedResidual(channels, _eights(wide * width), 1 if index else stride, expansion))
            channels = _eights(wide * width)
    trunk = nn.Sequential(*blocks, nn.Sequential(*_filtered(channels, LAST, 1)))

    # Variances of the signal stay the same on the way.
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return trunk


def _eights(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and not a tenth below."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


class BlazeEncoder(nn.Module):
    """Photos [N, 3, H, W] in [-1, 1] -> ws [N, num_ws, w_dim]: the mean w and one offset for each layer.

    Args:
        num_ws, w_dim: the generator's.
        resolution: px a side that it was trained at; other photos are resized.
        width: of the MobileNetV2, 1 as published.
        generator: digest of the generator that it was trained against: to any other, the latents mean something else.
    """

    w_avg: Tensor

    def __init__(self, num_ws: int, w_dim: int, resolution: int, width: float = 0.5, generator: str = "") -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "num_ws": num_ws, "w_dim": w_dim, "resolution": resolution, "width": width, "generator": generator,
        }  # fmt: skip
        self.num_ws, self.w_dim, self.generator = num_ws, w_dim, generator
        self.side = min(max(resolution, SEEN[0]), SEEN[1])
        self.trunk = mobilenet_v2(width)
        self.squeeze = nn.Conv2d(LAST, 64, 1)
        self.hidden = nn.Linear(64 * GRID**2, 256)
        self.offsets = nn.Linear(256, num_ws * w_dim)
        with torch.no_grad():  # near the mean face at first
            self.offsets.weight.mul_(0.1)
            self.offsets.bias.zero_()
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, photos: Tensor) -> Tensor:
        """Encode photos [N, 3, H, W] in [-1, 1]."""
        x = self.squeeze(self.trunk(fitted(photos, self.side)))
        if x.shape[-1] != GRID:  # of photos of 128 px it has that size already
            x = F.avg_pool2d(x, x.shape[-1] // GRID)
        x = F.leaky_relu(self.hidden(x.flatten(1)), LRELU_SLOPE)
        out: Tensor = self.w_avg + self.offsets(x).unflatten(1, (self.num_ws, self.w_dim))
        return out


def fitted(photos: Tensor, side: int) -> Tensor:
    """Photos [N, C, H, W] at side x side px: means of areas where that divides, else bilinear."""
    height, width = photos.shape[-2:]
    if (height, width) == (side, side):
        return photos
    if height == width and height % side == 0:
        return F.avg_pool2d(photos, height // side)
    smaller = max(height, width) > side
    return F.interpolate(photos, (side, side), mode="bilinear", align_corners=False, antialias=smaller)


class BlazeFaces(nn.Module):
    """Faces from scratch: z [N, z_dim] -> pictures [N, 3, R, R] in [-1, 1].

    Args:
        z_dim, w_dim, num_layers, lr_multiplier: of the teacher's mapping network.
        resolution, channel_base: of the `BlazeGenerator`.
        psi: truncation, 1 for none.
    """

    multiple_of = 8

    def __init__(
        self,
        z_dim: int = 512,
        w_dim: int = 512,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        resolution: int = 256,
        channel_base: int | None = None,
        psi: float = 0.7,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.generator = BlazeGenerator(w_dim, resolution, channel_base, auxiliary=False)
        self.mapping = MappingNetwork(z_dim, w_dim, self.generator.num_ws, num_layers, lr_multiplier)
        self.psi, self.side, self.z_dim = psi, resolution, z_dim
        self.inputs = (TensorSpec("z", z_dim, -2.0, 2.0, spatial=False, note="drawn from N(0, 1)"),)
        self.outputs = (TensorSpec("output", 3, note="RGB; a face of nobody"),)

    def forward(self, z: Tensor) -> Tensor:
        """Draw pictures of z [N, z_dim]."""
        ws = self.mapping(z, update_w_avg=False)
        ws = self.mapping.w_avg + self.psi * (ws - self.mapping.w_avg)  # without lerp, which converters lack
        out: Tensor = self.generator(ws).colour.clamp(-1, 1)
        return out

    def compute(self, z: Tensor) -> tuple[Tensor]:
        """As `forward`, for the export."""
        return (self(z),)


class BlazeStylizer(nn.Module):
    """Encoder and generator as one network: photo -> the drawn head over the photo, and the matte.

    Args:
        w_dim, resolution, channel_base: of the `BlazeGenerator`.
        encoder_width: of the `BlazeEncoder`.
        encoder_of: digest of the generator that the encoder was trained against, see `BlazeEncoder`.
    """

    multiple_of = 8
    whole_frames = False  # it draws a face whatever it sees: a photo without one must be left as it is
    inputs = (TensorSpec("photo", 3, note="RGB; x / 127.5 - 1 of 8-bit values; a face's square"),)
    outputs = (
        TensorSpec("output", 3, note="RGB; photo + alpha * (colour - photo)"),
        TensorSpec("alpha", 1, 0.0, 1.0, note="matte of the drawn head; where it is 0 the output is the photo"),
    )

    def __init__(
        self,
        w_dim: int = 512,
        resolution: int = 256,
        channel_base: int | None = None,
        encoder_width: float = 0.5,
        encoder_of: str = "",
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.generator = BlazeGenerator(w_dim, resolution, channel_base, auxiliary=False)
        self.encoder = BlazeEncoder(self.generator.num_ws, w_dim, resolution, encoder_width, encoder_of)
        self.side = resolution

    def compute(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the person of a photo [N, 3, R, R] in [-1, 1]: the picture of the same shape, and alpha [N, 1, R, R]."""
        colour, alpha = self.generator(self.encoder(photo))
        return photo + alpha * (colour.clamp(-1, 1) - photo), alpha

    def forward(self, photo: Tensor) -> Tensor:
        """Draw the persons of photos [N, 3, H, W] of any size: what is painted is resized to theirs."""
        if photo.shape[-2:] == (self.side, self.side):
            return self.compute(photo)[0]
        painted = torch.cat(self.generator(self.encoder(fitted(photo, self.side))), dim=1)
        painted = F.interpolate(painted, photo.shape[-2:], mode="bilinear", align_corners=False)
        return photo + painted[:, 3:] * (painted[:, :3].clamp(-1, 1) - photo)
