"""Whether other networks read rendered portraits like photographs: the table's columns, and what counts as right."""

from pathlib import Path

import numpy as np
import pytest

from stages.core.settings import TristyleError
from stages.evaluate import realism
from stages.evaluate.realism import Read, columns, truth


def test_a_row_counts_what_was_found() -> None:
    reads = [
        Read(True, 0.95, 30.0, 0.9, 32.0, 0.8, 0.1),
        Read(True, 0.5, 50.0, 0.2, 50.0, 0.6, 0.1),  # its mirror image is read as another sex
        Read(),
        Read(True, 1.0, 40.0, 0.3, 44.0, 0.2, 0.9),
    ]
    row, kept = columns("set", iter(reads))
    assert kept == reads and len(row) == len(realism.HEAD) - 1
    assert row == ["set", "4", "75.0%", "50.0%", "0.817", "0.800", "66.7%", "2.0", "32 40 48"]
    nothing, _ = columns("set", [Read()])
    assert len(nothing) == len(row) and nothing[2] == "0.0%"


def test_truth_is_of_adults_with_a_face() -> None:
    facts = [{"age": age, "sex": sex, "smile": smile} for age, sex, smile in (
        (30, "male", 0.8), (50, "female", 0.0), (40, "female", 0.9), (8, "male", 0.0), (60, "male", 0.0),
    )]  # fmt: skip
    reads = [Read(True, 1.0, age, male, age, male, smile) for age, male, smile in (
        (33.0, 0.9, 0.7), (49.0, 0.1, 0.6), (40.0, 0.8, 0.9), (60.0, 0.0, 1.0),
    )] + [Read()]  # fmt: skip
    said = truth(reads, facts)  # type: ignore[arg-type]
    assert said == "sex 66.7%; age off by 1.3 (mean +0.7, r 1.00); smile 1.00"
    assert truth(reads[3:], facts[3:]) == "-"  # type: ignore[arg-type]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TristyleError, match="holds no pictures. Name another folder by --data"):
        list(realism.photographs(tmp_path / "none", 3))


def test_the_networks_read_a_rendered_person(shared: Path, tmp_path: Path) -> None:
    weights = shared / "data" / "weights"
    if not (weights / "face_api" / "age_gender.onnx").is_file():
        pytest.skip("no weights of face-api")
    from tests.tools.portraits import portrait

    networks, person = realism.Networks(weights), portrait(3, 256)
    read = networks.read(person.image)
    assert read.found and read.score > realism.SURE and 10 < read.age < 90
    assert (read.male > 0.5) == (person.attributes["sex"] == "male")
    assert not networks.read(np.full((64, 64, 3), 128, np.uint8)).found
