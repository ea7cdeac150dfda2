"""Training state on disk: atomic, digested, and the one before it kept.

A checkpoint is for resuming a training; a snapshot (EMA weights, `stages.core.weights.save_network`) is for use. The
file is a hex SHA-256, a newline and a torch archive that is read with `weights_only`: nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from stages.core.files import write_bytes

_DIGEST = 64  # hex characters before the newline


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state; the file before becomes `<path>.previous`.

    Args:
        path: the file to write.
        state: tensors, numbers, strings, lists and dicts.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    if path.exists():
        os.replace(path, previous(path))
    write_bytes(path, hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read the newest undamaged state of `path` and `<path>.previous`.

    Returns:
        The state, its tensors on the CPU; None where there is none.
    """
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        data = candidate.read_bytes()
        payload = data[_DIGEST + 1 :]
        if hashlib.sha256(payload).hexdigest().encode() != data[:_DIGEST]:
            continue  # bit rot or a torn copy: the one before it loses one interval only
        return dict(torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True))
    return None


def previous(path: Path) -> Path:
    """Where the state before the last is kept."""
    return path.with_name(path.name + ".previous")
