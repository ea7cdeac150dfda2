"""Stage pair: photos and a style set in, curated pairs of (photo, stylised photo) out.

Trains U-GAT-IT between the photos and the style set, paints every photo with the averaged generator, lays the head over
the photo, scores each pair and keeps the good ones. Style pictures are generated and have no masks: the face reader
gives them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from stages.artifact import SCRATCH, Artifact
from stages.config import ConfigError, Train, TristyleError, number
from stages.engine import fit
from stages.faces.reader import load_reader, reader_file
from stages.io import load_images, save_network
from stages.pair.curate import Curate
from stages.pair.photos import Photos, load_photos, read_masks, translator_painter
from stages.pair.score import measure_heldout
from stages.pair.ugatit import Translator, unpaired_batches
from stages.pair.write import Translated, Write, write_pairs
from stages.runtime import Runtime


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
        """The face reader, which masks the style pictures and scores the pairs."""
        return reader_file()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, paint, curate, measure; returns the artifact's metrics.

        Raises TristyleError: no photos, pictures of unlike or too small sizes, or no pair within the limits.
        """
        data, style = inputs["data"], inputs["style"]
        reader = load_reader(runtime.device)
        photos = load_photos(data, "train", "photo", "mask", runtime.workers)
        style_images = load_images(_style_paths(style), runtime.workers)
        _check_sizes(photos.images, style_images, style.path)
        style_masks = read_masks(reader, style_images, runtime.device)
        source = _source_images(style, runtime.workers) if self.translator.weights.latent else None
        generator = self._train(photos, style_images, style_masks, source, out, runtime)
        save_network(out / "translator.safetensors", generator)
        painter = translator_painter(generator, runtime.device)
        candidates = Translated(photos, painter)
        metrics: dict[str, Any] = write_pairs(candidates, out, self.curate, self.write, reader, runtime)
        metrics |= measure_heldout(data, _style_name(style), painter, reader, out, runtime)
        return metrics | {"reader": reader.id, "size": photos.images.shape[1]}

    def _train(
        self,
        photos: Photos,
        style: np.ndarray,
        masks: np.ndarray,
        source: np.ndarray | None,
        out: Path,
        runtime: Runtime,
    ) -> nn.Module:
        task = self.translator.task(photos.images.shape[1], self.train)
        batches = unpaired_batches(photos.images, photos.masks, style, masks, self.seed, source)
        fit(task, batches, train=self.train, scratch=out / SCRATCH, runtime=runtime, label="pair")
        return task.ema.eval()


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
