"""The student for LiteRT (TensorFlow Lite's successor): one .tflite a precision, for pictures of one size.

litert-torch converts, ai-edge-quantizer quantises, ai-edge-litert runs; they bring jax and transformers, and best live
in an interpreter of their own. Inputs and outputs are float32 and NCHW at every precision, as everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.core.files import sha256_file
from stages.core.settings import ConfigError, number
from stages.export.contract import LARGEST, SMALLEST, STEP, ConversionSource
from stages.export.subprocess_runtime import Call, ChildRuntime


@dataclass(kw_only=True)
class FixedSide(ChildRuntime):
    """A runtime whose files take square pictures of one size.

    Args:
        side: that size, a multiple of 8; best the one that the student was trained at.
    """

    side: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        number("side", self.side, SMALLEST, LARGEST, integer=True)
        if self.side % STEP:
            raise ConfigError("side", f"{self.side} is no multiple of {STEP}", f"Give one, e.g. {STEP * 32}")

    def options(self, source: ConversionSource, precision: str, folder: Path) -> dict[str, Any]:
        """The side; for int8, photos of that size."""
        if precision != "int8":
            return {"side": self.side}
        import torch
        import torch.nn.functional as F

        photos = torch.from_numpy(np.load(source.calibration))
        if photos.shape[-1] != self.side:
            photos = F.interpolate(photos, (self.side, self.side), mode="bilinear", antialias=True)
        np.save(folder / "photos.npy", photos.numpy())
        return {"side": self.side}


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
        "Signature: serving_default(photo) -> output, alpha.",
        "fp16 is the size of the file; XNNPACK computes in fp32, or in fp16 where it is asked to.",
    )
    precisions: list[str] = field(default_factory=lambda: ["fp32", "fp16", "int8"])
    _made: tuple[str, Path] | None = field(default=None, init=False, repr=False)  # digest of a source, its fp32 file

    def convert(self, source: ConversionSource, precision: str, out: Path) -> Path:
        """As any; what is quantised starts from this object's fp32 file of the same source, where that is made."""
        path = super().convert(source, precision, out)
        if precision == "fp32":
            self._made = self._digest(source), path
        return path

    def options(self, source: ConversionSource, precision: str, folder: Path) -> dict[str, Any]:
        """The side, the photos, and the fp32 file where there is one: tracing and converting anew takes 10 s."""
        found = super().options(source, precision, folder)
        if precision != "fp32" and self._made and self._made[0] == self._digest(source) and self._made[1].exists():
            found["base"] = str(self._made[1].absolute())
        return found

    @staticmethod
    def _digest(source: ConversionSource) -> str:
        return f"{sha256_file(source.student)} {source.alpha}"


# ---------------------------------------------------------------------------------------------------- in the child


def exported(source: ConversionSource, named: bool) -> Any:
    """The student as a module of photo -> outputs: a dict by name where `named`, else a tuple."""
    from torch import Tensor, nn

    from stages.core.weights import load_network
    from stages.export.onnx import Exported
    from stages.networks.mobile import MobileStudent

    student = load_network(source.student)
    assert isinstance(student, MobileStudent)

    class Named(nn.Module):
        def __init__(self, inner: Exported) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, photo: Tensor) -> dict[str, Tensor]:
            return dict(zip(("output", "alpha"), self.inner(photo), strict=False))

    plain = Exported(student, source.alpha).eval()
    return Named(plain).eval() if named else plain


def convert(source: ConversionSource, precision: str, folder: Path, options: dict[str, Any]) -> None:
    """Write folder/student.<precision>.tflite."""
    path = folder / f"student.{precision}.tflite"
    base = Path(options.get("base", path if precision == "fp32" else folder / "base.tflite"))
    if "base" not in options:
        import litert_torch
        import torch

        example = {"photo": torch.zeros(1, 3, options["side"], options["side"])}
        litert_torch.convert(exported(source, named=True), sample_kwargs=example).export(str(base))
    if precision != "fp32":
        path.write_bytes(quantised(base, precision, folder / "photos.npy"))


def quantised(base: Path, precision: str, photos: Path) -> bytes:
    """A fp32 file's bytes in fp16 (weights) or int8 (static: weights and activations of all layers but the blend)."""
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
    work.add_static_config(".*", all_layers, activation_num_bits=8, weight_num_bits=8)
    for kind in ("INPUT", "OUTPUT", "TANH", "LOGISTIC", "SUB", "MUL"):  # the ends and the blend: in int8 it costs 4 dB
        work.update_quantization_recipe(".*", qtyping.TFLOperationName(kind), None, names.NO_QUANTIZE)
    work.update_quantization_recipe(".*serving_default_output.*", qtyping.TFLOperationName.ADD, None, names.NO_QUANTIZE)
    calibration = {"serving_default": [{"photo": photo[None]} for photo in np.load(photos)]}
    return bytes(work.quantize(work.calibrate(calibration)).quantized_model)


def load(path: Path, threads: int) -> Call:
    """The opened model."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
    given = runner.get_input_details()["photo"]
    height, width = (int(length) for length in given["shape"][2:])
    names = [name for name in ("output", "alpha") if name in runner.get_output_details()]

    def call(photo: np.ndarray) -> Sequence[np.ndarray]:
        if photo.shape != (1, 3, height, width):
            raise ValueError(f"takes pictures of {width} x {height} px only, not {photo.shape[3]} x {photo.shape[2]}")
        found = runner(photo=photo)
        return [found[name] for name in names]

    return call
