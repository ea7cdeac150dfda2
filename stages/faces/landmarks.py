"""Landmarks of faces that were found: 68 points each, by Face Mesh's 468 or by facexlib's FAN's 98.

The 68 are those of iBUG 300-W, which all of this package uses. The networks see the FFHQ square of the five points,
somewhat tightened. Pixel (0, 0) has its centre at 0, 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.settings import TristyleError
from stages.faces.align import crop, ffhq_quad
from stages.faces.weights import find_weight, weights_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

MESH, FAN = "facemesh.pth", "alignment_WFLW_4HG.pth"
# The side of what the networks see, in FFHQ squares, and how much lower its centre lies: chosen for Face Mesh.
TIGHTER, LOWER = 0.85, 0.02

# Which of Face Mesh's 468 points stand for the 68: jaw, brows, nose, eyes, outer and inner lips, image left first.
OF_468 = (
    (162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389)
    + (71, 63, 105, 66, 107, 336, 296, 334, 293, 301)
    + (168, 197, 5, 4, 75, 97, 2, 326, 305)
    + (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
    + (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
)
# Which of WFLW's 98 (Wu et al., arXiv 1805.10483, figure 2) stand for the 68. Its brows are outlines of nine points
# each: of the inner four of the five the mean of upper and lower edge is taken.
OF_98 = (
    tuple((i,) for i in range(0, 33, 2))
    + ((33,), (34, 41), (35, 40), (36, 39), (37, 38))
    + ((42, 50), (43, 49), (44, 48), (45, 47), (46,))
    + tuple((i,) for i in range(51, 60))
    + tuple((i,) for i in (60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75))
    + tuple((i,) for i in range(76, 96))
)


def from_98(landmarks: np.ndarray) -> np.ndarray:
    """WFLW's 98 landmarks as 68: [..., 98, 2] -> [..., 68, 2]."""
    return np.stack([np.mean([landmarks[..., i, :] for i in some], axis=0) for some in OF_98], axis=-2)


def from_468(mesh: np.ndarray) -> np.ndarray:
    """Face Mesh's 468 points as 68 landmarks: [..., 468, 2 or 3] -> [..., 68, 2]."""
    return mesh[..., OF_468, :2]


def eye_openness(landmarks: np.ndarray) -> np.ndarray:
    """Height of the eyes over their width, image left and right: [..., 68, 2] -> [..., 2].

    The eye aspect ratio of Soukupova and Cech (2016, equation 1): 0 shut, some 0.3 open.
    """
    ratios = []
    for first in (36, 42):
        eye = landmarks[..., first : first + 6, :]
        heights = np.linalg.norm(eye[..., 1:3, :] - eye[..., [5, 4], :], axis=-1)
        width = np.linalg.norm(eye[..., 0, :] - eye[..., 3, :], axis=-1)
        ratios.append(heights.mean(-1) / np.maximum(width, 1e-9))
    return np.stack(ratios, axis=-1)


class Landmarks(ABC):
    """Sees 68 landmarks.

    Attributes:
        id: kind, and the first 8 hex digits of the weights' sha256; belongs beside every number made with it.
    """

    id: str

    @abstractmethod
    def __call__(self, picture: np.ndarray, points: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The landmarks of F faces.

        Args:
            picture: uint8 RGB [H, W, 3].
            points: the five points of each face, [5, 2] px.

        Returns:
            float64 [F, 68, 2] px, and scores [F] in 0..1.
        """


class MeshLandmarks(Landmarks):
    """Face Mesh. Its score falls below 0.9 where there is no face, and on some covered ones; not on every profile.

    Raises:
        TristyleError: the file is not what it should be.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from stages.networks.facemesh import FaceMesh

        self.network, self.id = _load(FaceMesh(), path, "Face Mesh", device), _id("facemesh", path)
        self.device, self.size = device, FaceMesh.SIZE

    def __call__(self, picture: np.ndarray, points: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks [n, 68, 2] in px of n faces given by five points each, and how sure it is of each [n]."""
        mesh, scores = self.mesh(picture, points)
        return from_468(mesh), scores

    def mesh(self, picture: np.ndarray, points: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """As a call, but all 468 points, with depth in the same px: float64 [F, 468, 3]."""
        if not len(points):
            return np.zeros((0, 468, 3)), np.zeros(0)
        quads = [_square(five) for five in points]
        seen, scores = _run(self.network, [crop(picture, quad, self.size)[0] for quad in quads], self.device)
        placed = _placed(seen[..., :2], quads, self.size)
        scale = np.array([math.hypot(*(quad[3] - quad[0])) / self.size for quad in quads])
        return np.concatenate([placed, seen[..., 2:] * scale[:, None, None]], axis=-1), scores


class FanLandmarks(Landmarks):
    """facexlib's FAN (Wang et al., arXiv 1904.07399). Its score is the mean height of the heatmaps' peaks.

    Raises:
        TristyleError: facexlib is missing, or the file is not what it should be.
    """

    SIZE = 256

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from stages.faces.facexlib import fan

        self.network, self.device = _load(fan(), path, "FAN", device), device
        self.id = _id("fan", path)

    def __call__(self, picture: np.ndarray, points: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks [n, 68, 2] in px of n faces given by five points each, and how sure it is of each [n]."""
        import torch

        if not len(points):
            return np.zeros((0, 68, 2)), np.zeros(0)
        quads = [_square(five) for five in points]
        crops = np.stack([crop(picture, quad, self.SIZE)[0] for quad in quads])
        with torch.inference_mode():
            images = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
            heat = self.network(images)[0][-1][:, :-1]  # the last channel is the outline's
        seen, heights = peaks(heat.float().cpu().numpy())
        at = (seen + 0.5) * (self.SIZE / heat.shape[-1]) - 0.5
        return from_98(_placed(at, quads, self.SIZE)), heights.mean(-1).clip(0, 1)


def peaks(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where heatmaps [..., H, W] are highest, [..., 2] (x, y), a quarter moved to the higher neighbour; and how high.

    The quarter is Newell et al.'s (arXiv 1603.06937, section 3.3); at an edge nothing moves across it.
    """
    height, width = heatmaps.shape[-2:]
    flat = heatmaps.reshape(-1, height * width)
    best = flat.argmax(1)
    y, x = best // width, best % width
    every = np.arange(len(flat))
    padded = np.pad(flat.reshape(-1, height, width), ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = np.sign(padded[every, y + 1, x + 2] - padded[every, y + 1, x]) * ((x > 0) & (x < width - 1))
    down = np.sign(padded[every, y + 2, x + 1] - padded[every, y, x + 1]) * ((y > 0) & (y < height - 1))
    shift = 0.25 * np.stack([across, down], axis=-1)
    at = np.stack([x, y], axis=-1) + shift
    return at.reshape(*heatmaps.shape[:-2], 2), flat[every, best].reshape(heatmaps.shape[:-2])


def find_landmarks(weights: Path | str | None = None) -> Path | None:
    """The file of weights that `open_landmarks` uses, None where there is none."""
    folder = weights_folder(weights)
    files = [folder / name for name in (MESH, FAN)] if folder else []
    return next((file for file in files if file.is_file()), None)


def open_landmarks(weights: Path | str | None = None, device: str = "cpu") -> Landmarks | None:
    """Face Mesh where its weights are in the folder (see `weights_folder`), else FAN where its are, else None.

    Raises:
        TristyleError: weights that cannot be loaded.
    """
    file = find_landmarks(weights)
    if file is None:
        return None
    kind = MeshLandmarks if file.name == MESH else FanLandmarks
    return kind(find_weight(file.parent, file.name), device)


def _id(kind: str, path: Path) -> str:
    from stages.core.files import sha256_file

    return f"{kind}-{sha256_file(path)[:8]}"


def _load(network: nn.Module, path: Path, what: str, device: str) -> nn.Module:
    import torch

    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state) if isinstance(state, Mapping) else state
        network.load_state_dict(state, strict=True)
    except Exception as error:  # torch raises a dozen types for damaged archives
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not the weights of {what} ({reason}). Copy the file again.") from None
    return network.to(device).eval().requires_grad_(False)


def _square(points: np.ndarray) -> np.ndarray:
    quad = ffhq_quad(points)
    centre = quad.mean(0)
    out: np.ndarray = (quad - centre) * TIGHTER + centre + LOWER * (quad[1] - quad[0])
    return out


def _placed(points: np.ndarray, quads: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Points [F, P, 2] px of crops along quads -> px of the picture."""
    edges = np.stack([np.stack([quad[3] - quad[0], quad[1] - quad[0]]) for quad in quads]) / size
    out: np.ndarray = (points + 0.5) @ edges + np.stack([quad[0] for quad in quads])[:, None]
    return out


def _run(network: nn.Module, crops: Sequence[np.ndarray], device: str) -> tuple[np.ndarray, np.ndarray]:
    import torch

    with torch.inference_mode():
        images: Tensor = torch.from_numpy(np.stack(crops)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        points, scores = network(images)
    return points.double().cpu().numpy(), scores.double().cpu().numpy()
