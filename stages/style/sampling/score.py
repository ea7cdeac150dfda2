"""Measures of a style set: how near to the style (KID), how rich, how clear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core.artifact import Artifact
from stages.core.images import load_images, load_masks
from stages.core.runtime import Runtime
from stages.core.tensors import lab, mask_tensor, to_tensor, to_uint8, unit
from stages.metrics.broken import FEWEST, QualityGate, together
from stages.metrics.clarity import clarity
from stages.metrics.kid import HeadKid
from stages.metrics.memorisation import memorised
from stages.metrics.richness import effective_bins, intra_cluster_distance, precision_recall, richness
from stages.networks.face_labels import READER_HEAD
from stages.networks.face_reader import SIZE, FaceReading, Reader, load_reader
from stages.style.sampling.filters import shrink

MOST = 1000  # images of a set that are measured
CLUSTERS = 10  # training images that the generated ones are grouped by, where there are so many
NEIGHBOURS = 3  # of precision and recall
BACKGROUND = 0.02  # head coverage below which a pixel is background
SEEN = 0.02  # share of the picture from which there is a background at all
LAB_STEP = 20.0  # side of the colour bins in CIE Lab
CELLS = 8  # a side, of the thumbnails whose spread is measured


def score(data: Artifact, target: str, drawn: np.ndarray, source: np.ndarray, runtime: Runtime) -> dict[str, Any]:
    """Measures sealed in the manifest.

    Args:
        data: the artifact trained on.
        target: ``photo`` or a style's name.
        drawn: uint8 [N, R, R, 3], the style set.
        source: uint8 [N, R, R, 3], the same latents through the source generator.
        runtime: device and threads.

    Returns:
        kid, kid_sd: heads on grey, against the held-out real images; kid_source: of the source's images, for scale.
        coverage, attribute_coverage, filled_share, pose_ and expression_correspondence: see `richness`; relative to
            the source.
        broken_share, precision, recall, memorised_share; intra: distance within clusters about training images.
        background_clusters, background_spread: see `background_variety`.
        edge_clarity_ratio, flat_energy_ratio, edge_slope_ratio, checker_ratio: over the real images'.
        reader: id of the face reader behind them.

        What needs held-out images is left out where there are too few.
    """
    reader = load_reader(runtime.device)
    name = "photo" if target == "photo" else f"style/{target}"
    mask_name = "mask" if target == "photo" else f"style_mask/{target}"
    real = load(data.path / "heldout" / name, runtime)
    masks = sorted((data.path / "heldout" / mask_name).glob("*.png"))[: len(real)]

    # Stylisation: heads on grey against held-out pictures, so that backgrounds do not count.
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

    # Broken heads do not count as variety. The gate spans photo and style: what lies half-way is not broken.
    held = read(reader, real) if len(real) else None
    gate = None if held is None or len(real) < FEWEST else QualityGate.fit(reader, together(held, source_reading))
    broken = None if gate is None else gate.broken(reading)
    out |= richness(reading, source_reading, broken=broken)
    if broken is not None:
        out["broken_share"] = float(broken.double().mean())

    if held is not None and min(len(real), len(drawn)) > NEIGHBOURS:
        out["precision"], out["recall"] = precision_recall(held.features, reading.features, NEIGHBOURS)
    # Memorisation, by two distances. Truncation draws features together and nothing is copied; a copy is near in both.
    training_images = load(data.path / name, runtime)
    training = read(reader, training_images)
    copies = [memorised(getattr(reading, key), getattr(training, key)) for key in ("features", "identity")]
    out["memorised_share"] = float((copies[0] & copies[1]).double().mean())
    out["intra"] = intra_cluster_distance(reading.features, training.features[:CLUSTERS])
    head = reading.parsing.softmax(1)[:, READER_HEAD].sum(1).cpu().numpy()  # [N, 64, 64]
    out["background_clusters"], out["background_spread"] = background_variety(to_uint8(shrink(drawn)), head)
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

    # The mean colour of each cell, and of each picture, where it is background.
    colours = lab(unit(to_tensor(images[shown]))).permute(0, 2, 3, 1).numpy()
    side = SIZE // CELLS
    weight, colour = (
        x.reshape(len(x), CELLS, side, CELLS, side, -1).sum(axis=(2, 4)) for x in (behind, colours * behind[..., None])
    )  # [n, 8, 8, 1], [n, 8, 8, 3]
    mean = colour.sum(axis=(1, 2)) / weight.sum(axis=(1, 2))
    _, bins = np.unique(np.floor(mean / LAB_STEP), axis=0, return_inverse=True)

    # How far each cell's colour strays over the set.
    cells = colour / np.maximum(weight, 1e-6)
    whole = np.maximum(weight.sum(axis=0), 1e-6)
    middle = (weight * cells).sum(axis=0) / whole
    variance = (weight * (cells - middle) ** 2).sum(axis=0) / whole  # [8, 8, 3]
    spread = float(np.sqrt((variance.sum(axis=-1) * whole[..., 0]).sum() / whole.sum()))
    return effective_bins(torch.from_numpy(bins.reshape(-1))), spread
