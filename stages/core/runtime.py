"""What a stage needs to know of the machine. None of it changes results, so none of it enters an artifact's key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stages.core.tracking import Tracker


@dataclass
class Runtime:
    """What a stage may use of the machine.

    Attributes:
        device: for torch, `cpu` or `cuda` with or without a number.
        workers: processes or threads, at least 1.
        track: the tracker of the stage at work.
        part: how much of a stage in shards this process does: None for all of it, `train` for what comes before the
            shards, a number for that shard alone.
    """

    device: str
    workers: int
    track: Tracker
    part: str | None = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread within the block: how many there are changes how sums are rounded, hence the bytes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
