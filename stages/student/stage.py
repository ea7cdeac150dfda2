"""Stage three, first half: photo-style pairs -> a student small enough for a phone, scored on held-out people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from stages.core.artifact import SCRATCH, Artifact
from stages.core.files import write_jsonl
from stages.core.images import grid, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError, number
from stages.core.shards import Pictures, pictures
from stages.core.tensors import to_tensor, to_uint8
from stages.core.weights import save_network
from stages.networks.face_reader import load_reader, reader_file
from stages.networks.mobile import MobileStudent, count_macs, count_parameters
from stages.student.batches import pair_batches, read_ahead
from stages.student.pix2pix import Pix2Pix
from stages.student.score import HeldOut, apply_student, held_out, score, steadiness
from stages.training.fit import fit

SHEET = 8  # held-out people on the sheet
IN_MEMORY = 2 << 30  # bytes of pairs that are held in memory; more are read as they are needed


@dataclass(kw_only=True)
class StudentStage:
    """Pairs -> student.safetensors (EMA weights), its raw outputs on held-out photos, and scores.

    Args:
        model: what is trained and how (Pix2Pix).
        train: length and pace.
        target: name of the style among the data set's held-out twins and style pictures, for scoring only.
        seed: of the weights, the order and the flips.
    """

    reads: ClassVar[tuple[str, ...]] = ("data", "pair")
    model: Pix2Pix
    train: Train
    target: str
    seed: int = 0

    def __post_init__(self) -> None:
        number("seed", self.seed, 0, integer=True)
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is no style", "Name one of the data set's styles, e.g. comic")

    def files(self) -> dict[str, Path]:
        """The face reader, which scores."""
        return reader_file()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, write and score. Raises TristyleError when there is no pair or nobody held out."""
        reader = load_reader()  # before the training: it may be missing
        pairs = load_pairs(inputs["pair"], runtime.workers)
        people = held_out(inputs["data"], inputs["pair"], self.target, runtime.workers)
        student = self._train(pairs, out, runtime)
        save_network(out / "student.safetensors", student)
        output = apply_student(student, people.photo, runtime.device)
        pictures = to_uint8(output)
        for name, picture in zip(people.ids, pictures, strict=True):
            write_image(out / "heldout" / f"{name}.png", picture)
        write_image(out / "preview" / "heldout.png", comparison(people, pictures))
        means, rows = score(output, people, reader)
        means |= steadiness(student, pictures.shape[1], runtime.device)
        write_jsonl(out / "records.jsonl", records(people.ids, rows))
        return means | {
            "pairs": len(pairs[0]),
            "parameters": count_parameters(student),
            "macs_256": count_macs(student, 256),
            "size": pairs[0].shape[1],
        }

    def join(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> None:
        """The training alone, which writes nothing: for all processes of a torchrun but the first."""
        self._train(load_pairs(inputs["pair"], runtime.workers), out, runtime)

    def _train(self, pairs: list[np.ndarray] | list[Pictures], out: Path, runtime: Runtime) -> MobileStudent:
        photo, style, mask = cast("list[np.ndarray]", pairs)  # what is indexed like an array will do
        shown = slice(0, 8)
        task = self.model.task(self.train, {"photo": to_tensor(photo[shown]), "style": to_tensor(style[shown])})
        batches = pair_batches(photo, style, mask, self.train.seed, blurred=self.model.weights.edge_promotion > 0)
        # a GPU must not wait for the next batch, nor anybody for a disk
        batches = batches if isinstance(photo, np.ndarray) and runtime.device == "cpu" else read_ahead(batches)
        fit(task, batches, train=self.train, scratch=out / SCRATCH, runtime=runtime, label="student")
        return task.student_ema.eval()


def load_pairs(pair: Artifact, workers: int, most: int = IN_MEMORY) -> list[np.ndarray] | list[Pictures]:
    """The kept pairs, from files or shards alike: photo, style uint8 [N, H, W, 3], head coverage uint8 [N, H, W].

    Arrays where they fit into `most` bytes; else what is indexed like an array and read then.

    Raises:
        TristyleError: curation kept nothing; a picture is missing, damaged, or of another size.
    """
    found = pictures(pair.path, ("photo", "style", "mask"), workers)
    if not len(found[0]):
        raise TristyleError(f"{pair.path}: no pair was kept, so that there is nothing to learn. Loosen pair.curate.")
    if sum(kind.nbytes for kind in found) > most:
        return found
    return [kind[:] for kind in found]


def records(ids: list[str], rows: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One line a held-out picture; a measure that is undefined for it (no background) is null."""
    return [
        {"id": name}
        | {key: round(float(values[i]), 5) if np.isfinite(values[i]) else None for key, values in rows.items()}
        for i, name in enumerate(ids)
    ]


def comparison(people: HeldOut, pictures: np.ndarray) -> np.ndarray:
    """Columns of photo, translator's picture, student's picture and true twin, as far as there are: uint8 [H, W, 3]."""
    rows = [people.photo, people.teacher, pictures, people.twin]
    shown = [row[:SHEET] for row in rows if row is not None]
    return grid(np.concatenate(shown), columns=len(shown[0]))
