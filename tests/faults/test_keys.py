"""Keys see what matters, and folders are walked once: no own outputs, no desktop's leavings, no loops, no way out."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.apply import main as stylize
from stages.apply.model import model_path
from stages.core.artifact import hash_path
from stages.core.files import data_file, read_jsonl, write_bytes
from stages.core.walk import below
from stages.datasets.folders.stage import FolderData
from stages.pair.inputs import photo_digest
from stages.pair.photo_sets import pictures_below
from tests.faults.test_consent import own, say, used
from tests.tools.tiny_student import tiny_model

assert own  # the fixture
TINY = ["data=folders", "data.size=32", "data.duplicates=null", "style.target=ink", "workers=1"]


def key(root: Path) -> str:
    return FolderData(path=str(root)).digest("path", root)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return path


def test_what_is_no_picture_changes_no_key(own: Path) -> None:
    before = key(own), photo_digest("write.photos", own / "photo")
    names = [
        ".DS_Store", "photo/.DS_Store", "photo/anna/Thumbs.db", "notes.txt", "photo/notes.txt", "photo/._a.png",
        "runs/data/0123456789abcdef/photo/0.png", "photo/desktop.ini", "__MACOSX/x.png", "other/x.png",
    ]  # fmt: skip
    for name in names:
        write_bytes(own / name, b"x")
    os.mkfifo(own / "photo" / "pipe")
    assert (key(own), photo_digest("write.photos", own / "photo")) == before
    for change in (lambda: picture(own / "photo" / "new.png", 5), lambda: say(own, "photo/*,,,yes,"),
                   lambda: picture(own / "mask" / "anna" / "0.png", 6), lambda: picture(own / "style/ink/9.png", 7),
                   lambda: picture(own / "photo" / "b.png", 8).rename(own / "photo" / "no suffix")):  # fmt: skip
        change()
        assert key(own) != before[0]
        before = key(own), ""


def test_names_enter_as_text(own: Path) -> None:
    a, b = (own.parent / form / "photo" / unicodedata.normalize(form, "Zoë.png") for form in ("NFC", "NFD"))
    picture(a), picture(b)
    assert key(own.parent / "NFC") == key(own.parent / "NFD")


def test_a_twin_and_a_mask_belong_to_their_photo_in_either_form(own: Path, tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Zoë.png") for form in ("NFC", "NFD"))
    (own / "photo" / "anna" / "0.png").rename(own / "photo" / nfc)
    (own / "mask" / "anna" / "0.png").rename(own / "mask" / nfd)
    assert f"photo/{nfc}" in used(own)
    rows = read_jsonl(tmp_path / "out" / "records.jsonl")
    assert next(row for row in rows if row["source"] == f"photo/{nfc}")["mask_from"] == "given"


def test_runs_within_the_data_are_done_at_the_second_call(tristyle, own: Path, monkeypatch) -> None:
    words = [*TINY, f"data.path={own}", f"out={own / 'runs'}", "stage=data"]
    assert tristyle(*words).code == 0
    again = tristyle(*words)
    assert "already done" in again.out and len(list((own / "runs" / "data").glob("[0-9a-f]*"))) == 1


def test_loops_of_links_end_and_linked_folders_are_entered_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    picture(home / "a.png"), picture(tmp_path / "elsewhere" / "c.png", 1)
    for name, target in {"up": "..", "self": ".", "here": "../home", "more": "../elsewhere", "twice": "../elsewhere",
                         "root": "/", "loop": "loop"}.items():  # fmt: skip
        (home / name).symlink_to(target)
    found = below(home)
    assert [name for _, name in found.files if name.endswith(".png")] == ["a.png", "more/c.png"]
    assert {"up", "root"} <= {name for _, name in found.closed}
    assert pictures_below(home) == ["a.png", "more/c.png"] and len(hash_path(home)) == 64


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    pytest.importorskip("onnxruntime")
    return ["--model", str(tiny_model(tmp_path / "tiny.onnx")), "--faces", "never", "--jobs", "1"]


def painted(*arguments: str) -> int:
    try:
        stylize(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def names(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))


def test_linked_folders_are_painted_once_or_named(tmp_path: Path, words: list[str]) -> None:
    picture(tmp_path / "in" / "a.png"), picture(tmp_path / "elsewhere" / "c.png", 1)
    (tmp_path / "in" / "more").symlink_to("../elsewhere")
    (tmp_path / "in" / "up").symlink_to("..")
    assert painted(str(tmp_path / "in"), "-o", str(tmp_path / "o"), *words) == 3
    assert names(tmp_path / "o") == ["a.png", "more/c.png"]
    assert "up: a folder that cannot be entered" in (tmp_path / "o" / "skipped.txt").read_text()


def test_outputs_are_not_painted_again(tmp_path: Path, words: list[str]) -> None:
    picture(tmp_path / "in" / "a.png")
    for out in (tmp_path / "in" / "done", tmp_path / "in" / "b" / "done", tmp_path / "o"):
        assert painted(str(tmp_path / "in"), "-o", str(out), *words) == 0
        assert names(out) == ["a.png"]


def test_nothing_is_written_through_a_link_out_of_the_outputs(tmp_path: Path, words: list[str]) -> None:
    picture(tmp_path / "in" / "sub" / "a.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "sub").symlink_to("../elsewhere")
    assert painted(str(tmp_path / "in"), "-o", str(tmp_path / "o"), *words) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_name_that_needs_no_change_keeps_it(tmp_path: Path, words: list[str]) -> None:
    picture(tmp_path / "in" / "a.png", 1), picture(tmp_path / "in" / "a.bmp", 2), picture(tmp_path / "in" / "a.gif", 3)
    assert painted(str(tmp_path / "in"), "-o", str(tmp_path / "o"), *words) == 0
    made = {row["out"]: row["of"] for row in read_jsonl(tmp_path / "o" / ".stylize.jsonl")}
    assert made == {"a.png": "a.png", "a.bmp.png": "a.bmp", "a.gif.png": "a.gif"}


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022])
def test_permissions_are_asked_for_and_not_set(tmp_path: Path, words: list[str], mask: int) -> None:
    before = os.umask(mask)
    try:
        picture(tmp_path / "x.png")
        assert painted(str(tmp_path / "x.png"), "-o", str(tmp_path / "o.png"), *words) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "o.png").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_shipped_models_name_wins_over_a_folder(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    assert model_path(Path("faces")) == data_file("faces.onnx") and model_path(Path("rendered")).suffix == ".onnx"
    (tmp_path / "faces" / "student.onnx").touch()
    assert model_path(Path("faces")) == Path("faces/student.onnx")
    assert "the folder of that name is used" in capsys.readouterr().err
