"""Digests are read at every door, outputs are finite, and every JSON file is read by one reader that checks it."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.apply import main as stylize
from stages.apply.model import SHIPPED, model_path, open_model, run_padded
from stages.core.artifact import ArtifactError, open_artifact, seal
from stages.core.files import append_jsonl, data_file, parse_json, read_json, read_jsonl, write_json
from stages.core.settings import TristyleError
from stages.faces.weights import WEIGHTS, find_weight
from tests.tools.tiny_student import half_bright, tiny_model

STAGES = Path(__file__).resolve().parents[2] / "stages"
# The reader; a header; a child's own words; values that were just written.
FREE = {"core/files.py", "core/weights.py", "export/coreml.py", "export/subprocess_runtime.py", "pair/write.py",
        "style/sampling/write.py"}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    return tiny_model(tmp_path / "student.onnx")


def flip(path: Path, at: int = -200) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["manifest.json", "card.json", "student.json"])
def test_a_changed_model_is_refused_wherever_it_is_named(model: Path, tmp_path: Path, name: str, capsys) -> None:
    from stages.core.files import sha256_file

    said: dict[str, Any] = {"file": "student.onnx", "sha256": sha256_file(model)}
    write_json(tmp_path / name, {"files": {"student.onnx": said}} if name == "manifest.json" else said)
    assert model_path(tmp_path) == model_path(model) == model
    flip(model)
    for given in (tmp_path, model):
        with pytest.raises(TristyleError, match="changed since it was exported"):
            model_path(given)
    with pytest.raises(SystemExit) as stop:
        stylize(["serve", "--port", "0", "--model", str(model)])
    assert stop.value.code == 2 and "changed since" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["manifest.json", "card.json", "student.json"])
@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[" * 200_000, '{"files": 1}', '{"files": [[]]}', '{"files": {"a": []}}', "\0",
        '{"files": [{"file": ["student.onnx"], "sha256": {}}]}',
    ],
)  # fmt: skip
def test_a_damaged_card_is_one_line(model: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    try:
        model_path(model)
    except TristyleError as error:
        assert str(error).startswith(f"{tmp_path / name}: damaged") and "\n" not in str(error)


def test_what_is_shipped_has_its_digest() -> None:
    for name in SHIPPED:
        assert model_path(Path(name)).is_file()
        assert read_json(model_path(Path(name)).with_suffix(".json"), {"sha256": str})


@pytest.mark.parametrize("size", ["100000", "4097", "31", "0", "²", "9" * 5000, "-64", " 64", "6_4", "٦٤"])
def test_impossible_sizes_in_a_models_notes_are_refused(tmp_path: Path, size: str) -> None:
    pytest.importorskip("onnxruntime")
    path = tiny_model(tmp_path / "m.onnx", size)
    with pytest.raises(TristyleError, match=r"notes tristyle.size .* 32 to 4096") as caught:
        open_model(path)
    assert len(str(caught.value)) < 300


def changed(path: Path, kind: str) -> Path:
    """The tiny student with outputs that no picture can have."""
    import onnx
    from onnx import helper, numpy_helper

    made = onnx.load(tiny_model(path))
    if kind in ("nan", "inf"):
        made.graph.initializer.append(numpy_helper.from_array(np.float32(kind), "odd"))
        made.graph.node[-1].input[1] = "odd"
    else:
        node = {"scalar": ("ReduceMax", {"keepdims": 0}), "flat": ("Flatten", {})}[kind]
        made.graph.node.append(helper.make_node(node[0], ["alpha"], ["small"], **node[1]))
        made.graph.output[1].CopyFrom(helper.make_tensor_value_info("small", onnx.TensorProto.FLOAT, None))
    onnx.save(made, path)
    return path


@pytest.mark.parametrize("kind", ["nan", "inf", "scalar", "flat"])
def test_answers_that_are_no_picture_are_refused(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(TristyleError, match="not finite|matte is"):
        run_padded(open_model(changed(tmp_path / "m.onnx", kind)), half_bright(64, 64))


def test_pinned_and_noted_weights_are_compared_at_use(tmp_path: Path) -> None:
    pinned = next(name for name, weight in WEIGHTS.items() if weight.sha256)
    (tmp_path / pinned).write_bytes(b"other bytes")
    with pytest.raises(TristyleError, match="not the file it should be"):
        find_weight(tmp_path, pinned)
    for noted in [name for name, weight in WEIGHTS.items() if not weight.sha256][:1]:
        (tmp_path / noted).write_bytes(b"first")
        assert find_weight(tmp_path, noted)
        (tmp_path / noted).write_bytes(b"another")
        with pytest.raises(TristyleError, match="not the file it should be"):
            find_weight(tmp_path, noted)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    place = tmp_path / "art"
    (place / "images").mkdir(parents=True)
    (place / "images" / "a.png").write_bytes(b"a")
    seal(place, "style", config={}, inputs={}, metrics={})
    return place


def test_a_file_added_to_a_sealed_folder_is_named(sealed: Path) -> None:
    for name in (".DS_Store", "images/.DS_Store", "images/Thumbs.db", "desktop.ini"):
        (sealed / name).write_bytes(b"x")
    assert open_artifact(sealed, "style")
    (sealed / "images" / "added.png").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="images/added.png: added since"):
        open_artifact(sealed, "style")


@pytest.mark.parametrize("key", ["digest", "config", "metrics", "inputs", "files", "kind", "schema"])
@pytest.mark.parametrize("value", [None, 3.5, "x", [], {"a": 1}, {"../a": {"sha256": "0"}}, {"a\0": {"sha256": "0"}}])
def test_manifests_of_another_shape_are_one_line(sealed: Path, key: str, value: object) -> None:
    manifest = json.loads((sealed / "manifest.json").read_bytes())
    if isinstance(value, type(manifest[key])) and key != "files":
        return
    for changed in (manifest | {key: value}, {k: v for k, v in manifest.items() if k != key}):
        (sealed / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(ArtifactError) as caught:
            open_artifact(sealed, "style")
        assert "\n" not in str(caught.value) and str(sealed) in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 200_000, "{", "", "nul", "[1", '{"a": ' * 5000, "\xff"])
def test_broken_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TristyleError, match=r"x.json: damaged \("):
        read_json(tmp_path / "x.json")


def test_depth_and_shape_are_checked() -> None:
    assert parse_json("[" * 60 + "]" * 60, "x") and parse_json('{"a": 1}', "x", {"a": int}) == {"a": 1}
    for text in ("[" * 70 + "]" * 70, '{"a": "1"}', "[]", '{"b": 1}'):
        with pytest.raises(TristyleError):
            parse_json(text, "x", {"a": int})


def test_a_torn_line_takes_no_other_with_it(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": 2')
    assert read_jsonl(file) == [{"a": 1}]
    for number in (3, 4):
        append_jsonl(file, {"a": number})
    assert [row["a"] for row in read_jsonl(file)] == [1, 3, 4]
    file.write_bytes(b"x" * 10_000)
    append_jsonl(file, {"a": 5})
    assert read_jsonl(file) == [{"a": 5}]


def test_a_damaged_line_in_the_middle_is_said(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    for middle in (b"garbage", b"[1]", b"[" * 100_000):
        file.write_bytes(b'{"a": 1}\n' + middle + b'\n{"a": 3}\n')
        with pytest.raises(TristyleError, match="records.jsonl line 2: damaged"):
            read_jsonl(file)
        assert len(read_jsonl(file, lenient=True)) == 2


def test_every_json_file_is_read_by_the_one_reader() -> None:
    found = set()
    for path in sorted(STAGES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.loads", "json.load"):
                found.add(path.relative_to(STAGES).as_posix())
    assert found <= FREE, found - FREE


def test_records_of_another_shape_are_one_line(tmp_path: Path) -> None:
    from stages.core.shards import pictures

    rows: list[dict[str, Any]] = [
        {}, {"id": "../../x"}, {"id": "0", "photo": 3}, {"shard": "a"}, {"shard": "a", "members": []},
        {"shard": "/a", "members": {"photo.png": [0, 1]}}, {"shard": "a", "members": {"photo.png": [-1, "x"]}},
    ]  # fmt: skip
    for row in rows:
        (tmp_path / "records.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(TristyleError, match=r"records.jsonl: line 1"):
            pictures(tmp_path, ["photo"])
    shutil.copyfile(data_file("faces.json"), tmp_path / "records.jsonl")
    with pytest.raises(TristyleError, match="damaged"):
        pictures(tmp_path, ["photo"])


def test_the_newest_export_is_the_last_made_whatever_its_files_times(tmp_path: Path, monkeypatch) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    for age, key in enumerate(("newest", "older")):
        folder = tmp_path / "runs" / "export" / key
        folder.mkdir(parents=True)
        (folder / "student.onnx").touch()
        write_json(folder / "manifest.json", {"files": {}, "created": f"2026-01-0{2 - age}T00:00:00Z"})
        os.utime(folder / "manifest.json", (1000 + age, 1000 + age))
    assert model_path(None) == Path("runs/export/newest/student.onnx")
