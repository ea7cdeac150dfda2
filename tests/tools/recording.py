"""Recorded values of a tiny seeded training, and one comparison for the recorded run and for every faulty one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

Values = Mapping[str, list[float]]


@dataclass(frozen=True)
class Recording:
    """What a training once gave.

    Attributes:
        path: the JSON file.
        tolerance: name of a curve or score -> largest relative deviation.
        least: recorded values below it count as it, where a deviation is divided by them.
    """

    path: Path
    tolerance: Mapping[str, float]
    least: float

    def deviations(self, found: Values) -> dict[str, float]:
        """What lies outside its tolerance: name -> largest relative deviation. {} = as recorded."""
        recorded: Values = json.loads(self.path.read_text())
        assert found.keys() == recorded.keys() == self.tolerance.keys()
        worst = {
            name: max(abs(a - b) / max(abs(b), self.least) for a, b in zip(found[name], recorded[name], strict=True))
            for name in found
        }
        return {name: value for name, value in worst.items() if not value <= self.tolerance[name]}

    def check(self, found: Values) -> None:
        """Assert that values are as recorded; with TRISTYLE_RECORD=1, record them instead."""
        if os.environ.get("TRISTYLE_RECORD") == "1":
            rounded = {name: [round(value, 6) for value in values] for name, values in found.items()}
            self.path.write_text(json.dumps(rounded, indent=1) + "\n")
            pytest.skip(f"recorded {self.path}")
        assert self.deviations(found) == {}
