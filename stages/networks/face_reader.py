"""The face reader: one small network that reads a portrait, photo or painted style alike.

It supplies head masks wherever none are given, identity, pose coverage, and the features for KID. Trained by
`python -m stages.recipes.face_reader` on rendered people only and shipped as `data/reader.safetensors` with its card.

An own design of known parts: residual encoder (He et al., 2016) with top-down lateral sums (feature pyramid: Lin et
al., 2017, figure 3); landmarks as expectations over heat maps (Sun et al., 2018, eq. 1-2); identity from features
pooled under each parsed region, so that it rests on hair, skin and eyes and not on what lies behind them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.files import data_file, sha256_file
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.core.weights import load_network
from stages.networks.face_labels import READER_HEAD, READER_LABELS

SIZE = 64  # pixels a side inside the network
LANDMARKS = 68
IDENTITY = 64
DEGREES = 30.0  # the network's unit of yaw and pitch
MOBILE = (*range(17, 27), *range(36, 68))  # landmarks that expression moves: brows, eyes, mouth
CHUNK = 64  # pictures at a time in `Reader.read`


@dataclass
class FaceReading:
    """What the reader says of N pictures.

    Attributes:
        parsing: [N, 13, 64, 64] logits over `READER_LABELS`, at the network's own size.
        mask: [N, 1, H, W] head coverage in [0, 1] (hair, hat, face, ears, beard, glasses), at the input's size.
        landmarks: [N, 68, 2] x, y as shares of width and height (iBUG 300-W order).
        pose: [N, 2] yaw and pitch in degrees.
        expression: [N, 3] smile (-1..1), mouth_open (0..1), eye_open (0..1).
        identity: [N, 64] of unit length.
        features: [N, 272] standardised features for KID.
    """

    parsing: Tensor
    mask: Tensor
    landmarks: Tensor
    pose: Tensor
    expression: Tensor
    identity: Tensor
    features: Tensor


def _unit(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class ReaderBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., 2016, figure 2); width kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _unit(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two layers make of x [N, C, H, W]; the shape stays."""
        return F.relu(x + self.second(self.first(x)))


class Reader(nn.Module):
    """Encoder-decoder with heads for parsing, landmarks, pose, expression and identity.

    Args:
        widths: channels at 32, 16, 8 and 4 pixels a side.
        lateral: channels of the decoder at 8, 16 and 32 pixels a side.

    Nothing is convolved at 64 pixels a side: the input's 2x2 blocks become channels, and the parsing's channels become
    2x2 blocks (Shi et al., 2016, section 3.2). That doubles the speed on a CPU at no loss seen.
    """

    id = "reader-unsaved"
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, widths: tuple[int, ...] | list[int] = (24, 64, 96, 112), lateral: int = 32) -> None:
        super().__init__()
        self.arguments = {"widths": list(widths), "lateral": lateral}

        # Encoder, and the decoder's lateral sums.
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), _unit(12, widths[0]), ReaderBlock(widths[0]))
        self.levels = nn.ModuleList(
            nn.Sequential(_unit(a, b, 2), ReaderBlock(b)) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, lateral, 1) for width in widths)
        self.smooth = nn.ModuleList(_unit(lateral, lateral) for _ in range(3))  # at 8, 16 and 32

        # Heads on the decoded map: labels and heat maps of the landmarks.
        split = nn.Conv2d(lateral, 4 * len(READER_LABELS), 1)
        with torch.no_grad():  # the four pixels of a block start alike, or a checkerboard has to be unlearnt
            split.weight.copy_(split.weight[::4].repeat_interleave(4, dim=0))
        nn.init.zeros_(cast(Tensor, split.bias))
        self.parse = nn.Sequential(split, nn.PixelShuffle(2))
        self.heat = nn.Conv2d(lateral, LANDMARKS, 1)

        # Heads on vectors: pose, expression, identity.
        self.turn = nn.Sequential(
            nn.Linear(widths[2] + widths[3] + 2 * LANDMARKS, 96), nn.ReLU(inplace=True), nn.Linear(96, 2)
        )
        local = (len(MOBILE) + 1) * lateral + 2 * LANDMARKS
        self.mood = nn.Sequential(  # normalised first: the shape's share in a smile is small beside a turned head's
            nn.BatchNorm1d(local), nn.Linear(local, 64), nn.ReLU(inplace=True), nn.Linear(64, 3)
        )
        regions = len(READER_LABELS) - 1
        self.who = nn.Sequential(
            nn.Linear(regions * (widths[1] + 1) + widths[3], 96), nn.ReLU(inplace=True), nn.Linear(96, IDENTITY)
        )

        # Mean and deviation of the features over the training set.
        count = 2 * widths[0] + 2 * widths[1] + widths[2]  # 272
        self.register_buffer("feature_mean", torch.zeros(count))
        self.register_buffer("feature_std", torch.ones(count))

    def encode(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [-1, 1] -> feature maps at 32, 16, 8 and 4 pixels a side, on the reader's device."""
        images = images.to(self.feature_mean.device)
        if images.shape[-2:] != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
        maps = [self.stem(images)]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Feature maps -> (parsing logits [N, 13, 64, 64], heat maps [N, 68, 32, 32], decoded [N, lateral, 32, 32])."""
        x = self.lateral[3](maps[3])
        for step, level in enumerate((2, 1, 0)):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + self.lateral[level](maps[level])
            x = self.smooth[step](x)  # [N, lateral, 8 | 16 | 32, same]
        return self.parse(x), self.heat(x), x

    def _embed(self, maps: list[Tensor], parsing: Tensor) -> Tensor:
        # Parsing only says where to look: identity must not bend it.
        regions = F.adaptive_avg_pool2d(parsing.detach().softmax(1)[:, 1:], maps[1].shape[-1])  # [N, 12, 16, 16]
        area = regions.mean(dim=(2, 3))  # [N, 12]
        sums = torch.einsum("nrhw,nchw->nrc", regions, maps[1]) / regions[0, 0].numel()
        pooled = sums / (area[..., None] + 0.01)  # [N, 12, C]; a region that is hardly there fades out
        code = torch.cat([pooled.flatten(1), 10 * area, maps[3].mean(dim=(2, 3))], dim=1)
        return F.normalize(self.who(code), dim=1)

    def _feel(self, decoded: Tensor, landmarks: Tensor) -> Tensor:
        # A smile lifts the mouth's corners by a pixel: averages over the picture do not show it, what lies under the
        # landmarks does, and so does their shape. Expression only listens: all inputs are detached.
        decoded, points = decoded.detach(), landmarks.detach()
        middle = points.mean(dim=1, keepdim=True)
        spread = (points - middle).norm(dim=2).mean(dim=1)[:, None, None] + 1e-3
        under = F.grid_sample(decoded, points[:, None, MOBILE] * 2 - 1, align_corners=False)  # [N, lateral, 1, 42]
        code = [under.flatten(1), decoded.mean(dim=(2, 3)), 4 * ((points - middle) / spread).flatten(1)]
        out: Tensor = self.mood(torch.cat(code, dim=1))
        return out

    def raw_features(self, maps: list[Tensor]) -> Tensor:
        """Means of three levels and deviations of the two finest -> [N, 272], not standardised."""
        means = [level.mean(dim=(2, 3)) for level in maps[:3]]
        squares = [level.square().mean(dim=(2, 3)) for level in maps[:2]]
        spread = [(s - m.square()).clamp(min=1e-6).sqrt() for s, m in zip(squares, means[:2], strict=True)]
        return torch.cat(means + spread, dim=1)

    def forward(self, images: Tensor) -> FaceReading:
        """Read pictures, with gradients.

        Args:
            images: [N, 3, H, W] in [-1, 1], any size (reduced to 64 pixels inside, antialiased).
        """
        maps = self.encode(images)
        parsing, heat, decoded = self.decode(maps)
        landmarks = expectation(heat)
        turn = self.turn(
            torch.cat([maps[2].mean(dim=(2, 3)), maps[3].mean(dim=(2, 3)), landmarks.detach().flatten(1) - 0.5], dim=1)
        )

        # Head coverage at the pictures' own size.
        mask = parsing.softmax(1)[:, READER_HEAD].sum(1, keepdim=True)
        if images.shape[-2:] != mask.shape[-2:]:
            mask = F.interpolate(mask, images.shape[-2:], mode="bilinear", align_corners=False, antialias=True)

        return FaceReading(
            parsing=parsing,
            mask=mask.clamp(0, 1),
            landmarks=landmarks,
            pose=turn * DEGREES,
            expression=self._feel(decoded, landmarks),
            identity=self._embed(maps, parsing),
            features=self.standardise(self.raw_features(maps)),
        )

    def standardise(self, features: Tensor) -> Tensor:
        """Raw features -> zero mean and unit deviation over the training set, so that KID's kernel is well scaled."""
        return (features - self.feature_mean) / self.feature_std

    @torch.no_grad()
    def read(self, images: Tensor) -> FaceReading:
        """Read any number of pictures, without gradients, 64 at a time.

        Args:
            images: [N >= 1, 3, H, W] in [-1, 1], any size, on any device; what was read is on the same.
        """
        parts = [self(chunk) for chunk in images.split(CHUNK)]
        names = [field.name for field in fields(FaceReading)]
        return FaceReading(**{n: torch.cat([getattr(p, n) for p in parts]).to(images.device) for n in names})

    def features(self, images: Tensor) -> Tensor:
        """Standardised features for KID: [N, 3, H, W] in [-1, 1] -> [N, 272] where images are; differentiable."""
        return self.standardise(self.raw_features(self.encode(images))).to(images.device)

    def identity(self, images: Tensor) -> Tensor:
        """Embeddings of unit length: [N, 3, H, W] in [-1, 1] -> [N, 64]; differentiable."""
        maps = self.encode(images)
        return self._embed(maps, self.decode(maps)[0])

    def recognise(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`identity` and `landmarks` of a `FaceReading` alone, a sixth sooner; differentiable."""
        maps = self.encode(images)
        parsing, heat, _ = self.decode(maps)
        return self._embed(maps, parsing), expectation(heat)


def expectation(heat: Tensor) -> Tensor:
    """Expected position under the softmax of each heat map (Sun et al., 2018, eq. 2).

    Args:
        heat: [N, K, H, W] logits.

    Returns:
        [N, K, 2] x, y as shares of width and height (pixel centres at (i + 0.5) / W).
    """
    n, k, height, width = heat.shape
    weight = heat.flatten(2).softmax(2).view(n, k, height, width)
    x = (torch.arange(width, device=heat.device) + 0.5) / width
    y = (torch.arange(height, device=heat.device) + 0.5) / height
    return torch.stack([(weight.sum(2) * x).sum(2), (weight.sum(3) * y).sum(2)], dim=2)


def reader_file() -> dict[str, Path]:
    """The shipped reader as an entry of a stage's `files()`: with another reader, measures and masks are others."""
    return {"reader": data_file("reader.safetensors")}


def load_reader(device: str = "cpu", path: str | None = None) -> Reader:
    """The shipped reader (or the one at `path`), in eval mode, with `id` = "reader-<first 8 hex digits of its sha256>".

    Raises:
        TristyleError: the file is missing, damaged or not a reader.
    """
    file = data_file("reader.safetensors") if path is None else path
    reader = load_network(file, device)
    if not isinstance(reader, Reader):
        raise TristyleError(
            f"{file}: holds {type(reader).__name__}, not a face reader. Give a file of stages.recipes.face_reader."
        )
    reader.id = f"reader-{sha256_file(file)[:8]}"
    return reader.requires_grad_(False)


@torch.no_grad()
def read_masks(reader: Reader, images: np.ndarray, device: str) -> np.ndarray:
    """Head coverage of pictures as the face reader sees it.

    Args:
        reader: the face reader, on `device`.
        images: uint8 [N, H, W, 3].
        device: where to compute.

    Returns:
        uint8 [N, H, W], 255 = head.
    """
    masks = [reader.read(to_tensor(images[i : i + 64]).to(device)).mask for i in range(0, len(images), 64)]
    return torch.cat(masks)[:, 0].mul(255).round().to(torch.uint8).cpu().numpy()
