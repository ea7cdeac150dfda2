"""The student for ncnn (Tencent): a folder of student.param and student.bin, by pnnx from the ONNX, any size.

pnnx is a program of its own; it writes half a dozen further files, some with the paths of this machine, which are not
kept. The blobs of the param file get the names that the student's inputs and outputs have everywhere.
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

from stages.export.contract import ConversionSource
from stages.export.subprocess_runtime import Call, ChildRuntime

BLOBS = {"in0": "photo", "out0": "output", "out1": "alpha"}  # pnnx's names -> the student's


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
        "A folder: student.param holds the layers, student.bin the weights; blobs photo, output, alpha without a batch "
        "dimension.",
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
    model = folder / "student.onnx"  # pnnx writes beside what it reads
    shutil.copyfile(source.onnx, model)
    out = folder / f"student.{precision}.ncnn"
    out.mkdir()
    shape = f"inputshape=[1,3,{source.size},{source.size}]"
    files = [f"ncnnparam={out / 'student.param'}", f"ncnnbin={out / 'student.bin'}"]
    subprocess.run([program, model, shape, f"fp16={int(precision == 'fp16')}", *files], cwd=folder, check=True)
    param = out / "student.param"
    param.write_text(renamed(param.read_text()))


def renamed(param: str) -> str:
    """A param file's text with the blobs called photo, output and alpha."""
    lines = (" ".join(BLOBS.get(word, word) for word in line.split()) for line in param.splitlines())
    return "\n".join(lines) + "\n"


def load(path: Path, threads: int) -> Call:
    """The opened model."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    param = path / "student.param"
    if net.load_param(str(param)) or net.load_model(str(path / "student.bin")):
        raise ValueError("is not a model that ncnn reads. Convert it again")
    words = param.read_text().split()
    outputs = [name for name in ("output", "alpha") if name in words]

    def call(photo: np.ndarray) -> Sequence[np.ndarray]:
        values = np.ascontiguousarray(photo[0])
        given = ncnn.Mat(values).clone()  # a Mat does not own the array's memory, which must live until the copy
        extractor = net.create_extractor()
        extractor.input("photo", given)
        found = []
        for name in outputs:
            status, value = extractor.extract(name)
            if status:
                raise ValueError(f"ncnn could not compute {name} (status {status})")
            found.append(np.array(value)[None].copy())
        return found

    return call
