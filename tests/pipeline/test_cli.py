"""The command line: every setting can be set, unknown and old names are refused in one line that helps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stages.core.artifact import ArtifactError, open_artifact, seal
from stages.core.settings import ConfigError
from stages.pair.curate import Curate, Limit
from stages.pipeline import cli
from stages.pipeline.renamed import RENAMED_KEYS
from stages.pipeline.targets import build, completed


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the console script in an empty folder and returns the one line with which it refuses."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tristyle", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        line = capsys.readouterr().err
        assert stop.value.code == 2 and line.count("\n") == 1 and not (tmp_path / "runs").exists(), line
        return line

    return call


@pytest.mark.parametrize(
    ("typed", "handed"),
    [
        ("style.train.checkpoint_images=500", "++style.train.checkpoint_images=500"),
        ("pair.train.lr=1e-4,1e-3", "++pair.train.lr=1e-4,1e-3"),
        ("style/recipe=few-shot", "style/recipe=few-shot"),
        ("+style.train.accumulate=2", "+style.train.accumulate=2"),
        ("~style.ada", "~style.ada"),
        ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs=2"),
        ("stage=pair", "stage=pair"),
        ("faces.weights=DIR", "faces.weights=DIR"),
        ("-m", "-m"),
    ],
)
def test_settings_of_stages_alone_are_handed_over_freely(typed: str, handed: str) -> None:
    assert cli.freely([typed]) == [handed]


def test_a_setting_that_no_yaml_writes_is_checked_and_swept(refused) -> None:
    line = refused("-m", "pair.train.checkpoint_images=8,-3", "stage=data")
    assert "pair.train.checkpoint_images: -3 is out of range" in line


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("style.train.imags=4", "style.train.imags: there is no such setting. Did you mean 'images'?"),
        (
            "pair.translator.weights.cycel=1",
            "pair.translator.weights.cycel: there is no such setting. Did you mean 'cyc",
        ),
        ("export.runtime.zzz=1", "export.runtime.zzz: there is no such setting. Known here: "),
        ("data.yaw=3", "data.yaw: there is no such setting. Known here: "),
        ("stile.train.images=4", "stile"),
        ("faces.wieghts=x", "faces.wieghts"),
    ],
)
def test_an_unknown_setting_is_refused_with_what_was_meant(refused, typed: str, said: str) -> None:
    assert said in refused(typed)


def test_an_unknown_experiment_is_answered_with_all_there_are(refused) -> None:
    line, known = refused("experiment=nope"), [path.stem for path in (cli.CONF / "experiment").glob("*.yaml")]
    assert len(known) > 15 and all(name in line for name in known)


@pytest.mark.parametrize("old", sorted(RENAMED_KEYS))
def test_an_old_name_is_refused_with_the_new_one(refused, old: str) -> None:
    line = refused(old if "=" in old else f"{old}=1")
    assert f"{old}: is called {RENAMED_KEYS[old]} now" in line


def test_an_old_name_in_a_yaml_of_the_users_own_is_refused(refused, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\npair:\n  translator:\n    judge_width: 8\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert "pair.translator.discriminator_width now" in refused("--config-dir=.", "experiment=mine")


def test_an_artifact_of_the_old_schema_is_moved_not_deleted(tmp_path: Path) -> None:
    seal(tmp_path, "data", config={}, inputs={}, metrics={})
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 1}))
    with pytest.raises(ArtifactError, match="schema 1") as error:
        open_artifact(tmp_path, "data")
    assert f"Move {tmp_path} away and run stage=data again" in str(error.value) and "elete" not in str(error.value)


@pytest.mark.parametrize("swept", [[], ["-m"]])
def test_the_traceback_is_there_for_who_asks(
    swept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["tristyle", *swept, "pair.train.lr=-1"])
    with pytest.raises((ConfigError, SystemExit)) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.type is ConfigError or ("Traceback" in said and "pair.train.lr" in said and stop.value.code == 2)
    assert not (tmp_path / "runs").exists()


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tristyle", "--version"])
    cli.main()
    program, number = capsys.readouterr().out.split()
    assert program == "tristyle" and number[0].isdigit()


def test_defaults_come_from_the_classes_and_settings_within_them_keep_the_field_s_own() -> None:
    node = {"_target_": "stages.pair.latent.LatentPairs", "curate": {"background": {"value": 0.25}}}
    found = completed(node, "pair")
    background = found["curate"]["background"]
    assert background == {"_target_": "stages.pair.curate.Limit", "worst": Curate().background.worst, "value": 0.25}
    assert found["source"] == "random" and found["write"]["codec"] == "png"
    assert json.loads(json.dumps(found)) == found == completed(found, "pair")
    assert build(found, "pair").curate.background == Limit(worst=Curate().background.worst, value=0.25)


def test_a_setting_without_a_default_is_asked_for() -> None:
    node = {"_target_": "stages.core.settings.Train", "images": 8}
    with pytest.raises(ConfigError, match=r"^student\.train\.batch: has no value. Give it one: student\.train\.batch="):
        completed(node, "student.train")
