"""The fusions a sweep tries, each under a short name: a point of the training, mixed with the source or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stages.core.settings import ConfigError, number
from stages.networks.stylegan2 import Generator
from stages.style.fusion.fuse import Fusion, between, fuse

CANDIDATES = (
    "source", "transferred", "constant-0.5", "constant-0.75", "linear-0", "linear-0.5", "sigmoid-16-0",
    "sigmoid-16-0.5", "sigmoid-8-0.5", "swap-8", "swap-16", "swap-32", "snapshot-0.25", "snapshot-0.5",
    "snapshot-0.5+sigmoid-16-0.5",
)  # fmt: skip
WIDTH = 1.5  # of the candidates' sigmoids, in positions
_NAME = re.compile(
    r"(?:snapshot-(?P<share>[\d.]+)\+?)?"
    r"(?:(?P<flat>constant|linear)-(?P<alpha>[\d.]+)|sigmoid-(?P<middle>\d+)-(?P<low>[\d.]+)|swap-(?P<last>\d+))?"
)


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
        raise ConfigError("candidates", f"{name!r} is no candidate", remedy) from None


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
    return Fusion(schedule="swap", middle=int(found["last"])) if found["last"] else None
