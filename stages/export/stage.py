"""Stage three, second half: the student as files for one runtime, checked and timed, with a card how to feed them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from stages.core.artifact import SCRATCH, Artifact, hash_path
from stages.core.files import write_json, write_jsonl
from stages.core.images import load_images
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError, number
from stages.core.tensors import to_tensor
from stages.core.weights import load_network
from stages.export import contract
from stages.export.contract import LARGEST, SMALLEST, STEP, ConversionSource
from stages.export.fidelity import agreement, expected, milliseconds
from stages.export.onnx import export_onnx
from stages.networks.mobile import MobileStudent, count_macs, count_parameters

SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
TIMED = ((256, 1), (256, 2), (512, 1), (512, 2))  # side in px, threads
MEASURES = ("max_error", "psnr", "edge_clarity", "flat_energy")


@dataclass(kw_only=True)
class ExportStage:
    """Student -> its files for one runtime, one a precision, checked against torch on held-out photos; card.json.

    Args:
        runtime: what to convert for (stages.export.contract.Backend).
        alpha: the matte as a second output.
        photos: held-out photos it is checked on, each also at another, oblong size.
        calibration: photos of the training people that int8 is calibrated on.
        least_psnr: dB; a file whose pictures are farther from torch's is refused.
        repeats: timed runs; the least counts.
    """

    reads: ClassVar[tuple[str, ...]] = ("student", "data")
    runtime: contract.Backend
    alpha: bool = True
    photos: int = 8
    calibration: int = 64
    least_psnr: float = 25.0
    repeats: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, bool):
            raise ConfigError("alpha", f"{self.alpha!r} is neither true nor false", "Choose one of: true, false")
        number("photos", self.photos, 1, integer=True)
        number("calibration", self.calibration, 1, integer=True)
        number("least_psnr", self.least_psnr, 0)
        number("repeats", self.repeats, 1, integer=True)

    def files(self) -> dict[str, Path]:
        """The export reads no files beside its inputs."""
        return {}

    def check(self) -> None:
        """Raises TristyleError that names the extra to install when the runtime is not there."""
        self.runtime.check()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Export, check, time, describe. Raises TristyleError when the runtime disagrees with torch."""
        self.check()
        weights = inputs["student"].path / "student.safetensors"
        student = load_network(weights)
        if not isinstance(student, MobileStudent):
            raise TristyleError(f"{inputs['student'].path}: holds {type(student).__name__}, not a MobileStudent.")
        source = self._source(student, weights, inputs, out / SCRATCH)
        photos = check_photos(inputs["data"], self.photos, self.runtime.side)
        rows = [self._row(source, precision, out, student, photos) for precision in self.runtime.precisions]
        write_jsonl(out / "records.jsonl", rows)
        write_json(out / "card.json", card(rows, self.runtime, source, inputs, student))
        return metrics(rows)

    def _source(
        self, student: MobileStudent, weights: Path, inputs: dict[str, Artifact], scratch: Path
    ) -> ConversionSource:
        """What the converters start from, in the scratch folder."""
        scratch.mkdir(parents=True, exist_ok=True)
        trained = int(inputs["student"].metrics["size"])
        style = str(inputs["student"].config.get("target", ""))
        export_onnx(
            student, scratch / "source.onnx", {"tristyle.size": str(trained), "tristyle.style": style}, self.alpha
        )
        people = split_photos(inputs["data"], "train", self.calibration)
        if people.shape[-1] != trained or people.shape[-2] != trained:
            people = F.interpolate(people, (trained, trained), mode="area")
        np.save(scratch / "calibration.npy", people.numpy())
        return ConversionSource(
            scratch / "source.onnx", weights, scratch / "calibration.npy", trained, self.alpha, style
        )

    def _row(
        self, source: ConversionSource, precision: str, out: Path, student: MobileStudent, photos: list[Tensor]
    ) -> dict[str, Any]:
        """Convert to one precision, check and time it. A line of records.jsonl."""
        path = self.runtime.convert(source, precision, out)
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        row: dict[str, Any] = {"runtime": self.runtime.name, "precision": precision, "file": path.name}
        row |= {"bytes": sum(file.stat().st_size for file in files), "sha256": hash_path(path)}
        row |= dict.fromkeys(MEASURES) | {time_key(side, threads): None for side, threads in TIMED}
        if not self.runtime.runs_here:
            return row
        with closing(self.runtime.open(path, 1)) as run:
            found = agreement(run, photos, expected(student, photos))
        self._accept(path, precision, found)
        row |= {name: _finite(value) for name, value in found.items()}
        for threads in (1, 2):
            with closing(self.runtime.open(path, threads)) as run:
                for side in (side for side, many in TIMED if many == threads and self.runtime.side in (None, side)):
                    row[time_key(side, threads)] = milliseconds(run, side, threads, self.repeats)
        return row

    def _accept(self, path: Path, precision: str, found: dict[str, float]) -> None:
        """Refuse a file that does not paint what torch paints."""
        error, psnr = found["max_error"], found["psnr"]
        if precision == "fp32" and not error <= self.runtime.tolerance:
            raise TristyleError(
                f"{path}: differs from torch by {error:.2g}, more than the {self.runtime.tolerance:g} that "
                f"{self.runtime.name} is allowed. Do not use it; try another version of the runtime."
            )
        if not psnr >= self.least_psnr:
            raise TristyleError(
                f"{path}: {psnr:.1f} dB from torch's pictures, less than export.least_psnr={self.least_psnr:g}. "
                f"Leave {precision} out of export.runtime.precisions."
            )


def time_key(side: int, threads: int) -> str:
    """The record's name of a time."""
    return f"ms_{side}_{threads}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The artifact's measures: the first precision's, and of every other how far it is from torch."""
    first = rows[0]
    found = {name: first[name] for name in ("max_error", "psnr", "edge_clarity", "bytes")}
    found |= {"cpu_ms_256": first["ms_256_1"], "cpu_ms_512": first["ms_512_1"]}
    for row in rows[1:]:
        found |= {f"{row['precision']}_{name}": row[name] for name in ("psnr", "edge_clarity", "bytes")}
        found[f"{row['precision']}_cpu_ms_512"] = row["ms_512_1"]
    return {name: value for name, value in found.items() if value is not None}


def split_photos(data: Artifact, split: str, count: int) -> Tensor:
    """The first photos of a split: float32 [N, 3, H, W] in [-1, 1]. Raises TristyleError where there is none."""
    rows = [row for row in data.records() if row["split"] == split][:count]
    if not rows:
        raise TristyleError(f"{data.path}: holds no photo of the split {split!r}, which the export needs.")
    return to_tensor(load_images([data.path / row["photo"] for row in rows]))


def check_photos(data: Artifact, count: int, side: int | None = None) -> list[Tensor]:
    """Held-out photos as [1, 3, H, W] in [-1, 1], each as it is and again at an oblong size (multiples of 8).

    side: where a runtime takes one size only, each photo at that size alone.
    """
    photos = split_photos(data, "heldout", count)
    height, width = (max(SMALLEST, length // STEP * STEP) for length in photos.shape[2:])
    sizes = [(height, width), (height + 2 * STEP, width + 5 * STEP)] if side is None else [(side, side)]
    found: list[Tensor] = []
    for size in sizes:
        same = photos.shape[2:] == size
        scaled = photos if same else F.interpolate(photos, size, mode="bilinear", align_corners=False)
        found += scaled.split(1)
    return found


def card(
    rows: list[dict[str, Any]],
    runtime: contract.Backend,
    source: ConversionSource,
    inputs: Mapping[str, Artifact],
    student: MobileStudent,
) -> dict[str, Any]:
    """What a person needs to feed the model and to know where it comes from; no paths, no dates."""
    first, data = rows[0], inputs["data"].records()
    side: Any = {"multiple_of": STEP, "min": SMALLEST, "max": LARGEST, "trained_at": source.size}
    shape: list[Any] = ["height", "width"]
    if runtime.side is not None:
        side, shape = {"only": runtime.side, "trained_at": source.size}, [runtime.side, runtime.side]
    outputs = [{"name": "output", "layout": "NCHW", "shape": [1, 3, *shape], "range": [-1.0, 1.0]}]
    if source.alpha:
        outputs.append({"name": "alpha", "layout": "NCHW", "shape": [1, 1, *shape], "range": [0.0, 1.0]})
    return {
        "name": "tristyle mobile student",
        "style": source.style,
        "tier": student.arguments["tier"],
        "parameters": count_parameters(student),
        "macs_256": count_macs(student, 256),
        "runtime": {"name": runtime.name, "made_with": {"torch": version("torch")} | runtime.versions()},
        "file": first["file"],
        "sha256": first["sha256"],
        "bytes": first["bytes"],
        "format": {"precision": first["precision"]},
        "files": [row if runtime.runs_here else row | {"checked": "not run here"} for row in rows],
        "input": {
            "name": "photo",
            "layout": "NCHW",
            "shape": [1, 3, *shape],
            "height": side,
            "width": side,
            "colour": "RGB",
            "range": [-1.0, 1.0],
            "normalisation": "x / 127.5 - 1 of 8-bit values",
        },
        "outputs": outputs,
        "blend": "output = photo + alpha * (colour - photo); where alpha is 0 the output is the photo",
        "checked": {
            "against": "the same network in torch, float32, on held-out photos",
            "psnr": "dB of the output, range 2; edge_clarity and flat_energy: shares of torch's",
            "ms": "ms_<side>_<threads>, least of several: CPU time on one thread, wall time on two",
            "where": "one x86 machine; a phone was not measured",
        },
        "scores": inputs["student"].metrics,
        "made": {
            "student": inputs["student"].digest,
            "data": inputs["data"].digest,
            "train": inputs["student"].config.get("train", {}),
        },
        "pictures": {
            "sources": sorted({str(row.get("source")) for row in data}),
            "licences": sorted({str(row.get("licence")) for row in data}),
            "licence_classes": sorted({str(row.get("licence_class")) for row in data}),
        },
        "notes": list(runtime.notes),
        "licence": "of the weights: what the licences of the pictures allow; of the code: Apache-2.0",
        "use": f"Outputs are synthetic pictures; mark them (IPTC DigitalSourceType {SYNTHETIC}), as `stylize` does.",
    }
