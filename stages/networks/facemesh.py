"""Face Mesh: 468 points of a face in one small network.

Kartynnik et al., "Real-time facial surface geometry from monocular video on mobile GPUs" (arXiv 1907.06724), with the
blocks of BlazeFace (Bazarevsky et al., arXiv 1907.05047, figure 1). The paper gives no table of layers: widths and
names are those of the published weights (Apache-2.0; `facemesh.pth`, see `stages.faces.weights`). Strided convolutions
are padded right and below alone, as TensorFlow's "SAME" does: that is how the weights were trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = 468


class MeshBlock(nn.Module):
    """Depthwise 3x3 and pointwise convolution beside a shortcut, then PReLU.

    A stride of 2 halves the shortcut by maxima; new channels of it are zero.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.more = stride, outputs - inputs
        self.convs = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, stride, padding=2 - stride, groups=inputs), nn.Conv2d(inputs, outputs, 1)
        )
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        shortcut = x
        if self.stride == 2:
            x, shortcut = F.pad(x, (0, 1, 0, 1)), F.max_pool2d(shortcut, 2)
        if self.more:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.more))
        out: Tensor = self.act(self.convs(x) + shortcut)
        return out


class FaceMesh(nn.Module):
    """[N, 3, 192, 192] RGB in [-1, 1] -> points and a score."""

    SIZE = 192
    WIDTHS = (16, 32, 64, 128, 128)  # three blocks each; from the second on the first halves the resolution

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, self.WIDTHS[0], 3, 2), nn.PReLU(self.WIDTHS[0])]
        width = self.WIDTHS[0]
        for index, wide in enumerate(self.WIDTHS):
            for number in range(2 if index == 0 else 3):
                layers.append(MeshBlock(width, wide, stride=2 if index and number == 0 else 1))
                width = wide
        self.backbone = nn.Sequential(*layers)
        self.coord_head = nn.Sequential(
            MeshBlock(width, width, 2), MeshBlock(width, width), MeshBlock(width, width),
            nn.Conv2d(width, 32, 1), nn.PReLU(32), MeshBlock(32, 32), nn.Conv2d(32, POINTS * 3, 3),
        )  # fmt: skip
        self.conf_head = nn.Sequential(
            MeshBlock(width, width, 2), nn.Conv2d(width, 32, 1), nn.PReLU(32), MeshBlock(32, 32), nn.Conv2d(32, 1, 3)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 192, 192] -> x, y, z [N, 468, 3] in px of the input (z toward the back), and [N] in 0..1."""
        x = self.backbone(F.pad(x, (0, 1, 0, 1)))
        points = self.coord_head(x).reshape(-1, POINTS, 3)
        return points, torch.sigmoid(self.conf_head(x).flatten())
