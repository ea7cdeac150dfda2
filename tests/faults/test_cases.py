"""The 63 fault cases of `cases.csv`, each with the tests that hold it: all of them exist."""

import ast
import csv
from functools import lru_cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
with open(TESTS / "faults" / "cases.csv", newline="") as _file:
    CASES = list(csv.DictReader(_file))
NUMBERS = {"D": 24, "C": 15, "S": 7, "R": 12, "W": 5}  # data, checkpoints, untrusted files, runs, serving


@lru_cache
def names_in(file: str) -> frozenset[str]:
    """The tests that pytest collects in a file."""
    body = ast.parse((TESTS / file).read_text()).body
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def test_every_case_is_there_once() -> None:
    wanted = [f"{letter}{number + 1}" for letter, most in NUMBERS.items() for number in range(most)]
    assert [row["case"] for row in CASES] == wanted and all(row["fault"] for row in CASES)


@pytest.mark.parametrize("row", CASES, ids=lambda row: row["case"])
def test_every_case_has_its_tests(row: dict[str, str]) -> None:
    named = row["tests"].split()
    assert named
    for test in named:
        file, _, name = test.partition("::")
        assert name in names_in(file), test
