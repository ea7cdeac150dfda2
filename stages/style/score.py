"""Measures of a style set: how near to the style (KID), how rich, how clear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages import io
from stages.artifact import Artifact
from stages.faces.reader import FaceReading, Reader, load_reader
from stages.metrics.clarity import clarity
from stages.metrics.kid import HeadKid
from stages.metrics.richness import coverage, intra_cluster_distance, pose_expression_bins
from stages.runtime import Runtime

MOST = 1000  # images of a set that are measured
CLUSTERS = 10  # training images that the generated ones are grouped by


def score(data: Artifact, target: str, drawn: np.ndarray, source: np.ndarray, runtime: Runtime) -> dict[str, Any]:
    """Measures sealed in the manifest.

    Args:
        data: the artifact that was trained on.
        target: ``photo`` or a style's name.
        drawn: uint8 [N, R, R, 3], the style set.
        source: uint8 [N, R, R, 3], the same latents through the source generator.

    Returns:
        kid, kid_sd (heads on grey, against the held-out real images), kid_source (of the source's images, for scale),
        coverage (of poses and expressions, relative to the source), intra (distance within clusters about training
        images), edge_energy and flat_energy ratios to the real images; reader: id of the face reader behind them.
    """
    reader = load_reader(runtime.device)
    name = "photo" if target == "photo" else f"style/{target}"
    mask_name = "mask" if target == "photo" else f"style_mask/{target}"
    real = load(data.path / "heldout" / name, runtime)
    masks = sorted((data.path / "heldout" / mask_name).glob("*.png"))[: len(real)]
    drawn, source = drawn[:MOST], source[:MOST]
    reading, source_reading = read(reader, drawn), read(reader, source)
    out: dict[str, Any] = {"reader": reader.id}
    if len(real) >= 2:
        kid = HeadKid(reader)
        coverage_of_real = io.mask_tensor(io.load_masks(masks, runtime.workers)) if masks else read(reader, real).mask
        kid.add_real(io.unit(io.to_tensor(real)), coverage_of_real)
        for label, images, mask in (("_source", source, source_reading.mask), ("", drawn, reading.mask)):
            kid.clear_fake()
            kid.add_fake(io.unit(io.to_tensor(images)), mask)
            measured = kid.compute()
            out |= {f"kid{label}": float(measured["kid"]), f"kid_sd{label}": float(measured["kid_sd"])}
    bins, base = (pose_expression_bins(r.pose, r.expression) for r in (reading, source_reading))
    out["coverage"] = coverage(bins, base)
    training = read(reader, load(data.path / name, runtime)[:CLUSTERS])
    out["intra"] = intra_cluster_distance(reading.features, training.features)
    return out | _clarity(drawn, real if len(real) else load(data.path / name, runtime))


def load(folder: Path, runtime: Runtime) -> np.ndarray:
    """The first images of a folder, uint8 [N, H, W, 3]; N = 0 where there are none."""
    paths = sorted(folder.glob("*.png"))[:MOST]
    return io.load_images(paths, runtime.workers) if paths else np.empty((0, 1, 1, 3), np.uint8)


def read(reader: Reader, images: np.ndarray) -> FaceReading:
    """What the reader says of uint8 [N, H, W, 3]."""
    with torch.no_grad():
        return reader.read(io.to_tensor(images))


def _clarity(drawn: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Medians over the generated images' own clarity, as ratios to the real ones' (two sets, no pairs)."""
    sets = [[clarity(image, image).as_dict() for image in images[:200]] for images in (drawn, real)]
    out = {}
    for key in ("edge_clarity", "flat_energy", "edge_slope", "checker"):
        own, wanted = (float(np.median([row[key] for row in rows])) for rows in sets)
        out[f"{key}_ratio"] = own / max(wanted, 1e-6)
    return out
