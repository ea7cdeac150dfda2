"""What the export stage asks of a runtime, and what the runtimes share. A runtime is one file of this folder.

Nothing heavy is imported here: a converter's child process starts with this module.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from stages.core.settings import ConfigError, TristyleError, choice

if TYPE_CHECKING:
    import numpy as np

PRECISIONS = ("fp32", "fp16", "int8")
STEP = 8  # height and width are multiples of this
SMALLEST, LARGEST = 32, 4096  # pixels a side


@dataclass(frozen=True)
class ConversionSource:
    """What a converter may start from; it writes to none of these files.

    Attributes:
        onnx: fp32 ONNX with dynamic height and width; input `photo`, outputs `output` and (where `alpha`) `alpha`.
        student: student.safetensors, for converters that trace the network.
        calibration: .npy, float32 [N, 3, S, S] in [-1, 1], photos of people the student was trained on.
        size: side in px the student was trained at, S.
        alpha: whether the matte is a second output.
        style: name of the style.
    """

    onnx: Path
    student: Path
    calibration: Path
    size: int
    alpha: bool = True
    style: str = ""


class Run(Protocol):
    """An opened model: float32 [1, 3, H, W] in [-1, 1] -> output (same), alpha float32 [1, 1, H, W] in [0, 1]."""

    def __call__(self, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """One picture; alpha is None where the model was made without it."""
        ...

    def times(self, photo: np.ndarray, repeats: int) -> list[tuple[float, float]]:
        """(CPU seconds, wall seconds) of each of `repeats` runs, measured in the process that runs the model.

        [] where that is not the one that counts: a browser's model, checked here by other means.
        """
        ...

    def close(self) -> None:
        """Free what the model holds; a second call does nothing."""
        ...


class Backend(Protocol):
    """Converts the student for one runtime and opens what it converted.

    Attributes:
        name: what the report calls it; also the name of the extra that brings it.
        tolerance: largest |runtime - torch| that is accepted at fp32, in units of [-1, 1].
        runs_here: False where this kind of machine can convert but not run.
        notes: sentences for the card.
        precisions: what to convert to, of PRECISIONS; the first one's measures are the artifact's.
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

    def open(self, path: Path, threads: int) -> Run:
        """Open a converted file. Raises TristyleError where it cannot run here."""
        ...


def check_precisions(precisions: Any, known: Sequence[str] = PRECISIONS) -> None:
    """Refuse an empty list, an unknown precision, or the same one twice. Raises ConfigError."""
    if not isinstance(precisions, (list, tuple)) or not precisions or len(set(precisions)) != len(precisions):
        raise ConfigError("precisions", f"{precisions!r} is no list of precisions", f"Name some of: {', '.join(known)}")
    for precision in precisions:
        choice("precisions", precision, known)


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
