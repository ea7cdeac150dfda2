"""Fusing two generators of one family, resolution by resolution.

theta(r) = (1 - alpha(r)) theta_source(r) + alpha(r) theta_transferred(r): the coarse levels keep the source's variety
of poses and expressions, the fine ones take the transferred model's look. Sources: layer swapping, Pinkney & Adler
(arXiv 2010.05334); smooth interpolation as in the Alibaba portrait-stylization article (2022). What differs: layers are
assigned by the resolution they write, both convolutions and toRGB together (the published code is off by one), and
models without a common ancestor are refused.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from math import exp, log2

import torch
from torch import Tensor

from stages.config import TristyleError, choice, number
from stages.networks.stylegan2 import Generator

SCHEDULES = ("constant", "linear", "sigmoid", "swap")
UNRELATED = 0.7  # relative distance from which two generators count as strangers; independent ones are at 1


@dataclass(kw_only=True)
class Fusion:
    """How much of the transferred generator each resolution takes.

    Args:
        schedule: how alpha goes from `low` at the coarse levels to `high` at the fine ones: ``constant`` (all `high`),
            ``linear`` in log2 of the resolution, ``sigmoid`` about `middle`, ``swap`` (a step just above `middle`).
        low, high: alpha at the coarse and at the fine end, 0 (source) to 1 (transferred).
        middle: resolution in px at which a sigmoid is half way; the last one that a swap takes from the source.
        width: of the sigmoid, in levels (doublings).
        mapping: alpha of the mapping network and its mean w.
    """

    schedule: str = "sigmoid"
    low: float = 0.0
    high: float = 1.0
    middle: int = 16
    width: float = 1.0
    mapping: float = 0.0

    def __post_init__(self) -> None:
        choice("schedule", self.schedule, SCHEDULES)
        number("low", self.low, 0, 1)
        number("high", self.high, 0, 1)
        number("middle", self.middle, 4, 1024, integer=True)
        number("width", self.width, 0, 16, open_low=True)
        number("mapping", self.mapping, 0, 1)

    def alpha(self, resolution: int, img_resolution: int) -> float:
        """Share of the transferred generator at the block that writes `resolution` px."""
        if self.schedule == "constant":
            share = 1.0
        elif self.schedule == "linear":
            share = (log2(resolution) - 2) / (log2(img_resolution) - 2)
        elif self.schedule == "swap":
            share = float(resolution > self.middle)
        else:
            share = 1 / (1 + exp(-(log2(resolution) - log2(self.middle)) / self.width))
        return self.low + (self.high - self.low) * share


@torch.no_grad()
def relative_distance(a: Generator, b: Generator) -> float:
    """Distance of the convolution weights over the root of the sum of their squared norms: 0 equal, 1 unrelated."""
    other = dict(b.named_parameters())
    pairs = [(p, other[name]) for name, p in a.named_parameters() if p.ndim == 4]
    difference = sum(float((p - q).square().sum()) for p, q in pairs)
    norms = sum(float(p.square().sum() + q.square().sum()) for p, q in pairs)
    return (difference / norms) ** 0.5


@torch.no_grad()
def fuse(source: Generator, transferred: Generator, fusion: Fusion) -> Generator:
    """A new generator between `source` and `transferred`, in eval mode.

    Raises:
        TristyleError: different architectures, or weights too far apart to share an ancestor.
    """
    if source.arguments != transferred.arguments:
        raise TristyleError("style.fusion: the two generators differ in architecture. Transfer from the source itself.")
    distance = relative_distance(source, transferred)
    if distance > UNRELATED:
        raise TristyleError(
            f"style.fusion: the generators share no ancestor (relative weight distance {distance:.2f}, "
            f"at most {UNRELATED}). "
            "Transfer from the source itself."
        )
    fused = copy.deepcopy(source).eval()
    state: dict[str, Tensor] = fused.state_dict()
    target = transferred.state_dict()
    for name, value in state.items():
        block = re.match(r"synthesis\.b(\d+)\.", name)
        alpha = fusion.alpha(int(block.group(1)), source.img_resolution) if block else fusion.mapping
        value.lerp_(target[name], alpha)
    return fused
