"""Stage three, first half: photo-style pairs -> a student small enough for a phone, scored on held-out people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from stages.core.artifact import PICTURES, SCRATCH, Artifact, provenance
from stages.core.files import write_json, write_jsonl
from stages.core.images import grid, write_image
from stages.core.mark import TRAINED
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, check_methods
from stages.core.stage import Stage
from stages.core.tensors import to_uint8
from stages.core.weights import check_savable, save_network
from stages.metrics.heldout import HeldOut, read_heldout
from stages.networks.face_reader import Reader, load_reader, reader_file
from stages.networks.mobile import count_macs, count_parameters
from stages.student.score import apply_student, read_teacher, score, steadiness
from stages.student.student import Student, StudentTraining
from stages.training.fit import fit

SHEET = 8  # held-out people on the sheet


@dataclass(kw_only=True)
class StudentStage(Stage):
    """What a student learns from -> student.safetensors, its raw outputs on held-out photos, and scores.

    Args:
        model: what is trained and how.
        train: length, pace and seed.
        target: name of the style among the data set's held-out twins and style pictures, for scoring only.
    """

    model: Student
    train: Train
    target: str

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is not a style", "Name a style of the data set, e.g. comic")
        check_methods("model", self.model, Student)

    @property
    def reads(self) -> tuple[str, ...]:
        """`data`, which scores the student, and what the student learns from."""
        return ("data", *(kind for kind in self.model.reads if kind != "data"))

    def files(self) -> dict[str, Path]:
        """The face reader, which scores, and the student's own files."""
        return reader_file() | self.model.files()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, write and score; returns the artifact's metrics.

        Raises:
            TristyleError: there is nothing to learn from, or nobody is held out.
        """
        # whatever may be missing is opened before the training
        training = self.model.training(inputs, self.train, runtime)
        finish = Finish.of(inputs, self.target, runtime, training.further)
        student = self._fit(training, out, runtime)
        return finish(student, out) | training.metrics | training.finish(out) | {"size": training.size}

    def join(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> None:
        """The training alone, which writes nothing: for all processes of a torchrun but the first."""
        self._fit(self.model.training(inputs, self.train, runtime), out, runtime)

    def _fit(self, training: StudentTraining, out: Path, runtime: Runtime) -> nn.Module:
        scratch = out / SCRATCH
        check_savable(self.model.network(training.task), "student.model")
        fit(training.task, training.batches, train=self.train, scratch=scratch, runtime=runtime, label="student")
        return self.model.network(training.task)


@dataclass
class Finish:
    """What follows when a student is there: weights, pictures of the held-out people, and scores.

    Attributes:
        people: who are held out.
        teacher: the translator's pictures of them, uint8 [N, H, W, 3]; None without a translator.
        reader: the face reader, on the CPU.
        device: where the student computes.
        data: the stage's data set.
        further: what is said of other pictures that the student learnt from, see `said_of`.
    """

    people: HeldOut
    teacher: np.ndarray | None
    reader: Reader
    device: str
    data: Artifact
    further: dict[str, list[str]]

    @classmethod
    def of(cls, inputs: dict[str, Artifact], target: str, runtime: Runtime, further: dict[str, list[str]]) -> Finish:
        """Open what it needs; `further` is said of pictures beside the data set's, see `StudentTraining`.

        Raises:
            TristyleError: nobody is held out.
        """
        people = read_heldout(inputs["data"], target, runtime.workers)
        teacher = read_teacher(inputs["pair"], people, runtime.workers) if "pair" in inputs else None
        return cls(people, teacher, load_reader(), runtime.device, inputs["data"], further)

    def __call__(self, student: nn.Module, out: Path) -> dict[str, Any]:
        """Write and score a student; its metrics."""
        save_network(out / "student.safetensors", student, notes=provenance(self.data, self.further))
        if self.further:
            write_json(out / PICTURES, self.further)
        output = apply_student(student, self.people.photo, self.device)
        pictures = to_uint8(output)
        for name, picture in zip(self.people.ids, pictures, strict=True):
            write_image(out / "heldout" / f"{name}.png", picture, TRAINED)
        write_image(out / "preview" / "heldout.png", comparison(self.people, self.teacher, pictures), TRAINED)

        means, rows = score(output, self.people, self.teacher, self.reader)
        means |= steadiness(student, pictures.shape[1], self.device)
        write_jsonl(out / "records.jsonl", records(self.people.ids, rows))
        side = getattr(student, "side", 256)  # the only one that it takes, or free
        return means | {"parameters": count_parameters(student), f"macs_{side}": count_macs(student, side)}


def records(ids: list[str], rows: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One line a held-out picture; a measure that is undefined for it (no background) is null."""
    return [
        {"id": name}
        | {key: round(float(values[i]), 5) if np.isfinite(values[i]) else None for key, values in rows.items()}
        for i, name in enumerate(ids)
    ]


def comparison(people: HeldOut, teacher: np.ndarray | None, pictures: np.ndarray) -> np.ndarray:
    """A sheet of the first held-out people, one a column.

    Args:
        people: the held-out people.
        teacher: the translator's pictures of them, uint8 [N, H, W, 3]; None without a translator.
        pictures: the student's, uint8 [N, H, W, 3].

    Returns:
        uint8 [H, W, 3]; rows of photo, translator's picture, student's picture and true twin, as far as there are.
    """
    rows = [people.photo, teacher, pictures, people.twin]
    shown = [row[:SHEET] for row in rows if row is not None]
    return grid(np.concatenate(shown), columns=len(shown[0]))
