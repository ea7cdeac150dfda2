"""Stylised or rich? Many fusions of one transfer, measured alike, their Pareto front, its knee, and a choice by rule.

Stylisation is KID to held-out real pictures of the style (lower is nearer); richness is the coverage of poses and
expressions, relative to the source at the same latents (higher is richer). A candidate is on the front when no other is
as good on both and better on one. The knee is the front's member farthest from the straight line through its two ends,
both axes scaled to [0, 1] over the front (Satopaa et al., "Finding a 'Kneedle' in a Haystack", 2011).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, number
from stages.core.tensors import to_tensor, unit
from stages.metrics.broken import QualityGate, together
from stages.metrics.kid import HeadKid, polynomial_kid
from stages.metrics.richness import intra_cluster_distance, precision_recall, richness
from stages.networks.face_reader import CHUNK, FaceReading, Reader, load_reader
from stages.networks.latents import latents
from stages.networks.stylegan2 import Generator
from stages.style.fusion.fuse import Fusion, between, fuse
from stages.style.sampling.candidates import draw

PICTURES = 6  # latents shown on the contact sheet
MEASURES = (
    "kid", "kid_sd", "coverage", "attribute_coverage", "filled_share", "pose_correspondence",
    "expression_correspondence", "intra", "precision", "recall", "broken_share",
)  # fmt: skip
CLUSTERS = 10  # training pictures that intra-cluster distances are grouped by
CANDIDATES = (
    "constant-0.5", "constant-0.75", "linear-0", "linear-0.5", "sigmoid-16-0", "sigmoid-16-0.5", "sigmoid-8-0.5",
    "swap-8", "swap-16", "swap-32", "snapshot-0.125", "snapshot-0.25", "snapshot-0.5", "snapshot-0.5+sigmoid-16-0.5",
)  # fmt: skip
WIDTH = 1.5  # of the candidates' sigmoids, in positions
_NAME = re.compile(
    r"(?:snapshot-(?P<share>[\d.]+)\+?)?"
    r"(?:(?P<flat>constant|linear)-(?P<alpha>[\d.]+)|sigmoid-(?P<middle>\d+)-(?P<low>[\d.]+)|swap-(?P<last>\d+))?"
)


# ---------------------------------------------------------------------------------------------------------------------
# What is tried


@dataclass(frozen=True)
class Candidate:
    """A generator to be made: a point of the training (share of its images), fused with the source or not."""

    label: str
    share: float
    fusion: Fusion | None

    @property
    def family(self) -> str:
        """``swap``, ``interpolation``, or ``plain`` for a snapshot as it was trained."""
        if self.fusion is None:
            return "plain"
        return "swap" if self.fusion.schedule in ("swap", "published") else "interpolation"

    def build(self, source: Generator, ladder: Sequence[tuple[int, Generator]]) -> Generator:
        """The generator itself; `ladder` from the source to the transferred one."""
        end = max(images for images, _ in ladder)
        trained = between(ladder, self.share * end)
        return trained if self.fusion is None else fuse(source, trained, self.fusion)


def parse(name: str) -> Candidate:
    """A candidate's name.

    ``source``, ``transferred``; ``constant-ALPHA``; ``linear-LOW`` (to 1, along the layers); ``sigmoid-PIXELS-LOW`` (to
    1, half way at that resolution); ``swap-PIXELS`` (the last resolution of the source); ``snapshot-SHARE`` of the
    training's images; ``snapshot-SHARE+`` and one of the fusions: of that snapshot and the source. The mapping takes
    the coarse layers' alpha.

    Raises:
        ConfigError: not such a name.
    """
    if name in ("source", "transferred"):
        return Candidate(name, float(name == "transferred"), None)
    found = _NAME.fullmatch(str(name))
    try:
        if not name or found is None or name.endswith("+"):
            raise ValueError
        share = 1.0 if found["share"] is None else float(found["share"])
        number("share", share, 0, 1)
        return Candidate(name, share, _fusion(found))
    except (ValueError, ConfigError):
        remedy = "Write e.g. constant-0.5, linear-0.5, sigmoid-16-0.5, swap-16, snapshot-0.5+sigmoid-16-0.5"
        raise ConfigError("candidates", f"{name!r} is not a candidate", remedy) from None


def _fusion(found: re.Match[str]) -> Fusion | None:
    if found["flat"] == "constant":
        alpha = float(found["alpha"])
        return Fusion(schedule="constant", high=alpha, mapping=alpha)
    if found["flat"] == "linear":
        low = float(found["alpha"])
        return Fusion(schedule="linear", over="layer", low=low, mapping=low)
    if found["middle"]:
        low = float(found["low"])
        return Fusion(over="layer", middle=int(found["middle"]), width=WIDTH, low=low, mapping=low)
    return Fusion(schedule="swap", middle=int(found["last"]), low=0.0, mapping=0.0) if found["last"] else None


@dataclass(kw_only=True)
class Sweep:
    """What to try, how it is measured, and the rule of the choice.

    Args:
        candidates: names, see `parse`.
        count: pictures drawn of each.
        choose: use the chosen candidate for the style set, instead of the stage's own fusion.
        coverage_min: what a chosen candidate covers at least, relative to the source.
        kid_ratio_max: a chosen candidate's KID, at most this many times the plain transfer's.
    """

    candidates: list[str] = field(default_factory=lambda: list(CANDIDATES))
    count: int = 500
    choose: bool = True
    coverage_min: float = 0.9
    kid_ratio_max: float = 1.25

    def __post_init__(self) -> None:
        for name in self.candidates:
            parse(name)
        number("count", self.count, 20, 10000, integer=True)
        number("coverage_min", self.coverage_min, 0, 2)
        number("kid_ratio_max", self.kid_ratio_max, 0, open_low=True)


@dataclass(kw_only=True, eq=False)
class SweepPoint:
    """A candidate as measured.

    Attributes:
        images: seen by the training at this point.
        measures: `MEASURES`, name -> value.
        pictures: uint8 [PICTURES, R, R, 3] for the sheet.
    """

    candidate: Candidate
    images: int
    measures: dict[str, float]
    pictures: np.ndarray = field(repr=False)

    @property
    def label(self) -> str:
        """The candidate's name."""
        return self.candidate.label

    @property
    def kid(self) -> float:
        """Stylisation: lower is nearer to the style."""
        return self.measures["kid"]

    @property
    def coverage(self) -> float:
        """Richness: higher is richer, 1 as rich as the source."""
        return self.measures["coverage"]

    def row(self) -> dict[str, Any]:
        """As an entry of pareto.json."""
        fusion = self.candidate.fusion
        measures = {name: round(value, 5) for name, value in self.measures.items()}
        head = {"label": self.label, "family": self.candidate.family, "images": self.images}
        return head | measures | {"settings": None if fusion is None else asdict(fusion)}


@dataclass(kw_only=True)
class Result:
    """All points; the front from the nearest to the style to the richest; the knee; the choice and its generator.

    `met` says whether the chosen point keeps the rule, on the latents of the sweep and on others; where none does, the
    knee is chosen. `confirmed` holds the measures on the others of ``transferred`` and ``chosen``.
    """

    points: list[SweepPoint]
    front: list[SweepPoint]
    knee: SweepPoint
    chosen: SweepPoint
    met: bool
    confirmed: dict[str, dict[str, float]]
    generator: Generator
    settings: Sweep


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


class StyleScorer:
    """Measures pictures against real ones of the style, and against the source's at the same latents.

    Args:
        reader: the face reader.
        real: uint8 [M, H, W, 3], held-out real pictures of the style, M >= 8.
        real_masks: [M, 1, H, W], their head coverage in [0, 1]; None: the reader's.
        training: uint8 [K, H, W, 3], pictures that were trained on.
        source: uint8 [N, R, R, 3], the source's pictures. They stand for sound faces, too: the quality gate spans them
            and the real ones, for what lies half-way between photo and style is not broken.
    """

    def __init__(
        self, reader: Reader, real: np.ndarray, real_masks: Tensor | None, training: np.ndarray, source: np.ndarray
    ) -> None:
        self.reader = reader
        self.device = next(reader.parameters()).device
        reading = self._read(real)
        self.real = self._head_features(real, reading.mask if real_masks is None else real_masks.to(self.device))
        self.training = self._read(training[:CLUSTERS]).features
        self.base = self._read(source)
        self.gate = QualityGate.fit(reader, together(reading, self.base))

    def _read(self, images: np.ndarray) -> FaceReading:
        return self.reader.read(to_tensor(images).to(self.device))

    def _head_features(self, images: np.ndarray, masks: Tensor) -> Tensor:
        kid = HeadKid(self.reader)
        for start in range(0, len(images), CHUNK):
            part = unit(to_tensor(images[start : start + CHUNK]).to(self.device))
            kid.add_fake(part, masks[start : start + CHUNK])
        return torch.cat(kid.fake)

    def measure(self, images: np.ndarray) -> dict[str, float]:
        """Pictures of the source's latents, uint8 [N, R, R, 3] -> `MEASURES`."""
        reading = self._read(images)
        features = self._head_features(images, reading.mask)
        kid, kid_sd = polynomial_kid(self.real, features)
        precision, recall = precision_recall(self.real, features)
        broken = self.gate.broken(reading)
        measured = richness(reading, self.base, broken=broken) | {
            "kid": kid,
            "kid_sd": kid_sd,
            "intra": intra_cluster_distance(reading.features, self.training),
            "precision": precision,
            "recall": recall,
            "broken_share": float(broken.double().mean()),
        }
        return {name: measured[name] for name in MEASURES}


def _tried(names: Sequence[str], ladder: bool) -> list[Candidate]:
    """Source, transferred and the named candidates, each once; without a ladder none between snapshots."""
    candidates = [parse(name) for name in dict.fromkeys(("source", "transferred", *names))]
    return candidates if ladder else [item for item in candidates if item.share in (0.0, 1.0)]


def _shown(points: Iterator[SweepPoint], total: int, runtime: Runtime) -> list[SweepPoint]:
    """All points, with a line of progress while they are measured."""
    found = []
    with runtime.track.progress("sweep", total) as line:
        line.start(0)
        for point in points:
            found.append(point)
            line.update(len(found))
    return found


def run_sweep(
    source: Generator,
    transferred: Generator,
    ladder: Sequence[tuple[int, Generator]],
    *,
    images: int,
    real: np.ndarray,
    real_masks: Tensor | None,
    training: np.ndarray,
    psi: float,
    seed: int,
    settings: Sweep,
    runtime: Runtime,
) -> Result:
    """Draw, measure and compare all candidates, and build the chosen one.

    Args:
        source: the generator before the training.
        transferred: the one after it.
        ladder: snapshots in between, (images seen, averaged generator); may be empty: then the candidates that name
            a snapshot are left out.
        images: seen by the transferred generator.
        real: as `StyleScorer` has it, as have `real_masks` and `training`.
        real_masks: coverage of the real heads.
        training: pictures that must not be copied.
        psi: truncation of the pictures.
        seed: of the first picture.
        settings: what to try.
        runtime: device and progress.

    Raises:
        TristyleError: generators that do not go together, or fewer than 30 pictures to score by.
    """
    inner = [rung for rung in ladder if 0 < rung[0] < images]
    rungs = [(0, source), *inner, (images, transferred)]
    candidates = _tried(settings.candidates, bool(inner))
    reader = load_reader(runtime.device)

    def measured(items: Iterable[Candidate], first: int) -> Iterator[SweepPoint]:
        """Points of candidates, the source first (the others are compared with it), on the seeds from `first` on."""
        z = latents(source.z_dim, list(range(first, first + settings.count)))
        scorer: StyleScorer | None = None
        for item in items:
            drawn = draw(item.build(source, rungs).to(runtime.device), z, psi)
            scorer = scorer or StyleScorer(reader, real, real_masks, training, drawn)
            seen, values = round(item.share * images), scorer.measure(drawn)
            yield SweepPoint(candidate=item, images=seen, measures=values, pictures=drawn[:PICTURES])

    points = _shown(measured(candidates, seed), len(candidates), runtime)

    # Those that keep enough variety are measured again, on other seeds.
    able = keeping(points, settings.coverage_min, settings.kid_ratio_max)
    again = measured([*candidates[:2], *(point.candidate for point in able)], seed + settings.count)
    chosen, confirmed = confirm(able, again, settings) if able else (None, {})
    front = pareto_front(points)
    final = knee(front) if chosen is None else chosen
    return Result(
        points=points, front=front, knee=knee(front), chosen=final, met=chosen is not None, confirmed=confirmed,
        generator=final.candidate.build(source, rungs), settings=settings,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Comparing


def pareto_front(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """The points that no other beats, from the lowest KID (nearest to the style) to the highest coverage."""
    front: list[SweepPoint] = []
    for point in sorted(points, key=lambda point: (point.kid, -point.coverage)):
        if not front or point.coverage > front[-1].coverage:
            front.append(point)
    return front


def knee(front: Sequence[SweepPoint]) -> SweepPoint:
    """The front's member farthest from the straight line through its ends, on its richer and nearer side.

    Both axes are scaled to [0, 1] over the front. With no member on that side (a front of two, or one that is bent
    inwards) it is the one nearest to the ideal corner: lowest KID and highest coverage at once.

    Raises:
        ValueError: an empty front.
    """
    if not front:
        raise ValueError("an empty front has no knee")
    axes = np.array([[point.kid, point.coverage] for point in front])
    spans = np.maximum(np.ptp(axes, axis=0), 1e-12)
    kid, rich = ((axes - axes.min(axis=0)) / spans).T
    above = rich - kid  # the line through (0, 0) and (1, 1), times sqrt(2)
    if above.max() <= 1e-9:
        return front[int(np.argmin(kid**2 + (1 - rich) ** 2))]
    return front[int(np.argmax(above))]


def keeping(points: Sequence[SweepPoint], coverage_min: float = 0.9, kid_ratio_max: float = 1.25) -> list[SweepPoint]:
    """The points that cover enough and stay near the plain transfer's KID, the nearest to the style first.

    The plain transfer is the point ``transferred``; its KID counts as one standard deviation at least, for the
    unbiased estimate may come out at zero or below.
    """
    plain = next(point for point in points if point.label == "transferred")
    limit = kid_ratio_max * max(plain.kid, plain.measures["kid_sd"])
    able = [point for point in points if point.coverage >= coverage_min and point.kid <= limit]
    return sorted(able, key=lambda point: point.kid)


def confirm(
    able: Sequence[SweepPoint], again: Iterator[SweepPoint], settings: Sweep
) -> tuple[SweepPoint | None, dict[str, dict[str, float]]]:
    """The first of the `able` points that keeps the rule on other latents, too: the best of many owes part to luck.

    Args:
        able: in order of preference.
        again: source, plain transfer, then the same points, measured on other latents; drawn one by one, as needed.
        settings: the rule.

    Returns:
        the point, None where none keeps the rule twice; and what was measured of ``transferred`` and ``chosen``.
    """
    next(again)
    plain = next(again)
    for point in able:
        other = next(again)
        if other in keeping([plain, other], settings.coverage_min, settings.kid_ratio_max):
            return point, {"transferred": plain.measures, "chosen": other.measures}
    return None, {}


def broken_by_family(points: Sequence[SweepPoint]) -> dict[str, float]:
    """Mean share of broken pictures of the plain snapshots, the layer swaps and the interpolations."""
    shares: dict[str, list[float]] = {}
    for point in points:
        shares.setdefault(point.candidate.family, []).append(point.measures["broken_share"])
    return {family: float(np.mean(values)) for family, values in shares.items()}
