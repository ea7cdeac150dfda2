"""Which pixels of an aligned portrait are skin, hair, eyes...: the face parsers, behind one shape.

    parser = open_parser("parser.safetensors")       # trained by `python -m stages.recipes.face_parser`
    parser = open_parser("parsing_bisenet.pth")      # facexlib's BiSeNet
    parser = open_parser(None)                       # the shipped face reader: fewer labels, 64 pixels a side
    parser.labels(images), parser.head(images)       # uint8 [N, H, W] each

Labels are those of CelebAMask-HQ in its order (`stages.networks.face_labels.PARSER_LABELS`), whichever parser speaks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.files import sha256_file
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.core.weights import load_network
from stages.faces.facexlib import part
from stages.faces.weights import read_weight
from stages.networks.face_labels import BISENET_TO_PARSER, PARSER_HEAD, PARSER_LABELS, PARSER_SIDED, READER_TO_PARSER
from stages.networks.face_reader import Reader, load_reader
from stages.networks.parser import FaceParser

CHUNK = 32  # pictures at a time
REMEDY = (
    "Give a file of `python -m stages.recipes.face_parser`, facexlib's parsing_bisenet.pth, "
    "or none for the face reader."
)


class Parser(ABC):
    """Parses portraits of any size, FFHQ-aligned or nearly so.

    Attributes:
        id: kind and the first 8 hex digits of the weights' sha256; belongs beside every number made with it.
    """

    id: str
    device: str

    @abstractmethod
    def shares(self, images: Tensor) -> Tensor:
        """Probabilities: [N, 3, H, W] in [-1, 1] on the parser's device -> [N, 19, h, w] at the network's own size."""

    @torch.no_grad()
    def labels(self, images: np.ndarray) -> np.ndarray:
        """The likeliest label of each pixel: uint8 RGB [N, H, W, 3] -> uint8 [N, H, W] in CelebAMask-HQ's order."""
        return np.concatenate([self._resized(part).argmax(1).byte().cpu().numpy() for part in _parts(images)])

    @torch.no_grad()
    def head(self, images: np.ndarray) -> np.ndarray:
        """How much of each pixel is head, in one piece: uint8 RGB [N, H, W, 3] -> uint8 [N, H, W], 255 = all of it."""
        return np.concatenate([self._head(part) for part in _parts(images)])

    def _resized(self, images: np.ndarray) -> Tensor:
        shares = self.shares(to_tensor(images).to(self.device))
        return F.interpolate(shares, images.shape[1:3], mode="bilinear", align_corners=False, antialias=True)

    def _head(self, images: np.ndarray) -> np.ndarray:
        coverage = self._resized(images)[:, PARSER_HEAD.start : PARSER_HEAD.stop].sum(1)
        return np.stack([one_piece(mask) for mask in coverage.mul(255).round().clamp(0, 255).byte().cpu().numpy()])


def one_piece(head: np.ndarray) -> np.ndarray:
    """A head mask without its holes, and without pieces apart from the largest: uint8 [H, W], same shape.

    Parsers lose a dark forehead, or see hair in a tree. On labelled portraits held out this is worth 0.001 to 0.004 of
    the head's IoU.
    """
    count, pieces, stats, _ = cv2.connectedComponentsWithStats((head > 127).astype(np.uint8), connectivity=8)
    if count < 2:
        return head
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    kept = np.where((head > 127) & (pieces != largest), 0, head).astype(np.uint8)
    _, outside, _, _ = cv2.connectedComponentsWithStats((kept < 128).astype(np.uint8), connectivity=4)
    border = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
    kept[~np.isin(outside, border) & (kept < 128)] = 255
    return kept


def _parts(images: np.ndarray) -> list[np.ndarray]:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"uint8 [N >= 1, H, W, 3] is needed, not {images.dtype} {list(images.shape)}")
    return [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]


def _sized(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)


class OwnParser(Parser):
    """A `FaceParser` of this repository's recipe."""

    def __init__(self, network: FaceParser, id: str, device: str) -> None:
        self.network, self.id, self.device = network, id, device

    def shares(self, images: Tensor) -> Tensor:
        """As `Parser.shares`: [N, 19, 128, 128]."""
        out: Tensor = self.network(_sized(images, self.network.size)).softmax(1)
        return out


class BiSeNetParser(Parser):
    """The BiSeNet of facexlib (Yu et al., 2018, arXiv 1808.00897): 512 pixels a side, ImageNet-normalised."""

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, network: nn.Module, id: str, device: str) -> None:
        self.network, self.id, self.device = network, id, device
        self.order = torch.tensor(BISENET_TO_PARSER, device=device).argsort()  # CelebAMask-HQ's number -> BiSeNet's
        self.mean = torch.tensor(self.MEAN, device=device)[:, None, None]
        self.std = torch.tensor(self.STD, device=device)[:, None, None]

    def shares(self, images: Tensor) -> Tensor:
        """As `Parser.shares`: [N, 19, 512, 512]."""
        logits = self.network((_sized(images, 512) / 2 + 0.5 - self.mean) / self.std)[0]
        out: Tensor = logits[:, self.order].softmax(1)
        return out


class ReaderParser(Parser):
    """A face reader's 13 labels in CelebAMask-HQ's numbers; lips, jewellery and more it does not know."""

    def __init__(self, reader: Reader, device: str) -> None:
        self.reader, self.id, self.device = reader, reader.id, device

    def shares(self, images: Tensor) -> Tensor:
        """As `Parser.shares`: [N, 19, 64, 64]."""
        reading = self.reader.read(images)
        known = reading.parsing.softmax(1)
        shares = known.new_zeros(len(known), len(PARSER_LABELS), *known.shape[2:])
        shares.index_add_(1, torch.tensor(READER_TO_PARSER, device=known.device), known)
        across = (torch.arange(known.shape[3], device=known.device) + 0.5) / known.shape[3]
        middle = reading.landmarks[:, 27:31, 0].mean(1)  # the bridge of the nose
        turned = (across[None] < middle[:, None])[:, None, :]  # [N, 1, W]: the picture's left, the person's right
        for label in PARSER_SIDED:
            shares[:, label + 1] = shares[:, label] * turned
            shares[:, label] = shares[:, label] * ~turned
        return shares


def open_parser(path: Path | str | None = None, device: str = "cpu") -> Parser:
    """A frozen parser, ready to use.

    Args:
        path: `.safetensors` of this repository's recipes (a face parser or a face reader) or facexlib's
            `parsing_bisenet.pth`; None: the shipped face reader.
        device: where it computes.

    Raises:
        TristyleError: no such file, damaged, the weights of something else, or facexlib is missing; one line.
    """
    if path is None:
        return ReaderParser(load_reader(device), device)
    path = Path(path)
    if path.suffix != ".safetensors":
        return BiSeNetParser(_bisenet(path).to(device), f"bisenet-{sha256_file(path)[:8]}", device)
    network = load_network(path, device)
    if isinstance(network, Reader):
        return ReaderParser(load_reader(device, str(path)), device)
    return OwnParser(load_parser(path, device).requires_grad_(False), f"parser-{sha256_file(path)[:8]}", device)


def load_parser(path: Path, device: str = "cpu") -> FaceParser:
    """The network of our own parser's file, in eval mode.

    Raises:
        TristyleError: unreadable, or another network.
    """
    network = load_network(path, device)
    if not isinstance(network, FaceParser):
        raise TristyleError(f"{path}: holds {type(network).__name__}, not a face parser. {REMEDY}")
    return network


def _bisenet(path: Path) -> nn.Module:
    state = read_weight(path, REMEDY)
    network = bisenet()
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:  # torch lists what is wrong from the second line on
        first = next(iter(str(error).splitlines()[1:]), str(error)).strip()
        raise TristyleError(f"{path}: does not fit BiSeNet ({first}). {REMEDY}") from None
    return network.float().eval().requires_grad_(False)


def bisenet() -> nn.Module:
    """The BiSeNet of facexlib, with drawn weights.

    It maps [N, 3, 512, 512], ImageNet-normalised, to several outputs, logits [N, 19, 512, 512] first.

    Raises:
        TristyleError: facexlib is not installed, or another version of it.
    """
    network: nn.Module = part("parsing", "bisenet").BiSeNet(num_class=len(PARSER_LABELS))
    return network
