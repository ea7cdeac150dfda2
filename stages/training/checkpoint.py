"""Training state on disk: atomic, digested, and the one before it kept.

A checkpoint is for resuming a training; a snapshot (EMA weights, `stages.core.weights.save_network`) is for use. The
file is a hex SHA-256, a newline and a torch archive that is read with `weights_only`: nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stages.core.files import write_bytes

_DIGEST = 64  # hex characters before the newline
_written: dict[Path, tuple[int, int]] = {}  # what this process wrote last: time and size


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state; the file before becomes `<path>.previous` where it is whole.

    Args:
        path: the file to write.
        state: tensors, numbers, strings, lists and dicts.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()

    # A damaged state must not take the place of a good one.
    if path.exists() and (_written.get(path) == _stamp(path) or isinstance(_read(path), dict)):
        os.replace(path, previous(path))
    write_bytes(path, hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload, only_writer=True)
    _written[path] = _stamp(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read the newest whole state of `path` and `<path>.previous`; what is passed over is named on stderr.

    Returns:
        The state, its tensors on the CPU; None where there is none.
    """
    damaged: list[tuple[Path, str]] = []
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        state = _read(candidate)
        if not isinstance(state, str):
            for name, reason in damaged:
                print(f"{name}: {reason}. Going on from {candidate}.", file=sys.stderr, flush=True)
            return state
        damaged.append((candidate, state))
    for name, reason in damaged:
        print(f"{name}: {reason}. It is left as it is.", file=sys.stderr, flush=True)
    return None


def previous(path: Path) -> Path:
    """Where the state before the last is kept."""
    return path.with_name(path.name + ".previous")


def all_finite(state: Any) -> bool:
    """Whether every number in a state's tensors is finite; nested dicts and lists are looked through."""
    return all(bool(torch.isfinite(value).all()) for value in _tensors(state) if value.is_floating_point())


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors(value)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _read(path: Path) -> dict[str, Any] | str:
    """The state of a file, or why it cannot be used."""
    data = path.read_bytes()
    payload = data[_DIGEST + 1 :]
    if hashlib.sha256(payload).hexdigest().encode() != data[:_DIGEST]:
        return "a damaged training state (bit rot, or a torn copy)"
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception:  # torch and its unpickler raise a dozen types
        return "not a training state"
    if not isinstance(state, dict):
        return "not a training state"
    return state if all_finite(state) else "a training state with numbers that are not finite"
