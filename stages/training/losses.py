"""Losses as pure functions of tensors; the stages weigh and sum them.

Each section names its source. Nothing here keeps state or knows a network.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN2: logistic adversarial losses, R1, path length (arXiv 1406.2661, 1801.04406, 1912.04958 sec. 3.2)

LOGISTIC_CHANCE = 2 * math.log(2)  # both terms of a discriminator that answers 0 to everything


def generator_logistic(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss: softplus(-D(fake)), each logit by itself (1406.2661).

    Args:
        fake_logits: of generated images, [N, ...].

    Returns:
        [N, ...], >= 0.
    """
    return F.softplus(-fake_logits)


def discriminator_logistic(logits: Tensor, real: bool) -> Tensor:
    """Logistic discriminator loss, each logit by itself (1406.2661).

    Args:
        logits: [N, ...], of real or of generated images.
        real: which of the two.

    Returns:
        [N, ...], >= 0.
    """
    return F.softplus(-logits if real else logits)


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """Squared norm of the gradient of the logits with respect to the real images (R1; 1801.04406, eq. 9).

    Args:
        real_logits: [N, ...], computed from `real_images`.
        real_images: [N, C, H, W]; they must require a gradient.

    Returns:
        [N], differentiable. The loss is ``gamma / 2`` times this.
    """
    (grad,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return grad.square().sum(dim=(1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor, unit_noise: Tensor) -> Tensor:
    """Length of J_w^T y per image, for image noise y of unit variance over sqrt(H W) (1912.04958, eq. 4).

    Args:
        images: [N, C, H, W], generated from `ws`.
        ws: [N, num_ws, w_dim]; they must require a gradient.
        unit_noise: N(0, 1) in the shape of `images`.

    Returns:
        [N], differentiable.
    """
    noise = unit_noise / (images.shape[2] * images.shape[3]) ** 0.5
    (grad,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    return grad.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(
    lengths: Tensor, mean: Tensor, decay: float = 0.01, whole: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Squared deviation of path lengths from their running mean (1912.04958, eq. 4).

    The deviation is taken from the mean after its move, through which the gradient flows, as in the official code.

    Args:
        lengths: [N].
        mean: the running mean, scalar.
        decay: share of the way to the batch's mean that the running mean moves.
        whole: the mean length of a batch of which `lengths` are a micro-batch. The deviation is then from the mean
            moved by the whole batch, and the gradients of its micro-batches average to those of the batch in one piece.

    Returns:
        The penalty [N], and the moved mean (scalar, detached).
    """
    if whole is None:
        moved = mean.lerp(lengths.mean(), decay)
        return (lengths - moved).square(), moved.detach()

    # The whole batch's mean comes from elsewhere, without a graph: we add what its gradient would be.
    moved = mean.lerp(whole, decay)
    through_the_mean = -2 * decay * (whole - moved) * (lengths - lengths.detach())  # 0, but for its gradient
    return (lengths - moved).square() + through_the_mean, moved


def distance_consistency(transferred: Tensor, source: Tensor) -> Tensor:
    """Cross-domain distance consistency, scalar: KL divergence of who resembles whom (arXiv 2104.06820, eq. 1-3).

    Each sample's cosine similarities to all others become a distribution by a softmax; the loss is the mean over the
    samples of KL(transferred || source).

    Args:
        transferred: activations [N, ...] of the transferred generator.
        source: activations [N, ...] of the source for the same N latents; they are detached.

    Returns:
        Scalar, >= 0. Fewer than three samples resemble each other in one way only: 0.
    """
    n = len(source)
    if n < 3:
        return transferred.sum() * 0

    def resemblance(features: Tensor) -> Tensor:
        rows = F.normalize(features.flatten(1), dim=1)
        others = ~torch.eye(n, dtype=torch.bool, device=rows.device)
        return (rows @ rows.t())[others].view(n, n - 1).log_softmax(dim=1)

    return F.kl_div(resemblance(source.detach()), resemblance(transferred), reduction="batchmean", log_target=True)


# ---------------------------------------------------------------------------------------------------------------------
# Paired student: hinge (arXiv 1705.02894), feature matching (1711.11585 eq. 3), edges, colour, matte


def student_hinge(fake_logits: Tensor) -> Tensor:
    """Adversarial loss of the student: minus the mean of the patch logits [N, 1, h, w], scalar."""
    return -fake_logits.mean()


def patch_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss of a patch discriminator, scalar: 2 for logits of 0, 0 where both are right by a margin of 1.

    Args:
        real_logits: [N, 1, h, w] of targets.
        fake_logits: [N, 1, h, w] of outputs.
    """
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def feature_matching(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Mean L1 between a discriminator's activations on a target and on an output, scalar.

    Args:
        real: activations [N, C, h, w] by layer of the target; they are detached.
        fake: activations of the output, the same shapes.
    """
    pairs = zip(real, fake, strict=True)
    return torch.stack([(b - a.detach()).abs().mean(dtype=torch.float32) for a, b in pairs]).mean()


def edge_strength(images: Tensor) -> Tensor:
    """Sobel slope of the luma, 1 on the steepest pixel of each image: [N, 3, H, W] -> [N, 1, H, W] in [0, 1]."""
    luma = (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    sobel = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernel = torch.stack([sobel, sobel.T])[:, None]  # [2, 1, 3, 3]
    slope = F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="replicate"), kernel).norm(dim=1, keepdim=True)
    out: Tensor = slope / slope.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    return out


def edge_weighted_l1(output: Tensor, target: Tensor, gain: float = 4.0) -> Tensor:
    """Mean |output - target| with weight 1 + gain * edge_strength(target), scalar: thin outlines would drown otherwise.

    Args:
        output: [N, 3, H, W] in [-1, 1].
        target: [N, 3, H, W] in [-1, 1].
        gain: extra weight of the steepest edge; 0 gives plain L1.
    """
    return ((1 + gain * edge_strength(target)) * (output - target).abs()).mean()


def chroma_l1(output: Tensor, target: Tensor) -> Tensor:
    """L1 of the U and V planes (Rec. 601), scalar: hues must not average to grey.

    Args:
        output: [N, 3, H, W] in [-1, 1].
        target: [N, 3, H, W] in [-1, 1].
    """
    # U and V are linear in RGB and ignore equal offsets: [-1, 1] only doubles them, and they are taken of a difference.
    weights = output.new_tensor([[-0.147, -0.289, 0.436], [0.615, -0.515, -0.100]])
    return F.conv2d(output - target, weights[:, :, None, None]).abs().mean()


def matte_loss(alpha: Tensor, change: Tensor) -> Tensor:
    """Mean alpha where nothing changes, scalar.

    Args:
        alpha: [N, 1, H, W] in [0, 1].
        change: [N, 1, H, W] in [0, 1]; 1 = may be painted.
    """
    return (alpha * (1 - change)).mean()


def random_similarities(draws: Tensor, shift: float, turn: float, zoom: float) -> Tensor:
    """Maps of a picture's pixels about its centre: half of them whole-pixel shifts, half turned and zoomed as well.

    A whole-pixel shift resamples nothing, so that a loss over it cannot be lowered by blurring.

    Args:
        draws: uniform [N, 5] in [0, 1].
        shift: largest shift, px.
        turn: largest turn, radians.
        zoom: largest change of size, a share.

    Returns:
        float [N, 2, 3].
    """
    signed = 2 * draws - 1
    whole = draws[:, 0] < 0.5
    angle = torch.where(whole, 0, turn * signed[:, 1])
    scale = torch.where(whole, 1, 1 + zoom * signed[:, 2])
    move = shift * signed[:, 3:5]
    move = torch.where(whole[:, None], move.round(), move)

    cosine, sine = scale * angle.cos(), scale * angle.sin()
    turns = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
    return torch.cat([turns, move[..., None]], dim=2)


def moved(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures seen through `maps`: out(c + x) = picture(c + A x + b), bicubic.

    Args:
        images: [N, C, H, W].
        maps: [N, 2, 3] = (A, b) in pixels about the centre c.

    Returns:
        The pictures [N, C, H, W], outside of which the border repeats; and where they are valid, float [N, 1, H, W].
    """
    height, width = images.shape[2:]
    half = images.new_tensor([width / 2, height / 2])
    # grid_sample's coordinates are -1..1 from border to border, each axis in halves of its own length
    turn = maps[:, :, :2] * half / half[:, None]
    theta = torch.cat([turn, (maps[:, :, 2] / half)[..., None]], dim=2)
    grid = F.affine_grid(theta, [len(images), 1, height, width], align_corners=False)
    seen = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    valid = (grid.abs() < 1 - 0.49 / half).all(dim=3)  # up to the centres of the outermost pixels
    return seen, valid[:, None].to(images.dtype)


def equivariance(output: Tensor, output_of_moved: Tensor, maps: Tensor) -> Tensor:
    """Mean |G * (output of the moved photo - moved output)| over what both show, scalar: steadiness without a video.

    The temporal term of VToonify (Yang et al. 2022, arXiv 2209.11224, section 4.3), there over crops and squared. G is
    the 3x3 binomial: a resampled hard edge differs from a painted one by less than that, and must not be punished.

    Args:
        output: [N, 3, H, W], of the photos.
        output_of_moved: [N, 3, H, W], of ``moved(photos, maps)``.
        maps: [N, 2, 3], see `moved`.
    """
    wanted, valid = moved(output, maps)
    line = output.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(output.shape[1], 1, 3, 3)
    difference = F.conv2d(F.pad(output_of_moved - wanted, (1, 1, 1, 1), mode="replicate"), kernel, groups=len(kernel))
    return (difference.abs() * valid).mean()


# ---------------------------------------------------------------------------------------------------------------------
# Unpaired translation: least squares (arXiv 1611.04076 eq. 2), CAM classification (1907.10830 eq. 6), regions and masks


def lsgan(logits: Tensor, target: float) -> Tensor:
    """Least-squares adversarial loss of logits of any shape against `target`: 1 (real) or 0 (generated); scalar."""
    return (logits - target).square().mean()


def cam_classification(logits: Tensor, source: bool) -> Tensor:
    """Binary cross-entropy of a generator's attention classifier, scalar.

    Args:
        logits: [N, 2], of average and maximum pooling.
        source: whether the generator's input was of the source domain.
    """
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(source)))


def regional_l1(image: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1 over a soft region, normalised by its area in each picture, so that a small region counts as much: scalar.

    It is a mean over pictures, so the mean over the parts of a batch is that of the batch.

    Args:
        image: [N, C, H, W].
        target: [N, C, H, W].
        weight: [N, 1, H, W], >= 0. With ``1 - mask`` this is the background term.
    """
    total = ((image - target).abs() * weight).sum(dim=(1, 2, 3))
    return (total / (image.shape[1] * weight.sum(dim=(1, 2, 3))).clamp_min(1e-6)).mean()


def mask_supervision(mask: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy between predicted and given head coverage, both [N, 1, H, W] in [0, 1]: scalar."""
    return F.binary_cross_entropy(mask.clamp(1e-6, 1 - 1e-6), target)


def total_variation(mask: Tensor) -> Tensor:
    """Mean absolute difference between neighbours, vertical plus horizontal, of [N, C, H, W]: scalar."""
    down = (mask[..., 1:, :] - mask[..., :-1, :]).abs().mean()
    return down + (mask[..., :, 1:] - mask[..., :, :-1]).abs().mean()


# ---------------------------------------------------------------------------------------------------------------------
# Likeness: pixels and feature maps (arXiv 1801.03924)


def perceptual_distance(maps: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Squared distance of feature vectors of unit length, mean over places and maps: [N] in [0, 4].

    As in LPIPS (Zhang et al., arXiv 1801.03924, eq. 1) with equal weights. maps, targets: lists of [N, C, h, w].
    """
    rows = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        for a, b in zip(maps, targets, strict=True)
    ]
    return torch.stack(rows).mean(dim=0)


def pixel_distance(images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error per picture of [N, 3, H, W] in [-1, 1]: [N]."""
    return (images - targets).square().mean(dim=(1, 2, 3))


def grid_error(images: Tensor, targets: Tensor) -> Tensor:
    """How far pictures have a regular grid of their sub-pixels that their targets lack: a scalar.

    Of every 2x2 pixels of the error, what differs from row to row, from column to column and along the diagonal,
    averaged over windows of 16 px: strands of hair cancel out there, a grid does not. L1 and discriminator overlook
    one of 1 % of the range, and eyes do not.

    Args:
        images: [N, C, H, W], sides a multiple of 16.
        targets: the same shape.
    """
    pixels = F.pixel_unshuffle(images - targets, 2).unflatten(1, (-1, 4))
    signs = pixels.new_tensor([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 4
    alternating = torch.einsum("ncphw,qp->ncqhw", pixels, signs).flatten(1, 2)
    return F.avg_pool2d(alternating, 8).abs().mean()
