"""Memorisation and duplicates: which generated pictures repeat a training picture, or one another.

A distance means little by itself: what counts is how far apart pictures of the style lie anyway. So a generated picture
counts as memorised when it is nearer to a training picture than training pictures nearly ever are to each other
(the nearest-neighbour criterion of Meehan et al., 2020, section 2, with a quantile for their test).

Every distance is Euclidean and exact: one float32 matrix product finds the candidates, and all that its rounding cannot
rule out are measured anew in float64. Memory is bounded by `BLOCK` whatever the sizes.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1 << 22  # distances held at a time: 16 MB
PAIRS = 1 << 22  # numbers held while candidates are measured anew: 32 MB
GREEDY = 256  # pictures compared among themselves at a time in `duplicates`
UPPER = (0.75, 0.95)  # quantiles that stay with the varied pictures while up to three quarters of a set are copies
UPPER_Z = (0.674490, 1.644854)  # their places in the normal distribution
FENCE = 3.0  # deviations below the middle where a distance between neighbours is unusual


def _check(features: Tensor, training: Tensor) -> None:
    if features.ndim != 2 or training.ndim != 2 or features.shape[1] != training.shape[1] or len(training) < 1:
        shapes = f"{tuple(features.shape)} and {tuple(training.shape)}"
        raise ValueError(f"[N, d] features and [M >= 1, d] training features are needed, not {shapes}")


def _blocks(count: int, other: int) -> Iterator[slice]:
    step = max(1, min(count, BLOCK // other))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _remeasured(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Squared distances of listed pairs, in float64: a [N, d], b [M, d], rows and columns int64 [P] -> [P]."""
    step = max(1, PAIRS // a.shape[1])
    parts = [
        (a[r].double() - b[c].double()).square().sum(1)
        for r, c in zip(rows.split(step), columns.split(step), strict=True)
    ]
    return torch.cat(parts)


def nearest(features: Tensor, training: Tensor, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """The nearest training picture of each picture.

    Args:
        features: [N, d].
        training: [M, d].
        exclude_self: both sets are the same, and the i-th picture is not its own neighbour.

    Returns:
        (distance float64 [N], index int64 [N] into `training`; the lowest index among equals)

    Raises:
        ValueError: shapes that do not fit, or nothing left to compare with.
    """
    _check(features, training)
    if exclude_self and (len(features) != len(training) or len(training) < 2):
        raise ValueError(f"{len(features)} and {len(training)} pictures: neighbours within a set need one set of two")

    # One float32 product finds the candidates.
    middle = training.double().mean(0)  # smaller numbers round less
    a, b = (features.double() - middle).float(), (training.double() - middle).float()
    a2, b2 = a.square().sum(1), b.square().sum(1)
    # |a|^2 + |b|^2 - 2 a.b in float32 is off by at most about d eps (|a| + |b|)^2; the usual error is far below.
    slack = a.shape[1] * torch.finfo(torch.float32).eps * (a2.sqrt() + b2.max().sqrt()).square()

    distance = torch.empty(len(a), dtype=torch.float64, device=a.device)
    index = torch.empty(len(a), dtype=torch.int64, device=a.device)
    for block in _blocks(len(a), len(b)):
        rough = torch.addmm(b2, a[block], b.T, alpha=-2)  # less |a|^2, which does not change the order
        if exclude_self:
            rows = torch.arange(len(rough), device=a.device)
            rough[rows, rows + block.start] = torch.inf

        # All that its rounding cannot rule out are measured anew; of equals the lowest index wins.
        least = rough.min(dim=1, keepdim=True).values
        rows, columns = torch.nonzero(rough <= least + 2 * slack[block, None], as_tuple=True)
        squares = _remeasured(features[block], training, rows, columns)
        best = torch.full((len(rough),), torch.inf, dtype=torch.float64, device=a.device)
        best.scatter_reduce_(0, rows, squares, "amin")
        won = squares == best[rows]
        first = torch.full((len(rough),), len(b), dtype=torch.int64, device=a.device)
        first.scatter_reduce_(0, rows[won], columns[won], "amin")
        distance[block], index[block] = best.sqrt(), first
    return distance, index


def memorisation_threshold(training: Tensor, quantile: float = 0.01, heldout: Tensor | None = None) -> float:
    """The distance below which a picture counts as a copy of a training picture.

    Args:
        training: [M >= 2, d] features of the training pictures.
        quantile: share of pictures never copied that is called memorised all the same.
        heldout: [K, d] features of real pictures that were not trained on; with them the threshold is the quantile of
            their distances to the training pictures, which is what the generated ones are compared by. Without them
            it is the quantile of the distances among the training pictures, each to its nearest other.

    Raises:
        ValueError: a quantile outside [0, 1] or shapes that do not fit.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile {quantile} is outside 0..1")
    usual = nearest(training, training, exclude_self=True)[0] if heldout is None else nearest(heldout, training)[0]
    return float(torch.quantile(usual, quantile))


def memorised(features: Tensor, training: Tensor, quantile: float = 0.01, heldout: Tensor | None = None) -> Tensor:
    """Which generated pictures lie nearer to a training picture than real pictures do, up to a quantile.

    Args:
        features: [N, d] features of generated pictures.
        training: [M, d] features of the training pictures (mirrored copies too, where training mirrored them).
        quantile: share of real pictures beyond the threshold; see `memorisation_threshold`.
        heldout: real pictures that set the threshold; see there.

    Returns:
        bool [N]. The mean of it is `memorised_share`: about `quantile` for a generator that knows the style and no
        picture of it, 1 for one that repeats its training set; lower is better.

    Truncation draws pictures to the middle of the set, where neighbours are near anyway: of the shipped base's pictures
    the reader's features call 1 % memorised at psi 1, 2 % at 0.8, 8 % at 0.5; its identity embedding 1 to 2 % at all
    of them. Copies (noise, blur, a pixel's shift) both find in 88 to 100 %, so a copy is what both call one.
    """
    threshold = memorisation_threshold(training, quantile, heldout)
    return nearest(features, training)[0] <= threshold


def duplicate_threshold(features: Tensor) -> float:
    """The distance below which two pictures of a set are one: three deviations under the usual neighbour's distance.

    The logarithms of nearest-neighbour distances are taken as normal, and their mean and deviation from the 75 % and
    95 % quantiles, which copies below them do not move: features [N >= 2, d] -> distance, 0 when most are copies.
    """
    usual = nearest(features, features, exclude_self=True)[0]
    low, high = torch.quantile(usual, usual.new_tensor(UPPER)).clamp(min=1e-12).log().tolist()
    deviation = (high - low) / (UPPER_Z[1] - UPPER_Z[0])
    return math.exp(low - (UPPER_Z[0] + FENCE) * deviation) if low > math.log(1e-12) else 0.0


def duplicates(features: Tensor, threshold: float | None = None) -> Tensor:
    """Which pictures are too near to an earlier one that is kept.

    Args:
        features: [N, d].
        threshold: distance up to which two pictures are one; by default `duplicate_threshold`. That finds repeats in a
            varied set; a set collapsed as a whole is for `richness` to find.

    Returns:
        bool [N], True for those to leave out; the first of each kind is False.
    """
    out = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    if len(features) < 2:
        return out
    threshold = duplicate_threshold(features) if threshold is None else threshold
    for start in range(0, len(features), GREEDY):
        part = features[start : start + GREEDY]
        kept = features[:start][~out[:start]]
        repeats = nearest(part, kept)[0] <= threshold if len(kept) else out[: len(part)].clone()
        within = torch.cdist(part.double(), part.double(), compute_mode="donot_use_mm_for_euclid_dist") <= threshold
        for row in range(1, len(part)):  # in order, for only kept ones count
            repeats[row] |= bool((within[row, :row] & ~repeats[:row]).any())
        out[start : start + GREEDY] = repeats
    return out
