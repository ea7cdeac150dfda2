"""What a distillation leaves behind: the networks beside the student's, sheets for the report, and measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.images import grid, write_image
from stages.core.mark import TRAINED
from stages.core.tensors import to_uint8
from stages.core.weights import save_network
from stages.networks.blaze import BlazeFaces, BlazeGenerator, inference
from stages.networks.face_reader import Reader
from stages.networks.latents import latents
from stages.networks.stylegan2 import Generator, MappingNetwork
from stages.training.losses import perceptual_distance

if TYPE_CHECKING:
    from stages.student.blaze import BlazeTask

FIRST = 50_000  # seed of the first latent that is shown and measured: none of a training's
COMPARED = 64  # latents behind the measures
SHOWN = 6  # pictures on a sheet
CHUNK = 16  # pictures drawn together


def fixed_latents(mapping: MappingNetwork, z_dim: int, count: int, psi: float = 1.0) -> Tensor:
    """Latents ws [count, num_ws, w_dim] that are the same in every run.

    Args:
        mapping: the teacher's.
        z_dim: of its inputs.
        count: how many.
        psi: truncation.
    """
    z = latents(z_dim, range(FIRST, FIRST + count)).to(mapping.w_avg.device)
    with torch.no_grad():
        ws: Tensor = mapping(z, truncation_psi=psi, update_w_avg=False)
    return ws


@torch.no_grad()
def drawn(generator: Generator | BlazeGenerator, ws: Tensor) -> Tensor:
    """Pictures [N, 3, R, R] of ws [N, num_ws, w_dim], by a teacher with its stored noise or by a student."""
    if isinstance(generator, Generator):
        return torch.cat([generator.synthesis(part, noise_mode="const") for part in ws.split(CHUNK)])
    return torch.cat([generator(part).colour for part in ws.split(CHUNK)])


@torch.no_grad()
def diversity(reader: Reader, images: Tensor) -> float:
    """Mean perceptual distance between different pictures [N >= 2, 3, H, W] in [-1, 1]: each and its next three."""
    maps = reader.encode(images)
    steps = range(1, min(4, len(images)))
    rows = [perceptual_distance(maps, [level.roll(step, 0) for level in maps]).mean() for step in steps]
    return float(torch.stack(rows).mean())


def finish(task: BlazeTask, out: Path) -> dict[str, float]:
    """Write the generator of faces from scratch, the discriminator and the sheets; measure student against teacher.

    Args:
        task: the finished training.
        out: the artifact's folder.

    Returns:
        teacher_distance: mean perceptual distance of student and teacher at equal w; sample_distance: between two of
        the teacher's samples; distance_ratio: the one over the other; faces_parameters.
    """
    faces = faces_of(task.ema, task.teacher.mapping, task.teacher.arguments, task.settings.psi)
    save_network(out / "faces.safetensors", faces)
    save_network(out / "discriminator.safetensors", task.discriminator.cpu())
    write_image(out / "preview" / "teacher.png", teacher_sheet(task), TRAINED)
    write_image(out / "preview" / "pyramid.png", pyramid_sheet(task), TRAINED)
    write_image(out / "preview" / "encoding.png", encoding_sheet(task), TRAINED)

    ws = fixed_latents(task.teacher.mapping, task.teacher.z_dim, COMPARED)
    own, wanted = drawn(task.ema, ws), drawn(task.teacher, ws)
    with torch.no_grad():
        distance = perceptual_distance(task.reader.encode(own), task.reader.encode(wanted)).mean()
    apart = diversity(task.reader, wanted)
    return {
        "teacher_distance": float(distance),
        "sample_distance": apart,
        "distance_ratio": float(distance) / apart,
        "faces_parameters": float(sum(value.numel() for value in faces.generator.parameters())),
    }


def faces_of(generator: BlazeGenerator, mapping: MappingNetwork, teacher: dict[str, Any], psi: float) -> BlazeFaces:
    """Mapping network and generator in one network of z, without the auxiliary heads.

    Args:
        generator: the averaged one.
        mapping: the teacher's.
        teacher: the teacher's arguments.
        psi: truncation.
    """
    bare = inference(generator)
    names = ("z_dim", "w_dim", "num_layers", "lr_multiplier")
    shape = {name: bare.arguments[name] for name in ("resolution", "channel_base")}
    both = BlazeFaces(**{name: teacher[name] for name in names}, **shape, psi=psi)
    both.generator.load_state_dict(bare.state_dict())
    both.mapping.load_state_dict(mapping.state_dict())
    return both.cpu().eval().requires_grad_(False)


# ---------------------------------------------------------------------------------------------------------------------
# Sheets: uint8 [H, W, 3]


def _rows(rows: Sequence[Tensor]) -> np.ndarray:
    """A sheet of rows of pictures [n, 3, R, R], all of one size."""
    return grid(np.concatenate([to_uint8(row) for row in rows]), columns=len(rows[0]))


def teacher_sheet(task: BlazeTask) -> np.ndarray:
    """Rows of the teacher's pictures, the student's, and their difference, brightened."""
    ws = fixed_latents(task.teacher.mapping, task.teacher.z_dim, SHOWN)
    wanted, own = drawn(task.teacher, ws), drawn(task.ema, ws)
    return _rows([wanted, own, (2 * (own - wanted).abs() - 1).clamp(-1, 1)])


@torch.no_grad()
def pyramid_sheet(task: BlazeTask) -> np.ndarray:
    """A row for each head, coarse to fine, and the teacher's pictures below."""
    ws = fixed_latents(task.teacher.mapping, task.teacher.z_dim, SHOWN)
    size = task.teacher.img_resolution
    levels = [part.colour for part in task.ema.pyramid(ws, None)]
    return _rows([*(F.interpolate(level, (size, size), mode="nearest") for level in levels), drawn(task.teacher, ws)])


@torch.no_grad()
def encoding_sheet(task: BlazeTask) -> np.ndarray:
    """Photos over what the generator draws of their codes."""
    photos = task.examples.to(task.encoder_ema.w_avg.device)
    return _rows([photos, task.ema(task.encoder_ema(photos)).colour])
