"""The exported student: the same numbers as torch at any size, no traces of the machine, a true card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.core.artifact import Artifact, seal
from stages.core.files import data_file, read_json, sha256_file
from stages.core.images import read_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.networks.mobile import MobileStudent
from tests.tools.tiny_pairs import STYLE, data_artifact

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from stages.export.contract import Exportable, Signature  # noqa: E402
from stages.export.fidelity import agreement, drawn_inputs, expected, milliseconds  # noqa: E402
from stages.export.onnx import Onnx, OnnxRun, Traced, export_onnx, open_session, strip  # noqa: E402
from stages.export.stage import ExportStage, check_samples, time_key  # noqa: E402

PRECISIONS = ["fp32", "fp16", "int8"]
SAID = {f"tristyle.{name}" for name in ("size", "style", "licence", "licence_class", "sources", "data", "outputs")}
PAINTS = Signature.of(MobileStudent("nano"))


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


def stage(**changes: Any) -> ExportStage:
    return ExportStage(**{"runtime": Onnx(precisions=["fp32"]), "photos": 2, "calibration": 4, "repeats": 2} | changes)


@pytest.fixture(scope="module")
def exported(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("export")
    metrics = stage(runtime=Onnx(precisions=PRECISIONS)).run(inputs, out, Runtime("cpu", 1, Tracker(out)))
    return out, metrics


def test_it_agrees_with_torch_at_sizes_it_was_not_traced_at(exported: tuple[Path, dict[str, float]]) -> None:
    out, metrics = exported
    run, student = Onnx(precisions=["fp32"]).open(out / "student.onnx", PAINTS, 1), trained_looking_student()
    sizes = [(32, 32), (64, 64), (40, 128), (256, 256)]
    samples = [[torch.rand(1, 3, *size) * 2 - 1] for size in sizes]
    found = agreement(run, samples, expected(student, samples, PAINTS), PAINTS)
    assert found["max_error"] < 1e-5 and found["psnr"] > 100
    assert 0 < metrics["max_error"] < 1e-5
    with torch.no_grad():
        student.paint.weight.mul_(1.01)
    assert agreement(run, samples, expected(student, samples, PAINTS), PAINTS)["max_error"] > 1e-4  # it can fail


def test_norms_are_folded_and_no_trace_of_the_machine_is_left(exported: tuple[Path, dict[str, float]]) -> None:
    path = exported[0] / "student.onnx"
    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds and {"Conv", "DepthToSpace"} <= kinds
    data = path.read_bytes()
    for trace in (b"site-packages", b"stack_trace", b".py", str(Path(__file__).parents[2]).encode()):
        assert trace not in data
    assert {item.key for item in model.metadata_props} == SAID
    assert exported[1]["bytes"] == len(data) < 1.5e6


def test_the_card_says_how_to_feed_it(exported: tuple[Path, dict[str, float]], inputs: dict[str, Artifact]) -> None:
    """Feeding the model by the card alone gives torch's picture."""
    out, _ = exported
    card = json.loads((out / "card.json").read_text())
    assert card["sha256"] == sha256_file(out / "student.onnx")
    assert card["scores"]["face_error"] == 0.1 and card["inputs"][0]["sides"]["trained_at"] == 64
    assert card["pictures"]["licences"] == ["Apache-2.0"] and card["licence"] and card["pictures"]["sources"]
    assert card["pictures"]["licence_classes"] and card["made"]["data"] == inputs["data"].digest
    notes = {item.key: item.value for item in onnx.load(out / "student.onnx").metadata_props}
    assert notes["tristyle.data"] == inputs["data"].digest and notes["tristyle.licence"] == "Apache-2.0"
    assert str(out) not in json.dumps(card)
    photo = read_image(inputs["data"].path / "heldout/photo/000000.png")
    (entry,) = card["inputs"]
    assert "x / 127.5 - 1" in entry["note"] and entry["layout"] == "NCHW"
    values = (photo.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    session = open_session(out / card["file"])
    found = session.run([item["name"] for item in card["outputs"]], {entry["name"]: values})
    with torch.no_grad():
        expected = trained_looking_student()(torch.from_numpy(values)).numpy()
    assert np.abs(found[0] - expected).max() < 1e-5
    assert 0 <= found[1].min() and found[1].max() <= 1


@pytest.mark.parametrize("name", ["comic", "faces", "student"])
def test_a_shipped_model_has_a_card_that_says_where_it_comes_from(name: str) -> None:
    card, path = read_json(data_file(f"{name}.json"), {"licence": str, "pictures": dict, "made": dict}), f"{name}.onnx"
    assert card["file"] == path and card["sha256"] == sha256_file(data_file(path))
    said = card["pictures"]
    assert said["sources"] and (said.get("licences") or all("(" in source for source in said["sources"]))
    assert len(card["made"]["data"]) == 64


def test_agreement_by_hand() -> None:
    """0.1 off everywhere: 10 log10(4 / 0.01) dB; twice the contrast, twice the edges; NaN is never agreement."""
    samples, truth = [[torch.zeros(1, 3, 32, 32)]], np.zeros((1, 3, 32, 32), np.float32)
    truth[..., 16:] = 0.4
    alpha = np.zeros((1, 1, 32, 32), np.float32)
    bare = Signature(PAINTS.inputs, PAINTS.outputs[:1])
    found = agreement(lambda _: (truth + np.float32(0.1),), samples, [(truth,)], bare)
    assert found["psnr"] == pytest.approx(26.02, abs=0.01) and found["max_error"] == pytest.approx(0.1)
    given = samples, [(truth, alpha)], PAINTS
    assert agreement(lambda _: (2 * truth, alpha), *given)["edge_clarity"] == pytest.approx(2, 0.05)
    assert agreement(lambda _: (truth, alpha + 0.5), *given)["max_error"] == pytest.approx(0.5)
    broken = agreement(lambda _: (truth * np.nan, alpha), *given)
    assert np.isnan(broken["psnr"]) and np.isnan(broken["max_error"])


def test_every_precision_is_measured_and_described(exported: tuple[Path, dict[str, float]]) -> None:
    out, metrics = exported
    rows = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["student.onnx", "student.fp16.onnx", "student.int8.onnx"]
    assert json.loads((out / "card.json").read_text())["files"] == rows
    for row, precision in zip(rows, PRECISIONS, strict=True):
        path = out / row["file"]
        assert (row["runtime"], row["precision"]) == ("onnx", precision)
        assert (row["bytes"], row["sha256"]) == (path.stat().st_size, sha256_file(path))
        assert all(row[time_key(side, threads)] > 0 for side in (256, 512) for threads in (1, 2))
        notes = {item.key: item.value for item in onnx.load(path).metadata_props}
        assert notes["tristyle.size"] == "64" and notes["tristyle.style"] == STYLE
        assert notes["tristyle.outputs"].endswith("trainedAlgorithmicMedia") and set(notes) == SAID
        assert all(notes.values()), notes
        assert all(trace not in path.read_bytes() for trace in (b"site-packages", b"stack_trace", str(out).encode()))
        assert {item.domain for item in onnx.load(path).opset_import} == {""}  # no operator of one runtime alone
    full, half, eighth = rows
    assert half["bytes"] < 0.55 * full["bytes"] and eighth["bytes"] < 0.4 * full["bytes"]
    assert full["psnr"] > 100 and half["psnr"] > 60 and eighth["psnr"] > 35
    assert eighth["edge_clarity"] == pytest.approx(1, abs=0.05)
    nodes = list(onnx.load(out / "student.int8.onnx").graph.node)
    kinds = [node.op_type for node in nodes]
    painting = kinds[len(kinds) - kinds[::-1].index("Conv") - 1 :]  # the last convolution and the blend: in float
    assert kinds.count("QuantizeLinear") > 10 and not {"QuantizeLinear", "DequantizeLinear"} & set(painting)
    assert metrics["int8_psnr"] == eighth["psnr"] and metrics["cpu_ms_256"] == full["ms_256_1"]


@pytest.fixture
def quick(exported: tuple[Path, dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The network exported once is exported for all."""

    def copied(network: Exportable, path: Path, notes: dict[str, str], signature: Signature) -> None:
        shutil.copyfile(exported[0] / "student.onnx", path)

    monkeypatch.setattr("stages.export.stage.export_onnx", copied)


class Shifted(Onnx):
    """onnxruntime, but that every picture comes out lighter."""

    shift = np.float32(0.01)

    def open(self, path: Path, signature: Signature, threads: int) -> Any:
        return Lighter(super().open(path, signature, threads).session, signature)


class Lighter(OnnxRun):
    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        output, alpha = super().__call__(*inputs)
        return output + Shifted.shift, alpha


def test_a_file_that_disagrees_is_not_passed_on(inputs: dict[str, Artifact], tmp_path: Path, quick: None) -> None:
    runtime = Runtime("cpu", 1, Tracker(tmp_path))
    with pytest.raises(TristyleError, match=r"student\.onnx: differs from torch by 0\.01"):
        stage(runtime=Shifted(precisions=["fp32"])).run(inputs, tmp_path, runtime)
    Shifted.shift = np.float32(0.3)
    with pytest.raises(TristyleError, match="Leave fp16 out of export.runtime.precisions"):
        stage(runtime=Shifted(precisions=["fp16"])).run(inputs, tmp_path, runtime)


class Elsewhere(Onnx):
    """A runtime that converts here and runs on other machines, at one size."""

    name, runs_here, side = "elsewhere", False, 96

    def open(self, path: Path, signature: Signature, threads: int) -> Any:
        raise TristyleError("cannot run here")


def test_what_cannot_run_here_is_described_and_not_measured(
    inputs: dict[str, Artifact], tmp_path: Path, quick: None
) -> None:
    made = stage(runtime=Elsewhere(precisions=["fp32"])).run(inputs, tmp_path, Runtime("cpu", 1, Tracker(tmp_path)))
    assert set(made) == {"bytes"}
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["files"][0]["checked"] == "not run here" and card["files"][0]["psnr"] is None
    assert card["inputs"][0]["shape"] == [1, 3, 96, 96] and card["inputs"][0]["sides"]["only"] == 96


def test_photos_of_the_check_fit_the_runtime(inputs: dict[str, Artifact]) -> None:
    def sizes(count: int, side: int | None = None) -> list[tuple[int, ...]]:
        return [tuple(photo.shape[2:]) for (photo,) in check_samples(inputs["data"], count, PAINTS, side)]

    assert sizes(1) == [(64, 64), (80, 104)]
    assert sizes(2, 96) == [(96, 96), (96, 96)]


def test_the_matte_can_be_left_out(tmp_path: Path) -> None:
    student = trained_looking_student()
    bare = Signature.of(student, alpha=False)
    export_onnx(student, tmp_path / "plain.onnx", {}, bare)
    session = open_session(tmp_path / "plain.onnx")
    assert [item.name for item in session.get_outputs()] == ["output"]
    photo = torch.rand(1, 3, 40, 48) * 2 - 1
    (found,) = Traced(student, bare)(photo)
    assert np.abs(session.run(None, {"photo": photo.numpy()})[0] - found.detach().numpy()).max() < 1e-5
    run = Onnx(precisions=["fp32"]).open(tmp_path / "plain.onnx", bare, 1)
    assert len(run(photo.numpy())) == 1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Onnx(precisions=[]), "precisions: "),
        (lambda: Onnx(precisions=["fp32", "fp32"]), "precisions: "),
        (lambda: Onnx(precisions=["fp8"]), "Choose one of: fp32, fp16, int8"),
        (lambda: stage(alpha="yes"), "alpha: "),
        (lambda: stage(photos=0), "photos: "),
        (lambda: stage(calibration=0), "calibration: "),
        (lambda: stage(least_psnr=-1.0), "least_psnr: "),
        (lambda: stage(repeats=0), "repeats: "),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make()


def test_a_missing_package_names_its_extra() -> None:
    from stages.export.contract import require

    with pytest.raises(TristyleError, match=r"pip install 'tristyle\[mnn\]'"):
        require("no_such_runtime", "mnn")


def test_a_missing_runtime_is_said_before_any_work(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    class Missing(Onnx):
        def check(self) -> None:
            raise TristyleError("export: it cannot be imported. Run: pip install 'tristyle[it]'")

    with pytest.raises(TristyleError, match="pip install"):
        stage(runtime=Missing(precisions=["fp32"])).run(inputs, tmp_path, Runtime("cpu", 1, Tracker(tmp_path)))
    assert not list(tmp_path.glob("**/*.onnx"))


def test_time_is_measured_and_strip_keeps_the_numbers(exported: tuple[Path, dict[str, float]]) -> None:
    out, metrics = exported
    run = Onnx(precisions=["fp32"]).open(out / "student.onnx", PAINTS, 1)
    small, large = (milliseconds(run, drawn_inputs(PAINTS, side), 1, 3) for side in (64, 512))
    assert small is not None and large is not None and 0 < small < large
    assert metrics["cpu_ms_256"] > 0
    model = onnx.load(out / "student.onnx")
    before = model.SerializeToString(deterministic=True)
    strip(model)
    assert before != model.SerializeToString(deterministic=True)  # the notes are gone, too
    assert len(model.graph.initializer) == len(onnx.load_from_string(before).graph.initializer)
