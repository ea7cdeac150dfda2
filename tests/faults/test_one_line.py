"""One line, always: full and closed disks, memory, broken pipes, odd names, Hydra's grammar, faults of our own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from stages.apply import main as stylize
from stages.core import faults, files
from stages.core.files import append_jsonl, temporary_path, write_bytes
from stages.core.settings import TristyleError
from tests.faults.test_keys import names, picture, words

assert words  # the fixture


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: cannot be written"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "a/b: cannot be read or written"),
        (OSError(errno.EIO, "Input/output error", "a/b"), "a/b: cannot be used"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files"),
        (MemoryError(), "memory: not enough"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't\nallocate"), "memory: not enough"),
        (ImportError("libtorch_cpu.so: failed to map segment"), "memory: not enough"),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), "wandb: cannot be imported"),
        (BrokenProcessPool("died"), "workers: a process was killed"),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), "not UTF-8"),
        (TristyleError("x: y. Do z."), "x: y. Do z."),
    ],
)
def test_what_a_user_can_mend_is_said(error: BaseException, said: str) -> None:
    line = faults.line_of(error)
    assert line and said in line and "\n" not in line


def test_a_fault_of_ours_is_said_to_be_one(capsys) -> None:
    assert faults.end("tristyle", KeyError("x\ny")) == 2
    line = capsys.readouterr().err
    assert line.startswith("tristyle: a fault of tristyle (KeyError") and line.count("\n") == 1
    log = Path(line.rpartition("its log is ")[2].strip())
    assert "KeyError" in log.read_text()
    log.unlink()
    assert faults.end("tristyle", KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.count("\n") == 1


class Full:
    """A file that takes nothing."""

    def __call__(self, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_names_the_file_and_the_need(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files.os, "fsync", Full())
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "x.bin", b"0" * 3_000_000)
    line = faults.line_of(caught.value)
    assert line and f"{tmp_path / 'x.bin'}: cannot be written" in line and "3.0 MB are needed" in line
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError) as caught:
        append_jsonl(Path("/dev/full"), {"a": 1})
    assert "/dev/full: cannot be written" in str(faults.line_of(caught.value))


@pytest.mark.parametrize("place", ["write_bytes", "append_jsonl", "locked"])
def test_a_full_disk_ends_a_folder_in_one_line(tmp_path: Path, words, capsys, monkeypatch, place: str) -> None:
    picture(tmp_path / "in" / "a.png")
    module = "stages.core.artifact.locked" if place == "locked" else f"stages.core.files.{place}"
    monkeypatch.setattr(module, Full())
    with pytest.raises(SystemExit) as stop:
        stylize([str(tmp_path / "in"), "-o", str(tmp_path / "o"), *words])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stylize:")]
    assert stop.value.code == 2 and len(lines) == 1 and "Make room" in lines[0]


@pytest.mark.parametrize(
    "setting", ["experiment=null", "data=null", "~data", "tracker=null", "~tracker", "+foo=1", "~style"]
)
def test_what_is_not_chosen_is_one_line(tristyle, setting: str) -> None:
    assert tristyle("stage=style", setting, "workers=1").line


@pytest.mark.parametrize(
    "value", ["fotos_é", "a#b", "a&b", "a b", "${x}", "a{b", "a,b", "(x", "~/x", "a:b c", "[x", "ä"]
)
def test_hydras_grammar_says_how_to_quote(tristyle, value: str) -> None:
    outcome = tristyle("stage=data", "data=folders", f"data.path={value}", "style.target=ink")
    line = outcome.line
    if "does not exist" not in line and "no such folder" not in line:
        assert "uote" in line or "-m" in line or "sweep" in line, line


@pytest.mark.parametrize("length", [200, 240, 244, 250, 251])
def test_long_names_are_painted(tmp_path: Path, words, length: int) -> None:
    for name in ("a.png", "m" * (length) + ".png", "z.png"):
        picture(tmp_path / "in" / name)
    stylize([str(tmp_path / "in"), "-o", str(tmp_path / "o"), *words])
    assert len(names(tmp_path / "o")) == 3
    for only in (False, True):
        assert len(os.fsencode(temporary_path(Path("é" * 125 + ".png"), only).name)) <= 255


def test_pipes_and_devices_are_passed_over(tmp_path: Path, words, capsys) -> None:
    picture(tmp_path / "in" / "z.png")
    os.mkfifo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to("/dev/zero")
    with pytest.raises(SystemExit) as stop:
        stylize([str(tmp_path / "in"), "-o", str(tmp_path / "o"), *words])
    assert stop.value.code == 3 and names(tmp_path / "o") == ["z.png"]
    for arguments in (["verify"], ["-o", str(tmp_path / "x.png"), *words], ["-o", str(tmp_path / "x.mp4"), *words]):
        with pytest.raises(SystemExit) as stop:
            first, rest = (arguments, []) if arguments == ["verify"] else ([], arguments)
            stylize([*first, str(tmp_path / "in" / "a.png"), *rest])
        assert stop.value.code == 2 and "not a regular file" in capsys.readouterr().err


def run(*arguments: str | bytes, redirect: str = "", cwd: Path, root: Path) -> subprocess.CompletedProcess[bytes]:
    """`stylize` as a program of its own, its streams as a shell opens them."""
    env = {**os.environ, "PYTHONPATH": str(root), "LC_ALL": "C"}
    command = ["bash", "-c", f'"$@" {redirect}', "x", sys.executable, "-m", "stages.apply", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, timeout=120)


def test_closed_streams_and_names_of_any_bytes(tmp_path: Path, words, root: Path) -> None:
    picture(tmp_path / "in" / "a.png").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.png"))
    write_bytes(Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/bad\xe9.png")), b"nothing")
    done = run("in", "-o", "o", *words, redirect="2>&- >&-", cwd=tmp_path, root=root)
    assert done.returncode == 3 and os.path.exists(os.fsencode(tmp_path) + b"/o/caf\xe9.png")
    done = run(b"in/caf\xe9.png", *words, cwd=tmp_path, root=root)
    assert done.returncode == 0 and b"caf" in done.stdout and b"Traceback" not in done.stderr
    done = run("--help", redirect=">&-", cwd=tmp_path, root=root)
    assert b"Traceback" not in done.stderr
