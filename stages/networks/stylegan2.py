"""StyleGAN2: style-based generator and residual discriminator, arranged for speed on a CPU.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (arXiv 1912.04958): weight demodulation
eq. 1-3 and figure 2d, skip generator and residual discriminator figure 7; noise, mapping and truncation as in StyleGAN
(arXiv 1812.04948); the minibatch statistic of arXiv 1710.10196. Parameter and buffer names are those of the official
PyTorch release, so its weights load without a table.

What differs, with equal results (tests/golden): modulation scales the activations and demodulation is the closed form
``rsqrt(s^2 @ sum_k W^2)``, so that no per-sample weight is built; resampling is one depthwise (transposed) convolution,
never zero insertion; the gain of a leaky ReLU is folded into what feeds it; tensors are channels-last.

Precision: a network computes its convolutions in `compute_dtype`, float32 unless a training sets bfloat16, which stands
in for the release's float16 (same range as float32, so no loss scaling and no overflow to normalise away). The argument
`num_fp16_res` says where: n > 0 means the n highest resolutions, as in the official files, and 0 every resolution,
which is what pays on CPUs that multiply bfloat16. Images, toRGB's sums over resolutions, the minibatch statistic and
what follows it stay in float32 either way.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.ops.random_rows import WHOLE, RandomRows
from stages.networks.ops.resample import conv2d_resample, setup_filter, upsample2d

FIR_TAPS = (1.0, 3.0, 3.0, 1.0)
LRELU_SLOPE = 0.2
LRELU_GAIN = sqrt(2.0)


# ---------------------------------------------------------------------------------------------------------------------
# Operators


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Demodulation coefficients [N, O] of `weight` [O, I, k, k] under `styles` [N, I] (eq. 3), in closed form."""
    return (styles.square() @ weight.square().sum(dim=(2, 3)).t() + 1e-8).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    bias: Tensor | None = None,
    gain: float = 1.0,
) -> Tensor:
    """Convolution whose input channels are scaled by `styles` and whose output is rescaled to unit variance (eq. 1-3).

    Args:
        x: [N, I, H, W].
        weight: [O, I, k, k].
        styles: [N, I].
        noise: broadcastable to the output; None adds none.
        up: upsampling factor.
        padding: pixels on each side, relative to the upsampled map.
        resample_filter: of the upsampling; None for `up` = 1.
        demodulate: rescale to unit variance.
        flip_weight: true means correlation, what torch calls a convolution.
        bias: [O].
        gain: factor on everything.

    Returns:
        ``gain * (conv + noise + bias)``, [N, O, H * up, W * up].
    """
    x = x * styles.to(x.dtype)[:, :, None, None]
    x = conv2d_resample(x, weight.to(x.dtype), resample_filter, up=up, padding=padding, flip_weight=flip_weight)
    shift = None if bias is None else (bias * gain).to(x.dtype)[:, None, None]
    if demodulate:
        scale = (demodulation(weight, styles) * gain).to(x.dtype)[:, :, None, None]
        x = x * scale if shift is None else torch.addcmul(shift, x, scale)
    elif shift is not None:
        x = x * gain + shift if gain != 1 else x + shift
    elif gain != 1:
        x = x * gain
    if noise is not None:
        x = x + (noise * gain).to(x.dtype)
    return x


# name -> function of x and slope, and the gain that keeps the variance
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float | None], Tensor], float]] = {
    "linear": (lambda x, alpha: x, 1.0),
    "relu": (lambda x, alpha: F.relu(x), sqrt(2.0)),
    "lrelu": (lambda x, alpha: F.leaky_relu(x, LRELU_SLOPE if alpha is None else alpha), LRELU_GAIN),
    "swish": (lambda x, alpha: x * torch.sigmoid(x), sqrt(2.0)),
    "tanh": (lambda x, alpha: torch.tanh(x), 1.0),
    "sigmoid": (lambda x, alpha: torch.sigmoid(x), 1.0),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Add bias `b` [C] along axis 1, activate, multiply by `gain` (default: its own), clamp to ±`clamp`."""
    function, default_gain = _ACTIVATIONS[act]
    if b is not None:
        x = x + b.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])
    x = function(x, alpha)
    gain = default_gain if gain is None else gain
    x = x if gain == 1 else x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int = 1) -> Tensor:
    """Append the mean standard deviation over groups of samples as `num_channels` channels (arXiv 1710.10196, sec. 3).

    Args:
        x: [N, C, H, W].
        group_size: samples in a group, whose members lie N / group apart; None: the batch is one group.
        num_channels: channels to append.

    Returns:
        [N, C + num_channels, H, W].

    Raises:
        ValueError: N is not a multiple of the group size.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n % group:
        raise ValueError(f"minibatch_std: {n} samples do not divide into groups of {group}")
    y = x.reshape(group, n // group, num_channels, c // num_channels, h, w).float()
    y = (y - y.mean(dim=0)).square().mean(dim=0).add(1e-8).sqrt()
    y = y.mean(dim=(2, 3, 4))  # [N / group, F]
    y = y.repeat(group, 1)[:, :, None, None].expand(n, num_channels, h, w)
    return torch.cat([x, y.to(x.dtype)], dim=1)


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of [N, C] to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


# ---------------------------------------------------------------------------------------------------------------------
# Layers


class FullyConnectedLayer(nn.Module):
    """Linear layer with equalised learning rate: [N, in] -> [N, out]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = lr_multiplier / sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, in] to [N, out]."""
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return bias_act(x, act=self.act)


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate, optionally downsampling: [N, I, H, W] -> [N, O, H/down, W/down]."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        act: str = "linear",
        down: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act, self.down, self.conv_clamp = act, down, conv_clamp
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("resample_filter", setup_filter(FIR_TAPS))
        self.weight_gain = 1 / sqrt(in_channels * kernel_size**2)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """`gain` multiplies the output; clamping follows it."""
        # Both activations are positively homogeneous, so that their gain may multiply weight and bias instead.
        total = gain * (LRELU_GAIN if self.act == "lrelu" else 1.0)
        weight = (self.weight * (self.weight_gain * total)).to(x.dtype)
        bias = None if self.bias is None else (self.bias * total).to(x.dtype)
        f = self.resample_filter if self.down > 1 else None
        x = conv2d_resample(x, weight, f, down=self.down, padding=self.padding, bias=bias)
        if self.act == "lrelu":
            x = F.leaky_relu_(x, LRELU_SLOPE)
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp * gain, self.conv_clamp * gain)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: [N, I, H, W] -> [N, O, H * up, W * up]."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, up: int, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.conv_clamp = resolution, up, conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", setup_filter(FIR_TAPS))

    def noise(self, n: int, mode: str, draws: RandomRows = WHOLE) -> Tensor | None:
        """Noise image to add: [N, 1, r, r] for mode ``random``, [r, r] for ``const``, None for ``none``."""
        if mode == "none":
            return None
        if mode == "random":
            shape, device = self.noise_const.shape, self.noise_const.device
            unit = draws.own(lambda count: torch.randn(count, 1, *shape, device=device), n)
        else:
            unit = self.noise_const
        return unit * self.noise_strength

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random", draws: RandomRows = WHOLE) -> Tensor:
        """x: [N, I, H, W]; w: [N, w_dim]; draws: where ``random`` noise comes from."""
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=self.noise(len(x), noise_mode, draws),
            up=self.up,
            padding=1,
            resample_filter=self.resample_filter if self.up > 1 else None,
            flip_weight=self.up == 1,  # the official weights store upsampling kernels flipped
            bias=self.bias,
            gain=LRELU_GAIN,
        )
        x = F.leaky_relu_(x, LRELU_SLOPE)
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation: [N, I, H, W] -> [N, channels, H, W]."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.weight_gain = 1 / sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Turn activations [N, C, H, W] into RGB [N, 3, H, W] in the style w [N, w_dim]."""
        styles = self.affine(w) * self.weight_gain
        # Three output channels: scaling the weight per sample and multiplying matrices skips a pass over x.
        weight = (self.weight.flatten(1)[None] * styles[:, None, :]).to(x.dtype)  # [N, 3, I]
        n, _, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n, height * width, -1)  # a view when channels-last
        y = torch.baddbmm(self.bias.to(x.dtype), rows, weight.transpose(1, 2))  # [N, HW, 3]
        y = y.reshape(n, height, width, -1).permute(0, 3, 1, 2)
        return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)


# ---------------------------------------------------------------------------------------------------------------------
# Generator


class MappingNetwork(nn.Module):
    """z [N, z_dim] -> ws [N, num_ws, w_dim], with the running mean of w for the truncation trick."""

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.995,
    ) -> None:
        super().__init__()
        self.num_ws, self.num_layers, self.w_avg_beta = num_ws, num_layers, w_avg_beta
        for i in range(num_layers):
            layer = FullyConnectedLayer(z_dim if i == 0 else w_dim, w_dim, act="lrelu", lr_multiplier=lr_multiplier)
            setattr(self, f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self, z: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None, update_w_avg: bool = True
    ) -> Tensor:
        """Map latents to styles. Training mode moves w_avg.

        Args:
            z: [N, z_dim].
            truncation_psi: share of the way from w_avg to w that is kept; 1 keeps w.
            truncation_cutoff: how many ws from the first are truncated; None: all.
            update_w_avg: false leaves w_avg alone in training mode, too.

        Returns:
            ws [N, num_ws, w_dim].
        """
        w = normalize_2nd_moment(z)
        for i in range(self.num_layers):
            w = getattr(self, f"fc{i}")(w)
        if self.training and update_w_avg:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        ws = w[:, None, :].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        cut = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cut], truncation_psi), ws[:, cut:]], dim=1)


class SynthesisBlock(nn.Module):
    """One resolution: (upsampling convolution,) convolution, and the block's contribution to the image."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.first = in_channels == 0
        self.num_conv = 1 if self.first else 2
        self.register_buffer("resample_filter", setup_filter(FIR_TAPS))
        if self.first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, 2, conv_clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, 1, conv_clamp)
        self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        noise_mode: str,
        dtype: torch.dtype,
        draws: RandomRows = WHOLE,
    ) -> tuple[Tensor, Tensor]:
        """x: [N, I, r/2, r/2]; img: [N, 3, r/2, r/2]; ws: [N, num_conv + 1, w_dim]. Returns x and img at r."""
        if self.first:
            x = self.const.to(dtype)[None].expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        else:
            assert x is not None  # the features of the block before
            x = self.conv0(x.to(dtype), ws[:, 0], noise_mode, draws)
        x = self.conv1(x, ws[:, self.num_conv - 1], noise_mode, draws)
        rgb = self.torgb(x, ws[:, self.num_conv]).float()
        return x, rgb if img is None else upsample2d(img, self.resample_filter).add_(rgb)


class SynthesisNetwork(nn.Module):
    """ws [N, num_ws, w_dim] -> images [N, channels, R, R], nominally in [-1, 1]."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        num_fp16_res: int = 0,
    ) -> None:
        super().__init__()
        self.compute_dtype = torch.float32
        self.block_resolutions = resolutions(img_resolution)
        self.reduced_from = lowest_reduced(img_resolution, num_fp16_res)
        channels = 0
        for r in self.block_resolutions:
            out = min(channel_base // r, channel_max)
            setattr(self, f"b{r}", SynthesisBlock(channels, out, w_dim, r, img_channels, conv_clamp))
            channels = out
        self.num_ws = 2 * len(self.block_resolutions)

    def forward(self, ws: Tensor, noise_mode: str = "random", draws: RandomRows = WHOLE) -> Tensor:
        """Draw the pictures of `ws`.

        Args:
            ws: [N, num_ws, w_dim].
            noise_mode: ``random`` (training), ``const`` (the stored noise) or ``none``.
            draws: where random noise comes from, one row a picture.

        Returns:
            [N, channels, R, R].
        """
        x: Tensor | None = None
        img: Tensor | None = None
        start = 0
        for r in self.block_resolutions:
            block = getattr(self, f"b{r}")
            dtype = self.compute_dtype if r >= self.reduced_from else torch.float32
            # toRGB shares its w with the first convolution of the next block.
            x, img = block(x, img, ws[:, start : start + block.num_conv + 1], noise_mode, dtype, draws)
            start += block.num_conv
        assert img is not None  # there is a 4 px block at least
        return img


class Generator(nn.Module):
    """StyleGAN2 generator: z [N, z_dim] -> images [N, channels, R, R], nominally in [-1, 1]."""

    def __init__(
        self,
        z_dim: int = 512,
        w_dim: int = 512,
        img_resolution: int = 64,
        img_channels: int = 3,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        num_fp16_res: int = 0,
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.z_dim, self.w_dim, self.img_resolution = z_dim, w_dim, img_resolution
        self.synthesis = SynthesisNetwork(
            w_dim, img_resolution, img_channels, channel_base, channel_max, conv_clamp, num_fp16_res
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, w_dim, self.num_ws, num_layers, lr_multiplier)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, z: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None, noise_mode: str = "random"
    ) -> Tensor:
        """Draw pictures [N, 3, R, R], about [-1, 1], of latents z [N, z_dim]."""
        out: Tensor = self.synthesis(self.mapping(z, truncation_psi, truncation_cutoff), noise_mode)
        return out


# ---------------------------------------------------------------------------------------------------------------------
# Discriminator


class DiscriminatorBlock(nn.Module):
    """Residual block, halving the resolution; the first one also reads the image."""

    resample_filter: Tensor

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, img_channels: int, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.register_buffer("resample_filter", setup_filter(FIR_TAPS))
        if in_channels == 0:
            self.fromrgb = Conv2dLayer(img_channels, channels, 1, act="lrelu", conv_clamp=conv_clamp)
        self.conv0 = Conv2dLayer(channels, channels, 3, act="lrelu", conv_clamp=conv_clamp)
        self.conv1 = Conv2dLayer(channels, out_channels, 3, act="lrelu", down=2, conv_clamp=conv_clamp)
        self.skip = Conv2dLayer(channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, r, r] features, or the image for the first block. Returns [N, C', r/2, r/2]."""
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        skip = self.skip(x, gain=sqrt(0.5))
        out: Tensor = skip.add_(self.conv1(self.conv0(x), gain=sqrt(0.5)))
        return out


class DiscriminatorEpilogue(nn.Module):
    """Minibatch statistic and the final layers: [N, C, 4, 4] -> [N, 1]."""

    def __init__(self, channels: int, resolution: int, mbstd_group_size: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.mbstd_group_size = mbstd_group_size
        self.conv = Conv2dLayer(channels + 1, channels, 3, act="lrelu", conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(channels * resolution**2, channels, act="lrelu")
        self.out = FullyConnectedLayer(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 1] of activations [N, C, 4, 4]."""
        x = minibatch_std(x.float(), self.mbstd_group_size)
        out: Tensor = self.out(self.fc(self.conv(x).flatten(1)))
        return out


class Discriminator(nn.Module):
    """StyleGAN2 residual discriminator: images [N, channels, R, R] in [-1, 1] -> logits [N, 1], high for real."""

    def __init__(
        self,
        img_resolution: int = 64,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        mbstd_group_size: int = 4,
        num_fp16_res: int = 0,
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.compute_dtype = torch.float32
        self.reduced_from = lowest_reduced(img_resolution, num_fp16_res)
        self.block_resolutions = resolutions(img_resolution)[:0:-1]
        channels = {r: min(channel_base // r, channel_max) for r in resolutions(img_resolution)}
        for r in self.block_resolutions:
            first = r == img_resolution
            block = DiscriminatorBlock(
                0 if first else channels[r], channels[r], channels[r // 2], img_channels, conv_clamp
            )
            setattr(self, f"b{r}", block)
        self.b4 = DiscriminatorEpilogue(channels[4], 4, mbstd_group_size, conv_clamp)
        self.to(memory_format=torch.channels_last)

    def forward(self, img: Tensor) -> Tensor:
        """Logits [N, 1] of pictures [N, 3, R, R] in [-1, 1]."""
        x = img.contiguous(memory_format=torch.channels_last)
        for r in self.block_resolutions:
            x = x.to(self.compute_dtype if r >= self.reduced_from else torch.float32)
            x = getattr(self, f"b{r}")(x)
        out: Tensor = self.b4(x)
        return out

    def layers_from_image(self) -> list[nn.Module]:
        """Layers in the order freeze-D counts them: fromrgb, then conv0, conv1, skip of each block, conv, fc, out."""
        layers: list[nn.Module] = [getattr(self, f"b{self.block_resolutions[0]}").fromrgb]
        for r in self.block_resolutions:
            block = getattr(self, f"b{r}")
            layers += [block.conv0, block.conv1, block.skip]
        return [*layers, self.b4.conv, self.b4.fc, self.b4.out]


def resolutions(img_resolution: int) -> list[int]:
    """[4, 8, ..., img_resolution].

    Raises:
        ValueError: the resolution is not a power of two from 8 on.
    """
    exponent = int(log2(img_resolution)) if img_resolution > 0 else 0
    if exponent < 3 or 2**exponent != img_resolution:
        raise ValueError(f"resolution {img_resolution} is not a power of two from 8 on")
    return [2**i for i in range(2, exponent + 1)]


def lowest_reduced(img_resolution: int, num_fp16_res: int) -> int:
    """The lowest resolution computed in `compute_dtype`.

    Args:
        img_resolution: px.
        num_fp16_res: how many of the highest resolutions are; 0: all of them.

    Returns:
        px; 8 at least, or 4 for all.

    Raises:
        ValueError: `num_fp16_res` is negative.
    """
    if num_fp16_res < 0:
        raise ValueError(f"num_fp16_res {num_fp16_res} is negative")
    return max(2 * img_resolution >> num_fp16_res, 8) if num_fp16_res else 4
