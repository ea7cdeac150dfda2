"""Convolution with the derivatives that training StyleGAN2 needs: fast ones, to any order.

torch's own convolution loses time in three places, measured on one core:

  * its second derivative (R1, path length) convolves group by group (on a GPU, too: 24,000 launches an update) and
    computes weight gradients that are not needed;
  * that of the weights runs a convolution whose kernel is a whole feature map;
  * its first weight gradient of channels-last maps reaches half of the peak on CPUs without AVX-512, where matrix
    products are faster.

A convolution is bilinear, so every derivative of it is one of three maps: convolution, transposed convolution, weight
gradient. Each of the three differentiates into the two others. There is nothing else here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.networks.ops.torch_private import engine_wants

Pair = tuple[int, int]  # along y and x

# Decided by instruction set, never by timing: a resumed training must add in the order it began with.
_AS_PRODUCTS = torch.backends.cpu.get_cpu_capability() == "AVX2"
_BLOCK = 4096  # pixels taken at a time, so that what the matrix products read is still in the cache


def convolve(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    output_padding: Pair = (0, 0),
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """`torch.convolution` without dilation, differentiable any number of times.

    Args:
        x: [N, I, H, W].
        w: [O, I / groups, k, k]; [I, O / groups, k, k] transposed.
        bias: [O].
        stride: along y and x.
        padding: zeros on both sides, along y and x.
        output_padding: further rows and columns of a transposed output, along y and x.
        transposed: the transposed convolution, which enlarges.
        groups: of channels. The weights of a grouped convolution are fixed filters and take no gradient.

    Returns:
        [N, O, H', W'].

    Raises:
        ValueError: in the backward pass, the gradient of a grouped convolution's weights is wanted.
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or w.requires_grad):
        return torch.convolution(x, w, bias, stride, padding, (1, 1), transposed, output_padding, groups)
    if w.is_leaf and w.requires_grad:
        w = w.view_as(w)  # the engine refuses the question below for leaves
    out: Tensor = _Convolution.apply(x, w, bias, stride, padding, output_padding, transposed, groups)
    return out


def _weight_gradient_wanted(ctx: Any) -> bool:
    """Whether the running backward pass wants the weight's gradient. R1 does not, although the weight takes one.

    `needs_input_grad` says only what could be wanted.
    """
    return bool(ctx.needs_input_grad[1]) and engine_wants(ctx.next_functions[1][0])


def _unread(wide: torch.Size, narrow: torch.Size, kernel: torch.Size, stride: Pair, padding: Pair) -> Pair:
    """Rows and columns at the far border of `wide` [H, W] that the strides do not reach."""
    y, x = (wide[i] - ((narrow[i] - 1) * stride[i] - 2 * padding[i] + kernel[i]) for i in (0, 1))
    return y, x


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        output_padding: Pair,
        transposed: bool,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        ctx.size, ctx.arguments = x.shape[2:], (stride, padding, transposed, groups)
        return torch.convolution(x, w, bias, stride, padding, (1, 1), transposed, output_padding, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, w), (stride, padding, transposed, groups) = ctx.saved_tensors, ctx.arguments
        grad_x = grad_w = grad_bias = None
        if ctx.needs_input_grad[0]:
            rest = (0, 0) if transposed else _unread(ctx.size, grad.shape[2:], w.shape[2:], stride, padding)
            grad_x = convolve(grad, w, None, stride, padding, rest, not transposed, groups)
        if _weight_gradient_wanted(ctx):
            if groups > 1:
                raise ValueError("the weights of grouped convolutions are fixed filters: they take no gradient")
            wide, narrow = (grad, x) if transposed else (x, grad)
            grad_w = _WeightGradient.apply(wide, narrow, w.shape[-1], stride, padding)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3))
        return grad_x, grad_w, grad_bias, None, None, None, None, None


def weight_gradient(wide: Tensor, narrow: Tensor, k: int, stride: Pair, padding: Pair) -> Tensor:
    """The gradient of a k x k kernel, by whichever way is fast here; it does not differentiate further.

    Args:
        wide: [N, I, H, W], the side that strides step over.
        narrow: [N, O, h, w], the other one.
        k: side of the kernel.
        stride: along y and x.
        padding: along y and x.

    Returns:
        [O, I, k, k].
    """
    large = min(wide.shape[1], narrow.shape[1]) >= 16 and narrow[0, 0].numel() >= 256
    on_cpu = wide.device.type == "cpu" and wide.dtype == torch.float32
    if _AS_PRODUCTS and large and on_cpu and stride[0] == stride[1]:
        if k == 3 and stride[0] == 1 and narrow.shape[3] % 2 == 0:
            return _minimal_weight_gradient(wide, narrow, padding)
        return _unfolded_weight_gradient(wide, narrow, k, stride[0], padding)
    w = wide.new_empty(narrow.shape[1], wide.shape[1], k, k)  # read for its shape alone
    w = w.contiguous(memory_format=torch.channels_last)
    operands = (narrow, wide, w, None, stride, padding, (1, 1), False, (0, 0), 1, [False, True, False])
    result: Tensor = torch.ops.aten.convolution_backward(*operands)[1]
    return result


class _WeightGradient(torch.autograd.Function):
    """From `wide`, the side that strides step over, and `narrow`, the other one: [narrow's C, wide's C, k, k]."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, narrow: Tensor, k: int, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(wide, narrow)
        ctx.arguments = stride, padding
        return weight_gradient(wide, narrow, k, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (wide, narrow), (stride, padding) = ctx.saved_tensors, ctx.arguments
        grad_wide = grad_narrow = None
        if ctx.needs_input_grad[0]:
            rest = _unread(wide.shape[2:], narrow.shape[2:], grad.shape[2:], stride, padding)
            grad_wide = convolve(narrow, grad, None, stride, padding, rest, True)
        if ctx.needs_input_grad[1]:
            grad_narrow = convolve(wide, grad, None, stride, padding)
        return grad_wide, grad_narrow, None, None, None


def _unfolded_weight_gradient(wide: Tensor, narrow: Tensor, k: int, stride: int, padding: Pair) -> Tensor:
    """As matrix products of channels-last rows: the kernel's columns unfolded, its rows k views of the same memory."""
    channels, width = wide.shape[1], narrow.shape[3]
    total = wide.new_zeros(k, narrow.shape[1], k * channels)
    for part, other in _blocks(wide, narrow, k, stride, padding, _BLOCK):
        columns = [part[:, i : i + (width - 1) * stride + 1 : stride] for i in range(k)]
        unfolded = torch.cat(columns, dim=2) if k > 1 else columns[0]
        left = other.reshape(-1, other.shape[2]).t()
        for j in range(k):
            right = unfolded[j : j + (len(other) - 1) * stride + 1 : stride]
            total[j].addmm_(left, right.reshape(-1, k * channels))
    return total.reshape(k, -1, k, channels).permute(1, 3, 0, 2)


def _minimal_weight_gradient(wide: Tensor, narrow: Tensor, padding: Pair) -> Tensor:
    """Of a 3x3 kernel with stride 1 over an even width: four products for each two pixels of a row instead of six.

    Minimal filtering F(3, 2) along x (Winograd; arXiv 1509.09308, sec. 4), exact but for rounding: two neighbours
    g0, g1 of `narrow` meet x0 .. x3 of `wide` in y_k = g0 x_k + g1 x_{k+1}, which are sums of the products below.
    """
    channels, width = wide.shape[1], narrow.shape[3]
    total = wide.new_zeros(3, 4, narrow.shape[1], channels)

    # Four products for each row of the kernel, of sums of neighbouring columns.
    for x, g in _blocks(wide, narrow, 3, 1, padding, _BLOCK // 4):
        x0, x1, x2, x3 = (x[:, i : i + width - 1 : 2] for i in range(4))
        g0, g1 = g[:, ::2], g[:, 1::2]
        right, left = x.new_empty(4, *x0.shape), g.new_empty(4, *g0.shape)
        torch.sub(x0, x2, out=right[0])
        torch.add(x1, x2, out=right[1])
        torch.sub(x2, x1, out=right[2])
        torch.sub(x3, x1, out=right[3])
        left[0], left[3] = g0, g1
        torch.add(g0, g1, out=left[1])
        torch.sub(g0, g1, out=left[2])
        left = left.flatten(1, 2).transpose(1, 2)  # [4, O, rows * width / 2]
        for j in range(3):
            total[j].baddbmm_(left, right[:, j : j + len(g)].flatten(1, 2))

    # Back from the products to the three columns of the kernel.
    first, plus, minus, last = total.unbind(1)
    even, odd = (plus + minus) / 2, (plus - minus) / 2
    return torch.stack([first + even, odd, even + last], dim=1).permute(2, 3, 0, 1)


def _blocks(
    wide: Tensor, narrow: Tensor, k: int, stride: int, padding: Pair, pixels: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per image, bands of about `pixels` pixels of `narrow` [rows, W, O] and what k rows reach of padded `wide`."""
    height, width = narrow.shape[2:]
    rows = max(pixels // width, 1)
    for image, other in zip(wide.permute(0, 2, 3, 1), narrow.permute(0, 2, 3, 1), strict=True):
        if any(padding):
            image = F.pad(image, (0, 0, padding[1], padding[1], padding[0], padding[0]))
        for low in range(0, height, rows):
            high = min(low + rows, height)
            yield image[low * stride : (high - 1) * stride + k], other[low:high]
