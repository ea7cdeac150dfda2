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


def path_length_penalty(lengths: Tensor, mean: Tensor, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """Squared deviation of path lengths [N] from their running mean, per image, and the moved mean (detached).

    The deviation is taken from the mean after its move, through which the gradient flows, as in the official code.
    """
    moved = mean.lerp(lengths.mean(), decay)
    return (lengths - moved).square(), moved.detach()
