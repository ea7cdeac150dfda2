"""Richness: how much of the base generator's variety a style set keeps.

All of `richness` compares a set with the base's pictures of the same latents, for a style set can only keep what its
base had. Precision and recall (Kynkaanniemi et al., 2019) and the distance within clusters (Ojha et al., 2021) compare
it with real pictures of the style instead.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stages.metrics.attributes import AREAS, EDGES, areas
from stages.metrics.features import PerceptualDistance
from stages.metrics.geometry import correspondence
from stages.networks.face_labels import READER
from stages.networks.face_reader import FaceReading

POSE_EXPRESSION = ("yaw", "pitch", "smile", "mouth_open")  # 5 x 3 x 3 x 2 bins
LOOKS = ("glasses", "hat", "beard", "hair_area")  # 2 x 2 x 2 x 3 bins
OFTEN = 2  # pictures in a bin of the base before it counts as filled: a single one is chance
STILL = 1e-3  # deviation over the pictures below which a reading does not vary, and corresponds to nothing
BLOCK = 1 << 22  # distances held at a time: 32 MB


def _joint_bins(columns: dict[str, Tensor]) -> Tensor:
    """Bin numbers int64 [N] over all the attributes at once, the last one counting fastest."""
    number = torch.zeros(len(next(iter(columns.values()))), dtype=torch.int64)
    for name, values in columns.items():
        edges = torch.tensor(EDGES[name])
        number = number * (len(edges) + 1) + torch.bucketize(values.cpu().float().contiguous(), edges)
    return number


def pose_expression_bins(pose: Tensor, expression: Tensor) -> Tensor:
    """One bin number per picture over yaw x pitch x smile x mouth_open (5 x 3 x 3 x 2 = 90 bins).

    Args:
        pose: [N, 2] yaw, pitch in degrees.
        expression: [N, 3] smile, mouth_open, eye_open.

    Returns:
        int64 [N] in 0..89.
    """
    return _joint_bins(dict(zip(POSE_EXPRESSION, (*pose.unbind(1), *expression[:, :2].unbind(1)), strict=True)))


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


def attribute_bins(parsing: Tensor) -> Tensor:
    """One bin number per picture over glasses x hat x beard x amount of hair (2 x 2 x 2 x 3 = 24 bins).

    Args:
        parsing: [N, 13, h, w] logits of the face reader.

    Returns:
        int64 [N] in 0..23.
    """
    covered = areas(parsing).cpu()
    return _joint_bins({name: covered[:, READER[AREAS[name]]] for name in LOOKS})


def filled_share(bins: Tensor, base: Tensor) -> float:
    """Share of the base's bins that the set still reaches; higher is richer.

    Args:
        bins: int64 [N] bins of the set.
        base: int64 [N] bins of the base with the same latents. A bin counts with at least two pictures.

    Returns:
        1 when all are reached, in [0, 1]; unlike `coverage` never above 1, and blind to how often.

    Raises:
        ValueError: sets of different size.
    """
    if len(bins) != len(base):
        raise ValueError(f"{len(bins)} and {len(base)} pictures: the filled share compares sets of one size")
    numbers, counts = base.unique(return_counts=True)
    filled = numbers[counts >= min(OFTEN, int(counts.max()))]
    return float(torch.isin(filled, bins).double().mean())


def _corresponds(values: Tensor, base: Tensor) -> float:
    """Mean correlation over the columns that vary in the base; NaN where none does."""
    varies = base.std(dim=0) > STILL
    return float(correspondence(values[:, varies].double(), base[:, varies].double()).mean())


def richness(reading: FaceReading, base: FaceReading, broken: Tensor | None = None) -> dict[str, float]:
    """How much of the base's variety a set keeps; higher is richer for all of them.

    Args:
        reading: what the face reader says of the N >= 2 generated pictures.
        base: the same of the base generator's pictures of the same latents, in the same order.
        broken: bool [N], heads that have fallen apart (`QualityGate.broken`): they count with the base's commonest bin
            and fill none. Without it a wrecked generator seems rich, for what is read off its smears varies: with
            weights off by 0.6 deviations, 1.5 times the base's poses and twice its attributes, instead of 0.2 and 0.2.

    Returns:
        coverage: ratio of the effective bins of pose and expression (`coverage`); above 1 when richer than the base.
        attribute_coverage: the same for glasses, hat, beard and amount of hair (`attribute_bins`).
        filled_share: share of the base's bins of pose and expression that are still reached, in [0, 1].
        pose_correspondence: mean correlation of yaw and of pitch between the two pictures of one latent, in [-1, 1].
        expression_correspondence: the same for smile, mouth_open and eye_open.

    Raises:
        ValueError: sets of different size, or fewer than two pictures.
    """
    if len(reading.pose) != len(base.pose) or len(base.pose) < 2:
        raise ValueError(f"{len(reading.pose)} and {len(base.pose)} pictures: richness compares two sets of one size")
    wrecks = torch.zeros(len(base.pose), dtype=torch.bool) if broken is None else broken.cpu()

    def covered(bins: Tensor, base_bins: Tensor) -> float:
        return coverage(torch.where(wrecks, base_bins.mode().values, bins), base_bins)

    bins = pose_expression_bins(reading.pose, reading.expression)
    base_bins = pose_expression_bins(base.pose, base.expression)
    return {
        "coverage": covered(bins, base_bins),
        "attribute_coverage": covered(attribute_bins(reading.parsing), attribute_bins(base.parsing)),
        "filled_share": filled_share(torch.where(wrecks, -1, bins), base_bins),
        "pose_correspondence": _corresponds(reading.pose, base.pose),
        "expression_correspondence": _corresponds(reading.expression, base.expression),
    }


def _within_clusters(nearest: Tensor, members: int, distances: Callable[[Tensor], Tensor]) -> float:
    """Mean over clusters of the mean of `distances(rows)` [P], of all pairs of a cluster; 0 when none has a pair."""
    means = []
    for cluster in nearest.unique():
        rows = torch.where(nearest == cluster)[0][:members]
        if len(rows) > 1:
            means.append(distances(rows).double().mean())
    return float(torch.stack(means).mean()) if means else 0.0


def intra_cluster_distance(features: Tensor, references: Tensor, members: int = 50) -> float:
    """Mean pairwise distance within clusters (the measure of Ojha et al., 2021, with our features for LPIPS).

    Every picture goes to the nearest reference (a training image of the style); memorisation drives the value to 0.

    Args:
        features: [N, d] features of generated pictures.
        references: [K, d] features of training images of the style.
        members: at most this many pictures of a cluster are compared (the first ones).

    Returns:
        mean over the clusters with at least two members of their mean pairwise distance, divided by sqrt(d) so that
        it does not grow with the number of features; 0 when no cluster has two. Higher is richer.
    """
    rows, scale = features.double(), features.shape[1] ** 0.5
    nearest = torch.cdist(rows, references.double()).argmin(dim=1)
    return _within_clusters(nearest, members, lambda chosen: torch.pdist(rows[chosen]) / scale)


def intra_cluster_perceptual(
    images: Tensor, references: Tensor, distance: PerceptualDistance, members: int = 50
) -> float:
    """`intra_cluster_distance` of pictures under any perceptual distance: LPIPS gives the published measure.

    Args:
        images: [N, 3, H, W] generated pictures in [-1, 1].
        references: [K, 3, H, W] training images of the style in [-1, 1].
        distance: `FeatureDistance`, or `Lpips` of `stages.metrics.backbones`; its id belongs beside the number.
        members: at most this many pictures of a cluster are compared (the first ones).
    """
    nearest = distance.pairwise(images, references).argmin(dim=1)

    def pairs(rows: Tensor) -> Tensor:
        first, second = torch.triu_indices(len(rows), len(rows), offset=1)
        return distance.pairwise(images[rows], images[rows])[first, second]

    return _within_clusters(nearest, members, pairs)


def precision_recall(
    real: Tensor, fake: Tensor, neighbours: int = 3, half_precision: bool = False
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al., 2019, eq. 1-2).

    A picture lies on the other set's manifold when it is no farther from one of its members than that member's k-th
    neighbour within the set. Distances are taken in blocks, so that memory does not grow with the product of the sets.

    Args:
        real: [N, d] features of real pictures, N > k.
        fake: [M, d] features of generated pictures, M > k.
        neighbours: k.
        half_precision: round features and radii to half precision, as the reference implementation does; distances to
            the other set stay in single precision. In one of twelve sets of 200 that moves a picture across a radius,
            so it is for comparison with that implementation's numbers only.

    Returns:
        (precision: share of fakes on the real manifold, recall: share of reals on the fakes' manifold); both higher is
        better.

    Raises:
        ValueError: no more pictures than neighbours.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(f"{len(real)} and {len(fake)} pictures have no {neighbours} neighbours each; give more")
    real, fake = (rows.half().float() if half_precision else rows.double() for rows in (real, fake))

    def blocks(points: Tensor, manifold: Tensor) -> Iterator[Tensor]:
        """Distances of some points at a time, from differences: equal pairs are equally far, whatever the block."""
        parts = points.split(max(1, BLOCK // len(manifold)))
        return (torch.cdist(part, manifold, compute_mode="donot_use_mm_for_euclid_dist") for part in parts)

    def on_manifold(points: Tensor, manifold: Tensor) -> float:
        # The first of the k + 1 nearest is the member itself.
        radii = torch.cat([block.kthvalue(neighbours + 1, dim=1).values for block in blocks(manifold, manifold)])
        if half_precision:
            radii = radii.half().float()
        inside = torch.cat([(block <= radii).any(dim=1) for block in blocks(points, manifold)])
        return float(inside.double().mean())

    return on_manifold(fake, real), on_manifold(real, fake)
