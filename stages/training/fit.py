"""The one training loop. A `Task` holds the networks and answers for the losses; `fit` counts images and keeps state.

Lazy regularisation is a phase with `every > 1`. Each update seeds torch from `(seed, images seen)` and batches are pure
functions of the image count, so a checkpoint needs no generator state and a resumed training equals an uninterrupted
one bit for bit on CPU (same torch, same instruction set, same thread count).

An update's batch may be cut into micro-batches, over the processes of a `torchrun` and one after the other within each
(`Train.accumulate`). Each phase takes one optimiser step for all of them, every one of them starts from the same random
state and the same buffers, and gradients and moved buffers become their means over all of them. So a loss that is a
mean over its pictures trains as with the whole batch in one piece, up to the rounding of sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.files import write_bytes
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tracking import Silent, Tracker
from stages.training import distributed
from stages.training.checkpoint import load_checkpoint, save_checkpoint
from stages.training.signals import deferred


@dataclass
class Phase:
    """One optimiser step of an update: which losses (`name`), which parameters, and in every how-manieth update."""

    name: str
    params: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    every: int = 1


class Task(nn.Module):
    """All networks of a training, its phases and its losses. Subclasses set `self.phases`.

    What `losses` binds to an attribute in one phase (generated pictures) it finds there in a later phase of the same
    update, each micro-batch its own.
    """

    phases: list[Phase]

    def losses(self, phase: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted scalar terms of a phase; their sum is minimised. A name starting with `_` is only logged.

        Each term is a mean over the pictures of the batch, for `batch` may be one of several micro-batches, and random
        draws go through `distributed.own`. No terms at all leave the phase out of this update.
        """
        raise NotImplementedError

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Called once an update, after all phases, with the images seen by then: EMA, ADA. Returns scalars to log.

        `batch` is the whole batch. In every process it must do the same; buffers that losses move are means by now.
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

    def preview(self) -> dict[str, np.ndarray]:
        """Sample sheets to keep: name -> uint8 [H, W, 3]. Called without gradients, in the first process."""
        return {}


class Batches(Protocol):
    """Training data as a pure function: the images `start .. start + count` of an endless, reproducible order.

    Every process makes the whole batch and takes its rows: how a batch is drawn may depend on all of it, and to cut it
    out of memory costs little beside an update.
    """

    def __call__(self, start: int, count: int) -> dict[str, Tensor]:
        """Tensors whose first axis has `count` entries."""
        ...


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def epoch_order(n: int, seed: int, start: int, count: int) -> np.ndarray:
    """Indices [count] of positions `start .. start + count` in an endless order that is shuffled anew every `n`."""
    positions = np.arange(start, start + count)
    return np.array([_permutation(n, seed, int(position // n))[position % n] for position in positions])


def update_seed(seed: int, images: int, salt: str = "") -> int:
    """The seed of one update: 63 bits of a hash over the training's seed and the images seen."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{images}/{salt}".encode()).digest()[:8], "big") >> 1


@torch.no_grad()
def ema_update(ema: nn.Module, module: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * module for parameters; buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(module.parameters()), 1.0 - decay)
    for target, source in zip(ema.buffers(), module.buffers(), strict=True):
        target.copy_(source)


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


class _Means:
    """Running means of logged scalars, kept on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}

    def add(self, phase: str, values: dict[str, Tensor]) -> None:
        sums = self.sums.setdefault(phase, {})
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.detach()
        self.counts[phase] = self.counts.get(phase, 0) + 1

    def read(self) -> dict[str, dict[str, float]]:
        """Means since the last reading, over all processes: phase -> name -> value."""
        names = [(phase, name) for phase, sums in self.sums.items() for name in sums]
        values = [float(self.sums[phase][name]) / self.counts[phase] for phase, name in names]
        means: dict[str, dict[str, float]] = {phase: {} for phase in self.sums}
        for (phase, name), value in zip(
            names, distributed.mean(torch.tensor(values, dtype=torch.float64)), strict=True
        ):
            means[phase][name.lstrip("_")] = float(value)
        self.sums, self.counts = {}, {}
        return means


def _optimizers(task: Task) -> list[torch.optim.Optimizer]:
    """The distinct optimisers in phase order (two phases may share one)."""
    return list({id(phase.optimizer): phase.optimizer for phase in task.phases}.values())


def _save(path: Path, task: Task, images: int) -> None:
    optimizers = [optimizer.state_dict() for optimizer in _optimizers(task)]
    save_checkpoint(path, {"images": images, "task": task.state_dict(), "optimizers": optimizers})


def _resume(path: Path, task: Task) -> int | None:
    # By way of the CPU, whatever the device: networks and optimisers take their tensors to where they compute, and
    # Adam's counts of steps must stay where it wants them (on a GPU, it would wait for each one of them).
    state = load_checkpoint(path)
    if state is None:
        return None
    try:
        task.load_state_dict(state["task"])
        for optimizer, saved in zip(_optimizers(task), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["images"])
    except (KeyError, RuntimeError, ValueError):  # other networks, other frozen layers, another number of optimisers
        raise TristyleError(
            f"{path}: the training state in it does not fit these settings. Keep the networks, what is frozen and the "
            "regularisers as they were, or start without it."
        ) from None


def _first_images(path: Path, start: Path | None, task: Task, train: Train) -> int:
    """Images seen so far: by this very training where it was stopped, else by the one that left the state `start`."""
    images = _resume(path, task)
    if images is None and start is not None:
        images = _resume(start, task)
        if images is None:
            raise TristyleError(f"{start}: no readable training state. Start from the networks alone.")
        if images >= train.images:
            raise TristyleError(
                f"{start}: has seen {images} images already. Set train.images above that; it counts from the beginning."
            )
    return images or 0


def keep_state(scratch: Path, label: str, path: Path) -> None:
    """Copy the state that a finished `fit` left in `scratch` to `path`, for another `fit` to start from."""
    write_bytes(path, (scratch / f"{label}.ckpt").read_bytes())


class _MovedBuffers:
    """Floating-point buffers that a phase's losses move (running means, estimates of spectral norms).

    Each micro-batch moves them from the same start; what stays is the mean of the ends. Whether a buffer was moved is
    told by the tensor's version and not by its values, so that all processes agree on it.
    """

    def __init__(self, task: Task, count: int) -> None:
        self.task, self.count = task, count
        whole = distributed.world() * count == 1
        self.before = {} if whole else {name: (value, value._version) for name, value in self._buffers().items()}
        self.start = {name: value.clone() for name, value in self._buffers().items()} if count > 1 else {}
        self.ends: dict[str, Tensor] = {}

    def _buffers(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.task.named_buffers() if value.is_floating_point()}

    def _moved(self) -> dict[str, Tensor]:
        if not self.before:
            return {}
        old = self.before
        return {
            name: value
            for name, value in self._buffers().items()
            if value is not old[name][0] or value._version != old[name][1]
        }

    @torch.no_grad()
    def collect(self) -> None:
        """After a micro-batch: note where it moved the buffers, and put them back for the next one."""
        for name, value in self._moved().items() if self.count > 1 else ():
            self.ends[name] = self.ends.get(name, 0.0) + value / self.count
            value.copy_(self.start[name])

    @torch.no_grad()
    def settle(self) -> list[Tensor]:
        """After the last one: the moved buffers, each at the mean of this process's ends."""
        moved = self._moved()
        for name, end in self.ends.items():
            moved[name].copy_(end)
        return list(moved.values())


def _gradients(
    task: Task, phase: Phase, batches: list[dict[str, Tensor]], kept: list[dict[str, Any]]
) -> list[dict[str, Tensor]]:
    """Leave the gradients of one phase, means over the update's micro-batches, in its parameters.

    batches: this process's micro-batches; kept: the attributes that each of them has bound so far.
    Returns the terms of each micro-batch; no terms leave the phase out.
    """
    count, rows = len(batches), []
    buffers = _MovedBuffers(task, count)
    for place, batch in enumerate(batches):
        vars(task).update(kept[place])
        before = dict(vars(task))
        device = next(iter(batch.values())).device
        index = place * distributed.world() + distributed.rank()
        # all micro-batches draw from one state of the generators; the last one leaves them as a whole batch would
        draws = torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=place + 1 < count)
        with distributed.micro_batch(index, count * distributed.world()), draws:
            terms = task.losses(phase.name, batch)
            if terms:
                total = torch.stack([value for name, value in terms.items() if not name.startswith("_")]).sum()
                (total / count).backward()
                rows.append({name: value.detach() for name, value in terms.items()})
        kept[place] |= {name: value for name, value in vars(task).items() if value is not before.get(name)}
        buffers.collect()
    gradients = [parameter.grad for parameter in phase.params if parameter.grad is not None]
    distributed.average([*gradients, *buffers.settle()])
    return rows


def _update(task: Task, batches: list[dict[str, Tensor]], step: int, means: _Means) -> None:
    """All phases that are due in this update, each on all micro-batches of this process."""
    everything = list(task.parameters())
    kept: list[dict[str, Any]] = [{} for _ in batches]
    for phase in task.phases:
        if step % phase.every:
            continue
        with only(phase.params, everything):
            rows = _gradients(task, phase, batches, kept)
        for terms in rows:
            means.add(phase.name, terms)
        if rows:
            phase.optimizer.step()
        phase.optimizer.zero_grad(set_to_none=True)  # one phase's gradients need not wait through the others


def _own_rows(batch: dict[str, Tensor], accumulate: int, device: torch.device) -> list[dict[str, Tensor]]:
    """This process's micro-batches of a whole batch, on `device`."""
    count = accumulate * distributed.world()

    def rows(value: Tensor, index: int) -> Tensor:
        channels_last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return value if count == 1 else value[index::count].contiguous(memory_format=layout)

    places = [place * distributed.world() + distributed.rank() for place in range(accumulate)]
    return [{name: rows(value, index).to(device) for name, value in batch.items()} for index in places]


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
    Ctrl-C and SIGTERM end it after the update at work, with its state kept (SystemExit).

    Args:
        start: the state of a finished training (`keep_state`) to go on from, with its optimisers, buffers and images
            seen: as one training of `train.images` images in all.

    Raises:
        TristyleError: a loss is no longer finite (the last good state stays on disk); `start` does not fit; the batch
            does not divide into micro-batches.
    """
    distributed.start(runtime.device)
    device = torch.device(runtime.device)
    if device.type == "cpu":
        torch.set_num_threads(distributed.threads(runtime.workers))
    task.to(device).train()
    writes = distributed.rank() == 0
    track = runtime.track if writes else Silent()
    path = scratch / f"{label}.ckpt"
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in _optimizers(task)]
    distributed.barrier()  # a state that the first process was writing is complete
    images, means = _first_images(path, start, task, train), _Means()
    _meet(task, train, label, images)
    milestones = task.milestones(train)
    log_every = max(train.batch, train.images // 200)
    with track.progress(label, train.images) as line, deferred() as stop:
        line.start(images)
        while images < train.images:
            torch.manual_seed(update_seed(train.seed, images))
            for optimizer, lrs in zip(_optimizers(task), rates, strict=True):
                for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                    group["lr"] = lr * task.lr_factor(images, train.images)
            own = _own_rows(batches(images, train.batch), train.accumulate, device)
            _update(task, own, images // train.batch, means)
            before, images = images, images + train.batch
            state = task.after_update(images, train.batch)
            if writes and any(before < milestone <= images for milestone in milestones):
                task.snapshot(images)

            def due(every: int, before: int = before, images: int = images) -> bool:
                return images >= train.images or images // every > before // every

            saving = bool(stop) or due(train.checkpoint_images)
            if saving or due(log_every):  # before saving, so that a state with a broken loss is never kept
                _log(track, label, images, means.read(), state)
            if writes and due(train.preview_images):
                _preview(task, track, label, images)
            if writes and saving:
                _save(path, task, images)
            line.update(min(images, train.images))
            stop.obey(f"{label}: stopped after {images} images, which are kept. The same command goes on.")
    task.eval()


@torch.no_grad()
def _preview(task: Task, track: Tracker, label: str, images: int) -> None:
    for name, sheet in task.preview().items():
        track.image(f"{label}-{name}", images, sheet)


def _log(track: Tracker, label: str, images: int, means: dict[str, dict[str, float]], state: dict[str, float]) -> None:
    for phase, values in means.items():
        for name, value in values.items():
            if not np.isfinite(value):
                raise TristyleError(
                    f"{label}: the loss {phase}/{name} is {value} after {images} images. Lower the learning rate "
                    f"({label}: train.lr), then run again; it resumes from the last good state."
                )
        track.scalars(f"{label}/{phase}", images, values)
    if state:
        track.scalars(f"{label}/state", images, state)
