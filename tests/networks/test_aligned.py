"""Generators in two halves: sizes, what a warp does to them, and what can be exported."""

from __future__ import annotations

import pytest
import torch

from stages.core.settings import ConfigError
from stages.networks.aligned import (
    GENERATORS,
    LightTranslator,
    PatchDiscriminator,
    ResnetTranslator,
    painted,
    translator_network,
)
from stages.networks.mobile import MobileStudent, count_macs, count_parameters


def test_sizes_are_those_of_the_paper() -> None:
    large, light = count_parameters(ResnetTranslator()), count_parameters(LightTranslator())
    assert large == 11_378_179 and round(large / 2**20, 2) == 10.85
    assert abs(light / 2**20 - 1.73) < 0.005
    assert count_macs(LightTranslator(), 256) < 0.38e9


@pytest.mark.parametrize("name", GENERATORS)
def test_a_network_is_its_two_halves(name: str) -> None:
    torch.manual_seed(0)
    network = translator_network(name, mask=True).eval()
    photo = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        features = network.encode(photo)
        halves, (image, alpha) = painted(network, photo, features), network.compute(photo)
        same = painted(network, photo, features, lambda maps: maps)
    assert features[-1].shape[-1] == 8 and image.shape == photo.shape and alpha.shape == (2, 1, 32, 32)
    torch.testing.assert_close(halves.image, network(photo))
    torch.testing.assert_close(same.image, image)
    assert halves.mask is not None and 0 <= halves.mask.min() and halves.mask.max() <= 1


@pytest.mark.parametrize("network", [ResnetTranslator(4, 2), LightTranslator(blocks=(1, 1)), MobileStudent("nano")])
def test_a_mirrored_warp_mirrors_features_and_photo(network: torch.nn.Module) -> None:
    """Whatever lies between the halves, and the photo beneath, is in the new layout: nothing is left behind."""
    torch.manual_seed(1)
    photo = torch.rand(1, 3, 32, 32) * 2 - 1
    seen: list[tuple[int, ...]] = []

    def mirror(maps: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(maps.shape))
        return maps.flip(3)

    with torch.no_grad():
        features = network.eval().encode(photo)
        warped = painted(network, photo, features, mirror).image
        expected = painted(network, photo.flip(3), [part.flip(3) for part in features]).image
    torch.testing.assert_close(warped, expected)
    assert len(seen) == len(features) + 1 and seen[0][1] == 3


def test_without_a_mask_head_the_picture_is_all() -> None:
    network = LightTranslator().eval()
    assert len(network.compute(torch.zeros(1, 3, 32, 32))) == 1 and [out.name for out in network.outputs] == ["output"]
    with pytest.raises(ConfigError, match="mask_head.*always paints a matte"):
        translator_network("mid", mask=False)
    with pytest.raises(ConfigError, match=r"'huge' is unknown\. Choose one of: resnet, light, nano"):
        translator_network("huge", mask=True)


def test_one_patch_of_the_discriminator_sees_what_it_should() -> None:
    for layers, field in ((1, 16), (2, 34), (3, 70)):
        torch.manual_seed(0)
        judge = PatchDiscriminator(4, layers, 16).double().eval()
        picture = torch.rand(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
        logits = judge(picture)
        middle = logits.shape[-1] // 2
        (grad,) = torch.autograd.grad(logits[0, 0, middle, middle], picture)
        touched = grad.abs().sum(1)[0].nonzero()
        span = touched.amax(0) - touched.amin(0) + 1
        assert span.tolist() == [field, field]
