"""Normalisation and reflection-padded convolution, with backward passes that keep less and do less than autograd's.

Both are used by U-GAT-IT's networks (`stages/networks/ugatit.py`), whose memory is the maps that wait for the backward
pass. Of every layer autograd keeps the padded input, the convolution's output and the activation; here the padding is
done again, the normalisation keeps the centred map in place of the output, and the activation is the input that the
next layer keeps anyway. A spectrally normalised convolution is divided by the norm after it, so that no normalised copy
of the weight is made or kept. First derivatives only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.networks.ops.conv_derivatives import weight_gradient

# Sizes up to which, on a CPU, one matrix product with the unfolded map outruns torch's convolution (measured: up to ten
# times where large weights meet small maps). Never decided by timing: a resumed training must add in the same order.
_FEW_PIXELS = 128  # of a whole batch, forward and backward
_UNFOLDED = 1 << 20  # numbers in the unfolded map, for the gradient of the weight

# ---------------------------------------------------------------------------------------------------------------------
# Normalisation


class LayerInstanceNorm(torch.autograd.Function):
    """gamma (rho IN(x) + (1 - rho) LN(x)) + beta, then ReLU where `relu` is set (arXiv 1907.10830, eq. 1).

    Statistics are those of torch, computed in two passes over the centred map, so that a large mean costs no accuracy,
    in float32 (float64 for float64).

    Args:
        x: [N, C, H, W].
        rho: [1, C] in [0, 1]; None for plain instance normalisation (biased variance).
        gamma, beta: [N or 1, C].
        eps: added to the variances.
        relu: whether a ReLU follows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rho: Tensor | None, gamma: Tensor, beta: Tensor, eps: float, relu: bool) -> Tensor:
        """Normalise x [N, C, H, W]; the class names the arguments."""
        # Statistics over the pixels of each channel.
        pixels = x[0, 0].numel()
        wide = x if x.dtype == torch.float64 else x.float()
        mean = wide.sum((2, 3)) / pixels  # [N, C]
        d = wide - mean[:, :, None, None]
        square = (d * d).sum((2, 3))
        d = d.to(x.dtype)

        if rho is None:
            scale = torch.rsqrt(square / pixels + eps)
            saved: tuple[Tensor, ...] = (scale,)
            y = d * scale.to(x.dtype)[:, :, None, None]
        else:
            # Both normalisations and the affine map become one scale and one shift a channel.
            offset = mean - mean.mean(1, keepdim=True)  # of the channel from the layer
            r = torch.rsqrt(square / max(pixels - 1, 1) + eps)
            layer = torch.addcmul(square, offset, offset, value=pixels).sum(1, keepdim=True)
            r_layer = torch.rsqrt(layer / (pixels * x.shape[1] - 1) + eps)  # [N, 1]
            instance, other = rho * r, (1 - rho) * r_layer
            scale = gamma * (instance + other)
            shift = torch.addcmul(beta, gamma * other, offset)
            saved = (scale, gamma, offset, r, r_layer, instance, other)
            y = torch.addcmul(shift.to(x.dtype)[:, :, None, None], d, scale.to(x.dtype)[:, :, None, None])

        if relu:
            y.relu_()
        ctx.save_for_backward(d, y if relu else None, *saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments for one of the output [N, C, H, W]."""
        d, y, scale, *rest = ctx.saved_tensors
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)

        # The whole gradient needs two sums over the pixels of a channel.
        pixels = d[0, 0].numel()
        wide = grad if grad.dtype == torch.float64 else grad.float()
        b = wide.sum((2, 3))  # d loss / d shift
        a = (wide * d).sum((2, 3))  # d loss / d scale
        d_rho = d_gamma = d_beta = None
        slope, constant = scale**3 * a * (-1 / pixels), scale * b

        if rest:
            gamma, offset, r, r_layer, instance, other = rest
            both, weighted = torch.addcmul(a, b, offset), gamma * other
            d_rho = (gamma * (r * a - r_layer * both)).sum(0, keepdim=True)
            d_gamma, d_beta = torch.addcmul(instance * a, other, both), b
            if len(gamma) == 1:
                d_gamma, d_beta = d_gamma.sum(0, keepdim=True), d_beta.sum(0, keepdim=True)
            d_layer = (weighted * both).sum(1, keepdim=True) * r_layer**2 / (1 - pixels * d.shape[1])  # -2 by the sum
            d_offset = torch.addcmul(weighted * b, offset, d_layer, value=pixels)
            slope = d_layer - gamma * instance * a * r**2 / max(pixels - 1, 1)
            constant = constant - d_offset + d_offset.mean(1, keepdim=True)

        # d loss / d x is affine in the centred map and in the incoming gradient.
        constant, slope, scale = (t.to(d.dtype)[:, :, None, None] for t in (constant / -pixels, slope, scale))
        return torch.addcmul(constant, d, slope).addcmul_(grad, scale), d_rho, d_gamma, d_beta, None, None


# ---------------------------------------------------------------------------------------------------------------------
# Convolution


def reflect_conv(x: Tensor, w: Tensor, stride: int = 1, padding: int = 1, doubles: bool = False) -> Tensor:
    """Convolve a reflection-padded map, without bias; the padded map is not kept.

    Args:
        x: [N, I, H, W].
        w: [O, I, k, k].
        stride: along both axes.
        padding: px on each side.
        doubles: first double x by nearest neighbours; that is not kept either.

    Returns:
        [N, O, H / stride, W / stride] where `padding` is ``k // 2``, or twice that.
    """
    x, w = _cast(x, w)
    with torch.autocast(x.device.type, enabled=False):  # it would widen the padding to float32 and back
        out: Tensor = _ReflectConv.apply(x, w, stride, padding, doubles)
    return out


def spectral_conv(
    x: Tensor, w: Tensor, bias: Tensor | None, u: Tensor, v: Tensor, sigma: Tensor, stride: int = 1, padding: int = 1
) -> Tensor:
    """Convolve a reflection-padded map with w / sigma, where sigma = u^T W v.

    The gradient of w is that of w / (u^T W v) for fixed u and v (Miyato et al. 2018, eq. 11-12).

    Args:
        x: [N, I, H, W].
        w: [O, I, k, k].
        bias: [O] or None.
        u: [O].
        v: [I k k].
        sigma: scalar.
        stride: along both axes.
        padding: px on each side.

    Returns:
        [N, O, h, w].
    """
    x, w = _cast(x, w)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _SpectralConv.apply(x, w, bias, u, v, sigma, stride, padding)
    return out


def rows(w: Tensor) -> Tensor:
    """[O, I, k, k] as [O, k k I], without a copy of channels-last weights."""
    return w.permute(0, 2, 3, 1).flatten(1)


def row_order(v: Tensor, w: Tensor) -> Tensor:
    """A vector over [I, k, k] in the order of `rows(w)`."""
    return v.view(w.shape[1:]).permute(1, 2, 0).flatten()


def _cast(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type that autocast gives convolutions, or as they are."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, w
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), w.to(dtype)


def _pad(x: Tensor, padding: int, doubles: bool = False) -> Tensor:
    x = F.interpolate(x, scale_factor=2.0, mode="nearest") if doubles else x
    return F.pad(x, (padding,) * 4, mode="reflect") if padding else x


def _unpad(grad: Tensor, x: Tensor, padding: int, doubles: bool = False) -> Tensor:
    """The gradient of x from that of `_pad(x, padding, doubles)`."""
    if not doubles:
        return torch.ops.aten.reflection_pad2d_backward(grad, x, (padding,) * 4) if padding else grad
    size = [*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]]
    if padding:  # the operator reads shape and layout of what was padded
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        wide = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)
        grad = torch.ops.aten.reflection_pad2d_backward(grad, wide, (padding,) * 4)
    out: Tensor = torch.ops.aten.upsample_nearest2d_backward(grad, size[2:], x.shape, 2.0, 2.0)
    return out


def _as_product(out: torch.Size, w: Tensor, many: int) -> bool:
    """Whether a map is small enough, and its weights many enough, to be one matrix product with all it sees."""
    return w.device.type == "cpu" and out[0] * out[2] * out[3] <= _FEW_PIXELS and w.numel() >= many


def _windows(x: Tensor, k: int, stride: int) -> Tensor:
    """What each pixel of the result sees: [N, I, H, W] -> [N h w, k k I]."""
    seen = x.permute(0, 2, 3, 1).unfold(1, k, stride).unfold(2, k, stride)  # [N, h, w, I, k, k]
    return seen.permute(0, 1, 2, 4, 5, 3).reshape(-1, k * k * x.shape[1])


def _forward(x: Tensor, w: Tensor, stride: int) -> Tensor:
    k = w.shape[-1]
    size = torch.Size([len(x), len(w), (x.shape[2] - k) // stride + 1, (x.shape[3] - k) // stride + 1])
    if not _as_product(size, w, many=1 << 14):
        return F.conv2d(x, w, stride=stride)
    out = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)  # no view, so that it may be overwritten
    torch.mm(_windows(x, k, stride), rows(w).t(), out=out.permute(0, 2, 3, 1).view(-1, len(w)))
    return out


def _input_gradient(x: Tensor, w: Tensor, grad: Tensor, stride: int) -> Tensor:
    """Of the padded input, which is read for its shape."""
    if not _as_product(grad.shape, w, many=1 << 20):
        arguments = (None, (stride,) * 2, (0, 0), (1, 1), False, (0, 0), 1, (True, False, False))
        result: Tensor = torch.ops.aten.convolution_backward(grad, x, w, *arguments)[0]
        return result
    n, _, h, width = grad.shape
    k = w.shape[-1]
    parts = (grad.permute(0, 2, 3, 1).flatten(0, 2) @ rows(w)).view(n, h, width, k, k, -1)
    total = x.new_zeros(n, x.shape[2], x.shape[3], x.shape[1])
    for i in range(k):
        for j in range(k):
            reach = (slice(s, s + (c - 1) * stride + 1, stride) for s, c in ((i, h), (j, width)))
            total[:, *reach] += parts[:, :, :, i, j]
    return total.permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, w: Tensor, grad: Tensor, stride: int) -> Tensor:
    k, narrow = w.shape[-1], min(w.shape[:2])
    minimal = k == 3 and stride == 1 and narrow >= 128
    small = narrow >= 16 and grad[:, 0].numel() * k * k * w.shape[1] <= _UNFOLDED
    if minimal or not small or w.device.type != "cpu":
        if narrow >= 64:
            return weight_gradient(x, grad, k, (stride, stride), (0, 0))
        arguments = (None, (stride,) * 2, (0, 0), (1, 1), False, (0, 0), 1, (False, True, False))
        result: Tensor = torch.ops.aten.convolution_backward(grad, x, w, *arguments)[1]
        return result
    total = grad.permute(1, 0, 2, 3).flatten(1) @ _windows(x, k, stride)
    return total.view(len(w), k, k, -1).permute(0, 3, 1, 2)


class _ReflectConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: int, padding: int, doubles: bool) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.arguments = stride, padding, doubles
        return _forward(_pad(x, padding, doubles), w, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, w), (stride, padding, doubles) = ctx.saved_tensors, ctx.arguments
        padded = _pad(x, padding, doubles)
        grad_x = grad_w = None
        if ctx.needs_input_grad[1]:
            grad_w = _weight_gradient(padded, w, grad, stride)
        if ctx.needs_input_grad[0]:
            grad_x = _unpad(_input_gradient(padded, w, grad, stride), x, padding, doubles)
        return grad_x, grad_w, None, None, None


class _SpectralConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        u: Tensor,
        v: Tensor,
        sigma: Tensor,
        stride: int,
        padding: int,
    ) -> Tensor:
        ctx.save_for_backward(x, w, u, v, sigma)
        ctx.arguments = stride, padding
        out = _forward(_pad(x, padding), w, stride).div_(sigma)
        return out if bias is None else out.add_(bias.to(out.dtype)[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, w, u, v, sigma), (stride, padding) = ctx.saved_tensors, ctx.arguments
        grad_x = grad_w = grad_bias = None
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))

        grad = grad / sigma
        padded = _pad(x, padding)
        if ctx.needs_input_grad[1]:
            grad_w = _weight_gradient(padded, w, grad, stride)
            flat = rows(grad_w)
            along = torch.dot(flat.flatten(), rows(w).flatten()) / sigma  # what the norm takes back
            grad_w = flat.addr_(u.to(flat) * -along, row_order(v.to(flat), w))
            k = w.shape[-1]
            grad_w = grad_w.view(len(w), k, k, -1).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[0]:
            grad_x = _unpad(_input_gradient(padded, w, grad, stride), x, padding)
        return grad_x, grad_w, grad_bias, None, None, None, None, None
