"""MNN (Alibaba): fp32, fp16 and int8 files with dynamic height and width.

Only MNN's C extension `_tools` is used, in a child process. MNN's command lines (mnnconvert, mnnquant, mnn) and the
module MNN.tools install a package with whatever pip is on the path and report every use to a server; the child cannot
import them. The id that MNN draws at random for each file becomes one that follows from the file.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.export.contract import ConversionSource, Signature, check_takes_a_photo, require
from stages.export.subprocess_runtime import Call, ChildRuntime

WINOGRAD_MEMORY_LEVEL = 3  # a number of MNN's HintMode
UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(kw_only=True)
class Mnn(ChildRuntime):
    """MNN files. int8 is calibrated by KL divergence (its EMA aborts on dynamic sizes, and loses 30 dB elsewhere)."""

    name: ClassVar[str] = "mnn"
    tolerance: ClassVar[float] = 1e-3  # Winograd convolutions
    suffix: ClassVar[str] = "mnn"
    known: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    modules: ClassVar[tuple[str, ...]] = ("MNN", "_tools")
    packages: ClassVar[tuple[str, ...]] = ("MNN",)
    notes: ClassVar[tuple[str, ...]] = (
        "MNN is Apache-2.0 and asks nothing of the weights' licence.",
        "Made by MNN's C extension alone. mnnconvert, mnnquant and MNN.tools install a package and report their use to "
        "a server; nothing here calls them, and this file does not need them.",
        "fp16 is the size of the file; to compute in it, ask for precision=low on ARMv8.2.",
        "int8 leaves the 1x1 convolutions before an upsampling and the blend in fp32; on x86 it is slower than fp32.",
    )
    precisions: list[str] = field(default_factory=lambda: ["fp32", "fp16", "int8"])

    def options(self, source: ConversionSource, precision: str, folder: Path) -> dict[str, Any]:
        """For int8: the photos as PNGs, and the names of the convolutions that stay in fp32.

        Raises:
            TristyleError: int8 of a network with other inputs than one photo, which MNN's tool cannot calibrate.
        """
        if precision != "int8":
            return {}
        from stages.core.images import write_image

        check_takes_a_photo(source.signature, "export=mnn, int8", "Leave int8 out of export.runtime.precisions.")
        with np.load(source.calibration) as file:
            photos = file[source.signature.input_names[0]]
        for index, photo in enumerate(photos):
            picture = np.clip(np.round((photo.transpose(1, 2, 0) + 1) * 127.5), 0, 255).astype(np.uint8)
            write_image(folder / "photos" / f"{index:05d}.png", picture)
        return {"photos": len(photos), "side": photos.shape[-1], "keep": before_resize(source.onnx)}


def before_resize(path: Path) -> list[str]:
    """Names (first outputs) of the convolutions that an upsampling reads, in an ONNX file.

    MNN quantises their outputs coarsely: the student's two cost 10 dB together, all other convolutions 0.3.
    """
    nodes = require("onnx", "onnx").load(path).graph.node
    resized = {node.input[0] for node in nodes if node.op_type == "Resize"}
    return [node.output[0] for node in nodes if node.op_type == "Conv" and node.output[0] in resized]


# ---------------------------------------------------------------------------------------------------- in the child


def _silence() -> None:
    """Make MNN.tools impossible to import in this process."""
    sys.modules["MNN.tools"] = None  # type: ignore[assignment]


def convert(source: ConversionSource, precision: str, folder: Path, options: dict[str, Any]) -> None:
    """Write folder/student.<precision>.mnn."""
    _silence()
    import _tools

    # int8 starts from an fp32 file.
    path = folder / f"student.{precision}.mnn"
    base = folder / "base.mnn" if precision == "int8" else path
    arguments = ["-f", "ONNX", "--modelFile", str(source.onnx), "--MNNModel", str(base), "--bizCode", "tristyle"]
    _tools.mnnconvert(["mnnconvert", *arguments, *(["--fp16"] if precision == "fp16" else [])])

    if precision == "int8":
        settings = folder / "int8.json"
        kept = options["keep"] + after_upsampling(operators(base))
        settings.write_text(json.dumps(_calibration(folder / "photos", options | {"keep": kept})))
        _tools.mnnquant(["mnnquant", str(base), str(path), str(settings)])
    path.write_bytes(without_id(path.read_bytes()))


def operators(path: Path) -> list[tuple[str, str]]:
    """Name and kind of each operator of an MNN file, in the order of computation."""
    import MNN

    return [(value.name, value.op_type) for value in MNN.expr.load_as_list(str(path))]


def after_upsampling(listed: list[tuple[str, str]]) -> list[str]:
    """Names of all operators from the first upsampling on that are not convolutions.

    In int8 the blend at the end alone costs 5 to 7 dB, and each of these operators adds two conversions.
    """
    kinds = [kind for _, kind in listed]
    start = kinds.index("Interp") if "Interp" in kinds else len(listed)
    return [name for name, kind in listed[start:] if kind != "Convolution"]


def _calibration(photos: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The settings that mnnquant reads: all photos, as RGB in [-1, 1]."""
    return {
        "format": "RGB",
        "mean": [127.5] * 3,
        "normal": [1 / 127.5] * 3,
        "width": options["side"],
        "height": options["side"],
        "path": f"{photos}/",
        "used_image_num": options["photos"],
        "feature_quantize_method": "KL",
        "weight_quantize_method": "MAX_ABS",
        "skip_quant_op_names": options["keep"],
    }


def without_id(data: bytes) -> bytes:
    """The same model with an id that follows from the rest of the file (MNN draws one at random)."""
    found = UUID.search(data)
    if found is None:
        return data
    blank = data[: found.start()] + b"0" * 36 + data[found.end() :]
    name = str(uuid.UUID(hashlib.sha256(blank).hexdigest()[:32]))
    return blank[: found.start()] + name.encode() + blank[found.start() + 36 :]


def load(path: Path, signature: Signature, threads: int) -> Call:
    """Open a model. Raises ValueError where the file is not one."""
    _silence()
    import MNN

    expr = MNN.expr
    settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
    manager = MNN.nn.create_runtime_manager((settings,))
    # Small Winograd tiles: with MNN's own choice a trained student is off by up to 1e-3, in 0.6 of the time.
    manager.set_hint(WINOGRAD_MEMORY_LEVEL, 0)
    try:
        names = MNN.nn.load_module_from_file(str(path), [], []).get_info()["outputNames"]
    except SystemError:
        raise ValueError("is not a model that MNN reads. Convert it again") from None
    outputs = signature.output_names
    if missing := [name for name in outputs if name not in names]:
        raise ValueError(f"has no output {missing[0]}. Convert it again")
    module = MNN.nn.load_module_from_file(str(path), signature.input_names, outputs, runtime_manager=manager)

    def call(*inputs: np.ndarray) -> Sequence[np.ndarray]:
        given = [expr.placeholder(list(values.shape), expr.NCHW) for values in inputs]
        for variable, values in zip(given, inputs, strict=True):
            variable.write(np.ascontiguousarray(values))
        found = module.forward(given)
        # A copy: `read` gives a view of the variable's memory.
        return [np.array(expr.convert(value, expr.NCHW).read()) for value in found]

    return call
