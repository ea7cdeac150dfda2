"""The log is always there and survives a kill; Weights & Biases works offline, without an account, with pictures."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stages.core.files import read_jsonl
from stages.core.tracking import Tracker, WandbTracker

SHEET = np.full((16, 16, 3), 200, np.uint8)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "style" / "0123"
    folder.mkdir(parents=True)
    return folder


def follow(tracker: Tracker) -> None:
    """What a short training reports."""
    for images in (100, 200, 300):
        tracker.scalars("style/G", images, {"loss": 1 / images})
    tracker.image("sheet", 300, SHEET)
    tracker.close({"kid": 0.25})


def test_log_is_append_only_lines(out: Path) -> None:
    follow(Tracker(out))
    follow(Tracker(out))  # a resumed run
    rows = read_jsonl(out / "log.jsonl")
    assert [row["images"] for row in rows] == [100, 200, 300] * 2
    assert rows[0] == {"phase": "style/G", "images": 100, "loss": 0.01}
    assert (out / "preview" / "sheet_00000300.png").exists()


def test_torn_last_line_is_left_out(out: Path) -> None:
    follow(Tracker(out))
    log = out / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    assert [row["images"] for row in read_jsonl(log)] == [100, 200]


def test_progress_shows_images_rate_and_time_left(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker(out).progress("style", 400) as line:
        line.start(100)
        line.update(250, loss=0.5)
    said = capsys.readouterr().err
    assert "250/400 images" in said and "/s" in said and "left" in said and "loss 0.5" in said


def test_wandb_offline_run_can_be_read_back(out: Path) -> None:
    follow(WandbTracker(out, "style-0123", {"lr": 0.002}))
    assert len(read_jsonl(out / "log.jsonl")) == 3, "the log is written beside the dashboard"
    place = out.parents[1] / "wandb_runs" / "wandb"
    (run,) = place.glob("offline-run-*")
    assert len(list(run.glob("files/media/images/sheet*.png"))) == 1
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--summary", "--json", place]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    told = json.dumps(json.loads(said))
    for wanted in ("style-0123", "style/G/loss", "kid", "lr"):
        assert wanted in told


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_a_dashboard_that_fails_is_left_and_the_files_are_whole(
    out: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no answer\nfrom anybody")

    calls = {name: fail if name == place else lambda *_: None for name in ("log", "finish")}
    run = SimpleNamespace(summary={}, **calls)
    fake = SimpleNamespace(init=fail if place == "init" else lambda **_: run, Image=lambda picture: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    follow(WandbTracker(out))
    assert len(read_jsonl(out / "log.jsonl")) == 3 and (out / "preview" / "sheet_00000300.png").exists()
    assert capsys.readouterr().err == f"tracker: the dashboard is left (no answer). All of it stands in {out}.\n"
