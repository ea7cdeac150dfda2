"""Measures of a style set: how near to the style (KID), how rich, how clear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core.artifact import Artifact
from stages.core.images import load_images, load_masks
from stages.core.runtime import Runtime
from stages.core.tensors import mask_tensor, to_tensor, unit
from stages.metrics.broken import FEWEST, QualityGate
from stages.metrics.clarity import clarity
from stages.metrics.kid import HeadKid
from stages.metrics.memorisation import memorised
from stages.metrics.richness import intra_cluster_distance, precision_recall, richness
from stages.networks.face_reader import FaceReading, Reader, load_reader
from stages.style.fusion.sweep import together

MOST = 1000  # images of a set that are measured
CLUSTERS = 10  # training images that the generated ones are grouped by, where there are so many
NEIGHBOURS = 3  # of precision and recall


def score(data: Artifact, target: str, drawn: np.ndarray, source: np.ndarray, runtime: Runtime) -> dict[str, Any]:
    """Measures sealed in the manifest.

    Args:
        data: the artifact that was trained on.
        target: ``photo`` or a style's name.
        drawn: uint8 [N, R, R, 3], the style set.
        source: uint8 [N, R, R, 3], the same latents through the source generator.

    Returns:
        kid, kid_sd (heads on grey, against the held-out real images), kid_source (of the source's images, for scale),
        coverage, attribute_coverage, filled_share, pose_ and expression_correspondence (see `richness`; relative to
        the source), broken_share, precision, recall, memorised_share, intra (distance within clusters about training
        images), clarity ratios to the real images; reader: id of the face reader behind them. What needs held-out
        images is left out where there are too few.
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
        coverage_of_real = mask_tensor(load_masks(masks, runtime.workers)) if masks else read(reader, real).mask
        kid.add_real(unit(to_tensor(real)), coverage_of_real)
        for label, images, mask in (("_source", source, source_reading.mask), ("", drawn, reading.mask)):
            kid.clear_fake()
            kid.add_fake(unit(to_tensor(images)), mask)
            measured = kid.compute()
            out |= {f"kid{label}": float(measured["kid"]), f"kid_sd{label}": float(measured["kid_sd"])}
    held = read(reader, real) if len(real) else None
    # What lies half-way between photo and style is not broken: the gate spans both, as in a sweep.
    gate = None if held is None or len(real) < FEWEST else QualityGate.fit(reader, together(held, source_reading))
    broken = None if gate is None else gate.broken(reading)
    out |= richness(reading, source_reading, broken=broken)
    if broken is not None:
        out["broken_share"] = float(broken.double().mean())
    if held is not None and min(len(real), len(drawn)) > NEIGHBOURS:
        out["precision"], out["recall"] = precision_recall(held.features, reading.features, NEIGHBOURS)
    training_images = load(data.path / name, runtime)
    training = read(reader, training_images)
    # Truncation draws features together and nothing is copied; a copy is near in features and in identity.
    copies = [memorised(getattr(reading, key), getattr(training, key)) for key in ("features", "identity")]
    out["memorised_share"] = float((copies[0] & copies[1]).double().mean())
    out["intra"] = intra_cluster_distance(reading.features, training.features[:CLUSTERS])
    return out | _clarity(drawn, real if len(real) else training_images)


def load(folder: Path, runtime: Runtime) -> np.ndarray:
    """The first images of a folder, uint8 [N, H, W, 3]; N = 0 where there are none."""
    paths = sorted(folder.glob("*.png"))[:MOST]
    return load_images(paths, runtime.workers) if paths else np.empty((0, 1, 1, 3), np.uint8)


def read(reader: Reader, images: np.ndarray) -> FaceReading:
    """What the reader says of uint8 [N, H, W, 3]."""
    with torch.no_grad():
        return reader.read(to_tensor(images))


def _clarity(drawn: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Medians over the generated images' own clarity, as ratios to the real ones' (two sets, no pairs)."""
    sets = [[clarity(image, image).as_dict() for image in images[:200]] for images in (drawn, real)]
    out = {}
    for key in ("edge_clarity", "flat_energy", "edge_slope", "checker"):
        own, wanted = (float(np.median([row[key] for row in rows])) for rows in sets)
        out[f"{key}_ratio"] = own / max(wanted, 1e-6)
    return out
