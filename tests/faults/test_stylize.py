"""What `stylize` cannot use: one plain sentence that names the file and the remedy, exit code 2, nothing written."""

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.apply import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.tools.tiny_student import half_bright, tiny_model, write_clip  # noqa: E402

WALL = np.tile(np.linspace(90, 140, 64, dtype=np.uint8)[:, None, None], (1, 64, 3))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "student.onnx")


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that `stylize` refuses with."""

    def call(*words: object) -> str:
        before = {path for path in tmp_path.rglob("*")}
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        said = capsys.readouterr()
        assert stop.value.code == 2, said
        lines = [line for line in said.err.splitlines() if line.startswith("stylize: ")]
        assert len(lines) == 1 and "Traceback" not in said.err + said.out, said
        assert lines[0].count(". ") >= 1 or "Run: " in lines[0], lines[0]  # what is wrong, and what to do
        assert {path for path in tmp_path.rglob("*")} == before
        return lines[0]

    return call


def bomb(path: Path) -> None:
    """A PNG of a few bytes whose header claims 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def animated(path: Path) -> None:
    frames = [Image.fromarray(np.roll(half_bright(40, 40), step, axis=1)) for step in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def torn(path: Path) -> None:
    Image.fromarray(half_bright(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:700])


def tiny(path: Path) -> None:
    Image.fromarray(half_bright(6, 40)).save(path)


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("missing.png", lambda path: None, "no such file"),
        ("empty.jpg", lambda path: path.write_bytes(b""), "an empty file"),
        ("text.jpg", lambda path: path.write_text("not a picture"), "not a picture"),
        ("page.png", lambda path: path.write_text("<!DOCTYPE html><html>404"), "a web page"),
        ("drawing.png", lambda path: path.write_text("<svg width='9'/>"), "a vector drawing"),
        ("phone.jpg", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40)), "HEIC"),
        ("torn.png", torn, "broken"),
        ("torn.jpg", torn, "broken"),
        ("bomb.png", bomb, "60000x60000"),
        ("tiny.png", tiny, "40x6"),
        ("moving.gif", animated, "animated, 3 frames"),
        ("moving.webp", animated, "animated, 3 frames"),
        ("moving.png", animated, "animated, 3 frames"),
    ],
)
def test_pictures(name: str, make: Callable[[Path], object], told: str, tmp_path: Path, model: Path, refusal) -> None:
    make(tmp_path / name)
    line = refusal(tmp_path / name, "-o", tmp_path / "out.png", "--model", model)
    assert name in line and told in line, line


def test_a_picture_without_a_face_where_faces_are_wanted(tmp_path: Path, model: Path, refusal) -> None:
    Image.fromarray(WALL).save(tmp_path / "wall.png")
    words = [tmp_path / "wall.png", "-o", tmp_path / "out.png", "--model", model]
    line = refusal(*words, "--faces", "always")
    assert "wall.png" in line and "no face found" in line and "--faces" in line
    main([str(word) for word in words])  # without: the whole frame
    assert (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("student.onnx", b"not a model", "not a readable ONNX model"),
        ("empty.onnx", b"", "not a readable ONNX model"),
        ("student.mnn", b"mnn", "for MNN"),
        ("student.tflite", b"tflite", "for LiteRT"),
        ("student.safetensors", b"weights", "for torch"),
    ],
)
def test_models(name: str, data: bytes, told: str, tmp_path: Path, refusal) -> None:
    Image.fromarray(half_bright(64, 64)).save(tmp_path / "photo.png")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(data)
    words = [tmp_path / "photo.png", "-o", tmp_path / "out.png", "--model"]
    line = refusal(*words, tmp_path / "model" / name)
    assert name in line and told in line
    if name == "student.mnn":
        assert "student.mnn" in refusal(*words, tmp_path / "model")
    if name == "student.safetensors":
        assert "export=onnx" in refusal(*words, tmp_path / "model")


def test_models_that_are_no_students(tmp_path: Path, refusal) -> None:
    import onnx
    from onnx import TensorProto, helper

    Image.fromarray(half_bright(64, 64)).save(tmp_path / "photo.png")
    for name, dims in (("numbers.onnx", [1, 10]), ("fixed.onnx", [1, 3, 32, 32])):
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, dims) for end in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
        opsets = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / name)
        words = [tmp_path / "photo.png", "-o", tmp_path / "out.png", "--model", tmp_path / name]
        line = refusal(*words, "--faces", "never")
        assert (name if name == "numbers.onnx" else "cannot run on 64x64") in line
    words = [tmp_path / "photo.png", "-o", tmp_path / "out.png", "--model", tmp_path / "fixed.onnx", "--alpha"]
    assert "no matte" in refusal(*words)


def test_words_that_do_not_fit(tmp_path: Path, model: Path, refusal) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    Image.fromarray(half_bright(64, 64)).save(photo)
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    (tmp_path / "nothing").mkdir()
    for named, *words in (
        ("--size", photo, "-o", out, "--size", 5000),
        ("--jobs", photo, "-o", out, "--jobs", 0),
        ("--smooth", photo, "-o", out, "--smooth", 1.5),
        ("transparency", photo, "-o", tmp_path / "out.jpg", "--alpha"),
        ("out.tiff", photo, "-o", tmp_path / "out.tiff"),
        ("-o FOLDER", photo, photo),
        ("nothing", photo, tmp_path / "nothing", "-o", out),
        ("has no pictures in it", tmp_path / "nothing", "-o", tmp_path / "out"),
        ("photo.png", tmp_path / "nothing", "-o", photo),
        ("input itself", tmp_path, "-o", tmp_path),
        ("transparency", tmp_path / "clip.mp4", "-o", tmp_path / "out.mp4", "--alpha"),
        ("out.avi", tmp_path / "clip.mp4", "-o", tmp_path / "out.avi"),
        ("detection_mobilenet0.25_Final.pth", photo, "-o", out, "--weights", tmp_path),
    ):
        assert named in refusal(*words, "--model", model), words


@pytest.mark.parametrize(("package", "extra"), [("onnxruntime", "tristyle[onnx]"), ("av", "tristyle[video]")])
def test_a_package_that_is_not_there(
    package: str, extra: str, tmp_path: Path, model: Path, refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / ("photo.png" if package == "onnxruntime" else "clip.mp4")
    Image.fromarray(half_bright(64, 64)).save(source, "PNG")
    monkeypatch.setitem(sys.modules, package, None)
    line = refusal(source, "-o", tmp_path / f"out{source.suffix}", "--model", model)
    assert f"pip install '{extra}'" in line


def test_videos(tmp_path: Path, model: Path, refusal) -> None:
    av = pytest.importorskip("av")
    clip, out = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    words = [clip, "-o", out, "--model", model]
    for data, told in ((b"not a video", "not a video"), (b"", "not a video")):
        clip.write_bytes(data)
        assert told in refusal(*words)
    with av.open(str(clip), "w") as song:
        stream = song.add_stream("aac", rate=48000)
        stream.layout = "mono"
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        piece.rate = 48000
        song.mux(stream.encode(piece))
        song.mux(stream.encode(None))
    assert "clip.mp4" in (line := refusal(*words)) and "has no video in it" in line
    write_clip(clip, [WALL] * 3, sound=None)
    assert "no face found" in refusal(*words, "--faces", "always")
    whole = clip.read_bytes()
    start = whole.index(b"mdat") + 4
    size = int.from_bytes(whole[start - 8 : start - 4], "big") - 8
    clip.write_bytes(whole[: start + size // 2])  # a download that broke off
    assert "not a video" in refusal(*words)
    clip.write_bytes(whole[:start] + bytes(size) + whole[start + size :])  # all there but the pictures
    assert "clip.mp4" in (line := refusal(*words)) and "no frames" in line
    write_clip(tmp_path / "clip.mkv", [WALL] * 3, sound=None)
    assert "out.mp4" in refusal(tmp_path / "clip.mkv", "-o", clip / "out.mp4", "--model", model)


def test_verify(tmp_path: Path, refusal) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    assert "text.png" in refusal("verify", tmp_path / "text.png")
    assert "missing.jpg" in refusal("verify", tmp_path / "missing.jpg")
    assert "a picture or a video" in refusal("verify", tmp_path)
