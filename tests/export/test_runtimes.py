"""MNN, ncnn, LiteRT and Core ML: child processes that may die, files that paint what torch paints."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import tomllib
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.settings import ConfigError, TristyleError
from stages.core.tensors import to_tensor
from stages.core.weights import save_network
from stages.export import coreml, litert, mnn, ncnn
from stages.export import subprocess_runtime as child
from stages.export.contract import ConversionSource, Signature
from stages.export.subprocess_runtime import ChildRun, ChildRuntime
from stages.networks.mobile import MobileStudent, blend
from tests.tools.tiny_pairs import STYLE, data_artifact, toys

ROOT = Path(__file__).resolve().parents[2]
RUNTIMES: dict[str, type[ChildRuntime]] = {
    "mnn": mnn.Mnn,
    "ncnn": ncnn.Ncnn,
    "litert": litert.Litert,
    "coreml": coreml.Coreml,
}
SIDE = 64
PAINTS = Signature.of(MobileStudent("nano"))

# A runtime for the child's side: its models are text files, and it does what a model says.
TOY = """
import os, sys, time
from pathlib import Path
import numpy as np

def convert(source, precision, folder, options):
    print("what the library says on stdout")
    out = folder / f"student.{precision}.toy"
    out.write_text("half")
    Path("debris").write_text("left by the converter")
    if precision == "int8":
        sys.stderr.write("Invalid tensor, goodbye\\n")
        sys.stderr.flush()
        os.abort()
    if precision == "fp16":
        raise ValueError(f"no fp16 for {source.style}\\nand more")
    out.write_text(options["word"])

def load(path, signature, threads):
    word = path.read_text()
    if word == "broken":
        raise ValueError("is not a model that toy reads. Convert it again")
    def call(photo):
        print("what the library says on stdout")
        if word == "busy":
            begun = time.process_time()
            while time.process_time() - begun < 0.02:
                pass
        if photo.min() < -1:
            raise ValueError("takes no such picture")
        if photo.max() > 1:
            os._exit(3)
        return [photo / 2] if word == "bare" else [photo / 2, photo[:, :1]]
    return call
"""


class Toy(ChildRuntime):
    name = "toy"
    tolerance = 1e-4
    suffix = "toy"
    known = ("fp32", "fp16", "int8")
    modules = ("numpy",)
    packages = ("numpy",)
    word = "fine"

    def options(self, source: ConversionSource, precision: str, folder: Path) -> dict[str, str]:
        return {"word": self.word}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A runtime whose child finds stages.export.toy in a package of its own."""
    package = tmp_path / "package"
    (package / "export").mkdir(parents=True)
    (package / "core").symlink_to(ROOT / "stages" / "core")
    for name in ("__init__", "export/__init__", "export/subprocess_runtime", "export/contract"):
        (package / f"{name}.py").symlink_to(ROOT / "stages" / f"{name}.py")
    (package / "export" / "toy.py").write_text(TOY)
    monkeypatch.setattr(child, "PACKAGE", package)
    return Toy(precisions=["fp32"])


SOURCE = ConversionSource(Path("a.onnx"), Path("a.safetensors"), Path("a.npz"), SIDE, PAINTS, style="comic")


def opened(toy: Toy, folder: Path, word: str = "fine") -> ChildRun:
    path = folder / "student.fp32.toy"
    path.write_text(word)
    return toy.open(path, PAINTS, 1)


def one_line(error: pytest.ExceptionInfo[TristyleError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------------------------------- the child


def test_a_conversion_is_whole_or_not_there(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = toy.convert(SOURCE, "fp32", out)
    assert path == out / "student.fp32.toy" and path.read_text() == "fine"
    with pytest.raises(TristyleError) as error:
        toy.convert(SOURCE, "int8", out)
    said = one_line(error)
    assert "export=toy: the conversion to int8 ended with SIGABRT (Invalid tensor, goodbye)" in said
    assert ".ci/locks/toy.lock" in said
    with pytest.raises(TristyleError) as error:
        toy.convert(SOURCE, "fp16", out)
    assert "status 1" in one_line(error)
    assert [item.name for item in out.iterdir()] == ["student.fp32.toy"]  # no half file, no debris, no scratch


def test_a_folder_takes_the_place_of_another(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "student.fp32.toy").mkdir()
    (tmp_path / "student.fp32.toy" / "old").write_text("")
    assert toy.convert(SOURCE, "fp32", tmp_path).read_text() == "fine"


def test_a_run_answers_and_measures_its_own_time(toy: Toy, tmp_path: Path) -> None:
    run = opened(toy, tmp_path, "busy")
    photo = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 16)).astype(np.float32)
    output, alpha = run(photo)
    assert np.array_equal(output, photo / 2) and np.array_equal(alpha, photo[:, :1])
    for cpu, wall in run.times([photo], 3):
        assert 0.02 <= cpu < 1 and cpu <= wall * 1.5  # the child's time: this process only waits
    run.close()
    assert run.child.poll() is not None
    run.close()
    with pytest.raises(TristyleError, match="was closed"):
        run(photo)
    assert len(opened(toy, tmp_path, "bare")(photo)) == 1


def test_a_run_that_fails_says_why_and_one_that_dies_too(toy: Toy, tmp_path: Path) -> None:
    run = opened(toy, tmp_path)
    photo = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.raises(TristyleError, match="student.fp32.toy: takes no such picture") as error:
        run(photo - 2)
    one_line(error)
    assert np.array_equal(run(photo + 1)[0], photo + 0.5)  # it lives on
    with pytest.raises(TristyleError, match=r"ended with status 3 \(what the library says on stdout\)") as error:
        run(photo + 2)
    one_line(error)
    with pytest.raises(TristyleError, match="was closed"):
        run(photo)


def test_a_model_that_is_none_or_not_there_is_refused(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(TristyleError, match="student.fp32.toy: is not a model that toy reads"):
        opened(toy, tmp_path, "broken")
    with pytest.raises(TristyleError, match="nothing.toy: no such model"):
        toy.open(tmp_path / "nothing.toy", PAINTS, 1)


def test_a_forgotten_run_leaves_no_process(toy: Toy, tmp_path: Path) -> None:
    run = opened(toy, tmp_path)
    process = run.child
    del run
    gc.collect()
    assert process.poll() is not None


def test_another_interpreter_sees_this_package_and_nothing_else_of_here(toy: Toy, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    toy.python = str(link)
    assert toy._command("check", {})[1] == "-I"
    toy.python = None
    assert toy._command("check", {})[1] == "-P"


# ---------------------------------------------------------------------------------------------------- a missing runtime


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_runtime_names_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(child, "PACKAGE", tmp_path / "stages")
    monkeypatch.setattr(child, "_findable", lambda module: False)
    with pytest.raises(TristyleError) as error:
        RUNTIMES[name]().check()  # type: ignore[call-arg]
    said = one_line(error)
    assert said.startswith(f"export={name}: ") and "cannot be imported" in said
    assert f"pip install 'tristyle[{name}]'" in said and "make runtimes" in said
    place = tmp_path / f".venv-{name}" / "bin"
    place.mkdir(parents=True)
    (place / "python").symlink_to(sys.executable)
    assert RUNTIMES[name]().interpreter() == str(place / "python")  # type: ignore[call-arg]


def test_a_package_that_breaks_when_imported_counts_as_missing(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toy.versions() == {"numpy": np.__version__}
    monkeypatch.setattr(Toy, "packages", ("numpy", "no-such-distribution"))
    with pytest.raises(TristyleError, match="export=toy: no-such-distribution is not installed. Run: pip install"):
        toy.check()
    monkeypatch.setattr(Toy, "packages", ("numpy",))
    monkeypatch.setattr(Toy, "modules", ("this.is.none",))
    monkeypatch.setattr(child, "_findable", lambda module: True)
    with pytest.raises(TristyleError, match=r"this cannot be imported \(.*\). Run: pip install 'tristyle\[toy\]'"):
        toy.check()


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for name, kind in RUNTIMES.items():
        with pytest.raises(ConfigError, match="precisions"):
            kind(precisions=["fp8"])
        with pytest.raises(ConfigError, match="python"):
            kind(precisions=["fp32"], python="")
        with pytest.raises(TristyleError, match="runtime.python.*is not an interpreter"):
            kind(precisions=["fp32"], python=str(tmp_path / name)).check()
    for side in (20, 8192, 100):
        with pytest.raises(ConfigError, match="side"):
            litert.Litert(side=side)
    free, fixed = (replace(PAINTS, side=side) for side in (None, 128))
    assert litert.Litert().fitted(free).side == 256 and coreml.Coreml().fitted(fixed).side == 128
    assert litert.Litert(side=512).fitted(fixed).side == 512  # the stage refuses it, in the network's words
    with pytest.raises(ConfigError, match="precisions"):
        ncnn.Ncnn(precisions=["int8"])


def test_every_runtime_has_an_extra_a_lock_and_notes() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, kind in RUNTIMES.items():
        assert kind.name == name and kind.notes and all(note.endswith(".") for note in kind.notes)
        lock = (ROOT / ".ci" / "locks" / f"{name}.lock").read_text()
        assert "://" not in lock and "/work" not in lock
        pinned = {
            line.split("==")[0].lower() for line in lock.splitlines() if "==" in line and not line.startswith(" ")
        }
        for requirement in extras[name]:
            distribution = re.split(r"[<>=]", requirement)[0].lower()
            assert distribution in pinned, f"{name}.lock does not pin {distribution}"
        assert {package.lower() for package in kind.packages} <= pinned
        assert lock.count("--hash=sha256:") >= len(pinned)
    assert any("not run here" in note for note in coreml.Coreml.notes)
    assert any("report their use" in note for note in mnn.Mnn.notes)


# ---------------------------------------------------------------------------------------------------- command lines


def test_mnn_is_called_by_its_extension_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def mnnconvert(arguments: list[str]) -> None:
        calls.append(arguments)
        Path(arguments[arguments.index("--MNNModel") + 1]).write_bytes(b"id 01234567-89ab-cdef-0123-456789abcdef rest")

    def mnnquant(arguments: list[str]) -> None:
        calls.append(arguments)
        Path(arguments[2]).write_bytes(b"small")

    tools = types.SimpleNamespace(mnnconvert=mnnconvert, mnnquant=mnnquant)
    monkeypatch.setitem(sys.modules, "_tools", tools)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "MNN.tools", raising=False)
    mnn.convert(SOURCE, "fp16", tmp_path, {})
    assert calls[0][:3] == ["mnnconvert", "-f", "ONNX"] and calls[0][-1] == "--fp16"
    assert sys.modules["MNN.tools"] is None  # it cannot be imported in the child
    monkeypatch.setattr(
        mnn, "operators", lambda path: [("late", "Interp"), ("paint", "Convolution"), ("output", "ADD")]
    )
    mnn.convert(SOURCE, "int8", tmp_path, {"photos": 5, "side": 64, "keep": ["conv2d_9"]})
    assert "--fp16" not in calls[1] and isinstance(calls[2], list)
    settings = json.loads(Path(calls[2][3]).read_text())
    assert (
        settings["skip_quant_op_names"] == ["conv2d_9", "late", "output"]
        and settings["feature_quantize_method"] == "KL"
    )
    assert settings["path"] == f"{tmp_path / 'photos'}/" and settings["used_image_num"] == 5
    sys.modules.pop("MNN.tools", None)


def test_mnn_files_of_equal_models_are_equal() -> None:
    first = b"model 01234567-89ab-cdef-0123-456789abcdef weights"
    second = b"model fedcba98-89ab-cdef-0123-456789abcdef weights"
    assert mnn.without_id(first) == mnn.without_id(second) != first
    assert mnn.without_id(mnn.without_id(first)) == mnn.without_id(first)
    assert mnn.without_id(first.replace(b"weights", b"other..")) != mnn.without_id(first).replace(
        b"weights", b"other.."
    )
    assert len(mnn.without_id(first)) == len(first) and mnn.without_id(b"none") == b"none"


def test_mnn_leaves_convolutions_before_an_upsampling_alone() -> None:
    pytest.importorskip("onnx")
    import onnx

    kept = mnn.before_resize(ROOT / "data" / "student.onnx")
    nodes = onnx.load(ROOT / "data" / "student.onnx").graph.node
    assert len(kept) == sum(node.op_type == "Resize" for node in nodes) == 2

    assert mnn.after_upsampling([("a", "Convolution"), ("b", "ADD")]) == []


def test_names_and_ids_are_the_students() -> None:
    param = "7767517\n2 3\nInput  in0    0 1 in0\nSplit  s 1 2 in0 out0 out1 0=in0x\n"
    assert ncnn.renamed(param, PAINTS).splitlines()[2:] == [
        "Input photo 0 1 photo",
        "Split s 1 2 photo output alpha 0=in0x",
    ]
    manifest = {
        "itemInfoEntries": {"A-1": {"path": "p/weights"}, "B-2": {"path": "p/model"}},
        "rootModelIdentifier": "B-2",
    }
    other = json.dumps(manifest).replace("A-1", "C-3").replace("B-2", "A-0")
    assert coreml.with_steady_ids(json.dumps(manifest)) == coreml.with_steady_ids(other)
    found = json.loads(coreml.with_steady_ids(other))
    assert found["itemInfoEntries"][found["rootModelIdentifier"]]["path"] == "p/model"


# ---------------------------------------------------------------------------------------------------- the real ones


def student() -> MobileStudent:
    """A student whose norms are not at their start, so that folding them wrongly would show."""
    torch.manual_seed(0)
    made = MobileStudent("nano")
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return made.eval()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ConversionSource:
    """A student and what converters start from; the photos are drawn."""
    from stages.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("source")
    save_network(folder / "student.safetensors", student())
    export_onnx(student(), folder / "source.onnx", {"tristyle.size": str(SIDE)})
    np.savez(folder / "calibration.npz", photo=to_tensor(toys(0, 16, SIDE)[0]).numpy())
    paths = (folder / name for name in ("source.onnx", "student.safetensors", "calibration.npz"))
    return ConversionSource(*paths, SIDE, PAINTS, style="comic", notes={"tristyle.licence": "Apache-2.0"})


def made(name: str, **settings: object) -> ChildRuntime:
    """A runtime that is installed; skips where it is not."""
    fixed = {"side": SIDE} if name in ("litert", "coreml") else {}
    runtime = RUNTIMES[name](**fixed, **settings)  # type: ignore[arg-type]
    try:
        runtime.check()
    except TristyleError as error:
        pytest.skip(str(error))
    return runtime


def worst(run: ChildRun, photo: torch.Tensor) -> tuple[float, float]:
    """Largest difference to torch of output and alpha, and the output's PSNR."""
    with torch.no_grad():
        layers = student().layers(photo)
        wanted = blend(photo, layers).numpy(), layers.alpha.numpy()
    output, alpha = run(photo.numpy())
    assert output.dtype == alpha.dtype == np.float32
    error = max(float(np.abs(output - wanted[0]).max()), float(np.abs(alpha - wanted[1]).max()))
    return error, float(10 * np.log10(4 / max(np.square(output - wanted[0]).mean(), 1e-20)))


def photo(height: int, width: int) -> torch.Tensor:
    picture = to_tensor(toys(50, 1, 128)[0])
    return torch.nn.functional.interpolate(picture, (height, width), mode="bilinear", antialias=True)


def files(path: Path) -> dict[str, bytes]:
    found = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return {str(item.relative_to(path.parent)): item.read_bytes() for item in found}


@pytest.mark.all
@pytest.mark.parametrize("name", ["mnn", "ncnn", "litert"])
def test_a_runtime_paints_what_torch_paints(name: str, source: ConversionSource, tmp_path: Path) -> None:
    runtime = made(name)
    fp32 = runtime.convert(source, "fp32", tmp_path)
    whole = sum(map(len, files(fp32).values()))
    sizes = [(SIDE, SIDE)] if runtime.side else [(64, 64), (40, 128), (128, 96)]
    run = runtime.open(fp32, PAINTS, 1)
    for size in sizes:
        assert worst(run, photo(*size))[0] <= runtime.tolerance, size
    assert all(cpu > 0 and wall > 0 for cpu, wall in run.times([photo(SIDE, SIDE).numpy()], 2))
    two = runtime.open(fp32, PAINTS, 2)
    assert worst(two, photo(SIDE, SIDE))[0] <= runtime.tolerance
    for precision, psnr, share in (("fp16", 60, 0.65), ("int8", 35, 0.45)):
        if precision in runtime.known:
            path = runtime.convert(source, precision, tmp_path)
            assert worst(runtime.open(path, PAINTS, 1), photo(SIDE, SIDE))[1] > psnr, precision
            assert sum(map(len, files(path).values())) < share * whole
    assert not list(tmp_path.glob(".*"))


@pytest.mark.all
@pytest.mark.parametrize("name", RUNTIMES)
def test_equal_students_give_equal_files_without_a_trace_of_here(
    name: str, source: ConversionSource, tmp_path: Path
) -> None:
    first = files(made(name).convert(source, "fp32", tmp_path / "a"))
    again = files(made(name).convert(source, "fp32", tmp_path / "b"))
    assert first == again
    for data in first.values():
        for trace in (str(tmp_path), str(source.onnx.parent), str(ROOT), "site-packages", os.path.expanduser("~/")):
            assert trace.encode() not in data


def noted_in(path: Path) -> dict[str, str]:
    """The notes within a converted file."""
    if path.suffix == ".tflite":
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == ["notes.json"] and archive.testzip() is None
            return dict(json.loads(archive.read("notes.json")))
    return dict(json.loads((path / "notes.json").read_text()))


def test_litert_notes_stand_behind_an_unchanged_model(tmp_path: Path) -> None:
    model, notes = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 40, {"tristyle.licence": "Apache-2.0 ü"}
    found = litert.with_notes(model, notes)
    (tmp_path / "x.tflite").write_bytes(found)
    assert found.startswith(model) and noted_in(tmp_path / "x.tflite") == notes
    assert litert.with_notes(model, notes) == found  # no time in it


@pytest.mark.all
@pytest.mark.parametrize("name", ["ncnn", "litert"])
def test_the_notes_are_in_every_precision(name: str, source: ConversionSource, tmp_path: Path) -> None:
    runtime = made(name)
    for precision in runtime.known:
        assert noted_in(runtime.convert(source, precision, tmp_path)) == source.notes


@pytest.mark.all
def test_core_ml_holds_the_notes(source: ConversionSource, tmp_path: Path) -> None:
    found = files(made("coreml").convert(source, "fp32", tmp_path))
    assert any(b"tristyle.licence" in data and b"Apache-2.0" in data for data in found.values())


@pytest.mark.all
@pytest.mark.parametrize("name", ["mnn", "ncnn"])
def test_a_student_without_a_matte(name: str, source: ConversionSource, tmp_path: Path) -> None:
    from stages.export.onnx import export_onnx

    signature = Signature.of(student(), alpha=False)
    export_onnx(student(), tmp_path / "bare.onnx", {}, signature)
    bare = ConversionSource(tmp_path / "bare.onnx", source.network, source.calibration, SIDE, signature)
    runtime = made(name)
    path = runtime.convert(bare, "fp32", tmp_path / "out")
    (output,) = runtime.open(path, signature, 1)(photo(SIDE, SIDE).numpy())
    assert output.shape == (1, 3, SIDE, SIDE)


@pytest.mark.all
def test_litert_takes_its_one_size_only(source: ConversionSource, tmp_path: Path) -> None:
    runtime = made("litert")
    run = runtime.open(runtime.convert(source, "fp32", tmp_path), PAINTS, 1)
    with pytest.raises(TristyleError, match="takes pictures of 64 x 64 px only, not 72 x 64"):
        run(photo(64, 72).numpy())


@pytest.mark.all
@pytest.mark.parametrize("name", ["mnn", "ncnn", "litert"])
def test_a_file_that_is_no_model_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"student.fp32.{RUNTIMES[name].suffix}"
    if name == "ncnn":
        path.mkdir()
        (path / "student.param").write_text("no model")
        (path / "student.bin").write_bytes(b"")
    else:
        path.write_bytes(b"no model at all, but a line of text")
    with pytest.raises(TristyleError, match=path.name) as error:
        made(name).open(path, PAINTS, 1)
    one_line(error)


@pytest.mark.all
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_source_that_is_no_model_is_one_line(name: str, source: ConversionSource, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    bad = ConversionSource(tmp_path / "bad.onnx", tmp_path / "bad.safetensors", source.calibration, SIDE, PAINTS)
    with pytest.raises(TristyleError, match=f"export={name}: the conversion to fp32") as error:
        made(name).convert(bad, "fp32", tmp_path / "out")
    one_line(error)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.all
def test_core_ml_is_converted_and_says_that_it_does_not_run_here(source: ConversionSource, tmp_path: Path) -> None:
    runtime = made("coreml")
    sizes = {name: files(runtime.convert(source, name, tmp_path)) for name in ("fp32", "fp16")}
    weights = {
        name: next(len(data) for path, data in found.items() if path.endswith("weight.bin"))
        for name, found in sizes.items()
    }
    assert weights["fp16"] < 0.55 * weights["fp32"]
    with pytest.raises(TristyleError, match="Apple's systems only"):
        runtime.open(tmp_path / "student.fp32.mlpackage", PAINTS, 1)


@pytest.mark.all
@pytest.mark.parametrize("name", ["mnn", "coreml"])
def test_the_stage_measures_and_describes(name: str, tmp_path: Path) -> None:
    from stages.core.artifact import seal
    from stages.core.runtime import Runtime
    from stages.core.tracking import Tracker
    from stages.export.stage import ExportStage

    runtime = made(name, precisions=["fp32", "fp16"])
    data = data_artifact(tmp_path / "data", SIDE)
    save_network(tmp_path / "student" / "student.safetensors", student())
    sealed = {"config": {"target": STYLE}, "inputs": {}, "metrics": {"size": SIDE}}
    inputs = {"data": data, "student": seal(tmp_path / "student", "student", **sealed)}  # type: ignore[arg-type]
    stage = ExportStage(runtime=runtime, photos=2, calibration=2, repeats=2)
    metrics = stage.run(inputs, tmp_path / "out", Runtime("cpu", 1, Tracker(tmp_path)))
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["notes"] == list(runtime.notes) and str(tmp_path) not in json.dumps(card)
    assert card["runtime"]["made_with"] == {"torch": torch.__version__.split("+")[0]} | runtime.versions()
    first = card["files"][0]
    if name == "coreml":
        assert first["checked"] == "not run here" and first["psnr"] is None and set(metrics) == {"bytes", "fp16_bytes"}
    else:
        assert 0 < first["max_error"] < runtime.tolerance and 0 < first["ms_256_1"] < first["ms_512_1"]
        assert metrics["fp16_psnr"] > 60
