"""Network -> ONNX: the source of most other runtimes' files, and a runtime of its own in three precisions.

onnx, onnxruntime and onnxscript are the optional extra `onnx`. They are imported when a stage exports.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stages.export.contract import (
    LARGEST,
    SMALLEST,
    ConversionSource,
    Exportable,
    Run,
    Signature,
    check_precisions,
    require,
    timed,
)

OPSET = 18


class Traced(nn.Module):
    """An exportable network as converters trace it: its inputs -> the outputs that `signature` names."""

    def __init__(self, network: Exportable, signature: Signature) -> None:
        super().__init__()
        names = [spec.name for spec in network.outputs]
        self.student: Any = network  # this name is part of the names of the weights in the file
        self.kept = [names.index(name) for name in signature.output_names]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of the signature, pictures as [1, C, H, W] -> outputs in its order."""
        found = self.student.compute(*inputs)
        return tuple(found[index] for index in self.kept)


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
    precisions: list[str] = field(default_factory=lambda: ["fp32", "fp16", "int8"])

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
        """Write student.onnx, student.fp16.onnx or student.int8.onnx into `out`."""
        path = out / ("student.onnx" if precision == "fp32" else f"student.{precision}.onnx")
        if precision == "fp32":
            shutil.copyfile(source.onnx, path)
        elif precision == "fp16":
            write_half(source.onnx, path)
        else:
            write_int8(source.onnx, path, source.calibration)
        return path

    def open(self, path: Path, signature: Signature, threads: int) -> Run:
        """Open a file as an onnxruntime session."""
        return OnnxRun(open_session(path, threads), signature)


class OnnxRun:
    """An onnxruntime session as a Run (stages.export.contract)."""

    def __init__(self, session: Any, signature: Signature) -> None:
        self.session, self.signature = session, signature

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Outputs in the order of the signature, for float32 inputs in its order."""
        named = dict(zip(self.signature.input_names, inputs, strict=True))
        return tuple(self.session.run(self.signature.output_names, named))

    def times(self, inputs: Sequence[np.ndarray], repeats: int) -> list[tuple[float, float]]:
        """(CPU seconds, wall seconds) of each of `repeats` runs."""
        return timed(lambda: self(*inputs), repeats)

    def close(self) -> None:
        """Nothing to end: the session goes with this object."""


def export_onnx(network: Exportable, path: Path, notes: dict[str, str], signature: Signature | None = None) -> None:
    """Write a network as ONNX, fp32.

    Height and width are dynamic multiples of `network.multiple_of` from 32 to 4096 px, or the only side that the
    network takes. BatchNorm is folded. The exporter's own metadata is removed, because it carries stack traces with the
    paths of this machine.

    Args:
        network: in eval mode.
        path: the file to write.
        notes: the model's metadata.
        signature: the inputs and outputs of the file; None: all of the network's.

    Raises:
        TristyleError: the extra `onnx` is not installed.
    """
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    signature = signature or Signature.of(network)

    # The example has two sides that differ, so that neither is taken for the other.
    step = signature.multiple_of
    examples = tuple(torch.zeros(shape) for shape in signature.shapes(8 * step, 9 * step))
    with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Traced(network, signature).eval(),
            examples,
            dynamo=True,
            input_names=signature.input_names,
            output_names=signature.output_names,
            opset_version=OPSET,
            dynamic_shapes={"inputs": free_sides(signature)},
            verbose=False,
        )
    assert program is not None  # with dynamo=True it never is

    model = program.model_proto
    strip(model)
    name_sides(model, signature)
    onnx.helper.set_model_props(model, notes)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def free_sides(signature: Signature) -> tuple[dict[int, Any], ...]:
    """For each input, the axes that stay free for torch.export: height and width of pictures, nothing of vectors."""
    if signature.side is not None:
        return tuple({} for _ in signature.inputs)
    step = signature.multiple_of
    least, most = -(-SMALLEST // step), LARGEST // step
    sides = {2: step * torch.export.Dim("rows", min=least, max=most)}
    sides[3] = step * torch.export.Dim("columns", min=least, max=most)
    return tuple(sides if spec.spatial else {} for spec in signature.inputs)


def name_sides(model: Any, signature: Signature) -> None:
    """Call the free axes of an ONNX model's pictures `height` and `width`, in place."""
    if signature.side is not None:
        return
    pictures = {spec.name for spec in (*signature.inputs, *signature.outputs) if spec.spatial}
    for value in [*model.graph.input, *model.graph.output]:
        if value.name in pictures:
            value.type.tensor_type.shape.dim[2].dim_param = "height"
            value.type.tensor_type.shape.dim[3].dim_param = "width"


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
    _write_with_notes(model, source, path)


def write_int8(source: Path, path: Path, calibration: Path) -> None:
    """Quantise an fp32 ONNX file statically: 8-bit activations, 8-bit weights per output channel (QDQ).

    The last convolution and the blend over the photo stay in float: on the trained 64 px student that is 52 dB instead
    of 46 and flat areas within 1 % instead of 5, for 1.3 of 11 ms at 512 px.

    Args:
        source: the fp32 file.
        path: the file to write.
        calibration: .npz, for each input float32 [N, ...]: on these the ranges of the activations are found.
    """
    onnx = require("onnx", "onnx")
    quantization = require("onnxruntime.quantization", "onnx")
    with np.load(calibration) as file:
        samples = {name: file[name] for name in file.files}

    class Samples(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]  # onnxruntime is not typed
        def __init__(self) -> None:
            self.left = iter(range(len(next(iter(samples.values())))))

        def get_next(self) -> dict[str, np.ndarray] | None:
            index = next(self.left, None)
            return None if index is None else {name: values[index][None] for name, values in samples.items()}

    # Constants are folded first, so that they are not quantised one by one.
    with tempfile.TemporaryDirectory(dir=source.parent) as folder, quiet("root"):
        prepared = Path(folder) / "prepared.onnx"
        quantization.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(path),
            Samples(),
            nodes_to_exclude=painting(onnx.load(prepared)),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    _write_with_notes(onnx.load(path), source, path)


def _write_with_notes(model: Any, source: Path, path: Path) -> None:
    """Write a model that was made of `source`, with that file's metadata and nothing else."""
    onnx = require("onnx", "onnx")
    notes = {item.key: item.value for item in onnx.load(source).metadata_props}
    strip(model)
    onnx.helper.set_model_props(model, notes)
    path.write_bytes(model.SerializeToString(deterministic=True))


def painting(model: Any) -> list[str]:
    """Names of an ONNX model's last convolution and of all nodes after it; of no node where it has no convolution."""
    nodes = list(model.graph.node)
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for node in nodes[convolutions[-1] :]] if convolutions else []


def strip(model: Any) -> None:
    """Remove doc strings, metadata, inner shapes and unused domains from an ONNX model, in place; not its numbers."""
    graph = model.graph
    del graph.value_info[:]
    del model.functions[:]

    # Keep only the operator sets that some node needs.
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
