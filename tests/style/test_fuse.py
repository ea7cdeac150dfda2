"""Fusing generators and sampling them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from stages.core.settings import ConfigError, TristyleError
from stages.networks.latents import latents
from stages.networks.stylegan2 import Generator
from stages.style.fusion.fuse import Fusion, Part, between, blend, fuse, position, relative_distance, with_part
from stages.style.sampling.candidates import Sampling, draw


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
    fused = fuse(*pair, Fusion(schedule="swap", low=0.0, middle=8, mapping=0.0)).state_dict()
    for name in fused:
        fine = name.startswith(("synthesis.b16.", "synthesis.b32."))
        assert torch.equal(fused[name], (child if fine else source)[name]), name
    mapped = fuse(*pair, Fusion(schedule="swap", low=0.0, middle=8, mapping=1.0)).state_dict()
    assert torch.equal(mapped["mapping.w_avg"], child["mapping.w_avg"])
    assert torch.equal(mapped["mapping.fc0.weight"], child["mapping.fc0.weight"])


SIZES = (4, 8, 16, 32, 64)
POSITIONS = [
    f"synthesis.b{r}.{layer}.weight" for r in SIZES for layer in (("const", "conv1") if r == 4 else ("conv0", "conv1"))
]


def test_schedules_rise_from_low_to_high() -> None:
    names = [f"synthesis.b{r}.torgb.bias" for r in SIZES]
    linear = [Fusion(schedule="linear", low=0.2, high=1.0).alpha(name, 64) for name in names]
    assert linear == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    sigmoid = [Fusion(schedule="sigmoid", low=0.0, high=1.0, middle=16, width=1.0).alpha(name, 64) for name in names]
    assert sigmoid[2] == pytest.approx(0.5) and sigmoid == sorted(sigmoid)
    assert sigmoid[0] + sigmoid[4] == pytest.approx(1.0)
    assert sigmoid[3] == pytest.approx(1 / (1 + np.exp(-1)))
    assert Fusion(schedule="sigmoid", low=0.0, width=1e-4).alpha(names[0], 64) == 0.0


def test_schedules_over_layers_count_positions() -> None:
    """Two positions a resolution; the sigmoid is half way at the first layer of the middle one."""
    assert [position(name) for name in POSITIONS] == list(range(10))
    assert position("synthesis.b16.torgb.affine.bias") == position("synthesis.b16.conv1.noise_strength") == 5
    assert position("mapping.fc0.weight") is None
    half = Fusion(over="layer", low=0.0, middle=16, width=2.0)
    assert [half.alpha(name, 64) for name in POSITIONS] == pytest.approx(
        [1 / (1 + np.exp(-(i - 4) / 2)) for i in range(10)]
    )
    line = Fusion(schedule="linear", over="layer", low=0.0)
    assert [line.alpha(name, 64) for name in POSITIONS] == pytest.approx([i / 9 for i in range(10)])
    step = Fusion(schedule="swap", over="layer", low=0.0, middle=16, level=0)
    assert [step.alpha(name, 64) for name in POSITIONS] == [0.0] * 5 + [1.0] * 5


@pytest.mark.parametrize(("level", "kept"), [(0, 6), (1, 7)])
def test_the_published_swap_is_off_by_one(level: int, kept: int) -> None:
    """The stated position and the next stay with the source; stored noise stays everywhere."""
    published = Fusion(schedule="published", low=0.0, middle=16, level=level)
    assert [published.alpha(name, 64) for name in POSITIONS] == [0.0] * kept + [1.0] * (10 - kept)
    assert published.alpha("synthesis.b64.conv1.noise_const", 64) == 0
    assert Fusion(schedule="swap").alpha("synthesis.b64.conv1.noise_const", 64) == 1


def test_layers_stand_above_the_schedule(pair) -> None:
    """The longest name wins; what no name fits follows the schedule; mapping and mean w go their own ways."""
    fusion = Fusion(
        schedule="constant", high=0.5, mapping=0.25, w_avg=1.0, layers={"torgb": 0.1, 16: 1.0, "b16.conv0.affine": 0.0}
    )
    wanted = {
        "synthesis.b8.conv0.weight": 0.5,
        "synthesis.b8.torgb.bias": 0.1,
        "synthesis.b16.torgb.bias": 1.0,  # of two names of equal length the last
        "synthesis.b16.conv0.noise_strength": 1.0,
        "synthesis.b16.conv0.affine.weight": 0.0,
        "mapping.fc1.weight": 0.25,
        "mapping.w_avg": 1.0,
    }
    source, child, fused = (net.state_dict() for net in (*pair, fuse(*pair, fusion)))
    for name, alpha in wanted.items():
        torch.testing.assert_close(fused[name], source[name].lerp(child[name], alpha))
    by_list = Fusion(layers=[0.0, 0.2, 0.4])
    assert by_list.alpha("synthesis.b8.conv1.bias", 32) == 0.2
    assert by_list.alpha("synthesis.b32.conv1.bias", 32) == Fusion().alpha("synthesis.b32.conv1.bias", 32)
    with pytest.raises(TristyleError, match="no layer b64.*b32.torgb"):
        fuse(*pair, Fusion(layers={"b64": 1.0}))


def test_blending_is_convex_layer_by_layer(pair) -> None:
    """Three relatives: a table's rows by name, equal shares elsewhere; a function; one generator alone."""
    third = copy.deepcopy(pair[0])
    with torch.no_grad():
        for p in third.parameters():
            p -= 0.1
    family = [*pair, third]
    blended = blend(family, {"b16": [0, 2, 2], "torgb": [1, 0, 0]}).state_dict()
    states = [net.state_dict() for net in family]

    def mixed(name: str, *shares: float) -> torch.Tensor:
        return sum(share * state[name] for share, state in zip(shares, states, strict=True))

    torch.testing.assert_close(blended["synthesis.b16.conv0.weight"], mixed("synthesis.b16.conv0.weight", 0, 0.5, 0.5))
    torch.testing.assert_close(blended["synthesis.b8.torgb.weight"], states[0]["synthesis.b8.torgb.weight"])
    torch.testing.assert_close(blended["mapping.w_avg"], mixed("mapping.w_avg", 1 / 3, 1 / 3, 1 / 3))
    by_function = blend(family, lambda name: (0, 1, 0) if "conv" in name else (0, 0, 1)).state_dict()
    for name, value in by_function.items():
        assert torch.equal(value, states[1 if "conv" in name else 2][name])
    for wrong in ([1, 1], [1, -1, 1], [0, 0, 0], [1, float("nan"), 0]):
        with pytest.raises(TristyleError, match="style.weights"):
            blend(family, wrong)
    torch.manual_seed(99)
    with pytest.raises(TristyleError, match="no ancestor"):
        blend([*family, Generator(**pair[0].arguments)], [1, 1, 1, 1])


def test_a_part_takes_layers_of_another_generator(pair) -> None:
    tuned = with_part(*pair, Part(parent=1, layers={"b32.torgb": 1.0, "affine": 0.5})).state_dict()
    source, child = (net.state_dict() for net in pair)
    assert torch.equal(tuned["synthesis.b32.torgb.bias"], child["synthesis.b32.torgb.bias"])
    assert torch.equal(tuned["synthesis.b32.conv1.weight"], source["synthesis.b32.conv1.weight"])
    name = "synthesis.b8.conv0.affine.weight"
    torch.testing.assert_close(tuned[name], (source[name] + child[name]) / 2)
    with pytest.raises(ConfigError):
        Part(parent=0)


def test_between_snapshots_lies_on_the_line(pair) -> None:
    source, child = pair
    ladder = [(2000, child), (0, source)]
    name = "synthesis.b8.conv0.weight"
    quarter = between(ladder, 500).state_dict()
    torch.testing.assert_close(quarter[name], source.state_dict()[name].lerp(child.state_dict()[name], 0.25))
    torch.testing.assert_close(quarter["mapping.w_avg"], source.mapping.w_avg + 0.25)
    for images, net in ((0, source), (2000, child)):
        same = between(ladder, images)
        assert same is not net and all(torch.equal(v, net.state_dict()[k]) for k, v in same.state_dict().items())
    with pytest.raises(TristyleError, match="0 to 2000"):
        between(ladder, 2001)


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
        (lambda: Fusion(over="pixels"), "over"),
        (lambda: Fusion(level=2), "level"),
        (lambda: Fusion(w_avg=float("nan")), "w_avg"),
        (lambda: Fusion(layers={"b16": 1.5}), "layers.b16"),
        (lambda: Fusion(layers=[0.5, -1]), "layers.b8"),
        (lambda: Sampling(count=0), "count"),
        (lambda: Sampling(count=10, psi=float("nan")), "psi"),
    ],
)
def test_bad_settings_name_their_key(make, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key
