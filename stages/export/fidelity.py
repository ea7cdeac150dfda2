"""What a runtime makes of the student: agreement with torch, sharpness, time. For every runtime alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.core.tensors import to_uint8
from stages.export.contract import Run
from stages.metrics.clarity import clarity, median_defined
from stages.networks.mobile import MobileStudent, blend

RANGE = 2.0  # of values in [-1, 1]; what PSNR refers to
WARM_UP = 3


@torch.inference_mode()
def expected(student: MobileStudent, photos: Sequence[Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Output and alpha of the network in torch, float32, for photos [1, 3, H, W] of any sizes."""
    found = []
    for photo in photos:
        layers = student.layers(photo)
        found.append((blend(photo, layers).numpy(), layers.alpha.numpy()))
    return found


def agreement(run: Run, photos: Sequence[Tensor], truth: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """How far an opened model is from torch.

    Returns:
        max_error: largest |difference| over all outputs and mattes, in units of [-1, 1];
        psnr: dB over all outputs together, range 2 (infinite where they are equal: then 999);
        edge_clarity, flat_energy: median over the pictures of the runtime's over torch's, on torch's edges
        (stages.metrics.clarity).

    Values that are not finite make max_error and psnr NaN.
    """
    worst, squares, count = 0.0, 0.0, 0
    ratios: dict[str, list[float]] = {"edge_clarity": [], "flat_energy": []}
    for photo, (output, alpha) in zip(photos, truth, strict=True):
        found, matte = run(photo.numpy())
        difference = np.abs(found - output)
        worst = _most(worst, difference, *([] if matte is None else [np.abs(matte - alpha)]))
        squares += float(np.square(difference, dtype=np.float64).sum())
        count += difference.size
        own, wanted = (to_uint8(torch.from_numpy(np.nan_to_num(values)))[0] for values in (found, output))
        made, target = clarity(own, wanted).as_dict(), clarity(wanted, wanted).as_dict()
        for name, values in ratios.items():
            values.append(made[name] / target[name] if target[name] > 1e-6 else math.nan)
    psnr = (
        999.0 if squares == 0 else 10 * math.log10(RANGE**2 * count / squares) if math.isfinite(squares) else math.nan
    )
    medians = {name: median_defined(np.array(values)) for name, values in ratios.items()}
    return {"max_error": worst, "psnr": psnr} | medians


def _most(worst: float, *differences: np.ndarray) -> float:
    """The largest of all, NaN where one is."""
    return float(np.max([worst, *(values.max() for values in differences)]))


def milliseconds(run: Run, side: int, threads: int, repeats: int) -> float | None:
    """Least time of one picture of side x side, in ms, after warm-up: CPU time on one thread, wall time on several.

    The least, for other work on the machine can only add to it. (CPU time of several threads would count their
    waiting for each other.) None where the model's time on this machine is not the one that counts.
    """
    photo = np.random.default_rng(0).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    times = run.times(photo, WARM_UP + repeats)[WARM_UP:]
    return 1000 * min(cpu if threads == 1 else wall for cpu, wall in times) if times else None
