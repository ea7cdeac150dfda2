"""A class of the user's own takes a stage's or the tracker's place: the lines of the README, typed as they stand."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.core.artifact import open_artifact
from stages.core.files import read_jsonl
from stages.pipeline import cli

README = Path(cli.__file__).with_name("README.md")
TINY = ["workers=1", "device=cpu", "data.size=32", "data.count=6", "data.style_count=1", "data.heldout=4",
        "data.heldout_style=4", "tracker=jsonl"]  # fmt: skip
TRACKER = """
from stages.core.tracking import Tracker


class Loud(Tracker):
    def __init__(self, out, name="", config=None, word="done"):
        super().__init__(out, name, config)
        self.word = word

    def close(self, metrics):
        (self.out / "loud.txt").write_text(self.word)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of somebody who did what the README says."""
    text = README.read_text()
    for name, body in re.findall(r"^`([\w/]+\.\w+)`.*?:\n\n```\w+\n(.*?)```", text, re.M | re.S):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypkg"]:
        del sys.modules[name]


def tristyle(*arguments: str) -> None:
    """Call the console script in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tristyle", *arguments])
        cli.main()


def shown() -> list[str]:
    """The README's command for a class of one's own."""
    return next(
        shlex.split(line)[1:] for line in README.read_text().splitlines() if line.startswith("tristyle --config-dir")
    )


def test_a_stage_of_the_readers_own_writes_pairs(folder: Path) -> None:
    tristyle("stage=data", *TINY)
    tristyle(*shown(), *TINY)
    (place,) = (folder / "runs" / "pair").iterdir()
    pair = open_artifact(place, "pair")
    assert pair.config["tones"] == 5 and len(pair.records()) == 6
    assert pair.config["curate"]["_target_"].endswith("Curate"), "defaults that no yaml writes are recorded"
    assert read_jsonl(place / "records.jsonl")


def test_without_leave_it_is_refused_with_the_word_to_say(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [word for word in shown() if not word.startswith("allow=")]
    with pytest.raises(SystemExit) as stop:
        tristyle(*command, *TINY)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1
    assert "pair._target_" in line and "allow=[mypkg]" in line and "mypkg" not in sys.modules


@pytest.mark.parametrize("swept", [False, True])
def test_a_yaml_cannot_give_leave(folder: Path, swept: bool, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pair" / "mine.yaml").write_text(
        "# @package _global_\nallow: [mypkg]\npair:\n  _target_: mypkg.mine.FewTones\n"
    )
    command = [word for word in shown() if not word.startswith("allow=")]
    with pytest.raises(SystemExit) as stop:
        tristyle(*(["-m"] if swept else []), *command, *TINY)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("tristyle: allow: ") and "mypkg" not in sys.modules


def test_what_is_not_a_stage_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tristyle(*shown(), "pair._target_=mypkg.mine.Curate", "~pair.tones", *TINY)
    assert "is not a stage. Inherit stages.core.stage.Stage" in capsys.readouterr().err


def test_a_tracker_of_the_readers_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mypkg" / "loud.py").write_text(TRACKER)
    (folder / "tracker").mkdir()
    (folder / "tracker" / "loud.yaml").write_text("_target_: mypkg.loud.Loud\n")
    command = ["--config-dir=.", "stage=data", *TINY[:-1], "tracker=loud", "tracker.word=there", "allow=[mypkg]"]
    tristyle(*command)
    (said,) = (folder / "runs" / "data").glob("*/loud.txt")
    assert said.read_text() == "there"
    with pytest.raises(SystemExit):
        tristyle(*command, "tracker.wort=x")
    assert "tracker.wort: there is no such setting. Did you mean 'word'?" in capsys.readouterr().err
