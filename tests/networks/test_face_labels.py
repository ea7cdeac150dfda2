"""The two sets of face labels and the ways between them."""

from __future__ import annotations

import pytest

from stages.networks import face_labels as labels


def test_names_have_their_published_numbers() -> None:
    """The order is part of every weights file: these are CelebAMask-HQ's and the shipped reader's."""
    assert [labels.PARSER[name] for name in ("skin", "l_eye", "hair", "cloth")] == [1, 4, 13, 18]
    assert [labels.READER[name] for name in ("skin", "hair", "glasses", "hat", "beard")] == [1, 6, 10, 11, 12]
    assert tuple(labels.PARSER_HEAD) == tuple(range(1, 16)) and labels.READER_HEAD == (1, 2, 3, 4, 5, 6, 7, 10, 11, 12)


def test_mirroring_swaps_sides_and_nothing_else() -> None:
    swapped = {labels.PARSER_LABELS[a]: labels.PARSER_LABELS[b] for a, b in enumerate(labels.PARSER_MIRROR)}
    assert all(swapped[swapped[name]] == name for name in swapped)
    assert {name for name in swapped if swapped[name] != name} == {
        f"{side}_{part}" for side in "lr" for part in ("eye", "brow", "ear")
    }
    assert all(labels.PARSER_MIRROR[left] == left + 1 for left in labels.PARSER_SIDED)


@pytest.mark.parametrize("table", [labels.READER_TO_PARSER, labels.BISENET_TO_PARSER])
def test_heads_stay_heads_whoever_parses(table: tuple[int, ...]) -> None:
    own = labels.READER_HEAD if len(table) == len(labels.READER_LABELS) else None
    if own is None:
        assert sorted(table) == list(range(len(labels.PARSER_LABELS)))
    else:
        assert {label for label, target in enumerate(table) if target in labels.PARSER_HEAD} == set(own)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError):
        labels.numbers(labels.READER_LABELS, "moustache")
