"""Training needs torch, NumPy and safetensors alone, and its checkpoint goes on on another machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.core.files import read_jsonl
from stages.core.images import read_image
from stages.training.checkpoint import load_checkpoint
from tests.tools.core_alone import ALLOWED, IMAGES

OTHER = ".venv-litert/bin/python"  # an interpreter with another torch, NumPy and safetensors (make runtimes)
TERMS = {
    "style": {"adversarial", "consistency", "path_length", "r1", "real"},
    "pair": {"cycle", "face_identity", "latent", "mask", "cam"},
    "student": {"l1", "chroma", "features", "equivariance", "edge_promotion"},
}


def train(root: Path, folder: Path, *arguments: str, python: str | Path = sys.executable) -> dict[str, Any]:
    """What `tests.tools.core_alone` prints."""
    command = [python, "-m", "tests.tools.core_alone", str(folder), *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a training state."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in inner for tensor in tensors(item)]


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted training of each kind by this interpreter: its folder and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(root, folder)


def test_the_core_trains_with_torch_numpy_and_safetensors_alone(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, told = whole
    assert set(told["third_party"]) <= ALLOWED | {"cython_runtime"}
    for label, terms in TERMS.items():
        assert terms <= {name for row in read_jsonl(folder / label / "log.jsonl") for name in row}
        previews = sorted((folder / label / "preview").glob("*.png"))
        assert previews and read_image(previews[-1]).std() > 0


def test_a_checkpoint_is_one_file_of_bounded_size(whole: tuple[Path, dict[str, Any]]) -> None:
    """Networks, averages and two moments of every weight, in float32 whatever the convolutions compute in."""
    folder, told = whole
    for label in TERMS:
        place = folder / label / ".scratch"
        assert {file.name for file in place.iterdir()} == {f"{label}.ckpt", f"{label}.ckpt.previous"}
        state = load_checkpoint(place / f"{label}.ckpt")
        assert state is not None and state["images"] == IMAGES
        held = tensors(state)
        assert {tensor.dtype for tensor in held if tensor.is_floating_point()} == {torch.float32}
        bytes_held = sum(tensor.numel() * tensor.element_size() for tensor in held)
        assert told[label]["bytes"] < 1.05 * bytes_held + 700 * len(held)
        sizes = {file.stat().st_size for file in place.iterdir()}  # no longer after 32 images than after 24
        assert max(sizes) - min(sizes) < 4096


def goes_on(root: Path, folder: Path, whole: dict[str, Any], first: dict[str, Any], then: dict[str, Any]) -> None:
    """Half of each training by `first`, the rest by `then` (arguments of `train`): close to the uninterrupted one."""
    half = train(root, folder, *first.pop("arguments", ()), "--stop", "16", **first)
    for label in TERMS:
        state = load_checkpoint(folder / label / ".scratch" / f"{label}.ckpt")
        assert state is not None and state["images"] == 16
    told = train(root, folder, *then.pop("arguments", ()), **then)
    assert {half["device"], half["torch"]} != {told["device"], told["torch"]}
    for label in TERMS:
        for name, norm in told[label]["weights"].items():
            assert norm == pytest.approx(whole[label]["weights"][name], rel=0.02, abs=0.02), f"{label}: {name}"


@pytest.mark.all
@pytest.mark.parametrize("here_first", [True, False])
def test_a_checkpoint_moves_between_versions_of_torch(
    here_first: bool, root: Path, tmp_path: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    if not (root / OTHER).exists():
        pytest.skip(f"no {OTHER} (make runtimes)")
    order = [{}, {"python": root / OTHER}]
    goes_on(root, tmp_path, whole[1], *(order if here_first else order[::-1]))


@pytest.mark.parametrize("here_first", [True, False])
def test_a_checkpoint_moves_between_cpu_and_gpu(
    here_first: bool, root: Path, tmp_path: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    order = [{}, {"arguments": ("--device", "cuda")}]
    goes_on(root, tmp_path, whole[1], *(order if here_first else order[::-1]))
