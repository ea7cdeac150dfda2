"""The one training loop. A `Task` holds the networks and answers for the losses; `fit` counts images and keeps state.

Lazy regularisation is a phase with `every > 1`. Each update seeds torch from `(seed, images seen)` and batches are pure
functions of the image count. So a checkpoint needs no generator state, and a resumed training equals an uninterrupted
one bit for bit on a CPU (same torch, same instruction set, same thread count).

The batch of an update may be cut into P micro-batches: over the processes of a `torchrun`, and one after the other
within each process (`Train.accumulate`). Micro-batch p takes the rows ``p::P``, so that a discriminator's minibatch
groups, which lie N / G apart, stay whole. Each phase takes one optimiser step for all micro-batches. Every one of them
starts from the same random state and the same buffers; gradients and moved buffers become their means over all. So a
loss that is a mean over its pictures trains as with the whole batch in one piece, up to the rounding of sums.

What a loss must know of this it gets as an argument, `Update`. Networks and losses know nothing of processes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.files import write_bytes
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tracking import Silent
from stages.training import distributed
from stages.training.checkpoint import load_checkpoint, previous, save_checkpoint
from stages.training.draws import Draws
from stages.training.log import BrokenTraining, TrainingLog
from stages.training.signals import deferred

Batch = dict[str, Tensor]
MOST_ROLLBACKS = 3

# ---------------------------------------------------------------------------------------------------------------------
# What a training is made of


@dataclass
class Phase:
    """One optimiser step of an update.

    Args:
        name: which losses, as `Task.losses` knows them.
        params: what they train.
        optimizer: two phases may share one.
        every: updates from one such step to the next.
        chance: its loss where it answers 0 to every picture, of a discriminator that the log watches for it.
    """

    name: str
    params: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    every: int = 1
    chance: float | None = None


@dataclass
class Update:
    """What the loop hands to the losses of one micro-batch, from the first phase of an update to its last.

    Args:
        images: images seen before this update.
        draws: random numbers go through it, so that a micro-batch sees its rows of the whole batch's draws.
        memory: empty at the start of the update; what one phase leaves there, a later phase finds.
        together: the parts of the batch that are computed at the same time; None where there is one.
        means: what `Task.measures` gave, averaged over the whole batch; see `mean`.
    """

    images: int = 0
    draws: Draws = field(default_factory=Draws)
    memory: dict[str, Any] = field(default_factory=dict)
    together: distributed.Processes | None = None
    means: dict[str, Tensor] = field(default_factory=dict)

    def mean(self, name: str, value: Tensor) -> Tensor | None:
        """Mean of a statistic over the whole batch, without gradient.

        Args:
            name: as `Task.measures` calls it.
            value: of this micro-batch.

        Returns:
            The mean over all micro-batches; None where the batch is not cut, so that `value` says it all.
        """
        if self.draws.count == 1:
            return None
        if self.together is None or name in self.means:
            return self.means[name]
        return self.together.mean(value.detach())


class Task(nn.Module):
    """All networks of a training, its phases and its losses. Subclasses set `self.phases`."""

    phases: list[Phase]

    def losses(self, phase: str, batch: Batch, update: Update) -> dict[str, Tensor]:
        """The terms of a phase, whose sum is minimised.

        Args:
            phase: the name of one of `self.phases`.
            batch: this micro-batch, on the training's device.
            update: images seen, random draws, and the memory of this micro-batch.

        Returns:
            Weighted scalar terms, each a mean over the pictures of `batch`. A name starting with `_` is only logged. No
            terms at all leave the phase out of this update.
        """
        raise NotImplementedError

    def moved_buffers(self, phase: str) -> list[Tensor]:
        """The floating-point buffers that the losses of `phase` move: running means, estimates of spectral norms, sums.

        Losses move them in place. The loop starts every micro-batch from the same values and keeps the mean of where
        they end.
        """
        return []

    def measures(self, phase: str, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Scalars of which the losses of `phase` need the mean over the whole batch; they ask `Update.mean` for it.

        The loop calls it where a process computes several micro-batches, before the first one's losses and from the
        same random state. It must not move buffers.
        """
        return {}

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Move averages and controllers, once an update and after all phases.

        Args:
            images: seen by now.
            batch: images of the whole batch.

        Returns:
            Scalars to log. In every process this must do the same; moved buffers are means by now.
        """
        return {}

    def milestones(self, train: Train) -> list[int]:
        """Images seen at which `snapshot` is due."""
        return []

    def snapshot(self, images: int) -> None:
        """Called at each milestone, after `after_update`, in the first process: it may write files.

        A resumed training may call it again for the same milestone.
        """

    def lr_factor(self, images: int, total: int) -> float:
        """Factor on every learning rate after `images` of `total` images."""
        return 1.0

    def sample_spread(self) -> float | None:
        """How much samples differ from each other, in units of the pictures; None where that says nothing."""
        return None

    def preview(self) -> dict[str, np.ndarray]:
        """Sample sheets to keep: name -> uint8 [H, W, 3]. Called without gradients, in the first process."""
        return {}


class Batches(Protocol):
    """Training data as a pure function: the images `start .. start + count` of an endless, reproducible order.

    Which images these are, and which of them are mirrored, may depend on the whole batch. Pixels are made for the
    asked rows alone: on eight processes each decodes an eighth.
    """

    def __call__(self, start: int, count: int, rows: slice = slice(None)) -> Batch:
        """Some rows of a batch, bit for bit those of the whole batch.

        Args:
            start: images before this batch.
            count: images of the whole batch.
            rows: which of its rows to make.

        Returns:
            Tensors whose first axis has as many entries as `rows` takes.
        """
        ...


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def epoch_order(n: int, seed: int, start: int, count: int) -> np.ndarray:
    """Indices [count] of positions `start .. start + count` in an endless order that is shuffled anew every `n`."""
    positions = np.arange(start, start + count)
    return np.array([_permutation(n, seed, int(position // n))[position % n] for position in positions])


def mirrored(seed: int, start: int, count: int, rows: slice) -> np.ndarray:
    """Which of a batch's rows to mirror, half of them: bool, a function of the arguments alone."""
    chosen: np.ndarray = np.random.default_rng(update_seed(seed, start, "mirror")).random(count)[rows] < 0.5
    return chosen


def update_seed(seed: int, images: int, salt: str = "") -> int:
    """The seed of one update: 63 bits of a hash over the training's seed and the images seen."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{images}/{salt}".encode()).digest()[:8], "big") >> 1


# ---------------------------------------------------------------------------------------------------------------------
# The loop


def fit(
    task: Task,
    batches: Batches,
    *,
    train: Train,
    scratch: Path,
    runtime: Runtime,
    label: str,
    start: Path | None = None,
) -> None:
    """Train `task` on `train.images` images, resuming from `scratch/<label>.ckpt` where there is one.

    In a `torchrun` all processes call it alike, with one shared folder `scratch`; the first one alone writes and logs.
    Ctrl-C and SIGTERM end it after the update at work, with its state kept; SIGUSR1 keeps the state and goes on.
    However often it is stopped or killed, log and result are those of a training that was not.

    Args:
        task: networks, phases and losses.
        batches: the training data.
        train: length, batch size and learning rate.
        scratch: folder of the training state.
        runtime: device, threads and log.
        label: name of the training in files and logs.
        start: the state of a finished training (`keep_state`) to go on from, with its optimisers, buffers and images
            seen: as one training of `train.images` images in all.

    Raises:
        TristyleError: a loss is broken again after three rollbacks (the last good state stays on disk); `start` does
            not fit; the batch does not divide into micro-batches.
        SystemExit: a signal has asked it to stop; the state is kept.
    """
    device, first = _set_up(task, runtime), distributed.rank() == 0
    watched = {phase.name: phase.chance for phase in task.phases if phase.every == 1}
    log, path = TrainingLog(runtime.track if first else Silent(), label, watched), scratch / f"{label}.ckpt"

    # Resume. A state brings the learning rates of its own moment, so the full ones are noted before.
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in _optimizers(task)]
    images = _begin(path, start, task, train, log)
    milestones = task.milestones(train)
    with log.track.progress(label, train.images) as line, deferred() as stop:
        line.start(images)
        while images < train.images:
            _update(task, batches, images, train, rates, device, log)
            before, images = images, images + train.batch
            if first and any(before < milestone <= images for milestone in milestones):
                task.snapshot(images)
            asked = bool(stop) or stop.keep
            try:
                saving = _look(task, log, train, before, images, asked)
            except BrokenTraining as fault:
                images = _roll_back(fault, path, task, batches, train, log)
                continue
            if first and _preview_due(train, before, images):
                log.preview(task, images)
            if first and (saving or asked):
                _save(path, task, images, log)
                stop.kept()
            line.update(min(images, train.images))
            stop.obey(f"{label}: stopped after {images} images, which are kept. The same command goes on.")
    task.eval()


def _begin(path: Path, start: Path | None, task: Task, train: Train, log: TrainingLog) -> int:
    """Resume where there is a state, meet the other processes, cut the log; images seen so far."""
    distributed.barrier()  # a state that the first process was writing is complete
    images = _first_images(path, start, task, train, log)
    _meet(task, train, log.label, images)
    log.track.rewind(log.label, images)
    return images


def _preview_due(train: Train, before: int, images: int) -> bool:
    return images >= train.images or _crossed(train.preview_images, before, images)


def _look(task: Task, log: TrainingLog, train: Train, before: int, images: int, asked: bool) -> bool:
    """Log and watch the updates from `before` to `images`; whether a state is due.

    It comes before saving, so that a broken state is never kept. A state that is kept because somebody asked has the
    sums of the next line of the log in it.

    Raises:
        BrokenTraining: see `TrainingLog`.
    """
    saving = images >= train.images or _crossed(train.checkpoint_images, before, images)
    if saving or _crossed(max(train.batch, train.images // 200), before, images):
        log.write(images)
    elif asked:
        log.means(images)
    if saving:
        log.look(task, images)
    return saving


def _set_up(task: Task, runtime: Runtime) -> torch.device:
    """Meet the other processes, take the threads of this one, and move the task to its device."""
    distributed.start(runtime.device)
    device = torch.device(runtime.device)
    if device.type == "cpu":
        torch.set_num_threads(distributed.threads(runtime.workers))
    task.to(device).train()
    return device


def _crossed(every: int, before: int, images: int) -> bool:
    """Whether a multiple of `every` lies in (before, images]."""
    return images // every > before // every


def _optimizers(task: Task) -> list[torch.optim.Optimizer]:
    """The distinct optimisers in phase order (two phases may share one)."""
    return list({id(phase.optimizer): phase.optimizer for phase in task.phases}.values())


# ---------------------------------------------------------------------------------------------------------------------
# One update


def _update(
    task: Task,
    batches: Batches,
    images: int,
    train: Train,
    rates: list[list[float]],
    device: torch.device,
    log: TrainingLog,
) -> None:
    """One update after `images` images: every phase that is due, and what follows them.

    Args:
        task: networks, phases and losses.
        batches: the training data.
        images: seen so far.
        train: length and batch size.
        rates: full learning rates by optimiser and parameter group.
        device: where to compute.
        log: takes the terms and the task's state.
    """
    # Seed the update and set the learning rates: functions of the images seen.
    again = f"rollback {log.rollbacks}" if log.rollbacks else ""
    torch.manual_seed(update_seed(train.seed, images, again))
    factor = task.lr_factor(images, train.images)
    for optimizer, full in zip(_optimizers(task), rates, strict=True):
        for group, lr in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = lr * factor

    # Draw the batch: this process's micro-batches of it.
    parts: list[tuple[Batch, Update]] = []
    processes = distributed.Processes() if distributed.world() > 1 else None
    count = train.accumulate * distributed.world()
    for index in range(distributed.rank(), count, distributed.world()):
        made = batches(_place(images, train, log), train.batch, slice(index, None, count))
        batch = {name: value.to(device) for name, value in made.items()}
        parts.append((batch, Update(images, Draws(index, count), together=processes)))

    # One step of each phase.
    for phase in task.phases:
        if images // train.batch % phase.every == 0:
            log.add(phase.name, images, step(task, phase, parts))

    # Averages and controllers.
    log.state = task.after_update(images + train.batch, train.batch)


def _place(images: int, train: Train, log: TrainingLog) -> int:
    """Where in the endless order of the data an update starts: after a rollback, elsewhere."""
    return images + log.rollbacks * -(-train.images // train.batch) * train.batch


def step(task: Task, phase: Phase, parts: list[tuple[Batch, Update]]) -> list[dict[str, Tensor]]:
    """Take one optimiser step of `phase` on the means over all micro-batches.

    Returns:
        The terms of each of this process's micro-batches; none where the phase was left out.
    """
    rows: list[dict[str, Tensor]] = []
    count, cut = len(parts), parts[0][1].draws.count > 1
    with only(phase.params, list(task.parameters())):
        # Each micro-batch moves the buffers from the same start.
        buffers = task.moved_buffers(phase.name) if cut else []
        starts, ends = [value.clone() for value in buffers], [torch.zeros_like(value) for value in buffers]
        means = _measured(task, phase.name, parts) if count > 1 else {}

        for place, (batch, update) in enumerate(parts):
            update.means = means
            # The last micro-batch leaves torch's generator as a whole batch would.
            with _same_draws(batch) if place + 1 < count else nullcontext():
                terms = task.losses(phase.name, batch, update)
                if terms:
                    total = torch.stack([value for name, value in terms.items() if not name.startswith("_")]).sum()
                    (total / count).backward()
                    rows.append({name: value.detach() for name, value in terms.items()})
            with torch.no_grad():
                for value, begin, end in zip(buffers, starts, ends, strict=True):
                    end += value / count
                    value.copy_(begin)

        # Where the buffers ended, and the gradients: means over this process's micro-batches, then over all processes.
        with torch.no_grad():
            for value, end in zip(buffers, ends, strict=True):
                value.copy_(end)
        gradients = [parameter.grad for parameter in phase.params if parameter.grad is not None]
        distributed.average([*gradients, *buffers])
    if rows:
        phase.optimizer.step()
    phase.optimizer.zero_grad(set_to_none=True)  # one phase's gradients need not wait through the others
    return rows


def _measured(task: Task, phase: str, parts: list[tuple[Batch, Update]]) -> dict[str, Tensor]:
    """`Task.measures` of all micro-batches, averaged over them and over the processes."""
    found = []
    for batch, update in parts:
        with _same_draws(batch):
            found.append(task.measures(phase, batch, update))
    return {name: distributed.mean(torch.stack([row[name].detach() for row in found]).mean()) for name in found[0]}


def _same_draws(batch: Batch) -> AbstractContextManager[None]:
    """Within the context torch's generators go on; afterwards they are as they were."""
    device = next(iter(batch.values())).device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def only(params: list[nn.Parameter], everything: list[nn.Parameter]) -> Iterator[None]:
    """Within the block, gradients flow to `params` alone: no work is spent on the other network's weights."""
    wanted = {id(parameter) for parameter in params}
    before = [parameter.requires_grad for parameter in everything]
    for parameter in everything:
        parameter.requires_grad_(id(parameter) in wanted)
    try:
        yield
    finally:
        for parameter, value in zip(everything, before, strict=True):
            parameter.requires_grad_(value)


# ---------------------------------------------------------------------------------------------------------------------
# Training state


def keep_state(scratch: Path, label: str, path: Path) -> None:
    """Copy the state that a finished `fit` left in `scratch` to `path`, for another `fit` to start from."""
    write_bytes(path, (scratch / f"{label}.ckpt").read_bytes())


def _save(path: Path, task: Task, images: int, log: TrainingLog) -> None:
    optimizers = [optimizer.state_dict() for optimizer in _optimizers(task)]
    state = {"images": images, "task": task.state_dict(), "optimizers": optimizers}
    log.track.settle()
    save_checkpoint(path, state | log.state_dict())


def _resume(path: Path, task: Task, log: TrainingLog) -> int | None:
    """Load the state at `path` into the task, its optimisers and the log.

    Returns:
        Images seen by then; None where there is no state.

    Raises:
        TristyleError: there are states, but none is whole, or it does not fit.
    """
    # By way of the CPU, whatever the device: networks and optimisers take their tensors to where they compute, and
    # Adam's counts of steps must stay where it wants them (on a GPU, it would wait for each one of them).
    state = load_checkpoint(path)

    if state is None:
        if path.exists() or previous(path).exists():
            raise TristyleError(
                f"{path}: no whole training state is left. Restore it from a copy, or start anew with force=true."
            )
        return None

    try:
        log.resume(state, next(task.parameters()).device)
        task.load_state_dict(state["task"])
        for optimizer, saved in zip(_optimizers(task), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["images"])
    except (
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
    ):  # other networks, other frozen layers, another number of optimisers
        raise TristyleError(
            f"{path}: the training state in it does not fit these settings. Keep the networks, what is frozen and the "
            "regularisers as they were, or start without it."
        ) from None


def _roll_back(fault: BrokenTraining, path: Path, task: Task, batches: Batches, train: Train, log: TrainingLog) -> int:
    """Go back to the last good state and on from there with other batches and draws; images seen by then.

    Raises:
        BrokenTraining: there is no such state, or it did not help so many times.
    """
    again, start = log.rollbacks + 1, _place(fault.start, train, log)
    named = getattr(batches, "names", None)
    names = ", ".join(named(start, train.batch)) if named else f"images {start} to {start + train.batch - 1}"
    print(f"{log.label}: {fault.what}; the batch was {names}.", file=sys.stderr, flush=True)
    images = _resume(path, task, log) if again <= MOST_ROLLBACKS else None
    if images is None:
        raise fault

    log.rollbacks = again
    log.losing = dict.fromkeys(log.losing, 0)  # the state may be of the time when it had begun
    log.track.rewind(log.label, images)
    said = f"back to the state after {images} images, on with other batches ({again} of {MOST_ROLLBACKS})"
    print(f"{log.label}: {said}.", file=sys.stderr, flush=True)
    return images


def _first_images(path: Path, start: Path | None, task: Task, train: Train, log: TrainingLog) -> int:
    """Images seen so far: by this very training where it was stopped, else by the one that left the state `start`."""
    images = _resume(path, task, log)
    if images is None and start is not None:
        images = _resume(start, task, log)
        if images is None:
            raise TristyleError(f"{start}: no readable training state. Start from the networks alone.")
        if images >= train.images:
            raise TristyleError(
                f"{start}: has seen {images} images already. Set train.images above that; it counts from the beginning."
            )
    return images or 0


def _meet(task: Task, train: Train, label: str, images: int) -> None:
    """All processes start from the first one's weights, after as many images.

    Raises:
        TristyleError: the batch does not divide, or the processes have read different training states.
    """
    count = distributed.world() * train.accumulate
    if train.batch % count:
        raise TristyleError(
            f"{label}: train.batch={train.batch} does not divide among {distributed.world()} processes with "
            f"train.accumulate={train.accumulate}. Choose a multiple of {count}."
        )
    if distributed.first(images) != images:
        raise TristyleError(
            f"{label}: process {distributed.rank()} has read a training state of {images} images, the first process "
            "another. Give all machines one shared folder `out`."
        )
    distributed.broadcast([*task.parameters(), *task.buffers()])
