"""Core ML (Apple): an .mlpackage a precision. It is converted here and runs on Apple's systems only."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from stages.core.settings import TristyleError
from stages.export.contract import ConversionSource, Signature
from stages.export.litert import FixedSide, traced_network
from stages.export.subprocess_runtime import Call, ChildRun


@dataclass(kw_only=True)
class Coreml(FixedSide):
    """ML programs for iOS 16 and macOS 13 or later, of one size, which the neural engine asks for."""

    name: ClassVar[str] = "coreml"
    tolerance: ClassVar[float] = 1e-3
    runs_here: ClassVar[bool] = False
    suffix: ClassVar[str] = "mlpackage"
    known: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    modules: ClassVar[tuple[str, ...]] = ("coremltools", "torch", "safetensors")
    packages: ClassVar[tuple[str, ...]] = ("coremltools", "torch")
    notes: ClassVar[tuple[str, ...]] = (
        "Converted, not run here: Core ML runs on Apple's systems only. Its pictures and speed were not measured.",
        "The file takes pictures of one size only; convert once for each size that is wanted (export.runtime.side).",
        "A folder; iOS 16 or macOS 13 and later.",
    )
    precisions: list[str] = field(default_factory=lambda: ["fp32", "fp16"])

    def open(self, path: Path, signature: Signature, threads: int) -> ChildRun:
        """Core ML does not run here. Raises TristyleError, always."""
        raise TristyleError(f"{path}: Core ML runs on Apple's systems only. Use export=onnx on this machine.")


# ---------------------------------------------------------------------------------------------------- in the child


def convert(source: ConversionSource, precision: str, folder: Path, options: dict[str, Any]) -> None:
    """Write folder/student.<precision>.mlpackage/."""
    import coremltools
    import torch

    # Trace the network at its one size and convert the trace.
    side, signature = options["side"], source.signature
    shapes = dict(zip(signature.input_names, signature.shapes(side, side), strict=True))
    examples = tuple(torch.zeros(shape) for shape in shapes.values())
    traced = torch.jit.trace(traced_network(source), examples)
    half = precision == "fp16"
    model = coremltools.convert(
        traced,
        inputs=[coremltools.TensorType(name=name, shape=shape) for name, shape in shapes.items()],
        outputs=[coremltools.TensorType(name=name) for name in signature.output_names],
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
        skip_model_load=True,
    )

    # Replace the converter's own notes: they hold the date.
    notes = model.user_defined_metadata
    for name in list(notes):
        del notes[name]
    notes.update(source.notes)
    path = folder / f"student.{precision}.mlpackage"
    model.save(str(path))

    # Equal students give equal files: tables in one order, ids that follow from the content.
    inner = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = coremltools.utils.load_spec(str(path))
    inner.write_bytes(spec.SerializeToString(deterministic=True))
    manifest = path / "Manifest.json"
    manifest.write_text(with_steady_ids(manifest.read_text()))


def with_steady_ids(manifest: str) -> str:
    """A package's manifest (JSON) with ids that follow from what they name; the converter draws them at random."""
    for name, item in json.loads(manifest)["itemInfoEntries"].items():
        manifest = manifest.replace(name, str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])).upper())
    return json.dumps(json.loads(manifest), indent=4, sort_keys=True) + "\n"


def load(path: Path, signature: Signature, threads: int) -> Call:
    """Raises ValueError: nothing runs it here."""
    raise ValueError("Core ML runs on Apple's systems only")
