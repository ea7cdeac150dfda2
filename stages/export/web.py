"""The page as a folder for any static host, with the model in it. The ONNX is the one that export=onnx writes.

The stage checks the model in onnxruntime, whose code the page's WebAssembly is built from; tests/web/test_page.py
checks it in a browser.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.core.files import parse_json, read_json
from stages.export.contract import ConversionSource, Run, Signature, check_takes_a_photo
from stages.export.onnx import Onnx, OnnxRun, open_session
from stages.web import Model, write_site


@dataclass(kw_only=True)
class Web(Onnx):
    """The page as static files, one folder a precision.

    Args:
        precisions: of fp32, fp16 (half the download, the same speed) and int8 (a quarter, and faster).
    """

    name: ClassVar[str] = "web"
    notes: ClassVar[tuple[str, ...]] = (
        "Not timed here: press Measure on the page, on the device in question.",
        "ONNX Runtime Web in vendor/ is under the MIT licence (vendor/LICENSE.txt).",
    )
    precisions: list[str] = field(default_factory=lambda: ["fp32"])

    def convert(self, source: ConversionSource, precision: str, out: Path) -> Path:
        """Write the folder student.<precision>.web into `out`: index.html and all that it needs.

        Raises:
            TristyleError: the network takes something else than one photo.
        """
        check_takes_a_photo(source.signature, "export=web", "Use export=onnx.")
        folder = out / f"student.{precision}.web"
        with tempfile.TemporaryDirectory() as scratch:
            model = super().convert(source, precision, Path(scratch))
            shown = [source.style, _tier(source.network), "" if precision == "fp32" else precision]
            name = ", ".join(part for part in shown if part)
            fixed, step = source.signature.side is not None, source.signature.multiple_of
            write_site(folder, [Model(model, name, source.size, source.style, fixed, step, source.faces)])
        return folder

    def open(self, path: Path, signature: Signature, threads: int) -> Run:
        """Open the page's model in onnxruntime, without times."""
        listed = read_json(path / "models.json", {"models": list})["models"]
        return _Untimed(open_session(path / listed[0]["file"], threads), signature)


class _Untimed(OnnxRun):
    """A session of this machine's onnxruntime: its pictures are the browser's, its times are not."""

    def times(self, inputs: Sequence[np.ndarray], repeats: int) -> list[tuple[float, float]]:
        """No times."""
        return []


def _tier(weights: Path) -> str:
    """The tier that a student's file names; "" where it names none."""
    from safetensors import safe_open

    with safe_open(weights, "np") as file:
        return str(parse_json(file.metadata()["arguments"], weights, {}).get("tier", ""))
