"""Wrong input: one line that names the key or path and the remedy, exit code 2, no traceback, nothing lost.

The command line is called in this process (its `main`, with its own argv), because a process costs seconds of import.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.core.images import write_image

TINY = ("data.size=32", "data.count=4", "data.style_count=4", "data.heldout=4", "data.heldout_style=4", "workers=1")


@pytest.fixture
def painted(tristyle, tmp_path) -> Path:
    """A sealed data artifact of four people."""
    outcome = tristyle("stage=data", *TINY)
    assert outcome.code == 0, outcome
    (manifest,) = tmp_path.glob("runs/data/*/manifest.json")
    return manifest.parent


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file that is no lock, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("style.train.lr=-1", "style.train.lr"),
        ("style.train.lr=nan", "style.train.lr"),
        ("style.train.lr=inf", "style.train.lr"),
        ("style.train.lr=fast", "style.train.lr"),
        ("pair.train.batch=0", "pair.train.batch"),
        ("data.size=63", "data.size"),
        ("data.size=0", "data.size"),
        ("student.train.images=-5", "student.train.images"),
        ("student.train.images=1.5", "student.train.images"),
        ("pair=nonsense", "nonsense"),
        ("style.train.lrr=0.1", "lrr"),
        ("stile=stylegan2", "stile"),
        ("stage=nonsense", "stage"),
        ("device=abacus", "device"),
        ("workers=-1", "workers"),
        ("tracker=nonsense", "nonsense"),
        ("experiment=nonsense", "nonsense"),
        ("style.train.lr=", "style.train.lr"),
        ("style.train.lr=${nonsense}", "nonsense"),
    ],
)
def test_wrong_value_names_its_key(tristyle, tmp_path, argument: str, named: str) -> None:
    assert named in tristyle(argument).line
    assert not (tmp_path / "runs").exists(), "the whole config is checked before anything is made"


def test_a_later_stage_is_checked_before_an_earlier_one_runs(tristyle, tmp_path) -> None:
    assert "student.train.lr" in tristyle("stage=data", "student.train.lr=nan", *TINY).line
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_checked_before_its_first_job_runs(tristyle, tmp_path) -> None:
    assert "pair.train.lr" in tristyle("-m", "stage=data", "pair.train.lr=1e-4,-1", *TINY).line
    assert not list(tmp_path.rglob("manifest.json"))


def test_file_that_config_names_is_checked_first(tristyle, tmp_path) -> None:
    line = tristyle("style.start=nowhere/base.safetensors", *TINY).line
    assert "nowhere/base.safetensors" in line and "style.start" in line
    assert not (tmp_path / "runs").exists()


def test_missing_input_names_the_stage_to_run(tristyle) -> None:
    assert "stage=data" in tristyle("stage=style", *TINY).line


def test_tampered_input_is_named_and_kept(tristyle, painted: Path) -> None:
    victim = sorted(painted.glob("photo/*.png"))[0]
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x00")
    before = files_below(painted)
    line = tristyle("stage=style", *TINY).line
    assert victim.name in line and "stage=data" in line
    assert files_below(painted) == before


def test_a_style_that_the_data_lack(tristyle, painted: Path) -> None:
    before = files_below(painted)
    line = tristyle("style.target=nonsense", *TINY).line
    assert "nonsense" in line and "style.target" in line and "comic" in line, "names the key and what there is"
    assert files_below(painted) == before


def test_input_with_a_file_missing_is_named(tristyle, painted: Path) -> None:
    victim = sorted(painted.glob("mask/*.png"))[0]
    victim.unlink()
    assert f"mask/{victim.name}" in tristyle("stage=style", *TINY).line


def test_damaged_manifest_is_named(tristyle, painted: Path) -> None:
    (painted / "manifest.json").write_text("{")
    assert "manifest.json" in tristyle("stage=style", *TINY).line


def test_empty_folder(tristyle, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    line = tristyle("stage=data", "data=folders", f"data.path={tmp_path / 'mine'}", "data.size=32").line
    assert "mine" in line and "photo" in line


def test_absent_folder(tristyle, tmp_path) -> None:
    line = tristyle("stage=data", "data=folders", f"data.path={tmp_path / 'nowhere'}", "data.size=32").line
    assert "nowhere" in line


def test_folder_of_no_images(tristyle, tmp_path) -> None:
    mine = tmp_path / "mine"
    for folder in ("photo", "style/ink"):
        (mine / folder).mkdir(parents=True)
        for number in range(4):
            (mine / folder / f"{number}.png").write_text("not a picture")
    before = files_below(mine)
    line = tristyle("stage=data", "data=folders", f"data.path={mine}", "data.size=32").line
    assert "mine" in line
    assert files_below(mine) == before
    assert not list(tmp_path.glob("runs/data/*/manifest.json"))


def test_output_locked_by_a_living_run(tristyle, painted: Path) -> None:
    (painted / "manifest.json").unlink()
    before = files_below(painted)
    with open(painted / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert str(painted.relative_to(painted.parents[2])) in tristyle("stage=data", *TINY).line
    assert files_below(painted) == before
    assert tristyle("stage=data", *TINY).code == 0, "once the other run has ended, the same command finishes the job"


def test_output_is_a_file(tristyle, tmp_path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "taken" in tristyle("stage=data", "out=taken", *TINY).line
    assert (tmp_path / "taken").read_text() == "mine"


def test_output_holds_something_else(tristyle, painted: Path) -> None:
    shutil.rmtree(painted)
    painted.mkdir()
    (painted / "thesis.txt").write_text("mine")
    line = tristyle("stage=data", *TINY).line
    assert painted.name in line
    assert files_below(painted) == {"thesis.txt": b"mine"}


def test_full_error_shows_the_traceback(tmp_path) -> None:
    command = [sys.executable, "-m", "stages", "data.size=63"]
    env = {**os.environ, "HYDRA_FULL_ERROR": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "Traceback" in done.stderr and "data.size" in done.stderr


def test_stylize_names_what_it_cannot_read(tmp_path, monkeypatch, capsys) -> None:
    from stages.apply import main

    write_image(tmp_path / "photo.png", np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "broken.png").write_text("not a picture")
    monkeypatch.chdir(tmp_path)
    for arguments, named in (
        (["photo.png", "-o", "out.png", "--model", "nowhere.onnx"], "nowhere.onnx"),
        (["nowhere.png", "-o", "out.png"], "nowhere.png"),
        (["broken.png", "-o", "out.png"], "broken.png"),
    ):
        monkeypatch.setattr(sys, "argv", ["stylize", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr().err
        assert stop.value.code == 2 and named in said and "Traceback" not in said
        assert not (tmp_path / "out.png").exists()
