"""`stylize edit`: edits where it is asked to, refuses in one line; the exported editor computes what torch computes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from stages.apply import edit, main  # noqa: E402
from stages.apply.model import SHIPPED, model_path  # noqa: E402
from stages.apply.serve import page_models  # noqa: E402
from stages.core.files import sha256_file  # noqa: E402
from stages.core.images import read_image, write_image  # noqa: E402
from stages.core.mark import read_mark  # noqa: E402
from stages.core.runtime import Runtime  # noqa: E402
from stages.core.settings import TristyleError  # noqa: E402
from stages.core.tensors import to_tensor  # noqa: E402
from stages.core.tracking import Tracker  # noqa: E402
from stages.export.editor import SOLID, EditorExport  # noqa: E402
from stages.networks.expanded import soft_region  # noqa: E402
from stages.networks.face_labels import READER_LABELS  # noqa: E402
from stages.networks.latents import load_editor  # noqa: E402
from stages.style.expanded.encode import read_photos  # noqa: E402
from stages.web import write_site  # noqa: E402
from tests.tools import tiny_editor as tiny  # noqa: E402
from tests.tools.pair_toys import heads  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export."""
    root = tmp_path_factory.mktemp("editor")
    inputs = {"style": tiny.style(root / "style"), "data": tiny.data(root / "data")}
    out = root / "export"
    out.mkdir()
    metrics = EditorExport(photos=2, repeats=1, page=True).run(inputs, out, Runtime("cpu", 1, Tracker(out)))
    assert metrics["max_error"] < 1e-4 and metrics["editor_bytes"] > 1e5
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_image(tmp_path / "photo.png", heads(1, 5, False, 96)[0][0])
    return tmp_path / "photo.png"


def run(photo: Path, exported: Path, *words: str) -> np.ndarray:
    out = photo.with_name("out.png")
    main(["edit", str(photo), "-o", str(out), "--model", str(exported), "--faces", "never", *words])
    return read_image(out).astype(int)


def test_the_card_says_how_to_feed_it(exported: Path) -> None:
    card = json.loads((exported / "card.json").read_text())
    assert card["attributes"] == tiny.NAMES and card["sha256"] == sha256_file(exported / "editor.onnx")
    assert [port["name"] for port in card["inputs"]] == ["photo", "attributes", "regions"]
    assert card["inputs"][1]["range"] == [-2, 2] and card["inputs"][2]["shape"] == [1, 13]
    assert [port["name"] for port in card["outputs"]] == ["output", "matte"]
    notes = edit.Editor(exported / "editor.onnx", threads=1).session.get_modelmeta().custom_metadata_map
    assert (
        notes["tristyle.data"] == card["made"]["data"] and notes["tristyle.licence"] == card["pictures"]["licences"][0]
    )
    assert {"tristyle.licence_class", "tristyle.sources", "tristyle.outputs"} <= notes.keys()
    assert str(Path(__file__).parents[2]).encode() not in (exported / "editor.onnx").read_bytes()


def test_the_file_changes_what_torch_changes(exported: Path) -> None:
    editor = edit.Editor(exported / "editor.onnx", threads=1)
    editor.set({"age": 1.0, "yaw": -0.5})
    image = to_tensor(heads(1, 5, False, tiny.SIZE)[0])
    torch_editor = load_editor(exported.parent / "style")
    edited, kept = (torch_editor(image, torch.tensor([vector])) for vector in ([1.0, 0, -0.5], [0.0, 0, 0]))
    made, matte = editor.run(None, {"photo": image.numpy()})
    assert np.abs(made - (image + edited - kept).clamp(-1, 1).numpy()).max() < 1e-4
    size = (edited - kept).abs().amax(dim=1, keepdim=True).numpy() / 2
    assert np.abs(matte - np.clip(size / SOLID, 0, 1)).max() < 1e-3


def test_an_edit_changes_the_photo_and_marks_it(exported: Path, photo: Path) -> None:
    before, made = read_image(photo).astype(int), run(photo, exported, "--set", "age=+1", "gender=-2")
    assert made.shape == before.shape and 0.5 < np.abs(made - before).mean() < 60
    mark = read_mark(photo.with_name("out.png"))
    assert mark is not None and mark.synthetic
    assert np.array_equal(run(photo, exported, "--set", "age=0"), before)


def test_a_region_keeps_the_edit_within(exported: Path, photo: Path) -> None:
    share = torch.zeros(1, 1, 32, 32)
    share[:, :, 20:26, 12:20] = 1
    mask = soft_region(share)[0, 0]
    assert mask[20:26, 12:20].min() == 1 and mask[:18].max() == 0 and 0 < mask[19, 15] < 1
    assert soft_region(torch.ones(1, 1, 64, 64)).min() == 1
    before = read_image(photo).astype(int)
    whole, local = (
        np.abs(run(photo, exported, "--set", "yaw=2", *words) - before) for words in ((), ("--region", "mouth"))
    )
    assert local.sum() < whole.sum()
    both = np.abs(run(photo, exported, "--set", "yaw=2", "--region", "mouth,hair") - before)
    assert local.sum() < both.sum() <= whole.sum()


def test_a_sheet_has_a_row_an_attribute(exported: Path, photo: Path) -> None:
    made = run(photo, exported, "--sheet")
    assert made.shape == (3 * (256 + 24), 5 * 256, 3)
    columns = np.split(made[24:280], 5, axis=1)
    assert np.abs(columns[0] - columns[4]).mean() > np.abs(columns[2] - columns[3]).mean() > 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "shoe=1"], "--set shoe: unknown. Choose of: age, gender, yaw."),
        (["--set", "age=9"], "--set age=9: out of range. Give -2 to 2."),
        (["--set", "age=nan"], "--set age=nan: out of range. Give -2 to 2."),
        (["--set", "age"], "--set age: not NAME=STRENGTH. Write e.g. smile=+1."),
        (["--set", "age=1", "age=2"], "--set age=2: names age twice. Give one strength."),
        (["--set", "age=1", "--region", "elbow"], "--region elbow: unknown. Choose of: skin, brow,"),
        (["--set", "age=1", "--region", "background"], "--region background: unknown."),
        ([], "--set: nothing to do. Give --set NAME=STRENGTH, or --sheet."),
        (["--sheet", "--set", "age=1"], "--set: both it and --sheet are given."),
        (["--set", "age=1", "-o", "out.gif"], "out.gif: unknown kind of picture. End -o in one of"),
        (["--set", "age=1", "--model", "nothing.onnx"], "nothing.onnx: no editor here. Give a file made by"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    words: list[str], line: str, exported: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words if "--model" in words else [*words, "--model", str(exported)]
    with pytest.raises(SystemExit) as stop:
        main(["edit", str(photo), *given])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"stylize: {line}") and said.count("\n") == 1
    assert not photo.with_name("photo.edited.png").exists()


def test_a_no_is_asked_for(exported: Path, photo: Path) -> None:
    table = f"pattern,licence,licence_class,consent,author\n{photo.name},,,no,\n"
    (photo.parent / "sources.csv").write_text(table)
    given = edit.arguments().parse_args([str(photo), "--set", "age=1", "--model", str(exported)])
    with pytest.raises(TristyleError, match="no consent"):
        edit.run(given)
    with pytest.raises(TristyleError, match="no pictures here"):
        read_photos(photo.parent, 32, 9)


def test_a_photo_without_a_face_is_refused(exported: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "wall.png", np.full((200, 200, 3), 120, np.uint8))
    given = edit.arguments().parse_args([str(tmp_path / "wall.png"), "--set", "age=1", "--model", str(exported)])
    with pytest.raises(TristyleError, match="wall.png: no face found. Crop it closer, or say --faces never"):
        edit.run(given)


def test_another_network_is_not_an_editor(tmp_path: Path) -> None:
    from tests.tools.tiny_student import tiny_model

    with pytest.raises(TristyleError, match="not an editor. Export it again: stage=export export=editor"):
        edit.Editor(tiny_model(tmp_path / "student.onnx"))


def test_an_editor_that_changed_since_it_was_exported_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("editor.onnx", "card.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    assert edit.editor_path(tmp_path) == tmp_path / "editor.onnx"
    with (tmp_path / "editor.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TristyleError, match="editor.onnx: changed since it was exported"):
        edit.editor_path(tmp_path)


def test_the_page_lists_an_editor_with_its_attributes(exported: Path, tmp_path: Path) -> None:
    (model,) = page_models([exported])
    assert (model.name, model.size, model.fixed, list(model.attributes)) == ("editor", tiny.SIZE, True, tiny.NAMES)
    write_site(tmp_path, [model])
    for folder in (tmp_path, exported / "editor.web"):  # as it is served, and as it is exported for a static host
        (entry,) = json.loads((folder / "models.json").read_text())["models"]
        assert entry["attributes"] == tiny.NAMES and entry["regions"] == list(READER_LABELS) and entry["fixed"]
        assert (folder / entry["file"]).is_file() and (folder / "index.html").is_file()


def test_the_page_leaves_out_a_last_editor_that_it_cannot_use(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/export/key"
    folder.mkdir(parents=True)
    (folder / "editor.onnx").write_bytes((exported / "editor.onnx").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({"created": "2026-01-01T00:00:00Z", "files": {}}))
    assert [model.name for model in page_models(None)][-1] == "editor" and len(page_models(None)) == len(SHIPPED) + 1
    (folder / "editor.onnx").write_bytes(b"no model")
    assert len(page_models(None)) == len(SHIPPED)
    said = capsys.readouterr().err
    assert (
        said.startswith("stylize serve: left out: runs/export/key/editor.onnx: not a readable")
        and said.count("\n") == 1
    )


def test_an_editor_is_no_student(exported: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(photo), "-o", str(photo.with_name("o.png")), "--model", str(exported / "editor.onnx")])
    assert "an editor. Run: stylize edit PHOTO --model" in capsys.readouterr().err


def test_without_an_export_the_line_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TristyleError, match="no editor in runs/export. Run tristyle stage=export export=editor"):
        edit.editor_path(None)


def test_the_last_finished_editor_is_taken_and_students_are_sought_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for age, (key, name) in enumerate((("new", "editor"), ("old", "editor"), ("other", "student"))):
        folder = tmp_path / "runs/export" / key
        folder.mkdir(parents=True)
        for file in (folder / f"{name}.onnx", folder / "manifest.json"):
            file.touch()
            os.utime(file, (1000 - age, 1000 - age))
    (tmp_path / "runs/export/unfinished").mkdir()
    (tmp_path / "runs/export/unfinished/editor.onnx").touch()
    assert edit.editor_path(None) == Path("runs/export/new/editor.onnx")
    assert model_path(None) == Path("runs/export/other/student.onnx")


def test_the_last_export_is_known_by_its_manifest_where_a_copy_lost_the_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("editor", "student"):
        for age, day in ((0, "01"), (1, "03"), (2, "02")):
            folder = tmp_path / f"runs/export/{name}{day}"
            folder.mkdir(parents=True)
            (folder / f"{name}.onnx").touch()
            (folder / "manifest.json").write_text(json.dumps({"created": f"2026-01-{day}T00:00:00Z", "files": {}}))
            for file in folder.iterdir():
                os.utime(file, (1000 - age, 1000 - age))
    assert edit.editor_path(None) == Path("runs/export/editor03/editor.onnx")
    assert model_path(None) == Path("runs/export/student03/student.onnx")


@pytest.mark.parametrize(
    ("notes", "line"),
    [
        ({"tristyle.size": "9999999"}, "notes tristyle.size '9999999'; 32 to 4096 is possible. Export it again"),
        (
            {"tristyle.attributes": "age"},
            "not an editor. Export it again: stage=export export=editor",
        ),
    ],
)
def test_an_editors_notes_are_checked(notes: dict[str, str], line: str, exported: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(exported / "editor.onnx"))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, str(tmp_path / "editor.onnx"))
    with pytest.raises(TristyleError, match=line):
        edit.Editor(tmp_path / "editor.onnx")
