"""Collecting a style set: candidates drawn in order, filtered, and as many kept as were asked for.

Everything is drawn once: candidates go as PNG into a scratch folder, with what the face reader says of them beside
them, and are judged by that; the accepted ones are then renamed into the set. Writer threads encode a batch while the
next one is drawn, at most `AHEAD` batches wait, and a batch counts as done when its readings, written last, are there.
So memory is bounded whatever the count, and a killed run goes on where it was and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from stages.core.artifact import SCRATCH
from stages.core.files import read_json, write_bytes, write_json, write_jsonl
from stages.core.images import grid, load_images, write_image
from stages.core.mark import TRAINED
from stages.core.runtime import Runtime
from stages.core.settings import TristyleError
from stages.core.workers import Pool
from stages.networks.face_reader import Reader, load_reader
from stages.networks.stylegan2 import Generator
from stages.style.sampling.candidates import Candidates, Content, Inverted, Painter, PhotoPainter, Sampling, Seeds
from stages.style.sampling.distribution import CLOSE_ENOUGH
from stages.style.sampling.filters import (
    REASONS,
    References,
    attribute_table,
    judge,
    least_bad,
    observe,
    pictures,
    shrunk,
    view,
)  # fmt: skip

AHEAD = 2  # batches that wait for the writers at most
SLOWEST = 0.25  # least share of good candidates that is assumed when further ones are drawn
SHOWN, SHOWN_BYTES = 1000, 192 << 20  # pictures of a summary, and their bytes, at most
SHEET, SHEET_SIDE = 32, 128  # rejects on the contact sheet, and their side there at most, px


@dataclass
class SetSummary:
    """A written style set.

    Attributes:
        drawn: uint8 [n, R, R, 3], its first pictures: at most 1000 and 192 MB.
        source: uint8 [n, R, R, 3], what the source generator makes of the same latents; `drawn` where there is none.
        records: the lines of records.jsonl.
        metrics: images, candidates, passed (share of the candidates that nothing speaks against), rejected_<reason>,
            readmitted, shortfall, distribution_distance (total variation of the worst attribute).
    """

    drawn: np.ndarray
    source: np.ndarray
    records: list[dict[str, Any]]
    metrics: dict[str, float]


def write_style_set(
    out: Path,
    fused: Generator,
    source: Generator | None,
    sampling: Sampling,
    *,
    data: Path,
    target: str,
    runtime: Runtime,
    reader: Reader | None = None,
    ws: Tensor | None = None,
    photos: Sequence[str] | None = None,
    edit: Callable[[Candidates], Candidates] | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    content: Content | None = None,
) -> SetSummary:
    """Sample a generator into a folder; done again, it goes on with what is there.

    Args:
        out: folder of images/, source/, records.jsonl, latents.safetensors and, where the reader is asked, its reports.
        fused: the generator that draws the set.
        source: draws the same latents before the transfer; None (or `fused` itself) writes no source/.
        sampling: how many, and how they are drawn and chosen.
        data: folder of the data artifact.
        target: ``photo`` or a style's name.
        runtime: device, threads and progress.
        reader: the face reader; loaded when it is needed and not given.
        ws: latents [N, num_ws, w_dim] of inverted photos, for every source but ``random``.
        photos: their N ids.
        edit: moves the candidates' latents (`stages.style.editing.directions.Edited`), for the source, too.
        finish: recolours the set's pictures, [n, 3, R, R] in [-1, 1].
        content: editor and photos, for ``source: expanded``.

    Raises:
        TristyleError: a source of photos without latents that fit.
    """
    candidates = _candidates(sampling, ws, photos, edit)
    # What is in the scratch folder belongs to one plan; another plan starts anew.
    source = None if source is fused else source
    reader = load_reader(runtime.device) if sampling.reads and reader is None else reader
    made_by = (_digest(fused), source and _digest(source), reader and reader.id)
    plan = [asdict(sampling), target, *made_by, list(photos or []), _hash(_tensors(ws, content))]
    scratch = _open_scratch(out, json.loads(json.dumps(plan)))

    # Draw, read and choose; then rename the chosen pictures into the set.
    with placed(fused, runtime.device) as generator:
        paint = _painter(generator, candidates, sampling, finish, content)
        collection = Collection(sampling, candidates.most, data, target, reader if sampling.reads else None, runtime)
        survey = Survey(scratch, paint, collection.look, runtime)
        decision = collection.collect(survey)
        latents = candidates.tensors(generator, decision.kept.tolist())
    records = _place(survey, decision, candidates, sampling, target, out)
    # The source draws the same latents, for pairs and for comparison.
    if source is not None:
        with placed(source, runtime.device) as generator:
            _write_source(_painter(generator, candidates, sampling, None, content), decision.kept, out, runtime)
    write_bytes(out / "latents.safetensors", save(latents))
    metrics = collection.write_reports(survey, decision, candidates, out)
    write_jsonl(out / "records.jsonl", records)
    return _summary(out, fused.img_resolution, source is not None, records, metrics, runtime)


def _tensors(ws: Tensor | None, content: Content | None) -> list[Tensor]:
    """What a set is made of, beside generators: latents, and the editor's weights."""
    return [*([ws] if ws is not None else []), *(content.editor.state_dict().values() if content else [])]


def _candidates(
    sampling: Sampling,
    ws: Tensor | None,
    photos: Sequence[str] | None,
    edit: Callable[[Candidates], Candidates] | None,
) -> Candidates:
    """Numbered latents, the same for both generators; arguments as of `write_style_set`."""
    candidates: Candidates
    if sampling.source == "random":
        candidates = Seeds(sampling)
    elif ws is not None and photos is not None:
        candidates = Inverted(ws, photos, sampling)
    else:
        raise TristyleError(
            f"sampling.source={sampling.source}: there are no inverted photos. Invert some, or say source=random."
        )
    return candidates if edit is None else edit(candidates)


def _painter(
    generator: Generator,
    candidates: Candidates,
    sampling: Sampling,
    finish: Callable[[Tensor], Tensor] | None,
    content: Content | None,
) -> Painter:
    if content is None:
        return Painter(generator, candidates, sampling, finish)
    return PhotoPainter(generator, candidates, sampling, finish, content=content)


def _summary(
    out: Path,
    size: int,
    has_source: bool,
    records: list[dict[str, Any]],
    metrics: dict[str, float],
    runtime: Runtime,
) -> SetSummary:
    """The first pictures of a written set, of `size` px, as many as memory allows."""
    shown = max(min(len(records), SHOWN, SHOWN_BYTES // (3 * size**2)), 1)
    names = [Path(record["image"]).name for record in records[:shown]]
    drawn = load_images([out / "images" / name for name in names], runtime.workers)
    before = load_images([out / "source" / name for name in names], runtime.workers) if has_source else drawn
    return SetSummary(drawn, before, records, metrics)


# ---------------------------------------------------------------------------------------------------------------------
# Drawing


class BatchWriter:
    """Encodes and writes pictures in threads while the next batch is drawn.

    It is a context manager that leaves when all pictures are on disk. OpenCV lets go of the interpreter, so threads do
    run side by side.

    Args:
        workers: threads.
        ahead: batches that wait at most; `put` blocks until there is room.
    """

    def __init__(self, workers: int, ahead: int = AHEAD) -> None:
        self.pool, self.ahead = Pool[None](workers), ahead
        self.waiting: deque[tuple[int, Callable[[], None] | None]] = deque()  # pictures of a batch, and what follows

    def put(self, images: np.ndarray, paths: Sequence[Path], then: Callable[[], None] | None = None) -> None:
        """Write uint8 [n, H, W, 3] to `paths`; once they are all there, call `then` (in the caller's thread)."""
        while len(self.waiting) >= self.ahead:
            self._settle()
        for path, image in zip(paths, images, strict=True):
            self.pool.submit(write_image, path, image, TRAINED)
        self.waiting.append((len(paths), then))

    def _settle(self) -> None:
        count, then = self.waiting.popleft()
        for _ in range(count):
            self.pool.collect()
        if then is not None:
            then()

    def __enter__(self) -> BatchWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self.waiting and kind is None:
                self._settle()
        finally:
            self.pool.close()


class Survey:
    """The candidates drawn so far: pictures and readings in a scratch folder.

    Args:
        folder: the scratch folder; what an earlier process left there is used.
        look: pictures -> what is kept of their reading; the keys are always the same.
    """

    def __init__(self, folder: Path, paint: Painter, look: Callable[[np.ndarray], dict[str, Tensor]], runtime: Runtime):
        self.folder, self.paint, self.look, self.runtime = folder, paint, look, runtime
        self.parts: list[dict[str, Tensor]] = []
        self.drawn = 0

    def path(self, number: int) -> Path:
        """Of a candidate's picture."""
        return self.folder / f"{number:07d}.png"

    def extend(self, total: int) -> None:
        """Draw further candidates until there are `total`."""
        with BatchWriter(self.runtime.workers) as writer, self.runtime.track.progress("sampling", total) as bar:
            bar.start(self.drawn)
            while self.drawn < total:
                numbers = range(self.drawn, min(self.drawn + self.paint.batch, total))
                self.parts.append(self._batch(numbers, writer))
                self.drawn = numbers.stop
                bar.update(self.drawn)

    def _batch(self, numbers: range, writer: BatchWriter) -> dict[str, Tensor]:
        file = self.folder / f"{numbers.start:07d}-{numbers.stop:07d}.safetensors"
        if file.exists():
            return load(file.read_bytes())
        images = self.paint(numbers)
        seen = {name: value.contiguous() for name, value in self.look(images).items()}
        writer.put(images, [self.path(i) for i in numbers], lambda: write_bytes(file, save(seen)))
        return seen

    def seen(self) -> dict[str, Tensor]:
        """The readings of all candidates, each [drawn, ...]."""
        return {name: torch.cat([part[name] for part in self.parts]) for name in self.parts[0]}


# ---------------------------------------------------------------------------------------------------------------------
# Choosing


@dataclass
class Decision:
    """Which candidates make the set.

    Attributes:
        reasons: of every candidate, "" for those that nothing speaks against.
        scores: float64 [N] beside them (`reject.judge`).
        good: int64, numbers of those with no reason against them and of the readmitted.
        kept: int64 ascending, numbers of the accepted ones among them.
        chances: float64, of acceptance, beside `good`.
        readmitted: numbers of rejected ones that fill the set up.
        enough: whether further candidates would change little.
    """

    reasons: list[str]
    scores: np.ndarray
    good: np.ndarray
    kept: np.ndarray
    chances: np.ndarray
    readmitted: np.ndarray
    enough: bool


class Collection:
    """How candidates become a set: read, judged, chosen, in rounds until there are enough.

    Args:
        most: candidates that there are.
        reader: None where nothing has to be read.
    """

    def __init__(
        self, sampling: Sampling, most: float, data: Path, target: str, reader: Reader | None, runtime: Runtime
    ) -> None:
        self.sampling, self.reader, self.over = sampling, reader, sampling.distribution.over
        self.limit = int(min(sampling.limit, most))
        self.references, self.photos = References(), None
        if reader is not None:
            self.references = References.read(reader, data, target, sampling.reject, runtime.workers)
            if sampling.distribution.target == "photos":
                small = shrunk(pictures(data, "photo"), runtime.workers)
                if len(small):
                    self.photos = attribute_table(view(reader, small), small, self.over).numpy()

    def look(self, images: np.ndarray) -> dict[str, Tensor]:
        """What is kept of a batch's reading; nothing without a reader."""
        return {} if self.reader is None else observe(self.reader, images, self.over, self.references)

    def collect(self, survey: Survey) -> Decision:
        """Draw until there are enough good candidates or as many as may be drawn."""
        count = self.sampling.count
        total = min(count, self.limit)
        while True:
            survey.extend(total)
            decision = self.decide(survey.seen(), survey.drawn)
            if decision.enough or total >= self.limit:
                return decision
            missing = (count - len(decision.kept)) / max(len(decision.good) / total, SLOWEST)
            total = min(self.limit, total + (count if self.sampling.distribution.steers else math.ceil(missing)))

    def decide(self, seen: dict[str, Tensor], drawn: int) -> Decision:
        """Judge and choose among all candidates drawn so far: a function of their readings alone."""
        count, wish = self.sampling.count, self.sampling.distribution
        reasons, scores = [""] * drawn, np.full(drawn, np.nan)
        if seen:
            reasons, scores = judge(seen, self.sampling.reject, self.references)
        good = np.flatnonzero(np.asarray(reasons) == "")
        readmitted = np.empty(0, np.int64)
        if drawn >= self.limit:  # there will be no others, and the count was promised
            readmitted = least_bad(reasons, scores, count - len(good))
            good = np.sort(np.concatenate([good, readmitted]))
        values = seen["attributes"].numpy()[good] if seen else np.empty((len(good), 0))
        kept, chances = wish.select(values, count, self.photos)
        near = not wish.steers or max(wish.distances(values[kept], wish.ideal(values, self.photos))) <= CLOSE_ENOUGH
        return Decision(reasons, scores, good, good[kept], chances, readmitted, len(kept) == count and near)

    def write_reports(self, survey: Survey, decision: Decision, candidates: Candidates, out: Path) -> dict[str, float]:
        """rejects.jsonl, rejects.png and distribution.json where anything was read; the set's metrics."""
        count, wish = self.sampling.count, self.sampling.distribution
        metrics = {
            "images": float(len(decision.kept)),
            "candidates": float(survey.drawn),
            "passed": decision.reasons.count("") / survey.drawn,
            "readmitted": float(len(decision.readmitted)),
            "shortfall": float(count - len(decision.kept)),
        }

        if self.reader is None:
            return metrics
        _write_rejects(survey, decision, candidates, wish.steers, out)
        values = survey.seen()["attributes"].numpy()[decision.good]
        report = wish.describe(values, np.searchsorted(decision.good, decision.kept), count, self.photos)
        write_json(out / "distribution.json", report)
        metrics["distribution_distance"] = report["distance"]
        return metrics | {f"rejected_{reason}": float(decision.reasons.count(reason)) for reason in REASONS}


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _place(
    survey: Survey, decision: Decision, candidates: Candidates, sampling: Sampling, target: str, out: Path
) -> list[dict[str, Any]]:
    """Rename the accepted candidates' pictures into the set; their records."""
    (out / "images").mkdir(exist_ok=True)
    again = set(decision.readmitted.tolist())
    records = []
    for i, candidate in enumerate(decision.kept.tolist()):
        name = f"images/{i:06d}.png"
        if survey.path(candidate).exists():  # else an earlier process, killed later, has moved it
            os.replace(survey.path(candidate), out / name)
        row = {"id": f"{i:06d}", "image": name, **candidates.record(candidate), "style": target}
        row |= {"mirrored": True} if sampling.mirror and candidate % 2 == 1 else {}
        records.append(row | ({"readmitted": decision.reasons[candidate]} if candidate in again else {}))
    return records


def _write_source(paint: Painter, kept: np.ndarray, out: Path, runtime: Runtime) -> None:
    """The source's pictures of the set's latents: the same faces before the transfer, name by name."""
    with BatchWriter(runtime.workers) as writer, runtime.track.progress("source", len(kept)) as bar:
        for start in range(0, len(kept), paint.batch):
            part = kept[start : start + paint.batch].tolist()
            paths = [out / f"source/{i:06d}.png" for i in range(start, start + len(part))]
            if not all(path.exists() for path in paths):
                writer.put(paint(part), paths)
            bar.update(start + len(part))


def _write_rejects(survey: Survey, decision: Decision, candidates: Candidates, steers: bool, out: Path) -> None:
    """rejects.jsonl: every candidate that was left out, and why; rejects.png: the first ones of all but the surplus."""
    again = set(decision.readmitted.tolist())
    kept = set(decision.kept.tolist())
    chances = dict(zip(decision.good.tolist(), decision.chances.tolist(), strict=True))
    rows: list[dict[str, Any]] = []
    shown: list[np.ndarray] = []

    # A readmitted candidate is in the set and is listed all the same.
    for number, reason in enumerate(decision.reasons):
        if number in kept and number not in again:
            continue
        source = candidates.record(number)
        if reason:
            row = source | {"reason": reason, "score": round(float(decision.scores[number]), 5)}
            rows.append(row | ({"readmitted": True} if number in kept else {}))
            if number not in kept and len(shown) < SHEET:
                shown.append(_thumbnail(survey.path(number)))
        elif steers:
            rows.append(source | {"reason": "distribution", "score": round(chances[number], 5)})

    write_jsonl(out / "rejects.jsonl", rows)
    if shown:
        write_image(out / "rejects.png", grid(shown, min(len(shown), 8)), TRAINED)


def _thumbnail(path: Path) -> np.ndarray:
    image = load_images([path])[0]
    side = min(len(image), SHEET_SIDE)
    out: np.ndarray = image if len(image) == side else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return out


def _plan(file: Path) -> Any:
    try:
        return read_json(file)
    except TristyleError:  # damaged: what was made by it is made anew
        return None


def _open_scratch(out: Path, plan: list[Any]) -> Path:
    """The scratch folder, emptied with all that was made of it when it belongs to another plan."""
    folder = out / SCRATCH / "sampling"
    file = folder / "plan.json"
    if not file.exists() or _plan(file) != plan:
        for stale in (folder, out / "images", out / "source"):
            shutil.rmtree(stale, ignore_errors=True)
        for name in ("rejects.jsonl", "rejects.png", "distribution.json"):
            (out / name).unlink(missing_ok=True)
        write_json(file, plan)
    return folder


def _digest(generator: Generator) -> str:
    """Hash of a generator's weights and shape."""
    return _hash(list(generator.state_dict().values())) + json.dumps(generator.arguments)


def _hash(tensors: Sequence[Tensor]) -> str:
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return whole.hexdigest()


@contextmanager
def placed(generator: Generator, device: str) -> Iterator[Generator]:
    """The generator on a device for the time of a `with`."""
    home = generator.mapping.w_avg.device
    try:
        yield generator.to(device)
    finally:
        generator.to(home)
