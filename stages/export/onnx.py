"""Student -> ONNX: the source of most other runtimes' files, and a runtime of its own in three precisions.

onnx, onnxruntime and onnxscript are the optional extra `onnx`; they are imported when a stage exports.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stages.export.contract import LARGEST, SMALLEST, STEP, ConversionSource, Run, check_precisions, require, timed
from stages.networks.mobile import MobileStudent, blend

OPSET = 18


class Exported(nn.Module):
    """The student as every runtime gets it: photo -> output, and its matte as a second output unless `alpha` is off."""

    def __init__(self, student: MobileStudent, alpha: bool = True) -> None:
        super().__init__()
        self.student, self.alpha = student, alpha

    def forward(self, photo: Tensor) -> tuple[Tensor, ...]:
        """[1, 3, H, W] in [-1, 1] -> output (same), alpha [1, 1, H, W] in [0, 1]."""
        layers = self.student.layers(photo)
        output = blend(photo, layers)
        return (output, layers.alpha) if self.alpha else (output,)


@dataclass(kw_only=True)
class Onnx:
    """onnxruntime on the CPU.

    Args:
        precisions: of fp32, fp16 (halves the file; the arithmetic stays 32 bits wide where a CPU has no other) and
            int8 (static, calibrated on photos).
    """

    name: ClassVar[str] = "onnx"
    tolerance: ClassVar[float] = 1e-4
    runs_here: ClassVar[bool] = True
    notes: ClassVar[tuple[str, ...]] = ()
    side: ClassVar[int | None] = None
    precisions: list[str]

    def __post_init__(self) -> None:
        check_precisions(self.precisions)

    def check(self) -> None:
        """Raises TristyleError: the extra `onnx` is not installed."""
        for module in ("onnx", "onnxruntime", "onnxscript"):
            require(module, "onnx")

    def versions(self) -> dict[str, str]:
        """Of onnxruntime and onnx. Raises as `check` does."""
        self.check()
        return {name: version(name) for name in ("onnxruntime", "onnx")}

    def convert(self, source: ConversionSource, precision: str, out: Path) -> Path:
        """student.onnx, student.fp16.onnx or student.int8.onnx in `out`."""
        path = out / ("student.onnx" if precision == "fp32" else f"student.{precision}.onnx")
        if precision == "fp32":
            shutil.copyfile(source.onnx, path)
        elif precision == "fp16":
            write_half(source.onnx, path)
        else:
            write_int8(source.onnx, path, source.calibration)
        return path

    def open(self, path: Path, threads: int) -> Run:
        """An onnxruntime session."""
        return OnnxRun(open_session(path, threads))


class OnnxRun:
    """An onnxruntime session as a Run (stages.export.contract)."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.photo, self.alpha = session.get_inputs()[0].name, len(session.get_outputs()) > 1

    def __call__(self, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """One picture; alpha is None where the model was made without it."""
        found = self.session.run(None, {self.photo: photo})
        return found[0], found[1] if self.alpha else None

    def times(self, photo: np.ndarray, repeats: int) -> list[tuple[float, float]]:
        """(CPU seconds, wall seconds) of each of `repeats` runs."""
        return timed(lambda: self(photo), repeats)

    def close(self) -> None:
        """Nothing to end: the session goes with this object."""


def export_onnx(student: MobileStudent, path: Path, notes: dict[str, str], alpha: bool = True) -> None:
    """Write `student` as ONNX: photo [1, 3, height, width] -> output (same), alpha [1, 1, height, width].

    Height and width are dynamic multiples of 8 from 32 to 4096. BatchNorm is folded. The exporter's metadata is
    removed: it carries stack traces with the paths of this machine. `notes` become the model's metadata.

    Raises:
        TristyleError: the extra `onnx` is not installed.
    """
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    sizes = {2: STEP * torch.export.Dim("rows", min=SMALLEST // STEP, max=LARGEST // STEP)}
    sizes[3] = STEP * torch.export.Dim("columns", min=SMALLEST // STEP, max=LARGEST // STEP)
    example = torch.zeros(1, 3, 8 * STEP, 9 * STEP)  # two sizes that differ, so that neither is taken for the other
    with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Exported(student, alpha).eval(),
            (example,),
            dynamo=True,
            input_names=["photo"],
            output_names=["output", "alpha"] if alpha else ["output"],
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


def write_half(source: Path, path: Path) -> None:
    """Store the weights of an fp32 ONNX file as float16; inputs and outputs stay float32.

    The file halves. Where a CPU has no 16-bit arithmetic, onnxruntime computes in float32 again: the time stays.
    """
    onnx = require("onnx", "onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights below float16's least value: they become zero
        model = require("onnxruntime.transformers.float16", "onnx").convert_float_to_float16(
            onnx.load(source), keep_io_types=True, disable_shape_infer=False
        )
    notes = {item.key: item.value for item in model.metadata_props}
    strip(model)
    onnx.helper.set_model_props(model, notes)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_int8(source: Path, path: Path, calibration: Path) -> None:
    """Quantise an fp32 ONNX file statically: 8-bit activations, 8-bit weights per output channel (QDQ).

    The last convolution and the blend over the photo stay in float: on the trained 64 px student that is 52 dB instead
    of 46 and flat areas within 1 % instead of 5, for 1.3 of 11 ms at 512 px.

    Args:
        calibration: .npy, float32 [N, 3, S, S], photos on which the ranges of the activations are found.
    """
    onnx = require("onnx", "onnx")
    quantization = require("onnxruntime.quantization", "onnx")
    photos = np.load(calibration)

    class Photos(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.left = iter(photos)

        def get_next(self) -> dict[str, np.ndarray] | None:
            photo = next(self.left, None)
            return None if photo is None else {"photo": photo[None]}

    with tempfile.TemporaryDirectory(dir=source.parent) as folder, quiet("root"):
        prepared = Path(folder) / "prepared.onnx"
        quantization.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(path),
            Photos(),
            nodes_to_exclude=painting(onnx.load(prepared)),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    model = onnx.load(path)
    notes = {item.key: item.value for item in onnx.load(source).metadata_props}
    strip(model)
    onnx.helper.set_model_props(model, notes)
    path.write_bytes(model.SerializeToString(deterministic=True))


def painting(model: Any) -> list[str]:
    """Names of an ONNX model's last convolution and of all nodes after it."""
    nodes = list(model.graph.node)
    last = max(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    return [node.name for node in nodes[last:]]


def strip(model: Any) -> None:
    """Remove doc strings, metadata, inner shapes and unused domains from an ONNX model, in place; not its numbers."""
    graph = model.graph
    del graph.value_info[:]
    del model.functions[:]
    used = {node.domain for node in graph.node}
    versions = [(item.domain, item.version) for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    for domain, number in versions:
        model.opset_import.add(domain=domain, version=number)
    for item in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]


def open_session(path: Path, threads: int = 1) -> Any:
    """An onnxruntime CPU session. Raises TristyleError when onnxruntime is not installed."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class quiet:
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
