"""Stage pair: photos and a style set in, curated pairs of (photo, stylised photo) out.

Trains U-GAT-IT between the photos and the style set, paints every photo with the averaged generator, lays the head over
the photo, scores each pair and keeps the good ones. Style pictures are generated and have no masks: the face reader
gives them. A killed run goes on where it was: with the training, or, once that is done, with the shards left to write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from stages.core.artifact import SCRATCH, Artifact
from stages.core.images import load_images
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError, number
from stages.core.weights import load_network, save_network
from stages.datasets.pictures import edge_blurred
from stages.networks.face_reader import Reader, load_reader, reader_file
from stages.pair.curate import Curate
from stages.pair.photo_sets import (
    FolderPhotos,
    Joined,
    PhotoSet,
    StoredPhotos,
    load_photos,
    mask_folder,
    pictures_below,
    read_masks,
    translator_painter,
)
from stages.pair.score import measure_heldout
from stages.pair.ugatit import Translator, unpaired_batches
from stages.pair.write import Translated, Write, write_pairs
from stages.training import distributed
from stages.training.fit import fit

PHOTOS = "photos.jsonl"  # in the scratch folder: the names in pair.write.photos


@dataclass(kw_only=True)
class PairStage:
    """Photos + style data set -> curated, scored (photo, style) pairs.

    Args:
        translator: networks and losses.
        train: length and pace; images are counted in photos, each update sees as many style pictures.
        curate: which pairs are kept, and how they are composited.
        write: how they are laid down, and of which photos they are made.
        seed: of the order of the pictures.

    Raises:
        TristyleError: pictures smaller than 32 px, or photos and style pictures of different sizes.
    """

    reads: ClassVar[tuple[str, ...]] = ("data", "style")
    translator: Translator = field(default_factory=Translator)
    train: Train
    curate: Curate = field(default_factory=Curate)
    write: Write = field(default_factory=Write)
    seed: int = 0

    def __post_init__(self) -> None:
        number("seed", self.seed, 0, integer=True)

    def files(self) -> dict[str, Path]:
        """The face reader, which masks and scores, the recogniser of the training where it is another, and the
        folders of further photos and their masks, if any."""
        return reader_file() | self.translator.files() | photo_files(self.write)

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, paint, curate, measure, as far as it is not done; returns the artifact's metrics.

        Of a part (`runtime.part`): how many shards are done, and how many there are.

        Raises TristyleError: no photos, pictures of unlike or too small sizes, no pair within the limits, or a shard
        that is asked for before the training is done.
        """
        data, style = inputs["data"], inputs["style"]
        reader = load_reader(runtime.device)
        generator = self._trained(data, style, reader, out, runtime)
        painter = translator_painter(generator, runtime.device)
        photos = all_photos(data, self.write, out, reader, runtime)
        metrics = write_pairs(Translated(photos, painter), out, self.curate, self.write, reader, runtime)
        if runtime.part is not None:
            return metrics
        metrics |= measure_heldout(data, _style_name(style), painter, reader, out, runtime)
        return metrics | {"reader": reader.id, "size": StoredPhotos(data, "train", "photo", "mask").size}

    def join(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> None:
        """The training alone, which writes nothing: for all processes of a torchrun but the first."""
        if not distributed.first(0):  # the first one knows whether there is a translator yet
            self._train(inputs["data"], inputs["style"], load_reader(runtime.device), out, runtime)

    def shards(self, inputs: dict[str, Artifact]) -> int:
        """How many shards there are to write: `part=range(0,N)` launches them all."""
        count = len(StoredPhotos(inputs["data"], "train", "photo", "mask").ids)
        folder = [] if self.write.photos is None else pictures_below(Path(self.write.photos))
        return self.write.shards(count + len(folder))

    def _trained(self, data: Artifact, style: Artifact, reader: Reader, out: Path, runtime: Runtime) -> nn.Module:
        """The translator of this place, trained unless it is there. Always read from its file: every process that
        writes shards works with the same bits, in the same layout."""
        file = out / "translator.safetensors"
        if not distributed.first(int(file.exists())):
            if runtime.part not in (None, "train"):
                raise TristyleError(f"{out}: has no translator yet. Run with part=train first.")
            save_network(file, self._train(data, style, reader, out, runtime))
        return load_network(file, runtime.device)

    def _train(self, data: Artifact, style: Artifact, reader: Reader, out: Path, runtime: Runtime) -> nn.Module:
        photos = load_photos(data, "train", "photo", "mask", runtime.workers)
        images = load_images(_style_paths(style), runtime.workers)
        _check_sizes(photos.images, images, style.path)
        masks = read_masks(reader, images, runtime.device)
        source = _source_images(style, runtime.workers) if self.translator.weights.latent else None
        blurred = edge_blurred(images) if self.translator.weights.edge_promotion else None
        task = self.translator.task(photos.images.shape[1], self.train, runtime.device)
        batches = unpaired_batches(photos.images, photos.masks, images, masks, self.seed, source, blurred)
        fit(task, batches, train=self.train, scratch=out / SCRATCH, runtime=runtime, label="pair")
        return task.ema.eval()


def photo_files(write: Write) -> dict[str, Path]:
    """The folders that `write` names, as entries of a stage's `files()`."""
    if write.photos is None:
        return {}
    masks = mask_folder(Path(write.photos))
    return {"write.photos": Path(write.photos)} | ({"write.masks": masks} if masks else {})


def all_photos(data: Artifact, write: Write, out: Path, reader: Reader, runtime: Runtime) -> PhotoSet:
    """The photos that pairs are made of: the data set's for training, then those of `write.photos`."""
    stored = StoredPhotos(data, "train", "photo", "mask")
    if write.photos is None:
        return stored
    index = out / SCRATCH / PHOTOS
    return Joined([stored, FolderPhotos(Path(write.photos), index, stored.size, reader, runtime.device)])


def _style_paths(style: Artifact) -> list[Path]:
    return [style.path / record["image"] for record in style.records()]


def _source_images(style: Artifact, workers: int) -> np.ndarray | None:
    """The style pictures' faces before the transfer, uint8 [N, H, W, 3]; None for a style set that has none."""
    paths = [style.path / "source" / Path(record["image"]).name for record in style.records()]
    return load_images(paths, workers) if all(path.exists() for path in paths) else None


def _style_name(style: Artifact) -> str:
    return str(style.records()[0].get("style") or "")


def _check_sizes(photos: np.ndarray, style: np.ndarray, path: Path) -> None:
    size = photos.shape[1]
    if photos.shape[1] != photos.shape[2] or size < 32 or size % 4:
        problem = f"{photos.shape[2]}x{size} px photos do not fit U-GAT-IT"
        raise ConfigError("data.size", problem, "Use squares of 32 px or more")
    if style.shape[1:] != photos.shape[1:]:
        sizes = f"style pictures of {style.shape[1]} px and photos of {size} px"
        raise TristyleError(f"{path}: {sizes} do not go together. Run stage=style on this data.")
