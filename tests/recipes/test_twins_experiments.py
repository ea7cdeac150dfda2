"""The supervised upper bound, tiny and whole: rendered people, their twins, an augmented student, a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stages.core.artifact import KINDS, open_artifact
from stages.core.images import read_image
from tests.recipes.test_faces_experiments import only, tristyle

SMALL = [
    "workers=1", "device=cpu", "data.size=32", "data.count=6", "data.style_count=4", "data.heldout=3",
    "data.heldout_style=3", "student.train.images=24", "student.train.batch=8", "student.model.tier=nano",
    "student.model.discriminator_layers=2", "export.photos=2", "export.repeats=2", "export.calibration=3",
]  # fmt: skip


def test_the_recipe_runs_from_nothing_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    tristyle("experiment=twins-128", *SMALL, f"out={out}")
    assert not (out / "style").exists()
    made = {kind: open_artifact(only(out, kind), kind) for kind in KINDS if kind != "style"}
    people = {row["person"] for row in made["data"].records() if row["split"] == "train"}
    assert len(people) == 2  # three views each
    student = made["student"].config["model"]
    assert all(student["augment"][name] > 0 for name in ("geometry", "backgrounds", "occluders", "camera"))
    assert made["student"].metrics["pairs"] == 6 and np.isfinite(made["student"].metrics["face_error"])
    held = made["student"].path / "heldout" / "000000.png"
    assert read_image(held).shape == (32, 32, 3) and (made["export"].path / "student.onnx").exists()
    page = next(out.glob("reports/export-*/report.html")).read_text()
    assert "Supervised upper bound" in page

    # photographs without twins beside the pairs: here other rendered people
    tristyle("stage=data", "data=rendered", *SMALL, "seed=7", f"out={out}")
    (other,) = [path for path in out.glob("data/*/manifest.json") if json.loads(path.read_text())["config"]["seed"]]
    place = f"student.model.photographs.path={other.parent}"
    tristyle("experiment=twins-128", *SMALL, place, "stage=student", f"out={out}")
    metrics = [json.loads(path.read_text())["metrics"] for path in out.glob("student/*/manifest.json")]
    assert sorted(row.get("photographs", 0) for row in metrics) == [0, 6]
