"""From seeds and photos to latents, and from latents to pictures: what stages style and pair both do with a generator.

An encoder serves the one generator that it was made for; `generator_id` is how the two know each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.files import data_file
from stages.core.settings import TristyleError
from stages.core.tensors import to_uint8
from stages.core.weights import load_network
from stages.networks.encoder import Encoder
from stages.networks.expanded import ExpandedEditor
from stages.networks.stylegan2 import Generator

BASES = {size: f"base{size}_generator.safetensors" for size in (64, 128)}  # the shipped generators, by px
SHIPPED_ENCODER = "encoder64.safetensors"
STD_SAMPLES = 10_000  # latents behind the spread of w
EDITOR = "editor.safetensors"  # in a style artifact that has one


def latents(z_dim: int, seeds: Sequence[int]) -> Tensor:
    """Draw z [N, z_dim] of the given seeds, the same as the official image generator's."""
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).float()


@torch.no_grad()
def decode(generator: Generator, ws: Tensor) -> np.ndarray:
    """Images uint8 [N, R, R, 3] of latents ws [N, num_ws, w_dim], with the stored noise."""
    return to_uint8(generator.synthesis(ws, noise_mode="const"))


@torch.no_grad()
def w_statistics(generator: Generator, seed: int = 0, samples: int = STD_SAMPLES) -> tuple[Tensor, float]:
    """Mean of w [w_dim] and its spread, the root mean squared distance of w from that mean, over sampled z."""
    z = torch.randn(samples, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    mapping = generator.mapping
    w = mapping(z.to(mapping.w_avg.device), update_w_avg=False)[:, 0]
    mean = w.mean(dim=0)
    return mean, float((w - mean).square().sum(dim=1).mean().sqrt())


def load_generator(path: Path, device: str = "cpu") -> Generator:
    """The generator in a weights file of a style artifact, in eval mode.

    Raises:
        TristyleError: missing, damaged, or another network.
    """
    network = load_network(path, device)
    if not isinstance(network, Generator):
        raise TristyleError(f"{path}: holds {type(network).__name__}, not a generator. Name a generator's file.")
    return network


def generator_id(generator: nn.Module) -> str:
    """Digest of a generator's weights in half precision, so that it survives being stored: 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in sorted(generator.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_encoder(generator: Generator, path: Path | None = None) -> Encoder | None:
    """The encoder at `path` (default: the shipped one) if it was made for `generator`, in eval mode; None if not.

    Raises:
        TristyleError: the file is damaged or holds another kind of network.
    """
    path = data_file(SHIPPED_ENCODER) if path is None else path
    encoder = load_network(path)
    if not isinstance(encoder, Encoder):
        raise TristyleError(
            f"{path}: holds {type(encoder).__name__}, not an encoder. Give a file of stages.recipes.inversion_encoder."
        )
    return encoder.requires_grad_(False) if encoder.generator == generator_id(generator) else None


def load_editor(path: Path, device: str = "cpu") -> ExpandedEditor:
    """The editor in a style artifact's folder or in a file, in eval mode and frozen.

    Raises:
        TristyleError: missing, damaged, or another network.
    """
    file = path / EDITOR if path.is_dir() else path
    if not file.exists():
        raise TristyleError(f"{file}: no such editor. Name the folder that stage=style style=expanded has made.")
    editor = load_network(file, device)
    if not isinstance(editor, ExpandedEditor):
        raise TristyleError(f"{file}: holds {type(editor).__name__}, not an editor. Run stage=style style=expanded.")
    return editor.requires_grad_(False)


def check_editor(editor: ExpandedEditor, generator: Generator, key: str, name: str) -> None:
    """Refuse an editor of another generator: its latents would mean something else.

    Args:
        editor: see `load_editor`.
        generator: the one that is used.
        key: the setting that names the editor.
        name: what it names.

    Raises:
        TristyleError: the two do not belong together.
    """
    if editor.encoder.generator != generator_id(generator):
        raise TristyleError(
            f"{key}: {name} edits the photos of another generator. "
            "Train an editor of this one: stage=style style=expanded with the same style.start."
        )
