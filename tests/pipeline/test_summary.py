"""The console summary shows what a stage cost and marks the promised numbers."""

from pathlib import Path

import pytest

from stages.core.artifact import Artifact
from stages.pipeline.summary import print_summary


def test_summary_shows_cost_and_promised_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    manifest = {"metrics": {"face_ratio": 0.5, "background_error": 0.04, "other": 1.0}, "cost": {"seconds": 90.0}}
    print_summary({"student": Artifact(Path("."), manifest)})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["student", "1.5", "min"] in rows
    assert any(row[-4:] == ["0.5", "×", "0.65", "×"] for row in rows)
    assert any(row[-4:] == ["0.04", "L1", "0.03", "L1"] for row in rows)
    assert not any("other" in row for row in rows)
