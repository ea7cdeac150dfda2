"""`stylize`: any size, exact background, one-line errors, synthetic mark, quick help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import apply
from stages.core.images import write_image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.tools.tiny_student import half_bright, tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "student.onnx")


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 71), (200, 301), (20, 33), (33, 90)])
def test_any_size_keeps_its_shape_and_what_is_not_painted(model: Path, height: int, width: int) -> None:
    photo = half_bright(height, width)
    result = apply.stylize(apply.open_model(model), photo)
    assert result.shape == photo.shape and result.dtype == np.uint8
    left, right = result[:, : width // 4], result[:, -(width // 4) :]
    assert np.abs(left.astype(int) - (255 - 230)).max() <= 1
    assert np.array_equal(right, photo[:, -(width // 4) :])  # grain and all


def test_the_size_noted_in_the_model_is_used_and_can_be_overridden(model: Path) -> None:
    seen: list[tuple[int, ...]] = []
    session = apply.open_model(model)

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

        def run(self, names: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(next(iter(feed.values())).shape)
            return session.run(names, feed)

    photo = half_bright(200, 300)
    for size in (None, 100, 200):
        apply.stylize(Spy(), photo, size)
    assert seen == [(1, 3, 64, 96), (1, 3, 104, 152), (1, 3, 200, 304)]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_output_says_that_it_is_synthetic(model: Path, tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / "photo.png", half_bright(64, 64))
    out = tmp_path / f"out{suffix}"
    apply.main([str(tmp_path / "photo.png"), "-o", str(out), "--model", str(model.parent)])
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in out.read_bytes()
    with Image.open(out) as image:
        assert image.size == (64, 64)
        assert "xmp" in image.info or "XML:com.adobe.xmp" in image.info


def test_exif_is_turned(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90 degrees
    Image.fromarray(half_bright(40, 64)).save(tmp_path / "photo.jpg", exif=exif)
    apply.main([str(tmp_path / "photo.jpg"), "-o", str(tmp_path / "out.png"), "--model", str(model)])
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (40, 64)


def test_mistakes_are_one_line_with_exit_code_2(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photo.png"
    write_image(photo, half_bright(64, 64))
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("stages.core.files.data_file", lambda name: tmp_path / "nothing" / name)
    monkeypatch.chdir(tmp_path)  # where no run lies whose model would be taken
    out = str(tmp_path / "out.png")
    cases = [
        ([str(tmp_path / "missing.png"), "-o", out, "--model", str(model)], "missing.png"),
        ([str(tmp_path / "text.png"), "-o", out, "--model", str(model)], "text.png"),
        ([str(photo), "-o", out], "--model"),
        ([str(photo), "-o", out, "--model", str(tmp_path / "broken.onnx")], "broken.onnx"),
        ([str(photo), "-o", out, "--model", str(tmp_path / "absent")], "absent"),
        ([str(photo), "-o", str(tmp_path / "out.txt"), "--model", str(model)], "out.txt"),
        ([str(photo), "-o", str(tmp_path / "folder.png"), "--model", str(model)], "folder.png"),
        ([str(photo), "-o", str(tmp_path / "file" / "out.png"), "--model", str(model)], "out.png"),
        ([str(photo), "-o", str(photo), "--model", str(model)], "photo.png"),
        ([str(photo), "-o", out, "--model", str(model), "--size", "3"], "--size"),
    ]
    for argv, named in cases:
        with pytest.raises(SystemExit) as stopped:
            apply.main(argv)
        captured = capsys.readouterr()
        assert stopped.value.code == 2, argv
        assert named in captured.err and captured.err.count("\n") == 1, captured.err
    assert not Path(out).exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom stages import apply\n"
        "try:\n    apply.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'cv2', 'onnxruntime', 'PIL', 'wandb'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--model" in done.stdout


def test_a_photo_is_stylised_without_torch(model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", half_bright(64, 64))
    argv = [str(tmp_path / "photo.png"), "-o", str(tmp_path / "out.png"), "--model", str(model)]
    code = f"import sys\nfrom stages import apply\napply.main({argv!r})\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_default_is_the_last_finished_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, key in enumerate(("newest", "older", "unfinished")):
        folder = tmp_path / "runs" / "export" / key
        folder.mkdir(parents=True)
        (folder / "student.onnx").touch()
        if key != "unfinished":
            (folder / "manifest.json").touch()
            os.utime(folder / "manifest.json", (1000 - age, 1000 - age))
    assert apply.model_path(None) == Path("runs/export/newest/student.onnx")
    assert apply.model_path(tmp_path / "runs/export/older").parent.name == "older"


def test_the_folder_of_an_export_may_hold_one_precision_only(model: Path, tmp_path: Path) -> None:
    for name in ("student.int8.onnx", "student.fp16.onnx", "student.onnx"):
        (tmp_path / name).write_bytes(model.read_bytes())
        expected = name if name == "student.onnx" else min(path.name for path in tmp_path.iterdir())
        assert apply.model_path(tmp_path).name == expected


def test_a_model_without_a_matte_paints_everywhere_and_may_take_half_floats(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    from stages.apply.picture import paint_whole

    dims = [1, 3, "height", "width"]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT16, dims) for end in ("photo", "output")]
    graph = helper.make_graph([helper.make_node("Neg", ["photo"], ["output"])], "negative", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "negative.onnx")
    photo = half_bright(40, 48)
    image, matte = paint_whole(apply.open_model(tmp_path / "negative.onnx"), photo)
    assert np.abs(image.astype(int) - (255 - photo.astype(int))).max() <= 1 and (matte == 1).all()


def test_the_version_is_printed_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    apply.main(["--version"])
    assert capsys.readouterr().out == f"tristyle {version('tristyle')}\n"
    code = "import sys\nfrom stages import apply\napply.main(['--version'])\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("tristyle ")


def test_a_model_that_is_misspelled_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.core.settings import TristyleError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "comic.onnx").touch()
    for given, meant in (("face", "faces"), ("renderd", "rendered"), ("commic.onnx", "comic.onnx")):
        with pytest.raises(TristyleError, match=rf"^{given}: no such model\. Did you mean {meant}\? Give --model"):
            apply.model_path(Path(given))
    with pytest.raises(TristyleError, match=r"^--model painted: is called rendered now\. Write --model rendered\.$"):
        apply.model_path(Path("painted"))
    with pytest.raises(TristyleError, match=r"^zebra: no such model\. Give --model"):
        apply.model_path(Path("zebra"))


def test_a_model_may_need_sides_of_other_multiples(model: Path) -> None:
    session = apply.open_model(model)
    seen: list[tuple[int, ...]] = []

    class Coarse:
        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

        def get_modelmeta(self) -> object:
            notes = session.get_modelmeta().custom_metadata_map | {"tristyle.multiple_of": "32"}
            return type("Meta", (), {"custom_metadata_map": notes})

        def run(self, names: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(next(iter(feed.values())).shape)
            return session.run(names, feed)

    output, _ = apply.run_padded(Coarse(), half_bright(40, 70))
    assert seen == [(1, 3, 64, 96)] and output.shape == (40, 70, 3)


def test_each_command_line_has_its_parser() -> None:
    for words, named in (
        (["serve", "--port", "0"], "stylize serve"),
        (["verify", "a.png", "b.mp4"], "stylize verify"),
        (["photo.png", "-o", "out.png", "--faces", "never"], "stylize"),
    ):
        parser, rest = apply.parser_for(words)
        assert parser.prog == named and parser.parse_args(rest)


def test_shipped_models_have_names_and_a_file_of_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    comic, faces, rendered = (apply.model_path(Path(name)) for name in ("comic", "faces", "rendered"))
    assert (comic.name, faces.name, rendered.name) == ("comic.onnx", "faces.onnx", "student.onnx")
    assert apply.model_path(None) == comic  # no run here: photographs are what people bring
    (tmp_path / "rendered").touch()
    assert apply.model_path(Path("rendered")) == Path("rendered")
