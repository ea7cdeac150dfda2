"""What a stage needs to know of the machine. None of it changes results, so none of it enters an artifact's key."""

from __future__ import annotations

from dataclasses import dataclass

from stages.tracking import Tracker


@dataclass
class Runtime:
    """Device name for torch (`cpu`, `cuda`), worker processes or threads, and the tracker of the stage at work.

    `part` is how much of a stage that writes in shards this process does: None for all of it, `train` for what comes
    before the shards, a number for that shard alone.
    """

    device: str
    workers: int
    track: Tracker
    part: str | None = None
