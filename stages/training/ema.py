"""The moving average of a network's weights, and how fast it forgets.

A training of known length states the half-life in images (`half_life_decay`, as StyleGAN2 does). One that counts
updates states the decay of an update (`early_decay`). Both forget faster at the start, when the weights are still far
from good.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move an averaged network: ``average <- decay * average + (1 - decay) * module``. Buffers are copied.

    Args:
        average: the network to move, in place.
        module: the network being trained, of the same architecture.
        decay: share of the average that stays, in [0, 1].

    Raises:
        ValueError: `decay` is out of range, or the buffers differ in number.
    """
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(module.parameters()), 0)
    for target, source in zip(average.buffers(), module.buffers(), strict=True):
        target.copy_(source)


def half_life_decay(batch: int, images: int, half_life: float, ramp: float | None = None) -> float:
    """Decay of one update such that half of the average is younger than `half_life`.

    Args:
        batch: images of the update.
        images: images seen, to which the ramp refers.
        half_life: in images. 0 keeps no average: the weights are copied.
        ramp: the half-life is at most this share of the images seen; None leaves it alone.

    Returns:
        The decay, in [0, 1].

    Source: Karras et al., StyleGAN2-ADA (arXiv 2006.06676, appendix C); the ramp is the official code's.
    """
    half_life = half_life if ramp is None else min(half_life, images * ramp)
    return float(0.5 ** (batch / max(half_life, 1e-8)))


def early_decay(updates: float, limit: float, lead: int = 0) -> float:
    """Decay of one update that rises towards `limit` over the first updates: ``(lead + u) / (10 + u)``.

    Args:
        updates: updates done, this one included.
        limit: the decay later on, in [0, 1].
        lead: 1 as TensorFlow's `ExponentialMovingAverage` has it, 0 for a start that copies less.

    Returns:
        The decay, in [0, limit].
    """
    return min(limit, (lead + updates) / (10 + updates))
