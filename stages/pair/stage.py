"""Stage pair: photos and a style set in, curated pairs of (photo, stylised photo) out.

It trains a translator between the photos and the style set, paints every photo with it, composites the head onto the
photo, scores each pair and keeps the good ones. A killed run continues where it was: with the training or, once that is
done, with the shards left to write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from stages.core.artifact import SCRATCH, Artifact, provenance
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError, check_methods, number
from stages.core.stage import Stage
from stages.core.weights import check_savable, load_network, save_network
from stages.networks.face_reader import Reader, load_reader, reader_file
from stages.pair.curate import Curate
from stages.pair.inputs import (
    Translated,
    all_photos,
    check_photos,
    photo_count,
    photo_digest,
    photo_files,
    stored_photos,
    style_name,
)
from stages.pair.score import measure_heldout
from stages.pair.translator import TrainingInputs, Translator
from stages.pair.write import Write, write_pairs
from stages.training import distributed
from stages.training.fit import fit


@dataclass(kw_only=True)
class PairStage(Stage):
    """Photos + style data set -> curated, scored (photo, style) pairs.

    Args:
        translator: networks and losses.
        train: length and pace; images are counted in photos, each update sees as many style pictures.
        curate: which pairs are kept, and how they are composited.
        write: how they are laid down, and of which photos they are made.
        seed: of the order of the pictures.
    """

    reads: ClassVar[tuple[str, ...]] = ("data", "style")
    translator: Translator
    train: Train
    curate: Curate = field(default_factory=Curate)
    write: Write = field(default_factory=Write)
    seed: int = 0

    def __post_init__(self) -> None:
        number("seed", self.seed, 0, integer=True)
        check_methods("translator", self.translator, Translator)

    def files(self) -> dict[str, Path]:
        """The face reader, the translator's own files, and the folders of further photos and their masks."""
        return reader_file() | self.translator.files() | photo_files(self.write.photos)

    def digest(self, key: str, path: Path) -> str:
        """Of further photos only the pictures count."""
        return photo_digest(key, path)

    def check(self) -> None:
        """Refuse a `sources.csv` above the further photos that cannot be obeyed."""
        check_photos(self.write.photos)

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, paint, curate and measure, as far as it is not done.

        Returns:
            The artifact's metrics; of a part (`runtime.part`), how many shards are done and how many there are.

        Raises:
            TristyleError: no photos, pictures that do not suit the translator, no pair within the limits, or a shard
                that is asked for before the training is done.
        """
        data, reader = inputs["data"], load_reader(runtime.device)
        network = self._trained(inputs, reader, out, runtime)
        painter = self.translator.painter(network, runtime.device)

        photos = all_photos(data, self.write.photos, out, reader, runtime)
        metrics = write_pairs(Translated(photos, painter), out, self.curate, self.write, reader, runtime)
        if runtime.part is not None:
            return metrics
        metrics |= measure_heldout(data, self.style(inputs), painter, reader, out, runtime)
        return metrics | {"reader": reader.id, "size": stored_photos(data).size}

    def join(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> None:
        """The training alone, which writes nothing: for all processes of a torchrun but the first."""
        if not distributed.first(0):  # the first one knows whether there is a translator yet
            self._train(inputs, load_reader(runtime.device), out, runtime)

    def shards(self, inputs: dict[str, Artifact]) -> int:
        """How many shards there are to write: `part=range(0,N)` launches them all."""
        return self.write.shards(photo_count(inputs["data"], self.write.photos))

    def style(self, inputs: dict[str, Artifact]) -> str:
        """Name of the style that the pairs are in."""
        return style_name(inputs["style"])

    def training_inputs(
        self, inputs: dict[str, Artifact], reader: Reader, out: Path, runtime: Runtime
    ) -> TrainingInputs:
        """What the translator may make its batches of."""
        return TrainingInputs(inputs["data"], inputs.get("style"), reader, out / SCRATCH, runtime, self.style(inputs))

    def _trained(self, inputs: dict[str, Artifact], reader: Reader, out: Path, runtime: Runtime) -> nn.Module:
        """The translator of this artifact, trained unless it is there.

        It is always read from its file, so that every process that writes shards works with the same bits.
        """
        file = out / "translator.safetensors"
        if not distributed.first(int(file.exists())):
            if runtime.part not in (None, "train"):
                raise TristyleError(f"{out}: has no translator yet. Run with part=train first.")
            trained = self._train(inputs, reader, out, runtime)
            save_network(file, trained, notes=provenance(inputs["data"]))
        return load_network(file, runtime.device)

    def _train(self, inputs: dict[str, Artifact], reader: Reader, out: Path, runtime: Runtime) -> nn.Module:
        given = self.training_inputs(inputs, reader, out, runtime)
        batches = self.translator.batches(given, self.seed)
        task = self.translator.task(stored_photos(given.data).size, self.train, runtime.device)
        check_savable(self.translator.network(task), "pair.translator")
        fit(task, batches, train=self.train, scratch=given.scratch, runtime=runtime, label="pair")
        return self.translator.network(task)
