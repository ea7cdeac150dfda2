"""What the export asks of a network and of a runtime, and what the runtimes share.

A runtime is one file of this folder. Nothing heavy is imported here: a converter's child process starts with this
module.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from stages.core.settings import ConfigError, TristyleError, choice
from stages.core.tensors import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

BACKENDS = ("onnx", "mnn", "ncnn", "litert", "coreml", "web")  # in the order of every table
PRECISIONS = ("fp32", "fp16", "int8")  # likewise
STEP = 8  # px: a picture's sides are multiples of this unless a network asks for more
SMALLEST, LARGEST = 32, 4096  # px a side


# ---------------------------------------------------------------------------------------------------------- networks


@runtime_checkable
class Exportable(Protocol):
    """A network that can be exported: it names its inputs and outputs. `nn.Module`s implement it by these attributes.

    Attributes:
        arguments: keyword arguments of its constructor, as plain JSON types.
        multiple_of: height and width of its pictures are multiples of this, in px.
        inputs: what it takes, in order. Pictures of one call share their height and width.
        outputs: what it gives, in order. The first one is what its clarity is measured on.

    A network that takes and gives pictures of one size only has a further attribute `side`, in px.
    """

    arguments: dict[str, Any]
    multiple_of: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """All outputs for these inputs, float32 and in the order of `outputs`."""
        ...


@dataclass(frozen=True)
class Signature:
    """What goes into an exported file and what comes out.

    Attributes:
        inputs: in order.
        outputs: in order; the first ones of the network's.
        multiple_of: px, see `Exportable`.
        side: the only side in px of its pictures; None where height and width are free.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    multiple_of: int = STEP
    side: int | None = None

    @classmethod
    def of(cls, network: Exportable, alpha: bool = True) -> Signature:
        """The signature of a network's file, without the output named `alpha` where `alpha` is False."""
        outputs = tuple(output for output in network.outputs if alpha or output.name != "alpha")
        return cls(network.inputs, outputs, network.multiple_of, getattr(network, "side", None))

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in order."""
        return [spec.name for spec in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return [spec.name for spec in self.outputs]

    def shapes(self, height: int, width: int) -> list[tuple[int, ...]]:
        """Shape of each input for pictures of height x width px, or of the only side."""
        if self.side is not None:
            height = width = self.side
        return [spec.shape(height, width) for spec in self.inputs]

    @property
    def paints_a_photo(self) -> bool:
        """Whether the only input is a picture in [-1, 1] and the first output is another: what `stylize` can run."""
        pictures = (*self.inputs, *self.outputs[:1])
        return len(self.inputs) == 1 and all(
            spec.spatial and (spec.channels, spec.low, spec.high) == (3, -1.0, 1.0) for spec in pictures
        )


def check_exportable(network: Any, place: Path | str) -> Exportable:
    """The network itself, where it can be exported.

    Args:
        network: any module.
        place: the file or folder that holds it, for the message.

    Raises:
        TristyleError: it lacks an attribute of `Exportable`.
    """
    if isinstance(network, Exportable):
        return network
    wanted = ("arguments", "multiple_of", "inputs", "outputs", "compute")
    missing = ", ".join(name for name in wanted if not hasattr(network, name))
    raise TristyleError(
        f"{place}: holds {type(network).__name__}, which cannot be exported: it lacks {missing}. "
        "Add what stages/export/contract.py asks of an Exportable."
    )


# ---------------------------------------------------------------------------------------------------------- runtimes


@dataclass(frozen=True)
class ConversionSource:
    """What a converter may start from; it writes to none of these files.

    Attributes:
        onnx: fp32 ONNX with dynamic height and width, inputs and outputs as `signature` names them.
        network: the weights as safetensors, for converters that trace the network.
        calibration: .npz, for each input float32 [N, ...] by its name: pictures of the training people.
        size: side in px the network was trained at, S.
        signature: inputs and outputs of the file.
        style: name of the style.
        faces: ONNX file of the generator alone, which draws faces from scratch; None where the student has none.
        notes: metadata of the file, where its format has some.
    """

    onnx: Path
    network: Path
    calibration: Path
    size: int
    signature: Signature
    style: str = ""
    faces: Path | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain types, which `from_json` reads in another process."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ConversionSource:
        """The source that `as_json` wrote."""
        paths = {name: Path(values[name]) for name in ("onnx", "network", "calibration")}
        paths |= {"faces": Path(values["faces"])} if values["faces"] else {}
        return cls(**{**values, **paths, "signature": signature_from_json(values["signature"])})


def signature_from_json(values: Mapping[str, Any]) -> Signature:
    """The signature that `dataclasses.asdict` made plain."""
    inputs, outputs = (tuple(TensorSpec(**spec) for spec in values[name]) for name in ("inputs", "outputs"))
    return Signature(inputs, outputs, values["multiple_of"], values["side"])


class Run(Protocol):
    """An opened model. Arrays are float32; inputs and outputs have the order of the file's `Signature`."""

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """All outputs for one set of inputs, each with a batch dimension of 1."""
        ...

    def times(self, inputs: Sequence[np.ndarray], repeats: int) -> list[tuple[float, float]]:
        """(CPU seconds, wall seconds) of each of `repeats` runs, measured in the process that runs the model.

        Empty where this machine's time does not count: a browser's model is checked here and timed there.
        """
        ...

    def close(self) -> None:
        """Free what the model holds. A second call does nothing."""
        ...


class Backend(Protocol):
    """Converts a network for one runtime and opens what it converted.

    Attributes:
        name: what the report calls it, one of BACKENDS; also the name of the extra that brings it.
        tolerance: largest |runtime - torch| that is accepted at fp32, in units of the outputs.
        runs_here: False where this kind of machine can convert but not run.
        notes: sentences for the card.
        precisions: what to convert to, of PRECISIONS. The first one's measures are the artifact's.
        side: the only side in px that a converted file takes; None where height and width are dynamic.
    """

    name: ClassVar[str]
    tolerance: ClassVar[float]
    runs_here: ClassVar[bool]
    notes: ClassVar[tuple[str, ...]]
    precisions: list[str]

    @property
    def side(self) -> int | None:
        """The only side in px that a converted file takes; None where height and width are dynamic."""
        ...

    def check(self) -> None:
        """Raises TristyleError that names the extra to install, before any work."""
        ...

    def versions(self) -> dict[str, str]:
        """Distribution -> version, of what makes and runs the files. Raises as `check` does."""
        ...

    def convert(self, source: ConversionSource, precision: str, out: Path) -> Path:
        """Write `student.<precision>.<suffix>` (a file or a folder) into `out` and return its path."""
        ...

    def open(self, path: Path, signature: Signature, threads: int) -> Run:
        """Open a converted file. Raises TristyleError where it cannot run here."""
        ...


def check_precisions(precisions: Any, known: Sequence[str] = PRECISIONS) -> None:
    """Refuse an empty list, an unknown precision, or the same one twice. Raises ConfigError."""
    if not isinstance(precisions, (list, tuple)) or not precisions or len(set(precisions)) != len(precisions):
        raise ConfigError(
            "precisions", f"{precisions!r} is not a list of precisions", f"Name some of: {', '.join(known)}"
        )
    for precision in precisions:
        choice("precisions", precision, known)


def check_takes_a_photo(signature: Signature, what: str, remedy: str) -> None:
    """Refuse a network that does not turn one photo into a picture, for what can handle nothing else.

    Args:
        signature: the network's.
        what: who refuses, the start of the message.
        remedy: its end.

    Raises:
        TristyleError: the network has other inputs, or its first output is not a picture.
    """
    if not signature.paints_a_photo:
        inputs = ", ".join(signature.input_names)
        raise TristyleError(f"{what}: takes a network of one photo only, and this one takes {inputs}. {remedy}")


def require(module: str, extra: str) -> Any:
    """Import a module of an optional extra. Raises TristyleError that names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise TristyleError(
            f"export: {module} cannot be imported ({reason}). Run: pip install 'tristyle[{extra}]'"
        ) from None


def timed(call: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """(CPU seconds of this process, wall seconds) of each of `repeats` calls."""
    found = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    return found
