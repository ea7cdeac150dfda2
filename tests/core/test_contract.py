"""The contract between stages: sealed, checked, keyed, locked; done is done, killed resumes, wrong order is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from stages.core.artifact import Artifact, ArtifactError, artifact_key, hash_path, locked, open_artifact, seal
from stages.core.files import write_bytes
from stages.core.images import grid, read_image, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError, number
from stages.core.stage import Stage
from stages.core.tensors import to_tensor, to_uint8
from stages.pipeline import compose as composer
from stages.pipeline import run as runner
from stages.pipeline.targets import source_files


@dataclass(kw_only=True)
class FakeStage(Stage):
    """Writes one number that depends on its inputs; counts how often it ran."""

    kind: str
    value: float = 1.0
    fail: bool = False
    reads: tuple[str, ...] = ()
    ran: ClassVar[list[str]] = []

    def __post_init__(self) -> None:
        number("value", self.value, 0)

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, float]:
        FakeStage.ran.append(self.kind)
        if self.fail:
            raise TristyleError("planted: it breaks. Mend it.")
        (out / "number.txt").write_text(str(self.value + sum(item.metrics["value"] for item in inputs.values())))
        return {"value": self.value} if runtime.part is None else {"done": 1, "shards": 1}

    def shards(self, inputs: dict[str, Artifact]) -> int:
        return 1


READS: dict[str, list[str]] = {
    "data": [],
    "style": ["data"],
    "pair": ["data", "style"],
    "student": ["pair"],
    "export": ["student"],
}


def config(out: Path, **changes: Any) -> Any:
    """A whole-pipeline config made of fake stages."""
    stages = {
        kind: {"_target_": f"{__name__}.FakeStage", "kind": kind, "reads": reads} for kind, reads in READS.items()
    }
    cfg = OmegaConf.create(
        {"stage": "all", "out": str(out), "device": "cpu", "workers": 1, "allow": [__name__.partition(".")[0]],
         "tracker": {"_target_": "stages.core.tracking.Tracker"},
         "force": False, "objective": None, **stages}
    )  # fmt: skip
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    return cfg


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out."""
    FakeStage.ran.clear()
    monkeypatch.setattr(runner, "_write_report", lambda artifacts, path: None)


def artifact(path: Path) -> Artifact:
    (path / "photo").mkdir(parents=True)
    write_image(path / "photo" / "a.png", np.zeros((8, 8, 3), np.uint8))
    return seal(path, "data", config={"size": 8}, inputs={}, metrics={"count": 1.0})


def test_sealed_opens_and_names_every_file(tmp_path: Path) -> None:
    sealed = artifact(tmp_path / "a")
    opened = open_artifact(tmp_path / "a", "data")
    assert opened.digest == sealed.digest and list(opened.manifest["files"]) == ["photo/a.png"]


@pytest.mark.parametrize("harm", ["flip", "missing", "manifest", "digest"])
def test_tampering_is_refused_by_name(tmp_path: Path, harm: str) -> None:
    artifact(tmp_path / "a")
    file, manifest = tmp_path / "a/photo/a.png", tmp_path / "a/manifest.json"
    if harm == "flip":
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data)
    elif harm == "missing":
        file.unlink()
    elif harm == "manifest":
        manifest.write_text(manifest.read_text()[:-40])
    else:
        manifest.write_text(manifest.read_text().replace('"digest": "', '"digest": "00', 1))
    with pytest.raises(ArtifactError, match="a.png" if harm in ("flip", "missing") else "manifest.json"):
        open_artifact(tmp_path / "a", "data")


def test_wrong_kind_and_unfinished_are_refused(tmp_path: Path) -> None:
    artifact(tmp_path / "a")
    with pytest.raises(ArtifactError, match="holds a data artifact where style is needed"):
        open_artifact(tmp_path / "a", "style")
    (tmp_path / "a/manifest.json").unlink()
    with pytest.raises(ArtifactError, match="Run stage=data first"):
        open_artifact(tmp_path / "a", "data")


def test_key_depends_on_config_inputs_and_files_not_on_their_order() -> None:
    base = artifact_key("style", {"lr": 1, "b": 2}, {"data": "d"}, {"start": "f"})
    assert base == artifact_key("style", {"b": 2, "lr": 1}, {"data": "d"}, {"start": "f"})
    others = [({"lr": 2, "b": 2}, "d", "f"), ({"lr": 1, "b": 2}, "e", "f"), ({"lr": 1, "b": 2}, "d", "g")]
    assert all(base != artifact_key("style", c, {"data": d}, {"start": f}) for c, d, f in others)


def test_folder_digest_follows_contents_and_names(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/1.txt").write_text("one")
    first = hash_path(tmp_path / "x")
    (tmp_path / "x/1.txt").write_text("two")
    second = hash_path(tmp_path / "x")
    (tmp_path / "x/1.txt").rename(tmp_path / "x/2.txt")
    assert len({first, second, hash_path(tmp_path / "x")}) == 3


def test_chain_runs_once_then_all_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner.run(config(tmp_path / "runs"))
    assert FakeStage.ran == ["data", "style", "pair", "student", "export"]
    runner.run(config(tmp_path / "runs"))
    assert len(FakeStage.ran) == 5 and capsys.readouterr().out.count("already done") == 5


def test_changed_setting_runs_only_what_depends_on_it(tmp_path: Path) -> None:
    runner.run(config(tmp_path / "runs"))
    FakeStage.ran.clear()
    runner.run(config(tmp_path / "runs", pair__value=2.0))
    assert FakeStage.ran == ["pair", "student", "export"]


def test_objective_returns_its_measure(tmp_path: Path) -> None:
    assert runner.run(config(tmp_path / "runs", objective="pair.value", pair__value=3.0)) == 3.0
    with pytest.raises(ConfigError, match="was not measured"):
        runner.run(config(tmp_path / "runs", objective="pair.nothing"))


def test_stage_alone_refuses_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Run stage=data"):
        runner.run(config(tmp_path / "runs", stage="pair"))
    assert FakeStage.ran == []


def test_stage_alone_leaves_out_what_it_does_not_need(tmp_path: Path) -> None:
    for stage in ("data", "style", "pair"):
        runner.run(config(tmp_path / "runs", stage=stage))
    assert FakeStage.ran == ["data", "style", "pair"]


def test_the_chain_leaves_out_what_its_end_does_not_need(tmp_path: Path) -> None:
    runner.run(config(tmp_path / "runs", pair__reads=["data"]))
    assert FakeStage.ran == ["data", "pair", "student", "export"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"part": "half"}, "part: 'half'"),
        ({"part": -1}, "part: '-1'"),
        ({"part": 1, "stage": "style"}, "part: stage=style"),
        ({"part": 1, "force": True}, "force: "),
    ],
)
def test_a_part_that_cannot_be_made_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        runner.run(config(tmp_path / "runs", **{"stage": "pair", **changes}))
    assert FakeStage.ran == []


def test_a_part_seals_nothing_and_shares_its_folder(tmp_path: Path) -> None:
    for stage in ("data", "style"):
        runner.run(config(tmp_path / "runs", stage=stage))
    FakeStage.ran.clear()
    with pytest.raises(ArtifactError, match="in use"), held(tmp_path, shared=True):
        runner.run(config(tmp_path / "runs", stage="pair", part="train"))
    with held(tmp_path, shared=True):
        assert runner.run(config(tmp_path / "runs", stage="pair", part=0)) is None
    assert FakeStage.ran == ["pair"] and not list((tmp_path / "runs/pair").glob("*/manifest.json"))
    with pytest.raises(ArtifactError, match="in use"), held(tmp_path, shared=False):
        runner.run(config(tmp_path / "runs", stage="pair", part=0))
    runner.run(config(tmp_path / "runs", stage="pair"))
    assert FakeStage.ran == ["pair", "pair"] and len(list((tmp_path / "runs/pair").glob("*/manifest.json"))) == 1
    runner.run(config(tmp_path / "runs", stage="pair", part=0))  # sealed: nothing left to do
    assert FakeStage.ran == ["pair", "pair"]


@contextmanager
def held(root: Path, shared: bool) -> Iterator[None]:
    """Another holder of the fakes' pair folder."""
    cfg = config(root / "runs", stage="pair")
    inputs = {kind: open_artifact(next((root / "runs" / kind).iterdir()), kind).digest for kind in READS["pair"]}
    settings = composer.described(cfg, "pair")
    files = source_files(settings)  # the fakes are a module of the user's own
    key = artifact_key("pair", settings, inputs, {name: hash_path(path) for name, path in files.items()})
    with locked(root / "runs" / "pair" / key, shared=shared):
        yield


def test_jobs_side_by_side_get_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.hydra_config import HydraConfig

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for launcher, device in (("joblib_launcher.JoblibLauncher", "cuda:2"), ("basic_launcher.BasicLauncher", "cuda:0")):
        hydra = {"launcher": {"_target_": f"hydra.{launcher}"}, "job": {"num": 6}}
        monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))
        assert composer._device("auto") == device


def test_tampered_input_stops_the_stage_and_nothing_is_lost(tmp_path: Path) -> None:
    runner.run(config(tmp_path / "runs", stage="data"))
    file = next((tmp_path / "runs/data").rglob("number.txt"))
    file.write_text("5")
    with pytest.raises(ArtifactError, match=r"number\.txt: changed since"):
        runner.run(config(tmp_path / "runs", stage="style"))
    assert file.read_text() == "5" and FakeStage.ran == ["data"]


def test_failing_stage_stops_the_chain(tmp_path: Path) -> None:
    with pytest.raises(TristyleError, match="planted"):
        runner.run(config(tmp_path / "runs", style__fail=True))
    assert FakeStage.ran == ["data", "style"]


def test_bad_value_is_refused_before_any_stage_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"export\.value"):
        runner.run(config(tmp_path / "runs", export__value=-1.0))
    assert FakeStage.ran == [] and not (tmp_path / "runs").exists()


def test_foreign_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        runner.run(config(tmp_path / "runs"))
    assert (tmp_path / "runs/thesis.tex").read_text() == "precious"


def test_living_process_keeps_its_folder_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    code = f"""
import time, sys
from pathlib import Path
from stages.core.artifact import locked
with locked(Path({str(tmp_path / "a")!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert owner.stdout is not None and owner.stdout.readline() == b"held\n"
    with pytest.raises(ArtifactError, match=f"in use by process {owner.pid}"), locked(tmp_path / "a"):
        pass
    owner.kill()
    owner.communicate()
    time.sleep(0.05)
    with locked(tmp_path / "a"):
        pass


def test_writes_are_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    write_bytes(target, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_value_ranges_round_trip() -> None:
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = to_tensor(images)
    assert tensor.shape == (1, 3, 16, 16) and float(tensor.min()) == -1.0 and float(tensor.max()) == 1.0
    assert np.array_equal(to_uint8(tensor), images)
    assert torch.equal(to_tensor(images[0]), tensor)


def test_grid_places_pictures_row_by_row() -> None:
    sheet = grid(np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)]), columns=2, pad=1)
    assert sheet.shape == (11, 11, 3) and sheet[1, 1, 0] == 10 and sheet[1, 6, 0] == 20 and sheet[6, 1, 0] == 30


def test_png_round_trip(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    write_image(tmp_path / "x.png", image)
    assert np.array_equal(read_image(tmp_path / "x.png"), image)


def test_manifest_is_readable_json_with_the_promised_fields(tmp_path: Path) -> None:
    artifact(tmp_path / "a")
    manifest = json.loads((tmp_path / "a/manifest.json").read_text())
    assert {
        "schema",
        "kind",
        "digest",
        "config",
        "inputs",
        "files",
        "metrics",
        "code",
        "cost",
        "created",
    } <= manifest.keys()
