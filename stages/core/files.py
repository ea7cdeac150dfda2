"""Bytes on their way to disk and back: atomic writes, JSON, digests, and where shipped files lie.

Every write is atomic: a temporary file beside the target, then a rename. A killed process leaves the old file or the
new one, never a half.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
    temporary = temporary_path(path, only_writer)
    try:
        with open(temporary, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_path(path: Path, only_writer: bool = False) -> Path:
    """Where a file is written before it is renamed to `path`: hidden, in the same folder, ending in `.tmp`.

    The name holds a count and the process (`.NAME.COUNT.PROCESS.tmp`), so that any number may write one path. With
    `only_writer` it follows from `path` alone: what a killed writer left is overwritten by the next.
    """
    writer = "" if only_writer else f".{next(_written)}.{os.getpid()}"
    return path.with_name(f".{path.name}{writer}.tmp")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=False) + "\n").encode())


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def append_jsonl(path: Path | str, row: dict[str, Any]) -> None:
    """Append one JSON line. A line is written in one call, so that a killed process leaves at most one torn line."""
    with open(path, "ab") as file:
        file.write((json.dumps(row) + "\n").encode())


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """All complete lines of a jsonl file; a torn last line (killed writer) is left out. [] when there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
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
