"""Pixel errors of a stylised picture: outside the head against the photo, on head or frame against the true twin.

All are L1 in [0, 1] RGB on the raw network output, before any compositing with the photo.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND_BELOW = 0.02  # mask values that count as background
FACE_ABOVE = 0.5  # mask values that count as head
MARGIN = 0.02  # erosion of the background, as a share of the picture's width


def _check(output: Tensor, target: Tensor, mask: Tensor) -> None:
    if output.ndim != 4 or output.shape[1] != 3 or output.shape != target.shape:
        raise ValueError(f"two [N, 3, H, W] pictures of one shape are needed, not {output.shape} and {target.shape}")
    shape = (output.shape[0], 1, *output.shape[2:])
    if mask.shape != shape:
        raise ValueError(f"a mask of shape {shape} is needed, not {tuple(mask.shape)}")


def background_region(mask: Tensor) -> Tensor:
    """Pixels that are surely background.

    Args:
        mask: [N, 1, H, W], head coverage in [0, 1].

    Returns:
        bool [N, 1, H, W]: mask < 0.02, eroded by 2 % of the width (square element, at least one pixel;
        the picture's border does not erode).
    """
    radius = max(1, round(MARGIN * mask.shape[-1]))
    head = (mask >= BACKGROUND_BELOW).float()
    return F.max_pool2d(head, 2 * radius + 1, stride=1, padding=radius) < 0.5


def masked_l1(output: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Mean absolute error per picture over a region.

    Args:
        output: [N, 3, H, W] in [0, 1].
        target: [N, 3, H, W] in [0, 1].
        region: bool [N, 1, H, W].

    Returns:
        [N]; NaN where the region is empty, so that a picture without such pixels is never counted as perfect.
    """
    weight = region.to(output.dtype)
    total = ((output - target).abs() * weight).sum(dim=(1, 2, 3))
    return total / (3 * weight.sum(dim=(1, 2, 3)))


def background_error(output: Tensor, photo: Tensor, mask: Tensor) -> Tensor:
    """L1 to the photo over the background (see `background_region`); lower is better.

    Args:
        output: [N, 3, H, W] in [0, 1].
        photo: [N, 3, H, W] in [0, 1].
        mask: [N, 1, H, W], head coverage in [0, 1].

    Returns:
        [N]; NaN for a picture without background.
    """
    _check(output, photo, mask)
    return masked_l1(output, photo, background_region(mask))


def face_error(output: Tensor, twin: Tensor, mask: Tensor) -> Tensor:
    """L1 to the true stylised twin over the head (mask > 0.5); lower is better.

    Args:
        output: [N, 3, H, W] in [0, 1].
        twin: [N, 3, H, W] in [0, 1].
        mask: [N, 1, H, W], head coverage in [0, 1].

    Returns:
        [N]; NaN for a picture without a head.
    """
    _check(output, twin, mask)
    return masked_l1(output, twin, mask > FACE_ABOVE)


def frame_error(output: Tensor, twin: Tensor) -> Tensor:
    """L1 to the true stylised twin over the whole frame; lower is better.

    Args:
        output: [N, 3, H, W] in [0, 1].
        twin: [N, 3, H, W] in [0, 1].

    Returns:
        [N].
    """
    _check(output, twin, output[:, :1])
    return (output - twin).abs().mean(dim=(1, 2, 3))


def head_iou(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of two masks, each cut at one half; higher is better.

    Args:
        mask: [N, 1, H, W] in [0, 1].
        truth: [N, 1, H, W] in [0, 1].

    Returns:
        [N] in [0, 1]; NaN where neither mask holds anything.
    """
    a, b = mask > FACE_ABOVE, truth > FACE_ABOVE
    return (a & b).sum(dim=(1, 2, 3)) / (a | b).sum(dim=(1, 2, 3))


def ssim(output: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004: Gaussian window of 11 pixels, sigma 1.5); higher is better.

    Args:
        output: [N, 3, H, W] in [0, 1], at least 11 pixels a side.
        target: [N, 3, H, W] in [0, 1].

    Returns:
        [N] in [-1, 1], mean over channels and over the pixels whose whole window lies inside.
    """
    from kornia.metrics import ssim as kornia_ssim  # half a second, where a start need not wait for it

    return kornia_ssim(output, target, 11, 1.0, padding="valid").mean(dim=(1, 2, 3))


def background_ssim(output: Tensor, photo: Tensor, mask: Tensor) -> Tensor:
    """Structural similarity to the photo over the background (see `background_region`); higher is better.

    Windows reach over the border of the region and of the picture (mirrored there): what was painted next to the head
    counts where it shows.

    Args:
        output: [N, 3, H, W] in [0, 1].
        photo: [N, 3, H, W] in [0, 1].
        mask: [N, 1, H, W], head coverage in [0, 1].

    Returns:
        [N]; NaN for a picture without background.
    """
    from kornia.metrics import ssim as kornia_ssim  # slow to import

    _check(output, photo, mask)
    weight = background_region(mask).to(output.dtype)
    similar = kornia_ssim(output, photo, 11, 1.0, padding="same").mean(dim=1, keepdim=True)
    return (similar * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))


def mean_defined(values: Tensor) -> float:
    """Mean over the entries of [N] that are not NaN; NaN when there is none."""
    return float(torch.nanmean(values.double()))
