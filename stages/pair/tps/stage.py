"""Pairs by alignment: photographs and some dozen pictures of a style become curated pairs, without a style stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from stages.core.artifact import Artifact
from stages.core.images import grid, write_image
from stages.core.mark import TRAINED
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError
from stages.core.tensors import to_uint8
from stages.core.weights import load_network
from stages.networks.aligned import painted
from stages.networks.face_reader import load_reader
from stages.pair.stage import PairStage
from stages.pair.tps.batches import aligned_batches
from stages.pair.tps.landmarks import write_left_out
from stages.pair.tps.task import Layout
from stages.pair.tps.translator import TpsTranslator
from stages.training import distributed

SHOWN, SIDE = 6, 128  # portraits on the sheet; px of a picture there, at least
SHEET = "alignment.png"


@dataclass(kw_only=True)
class AlignedPairs(PairStage):
    """Photos and pictures of a style -> curated, scored pairs, by a translator that aligns the two.

    Args:
        target: name of the style.
    """

    reads: ClassVar[tuple[str, ...]] = ("data",)
    translator: TpsTranslator
    target: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is not a style", "Name a folder below style/")

    def style(self, inputs: dict[str, Artifact]) -> str:
        """The style's name."""
        return self.target

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """As every pair stage; with alignment it also lists the pictures left out and draws how some were aligned.

        Returns:
            The artifact's metrics: with alignment also how many pictures of each kind were trained on and left out,
            and who read their landmarks.

        Raises:
            TristyleError: as `PairStage.run`, or too few pictures show a face.
        """
        metrics = super().run(inputs, out, runtime)
        if runtime.part is not None or not self.translator.align:
            return metrics

        with distributed.alone():  # the landmarks are read by now
            given = self.training_inputs(inputs, load_reader(runtime.device), out, runtime)
            sets = self.translator.faces(given)
        write_left_out(out, sets)
        network = load_network(out / "translator.safetensors", runtime.device)
        photos, styles = self.translator.sets(given, *sets.values())
        count = min(SHOWN, len(photos.points))
        batch = aligned_batches(photos, styles, self.seed, self.translator.most_folded, 0)(0, count)
        write_image(out / SHEET, alignment_sheet(network, batch, runtime.device), TRAINED)

        for kind, found in sets.items():
            metrics |= {f"{kind}s_aligned": len(found.rows), f"{kind}s_left_out": len(found.left_out)}
            metrics[f"{kind}_landmarks"] = found.source
        return metrics


@torch.no_grad()
def alignment_sheet(network: torch.nn.Module, batch: dict[str, torch.Tensor], device: str) -> np.ndarray:
    """Rows of portrait, style picture, style picture warped to it, aligned result and result, landmarks drawn.

    Args:
        network: the photo -> style generator.
        batch: as `aligned_batches` gives it.
        device: where the network is.

    Returns:
        uint8 [H, W, 3], a portrait a column.
    """
    batch = {name: value.to(device) for name, value in batch.items()}
    size = batch["photo"].shape[-1]

    features = network.encode(batch["photo"])  # type: ignore[operator]
    to_style, to_photo = Layout(batch["to_style"], size), Layout(batch["to_photo"], size)

    rows = [
        _marked(batch["photo"], batch["photo_points"]),
        _marked(batch["style"], batch["style_points"]),
        _marked(to_photo(batch["style"]), batch["photo_points"]),
        _marked(painted(network, batch["photo"], features, to_style).image, batch["style_points"]),  # type: ignore[arg-type]
        to_uint8(painted(network, batch["photo"], features).image),  # type: ignore[arg-type]
    ]
    large = [_enlarged(row) if row.shape[1] == size else row for row in rows]
    return grid(np.concatenate(large), columns=len(batch["photo"]))


def _enlarged(images: np.ndarray) -> np.ndarray:
    """Pictures at SIDE px or more."""
    factor = max(1, SIDE // images.shape[1])
    return images.repeat(factor, 1).repeat(factor, 2)


def _marked(pictures: torch.Tensor, points: torch.Tensor) -> np.ndarray:
    """Pictures [N, 3, H, W] in [-1, 1] with their landmarks [N, 68, 2] in shares drawn, enlarged."""
    images = np.ascontiguousarray(_enlarged(to_uint8(pictures)))
    side = images.shape[1]
    for image, face in zip(images, points.cpu().numpy(), strict=True):
        for x, y in face * side - 0.5:
            cv2.circle(image, (round(float(x)), round(float(y))), 1, (255, 0, 160), -1)
    return images
