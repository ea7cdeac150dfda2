"""A folder of pictures, or several files: in parallel, the tree kept, each output whole or absent, run again to go on.

`.stylize.jsonl` beside the outputs tells of each what it was made of (the picture's bytes, the model, the wishes). A
picture whose line still holds is not painted again. What cannot be used is passed over and listed in `skipped.txt`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stages.apply.mark import encode_marked
from stages.apply.stylizer import Stylizer, Wishes
from stages.core.settings import TristyleError

INDEX = ".stylize.jsonl"
SKIPPED = "skipped.txt"
WRITTEN = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf")
AHEAD = 4  # pictures handed to a process before the first is back


@dataclass(frozen=True)
class Job:
    """One picture: where it lies, where it goes, and the key of what lies there already ("" = nothing)."""

    source: Path
    out: Path
    name: str
    made: str = ""


@dataclass
class Answer:
    """What became of it: `key` of what was made of it, `kept` when it was there before, or why it was passed over."""

    task: Job
    key: str = ""
    kept: bool = False
    reason: str = ""


@dataclass
class Summary:
    """A run's outcome: pictures painted, kept from an earlier run, passed over (name -> reason), and left alone."""

    painted: int = 0
    kept: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    others: int = 0
    seconds: float = 0.0


def stylize_folder(sources: Sequence[Path], out: Path, wishes: Wishes, jobs: int) -> Summary:
    """Stylise all pictures of a folder, or several files, into the folder `out`.

    Raises:
        TristyleError: nothing to do, the place cannot be written, the model cannot be used, a process was killed.
    """
    from stages.core.artifact import locked
    from stages.core.files import append_jsonl, read_jsonl, sha256_file, write_bytes
    from stages.core.tracking import Progress

    summary = Summary()
    tasks = list(_tasks(sources, out, wishes, summary))
    if not tasks and not summary.skipped:
        where = ", ".join(map(str, sources))
        raise TristyleError(f"{where}: holds no pictures. Give a folder with PNG, JPEG, WebP, BMP or TIFF in it.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / INDEX).touch()
    except OSError as error:
        raise TristyleError(f"{out}: cannot be written ({error.strerror}). Choose another folder for -o.") from None
    with locked(out):
        _sweep(out)
        made = {row["out"]: row["key"] for row in read_jsonl(out / INDEX) if {"out", "key"} <= row.keys()}
        tasks = [Job(t.source, t.out, t.name, made.get(str(t.out.relative_to(out)), "")) for t in tasks]
        begun = time.monotonic()
        progress = Progress("stylize", len(tasks), "pictures")
        for number, answer in enumerate(_answers(tasks, wishes, sha256_file(wishes.model), jobs), 1):
            if answer.reason:
                summary.skipped[answer.task.name] = answer.reason
            elif answer.kept:
                summary.kept += 1
            else:
                summary.painted += 1
                row = {"out": str(answer.task.out.relative_to(out)), "of": answer.task.name, "key": answer.key}
                append_jsonl(out / INDEX, row)
            progress.update(number, skipped=len(summary.skipped))
        summary.seconds = time.monotonic() - begun
        progress.close()
        lines = [f"{name}: {reason}\n" for name, reason in sorted(summary.skipped.items())]
        if lines:
            write_bytes(out / SKIPPED, "".join(lines).encode())
        else:
            (out / SKIPPED).unlink(missing_ok=True)
    return summary


# ---------------------------------------------------------------------------------------------------------------------
# What there is to do


def _tasks(sources: Sequence[Path], out: Path, wishes: Wishes, summary: Summary) -> Iterator[Job]:
    """The pictures and where they go; what is passed over already by its name is put into `summary`."""
    from stages.core.images import IMAGE_SUFFIXES

    taken: dict[Path, Path] = {}
    for path, name in _found(sources, out):
        suffix = path.suffix.lower()
        if suffix in VIDEOS:
            summary.skipped[str(name)] = "a video. Give it to stylize by itself."
        elif suffix in UNREAD:
            summary.skipped[str(name)] = f"{suffix} is not read. Convert it to JPEG or PNG."
        elif suffix not in IMAGE_SUFFIXES:
            summary.others += 1
        else:
            target = out / _target(name, wishes.alpha)
            if target in taken:  # a.bmp beside a.png
                target = target.with_name(name.name + target.suffix)
            if target in taken:
                raise TristyleError(f"{taken[target]} and {path} would both become {target}. Give them one by one.")
            taken[target] = path
            yield Job(path, target, str(name))


def _found(sources: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Files and their names below the folder given, in order; nothing hidden, and nothing of the outputs."""
    outputs = out.resolve()
    for source in sources:
        if not source.is_dir():
            yield source, Path(source.name)
            continue
        for folder, folders, files in os.walk(source):
            here = Path(folder)
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and (here / name).resolve() != outputs
            )
            for name in sorted(files):
                if not name.startswith("."):
                    yield here / name, (here / name).relative_to(source)


def _target(name: Path, alpha: bool) -> Path:
    suffix = name.suffix.lower()
    if suffix in (".jpg", ".jpeg") and not alpha or suffix in (".png", ".webp"):
        return name
    return name.with_suffix(".png")


def _sweep(out: Path) -> None:
    """Remove what a killed process had begun to write; the folder is held, so nobody is writing there now."""
    for path in out.rglob(".*.tmp"):
        if any(f"{suffix}." in path.name.lower() for suffix in WRITTEN):
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# Doing it


def _answers(tasks: Sequence[Job], wishes: Wishes, digest: str, jobs: int) -> Iterator[Answer]:
    """Answers in the order of the tasks, from `jobs` processes of one thread each, or from this one."""
    jobs = max(1, min(jobs, len(tasks)))
    if jobs == 1:
        stylizer = Stylizer(wishes, 1) if tasks else None
        yield from (_one(task, stylizer, wishes.key(digest)) for task in tasks if stylizer)
        return
    Stylizer(wishes, 1)  # a model that cannot be used is told here, once, and not by every process
    context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
    pool = ProcessPoolExecutor(jobs, context, _start, (wishes, digest, os.getpid()))
    waiting: deque[Future[Answer]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_work, task))
            if len(waiting) >= jobs * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise TristyleError(
            "a process was killed, for lack of memory as a rule. Run again with --jobs 1; what is done is kept."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_opened: tuple[Stylizer, str] | None = None  # of a process of the pool


def _start(wishes: Wishes, digest: str, parent: int) -> None:
    """A process of the pool: one thread, deaf to Ctrl-C (the parent hears it), and no life after the parent's."""
    global _opened
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _opened = Stylizer(wishes, 1), wishes.key(digest)


def _work(task: Job) -> Answer:
    assert _opened is not None
    return _one(task, *_opened)


def _one(task: Job, stylizer: Stylizer, wishes: str) -> Answer:
    """Paint one picture unless it is there already; a reason instead where it cannot be used.

    Raises:
        TristyleError: the output cannot be written, which the next one could not either.
    """
    from stages.apply.photo import read_photo
    from stages.core.files import write_bytes

    try:
        digest = hashlib.sha256(wishes.encode())
        with suppress(OSError), open(task.source, "rb") as file:  # what cannot be opened is told by `read_photo`
            digest.update(hashlib.file_digest(file, "sha256").digest())
        key = digest.hexdigest()
        if key == task.made and task.out.is_file():
            return Answer(task, key, kept=True)
        if task.out.exists() and task.out.samefile(task.source):
            return Answer(task, reason="its output would be the picture itself. Choose another folder for -o.")
        data = encode_marked(stylizer(read_photo(task.source)), task.out.suffix.lower(), stylizer.digest)
    except TristyleError as error:
        return Answer(task, reason=str(error).removeprefix(f"{task.source}: "))
    except MemoryError:
        return Answer(task, reason="too large for the memory left. Shrink it, or run with fewer --jobs.")
    try:
        write_bytes(task.out, data)
    except OSError as error:
        raise TristyleError(f"{task.out}: cannot be written ({error.strerror}). Make room, then run again.") from None
    return Answer(task, key)
