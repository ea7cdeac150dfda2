"""A folder of pictures, or several files: in parallel, the tree kept, each output whole or absent.

`.stylize.jsonl` beside the outputs records what each was made of: the picture's bytes, the model, the options. A
picture whose record still holds is not painted again, so that a stopped run continues when it is run again. What
cannot be used is skipped and listed in `skipped.txt`.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

from stages.apply.stylizer import Options, Stylizer
from stages.core.faults import FULL
from stages.core.mark import encode_marked
from stages.core.settings import TristyleError
from stages.core.walk import below

INDEX = ".stylize.jsonl"
SKIPPED = "skipped.txt"
WRITTEN = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf")
AHEAD = 4  # pictures that each process holds at most
KILLED = "Run again with --jobs 1; what is done is kept."


@dataclass(frozen=True)
class PictureJob:
    """One picture to paint.

    Attributes:
        source: where it lies.
        out: where its output goes.
        name: what it is called in reports.
        made: key of what lies at `out` already; "" = nothing.
    """

    source: Path
    out: Path
    name: str
    made: str = ""


@dataclass
class Answer:
    """What became of a job.

    Attributes:
        job: the job.
        key: of the output that was made.
        kept: whether the output was there before.
        reason: why the picture was skipped; "" = it was not.
        untouched: whether the photo was left as it is, since no face was found.
    """

    job: PictureJob
    key: str = ""
    kept: bool = False
    reason: str = ""
    untouched: bool = False


@dataclass
class Summary:
    """A run's outcome.

    Attributes:
        painted: pictures painted.
        kept: outputs kept from an earlier run.
        untouched: photos without a face, left as they are.
        skipped: name -> reason, of what could not be used.
        others: files that are not pictures.
        seconds: how long it took.
    """

    painted: int = 0
    kept: int = 0
    untouched: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    others: int = 0
    seconds: float = 0.0


def stylize_folder(sources: Sequence[Path], out: Path, options: Options, workers: int) -> Summary:
    """Stylise all pictures of a folder, or several files.

    Args:
        sources: one folder, or files.
        out: the folder to write.
        options: how to stylise.
        workers: processes.

    Raises:
        TristyleError: nothing to do, the place cannot be written, the model cannot be used, a process was killed.
    """
    from stages.core.artifact import locked
    from stages.core.files import append_jsonl, read_jsonl, sha256_file, write_bytes
    from stages.core.tracking import Progress

    summary = Summary()
    jobs = list(_jobs(sources, out, options, summary))
    if not jobs and not summary.skipped:
        where = ", ".join(map(str, sources))
        raise TristyleError(f"{where}: has no pictures in it. Give a folder with PNG, JPEG, WebP, BMP or TIFF in it.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / INDEX).touch()
    except OSError as error:
        raise TristyleError(f"{out}: cannot be written ({error.strerror}). Choose another folder for -o.") from None

    with locked(out):
        _sweep(out)

        # What an earlier run made of which picture.
        rows = read_jsonl(out / INDEX, lenient=True)
        whole = [row for row in rows if isinstance(row.get("out"), str) and isinstance(row.get("key"), str)]
        made = {row["out"]: row["key"] for row in whole}
        jobs = [replace(job, made=made.get(str(job.out.relative_to(out)), "")) for job in jobs]

        # Each answer is recorded as it comes, so that a stopped run can be continued.
        begun = time.monotonic()
        progress = Progress("stylize", len(jobs), "pictures")
        for number, answer in enumerate(_answers(jobs, options, sha256_file(options.model), workers), 1):
            if answer.reason:
                summary.skipped[answer.job.name] = answer.reason
            elif answer.kept:
                summary.kept += 1
            else:
                summary.painted += not answer.untouched
                summary.untouched += answer.untouched
                row = {"out": str(answer.job.out.relative_to(out)), "of": answer.job.name, "key": answer.key}
                append_jsonl(out / INDEX, row)
            progress.update(number, skipped=len(summary.skipped))
        summary.seconds = time.monotonic() - begun
        progress.close()

        lines = [f"{name}: {reason}\n" for name, reason in sorted(summary.skipped.items())]
        if lines:
            write_bytes(out / SKIPPED, "".join(lines).encode(errors="backslashreplace"))
        else:
            (out / SKIPPED).unlink(missing_ok=True)
    return summary


# ---------------------------------------------------------------------------------------------------------------------
# What there is to do


def _jobs(sources: Sequence[Path], out: Path, options: Options, summary: Summary) -> Iterator[PictureJob]:
    """The pictures and where they go. What is skipped for its name is noted in `summary`."""
    from stages.core.consent import refusals
    from stages.core.images import IMAGE_SUFFIXES

    taken: dict[Path, Path] = {}
    found = list(_found(sources, out, summary.skipped))
    free = {Path(name) for _, name in found if _target(Path(name), options.alpha) == Path(name)}
    refused, home = refusals(path for path, _ in found), out.resolve()
    for path, name in found:
        # Kinds that are not pictures.
        suffix = path.suffix.lower()
        if suffix in VIDEOS:
            summary.skipped[str(name)] = "a video. Give it to stylize by itself."
        elif suffix in UNREAD:
            summary.skipped[str(name)] = f"{suffix} is not read. Convert it to JPEG or PNG."
        elif suffix not in IMAGE_SUFFIXES:
            summary.others += 1

        elif path in refused:
            summary.skipped[str(name)] = f"{refused[path]}."

        # No two pictures may become one file.
        else:
            target = out / _target(name, options.alpha)
            other = target.relative_to(out) != name and target.relative_to(out) in free
            if target in taken or other:  # a.bmp beside a.png, which keeps its name: it becomes a.bmp.png
                target = target.with_name(name.name + target.suffix)
            if not target.parent.resolve().is_relative_to(home):
                summary.skipped[str(name)] = "its output would lie outside -o, behind a link. Remove the link."
                continue
            if target in taken:
                raise TristyleError(f"{path}: would become {target}, as {taken[target]} would. Give them one by one.")
            taken[target] = path
            yield PictureJob(path, target, str(name))


def _found(sources: Sequence[Path], out: Path, skipped: dict[str, str]) -> Iterator[tuple[Path, Path]]:
    """Files and their names below the given folder, in order; nothing hidden, and nothing of the outputs."""
    outputs = out.resolve()
    for source in sources:
        if not source.is_dir():
            yield source, Path(source.name)
            continue
        found = below(source, [outputs])
        for path, name in found.files:
            yield path, Path(name)
        for _, name in found.closed:
            skipped[name] = "a folder that cannot be entered, or a link to one around it. Give it by itself."


def _target(name: Path, alpha: bool) -> Path:
    """The name of a picture's output: its own where that kind can be written, else a PNG's."""
    suffix = name.suffix.lower()
    if suffix in (".jpg", ".jpeg") and not alpha or suffix in (".png", ".webp"):
        return name
    return name.with_suffix(".png")


def _sweep(out: Path) -> None:
    """Remove what a killed process had begun to write. The folder is locked, so nobody writes there now."""
    from stages.core.files import sweep_orphans

    for path in out.rglob(".*.tmp"):
        if any(f"{suffix}." in path.name.lower() for suffix in WRITTEN):
            path.unlink(missing_ok=True)
    sweep_orphans(out)


# ---------------------------------------------------------------------------------------------------------------------
# Doing it


def _answers(jobs: Sequence[PictureJob], options: Options, digest: str, workers: int) -> Iterator[Answer]:
    """Answers in the order of the jobs, from `workers` processes of one thread each, or from this one.

    Args:
        jobs: what to paint.
        options: how.
        digest: sha256 of the model file.
        workers: processes.

    Raises:
        TristyleError: the model cannot be used, an output cannot be written, or a process was killed.
    """
    from stages.core.workers import in_order

    if jobs:
        _stylizer(options, digest)  # a model that cannot be used is reported here, once, and not by every process
    work, workers = partial(_paint, options, digest), max(1, min(workers, len(jobs)))
    yield from in_order(work, jobs, workers, ahead=AHEAD, processes=True, remedy=KILLED)


@lru_cache(maxsize=1)
def _stylizer(options: Options, digest: str) -> Stylizer:
    """The stylizer of this process, of one thread; opened once for each content of the model file."""
    return Stylizer(options, 1)


def _paint(options: Options, digest: str, job: PictureJob) -> Answer:
    """Paint one picture unless its output is there already; a reason instead where it cannot be used.

    Raises:
        TristyleError: the output cannot be written, and then no other could be either.
    """
    from stages.apply.picture import read_photo
    from stages.core.files import write_bytes

    try:
        # The key holds all that decides about the output. What cannot be opened is reported by `read_photo`.
        content = hashlib.sha256(options.key(digest).encode())
        if not job.source.is_file():  # a pipe would block
            return Answer(job, reason="not a regular file. Give a picture.")
        with suppress(OSError), open(job.source, "rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
        key = content.hexdigest()
        if key == job.made and job.out.is_file():
            return Answer(job, key, kept=True)

        if job.out.exists() and job.out.samefile(job.source):
            return Answer(job, reason="its output would be the picture itself. Choose another folder for -o.")
        stylizer = _stylizer(options, digest)
        picture = stylizer(read_photo(job.source))
        data = encode_marked(picture, job.out.suffix.lower(), stylizer.mark)
    except TristyleError as error:
        return Answer(job, reason=str(error).removeprefix(f"{job.source}: "))
    except MemoryError:
        return Answer(job, reason="too large for the memory left. Shrink it, or run with fewer --jobs.")
    except Exception as error:  # one file's fault never ends a folder's run
        said = (str(error).splitlines() or [""])[0][:160]
        return Answer(job, reason=f"a fault of tristyle ({type(error).__name__}: {said}). Please report it.")

    try:
        write_bytes(job.out, data)
    except OSError as error:
        if error.errno not in (*FULL, errno.EROFS):  # this name or place alone
            return Answer(job, reason=f"its output cannot be written ({error.strerror}). Rename it.")
        raise TristyleError(f"{job.out}: cannot be written ({error.strerror}). Make room, then run again.") from None
    return Answer(job, key, untouched=stylizer.untouched)
