"""The state of a training under kills, full and closed disks, too little memory, other machines and newer versions."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.core import artifact, faults
from stages.core.artifact import ArtifactError, open_artifact, seal
from stages.training import log
from stages.training.checkpoint import load_checkpoint, previous, save_checkpoint
from stages.training.fit import Update, fit
from tests.faults.test_bad_input import TINY
from tests.training.test_fit import Toy, batches, runtime, train

STEPS = [(step, after) for step in ("replace1", "replace2", "fsync1") for after in (False, True)]


class Step:
    """Stands for a call of the file system: before or after its n-th time something happens."""

    def __init__(self, name: str, after: bool, happens: object) -> None:
        self.name, self.left, self.after, self.happens = name.rstrip("12"), int(name[-1]), after, happens
        self.real = getattr(os, self.name)

    def __call__(self, *arguments: object) -> object:
        self.left -= 1
        if self.left == 0 and not self.after:
            self.happens()  # type: ignore[operator]
        found = self.real(*arguments)
        if self.left == 0 and self.after:
            self.happens()  # type: ignore[operator]
        return found


def train_toy(task: Toy, folder: Path) -> Toy:
    """The toy's training, from where the folder's state leaves off."""
    folder.mkdir(exist_ok=True)
    fit(task, batches, train=train(), scratch=folder, runtime=runtime(folder), label="toy")
    return task


def same(one: Toy, two: Toy) -> bool:
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


def images_of(path: Path) -> int:
    state = load_checkpoint(path)
    assert state is not None
    return int(state["images"])


@pytest.fixture
def two_states(tmp_path: Path) -> Path:
    """A checkpoint of 2 images, and the one before it."""
    for images in (1, 2):
        save_checkpoint(tmp_path / "toy.ckpt", {"images": images})
    return tmp_path / "toy.ckpt"


@pytest.mark.parametrize(("step", "after"), STEPS)
def test_killed_at_any_step_of_saving_a_whole_state_is_there(two_states: Path, step: str, after: bool) -> None:
    child = os.fork()
    if child == 0:
        call = Step(step, after, lambda: os.kill(os.getpid(), signal.SIGKILL))
        setattr(os, call.name, call)
        save_checkpoint(two_states, {"images": 3})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert images_of(two_states) == (3 if (step, after) == ("replace2", True) else 2)
    save_checkpoint(two_states, {"images": 4})
    assert images_of(two_states) == 4
    assert sorted(file.name for file in two_states.parent.iterdir()) == ["toy.ckpt", "toy.ckpt.previous"]


@pytest.mark.parametrize(("step", "after"), STEPS)
def test_stopped_again_while_it_saves_a_whole_state_is_there(
    two_states: Path, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Step(step, after, lambda: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(os, call.name, call)
            save_checkpoint(two_states, {"images": 3})
    finally:
        signal.signal(signal.SIGINT, before)
    assert images_of(two_states) == (3 if (step, after) == ("replace2", True) else 2)
    assert not list(two_states.parent.glob("*.tmp")) and not list(two_states.parent.glob(".*.tmp"))


def test_two_states_are_kept_however_often_it_saves(two_states: Path) -> None:
    for images in range(3, 7):
        save_checkpoint(two_states, {"images": images})
        assert (images_of(two_states), images_of(previous(two_states))) == (images, images - 1)
    assert len(list(two_states.parent.iterdir())) == 2


def test_a_state_of_another_machine_is_taken_up_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(log, "machine", lambda: {"torch": "2.0", "instructions": "AVX1", "threads": "7"})
        train_toy(Toy(stop_after=20), tmp_path)
    train_toy(Toy(), tmp_path)
    said = capsys.readouterr().err
    assert "toy: goes on from a state made with torch 2.0, instructions AVX1, threads 7; results may differ" in said
    assert images_of(tmp_path / "toy.ckpt") == 64
    train_toy(Toy(), tmp_path)
    assert "goes on from a state" not in capsys.readouterr().err  # its own


def test_an_artifact_of_a_newer_version_is_kept_and_the_line_says_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "SCHEMA", artifact.SCHEMA + 1)
        seal(tmp_path, "data", config={}, inputs={}, metrics={})
    before = sorted((file, file.read_bytes()) for file in tmp_path.iterdir())
    with pytest.raises(ArtifactError, match="newer tristyle") as caught:
        open_artifact(tmp_path, "data")
    assert "install the newer version" in str(caught.value) and "elete" not in str(caught.value)
    assert sorted((file, file.read_bytes()) for file in tmp_path.iterdir()) == before


@contextmanager
def no_room(most: int) -> Iterator[None]:
    """Within the block the system refuses what a file would hold beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Failing(Toy):
    """In the update that ends at 12 images something happens, between two states."""

    def __init__(self, happens: object) -> None:
        super().__init__()
        self.happens = happens

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        if update.images == 8:
            self.happens()  # type: ignore[operator]
        return super().losses(phase, batch, update)


def test_no_room_for_a_state_names_file_and_need_and_keeps_the_one_before(tmp_path: Path) -> None:
    whole = train_toy(Toy(), tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "whole" / "toy.ckpt").stat().st_size
    shrink = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))  # noqa: E731
    try:
        with pytest.raises(OSError) as caught:
            train_toy(Failing(shrink), tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = str(faults.line_of(caught.value))
    assert line.startswith(f"{tmp_path / 'a' / 'toy.ckpt'}: cannot be written") and "needed" in line
    assert images_of(tmp_path / "a" / "toy.ckpt") == 8 and not list((tmp_path / "a").glob(".*.tmp"))
    assert same(train_toy(Toy(), tmp_path / "a"), whole)


def test_no_room_for_a_stage_is_one_line_and_the_same_command_goes_on(tristyle, tmp_path: Path) -> None:
    with no_room(1000):
        line = tristyle("stage=data", *TINY).line
    assert "cannot be written" in line and "Make room" in line and "runs" in line
    assert not list(tmp_path.rglob(".*.tmp")) and not list(tmp_path.rglob("manifest.json"))
    assert tristyle("stage=data", *TINY).code == 0


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_closed_disk_is_one_line_and_never_passed_over(
    number: int, tristyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def closed(path: str, *rest: object) -> None:
        if "runs" in Path(path).parts:
            raise OSError(number, os.strerror(number), str(path))
        make(path, *rest)  # type: ignore[arg-type]

    def refuse(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number), str(source))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", closed)
        line = tristyle("stage=data", *TINY).line
    assert "runs" in line and ("cannot be read or written" in line or "not writable" in line)
    with monkeypatch.context() as patch, pytest.raises(OSError, match=os.strerror(number)):
        train_toy(Failing(lambda: patch.setattr(os, "replace", refuse)), tmp_path / "a")
    assert images_of(tmp_path / "a" / "toy.ckpt") == 8


def test_too_little_memory_is_one_line_and_the_state_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        train_toy(Failing(lambda: torch.empty(2**58)), tmp_path / "a")
    line = str(faults.line_of(caught.value))
    assert line.startswith("memory: not enough") and "smaller batch" in line and "\n" not in line
    assert same(train_toy(Toy(), tmp_path / "a"), train_toy(Toy(), tmp_path / "whole"))
