"""Stage three, second half: the student as one ONNX file with a card that says how to feed it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from stages.artifact import Artifact
from stages.config import TristyleError, number
from stages.export.onnx import (
    LARGEST,
    OPSET,
    SMALLEST,
    STEP,
    cpu_milliseconds,
    export_onnx,
    largest_difference,
    open_session,
)
from stages.io import load_images, load_network, sha256_file, to_tensor, write_json
from stages.networks.mobile import MobileStudent
from stages.runtime import Runtime

SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(kw_only=True)
class ExportStage:
    """Student -> student.onnx, checked against torch on held-out photos, and card.json.

    Args:
        tolerance: largest difference to torch that is accepted, in units of [-1, 1].
        photos: held-out photos it is checked on, each also at another, oblong size.
        size: side in px of the picture that is timed.
        repeats: timed runs; the least counts.
    """

    reads: ClassVar[tuple[str, ...]] = ("student", "data")
    tolerance: float = 1e-4
    photos: int = 8
    size: int = 256
    repeats: int = 30

    def __post_init__(self) -> None:
        number("tolerance", self.tolerance, 0, open_low=True)
        number("photos", self.photos, 1, integer=True)
        number("size", self.size, SMALLEST, LARGEST, integer=True)
        number("repeats", self.repeats, 1, integer=True)

    def files(self) -> dict[str, Path]:
        """The export reads no files beside its inputs."""
        return {}

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Export, check, time, describe. Raises TristyleError when onnxruntime disagrees with torch."""
        student = load_network(inputs["student"].path / "student.safetensors")
        if not isinstance(student, MobileStudent):
            raise TristyleError(f"{inputs['student'].path}: holds {type(student).__name__}, not a MobileStudent.")
        trained = int(inputs["student"].metrics["size"])
        style = str(inputs["student"].config.get("target", ""))
        path = out / "student.onnx"
        export_onnx(student, path, {"tristyle.size": str(trained), "tristyle.style": style})
        session = open_session(path)
        error = largest_difference(student, session, check_photos(inputs["data"], self.photos))
        if error > self.tolerance:
            raise TristyleError(
                f"{path}: differs from torch by {error:.2g}, more than export.tolerance={self.tolerance:g}. "
                "Do not use it; try another version of onnxruntime."
            )
        milliseconds = cpu_milliseconds(session, -(-self.size // STEP) * STEP, self.repeats)
        metrics = {"max_error": error, f"cpu_ms_{self.size}": milliseconds, "bytes": path.stat().st_size}
        write_json(out / "card.json", card(path, inputs, trained, style, metrics))
        return metrics


def check_photos(data: Artifact, count: int) -> list[Tensor]:
    """Held-out photos as [1, 3, H, W] in [-1, 1], each as it is and again at an oblong size (multiples of 8)."""
    rows = [row for row in data.records() if row["split"] == "heldout"][:count]
    photos = to_tensor(load_images([data.path / row["photo"] for row in rows]))
    oblong = (photos.shape[2] // STEP * STEP + 2 * STEP, photos.shape[3] // STEP * STEP + 5 * STEP)
    larger = F.interpolate(photos, oblong, mode="bilinear", align_corners=False)
    return [*photos.split(1), *larger.split(1)]


def card(
    path: Path, inputs: dict[str, Artifact], trained: int, style: str, metrics: dict[str, float]
) -> dict[str, Any]:
    """What a person needs to feed the model and to know where it comes from; no paths, no dates."""
    student, data = inputs["student"], inputs["data"]
    side = {"multiple_of": STEP, "min": SMALLEST, "max": LARGEST, "trained_at": trained}
    rows = data.records()
    return {
        "name": "tristyle mobile student",
        "style": style,
        "file": path.name,
        "sha256": sha256_file(path),
        "bytes": metrics["bytes"],
        "format": {"onnx_opset": OPSET, "precision": "float32"},
        "input": {
            "name": "photo",
            "layout": "NCHW",
            "shape": [1, 3, "height", "width"],
            "height": side,
            "width": side,
            "colour": "RGB",
            "range": [-1.0, 1.0],
            "normalisation": "x / 127.5 - 1 of 8-bit values",
        },
        "outputs": [
            {"name": "output", "layout": "NCHW", "shape": [1, 3, "height", "width"], "range": [-1.0, 1.0]},
            {"name": "alpha", "layout": "NCHW", "shape": [1, 1, "height", "width"], "range": [0.0, 1.0]},
        ],
        "blend": "output = photo + alpha * (colour - photo); where alpha is 0 the output is the photo",
        "checked": {name: value for name, value in metrics.items() if name != "bytes"},
        "scores": student.metrics,
        "made": {"student": student.digest, "data": data.digest, "train": student.config.get("train", {})},
        "pictures": {
            "sources": sorted({str(row.get("source")) for row in rows}),
            "licences": sorted({str(row.get("licence")) for row in rows}),
            "licence_classes": sorted({str(row.get("licence_class")) for row in rows}),
        },
        "licence": "of the weights: what the licences of the pictures allow; of the code: Apache-2.0",
        "use": f"Outputs are synthetic pictures; mark them (IPTC DigitalSourceType {SYNTHETIC}), as `stylize` does.",
    }
