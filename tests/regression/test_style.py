"""The StyleGAN2-ADA training against recorded values: a tiny seeded run must keep its loss curves and its scores.

The recorded run and every faulty run below are judged by one and the same comparison. Record again after a change that
is meant to change the training:

    TRISTYLE_RECORD=1 python -m pytest tests/regression/test_style.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.core.settings import Train
from stages.core.tensors import to_tensor
from stages.core.tracking import Tracker
from stages.networks.stylegan2 import Discriminator, Generator
from stages.style.stage import Images
from stages.style.stylegan2_ada import Ada, Recipe, StyleGAN2
from stages.training.fit import fit
from stages.training.losses import r1_penalty
from tests.tools.recording import Recording

SIZE, COUNT, IMAGES, BATCH = 16, 64, 640, 8
# Relative tolerances. Other torch versions and instruction sets sum in another order, and a GAN amplifies it.
TOLERANCE = {
    "curve_generator": 0.1,
    "curve_discriminator": 0.1,
    "curve_length": 0.2,
    "score_gradient": 0.4,
    "score_ema_gap": 0.3,
    "score_colour": 0.3,
    "score_p": 0.3,
}
RECORDING = Recording(Path(__file__).with_name("style.json"), TOLERANCE, least=1e-3)


def pictures() -> np.ndarray:
    """Discs on walls, uint8 [COUNT, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:SIZE, :SIZE]
    rows = []
    for _ in range(COUNT):
        wall, disc = rng.integers(40, 120, 3), rng.integers(140, 240, 3)
        cx, cy, radius = rng.uniform(6, 10), rng.uniform(6, 10), rng.uniform(3, 6)
        inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        rows.append(np.where(inside[..., None], disc, wall))
    return np.stack(rows).astype(np.uint8)


def train(
    folder: Path, *, lr: float = 2e-3, batches: type[Images] = Images, ada: Ada | None = None, **recipe: Any
) -> dict[str, list[float]]:
    """One tiny training; its curves in five stretches, and scores of what it ends with."""
    images = pictures()
    torch.manual_seed(3)
    generator = Generator(16, 16, SIZE, channel_base=128, channel_max=8)
    discriminator = Discriminator(SIZE, channel_base=128, channel_max=8)
    settings = {"r1_gamma": 2.0, "noise": True, "ema_images": 300.0, "precision": "float32"} | recipe
    ada = Ada(target=0.1, images=2000, every=1, p_max=0.5) if ada is None else ada
    task = StyleGAN2(generator, discriminator, lr, Recipe(**settings), ada)
    length = Train(images=IMAGES, batch=BATCH, lr=lr, seed=5, checkpoint_images=10**6, preview_images=10**6)
    (folder / ".scratch").mkdir(parents=True)
    runtime = Runtime("cpu", 1, Tracker(folder))
    fit(task, batches(images, 5, True), train=length, scratch=folder / ".scratch", runtime=runtime, label="style")
    rows = read_jsonl(folder / "log.jsonl")

    def curve(phase: str, *names: str) -> list[float]:
        values = [sum(row[name] for name in names) for row in rows if row["phase"] == f"style/{phase}"]
        return [float(np.mean(part)) for part in np.array_split(values, 5)]

    real = to_tensor(images).requires_grad_()
    with torch.no_grad():
        z = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
        colour = (task.ema(z, noise_mode="const").mean(dim=(0, 2, 3)) - real.mean(dim=(0, 2, 3))).abs().mean()
        pairs = zip(task.ema.parameters(), task.generator.parameters(), strict=True)
        gap = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    return {
        "curve_generator": curve("Gmain", "adversarial"),
        "curve_discriminator": curve("Dmain", "fake", "real"),
        "curve_length": curve("Greg", "length"),
        "score_gradient": [float(r1_penalty(task.discriminator(real), real).detach().mean())],
        "score_ema_gap": [gap],
        "score_colour": [float(colour)],
        "score_p": [float(task.augment.p)],
    }


def test_the_training_is_as_recorded(tmp_path: Path) -> None:
    RECORDING.check(train(tmp_path))


class Inverted(Images):
    """Batches in negative: what a mix-up of value ranges does."""

    def __call__(self, start: int, count: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
        return {"images": -super().__call__(start, count, rows)["images"]}


FAULTS: dict[str, dict[str, Any]] = {
    "learning rate doubled": {"lr": 4e-3},
    "EMA off": {"ema_images": 0.0},
    "R1 off": {"r1_gamma": 0.0},
    "augmentation off": {"ada": Ada(p_max=0.0)},
    "value range inverted": {"batches": Inverted},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(fault: str, tmp_path: Path) -> None:
    assert RECORDING.deviations(train(tmp_path, **FAULTS[fault])) != {}
