"""`stylize` with a model that draws faces only: pasted back, photos without a face left alone, faces from scratch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from stages.apply import cli  # noqa: E402
from stages.apply.face_squares import Face  # noqa: E402
from stages.apply.folder import stylize_folder  # noqa: E402
from stages.apply.model import faces_beside  # noqa: E402
from stages.apply.serve import page_models  # noqa: E402
from stages.apply.stylizer import Options, Stylizer  # noqa: E402
from stages.apply.video import stylize_video  # noqa: E402
from stages.core.files import write_json  # noqa: E402
from stages.core.images import read_image, write_image  # noqa: E402
from stages.core.mark import read_mark  # noqa: E402
from stages.core.settings import TristyleError  # noqa: E402
from stages.export.onnx import export_onnx, write_half  # noqa: E402
from tests.tools import tiny_blaze  # noqa: E402
from tests.tools.tiny_student import write_clip  # noqa: E402

SIZE = tiny_blaze.SIZE


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export."""
    folder = tmp_path_factory.mktemp("export")
    notes = {"tristyle.size": str(SIZE), "tristyle.style": "toy"}
    stylizer, faces = tiny_blaze.networks()
    export_onnx(stylizer, folder / "student.onnx", notes | {"tristyle.faces": "only"})  # type: ignore[arg-type]
    export_onnx(faces, folder / "faces.onnx", notes)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def wall() -> np.ndarray:
    """A photo of nobody."""
    return np.random.default_rng(0).integers(90, 160, (150, 200, 3)).astype(np.uint8)


def test_faces_are_pasted_back_and_the_rest_is_the_photo(export: Path, wall: np.ndarray) -> None:
    stylizer = Stylizer(Options(export / "student.onnx"), 1)
    faces = [Face(50, 70, 60, 0.2), Face(140, 80, 70)]
    painted, matte = stylizer.paint(wall, faces)
    for face in faces:
        assert matte[int(face.y), int(face.x)] > 0.1
    assert np.array_equal(painted[matte == 0], wall[matte == 0]) and (matte == 0).mean() > 0.5
    assert not np.array_equal(painted, wall)


def test_a_photo_without_a_face_is_left_as_it_is_and_that_is_said(
    export: Path, wall: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "wall.png", wall)
    cli.main([str(tmp_path / "in" / "wall.png"), "--model", str(export), "-o", str(tmp_path / "out.png")])
    assert "wall.png: no face found, so the photo was left as it is" in capsys.readouterr().err
    assert np.array_equal(read_image(tmp_path / "out.png"), wall)
    assert read_mark(tmp_path / "out.png") is None  # nothing in it is synthetic

    done = stylize_folder([tmp_path / "in"], tmp_path / "folder", Options(export / "student.onnx"), 1)
    assert (done.painted, done.untouched) == (0, 1) and not done.skipped


def test_a_video_without_a_face_is_left_unmarked(export: Path, wall: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("av")
    clip = write_clip(tmp_path / "clip.mp4", [wall] * 3, sound=None)
    said = stylize_video(clip, tmp_path / "out.mp4", Options(export / "student.onnx"), 0.0, 1)
    assert "3 frames, no face found, so all were left as they are" in said
    assert read_mark(tmp_path / "out.mp4") is None  # nothing in it is synthetic


def test_what_the_model_cannot_do_is_refused_in_one_line(export: Path, wall: np.ndarray) -> None:
    model = export / "student.onnx"
    with pytest.raises(TristyleError, match=f"--size 96: .* takes {SIZE} px only. Leave --size out."):
        Stylizer(Options(model, size=96))
    with pytest.raises(TristyleError, match="--faces never: .* draws faces only. Leave --faces out."):
        Stylizer(Options(model, faces="never"))
    with pytest.raises(TristyleError, match="no face found"):
        Stylizer(Options(model, faces="always"))(wall)
    with pytest.raises(TristyleError, match="no face found. Crop it closer, or leave --alpha out: the photo stays"):
        Stylizer(Options(model, alpha=True))(wall)


def test_faces_from_scratch(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheets = []
    for name, seed in (("a.png", "3"), ("b.png", "3"), ("c.png", "4")):
        cli.main(["faces", "--model", str(export), "--count", "4", "--seed", seed, "-o", str(tmp_path / name)])
        sheets.append(read_image(tmp_path / name))
    assert np.array_equal(sheets[0], sheets[1]) and not np.array_equal(sheets[0], sheets[2])
    assert sheets[0].shape[0] >= 2 * SIZE and read_mark(tmp_path / "a.png") is not None
    for words in (["--count", "0"], ["--seed", "-1"], ["-o", str(tmp_path / "sheet.txt")]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["faces", "--model", str(export), *words])
    with pytest.raises(SystemExit, match="2"):
        cli.main(["faces", "--model", "rendered"])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and "has no generator of faces beside it" in said[-1]


@pytest.mark.parametrize(
    ("student", "generators", "taken"),
    [
        ("student.int8.onnx", ["faces.fp16.onnx", "faces.onnx"], "faces.onnx"),
        ("student.int8.onnx", ["faces.fp16.onnx"], "faces.fp16.onnx"),
        ("student.fp16.onnx", ["faces.fp16.onnx", "faces.onnx"], "faces.fp16.onnx"),
        ("student.fp16.onnx", ["faces.onnx"], "faces.onnx"),
        ("student.onnx", ["faces.fp16.onnx"], "faces.fp16.onnx"),
        ("student.int8.onnx", ["faces.json", "faces.mnn"], None),
        ("other.onnx", ["faces.onnx"], None),
    ],
)
def test_every_precision_finds_its_generator(
    student: str, generators: list[str], taken: str | None, tmp_path: Path
) -> None:
    for name in (student, *generators):
        (tmp_path / name).touch()
    assert faces_beside(tmp_path / student) == (tmp_path / taken if taken else None)


def test_a_generator_that_changed_since_its_export_is_refused(tmp_path: Path) -> None:
    for name in ("student.onnx", "faces.onnx"):
        (tmp_path / name).write_bytes(b"x")
    write_json(tmp_path / "manifest.json", {"files": {"faces.onnx": {"sha256": "0"}}})
    with pytest.raises(TristyleError, match=r"faces\.onnx: changed since it was exported"):
        faces_beside(tmp_path / "student.onnx")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_faces_from_scratch_in_every_precision(export: Path, tmp_path: Path, precision: str) -> None:
    for name in ("student", "faces"):
        shutil.copyfile(export / f"{name}.onnx", tmp_path / f"{name}.onnx")
    if precision == "fp16":
        write_half(export / "faces.onnx", tmp_path / "faces.fp16.onnx")
    (tmp_path / "student.onnx").rename(tmp_path / f"student.{precision}.onnx")
    sheets = []
    for model, name in ((export, "a.png"), (tmp_path / f"student.{precision}.onnx", "b.png")):
        cli.main(["faces", "--model", str(model), "--count", "2", "-o", str(tmp_path / name)])
        sheets.append(read_image(tmp_path / name).astype(int))
    assert np.abs(sheets[0] - sheets[1]).max() <= (4 if precision == "fp16" else 0)


def test_a_student_without_its_generator_is_refused_in_one_line(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(export / "student.onnx", tmp_path / "student.int8.onnx")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["faces", "--model", str(tmp_path / "student.int8.onnx")])
    (line,) = capsys.readouterr().err.splitlines()
    assert "student.int8.onnx: has no generator of faces beside it. Give the folder" in line


def test_the_page_gets_it_with_its_generator(export: Path) -> None:
    (model,) = page_models([export])
    assert (model.size, model.fixed, model.faces) == (SIZE, True, export / "faces.onnx")


def test_the_page_takes_the_shipped_models_for_what_they_are() -> None:
    """`faces.onnx` lies beside the student of rendered people, too, and is a model of photos."""
    assert [model.faces for model in page_models([Path("rendered"), Path("faces")])] == [None, None]
