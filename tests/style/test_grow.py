"""Growing to twice the resolution keeps what the networks compute."""

from __future__ import annotations

import pytest
import torch

from stages.networks.ops.resample import downsample2d, setup_filter, upsample2d
from stages.networks.stylegan2 import FIR_TAPS, Discriminator, Generator
from stages.style.grow import grow, widen


@torch.no_grad()
def test_the_grown_pair_computes_what_the_old_one_did() -> None:
    torch.manual_seed(0)
    size = {"img_resolution": 16, "channel_base": 256, "channel_max": 16}
    g, d = Generator(z_dim=8, w_dim=8, **size), Discriminator(**size)
    for parameter in [*g.parameters(), *d.parameters()]:
        parameter.add_(0.1 * torch.randn_like(parameter))  # biases are zero at first and would hide a mistake
    big_g, big_d = grow(g.eval(), d.eval())
    f, z = setup_filter(FIR_TAPS), torch.randn(4, 8)
    images = big_g.eval()(z, noise_mode="const")
    torch.testing.assert_close(images, upsample2d(g(z, noise_mode="const"), f), rtol=1e-4, atol=1e-5)
    real = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(big_d(real), d(downsample2d(real, f)), rtol=1e-4, atol=1e-4)


def test_every_new_weight_can_learn() -> None:
    torch.manual_seed(0)
    size = {"img_resolution": 16, "channel_base": 256, "channel_max": 16}
    g, d = grow(Generator(z_dim=8, w_dim=8, **size), Discriminator(**size))
    d(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(d.b32.get_submodule(name).weight.grad.abs().sum() > 0 for name in ("fromrgb", "conv0", "conv1", "skip"))
    g(torch.randn(4, 8)).square().sum().backward()
    assert g.synthesis.b32.torgb.weight.grad.abs().sum() > 0


def test_too_narrow_networks_are_refused() -> None:
    size = {"img_resolution": 16, "channel_base": 128, "channel_max": 8}
    with pytest.raises(ValueError, match="4 channels at 32 px"):
        grow(Generator(z_dim=8, w_dim=8, **size), Discriminator(**size))


@torch.no_grad()
def test_the_widened_pair_computes_what_the_old_one_did_and_has_more_channels() -> None:
    torch.manual_seed(0)
    size = {"img_resolution": 32, "channel_base": 256, "channel_max": 32}
    g, d = Generator(z_dim=8, w_dim=8, **size), Discriminator(**size)
    for parameter in [*g.parameters(), *d.parameters()]:
        parameter.add_(0.1 * torch.randn_like(parameter))
    wide_g, wide_d = widen(g.eval(), 512), widen(d.eval(), 512)
    z, real = torch.randn(4, 8), torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(wide_g.eval()(z, noise_mode="const"), g(z, noise_mode="const"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wide_d(real), d(real), rtol=1e-4, atol=1e-4)
    assert wide_g.synthesis.b32.conv1.weight.shape == (16, 16, 3, 3)


def test_new_channels_are_heard_of_once_trained() -> None:
    torch.manual_seed(0)
    wide = widen(Generator(z_dim=8, w_dim=8, img_resolution=32, channel_base=256, channel_max=32), 512)
    wide(torch.randn(4, 8)).square().sum().backward()
    assert wide.synthesis.b32.torgb.weight.grad[:, 8:].abs().sum() > 0


@pytest.mark.parametrize("channel_base", [128, 8])
def test_what_cannot_be_widened_is_refused(channel_base: int) -> None:
    with pytest.raises(ValueError, match="cannot be widened"):
        widen(Generator(z_dim=8, w_dim=8, img_resolution=16, channel_base=256, channel_max=16), channel_base)
    with pytest.raises(ValueError, match="cannot be widened"):
        widen(Generator(z_dim=8, w_dim=8, img_resolution=16, channel_base=32, channel_max=16), 64)
