"""The student for Core ML (Apple): an .mlpackage a precision. It is converted here and runs on Apple's systems only."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from stages.core.settings import TristyleError
from stages.export.contract import ConversionSource
from stages.export.litert import FixedSide, exported
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

    def open(self, path: Path, threads: int) -> ChildRun:
        """Core ML does not run here. Raises TristyleError, always."""
        raise TristyleError(f"{path}: Core ML runs on Apple's systems only. Use export=onnx on this machine.")


# ---------------------------------------------------------------------------------------------------- in the child


def convert(source: ConversionSource, precision: str, folder: Path, options: dict[str, Any]) -> None:
    """Write folder/student.<precision>.mlpackage/."""
    import coremltools
    import torch

    shape = (1, 3, options["side"], options["side"])
    traced = torch.jit.trace(exported(source, named=False), torch.zeros(shape))
    names = ["output", "alpha"] if source.alpha else ["output"]
    half = precision == "fp16"
    model = coremltools.convert(
        traced,
        inputs=[coremltools.TensorType(name="photo", shape=shape)],
        outputs=[coremltools.TensorType(name=name) for name in names],
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    kept = {"tristyle.size": str(source.size), "tristyle.style": source.style}
    notes = model.user_defined_metadata
    for name in list(notes):
        del notes[name]  # the converter's own: among them the date
    notes.update(kept)
    path = folder / f"student.{precision}.mlpackage"
    model.save(str(path))
    inner = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = coremltools.utils.load_spec(str(path))
    inner.write_bytes(spec.SerializeToString(deterministic=True))  # the same order of its tables every time
    manifest = path / "Manifest.json"
    manifest.write_text(with_steady_ids(manifest.read_text()))


def with_steady_ids(manifest: str) -> str:
    """A package's manifest with ids that follow from what they name; the converter draws them at random."""
    for name, item in json.loads(manifest)["itemInfoEntries"].items():
        manifest = manifest.replace(name, str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])).upper())
    return json.dumps(json.loads(manifest), indent=4, sort_keys=True) + "\n"


def load(path: Path, threads: int) -> Call:
    """Nothing runs it here."""
    raise ValueError("Core ML runs on Apple's systems only")
