"""Geometry: how pose, expression and landmarks of a stylised picture follow those of the photo."""

import torch
from torch import Tensor

OUTER_EYES = (36, 45)  # the outer eye corners among the 68 landmarks (iBUG 300-W order)
ROUNDING = 1e-5  # of a column: less is how a network rounds the same picture at different places of a batch


def landmark_error(landmarks: Tensor, truth: Tensor) -> Tensor:
    """Normalised mean error of 68 landmarks: mean distance over the distance of the outer eye corners; lower is better.

    Args:
        landmarks: [N, 68, 2] in pixels, or in shares of a square picture.
        truth: [N, 68, 2] in the same unit.

    Returns:
        [N]
    """
    between = (truth[:, OUTER_EYES[0]] - truth[:, OUTER_EYES[1]]).norm(dim=-1)
    out: Tensor = (landmarks - truth).norm(dim=-1).mean(dim=1) / between.clamp(min=1e-6)
    return out


def mean_landmark_distance(errors: Tensor, extractor: str) -> dict[str, float | str]:
    """MLD of arXiv 2211.15549, and who read the landmarks.

    Args:
        errors: `landmark_error` of each picture, what was made against its photo, [N].
        extractor: id of whoever read the landmarks, or `truth`.

    Returns:
        `mld`, their mean, and `mld_extractor`.
    """
    return {"mld": float(errors.mean()), "mld_extractor": extractor}


def expression_difference(expression: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference per picture in smile, mouth_open and eye_open: [N, 3] and [N, 3] -> [N]."""
    return (expression - truth).abs().mean(dim=1)


def correspondence(values: Tensor, reference: Tensor) -> Tensor:
    """Pearson correlation of each column over the pictures: does the output turn where the reference turns?

    Args:
        values: [N, K], e.g. yaw, pitch and expression of outputs, or of a generator.
        reference: [N, K], the same of the photos, or of another generator with the same z.

    Returns:
        [K] in [-1, 1]; 0 for a column that does not vary, or by no more than a network's rounding.
    """
    a, b = values - values.mean(0), reference - reference.mean(0)
    size = a.norm(dim=0) * b.norm(dim=0)
    varies = (a.norm(dim=0) > ROUNDING * values.norm(dim=0)) & (b.norm(dim=0) > ROUNDING * reference.norm(dim=0))
    return torch.where(varies & (size > 1e-12), (a * b).sum(0) / size.clamp(min=1e-12), torch.zeros_like(size))
