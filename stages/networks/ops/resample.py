"""Resampling with FIR filters, and convolutions merged with it.

Source: arXiv 1912.04958, appendix B, and the conventions of its official PyTorch code, with which every function here
agrees (tests/golden). What differs: upsampling is one depthwise transposed convolution, never zero insertion (15 times
faster forward and backward on a CPU in channels-last).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.networks.ops.conv_derivatives import convolve


def setup_filter(taps: Sequence[float] | Tensor, gain: float = 1.0) -> Tensor:
    """Resampling filter with unit sum times `gain`.

    Args:
        taps: [k] of a separable filter, or [k, k].
        gain: factor on the brightness.

    Returns:
        [k, k], or [k] (to be applied along one axis after the other) from 8 taps on.
    """
    f = torch.as_tensor(taps, dtype=torch.float32)
    if f.ndim == 1 and len(f) < 8:
        f = torch.outer(f, f)
    out: Tensor = f / f.sum() * gain ** (f.ndim / 2)
    return out


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """An int or [x, y] as (x, y)."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _margins(value: int | Sequence[int]) -> tuple[int, int, int, int]:
    """An int, [x, y] or [x0, x1, y0, y1] as (x0, x1, y0, y1)."""
    if isinstance(value, int):
        return value, value, value, value
    if len(value) == 2:
        return int(value[0]), int(value[0]), int(value[1]), int(value[1])
    return int(value[0]), int(value[1]), int(value[2]), int(value[3])


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample with zeros, pad, convolve with `f`, keep every `down`-th pixel.

    No zero is really inserted: the upsampling convolution is a depthwise transposed one, cropped to the same window.

    Args:
        x: [N, C, H, W].
        f: [kh, kw], [k] (separable), or None (identity).
        up: factor of the enlargement, or [x, y].
        down: factor of the reduction, or [x, y].
        padding: pixels on all sides, [x, y] or [x0, x1, y0, y1]; negative ones crop.
        flip_filter: correlate instead of convolving.
        gain: factor on the brightness.

    Returns:
        [N, C, H', W'] with ``W' = (W * up + x0 + x1 - kw) // down + 1``, rows alike.
    """
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = _pair(up), _pair(down), _margins(padding)
    if f is None:
        f = x.new_ones(1, 1)
    if f.ndim == 1:  # along one axis after the other
        x = upfirdn2d(x, f[None, :], (ux, 1), (dx, 1), (x0, x1, 0, 0), flip_filter, sqrt(gain))
        return upfirdn2d(x, f[:, None], (1, uy), (1, dy), (0, 0, y0, y1), flip_filter, sqrt(gain))
    if x.dtype == torch.bfloat16 and (ux, uy, dx, dy) != (1, 1, 1, 1):
        # Strided depthwise convolutions in bfloat16 have no fast backward pass on CPUs (measured: 20 times float32's).
        return upfirdn2d(x.float(), f, up, down, padding, flip_filter, gain).to(x.dtype)

    # Without upsampling: one depthwise convolution.
    channels, (kh, kw) = x.shape[1], f.shape
    f = (f * gain).to(x.dtype)
    if ux == uy == 1:  # torch convolutions correlate, hence the flip
        kernel = f if flip_filter else f.flip([0, 1])
        if x0 != x1 or y0 != y1 or min(x0, y0) < 0:
            x, x0, y0 = F.pad(x, (x0, x1, y0, y1)), 0, 0
        return convolve(x, kernel.expand(channels, 1, kh, kw), None, (dy, dx), (y0, x0), groups=channels)

    # With it: one transposed convolution, cropped.
    kernel = (f.flip([0, 1]) if flip_filter else f).expand(channels, 1, kh, kw)
    # The transposed convolution gives the full convolution; the wanted window starts k - 1 - p0 pixels into it.
    low_x, low_y = kw - 1 - x0, kh - 1 - y0
    high_x = (x.shape[3] - 1) * ux + kw - low_x - (x.shape[3] * ux + x0 + x1 - kw + 1)
    high_y = (x.shape[2] - 1) * uy + kh - low_y - (x.shape[2] * uy + y0 + y1 - kh + 1)
    crop_x, crop_y = max(min(low_x, high_x), 0), max(min(low_y, high_y), 0)
    x = convolve(x, kernel, None, (uy, ux), (crop_y, crop_x), transposed=True, groups=channels)
    rest = (crop_x - low_x, crop_x - high_x, crop_y - low_y, crop_y - high_y)
    if any(rest):
        x = F.pad(x, rest)
    return x[:, :, ::dy, ::dx] if dx > 1 or dy > 1 else x


def _resample_margins(f: Tensor | None, up: tuple[int, int], down: tuple[int, int], pad: tuple[int, ...]) -> list[int]:
    """Padding that keeps an image centred when it is resampled by `up` or `down` with filter `f`."""
    if f is None:
        return list(pad)
    sizes = (f.shape[-1], f.shape[0])
    out = list(pad)
    for axis, (k, u, d) in enumerate(zip(sizes, up, down, strict=True)):
        if u > 1:
            out[2 * axis] += (k + u - 1) // 2
            out[2 * axis + 1] += (k - u) // 2
        if d > 1:
            out[2 * axis] += (k - d + 1) // 2
            out[2 * axis + 1] += (k - d) // 2
    return out


def filter2d(
    x: Tensor, f: Tensor | None, padding: int | Sequence[int] = 0, flip_filter: bool = False, gain: float = 1.0
) -> Tensor:
    """Filter [N, C, H, W] with `f`; the size stays but for `padding`. Arguments as in `upfirdn2d`."""
    x0, x1, y0, y1 = _margins(padding)
    kw, kh = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    margins = (x0 + kw // 2, x1 + (kw - 1) // 2, y0 + kh // 2, y1 + (kh - 1) // 2)
    return upfirdn2d(x, f, padding=margins, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample [N, C, H, W] by `up`, brightness kept: [N, C, H up, W up]. Arguments as in `upfirdn2d`."""
    ux, uy = _pair(up)
    x0, x1, y0, y1 = _margins(padding)
    kw, kh = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    margins = (x0 + (kw + ux - 1) // 2, x1 + (kw - ux) // 2, y0 + (kh + uy - 1) // 2, y1 + (kh - uy) // 2)
    return upfirdn2d(x, f, up=(ux, uy), padding=margins, flip_filter=flip_filter, gain=gain * ux * uy)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Downsample [N, C, H, W] by `down`: [N, C, H / down, W / down]. Arguments as in `upfirdn2d`."""
    dx, dy = _pair(down)
    x0, x1, y0, y1 = _margins(padding)
    kw, kh = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    margins = (x0 + (kw - dx + 1) // 2, x1 + (kw - dx) // 2, y0 + (kh - dy + 1) // 2, y1 + (kh - dy) // 2)
    return upfirdn2d(x, f, down=(dx, dy), padding=margins, flip_filter=flip_filter, gain=gain)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_weight: bool = True,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolution with FIR resampling before (`up`) or after (`down`) it, merged with strides where they allow it.

    Args:
        x: [N, I, H, W].
        w: [O, I, k, k].
        f: resampling filter; None for the identity.
        up: integer factor of the enlargement.
        down: integer factor of the reduction.
        padding: relative to the upsampled image; as in `upfirdn2d`.
        flip_weight: true means correlation, what torch calls a convolution.
        bias: [O], added by the convolution itself; it needs `up` = 1.

    Returns:
        [N, O, H up / down, W up / down] where `padding` keeps the size.
    """
    k = w.shape[-1]
    margins = _resample_margins(f, (up, up), (down, down), _margins(padding))

    # Upsampling: a transposed convolution, then the filter.
    if up > 1:
        w = w.flip([2, 3]) if flip_weight else w  # a transposed convolution already convolves
        x = convolve(x, w.transpose(0, 1), None, (up, up), transposed=True)
        lead, tail = k - 1, k - up
        x0, x1, y0, y1 = margins
        x = upfirdn2d(x, f, padding=(x0 - lead, x1 - tail, y0 - lead, y1 - tail), gain=up**2)
        return upfirdn2d(x, f, down=down) if down > 1 else x

    # Downsampling: the filter, then a strided convolution; for a single pixel the stride goes to the filter.
    w = w if flip_weight else w.flip([2, 3])
    if down > 1:
        if k == 1:
            return convolve(upfirdn2d(x, f, down=down, padding=margins), w, bias)
        return convolve(upfirdn2d(x, f, padding=margins), w, bias, (down, down))

    x0, x1, y0, y1 = margins
    if x0 == x1 and y0 == y1 and min(x0, y0) >= 0:
        return convolve(x, w, bias, padding=(y0, x0))
    return convolve(F.pad(x, margins), w, bias)


def grid_sample(images: Tensor, grid: Tensor) -> Tensor:
    """Bilinear `F.grid_sample`, zeros outside, corners not aligned; any number of times differentiable in `images`.

    torch before 2.13 has no second derivative of it, which R1 of augmented pictures takes. Sampling is linear in the
    images, so the derivative of its transpose is sampling again. The grid gets no gradient.

    Args:
        images: [N, C, H, W].
        grid: [N, h, w, 2] in [-1, 1].

    Returns:
        [N, C, h, w].
    """
    sampled: Tensor = _GridSample.apply(images, grid.detach())
    return sampled


class _GridSample(torch.autograd.Function):
    """images -> samples."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = images.shape
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _GridScatter.apply(gradient, grid, ctx.size), None


class _GridScatter(torch.autograd.Function):
    """The transpose of `_GridSample`: samples -> what each pixel got of them."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        like = samples.new_zeros(1).expand(size)  # read for its size alone
        scattered: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            samples.contiguous(), like, grid, 0, 0, False, [True, False]
        )[0]
        return scattered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _GridSample.apply(gradient, grid), None, None
