"""Stage style from data to style set, tiny: what it writes, what it starts from, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.core import images
from stages.core.artifact import Artifact, seal
from stages.core.files import read_jsonl, write_jsonl
from stages.core.images import LazyImages, read_image, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tensors import to_uint8
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.networks.stylegan2 import Discriminator, Generator
from stages.style.editing.directions import Edit
from stages.style.editing.recolour import Recolour
from stages.style.fusion.fuse import Fusion, relative_distance
from stages.style.fusion.sweep import Sweep
from stages.style.inversion.encoder import Invert
from stages.style.sampling.candidates import Sampling
from stages.style.stage import Images, Network, StyleStage
from stages.style.stylegan2_ada import Ada, Recipe
from tests.tools import tiny_runs

WRITTEN = {
    "generator.safetensors",
    "source.safetensors",
    "transferred.safetensors",
    "discriminator.safetensors",
    "latents.safetensors",
    "fusion.png",
    "records.jsonl",
}


def stage(**changes) -> StyleStage:
    settings = {
        "start": "scratch",
        "target": "photo",
        "train": Train(images=32, batch=8, lr=0.002),
        "recipe": Recipe(r1_gamma=1.0, precision="float32"),
        "sampling": Sampling(count=6, psi=0.8, seed=3),
        "network": Network(z_dim=8, w_dim=8, channel_base=256, channel_max=8),
    }
    return StyleStage(**(settings | changes))


def read_json(path: Path):
    return json.loads(path.read_bytes())


def run(which: StyleStage, data: Artifact, out: Path) -> dict[str, float]:
    out.mkdir(parents=True)
    return which.run({"data": data}, out, Runtime("cpu", 1, Tracker(out)))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Artifact:
    return tiny_runs.data(tmp_path_factory.mktemp("style"))


@pytest.fixture(scope="module")
def base(data, tmp_path_factory) -> Path:
    """A style artifact trained from scratch on the photos."""
    out = tmp_path_factory.mktemp("base") / "photo"
    metrics = run(stage(), data, out)
    seal(out, "style", config={"target": "photo"}, inputs={"data": data}, metrics=metrics)
    return out


def test_scratch_writes_a_style_set(base) -> None:
    assert {p.name for p in base.iterdir()} >= WRITTEN
    rows = read_jsonl(base / "records.jsonl")
    assert [row["seed"] for row in rows] == [3, 4, 5, 6, 7, 8]
    generator = load_network(base / "generator.safetensors")
    codes = load_file(base / "latents.safetensors")
    with torch.no_grad():
        drawn = to_uint8(generator(codes["z"], 0.8, noise_mode="const"))
        again = to_uint8(generator.synthesis(codes["w"][:, None].expand(-1, generator.num_ws, -1), "const"))
    for row, one, two in zip(rows, drawn, again, strict=True):
        kept = read_image(base / row["image"]).astype(int)
        assert np.abs(kept - one).max() <= 1 and np.abs(kept - two).max() <= 1


def test_transfer_starts_from_the_artifact_and_fuses(base, data, tmp_path) -> None:
    which = stage(
        start=str(base), target="comic", ada=Ada(images=100, every=1), fusion=Fusion(schedule="constant", high=0.5)
    )
    assert which.files()["start"] == base
    metrics = run(which, data, tmp_path / "comic")
    before, source, after, fused = (
        load_network(path)
        for path in (
            base / "transferred.safetensors",
            tmp_path / "comic/source.safetensors",
            tmp_path / "comic/transferred.safetensors",
            tmp_path / "comic/generator.safetensors",
        )
    )
    assert relative_distance(before, source) == 0
    moved, half = relative_distance(source, after), relative_distance(source, fused)
    assert moved > 0 and half == pytest.approx(moved / 2, rel=0.05)
    assert {"kid", "kid_source", "coverage", "intra", "ada_p", "edge_clarity_ratio"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics.values() if not isinstance(value, str))


def test_a_training_goes_on_as_if_it_had_not_stopped(base, data, tmp_path) -> None:
    longer = Train(images=64, batch=8, lr=0.002)
    run(stage(start=str(base), resume=True, train=longer), data, tmp_path / "resumed")
    run(stage(train=longer), data, tmp_path / "whole")
    resumed, whole = (load_file(tmp_path / name / "transferred.safetensors") for name in ("resumed", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_weights_file_is_a_start_too(base, data, tmp_path) -> None:
    file = base / "transferred.safetensors"
    which = stage(start=str(file), keep_state=False)
    assert which.files()["start.discriminator"] == base / "discriminator.safetensors"
    run(which, data, tmp_path / "out")
    source = load_network(tmp_path / "out/source.safetensors")
    assert relative_distance(source, load_network(file)) == 0
    assert not (tmp_path / "out/training.ckpt").exists()
    assert read_json(tmp_path / "out/lineage.json")["parents"][0]["name"] == file.name


def test_a_sweep_chooses_the_fusion(base, data, tmp_path) -> None:
    recipe = Recipe(r1_gamma=1.0, precision="float32", ladder=2)
    sweep = Sweep(candidates=["constant-0.5", "swap-8", "snapshot-0.5"], count=30, coverage_min=0, kid_ratio_max=100)
    out = tmp_path / "swept"
    run(stage(start=str(base), target="comic", recipe=recipe, sweep=sweep), data, out)
    found = read_json(out / "pareto.json")
    assert [row["label"] for row in found["points"]] == ["source", "transferred", *sweep.candidates]
    assert found["rule"]["met"] and found["chosen"] in found["front"]
    assert [row["images"] for row in read_json(out / "ladder.json")] == [0, 16, 32]
    chosen = next(row for row in found["points"] if row["label"] == found["chosen"])
    assert read_json(out / "lineage.json")["settings"]["fusion"] == chosen["settings"]


def test_photos_are_inverted_edited_and_recoloured(base, data, tmp_path) -> None:
    out = tmp_path / "inverted"
    which = stage(
        start=str(base),
        target="comic",
        fusion=Fusion(schedule="constant", high=0.5),
        sampling=Sampling(count=6, source="invert"),
        invert=Invert(steps_alone=2),
        edit={"first": Edit(direction=0, alpha=2.0)},
        recolour=Recolour(hair=[250, 0, 0]),
    )
    metrics = run(which, data, out)
    rows = read_jsonl(out / "records.jsonl")
    assert len(rows) == 6 and all(row["edit"] == {"first": 2.0} and row["photo"] for row in rows)
    assert load_file(out / "latents.safetensors")["ws"].shape == (6, 8, 8)
    assert {"inversion.png", "edits.png", "directions.safetensors"} <= {path.name for path in out.iterdir()}
    assert metrics["images"] == 6 and metrics["background_clusters"] >= 0


def test_mirroring_flips_every_other_sample(base, data, tmp_path) -> None:
    plain, mirrored = (
        run(stage(sampling=Sampling(count=2, mirror=flag)), data, tmp_path / str(flag)) and tmp_path / str(flag)
        for flag in (False, True)
    )
    names = ("images/000000.png", "images/000001.png")
    (a, b), (c, d) = ([read_image(folder / name) for name in names] for folder in (plain, mirrored))
    assert np.array_equal(a, c) and np.array_equal(b, d[:, ::-1]) and not np.array_equal(b, d)


def test_wrong_starts_are_refused(base, data, tmp_path) -> None:
    with pytest.raises(TristyleError, match="64 px.*32 px"):
        run(stage(start="base"), data, tmp_path / "a")
    with pytest.raises(TristyleError, match="watercolour"):
        run(stage(target="watercolour"), data, tmp_path / "b")
    with pytest.raises(ConfigError, match="multiple of 4"):
        stage(train=Train(images=32, batch=6, lr=0.002))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_start_of_other_channels_is_refused(channels: int, data, tmp_path) -> None:
    sizes = {"z_dim": 8, "w_dim": 8, "img_resolution": 32, "img_channels": channels, "channel_base": 256}
    generator = Generator(**sizes, channel_max=8)
    save_network(tmp_path / "g.safetensors", generator)
    rest = {name: sizes[name] for name in ("img_resolution", "img_channels", "channel_base")}
    save_network(tmp_path / "discriminator.safetensors", Discriminator(**rest, channel_max=8))
    with pytest.raises(TristyleError, match=f"pictures of {channels} channels"):
        run(stage(start=str(tmp_path / "g.safetensors")), data, tmp_path / "out")


@pytest.mark.parametrize(("people", "held", "named"), [(3, 10, "photos to train on"), (12, 1, "held-out photos")])
def test_data_too_few_for_later_stages_are_refused(people: int, held: int, named: str, tmp_path) -> None:
    few = tiny_runs.data(tmp_path, people, held)
    with pytest.raises(TristyleError, match=named):
        run(stage(), few, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.ckpt"))


def test_two_style_pictures_are_refused(tmp_path) -> None:
    few = tiny_runs.data(tmp_path)
    rows = [row for row in few.records() if row["split"] != "style" or int(row["id"]) < 2]
    write_jsonl(few.path / "records.jsonl", rows)
    with pytest.raises(TristyleError, match="has 2 pictures of the style comic"):
        run(stage(target="comic"), few, tmp_path / "out")


def test_batches_depend_on_nothing_but_their_place() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (10, 4, 4, 3), dtype=np.uint8)
    batches = Images(pictures, seed=1, mirror=True)
    first, second = batches(8, 8)["images"], Images(pictures, seed=1, mirror=True)(8, 8)["images"]
    assert torch.equal(first, second) and not torch.equal(first, batches(16, 8)["images"])
    plain = Images(pictures, seed=1, mirror=False)
    seen = to_uint8(torch.cat([plain(0, 5)["images"], plain(5, 5)["images"]]))
    assert sorted(map(bytes, seen)) == sorted(map(bytes, pictures))  # an epoch shows every picture once


def test_pictures_on_disk_are_read_row_by_row(tmp_path, monkeypatch) -> None:
    """Batches of files equal those of the whole array, and decode no more than the rows that are asked for."""
    pictures = np.random.default_rng(0).integers(0, 255, (10, 4, 4, 3), dtype=np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        write_image(path, picture)
    lazy = LazyImages(paths)
    assert len(lazy) == 10 and lazy.shape == pictures.shape

    read: list[Path] = []
    plain = images.load_images
    monkeypatch.setattr(images, "load_images", lambda some, workers=1: read.extend(some) or plain(some, workers))
    whole, part = Images(pictures, seed=1, mirror=True), Images(lazy, seed=1, mirror=True)
    for rows in (slice(None), slice(2, 5), slice(0, 0)):
        read.clear()
        assert torch.equal(whole(8, 8, rows)["images"], part(8, 8, rows)["images"])
        assert len(read) == len(range(8)[rows])
