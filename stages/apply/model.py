"""The exported student: which file, open it, run it on pixels of any size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.settings import TristyleError

if TYPE_CHECKING:
    import numpy as np

STEP = 8  # the network takes multiples of this
SMALLEST = 32  # px a side
SHIPPED = {"faces": "faces.onnx", "painted": "student.onnx"}  # by name; the first one is the default
OTHER_KINDS = {
    ".mnn": "a model for MNN",
    ".param": "a model for ncnn",
    ".bin": "weights for ncnn",
    ".tflite": "a model for LiteRT",
    ".mlpackage": "a model for Core ML",
    ".mlmodel": "a model for Core ML",
    ".safetensors": "weights for torch",
    ".pt": "weights for torch",
    ".pth": "weights for torch",
}


def model_path(given: Path | None) -> Path:
    """The ONNX file to use: the one given (or in the folder given), else the last one in ./runs, else the shipped one.

    A word of SHIPPED means that shipped model, where there is no file of that name: `faces` is for photographs of
    people, `painted` for the painter's pictures.

    Raises:
        TristyleError: there is none.
    """
    from stages.core.files import data_file

    path = given
    if path is None:
        finished = sorted(Path("runs/export").glob("*/manifest.json"), key=lambda manifest: manifest.stat().st_mtime)
        path = finished[-1].parent if finished else data_file(next(iter(SHIPPED.values())))
    elif str(path) in SHIPPED and not path.exists():
        path = data_file(SHIPPED[str(path)])
    if path.is_dir():
        path = _exported(path)
    if path.is_file():
        kind = OTHER_KINDS.get(path.suffix)
        if kind:
            raise TristyleError(f"{path}: {kind}; stylize runs ONNX. Give the student.onnx of the same export.")
        return path
    if given is None:
        raise TristyleError("no model is shipped with this version. Name one: --model runs/export/<key>")
    raise TristyleError(f"{path}: no such model. Give --model a .onnx file or the folder of an export.")


def _exported(folder: Path) -> Path:
    """The ONNX file in the folder of an export: float32 where there are several precisions."""
    names = ["student.onnx", *sorted(path.name for path in folder.glob("student.*.onnx"))]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    other = next((path.name for path in sorted(folder.glob("student.*")) if path.suffix in OTHER_KINDS), None)
    if other:
        raise TristyleError(
            f"{folder}: holds {other}, and stylize runs ONNX. Run: tristyle stage=export export=onnx, give that folder."
        )
    raise TristyleError(f"{folder}: holds no student.onnx. Give --model the folder of an export, or a .onnx file.")


def open_model(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU, with so many threads (0: as many as there are cores).

    Raises:
        TristyleError: onnxruntime is missing or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TristyleError(f"onnxruntime cannot be imported ({error}). Run: pip install 'tristyle[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not a readable ONNX model ({reason}). Export it again.") from None
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else []
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
        raise TristyleError(f"{path}: takes {shape}, not [1, 3, height, width]. Give a model made by stage=export.")
    return session


def trained_size(session: Any) -> int | None:
    """The side in px at which the model was trained, where it notes that."""
    noted = session.get_modelmeta().custom_metadata_map.get("tristyle.size", "")
    return int(noted) if noted.isdigit() and int(noted) > 0 else None


def run_padded(session: Any, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] of any size -> (output float32 [H, W, 3] in 0..255, alpha float32 [H, W, 1] in 0..1).

    The photo is padded by reflection to multiples of 8, at least 32, and the result cut back. A model without a matte
    counts as painting everywhere.

    Raises:
        TristyleError: the model does not run at this size, or answers something else than a picture.
    """
    import numpy as np

    height, width = photo.shape[:2]
    below, right = (max(SMALLEST, -(-side // STEP) * STEP) - side for side in (height, width))
    padded = np.pad(photo, ((0, below), (0, right), (0, 0)), mode="reflect")
    values = (padded.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    taken = session.get_inputs()[0]
    try:
        results = session.run(None, {taken.name: values.astype(np.float16) if "float16" in taken.type else values})
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = str(error).splitlines()[0]
        raise TristyleError(f"the model cannot run on {width}x{height} pixels ({reason}). Export it again.") from None
    if results[0].shape != values.shape:
        raise TristyleError(f"the model answers {list(results[0].shape)}, which is no picture. Export it again.")
    output = ((results[0][0].astype(np.float32).transpose(1, 2, 0) + 1) * 127.5)[:height, :width]
    if len(results) == 1:
        return output, np.ones_like(output[..., :1])
    return output, results[1][0].astype(np.float32).transpose(1, 2, 0)[:height, :width]
