"""Folders: the tree kept, continued, in parallel; what is skipped is listed and stops nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.apply import main
from stages.core.files import read_jsonl
from stages.core.images import write_image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.tools.tiny_student import half_bright, tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "student.onnx")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two good pictures and much else."""
    root = tmp_path / "in"
    write_image(root / "one.png", half_bright(64, 64))
    (root / "deep" / "deeper").mkdir(parents=True)
    Image.fromarray(half_bright(40, 70)).save(root / "deep" / "deeper" / "two.JPG")
    (root / "deep" / "torn.png").write_bytes((root / "one.png").read_bytes()[:2000])
    (root / "clip.mp4").write_bytes(b"a video")
    (root / "phone.HEIC").write_bytes(b"heic")
    (root / "notes.txt").write_text("left alone")
    (root / ".hidden.png").write_bytes(b"left alone")
    return root


def run(*words: object) -> int:
    """Exit code of `stylize` with these words."""
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def outputs(folder: Path) -> dict[str, int]:
    """Visible files, and when each was last written."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_the_tree_is_kept_and_what_is_skipped_is_listed(
    tree: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(tree, "-o", out, "--model", model, "--jobs", 1) == 3
    assert set(outputs(out)) == {"one.png", "deep/deeper/two.JPG", "skipped.txt"}
    said = capsys.readouterr()
    assert "2 stylised" in said.out and "3 skipped" in said.out and "1 other files left alone" in said.out
    listed = (out / "skipped.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in listed] == ["clip.mp4", "deep/torn.png", "phone.HEIC"]
    assert all(line in said.err for line in listed) and "Traceback" not in said.err
    for name in ("torn.png", "clip.mp4", "phone.HEIC"):
        (path,) = tree.rglob(name)
        path.unlink()
    assert run(tree, "-o", out, "--model", model, "--jobs", 1) == 0
    assert "2 there already" in capsys.readouterr().out and not (out / "skipped.txt").exists()


def test_a_second_run_paints_only_what_changed(tree: Path, model: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ["--model", model, "--jobs", 1]
    run(tree, "-o", out, *words)
    first = outputs(out)
    run(tree, "-o", out, *words)
    assert {name: at for name, at in outputs(out).items() if name != "skipped.txt"} == {
        name: at for name, at in first.items() if name != "skipped.txt"
    }
    write_image(tree / "one.png", half_bright(50, 50))  # another picture under the same name
    run(tree, "-o", out, *words)
    second = outputs(out)
    assert second["one.png"] > first["one.png"] and second["deep/deeper/two.JPG"] == first["deep/deeper/two.JPG"]
    (out / "deep" / "deeper" / "two.JPG").unlink()  # an output that is gone
    run(tree, "-o", out, *words)
    assert outputs(out)["deep/deeper/two.JPG"] > first["deep/deeper/two.JPG"]
    with open(out / ".stylize.jsonl", "ab") as file:
        file.write(b'{"out": "one.p')  # torn by a kill
    run(tree, "-o", out, *words, "--size", 48)  # other options
    third = outputs(out)
    assert third["one.png"] > second["one.png"] and third["deep/deeper/two.JPG"] > first["deep/deeper/two.JPG"]


def test_processes_paint_what_one_would(tree: Path, model: Path, tmp_path: Path) -> None:
    for number in range(5):
        write_image(tree / f"more{number}.png", np.roll(half_bright(64, 64), number, axis=1))
    assert run(tree, "-o", tmp_path / "one", "--model", model, "--jobs", 1) == 3
    assert run(tree, "-o", tmp_path / "two", "--model", model, "--jobs", 2) == 3
    assert set(outputs(tmp_path / "one")) == set(outputs(tmp_path / "two"))
    for name in outputs(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert len(read_jsonl(tmp_path / "two" / ".stylize.jsonl")) == 7


def test_names_cut_outs_and_outputs_within_the_folder(model: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_image(root / "a.png", half_bright(64, 64))
    Image.fromarray(half_bright(64, 64)).save(root / "a.bmp")
    Image.fromarray(half_bright(64, 64)).save(root / "b.jpg")
    out = root / "out"
    assert run(root, "-o", out, "--model", model, "--jobs", 1, "--alpha") == 0
    assert set(outputs(out)) == {"a.png", "a.bmp.png", "b.png"}
    with Image.open(out / "b.png") as image:
        assert image.mode == "RGBA"
        alpha = np.asarray(image)[..., 3]
        assert alpha[32, 10] == 255 and alpha[32, 60] == 0
    assert run(root, "-o", out, "--model", model, "--jobs", 1, "--alpha") == 0
    assert len(outputs(out)) == 3  # its own outputs are not taken for pictures to paint


def test_several_files_go_to_one_folder(tree: Path, model: Path, tmp_path: Path) -> None:
    files = [tree / "one.png", tree / "deep" / "deeper" / "two.JPG"]
    assert run(*files, "-o", tmp_path / "out", "--model", model, "--jobs", 1) == 0
    assert set(outputs(tmp_path / "out")) == {"one.png", "two.JPG"}


def test_a_folder_goes_beside_itself(tree: Path, model: Path) -> None:
    assert run(tree, "--model", model, "--jobs", 1) == 3
    assert "one.png" in outputs(tree.with_name("in.stylized"))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_stopped_run_is_continued(model: Path, tmp_path: Path, stop: signal.Signals, code: int) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for number in range(24):
        write_image(root / f"{number:02d}.png", half_bright(600, 600))
    words = [str(word) for word in (root, "-o", out, "--model", model, "--faces", "never", "--jobs")]
    command = [sys.executable, "-m", "stages.apply", *words, "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    patience = time.monotonic() + 60
    while len(list(out.glob("*.png"))) < 3 and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)  # as a terminal does: all processes of the run
    else:
        process.kill()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    if stop == signal.SIGINT:
        assert "stopped" in said and "Traceback" not in said
    done = set(out.glob("*.png"))
    assert 3 <= len(done) < 24
    for path in done:
        with Image.open(path) as image:
            image.load()
    (out / ".00.png.abc.tmp").write_bytes(b"half")
    patience = time.monotonic() + 60
    while run(*words, 1) == 2 and time.monotonic() < patience:  # until the killed run's processes have let go
        time.sleep(0.1)
    assert len(list(out.glob("*.png"))) == 24 and not list(out.glob(".*.tmp"))
