"""The watch over a training: what is broken goes back to the last good state, by name, and ends after three times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.core.files import read_jsonl
from stages.core.settings import Train, TristyleError
from stages.training.checkpoint import load_checkpoint
from stages.training.fit import Update, fit
from stages.training.losses import LOGISTIC_CHANCE, discriminator_logistic
from tests.training.test_fit import Toy, batches, runtime


class Poisoned(Toy):
    """Loses its mind at an update so many times."""

    def __init__(self, value: float, times: int = 1, at: int = 300) -> None:
        super().__init__()
        self.value, self.times, self.at = value, times, at

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        terms = super().losses(phase, batch, update)
        if phase == "right" and update.images >= self.at and self.times:
            self.times -= 1
            terms["size"] = terms["size"] * 0 + self.value
        return terms


class Named:
    """Batches that know the names of their pictures."""

    def __call__(self, start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        return batches(start, count, rows)

    def names(self, start: int, count: int) -> list[str]:
        return [f"picture{start + place}" for place in range(count)]


LENGTH = Train(images=480, batch=4, lr=0.001, checkpoint_images=48)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_a_broken_update_goes_back_and_on(value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = Poisoned(value)
    fit(toy, Named(), train=LENGTH, scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    said = capsys.readouterr().err
    assert "the batch was picture300, picture301, picture302, picture303." in said
    assert "back to the state after 288 images, on with other batches (1 of 3)" in said
    state = load_checkpoint(tmp_path / "toy.ckpt")
    assert state is not None and state["images"] == 480 and state["watch"][2] == 1
    rows = [row["images"] for row in read_jsonl(tmp_path / "log.jsonl") if row["phase"] == "toy/right"]
    assert rows == sorted(set(rows)) and rows[-1] == 480


def test_after_three_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TristyleError, match="Lower the learning rate"):
        fit(Poisoned(float("nan"), 99), batches, train=LENGTH, scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    said = capsys.readouterr().err
    assert "(3 of 3)" in said and said.count("the batch was images") == 4
    state = load_checkpoint(tmp_path / "toy.ckpt")
    assert state is not None and state["images"] == 288


def test_a_collapse_goes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Collapsing(Toy):
        asked = 0

        def sample_spread(self) -> float:
            self.asked += 1
            return 0.001 if self.asked == 5 else 0.5

    fit(Collapsing(), batches, train=LENGTH, scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    said = capsys.readouterr().err
    assert "hardly differ any more (collapse)" in said and "back to the state after 192 images" in said


def test_a_discriminator_that_has_won_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Won(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.phases[1].name = "discriminator"

        def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
            terms = super().losses("right" if phase == "discriminator" else phase, batch, update)
            return {"score": terms["score"].abs() * 1e-9} if phase == "discriminator" else terms

    torch.manual_seed(0)
    fit(Won(), batches, train=LENGTH, scratch=tmp_path, runtime=runtime(tmp_path), label="toy")
    assert capsys.readouterr().err.count("the discriminator has won") == 1


class Contest(Toy):
    """Its discriminator's loss follows from the images seen and the rollbacks so far, as a share of chance."""

    def __init__(self, share: Callable[[int, int], float], chance: float | None = LOGISTIC_CHANCE) -> None:
        super().__init__()
        self.phases[1].name, self.phases[1].chance = "discriminator", chance
        self.share, self.seen, self.rollbacks = share, 0, 0

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        terms = super().losses("right" if phase == "discriminator" else phase, batch, update)
        if phase != "discriminator":
            return terms
        self.rollbacks += update.images < self.seen
        self.seen = update.images
        return {"real": terms["score"] * 0 + self.share(update.images, self.rollbacks) * LOGISTIC_CHANCE}


def watched(task: Toy, folder: Path) -> None:
    fit(task, Named(), train=LENGTH, scratch=folder, runtime=runtime(folder), label="toy")


def test_the_chance_of_a_logistic_discriminator() -> None:
    blind = torch.zeros(4)
    loss = discriminator_logistic(blind, real=True).mean() + discriminator_logistic(blind, real=False).mean()
    assert float(loss) == pytest.approx(LOGISTIC_CHANCE)


def test_an_overwhelmed_discriminator_goes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Contest(lambda images, rollbacks: 1.2 if images >= 160 and not rollbacks else 0.6)
    watched(task, tmp_path)
    said = capsys.readouterr().err
    assert "the discriminator is overwhelmed (its loss is 1.66; a blind one's is 1.39); the batch was picture" in said
    assert "back to the state after 192 images" in said and "(1 of 3)" in said and task.rollbacks == 1
    state = load_checkpoint(tmp_path / "toy.ckpt")
    assert state is not None and state["images"] == 480 and state["losing"] == {"discriminator": 0}


def test_one_that_stays_overwhelmed_ends_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TristyleError, match="overwhelmed .* Lower the learning rate"):
        watched(Contest(lambda images, rollbacks: 1.2 if images >= 160 else 0.6), tmp_path)
    assert "(3 of 3)" in capsys.readouterr().err


def test_a_kill_changes_nothing_of_that_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Contest(lambda images, rollbacks: 1.2 if images >= 160 else 0.6)
    task.stop_after = 196  # four lines on; ten make the fault
    with pytest.raises(KeyboardInterrupt):
        watched(task, tmp_path)
    task.stop_after = None
    with pytest.raises(TristyleError):
        watched(task, tmp_path)
    whole = Contest(task.share)
    (tmp_path / "whole").mkdir()
    with pytest.raises(TristyleError):
        watched(whole, tmp_path / "whole")
    first = [line for line in capsys.readouterr().err.splitlines() if "overwhelmed" in line]
    assert len(first) == 8 and first[:4] == first[4:]


@pytest.mark.parametrize(
    ("share", "chance"),
    [
        (lambda images, _: 1.05 if images >= 160 else 0.6, LOGISTIC_CHANCE),  # the generator is perfect
        (lambda images, _: 3.0 if images < 200 else 0.6, LOGISTIC_CHANCE),  # it has not found its feet yet
        (lambda images, _: 2.0 if images % 32 else 0.6, LOGISTIC_CHANCE),  # now and then it loses
        (
            lambda images, _: 0.0 if images < 240 else 1.5,
            None,
        ),  # a warm-up, and another loss
    ],
)
def test_sound_discriminators_raise_no_alarm(
    share: Callable[[int, int], float], chance: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(Contest(share, chance), tmp_path)
    said = capsys.readouterr().err
    assert "discriminator" not in said and "back to the state" not in said
