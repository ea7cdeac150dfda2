"""Videos: times and sound kept, turned as a phone means it, marked, nothing of the place; whole or absent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stages.apply import main
from stages.core.files import sha256_file
from stages.core.mark import read_mark

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
av = pytest.importorskip("av")
from tests.tools.portraits import portrait  # noqa: E402
from tests.tools.tiny_student import half_bright, tiny_model, write_clip  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "student.onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [np.roll(half_bright(64, 96), step, axis=0) for step in range(8)]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def decoded(path: Path) -> tuple[list[float], np.ndarray]:
    """Times in seconds, and frames uint8 [N, H, W, 3]."""
    with av.open(str(path)) as video:
        frames = list(video.decode(video=0))
        return [float(frame.time) for frame in frames], np.stack([f.to_ndarray(format="rgb24") for f in frames])


def sound(path: Path) -> list[bytes]:
    """The coded packets of the first sound."""
    with av.open(str(path)) as video:
        return [bytes(packet) for packet in video.demux(audio=0) if packet.size]


def test_times_and_sound_are_kept_and_the_place_is_not(
    clip: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    main([str(clip), "-o", str(out), "--model", str(model), "--faces", "never"])
    said = capsys.readouterr().out
    assert "8 frames" in said and "flicker" in said
    times, frames = decoded(out)
    assert np.allclose(times, decoded(clip)[0])
    assert frames.shape == (8, 64, 96, 3)
    assert np.abs(frames[:, :, 8:40].astype(int) - 25).mean() < 6  # bright 230 was painted dark, in the same colours
    assert sound(out) == sound(clip)
    with av.open(str(out)) as video:
        assert set(video.metadata) <= {"major_brand", "minor_version", "compatible_brands", "encoder", "comment"}
    assert b"48.8577" not in out.read_bytes() and b"made at home" not in out.read_bytes()
    mark = read_mark(out)
    assert mark and mark.synthetic and mark.version == f"sha256:{sha256_file(model)}"
    main(["verify", str(out)])
    assert sha256_file(model) in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(clip)])
    assert stop.value.code == 1


def test_sound_that_mp4_does_not_take_is_coded_anew(model: Path, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mkv", [half_bright(48, 65)[:, :64]] * 4, sound="flac")
    main([str(source), "-o", str(tmp_path / "out.mov"), "--model", str(model), "--faces", "never"])
    with av.open(str(tmp_path / "out.mov")) as video:
        assert [stream.codec_context.name for stream in video.streams.audio] == ["aac"]
        heard = np.concatenate([frame.to_ndarray()[0] for frame in video.decode(audio=0)])
    tone = np.abs(np.fft.rfft(heard[2048:14336]))
    assert abs(int(tone.argmax()) * 48000 / 12288 - 440) < 5


def test_a_video_is_turned_as_its_player_would(model: Path, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mp4", [half_bright(64, 96)] * 2, sound=None)
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # the matrix of a version 0 box: a, b, u, c, d, v, x, y, w
    turn = [0, 0x10000, 0, -0x10000, 0, 0, 64 * 0x10000, 0, 0x40000000]  # clockwise by 90 degrees
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turn)
    source.write_bytes(bytes(data))
    main([str(source), "-o", str(tmp_path / "out.mp4"), "--model", str(model), "--faces", "never"])
    _, frames = decoded(tmp_path / "out.mp4")
    assert frames.shape == (2, 96, 64, 3)  # left half bright, turned clockwise: the upper half, painted dark
    assert frames[0, :40].std() < frames[0, -40:].std()


def test_faces_are_followed_and_the_rest_is_left(tmp_path: Path, model: Path) -> None:
    picture = portrait(3, 128).image
    frames = [np.roll(np.pad(picture, ((16, 16), (96, 96), (0, 0)), mode="edge"), 2 * step, 1) for step in range(6)]
    source = write_clip(tmp_path / "clip.mp4", frames, sound=None)
    main([str(source), "-o", str(tmp_path / "out.mp4"), "--model", str(model), "--faces", "always"])
    _, before = decoded(source)
    _, after = decoded(tmp_path / "out.mp4")
    change = np.abs(after.astype(int) - before).mean(axis=(0, 3))
    assert change[40:120, 130:190].mean() > 20 and change[:, :60].mean() < 3


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_stopped_run_leaves_no_half_file(model: Path, tmp_path: Path, stop: signal.Signals, code: int) -> None:
    source, out = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    write_clip(source, [half_bright(240, 320)] * 60)
    words = [str(source), "-o", str(out), "--model", str(model), "--faces", "never"]
    process = subprocess.Popen([sys.executable, "-m", "stages.apply", *words], stderr=subprocess.PIPE, text=True)
    patience = time.monotonic() + 60
    while not list(tmp_path.glob(".out.mp4.*.tmp")) and time.monotonic() < patience:
        time.sleep(0.005)
    process.send_signal(stop)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code and not out.exists() and "Traceback" not in said, said
    assert len(list(tmp_path.glob(".out.mp4.*.tmp"))) == (stop == signal.SIGKILL)
    write_clip(source, [half_bright(48, 64)] * 2)
    main(words)
    assert decoded(out)[1].shape[0] == 2 and not list(tmp_path.glob(".*.tmp"))
