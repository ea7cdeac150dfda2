"""The operator table: what tiers are built of, that it can be measured again, and that it ranks them."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.core.files import data_file
from stages.core.settings import TristyleError
from stages.networks.mobile import TIERS, Layers, MobileStudent, blend, count_macs

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from stages.export.onnx import Onnx, open_session  # noqa: E402
from tests.bench import operators  # noqa: E402
from tests.bench.operators import OTHERS, SIZES, Operator, layers, predict, wanted, write_model  # noqa: E402

KERNELS = {"conv3_half": 9, "conv3": 9, "conv1": 1}


@pytest.fixture(scope="module")
def shipped() -> dict:
    return json.loads(data_file("operators.json").read_text())


@pytest.mark.parametrize("tier", TIERS)
def test_the_layers_are_the_students(tier: str) -> None:
    """The convolutions of the list multiply as often as the network's."""
    macs = 0
    for operator in layers(tier, 256):
        side = operator.side // (2 if operator.kind == "conv3_half" else 1)
        macs += KERNELS.get(operator.kind, 0) * operator.inputs * operator.outputs * side**2
    assert macs == count_macs(MobileStudent(tier), 256)


@pytest.mark.parametrize("kind", [*OTHERS, "conv3_half", "head"])
def test_every_operator_runs_and_does_what_its_name_says(kind: str, tmp_path: Path) -> None:
    operator = Operator(kind, 16, {"head": 3, "shuffle2": 4}.get(kind, 16), 8)
    side = operators.photo_side(operator)
    photo = np.random.default_rng(0).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    for present in (True, False):
        write_model(operator, tmp_path / "model.onnx", present)
        (found,) = open_session(tmp_path / "model.onnx").run(None, {"photo": photo})
        assert found.shape == (1, operator.outputs if present else operator.inputs, 1, 1)


def test_the_head_paints_as_the_student_does(tmp_path: Path) -> None:
    write_model(Operator("head", 16, 3, 8), tmp_path / "model.onnx")
    photo = torch.rand(1, 3, 16, 16) * 2 - 1
    (found,) = open_session(tmp_path / "model.onnx").run(None, {"photo": photo.numpy()})
    stem = np.random.default_rng(1).standard_normal((16, 3, 1, 1)).astype(np.float32)
    x = F.pixel_shuffle(F.conv2d(photo, torch.from_numpy(stem), stride=2), 2)
    expected = blend(photo, Layers(torch.tanh(x[:, :3]), torch.sigmoid(x[:, 3:]))).mean((2, 3), keepdim=True)
    assert np.abs(found - expected.numpy()).max() < 1e-5


def test_the_shipped_table_has_every_operator(shipped: dict) -> None:
    rows = {
        Operator(*(row[name] for name in ("kind", "inputs", "outputs", "side"))): row for row in shipped["operators"]
    }
    assert list(rows) == wanted()
    for row in rows.values():
        assert set(row["ms"]) == {"onnx", "mnn"} and all(0 <= ms < 100 for ms in row["ms"].values())
    assert shipped["isa"] and set(shipped["versions"]) >= {"onnxruntime", "MNN"}
    assert [(row["tier"], row["size"]) for row in shipped["tiers"] if row["runtime"] == "onnx"] == [
        (tier, size) for size in SIZES for tier in TIERS
    ]


@pytest.mark.parametrize("runtime", ["onnx", "mnn"])
@pytest.mark.parametrize("size", SIZES)
def test_the_table_ranks_the_tiers(shipped: dict, size: int, runtime: str) -> None:
    said = [predict(shipped["operators"], tier, size, runtime) for tier in TIERS]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(said))
    rows = [row for row in shipped["tiers"] if (row["size"], row["runtime"]) == (size, runtime)]
    for row, value in zip(rows, said, strict=True):
        assert row["predicted"] == pytest.approx(value, abs=1e-3)
        assert 0.6 < value / row["ms"] < 1.2  # what runs between the operators is not in the sum


def test_the_table_can_be_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    """The whole command, on two kinds of operators and one small size."""
    monkeypatch.setattr(operators, "SIZES", (32,))
    monkeypatch.setattr(operators, "OTHERS", ("conv3", "relu"))
    monkeypatch.setattr("stages.networks.mobile.TIERS", {"nano": TIERS["nano"]})
    monkeypatch.setattr(
        "stages.export.onnx.export_onnx", lambda *given: shutil.copyfile(data_file("student.onnx"), given[1])
    )
    operators.main(["-o", str(tmp_path / "table.json"), "--rounds", "1"])
    found = json.loads((tmp_path / "table.json").read_text())
    assert {row["kind"] for row in found["operators"]} == {
        "conv3_half",
        "conv3",
        "conv1",
        "bilinear2",
        "add",
        "head",
        "relu",
    }
    assert found["tiers"][0]["tier"] == "nano" and found["tiers"][0]["ms"] > 0
    assert "predicted" in capsys.readouterr().out


def test_a_dearer_operator_costs_more_and_a_folded_one_nothing() -> None:
    runtime = Onnx(precisions=["fp32"])
    small, large = (operators.added(runtime, Operator("conv3", width, width, 128), 3) for width in (16, 64))
    assert small < large
    assert operators.added(runtime, Operator("batch_norm", 16, 16, 64), 3) < large


def test_a_table_without_a_layer_is_refused(shipped: dict) -> None:
    with pytest.raises(TristyleError, match="the table lacks Operator"):
        predict(shipped["operators"][1:], "nano", 256, "onnx")


@pytest.mark.parametrize(
    ("given", "named"),
    [(["-o", "no/such/folder.json"], "choose another for -o"), (["-o", "t.json", "--rounds", "0"], "--rounds: 0")],
)
def test_bad_arguments_are_one_line(given: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        operators.main(given)
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and named in line.lower()
