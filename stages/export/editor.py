"""`export=editor`: encoder, content branch and generator as one ONNX file of a photo, attributes and regions."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.artifact import Artifact, hash_path
from stages.core.files import write_json, write_jsonl
from stages.core.mark import SOURCE_TYPE
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError, number
from stages.core.stage import Stage
from stages.core.tensors import TensorSpec
from stages.export.contract import Signature
from stages.export.fidelity import agreement, drawn_inputs, expected, milliseconds
from stages.export.onnx import Onnx, export_onnx
from stages.export.stage import finite, origin, pictures, sample_of, split_photos
from stages.networks.expanded import ExpandedEditor, soft_region
from stages.networks.face_labels import READER_LABELS
from stages.networks.face_reader import Reader, load_reader, reader_file
from stages.networks.latents import load_editor
from stages.networks.mobile import count_parameters
from stages.web import Model, write_site

FILE = "editor.onnx"
PAGE = "editor.web"  # folder of the page with the editor in it
SOLID = 0.15  # change, of full white, from which none of the photo's own fine detail is kept
REGIONS_NOTE = f"share of the edit that shows in {', '.join(READER_LABELS)}; all 1: everywhere"
MATTE_NOTE = "share of the photo's own fine detail that goes"
TOLERANCE = 2e-3  # |runtime - torch| at most, of values in [-1, 1]: a quarter of a step of eight bits


class EditorGraph(nn.Module):
    """An editor and the face reader's regions as one network (stages.export.contract.Exportable).

    What an edit changes, against what the editor makes of the photo without one, is added to the photo: where nothing
    changes it stays as it is.

    Args:
        editor: edits.
        reader: says where mouth, hair and the other regions are, for local edits.
    """

    def __init__(self, editor: ExpandedEditor, reader: Reader) -> None:
        super().__init__()
        self.arguments = editor.arguments
        self.multiple_of = editor.multiple_of
        self.editor, self.reader = editor, reader
        regions = TensorSpec("regions", len(READER_LABELS), 0.0, 1.0, spatial=False, note=REGIONS_NOTE)
        self.inputs: tuple[TensorSpec, ...] = (*editor.inputs, regions)
        self.outputs: tuple[TensorSpec, ...] = (*editor.outputs, TensorSpec("matte", 1, 0.0, 1.0, note=MATTE_NOTE))

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Edit photos within regions.

        Args:
            inputs: photos [N, 3, R, R] in [-1, 1], strengths [N, K], and the share of each region's edit that shows
                [N, 13] in [0, 1]; all 1: the edit shows everywhere.

        Returns:
            The photos with the edit, and the share of their own fine detail that goes with it [N, 1, R, R] in [0, 1].
        """
        photos, strengths, shares = inputs
        edited, kept = self.editor(
            torch.cat([photos, photos]), torch.cat([strengths, torch.zeros_like(strengths)])
        ).chunk(2)
        parsing, _, _ = self.reader.decode(self.reader.encode(photos))
        labels = F.interpolate(parsing, photos.shape[-2:], mode="bilinear", align_corners=False).softmax(dim=1)
        change = (edited - kept) * soft_region((labels * shares[:, :, None, None]).sum(dim=1, keepdim=True))
        matte = change.abs().amax(dim=1, keepdim=True) / (2 * SOLID)
        return (photos + change).clamp(-1, 1), matte.clamp(0, 1)


@dataclass(kw_only=True)
class EditorExport(Stage):
    """Editor -> editor.onnx, checked against torch on held-out photos and timed; card.json.

    Args:
        photos: held-out photos it is checked on.
        repeats: timed runs; the least counts.
        page: write the page with the editor in it, too, as the folder editor.web for any static host.
    """

    reads: ClassVar[tuple[str, ...]] = ("style", "data")
    photos: int = 8
    repeats: int = 20
    page: bool = False

    def __post_init__(self) -> None:
        number("photos", self.photos, 1, integer=True)
        number("repeats", self.repeats, 1, integer=True)
        if not isinstance(self.page, bool):
            raise ConfigError("page", f"{self.page!r} is not true or false", "Write true or false")

    def files(self) -> dict[str, Path]:
        """The face reader, which finds the regions."""
        return reader_file()

    def check(self) -> None:
        """Raises TristyleError: the extra `onnx` is not installed."""
        Onnx(precisions=["fp32"]).check()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Export, check, time and describe.

        Raises:
            TristyleError: the style has no editor, or the runtime disagrees with torch.
        """
        editor = load_editor(inputs["style"].path)
        network = EditorGraph(editor, load_reader()).eval()
        signature, side = Signature.of(network), editor.multiple_of
        notes = {
            "tristyle.size": str(side),
            "tristyle.attributes": ",".join(editor.attributes),
            "tristyle.regions": ",".join(READER_LABELS),
            "tristyle.generator": editor.encoder.generator,
        } | origin(inputs["data"])
        export_onnx(network, out / FILE, notes, replace(signature, side=side))

        samples = [
            sample_of(photo, signature, seed)
            for seed, photo in enumerate(split_photos(inputs["data"], "heldout", self.photos).split(1))
        ]
        truth, backend = expected(network, samples, signature), Onnx(precisions=["fp32"])
        with closing(backend.open(out / FILE, signature, 1)) as run:
            found = agreement(run, samples, truth, signature)
            if not found["max_error"] <= TOLERANCE:
                raise TristyleError(
                    f"{out / FILE}: differs from torch by {found['max_error']:.2g}, more than {TOLERANCE:g}. "
                    "Do not use it; try another version of onnxruntime."
                )
            spent = milliseconds(run, drawn_inputs(signature, side), 1, self.repeats)

        if self.page:
            model = Model(out / FILE, "editor", side, fixed=True, attributes=editor.attributes, regions=READER_LABELS)
            write_site(out / PAGE, [model])

        checked = {name: found[name] for name in ("max_error", "psnr")}
        size = (out / FILE).stat().st_size
        row = {"runtime": "onnx", "precision": "fp32", "file": FILE, "bytes": size}
        write_jsonl(out / "records.jsonl", [row | checked])
        metrics = checked | {"editor_bytes": float(size), "editor_cpu_ms": spent or 0.0}
        write_json(out / "card.json", _card(network, out / FILE, inputs, metrics, backend.versions()))
        return metrics


def _card(
    network: EditorGraph, file: Path, inputs: dict[str, Artifact], metrics: dict[str, float], versions: dict[str, str]
) -> dict[str, Any]:
    """What a person needs to feed the file and to know where it comes from; no paths, no dates."""
    side = network.multiple_of

    def port(spec: TensorSpec) -> dict[str, Any]:
        entry = {"name": spec.name, "range": [spec.low, spec.high], "shape": list(spec.shape(side, side))}
        return entry | {"note": spec.note}

    return {
        "name": "tristyle editor",
        "attributes": list(network.editor.attributes),
        "parameters": count_parameters(network),
        "runtime": {"name": "onnx", "made_with": {"torch": torch.__version__} | versions},
        "file": file.name,
        "sha256": hash_path(file),
        "inputs": [port(spec) for spec in network.inputs],
        "outputs": [port(spec) for spec in network.outputs],
        "checked": metrics | {"against": "the same network in torch, float32, on held-out photos"},
        "scores": {name: finite(value) for name, value in inputs["style"].metrics.items()},
        "made": {"style": inputs["style"].digest, "data": inputs["data"].digest},
        "pictures": pictures(inputs["data"]),
        "licence": "of the weights: what the licences of the pictures allow; of the code: Apache-2.0",
        "use": f"Outputs are synthetic pictures; mark them (IPTC DigitalSourceType {SOURCE_TYPE}), as `stylize` does.",
    }
