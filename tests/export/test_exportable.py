"""Any network that names its inputs and outputs is exported, also with several of each; another one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.core.artifact import Artifact, seal
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tensors import TensorSpec
from stages.core.tracking import Tracker
from stages.core.weights import NETWORKS, save_network
from stages.export.contract import (
    BACKENDS,
    ConversionSource,
    Exportable,
    Signature,
    check_exportable,
    check_takes_a_photo,
    signature_from_json,
)
from stages.networks.mobile import MobileStudent
from tests.tools.tiny_pairs import STYLE, data_artifact

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from stages.export.litert import Litert  # noqa: E402
from stages.export.onnx import Onnx  # noqa: E402
from stages.export.stage import ExportStage, sample_of  # noqa: E402
from stages.export.web import Web  # noqa: E402


class Recoloured(nn.Module):
    """A toy of what is to come: a photo and a vector of attributes in, a picture and one number out."""

    multiple_of = 16
    inputs = (TensorSpec("photo", 3), TensorSpec("attributes", 4, 0.0, 1.0, spatial=False))
    outputs = (TensorSpec("output", 3), TensorSpec("amount", 1, 0.0, 1.0, spatial=False))

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.arguments = {"width": width}
        self.features = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.shift = nn.Linear(4, width)
        self.paint = nn.Conv2d(width, 12, 3, padding=1)

    def compute(self, photo: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """photo [N, 3, H, W] in [-1, 1], attributes [N, 4] -> picture of the photo's shape, amount [N, 1]."""
        features = torch.relu(self.features(photo) + self.shift(attributes)[:, :, None, None])
        picture = torch.tanh(nn.functional.pixel_shuffle(self.paint(features), 2))
        return picture, torch.sigmoid(features.mean(dim=(1, 2, 3), keepdim=False)[:, None])


@pytest.fixture(autouse=True)
def networks_of_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights may name the classes of this file."""
    import sys

    sys.modules.setdefault("stages.networks.recoloured", sys.modules[__name__])
    monkeypatch.setattr(Recoloured, "__module__", "stages.networks.recoloured")
    monkeypatch.setattr("stages.core.weights.NETWORKS", NETWORKS | {"stages.networks.recoloured.Recoloured"})


def inputs_of(folder: Path, network: nn.Module) -> dict[str, Artifact]:
    save_network(folder / "student" / "student.safetensors", network)
    sealed = {"config": {"target": STYLE}, "inputs": {}, "metrics": {"size": 64}}
    student = seal(folder / "student", "student", **sealed)  # type: ignore[arg-type]
    return {"data": data_artifact(folder / "data", 64), "student": student}


def exported(folder: Path, network: nn.Module, **settings: object) -> tuple[dict[str, object], dict[str, float]]:
    """The card and the measures of an export to `folder`/out."""
    fixed = {"runtime": Onnx(precisions=["fp32", "int8"]), "photos": 1, "calibration": 4, "repeats": 1}
    stage = ExportStage(**fixed | settings)  # type: ignore[arg-type]
    out = folder / "out"
    measures = stage.run(inputs_of(folder, network), out, Runtime("cpu", 1, Tracker(folder)))
    return json.loads((out / "card.json").read_text()), measures


def test_two_inputs_and_two_outputs_are_exported_and_agree_with_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Recoloured().eval()
    card, measures = exported(tmp_path, network)
    assert 0 < measures["max_error"] < 1e-5 and measures["int8_psnr"] > 25

    # The card alone says how to feed the file.
    run = Onnx(precisions=["fp32"]).open(tmp_path / "out" / str(card["file"]), Signature.of(network), 1)
    assert [(entry["name"], entry["shape"]) for entry in card["inputs"]] == [  # type: ignore[attr-defined]
        ("photo", [1, 3, "height", "width"]),
        ("attributes", [1, 4]),
    ]
    assert [entry["name"] for entry in card["outputs"]] == ["output", "amount"]  # type: ignore[attr-defined]
    assert card["inputs"][0]["sides"]["multiple_of"] == 16  # type: ignore[index]

    # At a size that was not traced, each input counts.
    photo, attributes = torch.rand(1, 3, 48, 80) * 2 - 1, torch.rand(1, 4)
    picture, amount = run(photo.numpy(), attributes.numpy())
    with torch.no_grad():
        expected = network.compute(photo, attributes)
    assert np.abs(picture - expected[0].numpy()).max() < 1e-5 and np.abs(amount - expected[1].numpy()).max() < 1e-5
    assert np.abs(picture - run(photo.numpy(), 1 - attributes.numpy())[0]).max() > 1e-3


def test_a_network_that_is_not_exportable_is_refused_in_one_line(tmp_path: Path) -> None:
    from stages.networks.parser import FaceParser

    with pytest.raises(TristyleError) as error:
        exported(tmp_path, FaceParser())
    said = str(error.value)
    assert "student.safetensors: holds FaceParser, which cannot be exported" in said and "\n" not in said
    assert "multiple_of, inputs, outputs, compute" in said and said.endswith(".")
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Litert, "check", lambda self: None)
    with pytest.raises(ConfigError, match=r"runtime\.side: 72 is not a multiple of 16"):
        exported(tmp_path, Recoloured(), runtime=Litert(side=72))


def test_the_page_takes_a_network_of_one_photo_only(tmp_path: Path) -> None:
    with pytest.raises(TristyleError, match="export=web: takes a network of one photo only.*photo, attributes"):
        exported(tmp_path, Recoloured(), runtime=Web(precisions=["fp32"]))
    check_takes_a_photo(Signature.of(MobileStudent("nano")), "x", "y")


def test_networks_and_signatures() -> None:
    student = MobileStudent("nano")
    assert isinstance(student, Exportable) and check_exportable(student, "here") is student
    both, bare = Signature.of(student), Signature.of(student, alpha=False)
    assert (both.output_names, bare.output_names) == (["output", "alpha"], ["output"])
    assert both.shapes(64, 72) == [(1, 3, 64, 72)] and both.multiple_of == 8
    found = student.eval().compute(torch.rand(1, 3, 32, 40) * 2 - 1)
    for spec, values in zip(student.outputs, found, strict=True):
        assert values.shape == spec.shape(32, 40) and spec.low <= values.min() and values.max() <= spec.high


def test_a_source_crosses_to_another_process() -> None:
    paths = (Path("a.onnx"), Path("a.safetensors"), Path("a.npz"))
    source = ConversionSource(*paths, 64, Signature.of(Recoloured()), "comic")
    plain = json.loads(json.dumps(source.as_json()))
    assert ConversionSource.from_json(plain) == source
    assert signature_from_json(plain["signature"]) == source.signature


def test_inputs_besides_the_photo_are_drawn_from_their_ranges() -> None:
    photo = torch.rand(1, 3, 32, 48)
    first, again = (sample_of(photo, Signature.of(Recoloured()), 3) for _ in range(2))
    assert first[0] is photo and torch.equal(first[1], again[1])
    assert first[1].shape == (1, 4) and 0 <= first[1].min() < first[1].max() <= 1


def test_backends_are_named_once(root: Path) -> None:
    import importlib

    students = {path.stem for path in (root / "conf" / "export").glob("*.yaml")} - {"editor"}
    assert sorted(students) == sorted(BACKENDS)
    for name in BACKENDS:
        module = importlib.import_module(f"stages.export.{name}")
        assert getattr(module, name.capitalize()).name == name


@pytest.mark.all
@pytest.mark.parametrize("name", ["mnn", "ncnn"])
def test_other_runtimes_take_several_inputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    torch.manual_seed(0)
    runtime = getattr(importlib.import_module(f"stages.export.{name}"), name.capitalize())(precisions=["fp32"])
    try:
        runtime.check()
    except TristyleError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(type(runtime), "tolerance", 1e-3)  # random weights: ncnn is off by 1.03e-4
    card, measures = exported(tmp_path, Recoloured().eval(), runtime=runtime)
    assert 0 < measures["max_error"] < runtime.tolerance and card["file"] == f"student.fp32.{name}"
