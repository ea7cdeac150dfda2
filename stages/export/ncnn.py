"""ncnn (Tencent): a folder of student.param, student.bin and notes.json, by pnnx from the ONNX, any size.

pnnx is a program of its own. It writes half a dozen further files, some with the paths of this machine; they are not
kept. The blobs of the param file get the names that inputs and outputs have everywhere.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.core.files import write_json
from stages.export.contract import ConversionSource, Signature
from stages.export.subprocess_runtime import Call, ChildRuntime


@dataclass(kw_only=True)
class Ncnn(ChildRuntime):
    """ncnn files, with weights in fp32 or fp16."""

    name: ClassVar[str] = "ncnn"
    tolerance: ClassVar[float] = 1e-4
    suffix: ClassVar[str] = "ncnn"
    known: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    modules: ClassVar[tuple[str, ...]] = ("ncnn",)
    packages: ClassVar[tuple[str, ...]] = ("ncnn", "pnnx")
    notes: ClassVar[tuple[str, ...]] = (
        "ncnn is BSD-3-Clause and asks nothing of the weights' licence.",
        "A folder: student.param holds the layers, student.bin the weights, notes.json where they come from.",
        "Blobs have no batch dimension.",
        "fp16 is the size of the file here; ncnn computes in it on processors that can.",
    )
    precisions: list[str] = field(default_factory=lambda: ["fp32", "fp16"])


# ---------------------------------------------------------------------------------------------------- in the child


def convert(source: ConversionSource, precision: str, folder: Path, options: dict[str, Any]) -> None:
    """Write folder/student.<precision>.ncnn/."""
    spec = importlib.util.find_spec("pnnx")
    assert spec is not None and spec.submodule_search_locations
    places = [Path(place) / name for place in spec.submodule_search_locations for name in ("pnnx", "pnnx.exe")]
    program = next(place for place in places if place.exists())

    # pnnx writes beside what it reads, so it gets a copy.
    model = folder / "student.onnx"
    shutil.copyfile(source.onnx, model)
    out = folder / f"student.{precision}.ncnn"
    out.mkdir()
    shapes = source.signature.shapes(source.size, source.size)
    shape = "inputshape=" + ",".join(f"[{','.join(map(str, one))}]" for one in shapes)
    files = [f"ncnnparam={out / 'student.param'}", f"ncnnbin={out / 'student.bin'}"]
    subprocess.run([program, model, shape, f"fp16={int(precision == 'fp16')}", *files], cwd=folder, check=True)

    param = out / "student.param"
    param.write_text(renamed(param.read_text(), source.signature))
    write_json(out / "notes.json", source.notes)  # neither file has a place for them


def renamed(param: str, signature: Signature) -> str:
    """A param file's text with blobs named as inputs and outputs are; pnnx calls them in0, in1, out0, out1."""
    names = {f"in{index}": name for index, name in enumerate(signature.input_names)}
    names |= {f"out{index}": name for index, name in enumerate(signature.output_names)}
    lines = (" ".join(names.get(word, word) for word in line.split()) for line in param.splitlines())
    return "\n".join(lines) + "\n"


def load(path: Path, signature: Signature, threads: int) -> Call:
    """Open a model. Raises ValueError where the folder does not hold one."""
    import ncnn

    # Options count only before the model is loaded.
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    # By default it packs a file's float32 values as halves, which moves pictures of a deep network by 4e-4.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    param = path / "student.param"
    if net.load_param(str(param)) or net.load_model(str(path / "student.bin")):
        raise ValueError("is not a model that ncnn reads. Convert it again")

    def call(*inputs: np.ndarray) -> Sequence[np.ndarray]:
        extractor = net.create_extractor()
        for name, values in zip(signature.input_names, inputs, strict=True):
            plain = np.ascontiguousarray(values[0])  # a Mat does not own the array's memory: it lives until the copy
            extractor.input(name, ncnn.Mat(plain).clone())

        found = []
        for name in signature.output_names:
            status, value = extractor.extract(name)
            if status:
                raise ValueError(f"ncnn could not compute {name} (status {status})")
            found.append(np.array(value)[None].copy())
        return found

    return call
