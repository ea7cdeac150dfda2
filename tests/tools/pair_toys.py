"""Heads for tests of stage pair: shaded before a noisy wall as photos, flat and outlined as the style."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.networks.face_reader import Reader
from stages.pair.ugatit import TranslatorWeights, UgatitTranslator
from stages.training.fit import Task, Update, step

PUBLISHED = {"adversarial": 1.0, "cycle": 10.0, "identity_mapping": 10.0, "cam": 1000.0}
OFF = {"mask": 0.0, "mask_tv": 0.0, "background": 0.0, "latent": 0.0, "face_identity": 0.0, "edge_promotion": 0.0}


def weights(**changes: float) -> TranslatorWeights:
    """The published weights and no others, but for `changes`."""
    return TranslatorWeights(**PUBLISHED | OFF | changes)


def translator(**changes: Any) -> UgatitTranslator:
    """A tiny translator in float32 without a warm-up and with a slow average, but for `changes`."""
    settings = {"width": 4, "blocks": 1, "discriminator_width": 4, "precision": "float32", "weights": weights()}
    settings |= {"discriminator_max_width": 512, "background_cycle": 1.0, "warm_up": 0.0, "ema": 0.999}
    return UgatitTranslator(**settings | {"face_identity_from": 0.3} | changes)


def small_reader() -> Reader:
    """A small untrained reader to stand in place of the shipped one."""
    torch.manual_seed(0)
    reader = Reader(widths=(8, 8, 8, 8), lateral=8).eval()
    reader.id = "reader-test"
    return reader


def heads(count: int, seed: int, style: bool, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [N, size, size, 3] and their head coverage uint8 [N, size, size]."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.empty((count, size, size), np.uint8)
    for i in range(count):
        left, top = rng.normal(0.5, 0.04, 2)
        distance = ((x - left) / rng.normal(0.24, 0.02)) ** 2 + ((y - top) / rng.normal(0.32, 0.02)) ** 2
        cover = np.clip((1.05 - distance) * size / 6, 0, 1)
        wall = (
            rng.uniform(0.2, 0.9, 3) + (x - 0.5)[..., None] * rng.normal(0, 0.3) + rng.normal(0, 0.02, (size, size, 3))
        )
        if style:
            face = np.tile(np.array([1.0, 0.78, 0.6]), (size, size, 1))
            face[(distance > 0.75) & (distance < 1.2)] = 0.05
        else:
            face = np.array([0.75, 0.55, 0.45]) * rng.uniform(0.6, 1.0) * (1 - 0.4 * distance)[..., None]
        radius = 0.06 if style else 0.035
        for side in (-0.1, 0.1):
            face[((x - left - side) ** 2 + (y - top + 0.05) ** 2) < radius**2] = 0.1
        picture = cover[..., None] * face + (1 - cover[..., None]) * wall
        images[i] = np.clip(np.rint(picture * 255), 0, 255)
        masks[i] = np.rint(cover * 255)
    return images, masks


def check_phases(task: Task, batch: dict[str, Tensor], update: Update, *own: str) -> None:
    """Each phase of `task`, in turn, changes parameters with its `own` part of a name alone; `ema` is never trained."""
    before = {name: value.clone() for name, value in task.named_parameters()}
    for phase, part in zip(task.phases, own, strict=True):
        step(task, phase, [(batch, update)])
        changed = {name for name, value in task.named_parameters() if not torch.equal(value, before[name])}
        assert changed and all(part in name for name in changed), phase.name
        before = {name: value.clone() for name, value in task.named_parameters()}
    assert not any(value.requires_grad for name, value in task.named_parameters() if name.startswith("ema."))
