"""Encoder and generator leave as one file, the generator alone as another; both agree with torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.runtime import Runtime
from stages.core.settings import ConfigError
from stages.core.tracking import Tracker
from stages.core.weights import load_network
from stages.export.contract import Backend, Signature
from stages.networks.blaze import BlazeFaces
from tests.tools import tiny_blaze
from tests.tools.tiny_pairs import data_artifact

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from stages.export.coreml import Coreml  # noqa: E402
from stages.export.litert import Litert  # noqa: E402
from stages.export.mnn import Mnn  # noqa: E402
from stages.export.ncnn import Ncnn  # noqa: E402
from stages.export.onnx import Onnx  # noqa: E402
from stages.export.stage import ExportStage  # noqa: E402
from stages.export.web import Web  # noqa: E402

SIZE = tiny_blaze.SIZE


def exported(folder: Path, runtime: Backend) -> tuple[Path, dict[str, float]]:
    inputs = {"data": data_artifact(folder / "data", SIZE), "student": tiny_blaze.student(folder / "student")}
    stage = ExportStage(runtime=runtime, photos=2, calibration=4, repeats=1)
    out = folder / "out"
    return out, stage.run(inputs, out, Runtime("cpu", 1, Tracker(folder)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """An export to ONNX, in a folder beside its student, and its measures."""
    return exported(tmp_path_factory.mktemp("made"), Onnx(precisions=["fp32", "fp16", "int8"]))


def test_two_files_that_agree_with_torch(made: tuple[Path, dict[str, float]]) -> None:
    out, measures = made
    names = {path.name for path in out.glob("*.onnx")}
    assert names == {"student.onnx", "student.fp16.onnx", "student.int8.onnx", "faces.onnx", "faces.fp16.onnx"}
    assert 0 < measures["max_error"] < 1e-4 and 0 < measures["faces_max_error"] < 1e-4
    assert measures["int8_psnr"] > 25 and measures[f"cpu_ms_{SIZE}"] > 0 and measures[f"faces_cpu_ms_{SIZE}"] > 0

    card = json.loads((out / "card.json").read_text())
    assert card["inputs"][0]["sides"] == {"only": SIZE, "trained_at": SIZE} and card[f"macs_{SIZE}"] > 0
    assert card["faces"]["files"][0]["file"] == "faces.onnx" and card["faces"]["inputs"][0]["layout"] == "NC"

    # The generator alone, fed as its card says.
    faces = load_network(out.parent / "student" / "faces.safetensors")
    z = torch.randn(1, 8)
    run = Onnx(precisions=["fp32"]).open(out / "faces.onnx", Signature.of(faces), 1)  # type: ignore[arg-type]
    with torch.no_grad():
        assert np.abs(run(z.numpy())[0] - faces(z).numpy()).max() < 1e-4


def test_the_page_gets_both(
    made: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(network: object, path: Path, *_: object) -> None:
        """In the place of a second conversion, which takes half a minute."""
        shutil.copy(made[0] / ("faces.onnx" if isinstance(network, BlazeFaces) else "student.onnx"), path)

    monkeypatch.setattr("stages.export.stage.export_onnx", copied)
    out, _ = exported(tmp_path, Web(precisions=["fp32"]))
    models = json.loads((out / "student.fp32.web" / "models.json").read_text())["models"]
    assert models[0]["fixed"] and models[0]["size"] == SIZE
    assert (out / "student.fp32.web" / models[0]["file"]).exists()
    assert (out / "student.fp32.web" / models[0]["faces"]).exists()


def test_a_runtime_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Litert, "check", lambda self: None)
    with pytest.raises(ConfigError, match=r"runtime\.side: the network takes 64 px only, not 256. Give 64"):
        exported(tmp_path, Litert(side=256))


@pytest.mark.all
@pytest.mark.parametrize("runtime", [Mnn, Ncnn, Litert, Coreml], ids=lambda kind: kind.name)
def test_every_runtime_converts_both(runtime: type[Backend], tmp_path: Path) -> None:
    from stages.core.settings import TristyleError

    made = runtime()  # of one size, those take the network's
    try:
        made.check()
    except TristyleError as error:
        pytest.skip(str(error))
    out, measures = exported(tmp_path, made)
    assert list(out.glob("student.*")) and list(out.glob("faces.*"))
    if made.runs_here:
        assert measures["max_error"] <= made.tolerance and measures["faces_max_error"] <= made.tolerance
