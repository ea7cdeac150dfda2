"""The whole chain through the command line, tiny: every stage seals, a second call does nothing, a sweep shares."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from stages.core.artifact import KINDS, open_artifact
from stages.core.mark import origin, read_mark
from stages.pipeline import cli

TINY = [
    "workers=1", "device=cpu", "data.count=24", "data.heldout=8", "data.style_count=16", "data.heldout_style=12",
    "style.train.images=32", "style.sampling.count=16", "pair.train.images=8", "student.train.images=32",
    "student.train.batch=8",
    "export.photos=2", "export.repeats=2", "export.calibration=4",
]  # fmt: skip


def tristyle(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Call the console script in this process."""
    monkeypatch.setattr(sys, "argv", ["tristyle", *arguments])
    cli.main()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("pipeline") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        tristyle(patch, f"out={folder}", *TINY)
    return folder


def test_every_stage_is_sealed_with_measures_and_cost(out: Path) -> None:
    for kind in KINDS:
        (place,) = (out / kind).iterdir()
        artifact = open_artifact(place, kind)
        assert artifact.metrics and artifact.manifest["cost"]["seconds"] > 0
        assert not (place / ".scratch").exists()
        assert artifact.manifest["code"]["torch"]


def test_the_model_runs_and_the_report_stands_alone(out: Path) -> None:
    import numpy as np
    import onnxruntime

    (model,) = out.glob("export/*/student.onnx")
    session = onnxruntime.InferenceSession(str(model))
    picture = np.zeros((1, 3, 72, 88), np.float32)
    assert session.run(None, {session.get_inputs()[0].name: picture})[0].shape == picture.shape
    (report,) = out.glob("reports/*/report.html")
    page = report.read_text()
    assert "data:image/" in page and 'src="http' not in page


def test_all_that_is_synthetic_says_so(out: Path) -> None:
    plain = {"photo", "mask", "parsing", "heatmap", "rejects", "heldout/photo", "heldout/mask", "heldout/parsing"}
    plain |= {"style_mask", "heldout/style_mask", "heldout/heatmap"}
    checked = 0
    for place in (path for kind in KINDS for path in (out / kind).iterdir()):
        for file in place.rglob("*.png"):
            folder = file.parent.relative_to(place).as_posix()
            if folder in plain - ({"photo", "heldout/photo"} if place.parent.name == "data" else set()):
                continue
            if folder.startswith(("style_mask", "heldout/style_mask", "twin_mask", "heldout/twin_mask")):
                continue
            mark = read_mark(file)
            assert (mark is not None and mark.synthetic) or file.name == "rejects.png", file
            checked += 1
    assert checked > 100

    # So do the pictures in the report, and the weights know their data.
    (report,) = out.glob("reports/*/report.html")
    pictures = re.findall(r'src="data:image/\w+;base64,([^"]+)" alt="([^"]*)"', report.read_text())
    painted = [data for data, alt in pictures if "raw translation" in alt or "student of" in alt or "kept pair" in alt]
    assert len(painted) > 4 and all(origin(base64.b64decode(data)) for data in painted)
    (data,) = (json.loads(path.read_bytes()) for path in out.glob("data/*/manifest.json"))
    for name in ("style/*/generator", "pair/*/translator", "student/*/student"):
        (path,) = out.glob(f"{name}.safetensors")
        with safe_open(path, "np") as file:
            assert file.metadata()["data"] == data["digest"] and file.metadata()["licence"]


def test_a_second_call_has_nothing_to_do(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/manifest.json")}
    tristyle(monkeypatch, f"out={out}", *TINY)
    assert capsys.readouterr().out.count("already done") == len(KINDS)
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*/manifest.json")}


def test_a_sweep_shares_what_its_variants_have_in_common(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tristyle(monkeypatch, "-m", "stage=data,style,pair", "pair=mask,plain", f"out={out}", *TINY)
    counts = {kind: len(list((out / kind).iterdir())) for kind in KINDS}
    assert counts == {"data": 1, "style": 1, "pair": 2, "student": 1, "export": 1}
    index = (out / "index.html").read_text()
    assert all(f"pair-{place.name}" in index for place in (out / "pair").iterdir())


def test_a_mistake_in_the_last_job_stops_a_sweep_before_its_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tristyle(monkeypatch, "-m", "stage=data,style", "pair.train.lr=1e-4,-1", f"out={tmp_path / 'runs'}", *TINY)
    assert stop.value.code == 2 and not (tmp_path / "runs" / "data").exists()
    assert "pair.train.lr" in capsys.readouterr().err


def test_the_manifest_names_its_inputs_by_digest(out: Path) -> None:
    (student,) = out.glob("student/*/manifest.json")
    inputs = json.loads(student.read_text())["inputs"]
    assert set(inputs) == {"data", "pair"}
    for kind, entry in inputs.items():
        assert open_artifact(student.parent / entry["path"], kind).digest == entry["digest"]
