"""The phone's face generator: cheaper than the paper's, driven by every latent, one head left at inference."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.mobilenetv2 import MobileNetV2

from stages.core.tensors import TensorSpec
from stages.export.contract import check_exportable
from stages.networks.blaze import (
    BlazeEncoder,
    BlazeFaces,
    BlazeGenerator,
    BlazeStylizer,
    SeparableStyledConv,
    fitted,
    inference,
    mobilenet_v2,
    widths,
)
from stages.networks.mobile import count_parameters

# px -> millions of parameters, GFLOP: two a multiply-accumulate, as the paper counts MobileStyleGAN's 15.1 GMAC as 30.2
PAPER = {256: (2.01, 1.28), 512: (2.05, 1.57), 1024: (2.07, 4.70)}


def generator(resolution: int = 32, w_dim: int = 16) -> BlazeGenerator:
    torch.manual_seed(0)
    return BlazeGenerator(w_dim, resolution, 512)


def latent(network: BlazeGenerator, count: int = 2) -> torch.Tensor:
    return torch.randn(count, network.num_ws, network.w_dim, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", PAPER)
def test_it_is_cheaper_than_the_paper_says(side: int) -> None:
    network = inference(BlazeGenerator(512, side))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        picture = network(torch.zeros(1, network.num_ws, 512))
    parameters, gigaflops = count_parameters(network) / 1e6, counter.get_total_flops() / 1e9
    assert picture.colour.shape == (1, 3, side, side)
    assert 1 < parameters <= PAPER[side][0] and 0.3 < gigaflops <= PAPER[side][1]
    assert min(widths(side).values()) >= 16 and max(widths(side)) == side // 2


def test_every_latent_of_the_teacher_moves_the_picture() -> None:
    network = generator()
    ws = latent(network).requires_grad_()
    assert network.num_ws == 2 * int(math.log2(32)) - 2
    network(ws).colour.square().sum().backward()
    assert ws.grad is not None and bool((ws.grad.abs().sum(dim=(0, 2)) > 0).all())


def test_all_heads_train_and_the_last_alone_is_left() -> None:
    network = generator()
    assert [part.colour.shape[-1] for part in network.pyramid(latent(network))] == [8, 16, 32]
    bare = inference(network)
    assert list(bare.heads) == ["32"] and count_parameters(bare) < count_parameters(network)
    with torch.no_grad():
        wanted = network.pyramid(latent(network), None)[-1]
    found = bare(latent(network))
    assert torch.equal(found.colour, wanted.colour) and torch.equal(found.alpha, wanted.alpha)


def test_noise_counts_in_training_only() -> None:
    network = generator()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
        noisy = [network.pyramid(latent(network))[-1].colour for _ in range(2)]
    assert not torch.equal(*noisy)
    assert torch.equal(network(latent(network)).colour, network(latent(network)).colour)


def test_demodulation_brings_back_unit_variance() -> None:
    torch.manual_seed(0)
    layer = SeparableStyledConv(64, 32, 16, activate=False)
    x = torch.randn(8, 64, 32, 32)
    for scale in (0.1, 10.0):
        with torch.no_grad():
            layer.affine.weight.mul_(scale)
            out = layer(x, torch.randn(8, 16), gain=1.0)
        assert 0.8 < float(out[..., 1:-1, 1:-1].std()) < 1.2


@pytest.mark.parametrize("side", [64, 256])
def test_signals_neither_die_nor_explode_at_the_start(side: int) -> None:
    torch.manual_seed(0)
    network = BlazeGenerator(64, side)
    with torch.no_grad():
        found = network.features(latent(network, 4))
        picture = network(latent(network, 4)).colour
    assert all(0.2 < float(level.std()) < 5 for level in found) and 0.05 < float(picture.std()) < 2


def test_encoder_and_generator_are_one_network_of_a_photo() -> None:
    torch.manual_seed(0)
    both = BlazeStylizer(16, 64, 512, encoder_width=0.1).eval()
    check_exportable(both, "here")
    photo = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        picture, alpha = both.compute(photo)
        both.generator.heads["64"].paint.bias[12:].fill_(-100.0)
        untouched = both(photo)
    assert picture.shape == photo.shape and 0 <= alpha.min() and alpha.max() <= 1 and picture.abs().max() <= 1
    assert torch.allclose(untouched, photo)  # where the matte is 0 the photo stays
    assert both(torch.zeros(1, 3, 40, 56)).shape == (1, 3, 40, 56)


def test_faces_come_from_latents_alone() -> None:
    torch.manual_seed(0)
    faces = BlazeFaces(8, 16, resolution=64, channel_base=512, psi=0.5).eval()
    check_exportable(faces, "here")
    assert faces.inputs[0].shape(0, 0) == (1, 8) and isinstance(faces.outputs[0], TensorSpec)
    z = torch.randn(3, 8)
    with torch.no_grad():
        first, scaled = faces(z), faces(2 * z)
    assert first.shape == (3, 3, 64, 64) and torch.allclose(first, scaled, atol=1e-3)  # z counts by its direction
    assert not torch.allclose(first[0], first[1])


@pytest.mark.parametrize("width", [0.1, 0.5, 1.0])
def test_the_trunk_is_mobilenet_v2(width: float) -> None:
    torch.manual_seed(0)
    ours, theirs = mobilenet_v2(width).eval(), MobileNetV2(width_mult=width).features.eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_the_encoder_starts_at_the_mean_and_takes_any_size() -> None:
    torch.manual_seed(0)
    encoder = BlazeEncoder(10, 16, 64, 0.1).eval()
    encoder.w_avg.fill_(3.0)
    codes = encoder(torch.rand(2, 3, 64, 64))
    assert codes.shape == (2, 10, 16) and float((codes - 3).detach().abs().max()) < 0.5
    assert encoder(torch.rand(1, 3, 200, 100)).shape == (1, 10, 16)
    assert fitted(torch.rand(1, 3, 64, 64), 32).shape == (1, 3, 32, 32)
