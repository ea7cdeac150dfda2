"""Every conversion of value range.

Pictures are uint8 RGB on disk. Networks see float32 RGB NCHW in [-1, 1]; metrics and kornia see [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorSpec:
    """A named input or output of a network, for whoever feeds it.

    Attributes:
        name: as exported files call it.
        channels: C.
        low: least value.
        high: largest value.
        spatial: True: a picture, [1, C, H, W] with free height and width. False: a vector, [1, C].
        note: what else a reader of its card should know.
    """

    name: str
    channels: int
    low: float = -1.0
    high: float = 1.0
    spatial: bool = True
    note: str = ""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Its shape for pictures of height x width px, with a batch dimension of 1."""
        return (1, self.channels, height, width) if self.spatial else (1, self.channels)


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] or [H, W, 3] -> float32 [N, 3, H, W] in [-1, 1] (x / 127.5 - 1)."""
    import torch

    array = images[None] if images.ndim == 3 else images
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert float [N, 3, H, W] in [-1, 1] to uint8 [N, H, W, 3], rounded and clamped."""
    import torch

    scaled = images.detach().float().mul(127.5).add(127.5).round().clamp_(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def mask_tensor(masks: np.ndarray) -> Tensor:
    """uint8 [N, H, W] -> float32 [N, 1, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(masks))[:, None].float().div_(255.0)


def unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return images.add(1.0).mul(0.5).clamp(0.0, 1.0)


def lab(images: Tensor) -> Tensor:
    """CIE L*a*b* (D65) of sRGB: [N, 3, H, W] in [0, 1] -> [N, 3, H, W], L* in 0 to 100; differentiable.

    OpenCV's own conversion differs from it by up to 0.23 in L* and 0.55 in a* and b*: it interpolates in a table.
    """
    from kornia.color import rgb_to_lab  # half a second, which a command that needs no colour does not pay

    return rgb_to_lab(images)
