"""The fusion sweep: candidates by name; front, knee and rule on made-up points; a small sweep of the shipped base."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from stages.core.files import data_file
from stages.core.images import read_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError
from stages.core.tensors import to_uint8
from stages.core.tracking import Tracker
from stages.core.weights import load_network
from stages.networks.stylegan2 import Generator
from stages.style.fusion.fuse import Fusion, fuse, relative_distance
from stages.style.fusion.sweep import (
    CANDIDATES,
    MEASURES,
    Sweep,
    SweepPoint,
    broken_by_family,
    confirm,
    keeping,
    knee,
    pareto_front,
    parse,
    run_sweep,
)
from stages.style.fusion.write import ladder_rows, write_sweep


def point(label: str, kid: float, coverage: float, **measures: float) -> SweepPoint:
    values = dict.fromkeys(MEASURES, 0.0) | {"kid": kid, "coverage": coverage} | measures
    return SweepPoint(candidate=parse(label), images=100, measures=values, pictures=np.zeros((2, 8, 8, 3), np.uint8))


def test_names_say_what_is_fused() -> None:
    assert all(parse(name).label == name for name in CANDIDATES)
    assert (parse("source").share, parse("transferred").share) == (0.0, 1.0)
    assert parse("constant-0.5").fusion == Fusion(schedule="constant", high=0.5, mapping=0.5)
    assert (
        parse("swap-32").fusion == Fusion(schedule="swap", low=0.0, middle=32, mapping=0.0)
        and parse("swap-32").family == "swap"
    )
    mixed = parse("snapshot-0.25+sigmoid-8-0.5")
    assert mixed.share == 0.25 and mixed.family == "interpolation" and mixed.fusion is not None
    assert (mixed.fusion.middle, mixed.fusion.low, mixed.fusion.mapping) == (8, 0.5, 0.5)
    assert parse("snapshot-0.5").fusion is None and parse("snapshot-0.5").family == "plain"


@pytest.mark.parametrize(
    "name",
    ["", "steep-1", "constant", "constant-2", "swap-3", "snapshot-1.5", "snapshot-0.5+", "constant-1.2.3", "a+b"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        Sweep(candidates=[name])
    assert error.value.key == "candidates"


def test_a_candidate_is_built_between_snapshots() -> None:
    torch.manual_seed(0)
    source = Generator(8, 8, 16, channel_base=128, channel_max=8).eval()
    half, end = (copy.deepcopy(source) for _ in range(2))
    with torch.no_grad():
        for a, b in zip(half.parameters(), end.parameters(), strict=True):
            a += 0.1
            b += 0.3
    ladder = [(0, source), (500, half), (1000, end)]
    built = parse("snapshot-0.75").build(source, ladder)
    torch.testing.assert_close(built.synthesis.b8.conv0.weight, source.synthesis.b8.conv0.weight + 0.2)
    fused = parse("snapshot-0.5+constant-0.5").build(source, ladder)
    wanted = fuse(source, half, Fusion(schedule="constant", high=0.5, mapping=0.5))
    assert relative_distance(fused, wanted) < 1e-6


def test_the_front_holds_what_nothing_beats() -> None:
    """Nearest to the style first; the knee is the member farthest above the chord."""
    points = [
        point("source", 3.0, 1.0), point("transferred", 1.0, 0.6), point("constant-0.5", 1.5, 0.9),
        point("swap-16", 1.6, 0.85), point("swap-8", 1.2, 0.7), point("linear-0", 1.5, 0.8),
    ]  # fmt: skip
    front = pareto_front(points)
    assert [p.label for p in front] == ["transferred", "swap-8", "constant-0.5", "source"]
    assert knee(front).label == "constant-0.5"
    bent = [point("transferred", 1.0, 0.6), point("constant-0.5", 2.5, 0.65), point("source", 3.0, 1.0)]
    assert knee(bent).label in ("transferred", "source")
    assert knee(front[:1]).label == "transferred"
    with pytest.raises(ValueError, match="no knee"):
        knee([])


def test_the_rule_takes_the_nearest_that_is_rich_enough() -> None:
    points = [
        point("transferred", 1.0, 0.7), point("constant-0.75", 1.1, 0.88), point("constant-0.5", 1.2, 0.93),
        point("linear-0", 1.22, 0.97), point("swap-16", 1.4, 1.0),
    ]  # fmt: skip
    assert [p.label for p in keeping(points)] == ["constant-0.5", "linear-0"]
    assert keeping(points, coverage_min=0.99) == []
    assert [p.label for p in keeping(points, coverage_min=0.99, kid_ratio_max=1.5)] == ["swap-16"]
    lucky = [point("transferred", -0.01, 0.7, kid_sd=0.02), point("constant-0.5", 0.02, 0.95)]
    assert keeping(lucky) == lucky[1:]  # an estimate at or below zero counts as its deviation


def test_the_choice_has_to_keep_the_rule_on_other_latents() -> None:
    able = [point("swap-8", 0.9, 0.93), point("swap-16", 1.1, 1.04)]
    fresh = [point("source", 4, 1), point("transferred", 1.0, 0.7), point("swap-8", 0.9, 0.86), point("swap-16", 1, 1)]
    chosen, confirmed = confirm(able, iter(fresh), Sweep())
    assert chosen is able[1] and confirmed == {"transferred": fresh[1].measures, "chosen": fresh[3].measures}
    assert confirm(able[:1], iter(fresh[:3]), Sweep()) == (None, {})


def test_broken_pictures_are_compared_by_family() -> None:
    points = [
        point("transferred", 1, 1, broken_share=0.2), point("swap-8", 1, 1, broken_share=0.1),
        point("swap-16", 1, 1, broken_share=0.3), point("constant-0.5", 1, 1, broken_share=0.05),
    ]  # fmt: skip
    assert broken_by_family(points) == pytest.approx({"plain": 0.2, "swap": 0.2, "interpolation": 0.05})


def test_a_sweep_measures_chooses_and_writes(tmp_path) -> None:
    """The shipped base and a tinted child of it, against the child's own pictures as the real ones."""
    source = load_network(data_file("base64_generator.safetensors"))
    assert isinstance(source, Generator)
    child = copy.deepcopy(source)
    with torch.no_grad():
        child.synthesis.b64.torgb.bias[0] += 0.6
        z = torch.randn(32, source.z_dim, generator=torch.Generator().manual_seed(1))
        real = to_uint8(child(z, 0.8, noise_mode="const"))
    result = run_sweep(
        source, child, [(500, fuse(source, child, Fusion(schedule="constant", high=0.2)))], images=1000,
        real=real, real_masks=None, training=real, psi=0.8, seed=0,
        settings=Sweep(candidates=["swap-32", "snapshot-0.5"], count=20), runtime=Runtime("cpu", 1, Tracker(tmp_path)),
    )  # fmt: skip
    measured = {p.label: p for p in result.points}
    assert list(measured) == ["source", "transferred", "swap-32", "snapshot-0.5"]
    assert measured["source"].coverage > 0.9  # a broken head counts with the commonest bin
    assert measured["source"].measures["pose_correspondence"] == pytest.approx(1)
    assert measured["transferred"].kid < measured["snapshot-0.5"].kid < measured["source"].kid
    assert measured["swap-32"].kid == pytest.approx(measured["transferred"].kid)  # the tint is in the finest layers
    assert result.generator.synthesis.b64.torgb.bias[0] == child.synthesis.b64.torgb.bias[0]
    write_sweep(result, tmp_path)
    written = json.loads((tmp_path / "pareto.json").read_text())
    assert [row["label"] for row in written["points"]] == list(measured) and written["chosen"] == result.chosen.label
    assert set(MEASURES) <= set(written["points"][0]) and written["points"][2]["settings"]["middle"] == 32
    rows = json.loads((tmp_path / "ladder.json").read_text())
    assert rows == ladder_rows(result.points) and [row["images"] for row in rows] == [0, 500, 1000]
    sheet = read_image(tmp_path / "pareto.png")
    assert sheet.shape[0] > 6 * 128 and sheet.shape[1] >= 2 * 128
