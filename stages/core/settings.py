"""What may be configured, and the one-line refusals. Neither torch nor Hydra is imported here."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


class TristyleError(Exception):
    """A mistake the user can mend. The message is one line and names the file or key and the remedy; exit code 2."""


class ConfigError(TristyleError):
    """A configuration value out of range. `stages/pipeline` puts the full path (`style.train.lr`) before `key`."""

    def __init__(self, key: str, problem: str, remedy: str) -> None:
        end = "" if remedy.endswith((".", "?", "!")) else "."
        super().__init__(f"{key}: {problem}. {remedy}{end}")
        self.key, self.problem, self.remedy = key, problem, remedy

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str, str]]:
        """Pickled by its parts, so that it crosses from a worker process whole."""
        return type(self), (self.key, self.problem, self.remedy)


def check_methods(key: str, value: Any, protocol: type) -> None:
    """Refuse an object that lacks a method of a protocol: before a stage runs, not in the middle of it.

    Args:
        key: the setting that holds it.
        value: an object of a class that a yaml named.
        protocol: a `typing.Protocol`; its public functions are asked for.

    Raises:
        ConfigError: names the methods that are missing.
    """
    asked = [name for name, member in vars(protocol).items() if callable(member) and not name.startswith("_")]
    lacking = [name for name in asked if not callable(getattr(value, name, None))]
    if lacking:
        problem = f"{type(value).__name__} lacks {', '.join(lacking)}"
        raise ConfigError(key, problem, f"Add what {protocol.__name__} in {protocol.__module__} asks for")


def number(
    key: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    integer: bool = False,
    open_low: bool = False,
) -> None:
    """Refuse what is not a finite number in [low, high] (or (low, high] with `open_low`).

    Args:
        key: the setting, for the message.
        value: what was given.
        low: least value; None for no bound.
        high: greatest value; None for no bound.
        integer: only whole numbers.
        open_low: `low` itself is out of range.

    Raises:
        ConfigError: wrong type, NaN, infinite or out of range.
    """
    kind = "a whole number" if integer else "a number"
    bounds = f"from {low} to {high}" if high is not None and low is not None else f"of at least {low}"
    if open_low:
        bounds = f"above {low}" + (f" and at most {high}" if high is not None else "")
    remedy = f"Give {kind}" + (f" {bounds}" if low is not None else "")
    wrong_type = isinstance(value, bool) or not isinstance(value, int if integer else (int, float))
    if wrong_type or not math.isfinite(value):
        raise ConfigError(key, f"{value!r} is not {kind}", remedy)
    too_low = low is not None and (value <= low if open_low else value < low)
    if too_low or (high is not None and value > high):
        raise ConfigError(key, f"{value!r} is out of range", remedy)


def choice(key: str, value: Any, options: Collection[Any]) -> None:
    """Refuse a value that is not one of `options`.

    Raises:
        ConfigError: names the options.
    """
    if value not in options:
        raise ConfigError(key, f"{value!r} is unknown", f"Choose one of: {', '.join(map(str, options))}")


def image_size(key: str, value: Any, low: int = 32, high: int = 1024) -> None:
    """Refuse a picture size that is not a power of two in [low, high] px.

    Raises:
        ConfigError: wrong type, out of range, or not a power of two.
    """
    number(key, value, low, high, integer=True)
    if value & (value - 1):
        above = 1 << value.bit_length()
        raise ConfigError(key, f"{value} is not a power of two", f"Choose {above // 2} or {above}")


@dataclass(kw_only=True)
class Train:
    """Length and pace of one training. Lengths count images, not steps.

    Args:
        images: real images shown in all.
        batch: images per update, over all processes and micro-batches.
        lr: Adam's learning rate.
        checkpoint_images: images between two training states on disk; a kill loses at most that much.
        preview_images: images between two sample sheets.
        accumulate: micro-batches that a process cuts its share of the batch into, one after the other, to need less
            memory; the gradients are those of the whole batch.
        seed: seeds the weights and, with the images seen, every update.
    """

    images: int
    batch: int
    lr: float
    seed: int = 0
    checkpoint_images: int = 2000
    preview_images: int = 2000
    accumulate: int = 1

    def __post_init__(self) -> None:
        number("images", self.images, 1, integer=True)
        number("batch", self.batch, 1, 4096, integer=True)
        number("lr", self.lr, 0, 1, open_low=True)
        number("seed", self.seed, 0, integer=True)
        number("checkpoint_images", self.checkpoint_images, 1, integer=True)
        number("preview_images", self.preview_images, 1, integer=True)
        number("accumulate", self.accumulate, 1, integer=True)
        if self.batch % self.accumulate:
            problem = f"a batch of {self.batch} does not divide into {self.accumulate} micro-batches"
            raise ConfigError("accumulate", problem, "Choose a divisor of train.batch")
