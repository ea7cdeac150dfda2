"""What a run leaves to look at: `log.jsonl` always, Weights & Biases when asked for, and progress on the console."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.files import append_jsonl, read_jsonl, sync_file, write_jsonl
from stages.core.images import write_image
from stages.core.mark import TRAINED

if TYPE_CHECKING:
    import numpy as np


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"


class Progress:
    """One line of progress: done / total, rate, time left, and the numbers shown last.

    On a terminal the line is redrawn in place; in a log file it is printed every ten seconds.
    """

    def __init__(self, label: str, total: int, unit: str = "images") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.begun, self.first, self.done, self.shown = time.monotonic(), 0, 0, 0.0
        self.terminal = sys.stderr.isatty()
        self.numbers = ""

    def start(self, done: int) -> None:
        """Say how much was done before this process (resume), so that rate and time left are its own."""
        self.first = self.done = done

    def update(self, done: int, **numbers: float) -> None:
        """Report that `done` of `total` are finished; `numbers` are shown behind the bar."""
        self.done = done
        if numbers:
            self.numbers = " ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        now = time.monotonic()
        if now - self.shown >= (0.2 if self.terminal else 10.0):
            self.shown = now
            self._print(end="" if self.terminal else "\n")

    def close(self) -> None:
        """Print the final line."""
        self._print(end="\n")

    def _print(self, end: str) -> None:
        elapsed = max(time.monotonic() - self.begun, 1e-6)
        rate = (self.done - self.first) / elapsed
        left = _duration((self.total - self.done) / rate) if rate > 0 and self.done < self.total else _duration(elapsed)
        filled = round(20 * self.done / max(self.total, 1))
        bar = "━" * filled + "╌" * (20 - filled)
        word = "left" if self.done < self.total else "in all"
        line = (
            f"{self.label:<16} {bar} {self.done}/{self.total} {self.unit}  {rate:.1f}/s  {left} {word}  {self.numbers}"
        )
        sys.stderr.write(f"\r\x1b[2K{line}{end}" if self.terminal else f"{line}{end}")
        sys.stderr.flush()


class Unseen(Progress):
    """A line of progress that is not printed."""

    def _print(self, end: str) -> None:
        pass


class Tracker:
    """Scalars and pictures of one stage, kept as files beside its artifact. Other trackers inherit from it.

    Args:
        out: the stage's artifact folder; scalars go to `out/log.jsonl`, pictures to `out/preview/`.
        name: the run's name on a dashboard.
        config: all settings of the stage, shown beside the run.
    """

    def __init__(self, out: Path, name: str = "", config: dict[str, Any] | None = None) -> None:
        self.out, self.name, self.config = out, name, config or {}

    def scalars(self, phase: str, images: int, values: dict[str, float]) -> None:
        """Append `values` of a training `phase` after `images` images."""
        row = {"phase": phase, "images": images, **{name: round(float(value), 6) for name, value in values.items()}}
        append_jsonl(self.out / "log.jsonl", row)

    def settle(self) -> None:
        """Wait until the disk has the log: before a state is kept that it belongs to."""
        sync_file(self.out / "log.jsonl")

    def rewind(self, label: str, images: int) -> None:
        """Forget what the training `label` logged after `images` images: it goes on from there and logs it again."""
        rows = read_jsonl(self.out / "log.jsonl", lenient=True)
        kept = [row for row in rows if not str(row.get("phase")).startswith(f"{label}/") or row["images"] <= images]
        if len(kept) < len(rows):
            write_jsonl(self.out / "log.jsonl", kept)

    def image(self, name: str, images: int, picture: np.ndarray) -> None:
        """Keep what a training paints (uint8 [H, W, 3]) as `preview/<name>_<images>.png`."""
        write_image(self.out / "preview" / f"{name}_{images:08d}.png", picture, TRAINED)

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "images") -> Iterator[Progress]:
        """A progress line for the body of a `with`."""
        line = Progress(label, total, unit)
        yield line
        line.close()

    def close(self, metrics: dict[str, float]) -> None:
        """Record the stage's final measures, and end the run on a dashboard."""


class WandbTracker(Tracker):
    """Weights & Biases beside the files, offline unless WANDB_MODE says otherwise.

    A dashboard that cannot be reached, or that fails, is named once; the training goes on with its files.

    Args:
        project: the project on the dashboard.
    """

    def __init__(
        self, out: Path, name: str = "", config: dict[str, Any] | None = None, project: str = "tristyle"
    ) -> None:
        super().__init__(out, name, config)
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._run: Any = None
        with self._optional():
            folder = out.parent.parent / "wandb_runs"
            folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(project=project, name=name, dir=str(folder), config=self.config, reinit="create_new")

    @contextmanager
    def _optional(self) -> Iterator[None]:
        """A fault within the block ends the dashboard, and nothing else."""
        try:
            yield
        except Exception as error:  # of the network, the disk, its server or itself
            self._run = None
            said = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"tracker: the dashboard is left ({said}). All of it stands in {self.out}.", file=sys.stderr)

    def scalars(self, phase: str, images: int, values: dict[str, float]) -> None:
        """Log `values` under the phase's name, in the file and on the dashboard."""
        super().scalars(phase, images, values)
        if self._run:
            with self._optional():
                row = {f"{phase}/{name}": value for name, value in values.items()}
                self._run.log(row | {f"{phase}/images": images})

    def image(self, name: str, images: int, picture: np.ndarray) -> None:
        """Keep a picture (uint8 [H, W, 3]) as a file and on the dashboard."""
        super().image(name, images, picture)
        if self._run:
            import wandb

            with self._optional():
                self._run.log({name: wandb.Image(picture)})

    def close(self, metrics: dict[str, float]) -> None:
        """Write the stage's measures into the run's summary and end it."""
        if self._run:
            with self._optional():
                self._run.summary.update(metrics)
                self._run.finish()


class Silent(Tracker):
    """Keeps nothing and prints nothing: for the processes of a training that only compute."""

    def __init__(self) -> None:
        super().__init__(Path())

    def scalars(self, phase: str, images: int, values: dict[str, float]) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing."""

    def rewind(self, label: str, images: int) -> None:
        """Nothing."""

    def image(self, name: str, images: int, picture: np.ndarray) -> None:
        """Nothing."""

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "images") -> Iterator[Progress]:
        """A progress line that is never printed."""
        yield Unseen(label, total, unit)
