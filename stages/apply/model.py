"""The exported student: which file, open it, run it on pixels of any size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.config import TristyleError

if TYPE_CHECKING:
    import numpy as np

STEP = 8  # the network takes multiples of this
SMALLEST = 32  # px a side


def model_path(given: Path | None) -> Path:
    """The ONNX file to use: the one given (or in the folder given), else the last one in ./runs, else the shipped one.

    Raises:
        TristyleError: there is none.
    """
    from stages.io import data_file

    path = given
    if path is None:
        finished = sorted(Path("runs/export").glob("*/manifest.json"), key=lambda manifest: manifest.stat().st_mtime)
        path = finished[-1].parent if finished else data_file("student.onnx")
    if path.is_dir():
        path = path / "student.onnx"
    if path.is_file():
        return path
    if given is None:
        raise TristyleError("no model is shipped with this version. Name one: --model runs/export/<key>")
    raise TristyleError(f"{path}: no such model. Give --model a .onnx file or the folder of an export.")


def open_model(path: Path) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        TristyleError: onnxruntime is missing or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TristyleError(f"onnxruntime cannot be imported ({error}). Run: pip install 'tristyle[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not a readable ONNX model ({reason}). Export it again.") from None
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or shape[1] != 3:
        raise TristyleError(f"{path}: takes {shape}, not [1, 3, height, width]. Give a model made by stage=export.")
    return session


def run_padded(session: Any, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] of any size -> (output float32 [H, W, 3] in 0..255, alpha float32 [H, W, 1] in 0..1).

    The photo is padded by reflection to multiples of 8, at least 32, and the result cut back. A model without a matte
    counts as painting everywhere.
    """
    import numpy as np

    height, width = photo.shape[:2]
    below, right = (max(SMALLEST, -(-side // STEP) * STEP) - side for side in (height, width))
    padded = np.pad(photo, ((0, below), (0, right), (0, 0)), mode="reflect")
    values = (padded.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    results = session.run(None, {session.get_inputs()[0].name: values})
    output = ((results[0][0].transpose(1, 2, 0) + 1) * 127.5)[:height, :width]
    alpha = results[1][0].transpose(1, 2, 0)[:height, :width] if len(results) > 1 else np.ones_like(output[..., :1])
    return output, alpha
