"""The training loop: resume, lazy phases, EMA, order of images, refusal of broken losses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tracking import Tracker
from stages.training.checkpoint import load_checkpoint, previous, save_checkpoint
from stages.training.ema import ema_update
from stages.training.fit import Phase, Task, Update, epoch_order, fit


class Toy(Task):
    """Two networks against each other, with dropout noise, a lazy phase and an EMA."""

    def __init__(self, lr: float = 0.01, stop_after: int | None = None, broken: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.ema = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 4)
        self.stop_after, self.broken, self.calls = stop_after, broken, []
        left = torch.optim.Adam(self.left.parameters(), lr=lr, betas=(0.0, 0.99))
        right = torch.optim.Adam(self.right.parameters(), lr=lr)
        self.phases = [
            Phase("left", list(self.left.parameters()), left),
            Phase("right", list(self.right.parameters()), right),
            Phase("lazy", list(self.left.parameters()), left, every=4),
        ]

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        self.calls.append(phase)
        hidden = self.left(batch["x"] + 0.1 * torch.randn_like(batch["x"]))
        score = self.right(hidden).mean()
        if self.broken and len(self.calls) > 5:
            score = score * float("nan")
        return {"score": score if phase == "right" else -score, "size": hidden.square().mean(), "_seen": score}

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        ema_update(self.ema, self.left, 0.9)
        if self.stop_after is not None and images >= self.stop_after:
            raise KeyboardInterrupt
        return {"images": float(images)}


def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
    table = torch.linspace(-1, 1, 40).view(10, 4)
    return {"x": table[torch.from_numpy(epoch_order(10, 3, start, count)[rows])]}


def train(images: int = 64) -> Train:
    return Train(images=images, batch=4, lr=0.01, checkpoint_images=8)


def runtime(path: Path) -> Runtime:
    return Runtime("cpu", 1, Tracker(path))


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    whole = Toy()
    fit(whole, batches, train=train(), scratch=tmp_path / "a", runtime=runtime(tmp_path), label="toy")
    for stop in (20, 44):  # twice, off the checkpoint grid
        with pytest.raises(KeyboardInterrupt):
            fit(
                Toy(stop_after=stop),
                batches,
                train=train(),
                scratch=tmp_path / "b",
                runtime=runtime(tmp_path),
                label="toy",
            )
    resumed = Toy()
    fit(resumed, batches, train=train(), scratch=tmp_path / "b", runtime=runtime(tmp_path), label="toy")
    assert len(resumed.calls) < len(whole.calls)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


class Signalled(Toy):
    """Gets a signal in the update that ends at 20 images, so many times."""

    def __init__(self, number: signal.Signals, times: int = 1) -> None:
        super().__init__()
        self.number, self.times = number, times

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        for _ in range(self.times if images == 20 else 0):
            os.kill(os.getpid(), self.number)
        return super().after_update(images, batch)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_loses_nothing(
    number: signal.Signals, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, resumed = Toy(), Toy()
    before = signal.getsignal(number)
    where = {"train": train(), "runtime": runtime(tmp_path), "label": "toy"}
    fit(whole, batches, scratch=tmp_path / "a", **where)
    with pytest.raises(SystemExit) as left:
        fit(Signalled(number), batches, scratch=tmp_path / "b", **where)
    assert left.value.code == code and "stopped after 20 images" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    state = load_checkpoint(tmp_path / "b" / "toy.ckpt")
    assert state is not None and state["images"] == 20  # off the grid of checkpoint_images
    fit(resumed, batches, scratch=tmp_path / "b", **where)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.usefixtures("interruptible")
def test_asked_twice_it_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(
            Signalled(signal.SIGINT, 2),
            batches,
            train=train(),
            scratch=tmp_path,
            runtime=runtime(tmp_path),
            label="toy",
        )
    state = load_checkpoint(tmp_path / "toy.ckpt")
    assert state is not None and state["images"] == 16


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        where = {"train": train(), "runtime": runtime(tmp_path), "label": "toy"}
        fit(Signalled(signal.SIGINT), batches, scratch=tmp_path, **where)
    finally:
        signal.signal(signal.SIGINT, before)
    state = load_checkpoint(tmp_path / "toy.ckpt")
    assert state is not None and state["images"] == train().images


def test_with_interrupts_ignored_it_still_stops_when_asked_to_end(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        where = {"train": train(), "runtime": runtime(tmp_path), "label": "toy"}
        with pytest.raises(SystemExit) as left:
            fit(Signalled(signal.SIGTERM), batches, scratch=tmp_path, **where)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    state = load_checkpoint(tmp_path / "toy.ckpt")
    assert left.value.code == 143 and state is not None and state["images"] == 20


KILLED = """
import signal, sys
from pathlib import Path
from tests.training.test_fit import Signalled, batches, fit, runtime, train
out = Path(sys.argv[1])
fit(Signalled(signal.SIGKILL), batches, train=train(), scratch=out / "b", runtime=runtime(out), label="toy")
"""


def test_killed_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], cwd=Path(__file__).parents[2], timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    state = load_checkpoint(tmp_path / "b" / "toy.ckpt")
    assert state is not None and state["images"] == 16
    whole, resumed = Toy(), Toy()
    fit(whole, batches, train=train(), scratch=tmp_path / "a", runtime=runtime(tmp_path), label="toy")
    fit(resumed, batches, train=train(), scratch=tmp_path / "b", runtime=runtime(tmp_path), label="toy")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_lazy_phase_runs_every_fourth_update(tmp_path: Path) -> None:
    toy = Toy()
    fit(toy, batches, train=train(), scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    assert toy.calls.count("left") == 16 and toy.calls.count("lazy") == 4


def test_phase_moves_only_its_own_parameters(tmp_path: Path) -> None:
    toy = Toy()
    toy.phases = toy.phases[:1]
    before = [parameter.clone() for parameter in toy.right.parameters()]
    fit(toy, batches, train=train(8), scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    assert all(torch.equal(a, b) for a, b in zip(before, toy.right.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in toy.right.parameters())


class Handing(Toy):
    """Leaves a draw of its own in one phase for the next, and a buffer that losses move."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.phases = self.phases[:2]
        self.found: list[bool] = []

    def moved_buffers(self, phase: str) -> list[Tensor]:
        return [self.mean]

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        x = batch["x"]
        self.mean.lerp_(x.mean(dim=0), 0.5)
        if phase == "left":
            update.memory["x"] = x
            return {"size": self.left(x).square().mean()}
        self.found.append(torch.equal(update.memory["x"], x))
        return {"score": self.right(self.left(update.memory["x"]).detach()).square().mean()}


def test_micro_batches_keep_their_own_and_together_are_the_batch(tmp_path: Path) -> None:
    whole, cut = Handing(), Handing()
    fit(whole, batches, train=train(16), scratch=tmp_path / "a", runtime=runtime(tmp_path), label="toy")
    length = Train(images=16, batch=4, lr=0.01, accumulate=4)
    fit(cut, batches, train=length, scratch=tmp_path / "b", runtime=runtime(tmp_path), label="toy")
    assert len(cut.found) == 4 * len(whole.found) and all(cut.found)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value)


def test_losses_are_logged_and_underscored_terms_only_logged(tmp_path: Path) -> None:
    fit(Toy(), batches, train=train(8), scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    rows = read_jsonl(tmp_path / "log.jsonl")
    assert {row["phase"] for row in rows} == {"toy/left", "toy/right", "toy/lazy", "toy/state"}
    assert all({"score", "size", "seen"} <= row.keys() for row in rows if row["phase"] != "toy/state")


def test_broken_loss_stops_with_one_line_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(TristyleError, match="Lower the learning rate"):
        fit(Toy(broken=True), batches, train=train(), scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    state = load_checkpoint(tmp_path / "toy.ckpt")
    assert state is None or all(torch.isfinite(value).all() for value in state["task"].values())


def test_order_shows_every_image_once_an_epoch_from_any_start() -> None:
    whole = epoch_order(7, 5, 0, 21)
    assert all(sorted(whole[7 * e : 7 * e + 7]) == list(range(7)) for e in range(3))
    assert np.array_equal(epoch_order(7, 5, 9, 6), whole[9:15])
    assert not np.array_equal(whole[:7], whole[7:14])


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    save_checkpoint(path, {"images": 1})
    save_checkpoint(path, {"images": 2})
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert load_checkpoint(path) == {"images": 1}
    previous(path).unlink()
    assert load_checkpoint(path) is None


@pytest.mark.parametrize(
    "bad", [{"lr": -1.0}, {"lr": float("nan")}, {"images": -5}, {"batch": 0}, {"images": 2.5}, {"lr": "x"}]
)
def test_train_refuses_what_cannot_be(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Train(**{"images": 10, "batch": 2, "lr": 0.1, **bad})  # type: ignore[arg-type]


def log_of(folder: Path) -> bytes:
    return (folder / "log.jsonl").read_bytes()


def test_the_log_is_on_the_disk_before_a_state_that_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []

    def sync(number: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{number}")).name
        synced.append((name, log_of(tmp_path).count(b"\n")))

    monkeypatch.setattr(os, "fsync", sync)
    fit(Toy(), batches, train=train(16), scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    lines = [7, 13]  # an update writes left, right and state; the first one lazy, too
    assert [name for name, _ in synced] == ["log.jsonl", ".toy.ckpt.tmp"] * 2
    assert [count for name, count in synced if name == "log.jsonl"] == lines


def test_a_stop_off_the_grid_leaves_the_log_of_an_uninterrupted_training(tmp_path: Path) -> None:
    length = Train(images=1600, batch=4, lr=0.01, checkpoint_images=100)  # a line of the log every two updates
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    fit(Toy(), batches, train=length, scratch=tmp_path / "a", runtime=runtime(tmp_path / "a"), label="toy")
    where = {"train": length, "scratch": tmp_path / "b", "runtime": runtime(tmp_path / "b"), "label": "toy"}
    with pytest.raises(SystemExit):
        fit(Signalled(signal.SIGTERM), batches, **where)
    with pytest.raises(KeyboardInterrupt):  # as a kill: lines of the log that no checkpoint knows
        fit(Toy(stop_after=196), batches, **where)
    fit(Toy(), batches, **where)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")


@pytest.mark.usefixtures("interruptible")
def test_a_queues_warning_keeps_the_state_and_goes_on(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        fit(Signalled(signal.SIGUSR1), batches, train=train(24), scratch=tmp_path, runtime=runtime(tmp_path), label="t")
    finally:
        signal.signal(signal.SIGUSR1, before)
    state = load_checkpoint(previous(tmp_path / "t.ckpt"))
    assert seen == [signal.SIGUSR1] and state is not None and state["images"] == 20  # 24 is the end


def test_a_damaged_state_is_named_and_never_replaces_a_good_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.ckpt"
    save_checkpoint(path, {"images": 1})
    save_checkpoint(path, {"images": 2})
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert load_checkpoint(path) == {"images": 1}
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: ") and said.count("\n") == 1 and str(previous(path)) in said
    save_checkpoint(path, {"images": 3})
    path.write_bytes(b"x")
    assert load_checkpoint(path) == {"images": 1}


@pytest.mark.parametrize("bad", ["not finite", "another's", "flipped"])
def test_a_state_that_cannot_be_used_falls_back_or_is_refused(
    bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, where = tmp_path / "toy.ckpt", {"scratch": tmp_path, "runtime": runtime(tmp_path), "label": "toy"}
    fit(Toy(), batches, train=train(16), **where)
    state = load_checkpoint(path)
    assert state is not None
    whole = previous(path).read_bytes()
    if bad == "not finite":
        state["task"]["left.weight"][0, 0] = float("nan")
    elif bad == "another's":
        state = {"images": 16, "of": "something else"}
    for place in (path, previous(path)):
        save_checkpoint(place, state)
        if bad == "flipped":
            place.write_bytes(place.read_bytes()[:-1] + b"x")
    previous(previous(path)).unlink(missing_ok=True)
    with pytest.raises(TristyleError, match="does not fit|no whole training state is left"):
        fit(Toy(), batches, train=train(16), **where)
    if bad != "another's":
        previous(path).write_bytes(whole)
        capsys.readouterr()
        fit(Toy(), batches, train=train(16), **where)
        assert "Going on from" in capsys.readouterr().err
