"""Stage data, embedded: paints a data set of people who do not exist, with exact ground truth.

Photos, their masks, parsing labels and landmarks; style pictures of *other* people; and held-out people, photo and
true stylised twin, for measuring only. Everything is a function of `seed`, so the artifact can be made again anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stages.core.files import write_bytes, write_jsonl
from stages.core.images import write_image
from stages.core.mark import DRAWN
from stages.core.settings import ConfigError, choice, image_size, number
from stages.core.stage import Stage
from stages.core.workers import in_order
from stages.datasets.painted.paint import STYLES
from stages.datasets.painted.people import PaintedPeople
from stages.datasets.people import MOST_PEOPLE, person_of
from stages.datasets.pictures import mask_place

if TYPE_CHECKING:
    from stages.core.artifact import Artifact
    from stages.core.runtime import Runtime

CHUNK = 64  # pictures a worker paints before it reports


@dataclass(frozen=True)
class Job:
    """A run of pictures of one split, to paint in one go."""

    split: str  # train | heldout | style | heldout_style
    style: str | None
    start: int
    stop: int


@dataclass(kw_only=True)
class PaintedData(Stage):
    """Nothing -> data artifact of painted portraits (photo, style and held-out pictures with ground truth).

    Args:
        size: side of the pictures, px (a power of two, 32 to 512).
        count: training photos, one a person.
        styles: names of the styles painted (comic, clay, sketch).
        style_count: training pictures of each style, of people who are in no photo.
        heldout: people kept for measuring: photo, mask and the true twin in every style.
        heldout_style: pictures of each style kept as the real side of KID.
        seed: another seed paints other people.

    Raises:
        ConfigError: a value out of its range, or an unknown style.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    size: int = 64
    count: int = 3000
    styles: list[str] = field(default_factory=lambda: ["comic"])
    style_count: int = 1500
    heldout: int = 256
    heldout_style: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        image_size("size", self.size, 32, 512)
        for key in ("count", "style_count", "heldout", "heldout_style"):
            number(key, getattr(self, key), 1, MOST_PEOPLE, integer=True)
        number("seed", self.seed, 0, integer=True)
        if not isinstance(self.styles, list) or not self.styles:
            raise ConfigError(
                "styles", f"{self.styles!r} is not a list of styles", f"Say styles=[{','.join(STYLES[:2])}]"
            )
        for name in self.styles:
            choice("styles", name, STYLES)
        if len(set(self.styles)) != len(self.styles):
            raise ConfigError("styles", f"{list(self.styles)} names a style twice", "Name each style once")

    def files(self) -> dict[str, Path]:
        """No file is read."""
        return {}

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, float]:
        """Paint everything under `out`; returns the counts."""
        jobs = list(self._jobs())
        landmarks: dict[str, list[np.ndarray]] = {"train": [], "heldout": []}
        with runtime.track.progress("data", sum(job.stop - job.start for job in jobs)) as bar:
            done = 0
            work = partial(paint_job, asdict(self), out=out)
            painted = in_order(work, jobs, min(runtime.workers, len(jobs)), processes=True)
            for job, points in zip(jobs, painted, strict=True):
                if job.split in landmarks:
                    landmarks[job.split].append(points)
                done += job.stop - job.start
                bar.update(done)

        for split, path in (("train", out / "landmarks.npz"), ("heldout", out / "heldout" / "landmarks.npz")):
            _write_landmarks(path, np.concatenate(landmarks[split]))
        write_jsonl(out / "records.jsonl", [record for job in jobs for record in self._records(job)])

        pictures = self.count + len(self.styles) * (self.style_count + self.heldout_style) + self.heldout
        return {
            "count": float(self.count),
            "style_count": float(self.style_count * len(self.styles)),
            "heldout": float(self.heldout),
            "heldout_style": float(self.heldout_style * len(self.styles)),
            "pictures": float(pictures),
            "size": float(self.size),
        }

    def _jobs(self) -> Iterator[Job]:
        plan: list[tuple[str, str | None, int]] = [("train", None, self.count), ("heldout", None, self.heldout)]
        for name in self.styles:
            plan += [("style", name, self.style_count), ("heldout_style", name, self.heldout_style)]
        for split, style, total in plan:
            for start in range(0, total, CHUNK):
                yield Job(split, style, start, min(start + CHUNK, total))

    def _records(self, job: Job) -> Iterator[dict[str, Any]]:
        folder, people = place(job.split, job.style), PaintedPeople(self.seed)
        for index in range(job.start, job.stop):
            person = person_of(job.split, index)
            yield {
                "id": f"{index:06d}",
                "split": job.split,
                "person": person,
                "photo": f"{folder}/{index:06d}.png",
                "mask": f"{mask_place(folder)}/{index:06d}.png",
                "mask_from": "painter",
                "style": job.style,
                "attributes": people.attributes(person, 0),
                "source": f"painter seed {self.seed}",
                "licence": "Apache-2.0",
                "licence_class": "open",
            }


def place(split: str, style: str | None) -> str:
    """Folder of a split's pictures within the artifact."""
    folder = "photo" if style is None else f"style/{style}"
    return f"heldout/{folder}" if split.startswith("heldout") else folder


def paint_job(settings: dict[str, Any], job: Job, out: Path) -> np.ndarray:
    """Paint one job's files under `out`; its landmarks [N, 68, 2] float32, pixels."""
    data, points = PaintedData(**settings), []
    people = PaintedPeople(data.seed)
    folder = out / place(job.split, job.style)
    masks = out / mask_place(place(job.split, job.style))

    for index in range(job.start, job.stop):
        person, name = person_of(job.split, index), f"{index:06d}.png"
        if job.style is None:
            picture = people.photo(person, 0, data.size)
        else:
            picture = people.styled(person, 0, job.style, data.size)
        write_image(folder / name, picture.image, DRAWN)
        write_image(masks / name, picture.mask)
        points.append(picture.landmarks)

        if job.style is None:
            parsing = "heldout/parsing" if job.split == "heldout" else "parsing"
            write_image(out / parsing / name, picture.parsing)
        if job.split == "heldout":
            for style in data.styles:
                twin = people.twin(person, 0, style, data.size)
                write_image(out / "heldout" / "twin" / style / name, twin.image, DRAWN)

    return np.stack(points).astype(np.float32)


def _write_landmarks(path: Path, points: np.ndarray) -> None:
    """`photo`: float32 [N, 68, 2]. Written by hand with a fixed date, so that the same points are the same bytes."""
    import io as memory
    import zipfile

    inner, outer = memory.BytesIO(), memory.BytesIO()
    np.lib.format.write_array(inner, points, allow_pickle=False)
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("photo.npy"), inner.getvalue())
    write_bytes(path, outer.getvalue())
