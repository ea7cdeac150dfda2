"""Normalisation and padded convolutions with their own backward passes, against autograd on the plain formulae."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.networks.ops.fused_norms import LayerInstanceNorm, reflect_conv, row_order, rows, spectral_conv
from stages.networks.ugatit import InstanceNorm, SpectralConv2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def plainly(x: Tensor, rho: Tensor, gamma: Tensor, beta: Tensor, relu: bool) -> Tensor:
    """Eq. 1-2 of the paper by torch.var."""
    rho = rho[..., None, None]
    instance = (x - x.mean((2, 3), True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
    layer = (x - x.mean((1, 2, 3), True)) / (x.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    y = (rho * instance + (1 - rho) * layer) * gamma[..., None, None] + beta[..., None, None]
    return y.relu() if relu else y


def agree(ours, plain, inputs: list[Tensor], tolerance: float = 1e-10) -> None:
    """Values and first derivatives of two functions of the same inputs."""
    one, other = ours(*inputs), plain(*inputs)
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    weight = torch.randn(one.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(one)
    gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (one, other)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("rows_of_gamma", [1, 3])
def test_layer_instance_norm_and_its_derivatives(layout: torch.memory_format, relu: bool, rows_of_gamma: int) -> None:
    torch.manual_seed(0)
    x = (torch.randn(3, 5, 6, 7).double() * torch.rand(3, 5, 1, 1) + torch.randn(3, 5, 1, 1)).to(memory_format=layout)
    rho, gamma, beta = torch.rand(1, 5).double(), *torch.randn(2, rows_of_gamma, 5).double()
    inputs = [t.detach().clone().requires_grad_() for t in (x, rho, gamma, beta)]
    agree(
        lambda *t: LayerInstanceNorm.apply(*t, 1e-5, relu),
        lambda *t: plainly(*t, relu),
        inputs,
    )


@pytest.mark.parametrize("relu", [False, True])
def test_instance_norm_is_torchs(relu: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 4, 5, 6).double().requires_grad_()
    agree(InstanceNorm(relu), lambda x: F.relu(F.instance_norm(x)) if relu else F.instance_norm(x), [x])


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_a_large_mean_costs_no_accuracy(offset: float) -> None:
    """Flat channels far from 0 are what a sum of squares loses in float32: here 1000 +- 0.1."""
    torch.manual_seed(2)
    x = torch.randn(2, 8, 32, 32) * 0.1 + offset * torch.linspace(-1, 1, 8)[:, None, None]
    arguments = torch.rand(1, 8), torch.ones(1, 8), torch.zeros(1, 8)
    weight = torch.randn(2, 8, 32, 32)
    results = []
    for kind in (torch.float32, torch.float64):
        wide = x.to(kind).requires_grad_()
        for y in (
            LayerInstanceNorm.apply(wide, *(a.to(kind) for a in arguments), 1e-5, False),
            InstanceNorm()(wide),
        ):
            (grad,) = torch.autograd.grad((y * weight.to(kind)).sum(), wide)
            results += [y.double(), grad.double()]
    for mine, exact in zip(results[:4], results[4:], strict=True):
        error = (mine - exact).detach().abs().max() / exact.detach().abs().max()
        # the mean itself, in float32, is off by 1e-7 of it
        assert float(error) < 2e-6 + 3e-7 * offset / 0.1, (offset, float(error))


# narrow and wide, large and small maps: plain convolution, one product, minimal filtering
CASES = [
    (3, 6, 8, 9, 7, 1, 3),
    (4, 6, 8, 10, 3, 2, 1),
    (24, 32, 6, 5, 3, 1, 1),
    (16, 16, 48, 40, 3, 1, 1),
    (128, 64, 8, 8, 4, 2, 1),
    (96, 96, 5, 4, 4, 1, 1),
    (128, 128, 20, 20, 3, 1, 1),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("inputs", "outputs", "height", "width", "k", "stride", "padding"), CASES)
def test_reflect_conv_and_its_derivatives(layout, inputs, outputs, height, width, k, stride, padding) -> None:
    torch.manual_seed(3)
    x = torch.randn(2, inputs, height, width).to(memory_format=layout).requires_grad_()
    w = (torch.randn(outputs, inputs, k, k) / (inputs * k * k) ** 0.5).to(memory_format=layout).requires_grad_()
    agree(
        lambda x, w: reflect_conv(x, w, stride, padding),
        lambda x, w: F.conv2d(F.pad(x, (padding,) * 4, mode="reflect"), w, stride=stride),
        [x, w],
        2e-4 if height * width > 100 else 2e-5,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_doubling_before_the_convolution(layout: torch.memory_format) -> None:
    torch.manual_seed(5)
    x = torch.randn(2, 3, 5, 4).double().to(memory_format=layout).requires_grad_()
    w = torch.randn(4, 3, 3, 3).double().requires_grad_()
    agree(
        lambda x, w: reflect_conv(x, w, doubles=True),
        lambda x, w: F.conv2d(F.pad(F.interpolate(x, scale_factor=2.0), (1,) * 4, mode="reflect"), w),
        [x, w],
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("inputs", "outputs", "size", "stride"), [(3, 8, 12, 2), (128, 96, 6, 1)])
def test_spectral_conv_is_a_convolution_with_the_normalised_weight(layout, inputs, outputs, size, stride) -> None:
    torch.manual_seed(4)
    layer = SpectralConv2d(inputs, outputs, stride).double().to(memory_format=layout)
    u, v, sigma = layer.estimate()  # in training mode: after one power iteration
    flat = layer.weight_orig.flatten(1)
    torch.testing.assert_close(sigma, u @ flat.detach() @ v)
    torch.testing.assert_close(v, F.normalize(v, dim=0))
    torch.testing.assert_close(rows(layer.weight_orig) @ row_order(v, layer.weight_orig), flat @ v)
    x = torch.randn(2, inputs, size, size).double().requires_grad_()
    agree(
        lambda x, w, b: spectral_conv(x, w, b, u, v, sigma, stride),
        lambda x, w, b: F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), w / (u @ w.flatten(1) @ v), b, stride),
        [x, layer.weight_orig, layer.bias],
    )


@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize(("inputs", "size"), [(8, 16), (256, 4)])
def test_the_layout_lasts_both_ways(inputs: int, size: int, doubles: bool) -> None:
    """A single map in another layout would slow down every layer before it."""
    x = torch.randn(1, inputs, size, size).to(memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(256, inputs, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    y = reflect_conv(x, w, doubles=doubles)
    z = LayerInstanceNorm.apply(y, torch.rand(1, 256), torch.ones(1, 256), torch.zeros(1, 256), 1e-5, True)
    grads = torch.autograd.grad(z.square().sum(), (x, w, y))
    for name, tensor in zip(("y", "z", "x", "w", "dy"), (y, z, *grads), strict=True):
        assert tensor.is_contiguous(memory_format=torch.channels_last), name


def test_frozen_weights_cost_no_gradient_and_frozen_inputs_none() -> None:
    x, w = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
    reflect_conv(x.requires_grad_(), w).sum().backward()
    assert x.grad is not None and w.grad is None
    reflect_conv(x.detach(), w.requires_grad_()).sum().backward()
    assert w.grad is not None


def test_autocast_keeps_bfloat16_between_layers_and_float32_in_the_weights() -> None:
    layer, norm = SpectralConv2d(3, 8, 2), InstanceNorm(relu=True)
    x = torch.randn(1, 3, 16, 16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(layer(x))
        z = reflect_conv(y, torch.randn(4, 8, 3, 3))
    assert y.dtype == z.dtype == torch.bfloat16
    z.float().sum().backward()
    for gradient in (x.grad, layer.weight_orig.grad, layer.bias.grad):
        assert gradient is not None and gradient.dtype == torch.float32 and bool(gradient.isfinite().all())
    near = F.relu(F.instance_norm(layer.eval()(x)))
    torch.testing.assert_close(y.float(), near, rtol=0.05, atol=0.05)


def test_of_a_layer_only_the_centred_map_and_the_activation_are_kept() -> None:
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x, w = torch.randn(1, 8, 32, 32, requires_grad=True), torch.randn(8, 8, 3, 3, requires_grad=True)
    y = x
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for _ in range(4):
            y = InstanceNorm(relu=True)(reflect_conv(y, w))
    maps = sum(kept.values()) / (x.numel() * x.element_size())
    assert maps < 9.5, f"{maps:.1f} maps for one input and four layers"
