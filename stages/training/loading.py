"""Training pictures as they are needed: decoded when a batch asks for them, kept while they fit, read ahead.

A process asks for the rows of a batch that are its own. So the processes of a torchrun decode a picture once in all,
however many they are, and share one allowance of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from stages.training import distributed
from stages.training.fit import Batches

IN_MEMORY = 2 << 30  # bytes of decoded pictures that the processes of a training keep in all


class Indexed(Protocol):
    """Pictures of one size that an index array picks: an array, or what reads them from disk."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""

    def __getitem__(self, which: Any) -> np.ndarray: ...


class Allowance:
    """Bytes that this process may still keep, for all sets of pictures of a training together.

    Args:
        most: bytes of all processes.
    """

    def __init__(self, most: int = IN_MEMORY) -> None:
        self.left = most // distributed.world()

    def take(self, size: int) -> bool:
        """Take `size` bytes; False where there are not so many."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Kept:
    """Pictures that are read when they are first asked for, and kept as far as the allowance goes.

    What was read last is at hand in any case, so that what is derived from it does not read it again.

    Args:
        source: what reads them; uint8 [N, H, W, 3] or [N, H, W].
        allowance: of memory.
    """

    def __init__(self, source: Indexed, allowance: Allowance) -> None:
        self.source, self.allowance = source, allowance
        self._kept: dict[int, np.ndarray] = {}
        self._last: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self.source.shape

    def __getitem__(self, which: Any) -> np.ndarray:
        """Pictures by slice or index array, as a new array."""
        numbers = [int(number) for number in np.arange(len(self))[which]]
        missing = sorted({number for number in numbers if number not in self._kept and number not in self._last})
        found = dict(zip(missing, self.source[np.array(missing)], strict=True)) if missing else {}

        # a copy each: a view would keep all pictures of its batch alive
        for number, picture in found.items():
            if self.allowance.take(picture.nbytes):
                self._kept[number] = picture.copy()

        places = (self._kept, found, self._last)
        self._last = {number: next(place[number] for place in places if number in place) for number in numbers}
        return np.stack([self._last[number] for number in numbers])


class Derived:
    """Pictures that are made of others when they are asked for.

    Args:
        function: uint8 [n, H, W, 3] -> as many pictures.
        pictures: what they are made of.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], pictures: Indexed) -> None:
        self.function, self.pictures = function, pictures

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self.pictures.shape

    def __getitem__(self, which: Any) -> np.ndarray:
        """Pictures by slice or index array."""
        return self.function(self.pictures[which])


def read_ahead(batches: Batches) -> Batches:
    """The same batches; a thread reads the next ones while the training is at these.

    Rows asked for now will be asked for in the next batch, too: several parts of a batch are read ahead one by one.
    """
    pool, ahead = ThreadPoolExecutor(1), dict[tuple[Any, ...], Future[dict[str, Tensor]]]()

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        part = count, rows.start, rows.stop, rows.step
        found = ahead.pop((start, *part), None) or pool.submit(batches, start, count, rows)
        for stale in [key for key in ahead if key[0] not in (start, start + count)]:
            del ahead[stale]
        ahead[start + count, *part] = pool.submit(batches, start + count, count, rows)
        return found.result()

    return batch
