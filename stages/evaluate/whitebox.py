"""White-box Cartoonization's generator (Wang & Yu, CVPR 2020), to stand beside ours on the same portraits.

A U-Net of 32 channels with additive skips and four residual blocks, its output smoothed by a guided filter (He et al.,
2013) whose guide is the photo. The weights are not this project's (CC-BY-NC-SA-4.0) and are read from where they lie.
TensorFlow's conventions: "SAME" pads a stride of 2 to the right and below only, and doubling by `resize_bilinear`
keeps every pixel where it was and puts a mean between neighbours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.tensors import to_tensor, to_uint8
from stages.metrics.backbones import read_state

STEP = 4  # sizes are multiples of this
SLOPE = 0.2  # of LeakyReLU
RADIUS, SMOOTH = 1, 5e-3  # of the guided filter: radius in px, epsilon for pictures in [-1, 1]


class Block(nn.Module):
    """Residual block: two convolutions, activation between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions make of x [N, C, H, W]; the shape stays."""
        out: Tensor = x + self.conv2(F.leaky_relu(self.conv1(x), SLOPE))
        return out


def doubled(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W], pixel (i, j) at (2i, 2j), means between; the last row and column are repeated."""
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    size = [2 * side - 1 for side in x.shape[-2:]]
    return F.interpolate(x, size, mode="bilinear", align_corners=True)[..., :-1, :-1]


def mean_around(x: Tensor) -> Tensor:
    """Mean of each pixel's window, of those of its pixels that lie inside."""
    return F.avg_pool2d(x, 2 * RADIUS + 1, stride=1, padding=RADIUS, count_include_pad=False)


def guided(guide: Tensor, picture: Tensor) -> Tensor:
    """`picture` as a locally linear function of `guide`, each channel by itself: [N, 3, H, W] twice -> same."""
    mean_guide, mean_picture = mean_around(guide), mean_around(picture)
    covariance = mean_around(guide * picture) - mean_guide * mean_picture
    variance = mean_around(guide * guide) - mean_guide.square()
    slope = covariance / (variance + SMOOTH)
    return mean_around(slope) * guide + mean_around(mean_picture - slope * mean_guide)


class Whitebox(nn.Module):
    """Photo [N, 3, H, W] in [-1, 1] -> picture, same; names of the layers are the weights file's."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 32, 7), (32, 32, 3), (32, 64, 3), (64, 64, 3), (64, 128, 3)]  # down
        widths += [(128, 64, 3), (64, 64, 3), (64, 32, 3), (32, 32, 3), (32, 3, 7)]  # up
        for place, (inputs, outputs, kernel) in enumerate(widths):
            stride = 2 if place in (1, 3) else 1
            layer = nn.Conv2d(inputs, outputs, kernel, stride, 0 if stride == 2 else kernel // 2)
            self.add_module(f"Conv_{place}" if place else "Conv", layer)
        for place in range(4):
            self.add_module(f"block_{place}", Block(128))

    def _unit(self, place: int, x: Tensor) -> Tensor:
        layer = self.get_submodule(f"Conv_{place}" if place else "Conv")
        return F.leaky_relu(layer(F.pad(x, (0, 1, 0, 1)) if place in (1, 3) else x), SLOPE)

    def forward(self, photo: Tensor) -> Tensor:
        """H and W are multiples of STEP."""
        full = self._unit(0, photo)
        half = self._unit(2, self._unit(1, full))
        x = self._unit(4, self._unit(3, half))
        for place in range(4):
            x = self.get_submodule(f"block_{place}")(x)
        x = self._unit(7, self._unit(6, doubled(self._unit(5, x)) + half))
        x = self.get_submodule("Conv_9")(self._unit(8, doubled(x) + full))
        return guided(photo, x).clamp(-1, 1)


def open_whitebox(path: Path) -> Whitebox:
    """The generator with the weights of `whitebox_cartoon_unet_fp16.pth`, which must fit to the last name."""
    network = Whitebox()
    network.load_state_dict(read_state(path), strict=True)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def paint(network: Whitebox, photos: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> same, a few at a time."""
    parts = [to_uint8(network(to_tensor(photos[i : i + 8]))) for i in range(0, len(photos), 8)]
    return np.concatenate(parts)
