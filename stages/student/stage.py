"""Stage three, first half: photo-style pairs -> a student small enough for a phone, scored on held-out people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.artifact import SCRATCH, Artifact
from stages.config import ConfigError, Train, TristyleError, number
from stages.engine import fit
from stages.faces.reader import load_reader, reader_file
from stages.io import (
    grid,
    load_images,
    load_masks,
    mask_tensor,
    save_network,
    to_tensor,
    to_uint8,
    write_image,
    write_jsonl,
)
from stages.networks.mobile import count_macs, count_parameters
from stages.runtime import Runtime
from stages.student.pix2pix import Pix2Pix, paintable, pair_batches
from stages.student.score import HeldOut, apply_student, held_out, score

SHEET = 8  # held-out people on the sheet


@dataclass(kw_only=True)
class StudentStage:
    """Pairs -> student.safetensors (EMA weights), its raw outputs on held-out photos, and scores.

    Args:
        student: what is trained and how (Pix2Pix).
        train: length and pace.
        target: name of the style among the data set's held-out twins and style pictures, for scoring only.
        seed: of the weights, the order and the flips.
    """

    reads: ClassVar[tuple[str, ...]] = ("data", "pair")
    student: Pix2Pix
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
        photo, style, mask = load_pairs(inputs["pair"], runtime.workers)
        people = held_out(inputs["data"], inputs["pair"], self.target, runtime.workers)
        shown = slice(0, 8)
        samples = {"photo": to_tensor(photo[shown]), "style": to_tensor(style[shown])}
        samples["mask"] = paintable(mask_tensor(mask[shown]))
        task = self.student.task(self.train, samples)
        batches = pair_batches(photo, style, mask, self.train.seed)
        fit(task, batches, train=self.train, scratch=out / SCRATCH, runtime=runtime, label="student")

        student = task.student_ema.eval()
        save_network(out / "student.safetensors", student)
        output = apply_student(student, people.photo, runtime.device)
        pictures = to_uint8(output)
        for name, picture in zip(people.ids, pictures, strict=True):
            write_image(out / "heldout" / f"{name}.png", picture)
        write_image(out / "preview" / "heldout.png", comparison(people, pictures))
        means, rows = score(output, people, reader)
        write_jsonl(out / "records.jsonl", records(people.ids, rows))
        size = photo.shape[1]
        return means | {
            "pairs": len(photo),
            "parameters": count_parameters(student),
            "macs_256": count_macs(student, 256),
            "size": size,
        }


def load_pairs(pair: Artifact, workers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kept pairs: photo, style uint8 [N, H, W, 3], head coverage uint8 [N, H, W].

    Raises:
        TristyleError: curation kept nothing.
    """
    ids = [row["id"] for row in pair.records() if row.get("kept", True)]
    if not ids:
        raise TristyleError(f"{pair.path}: no pair was kept, so that there is nothing to learn. Loosen pair.curate.")
    photo, style, mask = ([pair.path / kind / f"{name}.png" for name in ids] for kind in ("photo", "style", "mask"))
    return load_images(photo, workers), load_images(style, workers), load_masks(mask, workers)


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
