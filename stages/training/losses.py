"""Losses as pure functions of tensors; the stages weigh and sum them.

Each section names its source. Nothing here keeps state or knows a network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN2: logistic adversarial losses, R1, path length (arXiv 1406.2661, 1801.04406, 1912.04958 sec. 3.2)


def generator_logistic(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss per image: softplus(-D(fake)), the shape of the logits."""
    return F.softplus(-fake_logits)


def discriminator_logistic(logits: Tensor, real: bool) -> Tensor:
    """Logistic discriminator loss per image for logits of real or of generated images."""
    return F.softplus(-logits if real else logits)


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """Squared norm of the gradient of the logits with respect to the real images, per image: [N].

    `real_images` must require a gradient and have led to `real_logits`. The loss is ``gamma / 2`` times this.
    """
    (grad,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return grad.square().sum(dim=(1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor, unit_noise: Tensor) -> Tensor:
    """Length of J_w^T y per image for image noise y of unit variance over sqrt(H W): [N] (1912.04958, eq. 4).

    images: [N, C, H, W] generated from ws: [N, num_ws, w_dim]; unit_noise: N(0, 1) in the shape of the images.
    """
    noise = unit_noise / (images.shape[2] * images.shape[3]) ** 0.5
    (grad,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    return grad.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(
    lengths: Tensor, mean: Tensor, decay: float = 0.01, whole: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Squared deviation of path lengths [N] from their running mean, per image, and the moved mean (detached).

    The deviation is taken from the mean after its move, through which the gradient flows, as in the official code.
    `whole` is the mean length of a batch of which `lengths` are a micro-batch: the deviation is from the mean moved by
    all of the batch, and the gradients of its micro-batches average to those of the batch in one piece.
    """
    if whole is None:
        moved = mean.lerp(lengths.mean(), decay)
        return (lengths - moved).square(), moved.detach()
    moved = mean.lerp(whole, decay)
    through_the_mean = -2 * decay * (whole - moved) * (lengths - lengths.detach())  # 0, but for its gradient
    return (lengths - moved).square() + through_the_mean, moved


def distance_consistency(transferred: Tensor, source: Tensor) -> Tensor:
    """Cross-domain distance consistency, scalar: KL divergence of who resembles whom (arXiv 2104.06820, eq. 1-3).

    Each sample's cosine similarities to all others become a distribution by a softmax; the loss is the mean over the
    samples of KL(transferred || source).

    transferred, source: activations [N, ...] of the two generators for the same N latents; the source's are detached.
    Fewer than three samples resemble each other in one way only: 0.
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
    """Adversarial loss of the student: -mean of the patch logits, scalar."""
    return -fake_logits.mean()


def patch_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss of a patch discriminator, scalar; 2 for logits of 0, 0 where both are right by a margin of 1."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def feature_matching(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Mean L1 between a discriminator's activations on a target and on an output, scalar; the target's are detached."""
    return torch.stack([F.l1_loss(b, a.detach()) for a, b in zip(real, fake, strict=True)]).mean()


def edge_strength(images: Tensor) -> Tensor:
    """Sobel slope of the luma, 1 on the steepest pixel of each image: [N, 3, H, W] -> [N, 1, H, W] in [0, 1]."""
    luma = (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    sobel = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernel = torch.stack([sobel, sobel.T])[:, None]  # [2, 1, 3, 3]
    slope = F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="replicate"), kernel).norm(dim=1, keepdim=True)
    return slope / slope.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)


def edge_weighted_l1(output: Tensor, target: Tensor, gain: float = 4.0) -> Tensor:
    """Mean |output - target| with weight 1 + gain * edge_strength(target), scalar: thin outlines would drown else."""
    return ((1 + gain * edge_strength(target)) * (output - target).abs()).mean()


def chroma_l1(output: Tensor, target: Tensor) -> Tensor:
    """L1 of the U and V planes (Rec. 601) of [N, 3, H, W] in [-1, 1], scalar: hues must not average to grey."""
    # U and V are linear in RGB and ignore equal offsets: [-1, 1] only doubles them, and they are taken of a difference.
    weights = output.new_tensor([[-0.147, -0.289, 0.436], [0.615, -0.515, -0.100]])
    return F.conv2d(output - target, weights[:, :, None, None]).abs().mean()


def matte_loss(alpha: Tensor, change: Tensor) -> Tensor:
    """Mean alpha where nothing changes, scalar. alpha, change: [N, 1, H, W] in [0, 1]; change 1 = may be painted."""
    return (alpha * (1 - change)).mean()


def random_similarities(draws: Tensor, shift: float, turn: float, zoom: float) -> Tensor:
    """Maps of a picture's pixels about its centre, float [N, 2, 3]: half of them whole-pixel shifts, half anything.

    draws: uniform [N, 5] in [0, 1]. shift: largest shift in pixels; turn: in radians; zoom: share of the size. A
    whole-pixel shift resamples nothing, so that a loss over it cannot be lowered by blurring.
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
    """Pictures seen through `maps`: out(c + x) = picture(c + A x + b), bicubic, and where that lies inside them.

    images: [N, C, H, W]; maps: [N, 2, 3] = (A, b) in pixels about the centre c. Returns [N, C, H, W] and the valid
    pixels, float [N, 1, H, W]; outside the border repeats.
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

    output, output_of_moved: [N, 3, H, W], of the photos and of `moved(photos, maps)`; maps: [N, 2, 3], see `moved`.
    """
    wanted, valid = moved(output, maps)
    line = output.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(output.shape[1], 1, 3, 3)
    difference = F.conv2d(F.pad(output_of_moved - wanted, (1, 1, 1, 1), mode="replicate"), kernel, groups=len(kernel))
    return (difference.abs() * valid).mean()


# ---------------------------------------------------------------------------------------------------------------------
# Unpaired translation: least squares (arXiv 1611.04076 eq. 2), CAM classification (1907.10830 eq. 6), regions and masks


def lsgan(logits: Tensor, target: float) -> Tensor:
    """Least-squares adversarial loss against 1 (real) or 0 (generated), scalar."""
    return (logits - target).square().mean()


def cam_classification(logits: Tensor, source: bool) -> Tensor:
    """Binary cross-entropy of a generator's attention classifier [N, 2]: is its input of the source? Scalar."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(source)))


def regional_l1(image: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1 over a soft region, normalised by its area in each picture, so that a small region counts as much: scalar.

    image, target: [N, C, H, W]; weight: [N, 1, H, W] >= 0. With weight = 1 - mask this is the background term. The
    mean over pictures, hence that over the parts of a batch, too.
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
