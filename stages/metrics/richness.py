"""Richness: how much variety a style set keeps (poses and expressions covered, distances within clusters, recall)."""

import torch
from torch import Tensor

# Edges of the bins: yaw and pitch in degrees, smile in -1..1, mouth_open in 0..1. Fixed, so that two runs compare.
YAW_EDGES = (-18.0, -6.0, 6.0, 18.0)
PITCH_EDGES = (-6.0, 6.0)
SMILE_EDGES = (-0.15, 0.35)
MOUTH_EDGES = (0.3,)


def pose_expression_bins(pose: Tensor, expression: Tensor) -> Tensor:
    """One bin number per picture over yaw x pitch x smile x mouth_open (5 x 3 x 3 x 2 = 90 bins).

    Args:
        pose: [N, 2] yaw, pitch in degrees.
        expression: [N, 3] smile, mouth_open, eye_open.

    Returns:
        int64 [N] in 0..89.
    """
    number = torch.zeros(len(pose), dtype=torch.int64)
    columns = (pose[:, 0], pose[:, 1], expression[:, 0], expression[:, 1])
    for value, edges in zip(columns, (YAW_EDGES, PITCH_EDGES, SMILE_EDGES, MOUTH_EDGES), strict=True):
        number = number * (len(edges) + 1) + torch.bucketize(value.cpu().float().contiguous(), torch.tensor(edges))
    return number


def effective_bins(bins: Tensor) -> float:
    """Exponential of the entropy of the bin histogram: the number of equally filled bins with the same entropy.

    Args:
        bins: int64 [N] bin numbers.
    """
    counts = torch.bincount(bins).double()
    share = counts[counts > 0] / counts.sum()
    return float(torch.exp(-(share * share.log()).sum()))


def coverage(bins: Tensor, base: Tensor) -> float:
    """Variety of poses and expressions relative to a base set: ratio of the effective bins; higher is richer.

    Args:
        bins: int64 [N] bins of the set (`pose_expression_bins`).
        base: int64 [N] bins of the base, e.g. of the source generator with the same z. The same count is asked for,
            since the entropy of few pictures is biased low.

    Returns:
        1 when as rich as the base, towards 0 when everything falls into one bin.

    Raises:
        ValueError: sets of different size.
    """
    if len(bins) != len(base):
        raise ValueError(f"{len(bins)} and {len(base)} pictures: coverage compares sets of one size")
    return effective_bins(bins) / effective_bins(base)


def intra_cluster_distance(features: Tensor, references: Tensor, members: int = 50) -> float:
    """Mean pairwise distance within clusters (the measure of Ojha et al., 2021, with our features for LPIPS).

    Every picture goes to the nearest reference (a training image of the style); memorisation drives the value to 0.

    Args:
        features: [N, d] features of generated pictures.
        references: [K, d] features of training images of the style.
        members: at most this many pictures of a cluster are compared (the first ones).

    Returns:
        mean over the clusters with at least two members of their mean pairwise distance, divided by sqrt(d) so that
        it does not grow with the number of features; 0 when no cluster has two.
    """
    nearest = torch.cdist(features.double(), references.double()).argmin(dim=1)
    means = []
    for cluster in nearest.unique():
        chosen = features[nearest == cluster][:members].double()
        if len(chosen) > 1:
            means.append(torch.pdist(chosen).mean() / features.shape[1] ** 0.5)
    return float(torch.stack(means).mean()) if means else 0.0


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al., 2019, eq. 1-2).

    A picture lies on the other set's manifold when it is no farther from one of its members than that member's k-th
    neighbour within the set.

    Args:
        real: [N, d] features of real pictures.
        fake: [M, d] features of generated pictures.
        neighbours: k.

    Returns:
        (precision: share of fakes on the real manifold, recall: share of reals on the fakes' manifold)
    """

    def on_manifold(points: Tensor, manifold: Tensor) -> float:
        radii = torch.cdist(manifold, manifold).kthvalue(neighbours + 1, dim=1).values  # the first is the point itself
        return float((torch.cdist(points, manifold) <= radii).any(dim=1).double().mean())

    real, fake = real.double(), fake.double()
    return on_manifold(fake, real), on_manifold(real, fake)
