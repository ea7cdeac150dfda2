"""Fusing generators of one family, layer by layer: two, several, or the snapshots of one training.

theta_l = (1 - alpha_l) theta_source_l + alpha_l theta_transferred_l: the coarse layers keep the source's variety of
poses and expressions, the fine ones take the transferred model's look. Sources: layer swapping, Pinkney & Adler (arXiv
2010.05334); smooth interpolation as in the Alibaba portrait-stylization article (2022). All of a layer goes together:
weight, bias, affine, noise strength and the stored noise; models without a common ancestor are refused.

Layers are counted as in the published blending code, two positions a resolution: the constant (0), b4.conv1 and
b4.torgb (1), b8.conv0 (2), b8.conv1 and b8.torgb (3), ... Within a resolution, level 0 is the first and level 1 the
second.
"""

from __future__ import annotations

import copy
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log2, tanh
from typing import Any, TypeVar

import torch

from stages.core.settings import ConfigError, TristyleError, choice, number
from stages.networks.stylegan2 import Generator

SCHEDULES = ("constant", "linear", "sigmoid", "swap", "published")
REGIONS = ("background", "skin", "brow", "eye", "nose", "mouth", "hair", "neck", "cloth")  # of `READER_LABELS`
AXES = ("resolution", "layer")
UNRELATED = 0.7  # relative distance from which two generators count as strangers; independent ones are at 1

T = TypeVar("T")
Weights = Sequence[float]


@dataclass(kw_only=True)
class Fusion:
    """How much of the transferred generator each layer takes: alpha from 0 (source) to 1 (transferred).

    Args:
        schedule: how alpha goes from `low` at the coarse layers to `high` at the fine ones: ``constant`` (all `high`),
            ``linear``, ``sigmoid`` about `middle`, ``swap`` (a step: r <= `middle` is the source's, as in the paper),
            ``published`` (the step of the code that came with the paper, off by one: see `alpha`).
        over: what linear, sigmoid and swap run along: ``resolution`` (log2; a resolution's layers share one alpha) or
            ``layer`` (positions, two a resolution).
        low, high: alpha at the coarse and at the fine end.
        middle: resolution in px at which a sigmoid is half way; the last one that a swap takes from the source.
        level: with ``over: layer`` and in the published swap, which of the middle resolution's two positions is meant.
        width: of the sigmoid, in resolutions (doublings) or positions (1 to 3 are usual).
        mapping: alpha of the mapping network.
        w_avg: alpha of the mean w, which truncation leans on; null: as `mapping`.
        layers: alphas that stand above all of these: one number a resolution, [b4, b8, ...] (those left out follow the
            schedule), or a table from names to alphas. A name is a resolution or a run of parts of a tensor's name
            (`b16.conv0`, `torgb`, `b64.torgb.affine`, `mapping`); the one with the most parts wins, of equals the last.
    """

    schedule: str = "sigmoid"
    over: str = "resolution"
    low: float = 0.5
    high: float = 1.0
    middle: int = 16
    level: int = 0
    width: float = 0.5
    mapping: float = 0.5
    w_avg: float | None = None
    layers: dict[str | int, float] | list[float] | None = None

    def __post_init__(self) -> None:
        choice("schedule", self.schedule, SCHEDULES)
        choice("over", self.over, AXES)
        number("low", self.low, 0, 1)
        number("high", self.high, 0, 1)
        number("middle", self.middle, 4, 1024, integer=True)
        choice("level", self.level, (0, 1))
        number("width", self.width, 0, 16, open_low=True)
        number("mapping", self.mapping, 0, 1)
        if self.w_avg is not None:
            number("w_avg", self.w_avg, 0, 1)
        for name, alpha in self.table.items():
            number(f"layers.{name}", alpha, 0, 1)

    @property
    def table(self) -> dict[str, float]:
        """`layers` as a table from names to alphas."""
        if isinstance(self.layers, list):
            return {f"b{2 ** (i + 2)}": alpha for i, alpha in enumerate(self.layers)}
        return {f"b{name}" if isinstance(name, int) else name: alpha for name, alpha in (self.layers or {}).items()}

    def alpha(self, name: str, img_resolution: int) -> float:
        """Share of the transferred generator in the tensor `name` of a generator of `img_resolution` px.

        The published swap takes a position from the transferred generator when it lies more than one above the stated
        one: `middle: 16, level: 0` switches at b32.conv0, and `level: 1` in the midst of 32 px, at b32.conv1. It keeps
        the source's stored noise, and its mapping (leave `mapping` at 0).
        """
        stated = lookup(self.table, name)
        if stated is not None:
            return float(stated)
        place = position(name)
        if place is None:
            is_mean = name == "mapping.w_avg" and self.w_avg is not None
            return float(self.w_avg if is_mean and self.w_avg is not None else self.mapping)
        if self.schedule == "published" and name.endswith("noise_const"):
            return self.low
        return self.low + (self.high - self.low) * self._share(place, img_resolution)

    def _share(self, place: int, img_resolution: int) -> float:
        """Way from `low` to `high`, 0 to 1, at a position."""
        middle, last = log2(self.middle) - 2, log2(img_resolution) - 2
        if self.schedule == "published":
            return float(place - (2 * middle + self.level) > 1)
        along = float(place // 2)
        if self.over == "layer":
            along, middle, last = float(place), 2 * middle + self.level, 2 * last + 1
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return along / last
        if self.schedule == "swap":
            return float(along > middle)
        return 0.5 + 0.5 * tanh((along - middle) / (2 * self.width))  # the logistic function, without overflow


@dataclass(kw_only=True)
class Part:
    """Layers taken from another generator to tune one part of the picture, e.g. only its colours (toRGB).

    Args:
        parent: which of the generators at hand, from 0.
        layers: names as in `Fusion.layers` and the share of that parent there, e.g. {b64.torgb: 1.0, b32.affine: 0.5}.
        region: instead of `layers`, a region of the face (of `REGIONS`: eye for the iris, mouth for the lips, skin,
            ...): the layers that change its colour most are found by measurement (`stages.style.fusion.influence`).
        count: how many layers a region takes.
        share: of that parent in a region's layers, 0 to 1.
    """

    parent: int
    layers: dict[str, float] | None = None
    region: str | None = None
    count: int = 3
    share: float = 1.0

    def __post_init__(self) -> None:
        number("parent", self.parent, 0, integer=True)
        if (self.layers is None) == (self.region is None):
            raise ConfigError("layers", "a part needs layers or a region, not both", "Give one of the two")
        for name, share in (self.layers or {}).items():
            number(f"layers.{name}", share, 0, 1)
        if self.region is not None:
            choice("region", self.region, REGIONS)
        number("count", self.count, 1, integer=True)
        number("share", self.share, 0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Names of layers


def position(name: str) -> int | None:
    """Position of a tensor's layer, two a resolution from 0 (see the top of this file); None for the mapping."""
    found = re.match(r"synthesis\.b(\d+)\.(\w+)", name)
    if found is None:
        return None
    return 2 * (int(found[1]).bit_length() - 3) + (found[2] not in ("const", "conv0"))


def layer_names(generator: Generator) -> list[str]:
    """The synthesis layers from coarse to fine: b4.const, b4.conv1, b4.torgb, b8.conv0, ..."""
    parts = [name.split(".")[1:3] for name in generator.state_dict() if name.startswith("synthesis.")]
    return list(dict.fromkeys(".".join(part) for part in parts if part[1] != "resample_filter"))


def lookup(table: Mapping[str, T], name: str) -> T | None:
    """The entry of `table` that fits the tensor `name`: the key with the most parts, of equals the last; else None."""
    path = f".{name.removeprefix('synthesis.')}."
    fitting = [(key.count("."), place, key) for place, key in enumerate(table) if f".{key}." in path]
    return table[max(fitting)[2]] if fitting else None


def check_names(table: Mapping[str, Any], generator: Generator, key: str) -> None:
    """Refuse a table (at the config key `key`) with a name that fits no tensor of `generator`.

    Raises:
        TristyleError: names the entry and the layers there are.
    """
    for name in table:
        if all(lookup({name: True}, tensor) is None for tensor in generator.state_dict()):
            known = ", ".join(layer_names(generator))
            raise TristyleError(f"{key}: the generator has no layer {name}. Choose from: {known}, torgb, affine.")


# ---------------------------------------------------------------------------------------------------------------------
# Fusing


@torch.no_grad()
def relative_distance(a: Generator, b: Generator) -> float:
    """Distance of the convolution weights over the root of the sum of their squared norms: 0 equal, 1 unrelated."""
    other = dict(b.named_parameters())
    pairs = [(p, other[name]) for name, p in a.named_parameters() if p.ndim == 4]
    difference = sum(float((p - q).square().sum()) for p, q in pairs)
    norms = sum(float(p.square().sum() + q.square().sum()) for p, q in pairs)
    value: float = (difference / norms) ** 0.5
    return value


def check_family(generators: Sequence[Generator]) -> None:
    """Refuse generators that cannot be mixed, every pair of them.

    Raises:
        TristyleError: different architectures, or weights too far apart to share an ancestor.
    """
    for a, b in combinations(generators, 2):
        if a.arguments != b.arguments:
            raise TristyleError(
                "style.fusion: the two generators differ in architecture. Transfer from the source itself."
            )
        distance = relative_distance(a, b)
        if distance > UNRELATED:
            raise TristyleError(
                f"style.fusion: the generators share no ancestor (relative weight distance {distance:.2f}, "
                f"at most {UNRELATED}). "
                "Transfer from the source itself."
            )


@torch.no_grad()
def fuse(source: Generator, transferred: Generator, fusion: Fusion) -> Generator:
    """A new generator between `source` and `transferred`, in eval mode.

    Raises:
        TristyleError: different architectures, weights too far apart to share an ancestor, or an unknown layer.
    """
    check_family([source, transferred])
    check_names(fusion.table, source, "style.fusion.layers")
    fused = copy.deepcopy(source).eval()
    target = transferred.state_dict()
    for name, value in fused.state_dict().items():
        value.lerp_(target[name], fusion.alpha(name, source.img_resolution))
    return fused


@torch.no_grad()
def blend(
    generators: Sequence[Generator], weights: Weights | Mapping[str, Weights] | Callable[[str], Weights]
) -> Generator:
    """A new generator that is a convex mixture of several with a common ancestor, in eval mode.

    Args:
        generators: at least one.
        weights: one number a generator; or a table from names of layers (as in `Fusion.layers`) to such rows, equal
            shares where no name fits; or a function from a tensor's name to a row. A row is scaled to the sum 1.

    Raises:
        TristyleError: generators that do not go together, a row of the wrong length or that is not weights, an unknown
            layer.
    """
    check_family(generators)
    if isinstance(weights, Mapping):
        check_names(weights, generators[0], "style.layers")
    states = [generator.state_dict() for generator in generators]
    blended = copy.deepcopy(generators[0]).eval()
    even = [1.0] * len(generators)
    for name, value in blended.state_dict().items():
        if isinstance(weights, Mapping):
            row = lookup(weights, name) or even
        else:
            row = weights(name) if callable(weights) else weights
        shares = _convex(row, len(generators))
        value.copy_(torch.stack([share * state[name] for share, state in zip(shares, states, strict=True)]).sum(dim=0))
    return blended


def _convex(row: Weights, count: int) -> list[float]:
    """Weights scaled to the sum 1."""
    if len(row) != count:
        raise TristyleError(f"style.weights: {len(row)} numbers for {count} generators. Give one a generator.")
    if not all(0 <= share < float("inf") for share in row) or sum(row) <= 0:
        raise TristyleError(f"style.weights: {list(row)} are not weights. Give numbers from 0 up, one above 0.")
    return [share / sum(row) for share in row]


@torch.no_grad()
def between(ladder: Sequence[tuple[int, Generator]], images: float) -> Generator:
    """The generator at a point of a training, interpolated between the two snapshots next to it, in eval mode.

    Args:
        ladder: (images seen, averaged generator), in any order; (0, source) among them to reach back to the start.
        images: where to look, within the ladder.

    Raises:
        TristyleError: outside the ladder, or snapshots that do not go together.
    """
    rungs = sorted(ladder, key=lambda rung: rung[0])
    if not rungs or not rungs[0][0] <= images <= rungs[-1][0]:
        reach = f"{rungs[0][0]} to {rungs[-1][0]}" if rungs else "no"
        raise TristyleError(f"style.ladder: {images:g} lies outside the snapshots ({reach} images). Choose one within.")
    above = bisect_left([seen for seen, _ in rungs], images)
    if rungs[above][0] == images:
        return copy.deepcopy(rungs[above][1]).eval()
    (low, before), (high, after) = rungs[above - 1], rungs[above]
    share = (images - low) / (high - low)
    return fuse(before, after, Fusion(schedule="constant", high=share, mapping=share))


@torch.no_grad()
def with_part(generator: Generator, other: Generator, part: Part) -> Generator:
    """A new generator: `generator` with the part's layers (`part.layers`, given) moved towards those of `other`.

    Raises:
        TristyleError: generators that do not go together, or an unknown layer.
    """
    check_family([generator, other])
    table = part.layers or {}
    check_names(table, generator, "style.parts.layers")
    tuned, target = copy.deepcopy(generator).eval(), other.state_dict()
    for name, value in tuned.state_dict().items():
        value.lerp_(target[name], lookup(table, name) or 0.0)
    return tuned
