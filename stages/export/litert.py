"""LiteRT (TensorFlow Lite's successor): one .tflite a precision, for pictures of one size.

litert-torch converts, ai-edge-quantizer quantises, ai-edge-litert runs; they bring jax and transformers, and best live
in an interpreter of their own. Inputs and outputs are float32 and NCHW at every precision, as everywhere else.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from stages.core.files import sha256_file
from stages.core.settings import ConfigError, number
from stages.export.contract import LARGEST, SMALLEST, STEP, ConversionSource, Signature
from stages.export.subprocess_runtime import Call, ChildRuntime

NOTES = "notes.json"
USUAL = 256  # px a side


@dataclass(kw_only=True)
class FixedSide(ChildRuntime):
    """A runtime whose files take square pictures of one size.

    Args:
        side: that size, a multiple of 8; best the one that the student was trained at. None: the only one that the
            network takes, else 256.
    """

    side: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side is None:
            return
        number("side", self.side, SMALLEST, LARGEST, integer=True)
        if self.side % STEP:
            raise ConfigError("side", f"{self.side} is not a multiple of {STEP}", f"Give one, e.g. {USUAL}")

    def fitted(self, signature: Signature) -> Self:
        """This runtime with the side of a network, where none is set."""
        return replace(self, side=signature.side or USUAL) if self.side is None else self

    def options(self, source: ConversionSource, precision: str, folder: Path) -> dict[str, Any]:
        """The side; for int8, `calibration.npz` in `folder`, its pictures of that size."""
        side = self.side or USUAL  # one that no network has fitted yet
        if precision != "int8":
            return {"side": side}
        import torch
        import torch.nn.functional as F

        with np.load(source.calibration) as file:
            samples = {name: torch.from_numpy(file[name]) for name in file.files}
        for spec in source.signature.inputs:
            if spec.spatial and samples[spec.name].shape[-1] != side:
                shape = (side, side)
                samples[spec.name] = F.interpolate(samples[spec.name], shape, mode="bilinear", antialias=True)
        np.savez(folder / "calibration.npz", **{name: values.numpy() for name, values in samples.items()})  # type: ignore[arg-type]
        return {"side": side}


@dataclass(kw_only=True)
class Litert(FixedSide):
    """TFLite files; int8 is static, of weights and activations, but for the input, the outputs and their blend."""

    name: ClassVar[str] = "litert"
    tolerance: ClassVar[float] = 1e-4
    suffix: ClassVar[str] = "tflite"
    known: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    modules: ClassVar[tuple[str, ...]] = ("ai_edge_litert.interpreter", "torch", "safetensors")
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "litert-torch", "ai-edge-quantizer", "torch")
    notes: ClassVar[tuple[str, ...]] = (
        "LiteRT is Apache-2.0 and asks nothing of the weights' licence.",
        "The file takes pictures of one size only; convert once for each size that is wanted (export.runtime.side).",
        "Signature: serving_default, inputs and outputs by their names.",
        "fp16 is the size of the file; XNNPACK computes in fp32, or in fp16 where it is asked to.",
    )
    precisions: list[str] = field(default_factory=lambda: ["fp32", "fp16", "int8"])
    _made: tuple[str, Path] | None = field(default=None, init=False, repr=False)  # digest of a source, its fp32 file

    def convert(self, source: ConversionSource, precision: str, out: Path) -> Path:
        """Convert as any runtime; fp16 and int8 start from this object's fp32 file where the same source made one."""
        path = super().convert(source, precision, out)
        if precision == "fp32":
            self._made = self._digest(source), path
        return path

    def options(self, source: ConversionSource, precision: str, folder: Path) -> dict[str, Any]:
        """The side, the samples, and the fp32 file where there is one: tracing and converting anew takes 10 s."""
        found = super().options(source, precision, folder)
        if precision != "fp32" and self._made and self._made[0] == self._digest(source) and self._made[1].exists():
            found["base"] = str(self._made[1].absolute())
        return found

    @staticmethod
    def _digest(source: ConversionSource) -> str:
        """Names what a source's fp32 file follows from."""
        return f"{sha256_file(source.network)} {source.signature.output_names}"


# ---------------------------------------------------------------------------------------------------- in the child


def traced_network(source: ConversionSource) -> Any:
    """The network as a module of its inputs, in order -> a tuple of the outputs that `source.signature` names."""
    from stages.core.weights import load_network
    from stages.export.contract import check_exportable
    from stages.export.onnx import Traced

    network = check_exportable(load_network(source.network), source.network)
    return Traced(network, source.signature).eval()


def by_name(plain: Any, signature: Signature) -> Any:
    """The module `plain` with inputs given by name and outputs as a dict by name: LiteRT keeps these names."""
    from torch import Tensor, nn

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain

        def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
            found = self.inner(*(inputs[name] for name in signature.input_names))
            return dict(zip(signature.output_names, found, strict=True))

    return Named().eval()


def convert(source: ConversionSource, precision: str, folder: Path, options: dict[str, Any]) -> None:
    """Write folder/student.<precision>.tflite."""
    path = folder / f"student.{precision}.tflite"
    base = Path(options.get("base", path if precision == "fp32" else folder / "base.tflite"))
    if "base" not in options:
        import litert_torch
        import torch

        signature, side = source.signature, options["side"]
        shapes = zip(signature.input_names, signature.shapes(side, side), strict=True)
        examples = {name: torch.zeros(shape) for name, shape in shapes}
        network = by_name(traced_network(source), signature)
        litert_torch.convert(network, sample_kwargs=examples).export(str(base))
    if precision != "fp32":
        path.write_bytes(quantised(base, precision, folder / "calibration.npz", source.signature))
    path.write_bytes(with_notes(path.read_bytes(), source.notes))


def with_notes(model: bytes, notes: Mapping[str, str]) -> bytes:
    """A .tflite with its notes as TFLite packs a file that belongs to a model: in a zip archive behind it.

    Args:
        model: the file's bytes.
        notes: written as `notes.json`; `unzip -p FILE notes.json` shows them.
    """
    buffer = io.BytesIO(model)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(zipfile.ZipInfo(NOTES), json.dumps(dict(notes), indent=1, sort_keys=True) + "\n")
    return buffer.getvalue()


def quantised(base: Path, precision: str, calibration: Path, signature: Signature) -> bytes:
    """A fp32 file's bytes in fp16 (weights) or int8 (static: weights and activations of all layers but the blend).

    Args:
        base: the fp32 .tflite.
        precision: fp16 or int8.
        calibration: .npz, for each input float32 [N, ...]; read for int8.
        signature: inputs and outputs of the file.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    names, all_layers = algorithm_manager.AlgorithmName, qtyping.TFLOperationName.ALL_SUPPORTED
    work = quantizer.Quantizer(str(base))
    if precision == "fp16":
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        settings = qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        work.update_quantization_recipe(".*", all_layers, settings, names.FLOAT_CASTING)
        return bytes(work.quantize().quantized_model)

    # The ends and the blend stay in float: in int8 they cost 4 dB.
    work.add_static_config(".*", all_layers, activation_num_bits=8, weight_num_bits=8)
    for kind in ("INPUT", "OUTPUT", "TANH", "LOGISTIC", "SUB", "MUL"):
        work.update_quantization_recipe(".*", qtyping.TFLOperationName(kind), None, names.NO_QUANTIZE)
    last = f".*serving_default_{signature.output_names[0]}.*"
    work.update_quantization_recipe(last, qtyping.TFLOperationName.ADD, None, names.NO_QUANTIZE)

    with np.load(calibration) as file:
        columns = {name: file[name] for name in file.files}
    count = len(next(iter(columns.values())))
    samples = [{name: values[index][None] for name, values in columns.items()} for index in range(count)]
    return bytes(work.quantize(work.calibrate({"serving_default": samples})).quantized_model)


def load(path: Path, signature: Signature, threads: int) -> Call:
    """Open a model. What it returns raises ValueError for pictures of another size."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
    # The signature's order is lost in the file; names are kept.
    wanted = {name: tuple(int(n) for n in details["shape"]) for name, details in runner.get_input_details().items()}

    def call(*inputs: np.ndarray) -> Sequence[np.ndarray]:
        named = dict(zip(signature.input_names, inputs, strict=True))
        for name, values in named.items():
            if values.shape != wanted[name]:
                height, width = wanted[name][2:]
                given = f"{values.shape[3]} x {values.shape[2]}"
                raise ValueError(f"takes pictures of {width} x {height} px only, not {given}. Give that size")
        found = runner(**named)
        return [found[name] for name in signature.output_names]

    return call
