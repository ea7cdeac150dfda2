"""Who is it? Recognisers for the identity loss and measure: the face reader, MobileFaceNet or ArcFace, by name or path.

A picture is always looked at through a crop that was found on the *photo*, and the same crop serves the photo and what
was painted of it: a crop of its own would forgive a shifted or swollen face. The gradient flows to the picture, never
into the recogniser.

MobileFaceNet: Chen et al. (arXiv 1804.07573), table 1, on the 112x96 crops of SphereFace (arXiv 1704.08063, sec. 4.1).
ArcFace: Deng et al. (arXiv 1801.07698); the IR-SE-50 network is facexlib's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.files import sha256_file
from stages.core.settings import TristyleError
from stages.faces.facexlib import part
from stages.faces.weights import read_weight
from stages.metrics.identity import crop, head_boxes
from stages.networks.face_reader import Reader, load_reader

# Eyes, nose, corners of the mouth (image left first) in the 96x112 crop: x, y, integers at pixel centres.
SPHEREFACE = ((30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041))
REMEDY = "Give 'reader', or the path of a face reader, of MobileFaceNet's .ckpt or of facexlib's ArcFace .pth."


class Recogniser(ABC):
    """Embeds faces. No `nn.Module`: a task that keeps one neither trains, stores nor moves it.

    Attributes:
        id: kind and the first 8 hex digits of the weights' sha256; belongs beside every number made with it.
    """

    id: str

    @abstractmethod
    def find(self, photo: Tensor, mask: Tensor | None = None, landmarks: Tensor | None = None) -> Tensor:
        """Where the face is, one crop a photo, for `embed`; without gradient.

        Args:
            photo: [N, 3, H, W] in [-1, 1].
            mask: [N, 1, H, W] head coverage in [0, 1] (the face reader's crop; the whole frame without it).
            landmarks: [N, 68, 2] as shares of width and height (the aligned crops; read off the photo without them).
        """

    @abstractmethod
    def embed(self, images: Tensor, where: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] through the crops of `find` -> [N, D] of unit length, float32; differentiable."""

    def cosine(
        self, photo: Tensor, output: Tensor, mask: Tensor | None = None, landmarks: Tensor | None = None
    ) -> Tensor:
        """Likeness of photos and of what was painted of them, [N] in [-1, 1]; differentiable in `output` alone.

        The identity loss is `(1 - cosine).mean()`; the arguments are those of `find`, `output` is like `photo`.
        """
        with torch.no_grad():
            where = self.find(photo, mask, landmarks)
            known = self.embed(photo, where)
        return (self.embed(output, where) * known).sum(1)


class ReaderRecogniser(Recogniser):
    """The face reader's identity in a square around the head (`metrics.identity.head_boxes`): 64 numbers."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.id = reader, reader.id

    def find(self, photo: Tensor, mask: Tensor | None = None, landmarks: Tensor | None = None) -> Tensor:
        """Boxes [N, 4] in pixels: left, top, right, bottom."""
        return head_boxes(torch.ones_like(photo[:, :1]) if mask is None else mask)

    def embed(self, images: Tensor, where: Tensor) -> Tensor:
        """As `Recogniser.embed`: [N, 64]."""
        with torch.autocast(images.device.type, enabled=False):
            return self.reader.identity(crop(images.float(), where))


class AlignedRecogniser(Recogniser):
    """A network that sees faces turned and scaled onto five template points.

    Args:
        network: [N, 3, height, width] in [-1, 1] -> [N, D], frozen.
        size: height and width of its input.
        template: [5, 2] x, y in pixels of that input.
        reader: reads the landmarks where none are given.
    """

    def __init__(self, id: str, network: nn.Module, size: tuple[int, int], template: Tensor, reader: Reader) -> None:
        self.id, self.network, self.size, self.template, self.reader = id, network, size, template, reader

    @torch.no_grad()
    def find(self, photo: Tensor, mask: Tensor | None = None, landmarks: Tensor | None = None) -> Tensor:
        """Affine maps [N, 2, 3] from pixels of the crop to pixels of the photo."""
        points = five_points(self.reader.read(photo.float()).landmarks if landmarks is None else landmarks)
        pixels = points * points.new_tensor([photo.shape[3], photo.shape[2]]) - 0.5
        return similarity(pixels, self.template.to(pixels))

    def embed(self, images: Tensor, where: Tensor) -> Tensor:
        """As `Recogniser.embed`."""
        with torch.autocast(images.device.type, enabled=False):
            return F.normalize(self.network(align(images.float(), where, self.size)), dim=1)


def five_points(landmarks: Tensor) -> Tensor:
    """Centres of the eyes, tip of the nose and corners of the mouth of 68 landmarks: [N, 68, 2] -> [N, 5, 2]."""
    eyes = [landmarks[:, low : low + 6].mean(1) for low in (36, 42)]
    return torch.stack([*eyes, landmarks[:, 30], landmarks[:, 48], landmarks[:, 54]], dim=1)


def similarity(points: Tensor, template: Tensor) -> Tensor:
    """The rotation, scaling and shift that takes `points` closest to `template`, inverted: template -> picture.

    Least squares over the five distances, without reflection (Umeyama, 1991). As complex numbers p, t the map is
    t = a p + b with a = sum conj(p - p0) (t - t0) / sum |p - p0|^2.

    Args:
        points: [N, 5, 2] px.
        template: [5, 2] px.

    Returns:
        [N, 2, 3].
    """
    p, t = torch.view_as_complex(points.contiguous()), torch.view_as_complex(template.contiguous())
    p0, t0 = p.mean(1, keepdim=True), t.mean()
    a = ((p - p0).conj() * (t - t0)).sum(1) / (p - p0).abs().square().sum(1).clamp_min(1e-12)
    back = 1 / torch.where(a.abs() < 1e-6, torch.ones_like(a), a)
    shift = p0[:, 0] - back * t0
    rows = [torch.stack([back.real, -back.imag, shift.real], 1), torch.stack([back.imag, back.real, shift.imag], 1)]
    return torch.stack(rows, dim=1)


def align(images: Tensor, where: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample [N, 3, H, W] at the pixels of a crop of `size` (height, width) -> [N, 3, height, width]; differentiable.

    `where` [N, 2, 3] maps pixels of the crop to pixels of the image, both counted from the centre of the first. What is
    reduced is sampled at a multiple and averaged; outside the frame the border repeats.
    """
    factor = min(8, max(1, math.ceil(float(where[:, :, 0].norm(dim=1).max()) - 1e-3)))
    rows, columns = (
        (torch.arange(side * factor, device=images.device, dtype=images.dtype) + 0.5) / factor - 0.5 for side in size
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1) @ where.to(images).mT  # [N, P, 2] in pixels
    grid = (2 * points + 1) / images.new_tensor([images.shape[3], images.shape[2]]) - 1
    sampled = F.grid_sample(images, grid.unflatten(1, y.shape), padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, factor)


# ---------------------------------------------------------------------------------------------------------------------
# MobileFaceNet


class _Unit(nn.Module):
    """Convolution, batch normalisation and, unless `linear`, PReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.prelu(self.bn(self.conv(x)))
        return out


class _Bottleneck(nn.Module):
    """Inverted residual: 1x1 to `expansion` times the width, depthwise 3x3, linear 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.keeps = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv(x) if self.keeps else self.conv(x)
        return out


class MobileFaceNet(nn.Module):
    """[N, 3, 112, 96] RGB in [-1, 1] (trained with (x - 127.5) / 128) -> [N, 128]; names are the checkpoint's."""

    # table 1: expansion, channels, repeats, stride of the first
    STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _Unit(3, 64, 3, stride=2, padding=1)
        self.dw_conv1 = _Unit(64, 64, 3, padding=1, groups=64)
        blocks, width = [], 64
        for expansion, channels, repeats, stride in self.STAGES:
            for i in range(repeats):
                blocks.append(_Bottleneck(width, channels, stride if i == 0 else 1, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = _Unit(width, 512, 1)
        self.linear7 = _Unit(512, 512, (7, 6), groups=512, linear=True)  # global depthwise convolution, section 3.2
        self.linear1 = _Unit(512, 128, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 112, 96] in [-1, 1] -> [N, 128], not normalised."""
        x = self.blocks(self.dw_conv1(self.conv1(x * (127.5 / 128))))
        out: Tensor = self.linear1(self.linear7(self.conv2(x))).flatten(1)
        return out


def arcface() -> nn.Module:
    """The ArcFace of facexlib, IR-SE-50 with drawn weights: [N, 3, 112, 112] RGB in [-1, 1] -> [N, 512].

    Raises:
        TristyleError: facexlib is not installed.
    """
    network: nn.Module = part("recognition", "arcface_arch").Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se")
    return network


# ---------------------------------------------------------------------------------------------------------------------
# Opening


def open_recogniser(name: str = "reader", device: str = "cpu") -> Recogniser:
    """A frozen recogniser in eval mode.

    Args:
        name: `reader` (the shipped face reader), or the path of weights: a face reader (.safetensors), MobileFaceNet
            (.ckpt with `net_state_dict`), facexlib's `recognition_arcface_ir_se50.pth`. Which one it is shows in the
            tensors' names. Only tensors are read.
        device: where it computes.

    Raises:
        TristyleError: no such file, damaged, or the weights of something else; one line.
    """
    if name == "reader":
        return ReaderRecogniser(load_reader(device))
    path = Path(name)
    if path.suffix == ".safetensors":
        return ReaderRecogniser(load_reader(device, name))

    state = _weights(path)
    network: nn.Module
    if "linear7.conv.weight" in state:
        kind, network, size, offset = "mobilefacenet", MobileFaceNet(), (112, 96), 0.0
    elif "input_layer.0.weight" in state:
        kind, network, size, offset = "arcface", arcface(), (112, 112), 8.0
    else:
        raise TristyleError(f"{path}: its weights fit none of the known recognisers. {REMEDY}")
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:  # torch lists what is wrong from the second line on
        first = next(iter(str(error).splitlines()[1:]), str(error)).strip()
        raise TristyleError(f"{path}: does not fit {kind} ({first}). {REMEDY}") from None

    template = torch.tensor(SPHEREFACE, device=device) + torch.tensor([offset, 0.0], device=device)
    network = network.float().to(device).eval().requires_grad_(False)
    return AlignedRecogniser(f"{kind}-{sha256_file(path)[:8]}", network, size, template, load_reader(device))


def _weights(path: Path) -> Mapping[str, Tensor]:
    """A state dict of a torch file, directly or under `net_state_dict`."""
    state = read_weight(path, REMEDY)
    state = state.get("net_state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TristyleError(f"{path}: holds no weights of a network. {REMEDY}")
    return state
