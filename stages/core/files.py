"""Bytes on their way to disk and back: atomic writes, JSON, digests, and where shipped files lie.

Every write is atomic: a temporary file beside the target, then a rename. A killed process leaves the old file or the
new one, never a half.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from stages.core.settings import TristyleError

COPY = "Copy it again, or make it anew."
LONGEST_NAME = 255  # bytes
DEEPEST = 64  # levels of a JSON value
Kinds = type | tuple[type, ...]
_written = itertools.count()


def write_bytes(
    path: Path | str, data: bytes | Iterable[bytes], *, sync: bool = True, only_writer: bool = False
) -> None:
    """Write a file whole or not at all.

    Args:
        path: its folder is made where it is missing.
        data: the bytes, or parts of them in order.
        sync: wait until the disk has them. Pictures do without: the manifest, written last, is synced.
        only_writer: nobody else writes this path now, so the temporary file has a fixed name, see `temporary_path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, needed = temporary_path(path, only_writer), 0

    # A failed write leaves no temporary file, and its error names the file that was meant.
    try:
        with open(temporary, "wb") as file:
            for part in [data] if isinstance(data, bytes) else data:
                needed += len(part)
                file.write(part)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename, error.needed = str(path), needed  # type: ignore[attr-defined]
        raise


def temporary_path(path: Path, only_writer: bool = False) -> Path:
    """Where a file is written before it is renamed to `path`: hidden, in the same folder, ending in `.tmp`.

    The name holds a count and the process (`.NAME.COUNT.PROCESS.tmp`), so that any number may write one path. With
    `only_writer` it follows from `path` alone: what a killed writer left is overwritten by the next.
    """
    writer = "" if only_writer else f".{next(_written)}.{os.getpid()}"
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME - 40:  # a file system takes 255 bytes; the hidden name has more than this
        name = f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{path.suffix[:16]}"
    return path.with_name(f".{name}{writer}.tmp")


def sweep_orphans(folder: Path, name: str = "*") -> None:
    """Remove the temporary files in a folder, not below it, whose writers are gone; others may write there now.

    Args:
        folder: where.
        name: a pattern of the files that were to be written.
    """
    for file in folder.glob(f".{name}.tmp"):
        with suppress(ValueError, PermissionError):
            try:
                os.kill(int(file.name.split(".")[-2]), 0)
            except ProcessLookupError:
                file.unlink(missing_ok=True)


def sweep_beside(path: Path) -> None:
    """Remove what killed writers of one file left beside it."""
    name = temporary_path(path, only_writer=True).name.removeprefix(".").removesuffix(".tmp")
    sweep_orphans(path.parent, f"{glob.escape(name)}.*")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=False) + "\n").encode())


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def append_jsonl(path: Path | str, row: dict[str, Any]) -> None:
    """Append one JSON line, which outlives this process; what a killed writer left of the last line is cut off."""
    try:
        with open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (torn := _torn(file, end)):
                file.truncate(end - torn)
            file.write((json.dumps(row) + "\n").encode())
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


def sync_file(path: Path) -> None:
    """Wait until the disk has what was written to a file, so that it outlives the machine, too; none is fine."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        os.fsync(file.fileno())


def _torn(file: BinaryIO, end: int) -> int:
    """How many bytes follow the last end of a line."""
    size = 0
    while size < end:
        step = min(4096, end - size)
        file.seek(end - size - step)
        part = file.read(step)
        if (at := part.rfind(b"\n")) >= 0:
            return size + step - at - 1
        size += step
    return size


def parse_json(data: bytes | str, name: Path | str, need: Mapping[str, Kinds] | None = None, remedy: str = COPY) -> Any:
    """A JSON value, its depth and shape checked.

    Args:
        data: the text.
        name: of the file, for the message.
        need: keys that must be there, with their types; None takes any value.
        remedy: second sentence of the message.

    Raises:
        TristyleError: not JSON, nested too deep, or of another shape.
    """
    try:
        value = json.loads(data)
        if _deep(value):
            raise RecursionError
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else "not JSON"
        raise TristyleError(f"{name}: damaged ({reason}). {remedy}") from None
    if need is not None and not isinstance(value, dict):
        raise TristyleError(f"{name}: damaged (not an object). {remedy}")
    for key, kinds in (need or {}).items():
        if not isinstance(value.get(key), kinds):
            raise TristyleError(f"{name}: damaged ({key!r} is missing or of another type). {remedy}")
    return value


def _deep(value: Any) -> bool:
    """Whether a value is nested over DEEPEST levels."""
    level = [value]
    for _ in range(DEEPEST):
        nested = [item for item in level if isinstance(item, (dict, list))]
        level = [part for item in nested for part in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return True


def read_json(path: Path | str, need: Mapping[str, Kinds] | None = None, remedy: str = COPY) -> Any:
    """The value of a JSON file; the one reader of such files, see `parse_json`.

    Raises:
        FileNotFoundError: there is none.
        TristyleError: it cannot be read, or as of `parse_json`.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TristyleError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from None
    return parse_json(data, path, need, remedy)


def read_jsonl(path: Path | str, lenient: bool = False) -> list[dict[str, Any]]:
    """All complete lines of a jsonl file; a torn last line (killed writer) is left out. [] when there is no file.

    Args:
        path: the file.
        lenient: leave out every line that is damaged, as in a file that is only remembered by.

    Raises:
        TristyleError: a line before the last is not an object.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(parse_json(line, f"{path} line {number}", {}, "Make it anew, or restore it."))
        except TristyleError:
            if not lenient and number < len(lines):
                raise
    return rows


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_file(name: str) -> Path:
    """Path of a file shipped in `data/`, in a wheel, an editable install or a bare checkout."""
    checkout = Path(__file__).resolve().parents[2] / "data" / name
    if checkout.exists():
        return checkout
    return Path(__file__).resolve().parents[1] / "data" / name
