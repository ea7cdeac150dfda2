"""A distilled student as it ships: what a few-shot training starts from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from stages.core.files import write_json
from stages.recipes import blaze_student
from stages.student.blaze_fewshot import BlazeFewShot, open_start
from tests.tools import tiny_blaze


def test_what_ships_is_a_start(tmp_path: Path) -> None:
    made, out = tiny_blaze.student(tmp_path / "made"), tmp_path / "blaze64"
    write_json(tmp_path / "measures.json", {"kid": 0.25})
    blaze_student.main([str(made.path), "--measures", str(tmp_path / "measures.json"), "--out", str(out)])
    card = json.loads((tmp_path / "blaze64.json").read_text())
    assert card["heldout"] == {"kid": 0.25} and card["files"][0] == "blaze64/student.safetensors"
    for shipped, given in zip(open_start(out), open_start(made.path), strict=True):
        for name, value in given.state_dict().items():
            torch.testing.assert_close(shipped.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_other_networks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tiny_blaze.student(tmp_path / "made").path
    shutil.copy(made / "discriminator.safetensors", made / "faces.safetensors")
    with pytest.raises(SystemExit):
        blaze_student.main([str(made), "--out", str(tmp_path / "x")])
    assert "faces.safetensors: not of a distilled student. Run experiment=blaze-128." in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_without_a_student_of_ones_own_the_shipped_one_learns(tmp_path: Path) -> None:
    model = BlazeFewShot(students=str(tmp_path))
    assert {path.parent.name for path in model.files().values()} == {"blaze128", "data"}
    own = tiny_blaze.student(tmp_path / "own")
    later = BlazeFewShot(students=str(tmp_path))
    assert own.path in {path.parent for path in later.files().values()}
    assert own.path not in {path.parent for path in model.files().values()}  # which has looked already
