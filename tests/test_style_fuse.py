"""Fusing generators and sampling them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from stages.config import ConfigError, TristyleError
from stages.networks.stylegan2 import Generator
from stages.style.fuse import Fusion, fuse, relative_distance
from stages.style.sample import Sampling, draw, latents


@pytest.fixture(scope="module")
def pair() -> tuple[Generator, Generator]:
    """A generator and a child of it."""
    torch.manual_seed(0)
    source = Generator(8, 8, 32, channel_base=256, channel_max=8).eval()
    child = copy.deepcopy(source)
    with torch.no_grad():
        for p in child.parameters():
            p += 0.2 * torch.randn_like(p)
        child.mapping.w_avg += 1
    return source, child


@pytest.mark.parametrize("schedule", ["constant", "linear", "sigmoid", "swap"])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_ends_are_the_two_generators(pair, schedule: str, end: float) -> None:
    fused = fuse(*pair, Fusion(schedule=schedule, low=end, high=end, mapping=end))
    expected = pair[int(end)].state_dict()
    for name, value in fused.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_swap_takes_whole_resolutions(pair) -> None:
    """Up to `middle` the source, above it the transferred generator; the mapping by its own setting."""
    source, child = (net.state_dict() for net in pair)
    fused = fuse(*pair, Fusion(schedule="swap", middle=8, mapping=0.0)).state_dict()
    for name in fused:
        fine = name.startswith(("synthesis.b16.", "synthesis.b32."))
        assert torch.equal(fused[name], (child if fine else source)[name]), name
    mapped = fuse(*pair, Fusion(schedule="swap", middle=8, mapping=1.0)).state_dict()
    assert torch.equal(mapped["mapping.w_avg"], child["mapping.w_avg"])
    assert torch.equal(mapped["mapping.fc0.weight"], child["mapping.fc0.weight"])


def test_schedules_rise_from_low_to_high() -> None:
    sizes = (4, 8, 16, 32, 64)
    linear = [Fusion(schedule="linear", low=0.2, high=1.0).alpha(r, 64) for r in sizes]
    assert linear == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    sigmoid = [Fusion(schedule="sigmoid", low=0.0, high=1.0, middle=16, width=1.0).alpha(r, 64) for r in sizes]
    assert sigmoid[2] == pytest.approx(0.5) and sigmoid == sorted(sigmoid)
    assert sigmoid[0] + sigmoid[4] == pytest.approx(1.0)


def test_strangers_are_refused(pair) -> None:
    torch.manual_seed(99)
    stranger = Generator(**pair[0].arguments)
    assert relative_distance(*pair) < 0.3
    assert relative_distance(pair[0], stranger) == pytest.approx(1.0, abs=0.05)
    with pytest.raises(TristyleError, match="no ancestor"):
        fuse(pair[0], stranger, Fusion())
    with pytest.raises(TristyleError, match="differ in architecture"):
        fuse(pair[0], Generator(8, 8, 16, channel_base=256, channel_max=8), Fusion())


def test_fusing_leaves_its_parents_alone(pair) -> None:
    before = [copy.deepcopy(net.state_dict()) for net in pair]
    fuse(*pair, Fusion(schedule="constant", high=0.5))
    for net, state in zip(pair, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_drawing_is_repeatable_and_independent_of_the_batch(pair) -> None:
    z = latents(8, list(range(10)))
    images = draw(pair[0], z, psi=0.7)
    assert images.dtype == np.uint8 and images.shape == (10, 32, 32, 3)
    again = draw(pair[0], z, psi=0.7, batch=3)
    assert np.abs(images.astype(int) - again.astype(int)).max() <= 1
    assert np.abs(draw(pair[0], z[:2], 0.0)[0].astype(int) - draw(pair[0], z[:2], 0.0)[1].astype(int)).max() == 0


def test_latents_are_the_official_ones() -> None:
    expected = np.random.RandomState(5).randn(1, 8)
    np.testing.assert_allclose(latents(8, [4, 5])[1:].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Fusion(schedule="steep"), "schedule"),
        (lambda: Fusion(low=-0.1), "low"),
        (lambda: Fusion(width=0.0), "width"),
        (lambda: Sampling(count=0), "count"),
        (lambda: Sampling(count=10, psi=float("nan")), "psi"),
    ],
)
def test_bad_settings_name_their_key(make, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key
