"""Student -> ONNX, and what onnxruntime makes of it: agreement with torch and CPU time.

onnx, onnxruntime and onnxscript are the optional extra `onnx`; they are imported when a stage exports.
"""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.config import TristyleError
from stages.networks.mobile import MobileStudent, blend

STEP = 8  # height and width are multiples of this
SMALLEST, LARGEST = 32, 4096  # pixels a side
OPSET = 18


class _Exported(nn.Module):
    """The student with its matte as a second output."""

    def __init__(self, student: MobileStudent) -> None:
        super().__init__()
        self.student = student

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.student.layers(photo)
        return blend(photo, layers), layers.alpha


def export_onnx(student: MobileStudent, path: Path, notes: dict[str, str]) -> None:
    """Write `student` as ONNX: photo [1, 3, height, width] -> output (same), alpha [1, 1, height, width].

    Height and width are dynamic multiples of 8 from 32 to 4096. BatchNorm is folded. The exporter's metadata is
    removed: it carries stack traces with the paths of this machine. `notes` become the model's metadata.

    Raises:
        TristyleError: the extra `onnx` is not installed.
    """
    onnx = _require("onnx")
    _require("onnxscript")
    sizes = {2: STEP * torch.export.Dim("rows", min=SMALLEST // STEP, max=LARGEST // STEP)}
    sizes[3] = STEP * torch.export.Dim("columns", min=SMALLEST // STEP, max=LARGEST // STEP)
    example = torch.zeros(1, 3, 8 * STEP, 9 * STEP)  # two sizes that differ, so that neither is taken for the other
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Exported(student).eval(),
            (example,),
            dynamo=True,
            input_names=["photo"],
            output_names=["output", "alpha"],
            opset_version=OPSET,
            dynamic_shapes={"photo": sizes},
            verbose=False,
        )
    assert program is not None  # with dynamo=True it never is
    model = program.model_proto
    strip(model)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[2].dim_param = "height"
        value.type.tensor_type.shape.dim[3].dim_param = "width"
    onnx.helper.set_model_props(model, notes)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def strip(model: Any) -> None:
    """Remove doc strings, metadata and inner shapes from an ONNX model, in place; numbers stay as they are."""
    graph = model.graph
    del graph.value_info[:]
    del model.functions[:]
    for item in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]


def open_session(path: Path, threads: int = 1) -> Any:
    """An onnxruntime CPU session. Raises TristyleError when onnxruntime is not installed."""
    runtime = _require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def largest_difference(student: MobileStudent, session: Any, photos: list[Tensor]) -> float:
    """max |torch - onnxruntime| over both outputs, in units of [-1, 1], on photos [1, 3, H, W] of any sizes."""
    worst = 0.0
    for photo in photos:
        layers = student.layers(photo)
        expected = blend(photo, layers), layers.alpha
        found = session.run(["output", "alpha"], {"photo": photo.numpy()})
        for a, b in zip(expected, found, strict=True):
            worst = max(worst, float(np.abs(a.numpy() - b).max()))
    return worst


def cpu_milliseconds(session: Any, size: int, repeats: int) -> float:
    """Least CPU time of one picture of size x size, in ms, after three warm-up runs.

    The least, for other work on the machine can only add to it.
    """
    photo = np.random.default_rng(0).uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
    times = []
    for _ in range(3 + repeats):
        begun = time.process_time()
        session.run(None, {"photo": photo})
        times.append(time.process_time() - begun)
    return 1000 * min(times[3:])


def _require(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TristyleError(f"export: {name} cannot be imported ({error}). Run: pip install 'tristyle[onnx]'") from None


class _quiet:
    """Silences loggers for a block: the exporter's progress is not news."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
