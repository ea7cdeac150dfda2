"""Pairs of a photograph and its true twin: the supervised upper bound, which needs neither style set nor translator.

`data=rendered data.twins=all` renders the same person in the style, in the same pose and light. A student of such pairs
shows what the network and its training can reach when nothing is lost on the way. It is not a result of the pipeline:
for a style that exists as pictures only, nobody has twins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.core.artifact import Artifact
from stages.core.images import read_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.stage import Stage
from stages.networks.face_reader import reader_file
from stages.pair.curate import Curate
from stages.pair.given import Couple, write_couples
from stages.pair.inputs import refuse_photos
from stages.pair.write import Write


@dataclass(kw_only=True)
class TwinPairs(Stage):
    """Photos and their true twins out of the data artifact -> scored (photo, style) pairs: a supervised upper bound.

    The mask of a pair is where its twin is painted: head and neck of both pictures, down to where the clothes begin.

    Args:
        target: name of the style whose twins are taken.
        curate: which pairs are kept, and how they are composited; by default all of them, as they are.
        write: how they are stored.

    Raises:
        ConfigError: the target is not a name, or `write` names a folder of further photos, which have no twins.
    """

    reads: ClassVar[tuple[str, ...]] = ("data",)
    target: str
    curate: Curate = field(default_factory=lambda: Curate(grow=0.03, feather=0.0))
    write: Write = field(default_factory=Write)

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is not a style", "Name one of the data set's styles")
        refuse_photos(self.write.photos, "twins are of the data's photos")

    def files(self) -> dict[str, Path]:
        """The face reader, which scores the pairs."""
        return reader_file()

    def shards(self, inputs: dict[str, Artifact]) -> int:
        """How many shards there are to write: `part=range(0,N)` launches them all."""
        return self.write.shards(sum(pair.split == "train" for pair in twin_couples(inputs["data"], self.target)))

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Score and write the training people's twins; the held-out ones go to `heldout/` and are measured.

        Returns:
            The artifact's metrics; of a part (`runtime.part`), how many shards are done and how many there are.

        Raises:
            TristyleError: the data set has no twins of training people, or no pair passes the limits.
        """
        pairs = twin_couples(inputs["data"], self.target)
        return write_couples(inputs["data"], pairs, out, self.curate, self.write, runtime)


def twin_couples(data: Artifact, target: str) -> list[Couple]:
    """Photos with their twins in style `target`, by split and id; some of them are of training people.

    Raises:
        TristyleError: no training person has a twin in that style; names the remedy.
    """
    rows = [row for row in data.records() if row.get("twins")]
    if not rows:
        raise TristyleError(
            f"{data.path}: holds no twins of training people. Say data=rendered data.twins=all, or choose another pair."
        )
    first = {row["split"]: data.path / row["photo"] for row in reversed(rows)}
    eyes = {split: _eyes(photo) for split, photo in first.items()}
    found = [
        Couple(
            row["id"],
            row["split"],
            row["photo"],
            twin["mask"],
            twin["photo"],
            twin["cover"],
            eyes[row["split"]][int(row["id"])],
        )
        for row in rows
        if (twin := row["twins"].get(target))
    ]
    if any(pair.split == "train" for pair in found):
        return sorted(found, key=lambda pair: (pair.split, pair.id))

    others = sorted({name for row in rows if row["split"] == "train" for name in row["twins"]})
    raise TristyleError(f"{data.path}: no twins in the style {target}. Say style.target={'|'.join(others)}.")


def _eyes(photo: Path) -> list[list[list[float]]]:
    """Both eyes of the photos of a photo's split, [N, 2, 2] as shares of the width, from the landmarks (iBUG order)."""
    size = read_image(photo).shape[1]
    with np.load(photo.parent.parent / "landmarks.npz") as stored:
        points = stored["photo"]
    both = np.stack([points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1)], axis=1)
    found: list[list[list[float]]] = ((both + 0.5) / size).round(4).tolist()
    return found
