"""The exported student: the same numbers as torch at any size, no traces of the machine, a true card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pairs import STYLE, data_artifact

from stages.artifact import Artifact, seal
from stages.config import TristyleError
from stages.io import read_image, save_network, sha256_file
from stages.networks.mobile import MobileStudent
from stages.runtime import Runtime
from stages.tracking import Tracker

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from stages.export.onnx import cpu_milliseconds, largest_difference, open_session, strip  # noqa: E402
from stages.export.stage import ExportStage  # noqa: E402


def trained_looking_student() -> MobileStudent:
    """A student whose norms are not at their start, so that folding them wrongly would show."""
    torch.manual_seed(0)
    student = MobileStudent("nano")
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return student.eval()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    base = tmp_path_factory.mktemp("inputs")
    data = data_artifact(base / "data", 64)
    save_network(base / "student" / "student.safetensors", trained_looking_student())
    config = {"target": STYLE, "train": {"images": 1}}
    student = seal(base / "student", "student", config=config, inputs={}, metrics={"size": 64, "face_error": 0.1})
    return {"data": data, "student": student}


@pytest.fixture(scope="module")
def exported(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("export")
    metrics = ExportStage(photos=2, repeats=3).run(inputs, out, Runtime("cpu", 1, Tracker(out)))
    return out, metrics


def test_it_agrees_with_torch_at_sizes_it_was_not_traced_at(exported: tuple[Path, dict[str, float]]) -> None:
    out, metrics = exported
    session, student = open_session(out / "student.onnx"), trained_looking_student()
    sizes = [(32, 32), (64, 64), (40, 128), (256, 256)]
    photos = [torch.rand(1, 3, *size) * 2 - 1 for size in sizes]
    assert largest_difference(student, session, photos) < 1e-5
    assert 0 < metrics["max_error"] < 1e-5
    with torch.no_grad():
        student.paint.weight.mul_(1.01)
    assert largest_difference(student, session, photos) > 1e-4  # the check can fail


def test_norms_are_folded_and_no_trace_of_the_machine_is_left(exported: tuple[Path, dict[str, float]]) -> None:
    path = exported[0] / "student.onnx"
    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds and {"Conv", "DepthToSpace"} <= kinds
    data = path.read_bytes()
    for trace in (b"site-packages", b"stack_trace", b".py", str(Path(__file__).parents[1]).encode()):
        assert trace not in data
    assert {item.key: item.value for item in model.metadata_props} == {"tristyle.size": "64", "tristyle.style": STYLE}
    assert exported[1]["bytes"] == len(data) < 1.5e6


def test_the_card_says_how_to_feed_it(exported: tuple[Path, dict[str, float]], inputs: dict[str, Artifact]) -> None:
    """Feeding the model by the card alone gives torch's picture."""
    out, _ = exported
    card = json.loads((out / "card.json").read_text())
    assert card["sha256"] == sha256_file(out / "student.onnx")
    assert card["scores"]["face_error"] == 0.1 and card["input"]["height"]["trained_at"] == 64
    assert card["pictures"]["licences"] == ["Apache-2.0"]
    assert str(out) not in json.dumps(card)
    photo = read_image(inputs["data"].path / "heldout/photo/000000.png")
    assert card["input"]["normalisation"].startswith("x / 127.5 - 1") and card["input"]["layout"] == "NCHW"
    values = (photo.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    session = open_session(out / card["file"])
    found = session.run([item["name"] for item in card["outputs"]], {card["input"]["name"]: values})
    with torch.no_grad():
        expected = trained_looking_student()(torch.from_numpy(values)).numpy()
    assert np.abs(found[0] - expected).max() < 1e-5
    assert 0 <= found[1].min() and found[1].max() <= 1


def test_a_model_that_disagrees_is_not_passed_on(inputs: dict[str, Artifact], tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from stages.export import stage

    def other(student: MobileStudent, path: Path, notes: dict[str, str]) -> None:
        path.write_bytes(b"")

    monkeypatch.setattr(stage, "export_onnx", other)
    monkeypatch.setattr(stage, "open_session", lambda path: None)
    monkeypatch.setattr(stage, "largest_difference", lambda *_: 0.01)
    with pytest.raises(TristyleError, match="differs from torch by 0.01"):
        ExportStage().run(inputs, tmp_path, Runtime("cpu", 1, Tracker(tmp_path)))


def test_time_is_measured_and_strip_keeps_the_numbers(exported: tuple[Path, dict[str, float]]) -> None:
    out, metrics = exported
    session = open_session(out / "student.onnx")
    assert 0 < cpu_milliseconds(session, 64, 3) < cpu_milliseconds(session, 512, 3)
    assert metrics["cpu_ms_256"] > 0
    model = onnx.load(out / "student.onnx")
    before = model.SerializeToString(deterministic=True)
    strip(model)
    assert before != model.SerializeToString(deterministic=True)  # the notes are gone, too
    assert len(model.graph.initializer) == len(onnx.load_from_string(before).graph.initializer)
