"""Feature extractors: which network a distance between pictures rests on. Every number carries the extractor's id.

The face reader is the default (`stages.networks.face_reader.load_reader`): it needs no download and knows portraits
only. Networks of general pictures come from files that the user has (`stages.metrics.backbones`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class FeatureExtractor(Protocol):
    """Turns pictures into features that distances are taken between.

    `id` names the network and its weights; `features` maps [N, 3, H, W] in [-1, 1] to [N, d].
    """

    id: str

    def features(self, images: Tensor) -> Tensor:
        """Features [N, d] of pictures [N, 3, H, W] in [-1, 1]."""


class PerceptualDistance(Protocol):
    """A distance between pictures, with the `id` of the network behind it.

    `pairwise` maps [N, 3, H, W] and [M, 3, H, W] in [-1, 1] to [N, M], >= 0.
    """

    id: str

    def pairwise(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances [N, M] of N features [N, d] to M others [M, d]."""


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances [N, d] and [M, d] -> [N, M] from differences: equal rows are 0 apart, not nearly 0.

    A few thousand columns at a time, for float32 sums of half a million terms are off in the third digit.
    """
    out = a.new_zeros(len(a), len(b))
    for x, y in zip(a.split(4096, dim=1), b.split(4096, dim=1), strict=True):
        out += torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    return out


class FeatureDistance:
    """Euclidean distance of features over sqrt(d): the perceptual distance where no LPIPS weights are given.

    Args:
        extractor: whose features; `id` is its id.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor, self.id = extractor, extractor.id

    @torch.no_grad()
    def pairwise(self, first: Tensor, second: Tensor) -> Tensor:
        """[N, 3, H, W] and [M, 3, H, W] in [-1, 1] -> float64 [N, M], >= 0."""
        a = self.extractor.features(first).double()
        b = a if second is first else self.extractor.features(second).double()
        return (squared_distances(a, b) / a.shape[1]).sqrt()
