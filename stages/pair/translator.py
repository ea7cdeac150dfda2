"""The seam for translators: what `PairStage` asks of whatever it trains.

A translator makes its own training batches. So landmarks, crops of style pictures or whatever else it learns from
reach it without a line in the stage. `stages.pair.ugatit` is the model to follow; README.md shows the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

from stages.core.artifact import Artifact
from stages.core.mark import TRAINED
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.networks.face_reader import Reader
from stages.training.fit import Batches, Task


@dataclass
class Translation:
    """What was made of N photos, before any compositing.

    Attributes:
        raw: uint8 [N, H, W, 3].
        mask: uint8 [N, H, W], where the translator says it painted; None for one without a mask head.
        heatmap: uint8 [N, h, w], its attention, scaled to 0..255 a picture; None where there is none.
        source: IPTC's term for `raw` (`stages.core.mark`).
    """

    raw: np.ndarray
    mask: np.ndarray | None = None
    heatmap: np.ndarray | None = None
    source: str = TRAINED


Painter = Callable[[np.ndarray], Translation]  # uint8 [N, H, W, 3] photos -> Translation


@dataclass(frozen=True)
class TrainingInputs:
    """What a translator may make its batches of.

    Attributes:
        data: the data artifact; its photos have head masks.
        style: the style artifact; its pictures may have `source/` pictures beside them. None for a stage that reads
            none, whose style pictures are the data's.
        reader: the face reader on the runtime's device, for masks and landmarks that are not given.
        scratch: folder for what is computed once and read by every process; it goes when the stage is done.
        runtime: the machine.
        target: name of the style.
    """

    data: Artifact
    style: Artifact | None
    reader: Reader
    scratch: Path
    runtime: Runtime
    target: str = ""

    @property
    def style_set(self) -> Artifact:
        """The style artifact.

        Raises:
            TristyleError: the stage reads none.
        """
        if self.style is None:
            raise TristyleError("pair: this translator learns from a style set. Say pair=mask.")
        return self.style


class Translator(Protocol):
    """Networks and losses that turn photos into a style, as settings: a dataclass that a yaml file names."""

    def files(self) -> dict[str, Path]:
        """Config key below `pair` -> file that the settings name; checked, and hashed into the artifact's key."""
        ...

    def batches(self, inputs: TrainingInputs, seed: int) -> Batches:
        """The training data. Every process of a torchrun calls it.

        Args:
            inputs: where the data comes from.
            seed: of the order of the pictures.

        Raises:
            TristyleError: the pictures do not suit the networks; names the artifact and the remedy.
        """
        ...

    def task(self, size: int, train: Train, device: str) -> Task:
        """The networks and losses, newly drawn from `train.seed`.

        Args:
            size: side of the photos, px.
            train: length and pace.
            device: where it will train.
        """
        ...

    def network(self, task: Task) -> nn.Module:
        """What is kept of a training: photo in, picture out; saved as translator.safetensors.

        Its class lies in `stages.networks` or in an allowed package. Its `arguments` are the keyword arguments of its
        constructor, plain JSON types, so that it can be built again.
        """
        ...

    def painter(self, network: nn.Module, device: str) -> Painter:
        """Paints photos by the kept `network`; several threads may share it."""
        ...
