"""The seam for students: what `StudentStage` asks of whatever it trains.

A student says what it learns from (`reads`) and makes its own batches of it. `stages.student.pix2pix` learns from
pairs; one that is distilled from a generator reads the style artifact instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import nn

from stages.core.artifact import Artifact
from stages.core.runtime import Runtime
from stages.core.settings import Train
from stages.training.fit import Batches, Task


@dataclass
class StudentTraining:
    """A training that is ready to start.

    Attributes:
        task: networks and losses.
        batches: what it learns from.
        size: side of the pictures it learns from, px.
        metrics: what else the artifact should say of them, e.g. how many pairs there are.
        further: what is said (`stages.core.artifact.said_of`) of pictures that it learns from beside the stage's data
            set; the model names them.
        finish: called after the training with the artifact's folder, in the first process: writes what is kept beside
            `student.safetensors` and returns further measures.
    """

    task: Task
    batches: Batches
    size: int
    metrics: dict[str, float] = field(default_factory=dict)
    further: dict[str, list[str]] = field(default_factory=dict)
    finish: Callable[[Path], dict[str, float]] = field(default=lambda out: {})


class Student(Protocol):
    """A small network and how it learns, as settings: a dataclass that a yaml file names.

    Attributes:
        reads: kinds of artifacts that it learns from. The stage reads `data` besides, whose held-out people score it,
            and shows a translator's pictures beside its own where it reads `pair`.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """See above; most students have ``reads: ClassVar[tuple[str, ...]] = ("pair",)``."""
        ...

    def files(self) -> dict[str, Path]:
        """Config key below `student` -> file that the settings name; checked, and hashed into the artifact's key."""
        ...

    def training(self, inputs: dict[str, Artifact], train: Train, runtime: Runtime) -> StudentTraining:
        """Open what it learns from and draw the networks. Every process of a torchrun calls it.

        Args:
            inputs: an artifact of each kind in `reads`.
            train: length, pace and seed.
            runtime: the machine.

        Raises:
            TristyleError: there is nothing to learn from; names the artifact and the remedy.
        """
        ...

    def network(self, task: Task) -> nn.Module:
        """What is kept of a finished training and exported: photo in, picture out, both [N, 3, H, W] in [-1, 1]."""
        ...
