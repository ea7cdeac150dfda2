"""Which faces a style set should hold: histograms over pose, expression and looks, and the draw that comes near them.

Candidates are accepted by importance: the chance of each is target / empirical, capped at one. Over several attributes
the weights are products of one factor per bin, fitted by iterative proportional fitting (Deming & Stephan, 1940) under
that cap, so that every attribute's own histogram is met and not a joint one, whose cells would mostly be empty. The
draw itself is systematic (Madow, 1949): one fixed comb over the summed chances, no random number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.core.settings import ConfigError, choice, number
from stages.metrics.attributes import AREAS, EDGES, LIGHTNESS, check_name

TARGETS = ("natural", "balanced", "photos")
CLOSE_ENOUGH = 0.02  # total variation at which no further candidates are drawn
SWEEPS = 100  # of the proportional fitting
RENAMED = {"hair": "hair_lightness", "skin": "skin_lightness"}


PRESENCE = ("without", "with")  # names of the two bins of what a face wears or not
UNITS = {"yaw": "degrees", "pitch": "degrees", "smile": "-1..1", "mouth_open": "0..1"}
UNITS |= dict.fromkeys(AREAS, "share of the picture") | dict.fromkeys(LIGHTNESS, "lightness L*")


@dataclass(kw_only=True)
class Distribution:
    """Which faces a style set holds, by the shares of attributes' bins.

    Args:
        target: ``natural`` (what the generator draws), ``balanced`` (every bin that candidates reach as full as any
            other) or ``photos`` (as in the training photos).
        over: names of attributes of `stages.metrics.attributes`, of those in `EDGES`.
        edges: attribute -> inner edges of its bins, ascending, in its unit; for others than the usual ones.
        oversample: at most so many candidates are drawn per picture asked for.
    """

    target: str = "natural"
    over: list[str] = field(default_factory=lambda: ["yaw", "pitch", "smile", "mouth_open"])
    edges: dict[str, list[float]] = field(default_factory=dict)
    oversample: float = 3.0

    def __post_init__(self) -> None:
        choice("target", self.target, TARGETS)
        number("oversample", self.oversample, 1, 100)
        if not isinstance(self.over, list) or not self.over or len(set(map(str, self.over))) != len(self.over):
            raise ConfigError("over", f"{self.over!r} is not a list of attributes", "Name each attribute once")
        for name in self.over:
            check_name("over", name, EDGES, RENAMED)
        if not isinstance(self.edges, dict):
            raise ConfigError("edges", f"{self.edges!r} names no attributes", "Write {yaw: [-10, 10]}")
        for name, edges in self.edges.items():
            check_name("edges", name, self.over, RENAMED)
            for edge in edges if isinstance(edges, list) and edges else [None]:
                number(f"edges.{name}", edge)
            if any(a >= b for a, b in zip(edges, edges[1:], strict=False)):
                raise ConfigError(f"edges.{name}", f"{edges!r} does not ascend", "List the edges from low to high")

    @property
    def steers(self) -> bool:
        """Whether candidates have to be read for it."""
        return self.target != "natural"

    def edges_of(self, name: str) -> tuple[float, ...]:
        """Inner edges of an attribute's bins."""
        return tuple(self.edges.get(name, EDGES[name]))

    def labels(self, name: str) -> list[str]:
        """Names of an attribute's bins, the last one for pictures that do not show it where that can be."""
        edges = self.edges_of(name)
        names: tuple[str, ...] = PRESENCE
        if name not in AREAS or len(edges) > 1:
            inner = [f"{a:g} to {b:g}" for a, b in zip(edges, edges[1:], strict=False)]
            names = (f"up to {edges[0]:g}", *inner, f"above {edges[-1]:g}")
        return [*names, *(["none"] if name in LIGHTNESS else [])]

    def bins(self, values: np.ndarray) -> list[np.ndarray]:
        """Attribute values [N, len(over)] -> per attribute int64 [N] bin numbers; what is NaN falls into the last."""
        found = []
        for name, column in zip(self.over, values.T, strict=True):
            edges = self.edges_of(name)
            inside = np.digitize(column, edges, right=True)
            found.append(np.where(np.isnan(column), len(edges) + 1, inside) if name in LIGHTNESS else inside)
        return found

    def shares(self, values: np.ndarray) -> list[np.ndarray]:
        """Per attribute the shares of N >= 0 pictures in its bins, float64 [bins]."""
        counts = self._counts(self.bins(values))
        return [count / max(len(values), 1) for count in counts]

    def _counts(self, bins: list[np.ndarray]) -> list[np.ndarray]:
        return [np.bincount(b, minlength=len(self.labels(n))) for n, b in zip(self.over, bins, strict=True)]

    def ideal(self, values: np.ndarray, photos: np.ndarray | None) -> list[np.ndarray]:
        """The shares aimed at, per attribute, given all candidates' values and those of the photos."""
        if self.target == "photos":
            if photos is None or not len(photos):
                raise ConfigError("target", "photos asks for training photos, of which there are none", "Say balanced")
            return self.shares(photos)
        before = self.shares(values)
        return [(share > 0) / max((share > 0).sum(), 1) for share in before] if self.steers else before

    def select(self, values: np.ndarray, count: int, photos: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Which of the candidates to accept.

        Args:
            values: float [N, len(over)], the candidates' attributes, in the order in which they were drawn.
            count: pictures wanted.
            photos: float [M, len(over)], attributes of the training photos (for ``photos``).

        Returns:
            indices, ascending int64 [at most count], and the chance of each candidate, float64 [N] in [0, 1]. Fewer
            than `count` when there are fewer candidates in the bins that the target fills.
        """
        if not self.steers:
            return np.arange(min(count, len(values))), (np.arange(len(values)) < count).astype(float)
        bins = self.bins(values)
        ideals = self.ideal(values, photos)
        goals = [fill(c, ideal, count) for c, ideal in zip(self._counts(bins), ideals, strict=True)]
        chances = rake(bins, goals, count)
        return systematic(chances, np.lexsort(bins[::-1])), chances

    def distances(self, values: np.ndarray, ideals: list[np.ndarray]) -> list[float]:
        """Per attribute the total variation between the pictures' histogram and the ideal one, in [0, 1]."""
        pairs = zip(self.shares(values), ideals, strict=True)
        return [float(np.abs(share - ideal).sum() / 2) for share, ideal in pairs]

    def describe(
        self, values: np.ndarray, accepted: np.ndarray, count: int, photos: np.ndarray | None
    ) -> dict[str, Any]:
        """What `distribution.json` says.

        Args:
            values: float [N, len(over)] of all candidates that passed the filters.
            accepted: indices into them.
            count: pictures wanted.
            photos: as in `select`.
        """
        ideals = self.ideal(values, photos)
        before, after = self.shares(values), self.shares(values[accepted])
        distances = self.distances(values[accepted], ideals)

        rows = {
            name: {
                "unit": UNITS[name],
                "edges": list(self.edges_of(name)),
                "labels": self.labels(name),
                "before": before[i].round(5).tolist(),
                "after": after[i].round(5).tolist(),
                "target": ideals[i].round(5).tolist(),
                "distance": round(distances[i], 5),
            }
            for i, name in enumerate(self.over)
        }

        return {
            "target": self.target,
            "candidates": len(values),
            "accepted": len(accepted),
            "accepted_share": round(len(accepted) / max(len(values), 1), 5),
            "shortfall": count - len(accepted),
            "distance": max(row["distance"] for row in rows.values()),
            "attributes": rows,
        }


# ---------------------------------------------------------------------------------------------------------------------
# Accepting


def fill(counts: np.ndarray, ideal: np.ndarray, total: int) -> np.ndarray:
    """How many pictures of each bin come nearest to the ideal shares.

    Bins that hold too few give all they have. The others divide the rest between them in the ideal's proportion.

    Args:
        counts: [K] candidates in each bin.
        ideal: [K] shares with sum 1.
        total: pictures wanted.

    Returns:
        float64 [K], at most `counts`, with sum `total` or, where the bins aimed at hold fewer, less.
    """
    quota = np.zeros(len(counts))
    open_ = ideal > 0
    while open_.any():
        share = np.where(open_, (total - quota[~open_].sum()) * ideal / ideal[open_].sum(), 0)
        short = open_ & (share > counts)
        quota[open_] = share[open_]
        if not short.any():
            break
        quota[short] = counts[short]
        open_ &= ~short
    return quota


def rake(bins: list[np.ndarray], goals: list[np.ndarray], count: int) -> np.ndarray:
    """Chances of acceptance whose expected histograms come near every attribute's goal.

    Args:
        bins: per attribute int [N], the candidates' bins.
        goals: per attribute float [K], expected pictures in each bin.
        count: pictures wanted; the chances sum to it, or to the number of candidates in bins that are aimed at.

    Returns:
        float64 [N] in [0, 1].
    """
    weights = np.ones(len(bins[0]))
    for _ in range(SWEEPS):
        for b, goal in zip(bins, goals, strict=True):
            mass = np.bincount(b, np.minimum(weights, 1), minlength=len(goal))
            weights = np.minimum(weights * (goal / np.maximum(mass, 1e-12))[b], 1e6)
    # Attributes pull against each other, so that the sum may be off: one common factor mends it.
    if (weights > 0).sum() <= count:
        return (weights > 0).astype(float)
    low, high = -60.0, 60.0  # of the factor's binary logarithm
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(weights * 2.0**middle, 1).sum() < count else (low, middle)
    out: np.ndarray = np.minimum(weights * 2.0**high, 1)
    return out


def systematic(chances: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Systematic sampling: ascending indices, as many as the chances sum to (rounded), no random number.

    Args:
        chances: float [N] in [0, 1].
        order: permutation of the candidates; like ones side by side stratify the draw.
    """
    sure = chances > 1 - 1e-6
    rest = order[~sure[order]]
    summed = np.cumsum(chances[rest])
    wanted = round(float(summed[-1])) if len(summed) else 0
    comb = (np.arange(wanted) + 0.5) * (summed[-1] / wanted if wanted else 1)
    return np.sort(np.concatenate([np.flatnonzero(sure), rest[np.searchsorted(summed, comb)]]))
