"""How far two folders of pictures are apart: KID, FID, improved precision and recall, distance within clusters.

    python -m stages.metrics REAL FAKE                                     # by the shipped face reader
    python -m stages.metrics REAL FAKE --inception inception_v3.pth --vgg16 vgg16.pth
    python -m stages.metrics REAL FAKE --lpips alex.pth alexnet.pth        # heads, backbone

Prints one JSON object: counts, and the measures of each network under its id. The weights of Inception, VGG and LPIPS
are torchvision's and the public heads; none are shipped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from stages.core.consent import usable
from stages.core.images import IMAGE_SUFFIXES, read_image
from stages.core.settings import TristyleError, number
from stages.core.tensors import to_tensor
from stages.metrics.backbones import load_extractor, load_lpips
from stages.metrics.features import FeatureDistance, FeatureExtractor
from stages.metrics.fid import frechet_distance
from stages.metrics.kid import polynomial_kid
from stages.metrics.richness import intra_cluster_perceptual, precision_recall

CHUNK = 32  # pictures through an extractor at a time
CLUSTERS = 10  # real pictures that distances within clusters are grouped by
NEIGHBOURS = 3  # of precision and recall


def read_folder(folder: Path, size: int) -> Tensor:
    """The square pictures of a folder, by name, reduced or enlarged to `size` px: [N, 3, size, size] in [-1, 1].

    Raises:
        TristyleError: fewer than four pictures, or one that is not square.
    """
    paths = usable(path for path in sorted(folder.glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(paths) <= NEIGHBOURS:
        raise TristyleError(f"{folder}: {len(paths)} pictures, {NEIGHBOURS + 1} are needed. Name a folder of pictures.")

    pictures = np.empty((len(paths), size, size, 3), np.uint8)
    for place, path in zip(pictures, paths, strict=True):
        image = read_image(path)
        if image.shape[0] != image.shape[1]:
            raise TristyleError(f"{path}: {image.shape[1]}x{image.shape[0]} px is not square. Crop it first.")
        place[:] = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return to_tensor(pictures)


@torch.no_grad()
def measure(extractor: FeatureExtractor, real: Tensor, fake: Tensor, half_precision: bool) -> dict[str, float]:
    """Measures of two sets of whole pictures [N, 3, H, W] and [M, 3, H, W] in [-1, 1] by one extractor.

    Returns:
        kid, kid_sd, fid: lower is better. precision, recall: shares in [0, 1], higher is better. intra: feature
        distance of generated pictures within clusters about real ones; 0 where they repeat one another.
    """
    first, second = (torch.cat([extractor.features(part) for part in images.split(CHUNK)]) for images in (real, fake))
    kid, kid_sd = polynomial_kid(first, second)
    precision, recall = precision_recall(first, second, NEIGHBOURS, half_precision)
    return {
        "kid": kid,
        "kid_sd": kid_sd,
        "fid": frechet_distance(first, second),
        "precision": precision,
        "recall": recall,
        "intra": intra_cluster_perceptual(fake, real[:CLUSTERS], FeatureDistance(extractor)),
    }


def measures(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks for, as JSON."""
    number("--size", options.size, 32, 1024, integer=True)
    real, fake = (read_folder(folder, options.size) for folder in (options.real, options.fake))
    found: dict[str, Any] = {"real": len(real), "fake": len(fake)}

    extractors = [load_extractor(device=options.device)]
    for kind in ("inception", "vgg16"):
        if getattr(options, kind) is not None:
            extractors.append(load_extractor(kind, getattr(options, kind), options.device))
    for extractor in extractors:
        found[extractor.id] = measure(extractor, real, fake, options.half)

    if options.lpips is not None:
        heads, backbone = options.lpips
        lpips = load_lpips(heads, backbone, options.device)
        found[lpips.id] = {"intra": intra_cluster_perceptual(fake, real[:CLUSTERS], lpips)}
    return found


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`. Mistakes end with one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m stages.metrics", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("real", type=Path, help="folder of real pictures")
    parser.add_argument("fake", type=Path, help="folder of generated pictures")
    parser.add_argument("--size", type=int, default=256, help="px a side that all pictures are resized to")
    parser.add_argument("--inception", type=Path, metavar="FILE", help="torchvision's inception_v3")
    parser.add_argument("--vgg16", type=Path, metavar="FILE", help="torchvision's vgg16")
    parser.add_argument("--lpips", type=Path, nargs=2, metavar=("HEADS", "BACKBONE"), help="LPIPS 0.1 and its network")
    parser.add_argument("--half", action="store_true", help="precision and recall rounded as the reference does")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    try:
        found = measures(parser.parse_args(arguments))
    except TristyleError as error:
        print(f"metrics: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
