"""The watch over a training: what is broken goes back to the last good state, by name, and ends after three times."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.core.files import read_jsonl
from stages.core.settings import Train, TristyleError
from stages.training.checkpoint import load_checkpoint
from stages.training.fit import Update, fit
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
