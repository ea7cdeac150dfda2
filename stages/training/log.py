"""What a training logs, and the watch over it: broken losses, spikes, collapse, a lopsided contest."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.settings import TristyleError
from stages.core.tracking import Tracker
from stages.training import distributed

LINES, FEWEST_LINES = 32, 10  # lines of the log that a loss is compared with
SPIKE, LEAST_SPIKE = 50.0, 5.0  # times the median of those lines; the least loss that counts
WON = 1e-3  # loss of a discriminator that makes no mistakes
# Times the loss of one that answers 0 to everything; in sound trainings the least of ten lines came to 0.79 of it.
OVERWHELMED = 1.1
COLLAPSED, LEAST_SPREAD = 0.1, 0.02  # share of the widest spread; the least spread that is one


class BrokenTraining(TristyleError):
    """A training that must not go on as it is.

    Attributes:
        what: the reason.
        start: images before the update that it may come from.
    """

    def __init__(self, label: str, what: str, images: int, start: int) -> None:
        super().__init__(
            f"{label}: {what} after {images} images. Lower the learning rate ({label}: train.lr), then run again; it "
            "resumes from the last good state."
        )
        self.what, self.start = what, start


def machine() -> dict[str, str]:
    """What a training's last bits depend on beside its settings."""
    threads = str(torch.get_num_threads())
    return {
        "torch": str(torch.__version__),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
    }


class TrainingLog:
    """Running means of the losses, kept on the device until they are written, and what else a training shows.

    Args:
        track: where the log goes.
        label: name of the training in it.
        watched: phases whose loss has a level that it keeps, each with its `Phase.chance`.
    """

    def __init__(self, track: Tracker, label: str, watched: Mapping[str, float | None] | None = None) -> None:
        self.track, self.label = track, label
        self.watched, self.said = watched or {}, set[str]()
        self.state: dict[str, float] = {}  # what `Task.after_update` gave last
        self.sums: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}
        self.recent: list[tuple[int, list[dict[str, Tensor]]]] = []  # the updates of the next line: start and terms
        self.history: dict[str, list[float]] = {}  # of each phase, its losses in the last lines
        self.spread = 0.0  # the widest that samples were
        self.rollbacks = 0
        self.losing: dict[str, int] = {}  # lines in a row that a discriminator, once ahead, was worse than chance

    def add(self, phase: str, images: int, rows: list[dict[str, Tensor]]) -> None:
        """Count the terms of one step after `images` images, a row for each micro-batch."""
        self.recent.append((images, rows))
        for row in rows:
            sums = self.sums.setdefault(phase, {})
            for name, value in row.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
            self.counts[phase] = self.counts.get(phase, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """What `resume` takes up, so that a stop changes neither log nor watch."""
        watch = [self.history, self.spread, self.rollbacks]
        return {"log": [self.sums, self.counts], "watch": watch, "losing": self.losing, "machine": machine()}

    def resume(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up the sums of a kept state; say where this machine is not the one that kept it."""
        sums, self.counts = state.get("log", [{}, {}])
        self.history, self.spread, self.rollbacks = state.get("watch", [{}, 0.0, 0])
        self.losing = state.get("losing", {})
        self.recent = []
        self.sums = {phase: {name: value.to(device) for name, value in row.items()} for phase, row in sums.items()}
        here, there = machine(), state.get("machine", {})
        if other := ", ".join(f"{name} {there[name]}" for name in here if there.get(name, here[name]) != here[name]):
            self._say(f"goes on from a state made with {other}; results may differ in their last bits")

    def means(self, images: int) -> dict[str, dict[str, float]]:
        """The means since the last line, over all processes.

        Raises:
            BrokenTraining: one is not finite.
        """
        names = [(phase, name) for phase, sums in self.sums.items() for name in sums]
        values = [float(self.sums[phase][name]) / self.counts[phase] for phase, name in names]
        means: dict[str, dict[str, float]] = {phase: {} for phase in self.sums}
        over_all = distributed.mean(torch.tensor(values, dtype=torch.float64))
        for (phase, name), value in zip(names, over_all.tolist(), strict=True):
            means[phase][name.lstrip("_")] = value

        for phase, terms in means.items():
            for name, value in terms.items():
                if not np.isfinite(value):
                    raise BrokenTraining(self.label, f"the loss {phase}/{name} is {value}", images, self._worst())
        return means

    def write(self, images: int) -> None:
        """Write the means since the last time.

        Raises:
            BrokenTraining: one is not finite, or far above what it was.
        """
        for phase, terms in self.means(images).items():
            self._watch(phase, sum(terms[name] for name in self.sums[phase] if not name.startswith("_")), images)
            self.track.scalars(f"{self.label}/{phase}", images, terms)
        if self.state:
            self.track.scalars(f"{self.label}/state", images, self.state)
        self.sums, self.counts, self.recent = {}, {}, []

    def _watch(self, phase: str, loss: float, images: int) -> None:
        """Compare a phase's loss with that of its last lines; regularisers, which grow from nothing, are left out."""
        known = self.history.setdefault(phase, [])
        usual = float(np.median(np.abs(known))) if len(known) >= FEWEST_LINES else math.inf
        if phase in self.watched and loss > max(SPIKE * usual, LEAST_SPIKE):
            what = f"the loss of {phase} is {loss:.3g}, and was {usual:.3g}"
            raise BrokenTraining(self.label, what, images, self._worst())
        self.history[phase] = [*known, float(loss)][-LINES:]

        self._watch_discriminator(phase, float(loss), images)

    def _watch_discriminator(self, phase: str, loss: float, images: int) -> None:
        """Say once that it has won; end with it where the generator overwhelms it.

        One that has won tells pictures apart without fault, and so teaches nothing. One that is overwhelmed was ahead,
        and is worse, line after line, than if it took no notice of the picture: the generator runs away from it.

        Raises:
            BrokenTraining: it is overwhelmed.
        """
        chance = self.watched.get(phase)
        if phase != "discriminator" and chance is None:
            return
        known = self.history[phase]
        last = known[-FEWEST_LINES:]
        begun = any(known)  # in a warm-up its loss is 0
        if begun and len(last) == FEWEST_LINES and 0 <= max(last) < WON and "won" not in self.said:
            self.said.add("won")
            self._say(f"the discriminator has won (its loss is {loss:.2g}); lower its rate, or give more pictures")

        if chance is None or not (loss < chance or phase in self.losing):
            return
        self.losing[phase] = self.losing.get(phase, 0) + 1 if loss > OVERWHELMED * chance else 0
        if self.losing[phase] >= FEWEST_LINES:
            what = f"the discriminator is overwhelmed (its loss is {loss:.3g}; a blind one's is {chance:.3g})"
            raise BrokenTraining(self.label, what, images, self._worst())

    def look(self, task: Any, images: int) -> None:
        """Compare how much samples differ with the most that they did.

        Raises:
            BrokenTraining: they hardly differ any more.
        """
        spread = task.sample_spread()
        if spread is None:
            return
        if spread < COLLAPSED * self.spread and self.spread > LEAST_SPREAD:
            raise BrokenTraining(self.label, "its samples hardly differ any more (collapse)", images, self._worst())
        self.spread = max(self.spread, spread)

    def _worst(self) -> int:
        """Images before the update whose losses were the largest since the last line, or the first not finite."""
        totals: dict[int, float] = {}
        for start, rows in self.recent:
            for row in rows:
                loss = sum(abs(float(value)) for name, value in row.items() if not name.startswith("_"))
                totals[start] = totals.get(start, 0.0) + (loss if math.isfinite(loss) else math.inf)
        return max(totals, key=lambda start: totals[start], default=0)

    def _say(self, words: str) -> None:
        print(f"{self.label}: {words}.", file=sys.stderr, flush=True)

    @torch.no_grad()
    def preview(self, task: Any, images: int) -> None:
        """Keep the task's sample sheets."""
        for name, sheet in task.preview().items():
            self.track.image(f"{self.label}-{name}", images, sheet)
