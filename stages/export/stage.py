"""The export stage: a network as files for one runtime, checked against torch and timed, with a card."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.artifact import PICTURES, SAID, SCRATCH, Artifact, hash_path, provenance, said_of
from stages.core.files import read_json, sha256_file, write_json, write_jsonl
from stages.core.images import load_images
from stages.core.mark import SOURCE_TYPE
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError, number
from stages.core.stage import Stage
from stages.core.tensors import TensorSpec, to_tensor
from stages.core.weights import load_network
from stages.export import contract
from stages.export.contract import LARGEST, SMALLEST, ConversionSource, Exportable, Signature, check_exportable
from stages.export.fidelity import agreement, drawn_inputs, expected, milliseconds
from stages.export.litert import FixedSide
from stages.export.onnx import OnnxRun, Traced, export_onnx, open_session
from stages.networks.mobile import count_macs, count_parameters

PHOTO = "photo"  # the input that the check and the calibration fill with photos
TIMED = ((256, 1), (256, 2), (512, 1), (512, 2))  # side in px, threads
MEASURES = ("max_error", "psnr", "edge_clarity", "flat_energy")


@dataclass(kw_only=True)
class ExportStage(Stage):
    """Student -> its files for one runtime, one a precision, checked against torch on held-out photos; card.json.

    Any network is exported that is `Exportable` (stages.export.contract).

    Args:
        runtime: what to convert for (stages.export.contract.Backend).
        alpha: False leaves out the output named `alpha`.
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
            raise ConfigError("alpha", f"{self.alpha!r} is not a truth value", "Choose one of: true, false")
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
        """Export, check, time and describe.

        Raises:
            TristyleError: the student cannot be exported, or the runtime disagrees with torch.
        """
        self.check()
        weights = inputs["student"].path / "student.safetensors"
        network = check_exportable(load_network(weights), weights)
        signature = Signature.of(network, self.alpha)
        if isinstance(self.runtime, FixedSide):
            self.runtime = self.runtime.fitted(signature)
        self._check_side(signature)

        source = self._source(network, signature, weights, inputs, out / SCRATCH)
        if (path := inputs["student"].path / "faces.safetensors").exists():
            alone = check_exportable(load_network(path), path)
            drawing = self._source(alone, Signature.of(alone), path, inputs, out / SCRATCH / "faces")
            source = replace(source, faces=drawing.onnx)
        rows = self._rows(network, source, self.runtime.precisions, inputs["data"], out)

        described, measures = card(rows, self.runtime, source, inputs, network), metrics(rows)
        if source.faces and self.runtime.name == "web":  # the page has them in its folder
            self._agrees(alone, drawing, inputs["data"])
        elif source.faces:
            described["faces"] = self._faces(alone, drawing, inputs["data"], out)
            measures |= metrics(described["faces"]["files"], "faces_")

        write_jsonl(out / "records.jsonl", rows)
        write_json(out / "card.json", described)
        return measures

    def _rows(
        self, network: Exportable, source: ConversionSource, precisions: list[str], data: Artifact, out: Path
    ) -> list[dict[str, Any]]:
        """Convert, check and time a network's files."""
        samples = check_samples(data, self.photos, source.signature, self.runtime.side)
        truth = expected(network, samples, source.signature)
        return [self._row(source, precision, out, samples, truth) for precision in precisions]

    def _agrees(self, network: Exportable, source: ConversionSource, data: Artifact) -> None:
        """Refuse an ONNX file that does not draw what its network draws, untimed. Raises TristyleError."""
        samples = check_samples(data, self.photos, source.signature, None)
        with closing(OnnxRun(open_session(source.onnx, 1), source.signature)) as run:
            found = agreement(run, samples, expected(network, samples, source.signature), source.signature)
        self._accept(source.onnx, "fp32", found)

    def _faces(self, network: Exportable, source: ConversionSource, data: Artifact, out: Path) -> dict[str, Any]:
        """Export the generator alone, which draws faces from scratch, as `faces...` beside the student's files.

        int8 is left out: no photo says which values a latent takes.

        Returns:
            The card's entry.
        """
        scratch = out / SCRATCH / "faces"
        precisions = [name for name in self.runtime.precisions if name != "int8"] or ["fp32"]
        rows = self._rows(network, source, precisions, data, scratch)
        for row in rows:
            name = str(row["file"]).replace("student", "faces", 1)
            os.replace(scratch / row["file"], out / name)
            row["file"] = name

        signature = source.signature
        ports = {"inputs": signature.inputs, "outputs": signature.outputs}
        described = {key: [port(spec, source, self.runtime.side) for spec in specs] for key, specs in ports.items()}
        return {"parameters": count_parameters(cast(nn.Module, network)), "files": rows} | described

    def _check_side(self, signature: Signature) -> None:
        """Refuse a runtime's fixed size that the network does not take."""
        side, step, only = self.runtime.side, signature.multiple_of, signature.side
        if side is not None and only not in (None, side):
            raise ConfigError("runtime.side", f"the network takes {only} px only, not {side}", f"Give {only}")
        if side is not None and side % step:
            raise ConfigError(
                "runtime.side", f"{side} is not a multiple of {step}, as the network needs", f"Give {step * 16}"
            )

    def _source(
        self, network: Exportable, signature: Signature, weights: Path, inputs: dict[str, Artifact], scratch: Path
    ) -> ConversionSource:
        """Write what the converters start from into the scratch folder."""
        # The ONNX file, with notes that readers of the file need.
        scratch.mkdir(parents=True, exist_ok=True)
        trained = int(inputs["student"].metrics["size"])
        style = str(inputs["student"].config.get("target", ""))
        notes = {"tristyle.size": str(trained), "tristyle.style": style}
        if not getattr(network, "whole_frames", True):
            notes["tristyle.faces"] = "only"
        notes |= origin(inputs["data"], further(inputs["student"]))
        if signature.multiple_of != contract.STEP:  # what a reader assumes
            notes["tristyle.multiple_of"] = str(signature.multiple_of)
        export_onnx(network, scratch / "source.onnx", notes, signature)

        # Pictures of training people at the training's size, for int8.
        people = split_photos(inputs["data"], "train", self.calibration)
        if people.shape[-1] != trained or people.shape[-2] != trained:
            people = F.interpolate(people, (trained, trained), mode="area")
        samples = [sample_of(photo, signature, index) for index, photo in enumerate(people.split(1))]
        values = [torch.cat(column).numpy() for column in zip(*samples, strict=True)]
        np.savez(scratch / "calibration.npz", **dict(zip(signature.input_names, values, strict=True)))  # type: ignore[arg-type]
        paths = scratch / "source.onnx", weights, scratch / "calibration.npz"
        return ConversionSource(*paths, size=trained, signature=signature, style=style, notes=notes)

    def _row(
        self,
        source: ConversionSource,
        precision: str,
        out: Path,
        samples: list[list[Tensor]],
        truth: list[tuple[np.ndarray, ...]],
    ) -> dict[str, Any]:
        """Convert to one precision, check and time it. A line of records.jsonl."""
        # Convert and describe.
        path = self.runtime.convert(source, precision, out)
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        row: dict[str, Any] = {"runtime": self.runtime.name, "precision": precision, "file": path.name}
        row |= {"bytes": sum(file.stat().st_size for file in files), "sha256": hash_path(path)}
        if models := [sha256_file(file) for file in files if file.suffix == ".onnx" and file != path]:
            row["models"] = models  # the page names the model that it times, not its folder
        only = source.signature.side
        timed = TIMED if only is None else ((only, 1), (only, 2))
        row |= dict.fromkeys(MEASURES) | {time_key(side, threads): None for side, threads in timed}
        if not self.runtime.runs_here:
            return row

        # A file that disagrees with torch is refused before its time is measured.
        with closing(self.runtime.open(path, source.signature, 1)) as run:
            found = agreement(run, samples, truth, source.signature)
        self._accept(path, precision, found)
        row |= {name: finite(value) for name, value in found.items()}

        for threads in (1, 2):
            with closing(self.runtime.open(path, source.signature, threads)) as run:
                for side in (side for side, many in timed if many == threads and self.runtime.side in (None, side)):
                    drawn = drawn_inputs(source.signature, side)
                    row[time_key(side, threads)] = milliseconds(run, drawn, threads, self.repeats)
        return row

    def _accept(self, path: Path, precision: str, found: dict[str, float]) -> None:
        """Refuse a file that does not compute what torch computes. Raises TristyleError."""
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


def finite(value: Any) -> Any:
    """The value itself, or None for a number that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def metrics(rows: list[dict[str, Any]], prefix: str = "") -> dict[str, float]:
    """The artifact's measures: the first precision's, and of every other how far it is from torch.

    Args:
        rows: a network's lines of the records.
        prefix: of the names.
    """
    first = rows[0]
    sides = [int(name.split("_")[1]) for name in first if name.startswith("ms_") and name.endswith("_1")]
    found = {name: first[name] for name in ("max_error", "psnr", "edge_clarity", "bytes")}
    found |= {f"cpu_ms_{side}": first[time_key(side, 1)] for side in sides}
    for row in rows[1:]:
        found |= {f"{row['precision']}_{name}": row[name] for name in ("psnr", "edge_clarity", "bytes")}
        found[f"{row['precision']}_cpu_ms_{sides[-1]}"] = row[time_key(sides[-1], 1)]
    return {f"{prefix}{name}": value for name, value in found.items() if value is not None}


# ----------------------------------------------------------------------------------------------------------- samples


def split_photos(data: Artifact, split: str, count: int) -> Tensor:
    """The first photos of a split: float32 [N, 3, H, W] in [-1, 1]. Raises TristyleError where there is none."""
    rows = [row for row in data.records() if row["split"] == split][:count]
    if not rows:
        raise TristyleError(f"{data.path}: has no photo of the split {split!r}. Use data with held-out people.")
    return to_tensor(load_images([data.path / row["photo"] for row in rows]))


def sample_of(photo: Tensor, signature: Signature, seed: int) -> list[Tensor]:
    """Inputs of one call: the photo for the input of that name, the others drawn evenly from their ranges.

    Args:
        photo: float32 [1, 3, H, W] in [-1, 1].
        signature: the inputs.
        seed: of the draws.
    """
    draw = torch.Generator().manual_seed(seed)

    def values(spec: TensorSpec) -> Tensor:
        shape = spec.shape(photo.shape[2], photo.shape[3])
        return torch.rand(shape, generator=draw) * (spec.high - spec.low) + spec.low

    return [photo if spec.name == PHOTO else values(spec) for spec in signature.inputs]


def check_samples(data: Artifact, count: int, signature: Signature, side: int | None = None) -> list[list[Tensor]]:
    """What a file is checked on: held-out photos, each as it is and again at an oblong size.

    Args:
        data: holds the photos.
        count: photos, at most.
        signature: the inputs; sizes are multiples of its `multiple_of`.
        side: px; where a runtime takes one size only, each photo is used at that size alone.

    Returns:
        Inputs of each call, see `sample_of`.
    """
    photos, step = split_photos(data, "heldout", count), signature.multiple_of
    height, width = (max(-(-SMALLEST // step) * step, length // step * step) for length in photos.shape[2:])
    side = signature.side or side
    sizes = [(height, width), (height + 2 * step, width + 5 * step)] if side is None else [(side, side)]
    found: list[Tensor] = []
    for size in sizes:
        same = photos.shape[2:] == size
        scaled = photos if same else F.interpolate(photos, size, mode="bilinear", align_corners=False)
        found += scaled.split(1)
    return [sample_of(photo, signature, index) for index, photo in enumerate(found)]


# -------------------------------------------------------------------------------------------------------------- card


def card(
    rows: list[dict[str, Any]],
    runtime: contract.Backend,
    source: ConversionSource,
    inputs: Mapping[str, Artifact],
    network: Exportable,
) -> dict[str, Any]:
    """What a person needs to feed the model and to know where it comes from; no paths, no dates."""
    first = rows[0]
    module, signature = cast(nn.Module, network), source.signature
    zeros = [torch.zeros(shape) for shape in signature.shapes(256, 256)]
    return {
        # What it is.
        "name": f"tristyle {type(network).__name__}",
        "style": source.style,
        "tier": network.arguments.get("tier", ""),
        "arguments": network.arguments,
        "parameters": count_parameters(module),
        f"macs_{signature.side or 256}": count_macs(Traced(network, signature), 256, zeros),
        "runtime": {"name": runtime.name, "made_with": {"torch": version("torch")} | runtime.versions()},
        "file": first["file"],
        "sha256": first["sha256"],
        "bytes": first["bytes"],
        "format": {"precision": first["precision"]},
        "files": [row if runtime.runs_here else row | {"checked": "not run here"} for row in rows],
        # How to feed it.
        "inputs": [port(spec, source, runtime.side) for spec in signature.inputs],
        "outputs": [port(spec, source, runtime.side) for spec in signature.outputs],
        # How good it is, and where it comes from.
        "checked": {
            "against": "the same network in torch, float32, on held-out photos",
            "psnr": "dB of the first output, by its range; edge_clarity and flat_energy: shares of torch's",
            "ms": "ms_<side>_<threads>, least of several: CPU time on one thread, wall time on two",
            "where": "one x86 machine; a phone was not measured",
        },
        "scores": {name: finite(value) for name, value in inputs["student"].metrics.items()},
        "made": {
            "student": inputs["student"].digest,
            "data": inputs["data"].digest,
            "train": inputs["student"].config.get("train", {}),
        },
        "pictures": pictures(inputs["data"], further(inputs["student"])),
        "notes": list(runtime.notes),
        "licence": "of the weights: what the licences of the pictures allow; of the code: Apache-2.0",
        "use": f"Outputs are synthetic pictures; mark them (IPTC DigitalSourceType {SOURCE_TYPE}), as `stylize` does.",
    }


def further(student: Artifact) -> dict[str, list[str]]:
    """What a student's artifact says of pictures beside its data set's, see `stages.core.artifact.said_of`."""
    path = student.path / PICTURES
    return read_json(path, dict.fromkeys(SAID.values(), list)) if path.exists() else {}


def origin(data: Artifact, more: Mapping[str, list[str]] | None = None) -> dict[str, str]:
    """What is noted within a model's file of where it comes from, `more` pictures too, and of what its outputs are."""
    said = provenance(data, more)
    return {f"tristyle.{name}": value for name, value in said.items()} | {"tristyle.outputs": SOURCE_TYPE}


def pictures(data: Artifact, more: Mapping[str, list[str]] | None = None) -> dict[str, list[str]]:
    """The card's entry of the pictures that a network was trained on, `more` than the data set's."""
    keys = {"sources": "source", "licences": "licence", "licence_classes": "licence_class"}
    said = said_of(data.records())
    return {name: sorted({*said[key], *(more or {}).get(key, ())}) for name, key in keys.items()}


def port(spec: TensorSpec, source: ConversionSource, side: int | None) -> dict[str, Any]:
    """The card's entry of one input or output.

    Args:
        spec: describes it.
        source: what the files were made of.
        side: px, the only one that the files take; None where height and width are free.
    """
    entry: dict[str, Any] = {"name": spec.name, "range": [spec.low, spec.high], "note": spec.note}
    if not spec.spatial:
        return entry | {"layout": "NC", "shape": [1, spec.channels]}

    side = source.signature.side or side
    lengths: dict[str, Any] = {"multiple_of": source.signature.multiple_of, "min": SMALLEST, "max": LARGEST}
    if side is not None:
        lengths = {"only": side}
    free: list[Any] = ["height", "width"] if side is None else [side, side]
    entry |= {"layout": "NCHW", "shape": [1, spec.channels, *free]}
    return entry | {"sides": lengths | {"trained_at": source.size}}
