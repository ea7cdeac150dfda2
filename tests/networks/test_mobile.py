"""The student's network and its discriminator."""

from __future__ import annotations

import itertools

import pytest
import torch

from stages.core.settings import ConfigError
from stages.networks.mobile import TIERS, MobileStudent, blend, count_macs, count_parameters
from stages.networks.patchgan import PatchGAN
from tests.bench.peers import PEERS, PUBLISHED

# Deterministic costs; a change here is a change of every latency in the README.
COSTS = {
    "nano": (52384, 145489920),
    "low": (115432, 293732352),
    "mid": (277040, 567803904),
    "high": (990096, 1663303680),
}


@pytest.mark.parametrize("tier", TIERS)
def test_costs_are_what_was_measured(tier: str) -> None:
    student = MobileStudent(tier)
    assert (count_parameters(student), count_macs(student, 256)) == COSTS[tier]
    assert student.training


def test_tiers_rise() -> None:
    assert [*TIERS] == ["nano", "low", "mid", "high"]
    for smaller, larger in itertools.pairwise(COSTS[tier] for tier in TIERS):
        assert smaller[0] < larger[0] and smaller[1] < 0.7 * larger[1]


@pytest.mark.parametrize("name", PEERS)
def test_the_bench_compares_with_what_was_published(name: str) -> None:
    """A peer's arm has its parameters and multiply-accumulates within 2 %, and `mid` far fewer of both."""
    peer = PEERS[name]().eval()
    cost = count_parameters(peer) / 1e6, count_macs(peer, 256) / 1e9
    assert cost == pytest.approx(PUBLISHED[name], rel=0.02)
    assert peer(torch.zeros(1, 3, 32, 48)).shape == (1, 3, 32, 48)
    assert cost[0] > 4 * COSTS["mid"][0] / 1e6 and cost[1] > 3 * COSTS["mid"][1] / 1e9


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("size", [(32, 32), (64, 40), (8, 24)])
def test_any_multiple_of_eight(tier: str, size: tuple[int, int]) -> None:
    photo = torch.rand(2, 3, *size) * 2 - 1
    output = MobileStudent(tier).eval()(photo)
    assert output.shape == photo.shape and output.abs().max() <= 1


def test_alpha_zero_leaves_the_photo_bit_for_bit() -> None:
    student = MobileStudent("nano").eval()
    with torch.no_grad():
        student.paint.bias[12:] = -200.0  # the four sub-pixels of alpha
    photo = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(student(photo), photo)
    assert torch.equal(blend(photo, student.layers(photo)), photo)


def test_no_checkerboard_at_the_start() -> None:
    """Sub-pixel filters start equal: each 2x2 cell of the painted colour is flat (ICNR)."""
    colour = MobileStudent("nano").eval().layers(torch.rand(1, 3, 32, 32)).colour
    assert torch.equal(colour[..., ::2, ::2], colour[..., 1::2, 1::2])


def test_unknown_tier_is_refused() -> None:
    with pytest.raises(ConfigError, match="tier: 'huge' is unknown"):
        MobileStudent("huge")


def test_patchgan_sees_patches_of_the_published_size() -> None:
    """Receptive field of one logit: 70 px with 3 layers, 34 with 2 (Isola et al., appendix 6.1.2)."""
    for layers, expected in ((2, 34), (3, 70)):
        discriminator = PatchGAN(4, layers).eval()
        picture = torch.zeros(1, 3, 128, 128, requires_grad=True)
        logits = discriminator(torch.zeros(1, 3, 128, 128), picture + 0.1 * torch.rand(1, 3, 128, 128)).logits
        middle = logits.shape[-1] // 2
        (grad,) = torch.autograd.grad(logits[0, 0, middle, middle], picture)
        touched = torch.where(grad.abs().sum((0, 1, 2)) > 0)[0]
        assert int(touched[-1] - touched[0]) + 1 == expected


def test_patchgan_is_conditional() -> None:
    discriminator = PatchGAN(4, 2).eval()
    picture, photo = torch.rand(2, 1, 3, 32, 32)
    assert not torch.equal(discriminator(photo, picture).logits, discriminator(picture, picture).logits)
