"""New styles out of sealed ones, their lineage, the list of styles, and which layers colour what."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from stages.core.artifact import Artifact, ArtifactError, seal
from stages.core.files import data_file, read_jsonl, sha256_file, write_bytes
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.networks.face_reader import load_reader
from stages.networks.stylegan2 import Generator
from stages.style.fused import FusedStyle
from stages.style.fusion.fuse import Fusion, Part
from stages.style.fusion.influence import REGIONS, answerable, region_influence
from stages.style.fusion.library import describe, lineage, main, of_artifact, of_file, styles
from stages.style.sampling.candidates import Sampling
from stages.style.sampling.filters import Filters
from tests.tools import tiny_runs

SIZES = {"z_dim": 8, "w_dim": 8, "img_resolution": 32, "channel_base": 256, "channel_max": 8}
PLAIN = Filters(quality=False, memorised=False, duplicates=False)


def related(source: Generator, seed: int) -> Generator:
    """A child of `source`."""
    torch.manual_seed(seed)
    child = copy.deepcopy(source)
    with torch.no_grad():
        for p in child.parameters():
            p += 0.2 * torch.randn_like(p)
    return child


def sealed(folder: Path, source: Generator, transferred: Generator, target: str) -> Artifact:
    """A style artifact with these generators and the lineage of a transfer."""
    for name, network in (("source", source), ("transferred", transferred), ("generator", transferred)):
        save_network(folder / f"{name}.safetensors", network)
    start = of_file(folder / "source.safetensors")
    lineage(folder, "transfer", target, [start], {"images": 100})
    return seal(folder, "style", config={"target": target}, inputs={}, metrics={"kid": 0.5, "coverage": 0.875})


@pytest.fixture(scope="module")
def source() -> Generator:
    torch.manual_seed(0)
    return Generator(**SIZES).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Artifact:
    return tiny_runs.data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def parents(source, tmp_path_factory) -> list[Artifact]:
    """A comic and a clay style of one source."""
    root = tmp_path_factory.mktemp("runs")
    return [
        sealed(root / "style" / name, source, related(source, seed), name)
        for seed, name in enumerate(("comic", "clay"))
    ]


def run(which: FusedStyle, data: Artifact, out: Path) -> dict[str, float]:
    out.mkdir(parents=True)
    return which.run({"data": data}, out, Runtime("cpu", 1, Tracker(out)))


def fused_style(artifacts: list[Artifact], **changes) -> FusedStyle:
    settings = {
        "parents": [str(parent.path) for parent in artifacts],
        "target": "comic",
        "sampling": Sampling(count=6, seed=2, reject=PLAIN),
        "fusion": Fusion(schedule="constant", high=0.5),
    }
    return FusedStyle(**(settings | changes))


@pytest.fixture(scope="module")
def made(parents, data, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """A style of comic and clay, three parts to one, and clay alone at 32 px."""
    out = tmp_path_factory.mktemp("fused") / "style"
    return out, run(fused_style(parents, weights=[3, 1], layers={"b32": [0, 1]}), data, out)


def test_a_third_style_is_a_whole_artifact(made, parents, source) -> None:
    out, metrics = made
    names = {"generator.safetensors", "source.safetensors", "transferred.safetensors", "latents.safetensors"}
    assert {entry.name for entry in out.iterdir()} >= names | {"fusion.png", "records.jsonl", "images", "lineage.json"}
    assert len(list((out / "source").glob("*.png"))) == len(read_jsonl(out / "records.jsonl")) == 6
    assert read_jsonl(out / "records.jsonl")[0]["style"] == "comic"
    assert {"kid", "coverage", "distance", "images"} <= metrics.keys()
    comic, clay, mixed, kept, fused = (
        load_network(path).state_dict()
        for path in (
            parents[0].path / "transferred.safetensors",
            parents[1].path / "transferred.safetensors",
            out / "transferred.safetensors",
            out / "source.safetensors",
            out / "generator.safetensors",
        )
    )
    for name, share in (("synthesis.b8.conv0.weight", 0.25), ("synthesis.b32.torgb.weight", 1.0)):
        torch.testing.assert_close(mixed[name], comic[name].lerp(clay[name], share))
        torch.testing.assert_close(kept[name], source.state_dict()[name])
        torch.testing.assert_close(fused[name], (kept[name] + mixed[name]) / 2)


def test_lineage_holds_its_parents(made, parents) -> None:
    found = json.loads((made[0] / "lineage.json").read_text())
    assert found["how"] == "fusion" and found["target"] == "comic"
    assert found["weights"] == sha256_file(made[0] / "generator.safetensors")
    assert found["settings"]["weights"] == [3, 1] and found["settings"]["fusion"]["high"] == 0.5
    assert [parent["digest"] for parent in found["parents"]] == [parent.digest for parent in parents]
    start = found["parents"][1]["parents"][0]
    assert start["how"] == "shipped" and start["weights"] == sha256_file(parents[1].path / "source.safetensors")
    assert describe(found) == "comic < comic + clay < photo"


def test_a_schedule_and_a_part_between_two_parents(parents, data, tmp_path) -> None:
    """Mappings, as a command line gives them, stand for the settings."""
    which = fused_style(
        parents,
        between={"schedule": "swap", "middle": 8},
        parts=[{"parent": 0, "layers": {"b32.torgb": 1.0}}],
        fusion=Fusion(schedule="constant", mapping=1.0),
    )
    run(which, data, tmp_path / "style")
    mixed = load_network(tmp_path / "style/transferred.safetensors").state_dict()
    parts = [load_network(parent.path / "transferred.safetensors").state_dict() for parent in parents]
    for name, parent in (("b8.conv1.bias", 0), ("b16.conv0.weight", 1), ("b32.conv1.weight", 1), ("b32.torgb.bias", 0)):
        assert torch.equal(mixed[f"synthesis.{name}"], parts[parent][f"synthesis.{name}"]), name


def test_files_name_the_parents(parents) -> None:
    files = fused_style(parents).files()
    assert [files["parents.0"], files["parents.1"]] == [parent.path for parent in parents] and "reader" in files
    assert FusedStyle(parents="a/b", target="comic", sampling=Sampling(count=1)).files()["parents.0"] == Path("a/b")


def test_what_cannot_be_mixed_is_refused(parents, data, source, tmp_path) -> None:
    torch.manual_seed(99)
    stranger = sealed(tmp_path / "stranger", source, Generator(**SIZES), "comic")
    with pytest.raises(TristyleError, match="no ancestor"):
        run(fused_style([parents[0], stranger]), data, tmp_path / "a")
    smaller = Generator(**(SIZES | {"channel_max": 4}))
    with pytest.raises(TristyleError, match="differ in architecture"):
        run(fused_style([parents[0], sealed(tmp_path / "small", smaller, smaller, "x")]), data, tmp_path / "b")
    with pytest.raises(ArtifactError, match="holds a data artifact"):
        run(fused_style([data]), data, tmp_path / "c")
    with pytest.raises(TristyleError, match="clay.*comic"):
        run(fused_style(parents, target="clay"), data, tmp_path / "d")
    with pytest.raises(TristyleError, match="no layer b64"):
        run(fused_style(parents, layers={"b64": [1, 1]}), data, tmp_path / "e")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"parents": []}, "parents"),
        ({"target": ""}, "target"),
        ({"weights": [1.0]}, "weights"),
        ({"weights": [1.0, -1.0]}, "weights"),
        ({"weights": [0, 0]}, "weights"),
        ({"layers": {"b8": [1]}}, "layers.b8"),
        ({"weights": [1, 1], "between": Fusion()}, "between"),
        ({"between": {"low": 2}}, "between.low"),
        ({"between": {"hight": 1}}, "between"),
        ({"parts": [{"parent": 2, "region": "eye"}]}, "parts.0.parent"),
        ({"parts": [{"parent": 1}]}, "parts.0.layers"),
        ({"parts": [{"parent": 1, "region": "iris"}]}, "parts.0.region"),
        ({"sampling": Sampling(count=2, source="invert")}, "sampling.source"),
    ],
)
def test_bad_settings_name_their_key(parents, changes, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        fused_style(parents, **changes)
    assert error.value.key == key


def test_the_library_lists_sealed_styles(parents, tmp_path, capsys) -> None:
    root = parents[0].path.parents[1]
    assert {artifact.path.name for artifact in styles(root)} == {"comic", "clay"}
    assert main([str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["folder", "how", "lineage", "KID", "coverage", "made"] and len(lines) == 3
    assert any("transfer clay < photo 0.5 0.875" in " ".join(line.split()) for line in lines)
    assert main([str(tmp_path)]) == 0 and "no sealed style" in capsys.readouterr().out
    old = seal(tmp_path / "old", "style", config={"target": "comic"}, inputs={}, metrics={})
    assert of_artifact(old)["how"] == "unrecorded"
    write_bytes(tmp_path / "old/lineage.json", b"{")
    assert main([str(tmp_path)]) == 2 and "lineage.json: damaged" in capsys.readouterr().err


def test_layers_are_answerable_for_what_they_colour(source) -> None:
    """On the shipped base, with a relative whose last toRGB alone is redder: that layer, and all regions."""
    base = load_network(data_file("base64_generator.safetensors"))
    other = copy.deepcopy(base)
    with torch.no_grad():
        other.synthesis.b64.torgb.bias[0] += 0.2
    table = region_influence(base, other, load_reader(), count=4)
    assert table["b64.torgb"]["skin"] > 0.02 and set(table["b64.torgb"]) == set(REGIONS)
    assert all(change == 0 for layer, row in table.items() if layer != "b64.torgb" for change in row.values())
    assert answerable(table, "skin", 1) == ["b64.torgb"]
    local = {"b4.conv1": {"eye": 0.3, "skin": 0.9}, "b64.conv1": {"eye": 0.2, "skin": 0.05}}
    assert answerable(local, "eye", 2) == ["b64.conv1", "b4.conv1"]


def test_a_region_finds_its_own_layers(parents, data, tmp_path) -> None:
    run(fused_style(parents, parts=[Part(parent=1, region="skin", count=2, share=0.5)]), data, tmp_path / "style")
    found = json.loads((tmp_path / "style/influence.json").read_text())["parts.0"]
    assert len(found["layers"]) == 2 and set(found["layers"]) <= set(found["influence"])
