"""What every stage of the chain has: a base class whose optional methods have defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.artifact import Artifact, hash_path

if TYPE_CHECKING:
    from stages.core.runtime import Runtime


class Stage(ABC):
    """A step of the chain: sealed artifacts in, one artifact out.

    A stage is a dataclass whose fields are its settings. Only `run` must be written; the other methods have defaults.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """The kinds of artifacts that `run` needs. A stage mostly writes ``reads = ("data", "style")`` instead."""
        return ()

    def files(self) -> dict[str, Path]:
        """Setting -> file or folder that it names. They must exist, and their contents enter the artifact's key."""
        return {}

    def digest(self, key: str, path: Path) -> str:
        """What of a file or folder of `files` enters the artifact's key; by default all that lies there."""
        return hash_path(path)

    def check(self) -> None:  # noqa: B027 - an optional method
        """Raise TristyleError when something that the stage needs is not installed. Called before any stage runs."""

    @abstractmethod
    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Write the artifact's files.

        Args:
            inputs: kind -> opened artifact, for every kind in `reads`.
            out: the artifact's folder. Unfinished work stays below `out/.scratch`, so that a second call resumes.
            runtime: device, workers, tracker, and the part to do.

        Returns:
            Measure -> value. Of a part: `done` and `shards`, the numbers of shards written and of all.
        """

    def join(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> None:  # noqa: B027 - as above
        """Take part in the training of `run` without writing: what all processes of a torchrun but the first do."""

    def shards(self, inputs: dict[str, Artifact]) -> int:
        """The number of shards that `part=0`, `part=1`, ... write side by side; 0: the stage has no parts."""
        return 0
