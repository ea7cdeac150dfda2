"""A translator that is small enough to be the student itself: it is taken as it is, without a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stages.core.artifact import Artifact
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.stage import Stage
from stages.core.weights import load_network
from stages.networks.face_reader import reader_file
from stages.student.stage import Finish

FILE = "translator.safetensors"


@dataclass(kw_only=True)
class AdoptedTranslator(Stage):
    """The translator of the pairs -> student.safetensors, its raw outputs on held-out photos, and scores.

    Args:
        target: name of the style among the data set's held-out twins and style pictures, for scoring only.
    """

    reads: ClassVar[tuple[str, ...]] = ("data", "pair")
    target: str

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is not a style", "Name a style of the data set, e.g. comic")

    def files(self) -> dict[str, Path]:
        """The face reader, which scores."""
        return reader_file()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Write and score; returns the artifact's metrics.

        Raises:
            TristyleError: the pairs have no translator, or one that cannot be exported; or nobody is held out.
        """
        pair, remedy = inputs["pair"], "Say student=pix2pix"
        if not (pair.path / FILE).exists():
            raise TristyleError(f"{pair.path}: these pairs have no translator. {remedy}.")
        network = load_network(pair.path / FILE, runtime.device)
        if not hasattr(network, "multiple_of"):
            kind = type(network).__name__
            raise TristyleError(f"{pair.path / FILE}: holds {kind}, which cannot be exported. {remedy}, or pair=tps.")
        metrics = Finish.of(inputs, self.target, runtime, {})(network, out)
        return metrics | {"size": pair.metrics["size"]}
