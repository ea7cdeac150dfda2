"""Stage data, rendered: a data set of three-dimensional people who do not exist, with exact ground truth.

Photos, their masks, parsing labels and landmarks; style pictures of *other* people; and held-out people, photo and
true stylised twin, for measuring only. Everything is a function of `seed`, so the artifact can be made again anywhere.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stages.core.artifact import SCRATCH
from stages.core.files import write_bytes, write_jsonl
from stages.core.images import write_image
from stages.core.mark import DRAWN
from stages.core.settings import ConfigError, choice, image_size, number
from stages.core.stage import Stage
from stages.core.workers import start_worker
from stages.datasets.people import MOST_PEOPLE, person_of
from stages.datasets.pictures import mask_place
from stages.datasets.rendered.edits import REFRAMED, draw_edit, edited
from stages.datasets.rendered.person import attributes, sample_person, sample_view
from stages.datasets.rendered.styles import STYLES

if TYPE_CHECKING:
    from stages.core.artifact import Artifact
    from stages.core.runtime import Runtime

EDIT_STREAM = 3  # of the random numbers of edits
CHUNK = 32  # pictures a worker renders before it reports; a kill loses no more


@dataclass(frozen=True)
class Batch:
    """A run of pictures of one split, to render in one go."""

    split: str  # train | heldout | style | heldout_style
    style: str | None
    start: int
    stop: int


@dataclass(kw_only=True)
class RenderedData(Stage):
    """Nothing -> data artifact of rendered portraits (photo, style and held-out pictures with ground truth).

    Args:
        size: side of the pictures, px (a power of two, 32 to 512).
        count: training photos.
        views: photos of each training person, in other poses, expressions, lights and places.
        styles: names of the styles drawn (comic, anime, figurine, watercolour).
        style_count: training pictures of each style, of people who are in no photo.
        heldout: people kept for measuring: photo, mask and the true twin in every style.
        twins: who has true twins: `heldout` people alone, `all` people in every style, or the training people in the
            style of this name. `all` and a name write masks of where the twins are painted, too.
        edits: render every photo once more with one attribute changed: the truth of `style=expanded`.
        heldout_style: pictures of each style kept as the real side of KID.
        seed: another seed renders other people.

    Raises:
        ConfigError: a value out of its range, or an unknown style.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    size: int = 64
    count: int = 2400
    views: int = 1
    styles: list[str] = field(default_factory=lambda: ["comic"])
    style_count: int = 1200
    heldout: int = 256
    heldout_style: int = 600
    twins: str = "heldout"
    edits: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        image_size("size", self.size, 32, 512)
        for key in ("count", "style_count", "heldout", "heldout_style"):
            number(key, getattr(self, key), 1, MOST_PEOPLE, integer=True)
        number("views", self.views, 1, 1000, integer=True)
        number("seed", self.seed, 0, integer=True)

        # styles, and what is rendered beside the photos
        if not isinstance(self.styles, list) or not self.styles:
            raise ConfigError(
                "styles", f"{self.styles!r} is not a list of styles", f"Say styles=[{','.join(STYLES[:2])}]"
            )
        for name in self.styles:
            choice("styles", name, STYLES)
        if len(set(self.styles)) != len(self.styles):
            raise ConfigError("styles", f"{list(self.styles)} names a style twice", "Name each style once")
        choice("twins", self.twins, ("heldout", "all", *self.styles))
        if not isinstance(self.edits, bool):
            raise ConfigError("edits", f"{self.edits!r} is not true or false", "Write true or false")

    def files(self) -> dict[str, Path]:
        """No file is read but the pack that ships with the package."""
        return {}

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, float]:
        """Render everything under `out`; returns the counts."""
        batches = list(self._batches())
        landmarks: dict[str, dict[str, list[np.ndarray]]] = {"train": {}, "heldout": {}}

        with runtime.track.progress("data", sum(batch.stop - batch.start for batch in batches)) as bar:
            done = 0
            for batch, points in zip(batches, _rendered(self, batches, out, runtime.workers), strict=True):
                kept = landmarks["heldout" if batch.split.startswith("heldout") else "train"]
                kept.setdefault("photo" if batch.style is None else f"style/{batch.style}", []).append(points)
                done += batch.stop - batch.start
                bar.update(done)

        for split, path in (("train", out / "landmarks.npz"), ("heldout", out / "heldout" / "landmarks.npz")):
            _write_landmarks(path, {kind: np.concatenate(points) for kind, points in landmarks[split].items()})
        write_jsonl(out / "records.jsonl", [record for batch in batches for record in self._records(batch)])
        pictures = self.count + len(self.styles) * (self.style_count + self.heldout_style) + self.heldout
        return {
            "count": float(self.count),
            "style_count": float(self.style_count * len(self.styles)),
            "heldout": float(self.heldout),
            "heldout_style": float(self.heldout_style * len(self.styles)),
            "pictures": float(pictures),
            "size": float(self.size),
        }

    def who(self, split: str, index: int) -> tuple[int, int]:
        """The person and the view of picture `index` of a split: splits never share a person, styles share theirs."""
        views = self.views if split == "train" else 1
        return person_of(split, index // views), index % views

    def twin_styles(self, split: str) -> list[str]:
        """The styles in which a split's people have twins."""
        named = self.styles if self.twins == "all" else [name for name in self.styles if name == self.twins]
        return {"train": named, "heldout": self.styles}.get(split, [])

    def _batches(self) -> Iterator[Batch]:
        plan: list[tuple[str, str | None, int]] = [("train", None, self.count), ("heldout", None, self.heldout)]
        for name in self.styles:
            plan += [("style", name, self.style_count), ("heldout_style", name, self.heldout_style)]
        for split, style, total in plan:
            for start in range(0, total, CHUNK):
                yield Batch(split, style, start, min(start + CHUNK, total))

    def _records(self, batch: Batch) -> Iterator[dict[str, Any]]:
        folder = place(batch.split, batch.style)
        for index in range(batch.start, batch.stop):
            # one line a picture
            number_, view = self.who(batch.split, index)
            row = {
                "id": f"{index:06d}",
                "split": batch.split,
                "person": number_,
                "view": view,
                "photo": f"{folder}/{index:06d}.png",
                "mask": f"{mask_place(folder)}/{index:06d}.png",
                "mask_from": "renderer",
                "style": batch.style,
                "attributes": attributes(sample_person(number_, self.seed), sample_view(number_, view, self.seed)),
                "source": f"renderer seed {self.seed}",
                "licence": "CC0-1.0",
                "licence_class": "open",
            }
            twins = self.twin_styles(batch.split) if self.twins != "heldout" else []
            row |= {"twins": {name: self._twin(batch.split, name, index) for name in twins}} if twins else {}
            if self.edits and batch.style is None:
                name, value = self.edit_of(number_, view)
                file = f"{edit_place(batch.split)}/{index:06d}.png"
                row["edit"] = {"attribute": name, "value": value, "photo": file}
            yield row

    def edit_of(self, person: int, view: int) -> tuple[str, float | str]:
        """The attribute that the edit of a photo changes, and what it becomes."""
        random = np.random.default_rng([self.seed, person, view, EDIT_STREAM])
        return draw_edit(sample_person(person, self.seed), sample_view(person, view, self.seed), random)

    def _twin(self, split: str, style: str, index: int) -> dict[str, str]:
        """Files of a twin: the picture, where it is painted, and what the people of photo and twin cover."""
        kinds = {"photo": "twin", "mask": "twin_mask", "cover": "twin_cover"}
        return {name: f"{twin_place(split, style, kind)}/{index:06d}.png" for name, kind in kinds.items()}


def place(split: str, style: str | None) -> str:
    """Folder of a split's pictures within the artifact."""
    folder = "photo" if style is None else f"style/{style}"
    return f"heldout/{folder}" if split.startswith("heldout") else folder


def edit_place(split: str) -> str:
    """Folder of a split's edited photos within the artifact."""
    return "heldout/edit" if split == "heldout" else "edit"


def twin_place(split: str, style: str, kind: str = "twin") -> str:
    """Folder of a split's twins within the artifact, or of their masks (`twin_mask`, `twin_cover`)."""
    return f"heldout/{kind}/{style}" if split == "heldout" else f"{kind}/{style}"


def _rendered(data: RenderedData, batches: list[Batch], out: Path, workers: int) -> Iterator[np.ndarray]:
    """Render the batches in order, in `workers` processes; the landmarks of each."""
    settings = asdict(data)
    if workers <= 1:
        yield from (render_batch(settings, batch, out) for batch in batches)
        return
    # spawn, not fork: the parent may hold torch's threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(batches)), context, start_worker, (os.getpid(),)) as pool:
        yield from pool.map(render_batch, [settings] * len(batches), batches, [out] * len(batches))


def render_batch(settings: dict[str, Any], batch: Batch, out: Path) -> np.ndarray:
    """Render one batch's files under `out`, unless a killed run has; its landmarks [N, 68, 2] float32, pixels."""
    # numba takes half a second, which a command that renders nothing does not pay
    from stages.datasets.rendered.render import shoot
    from stages.datasets.rendered.styles.twins import styled, twin

    data, points = RenderedData(**settings), []
    # Written last: where it stands, all the batch's pictures do.
    finished = out / SCRATCH / f"{batch.split}_{batch.style}_{batch.start:06d}.npz"
    if finished.exists():
        with np.load(finished) as stored:
            return np.asarray(stored["photo"])

    folder = out / place(batch.split, batch.style)
    masks = out / mask_place(place(batch.split, batch.style))
    for index in range(batch.start, batch.stop):
        (number_, view_number), name = data.who(batch.split, index), f"{index:06d}.png"
        person, view = sample_person(number_, data.seed), sample_view(number_, view_number, data.seed)
        if batch.style is None:
            shot = shoot(person, view, data.size)
            picture = shot.picture
            parsing = "heldout/parsing" if batch.split == "heldout" else "parsing"
            write_image(out / parsing / name, picture.parsing)
            if data.edits:
                attribute, value = data.edit_of(number_, view_number)
                camera = None if attribute in REFRAMED else shot.scene.camera
                changed = shoot(*edited(person, view, attribute, value), data.size, camera=camera, met=shot.met)
                write_image(out / edit_place(batch.split) / name, changed.picture.image, DRAWN)
            for style in data.twin_styles(batch.split):
                true = twin(shot, style)
                write_image(out / twin_place(batch.split, style) / name, true.image, DRAWN)
                if data.twins != "heldout":
                    write_image(out / twin_place(batch.split, style, "twin_mask") / name, true.bare)
                    cover = np.dstack([picture.whole, true.whole, true.bare])
                    write_image(out / twin_place(batch.split, style, "twin_cover") / name, cover)
        else:
            picture = styled(person, view, data.size, batch.style)

        write_image(folder / name, picture.image, DRAWN)
        write_image(masks / name, picture.mask)
        points.append(picture.landmarks)
    landmarks = np.stack(points).astype(np.float32)
    _write_landmarks(finished, {"photo": landmarks})
    return landmarks


def _write_landmarks(path: Path, kinds: dict[str, np.ndarray]) -> None:
    """`photo`, `style/<name>`: float32 [N, 68, 2], px.

    Written by hand with a fixed date, so that the same points are the same bytes.
    """
    import io as memory
    import zipfile

    outer = memory.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        for kind, points in kinds.items():
            inner = memory.BytesIO()
            np.lib.format.write_array(inner, points, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{kind}.npy"), inner.getvalue())
    write_bytes(path, outer.getvalue())
