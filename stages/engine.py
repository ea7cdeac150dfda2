"""The one training loop. A `Task` holds the networks and answers for the losses; `fit` counts images and keeps state.

Lazy regularisation is a phase with `every > 1`. Each update seeds torch from `(seed, images seen)` and batches are pure
functions of the image count, so a checkpoint needs no generator state and a resumed training equals an uninterrupted
one bit for bit on CPU (same torch, same instruction set, same thread count).
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

from stages.checkpoint import load_checkpoint, save_checkpoint
from stages.config import Train, TristyleError
from stages.io import write_bytes
from stages.runtime import Runtime


@dataclass
class Phase:
    """One optimiser step of an update: which losses (`name`), which parameters, and in every how-manieth update."""

    name: str
    params: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    every: int = 1


class Task(nn.Module):
    """All networks of a training, its phases and its losses. Subclasses set `self.phases`."""

    phases: list[Phase]

    def losses(self, phase: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted scalar terms of a phase; their sum is minimised. A name starting with `_` is only logged.

        No terms at all leave the phase out of this update.
        """
        raise NotImplementedError

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Called once an update, after all phases, with the images seen by then: EMA, ADA. Returns scalars to log."""
        return {}

    def milestones(self, train: Train) -> list[int]:
        """Images seen at which `snapshot` is due."""
        return []

    def snapshot(self, images: int) -> None:
        """Called at each milestone, after `after_update`. A resumed training may call it again for the same one."""

    def lr_factor(self, images: int, total: int) -> float:
        """Factor on every learning rate after `images` of `total` images."""
        return 1.0

    def preview(self) -> dict[str, np.ndarray]:
        """Sample sheets to keep: name -> uint8 [H, W, 3]. Called without gradients."""
        return {}


class Batches(Protocol):
    """Training data as a pure function: the images `start .. start + count` of an endless, reproducible order."""

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
        means = {
            phase: {name.lstrip("_"): float(value) / self.counts[phase] for name, value in sums.items()}
            for phase, sums in self.sums.items()
        }
        self.sums, self.counts = {}, {}
        return means


def _optimizers(task: Task) -> list[torch.optim.Optimizer]:
    """The distinct optimisers in phase order (two phases may share one)."""
    return list({id(phase.optimizer): phase.optimizer for phase in task.phases}.values())


def _save(path: Path, task: Task, images: int) -> None:
    optimizers = [optimizer.state_dict() for optimizer in _optimizers(task)]
    save_checkpoint(path, {"images": images, "task": task.state_dict(), "optimizers": optimizers})


def _resume(path: Path, task: Task, device: torch.device) -> int | None:
    state = load_checkpoint(path, device)
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


def _first_images(path: Path, start: Path | None, task: Task, train: Train, device: torch.device) -> int:
    """Images seen so far: by this very training where it was stopped, else by the one that left the state `start`."""
    images = _resume(path, task, device)
    if images is None and start is not None:
        images = _resume(start, task, device)
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


def _update(task: Task, batch: dict[str, Tensor], step: int, means: _Means) -> None:
    """All phases that are due in this update."""
    everything = list(task.parameters())
    for phase in task.phases:
        if step % phase.every:
            continue
        phase.optimizer.zero_grad(set_to_none=True)
        with only(phase.params, everything):
            terms = task.losses(phase.name, batch)
            if not terms:
                continue
            total = torch.stack([value for name, value in terms.items() if not name.startswith("_")]).sum()
            total.backward()
        means.add(phase.name, terms)
        phase.optimizer.step()


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

    Args:
        start: the state of a finished training (`keep_state`) to go on from, with its optimisers, buffers and images
            seen: as one training of `train.images` images in all.

    Raises:
        TristyleError: a loss is no longer finite (the last good state stays on disk); `start` does not fit.
    """
    device = torch.device(runtime.device)
    if device.type == "cpu":
        torch.set_num_threads(max(runtime.workers, 1))
    task.to(device).train()
    path = scratch / f"{label}.ckpt"
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in _optimizers(task)]
    images, means = _first_images(path, start, task, train, device), _Means()
    milestones = task.milestones(train)
    log_every = max(train.batch, train.images // 200)
    with runtime.track.progress(label, train.images) as line:
        line.start(images)
        while images < train.images:
            torch.manual_seed(update_seed(train.seed, images))
            for optimizer, lrs in zip(_optimizers(task), rates, strict=True):
                for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                    group["lr"] = lr * task.lr_factor(images, train.images)
            batch = {name: value.to(device) for name, value in batches(images, train.batch).items()}
            _update(task, batch, images // train.batch, means)
            before, images = images, images + train.batch
            state = task.after_update(images, train.batch)
            if any(before < milestone <= images for milestone in milestones):
                task.snapshot(images)

            def due(every: int, before: int = before, images: int = images) -> bool:
                return images >= train.images or images // every > before // every

            saving = due(train.checkpoint_images)
            if saving or due(log_every):  # before saving, so that a state with a broken loss is never kept
                _log(runtime, label, images, means.read(), state)
            if due(train.preview_images):
                with torch.no_grad():
                    for name, sheet in task.preview().items():
                        runtime.track.image(f"{label}-{name}", images, sheet)
            if saving:
                _save(path, task, images)
            line.update(min(images, train.images))
    task.eval()


def _log(
    runtime: Runtime, label: str, images: int, means: dict[str, dict[str, float]], state: dict[str, float]
) -> None:
    for phase, values in means.items():
        for name, value in values.items():
            if not np.isfinite(value):
                raise TristyleError(
                    f"{label}: the loss {phase}/{name} is {value} after {images} images. Lower the learning rate "
                    f"({label}: train.lr), then run again; it resumes from the last good state."
                )
        runtime.track.scalars(f"{label}/{phase}", images, values)
    if state:
        runtime.track.scalars(f"{label}/state", images, state)
