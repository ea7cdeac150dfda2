"""The notebooks run: on artifacts of every kind, and on an empty runs folder with a message instead of a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import onnx
import pytest
import torch
from nbclient import NotebookClient

from stages.core.images import write_image
from stages.core.weights import save_network
from stages.networks.stylegan2 import Generator
from tests.tools import tiny_runs

pytestmark = pytest.mark.all
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def identity_model() -> bytes:
    """Stands in for a student in the ONNX file: gives the picture back."""
    shape = [1, 3, "height", "width"]
    photo, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("photo", "output")
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["photo"], ["output"])], "g", [photo], [output])
    opset = onnx.helper.make_opsetid("", 17)
    model: bytes = onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset]).SerializeToString()
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of tiny artifacts whose generator and ONNX file really run."""
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    generator = Generator(z_dim=16, w_dim=16, img_resolution=tiny_runs.SIZE, channel_base=128, channel_max=8)
    save_network(root / "style" / "s" / "generator.safetensors", generator)
    for name in ("editing", "change", "modes"):
        write_image(root / "style" / "s" / f"{name}.png", tiny_runs.face(1, "photo"))
    made = tiny_runs.chain(root, model=identity_model())
    tiny_runs.pair(root, {kind: made[kind] for kind in ("data", "style")}, "mask", "even", 0.1)
    return root


def execute(notebook: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a notebook and return everything that it printed or displayed."""
    monkeypatch.setenv("TRISTYLE_RUNS", str(runs))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(runs.parent / "ipython"))
    book = nbformat.read(notebook, as_version=4)
    NotebookClient(
        book, timeout=600, startup_timeout=300, resources={"metadata": {"path": str(notebook.parent)}}
    ).execute()
    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") or str(output.get("data", {}).get("text/html", "")) for output in shown)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_on_artifacts(notebook: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = execute(notebook, runs, monkeypatch)
    assert shown.count("<iframe srcdoc=") >= 5 and "data:image/" in shown and "There is no finished" not in shown
    assert "digest" in shown
    if notebook.stem == "01_style":
        sheets = ("edits at five strengths", "what the edits change", "photos by each mode of inversion")
        assert all(title in shown for title in sheets)
    if notebook.stem == "02_pair":
        assert "The person or the style" in shown and "attention of" not in shown and ": attention" in shown
        assert "identity, limit" in shown and "mask even" in shown


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_says_what_to_do_without_artifacts(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRISTYLE_RUNS", str(tmp_path))
    cells = nbformat.read(notebook, as_version=4).cells
    exec("\n".join(cell.source for cell in cells if cell.cell_type == "code"), {})  # a kernel would take five seconds
    kind = notebook.stem.partition("_")[2]
    assert f"There is no finished {kind} artifact in {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped_and_trains_nothing(notebook: Path) -> None:
    book = json.loads(notebook.read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    text = "".join("".join(cell["source"]) for cell in code)
    assert not [word for word in ("backward(", "optim", "fit(task", "Train(") if word in text]


def test_there_are_three_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_style", "02_pair", "03_student"]
