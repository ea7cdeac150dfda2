"""Two ways to a style set held side by side: latents of seeds, and latents of inverted photos.

Seeds cost nothing but bring what the generator likes to draw; inverted photos bring the photos' own poses, cost their
inversion, and lose the background, which the latents hardly carry. `compare` puts numbers to that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from stages.core.files import write_json
from stages.core.settings import TristyleError
from stages.core.tensors import to_uint8
from stages.metrics.richness import effective_bins, pose_expression_bins
from stages.networks.face_reader import SIZE, Reader
from stages.networks.stylegan2 import Generator
from stages.style.sampling.candidates import Candidates, Painter, Sampling
from stages.style.sampling.filters import References, judge, observation, shrink, view

BACKGROUND = 0.02  # head coverage below which a pixel is background
SEEN = 0.02  # share of the picture from which there is a background at all
LAB_STEP = 20.0  # side of the colour bins in CIE Lab
CELLS = 8  # a side, of the thumbnails whose spread is measured


def compare(
    generator: Generator,
    ways: Mapping[str, Candidates],
    sampling: Sampling,
    references: References,
    reader: Reader,
    *,
    count: int = 256,
    spent: Mapping[str, float] | None = None,
    out: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Draw the same number of candidates each way and measure what comes of them.

    Args:
        generator: the fused generator.
        ways: name -> candidates (`sample.Seeds`, `sample.Inverted`).
        sampling: truncation, filters and attributes, the same for all; its distribution is not steered at.
        references: what candidates are held against (`References.read`).
        count: candidates of each way, or as many as the scarcest has; variety is comparable for one number only.
        spent: name -> CPU seconds that its latents had cost before (the inversion of the photos used).
        out: folder for `sampling.json`.

    Returns:
        name -> candidates; accepted (share that the filters pass); cpu_seconds (reading and drawing, and what was spent
        before); useful_per_cpu_second (accepted pictures); pose_bins (effective number of pose and expression bins);
        background_clusters (effective number of colours behind the head) and background_spread (CIE Lab deviation of
        a place behind the head over the set).
    """
    count = int(min([count, *(way.most for way in ways.values())]))
    if count < 1:
        raise TristyleError("comparing: no candidates. Give a count of at least 1 and a photo at least.")
    table = {}
    for name, way in ways.items():
        begun = time.process_time()
        paint = Painter(generator, way, sampling)
        parts: list[tuple[Tensor, dict[str, Tensor]]] = []
        for start in range(0, count, paint.batch):
            small = shrink(paint(range(start, min(start + paint.batch, count))))
            reading = view(reader, small)
            seen = observation(reading, small, sampling.distribution.over, references)
            seen |= {"mask": reading.mask, "pose": reading.pose, "expression": reading.expression}
            parts.append((small, seen))
        seen = {key: torch.cat([part[key] for _, part in parts]) for key in parts[0][1]}
        reasons, _ = judge(seen, sampling.reject, references)
        seconds = time.process_time() - begun + (spent or {}).get(name, 0.0)
        good = torch.from_numpy(np.flatnonzero(np.asarray(reasons) == ""))
        images = to_uint8(torch.cat([small for small, _ in parts])[good])
        clusters, spread = background_variety(images, seen["mask"][good, 0].numpy())
        bins = pose_expression_bins(seen["pose"][good], seen["expression"][good])
        table[name] = {
            "candidates": float(count),
            "accepted": len(good) / count,
            "cpu_seconds": seconds,
            "useful_per_cpu_second": len(good) / seconds,
            "pose_bins": effective_bins(bins) if len(good) else 0.0,
            "background_clusters": clusters,
            "background_spread": spread,
        }
    if out is not None:
        rounded = {name: {key: round(value, 4) for key, value in row.items()} for name, row in table.items()}
        write_json(out / "sampling.json", rounded)
    return table


def background_variety(images: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """How much the backgrounds of a set differ.

    Args:
        images: uint8 [N, 64, 64, 3].
        mask: [N, 64, 64] head coverage in [0, 1].

    Returns:
        the effective number of colours (the mean background colour of each picture, in Lab bins 20 wide; the
        exponential of their entropy), and the spread: the root mean square deviation over the set of the Lab colour of
        an eighth-by-eighth cell, where it is background. (0, 0) when no picture shows any background.
    """
    behind = (mask < BACKGROUND).astype(np.float32)
    shown = behind.mean(axis=(1, 2)) >= SEEN
    if not shown.any():
        return 0.0, 0.0
    behind = behind[shown]
    lab = np.stack([cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for image in images[shown]])
    side = SIZE // CELLS
    weight, colour = (
        x.reshape(len(x), CELLS, side, CELLS, side, -1).sum(axis=(2, 4)) for x in (behind, lab * behind[..., None])
    )  # [n, 8, 8, 1], [n, 8, 8, 3]
    mean = colour.sum(axis=(1, 2)) / weight.sum(axis=(1, 2))
    _, bins = np.unique(np.floor(mean / LAB_STEP), axis=0, return_inverse=True)
    cells = colour / np.maximum(weight, 1e-6)
    whole = np.maximum(weight.sum(axis=0), 1e-6)
    middle = (weight * cells).sum(axis=0) / whole
    variance = (weight * (cells - middle) ** 2).sum(axis=0) / whole  # [8, 8, 3]
    spread = float(np.sqrt((variance.sum(axis=-1) * whole[..., 0]).sum() / whole.sum()))
    return effective_bins(torch.from_numpy(bins.reshape(-1))), spread
