"""Every training's batches: some rows of a batch are those of the whole one, and no other picture is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stages.core.tensors import to_tensor
from stages.pair.batches import unpaired_batches
from stages.recipes.face_parser import Labelled, mixed_batches
from stages.student.batches import pair_batches
from stages.style.inversion.e4e import photo_batches
from stages.style.stage import Images
from stages.training.fit import Batches
from stages.training.loading import read_ahead

COUNT, START, PROCESSES = 16, 32, 8


class Counted:
    """Pictures that count how many of them were asked for, as a stand-in for files to decode.

    Args:
        shape: of the whole array.
        seed: of its bytes.
    """

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        self.shape, self.ndim, self.decoded = shape, len(shape), 0

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, which: Any) -> np.ndarray:
        found = self.array[which]
        self.decoded += len(found)
        return found


def pictures(seed: int) -> Any:
    return Counted((24, 8, 8, 3), seed)


def masks(seed: int) -> Any:
    return Counted((24, 8, 8), seed)


def labelled(seed: int) -> Labelled:
    images = to_tensor(pictures(seed).array)
    return Labelled(images, torch.arange(len(images)))


def style() -> tuple[Batches, list[Any]]:
    images = pictures(0)
    return Images(images, 3, True), [images]


def encoder() -> tuple[Batches, list[Any]]:
    images = pictures(0)
    return photo_batches(images, 3, True), [images]


def pair() -> tuple[Batches, list[Any]]:
    photo, style, source, blurred = (pictures(seed) for seed in range(4))
    photo_mask, style_mask = masks(4), masks(5)
    made = unpaired_batches(photo, photo_mask, style, style_mask, 3, source, blurred)
    return made, [photo, style, source, blurred, photo_mask, style_mask]


def student() -> tuple[Batches, list[Any]]:
    photo, style, mask = pictures(0), pictures(1), masks(2)
    return pair_batches(photo, style, mask, 3, blurred=False), [photo, style, mask]


def student_blurred() -> tuple[Batches, list[Any]]:
    photo, style, mask = pictures(0), pictures(1), masks(2)
    return pair_batches(photo, style, mask, 3, blurred=True), [photo, mask]


def ahead() -> tuple[Batches, list[Any]]:
    return read_ahead(student()[0]), []


def mixed() -> tuple[Batches, list[Any]]:
    return mixed_batches(labelled(0).batches(3), labelled(1).batches(4)), []


MAKERS: list[Callable[[], tuple[Batches, list[Any]]]] = [style, encoder, pair, student, student_blurred, ahead, mixed]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("rows", [slice(1, None, 4), slice(0, None, 1), slice(3, 11), slice(0, 2), slice(12, 16, 3)])
def test_rows_are_those_of_the_whole_batch(make: Callable[[], tuple[Batches, list[Any]]], rows: slice) -> None:
    batches, _ = make()
    whole, some = batches(START, COUNT), batches(START, COUNT, rows)
    assert whole.keys() == some.keys()
    for name, value in whole.items():
        assert len(value) == COUNT and torch.equal(value[rows], some[name]), name


@pytest.mark.parametrize("make", [style, encoder, pair, student, student_blurred])
def test_on_eight_processes_each_decodes_an_eighth(make: Callable[[], tuple[Batches, list[Any]]]) -> None:
    batches, sources = make()
    for process in range(PROCESSES):
        for source in sources:
            source.decoded = 0
        batches(START, COUNT, slice(process, None, PROCESSES))
        assert [source.decoded for source in sources] == [COUNT // PROCESSES] * len(sources)


def test_parts_of_a_batch_are_read_ahead_one_by_one() -> None:
    plain, asked = student()[0], []

    def spied(start: int, count: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
        asked.append((start, rows.start))
        return plain(start, count, rows)

    batches = read_ahead(spied)
    for start in (0, 8, 16):
        for part in range(2):
            rows = slice(part, None, 2)
            found = batches(start, 8, rows)
            assert all(torch.equal(value, found[name]) for name, value in plain(start, 8, rows).items())
    made = {(start, part) for start in (0, 8, 16) for part in (0, 1)}
    assert made <= set(asked) and len(asked) == len(set(asked))  # none is made twice
