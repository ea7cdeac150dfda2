"""The face parser: which of the 19 CelebAMask-HQ labels each pixel of a portrait has.

An own, small design of known parts, as the face reader's: residual encoder (He et al., 2016, arXiv 1512.03385, figure
2), top-down lateral sums (feature pyramid: Lin et al., 2017, arXiv 1612.03144, figure 3). Nothing is convolved at full
size: 2x2 blocks of the input become channels and channels of the output 2x2 blocks (Shi et al., 2016, arXiv 1609.05158,
section 3.2). Its labels are `PARSER_LABELS` of
`stages.networks.face_labels`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.networks.face_labels import PARSER_LABELS
from stages.networks.mobile import ResidualBlock, conv_bn_relu


class FaceParser(nn.Module):
    """Encoder-decoder for portraits of 128 pixels a side, FFHQ-aligned or nearly so.

    Args:
        widths: channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size.
        blocks: residual blocks at each of them.
        lateral: channels of the decoder.
    """

    size = 128  # pixels a side that it is trained at

    def __init__(
        self,
        widths: tuple[int, ...] | list[int] = (24, 64, 128, 192, 192),
        blocks: tuple[int, ...] | list[int] = (1, 1, 2, 2, 1),
        lateral: int = 40,
    ) -> None:
        super().__init__()
        self.arguments = {"widths": list(widths), "blocks": list(blocks), "lateral": lateral}
        levels, before = [], 12
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            first = conv_bn_relu(before, width, stride=2 if level else 1)
            levels.append(nn.Sequential(first, *(ResidualBlock(width) for _ in range(count))))
            before = width
        self.levels = nn.ModuleList(levels)
        self.lateral = nn.ModuleList(nn.Conv2d(width, lateral, 1) for width in widths)
        self.smooth = nn.ModuleList(conv_bn_relu(lateral, lateral) for _ in widths[:-1])
        self.split = nn.Conv2d(lateral, 4 * len(PARSER_LABELS), 1)
        with torch.no_grad():  # the four pixels of a block start alike, or a checkerboard has to be unlearnt
            self.split.weight.copy_(self.split.weight[::4].repeat_interleave(4, dim=0))
            nn.init.zeros_(self.split.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [-1, 1], sides multiples of 32 -> logits [N, 19, H, W]."""
        x = F.pixel_unshuffle(images, 2)
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)  # [N, widths[i], H / 2 ** (i + 1), W / 2 ** (i + 1)]
        x = self.lateral[-1](maps[-1])
        for index in reversed(range(len(self.smooth))):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + self.lateral[index](maps[index])
            x = self.smooth[index](x)
        return F.pixel_shuffle(self.split(x), 2)
