"""Pictures read as they are needed: the same bits, and nothing is decoded once per process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.images import write_image
from stages.core.shards import Pictures
from stages.datasets.pictures import edge_blurred
from stages.pair.batches import unpaired_batches
from stages.student.batches import pair_batches
from stages.training.loading import Allowance, Derived, Kept, read_ahead
from tests.tools.tiny_pairs import toys

COUNT, SIZE, PROCESSES, BATCH = 24, 32, 8, 8
PLENTY = 1 << 30
ONE = SIZE * SIZE * 3  # bytes of a picture


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded."""
    seen, read = Counter[str](), Pictures._read

    def counted(self: Pictures, number: int) -> np.ndarray:
        seen[str(self._name(number))] += 1
        return read(self, number)

    monkeypatch.setattr(Pictures, "_read", counted)
    return seen


def stored(folder: Path) -> list[Pictures]:
    """Photos, style pictures and masks on disk."""
    found = [Pictures(folder, colour) for colour in (True, True, False)]
    for kind, pictures, into in zip(("photo", "style", "mask"), toys(0, COUNT, SIZE), found, strict=True):
        for i, picture in enumerate(pictures):
            write_image(folder / kind / f"{i}.png", picture)
            into.add(f"{kind}/{i}.png")
    for pictures in found:
        assert pictures.shape[0] == COUNT  # the shape is read from the first picture
    return found


def batches(sets: list[Kept], kind: str, allowance: Allowance):  # type: ignore[no-untyped-def]
    """The pair stage's or the student's batches, with every kind of picture they may hold."""
    photo, style, mask = sets
    if kind == "student":
        return pair_batches(photo, style, mask, seed=3, blurred=True, allowance=allowance)
    blurred = Kept(Derived(edge_blurred, style), allowance)
    return unpaired_batches(photo, mask, style, mask, seed=3, blurred=blurred)


@pytest.mark.parametrize("kind", ["pair", "student"])
@pytest.mark.parametrize("most", [PLENTY, 40 * ONE, 0], ids=["all", "some", "none"])
def test_processes_decode_a_picture_as_often_as_it_is_shown_and_see_equal_bits(
    kind: str, most: int, tmp_path: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, on_disk = toys(0, COUNT, SIZE), stored(tmp_path)
    expected = batches([Kept(array, Allowance(PLENTY)) for array in arrays], kind, Allowance(PLENTY))
    for name, value in {"RANK": "0", "WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    decoded.clear()

    # each process has its own memory and asks for its own rows of three epochs
    for rank in range(PROCESSES):
        allowance = Allowance(most)
        own = batches([Kept(pictures, allowance) for pictures in on_disk], kind, allowance)
        rows = slice(rank, None, PROCESSES)
        for start in range(0, 3 * COUNT, BATCH):
            whole, part = expected(start, BATCH), own(start, BATCH, rows)
            assert all(torch.equal(part[name], value[rows]) for name, value in whole.items())

    views = {"pair": 2, "student": 1}[kind]  # the pair's photos and style pictures share their masks here
    colours = sum(count for name, count in decoded.items() if "mask" not in name)
    masks = sum(count for name, count in decoded.items() if "mask" in name)
    assert colours <= 2 * 3 * COUNT and masks <= views * 3 * COUNT
    assert (colours < 2 * 3 * COUNT) == (most > 0)


def test_the_allowance_is_of_all_processes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = toys(0, COUNT, SIZE)[0]
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    kept = Kept(pictures, Allowance(8 * ONE))
    for start in range(0, COUNT, 4):
        assert np.array_equal(kept[start : start + 4], pictures[start : start + 4])
    assert len(kept._kept) == 2 and kept.allowance.left == 0


def test_reading_ahead_changes_nothing_and_reads_one_batch_more() -> None:
    asked = []

    def plain(start: int, count: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
        asked.append((start, rows.start))
        return {"place": torch.arange(start, start + count)[rows]}

    ahead = read_ahead(plain)
    for start in (0, 4, 8, 20):  # the last one is out of turn, as after a resumption
        for part in range(2):
            assert torch.equal(ahead(start, 4, slice(part, None, 2))["place"], torch.arange(start, start + 4)[part::2])
    assert sorted(set(asked)) == sorted((start, part) for start in (0, 4, 8, 12, 20, 24) for part in range(2))
