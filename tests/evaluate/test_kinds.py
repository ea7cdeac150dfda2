"""Kinds of portraits: by the data's labels where they speak of a kind, else by measures; groups may be empty."""

import json
from pathlib import Path

import numpy as np
import pytest

from stages.core.artifact import seal
from stages.core.settings import TristyleError
from stages.evaluate import portraits as module
from stages.evaluate.__main__ import main
from stages.evaluate.kinds import FRONTAL, kinds, sources
from stages.evaluate.portraits import Portraits
from stages.evaluate.tables import failures, typical
from stages.networks.face_labels import PARSER
from stages.networks.face_reader import load_reader
from tests.tools.portraits import rendered_data

SIZE, FIVE = 64, ((24, 24), (40, 24), (32, 34), (26, 42), (38, 42))


def portraits(count: int, said: list[set[str]] | None = None) -> Portraits:
    """Evenly lit faces of one skin colour, all frontal and bare."""
    head = np.zeros((count, SIZE, SIZE), np.uint8)
    head[:, 8:56, 12:52] = 255
    labels = np.zeros((count, module.FULL, module.FULL), np.uint8)
    labels[:, 32:224, 48:208] = PARSER["skin"]
    photo = np.full((count, SIZE, SIZE, 3), (90, 140, 200), np.uint8)
    photo[head > 0] = (224, 172, 105)
    names = [f"{number:08x}" for number in range(count)]
    return Portraits(
        names=names, people=names, sessions=names, photo=photo, points=np.array([FIVE] * count, float), head=head,
        person=np.full_like(head, 255), labels=labels, skin=head > 127, said=said or [set() for _ in names],
        spoken=set().union(*said) if said else set(),
    )  # fmt: skip


def test_measures_find_what_is_planted() -> None:
    given = portraits(6)
    given.labels[1, 80:100, 80:180] = PARSER["glasses"]
    given.labels[2, 10:60, 40:220] = PARSER["hat"]
    given.photo[3] //= 4
    given.photo[4, :, 32:] //= 2  # the cheek at the right in the shade
    given.labels[5, 130:190, 60:200] = PARSER["background"]  # a hand before the mouth
    found = kinds(given, load_reader())
    members = {name: np.flatnonzero(group).tolist() for name, group in found.items()}
    assert members["glasses"] == [1] and members["hat"] == [2] and members["dark"] == [3]
    assert members["side light"] == [4] and members["covered"] == [5] and members["all"] == [*range(6)]
    assert 0 in members[FRONTAL] and not {1, 2, 3, 4, 5} & set(members[FRONTAL])
    assert set(members["something before the face"]) == {1, 2, 5}
    assert sources(given)["glasses"] == "measured" and "hard light" not in found


def test_labels_beat_measures_and_silence_says_nothing() -> None:
    given = portraits(3, [{"hat"}, {"hard light"}, set()])
    given.labels[2, 10:60, 40:220] = PARSER["hat"]  # the data say otherwise
    given.labels[2, 80:100, 80:180] = PARSER["glasses"]  # of glasses they do not speak
    found = kinds(given, load_reader())
    assert found["hat"].tolist() == [True, False, False] and found["hard light"].tolist() == [False, True, False]
    assert found["glasses"].tolist() == [False, False, True]
    ways = sources(given)
    assert (ways["hat"], ways["hard light"], ways["glasses"]) == ("labels", "labels", "measured")
    assert found["uneven light"].tolist() == [False, True, False]


def test_sheets_of_data_without_members_of_a_kind() -> None:
    given = portraits(2)
    groups = kinds(given, load_reader())
    empty = [name for name, group in groups.items() if not group.any()]
    assert {"glasses", "hat", "turned 30-60", "skin dark"} <= set(empty)
    sheet = failures(given, given.photo, np.array([0.5, 0.9]), groups)
    assert sheet.ndim == 3 and sheet.shape[1] == 8 * 128
    assert set(typical(groups)) <= {0, 1} and typical(groups)
    nobody = {name: np.zeros(2, bool) for name in groups} | {"all": np.ones(2, bool)}
    assert typical(nobody) and failures(given, given.photo, np.array([0.5, 0.9]), nobody).size


def test_a_table_names_kinds_by_digest(tmp_path: Path) -> None:
    table = tmp_path / "kinds.csv"
    table.write_text("sha256,kinds\n00000001abcd,glasses;hat\n")
    given = portraits(3)
    module._label(given, table)
    assert given.said == [set(), {"glasses", "hat"}, set()] and given.spoken == {"glasses", "hat"}
    table.write_text("name,what\n1,glasses\n")
    with pytest.raises(TristyleError, match="Give the columns sha256 and kinds"):
        module._label(given, table)


def test_a_rendered_data_set_is_evaluated_whole(shared: Path, tmp_path: Path) -> None:
    weights = shared / "data" / "weights"
    if not (weights / "mobilefacenet_068.ckpt").is_file() or not (weights / "facemesh.pth").is_file():
        pytest.skip("no weights of recogniser and Face Mesh")
    out = tmp_path / "data"
    metrics = rendered_data(out, count=1, heldout=6, heldout_style=4)
    seal(out, "data", config={}, inputs={}, metrics=metrics)
    words = ["people", "--data", str(out), "--weights", str(weights), "--model", "same=photo", "--size", "64"]
    main([*words, "-o", str(tmp_path / "scores")])

    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["pictures"] == 6 and results["kinds"]["glasses"] == "labels"
    found = results["models"]["same"]
    assert found["measures"]["background_error"]["value"] == 0 and found["kid"].keys()
    assert any(group["identity"]["pictures"] == 0 for group in found["groups"].values())
    assert {"sheet.png", "failures-same.png", "results.md"} <= {path.name for path in (tmp_path / "scores").iterdir()}


def test_a_folder_without_portraits_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["people", "--data", str(tmp_path), "--model", "photo", "-o", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "has neither records.jsonl nor manifest.csv. Give" in line
    with pytest.raises(SystemExit):
        main(["person"])
    assert (
        "'person' is not a command. Choose one of: people, faces, parser, landmarks, realism."
        in capsys.readouterr().err
    )
