"""What each operator adds to a runtime's time, and what a tier should therefore cost.

    python -m tests.bench.operators -o table.json                       # onnxruntime; with --runtimes onnx mnn both

An operator is timed between a 1x1 convolution that makes its input from the photo and a global mean that reads its
output, less the same without it; what a runtime folds or fuses into the convolution before it therefore costs nothing.
One thread, arms alternating, the least CPU time counts. A tier's prediction is the sum over its layers; the table
ranks designs, and the measured time beside it says how far to trust it (data/operators.json: 5 to 15 % too little in
onnxruntime, up to 30 % in MNN). x86 numbers rank operators; they are not a phone's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.files import write_json
from stages.core.settings import TristyleError, number
from stages.core.tensors import TensorSpec
from stages.export.contract import Backend, ConversionSource, Run, Signature, require

SIZES = (256, 512)  # px, of the photo that a tier is predicted for
WIDTH, SIDE = 32, 128  # channels and px of the operators that no tier is built of, for comparison
OTHERS = (
    "conv3", "conv5", "depthwise3", "conv1", "transposed2", "bilinear2", "nearest2", "shuffle2", "add",
    "batch_norm", "instance_norm", "one_group_norm", "relu", "leaky_relu", "prelu", "hard_swish", "tanh", "sigmoid",
)  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """A kind (see `nodes`) with input and output channels and the input's side in px."""

    kind: str
    inputs: int
    outputs: int
    side: int


def layers(tier: str, size: int) -> list[Operator]:
    """The operators that a tier of the mobile student consists of, for a photo of size x size px."""
    from stages.networks.mobile import TIERS

    half, quarter, eighth, blocks = TIERS[tier]
    found = [
        Operator("conv3_half", 3, half, size),
        Operator("conv3_half", half, quarter, size // 2),
        Operator("conv3_half", quarter, eighth, size // 4),
    ]
    found += 2 * blocks * [Operator("conv3", eighth, eighth, size // 8)]
    for wide, narrow, side in ((eighth, quarter, size // 8), (quarter, half, size // 4)):
        found += [Operator("conv1", wide, narrow, side), Operator("bilinear2", narrow, narrow, side)]
        found += [Operator("add", narrow, narrow, 2 * side), Operator("conv3", narrow, narrow, 2 * side)]
    return [*found, Operator("conv3", half, 16, size // 2), Operator("head", 16, 3, size // 2)]


def wanted(sizes: Sequence[int] = SIZES) -> list[Operator]:
    """Every operator of every tier at these sizes, and the ones for comparison, once each."""
    from stages.networks.mobile import TIERS

    found = [operator for tier in TIERS for size in sizes for operator in layers(tier, size)]
    found += [Operator(kind, WIDTH, WIDTH // 4 if kind == "shuffle2" else WIDTH, SIDE) for kind in OTHERS]
    return list(dict.fromkeys(found))


def nodes(operator: Operator, constant: Callable[[str, np.ndarray], str]) -> list[Any]:
    """The operator's ONNX nodes, from the value `x` to the value `y`; `head` reads `photo`, too.

    constant: stores an array under a name and returns the name.
    """
    node = require("onnx", "onnx").helper.make_node
    kind, wide, out = operator.kind, operator.inputs, operator.outputs
    draw = np.random.default_rng(0).standard_normal

    def weight(*shape: int) -> str:
        return constant("w", (draw(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def ones(name: str, *shape: int) -> str:
        return constant(name, np.ones(shape, np.float32))

    # Convolutions.
    if kind.startswith(("conv", "depthwise")):
        side = int(kind.removesuffix("_half")[-1])
        groups = wide if kind.startswith("depthwise") else 1
        found = weight(out, wide // groups, side, side)
        stride = 2 if kind.endswith("_half") else 1
        return [node("Conv", ["x", found], ["y"], pads=[side // 2] * 4, strides=[stride] * 2, group=groups)]
    if kind == "transposed2":
        return [node("ConvTranspose", ["x", weight(wide, out, 2, 2)], ["y"], strides=[2, 2])]

    # Other sizes, sums and norms.
    if kind in ("bilinear2", "nearest2"):
        scales = constant("scales", np.array([1, 1, 2, 2], np.float32))
        mode = {"mode": "linear"} if kind == "bilinear2" else {"mode": "nearest", "nearest_mode": "floor"}
        return [node("Resize", ["x", "", scales], ["y"], coordinate_transformation_mode="half_pixel", **mode)]
    if kind == "shuffle2":
        return [node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")]
    if kind == "add":
        return [node("Add", ["x", "x"], ["y"])]
    if kind == "batch_norm":
        names = [ones(name, wide) for name in ("scale", "bias", "mean", "variance")]
        return [node("BatchNormalization", ["x", *names], ["y"])]
    if kind == "instance_norm":
        return [node("InstanceNormalization", ["x", ones("scale", wide), ones("bias", wide)], ["y"])]
    if kind == "one_group_norm":
        return _one_group_norm(operator, node, constant, ones)

    # The student's end: sub-pixel convolution, colour and matte, the blend over the photo.
    if kind == "head":
        return _head(node, constant)

    # Activations.
    if kind == "prelu":
        return [node("PRelu", ["x", ones("slope", wide, 1, 1)], ["y"])]
    name = {"relu": "Relu", "leaky_relu": "LeakyRelu", "hard_swish": "HardSwish", "tanh": "Tanh", "sigmoid": "Sigmoid"}
    return [node(name[kind], ["x"], ["y"])]


def _one_group_norm(
    operator: Operator,
    node: Callable[..., Any],
    constant: Callable[[str, np.ndarray], str],
    ones: Callable[..., str],
) -> list[Any]:
    """Group norm of one group: an instance norm of all channels as one."""
    wide = operator.inputs
    shapes = [
        constant(name, np.array(shape))
        for name, shape in (("flat", [1, 1, -1]), ("full", [1, wide] + [operator.side] * 2))
    ]
    return [
        node("Reshape", ["x", shapes[0]], ["a"]),
        node("InstanceNormalization", ["a", ones("scale", 1), ones("bias", 1)], ["b"]),
        node("Reshape", ["b", shapes[1]], ["c"]),
        node("Mul", ["c", ones("gain", 1, wide, 1, 1)], ["d"]),
        node("Add", ["d", ones("shift", 1, wide, 1, 1)], ["y"]),
    ]


def _head(node: Callable[..., Any], constant: Callable[[str, np.ndarray], str]) -> list[Any]:
    """Sub-pixel convolution's shuffle, colour and matte, the blend over the photo."""
    parts = constant("parts", np.array([3, 1]))
    return [
        node("DepthToSpace", ["x"], ["a"], blocksize=2, mode="CRD"),
        node("Split", ["a", parts], ["b", "c"], axis=1),
        node("Tanh", ["b"], ["colour"]),
        node("Sigmoid", ["c"], ["matte"]),
        node("Sub", ["colour", "photo"], ["d"]),
        node("Mul", ["matte", "d"], ["e"]),
        node("Add", ["photo", "e"], ["y"]),
    ]


def photo_side(operator: Operator) -> int:
    """Side in px of the photo that the operator's model takes."""
    return 2 * operator.side if operator.kind == "head" else operator.side


def write_model(operator: Operator, path: Path, present: bool = True) -> None:
    """A model of one operator, photo [1, 3, S, S] -> output [1, C, 1, 1]; without it when not `present`."""
    onnx = require("onnx", "onnx")
    helper, constants = onnx.helper, []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(onnx.numpy_helper.from_array(values, name))
        return name

    # The start makes the operator's input from the photo.
    side = photo_side(operator)
    if operator.inputs == 3:  # it reads the photo itself
        stem = helper.make_node("Identity", ["photo"], ["x"])
    else:
        weight = np.random.default_rng(1).standard_normal((operator.inputs, 3, 1, 1)).astype(np.float32)
        stride = [side // operator.side] * 2
        stem = helper.make_node("Conv", ["photo", constant("stem", weight)], ["x"], strides=stride)

    # The operator itself, and a mean that reads all of its output.
    body = nodes(operator, constant) if present else []
    mean = helper.make_node("GlobalAveragePool", ["y" if present else "x"], ["output"])

    value = helper.make_tensor_value_info
    photo = value("photo", onnx.TensorProto.FLOAT, [1, 3, side, side])
    channels = operator.outputs if present else operator.inputs
    output = value("output", onnx.TensorProto.FLOAT, [1, channels, 1, 1])
    graph = helper.make_graph([stem, *body, mean], "operator", [photo], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def added(runtime: Backend, operator: Operator, rounds: int) -> float:
    """CPU ms that the operator adds on one thread, the least of `rounds` of either model, in turn; never below 0."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs = []
        for present in (False, True):
            place = Path(folder) / str(present)
            place.mkdir()
            write_model(operator, place / "source.onnx", present)
            runs.append(opened(runtime, place / "source.onnx", place))
            stack.callback(runs[-1].close)
        without, whole = fastest(runs, photo_side(operator), rounds)
    return max(0.0, whole - without)


def opened(runtime: Backend, onnx: Path, place: Path) -> Run:
    """An fp32 ONNX file converted and opened, on one thread."""
    signature = Signature((TensorSpec("photo", 3),), (TensorSpec("output", 3),))
    source = ConversionSource(onnx, onnx, onnx, 0, signature)
    return runtime.open(runtime.convert(source, "fp32", place), signature, 1)


def fastest(runs: Sequence[Run], side: int, rounds: int) -> list[float]:
    """The least CPU ms of each opened model on a photo of side x side, in turn, after two runs to warm up."""
    photo = np.random.default_rng(0).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    for run in runs:
        run.times([photo], 2)
    found = [float("inf")] * len(runs)
    for _ in range(rounds):
        for index, run in enumerate(runs):
            found[index] = min(found[index], *(1000 * cpu for cpu, _ in run.times([photo], 2)))
    return found


def predict(rows: Iterable[Mapping[str, Any]], tier: str, size: int, runtime: str) -> float:
    """A tier's ms by the table: the sum over its layers.

    Raises:
        TristyleError: the table lacks a layer.
    """
    known = {Operator(row["kind"], row["inputs"], row["outputs"], row["side"]): row["ms"].get(runtime) for row in rows}
    total = 0.0
    for operator in layers(tier, size):
        if known.get(operator) is None:
            raise TristyleError(f"the table lacks {operator} in {runtime}. Measure it again.")
        total += known[operator]
    return total


def measured_tiers(runtime: Backend, sizes: Sequence[int], rounds: int) -> dict[tuple[str, int], float]:
    """(tier, size) -> CPU ms of the whole student, random weights, on one thread."""
    import torch

    from stages.export.onnx import export_onnx
    from stages.networks.mobile import TIERS, MobileStudent

    found: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        # Open all tiers first: their runs alternate.
        runs = []
        for tier in TIERS:
            place = Path(folder) / tier
            place.mkdir()
            torch.manual_seed(0)
            student = MobileStudent(tier)
            export_onnx(student, place / "source.onnx", {})
            source = ConversionSource(place / "source.onnx", place, place, 0, Signature.of(student))
            runs.append(runtime.open(runtime.convert(source, "fp32", place), source.signature, 1))
            stack.callback(runs[-1].close)

        for size in sizes:
            found |= {(tier, size): ms for tier, ms in zip(TIERS, fastest(runs, size, rounds), strict=True)}
    return found


def table(runtimes: Sequence[Backend], sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """The whole table, as JSON: `operators` with their ms in each runtime, `tiers` predicted and measured."""
    import torch

    # Operators first: the tiers' predictions are sums of them.
    rows: list[dict[str, Any]] = [asdict(operator) | {"ms": {}} for operator in wanted(sizes)]
    tiers = []
    for runtime in runtimes:
        for row, operator in zip(rows, wanted(sizes), strict=True):
            row["ms"][runtime.name] = round(added(runtime, operator, rounds), 4)
        for (tier, size), ms in measured_tiers(runtime, sizes, rounds).items():
            said = round(predict(rows, tier, size, runtime.name), 3)
            tiers.append({"tier": tier, "size": size, "runtime": runtime.name, "predicted": said, "ms": round(ms, 3)})

    return {
        "what": "added CPU ms of an operator on one thread, fp32; made by python -m tests.bench.operators",
        "isa": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: number for runtime in runtimes for name, number in runtime.versions().items()},
        "operators": rows,
        "tiers": tiers,
    }


def show(found: Mapping[str, Any]) -> str:
    """The operators for comparison, and the tiers: predicted and measured, as text."""
    names = list(dict.fromkeys(row["runtime"] for row in found["tiers"]))
    lines = [f"{WIDTH} channels, {SIDE} x {SIDE}, added ms     " + "".join(f"{name:>9}" for name in names)]
    for kind in OTHERS:
        row = next(
            row for row in found["operators"] if (row["kind"], row["inputs"], row["side"]) == (kind, WIDTH, SIDE)
        )
        lines.append(f"{kind:<36}" + "".join(f"{row['ms'][name]:9.3f}" for name in names))
    lines.append(f"{'tier':<9}{'px':>5}{'runtime':>10}{'predicted':>11}{'measured':>10}")
    for row in found["tiers"]:
        lines.append(f"{row['tier']:<9}{row['size']:>5}{row['runtime']:>10}{row['predicted']:>11.2f}{row['ms']:>10.2f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, write the table and print its end."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.operators", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--runtimes", nargs="+", choices=("onnx", "mnn"), default=["onnx"])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)

    # Bad arguments and missing runtimes are one line.
    try:
        number("--rounds", options.rounds, 1, integer=True)
        if options.out.is_dir() or not options.out.absolute().parent.is_dir():
            raise TristyleError(f"{options.out}: cannot be a file. Choose another for -o.")
        runtimes = [_runtime(name) for name in options.runtimes]
        for runtime in runtimes:
            runtime.check()
        found = table(runtimes, SIZES, options.rounds)
        write_json(options.out, found)
    except (TristyleError, OSError) as error:
        print(f"operators: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(show(found))


def _runtime(name: str) -> Backend:
    if name == "mnn":
        from stages.export.mnn import Mnn

        return Mnn(precisions=["fp32"])
    from stages.export.onnx import Onnx

    return Onnx(precisions=["fp32"])


if __name__ == "__main__":
    main()
